//! Planted nondeterminism is found, down to the instruction that first sees it.

mod support;

use sim_board::{Board, Machine, Port};
use sim_snap::first_divergence;
use support::{BASE, board, machine};

#[test]
fn a_clock_set_from_the_host_is_found_at_the_instruction_that_reads_it() {
    // The plant: two power-ons of "the same" machine at different times of the host's clock.
    let other = Board { rtc_unix_seconds: board().rtc_unix_seconds + 7, ..board() };
    let found = first_divergence(&mut machine(&board()), &mut machine(&other), 1_000_000).expect("at the start").expect("they part");
    assert_eq!(found.until, found.ticks + 1);
    assert!(found.instruction.starts_with("in al,71h"), "{found}");
    assert!((BASE..BASE + 0x60).contains(&found.rip), "{found}");
    assert!(found.differences.iter().any(|line| line.starts_with("vcpu 0: rax:")), "{found}");
    assert!(found.devices.iter().any(|line| line.starts_with("rtc.")), "the cause is named: {found}");
}

#[test]
fn equal_runs_do_not_part() {
    let (mut left, mut right) = (machine(&board()), machine(&board()));
    for machine in [&mut left, &mut right] {
        machine.serial_put(Port::Com1, b"the same for both");
    }
    assert_eq!(first_divergence(&mut left, &mut right, 200_000).expect("at the start"), None);
    assert!(left.ticks() >= 200_000);
}

#[test]
fn a_key_typed_a_tick_later_is_found() {
    let mut runs: Vec<Machine> = [31_007, 31_008]
        .into_iter()
        .map(|tick| {
            let mut recorded = machine(&board());
            recorded.run_until(tick);
            recorded.serial_put(Port::Com1, b"k");
            let mut run = machine(&board());
            run.replay(recorded.inputs().to_vec());
            run
        })
        .collect();
    let (left, right) = runs.split_at_mut(1);
    let found = first_divergence(&mut left[0], &mut right[0], 1_000_000).expect("at the start");
    // The guest polls: it may or may not have looked in between; if it did, it is an IN that sees the key first.
    if let Some(found) = found {
        assert!(found.ticks >= 31_000 && found.instruction.starts_with("in al,dx"), "{found}");
    }
}
