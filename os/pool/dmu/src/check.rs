//! The full check: every reachable block readable, the space maps exactly those blocks.
//!
//! What `zdb -bcc` finds, found with the library's own means so that a test can afford it after every power cut: unreadable blocks, space
//! that two blocks claim, space in use that the maps call free, and space that nothing refers to.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

use ds::RangeTree;
use pool_phys::FormatError;
use pool_phys::blkptr::{self, BlockPointer};
use pool_phys::dnode::{self, Dnode, kind};
use pool_phys::intent_log;
use pool_phys::objset::Objset;
use pool_spa::{Pool, ReadError};

use crate::edit::{EditError, Set};
use crate::dsl::word;
use crate::lists::list;
use crate::look::Look;
use crate::store::{OBJECT_DIRECTORY, load_space};
use crate::{Datasets, Error};

/// A list names no block twice, and none takes less than this of a pool: what is embedded takes a pointer's room, and those pack well.
const LISTED_BYTES: u64 = 64;
/// How deep lists nest.
const LIST_DEPTH: u32 = 64;
/// Faults kept with their place; more are only counted.
const FAULTS_MAX: usize = 64;

/// Something wrong with a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Unreadable(ReadError),
    /// Two blocks claim the space.
    Shared { vdev: u32, range: Range<u64> },
    /// A block is in space that the maps call free.
    Unallocated { vdev: u32, range: Range<u64> },
    /// Nothing refers to the space.
    Leaked { vdev: u32, range: Range<u64> },
    /// A space map's sum is not that of its entries: object, what it says, what was found.
    Sum { dataset: u64, stated: u64, found: u64 },
    /// A directory, dataset or list states another space than its blocks take.
    Account { object: u64, what: &'static str, stated: u64, found: u64 },
}

/// What a full check found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    pub blocks: u64,
    /// Stored bytes of those.
    pub bytes: u64,
    pub fault_count: u64,
    pub faults: Vec<Fault>,
}

impl Checked {
    fn add(&mut self, fault: Fault) {
        self.fault_count += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

struct Walker<'a> {
    pool: &'a Pool,
    used: BTreeMap<u32, RangeTree>,
    out: Checked,
    /// Read data blocks too, not only what leads to them.
    data: bool,
}

impl Walker<'_> {
    /// Notes a block's places; false if another block has one of them.
    fn claim(&mut self, pointer: &BlockPointer) -> bool {
        let mut is_first = true;
        self.out.blocks += 1;
        self.out.bytes += pointer.psize;
        let Some(places) = self.pool.places(pointer) else {
            self.out.add(Fault::Unreadable(ReadError { reason: pool_spa::Reason::NoGoodCopy, dva: pointer.copies().next(), birth: pointer.birth }));
            return false;
        };
        for dva in places {
            let range = dva.offset..dva.offset.saturating_add(dva.asize);
            if !self.used.entry(dva.vdev).or_default().add(range.clone()) {
                self.out.add(Fault::Shared { vdev: dva.vdev, range });
                is_first = false;
            }
        }
        is_first
    }

    fn walk(&mut self, pointer: &BlockPointer, within: Within, min_birth: u64, is_head: bool) -> Result<(), Error> {
        if pointer.is_hole() || pointer.birth <= min_birth {
            return Ok(());
        }
        // What lies below a block that is reached twice was walked the first time: a hostile tree may reach one block in 2^60 ways.
        if !self.claim(pointer) {
            return Ok(());
        }
        let is_interior = within.leads_on(pointer);
        if !is_interior && !self.data {
            return Ok(());
        }
        let data = match self.pool.read_shared(pointer) {
            Ok(data) => data,
            Err(error) => {
                self.out.add(Fault::Unreadable(error));
                return Ok(());
            }
        };
        if pointer.level > 0 {
            for child in blkptr::below(pointer.level, &data) {
                self.walk(&child?.1, within, min_birth, is_head)?;
            }
        } else if pointer.kind == kind::OBJSET {
            let objset = Objset::parse(&data)?;
            self.walk_dnode(&objset.meta, Within::Dnodes, min_birth)?;
            for at in [1024, 1536, 2048] {
                if let Some(bytes) = data.get(at..at + dnode::SLOT)
                    && let Some(dnode) = Dnode::parse(bytes)?
                {
                    self.walk_dnode(&dnode, Within::Object, min_birth)?;
                }
            }
            // A log's blocks that are younger than the pool are not in the maps yet.
            let log = intent_log::Header::parse(&data)?;
            let mut next = log.first;
            while is_head && !next.is_hole() && next.birth <= self.pool.uberblock().txg {
                if !self.claim(&next) {
                    break;
                }
                let Some((after, _)) = self.pool.read_log_block(&next).ok().flatten().and_then(|block| intent_log::parse_block(&block).ok()) else { break };
                next = after;
            }
        } else if pointer.kind == kind::DNODE {
            let mut at = 0;
            while at < data.len() {
                at += match Dnode::parse(&data[at..])? {
                    Some(dnode) => {
                        self.walk_dnode(&dnode, Within::Object, min_birth)?;
                        dnode.slots * dnode::SLOT
                    }
                    None => dnode::SLOT,
                };
            }
        }
        Ok(())
    }

    fn walk_dnode(&mut self, dnode: &Dnode, within: Within, min_birth: u64) -> Result<(), Error> {
        dnode.pointers.iter().chain(dnode.spill.as_ref()).try_for_each(|pointer| self.walk(pointer, within, min_birth, false))
    }
}

/// Where in a dataset's tree a pointer was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Within {
    /// It is the tree's root, or above it.
    Root,
    /// In the array of dnodes.
    Dnodes,
    /// In any other object.
    Object,
}

impl Within {
    /// Of an object by its number; what the root leads to has no fan.
    pub const fn of(object: u64, fan_bits: u32) -> Self {
        match (fan_bits, object) {
            (0, _) => Self::Root,
            (_, 0) => Self::Dnodes,
            _ => Self::Object,
        }
    }

    /// True if there are pointers in the block. A set inside a set, or dnodes in an object, are contents, whatever they call themselves: what is without a checksum could lead
    /// to itself, and down for ever.
    pub const fn leads_on(self, pointer: &BlockPointer) -> bool {
        pointer.level > 0 || matches!((self, pointer.kind), (Self::Root, kind::OBJSET) | (Self::Dnodes, kind::DNODE))
    }
}

/// Refuses a walk that looked at more blocks than the pool has room for: a hostile tree may reach one block in 2^60 ways. 64 times as many: datasets share blocks, and a walk in
/// steps goes its way down again with each.
///
/// # Errors
/// It did.
pub(crate) fn bounded(pool: &Pool, visits: u64) -> Result<(), FormatError> {
    if visits / 64 > pool.room() / 512 { Err(FormatError::new("block tree", "has more blocks than the pool has room", visits)) } else { Ok(()) }
}

/// How many blocks all lists of a pool can name together.
pub(crate) fn listable(pool: &Pool) -> u64 {
    pool.room() / LISTED_BYTES
}

/// Calls `visit` with every pointer of a list and its sublists. `left`: how many blocks and lists it may still name ([`listable`]).
pub(crate) fn each_listed(datasets: &Datasets<'_>, number: u64, left: &mut u64, visit: &mut dyn FnMut(&BlockPointer)) -> Result<(), Error> {
    each_listed_below(datasets, number, 0, left, visit)
}

fn each_listed_below(datasets: &Datasets<'_>, number: u64, depth: u32, left: &mut u64, visit: &mut dyn FnMut(&BlockPointer)) -> Result<(), Error> {
    let mut object = datasets.mos().object(number)?;
    let bonus = object.dnode().bonus.clone();
    let room = |object: &crate::Object<'_>| object.dnode().last_block.saturating_add(1).saturating_mul(object.dnode().block_size);
    let count = word(&bonus, list::COUNT);
    if count > room(&object) / blkptr::SIZE as u64 || depth > LIST_DEPTH {
        return Err(FormatError::new("list of blocks", "is longer than its object", count).into());
    }
    let mut take = |count| {
        *left = left.checked_sub(count).ok_or(FormatError::new("list of blocks", "names more blocks than the pool has, with the lists before it", count))?;
        Ok::<(), Error>(())
    };
    take(count)?;
    for index in 0..count {
        let mut bytes = [0; blkptr::SIZE];
        object.read_at(index * blkptr::SIZE as u64, &mut bytes)?;
        visit(&BlockPointer::parse(&bytes)?);
    }
    let (table, subs) = (word(&bonus, list::SUBLISTS), word(&bonus, list::SUBLIST_COUNT));
    if table == 0 || subs == 0 {
        return Ok(());
    }
    let mut table = datasets.mos().object(table)?;
    if subs > room(&table) / 8 {
        return Err(FormatError::new("list of blocks", "has more sublists than it names", subs).into());
    }
    take(subs)?;
    for index in 0..subs {
        let mut bytes = [0; 8];
        table.read_at(index * 8, &mut bytes)?;
        each_listed_below(datasets, u64::from_le_bytes(bytes), depth + 1, left, visit)?;
    }
    Ok(())
}

/// Checks the pool as its uberblock describes it. `data`: reads the contents of files too.
///
/// # Errors
/// A structure so malformed that the walk cannot go on.
pub fn check(pool: &Pool, data: bool) -> Result<Checked, EditError> {
    let mut walker = Walker { pool, used: BTreeMap::new(), out: Checked::default(), data };
    walker.walk(&pool.uberblock().root, Within::Root, 0, false)?;
    let datasets = Datasets::open(pool)?;
    let mut roots = Vec::new();
    datasets.mos().for_each(|_, dnode| {
        if dnode.bonus_kind == kind::DSL_DATASET {
            let phys = pool_phys::dsl::Dataset::parse(&dnode.bonus)?;
            roots.push((phys.root, phys.previous_snapshot_txg, phys.next_snapshot == 0));
        }
        Ok(())
    })?;
    for (root, previous_txg, is_head) in roots {
        walker.walk(&root, Within::Root, previous_txg, is_head)?;
    }
    // Blocks that wait to be freed.
    let mut left = listable(pool);
    for name in ["sync_bplist", "free_bpobj"] {
        each_listed(&datasets, datasets.mos().lookup_number(OBJECT_DIRECTORY, name)?, &mut left, &mut |pointer| {
            walker.claim(pointer);
        })?;
    }
    if let Some(trees) = datasets.one(OBJECT_DIRECTORY, "bptree_obj")?.and_then(|entry| entry.number()) {
        crate::drain::each_doomed(&datasets, trees, &mut |pointer| {
            walker.claim(pointer);
        })?;
    }
    let Walker { used, mut out, .. } = walker;
    let space = load_space(pool, &Set::open(pool, &pool.uberblock().root)?)?;
    let nothing = RangeTree::new();
    for (id, top) in space.tops() {
        let found = used.get(id).unwrap_or(&nothing);
        let mut mapped = RangeTree::new();
        for slab in &top.metaslabs {
            slab.used().iter().for_each(|range| mapped.merge(range));
            if slab.header.allocated != slab.used().total() {
                out.add(Fault::Sum { dataset: slab.object, stated: slab.header.allocated, found: slab.used().total() });
            }
        }
        let mut leaked = mapped.clone();
        found.iter().for_each(|range| leaked.subtract(&range));
        leaked.iter().for_each(|range| out.add(Fault::Leaked { vdev: *id, range }));
        let mut unallocated = found.clone();
        mapped.iter().for_each(|range| unallocated.subtract(&range));
        unallocated.iter().for_each(|range| out.add(Fault::Unallocated { vdev: *id, range }));
    }
    for id in used.keys().filter(|id| !space.tops().contains_key(id)) {
        out.add(Fault::Unallocated { vdev: *id, range: 0..0 });
    }
    Ok(out)
}
