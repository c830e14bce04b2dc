//! Free space on the devices: given back to them, or written over.
//!
//! Where space of a vdev lies on a leaf below it depends on what is between them: on a disk or a mirror at the same place, on a raidz row by row. What is free in whole rows only
//! is free on every disk.

use alloc::vec;
use core::ops::Range;

use pool_phys::label;

use crate::config::{VdevConfig, VdevKind};
use crate::leaf::Leaf;
use crate::{Pool, WriteError};

/// What is written over free space: the word that OpenZFS takes.
const PATTERN: u64 = 0xdead_beef_dead_beee;
/// Bytes of one write of it.
const PIECE: u64 = 1 << 20;

/// What becomes of free space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeWork {
    /// The device is told that it holds nothing (`zpool trim`).
    Discard,
    /// It is written over, so that the device has all of it (`zpool initialize`).
    Overwrite,
}

fn below(config: &VdevConfig, leaf: u64, range: Range<u64>, ashift: u32) -> Option<Range<u64>> {
    match config.kind {
        VdevKind::Leaf => (config.guid == leaf).then_some(range),
        VdevKind::Mirror => config.children.iter().find_map(|child| below(child, leaf, range.clone(), ashift)),
        VdevKind::Raidz { .. } => {
            let columns = config.children.len() as u64;
            let child = config.children.iter().find(|child| child.find(leaf).is_some())?;
            let rows = (range.start >> ashift).div_ceil(columns)..(range.end >> ashift) / columns;
            below(child, leaf, rows.start << ashift..rows.end.max(rows.start) << ashift, ashift)
        }
        VdevKind::Hole | VdevKind::Missing => None,
    }
}

impl Pool {
    /// Works on free `range` of vdev `top` where it lies on `leaf`, which is below it. Returns the bytes of the leaf that it was, or `None` if its device cannot discard.
    ///
    /// # Errors
    /// The device failed.
    pub fn work_on_free(&self, top: u32, leaf: u64, range: Range<u64>, work: FreeWork) -> Result<Option<u64>, WriteError> {
        let Some(vdev) = self.top(top) else { return Ok(Some(0)) };
        let Some(place) = below(vdev.config(), leaf, range, vdev.config().ashift).filter(|place| !place.is_empty()) else { return Ok(Some(0)) };
        let bytes = place.end - place.start;
        let at = place.start.saturating_add(label::FRONT);
        let done = self.with_leaf(leaf, |leaf| match work {
            FreeWork::Discard => leaf.discard(at, bytes, self.context()),
            FreeWork::Overwrite => self.overwrite(leaf, at, bytes).map(|()| true),
        });
        Ok(done.unwrap_or(Ok(true))?.then_some(bytes))
    }

    fn overwrite(&self, leaf: &Leaf, at: u64, bytes: u64) -> Result<(), WriteError> {
        let size = usize::try_from(bytes.min(PIECE)).unwrap_or(0);
        let mut piece = vec![0; size];
        piece.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&PATTERN.to_le_bytes()));
        let mut done = 0;
        while done < bytes {
            let part = usize::try_from(bytes - done).map_or(size, |left| left.min(size));
            leaf.fill(at + done, &piece[..part], self.context())?;
            done += part as u64;
        }
        Ok(())
    }
}
