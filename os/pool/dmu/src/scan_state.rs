//! What the pool keeps of its scans (format section 18): a scrub goes on after an import from where it was paused or the pool exported, and the last one's result stays
//! known.
//!
//! # Theory
//! A commit writes the entry `scan` when there is something new to say: what is done to the pool, since when, and how the last one ended. OpenZFS keeps the place of a scan
//! there too, as a bookmark and a queue of datasets, in an order of its own that it insists on. Ours is another: what it finds there is the beginning, with an empty queue,
//! and it begins anew.
//!
//! Our place, of a paused scrub and of one whose pool is exported, lies in entries of our own beside it: the dataset with object and block, and the datasets that were
//! visited. It holds for the txg that wrote it and no other: each commit while the scrub is paused writes it again, and one that finds another txg, because OpenZFS or a
//! crash came between, begins anew. A resilver needs none of it: the devices know what they lack.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;

use pool_phys::zap::Entry;

use crate::edit::EditError;
use crate::scan::{Scan, ScanKind, ScanReport, Walk};
use crate::store::{OBJECT_DIRECTORY, Store};
use crate::zap_edit as zap;

/// Type of OpenZFS's table of datasets still to be visited.
const QUEUE: u8 = 38;
/// Name of the first entry of our place; the others have a dot and a number after it.
const PLACE: &str = "org.orrery:scan_place";
/// Words of that entry: txg, dataset, object, block, least birth, bytes, repaired bytes, errors.
const PLACE_WORDS: usize = 8;
/// A place that was read: the words of its first entry, and the datasets visited.
type Kept = ([u64; PLACE_WORDS], BTreeSet<u64>);
/// Datasets in one of the others.
const CHUNK: usize = 100;
/// In place of a dataset: none.
const NO_DATASET: u64 = u64::MAX;
/// Counts of a damaged entry may be anything, and are added to.
const COUNT_MAX: u64 = 1 << 60;
const WORDS: usize = 24;

/// Numbers of the words.
mod at {
    pub const FUNCTION: usize = 0;
    pub const STATE: usize = 1;
    pub const QUEUE: usize = 2;
    pub const MAX_TXG: usize = 4;
    pub const BEGUN: usize = 7;
    pub const ENDED: usize = 8;
    pub const TO_EXAMINE: usize = 9;
    pub const EXAMINED: usize = 10;
    pub const PROCESSED: usize = 12;
    pub const ERRORS: usize = 13;
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
    /// Something new is to be written.
    pending: bool,
    /// The pool is being exported: the place of a scrub is to be kept.
    leaving: bool,
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
        self.scan_notes.pending = true;
        Ok(())
    }

    /// A scan begins, and what was under way ends.
    pub(crate) fn note_scan_begun(&mut self, kind: ScanKind) {
        match (kind, &mut self.scan_notes.last) {
            (ScanKind::Scrub, last) => *last = Some(LastScan { kind, state: ScanState::UnderWay, begun: 0, ended: 0, report: ScanReport::default() }),
            (ScanKind::Resilver, Some(last)) if matches!(last.state, ScanState::UnderWay | ScanState::Paused) => last.state = ScanState::Cancelled,
            (ScanKind::Resilver, _) => return,
        }
        self.scan_notes.pending = true;
    }

    /// The scan ended.
    pub(crate) fn note_scan_ended(&mut self, scan: &Scan, report: Option<ScanReport>, now: u64) {
        let state = if report.is_some() { ScanState::Finished } else { ScanState::Cancelled };
        self.scan_notes.last = Some(LastScan { kind: scan.kind, state, begun: scan.begun, ended: now, report: report.unwrap_or(scan.report) });
        self.scan_notes.pending = true;
    }

    /// The pool is exported: the place of a scrub is to be kept.
    pub(crate) fn keep_scan_place(&mut self) {
        self.scan_notes.leaving = true;
    }

    /// Before a commit: writes what there is to say. The walk is a bookmark already. `is_empty`: else there is nothing to commit, and the place of the last one holds.
    pub(crate) fn write_scan_notes(&mut self, is_empty: bool) -> Result<(), EditError> {
        let is_scrub = self.scan.as_ref().is_some_and(|scan| scan.kind == ScanKind::Scrub);
        let is_paused = self.is_scan_paused();
        let with_place = is_scrub && (is_paused || self.scan_notes.leaving);
        if !core::mem::take(&mut self.scan_notes.pending) && (!with_place || is_empty && !self.scan_notes.leaving) {
            return Ok(());
        }
        let old = self.scan_words()?;
        let mut words = [0; WORDS];
        if let (Some(scan), true) = (&self.scan, is_scrub) {
            let state = if is_paused { ScanState::Paused } else { ScanState::UnderWay };
            self.scan_notes.last = Some(LastScan { kind: scan.kind, state, begun: scan.begun, ended: 0, report: scan.report });
            words[at::MAX_TXG] = self.txg;
        }
        let Some(last) = self.scan_notes.last else { return Ok(()) };
        self.write_place(with_place)?;
        words[at::FUNCTION] = if last.kind == ScanKind::Scrub { 1 } else { 2 };
        words[at::STATE] = match last.state {
            ScanState::UnderWay | ScanState::Paused => 1,
            ScanState::Finished => 2,
            ScanState::Cancelled => 3,
        };
        words[at::FLAGS] = if last.state == ScanState::Paused { PAUSED } else { 0 };
        (words[at::BEGUN], words[at::ENDED]) = (last.begun, last.ended);
        let (free, total) = self.free_total();
        words[at::TO_EXAMINE] = (total - free).max(last.report.bytes);
        if words[at::STATE] != 1 {
            words[at::EXAMINED] = last.report.bytes;
            (words[at::PROCESSED], words[at::ERRORS]) = (last.report.repaired_bytes, last.report.errors);
        }
        // A scrub under way has a queue, which is empty; another scan has none. One that is not empty is OpenZFS's.
        let queue = old.map_or(0, |old| old[at::QUEUE]);
        let is_queue = queue != 0 && self.mos.with_view(&self.pool, queue, |edit| Ok::<_, EditError>(edit.dnode.kind == QUEUE)).unwrap_or(false);
        let is_kept = is_queue && words[at::STATE] == 1 && self.entries_of(queue).is_ok_and(|entries| entries.is_empty());
        if is_queue && !is_kept {
            self.mos.free(&self.pool, queue)?;
        }
        words[at::QUEUE] = match (words[at::STATE], is_kept) {
            (_, true) => queue,
            (1, false) => self.table(QUEUE)?,
            _ => 0,
        };
        // How much is allocated and the txg change with every commit, and are no news.
        if old.is_some_and(|old| (0..WORDS).all(|word| matches!(word, at::TO_EXAMINE | at::MAX_TXG) || old[word] == words[word])) {
            return Ok(());
        }
        self.put_words("scan", words.to_vec())
    }

    fn put_words(&mut self, name: &str, value: Vec<u64>) -> Result<(), EditError> {
        let entry = Entry { name: name.as_bytes().to_vec(), integer_size: 8, value };
        zap::set(self.mos.edit(&self.pool, OBJECT_DIRECTORY)?, &self.pool, entry)
    }

    fn words_called(&self, name: &str) -> Result<Option<Vec<u64>>, EditError> {
        let found = self.mos.with_view(&self.pool, OBJECT_DIRECTORY, |edit| zap::entries(edit, &self.pool, Some(name.as_bytes())))?;
        Ok(found.into_iter().find(|entry| entry.name == name.as_bytes() && entry.integer_size == 8).map(|entry| entry.value))
    }

    /// Writes the place of the scrub under way, or takes an old one away.
    fn write_place(&mut self, with_place: bool) -> Result<(), EditError> {
        let mut chunks = 0;
        if let (Some(scan), true) = (&self.scan, with_place) {
            let mut words = [0; PLACE_WORDS];
            (words[0], words[1]) = (self.txg, NO_DATASET);
            if let Some(walk) = &scan.current {
                (words[1], words[4]) = (walk.dataset, walk.min_birth);
                (words[2], words[3]) = walk.bookmark;
            }
            (words[5], words[6], words[7]) = (scan.report.bytes, scan.report.repaired_bytes, scan.report.errors);
            let visited: Vec<u64> = scan.visited.iter().copied().collect();
            self.put_words(PLACE, words.to_vec())?;
            for chunk in visited.chunks(CHUNK) {
                let name = format!("{PLACE}.{chunks}");
                chunks += 1;
                if self.words_called(&name)?.as_deref() != Some(chunk) {
                    self.put_words(&name, chunk.to_vec())?;
                }
            }
        } else if self.words_called(PLACE)?.is_some() {
            self.remove_name(OBJECT_DIRECTORY, PLACE)?;
        }
        while self.words_called(&format!("{PLACE}.{chunks}"))?.is_some() {
            self.remove_name(OBJECT_DIRECTORY, &format!("{PLACE}.{chunks}"))?;
            chunks += 1;
        }
        Ok(())
    }

    /// The place that the last commit left, and the datasets visited.
    fn read_place(&self) -> Result<Option<Kept>, EditError> {
        let Some(words) = self.words_called(PLACE)?.and_then(|words| <[u64; PLACE_WORDS]>::try_from(words).ok()) else { return Ok(None) };
        if words[0] != self.pool.uberblock().txg {
            return Ok(None);
        }
        let mut datasets = BTreeSet::new();
        let mut chunk = 0;
        while let Some(more) = self.words_called(&format!("{PLACE}.{chunk}"))? {
            datasets.extend(more);
            chunk += 1;
        }
        Ok(Some((words, datasets)))
    }

    fn scan_words(&self) -> Result<Option<[u64; WORDS]>, EditError> {
        Ok(self.words_called("scan")?.and_then(|words| words.try_into().ok()))
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
        let report = |bytes: u64, repaired: u64, errors: u64| {
            ScanReport { bytes: bytes.min(COUNT_MAX), repaired_bytes: repaired.min(COUNT_MAX), errors: errors.min(COUNT_MAX), done, ..ScanReport::default() }
        };
        let all = report(words[at::EXAMINED], words[at::PROCESSED], words[at::ERRORS]);
        self.scan_notes.last = Some(LastScan { kind, state, begun: words[at::BEGUN], ended: words[at::ENDED], report: all });
        if kind == ScanKind::Resilver || words[at::STATE] != 1 {
            return Ok(());
        }
        // Devices may have been away between its parts: what they lack is a resilver's to say.
        let mut scan = Scan { kind, report: ScanReport::default(), txgs: 0..0, visited: BTreeSet::new(), current: None, begun: words[at::BEGUN], served: BTreeSet::new(), is_paused };
        if let Some((place, visited)) = self.read_place()? {
            (scan.visited, scan.report) = (visited, report(place[5], place[6], place[7]));
            if place[1] != NO_DATASET {
                scan.current = Some(Walk { dataset: place[1], min_birth: place[4], stack: Vec::new(), bookmark: (place[2], place[3]), descend: true });
            }
        }
        if let Some(last) = &mut self.scan_notes.last {
            last.report = scan.report;
        }
        self.scan = Some(scan);
        // The next commit takes the place away, unless the scrub is paused.
        self.scan_notes.pending = true;
        Ok(())
    }
}
