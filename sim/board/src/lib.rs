//! The machine: a board of devices, vCPUs and memory under one run loop.
//!
//! # Theory
//! A run is a function of (board, image, inputs with their points in time). The loop looks at the machine at *tick boundaries*: it fires the events
//! that are due, carries out INIT and SIPI, takes a checkpoint when its tick has come, lets recorded inputs in, and then gives one vCPU a budget
//! that ends exactly where it must look again. Everything it does at a boundary depends on ticks and virtual time alone, so the same run
//! comes out however callers cut it (`Until`), single-step it or debug it. A test runs machines in slices of 1, 13 and 777 ticks and compares receipts.
//!
//! *Chaos.* With [`Board::chaos`] turns are meant to hurt: from one tick to many quanta, in any order, PAUSE always ending one. They are still drawn from the
//! seed, so a race that was met is met again.
//!
//! *Forks.* A [`Snapshot`] is plain data: any thread makes machines from it ([`Machine::fork`]), and puts one back to it at the cost of the pages that differ.
//!
//! *Time.* Each tick advances the clock by `ns_per_tick` divided by the number of vCPUs that are not halted; when all are, it jumps to
//! the next event. *Turns.* vCPUs take turns of a seeded number of ticks. *Checkpoints.* Every `checkpoint_ticks` ticks of all vCPUs the TLBs are
//! emptied and the receipt gets a link: devices, CPUs, and pages written since the last one.
//!
//! # States
//! Running → ended (debug exit, power off, reset, triple fault): final. Stuck is not final: input may wake the machine.
//!
//! # Structures
//! [`Machine`] = CPUs + memory + `Bus` (decode, clock, timers, nodes, `Fabric` of interrupt controllers, consoles, event log). `catalogue.rs` has a row for each
//! device, `map.rs` says where things are, `acpi.rs` describes them to the guest, `loader.rs` loads images.
//!
//! # Failure
//! Guests cannot make this crate panic; images and board tables from outside give [`BuildError`].
//!
//! # Limits
//! 32 vCPUs; 2^20 events in the log, then a count; 4,096 distinct unimplemented accesses.
//!
//! # Reading order
//! `api.rs`, `machine.rs`, `bus.rs`, `fabric.rs`, `catalogue.rs`, `loader.rs`.

mod acpi;
mod api;
mod bus;
mod catalogue;
mod config;
mod debug;
mod fabric;
mod faults;
mod gzip;
mod loader;
mod machine;
mod map;
mod snapshot;
mod trace;

pub use api::{Boot, Input, InputKind, Module, Outcome, Port, Until};
pub use config::{Board, ConfigError, Disk, DiskModel, TraceKind, parse_size};
pub use debug::Watchpoint;
pub use sim_net::{NicModel, NicSpec};
pub use loader::ImageError;
pub use machine::{BuildError, Machine};
pub use snapshot::{AssembleError, Snapshot, SnapshotParts};
pub use trace::{Event, INTERRUPTS_MAX, Interrupt, Unimplemented};
