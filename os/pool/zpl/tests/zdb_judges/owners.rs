//! What changed since a snapshot, and whose it is: comparisons, accounts and quotas of users.

use pool_dmu::edit::EditError;
use pool_dmu::{Datasets, Holder, OwnedProperty, Store, parse_property};
use pool_spa::Pool;
use pool_zpl::{Change, Make, NewEntry, Writer, XattrStyle, create_filesystem};

use crate::rig::{NEW, NOW, create, devices, folder, judge, random};

const LATER: (u64, u64) = (NOW.0 + 60, 7);

fn of(uid: u64) -> NewEntry {
    NewEntry { mode: 0o644, uid, gid: 50, now: NOW }
}

/// Lines of `zfs diff -F`.
fn diff(store: &Store, from: &str, to: Option<&str>) -> Vec<String> {
    let datasets = Datasets::open(store.pool()).expect("datasets");
    let (mut diff, mount) = pool_zpl::diff(&datasets, from, to).expect("compare");
    let mut out = Vec::new();
    while diff.step(&mut out).expect("step") {}
    out.iter().map(|one| one.line(&mount, true, false, false).trim_end().to_owned()).collect()
}

#[test]
fn a_comparison_names_what_was_made_changed_renamed_linked_and_removed() {
    let folder = folder("diff");
    let mut store = create(&folder, "diff", None, 1, 9);
    create_filesystem(&mut store, "diff/home", &NEW).expect("make a file system");
    let home = store.find("diff/home").expect("find");
    let mut writer = Writer::open(&mut store, home).expect("open");
    let root = writer.root();
    let deep = writer.make(root, b"a directory", Make::Directory, &NEW).expect("make a directory");
    for name in ["stays", "grows", "moves", "goes", "linked", "again"] {
        let object = writer.make(deep, name.as_bytes(), Make::File, &of(1000)).expect("make");
        writer.write(object, 0, name.as_bytes(), NOW).expect("write");
    }
    // Many files, so that there are blocks of dnodes in which nothing changes.
    for number in 0..300 {
        writer.make(root, format!("n{number}").as_bytes(), Make::File, &of(1000)).expect("make");
    }
    store.snapshot_all(&["diff/home@one"], NOW.0).expect("snapshot");
    assert_eq!(diff(&store, "diff/home@one", None), [""; 0]);
    let mut writer = Writer::open(&mut store, home).expect("open");
    let find = |writer: &mut Writer<'_>, name: &[u8]| writer.lookup(deep, name).expect("look up").expect("there");
    let grows = find(&mut writer, b"grows");
    writer.write(grows, 5, b"more", LATER).expect("write");
    writer.rename((deep, b"moves"), (root, b"moved"), false, LATER, false).expect("rename");
    writer.remove(deep, b"goes", LATER).expect("remove");
    let linked = find(&mut writer, b"linked");
    writer.link(root, b"twin", linked, LATER).expect("link");
    // Removed while it is open: it has no name any more.
    writer.remove_entry(root, b"n299", LATER, true).expect("remove");
    store.commit(LATER.0).expect("commit");
    let mut writer = Writer::open(&mut store, home).expect("open");
    writer.remove(deep, b"again", LATER).expect("remove");
    store.commit(LATER.0).expect("commit");
    let mut writer = Writer::open(&mut store, home).expect("open");
    // The number that came free is another file's now.
    writer.make(deep, b"new\n", Make::Symlink(b"some/where"), &NewEntry { now: LATER, ..of(0) }).expect("make");
    store.snapshot_all(&["diff/home@two"], LATER.0).expect("snapshot");
    let expected = [
        "M\t/\t/diff/home/",
        "M\t/\t/diff/home/a\\0040directory",
        "M\tF\t/diff/home/a\\0040directory/grows",
        "R\tF\t/diff/home/a\\0040directory/moves -> /diff/home/moved",
        "-\tF\t/diff/home/a\\0040directory/goes",
        "+\t@\t/diff/home/a\\0040directory/new\\0012",
        "M\tF\t/diff/home/a\\0040directory/linked\t(+1)",
        "-\tF\t/diff/home/a\\0040directory/again",
        "-\tF\t/diff/home/n299",
    ];
    let mut found = diff(&store, "diff/home@one", Some("@two"));
    let mut sorted: Vec<String> = expected.map(str::to_owned).to_vec();
    sorted.sort();
    found.sort();
    assert_eq!(found, sorted);
    // A clone is compared with what it came from; nothing older is the other way round.
    store.clone_dataset("diff/home@two", "diff/clone", LATER.0).expect("clone");
    assert_eq!(diff(&store, "diff/home@one", Some("diff/clone")).len(), expected.len());
    let datasets = Datasets::open(store.pool()).expect("datasets");
    for (from, to) in [("diff/home@two", "diff/home@one"), ("diff/home@two", "diff"), ("diff/home", "diff/home@two")] {
        assert!(matches!(pool_zpl::diff(&datasets, from, Some(to)), Err(EditError::Invalid(_))), "{from} {to}");
    }
    store.export(LATER.0).expect("export");
    judge(&folder, "diff");
}

#[test]
fn a_comparison_in_parts_goes_through_the_names_of_a_directory_once() {
    let folder = folder("parts");
    let mut store = create(&folder, "parts", None, 1, 9);
    create_filesystem(&mut store, "parts/home", &NEW).expect("make a file system");
    let home = store.find("parts/home").expect("find");
    store.snapshot_all(&["parts/home@one"], NOW.0).expect("snapshot");
    let mut writer = Writer::open(&mut store, home).expect("open");
    let root = writer.root();
    for number in 0..500 {
        writer.make(root, format!("n{number}").as_bytes(), Make::File, &of(1000)).expect("make");
    }
    store.commit(LATER.0).expect("commit");
    let expected = diff(&store, "parts/home@one", None);
    assert_eq!(expected.len(), 500);
    let (mut found, mut place, mut memory, mut parts) = (Vec::new(), 0, None, 0);
    loop {
        let datasets = Datasets::open(store.pool()).expect("datasets");
        let (mut part, _) = pool_zpl::diff(&datasets, "parts/home@one", None).expect("compare");
        part.seek(place);
        if let Some(memory) = memory {
            part.recall(memory);
        }
        if !part.step(&mut found).expect("step") {
            assert_eq!(part.into_memory().walks(), 1);
            break;
        }
        (place, parts) = (part.place(), parts + 1);
        memory = Some(part.into_memory());
    }
    assert!(parts > 10, "{parts}");
    assert_eq!(found.iter().map(|one| one.line("/parts/home", true, false, false).trim_end().to_owned()).collect::<Vec<_>>(), expected);
    // What changed meanwhile is read anew.
    let known = {
        let datasets = Datasets::open(store.pool()).expect("datasets");
        let (mut diff, _) = pool_zpl::diff(&datasets, "parts/home@one", None).expect("compare");
        while diff.step(&mut found).expect("step") {}
        diff.into_memory()
    };
    Writer::open(&mut store, home).expect("open").rename((root, b"n7"), (root, b"other"), false, LATER, false).expect("rename");
    store.commit(LATER.0).expect("commit");
    let datasets = Datasets::open(store.pool()).expect("datasets");
    let (mut again, _) = pool_zpl::diff(&datasets, "parts/home@one", None).expect("compare");
    again.recall(known);
    found.clear();
    while again.step(&mut found).expect("step") {}
    assert!(found.iter().any(|one| one.path == b"/other") && !found.iter().any(|one| one.path == b"/n7"));
}

fn shown(pool: &Pool, dataset: &str, property: &str) -> String {
    let datasets = Datasets::open(pool).expect("datasets");
    let info = datasets.find(dataset).expect("find");
    datasets.show(&info, property).expect("show").map_or_else(|| "-".to_owned(), |shown| shown.exact)
}

#[test]
fn users_have_what_their_files_take_and_no_more_than_their_quotas() {
    let folder = folder("owners");
    let mut store = create(&folder, "owners", Some(0), 2, 9);
    create_filesystem(&mut store, "owners/home", &NEW).expect("make a file system");
    let home = store.find("owners/home").expect("find");
    let set = |store: &mut Store, property: &str, text: &str| {
        let value = parse_property(property, text)?;
        store.set_property("owners/home", property, &value)?;
        store.commit(NOW.0)
    };
    set(&mut store, "userquota@1000", "1M").expect("set a quota");
    set(&mut store, "groupquota@51", "2M").expect("set a quota");
    let mut noise = random(3);
    let block: Vec<u8> = (0..128 << 10 >> 3).flat_map(|_| noise().to_le_bytes()).collect();
    // One user comes up against its quota, another does not.
    let mut writer = Writer::open(&mut store, home).expect("open");
    let root = writer.root();
    let mine = writer.make(root, b"mine", Make::File, &of(1000)).expect("make");
    let theirs = writer.make(root, b"theirs", Make::File, &of(1001)).expect("make");
    let mut written = 0;
    let refused = (0..16).find_map(|number| {
        let done = writer.write(mine, number << 17, &block, NOW);
        written += u64::from(done.is_ok());
        done.err()
    });
    assert_eq!((refused, written), (Some(EditError::Quota), 7), "seven blocks and the dnode are below a MiB, eight are not");
    for number in 0..12 {
        writer.write(theirs, number << 17, &block, NOW).expect("no quota");
    }
    store.commit(NOW.0).expect("commit");
    let mut writer = Writer::open(&mut store, home).expect("open");
    assert_eq!(writer.write(mine, 7 << 17, &block, NOW), Err(EditError::Quota), "as much as before the commit");
    // Attributes take room, too.
    let names: [&[u8]; 4] = [b"user.a", b"user.b", b"user.c", b"user.d"];
    let refused = names.iter().position(|name| writer.set_xattr(mine, name, Some(&block[..60 << 10]), XattrStyle::Directory, NOW) == Err(EditError::Quota));
    assert!(matches!(refused, Some(1..=3)), "{refused:?}");
    for name in &names[..refused.unwrap_or(0)] {
        writer.set_xattr(mine, name, None, XattrStyle::Directory, NOW).expect("remove");
    }
    store.commit(NOW.0).expect("commit");
    let mut writer = Writer::open(&mut store, home).expect("open");
    // What is written in place takes nothing more, however often.
    for number in (0..7).chain(0..7) {
        writer.write(mine, number << 17, &block, NOW).expect("the file does not grow");
    }
    // A file changes hands: who gets it must have room.
    let to = |uid| Change { uid: Some(uid), ..Change::default() };
    assert_eq!(writer.set_attributes(theirs, &to(1000)), Err(EditError::Quota));
    writer.set_attributes(theirs, &Change { gid: Some(51), ..Change::default() }).expect("the group has room");
    store.commit(NOW.0).expect("commit");
    let mut writer = Writer::open(&mut store, home).expect("open");
    for number in 12..15 {
        writer.write(theirs, number << 17, &block, NOW).expect("the group has room");
    }
    assert_eq!(writer.write(theirs, 15 << 17, &block, NOW), Err(EditError::Quota), "the group has 2 MiB");
    // What was packed well grows when it is written in place, and that counts.
    let packed = writer.make(root, b"packed", Make::File, &of(1002)).expect("make");
    let zeros_and_more: Vec<u8> = (0..128_usize << 10).map(|at| u8::from(at % 4096 == 0)).collect();
    for number in 0..16 {
        writer.write(packed, number << 17, &zeros_and_more, NOW).expect("no quota yet");
    }
    store.commit(NOW.0).expect("commit");
    set(&mut store, "userquota@1002", "1M").expect("set a quota");
    let mut writer = Writer::open(&mut store, home).expect("open");
    let refused = (0..16).find(|number| writer.write(packed, number << 17, &block, NOW) == Err(EditError::Quota));
    assert!(matches!(refused, Some(5..=8)), "{refused:?}");
    writer.remove(root, b"packed", NOW).expect("remove");
    // What is freed is free with the next commit.
    writer.truncate(mine, 0, NOW).expect("truncate");
    store.commit(NOW.0).expect("commit");
    let mut writer = Writer::open(&mut store, home).expect("open");
    writer.write(mine, 0, &block, NOW).expect("there is room again");
    store.snapshot_all(&["owners/home@then"], NOW.0).expect("snapshot");
    set(&mut store, "userquota@1000", "none").expect("no quota any more");
    let mut writer = Writer::open(&mut store, home).expect("open");
    for number in 0..16 {
        writer.write(mine, number << 17, &block, NOW).expect("no quota any more");
    }
    store.commit(NOW.0).expect("commit");
    let used = |store: &Store, dataset: &str| {
        let datasets = Datasets::open(store.pool()).expect("datasets");
        let set = datasets.open_dataset(&datasets.find(dataset).expect("find")).expect("open");
        let holdings = set.holdings(Holder::User).expect("holdings");
        holdings.into_iter().map(|one| (one.id, one.used.unwrap_or(0) >> 17, one.quota)).collect::<Vec<_>>()
    };
    assert_eq!(used(&store, "owners/home"), [(0, 0, None), (1000, 16, None), (1001, 15, None), (1002, 0, Some(1 << 20))]);
    assert_eq!(used(&store, "owners/home@then"), [(0, 0, None), (1000, 1, Some(1 << 20)), (1001, 15, None), (1002, 0, Some(1 << 20))], "a snapshot has accounts and quotas of its own");
    assert_eq!(shown(store.pool(), "owners/home@then", "userquota@1000"), "1048576");
    assert_eq!(shown(store.pool(), "owners/home", "groupquota@51"), "2097152");
    assert_eq!(shown(store.pool(), "owners/home", "userquota@7"), "0");
    for (property, text) in [("userused@0", "1M"), ("userquota@", "1M"), ("userquota@0", "lots"), ("userobjquota@0", "5"), ("projectquota@0", "5M")] {
        assert!(matches!(set(&mut store, property, text), Err(EditError::Invalid(_))), "{property}={text}");
    }
    assert_eq!(OwnedProperty::split("userobjquota@joe"), Some((Holder::User, "userobjquota", "joe")));
    // Written since: each of the two snapshots' own, and all of it.
    store.snapshot_all(&["owners/home@now"], NOW.0).expect("snapshot");
    let written = |since: &str| shown(store.pool(), "owners/home", since).parse::<u64>().expect("a number");
    assert!(written("written@then") > 2 << 20 && written("written@now") == 0 && written("written@owners/home@then") == written("written@then"));
    assert_eq!(shown(store.pool(), "owners/home@then", "written@now"), "-");
    // What came after a snapshot and went again, though a later one has it, counts for the later one only.
    let number = store.find("owners/home").expect("find");
    let mut dice = random(5);
    let noise: Vec<u8> = (0..1 << 17).flat_map(|_| dice().to_le_bytes()).collect();
    let mut writer = Writer::open(&mut store, number).expect("open for writing");
    let root = writer.root();
    let object = writer.make(root, b"passing", Make::File, &NEW).expect("make a file");
    writer.write(object, 0, &noise, NOW).expect("write");
    drop(writer);
    store.snapshot_all(&["owners/home@more"], NOW.0).expect("snapshot");
    let between = shown(store.pool(), "owners/home", "written@then").parse::<u64>().expect("a number");
    let mut writer = Writer::open(&mut store, number).expect("open for writing");
    writer.remove(root, b"passing", NOW).expect("remove");
    drop(writer);
    store.commit(NOW.0).expect("commit");
    let after = shown(store.pool(), "owners/home", "written@then").parse::<u64>().expect("a number");
    assert!(after + (1 << 20) <= between + (256 << 10), "{between} before, {after} after");
    // What a snapshot has and later ones lost is no part of what was written since.
    for (snapshot, made, gone) in [("base", &b"kept"[..], &b""[..]), ("middle", b"fresh", b""), ("last", b"", b"kept")] {
        let mut writer = Writer::open(&mut store, number).expect("open for writing");
        if !made.is_empty() {
            let object = writer.make(root, made, Make::File, &NEW).expect("make a file");
            writer.write(object, 0, &noise, NOW).expect("write");
        }
        if !gone.is_empty() {
            writer.remove(root, gone, NOW).expect("remove");
        }
        drop(writer);
        store.snapshot_all(&[&format!("owners/home@{snapshot}")], NOW.0).expect("snapshot");
    }
    let since = shown(store.pool(), "owners/home", "written@base").parse::<u64>().expect("a number");
    assert!((1 << 20..(1 << 20) + (256 << 10)).contains(&since), "{since}");
    store.export(NOW.0).expect("export");
    judge(&folder, "owners");
    drop(Pool::import(devices(&folder), None).expect("import"));
}
