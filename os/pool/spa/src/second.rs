//! The second level of the cache: blocks on cache devices (L2ARC).
//!
//! # Theory
//! A block lies there as it is stored in the pool, packed, and is known by its address and birth, which no other block ever has. It is put there
//! ([`Pool::offer`]) by whoever has its contents in memory and will let go of them: they are packed again as the pointer says, and only if that matches the pointer's checksum
//! are they the block; where our packing is not that of who wrote the block, it is read from its own place. It is read from there like from any device: bytes that do
//! not match the checksum are not the block, are counted at the device, and the block is read where it belongs. So a cache device can make nothing wrong and
//! nothing unreadable.
//!
//! Where blocks lie is a policy of its own ([`pool_arc::second`]), in memory only: what a device holds is lost with an export, as with OpenZFS where
//! `l2arc_rebuild_enabled` is off. Blocks that are freed are forgotten.
//!
//! # Limits
//! Not for blocks without a checksum (`checksum=off`), embedded ones and those that are encrypted.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kif::BlockDev;
use pool_arc::second::{HEADER_BYTES, HEADROOM, Second, TURN_BYTES, UNIT};
use pool_phys::blkptr::{BlockPointer, Checksum, Compression, Target};
use pool_phys::label;

use crate::leaf::{Leaf, LeafStatus, VdevState};
use crate::zio::{Key, checksum_ok};
use crate::Pool;

/// Blocks at most that are known to lie on cache devices, unless the pool's owner says otherwise: 12 MiB of memory.
const ENTRIES: usize = 1 << 16;
/// Largest block that goes to a cache device.
const BLOCK_MAX: u64 = 16 << 20;

/// Counters, with the names of the kstat `arcstats` after `l2_`; shared with who shows them, while the pool works.
#[derive(Debug, Default)]
pub struct SecondCounts {
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub read_bytes: AtomicU64,
    pub write_bytes: AtomicU64,
    /// Turns of feeding.
    pub feeds: AtomicU64,
    /// Blocks written, and those that did not arrive.
    pub writes_sent: AtomicU64,
    pub writes_error: AtomicU64,
    /// Blocks that were wrong when they were read, or could not be read.
    pub cksum_bad: AtomicU64,
    pub io_error: AtomicU64,
    /// Bytes of blocks on cache devices, what they take there, and what the table takes in memory.
    pub size: AtomicU64,
    pub asize: AtomicU64,
    pub hdr_size: AtomicU64,
}

/// A cache device as `status` shows it.
#[derive(Clone, Debug)]
pub struct CacheDevice {
    pub guid: u64,
    pub state: VdevState,
    pub leaf: LeafStatus,
    /// Bytes for blocks, and those taken.
    pub size: u64,
    pub allocated: u64,
}

/// Where a pool's cached blocks lie.
pub(crate) struct SecondLevel {
    policy: RefCell<Second<Key>>,
    counts: Arc<SecondCounts>,
    /// What is read now may be kept there (`secondarycache`).
    wants_metadata: Cell<bool>,
}

impl Default for SecondLevel {
    fn default() -> Self {
        Self { policy: RefCell::new(Second::new(ENTRIES)), counts: Arc::default(), wants_metadata: Cell::new(true) }
    }
}

impl SecondLevel {
    /// Brings the counts of what is there up to date.
    fn tally(&self) {
        let policy = self.policy.borrow();
        let (entries, bytes) = policy.size();
        self.counts.size.store(bytes, Relaxed);
        self.counts.asize.store(policy.all_taken(), Relaxed);
        self.counts.hdr_size.store(entries as u64 * HEADER_BYTES, Relaxed);
    }
}

fn bump(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

/// What a block is known by. `None`: it does not go to a cache device.
fn key_of(pointer: &BlockPointer) -> Option<Key> {
    let is_checked = !matches!(pointer.checksum, Checksum::Off | Checksum::NoParity);
    let fits = is_checked && !pointer.encrypted && pointer.psize <= BLOCK_MAX && matches!(pointer.target, Target::Stored(_));
    let dva = pointer.copies().next().filter(|_| fits)?;
    Some((dva.vdev, dva.offset, pointer.physical_birth))
}

/// A block's contents as they are stored. `None`: they do not become smaller, so that this is not how they were stored.
fn pack(pointer: &BlockPointer, data: &[u8]) -> Option<Vec<u8>> {
    let limit = usize::try_from(pointer.psize).ok()?;
    let mut packed = match pointer.compression {
        Compression::Off => data.to_vec(),
        Compression::Lz4 => codec::lz4_encode(data, limit)?,
        Compression::Lzjb => codec::lzjb_encode(data, limit)?,
        Compression::Zle => codec::zle_encode(data, limit)?,
        Compression::Gzip(level) => codec::gzip_encode(data, level, limit)?,
        Compression::Zstd => codec::zstd_encode(data, limit)?,
    };
    if packed.len() > limit {
        return None;
    }
    packed.resize(limit, 0);
    Some(packed)
}

/// A device's part for blocks: what lies between the labels, whose last two end at a multiple of their size.
fn room(leaf: &Leaf) -> u64 {
    (leaf.size() / label::SIZE * label::SIZE).saturating_sub(label::FRONT + 2 * label::SIZE)
}

impl Pool {
    /// A device outside the tree serves as a cache device from now on, empty. False if it is not here, or does not work.
    pub fn begin_cache(&mut self, guid: u64) -> bool {
        let Some(leaf) = self.auxiliary().get(&guid).filter(|leaf| leaf.is_usable()) else { return false };
        let bytes = room(leaf);
        self.second().policy.borrow_mut().add(guid, bytes);
        true
    }

    /// It does so no more: what it held is forgotten.
    pub(crate) fn end_cache(&self, guid: u64) {
        if self.second().policy.borrow_mut().drop_device(guid) {
            self.second().tally();
        }
    }

    /// Takes a cache device out of service, or puts it back, empty.
    pub fn serve_cache(&mut self, guid: u64, state: VdevState) {
        if let Some(leaf) = self.auxiliary().get(&guid) {
            leaf.set_service(state, self.context());
        }
        self.end_cache(guid);
        if state == VdevState::Online {
            self.begin_cache(guid);
        }
    }

    /// Takes the device out of a cache device: it was pulled.
    pub fn remove_cache_device(&mut self, guid: u64) -> Option<Box<dyn BlockDev>> {
        self.end_cache(guid);
        self.auxiliary_mut().get_mut(&guid)?.take_device()
    }

    /// Bytes of memory for what is known of cached blocks, at most.
    pub fn limit_cache_table(&mut self, bytes: u64) {
        self.second().policy.borrow_mut().limit(usize::try_from(bytes / HEADER_BYTES).unwrap_or(usize::MAX));
        self.second().tally();
    }

    /// True if a cache device serves.
    #[must_use]
    pub fn has_cache(&self) -> bool {
        self.second().policy.borrow().has_devices()
    }

    /// The counters.
    #[must_use]
    pub fn cache_counts(&self) -> Arc<SecondCounts> {
        Arc::clone(&self.second().counts)
    }

    /// The cache device `guid` as it is. `None`: no such device is here.
    #[must_use]
    pub fn cache_device(&self, guid: u64) -> Option<CacheDevice> {
        let leaf = self.auxiliary().get(&guid)?;
        let (allocated, size) = self.second().policy.borrow().taken(guid).unwrap_or((0, room(leaf)));
        // It has no redundancy to lack: one that made errors works, or does not.
        let state = if leaf.state() == VdevState::Degraded { VdevState::Online } else { leaf.state() };
        Some(CacheDevice { guid, state, leaf: leaf.status_of(guid), size, allocated })
    }

    /// Whether metadata that is read from now on may go to cache devices.
    pub fn cache_metadata(&self, wanted: bool) {
        self.second().wants_metadata.set(wanted);
    }

    /// What is read now may be kept for a cache device.
    pub(crate) fn wants_metadata(&self) -> bool {
        self.has_cache() && self.second().wants_metadata.get()
    }

    /// The next turn of feeding the cache devices, once in [`pool_arc::second::TURN_NS`]: bytes that may be written in it; how far to look for them.
    pub fn begin_feed(&self) -> (u64, u64) {
        let bytes = self.second().policy.borrow_mut().begin_turn();
        bump(&self.second().counts.feeds, u64::from(bytes > 0));
        (bytes, TURN_BYTES * HEADROOM)
    }

    /// True if a block may go to a cache device, and is on none.
    #[must_use]
    pub fn is_uncached(&self, pointer: &BlockPointer) -> bool {
        key_of(pointer).is_some_and(|key| self.second().policy.borrow().find(&key).is_none())
    }

    /// Writes a block to the cache device whose turn it is; `data` are its contents. Bytes written: 0 if it does not go there, or is there.
    pub fn offer(&self, pointer: &BlockPointer, data: &[u8]) -> u64 {
        let Some(key) = key_of(pointer).filter(|key| self.second().policy.borrow().find(key).is_none()) else { return 0 };
        let is_block = |packed: &Vec<u8>| checksum_ok(pointer.checksum, pointer.words, packed) == Ok(true);
        let packed = pack(pointer, data).filter(is_block).or_else(|| self.read_packed(pointer).ok());
        let Some(packed) = packed else { return 0 };
        let Some(spot) = u32::try_from(packed.len()).ok().and_then(|size| self.second().policy.borrow_mut().claim(size)) else { return 0 };
        let counts = &self.second().counts;
        let Some(leaf) = self.auxiliary().get(&spot.device) else { return 0 };
        bump(&counts.writes_sent, 1);
        let arrived = leaf.write(spot.offset, &packed, UNIT as usize, self.context()).is_ok();
        if arrived {
            self.second().policy.borrow_mut().keep(key, spot);
            bump(&counts.write_bytes, spot.taken());
        } else {
            bump(&counts.writes_error, 1);
            self.judge_cache(leaf);
        }
        self.second().tally();
        spot.taken()
    }

    /// Writes metadata that is about to leave memory to the cache devices, up to so many bytes. Returns how many were written.
    pub fn feed_interior(&self, bytes: u64) -> u64 {
        let waiting = self.interior().tail(bytes);
        waiting.into_iter().map(|(pointer, data)| self.offer(&pointer, &data)).sum()
    }

    /// A block's bytes as they are stored, from a cache device.
    pub(crate) fn read_second(&self, pointer: &BlockPointer) -> Option<Vec<u8>> {
        if !self.has_cache() {
            return None;
        }
        let key = key_of(pointer)?;
        let counts = &self.second().counts;
        let Some(spot) = self.second().policy.borrow().find(&key) else {
            bump(&counts.misses, 1);
            return None;
        };
        let leaf = self.auxiliary().get(&spot.device)?;
        let size = spot.size as usize;
        let found = leaf.read(spot.offset, size, UNIT as usize, self.context());
        match found {
            Some(mut data) => {
                data.truncate(size);
                if checksum_ok(pointer.checksum, pointer.words, &data) == Ok(true) {
                    bump(&counts.hits, 1);
                    bump(&counts.read_bytes, size as u64);
                    return Some(data);
                }
                leaf.blame(spot.offset, size, self.context());
                bump(&counts.cksum_bad, 1);
            }
            None => bump(&counts.io_error, 1),
        }
        bump(&counts.misses, 1);
        self.second().policy.borrow_mut().forget(&key);
        self.judge_cache(leaf);
        self.second().tally();
        None
    }

    /// A cache device that is out of service holds nothing.
    fn judge_cache(&self, leaf: &Leaf) {
        if !leaf.is_usable() {
            self.end_cache(leaf.guid());
        }
    }

    /// A block is free: nobody will ask for it again.
    pub fn forget_cached(&self, pointer: &BlockPointer) {
        if self.has_cache()
            && let Some(key) = key_of(pointer)
            && self.second().policy.borrow_mut().forget(&key)
        {
            self.second().tally();
        }
    }
}
