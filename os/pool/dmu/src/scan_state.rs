//! What the pool keeps of its scans (format section 18): a scrub goes on after an import from where it was paused or the pool exported, and the last one's result stays
//! known.
//!
//! # Theory
//! A commit writes the entry `scan` when there is something new to say. Of a scrub under way that is its beginning only: after a crash it begins anew. A paused one, and
//! one whose pool is exported, has its place in it: the dataset with object and block in the bookmark, and in the queue, as OpenZFS has it, those that are still to come.
//! While a scrub is paused, each commit brings that up to date. The place is ours only as long as [`OURS`] stands in it, which OpenZFS's own progress replaces: its queue
//! leads on to datasets that are not in it, so that its scrubs begin anew here. A resilver needs none of it: the devices know what they lack.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;

use pool_phys::dnode::kind;
use pool_phys::zap::Entry;

use crate::edit::EditError;
use crate::scan::{Scan, ScanKind, ScanReport, Walk};
use crate::store::{OBJECT_DIRECTORY, Store};
use crate::{Datasets, zap_edit as zap};

/// Type of the table of datasets still to be visited.
const QUEUE: u8 = 38;
/// In place of the last txg of the dataset that is visited: all, and the queue is all that is left.
const OURS: u64 = u64::MAX;
/// In place of a dataset in the bookmark: none.
const NO_DATASET: u64 = u64::MAX;
const WORDS: usize = 24;

/// Numbers of the words.
mod at {
    pub const FUNCTION: usize = 0;
    pub const STATE: usize = 1;
    pub const QUEUE: usize = 2;
    pub const MAX_TXG: usize = 4;
    pub const CURRENT_MIN: usize = 5;
    pub const CURRENT_MAX: usize = 6;
    pub const BEGUN: usize = 7;
    pub const ENDED: usize = 8;
    pub const TO_EXAMINE: usize = 9;
    pub const EXAMINED: usize = 10;
    pub const PROCESSED: usize = 12;
    pub const ERRORS: usize = 13;
    pub const DATASET: usize = 19;
    pub const OBJECT: usize = 20;
    pub const LEVEL: usize = 21;
    pub const BLOCK: usize = 22;
    pub const FLAGS: usize = 23;
}

const PAUSED: u64 = 2;

/// How the last scan that the pool knows of stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanState {
    UnderWay,
    Paused,
    Finished,
    Cancelled,
}

/// The last scan that the pool knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastScan {
    pub kind: ScanKind,
    pub state: ScanState,
    pub begun: u64,
    /// When it ended, if it did.
    pub ended: u64,
    pub report: ScanReport,
}

/// What is to be written about scans.
#[derive(Debug, Default)]
pub struct Notes {
    last: Option<LastScan>,
    /// Something new is to be written; with the place of the scrub, or from its beginning.
    pending: Option<bool>,
}

impl Store {
    /// The last scan that the pool knows of.
    #[must_use]
    pub const fn last_scan(&self) -> Option<LastScan> {
        self.scan_notes.last
    }

    /// Whether the scan under way is a paused scrub.
    #[must_use]
    pub fn is_scan_paused(&self) -> bool {
        self.scan.as_ref().is_some_and(|scan| scan.is_paused)
    }

    /// Pauses the scrub under way; `false`: lets it go on.
    ///
    /// # Errors
    /// There is none, or it is (not) paused already.
    pub fn pause_scrub(&mut self, pause: bool) -> Result<(), EditError> {
        match &mut self.scan {
            Some(scan) if scan.kind == ScanKind::Scrub && scan.is_paused != pause => scan.is_paused = pause,
            Some(scan) if scan.kind == ScanKind::Scrub => return Err(EditError::Busy(if pause { "the scrub is paused already" } else { "the scrub is under way" })),
            _ => return Err(EditError::Invalid("there is no scrub under way")),
        }
        self.scan_notes.pending = Some(true);
        Ok(())
    }

    /// A scan begins, and what was under way ends.
    pub(crate) fn note_scan_begun(&mut self, kind: ScanKind) {
        match (kind, &mut self.scan_notes.last) {
            (ScanKind::Scrub, last) => *last = Some(LastScan { kind, state: ScanState::UnderWay, begun: 0, ended: 0, report: ScanReport::default() }),
            (ScanKind::Resilver, Some(last)) if matches!(last.state, ScanState::UnderWay | ScanState::Paused) => last.state = ScanState::Cancelled,
            (ScanKind::Resilver, _) => return,
        }
        self.scan_notes.pending = Some(false);
    }

    /// The scan ended.
    pub(crate) fn note_scan_ended(&mut self, scan: &Scan, report: Option<ScanReport>, now: u64) {
        let state = if report.is_some() { ScanState::Finished } else { ScanState::Cancelled };
        self.scan_notes.last = Some(LastScan { kind: scan.kind, state, begun: scan.begun, ended: now, report: report.unwrap_or(scan.report) });
        self.scan_notes.pending = Some(false);
    }

    /// The pool is exported: the place of a scrub is to be kept.
    pub(crate) fn keep_scan_place(&mut self) {
        if self.scan.as_ref().is_some_and(|scan| scan.kind == ScanKind::Scrub) {
            self.scan_notes.pending = Some(true);
        }
    }

    /// Before a commit: writes what there is to say. The walk is a bookmark already.
    pub(crate) fn write_scan_notes(&mut self) -> Result<(), EditError> {
        let is_paused = self.is_scan_paused();
        let Some(with_place) = self.scan_notes.pending.take().or(is_paused.then_some(true)) else { return Ok(()) };
        let old = self.scan_words()?;
        let mut words = [0; WORDS];
        let mut queue = BTreeMap::new();
        if let (Some(scan), true) = (&self.scan, self.scan.as_ref().is_some_and(|scan| scan.kind == ScanKind::Scrub)) {
            let state = if is_paused { ScanState::Paused } else { ScanState::UnderWay };
            self.scan_notes.last = Some(LastScan { kind: scan.kind, state, begun: scan.begun, ended: 0, report: scan.report });
            words[at::MAX_TXG] = self.txg;
            if with_place {
                (words[at::CURRENT_MAX], words[at::DATASET]) = (OURS, NO_DATASET);
                if let Some(walk) = &scan.current {
                    (words[at::CURRENT_MIN], words[at::DATASET]) = (walk.min_birth, walk.dataset);
                    (words[at::OBJECT], words[at::BLOCK]) = walk.bookmark;
                }
                queue = self.unvisited(scan)?;
            }
        }
        let Some(last) = self.scan_notes.last else { return Ok(()) };
        words[at::FUNCTION] = if last.kind == ScanKind::Scrub { 1 } else { 2 };
        words[at::STATE] = match last.state {
            ScanState::UnderWay | ScanState::Paused => 1,
            ScanState::Finished => 2,
            ScanState::Cancelled => 3,
        };
        words[at::FLAGS] = if last.state == ScanState::Paused { PAUSED } else { 0 };
        (words[at::BEGUN], words[at::ENDED]) = (last.begun, last.ended);
        let (free, total) = self.free_total();
        (words[at::TO_EXAMINE], words[at::EXAMINED]) = ((total - free).max(last.report.bytes), last.report.bytes);
        (words[at::PROCESSED], words[at::ERRORS]) = (last.report.repaired_bytes, last.report.errors);
        // A scrub under way has a queue, empty or not; another scan has none.
        words[at::QUEUE] = old.map_or(0, |old| old[at::QUEUE]);
        match (words[at::STATE] == 1, words[at::QUEUE]) {
            (true, 0) => words[at::QUEUE] = self.table(QUEUE)?,
            (false, object) if object != 0 => {
                self.mos.free(&self.pool, object)?;
                words[at::QUEUE] = 0;
            }
            _ => {}
        }
        if words[at::QUEUE] != 0 {
            self.write_queue(words[at::QUEUE], &queue)?;
        }
        // How much is allocated and the txg change with every commit, and are no news.
        if old.is_some_and(|old| (0..WORDS).all(|word| matches!(word, at::TO_EXAMINE | at::MAX_TXG) || old[word] == words[word])) {
            return Ok(());
        }
        let entry = Entry { name: b"scan".to_vec(), integer_size: 8, value: words.to_vec() };
        zap::set(self.mos.edit(&self.pool, OBJECT_DIRECTORY)?, &self.pool, entry)
    }

    fn write_queue(&mut self, object: u64, queue: &BTreeMap<u64, u64>) -> Result<(), EditError> {
        let before: BTreeMap<Vec<u8>, u64> = self.entries_of(object)?.into_iter().filter_map(|entry| Some((entry.name.clone(), entry.number()?))).collect();
        let after: BTreeMap<Vec<u8>, u64> = queue.iter().map(|(dataset, txg)| (format!("{dataset:x}").into_bytes(), *txg)).collect();
        if before == after {
            return Ok(());
        }
        let edit = self.mos.edit(&self.pool, object)?;
        for name in before.keys().filter(|name| !after.contains_key(*name)) {
            zap::remove(edit, &self.pool, name)?;
        }
        for (name, txg) in after.iter().filter(|(name, txg)| before.get(*name) != Some(*txg)) {
            zap::set_number(edit, &self.pool, name, *txg)?;
        }
        Ok(())
    }

    /// Datasets that a scrub has still to visit, but for the one it is at, and the txg before which their blocks are visited elsewhere.
    fn unvisited(&self, scan: &Scan) -> Result<BTreeMap<u64, u64>, EditError> {
        let mut out = BTreeMap::new();
        let mut from = 1;
        while let Some(number) = self.mos.next_object(&self.pool, from)? {
            from = number + 1;
            if scan.visited.contains(&number) || scan.current.as_ref().is_some_and(|walk| walk.dataset == number) {
                continue;
            }
            let is_dataset = self.mos.with_view(&self.pool, number, |edit| Ok::<_, EditError>(edit.dnode.bonus_kind == kind::DSL_DATASET))?;
            if is_dataset {
                out.insert(number, self.peek(number, crate::dsl::ds::PREVIOUS_TXG)?);
            }
        }
        Ok(out)
    }

    fn scan_words(&self) -> Result<Option<[u64; WORDS]>, EditError> {
        let found = self.mos.with_view(&self.pool, OBJECT_DIRECTORY, |edit| zap::entries(edit, &self.pool, Some(b"scan")))?;
        Ok(found.into_iter().find(|entry| entry.name == b"scan").and_then(|entry| <[u64; WORDS]>::try_from(entry.value).ok()))
    }

    /// At import: what the pool knows of scans. A scrub that was under way or paused is there again.
    pub(crate) fn load_scan_notes(&mut self) -> Result<(), EditError> {
        let Some(words) = self.scan_words()? else { return Ok(()) };
        let is_paused = words[at::FLAGS] & PAUSED != 0;
        let kind = match words[at::FUNCTION] {
            1 => ScanKind::Scrub,
            2 => ScanKind::Resilver,
            _ => return Ok(()),
        };
        let (state, done) = match words[at::STATE] {
            1 if is_paused => (ScanState::Paused, false),
            1 => (ScanState::UnderWay, false),
            2 => (ScanState::Finished, true),
            3 => (ScanState::Cancelled, false),
            _ => return Ok(()),
        };
        let report = ScanReport { bytes: words[at::EXAMINED], repaired_bytes: words[at::PROCESSED], errors: words[at::ERRORS], done, ..ScanReport::default() };
        self.scan_notes.last = Some(LastScan { kind, state, begun: words[at::BEGUN], ended: words[at::ENDED], report });
        if kind == ScanKind::Resilver || words[at::STATE] != 1 {
            return Ok(());
        }
        // Devices may have been away between its parts: what they lack is a resilver's to say.
        let mut scan = Scan { kind, report: ScanReport::default(), txgs: 0..0, visited: BTreeSet::new(), current: None, begun: words[at::BEGUN], is_paused };
        if words[at::CURRENT_MAX] == OURS {
            let queue: BTreeSet<u64> = self.entries_of(words[at::QUEUE])?.iter().filter_map(|entry| u64::from_str_radix(&entry.text(), 16).ok()).collect();
            let current = words[at::DATASET];
            Datasets::open(&self.pool)?.mos().for_each(|number, dnode| {
                if dnode.bonus_kind == kind::DSL_DATASET && !queue.contains(&number) && number != current {
                    scan.visited.insert(number);
                }
                Ok(())
            })?;
            if current != 0 {
                scan.visited.insert(0);
            }
            // Blocks of a level above begin the object anew.
            let bookmark = if words[at::LEVEL] == 0 { (words[at::OBJECT], words[at::BLOCK]) } else { (words[at::OBJECT], 0) };
            if current != NO_DATASET {
                scan.current = Some(Walk { dataset: current, min_birth: words[at::CURRENT_MIN], stack: Vec::new(), bookmark, descend: true });
            }
            scan.report = report;
        }
        self.scan = Some(scan);
        Ok(())
    }
}
