//! Device models, a folder each. Every model is a chip (registers in, effects out) in a shell that names the registers.
//!
//! # Structures
//! `uart` `i8042` `rtc` `pit` `hpet` `acpi` `debug` `fwcfg` `screen` `pci` are nodes on the board's buses. `pic`, `ioapic` and `lapic` are the
//! interrupt fabric: the board holds them by type, because pins and messages end there and the CPU takes vectors from there.
//!
//! # Failure
//! No register write, in any order, may panic: [`fuzz`] programs every model with noise, `tests/garbage.rs` a little and `cargo orrery campaign` for hours.
//!
//! # Reading order
//! `debug` (the smallest), `uart`, `pit`, then the fabric.

pub mod acpi;
pub mod ahci;
pub mod debug;
pub mod fuzz;
pub mod e1000e;
pub mod fwcfg;
pub mod hpet;
pub mod i8042;
pub mod ioapic;
pub mod lapic;
pub mod offload;
pub mod nvme;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod post;
pub mod rtc;
pub mod screen;
pub mod uart;
pub mod virtio;
