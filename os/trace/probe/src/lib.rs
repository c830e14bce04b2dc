//! os/trace/probe: to be written.
#![no_std]
