//! What the terminal asks of the process layer: job control.

use alloc::boxed::Box;
use kif::ZoneId;
use once_cell::race::OnceBox;

/// Signals a terminal sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TtySignal {
    /// SIGINT: `^C`.
    Interrupt,
    /// SIGQUIT: `^\`.
    Quit,
    /// SIGTSTP: `^Z`.
    Stop,
    /// SIGHUP: the line is gone.
    Hangup,
    /// SIGCONT: goes with a hangup.
    Continue,
    /// SIGTTIN: a background process read.
    BackgroundRead,
    /// SIGTTOU: a background process wrote or changed settings.
    BackgroundWrite,
    /// SIGWINCH: the window size changed.
    WindowSize,
}

/// The calling process, as job control sees it. Process ids are unique in the whole machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    pub pid: i32,
    pub group: i32,
    pub session: i32,
    pub zone: ZoneId,
    /// Effective user id: owner of a pseudo terminal it opens; 0 may steal a terminal.
    pub uid: u32,
}

/// A process group, with what makes it more than a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    pub group: i32,
    pub session: i32,
    /// Zone of the session's leader.
    pub zone: ZoneId,
}

/// The process layer. `proc` registers one at start-up. Called without terminal locks held.
pub trait JobControl: Send + Sync {
    /// The calling process; `None` for a kernel thread.
    fn caller(&self) -> Option<Caller>;
    /// Sends `signal` to every process of a group, as long as the group is one of that session and zone: numbers come again, and a terminal
    /// may remember one for long.
    fn signal_group(&self, group: Group, signal: TtySignal);
    /// Sends `signal` to the leader of `session` only.
    fn signal_leader(&self, session: i32, signal: TtySignal);
    /// The session that `group` belongs to; `None` if the group has no members.
    fn group_session(&self, group: i32) -> Option<i32>;
    /// True if the group is orphaned: nobody could continue it once stopped (POSIX.1-2017 section 3.264).
    fn is_orphaned(&self, group: i32) -> bool;
    /// A machine-wide id as the calling process sees it (a zone's init is 1 inside).
    fn show(&self, id: i32) -> i32;
    /// The inverse of [`JobControl::show`].
    fn unshow(&self, id: i32) -> i32;
    /// True if the calling thread blocks or its process ignores `signal`.
    fn is_refused(&self, signal: TtySignal) -> bool;
}

static JOBS: OnceBox<Box<dyn JobControl>> = OnceBox::new();

/// Registers the process layer (first one wins).
pub fn register(jobs: Box<dyn JobControl>) {
    if JOBS.set(Box::new(jobs)).is_err() {}
}

/// The process layer, once there is one.
pub(crate) fn jobs() -> Option<&'static dyn JobControl> {
    JOBS.get().map(|jobs| &**jobs)
}
