//! Writing: blocks, then the uberblock that makes them the pool.
//!
//! # Failure
//! Blocks go to free space only, so a crash before the uberblock leaves the old pool whole. The order of a commit is: all blocks, flush; labels 0 and
//! 2 if the config changed, flush; the uberblock to every label's ring, flush; labels 1 and 3, flush (format section 2.2). A write error on any
//! device stops the commit before the uberblock; the caller must not write on (`WriteError`).

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use kif::BlockError;
use pool_phys::FormatError;
use pool_phys::blkptr::{BlockPointer, Dva};
use pool_phys::label::{self, Uberblock};
use pool_phys::nvlist::Value;

use crate::Pool;

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
    /// Writes a stored block to one of its places.
    ///
    /// # Errors
    /// A device failed.
    pub fn write_block(&self, dva: &Dva, data: &[u8]) -> Result<(), WriteError> {
        let top = self.top(dva.vdev).ok_or(WriteError::Device { guid: 0, error: BlockError::Gone })?;
        top.write(dva.offset, data)
    }

    /// Makes what was written the pool.
    ///
    /// # Errors
    /// A device failed; see the module's failure model.
    pub fn commit(&mut self, commit: Commit) -> Result<(), WriteError> {
        self.flush()?;
        if let Some(state) = commit.state {
            self.set_state(state);
            self.write_labels(commit.txg, [0, 2])?;
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
        self.for_each_leaf(&mut |leaf, ashift| {
            let (at, size) = label::ring_slot(uberblock.txg, ashift);
            label::offsets(leaf.size()).into_iter().try_for_each(|offset| leaf.write_raw(offset + at, &uberblock.encode(size, offset + at)))
        })?;
        self.flush()?;
        if commit.state.is_some() {
            self.write_labels(commit.txg, [1, 3])?;
            self.flush()?;
        }
        self.set_uberblock(uberblock);
        Ok(())
    }

    fn flush(&self) -> Result<(), WriteError> {
        self.for_each_leaf(&mut |leaf, _| leaf.flush())
    }

    fn write_labels(&self, txg: u64, which: [usize; 2]) -> Result<(), WriteError> {
        self.for_each_leaf(&mut |leaf, _| {
            let mut config = self.label_of(leaf.guid()).cloned().unwrap_or_default();
            config.set("txg", Value::Number(txg));
            config.set("state", Value::Number(self.state()));
            let offsets = label::offsets(leaf.size());
            which.into_iter().try_for_each(|index| {
                let front = label::encode_front(&config, offsets[index]).map_err(WriteError::Format)?;
                leaf.write_raw(offsets[index], &front)
            })
        })
    }

    /// Clears the uberblock rings of all leaves: a new pool must not find an old one's.
    ///
    /// # Errors
    /// A device failed.
    pub(crate) fn clear_rings(&self) -> Result<(), WriteError> {
        let ring: Vec<u8> = vec![0; 128 << 10];
        self.for_each_leaf(&mut |leaf, _| label::offsets(leaf.size()).into_iter().try_for_each(|offset| leaf.write_raw(offset + (128 << 10), &ring)))
    }
}
