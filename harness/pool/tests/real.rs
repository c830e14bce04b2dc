//! Datasets and properties of pools that OpenZFS made, against what its own tools said of them; and such a pool changed by us, judged by `zdb`.
//!
//! `ORRERY_POOLS` names the folder with the pools, `ORRERY_ZDB` the judge; without the first there is nothing to test.

use std::path::{Path, PathBuf};

use pool_dmu::{DatasetKind, Datasets, Store, check, check_space, human};
use pool_phys::nvlist::Value;
use pool_spa::Pool;

const NOW: u64 = 1_800_000_000;

/// Unpacks a pool into a folder of its own.
fn unpack(name: &str, purpose: &str) -> Option<PathBuf> {
    pool_judge::unpack(name, &pool_judge::scratch(env!("CARGO_TARGET_TMPDIR"), &format!("{purpose}-{name}")))
}

fn import(folder: &Path) -> Pool {
    Pool::import(pool_judge::devices(folder, ".img").expect("open the images"), None).expect("import")
}

#[test]
fn every_dataset_and_property_is_as_zfs_said() {
    for name in ["p01nofeat", "p02min", "p03mirror", "p07raidz2"] {
        let Some(folder) = unpack(name, "look") else { return };
        let pool = import(&folder);
        let datasets = Datasets::open(&pool).expect("datasets");
        let list = std::fs::read_to_string(folder.join("zfs-list.txt")).expect("read the list");
        let mut seen = 0;
        for line in list.lines() {
            let [name, kind, used, refer, origin, guid, txg] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("strange line: {line}") };
            let info = datasets.find(name).expect("find");
            let value = |property: &str| datasets.show(&info, property).expect("show").map_or("-".to_owned(), |shown| shown.value);
            let found = ["type", "refer", "origin", "guid", "createtxg"].map(value);
            assert_eq!(found, [kind, refer, origin, guid, txg], "{name}");
            // The pool's own objects count at the root, and changed once more when the pool was exported.
            if name.contains(['/', '@']) {
                assert_eq!(value("used"), used, "{name}");
            }
            let space = datasets.space(&info).expect("space");
            if info.kind != DatasetKind::Snapshot {
                assert_eq!(space.used, space.by_dataset + space.by_snapshots + space.by_children + space.by_refreservation, "{name}");
            }
            let all = datasets.show_all(&info).expect("show all");
            assert!(all.len() > 20, "{name}: {} properties", all.len());
            seen += 1;
        }
        assert_eq!(datasets.list(name).expect("list").len(), seen, "{name}: nothing but what zfs listed");
        let props = std::fs::read_to_string(folder.join("props.txt")).expect("read the properties");
        for line in props.lines() {
            let [dataset, property, value] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("strange line: {line}") };
            let info = datasets.find(dataset).expect("find");
            let shown = datasets.show(&info, property).expect("show").expect("it applies");
            assert_eq!(shown.value, value, "{dataset} {property}");
            assert!(shown.source == "local" || shown.source == "-", "{dataset} {property}: {}", shown.source);
        }
        // Sums as OpenZFS keeps them are sums as we count them.
        let faults = check_space(&pool).expect("count anew");
        assert!(faults.is_empty(), "{name}: {faults:?}");
    }
}

#[test]
fn what_is_inherited_says_from_where() {
    let Some(folder) = unpack("p02min", "inherit") else { return };
    let pool = import(&folder);
    let datasets = Datasets::open(&pool).expect("datasets");
    for (dataset, property, value, source) in [
        ("p02min/home", "compression", "lz4", "inherited from p02min"),
        ("p02min/home/raw", "compression", "off", "local"),
        ("p02min/home/raw", "recordsize", "16K", "inherited from p02min/home"),
        ("p02min/home/raw", "quota", "none", "default"),
        ("p02min/home/raw", "mountpoint", "/p02min/home/raw", "inherited from p02min"),
        ("p02min/home/raw", "org.example:note", "hello", "inherited from p02min/home"),
        ("p02min/home@s1", "org.example:note", "hello", "inherited from p02min/home"),
        ("p02min", "recordsize", "128K", "default"),
        ("p02min/vol", "volblocksize", "8K", "default"),
    ] {
        let info = datasets.find(dataset).expect("find");
        let shown = datasets.show(&info, property).expect("show").expect("it applies");
        assert_eq!((shown.value.as_str(), shown.source.as_str()), (value, source), "{dataset} {property}");
    }
    assert_eq!(datasets.clone_names(&datasets.find("p02min@s1").expect("find")).expect("clones"), ["p02min/clone"]);
    assert_eq!(human(datasets.space(&datasets.find("p02min/vol").expect("find")).expect("space").by_refreservation), "10M");
}

#[test]
fn a_pool_of_openzfs_is_changed_and_stays_whole() {
    let Some(folder) = unpack("p02min", "change") else { return };
    let mut count = 0_u64;
    let mut store = Store::open(import(&folder), Box::new(move || { count += 0x9E37_79B9; count })).expect("open for writing");
    pool_zpl::replay_logs(&mut store, (NOW, 0)).expect("replay");
    store.snapshot_tree("p02min", "ours", NOW).expect("snapshot");
    store.clone_dataset("p02min/home@s1", "p02min/again", NOW).expect("clone");
    store.promote("p02min/clone", NOW).expect("promote a clone that OpenZFS made");
    store.rollback("p02min/home/raw", NOW).expect("roll back");
    store.destroy_snapshots(&["p02min/home@s2", "p02min/vol@s1", "p02min@s2"], false, NOW).expect("destroy snapshots of OpenZFS");
    store.rename("p02min/home/raw", "p02min/raw", NOW).expect("rename");
    store.set_property("p02min/raw", "refreservation", &Value::Number(1 << 20)).expect("reserve");
    store.hold(&["p02min/vol@s2"], "keep", NOW).expect("hold");
    store.destroy_tree("p02min/vol", true, NOW).expect_err("it is held");
    store.release(&["p02min/vol@s2"], "keep", NOW).expect("release");
    store.destroy_tree("p02min/vol", true, NOW).expect("destroy the volume");
    store.promote("p02min/again", NOW).expect("promote ours");
    store.drain(NOW).expect("free all");
    store.export(NOW).expect("export");
    drop(store);
    let pool = import(&folder);
    let found = check(&pool, true).expect("check");
    assert_eq!(found.fault_count, 0, "{:?}", found.faults);
    let faults = check_space(&pool).expect("count anew");
    assert!(faults.is_empty(), "{faults:?}");
    pool_judge::zdb(&folder, "p02min").unwrap_or_else(|complaint| panic!("{complaint}"));
}
