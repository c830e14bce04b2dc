//! The process table: ids, look-up through a zone's eyes, groups and sessions.
//!
//! One table for the machine; every id in it is unique. A zone sees its own processes only, and its init as 1
//! (reference: `lx`). Every look-up that serves a program takes the viewer.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use kif::{ThreadId, ZoneId};
use sync::{Class, Mutex, SpinLock};

use crate::process::{Lwp, Process};
use crate::{ProcError, Result};

/// Largest process id.
pub const PID_MAX: u32 = 99_999;

#[derive(Clone)]
pub(crate) enum Entry {
    /// Handed out, not yet filled.
    Reserved,
    Process(Arc<Process>),
    /// An LWP other than the first.
    Lwp(Arc<Lwp>),
}

pub(crate) struct Table {
    entries: BTreeMap<u32, Entry>,
    last: u32,
    wrapped: bool,
}

static TABLE: Mutex<Table> = Mutex::new(Class::ProcTable, Table { entries: BTreeMap::new(), last: 0, wrapped: false });
static RUNNING: SpinLock<BTreeMap<ThreadId, Arc<Lwp>>> = SpinLock::new(Class::LwpMap, BTreeMap::new());

/// Locks the table: nothing is born, dies, changes parent, group or session meanwhile.
pub(crate) fn lock() -> sync::MutexGuard<'static, Table> {
    TABLE.lock()
}

impl Table {
    /// Hands out an id that nobody uses as process, LWP, group or session.
    pub(crate) fn reserve(&mut self) -> Result<u32> {
        for _ in 0..PID_MAX {
            self.last += 1;
            if self.last > PID_MAX {
                self.last = 2;
                self.wrapped = true;
            }
            let id = self.last;
            if self.entries.contains_key(&id) || (self.wrapped && self.is_group_or_session(id)) {
                continue;
            }
            self.entries.insert(id, Entry::Reserved);
            return Ok(id);
        }
        Err(ProcError::TryAgain)
    }
    fn is_group_or_session(&self, id: u32) -> bool {
        self.processes().any(|process| process.group() == id || process.session() == id)
    }
    pub(crate) fn fill(&mut self, id: u32, entry: Entry) {
        self.entries.insert(id, entry);
    }
    pub(crate) fn free(&mut self, id: u32) {
        self.entries.remove(&id);
    }
    pub(crate) fn process(&self, pid: u32) -> Option<&Arc<Process>> {
        match self.entries.get(&pid)? {
            Entry::Process(process) => Some(process),
            Entry::Reserved | Entry::Lwp(_) => None,
        }
    }
    pub(crate) fn lwp(&self, tid: u32) -> Option<Arc<Lwp>> {
        match self.entries.get(&tid)? {
            Entry::Process(process) => process.lwps().into_iter().find(|lwp| lwp.tid() == tid),
            Entry::Lwp(lwp) => Some(Arc::clone(lwp)),
            Entry::Reserved => None,
        }
    }
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Arc<Process>> {
        self.entries.values().filter_map(|entry| match entry {
            Entry::Process(process) => Some(process),
            Entry::Reserved | Entry::Lwp(_) => None,
        })
    }
    /// Members of a group that `viewer` sees.
    pub(crate) fn group(&self, group: u32, viewer: ZoneId) -> Vec<Arc<Process>> {
        self.processes().filter(|process| process.group() == group && sees(viewer, process)).cloned().collect()
    }
    /// True if nobody in `group` has a parent in the same session but another group: nobody could continue it once stopped.
    /// `without` is about to leave and does not count.
    pub(crate) fn is_orphaned(&self, group: u32, without: Option<u32>) -> bool {
        !self.processes().any(|process| {
            process.group() == group
                && Some(process.pid()) != without
                && process.zombie().is_none()
                && process.parent().is_some_and(|parent| {
                    parent.session() == process.session() && parent.group() != group && parent.zombie().is_none()
                })
        })
    }
}

/// Tells whether `viewer` sees `process`.
#[must_use]
pub fn sees(viewer: ZoneId, process: &Process) -> bool {
    viewer == ZoneId::GLOBAL || viewer == process.zone_id()
}

/// The process that processes of `viewer` know as `pid`.
///
/// # Errors
/// [`ProcError::NoProcess`].
pub fn lookup(viewer: ZoneId, pid: u32) -> Result<Arc<Process>> {
    let table = lock();
    let found = if viewer != ZoneId::GLOBAL && pid == 1 {
        table.processes().find(|process| process.zone_id() == viewer && process.is_zone_init())
    } else {
        table.process(pid)
    };
    found.filter(|process| process.seen_by(viewer) == Some(pid)).cloned().ok_or(ProcError::NoProcess)
}

/// The LWP that processes of `viewer` know as `tid`.
///
/// # Errors
/// [`ProcError::NoProcess`].
pub fn lookup_lwp(viewer: ZoneId, tid: u32) -> Result<Arc<Lwp>> {
    if viewer != ZoneId::GLOBAL && tid == 1 {
        return lookup(viewer, 1)?.lwps().first().cloned().ok_or(ProcError::NoProcess);
    }
    let found = lock().lwp(tid);
    found.filter(|lwp| sees(viewer, lwp.process())).ok_or(ProcError::NoProcess)
}

/// The processes `viewer` sees, by id.
#[must_use]
pub fn list(viewer: ZoneId) -> Vec<Arc<Process>> {
    lock().processes().filter(|process| sees(viewer, process)).cloned().collect()
}

/// The LWP the calling kernel thread runs; `None` for other kernel threads.
#[must_use]
pub fn current() -> Option<Arc<Lwp>> {
    let thread = sync::current();
    RUNNING.lock().get(&thread).cloned()
}

pub(crate) fn enter_thread(lwp: &Arc<Lwp>) {
    let thread = sync::current();
    lwp.set_thread(thread);
    RUNNING.lock().insert(thread, Arc::clone(lwp));
}

pub(crate) fn leave_thread() {
    let thread = sync::current();
    let old = RUNNING.lock().remove(&thread);
    drop(old);
}

/// `setsid`: a new session and group with the caller as leader.
///
/// # Errors
/// [`ProcError::NotPermitted`] for a group leader.
pub fn set_session(process: &Process) -> Result<u32> {
    let table = lock();
    let pid = process.pid();
    if table.processes().any(|other| other.group() == pid) {
        return Err(ProcError::NotPermitted);
    }
    process.session.store(pid, Ordering::Relaxed);
    process.group.store(pid, Ordering::Relaxed);
    Ok(pid)
}

/// `setpgid`: moves `target` (the caller or its child) to `group`. Ids are machine-wide.
///
/// # Errors
/// See `setpgid(2)`; [`ProcError::File`] with `AccessDenied` for a child after exec.
pub fn set_group(caller: &Arc<Process>, target: u32, group: u32) -> Result<()> {
    let table = lock();
    let process = table.process(target).cloned().ok_or(ProcError::NoProcess)?;
    if !Arc::ptr_eq(&process, caller) {
        if !process.parent().is_some_and(|parent| Arc::ptr_eq(&parent, caller)) {
            return Err(ProcError::NoProcess);
        }
        if process.session() != caller.session() {
            return Err(ProcError::NotPermitted);
        }
        if process.has_execed.load(Ordering::Relaxed) {
            return Err(ProcError::File(vfs::VfsError::AccessDenied));
        }
    }
    if process.session() == process.pid() {
        return Err(ProcError::NotPermitted);
    }
    if group != process.pid()
        && !table.processes().any(|other| other.group() == group && other.session() == caller.session())
    {
        return Err(ProcError::NotPermitted);
    }
    process.group.store(group, Ordering::Relaxed);
    Ok(())
}
