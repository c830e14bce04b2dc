//! Space: metaslabs and the allocator.
//!
//! # Theory
//! A top-level vdev is cut into metaslabs, each with a log of its allocations (its space map). In memory a metaslab is the set of its free ranges.
//! Within one txg the allocator collects what was allocated and what was freed; the DMU writes both to the space maps with the
//! commit. A range freed in txg T stays out of use until [`DEFER_TXGS`] more txgs have committed, so that the last uberblocks keep describing
//! intact trees.
//!
//! # Limits
//! No gang blocks are made: an allocation that fits no single free range fails with [`NoSpace`].

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::ops::Range;

use ds::RangeTree;
use pool_phys::FormatError;
use pool_phys::blkptr::{BlockPointer, Dva};
use pool_phys::raidz::Shape;
use pool_phys::spacemap::{Entry, Header};

/// Committed txgs that pass before freed space is used again.
pub const DEFER_TXGS: usize = 3;

/// No free range is large enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSpace;

/// A metaslab: part of a top-level vdev with one space map.
#[derive(Clone, Debug)]
pub struct Metaslab {
    /// Byte range on the vdev.
    range: Range<u64>,
    free: RangeTree,
    /// Object of the space map; 0 = never used.
    pub object: u64,
    pub header: Header,
    allocated: RangeTree,
    freed: RangeTree,
    hint: u64,
}

/// A top-level vdev that allocates.
#[derive(Clone, Debug)]
pub struct Top {
    pub ashift: u32,
    pub shape: Option<Shape>,
    /// MOS object with the space map numbers.
    pub array_object: u64,
    pub metaslabs: Vec<Metaslab>,
    is_log: bool,
}

/// All space of a pool.
#[derive(Clone, Debug, Default)]
pub struct Allocator {
    tops: BTreeMap<u32, Top>,
    /// Ranges freed in each of the last txgs, oldest first.
    deferred: VecDeque<Vec<(u32, Range<u64>)>>,
    rotor: usize,
}

/// Shape of a vdev that joins an allocator.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub ashift: u32,
    pub shape: Option<Shape>,
    /// Allocatable bytes.
    pub asize: u64,
    /// log2 of a metaslab's size.
    pub metaslab_shift: u32,
    pub array_object: u64,
    pub is_log: bool,
}

impl Allocator {
    /// Adds a top-level vdev with all space free.
    pub fn add_top(&mut self, id: u32, geometry: &Geometry) {
        let size = 1_u64 << geometry.metaslab_shift;
        let metaslabs = (0..geometry.asize >> geometry.metaslab_shift)
            .map(|index| {
                let range = index * size..(index + 1) * size;
                let mut free = RangeTree::new();
                assert!(free.add(range.clone()), "an empty set takes any range");
                let (allocated, freed) = (RangeTree::new(), RangeTree::new());
                Metaslab { hint: range.start, range, free, object: 0, header: Header::default(), allocated, freed }
            })
            .collect();
        let Geometry { ashift, shape, array_object, is_log, .. } = *geometry;
        self.tops.insert(id, Top { ashift, shape, array_object, metaslabs, is_log });
    }

    /// Replays a space map into a metaslab.
    ///
    /// # Errors
    /// No such metaslab, or entries that contradict each other.
    pub fn load(&mut self, top: u32, index: usize, object: u64, header: Header, entries: &[Entry]) -> Result<(), FormatError> {
        let bad = |why, value| FormatError::new("space map", why, value);
        let top = self.tops.get_mut(&top).ok_or_else(|| bad("of an unknown vdev", u64::from(top)))?;
        let shift = top.ashift;
        let slab = top.metaslabs.get_mut(index).ok_or_else(|| bad("of an unknown metaslab", index as u64))?;
        (slab.object, slab.header) = (object, header);
        for entry in entries {
            let span = entry.offset.checked_add(entry.run).filter(|end| *end <= (slab.range.end - slab.range.start) >> shift);
            let end = span.ok_or_else(|| bad("entry leaves its metaslab", entry.offset))?;
            let range = slab.range.start + (entry.offset << shift)..slab.range.start + (end << shift);
            let fits = if entry.free { slab.free.add(range) } else { slab.free.remove(range) };
            if !fits {
                return Err(bad("entry contradicts those before it", entry.offset));
            }
        }
        Ok(())
    }

    /// The tops.
    #[must_use]
    pub const fn tops(&self) -> &BTreeMap<u32, Top> {
        &self.tops
    }

    /// The tops, to note space map objects.
    pub const fn tops_mut(&mut self) -> &mut BTreeMap<u32, Top> {
        &mut self.tops
    }

    /// Allocates `copies` places for `psize` bytes, on different vdevs or metaslabs where that is possible. Log vdevs are left out.
    ///
    /// # Errors
    /// [`NoSpace`]; nothing is allocated then.
    pub fn allocate(&mut self, psize: u64, copies: usize) -> Result<[Option<Dva>; 3], NoSpace> {
        let mut out: [Option<Dva>; 3] = [None; 3];
        let ids: Vec<u32> = self.tops.iter().filter(|(_, top)| !top.is_log).map(|(id, _)| *id).collect();
        for copy in 0..copies {
            self.rotor = self.rotor.wrapping_add(1);
            let found = (0..ids.len()).find_map(|step| {
                let id = ids[self.rotor.wrapping_add(step) % ids.len()];
                let top = self.tops.get_mut(&id)?;
                let (offset, asize) = top.allocate(psize, copy, copies)?;
                Some(Dva { vdev: id, offset, asize, gang: false })
            });
            if found.is_none() {
                out.iter().flatten().for_each(|dva| self.free(dva));
                return Err(NoSpace);
            }
            out[copy] = found;
        }
        Ok(out)
    }

    /// Frees a place. Space allocated in this txg is usable again at once, since nothing on disk refers to it.
    ///
    /// # Panics
    /// If the range is not allocated: a block pointer was freed twice. Import checks that every pointer lies within its vdev.
    pub fn free(&mut self, dva: &Dva) {
        let top = self.tops.get_mut(&dva.vdev).expect("a freed block lies on a known vdev");
        let range = dva.offset..dva.offset + dva.asize;
        let slab = top.slab_mut(&range).expect("a block lies within one metaslab");
        if slab.allocated.remove(range.clone()) {
            assert!(slab.free.add(range), "{dva:?} was allocated and free at once");
        } else {
            assert!(!slab.free.overlaps(&range), "{dva:?} is freed but was not allocated");
            assert!(slab.freed.add(range), "{dva:?} is freed twice");
        }
    }

    /// True if `dva` lies in allocated space of a known vdev: what a block pointer from disk must fulfil before it may be freed.
    #[must_use]
    pub fn is_allocated(&self, dva: &Dva) -> bool {
        let range = dva.offset..dva.offset.saturating_add(dva.asize);
        let slab = self.tops.get(&dva.vdev).and_then(|top| top.metaslabs.iter().find(|slab| slab.range.start <= range.start && range.end <= slab.range.end));
        slab.is_some_and(|slab| !slab.free.overlaps(&range) && !slab.freed.overlaps(&range))
    }

    /// The txg committed: its frees wait their turn, and those of the oldest waiting txg become usable.
    pub fn committed(&mut self) {
        let mut ranges = Vec::new();
        for (id, top) in &mut self.tops {
            for slab in &mut top.metaslabs {
                slab.allocated = RangeTree::new();
                ranges.extend(core::mem::take(&mut slab.freed).iter().map(|range| (*id, range)));
            }
        }
        self.deferred.push_back(ranges);
        if self.deferred.len() > DEFER_TXGS {
            for (id, range) in self.deferred.pop_front().unwrap_or_default() {
                let slab = self.tops.get_mut(&id).and_then(|top| top.slab_mut(&range)).expect("it was freed from there");
                assert!(slab.free.add(range), "deferred space was not free");
            }
        }
    }

    /// Bytes free now and bytes in all, as stored (raidz parity included).
    #[must_use]
    pub fn free_total(&self) -> (u64, u64) {
        let slabs = || self.tops.values().filter(|top| !top.is_log).flat_map(|top| &top.metaslabs);
        let deferred: u64 = self.deferred.iter().flatten().map(|(_, range)| range.end - range.start).sum();
        (slabs().map(|slab| slab.free.total()).sum::<u64>() + deferred, slabs().map(|slab| slab.range.end - slab.range.start).sum())
    }

    /// Deflated size of a block: what space accounting counts. Σ over copies of sectors times the vdev's ratio.
    #[must_use]
    pub fn deflated(&self, pointer: &BlockPointer) -> u64 {
        let ratio = |dva: &Dva| self.tops.get(&dva.vdev).and_then(|top| top.shape).map_or(512, |shape| (128 << 10) / (shape.asize(128 << 10) / 512));
        pointer.copies().map(|dva| dva.asize / 512 * ratio(&dva)).sum()
    }
}

impl Top {
    fn slab_mut(&mut self, range: &Range<u64>) -> Option<&mut Metaslab> {
        self.metaslabs.iter_mut().find(|slab| slab.range.start <= range.start && range.end <= slab.range.end)
    }

    fn allocate(&mut self, psize: u64, copy: usize, copies: usize) -> Option<(u64, u64)> {
        let unit = 1 << self.ashift;
        let asize = self.shape.map_or(psize.next_multiple_of(unit), |shape| shape.asize(psize));
        let count = self.metaslabs.len();
        // Copies start in different parts of the vdev.
        let start = count * copy / copies.max(1);
        (0..count).find_map(|step| {
            let slab = &mut self.metaslabs[(start + step) % count];
            let offset = slab.free.first_fit(asize, slab.hint).or_else(|| slab.free.first_fit(asize, slab.range.start))?;
            let range = offset..offset + asize;
            assert!(slab.free.remove(range.clone()) && slab.allocated.add(range), "first fit gives free space");
            slab.hint = offset + asize;
            Some((offset, asize))
        })
    }
}

impl Metaslab {
    /// True if the txg changed it.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.allocated.is_empty() || !self.freed.is_empty()
    }

    fn entries<'a>(&'a self, ranges: &'a RangeTree, free: bool, shift: u32) -> impl Iterator<Item = Entry> + 'a {
        ranges.iter().map(move |range| Entry {
            free,
            offset: (range.start - self.range.start) >> shift,
            run: (range.end - range.start) >> shift,
        })
    }

    /// Log entries of what this txg changed.
    #[must_use]
    pub fn changes(&self, shift: u32) -> Vec<Entry> {
        self.entries(&self.allocated, false, shift).chain(self.entries(&self.freed, true, shift)).collect()
    }

    /// Log entries that describe the metaslab afresh. `deferred` ranges count as free.
    #[must_use]
    pub fn condensed(&self, shift: u32, deferred: &RangeTree) -> Vec<Entry> {
        let mut used = RangeTree::new();
        let mut at = self.range.start;
        for gap in self.free.iter().chain(core::iter::once(self.range.end..self.range.end)) {
            assert!(used.add(at..gap.start), "gaps are disjoint");
            at = gap.end;
        }
        for range in self.freed.iter().chain(deferred.iter().filter(|range| self.range.start <= range.start && range.end <= self.range.end)) {
            assert!(used.remove(range), "freed space was in use");
        }
        self.entries(&used, false, shift).collect()
    }

    /// Allocated bytes after this txg.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.header.allocated + self.allocated.total() - self.freed.total()
    }

    /// Counts of free ranges by size, `2^(i + shift)` bytes and up, after this txg; `deferred` ranges count as free.
    #[must_use]
    pub fn histogram(&self, shift: u32, deferred: &RangeTree) -> [u64; 32] {
        let mut free = self.free.clone();
        for range in self.freed.iter().chain(deferred.iter().filter(|range| self.range.start <= range.start && range.end <= self.range.end)) {
            assert!(free.add(range), "freed space was not free");
        }
        let mut out = [0; 32];
        for range in free.iter() {
            let bucket = ((range.end - range.start) >> shift).ilog2();
            out[usize::try_from(bucket.min(31)).unwrap_or(31)] += 1;
        }
        out
    }
}

impl Allocator {
    /// Ranges of one vdev that are free on disk but not yet usable.
    #[must_use]
    pub fn deferred(&self, top: u32) -> RangeTree {
        let mut out = RangeTree::new();
        for (_, range) in self.deferred.iter().flatten().filter(|(id, _)| *id == top) {
            assert!(out.add(range.clone()), "space was freed twice");
        }
        out
    }
}
