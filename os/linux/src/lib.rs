//! os/linux: to be written.
#![no_std]
