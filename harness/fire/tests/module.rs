//! OpenZFS's own kernel module as judge: it takes our pools, looks at everything, changes them; we take back what it made of them, and pools of its own.
//!
//! `ORRERY_ZFS_MODULE` names the folder that `harness/fire/module` printed; without it nothing is tried. The machine runs under QEMU, twice: in the first
//! round the module judges and changes our pools and makes some of its own, then our library reads and changes all of them, and in the second the module
//! judges that. `ORRERY_ZFS_MODULE_ALL`: pools of all layouts, not those of [`SOME`].
//! `ORRERY_ZFS_MODULE_STREAMS`: send streams alone, both ways. `ORRERY_ZFS_MODULE_SPLIT`: a mirror of ours, with properties, split in two; with those of all layouts, too.

#[path = "module/streams.rs"]
mod streams;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use pool_dmu::{Datasets, Holder, ScanKind, Store, check, parse_pool_property};
use pool_fire::rig::{self, NEW, NOW, SHAPES, Shape};
use pool_fire::work::Work;
use pool_fire::{image, listing};
use pool_spa::Pool;
use pool_zpl::{Make, Writer, Zvol, create_filesystem, replay_logs};

/// A machine that hangs is ended after this long, in seconds.
const PATIENCE: &str = "1500";
/// Layouts that are judged each time: a mirror with a log and 512-byte sectors, a raidz with 4K sectors.
const SOME: [&str; 2] = ["mirror+log", "raidz1"];

/// Boots the machine on `share` and waits for its end.
fn boot(machine: &Path, share: &Path, round: u32) {
    let fire = Path::new(env!("CARGO_MANIFEST_DIR"));
    let body = std::fs::read_to_string(fire.join("module-job")).expect("read the job");
    std::fs::write(share.join("job"), format!("set -- {round}\n{body}")).expect("write the job");
    for old in ["status", "log", "console"] {
        drop(std::fs::remove_file(share.join(old)));
    }
    let started = Instant::now();
    let console = share.join("console");
    let mut qemu = Command::new("timeout");
    qemu.args(["-s", "KILL", PATIENCE, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536", "-nodefaults", "-no-user-config"]);
    qemu.args(["-display", "none", "-no-reboot", "-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on"]);
    qemu.arg("-kernel").arg(machine.join("vmlinuz")).arg("-initrd").arg(machine.join("initrd"));
    qemu.arg("-serial").arg(format!("file:{}", console.display()));
    qemu.arg("-virtfs").arg(format!("local,path={},mount_tag=share,security_model=none", share.display()));
    let status = qemu.status().expect("run QEMU");
    let read = |name: &str| String::from_utf8_lossy(&std::fs::read(share.join(name)).unwrap_or_default()).into_owned();
    let (log, console) = (read("log"), read("console"));
    eprintln!("round {round}, {:.0} s, OpenZFS {}", started.elapsed().as_secs_f64(), read("version").trim());
    assert!(status.success(), "QEMU: {status}\n{log}\n{console}");
    assert_eq!(read("status").trim(), "0", "the module's judgement:\n{log}\nthe machine's console:\n{console}");
}

fn folders(share: &Path) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = std::fs::read_dir(share.join("pools")).expect("list pools").map(|entry| entry.expect("an entry").path()).collect();
    out.sort();
    out
}

/// Opens the pool in a folder for writing.
fn open(folder: &Path, seed: u64) -> Store {
    let pool = Pool::import(image::load(&folder.join("disks")).expect("open the images"), None).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut store = Store::open(pool, rig::random(seed)).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    replay_logs(&mut store, NOW).expect("replay");
    store
}

/// Notes what every dataset holds, and lets the pool go.
fn let_go(mut store: Store, folder: &Path) {
    store.export(NOW.0).expect("export");
    let pool = store.pool();
    let found = check(pool, true).expect("check");
    assert_eq!(found.fault_count, 0, "{}: {:?}", folder.display(), found.faults);
    let lists = folder.join("lists");
    drop(std::fs::remove_dir_all(&lists));
    std::fs::create_dir_all(&lists).expect("make a folder");
    for name in listing::names(pool).expect("names") {
        let text = listing::listing(pool, &name).unwrap_or_else(|error| panic!("{name}: {error}"));
        std::fs::write(lists.join(name.replace('/', "%")), text).expect("write a list");
    }
}

/// Changes of every kind in a file system.
fn change(store: &mut Store, name: &str, seed: u64) {
    let dataset = store.find(name).expect("find");
    let mut next = rig::random(seed);
    let mut writer = Writer::open(store, dataset).expect("open");
    let root = writer.root();
    let home = writer.make(root, format!("ours{seed}").as_bytes(), Make::Directory, &NEW).expect("make a directory");
    for index in 0..70 {
        let long = if index % 9 == 0 { "n".repeat(120) } else { String::new() };
        let file = writer.make(home, format!("file{index}{long}").as_bytes(), Make::File, &NEW).expect("make a file");
        let size = usize::try_from(next() % if index % 7 == 0 { 200_000 } else { 6000 }).expect("small");
        let data: Vec<u8> = (0..size).map(|at| if index % 2 == 0 { at.to_le_bytes()[1] } else { next().to_le_bytes()[0] }).collect();
        writer.write(file, if index % 11 == 0 { 300_000 } else { 0 }, &data, NOW).expect("write");
    }
    for index in (0..70).step_by(8).filter(|index| index % 9 != 0) {
        writer.remove(home, format!("file{index}").as_bytes(), NOW).expect("remove");
    }
    writer.make(home, b"link", Make::Symlink(b"../to/nowhere"), &NEW).expect("link");
    writer.make(home, b"far", Make::Symlink("x/".repeat(150).as_bytes()), &NEW).expect("a long link");
    writer.rename((home, b"file1"), (root, format!("moved{seed}").as_bytes()), false, NOW, false).expect("rename");
    let hard = writer.lookup(home, b"file2").expect("look up").expect("is there");
    writer.link(home, b"hard", hard, NOW).expect("link");
    store.commit(NOW.0).expect("commit");
}

/// A pool of ours in a folder of its own.
fn make(shape: &Shape, share: &Path, seed: u64) {
    let folder = share.join("pools").join(shape.name.replace('+', "-"));
    let (disks, mut store) = rig::create(shape, seed).expect("create");
    let mut work = Work::new(seed);
    let mut steps = |store: &mut Store, count: u64| {
        for _ in 0..count {
            work.step(store).expect("an operation on a good pool");
        }
    };
    steps(&mut store, 150);
    store.snapshot(rig::NAME, "first", NOW.0).expect("snapshot");
    steps(&mut store, 60);
    store.snapshot(rig::NAME, "base", NOW.0).expect("snapshot");
    let home = format!("{}/home", rig::NAME);
    create_filesystem(&mut store, &home, &NEW).expect("make a file system");
    change(&mut store, &home, 1);
    store.snapshot(&home, "kept", NOW.0).expect("snapshot");
    change(&mut store, &home, 2);
    store.snapshot(rig::NAME, "second", NOW.0).expect("snapshot");
    // A clone that took its origin's place, and one that did not.
    let cloned = format!("{}/cloned", rig::NAME);
    store.clone_dataset(&format!("{home}@kept"), &cloned, NOW.0).expect("clone");
    change(&mut store, &cloned, 5);
    store.promote(&cloned, NOW.0).expect("promote");
    store.clone_dataset(&format!("{}@base", rig::NAME), &format!("{}/early", rig::NAME), NOW.0).expect("clone");
    store.snapshot(&home, "gone", NOW.0).expect("snapshot");
    store.destroy_snapshots(&[&format!("{home}@gone")], false, NOW.0).expect("destroy");
    let volume = Zvol::create(&mut store, &format!("{}/volume", rig::NAME), 4 << 20, 8 << 10, true, NOW.0).expect("make a volume");
    volume.write(&mut store, 100_000, &[7; 300_000]).expect("write to the volume");
    steps(&mut store, 60);
    if seed % 2 == 1 {
        // The module begins it anew, through all these snapshots and clones.
        store.start_scan(ScanKind::Scrub);
        store.scan_step(100, NOW.0).expect("scrub");
        store.pause_scrub(true).expect("pause");
    }
    store.export(NOW.0).expect("export");
    drop(store);
    image::save(&disks, &folder.join("disks")).expect("save the images");
    let_go(open(&folder, seed), &folder);
    pool_judge::zdb(&folder.join("disks"), rig::NAME).unwrap_or_else(|complaint| panic!("{}: {complaint}", folder.display()));
}

/// A mirror of ours becomes two pools, each in a folder of its own.
fn make_split(share: &Path, seed: u64) {
    let mirror = SHAPES.iter().find(|shape| shape.name == "mirror").expect("a layout");
    make(mirror, share, seed);
    let [folder, other] = ["mirror", "half"].map(|name| share.join("pools").join(name));
    let mut store = open(&folder, seed);
    for (name, value) in [("comment", "split by us"), ("failmode", "continue"), ("autoexpand", "on")] {
        store.set_pool_property(&parse_pool_property(name, value).expect("a value"), NOW.0).expect("set");
    }
    let half = store.split("half", &[], rig::random(seed + 1), NOW.0).expect("split");
    std::fs::create_dir_all(other.join("disks")).expect("make a folder");
    let_go(store, &folder);
    let_go(half, &other);
    std::fs::rename(folder.join("disks/disk1"), other.join("disks/disk1")).expect("move the image");
    for (folder, name) in [(&folder, rig::NAME), (&other, "half")] {
        pool_judge::zdb(&folder.join("disks"), name).unwrap_or_else(|complaint| panic!("{}: {complaint}", folder.display()));
    }
}

/// What the module left in a pool is what we find in it.
fn compare(pool: &Pool, folder: &Path) {
    let mut lists = 0;
    for entry in std::fs::read_dir(folder.join("after")).expect("list") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().replace('%', "/");
        let theirs = std::fs::read_to_string(&path).expect("read a list");
        let ours = listing::listing(pool, &name).unwrap_or_else(|error| panic!("{name}: {error}"));
        let first = theirs.lines().zip(ours.lines()).find(|(theirs, ours)| theirs != ours);
        assert!(theirs == ours, "{} {name}: of {} and {} lines the first to differ is {first:?}", folder.display(), theirs.lines().count(), ours.lines().count());
        lists += 1;
    }
    assert!(lists > 3, "{}: {lists} lists", folder.display());
    compare_owners(pool, folder);
    compare_changes(pool, folder);
}

/// What users and groups have, as the module counts it and as we do.
fn compare_owners(pool: &Pool, folder: &Path) {
    let datasets = Datasets::open(pool).expect("datasets");
    for entry in std::fs::read_dir(folder.join("owners")).expect("list") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().replace('%', "/");
        let set = datasets.open_dataset(&datasets.find(&name).expect("find")).expect("open");
        let mut ours = Vec::new();
        for (kind, holder) in [("POSIX User", Holder::User), ("POSIX Group", Holder::Group)] {
            for one in set.holdings(holder).expect("holdings") {
                let used = one.used.unwrap_or(0);
                let quota = one.quota.unwrap_or(0);
                ours.push(format!("{kind}\t{}\t{used}\t{quota}", one.id));
            }
        }
        let mut theirs: Vec<String> = std::fs::read_to_string(&path).expect("read a list").lines().map(str::to_owned).collect();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{} {name}", folder.display());
    }
}

/// What changed since a snapshot, as the module finds it and as we do.
fn compare_changes(pool: &Pool, folder: &Path) {
    let Ok(theirs) = std::fs::read_to_string(folder.join("changed")) else { return };
    let datasets = Datasets::open(pool).expect("datasets");
    let (mut diff, _) = pool_zpl::diff(&datasets, &format!("{}@module", pool.name()), None).expect("compare");
    let mut found = Vec::new();
    while diff.step(&mut found).expect("step") {}
    let ours: Vec<String> = found.iter().map(|one| one.line("/mnt", true, true, true)).collect();
    let first = theirs.lines().zip(&ours).find(|(theirs, ours)| *theirs != ours.trim_end_matches('\n'));
    assert!(theirs == ours.concat() && !ours.is_empty(), "{}: of {} and {} lines the first to differ is {first:?}", folder.display(), theirs.lines().count(), ours.len());
}

/// Takes back what the module judged or made, changes it, and lets it go for the second round.
fn take_back(folder: &Path, seed: u64) {
    assert!(folder.join("result").exists(), "{}: no judgement", folder.display());
    let pool = Pool::import(image::load(&folder.join("disks")).expect("open the images"), None).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    compare(&pool, folder);
    drop(pool);
    let mut store = open(folder, seed);
    let name = store.name();
    change(&mut store, &name, 3);
    store.snapshot(&name, "third", NOW.0).expect("snapshot");
    for inner in listing::names(store.pool()).expect("names") {
        if ["/home", "/made", "/clone", "/rich"].iter().any(|end| inner.ends_with(end)) {
            change(&mut store, &inner, 4);
        }
    }
    let_go(store, folder);
    pool_judge::zdb(&folder.join("disks"), &name).unwrap_or_else(|complaint| panic!("{}: {complaint}", folder.display()));
}

#[test]
fn the_kernel_module_takes_our_pools_and_we_take_its() {
    let Some(machine) = std::env::var_os("ORRERY_ZFS_MODULE") else {
        eprintln!("ORRERY_ZFS_MODULE is not set: the kernel module judges nothing");
        return;
    };
    let share = Path::new(env!("CARGO_TARGET_TMPDIR")).join("module");
    drop(std::fs::remove_dir_all(&share));
    std::fs::create_dir_all(&share).expect("make the share");
    let all = std::env::var_os("ORRERY_ZFS_MODULE_ALL").is_some();
    let only_streams = std::env::var_os("ORRERY_ZFS_MODULE_STREAMS").is_some();
    std::fs::create_dir_all(share.join("pools")).expect("make the share");
    streams::send(&share);
    let only_split = std::env::var_os("ORRERY_ZFS_MODULE_SPLIT").is_some();
    if all || only_split {
        make_split(&share, 12);
    }
    for (seed, shape) in (11..).zip(&SHAPES).filter(|(_, shape)| !only_streams && !only_split && (all && shape.name != "mirror" || SOME.contains(&shape.name))) {
        make(shape, &share, seed);
    }
    boot(Path::new(&machine), &share, 1);
    streams::receive(&share);
    if only_streams {
        return;
    }
    // The module has judged them.
    drop(std::fs::remove_dir_all(share.join("ours")));
    for (seed, folder) in (31..).zip(folders(&share)) {
        take_back(&folder, seed);
    }
    boot(Path::new(&machine), &share, 2);
    for (seed, folder) in (51..).zip(folders(&share)) {
        assert!(folder.join("result").exists(), "{}: no judgement", folder.display());
        compare(open(&folder, seed).pool(), &folder);
    }
    drop(std::fs::remove_dir_all(&share));
}
