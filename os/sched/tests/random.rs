//! Thousands of random schedules: whatever zones and threads there are, shares are kept, nobody starves, no CPU idles
//! while work waits (asserted in `machine`), every nanosecond is charged once, and the same input gives the same run.

mod machine;

use kif::ZoneId;
use machine::{Machine, Script};
use sched::SLICE;

const MS: u64 = 1_000_000;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % bound
    }
}

/// Builds a random machine of zones that all always want CPU.
fn build(seed: u64, cpus: u32) -> (Machine, Vec<(ZoneId, u64, u64)>, Vec<u64>) {
    let mut random = Random(seed);
    let mut machine = Machine::new(cpus);
    let mut zones = Vec::new();
    let mut busy = Vec::new();
    for id in 1..=u32::try_from(2 + random.below(5)).expect("small") {
        let shares = 1 + random.below(400);
        let zone = machine.zone(id, u32::try_from(shares).expect("small"));
        let threads = u64::from(cpus) + random.below(12);
        for _ in 0..threads {
            busy.push(machine.spawn(zone, Script::Busy));
        }
        for _ in 0..random.below(5) {
            machine.spawn(zone, Script::Cycle { run: 1 + random.below(3 * MS), sleep: 1 + random.below(9 * MS) });
        }
        zones.push((zone, shares, threads));
    }
    (machine, zones, busy)
}

#[test]
fn lag_is_bounded_by_slices_on_one_cpu() {
    for seed in 0..1500 {
        let (mut machine, zones, busy) = build(seed, 1);
        let span = 1500 * MS;
        machine.run(span);
        let total: u64 = zones.iter().map(|(_, shares, _)| shares).sum();
        for (zone, shares, _) in &zones {
            let entitled = span as f64 * *shares as f64 / total as f64;
            // One slice for the zone itself and one for each competitor, by weight: two slices cover both here.
            let lag = (machine.used(*zone) as f64 - entitled).abs();
            assert!(lag <= 2.5 * SLICE.0 as f64, "seed {seed}: zone {zone:?} with {shares} of {total} shares lags {lag} ns");
        }
        for tid in busy {
            let bound = SLICE.0 * 2 * zones.iter().map(|(_, _, threads)| threads + 6).sum::<u64>() * total;
            assert!(machine.starved.get(&tid).copied().unwrap_or(span) <= bound.min(span), "seed {seed}: thread {tid} starved");
        }
        assert_eq!(machine.charged(), span, "seed {seed}");
    }
}

#[test]
fn shares_hold_on_several_cpus() {
    for seed in 0..200 {
        let cpus = 2 + u32::try_from(seed % 3).expect("small");
        let (mut machine, zones, _) = build(seed, cpus);
        let span = 3000 * MS;
        machine.run(span);
        let total: u64 = zones.iter().map(|(_, shares, _)| shares).sum();
        for (zone, shares, _) in &zones {
            let capacity = span as f64 * f64::from(cpus);
            let entitled = capacity * *shares as f64 / total as f64;
            let lag = (machine.used(*zone) as f64 - entitled).abs();
            assert!(lag <= 0.02 * capacity, "seed {seed}: {cpus} CPUs, zone {zone:?} with {shares} of {total} shares lags {lag} ns");
        }
        assert_eq!(machine.charged(), span * u64::from(cpus), "seed {seed}");
    }
}

#[test]
fn the_same_input_gives_the_same_run() {
    for seed in 0..50 {
        let digest = |seed| {
            let (mut machine, _, _) = build(seed, 3);
            machine.run(300 * MS);
            machine.digest
        };
        assert_eq!(digest(seed), digest(seed));
    }
}

/// Random calls in any order: creation, sleep, wake, entering zones, share and cap changes, exits, zones going away.
#[test]
fn random_calls_never_break_an_invariant() {
    use kif::{CpuId, Nanos, ThreadId};
    use sched::{Class, Dispatcher, Slot};
    for seed in 0..400 {
        let mut random = Random(seed);
        let cpus = 1 + u32::try_from(random.below(4)).expect("small");
        let mut sched = Dispatcher::new(cpus);
        let (mut now, mut next_tid, mut next_zone) = (0_u64, 1_u64, 1_u32);
        let mut zones: Vec<ZoneId> = Vec::new();
        let mut blocked: Vec<Slot> = Vec::new();
        let mut runnable: Vec<Slot> = Vec::new();
        let mut running: Vec<Option<Slot>> = vec![None; cpus as usize];
        for _ in 0..1500 {
            now += random.below(MS);
            let cpu = u32::try_from(random.below(u64::from(cpus))).expect("small");
            match random.below(12) {
                0 if zones.len() < 8 => {
                    let shares = [0, 1, 10, 65_535][usize::try_from(random.below(4)).expect("small")];
                    sched.zone_add(ZoneId(next_zone), shares).expect("new");
                    zones.push(ZoneId(next_zone));
                    next_zone += 1;
                }
                1 | 2 if !zones.is_empty() => {
                    let zone = zones[usize::try_from(random.below(zones.len() as u64)).expect("small")];
                    let class = match random.below(8) {
                        0 => Class::System(u8::try_from(random.below(40)).expect("small")),
                        1 => Class::RealTime(u8::try_from(random.below(60)).expect("small")),
                        2 => Class::TimeShare,
                        _ => Class::FairShare,
                    };
                    blocked.push(sched.add(ThreadId(next_tid), zone, class).expect("memory"));
                    next_tid += 1;
                }
                3..=5 if !blocked.is_empty() => {
                    let slot = blocked.swap_remove(usize::try_from(random.below(blocked.len() as u64)).expect("small"));
                    runnable.push(slot);
                    // This machine picks at random, whatever the answer; but the answer must make sense.
                    match sched.make_runnable(slot, Nanos(now), random.below(4) == 0) {
                        sched::Wake::Nothing => {}
                        sched::Wake::Timer { cpu, at } => assert!(cpu.0 < cpus && at.0 >= now),
                        sched::Wake::Preempt { cpu } => assert!(cpu.0 < cpus),
                    }
                }
                6 if running[cpu as usize].is_some() => {
                    let slot = running[cpu as usize].take().expect("just tested");
                    sched.block(CpuId(cpu), Nanos(now));
                    runnable.retain(|at| *at != slot);
                    blocked.push(slot);
                }
                7 if !blocked.is_empty() => {
                    let slot = blocked.swap_remove(usize::try_from(random.below(blocked.len() as u64)).expect("small"));
                    sched.remove(slot, Nanos(now));
                }
                8 if !zones.is_empty() => {
                    let zone = zones[usize::try_from(random.below(zones.len() as u64)).expect("small")];
                    sched.set_shares(zone, u32::try_from(random.below(3) * random.below(500)).expect("small")).expect("there");
                }
                9 if !zones.is_empty() => {
                    let zone = zones[usize::try_from(random.below(zones.len() as u64)).expect("small")];
                    let percent = (random.below(2) == 0).then(|| 1 + u32::try_from(random.below(200)).expect("small"));
                    sched.set_cap(zone, percent, Nanos(now)).expect("there");
                }
                10 if !zones.is_empty() => {
                    let zone = zones[usize::try_from(random.below(zones.len() as u64)).expect("small")];
                    if random.below(10) == 0 {
                        zones.retain(|at| *at != zone);
                        sched.zone_remove(zone).expect("there");
                    } else if let Some(slot) = running[cpu as usize] {
                        sched.set_zone(slot, zone, Nanos(now)).expect("there");
                    }
                }
                _ => {
                    let decision = sched.pick(CpuId(cpu), Nanos(now), random.below(5) == 0);
                    running[cpu as usize] = decision.next.map(|(slot, _)| slot);
                    if let Some(slot) = running[cpu as usize] {
                        assert!(runnable.contains(&slot), "seed {seed}: picked a thread that does not want to run");
                        let twice = running.iter().flatten().filter(|at| **at == slot).count();
                        assert_eq!(twice, 1, "seed {seed}: a thread on two CPUs");
                    }
                    assert!(decision.deadline.is_none_or(|at| at.0 > now), "seed {seed}: deadline not in the future");
                }
            }
        }
        // Everything that wants to run does, once the CPUs have time and caps are lifted.
        for zone in &zones {
            sched.set_cap(*zone, None, Nanos(now)).expect("there");
        }
        for cpu in 1..cpus {
            if let Some(slot) = running[cpu as usize].take() {
                sched.block(CpuId(cpu), Nanos(now));
                runnable.retain(|at| *at != slot);
            }
        }
        let mut ran = 0;
        for _ in 0..200_000 {
            now += SLICE.0 * 2;
            match sched.pick(CpuId(0), Nanos(now), false) {
                sched::Decision { next: Some(_), .. } => {
                    sched.block(CpuId(0), Nanos(now));
                    ran += 1;
                }
                sched::Decision { next: None, deadline: Some(at), .. } => now = now.max(at.0),
                sched::Decision { next: None, deadline: None, .. } => break,
            }
        }
        assert_eq!(ran, runnable.len(), "seed {seed}: every thread that wanted to run did once");
    }
}
