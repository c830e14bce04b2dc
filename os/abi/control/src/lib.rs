//! os/abi/control: to be written.
#![no_std]
