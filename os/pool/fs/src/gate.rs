//! The way into a pool: one operation at a time, and who is next by class and weight; and what waits before that.
//!
//! The store has one owner at a time, so the queue in front of it is the place where tenants meet: the scheduler of the reference (section 7.2) sits here. The
//! throttle (section 7.1) is one for all pools; it makes a tenant wait before the tenant has any lock.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kif::{Nanos, ZoneId};
use pool_fair::PRIORITY_DEFAULT;
use pool_fair::queue::{IoClass, Queue};
use pool_fair::throttle::{Op, Throttle};
use sync::{Class, SpinLock, WaitQueue};
use vfs::zoneio::{self, Flow};

/// What a zone read from disks: the kstat `zone_zfs`, which `ziostat` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneReads {
    pub reads: Flow,
    /// Time spent in the queue.
    pub waited: Nanos,
}

struct Tenants {
    /// Made at its first use.
    throttle: Option<Box<Throttle>>,
    /// Of zones that were given one.
    weights: BTreeMap<u32, u64>,
    reads: BTreeMap<ZoneId, ZoneReads>,
}

static TENANTS: SpinLock<Tenants> = SpinLock::new(Class::PoolNodes, Tenants { throttle: None, weights: BTreeMap::new(), reads: BTreeMap::new() });

fn weight(weights: &BTreeMap<u32, u64>, zone: u32) -> u64 {
    weights.get(&zone).copied().unwrap_or(PRIORITY_DEFAULT)
}

/// Gives a zone its weight (`zone.zfs-io-priority`).
pub fn set_weight(zone: ZoneId, weight: u64) {
    TENANTS.lock().weights.insert(zone.0, weight);
}

/// A zone is gone.
pub fn forget_zone(zone: ZoneId) {
    crate::zones::forget(zone);
    let mut tenants = TENANTS.lock();
    tenants.weights.remove(&zone.0);
    tenants.reads.remove(&zone);
}

/// No pool is left: the disks' times and who used them are forgotten.
pub(crate) fn forget_all() {
    let throttle = TENANTS.lock().throttle.take();
    drop(throttle);
}

/// What a zone read from disks so far.
#[must_use]
pub fn zone_reads(zone: ZoneId) -> ZoneReads {
    TENANTS.lock().reads.get(&zone).copied().unwrap_or_default()
}

/// Makes the calling thread wait as long as its zone has to. No lock may be held.
pub(crate) fn throttle(zone: ZoneId, op: Op) {
    let now = kif::clock().monotonic();
    let delay = {
        let mut tenants = TENANTS.lock();
        let Tenants { throttle, weights, .. } = &mut *tenants;
        throttle.get_or_insert_default().delay(zone.0, op, now.0 / 1000, &|zone| weight(weights, zone))
    };
    pause(zone, delay);
}

/// Waits, and notes that the zone did.
pub(crate) fn pause(zone: ZoneId, microseconds: u64) {
    if microseconds > 0 {
        // No signal ends it: who waits in a loop (for room in a group) would spin with one pending, and there is always an end.
        let _timed_out = WaitQueue::new().wait_until(kif::clock().monotonic().plus(Nanos(microseconds * 1000)), || None::<()>);
        zoneio::delayed(zone, microseconds);
    }
}

/// True if the zone uses more than its part of overused disks.
pub(crate) fn is_above(zone: ZoneId) -> bool {
    TENANTS.lock().throttle.as_ref().is_some_and(|throttle| throttle.is_above(zone.0))
}

/// Calls `transfer`, and tells the throttle how long the disk took.
pub(crate) fn metered<R>(is_read: bool, transfer: impl FnOnce() -> R) -> R {
    let begun = kif::clock().monotonic();
    let result = transfer();
    let now = kif::clock().monotonic();
    let mut tenants = TENANTS.lock();
    tenants.throttle.get_or_insert_default().done(is_read, now.since(begun).0 / 1000, now.0 / 1000);
    result
}

/// A zone's read of what is not in memory begins (`None`), or ends with so many bytes.
pub(crate) fn note_read(zone: ZoneId, bytes: Option<u64>) {
    let now = kif::clock().monotonic();
    let mut tenants = TENANTS.lock();
    let reads = &mut tenants.reads.entry(zone).or_default().reads;
    match bytes {
        None => reads.begin(now),
        Some(bytes) => reads.end(now, bytes),
    }
}

struct Waiter {
    granted: AtomicBool,
    queue: WaitQueue,
}

#[derive(Default)]
struct State {
    is_taken: bool,
    queue: Queue<Arc<Waiter>>,
}

/// The door of one pool, and how many wait at it.
pub(crate) struct Gate(SpinLock<State>, AtomicUsize);

/// Inside.
pub(crate) struct Pass<'a>(&'a Gate);

impl Gate {
    pub fn new() -> Self {
        Self(SpinLock::new(Class::PoolQueue, State::default()), AtomicUsize::new(0))
    }

    /// True if somebody waits: whoever is inside and could go on later should.
    pub fn is_wanted(&self) -> bool {
        self.1.load(Ordering::Relaxed) > 0
    }

    /// Waits for its turn.
    pub fn enter(&self, class: IoClass, zone: ZoneId) -> Pass<'_> {
        let waiter = {
            let mut state = self.0.lock();
            if !state.is_taken {
                state.is_taken = true;
                return Pass(self);
            }
            let waiter = Arc::new(Waiter { granted: AtomicBool::new(false), queue: WaitQueue::new() });
            state.queue.push(class, zone.0, Arc::clone(&waiter));
            self.1.fetch_add(1, Ordering::Relaxed);
            waiter
        };
        let begun = kif::clock().monotonic();
        waiter.queue.wait(|| waiter.granted.load(Ordering::Acquire).then_some(()));
        if class == IoClass::SyncRead {
            let waited = kif::clock().monotonic().since(begun);
            let mut tenants = TENANTS.lock();
            let reads = tenants.reads.entry(zone).or_default();
            if reads.reads.pending > 0 {
                reads.waited.0 += waited.0;
            }
        }
        Pass(self)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.0.lock();
            let next = state.queue.pop(&|zone| weight(&TENANTS.lock().weights, zone));
            state.is_taken = next.is_some();
            if next.is_some() {
                self.0.1.fetch_sub(1, Ordering::Relaxed);
            }
            next
        };
        if let Some(waiter) = next {
            waiter.granted.store(true, Ordering::Release);
            waiter.queue.wake_all();
        }
    }
}
