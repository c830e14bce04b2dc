//! os/control: to be written.
#![no_std]
