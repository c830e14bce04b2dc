//! Lists of block pointers: bpobjs and deadlists (format section 11.3).
//!
//! A deadlist holds the blocks that a dataset no longer refers to and the snapshot before it may. It keeps them in one list per age: an entry with key `k` has the
//! blocks born after `k`, up to the next key; keys are the txgs of earlier snapshots. So the blocks that die with a snapshot are whole lists, and are moved
//! without being looked at.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use pool_phys::FormatError;
use pool_phys::blkptr::{self, BlockPointer};

use crate::Error;
use crate::dsl::{Space, put, shift, signed, word};
use crate::edit::EditError;
use crate::features::EMPTY_BPOBJ;
use crate::store::{OBJECT_DIRECTORY, Store};

const BPOBJ: u8 = 5;
const BPOBJ_HEADER: u8 = 6;
const SUBLISTS: u8 = 53;
const DEADLIST: u8 = 50;
const DEADLIST_HEADER: u8 = 51;
/// Block size of lists we make. OpenZFS takes 128 KiB and compresses; the MOS we write is not compressed.
const LIST_BLOCK: u64 = 4 << 10;
/// A list up to this long is copied into another instead of becoming a sublist of it.
const COPY_MAX: u64 = 64;
/// Pointers of a list that are read at a time.
const READ_MAX: u64 = 4096;

/// Byte offsets in a bpobj's bonus.
pub(crate) mod list {
    pub const COUNT: usize = 0;
    pub const BYTES: usize = 8;
    pub const SUBLISTS: usize = 32;
    pub const SUBLIST_COUNT: usize = 40;
}

/// Byte offset of entry `index` in an object of a list: how many there are comes from a disk.
pub(crate) fn place_of(index: u64, size: usize) -> Result<u64, FormatError> {
    index.checked_mul(size as u64).filter(|at| *at < 1 << 56).ok_or(FormatError::new("list of blocks", "is longer than its object", index))
}

impl Store {
    pub(crate) fn bpobj(&mut self) -> Result<u64, EditError> {
        let object = self.mos.allocate(&self.pool, BPOBJ, LIST_BLOCK, BPOBJ_HEADER, vec![0; 48])?;
        self.mos.edit(&self.pool, object)?.dnode.indirect_shift = 14;
        Ok(object)
    }

    /// A deadlist with empty lists for `keys`.
    pub(crate) fn deadlist(&mut self, keys: &[u64]) -> Result<u64, EditError> {
        let number = self.mos.allocate(&self.pool, DEADLIST, 512, DEADLIST_HEADER, vec![0; 320])?;
        self.table_at(number, 0)?;
        for key in keys {
            let list = self.bpobj()?;
            self.set_number(number, &format!("{key:x}"), list)?;
        }
        Ok(number)
    }

    /// The list that stands for all empty ones in pools with the feature `empty_bpobj`; 0: there is none.
    fn empty_list(&self) -> Result<u64, EditError> {
        Ok(self.number_in(OBJECT_DIRECTORY, "empty_bpobj")?.unwrap_or(0))
    }

    /// One place less refers to the list that stands for all empty ones; with the last it goes.
    fn leave_empty_list(&mut self, empty: u64) -> Result<(), EditError> {
        self.count_feature(&EMPTY_BPOBJ, -1)?;
        if self.feature(&EMPTY_BPOBJ)? == Some(0) {
            self.remove_name(OBJECT_DIRECTORY, "empty_bpobj")?;
            self.free_object(empty)?;
        }
        Ok(())
    }

    /// The list of `key` in a deadlist, for appending to it: one of its own.
    fn own_list(&mut self, deadlist: u64, key: u64, list: u64) -> Result<u64, EditError> {
        if list != self.empty_list()? {
            return Ok(list);
        }
        let own = self.bpobj()?;
        self.set_number(deadlist, &format!("{key:x}"), own)?;
        self.leave_empty_list(list)?;
        Ok(own)
    }

    /// (key, list) of a deadlist, by rising key.
    pub(crate) fn lists_of(&self, deadlist: u64) -> Result<Vec<(u64, u64)>, EditError> {
        let mut out = Vec::new();
        for entry in self.entries_of(deadlist)? {
            let key = u64::from_str_radix(&entry.text(), 16).map_err(|_| FormatError::new("deadlist", "key is not a number", deadlist))?;
            out.push((key, entry.number().unwrap_or(0)));
        }
        out.sort_unstable();
        Ok(out)
    }

    /// A new deadlist with the keys of another that are below `limit`, and `extra`.
    pub(crate) fn deadlist_like(&mut self, other: u64, limit: u64, extra: Option<u64>) -> Result<u64, EditError> {
        let mut keys: Vec<u64> = self.lists_of(other)?.into_iter().map(|(key, _)| key).filter(|key| *key < limit).chain(extra).collect();
        keys.sort_unstable();
        keys.dedup();
        self.deadlist(&keys)
    }

    /// Frees a deadlist with what is left in it: the blocks are somebody else's.
    pub(crate) fn free_deadlist(&mut self, deadlist: u64) -> Result<(), EditError> {
        for (_, list) in self.lists_of(deadlist)? {
            self.free_list(list)?;
        }
        self.free_object(deadlist)
    }

    fn free_list(&mut self, list: u64) -> Result<(), EditError> {
        if list == self.empty_list()? {
            return self.leave_empty_list(list);
        }
        for sub in self.sublists(list)? {
            self.free_list(sub)?;
        }
        let table = self.peek(list, list::SUBLISTS)?;
        self.free_object(table)?;
        self.free_object(list)
    }

    pub(crate) fn list_space(&self, list: u64) -> Result<Space, EditError> {
        Ok(Space::read(&self.peek_bonus(list)?, list::BYTES))
    }

    /// Space of a whole deadlist.
    pub(crate) fn deadlist_space(&self, deadlist: u64) -> Result<Space, EditError> {
        Ok(Space::read(&self.peek_bonus(deadlist)?, 0))
    }

    /// Space of the blocks in a deadlist born after `after`, up to `until`. Both are keys, or beyond all of them.
    pub(crate) fn deadlist_range(&self, deadlist: u64, after: u64, until: u64) -> Result<Space, EditError> {
        let mut out = Space::default();
        for (_, list) in self.lists_of(deadlist)?.into_iter().filter(|(key, _)| (after..until).contains(key)) {
            out = out + self.list_space(list)?;
        }
        Ok(out)
    }

    /// Moves the blocks in a deadlist born after `after` to the pool's list of blocks to be freed. Returns their space.
    pub(crate) fn deadlist_to_free(&mut self, deadlist: u64, after: u64) -> Result<Space, EditError> {
        let free = self.number_in(OBJECT_DIRECTORY, "free_bpobj")?.ok_or(Error::NotFound)?;
        let mut out = Space::default();
        for (key, list) in self.lists_of(deadlist)?.into_iter().filter(|(key, _)| *key >= after) {
            out = out + self.list_space(list)?;
            self.enqueue(free, list)?;
            self.remove_name(deadlist, &format!("{key:x}"))?;
        }
        (-out).shift(self.bonus(deadlist)?, 0);
        Ok(out)
    }

    /// Puts all of deadlist `from`, which goes, into `into`.
    pub(crate) fn merge_deadlist(&mut self, into: u64, from: u64) -> Result<(), EditError> {
        for (key, list) in self.lists_of(from)? {
            let space = self.list_space(list)?;
            let targets = self.lists_of(into)?;
            let target = targets.iter().rev().find(|(own, _)| *own <= key).or(targets.first());
            let (target_key, target) = *target.ok_or(FormatError::new("deadlist", "has no list", into))?;
            let target = self.own_list(into, target_key, target)?;
            self.enqueue(target, list)?;
            space.shift(self.bonus(into)?, 0);
        }
        self.free_object(from)
    }

    /// Joins the list of `key` with the one before it; a deadlist without that key stays as it is.
    pub(crate) fn deadlist_forget(&mut self, deadlist: u64, key: u64) -> Result<(), EditError> {
        let lists = self.lists_of(deadlist)?;
        let Some(index) = lists.iter().position(|(own, _)| *own == key) else { return Ok(()) };
        let Some((before_key, before)) = index.checked_sub(1).and_then(|before| lists.get(before)).copied() else { return Ok(()) };
        let before = self.own_list(deadlist, before_key, before)?;
        self.enqueue(before, lists[index].1)?;
        self.remove_name(deadlist, &format!("{key:x}")).map(drop)
    }

    pub(crate) fn sublists(&self, list: u64) -> Result<Vec<u64>, EditError> {
        let bonus = self.peek_bonus(list)?;
        let (table, count) = (word(&bonus, list::SUBLISTS), word(&bonus, list::SUBLIST_COUNT));
        if table == 0 || count == 0 {
            return Ok(Vec::new());
        }
        self.mos.with_view(&self.pool, table, |edit| {
            let room = edit.dnode.last_block.saturating_add(1).saturating_mul(edit.dnode.block_size) / 8;
            let count = usize::try_from(count.min(room)).unwrap_or(0);
            let mut bytes = vec![0; count * 8];
            edit.read_at(&self.pool, 0, &mut bytes)?;
            Ok(bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
        })
    }

    fn add_sublists(&mut self, list: u64, subs: &[u64]) -> Result<(), EditError> {
        if subs.is_empty() {
            return Ok(());
        }
        let mut table = self.peek(list, list::SUBLISTS)?;
        if table == 0 {
            table = self.mos.allocate(&self.pool, SUBLISTS, LIST_BLOCK, 0, Vec::new())?;
            self.mos.edit(&self.pool, table)?.dnode.indirect_shift = 14;
            put(self.bonus(list)?, list::SUBLISTS, table);
        }
        let count = self.peek(list, list::SUBLIST_COUNT)?;
        let bytes: Vec<u8> = subs.iter().flat_map(|sub| sub.to_le_bytes()).collect();
        self.mos.edit(&self.pool, table)?.write_at(&self.pool, place_of(count, 8)?, &bytes)?;
        put(self.bonus(list)?, list::SUBLIST_COUNT, count + subs.len() as u64);
        Ok(())
    }

    /// Sublists `subs` of `list` become its only ones.
    pub(crate) fn keep_sublists(&mut self, list: u64, count: u64) -> Result<(), EditError> {
        put(self.bonus(list)?, list::SUBLIST_COUNT, count);
        if count == 0 {
            let table = self.peek(list, list::SUBLISTS)?;
            self.free_object(table)?;
            put(self.bonus(list)?, list::SUBLISTS, 0);
        }
        Ok(())
    }

    /// Appends list `sub`, which is nobody else's any more, to `list`. Its sublists become those of `list`: lists nest one deep.
    pub(crate) fn enqueue(&mut self, list: u64, sub: u64) -> Result<(), EditError> {
        if sub == self.empty_list()? {
            return self.leave_empty_list(sub);
        }
        // What a list states counts its sublists too, those it had before they were moved away included (OpenZFS leaves it so): the sum of the whole is right, those
        // of the parts need not be.
        let total = self.list_space(sub)? + self.list_space(list)?;
        self.move_sublists(list, sub)?;
        let count = self.peek(sub, list::COUNT)?;
        if count <= COPY_MAX {
            let pointers = self.read_list(sub, 0, count)?;
            self.append_bpobj(list, &pointers)?;
            self.free_object(sub)?;
        } else {
            self.add_sublists(list, &[sub])?;
        }
        total.put(self.bonus(list)?, list::BYTES);
        Ok(())
    }

    /// Sublists of `sub` become those of `list`.
    pub(crate) fn move_sublists(&mut self, list: u64, sub: u64) -> Result<(), EditError> {
        let below = self.sublists(sub)?;
        self.add_sublists(list, &below)?;
        self.keep_sublists(sub, 0)
    }

    /// Pointers `first..first + count` of a list itself, with their deflated sizes.
    pub(crate) fn read_list(&self, list: u64, first: u64, count: u64) -> Result<Vec<(BlockPointer, u64)>, EditError> {
        let count = usize::try_from(count.min(READ_MAX)).unwrap_or(0);
        let mut bytes = vec![0; count * blkptr::SIZE];
        self.mos.with_view(&self.pool, list, |edit| edit.read_at(&self.pool, place_of(first, blkptr::SIZE)?, &mut bytes))?;
        let mut out = Vec::with_capacity(count);
        for bytes in bytes.chunks_exact(blkptr::SIZE) {
            let pointer = BlockPointer::parse(bytes)?;
            let deflated = self.space.deflated(&pointer);
            out.push((pointer, deflated));
        }
        Ok(out)
    }

    /// Appends pointers with their deflated sizes to a list.
    pub(crate) fn append_bpobj(&mut self, object: u64, pointers: &[(BlockPointer, u64)]) -> Result<(), EditError> {
        if pointers.is_empty() {
            return Ok(());
        }
        let edit = self.mos.edit(&self.pool, object)?;
        let count = word(&edit.dnode.bonus, list::COUNT);
        let bytes: Vec<u8> = pointers.iter().flat_map(|(pointer, _)| pointer.encode()).collect();
        edit.write_at(&self.pool, place_of(count, blkptr::SIZE)?, &bytes)?;
        let mut space = Space::default();
        pointers.iter().for_each(|(pointer, deflated)| space.add(pointer, *deflated, 1));
        space.shift(&mut edit.dnode.bonus, list::BYTES);
        put(&mut edit.dnode.bonus, list::COUNT, count + pointers.len() as u64);
        Ok(())
    }

    /// Puts blocks that a snapshot still holds into a head's deadlist.
    pub(crate) fn bury(&mut self, deadlist: u64, dead: &[(BlockPointer, u64)]) -> Result<(), EditError> {
        let lists = self.lists_of(deadlist)?;
        let mut by_list: BTreeMap<(u64, u64), Vec<(BlockPointer, u64)>> = BTreeMap::new();
        for (pointer, deflated) in dead {
            let list = lists.iter().rev().find(|(key, _)| *key < pointer.birth).copied();
            let list = list.ok_or(FormatError::new("deadlist", "no key below a block's birth", pointer.birth))?;
            by_list.entry(list).or_default().push((pointer.clone(), *deflated));
        }
        for ((key, list), pointers) in &by_list {
            let list = self.own_list(deadlist, *key, *list)?;
            self.append_bpobj(list, pointers)?;
        }
        let header = self.bonus(deadlist)?;
        for (pointer, deflated) in dead {
            shift(header, 0, signed(*deflated));
            shift(header, 8, signed(pointer.psize));
            shift(header, 16, signed(pointer.lsize));
        }
        Ok(())
    }
}
