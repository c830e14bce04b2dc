//! A little of each fuzz target; the rest is a campaign.

use pool_fire::fuzz::{labels, liar, parsers};

#[test]
fn parsers_take_anything() {
    parsers(1, 20_000);
}

#[test]
fn pools_that_lie_are_refused_by_name() {
    let report = liar(5, 60).expect("no panic");
    assert!(report.errors > 5 && report.fine + report.errors == 60, "{report:?}");
}

#[test]
fn labels_that_lie_are_refused_by_name() {
    let report = labels(6, 60).expect("no panic");
    assert!(report.errors > 5 && report.fine + report.errors == 60, "{report:?}");
}
