//! Advisory locks: whole-file locks of `flock(2)`, record locks of `fcntl(2)`.
//!
//! # Structures
//! One table maps a vnode's identity to its locks, present only while somebody holds one. An owner is a number: the
//! open-file description for `flock`, the process for record locks. The two kinds do not see each other, as on Linux.
//!
//! # Locking
//! The table has one mutex of class `Vnode`, held for a look-up. Each file's locks have a mutex (`FileLocks`) and a queue of waiters of their own, so
//! that who holds many locks of one file delays users of that file only.
//!
//! # Limits
//! [`RECORDS_MAX`] record locks on one file, and as many waiters.
//!
//! Deadlock is found for two owners waiting for each other through record locks of the same file only; longer circles end by a
//! signal.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
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
    /// Drops the owner's whole-file lock, unless it is of kind `keep`; true if others may go on.
    fn drop_whole(&mut self, owner: u64, keep: Option<LockKind>) -> bool {
        let before = self.whole.len();
        self.whole.retain(|(other, held)| *other != owner || keep == Some(*held));
        self.whole.len() < before
    }
    /// Takes one for an owner that has none, or this one.
    fn take_whole(&mut self, owner: u64, kind: LockKind) -> Result<()> {
        let exclusive = kind == LockKind::Exclusive;
        if self.whole.contains(&(owner, kind)) {
            return Ok(());
        }
        if self.whole.iter().any(|(_, held)| exclusive || *held == LockKind::Exclusive) {
            return Err(VfsError::WouldBlock);
        }
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

/// A file that somebody holds or wants a lock of.
struct Entry {
    locks: Mutex<FileLocks>,
    waiters: WaitQueue,
}

static TABLE: Mutex<BTreeMap<NodeId, Arc<Entry>>> = Mutex::new(Class::Vnode, BTreeMap::new());

/// A file's entry, in use as long as this lives: the last one takes an entry without locks out of the table.
struct InUse {
    id: NodeId,
    entry: Arc<Entry>,
}

impl InUse {
    fn of(id: NodeId) -> Self {
        let mut table = TABLE.lock();
        let entry = table.entry(id).or_insert_with(|| {
            Arc::new(Entry { locks: Mutex::new(Class::FileLocks, FileLocks::default()), waiters: WaitQueue::new() })
        });
        Self { id, entry: Arc::clone(entry) }
    }
    /// Without making one.
    fn existing(id: NodeId) -> Option<Self> {
        let entry = TABLE.lock().get(&id).map(Arc::clone)?;
        Some(Self { id, entry })
    }
    fn with<R>(&self, body: impl FnOnce(&mut FileLocks) -> R) -> R {
        body(&mut self.entry.locks.lock())
    }
    fn wake(&self) {
        self.entry.waiters.wake_all();
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        // The table's handle and this one: nobody else can come by another meanwhile.
        let removed = if Arc::strong_count(&self.entry) == 2 && self.entry.locks.lock().is_empty() { table.remove(&self.id) } else { None };
        drop(table);
        drop(removed);
    }
}

/// See [`crate::File::flock`].
pub(crate) fn flock(id: NodeId, owner: u64, kind: Option<LockKind>, nonblock: bool) -> Result<()> {
    let Some(kind) = kind else {
        forget(id, owner);
        return Ok(());
    };
    let file = InUse::of(id);
    // As on Linux: a lock of the other kind goes first, whatever becomes of the new one. So two that share a file do not wait for each other for ever.
    if file.with(|locks| locks.drop_whole(owner, Some(kind))) {
        file.wake();
    }
    let attempt = || match file.with(|locks| locks.take_whole(owner, kind)) {
        Err(VfsError::WouldBlock) => None,
        done => Some(done),
    };
    if nonblock {
        return attempt_once(attempt);
    }
    file.entry.waiters.wait_interruptible(None, attempt)?
}

fn attempt_once(attempt: impl FnOnce() -> Option<Result<()>>) -> Result<()> {
    attempt().unwrap_or(Err(VfsError::WouldBlock))
}

/// Drops the whole-file lock of a description (also at its last close).
pub(crate) fn forget(id: NodeId, owner: u64) {
    let Some(file) = InUse::existing(id) else { return };
    if file.with(|locks| locks.drop_whole(owner, None)) {
        file.wake();
    }
}

/// Takes a record lock (`F_SETLK`, `F_SETLKW`).
///
/// # Errors
/// Would block, would deadlock, interrupted.
pub fn set_record(id: NodeId, wanted: Record, wait: bool) -> Result<()> {
    let file = InUse::of(id);
    let attempt = || match file.with(|locks| locks.take_record(&wanted)) {
        Err(VfsError::WouldBlock) => None,
        done => Some(done),
    };
    if !wait {
        let result = attempt_once(attempt);
        file.wake();
        return result;
    }
    if let Some(done) = attempt() {
        file.wake();
        return done;
    }
    file.with(|locks| {
        if locks.would_deadlock(&wanted) {
            return Err(VfsError::Deadlock);
        }
        if locks.waiting.len() >= RECORDS_MAX {
            return Err(VfsError::NoMemory);
        }
        locks.waiting.push(wanted);
        Ok(())
    })?;
    let outcome = file.entry.waiters.wait_interruptible(None::<Nanos>, attempt);
    file.with(|locks| {
        if let Some(index) = locks.waiting.iter().position(|waiter| *waiter == wanted) {
            locks.waiting.swap_remove(index);
        }
    });
    file.wake();
    outcome?
}

/// Drops record locks of `owner` in `first..=last` (`F_UNLCK`; with the whole range also when the process closes any
/// descriptor of the file).
///
/// # Errors
/// Too many records to cut one in two. The whole range never fails.
pub fn clear_record(id: NodeId, owner: u64, first: u64, last: u64) -> Result<()> {
    let Some(file) = InUse::existing(id) else { return Ok(()) };
    let outcome = file.with(|locks| {
        // Only a hole in the middle of a record needs one more.
        let splits = locks.records.iter().any(|held| held.owner == owner && held.first < first && last < held.last);
        if splits && locks.records.len() >= RECORDS_MAX {
            return Err(VfsError::NoMemory);
        }
        locks.cut(owner, first, last);
        Ok(())
    });
    file.wake();
    outcome
}

/// A record lock that conflicts with `wanted` (`F_GETLK`).
#[must_use]
pub fn test_record(id: NodeId, wanted: &Record) -> Option<Record> {
    InUse::existing(id)?.with(|locks| locks.records.iter().find(|held| held.conflicts(wanted)).copied())
}
