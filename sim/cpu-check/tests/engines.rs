//! The small version of the campaign: a few thousand programs, and an alarm that must ring.

use cpu_check::{Bench, Pair, Program, narrow};

#[test]
fn both_engines_agree() {
    let Ok(mut pair) = Pair::new() else {
        eprintln!("nothing to compare: the host cannot translate");
        return;
    };
    // After them, what the campaign found once: code in a page of page tables, changed by the walk's own dirty bit.
    for seed in (0..1500).chain([708_974]) {
        if let Some(difference) = pair.compare(seed).expect("it could translate before") {
            panic!("{difference}\n{}", narrow(&difference));
        }
    }
}

#[test]
fn programs_are_worth_running() {
    let Ok(mut bench) = Bench::new(None) else { return };
    let (mut long, mut faults) = (0, 0);
    for seed in 0..500 {
        let program = Program::new(seed);
        bench.load(&program.image());
        bench.run_to(program.ticks, u64::MAX);
        long += u32::from(bench.cpu.ticks() == program.ticks);
        faults += bench.memory.read_u64(0xc800, 8).unwrap_or(0);
    }
    assert!(long > 300, "only {long} of 500 programs ran to the end");
    assert!((2_000..500_000).contains(&faults), "{faults} exceptions in 500 programs");
}

#[test]
fn a_loaded_bench_is_a_new_one() {
    let (Ok(mut used), Ok(mut translating)) = (Bench::new(None), Bench::new(Some(1))) else { return };
    for seed in 0..40 {
        let program = Program::new(seed);
        let mut fresh = Bench::with(&program, None).expect("nothing is translated");
        for bench in [&mut used, &mut translating] {
            bench.load(&program.image());
            bench.run_to(program.ticks, u64::MAX);
        }
        fresh.run_to(program.ticks, u64::MAX);
        assert_eq!(fresh.memory.ram(), used.memory.ram(), "seed {seed}");
        assert_eq!(fresh.memory.ram(), translating.memory.ram(), "seed {seed}, translated");
        assert_eq!(fresh.cpu.state(), used.cpu.state(), "seed {seed}");
    }
}

#[test]
fn a_planted_bug_is_found() {
    match Pair::alarms(1200) {
        Ok(found) => assert!(found.len() > 1, "a translator whose ADC forgets the carry was noticed by {} programs", found.len()),
        Err(why) => eprintln!("nothing to test: {why}"),
    }
}
