//! Memory that only saves time, given back when it is needed.
//!
//! Caches take what nobody else uses. Who has one registers how it is made smaller; who gets no memory, and holds no lock, asks for that before it gives up.

use alloc::boxed::Box;

use once_cell::race::OnceBox;

use crate::ZoneId;

/// Gives back some of what is kept for `zone`, or for all where the machine itself is short. True if that changed anything: it is worth trying again.
pub type Relief = fn(ZoneId) -> bool;

static RELIEF: OnceBox<Relief> = OnceBox::new();

/// Registers the cache. The first one wins.
pub fn on_shortage(relief: Relief) {
    // A second one is a host test's.
    if RELIEF.set(Box::new(relief)).is_err() {}
}

/// An allocation for `zone` failed. The caller holds no lock.
#[must_use]
pub fn relieve(zone: ZoneId) -> bool {
    RELIEF.get().is_some_and(|relief| relief(zone))
}
