//! Pipes, FIFOs, epoll, locks.

mod support;

use std::sync::Arc;
use std::time::Duration;

use kif::{Nanos, ZoneId};
use support::{READ, WRITE, World};
use vfs::epoll::{self, Change, EDGE, Interest, ONESHOT};
use vfs::pipe::{self, CAPACITY, PIPE_BUF};
use vfs::{File, Kind, LockKind, OpenFlags, Ready, Record, VfsError};

const ZONE: ZoneId = ZoneId::GLOBAL;

fn pair() -> (Arc<File>, Arc<File>) {
    kif_host::start();
    pipe::new(OpenFlags::empty())
}

fn soon() -> Option<Nanos> {
    Some(kif::clock().monotonic().plus(Nanos::from_millis(20)))
}

#[test]
fn pipe_carries_everything_in_order_between_threads() {
    let (reader, writer) = pair();
    let data: Vec<u8> = (0..700_001_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let copy = data.clone();
    let feeder = std::thread::spawn(move || {
        let mut done = 0;
        let mut step = 1;
        while done < copy.len() {
            let end = copy.len().min(done + step);
            done += writer.write(&copy[done..end], ZONE).expect("write");
            step = step * 7 % 90_001 + 1;
        }
    });
    let mut got = Vec::new();
    let mut part = vec![0; 70_000];
    let mut step = 1;
    loop {
        let count = reader.read(&mut part[..step], ZONE).expect("read");
        if count == 0 {
            break;
        }
        got.extend_from_slice(&part[..count]);
        step = step * 5 % 69_999 + 1;
    }
    feeder.join().expect("feeder");
    assert!(got == data);
}

#[test]
fn pipe_ends_and_bounds() {
    let (reader, writer) = pair();
    writer.set_nonblock(true);
    reader.set_nonblock(true);
    assert_eq!(reader.read(&mut [0; 8], ZONE), Err(VfsError::WouldBlock));
    assert_eq!(reader.poll(), Ready::empty());
    assert_eq!(writer.write(&vec![1; CAPACITY + 5], ZONE), Ok(CAPACITY));
    assert_eq!(writer.write(b"x", ZONE), Err(VfsError::WouldBlock));
    assert!(!writer.poll().contains(Ready::OUT));
    // Less than PIPE_BUF of room: an atomic write waits, a longer one takes what there is.
    assert_eq!(reader.read(&mut [0; 100], ZONE), Ok(100));
    assert_eq!(writer.write(&[2; 101], ZONE), Err(VfsError::WouldBlock));
    assert_eq!(writer.write(&[2; PIPE_BUF + 1], ZONE), Ok(100));
    assert_eq!(reader.read(&mut vec![0; CAPACITY], ZONE), Ok(CAPACITY));
    assert_eq!(writer.read(&mut [0], ZONE), Err(VfsError::BadAccessMode));
    assert_eq!(writer.seek(0, vfs::Whence::Start), Err(VfsError::IllegalSeek));
    writer.write(b"end", ZONE).expect("write");
    drop(writer);
    assert_eq!(reader.poll(), Ready::IN | Ready::RDNORM | Ready::HUP);
    assert_eq!(reader.read(&mut [0; 8], ZONE), Ok(3));
    assert_eq!(reader.read(&mut [0; 8], ZONE), Ok(0));
    let (reader, writer) = pair();
    drop(reader);
    assert_eq!(writer.write(b"x", ZONE), Err(VfsError::BrokenPipe));
    assert!(writer.poll().contains(Ready::ERR));
}

#[test]
fn pipe_write_without_memory_is_whole_or_nothing() {
    let (reader, writer) = pair();
    let zone = kif_host::fresh_zone();
    assert_eq!(writer.write(&[1; 4000], zone), Ok(4000));
    kif_host::fail_nth(1);
    // Needs a second page: refused, and the first 96 bytes of it are not left behind.
    assert_eq!(writer.write(&[2; 200], zone), Err(VfsError::NoMemory));
    reader.set_nonblock(true);
    assert_eq!(reader.read(&mut [0; 8000], zone), Ok(4000));
    assert_eq!(reader.read(&mut [0; 8000], zone), Err(VfsError::WouldBlock));
    drop((reader, writer));
    assert_eq!(kif::frames().charged_bytes(zone), 0);
}

#[test]
fn fifo_opens_meet() {
    let world = Arc::new(World::new());
    vfs::ops::mknod(&world.cx(), None, b"/fifo", Kind::Fifo, 0o644, vfs::DevNo::default()).expect("mknod");
    assert_eq!(world.open("/fifo", WRITE | OpenFlags::NONBLOCK).err(), Some(VfsError::NoSuchDevice));
    let early = world.open("/fifo", READ | OpenFlags::NONBLOCK).expect("a reader need not wait");
    assert_eq!(early.read(&mut [0], ZONE), Ok(0), "no writer yet");
    assert!(!early.poll().contains(Ready::HUP), "nobody has hung up yet");
    drop(early);
    let other = Arc::clone(&world);
    let writer = std::thread::spawn(move || {
        let file = other.open("/fifo", WRITE).expect("meets the reader");
        file.write(b"hello", ZONE).expect("write");
    });
    let reader = world.open("/fifo", READ).expect("meets the writer");
    assert_eq!(support::read_all(&reader).expect("all"), b"hello");
    writer.join().expect("writer");
}

#[test]
fn epoll_reports_levels_edges_and_oneshots() {
    let (reader, writer) = pair();
    let list = epoll::new();
    let epoll = epoll::of(&list).expect("epoll");
    let interest = |mask, data| Interest { mask, data };
    epoll.control(3, &reader, Change::Add(interest(Ready::IN.bits(), 30))).expect("add");
    assert_eq!(epoll.control(3, &reader, Change::Add(interest(1, 0))), Err(VfsError::Exists));
    assert_eq!(epoll.wait(8, soon()).expect("times out"), []);
    assert!(!list.poll().contains(Ready::IN));
    writer.write(b"x", ZONE).expect("write");
    assert_eq!(epoll.wait(8, soon()).expect("ready"), [(Ready::IN.bits(), 30)]);
    assert_eq!(epoll.wait(8, soon()).expect("still ready"), [(Ready::IN.bits(), 30)]);
    assert!(list.poll().contains(Ready::IN));
    epoll.control(3, &reader, Change::Modify(interest(Ready::IN.bits() | EDGE, 31))).expect("modify");
    assert_eq!(epoll.collect(8), [(Ready::IN.bits(), 31)]);
    assert_eq!(epoll.collect(8), [], "no new event");
    writer.write(b"y", ZONE).expect("write");
    assert_eq!(epoll.collect(8), [(Ready::IN.bits(), 31)]);
    epoll.control(3, &reader, Change::Modify(interest(Ready::IN.bits() | ONESHOT, 32))).expect("modify");
    assert_eq!(epoll.collect(8), [(Ready::IN.bits(), 32)]);
    writer.write(b"z", ZONE).expect("write");
    assert_eq!(epoll.collect(8), []);
    epoll.control(3, &reader, Change::Remove).expect("remove");
    assert_eq!(epoll.control(3, &reader, Change::Remove), Err(VfsError::NotFound));
    assert_eq!(epoll.control(4, &list, Change::Add(interest(1, 0))), Err(VfsError::TooDeep));
    let file = World::new().open("/", READ).expect("a directory");
    assert_eq!(epoll.control(5, &file, Change::Add(interest(1, 0))), Err(VfsError::NotPermitted));
}

#[test]
fn epoll_wakes_a_sleeper_and_forgets_closed_files() {
    let (reader, writer) = pair();
    let list = epoll::new();
    epoll::of(&list).expect("epoll").control(3, &reader, Change::Add(Interest { mask: 1, data: 9 })).expect("add");
    let late = Arc::clone(&writer);
    let helper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        late.write(b"x", ZONE).expect("write");
    });
    let epoll = epoll::of(&list).expect("epoll");
    assert_eq!(epoll.wait(8, None).expect("woken"), [(1, 9)]);
    helper.join().expect("helper");
    drop(reader);
    assert_eq!(epoll.collect(8), []);
}

#[test]
fn epoll_starves_nobody() {
    let pairs: Vec<_> = (0..5).map(|_| pair()).collect();
    let list = epoll::new();
    let epoll = epoll::of(&list).expect("epoll");
    for (index, (reader, writer)) in pairs.iter().enumerate() {
        epoll.control(index as i32, reader, Change::Add(Interest { mask: 1, data: index as u64 })).expect("add");
        writer.write(b"x", ZONE).expect("write");
    }
    let mut seen: Vec<u64> = (0..5).map(|_| epoll.collect(1)[0].1).collect();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}

#[test]
fn wait_any_is_woken_by_each_of_its_files() {
    let (first, first_writer) = pair();
    let (second, second_writer) = pair();
    let ready = |file: &Arc<File>| file.poll().contains(Ready::IN);
    let test = || (ready(&first) || ready(&second)).then_some(());
    let files = [&*first, &*second];
    assert_eq!(vfs::wait_any(files.into_iter(), soon(), test), Err(sync::Woken::TimedOut));
    for writer in [first_writer, second_writer] {
        let helper = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            writer.write(b"x", ZONE).expect("write");
        });
        assert_eq!(vfs::wait_any(files.into_iter(), None, test), Ok(()));
        for file in files {
            file.set_nonblock(true);
            if file.read(&mut [0; 8], ZONE).is_ok() {}
        }
        helper.join().expect("helper");
    }
}

#[test]
fn whole_file_locks_belong_to_the_description() {
    let world = World::new();
    world.write("/f", b"").expect("file");
    let (a, b) = (world.open("/f", READ).expect("a"), world.open("/f", READ).expect("b"));
    a.flock(Some(LockKind::Shared), true).expect("shared");
    b.flock(Some(LockKind::Shared), true).expect("shared too");
    assert_eq!(b.flock(Some(LockKind::Exclusive), true), Err(VfsError::WouldBlock));
    a.flock(None, true).expect("unlock");
    b.flock(Some(LockKind::Exclusive), true).expect("converted");
    assert_eq!(a.flock(Some(LockKind::Shared), true), Err(VfsError::WouldBlock));
    let waiter = std::thread::spawn(move || a.flock(Some(LockKind::Exclusive), false));
    std::thread::sleep(Duration::from_millis(10));
    drop(b);
    waiter.join().expect("waiter").expect("the last close unlocks");
}

#[test]
fn a_whole_file_lock_that_is_converted_lets_others_go_on() {
    let world = World::new();
    world.write("/f", b"").expect("file");
    let open = || world.open("/f", READ).expect("opens");
    let (a, b) = (open(), open());
    let take = |file: &Arc<vfs::File>, kind| {
        let file = Arc::clone(file);
        let (done, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(file.flock(Some(kind), false)));
        std::thread::sleep(Duration::from_millis(20));
        told
    };
    let soon = Duration::from_secs(5);
    // Down to a shared one: who waits for that is woken.
    a.flock(Some(LockKind::Exclusive), true).expect("free");
    let waiter = take(&b, LockKind::Shared);
    a.flock(Some(LockKind::Shared), true).expect("converts");
    assert_eq!(waiter.recv_timeout(soon), Ok(Ok(())));
    // Both share, and both want it alone: the first gives up its part, the second gets it.
    let first = take(&a, LockKind::Exclusive);
    assert_eq!(take(&b, LockKind::Exclusive).recv_timeout(soon), Ok(Ok(())));
    b.flock(None, true).expect("unlocks");
    assert_eq!(first.recv_timeout(soon), Ok(Ok(())));
    // One that is refused has cost the old one.
    let c = open();
    a.flock(Some(LockKind::Shared), true).expect("converts");
    c.flock(Some(LockKind::Shared), true).expect("shares");
    assert_eq!(a.flock(Some(LockKind::Exclusive), true), Err(VfsError::WouldBlock));
    c.flock(Some(LockKind::Exclusive), true).expect("is alone");
}

#[test]
fn record_locks_split_merge_and_find_deadlocks() {
    let world = World::new();
    world.write("/f", b"").expect("file");
    let id = world.stat("/f").expect("f").id;
    let record = |owner, first, last, kind| Record { kind, first, last, owner };
    let (shared, exclusive) = (LockKind::Shared, LockKind::Exclusive);
    vfs::set_record(id, record(1, 0, 99, exclusive), false).expect("first");
    assert_eq!(vfs::set_record(id, record(2, 50, 60, shared), false), Err(VfsError::WouldBlock));
    vfs::clear_record(id, 1, 40, 69).expect("few records");
    vfs::set_record(id, record(2, 50, 60, shared), false).expect("in the gap");
    assert_eq!(vfs::test_record(id, &record(2, 0, 45, shared)), Some(record(1, 0, 39, exclusive)));
    assert_eq!(vfs::test_record(id, &record(3, 61, 69, exclusive)), None);
    // 2 waits for 1; then 1 may not wait for 2.
    let waiter = std::thread::spawn(move || vfs::set_record(id, record(2, 0, 10, exclusive), true));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(vfs::set_record(id, record(1, 55, 55, exclusive), true), Err(VfsError::Deadlock));
    vfs::clear_record(id, 1, 0, u64::MAX).expect("few records");
    waiter.join().expect("waiter").expect("granted");
    vfs::clear_record(id, 2, 0, u64::MAX).expect("few records");
}

#[test]
fn record_locks_are_bounded_and_say_so() {
    let world = World::new();
    world.write("/many", b"").expect("file");
    let (id, mut held) = (world.stat("/many").expect("many").id, 0_u64);
    let lock = |at: u64| vfs::set_record(id, Record { kind: LockKind::Exclusive, first: at * 2, last: at * 2, owner: 1 }, false);
    while lock(held).is_ok() {
        held += 1;
        assert!(held < 10_000, "a process may lock without end");
    }
    assert_eq!(lock(held), Err(VfsError::NoMemory));
    // What is held stays held, and dropping all of it always works.
    assert!(vfs::test_record(id, &Record { kind: LockKind::Exclusive, first: 0, last: 0, owner: 2 }).is_some());
    vfs::clear_record(id, 1, 0, u64::MAX).expect("the whole range cuts nothing");
    assert!(lock(0).is_ok());
    vfs::clear_record(id, 1, 0, u64::MAX).expect("the whole range cuts nothing");
}

#[test]
fn a_counter_adds_up_and_blocks_when_full_or_empty() {
    kif_host::start();
    let counter = vfs::counter::new(3, false, OpenFlags::NONBLOCK);
    let mut out = [0; 8];
    assert_eq!(counter.write(&4_u64.to_le_bytes(), ZONE), Ok(8));
    assert_eq!((counter.read(&mut out, ZONE), u64::from_le_bytes(out)), (Ok(8), 7));
    assert_eq!(counter.read(&mut out, ZONE), Err(VfsError::WouldBlock));
    assert_eq!(counter.read(&mut out[..7], ZONE), Err(VfsError::Invalid));
    assert_eq!(counter.write(&u64::MAX.to_le_bytes(), ZONE), Err(VfsError::Invalid));
    assert_eq!(counter.write(&(u64::MAX - 1).to_le_bytes(), ZONE), Ok(8));
    assert_eq!(counter.write(&1_u64.to_le_bytes(), ZONE), Err(VfsError::WouldBlock));
    assert_eq!(counter.poll(), Ready::IN | Ready::RDNORM);
    let semaphore = vfs::counter::new(2, true, OpenFlags::NONBLOCK);
    for _ in 0..2 {
        assert_eq!((semaphore.read(&mut out, ZONE), u64::from_le_bytes(out)), (Ok(8), 1));
    }
    assert_eq!(semaphore.read(&mut out, ZONE), Err(VfsError::WouldBlock));
}

#[test]
fn a_nameless_file_is_one_file_system_of_its_own() {
    kif_host::start();
    let owner = vfs::Owner { uid: 7, gid: 8, zone: ZONE };
    let (one, other) = (vfs::tmpfs::nameless(owner), vfs::tmpfs::nameless(owner));
    assert_ne!(one.attr().expect("there").id, other.attr().expect("there").id);
    assert_eq!(one.write(b"memory", ZONE), Ok(6));
    let mut out = [0; 6];
    assert_eq!((one.read_at(0, &mut out, ZONE), &out), (Ok(6), b"memory"));
    assert_eq!(other.attr().expect("there").size, 0);
    assert_eq!((one.attr().expect("there").nlink, one.attr().expect("there").uid), (0, 7));
}

#[test]
fn what_is_executed_is_not_written_and_the_other_way_round() {
    let world = World::new();
    world.write("/program", b"x").expect("made");
    let id = world.find("/program").expect("there").vnode.id();
    let running = vfs::text::execute(id).expect("nobody writes");
    let again = vfs::text::execute(id).expect("twice is fine");
    assert_eq!(world.open("/program", WRITE).err(), Some(VfsError::TextBusy));
    assert_eq!(world.open("/program", WRITE | OpenFlags::TRUNC).err(), Some(VfsError::TextBusy));
    assert_eq!(world.read("/program").expect("reading is free"), b"x", "and it was not cut");
    drop((running, again));
    let writer = world.open("/program", WRITE).expect("nobody runs it");
    assert_eq!(vfs::text::execute(id).err(), Some(VfsError::TextBusy));
    drop(writer);
    assert!(vfs::text::execute(id).is_ok());
}

#[test]
fn new_contents_do_not_inherit_set_user_id() {
    let world = World::new();
    world.write("/tool", b"old").expect("made");
    vfs::ops::chmod(&world.cx(), &world.find("/tool").expect("there"), 0o6755).expect("root");
    assert_eq!(world.stat("/tool").expect("there").mode & 0o7777, 0o6755);
    world.write("/tool", b"new").expect("written");
    assert_eq!(world.stat("/tool").expect("there").mode & 0o7777, 0o755);
}
