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

/// Some slots side by side, and which of them hold a page.
#[derive(Debug, Default)]
struct Chunk {
    held: u16,
    slots: [Slot; CHUNK],
}

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
        self.chunks.get(&chunk).map(|chunk| &chunk.slots[index])
    }

    /// What is at `page`, in one search.
    pub(crate) fn look(&mut self, page: u64) -> Look<'_> {
        let (number, index) = split(page);
        match self.chunks.get_mut(&number) {
            None => Look::NoChunk,
            Some(chunk) if chunk.held >> index & 1 != 0 => Look::Held(&chunk.slots[index]),
            Some(chunk) => Look::Free(Vacancy { chunk, index, resident: &mut self.resident }),
        }
    }

    /// Puts a page at `page`. Kernel memory for a new chunk is reserved against `zone` first.
    pub(crate) fn put(&mut self, page: u64, slot: Slot, zone: ZoneId) -> Result<(), kif::OutOfMemory> {
        debug_assert!(slot.frame().is_some(), "slots are emptied by take");
        let (number, index) = split(page);
        if let Some(chunk) = self.chunks.get_mut(&number) {
            self.resident += u64::from(chunk.held >> index & 1 == 0);
            chunk.held |= 1 << index;
            chunk.slots[index] = slot;
            return Ok(());
        }
        let reservation = kif::reserve(zone, CHUNK_BYTES)?;
        let mut chunk: Box<Chunk> = Box::default();
        chunk.held = 1 << index;
        chunk.slots[index] = slot;
        self.chunks.insert(number, chunk);
        drop(reservation);
        self.resident += 1;
        Ok(())
    }

    /// Takes the slot of `page` out.
    pub(crate) fn take(&mut self, page: u64) -> Slot {
        let (number, index) = split(page);
        let Some(chunk) = self.chunks.get_mut(&number) else { return Slot::Empty };
        self.resident -= u64::from(chunk.held >> index & 1);
        chunk.held &= !(1 << index);
        let old = core::mem::take(&mut chunk.slots[index]);
        if chunk.held == 0 {
            self.chunks.remove(&number);
        }
        old
    }

    /// Drops every slot in `[first, limit)`. The caller has unmapped the pages.
    pub(crate) fn remove_range(&mut self, first: u64, limit: u64) {
        let mut from = first >> CHUNK_SHIFT;
        loop {
            let Some((&number, chunk)) = self.chunks.range_mut(from..).next() else { return };
            let base = number << CHUNK_SHIFT;
            if base >= limit {
                return;
            }
            let gone = chunk.held & within(base, first, limit);
            self.resident -= u64::from(gone.count_ones());
            chunk.held &= !gone;
            if chunk.held == 0 {
                self.chunks.remove(&number);
            } else {
                for index in bits(gone) {
                    chunk.slots[index] = Slot::Empty;
                }
            }
            from = number + 1;
        }
    }

    /// Every slot that holds a page in `[first, limit)`, in order.
    pub(crate) fn range(&self, first: u64, limit: u64) -> impl Iterator<Item = (u64, &Slot)> {
        self.chunks.range(first >> CHUNK_SHIFT..).map(|(number, chunk)| (number << CHUNK_SHIFT, chunk)).take_while(move |(base, _)| *base < limit).flat_map(
            move |(base, chunk)| bits(chunk.held & within(base, first, limit)).map(move |index| (base + index as u64, &chunk.slots[index])),
        )
    }
}

/// What [`Store::look`] found.
pub(crate) enum Look<'a> {
    Held(&'a Slot),
    /// Nothing, and room for a page.
    Free(Vacancy<'a>),
    /// Nothing, and no chunk to put a page in.
    NoChunk,
}

/// A free slot.
pub(crate) struct Vacancy<'a> {
    chunk: &'a mut Chunk,
    index: usize,
    resident: &'a mut u64,
}

impl Vacancy<'_> {
    /// Puts a page here.
    pub(crate) fn fill(self, slot: Slot) {
        self.chunk.held |= 1 << self.index;
        self.chunk.slots[self.index] = slot;
        *self.resident += 1;
    }
}

/// The bits of a chunk at `base` whose pages lie in `[first, limit)`.
fn within(base: u64, first: u64, limit: u64) -> u16 {
    let low = first.saturating_sub(base).min(CHUNK as u64);
    let high = limit.saturating_sub(base).min(CHUNK as u64);
    // Both are at most 16.
    let below = |bits: u64| u16::try_from((1_u32 << bits) - 1).unwrap_or(u16::MAX);
    below(high) & !below(low)
}

/// The positions of the set bits, lowest first.
fn bits(mut set: u16) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        if set == 0 {
            return None;
        }
        let bit = set.trailing_zeros() as usize;
        set &= set - 1;
        Some(bit)
    })
}
