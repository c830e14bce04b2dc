//! Devices that fail, go, come and are replaced; judged by our own check and, where `ORRERY_ZDB` names it, by OpenZFS's `zdb`.

mod judge;

use std::collections::BTreeMap;
use std::sync::Arc;

use judge::zdb;
use pool_dmu::{Auxiliary, ScanKind, Store, check};
use pool_fire::disk::{Disk, Trouble};
use pool_fire::rig::{self, Events, NAME, NEW, NOW, SHAPES, Shape};
use pool_fire::work::Work;
use pool_phys::blkptr::{BlockPointer, Checksum};
use pool_spa::{Event, Layout, VdevState, VdevStatus};
use pool_zpl::{Make, Writer};

const DISK: u64 = 80 << 20;

/// `zdb` and our own check find nothing.
fn judge(name: &str, disks: &[Disk]) {
    let pool = pool_spa::Pool::import(rig::devices(disks), Some(NAME)).expect("import");
    let found = check(&pool, true).expect("check");
    assert_eq!(found.fault_count, 0, "{name}: {:?}", found.faults);
    zdb(name, disks);
}

fn shape(name: &str) -> &'static Shape {
    SHAPES.iter().find(|shape| shape.name == name).expect("a shape")
}

fn work(store: &mut Store, work: &mut Work, steps: u64) {
    for _ in 0..steps {
        work.step(store).expect("an operation on a good pool");
    }
    store.commit(NOW.0).expect("commit");
}

fn holds(store: &Store, work: &Work) {
    let found = rig::read_all(store.pool(), NAME).expect("read everything");
    assert!(found == work.model, "the pool holds the model");
}

fn leaves(status: &[VdevStatus]) -> Vec<(u64, VdevState)> {
    fn walk(vdev: &VdevStatus, out: &mut Vec<(u64, VdevState)>) {
        if vdev.leaf.is_some() {
            out.push((vdev.guid, vdev.state));
        }
        vdev.children.iter().for_each(|child| walk(child, out));
    }
    let mut out = Vec::new();
    status.iter().for_each(|vdev| walk(vdev, &mut out));
    out
}

fn rot(disk: &Disk) {
    // Everything between the labels that was ever written.
    for (page, data) in disk.pages().iter() {
        if (1024..DISK / 4096 - 128).contains(&page) {
            let wrong: Vec<u8> = data.iter().map(|byte| byte ^ 0x5A).collect();
            disk.scribble(page * 4096, &wrong);
        }
    }
}

#[test]
fn reading_a_rotten_side_heals_it() {
    for name in ["mirror", "raidz1", "raidz2", "raidz3"] {
        let (disks, mut store) = rig::create(shape(name), 3).expect("create");
        let mut files = Work::new(5);
        work(&mut store, &mut files, 150);
        store.export(NOW.0).expect("export");
        drop(store);
        rot(&disks[0]);
        let events = Arc::new(Events::default());
        let mut store = rig::open(&disks, 9, Some(Arc::clone(&events))).expect("open");
        holds(&store, &files);
        let report = store.run_scan(ScanKind::Scrub, NOW.0).expect("scrub");
        assert_eq!(report.errors, 0, "{name}: {report:?}");
        let seen = events.take();
        let count = |wanted: fn(&Event) -> bool| seen.iter().filter(|event| wanted(event)).count();
        assert!(count(|event| matches!(event, Event::Checksum { .. })) > 20, "{name}: every wrong place is reported");
        assert!(count(|event| matches!(event, Event::Repaired { .. })) > 20, "{name}: and repaired");
        let guilty: Vec<VdevState> = leaves(&store.pool().status()).into_iter().map(|(_, state)| state).collect();
        assert_eq!(guilty[0], VdevState::Degraded, "{name}");
        assert!(guilty[1..].iter().all(|state| *state == VdevState::Online), "{name}: only the rotten one is blamed: {guilty:?}");
        // Healed: a second scrub finds nothing, and the others are not needed.
        let again = store.run_scan(ScanKind::Scrub, NOW.0).expect("scrub again");
        assert_eq!((again.bad, again.errors), (0, 0), "{name}: {again:?}");
        store.export(NOW.0).expect("export");
        judge(&format!("heal-{name}"), &disks);
        if name == "mirror" {
            let alone = pool_spa::Pool::import(rig::devices(&disks[..1]), None).expect("import the healed side alone");
            assert!(rig::read_all(&alone, NAME).expect("read") == files.model);
        }
    }
}

#[test]
fn a_pulled_disk_comes_back_and_is_resilvered() {
    for name in ["mirror", "raidz1", "raidz2"] {
        let (disks, mut store) = rig::create(shape(name), 4).expect("create");
        let mut files = Work::new(6);
        work(&mut store, &mut files, 80);
        let (guid, _) = leaves(&store.pool().status())[1];
        disks[1].break_down(&[Trouble::Gone]);
        work(&mut store, &mut files, 80);
        assert_eq!(store.pool().leaf_state(guid), Some(VdevState::Removed), "{name}");
        assert_eq!(store.pool().health(), VdevState::Degraded, "{name}");
        holds(&store, &files);
        // A restart without it, and more writing.
        store.export(NOW.0).expect("export");
        drop(store);
        let rest: Vec<Disk> = disks.iter().enumerate().filter(|(index, _)| *index != 1).map(|(_, disk)| disk.clone()).collect();
        let mut store = rig::open(&rest, 1, None).expect("open without it");
        assert_eq!(store.pool().leaf_state(guid), Some(VdevState::Unavail), "{name}");
        work(&mut store, &mut files, 40);
        disks[1].break_down(&[]);
        assert!(store.return_device(guid, disks[1].device()), "{name}: it is its own");
        work(&mut store, &mut files, 40);
        holds(&store, &files);
        let report = store.run_scan(ScanKind::Resilver, NOW.0).expect("resilver");
        assert!(report.repaired > 0 && report.errors == 0, "{name}: {report:?}");
        assert_eq!(store.pool().health(), VdevState::Online, "{name}: {:?}", store.pool().status());
        let scrub = store.run_scan(ScanKind::Scrub, NOW.0).expect("scrub");
        assert_eq!((scrub.bad, scrub.errors), (0, 0), "{name}: the resilver missed nothing: {scrub:?}");
        holds(&store, &files);
        store.export(NOW.0).expect("export");
        judge(&format!("pull-{name}"), &disks);
    }
}

#[test]
fn attach_replace_detach_and_offline_keep_everything() {
    let (mut disks, mut store) = rig::create(shape("disk"), 4).expect("create");
    let mut files = Work::new(8);
    work(&mut store, &mut files, 100);
    let (first, _) = leaves(&store.pool().status())[0];
    // A disk becomes a mirror.
    disks.push(Disk::new(DISK));
    let second = store.attach(first, "d1", disks[1].device(), false, NOW.0).expect("attach");
    assert!(store.detach(first, NOW.0).is_err(), "the new side has nothing yet");
    assert_eq!(store.pool().health(), VdevState::Degraded);
    work(&mut store, &mut files, 30);
    assert_eq!(store.run_scan(ScanKind::Resilver, NOW.0).expect("resilver").errors, 0);
    assert_eq!(store.pool().health(), VdevState::Online);
    store.export(NOW.0).expect("export");
    drop(store);
    judge("attach", &disks);
    // The first is replaced, in steps with work between.
    let mut store = rig::open(&disks, 2, None).expect("open the mirror");
    disks.push(Disk::new(DISK));
    store.attach(first, "d2", disks[2].device(), true, NOW.0).expect("replace");
    store.start_scan(ScanKind::Resilver);
    let mut steps = 0;
    while !store.scan_step(20, NOW.0).expect("step").done {
        work(&mut store, &mut files, 3);
        steps += 1;
    }
    assert!(steps > 3, "the walk was interrupted {steps} times");
    let names: Vec<u64> = leaves(&store.pool().status()).iter().map(|(guid, _)| *guid).collect();
    assert!(!names.contains(&first) && names.len() == 2, "the old side is gone: {names:?}");
    let scrub = store.run_scan(ScanKind::Scrub, NOW.0).expect("scrub");
    assert_eq!((scrub.bad, scrub.errors), (0, 0), "{scrub:?}");
    store.export(NOW.0).expect("export");
    drop(store);
    let now = [disks[1].clone(), disks[2].clone()];
    assert!(pool_spa::scan(&rig::devices(&disks[..1])).is_empty(), "the old side's labels are gone");
    judge("replace", &now);
    // Out of service by request, over a restart, and back.
    let mut store = rig::open(&now, 3, None).expect("open");
    store.offline(second, NOW.0).expect("offline");
    assert!(store.offline(names.iter().copied().find(|guid| *guid != second).expect("the other"), NOW.0).is_err(), "the last good side stays");
    work(&mut store, &mut files, 50);
    store.export(NOW.0).expect("export");
    drop(store);
    let mut store = rig::open(&now, 3, None).expect("open");
    assert_eq!(store.pool().leaf_state(second), Some(VdevState::Offline), "it stays so");
    store.online(second, NOW.0).expect("online");
    assert_eq!(store.run_scan(ScanKind::Resilver, NOW.0).expect("resilver").errors, 0);
    store.detach(names.iter().copied().find(|guid| *guid != second).expect("the other"), NOW.0).expect("detach");
    holds(&store, &files);
    store.export(NOW.0).expect("export");
    judge("detach", &now[..1]);
}

#[test]
fn a_mirror_is_filled_in_the_order_of_places_and_then_scrubbed() {
    let (mut disks, mut store) = rig::create(shape("mirror"), 4).expect("create");
    let mut files = Work::new(9);
    work(&mut store, &mut files, 100);
    let (first, _) = leaves(&store.pool().status())[0];
    disks.push(Disk::new(DISK));
    store.attach(first, "d2", disks[2].device(), true, NOW.0).expect("replace");
    store.start_rebuild().expect("a mirror");
    let mut steps = 0;
    while !store.rebuild_step(1, NOW.0).expect("step").done {
        // What is written meanwhile is everywhere.
        work(&mut store, &mut files, 2);
        steps += 1;
    }
    assert!(steps > 3, "{steps} steps");
    assert_eq!(store.pool().health(), VdevState::Online);
    let scrub = store.run_scan(ScanKind::Scrub, NOW.0).expect("scrub");
    assert_eq!((scrub.bad, scrub.errors), (0, 0), "the copy is complete: {scrub:?}");
    assert!(leaves(&store.pool().status()).iter().all(|(guid, _)| *guid != first), "the old side went with the scrub");
    holds(&store, &files);
    store.export(NOW.0).expect("export");
    judge("rebuild", &disks[1..]);
    let (_raidz, mut store) = rig::create(shape("raidz1"), 4).expect("create");
    let (first, _) = leaves(&store.pool().status())[0];
    store.attach(first, "new", Disk::new(DISK).device(), true, NOW.0).expect("replace");
    store.start_rebuild().expect_err("a raidz is refused by name");
}

#[test]
fn a_raidz_disk_is_replaced_under_load() {
    let (mut disks, mut store) = rig::create(shape("raidz1"), 4).expect("create");
    let mut files = Work::new(8);
    work(&mut store, &mut files, 100);
    let (old, _) = leaves(&store.pool().status())[1];
    disks[1].break_down(&[Trouble::Dead]);
    work(&mut store, &mut files, 60);
    assert_eq!(store.pool().leaf_state(old), Some(VdevState::Faulted), "too many errors in a row");
    let new = Disk::new(DISK);
    store.attach(old, "new", new.device(), true, NOW.0).expect("replace");
    work(&mut store, &mut files, 20);
    let report = store.run_scan(ScanKind::Resilver, NOW.0).expect("resilver");
    assert_eq!(report.errors, 0, "{report:?}");
    assert_eq!(store.pool().health(), VdevState::Online);
    disks[1] = new;
    holds(&store, &files);
    store.export(NOW.0).expect("export");
    drop(store);
    judge("raidz-replace", &disks);
    // Now any other disk may go.
    disks.remove(0);
    let pool = pool_spa::Pool::import(rig::devices(&disks), None).expect("import");
    assert!(rig::read_all(&pool, NAME).expect("read") == files.model);
}

#[test]
fn pools_grow_by_vdevs_and_by_larger_disks() {
    let (mut disks, mut store) = rig::create(shape("mirror"), 4).expect("create");
    let mut files = Work::new(8);
    work(&mut store, &mut files, 50);
    let total = store.free_total().1;
    let more = [Disk::new(DISK), Disk::new(DISK)];
    let layout = Layout { redundancy: Some(0), devices: vec![("d2".into(), more[0].device()), ("d3".into(), more[1].device())] };
    store.add(layout, false, NOW.0).expect("add");
    disks.extend(more);
    assert!(store.free_total().1 > total + (60 << 20));
    work(&mut store, &mut files, 50);
    store.export(NOW.0).expect("export");
    drop(store);
    judge("add", &disks);
    disks.iter().for_each(|disk| disk.grow(DISK * 2));
    let mut store = rig::open(&disks, 3, None).expect("open the larger disks");
    holds(&store, &files);
    let gained = store.expand(NOW.0).expect("expand");
    assert!(gained > 140 << 20, "{gained}");
    work(&mut store, &mut files, 50);
    holds(&store, &files);
    store.export(NOW.0).expect("export");
    judge("expand", &disks);
}

#[test]
fn syncs_survive_a_power_cut_and_zdb_accepts_the_log() {
    for name in ["disk", "raidz1", "mirror+log"] {
        let (disks, mut store) = rig::create(shape(name), 4).expect("create");
        let mut files = Work::new(11);
        let mut synced = BTreeMap::new();
        for _ in 0..120 {
            if files.step(&mut store).expect("step") == pool_fire::work::Did::Sync {
                synced = files.model.clone();
            }
        }
        let dataset = store.find(NAME).expect("find");
        store.log_sync(dataset, NOW.0).expect("sync");
        synced.clone_from(&files.model);
        // The power goes: nothing is committed or exported.
        drop(store);
        judge(&format!("log-{name}"), &disks);
        let store = rig::open(&disks, 5, None).expect("open with replay");
        assert!(rig::read_all(store.pool(), NAME).expect("read") == synced, "{name}: every synced change is there");
        drop(store);
        let mut store = rig::open(&disks, 6, None).expect("open again");
        work(&mut store, &mut files, 30);
        store.export(NOW.0).expect("export");
        judge(&format!("replayed-{name}"), &disks);
    }
}

#[test]
fn a_fragmented_pool_takes_large_blocks_in_pieces() {
    use pool_zpl::{Make, Writer};
    let (disks, mut store) = rig::create(shape("disk"), 4).expect("create");
    let dataset = store.find(NAME).expect("find");
    let mut next = rig::random(1);
    let mut noise = move |size: usize| -> Vec<u8> { (0..size).map(|_| next().to_le_bytes()[0]).collect() };
    // Fill with small files, then remove every other one: holes of a few KiB everywhere.
    let (mut count, mut full) = (0, 0);
    while full < 3 {
        let mut writer = Writer::open(&mut store, dataset).expect("open");
        let root = writer.root();
        let made = writer.make(root, format!("s{count}").as_bytes(), Make::File, &rig::NEW).and_then(|object| writer.write(object, 0, &noise(16 << 10), NOW));
        if made.is_err() {
            // Full for now: what is reserved for dirty data comes back with the commit.
            store.commit(NOW.0).expect("commit");
            full += 1;
        }
        count += 1;
        if count % 200 == 0 {
            store.commit(NOW.0).expect("commit");
        }
    }
    for index in (0..count).step_by(2) {
        let mut writer = Writer::open(&mut store, dataset).expect("open");
        let root = writer.root();
        drop(writer.remove(root, format!("s{index}").as_bytes(), NOW));
    }
    for _ in 0..6 {
        store.commit(NOW.0).expect("commit");
        let mut writer = Writer::open(&mut store, dataset).expect("open");
        let root = writer.root();
        writer.set_attributes(root, &pool_zpl::Change { modified: Some(NOW), ..Default::default() }).expect("touch");
    }
    let mut wanted = Vec::new();
    for index in 0..8 {
        let data = noise(1 << 20);
        let mut writer = Writer::open(&mut store, dataset).expect("open");
        let root = writer.root();
        let object = writer.make(root, format!("big{index}").as_bytes(), Make::File, &rig::NEW).expect("make");
        writer.write(object, 0, &data, NOW).expect("write");
        store.commit(NOW.0).expect("commit");
        wanted.push(data);
    }
    store.export(NOW.0).expect("export");
    drop(store);
    judge("gang", &disks);
    let mut store = rig::open(&disks, 5, None).expect("open");
    let files = rig::read_all(store.pool(), NAME).expect("read");
    for (index, data) in wanted.iter().enumerate() {
        assert!(files.get(&format!("/big{index}")) == Some(data), "big{index}");
    }
    let scrub = store.run_scan(ScanKind::Scrub, NOW.0).expect("scrub");
    assert_eq!((scrub.bad, scrub.errors), (0, 0));
    // Freeing them frees the pieces.
    for index in 0..8 {
        let mut writer = Writer::open(&mut store, dataset).expect("open");
        let root = writer.root();
        writer.remove(root, format!("big{index}").as_bytes(), NOW).expect("remove");
    }
    store.export(NOW.0).expect("export");
    judge("ungang", &disks);
}

#[test]
fn a_spare_stands_in_and_goes_back() {
    for name in ["mirror", "raidz1"] {
        let (mut disks, mut store) = rig::create(shape(name), 4).expect("create");
        let mut files = Work::new(9);
        work(&mut store, &mut files, 60);
        let (spare, cache) = (Disk::new(DISK), Disk::new(DISK));
        let guid = store.add_auxiliary(Auxiliary::Spare, "spare", spare.device(), NOW.0).expect("add a spare");
        store.add_auxiliary(Auxiliary::Cache, "cache", cache.device(), NOW.0).expect("add a cache device");
        store.export(NOW.0).expect("export");
        drop(store);
        disks.extend([spare, cache]);
        judge(&format!("spare-idle-{name}"), &disks);
        let mut store = rig::open(&disks, 8, None).expect("open");
        assert_eq!(store.auxiliary_lines().expect("lines"), "cache\n  cache  ONLINE\nspares\n  spare  AVAIL\n");
        // A disk goes; the spare takes its place.
        let (failed, _) = leaves(&store.pool().status())[1];
        disks[1].break_down(&[Trouble::Dead]);
        work(&mut store, &mut files, 60);
        assert_eq!(store.engage_spares(NOW.0).expect("engage"), [(failed, guid)], "{name}");
        assert_eq!(store.run_scan(ScanKind::Resilver, NOW.0).expect("resilver").errors, 0);
        assert!(store.auxiliaries(Auxiliary::Spare).expect("spares")[0].in_use);
        assert!(store.remove_auxiliary(guid, NOW.0).is_err(), "it is in use");
        work(&mut store, &mut files, 30);
        holds(&store, &files);
        store.export(NOW.0).expect("export");
        drop(store);
        disks[1].break_down(&[]);
        let without: Vec<Disk> = disks.iter().enumerate().filter(|(index, _)| *index != 1).map(|(_, disk)| disk.clone()).collect();
        judge(&format!("spare-used-{name}"), &without);
        // A new disk for the failed one; then the spare is free again.
        let mut store = rig::open(&without, 8, None).expect("open without the failed disk");
        let new = Disk::new(DISK);
        store.attach(failed, "new", new.device(), true, NOW.0).expect("replace what the spare stands in for");
        assert_eq!(store.run_scan(ScanKind::Resilver, NOW.0).expect("resilver").errors, 0);
        assert_eq!(store.pool().health(), VdevState::Online, "{name}: {:?}", store.pool().status());
        let spares = store.auxiliaries(Auxiliary::Spare).expect("spares");
        assert!(!spares[0].in_use && spares[0].present, "{name}: {spares:?}");
        holds(&store, &files);
        store.export(NOW.0).expect("export");
        drop(store);
        disks[1] = new;
        judge(&format!("spare-back-{name}"), &disks);
        // It fails again; this time the spare stays for good.
        let mut store = rig::open(&disks, 8, None).expect("open");
        let (failed, _) = leaves(&store.pool().status())[0];
        disks[0].break_down(&[Trouble::Gone]);
        work(&mut store, &mut files, 30);
        assert_eq!(store.engage_spares(NOW.0).expect("engage").len(), 1);
        assert_eq!(store.run_scan(ScanKind::Resilver, NOW.0).expect("resilver").errors, 0);
        store.detach(failed, NOW.0).expect("detach the failed one");
        assert!(store.auxiliaries(Auxiliary::Spare).expect("spares").is_empty(), "it is no spare any more");
        assert_eq!(store.pool().health(), VdevState::Online);
        let scrub = store.run_scan(ScanKind::Scrub, NOW.0).expect("scrub");
        assert_eq!((scrub.bad, scrub.errors), (0, 0), "{name}: {scrub:?}");
        holds(&store, &files);
        store.export(NOW.0).expect("export");
        drop(store);
        disks.remove(0);
        judge(&format!("spare-for-good-{name}"), &disks);
    }
}

#[test]
fn the_history_keeps_its_beginning_and_its_newest_lines() {
    let (disks, mut store) = rig::create(shape("disk"), 4).expect("create");
    let line = |number: u64| format!("zfs set example:number={number} {}", "x".repeat(usize::try_from(number % 90).expect("small")));
    for number in 0..1500 {
        store.note_history(&line(number), NOW.0 + number).expect("note");
    }
    store.export(NOW.0).expect("export");
    let datasets = pool_dmu::Datasets::open(store.pool()).expect("datasets");
    let found = pool_dmu::history(datasets.mos()).expect("read it");
    assert!(found.len() > 300 && found.len() < 1500, "{} lines", found.len());
    assert_eq!(found[0].text, line(0));
    for (back, entry) in (1..).zip(found[1..].iter().rev()) {
        assert_eq!((entry.text.as_str(), entry.time), (line(1500 - back).as_str(), NOW.0 + 1500 - back));
    }
    judge("history", &disks);
}

#[test]
fn a_disk_that_shrank_is_not_written() {
    let (disks, mut store) = rig::create(shape("mirror"), 4).expect("create");
    let mut files = Work::new(21);
    work(&mut store, &mut files, 40);
    let (guid, _) = leaves(&store.pool().status())[1];
    drop(store);
    let small = Disk::of(disks[1].pages(), DISK - (16 << 20));
    let mut store = rig::open(&[disks[0].clone(), small.clone()], 5, None).expect("one side is there");
    assert_eq!(store.pool().leaf_state(guid), Some(VdevState::Unavail));
    work(&mut store, &mut files, 20);
    holds(&store, &files);
    drop(store);
    assert!(rig::open(&[small], 6, None).is_err(), "alone it is no pool");
}

#[test]
fn of_a_disk_and_its_old_copy_the_disk_is_taken() {
    let (disks, mut store) = rig::create(shape("mirror"), 4).expect("create");
    let mut files = Work::new(22);
    work(&mut store, &mut files, 30);
    let old = disks[1].fork();
    work(&mut store, &mut files, 60);
    drop(store);
    for order in [[0, 1, 2], [2, 0, 1]] {
        let all = [&disks[0], &disks[1], &old];
        let mut store = rig::open(&order.map(|index| all[index].clone()), 5, None).expect("open");
        assert_eq!(store.pool().doubles(), [leaves(&store.pool().status())[1].0]);
        let scrub = store.run_scan(ScanKind::Scrub, NOW.0).expect("scrub");
        assert_eq!((scrub.bad, scrub.errors, store.pool().health()), (0, 0, VdevState::Online), "{order:?}");
        holds(&store, &files);
    }
}

#[test]
fn the_last_that_has_the_data_stays_however_often_it_fails() {
    for (name, trouble, state) in [("disk", Trouble::ReadErrors(1), VdevState::Degraded), ("mirror", Trouble::Dead, VdevState::Faulted)] {
        let (disks, mut store) = rig::create(shape(name), 4).expect("create");
        let mut files = Work::new(23);
        work(&mut store, &mut files, 80);
        let (guid, _) = leaves(&store.pool().status())[0];
        disks[0].break_down(&[trouble]);
        let scrub = store.run_scan(ScanKind::Scrub, NOW.0);
        assert!(name == "disk" || scrub.is_ok(), "{name}: {scrub:?}");
        for _ in 0..20 {
            let found = rig::read_all(store.pool(), NAME);
            assert_eq!(found.is_ok(), name == "mirror", "{name}");
        }
        assert_eq!(store.pool().leaf_state(guid), Some(state), "{name}");
        disks[0].break_down(&[]);
        holds(&store, &files);
    }
}

#[test]
fn a_disk_that_came_back_amid_a_resilver_still_lacks_what_it_lacks() {
    let (disks, mut store) = rig::create(shape("raidz2"), 4).expect("create");
    let mut files = Work::new(24);
    work(&mut store, &mut files, 40);
    let guids: Vec<u64> = leaves(&store.pool().status()).into_iter().map(|(guid, _)| guid).collect();
    for index in [1, 2] {
        disks[index].break_down(&[Trouble::Gone]);
        work(&mut store, &mut files, 60);
    }
    for index in [1, 2] {
        disks[index].break_down(&[]);
        assert!(store.return_device(guids[index], disks[index].device()));
        if index == 1 {
            store.start_scan(ScanKind::Resilver);
            assert!(!store.scan_step(40, NOW.0).expect("a step").done);
        }
    }
    while !store.scan_step(1 << 20, NOW.0).expect("a step").done {}
    assert!(store.pool().is_whole(guids[1]) && !store.pool().is_whole(guids[2]));
    let report = store.run_scan(ScanKind::Resilver, NOW.0).expect("resilver");
    assert!(report.repaired > 0 && report.errors == 0, "{report:?}");
    let scrub = store.run_scan(ScanKind::Scrub, NOW.0).expect("scrub");
    store.clear_errors(None);
    assert_eq!((scrub.bad, scrub.errors, store.pool().health()), (0, 0, VdevState::Online));
    holds(&store, &files);
}

#[test]
fn what_has_no_parity_is_not_rebuilt_from_it() {
    let (disks, mut store) = rig::create(shape("raidz1"), 4).expect("create");
    let dataset = store.find(NAME).expect("find");
    let mut dice = rig::random(25);
    let data: Vec<u8> = (0..16 << 10).flat_map(|_| dice().to_le_bytes()).collect();
    let mut writer = Writer::open(&mut store, dataset).expect("open");
    let root = writer.root();
    let dump = writer.make(root, b"dump", Make::File, &NEW).expect("make");
    writer.write(dump, 0, &data, NOW).expect("write");
    drop(writer);
    store.commit(NOW.0).expect("commit");
    let block = store.edit_dataset(dataset, None).map(|(set, pool)| set.edit(pool, dump).expect("edit").committed(pool, 0)).expect("open");
    let block = block.expect("readable").expect("is there");
    // As illumos leaves it: the places of parity hold anything.
    let plain = BlockPointer { checksum: Checksum::NoParity, ..block.clone() };
    let mut whole = 0;
    for disk in &disks {
        disk.break_down(&[Trouble::ReadErrors(1)]);
        assert!(store.pool().read(&block).is_ok_and(|found| found == data), "parity makes up for it");
        whole += usize::from(store.pool().read(&plain).is_ok_and(|found| found == data));
        disk.break_down(&[]);
    }
    assert_eq!(whole, 1, "only where the disk has nothing but parity");
    let mut parity = 0;
    for disk in &disks {
        let good = disk.pages();
        rot(disk);
        let found = store.pool().verify(&plain).expect("checked");
        parity += usize::from(found.good && found.bad == 0 && store.pool().read(&plain).is_ok_and(|found| found == data));
        good.iter().for_each(|(page, bytes)| disk.scribble(page * 4096, bytes));
    }
    assert_eq!(parity, 1, "what is in the place of parity is nobody's fault");
    assert!(store.pool().read(&block).is_ok_and(|found| found == data), "nothing was written afresh");
}
