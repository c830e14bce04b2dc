//! Data structures that several subsystems need.
//!
//! Ordinary safe collections on `alloc`; each file has its own description. Nothing here blocks, locks or reads a clock.
#![no_std]
extern crate alloc;

mod civil;
mod range;

pub use civil::Civil;
pub use range::RangeTree;
