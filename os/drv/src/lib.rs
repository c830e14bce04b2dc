//! Drivers, a folder each.
//!
//! # Theory
//! A driver is a library over register access that it is given: it names neither ports nor mappings of the machine, so its tests run on
//! the host with registers of their own. `os/kernel` connects it to the real ones.
//!
//! # Reading order
//! [`uart`] (16550, console and agent lines), [`acpi`] (tables: processors, interrupt wiring, timers, power), [`rtc`] (wall-clock time),
//! [`pci`] (functions, what a driver asks of the kernel), [`virtio`] (transport, queues, disks).
#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod acpi;
pub mod pci;
pub mod rtc;
pub mod uart;
pub mod virtio;
