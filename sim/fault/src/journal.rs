//! The write journal of a disk, and the disk as it is after a power cut.
//!
//! Writes go to a volatile cache that a flush empties to the medium. The journal keeps what every operation was and, if asked, the bytes that
//! writes carried, so that the medium at any cut is: the image at power-on, all writes before the last honoured flush, and of the writes
//! after it what the cache happened to have written out.

use std::sync::Arc;

use sim_bus::{DiskBackend, DiskError, NEVER, Nanos};
use sim_core::{Rng, Streams};

use crate::SECTOR;

/// How much a journal keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    #[default]
    Nothing,
    /// What each operation was.
    Operations,
    /// That, and the bytes of writes: power cuts can be made.
    Data,
}

/// An operation of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Read,
    Write,
    /// A write past the cache (FUA).
    WriteDurable,
    Flush,
    Discard,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub ticks: u64,
    pub ns: Nanos,
    /// How long the guest waits for it from then on; [`sim_bus::NEVER`]: for ever. `None`: nobody asked, as it was no request (bits that rot).
    pub takes: Option<Nanos>,
    pub op: Op,
    /// Where it went (for a misdirected write not where it should have gone).
    pub sector: u64,
    /// Sectors that reached the medium's cache.
    pub sectors: u64,
    pub error: Option<DiskError>,
    /// The fault of the plan that struck, and whether it kept the operation from happening (a lost write, an ignored flush).
    pub fault: Option<u16>,
    pub void: bool,
    /// The bytes of a write, if they are kept.
    pub data: Option<Arc<[u8]>>,
}

impl Record {
    /// Whether it changed what a cut would find: a point to cut at.
    pub fn is_write(&self) -> bool {
        matches!(self.op, Op::Write | Op::WriteDurable | Op::Discard) && self.error.is_none() && !self.void
    }
    /// How long the guest waited for it; `None`: it was never told, or there was nobody to tell.
    pub fn waited(&self) -> Option<Nanos> {
        self.takes.filter(|takes| *takes != NEVER)
    }
    fn is_barrier(&self) -> bool {
        self.op == Op::Flush && self.error.is_none() && !self.void
    }
}

/// Records in a chunk.
const CHUNK: usize = 256;

/// The operations of one disk in order. A clone shares the records.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    full: Vec<Arc<Vec<Record>>>,
    last: Vec<Record>,
    writes: u64,
    /// Records at the end whose time is not known yet.
    untimed: usize,
}

impl Journal {
    pub fn push(&mut self, record: Record) {
        self.writes += u64::from(record.is_write());
        self.untimed += 1;
        self.last.push(record);
        if self.last.len() == CHUNK {
            self.full.push(Arc::new(std::mem::take(&mut self.last)));
        }
    }
    /// Says how long the operations take that were pushed since the last call: those of one command.
    pub fn timed(&mut self, takes: Nanos) {
        let end = self.len();
        for index in end - std::mem::take(&mut self.untimed)..end {
            let record = match self.full.get_mut(index / CHUNK) {
                Some(chunk) => Arc::make_mut(chunk).get_mut(index % CHUNK),
                None => self.last.get_mut(index % CHUNK),
            };
            if let Some(record) = record {
                record.takes = Some(takes);
            }
        }
    }
    pub fn len(&self) -> usize {
        self.full.len() * CHUNK + self.last.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Writes and discards that were carried out: cut points are 0 to this.
    pub fn writes(&self) -> u64 {
        self.writes
    }
    pub fn get(&self, index: usize) -> Option<&Record> {
        match self.full.get(index / CHUNK) {
            Some(chunk) => chunk.get(index % CHUNK),
            None if index / CHUNK == self.full.len() => self.last.get(index % CHUNK),
            None => None,
        }
    }
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Record> + '_ {
        self.full.iter().flat_map(|chunk| chunk.iter()).chain(&self.last)
    }
}

/// What a power cut leaves of writes that no flush covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unflushed {
    /// All of them arrived.
    All,
    /// None did.
    None,
    /// Each arrived or not, by this seed.
    Subset(u64),
    /// Each *sector* arrived or not, by this seed.
    Torn(u64),
}

/// Walks along a journal and makes the disk of each cut.
///
/// ```text
///  let mut cutter = Cutter::new(disk.base()?, disk.journal().clone());
///  while cutter.advance() { check(cutter.cut(Unflushed::Subset(seed))) }
/// ```
#[derive(Debug)]
pub struct Cutter {
    /// The image with all that is durable at the present point.
    durable: Box<dyn DiskBackend>,
    journal: Journal,
    /// The record the present point is after.
    next: usize,
    writes: u64,
    /// Records since the last barrier, oldest first.
    volatile: Vec<usize>,
}

impl Cutter {
    /// Starts before the first record: `base` is the disk as it was at power-on.
    pub fn new(base: Box<dyn DiskBackend>, journal: Journal) -> Self {
        Self { durable: base, journal, next: 0, writes: 0, volatile: Vec::new() }
    }

    /// Goes on to just after the next write. `false`: there is none; the point is the journal's end.
    pub fn advance(&mut self) -> bool {
        while let Some(record) = self.journal.get(self.next) {
            self.next += 1;
            if record.is_write() {
                if record.op == Op::WriteDurable {
                    // It is durable by itself; what the cache holds of the same sectors is older.
                    let record = record.clone();
                    self.apply_durable(&record);
                } else {
                    self.volatile.push(self.next - 1);
                }
                self.writes += 1;
                return true;
            }
            if record.is_barrier() {
                self.settle(self.volatile.len());
            }
        }
        false
    }

    /// Goes to just after write number `n` (from 1). `false`: there are fewer, or the point is past it.
    pub fn advance_to(&mut self, n: u64) -> bool {
        if self.writes > n {
            return false;
        }
        while self.writes < n {
            if !self.advance() {
                return false;
            }
        }
        true
    }

    /// Writes up to the present point.
    pub fn writes(&self) -> u64 {
        self.writes
    }
    /// The record the present point is just after.
    pub fn record(&self) -> Option<&Record> {
        self.journal.get(self.next.checked_sub(1)?)
    }
    /// Writes that a cut here could lose.
    pub fn unflushed(&self) -> usize {
        self.volatile.len()
    }

    /// The disk after a power cut at the present point.
    pub fn cut(&self, unflushed: Unflushed) -> Box<dyn DiskBackend> {
        let mut disk = self.durable.fork();
        for (order, &index) in self.volatile.iter().enumerate() {
            let Some(record) = self.journal.get(index) else { continue };
            let mut chosen: Option<Rng> = match unflushed {
                Unflushed::All => None,
                Unflushed::None => break,
                // A stream for each write: adding a write later changes nothing for the earlier ones.
                Unflushed::Subset(seed) => {
                    if Streams::new(seed).stream(&format!("cut {order}")).chance(1, 2) {
                        continue;
                    }
                    None
                }
                Unflushed::Torn(seed) => Some(Streams::new(seed).stream(&format!("torn {order}"))),
            };
            match &mut chosen {
                None => put(disk.as_mut(), record, 0, record.sectors),
                Some(stream) => {
                    for part in (0..record.sectors).filter(|_| stream.chance(1, 2)) {
                        put(disk.as_mut(), record, part, 1);
                    }
                }
            }
        }
        disk
    }

    /// Makes the first `count` volatile writes durable.
    fn settle(&mut self, count: usize) {
        for index in self.volatile.drain(..count) {
            if let Some(record) = self.journal.get(index) {
                put(self.durable.as_mut(), record, 0, record.sectors);
            }
        }
    }

    fn apply_durable(&mut self, record: &Record) {
        let end = record.sector + record.sectors;
        let overlaps = |old: &Record| old.sector < end && record.sector < old.sector + old.sectors;
        // Older volatile writes to the same sectors must not come back over it: they, and what was written before them, are settled first.
        let last = self.volatile.iter().rposition(|&index| self.journal.get(index).is_some_and(overlaps));
        self.settle(last.map_or(0, |last| last + 1));
        put(self.durable.as_mut(), record, 0, record.sectors);
    }
}

/// Puts `count` sectors of a recorded write, from its sector `part` on, onto a disk.
fn put(disk: &mut dyn DiskBackend, record: &Record, part: u64, count: u64) {
    let sector = record.sector + part;
    let done = match (&record.data, record.op) {
        (_, Op::Discard) => disk.discard(sector, count),
        (Some(data), _) => {
            let first = part as usize * SECTOR;
            match data.get(first..first + count as usize * SECTOR) {
                Some(bytes) => disk.write(sector, bytes),
                None => Ok(()),
            }
        }
        (None, _) => Ok(()),
    };
    assert_eq!(done, Ok(()), "a write that the disk took once is taken again");
}
