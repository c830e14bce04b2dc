//! What the control operations and zones need from the rest of the kernel, joined here.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use control::{CpuInfo, StartError, System};
use kif::{Nanos, ZoneId};
use once_cell::race::OnceBox;
use proc::{ProcError, ZoneEnd};
use vfs::{Cred, Cx, File, Filesystem, OpenFlags, Place, ops};
use zone::{Hook, Zone};

/// How long a halt waits for a zone's processes to end before it says that they do not.
const KILL_PATIENCE: Nanos = Nanos::from_secs(10);

static ROOT: OnceBox<Place> = OnceBox::new();
static CPUS: OnceBox<Vec<CpuInfo>> = OnceBox::new();

/// The kernel as `control` sees it.
struct Kernel;

/// Registers the control devices and everything that follows zones. After `proc::install`, before the first process.
///
/// # Panics
/// If called twice.
pub fn install(root: Place, cpus: Vec<CpuInfo>) {
    assert!(ROOT.set(Box::new(root)).is_ok() && CPUS.set(Box::new(cpus)).is_ok(), "control is installed once");
    zone::register_hook(Hook {
        name: "terminals",
        created: |zone| {
            vfs::tty::pty::make_console(zone.id());
            Ok(())
        },
        shutdown: |_| {},
        destroyed: |zone| vfs::tty::zone_ended(zone.id()),
    });
    proc::set_zone_end_hook(Box::new(zone_ended));
    control::install(&Kernel);
}

/// A zone ended from inside. The halt waits for its processes, of which the caller may be one, so it has a thread of its own.
fn zone_ended(zone: &Arc<Zone>, why: ZoneEnd) {
    if zone.is_global() {
        machine_ends(why);
        return;
    }
    kif::log().line(format_args!("zone {} ({}): ends from inside: {why:?}", zone.name(), zone.id().0));
    let halting = Arc::clone(zone);
    let spawned = kif::spawn().spawn("zone-halt", ZoneId::GLOBAL, Box::new(move || control::init_exited(&halting)));
    if spawned.is_err() {
        kif::log().line(format_args!("zone {}: no memory to halt it; use: zoneadm -z {} halt", zone.name(), zone.name()));
    }
}

/// The global zone ended: so does the machine.
fn machine_ends(why: ZoneEnd) {
    match why {
        ZoneEnd::InitExited(status) => panic!("init of the global zone ended: {status:?}"),
        ZoneEnd::Halt => crate::power::off(),
        ZoneEnd::Reboot => crate::power::reset(),
    }
}

impl System for Kernel {
    fn global_root(&self) -> Place {
        ROOT.get().expect("set by `install` before the devices exist").clone()
    }

    fn zone_mounts(&self, zone: &Arc<Zone>) -> Vec<(&'static str, Arc<dyn Filesystem>)> {
        [
            ("/proc", linux::procfs::new(zone.id()) as Arc<dyn Filesystem>),
            ("/dev", vfs::devfs::new(zone.id())),
            ("/tmp", vfs::tmpfs::new(&vfs::tmpfs::Options::default())),
        ]
        .into()
    }

    fn start_init(&self, zone: &Arc<Zone>, root: &Place, path: &str, args: &[String]) -> Result<u32, StartError> {
        let program = proc::exec::Program {
            path: path.as_bytes().to_vec(),
            arguments: args.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
            environment: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=vt100"].iter().map(|text| text.as_bytes().to_vec()).collect(),
        };
        let files = match console_of(zone, root) {
            Some(file) => [Arc::clone(&file), Arc::clone(&file), file].into(),
            None => Vec::new(),
        };
        let spawn = proc::Spawn { zone: Arc::clone(zone), root: root.clone(), program, files };
        proc::spawn_init(spawn).map_err(start_error)
    }

    fn enter_zone(&self, zone: &Arc<Zone>, root: &Place) -> Result<(), StartError> {
        let lwp = proc::current().ok_or(StartError::Caller)?;
        proc::enter_zone(&lwp, zone, root.clone()).map_err(|error| match error {
            ProcError::Invalid => StartError::Caller,
            other => start_error(other),
        })
    }

    fn kill_all(&self, zone: &Arc<Zone>) {
        if !proc::kill_zone(zone, KILL_PATIENCE) {
            for process in proc::list(zone.id()) {
                kif::log().line(format_args!("zone {}: process {} ({}) does not end", zone.name(), process.pid(), process.name()));
            }
        }
    }

    fn cpus(&self) -> Vec<CpuInfo> {
        CPUS.get().cloned().unwrap_or_default()
    }

    fn fail_nth(&self, n: u64) {
        crate::HEAP.fail_nth(n);
    }

    fn caller_is_root(&self) -> bool {
        proc::current().is_some_and(|lwp| lwp.process().cred().is_root())
    }
}

/// The zone's own console, else its null device.
fn console_of(zone: &Arc<Zone>, root: &Place) -> Option<Arc<File>> {
    let cred = Cred::root(zone.id());
    let cx = Cx { cred: &cred, root, cwd: root };
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::NOCTTY;
    ["/dev/console", "/dev/null"].iter().find_map(|path| ops::open(&cx, None, path.as_bytes(), flags, 0).ok())
}

fn start_error(error: ProcError) -> StartError {
    match error {
        ProcError::TryAgain | ProcError::NoMemory => StartError::Limit,
        ProcError::NotExecutable => StartError::Program("not a program that can run here".to_string()),
        ProcError::File(vfs::VfsError::NotFound) => StartError::Program("no such file in the zone".to_string()),
        other => StartError::Program(format!("cannot be started ({other:?})")),
    }
}
