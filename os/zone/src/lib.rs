//! Zones: tenants of one kernel.
//!
//! # Theory
//! A zone is a name for a set of processes that may use and see only each other. Everything a process can name is looked up
//! *through* its zone (root directory, host name, process table view, counters), so there is no check to forget: another
//! tenant's things have no name. What must be bounded is charged to the zone before it is created; the charge is an owned
//! value ([`Charge`]) whose drop gives it back, so no path can leak one.
//!
//! This crate knows zones only. What a zone *has* in upper layers (mounts, processes, devices) hangs on it as zone-specific
//! data ([`Zone::set_data`]) and through [`Hook`]s, which those layers register; what a resource control *does* is a
//! function the owner of the resource registers with the table in [`rctl`].
//!
//! # States
//! One way, as illumos: `Initialized → Ready → Booting → Running → ShuttingDown → Empty → Down → Dying → Dead`; a zone
//! that never boots goes from `Initialized` or `Ready` straight to `ShuttingDown`. There is no way back: booting again makes
//! a new zone with a new id. See [`State`].
//!
//! # Structures
//! [`Zone`] is reference counted; the table (module `table`) holds one reference while the zone is live. After `destroy` the
//! table keeps only a weak one, and the id is not handed out again before the last reference is gone.
//!
//! # Locking
//! `Class::ZoneTable` (the table) → `Class::Zone` (a zone's strings, data, state changes). Limits and counters are atomics. Hooks
//! are called with no lock held. Nothing here is locked across I/O, so one tenant's stuck device cannot hold up
//! another's halt.
//!
//! # Failure
//! Every step of teardown may be repeated: [`shutdown`] on a zone that is shutting down goes on where the last one stopped.
//! What still holds a dying zone is counted by kind ([`Zone::processes`], references), for `zoneadm list -v` and the log.
//!
//! # Limits
//! [`ZONES_MAX`] live zones, ids 1..=9999, names of 63 bytes. Without configuration a tenant gets [`rctl::Defaults`], chosen so that
//! one hostile tenant cannot take the machine from the others: half of memory, 4096 LWPs, 2048 processes. Pages of files
//! that a zone wrote stay charged to the id it had then: after a halt they count against no live zone's cap.
//!
//! # Watching
//! kstat `zones:ID:NAME` (module `stats`), `caps:ID:cpucaps_zone_ID`, `memory_cap:ID:NAME`. For debuggers: the table in module `watch`.
#![no_std]
extern crate alloc;

mod config;
mod error;
mod hook;
mod privilege;
pub mod rctl;
mod sched;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod watch;
mod zone;

pub use config::{Brand, Config, NAME_BYTES_MAX, Uuid, check_name};
pub use error::ZoneError;
pub use hook::{Hook, register_hook};
pub use privilege::{Privilege, Privileges};
pub use rctl::{Charge, Limit, LimitReached};
pub use sched::{Scheduler, Usage, install_scheduler};
pub use table::{ZONES_MAX, boot, create, destroy, global, init_global, lingering, live, lookup, lookup_name, ready, running, shutdown};
pub use zone::{DataKey, State, Zone};
