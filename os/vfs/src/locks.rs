//! Advisory locks: whole-file locks of `flock(2)`, record locks of `fcntl(2)`.
//!
//! # Structures
//! One table maps a vnode's identity to its locks, present only while somebody holds one. An owner is a number: the
//! open-file description for `flock`, the process for record locks. The two kinds do not see each other, as on Linux.
//!
//! # Locking
//! The table has one mutex of class `Vnode`. Waiters sleep on one queue for all files: locks are rare.
//!
//! # Limits
//! [`RECORDS_MAX`] record locks on one file, and as many waiters.
//!
//! Deadlock is found for two owners waiting for each other through record locks of the same file only; longer circles end by a
//! signal.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use kif::Nanos;
use sync::{Class, Mutex, WaitQueue};

use crate::vnode::NodeId;
use crate::{Result, VfsError};

/// Most record locks on one file, and most waiters for them.
const RECORDS_MAX: usize = 4096;

/// Shared or exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    Shared,
    Exclusive,
}

/// A record lock: bytes `first..=last`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub kind: LockKind,
    pub first: u64,
    pub last: u64,
    /// Process id.
    pub owner: u64,
}

impl Record {
    const fn overlaps(&self, first: u64, last: u64) -> bool {
        self.first <= last && first <= self.last
    }
    fn conflicts(&self, other: &Self) -> bool {
        self.owner != other.owner
            && self.overlaps(other.first, other.last)
            && (self.kind == LockKind::Exclusive || other.kind == LockKind::Exclusive)
    }
}

#[derive(Default)]
struct FileLocks {
    whole: Vec<(u64, LockKind)>,
    records: Vec<Record>,
    waiting: Vec<Record>,
}

impl FileLocks {
    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.records.is_empty() && self.waiting.is_empty()
    }
    fn take_whole(&mut self, owner: u64, kind: LockKind) -> Result<()> {
        let exclusive = kind == LockKind::Exclusive;
        if self.whole.iter().any(|(other, held)| *other != owner && (exclusive || *held == LockKind::Exclusive)) {
            return Err(VfsError::WouldBlock);
        }
        self.whole.retain(|(other, _)| *other != owner);
        self.whole.push((owner, kind));
        Ok(())
    }
    /// Cuts `first..=last` out of the owner's records.
    fn cut(&mut self, owner: u64, first: u64, last: u64) {
        let mut pieces = Vec::new();
        self.records.retain(|record| {
            if record.owner != owner || !record.overlaps(first, last) {
                return true;
            }
            if record.first < first {
                pieces.push(Record { last: first - 1, ..*record });
            }
            if record.last > last {
                pieces.push(Record { first: last + 1, ..*record });
            }
            false
        });
        self.records.extend(pieces);
    }
    fn take_record(&mut self, wanted: &Record) -> Result<()> {
        if self.records.iter().any(|held| held.conflicts(wanted)) {
            return Err(VfsError::WouldBlock);
        }
        // Taking one may cut another in two.
        if self.records.len() + 2 > RECORDS_MAX {
            return Err(VfsError::NoMemory);
        }
        self.cut(wanted.owner, wanted.first, wanted.last);
        self.records.push(*wanted);
        Ok(())
    }
    fn would_deadlock(&self, wanted: &Record) -> bool {
        self.records.iter().filter(|held| held.conflicts(wanted)).any(|held| {
            self.waiting.iter().any(|waiter| {
                waiter.owner == held.owner
                    && self.records.iter().any(|mine| mine.owner == wanted.owner && mine.conflicts(waiter))
            })
        })
    }
}

static TABLE: Mutex<BTreeMap<NodeId, FileLocks>> = Mutex::new(Class::Vnode, BTreeMap::new());
static WAITERS: WaitQueue = WaitQueue::new();

fn with<R>(id: NodeId, body: impl FnOnce(&mut FileLocks) -> R) -> R {
    let mut table = TABLE.lock();
    let locks = table.entry(id).or_default();
    let result = body(locks);
    if locks.is_empty() {
        table.remove(&id);
    }
    result
}

/// See [`crate::File::flock`].
pub(crate) fn flock(id: NodeId, owner: u64, kind: Option<LockKind>, nonblock: bool) -> Result<()> {
    let Some(kind) = kind else {
        forget(id, owner);
        return Ok(());
    };
    let attempt = || match with(id, |locks| locks.take_whole(owner, kind)) {
        Err(VfsError::WouldBlock) => None,
        done => Some(done),
    };
    if nonblock {
        return attempt_once(attempt);
    }
    WAITERS.wait_interruptible(None, attempt)?
}

fn attempt_once(attempt: impl FnOnce() -> Option<Result<()>>) -> Result<()> {
    attempt().unwrap_or(Err(VfsError::WouldBlock))
}

/// Drops the whole-file lock of a description (also at its last close).
pub(crate) fn forget(id: NodeId, owner: u64) {
    with(id, |locks| locks.whole.retain(|(other, _)| *other != owner));
    WAITERS.wake_all();
}

/// Takes a record lock (`F_SETLK`, `F_SETLKW`).
///
/// # Errors
/// Would block, would deadlock, interrupted.
pub fn set_record(id: NodeId, wanted: Record, wait: bool) -> Result<()> {
    let attempt = || match with(id, |locks| locks.take_record(&wanted)) {
        Err(VfsError::WouldBlock) => None,
        done => Some(done),
    };
    if !wait {
        let result = attempt_once(attempt);
        WAITERS.wake_all();
        return result;
    }
    if let Some(done) = attempt() {
        WAITERS.wake_all();
        return done;
    }
    with(id, |locks| {
        if locks.would_deadlock(&wanted) {
            return Err(VfsError::Deadlock);
        }
        if locks.waiting.len() >= RECORDS_MAX {
            return Err(VfsError::NoMemory);
        }
        locks.waiting.push(wanted);
        Ok(())
    })?;
    let outcome = WAITERS.wait_interruptible(None::<Nanos>, attempt);
    with(id, |locks| {
        if let Some(index) = locks.waiting.iter().position(|waiter| *waiter == wanted) {
            locks.waiting.swap_remove(index);
        }
    });
    WAITERS.wake_all();
    outcome?
}

/// Drops record locks of `owner` in `first..=last` (`F_UNLCK`; with the whole range also when the process closes any
/// descriptor of the file).
///
/// # Errors
/// Too many records to cut one in two. The whole range never fails.
pub fn clear_record(id: NodeId, owner: u64, first: u64, last: u64) -> Result<()> {
    let outcome = with(id, |locks| {
        // Only a hole in the middle of a record needs one more.
        let splits = locks.records.iter().any(|held| held.owner == owner && held.first < first && last < held.last);
        if splits && locks.records.len() >= RECORDS_MAX {
            return Err(VfsError::NoMemory);
        }
        locks.cut(owner, first, last);
        Ok(())
    });
    WAITERS.wake_all();
    outcome
}

/// A record lock that conflicts with `wanted` (`F_GETLK`).
#[must_use]
pub fn test_record(id: NodeId, wanted: &Record) -> Option<Record> {
    with(id, |locks| locks.records.iter().find(|held| held.conflicts(wanted)).copied())
}
