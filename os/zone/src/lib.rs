//! os/zone: to be written.
#![no_std]
