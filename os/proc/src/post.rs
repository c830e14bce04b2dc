//! Posting signals: from a sender to the queue of a process or an LWP.
//!
//! # Locking
//! `Signals` of the target; its parent is told after that lock is released.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use kif::ZoneId;
use linux_abi::consts::signal::*;
use linux_abi::{SigDetail, SigInfo};

use crate::process::{Lwp, Process, SigState, Status, attention};
use crate::signal::{Default, SIG_DFL, SigSet, default_action};
use crate::table;
use crate::{ProcError, Result};

/// What the kernel itself sends.
#[must_use]
pub const fn from_kernel(signal: u32) -> SigInfo {
    SigInfo { signal, code: SI_KERNEL, errno: 0, detail: SigDetail::None }
}

/// What one process sends another, as the receiver sees it.
#[must_use]
pub fn from_process(signal: u32, code: i32, sender: &Process, receiver: &Process, value: u64) -> SigInfo {
    let pid = sender.seen_by(receiver.zone_id()).unwrap_or(0);
    SigInfo { signal, code, errno: 0, detail: SigDetail::Sender { pid, uid: sender.cred().uid, value } }
}

/// Posts a signal to a process, or to one LWP of it. `outside`: the sender is the kernel or another zone, so that even the
/// zone's init must obey.
///
/// # Errors
/// [`ProcError::TryAgain`] if a real-time signal found the queue full.
pub fn post(process: &Arc<Process>, target: Option<&Arc<Lwp>>, info: SigInfo, outside: bool) -> Result<()> {
    let signal = info.signal;
    let mut report = None;
    let mut wake_stopped = false;
    let outcome = {
        let mut guard = process.signals.lock();
        let state = &mut *guard;
        if state.zombie.is_some() || state.ending.is_some() {
            return Ok(());
        }
        let unkillable = process.is_zone_init() && !outside;
        // A blocked signal is kept even so: init waits for SIGCHLD with sigtimedwait, and may install a handler meanwhile.
        let is_blocked = state.lwps.first().is_some_and(|lwp| SigSet(lwp.mask.load(Ordering::Relaxed)).has(signal));
        let waits = is_blocked && !SigSet::UNBLOCKABLE.has(signal);
        if unkillable && !waits && state.actions.get(signal).handler == SIG_DFL {
            return Ok(());
        }
        if signal == SIGKILL {
            begin_end(state, Status::Killed { signal, core: false });
            wake_stopped = true;
            Ok(())
        } else {
            if signal == SIGCONT {
                discard(state, SigSet::STOPS);
                if state.stopped.take().is_some() {
                    state.unreported_stop = false;
                    state.unreported_continue = true;
                    report = Some((CLD_CONTINUED, SIGCONT));
                    wake_stopped = true;
                }
            } else if SigSet::STOPS.has(signal) {
                discard(state, SigSet::of(SIGCONT));
            }
            enqueue(state, target, info)
        }
    };
    process.signal_events.notify();
    if wake_stopped {
        process.stop_queue.wake_all();
    }
    if let Some((code, status)) = report {
        tell_parent(process, code, status);
    }
    outcome
}

/// Posts a signal whose sender is not told: a standard one always finds room.
pub(crate) fn notify(process: &Arc<Process>, info: SigInfo) {
    post(process, None, info, false).unwrap_or_default();
}

fn discard(state: &mut SigState, set: SigSet) {
    state.shared.discard(set);
    for lwp in &state.lwps {
        lwp.pending.lock().discard(set);
    }
}

/// Queues a signal unless it would have no effect, and wakes an LWP that may take it.
fn enqueue(state: &mut SigState, target: Option<&Arc<Lwp>>, info: SigInfo) -> Result<()> {
    let signal = info.signal;
    let first = target.or(state.lwps.first());
    let wanted = |lwp: &Arc<Lwp>| {
        !SigSet(lwp.mask.load(Ordering::Relaxed)).has(signal) || SigSet(lwp.awaited.load(Ordering::Relaxed)).has(signal)
    };
    let blocked = first.is_some_and(|lwp| SigSet(lwp.mask.load(Ordering::Relaxed)).has(signal));
    if state.actions.ignores(signal) && !blocked {
        return Ok(());
    }
    let queued = match target {
        Some(lwp) => {
            let queued = lwp.pending.lock().push(info);
            if wanted(lwp) {
                lwp.call_attention(attention::SIGNAL);
            }
            queued
        }
        None => {
            let queued = state.shared.push(info);
            if let Some(lwp) = state.lwps.iter().find(|lwp| wanted(lwp)) {
                lwp.call_attention(attention::SIGNAL);
            }
            queued
        }
    };
    if queued { Ok(()) } else { Err(ProcError::TryAgain) }
}

/// Starts the end of a process: every LWP leaves at its next look. The first reason counts.
pub(crate) fn begin_end(state: &mut SigState, status: Status) {
    if state.ending.is_none() {
        state.ending = Some(status);
        state.stopped = None;
    }
    for lwp in &state.lwps {
        lwp.call_attention(attention::SIGNAL);
    }
}

/// Ends a process (`exit_group`, fatal signals).
pub fn end(process: &Process, status: Status) {
    begin_end(&mut process.signals.lock(), status);
    process.stop_queue.wake_all();
}

/// Tells the parent that its child stopped, continued or ended.
pub(crate) fn tell_parent(process: &Arc<Process>, code: i32, status: u32) {
    let Some(parent) = process.parent() else { return };
    let quiet = code != CLD_EXITED && code != CLD_KILLED && code != CLD_DUMPED && {
        parent.signals.lock().actions.get(SIGCHLD).flags & SA_NOCLDSTOP != 0
    };
    let signal = process.exit_signal.load(Ordering::Relaxed);
    if !quiet && (1..=crate::signal::SIGNALS).contains(&signal) {
        let times = *process.times.lock();
        let detail = SigDetail::Child {
            pid: process.seen_by(parent.zone_id()).unwrap_or(0),
            uid: process.cred().uid,
            status: i32::try_from(status).unwrap_or(0),
            user_ticks: times.user / 10_000_000,
            system_ticks: times.system / 10_000_000,
        };
        // A standard signal always finds room.
        if post(&parent, None, SigInfo { signal, code, errno: 0, detail }, false).is_err() {}
    }
    parent.child_events.wake_all();
}

/// Posts `signal` to all members of a group that `viewer` sees (terminal, hangup). No permission check.
pub fn post_group(viewer: ZoneId, group: u32, signal: u32) {
    let members = table::lock().group(group, viewer);
    for process in members {
        if post(&process, None, from_kernel(signal), false).is_err() {}
    }
}

/// The same for those members that are of `session`, whose leader lives in zone `zone`: what a terminal may signal.
pub fn post_session_group(zone: ZoneId, session: u32, group: u32, signal: u32) {
    let mut members = table::lock().group(group, zone);
    members.retain(|process| process.session() == session);
    for process in members {
        if post(&process, None, from_kernel(signal), false).is_err() {}
    }
}

/// Whom `kill` means. Ids are as the sender's zone sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Process(u32),
    Group(u32),
    OwnGroup,
    /// Everyone the sender may signal, but itself and init.
    All,
}

/// `kill`: posts `signal` (0: only checks) as process `sender`.
///
/// # Errors
/// [`ProcError::NoProcess`] if nobody matches, [`ProcError::NotPermitted`] if nobody of those may be signalled.
pub fn kill(sender: &Arc<Process>, target: Target, signal: u32) -> Result<()> {
    let viewer = sender.zone_id();
    let victims = match target {
        Target::Process(pid) => alloc::vec![table::lookup(viewer, pid)?],
        Target::Group(group) => table::lock().group(sender.unshow(group), viewer),
        Target::OwnGroup => table::lock().group(sender.group(), viewer),
        Target::All => {
            let mut all = table::list(viewer);
            all.retain(|process| !Arc::ptr_eq(process, sender) && process.pid() != 1 && !(process.is_zone_init() && sees_as_init(viewer, process)));
            all
        }
    };
    if victims.is_empty() {
        return Err(ProcError::NoProcess);
    }
    let cred = sender.cred();
    let mut refused = Ok(());
    let mut done = 0;
    for victim in victims {
        let allowed = cred.may_signal(&victim.cred()) || (signal == SIGCONT && victim.session() == sender.session());
        if !allowed {
            refused = Err(ProcError::NotPermitted);
            continue;
        }
        done += 1;
        if signal != 0 {
            let outside = victim.zone_id() != viewer;
            if let Err(error) = post(&victim, None, from_process(signal, SI_USER, sender, &victim, 0), outside) {
                refused = Err(error);
            }
        }
    }
    if done > 0 { Ok(()) } else { refused }
}

fn sees_as_init(viewer: ZoneId, process: &Process) -> bool {
    process.seen_by(viewer) == Some(1)
}

/// `tgkill` and `tkill`: posts to one LWP. Ids are as the sender's zone sees them.
///
/// # Errors
/// As [`kill`].
pub fn kill_lwp(sender: &Arc<Process>, group: Option<u32>, tid: u32, info: Option<SigInfo>, signal: u32) -> Result<()> {
    let viewer = sender.zone_id();
    let lwp = table::lookup_lwp(viewer, tid)?;
    let victim = lwp.process();
    if group.is_some_and(|group| victim.seen_by(viewer) != Some(group)) {
        return Err(ProcError::NoProcess);
    }
    if !sender.cred().may_signal(&victim.cred()) {
        return Err(ProcError::NotPermitted);
    }
    if signal == 0 {
        return Ok(());
    }
    let info = info.unwrap_or_else(|| from_process(signal, SI_TKILL, sender, victim, 0));
    post(victim, Some(&lwp), info, victim.zone_id() != viewer)
}

/// True if `signal` stops, ends or does anything to the process by default and nothing else: used where the terminal asks
/// whether a process refuses a signal.
#[must_use]
pub fn is_refused(lwp: &Lwp, signal: u32) -> bool {
    lwp.mask().has(signal) || lwp.process().signals.lock().actions.ignores(signal)
}

/// True if the signal's default would end the process with a report.
pub(crate) const fn is_crash(signal: u32) -> bool {
    matches!(default_action(signal), Default::Core)
}
