//! Files: written, changed, removed, over many transaction groups.

use std::collections::BTreeMap;

use pool_dmu::edit::EditError;
use pool_dmu::{Datasets, Error, Store};
use pool_spa::Pool;
use pool_zpl::{Change, Filesystem, Make, NewEntry, Writer, create_filesystem};

use crate::rig::{NEW, NOW, create, devices, folder, judge, random, read_all};

#[test]
fn an_empty_pool_of_every_layout_is_accepted() {
    for (name, redundancy, count, ashift) in
        [("disk9", None, 1, 9), ("disk12", None, 1, 12), ("mirror", Some(0), 2, 9), ("rz1", Some(1), 3, 12), ("rz2", Some(2), 5, 9), ("rz3", Some(3), 6, 9)]
    {
        let folder = folder(name);
        create(&folder, name, redundancy, count, ashift).export(NOW.0).expect("export");
        judge(&folder, name);
        assert!(read_all(&folder, name).is_empty());
    }
}

#[test]
fn files_snapshots_and_removals_over_many_txgs_are_accepted() {
    for (name, redundancy, count, ashift) in [("work1", None, 1, 9), ("work2", Some(0), 2, 12), ("work3", Some(1), 4, 9)] {
        let folder = folder(name);
        let mut store = create(&folder, name, redundancy, count, ashift);
        let home = format!("{name}/home");
        create_filesystem(&mut store, &home, &NEW).expect("make a file system");
        let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut snapshots: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
        let mut next = random(count as u64);
        for round in 0..12_u64 {
            let dataset = store.find(&home).expect("find");
            let mut writer = Writer::open(&mut store, dataset).expect("open for writing");
            for _ in 0..25 {
                let pick = next();
                let directory = format!("dir{}", pick % 4);
                let root = writer.root();
                let parent = match writer.lookup(root, directory.as_bytes()).expect("look up") {
                    Some(parent) => parent,
                    None => writer.make(root, directory.as_bytes(), Make::Directory, &NEW).expect("make a directory"),
                };
                let long = if pick >> 8 & 7 == 0 { "n".repeat(90) } else { String::new() };
                let file = format!("f{}{long}", pick >> 16 & 31);
                let path = format!("/{directory}/{file}");
                match pick >> 32 & 7 {
                    0 if model.contains_key(&path) => {
                        writer.remove(parent, file.as_bytes(), NOW).expect("remove");
                        model.remove(&path);
                    }
                    1 if !model.contains_key(&path) => {
                        let target = b"some/where".to_vec();
                        writer.make(parent, file.as_bytes(), Make::Symlink(&target), &NEW).expect("link");
                        model.insert(path, target);
                    }
                    _ => {
                        let object = match writer.lookup(parent, file.as_bytes()).expect("look up") {
                            Some(object) => object,
                            None => writer.make(parent, file.as_bytes(), Make::File, &NewEntry { mode: 0o640, uid: pick & 3, gid: 7, now: NOW }).expect("make"),
                        };
                        let is_link = writer.stat(object).expect("stat").mode >> 12 == 10;
                        if is_link {
                            continue;
                        }
                        let offset = usize::try_from(next() % if pick >> 40 & 3 == 0 { 700_000 } else { 3000 }).expect("small");
                        let size = usize::try_from(next() % if pick >> 44 & 3 == 0 { 300_000 } else { 5000 }).expect("small");
                        let data: Vec<u8> = (0..size).map(|at| if pick >> 50 & 1 == 0 { (at / 64) as u8 } else { next() as u8 }).collect();
                        writer.write(object, offset as u64, &data, NOW).expect("write");
                        let whole = model.entry(path).or_default();
                        if whole.len() < offset + size {
                            whole.resize(offset + size, 0);
                        }
                        whole[offset..offset + size].copy_from_slice(&data);
                    }
                }
            }
            store.commit(NOW.0 + round).expect("commit");
            if round % 4 == 1 {
                let snapshot = format!("s{round}");
                store.snapshot(&home, &snapshot, NOW.0).expect("snapshot");
                snapshots.insert(snapshot, model.clone());
            }
            if round % 5 == 3 {
                // Leave and come back, as after a restart.
                store.export(NOW.0).expect("export");
                drop(store);
                judge(&folder, name);
                store = Store::open(Pool::import(devices(&folder), None).expect("import"), random(round)).expect("open for writing");
            }
        }
        store.export(NOW.0).expect("export");
        judge(&folder, name);
        assert_eq!(read_all(&folder, &home), model, "{name}");
        for (snapshot, then) in snapshots {
            assert_eq!(read_all(&folder, &format!("{home}@{snapshot}")), then, "{name}@{snapshot}");
        }
    }
}

#[test]
fn large_directories_and_large_files_are_accepted() {
    let folder = folder("large");
    let mut store = create(&folder, "large", None, 1, 9);
    let dataset = store.find("large").expect("find");
    let mut writer = Writer::open(&mut store, dataset).expect("open");
    let root = writer.root();
    let directory = writer.make(root, b"many", Make::Directory, &NEW).expect("make");
    for index in 0..6000 {
        writer.make(directory, format!("entry-with-a-name-{index:05}").as_bytes(), Make::File, &NEW).expect("make");
    }
    let big = writer.make(root, b"big", Make::File, &NEW).expect("make");
    let mut next = random(3);
    let data: Vec<u8> = (0..20 << 20).map(|_| next() as u8).collect();
    writer.write(big, 0, &data, NOW).expect("write");
    let sparse = writer.make(root, b"sparse", Make::File, &NEW).expect("make");
    writer.write(sparse, 1 << 40, b"far out", NOW).expect("write far out");
    store.export(NOW.0).expect("export");
    judge(&folder, "large");
    let pool = Pool::import(devices(&folder), None).expect("import");
    let datasets = Datasets::open(&pool).expect("datasets");
    let fs = Filesystem::open(datasets.open_dataset(&datasets.find("large").expect("find")).expect("open")).expect("fs");
    assert_eq!(fs.read_dir(fs.lookup(b"many").expect("many")).expect("list").len(), 6000);
    for index in (0..6000).step_by(97) {
        fs.lookup(format!("many/entry-with-a-name-{index:05}").as_bytes()).expect("each name is found by its hash");
    }
    assert_eq!(fs.stat(fs.lookup(b"sparse").expect("sparse")).expect("stat").size, (1 << 40) + 7);
    let mut found = Vec::new();
    fs.read_file::<Error>(fs.lookup(b"big").expect("big"), |block| {
        found.extend_from_slice(block);
        Ok(())
    })
    .expect("read");
    assert!(found == data);
}

#[test]
fn a_full_pool_says_so_and_stays_whole() {
    let folder = folder("full");
    let mut store = create(&folder, "full", None, 1, 9);
    let mut next = random(5);
    let mut committed = 0;
    for index in 0..200 {
        let dataset = store.find("full").expect("find");
        let mut writer = Writer::open(&mut store, dataset).expect("open");
        let root = writer.root();
        // Refused before anything is changed, or, where the estimate was too low, by the commit.
        let data: Vec<u8> = (0..1 << 20).map(|_| next() as u8).collect();
        let name = format!("f{index}");
        let taken = writer.make(root, name.as_bytes(), Make::File, &NEW).and_then(|object| writer.write(object, 0, &data, NOW));
        match taken.and_then(|()| store.commit(NOW.0)) {
            Ok(()) => committed += 1,
            Err(error) => {
                assert_eq!(error, EditError::NoSpace);
                break;
            }
        }
    }
    assert!((50..90).contains(&committed), "{committed} MiB fitted into 96");
    drop(store);
    judge(&folder, "full");
    assert_eq!(read_all(&folder, "full").len(), committed);
}

/// What the model knows of a file: its contents and whether it is a directory or a link is told by the tree's keys.
#[derive(Clone, Default)]
struct Model {
    /// Path to object; every name.
    names: BTreeMap<String, u64>,
    /// Object to contents (files) or target (links).
    contents: BTreeMap<u64, Vec<u8>>,
    directories: BTreeMap<u64, usize>,
}

#[test]
fn random_operations_equal_a_model_over_many_groups() {
    let folder = folder("posix");
    let mut store = create(&folder, "posix", Some(0), 2, 9);
    let dataset = store.find("posix").expect("find");
    let mut next = random(11);
    let mut model = Model::default();
    let mut links = std::collections::BTreeSet::new();
    let mut held: Vec<u64> = Vec::new();
    for round in 0..12 {
        let mut writer = Writer::open(&mut store, dataset).expect("open");
        let root = writer.root();
        model.directories.entry(root).or_insert(0);
        for step in 0..120_u64 {
            let now = (NOW.0 + round, step);
            let directories: Vec<u64> = model.directories.keys().copied().collect();
            let mut pick = |limit: usize| next() as usize % limit.max(1);
            let parent = directories[pick(directories.len())];
            let name = format!("n{}", pick(12));
            let key = format!("{parent}/{name}");
            let there = model.names.get(&key).copied();
            match pick(11) {
                0 | 1 => {
                    let made = writer.make(parent, name.as_bytes(), Make::File, &NEW);
                    assert_eq!(made.is_err(), there.is_some());
                    if let Ok(object) = made {
                        model.names.insert(key, object);
                        model.contents.insert(object, Vec::new());
                    }
                }
                2 => {
                    let made = writer.make(parent, name.as_bytes(), Make::Directory, &NEW);
                    assert_eq!(made.is_err(), there.is_some());
                    if let Ok(object) = made {
                        model.names.insert(key, object);
                        model.directories.insert(object, 0);
                    }
                }
                3 => {
                    // Beyond 120 bytes the target goes into a spill block.
                    let target = vec![b'x'; 1 + pick(700)];
                    let made = writer.make(parent, name.as_bytes(), Make::Symlink(&target), &NEW);
                    assert_eq!(made.is_err(), there.is_some());
                    if let Ok(object) = made {
                        model.names.insert(key, object);
                        model.contents.insert(object, target);
                        links.insert(object);
                    }
                }
                4 | 5 => {
                    let Some(object) = there.filter(|object| model.contents.contains_key(object) && !links.contains(object)) else { continue };
                    let (offset, len) = (pick(400_000), pick(60_000));
                    let byte = pick(255) as u8 + 1;
                    writer.write(object, offset as u64, &vec![byte; len], now).expect("write");
                    let contents = model.contents.get_mut(&object).expect("known");
                    contents.resize(contents.len().max(offset + len), 0);
                    contents[offset..offset + len].fill(byte);
                }
                6 => {
                    let Some(object) = there.filter(|object| model.contents.contains_key(object) && !links.contains(object)) else { continue };
                    let size = pick(500_000);
                    writer.truncate(object, size as u64, now).expect("truncate");
                    model.contents.get_mut(&object).expect("known").resize(size, 0);
                }
                7 => {
                    let Some(object) = there.filter(|object| model.contents.contains_key(object)) else { continue };
                    let second = format!("l{}", pick(8));
                    let made = writer.link(parent, second.as_bytes(), object, now);
                    assert_eq!(made.is_err(), model.names.contains_key(&format!("{parent}/{second}")));
                    if made.is_ok() {
                        model.names.insert(format!("{parent}/{second}"), object);
                    }
                }
                8 => {
                    let keep = pick(2) == 0;
                    let removed = writer.remove_entry(parent, name.as_bytes(), now, keep);
                    let Some(object) = there else {
                        assert!(removed.is_err());
                        continue;
                    };
                    let full = model.names.keys().any(|other| other.starts_with(&format!("{object}/")));
                    assert_eq!(removed.is_err(), model.directories.contains_key(&object) && full);
                    if removed.is_ok() {
                        model.names.remove(&key);
                        model.directories.remove(&object);
                        if !model.names.values().any(|other| *other == object) {
                            model.contents.remove(&object);
                            links.remove(&object);
                            if keep {
                                held.push(object);
                            }
                        }
                    }
                }
                9 => {
                    // Renames of files only: moving directories below themselves is the caller's to refuse.
                    let Some(object) = there.filter(|object| model.contents.contains_key(object)) else { continue };
                    let target = directories[pick(directories.len())];
                    let second = format!("n{}", pick(12));
                    let other_key = format!("{target}/{second}");
                    let other = model.names.get(&other_key).copied();
                    let exchange = pick(3) == 0;
                    let done = writer.rename((parent, name.as_bytes()), (target, second.as_bytes()), exchange, now, false);
                    let fine = match other {
                        None => !exchange,
                        Some(other) => exchange || other == object || !model.directories.contains_key(&other),
                    };
                    assert_eq!(done.is_ok(), fine, "{key} -> {other_key} exchange {exchange}: {done:?}");
                    if fine && other != Some(object) {
                        model.names.remove(&key);
                        model.names.insert(other_key, object);
                        match other {
                            Some(other) if exchange => drop(model.names.insert(key, other)),
                            Some(other) if !model.names.values().any(|known| *known == other) => drop(model.contents.remove(&other)),
                            _ => {}
                        }
                    }
                }
                _ => {
                    let Some(object) = there else { continue };
                    let mode = pick(0o1000) as u64;
                    writer.set_attributes(object, &Change { mode: Some(mode), uid: Some(7), ..Change::default() }).expect("chmod");
                    let node = writer.stat(object).expect("stat");
                    assert_eq!((node.mode & 0o7777, node.uid), (mode, 7));
                }
            }
        }
        for object in held.drain(..) {
            writer.reap(object).expect("reap");
        }
        assert_eq!(writer.unlinked().expect("list"), []);
        for (key, object) in &model.names {
            let (parent, name) = key.split_once('/').expect("a key");
            assert_eq!(writer.lookup(parent.parse().expect("number"), name.as_bytes()).expect("look up"), Some(*object), "{key}");
        }
        for (object, contents) in &model.contents {
            let node = writer.stat(*object).expect("stat");
            assert_eq!(node.links as usize, model.names.values().filter(|other| *other == object).count());
            if links.contains(object) {
                assert_eq!(node.symlink.as_ref(), Some(contents));
                continue;
            }
            let mut found = vec![0; contents.len() + 10];
            let count = writer.read(*object, 0, &mut found).expect("read");
            assert!(found[..count] == contents[..], "object {object}");
        }
        store.commit(NOW.0 + round).expect("commit");
    }
    store.export(NOW.0).expect("export");
    judge(&folder, "posix");
    let found = read_all(&folder, "posix");
    let files = model.names.values().filter(|object| model.contents.contains_key(object)).count();
    assert_eq!(found.len(), files);
}

#[test]
fn a_snapshot_uses_what_only_it_still_holds() {
    let folder = folder("unique");
    let mut store = create(&folder, "unique", Some(0), 2, 9);
    let dataset = store.find("unique").expect("find");
    let mut next = random(21);
    let data: Vec<u8> = (0..1 << 20).map(|_| next() as u8).collect();
    let mut writer = Writer::open(&mut store, dataset).expect("open");
    let root = writer.root();
    let object = writer.make(root, b"f", Make::File, &NEW).expect("make");
    writer.write(object, 0, &data, NOW).expect("write");
    store.snapshot("unique", "s", NOW.0).expect("snapshot");
    let used = |store: &Store| Datasets::open(store.pool()).expect("datasets").find("unique@s").expect("find").used_bytes;
    assert_eq!(used(&store), 0);
    Writer::open(&mut store, dataset).expect("open").remove(root, b"f", NOW).expect("remove");
    store.commit(NOW.0).expect("commit");
    // The file, its indirect block, and the metadata that changed with it.
    let found = used(&store);
    assert!((1 << 20..(1 << 20) + (200 << 10)).contains(&found), "{found} bytes for a file of 1 MiB");
    store.export(NOW.0).expect("export");
    judge(&folder, "unique");
}
