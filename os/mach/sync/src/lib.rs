//! Locks with classes, wait queues, once: the kernel's synchronisation, which also builds on the host.
//!
//! # Theory
//! Threads block by *parking* with a sticky token, as `std::thread::park` does: an `unpark` that comes first makes the next
//! `park` return at once, so no wake-up is lost between testing a condition and sleeping. Who runs next is not decided
//! here: the kernel installs a [`Dispatch`] (host tests with feature `host` get one on std threads).
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
pub use dispatch::{Dispatch, Parked, clear_interrupt, current, cpu, install, interrupt, unpark};
pub use mutex::{Mutex, MutexGuard};
pub use spin::{SpinGuard, SpinLock};
pub use wait::{WaitQueue, Woken, sleep_until};
