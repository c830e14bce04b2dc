//! Futexes (`futex(2)`).
//!
//! # Theory
//! A waiter enters the queue *before* it looks at the word, so a waker that changed the word afterwards finds it. User memory
//! is never touched under the lock.
//!
//! # Locking
//! One spin lock of class `Futex` around all queues; sections are as long as one queue.
//!
//! # Limits
//! No priority inheritance: those operations are refused.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use kif::Nanos;
use sync::{Class, SpinLock, WaitQueue};
use vm::FutexKey;

use crate::{ProcError, Result};

struct Waiter {
    bits: u32,
    /// The queue it is in: a requeue changes it. Under the lock of `QUEUES`.
    key: SpinLock<FutexKey>,
    woken: AtomicBool,
    queue: WaitQueue,
}

static QUEUES: SpinLock<BTreeMap<FutexKey, VecDeque<Arc<Waiter>>>> = SpinLock::new(Class::Futex, BTreeMap::new());

fn read_word(address: u64) -> Result<u32> {
    let mut word = [0; 4];
    kif::user().read(address, &mut word)?;
    Ok(u32::from_le_bytes(word))
}

/// Waits at `address` (identified by `key`) while the word there is `expected`.
///
/// # Errors
/// [`ProcError::TryAgain`] if it is not; [`ProcError::TimedOut`], [`ProcError::Interrupted`], [`ProcError::BadAddress`].
pub fn wait(key: FutexKey, address: u64, expected: u32, bits: u32, deadline: Option<Nanos>) -> Result<()> {
    let key_place = SpinLock::new(Class::FutexKey, key);
    let waiter = Arc::new(Waiter { bits, key: key_place, woken: AtomicBool::new(false), queue: WaitQueue::new() });
    QUEUES.lock().entry(key).or_default().push_back(Arc::clone(&waiter));
    let value = match read_word(address) {
        Ok(value) => value,
        Err(error) => {
            leave(&waiter);
            return Err(error);
        }
    };
    if value != expected {
        leave(&waiter);
        // A wake-up that chose this waiter meanwhile is not lost: it counts as one.
        return if waiter.woken.load(Ordering::Acquire) { Ok(()) } else { Err(ProcError::TryAgain) };
    }
    let outcome = waiter.queue.wait_interruptible(deadline, || waiter.woken.load(Ordering::Acquire).then_some(()));
    match outcome {
        Ok(()) => Ok(()),
        Err(woken) => {
            leave(&waiter);
            if waiter.woken.load(Ordering::Acquire) { Ok(()) } else { Err(woken.into()) }
        }
    }
}

/// Takes a waiter out, wherever a requeue has put it.
fn leave(waiter: &Arc<Waiter>) {
    let mut queues = QUEUES.lock();
    let key = *waiter.key.lock();
    let Some(queue) = queues.get_mut(&key) else { return };
    queue.retain(|other| !Arc::ptr_eq(other, waiter));
    if queue.is_empty() {
        queues.remove(&key);
    }
}

/// Wakes up to `count` waiters whose bits meet `bits`; returns how many.
pub fn wake_key(key: FutexKey, count: u32, bits: u32) -> u32 {
    let mut woken = Vec::new();
    {
        let mut queues = QUEUES.lock();
        let Some(queue) = queues.get_mut(&key) else { return 0 };
        let mut left = count;
        queue.retain(|waiter| {
            let chosen = left > 0 && waiter.bits & bits != 0;
            if chosen {
                left -= 1;
                waiter.woken.store(true, Ordering::Release);
                woken.push(Arc::clone(waiter));
            }
            !chosen
        });
        if queue.is_empty() {
            queues.remove(&key);
        }
    }
    for waiter in &woken {
        waiter.queue.wake_all();
    }
    u32::try_from(woken.len()).unwrap_or(u32::MAX)
}

/// Wakes up to `wake` waiters of `from` and moves up to `limit` others to `to`. With `expected`, only if the word at `address`
/// still has that value. Returns how many were woken, and how many were moved.
///
/// # Errors
/// [`ProcError::TryAgain`] if the word changed, [`ProcError::BadAddress`].
pub fn requeue(
    from: FutexKey,
    to: FutexKey,
    address: u64,
    expected: Option<u32>,
    wake: u32,
    limit: u32,
) -> Result<(u32, u32)> {
    if let Some(expected) = expected
        && read_word(address)? != expected
    {
        return Err(ProcError::TryAgain);
    }
    let woken = wake_key(from, wake, u32::MAX);
    if from == to {
        return Ok((woken, 0));
    }
    let mut queues = QUEUES.lock();
    let Some(mut source) = queues.remove(&from) else { return Ok((woken, 0)) };
    let count = source.len().min(limit as usize);
    let moved: Vec<_> = source.drain(..count).collect();
    if !source.is_empty() {
        queues.insert(from, source);
    }
    for waiter in &moved {
        *waiter.key.lock() = to;
    }
    if count > 0 {
        queues.entry(to).or_default().extend(moved);
    }
    Ok((woken, u32::try_from(count).unwrap_or(u32::MAX)))
}
