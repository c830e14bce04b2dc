//! Object sets being changed: what a transaction group collects in memory, and writing it out.
//!
//! # Theory
//! A change never touches a block on disk. An [`Edit`] is an object with the data blocks that were written to it since the last commit; reads look
//! there first. [`Set::sync`] then writes every dirty data block to new space, rewrites the indirect blocks above them bottom-up, puts the dnodes into the
//! meta-dnode's blocks, syncs those the same way, and ends with a new object-set block, whose pointer the caller stores one level higher. Old blocks are
//! given to the [`Sink`], which frees them or remembers them for a snapshot.

use alloc::borrow::Cow;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use ds::RangeTree;
use pool_phys::FormatError;
use pool_phys::blkptr::{self, BlockPointer};
use pool_phys::dnode::{self, Dnode, kind};
use pool_phys::intent_log;
use pool_phys::objset::Objset;
use pool_spa::{NoSpace, Pool, WriteError};

use crate::{Error, Object};

/// Bytes of a new object set.
const OBJSET_SIZE: usize = 4096;
/// Levels of a new dataset's meta-dnode: enough never to grow.
const META_LEVELS: u8 = 6;
const META_BLOCK: u64 = 16 << 10;
const DNODES_PER_BLOCK: u64 = META_BLOCK / dnode::SLOT as u64;
/// Largest dnode bonus of a one-slot dnode with one pointer.
pub const BONUS_MAX: usize = 320;
/// The same where the dnode also points to a spill block.
pub const BONUS_WITH_SPILL: usize = BONUS_MAX - blkptr::SIZE;
const USER_USED_AT: usize = 1024;
const GROUP_USED_AT: usize = 1536;
const PROJECT_USED_AT: usize = 2048;
/// Flags of an object set: what its tables of accounts are complete for.
pub(crate) const COMPLETE_SPACE: u64 = 1;
pub(crate) const COMPLETE_OBJECTS: u64 = 2;
pub(crate) const COMPLETE_PROJECTS: u64 = 4;

/// Why a change could not be made or committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditError {
    Read(Error),
    /// No space left in the pool, or in what a reservation leaves of it.
    NoSpace,
    /// A quota does not allow it.
    Quota,
    /// Something else needs it as it is: the reason.
    Busy(&'static str),
    /// The name is taken.
    Exists,
    /// A directory has entries.
    NotEmpty,
    /// A device did not take a write; the pool must not be written any more.
    Write(WriteError),
    /// Not possible for this kind of object or dataset: the reason.
    Invalid(&'static str),
    /// Features in use that we cannot write; reading is possible.
    Features(Vec<String>),
    /// A commit failed earlier: the pool must be opened anew.
    Suspended,
    /// The pool was opened for reading.
    ReadOnly,
}

impl core::fmt::Display for EditError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::NoSpace => write!(f, "no space left in the pool"),
            Self::Quota => write!(f, "a quota is exceeded"),
            Self::Busy(why) => f.write_str(why),
            Self::Exists => write!(f, "already exists"),
            Self::NotEmpty => write!(f, "directory not empty"),
            Self::Write(error) => error.fmt(f),
            Self::Invalid(why) => f.write_str(why),
            Self::Features(names) => write!(
                f,
                "the pool uses features that we cannot write: {}; it can be read",
                names.join(", ")
            ),
            Self::Suspended => write!(
                f,
                "the pool is suspended: too few of its devices serve, or a commit failed"
            ),
            Self::ReadOnly => write!(f, "the pool was imported for reading only"),
        }
    }
}

impl core::error::Error for EditError {}

impl<E: Into<Error>> From<E> for EditError {
    fn from(error: E) -> Self {
        Self::Read(error.into())
    }
}
impl From<WriteError> for EditError {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}
impl From<NoSpace> for EditError {
    fn from(NoSpace: NoSpace) -> Self {
        Self::NoSpace
    }
}

/// What a block to be written is.
#[derive(Clone, Copy, Debug)]
pub struct About {
    pub kind: u8,
    pub level: u8,
    pub fill: u64,
    /// Compression id of the object; 0 = the dataset's.
    pub compression: u8,
}

/// Blocks to be written and their bytes, before they are packed, copied and given parity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub bytes: u64,
    pub blocks: u64,
}

/// What writing changes out takes at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    pub data: Amount,
    pub metadata: Amount,
}

impl Amount {
    pub const fn new(bytes: u64, blocks: u64) -> Self {
        Self { bytes, blocks }
    }

    const fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), blocks: self.blocks.saturating_add(other.blocks) }
    }

    const fn less(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(other.bytes), blocks: self.blocks.saturating_sub(other.blocks) }
    }
}

impl Need {
    pub const fn and(self, other: Self) -> Self {
        Self { data: self.data.and(other.data), metadata: self.metadata.and(other.metadata) }
    }

    const fn less(self, other: Self) -> Self {
        Self { data: self.data.less(other.data), metadata: self.metadata.less(other.metadata) }
    }
}

/// What a set with changes writes beside blocks of its objects and of their dnodes: itself, the upper blocks of the array of dnodes, and tables of accounts.
const SET_NEED: Amount = Amount::new(24 << 10, 9);
/// What an indirect block takes beside its pointers once it is packed.
const INDIRECT_REST: u64 = 1024;

/// Where written blocks go and dropped ones end.
pub trait Sink {
    /// Writes a block and returns its pointer.
    ///
    /// # Errors
    /// No space, or a device failed.
    fn write(&mut self, data: Vec<u8>, about: About) -> Result<BlockPointer, EditError>;
    /// A block is no longer part of the object set.
    ///
    /// # Errors
    /// The pointer lies: what it names is not allocated.
    fn free(&mut self, pointer: &BlockPointer) -> Result<(), EditError>;
    /// Space a block counts as.
    fn deflated(&self, pointer: &BlockPointer) -> u64;
    /// A block of zeros may become a hole.
    fn makes_holes(&self) -> bool;
    /// The txg that a hole punched now is marked with, where the pool's holes have births.
    fn hole_birth(&self) -> Option<u64>;
}

/// An object with its changes.
#[derive(Clone, Debug)]
pub struct Edit {
    pub dnode: Dnode,
    blocks: BTreeMap<u64, Vec<u8>>,
    /// Blocks on disk with these numbers are dropped at the next sync.
    dropped: RangeTree,
    /// New contents of the spill block (`None` inside: it goes).
    spill: Option<Option<Vec<u8>>>,
    /// Indirect blocks that the next sync writes, and pointers that they have beside those of changed blocks; both at most.
    indirect: u64,
    pointers_there: u64,
    /// Of a micro ZAP that is being changed; made when it is wanted, and again when anything else changes its block.
    pub(crate) micro: MicroIndex,
}

/// What [`Edit::seek_some`] found: a block, none up to the last, or none up to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    At(u64),
    Nowhere,
    GoOn(u64),
}

/// Where the names of a micro ZAP are, by their hashes.
#[derive(Debug, Default)]
pub(crate) struct MicroIndex(pub Option<Slots>);

/// Slots by hash, and one below which none is free.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    pub by_hash: BTreeMap<u64, Vec<usize>>,
    pub first_free: usize,
}

impl Clone for MicroIndex {
    /// A copy is as a rule for going back to: it has none.
    fn clone(&self) -> Self {
        Self(None)
    }
}

#[derive(Clone, Debug)]
enum Slot {
    Live(Edit),
    /// Freed; the slots it took, and the dnode whose blocks are to be dropped if it was on disk. At `u64::MAX - n`: the one that object `n` was before
    /// another was made in its place.
    Free { slots: usize, old: Option<Dnode> },
}

/// An object set with its changes.
#[derive(Clone, Debug)]
pub struct Set {
    raw: Vec<u8>,
    meta: Dnode,
    slots: BTreeMap<u64, Slot>,
    hint: u64,
    /// The object-set block itself changed.
    header_dirty: bool,
    /// What the next sync takes for objects and dnodes, but for the changes of the object that was asked for last since then: its number, and its need when it was.
    need: Need,
    asked: Option<(u64, Need)>,
}

fn new_dnode(kind: u8, block_size: u64, bonus_kind: u8, bonus: Vec<u8>, pointers: usize, levels: u8) -> Dnode {
    Dnode {
        kind,
        indirect_shift: 17,
        levels,
        bonus_kind,
        checksum: 0,
        compression: 0,
        flags: 1,
        block_size,
        last_block: 0,
        used: 0,
        slots: 1,
        pointers: vec![BlockPointer::hole(); pointers],
        bonus,
        spill: None,
    }
}

impl Edit {
    fn new(dnode: Dnode) -> Self {
        Self { dnode, blocks: BTreeMap::new(), dropped: RangeTree::default(), spill: None, indirect: 0, pointers_there: 0, micro: MicroIndex(None) }
    }

    /// Contents of block `number`, changes included.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn block(&self, pool: &Pool, number: u64) -> Result<Vec<u8>, Error> {
        if let Some(data) = self.blocks.get(&number) {
            return Ok(data.clone());
        }
        if number > self.dnode.last_block || self.is_dropped(number) {
            return Ok(vec![0; usize::try_from(self.dnode.block_size).map_err(|_| Error::NotFound)?]);
        }
        Object::new(pool, self.dnode.clone()).block(number)
    }

    /// Looks at block `number`, changes included, as it is in memory.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn look<R>(&self, pool: &Pool, number: u64, body: impl FnOnce(&[u8]) -> R) -> Result<R, Error> {
        if let Some(data) = self.blocks.get(&number) {
            return Ok(body(data));
        }
        if number <= self.dnode.last_block
            && !self.is_dropped(number)
            && let Some(data) = Object::new(pool, self.dnode.clone()).shared_block(number)?
            && data.len() as u64 == self.dnode.block_size
        {
            return Ok(body(&data));
        }
        Ok(body(&self.block(pool, number)?))
    }

    /// Block 0 to be changed in place, made `size` bytes long; what is known of its names stays known.
    pub(crate) fn change_first(&mut self, pool: &Pool, size: u64) -> Result<(&mut Vec<u8>, &mut MicroIndex), EditError> {
        if size != self.dnode.block_size {
            let micro = core::mem::take(&mut self.micro);
            self.resize_block(pool, size)?;
            self.micro = micro;
        }
        if !self.blocks.contains_key(&0) {
            let data = self.block(pool, 0)?;
            let micro = core::mem::take(&mut self.micro);
            self.put_block(0, data);
            self.micro = micro;
        }
        let data = self.blocks.get_mut(&0).ok_or(Error::NotFound)?;
        Ok((data, &mut self.micro))
    }

    /// The pointer of block `number` as committed, perhaps a hole; `None` if it has changed since.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn committed(&self, pool: &Pool, number: u64) -> Result<Option<BlockPointer>, Error> {
        if self.blocks.contains_key(&number) || self.is_dropped(number) {
            return Ok(None);
        }
        Object::new(pool, self.dnode.clone()).pointer(number).map(Some)
    }

    /// Bytes that an object may take more, on disk, when `length` bytes at `offset` are written: what is in holes, and what blocks that were packed lose.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn growth(&self, pool: &Pool, offset: u64, length: u64) -> Result<u64, Error> {
        let mut object = Object::new(pool, self.dnode.clone());
        let (size, end) = (self.dnode.block_size, offset.saturating_add(length));
        let (mut at, mut more) = (offset, 0_u64);
        while at < end {
            let number = at / size;
            let part = number.saturating_add(1).saturating_mul(size).min(end) - at;
            let old = if self.is_dropped(number) { BlockPointer::hole() } else { object.pointer(number)? };
            more = more.saturating_add(if old.is_hole() { part } else { part.min(old.lsize.saturating_sub(old.psize)) });
            at += part;
        }
        Ok(more)
    }

    /// Replaces block `number`. `data` has the object's block size.
    ///
    /// # Panics
    /// If it has another size.
    pub fn put_block(&mut self, number: u64, data: Vec<u8>) {
        assert_eq!(data.len() as u64, self.dnode.block_size, "blocks of an object have one size");
        self.micro.0 = None;
        let before = self.height();
        self.dnode.last_block = self.dnode.last_block.max(number);
        self.indirect += self.height() - before;
        if !self.blocks.contains_key(&number) {
            self.note_way(number, true);
        }
        self.blocks.insert(number, data);
    }

    /// Levels that the object will have.
    fn height(&self) -> u64 {
        let (fan_bits, last) = (self.dnode.indirect_shift - 7, self.dnode.last_block);
        let (mut height, mut shift) = (1, 0);
        while shift < 60 && (self.dnode.pointers.len() as u64) << shift <= last {
            (height, shift) = (height + 1, shift + fan_bits);
        }
        height.max(u64::from(self.dnode.levels))
    }

    /// Indirect blocks above block `number` will be written: all, or with `shared` those that no changed block has yet.
    fn note_way(&mut self, number: u64, shared: bool) {
        let fan_bits = self.dnode.indirect_shift - 7;
        for level in 1..u32::try_from(self.height()).unwrap_or(1) {
            let shift = (fan_bits * level).min(63);
            let first = number >> shift << shift;
            if shared && self.blocks.range(first..=first | ((1 << shift) - 1)).next().is_some() {
                break;
            }
            self.indirect += 1;
            self.pointers_there += ((self.dnode.last_block >> (shift - fan_bits)).saturating_add(1)).min(1 << fan_bits);
        }
    }

    /// What writing its changes takes at most. `packs`: indirect blocks are compressed.
    fn need(&self, packs: bool) -> Need {
        let changed = Amount::new(self.dirty_bytes(), self.blocks.len() as u64);
        let indirect = if packs {
            self.indirect * INDIRECT_REST + (self.pointers_there + changed.blocks) * blkptr::SIZE as u64
        } else {
            self.indirect << self.dnode.indirect_shift
        };
        let metadata = Amount::new(indirect, self.indirect).and(match &self.spill {
            Some(Some(data)) => Amount::new(data.len() as u64, 1),
            _ => Amount::default(),
        });
        if matches!(self.dnode.kind, kind::FILE | kind::ZVOL) { Need { data: changed, metadata } } else { Need { data: Amount::default(), metadata: metadata.and(changed) } }
    }

    /// Contents of the spill block, changes included; `None`: there is none.
    ///
    /// # Errors
    /// Unreadable.
    pub fn spill(&self, pool: &Pool) -> Result<Option<Vec<u8>>, Error> {
        match (&self.spill, &self.dnode.spill) {
            (Some(new), _) => Ok(new.clone()),
            (None, Some(pointer)) => Ok(Some(pool.read(pointer)?)),
            (None, None) => Ok(None),
        }
    }

    /// Replaces the spill block; `None` drops it. The bonus must leave room for its pointer ([`BONUS_WITH_SPILL`]).
    pub fn set_spill(&mut self, data: Option<Vec<u8>>) {
        self.spill = Some(data.map(|mut data| {
            data.resize(data.len().next_multiple_of(512), 0);
            data
        }));
    }

    /// True if any block was written, on disk or since.
    #[must_use]
    pub fn has_blocks(&self) -> bool {
        !self.blocks.is_empty() || self.dnode.pointers.iter().any(|pointer| !pointer.is_hole())
    }

    /// Bytes held by changed blocks.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.blocks.len() as u64 * self.dnode.block_size
    }

    fn is_dropped(&self, number: u64) -> bool {
        self.dropped.contains(&(number..number.saturating_add(1)))
    }

    /// Drops all blocks from `first` on.
    pub fn cut(&mut self, first: u64) {
        self.micro.0 = None;
        if first > 0 {
            self.note_way(first, false);
        }
        self.blocks.split_off(&first);
        self.dropped.merge(first..u64::MAX);
        self.dnode.last_block = self.dnode.last_block.min(first.saturating_sub(1));
    }

    /// Makes `count` blocks from `first` on holes; the object keeps its length.
    pub fn punch(&mut self, first: u64, count: u64) {
        let limit = first.saturating_add(count).min(self.dnode.last_block.saturating_add(1));
        if first < limit {
            self.micro.0 = None;
            self.note_way(first, false);
            self.note_way(limit, false);
            let mut above = self.blocks.split_off(&first);
            self.blocks.append(&mut above.split_off(&limit));
            self.dropped.merge(first..limit);
        }
    }

    /// The first block from `from` on that has data (or, with `hole`, has none), changes included; `None`: none up to the last block.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn seek(&self, pool: &Pool, from: u64, hole: bool) -> Result<Option<u64>, Error> {
        match self.seek_some(pool, from, hole, u64::MAX)? {
            Sought::At(number) => Ok(Some(number)),
            Sought::Nowhere | Sought::GoOn(_) => Ok(None),
        }
    }

    /// The same, looking at so many blocks at most.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn seek_some(&self, pool: &Pool, from: u64, hole: bool, most: u64) -> Result<Sought, Error> {
        let mut object = Object::new(pool, self.dnode.clone());
        let mut number = from;
        let mut looked = 0;
        while number <= self.dnode.last_block {
            if looked == most {
                return Ok(Sought::GoOn(number));
            }
            looked += 1;
            let changed = self.blocks.contains_key(&number);
            let dropped = if changed { None } else { self.dropped.end_of(number) };
            let gap = if changed || dropped.is_some() { dropped } else { object.gap(number)? };
            match gap {
                None if !hole => return Ok(Sought::At(number)),
                Some(_) if hole => return Ok(Sought::At(number)),
                None => number += 1,
                // A changed block may lie in what is a hole on disk.
                Some(next) => number = self.blocks.range(number..next).next().map_or(next, |(number, _)| *number),
            }
        }
        Ok(Sought::Nowhere)
    }

    /// Changes the block size of an object of at most one block, keeping its contents (cut or zero-filled).
    ///
    /// # Errors
    /// Unreadable; more than one block.
    pub fn resize_block(&mut self, pool: &Pool, size: u64) -> Result<(), EditError> {
        if self.dnode.last_block > 0 {
            return Err(EditError::Invalid("the block size of an object with several blocks is fixed"));
        }
        if size != self.dnode.block_size {
            let mut data = self.block(pool, 0)?;
            data.resize(usize::try_from(size).map_err(|_| EditError::Invalid("block size"))?, 0);
            self.cut(0);
            self.dnode.block_size = size;
            self.put_block(0, data);
        }
        Ok(())
    }

    /// Reads at a byte offset, changes included.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn read_at(&self, pool: &Pool, mut offset: u64, mut out: &mut [u8]) -> Result<(), Error> {
        while !out.is_empty() {
            let number = offset / self.dnode.block_size;
            let data = self.blocks.get(&number).map_or_else(|| self.block(pool, number).map(Cow::Owned), |data| Ok(Cow::Borrowed(data.as_slice())))?;
            let skip = usize::try_from(offset % self.dnode.block_size).unwrap_or(0);
            let count = (data.len() - skip).min(out.len());
            let (now, rest) = out.split_at_mut(count);
            now.copy_from_slice(&data[skip..skip + count]);
            (out, offset) = (rest, offset + count as u64);
        }
        Ok(())
    }

    /// The `length` bytes at a byte offset, changes included: a whole block is handed over as it was read.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn read_range(&self, pool: &Pool, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        if length as u64 == self.dnode.block_size && offset.is_multiple_of(self.dnode.block_size) {
            return self.block(pool, offset / self.dnode.block_size);
        }
        let mut out = vec![0; length];
        self.read_at(pool, offset, &mut out)?;
        Ok(out)
    }

    /// Writes at a byte offset.
    ///
    /// # Errors
    /// A partly written block is unreadable.
    pub fn write_at(&mut self, pool: &Pool, mut offset: u64, mut data: &[u8]) -> Result<(), Error> {
        while !data.is_empty() {
            let size = usize::try_from(self.dnode.block_size).map_err(|_| Error::NotFound)?;
            let (number, skip) = (offset / self.dnode.block_size, usize::try_from(offset % self.dnode.block_size).unwrap_or(0));
            let count = (size - skip).min(data.len());
            self.micro.0 = None;
            match self.blocks.get_mut(&number) {
                Some(block) => block[skip..skip + count].copy_from_slice(&data[..count]),
                None if count == size => {
                    // A commit that could not read the way to it would fail. That way is known where a neighbour changed already.
                    let span = 1 << (self.dnode.indirect_shift - 7);
                    let first = number / span * span;
                    if self.dnode.levels > 1 && self.blocks.range(first..first.saturating_add(span)).next().is_none() && !self.is_dropped(number) {
                        Object::new(pool, self.dnode.clone()).pointer(number)?;
                    }
                    self.put_block(number, data[..count].to_vec());
                }
                None => {
                    let mut block = self.block(pool, number)?;
                    block[skip..skip + count].copy_from_slice(&data[..count]);
                    self.put_block(number, block);
                }
            }
            (data, offset) = (&data[count..], offset + count as u64);
        }
        Ok(())
    }

    /// Writes all changed blocks and the indirect blocks above them; the dnode then points to the new tree.
    fn sync(&mut self, pool: &Pool, sink: &mut dyn Sink) -> Result<(), EditError> {
        let fan_bits = self.dnode.indirect_shift - 7;
        let dropped = core::mem::take(&mut self.dropped);
        let dirty = core::mem::take(&mut self.blocks);
        (self.indirect, self.pointers_there) = (0, 0);
        let (kind, compression, block_size) = (self.dnode.kind, self.dnode.compression, self.dnode.block_size);
        let mut tree = Tree { pool, sink, fan_bits, dirty, dropped, delta: 0, kind, compression, block_size };
        let mut nodes: Vec<Node> = self.dnode.pointers.iter().cloned().map(Node::Disk).collect();
        // Grow until the top level's pointers cover the last block: the old pointers become the first children of a block that does not exist yet.
        loop {
            let shift = fan_bits * u32::from(self.dnode.levels - 1);
            if shift >= 60 || (nodes.len() as u64) << shift > self.dnode.last_block {
                break;
            }
            let holes = core::iter::repeat_with(|| Node::Disk(BlockPointer::hole())).take(nodes.len() - 1);
            nodes = core::iter::once(Node::New(nodes)).chain(holes).collect();
            self.dnode.levels += 1;
        }
        let top = self.dnode.levels - 1;
        for (index, node) in nodes.into_iter().enumerate() {
            self.dnode.pointers[index] = tree.update(node, top, index as u64)?;
        }
        if let Some(spill) = self.spill.take() {
            let old = self.dnode.spill.take().unwrap_or_else(BlockPointer::hole);
            tree.kind = kind::SYSTEM_ATTRIBUTES;
            let new = tree.replace(&old, spill.map(|data| (data, 0, 1)), 0)?;
            self.dnode.spill = (!new.is_hole()).then_some(new);
        }
        let delta = tree.delta;
        assert!(tree.dirty.is_empty(), "every dirty block lies below the top level");
        // A dnode that lies about its space ends at none.
        self.dnode.used = self.dnode.used.saturating_add_signed(delta);
        Ok(())
    }
}

/// A place in the block tree before the sync.
enum Node {
    Disk(BlockPointer),
    /// An indirect block made by growth, with its first children.
    New(Vec<Node>),
}

/// One object's block tree during a sync.
struct Tree<'a> {
    pool: &'a Pool,
    sink: &'a mut dyn Sink,
    fan_bits: u32,
    dirty: BTreeMap<u64, Vec<u8>>,
    dropped: RangeTree,
    /// Change of used space.
    delta: i64,
    kind: u8,
    compression: u8,
    block_size: u64,
}

impl Tree<'_> {
    fn size(&self, pointer: &BlockPointer) -> i64 {
        i64::try_from(self.sink.deflated(pointer)).unwrap_or(i64::MAX)
    }

    fn replace(&mut self, old: &BlockPointer, data: Option<(Vec<u8>, u8, u64)>, level: u8) -> Result<BlockPointer, EditError> {
        let Some((data, level, fill)) = data else {
            if old.is_hole() {
                return Ok(old.clone());
            }
            self.delta -= self.size(old);
            self.sink.free(old)?;
            // Format section 5: a punched hole says what was there, and since when it is gone.
            return Ok(self.sink.hole_birth().map_or_else(BlockPointer::hole, |birth| self.hole(level, birth)));
        };
        if !old.is_hole() {
            self.delta -= self.size(old);
            self.sink.free(old)?;
        }
        let pointer = self.sink.write(data, About { kind: self.kind, level, fill, compression: self.compression })?;
        self.delta += self.size(&pointer);
        Ok(pointer)
    }

    /// A hole of `level` that has been one since `birth`.
    fn hole(&self, level: u8, birth: u64) -> BlockPointer {
        let lsize = if level == 0 { self.block_size } else { 1 << (self.fan_bits + 7) };
        BlockPointer { birth, lsize, kind: self.kind, level, ..BlockPointer::hole() }
    }

    /// New pointer for block `index` of `level`; the old one if nothing below changed.
    fn update(&mut self, node: Node, level: u8, index: u64) -> Result<BlockPointer, EditError> {
        let fan = 1_u64 << self.fan_bits;
        let (old, children) = match node {
            Node::New(children) => (BlockPointer::hole(), Some(children)),
            Node::Disk(old) => (old, None),
        };
        if level == 0 {
            return match self.dirty.remove(&index) {
                Some(data) if self.sink.makes_holes() && data.iter().all(|byte| *byte == 0) => self.replace(&old, None, 0),
                Some(data) => {
                    let fill = if self.kind == kind::DNODE { count_dnodes(&data) } else { 1 };
                    self.replace(&old, Some((data, 0, fill)), 0)
                }
                None if !old.is_hole() && self.dropped.contains(&(index..index + 1)) => self.replace(&old, None, 0),
                None => Ok(old),
            };
        }
        let span_bits = self.fan_bits * u32::from(level);
        let (first, limit) = if span_bits >= 63 { (0, u64::MAX) } else { (index << span_bits, (index + 1) << span_bits) };
        let cuts = !old.is_hole() && self.dropped.overlaps(&(first..limit));
        if children.is_none() && !cuts && self.dirty.range(first..limit).next().is_none() {
            return Ok(old);
        }
        // The block as it will be; only what changed below it is taken apart.
        let size = blkptr::SIZE << self.fan_bits;
        let mut data = if children.is_some() || old.is_hole() {
            match old.birth {
                0 => vec![0; size],
                // What is below a hole has been one as long.
                birth => self.hole(level - 1, birth).encode().repeat(1 << self.fan_bits),
            }
        } else {
            let mut data = match self.pool.read_shared(&old) {
                Ok(data) => data.to_vec(),
                // Nothing below it can be read, and nothing is to be written there ([`Edit::write_at`] looked): what is cut off whole goes, its blocks stay taken; of
                // what is cut in part nothing can be told.
                Err(_) if self.dirty.range(first..limit).next().is_none() => {
                    let is_whole = self.dropped.contains(&(first..limit));
                    return if is_whole { self.replace(&old, None, level) } else { Ok(old) };
                }
                Err(error) => return Err(Error::from(error).into()),
            };
            data.resize(size, 0);
            data
        };
        let mut children = children.unwrap_or_default().into_iter();
        let slots = if cuts { (0..fan).collect() } else { self.changed_slots(children.len() as u64, first..limit, span_bits - self.fan_bits) };
        for slot in slots {
            let place = usize::try_from(slot).unwrap_or(usize::MAX / blkptr::SIZE) * blkptr::SIZE;
            let place = place..place + blkptr::SIZE;
            let child = match children.next() {
                Some(child) => child,
                None => Node::Disk(BlockPointer::parse(&data[place.clone()])?),
            };
            let updated = self.update(child, level - 1, index * fan + slot)?;
            data[place].copy_from_slice(&updated.encode());
        }
        let fill = blkptr::fill_of_all(&data);
        self.replace(&old, fill.map(|fill| (data, level, fill)), level)
    }

    /// Slots of an indirect block for `range`, `1 << bits` blocks each, below which something is to be written: the first `fresh`, and those with dirty blocks.
    fn changed_slots(&self, fresh: u64, range: core::ops::Range<u64>, bits: u32) -> Vec<u64> {
        let mut slots: Vec<u64> = (0..fresh).collect();
        let mut from = range.start;
        while let Some((number, _)) = self.dirty.range(from..range.end).next() {
            let slot = (number - range.start).checked_shr(bits).unwrap_or(0);
            if slot >= fresh {
                slots.push(slot);
            }
            // The first block of the slot behind.
            from = (slot + 1).checked_shl(bits).filter(|next| next >> bits == slot + 1).map_or(range.end, |next| range.start.saturating_add(next).min(range.end));
        }
        slots
    }
}

fn count_dnodes(data: &[u8]) -> u64 {
    let (mut at, mut count) = (0, 0);
    while let Some(slot) = data.get(at..at + dnode::SLOT) {
        count += u64::from(slot[0] != 0);
        at += dnode::SLOT * if slot[0] == 0 { 1 } else { usize::from(slot[12]) + 1 };
    }
    count
}

/// Whom a file's space counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub user: u64,
    pub group: u64,
    pub project: u64,
}

/// Tells a file's owner from its dnode; `None` for objects that are not files.
pub type Owners = fn(&Dnode) -> Option<Owner>;

/// How a sync accounts files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accounts {
    /// `None`: not at all.
    pub owners: Option<Owners>,
    /// Counts of objects too (feature `userobj_accounting`).
    pub objects: bool,
    /// By project too (feature `project_quota`).
    pub projects: bool,
}

/// What owners gained or lost: entries of one table of accounts.
type Charges = BTreeMap<String, i64>;

/// Dnode flags: its space is in the tables of accounts; it is counted as an object there.
const SPACE_ACCOUNTED: u8 = 2;
const OBJECT_ACCOUNTED: u8 = 8;

/// Charges for the tables of users, groups and projects.
#[derive(Debug, Default)]
struct Ledger {
    accounts: Accounts,
    charges: [Charges; 3],
}

impl Ledger {
    fn owner(&self, dnode: &Dnode) -> Option<Owner> {
        self.accounts.owners.and_then(|owners| owners(dnode))
    }

    /// Flags of a file that is accounted now.
    const fn flags(&self) -> u8 {
        SPACE_ACCOUNTED
            | if self.accounts.objects {
                OBJECT_ACCOUNTED
            } else {
                0
            }
    }

    /// Charges a file as its flags say.
    fn charge(&mut self, dnode: &Dnode, sign: i64) {
        let Some(owner) = self.owner(dnode) else {
            return;
        };
        let bytes = sign * i64::try_from(dnode.used.saturating_add(dnode::SLOT as u64)).unwrap_or(0);
        let tables = if self.accounts.projects { 3 } else { 2 };
        for (charges, id) in self
            .charges
            .iter_mut()
            .zip([owner.user, owner.group, owner.project])
            .take(tables)
        {
            if dnode.flags & SPACE_ACCOUNTED != 0 {
                *charges.entry(alloc::format!("{id:x}")).or_default() += bytes;
            }
            if dnode.flags & OBJECT_ACCOUNTED != 0 {
                *charges.entry(alloc::format!("obj-{id:x}")).or_default() += sign;
            }
        }
    }
}

impl Set {
    /// An empty object set of os type `kind` (1 MOS, 2 ZPL, 3 zvol).
    #[must_use]
    pub fn create(os_kind: u64) -> Self {
        let mut raw = vec![0; OBJSET_SIZE];
        raw[704..712].copy_from_slice(&os_kind.to_le_bytes());
        let levels = if os_kind == 1 { 1 } else { META_LEVELS };
        let meta = new_dnode(kind::DNODE, META_BLOCK, 0, Vec::new(), 3, levels);
        Self { raw, meta, slots: BTreeMap::new(), hint: 1, header_dirty: false, need: Need::default(), asked: None }
    }

    /// Opens an object set for changing.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn open(pool: &Pool, root: &BlockPointer) -> Result<Self, Error> {
        let raw = pool.read(root)?;
        let objset = Objset::parse(&raw)?;
        Ok(Self { raw, meta: objset.meta, slots: BTreeMap::new(), hint: 1, header_dirty: false, need: Need::default(), asked: None })
    }

    /// True if something changed since the last sync.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.header_dirty || !self.slots.is_empty()
    }

    /// Flags word of the object set (1 = user accounting is complete).
    #[must_use]
    pub fn flags(&self) -> u64 {
        u64::from_le_bytes(self.raw[712..720].try_into().unwrap_or_default())
    }

    /// Sets the flags word.
    pub fn set_flags(&mut self, flags: u64) {
        self.raw[712..720].copy_from_slice(&flags.to_le_bytes());
    }

    /// The header of the intent log, as it will be written.
    ///
    /// # Errors
    /// Malformed.
    pub fn log_header(&self) -> Result<intent_log::Header, Error> {
        Ok(intent_log::Header::parse(&self.raw)?)
    }

    /// Replaces the header of the intent log; the set is written at the next sync.
    pub fn set_log_header(&mut self, header: &intent_log::Header) {
        self.raw[intent_log::HEADER_AT..intent_log::HEADER_AT + intent_log::HEADER_SIZE].copy_from_slice(&header.encode());
        self.header_dirty = true;
    }

    fn disk_dnode(&self, pool: &Pool, number: u64) -> Result<Dnode, Error> {
        let (block, slot) = (number / DNODES_PER_BLOCK, number % DNODES_PER_BLOCK);
        if number == 0 || block > self.meta.last_block {
            return Err(Error::NotFound);
        }
        let data = Object::new(pool, self.meta.clone()).shared_block(block)?.ok_or(Error::NotFound)?;
        let at = usize::try_from(slot).unwrap_or(0) * dnode::SLOT;
        if is_inside(&data, at) {
            return Err(Error::NotFound);
        }
        Dnode::parse(data.get(at..).ok_or(Error::NotFound)?)?.ok_or(Error::NotFound)
    }

    /// The number names a part of a large dnode on disk, free or not.
    fn is_inside_large(&self, pool: &Pool, number: u64) -> Result<bool, Error> {
        let (block, slot) = (number / DNODES_PER_BLOCK, number % DNODES_PER_BLOCK);
        if block > self.meta.last_block {
            return Ok(false);
        }
        let data = Object::new(pool, self.meta.clone()).shared_block(block)?;
        Ok(data.is_some_and(|data| is_inside(&data, usize::try_from(slot).unwrap_or(0) * dnode::SLOT)))
    }

    /// The object as it is now, changes included.
    ///
    /// # Errors
    /// [`Error::NotFound`], unreadable, malformed.
    pub fn view(&self, pool: &Pool, number: u64) -> Result<Cow<'_, Edit>, Error> {
        match self.slots.get(&number) {
            Some(Slot::Live(edit)) => Ok(Cow::Borrowed(edit)),
            Some(Slot::Free { .. }) => Err(Error::NotFound),
            None => self.disk_dnode(pool, number).map(|dnode| Cow::Owned(Edit::new(dnode))),
        }
    }

    /// Calls `body` with the object as it is now, changes included, without copying them.
    ///
    /// # Errors
    /// As [`Set::view`], and those of `body`.
    pub fn with_view<R, E: From<Error>>(&self, pool: &Pool, number: u64, body: impl FnOnce(&Edit) -> Result<R, E>) -> Result<R, E> {
        match self.slots.get(&number) {
            Some(Slot::Live(edit)) => body(edit),
            Some(Slot::Free { .. }) => Err(Error::NotFound.into()),
            None => body(&Edit::new(self.disk_dnode(pool, number)?)),
        }
    }

    /// True if the object waits to be written, or freed.
    #[must_use]
    pub fn is_changed(&self, number: u64) -> bool {
        self.slots.contains_key(&number)
    }

    /// Bytes held by changed blocks of all objects.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.slots.values().map(|slot| if let Slot::Live(edit) = slot { edit.dirty_bytes() } else { 0 } + dnode::SLOT as u64).sum()
    }

    /// The object for changing; it will be written at the next sync.
    ///
    /// # Errors
    /// As [`Set::view`].
    pub fn edit(&mut self, pool: &Pool, number: u64) -> Result<&mut Edit, Error> {
        if self.asked.is_none_or(|(asked, _)| asked != number) {
            self.note_asked();
            if !self.slots.contains_key(&number) {
                let edit = Edit::new(self.disk_dnode(pool, number)?);
                self.note_dnode(number);
                self.slots.insert(number, Slot::Live(edit));
            }
            self.asked = Some((number, self.need_of(number)));
        }
        match self.slots.get_mut(&number) {
            Some(Slot::Live(edit)) => Ok(edit),
            _ => Err(Error::NotFound),
        }
    }

    /// What writing all changes takes at most.
    pub(crate) fn need(&self) -> Need {
        if !self.is_dirty() {
            return Need::default();
        }
        let asked = self.asked.map_or(self.need, |(number, before)| self.need.less(before).and(self.need_of(number)));
        asked.and(Need { data: Amount::default(), metadata: SET_NEED })
    }

    /// Blocks of the MOS are not compressed.
    fn packs(&self) -> bool {
        self.os_kind() != 1
    }

    fn need_of(&self, number: u64) -> Need {
        match self.slots.get(&number) {
            Some(Slot::Live(edit)) => edit.need(self.packs()),
            _ => Need::default(),
        }
    }

    /// Takes what the object that was asked for last needs by now into the sum.
    fn note_asked(&mut self) {
        if let Some((number, before)) = self.asked.take() {
            self.need = self.need.less(before).and(self.need_of(number));
        }
    }

    /// Object `number` is about to be among the changed ones: its dnode's block is written, and what is above that.
    fn note_dnode(&mut self, number: u64) {
        let has_changed = |shift: u32| self.slots.range(number >> shift << shift..=number | ((1 << shift) - 1)).next().is_some();
        let shift = DNODES_PER_BLOCK.ilog2();
        let fan_bits = self.meta.indirect_shift - 7;
        if has_changed(shift) {
            return;
        }
        let mut more = Amount::new(META_BLOCK, 1);
        if !has_changed(shift + fan_bits) {
            let there = self.meta.last_block.saturating_add(1).min(1 << fan_bits);
            more = more.and(Amount::new(if self.packs() { there * blkptr::SIZE as u64 + INDIRECT_REST } else { 1 << self.meta.indirect_shift }, 1));
        }
        self.need.metadata = self.need.metadata.and(more).and(Amount::new(blkptr::SIZE as u64, 0));
    }

    fn is_free(&self, pool: &Pool, number: u64) -> Result<bool, Error> {
        match self.slots.get(&number) {
            Some(Slot::Live(_)) => Ok(false),
            Some(Slot::Free { .. }) => Ok(true),
            None => match self.disk_dnode(pool, number) {
                Ok(_) => Ok(false),
                Err(Error::NotFound) => Ok(!self.is_inside_large(pool, number)?),
                Err(error) => Err(error),
            },
        }
    }

    /// Makes an object; returns its number. Bonus and pointers must fit one slot.
    ///
    /// # Errors
    /// Unreadable dnode blocks.
    pub fn allocate(
        &mut self,
        pool: &Pool,
        kind: u8,
        block_size: u64,
        bonus_kind: u8,
        bonus: Vec<u8>,
    ) -> Result<u64, Error> {
        loop {
            if self.hint.is_multiple_of(DNODES_PER_BLOCK)
                && let Some(next) = self.past_full(pool, self.hint)?
            {
                self.hint = next;
            }
            let number = self.hint;
            self.hint += 1;
            if number != 0 && self.is_free(pool, number)? {
                self.claim(number, kind, block_size, bonus_kind, bonus);
                return Ok(number);
            }
        }
    }

    /// The first object behind the blocks of dnodes from that of `number` on that have no free slot, as their pointers' fill counts say; `None`: that one may have.
    fn past_full(&self, pool: &Pool, number: u64) -> Result<Option<u64>, Error> {
        let mut meta = Object::new(pool, self.meta.clone());
        let mut at = number;
        while at / DNODES_PER_BLOCK <= self.meta.last_block {
            let Some(next) = meta.full_to(at / DNODES_PER_BLOCK, DNODES_PER_BLOCK)? else { break };
            let next = next.saturating_mul(DNODES_PER_BLOCK);
            if self.slots.range(at..next).any(|(_, slot)| matches!(slot, Slot::Free { .. })) {
                break;
            }
            at = next;
        }
        Ok((at > number).then_some(at))
    }

    /// Makes object `number`, as [`Set::allocate`] makes the next free one.
    ///
    /// # Errors
    /// The number is taken, or impossible; unreadable dnode blocks.
    pub fn allocate_at(&mut self, pool: &Pool, number: u64, kind: u8, block_size: u64, bonus_kind: u8, bonus: Vec<u8>) -> Result<u64, EditError> {
        if number == 0 || number >= 1 << 48 || !self.is_free(pool, number)? {
            return Err(EditError::Invalid("the object number is taken"));
        }
        self.claim(number, kind, block_size, bonus_kind, bonus);
        Ok(number)
    }

    /// The first allocated object from `from` on, changes included.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn next_object(&self, pool: &Pool, from: u64) -> Result<Option<u64>, Error> {
        let mut meta = Object::new(pool, self.meta.clone());
        let mut number = from.max(1);
        // No object has such a number; a stream may name one.
        if number > u64::MAX / 2 {
            return Ok(None);
        }
        let mut gaps = 0_u64;
        let changed = self.slots.range(number..=u64::MAX / 2).find(|(_, slot)| matches!(slot, Slot::Live(_))).map(|(number, _)| *number);
        while number / DNODES_PER_BLOCK <= self.meta.last_block && changed.is_none_or(|changed| number < changed) {
            let block = number / DNODES_PER_BLOCK;
            if let Some(next) = meta.gap(block)? {
                // A hostile tree may reach one block of holes in 2^60 ways.
                gaps += 1;
                if gaps > pool.room() / 4 + 65_536 {
                    return Err(FormatError::new("object set", "has more holes than the pool has room", number).into());
                }
                number = next.saturating_mul(DNODES_PER_BLOCK);
                continue;
            }
            let data = meta.block(block)?;
            // From the block's first slot, so that the inside of a large dnode is not taken for one.
            let mut at = block * DNODES_PER_BLOCK;
            while at < (block + 1) * DNODES_PER_BLOCK {
                let slot = usize::try_from(at % DNODES_PER_BLOCK).unwrap_or(0) * dnode::SLOT;
                let taken = data[slot] != 0;
                if taken && at >= number && !matches!(self.slots.get(&at), Some(Slot::Free { .. })) {
                    return Ok(Some(changed.map_or(at, |changed| changed.min(at))));
                }
                at += if taken { u64::from(data[slot + 12]) + 1 } else { 1 };
            }
            number = (block + 1) * DNODES_PER_BLOCK;
        }
        Ok(changed)
    }

    /// What lives here: 1 MOS, 2 ZPL, 3 zvol.
    #[must_use]
    pub fn os_kind(&self) -> u64 {
        u64::from_le_bytes(self.raw[704..712].try_into().unwrap_or_default())
    }

    /// Makes object `number`, which must be free.
    pub fn claim(&mut self, number: u64, kind: u8, block_size: u64, bonus_kind: u8, bonus: Vec<u8>) {
        // Format section 8.1: the pointers fill what the bonus leaves; system-attribute objects always have one.
        let pointers = if bonus_kind == dnode::kind::SYSTEM_ATTRIBUTES { 1 } else { 1 + 2.min((448 - 128 - bonus.len()) / 128) };
        let dnode = new_dnode(kind, block_size, bonus_kind, bonus, pointers, 1);
        self.note_asked();
        self.note_dnode(number);
        // The freed object's blocks are dropped with this one's sync.
        if let Some(Slot::Free { slots, old: Some(old) }) = self.slots.remove(&number) {
            self.slots.insert(u64::MAX - number, Slot::Free { slots, old: Some(old) });
        }
        self.slots.insert(number, Slot::Live(Edit::new(dnode)));
    }

    /// Frees an object and all its blocks.
    ///
    /// # Errors
    /// As [`Set::view`].
    pub fn free(&mut self, pool: &Pool, number: u64) -> Result<(), Error> {
        self.note_asked();
        self.note_dnode(number);
        self.need = self.need.less(self.need_of(number));
        let (slots, old) = match self.slots.remove(&number) {
            Some(Slot::Live(edit)) => {
                // Made where another was freed in this txg: that one's blocks are dropped already.
                let is_second = self.slots.contains_key(&(u64::MAX - number));
                (edit.dnode.slots, if is_second { None } else { self.disk_dnode(pool, number).ok() })
            }
            Some(Slot::Free { .. }) => return Err(Error::NotFound),
            None => {
                let dnode = self.disk_dnode(pool, number)?;
                (dnode.slots, Some(dnode))
            }
        };
        self.slots.insert(number, Slot::Free { slots, old });
        self.hint = self.hint.min(number);
        Ok(())
    }

    fn special(&self, at: usize) -> Result<Option<Edit>, Error> {
        Ok(match self.raw.get(at..at.saturating_add(dnode::SLOT)) {
            Some(bytes) => Dnode::parse(bytes)?.map(Edit::new),
            None => None,
        })
    }

    /// What table `index` of accounts (users, groups, projects) says under `name` as of the last sync.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub(crate) fn accounted(&self, pool: &Pool, index: usize, name: &[u8]) -> Result<u64, EditError> {
        let at = [USER_USED_AT, GROUP_USED_AT, PROJECT_USED_AT].get(index).copied().unwrap_or(usize::MAX);
        match self.special(at)? {
            Some(edit) if edit.has_blocks() => Ok(crate::zap_edit::number(&edit, pool, name)?.unwrap_or(0)),
            _ => Ok(0),
        }
    }

    /// Writes all changes out, and accounts files as `accounts` say.
    ///
    /// # Errors
    /// No space, an unreadable block on the way, or a failed device: the set must then not be used any more.
    pub fn sync(
        &mut self,
        pool: &Pool,
        sink: &mut dyn Sink,
        accounts: Accounts,
    ) -> Result<BlockPointer, EditError> {
        let mut meta = Edit::new(self.meta.clone());
        let mut ledger = Ledger {
            accounts,
            charges: Default::default(),
        };
        let slots = core::mem::take(&mut self.slots);
        let replaced: BTreeSet<u64> = slots.range(u64::MAX / 2..).map(|(shadow, _)| u64::MAX - shadow).collect();
        for (number, slot) in slots {
            match slot {
                Slot::Live(mut edit) => {
                    // What was there before gets its charge back as what was freed.
                    if !replaced.contains(&number)
                        && let Ok(old) = self.disk_dnode(pool, number)
                    {
                        ledger.charge(&old, -1);
                    }
                    edit.sync(pool, sink)?;
                    if ledger.owner(&edit.dnode).is_some() {
                        edit.dnode.flags |= ledger.flags();
                        ledger.charge(&edit.dnode, 1);
                    }
                    put_dnode(&mut meta, pool, number, &edit.dnode.encode())?;
                }
                Slot::Free { slots, old } => {
                    if let Some(old) = old {
                        ledger.charge(&old, -1);
                        let spill = old.spill.clone();
                        let mut edit = Edit::new(old);
                        edit.cut(0);
                        edit.sync(pool, sink)?;
                        if let Some(spill) = spill {
                            sink.free(&spill)?;
                        }
                    }
                    // Of one that was replaced what the other does not cover, which takes one slot.
                    let (first, slots) = if number > u64::MAX / 2 { (u64::MAX - number + 1, slots.saturating_sub(1)) } else { (number, slots) };
                    if slots > 0 && first / DNODES_PER_BLOCK <= meta.dnode.last_block {
                        put_dnode(&mut meta, pool, first, &vec![0; slots * dnode::SLOT])?;
                    }
                }
            }
        }
        for (at, charges) in [USER_USED_AT, GROUP_USED_AT, PROJECT_USED_AT]
            .into_iter()
            .zip(&ledger.charges)
        {
            if charges.values().all(|by| *by == 0) {
                continue;
            }
            if let Some(mut edit) = self.special(at)? {
                for (name, by) in charges.iter().filter(|(_, by)| **by != 0) {
                    crate::zap_edit::add(&mut edit, pool, name.as_bytes(), *by)?;
                }
                edit.sync(pool, sink)?;
                self.raw[at..at + dnode::SLOT].copy_from_slice(&edit.dnode.encode());
            }
        }
        meta.sync(pool, sink)?;
        self.meta = meta.dnode;
        self.raw[..dnode::SLOT].copy_from_slice(&self.meta.encode());
        self.header_dirty = false;
        (self.need, self.asked) = (Need::default(), None);
        let fill = self.meta.pointers.iter().map(|pointer| pointer.fill).sum();
        sink.write(self.raw.clone(), About { kind: kind::OBJSET, level: 0, fill, compression: 0 })
    }

    /// Gives the object set tables of accounts (empty ZAPs): users and groups, and as the pool's features say.
    pub fn make_accounting(&mut self, accounts: Accounts) {
        let tables = [USER_USED_AT, GROUP_USED_AT, PROJECT_USED_AT];
        for at in tables
            .into_iter()
            .take(if accounts.projects { 3 } else { 2 })
        {
            let edit = Edit::new(new_dnode(39, 512, 0, Vec::new(), 3, 1));
            // Its block comes with the first charge, which the root directory makes.
            self.raw[at..at + dnode::SLOT].copy_from_slice(&edit.dnode.encode());
        }
        let objects = if accounts.objects {
            COMPLETE_OBJECTS
        } else {
            0
        };
        self.set_flags(
            COMPLETE_SPACE
                | objects
                | if accounts.projects {
                    COMPLETE_PROJECTS
                } else {
                    0
                },
        );
    }
}

/// The slot at byte `at` of a block of dnodes lies inside a large dnode that begins before it.
fn is_inside(data: &[u8], at: usize) -> bool {
    let mut next = 0;
    while next < at {
        let Some(slot) = data.get(next..next + dnode::SLOT) else {
            return false;
        };
        next += dnode::SLOT
            * if slot[0] == 0 {
                1
            } else {
                usize::from(slot[12]) + 1
            };
    }
    next > at
}

fn put_dnode(meta: &mut Edit, pool: &Pool, number: u64, bytes: &[u8]) -> Result<(), EditError> {
    let (block, slot) = (number / DNODES_PER_BLOCK, number % DNODES_PER_BLOCK);
    let mut data = meta.block(pool, block)?;
    let at = usize::try_from(slot).unwrap_or(0) * dnode::SLOT;
    data.get_mut(at..at + bytes.len()).ok_or(EditError::Invalid("a dnode crosses its block"))?.copy_from_slice(bytes);
    meta.put_block(block, data);
    Ok(())
}
