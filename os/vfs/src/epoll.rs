//! Epoll: a standing list of files and what to wait for in them.
//!
//! # Theory
//! An epoll object hangs its own [`Pollee`] on those of the files it watches: an event of a file is an event of
//! the epoll object. A wait therefore sleeps on one queue, however many files there are, and looks through the list when woken.
//! Edge triggering compares the file's event count with the one at the last report. The list holds files weakly: the last
//! close of a file ends its watch (`epoll(7)`).
//!
//! # Locking
//! `Class::Epoll` around the list. Files are never dropped under it.
//!
//! # Limits
//! An epoll object cannot watch another (`TooDeep`); it can be polled. A look through the list costs time in proportion to its length.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Bound;
use core::sync::atomic::{AtomicU64, Ordering};
use kif::Nanos;
use sync::{Class, Mutex};

use crate::file::{File, OpenFlags};
use crate::mount::ANONYMOUS_FS;
use crate::poll::{Pollee, Ready};
use crate::vnode::{Attr, Kind, NodeId, Vnode, VnodeRef};
use crate::{Result, VfsError};

/// Report once per event, not as long as the state lasts.
pub const EDGE: u32 = 1 << 31;
/// Report once, then not until changed again.
pub const ONESHOT: u32 = 1 << 30;
/// Inode numbers of epoll objects begin here, to tell them from pipes.
const FIRST_INO: u64 = 1 << 32;

/// Items looked at under the lock at once.
const LOOK_AT_ONCE: usize = 32;

/// What to watch for in a file, and what to say then (`struct epoll_event`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interest {
    /// Bits of [`Ready`], and [`EDGE`], [`ONESHOT`].
    pub mask: u32,
    pub data: u64,
}

/// A change of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Add(Interest),
    Modify(Interest),
    Remove,
}

struct Item {
    file: Weak<File>,
    interest: Interest,
    /// Event count of the file at the last report.
    reported: Option<u64>,
    /// Reported once, with [`ONESHOT`].
    spent: bool,
}

/// Descriptor number and identity of the description.
type Key = (i32, usize);

struct List {
    items: BTreeMap<Key, Item>,
    /// Where the last look stopped: the next begins after it, so that nobody starves.
    last: Option<Key>,
}

/// An epoll object.
#[allow(missing_debug_implementations, reason = "holds locks")]
pub struct Epoll {
    id: NodeId,
    list: Mutex<List>,
    pollee: Arc<Pollee>,
}

/// Makes an epoll object; the file is for its descriptor.
#[must_use]
pub fn new() -> Arc<File> {
    static NEXT: AtomicU64 = AtomicU64::new(FIRST_INO);
    let id = NodeId { fs: ANONYMOUS_FS, ino: NEXT.fetch_add(1, Ordering::Relaxed) };
    let list = Mutex::new(Class::Epoll, List { items: BTreeMap::new(), last: None });
    let epoll: VnodeRef = Arc::new(Epoll { id, list, pollee: Arc::new(Pollee::new()) });
    File::anonymous(epoll, OpenFlags::READ | OpenFlags::WRITE)
}

/// The epoll object behind a file.
///
/// # Errors
/// It is none ([`VfsError::Invalid`]).
pub fn of(file: &File) -> Result<&Epoll> {
    file.object().as_any().and_then(|any| any.downcast_ref::<Epoll>()).ok_or(VfsError::Invalid)
}

impl Epoll {
    /// Changes the list for descriptor `fd`, which refers to `file`.
    ///
    /// # Errors
    /// See `epoll_ctl(2)`.
    pub fn control(&self, fd: i32, file: &Arc<File>, change: Change) -> Result<()> {
        if of(file).is_ok() {
            return Err(VfsError::TooDeep);
        }
        let pollee = file.pollee().ok_or(VfsError::NotPermitted)?;
        let key = (fd, Arc::as_ptr(file).addr());
        let mut list = self.list.lock();
        // The number may belong to a file that is long gone.
        let is_there = list.items.get(&key).is_some_and(|item| item.file.strong_count() != 0);
        match change {
            Change::Add(interest) => {
                if is_there {
                    return Err(VfsError::Exists);
                }
                let item = Item { file: Arc::downgrade(file), interest, reported: None, spent: false };
                list.items.insert(key, item);
                pollee.add_listener(&self.pollee);
            }
            Change::Modify(interest) => {
                if !is_there {
                    return Err(VfsError::NotFound);
                }
                let item = Item { file: Arc::downgrade(file), interest, reported: None, spent: false };
                list.items.insert(key, item);
            }
            Change::Remove => {
                if !is_there {
                    return Err(VfsError::NotFound);
                }
                list.items.remove(&key);
                let address = key.1;
                if !list.items.keys().any(|(_, other)| *other == address) {
                    pollee.remove_listener(&self.pollee);
                }
            }
        }
        drop(list);
        // What is ready already is news to a waiter.
        self.pollee.notify();
        Ok(())
    }

    /// Up to `limit` reports: readiness bits and the caller's data. Does not wait.
    pub fn collect(&self, limit: usize) -> Vec<(u32, u64)> {
        self.look(limit, true)
    }

    /// Waits for at least one report.
    ///
    /// # Errors
    /// A signal came. The deadline (monotonic) having passed gives an empty list.
    pub fn wait(&self, limit: usize, deadline: Option<Nanos>) -> Result<Vec<(u32, u64)>> {
        let found = self.pollee.queue().wait_interruptible(deadline, || {
            let reports = self.look(limit, true);
            (!reports.is_empty()).then_some(reports)
        });
        match found {
            Ok(reports) => Ok(reports),
            Err(sync::Woken::TimedOut) => Ok(Vec::new()),
            Err(sync::Woken::Interrupted) => Err(VfsError::Interrupted),
        }
    }

    /// Looks through the list; with `consume`, notes what was reported.
    fn look(&self, limit: usize, consume: bool) -> Vec<(u32, u64)> {
        let mut reports = Vec::new();
        // From behind the last report to the end, then from the start up to it.
        let begin = self.list.lock().last;
        let (mut at, mut wrapped) = (begin, begin.is_none());
        while reports.len() < limit {
            let (passed, more) = self.look_on(at, if wrapped { begin } else { None }, limit, consume, &mut reports);
            match (more, passed) {
                (true, passed) => at = passed,
                (false, _) if !wrapped => (at, wrapped) = (None, true),
                (false, _) => break,
            }
        }
        reports
    }

    /// Looks at the next [`LOOK_AT_ONCE`] items behind `after` and up to `until`. Returns the last one looked at, and whether there may be more. The
    /// lock is released in between: how many items there are is for a process to say, how long others wait is not.
    fn look_on(&self, after: Option<Key>, until: Option<Key>, limit: usize, consume: bool, reports: &mut Vec<(u32, u64)>) -> (Option<Key>, bool) {
        // Keeps files alive until the lock is released: one of them may be the last handle.
        let mut held: [Option<Arc<File>>; LOOK_AT_ONCE] = [const { None }; LOOK_AT_ONCE];
        let mut guard = self.list.lock();
        let list = &mut *guard;
        let mut at = after;
        let mut more = true;
        for place in &mut held {
            let start = at.map_or(Bound::Unbounded, Bound::Excluded);
            let next = list.items.range_mut((start, Bound::Unbounded)).next();
            let Some((key, item)) = next.filter(|(key, _)| until.is_none_or(|until| **key <= until)) else {
                more = false;
                break;
            };
            let key = *key;
            at = Some(key);
            let Some(file) = item.file.upgrade() else {
                list.items.remove(&key);
                continue;
            };
            let events = file.pollee().map_or(0, Pollee::events);
            let wanted = Ready::from_bits_truncate(item.interest.mask) | Ready::ERR | Ready::HUP;
            let ready = file.poll() & wanted;
            *place = Some(file);
            let is_old = item.interest.mask & EDGE != 0 && item.reported == Some(events);
            if ready.is_empty() || item.spent || is_old {
                continue;
            }
            reports.push((ready.bits(), item.interest.data));
            if consume {
                item.reported = Some(events);
                item.spent = item.interest.mask & ONESHOT != 0;
                list.last = Some(key);
            }
            if reports.len() >= limit {
                break;
            }
        }
        drop(guard);
        drop(held);
        (at, more)
    }
}

impl Vnode for Epoll {
    fn id(&self) -> NodeId {
        self.id
    }
    fn kind(&self) -> Kind {
        Kind::Anonymous
    }
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::simple(self.id, Kind::Anonymous, 0o600))
    }
    fn poll(&self) -> Ready {
        let ready = !self.look(1, false).is_empty();
        if ready { Ready::IN | Ready::RDNORM } else { Ready::empty() }
    }
    fn pollee(&self) -> Option<&Pollee> {
        Some(&self.pollee)
    }
    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
