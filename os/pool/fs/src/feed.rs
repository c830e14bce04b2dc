//! Feeding the cache devices (L2ARC): a thread of each pool that has any.
//!
//! Once a second it looks at what the cache of pages gives up next, and at the pool's metadata, and writes as much of it as a turn allows
//! (`pool_arc::second`) to the device whose turn it is: as asynchronous writes of the global zone, one run at a time, so that whoever waits for the pool comes between.
//! Reads of what is there are reads of the tenant like others: same class, same accounts, only from another disk.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use kif::{Nanos, ZoneId};
use pool_arc::second::TURN_NS;
use pool_dmu::Fed;
use pool_fair::queue::IoClass;
use vfs::{Result, VfsError};

use crate::{Storage, cache, registry};

/// The `l2_` part of the kstat `arcstats`, of all pools that are imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecondStats {
    pub hits: u64,
    pub misses: u64,
    pub feeds: u64,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub writes_sent: u64,
    pub writes_error: u64,
    pub cksum_bad: u64,
    pub io_error: u64,
    pub size: u64,
    pub asize: u64,
    pub hdr_size: u64,
}

/// What cache devices did and hold.
#[must_use]
pub fn second_stats() -> SecondStats {
    let mut all = SecondStats::default();
    for pool in registry::all() {
        let counts = pool.second_counts();
        let parts: [(&mut u64, &AtomicU64); 12] = [
            (&mut all.hits, &counts.hits),
            (&mut all.misses, &counts.misses),
            (&mut all.feeds, &counts.feeds),
            (&mut all.read_bytes, &counts.read_bytes),
            (&mut all.write_bytes, &counts.write_bytes),
            (&mut all.writes_sent, &counts.writes_sent),
            (&mut all.writes_error, &counts.writes_error),
            (&mut all.cksum_bad, &counts.cksum_bad),
            (&mut all.io_error, &counts.io_error),
            (&mut all.size, &counts.size),
            (&mut all.asize, &counts.asize),
            (&mut all.hdr_size, &counts.hdr_size),
        ];
        for (sum, count) in parts {
            *sum += count.load(Relaxed);
        }
    }
    all
}

impl Storage {
    /// Feeds the pool's cache devices from now on, if it has any and nobody does yet.
    ///
    /// # Errors
    /// No memory for the thread: nothing goes to cache devices until this is asked again.
    pub(crate) fn begin_feeding(self: &Arc<Self>) -> core::result::Result<(), kif::OutOfMemory> {
        let has_cache = self.look(|store| store.pool().has_cache()).unwrap_or(false);
        if !has_cache || self.is_feeding.swap(true, Relaxed) {
            return Ok(());
        }
        let feeder = Arc::clone(self);
        let spawned = kif::spawn().spawn("l2arc", ZoneId::GLOBAL, Box::new(move || feeder.feed_on()));
        if spawned.is_err() {
            self.is_feeding.store(false, Relaxed);
        }
        spawned.map(drop)
    }

    /// Feeds, until no cache device is left or the pool goes.
    fn feed_on(&self) {
        while !self.sleep(Nanos(TURN_NS)) {
            // That nobody feeds any more is known before anyone can add a device.
            let turn = self.background(|store| Ok(store.begin_feed().or_else(|| {
                self.is_feeding.store(false, Relaxed);
                None
            })));
            match turn {
                Ok(Some((bytes, headroom))) => self.feed_turn(bytes, headroom),
                // No memory, or a block that cannot be read: the next turn may do better.
                Err(error) if !self.is_suspended() && error != VfsError::NoDevice => {}
                _ => return,
            }
        }
    }

    fn feed_turn(&self, bytes: u64, headroom: u64) {
        let mut left = bytes;
        for (key, node) in cache::tail(headroom) {
            if left == 0 {
                return;
            }
            let Some(node) = node.upgrade().filter(|node| node.is_of(self)) else { continue };
            // What cannot be read is an error for whoever asks for it.
            let fed = node.feed(key.run).unwrap_or_default();
            left = left.saturating_sub(fed.written);
            if !fed.is_open {
                cache::offered(&key);
            }
        }
    }

    /// Offers the blocks of a file to the cache devices.
    pub(crate) fn feed(&self, dataset: u64, object: u64, range: Range<u64>, contents: &mut dyn FnMut(u64, u64) -> Option<Vec<u8>>) -> Result<Fed> {
        self.background(|store| store.feed(dataset, object, range, contents))
    }

    /// Calls `body` with the store, for nobody who waits.
    fn background<R>(&self, body: impl FnOnce(&mut pool_dmu::Store) -> core::result::Result<R, pool_dmu::edit::EditError>) -> Result<R> {
        self.with_as(IoClass::AsyncWrite, ZoneId::GLOBAL, body)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use alloc::vec;
    use std::sync::Mutex;

    use pool_dmu::{Auxiliary, parse_property};
    use vfs::VnodeRef;
    use vfs::mount::Filesystem;

    use super::*;
    use crate::cache::RUN;
    use crate::manage;
    use crate::node::Node;
    use crate::tests::{BYTES, IO, Memory, contents, create, make, mount};

    const RUNS: u64 = 16;
    /// Where blocks begin on a cache device.
    const FRONT: usize = 4 << 20;

    fn add_cache(pool: &Arc<Storage>) -> (Memory, u64) {
        let cache = Memory(Arc::new(Mutex::new(vec![0; BYTES])));
        let guid = pool.with(|store| store.add_auxiliary(Auxiliary::Cache, "/dev/cache", Box::new(cache.clone()), 1)).expect("adds");
        (cache, guid)
    }

    /// A file of as many runs: every other block packs well.
    fn fill(pool: &Arc<Storage>, root: &VnodeRef, name: &str) -> (VnodeRef, Vec<u8>) {
        let noise = |at: u64| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 37;
        let byte = |at: u64| if (at / RUN).is_multiple_of(2) { noise(at) as u8 } else { (at / 512) as u8 };
        let data: Vec<u8> = (0..RUNS * RUN - 1000).map(byte).collect();
        let file = make(root, name);
        assert_eq!(file.write_at(0, &data, IO), Ok(data.len()));
        pool.sync().expect("commits");
        (file, data)
    }

    /// Everything that is in memory goes to the cache device.
    fn feed_all(pool: &Arc<Storage>) -> u64 {
        let before = pool.second_counts().writes_sent.load(Relaxed);
        let (_, _) = pool.background(|store| Ok(store.begin_feed())).expect("a turn").expect("a device");
        pool.feed_turn(u64::MAX, u64::MAX);
        pool.second_counts().writes_sent.load(Relaxed) - before
    }

    fn give_up(file: &VnodeRef) {
        let node = file.as_any().and_then(|any| any.downcast_ref::<Node>()).expect("a node");
        assert_eq!((0..RUNS).map(|run| node.give_up(run)).sum::<u64>(), 0, "nobody maps it");
    }

    fn counts(pool: &Arc<Storage>) -> (u64, u64) {
        let counts = pool.second_counts();
        (counts.hits.load(Relaxed), counts.cksum_bad.load(Relaxed) + counts.io_error.load(Relaxed))
    }

    #[test]
    fn what_leaves_memory_is_read_from_the_cache_device_and_rot_there_harms_nobody() {
        let (_, pool) = create("second");
        let (disk, guid) = add_cache(&pool);
        let fs = mount(&pool);
        let (file, data) = fill(&pool, &fs.root(), "f");
        assert!(contents(&file) == data);
        assert!(feed_all(&pool) >= RUNS, "every block is written");
        let written = pool.second_counts().writes_sent.load(Relaxed);
        pool.feed_turn(u64::MAX, u64::MAX);
        assert_eq!(pool.second_counts().writes_sent.load(Relaxed), written, "once");
        let asize = pool.second_counts().asize.load(Relaxed);
        assert!(asize > RUNS / 2 * RUN && asize < RUNS * RUN, "{asize}: some blocks are packed");

        give_up(&file);
        assert!(contents(&file) == data, "from the cache device");
        assert!(counts(&pool).0 >= RUNS && counts(&pool).1 == 0, "{:?}", counts(&pool));

        // Every block on the device rots, and then it does not answer at all.
        disk.0.lock().expect("no panic held it")[FRONT..].iter_mut().step_by(700).for_each(|byte| *byte ^= 0x10);
        give_up(&file);
        assert!(contents(&file) == data, "from where it belongs");
        assert!(counts(&pool).1 >= RUNS, "each is noticed");
        let status = manage::status(&pool).expect("status");
        let shown = status.aside.iter().find(|device| device.kind == "cache").expect("listed");
        assert!(shown.counts.checksum_errors >= RUNS && shown.state == "ONLINE", "{shown:?}");
        assert_eq!(shown.allocated, pool.second_counts().asize.load(Relaxed));

        assert!(feed_all(&pool) >= RUNS, "written afresh");
        disk.0.lock().expect("no panic held it").truncate(0);
        give_up(&file);
        assert!(contents(&file) == data, "a device that is gone is not needed");
        pool.with(|store| store.remove_auxiliary(guid, 2)).expect("is removed");
        assert_eq!(pool.second_counts().asize.load(Relaxed), 0);
        assert!(!pool.background(|store| Ok(store.begin_feed().is_some())).expect("no turn"));
    }

    #[test]
    fn what_is_freed_or_offline_is_forgotten_and_only_what_is_wanted_goes_there() {
        let (_, pool) = create("wanted");
        let (_, guid) = add_cache(&pool);
        let fs = mount(&pool);
        let set = |value: &str| pool.with(|store| store.set_property("wanted", "secondarycache", &parse_property("secondarycache", value).expect("a value"))).expect("sets");
        for value in ["none", "metadata"] {
            set(value);
            let (file, data) = fill(&pool, &fs.root(), value);
            assert!(contents(&file) == data && feed_all(&pool) < RUNS);
        }
        set("all");
        let (file, data) = fill(&pool, &fs.root(), "all");
        assert!(contents(&file) == data && feed_all(&pool) >= RUNS);
        let full = pool.second_counts().size.load(Relaxed);
        file.truncate(0).expect("cuts");
        pool.sync().expect("commits");
        let left = pool.second_counts().size.load(Relaxed);
        assert!(left + RUNS / 2 * RUN < full, "{left} of {full} are left");
        let (again, data) = fill(&pool, &fs.root(), "again");
        assert!(contents(&again) == data && feed_all(&pool) >= RUNS);
        pool.with(|store| store.offline(guid, 3)).expect("goes offline");
        assert_eq!(pool.second_counts().size.load(Relaxed), 0);
        give_up(&again);
        assert!(contents(&again) == data);
        pool.with(|store| store.online(guid, 4)).expect("comes back, empty");
        assert!(pool.background(|store| Ok(store.begin_feed().is_some())).expect("a turn"));
    }
    #[test]
    fn what_is_not_to_stay_in_memory_does_not() {
        let (_, pool) = create("primary");
        let fs = mount(&pool);
        let (file, data) = fill(&pool, &fs.root(), "f");
        pool.with(|store| store.set_property("primary", "primarycache", &parse_property("primarycache", "metadata").expect("a value"))).expect("sets");
        assert!(contents(&file) == data);
        give_up(&file);
        let node = file.as_any().and_then(|any| any.downcast_ref::<Node>()).expect("a node");
        for offset in [0, 5000, RUN * 3 + 17, data.len() as u64 - 300_000] {
            let mut out = vec![0; 300_000];
            assert_eq!(file.read_at(offset, &mut out, IO), Ok(300_000));
            assert!(out == data[offset as usize..][..300_000], "at {offset}");
        }
        assert_eq!((0..RUNS).map(|run| node.run_in_memory(run)).sum::<u64>(), 0);
        // A mapped page stays as long as it is mapped, and reads go round it.
        let page = file.page(40, true, ZoneId::GLOBAL).expect("a page");
        page.write(0, b"mapped");
        let mut out = vec![0; 300_000];
        assert_eq!(file.read_at(100_000, &mut out, IO), Ok(300_000));
        let at = 40 * 4096 - 100_000;
        assert!(&out[at..at + 6] == b"mapped" && out[..at] == data[100_000..][..at] && out[at + 6..] == data[100_006 + at..400_000]);
    }
}
