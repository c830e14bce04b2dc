//! Job control: what terminals ask of processes, and what the end of a session leader does to its terminal.

use alloc::boxed::Box;
use core::sync::atomic::Ordering;

use kif::ZoneId;
use linux_abi::consts::signal::*;
use vfs::tty::job::{Caller, Group, JobControl, TtySignal};

use crate::post::{from_kernel, is_refused, post, post_session_group};
use crate::process::Process;
use crate::table;

struct Jobs;

const fn number(signal: TtySignal) -> u32 {
    match signal {
        TtySignal::Interrupt => SIGINT,
        TtySignal::Quit => SIGQUIT,
        TtySignal::Stop => SIGTSTP,
        TtySignal::Hangup => SIGHUP,
        TtySignal::Continue => SIGCONT,
        TtySignal::BackgroundRead => SIGTTIN,
        TtySignal::BackgroundWrite => SIGTTOU,
        TtySignal::WindowSize => SIGWINCH,
    }
}

/// Ids of the terminal layer are signed; ours fit.
fn id(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
fn unid(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

impl JobControl for Jobs {
    fn caller(&self) -> Option<Caller> {
        let lwp = table::current()?;
        let process = lwp.process();
        Some(Caller {
            pid: id(process.pid()),
            group: id(process.group.load(Ordering::Relaxed)),
            session: id(process.session.load(Ordering::Relaxed)),
            zone: process.zone_id(),
            uid: process.cred().euid,
        })
    }
    fn signal_group(&self, group: Group, signal: TtySignal) {
        post_session_group(group.zone, unid(group.session), unid(group.group), number(signal));
    }
    fn signal_leader(&self, session: i32, signal: TtySignal) {
        let leader = table::lock().process(unid(session)).cloned();
        if let Some(leader) = leader
            && post(&leader, None, from_kernel(number(signal)), false).is_err()
        {}
    }
    fn group_session(&self, group: i32) -> Option<i32> {
        let table = table::lock();
        table.processes().find(|process| process.group() == unid(group)).map(|process| id(process.session()))
    }
    fn show(&self, raw: i32) -> i32 {
        match table::current() {
            Some(lwp) if lwp.process().zone_id() != ZoneId::GLOBAL => id(lwp.process().show(unid(raw))),
            _ => raw,
        }
    }
    fn unshow(&self, shown: i32) -> i32 {
        match table::current() {
            Some(lwp) if lwp.process().zone_id() != ZoneId::GLOBAL => id(lwp.process().unshow(unid(shown))),
            _ => shown,
        }
    }
    fn is_orphaned(&self, group: i32) -> bool {
        table::lock().is_orphaned(unid(group), None)
    }
    fn is_refused(&self, signal: TtySignal) -> bool {
        table::current().is_some_and(|lwp| is_refused(&lwp, number(signal)))
    }
}

/// Registers with the terminal layer.
pub(crate) fn register() {
    vfs::tty::job::register(Box::new(Jobs));
}

/// A session leader ended: its terminal is free, and who was in its foreground hears of it.
pub(crate) fn leader_ended(process: &Process) {
    vfs::tty::session_ended(id(process.session()));
}
