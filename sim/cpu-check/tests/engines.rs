//! The small version of the campaign: a few thousand programs, and an alarm that must ring.

use cpu_check::{Bench, Program, TICKS, alarm_rings, compare, narrow};

#[test]
fn both_engines_agree() {
    for seed in 0..400 {
        match compare(seed) {
            Ok(None) => {}
            Ok(Some(difference)) => panic!("{difference}\n{}", narrow(&difference)),
            Err(why) => {
                eprintln!("nothing to compare: {why}");
                return;
            }
        }
    }
}

#[test]
fn programs_are_worth_running() {
    let (mut long, mut faults) = (0, 0);
    for seed in 0..100 {
        let Ok(mut bench) = Bench::new(&Program::new(seed), None) else { return };
        bench.run_to(TICKS, u64::MAX);
        long += u32::from(bench.cpu.ticks() == TICKS);
        faults += bench.memory.read_u64(0xc800, 8).unwrap_or(0);
    }
    assert!(long > 60, "only {long} of 100 programs ran to the end");
    assert!((2_000..500_000).contains(&faults), "{faults} exceptions in 100 programs");
}

#[test]
fn a_planted_bug_is_found() {
    match alarm_rings(100) {
        Ok(rings) => assert!(rings, "a translator whose ADC forgets the carry went unnoticed"),
        Err(why) => eprintln!("nothing to test: {why}"),
    }
}
