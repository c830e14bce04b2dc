//! Checksums and compression of the OpenZFS on-disk format.
//!
//! # Theory
//! Pure functions over byte slices. Checksums give four 64-bit words as block pointers store them; decompressors fill a
//! buffer of exactly the logical size and refuse everything else. `gzip`, `zstd` and the encoder of `lz4` stand on
//! well-kept libraries; the decoder of `lz4` is here for its speed, `lzjb` and `zle`
//! because they exist nowhere else; all three from their format descriptions.
//!
//! # Failure
//! Compressed bytes come from disk and mean nothing until they decode: every decoder is total and returns
//! [`Damaged`] for input it cannot follow. None reads or writes outside its slices.
//!
//! # Limits
//! Blocks are at most 16 MiB (`large_blocks`), which the callers check.
#![no_std]
extern crate alloc;

mod checksum;
mod compress;
mod crc64;
mod lz4;

pub use checksum::{Sha256Begun, Words, fletcher2, fletcher4, fletcher4_continue, sha256, sha512};
pub use compress::{Damaged, gzip_decode, gzip_encode, lz4_decode, lz4_encode, lzjb_decode, lzjb_encode, zle_decode, zle_encode, zstd_decode, zstd_encode};
pub use crc64::zap_hash;

#[cfg(test)]
mod tests;
