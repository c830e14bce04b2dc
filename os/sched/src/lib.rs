//! The dispatcher: which thread runs where, and for how long.
//!
//! # Theory
//! **Contract** (that of illumos' fair-share class, FSS(4)): a zone's CPU time is proportional to its shares among the
//! zones that want CPU; what one zone leaves goes to the others at once; a zone that sleeps saves nothing up; how many
//! processes a zone has does not matter to its neighbours; a zone with no shares runs only where a CPU would idle.
//!
//! illumos reaches this by feedback: usage decays once a second, priorities follow usage divided by the *square* of the share
//! ratio, and the proportion settles after some seconds. We use **start-time fair queueing** (Goyal, Guo, Vin 1996)
//! instead, in two levels, which holds the proportion within one slice at every moment and has no tuning constants:
//!
//! - Each zone (here: [`account::Account`]) has a *virtual time*: CPU time it used, divided by its shares. The zone with the least
//!   virtual time runs next. Over any span in which two zones both want CPU, the CPU times they got divided by their
//!   shares differ by at most one slice for each of them.
//! - The system's virtual time `V` is that of the zone picked last. A zone that wakes continues from its own
//!   virtual time or from `V`, whichever is later: no credit for sleeping, and no debt beyond what it used.
//! - Inside a zone the same rule holds between threads, weighted by nice. A new thread starts one slice late, so that a zone
//!   whose processes fork without end hurts itself first and the others not at all.
//! - A thread that slept wakes at the front of its zone (a sleeper may keep one slice of credit against its own zone's
//!   threads, never against other zones), and preempts when the one on the CPU is ahead by more than [`GRANULARITY`]:
//!   interactive programs are early without any guess about who is interactive.
//!
//! Time is charged to the nanosecond at each switch, never by sampling: a program cannot hide between ticks. There are no
//! ticks: every decision carries the deadline of the next one, and a CPU with one thread to run sets no timer.
//!
//! **Priority inversion.** Under fair shares a thread of a zone with few shares (or none) could be preempted
//! inside the kernel while it holds a mutex that everybody needs. So a thread that holds a kernel lock when it is preempted or
//! woken is *boosted* into the system range until it gives the lock back (`boost` of [`Dispatcher::pick`]); its time is charged to its
//! zone all the same.
//!
//! **Caps.** `zone.cpu-cap` is a token bucket: time is paid from tokens that come at `cap` percent of one CPU; a zone that
//! has none is taken out of the queues until a quantum's worth has come. The average is exact; a boosted thread is exempt
//! (no kernel lock is held by a zone that waits for tokens) and its debt is paid afterwards.
//!
//! # Structures
//! Classes, best first: real time and system share one range of fixed priorities ([`Class`]); fair-share and time-sharing threads
//! sit below it; zones without shares below those. TS threads compete as one account of [`TIME_SHARE_SHARES`] shares, so
//! that the two classes mix without starving each other.
//!
//! ```text
//! Cpu ── lone: the thread that waits, if only one does; else
//!     ── fixed: heap of threads by (priority, arrival)
//!     ── levels[shares]: heap of queues by the account's virtual time ── Queue(account, cpu): heap of threads by virtual time
//!     ── levels[idle]:   the same, accounts without shares
//! ```
//!
//! Virtual times are machine-wide, so shares hold across CPUs; the queues are per CPU for affinity. A CPU takes work from another
//! queue when it has none, or when the other's next thread is behind its own by more than [`PULL`].
//! Heaps are leftist heaps threaded through the thread and queue tables (module `heap`): O(log n), and nothing is allocated after
//! [`Dispatcher::add`] and [`Dispatcher::zone_add`].
//!
//! # Locking
//! None: `&mut`. The kernel holds one dispatcher in one spin lock (`Class::Sched`). With many CPUs that lock will be the first
//! thing to split: the fixed and level heaps are already per CPU.
//!
//! # Failure
//! [`Dispatcher::add`] and [`Dispatcher::zone_add`] may be out of memory. Everything else cannot fail; broken callers (blocking an idle
//! CPU, removing a queued thread) are asserted.
//!
//! # Limits
//! 32 CPUs. No CPU affinity masks. Virtual times are 64 bits wide; before the first is full all are moved back by what is common to them, so that comparing
//! them stays one instruction (`Dispatcher::shift`). A span of more than four hours without a decision counts as four hours: nobody waited meanwhile. Time on a CPU is charged when that CPU calls in: a reader sees other CPUs' use up to their last
//! decision. Two hostile zones can each cost the other one context switch per wake-up, at most one per [`GRANULARITY`] of
//! the other's CPU time.
//!
//! # Watching
//! [`Dispatcher::zone_usage`], [`Dispatcher::cpu_usage`], [`Dispatcher::thread_usage`] feed `zones:*`, `cpu:N:sys`
//! and /proc.
//!
//! # Reading order
//! This file, `dispatcher.rs` (the calls), `account.rs` (shares, caps, load), `heap.rs`.
#![no_std]
extern crate alloc;

mod account;
mod dispatcher;
mod heap;
mod load;

use kif::{CpuId, Nanos, ThreadId, ZoneId};

pub use dispatcher::Dispatcher;

/// CPU time a thread gets before others of its level have a turn. Bounds how far zones can be from their shares (one slice each),
/// so it is short; a switch costs about a thousandth of it.
pub const SLICE: Nanos = Nanos(2_000_000);
/// How far ahead (in its own CPU time) a running thread must be of a woken one to be preempted before its slice ends.
pub const GRANULARITY: Nanos = Nanos(500_000);
/// How far behind another CPU's next thread must be before this CPU takes it although it has work of its own.
pub const PULL: Nanos = Nanos(2 * SLICE.0);
/// How far a zone may fall behind the system's virtual time: beyond what [`PULL`] lets happen while it wants all it is
/// entitled to, so it cuts only the back pay of zones with fewer threads than CPUs.
pub const LAG_MAX: Nanos = Nanos(16 * SLICE.0);
/// Shares of all time-sharing threads together.
pub const TIME_SHARE_SHARES: u32 = 100;
/// Most CPUs.
pub const CPUS_MAX: u32 = 32;

/// Scheduling class of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Above everything, by priority 0..=59 (59 best), round robin within one. For the operator only: it can take a
    /// CPU from every tenant.
    RealTime(u8),
    /// Kernel threads, by priority 0..=39 (39 best), until they block.
    System(u8),
    /// Outside zone shares: all such threads together have [`TIME_SHARE_SHARES`].
    TimeShare,
    /// Within the shares of its zone. Every process's class unless set otherwise.
    FairShare,
}

/// Handle of a thread known to the dispatcher.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(u32);

/// What the caller must do after a thread became runnable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Wake {
    /// Nothing: it waits for its turn, and the timer is set for it.
    Nothing,
    /// Set the CPU's timer to this time (it ran without one, or with a later one).
    Timer { cpu: CpuId, at: Nanos },
    /// Make this CPU call [`Dispatcher::pick`] soon.
    Preempt { cpu: CpuId },
}

/// What a CPU should do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Decision {
    /// The thread to run; `None`: idle.
    pub next: Option<(Slot, ThreadId)>,
    /// Call [`Dispatcher::pick`] again at this time at the latest; `None`: no timer needed.
    pub deadline: Option<Nanos>,
    /// Make this CPU pick too: work waits here, and it has no timer that would let it look. (Never with one CPU.)
    pub also: Option<CpuId>,
}

/// Why a call was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SchedError {
    /// No memory for the tables.
    OutOfMemory,
    /// No zone of this id was added.
    NoSuchZone,
    /// The zone is there already.
    ZoneExists,
}

/// CPU use of a zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ZoneUsage {
    pub user: Nanos,
    pub system: Nanos,
    /// Time its runnable threads waited for a CPU.
    pub wait: Nanos,
    /// Load averages over 1, 5 and 15 minutes, scaled by 256. Those of the global zone are the machine's.
    pub load: [u32; 3],
    /// Threads running or waiting to.
    pub runnable: u32,
    /// Threads in all.
    pub threads: u32,
}

/// CPU use of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ThreadUsage {
    pub user: Nanos,
    pub system: Nanos,
    pub wait: Nanos,
    /// Switches by blocking and by preemption.
    pub voluntary: u64,
    pub involuntary: u64,
}

/// How a CPU spent its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuUsage {
    pub user: Nanos,
    pub system: Nanos,
    pub idle: Nanos,
    /// Switches to another thread.
    pub switches: u64,
    /// Of these, from a thread that could have gone on.
    pub involuntary: u64,
}

/// The zone whose load average is the machine's.
const GLOBAL: ZoneId = ZoneId::GLOBAL;
