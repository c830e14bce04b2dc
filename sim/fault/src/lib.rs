//! Faults on a schedule: disks that fail and lie, power cuts, machine checks; and the journal that knows what a cut leaves.
//!
//! # Theory
//! Hardware breaks in known ways (Bairavasundaram et al., *An Analysis of Data Corruption in the Storage Stack*, FAST 2008; Pillai et al., *All File Systems
//! Are Not Created Equal*, OSDI 2014). A fault is middleware: it wraps the backend of a disk, never the chip, so every controller meets
//! the same broken disks. A [`Fault`] says what happens ([`Kind`], [`MachineKind`]), when ([`Trigger`]) and what must survive it. Chances are drawn from a
//! stream named by the fault, so adding one fault changes nothing about the others.
//!
//! *Volatile write cache.* A disk here answers reads from what was written last, flushed or not; the [`Journal`] knows which writes a flush has made
//! durable. A power cut is made afterwards: [`Cutter`] walks along the journal of one run and makes the disk of each cut, with the
//! unflushed writes kept all, none, in part, or torn. So one run gives as many power cuts as it has writes.
//!
//! # Structures
//! ```text
//!  Board.faults ([[fault]]: FaultTable -> Fault) --+--> FaultDisk (one for each disk: watchers, bad sectors, journal)
//!                                                  |        | Report::Alarm                 \--> Cutter -> disk as cut
//!                                                  +--> MachineFaults (time, tick, marker, alarms) -> Strike, carried out by the board
//! ```
//! Faults of NICs ([`NicKind`]) are described and counted here and carried out at the ports of `sim-net`. All of it is plain data: forks with the disk, hashed into the receipt (the journal is not: it follows from the rest).
//!
//! # Failure
//! A plan that makes no sense is refused with the fault's name and the key ([`PlanError`]). A fault whose sectors lie past the end never strikes.
//!
//! # Limits
//! At most one fault strikes an operation: the first of the plan. 64 marker texts in a plan. `torn-write` keeps a leading part; tearing into arbitrary
//! sectors belongs to the cut. A machine fault by time alone strikes once.
//!
//! # Reading order
//! `plan.rs`, `trigger.rs`, `disk.rs`, `journal.rs`, `machine.rs`.

mod disk;
mod journal;
mod machine;
mod plan;
#[cfg(test)]
mod tests;
mod trigger;

pub use disk::FaultDisk;
pub use journal::{Cutter, Journal, Keep, Op, Record, Unflushed};
pub use machine::{MachineFaults, Strike};
pub use plan::{Effect, Fault, FaultTable, KINDS, Kind, MachineCheck, MachineKind, NicKind, On, PlanError, Span, Trigger, marker_texts};
pub use trigger::Counter;

/// Bytes in a sector.
pub const SECTOR: usize = 512;
