//! One thing to try.

use serde::{Deserialize, Serialize};
use sim_bus::DiskBackend;
use sim_fault::{Cutter, Journal, Op, Record, Unflushed};

use crate::spec::FaultKind;

const SECTOR: usize = 512;

/// What a cut loses of the writes that no flush covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lost {
    Nothing,
    Everything,
    /// Each write or not, by this seed.
    Subset(u64),
    /// Each sector or not, by this seed.
    Torn(u64),
    /// These writes, by their numbers from 1.
    These(Vec<u64>),
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Plan {
    /// The power goes right after write number `write` (from 1; one more than there are: at the end, with everything asked for done).
    Cut { write: u64, lost: Lost },
    /// Request number `operation` of those that the fault can strike (from 1) fails, once.
    Fault { operation: u64, fault: FaultKind },
    /// The vCPUs take turns by another seed.
    Turns { chaos: bool, seed: u64 },
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Plan::Cut { write, lost } => {
                write!(f, "power cut after write {write}, ")?;
                match lost {
                    Lost::Nothing => write!(f, "the cache loses nothing"),
                    Lost::Everything => write!(f, "the cache loses everything"),
                    Lost::Subset(seed) => write!(f, "the cache loses subset {seed}"),
                    Lost::Torn(seed) => write!(f, "torn by seed {seed}"),
                    Lost::These(writes) => write!(f, "lost: write{} {}", if writes.len() == 1 { "" } else { "s" }, list(writes)),
                }
            }
            Plan::Fault { operation, fault } => write!(f, "request {operation} fails ({fault:?})"),
            Plan::Turns { chaos, seed } => write!(f, "turns by seed {seed}{}", if *chaos { ", adversarial" } else { "" }),
        }
    }
}

fn list(numbers: &[u64]) -> String {
    let shown: Vec<String> = numbers.iter().take(12).map(u64::to_string).collect();
    let more = if numbers.len() > 12 { format!(" and {} more", numbers.len() - 12) } else { String::new() };
    shown.join(", ") + &more
}

/// Makes the disks of power cuts from the journal of the reference run.
#[derive(Debug)]
pub struct Cuts {
    base: Box<dyn DiskBackend>,
    journal: Journal,
    cutter: Cutter,
}

impl Cuts {
    /// `base` is the disk where the journal begins.
    pub fn new(base: Box<dyn DiskBackend>, journal: Journal) -> Self {
        let cutter = Cutter::new(base.fork(), journal.clone());
        Self { base, journal, cutter }
    }

    /// Another one, for another thread.
    pub fn fork(&self) -> Self {
        Self::new(self.base.fork(), self.journal.clone())
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Brings the cutter to just after a write; back to the beginning first if it is past it.
    fn go_to(&mut self, write: u64) {
        if self.cutter.writes() > write || (self.cutter.writes() == self.journal.writes() && write <= self.journal.writes()) {
            self.cutter = Cutter::new(self.base.fork(), self.journal.clone());
        }
        if !self.cutter.advance_to(write) {
            // At the end: past the flushes after the last write.
            while self.cutter.advance() {}
        }
    }

    /// How many writes a cut after `write` could lose.
    pub fn unflushed(&mut self, write: u64) -> usize {
        self.go_to(write);
        self.cutter.unflushed()
    }

    /// The numbers of those writes.
    pub fn unflushed_writes(&self, write: u64) -> Vec<u64> {
        self.volatile(write).into_iter().map(|(number, _)| number).collect()
    }

    /// Writes up to number `write` that no honoured flush covers, with their numbers.
    fn volatile(&self, write: u64) -> Vec<(u64, &Record)> {
        let mut number = 0;
        let mut volatile = Vec::new();
        for record in self.journal.records() {
            if record.is_write() {
                if number == write {
                    break;
                }
                number += 1;
                if record.op != Op::WriteDurable {
                    volatile.push((number, record));
                }
            } else if record.op == Op::Flush && record.error.is_none() && !record.void {
                volatile.clear();
            }
        }
        volatile
    }

    /// The disk after the cut.
    pub fn disk(&mut self, write: u64, lost: &Lost) -> Box<dyn DiskBackend> {
        self.go_to(write);
        let unflushed = match lost {
            Lost::Nothing => Unflushed::All,
            Lost::Everything | Lost::These(_) => Unflushed::None,
            Lost::Subset(seed) => Unflushed::Subset(*seed),
            Lost::Torn(seed) => Unflushed::Torn(*seed),
        };
        let mut disk = self.cutter.cut(unflushed);
        if let Lost::These(writes) = lost {
            for (number, record) in self.volatile(write) {
                if !writes.contains(&number) {
                    arrive(disk.as_mut(), record);
                }
            }
        }
        disk
    }

    /// When a write was made, in ticks and virtual time.
    pub fn point(&self, write: u64) -> Option<(u64, u64)> {
        let index = usize::try_from(write.checked_sub(1)?).ok()?;
        self.journal.records().filter(|record| record.is_write()).nth(index).map(|record| (record.ticks, record.ns))
    }
}

/// A recorded write reaches the medium.
fn arrive(disk: &mut dyn DiskBackend, record: &Record) {
    let done = match (&record.data, record.op) {
        (_, Op::Discard) => disk.discard(record.sector, record.sectors),
        (Some(data), _) => disk.write(record.sector, &data[..(record.sectors as usize * SECTOR).min(data.len())]),
        (None, _) => Ok(()),
    };
    assert_eq!(done, Ok(()), "the disk took this write once");
}
