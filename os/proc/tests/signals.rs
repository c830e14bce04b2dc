//! The queue of pending signals against a model, and futexes between threads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use kif::Nanos;
use proc::signal::{Actions, KernelSigaction, Pending, SIG_IGN, SigDetail, SigInfo, SigSet};
use proc::{ProcError, futex};
use proptest::prelude::*;
use vm::FutexKey;

fn info(signal: u32, value: u64) -> SigInfo {
    SigInfo { signal, code: -1, errno: 0, detail: SigDetail::Sender { pid: 1, uid: 0, value } }
}

proptest! {
    /// Standard signals wait once, real-time ones as often as sent and in order; the lowest number comes first, but what an
    /// instruction caused comes before all.
    #[test]
    fn pending_signals_come_out_as_signal_7_says(sent in prop::collection::vec(1..=64_u32, 0..60), allowed in any::<u64>()) {
        let mut pending = Pending::new();
        let mut model: Vec<VecDeque<u64>> = vec![VecDeque::new(); 65];
        for (order, signal) in sent.iter().enumerate() {
            prop_assert!(pending.push(info(*signal, order as u64)));
            let queue = &mut model[*signal as usize];
            if *signal >= 32 || queue.is_empty() {
                queue.push_back(order as u64);
            }
        }
        let urgent = [4, 5, 7, 8, 11, 31];
        while let Some(taken) = pending.pop(SigSet(allowed)) {
            prop_assert!(SigSet(allowed).has(taken.signal));
            let next = urgent.into_iter().chain(1..=64).find(|signal| SigSet(allowed).has(*signal) && !model[*signal as usize].is_empty());
            prop_assert_eq!(Some(taken.signal), next);
            let order = model[taken.signal as usize].pop_front();
            prop_assert_eq!(taken.detail, SigDetail::Sender { pid: 1, uid: 0, value: order.expect("modelled") });
        }
        for signal in 1..=64 {
            prop_assert_eq!(pending.set().has(signal), !model[signal as usize].is_empty());
            if SigSet(allowed).has(signal) {
                prop_assert!(model[signal as usize].is_empty(), "signal {} left behind", signal);
            }
        }
    }
}

#[test]
fn exec_keeps_what_is_ignored_and_resets_what_is_caught() {
    let mut actions = Actions::default();
    actions.set(2, KernelSigaction { handler: SIG_IGN, ..KernelSigaction::default() });
    actions.set(15, KernelSigaction { handler: 0x40_1000, flags: 4, ..KernelSigaction::default() });
    assert!(actions.ignores(2) && actions.ignores(17) && !actions.ignores(15));
    actions.reset_caught();
    assert_eq!((actions.get(2).handler, *actions.get(15)), (SIG_IGN, KernelSigaction::default()));
}

#[test]
fn futex_waits_only_while_the_word_is_as_expected() {
    kif_host::start();
    let key = FutexKey::Private { space: 900, address: 0x1000 };
    kif::user().write(0x1000, &5_u32.to_le_bytes()).expect("flat memory");
    assert_eq!(futex::wait(key, 0x1000, 4, u32::MAX, None), Err(ProcError::TryAgain));
    let deadline = kif::clock().monotonic().plus(Nanos::from_millis(20));
    assert_eq!(futex::wait(key, 0x1000, 5, u32::MAX, Some(deadline)), Err(ProcError::TimedOut));
    assert_eq!(futex::wake_key(key, 10, u32::MAX), 0, "who timed out has left the queue");
    assert_eq!(futex::wait(key, 0xffff_8000_0000_0000, 0, u32::MAX, None), Err(ProcError::BadAddress));
    assert_eq!(futex::wake_key(key, 10, u32::MAX), 0, "so has who faulted");
}

#[test]
fn requeued_waiters_wake_through_the_second_futex() {
    kif_host::start();
    let from = FutexKey::Private { space: 901, address: 0x2000 };
    let to = FutexKey::Private { space: 901, address: 0x3000 };
    let woken = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let woken = Arc::clone(&woken);
            std::thread::spawn(move || {
                futex::wait(from, 0x2000, 0, u32::MAX, None).expect("woken");
                woken.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    let mut seen = (0, 0);
    while seen.0 + seen.1 < 4 {
        let (one, moved) = futex::requeue(from, to, 0x2000, Some(0), u32::from(seen.0 == 0), 10).expect("unchanged");
        seen = (seen.0 + one, seen.1 + moved);
        std::thread::yield_now();
    }
    assert_eq!(futex::wake_key(from, 10, u32::MAX), 0);
    assert_eq!(futex::wake_key(to, 10, u32::MAX), seen.1);
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert_eq!(woken.load(Ordering::SeqCst), 4);
}
