//! Writing: blocks, then the uberblock that makes them the pool.
//!
//! # Theory
//! What a txg writes is staged ([`Pool::stage`]) while its contents are worked out, and goes to the devices when nothing is left to be worked out: so a device that
//! fails never interrupts the work in memory, and [`Pool::commit`] can be asked again, with the same [`Commit`], until it succeeds. Each time writes everything
//! anew, as a device that went away may have lost what it had taken and not flushed. A block that is staged is read from there. This costs about no memory: what is
//! staged has left the changed data above.
//!
//! # Failure
//! Blocks go to free space only, so a crash before the uberblock leaves the old pool whole. The order of a commit is: all blocks, flush; labels 0 and
//! 2 if the config changed, flush; the uberblock to every label's ring, flush; labels 1 and 3, flush (format section 2.2). Too many devices that fail on the way
//! stop it (`WriteError`): the caller asks again once they are back ([`Pool::revive`]), or takes the pool for what it was at the last commit.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use kif::BlockError;
use pool_phys::FormatError;
use pool_phys::blkptr::{BlockPointer, Dva};
use pool_phys::label::{self, Front, Uberblock};
use pool_phys::nvlist::Value;

use crate::Pool;
use crate::leaf::{Context, Leaf};

/// A device did not take a write; nothing was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// A block or label on the leaf with this guid (0: a vdev without devices).
    Device { guid: u64, error: BlockError },
    /// The config does not fit a label.
    Format(FormatError),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { guid, error } => write!(f, "device {guid} did not take a write: {error:?}"),
            Self::Format(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for WriteError {}

/// What a commit makes of the pool.
#[derive(Clone, Debug)]
pub struct Commit {
    pub txg: u64,
    /// UTC seconds.
    pub timestamp: u64,
    /// The MOS as written.
    pub root: BlockPointer,
    /// Pool state to record in the labels (0 active, 1 exported), if it or the config changed.
    pub state: Option<u64>,
}

impl Pool {
    /// Writes a stored block to one of its places at once: one of an intent log. Devices that fail up to the redundancy are survived; they note that they missed the open txg.
    ///
    /// # Errors
    /// Too many devices failed.
    pub fn write_block(&self, dva: &Dva, data: &[u8]) -> Result<(), WriteError> {
        let top = self.top(dva.vdev).ok_or(WriteError::Device { guid: 0, error: BlockError::Gone })?;
        top.write(dva.offset, data, self.context())
    }

    /// Keeps a stored block for one of its places until the commit, which writes it.
    pub fn stage(&self, dva: &Dva, data: Arc<Vec<u8>>) {
        self.staged().insert((dva.vdev, dva.offset), data);
    }

    /// Forgets what is staged: it will not be committed.
    pub fn forget_staged(&self) {
        self.staged().clear();
    }

    /// Bytes that are staged.
    #[must_use]
    pub fn staged_bytes(&self) -> u64 {
        self.staged().values().map(|data| data.len() as u64).sum()
    }

    /// Every top-level vdev has enough devices in service for everything to be read and written, as far as is known without asking them.
    #[must_use]
    pub fn bears_losses(&self) -> bool {
        self.tops().values().all(|top| top.bears(&Leaf::is_usable))
    }

    /// The same, and each device is asked for a sector: one that went away unnoticed is found out.
    #[must_use]
    pub fn serves(&self) -> bool {
        let mut silent = Vec::new();
        self.for_each_leaf(&mut |leaf, _| {
            if !leaf.serves(self.context()) {
                silent.push(leaf.guid());
            }
        });
        self.tops().values().all(|top| top.bears(&|leaf| !silent.contains(&leaf.guid())))
    }

    fn write_staged(&self) -> Result<(), WriteError> {
        self.staged().iter().try_for_each(|((vdev, offset), data)| {
            let top = self.top(*vdev).ok_or(WriteError::Device { guid: 0, error: BlockError::Gone })?;
            top.write(*offset, data, self.context())
        })
    }

    /// Makes what is staged the pool. After an error it can be asked again with the same `commit`.
    ///
    /// # Errors
    /// No device took the uberblock, or a top-level vdev lost more devices than it can bear.
    pub fn commit(&mut self, commit: Commit) -> Result<(), WriteError> {
        self.begin_commit();
        self.write_staged()?;
        self.flush()?;
        let mut fronts = BTreeMap::new();
        if let Some(state) = commit.state {
            self.set_state(state);
            fronts = self.label_fronts(commit.txg)?;
            self.write_labels(&fronts, [0, 2])?;
            self.flush()?;
        }
        let uberblock = Uberblock {
            version: 5000,
            txg: commit.txg,
            guid_sum: self.guid_sum(),
            timestamp: commit.timestamp,
            root: commit.root,
            mmp_sequence: 0,
            multihost: false,
        };
        let mut sealed = BTreeMap::new();
        self.on_leaves(&mut |leaf, ashift| {
            let (at, size) = label::ring_slot(uberblock.txg, ashift);
            let sealed = sealed.entry(size).or_insert_with(|| uberblock.sealed(size));
            label::offsets(leaf.size()).into_iter().try_for_each(|offset| leaf.write_raw(offset + at, sealed.at(offset + at), self.context()))
        })?;
        self.flush()?;
        if !fronts.is_empty() {
            self.write_labels(&fronts, [1, 3])?;
            self.flush()?;
        }
        self.set_uberblock(uberblock);
        self.forget_staged();
        if !fronts.is_empty() {
            for top in self.tops_mut().values_mut() {
                top.for_each_leaf_mut(&mut |leaf| leaf.found_txg = leaf.found_txg.or((!leaf.has_missed()).then_some(commit.txg)));
            }
        }
        Ok(())
    }

    /// Carries `act` out on every leaf that has got all of this txg so far. One that fails drops out; too many are an error.
    fn on_leaves(&self, act: &mut dyn FnMut(&Leaf, u32) -> Result<(), WriteError>) -> Result<(), WriteError> {
        for top in self.tops().values() {
            let mut failure = WriteError::Device { guid: top.config().guid, error: BlockError::Gone };
            top.for_each_leaf(&mut |leaf, ashift| {
                if !leaf.has_missed()
                    && let Err(error) = act(leaf, ashift)
                {
                    failure = error;
                }
            });
            if !top.bears(&|leaf| !leaf.has_missed()) {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Returns once everything written is on stable media.
    ///
    /// # Errors
    /// Too many devices failed.
    pub fn flush(&self) -> Result<(), WriteError> {
        self.on_leaves(&mut |leaf, _| leaf.flush(self.context()))
    }

    /// What the labels of each leaf say with this commit, by guid.
    fn label_fronts(&mut self, txg: u64) -> Result<BTreeMap<u64, Front>, WriteError> {
        self.refresh_labels(txg);
        self.labels().iter().map(|(guid, config)| Ok((*guid, Front::new(config).map_err(WriteError::Format)?))).collect()
    }

    fn write_labels(&self, fronts: &BTreeMap<u64, Front>, which: [usize; 2]) -> Result<(), WriteError> {
        self.on_leaves(&mut |leaf, _| {
            let Some(front) = fronts.get(&leaf.guid()) else { return Ok(()) };
            let offsets = label::offsets(leaf.size());
            which.into_iter().try_for_each(|index| leaf.write_raw(offsets[index], &front.at(offsets[index]), self.context()))
        })
    }

    /// Brings the leaves' label configs up to date with the vdev tree.
    fn refresh_labels(&mut self, txg: u64) {
        let template = self.labels().values().next().cloned().unwrap_or_default();
        let mut labels = BTreeMap::new();
        let children = self.tops().len() as u64;
        for top in self.tops().values() {
            let tree = top.config().to_list();
            top.for_each_leaf(&mut |leaf, _| {
                let mut label = self.labels().get(&leaf.guid()).cloned().unwrap_or_else(|| template.clone());
                label.set("txg", Value::Number(txg));
                label.set("state", Value::Number(self.state()));
                label.set("pool_guid", Value::Number(self.guid()));
                label.set("top_guid", Value::Number(top.config().guid));
                label.set("guid", Value::Number(leaf.guid()));
                label.set("vdev_children", Value::Number(children));
                label.set("vdev_tree", Value::List(tree.clone()));
                label.remove("create_txg");
                label.remove("is_log");
                if top.config().is_log {
                    label.set("is_log", Value::Number(1));
                }
                labels.insert(leaf.guid(), label);
            });
        }
        *self.labels_mut() = labels;
    }

    /// Clears the uberblock rings of all leaves: a new pool must not find an old one's.
    ///
    /// # Errors
    /// A device failed.
    pub(crate) fn clear_rings(&self) -> Result<(), WriteError> {
        let mut done = Ok(());
        self.for_each_leaf(&mut |leaf, _| {
            if done.is_ok() {
                done = clear_labels(leaf, self.context());
            }
        });
        done
    }
}

/// Makes a device's labels invalid and its uberblock rings empty.
pub(crate) fn clear_labels(leaf: &Leaf, context: &Context) -> Result<(), WriteError> {
    let empty: Vec<u8> = vec![0; 256 << 10];
    label::offsets(leaf.size()).into_iter().try_for_each(|offset| leaf.write_raw(offset, &empty, context))?;
    leaf.flush(context)
}
