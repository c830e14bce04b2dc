//! The control devices: `/dev/control` for the operator, `/dev/kstat` for everybody.
//!
//! # Theory
//! `control-abi` has the table of operations and the header; this crate answers them. A call goes through three stages, each of
//! which can only refuse: the header and the sizes (module `device`), the request's fields (`fields` of each handler, into typed
//! values), the operation itself, which calls `zone`, `probe` and, through [`System`], the layers above. Handlers know
//! nothing of user memory; the device knows nothing of zones.
//!
//! Booting and halting a zone joins all layers, so it lives here (module `boot`): mounts first, then processes; on the way down
//! processes first, then mounts, then the zone object. Every step may be repeated.
//!
//! # Structures
//! [`System`] is what the kernel lends: process functions, the global root, file systems to mount into zones.
//!
//! # Locking
//! `Class::Control`: one operation that changes zones at a time, so that two tools cannot boot or halt the same zone at once. It is held
//! while processes are killed; `zone.list` and `kstat.read` do not take it, so a hanging halt can be watched.
//!
//! # Failure
//! A refused operation answers `{error, message}`; a boot that fails half way is taken back as a halt would.
//!
//! # Limits
//! Those of `control-abi`. A reply is built in kernel memory, so only what the caller may see bounds it.
#![no_std]
extern crate alloc;

mod boot;
mod datasets;
mod delegation;
mod device;
mod handlers;
mod pools;
mod system;
#[cfg(test)]
mod tests;

pub use boot::{halt, init_exited};
pub use device::{Refusal, call, install};
pub use system::{CpuInfo, StartError, System};
