//! The loader hand-off: from the first instruction to a [`BootInfo`] that cannot be wrong.
//!
//! # Theory
//! Two loaders start us, both in 32-bit protected mode without paging: PVH (`qemu -kernel`, our simulator; Xen's `docs/misc/pvh.pandoc`)
//! and Multiboot2 (GRUB, from BIOS and from UEFI alike). The image is linked at -2 GiB and may lie anywhere below 4 GiB in steps
//! of 2 MiB. The entry code finds out where it is, builds the first page tables, turns SSE on (the prebuilt `core`
//! uses it), enters long mode and calls Rust at the virtual address.
//!
//! # Structures
//! First address space, until `hal` builds the real one:
//!
//! | virtual | physical | how |
//! |---|---|---|
//! | 0 .. 4 GiB | the same | 2 MiB pages, dropped by `hal` |
//! | [`DIRECT_MAP`] .. + 4 GiB | 0 .. 4 GiB | the same tables |
//! | [`IMAGE_BASE`] .. + 128 MiB | the image | 2 MiB pages |
//!
//! # Failure
//! Loader structures are bytes from outside: what lies outside memory, overlaps, wraps or does not parse is dropped or refused with a
//! [`BootError`]. A CPU without long mode halts in the entry code with `64?` in the VGA text buffer: there is no console yet.
//!
//! # Limits
//! [`MAX_REGIONS`] memory map entries and a command line of [`MAX_COMMAND_LINE`] bytes are kept; what exceeds is dropped, never split.
//! The first megabyte is left alone.
#![cfg_attr(not(test), no_std)]

#[cfg(feature = "metal")]
mod entry;
mod info;
#[cfg(test)]
mod tests;

#[cfg(feature = "metal")]
pub use entry::{collect, image_layout};
pub use info::{BootError, BootInfo, CommandLine, ImageLayout, Loader, MAX_COMMAND_LINE, MAX_REGIONS, PhysRange, Region, RegionKind, parse};

/// Virtual address of the first byte of the image.
pub const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;
/// Virtual address of physical address 0.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
