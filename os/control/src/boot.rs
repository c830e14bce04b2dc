//! Up and down: the steps of a zone's boot and halt across all layers.
//!
//! # States
//! create: zone object → root bound as the zone's own mount → lofs mounts → /proc, /dev, /tmp → Ready.
//! boot: Booting → init started → Running.
//! halt: ShuttingDown → processes killed (again and again, a fork may slip through) → Empty → Down → mounts detached →
//! destroyed. From whatever state, any number of times.

use alloc::string::String;
use alloc::sync::Arc;

use control_abi::Code;
use kif::Nanos;
use sync::{Class, Mutex};
use vfs::mount::{self, MountFlags};
use vfs::{Cred, Cx, Follow, Place, VfsError, lookup, ops};
use zone::{Config, DataKey, State, Zone, ZoneError};

use crate::device::{Refusal, system};
use crate::system::StartError;

/// The zone's root directory hangs on the zone under this key.
const ROOT: DataKey = DataKey("control.root");

/// How long a halt waits for processes before it says that they do not end.
const PATIENCE: Nanos = if cfg!(test) { Nanos::from_millis(30) } else { Nanos::from_secs(10) };

/// One operation that changes zones at a time.
static CHANGES: Mutex<()> = Mutex::new(Class::Control, ());

/// The root directory of a zone that is up.
pub(crate) fn root_of(zone: &Zone) -> Result<Arc<Place>, Refusal> {
    zone.data::<Place>(ROOT).ok_or_else(|| ZoneError::WrongState(zone.state()).into())
}

fn path_refusal(path: &str, error: VfsError) -> Refusal {
    let (code, why) = match error {
        VfsError::NotFound => (Code::NotFound, "no such file or directory"),
        VfsError::NotDirectory => (Code::Invalid, "not a directory"),
        VfsError::NoMemory | VfsError::NoSpace => (Code::Limit, "out of memory"),
        VfsError::Busy | VfsError::Exists => (Code::Busy, "something is mounted there"),
        _ => (Code::Invalid, "cannot be used"),
    };
    Refusal::new(code, format_args!("{path}: {why} ({error:?})"))
}

/// Makes a zone ready: object and mounts, no process.
pub(crate) fn create(config: Config, lofs: &[(String, String)]) -> Result<Arc<Zone>, Refusal> {
    let _one = CHANGES.lock();
    let root_path = config.root.clone();
    let zone = zone::create(config)?;
    match mount_all(&zone, &root_path, lofs) {
        Ok(()) => {
            zone::ready(&zone)?;
            Ok(zone)
        }
        Err(refusal) => {
            take_down(&zone)?;
            Err(refusal)
        }
    }
}

fn mount_all(zone: &Arc<Zone>, root_path: &str, lofs: &[(String, String)]) -> Result<(), Refusal> {
    let global = system().global_root();
    let cred = Cred::root(kif::ZoneId::GLOBAL);
    let outer = Cx { cred: &cred, root: &global, cwd: &global };
    let directory = lookup(&outer, None, root_path.as_bytes(), Follow::Yes).map_err(|error| path_refusal(root_path, error))?;
    let root = mount::make_zone_root(&directory, zone.id(), zone.name()).map_err(|error| path_refusal(root_path, error))?;
    zone.set_data(ROOT, Arc::new(root.clone()));
    let inner_cred = Cred::root(zone.id());
    let inner = Cx { cred: &inner_cred, root: &root, cwd: &root };
    for (from, to) in lofs {
        let source = lookup(&outer, None, from.as_bytes(), Follow::Yes).map_err(|error| path_refusal(from, error))?;
        let at = lookup(&inner, None, to.as_bytes(), Follow::Yes).map_err(|error| path_refusal(to, error))?;
        let bound = mount::bind(&at, &source, from, MountFlags::READ_ONLY).map_err(|error| path_refusal(to, error))?;
        bound.mount.fix();
    }
    for (path, fs) in system().zone_mounts(zone) {
        match ops::mkdir(&inner, None, path.as_bytes(), 0o755) {
            Ok(()) | Err(VfsError::Exists) => {}
            Err(error) => return Err(path_refusal(path, error)),
        }
        // A link in the tenant's tree must not lead the mount elsewhere: the walk stays in the zone, and a link is refused.
        let at = lookup(&inner, None, path.as_bytes(), Follow::No).map_err(|error| path_refusal(path, error))?;
        let kind = fs.kind();
        let mounted = mount::mount(&at, fs, kind, MountFlags::empty()).map_err(|error| path_refusal(path, error))?;
        mounted.mount.fix();
    }
    Ok(())
}

/// Starts a ready zone's init.
pub(crate) fn boot(zone: &Arc<Zone>, init: &str, args: &[String]) -> Result<u32, Refusal> {
    let _one = CHANGES.lock();
    let root = root_of(zone)?;
    zone::boot(zone)?;
    match system().start_init(zone, &root, init, args) {
        Ok(pid) => {
            // If the zone is no longer booting, its init has already exited; it is on its way down.
            match zone::running(zone, pid) {
                Ok(()) | Err(ZoneError::WrongState(_)) => {}
                Err(error) => return Err(error.into()),
            }
            kif::log().line(format_args!("zone {} ({}): booted, init is {pid}", zone.name(), zone.id().0));
            Ok(pid)
        }
        Err(error) => {
            take_down(zone)?;
            Err(start_refusal(init, error))
        }
    }
}

fn start_refusal(what: &str, error: StartError) -> Refusal {
    match error {
        StartError::Program(why) => Refusal::new(Code::Exec, format_args!("{what}: {why}")),
        StartError::Limit => Refusal::new(Code::Limit, "no memory, or a limit of the zone is reached"),
        StartError::Caller => Refusal::new(Code::Invalid, "only a process with a single thread can enter a zone"),
    }
}

/// Moves the calling process into a zone.
pub(crate) fn enter(zone: &Arc<Zone>) -> Result<(), Refusal> {
    if zone.is_global() {
        return Err(ZoneError::IsGlobal.into());
    }
    if !zone.state().admits_processes() {
        return Err(ZoneError::WrongState(zone.state()).into());
    }
    let root = root_of(zone)?;
    system().enter_zone(zone, &root).map_err(|error| start_refusal("zone", error))
}

/// Halts a zone and takes it out of the kernel, from whatever state. Repeat after an error.
///
/// # Errors
/// Processes that do not end ([`Code::Busy`]).
pub fn halt(zone: &Arc<Zone>) -> Result<(), Refusal> {
    let _one = CHANGES.lock();
    take_down(zone)
}

fn take_down(zone: &Arc<Zone>) -> Result<(), Refusal> {
    if zone.state() >= State::Dying {
        return Err(ZoneError::NoSuchZone.into());
    }
    zone::shutdown(zone, PATIENCE, |zone| system().kill_all(zone)).inspect_err(|error| {
        kif::log().line(format_args!("zone {} ({}): does not halt: {error}", zone.name(), zone.id().0));
    })?;
    if zone.take_data(ROOT).is_some() {
        let global = system().global_root();
        mount::unmount_zone(&global, zone.id());
    }
    zone::destroy(zone)?;
    kif::log().line(format_args!("zone {} ({}): halted", zone.name(), zone.id().0));
    Ok(())
}

/// A zone's init has ended on its own: the zone halts. Called by the process layer in a thread of its own (a kernel thread of
/// the global zone), since this waits for the zone's processes.
pub fn init_exited(zone: &Arc<Zone>) {
    if zone.state() < State::ShuttingDown
        && let Err(refusal) = halt(zone)
    {
        kif::log().line(format_args!("zone {} ({}): init ended, but the zone does not halt: {}", zone.name(), zone.id().0, refusal.message));
    }
}
