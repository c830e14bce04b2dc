//! Pools of OpenZFS 2.1 with the features it enables when not told otherwise: we take them over, write them, and refuse by name what we cannot write.
//!
//! The image is that of [`pool_fire::relic`]; `relic.lists` says what is in it: made by the module.

use std::path::Path;

use pool_dmu::edit::EditError;
use pool_dmu::{Datasets, Store, check, check_space, unwritable};
use pool_fire::disk::Disk;
use pool_fire::listing::{listing, names};
use pool_fire::rig::{self, NEW, NOW, SHAPES};
use pool_phys::nvlist::Value;
use pool_spa::Pool;
use pool_zpl::{Make, Writer, create_filesystem, replay_logs};

mod judge;

fn relic() -> Disk {
    pool_fire::relic::disk().expect("unpack the image")
}

fn import(disk: &Disk) -> Pool {
    Pool::import(vec![disk.device()], None).expect("import")
}

fn open(disk: &Disk, seed: u64) -> Store {
    let mut store = Store::open(import(disk), rig::random(seed)).expect("open for writing");
    replay_logs(&mut store, NOW).expect("replay");
    store
}

/// What the module said is in each dataset.
fn lists() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/relic.lists")).expect("read the lists");
    text.split("== ").skip(1).map(|part| part.split_once('\n').expect("a name and a list")).map(|(name, list)| (name.into(), list.into())).collect()
}

fn same(pool: &Pool, except: &str) {
    for (name, list) in lists().into_iter().filter(|(name, _)| name != except) {
        let found = listing(pool, &name).unwrap_or_else(|error| panic!("{name}: {error}"));
        let first = list.lines().zip(found.lines()).find(|(list, found)| list != found);
        assert!(list == found, "{name}: {} and {} lines, the first to differ is {first:?}", list.lines().count(), found.lines().count());
    }
}

fn sound(pool: &Pool) {
    let found = check(pool, true).expect("check");
    assert_eq!(found.fault_count, 0, "{:?}", found.faults);
    assert_eq!(check_space(pool).expect("count"), Vec::new());
}

/// How often a feature is in use.
fn uses(pool: &Pool, feature: &str) -> u64 {
    let features = Datasets::open(pool).expect("tree").features().expect("features");
    features.iter().find(|(name, ..)| name.ends_with(feature)).expect("the pool has it").1
}

/// Objects that a file system counts for a project.
fn objects_of_project(store: &Store, name: &str, project: u64) -> u64 {
    let datasets = Datasets::open(store.pool()).expect("tree");
    let root = datasets.find(name).expect("find").dataset.root;
    let raw = store.pool().read(&root).expect("read");
    // Format section 8.2: the table of projects is the third of those behind the meta-dnode.
    let dnode = pool_phys::dnode::Dnode::parse(&raw[2048..]).expect("a dnode").expect("is there");
    let mut table = Vec::new();
    for pointer in &dnode.pointers {
        table.extend(store.pool().read(pointer).expect("read"));
    }
    let pool_phys::zap::Root::Micro(entries) = pool_phys::zap::parse_root(&table).expect("a table") else { panic!("a small table") };
    entries.iter().find(|entry| entry.name == format!("obj-{project:x}").as_bytes()).and_then(|entry| entry.number()).unwrap_or(0)
}

fn fill(store: &mut Store, dataset: &str, seed: u64) {
    let head = store.find(dataset).expect("find");
    let mut next = rig::random(seed);
    let mut writer = Writer::open(store, head).expect("open");
    let root = writer.root();
    let home = writer.make(root, format!("ours{seed}").as_bytes(), Make::Directory, &NEW).expect("make");
    for (index, size) in [100, 5000, 200_000, 1_500_000, 2_500_000].into_iter().enumerate() {
        let file = writer.make(home, format!("file{index}").as_bytes(), Make::File, &NEW).expect("make");
        let data: Vec<u8> = (0..size)
            .map(|at: u32| match at / 3000 % 4 {
                0 => (at >> 9).to_le_bytes()[0],
                1 => 0,
                _ => next().to_le_bytes()[0],
            }).collect();
        writer.write(file, 0, &data, NOW).expect("write");
    }
    writer.remove(home, b"file1", NOW).expect("remove");
    store.commit(NOW.0).expect("commit");
}

#[test]
fn a_pool_as_openzfs_leaves_it_is_taken_over() {
    let disk = relic();
    let pool = import(&disk);
    assert!(uses(&pool, ":log_spacemap") == 1 && uses(&pool, ":livelist") == 1 && uses(&pool, ":bookmark_written") == 1, "the image is not what it was");
    sound(&pool);
    // Reading is as good before as after.
    assert!(pool.label_text("hostname").is_some(), "the module's machine had it");
    drop(pool);
    let mut store = open(&disk, 1);
    same(store.pool(), "");
    // Its name would keep us from the pool after a crash.
    store.commit(NOW.0).expect("commit");
    assert_eq!(import(&disk).label_text("hostname"), None);
    for (seed, name) in (2..).zip(["relic", "relic/clone", "relic/rich", "relic/gzip"]) {
        fill(&mut store, name, seed);
    }
    // A new file belongs to its directory's project.
    let head = store.find("relic").expect("find");
    let mut writer = Writer::open(&mut store, head).expect("open");
    let root = writer.root();
    let project = writer.lookup(root, b"project").expect("look up").expect("is there");
    writer.make(project, b"ours", Make::File, &NEW).expect("make");
    writer.make(project, b"below", Make::Directory, &NEW).expect("make");
    store.commit(NOW.0).expect("commit");
    assert_eq!(objects_of_project(&store, "relic", 42), 4);
    store.snapshot_tree("relic", "ours", NOW.0).expect("snapshot");
    fill(&mut store, "relic/rich", 9);
    store.rollback("relic/rich", NOW.0).expect("roll back");
    create_filesystem(&mut store, "relic/made", &NEW).expect("make");
    store.promote("relic/clone", NOW.0).expect("promote");
    store.destroy_snapshots(&["relic/rich@two"], false, NOW.0).expect("destroy");
    store.destroy_tree("relic/gzip", false, NOW.0).expect("destroy");
    store.drain(NOW.0).expect("free");
    store.export(NOW.0).expect("export");
    drop(store);
    let pool = import(&disk);
    sound(&pool);
    for feature in [":log_spacemap", ":livelist", ":bookmark_written", ":bookmark_v2"] {
        assert_eq!(uses(&pool, feature), 0, "{feature} is retired");
    }
    // Accounts by object and project: all file systems and all their snapshots.
    let members = names(&pool).expect("names").len() as u64;
    assert_eq!((uses(&pool, ":userobj_accounting"), uses(&pool, ":project_quota")), (members, members));
    assert_eq!(Datasets::open(&pool).expect("tree").bookmarks("relic").expect("bookmarks").len(), 1);
    drop(pool);
    judge::zdb_of("relic", "relic", &[disk]);
}

#[test]
fn a_cut_during_the_takeover_leaves_it_to_be_taken_over_again() {
    let disk = relic();
    let before = disk.fork();
    let mut store = open(&disk, 1);
    fill(&mut store, "relic", 7);
    // Everything but the uberblocks reached the disk: the pool is as it was.
    let size = disk.device().size_bytes();
    let rings = [128 << 10, 384 << 10, size - (512 << 10) + (128 << 10), size - (128 << 10)];
    for ring in rings {
        let mut old = vec![0; 128 << 10];
        before.device().read(ring, &mut old).expect("read");
        disk.scribble(ring, &old);
    }
    drop(store);
    let store = open(&disk, 2);
    same(store.pool(), "");
    sound(store.pool());
}

#[test]
fn features_that_we_cannot_write_are_named_and_leave_the_pool_readable() {
    let (disks, mut store) = rig::create(&SHAPES[0], 3).expect("create");
    for (table, guid) in [("features_for_write", "com.delphix:zpool_checkpoint"), ("features_for_read", "com.datto:encryption")] {
        let object = Datasets::open(store.pool()).expect("tree").mos().lookup_number(1, table).expect("table");
        store.set_extra(object, guid, &Value::Number(1)).expect("claim that it is in use");
    }
    store.export(NOW.0).expect("export");
    drop(store);
    let pool = import(&disks[0]);
    let datasets = Datasets::open(&pool).expect("it can be read");
    assert_eq!(unwritable(&datasets).expect("features"), ["com.datto:encryption", "com.delphix:zpool_checkpoint"]);
    listing(&pool, rig::NAME).expect("it can be read");
    drop(datasets);
    let refusal = Store::open(pool, rig::random(4)).expect_err("it cannot be written");
    assert!(matches!(&refusal, EditError::Features(names) if names.len() == 2), "{refusal}");
    assert!(refusal.to_string().contains("com.delphix:zpool_checkpoint"), "{refusal}");
}

#[test]
fn data_is_stored_as_the_properties_say() {
    let (disks, mut store) = rig::create(&SHAPES[0], 5).expect("create");
    for (index, (compression, checksum, record)) in [(5, 8, 4096), (13, 11, 1 << 20), (16, 7, 1 << 20), (14, 6, 2048), (3, 1, 128 << 10)].into_iter().enumerate() {
        let name = format!("{}/fs{index}", rig::NAME);
        create_filesystem(&mut store, &name, &NEW).expect("make");
        for (property, value) in [("compression", compression), ("checksum", checksum), ("recordsize", record)] {
            store.set_property(&name, property, &Value::Number(value)).expect("set");
        }
        fill(&mut store, &name, index as u64);
        let datasets = Datasets::open(store.pool()).expect("tree");
        let set = datasets.open_dataset(&datasets.find(&name).expect("find")).expect("open");
        let mut blocks = 0;
        set.for_each(|number, dnode| {
            if dnode.kind == pool_phys::dnode::kind::FILE && dnode.last_block > 0 {
                assert_eq!(dnode.block_size, record, "{name}");
                let mut object = set.object(number)?;
                for block in 0..=dnode.last_block {
                    let pointer = object.pointer(block)?;
                    let compressed = !matches!(pointer.compression, pool_phys::blkptr::Compression::Off);
                    blocks += u64::from(compressed);
                }
            }
            Ok(())
        })
        .expect("walk");
        assert!(blocks > 0, "{name}: nothing was compressed");
    }
    store.set_property(rig::NAME, "dedup", &Value::Number(1)).expect_err("refused by name");
    store.snapshot_tree(rig::NAME, "all", NOW.0).expect("snapshot");
    store.export(NOW.0).expect("export");
    sound(store.pool());
    assert_eq!((uses(store.pool(), ":large_blocks"), uses(store.pool(), ":zstd_compress"), uses(store.pool(), ":sha512")), (4, 2, 2));
    drop(store);
    judge::zdb("properties", &disks);
}

#[test]
fn numbers_of_file_systems_and_snapshots_are_limited_where_they_count() {
    let (_disks, mut store) = rig::create(&SHAPES[0], 6).expect("create");
    let base = format!("{}/base", rig::NAME);
    create_filesystem(&mut store, &base, &NEW).expect("make");
    store.commit(NOW.0).expect("commit");
    store.set_property(&base, "filesystem_limit", &Value::Number(2)).expect("set");
    store.set_property(&base, "snapshot_limit", &Value::Number(1)).expect("set");
    store.enforce_counts(true);
    create_filesystem(&mut store, &format!("{base}/a"), &NEW).expect("one");
    create_filesystem(&mut store, &format!("{base}/a/b"), &NEW).expect("two");
    store.commit(NOW.0).expect("commit");
    assert_eq!(create_filesystem(&mut store, &format!("{base}/c"), &NEW).expect_err("three"), EditError::Quota);
    store.snapshot(&format!("{base}/a"), "s", NOW.0).expect("one");
    assert_eq!(store.snapshot(&base, "s", NOW.0).expect_err("two"), EditError::Quota);
    store.enforce_counts(false);
    store.snapshot(&base, "s", NOW.0).expect("who is not held to it");
}
