//! Lone streams: full, incremental, resumed, damaged, misplaced.

use pool_dmu::{Datasets, Store};
use pool_stream::{Base, Naming, SendOptions, Sender, Token, Unpacker, Why, listing, resume_token};
use pool_zpl::Zvol;

use crate::rig::{NOW, contents, drain, judge, live, make_fs, names, options, pool, random, receive, receive_with, zstream};

pub fn sender(store: &Store, to: &str, from: Option<&str>, send: SendOptions) -> Sender {
    let tree = Datasets::open(store.pool()).expect("tree");
    let info = tree.find(to).expect("find");
    let base = from.map(|from| {
        let from = tree.find(from).expect("base").dataset;
        Base { guid: from.guid, txg: from.creation_txg, is_origin: false }
    });
    Sender::new(&tree, &info, base, send, None).expect("open")
}

fn send(store: &Store, to: &str, from: Option<&str>) -> Vec<u8> {
    drain(store, sender(store, to, from, SendOptions::default()))
}

#[test]
fn a_file_system_arrives_as_it_was_at_each_snapshot() {
    let ((_, mut source), (disk, mut target)) = (pool("src"), pool("dst"));
    let fs = make_fs(&mut source, "src/a");
    let mut draw = random(1);
    let mut previous: Option<String> = None;
    for (turn, compressed) in [false, true, true, false, true].into_iter().enumerate() {
        live(&mut source, fs, &mut draw, 150);
        source.snapshot("src/a", &format!("s{turn}"), NOW.0).expect("snapshot");
        let name = format!("src/a@s{turn}");
        let options = SendOptions { compressed, embed: true, large_blocks: true };
        let stream = drain(&source, sender(&source, &name, previous.as_deref(), options));
        zstream(&stream);
        let mut listing = listing::Listing::default();
        listing.feed(&stream, |_| {}).expect("list");
        listing.finish().expect("whole");
        let received = receive(&mut target, "dst/b", &stream).unwrap_or_else(|error| panic!("turn {turn}: {error}"));
        assert_eq!(received[0].snapshot, format!("dst/b@s{turn}"));
        assert!(contents(&source, &name) == contents(&target, &format!("dst/b@s{turn}")), "turn {turn}: contents differ");
        previous = Some(name);
    }
    // A small change makes a small stream.
    live(&mut source, fs, &mut draw, 1);
    source.snapshot("src/a", "last", NOW.0).expect("snapshot");
    assert!(send(&source, "src/a@last", Some("src/a@s4")).len() < send(&source, "src/a@last", None).len() / 3);
    assert!(names(&target).iter().all(|name| !name.contains('%')));
    judge(target, &disk);
}

#[test]
fn a_volume_arrives_with_its_holes() {
    let ((_, mut source), (disk, mut target)) = (pool("vsrc"), pool("vdst"));
    let zvol = Zvol::create(&mut source, "vsrc/v", 1 << 20, 8192, true, NOW.0).expect("make");
    zvol.write(&mut source, 100_000, &[5; 200_000]).expect("write");
    source.snapshot("vsrc/v", "one", NOW.0).expect("snapshot");
    zvol.discard(&mut source, 120_000, 60_000).expect("discard");
    zvol.write(&mut source, 0, &[6; 10]).expect("write");
    source.snapshot("vsrc/v", "two", NOW.0).expect("snapshot");
    receive(&mut target, "vdst/w", &send(&source, "vsrc/v@one", None)).expect("full");
    receive(&mut target, "vdst/w", &send(&source, "vsrc/v@two", Some("vsrc/v@one"))).expect("incremental");
    let dataset = target.find("vdst/w").expect("find");
    let arrived = Zvol::open(&mut target, dataset).expect("open");
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![1; 1 << 20]);
    zvol.read(&mut source, 0, &mut ours).expect("read");
    arrived.read(&mut target, 0, &mut theirs).expect("read");
    assert!(ours == theirs && arrived.block_size() == 8192);
    assert_eq!(arrived.seek(&mut target, 125_000, false).expect("seek"), zvol.seek(&mut source, 125_000, false).expect("seek"));
    judge(target, &disk);
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_changes_nothing() {
    let ((_, mut source), (disk, mut target)) = (pool("fsrc"), pool("fdst"));
    let fs = make_fs(&mut source, "fsrc/a");
    let mut draw = random(2);
    for name in ["one", "two", "three"] {
        live(&mut source, fs, &mut draw, 60);
        source.snapshot("fsrc/a", name, NOW.0).expect("snapshot");
    }
    let full = send(&source, "fsrc/a@one", None);
    let (second, third) = (send(&source, "fsrc/a@two", Some("fsrc/a@one")), send(&source, "fsrc/a@three", Some("fsrc/a@two")));
    let why = |result: Result<Vec<pool_stream::Received>, pool_stream::StreamError>| match result.expect_err("refused").why {
        Why::Target(why, _) => why,
        other => panic!("{other}"),
    };
    assert!(why(receive(&mut target, "fdst/b", &second)).contains("does not exist"));
    receive(&mut target, "fdst/b", &full).expect("full");
    assert!(why(receive(&mut target, "fdst/b", &full)).contains("exists"));
    assert!(why(receive(&mut target, "fdst/b", &third)).contains("does not match"));
    assert!(why(receive(&mut target, "fdst", &full)).contains("exists"));
    let dataset = target.find("fdst/b").expect("find");
    live(&mut target, dataset, &mut draw, 40);
    target.commit(NOW.0).expect("commit");
    let before = contents(&target, "fdst/b");
    assert!(why(receive(&mut target, "fdst/b", &second)).contains("modified"));
    assert!(contents(&target, "fdst/b") == before, "a refused stream changed the file system");
    let forced = || pool_stream::ReceiveOptions { force: true, ..options() };
    receive_with(&mut target, "fdst/b", &second, forced()).expect("forced");
    assert!(contents(&target, "fdst/b") == contents(&source, "fsrc/a@two"));
    // Back over a newer snapshot.
    target.snapshot("fdst/b", "mine", NOW.0).expect("snapshot");
    assert!(why(receive(&mut target, "fdst/b", &third)).contains("does not match"));
    receive_with(&mut target, "fdst/b", &third, forced()).expect("forced");
    assert!(contents(&target, "fdst/b") == contents(&source, "fsrc/a@three"));
    // A full stream over a file system without snapshots.
    make_fs(&mut target, "fdst/c");
    receive_with(&mut target, "fdst/c", &full, forced()).expect("overwritten");
    assert!(contents(&target, "fdst/c") == contents(&source, "fsrc/a@one"));
    judge(target, &disk);
}

#[test]
fn a_damaged_or_cut_stream_says_where_and_leaves_nothing() {
    let ((_, mut source), (disk, mut target)) = (pool("dsrc"), pool("ddst"));
    let fs = make_fs(&mut source, "dsrc/a");
    let mut draw = random(3);
    live(&mut source, fs, &mut draw, 60);
    source.snapshot("dsrc/a", "one", NOW.0).expect("snapshot");
    live(&mut source, fs, &mut draw, 30);
    source.snapshot("dsrc/a", "two", NOW.0).expect("snapshot");
    let full = send(&source, "dsrc/a@one", None);
    let second = send(&source, "dsrc/a@two", Some("dsrc/a@one"));
    receive(&mut target, "ddst/b", &full).expect("full");
    let (listed, before) = (names(&target), contents(&target, "ddst/b"));
    for turn in 0..60 {
        let (stream, name) = if turn % 2 == 0 { (&full, "ddst/new") } else { (&second, "ddst/b") };
        let mut bad = stream.clone();
        let at = usize::try_from(draw() % bad.len() as u64).expect("small");
        if turn % 3 == 0 {
            bad.truncate(at);
        } else {
            bad[at] ^= 1 << (draw() % 8);
        }
        let error = receive(&mut target, name, &bad).expect_err("damage is found");
        // A payload is covered by the record behind it.
        assert!(error.offset <= at as u64 + (128 << 10) + 312, "flaw at {at}, found at {error}");
        assert_eq!(names(&target), listed, "turn {turn}: {error}");
    }
    assert!(contents(&target, "ddst/b") == before);
    let mut longer = second.clone();
    longer.extend_from_slice(&full);
    assert_eq!(receive(&mut target, "ddst/b", &longer).expect_err("trailing").why, Why::Trailing);
    judge(target, &disk);
}

#[test]
fn a_stream_that_was_cut_goes_on_from_its_token() {
    let ((_, mut source), (disk, mut target)) = (pool("rsrc"), pool("rdst"));
    let fs = make_fs(&mut source, "rsrc/a");
    let mut draw = random(4);
    live(&mut source, fs, &mut draw, 300);
    source.snapshot("rsrc/a", "one", NOW.0).expect("snapshot");
    live(&mut source, fs, &mut draw, 200);
    source.snapshot("rsrc/a", "two", NOW.0).expect("snapshot");
    let resumable = || pool_stream::ReceiveOptions { resumable: true, ..options() };
    for (to, from) in [("rsrc/a@one", None), ("rsrc/a@two", Some("rsrc/a@one"))] {
        let mut stream = drain(&source, sender(&source, to, from, SendOptions { compressed: true, ..SendOptions::default() }));
        for cut in 0..4 {
            let mut unpacker = Unpacker::new("rdst/b", Naming::Exact, resumable());
            let piece = stream.len() / (5 - cut);
            unpacker.feed(&mut target, &stream[..piece], NOW.0).expect("good so far");
            assert_eq!(unpacker.finish(&mut target, NOW.0).expect_err("cut").why, Why::Truncated);
            let token = resume_token(&target, "rdst/b").expect("read").expect("there is one").encode();
            assert!(receive(&mut target, "rdst/b", &stream).is_err(), "only the rest is taken");
            let token = Token::decode(&token).expect("decodes");
            let tree = Datasets::open(source.pool()).expect("tree");
            // Whose it is not gets nothing by knowing its guid, be it that of the snapshot or of its base.
            assert!(Sender::resume(&tree, &token, |name| name != "rsrc/a@one").is_err());
            let renamed = Token { name: String::from("rsrc/mine@x"), ..token.clone() };
            assert!(Sender::resume(&tree, &renamed, |name| name.starts_with("rsrc/mine")).is_err());
            let rest = drain(&source, Sender::resume(&tree, &token, |_| true).expect("resume"));
            assert!(rest.len() < stream.len() + 1024, "it does not start anew");
            zstream(&rest);
            stream = rest;
        }
        receive_with(&mut target, "rdst/b", &stream, resumable()).expect("the rest");
        assert!(contents(&source, to) == contents(&target, &to.replace("rsrc/a", "rdst/b")), "{to}");
        assert!(resume_token(&target, "rdst/b").expect("read").is_none());
    }
    judge(target, &disk);
}

#[test]
fn what_was_received_in_part_can_be_given_up() {
    let ((_, mut source), (disk, mut target)) = (pool("asrc"), pool("adst"));
    let fs = make_fs(&mut source, "asrc/a");
    live(&mut source, fs, &mut random(6), 100);
    source.snapshot("asrc/a", "one", NOW.0).expect("snapshot");
    let stream = send(&source, "asrc/a@one", None);
    let listed = names(&target);
    let resumable = pool_stream::ReceiveOptions { resumable: true, ..options() };
    receive_with(&mut target, "adst/b", &stream[..stream.len() / 2], resumable).expect_err("cut");
    assert_eq!(pool_stream::abort(&mut target, "adst/b", NOW.0), Ok(true));
    assert_eq!(pool_stream::abort(&mut target, "adst/b", NOW.0), Ok(false));
    assert_eq!(names(&target), listed);
    judge(target, &disk);
}
