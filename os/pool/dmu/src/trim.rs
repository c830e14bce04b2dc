//! Free space of a pool, given back to its devices or written over, a piece at a time.

use pool_spa::FreeWork;
use pool_spa::config::VdevConfig;

use crate::edit::EditError;
use crate::store::Store;

/// How far such work is: the number of the vdev, and the place on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreeAt {
    pub vdev: u64,
    pub offset: u64,
}

/// What a step of it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreeStep {
    /// Where the next begins; `None`: there is no more.
    pub next: Option<FreeAt>,
    /// Bytes of devices.
    pub bytes: u64,
    /// Leaves of this step whose devices cannot discard.
    pub unable: u64,
}

impl Store {
    /// Works on the next free space from `at` on, about `budget` bytes of a vdev; of the devices of `leaf` only, or of all.
    ///
    /// # Errors
    /// A device failed; no such leaf.
    pub fn work_on_free(&self, work: FreeWork, leaf: Option<u64>, at: FreeAt, budget: u64) -> Result<FreeStep, EditError> {
        if self.is_read_only() {
            return Err(EditError::ReadOnly);
        }
        let mut step = FreeStep::default();
        let (first, mut at, mut left) = (at.vdev, at, budget);
        for tree in self.pool.trees().iter().filter(|tree| tree.id >= first) {
            let leaves: alloc::vec::Vec<u64> = tree.leaves().into_iter().map(|leaf: &VdevConfig| leaf.guid).filter(|guid| leaf.is_none_or(|leaf| leaf == *guid)).collect();
            if tree.id > at.vdev {
                at = FreeAt { vdev: tree.id, offset: 0 };
            }
            let Ok(top) = u32::try_from(tree.id) else { continue };
            while let Some(piece) = self.space.free_from(top, at.offset, left).filter(|_| !leaves.is_empty()) {
                for guid in &leaves {
                    // One that does not serve keeps what it has.
                    if self.pool.leaf_state(*guid).is_none_or(|state| state > pool_spa::VdevState::Degraded) {
                        continue;
                    }
                    match self.pool.work_on_free(top, *guid, piece.clone(), work)? {
                        Some(bytes) => step.bytes += bytes,
                        None => step.unable += 1,
                    }
                }
                at.offset = piece.end;
                left -= piece.end - piece.start;
                if left == 0 {
                    step.next = Some(at);
                    return Ok(step);
                }
            }
        }
        Ok(step)
    }
}
