//! A minute of random operations with kills, faults and checks.

use pool_fire::rig::SHAPES;
use pool_fire::ztest::run;

#[test]
fn random_operations_with_kills_and_broken_disks_hold() {
    for (index, shape) in SHAPES.iter().enumerate() {
        let report = run(shape, 100 + index as u64, 6).expect("the run holds");
        eprintln!("{}: {report}", shape.name);
    }
}
