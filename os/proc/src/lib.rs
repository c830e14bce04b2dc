//! os/proc: to be written.
#![no_std]
