//! Space: metaslabs and the allocator.
//!
//! # Theory
//! A top-level vdev is cut into metaslabs, each with a log of its allocations (its space map). In memory a metaslab is the set of its free ranges.
//! Within one txg the allocator collects what was allocated and what was freed; the DMU writes both to the space maps with the
//! commit. A range freed in txg T stays out of use until [`DEFER_TXGS`] more txgs have committed, so that the last uberblocks keep describing
//! intact trees.
//!
//! A block that fits no single free range is cut into pieces under a gang header ([`Place::Gang`], format section 5.2).
//!
//! Intent-log blocks live between commits: they are written before the space maps that would name them. Those that a commit makes needless leave the
//! txg's allocations and stay out of use until it is done ([`Allocator::free_log`]); those found in a log at import are kept out of use the same way
//! ([`Allocator::claim`]).

use alloc::borrow::Cow;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::ops::Range;

use ds::RangeTree;
use pool_phys::FormatError;
use pool_phys::blkptr::{BlockPointer, Checksum, Compression, Dva, SIZE, Target};
use pool_phys::label;
use pool_phys::raidz::Shape;
use pool_phys::spacemap::{Entry, Header};

/// Committed txgs that pass before freed space is used again.
pub const DEFER_TXGS: usize = 3;

/// Bytes of a gang header, pieces under one, and how deep gangs nest.
const GANG_HEADER: u64 = 512;
const GANG_PIECES: u64 = 3;
const GANG_DEPTH: u32 = 8;
const _: () = assert!(GANG_PIECES as usize * SIZE < GANG_HEADER as usize);

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
    /// In use by an intent log found at import, unknown to the space map.
    claimed: RangeTree,
    /// Freed, and not usable yet: until some txgs are over, or a log is no longer on disk.
    waiting: RangeTree,
    /// Changes that are in log space maps only: the map is to be written whole.
    unflushed: bool,
    hint: u64,
}

/// Where a stored block goes.
#[derive(Clone, Debug)]
pub enum Place {
    Whole([Option<Dva>; 3]),
    /// Copies of a gang header, and its pieces with their sizes in bytes.
    Gang { headers: [Option<Dva>; 3], pieces: Vec<(u64, Self)> },
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
    /// Out of use until the open txg commits, and free in the space maps all the time.
    held: Vec<(u32, Range<u64>)>,
    rotor: usize,
}

/// How fragmented a piece of free space is, in percent, by its size from 512 bytes on in powers of two: as OpenZFS rates them.
const FRAGMENTED: [u8; 16] = [100, 100, 98, 95, 90, 80, 70, 60, 50, 40, 30, 20, 15, 10, 5, 0];

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
                Metaslab::new(range)
            })
            .collect();
        let Geometry { ashift, shape, array_object, is_log, .. } = *geometry;
        self.tops.insert(id, Top { ashift, shape, array_object, metaslabs, is_log });
    }

    /// Replays a space map into a metaslab.
    ///
    /// # Errors
    /// No such metaslab, or entries that contradict each other.
    pub fn load(&mut self, top: u32, index: usize, object: u64, header: Header, entries: impl Iterator<Item = Result<Entry, FormatError>>) -> Result<(), FormatError> {
        let bad = |why, value| FormatError::new("space map", why, value);
        let top = self.tops.get_mut(&top).ok_or_else(|| bad("of an unknown vdev", u64::from(top)))?;
        let shift = top.ashift;
        let slab = top.metaslabs.get_mut(index).ok_or_else(|| bad("of an unknown metaslab", index as u64))?;
        (slab.object, slab.header) = (object, header);
        for entry in entries {
            let entry = entry?;
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

    /// Replays one entry of a log space map, in bytes of the vdev. Its metaslab's map is then to be written whole.
    ///
    /// # Errors
    /// No such place, or it contradicts what was replayed before.
    pub fn replay(&mut self, vdev: u32, range: Range<u64>, free: bool) -> Result<(), FormatError> {
        let bad = |why| FormatError::new("log space map", why, range.start);
        let top = self
            .tops
            .get_mut(&vdev)
            .ok_or_else(|| bad("of an unknown vdev"))?;
        let unit = (1 << top.ashift) - 1;
        let slab = top
            .slab_mut(&range)
            .ok_or_else(|| bad("entry lies in no metaslab"))?;
        if range.start & unit != 0 || range.end & unit != 0 {
            return Err(bad("entry is not aligned"));
        }
        let bytes = range.end - range.start;
        let fits = if free {
            slab.free.add(range.clone())
        } else {
            slab.free.remove(range.clone())
        };
        let sum = if free {
            slab.header.allocated.checked_sub(bytes)
        } else {
            slab.header.allocated.checked_add(bytes)
        };
        slab.header.allocated = sum
            .filter(|_| fits)
            .ok_or_else(|| bad("entry contradicts those before it"))?;
        slab.unflushed = true;
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

    /// Gives a top-level vdev the metaslabs that its new size allows.
    pub fn grow_top(&mut self, id: u32, geometry: &Geometry) {
        if let Some(top) = self.tops.get_mut(&id) {
            let size = 1_u64 << geometry.metaslab_shift;
            let have = top.metaslabs.len() as u64;
            top.metaslabs.extend((have..geometry.asize >> geometry.metaslab_shift).map(|index| Metaslab::new(index * size..(index + 1) * size)));
        }
    }

    /// Finds places for a stored block of `psize` bytes, in pieces if it must be.
    ///
    /// # Errors
    /// [`NoSpace`]; nothing is allocated then.
    pub fn place(&mut self, psize: u64, copies: usize) -> Result<Place, NoSpace> {
        self.place_at(psize, copies, 0)
    }

    fn place_at(&mut self, psize: u64, copies: usize, depth: u32) -> Result<Place, NoSpace> {
        if let Ok(dvas) = self.allocate(psize, copies) {
            return Ok(Place::Whole(dvas));
        }
        if psize <= GANG_HEADER || depth == GANG_DEPTH {
            return Err(NoSpace);
        }
        let headers = self.allocate(GANG_HEADER, copies)?;
        let mut pieces: Vec<(u64, Place)> = Vec::new();
        let mut left = psize;
        for index in 0..GANG_PIECES {
            let size = left.div_ceil(GANG_PIECES - index).next_multiple_of(512).min(left);
            if size == 0 {
                break;
            }
            match self.place_at(size, copies, depth + 1) {
                Ok(piece) => pieces.push((size, piece)),
                Err(NoSpace) => {
                    self.release(&Place::Gang { headers, pieces });
                    return Err(NoSpace);
                }
            }
            left -= size;
        }
        Ok(Place::Gang { headers, pieces })
    }

    /// Gives places back that were found in this txg and never referred to.
    pub fn release(&mut self, place: &Place) {
        let (dvas, pieces) = match place {
            Place::Whole(dvas) => (dvas, &[][..]),
            Place::Gang { headers, pieces } => (headers, pieces.as_slice()),
        };
        for dva in dvas.iter().flatten() {
            self.free(dva).expect("it was allocated in this txg");
        }
        pieces.iter().for_each(|(_, piece)| self.release(piece));
    }

    /// Allocates `copies` places for `psize` bytes, on different vdevs or metaslabs where that is possible. Log vdevs are left out.
    ///
    /// # Errors
    /// [`NoSpace`]; nothing is allocated then.
    pub fn allocate(&mut self, psize: u64, copies: usize) -> Result<[Option<Dva>; 3], NoSpace> {
        self.allocate_on(psize, copies, false)
    }

    /// Allocates a place for an intent-log block: on a log vdev if one has space.
    ///
    /// # Errors
    /// [`NoSpace`].
    pub fn allocate_log(&mut self, psize: u64) -> Result<[Option<Dva>; 3], NoSpace> {
        self.allocate_on(psize, 1, true).or_else(|NoSpace| self.allocate_on(psize, 1, false))
    }

    fn allocate_on(&mut self, psize: u64, copies: usize, is_log: bool) -> Result<[Option<Dva>; 3], NoSpace> {
        let mut out: [Option<Dva>; 3] = [None; 3];
        let ids: Vec<u32> = self.tops.iter().filter(|(_, top)| top.is_log == is_log).map(|(id, _)| *id).collect();
        for copy in 0..copies {
            self.rotor = self.rotor.wrapping_add(1);
            let found = (0..ids.len()).find_map(|step| {
                let id = ids[self.rotor.wrapping_add(step) % ids.len()];
                let top = self.tops.get_mut(&id)?;
                let (offset, asize) = top.allocate(psize, copy, copies)?;
                Some(Dva { vdev: id, offset, asize, gang: false })
            });
            if found.is_none() {
                self.release(&Place::Whole(out));
                return Err(NoSpace);
            }
            out[copy] = found;
        }
        Ok(out)
    }

    /// Frees a place. Space allocated in this txg is usable again at once, since nothing on disk refers to it.
    ///
    /// # Errors
    /// The place is not allocated: a block pointer on disk lies, or names the same place as another.
    ///
    /// # Panics
    /// If our own sets contradict each other.
    pub fn free(&mut self, dva: &Dva) -> Result<(), FormatError> {
        let (slab, range) = self.slab_of(dva)?;
        if slab.allocated.remove(range.clone()) {
            assert!(slab.free.add(range), "{dva:?} was allocated and free at once");
            return Ok(());
        }
        let is_other = [&slab.free, &slab.allocated, &slab.claimed, &slab.waiting].into_iter().any(|set| set.overlaps(&range));
        if is_other || !slab.freed.add(range) {
            return Err(FormatError::new("block pointer", "frees space that is not allocated", dva.offset));
        }
        Ok(())
    }

    fn slab_of(&mut self, dva: &Dva) -> Result<(&mut Metaslab, Range<u64>), FormatError> {
        let bad = |why| FormatError::new("block pointer", why, dva.offset);
        let top = self.tops.get_mut(&dva.vdev).ok_or_else(|| bad("names an unknown vdev"))?;
        let range = dva.offset..dva.offset.checked_add(dva.asize).ok_or_else(|| bad("leaves its vdev"))?;
        let slab = top.slab_mut(&range).ok_or_else(|| bad("lies in no metaslab"))?;
        Ok((slab, range))
    }

    /// Frees an intent-log block with the open txg: the log that is on disk now may still refer to it, so it stays out of use until the commit.
    ///
    /// # Errors
    /// As [`Allocator::free`].
    pub fn free_log(&mut self, dva: &Dva) -> Result<(), FormatError> {
        let (slab, range) = self.slab_of(dva)?;
        if slab.allocated.remove(range.clone()) || slab.claimed.remove(range.clone()) {
            slab.waiting.merge(range.clone());
            self.held.push((dva.vdev, range));
            return Ok(());
        }
        self.free(dva)
    }

    /// Keeps a block that an intent log found at import refers to from being overwritten. Blocks that the space maps know are left as they are.
    ///
    /// # Errors
    /// It lies nowhere, or is allocated in part.
    pub fn claim(&mut self, dva: &Dva) -> Result<(), FormatError> {
        let (slab, range) = self.slab_of(dva)?;
        if slab.free.remove(range.clone()) {
            assert!(slab.claimed.add(range), "free space was not claimed");
        } else if slab.free.overlaps(&range) {
            return Err(FormatError::new("intent log", "block is allocated in part", dva.offset));
        }
        Ok(())
    }

    /// The txg committed: its frees wait their turn, and those of the oldest waiting txg become usable.
    pub fn committed(&mut self) {
        let mut ranges = core::mem::take(&mut self.held);
        for (id, top) in &mut self.tops {
            for slab in &mut top.metaslabs {
                slab.allocated = RangeTree::new();
                slab.unflushed = false;
                for range in core::mem::take(&mut slab.freed).iter() {
                    slab.waiting.merge(range.clone());
                    ranges.push((*id, range));
                }
            }
        }
        self.deferred.push_back(ranges);
        if self.deferred.len() > DEFER_TXGS {
            for (id, range) in self.deferred.pop_front().unwrap_or_default() {
                let slab = self.tops.get_mut(&id).and_then(|top| top.slab_mut(&range)).expect("it was freed from there");
                slab.waiting.subtract(&range);
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

    /// Bytes of data vdevs that were freed and rest for some txgs still.
    #[must_use]
    pub fn resting(&self) -> u64 {
        let counts = |id: &u32| self.tops.get(id).is_some_and(|top| !top.is_log);
        self.deferred.iter().flatten().filter(|(id, _)| counts(id)).map(|(_, range)| range.end - range.start).sum()
    }

    /// Bytes of a vdev and those in use, as stored.
    #[must_use]
    pub fn space_of(&self, vdev: u32) -> (u64, u64) {
        let slabs = || self.tops.get(&vdev).into_iter().flat_map(|top| &top.metaslabs);
        let deferred: u64 = self.deferred.iter().flatten().filter(|(id, _)| *id == vdev).map(|(_, range)| range.end - range.start).sum();
        let total: u64 = slabs().map(|slab| slab.range.end - slab.range.start).sum();
        (total, total.saturating_sub(slabs().map(|slab| slab.free.total()).sum::<u64>() + deferred))
    }

    /// The first free piece of a vdev at or behind `from`, at most `most` bytes of it. What was freed with the last few txgs is left out: a rewind may want it.
    #[must_use]
    pub fn free_from(&self, vdev: u32, from: u64, most: u64) -> Option<Range<u64>> {
        let slabs = &self.tops.get(&vdev)?.metaslabs;
        let pieces = slabs.iter().filter(|slab| slab.range.end > from).flat_map(|slab| slab.free.iter());
        let piece = pieces.into_iter().find(|piece| piece.end > from)?;
        let start = piece.start.max(from);
        Some(start..piece.end.min(start.saturating_add(most)))
    }

    /// How split up the free space of a vdev is, or of all that have data, in percent: the smaller its pieces the more, averaged over metaslabs.
    #[must_use]
    pub fn fragmentation(&self, vdev: Option<u32>) -> u64 {
        let asked = |id: u32, top: &Top| vdev.map_or(!top.is_log, |vdev| vdev == id);
        let slabs = self.tops.iter().filter(|(id, top)| asked(**id, top)).flat_map(|(_, top)| &top.metaslabs);
        let (sum, count) = slabs.fold((0, 0), |(sum, count), slab| (sum + slab.fragmentation(), count + 1));
        sum / u64::max(count, 1)
    }

    /// Bytes that can be allocated with the open txg, and bytes in all.
    #[must_use]
    pub fn usable_total(&self) -> (u64, u64) {
        let slabs = || self.tops.values().filter(|top| !top.is_log).flat_map(|top| &top.metaslabs);
        (slabs().map(|slab| slab.free.total()).sum(), slabs().map(|slab| slab.range.end - slab.range.start).sum())
    }

    /// Bytes that so many blocks, of `bytes` in all, take where they take most: whole units, parity and padding.
    #[must_use]
    pub fn worst(&self, bytes: u64, blocks: u64) -> u64 {
        let of = |top: &Top| {
            let unit = 1_u64 << top.ashift;
            let units = bytes.saturating_add(blocks.saturating_mul(unit - 512));
            top.shape.map_or(units, |shape| {
                // Each block's last row has all its parity, and it is filled up to a multiple of parity and one.
                let (all, parity) = (shape.children as u64, shape.parity as u64);
                units.saturating_mul(all) / (all - parity).max(1) + blocks.saturating_mul(2 * parity * unit)
            })
        };
        self.tops.values().filter(|top| !top.is_log).map(of).max().unwrap_or(bytes)
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

impl Place {
    /// The addresses for the block's pointer. Those of gang blocks count the pieces too.
    #[must_use]
    pub fn dvas(&self) -> [Option<Dva>; 3] {
        match self {
            Self::Whole(dvas) => *dvas,
            Self::Gang { headers, pieces } => {
                let mut out = *headers;
                for (index, slot) in out.iter_mut().enumerate() {
                    if let Some(dva) = slot {
                        dva.gang = true;
                        dva.asize += pieces.iter().filter_map(|(_, piece)| piece.dvas()[index]).map(|piece| piece.asize).sum::<u64>();
                    }
                }
                out
            }
        }
    }

    /// What is to be written where for the stored block `data`, born in `txg`.
    #[must_use]
    pub fn writes<'d>(&self, data: &'d [u8], txg: u64) -> Vec<(Dva, Cow<'d, [u8]>)> {
        match self {
            Self::Whole(dvas) => dvas.iter().flatten().map(|dva| (*dva, Cow::Borrowed(data))).collect(),
            Self::Gang { headers, pieces } => {
                let mut out = Vec::new();
                let mut header = Vec::new();
                let mut rest = data;
                for (size, piece) in pieces {
                    let (part, after) = rest.split_at(usize::try_from(*size).expect("a piece of a block in memory"));
                    rest = after;
                    header.extend_from_slice(&piece_pointer(piece, part, txg).encode());
                    out.extend(piece.writes(part, txg));
                }
                header.resize(usize::try_from(GANG_HEADER).expect("512"), 0);
                let first = headers[0].expect("a header has one copy at least");
                label::seal(&mut header, [u64::from(first.vdev), first.offset, txg, 0]);
                out.extend(headers.iter().flatten().map(|dva| (*dva, Cow::Owned(header.clone()))));
                out
            }
        }
    }
}

fn piece_pointer(place: &Place, data: &[u8], txg: u64) -> BlockPointer {
    BlockPointer {
        target: Target::Stored(place.dvas()),
        lsize: data.len() as u64,
        psize: data.len() as u64,
        compression: Compression::Off,
        checksum: Checksum::Fletcher4,
        physical_birth: txg,
        birth: txg,
        words: codec::fletcher4(data),
        ..BlockPointer::hole()
    }
}

impl Metaslab {
    /// A metaslab with all space free.
    fn new(range: Range<u64>) -> Self {
        let mut free = RangeTree::new();
        assert!(free.add(range.clone()), "an empty set takes any range");
        let (allocated, freed, claimed) = (RangeTree::new(), RangeTree::new(), RangeTree::new());
        Self {
            hint: range.start,
            range,
            free,
            object: 0,
            header: Header::default(),
            allocated,
            freed,
            claimed,
            waiting: RangeTree::new(),
            unflushed: false,
        }
    }

    /// True if the txg changed it.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.unflushed || !self.allocated.is_empty() || !self.freed.is_empty()
    }

    /// True if its map lacks what log space maps say.
    #[must_use]
    pub const fn is_unflushed(&self) -> bool {
        self.unflushed
    }

    fn entries<'a>(&'a self, ranges: &'a RangeTree, free: bool, shift: u32) -> impl Iterator<Item = Entry> + 'a {
        ranges.iter().map(move |range| Entry {
            free,
            offset: (range.start - self.range.start) >> shift,
            run: (range.end - range.start) >> shift,
        })
    }

    /// Byte ranges on the vdev that are allocated.
    #[must_use]
    pub fn used(&self) -> RangeTree {
        let mut used = RangeTree::new();
        let mut at = self.range.start;
        for gap in self.free.iter().chain(core::iter::once(self.range.end..self.range.end)) {
            assert!(used.add(at..gap.start), "gaps are disjoint");
            at = gap.end;
        }
        used
    }

    /// The first allocated range that ends behind `from`, from there on.
    #[must_use]
    pub fn used_from(&self, from: u64) -> Option<Range<u64>> {
        let mut at = from.max(self.range.start);
        for gap in self.free.iter().chain(core::iter::once(self.range.end..self.range.end)) {
            if gap.end <= at && gap.end < self.range.end {
                continue;
            }
            if at < gap.start {
                return Some(at..gap.start);
            }
            at = at.max(gap.end);
        }
        None
    }

    /// Log entries of what this txg changed.
    #[must_use]
    pub fn changes(&self, shift: u32) -> Vec<Entry> {
        self.entries(&self.allocated, false, shift).chain(self.entries(&self.freed, true, shift)).collect()
    }

    /// Log entries that describe the metaslab afresh. `deferred` ranges count as free.
    #[must_use]
    pub fn condensed(&self, shift: u32, deferred: &RangeTree) -> Vec<Entry> {
        let mut used = self.used();
        for range in self.freed.iter().chain(deferred.iter().filter(|range| self.range.start <= range.start && range.end <= self.range.end)) {
            assert!(used.remove(range), "freed space was in use");
        }
        self.entries(&used, false, shift).collect()
    }

    /// Allocated bytes after this txg.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        // What the header says comes from a disk.
        self.header.allocated.saturating_add(self.allocated.total()).saturating_sub(self.freed.total())
    }

    /// How split up its free space is, in percent.
    fn fragmentation(&self) -> u64 {
        let rate = |range: Range<u64>| {
            let bytes = range.end - range.start;
            let bucket = usize::try_from(bytes.max(512).ilog2() - 9).unwrap_or(usize::MAX);
            u128::from(bytes) * u128::from(FRAGMENTED.get(bucket).copied().unwrap_or(0))
        };
        let total = self.free.total();
        if total == 0 { 0 } else { u64::try_from(self.free.iter().map(rate).sum::<u128>() / u128::from(total)).unwrap_or(100) }
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
        for (_, range) in self.deferred.iter().flatten().chain(&self.held).filter(|(id, _)| *id == top) {
            assert!(out.add(range.clone()), "space was freed twice");
        }
        for range in self.tops.get(&top).into_iter().flat_map(|top| &top.metaslabs).flat_map(|slab| slab.claimed.iter()) {
            assert!(out.add(range), "claimed space is in use");
        }
        out
    }
}
