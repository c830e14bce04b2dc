//! The dataset layer's own objects: directories and datasets in the MOS, and the space they account.
//!
//! # Theory
//! A directory accounts what its head, its snapshots and the directories below it use ([`Part`]); each change goes up to the root. A reservation
//! makes a directory look at least that large to the one above ([`Store::account`]); a refreservation does the same for a head within its directory.
//! Field offsets are those of format section 11.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use pool_phys::FormatError;
use pool_phys::blkptr::BlockPointer;
use pool_phys::dnode::{Dnode, kind};
use pool_phys::zap::Entry;

use crate::Error;
use crate::edit::EditError;
use crate::store::Store;
use crate::zap_edit as zap;

/// Object types used here only.
pub(crate) const CHILD_MAP: u8 = 13;
pub(crate) const SNAPSHOT_NAMES: u8 = 14;
pub(crate) const PROPS: u8 = 15;
pub(crate) const NEXT_CLONES: u8 = 37;
pub(crate) const CLONES: u8 = 52;
/// Bytes of the header of a list of blocks; a deadlist's is longer.
const LIST_HEADER: usize = 48;
/// Longest full name of a dataset or snapshot.
const NAME_MAX: usize = 255;
/// Directories nest no deeper.
pub(crate) const DEPTH_MAX: usize = 64;

/// Byte offsets in DSL directories.
pub(crate) mod dir {
    pub const HEAD: usize = 8;
    pub const PARENT: usize = 16;
    pub const ORIGIN: usize = 24;
    pub const CHILDREN: usize = 32;
    pub const USED: usize = 40;
    pub const QUOTA: usize = 64;
    pub const RESERVED: usize = 72;
    pub const PROPS: usize = 80;
    pub const FLAGS: usize = 96;
    pub const BREAKDOWN: usize = 104;
    pub const CLONES: usize = 144;
    pub const SIZE: usize = 256;
    pub const HAS_BREAKDOWN: u64 = 1;
}

/// Byte offsets in datasets.
pub(crate) mod ds {
    pub const DIR: usize = 0;
    pub const PREVIOUS: usize = 8;
    pub const PREVIOUS_TXG: usize = 16;
    pub const NEXT: usize = 24;
    pub const SNAPSHOTS: usize = 32;
    pub const CHILDREN: usize = 40;
    pub const CREATED: usize = 48;
    pub const CREATED_TXG: usize = 56;
    pub const DEADLIST: usize = 64;
    pub const REFERENCED: usize = 72;
    pub const UNIQUE: usize = 96;
    pub const FSID: usize = 104;
    pub const GUID: usize = 112;
    pub const FLAGS: usize = 120;
    pub const ROOT: usize = 128;
    pub const NEXT_CLONES: usize = 256;
    pub const PROPS: usize = 264;
    pub const HOLDS: usize = 272;
    pub const SIZE: usize = 320;
    pub const INCONSISTENT: u64 = 1;
    pub const UNIQUE_ACCURATE: u64 = 4;
    pub const DEFER_DESTROY: u64 = 8;
    /// Names ignore case: a flag of the contents, which clones inherit.
    pub const CASE_INSENSITIVE: u64 = 0x1_0000;
}

/// Parts of a directory's used space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Head = 0,
    Snapshots = 1,
    Child = 2,
    /// What children have reserved and not used.
    ChildReserved = 3,
    /// What the head has reserved and not used.
    HeadReserved = 4,
}

/// Used, compressed and uncompressed bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    pub used: i64,
    pub compressed: i64,
    pub uncompressed: i64,
}

impl Space {
    pub fn add(&mut self, pointer: &BlockPointer, deflated: u64, sign: i64) {
        self.used += sign * signed(deflated);
        self.compressed += sign * signed(pointer.psize);
        self.uncompressed += sign * signed(pointer.lsize);
    }

    /// Only used bytes.
    pub const fn used(used: i64) -> Self {
        Self { used, compressed: 0, uncompressed: 0 }
    }

    /// Three consecutive words of a bonus buffer.
    pub fn read(bonus: &[u8], at: usize) -> Self {
        Self { used: signed(word(bonus, at)), compressed: signed(word(bonus, at + 8)), uncompressed: signed(word(bonus, at + 16)) }
    }

    /// Adds to three consecutive words of a bonus buffer.
    pub fn shift(self, bonus: &mut [u8], at: usize) {
        shift(bonus, at, self.used);
        shift(bonus, at + 8, self.compressed);
        shift(bonus, at + 16, self.uncompressed);
    }

    /// Replaces three consecutive words of a bonus buffer.
    pub fn put(self, bonus: &mut [u8], at: usize) {
        for (index, value) in [self.used, self.compressed, self.uncompressed].into_iter().enumerate() {
            put(bonus, at + index * 8, value.cast_unsigned());
        }
    }
}

impl core::ops::Add for Space {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            used: self.used.saturating_add(other.used),
            compressed: self.compressed.saturating_add(other.compressed),
            uncompressed: self.uncompressed.saturating_add(other.uncompressed),
        }
    }
}

impl core::ops::Neg for Space {
    type Output = Self;
    fn neg(self) -> Self {
        Self { used: -self.used, compressed: -self.compressed, uncompressed: -self.uncompressed }
    }
}

impl core::ops::Sub for Space {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

pub(crate) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(0)
}

pub(crate) fn word(bonus: &[u8], at: usize) -> u64 {
    bonus.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

pub(crate) fn put(bonus: &mut [u8], at: usize, value: u64) {
    bonus[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// The bonus buffer of an object that some number on disk names is what is meant, as far as can be seen.
fn check_words(dnode: &Dnode, object: u64, expected: Option<u8>, least: usize) -> Result<(), FormatError> {
    if expected.is_some_and(|expected| dnode.bonus_kind != expected) {
        return Err(FormatError::new("dsl", "not the kind of object that is meant", object));
    }
    if dnode.bonus.len() < least {
        return Err(FormatError::new("dsl", "an object whose header is too short", object));
    }
    Ok(())
}

pub(crate) fn shift(bonus: &mut [u8], at: usize, by: i64) {
    put(bonus, at, word(bonus, at).saturating_add_signed(by));
}

/// Splits `pool/a@s` or `pool/a#b`.
///
/// # Errors
/// No such mark in it.
pub(crate) fn split_name(name: &str, mark: char) -> Result<(&str, &str), EditError> {
    name.split_once(mark).ok_or(EditError::Invalid(if mark == '@' { "a snapshot is called DATASET@NAME" } else { "a bookmark is called DATASET#NAME" }))
}

/// One part of a name: what OpenZFS accepts. `%` may stand first in names that are not for people.
pub(crate) fn check_part(part: &str) -> Result<(), EditError> {
    let plain = part.strip_prefix('%').unwrap_or(part);
    let good = |letter: char| letter.is_ascii_alphanumeric() || "-_.: ".contains(letter);
    if plain.is_empty() || !plain.chars().all(good) || plain == "." || plain == ".." {
        return Err(EditError::Invalid("not a name: letters, digits and -_.: only"));
    }
    Ok(())
}

pub(crate) fn check_length(name: &str) -> Result<(), EditError> {
    if name.len() > NAME_MAX { Err(EditError::Invalid("the name is too long")) } else { Ok(()) }
}

impl Store {
    /// A word of an object's bonus as it is now.
    pub(crate) fn peek(&self, object: u64, at: usize) -> Result<u64, EditError> {
        self.mos.with_view(&self.pool, object, |edit| Ok(word(&edit.dnode.bonus, at)))
    }

    pub(crate) fn peek_bonus(&self, object: u64) -> Result<Vec<u8>, EditError> {
        self.mos.with_view(&self.pool, object, |edit| Ok(edit.dnode.bonus.clone()))
    }

    /// The words of a dataset.
    pub(crate) fn peek_ds(&self, dataset: u64) -> Result<Vec<u8>, EditError> {
        self.mos.with_view(&self.pool, dataset, |edit| {
            check_words(&edit.dnode, dataset, Some(kind::DSL_DATASET), ds::SIZE)?;
            Ok(edit.dnode.bonus.clone())
        })
    }

    /// The header of a list, to be changed.
    pub(crate) fn bonus(&mut self, object: u64) -> Result<&mut Vec<u8>, EditError> {
        self.words_of(object, None, LIST_HEADER)
    }

    /// The words of a directory, to be changed.
    pub(crate) fn dir_words(&mut self, directory: u64) -> Result<&mut Vec<u8>, EditError> {
        self.words_of(directory, Some(kind::DSL_DIR), dir::SIZE)
    }

    /// The words of a dataset, to be changed.
    pub(crate) fn ds_words(&mut self, dataset: u64) -> Result<&mut Vec<u8>, EditError> {
        self.words_of(dataset, Some(kind::DSL_DATASET), ds::SIZE)
    }

    /// The bonus buffer of an object, to be changed.
    pub(crate) fn words_of(&mut self, object: u64, expected: Option<u8>, least: usize) -> Result<&mut Vec<u8>, EditError> {
        let dnode = &mut self.mos.edit(&self.pool, object)?.dnode;
        check_words(dnode, object, expected, least)?;
        Ok(&mut dnode.bonus)
    }

    /// The number called `name` in a table of the MOS; table 0 has none.
    pub(crate) fn number_in(&self, table: u64, name: &str) -> Result<Option<u64>, EditError> {
        if table == 0 {
            return Ok(None);
        }
        self.mos.with_view(&self.pool, table, |edit| zap::number(edit, &self.pool, name.as_bytes()))
    }

    /// All entries of a table of the MOS; table 0 has none.
    pub(crate) fn entries_of(&self, table: u64) -> Result<Vec<Entry>, EditError> {
        if table == 0 {
            return Ok(Vec::new());
        }
        self.mos.with_view(&self.pool, table, |edit| zap::entries(edit, &self.pool, None))
    }

    pub(crate) fn set_number(&mut self, table: u64, name: &str, value: u64) -> Result<(), EditError> {
        zap::set_number(self.mos.edit(&self.pool, table)?, &self.pool, name.as_bytes(), value)
    }

    pub(crate) fn remove_name(&mut self, table: u64, name: &str) -> Result<bool, EditError> {
        zap::remove(self.mos.edit(&self.pool, table)?, &self.pool, name.as_bytes())
    }

    /// Enters `object` in a table of objects by number.
    pub(crate) fn enter(&mut self, table: u64, object: u64) -> Result<(), EditError> {
        self.set_number(table, &format!("{object:x}"), object)
    }

    pub(crate) fn leave(&mut self, table: u64, object: u64) -> Result<bool, EditError> {
        self.remove_name(table, &format!("{object:x}"))
    }

    /// Frees an object of the MOS; 0 is none.
    pub(crate) fn free_object(&mut self, object: u64) -> Result<(), EditError> {
        if object != 0 {
            self.mos.free(&self.pool, object)?;
            // Its number may become another dataset's.
            if self.heads.contains_key(&object) || self.pending_logs.contains_key(&object) {
                self.freed_heads.push(object);
            }
        }
        Ok(())
    }

    /// Makes one change of the dataset layer: if `body`, which changes the MOS only, refuses, nothing happened; else it is committed with all that is open.
    pub(crate) fn transact<R>(&mut self, now: u64, body: impl FnOnce(&mut Self) -> Result<R, EditError>) -> Result<R, EditError> {
        let out = self.try_change(body)?;
        self.commit(now)?;
        Ok(out)
    }

    /// As [`Store::transact`], without the commit.
    pub(crate) fn try_change<R>(&mut self, body: impl FnOnce(&mut Self) -> Result<R, EditError>) -> Result<R, EditError> {
        if self.is_suspended() {
            return Err(EditError::Suspended);
        }
        let saved = self.mos.clone();
        self.freed_heads.clear();
        let out = body(self);
        let freed = core::mem::take(&mut self.freed_heads);
        match out {
            Ok(_) => {
                self.limits.clear();
                freed.into_iter().try_for_each(|head| self.forget_head(head))?;
            }
            Err(_) => self.mos = saved,
        }
        out
    }

    pub(crate) fn find_dir(&self, name: &str) -> Result<u64, EditError> {
        let mut parts = name.split('/');
        if parts.next() != Some(self.pool.name()) {
            return Err(Error::NotFound.into());
        }
        let mut at = self.root_dir;
        for part in parts {
            at = self.number_in(self.peek(at, dir::CHILDREN)?, part)?.ok_or(Error::NotFound)?;
        }
        Ok(at)
    }

    /// Object number of the dataset (head) called `name`.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn find(&self, name: &str) -> Result<u64, EditError> {
        let head = self.peek(self.find_dir(name)?, dir::HEAD)?;
        if head == 0 { Err(Error::NotFound.into()) } else { Ok(head) }
    }

    /// Object number of the snapshot `dataset@name`.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn find_snapshot(&self, name: &str) -> Result<u64, EditError> {
        let (dataset, short) = split_name(name, '@')?;
        let names = self.peek(self.find(dataset)?, ds::SNAPSHOTS)?;
        self.number_in(names, short)?.ok_or_else(|| Error::NotFound.into())
    }

    /// Snapshots of the dataset with head `head`: (name, object), oldest first.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn snapshots_of(&self, head: u64) -> Result<Vec<(String, u64)>, EditError> {
        let mut out = Vec::new();
        for entry in self.entries_of(self.peek(head, ds::SNAPSHOTS)?)? {
            let object = entry.number().unwrap_or(0);
            out.push((self.peek(object, ds::CREATED_TXG)?, entry.text(), object));
        }
        out.sort();
        Ok(out.into_iter().map(|(_, name, object)| (name, object)).collect())
    }

    /// Directories right below: (name, object), in name order. Those of the pool's own ($MOS and so on) are left out.
    pub(crate) fn children_of(&self, directory: u64) -> Result<Vec<(String, u64)>, EditError> {
        let entries = self.entries_of(self.peek(directory, dir::CHILDREN)?)?;
        let mut out: Vec<(String, u64)> = entries.iter().map(|entry| (entry.text(), entry.number().unwrap_or(0))).filter(|(name, _)| !name.starts_with('$')).collect();
        out.sort();
        Ok(out)
    }

    /// Directory `directory` called `name` and all below it, parents first.
    pub(crate) fn tree_of(&self, name: &str) -> Result<Vec<(String, u64)>, EditError> {
        let mut out = vec![(String::from(name), self.find_dir(name)?)];
        let mut at = 0;
        while let Some((name, directory)) = out.get(at).cloned() {
            let below = self.children_of(directory)?.into_iter().map(|(child, object)| (format!("{name}/{child}"), object));
            out.splice(at + 1..at + 1, below);
            at += 1;
            if at > 1 << 20 {
                return Err(EditError::Invalid("more datasets than there can be"));
            }
        }
        Ok(out)
    }

    /// Full name of a directory.
    pub(crate) fn dir_name(&self, mut directory: u64) -> Result<String, EditError> {
        let mut parts: Vec<String> = Vec::new();
        while directory != self.root_dir {
            let parent = self.peek(directory, dir::PARENT)?;
            if parent == 0 || parts.len() > DEPTH_MAX {
                return Err(Error::NotFound.into());
            }
            let entries = self.entries_of(self.peek(parent, dir::CHILDREN)?)?;
            let entry = entries.iter().find(|entry| entry.number() == Some(directory)).ok_or(Error::NotFound)?;
            parts.push(entry.text());
            directory = parent;
        }
        parts.push(self.name());
        parts.reverse();
        Ok(parts.join("/"))
    }

    /// The guid of a dataset: its number may become another's.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn dataset_guid(&self, dataset: u64) -> Result<u64, EditError> {
        self.peek(dataset, ds::GUID)
    }

    /// Full name of a dataset, head or snapshot.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn dataset_name(&self, dataset: u64) -> Result<String, EditError> {
        let directory = self.peek(dataset, ds::DIR)?;
        let name = self.dir_name(directory)?;
        let head = self.peek(directory, dir::HEAD)?;
        if head == dataset {
            return Ok(name);
        }
        let entries = self.entries_of(self.peek(head, ds::SNAPSHOTS)?)?;
        let entry = entries.iter().find(|entry| entry.number() == Some(dataset)).ok_or(Error::NotFound)?;
        Ok(format!("{name}@{}", entry.text()))
    }

    /// Makes a directory under `parent` (0: the root).
    pub(crate) fn directory(&mut self, parent: u64, now: u64) -> Result<u64, EditError> {
        let mut bonus = vec![0; dir::SIZE];
        put(&mut bonus, 0, now);
        put(&mut bonus, dir::PARENT, parent);
        put(&mut bonus, dir::CHILDREN, self.table(CHILD_MAP)?);
        put(&mut bonus, dir::PROPS, self.table(PROPS)?);
        put(&mut bonus, dir::FLAGS, dir::HAS_BREAKDOWN);
        Ok(self.mos.allocate(&self.pool, kind::DSL_DIR, 512, kind::DSL_DIR, bonus)?)
    }

    pub(crate) fn add_child(&mut self, parent: u64, name: &str, child: u64) -> Result<(), EditError> {
        let children = self.peek(parent, dir::CHILDREN)?;
        self.set_number(children, name, child)
    }

    /// Finds where a new dataset called `name` belongs: its parent directory.
    pub(crate) fn place_for<'n>(&self, name: &'n str) -> Result<(u64, &'n str), EditError> {
        let (parent, last) = name.rsplit_once('/').ok_or(EditError::Invalid("a dataset is below a pool"))?;
        check_part(last)?;
        check_length(name)?;
        if name.matches('/').count() >= DEPTH_MAX {
            return Err(EditError::Invalid("datasets nest too deeply"));
        }
        if self.find_dir(name).is_ok() {
            return Err(EditError::Exists);
        }
        Ok((self.find_dir(parent)?, last))
    }

    /// Txg of the snapshot that a directory was cloned from; blocks born until then are the origin's.
    pub(crate) fn origin_txg(&self, directory: u64) -> Result<u64, EditError> {
        let origin = self.peek(directory, dir::ORIGIN)?;
        if origin == 0 { Ok(0) } else { self.peek(origin, ds::CREATED_TXG) }
    }

    /// Accounts space at a directory and up to the root.
    pub(crate) fn did_use(&mut self, directory: u64, part: Part, space: Space) -> Result<(), EditError> {
        self.account(directory, None, part, space, space.used)
    }

    /// The directory's use changes by `space`; `moved` bytes come to part `to`, and what `space` does not cover of them comes from part `from`.
    ///
    /// The parent sees a child as at least its reservation large: what the child uses of it moves from one part of the parent to another.
    pub(crate) fn account(&mut self, mut directory: u64, mut from: Option<Part>, mut to: Part, mut space: Space, mut moved: i64) -> Result<(), EditError> {
        for depth in 0.. {
            if directory == 0 {
                break;
            }
            if depth > DEPTH_MAX {
                return Err(FormatError::new("dsl", "directories nest without end", directory).into());
            }
            let bonus = self.dir_words(directory)?;
            let (used, reserved) = (signed(word(bonus, dir::USED)), signed(word(bonus, dir::RESERVED)));
            space.shift(bonus, dir::USED);
            if word(bonus, dir::FLAGS) & dir::HAS_BREAKDOWN != 0 {
                shift(bonus, dir::BREAKDOWN + to as usize * 8, moved);
                if let Some(from) = from {
                    shift(bonus, dir::BREAKDOWN + from as usize * 8, space.used - moved);
                }
            }
            moved = space.used;
            space.used = (used + space.used).max(reserved) - used.max(reserved);
            (from, to) = (Some(Part::ChildReserved), Part::Child);
            directory = word(bonus, dir::PARENT);
        }
        Ok(())
    }

    /// Moves space from one part of a directory to another.
    pub(crate) fn transfer(&mut self, directory: u64, from: Part, to: Part, used: i64) -> Result<(), EditError> {
        let bonus = self.dir_words(directory)?;
        if word(bonus, dir::FLAGS) & dir::HAS_BREAKDOWN != 0 {
            shift(bonus, dir::BREAKDOWN + from as usize * 8, -used);
            shift(bonus, dir::BREAKDOWN + to as usize * 8, used);
        }
        Ok(())
    }
}
