//! The OpenZFS on-disk format: bytes in, types that cannot be wrong out, and back.
//!
//! # Theory
//! Pool version 5000 (feature flags), ZPL version 5. Every structure is parsed once, here, into plain values; nothing above
//! this crate indexes into raw blocks. Little-endian pools only: a big-endian one is refused by name.
//!
//! # Structures
//! [`label`] (label geometry, embedded checksums, uberblock ring), [`nvlist`] (XDR lists of labels and configs), [`blkptr`],
//! [`dnode`] and [`objset`], [`zap`] (micro and fat), [`dsl`] (directories and datasets), [`sa`] (system attributes of files),
//! [`raidz`] (where a block's columns lie, and parity), [`gpt`] (tables of disks that a pool has whole), [`spacemap`], [`intent_log`] (its blocks and records).
//!
//! # Failure
//! Any byte may lie. Parsers return [`FormatError`], which names the structure and the offending field; none panics, loops
//! without bound, or trusts a length. Checksums are verified by the readers above (`pool/spa`), before these parsers see a block,
//! so an error here means a writer's bug or an attack, not bit rot.
//!
//! # Limits
//! Blocks up to 16 MiB; nvlists up to 16 levels deep; fat ZAP leaf chains up to the number of chunks in a leaf.
//!
//! # Reading order
//! `label`, `nvlist`, `blkptr`, `dnode`, `zap`, `dsl`, `sa`, `raidz`.
#![no_std]
extern crate alloc;

pub mod blkptr;
mod bytes;
pub mod dnode;
pub mod dsl;
pub mod gpt;
pub mod intent_log;
pub mod label;
pub mod nvlist;
pub mod nvlist_native;
pub mod objset;
pub mod raidz;
pub mod sa;
pub mod spacemap;
pub mod zap;

use core::fmt;

/// Unit of sizes and offsets in block pointers, in bytes; independent of the device.
pub const SECTOR: u64 = 512;
/// Largest block (feature `large_blocks`), in bytes.
pub const BLOCK_MAX: u64 = 16 << 20;

/// A structure that does not follow the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatError {
    /// The structure, for example `"dnode"`.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
    /// The value found, or the byte offset where the bytes ended.
    pub value: u64,
}

impl FormatError {
    /// An error about `what`.
    #[must_use]
    pub const fn new(what: &'static str, why: &'static str, value: u64) -> Self {
        Self { what, why, value }
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({:#x})", self.what, self.why, self.value)
    }
}

impl core::error::Error for FormatError {}

#[cfg(test)]
mod tests;
