//! Address spaces.
#![no_std]
extern crate alloc;

mod backing;

pub use backing::{Backing, BackingError};
