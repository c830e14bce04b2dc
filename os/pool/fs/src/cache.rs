//! Pages of files in memory, of all pools: what stays is decided by one adaptive cache (`pool_arc`).
//!
//! The frames are in their nodes; the cache knows runs of [`RUN`] bytes of files, and asks a node to give one up. Pages that are mapped somewhere stay, and their
//! run is tried again later. What a zone read is charged to it (its frames are), and is told apart in the kstats; nobody has a part of the cache
//! to itself (pool reference, section 6).

use alloc::sync::Weak;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kif::{Nanos, PAGE_SIZE, ZoneId};
use pool_arc::{Cache, Stats, Victim, Want};
use sync::{Class, SpinLock};

use crate::node::Node;
use crate::storage::MEMORY_MIN;

/// Bytes of a file that are read, kept and given up together: neighbours are wanted next, and a block has to be read as a whole anyway.
pub(crate) const RUN: u64 = 128 << 10;
/// Bytes given up when somebody gets no memory.
const RELIEF: u64 = 1 << 20;
/// Runs tried before giving up on finding one that nobody maps.
const TRIES: usize = 64;

/// File system, object, number of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub fs: u64,
    pub object: u64,
    pub run: u64,
}

static CACHE: SpinLock<Option<Cache<Key, Weak<Node>>>> = SpinLock::new(Class::PoolCache, None);
/// Uses within a run that was used just before, not told to the cache one by one.
static REPEATED_HITS: AtomicU64 = AtomicU64::new(0);

fn with<R>(body: impl FnOnce(&mut Cache<Key, Weak<Node>>) -> R) -> R {
    let mut cache = CACHE.lock();
    body(cache.get_or_insert_with(|| {
        let memory = kif::frames().free_total().1 * PAGE_SIZE as u64;
        // The reference keeps up to three quarters. Who gets no memory asks for some of it back, but what the kernel allocates for itself cannot wait: it has the other half.
        Cache::new((memory / 32).max(1 << 20), (memory / 2).max(4 << 20))
    }))
}

/// A run was used. False if the cache does not know it (any more).
pub(crate) fn touch(key: &Key, want: Want, now: Nanos) -> bool {
    with(|cache| cache.get(key, want, now.0).is_some())
}

/// A run was used again, at once.
pub(crate) fn repeat() {
    REPEATED_HITS.fetch_add(1, Relaxed);
}

/// A run is in memory now.
pub(crate) fn insert(key: Key, node: Weak<Node>, bytes: u64, zone: ZoneId, want: Want, now: Nanos) {
    let replaced = with(|cache| cache.insert(key, node, bytes, zone.0, want, now.0));
    drop(replaced);
}

/// A run has other pages than before, or none.
pub(crate) fn resize(key: &Key, bytes: u64) {
    with(|cache| cache.resize(key, bytes));
}

/// Gives up runs until the cache is within its target. The caller holds no node's pages.
pub(crate) fn balance() {
    for _ in 0..TRIES {
        loop {
            let Some(victim) = with(Cache::evict) else { return };
            if !give_up(victim) {
                break;
            }
        }
    }
}

/// Memory is short by `bytes`: the cache becomes smaller. The caller holds no node's pages.
pub(crate) fn shrink(bytes: u64) {
    if with(|cache| cache.shrink(bytes)) {
        balance();
    }
}

/// Bytes of memory that should stay free: below, the cache gives up. More than what refuses changes.
pub(crate) fn low_water() -> u64 {
    let memory = kif::frames().free_total().1 * PAGE_SIZE as u64;
    (memory / 32).max(MEMORY_MIN + (MEMORY_MIN >> 1)).min((memory / 8).max(MEMORY_MIN + RUN))
}

/// Memory is short for `zone`, by its cap or because the machine has none: gives up what the zone, or anybody, has cached. True if that was something. The caller holds
/// no lock.
pub fn relieve(zone: ZoneId) -> bool {
    let frames = kif::frames();
    let before = with(|cache| cache.size());
    if frames.free_total().0 * (PAGE_SIZE as u64) < low_water() {
        shrink(RELIEF);
    } else if frames.charged_bytes(zone).saturating_add(RELIEF) > frames.cap_bytes(zone) {
        for _ in 0..TRIES {
            let Some(victim) = with(|cache| cache.evict_owned(zone.0)) else { break };
            give_up(victim);
            if with(|cache| cache.size()) + RELIEF <= before {
                break;
            }
        }
    }
    with(|cache| cache.size()) < before
}

/// Frees what the cache lets go of. False if some of it is mapped: it stays.
fn give_up(victim: Victim<Key, Weak<Node>>) -> bool {
    let left = victim.value.upgrade().map_or(0, |node| node.give_up(victim.key.run));
    if left > 0 {
        let key = victim.key;
        with(|cache| {
            cache.refuse(victim);
            cache.resize(&key, left);
        });
    }
    left == 0
}

/// Gives up pages if little memory is free beside `wanted` bytes.
pub(crate) fn make_room(wanted: u64) {
    let free = kif::frames().free_total().0 * PAGE_SIZE as u64;
    let needed = low_water() + wanted;
    if free < needed {
        shrink(needed - free);
    }
}

/// No pool is left: what was learnt of its files is forgotten.
pub(crate) fn forget_all() {
    with(Cache::forget);
}

/// What goes next, so many bytes from the end of each list, and was not offered to cache devices.
pub(crate) fn tail(bytes: u64) -> Vec<(Key, Weak<Node>)> {
    with(|cache| cache.tail(bytes).into_iter().map(|(key, node)| (key, Weak::clone(node))).collect())
}

/// The cache devices have what is kept of a run, or do not want it.
pub(crate) fn offered(key: &Key) {
    with(|cache| cache.offered(key));
}

/// Counters: the kstat `arcstats`.
#[must_use]
pub fn stats() -> Stats {
    let mut stats = with(|cache| cache.stats());
    let repeated = REPEATED_HITS.load(Relaxed);
    stats.hits += repeated;
    stats
}

/// Bytes that a zone has in the cache.
#[must_use]
pub fn owned(zone: ZoneId) -> u64 {
    with(|cache| cache.owned(zone.0))
}
