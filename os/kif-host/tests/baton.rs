//! Runs in turns: they repeat, they find what only some orders do, and they say who waits for whom.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use kif::{Nanos, ZoneId};
use kif_host::baton;
use sync::{Class, Mutex, WaitQueue};

/// Two tasks that add to a number, and look at it and write it back under two locks: a bug. What was counted, and the receipt.
fn count(seed: u64) -> (u64, u64) {
    let number = Arc::new(Mutex::new(Class::File, 0_u64));
    let last = Arc::clone(&number);
    let outcome = baton::run(seed, move || {
        for name in ["one", "two"] {
            let number = Arc::clone(&number);
            baton::spawn(name, ZoneId::GLOBAL, move || {
                for _ in 0..10 {
                    let seen = *number.lock();
                    *number.lock() = seen + 1;
                }
            });
        }
    });
    let outcome = outcome.expect("nobody waits");
    let counted = *last.lock();
    (counted, outcome.receipt)
}

#[test]
fn a_seed_repeats_and_some_seeds_find_the_lost_update() {
    let all: Vec<(u64, u64)> = (0..50).map(count).collect();
    assert_eq!(all, (0..50).map(count).collect::<Vec<_>>());
    assert!(all.iter().any(|(counted, _)| *counted < 20), "an update is lost");
    assert!(all.iter().map(|(_, receipt)| receipt).collect::<BTreeSet<_>>().len() > 40, "seeds differ");
}

#[test]
fn who_waits_for_whom_is_told() {
    let failure = baton::run(1, || {
        let flags: Arc<[AtomicBool; 2]> = Arc::default();
        let queue = Arc::new(WaitQueue::new());
        let lock = Arc::new(Mutex::new(Class::Vnode, ()));
        for (name, mine, other) in [("left", 0, 1), ("right", 1, 0)] {
            let (flags, queue, lock) = (Arc::clone(&flags), Arc::clone(&queue), Arc::clone(&lock));
            baton::spawn(name, ZoneId::GLOBAL, move || {
                let _held = (mine == 0).then(|| lock.lock());
                queue.wait(|| flags[other].load(Relaxed).then_some(()));
                flags[mine].store(true, Relaxed);
            });
        }
    });
    let text = failure.expect_err("a deadlock").to_string();
    assert!(text.contains("a deadlock: nobody can go on"), "{text}");
    assert!(text.contains("left") && text.contains("right") && text.contains("holds [Vnode]") && text.contains("wait"), "{text}");
}

#[test]
fn a_task_that_is_forgotten_is_found_though_timers_go_on() {
    let failure = baton::run(2, || {
        baton::spawn("forgotten", ZoneId::GLOBAL, || WaitQueue::new().wait(|| None));
        let tick = || loop {
            let _timed_out = WaitQueue::new().wait_until(kif::clock().monotonic().plus(Nanos(5_000_000_000)), || None::<()>);
        };
        kif::spawn().spawn("ticks", ZoneId::GLOBAL, Box::new(tick)).expect("starts");
    });
    assert!(failure.expect_err("it is never woken").to_string().contains("forgotten is never woken"));
}

#[test]
fn time_is_the_runs_own_and_a_panic_is_a_failure() {
    let seen = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&seen);
    let outcome = baton::run(3, move || {
        let _timed_out = WaitQueue::new().wait_until(Nanos(3_600_000_000_000), || None::<()>);
        told.store(kif::clock().monotonic().0, Relaxed);
    });
    assert!(outcome.expect("it ends").elapsed.0 >= 3_600_000_000_000);
    assert!(seen.load(Relaxed) >= 3_600_000_000_000, "an hour took no time");
    let failure = baton::run(4, || baton::spawn("bad", ZoneId::GLOBAL, || panic!("on purpose")));
    assert!(failure.expect_err("a panic").to_string().contains("bad: on purpose"));
}
