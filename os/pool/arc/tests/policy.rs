//! The cache against what it promises.

use pool_arc::{Cache, SECOND_CHANCE_NS, Want};
use proptest::prelude::*;

const LATER: u64 = SECOND_CHANCE_NS + 1;

/// A read of `key` at `now`: true if it was a hit.
fn read(cache: &mut Cache<u64, u64>, key: u64, now: u64) -> bool {
    if let Some(value) = cache.get(&key, Want::Demand, now) {
        assert_eq!(*value, key, "the value is the key's");
        return true;
    }
    cache.insert(key, key, 1, 0, Want::Demand, now);
    while cache.evict().is_some() {}
    cache.check();
    false
}

#[test]
fn one_long_read_does_not_push_out_what_is_used_again() {
    let mut cache = Cache::new(1, 100);
    let mut now = 0;
    for _ in 0..3 {
        for key in 0..40 {
            now += LATER;
            read(&mut cache, key, now);
        }
    }
    for key in 1000..2000 {
        now += LATER;
        read(&mut cache, key, now);
    }
    let kept = (0..40).filter(|key| read(&mut cache, *key, now)).count();
    assert!(kept >= 39, "{kept} of 40 are left");
}

#[test]
fn a_ghost_moves_the_target() {
    let mut cache = Cache::new(1, 10);
    let p = cache.stats().p;
    for key in 0..10 {
        read(&mut cache, key, 0);
    }
    // One used again, so that a list of each kind is there; then more than fits.
    read(&mut cache, 9, LATER);
    for key in 10..14 {
        read(&mut cache, key, LATER);
    }
    let ghost = (0..9).rev().find(|key| cache.get(key, Want::Prefetch, LATER).is_none()).expect("something was evicted");
    assert!(!read(&mut cache, ghost, LATER));
    let stats = cache.stats();
    assert_eq!(stats.mru_ghost_hits, 1);
    assert!(stats.p > p, "{} > {p}", stats.p);
}

#[test]
fn pieces_of_one_read_are_one_use() {
    let mut cache = Cache::new(1, 10);
    read(&mut cache, 1, 0);
    assert!(read(&mut cache, 1, 1000));
    assert_eq!(cache.stats().mfu_size, 0);
    assert!(read(&mut cache, 1, LATER));
    assert_eq!(cache.stats().mfu_size, 1);
}

#[test]
fn what_was_read_ahead_is_recent_at_its_first_use() {
    let mut cache = Cache::new(1, 10);
    cache.insert(1, 1, 1, 0, Want::Prefetch, 0);
    assert!(read(&mut cache, 1, LATER));
    assert_eq!((cache.stats().mru_size, cache.stats().mfu_size), (1, 0));
    assert!(read(&mut cache, 1, 3 * LATER));
    assert_eq!((cache.stats().mru_size, cache.stats().mfu_size), (0, 1));
}

#[test]
fn under_pressure_it_shrinks_to_its_least_and_grows_again() {
    let mut cache = Cache::new(20, 100);
    for key in 0..100 {
        read(&mut cache, key, 0);
    }
    assert!(cache.shrink(30));
    assert_eq!(cache.stats().c, 70);
    while cache.evict().is_some() {}
    assert_eq!(cache.size(), 70);
    while cache.shrink(30) {
        while cache.evict().is_some() {}
        cache.check();
    }
    assert_eq!((cache.stats().c, cache.size()), (20, 20));
    for key in 200..400 {
        read(&mut cache, key, 0);
    }
    assert_eq!((cache.stats().c, cache.size()), (100, 100));
}

#[test]
fn a_victim_in_use_comes_back() {
    let mut cache = Cache::new(1, 2);
    for key in 0..3 {
        cache.insert(key, key, 1, 7, Want::Demand, 0);
    }
    let victim = cache.evict().expect("three do not fit into two");
    assert_eq!((victim.key, victim.size, cache.owned(7)), (0, 1, 2));
    cache.refuse(victim);
    cache.check();
    assert_eq!((cache.size(), cache.owned(7), cache.stats().evict_skip), (3, 3, 1));
    assert_eq!(cache.evict().map(|victim| victim.key), Some(1), "another goes first now");
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, u32),
    Ahead(u64),
    Remove(u64),
    Resize(u64, u64),
    Shrink(u64),
    Refuse,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..60_u64, 0..3_u32).prop_map(|(key, owner)| Step::Read(key, owner)),
        2 => (0..60_u64).prop_map(Step::Ahead),
        1 => (0..60_u64).prop_map(Step::Remove),
        1 => (0..60_u64, 0..6_u64).prop_map(|(key, size)| Step::Resize(key, size)),
        1 => (0..20_u64).prop_map(Step::Shrink),
        1 => Just(Step::Refuse),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_never_contradicts_itself_nor_keeps_too_much(steps in proptest::collection::vec((step(), 0..100_000_000_u64), 1..200)) {
        let mut cache: Cache<u64, u64> = Cache::new(8, 64);
        let mut now = 0;
        for (step, pause) in steps {
            now += pause;
            match step {
                Step::Read(key, owner) => {
                    if cache.get(&key, Want::Demand, now).is_none() {
                        cache.insert(key, key, 1 + key % 5, owner, Want::Demand, now);
                    }
                }
                Step::Ahead(key) => {
                    if cache.get(&key, Want::Prefetch, now).is_none() {
                        cache.insert(key, key, 1 + key % 5, 0, Want::Prefetch, now);
                    }
                }
                Step::Remove(key) => drop(cache.remove(&key)),
                Step::Resize(key, size) => cache.resize(&key, size),
                Step::Shrink(bytes) => drop(cache.shrink(bytes)),
                Step::Refuse => {
                    if let Some(victim) = cache.evict() {
                        cache.refuse(victim);
                    }
                }
            }
            cache.check();
            while cache.evict().is_some() {}
            cache.check();
            let stats = cache.stats();
            prop_assert!(stats.size <= stats.c);
            prop_assert!(stats.mru_ghost_size + stats.mfu_ghost_size <= 2 * stats.c);
        }
    }
}

#[test]
fn an_owner_gives_up_its_own_oldest_first() {
    let mut cache: Cache<u32, u32> = Cache::new(0, 1000);
    for (key, owner) in [(1, 7), (2, 8), (3, 7), (4, 8)] {
        assert_eq!(cache.insert(key, key, 100, owner, Want::Demand, u64::from(key)), None);
    }
    let gone: Vec<u32> = std::iter::from_fn(|| cache.evict_owned(7).map(|victim| victim.key)).collect();
    assert_eq!((gone, cache.owned(7), cache.owned(8)), (vec![1, 3], 0, 200));
    assert!(cache.evict().is_none(), "the others are within the target");
    cache.check();
}
