//! Every model programmed with noise: nothing panics or hangs, and what is saved loads again. `cargo orrery campaign` runs the same for hours.

use sim_dev::fuzz::{TARGETS, fuzz};

use std::sync::atomic::{AtomicUsize, Ordering};

/// Steps where a few of them are enough.
const STEPS: u64 = 150_000;

/// Five seconds of each, on all processors.
#[test]
fn devices_take_garbage() {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(target) = TARGETS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let steps = 5 * target.second;
            let summary = fuzz(target.name, 7, steps).expect("a name of the table");
            println!("{summary}");
            assert!(summary.counts.accesses > steps / 4, "{summary}");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(work);
        }
    });
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
