//! Intel 82574L Gigabit Ethernet controller.
//!
//! # Theory
//! *Intel 82574 GbE Controller Family Datasheet* (rev. 3.4): §7.1 (receive), §7.2 (transmit), §7.4 (interrupts, MSI-X), §9 (PCIe), §10 (registers); the PHY as §10.2.13 on
//! and IEEE 802.3 clause 22. The model is what drivers that follow the datasheet see: descriptor rings (receive legacy and extended, transmit legacy, context
//! and data with segmentation and checksums), receive filters, NVM by EERD and EEWR, PHY by MDIC, link state, statistics, ITR and EITR, INTA#, MSI and MSI-X.
//!
//! # Structures
//! ```text
//!  shell.rs  PCI function, decode, events        interrupt.rs  ICR, IMS, IVAR, throttling
//!  regs.rs   registers that hold what is written  receive.rs, transmit.rs  rings
//!  phy.rs    PHY and NVM                         stats.rs      counters that clear on read
//! ```
//! A doorbell (RDT, TDT) schedules an event, which has the memory. Received frames go from the wire into the packet buffer ([`FIFO_BYTES`]) and from there
//! to descriptors; what does not fit is missed (MPC, RXO), as on the chip.
//!
//! # Failure
//! Rings and descriptors are the guest's: a ring or buffer outside RAM stops its queue, with a note, until the queue's registers are written again; no event handles more
//! than [`DESCRIPTORS_AT_ONCE`] descriptors.
//!
//! # Limits
//! One queue each way. Not there, and reported when used: packet split, RSS, the second queues, flash, SPI access to the NVM, wake-up, management, time stamps of
//! packets (the clock itself runs). Flow control frames are neither sent nor obeyed. The I/O BAR is absent. BAR 1 (flash) is absent.
//!
//! # Reading order
//! `shell.rs`, `interrupt.rs`, `transmit.rs`, `receive.rs`, `phy.rs`.

mod interrupt;
mod phy;
mod receive;
mod regs;
mod shell;
mod stats;
#[cfg(test)]
mod tests;
mod transmit;

pub use shell::E1000e;

/// Bytes of the packet buffer for received frames (§10.2.2.1: PBA after reset, 20 KiB of 40).
pub const FIFO_BYTES: usize = 20 << 10;
/// Descriptors one event handles at most.
pub const DESCRIPTORS_AT_ONCE: u32 = 512;
/// A unit of the receive and transmit delay timers (§10.2.5.7): 1.024 µs.
const DELAY_NS: u64 = 1_024;

use sim_bus::Token;

/// What the events are.
const TRANSMIT: Token = Token(0);
const RECEIVE: Token = Token(1);
const RECEIVE_DELAY: Token = Token(2);
const TRANSMIT_DELAY: Token = Token(3);
const LINK: Token = Token(4);
/// Throttled interrupts: one for each vector.
const THROTTLE: u16 = 8;
