//! The ground under every part of the machine: ticks and virtual time, the event queue, named random streams, the receipt,
//! and saved-state payloads.
//!
//! # Theory
//! A run is a function of (image, board, seed, inputs). Nothing here reads a clock, an address or the environment. Time is
//! *virtual*: vCPUs count ticks (retired instructions, REP iterations, deliveries), and [`Clock`] turns ticks into
//! nanoseconds with exact fixed-point arithmetic that is linear in the tick count, so advancing by 3 and by 4 is the same as
//! advancing by 7, whatever cut the run in two.
//!
//! # Structures
//! [`Clock`] (ticks to nanoseconds), [`EventQueue`] (what fires next, ties broken by order of posting), [`Streams`] and [`Rng`]
//! (a new draw in one stream never shifts another), [`Receipt`] (a hash chain over machine state), [`Payload`] (named, versioned
//! fields: can be encoded, checked, diffed and refused).
//!
//! # Locking
//! None: `&mut` everywhere, one thread.
//!
//! # Failure
//! Only [`Payload::decode`] and the field getters meet bytes from outside; they return [`LoadError`].
//!
//! # Limits
//! Virtual time is 64 bits of nanoseconds (584 years). A payload holds at most 2^32 fields of at most 2^32 bytes.

mod clock;
mod payload;
mod queue;
mod random;
mod receipt;
#[cfg(test)]
mod tests;

pub use clock::{Clock, FRACTION_BITS};
pub use payload::{LoadError, Payload, Value};
pub use queue::{EventId, EventQueue};
pub use random::{Rng, Streams};
pub use receipt::Receipt;
