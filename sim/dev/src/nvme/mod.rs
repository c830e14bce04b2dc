//! An NVMe controller with one namespace.
//!
//! # Theory
//! *NVM Express 1.4*: §3 (registers), §4 (queues, PRPs), §5 (admin commands), §6 (NVM commands), §7.5 (interrupts), §7.6 (reset and shutdown). PCI function 01:08:02 with
//! the registers in BAR 0 and the MSI-X table in BAR 4.
//!
//! A doorbell schedules a fetch; the fetch has the memory, takes commands from every queue in turn, and works on them at once: a write's data is taken and
//! written, a read's data read and kept. What the guest sees of it, data and completion entry, comes when the command's time is over.
//!
//! # States
//! Off (CC.EN 0) → starting (EN 1, CSTS.RDY 0) → ready → off. Fatal (CSTS.CFS) from any of them, until a reset. Shutdown (CC.SHN) flushes the disk; CSTS.SHST says when.
//!
//! # Structures
//! [`Nvme`] (PCI function, doorbell decode, vectors and pin) holds the `Controller` (registers, queues, features, logs), which is the chip:
//! ```text
//!  doorbell -> FETCH event -> command -> admin.rs | io.rs -> InFlight { at, .. } -> COMPLETE event -> completion entry, vector
//! ```
//!
//! # Failure
//! Queues, commands and PRPs are the guest's: all are checked, and a bad one gets the status the specification names. A queue outside RAM is
//! fatal (CSTS.CFS). Disk errors become media errors with an entry in the error log.
//!
//! # Limits
//! 32 I/O queue pairs of at most 1,024 entries, physically contiguous. 512 KiB in a command. One namespace of 512-byte blocks, no metadata, no SGLs, no controller memory
//! buffer, no subsystem reset, no firmware update, no namespace management. Interrupts by MSI-X or INTA#, not coalesced. Four asynchronous event requests.
//!
//! # Reading order
//! `shell.rs`, `chip.rs`, `command.rs`, `admin.rs`, `io.rs`.

mod admin;
mod chip;
mod command;
mod identify;
mod io;
mod log;
mod regs;
mod shell;
#[cfg(test)]
mod tests;

pub use shell::{Nvme, REGISTERS, TABLE};
