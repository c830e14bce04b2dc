//! Spares and cache devices: devices of a pool outside its vdev tree.
//!
//! Their labels name no pool, only themselves and what they are; lists in the MOS say whose they are. An import keeps every such device it was given, and
//! the pool's owner takes those that are its.

use alloc::boxed::Box;
use alloc::vec;

use kif::BlockDev;
use pool_phys::label;
use pool_phys::nvlist::{List, Value};

use crate::vdev::leaf_of;
use crate::{Pool, WriteError};

impl Pool {
    /// Bytes of the device of a spare or cache device that is not in the tree; `None` if it is not here.
    #[must_use]
    pub fn auxiliary_size(&self, guid: u64) -> Option<u64> {
        self.auxiliary().get(&guid).map(crate::leaf::Leaf::size)
    }

    /// Takes a device in.
    pub fn put_auxiliary(&mut self, guid: u64, device: Box<dyn BlockDev>) {
        self.auxiliary_mut().insert(guid, leaf_of(guid, device, None));
    }

    /// Lets go of all devices outside the tree but those of `known`: they are another pool's.
    pub fn keep_auxiliary(&mut self, known: &[u64]) {
        self.auxiliary_mut().retain(|guid, _| known.contains(guid));
    }

    /// Gives a device out, to be a vdev or to leave the pool.
    pub fn take_auxiliary(&mut self, guid: u64) -> Option<Box<dyn BlockDev>> {
        self.end_cache(guid);
        self.auxiliary_mut().remove(&guid)?.take_device()
    }

    /// Makes a leaf that [`Pool::reshape`] dropped a device outside the tree again. False if there is no such leaf, or it has no device.
    pub fn retire_to_auxiliary(&mut self, guid: u64) -> bool {
        let device = self.strays_mut().remove(&guid).and_then(|mut leaf| leaf.take_device());
        device.map(|device| self.put_auxiliary(guid, device)).is_some()
    }

    /// Writes the four labels of a device outside the tree: what it is (`state`) and its guid. With no state, labels of nothing.
    ///
    /// # Errors
    /// The device failed, or is not here.
    pub fn label_auxiliary(&self, guid: u64, state: Option<u64>) -> Result<(), WriteError> {
        let gone = WriteError::Device { guid, error: kif::BlockError::Gone };
        let leaf = self.auxiliary().get(&guid).ok_or(gone)?;
        crate::commit::clear_labels(leaf, self.context())?;
        let Some(state) = state else { return Ok(()) };
        let mut config = List::default();
        for (key, value) in [("version", 5000), ("state", state), ("guid", guid)] {
            config.set(key, Value::Number(value));
        }
        let packed = label::Front::new(&config).map_err(WriteError::Format)?;
        for offset in label::offsets(leaf.size()) {
            let mut front = packed.at(offset);
            // The ring after it is empty.
            front.extend_from_slice(&vec![0; usize::try_from(label::SIZE).unwrap_or(0) - front.len()]);
            leaf.write_raw(offset, &front, self.context())?;
        }
        leaf.flush(self.context())
    }
}
