//! Waiting for children (`wait4(2)`, `waitid(2)`).

use alloc::sync::Arc;

use linux_abi::consts::signal::{CLD_CONTINUED, CLD_DUMPED, CLD_EXITED, CLD_KILLED, CLD_STOPPED, SIGCHLD, SIGCONT};
use core::sync::atomic::Ordering;

use crate::process::{Process, Status, Times};
use crate::table;
use crate::{ProcError, Result};

/// Which children are meant. Ids are machine-wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    Any,
    Pid(u32),
    Group(u32),
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub exited: bool,
    pub stopped: bool,
    pub continued: bool,
    /// Do not block.
    pub no_hang: bool,
    /// Leave the child as it is.
    pub peek: bool,
    /// Children made with another exit signal than SIGCHLD: `Some(true)` only those, `Some(false)` only others, `None` all.
    pub clones: Option<bool>,
}

/// What happened to a child.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Its machine-wide id.
    pub pid: u32,
    pub uid: u32,
    /// `CLD_…`.
    pub code: i32,
    /// Exit status or signal.
    pub value: u32,
    /// As `wait4` encodes it.
    pub status: u32,
    pub times: Times,
}

/// Waits for a child of `process`. `Ok(None)`: none yet, and the caller did not want to block.
///
/// # Errors
/// [`ProcError::NoChild`], [`ProcError::Interrupted`].
pub fn wait(process: &Arc<Process>, children: Children, options: Options) -> Result<Option<Event>> {
    let first = look(process, children, options)?;
    if first.is_some() || options.no_hang {
        return Ok(first);
    }
    process
        .child_events
        .wait_interruptible(None, || match look(process, children, options) {
            Ok(None) => None,
            Ok(Some(event)) => Some(Ok(Some(event))),
            Err(error) => Some(Err(error)),
        })
        .map_err(ProcError::from)?
}

fn look(process: &Arc<Process>, children: Children, options: Options) -> Result<Option<Event>> {
    let mut table = table::lock();
    let mut own = process.children.lock();
    let mut any = false;
    let mut found = None;
    for (index, child) in own.iter().enumerate() {
        let meant = match children {
            Children::Any => true,
            Children::Pid(pid) => child.pid() == pid,
            Children::Group(group) => child.group() == group,
        };
        let clone = child.exit_signal.load(Ordering::Relaxed) != SIGCHLD;
        if !meant || options.clones.is_some_and(|wanted| wanted != clone) {
            continue;
        }
        any = true;
        if let Some(event) = happened(child, options) {
            found = Some((index, event));
            break;
        }
    }
    let Some((index, event)) = found else {
        return if any { Ok(None) } else { Err(ProcError::NoChild) };
    };
    if matches!(event.code, CLD_EXITED | CLD_KILLED | CLD_DUMPED) && !options.peek {
        let child = own.swap_remove(index);
        table.free(child.pid());
        drop(own);
        drop(table);
        process.child_times.lock().add(&event.times);
        child.set_charge(None);
    }
    Ok(Some(event))
}

fn happened(child: &Process, options: Options) -> Option<Event> {
    let (code, value, status) = {
        let mut state = child.signals.lock();
        if let Some(status) = state.zombie.filter(|_| options.exited) {
            let (code, value) = match status {
                Status::Exited(code) => (CLD_EXITED, u32::from(code)),
                Status::Killed { signal, core: false } => (CLD_KILLED, signal),
                Status::Killed { signal, core: true } => (CLD_DUMPED, signal),
            };
            (code, value, status.encode())
        } else if let Some(signal) = state.stopped.filter(|_| options.stopped && state.unreported_stop) {
            state.unreported_stop = options.peek;
            (CLD_STOPPED, signal, signal << 8 | 0x7f)
        } else if options.continued && state.unreported_continue {
            state.unreported_continue = options.peek;
            (CLD_CONTINUED, SIGCONT, 0xffff)
        } else {
            return None;
        }
    };
    let mut times = child.times();
    times.add(&child.child_times());
    Some(Event { pid: child.pid(), uid: child.cred().uid, code, value, status, times })
}
