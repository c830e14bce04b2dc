//! A disk with the board's fault plan and a journal around it.

use std::any::Any;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use sim_bus::{DiskBackend, DiskError, Fields, NEVER, Nanos, Point, Report};
use sim_core::{Rng, Streams};

use crate::SECTOR;
use crate::journal::{Journal, Keep, Op, Record};
use crate::plan::{Effect, Fault, Kind, On};
use crate::trigger::Counter;

/// A fault that watches this disk.
#[derive(Clone, Debug)]
struct Watcher {
    /// Its number in the plan.
    number: u16,
    /// `None`: it is the board's to carry out.
    kind: Option<Kind>,
    counter: Counter,
    /// What is broken: bits, places.
    random: Rng,
}

/// The middleware. With an empty plan and [`Keep::Nothing`] it only passes on.
#[derive(Debug)]
pub struct FaultDisk {
    inner: Box<dyn DiskBackend>,
    plan: Arc<[Fault]>,
    keep: Keep,
    /// The content when the journal began, if a journal or a plan needs it.
    base: Option<Box<dyn DiskBackend>>,
    journal: Journal,
    watchers: Vec<Watcher>,
    point: Point,
    delay: Nanos,
    /// Sectors that cannot be read until they are written.
    bad: BTreeSet<u64>,
    /// The disk is unplugged until this time.
    gone_until: Nanos,
    reports: VecDeque<Report>,
}

impl FaultDisk {
    /// Wraps disk number `index` of a board. `plan` is the whole plan of the board; `streams` the board's.
    pub fn new(inner: Box<dyn DiskBackend>, index: u8, plan: &Arc<[Fault]>, streams: &Streams, keep: Keep) -> Self {
        let mut disk = Self {
            inner,
            plan: plan.clone(),
            keep: Keep::Nothing,
            base: None,
            journal: Journal::default(),
            watchers: Vec::new(),
            point: Point::default(),
            delay: 0,
            bad: BTreeSet::new(),
            gone_until: 0,
            reports: VecDeque::new(),
        };
        disk.set_plan(index, plan, streams);
        disk.keep(keep);
        disk
    }

    /// Replaces the plan: what has broken stays broken, counters start anew. For exploring from a snapshot.
    pub fn set_plan(&mut self, index: u8, plan: &Arc<[Fault]>, streams: &Streams) {
        self.plan = plan.clone();
        self.watchers = plan
            .iter()
            .enumerate()
            .filter_map(|(number, fault)| {
                let kind = match fault.effect {
                    Effect::Disk { disk, kind } if disk == index => Some(kind),
                    Effect::Machine { disk: Some(disk), .. } if disk == index => None,
                    Effect::Disk { .. } | Effect::Nic { .. } | Effect::Machine { .. } => return None,
                };
                let stream = |use_: &str| streams.stream(&format!("fault {number} {} {use_}", fault.name));
                Some(Watcher { number: number as u16, kind, counter: Counter::new(plan, fault, stream("chance")), random: stream("effect") })
            })
            .collect();
        let stale = self.watchers.iter().any(|watcher| watcher.kind == Some(Kind::StaleRead));
        if stale && self.keep != Keep::Data {
            // What was there before is in the journal.
            self.keep(Keep::Data);
        }
    }

    /// Begins a journal here, with the present content as its base. [`Keep::Nothing`] drops it.
    pub fn keep(&mut self, keep: Keep) {
        let stale = self.watchers.iter().any(|watcher| watcher.kind == Some(Kind::StaleRead));
        self.keep = if stale { Keep::Data } else { keep };
        self.base = (self.keep == Keep::Data).then(|| self.inner.fork());
        self.journal = Journal::default();
    }

    /// What was done since [`Self::keep`].
    pub fn journal(&self) -> &Journal {
        &self.journal
    }
    /// The content when the journal began: what a [`crate::Cutter`] starts from.
    pub fn base(&self) -> Option<Box<dyn DiskBackend>> {
        self.base.as_ref().map(|base| base.fork())
    }
    /// The disk inside, as the medium and its cache are now: no faults, no counting.
    pub fn inner(&self) -> &dyn DiskBackend {
        self.inner.as_ref()
    }
    /// Puts another medium in, of the same size; the journal begins anew with it.
    pub fn set_medium(&mut self, medium: Box<dyn DiskBackend>) {
        self.inner = medium;
        self.bad.clear();
        self.gone_until = 0;
        self.keep(self.keep);
    }

    /// Which fault strikes this operation; the first of the plan wins. Alarms for the board are raised on the way.
    fn strike(&mut self, on: On, sector: u64, sectors: u64) -> Option<(usize, Kind)> {
        let mut struck = None;
        for (index, watcher) in self.watchers.iter_mut().enumerate() {
            let trigger = &self.plan[usize::from(watcher.number)].trigger;
            match watcher.kind {
                None => {
                    if watcher.counter.operation(trigger, self.point, on, sector, sectors) {
                        self.reports.push_back(Report::Alarm(watcher.number));
                    }
                }
                // Only one strikes an operation; the others do not count it as struck.
                Some(kind) if struck.is_none() => {
                    if watcher.counter.operation(trigger, self.point, on, sector, sectors) {
                        struck = Some((index, kind));
                    }
                }
                Some(_) => {}
            }
        }
        if let Some((index, _)) = struck {
            let number = self.watchers[index].number;
            let fault = &self.plan[usize::from(number)];
            self.reports.push_back(Report::Note(format!("{}: {} sector {sector} +{sectors}", fault.name, on.word())));
        }
        struck
    }

    fn gone(&self) -> bool {
        self.point.ns < self.gone_until
    }

    /// Faults that strike whatever the operation is. `true`: the operation does not happen.
    fn any(&mut self, watcher: usize, kind: Kind) -> Result<(), DiskError> {
        match kind {
            Kind::Slow { ns } => self.delay = self.delay.saturating_add(ns),
            Kind::Stuck => self.delay = NEVER,
            Kind::Removed { ns } => {
                self.gone_until = self.point.ns.saturating_add(ns);
                return Err(DiskError::Gone);
            }
            Kind::BadSector => {
                if let Some([first, last]) = self.sectors_of(watcher) {
                    self.bad.extend(first..=last);
                }
            }
            Kind::BitRot { bits } => {
                if let Some([first, last]) = self.sectors_of(watcher) {
                    self.rot(watcher, bits, first, last);
                }
            }
            Kind::ReadError
            | Kind::WriteError
            | Kind::CorruptRead { .. }
            | Kind::CorruptWrite { .. }
            | Kind::TornWrite
            | Kind::MisdirectedWrite { .. }
            | Kind::LostWrite
            | Kind::IgnoredFlush
            | Kind::StaleRead => {}
        }
        Ok(())
    }

    /// The sectors a fault names, cut to the disk.
    fn sectors_of(&self, watcher: usize) -> Option<[u64; 2]> {
        let [first, last] = self.plan[usize::from(self.watchers[watcher].number)].trigger.sectors?;
        let end = self.inner.sectors().checked_sub(1)?;
        (first <= end).then(|| [first, last.min(end)])
    }

    fn rot(&mut self, watcher: usize, bits: u32, first: u64, last: u64) {
        for _ in 0..bits {
            let random = &mut self.watchers[watcher].random;
            let sector = first + random.below(last - first + 1);
            let bit = random.below(8 * SECTOR as u64) as usize;
            let mut bytes = [0; SECTOR];
            if self.inner.read(sector, &mut bytes).is_ok() {
                bytes[bit / 8] ^= 1 << (bit % 8);
                if self.inner.write(sector, &bytes).is_ok() {
                    // On the medium: a cut does not undo it.
                    self.record(Op::WriteDurable, sector, 1, Ok(()), Some(watcher), false, Some(&bytes));
                }
            }
        }
    }

    fn flip(&mut self, watcher: usize, bits: u32, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        for _ in 0..bits {
            let bit = self.watchers[watcher].random.below(8 * bytes.len() as u64) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// Content of sectors before the latest write to each.
    fn stale(&self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let Some(base) = &self.base else { return Ok(()) };
        let mut old = base.fork();
        for (index, part) in into.chunks_exact_mut(SECTOR).enumerate() {
            let wanted = sector + index as u64;
            let covers = |record: &&Record| record.is_write() && (record.sector..record.sector + record.sectors).contains(&wanted);
            match self.journal.records().rev().filter(covers).nth(1) {
                Some(record) => match &record.data {
                    Some(data) => {
                        let at = (wanted - record.sector) as usize * SECTOR;
                        part.copy_from_slice(&data[at..at + SECTOR]);
                    }
                    None => part.fill(0),
                },
                None => old.read(wanted, part)?,
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the columns of a journal line")]
    fn record(
        &mut self,
        op: Op,
        sector: u64,
        sectors: u64,
        result: Result<(), DiskError>,
        fault: Option<usize>,
        void: bool,
        data: Option<&[u8]>,
    ) {
        if self.keep == Keep::Nothing {
            return;
        }
        let data = data.filter(|_| self.keep == Keep::Data && result.is_ok()).map(Arc::from);
        let fault = fault.map(|watcher| self.watchers[watcher].number);
        let Point { ns, ticks, .. } = self.point;
        self.journal.push(Record { ticks, ns, takes: None, op, sector, sectors, error: result.err(), fault, void, data });
    }

    fn put(&mut self, op: Op, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        let sectors = (from.len() / SECTOR) as u64;
        let struck = self.strike(On::Write, sector, sectors);
        let watcher = struck.map(|(watcher, _)| watcher);
        if self.gone() {
            return Err(DiskError::Gone);
        }
        let mut target = sector;
        let mut bytes = from;
        let copy;
        let mut void = false;
        if let Some((watcher, kind)) = struck {
            let early = match kind {
                Kind::WriteError => Err(DiskError::Medium),
                other => self.any(watcher, other),
            };
            if let Err(error) = early {
                self.record(op, sector, sectors, Err(error), Some(watcher), true, None);
                return Err(error);
            }
            match kind {
                Kind::CorruptWrite { bits } => {
                    let mut flipped = from.to_vec();
                    self.flip(watcher, bits, &mut flipped);
                    copy = flipped;
                    bytes = &copy;
                }
                Kind::TornWrite => {
                    // A write of one sector tears to nothing.
                    let arrived = self.watchers[watcher].random.below(sectors.max(1)) as usize;
                    bytes = &from[..arrived * SECTOR];
                    void = arrived == 0;
                }
                Kind::MisdirectedWrite { by } => target = sector.wrapping_add(by) % self.inner.sectors().saturating_sub(sectors).max(1),
                Kind::LostWrite => void = true,
                Kind::ReadError
                | Kind::WriteError
                | Kind::BadSector
                | Kind::BitRot { .. }
                | Kind::CorruptRead { .. }
                | Kind::IgnoredFlush
                | Kind::Slow { .. }
                | Kind::Stuck
                | Kind::Removed { .. }
                | Kind::StaleRead => {}
            }
        }
        // What the plan keeps from arriving must still have been a possible request.
        let sound = sector.checked_add(sectors).is_some_and(|end| end <= self.inner.sectors()) && from.len().is_multiple_of(SECTOR);
        let result = match (sound, void) {
            (false, _) => Err(DiskError::Range),
            (true, true) => Ok(()),
            (true, false) if op == Op::WriteDurable => self.inner.write_durable(target, bytes),
            (true, false) => self.inner.write(target, bytes),
        };
        let count = (bytes.len() / SECTOR) as u64;
        if result.is_ok() && !void && !self.bad.is_empty() {
            for written in target..target + count {
                self.bad.remove(&written);
            }
        }
        self.record(op, target, count, result, watcher, void, Some(bytes));
        result
    }
}

impl DiskBackend for FaultDisk {
    fn sectors(&self) -> u64 {
        self.inner.sectors()
    }
    fn read_only(&self) -> bool {
        self.inner.read_only()
    }

    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let sectors = (into.len() / SECTOR) as u64;
        let struck = self.strike(On::Read, sector, sectors);
        if self.gone() {
            return Err(DiskError::Gone);
        }
        let mut result = match struck {
            Some((_, Kind::ReadError)) => Err(DiskError::Medium),
            Some((watcher, kind)) => self.any(watcher, kind),
            None => Ok(()),
        };
        let end = sector.saturating_add(sectors);
        if result.is_ok() && self.bad.range(sector..end).next().is_some() {
            result = Err(DiskError::Medium);
        }
        if result.is_ok() {
            result = self.inner.read(sector, into);
        }
        if result.is_ok() {
            match struck {
                Some((watcher, Kind::CorruptRead { bits })) => self.flip(watcher, bits, into),
                Some((_, Kind::StaleRead)) => result = self.stale(sector, into),
                _ => {}
            }
        }
        self.record(Op::Read, sector, sectors, result, struck.map(|(watcher, _)| watcher), false, None);
        result
    }

    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        self.put(Op::Write, sector, from)
    }

    fn write_durable(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        self.put(Op::WriteDurable, sector, from)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        let struck = self.strike(On::Flush, 0, 0);
        if self.gone() {
            return Err(DiskError::Gone);
        }
        let (result, void) = match struck {
            Some((_, Kind::IgnoredFlush)) => (Ok(()), true),
            Some((watcher, kind)) => (self.any(watcher, kind).and_then(|()| self.inner.flush()), false),
            None => (self.inner.flush(), false),
        };
        self.record(Op::Flush, 0, 0, result, struck.map(|(watcher, _)| watcher), void, None);
        result
    }

    fn discard(&mut self, sector: u64, count: u64) -> Result<(), DiskError> {
        let struck = self.strike(On::Write, sector, count);
        if self.gone() {
            return Err(DiskError::Gone);
        }
        let result = match struck {
            Some((_, Kind::WriteError)) => Err(DiskError::Medium),
            Some((watcher, kind)) => self.any(watcher, kind),
            None => Ok(()),
        };
        let void = matches!(struck, Some((_, Kind::LostWrite)));
        let result = result.and_then(|()| if void { Ok(()) } else { self.inner.discard(sector, count) });
        self.record(Op::Discard, sector, count, result, struck.map(|(watcher, _)| watcher), void, None);
        result
    }

    fn fork(&self) -> Box<dyn DiskBackend> {
        Box::new(Self {
            inner: self.inner.fork(),
            plan: self.plan.clone(),
            keep: self.keep,
            base: self.base(),
            journal: self.journal.clone(),
            watchers: self.watchers.clone(),
            point: self.point,
            delay: self.delay,
            bad: self.bad.clone(),
            gone_until: self.gone_until,
            reports: self.reports.clone(),
        })
    }

    fn at(&mut self, point: Point) {
        self.point = point;
    }
    fn takes(&mut self, usual: Nanos) -> Nanos {
        let takes = usual.saturating_add(std::mem::take(&mut self.delay));
        self.journal.timed(takes);
        takes
    }
    fn is_present(&self) -> bool {
        !self.gone()
    }
    fn report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        for watcher in &mut self.watchers {
            watcher.counter.state(fields);
            crate::trigger::random_state(&mut watcher.random, fields);
        }
        fields.u64("gone_until", &mut self.gone_until);
        let mut bad: Vec<u8> = self.bad.iter().flat_map(|sector| sector.to_le_bytes()).collect();
        fields.bytes("bad_sectors", &mut bad);
        self.bad = bad.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        self.inner.state(fields);
    }

    fn middleware(&self) -> Option<&dyn Any> {
        Some(self)
    }
    fn middleware_mut(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }
}
