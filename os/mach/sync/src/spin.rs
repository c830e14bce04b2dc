//! Spin locks.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::{Class, dispatch};

/// Mutual exclusion by spinning, with interrupts and preemption off while held. For short sections that interrupt handlers
/// share; nothing under it may block, allocate without bound, or call back.
#[allow(missing_debug_implementations, reason = "printing would take the lock")]
pub struct SpinLock<T> {
    class: Class,
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, and at most one guard exists (`held`).
unsafe impl<T: Send> Sync for SpinLock<T> {}
// SAFETY: owning the lock is owning the value.
unsafe impl<T: Send> Send for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// A free lock of `class` around `value`.
    pub const fn new(class: Class, value: T) -> Self {
        assert!(class as u8 >= Class::FIRST_SPIN && !class.nests(), "a spin lock of a class of mutexes");
        Self { class, held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Takes the lock.
    pub fn lock(&self) -> SpinGuard<'_, T> {
        let saved = dispatch::enter_spin(self.class as u8);
        while self.held.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            core::hint::spin_loop();
        }
        SpinGuard { lock: self, saved }
    }

    /// The value, from an exclusive reference: no locking needed.
    pub const fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Breaks the lock open. Only for the panic path, where no other code will run again.
    ///
    /// # Safety
    /// Nothing may use the value through a guard any more.
    pub unsafe fn force_unlock(&self) {
        self.held.store(false, Ordering::Release);
    }
}

/// Holds a [`SpinLock`]; dropping it releases and restores interrupts.
#[allow(missing_debug_implementations, reason = "a guard")]
pub struct SpinGuard<'a, T> {
    lock: &'a SpinLock<T>,
    saved: u64,
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this guard holds the lock, so no `&mut` exists elsewhere.
        unsafe { &*self.lock.value.get() }
    }
}
impl<T> DerefMut for SpinGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard holds the lock and is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}
impl<T> Drop for SpinGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.held.store(false, Ordering::Release);
        dispatch::leave_spin(self.lock.class as u8, self.saved);
    }
}
