//! os/lib/nv: to be written.
#![no_std]
