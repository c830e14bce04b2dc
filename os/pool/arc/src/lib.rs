//! What to keep in memory: an adaptive replacement cache (pool reference, section 6).
//!
//! # Theory
//! Two lists of what is kept, used once ([`List::Recent`], MRU) and used again ([`List::Frequent`], MFU), each with a list of ghosts: keys of what was
//! evicted from it last. A miss that hits a ghost says which list was too short: the target of the recent list ([`Stats::p`]) grows after a
//! ghost of its own, and shrinks after one of the other. So one long read does not push out what is used again and again, and a working set that changes is
//! followed. A second use counts only [`SECOND_CHANCE_NS`] after the first: the pieces of one read are one use.
//!
//! What was read ahead is recent, and stays so at its first use. It is evicted like the rest.
//!
//! # Structures
//! ```text
//! entries: key -> { where, place in its list, size, owner, value }        lists: place (a number that only grows) -> key
//! p: target of Recent     c: target of all, c_min <= c <= c_max     Recent + Frequent <= c after `evict` has been asked until it says no
//! ```
//! The cache holds values but decides only: who evicts asks [`Cache::evict`] for a victim, frees what it stands for with no lock of the cache held, and puts
//! it back with [`Cache::refuse`] if it is in use. What goes next can be written to a second, slower level before it does: [`Cache::tail`] says what that is, and
//! module [`second`] where it lies there.
//!
//! # Locking
//! None; the user has a lock. Every call is logarithmic in the number of entries.
//!
//! # Failure
//! None. A size that the caller does not know exactly may be corrected with [`Cache::resize`].
//!
//! # Limits
//! Ghosts are as many bytes as `c` at most. An owner is charged for what it inserted, and nothing is refused to it: one cache for all (the reference has no
//! partition per zone); limits of a zone are those of its memory.
#![no_std]
extern crate alloc;

pub mod second;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A second use this soon after the first is the same use.
pub const SECOND_CHANCE_NS: u64 = 62_000_000;
/// Shrinking takes at least this part of the target: 1/128.
const SHRINK_SHIFT: u32 = 7;

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum List {
    /// Kept, used once.
    Recent,
    /// Kept, used again.
    Frequent,
    /// Evicted from the recent list: a key only.
    RecentGhost,
    /// Evicted from the frequent list.
    FrequentGhost,
}

impl List {
    const fn is_ghost(self) -> bool {
        matches!(self, Self::RecentGhost | Self::FrequentGhost)
    }
    const fn ghost(self) -> Self {
        match self {
            Self::Recent | Self::RecentGhost => Self::RecentGhost,
            Self::Frequent | Self::FrequentGhost => Self::FrequentGhost,
        }
    }
}

/// Why something was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Somebody waits for it.
    Demand,
    /// Somebody may want it next.
    Prefetch,
}

/// Counters, with the names of the kstat `arcstats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub hits: u64,
    pub misses: u64,
    pub prefetch_hits: u64,
    pub prefetch_misses: u64,
    pub mru_hits: u64,
    pub mru_ghost_hits: u64,
    pub mfu_hits: u64,
    pub mfu_ghost_hits: u64,
    pub deleted: u64,
    pub evict_skip: u64,
    pub p: u64,
    pub c: u64,
    pub c_min: u64,
    pub c_max: u64,
    pub size: u64,
    pub mru_size: u64,
    pub mfu_size: u64,
    pub mru_ghost_size: u64,
    pub mfu_ghost_size: u64,
    pub elements: u64,
}

struct Entry<V> {
    list: List,
    place: u64,
    size: u64,
    owner: u32,
    first_use: u64,
    /// Read ahead and not used yet.
    is_ahead: bool,
    /// The second level has it, or was offered it.
    is_offered: bool,
    /// `None` for a ghost.
    value: Option<V>,
}

/// The cache.
#[derive(Default)]
#[allow(missing_debug_implementations, reason = "as large as the cache")]
pub struct Cache<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    lists: [BTreeMap<u64, K>; 4],
    sizes: [u64; 4],
    next: u64,
    owners: BTreeMap<u32, u64>,
    stats: Stats,
}

/// What [`Cache::evict`] gives: who has to free it.
#[derive(Debug, PartialEq, Eq)]
pub struct Victim<K, V> {
    pub key: K,
    pub value: V,
    pub size: u64,
    owner: u32,
    list: List,
}

impl<K: Ord + Clone, V> Cache<K, V> {
    /// An empty cache that keeps `c_max` bytes at most, and goes down to `c_min` if it has to.
    #[must_use]
    pub fn new(c_min: u64, c_max: u64) -> Self {
        assert!(c_min <= c_max, "the least a cache keeps is not more than the most");
        let stats = Stats { p: c_max / 2, c: c_max, c_min, c_max, ..Stats::default() };
        Self { entries: BTreeMap::new(), lists: [const { BTreeMap::new() }; 4], sizes: [0; 4], next: 0, owners: BTreeMap::new(), stats }
    }

    fn size_of(&self, list: List) -> u64 {
        self.sizes[list as usize]
    }

    /// Forgets what was learnt, ghosts and targets, as a new cache that keeps what this one has and has counted what this one did.
    pub fn forget(&mut self) {
        for list in [List::RecentGhost, List::FrequentGhost] {
            core::mem::take(&mut self.lists[list as usize]).into_values().for_each(|key| drop(self.entries.remove(&key)));
            self.sizes[list as usize] = 0;
        }
        (self.stats.p, self.stats.c) = (self.stats.c_max / 2, self.stats.c_max);
    }

    /// Bytes kept.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size_of(List::Recent) + self.size_of(List::Frequent)
    }

    /// Bytes kept that `owner` inserted.
    #[must_use]
    pub fn owned(&self, owner: u32) -> u64 {
        self.owners.get(&owner).copied().unwrap_or(0)
    }

    /// Takes an entry off its list; its size is not counted any more.
    fn unlist(&mut self, list: List, place: u64, size: u64, owner: u32) {
        let was = self.lists[list as usize].remove(&place);
        debug_assert!(was.is_some(), "an entry is on the list it says");
        self.sizes[list as usize] -= size;
        if !list.is_ghost()
            && let Some(owned) = self.owners.get_mut(&owner)
        {
            *owned -= size;
            if *owned == 0 {
                self.owners.remove(&owner);
            }
        }
    }

    /// Puts a key at the young end of a list; returns its place.
    fn enlist(&mut self, list: List, key: K, size: u64, owner: u32) -> u64 {
        let place = self.next;
        self.next += 1;
        self.lists[list as usize].insert(place, key);
        self.sizes[list as usize] += size;
        if !list.is_ghost() {
            *self.owners.entry(owner).or_insert(0) += size;
        }
        place
    }

    /// The value of a key that is kept. A use counts.
    pub fn get(&mut self, key: &K, want: Want, now_ns: u64) -> Option<&V> {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.value.is_some()) else {
            match want {
                Want::Demand => self.stats.misses += 1,
                Want::Prefetch => self.stats.prefetch_misses += 1,
            }
            return None;
        };
        let (list, place, size, owner) = (entry.list, entry.place, entry.size, entry.owner);
        match want {
            Want::Prefetch => {
                self.stats.prefetch_hits += 1;
                return self.entries.get(key)?.value.as_ref();
            }
            Want::Demand => self.stats.hits += 1,
        }
        match list {
            List::Recent => self.stats.mru_hits += 1,
            _ => self.stats.mfu_hits += 1,
        }
        let again = !entry.is_ahead && now_ns.saturating_sub(entry.first_use) > SECOND_CHANCE_NS;
        if entry.is_ahead {
            entry.is_ahead = false;
            entry.first_use = now_ns;
        }
        let target = if again { List::Frequent } else { list };
        self.unlist(list, place, size, owner);
        let place = self.enlist(target, key.clone(), size, owner);
        let entry = self.entries.get_mut(key)?;
        (entry.list, entry.place) = (target, place);
        entry.value.as_ref()
    }

    /// Keeps a value that was read because it was missed. What is kept already is replaced, stays where it is, and comes back.
    pub fn insert(&mut self, key: K, value: V, size: u64, owner: u32, want: Want, now_ns: u64) -> Option<V> {
        let mut target = List::Recent;
        let mut replaced = None;
        if let Some(old) = self.entries.remove(&key) {
            replaced = old.value;
            self.unlist(old.list, old.place, old.size, old.owner);
            target = match old.list {
                List::RecentGhost => {
                    let step = (self.size_of(List::FrequentGhost) / (self.size_of(List::RecentGhost) + old.size).max(1)).max(1) * size;
                    self.stats.p = self.stats.p.saturating_add(step).min(self.stats.c);
                    self.stats.mru_ghost_hits += 1;
                    List::Frequent
                }
                List::FrequentGhost => {
                    let step = (self.size_of(List::RecentGhost) / (self.size_of(List::FrequentGhost) + old.size).max(1)).max(1) * size;
                    self.stats.p = self.stats.p.saturating_sub(step);
                    self.stats.mfu_ghost_hits += 1;
                    List::Frequent
                }
                kept => kept,
            };
        } else if self.size() + size > self.stats.c && self.stats.c < self.stats.c_max {
            // Missed and full: more would be of use, if memory allows.
            self.stats.c = (self.stats.c + size).min(self.stats.c_max);
        }
        if want == Want::Prefetch {
            target = List::Recent;
        }
        let place = self.enlist(target, key.clone(), size, owner);
        self.entries.insert(key, Entry { list: target, place, size, owner, first_use: now_ns, is_ahead: want == Want::Prefetch, is_offered: false, value: Some(value) });
        replaced
    }

    /// A kept entry has another size now; 0 removes it.
    pub fn resize(&mut self, key: &K, size: u64) {
        if size == 0 {
            drop(self.remove(key));
            return;
        }
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.value.is_some()) else { return };
        entry.is_offered = false;
        let (list, old, owner) = (entry.list, core::mem::replace(&mut entry.size, size), entry.owner);
        self.sizes[list as usize] = self.sizes[list as usize] - old + size;
        let owned = self.owners.entry(owner).or_insert(0);
        *owned = *owned - old + size;
        if *owned == 0 {
            self.owners.remove(&owner);
        }
    }

    /// Forgets a key, ghost or not: what it stood for is gone.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.unlist(entry.list, entry.place, entry.size, entry.owner);
        entry.value
    }

    /// What goes next, so far from the end of each of the two lists, used and not offered to the second level yet: what was used again first, of each the oldest first.
    #[must_use]
    pub fn tail(&self, bytes: u64) -> Vec<(K, &V)> {
        let mut out = Vec::new();
        for list in [List::Frequent, List::Recent] {
            let mut left = bytes;
            for key in self.lists[list as usize].values() {
                let Some(entry) = self.entries.get(key) else { continue };
                if left < entry.size {
                    break;
                }
                left -= entry.size;
                if let Some(value) = entry.value.as_ref().filter(|_| !entry.is_offered && !entry.is_ahead) {
                    out.push((key.clone(), value));
                }
            }
        }
        out
    }

    /// The second level has what is kept of `key`, or does not want it.
    pub fn offered(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.is_offered = true;
        }
    }

    /// The next to go while more is kept than the target; it is a ghost from now on. `None`: all is well.
    pub fn evict(&mut self) -> Option<Victim<K, V>> {
        if self.size() <= self.stats.c {
            return None;
        }
        self.evict_one()
    }

    fn evict_one(&mut self) -> Option<Victim<K, V>> {
        let recent_first = self.size_of(List::Recent) > self.stats.p || self.lists[List::Frequent as usize].is_empty();
        let order = if recent_first { [List::Recent, List::Frequent] } else { [List::Frequent, List::Recent] };
        let key = order.into_iter().find_map(|list| self.lists[list as usize].values().next().cloned())?;
        self.take(&key)
    }

    /// The next to go of what `owner` inserted, however much is kept.
    pub fn evict_owned(&mut self, owner: u32) -> Option<Victim<K, V>> {
        if self.owned(owner) == 0 {
            return None;
        }
        let is_owned = |key: &&K| self.entries.get(*key).is_some_and(|entry| entry.owner == owner);
        let key = [List::Recent, List::Frequent].into_iter().find_map(|list| self.lists[list as usize].values().find(is_owned).cloned())?;
        self.take(&key)
    }

    /// Makes a kept entry a ghost.
    fn take(&mut self, key: &K) -> Option<Victim<K, V>> {
        let entry = self.entries.get(key)?;
        let (list, place, key) = (entry.list, entry.place, key.clone());
        let entry = self.entries.get(&key)?;
        let (size, owner) = (entry.size, entry.owner);
        self.unlist(list, place, size, owner);
        let ghost = list.ghost();
        let place = self.enlist(ghost, key.clone(), size, owner);
        let entry = self.entries.get_mut(&key)?;
        (entry.list, entry.place, entry.is_ahead) = (ghost, place, false);
        let value = entry.value.take()?;
        self.stats.deleted += 1;
        self.trim_ghosts();
        Some(Victim { key, value, size, owner, list })
    }

    /// Ghosts and their list are as large as the whole target at most, each kind.
    fn trim_ghosts(&mut self) {
        for list in [List::Recent, List::Frequent] {
            while self.size_of(list.ghost()) > 0 && self.size_of(list) + self.size_of(list.ghost()) > self.stats.c {
                let Some((_, key)) = self.lists[list.ghost() as usize].pop_first() else { break };
                if let Some(entry) = self.entries.remove(&key) {
                    self.sizes[list.ghost() as usize] -= entry.size;
                }
            }
        }
    }

    /// A victim could not go: it is in use. It is the youngest of its list again.
    pub fn refuse(&mut self, victim: Victim<K, V>) {
        self.stats.evict_skip += 1;
        let Victim { key, value, size, owner, list } = victim;
        match self.entries.remove(&key) {
            // Somebody read it again meanwhile: that one counts.
            Some(entry) if entry.value.is_some() => {
                self.entries.insert(key, entry);
                return;
            }
            Some(ghost) => self.unlist(ghost.list, ghost.place, ghost.size, ghost.owner),
            None => {}
        }
        let place = self.enlist(list, key.clone(), size, owner);
        self.entries.insert(key, Entry { list, place, size, owner, first_use: 0, is_ahead: false, is_offered: false, value: Some(value) });
    }

    /// Memory is short: the target goes down by `bytes`, or by a 128th if that is more, but not below the least. True if it went down.
    pub fn shrink(&mut self, bytes: u64) -> bool {
        let old = self.stats.c;
        // What is not used is given up first.
        let used = self.size().min(old);
        let wanted = used.saturating_sub(bytes.max(old >> SHRINK_SHIFT));
        self.stats.c = wanted.max(self.stats.c_min).min(old);
        self.stats.p = self.stats.p.min(self.stats.c);
        self.trim_ghosts();
        self.stats.c < old
    }

    /// Sets the most that is kept; the target follows.
    pub fn set_limits(&mut self, c_min: u64, c_max: u64) {
        assert!(c_min <= c_max, "the least a cache keeps is not more than the most");
        (self.stats.c_min, self.stats.c_max) = (c_min, c_max);
        self.stats.c = c_max;
        self.stats.p = c_max / 2;
        self.trim_ghosts();
    }

    /// Counters as they are now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let [mru_size, mfu_size, mru_ghost_size, mfu_ghost_size] = self.sizes;
        Stats { size: self.size(), mru_size, mfu_size, mru_ghost_size, mfu_ghost_size, elements: self.entries.len() as u64, ..self.stats }
    }

    /// Panics if the cache contradicts itself. For tests.
    pub fn check(&self) {
        let mut sizes = [0; 4];
        let mut owned = 0;
        for (key, entry) in &self.entries {
            assert!(self.lists[entry.list as usize].get(&entry.place).is_some_and(|listed| listed == key), "an entry is on the list it says");
            assert_eq!(entry.value.is_none(), entry.list.is_ghost(), "ghosts have no value, others have");
            sizes[entry.list as usize] += entry.size;
            owned += if entry.list.is_ghost() { 0 } else { entry.size };
        }
        assert_eq!(sizes, self.sizes, "sizes are those of the entries");
        assert_eq!(self.lists.iter().map(BTreeMap::len).sum::<usize>(), self.entries.len(), "each entry is on one list");
        assert_eq!(owned, self.owners.values().sum::<u64>(), "owners are charged for what is kept");
        assert!(self.stats.c >= self.stats.c_min && self.stats.c <= self.stats.c_max && self.stats.p <= self.stats.c_max, "targets are within limits");
    }
}
