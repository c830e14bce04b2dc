//! Pseudo terminals, serial lines and job control, with a fake process layer.

mod support;

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use kif::ZoneId;
use vfs::tty::job::{self, Caller, Group, JobControl, TtySignal};
use vfs::tty::termios::{TERMIOS_BYTES, Termios, cc, lflag, request};
use vfs::tty::{self, pty, serial};
use vfs::{File, MountFlags, OpenFlags, Ready, VfsError, devfs, mount};

use support::World;

thread_local! {
    static CALLER: std::cell::Cell<Caller> = const { std::cell::Cell::new(Caller { pid: 0, group: 0, session: 0, zone: ZoneId::GLOBAL, uid: 0 }) };
}
static SENT: Mutex<Vec<(i32, TtySignal)>> = Mutex::new(Vec::new());
static NEXT_PID: AtomicI32 = AtomicI32::new(100);

/// Groups n and n + 1 belong to session n (an even hundred); `refused` signals by group are not modelled.
struct Jobs;
impl JobControl for Jobs {
    fn caller(&self) -> Option<Caller> {
        let caller = CALLER.get();
        (caller.pid != 0).then_some(caller)
    }
    fn signal_group(&self, group: Group, signal: TtySignal) {
        // What the process layer checks with: a group never goes without its session.
        assert_eq!(self.group_session(group.group), Some(group.session), "{group:?}");
        SENT.lock().expect("lock").push((group.group, signal));
    }
    fn signal_leader(&self, session: i32, signal: TtySignal) {
        SENT.lock().expect("lock").push((-session, signal));
    }
    fn group_session(&self, group: i32) -> Option<i32> {
        (group % 100 < 10).then_some(group / 100 * 100)
    }
    fn show(&self, id: i32) -> i32 {
        id
    }
    fn unshow(&self, id: i32) -> i32 {
        id
    }
    fn is_orphaned(&self, group: i32) -> bool {
        group % 100 == 5
    }
    fn is_refused(&self, _signal: TtySignal) -> bool {
        false
    }
}

fn sent_to(group: i32) -> Vec<TtySignal> {
    SENT.lock().expect("lock").iter().filter(|(to, _)| *to == group).map(|(_, signal)| *signal).collect()
}

/// A world with `/dev`, and this thread as leader of a new session.
fn world() -> World {
    static DEVICES: OnceLock<()> = OnceLock::new();
    let world = World::new();
    DEVICES.get_or_init(|| {
        devfs::register_devices();
        job::register(Box::new(Jobs));
    });
    world.mkdir("/dev").expect("dev");
    let at = world.find("/dev").expect("dev");
    mount::mount(&at, devfs::new(ZoneId::GLOBAL), "dev", MountFlags::empty()).expect("devfs");
    let pid = NEXT_PID.fetch_add(100, Ordering::Relaxed);
    CALLER.set(Caller { pid, group: pid, session: pid, zone: ZoneId::GLOBAL, uid: 0 });
    world
}

const RW: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);
const SCRATCH: u64 = 0x1_0000;

fn ioctl_in(file: &File, number: u32, bytes: &[u8]) -> vfs::Result<u64> {
    kif::user().write(SCRATCH, bytes).expect("flat memory");
    file.ioctl(number, SCRATCH, ZoneId::GLOBAL)
}
fn ioctl_out<const N: usize>(file: &File, number: u32) -> vfs::Result<[u8; N]> {
    file.ioctl(number, SCRATCH, ZoneId::GLOBAL)?;
    let mut bytes = [0; N];
    kif::user().read(SCRATCH, &mut bytes).expect("flat memory");
    Ok(bytes)
}

fn pair(world: &World) -> (Arc<File>, Arc<File>, u32) {
    let master = world.open("/dev/ptmx", RW).expect("ptmx");
    let index = u32::from_le_bytes(ioctl_out(&master, request::TIOCGPTN).expect("number"));
    let name = format!("/dev/pts/{index}");
    assert_eq!(world.open(&name, RW).err(), Some(VfsError::Io), "locked at first");
    ioctl_in(&master, request::TIOCSPTLCK, &0_u32.to_le_bytes()).expect("unlock");
    let slave = world.open(&name, RW).expect("slave");
    (master, slave, index)
}

fn set_mode(file: &File, change: impl FnOnce(&mut Termios)) {
    let bytes: [u8; TERMIOS_BYTES] = ioctl_out(file, request::TCGETS).expect("get");
    let mut termios = Termios::default().with_bytes(&bytes);
    change(&mut termios);
    ioctl_in(file, request::TCSETS, &termios.to_bytes()[..TERMIOS_BYTES]).expect("set");
}

fn read(file: &File) -> vfs::Result<Vec<u8>> {
    let mut buffer = [0; 256];
    let count = file.read(&mut buffer, ZoneId::GLOBAL)?;
    Ok(buffer[..count].to_vec())
}

#[test]
fn pair_carries_a_session_like_a_terminal() {
    let world = world();
    let (master, slave, index) = pair(&world);
    assert!(world.list("/dev/pts").expect("pts").contains(&index.to_string()));
    assert_eq!(slave.path(&world.root).expect("name"), format!("/dev/pts/{index}").into_bytes());
    let rdev = slave.attr().expect("attr").rdev;
    assert_eq!((rdev.major, rdev.minor), (136, index));
    master.write(b"echo hi\r", ZoneId::GLOBAL).expect("keys");
    assert_eq!(read(&slave).expect("line"), b"echo hi\n");
    slave.write(b"hi\n", ZoneId::GLOBAL).expect("output");
    assert_eq!(read(&master).expect("screen"), b"echo hi\r\nhi\r\n");
    // The opener led a session without a terminal: now it has one, also by its other name.
    let session = CALLER.get().session;
    let tty = world.open("/dev/tty", RW).expect("controlling terminal");
    tty.write(b"x", ZoneId::GLOBAL).expect("write");
    assert_eq!(read(&master).expect("screen"), b"x");
    assert_eq!(ioctl_out::<4>(&slave, request::TIOCGPGRP).expect("group"), session.to_le_bytes());
    assert_eq!(ioctl_out::<4>(&slave, request::TIOCGSID).expect("session"), session.to_le_bytes());
    master.write(&[3], ZoneId::GLOBAL).expect("key");
    assert_eq!(sent_to(session), [TtySignal::Interrupt]);
    assert_eq!(slave.ioctl(request::TIOCSTI, SCRATCH, ZoneId::GLOBAL), Err(VfsError::NotPermitted));
}

#[test]
fn background_readers_are_stopped_and_orphans_refused() {
    let world = world();
    let (_master, slave, _) = pair(&world);
    let leader = CALLER.get();
    CALLER.set(Caller { pid: leader.pid + 1, group: leader.pid + 1, ..leader });
    assert_eq!(read(&slave), Err(VfsError::Interrupted));
    assert_eq!(sent_to(leader.pid + 1), [TtySignal::BackgroundRead]);
    assert!(slave.write(b"allowed without TOSTOP", ZoneId::GLOBAL).is_ok());
    CALLER.set(leader);
    set_mode(&slave, |termios| termios.lflag |= lflag::TOSTOP);
    CALLER.set(Caller { pid: leader.pid + 1, group: leader.pid + 1, ..leader });
    assert_eq!(slave.write(b"x", ZoneId::GLOBAL), Err(VfsError::Interrupted));
    assert_eq!(ioctl_in(&slave, request::TCFLSH, &[]).err(), Some(VfsError::Interrupted));
    CALLER.set(Caller { pid: leader.pid + 5, group: leader.pid + 5, ..leader });
    assert_eq!(read(&slave), Err(VfsError::Io), "orphaned");
    CALLER.set(leader);
    ioctl_in(&slave, request::TIOCSPGRP, &(leader.pid + 1).to_le_bytes()).expect("give it away");
    assert_eq!(ioctl_in(&slave, request::TIOCSPGRP, &(leader.pid + 1).to_le_bytes()).err(), Some(VfsError::Interrupted));
    CALLER.set(Caller { pid: leader.pid + 1, group: leader.pid + 1, ..leader });
    assert_eq!(ioctl_in(&slave, request::TIOCSPGRP, &7_777_i32.to_le_bytes()), Err(VfsError::NoProcess));
    assert_eq!(ioctl_in(&slave, request::TIOCSPGRP, &1_i32.to_le_bytes()), Err(VfsError::NotPermitted));
}

#[test]
fn a_terminal_is_stolen_by_root_but_not_across_zones() {
    let world = world();
    let (_master, slave, _) = pair(&world);
    let owner = CALLER.get();
    let other = Caller { pid: owner.pid + 50_000, group: owner.pid + 50_000, session: owner.pid + 50_000, ..owner };
    let take = |caller, steal| {
        CALLER.set(caller);
        slave.ioctl(request::TIOCSCTTY, steal, ZoneId::GLOBAL)
    };
    assert_eq!(take(other, 0), Err(VfsError::NotPermitted));
    assert_eq!(take(Caller { zone: kif_host::fresh_zone(), ..other }, 1), Err(VfsError::NotPermitted));
    assert_eq!(take(Caller { uid: 7, ..other }, 1), Err(VfsError::NotPermitted));
    assert_eq!(take(other, 1), Ok(0));
    assert!(tty::controlling(owner.session).is_none() && tty::controlling(other.session).is_some());
}

#[test]
fn hangup_ends_the_slave_and_its_session() {
    let world = world();
    let (master, slave, index) = pair(&world);
    let session = CALLER.get().session;
    drop(master);
    assert_eq!(read(&slave).expect("end of file"), b"");
    assert_eq!(slave.write(b"x", ZoneId::GLOBAL), Err(VfsError::Io));
    assert!(slave.poll().contains(Ready::HUP));
    assert_eq!(sent_to(-session), [TtySignal::Hangup, TtySignal::Continue]);
    assert_eq!(world.open("/dev/tty", RW).err(), Some(VfsError::NoSuchDevice));
    assert_eq!(world.open(&format!("/dev/pts/{index}"), RW).err(), Some(VfsError::NotFound));
}

#[test]
fn master_sees_the_last_slave_close() {
    let world = world();
    let (master, slave, index) = pair(&world);
    slave.write(b"bye", ZoneId::GLOBAL).expect("output");
    drop(slave);
    assert_eq!(read(&master).expect("what was written comes first"), b"bye");
    assert_eq!(read(&master), Err(VfsError::Io));
    assert!(master.poll().contains(Ready::HUP));
    let again = world.open(&format!("/dev/pts/{index}"), RW | OpenFlags::NOCTTY).expect("open again");
    master.set_nonblock(true);
    assert_eq!(read(&master), Err(VfsError::WouldBlock));
    drop(again);
}

#[test]
fn raw_reads_honour_min_and_time() {
    let world = world();
    let (master, slave, _) = pair(&world);
    let raw = |min, time| {
        set_mode(&slave, |termios| {
            termios.lflag &= !(lflag::ICANON | lflag::ECHO);
            termios.cc[cc::VMIN] = min;
            termios.cc[cc::VTIME] = time;
        });
    };
    raw(0, 0);
    assert_eq!(read(&slave).expect("nothing, at once"), b"");
    raw(0, 1);
    assert_eq!(read(&slave).expect("nothing, after a while"), b"");
    master.write(b"ab", ZoneId::GLOBAL).expect("keys");
    assert_eq!(read(&slave).expect("at once"), b"ab");
    raw(3, 1);
    master.write(b"cd", ZoneId::GLOBAL).expect("keys");
    assert_eq!(read(&slave).expect("two, when the timer ends"), b"cd");
    raw(3, 0);
    master.write(b"ef", ZoneId::GLOBAL).expect("keys");
    assert!(!slave.poll().contains(Ready::IN));
    let helper = Arc::clone(&master);
    let typist = std::thread::spawn(move || helper.write(b"g", ZoneId::GLOBAL));
    assert_eq!(read(&slave).expect("three"), b"efg");
    typist.join().expect("typist").expect("key");
}

#[test]
fn window_size_changes_are_signalled_once() {
    let world = world();
    let (master, slave, _) = pair(&world);
    let session = CALLER.get().session;
    ioctl_in(&master, request::TIOCSWINSZ, &[24, 0, 80, 0, 0, 0, 0, 0]).expect("set");
    ioctl_in(&master, request::TIOCSWINSZ, &[24, 0, 80, 0, 0, 0, 0, 0]).expect("same again");
    assert_eq!(ioctl_out::<8>(&slave, request::TIOCGWINSZ).expect("get"), [24, 0, 80, 0, 0, 0, 0, 0]);
    assert_eq!(sent_to(session), [TtySignal::WindowSize]);
}

#[test]
fn big_paste_waits_for_the_reader_and_loses_nothing() {
    let world = world();
    let (master, slave, _) = pair(&world);
    set_mode(&slave, |termios| termios.lflag &= !(lflag::ECHO | lflag::ICANON));
    let data: Vec<u8> = (0..50_000).map(|index| b'a' + (index % 26) as u8).collect();
    let copy = data.clone();
    let typist = std::thread::spawn(move || {
        let mut done = 0;
        while done < copy.len() {
            done += master.write(&copy[done..], ZoneId::GLOBAL).expect("paste");
        }
        master
    });
    let mut got = Vec::new();
    while got.len() < data.len() {
        got.extend(read(&slave).expect("input"));
    }
    assert_eq!(got, data);
    let _master = typist.join().expect("typist");
}

#[test]
fn zones_have_their_own_terminals_and_devices() {
    let global = world();
    let zone = kif_host::fresh_zone();
    for dir in ["/z", "/z/dev"] {
        global.mkdir(dir).expect(dir);
    }
    let root = mount::make_zone_root(&global.find("/z").expect("z"), zone, "z").expect("root");
    let inside = World { cwd: root.clone(), root, cred: vfs::Cred::root(zone) };
    let at = inside.find("/dev").expect("dev");
    mount::mount(&at, devfs::new(zone), "dev", MountFlags::empty()).expect("devfs");
    let (_master, _slave, index) = pair(&global);
    assert_eq!(inside.open(&format!("/dev/pts/{index}"), RW).err(), Some(VfsError::NotFound));
    assert_eq!(inside.open("/dev/kmsg", RW).err(), Some(VfsError::NotFound));
    assert_eq!(inside.open("/dev/console", RW).err(), Some(VfsError::NoSuchDevice));
    pty::make_console(zone);
    let console = inside.open("/dev/console", RW).expect("console");
    // Nobody looks: the zone is not held up, and the latest output is kept.
    let line = [b'x'; 1000];
    for _ in 0..100 {
        assert_eq!(console.write(&line, zone), Ok(1000));
    }
    console.write(b"last words", zone).expect("write");
    let master = pty::open_console_master(zone).expect("master");
    assert_eq!(pty::open_console_master(zone).err(), Some(VfsError::Busy));
    let mut all = Vec::new();
    master.set_nonblock(true);
    while let Ok(part) = read(&master) {
        all.extend(part);
    }
    assert!(all.ends_with(b"last words") && all.len() <= tty::OUTPUT_MAX + 512);
    tty::zone_ended(zone);
    assert_eq!(console.write(b"x", zone), Err(VfsError::Io));
    assert_eq!(inside.read("/dev/null").expect("null"), b"");
    assert_eq!(inside.open("/dev/full", RW).expect("full").write(b"x", zone), Err(VfsError::NoSpace));
}

struct Port(Mutex<Vec<u8>>);
impl serial::SerialPort for Port {
    fn transmit(&self, data: &[u8]) -> usize {
        // A port that takes three bytes at a time.
        let count = data.len().min(3);
        self.0.lock().expect("lock").extend_from_slice(&data[..count]);
        count
    }
}

#[test]
fn serial_line_echoes_and_interrupts_without_a_reader() {
    let world = world();
    let port = Arc::new(Port(Mutex::default()));
    let line = serial::attach(7, "ttyS7", Arc::clone(&port) as Arc<dyn serial::SerialPort>).expect("attach");
    let file = world.open("/dev/ttyS7", RW).expect("open");
    line.receive(b"hello\r");
    assert_eq!(read(&file).expect("line"), b"hello\n");
    line.receive(&[3]);
    let session = CALLER.get().session;
    for _ in 0..200 {
        if !sent_to(session).is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(sent_to(session), [TtySignal::Interrupt]);
    file.write(b"out\n", ZoneId::GLOBAL).expect("write");
    file.ioctl(request::TCSBRK, 1, ZoneId::GLOBAL).expect("drain");
    assert_eq!(*port.0.lock().expect("lock"), b"hello\r\n^Cout\r\n");
}
