//! A little of each fuzz target; the rest is a campaign.

use pool_fire::fuzz::{labels, liar, parsers};
use pool_fire::streams::{lies, noise};
use pool_fire::watch::Watch;

#[test]
fn parsers_take_anything() {
    parsers(1, 5_000, &mut Watch::default()).expect("no panic");
}

#[test]
fn what_names_more_blocks_than_there_are_is_not_walked() {
    // The last cases are findings of the campaign: a sparse list of tens of millions, one longer than any object, and a block of dnodes that leads to itself.
    for (seed, count) in [(710_001, 1519), (750_001, 2245), (1_235_001, 2888)] {
        liar(seed, count, &mut Watch::default()).expect("no hang, no panic");
    }
}

#[test]
fn pools_that_lie_are_refused_by_name() {
    let report = liar(5, 320, &mut Watch::default()).expect("no panic");
    assert!(report.errors > 20 && report.fine + report.errors == 320, "{report:?}");
    assert!(["livelist", "log space map", "intent log", "deadlist", "fat table", "indirect"].iter().all(|class| report.classes.contains_key(class)), "every kind of structure lies: {report:?}");
    assert!(report.classes.len() >= 17, "every kind of structure lies: {report:?}");
}

#[test]
fn labels_that_lie_are_refused_by_name() {
    let report = labels(3, 200, &mut Watch::default()).expect("no panic");
    assert!(report.errors > 20 && report.fine > 5 && report.fine + report.errors == 200, "{report:?}");
}

#[test]
fn streams_that_lie_leave_nothing_behind() {
    // Case 155 frees objects beyond all numbers.
    let report = lies(1, 160, &mut Watch::default()).expect("no finding");
    assert!(report.errors > 10 && report.fine > 0, "{report:?}");
}

#[test]
fn noise_is_hardly_ever_a_stream() {
    assert!(noise(13, 5_000) < 500);
}
