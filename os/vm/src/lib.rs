//! os/vm: to be written.
#![no_std]
