//! Random lives with kills, faults and checks: a few seconds of them; the rest is a campaign.

use pool_fire::rig::SHAPES;
use pool_fire::{family, storm, ztest};

#[test]
fn random_operations_with_kills_and_broken_disks_hold() {
    for (index, shape) in SHAPES.iter().enumerate() {
        let report = ztest::run(shape, 100 + index as u64, 3).expect("the run holds");
        eprintln!("{}: {report}", shape.name);
    }
}

#[test]
fn families_on_breaking_disks_hold() {
    for (index, shape) in SHAPES.iter().enumerate() {
        let report = family::ztest(shape, 200 + index as u64, 2).expect("the run holds");
        eprintln!("{}: {report}", shape.name);
    }
}

#[test]
fn tasks_in_turns_hold_and_repeat() {
    for (index, shape) in SHAPES.iter().enumerate() {
        let report = storm::replayed(shape, 300 + index as u64, 2, 60).expect("the run holds");
        eprintln!("{}: {report}", shape.name);
    }
}
