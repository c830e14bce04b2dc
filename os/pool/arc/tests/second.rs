//! The table of cache devices against what it promises.

use pool_arc::second::{HEADER_BYTES, Second, TURN_BYTES};
use pool_arc::{Cache, SECOND_CHANCE_NS, Want};
use proptest::prelude::*;

const BLOCK: u32 = 128 << 10;

fn put(second: &mut Second<u64>, key: u64, size: u32) -> bool {
    let Some(spot) = second.claim(size) else { return false };
    second.keep(key, spot);
    second.check();
    true
}

#[test]
fn a_full_device_forgets_what_was_written_first() {
    let mut second = Second::new(1000);
    second.add(1, u64::from(BLOCK) * 4);
    (0..4).for_each(|key| assert!(put(&mut second, key, BLOCK)));
    assert_eq!((second.size(), second.taken(1)), ((4, u64::from(BLOCK) * 4), Some((u64::from(BLOCK) * 4, u64::from(BLOCK) * 4))));
    assert!(put(&mut second, 4, BLOCK));
    assert_eq!((0..5).filter(|key| second.find(key).is_some()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(second.find(&4).map(|spot| spot.offset), Some(0), "the hand went round");
    assert!(second.forget(&2) && !second.forget(&2));
    second.check();
}

#[test]
fn a_device_that_was_never_full_takes_twice_as_much_in_a_turn() {
    let mut second = Second::new(1000);
    assert_eq!(second.begin_turn(), 0, "no device, no turn");
    second.add(1, u64::from(BLOCK) * 4);
    assert_eq!(second.begin_turn(), 2 * TURN_BYTES);
    (0..5).for_each(|key| assert!(put(&mut second, key, BLOCK)));
    assert_eq!(second.begin_turn(), TURN_BYTES);
}

#[test]
fn devices_take_turns_and_one_that_goes_takes_its_own_along() {
    let mut second = Second::new(1000);
    second.add(1, 1 << 20);
    second.add(2, 1 << 20);
    for key in 0..4 {
        second.begin_turn();
        assert!(put(&mut second, key, BLOCK));
    }
    let on = |second: &Second<u64>, device| (0..4).filter(|key| second.find(key).is_some_and(|spot| spot.device == device)).count();
    assert_eq!((on(&second, 1), on(&second, 2)), (2, 2));
    assert!(second.drop_device(1) && !second.drop_device(1));
    second.check();
    assert_eq!((on(&second, 1), on(&second, 2), second.size().0), (0, 2, 2));
}

#[test]
fn the_table_has_its_bound_and_an_entry_its_price() {
    let mut second = Second::new(10);
    second.add(1, 1 << 30);
    (0..100).for_each(|key| assert!(put(&mut second, key, 512)));
    assert_eq!((0..100).filter(|key| second.find(key).is_some()).collect::<Vec<_>>(), (90..100).collect::<Vec<_>>(), "the oldest go first");
    second.limit(3);
    second.check();
    assert_eq!(second.size().0, 3);
    second.limit(0);
    assert!(second.claim(512).is_none(), "no table, no cache");
    // What a table really costs is what its nodes have: at least half full, eleven entries and their bookkeeping in each.
    let key = size_of::<(u64, u64, u64)>();
    let parts = key + size_of::<pool_arc::second::Spot>() + size_of::<u64>() + key;
    assert!((parts as u64) * 2 + 32 <= HEADER_BYTES);
}

#[test]
fn what_goes_next_is_offered_once_and_what_was_read_ahead_only_when_used() {
    let mut cache: Cache<u64, u64> = Cache::new(1, 100);
    for key in 0..10 {
        cache.insert(key, key, 10, 0, Want::Demand, 0);
    }
    cache.insert(10, 10, 10, 0, Want::Prefetch, 0);
    assert!(cache.get(&9, Want::Demand, SECOND_CHANCE_NS + 1).is_some());
    let keys = |cache: &Cache<u64, u64>, bytes| cache.tail(bytes).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(&cache, 30), [9, 0, 1, 2], "what was used again comes first");
    cache.offered(&0);
    cache.offered(&9);
    assert_eq!(keys(&cache, 30), [1, 2]);
    assert_eq!(keys(&cache, 1000), (1..9).collect::<Vec<_>>(), "not what was read ahead");
    cache.resize(&0, 9);
    assert_eq!(keys(&cache, 30)[0], 0, "it has changed since");
    cache.check();
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64, u32),
    Forget(u64),
    Turn,
    Add(u64),
    Drop(u64),
    Limit(usize),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_never_contradicts_itself(steps in proptest::collection::vec(prop_oneof![
        8 => (0..40_u64, 1..400_000_u32).prop_map(|(key, size)| Step::Put(key, size)),
        2 => (0..40_u64).prop_map(Step::Forget),
        2 => Just(Step::Turn),
        1 => (0..3_u64).prop_map(Step::Add),
        1 => (0..3_u64).prop_map(Step::Drop),
        1 => (0..30_usize).prop_map(Step::Limit),
    ], 1..200)) {
        let mut second = Second::new(20);
        second.add(0, 1_000_000);
        for step in steps {
            match step {
                Step::Put(key, size) => drop(second.claim(size).map(|spot| second.keep(key, spot))),
                Step::Forget(key) => drop(second.forget(&key)),
                Step::Turn => drop(second.begin_turn()),
                Step::Add(id) => second.add(id, 1_000_000 + id * 300_000),
                Step::Drop(id) => drop(second.drop_device(id)),
                Step::Limit(entries) => second.limit(entries),
            }
            second.check();
        }
    }
}
