//! Kernel statistics: counters under stable four-part names, readable at any time, free when nobody reads.
//!
//! # Theory
//! A kstat is `(module, instance, name)` with a class and a set of named values (reference `kstat(9S)` of illumos; we
//! keep its naming and drop raw and interrupt types). The publisher owns its counters as plain atomics ([`Counter`],
//! bumped with one instruction) and registers a [`Source`] that lists them when somebody reads. Sources that have
//! nothing to store (a zone's CPU use lives in the dispatcher) compute their values in [`Source::read`].
//!
//! # Structures
//! [`register`] returns a [`Registration`]; dropping it takes the kstat out of the registry. [`snapshot`] copies what a
//! viewer may see.
//!
//! # Locking
//! The registry is one spin lock (`Class::Kstat`). It is held only to copy references out: a source is read with no
//! lock of ours held, so reading a kstat cannot dead-lock with destroying its owner. A reader that holds a reference
//! keeps the source's memory alive, not its subject: a source must answer for a subject that is gone.
//!
//! # Failure
//! None: names that are too long are cut at 30 bytes, as users of kstat expect (`zonename` fields carry full names).
//!
//! # Limits
//! 30 bytes for each part of a name ([`NAME_BYTES_MAX`]).
#![no_std]
extern crate alloc;

mod counter;
mod kstat;

pub use counter::Counter;
pub use kstat::{Audience, Entry, NAME_BYTES_MAX, Registration, Sink, Snapshot, Source, Value, chain_id, register, snapshot};
