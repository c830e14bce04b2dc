//! Sleeping mutual exclusion.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU8, Ordering};

use crate::{Class, WaitQueue, dispatch};

const FREE: u8 = 0;
const HELD: u8 = 1;
const CONTENDED: u8 = 2;

/// A lock whose waiters sleep. May be held across blocking operations; never take one under a [`crate::SpinLock`] or in an
/// interrupt handler.
#[allow(missing_debug_implementations, reason = "printing would take the lock")]
pub struct Mutex<T> {
    class: Class,
    /// [`FREE`], [`HELD`], or [`CONTENDED`]: held, and somebody may be waiting.
    state: AtomicU8,
    queue: WaitQueue,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, and at most one guard exists (`held`).
unsafe impl<T: Send> Sync for Mutex<T> {}
// SAFETY: owning the lock is owning the value.
unsafe impl<T: Send> Send for Mutex<T> {}

impl<T> Mutex<T> {
    /// A free mutex of `class` around `value`.
    pub const fn new(class: Class, value: T) -> Self {
        assert!((class as u8) < Class::FIRST_SPIN, "a mutex of a class of spin locks");
        Self { class, state: AtomicU8::new(FREE), queue: WaitQueue::new(), value: UnsafeCell::new(value) }
    }

    /// Takes the mutex, sleeping while another thread has it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        dispatch::lock_taken(self.class as u8, self.class.nests());
        if self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.wait();
        }
        MutexGuard { lock: self }
    }

    /// Waits for the holder. Who has waited leaves the mark even when it gets the lock: others may still be waiting.
    #[cold]
    #[inline(never)]
    fn wait(&self) {
        self.queue.wait(|| (self.state.swap(CONTENDED, Ordering::Acquire) == FREE).then_some(()));
    }

    /// The value, from an exclusive reference.
    pub const fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Unwraps the value.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

/// Holds a [`Mutex`].
#[allow(missing_debug_implementations, reason = "a guard")]
pub struct MutexGuard<'a, T> {
    lock: &'a Mutex<T>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this guard holds the lock, so no `&mut` exists elsewhere.
        unsafe { &*self.lock.value.get() }
    }
}
impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard holds the lock and is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}
impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        let is_awaited = self.lock.state.swap(FREE, Ordering::Release) == CONTENDED;
        dispatch::lock_released(self.lock.class as u8);
        if is_awaited {
            self.lock.queue.wake_one();
        }
    }
}
