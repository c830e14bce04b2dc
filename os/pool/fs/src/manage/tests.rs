//! What an operator does, on disks in memory.

extern crate std;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use kif::{BlockDev, BlockError, ZoneId};
use vfs::{Cred, Cx, DevNo, Kind, Place, VfsError};

use super::{CreateRequest, DeviceChange, ImportRequest, Refused};
use crate::tests::{BYTES, IO, Memory, OWNER, contents, make};
use crate::{manage, registry};

/// One at a time: who looks for pools has every free disk for a moment.
static ALONE: Mutex<()> = Mutex::new(());

fn begin() -> MutexGuard<'static, ()> {
    kif_host::start();
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A disk that goes away and comes back.
#[derive(Clone)]
struct Plugged(Memory, Arc<AtomicBool>);

impl BlockDev for Plugged {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        if self.1.load(Relaxed) { self.0.read(offset, out) } else { Err(BlockError::Gone) }
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        if self.1.load(Relaxed) { self.0.write(offset, data) } else { Err(BlockError::Gone) }
    }
    fn flush(&self) -> Result<(), BlockError> {
        if self.1.load(Relaxed) { Ok(()) } else { Err(BlockError::Gone) }
    }
}

/// Another disk: what is on it, whether it is there, and its name.
fn disk(prefix: &str) -> (Plugged, &'static str) {
    let disk = Plugged(Memory(Arc::new(Mutex::new(vec![0; BYTES]))), Arc::new(AtomicBool::new(true)));
    let name = vfs::block::register(prefix, Arc::new(disk.clone())).expect("a name is left");
    (disk, name)
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_string).collect()
}

fn create(name: &str, line: &str) -> Arc<crate::Storage> {
    manage::create(&CreateRequest { name, words: &words(line), ..CreateRequest::default() }).expect("creates")
}

fn import(name: &str) -> Result<Arc<crate::Storage>, Refused> {
    manage::import(&ImportRequest { wanted: name, ..ImportRequest::default() })
}

fn root() -> Place {
    vfs::mount::mount_root(vfs::tmpfs::new(&vfs::tmpfs::Options::default()), "root")
}

macro_rules! operator {
    ($cx:ident) => {
        let root = root();
        let cred = Cred::root(ZoneId::GLOBAL);
        let $cx = Cx { cred: &cred, root: &root, cwd: &root };
    };
}

fn paths(pool: &crate::Storage) -> Vec<String> {
    let trees = pool.with(|store| Ok(store.pool().trees())).expect("trees");
    trees.iter().flat_map(|tree| tree.leaves().iter().filter_map(|leaf| leaf.path.clone()).collect::<Vec<_>>()).collect()
}

#[test]
fn disks_that_changed_places_are_noted_in_the_labels() {
    let _alone = begin();
    operator!(cx);
    let ((first, one), (second, two)) = (disk("moved"), disk("moved"));
    let pool = create("moved", one);
    assert_eq!(paths(&pool), [format!("/dev/{one}")]);
    manage::export(&cx, "moved", false, false).expect("exports");
    drop(pool);
    // The disk is found where another was.
    core::mem::swap(&mut *first.0.0.lock().unwrap(), &mut *second.0.0.lock().unwrap());
    let pool = import("moved").expect("imports");
    assert_eq!(paths(&pool), [format!("/dev/{two}")]);
    manage::export(&cx, "moved", false, false).expect("exports");
    let found = pool_spa::Pool::import(vec![Box::new(second.0) as Box<dyn BlockDev>], None).expect("opens");
    assert_eq!(found.trees()[0].path.as_deref(), Some(format!("/dev/{two}").as_str()), "the labels say so, too");
}

#[test]
fn an_export_that_fails_half_way_puts_the_pool_back() {
    let _alone = begin();
    operator!(cx);
    let (_, name) = disk("half");
    let pool = create("half", name);
    manage::mount_all(&cx, &pool).expect("mounts");
    for one in ["half/a", "half/b", "half/c"] {
        manage::create_dataset(&cx, one, &[]).expect("creates");
    }
    let mounted = || ["half", "half/a", "half/b", "half/c"].map(|name| pool.with(|store| store.find(name)).is_ok_and(|dataset| pool.has_mounted(dataset)));
    assert_eq!(mounted(), [true; 4]);
    let busy = vfs::lookup(&cx, None, b"/half/b", vfs::Follow::No).expect("there");
    let file = vfs::ops::open(&cx, None, b"/half/b", vfs::OpenFlags::empty(), 0).expect("opens");
    assert!(matches!(manage::export(&cx, "half", false, false), Err(Refused::Busy(_))), "it is in use");
    assert_eq!(mounted(), [true; 4], "those that were not in use are mounted again");
    assert!(registry::find("half").is_some());
    drop((busy, file));
    manage::export(&cx, "half", false, false).expect("exports");
    assert!(registry::find("half").is_none());
}

#[test]
fn spares_and_cache_devices_of_a_pool_that_is_away_are_somebodys() {
    let _alone = begin();
    operator!(cx);
    let [data, spare, cache, free] = ["own"; 4].map(|prefix| disk(prefix).1);
    create("owner", &format!("{data} spare {spare} cache {cache}"));
    manage::export(&cx, "owner", false, false).expect("exports");
    let other = create("other", free);
    for name in [data, spare, cache] {
        let refused = manage::check_create(&CreateRequest { name: "third", words: &words(name), ..CreateRequest::default() });
        assert!(matches!(&refused, Err(Refused::Exists(why)) if why.contains("use -f")), "{name}: {refused:?}");
        assert!(matches!(manage::add("other", &words(name), false), Err(Refused::Exists(_))), "{name}");
        for change in [DeviceChange::Attach, DeviceChange::Replace] {
            let new = manage::NewDevice { name, sequential: false, force: false };
            assert!(matches!(manage::change_device("other", change, free, Some(new)), Err(Refused::Exists(_))), "{name}");
        }
        assert!(matches!(manage::clear_labels(name, false), Err(Refused::Exists(_))), "{name}");
    }
    assert!(matches!(manage::clear_labels(free, true), Err(Refused::Busy(_))), "an imported pool's is not cleared at all");
    manage::clear_labels(spare, true).expect("cleared");
    assert!(matches!(manage::clear_labels(spare, true), Err(Refused::NotFound(_))), "it has none any more");
    manage::add("other", &words(spare), false).expect("it is nobody's now");
    manage::add("other", &words(&format!("spare {cache}")), true).expect("by force");
    drop(other);
    manage::export(&cx, "other", true, false).expect("destroys");
}

#[test]
fn what_serves_as_a_cache_is_not_resilvered() {
    let _alone = begin();
    operator!(cx);
    let [data, cache] = ["second"; 2].map(|prefix| disk(prefix).1);
    let pool = create("second", &format!("{data} cache {cache}"));
    manage::change_device("second", DeviceChange::Offline, cache, None).expect("offline");
    manage::change_device("second", DeviceChange::Online, cache, None).expect("online");
    let status = manage::status(&pool).expect("status");
    assert!(!status.scanning && status.scan == "none requested", "{}", status.scan);
    assert_eq!(status.aside[0].state, "ONLINE");
    manage::export(&cx, "second", false, false).expect("exports");
}

#[test]
fn a_pool_is_imported_as_it_was_asked_for() {
    let _alone = begin();
    operator!(cx);
    let (_, name) = disk("asked");
    let pool = create("asked", name);
    let request = CreateRequest { name: "asked", ..CreateRequest::default() };
    assert!(matches!(manage::check_create(&request), Err(Refused::Exists(_))));
    manage::mount_all(&cx, &pool).expect("mounts");
    make(&vfs::lookup(&cx, None, b"/asked", vfs::Follow::No).expect("there").vnode, "file").write_at(0, b"words", IO).expect("writes");
    manage::export(&cx, "asked", false, false).expect("exports");
    drop(pool);
    // Under another name, below another root, then only looked at.
    let pool = manage::import(&ImportRequest { wanted: "asked", new_name: Some("named"), altroot: Some("/mnt/"), ..ImportRequest::default() }).expect("imports");
    manage::mount_all(&cx, &pool).expect("mounts");
    assert_eq!(manage::mountpoint_of("named"), Ok(Some(String::from("/mnt/named"))));
    assert_eq!(manage::mount(&cx, &pool, "named").map_err(|error| error.to_string()), Err(String::from("named: already mounted")));
    assert_eq!(vfs::lookup(&cx, None, b"/mnt/named/file", vfs::Follow::No).map(drop), Ok(()));
    let shown = |pool: &crate::Storage, name: &str| manage::pool_properties(pool).expect("properties").into_iter().find(|one| one.name == name).expect("there");
    assert_eq!((shown(&pool, "altroot").value.as_str(), shown(&pool, "altroot").source), ("/mnt/", "local"));
    assert!(matches!(import("asked"), Err(Refused::NotFound(_))));
    manage::export(&cx, "named", false, false).expect("exports");
    drop(pool);
    let pool = manage::import(&ImportRequest { wanted: "named", read_only: true, ..ImportRequest::default() }).expect("imports");
    manage::mount_all(&cx, &pool).expect("mounts");
    let file = vfs::lookup(&cx, None, b"/named/file", vfs::Follow::No).expect("there").vnode;
    assert_eq!(vfs::ops::mkdir(&cx, None, b"/named/no", 0o755), Err(VfsError::ReadOnly));
    let refused = manage::set_pool_property("named", "comment", "no");
    assert!(matches!(&refused, Err(Refused::Failed(why)) if why.contains("for reading only")), "{refused:?}");
    assert!(manage::snapshot(&["named@no".to_string()], false).is_err());
    let (other, free) = disk("asked");
    assert!(matches!(manage::add("named", &words(free), true), Err(Refused::Failed(_))));
    let new = manage::NewDevice { name: free, sequential: false, force: true };
    assert!(matches!(manage::change_device("named", DeviceChange::Attach, name, Some(new)), Err(Refused::Failed(_))));
    assert!(other.0.0.lock().unwrap().iter().all(|byte| *byte == 0), "not a byte of a disk that it could not have");
    drop(file);
    manage::export(&cx, "named", false, false).expect("lets go");
    let refused = manage::import(&ImportRequest { wanted: "named", new_name: Some("mirror"), ..ImportRequest::default() });
    assert!(matches!(refused.map(drop), Err(Refused::Invalid(_))), "no name for a pool");
}

/// Runs `body` on another thread, with where its result will be.
fn aside<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> (kif::ThreadId, Arc<Mutex<Option<R>>>) {
    let result = Arc::new(Mutex::new(None));
    let out = Arc::clone(&result);
    let thread = kif::spawn().spawn("program", ZoneId::GLOBAL, Box::new(move || *out.lock().unwrap() = Some(body()))).expect("spawns");
    (thread, result)
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("it never came to this: {what}");
}

#[test]
fn whoever_needs_a_suspended_pool_waits_until_it_is_in_use_again_and_nothing_is_lost() {
    let _alone = begin();
    operator!(cx);
    let (disk, name) = disk("back");
    let pool = create("back", name);
    manage::mount_all(&cx, &pool).expect("mounts");
    let root = vfs::lookup(&cx, None, b"/back", vfs::Follow::No).expect("there").vnode;
    let (first, second) = (make(&root, "first"), make(&root, "second"));
    first.write_at(0, b"synced", IO).expect("writes");
    first.sync().expect("durable");
    first.write_at(6, b", and open", IO).expect("writes");
    disk.1.store(false, Relaxed);
    // One wants it durable, one changes it, one reads what is in no cache, one is killed.
    let (file, directory) = (Arc::clone(&first), Arc::clone(&root));
    let (_, synced) = aside(move || file.sync());
    wait_until("suspended", || pool.is_suspended());
    let file = Arc::clone(&second);
    let (_, written) = aside(move || file.append(b"once", IO));
    let (_, made) = aside(move || directory.create(b"third", Kind::File, 0o644, DevNo::default(), OWNER).map(drop));
    let file = Arc::clone(&second);
    let (killed, end) = aside(move || file.write_at(100, b"never", IO));
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(synced.lock().unwrap().is_none() && written.lock().unwrap().is_none() && made.lock().unwrap().is_none() && end.lock().unwrap().is_none(), "they wait");
    ::sync::interrupt(killed);
    wait_until("killed", || end.lock().unwrap().is_some());
    assert_eq!(*end.lock().unwrap(), Some(Err(VfsError::Interrupted)));
    // Nobody who looks waits; who would change is told.
    assert_eq!(contents(&first), b"synced, and open");
    let status = manage::status(&pool).expect("status");
    assert!(status.health == "SUSPENDED" && status.suspended);
    assert_eq!(manage::pool_properties(&pool).expect("get").iter().find(|property| property.name == "health").map(|property| property.value.clone()), Some("SUSPENDED".into()));
    assert!(manage::set_pool_property("back", "comment", "no").is_err() && manage::snapshot(&["back@no".to_string()], false).is_err());
    let refused = manage::sync("back");
    assert!(matches!(&refused, Err(Refused::Failed(why)) if why.contains("suspended")), "{refused:?}");
    let refused = manage::export(&cx, "back", false, false);
    assert!(matches!(&refused, Err(Refused::Failed(why)) if why.contains("zpool clear")), "{refused:?}");
    let refused = manage::resume(&cx, "back");
    assert!(matches!(&refused, Err(Refused::Failed(why)) if why.contains(name)), "its disk is still away: {refused:?}");
    assert!(synced.lock().unwrap().is_none() && pool.is_suspended());
    disk.1.store(true, Relaxed);
    manage::resume(&cx, "back").expect("in use again");
    wait_until("all go on", || synced.lock().unwrap().is_some() && written.lock().unwrap().is_some() && made.lock().unwrap().is_some());
    assert_eq!((*synced.lock().unwrap(), *written.lock().unwrap(), *made.lock().unwrap()), (Some(Ok(())), Some(Ok((4, 4))), Some(Ok(()))));
    assert!(!pool.is_suspended() && manage::status(&pool).expect("status").health != "SUSPENDED");
    pool.sync().expect("commits");
    assert_eq!((contents(&first), contents(&second)), (b"synced, and open".to_vec(), b"once".to_vec()), "it is the same pool, with its files open");
    drop((first, second, root, pool));
    manage::export(&cx, "back", false, false).expect("exports");
    let pool = manage::import(&ImportRequest { wanted: "back", ..ImportRequest::default() }).expect("imports");
    manage::mount_all(&cx, &pool).expect("mounts");
    let there = |name: &[u8]| vfs::lookup(&cx, None, name, vfs::Follow::No).map(|found| contents(&found.vnode));
    assert_eq!((there(b"/back/first"), there(b"/back/second"), there(b"/back/third")), (Ok(b"synced, and open".to_vec()), Ok(b"once".to_vec()), Ok(Vec::new())));
    drop(pool);
    manage::export(&cx, "back", false, false).expect("exports");
    assert!(matches!(manage::resume(&cx, "back"), Err(Refused::NotFound(_))));
}

/// The check sum of partition tables.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }))
}

#[test]
fn a_disk_with_partitions_of_others_is_taken_only_by_force() {
    let _alone = begin();
    operator!(cx);
    let disk = Plugged(Memory(Arc::new(Mutex::new(vec![0; 96 << 20]))), Arc::new(AtomicBool::new(true)));
    let name = vfs::block::register("theirs", Arc::new(disk.clone())).expect("a name is left");
    let mut number = 0;
    let plan = pool_phys::gpt::plan(disk.size_bytes(), 512, &mut || {
        number += 1;
        number
    });
    for (offset, data) in plan.expect("room for a table").writes {
        disk.write(offset, &data).expect("writes");
    }
    // A table with nothing but a pool's partitions is as good as none.
    manage::check_create(&CreateRequest { name: "theirs", words: &words(name), ..CreateRequest::default() }).expect("a pool had it");
    let before = {
        let mut bytes = disk.0.0.lock().unwrap();
        bytes[1024..1040].copy_from_slice(b"somebody elses p");
        let entries = crc(&bytes[1024..1024 + 128 * 128]).to_le_bytes();
        bytes[512 + 88..512 + 92].copy_from_slice(&entries);
        bytes[512 + 16..512 + 20].fill(0);
        let header = crc(&bytes[512..512 + 92]).to_le_bytes();
        bytes[512 + 16..512 + 20].copy_from_slice(&header);
        bytes[..1 << 20].to_vec()
    };
    let ask = |force| manage::create(&CreateRequest { name: "theirs", words: &words(name), force, ..CreateRequest::default() });
    assert!(matches!(ask(false), Err(Refused::Exists(why)) if why.contains("partitions of others")));
    assert!(disk.0.0.lock().unwrap()[..1 << 20] == before);
    // Beside another, too.
    let (_, first) = self::disk("mine");
    let pool = create("mine", first);
    let refused = manage::change_device("mine", DeviceChange::Attach, first, Some(manage::NewDevice { name, sequential: false, force: false }));
    assert!(matches!(refused, Err(Refused::Exists(_))), "{refused:?}");
    drop(pool);
    manage::export(&cx, "mine", false, false).expect("exports");
    drop(ask(true).expect("by force"));
    manage::export(&cx, "theirs", false, false).expect("exports");
}

#[test]
fn a_suspended_pool_with_failmode_continue_fails_and_one_that_is_let_go_of_by_force_too() {
    let _alone = begin();
    operator!(cx);
    let (disk, name) = disk("goes");
    let pool = create("goes", name);
    manage::mount_all(&cx, &pool).expect("mounts");
    manage::set_pool_property("goes", "failmode", "continue").expect("set");
    let root = vfs::lookup(&cx, None, b"/goes", vfs::Follow::No).expect("there").vnode;
    let file = make(&root, "file");
    file.write_at(0, b"words", IO).expect("writes");
    disk.1.store(false, Relaxed);
    assert_eq!((file.sync(), file.write_at(0, b"other", IO), contents(&file)), (Err(VfsError::Io), Err(VfsError::Io), b"words".to_vec()));
    disk.1.store(true, Relaxed);
    manage::resume(&cx, "goes").expect("in use again");
    assert_eq!((file.sync(), file.write_at(0, b"other", IO)), (Ok(()), Ok(5)));
    manage::set_pool_property("goes", "failmode", "wait").expect("set");
    file.write_at(0, b"never", IO).expect("in memory");
    disk.1.store(false, Relaxed);
    let (_, synced) = aside(move || file.sync());
    wait_until("suspended", || pool.is_suspended());
    drop((root, pool));
    // Whoever waits gets an error, and lets go of its file.
    wait_until("let go of", || manage::export(&cx, "goes", false, true).is_ok());
    wait_until("told", || synced.lock().unwrap().is_some());
    assert_eq!(*synced.lock().unwrap(), Some(Err(VfsError::Io)));
    disk.1.store(true, Relaxed);
    let pool = manage::import(&ImportRequest { wanted: "goes", ..ImportRequest::default() }).expect("imports");
    manage::mount_all(&cx, &pool).expect("mounts");
    assert_eq!(contents(&vfs::lookup(&cx, None, b"/goes/file", vfs::Follow::No).expect("there").vnode), b"other", "as of its last commit");
    drop(pool);
    manage::export(&cx, "goes", false, false).expect("exports");
}
