//! Signals: numbers, sets, queues, dispositions (`signal(7)`). The state machine without its threads; `post` and `deliver`
//! use it.

use alloc::collections::VecDeque;

use linux_abi::consts::signal::*;
pub use linux_abi::{KernelSigaction, SigDetail, SigInfo};

/// Highest signal number.
pub const SIGNALS: u32 = SIGRTMAX;
/// Most queued real-time signals of one process or LWP.
const QUEUE_LIMIT: usize = 1024;

/// A set of signals: bit n-1 is signal n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SigSet(pub u64);

impl SigSet {
    pub const EMPTY: Self = Self(0);
    /// Signals that nobody can block, catch or ignore.
    pub const UNBLOCKABLE: Self = Self::of(SIGKILL).with(SIGSTOP);
    /// Stop signals.
    pub const STOPS: Self = Self::of(SIGSTOP).with(SIGTSTP).with(SIGTTIN).with(SIGTTOU);
    /// Signals that an instruction causes: delivered before others.
    const SYNCHRONOUS: Self = Self::of(SIGSEGV).with(SIGBUS).with(SIGILL).with(SIGTRAP).with(SIGFPE).with(SIGSYS);

    /// The set of one signal (1..=64).
    #[must_use]
    pub const fn of(signal: u32) -> Self {
        Self(1 << (signal - 1))
    }
    #[must_use]
    pub const fn with(self, signal: u32) -> Self {
        Self(self.0 | Self::of(signal).0)
    }
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    #[must_use]
    pub const fn has(self, signal: u32) -> bool {
        self.0 & Self::of(signal).0 != 0
    }
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// The signal to take next: synchronous ones first, then the lowest.
    #[must_use]
    pub const fn first(self) -> Option<u32> {
        let urgent = self.0 & Self::SYNCHRONOUS.0;
        let from = if urgent != 0 { urgent } else { self.0 };
        if from == 0 { None } else { Some(from.trailing_zeros() + 1) }
    }
}

/// What a signal does when its disposition is the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    Ignore,
    Terminate,
    /// Terminate, and say so on the console if it was a crash.
    Core,
    Stop,
    Continue,
}

/// The default action of `signal`.
#[must_use]
pub const fn default_action(signal: u32) -> Default {
    match signal {
        SIGCHLD | SIGURG | SIGWINCH => Default::Ignore,
        SIGCONT => Default::Continue,
        SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU => Default::Stop,
        SIGQUIT | SIGILL | SIGTRAP | SIGABRT | SIGBUS | SIGFPE | SIGSEGV | SIGXCPU | SIGXFSZ | SIGSYS => Default::Core,
        _ => Default::Terminate,
    }
}

/// The name of a signal, for messages.
#[must_use]
pub const fn name(signal: u32) -> &'static str {
    match signal {
        SIGHUP => "SIGHUP",
        SIGINT => "SIGINT",
        SIGQUIT => "SIGQUIT",
        SIGILL => "SIGILL",
        SIGTRAP => "SIGTRAP",
        SIGABRT => "SIGABRT",
        SIGBUS => "SIGBUS",
        SIGFPE => "SIGFPE",
        SIGKILL => "SIGKILL",
        SIGSEGV => "SIGSEGV",
        SIGSYS => "SIGSYS",
        SIGXCPU => "SIGXCPU",
        SIGXFSZ => "SIGXFSZ",
        _ => "signal",
    }
}

/// Handler values that are not addresses.
pub const SIG_DFL: u64 = 0;
pub const SIG_IGN: u64 = 1;

/// Signals waiting for one process or one LWP.
#[derive(Debug, Default)]
pub struct Pending {
    set: SigSet,
    queue: VecDeque<SigInfo>,
}

impl Pending {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { set: SigSet::EMPTY, queue: VecDeque::new() }
    }
    /// Which signals wait.
    #[must_use]
    pub const fn set(&self) -> SigSet {
        self.set
    }
    /// Adds one. A standard signal that waits already is not queued again. False if a real-time signal found the queue
    /// full (it is then only marked, without its information).
    pub fn push(&mut self, info: SigInfo) -> bool {
        let known = self.set.has(info.signal);
        if info.signal < SIGRTMIN && known {
            return true;
        }
        self.set = self.set.with(info.signal);
        if self.queue.len() >= QUEUE_LIMIT {
            return info.signal < SIGRTMIN;
        }
        self.queue.push_back(info);
        true
    }
    /// Takes the next signal of `allowed`.
    pub fn pop(&mut self, allowed: SigSet) -> Option<SigInfo> {
        let signal = SigSet(self.set.0 & allowed.0).first()?;
        let at = self.queue.iter().position(|info| info.signal == signal);
        let info = at.and_then(|at| self.queue.remove(at));
        if !self.queue.iter().any(|info| info.signal == signal) {
            self.set = self.set.without(SigSet::of(signal));
        }
        Some(info.unwrap_or(SigInfo { signal, code: SI_USER, errno: 0, detail: SigDetail::Sender { pid: 0, uid: 0, value: 0 } }))
    }
    /// Forgets all signals of `set`.
    pub fn discard(&mut self, set: SigSet) {
        if self.set.0 & set.0 != 0 {
            self.set = self.set.without(set);
            self.queue.retain(|info| !set.has(info.signal));
        }
    }
}

/// Dispositions of all signals.
#[derive(Clone, Debug)]
pub struct Actions([KernelSigaction; SIGNALS as usize]);

impl core::default::Default for Actions {
    fn default() -> Self {
        Self([KernelSigaction { handler: SIG_DFL, flags: 0, restorer: 0, mask: 0 }; SIGNALS as usize])
    }
}

impl Actions {
    /// The disposition of `signal` (1..=64).
    #[must_use]
    pub const fn get(&self, signal: u32) -> &KernelSigaction {
        &self.0[signal as usize - 1]
    }
    /// Changes one.
    pub const fn set(&mut self, signal: u32, action: KernelSigaction) {
        self.0[signal as usize - 1] = action;
    }
    /// True if `signal` would have no effect if it were delivered.
    #[must_use]
    pub const fn ignores(&self, signal: u32) -> bool {
        match self.get(signal).handler {
            SIG_IGN => true,
            SIG_DFL => matches!(default_action(signal), Default::Ignore),
            _ => false,
        }
    }
    /// Exec: caught signals go back to the default; ignored ones stay ignored.
    pub fn reset_caught(&mut self) {
        for action in &mut self.0 {
            let handler = if action.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
            *action = KernelSigaction { handler, flags: 0, restorer: 0, mask: 0 };
        }
    }
    /// Signals with a handler, and ignored signals (for `/proc/PID/status`).
    #[must_use]
    pub fn summary(&self) -> (SigSet, SigSet) {
        let mut ignored = SigSet::EMPTY;
        let mut caught = SigSet::EMPTY;
        for signal in 1..=SIGNALS {
            match self.get(signal).handler {
                SIG_DFL => {}
                SIG_IGN => ignored = ignored.with(signal),
                _ => caught = caught.with(signal),
            }
        }
        (ignored, caught)
    }
}
