//! Send streams both ways: the module receives ours, we receive its.

use std::collections::BTreeMap;
use std::path::Path;

use pool_dmu::{Datasets, Store};
use pool_fire::rig::{self, NEW, NOW, SHAPES};
use pool_fire::work::Work;
use pool_fire::listing;
use pool_stream::{Base, Naming, ReceiveOptions, SendOptions, Sender, StreamError, Unpacker};
use pool_zpl::{Writer, XattrStyle, create_filesystem};

use crate::change;

const SNAPSHOTS: [&str; 4] = ["a", "b", "c", "d"];

fn stream(store: &Store, system: &str, to: &str, from: Option<&str>, options: SendOptions) -> Vec<u8> {
    let tree = Datasets::open(store.pool()).expect("tree");
    let base = from.map(|from| {
        let from = tree.find(&format!("{system}@{from}")).expect("base").dataset;
        Base { guid: from.guid, txg: from.creation_txg, is_origin: false }
    });
    let mut sender = Sender::new(&tree, &tree.find(&format!("{system}@{to}")).expect("find"), base, options, None).expect("open");
    let mut out = Vec::new();
    while sender.next(store.pool(), &mut out).expect("send") {}
    out
}

/// Streams of ours for the module: full, then step by step, plain and compressed; and what must come of them.
pub fn send(share: &Path) {
    let into = share.join("ours");
    std::fs::create_dir_all(&into).expect("make a folder");
    let (_, mut store) = rig::create(&SHAPES[0], 77).expect("create");
    let system = format!("{}/sent", rig::NAME);
    let dataset = create_filesystem(&mut store, &system, &NEW).expect("make");
    let mut work = Work::new(78);
    let mut previous = None;
    for (number, snapshot) in SNAPSHOTS.into_iter().enumerate() {
        change(&mut store, &system, 60 + number as u64);
        {
            let mut writer = Writer::open(&mut store, dataset).expect("open");
            let root = writer.root();
            let file = writer.lookup(root, format!("moved{}", 60 + number).as_bytes()).expect("look up").expect("is there");
            writer.set_xattr(file, b"user.small", Some(b"here"), XattrStyle::Attributes, NOW).expect("attribute");
            writer.set_xattr(file, b"user.large", Some(&[9; 3000]), XattrStyle::Attributes, NOW).expect("attribute");
            writer.set_xattr(file, b"user.apart", Some(b"there"), XattrStyle::Directory, NOW).expect("attribute");
            writer.punch_hole(file, 0, 2048, NOW).expect("hole");
        }
        // The rest of the pool lives on meanwhile.
        for _ in 0..10 {
            work.step(&mut store).expect("an operation on a good pool");
        }
        store.snapshot(&system, snapshot, NOW.0).expect("snapshot");
        let options = SendOptions { compressed: number % 2 == 1, embed: number % 2 == 1, large_blocks: false };
        let bytes = stream(&store, &system, snapshot, previous, options);
        std::fs::write(into.join(format!("{number}-{snapshot}.stream")), bytes).expect("write");
        let list = listing::listing(store.pool(), &format!("{system}@{snapshot}")).expect("list");
        std::fs::write(into.join(format!("{number}-{snapshot}.list")), list).expect("write");
        previous = Some(snapshot);
    }
}

fn take(store: &mut Store, target: &str, bytes: &[u8]) -> Result<Vec<String>, StreamError> {
    let options = ReceiveOptions { owners: Some(pool_zpl::owners), ..ReceiveOptions::default() };
    let mut unpacker = Unpacker::new(target, Naming::Exact, options);
    unpacker.feed(store, bytes, NOW.0)?;
    let (received, notes) = unpacker.finish(store, NOW.0)?;
    assert!(notes.is_empty(), "{notes:?}");
    Ok(received.into_iter().map(|received| received.snapshot).collect())
}

/// Takes the module's streams, and compares what came of them with what the module said.
pub fn receive(share: &Path) {
    assert!(share.join("ours/result").exists(), "the module did not receive our streams");
    let from = share.join("streams");
    let read = |name: &str| std::fs::read(from.join(format!("{name}.stream"))).unwrap_or_else(|error| panic!("{name}: {error}"));
    let lists: BTreeMap<&str, String> = ["a", "b", "c"].into_iter().map(|name| (name, std::fs::read_to_string(from.join(format!("{name}.list"))).expect("read a list"))).collect();
    let (_, mut store) = rig::create(&SHAPES[0], 79).expect("create");
    let mut count = 0;
    for (target, streams) in [
        ("full", &["full-a", "a-to-b"][..]),
        ("late", &["full-c"]),
        ("all", &["full-a", "all-a-to-c"]),
        ("package", &["package"]),
        ("properties", &["properties-a"]),
        ("compressed", &["compressed-c"]),
        ("steps", &["full-a", "a-to-b", "compressed-b-to-c"]),
    ] {
        let name = format!("{}/{target}", rig::NAME);
        for stream in streams {
            let bytes = read(stream);
            let received = take(&mut store, &name, &bytes).unwrap_or_else(|error| panic!("{stream} into {name}: {error}"));
            assert!(!received.is_empty(), "{stream}");
            for snapshot in received {
                let expected = &lists[snapshot.rsplit('@').next().expect("a snapshot")];
                let found = listing::listing(store.pool(), &snapshot).expect("list");
                let first = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
                assert!(*expected == found, "{stream}, {snapshot}: the first line to differ is {first:?}");
                count += 1;
            }
            // A bit of it flipped, or its end cut: refused.
            let mut bad = bytes.clone();
            let middle = bad.len() / 2;
            bad[middle] ^= 4;
            take(&mut store, &format!("{}/bad", rig::NAME), &bad).expect_err("damage is found");
            take(&mut store, &format!("{}/bad", rig::NAME), &bytes[..bytes.len() - 1]).expect_err("the end is missed");
        }
    }
    eprintln!("{count} snapshots of the module's streams are what the module says");
    store.export(NOW.0).expect("export");
    let found = pool_dmu::check(store.pool(), true).expect("check");
    assert_eq!(found.fault_count, 0, "{:?}", found.faults);
}
