//! Volumes, extended attributes, holes.

use std::collections::BTreeMap;
use std::path::Path;

use pool_dmu::{Datasets, Store};
use pool_spa::Pool;
use pool_zpl::{Filesystem, Make, NewEntry, Writer, XattrStyle, Zvol, reservation};

use crate::rig::{NEW, NOW, create, devices, folder, judge, random};

const FILE: NewEntry = NewEntry { mode: 0o644, uid: 7, gid: 8, now: NOW };

fn reopen(folder: &Path) -> Store {
    Store::open(Pool::import(devices(folder), None).expect("import"), random(9)).expect("open for writing")
}

#[test]
fn a_volume_equals_a_model_over_writes_discards_snapshots_and_clones() {
    const SIZE: u64 = 4 << 20;
    let folder = folder("zvol");
    let mut store = create(&folder, "vol", None, 1, 12);
    let zvol = Zvol::create(&mut store, "vol/disk", SIZE, 8192, true, NOW.0).expect("make");
    assert!(Zvol::create(&mut store, "vol/odd", 1000, 8192, true, NOW.0).is_err() && Zvol::create(&mut store, "vol/odd", 8192, 3000, true, NOW.0).is_err());
    let mut model = vec![0_u8; usize::try_from(SIZE).expect("small")];
    let mut draw = random(3);
    let mut frozen: Vec<(String, Vec<u8>)> = Vec::new();
    for turn in 0..400_u64 {
        let offset = draw() % SIZE;
        let length = (draw() % 70_000).min(SIZE - offset);
        let range = usize::try_from(offset).expect("small")..usize::try_from(offset + length).expect("small");
        if draw().is_multiple_of(3) {
            zvol.discard(&mut store, offset, length).expect("discard");
            model[range].fill(0);
        } else {
            let byte = (draw() % 255 + 1).to_le_bytes()[0];
            let data = vec![byte; range.len()];
            zvol.write(&mut store, offset, &data).expect("write");
            model[range].copy_from_slice(&data);
        }
        if turn % 50 == 49 {
            store.commit(NOW.0).expect("commit");
        }
        if turn % 150 == 149 {
            store.snapshot("vol/disk", &format!("s{turn}"), NOW.0).expect("snapshot");
            frozen.push((format!("vol/disk@s{turn}"), model.clone()));
        }
    }
    assert!(zvol.write(&mut store, SIZE - 1, &[1, 2]).is_err() && zvol.discard(&mut store, u64::MAX, 2).is_err());
    zvol.discard(&mut store, 65_536, 65_536).expect("discard");
    model[65_536..131_072].fill(0);
    store.export(NOW.0).expect("export");
    judge(&folder, "vol");
    let mut store = reopen(&folder);
    let dataset = store.find("vol/disk").expect("find");
    let zvol = Zvol::open(&mut store, dataset).expect("open");
    assert_eq!((zvol.size(), zvol.block_size()), (SIZE, 8192));
    let mut found = vec![0; model.len()];
    zvol.read(&mut store, 0, &mut found).expect("read");
    assert!(found == model, "the volume differs from the model");
    assert_eq!(zvol.seek(&mut store, 65_536, true).expect("seek"), Some(65_536));
    assert!(zvol.seek(&mut store, 65_536, false).expect("seek").is_none_or(|at| at >= 131_072));
    drop(store);
    let pool = Pool::import(devices(&folder), None).expect("import");
    let tree = Datasets::open(&pool).expect("tree");
    for (name, model) in frozen {
        let set = tree.open_dataset(&tree.find(&name).expect("find")).expect("open");
        let mut object = set.object(1).expect("data");
        let mut found = vec![0; model.len()];
        object.read_at(0, &mut found).expect("read");
        assert!(found == model, "{name} changed");
    }
}

#[test]
fn a_volume_that_is_not_sparse_reserves_its_space() {
    // 1 GiB in 8 KiB blocks: 128 indirect blocks, one above, seven of the meta-dnode, two copies of 128 KiB each.
    assert_eq!(reservation(1 << 30, 8192, 1), (1 << 30) + (128 + 1 + 7) * 2 * (128 << 10));
}

#[test]
fn extended_attributes_of_both_kinds_equal_a_model() {
    let folder = folder("xattr");
    let mut store = create(&folder, "xat", None, 1, 12);
    let dataset = store.find("xat").expect("find");
    let mut writer = Writer::open(&mut store, dataset).expect("open");
    let root = writer.root();
    let files: Vec<u64> = (0..6).map(|index| writer.make(root, format!("f{index}").as_bytes(), if index == 5 { Make::Directory } else { Make::File }, &FILE).expect("make")).collect();
    let mut model: Vec<BTreeMap<Vec<u8>, Vec<u8>>> = vec![BTreeMap::new(); files.len()];
    let mut draw = random(5);
    for turn in 0..600_u64 {
        let which = usize::try_from(draw() % 6).expect("small");
        let name = format!("user.n{}", draw() % 9).into_bytes();
        let style = if draw().is_multiple_of(2) { XattrStyle::Attributes } else { XattrStyle::Directory };
        let length = match draw() % 10 {
            0 => 40_000,
            1..4 => 900,
            _ => 12,
        };
        let value = vec![turn.to_le_bytes()[0]; length];
        let value = (!draw().is_multiple_of(4)).then_some(value);
        let there = writer.set_xattr(files[which], &name, value.as_deref(), style, NOW).expect("set");
        let known = match value {
            Some(value) => model[which].insert(name, value),
            None => model[which].remove(&name),
        };
        assert_eq!(there, known.is_some());
        if turn % 60 == 59 {
            writer.store().commit(NOW.0).expect("commit");
        }
    }
    assert!(writer.set_xattr(files[0], b"", Some(b"x"), XattrStyle::Attributes, NOW).is_err());
    for (file, model) in files.iter().zip(&model) {
        let expected: Vec<_> = model.clone().into_iter().collect();
        assert_eq!(writer.xattrs(*file).expect("list"), expected);
        for (name, value) in model {
            assert_eq!(writer.xattr(*file, name).expect("get").as_ref(), Some(value));
        }
    }
    // A file goes with all its attributes.
    writer.remove(root, b"f0", NOW).expect("remove");
    store.export(NOW.0).expect("export");
    judge(&folder, "xat");
    let pool = Pool::import(devices(&folder), None).expect("import");
    let tree = Datasets::open(&pool).expect("tree");
    let fs = Filesystem::open(tree.open_dataset(&tree.find("xat").expect("find")).expect("open")).expect("fs");
    for (file, model) in files.iter().zip(&model).skip(1) {
        assert_eq!(fs.xattrs(*file).expect("list"), model.clone().into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn holes_are_punched_found_and_take_no_space() {
    let folder = folder("holes");
    let mut store = create(&folder, "hol", Some(1), 3, 12);
    let dataset = store.find("hol").expect("find");
    let mut writer = Writer::open(&mut store, dataset).expect("open");
    let root = writer.root();
    let file = writer.make(root, b"sparse", Make::File, &FILE).expect("make");
    let mut draw = random(11);
    const SIZE: usize = 3 << 20;
    // Noise, so that space is not compression's doing.
    let mut model: Vec<u8> = (0..SIZE / 8).flat_map(|_| draw().to_le_bytes()).collect();
    writer.write(file, 0, &model, NOW).expect("write");
    writer.store().commit(NOW.0).expect("commit");
    let (whole, block) = writer.space(file).expect("space");
    for (offset, length) in [(block, block * 4), (block * 6 + 100, block * 3), (block * 15 - 7, 14), (u64::try_from(SIZE).expect("small") - 50, 4096)] {
        writer.punch_hole(file, offset, length, NOW).expect("punch");
        let from = usize::try_from(offset).expect("small");
        let to = (from + usize::try_from(length).expect("small")).min(SIZE);
        model[from..to].fill(0);
    }
    writer.store().commit(NOW.0).expect("commit");
    assert!(writer.space(file).expect("space").0 < whole - 5 * block);
    let mut found = vec![0; SIZE];
    assert_eq!(writer.read(file, 0, &mut found), Ok(SIZE));
    assert!(found == model);
    assert_eq!(writer.seek(file, 0, true), Ok(Some(block)));
    assert_eq!(writer.seek(file, block + 5, true), Ok(Some(block + 5)));
    assert_eq!(writer.seek(file, block + 5, false), Ok(Some(block * 5)));
    assert_eq!(writer.seek(file, block * 20, true), Ok(Some(SIZE as u64)));
    assert_eq!(writer.seek(file, SIZE as u64, false), Ok(None));
    // A write past the end leaves a hole between, also before the commit.
    writer.write(file, SIZE as u64 + 10 * block, b"tail", NOW).expect("write");
    assert_eq!(writer.seek(file, SIZE as u64 + 1, false), Ok(Some(SIZE as u64 + 10 * block)));
    assert_eq!(writer.stat(file).expect("stat").mode & 0o7777, 0o644);
    store.export(NOW.0).expect("export");
    judge(&folder, "hol");
}

#[test]
fn new_contents_lose_the_rights_of_the_old() {
    let folder = folder("setid");
    let mut store = create(&folder, "sid", None, 1, 12);
    let dataset = store.find("sid").expect("find");
    let mut writer = Writer::open(&mut store, dataset).expect("open");
    let root = writer.root();
    for (name, mode, left) in [("both", 0o6755, 0o755), ("locking", 0o6744, 0o2744), ("plain", 0o755, 0o755), ("sticky", 0o5711, 0o1711)] {
        let file = writer.make(root, name.as_bytes(), Make::File, &NewEntry { mode, ..NEW }).expect("make");
        writer.forget_setid(file, NOW).expect("strip");
        assert_eq!(writer.stat(file).expect("stat").mode & 0o7777, left, "{name}");
    }
}
