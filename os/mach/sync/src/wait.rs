//! Wait queues.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering, fence};

use kif::{Nanos, ThreadId};

use crate::dispatch::{self, Parked};
use crate::{Class, SpinLock};

/// How an interruptible wait ended without its condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// A signal is pending (EINTR or restart).
    Interrupted,
    /// The deadline passed.
    TimedOut,
}

/// Threads waiting for a condition that others make true and announce with [`WaitQueue::wake_all`].
///
/// The waiter registers *before* it tests the condition, so an announcement between test and park is not lost. An announcement to all
/// takes them off the queue: who waits on registers again, who is done finds the queue empty and has nothing to undo.
#[allow(missing_debug_implementations, reason = "printing would take the lock")]
pub struct WaitQueue {
    waiters: SpinLock<Vec<ThreadId>>,
    /// How many there are, so that waking nobody costs next to nothing.
    count: AtomicUsize,
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitQueue {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self { waiters: SpinLock::new(Class::WaitQueue, Vec::new()), count: AtomicUsize::new(0) }
    }

    /// Registers the calling thread until the next [`WaitQueue::wake_all`] (for `poll`, which waits on several queues: register on all, test,
    /// [`park`], unregister from all, and again).
    pub fn register(&self) {
        let mut waiters = self.waiters.lock();
        waiters.push(dispatch::current());
        // A full barrier: the caller tests its condition after this, the waker looks at the count after making it true.
        self.count.store(waiters.len(), Ordering::SeqCst);
    }

    /// Removes the calling thread's registrations.
    pub fn unregister(&self) {
        // The count is the list's length whenever its lock is free, and after this thread's own registration it saw at least that one.
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let me = dispatch::current();
        let mut waiters = self.waiters.lock();
        waiters.retain(|thread| *thread != me);
        self.count.store(waiters.len(), Ordering::SeqCst);
    }

    /// Waits until `condition` gives a value. Not interruptible: only for waits that our own code ends soon.
    pub fn wait<R>(&self, condition: impl FnMut() -> Option<R>) -> R {
        match self.wait_inner(None, false, condition) {
            Ok(value) => value,
            Err(woken) => unreachable!("uninterruptible wait without deadline ended with {woken:?}"),
        }
    }

    /// Waits until `condition` gives a value or `deadline` (monotonic) passes. Not interruptible: for waits on devices.
    ///
    /// # Errors
    /// [`Woken::TimedOut`]. The condition is tested once more before giving up.
    pub fn wait_until<R>(&self, deadline: Nanos, condition: impl FnMut() -> Option<R>) -> Result<R, Woken> {
        self.wait_inner(Some(deadline), false, condition)
    }

    /// Waits until `condition` gives a value, a signal is pending, or `deadline` (monotonic) passes.
    ///
    /// # Errors
    /// Why it ended without a value. The condition is tested once more before giving up.
    pub fn wait_interruptible<R>(&self, deadline: Option<Nanos>, condition: impl FnMut() -> Option<R>) -> Result<R, Woken> {
        self.wait_inner(deadline, true, condition)
    }

    fn wait_inner<R>(
        &self,
        deadline: Option<Nanos>,
        interruptible: bool,
        mut condition: impl FnMut() -> Option<R>,
    ) -> Result<R, Woken> {
        if let Some(value) = condition() {
            return Ok(value);
        }
        loop {
            self.register();
            if let Some(value) = condition() {
                self.unregister();
                return Ok(value);
            }
            let parked = park_inner(deadline, interruptible);
            self.unregister();
            if let Some(value) = condition() {
                return Ok(value);
            }
            parked?;
        }
    }

    /// True if nobody waits. The barrier pairs with the one in [`WaitQueue::register`]: either the waiter sees the condition that the caller has
    /// just made true, or the caller sees the waiter.
    fn is_empty(&self) -> bool {
        fence(Ordering::SeqCst);
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Wakes every waiter; each tests its condition again. Callable under spin locks of lower class and from interrupts.
    pub fn wake_all(&self) {
        if self.is_empty() {
            return;
        }
        let mut waiters = self.waiters.lock();
        for thread in waiters.iter() {
            dispatch::unpark(*thread);
        }
        waiters.clear();
        self.count.store(0, Ordering::Release);
    }

    /// Wakes the longest waiter only.
    pub fn wake_one(&self) {
        if self.is_empty() {
            return;
        }
        let waiters = self.waiters.lock();
        if let Some(thread) = waiters.first() {
            dispatch::unpark(*thread);
        }
    }
}

fn park_inner(deadline: Option<Nanos>, interruptible: bool) -> Result<(), Woken> {
    match dispatch::get().expect("blocking before the dispatcher exists").park(deadline, interruptible) {
        Parked::Woken => Ok(()),
        Parked::TimedOut => Err(Woken::TimedOut),
        Parked::Interrupted => Err(Woken::Interrupted),
    }
}

/// Blocks until a queue wakes the calling thread (or spuriously), a signal is pending, or `deadline` passes.
///
/// # Errors
/// Which of the latter two it was.
pub fn park(deadline: Option<Nanos>) -> Result<(), Woken> {
    park_inner(deadline, true)
}

/// Sleeps until `deadline` (monotonic).
///
/// # Errors
/// [`Woken::Interrupted`] if a signal came first.
pub fn sleep_until(deadline: Nanos) -> Result<(), Woken> {
    let queue = WaitQueue::new();
    match queue.wait_interruptible(Some(deadline), || None::<()>) {
        Err(Woken::TimedOut) | Ok(()) => Ok(()),
        Err(Woken::Interrupted) => Err(Woken::Interrupted),
    }
}
