//! Kernel stacks: 32 KiB each in a region of their own, below each a guard that is never mapped. Work that needs more (the pool's) borrows a large one
//! ([`borrow_large`]): there are as many of those as such work ever ran at once.

use alloc::vec::Vec;

use kif::{OutOfMemory, PAGE_SIZE, Pfn, ZoneId};
use sync::{Class, SpinLock};

use crate::paging;

/// Distance of two stacks, and the mapped part at its upper end.
const SLOT: u64 = 64 * 1024;
const STACK: u64 = 32 * 1024;
const PAGES: usize = 8;
/// Stacks at the same time.
const MOST: u32 = 65_536;

/// Large stacks: behind the others, the same with larger numbers.
const LARGE_BASE: u64 = paging::STACKS + MOST as u64 * SLOT;
const LARGE_SLOT: u64 = 512 * 1024;
const LARGE_BYTES: u64 = 384 * 1024;
const LARGE_MOST: u32 = 64;

struct LargeStacks {
    /// Upper ends of those nobody uses.
    free: Vec<u64>,
    next: u32,
}

static LARGE: SpinLock<LargeStacks> = SpinLock::new(Class::Stacks, LargeStacks { free: Vec::new(), next: 0 });

/// Takes a large stack; returns its bounds. It is mapped for good and charged to the global zone.
///
/// # Errors
/// No memory, or all are taken.
pub(crate) fn borrow_large() -> Result<(u64, u64), OutOfMemory> {
    let slot = {
        let mut large = LARGE.lock();
        if let Some(high) = large.free.pop() {
            return Ok((high - LARGE_BYTES, high));
        }
        if large.next == LARGE_MOST {
            return Err(OutOfMemory);
        }
        large.next += 1;
        let most = large.next as usize;
        let have = large.free.len();
        large.free.reserve(most - have);
        large.next - 1
    };
    let high = LARGE_BASE + (u64::from(slot) + 1) * LARGE_SLOT;
    let mut at = high;
    while at > high - LARGE_BYTES {
        let frame = kif::frames().allocate(ZoneId::GLOBAL, false);
        let mapped = frame.and_then(|frame| {
            paging::map_stack_page(at - PAGE_SIZE as u64, frame).inspect_err(|_| kif::frames().release(frame))?;
            Ok(frame)
        });
        match mapped {
            Ok(_) => at -= PAGE_SIZE as u64,
            Err(error) => {
                // What is mapped stays with the slot; the slot is lost, which there are enough of.
                return Err(error);
            }
        }
    }
    Ok((high - LARGE_BYTES, high))
}

/// Gives a large stack back.
pub(crate) fn give_large_back(high: u64) {
    LARGE.lock().free.push(high);
}

struct Slots {
    free: Vec<u32>,
    next: u32,
}

static SLOTS: SpinLock<Slots> = SpinLock::new(Class::Stacks, Slots { free: Vec::new(), next: 0 });

/// A mapped kernel stack. Dropping it unmaps it: not while running on it.
#[derive(Debug)]
pub struct Stack {
    /// `None`: the boot stack, which is part of the image.
    slot: Option<u32>,
    frames: [Pfn; PAGES],
    low: u64,
    high: u64,
}

impl Stack {
    /// Maps a stack, its pages charged to `zone`.
    ///
    /// # Errors
    /// No memory, or no slot.
    pub fn allocate(zone: ZoneId) -> Result<Self, OutOfMemory> {
        let slot = {
            let mut slots = SLOTS.lock();
            match slots.free.pop() {
                Some(slot) => slot,
                None if slots.next < MOST => {
                    slots.next += 1;
                    // So that giving it back never has to allocate.
                    let most = slots.next as usize;
                    let have = slots.free.len();
                    slots.free.reserve(most - have);
                    slots.next - 1
                }
                None => return Err(OutOfMemory),
            }
        };
        let high = paging::STACKS + (u64::from(slot) + 1) * SLOT;
        let mut stack = Self { slot: Some(slot), frames: [Pfn(0); PAGES], low: high, high };
        for index in 0..PAGES {
            // On failure, dropping `stack` gives back what is mapped so far (`low` says how much).
            let frame = kif::frames().allocate(zone, false)?;
            let address = stack.low - PAGE_SIZE as u64;
            if let Err(error) = paging::map_stack_page(address, frame) {
                kif::frames().release(frame);
                return Err(error);
            }
            stack.frames[index] = frame;
            stack.low = address;
        }
        Ok(stack)
    }

    /// The stack the boot CPU is on, as the linker script lays it out: `low .. high`.
    pub(crate) const fn boot(low: u64, high: u64) -> Self {
        Self { slot: None, frames: [Pfn(0); PAGES], low, high }
    }

    /// Lowest and first address above the highest byte.
    #[must_use]
    pub const fn bounds(&self) -> (u64, u64) {
        (self.low, self.high)
    }
}

const _: () = assert!(STACK == (PAGES * PAGE_SIZE) as u64);

impl Drop for Stack {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let mut address = self.high;
        for frame in self.frames {
            if address == self.low {
                break;
            }
            address -= PAGE_SIZE as u64;
            paging::unmap_stack_page(address);
            kif::frames().release(frame);
        }
        SLOTS.lock().free.push(slot);
    }
}
