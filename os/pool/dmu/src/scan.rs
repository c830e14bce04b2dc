//! Scrub and resilver: one walk over every block of the pool, in steps.
//!
//! # Theory
//! A scan visits the MOS and then each dataset and snapshot, blocks born since the snapshot before it only, so that each block is visited once. A scrub
//! checks every copy of every block; a resilver looks at blocks born in the txgs that some leaf lacks (a block is never older than what lies below
//! it, so whole subtrees are passed over) and writes them to those leaves.
//!
//! # Between steps
//! The walk is a stack of pointers, valid as long as nothing commits. A commit turns it into a bookmark (object and block where the walk stands);
//! the next step descends from the new root, passing over what lies before the bookmark. Datasets made meanwhile are taken in at the end: their blocks
//! may have been in a head that was not visited yet.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ds::Civil;
use pool_phys::blkptr::{self, BlockPointer};
use pool_phys::dnode::{self, Dnode, kind};
use pool_phys::objset::Objset;
use pool_spa::{Event, Scrubbed};

use crate::check::{Within, bounded};
use crate::edit::EditError;
use crate::store::Store;
use crate::{Datasets, Error, human};

/// What a scan does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanKind {
    /// Checks every copy of every block and repairs the wrong ones.
    Scrub,
    /// Writes to each leaf what it lacks.
    Resilver,
}

/// How far a scan is and what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanReport {
    pub blocks: u64,
    /// Stored bytes of those.
    pub bytes: u64,
    /// Places that were wrong or lacking.
    pub bad: u64,
    /// Places of those that were written afresh.
    pub repaired: u64,
    /// Stored bytes of blocks that had such a place.
    pub repaired_bytes: u64,
    /// Blocks with no good copy, and places that could not be written afresh.
    pub errors: u64,
    pub done: bool,
}

impl ScanReport {
    /// The `scan:` lines of `zpool status`: `since` is when the scan began, `now` the time, or that of its end; `total` are the pool's allocated bytes.
    #[must_use]
    pub fn lines(&self, kind: ScanKind, since: u64, now: u64, total: u64) -> String {
        let size = |bytes: u64| human(bytes).trim_end_matches('B').to_string();
        let name = if kind == ScanKind::Scrub { "scrub" } else { "resilver" };
        let clock = |seconds: u64| format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let took = now.saturating_sub(since);
        if self.done {
            let did = if kind == ScanKind::Scrub { "scrub repaired" } else { "resilvered" };
            let days = took / 86_400;
            return format!("{did} {} in {days} days {} with {} errors on {}", size(self.repaired_bytes), clock(took), self.errors, Civil::from_seconds(now));
        }
        let total = total.max(self.bytes);
        let rate = self.bytes / took.max(1);
        let done = u128::from(self.bytes) * 10_000 / u128::from(total.max(1));
        let to_go = (total - self.bytes).checked_div(rate).map_or_else(|| String::from("no estimated completion time"), |left| format!("{} to go", clock(left)));
        let mended = if kind == ScanKind::Scrub { "repaired" } else { "resilvered" };
        format!(
            "{name} in progress since {}\n\t{} scanned at {}/s, {} total\n\t{} {mended}, {}.{:02}% done, {to_go}",
            Civil::from_seconds(since),
            size(self.bytes),
            size(rate),
            size(total),
            size(self.repaired_bytes),
            done / 100,
            done % 100
        )
    }
}

impl ScanReport {
    /// The same of a scrub that is paused.
    #[must_use]
    pub fn paused_lines(&self, since: u64, paused: u64, total: u64) -> String {
        let size = |bytes: u64| human(bytes).trim_end_matches('B').to_string();
        let total = total.max(self.bytes);
        let done = u128::from(self.bytes) * 10_000 / u128::from(total.max(1));
        format!(
            "scrub paused since {}\n\tscrub started on {}\n\t{} scanned, {} total\n\t{} repaired, {}.{:02}% done",
            Civil::from_seconds(paused),
            Civil::from_seconds(since),
            size(self.bytes),
            size(total),
            size(self.repaired_bytes),
            done / 100,
            done % 100
        )
    }
}

/// Where a block lies in its object set. Meta-dnode blocks have `object` 0.
#[derive(Clone, Debug)]
pub struct Place {
    pointer: BlockPointer,
    object: u64,
    block: u64,
    /// log2 of blocks per pointer one level up.
    fan_bits: u32,
}

/// A scan under way.
#[derive(Debug)]
pub struct Scan {
    pub(crate) kind: ScanKind,
    pub(crate) report: ScanReport,
    /// Txgs a resilver looks at.
    pub(crate) txgs: core::ops::Range<u64>,
    /// Datasets visited, by object number; 0 is the MOS.
    pub(crate) visited: alloc::collections::BTreeSet<u64>,
    pub(crate) current: Option<Walk>,
    /// UTC seconds of its first step; 0 before.
    pub(crate) begun: u64,
    /// Leaves that were in service all the time: they got all that the scan wrote.
    pub(crate) served: alloc::collections::BTreeSet<u64>,
    /// A scrub that waits for being told to go on. Who takes steps asks ([`Store::is_scan_paused`]).
    pub(crate) is_paused: bool,
}

#[derive(Debug)]
pub struct Walk {
    pub(crate) dataset: u64,
    /// Blocks born at or before are visited elsewhere, or are of no interest.
    pub(crate) min_birth: u64,
    pub(crate) stack: Vec<Place>,
    /// First (object, block) still to be visited when the stack was made.
    pub(crate) bookmark: (u64, u64),
    /// The stack is to be made anew from the root.
    pub(crate) descend: bool,
}

impl Store {
    /// Begins a scan; one under way is given up. A resilver with nothing to do is done at its first step.
    pub fn start_scan(&mut self, kind: ScanKind) {
        let txgs = match kind {
            ScanKind::Scrub => 0..self.txg,
            ScanKind::Resilver => self.pool.lacking_txgs().unwrap_or(0..0),
        };
        self.pool.post(Event::ScanStarted { from_txg: txgs.start });
        self.note_scan_begun(kind);
        self.scan = Some(Scan { kind, report: ScanReport::default(), txgs, visited: alloc::collections::BTreeSet::new(), current: None, begun: 0, served: self.pool.serving(), is_paused: false });
    }

    /// The scan under way, if any.
    #[must_use]
    pub fn scan(&self) -> Option<(ScanKind, ScanReport)> {
        self.scan.as_ref().map(|scan| (scan.kind, scan.report))
    }

    /// Gives up the scan under way.
    pub fn stop_scan(&mut self, now: u64) {
        if let Some(scan) = self.scan.take() {
            self.note_scan_ended(&scan, None, now);
        }
    }

    /// Visits up to `budget` blocks. At the end the dirty time logs are emptied as far as no block was in error, replacements end, and the txg commits.
    ///
    /// # Errors
    /// Malformed structures, a failed commit. Unreadable blocks are counted, not errors.
    pub fn scan_step(&mut self, budget: u64, now: u64) -> Result<ScanReport, EditError> {
        let Some(mut scan) = self.scan.take() else { return Ok(ScanReport { done: true, ..ScanReport::default() }) };
        if scan.begun == 0 {
            scan.begun = now;
        }
        let serving = self.pool.serving();
        scan.served.retain(|guid| serving.contains(guid));
        let mut left = budget;
        while left > 0 {
            if scan.current.is_none() {
                scan.current = self.next_walk(&scan)?;
            }
            let Some(walk) = &mut scan.current else {
                return self.finish_scan(&scan, now);
            };
            if core::mem::take(&mut walk.descend) {
                match self.scan_root(walk.dataset) {
                    Ok(Some(root)) => walk.stack.push(root),
                    Ok(None) | Err(EditError::Read(Error::NotFound)) => {}
                    Err(error) => return Err(error),
                }
            }
            match walk.stack.pop() {
                Some(place) => {
                    left -= 1;
                    self.visit(scan.kind, &scan.txgs, place, walk, &mut scan.report)?;
                }
                None => {
                    scan.visited.insert(walk.dataset);
                    scan.current = None;
                }
            }
        }
        let report = scan.report;
        self.scan = Some(scan);
        Ok(report)
    }

    /// Runs a scan from beginning to end.
    ///
    /// # Errors
    /// As [`Store::scan_step`].
    pub fn run_scan(&mut self, kind: ScanKind, now: u64) -> Result<ScanReport, EditError> {
        self.start_scan(kind);
        loop {
            let report = self.scan_step(u64::MAX, now)?;
            if report.done {
                return Ok(report);
            }
        }
    }

    /// A dataset got blocks that a scan looks for elsewhere: those of a snapshot that goes become the next one's. It is visited again.
    pub(crate) fn unvisit(&mut self, dataset: u64) {
        if let Some(scan) = &mut self.scan {
            scan.visited.remove(&dataset);
            scan.current.take_if(|walk| walk.dataset == dataset);
        }
    }

    /// A commit is about to free blocks that the walk's stack may name.
    pub(crate) fn pause_scan(&mut self) {
        if let Some(walk) = self.scan.as_mut().and_then(|scan| scan.current.as_mut())
            && let Some(next) = walk.stack.last()
        {
            let shift = next.fan_bits * u32::from(next.pointer.level);
            let first = next.block.checked_shl(shift).unwrap_or(0);
            walk.bookmark = if next.object == 0 { (first * (16384 / dnode::SLOT as u64), 0) } else { (next.object, first) };
            walk.stack.clear();
            walk.descend = true;
        }
    }

    fn scan_root(&self, dataset: u64) -> Result<Option<Place>, EditError> {
        let pointer = if dataset == 0 {
            self.pool.uberblock().root.clone()
        } else {
            let view = crate::ObjectSet::mos(&self.pool)?.object(dataset)?;
            // Destroyed since, and its number taken by something else.
            if view.dnode().bonus_kind != kind::DSL_DATASET {
                return Ok(None);
            }
            pool_phys::dsl::Dataset::parse(&view.dnode().bonus)?.root
        };
        Ok((!pointer.is_hole()).then_some(Place { pointer, object: 0, block: 0, fan_bits: 0 }))
    }

    /// The next dataset nobody visited yet, as the last commit knows it.
    fn next_walk(&self, scan: &Scan) -> Result<Option<Walk>, EditError> {
        let lowest = match scan.kind {
            ScanKind::Scrub => 0,
            ScanKind::Resilver if scan.txgs.is_empty() => return Ok(None),
            ScanKind::Resilver => scan.txgs.start - 1,
        };
        let walk = |dataset, min_birth: u64| Walk { dataset, min_birth: min_birth.max(lowest), stack: Vec::new(), bookmark: (0, 0), descend: true };
        if !scan.visited.contains(&0) {
            return Ok(Some(walk(0, 0)));
        }
        let datasets = Datasets::open(&self.pool)?;
        let mut next: Option<(u64, u64)> = None;
        datasets.mos().for_each(|number, dnode| {
            if dnode.bonus_kind == kind::DSL_DATASET && !scan.visited.contains(&number) && next.is_none() {
                let phys = pool_phys::dsl::Dataset::parse(&dnode.bonus)?;
                if !phys.root.is_hole() {
                    next = Some((number, phys.previous_snapshot_txg));
                }
            }
            Ok(())
        })?;
        Ok(next.map(|(number, txg)| walk(number, txg)))
    }

    fn visit(&self, kind_of: ScanKind, txgs: &core::ops::Range<u64>, place: Place, walk: &mut Walk, report: &mut ScanReport) -> Result<(), EditError> {
        let pointer = &place.pointer;
        if pointer.is_hole() || pointer.birth <= walk.min_birth {
            return Ok(());
        }
        report.blocks += 1;
        report.bytes += pointer.psize;
        bounded(&self.pool, report.blocks)?;
        let found = match kind_of {
            ScanKind::Scrub => self.pool.verify(pointer),
            ScanKind::Resilver if txgs.contains(&pointer.birth) || txgs.contains(&pointer.physical_birth) => self.pool.resilver(pointer),
            ScanKind::Resilver => Ok(Scrubbed { good: true, ..Scrubbed::default() }),
        };
        let found = found.unwrap_or(Scrubbed { good: false, bad: 1, repaired: 0 });
        report.bad += u64::from(found.bad);
        report.repaired += u64::from(found.repaired);
        report.repaired_bytes += if found.repaired > 0 { pointer.psize } else { 0 };
        report.errors += u64::from(!found.good) + u64::from(found.bad.saturating_sub(found.repaired));
        if !Within::of(place.object, place.fan_bits).leads_on(pointer) || !found.good {
            return Ok(());
        }
        let Ok(data) = self.pool.read_shared(pointer) else {
            report.errors += 1;
            return Ok(());
        };
        let (object, block) = walk.bookmark;
        let mut below: Vec<Place> = Vec::new();
        if pointer.level > 0 {
            for child in blkptr::below(pointer.level, &data) {
                let (index, child) = child?;
                let number = (place.block << place.fan_bits) + index;
                let span = 1_u64 << (place.fan_bits * u32::from(child.level)).min(40);
                let last = number.saturating_add(1).saturating_mul(span) - 1;
                let passed = if place.object == 0 { last.saturating_mul(32).saturating_add(31) < object } else { place.object == object && last < block };
                if !passed {
                    below.push(Place { pointer: child, object: place.object, block: number, fan_bits: place.fan_bits });
                }
            }
        } else if pointer.kind == kind::OBJSET {
            let objset = Objset::parse(&data)?;
            push_dnode(&mut below, 0, &objset.meta);
            for at in [1024, 1536, 2048] {
                if let Some(bytes) = data.get(at..at + dnode::SLOT)
                    && let Some(dnode) = Dnode::parse(bytes)?
                {
                    push_dnode(&mut below, u64::MAX, &dnode);
                }
            }
        } else {
            let mut slot = 0;
            let per_block = data.len() / dnode::SLOT;
            while slot < per_block {
                let number = place.block * per_block as u64 + slot as u64;
                slot += match Dnode::parse(&data[slot * dnode::SLOT..])? {
                    Some(dnode) => {
                        if number >= object {
                            push_dnode(&mut below, number, &dnode);
                        }
                        dnode.slots
                    }
                    None => 1,
                };
            }
        }
        below.retain(|place| !place.pointer.is_hole() && place.pointer.birth > walk.min_birth);
        walk.stack.extend(below.into_iter().rev());
        Ok(())
    }

    fn finish_scan(&mut self, scan: &Scan, now: u64) -> Result<ScanReport, EditError> {
        let report = ScanReport { done: true, ..scan.report };
        // A scrub wrote lacking places afresh too. With errors the logs stay, so that the next resilver tries again.
        if report.errors == 0 && !scan.txgs.is_empty() {
            self.pool.note_filled(&scan.txgs, &|guid| scan.served.contains(&guid));
        }
        self.note_scan_ended(scan, Some(report), now);
        self.commit(now)?;
        if report.errors == 0 {
            self.finish_replacements(now)?;
        }
        self.pool.post(Event::ScanFinished { repaired: report.repaired, errors: report.errors });
        Ok(report)
    }
}

fn push_dnode(out: &mut Vec<Place>, object: u64, dnode: &Dnode) {
    let fan_bits = dnode.indirect_shift - 7;
    for (index, pointer) in (0_u64..).zip(&dnode.pointers) {
        out.push(Place { pointer: pointer.clone(), object, block: index, fan_bits });
    }
    if let Some(spill) = &dnode.spill {
        out.push(Place { pointer: spill.clone(), object, block: 0, fan_bits });
    }
}
