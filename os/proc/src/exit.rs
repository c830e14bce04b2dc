//! The end of LWPs and processes.
//!
//! # States
//! running → ending (a status is set, every LWP leaves) → zombie (waits for its parent) → gone. The last LWP to leave takes the
//! process from ending to zombie.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use kif::ZoneId;
use linux_abi::consts::futex as futex_abi;
use linux_abi::consts::signal::*;
use linux_abi::field_u64;
use once_cell::race::OnceBox;
use zone::Zone;

use crate::post::{from_kernel, notify, tell_parent};
use crate::process::{Process, Status};
use crate::task::Task;
use crate::{futex, table, timer};

/// Why a zone's processes are all to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneEnd {
    /// Its init ended.
    InitExited(Status),
    /// `reboot(2)` inside: halt or power off.
    Halt,
    /// `reboot(2)` inside: restart.
    Reboot,
}

/// Told when a zone ends from inside (for the global zone: the machine is to stop or restart). Called in the context of the
/// process that caused it, with no lock held; must not wait for that process to end.
pub type ZoneEndHook = Box<dyn Fn(&Arc<Zone>, ZoneEnd) + Send + Sync>;

static ZONE_END: OnceBox<ZoneEndHook> = OnceBox::new();

/// Installs the hook (first one wins).
pub fn set_zone_end_hook(hook: ZoneEndHook) {
    if ZONE_END.set(Box::new(hook)).is_err() {}
}

/// Ends a zone from inside.
pub fn end_zone(zone: &Arc<Zone>, why: ZoneEnd) {
    if let Some(hook) = ZONE_END.get() {
        hook(zone, why);
    }
}

/// The end of one LWP: the last thing its kernel thread does.
pub(crate) fn lwp(mut task: Task) {
    leave_robust_list(&mut task);
    if task.clear_tid != 0 && kif::user().write(task.clear_tid, &[0; 4]).is_ok() {
        let keys = [Ok(task.space.private_futex_key(task.clear_tid)), task.space.futex_key(task.clear_tid)];
        for key in keys.into_iter().flatten() {
            futex::wake_key(key, 1, u32::MAX);
        }
    }
    let Task { lwp, process, zone, files, space, user, exiting, .. } = task;
    drop(user);
    let (user_time, system_time) = lwp.times();
    {
        let mut times = process.times.lock();
        times.user += user_time.0;
        times.system += system_time.0;
    }
    let last = {
        let mut state = process.signals.lock();
        state.lwps.retain(|other| !Arc::ptr_eq(other, &lwp));
        if state.lwps.is_empty() {
            let own = Status::Exited(exiting.unwrap_or(0));
            Some(*state.ending.get_or_insert(own))
        } else {
            None
        }
    };
    if lwp.tid() != process.pid() {
        table::lock().free(lwp.tid());
    }
    kif::mmu().activate(None, None);
    if let Some(status) = last {
        *process.last_name.lock() = lwp.name();
        drop((files, space));
        end_process(&process, &zone, status);
    } else {
        drop((files, space));
        process.stop_queue.wake_all();
    }
    lwp.set_charge(None);
    table::leave_thread();
}

/// Takes an ended process apart and makes it a zombie.
fn end_process(process: &Arc<Process>, zone: &Arc<Zone>, status: Status) {
    timer::cancel(process);
    let peak = process.space().map_or(0, |space| space.peak_resident() * 4);
    let faults = process.space().map_or(0, |space| space.faults());
    {
        let mut times = process.times.lock();
        times.peak_kib = times.peak_kib.max(peak);
        times.faults += faults;
    }
    let files = process.set_files(None);
    drop_files(process, files);
    drop(process.set_space(None));
    process.drop_directories();
    if let Some(waiting) = process.vfork.lock().take() {
        waiting.complete();
    }
    if process.session() == process.pid() {
        crate::job::leader_ended(process);
    }
    let is_init = process.is_zone_init();
    let heirs = disown_children(process);
    if is_init {
        kif::log().line(format_args!("zone {}: init (pid {}) ended: {}", zone.name(), process.pid(), Shown(status)));
        // Nobody is left to adopt: the zone's other processes end with it.
        kill_all(zone.id(), Some(process.pid()));
    }
    drop(heirs);

    // The group of a child that loses its last outside parent is orphaned now; so may be the own group.
    let (code, value) = match status {
        Status::Exited(code) => (CLD_EXITED, u32::from(code)),
        Status::Killed { signal, core: false } => (CLD_KILLED, signal),
        Status::Killed { signal, core: true } => (CLD_DUMPED, signal),
    };
    // A zombie whose parent is in another zone (zlogin) waits at that zone's leisure: it must not keep its own from halting.
    let foreign;
    let reaped = {
        let mut table = table::lock();
        let parent = process.parent();
        foreign = parent.as_ref().is_some_and(|parent| parent.zone_id() != zone.id());
        let ignores = parent.as_ref().is_none_or(|parent| {
            let state = parent.signals.lock();
            let action = state.actions.get(SIGCHLD);
            process.exit_signal.load(Ordering::Relaxed) == SIGCHLD
                && (action.handler == crate::signal::SIG_IGN || action.flags & SA_NOCLDWAIT != 0)
        });
        process.signals.lock().zombie = Some(status);
        if ignores {
            table.free(process.pid());
            if let Some(parent) = &parent {
                parent.children.lock().retain(|child| !Arc::ptr_eq(child, process));
            }
        }
        ignores
    };
    tell_parent(process, code, value);
    if reaped || foreign {
        process.set_charge(None);
    }
    if is_init {
        end_zone(zone, ZoneEnd::InitExited(status));
    }
}

fn drop_files(process: &Process, files: Option<Arc<crate::FdTable>>) {
    let Some(files) = files else { return };
    crate::locks::forget(process, &files);
    // If this was the last user of the table, everything closes here.
    drop(files);
}

/// Hands the children of an ending process to the nearest subreaper or the zone's init. Children without an heir (their
/// zone's init is the one that ends) are on their own: they reap themselves.
fn disown_children(process: &Arc<Process>) -> Option<Arc<Process>> {
    let mut hang_up: Vec<u32> = Vec::new();
    let mut zombies = false;
    let mut gone: Vec<Arc<Process>> = Vec::new();
    let heir;
    {
        let mut table = table::lock();
        let children = core::mem::take(&mut *process.children.lock());
        heir = find_heir(&table, process);
        for child in &children {
            let heir = match &heir {
                // A process that entered another zone goes to that zone's init, if there is one.
                Some(heir) if heir.zone_id() == child.zone_id() => Some(Arc::clone(heir)),
                _ => table.process(child.zone_init()).filter(|init| !Arc::ptr_eq(init, process)).cloned(),
            };
            let signal = child.death_signal.load(Ordering::Relaxed);
            if signal != 0 {
                notify(child, from_kernel(signal));
            }
            match heir {
                Some(heir) => {
                    *child.parent.lock() = Arc::downgrade(&heir);
                    child.parent_seen.store(heir.seen_by(child.zone_id()).unwrap_or(0), Ordering::Relaxed);
                    child.exit_signal.store(SIGCHLD, Ordering::Relaxed);
                    zombies |= child.zombie().is_some();
                    heir.children.lock().push(Arc::clone(child));
                }
                None => {
                    *child.parent.lock() = alloc::sync::Weak::new();
                    child.parent_seen.store(0, Ordering::Relaxed);
                    if child.zombie().is_some() {
                        table.free(child.pid());
                        gone.push(Arc::clone(child));
                    }
                }
            }
        }
        for child in &children {
            let group = child.group();
            let crosses = child.session() == process.session() && group != process.group();
            if crosses && !hang_up.contains(&group) && table.is_orphaned(group, Some(process.pid())) && has_stopped(&table, group) {
                hang_up.push(group);
            }
        }
        let own = process.group();
        if !hang_up.contains(&own)
            && table.is_orphaned(own, Some(process.pid()))
            // Only if this process was what tied the group to the rest of the session.
            && process.parent().is_some_and(|parent| parent.session() == process.session() && parent.group() != own)
            && has_stopped(&table, own)
        {
            hang_up.push(own);
        }
    }
    for child in gone {
        child.set_charge(None);
    }
    for group in hang_up {
        crate::post::post_group(process.zone_id(), group, SIGHUP);
        crate::post::post_group(process.zone_id(), group, SIGCONT);
    }
    if zombies && let Some(heir) = &heir {
        notify(heir, from_kernel(SIGCHLD));
        heir.child_events.wake_all();
    }
    heir
}

fn find_heir(table: &table::Table, process: &Arc<Process>) -> Option<Arc<Process>> {
    let mut ancestor = process.parent();
    while let Some(candidate) = ancestor {
        if candidate.zone_id() != process.zone_id() {
            break;
        }
        if candidate.subreaper.load(Ordering::Relaxed) && candidate.zombie().is_none() {
            return Some(candidate);
        }
        ancestor = candidate.parent();
    }
    table.process(process.zone_init()).filter(|init| !Arc::ptr_eq(init, process)).cloned()
}

fn has_stopped(table: &table::Table, group: u32) -> bool {
    table.processes().any(|process| process.group() == group && process.signals.lock().stopped.is_some())
}

/// Ends every process of a zone but `except`. Returns how many there were.
pub fn kill_all(zone: ZoneId, except: Option<u32>) -> usize {
    let victims: Vec<Arc<Process>> =
        table::lock().processes().filter(|process| process.zone_id() == zone && Some(process.pid()) != except).cloned().collect();
    for victim in &victims {
        crate::post::end(victim, Status::Killed { signal: SIGKILL, core: false });
    }
    victims.len()
}

/// A status in words.
pub(crate) struct Shown(pub Status);

impl core::fmt::Display for Shown {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Status::Exited(code) => write!(f, "exit status {code}"),
            Status::Killed { signal, .. } => write!(f, "killed by signal {signal}"),
        }
    }
}

/// Marks the futexes the LWP held as abandoned (`set_robust_list(2)`; struct robust_list_head: list 0, futex_offset 8,
/// list_op_pending 16). The list is the program's: every step may lead nowhere, and it ends after a bound.
fn leave_robust_list(task: &mut Task) {
    let head_at = task.robust_list;
    if head_at == 0 {
        return;
    }
    let mut head = [0; futex_abi::ROBUST_HEAD_BYTES as usize];
    if kif::user().read(head_at, &mut head).is_err() {
        return;
    }
    let offset = field_u64(&head, 8);
    let pending = field_u64(&head, 16);
    let mut entry = field_u64(&head, 0);
    for _ in 0..futex_abi::ROBUST_LIMIT {
        // Bit 0 marks priority-inheritance futexes, which we do not have.
        let at = entry & !1;
        if at == head_at || at == 0 {
            break;
        }
        let mut next = [0; 8];
        let read = kif::user().read(at, &mut next);
        if at != pending & !1 {
            abandon(task, at.wrapping_add(offset));
        }
        if read.is_err() {
            break;
        }
        entry = u64::from_le_bytes(next);
    }
    if pending & !1 != 0 {
        abandon(task, (pending & !1).wrapping_add(offset));
    }
}

fn abandon(task: &Task, word_at: u64) {
    let mut word = [0; 4];
    if !word_at.is_multiple_of(4) || kif::user().read(word_at, &mut word).is_err() {
        return;
    }
    let mut old = u32::from_le_bytes(word);
    // Only the owner is expected to change it; a few tries are enough for waiters that set their bit.
    for _ in 0..16 {
        if old & futex_abi::TID_MASK != task.process.show(task.lwp.tid()) {
            return;
        }
        let new = (old & futex_abi::WAITERS) | futex_abi::OWNER_DIED;
        match kif::user().compare_exchange_u32(word_at, old, new) {
            Ok(seen) if seen == old => break,
            Ok(seen) => old = seen,
            Err(kif::CopyFault) => return,
        }
    }
    if old & futex_abi::WAITERS != 0 {
        futex::wake_key(task.space.private_futex_key(word_at), 1, u32::MAX);
        if let Ok(key) = task.space.futex_key(word_at) {
            futex::wake_key(key, 1, u32::MAX);
        }
    }
}
