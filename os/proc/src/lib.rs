//! Processes: objects, ids, signals, credentials, descriptors, exec, fork, exit, wait, futexes, alarms.
//!
//! # Theory
//! An LWP is a kernel thread that calls user code (`task`). Everything about it that only it touches lives in its
//! [`Task`]; what others touch lives in [`Lwp`] and [`Process`]. Nothing is done *to* a running LWP: a sender leaves a note
//! (pending signal, end, stop) and sets its attention bits; the LWP acts when it next comes by.
//!
//! Isolation is by look-up: the table is one, but every search that serves a program takes the viewer's zone, and other zones'
//! processes are not found. A zone's init is shown as pid 1 inside.
//!
//! # States
//! A process: running ⇄ stopped → ending → zombie → gone. See `exit`.
//!
//! # Structures
//! `table` (id → process or LWP) owns processes until they are reaped; a parent owns its children; children know parents
//! weakly.
//!
//! # Locking
//! `ProcTable` (births, deaths, parents, groups, sessions) → `Process` (one list of children) → `Signals` (one process: dispositions,
//! queue, members, stop and end) → `LwpSignals` → `ProcessState` (single fields). Never two of one class. User memory is touched
//! under none of them.
//!
//! # Failure
//! Limits and memory: a fork or exec fails whole, the caller is as before. What a program does wrong becomes a signal to it; the
//! console gets one line for a crash or an out-of-memory kill, naming zone, pid and program.
//!
//! # Limits
//! [`table::PID_MAX`] ids; 1024 queued signals per queue; see `exec` and `files`. ITIMER_VIRTUAL and ITIMER_PROF are not there. The umask
//! and directories are per process (CLONE_FS without CLONE_THREAD copies).
//!
//! # Reading order
//! `process`, `table`, `task`, `post`, `frame`, `fork`, `exec`, `exit`, `wait`.
#![no_std]
extern crate alloc;

mod cred;
pub mod elf;
mod error;
pub mod exec;
mod exit;
mod files;
mod fork;
mod frame;
pub mod futex;
mod job;
pub mod locks;
mod post;
mod process;
pub mod signal;
pub mod signalfd;
pub mod table;
mod task;
pub mod timer;
pub mod timerfd;
mod wait;
mod zones;

pub use cred::{CredRef, Credentials};
pub use error::{ProcError, Result};
pub use exit::{ZoneEnd, ZoneEndHook, end_zone, kill_all, set_zone_end_hook};
pub use files::{FILES_MAX, FdTable};
pub use fork::{Clone, Spawn, clone, spawn_init};
pub use frame::{pop as return_from_signal, shown_stack};
pub use post::{Target, end, from_kernel, from_process, kill, kill_lwp, post, post_group};
pub use process::{Directories, Image, Limit, LimitSet, Lwp, Process, Status, Times, UNLIMITED};
pub use table::{current, list, lookup, lookup_lwp, set_group, set_session};
pub use task::{Outcome, Personality, Task, install_personality};
pub use wait::{Children, Event, Options as WaitOptions, wait};
pub use zones::{enter_zone, kill_zone};

/// Starts the process layer: registers with the terminals, starts the alarm thread. After the dispatcher, before the first
/// process.
///
/// # Errors
/// No memory.
pub fn install() -> Result<()> {
    job::register();
    timer::start()
}
