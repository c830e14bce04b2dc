//! Every model programmed with noise: nothing panics or hangs, and what is saved loads again. `cargo orrery campaign` runs the same for hours.

use sim_dev::fuzz::{TARGETS, fuzz};

/// Steps for each target: a few seconds in all.
const STEPS: u64 = 150_000;

#[test]
fn devices_take_garbage() {
    for target in TARGETS {
        let summary = fuzz(target.name, 7, STEPS).expect("a name of the table");
        println!("{summary}");
        assert!(summary.counts.accesses > STEPS / 4, "{summary}");
    }
}

/// The generators get past the front door: requests are served and interrupts come.
#[test]
fn storage_targets_serve_requests() {
    for name in ["virtio-blk", "nvme", "ahci"] {
        let summary = fuzz(name, 3, STEPS).expect("a name of the table");
        assert!(summary.counts.events > STEPS / 20 && summary.counts.interrupts > STEPS / 200, "{summary}");
    }
}

#[test]
fn a_run_is_its_seed() {
    assert_eq!(fuzz("nvme", 11, 20_000), fuzz("nvme", 11, 20_000));
    assert_ne!(fuzz("nvme", 11, 20_000), fuzz("nvme", 12, 20_000));
    assert!(fuzz("frobnicator", 1, 1).is_err_and(|error| error.to_string().contains("nvme, ahci")));
}
