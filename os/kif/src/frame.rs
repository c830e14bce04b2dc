//! Physical page frames as owned values.

use crate::{OutOfMemory, ZoneId, platform::frames};

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Page size in bytes.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// Page frame number: physical address >> 12.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pfn(pub u64);

/// The frame allocator as seen by subsystems. Every frame knows the zone it is charged to and counts its handles.
pub trait Frames: Sync {
    /// Allocates one frame, charged to `zone`, with one reference. Contents are zero if `zeroed`, else unspecified
    /// (never another zone's data).
    ///
    /// # Errors
    /// The zone's memory cap is reached, memory is exhausted, or an injected failure (`heap.failnth`) fired.
    fn allocate(&self, zone: ZoneId, zeroed: bool) -> Result<Pfn, OutOfMemory>;
    /// Adds a reference.
    fn retain(&self, pfn: Pfn);
    /// Drops a reference; frees and uncharges at zero.
    fn release(&self, pfn: Pfn);
    /// Number of references.
    fn references(&self, pfn: Pfn) -> u32;
    /// The zone charged.
    fn zone(&self, pfn: Pfn) -> ZoneId;
    /// Copies out of a frame. `offset + out.len() <= PAGE_SIZE`, asserted.
    fn read(&self, pfn: Pfn, offset: usize, out: &mut [u8]);
    /// Copies into a frame. `offset + data.len() <= PAGE_SIZE`, asserted.
    fn write(&self, pfn: Pfn, offset: usize, data: &[u8]);
    /// Copies a whole frame.
    fn copy(&self, from: Pfn, to: Pfn);
    /// Bytes charged to a zone: frames and slab.
    fn charged_bytes(&self, zone: ZoneId) -> u64;
    /// Sets the zone's cap in bytes (`u64::MAX` = none).
    fn set_cap_bytes(&self, zone: ZoneId, cap: u64);
    /// The zone's cap in bytes.
    fn cap_bytes(&self, _zone: ZoneId) -> u64 {
        u64::MAX
    }
    /// Free and total frames of the machine.
    fn free_total(&self) -> (u64, u64);
}

/// One reference to a physical page. `Clone` adds a reference, `Drop` releases it.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame(Pfn);

impl Frame {
    /// Allocates a zeroed frame charged to `zone`.
    ///
    /// # Errors
    /// See [`Frames::allocate`].
    pub fn allocate(zone: ZoneId) -> Result<Self, OutOfMemory> {
        frames().allocate(zone, true).map(Self)
    }
    /// Allocates a frame whose contents are unspecified, charged to `zone`: for a caller that writes the whole page at once.
    ///
    /// # Errors
    /// See [`Frames::allocate`].
    pub fn allocate_for_overwrite(zone: ZoneId) -> Result<Self, OutOfMemory> {
        frames().allocate(zone, false).map(Self)
    }
    /// Allocates a frame and fills it with a copy of this one.
    ///
    /// # Errors
    /// See [`Frames::allocate`].
    pub fn duplicate(&self, zone: ZoneId) -> Result<Self, OutOfMemory> {
        let copy = Self(frames().allocate(zone, false)?);
        frames().copy(self.0, copy.0);
        Ok(copy)
    }
    /// Its number, for page tables and DMA. The handle must outlive the mapping.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.0
    }
    /// True if this is the only handle (copy-on-write may write in place).
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        frames().references(self.0) == 1
    }
    /// Copies out; asserts the range lies within the page.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        frames().read(self.0, offset, out);
    }
    /// Copies in; asserts the range lies within the page.
    pub fn write(&self, offset: usize, data: &[u8]) {
        frames().write(self.0, offset, data);
    }
}

impl Clone for Frame {
    fn clone(&self) -> Self {
        frames().retain(self.0);
        Self(self.0)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        frames().release(self.0);
    }
}
