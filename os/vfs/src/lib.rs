//! os/vfs: to be written.
#![no_std]
