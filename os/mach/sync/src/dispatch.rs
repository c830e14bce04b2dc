//! What locks need from below: who am I, lock bookkeeping, interrupts; and from the dispatcher: park, unpark.

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
}

/// The processor as the locks see it: on every lock's way, so the machine's is bound at link time (feature `metal`) and inlined; host
/// programs install theirs, and keep no books before.
#[cfg(not(feature = "metal"))]
pub trait Processor: Sync {
    /// The calling thread. Before threads exist: `ThreadId(0)`.
    fn current(&self) -> ThreadId;
    /// Notes that the calling thread takes a mutex of `class` and asserts the order.
    fn lock_taken(&self, class: u8, nests: bool);
    /// Notes the release.
    fn lock_released(&self, class: u8);
    /// The same for a spin lock, with interrupts and preemption off from here on; returns what [`Processor::leave_spin`] needs.
    fn enter_spin(&self, class: u8) -> u64;
    /// Notes the release; puts interrupts back, and may preempt at once if that became due.
    fn leave_spin(&self, class: u8, saved: u64);
}

static DISPATCH: OnceBox<&'static dyn Dispatch> = OnceBox::new();

/// The dispatcher. Blocking before there is one is a broken start-up order.
pub(crate) fn get() -> Option<&'static dyn Dispatch> {
    DISPATCH.get().copied()
}

#[cfg(not(feature = "metal"))]
mod processor {
    use super::{Box, CpuId, Dispatch, OnceBox, Processor, ThreadId};

    static PROCESSOR: OnceBox<&'static dyn Processor> = OnceBox::new();

    fn get() -> Option<&'static dyn Processor> {
        PROCESSOR.get().copied()
    }
    /// Installs the dispatcher and the processor (first ones win).
    pub fn install(dispatch: &'static dyn Dispatch, processor: &'static dyn Processor) {
        if super::DISPATCH.set(Box::new(dispatch)).is_ok() && PROCESSOR.set(Box::new(processor)).is_err() {}
    }
    pub fn current() -> ThreadId {
        get().map_or(ThreadId(0), Processor::current)
    }
    pub fn cpu() -> CpuId {
        CpuId(0)
    }
    pub(crate) fn lock_taken(class: u8, nests: bool) {
        if let Some(processor) = get() {
            processor.lock_taken(class, nests);
        }
    }
    pub(crate) fn lock_released(class: u8) {
        if let Some(processor) = get() {
            processor.lock_released(class);
        }
    }
    pub(crate) fn enter_spin(class: u8) -> u64 {
        get().map_or(0, |processor| processor.enter_spin(class))
    }
    pub(crate) fn leave_spin(class: u8, saved: u64) {
        if let Some(processor) = get() {
            processor.leave_spin(class, saved);
        }
    }
}

#[cfg(feature = "metal")]
mod processor {
    use super::{Box, CpuId, Dispatch, ThreadId};

    // SAFETY: `hal` defines these with the same signatures (os/mach/hal/src/locks.rs) and says there what each does.
    unsafe extern "Rust" {
        safe fn orrery_current() -> u64;
        safe fn orrery_cpu() -> u32;
        safe fn orrery_lock_taken(class: u8, nests: bool);
        safe fn orrery_lock_released(class: u8);
        safe fn orrery_enter_spin(class: u8) -> u64;
        safe fn orrery_leave_spin(class: u8, saved: u64);
    }

    /// Installs the dispatcher (first one wins).
    pub fn install(dispatch: &'static dyn Dispatch) {
        if super::DISPATCH.set(Box::new(dispatch)).is_err() {}
    }
    pub fn current() -> ThreadId {
        ThreadId(orrery_current())
    }
    pub fn cpu() -> CpuId {
        CpuId(orrery_cpu())
    }
    pub(crate) fn lock_taken(class: u8, nests: bool) {
        orrery_lock_taken(class, nests);
    }
    pub(crate) fn lock_released(class: u8) {
        orrery_lock_released(class);
    }
    pub(crate) fn enter_spin(class: u8) -> u64 {
        orrery_enter_spin(class)
    }
    pub(crate) fn leave_spin(class: u8, saved: u64) {
        orrery_leave_spin(class, saved);
    }
}

/// Installs what the locks need, once.
pub use processor::install;
pub(crate) use processor::{enter_spin, leave_spin, lock_released, lock_taken};

/// The calling thread (`ThreadId(0)` before threads exist).
pub fn current() -> ThreadId {
    processor::current()
}
/// The calling CPU (0 before the dispatcher exists). Stable only while preemption is off.
pub fn cpu() -> CpuId {
    processor::cpu()
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
