//! Operations on pools: requests into `pool_fs::manage`, answers out of it. Those on datasets are in `datasets`.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use control_abi::{Code, Operation};
use kif::ZoneId;
use nv::NvList;
use pool_fs::manage::{self, Aside, DeviceChange, NewDevice, Refused, ScrubChange, Status};
use pool_fs::streams::{Receiving, Sending};
use pool_spa::{LeafCounts, VdevStatus};
use pool_stream::{Naming, PackageOptions};
use vfs::{Cred, Cx, Place};

use crate::datasets;
use crate::delegation::{self, with_room};
use crate::device::{Refusal, system};

pub(crate) type Answer = Result<NvList, Refusal>;

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let code = match &refused {
            Refused::NotFound(_) => Code::NotFound,
            Refused::Exists(_) => Code::Exists,
            Refused::Busy(_) => Code::Busy,
            Refused::Invalid(_) => Code::Invalid,
            Refused::Failed(_) => Code::State,
        };
        Self::new(code, refused)
    }
}

pub(crate) fn flag(request: &NvList, name: &str) -> Result<bool, Refusal> {
    Ok(request.opt_number(name)?.unwrap_or(0) != 0)
}

/// A stream that a descriptor carries.
pub(crate) enum Stream {
    Out(Box<Sending>),
    In(Box<Receiving>),
}

/// Opens a stream on a descriptor, or takes its next step.
pub(crate) fn stream(operation: Operation, request: &NvList, slot: &mut Option<Stream>, zone: ZoneId) -> Answer {
    with_room(|| step(operation, request, slot, zone))
}

/// Root directory of a caller's zone.
fn root_of(zone: ZoneId) -> Result<Place, Refusal> {
    if zone == ZoneId::GLOBAL {
        return Ok(system().global_root());
    }
    let zone = zone::lookup(zone).ok_or_else(|| Refusal::new(Code::State, "the zone is going down"))?;
    Ok(Place::clone(&*crate::boot::root_of(&zone)?))
}

fn step(operation: Operation, request: &NvList, slot: &mut Option<Stream>, zone: ZoneId) -> Answer {
    delegation::allow(zone, operation, request)?;
    let root = root_of(zone)?;
    let cred = Cred::root(zone);
    let cx = Cx { cred: &cred, root: &root, cwd: &root };
    let none = || Refusal::new(Code::State, "no such stream is open on this descriptor");
    if operation == Operation::StreamSend {
        if let Some(token) = request.opt_string("token")? {
            *slot = Some(Stream::Out(Box::new(Sending::resume(token)?)));
            return Ok(NvList::new());
        }
        if let Some(to) = request.opt_string("to")? {
            let [replicate, intermediate, properties] = [flag(request, "replicate")?, flag(request, "intermediate")?, flag(request, "properties")?];
            let options = PackageOptions { replicate, intermediate, properties, ..PackageOptions::default() };
            *slot = Some(Stream::Out(Box::new(Sending::start(to, request.opt_string("from")?, options)?)));
            return Ok(NvList::new());
        }
        let Some(Stream::Out(sending)) = slot else { return Err(none()) };
        return Ok(NvList::new().with("data", sending.piece()?));
    }
    if let Some(target) = request.opt_string("target")? {
        let naming = match request.opt_string("naming")? {
            None => Naming::Exact,
            Some("drop-pool") => Naming::DropPool,
            Some("last-part") => Naming::LastPart,
            Some(other) => return Err(Refusal::new(Code::Invalid, format!("'{other}' is no way to name what is received"))),
        };
        *slot = Some(Stream::In(Box::new(Receiving::start(&cx, target, naming, flag(request, "force")?, flag(request, "resumable")?)?)));
        return Ok(NvList::new());
    }
    let Some(Stream::In(receiving)) = slot else { return Err(none()) };
    if let Some(data) = request.opt_bytes("data")? {
        receiving.feed(&cx, data)?;
    }
    if flag(request, "end")? {
        return Ok(NvList::new().with("received", receiving.finish(&cx)?));
    }
    Ok(NvList::new())
}

/// Runs an operation, on a stack that is large enough for the pool's code.
pub(crate) fn run(operation: Operation, request: &NvList, zone: ZoneId) -> Answer {
    with_room(|| dispatch(operation, request, zone))
}

/// Longest command that a history keeps.
const COMMAND_MAX: usize = 4096;

/// The pool or dataset that a request changes, by the field that `delegation` looked at; `None`: it changes nothing that a history keeps.
fn subject(operation: Operation, request: &NvList) -> Option<&str> {
    match operation {
        Operation::PoolImport | Operation::PoolDevice | Operation::PoolScrub => request.string("pool").ok(),
        Operation::DatasetSnap => request.strings("names").ok()?.first().map(String::as_str),
        Operation::PoolCreate | Operation::DatasetMake | Operation::DatasetChange | Operation::DatasetSet => request.string("name").ok(),
        _ => None,
    }
}

/// A command as the history has it: one line, and from a zone with the zone's name behind it, whatever its root says in it.
fn noted(command: &str, zone: ZoneId) -> String {
    let mut line: String = command.chars().take(COMMAND_MAX).map(|letter| if letter.is_control() { '?' } else { letter }).collect();
    if zone != ZoneId::GLOBAL {
        line.push_str(&zone::lookup(zone).map_or_else(|| String::from(" [zone]"), |zone| format!(" [zone {}]", zone.name())));
    }
    line
}

fn dispatch(operation: Operation, request: &NvList, zone: ZoneId) -> Answer {
    delegation::allow(zone, operation, request)?;
    let answer = carry_out(operation, request, zone)?;
    let may_be_dry = operation == Operation::PoolCreate || (operation == Operation::DatasetChange && request.opt_string("change")? == Some("destroy"));
    let is_dry = may_be_dry && flag(request, "dry")?;
    if let (Some(command), Some(name), false) = (request.opt_string("command")?, subject(operation, request), is_dry) {
        manage::note_history(name, &noted(command, zone));
    }
    Ok(answer)
}

fn carry_out(operation: Operation, request: &NvList, zone: ZoneId) -> Answer {
    let root = root_of(zone)?;
    let cred = Cred::root(zone);
    let cx = Cx { cred: &cred, root: &root, cwd: &root };
    let nothing = || Ok(NvList::new());
    match operation {
        Operation::PoolList => {
            let pools = match request.opt_string("pool")? {
                Some(name) => [manage::pool(name)?].into(),
                None => pool_fs::all(),
            };
            let pools = pools.iter().map(|pool| Ok(describe(&manage::status(pool)?))).collect::<Result<Vec<_>, Refusal>>()?;
            Ok(NvList::new().with("pools", pools))
        }
        Operation::PoolCreate => {
            let ashift = request.opt_number("ashift")?.map(|shift| u32::try_from(shift).unwrap_or(u32::MAX));
            if flag(request, "dry")? {
                manage::check_create(request.string("name")?, request.strings("vdevs")?, flag(request, "force")?)?;
                return nothing();
            }
            let pool = manage::create(request.string("name")?, request.strings("vdevs")?, ashift, flag(request, "force")?)?;
            manage::mount_all(&cx, &pool)?;
            Ok(NvList::new().with("guid", manage::status(&pool)?.guid))
        }
        Operation::PoolImport => {
            let Some(wanted) = request.opt_string("pool")? else {
                let found = manage::importable(flag(request, "destroyed")?).into_iter().map(|found| {
                    let list = NvList::new().with("name", found.name).with("guid", found.guid);
                    list.with("exported", u64::from(found.exported)).with("disks", found.disks)
                });
                return Ok(NvList::new().with("importable", found.collect::<Vec<_>>()));
            };
            let pool = manage::import(wanted, flag(request, "destroyed")?)?;
            manage::mount_all(&cx, &pool)?;
            nothing()
        }
        Operation::PoolExport => {
            manage::export(&cx, request.string("pool")?, flag(request, "destroy")?)?;
            nothing()
        }
        Operation::PoolDevice => {
            let pool = request.string("pool")?;
            let change = match request.string("change")? {
                "add" => {
                    manage::add(pool, request.strings("vdevs")?, flag(request, "force")?)?;
                    return nothing();
                }
                "remove" => {
                    manage::remove(pool, request.string("device")?)?;
                    return nothing();
                }
                "attach" => DeviceChange::Attach,
                "replace" => DeviceChange::Replace,
                "detach" => DeviceChange::Detach,
                "offline" => DeviceChange::Offline,
                "online" if flag(request, "expand")? => DeviceChange::Expand,
                "online" => DeviceChange::Online,
                "clear" => DeviceChange::Clear,
                other => return Err(Refusal::new(Code::Invalid, format!("'{other}' is not a change of a device"))),
            };
            match request.opt_string("device")? {
                None if change == DeviceChange::Clear => manage::clear(pool)?,
                None => return Err(Refusal::new(Code::Invalid, "which device?")),
                Some(device) => {
                    let (sequential, force) = (flag(request, "sequential")?, flag(request, "force")?);
                    let new = request.opt_string("new")?.map(|name| NewDevice { name, sequential, force });
                    manage::change_device(pool, change, device, new)?;
                }
            }
            nothing()
        }
        Operation::PoolScrub => {
            let change = match (flag(request, "stop")?, flag(request, "pause")?) {
                (true, _) => ScrubChange::Stop,
                (false, true) => ScrubChange::Pause,
                (false, false) => ScrubChange::Start,
            };
            manage::scrub(request.string("pool")?, change)?;
            nothing()
        }
        Operation::PoolHistory => {
            let lines = manage::history(request.string("pool")?)?.into_iter();
            let lines = lines.map(|line| NvList::new().with("time", line.time).with("text", line.text).with("internal", u64::from(line.internal)));
            Ok(NvList::new().with("lines", lines.collect::<Vec<_>>()))
        }
        Operation::StreamSend | Operation::StreamReceive => Err(Refusal::new(Code::Invalid, "streams go through an open descriptor")),
        _ => datasets::carry_out(&cx, operation, request, zone),
    }
}

fn describe(status: &Status) -> NvList {
    let mut vdevs = Vec::new();
    for (vdev, (size, allocated)) in status.vdevs.iter().zip(&status.space) {
        let at = vdevs.len();
        walk(vdev, 0, &mut vdevs);
        if let Some(top) = vdevs.get_mut(at) {
            top.set("size", *size);
            top.set("allocated", *allocated);
        }
    }
    NvList::new()
        .with("name", status.name.as_str())
        .with("guid", status.guid)
        .with("health", status.health.as_str())
        .with("size", status.size)
        .with("allocated", status.allocated)
        .with("scan", status.scan.as_str())
        .with("scanning", u64::from(status.scanning))
        .with("paused", u64::from(status.paused))
        .with("scan_errors", status.scan_errors)
        .with("suspended", u64::from(status.suspended))
        .with("age", status.age.0)
        .with("aside", status.aside.iter().map(beside).collect::<Vec<_>>())
        .with("vdevs", vdevs)
}

fn counted(list: NvList, counts: &LeafCounts) -> NvList {
    list.with("read", counts.read_errors)
        .with("write", counts.write_errors)
        .with("checksum", counts.checksum_errors)
        .with("reads", counts.reads)
        .with("writes", counts.writes)
        .with("bytes_read", counts.bytes_read)
        .with("bytes_written", counts.bytes_written)
}

/// A spare or cache device.
fn beside(device: &Aside) -> NvList {
    let list = NvList::new()
        .with("kind", device.kind)
        .with("name", device.name.trim_start_matches("/dev/"))
        .with("state", device.state)
        .with("size", device.size)
        .with("allocated", device.allocated);
    counted(list, &device.counts)
}

fn walk(vdev: &VdevStatus, depth: u64, out: &mut Vec<NvList>) {
    let counts = vdev.leaf.as_ref().map(|leaf| leaf.counts).unwrap_or_default();
    let list = NvList::new()
        .with("name", vdev.name.trim_start_matches("/dev/"))
        .with("guid", vdev.guid)
        .with("depth", depth)
        .with("state", vdev.state.name())
        .with("log", u64::from(vdev.is_log));
    out.push(counted(list, &counts));
    for child in &vdev.children {
        walk(child, depth + 1, out);
    }
}
