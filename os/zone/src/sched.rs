//! What zones need from the dispatcher; the kernel installs it.

use alloc::boxed::Box;

use kif::{Nanos, ZoneId};
use once_cell::race::OnceBox;

/// CPU use of a zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time in user mode.
    pub user: Nanos,
    /// Time in the kernel on the zone's behalf.
    pub system: Nanos,
    /// Time that runnable threads waited for a CPU.
    pub wait: Nanos,
    /// Load averages of 1, 5 and 15 minutes, scaled by 256.
    pub load: [u32; 3],
}

/// The dispatcher as zones see it. Calls for zones that are not attached do nothing.
pub trait Scheduler: Sync {
    /// A zone is coming up; it has no threads yet.
    fn attach(&self, zone: ZoneId, shares: u32);
    /// A zone is gone. Its last threads may still be leaving.
    fn detach(&self, zone: ZoneId);
    /// Changes the shares at once.
    fn set_shares(&self, zone: ZoneId, shares: u32);
    /// Caps the zone to `percent` of one CPU (`None`: no cap).
    fn set_cap(&self, zone: ZoneId, percent: Option<u32>);
    /// Changes the weight of the zone's disk operations (`zone.zfs-io-priority`).
    fn set_io_weight(&self, _zone: ZoneId, _weight: u64) {}
    /// What the zone used since it was attached.
    fn usage(&self, zone: ZoneId) -> Usage;
}

/// Stands in before the dispatcher is there, and in host tests that need none.
struct Absent;

impl Scheduler for Absent {
    fn attach(&self, _: ZoneId, _: u32) {}
    fn detach(&self, _: ZoneId) {}
    fn set_shares(&self, _: ZoneId, _: u32) {}
    fn set_cap(&self, _: ZoneId, _: Option<u32>) {}
    fn usage(&self, _: ZoneId) -> Usage {
        Usage::default()
    }
}

static SCHEDULER: OnceBox<&'static dyn Scheduler> = OnceBox::new();

/// Installs the dispatcher (first one wins). Called by the kernel before [`crate::init_global`].
pub fn install_scheduler(scheduler: &'static dyn Scheduler) {
    if SCHEDULER.set(Box::new(scheduler)).is_err() {}
}

pub(crate) fn get() -> &'static dyn Scheduler {
    SCHEDULER.get().copied().unwrap_or(&Absent)
}
