//! The contract of the fair-share class, measured on virtual machines.

mod machine;

use kif::Nanos;
use machine::{Machine, Script};
use sched::{Class, GRANULARITY, SLICE};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn ratio(machine: &Machine, a: kif::ZoneId, b: kif::ZoneId) -> f64 {
    machine.used(a) as f64 / machine.used(b) as f64
}

#[test]
fn three_to_one_within_two_percent_over_two_seconds_with_many_processes() {
    for (left, right) in [(1, 1), (1, 50), (50, 1), (20, 30), (500, 1), (1, 500)] {
        let mut machine = Machine::new(1);
        let (alpha, beta) = (machine.zone(1, 300), machine.zone(2, 100));
        for _ in 0..left {
            machine.spawn(alpha, Script::Busy);
        }
        for _ in 0..right {
            machine.spawn(beta, Script::Busy);
        }
        machine.run(2 * SECOND);
        let ratio = ratio(&machine, alpha, beta);
        assert!((ratio - 3.0).abs() < 0.06, "{left} and {right} processes: {ratio}");
        assert_eq!(machine.charged(), 2 * SECOND);
    }
}

#[test]
fn three_to_one_among_processes_that_also_sleep() {
    let mut machine = Machine::new(1);
    let (alpha, beta) = (machine.zone(1, 300), machine.zone(2, 100));
    for zone in [alpha, beta] {
        for index in 0..6 {
            machine.spawn(zone, Script::Cycle { run: 300_000 + index * 70_000, sleep: 400_000 });
        }
        machine.spawn(zone, Script::Busy);
    }
    machine.run(2 * SECOND);
    let ratio = ratio(&machine, alpha, beta);
    assert!((ratio - 3.0).abs() < 0.06, "{ratio}");
}

#[test]
fn an_idle_zones_part_goes_to_the_others_at_once_and_is_not_saved() {
    let mut machine = Machine::new(1);
    let (alpha, beta) = (machine.zone(1, 300), machine.zone(2, 100));
    machine.spawn(beta, Script::Busy);
    machine.run(5 * SECOND);
    assert_eq!(machine.used(beta), 5 * SECOND);
    // Alpha comes after five idle seconds: it gets 3:1 from now on, not everything.
    machine.spawn(alpha, Script::Busy);
    machine.run(7 * SECOND);
    let (a, b) = (machine.used(alpha), machine.used(beta) - 5 * SECOND);
    let ratio = a as f64 / b as f64;
    assert!((ratio - 3.0).abs() < 0.06, "{ratio}");
}

#[test]
fn a_fork_bomb_gains_nothing_and_costs_the_neighbour_nothing() {
    let mut machine = Machine::new(1);
    let (bomber, victim) = (machine.zone(1, 100), machine.zone(2, 100));
    machine.spawn(victim, Script::Busy);
    machine.spawn(bomber, Script::Bomb { run: 100_000, most: 2000 });
    machine.run(2 * SECOND);
    let ratio = ratio(&machine, bomber, victim);
    assert!((ratio - 1.0).abs() < 0.02, "{ratio}");
}

#[test]
fn a_fork_bomb_does_not_starve_its_own_zones_shell() {
    let mut machine = Machine::new(1);
    let zone = machine.zone(1, 1);
    let shell = machine.spawn(zone, Script::Cycle { run: 50_000, sleep: 100 * MS });
    // 300 busy neighbours leave the shell a third of a percent: more than it asks for, so it need never wait for a round.
    machine.spawn(zone, Script::Bomb { run: 100_000, most: 300 });
    machine.run(SECOND);
    machine.latency.clear();
    machine.run(8 * SECOND);
    assert!(machine.latency[&shell] <= 2 * SLICE.0, "woken shell waited {} ns", machine.latency[&shell]);
}

#[test]
fn a_woken_thread_of_a_light_zone_runs_within_the_granularity_or_a_slice() {
    let mut machine = Machine::new(1);
    let (heavy, light) = (machine.zone(1, 100), machine.zone(2, 100));
    for _ in 0..10 {
        machine.spawn(heavy, Script::Busy);
    }
    let tid = machine.spawn(light, Script::Cycle { run: 100_000, sleep: 7 * MS + 1 });
    machine.run(3 * SECOND);
    assert!(machine.latency[&tid] <= SLICE.0 + GRANULARITY.0, "{}", machine.latency[&tid]);
}

#[test]
fn zero_shares_run_only_on_an_idle_cpu() {
    let mut machine = Machine::new(1);
    let (paying, free) = (machine.zone(1, 1), machine.zone(2, 0));
    machine.spawn(free, Script::Busy);
    machine.run(SECOND);
    assert_eq!(machine.used(free), SECOND);
    machine.spawn(paying, Script::Busy);
    machine.run(3 * SECOND);
    assert_eq!(machine.used(free), SECOND);
    assert_eq!(machine.used(paying), 2 * SECOND);
}

#[test]
fn shares_change_at_once() {
    let mut machine = Machine::new(1);
    let (alpha, beta) = (machine.zone(1, 100), machine.zone(2, 100));
    machine.spawn(alpha, Script::Busy);
    machine.spawn(beta, Script::Busy);
    machine.run(SECOND);
    machine.sched.set_shares(alpha, 900).expect("it exists");
    let before = (machine.used(alpha), machine.used(beta));
    machine.run(3 * SECOND);
    let ratio = (machine.used(alpha) - before.0) as f64 / (machine.used(beta) - before.1) as f64;
    assert!((ratio - 9.0).abs() < 0.4, "{ratio}");
    // And down to nothing.
    machine.sched.set_shares(alpha, 0).expect("it exists");
    machine.pick(0);
    let before = machine.used(alpha);
    machine.run(4 * SECOND);
    assert!(machine.used(alpha) - before < SLICE.0);
}

#[test]
fn a_single_thread_needs_no_timer() {
    let mut machine = Machine::new(1);
    let zone = machine.zone(1, 10);
    machine.spawn(zone, Script::Busy);
    let before = machine.decisions;
    machine.run(100 * SECOND);
    assert_eq!(machine.decisions, before);
}

#[test]
fn nice_weighs_threads_inside_their_zone_only() {
    let mut machine = Machine::new(1);
    let (alpha, beta) = (machine.zone(1, 100), machine.zone(2, 100));
    let normal = machine.spawn(alpha, Script::Busy);
    let nice = machine.spawn(alpha, Script::Busy);
    machine.sched.set_nice(machine.slot(nice), 10);
    machine.spawn(beta, Script::Busy);
    machine.run(10 * SECOND);
    let inside = machine.used_by(normal) as f64 / machine.used_by(nice) as f64;
    assert!((inside - 9.3).abs() < 0.3, "{inside}");
    assert!((ratio(&machine, alpha, beta) - 1.0).abs() < 0.01);
}

#[test]
fn system_threads_come_first_and_time_sharing_threads_have_their_own_account() {
    let mut machine = Machine::new(1);
    let zone = machine.zone(1, 300);
    machine.spawn(zone, Script::Busy);
    let sharing = machine.spawn_class(zone, Class::TimeShare, Script::Busy);
    let system = machine.spawn_class(zone, Class::System(10), Script::Cycle { run: 100_000, sleep: 900_000 });
    machine.run(2 * SECOND);
    assert_eq!(machine.latency[&system], 0);
    let part = machine.used_by(sharing) as f64 / (machine.used(zone) - machine.used_by(system)) as f64;
    assert!((part - 0.25).abs() < 0.01, "{part}");
}

#[test]
fn real_time_threads_of_one_priority_take_turns() {
    let mut machine = Machine::new(1);
    let zone = machine.zone(0, 1);
    let first = machine.spawn_class(zone, Class::RealTime(5), Script::Busy);
    let second = machine.spawn_class(zone, Class::RealTime(5), Script::Busy);
    let lower = machine.spawn_class(zone, Class::RealTime(4), Script::Busy);
    machine.run(SECOND);
    assert!(machine.used_by(first).abs_diff(machine.used_by(second)) <= SLICE.0);
    assert_eq!(machine.used_by(lower), 0);
}

#[test]
fn a_cap_is_kept_within_two_percent_with_one_and_with_many_threads() {
    for (threads, cpus, percent) in [(1, 1, 20), (30, 1, 20), (1, 1, 75), (30, 4, 150), (8, 4, 250)] {
        let mut machine = Machine::new(cpus);
        machine.capped = true;
        let zone = machine.zone(1, 100);
        machine.sched.set_cap(zone, Some(percent), Nanos(0)).expect("it exists");
        for _ in 0..threads {
            machine.spawn(zone, Script::Busy);
        }
        machine.run(5 * SECOND);
        let part = machine.used(zone) as f64 / (5 * SECOND) as f64 * 100.0;
        assert!((part / f64::from(percent) - 1.0).abs() < 0.02, "{threads} threads, cap {percent}: {part}");
    }
}

#[test]
fn what_a_capped_zone_leaves_goes_to_the_others_and_lifting_the_cap_restores_shares() {
    let mut machine = Machine::new(1);
    machine.capped = true;
    let (capped, free) = (machine.zone(1, 300), machine.zone(2, 100));
    machine.sched.set_cap(capped, Some(10), Nanos(0)).expect("it exists");
    for _ in 0..5 {
        machine.spawn(capped, Script::Busy);
        machine.spawn(free, Script::Busy);
    }
    machine.run(4 * SECOND);
    let part = machine.used(free) as f64 / (4 * SECOND) as f64;
    assert!((part - 0.9).abs() < 0.01, "{part}");
    machine.sched.set_cap(capped, None, Nanos(machine.now)).expect("it exists");
    machine.pick(0);
    let before = (machine.used(capped), machine.used(free));
    machine.run(6 * SECOND);
    let ratio = (machine.used(capped) - before.0) as f64 / (machine.used(free) - before.1) as f64;
    assert!((ratio - 3.0).abs() < 0.06, "{ratio}");
}

#[test]
fn shares_hold_across_four_cpus() {
    let mut machine = Machine::new(4);
    let (alpha, beta) = (machine.zone(1, 300), machine.zone(2, 100));
    for _ in 0..8 {
        machine.spawn(alpha, Script::Busy);
        machine.spawn(beta, Script::Busy);
    }
    machine.run(4 * SECOND);
    let ratio = ratio(&machine, alpha, beta);
    assert!((ratio - 3.0).abs() < 0.1, "{ratio}");
    assert_eq!(machine.charged(), 4 * 4 * SECOND);
}

#[test]
fn a_zone_that_cannot_use_its_part_of_many_cpus_saves_nothing_up() {
    let mut machine = Machine::new(2);
    let (narrow, wide) = (machine.zone(1, 900), machine.zone(2, 100));
    machine.spawn(narrow, Script::Busy);
    machine.spawn(wide, Script::Busy);
    machine.spawn(wide, Script::Busy);
    machine.run(5 * SECOND);
    assert!(machine.used(narrow) >= 5 * SECOND - 2 * SLICE.0, "its one CPU all the time");
    // Now it gets wide enough: 9:1 of two CPUs from here on, without back pay.
    machine.spawn(narrow, Script::Busy);
    let before = (machine.used(narrow), machine.used(wide));
    machine.run(9 * SECOND);
    let (n, w) = (machine.used(narrow) - before.0, machine.used(wide) - before.1);
    let part = n as f64 / (n + w) as f64;
    assert!((part - 0.9).abs() < 0.05, "{part}");
}

#[test]
fn a_boosted_thread_runs_before_all_zones() {
    use kif::{CpuId, ThreadId, ZoneId};
    let mut sched = sched::Dispatcher::new(1);
    sched.zone_add(ZoneId(1), 0).expect("new");
    sched.zone_add(ZoneId(2), 1000).expect("new");
    let holder = sched.add(ThreadId(1), ZoneId(1), Class::FairShare).expect("memory");
    let other = sched.add(ThreadId(2), ZoneId(2), Class::FairShare).expect("memory");
    assert_eq!(sched.make_runnable(holder, Nanos(0), false), sched::Wake::Preempt { cpu: CpuId(0) });
    assert_eq!(sched.pick(CpuId(0), Nanos(0), false).next.map(|(slot, _)| slot), Some(holder));
    assert_eq!(sched.make_runnable(other, Nanos(10), false), sched::Wake::Preempt { cpu: CpuId(0) });
    // Preempted while it holds a lock: it goes on, and is looked at again after a slice.
    let decision = sched.pick(CpuId(0), Nanos(20), true);
    assert_eq!(decision.next.map(|(slot, _)| slot), Some(holder));
    assert_eq!(decision.deadline, Some(Nanos(20).plus(SLICE)));
    // The lock is given back: the zone without shares gives way.
    assert_eq!(sched.pick(CpuId(0), Nanos(30), false).next.map(|(slot, _)| slot), Some(other));
}

#[test]
fn a_thread_that_enters_a_zone_is_charged_there_from_then_on() {
    let mut machine = Machine::new(1);
    let (global, tenant) = (machine.zone(0, 1000), machine.zone(1, 1));
    let tid = machine.spawn(global, Script::Busy);
    machine.run(SECOND);
    machine.sched.set_zone(machine.slot(tid), tenant, Nanos(machine.now)).expect("it exists");
    machine.run(3 * SECOND);
    assert_eq!((machine.used(global), machine.used(tenant)), (SECOND, 2 * SECOND));
    assert_eq!(machine.sched.zone_usage(global, Nanos(machine.now)).map(|usage| usage.threads), Ok(0));
}

#[test]
fn a_removed_zones_last_threads_may_still_leave() {
    use kif::{CpuId, ThreadId, ZoneId};
    let mut sched = sched::Dispatcher::new(1);
    sched.zone_add(ZoneId(1), 10).expect("new");
    let thread = sched.add(ThreadId(1), ZoneId(1), Class::FairShare).expect("memory");
    assert_eq!(sched.make_runnable(thread, Nanos(0), false), sched::Wake::Preempt { cpu: CpuId(0) });
    assert_eq!(sched.pick(CpuId(0), Nanos(0), false).next.map(|(slot, _)| slot), Some(thread));
    sched.zone_remove(ZoneId(1)).expect("there");
    sched.zone_add(ZoneId(1), 20).expect("the id is free at once");
    sched.block(CpuId(0), Nanos(5));
    sched.remove(thread, Nanos(5));
    assert_eq!(sched.pick(CpuId(0), Nanos(6), false).next, None);
    assert_eq!(sched.zone_usage(ZoneId(1), Nanos(6)).map(|usage| usage.system), Ok(Nanos(0)));
}

#[test]
fn shares_hold_after_virtual_times_were_moved_back() {
    const HOUR: u64 = 3600 * SECOND;
    let mut machine = Machine::new(1);
    // One share, so that its virtual time passes 2^62 within a day; and one that sleeps all the time, far behind.
    let (light, heavy) = (machine.zone(1, 1), machine.zone(2, 3));
    machine.spawn(heavy, Script::Cycle { run: 1000, sleep: HOUR });
    machine.spawn(light, Script::Busy);
    for hour in 1..=60 {
        machine.run(hour * HOUR);
    }
    for _ in 0..3 {
        machine.spawn(heavy, Script::Busy);
        machine.spawn(light, Script::Busy);
    }
    let before = (machine.used(light), machine.used(heavy));
    machine.run(60 * HOUR + 2 * SECOND);
    let (light, heavy) = (machine.used(light) - before.0, machine.used(heavy) - before.1);
    let ratio = heavy as f64 / light as f64;
    assert!((ratio - 3.0).abs() < 0.06, "{ratio}");
}
