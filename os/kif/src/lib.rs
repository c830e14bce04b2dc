//! The seams of the kernel: what a subsystem may ask of the machine, and nothing else.
//!
//! # Theory
//! A subsystem (vfs, vm, proc, pool, ...) is an ordinary library. It never names `hal` or `heap`; it takes what it
//! needs through the traits here. The kernel installs one [`Platform`] at start-up; a host test installs its own, so
//! the same code runs under `cargo test`.
//!
//! # Structures
//! [`Platform`] bundles the trait objects. [`Frame`] is an owned page of physical memory: dropping the last handle
//! frees it. [`ZoneId`] says who pays.
//!
//! # Failure
//! Everything a tenant can make the kernel allocate without bound is asked for through a fallible call
//! ([`Frame::allocate`], [`reserve`]). Small objects behind a system call are covered by the call's reservation
//! (design D9).
#![no_std]
extern crate alloc;

mod block;
mod frame;
mod platform;
mod regs;
mod relief;

pub use block::{BlockDev, BlockError};
pub use frame::{Frame, Frames, PAGE_SHIFT, PAGE_SIZE, Pfn};
pub use platform::{
    Access, Clock, CopyFault, FaultHandler, Fault, Log, Mmu, OutOfMemory, PageTable, Platform, Reservation, Rng, Spawn, UserMem,
    clock, frames, grow, install, log, mmu, on_large_stack, platform, reserve, rng, spawn, user, vec_with_room,
};
pub use regs::{UserContext, UserExit, UserRegs};
pub use relief::{Relief, on_shortage, relieve};

/// Identity of a zone while it is in the kernel: 0 is the global zone, 1..=9999 are handed out at *ready*
/// (reference `zones.md` section 2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ZoneId(pub u32);

impl ZoneId {
    /// The global zone.
    pub const GLOBAL: Self = Self(0);
}

/// Identity of a kernel thread. Never reused while the kernel runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ThreadId(pub u64);

/// Index of a CPU, dense from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CpuId(pub u32);

/// A time or a span in nanoseconds. Monotonic times count from boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Adds a span to a sum of spans that were really spent, which cannot reach the end of time.
    pub const fn add(&mut self, span: Self) {
        self.0 = self.0.wrapping_add(span.0);
    }
    /// Sum, saturating at the end of time (584 years).
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
    /// Span since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
    /// From whole milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }
    /// From whole seconds.
    #[must_use]
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1_000_000_000))
    }
}
