//! os/mach/hal: to be written.
#![no_std]
