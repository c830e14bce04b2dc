//! os/mach/boot: to be written.
#![no_std]
