//! Physical memory and the kernel heap: who has which page, and who pays for it.
//!
//! # Theory
//! Pages come from a buddy allocator (Knowlton 1965) with small per-CPU caches in front of it; objects come from size-class slabs
//! (Bonwick 1994) on top of it. Every page and every object knows the zone it is charged to, so a zone's cap holds for the sum, and what a
//! zone leaves behind can be found.
//!
//! Stable Rust has no fallible `Box`, so memory comes in two kinds (design D9):
//!
//! - *fallible*: [`Heap::allocate_frame`], [`Heap::reserve`]. They say no when the zone's cap is reached, and earlier than physical memory
//!   ends: an emergency reserve and all outstanding reservations stay untouched. These are what a tenant can ask for without
//!   bound, and what `heap.failnth` makes fail.
//! - *infallible*: the global allocator. A thread inside a system call draws on the reservation the call made; beyond
//!   it the allocation is charged above the cap and taken from the emergency reserve rather than refused.
//!
//! # Structures
//! [`Heap`] is one static. One `Meta` per frame of the machine (24 bytes, 0.6 % of memory) holds its references, zone and free-list
//! links; frames are named by number, so nothing here is a pointer except the base of the direct map. A slab is one block of 4 or 16 KiB whose
//! head holds the free list and the zone of each object; it is found from an object's address by masking.
//!
//! # Locking
//! `Heap` (one per size class) -> `FrameCache` (one per CPU) -> `Frames` (the buddy lists). Accounts are atomics.
//!
//! # Failure
//! An allocation that cannot be met returns null, which the kernel turns into a panic: reachable only if the emergency reserve is
//! gone, that is if infallible allocations outside reservations leak. Freeing what is not allocated asserts.
//!
//! # Limits
//! Blocks of at most [`MAX_BLOCK_PAGES`] pages; [`ZONES`] zone ids; [`CPUS`] CPUs with caches of 64 frames; 16 TiB of physical memory.
#![cfg_attr(not(test), no_std)]
extern crate alloc;

mod account;
mod frames;
mod slab;
#[cfg(test)]
mod tests;

pub use account::{Account, CurrentAccount, ZONES};
pub use frames::{CPUS, Heap, MAX_BLOCK_PAGES};
pub use slab::{ClassUse, KernelHeap};

/// Page size in bytes.
const PAGE: usize = kif::PAGE_SIZE;
