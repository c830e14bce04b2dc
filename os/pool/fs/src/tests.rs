//! File systems on a pool in memory, through the vnode interface.

extern crate std;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use kif::{BlockDev, BlockError, PAGE_SIZE, ZoneId};
use pool_dmu::{ScanKind, ScanState, Store};
use pool_spa::{Layout, Pool};
use pool_zpl::{NewEntry, create_filesystem};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Mutex;
use vfs::mount::Filesystem;
use vfs::xattr::Existence;
use vfs::{Cred, Cx, DevNo, Io, Kind, MountFlags, OpenFlags, Owner, RenameFlags, SetAttr, VfsError, VnodeRef};

use crate::{Mounted, Storage, manage};

pub(crate) const BYTES: usize = 96 << 20;
pub(crate) const OWNER: Owner = Owner { uid: 1, gid: 2, zone: ZoneId::GLOBAL };
pub(crate) const IO: Io = Io { zone: ZoneId::GLOBAL, nonblock: false };

/// A disk in memory that a test can look at after the pool is gone.
#[derive(Clone)]
pub(crate) struct Memory(pub Arc<Mutex<Vec<u8>>>);

impl BlockDev for Memory {
    fn size_bytes(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        let at = offset as usize;
        out.copy_from_slice(self.0.lock().unwrap().get(at..at + out.len()).ok_or(BlockError::OutOfRange)?);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let at = offset as usize;
        self.0.lock().unwrap().get_mut(at..at + data.len()).ok_or(BlockError::OutOfRange)?.copy_from_slice(data);
        Ok(())
    }
    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

pub(crate) fn random(seed: u64) -> Box<dyn FnMut() -> u64 + Send> {
    let mut state = seed;
    Box::new(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    })
}

/// A new pool called `name` and the disk it is on.
pub(crate) fn create(name: &str) -> (Memory, Arc<Storage>) {
    kif_host::start();
    let memory = Memory(Arc::new(Mutex::new(vec![0; BYTES])));
    let layout = Layout { redundancy: None, devices: vec![(String::from("disk"), Box::new(memory.clone()) as Box<dyn BlockDev>)] };
    let (pool, config) = pool_spa::create(name, vec![layout], 9, &mut random(1)).expect("lay the pool out");
    let mut store = Store::create(pool, config, 1, random(2)).expect("make the MOS");
    create_filesystem(&mut store, name, &NewEntry { mode: 0o755, uid: 0, gid: 0, now: (1, 0) }).expect("make the root file system");
    store.commit(1).expect("first commit");
    (memory, Storage::start(store).expect("starts"))
}

pub(crate) fn mount(pool: &Arc<Storage>) -> Arc<Mounted> {
    let name = String::from(pool.name());
    let dataset = pool.with(|store| store.find(&name)).expect("the root dataset");
    pool.mount(dataset, false).expect("mounts")
}

/// The pool as it is on disk now.
pub(crate) fn import(memory: &Memory) -> Arc<Storage> {
    let copy = Memory(Arc::new(Mutex::new(memory.0.lock().unwrap().clone())));
    let pool = Pool::import(vec![Box::new(copy) as Box<dyn BlockDev>], None).expect("imports");
    let mut store = Store::open(pool, random(3)).expect("opens");
    pool_zpl::replay_logs(&mut store, (1, 0)).expect("replays");
    Storage::start(store).expect("starts")
}

pub(crate) fn make(parent: &VnodeRef, name: &str) -> VnodeRef {
    parent.create(name.as_bytes(), Kind::File, 0o644, DevNo::default(), OWNER).expect("creates")
}

fn names(directory: &VnodeRef, per_call: usize) -> Vec<String> {
    let mut out = Vec::new();
    let mut cookie = 0;
    loop {
        let before = out.len();
        directory
            .readdir(cookie, &mut |entry| {
                if out.len() - before == per_call {
                    return false;
                }
                out.push(String::from_utf8_lossy(entry.name).into_owned());
                cookie = entry.next;
                true
            })
            .expect("lists");
        if out.len() == before {
            return out;
        }
    }
}

pub(crate) fn contents(node: &VnodeRef) -> Vec<u8> {
    let mut out = vec![0; node.attr().expect("attributes").size as usize + 100];
    let count = node.read_at(0, &mut out, IO).expect("reads");
    out.truncate(count);
    out
}

#[test]
fn files_survive_an_export() {
    let (memory, pool) = create("export");
    let fs = mount(&pool);
    let root = fs.root();
    let directory = root.mkdir(b"d", 0o750, OWNER).expect("makes a directory");
    let file = make(&directory, "f");
    assert_eq!(file.write_at(3, b"hello", IO), Ok(5));
    assert_eq!(file.append(b" again", IO), Ok((14, 6)));
    directory.symlink(b"l", &vec![b'x'; 300], OWNER).expect("links");
    directory.link(b"second", &file).expect("links");
    directory.create(b"null", Kind::CharDevice, 0o666, DevNo::new(1, 3), OWNER).expect("makes a node");
    file.set_attr(&SetAttr { mode: Some(0o600), mtime: Some(kif::Nanos(5_000_000_007)), ..SetAttr::default() }).expect("changes");
    assert_eq!(pool.export(false), Err(VfsError::Busy));
    drop((root, directory, file, fs));
    pool.export(false).expect("exports");
    assert_eq!(pool.sync().err(), Some(VfsError::NoDevice));
    let again = import(&memory);
    let fs = mount(&again);
    let directory = fs.root().lookup(b"d").expect("there");
    let file = directory.lookup(b"second").expect("there");
    assert_eq!(contents(&file), b"\0\0\0hello again");
    let attr = file.attr().expect("attributes");
    assert_eq!((attr.mode, attr.uid, attr.gid, attr.nlink, attr.mtime.0), (0o600, 1, 2, 2, 5_000_000_007));
    assert_eq!(directory.lookup(b"l").expect("there").readlink(), Ok(vec![b'x'; 300]));
    assert_eq!(directory.lookup(b"null").expect("there").attr().expect("attributes").rdev, DevNo::new(1, 3));
    assert_eq!(directory.parent().expect("has one").0.id(), fs.root().id());
    assert_eq!(&*directory.parent().expect("has one").1, b"d");
}

#[test]
fn extended_attributes_are_where_the_property_says_and_stay() {
    let (memory, pool) = create("xattr");
    let fs = mount(&pool);
    let file = make(&fs.root(), "f");
    assert_eq!((file.xattr(b"user.a"), file.xattr_names()), (Ok(None), Ok(Vec::new())));
    file.set_xattr(b"user.a", Some(b"directory"), Existence::New).expect("sets");
    assert_eq!(file.set_xattr(b"user.a", Some(b"again"), Existence::New), Err(VfsError::Exists));
    assert_eq!(file.set_xattr(b"user.b", None, Existence::Old), Err(VfsError::NoAttribute));
    let set = |value| pool.with(|store| store.set_property("xattr", "xattr", &pool_dmu::parse_property("xattr", value).expect("a value"))).expect("sets the property");
    set("sa");
    let large = vec![7; 60_000];
    for (name, value) in [(&b"trusted.packed"[..], &b""[..]), (b"user.a", b"in the bonus"), (b"user.large", &large)] {
        file.set_xattr(name, Some(value), Existence::Any).expect("sets");
    }
    set("off");
    assert_eq!((file.xattr(b"user.a"), file.xattr_names().err()), (Err(VfsError::NotSupported), Some(VfsError::NotSupported)));
    set("sa");
    // As a crash: nothing is exported.
    file.sync().expect("syncs");
    let again = import(&memory);
    let fs = mount(&again);
    let file = fs.root().lookup(b"f").expect("there");
    assert_eq!(file.xattr_names(), Ok(vec![b"trusted.packed".to_vec(), b"user.a".to_vec(), b"user.large".to_vec()]));
    assert_eq!((file.xattr(b"user.a"), file.xattr(b"user.large")), (Ok(Some(b"in the bonus".to_vec())), Ok(Some(large))));
    file.set_xattr(b"user.a", None, Existence::Old).expect("removes");
    assert_eq!(file.xattr(b"user.a"), Ok(None));
    // More names than can be listed are there all the same.
    let name = |number: u32| format!("user.{number:0250}").into_bytes();
    for number in 0..300 {
        file.set_xattr(&name(number), Some(b""), Existence::New).expect("sets");
    }
    assert_eq!((file.xattr_names(), file.xattr(&name(299))), (Err(VfsError::TooLong), Ok(Some(Vec::new()))));
}

#[test]
fn a_read_is_known_after_a_crash_if_atime_says_so() {
    let (memory, pool) = create("atime");
    let fs = mount(&pool);
    let accessed = |fs: &Mounted, name: &[u8]| fs.root().lookup(name).expect("there").attr().expect("attributes").atime;
    let files = ["read", "unread", "gone"].map(|name| make(&fs.root(), name));
    for file in &files {
        file.write_at(0, b"text", IO).expect("writes");
        file.set_attr(&SetAttr { atime: Some(kif::Nanos(7)), ..SetAttr::default() }).expect("sets");
    }
    assert_eq!(contents(&files[0]), b"text");
    let noted = accessed(&fs, b"read");
    assert!(noted.0 > 7);
    // Again: it is not older than the change, and less than a day.
    files[0].open(OpenFlags::READ, ZoneId::GLOBAL).expect("opens");
    contents(&files[0]);
    assert_eq!(accessed(&fs, b"read"), noted);
    contents(&files[2]);
    fs.root().unlink(b"gone").expect("unlinks");
    pool.sync().expect("syncs");
    let again = import(&memory);
    let copy = mount(&again);
    assert_eq!((accessed(&copy, b"read"), accessed(&copy, b"unread").0), (noted, 7));
    // A time that is set stays, whatever was noted before.
    let set_later = make(&fs.root(), "set");
    contents(&set_later);
    set_later.set_attr(&SetAttr { atime: Some(kif::Nanos(9)), ..SetAttr::default() }).expect("sets");
    // Also one that was there before the read, as `tar --atime-preserve` does.
    contents(&set_later);
    set_later.set_attr(&SetAttr { atime: Some(kif::Nanos(9)), ..SetAttr::default() }).expect("sets");
    let kept = make(&fs.root(), "kept");
    kept.set_attr(&SetAttr { atime: Some(kif::Nanos(9)), ..SetAttr::default() }).expect("sets");
    contents(&kept);
    let read = accessed(&fs, b"kept");
    kept.set_attr(&SetAttr { mode: Some(0o600), ..SetAttr::default() }).expect("sets");
    assert_eq!(accessed(&fs, b"kept"), read);
    pool.sync().expect("syncs");
    let after = import(&memory);
    let after = mount(&after);
    assert_eq!((accessed(&after, b"set").0, accessed(&after, b"kept")), (9, read));
    // Of a file system that is as its snapshot, only in memory.
    let file = make(&copy.root(), "later");
    again.with(|store| store.snapshot("atime", "s", 1)).expect("takes a snapshot");
    assert!(!again.with(|store| store.is_modified_since_snapshot(copy.dataset())).expect("says"));
    contents(&copy.root().lookup(b"unread").expect("there"));
    again.sync().expect("syncs");
    assert!(!again.with(|store| store.is_modified_since_snapshot(copy.dataset())).expect("says"));
    assert!(accessed(&copy, b"unread").0 > 7);
    drop(file);
    let set = |value| pool.with(|store| store.set_property("atime", "atime", &pool_dmu::parse_property("atime", value).expect("a value"))).expect("sets");
    set("off");
    pool.look_at_atime();
    contents(&files[1]);
    assert_eq!(accessed(&fs, b"unread").0, 7);
    set("on");
    pool.look_at_atime();
    files[1].open(OpenFlags::READ, ZoneId::GLOBAL).expect("opens");
    contents(&files[1]);
    assert!(accessed(&fs, b"unread").0 > 7);
}

#[test]
fn holes_are_found_and_punched_under_a_mapping() {
    let (memory, pool) = create("holes");
    pool.with(|store| store.set_property("holes", "compression", &pool_dmu::parse_property("compression", "off").expect("a value"))).expect("sets");
    let fs = mount(&pool);
    let file = make(&fs.root(), "f");
    let block = 128 << 10;
    file.write_at(0, &[1; 100], IO).expect("writes");
    file.write_at(3 * block, &vec![2; block as usize + 10], IO).expect("writes");
    assert_eq!([file.seek(0, true), file.seek(block, false), file.seek(3 * block, true)], [Ok(Some(block)), Ok(Some(3 * block)), Ok(Some(4 * block + 10))]);
    // What a mapping wrote is data.
    let frame = file.page(block / PAGE_SIZE as u64 + 1, true, ZoneId::GLOBAL).expect("maps");
    frame.write(0, b"mapped");
    assert_eq!(file.seek(block, false), Ok(Some(block)));
    file.punch(block, block + 50).expect("punches");
    let mut seen = [9; 6];
    frame.read(0, &mut seen);
    assert_eq!((seen, file.seek(block, false)), ([0; 6], Ok(Some(3 * block))));
    let blocks = |node: &VnodeRef| node.blocks(&node.attr().expect("attributes"));
    assert!(blocks(&file) >= 3 * block / 512, "what waits for the commit counts");
    pool.sync().expect("syncs");
    let whole = blocks(&file);
    assert!((3 * block / 512..4 * block / 512).contains(&whole), "{whole}");
    file.punch(3 * block + 10, u64::MAX).expect("punches to the end");
    drop(frame);
    pool.sync().expect("syncs");
    let again = import(&memory);
    let copy = mount(&again).root().lookup(b"f").expect("there");
    let all = contents(&copy);
    assert_eq!(all.len() as u64, 4 * block + 10);
    assert!(all.iter().enumerate().all(|(at, byte)| *byte == match at as u64 { 0..100 => 1, at if (3 * block..3 * block + 10).contains(&at) => 2, _ => 0 }));
    assert!(blocks(&copy) < whole && blocks(&copy) >= 2 * block / 512);
    assert_eq!([copy.seek(100, false), copy.seek(3 * block, true)], [Ok(Some(100)), Ok(Some(4 * block))]);
    assert_eq!(fs.root().punch(0, 1), Err(VfsError::Invalid));
    // More blocks than are looked at in one turn.
    pool.with(|store| store.set_property("holes", "recordsize", &pool_dmu::parse_property("recordsize", "512").expect("a value"))).expect("sets");
    let many = make(&fs.root(), "many");
    many.write_at(0, &vec![3; 10_000 * 512], IO).expect("writes");
    assert_eq!([many.seek(5, true), many.seek(700, false)], [Ok(Some(10_000 * 512)), Ok(Some(700))]);
}

#[test]
fn what_fsync_acknowledged_is_on_disk() {
    let (memory, pool) = create("fsync");
    let fs = mount(&pool);
    let file = make(&fs.root(), "kept");
    for round in 0..5_u8 {
        file.write_at(u64::from(round) * 5000, &[round + 1; 5000], IO).expect("writes");
        file.sync().expect("syncs");
        let again = import(&memory);
        let found = contents(&mount(&again).root().lookup(b"kept").expect("there"));
        let expected: Vec<u8> = (0..=round).flat_map(|byte| vec![byte + 1; 5000]).collect();
        assert!(found == expected, "round {round}: {} bytes", found.len());
    }
}

#[test]
fn mappings_reads_and_writes_see_the_same_bytes() {
    let (memory, pool) = create("mapped");
    let fs = mount(&pool);
    let file = make(&fs.root(), "f");
    file.write_at(0, &vec![1; 3 * PAGE_SIZE - 10], IO).expect("writes");
    let page = file.page(1, true, ZoneId::GLOBAL).expect("a page");
    file.write_at(PAGE_SIZE as u64 + 5, b"by write", IO).expect("writes");
    let mut seen = [0; 8];
    page.read(5, &mut seen);
    assert_eq!(&seen, b"by write");
    page.write(100, b"by store");
    let mut seen = [0; 8];
    file.read_at(PAGE_SIZE as u64 + 100, &mut seen, IO).expect("reads");
    assert_eq!(&seen, b"by store");
    file.sync().expect("syncs");
    // Written through the mapping after the sync, with no further fault: the next sync must still find it.
    page.write(200, b"later");
    drop(page);
    file.sync().expect("syncs");
    let again = import(&memory);
    let found = contents(&mount(&again).root().lookup(b"f").expect("there"));
    assert_eq!(&found[PAGE_SIZE + 100..PAGE_SIZE + 108], b"by store");
    assert_eq!(&found[PAGE_SIZE + 200..PAGE_SIZE + 205], b"later");
    // Behind the end of file a page holds zeros, and there is no page past it.
    let last = file.page(2, false, ZoneId::GLOBAL).expect("a page");
    let mut tail = [9; 10];
    last.read(PAGE_SIZE - 10, &mut tail);
    assert_eq!(tail, [0; 10]);
    assert_eq!(file.page(3, false, ZoneId::GLOBAL).err(), Some(VfsError::Invalid));
    // Cut in the middle of a page and grown again: zeros.
    file.truncate(PAGE_SIZE as u64 + 50).expect("cuts");
    file.truncate(2 * PAGE_SIZE as u64).expect("grows");
    assert!(contents(&file)[PAGE_SIZE + 50..].iter().all(|byte| *byte == 0));
}

#[test]
fn what_a_mapping_wrote_outlives_the_node_that_had_it() {
    let (memory, pool) = create("evicted");
    let fs = mount(&pool);
    let root = fs.root();
    let file = make(&root, "mapped");
    file.write_at(0, &[1; PAGE_SIZE], IO).expect("writes");
    pool.sync().expect("commits");
    let page = file.page(0, true, ZoneId::GLOBAL).expect("a page");
    page.write(7, b"through the mapping");
    drop((page, file));
    // More nodes than are kept for nobody.
    for number in 0..1100 {
        make(&root, &format!("f{number}"));
    }
    assert_eq!(&contents(&root.lookup(b"mapped").expect("there"))[7..26], b"through the mapping");
    pool.sync().expect("commits");
    let again = import(&memory);
    assert_eq!(&contents(&mount(&again).root().lookup(b"mapped").expect("there"))[7..26], b"through the mapping");
}

#[test]
fn a_removed_file_lives_as_long_as_it_is_open() {
    let (memory, pool) = create("unlinked");
    let fs = mount(&pool);
    let root = fs.root();
    let file = make(&root, "f");
    file.write_at(0, &vec![7; 1 << 20], IO).expect("writes");
    pool.sync().expect("syncs");
    let free = || {
        // Freed space is handed out again some groups later.
        for _ in 0..4 {
            pool.with(|store| store.commit(1)).expect("commits");
        }
        pool.with(|store| Ok(store.free_total().0)).expect("space")
    };
    let before = free();
    root.unlink(b"f").expect("removes");
    assert_eq!(root.lookup(b"f").err(), Some(VfsError::NotFound));
    pool.sync().expect("syncs");
    assert_eq!(contents(&file).len(), 1 << 20);
    assert_eq!(root.link(b"back", &file), Err(VfsError::NotFound));
    // A crash now: the next mount frees it.
    let again = import(&memory);
    let fs2 = mount(&again);
    assert_eq!(again.read(fs2.dataset(), |writer| writer.unlinked()), Ok(vec![]));
    drop(file);
    pool.sync().expect("syncs");
    assert!(free() > before, "the blocks came back");
}

#[test]
fn a_file_with_the_number_of_one_that_was_open_at_the_commit_is_replayed() {
    let (memory, pool) = create("reused");
    let fs = mount(&pool);
    let root = fs.root();
    let keep = make(&root, "keep");
    let gone = make(&root, "gone");
    let number = gone.id().ino;
    pool.sync().expect("commits");
    // From the first on there is an intent log.
    keep.sync().expect("syncs");
    root.unlink(b"gone").expect("removes");
    pool.sync().expect("commits");
    drop(gone);
    root.unlink(b"keep").expect("removes, and what was open goes");
    let fresh: Vec<VnodeRef> = (0..200).map(|at| make(&root, &format!("f{at}"))).collect();
    let again = fresh.iter().find(|node| node.id().ino == number).expect("the number is somebody's again");
    again.write_at(0, b"mine", IO).expect("writes");
    again.sync().expect("syncs");
    let name = fresh.iter().position(|node| node.id().ino == number).map(|at| format!("f{at}")).expect("found");
    let imported = import(&memory);
    assert_eq!(contents(&mount(&imported).root().lookup(name.as_bytes()).expect("there")), b"mine");
}

#[test]
fn directories_list_completely_in_any_pieces_and_renames_keep_the_tree() {
    let (_, pool) = create("tree");
    let fs = mount(&pool);
    let root = fs.root();
    let many = root.mkdir(b"many", 0o755, OWNER).expect("makes");
    for number in 0..500 {
        make(&many, &format!("entry {number}"));
    }
    let mut expected: Vec<String> = (0..500).map(|number| format!("entry {number}")).chain([String::from("."), String::from("..")]).collect();
    expected.sort();
    for per_call in [1, 7, 1000] {
        let mut found = names(&many, per_call);
        found.sort();
        assert!(found == expected, "{per_call} a call");
    }
    let a = root.mkdir(b"a", 0o755, OWNER).expect("makes");
    let b = a.mkdir(b"b", 0o755, OWNER).expect("makes");
    let none = RenameFlags::empty();
    assert_eq!(root.rename(b"a", &b, b"inside", none), Err(VfsError::Invalid));
    assert_eq!(root.rename(b"a", &root, b"many", none), Err(VfsError::NotEmpty));
    assert_eq!(root.rmdir(b"a"), Err(VfsError::NotEmpty));
    assert_eq!(root.unlink(b"a"), Err(VfsError::IsDirectory));
    assert_eq!(many.rename(b"entry 0", &a, b"b", none), Err(VfsError::IsDirectory));
    a.rename(b"b", &root, b"c", none).expect("moves");
    assert_eq!(a.attr().expect("attributes").nlink, 2);
    assert_eq!(root.lookup(b"c").expect("there").parent().expect("has one").0.id(), root.id());
    many.rename(b"entry 1", &many, b"entry 2", none).expect("replaces");
    assert_eq!(names(&many, 100).len(), 501);
    root.rename(b"c", &root, b"a", RenameFlags::EXCHANGE).expect("swaps");
    assert_eq!(root.lookup(b"a").expect("there").id(), b.id());
    root.rmdir(b"c").expect("removes");
    assert_eq!(a.create(b"x", Kind::File, 0o644, DevNo::default(), OWNER).err(), Some(VfsError::NotFound));
}

#[test]
fn a_piece_of_a_large_directory_costs_a_leaf_not_the_directory() {
    let (_, pool) = create("pieces");
    let fs = mount(&pool);
    let root = fs.root();
    for number in 0..1000 {
        make(&root, &format!("a name of a file that is too long for an entry of a micro ZAP, number {number}"));
    }
    let object = root.id().ino;
    let (mut from, mut seen, mut pieces) = (0, Vec::new(), 0);
    loop {
        let page = pool.read(fs.dataset(), |writer| writer.read_dir_from(object, from, 10)).expect("reads");
        // A leaf of 16 KiB has room for fewer than 200 entries of three chunks of 24 bytes and more.
        assert!(page.entries.len() < 10 + 200, "{} entries at once", page.entries.len());
        assert!(page.next.is_none() || page.entries.len() >= 10, "{} entries, and there are more", page.entries.len());
        assert!(page.entries.iter().all(|(hash, _)| *hash >= from && page.next.is_none_or(|next| *hash < next)), "a piece has what belongs to it");
        seen.extend(page.entries.into_iter().map(|(_, entry)| entry.name));
        pieces += 1;
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 1000);
    assert!(pieces > 4, "{pieces} pieces");
}

type Event = Box<dyn FnOnce() + Send>;

/// A disk that refuses writes while it is told to, and on which something happens at the next read if anything is to.
#[derive(Clone)]
struct Troubled {
    memory: Memory,
    refuses: Arc<AtomicBool>,
    meanwhile: Arc<Mutex<Option<Event>>>,
}

impl Troubled {
    fn new(memory: Memory, refuses: bool) -> Self {
        Self { memory, refuses: Arc::new(AtomicBool::new(refuses)), meanwhile: Arc::default() }
    }
}

impl BlockDev for Troubled {
    fn size_bytes(&self) -> u64 {
        self.memory.size_bytes()
    }
    fn sector_bytes(&self) -> u32 {
        self.memory.sector_bytes()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(event) = meanwhile {
            event();
        }
        self.memory.read(offset, out)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        if self.refuses.load(Relaxed) { Err(BlockError::Io) } else { self.memory.write(offset, data) }
    }
    fn flush(&self) -> Result<(), BlockError> {
        self.memory.flush()
    }
}

#[test]
fn what_is_stored_and_let_go_of_while_it_is_written_back_is_written() {
    let (memory, pool) = create("letsgo");
    make(&mount(&pool).root(), "f").write_at(0, b"one and another", IO).expect("writes");
    pool.export(false).expect("exports");
    let disk = Troubled::new(memory.clone(), false);
    let pool = Storage::start(Store::open(Pool::import(vec![Box::new(disk.clone()) as Box<dyn BlockDev>], None).expect("imports"), random(4)).expect("opens")).expect("starts");
    let fs = mount(&pool);
    let file = fs.root().lookup(b"f").expect("there");
    let frame = file.page(0, true, ZoneId::GLOBAL).expect("maps");
    // The page was read, and is compared with what is on the disk: then it is stored to, and unmapped.
    *disk.meanwhile.lock().unwrap() = Some(Box::new(move || {
        frame.write(0, b"two");
        drop(frame);
    }));
    file.sync().expect("syncs");
    assert!(disk.meanwhile.lock().unwrap().is_none(), "it was compared");
    file.sync().expect("syncs");
    drop((file, fs));
    pool.export(false).expect("exports");
    assert_eq!(contents(&mount(&import(&memory)).root().lookup(b"f").expect("there")), b"two and another");
}

#[test]
fn a_suspended_pool_says_so_and_acknowledges_nothing() {
    let (memory, pool) = create("suspended");
    pool.export(false).expect("exports");
    let disk = Troubled::new(memory, false);
    let opened = Pool::import(vec![Box::new(disk.clone()) as Box<dyn BlockDev>], None).expect("imports");
    let pool = Storage::start(Store::open(opened, random(3)).expect("opens")).expect("starts");
    let fs = mount(&pool);
    let file = make(&fs.root(), "f");
    file.write_at(0, b"lost", IO).expect("writes");
    disk.refuses.store(true, Relaxed);
    assert_eq!(fs.sync_now(), Err(VfsError::Io));
    disk.refuses.store(false, Relaxed);
    assert_eq!(fs.sync_now(), Err(VfsError::Io), "whatever the disk does: an operator says when it goes on");
    let status = manage::status(&pool).expect("the operator is told");
    assert!(status.suspended && status.vdevs.len() == 1);
    assert_eq!(pool.retry(&mut |_| Vec::new()), Ok(Ok(true)));
    assert_eq!((fs.sync(), file.sync(), contents(&file)), (Ok(()), Ok(()), b"lost".to_vec()), "nothing is lost");
    drop((file, fs));
    pool.export(false).expect("exports");
}

#[test]
fn a_bad_disk_that_is_added_is_nothing_to_the_pool() {
    let (memory, pool) = create("adds");
    let fs = mount(&pool);
    let refuses = || Box::new(Troubled::new(Memory(Arc::new(Mutex::new(vec![0; BYTES]))), true)) as Box<dyn BlockDev>;
    let one = || Layout { redundancy: None, devices: vec![(String::from("bad"), refuses())] };
    let first = pool.with(|store| Ok(store.pool().status()[0].guid)).expect("its disk");
    assert_eq!(pool.with(|store| store.add_auxiliary(pool_dmu::Auxiliary::Spare, "bad", refuses(), 1)), Err(VfsError::Io));
    assert_eq!(pool.with(|store| store.attach(first, "bad", refuses(), false, 1)), Err(VfsError::Io));
    assert_eq!(pool.with(|store| store.add(one(), false, 1)), Err(VfsError::Io));
    assert_eq!(make(&fs.root(), "f").write_at(0, b"kept", IO), Ok(4));
    fs.sync().expect("the pool goes on");
    let status = manage::status(&pool).expect("status");
    assert!(!status.suspended && status.vdevs.len() == 1 && status.vdevs[0].children.is_empty() && status.aside.is_empty());
    assert_eq!(contents(&mount(&import(&memory)).root().lookup(b"f").expect("there")), b"kept");
}

#[test]
fn a_bind_that_calls_itself_like_another_file_system_is_not_taken_for_it() {
    let (_, ours) = create("victim");
    let (_, theirs) = create("tenant");
    let root = vfs::mount::mount_root(vfs::tmpfs::new(&vfs::tmpfs::Options::default()), "root");
    let cred = Cred::root(ZoneId::GLOBAL);
    let cx = Cx { cred: &cred, root: &root, cwd: &root };
    manage::mount(&cx, &ours, "victim").expect("mounts");
    manage::mount(&cx, &theirs, "tenant").expect("mounts");
    let place = |path: &[u8]| {
        vfs::ops::mkdir(&cx, None, path, 0o755).expect("makes a directory");
        vfs::lookup(&cx, None, path, vfs::Follow::Yes).expect("finds it")
    };
    let (at, from) = (place(b"/tenant/at"), place(b"/tenant/victim"));
    let held = vfs::mount::bind(&at, &from, "victim", MountFlags::empty()).expect("binds");
    manage::unmount(&cx, &ours, "victim").expect("nobody uses it");
    assert!(at.cross().is(&held), "the tenant's own stays");
}

#[test]
fn a_link_does_not_lead_a_mount_elsewhere() {
    let (_, pool) = create("linked");
    let root = vfs::mount::mount_root(vfs::tmpfs::new(&vfs::tmpfs::Options::default()), "root");
    let cred = Cred::root(ZoneId::GLOBAL);
    let cx = Cx { cred: &cred, root: &root, cwd: &root };
    vfs::ops::mkdir(&cx, None, b"/bin", 0o755).expect("makes a directory");
    vfs::ops::symlink(&cx, b"/bin", None, b"/linked").expect("makes a link");
    let refused = manage::mount(&cx, &pool, "linked").expect_err("nothing is mounted over /bin");
    assert!(format!("{refused:?}").contains("'linked' is a link"), "{refused:?}");
    vfs::ops::unlink(&cx, None, b"/linked").expect("removes it");
    manage::mount(&cx, &pool, "linked").expect("on a directory");
}

#[test]
fn a_listing_in_small_steps_tells_each_name_once_where_names_share_a_place() {
    let (_, pool) = create("shared");
    let fs = mount(&pool);
    let root = fs.root();
    // Places have 28 bits: some of so many names share one, where names are not like each other.
    const NAMES: usize = 30_000;
    let mut dice = random(12);
    for _ in 0..NAMES {
        root.create(format!("name-{:x}{:x}", dice(), dice()).as_bytes(), Kind::File, 0o644, DevNo::default(), OWNER).expect("makes a file");
    }
    let (mut seen, mut places) = (BTreeSet::new(), BTreeSet::new());
    let mut cookie = 0;
    loop {
        let mut next = None;
        root.readdir(cookie, &mut |entry| {
            // One at a time, as of a program with the smallest of buffers.
            if next.is_some() {
                return false;
            }
            assert!(seen.insert(entry.name.to_vec()), "{:?} twice", String::from_utf8_lossy(entry.name));
            assert!(entry.next > cookie, "it does not get on");
            places.insert(entry.next >> 14);
            next = Some((entry.next, entry.name.to_vec()));
            true
        })
        .expect("lists");
        let Some((next, name)) = next else { break };
        cookie = next;
        // What goes meanwhile shifts nobody.
        if seen.len() % 1000 == 999 {
            root.unlink(&name).expect("removes");
        }
    }
    assert!(seen.iter().filter(|name| name.starts_with(b"name-")).count() == NAMES, "all of them");
    // The one for what is not in the table.
    assert!(places.len() + 1 < seen.len(), "some names share a place: {} of {}", places.len(), seen.len());
}

#[test]
fn a_full_pool_refuses_before_it_loses() {
    let (memory, pool) = create("full");
    let fs = mount(&pool);
    let root = fs.root();
    let mut next = random(9);
    let mut kept = BTreeMap::new();
    'fill: for number in 0..200 {
        let name = format!("f{number}");
        let Ok(file) = root.create(name.as_bytes(), Kind::File, 0o644, DevNo::default(), OWNER) else { break };
        let mut data = Vec::new();
        for _ in 0..4 {
            let piece: Vec<u8> = (0..256 << 10).map(|_| next() as u8).collect();
            match file.append(&piece, IO) {
                Ok(_) => data.extend(piece),
                Err(error) => {
                    assert_eq!(error, VfsError::NoSpace);
                    kept.insert(name, data);
                    break 'fill;
                }
            }
        }
        kept.insert(name, data);
    }
    assert!((20..90).contains(&kept.len()), "{} MiB fitted into 96", kept.len());
    pool.sync().expect("what was taken can be committed");
    let again = import(&memory);
    let root = mount(&again).root();
    for (name, data) in &kept {
        assert!(contents(&root.lookup(name.as_bytes()).expect("there")) == *data, "{name}");
    }
    // Small files take the rest; what is removed makes room at once. What a commit of the committer's own lets ripen may let in one more behind a refusal: it is full where 50 are refused in a row.
    let txg = || again.look(|store| store.pool().uberblock().txg).expect("there");
    let (mut refused, mut before) = (0, 0);
    for number in 0..100_000 {
        if root.create(format!("t{number}").as_bytes(), Kind::File, 0o644, DevNo::default(), OWNER).is_ok() {
            refused = 0;
            continue;
        }
        if refused == 0 {
            before = txg();
        }
        refused += 1;
        if refused == 50 {
            break;
        }
    }
    assert_eq!(refused, 50, "it is full");
    assert!(txg() - before <= 8, "who asks again and again has {} txgs made", txg() - before);
    root.lookup(b"f1").expect("there").truncate(100).expect("a full pool lets files be cut");
    (2..8).for_each(|number| root.unlink(format!("f{number}").as_bytes()).expect("a full pool lets files be removed"));
    again.sync().expect("commits");
    make(&root, "again").write_at(0, &[7; 256 << 10], IO).expect("there is room again");
}

/// Fills a pool with blocks of 4 KiB until it refuses, overwrites some of them between snapshots, and empties it: nothing of that may fail in a commit.
fn fills_with_small_blocks(redundancy: Option<usize>, disks: usize) {
    kif_host::start();
    let what = format!("{redundancy:?}");
    let memories: Vec<Memory> = (0..disks).map(|_| Memory(Arc::new(Mutex::new(vec![0; 64 << 20])))).collect();
    let devices = memories.iter().enumerate().map(|(index, memory)| (format!("d{index}"), Box::new(memory.clone()) as Box<dyn BlockDev>)).collect();
    let (pool, config) = pool_spa::create("small", vec![Layout { redundancy, devices }], 12, &mut random(1)).expect("lay the pool out");
    let mut store = Store::create(pool, config, 1, random(2)).expect("make the MOS");
    create_filesystem(&mut store, "small", &NewEntry { mode: 0o755, uid: 0, gid: 0, now: (1, 0) }).expect("make the root file system");
    store.set_property("small", "recordsize", &pool_dmu::parse_property("recordsize", "4K").expect("a size")).expect("sets");
    store.commit(1).expect("first commit");
    let pool = Storage::start(store).expect("starts");
    let fs = mount(&pool);
    let root = fs.root();
    let mut dice = random(3);
    let mut block = || (0..512).flat_map(|_| dice().to_le_bytes()).collect::<Vec<u8>>();
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let large = make(&root, "large");
    for index in 0.. {
        let data = block();
        let name = format!("f{index}");
        let done = root.create(name.as_bytes(), Kind::File, 0o644, DevNo::default(), OWNER).and_then(|file| file.write_at(0, &data, IO)).and_then(|_| large.append(&data, IO));
        if let Err(error) = done {
            assert_eq!(error, VfsError::NoSpace, "{what}");
            break;
        }
        kept.push(data);
    }
    assert!(kept.len() > 1000, "{what}: {} files", kept.len());
    let mut pick = random(4);
    let mut pick = |of: usize| (pick() % of as u64) as usize;
    let (mut refused, mut taken) = (0, Vec::new());
    for turn in 0..2000 {
        let (index, data) = (pick(kept.len()), block());
        let file = root.lookup(format!("f{index}").as_bytes()).expect("there");
        match file.write_at(0, &data, IO) {
            Ok(_) => kept[index] = data,
            Err(error) => {
                assert_eq!(error, VfsError::NoSpace, "{what}");
                refused += 1;
            }
        }
        let at = pick(kept.len()) as u64 * 4096;
        let over = large.write_at(at, &block(), IO);
        assert!(matches!(over, Ok(_) | Err(VfsError::NoSpace)), "{what}: {over:?}");
        if turn % 50 == 0 {
            large.sync().unwrap_or_else(|error| panic!("{what}: {error:?}"));
        }
        if turn % 200 == 199 {
            pool.sync().unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let name = format!("s{turn}");
            if pool.with(|store| store.snapshot("small", &name, 1)).is_ok() {
                taken.push(format!("small@{name}"));
            }
        }
    }
    pool.sync().expect("what was taken can be committed");
    assert!(!pool.is_suspended() && refused > 0, "{what}: {refused} refused");
    // As long as a snapshot has the files, removing them makes no room.
    let taken: Vec<&str> = taken.iter().map(String::as_str).collect();
    pool.with(|store| store.destroy_snapshots(&taken, false, 1)).expect("a full pool lets snapshots be destroyed");
    pool.with(|store| store.drain(1)).expect("what was freed can be used");
    for index in 0..kept.len() / 2 {
        root.unlink(format!("f{index}").as_bytes()).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    }
    pool.sync().expect("a full pool lets files be removed");
    let copies = memories.iter().map(|memory| Box::new(Memory(Arc::new(Mutex::new(memory.0.lock().unwrap().clone())))) as Box<dyn BlockDev>).collect();
    let mut store = Store::open(Pool::import(copies, None).expect("imports"), random(3)).expect("opens");
    pool_zpl::replay_logs(&mut store, (1, 0)).expect("replays");
    let again = Storage::start(store).expect("starts");
    let root = mount(&again).root();
    for (index, data) in kept.iter().enumerate() {
        let found = root.lookup(format!("f{index}").as_bytes());
        if index < kept.len() / 2 { assert!(found.is_err(), "{what}") } else { assert!(contents(&found.expect("there")) == *data, "{what}: f{index}") }
    }
}

#[test]
fn small_writes_into_large_blocks_count_as_those() {
    let (memory, pool) = create("blocks");
    let fs = mount(&pool);
    let file = make(&fs.root(), "f");
    let mut dice = random(5);
    let mut data: Vec<u8> = Vec::new();
    for _ in 0..288 {
        let piece: Vec<u8> = (0..32 << 10).flat_map(|_| dice().to_le_bytes()).collect();
        file.append(&piece, IO).expect("there is room");
        data.extend(piece);
    }
    pool.sync().expect("commits");
    // Each takes a block of 128 KiB until the commit, and there is room for some of these only.
    for number in 0..2000_u64 {
        let at = (dice() % (data.len() as u64 / 4096) * 4096) as usize;
        let piece = vec![number as u8; 4096];
        match file.write_at(at as u64, &piece, IO) {
            Ok(_) => data[at..at + 4096].copy_from_slice(&piece),
            Err(error) => assert_eq!(error, VfsError::NoSpace),
        }
    }
    pool.sync().expect("what was taken can be committed");
    assert!(!pool.is_suspended());
    assert!(contents(&mount(&import(&memory)).root().lookup(b"f").expect("there")) == data);
}

#[test]
fn small_blocks_fill_a_disk_and_no_commit_fails() {
    fills_with_small_blocks(None, 1);
}

#[test]
fn small_blocks_fill_a_raidz1_and_no_commit_fails() {
    fills_with_small_blocks(Some(1), 3);
}

#[test]
fn small_blocks_fill_a_raidz2_and_no_commit_fails() {
    fills_with_small_blocks(Some(2), 5);
}

#[test]
fn writing_takes_a_programs_identity_away() {
    let (_, pool) = create("setid");
    let fs = mount(&pool);
    let file = make(&fs.root(), "f");
    let set = |mode| file.set_attr(&SetAttr { mode: Some(mode), ..SetAttr::default() }).expect("changes");
    let mode = || file.attr().expect("attributes").mode & 0o7777;
    set(0o6755);
    file.write_at(0, b"other code", IO).expect("writes");
    assert_eq!(mode(), 0o755);
    set(0o4755);
    file.truncate(3).expect("cuts");
    assert_eq!(mode(), 0o755);
}

#[test]
fn a_file_system_is_read_anew_after_a_rollback() {
    let (_, pool) = create("rollback");
    let fs = mount(&pool);
    let dataset = fs.dataset();
    let file = make(&fs.root(), "f");
    file.write_at(0, b"before", IO).expect("writes");
    pool.sync().expect("syncs");
    pool.with(|store| store.snapshot("rollback", "s", 1)).expect("takes a snapshot");
    file.write_at(0, b"after!", IO).expect("writes");
    make(&fs.root(), "new");
    drop((file, fs));
    pool.with(|store| store.rollback("rollback", 2)).expect("rolls back");
    pool.forget(dataset);
    let fs = mount(&pool);
    assert_eq!(contents(&fs.root().lookup(b"f").expect("there")), b"before");
    assert!(fs.root().lookup(b"new").is_err());
}

#[test]
fn a_quota_refuses_what_goes_beyond_it() {
    let (_, pool) = create("quota");
    let fs = mount(&pool);
    pool.with(|store| store.set_property("quota", "quota", &pool_dmu::parse_property("quota", "1M").expect("a size"))).expect("sets");
    let file = make(&fs.root(), "f");
    // What the commit before a refusal cannot make smaller.
    let mut dice = random(9);
    let data: Vec<u8> = (0..16 << 10).flat_map(|_| dice().to_le_bytes()).collect();
    let refused = (0..20).find_map(|round| file.write_at(round * data.len() as u64, &data, IO).err());
    assert_eq!(refused, Some(VfsError::Quota));
}

#[test]
fn a_paused_scrub_goes_on_after_an_import_where_it_was() {
    let (memory, pool) = create("paused");
    let fs = mount(&pool);
    let root = fs.root();
    for number in 0..24 {
        make(&root, &format!("f{number}")).write_at(0, &vec![number; 200_000], IO).expect("writes");
        if number % 8 == 0 {
            pool.sync().expect("commits");
            pool.with(|store| store.snapshot_all(&[&format!("paused@{number}")], 1)).expect("a snapshot");
        }
    }
    pool.sync().expect("commits");
    let whole = pool.with(|store| store.run_scan(ScanKind::Scrub, 5)).expect("a scrub");
    assert!(whole.done && whole.errors == 0);
    pool.with(|store| {
        store.start_scan(ScanKind::Scrub);
        store.scan_step(whole.blocks / 2, 7)?;
        store.pause_scrub(true)?;
        assert!(store.pause_scrub(true).is_err() && store.is_scan_paused());
        store.commit(8)
    })
    .expect("pauses");
    let again = import(&memory);
    let last = again.with(|store| Ok((store.last_scan(), store.is_scan_paused()))).expect("looks");
    let (Some(last), true) = last else { panic!("not paused any more: {last:?}") };
    assert_eq!((last.kind, last.state, last.begun), (ScanKind::Scrub, ScanState::Paused, 7));
    assert!(again.scan_lines(1).0.starts_with("scrub paused since") && !again.is_scanning());
    // What was written while it was paused is looked at too; what was looked at before is not looked at twice.
    let rest = again.with(|store| {
        store.snapshot_all(&["paused@later"], 9)?;
        store.pause_scrub(false)?;
        let before = store.scan().map_or(0, |(_, report)| report.bytes);
        let report = store.scan_step(u64::MAX, 9)?;
        Ok((report.bytes - before, report))
    });
    let (bytes, report) = rest.expect("goes on");
    assert!(report.done && report.errors == 0);
    assert!(bytes < whole.bytes * 3 / 4 && bytes > whole.bytes / 4, "{bytes} of {}", whole.bytes);
    let ended = again.with(|store| Ok(store.last_scan())).expect("looks").map(|last| (last.state, last.ended));
    assert_eq!(ended, Some((ScanState::Finished, 9)));
    // Told to go on, and down at once: it begins anew, and not from an older place.
    pool.with(|store| {
        store.pause_scrub(false)?;
        store.commit(10)
    })
    .expect("goes on and commits");
    let third = import(&memory);
    let anew = third.with(|store| Ok((store.is_scan_paused(), store.scan().map(|(_, report)| report.bytes)))).expect("looks");
    assert_eq!(anew, (false, Some(0)));
}
