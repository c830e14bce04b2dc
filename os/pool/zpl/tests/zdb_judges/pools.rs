//! The pool itself: its properties, its name and guid, features, a split of mirrors, a rewind, reading only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use kif::{BlockDev, BlockError};
use pool_dmu::edit::EditError;
use pool_dmu::{Auxiliary, Bearing, PoolChange, Store, parse_pool_property};
use pool_judge::Image;
use pool_phys::intent_log::Change;
use pool_spa::{ImportOptions, Layout, Pool};
use pool_zpl::{Make, Writer, create_filesystem};

use crate::rig::{NEW, NOW, create, devices, folder, judge, random, read_all};

fn open(folder: &Path, name: &str) -> Store {
    let pool = Pool::import(devices(folder), Some(name)).expect("import");
    Store::open(pool, random(9)).expect("open")
}

fn write_file(store: &mut Store, dataset: &str, name: &[u8], data: &[u8]) {
    let number = store.find(dataset).expect("find");
    let mut writer = Writer::open(store, number).expect("open for writing");
    let root = writer.root();
    let object = writer.make(root, name, Make::File, &NEW).expect("make a file");
    writer.write(object, 0, data, NOW).expect("write");
    store.commit(NOW.0).expect("commit");
}

fn shown(store: &Store) -> BTreeMap<String, (String, &'static str)> {
    let all = store.pool_properties(&Bearing::default()).expect("properties");
    all.into_iter().map(|one| (one.name, (one.value, one.source))).collect()
}

fn set(store: &mut Store, name: &str, value: &str) {
    let change = parse_pool_property(name, value).expect("a value it takes");
    store.set_pool_property(&change, NOW.0).expect("set");
}

#[test]
fn properties_are_kept_and_zdb_accepts_their_table() {
    let folder = folder("props");
    let mut store = create(&folder, "props", Some(0), 2, 12);
    create_filesystem(&mut store, "props/boot", &NEW).expect("make a file system");
    store.commit(NOW.0).expect("commit");
    let before = shown(&store);
    assert_eq!(before["failmode"], ("wait".into(), "default"));
    assert_eq!(before["delegation"], ("on".into(), "default"));
    assert_eq!(before["comment"], ("-".into(), "default"));
    assert_eq!(before["health"], ("ONLINE".into(), "-"));
    assert_eq!(before["feature@lz4_compress"], ("active".into(), "local"));
    assert_eq!(before["feature@large_blocks"], ("enabled".into(), "local"));
    for (name, value) in [("failmode", "continue"), ("autoexpand", "on"), ("listsnaps", "on"), ("delegation", "off"), ("ashift", "13"), ("comment", "of the archive"), ("bootfs", "props/boot")] {
        set(&mut store, name, value);
    }
    store.export(NOW.0).expect("export");
    judge(&folder, "props");
    let mut store = open(&folder, "props");
    let after = shown(&store);
    for (name, value) in [("failmode", "continue"), ("autoexpand", "on"), ("listsnapshots", "on"), ("delegation", "off"), ("ashift", "13"), ("comment", "of the archive"), ("bootfs", "props/boot")] {
        assert_eq!(after[name], (value.into(), "local"), "{name}");
    }
    assert!(store.pool_switch("autoexpand").expect("readable") && !store.pool_switch("delegation").expect("readable"));
    assert_eq!(store.pool().label_text("comment").as_deref(), Some("of the archive"));
    // What goes is nothing to boot from; a number used again must not be taken for it.
    store.destroy_dataset("props/boot", NOW.0).expect("destroy");
    set(&mut store, "comment", "");
    store.export(NOW.0).expect("export");
    judge(&folder, "props");
    let after = shown(&open(&folder, "props"));
    assert_eq!((after["bootfs"].0.as_str(), after["comment"].0.as_str()), ("-", "-"));
}

#[test]
fn what_cannot_be_set_is_refused_by_name_with_what_can() {
    for (name, value, words) in [
        ("size", "1G", "size is read-only"),
        ("health", "ONLINE", "health is read-only"),
        ("readonly", "on", "zpool import -o readonly=on"),
        ("altroot", "/mnt", "zpool import -R"),
        ("failmode", "halt", "wait, continue, panic"),
        ("autoexpand", "yes", "neither 'on' nor 'off'"),
        ("autoreplace", "on", "spare"),
        ("multihost", "on", "not supported"),
        ("autotrim", "on", "zpool trim"),
        ("cachefile", "/etc/zfs/zpool.cache", "labels"),
        ("ashift", "8", "9 to 16"),
        ("comment", "a comment that has more than thirty-two bytes", "32 at most"),
        ("comment", "two\nlines", "printed"),
        ("version", "28", "zpool upgrade"),
        ("feature@lz4_compress", "disabled", "'enabled'"),
        ("nonsense", "1", "is no property of a pool: "),
    ] {
        let refused = parse_pool_property(name, value).expect_err(name);
        assert!(refused.contains(words), "{name}={value}: {refused}");
    }
    assert_eq!(parse_pool_property("cachefile", "none"), Ok(PoolChange::Nothing));
    let folder = folder("bad-props");
    let mut store = create(&folder, "bad", None, 1, 12);
    let change = parse_pool_property("feature@encryption", "enabled").expect("a name");
    assert!(matches!(store.set_pool_property(&change, NOW.0), Err(EditError::Invalid(why)) if why.contains("upgrade -v")));
    let change = parse_pool_property("bootfs", "bad/none").expect("a name");
    assert!(store.set_pool_property(&change, NOW.0).is_err());
}

#[test]
fn a_pool_has_another_name_or_guid_from_the_next_commit_on() {
    let folder = folder("renamed");
    let mut store = create(&folder, "before", Some(0), 2, 12);
    write_file(&mut store, "before", b"file", b"its data");
    let guid = store.pool().guid();
    store.rename_pool("after", false, NOW.0).expect("rename");
    assert_ne!(store.reguid(NOW.0).expect("another guid"), guid);
    store.export(NOW.0).expect("export");
    judge(&folder, "after");
    assert_eq!(read_all(&folder, "after")["/file"], b"its data");
    // For now only: the labels keep the other name.
    let mut store = open(&folder, "after");
    store.rename_pool("guest", true, NOW.0).expect("rename");
    assert_eq!((store.name().as_str(), store.lasting_name().as_str()), ("guest", "after"));
    write_file(&mut store, "guest", b"more", b"written under the other name");
    store.export(NOW.0).expect("export");
    judge(&folder, "after");
    assert_eq!(read_all(&folder, "after").len(), 2);
    // Of a pool that has not all its devices the labels would not agree.
    std::fs::remove_file(folder.join("d1.img")).expect("take a disk away");
    assert!(matches!(open(&folder, "after").reguid(NOW.0), Err(EditError::Busy(_))));
}

#[test]
fn a_split_makes_two_pools_of_one_and_zdb_accepts_both() {
    let folder = folder("split");
    let layouts = (0..2).map(|top| Layout {
        redundancy: Some(0),
        devices: (0..3)
            .map(|side| {
                let path = folder.join(format!("{top}{side}.img"));
                let image = Image::create(&path, 96 << 20).expect("make an image");
                (path.display().to_string(), Box::new(image) as Box<dyn BlockDev>)
            })
            .collect(),
    });
    let (pool, config) = pool_spa::create("first", layouts.collect(), 12, &mut random(7)).expect("lay the pool out");
    let mut store = Store::create(pool, config, NOW.0, random(8)).expect("make the MOS");
    create_filesystem(&mut store, "first", &NEW).expect("make the root file system");
    store.commit(NOW.0).expect("commit");
    let spare = Image::create(&folder.join("spare.img"), 96 << 20).expect("make an image");
    store.add_auxiliary(Auxiliary::Spare, "/dev/spare", Box::new(spare), NOW.0).expect("a spare");
    write_file(&mut store, "first", b"both", &[7; 300_000]);
    store.snapshot("first", "then", NOW.0).expect("snapshot");
    // A side that was away has a log of what it lacked, which the new pool must not keep.
    let named = store.leaf_called(&folder.join("01.img").display().to_string()).expect("a leaf");
    store.offline(named, NOW.0).expect("offline");
    write_file(&mut store, "first", b"meanwhile", &[8; 300_000]);
    store.online(named, NOW.0).expect("online");
    assert!(matches!(store.plan_split(&[named]), Err(EditError::Busy(_))), "it lacks what was written meanwhile");
    store.run_scan(pool_dmu::ScanKind::Resilver, NOW.0).expect("resilver");
    let mut other = store.split("second", &[named], random(10), NOW.0).expect("split");
    write_file(&mut store, "first", b"old", b"in the old pool alone");
    write_file(&mut other, "second", b"new", b"in the new pool alone");
    assert!(other.auxiliaries(Auxiliary::Spare).expect("list").is_empty(), "the spare stays with the old pool");
    store.export(NOW.0).expect("export");
    other.export(NOW.0).expect("export");
    judge(&folder, "first");
    judge(&folder, "second");
    let (old, new) = (read_all(&folder, "first"), read_all(&folder, "second"));
    assert_eq!(old.keys().collect::<Vec<_>>(), ["/both", "/meanwhile", "/old"]);
    assert_eq!(new.keys().collect::<Vec<_>>(), ["/both", "/meanwhile", "/new"]);
    assert_eq!(new["/meanwhile"], old["/meanwhile"]);
    assert_eq!(read_all(&folder, "second@then").len(), 1);
    let of = |name: &str| open(&folder, name).pool().trees().iter().flat_map(|tree| tree.leaves().iter().filter_map(|leaf| leaf.path.clone()).collect::<Vec<_>>()).collect::<Vec<_>>();
    let path = |name: &str| folder.join(name).display().to_string();
    assert_eq!(of("second"), [path("01.img"), path("12.img")], "the one that was named, and the last of the other mirror");
    assert_eq!(of("first").len(), 4);
}

#[test]
fn a_pool_that_cannot_be_split_is_left_as_it_is() {
    let folder = folder("unsplit");
    let mut store = create(&folder, "rz", Some(1), 3, 12);
    assert!(matches!(store.split("new", &[], random(10), NOW.0), Err(EditError::Invalid(why)) if why.contains("all mirrors")));
    write_file(&mut store, "rz", b"still", b"works");
    store.export(NOW.0).expect("export");
    judge(&folder, "rz");
}

#[test]
fn what_was_imported_for_reading_is_not_written() {
    let folder = folder("reading");
    let mut store = create(&folder, "still", None, 1, 12);
    write_file(&mut store, "still", b"file", b"its data");
    store.export(NOW.0).expect("export");
    let before = std::fs::read(folder.join("d0.img")).expect("read the image");
    let pool = Pool::import(devices(&folder), Some("still")).expect("import");
    let mut store = Store::open_for_reading(pool, random(9)).expect("open");
    assert_eq!(shown(&store)["readonly"], ("on".into(), "local"));
    assert!(matches!(store.snapshot("still", "no", NOW.0), Err(EditError::ReadOnly)));
    let change = parse_pool_property("comment", "no").expect("a value it takes");
    assert!(matches!(store.set_pool_property(&change, NOW.0), Err(EditError::ReadOnly)));
    assert!(matches!(create_filesystem(&mut store, "still/no", &NEW).and_then(|_| store.commit(NOW.0)), Err(EditError::ReadOnly)));
    assert!(store.find("still/no").is_err(), "nothing of what was refused is left in memory");
    store.commit(NOW.0).expect("nothing is there to be written");
    drop(store);
    assert!(std::fs::read(folder.join("d0.img")).expect("read the image") == before, "not a byte of the disk changed");
}

#[test]
fn what_a_rewind_left_out_does_not_come_back() {
    let folder = folder("rewound");
    let mut store = create(&folder, "back", None, 1, 12);
    write_file(&mut store, "back", b"early", b"stays");
    let then = store.pool().uberblock().txg;
    write_file(&mut store, "back", b"late", b"is given up");
    drop(store);
    let pool = Pool::import_with(devices(&folder), ImportOptions { wanted: Some("back"), at_most: Some(then) }).expect("import as it was");
    let mut store = Store::open(pool, random(9)).expect("open");
    write_file(&mut store, "back", b"after", b"comes behind it");
    drop(store);
    // The power failed: whoever looks next takes the newest uberblock.
    assert_eq!(read_all(&folder, "back").keys().collect::<Vec<_>>(), ["/after", "/early"]);
    open(&folder, "back").export(NOW.0).expect("export");
    judge(&folder, "back");
}

/// A write: of which disk, where, and what was there before.
type Write = (usize, usize, Vec<u8>);

/// A disk that keeps what it was before each write, in order with others.
#[derive(Clone)]
struct Recorded {
    bytes: Arc<Mutex<Vec<u8>>>,
    writes: Arc<Mutex<Vec<Write>>>,
    index: usize,
}

impl BlockDev for Recorded {
    fn size_bytes(&self) -> u64 {
        self.bytes.lock().expect("nobody panicked with it").len() as u64
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        let at = offset as usize;
        out.copy_from_slice(self.bytes.lock().expect("nobody panicked with it").get(at..at + out.len()).ok_or(BlockError::OutOfRange)?);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let at = offset as usize;
        let mut bytes = self.bytes.lock().expect("nobody panicked with it");
        let place = bytes.get_mut(at..at + data.len()).ok_or(BlockError::OutOfRange)?;
        self.writes.lock().expect("nobody panicked with it").push((self.index, at, place.to_vec()));
        place.copy_from_slice(data);
        Ok(())
    }
    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

#[test]
fn a_cut_while_a_pool_changes_its_guid_or_name_leaves_one_pool() {
    let writes = Arc::new(Mutex::new(Vec::new()));
    let disks: Vec<Recorded> = (0..3).map(|index| Recorded { bytes: Arc::new(Mutex::new(vec![0; 64 << 20])), writes: Arc::clone(&writes), index }).collect();
    let layout = Layout { redundancy: Some(1), devices: disks.iter().map(|disk| (format!("d{}", disk.index), Box::new(disk.clone()) as Box<dyn BlockDev>)).collect() };
    let (pool, config) = pool_spa::create("cut", vec![layout], 12, &mut random(7)).expect("lay the pool out");
    let mut store = Store::create(pool, config, NOW.0, random(8)).expect("make the MOS");
    create_filesystem(&mut store, "cut", &NEW).expect("make the root file system");
    store.commit(NOW.0).expect("commit");
    writes.lock().expect("nobody panicked with it").clear();
    let old = store.pool().guid();
    let new = store.reguid(NOW.0).expect("another guid");
    store.rename_pool("other", false, NOW.0).expect("another name");
    drop(store);
    let mut seen = BTreeSet::new();
    loop {
        let found = pool_spa::scan(&disks.iter().map(|disk| Box::new(disk.clone()) as Box<dyn BlockDev>).collect::<Vec<_>>());
        let left = writes.lock().expect("nobody panicked with it").len();
        assert_eq!(found.len(), 1, "{left} writes: {found:?}");
        assert_eq!(found[0].devices, [0, 1, 2], "{left} writes");
        let copies = disks.iter().map(|disk| Box::new(Recorded { writes: Arc::default(), ..disk.clone() }) as Box<dyn BlockDev>).collect();
        let guid = found[0].guid.to_string();
        let opened = Pool::import(copies, Some(&guid)).unwrap_or_else(|error| panic!("{left} writes: {error}"));
        assert!(opened.guid() == old || opened.guid() == new);
        assert_eq!(opened.health().name(), "ONLINE", "{left} writes");
        seen.insert((opened.guid() == new, opened.name() == "other"));
        Store::open_for_reading(opened, random(9)).unwrap_or_else(|error| panic!("{left} writes: {error}"));
        // The last write did not happen.
        let Some((index, at, before)) = writes.lock().expect("nobody panicked with it").pop() else { break };
        disks[index].bytes.lock().expect("nobody panicked with it")[at..at + before.len()].copy_from_slice(&before);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(false, false), (true, false), (true, true)], "each commit is there or is not");
}

/// A pool on one disk that can lose its last writes, and its root file system.
fn logged() -> (Recorded, Store, u64) {
    let disk = Recorded { bytes: Arc::new(Mutex::new(vec![0; 64 << 20])), writes: Arc::default(), index: 0 };
    let layout = Layout { redundancy: None, devices: vec![(String::from("d0"), Box::new(disk.clone()) as Box<dyn BlockDev>)] };
    let (pool, config) = pool_spa::create("logged", vec![layout], 9, &mut random(7)).expect("lay the pool out");
    let mut store = Store::create(pool, config, NOW.0, random(8)).expect("make the MOS");
    let dataset = create_filesystem(&mut store, "logged", &NEW).expect("make the root file system");
    store.commit(NOW.0).expect("commit");
    (disk, store, dataset)
}

#[test]
fn another_name_comes_after_what_the_logs_hold() {
    let (disk, mut store, dataset) = logged();
    let mut writer = Writer::open(&mut store, dataset).expect("open for writing");
    let root = writer.root();
    let object = writer.make(root, b"kept", Make::File, &NEW).expect("make a file");
    drop(writer);
    // The first begins the log, with a commit.
    store.log_sync(dataset, NOW.0).expect("fsync");
    Writer::open(&mut store, dataset).expect("open for writing").write(object, 0, b"acknowledged", NOW).expect("write");
    store.log_sync(dataset, NOW.0).expect("fsync");
    drop(store);
    let pool = Pool::import(vec![Box::new(disk) as Box<dyn BlockDev>], None).expect("import");
    let mut store = Store::open(pool, random(9)).expect("open");
    assert!(matches!(store.rename_pool("other", false, NOW.0), Err(EditError::Busy(_))));
    assert!(pool_zpl::replay_logs(&mut store, NOW).expect("replay") > 0);
    store.rename_pool("other", false, NOW.0).expect("another name");
    let mut writer = Writer::open(&mut store, dataset).expect("open again");
    let object = writer.walk(b"/kept").expect("it is there");
    let mut data = [0; 12];
    assert_eq!((writer.read(object, 0, &mut data).expect("reads"), &data), (12, b"acknowledged"));
}

#[test]
fn a_block_that_the_log_names_goes_where_it_belongs() {
    let (disk, mut store, dataset) = logged();
    let volume = pool_zpl::Zvol::create(&mut store, "logged/volume", 1 << 20, 128 << 10, true, NOW.0).expect("make a volume").dataset();
    let data: Vec<u8> = (0..128 << 10).map(|at: u32| (at / 512 + 1).to_le_bytes()[0]).collect();
    let mut writer = Writer::open(&mut store, dataset).expect("open for writing");
    let root = writer.root();
    let [source, inside, short, longer] =
        [&b"source"[..], b"inside", b"short", b"longer"].map(|name| writer.make(root, name, Make::File, &NEW).expect("make a file"));
    writer.write(source, 0, &data, NOW).expect("write");
    writer.write(inside, 0, &[0xEE; 256 << 10], NOW).expect("write");
    drop(writer);
    store.commit(NOW.0).expect("commit");
    let block = store.edit_dataset(dataset, None).map(|(set, pool)| set.edit(pool, source).expect("edit").committed(pool, 0)).expect("opens");
    let block = block.expect("readable").expect("is there");
    // The first begins the log, with a commit. OpenZFS logs a write of 32 KiB and more with the whole block that it lies in, as it is in memory.
    Writer::open(&mut store, dataset).expect("open for writing").make(root, b"first", Make::File, &NEW).expect("make a file");
    store.log_sync(dataset, NOW.0).expect("fsync");
    pool_zpl::Zvol::open(&mut store, volume).expect("open").write(&mut store, 1 << 19, &[7; 512]).expect("write");
    store.log_sync(volume, NOW.0).expect("fsync");
    let indirect = |object, offset, length| Some(Change::WriteIndirect { object, offset, length, block: block.clone() });
    store.log_change(dataset, indirect(inside, 192 << 10, 64 << 10));
    store.log_change(dataset, indirect(short, 0, 40_000));
    store.log_change(dataset, indirect(longer, 0, 40_000));
    store.log_change(dataset, Some(Change::Extend { object: longer, offset: 50_000, length: 10_000 }));
    store.log_sync(dataset, NOW.0).expect("fsync");
    store.log_change(volume, indirect(1, 320 << 10, 64 << 10));
    store.log_sync(volume, NOW.0).expect("fsync");
    drop(store);
    let pool = Pool::import(vec![Box::new(disk) as Box<dyn BlockDev>], None).expect("import");
    let mut store = Store::open(pool, random(9)).expect("open");
    assert_eq!(pool_zpl::replay_logs(&mut store, NOW).expect("replay"), 5);
    let mut writer = Writer::open(&mut store, dataset).expect("open again");
    let read = |writer: &mut Writer<'_>, object: u64, length: u64| {
        assert_eq!(writer.stat(object).expect("stat").size, length);
        writer.read_range(object, 0, usize::try_from(length).expect("small")).expect("read")
    };
    let got = read(&mut writer, inside, 256 << 10);
    assert!(got[..128 << 10].iter().all(|byte| *byte == 0xEE) && got[128 << 10..] == data[..], "the block that the write was in, and no other");
    assert_eq!(read(&mut writer, short, 40_000), data[..40_000]);
    assert_eq!(read(&mut writer, longer, 60_000), data[..60_000], "the second write's data came with the first's");
    for (file, end) in [(short, 40_000), (longer, 60_000)] {
        writer.write(file, 100_000, b"far", NOW).expect("write");
        assert!(writer.read_range(file, end, 100_000 - usize::try_from(end).expect("small")).expect("read").iter().all(|byte| *byte == 0), "nothing behind the end");
    }
    drop(writer);
    let mut got = vec![0; 384 << 10];
    pool_zpl::Zvol::open(&mut store, volume).expect("open").read(&mut store, 0, &mut got).expect("read");
    assert!(got[..256 << 10].iter().all(|byte| *byte == 0) && got[256 << 10..] == data[..]);
}

/// A disk that fails to read where it is told to.
struct Scratched(Recorded, Arc<Mutex<std::ops::Range<u64>>>);

impl BlockDev for Scratched {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        let bad = self.1.lock().expect("nobody panicked with it").clone();
        if offset < bad.end && bad.start < offset + out.len() as u64 { Err(BlockError::Io) } else { self.0.read(offset, out) }
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.0.write(offset, data)
    }
    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

#[test]
fn a_log_that_a_device_fails_to_give_is_not_taken_for_ended() {
    let (disk, mut store, dataset) = logged();
    for name in [&b"committed"[..], b"first", b"second"] {
        let mut writer = Writer::open(&mut store, dataset).expect("open for writing");
        let root = writer.root();
        writer.make(root, name, Make::File, &NEW).expect("make a file");
        drop(writer);
        store.log_sync(dataset, NOW.0).expect("fsync");
    }
    drop(store);
    // The last that was written is the block of the last fsync.
    let at = disk.writes.lock().expect("nobody panicked with it").last().expect("it was written").1 as u64;
    let bad = Arc::new(Mutex::new(at..at + 512));
    let open = || {
        let pool = Pool::import(vec![Box::new(Scratched(disk.clone(), Arc::clone(&bad))) as Box<dyn BlockDev>], None).expect("import");
        Store::open(pool, random(9)).expect("open")
    };
    let names = |store: &mut Store| Writer::open(store, dataset).map(|mut writer| ["/first", "/second"].map(|path| writer.walk(path.as_bytes()).is_ok())).expect("open");
    let refused = pool_zpl::replay_logs(&mut open(), NOW).expect_err("nobody knows what it has");
    assert!(refused.to_string().contains("import -m"), "{refused}");
    // The disk is well again: nothing was lost by asking.
    let given_up = bad.lock().map(|mut bad| std::mem::replace(&mut *bad, 0..0)).expect("nobody panicked with it");
    let copy = disk.bytes.lock().expect("nobody panicked with it").clone();
    let mut store = open();
    pool_zpl::replay_logs(&mut store, NOW).expect("replay");
    assert_eq!(names(&mut store), [true, true]);
    drop(store);
    // Or it is not, and the operator can do without.
    *disk.bytes.lock().expect("nobody panicked with it") = copy;
    *bad.lock().expect("nobody panicked with it") = given_up;
    let mut store = open();
    assert_eq!(store.give_up_log_ends(), 1);
    pool_zpl::replay_logs(&mut store, NOW).expect("replay");
    assert_eq!(names(&mut store), [true, false]);
    store.commit(NOW.0).expect("commit");
}

#[test]
fn snapshots_leave_a_full_pool_room_for_removing() {
    let disk = Recorded { bytes: Arc::new(Mutex::new(vec![0; 64 << 20])), writes: Arc::default(), index: 0 };
    let layout = Layout { redundancy: None, devices: vec![(String::from("d0"), Box::new(disk) as Box<dyn BlockDev>)] };
    let (pool, config) = pool_spa::create("full", vec![layout], 12, &mut random(7)).expect("lay the pool out");
    let mut store = Store::create(pool, config, NOW.0, random(8)).expect("make the MOS");
    let dataset = create_filesystem(&mut store, "full", &NEW).expect("make the root file system");
    let mut dice = random(5);
    let noise: Vec<u8> = (0..1 << 15).flat_map(|_| dice().to_le_bytes()).collect();
    let mut count = 0;
    loop {
        let mut writer = Writer::open(&mut store, dataset).expect("open for writing");
        let root = writer.root();
        let file = writer.make(root, format!("f{count}").as_bytes(), Make::File, &NEW).expect("make a file");
        let done = writer.write(file, 0, &noise, NOW);
        drop(writer);
        store.commit(NOW.0).expect("commit");
        count += 1;
        if done.is_err() {
            break;
        }
    }
    let refused = (0..3000).find_map(|number| store.snapshot("full", &format!("s{number}"), NOW.0).err()).expect("there is an end to it");
    assert!(matches!(refused, EditError::NoSpace), "{refused}");
    let made = create_filesystem(&mut store, "full/more", &NEW);
    assert!(matches!(made, Err(EditError::NoSpace)), "{made:?}");
    let names: Vec<String> = store.find("full").and_then(|head| store.snapshots_of(head)).expect("list").into_iter().map(|(name, _)| format!("full@{name}")).collect();
    assert!(!names.is_empty());
    let mut writer = Writer::open(&mut store, dataset).expect("open for writing");
    let root = writer.root();
    for number in 0..count / 2 {
        writer.remove(root, format!("f{number}").as_bytes(), NOW).expect("remove");
    }
    drop(writer);
    store.commit(NOW.0).expect("a full pool lets files be removed");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    store.destroy_snapshots(&names, false, NOW.0).expect("and snapshots");
    store.drain(NOW.0).expect("what was freed can be used");
    let again = (0..20).find(|turn| {
        store.set_property("full", "user:turn", &pool_phys::nvlist::Value::Text(turn.to_string())).expect("a small change");
        store.snapshot("full", "after", NOW.0).is_ok()
    });
    assert!(again.is_some(), "there is room again");
}
