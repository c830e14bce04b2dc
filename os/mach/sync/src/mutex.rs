//! Sleeping mutual exclusion.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::{Class, WaitQueue, dispatch};

/// A lock whose waiters sleep. May be held across blocking operations; never take one under a [`crate::SpinLock`] or in an
/// interrupt handler.
#[allow(missing_debug_implementations, reason = "printing would take the lock")]
pub struct Mutex<T> {
    class: Class,
    held: AtomicBool,
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
        Self { class, held: AtomicBool::new(false), queue: WaitQueue::new(), value: UnsafeCell::new(value) }
    }

    /// Takes the mutex, sleeping while another thread has it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if let Some(d) = dispatch::get() {
            d.lock_taken(self.class as u8, self.class.nests());
        }
        if !self.try_take() {
            self.queue.wait(|| self.try_take().then_some(()));
        }
        MutexGuard { lock: self }
    }

    fn try_take(&self) -> bool {
        self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
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
        self.lock.held.store(false, Ordering::Release);
        if let Some(d) = dispatch::get() {
            d.lock_released(self.lock.class as u8);
        }
        self.lock.queue.wake_one();
    }
}
