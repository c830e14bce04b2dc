//! Packages: trees of file systems with clones and properties, all snapshots between two.

use pool_dmu::{Datasets, Store};
use pool_phys::nvlist::Value;
use pool_stream::{Package, PackageOptions, Why};

use crate::rig::{NOW, contents, judge, live, make_fs, names, pool, random, receive, zstream};
use pool_judge::seal;

fn pack(store: &Store, to: &str, from: Option<&str>, options: PackageOptions) -> Vec<u8> {
    let tree = Datasets::open(store.pool()).expect("tree");
    let mut package = Package::new(&tree, to, from, options).expect("plan");
    let mut out = Vec::new();
    while package.next(store.pool(), &mut out).expect("send") {}
    assert_eq!(package.bytes(), out.len() as u64);
    out
}

#[test]
fn a_tree_with_clones_and_properties_arrives_and_follows() {
    let ((_, mut source), (disk, mut target)) = (pool("psrc"), pool("pdst"));
    let mut draw = random(8);
    let top = make_fs(&mut source, "psrc/a");
    let below = make_fs(&mut source, "psrc/a/below");
    source.set_property("psrc/a", "compression", &Value::Number(3)).expect("set");
    source.set_property("psrc/a/below", "user:note", &Value::Text("hello".into())).expect("set");
    for name in ["one", "two"] {
        live(&mut source, top, &mut draw, 50);
        live(&mut source, below, &mut draw, 50);
        source.snapshot("psrc/a", name, NOW.0).expect("snapshot");
        source.snapshot("psrc/a/below", name, NOW.0).expect("snapshot");
    }
    // Its name comes before its origin's.
    let clone = source.clone_dataset("psrc/a/below@one", "psrc/a/a-clone", NOW.0).expect("clone");
    live(&mut source, clone, &mut draw, 30);
    source.snapshot("psrc/a/a-clone", "two", NOW.0).expect("snapshot");
    let all = PackageOptions { replicate: true, properties: true, ..PackageOptions::default() };
    let stream = pack(&source, "psrc/a@two", None, all);
    zstream(&stream);
    let received = receive(&mut target, "pdst/b", &stream).expect("receive");
    assert_eq!(received.len(), 5);
    let compare = |source: &Store, target: &Store| {
        for name in names(source).iter().filter(|name| name.contains('@')) {
            assert!(contents(source, name) == contents(target, &name.replace("psrc/a", "pdst/b")), "{name}");
        }
    };
    compare(&source, &target);
    {
        let tree = Datasets::open(target.pool()).expect("tree");
        assert_eq!(tree.find("pdst/b/a-clone").expect("find").origin.as_deref(), Some("pdst/b/below@one"));
        let info = tree.find("pdst/b/below").expect("find");
        let note = tree.properties(&info).expect("properties").into_iter().find(|property| property.name == "user:note").expect("set");
        assert_eq!((note.value.as_str(), note.source), ("hello", pool_dmu::Source::Received));
    }
    for name in ["three", "four"] {
        for dataset in [top, below, clone] {
            live(&mut source, dataset, &mut draw, 20);
        }
        for fs in ["psrc/a", "psrc/a/below", "psrc/a/a-clone"] {
            source.snapshot(fs, name, NOW.0).expect("snapshot");
        }
    }
    let stream = pack(&source, "psrc/a@four", Some("two"), PackageOptions { intermediate: true, ..all });
    zstream(&stream);
    assert_eq!(receive(&mut target, "pdst/b", &stream).expect("follow").len(), 6);
    compare(&source, &target);
    // Once more: all of it is there.
    assert_eq!(receive(&mut target, "pdst/b", &stream).expect("again").len(), 0);
    assert!(receive(&mut target, "pdst/c", &stream[..stream.len() - 312]).is_err());
    judge(target, &disk);
}

#[test]
fn all_snapshots_between_two_arrive() {
    let ((_, mut source), (disk, mut target)) = (pool("isrc"), pool("idst"));
    let mut draw = random(9);
    let fs = make_fs(&mut source, "isrc/a");
    for name in ["one", "two", "three", "four"] {
        live(&mut source, fs, &mut draw, 40);
        source.snapshot("isrc/a", name, NOW.0).expect("snapshot");
    }
    let plain = pack(&source, "isrc/a@one", None, PackageOptions::default());
    receive(&mut target, "idst/b", &plain).expect("first");
    let between = pack(&source, "isrc/a@four", Some("one"), PackageOptions { intermediate: true, ..PackageOptions::default() });
    zstream(&between);
    let received: Vec<String> = receive(&mut target, "idst/b", &between).expect("rest").into_iter().map(|received| received.snapshot).collect();
    assert_eq!(received, ["idst/b@two", "idst/b@three", "idst/b@four"]);
    // Once more into another data set, whose snapshots have the same guids as those of the first; and, of the package, only what is missing.
    for target_name in ["idst/a", "idst/c"] {
        receive(&mut target, target_name, &plain).expect("first");
        assert_eq!(receive(&mut target, target_name, &between).expect("rest").len(), 3);
        assert_eq!(receive(&mut target, target_name, &between).expect("again").len(), 0);
    }
    for (name, system) in ["one", "two", "three", "four"].into_iter().flat_map(|name| ["a", "b", "c"].map(|system| (name, system))) {
        assert!(contents(&source, &format!("isrc/a@{name}")) == contents(&target, &format!("idst/{system}@{name}")));
    }
    judge(target, &disk);
}

#[test]
fn a_package_cannot_name_what_is_outside_of_it() {
    let ((_, mut source), (_, mut target)) = (pool("osrc"), pool("odst"));
    let fs = make_fs(&mut source, "osrc/a");
    live(&mut source, fs, &mut random(10), 10);
    source.snapshot("osrc/a", "one", NOW.0).expect("snapshot");
    let stream = pack(&source, "osrc/a@one", None, PackageOptions { properties: true, ..PackageOptions::default() });
    let listed = names(&target);
    // The second BEGIN is the stream's own: behind the head's record, list and END.
    let at = stream.windows(10).rposition(|window| window == b"osrc/a@one").expect("is there");
    for name in [&b"osrc/ab@one\0"[..], b"osrc/a/%x@one\0", b"osrc/a/../b@one\0"] {
        let mut lies = stream.clone();
        lies[at..at + name.len()].copy_from_slice(name);
        seal(&mut lies);
        let error = receive(&mut target, "odst/b", &lies).expect_err("refused");
        assert_ne!(error.why, Why::Checksum);
        assert_eq!(names(&target), listed);
    }
}
