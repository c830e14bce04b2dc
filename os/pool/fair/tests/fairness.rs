//! Throttle and queue against what they promise.

use pool_fair::queue::{IoClass, Queue};
use pool_fair::throttle::{Op, Throttle};
use proptest::prelude::*;

const QUARTER_US: u64 = 250_000;

/// Zones 1 (weight 10) and 2 (weight 100) for `quarters` quarters of a second, with so many reads each; every read takes `latency`.
fn run(throttle: &mut Throttle, from: u64, quarters: u64, reads: [u64; 2], latency: u64) -> u64 {
    let priority = |zone: u32| if zone == 1 { 10 } else { 100 };
    let mut now = from;
    for _ in 0..quarters {
        for (zone, count) in [(1, reads[0]), (2, reads[1])] {
            for _ in 0..count {
                throttle.delay(zone, Op::Read, now, &priority);
                throttle.done(true, latency, now);
            }
        }
        now += QUARTER_US;
    }
    now
}

fn delays(throttle: &mut Throttle, now: u64) -> [u64; 2] {
    let priority = |zone: u32| if zone == 1 { 10 } else { 100 };
    [1, 2].map(|zone| throttle.delay(zone, Op::Read, now, &priority))
}

#[test]
fn who_is_above_its_part_waits_while_disks_are_overused_and_no_longer_after() {
    let mut throttle = Throttle::default();
    let now = run(&mut throttle, 0, 40, [4, 1], 60_000);
    let finding = throttle.finding();
    assert!(finding.overused && finding.active == 2, "{finding:?}");
    let [noisy, quiet] = delays(&mut throttle, now);
    assert!(noisy >= 90, "{noisy} us after ten seconds");
    assert_eq!(quiet, 0);
    assert!(throttle.is_above(1) && !throttle.is_above(2));
    // The disks are quick again.
    let now = run(&mut throttle, now, 60, [4, 1], 100);
    assert_eq!(delays(&mut throttle, now), [0, 0]);
}

#[test]
fn who_is_alone_is_never_slowed() {
    let mut throttle = Throttle::default();
    let now = run(&mut throttle, 0, 40, [10, 0], 60_000);
    let priority = |_: u32| 10;
    assert_eq!(throttle.delay(1, Op::LogicalWrite, now, &priority), 0);
}

#[test]
fn the_global_zone_and_weight_zero_are_never_slowed() {
    let mut throttle = Throttle::default();
    let priority = |zone: u32| if zone == 1 { 0 } else { 100 };
    let mut now = 0;
    for _ in 0..60 {
        for zone in [0, 1, 1, 1, 2] {
            let delay = throttle.delay(zone, Op::PhysicalWrite, now, &priority);
            assert!(zone == 2 || delay == 0);
            throttle.done(false, 60_000, now);
        }
        now += QUARTER_US;
    }
}

#[test]
fn a_quick_disk_slows_nobody() {
    let mut throttle = Throttle::default();
    let now = run(&mut throttle, 0, 40, [400, 100], 600);
    assert_eq!(delays(&mut throttle, now), [0, 0], "busy, but nothing took long");
}

#[test]
fn who_came_first_is_next_while_few_wait() {
    let mut queue = Queue::default();
    for item in 0..5 {
        queue.push(IoClass::SyncRead, item % 2, item);
    }
    let order: Vec<u32> = std::iter::from_fn(|| queue.pop(&|_| 1)).collect();
    assert_eq!(order, [0, 1, 2, 3, 4]);
}

#[test]
fn one_operation_is_not_behind_a_hundred_of_another_zone() {
    let mut queue = Queue::default();
    for item in 0..100 {
        queue.push(IoClass::SyncWrite, 1, item);
    }
    queue.push(IoClass::SyncWrite, 2, 1000);
    let before = std::iter::from_fn(|| queue.pop(&|_| 100)).position(|item| item == 1000).expect("it is served");
    assert!(before <= 1, "{before} went first");
}

#[test]
fn weights_divide_a_contended_queue() {
    let mut queue = Queue::default();
    let priority = |zone: u32| if zone == 1 { 100 } else { 300 };
    let mut served = [0; 3];
    for item in 0..30_u32 {
        queue.push(IoClass::SyncRead, 1 + item % 2, 1 + item % 2);
    }
    for _ in 0..1000 {
        let zone = queue.pop(&priority).expect("never empty");
        served[zone as usize] += 1;
        queue.push(IoClass::SyncRead, zone, zone);
    }
    assert!(served[2] > served[1] * 3 / 2 && served[1] > 150, "{served:?}");
}

#[test]
fn urgent_classes_go_first_and_none_waits_for_ever() {
    let mut queue = Queue::default();
    queue.push(IoClass::Scrub, 0, 'S');
    queue.push(IoClass::AsyncWrite, 0, 'w');
    for _ in 0..40 {
        queue.push(IoClass::SyncRead, 1, 'r');
    }
    let order: String = std::iter::from_fn(|| queue.pop(&|_| 1)).collect();
    assert!(order.starts_with("rrrrrrrrrrrrrrrr"), "{order}");
    assert!(order.find('S').is_some_and(|at| at < 20) && order.find('w').is_some_and(|at| at < 20), "{order}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn all_are_served_once_and_in_order_within_zone_and_class(items in proptest::collection::vec((0..5_usize, 0..4_u32, 1..1000_u64), 0..120)) {
        let classes = [IoClass::SyncRead, IoClass::SyncWrite, IoClass::AsyncRead, IoClass::AsyncWrite, IoClass::Scrub];
        let mut queue = Queue::default();
        for (number, (class, zone, _)) in items.iter().enumerate() {
            queue.push(classes[*class], *zone, (*class, *zone, number));
        }
        let served: Vec<_> = std::iter::from_fn(|| queue.pop(&|zone| 1 + u64::from(zone) * 50)).collect();
        prop_assert_eq!(served.len(), items.len());
        let mut last = std::collections::BTreeMap::new();
        for (class, zone, number) in served {
            if let Some(before) = last.insert((class, zone), number) {
                prop_assert!(before < number);
            }
        }
        prop_assert!(queue.is_empty());
    }

    #[test]
    fn no_delay_is_beyond_the_ceiling(steps in proptest::collection::vec((0..4_u32, 0..3_u8, 0..400_000_u64, 0..90_000_u64), 0..300)) {
        let mut throttle = Throttle::default();
        let mut now = 0;
        for (zone, op, pause, latency) in steps {
            now += pause;
            let op = [Op::Read, Op::PhysicalWrite, Op::LogicalWrite][usize::from(op)];
            let delay = throttle.delay(zone, op, now, &|zone| u64::from(zone) * 10);
            prop_assert!(delay <= 100 && (zone > 0 || delay == 0));
            throttle.done(op == Op::Read, latency, now);
        }
    }
}
