//! hal.
#![no_std]
extern crate alloc;
#[cfg(feature = "metal")]
mod mem;
pub mod port;
