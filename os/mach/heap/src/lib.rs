//! os/mach/heap: to be written.
#![no_std]
