//! What programs may rely on of files on a pool in memory.

extern crate std;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use kif::{PAGE_SIZE, ZoneId};
use vfs::mount::Filesystem;
use vfs::{Cred, Cx, OpenFlags, RenameFlags, VfsError, VnodeRef};

use crate::tests::{IO, OWNER, contents, create, import, make, mount};

#[test]
fn a_write_through_o_sync_is_on_disk_when_it_returns() {
    let (memory, pool) = create("durable");
    let root = vfs::mount::mount_root(mount(&pool), "durable");
    let cred = Cred::root(ZoneId::GLOBAL);
    let cx = Cx { cred: &cred, root: &root, cwd: &root };
    for (name, flags) in [("data", OpenFlags::DSYNC), ("all", OpenFlags::DSYNC | OpenFlags::SYNC)] {
        let open = |flags| vfs::ops::open(&cx, None, name.as_bytes(), flags | OpenFlags::WRITE | OpenFlags::CREATE, 0o644).expect("opens");
        let found = || contents(&mount(&import(&memory)).root().lookup(name.as_bytes()).expect("there"));
        let file = open(flags);
        file.write(b"one", ZoneId::GLOBAL).expect("writes");
        assert_eq!(found(), b"one");
        file.write_at(3, b" two", ZoneId::GLOBAL).expect("writes");
        assert_eq!(found(), b"one two");
        open(flags | OpenFlags::APPEND).write(b" three", ZoneId::GLOBAL).expect("writes");
        assert_eq!(found(), b"one two three");
    }
}

#[test]
fn what_a_mapping_stored_is_on_disk_when_it_was_synced() {
    let (memory, pool) = create("msync");
    let root = vfs::mount::mount_root(mount(&pool), "msync");
    let cred = Cred::root(ZoneId::GLOBAL);
    let cx = Cx { cred: &cred, root: &root, cwd: &root };
    let file = vfs::ops::open(&cx, None, b"f", OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE, 0o644).expect("opens");
    file.write(b"by write", ZoneId::GLOBAL).expect("writes");
    let mapped = file.backing().expect("can be mapped");
    mapped.page(0, ZoneId::GLOBAL, true).expect("a page").write(3, b"store");
    mapped.sync().expect("syncs");
    assert_eq!(contents(&mount(&import(&memory)).root().lookup(b"f").expect("there")), b"by store");
}

#[test]
fn what_is_mounted_is_not_touched_by_a_second_mount() {
    let (_, pool) = create("twice");
    let fs = mount(&pool);
    let file = make(&fs.root(), "f");
    file.write_at(0, b"of somebody", IO).expect("writes");
    fs.root().unlink(b"f").expect("removes");
    assert_eq!(pool.mount(fs.dataset(), true).err(), Some(VfsError::Busy));
    assert_eq!(pool.mount(fs.dataset(), false).err(), Some(VfsError::Busy));
    assert_eq!(contents(&file), b"of somebody");
    file.write_at(3, b"body", IO).expect("is neither freed nor read-only");
    assert_ne!(make(&fs.root(), "g").id(), file.id());
}

/// What is done with a directory, one below it, and a file.
type Act = fn(&VnodeRef, &VnodeRef, &VnodeRef) -> Result<(), VfsError>;
/// Makes a file larger.
type Grow = fn(&VnodeRef);

#[test]
fn nothing_goes_into_a_directory_that_was_removed_meanwhile() {
    let (_, pool) = create("removed");
    let fs = mount(&pool);
    let root = fs.root();
    let file = make(&root, "file");
    let acts: [Act; 4] = [
        |_, gone, _| gone.mkdir(b"new", 0o755, OWNER).map(drop),
        |_, gone, file| gone.link(b"new", file),
        |root, gone, _| root.rename(b"file", gone, b"new", RenameFlags::empty()),
        |root, _, file| root.link(b"again", file),
    ];
    for (number, act) in acts.into_iter().enumerate() {
        let gone = root.mkdir(b"gone", 0o755, OWNER).expect("makes");
        let name: &[u8] = if number == 3 { b"file" } else { b"gone" };
        // Both wait for the pool, in this order.
        let [remover, actor] = pool
            .with(|_| {
                let spawn = |body: std::boxed::Box<dyn FnOnce() -> Result<(), VfsError> + Send>| {
                    let thread = std::thread::spawn(body);
                    std::thread::sleep(Duration::from_millis(100));
                    thread
                };
                let (from, at, target, what) = (Arc::clone(&root), Arc::clone(&root), Arc::clone(&gone), Arc::clone(&file));
                let remover = spawn(std::boxed::Box::new(move || if number == 3 { from.unlink(name) } else { from.rmdir(name) }));
                Ok([remover, spawn(std::boxed::Box::new(move || act(&at, &target, &what)))])
            })
            .expect("holds the pool");
        assert_eq!(remover.join().expect("ends"), Ok(()));
        assert_eq!(actor.join().expect("ends"), Err(VfsError::NotFound), "act {number}");
        if number < 3 {
            assert_eq!(root.lookup(b"file").expect("there").attr().expect("attributes").nlink, 1);
        }
    }
}

#[test]
fn what_a_mapping_stored_behind_the_end_never_becomes_contents() {
    let (memory, pool) = create("behind");
    let fs = mount(&pool);
    let grow: [(&str, Grow); 2] = [
        ("truncated", |file| file.truncate(5000).expect("grows")),
        ("written", |file| assert_eq!(file.write_at(4999, &[1], IO), Ok(1))),
    ];
    for (name, grow) in grow {
        let file = make(&fs.root(), name);
        file.write_at(0, &[1; 100], IO).expect("writes");
        let frame = file.page(0, true, ZoneId::GLOBAL).expect("maps");
        frame.write(90, &[2; 200]);
        grow(&file);
        let is_as_it_should = |all: &[u8]| all.len() == 5000 && all[..90] == [1; 90] && all[90..100] == [2; 10] && all[100..4999].iter().all(|byte| *byte == 0);
        assert!(is_as_it_should(&contents(&file)), "{name}");
        file.sync().expect("syncs");
        assert!(is_as_it_should(&contents(&mount(&import(&memory)).root().lookup(name.as_bytes()).expect("there"))), "{name}, on disk");
    }
}

#[test]
fn making_room_cuts_nothing_off() {
    let (_, pool) = create("extend");
    let fs = mount(&pool);
    let on_tmpfs = vfs::mount::mount_root(vfs::tmpfs::new(&vfs::tmpfs::Options::default()), "extend").vnode;
    for root in [fs.root(), on_tmpfs] {
        let file = make(&root, "f");
        file.write_at(0, &[1; 300], IO).expect("writes");
        for size in [100, 300, 500, 400] {
            file.extend(size).expect("there is room");
        }
        let all = contents(&file);
        assert!(all.len() == 500 && all[..300] == [1; 300] && all[300..] == [0; 200]);
        assert_eq!(root.extend(1), Err(VfsError::Invalid));
    }
}

#[test]
fn a_mapping_that_nobody_stores_to_is_not_written_again() {
    let (memory, pool) = create("idle");
    let fs = mount(&pool);
    let file = make(&fs.root(), "f");
    file.write_at(0, &[1; 3 * PAGE_SIZE], IO).expect("writes");
    let frame = file.page(1, true, ZoneId::GLOBAL).expect("maps");
    frame.write(5, b"one");
    file.sync().expect("syncs");
    pool.sync().expect("commits");
    let txg = || pool.with(|store| Ok(store.txg())).expect("looks");
    let before = txg();
    for _ in 0..3 {
        pool.sync().expect("has nothing to do");
    }
    assert_eq!(txg(), before);
    // Back to what was stored through the mapping after something else was written: the same page, another store.
    file.write_at(PAGE_SIZE as u64 + 5, b"two", IO).expect("writes");
    frame.write(5, b"one");
    pool.sync().expect("commits");
    let found = |at: usize| contents(&mount(&import(&memory)).root().lookup(b"f").expect("there"))[at..at + 3].to_vec();
    assert_eq!(found(PAGE_SIZE + 5), b"one");
    file.punch(PAGE_SIZE as u64, 100).expect("punches");
    frame.write(5, b"one");
    pool.sync().expect("commits");
    assert_eq!(found(PAGE_SIZE + 5), b"one");
    file.truncate(PAGE_SIZE as u64).expect("cuts");
    file.truncate(2 * PAGE_SIZE as u64).expect("grows");
    file.page(1, true, ZoneId::GLOBAL).expect("maps").write(9, b"new");
    pool.sync().expect("commits");
    assert_eq!((found(PAGE_SIZE + 5), found(PAGE_SIZE + 9)), (vec![0; 3], b"new".to_vec()));
}

#[test]
fn the_space_of_a_file_system_is_what_its_quota_leaves() {
    let (_, pool) = create("space");
    let fs = mount(&pool);
    let whole = fs.statfs().expect("tells");
    pool.with(|store| store.set_property("space", "quota", &pool_dmu::parse_property("quota", "4M").expect("a size"))).expect("sets");
    let file = make(&fs.root(), "f");
    let data: Vec<u8> = (0..1_u32 << 20).flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes()).take(1 << 20).collect();
    file.write_at(0, &data, IO).expect("writes");
    pool.sync().expect("commits");
    let space = fs.statfs().expect("tells");
    let (all, free) = (space.blocks * space.block_bytes, space.blocks_free * space.block_bytes);
    assert!(all <= 4 << 20 && all > 3 << 20 && free < 3 << 20 && free > 2 << 20, "{all} {free}");
    assert!(whole.blocks * whole.block_bytes > 30 << 20);
}

#[test]
fn syncing_a_file_system_tells_of_its_own_files_only() {
    let (memory, pool) = create("syncfs");
    let fs = mount(&pool);
    pool.with(|store| pool_zpl::create_filesystem(store, "syncfs/full", &pool_zpl::NewEntry { mode: 0o755, uid: 0, gid: 0, now: (1, 0) }).map(drop)).expect("makes");
    let full = pool.mount(pool.with(|store| store.find("syncfs/full")).expect("there"), false).expect("mounts");
    let theirs = make(&full.root(), "theirs");
    theirs.truncate(1 << 20).expect("a hole");
    pool.sync().expect("commits");
    pool.with(|store| store.set_property("syncfs/full", "quota", &pool_dmu::parse_property("quota", "64K").expect("a size"))).expect("sets");
    for page in 0..256 {
        theirs.page(page, true, ZoneId::GLOBAL).expect("maps").write(0, &[page as u8 | 1; 4000]);
    }
    let ours = make(&fs.root(), "ours");
    ours.write_at(0, b"kept", IO).expect("writes");
    assert_eq!(fs.sync(), Ok(()));
    assert_eq!(full.sync(), Err(VfsError::Quota));
    assert_eq!(contents(&mount(&import(&memory)).root().lookup(b"ours").expect("there")), b"kept");
}
