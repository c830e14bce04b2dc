//! Lives of datasets, judged by our own checks and, where `ORRERY_ZDB` names it, by OpenZFS's `zdb`.

mod judge;

use judge::zdb;
use pool_dmu::edit::EditError;
use pool_dmu::{Store, check_space};
use pool_fire::disk::mix;
use pool_fire::family;
use pool_fire::rig::{self, NEW, NOW, SHAPES};
use pool_phys::nvlist::Value;
use pool_zpl::{Make, Writer, create_filesystem};

/// Operations of a longer search: `ORRERY_FAMILY=N`.
fn operations(least: u64) -> u64 {
    std::env::var("ORRERY_FAMILY").ok().and_then(|text| text.parse().ok()).unwrap_or(least)
}

#[test]
fn datasets_come_and_go_and_every_sum_stays_right() {
    for (index, shape) in (0_u64..).zip([&SHAPES[0], &SHAPES[3]]) {
        for seed in 0..2 {
            let (report, disks) = family::run(shape, 100 * index + seed, operations(80)).expect("no finding");
            eprintln!("{}: {report}", shape.name);
            zdb(&format!("{}-{seed}", shape.name), &disks);
        }
    }
}

#[test]
fn quotas_and_reservations_hold_and_say_which() {
    let (disks, mut store) = rig::create(&SHAPES[0], 5).expect("create");
    let make = |store: &mut Store, name: &str| {
        create_filesystem(store, name, &NEW).expect("make a file system");
        store.commit(NOW.0).expect("commit");
    };
    let data: Vec<u8> = (0..256_u64 << 10).map(|at| mix(at).to_le_bytes()[0]).collect();
    // Writes until it is refused; commits make room for what was overwritten.
    let fill = |store: &mut Store, name: &str| {
        let dataset = store.find(name).expect("find");
        for at in 0.. {
            let store_txg = store.txg();
            let mut writer = Writer::open(store, dataset).expect("open");
            let root = writer.root();
            let file = format!("x{at}-{}", store_txg);
            let done = writer.make(root, file.as_bytes(), Make::File, &NEW).and_then(|object| writer.write(object, 0, &data, NOW));
            match done {
                Ok(()) => store.commit(NOW.0).expect("commit"),
                Err(error) => return (at, error),
            }
        }
        unreachable!("a disk is full at some point")
    };
    for name in ["tank/q", "tank/q/below", "tank/ref", "tank/full"] {
        make(&mut store, name);
    }
    store.set_property("tank/q", "quota", &Value::Number(4 << 20)).expect("quota");
    let (files, error) = fill(&mut store, "tank/q/below");
    assert_eq!(error, EditError::Quota, "the quota above holds below");
    assert!((10..=16).contains(&files), "{files} files of 256 KiB in 4 MiB");
    store.set_property("tank/q", "quota", &Value::Number(1 << 20)).expect_err("below what is used");
    store.set_property("tank/ref", "refquota", &Value::Number(2 << 20)).expect("refquota");
    assert_eq!(fill(&mut store, "tank/ref").1, EditError::Quota);
    store.snapshot("tank/ref", "s", NOW.0).expect("a snapshot needs no room in a refquota");
    store.set_property("tank/ref", "reservation", &Value::Number(10 << 20)).expect("reserve");
    store.set_property("tank/q", "refreservation", &Value::Number(2 << 20)).expect_err("its quota leaves no room");
    store.set_property("tank/full", "refreservation", &Value::Number(2 << 20)).expect("reserve");
    store.set_property("tank/q", "reservation", &Value::Number(u64::MAX >> 1)).expect_err("more than the pool has");
    store.commit(NOW.0).expect("commit");
    assert_eq!(fill(&mut store, "tank/full").1, EditError::NoSpace);
    // What is reserved is there when all else is full.
    store.set_property("tank/ref", "refquota", &Value::Number(0)).expect("no refquota");
    let (more, _) = fill(&mut store, "tank/ref");
    assert!(more > 4, "{more} files in what is reserved");
    store.commit(NOW.0).expect("commit");
    let faults = check_space(store.pool()).expect("count anew");
    assert!(faults.is_empty(), "{faults:?}");
    store.destroy_tree("tank/full", false, NOW.0).expect("a full pool can be emptied");
    store.drain(NOW.0).expect("free");
    store.set_property("tank/q", "checksum", &Value::Number(8)).expect("sha256");
    store.set_property("tank/q", "quota", &Value::Number(0)).expect("no quota");
    let dataset = store.find("tank/q").expect("find");
    let mut writer = Writer::open(&mut store, dataset).expect("open");
    let root = writer.root();
    let object = writer.make(root, b"summed", Make::File, &NEW).expect("make");
    writer.write(object, 0, &data, NOW).expect("write");
    store.export(NOW.0).expect("export");
    zdb("quota", &disks);
}

#[test]
fn a_cut_shows_the_family_before_or_after() {
    let report = family::cuts(&SHAPES[0], 7, operations(40), 24).expect("no finding");
    eprintln!("{report}");
    assert!(report.cuts > 20, "{report}");
}
