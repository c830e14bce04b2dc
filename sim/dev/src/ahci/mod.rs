//! An AHCI host bus adapter with one port and a SATA disk on it.
//!
//! # Theory
//! *Serial ATA AHCI 1.3.1*: §3 (registers), §4 (command list, command table, received FIS), §5 (states), §6 (errors), §10 (resets, interrupts). *ATA/ATAPI Command Set -
//! 2 (ACS-2)* for what the disk understands, *Serial ATA 3.1* for FIS layouts and NCQ. PCI function 01:06:01 (the ICH9's identifiers), registers in BAR 5.
//!
//! A write to PxCI schedules a fetch, which has the memory: it takes the command's FIS and its data, and the disk works at once. Data that is read, the FIS that
//! answers and the interrupt come when the command's time is over. Commands that are not queued go one after the other; NCQ commands overlap.
//!
//! # States
//! Port: link down → link up, BSY → idle (signature received) ⇄ busy. After an error the port stands still until software clears PxCMD.ST (§6.2.2). A disk that a fault
//! plan pulls out takes the link down with it; the port looks for it again every 10 ms.
//!
//! # Structures
//! [`Ahci`] (PCI function, MSI or INTA#) holds the `Hba` (registers, slots: the chip), which holds the `Ata` disk (commands):
//! ```text
//!  PxCI -> FETCH event -> CFIS -> ata.rs -> Flight { at, .. } -> COMPLETE event -> data, PIO Setup | D2H | Set Device Bits FIS, PxIS
//! ```
//!
//! # Failure
//! Command lists, tables and PRDs are the guest's: an address outside RAM is a host bus fatal error (PxIS.HBFS), a PRD table that is too short an
//! overflow (OFS) with the command aborted. Commands the disk does not know are aborted, with a note.
//!
//! # Limits
//! One port, 32 slots. No port multiplier, no ATAPI, no FIS-based switching, no enclosure management, no command completion coalescing, no power states of the link. 64 MiB in flight; what is
//! issued beyond waits.
//!
//! # Reading order
//! `shell.rs`, `chip.rs`, `fis.rs`, `ata.rs`.

mod ata;
mod chip;
mod fis;
mod identify;
mod regs;
mod shell;
#[cfg(test)]
mod tests;

pub use shell::{Ahci, REGISTERS};
