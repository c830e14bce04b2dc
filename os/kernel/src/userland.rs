//! From a running kernel to a running init: file systems, zones, processes; and what the control device needs of all of them.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use boot::BootInfo;
use control::{CpuInfo, StartError, System};
use kif::{Nanos, ZoneId};
use once_cell::race::OnceBox;
use proc::ZoneEnd;
use vfs::{Cx, Filesystem, MountFlags, OpenFlags, Place};
use zone::Zone;

use crate::machine::LOG;
use crate::{HEAP, power};

static ROOT: OnceBox<Place> = OnceBox::new();

fn root() -> &'static Place {
    ROOT.get().expect("userland::mount_root runs before there are zones or processes")
}

/// Makes the live root: a tmpfs with the initrd in it.
pub fn mount_root(boot: &BootInfo) {
    let fs = vfs::tmpfs::new(&vfs::tmpfs::Options::default());
    let place = vfs::mount::mount_root(fs, "root");
    match (boot.initrd, boot.initrd_bytes()) {
        (Some(_), Some(archive)) => match vfs::cpio::unpack(archive, &place.vnode, ZoneId::GLOBAL) {
            Ok(done) => kif::log().line(format_args!("initrd: {} files, {} KiB", done.entries, done.bytes >> 10)),
            // What came before the error is there; init may still start.
            Err(error) => kif::log().line(format_args!("initrd: {error}")),
        },
        (Some(range), None) => kif::log().line(format_args!("initrd: {:#x}..{:#x} is not memory", range.start, range.end)),
        (None, _) => kif::log().line(format_args!("no initrd")),
    }
    if ROOT.set(Box::new(place)).is_err() {
        unreachable!("the root is mounted once");
    }
}

/// Mounts what programs expect in the global zone.
pub fn mount_system() {
    vfs::devfs::register_devices();
    vfs::devfs::set_kernel_log(Box::new(LogReader));
    let cred = vfs::Cred::root(ZoneId::GLOBAL);
    let cx = Cx { cred: &cred, root: root(), cwd: root() };
    for (path, fs) in mounts(ZoneId::GLOBAL) {
        // There already, if the initrd has it.
        if let Err(error) = vfs::ops::mkdir(&cx, None, path.as_bytes(), 0o755)
            && error != vfs::VfsError::Exists
        {
            kif::log().line(format_args!("{path}: {error:?}"));
        }
        let mounted = vfs::lookup(&cx, None, path.as_bytes(), vfs::Follow::Yes)
            .and_then(|at| vfs::mount::mount(&at, fs, path.trim_start_matches('/'), MountFlags::empty()));
        if let Err(error) = mounted {
            kif::log().line(format_args!("{path}: cannot be mounted: {error:?}"));
        }
    }
}

/// The file systems every zone has.
fn mounts(zone: ZoneId) -> Vec<(&'static str, Arc<dyn Filesystem>)> {
    vec![("/dev", vfs::devfs::new(zone) as Arc<dyn Filesystem>), ("/proc", linux::procfs::new(zone))]
}

struct LogReader;

impl vfs::devfs::KernelLog for LogReader {
    fn read(&self, offset: u64, out: &mut [u8]) -> (usize, u64) {
        LOG.read(offset, out)
    }
}

/// Imports and mounts the pools that were in use when the machine last went down.
pub fn start_pools() {
    kif::on_shortage(pool_fs::relieve);
    pool_fs::install_volumes();
    let cred = vfs::Cred::root(ZoneId::GLOBAL);
    pool_fs::manage::start_all(&Cx { cred: &cred, root: root(), cwd: root() });
}

/// Starts the process layer and everything that hangs on it.
///
/// # Errors
/// No memory.
pub fn start_processes() -> Result<(), proc::ProcError> {
    proc::install()?;
    linux::install();
    zone::register_hook(zone::Hook {
        name: "terminals",
        created: |zone| {
            vfs::tty::pty::make_console(zone.id());
            Ok(())
        },
        shutdown: |_| {},
        destroyed: |zone| vfs::tty::zone_ended(zone.id()),
    });
    control::install(&ControlSystem);
    proc::set_zone_end_hook(Box::new(zone_ends));
    Ok(())
}

/// A zone ends from inside; for the global zone that is the machine.
fn zone_ends(zone: &Arc<Zone>, why: ZoneEnd) {
    if zone.id() != ZoneId::GLOBAL {
        let zone = Arc::clone(zone);
        // Halting waits for the zone's processes, this one among them.
        let halter = kif::spawn().spawn("zone-halt", ZoneId::GLOBAL, Box::new(move || control::init_exited(&zone)));
        if halter.is_err() {
            kif::log().line(format_args!("no memory to halt a zone whose init ended"));
        }
        return;
    }
    match why {
        ZoneEnd::InitExited(status) => {
            kif::log().line(format_args!("init ended ({status:?}): switching off"));
            pool_fs::manage::sync_all();
            power::off()
        }
        ZoneEnd::Halt => {
            pool_fs::manage::sync_all();
            power::off()
        }
        ZoneEnd::Reboot => {
            pool_fs::manage::sync_all();
            power::reset()
        }
    }
}

/// Opens a zone's console three times over for its init; `/dev/null` where there is none.
fn console(cx: &Cx<'_>) -> Result<Vec<Arc<vfs::File>>, vfs::VfsError> {
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::NOCTTY;
    let file = vfs::ops::open(cx, None, b"/dev/console", flags, 0).or_else(|_| vfs::ops::open(cx, None, b"/dev/null", flags, 0))?;
    Ok(vec![Arc::clone(&file), Arc::clone(&file), file])
}

/// Starts a zone's first process.
fn spawn_init(zone: &Arc<Zone>, root: &Place, path: &str, arguments: Vec<Vec<u8>>, environment: Vec<Vec<u8>>) -> Result<u32, StartError> {
    let cred = vfs::Cred::root(zone.id());
    let cx = Cx { cred: &cred, root, cwd: root };
    let files = console(&cx).map_err(|error| StartError::Program(format!("/dev/console: {error:?}")))?;
    let program = proc::exec::Program { path: path.as_bytes().to_owned(), arguments, environment };
    proc::spawn_init(proc::Spawn { zone: Arc::clone(zone), root: root.clone(), program, files }).map_err(|error| match error {
        proc::ProcError::NoMemory | proc::ProcError::TryAgain => StartError::Limit,
        other => StartError::Program(format!("{path}: {other:?}")),
    })
}

/// Starts the global zone's init as the command line says.
pub fn start_init(boot: &BootInfo) {
    let line = &boot.command_line;
    let path = line.value("init").unwrap_or("/sbin/init");
    let mut arguments = vec![path.as_bytes().to_owned()];
    arguments.extend(line.init_arguments().map(|word| word.as_bytes().to_owned()));
    let mut environment: Vec<Vec<u8>> =
        ["HOME=/root", "TERM=linux", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"].map(|word| word.as_bytes().to_owned()).to_vec();
    for word in line.words() {
        match word.split_once('=') {
            Some(("console" | "init" | "heap.failnth", _)) => {}
            Some(_) => environment.push(word.as_bytes().to_owned()),
            None if word == "quiet" => {}
            None => kif::log().line(format_args!("command line: {word:?} is not known, ignored")),
        }
    }
    match spawn_init(zone::global(), root(), path, arguments, environment) {
        Ok(_) => {}
        Err(error) => {
            kif::log().line(format_args!("no init: {error:?}"));
            power::halt()
        }
    }
    match line.value("heap.failnth").map(str::parse) {
        Some(Ok(n)) => HEAP.fail_nth(n),
        Some(Err(_)) => kif::log().line(format_args!("command line: heap.failnth is not a number, ignored")),
        None => {}
    }
}

/// Text that CPUID gives: padded with blanks and zeros.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_matches(['\0', ' ']).to_owned()
}

/// Tells /proc what machine this is.
pub fn describe_machine(boot: &BootInfo) {
    let (vendor, model) = hal::cpu::brand();
    linux::procfs::install_machine(linux::procfs::Machine {
        cpus: 1,
        vendor: text(&vendor),
        model: text(&model),
        mhz: u32::try_from(hal::time::frequency() / 1_000_000).unwrap_or(u32::MAX),
        flags: String::new(),
        command_line: boot.command_line.text().to_owned(),
    });
}

// ---- the control device --------------------------------------------------------------------------------------------------------------

struct ControlSystem;

impl System for ControlSystem {
    fn global_root(&self) -> Place {
        root().clone()
    }
    fn zone_mounts(&self, zone: &Arc<Zone>) -> Vec<(&'static str, Arc<dyn Filesystem>)> {
        let mut all = mounts(zone.id());
        all.push(("/tmp", vfs::tmpfs::new(&vfs::tmpfs::Options::default())));
        all
    }
    fn start_init(&self, zone: &Arc<Zone>, root: &Place, path: &str, args: &[String]) -> Result<u32, StartError> {
        let arguments = args.iter().map(|argument| argument.as_bytes().to_owned()).collect();
        let environment = [b"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_vec(), b"container=zone".to_vec()].to_vec();
        spawn_init(zone, root, path, arguments, environment)
    }
    fn enter_zone(&self, zone: &Arc<Zone>, root: &Place) -> Result<(), StartError> {
        let lwp = proc::current().ok_or(StartError::Caller)?;
        proc::enter_zone(&lwp, zone, root.clone()).map_err(|error| match error {
            proc::ProcError::NoMemory | proc::ProcError::TryAgain => StartError::Limit,
            _ => StartError::Caller,
        })
    }
    fn kill_all(&self, zone: &Arc<Zone>) {
        proc::kill_all(zone.id(), None);
    }
    fn cpus(&self) -> Vec<CpuInfo> {
        vec![CpuInfo { id: 0, brand: text(&hal::cpu::brand().1), mhz: hal::time::frequency() / 1_000_000, since: Nanos(0) }]
    }
    fn fail_nth(&self, n: u64) {
        HEAP.fail_nth(n);
    }
    fn caller_is_root(&self) -> bool {
        proc::current().is_some_and(|lwp| lwp.process().cred().is_root())
    }
}
