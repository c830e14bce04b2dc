//! Where blocks lie on cache devices: the table in memory of what a second, slower level of the cache holds (L2ARC).
//!
//! # Theory
//! A cache device is written in a rotor: a hand goes round it, what is written goes where the hand is, and what lies there is forgotten first. So every write
//! is next to the one before, and the oldest block goes first, however often it was used: a block that is still wanted is in memory by then, or will be
//! written again. Nothing on the device says what is where. The table does, in memory only: the contents are lost with it.
//!
//! What goes there is decided outside: in each turn (once in [`TURN_NS`]) as many bytes as [`Second::begin_turn`] says, from the ends of the lists of [`crate::Cache`]
//! that evict next ([`crate::Cache::tail`]). A device that has not been filled once takes twice as much.
//!
//! # Limits
//! An entry has 80 bytes (a key of 24 with a place of 24, and an offset of 8 with the key again, in two trees); nodes of trees are at least half full, most
//! of them more: it is counted as [`HEADER_BYTES`]. A full table
//! forgets the oldest. A device that lost its place in the pool loses its entries.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Time between two turns.
pub const TURN_NS: u64 = 1_000_000_000;
/// Bytes written in a turn, and as many more while the device has never been full.
pub const TURN_BYTES: u64 = 8 << 20;
/// How far from the end of a list is looked for what to write, in bytes of a turn.
pub const HEADROOM: u64 = 8;
/// What an entry of the table counts as.
pub const HEADER_BYTES: u64 = 192;
/// Places are multiples of this: a sector of any device.
pub const UNIT: u64 = 4096;

/// A place on a cache device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    pub device: u64,
    pub offset: u64,
    /// Bytes of the block; what it takes is rounded up.
    pub size: u32,
}

impl Spot {
    /// Bytes it takes.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        (self.size as u64).next_multiple_of(UNIT)
    }
}

struct Device<K> {
    id: u64,
    bytes: u64,
    hand: u64,
    /// The hand went round.
    is_warm: bool,
    taken: u64,
    spots: BTreeMap<u64, K>,
}

/// The table.
#[allow(missing_debug_implementations, reason = "as large as the cache devices are")]
pub struct Second<K> {
    table: BTreeMap<K, Spot>,
    devices: Vec<Device<K>>,
    /// The device of this turn.
    turn: usize,
    entries_max: usize,
    bytes: u64,
}

impl<K: Ord + Clone> Second<K> {
    /// An empty table without devices, of so many entries at most.
    #[must_use]
    pub const fn new(entries_max: usize) -> Self {
        Self { table: BTreeMap::new(), devices: Vec::new(), turn: 0, entries_max, bytes: 0 }
    }

    /// Entries at most from now on.
    pub fn limit(&mut self, entries_max: usize) {
        self.entries_max = entries_max;
        self.shorten(entries_max);
    }

    /// Takes an empty device in. One that is there already is emptied.
    pub fn add(&mut self, id: u64, bytes: u64) {
        self.drop_device(id);
        self.devices.push(Device { id, bytes: bytes / UNIT * UNIT, hand: 0, is_warm: false, taken: 0, spots: BTreeMap::new() });
    }

    /// A device is gone, with what was on it. False if it was not here.
    pub fn drop_device(&mut self, id: u64) -> bool {
        let Some(at) = self.devices.iter().position(|device| device.id == id) else { return false };
        let gone = self.devices.remove(at);
        for key in gone.spots.values() {
            if let Some(spot) = self.table.remove(key) {
                self.bytes -= u64::from(spot.size);
            }
        }
        true
    }

    /// True if there is a device.
    #[must_use]
    pub const fn has_devices(&self) -> bool {
        !self.devices.is_empty()
    }

    /// Where a block lies.
    #[must_use]
    pub fn find(&self, key: &K) -> Option<Spot> {
        self.table.get(key).copied()
    }

    /// A block is not there any more, or was wrong. False if it was not in the table.
    pub fn forget(&mut self, key: &K) -> bool {
        let Some(spot) = self.table.remove(key) else { return false };
        self.bytes -= u64::from(spot.size);
        if let Some(device) = self.devices.iter_mut().find(|device| device.id == spot.device) {
            device.spots.remove(&spot.offset);
            device.taken -= spot.taken();
        }
        true
    }

    /// The next turn, on the next device: bytes that may be written in it. 0 without devices.
    pub fn begin_turn(&mut self) -> u64 {
        self.turn += 1;
        match self.devices.len() {
            0 => 0,
            count => TURN_BYTES << u32::from(!self.devices[self.turn % count].is_warm),
        }
    }

    /// A place for `size` bytes on the device of this turn; what was there is forgotten. `None`: no device, or one too small. The place is nobody's until
    /// [`Second::keep`].
    pub fn claim(&mut self, size: u32) -> Option<Spot> {
        if self.entries_max == 0 || self.devices.is_empty() || size == 0 {
            return None;
        }
        self.shorten(self.entries_max - 1);
        let at = self.turn % self.devices.len();
        let device = &mut self.devices[at];
        let mut spot = Spot { device: device.id, offset: device.hand, size };
        if spot.taken() > device.bytes {
            return None;
        }
        if spot.offset + spot.taken() > device.bytes {
            (spot.offset, device.is_warm) = (0, true);
        }
        device.hand = spot.offset + spot.taken();
        // What begins before the hand was there before it; what begins here and ends behind it goes, too.
        let over: Vec<K> = device.spots.range(spot.offset..device.hand).map(|(_, key)| key.clone()).collect();
        let before = device.spots.range(..spot.offset).next_back().map(|(_, key)| key.clone());
        for key in over {
            self.forget(&key);
        }
        if let Some(key) = before.filter(|key| self.table.get(key).is_some_and(|old| old.offset + old.taken() > spot.offset)) {
            self.forget(&key);
        }
        Some(spot)
    }

    /// The block is in its place now.
    pub fn keep(&mut self, key: K, spot: Spot) {
        self.forget(&key);
        let Some(device) = self.devices.iter_mut().find(|device| device.id == spot.device) else { return };
        device.taken += spot.taken();
        device.spots.insert(spot.offset, key.clone());
        self.bytes += u64::from(spot.size);
        self.table.insert(key, spot);
    }

    /// Forgets the oldest until there are so many at most: those that the hands come to next.
    fn shorten(&mut self, entries_max: usize) {
        while self.table.len() > entries_max {
            let Some(device) = self.devices.iter().max_by_key(|device| device.spots.len()) else { return };
            let next = device.spots.range(device.hand..).next().or_else(|| device.spots.iter().next());
            let Some(key) = next.map(|(_, key)| key.clone()) else { return };
            self.forget(&key);
        }
    }

    /// Blocks in the table, and their bytes.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        (self.table.len(), self.bytes)
    }

    /// Bytes taken on all devices.
    #[must_use]
    pub fn all_taken(&self) -> u64 {
        self.devices.iter().map(|device| device.taken).sum()
    }

    /// Bytes taken on a device, and all it has.
    #[must_use]
    pub fn taken(&self, id: u64) -> Option<(u64, u64)> {
        self.devices.iter().find(|device| device.id == id).map(|device| (device.taken, device.bytes))
    }

    /// Checks what must hold between calls; for tests.
    ///
    /// # Panics
    /// If it does not.
    pub fn check(&self) {
        assert!(self.table.len() <= self.entries_max, "the table has its bound");
        assert_eq!(self.devices.iter().map(|device| device.spots.len()).sum::<usize>(), self.table.len(), "each entry has one place");
        assert_eq!(self.table.values().map(|spot| u64::from(spot.size)).sum::<u64>(), self.bytes, "bytes are counted");
        for device in &self.devices {
            let mut end = 0;
            let mut taken = 0;
            for (offset, key) in &device.spots {
                let spot = self.table.get(key).expect("a place is in the table");
                assert_eq!((spot.device, spot.offset), (device.id, *offset), "it leads back");
                assert!(*offset >= end, "places do not overlap");
                end = offset + spot.taken();
                taken += spot.taken();
            }
            assert!(end <= device.bytes, "within the device");
            assert_eq!(taken, device.taken, "what is taken is counted");
        }
    }
}
