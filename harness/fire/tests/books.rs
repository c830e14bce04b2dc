//! What is freed comes back, what is refused changes nothing, and who has what is counted right.

use pool_dmu::edit::EditError;
use pool_dmu::{Datasets, Holder, Store, check};
use pool_fire::disk::Disk;
use pool_fire::rig::{self, NAME, NEW, NOW, SHAPES, Shape};
use pool_spa::Pool;
use pool_zpl::{Make, NewEntry, Writer, create_filesystem};

fn shape(name: &str) -> &'static Shape {
    SHAPES.iter().find(|shape| shape.name == name).expect("a shape")
}

fn is_clean(disks: &[Disk], when: &str) {
    let pool = Pool::import(rig::devices(disks), Some(NAME)).expect("import");
    let found = check(&pool, true).expect("check");
    assert_eq!(found.fault_count, 0, "{when}: {:?}", found.faults);
}

fn made(fs: &mut Writer<'_>, name: &[u8], size: usize, new: &NewEntry) -> u64 {
    let root = fs.walk(b"").expect("the root");
    let object = fs.make(root, name, Make::File, new).expect("a file");
    fs.write(object, 0, &vec![7; size], NOW).expect("its data");
    object
}

fn used_by(store: &Store, dataset: u64, user: u64) -> (u64, u64) {
    let root = Datasets::open(store.pool()).expect("datasets").list(NAME).expect("listed").into_iter().find(|info| info.object == dataset).expect("there").dataset.root;
    let set = pool_dmu::ObjectSet::open(store.pool(), &root).expect("opened");
    let holding = set.holdings(Holder::User).expect("accounts").into_iter().find(|holding| holding.id == user);
    holding.map_or((0, 0), |holding| (holding.used.unwrap_or(0), holding.objects.unwrap_or(0)))
}

#[test]
fn a_number_taken_again_within_a_group_is_charged_once() {
    let (_disks, mut store) = rig::create(shape("disk"), 1).expect("create");
    let fs = create_filesystem(&mut store, "tank/fs", &NEW).expect("a file system");
    let user = NewEntry { uid: 1000, ..NEW };
    let before = made(&mut Writer::open(&mut store, fs).expect("open"), b"a", 100_000, &user);
    store.commit(NOW.0).expect("commit");
    let once = used_by(&store, fs, 1000);
    for _ in 0..3 {
        let mut writer = Writer::open(&mut store, fs).expect("open");
        let root = writer.walk(b"").expect("the root");
        writer.remove(root, b"a", NOW).expect("removed");
        let after = made(&mut writer, b"a", 100_000, &user);
        assert_eq!(before, after, "its number is taken again");
        store.commit(NOW.0).expect("commit");
        assert_eq!(used_by(&store, fs, 1000), once);
    }
    let mut writer = Writer::open(&mut store, fs).expect("open");
    let root = writer.walk(b"").expect("the root");
    writer.remove(root, b"a", NOW).expect("removed");
    // Made and removed within the group, where another was.
    made(&mut writer, b"b", 5000, &user);
    writer.remove(root, b"b", NOW).expect("removed");
    store.commit(NOW.0).expect("commit");
    assert_eq!(used_by(&store, fs, 1000), (0, 0));
}

#[test]
fn what_was_synced_gives_its_log_back_when_it_is_destroyed() {
    let (disks, mut store) = rig::create(shape("mirror"), 2).expect("create");
    let fs = create_filesystem(&mut store, "tank/fs", &NEW).expect("a file system");
    for turn in 0..4_u8 {
        made(&mut Writer::open(&mut store, fs).expect("open"), &[b'a' + turn], 9000, &NEW);
        // The first is a commit that leaves a chain behind, the others write to it.
        store.log_sync(fs, NOW.0).expect("synced");
    }
    store.destroy_dataset("tank/fs", NOW.0).expect("destroyed");
    store.commit(NOW.0).expect("commit");
    drop(store);
    is_clean(&disks, "after the destroy");
}

#[test]
fn a_refused_destroy_keeps_what_is_open() {
    let (disks, mut store) = rig::create(shape("disk"), 3).expect("create");
    let fs = create_filesystem(&mut store, "tank/fs", &NEW).expect("a file system");
    let child = create_filesystem(&mut store, "tank/fs/%recv", &NEW).expect("what a receive makes");
    store.snapshot("tank/fs", "s", NOW.0).expect("a snapshot");
    let object = made(&mut Writer::open(&mut store, child).expect("open"), b"a", 70_000, &NEW);
    assert!(matches!(store.destroy_dataset("tank/fs", NOW.0), Err(EditError::Busy(_))), "it has a snapshot");
    let mut back = vec![0; 70_000];
    let read = Writer::open(&mut store, child).expect("open").read(object, 0, &mut back).expect("what was written");
    assert_eq!((read, back.iter().all(|byte| *byte == 7)), (70_000, true));
    assert!(store.find("tank/fs").is_ok_and(|found| found == fs));
    store.commit(NOW.0).expect("commit");
    drop(store);
    is_clean(&disks, "after the refusal");
}

/// Names that differ and whose hashes agree in the 28 bits that count: the hash is linear, so these are sums of vectors that cancel.
fn agreeing(count: usize) -> Vec<Vec<u8>> {
    let base = vec![b'a'; 200];
    let toggled = |mask: u64| {
        let mut name = base.clone();
        (0..48_usize).filter(|bit| mask >> bit & 1 != 0).for_each(|bit| name[bit / 2] ^= 1 << (bit % 2));
        name
    };
    let hash = |name: &[u8]| codec::zap_hash(0, name) >> 36;
    let zero = hash(&base);
    let mut rows: Vec<(u64, u64)> = (0..48).map(|bit| (hash(&toggled(1 << bit)) ^ zero, 1 << bit)).collect();
    for bit in 0..28 {
        let Some(at) = rows.iter().position(|(value, _)| value >> bit & 1 != 0) else { continue };
        let (value, mask) = rows.swap_remove(at);
        rows.iter_mut().filter(|row| row.0 >> bit & 1 != 0).for_each(|row| *row = (row.0 ^ value, row.1 ^ mask));
    }
    let kernel: Vec<u64> = rows.into_iter().map(|(_, mask)| mask).collect();
    (0..count).map(|pick| toggled(kernel.iter().enumerate().filter(|(index, _)| pick >> index & 1 != 0).fold(0, |mask, (_, row)| mask ^ row))).collect()
}

#[test]
fn names_with_one_hash_fill_a_leaf_and_not_the_memory() {
    let names = agreeing(500);
    assert!(names.iter().all(|name| codec::zap_hash(99, name) >> 36 == codec::zap_hash(99, &names[0]) >> 36), "for any salt");
    let (disks, mut store) = rig::create(shape("disk"), 4).expect("create");
    let fs = create_filesystem(&mut store, "tank/fs", &NEW).expect("a file system");
    let mut writer = Writer::open(&mut store, fs).expect("open");
    let root = writer.walk(b"").expect("the root");
    let mut there = 0;
    for name in &names {
        match writer.make(root, name, Make::File, &NEW) {
            Ok(_) => there += 1,
            Err(error) => assert_eq!(error, EditError::NoSpace),
        }
    }
    // A leaf of 16 KiB has that many of them.
    assert!((20..100).contains(&there), "{there}");
    // Others are taken still, but for the few that come near these by chance, and nothing is there twice.
    for number in 0..300 {
        match writer.make(root, format!("name {number} that is long enough for a table with leaves").as_bytes(), Make::File, &NEW) {
            Ok(_) => there += 1,
            Err(error) => assert_eq!(error, EditError::NoSpace),
        }
    }
    assert!(there > 300, "{there}");
    assert_eq!(writer.read_dir(root).expect("listed").len(), there);
    let (set, _) = store.edit_dataset(fs, None).expect("open");
    assert!(set.dirty_bytes() < 2 << 20, "{}", set.dirty_bytes());
    store.commit(NOW.0).expect("commit");
    drop(store);
    is_clean(&disks, "with names that agree");
}

#[test]
fn numbers_go_on_behind_full_blocks() {
    let (disks, mut store) = rig::create(shape("disk"), 5).expect("create");
    let fs = create_filesystem(&mut store, "tank/fs", &NEW).expect("a file system");
    let mut last = 0;
    for number in 0..600 {
        let object = made(&mut Writer::open(&mut store, fs).expect("open"), format!("f{number}").as_bytes(), 1, &NEW);
        assert!(object > last, "{object} behind {last}");
        last = object;
        if number % 100 == 50 {
            store.commit(NOW.0).expect("commit");
        }
    }
    store.export(NOW.0).expect("export");
    drop(store);
    // Opened anew nothing is known but the counts of the pointers.
    let mut store = rig::open(&disks, 6, None).expect("open");
    let fs = store.find("tank/fs").expect("there");
    let mut writer = Writer::open(&mut store, fs).expect("open");
    let root = writer.walk(b"").expect("the root");
    assert_eq!(made(&mut writer, b"next", 1, &NEW), last + 1);
    let hole = writer.lookup(root, b"f77").expect("looked").expect("there");
    writer.remove(root, b"f77", NOW).expect("removed");
    assert_eq!(made(&mut writer, b"again", 1, &NEW), hole, "the lowest that is free");
    store.commit(NOW.0).expect("commit");
    drop(store);
    is_clean(&disks, "with many files");
}

#[test]
fn a_file_whose_tree_is_lost_can_be_removed() {
    let (disks, mut store) = rig::create(shape("disk"), 6).expect("create");
    let fs = create_filesystem(&mut store, "tank/fs", &NEW).expect("a file system");
    let mut writer = Writer::open(&mut store, fs).expect("open");
    let object = made(&mut writer, b"lost", 300_000, &NEW);
    made(&mut writer, b"kept", 300_000, &NEW);
    store.export(NOW.0).expect("export");
    drop(store);
    // Both copies of its indirect block rot.
    let pool = Pool::import(rig::devices(&disks), Some(NAME)).expect("import");
    let root = Datasets::open(&pool).expect("datasets").list(NAME).expect("listed").into_iter().find(|info| info.object == fs).expect("there").dataset.root;
    let set = pool_dmu::ObjectSet::open(&pool, &root).expect("opened");
    let top = set.object(object).expect("the file").dnode().pointers[0].clone();
    assert!(top.level > 0, "a tree");
    let places: Vec<u64> = top.copies().map(|dva| dva.offset + (4 << 20)).collect();
    drop(pool);
    places.iter().for_each(|at| disks[0].scribble(*at, &[0x5A; 512]));

    let mut store = rig::open(&disks, 7, None).expect("open");
    let mut writer = Writer::open(&mut store, fs).expect("open");
    assert!(writer.write(object, 131_072, &[1; 131_072], NOW).is_err(), "what a commit could not write is refused at once");
    let root = writer.walk(b"").expect("the root");
    writer.remove(root, b"lost", NOW).expect("removed");
    store.commit(NOW.0).expect("the commit bears it");
    assert!(store.find("tank/fs").is_ok());
    let found = rig::read_all(store.pool(), "tank/fs").expect("read");
    assert_eq!(found.len(), 1, "the other one is whole");
}
