//! Readiness: what poll, select and epoll ask of an object.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bitflags::bitflags;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kif::Nanos;
use sync::{Class, SpinLock, WaitQueue, Woken};

use crate::{File, Result, VfsError};

bitflags! {
    /// What an object is ready for. The values are those of `poll(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Ready: u32 {
        /// A read gives data or end of file at once.
        const IN = 0x001;
        /// Urgent data, or a packet-mode event.
        const PRI = 0x002;
        /// A write takes at least one byte at once.
        const OUT = 0x004;
        /// An error is pending, or the reading end is gone.
        const ERR = 0x008;
        /// The other end is gone.
        const HUP = 0x010;
        /// The descriptor is not open (set by the poll call itself).
        const NVAL = 0x020;
        /// Normal data (same as `IN` here).
        const RDNORM = 0x040;
        /// Normal output (same as `OUT` here).
        const WRNORM = 0x100;
        /// The peer shut down its writing half.
        const RDHUP = 0x2000;
    }
}

/// The waiting side of an object: threads blocked in it or polling it, and a count of its events.
///
/// The count is what edge-triggered epoll compares: an object that is ready *and* has had an event since the last report is
/// reported again.
#[allow(missing_debug_implementations, reason = "wait queues do not print")]
pub struct Pollee {
    queue: WaitQueue,
    events: AtomicU64,
    /// Epoll objects that watch this one; `is_heard` says whether there are any.
    listeners: SpinLock<Vec<Weak<Pollee>>>,
    is_heard: AtomicBool,
}

impl Default for Pollee {
    fn default() -> Self {
        Self::new()
    }
}

impl Pollee {
    /// A quiet one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue: WaitQueue::new(),
            events: AtomicU64::new(0),
            listeners: SpinLock::new(Class::Listeners, Vec::new()),
            is_heard: AtomicBool::new(false),
        }
    }
    /// Announces that readiness may have changed: wakes all blocked and polling threads. Callable from interrupts.
    pub fn notify(&self) {
        self.events.fetch_add(1, Ordering::SeqCst);
        self.queue.wake_all();
        if self.is_heard.load(Ordering::Acquire) {
            for listener in self.listeners.lock().iter().filter_map(Weak::upgrade) {
                listener.events.fetch_add(1, Ordering::Release);
                listener.queue.wake_all();
            }
        }
    }
    /// Passes announcements on to `listener`, once however often it is added.
    pub(crate) fn add_listener(&self, listener: &Arc<Self>) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|other| other.strong_count() != 0 && !core::ptr::eq(other.as_ptr(), Arc::as_ptr(listener)));
        listeners.push(Arc::downgrade(listener));
        self.is_heard.store(true, Ordering::Release);
    }
    /// Ends [`Pollee::add_listener`].
    pub(crate) fn remove_listener(&self, listener: &Arc<Self>) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|other| other.strong_count() != 0 && !core::ptr::eq(other.as_ptr(), Arc::as_ptr(listener)));
        self.is_heard.store(!listeners.is_empty(), Ordering::Release);
    }
    /// How many announcements there have been.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Acquire)
    }
    /// The queue to register on for a wait on several objects.
    pub const fn queue(&self) -> &WaitQueue {
        &self.queue
    }
    /// Blocks until `attempt` gives something other than [`VfsError::WouldBlock`]; does not block if `nonblock`.
    ///
    /// # Errors
    /// Those of `attempt`; [`VfsError::Interrupted`] if a signal came first.
    pub fn block<R>(&self, nonblock: bool, mut attempt: impl FnMut() -> Result<R>) -> Result<R> {
        loop {
            let seen = self.events.load(Ordering::SeqCst);
            match attempt() {
                Err(VfsError::WouldBlock) if !nonblock => {}
                done => return done,
            }
            self.queue.register();
            // Whoever changes the object counts an event, then looks for waiters: if there was none since before the attempt, one that comes
            // now finds us registered. So there is no need to try again before going to sleep.
            let parked = if self.events.load(Ordering::SeqCst) == seen { sync::park(None) } else { Ok(()) };
            self.queue.unregister();
            if parked.is_err() {
                return match attempt() {
                    Err(VfsError::WouldBlock) => Err(VfsError::Interrupted),
                    done => done,
                };
            }
        }
    }
}

/// Waits until one of `files` makes `test` give a value. `test` is called after each wake-up and looks at all of them.
/// This is the base of poll, select and epoll_wait.
///
/// # Errors
/// A signal came, or `deadline` (monotonic) passed.
pub fn wait_any<'a, R>(
    files: impl Iterator<Item = &'a File> + Clone,
    deadline: Option<Nanos>,
    mut test: impl FnMut() -> Option<R>,
) -> core::result::Result<R, Woken> {
    if let Some(value) = test() {
        return Ok(value);
    }
    loop {
        for file in files.clone() {
            file.register();
        }
        let tested = test();
        let parked = if tested.is_none() { sync::park(deadline) } else { Ok(()) };
        for file in files.clone() {
            file.unregister();
        }
        if let Some(value) = tested.or_else(&mut test) {
            return Ok(value);
        }
        parked?;
    }
}
