//! os/drv: to be written.
#![no_std]
