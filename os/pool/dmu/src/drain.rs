//! Freeing what destroyed datasets and snapshots leave behind, a part with each commit.
//!
//! # Theory
//! Destroying a snapshot moves lists of blocks to the pool's `free_bpobj`; destroying a head enters the root of its tree in the pool's `bptree_obj`
//! (feature `async_destroy`; in a pool without it, the blocks are listed in `free_bpobj` one by one). Each commit frees up to [`FREES_PER_TXG`] of these blocks
//! and accounts them in the directory `$FREE`. A tree is walked children first; where the walk stops, at a block of level 0, is kept in its entry,
//! the way OpenZFS keeps it, so that either may go on with what the other began.
//!
//! # Failure
//! A block whose pointer names space that is not allocated, and what lies below an unreadable block, stay lost: damage must not stop the freeing of the rest.

use alloc::vec;
use alloc::vec::Vec;

use pool_phys::blkptr::{self, BlockPointer};
use pool_phys::dnode::{self, Dnode, kind};
use pool_phys::objset::Objset;
use pool_spa::{DEFER_TXGS, Pool};

use crate::{Datasets, Error};
use crate::check::{Within, bounded};
use crate::dsl::{Part, Space, dir, put, signed, word};
use crate::edit::EditError;
use crate::features::ASYNC_DESTROY;
use crate::lists::{list, place_of};
use crate::store::{OBJECT_DIRECTORY, Store, places};

/// Bytes that were freed and are worth txgs of their own where room is lacking.
const RIPE_MIN: u64 = 1 << 20;
/// Blocks freed with one commit.
pub(crate) const FREES_PER_TXG: u64 = 16 << 10;
/// Pointers of a list freed at a time.
const BATCH: u64 = 1024;
/// Object type of the tree list, and the size of its entries.
const TREE_LIST: u8 = 0xC3;
const ENTRY: usize = 168;
/// Object set number in the bookmarks of destroyed trees.
const DESTROYED: u64 = u64::MAX;
/// Object numbers of the accounting tables: their few blocks are freed together.
const ACCOUNTING: u64 = u64::MAX;
const DNODES_PER_BLOCK: u64 = (16 << 10) / dnode::SLOT as u64;

/// Byte offsets in the tree list's bonus.
mod trees {
    pub const BEGIN: usize = 0;
    pub const END: usize = 8;
    pub const BYTES: usize = 16;
    pub const SIZE: usize = 40;
}

/// Where a walk of a destroyed tree stopped, or is to go on: object and block of level 0; object 0 is the array of dnodes.
type Bookmark = (u64, u64);

/// The end of a list: what list, its last pointers with their deflated sizes, the number of the first of them.
struct Tail {
    owner: u64,
    pointers: Vec<(BlockPointer, u64)>,
    first: u64,
}

/// A walk over a tree whose blocks die, children first.
struct Reaper<'a> {
    pool: &'a Pool,
    /// Blocks born until then are somebody else's.
    min_birth: u64,
    resume: Option<Bookmark>,
    budget: u64,
    visits: u64,
    found: Vec<BlockPointer>,
}

impl<'a> Reaper<'a> {
    /// The root of a tree that waits, and a walk from where it stands.
    fn of_entry(pool: &'a Pool, entry: &[u8], budget: u64) -> Result<(BlockPointer, Self), Error> {
        let root = BlockPointer::parse(&entry[..blkptr::SIZE])?;
        let resume = (word(entry, 136) == DESTROYED).then(|| (word(entry, 144), word(entry, 160)));
        Ok((root, Self { pool, min_birth: word(entry, 128), resume, budget, visits: 0, found: Vec::new() }))
    }

    /// Visits what `pointer` leads to; `Err` says where it stopped.
    fn visit(&mut self, pointer: &BlockPointer, object: u64, block: u64, fan_bits: u32) -> Result<(), Bookmark> {
        if pointer.is_hole() || pointer.birth <= self.min_birth || self.is_done(pointer, object, block, fan_bits) {
            return Ok(());
        }
        self.visits += 1;
        if bounded(self.pool, self.visits).is_err() {
            return Ok(());
        }
        // The root of the tree has no place of its own among the blocks.
        let is_here = pointer.level == 0 && pointer.kind != kind::OBJSET && self.resume == Some((object, block));
        if is_here {
            self.resume = None;
        } else {
            self.descend(pointer, object, block, fan_bits)?;
        }
        if pointer.level == 0 && pointer.kind != kind::OBJSET && object != ACCOUNTING && block != u64::MAX && self.found.len() as u64 >= self.budget {
            return Err((object, block));
        }
        self.found.push(pointer.clone());
        Ok(())
    }

    fn descend(&mut self, pointer: &BlockPointer, object: u64, block: u64, fan_bits: u32) -> Result<(), Bookmark> {
        if !Within::of(object, fan_bits).leads_on(pointer) {
            return Ok(());
        }
        let Ok(data) = self.pool.read(pointer) else { return Ok(()) };
        if pointer.level > 0 {
            for (index, child) in blkptr::below(pointer.level, &data).flatten() {
                self.visit(&child, object, (block << fan_bits) + index, fan_bits)?;
            }
        } else if pointer.kind == kind::OBJSET {
            let Ok(objset) = Objset::parse(&data) else { return Ok(()) };
            self.visit_dnode(&objset.meta, 0)?;
            for at in [2048, 1536, 1024] {
                if let Some(Ok(Some(dnode))) = data.get(at..at + dnode::SLOT).map(Dnode::parse) {
                    self.visit_dnode(&dnode, ACCOUNTING)?;
                }
            }
        } else {
            let mut slot = 0;
            while let Some(bytes) = data.get(slot * dnode::SLOT..).filter(|bytes| bytes.len() >= dnode::SLOT) {
                slot += match Dnode::parse(bytes) {
                    Ok(Some(dnode)) => {
                        self.visit_dnode(&dnode, block * DNODES_PER_BLOCK + slot as u64)?;
                        dnode.slots
                    }
                    _ => 1,
                };
            }
        }
        Ok(())
    }

    fn visit_dnode(&mut self, dnode: &Dnode, object: u64) -> Result<(), Bookmark> {
        let fan_bits = dnode.indirect_shift - 7;
        for (index, pointer) in (0_u64..).zip(&dnode.pointers) {
            self.visit(pointer, object, index, fan_bits)?;
        }
        if let Some(spill) = &dnode.spill {
            self.visit(spill, object, u64::MAX, fan_bits)?;
        }
        Ok(())
    }

    /// True if everything below lies before the place to go on from.
    fn is_done(&self, pointer: &BlockPointer, object: u64, block: u64, fan_bits: u32) -> bool {
        let Some((resume_object, resume_block)) = self.resume else { return false };
        if pointer.kind == kind::OBJSET || object == ACCOUNTING {
            return false;
        }
        let span = u128::from(block).saturating_add(1) << (fan_bits * u32::from(pointer.level)).min(63);
        match (object, resume_object) {
            (0, 0) => span <= u128::from(resume_block),
            (0, _) => span.saturating_mul(u128::from(DNODES_PER_BLOCK)) <= u128::from(resume_object),
            // The dnode block itself comes after all its objects.
            (_, 0) => object / DNODES_PER_BLOCK <= resume_block,
            _ if object == resume_object => block != u64::MAX && span <= u128::from(resume_block),
            _ => object < resume_object,
        }
    }
}

/// Calls `visit` with every block that waits in the tree list `object`.
pub(crate) fn each_doomed(datasets: &Datasets<'_>, object: u64, visit: &mut dyn FnMut(&BlockPointer)) -> Result<(), Error> {
    let mut list = datasets.mos().object(object)?;
    let bonus = list.dnode().bonus.clone();
    let room = list.dnode().last_block.saturating_add(1).saturating_mul(list.dnode().block_size) / ENTRY as u64;
    for index in word(&bonus, trees::BEGIN)..word(&bonus, trees::END).min(room) {
        let mut entry = vec![0; ENTRY];
        list.read_at(index * ENTRY as u64, &mut entry)?;
        let (root, mut reaper) = Reaper::of_entry(datasets.mos().pool(), &entry, u64::MAX)?;
        // Without a budget it does not stop.
        let _all = reaper.visit(&root, 0, 0, 0);
        reaper.found.iter().for_each(&mut *visit);
    }
    Ok(())
}

impl Store {
    fn free_dir(&self) -> Result<u64, EditError> {
        self.number_in(self.peek(self.root_dir, dir::CHILDREN)?, "$FREE")?.ok_or_else(|| Error::NotFound.into())
    }

    /// Bytes that wait to be freed.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn freeing(&self) -> Result<u64, EditError> {
        self.peek(self.free_dir()?, dir::USED)
    }

    /// Commits until nothing waits to be freed any more, and what was freed can be used.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn drain(&mut self, now: u64) -> Result<(), EditError> {
        while self.has_waiting()? && !self.drain_stuck {
            self.commit(now)?;
        }
        self.let_rest(now)
    }

    /// Makes the few txgs that what was freed rests for, if it is worth them: then it can be used. False: it is not.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn ripen(&mut self, now: u64) -> Result<bool, EditError> {
        // Commits free blocks of their own: what rests behind these ones is no reason for others, or whoever asks and asks would have some made each time.
        let is_worth_it = self.space.resting() >= self.churn + RIPE_MIN;
        if is_worth_it {
            self.let_rest(now)?;
            self.churn = self.space.resting();
        }
        Ok(is_worth_it)
    }

    /// Space that was freed rests for some txgs; a commit without any change would be none.
    fn let_rest(&mut self, now: u64) -> Result<(), EditError> {
        for _ in 0..=DEFER_TXGS {
            self.dir_words(self.root_dir)?;
            self.commit(now)?;
        }
        Ok(())
    }

    /// How many blocks of what was destroyed are freed with one commit.
    pub const fn set_frees_per_txg(&mut self, blocks: u64) {
        self.frees_per_txg = if blocks == 0 { 1 } else { blocks };
    }

    fn has_waiting(&self) -> Result<bool, EditError> {
        let free = self.peek_bonus(self.doomed()?)?;
        Ok(word(&free, list::COUNT) + word(&free, list::SUBLIST_COUNT) > 0 || self.number_in(OBJECT_DIRECTORY, "bptree_obj")?.is_some())
    }

    fn doomed(&self) -> Result<u64, EditError> {
        self.number_in(OBJECT_DIRECTORY, "free_bpobj")?.ok_or_else(|| Error::NotFound.into())
    }

    /// Accounts blocks that now wait to be freed.
    pub(crate) fn did_doom(&mut self, space: Space) -> Result<(), EditError> {
        let free_dir = self.free_dir()?;
        self.did_use(free_dir, Part::Head, space)
    }

    /// Dooms the blocks below `root` that were born after `min_birth`; they take `space`.
    pub(crate) fn doom_tree(&mut self, root: &BlockPointer, min_birth: u64, space: Space) -> Result<(), EditError> {
        if root.is_hole() || root.birth <= min_birth {
            return Ok(());
        }
        self.did_doom(space)?;
        let Some(active) = self.feature(&ASYNC_DESTROY)? else {
            let mut reaper = Reaper { pool: &self.pool, min_birth, resume: None, budget: u64::MAX, visits: 0, found: Vec::new() };
            let whole = reaper.visit(root, 0, 0, 0);
            assert!(whole.is_ok(), "a walk without a budget does not stop");
            let doomed: Vec<(BlockPointer, u64)> = reaper.found.into_iter().map(|pointer| self.with_size(pointer)).collect();
            let free = self.doomed()?;
            return self.append_bpobj(free, &doomed);
        };
        let object = match self.number_in(OBJECT_DIRECTORY, "bptree_obj")? {
            Some(object) => object,
            None => {
                let object = self.mos.allocate(&self.pool, TREE_LIST, 4 << 10, TREE_LIST, vec![0; trees::SIZE])?;
                self.mos.edit(&self.pool, object)?.dnode.indirect_shift = 14;
                self.note("bptree_obj", object)?;
                if active == 0 {
                    self.count_feature(&ASYNC_DESTROY, 1)?;
                }
                object
            }
        };
        let mut entry = vec![0; ENTRY];
        entry[..blkptr::SIZE].copy_from_slice(&root.encode());
        put(&mut entry, blkptr::SIZE, min_birth);
        let edit = self.mos.edit(&self.pool, object)?;
        let end = word(&edit.dnode.bonus, trees::END);
        edit.write_at(&self.pool, end * ENTRY as u64, &entry)?;
        put(&mut edit.dnode.bonus, trees::END, end + 1);
        space.shift(&mut edit.dnode.bonus, trees::BYTES);
        Ok(())
    }

    /// Frees some of what waits, as part of a commit. What cannot be read waits on.
    pub(crate) fn drain_step(&mut self) {
        self.drain_stuck = self.drain_some(self.frees_per_txg).is_err();
    }

    fn drain_some(&mut self, mut budget: u64) -> Result<(), EditError> {
        let free = self.doomed()?;
        while budget > 0 {
            let Some(Tail { owner, pointers, first }) = self.last_doomed(free, budget.min(BATCH))? else {
                // Nothing takes no space, whatever its parts said.
                if self.list_space(free)? != Space::default() {
                    Space::default().put(self.bonus(free)?, list::BYTES);
                }
                break;
            };
            budget = budget.saturating_sub(pointers.len() as u64 + 1);
            self.cut_list(free, owner, first, &pointers)?;
            self.give_back(pointers)?;
        }
        while budget > 0 {
            let Some(object) = self.number_in(OBJECT_DIRECTORY, "bptree_obj")? else { break };
            budget = budget.saturating_sub(self.drain_tree(object, budget)? + 1);
        }
        Ok(())
    }

    /// The last pointers that wait in the list of doomed blocks: the list or sublist they are in, and the number of the first.
    fn last_doomed(&self, free: u64, count: u64) -> Result<Option<Tail>, EditError> {
        let owner = self.sublists(free)?.last().copied().unwrap_or(free);
        let have = self.peek(owner, list::COUNT)?;
        if owner == free && have == 0 {
            return Ok(None);
        }
        let count = have.min(count);
        Ok(Some(Tail { owner, pointers: self.read_list(owner, have - count, count)?, first: have - count }))
    }

    /// Takes `pointers`, from number `first` on, off `owner`, which is the list of doomed blocks or its last sublist; an empty sublist goes.
    fn cut_list(&mut self, free: u64, owner: u64, first: u64, pointers: &[(BlockPointer, u64)]) -> Result<(), EditError> {
        let mut space = Space::default();
        pointers.iter().for_each(|(pointer, deflated)| space.add(pointer, *deflated, 1));
        let edit = self.mos.edit(&self.pool, owner)?;
        put(&mut edit.dnode.bonus, list::COUNT, first);
        (-space).shift(&mut edit.dnode.bonus, list::BYTES);
        edit.cut(place_of(first, blkptr::SIZE)?.div_ceil(edit.dnode.block_size));
        if owner == free {
            return Ok(());
        }
        (-space).shift(self.bonus(free)?, list::BYTES);
        if first > 0 {
            return Ok(());
        }
        let count = self.sublists(free)?.len() as u64 - 1;
        self.keep_sublists(free, count)?;
        // A list made by others may have sublists of its own: they are next.
        self.move_sublists(free, owner)?;
        self.free_object(owner)
    }

    /// Frees up to `budget` blocks of the first tree in the list. Returns how many.
    fn drain_tree(&mut self, object: u64, budget: u64) -> Result<u64, EditError> {
        let bonus = self.peek_bonus(object)?;
        let (begin, end) = (word(&bonus, trees::BEGIN), word(&bonus, trees::END));
        if begin >= end {
            self.remove_name(OBJECT_DIRECTORY, "bptree_obj")?;
            self.free_object(object)?;
            self.count_feature(&ASYNC_DESTROY, -1)?;
            return Ok(0);
        }
        let mut entry = vec![0; ENTRY];
        self.mos.with_view(&self.pool, object, |edit| edit.read_at(&self.pool, begin * ENTRY as u64, &mut entry))?;
        let (root, mut reaper) = Reaper::of_entry(&self.pool, &entry, budget)?;
        let stopped = reaper.visit(&root, 0, 0, 0);
        let found: Vec<(BlockPointer, u64)> = reaper.found.into_iter().map(|pointer| self.with_size(pointer)).collect();
        let mut space = Space::default();
        found.iter().for_each(|(pointer, deflated)| space.add(pointer, *deflated, 1));
        let edit = self.mos.edit(&self.pool, object)?;
        (-space).shift(&mut edit.dnode.bonus, trees::BYTES);
        match stopped {
            Ok(()) => put(&mut edit.dnode.bonus, trees::BEGIN, begin + 1),
            Err((at, block)) => {
                for (index, value) in [DESTROYED, at, 0, block].into_iter().enumerate() {
                    put(&mut entry, 136 + index * 8, value);
                }
                edit.write_at(&self.pool, begin * ENTRY as u64, &entry)?;
            }
        }
        let count = found.len() as u64;
        self.give_back(found)?;
        Ok(count)
    }

    fn with_size(&self, pointer: BlockPointer) -> (BlockPointer, u64) {
        let deflated = self.space.deflated(&pointer);
        (pointer, deflated)
    }

    /// Gives the space of doomed blocks back.
    fn give_back(&mut self, pointers: Vec<(BlockPointer, u64)>) -> Result<(), EditError> {
        let mut space = Space::default();
        for (pointer, deflated) in pointers {
            space.add(&pointer, deflated, 1);
            let Ok(dvas) = places(&self.pool, &pointer) else { continue };
            // A pointer that lies about its space has nothing to give back.
            for dva in dvas {
                let _lie = self.space.free(&dva);
            }
        }
        if signed(self.freeing()?) < space.used {
            space.used = signed(self.freeing()?);
        }
        self.did_doom(-space)
    }
}
