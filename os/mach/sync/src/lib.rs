//! Locks with classes, wait queues, once: the kernel's synchronisation, which also builds on the host.
//!
//! # Theory
//! Threads block by *parking* with a sticky token, as `std::thread::park` does: an `unpark` that comes first makes the next
//! `park` return at once, so no wake-up is lost between testing a condition and sleeping. Who runs next is not decided
//! here: the kernel installs a [`Dispatch`], as host tests do (`kif-host`, on std threads). What every lock does, bookkeeping and interrupts, is
//! bound at link time in the kernel (feature `metal`): it is on the way of everything, and a call through a pointer would cost more than
//! the work.
//!
//! # Locking
//! Every lock has a [`Class`]; taking a class that is not higher than the highest one held asserts, in every build.
//! A [`SpinLock`] disables interrupts and preemption while held; nothing may block under it. A [`Mutex`] sleeps.
//!
//! # Failure
//! A lock-order violation or a park under a spin lock is our own broken invariant: it asserts.
#![no_std]
extern crate alloc;

mod class;
mod dispatch;
mod mutex;
mod spin;
mod wait;

pub use class::Class;
#[cfg(not(feature = "metal"))]
pub use dispatch::Processor;
pub use dispatch::{Dispatch, Parked, clear_interrupt, current, cpu, install, interrupt, unpark};
pub use mutex::{Mutex, MutexGuard};
pub use spin::{SpinGuard, SpinLock};
pub use wait::{WaitQueue, Woken, park, sleep_until};
