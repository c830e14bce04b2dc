//! Garbage in every mode: the engine may not panic or hang, and cuts stay invisible. A few seconds here; `cargo orrery campaign cpu` for hours.

#[test]
fn garbage_neither_panics_nor_shows_where_it_was_cut() {
    let cases = std::env::var("ORRERY_FUZZ_CASES").ok().and_then(|value| value.parse().ok()).unwrap_or(2000);
    let found = sim_cpu::fuzz::fuzz(1, cases);
    assert_eq!(found, Ok(format!("{cases} cases")));
}

#[test]
fn what_campaigns_found_stays_found() {
    // 16-bit code beyond 64 KiB: EIP was cut where a run was, and not where it was not.
    assert_eq!(sim_cpu::fuzz::fuzz_quietly(3879, 1), Ok("1 cases".to_owned()));
    // A breakpoint on a REP instruction that had been passed by RF hit after a cut between two iterations.
    assert_eq!(sim_cpu::fuzz::fuzz_quietly(68_855, 1), Ok("1 cases".to_owned()));
    // RFLAGS that a #VMEXIT saves when an iteration of a REP instruction faults.
    assert_eq!(sim_cpu::fuzz::fuzz_quietly(133_393, 1), Ok("1 cases".to_owned()));
    // A system table in a device's memory: the device was told the tick of the block, not of the instruction.
    assert_eq!(sim_cpu::fuzz::fuzz_quietly(41_205, 1), Ok("1 cases".to_owned()));
}

#[test]
fn what_campaigns_found_with_interrupts_stays_found() {
    // A virtual interrupt waited behind one that had gone when it was acknowledged, until the next cut.
    assert_eq!(sim_cpu::fuzz::fuzz(5_028_843, 1), Ok("1 cases".to_owned()));
}
