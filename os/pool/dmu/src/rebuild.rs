//! Sequential resilver: a mirror's new side is filled in the order of places, not of the block tree.
//!
//! # Theory
//! What the space maps call used is copied from a whole side as it is: no block pointer is read, so no sum is known, and the disks do long runs instead of seeks.
//! Blocks written meanwhile go to all sides by themselves. When all is copied the side lacks nothing any more, and a scrub begins, which checks every copy and
//! mends what was wrong on the side that was read; a disk that is being replaced stays until that is done.
//!
//! # Failure
//! A place that no whole side gives, or that did not arrive, leaves the side lacking everything, as before: a healing resilver then says which blocks those are. A
//! restart forgets how far the copying was.

use core::ops::Range;

use pool_spa::config::VdevKind;

use crate::edit::EditError;
use crate::scan::{ScanKind, ScanReport};
use crate::store::Store;

/// Bytes copied at a time.
const CHUNK: u64 = 1 << 20;

const MIRRORS_ONLY: &str = "only mirrors are resilvered sequentially: a raidz needs the blocks' sums; resilver without -s";

/// A sequential resilver under way.
#[derive(Debug)]
pub(crate) struct Rebuild {
    /// The vdev and the first byte that are next.
    at: (u32, u64),
    /// Txgs that some leaf lacked when it began.
    txgs: Range<u64>,
    report: ScanReport,
}

impl Store {
    /// Whether what is beside or in place of `leaf` can be resilvered sequentially: asked before it is attached.
    ///
    /// # Errors
    /// It is part of no mirror and would not be.
    pub fn check_rebuild(&self, leaf: u64) -> Result<(), EditError> {
        let trees = self.pool.trees();
        let is_raidz = trees.iter().any(|tree| tree.find(leaf).is_some() && matches!(tree.kind, VdevKind::Raidz { .. }));
        if is_raidz { Err(EditError::Invalid(MIRRORS_ONLY)) } else { Ok(()) }
    }

    /// Begins a sequential resilver; [`Store::rebuild_step`] carries it out.
    ///
    /// # Errors
    /// Something that lacks data is no mirror.
    pub fn start_rebuild(&mut self) -> Result<(), EditError> {
        if self.pool.lacking_tops().iter().any(|(_, mirrored)| !mirrored) {
            return Err(EditError::Invalid(MIRRORS_ONLY));
        }
        let txgs = self.pool.lacking_txgs().unwrap_or(0..0);
        self.rebuild = Some(Rebuild { at: (0, 0), txgs, report: ScanReport::default() });
        Ok(())
    }

    /// True if a sequential resilver is under way.
    #[must_use]
    pub const fn is_rebuilding(&self) -> bool {
        self.rebuild.is_some()
    }

    /// Another side lacks data: what was copied so far is not on it, so a sequential resilver under way begins anew, or, where it cannot, becomes a healing one.
    pub(crate) fn rebuild_anew(&mut self) {
        if self.rebuild.take().is_some() && self.start_rebuild().is_err() {
            self.start_scan(ScanKind::Resilver);
        }
    }

    /// Copies up to `budget` bytes. At the end the sides concerned lack nothing, and a scrub is under way ([`Store::scan_step`]).
    ///
    /// # Errors
    /// A failed commit.
    pub fn rebuild_step(&mut self, budget: u64, now: u64) -> Result<ScanReport, EditError> {
        let Some(mut rebuild) = self.rebuild.take() else { return Ok(ScanReport { done: true, ..ScanReport::default() }) };
        let mut left = budget.max(1);
        while left > 0 {
            let Some((vdev, range)) = self.next_used(rebuild.at) else {
                let report = ScanReport { done: true, ..rebuild.report };
                if report.errors == 0 && !rebuild.txgs.is_empty() {
                    self.pool.note_filled(&rebuild.txgs, &|_| true);
                }
                self.commit(now)?;
                self.start_scan(ScanKind::Scrub);
                return Ok(report);
            };
            let size = (range.end - range.start).min(CHUNK);
            let found = self.pool.copy_over(vdev, range.start, usize::try_from(size).unwrap_or(0));
            let report = &mut rebuild.report;
            report.blocks += 1;
            report.bytes += size;
            report.bad += u64::from(found.bad);
            report.repaired += u64::from(found.repaired);
            report.repaired_bytes += if found.repaired > 0 { size } else { 0 };
            report.errors += u64::from(!found.good) + u64::from(found.bad - found.repaired.min(found.bad)) * u64::from(found.good);
            rebuild.at = (vdev, range.start + size);
            left = left.saturating_sub(size);
        }
        let report = rebuild.report;
        self.rebuild = Some(rebuild);
        Ok(report)
    }

    /// The first used range at or behind a place, on vdevs where something is lacking.
    fn next_used(&self, (vdev, offset): (u32, u64)) -> Option<(u32, Range<u64>)> {
        let lacking = self.pool.lacking_tops();
        for (id, top) in self.space.tops().range(vdev..).filter(|(id, _)| lacking.iter().any(|(other, _)| other == *id)) {
            let from = if *id == vdev { offset } else { 0 };
            for slab in &top.metaslabs {
                if let Some(range) = slab.used_from(from) {
                    return Some((*id, range));
                }
            }
        }
        None
    }
}
