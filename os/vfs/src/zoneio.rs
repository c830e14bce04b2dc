//! What each zone reads and writes through files, and how long it takes: the kstat `zone_vfs`, which `vfsstat` shows.
//!
//! Transfers of files with an offset are counted, of pipes, terminals and sockets not. One lock for a group of zones, held for a few instructions at both
//! ends of a transfer; zones of different groups do not meet.

use alloc::collections::BTreeMap;

use kif::{Nanos, ZoneId};
use sync::{Class, SpinLock};

/// Groups of zones.
const GROUPS: usize = 16;
/// Transfers that took longer are counted apart.
const SLOW_NS: [u64; 4] = [10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000];

/// One direction: operations, bytes, and the two integrals from which averages come (kstat's I/O type).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    pub operations: u64,
    pub bytes: u64,
    /// Time in which at least one was in progress.
    pub busy: Nanos,
    /// Time multiplied by how many were in progress.
    pub length: Nanos,
    /// In progress now.
    pub pending: u64,
    last: Nanos,
}

impl Flow {
    /// Brings the integrals up to `now`.
    fn turn(&mut self, now: Nanos) {
        let passed = now.since(self.last).0;
        if self.pending > 0 {
            self.busy.0 += passed;
            self.length.0 += passed * self.pending;
        }
        self.last = now;
    }
    /// One begins.
    pub fn begin(&mut self, now: Nanos) {
        self.turn(now);
        self.pending += 1;
    }
    /// One ends.
    pub fn end(&mut self, now: Nanos, bytes: u64) {
        self.turn(now);
        self.pending = self.pending.saturating_sub(1);
        self.operations += 1;
        self.bytes += bytes;
    }
}

/// What a zone did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneIo {
    pub reads: Flow,
    pub writes: Flow,
    /// Operations that took more than 10 ms, 100 ms, 1 s, 10 s.
    pub slow: [u64; 4],
    /// How often and how long in all the throttle made it wait.
    pub delays: u64,
    pub delayed_us: u64,
}

static ZONES: [SpinLock<BTreeMap<ZoneId, ZoneIo>>; GROUPS] = [const { SpinLock::new(Class::PoolNodes, BTreeMap::new()) }; GROUPS];

fn with<R>(zone: ZoneId, body: impl FnOnce(&mut ZoneIo) -> R) -> R {
    body(ZONES[zone.0 as usize % GROUPS].lock().entry(zone).or_default())
}

/// Counts one transfer around `body`, which says how many bytes it moved.
pub(crate) fn transfer<E>(zone: ZoneId, is_read: bool, body: impl FnOnce() -> Result<usize, E>) -> Result<usize, E> {
    let begun = kif::clock().monotonic();
    with(zone, |io| if is_read { io.reads.begin(begun) } else { io.writes.begin(begun) });
    let result = body();
    let now = kif::clock().monotonic();
    let bytes = result.as_ref().map_or(0, |count| *count as u64);
    let took = now.since(begun).0;
    with(zone, |io| {
        if is_read { io.reads.end(now, bytes) } else { io.writes.end(now, bytes) }
        if took > SLOW_NS[0] {
            for (count, limit) in io.slow.iter_mut().zip(SLOW_NS) {
                *count += u64::from(took > limit);
            }
        }
    });
    result
}

/// The throttle made a zone wait.
pub fn delayed(zone: ZoneId, microseconds: u64) {
    with(zone, |io| {
        io.delays += 1;
        io.delayed_us += microseconds;
    });
}

/// What a zone did so far.
#[must_use]
pub fn of(zone: ZoneId) -> ZoneIo {
    let now = kif::clock().monotonic();
    let mut io = ZONES[zone.0 as usize % GROUPS].lock().get(&zone).copied().unwrap_or_default();
    io.reads.turn(now);
    io.writes.turn(now);
    io
}

/// A zone is gone.
pub fn forget(zone: ZoneId) {
    ZONES[zone.0 as usize % GROUPS].lock().remove(&zone);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_integrates_what_is_in_progress() {
        let mut flow = Flow::default();
        flow.begin(Nanos(100));
        flow.begin(Nanos(200));
        flow.end(Nanos(400), 10);
        flow.end(Nanos(500), 5);
        flow.begin(Nanos(900));
        flow.end(Nanos(1000), 0);
        assert_eq!((flow.operations, flow.bytes, flow.pending), (3, 15, 0));
        assert_eq!((flow.busy, flow.length), (Nanos(500), Nanos(100 + 2 * 200 + 100 + 100)));
    }
}
