//! How CPUs, devices and backends meet: the CPU's port to the board, the `Device` trait, decode, pins, DMA, backends.
//!
//! # Theory
//! A device model is a *chip* (pure state machine) inside a *shell*: the shell's [`Device`] implementation names the registers and turns
//! chip effects into calls on [`Cx`], which is all of the world a device can reach. Nothing a device does acts at once on another part
//! of the machine: pins, messages, timers and output become [`Effect`]s, and the board carries them out, in order, when the device call
//! has returned. So a device can be tested alone, no device needs a reference to another, and there is one place where interrupts are
//! routed.
//!
//! DMA happens only in [`Node::event`], never inside a register access: while a CPU runs, the engine owns guest memory. A doorbell
//! therefore schedules an event (as real devices take time to fetch a descriptor), and the event has the memory.
//!
//! # Structures
//! ```text
//!  Engine --CpuBus--> board --AddressMap--> Node (blanket impl: RegMap decode) --> Device --> chip
//!                       ^                                                             |
//!                       +------------- Effect list (pins, MSI, timers, output) <--- Cx +
//! ```
//!
//! # Failure
//! The guest is not trusted. An access that no device claims, or that a device does not define, reads what the bus floats to (ones)
//! or is dropped, and leaves an [`Effect::Unimplemented`] record. Nothing here panics on a guest's behalf.
//!
//! # Limits
//! 65,536 ports; MMIO windows may not overlap; node and window numbers are 16 bit.
//!
//! # Reading order
//! `cpu.rs` (what an engine asks), `device.rs`, `cx.rs`, `map.rs`, `state.rs`, `backend.rs`.

mod backend;
mod cpu;
mod cx;
mod device;
mod map;
mod network;
mod regmap;
mod state;
mod timers;

pub mod bench;

pub use backend::{Backends, ConsoleId, DiskBackend, DiskError, DiskId, Marks, Point, Report};
pub use cpu::{At, Attention, CpuBus, DebugStop, Stop};
pub use cx::{Access, Cx, DmaRefused, DmaTarget, Effect, Ending};
pub use device::{Device, Node, NodeId, Region, Reset, Token};
pub use map::{AddressMap, MapError, Target};
pub use network::{Network, WireId};
pub use regmap::{RegMap, Row};
pub use state::{Fields, HashFields, LoadFields, SaveFields, load};
pub use timers::{Timers, NEVER};

/// Virtual time in whole nanoseconds since power-on.
pub type Nanos = u64;
/// Nanoseconds in a second.
pub const SECOND: Nanos = 1_000_000_000;
