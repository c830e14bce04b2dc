//! os/sched: to be written.
#![no_std]
