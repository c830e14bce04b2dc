//! Operations on datasets while they are mounted: snapshots that are read below `.zfs`, streams that break off or replace what was read, mappings and `readonly`.

extern crate std;

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use kif::ZoneId;
use pool_stream::{Naming, PackageOptions};
use vfs::{Cred, Cx, Kind, Place, VfsError, VnodeRef};

use crate::manage::{self, Extent, NewValue, Refused};
use crate::streams::{ReceiveRequest, Receiving, Sending};
use crate::tests::{IO, contents, create, make};
use crate::{Storage, registry};

/// A pool that operators find by its name, with its file systems below a root of their own.
struct Rig {
    pool: Arc<Storage>,
    root: Place,
    cred: Cred,
}

impl Rig {
    fn new(name: &str) -> Self {
        let (_, pool) = create(name);
        assert!(registry::add(&pool), "no test has the name twice");
        let root = vfs::mount::mount_root(vfs::tmpfs::new(&vfs::tmpfs::Options::default()), "root");
        let rig = Self { pool, root, cred: Cred::root(ZoneId::GLOBAL) };
        manage::mount(&rig.cx(), &rig.pool, name).expect("mounts");
        rig
    }

    fn cx(&self) -> Cx<'_> {
        Cx { cred: &self.cred, root: &self.root, cwd: &self.root }
    }

    fn look(&self, path: &str) -> Result<VnodeRef, VfsError> {
        vfs::lookup(&self.cx(), None, path.as_bytes(), vfs::Follow::Yes).map(|place| place.vnode)
    }

    fn read(&self, path: &str) -> String {
        String::from_utf8(contents(&self.look(path).unwrap_or_else(|error| panic!("{path}: {error:?}")))).expect("text")
    }

    fn make(&self, directory: &str, name: &str, text: &str) -> VnodeRef {
        let file = make(&self.look(directory).expect("a directory"), name);
        file.write_at(0, text.as_bytes(), IO).expect("writes");
        file
    }

    fn snapshot(&self, name: &str) {
        manage::snapshot(&[name.to_string()], false).expect("takes a snapshot");
    }

    fn send(to: &str, from: Option<&str>) -> Vec<u8> {
        let mut sending = Sending::start(to, from, PackageOptions::default()).expect("sends");
        let mut out = Vec::new();
        loop {
            let piece = sending.piece().expect("a piece");
            if piece.is_empty() {
                return out;
            }
            out.extend(piece);
        }
    }

    fn receive(&self, target: &str, request: ReceiveRequest, stream: &[u8]) {
        let mut receiving = Receiving::start(&self.cx(), target, Naming::Exact, request).expect("begins");
        receiving.feed(&self.cx(), stream).expect("takes it");
        receiving.finish(&self.cx()).expect("ends");
    }
}

fn names(directory: &VnodeRef) -> Vec<String> {
    let mut out = Vec::new();
    directory
        .readdir(0, &mut |entry| {
            out.push(String::from_utf8_lossy(entry.name).into_owned());
            true
        })
        .expect("lists");
    out
}

#[test]
fn snapshots_are_read_below_zfs_and_never_changed() {
    let rig = Rig::new("snapdir");
    let file = rig.make("/snapdir", "f", "before");
    rig.snapshot("snapdir@one");
    file.write_at(0, b"after!", IO).expect("writes");
    rig.snapshot("snapdir@two");
    let (one, two) = ("/snapdir/.zfs/snapshot/one/f", "/snapdir/.zfs/snapshot/two/f");
    assert_eq!((rig.read(one), rig.read(two), rig.read("/snapdir/f")), ("before".into(), "after!".into(), "after!".into()));
    let list = rig.look("/snapdir/.zfs/snapshot").expect("there");
    assert_eq!(names(&list), [".", "..", "one", "two"]);
    assert_eq!(names(&rig.look("/snapdir/.zfs").expect("there")), [".", "..", "snapshot"]);
    // The way up, and what is shown of it.
    assert_eq!(rig.read("/snapdir/.zfs/snapshot/one/../../../f"), "after!");
    assert_eq!(names(&rig.look("/snapdir").expect("there")), [".", "..", "f"]);
    manage::set(&rig.cx(), "snapdir", "snapdir", NewValue::Text("visible")).expect("sets");
    assert_eq!(names(&rig.look("/snapdir").expect("there")), [".", "..", ".zfs", "f"]);
    // Nothing in a snapshot changes, nor is anything made beside it.
    let old = rig.look(one).expect("there");
    manage::set(&rig.cx(), "snapdir", "readonly", NewValue::Text("off")).expect("sets");
    assert_eq!(old.write_at(0, b"x", IO), Err(VfsError::ReadOnly));
    assert_eq!(old.page(0, true, ZoneId::GLOBAL).err(), Some(VfsError::ReadOnly));
    assert!(rig.look("/snapdir/.zfs/snapshot/one").expect("there").create(b"new", Kind::File, 0o644, vfs::DevNo::default(), crate::tests::OWNER).is_err());
    assert!(list.mkdir(b"three", 0o755, crate::tests::OWNER).is_err());
    old.sync().expect("nothing to do");
    // Its dataset's number becomes another's; what was read stays in memory at most, and nothing else is read.
    let root = rig.look("/snapdir/.zfs/snapshot/one").expect("there");
    manage::destroy(&rig.cx(), "snapdir@one", Extent::One, false).expect("destroys");
    rig.make("/snapdir", "g", "secret");
    rig.snapshot("snapdir@again");
    assert_eq!(root.lookup(b"g").err(), Some(VfsError::NotFound));
    assert_eq!(rig.look(one).err(), Some(VfsError::NotFound));
    assert_eq!(rig.read("/snapdir/.zfs/snapshot/again/g"), "secret");
    drop((file, list, old, root));
    manage::unmount(&rig.cx(), &rig.pool, "snapdir").expect("nobody has a file of it");
}

#[test]
fn many_snapshots_that_were_looked_at_do_not_stay_in_memory() {
    let rig = Rig::new("snapmany");
    for number in 0..40 {
        rig.make("/snapmany", &std::format!("f{number}"), "text");
        rig.snapshot(&std::format!("snapmany@s{number}"));
    }
    let held = rig.look("/snapmany/.zfs/snapshot/s3/f3").expect("there");
    for number in 0..40 {
        assert_eq!(rig.read(&std::format!("/snapmany/.zfs/snapshot/s{number}/f{number}")), "text");
    }
    let open = |snapshots: core::ops::Range<u64>| {
        let list = rig.pool.edit(|store| store.snapshots_of(store.find("snapmany")?)).expect("a store").expect("lists");
        let list = &list[usize::try_from(snapshots.start).expect("few")..usize::try_from(snapshots.end).expect("few")];
        rig.pool.with(|store| Ok(list.iter().filter(|(_, dataset)| store.has_open(*dataset)).count())).expect("a store")
    };
    // Other tests look at snapshots, too: those here may be fewer.
    assert!(open(0..40) <= 18, "{} are open", open(0..40));
    assert_eq!((open(3..4), open(5..20)), (1, 0));
    assert_eq!(contents(&held), b"text");
    assert_eq!(rig.look("/snapmany/.zfs/snapshot/s40").err(), Some(VfsError::NotFound));
    assert_eq!(rig.look("/snapmany/.zfs/snapshot/S1").err(), Some(VfsError::NotFound));
}

#[test]
fn an_empty_name_is_no_snapshots_name() {
    let rig = Rig::new("nameless");
    for name in ["nameless@a", "nameless@b", "nameless@c"] {
        rig.snapshot(name);
    }
    let left = || manage::would_go("nameless@%", Extent::One).expect("all there are");
    for name in ["nameless@", "nameless@a,", "nameless@,b", "nameless@a,,b"] {
        for extent in [Extent::One, Extent::Below, Extent::Clones] {
            assert!(manage::would_go(name, extent).is_err(), "{name}");
            assert!(manage::destroy(&rig.cx(), name, extent, false).is_err(), "{name}");
        }
        assert!(manage::rollback(&rig.cx(), name, true, true).is_err(), "{name}");
    }
    assert_eq!(left(), ["nameless@a", "nameless@b", "nameless@c"]);
    manage::destroy(&rig.cx(), "nameless@a,c%", Extent::One, false).expect("a list and the end of a range");
    assert_eq!(left(), ["nameless@b"]);
}

#[test]
fn a_receive_that_is_killed_mounts_again_what_it_found_mounted() {
    let rig = Rig::new("killed");
    manage::create_dataset(&rig.cx(), "killed/from", &[]).expect("makes");
    let file = rig.make("/killed/from", "f", "one");
    rig.snapshot("killed/from@one");
    rig.receive("killed/to", ReceiveRequest::default(), &Rig::send("killed/from@one", None));
    assert_eq!(rig.read("/killed/to/f"), "one");
    file.write_at(0, b"two", IO).expect("writes");
    rig.snapshot("killed/from@two");
    let step = Rig::send("killed/from@two", Some("one"));
    let mut receiving = Receiving::start(&rig.cx(), "killed/to", Naming::Exact, ReceiveRequest::default()).expect("begins");
    receiving.feed(&rig.cx(), &step[..step.len() / 2]).expect("takes a half");
    assert_eq!(rig.look("/killed/to/f").err(), Some(VfsError::NotFound), "it is not mounted meanwhile");
    drop(receiving);
    assert_eq!(rig.read("/killed/to/f"), "one");
    rig.receive("killed/to", ReceiveRequest::default(), &step);
    assert_eq!(rig.read("/killed/to/f"), "two");
    // A dry run names what it would make, and makes nothing.
    let mut dry = Receiving::start(&rig.cx(), "killed/never", Naming::Exact, ReceiveRequest { dry: true, ..ReceiveRequest::default() }).expect("begins");
    dry.feed(&rig.cx(), &Rig::send("killed/from@one", None)).expect("takes it");
    assert_eq!(dry.finish(&rig.cx()), Ok([String::from("killed/never@one")].into()));
    assert_eq!(manage::is_there("killed/never"), Ok(false));
}

#[test]
fn a_full_stream_that_replaces_a_file_system_replaces_what_was_read_of_it() {
    let rig = Rig::new("replaced");
    for (name, text) in [("replaced/from", "from the stream"), ("replaced/to", "what was there")] {
        manage::create_dataset(&rig.cx(), name, &[]).expect("makes");
        rig.make(&alloc::format!("/{name}"), "f", text);
    }
    rig.snapshot("replaced/from@one");
    assert_eq!(rig.read("/replaced/to/f"), "what was there");
    rig.receive("replaced/to", ReceiveRequest { force: true, ..ReceiveRequest::default() }, &Rig::send("replaced/from@one", None));
    assert_eq!(rig.read("/replaced/to/f"), "from the stream");
}

#[test]
fn a_pools_own_file_system_received_without_its_name_replaces_what_was_read_of_the_target() {
    let source = Rig::new("dropfrom");
    let file = source.make("/dropfrom", "f", "one");
    source.snapshot("dropfrom@one");
    let whole = Rig::send("dropfrom@one", None);
    file.write_at(0, b"two", IO).expect("writes");
    source.make("/dropfrom", "g", "new");
    source.snapshot("dropfrom@two");
    let step = Rig::send("dropfrom@two", Some("one"));

    let rig = Rig::new("dropto");
    manage::create_dataset(&rig.cx(), "dropto/x", &[]).expect("makes");
    manage::create_dataset(&rig.cx(), "dropto/x/below", &[]).expect("makes");
    rig.make("/dropto/x/below", "h", "below");
    let begin = || Receiving::start(&rig.cx(), "dropto/x", Naming::DropPool, ReceiveRequest { force: true, ..ReceiveRequest::default() }).expect("begins");
    let receive = |stream: &[u8]| {
        let mut receiving = begin();
        // In pieces that are smaller than the record that names it.
        for piece in stream.chunks(100) {
            receiving.feed(&rig.cx(), piece)?;
        }
        receiving.finish(&rig.cx())
    };
    // Of a target that is in use nothing changes, and what is below it is mounted again.
    let held = rig.make("/dropto/x", "f", "was there");
    let place = vfs::lookup(&rig.cx(), None, b"/dropto/x", vfs::Follow::Yes).expect("there");
    let refused = receive(&whole);
    assert!(matches!(&refused, Err(Refused::Busy(why)) if why.contains("dropto/x")), "{refused:?}");
    assert_eq!((rig.read("/dropto/x/f"), rig.read("/dropto/x/below/h"), contents(&held)), ("was there".into(), "below".into(), b"was there".to_vec()));
    drop((place, held));
    manage::destroy(&rig.cx(), "dropto/x/below", Extent::One, false).expect("destroys");
    // A full stream instead of it, then what changed.
    assert_eq!(receive(&whole), Ok([String::from("dropto/x@one")].into()));
    assert_eq!(rig.read("/dropto/x/f"), "one");
    assert_eq!(receive(&step), Ok([String::from("dropto/x@two")].into()));
    assert_eq!((rig.read("/dropto/x/f"), rig.read("/dropto/x/g")), ("two".into(), "new".into()));
    // One that breaks off within its first record, or says nothing, leaves all as it was.
    let mut short = begin();
    short.feed(&rig.cx(), &step[..100]).expect("waits for more");
    assert!(short.finish(&rig.cx()).is_err());
    assert_eq!(rig.read("/dropto/x/f"), "two");
    // A stream with a name to come behind the target leaves the target mounted, in use as it may be.
    manage::create_dataset(&source.cx(), "dropfrom/sub", &[]).expect("makes");
    source.make("/dropfrom/sub", "s", "sub");
    source.snapshot("dropfrom/sub@one");
    let place = vfs::lookup(&rig.cx(), None, b"/dropto/x", vfs::Follow::Yes).expect("there");
    assert_eq!(receive(&Rig::send("dropfrom/sub@one", None)), Ok([String::from("dropto/x/sub@one")].into()));
    assert_eq!((rig.read("/dropto/x/f"), rig.read("/dropto/x/sub/s")), ("two".into(), "sub".into()));
    drop(place);
}

#[test]
fn a_file_system_becomes_read_only_when_nobody_has_a_file_of_it_mapped_for_writing() {
    let rig = Rig::new("mapped");
    let file = rig.make("/mapped", "f", "text");
    let page = file.page(0, true, ZoneId::GLOBAL).expect("a page to be written");
    let refused = manage::set(&rig.cx(), "mapped", "readonly", NewValue::Text("on"));
    assert!(matches!(refused, Err(Refused::Busy(_))), "{refused:?}");
    page.write(0, b"TEXT");
    file.write_at(4, b"!", IO).expect("as before");
    drop(page);
    manage::set(&rig.cx(), "mapped", "readonly", NewValue::Text("on")).expect("nothing is mapped any more");
    assert_eq!((rig.read("/mapped/f"), file.write_at(0, b"x", IO)), ("TEXT!".into(), Err(VfsError::ReadOnly)));
    manage::set(&rig.cx(), "mapped", "readonly", NewValue::Text("off")).expect("sets");
    file.write_at(0, b"x", IO).expect("writes");
}

#[test]
fn readonly_that_is_inherited_looks_at_mappings_like_one_that_is_set() {
    let rig = Rig::new("mapdown");
    manage::create_dataset(&rig.cx(), "mapdown/a", &[]).expect("makes");
    manage::create_dataset(&rig.cx(), "mapdown/a/b", &[]).expect("makes");
    manage::create_dataset(&rig.cx(), "mapdown/a/own", &[("readonly".to_string(), "off".to_string())]).expect("makes");
    let (file, other) = (rig.make("/mapdown/a/b", "f", "text"), rig.make("/mapdown/a/own", "f", "text"));
    let page = file.page(0, true, ZoneId::GLOBAL).expect("a page to be written");
    // One that says itself that it is to be written is in nobody's way.
    let kept = other.page(0, true, ZoneId::GLOBAL).expect("a page to be written");
    let set = |name: &str, value| manage::set(&rig.cx(), name, "readonly", value);
    let is_busy = |result| matches!(result, Err(Refused::Busy(_)));
    assert!(is_busy(set("mapdown/a", NewValue::Text("on"))));
    set("mapdown/a", NewValue::Text("off")).expect("sets");
    drop(page);
    set("mapdown", NewValue::Text("on")).expect("below there is another value");
    let page = file.page(0, true, ZoneId::GLOBAL).expect("a page to be written");
    assert!(is_busy(set("mapdown/a", NewValue::Inherited)));
    assert!(is_busy(set("mapdown/a", NewValue::Received)));
    file.write_at(4, b"!", IO).expect("as before");
    drop(page);
    set("mapdown/a", NewValue::Inherited).expect("nothing is mapped any more");
    assert_eq!(file.page(0, true, ZoneId::GLOBAL).err(), Some(VfsError::ReadOnly));
    assert_eq!(file.write_at(0, b"x", IO), Err(VfsError::ReadOnly));
    other.write_at(0, b"x", IO).expect("writes");
    drop(kept);
}

#[test]
fn what_a_zone_was_given_keeps_its_name_while_the_zone_is_there() {
    let rig = Rig::new("given");
    for name in ["given/a", "given/a/b", "given/c"] {
        manage::create_dataset(&rig.cx(), name, &[]).expect("makes");
    }
    let zone = ZoneId(4711);
    crate::zones::give(zone, [String::from("given/a/b")].into(), Vec::new());
    for name in ["given/a", "given/a/b"] {
        let refused = [manage::rename(&rig.cx(), name, "given/x", manage::Rename::default()), manage::destroy(&rig.cx(), name, Extent::Below, false)];
        assert!(refused.iter().all(|refused| matches!(refused, Err(Refused::Busy(why)) if why.contains("given/a/b is given to a zone"))), "{refused:?}");
    }
    manage::rename(&rig.cx(), "given/c", "given/d", manage::Rename::default()).expect("nobody's");
    crate::zones::forget(zone);
    manage::rename(&rig.cx(), "given/a", "given/x", manage::Rename::default()).expect("the zone is gone");
    manage::destroy(&rig.cx(), "given/x", Extent::Below, false).expect("the zone is gone");
}

#[test]
fn a_property_that_is_left_out_of_a_receive_stays_as_it_is_here() {
    let rig = Rig::new("leftout");
    manage::create_dataset(&rig.cx(), "leftout/from", &[]).expect("makes");
    let set = |name: &str, property: &str, value: &str| manage::set(&rig.cx(), name, property, NewValue::Text(value)).expect("sets");
    for (property, value) in [("compression", "zle"), ("atime", "off"), ("quota", "8M"), ("copies", "2"), ("user:a", "theirs")] {
        set("leftout/from", property, value);
    }
    let package = |to: &str, from: Option<&str>| {
        let mut sending = Sending::start(to, from, PackageOptions { properties: true, ..PackageOptions::default() }).expect("sends");
        let mut out = Vec::new();
        while let Some(piece) = Some(sending.piece().expect("a piece")).filter(|piece| !piece.is_empty()) {
            out.extend(piece);
        }
        out
    };
    let excluded = || ["compress", "quota", "atime", "user:a"].map(String::from).to_vec();
    let values = || {
        let names = ["compression", "atime", "quota", "copies", "user:a"].map(String::from);
        let values = manage::get("leftout/to", &names, false, &mut manage::Room::new(1 << 20)).expect("gets");
        values.into_iter().map(|one| std::format!("{} {} {}", one.value, one.source, one.received)).collect::<Vec<_>>()
    };
    rig.snapshot("leftout/from@one");
    rig.receive("leftout/to", ReceiveRequest { excluded: excluded(), ..ReceiveRequest::default() }, &package("leftout/from@one", None));
    assert_eq!(values()[..4], ["lz4 inherited from leftout zle", "on default off", "none default -", "2 received 2"]);
    // What is set here stays, with -x and without.
    set("leftout/to", "compression", "lzjb");
    rig.snapshot("leftout/from@two");
    rig.receive("leftout/to", ReceiveRequest { excluded: excluded(), force: true, ..ReceiveRequest::default() }, &package("leftout/from@two", Some("one")));
    assert_eq!(values()[..4], ["lzjb local zle", "on default off", "none default -", "2 received 2"]);
    rig.snapshot("leftout/from@three");
    rig.receive("leftout/to", ReceiveRequest { force: true, ..ReceiveRequest::default() }, &package("leftout/from@three", Some("two")));
    assert_eq!(values()[..4], ["lzjb local zle", "on default off", "8M received 8M", "2 received 2"]);
    // Back to what the stream brought, and that is obeyed where mounts are made, too.
    manage::set(&rig.cx(), "leftout/to", "atime", NewValue::Received).expect("sets");
    assert_eq!(values()[1], "off received off");
    let unknown = Receiving::start(&rig.cx(), "leftout/to", Naming::Exact, ReceiveRequest { excluded: [String::from("colour")].into(), ..ReceiveRequest::default() });
    assert!(matches!(unknown, Err(Refused::Invalid(_))));
}

#[test]
fn a_rollback_that_is_refused_destroys_nothing() {
    let rig = Rig::new("rb");
    manage::create_dataset(&rig.cx(), "rb/a", &[]).expect("makes");
    let file = rig.make("/rb/a", "f", "one");
    rig.snapshot("rb/a@one");
    file.write_at(0, b"two", IO).expect("writes");
    rig.snapshot("rb/a@two");
    manage::clone_dataset(&rig.cx(), "rb/a@two", "rb/c", &[]).expect("clones");
    rig.snapshot("rb/c@deep");
    manage::clone_dataset(&rig.cx(), "rb/c@deep", "rb/d", &[]).expect("clones");
    let dir = vfs::lookup(&rig.cx(), None, b"/rb/a", vfs::Follow::Yes).expect("place");
    let refused = manage::rollback(&rig.cx(), "rb/a@one", true, true);
    std::eprintln!("{refused:?}");
    assert!(matches!(refused, Err(Refused::Busy(_))));
    assert_eq!(rig.read("/rb/c/f"), "two");
    assert_eq!(rig.read("/rb/d/f"), "two");
    drop((dir, file));
    manage::hold(&["rb/a@two".to_string()], "tag", false).expect("holds");
    let refused = manage::rollback(&rig.cx(), "rb/a@one", true, true);
    std::eprintln!("{refused:?}");
    assert!(matches!(refused, Err(Refused::Busy(_))));
    assert_eq!(rig.read("/rb/d/f"), "two");
    assert_eq!(rig.read("/rb/a/f"), "two");
    manage::hold(&["rb/a@two".to_string()], "tag", true).expect("releases");
    manage::rollback(&rig.cx(), "rb/a@one", true, true).expect("rolls back");
    assert_eq!(rig.read("/rb/a/f"), "one");
    assert!(!manage::is_there("rb/c").expect("asks") && !manage::is_there("rb/d").expect("asks"));
}
