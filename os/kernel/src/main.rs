//! The kernel image: puts the crates of `os/` together.
//!
//! # Theory
//! No algorithm lives here. Subsystems know the machine only through `kif` and `sync`; this crate implements those seams with `hal`, `heap` and `drv`
//! and starts everything in order.
//!
//! # Structures
//! [`machine`] is the `kif::Platform`, [`threads`] the `sync::Dispatch` around the `sched` crate, [`console`] log and serial lines, [`power`] the ways
//! to end, [`panic`] what happens when an invariant broke.
//!
//! # Reading order
//! [`init`]: the boot, a call a line.
#![no_std]
#![no_main]
extern crate alloc;

mod console;
mod disks;
mod init;
mod machine;
mod panic;
mod power;
mod random;
mod stats;
mod threads;
mod userland;

/// Physical memory and heap.
static HEAP: heap::Heap = heap::Heap::new();

#[global_allocator]
static GLOBAL: heap::KernelHeap = heap::KernelHeap(&HEAP);

boot::entry!(init::start);
