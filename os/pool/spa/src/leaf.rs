//! A leaf vdev: a device, its state, its counters and what it lacks.
//!
//! # States
//! A leaf is usable if it has a device and nobody took it out of service: by request (`offline`), because it failed too often in a row
//! (`faulted`), or because the device said that it is gone (`removed`). A usable leaf with errors behind it is degraded in name only.
//!
//! # Dirty time log
//! Transaction groups whose writes did not all reach the leaf. A read prefers leaves that have the block's birth; a resilver copies the rest and empties
//! the log. A write that fails outside a resilver marks the open txg as missed; [`Leaf::close_txg`] puts it into the log.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use ds::RangeTree;
use kif::{BlockDev, BlockError};
use pool_phys::label::{self, Label};

use crate::WriteError;
use crate::config::VdevConfig;
use crate::event::{Event, EventSink, Op};

/// Transfers that fail one after the other, with none that succeeds between, before the leaf is taken out of service if the others have all that it has.
const FAULT_STREAK: u64 = 10;

/// Reads of which one is to succeed for a device to be taken for present.
const PROBES: usize = 3;

/// Whether a vdev serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VdevState {
    Online,
    /// It serves, with errors behind it or with less redundancy than it should have.
    Degraded,
    /// Out of service by request.
    Offline,
    /// The device went away.
    Removed,
    /// Out of service after too many errors.
    Faulted,
    /// No device carries its guid, or too few children serve.
    Unavail,
}

impl VdevState {
    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Degraded,
            2 => Self::Offline,
            3 => Self::Removed,
            4 => Self::Faulted,
            5 => Self::Unavail,
            _ => Self::Online,
        }
    }

    /// As `zpool status` prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Online => "ONLINE",
            Self::Degraded => "DEGRADED",
            Self::Offline => "OFFLINE",
            Self::Removed => "REMOVED",
            Self::Faulted => "FAULTED",
            Self::Unavail => "UNAVAIL",
        }
    }
}

/// Counters of a leaf since import or since they were cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeafCounts {
    pub reads: u64,
    pub writes: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub read_errors: u64,
    pub write_errors: u64,
    pub checksum_errors: u64,
    /// Places written afresh: by self-heal, scrub or resilver.
    pub repaired: u64,
}

/// A leaf as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafStatus {
    pub guid: u64,
    pub path: Option<String>,
    pub state: VdevState,
    pub counts: LeafCounts,
    /// Transaction groups it lacks.
    pub missing_txgs: u64,
}

#[derive(Default)]
struct Stats {
    reads: AtomicU64,
    writes: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    read_errors: AtomicU64,
    write_errors: AtomicU64,
    checksum_errors: AtomicU64,
    repaired: AtomicU64,
    /// Failed transfers since the last that succeeded.
    streak: AtomicU64,
}

/// What reads and writes carry along: who hears of errors, and whether bad copies may be rewritten.
#[derive(Default)]
pub(crate) struct Context {
    pub events: Option<Arc<dyn EventSink>>,
    pub heal: bool,
    /// Wrong bytes are to be expected and nobody's fault: the end of a log chain.
    pub speculative: bool,
    /// Some leaf failed too often in a row.
    pub has_tired: AtomicBool,
}

impl Context {
    pub fn post(&self, event: Event) {
        if let Some(sink) = &self.events {
            sink.event(&event);
        }
    }
}

/// The valid labels of a device; `None`: it does not answer.
pub(crate) fn labels_on(device: &dyn BlockDev) -> Option<Vec<Label>> {
    let mut data = vec![0; usize::try_from(label::SIZE).unwrap_or(0)];
    let mut parser = label::Parser::default();
    parser.next_device();
    let mut out = Vec::new();
    let mut answers = false;
    for offset in label::offsets(device.size_bytes()) {
        if device.read(offset, &mut data).is_ok() {
            answers = true;
            out.extend(parser.parse(&data, offset));
        }
    }
    answers.then_some(out)
}

pub(crate) struct Leaf {
    guid: u64,
    device: Option<Box<dyn BlockDev>>,
    /// The requested or diagnosed state as a code of [`VdevState`].
    service: AtomicU8,
    /// A write of the open txg did not arrive.
    missed: AtomicBool,
    lacks: RangeTree,
    /// The dirty time log differs from what the MOS has.
    pub log_dirty: bool,
    /// Newest uberblock found on the device at import; `None`: it is new, and no commit has given it a label.
    pub found_txg: Option<u64>,
    stats: Stats,
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Leaf {
    pub fn new(guid: u64, device: Option<Box<dyn BlockDev>>, found_txg: Option<u64>) -> Self {
        Self {
            guid,
            device,
            service: AtomicU8::new(0),
            missed: AtomicBool::new(false),
            lacks: RangeTree::new(),
            log_dirty: false,
            found_txg,
            stats: Stats::default(),
        }
    }

    pub const fn guid(&self) -> u64 {
        self.guid
    }

    /// Bytes of the device; 0 if it is missing.
    pub fn size(&self) -> u64 {
        self.device.as_ref().map_or(0, |device| device.size_bytes())
    }

    pub fn state(&self) -> VdevState {
        let service = VdevState::from_code(self.service.load(Ordering::Relaxed));
        let errors = [&self.stats.read_errors, &self.stats.write_errors, &self.stats.checksum_errors];
        match service {
            VdevState::Online if self.device.is_none() => VdevState::Unavail,
            VdevState::Online if !self.lacks.is_empty() || errors.iter().any(|count| count.load(Ordering::Relaxed) > 0) => VdevState::Degraded,
            VdevState::Degraded if self.device.is_none() => VdevState::Unavail,
            other => other,
        }
    }

    /// Its device gives its first label, be it in service or not.
    pub fn answers(&self) -> bool {
        let mut label = vec![0; usize::try_from(label::SIZE).unwrap_or(0)];
        self.device.as_ref().is_some_and(|device| device.read(0, &mut label).is_ok())
    }

    /// It is in service, and its device gives a sector. One that does not is noted as any read that fails.
    pub fn serves(&self, context: &Context) -> bool {
        let mut sector = [0; 4096];
        (0..PROBES).any(|_| {
            let Some(device) = self.device.as_ref().filter(|_| self.is_usable()) else { return false };
            let sector = &mut sector[..usize::try_from(device.sector_bytes()).map_or(512, |bytes| bytes.clamp(512, 4096))];
            device.read(0, sector).map_err(|error| self.failed(Op::Read, 0, sector.len(), error, context)).is_ok()
        })
    }

    /// It has a device and is in service.
    pub fn is_usable(&self) -> bool {
        self.device.is_some() && self.service.load(Ordering::Relaxed) <= VdevState::Degraded as u8
    }

    pub fn set_service(&self, state: VdevState, context: &Context) {
        let old = self.service.swap(state as u8, Ordering::Relaxed);
        if old != state as u8 {
            context.post(Event::State { vdev: self.guid, state: self.state() });
        }
    }

    pub fn take_device(&mut self) -> Option<Box<dyn BlockDev>> {
        self.device.take()
    }

    pub fn put_device(&mut self, device: Box<dyn BlockDev>) {
        self.device = Some(device);
        self.stats.streak.store(0, Ordering::Relaxed);
        self.service.store(VdevState::Online as u8, Ordering::Relaxed);
    }

    pub fn clear_errors(&self) {
        for counter in [&self.stats.read_errors, &self.stats.write_errors, &self.stats.checksum_errors, &self.stats.streak] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// It did not get what was written in txg `birth`, which a block pointer says and may be any number.
    pub fn lacks(&self, birth: u64) -> bool {
        birth.checked_add(1).is_some_and(|end| self.lacks.contains(&(birth..end)))
    }

    pub const fn lacking(&self) -> &RangeTree {
        &self.lacks
    }

    pub fn note_lacking(&mut self, txgs: core::ops::Range<u64>) {
        let before = self.lacks.clone();
        self.lacks.merge(txgs);
        self.log_dirty |= self.lacks != before;
    }

    pub fn note_filled(&mut self, txgs: &core::ops::Range<u64>) {
        let before = self.lacks.total();
        self.lacks.subtract(txgs);
        self.log_dirty |= self.lacks.total() != before;
    }

    /// A write of the open txg did not arrive, or could not be tried.
    pub fn has_missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed) || !self.is_usable()
    }

    /// Everything of the open txg is about to be written: what could not be tried or failed before does not count. A leaf that is out of service misses it.
    pub fn begin_commit(&self) {
        self.missed.store(false, Ordering::Relaxed);
    }

    /// Puts a device that went away or failed, and answers again, back into service. What holds the newest state says [`crate::Pool::revive`].
    pub fn revive(&self, context: &Context) {
        self.stats.streak.store(0, Ordering::Relaxed);
        self.set_service(VdevState::Online, context);
    }

    /// The valid labels of its device; `None`: it does not answer.
    pub fn labels(&self) -> Option<Vec<Label>> {
        labels_on(&**self.device.as_ref()?)
    }

    /// Ends the open txg for this leaf: if it missed a write, the txg goes to the dirty time log.
    pub fn close_txg(&mut self, txg: u64) -> bool {
        let missed = self.has_missed();
        self.missed.store(false, Ordering::Relaxed);
        if missed && !self.lacks(txg) {
            self.note_lacking(txg..txg + 1);
            return true;
        }
        false
    }

    fn failed(&self, op: Op, offset: u64, size: usize, error: BlockError, context: &Context) {
        add(if op == Op::Read { &self.stats.read_errors } else { &self.stats.write_errors }, 1);
        context.post(Event::Io { leaf: self.guid, op, offset, size: size as u64, error });
        if error == BlockError::Gone {
            self.set_service(VdevState::Removed, context);
        } else if error == BlockError::Io && self.stats.streak.fetch_add(1, Ordering::Relaxed) + 1 >= FAULT_STREAK {
            context.has_tired.store(true, Ordering::Relaxed);
        }
    }

    /// It failed too often in a row: the tree takes it out of service if it can do without.
    pub fn is_tired(&self) -> bool {
        self.stats.streak.load(Ordering::Relaxed) >= FAULT_STREAK
    }

    /// Writes at a byte offset of the device itself. A failure marks the open txg as missed.
    pub fn write_raw(&self, at: u64, data: &[u8], context: &Context) -> Result<(), WriteError> {
        let done = self.write_device(at, data, context);
        if done.is_err() {
            self.missed.store(true, Ordering::Relaxed);
        }
        done
    }

    fn write_device(&self, at: u64, data: &[u8], context: &Context) -> Result<(), WriteError> {
        let failure = |error| WriteError::Device { guid: self.guid, error };
        let device = self.device.as_ref().filter(|_| self.is_usable()).ok_or(failure(BlockError::Gone))?;
        add(&self.stats.writes, 1);
        device.write(at, data).map_err(|error| {
            self.failed(Op::Write, at, data.len(), error, context);
            failure(error)
        })?;
        add(&self.stats.bytes_written, data.len() as u64);
        self.stats.streak.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn write_padded(&self, offset: u64, data: &[u8], unit: usize, context: &Context) -> Result<(), WriteError> {
        let at = offset.checked_add(label::FRONT).ok_or(WriteError::Device { guid: self.guid, error: BlockError::OutOfRange })?;
        if data.len().is_multiple_of(unit) {
            return self.write_device(at, data, context);
        }
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(unit), 0);
        self.write_device(at, &padded, context)
    }

    /// Tells the device that it need not keep what is there; false if it has no use for that. What fails is no write that the leaf missed.
    pub fn discard(&self, at: u64, bytes: u64, context: &Context) -> Result<bool, WriteError> {
        let failure = |error| WriteError::Device { guid: self.guid, error };
        let device = self.device.as_ref().filter(|_| self.is_usable()).ok_or(failure(BlockError::Gone))?;
        device.discard(at, bytes).map_err(|error| {
            self.failed(Op::Write, at, usize::try_from(bytes).unwrap_or(usize::MAX), error, context);
            failure(error)
        })
    }

    /// Writes what nobody needs at a byte offset of the device: a failure is no write that the leaf missed.
    pub fn fill(&self, at: u64, data: &[u8], context: &Context) -> Result<(), WriteError> {
        self.write_device(at, data, context)
    }

    /// Writes a new block's bytes, padded to `unit`, at an offset in allocatable space. A failure marks the open txg as missed.
    pub fn write(&self, offset: u64, data: &[u8], unit: usize, context: &Context) -> Result<(), WriteError> {
        let done = self.write_padded(offset, data, unit, context);
        if done.is_err() {
            self.missed.store(true, Ordering::Relaxed);
        }
        done
    }

    /// Writes bytes afresh that the leaf should have had. Returns whether they arrived.
    pub fn repair(&self, offset: u64, data: &[u8], unit: usize, context: &Context) -> bool {
        if !context.heal || !self.is_usable() || self.write_padded(offset, data, unit, context).is_err() {
            return false;
        }
        add(&self.stats.repaired, 1);
        context.post(Event::Repaired { leaf: self.guid, offset, size: data.len() as u64 });
        true
    }

    pub fn flush(&self, context: &Context) -> Result<(), WriteError> {
        let failure = |error| WriteError::Device { guid: self.guid, error };
        let device = self.device.as_ref().filter(|_| self.is_usable()).ok_or(failure(BlockError::Gone))?;
        device.flush().map_err(|error| {
            self.failed(Op::Flush, 0, 0, error, context);
            self.missed.store(true, Ordering::Relaxed);
            failure(error)
        })
    }

    pub fn read(&self, offset: u64, size: usize, unit: usize, context: &Context) -> Option<Vec<u8>> {
        let device = self.device.as_ref().filter(|_| self.is_usable())?;
        let mut data = vec![0; size.next_multiple_of(unit)];
        add(&self.stats.reads, 1);
        let at = offset.checked_add(label::FRONT)?;
        if let Err(error) = device.read(at, &mut data) {
            self.failed(Op::Read, at, data.len(), error, context);
            return None;
        }
        add(&self.stats.bytes_read, data.len() as u64);
        self.stats.streak.store(0, Ordering::Relaxed);
        Some(data)
    }

    /// The device gave wrong bytes.
    pub fn blame(&self, offset: u64, size: usize, context: &Context) {
        if context.speculative {
            return;
        }
        add(&self.stats.checksum_errors, 1);
        context.post(Event::Checksum { leaf: self.guid, offset, size: size as u64 });
    }

    pub fn status(&self, config: &VdevConfig) -> LeafStatus {
        LeafStatus { path: config.path.clone(), ..self.status_of(config.guid) }
    }

    /// The same of a leaf that has no place in the tree.
    pub fn status_of(&self, guid: u64) -> LeafStatus {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = LeafCounts {
            reads: get(&self.stats.reads),
            writes: get(&self.stats.writes),
            bytes_read: get(&self.stats.bytes_read),
            bytes_written: get(&self.stats.bytes_written),
            read_errors: get(&self.stats.read_errors),
            write_errors: get(&self.stats.write_errors),
            checksum_errors: get(&self.stats.checksum_errors),
            repaired: get(&self.stats.repaired),
        };
        LeafStatus { guid, path: None, state: self.state(), counts, missing_txgs: self.lacks.total() }
    }
}
