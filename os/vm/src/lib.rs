//! Address spaces: segments, demand paging, copy-on-write.
//!
//! # Theory
//! An address space is an ordered map of *segments* (ranges with one protection and one source of pages) and a *store* of
//! the pages it holds, by virtual page number. The page table of the machine is a cache of the two: a page that is not in
//! it is found again by a fault. A private page is owned by as many address spaces as hold a [`kif::Frame`] of it; a store to one
//! that is not exclusive copies it first. That is all of copy-on-write: fork clones handles and takes write permission away.
//!
//! The store does not know segments, so splitting, merging and protecting ranges moves no page.
//!
//! # Structures
//! [`AddressSpace`] owns segments, store and page table. A mapped file is a [`Backing`], implemented above (`vfs`);
//! anonymous shared memory is a [`SharedAnonymous`].
//!
//! # Locking
//! One mutex of class `AddressSpace` around each space. `Backing::page` runs under it and may take `Pages`. Nothing here touches
//! user memory: [`AddressSpace::peek`] and [`AddressSpace::poke`] go through the frames.
//!
//! # Failure
//! A page that cannot be allocated makes the fault fail with [`FaultError::OutOfMemory`]; nothing is half done. Pages of
//! a file that was truncated stay mapped where they were; only new faults see the end (Linux would revoke them).
//!
//! # Limits
//! 65,530 segments per space (Linux's `vm.max_map_count`). Places are not randomised. No swap: anonymous memory is charged when it is
//! touched. One fault brings up to 16 pages of a file.
//!
//! # Reading order
//! `segment`, `store`, `space`.
#![no_std]
extern crate alloc;

mod backing;
mod segment;
mod shared;
mod space;
mod store;

pub use backing::{Backing, BackingError};
pub use segment::{Label, Object, Protection, Region};
pub use shared::SharedAnonymous;
pub use space::{
    Advice, AddressSpace, FaultError, FutexKey, Limits, MMAP_MIN, MapRequest, Place, USER_END, Usage, VmError,
};
