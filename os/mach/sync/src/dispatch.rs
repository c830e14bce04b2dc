//! What locks need from the dispatcher: who am I, park, unpark, interrupts.

use alloc::boxed::Box;
use kif::{CpuId, Nanos, ThreadId};
use once_cell::race::OnceBox;

/// How a park ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parked {
    /// A token was there or came (or spuriously).
    Woken,
    /// The deadline passed.
    TimedOut,
    /// [`interrupt`] was called (a signal); only for interruptible parks.
    Interrupted,
}

/// The dispatcher as the locks see it.
pub trait Dispatch: Sync {
    /// The calling thread. Before threads exist: `ThreadId(0)`.
    fn current(&self) -> ThreadId;
    /// The calling CPU. Stable only while preemption is off.
    fn cpu(&self) -> CpuId;
    /// Blocks until a token, the deadline, or (if `interruptible`) an interrupt is there. Consumes the token. An interrupt stays
    /// pending until [`Dispatch::clear_interrupt`].
    fn park(&self, deadline: Option<Nanos>, interruptible: bool) -> Parked;
    /// Gives `thread` a token and makes it runnable. Unknown ids (already gone) are ignored. Callable from interrupts and
    /// under spin locks.
    fn unpark(&self, thread: ThreadId);
    /// Marks an interrupt pending for `thread` and wakes it if it is parked interruptibly.
    fn interrupt(&self, thread: ThreadId);
    /// Clears the calling thread's pending interrupt.
    fn clear_interrupt(&self);
    /// Disables interrupts and preemption on this CPU; returns what [`Dispatch::irq_restore`] needs.
    fn irq_save(&self) -> u64;
    /// Restores; may preempt at once if that became due.
    fn irq_restore(&self, saved: u64);
    /// Notes that the current context takes a lock of `class` and asserts the order; no-op where not tracked.
    fn lock_taken(&self, class: u8, nests: bool);
    /// Notes the release.
    fn lock_released(&self, class: u8);
    /// Both at once for a spin lock: interrupts off, lock noted.
    fn enter_spin(&self, class: u8, nests: bool) -> u64 {
        let saved = self.irq_save();
        self.lock_taken(class, nests);
        saved
    }
    /// The reverse.
    fn leave_spin(&self, class: u8, saved: u64) {
        self.lock_released(class);
        self.irq_restore(saved);
    }
}

static DISPATCH: OnceBox<&'static dyn Dispatch> = OnceBox::new();

/// Installs the dispatcher (first one wins).
pub fn install(dispatch: &'static dyn Dispatch) {
    if DISPATCH.set(Box::new(dispatch)).is_err() {}
}

pub(crate) fn get() -> Option<&'static dyn Dispatch> {
    DISPATCH.get().copied()
}

/// The calling thread (`ThreadId(0)` before threads exist).
pub fn current() -> ThreadId {
    get().map_or(ThreadId(0), Dispatch::current)
}
/// The calling CPU (0 before the dispatcher exists).
pub fn cpu() -> CpuId {
    get().map_or(CpuId(0), Dispatch::cpu)
}
/// See [`Dispatch::unpark`].
pub fn unpark(thread: ThreadId) {
    if let Some(d) = get() {
        d.unpark(thread);
    }
}
/// See [`Dispatch::interrupt`].
pub fn interrupt(thread: ThreadId) {
    if let Some(d) = get() {
        d.interrupt(thread);
    }
}
/// See [`Dispatch::clear_interrupt`].
pub fn clear_interrupt() {
    if let Some(d) = get() {
        d.clear_interrupt();
    }
}
