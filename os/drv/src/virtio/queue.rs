//! A split virtqueue (virtio 1.2, section 2.7).
//!
//! # Theory
//! Each of the three parts has a page. A driver writes a chain of descriptors where it likes, puts its head into the available ring
//! ([`Queue::offer`]) and finds it again in the used ring ([`Queue::take`]). Ring indices count for ever, modulo 2^16.
//!
//! # Locking
//! The driver's: one caller at a time.

use core::sync::atomic::{Ordering, fence};

use kif::{Frame, OutOfMemory, ZoneId};

/// Most descriptors of a queue: as many as fit into a page.
pub const QUEUE_MAX: u16 = 256;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// One buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    pub physical: u64,
    pub len: u32,
    /// The device writes it.
    pub device_writes: bool,
}

/// A queue.
#[derive(Debug)]
pub struct Queue {
    index: u16,
    size: u16,
    notify: u64,
    descriptors: Frame,
    available: Frame,
    used: Frame,
    /// Chains offered so far.
    offered: u16,
    /// Chains taken back so far.
    taken: u16,
}

const fn physical(frame: &Frame) -> u64 {
    frame.pfn().0 << kif::PAGE_SHIFT
}

fn read16(frame: &Frame, offset: usize) -> u16 {
    let mut bytes = [0; 2];
    frame.read(offset, &mut bytes);
    u16::from_le_bytes(bytes)
}

impl Queue {
    pub(super) fn new(index: u16, size: u16, notify: u64) -> Result<Self, OutOfMemory> {
        assert!(size.is_power_of_two() && size <= QUEUE_MAX, "a queue of {size}");
        let page = || Frame::allocate(ZoneId::GLOBAL);
        Ok(Self { index, size, notify, descriptors: page()?, available: page()?, used: page()?, offered: 0, taken: 0 })
    }

    /// Physical addresses of descriptor table, available ring, used ring.
    pub(super) const fn addresses(&self) -> [u64; 3] {
        [physical(&self.descriptors), physical(&self.available), physical(&self.used)]
    }
    pub(super) const fn notify_offset(&self) -> u64 {
        self.notify
    }
    /// Its number.
    #[must_use]
    pub const fn index(&self) -> u16 {
        self.index
    }
    /// Descriptors.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Writes a chain into the descriptors from `first` on; the caller knows that they are free.
    pub fn describe(&self, first: u16, chain: impl Iterator<Item = Buffer>) {
        let mut at = first;
        let mut chain = chain.peekable();
        while let Some(buffer) = chain.next() {
            assert!(at < self.size, "descriptor {at} of {}", self.size);
            let more = chain.peek().is_some();
            let flags = if more { NEXT } else { 0 } | if buffer.device_writes { WRITE } else { 0 };
            let mut raw = [0; 16];
            raw[..8].copy_from_slice(&buffer.physical.to_le_bytes());
            raw[8..12].copy_from_slice(&buffer.len.to_le_bytes());
            raw[12..14].copy_from_slice(&flags.to_le_bytes());
            raw[14..].copy_from_slice(&(at + 1).to_le_bytes());
            self.descriptors.write(usize::from(at) * 16, &raw);
            at += 1;
        }
    }

    /// Offers the chain that starts at `head` to the device. Notify it afterwards.
    pub fn offer(&mut self, head: u16) {
        let slot = usize::from(self.offered & (self.size - 1));
        self.available.write(4 + 2 * slot, &head.to_le_bytes());
        self.offered = self.offered.wrapping_add(1);
        // The device may look as soon as the index says so: everything else first.
        fence(Ordering::SeqCst);
        self.available.write(2, &self.offered.to_le_bytes());
        fence(Ordering::SeqCst);
    }

    /// The next chain that the device is done with: its head, as the device says it (check it).
    pub fn take(&mut self) -> Option<u32> {
        fence(Ordering::SeqCst);
        let used = read16(&self.used, 2);
        // A device that claims to be done with more than it was given is stopped at what it was given.
        if used == self.taken || self.taken == self.offered {
            return None;
        }
        fence(Ordering::SeqCst);
        let slot = usize::from(self.taken & (self.size - 1));
        let mut head = [0; 4];
        self.used.read(4 + 8 * slot, &mut head);
        self.taken = self.taken.wrapping_add(1);
        Some(u32::from_le_bytes(head))
    }
}
