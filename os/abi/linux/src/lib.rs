//! os/abi/linux: to be written.
#![no_std]
