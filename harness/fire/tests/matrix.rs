//! The fault matrix, whole: it takes a minute.

use pool_fire::matrix::{STATES, TROUBLES, allowed, struck};
use pool_fire::rig::SHAPES;

#[test]
fn every_cell_is_healed_reported_or_refused() {
    let mut findings = Vec::new();
    let mut cells = 0;
    for shape in SHAPES.iter().filter(|shape| matches!(shape.name, "disk" | "mirror" | "raidz2")) {
        for trouble in TROUBLES {
            for state in STATES {
                let outcome = struck(shape, trouble, state, 17).expect("prepare the cell");
                cells += 1;
                if !allowed(shape, trouble, state, outcome) {
                    findings.push(format!("{} {trouble:?} {state:?}: {outcome}", shape.name));
                }
            }
        }
    }
    assert!(findings.is_empty(), "{} of {cells} cells:\n{}", findings.len(), findings.join("\n"));
}
