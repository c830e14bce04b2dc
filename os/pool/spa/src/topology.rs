//! Changing the vdev tree and the states of its leaves.
//!
//! # Theory
//! The tree is described by [`VdevConfig`]s, which the MOS config object and every label repeat. A change edits those descriptions and then calls
//! [`Pool::reshape`], which takes the open tree apart into leaves and puts them, and new devices, where the new descriptions have them. Nothing of it is
//! durable before the next commit that writes labels.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use ds::RangeTree;
use kif::BlockDev;
use pool_phys::FormatError;
use pool_phys::label::{self, Label};

use crate::config::{VdevConfig, VdevKind};
use crate::event::{Event, EventSink};
use crate::leaf::{Leaf, VdevState, labels_on};
use crate::vdev::{Scrubbed, Vdev, leaf_of};
use crate::{Pool, WriteError};

impl Pool {
    /// Installs who hears of events.
    pub fn set_events(&mut self, sink: Arc<dyn EventSink>) {
        self.context_mut().events = Some(sink);
    }

    /// Allows or forbids rewriting of bad copies: allowed once the pool is open for writing.
    pub fn set_healing(&mut self, heal: bool) {
        self.context_mut().heal = heal;
    }

    /// Descriptions of the top-level vdevs.
    #[must_use]
    pub fn trees(&self) -> Vec<VdevConfig> {
        self.tops().values().map(|top| top.config().clone()).collect()
    }

    /// Rebuilds the open tree after `trees`, with `devices` for the guids that are new. Leaves that have no place any more are returned, by guid.
    pub fn reshape(&mut self, trees: &[VdevConfig], devices: Vec<(u64, Box<dyn BlockDev>)>) -> Vec<u64> {
        let mut leaves = core::mem::take(self.strays_mut());
        for (_, top) in core::mem::take(self.tops_mut()) {
            top.into_leaves(&mut leaves);
        }
        leaves.extend(devices.into_iter().map(|(guid, device)| (guid, leaf_of(guid, device, None))));
        let tops = trees.iter().map(|tree| (tree.id, Vdev::open(tree, tree.ashift, &mut leaves))).collect::<BTreeMap<_, _>>();
        *self.tops_mut() = tops;
        let dropped = leaves.keys().copied().collect();
        *self.strays_mut() = leaves;
        dropped
    }

    /// Makes the labels of a leaf that [`Pool::reshape`] dropped invalid and lets its device go.
    ///
    /// # Errors
    /// The device failed; it is let go all the same.
    pub fn forget(&mut self, guid: u64) -> Result<(), WriteError> {
        let Some(leaf) = self.strays_mut().remove(&guid) else { return Ok(()) };
        if leaf.is_usable() { crate::commit::clear_labels(&leaf, self.context()) } else { Ok(()) }
    }

    /// Whether enough devices answer for the pool to be opened anew: each is asked for its first label, in service or not.
    ///
    /// # Errors
    /// Paths of those that do not, if they are too many.
    pub fn silent_leaves(&self) -> Result<(), Vec<String>> {
        let mut silent = BTreeSet::new();
        self.for_each_leaf(&mut |leaf, _| {
            if !leaf.answers() {
                silent.insert(leaf.guid());
            }
        });
        if self.tops().values().all(|top| top.bears(&|leaf| !silent.contains(&leaf.guid()))) {
            return Ok(());
        }
        let trees = self.trees();
        let leaves = trees.iter().flat_map(VdevConfig::leaves).filter(|leaf| silent.contains(&leaf.guid));
        Err(leaves.map(|leaf| leaf.path.clone().unwrap_or_else(|| leaf.guid.to_string())).collect())
    }

    /// Gives out the device of a leaf that [`Pool::reshape`] dropped, as it is.
    pub fn take_stray(&mut self, guid: u64) -> Option<Box<dyn BlockDev>> {
        self.strays_mut().remove(&guid)?.take_device()
    }

    /// Makes the labels of a new leaf invalid until the commit that makes it part of the pool.
    ///
    /// # Errors
    /// The device failed.
    pub fn prepare(&self, guid: u64) -> Result<(), WriteError> {
        self.with_leaf(guid, |leaf| crate::commit::clear_labels(leaf, self.context())).unwrap_or(Ok(()))
    }

    /// Takes the tree that the MOS describes in place of that of the labels, which may be older on some devices. States that the config keeps
    /// (offline, faulted) are taken over. A leaf of a redundant vdev whose newest uberblock is older than the pool's missed the txgs between.
    ///
    /// # Errors
    /// The tree is malformed, or its guids do not add up to what the uberblock says.
    pub fn adopt(&mut self, trees: &[VdevConfig]) -> Result<(), FormatError> {
        let sum = trees.iter().fold(self.guid(), |sum, top| sum.wrapping_add(top.guid_sum()));
        if sum != self.uberblock().guid_sum {
            return Err(FormatError::new("pool config", "guids do not add up to the uberblock's sum", sum));
        }
        self.reshape(trees, Vec::new());
        let txg = self.uberblock().txg;
        for tree in trees {
            let share = match tree.kind {
                VdevKind::Raidz { .. } => tree.asize / (tree.children.len() as u64).max(1),
                VdevKind::Leaf | VdevKind::Mirror | VdevKind::Hole | VdevKind::Missing => tree.asize,
            };
            for config in tree.leaves() {
                // On a device that is smaller than it was, labels would be written where there is data.
                if usable_bytes(self.leaf_size(config.guid), tree.ashift) < share {
                    drop(self.with_leaf_mut(config.guid, Leaf::take_device));
                    self.post(Event::State { vdev: config.guid, state: VdevState::Unavail });
                }
                let service = [("offline", VdevState::Offline), ("faulted", VdevState::Faulted)].into_iter().find(|(key, _)| config.number(key) == Some(1));
                let is_redundant = tree.kind != VdevKind::Leaf;
                if let Some((_, state)) = service {
                    self.with_leaf(config.guid, |leaf| leaf.set_service(state, self.context()));
                }
                self.with_leaf_mut(config.guid, |leaf| match leaf.found_txg {
                    Some(found) if found < txg && is_redundant => leaf.note_lacking(found + 1..txg + 1),
                    _ => {}
                });
            }
        }
        Ok(())
    }

    pub(crate) fn with_leaf<T>(&self, guid: u64, act: impl FnOnce(&Leaf) -> T) -> Option<T> {
        let (mut act, mut out) = (Some(act), None);
        self.for_each_leaf(&mut |leaf, _| {
            if leaf.guid() == guid
                && let Some(act) = act.take()
            {
                out = Some(act(leaf));
            }
        });
        out
    }

    fn with_leaf_mut<T>(&mut self, guid: u64, act: impl FnOnce(&mut Leaf) -> T) -> Option<T> {
        let (mut act, mut out) = (Some(act), None);
        for top in self.tops_mut().values_mut() {
            top.for_each_leaf_mut(&mut |leaf| {
                if leaf.guid() == guid
                    && let Some(act) = act.take()
                {
                    out = Some(act(leaf));
                }
            });
        }
        out
    }

    /// Takes a leaf out of service or puts it back. False if there is no such leaf.
    pub fn set_leaf_state(&mut self, guid: u64, state: VdevState) -> bool {
        self.with_leaf(guid, |leaf| leaf.set_service(state, self.context())).is_some()
    }

    /// State of a leaf.
    #[must_use]
    pub fn leaf_state(&self, guid: u64) -> Option<VdevState> {
        self.retire_tired();
        self.with_leaf(guid, Leaf::state)
    }

    /// Bytes of a leaf's device; 0 if it has none.
    #[must_use]
    pub fn leaf_size(&self, guid: u64) -> u64 {
        self.with_leaf(guid, Leaf::size).unwrap_or(0)
    }

    /// The worst of the top-level vdevs' states, as the pool's health.
    #[must_use]
    pub fn health(&self) -> VdevState {
        self.retire_tired();
        self.tops().values().map(Vdev::state).max().unwrap_or(VdevState::Unavail)
    }

    /// Forgets the error counts of a leaf, or of all.
    pub fn clear_errors(&self, guid: Option<u64>) {
        self.for_each_leaf(&mut |leaf, _| {
            if guid.is_none_or(|guid| guid == leaf.guid()) {
                leaf.clear_errors();
            }
        });
        self.auxiliary().values().filter(|leaf| guid.is_none_or(|guid| guid == leaf.guid())).for_each(Leaf::clear_errors);
    }

    /// Takes the device out of a leaf: it was pulled. Between txgs only.
    pub fn remove_device(&mut self, guid: u64) -> Option<Box<dyn BlockDev>> {
        let device = self.with_leaf_mut(guid, Leaf::take_device)?;
        self.set_leaf_state(guid, VdevState::Removed);
        device
    }

    /// Gives a leaf its device back. What it missed meanwhile is in its dirty time log, or goes there: its newest uberblock says what it has. False if the device is not this
    /// leaf's, or is older than a vdev without redundancy can bear, or there is no such leaf.
    pub fn return_device(&mut self, guid: u64, device: Box<dyn BlockDev>) -> bool {
        let Some(labels) = labels_on(&*device) else { return false };
        let is_its_own = |label: &Label| label.config.number("guid") == Some(guid) && label.config.number("pool_guid") == Some(self.guid());
        if !labels.iter().any(is_its_own) || !self.admits(guid, &labels) || self.with_leaf_mut(guid, |leaf| leaf.put_device(device)).is_none() {
            return false;
        }
        self.post(Event::State { vdev: guid, state: VdevState::Online });
        true
    }

    /// Looks at what a device that was away has, by its `labels`: txgs that it lacks go to its dirty time log. False if nothing could give it those.
    fn admits(&mut self, guid: u64, labels: &[Label]) -> bool {
        let newest = labels.iter().flat_map(|label| &label.uberblocks).map(|uberblock| uberblock.txg).max().unwrap_or(0);
        let now = self.uberblock().txg;
        if newest >= now {
            return true;
        }
        let is_redundant = self.tops().values().any(|top| top.config().kind != VdevKind::Leaf && top.config().find(guid).is_some());
        if is_redundant {
            self.note_lacking(guid, newest + 1..now + 1);
        }
        is_redundant
    }

    /// Puts devices that went away or failed, and answer again with what they had, back into service; those that somebody took out of it stay so. Returns how many came back
    /// and the leaves that still have no device or one that does not answer. A resilver must follow for those that lack anything.
    pub fn revive(&mut self) -> (usize, Vec<u64>) {
        let trees = self.trees();
        let (mut back, mut silent) = (0, Vec::new());
        for config in trees.iter().flat_map(VdevConfig::leaves).filter(|leaf| leaf.number("offline") != Some(1) && leaf.number("faulted") != Some(1)) {
            let guid = config.guid;
            let Some((labels, is_usable, is_new)) = self.with_leaf(guid, |leaf| (leaf.labels(), leaf.is_usable(), leaf.found_txg.is_none())) else { continue };
            let Some(labels) = labels else {
                silent.push(guid);
                continue;
            };
            // One that no commit has reached yet has no label.
            let is_its_own = if labels.is_empty() { is_new } else { labels.iter().any(|label| label.config.number("guid") == Some(guid)) && (is_new || self.admits(guid, &labels)) };
            if !is_its_own {
                silent.push(guid);
            } else if !is_usable {
                self.with_leaf(guid, |leaf| leaf.revive(self.context()));
                back += 1;
            }
        }
        (back, silent)
    }

    /// A commit of the open txg begins, and will write everything that lasts: what devices that are in service missed until now were blocks of intent logs, which it ends, or an
    /// attempt that failed.
    pub fn begin_commit(&self) {
        self.for_each_leaf(&mut |leaf, _| leaf.begin_commit());
    }

    /// Ends the open txg for all leaves: those that missed a write note it. True if any log changed.
    pub fn close_txg(&mut self, txg: u64) -> bool {
        let mut changed = false;
        for top in self.tops_mut().values_mut() {
            top.for_each_leaf_mut(&mut |leaf| changed |= leaf.close_txg(txg));
        }
        changed
    }

    /// The dirty time logs that differ from what was last taken: (leaf, txgs).
    pub fn take_dirty_logs(&mut self) -> Vec<(u64, RangeTree)> {
        let mut out = Vec::new();
        for top in self.tops_mut().values_mut() {
            top.for_each_leaf_mut(&mut |leaf| {
                if core::mem::take(&mut leaf.log_dirty) {
                    out.push((leaf.guid(), leaf.lacking().clone()));
                }
            });
        }
        out
    }

    /// Some dirty time log differs from what was last taken.
    #[must_use]
    pub fn has_dirty_logs(&self) -> bool {
        let mut out = false;
        self.for_each_leaf(&mut |leaf, _| out |= leaf.log_dirty);
        out
    }

    /// Adds txgs to a leaf's dirty time log.
    pub fn note_lacking(&mut self, guid: u64, txgs: Range<u64>) {
        self.with_leaf_mut(guid, |leaf| leaf.note_lacking(txgs));
    }

    /// Takes over a dirty time log as stored.
    pub fn load_log(&mut self, guid: u64, txgs: &RangeTree) {
        self.with_leaf_mut(guid, |leaf| {
            let was_dirty = leaf.log_dirty;
            txgs.iter().for_each(|range| leaf.note_lacking(range));
            leaf.log_dirty = was_dirty;
        });
    }

    /// Txgs that leaves in service lack: lowest and highest. `None`: nothing to resilver.
    #[must_use]
    pub fn lacking_txgs(&self) -> Option<Range<u64>> {
        let mut out: Option<Range<u64>> = None;
        self.for_each_leaf(&mut |leaf, _| {
            let (first, last) = (leaf.lacking().iter().next(), leaf.lacking().iter().last());
            if let (true, Some(first), Some(last)) = (leaf.is_usable(), first, last) {
                let known = out.clone().unwrap_or(first.start..last.end);
                out = Some(known.start.min(first.start)..known.end.max(last.end));
            }
        });
        out
    }

    /// Leaves in service.
    #[must_use]
    pub fn serving(&self) -> BTreeSet<u64> {
        let mut out = BTreeSet::new();
        self.for_each_leaf(&mut |leaf, _| {
            if leaf.is_usable() {
                out.insert(leaf.guid());
            }
        });
        out
    }

    /// Leaves in service that `got` accepts got everything of these txgs.
    pub fn note_filled(&mut self, txgs: &Range<u64>, got: &dyn Fn(u64) -> bool) {
        for top in self.tops_mut().values_mut() {
            top.for_each_leaf_mut(&mut |leaf| {
                if leaf.is_usable() && got(leaf.guid()) {
                    leaf.note_filled(txgs);
                }
            });
        }
    }

    /// Top-level vdevs below which a leaf in service lacks anything, and whether all their leaves hold the same.
    #[must_use]
    pub fn lacking_tops(&self) -> Vec<(u32, bool)> {
        let lacking = self.tops().iter().filter(|(_, top)| top.lacks_any());
        lacking.map(|(id, top)| (u32::try_from(*id).unwrap_or(u32::MAX), top.is_mirrored())).collect()
    }

    /// Copies a range of a mirror's space from a whole side to those that lack anything, without looking at what it is.
    #[must_use]
    pub fn copy_over(&self, vdev: u32, offset: u64, size: usize) -> Scrubbed {
        self.top(vdev).map_or(Scrubbed { good: false, bad: 1, repaired: 0 }, |top| top.copy_over(offset, size, self.context()))
    }

    /// True if the leaf lacks nothing.
    #[must_use]
    pub fn is_whole(&self, guid: u64) -> bool {
        self.with_leaf(guid, |leaf| leaf.is_usable() && leaf.lacking().is_empty()).unwrap_or(false)
    }

    /// Allocatable bytes that the devices of a top-level vdev allow, as they are now.
    #[must_use]
    pub fn possible_asize(&self, top: u64) -> u64 {
        let Some(vdev) = self.tops().get(&top) else { return 0 };
        let ashift = vdev.config().ashift;
        fn of(config: &VdevConfig, pool: &Pool, ashift: u32) -> u64 {
            let least = || config.children.iter().map(|child| of(child, pool, ashift)).min().unwrap_or(0);
            match config.kind {
                VdevKind::Leaf => usable_bytes(pool.leaf_size(config.guid), ashift),
                VdevKind::Mirror => least(),
                VdevKind::Raidz { .. } => least() * config.children.len() as u64,
                VdevKind::Hole | VdevKind::Missing => 0,
            }
        }
        of(vdev.config(), self, ashift)
    }
}

/// Allocatable bytes of a device.
#[must_use]
pub const fn usable_bytes(device_bytes: u64, ashift: u32) -> u64 {
    if device_bytes < label::LEAF_MIN {
        return 0;
    }
    let whole = device_bytes / label::SIZE * label::SIZE - label::FRONT - 2 * label::SIZE;
    whole >> ashift << ashift
}

/// Guids of a tree's leaves below `guid`.
#[must_use]
pub fn leaves_below(trees: &[VdevConfig], guid: u64) -> Vec<u64> {
    trees.iter().find_map(|tree| tree.find(guid)).map(|vdev| vdev.leaves().iter().map(|leaf| leaf.guid).collect()).unwrap_or_default()
}

