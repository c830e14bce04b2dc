//! Object sets and the block trees of objects.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use pool_phys::blkptr::{self, BlockPointer};
use pool_phys::dnode::{self, Dnode};
use pool_phys::objset::{Objset, ObjsetKind};
use pool_phys::FormatError;
use pool_phys::zap::Entry;
use pool_spa::{Pool, Scrubbed};

use crate::Error;
use crate::edit::{COMPLETE_OBJECTS, COMPLETE_PROJECTS, COMPLETE_SPACE};
use crate::owned::Holder;

/// An open object set.
#[derive(Debug)]
pub struct ObjectSet<'p> {
    pool: &'p Pool,
    objset: Objset,
}

impl<'p> ObjectSet<'p> {
    /// Opens the object set that `root` points to.
    ///
    /// # Errors
    /// Unreadable or malformed; [`Error::NotFound`] for a hole (the datasets `$ORIGIN` and `$MOS` have none).
    pub fn open(pool: &'p Pool, root: &BlockPointer) -> Result<Self, Error> {
        if root.is_hole() {
            return Err(Error::NotFound);
        }
        let objset = Objset::parse(&pool.read(root)?)?;
        Ok(Self { pool, objset })
    }

    /// Opens the pool's own object set (the MOS).
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn mos(pool: &'p Pool) -> Result<Self, Error> {
        Self::open(pool, &pool.uberblock().root)
    }

    /// What lives here.
    #[must_use]
    pub const fn kind(&self) -> ObjsetKind {
        self.objset.kind
    }

    /// True if an intent log waits for replay: the newest synchronous writes are not in the blocks yet.
    #[must_use]
    pub const fn log_pending(&self) -> bool {
        self.objset.log_pending
    }

    /// The pool below.
    #[must_use]
    pub const fn pool(&self) -> &'p Pool {
        self.pool
    }

    /// What users, groups or projects have is counted: bytes, or `objects`.
    #[must_use]
    pub const fn counts(&self, holder: Holder, objects: bool) -> bool {
        let all = match (holder, objects) {
            (Holder::Project, _) => COMPLETE_PROJECTS,
            (_, true) => COMPLETE_OBJECTS,
            (_, false) => COMPLETE_SPACE,
        };
        self.objset.flags & all != 0
    }

    /// Calls `visit` with the entries of the table of what users, groups or projects have; there may be no table.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub(crate) fn each_account(&self, holder: Holder, visit: &mut dyn FnMut(Entry)) -> Result<(), Error> {
        let Some(dnode) = &self.objset.accounts[holder as usize] else { return Ok(()) };
        let mut object = Object::new(self.pool, dnode.clone());
        // One that nothing was ever charged to has no block.
        if object.gap(0)?.is_some() { Ok(()) } else { crate::zap::each(&mut object, &mut |_, entry| visit(entry)) }
    }

    /// Opens object `number`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a free number; unreadable or malformed.
    pub fn object(&self, number: u64) -> Result<Object<'p>, Error> {
        let mut meta = self.meta();
        let at = number.checked_mul(dnode::SLOT as u64).ok_or(Error::NotFound)?;
        let (block, offset) = (at / meta.dnode.block_size, at % meta.dnode.block_size);
        if number == 0 || block > meta.dnode.last_block {
            return Err(Error::NotFound);
        }
        let data = meta.shared_block(block)?.ok_or(Error::NotFound)?;
        let offset = usize::try_from(offset).map_err(|_| Error::NotFound)?;
        // Interior slots of a large dnode are refused by whoever names one: nothing on disk points there.
        let dnode = Dnode::parse(data.get(offset..).ok_or(Error::NotFound)?)?.ok_or(Error::NotFound)?;
        Ok(Object::new(self.pool, dnode))
    }

    /// The meta-dnode as an object: its data is the array of dnodes.
    #[must_use]
    pub fn meta(&self) -> Object<'p> {
        Object { pool: self.pool, dnode: self.objset.meta.clone(), path: Vec::new() }
    }

    /// Calls `visit` with the number and dnode of every allocated object, in order.
    ///
    /// # Errors
    /// The first unreadable or malformed dnode block, or what `visit` returns.
    pub fn for_each(&self, mut visit: impl FnMut(u64, &Dnode) -> Result<(), Error>) -> Result<(), Error> {
        let mut meta = self.meta();
        let per_block = meta.dnode.block_size / dnode::SLOT as u64;
        // A hostile tree may reach one block in 2^60 ways; a pool has room for so many only.
        let mut left = self.pool.room() / meta.dnode.block_size.max(1) * 64 + 64;
        // Nor does it have many holes: they are found one by one, where a whole subtree is none.
        let mut gaps = 0_u64;
        let mut block = 0;
        while block <= meta.dnode.last_block {
            if let Some(next) = meta.gap(block)? {
                block = next;
                gaps += 1;
                if gaps.is_multiple_of(64) {
                    left = left.checked_sub(1).ok_or(FormatError::new("object set", "has more holes than the pool has room", block))?;
                }
                continue;
            }
            left = left.checked_sub(1).ok_or(FormatError::new("object set", "has more dnode blocks than the pool has room", block))?;
            let data = meta.block(block)?;
            let mut slot = 0;
            while slot < per_block {
                let at = usize::try_from(slot).unwrap_or(0) * dnode::SLOT;
                slot += match Dnode::parse(&data[at..])? {
                    Some(dnode) => {
                        visit(block.saturating_mul(per_block).saturating_add(slot), &dnode)?;
                        dnode.slots as u64
                    }
                    None => 1,
                };
            }
            block += 1;
        }
        Ok(())
    }

    /// Reads every copy of every block of this object set on its own, as a scrub does, and calls `tally` with each block
    /// and what was found. The object set's own root block is left to the caller.
    ///
    /// # Errors
    /// A block without any good copy ends the walk of its subtree only through `tally`; malformed structures end it all.
    pub fn verify(&self, tally: &mut dyn FnMut(&BlockPointer, Scrubbed)) -> Result<(), Error> {
        for pointer in &self.objset.meta.pointers {
            self.verify_tree(pointer, tally)?;
        }
        self.for_each(|_, dnode| {
            for pointer in dnode.pointers.iter().chain(dnode.spill.as_ref()) {
                self.verify_tree(pointer, tally)?;
            }
            Ok(())
        })
    }

    fn verify_tree(&self, pointer: &BlockPointer, tally: &mut dyn FnMut(&BlockPointer, Scrubbed)) -> Result<(), Error> {
        if pointer.is_hole() {
            return Ok(());
        }
        tally(pointer, self.pool.verify(pointer)?);
        if pointer.level > 0 {
            // Unreadable on every copy: tallied above, its subtree cannot be reached.
            let Ok(data) = self.pool.read_shared(pointer) else { return Ok(()) };
            for child in blkptr::below(pointer.level, &data) {
                self.verify_tree(&child?.1, tally)?;
            }
        }
        Ok(())
    }
}

/// A part of an object that changed: one block, or a hole of several.
#[derive(Clone, Debug)]
pub struct Changed {
    pub first: u64,
    pub count: u64,
    pub pointer: BlockPointer,
}

/// An open object: a cursor over its blocks.
#[derive(Debug)]
pub struct Object<'p> {
    pool: &'p Pool,
    dnode: Dnode,
    /// Indirect blocks followed last, topmost first: (level, index of the block at that level, contents).
    path: Vec<(u8, u64, Arc<Vec<u8>>)>,
}

impl<'p> Object<'p> {
    pub(crate) const fn new(pool: &'p Pool, dnode: Dnode) -> Self {
        Self { pool, dnode, path: Vec::new() }
    }

    /// Its dnode.
    #[must_use]
    pub const fn dnode(&self) -> &Dnode {
        &self.dnode
    }

    /// The pointer of data block `number`; a hole past the end and under holes.
    ///
    /// # Errors
    /// An indirect block on the way is unreadable or malformed.
    pub fn pointer(&mut self, number: u64) -> Result<BlockPointer, Error> {
        self.descend(number).map(|(pointer, _)| pointer)
    }

    /// If block `number` is a hole: the first block after the hole, as far as one indirect block tells.
    ///
    /// # Errors
    /// As [`Object::pointer`].
    pub fn gap(&mut self, number: u64) -> Result<Option<u64>, Error> {
        let (pointer, level) = self.descend(number)?;
        if !pointer.is_hole() {
            return Ok(None);
        }
        let shift = (self.dnode.indirect_shift - 7) * u32::from(level);
        let span = 1_u64.checked_shl(shift).unwrap_or(u64::MAX);
        Ok(Some((number / span).saturating_add(1).saturating_mul(span)))
    }

    /// The end of the largest subtree beginning with block `number` whose blocks count `each` entries apiece: `None`, that block has fewer.
    ///
    /// # Errors
    /// As [`Object::pointer`].
    pub(crate) fn full_to(&mut self, number: u64, each: u64) -> Result<Option<u64>, Error> {
        let fan_bits = self.dnode.indirect_shift - 7;
        let is_full = move |pointer: &BlockPointer, level: u8| {
            let bits = fan_bits * u32::from(level);
            let begins = bits < 48 && number.trailing_zeros() >= bits;
            begins && !pointer.is_hole() && pointer.fill == each << bits
        };
        let (pointer, level) = self.descend_until(number, &is_full)?;
        Ok(is_full(&pointer, level).then(|| number + (1 << (fan_bits * u32::from(level)))))
    }

    /// The next part, from block `first` on, that is not known to be as it was in txg `since`: a block born later, or a hole that is younger or does not say
    /// how old it is. Subtrees that are older are not read. `None`: no more up to the last block.
    ///
    /// # Errors
    /// As [`Object::pointer`].
    pub fn next_change(&mut self, first: u64, since: u64) -> Result<Option<Changed>, Error> {
        let mut number = first;
        while number <= self.dnode.last_block {
            let (pointer, level) = self.descend_since(number, since)?;
            let bits = (self.dnode.indirect_shift - 7) * u32::from(level);
            let next = if bits >= 63 { u64::MAX } else { (number >> bits).saturating_add(1).saturating_mul(1 << bits) };
            let next = next.min(self.dnode.last_block.saturating_add(1));
            let is_old = pointer.birth <= since && !(pointer.is_hole() && pointer.birth == 0);
            if !is_old {
                return Ok(Some(Changed { first: number, count: next - number, pointer }));
            }
            number = next;
        }
        Ok(None)
    }

    /// The pointer of data block `number`, or the hole that it lies in, with its level.
    fn descend(&mut self, number: u64) -> Result<(BlockPointer, u8), Error> {
        self.descend_since(number, 0)
    }

    /// The same, ending where a subtree is not younger than `since`.
    fn descend_since(&mut self, number: u64, since: u64) -> Result<(BlockPointer, u8), Error> {
        self.descend_until(number, &|pointer, _| pointer.birth <= since)
    }

    /// The same, ending at the first pointer that `is_end` says so of.
    fn descend_until(&mut self, number: u64, is_end: &dyn Fn(&BlockPointer, u8) -> bool) -> Result<(BlockPointer, u8), Error> {
        let top = self.dnode.levels - 1;
        let index = usize::try_from(self.dnode.pointer_index(number, top)).unwrap_or(usize::MAX);
        let Some(first) = self.dnode.pointers.get(index) else { return Ok((BlockPointer::hole(), 63)) };
        let mut pointer = first.clone();
        let fan_bits = self.dnode.indirect_shift - 7;
        for level in (1..=top).rev() {
            if pointer.is_hole() || is_end(&pointer, level) {
                return Ok((pointer, level));
            }
            let shift = fan_bits * u32::from(level);
            let block = if shift >= 64 { 0 } else { number >> shift };
            let depth = usize::from(top - level);
            if !self.path.get(depth).is_some_and(|step| step.0 == level && step.1 == block) {
                let data = self.pool.read_shared(&pointer)?;
                self.path.truncate(depth);
                self.path.push((level, block, data));
            }
            let at = usize::try_from(self.dnode.pointer_index(number, level - 1)).unwrap_or(usize::MAX / blkptr::SIZE) * blkptr::SIZE;
            let data = &self.path[depth].2;
            let bytes = data.get(at..at + blkptr::SIZE).ok_or(FormatError::new("indirect block", "too short", data.len() as u64))?;
            pointer = BlockPointer::parse(bytes)?;
        }
        Ok((pointer, 0))
    }

    /// Data block `number`, always of the object's block size; holes are zeros.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn block(&mut self, number: u64) -> Result<Vec<u8>, Error> {
        let pointer = self.pointer(number)?;
        let size = usize::try_from(self.dnode.block_size).map_err(|_| Error::NotFound)?;
        if pointer.is_hole() {
            return Ok(vec![0; size]);
        }
        let mut data = self.pool.read(&pointer)?;
        data.resize(size, 0);
        Ok(data)
    }

    /// Block `number` to be looked at, of the object's block size: as the pool's cache of metadata has it where that is so.
    pub(crate) fn whole_block(&mut self, number: u64) -> Result<Arc<Vec<u8>>, Error> {
        match self.shared_block(number)? {
            Some(data) if data.len() as u64 == self.dnode.block_size => Ok(data),
            _ => self.block(number).map(Arc::new),
        }
    }

    /// Block `number` as the pool's cache of metadata has it, to be looked at; `None`: a hole.
    pub(crate) fn shared_block(&mut self, number: u64) -> Result<Option<Arc<Vec<u8>>>, Error> {
        let pointer = self.pointer(number)?;
        Ok(if pointer.is_hole() { None } else { Some(self.pool.read_shared(&pointer)?) })
    }

    /// Reads `out.len()` bytes at `offset`; past the last block there are zeros (the caller knows the file's size).
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn read_at(&mut self, mut offset: u64, mut out: &mut [u8]) -> Result<(), Error> {
        while !out.is_empty() {
            let (number, skip) = (offset / self.dnode.block_size, offset % self.dnode.block_size);
            let data = if number <= self.dnode.last_block { self.block(number)? } else { vec![0; out.len()] };
            let skip = if number <= self.dnode.last_block { usize::try_from(skip).unwrap_or(0) } else { 0 };
            let count = (data.len() - skip).min(out.len());
            let (now, rest) = out.split_at_mut(count);
            now.copy_from_slice(&data[skip..skip + count]);
            out = rest;
            offset += count as u64;
        }
        Ok(())
    }

    /// The spill block, if there is one.
    ///
    /// # Errors
    /// Unreadable.
    pub fn spill(&self) -> Result<Option<Vec<u8>>, Error> {
        self.dnode.spill.as_ref().map(|pointer| self.pool.read(pointer)).transpose().map_err(Error::from)
    }
}
