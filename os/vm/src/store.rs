//! The pages an address space holds, whatever segment they lie in.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use kif::{Frame, ZoneId};

/// log2 of the pages in a chunk.
const CHUNK_SHIFT: u32 = 4;
/// Pages in a chunk.
const CHUNK: usize = 1 << CHUNK_SHIFT;
/// Kernel memory a new chunk may take, tree node included (reserved before it is made).
const CHUNK_BYTES: u64 = 512;

/// What an address space holds at one page.
#[derive(Clone, Debug, Default)]
pub(crate) enum Slot {
    /// Nothing.
    #[default]
    Empty,
    /// An anonymous page of its own, perhaps shared copy-on-write with relatives.
    Own(Frame),
    /// A page of the segment's backing object. Written to only through a shared mapping.
    Borrowed(Frame),
}

impl Slot {
    pub(crate) const fn frame(&self) -> Option<&Frame> {
        match self {
            Self::Empty => None,
            Self::Own(frame) | Self::Borrowed(frame) => Some(frame),
        }
    }
}

type Chunk = [Slot; CHUNK];

/// Slots by virtual page number. Splitting, merging and protecting segments never touches it.
#[derive(Debug, Default)]
pub(crate) struct Store {
    chunks: BTreeMap<u64, Box<Chunk>>,
    resident: u64,
}

const fn split(page: u64) -> (u64, usize) {
    (page >> CHUNK_SHIFT, (page & (CHUNK as u64 - 1)) as usize)
}

impl Store {
    /// Pages held.
    pub(crate) const fn resident(&self) -> u64 {
        self.resident
    }

    /// The slot of `page`, if its chunk exists.
    pub(crate) fn get(&self, page: u64) -> Option<&Slot> {
        let (chunk, index) = split(page);
        self.chunks.get(&chunk).map(|slots| &slots[index])
    }

    /// Puts `slot` at `page`. Kernel memory for a new chunk is reserved against `zone` first.
    pub(crate) fn put(&mut self, page: u64, slot: Slot, zone: ZoneId) -> Result<(), kif::OutOfMemory> {
        let (chunk, index) = split(page);
        let added = u64::from(slot.frame().is_some());
        if let Some(slots) = self.chunks.get_mut(&chunk) {
            let old = core::mem::replace(&mut slots[index], slot);
            self.resident += added;
            self.resident -= u64::from(old.frame().is_some());
            return Ok(());
        }
        let reservation = kif::reserve(zone, CHUNK_BYTES)?;
        let mut slots: Box<Chunk> = Box::default();
        slots[index] = slot;
        self.chunks.insert(chunk, slots);
        drop(reservation);
        self.resident += added;
        Ok(())
    }

    /// Takes the slot of `page` out.
    pub(crate) fn take(&mut self, page: u64) -> Slot {
        let (chunk, index) = split(page);
        let Some(slots) = self.chunks.get_mut(&chunk) else { return Slot::Empty };
        let old = core::mem::take(&mut slots[index]);
        self.resident -= u64::from(old.frame().is_some());
        if slots.iter().all(|slot| slot.frame().is_none()) {
            self.chunks.remove(&chunk);
        }
        old
    }

    /// Drops every slot in `[first, limit)`. The caller has unmapped the pages.
    pub(crate) fn remove_range(&mut self, first: u64, limit: u64) {
        let mut from = first >> CHUNK_SHIFT;
        loop {
            let Some((&chunk, slots)) = self.chunks.range_mut(from..).next() else { return };
            let base = chunk << CHUNK_SHIFT;
            if base >= limit {
                return;
            }
            let mut left = false;
            for (page, slot) in (base..).zip(slots.iter_mut()) {
                if slot.frame().is_some() {
                    if page >= first && page < limit {
                        *slot = Slot::Empty;
                        self.resident -= 1;
                    } else {
                        left = true;
                    }
                }
            }
            if !left {
                self.chunks.remove(&chunk);
            }
            from = chunk + 1;
        }
    }

    /// Every slot that holds a page in `[first, limit)`, in order.
    pub(crate) fn range(&self, first: u64, limit: u64) -> impl Iterator<Item = (u64, &Slot)> {
        self.chunks
            .range(first >> CHUNK_SHIFT..)
            .take_while(move |(chunk, _)| **chunk << CHUNK_SHIFT < limit)
            .flat_map(|(chunk, slots)| (*chunk << CHUNK_SHIFT..).zip(slots.iter()))
            .filter(move |(page, slot)| *page >= first && *page < limit && slot.frame().is_some())
    }
}
