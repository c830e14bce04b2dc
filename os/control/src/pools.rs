//! Operations on pools: requests into `pool_fs::manage`, answers out of it. Those on datasets are in `datasets`.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use control_abi::{Code, Operation};
use kif::ZoneId;
use nv::NvList;
use pool_dmu::FreeAt;
use pool_fs::Storage;
use pool_fs::manage::{self, Aside, Comparing, CreateRequest, DeviceChange, ImportRequest, NewDevice, Refused, ScrubChange, Status};
use pool_fs::streams::{ReceiveRequest, Receiving, Sending};
use pool_spa::{FreeWork, LeafCounts, VdevStatus};
use pool_stream::{Naming, PackageOptions, SendOptions};
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
    /// Lines about what differs.
    Differences(Comparing),
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
    if operation == Operation::DatasetDiff {
        if let Some(Stream::Differences(comparing)) = slot {
            return datasets::diff(comparing, request);
        }
        let comparing = Comparing::new();
        let part = datasets::diff(&comparing, request)?;
        if slot.is_none() {
            *slot = Some(Stream::Differences(comparing));
        }
        return Ok(part);
    }
    if operation == Operation::StreamSend {
        if let Some(token) = request.opt_string("token")? {
            *slot = Some(Stream::Out(Box::new(Sending::resume(token)?)));
            return Ok(NvList::new());
        }
        if let Some(to) = request.opt_string("to")? {
            let [replicate, intermediate, properties] = [flag(request, "replicate")?, flag(request, "intermediate")?, flag(request, "properties")?];
            let send = SendOptions { embed: flag(request, "embed")?, large_blocks: flag(request, "large_blocks")?, compressed: flag(request, "compressed")? };
            let options = PackageOptions { replicate, intermediate, properties: properties || replicate, send };
            *slot = Some(Stream::Out(Box::new(Sending::start(to, request.opt_string("from")?, options)?)));
            return Ok(NvList::new());
        }
        let Some(Stream::Out(sending)) = slot else { return Err(none()) };
        let mut reply = NvList::new().with("data", sending.piece()?);
        if let Some(name) = sending.current() {
            reply.set("name", name);
        }
        return Ok(reply);
    }
    if let Some(target) = request.opt_string("target")? {
        let naming = match request.opt_string("naming")? {
            None => Naming::Exact,
            Some("drop-pool") => Naming::DropPool,
            Some("last-part") => Naming::LastPart,
            Some(other) => return Err(Refusal::new(Code::Invalid, format!("'{other}' is no way to name what is received"))),
        };
        let how = ReceiveRequest {
            force: flag(request, "force")?,
            resumable: flag(request, "resumable")?,
            unmounted: flag(request, "unmounted")?,
            dry: flag(request, "dry")?,
            properties: pairs(request, "properties")?,
            excluded: request.opt_strings("excluded")?.unwrap_or_default().to_vec(),
        };
        *slot = Some(Stream::In(Box::new(Receiving::start(&cx, target, naming, how)?)));
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
fn subject<'l>(operation: Operation, request: &'l NvList, answer: &'l NvList) -> Option<&'l str> {
    match operation {
        Operation::PoolImport => answer.string("name").ok(),
        Operation::PoolTend if request.string("change") == Ok("sync") => None,
        Operation::PoolDevice | Operation::PoolScrub | Operation::PoolSet | Operation::PoolTend => request.string("pool").ok(),
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
    let may_be_dry = matches!(operation, Operation::PoolCreate | Operation::PoolImport | Operation::PoolTend) || (operation == Operation::DatasetChange && request.opt_string("change")? == Some("destroy"));
    let is_dry = may_be_dry && flag(request, "dry")?;
    if let (Some(command), Some(name), false) = (request.opt_string("command")?, subject(operation, request, &answer), is_dry) {
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
            let pools = asked(request)?;
            let pools = pools.iter().map(|pool| Ok(describe(&manage::status(pool)?))).collect::<Result<Vec<_>, Refusal>>()?;
            Ok(NvList::new().with("pools", pools))
        }
        Operation::PoolCreate => {
            let (properties, dataset_properties) = (pairs(request, "properties")?, pairs(request, "dataset_properties")?);
            let new = CreateRequest {
                name: request.string("name")?,
                words: request.strings("vdevs")?,
                force: flag(request, "force")?,
                properties: &properties,
                dataset_properties: &dataset_properties,
                altroot: request.opt_string("altroot")?,
            };
            if flag(request, "dry")? {
                manage::check_create(&new)?;
                return nothing();
            }
            let pool = manage::create(&new)?;
            manage::mount_all(&cx, &pool)?;
            Ok(NvList::new().with("guid", manage::status(&pool)?.guid))
        }
        Operation::PoolImport => import(&cx, request),
        Operation::PoolExport => {
            manage::export(&cx, request.string("pool")?, flag(request, "destroy")?, flag(request, "force")?)?;
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
                None if change == DeviceChange::Clear && manage::pool(pool)?.is_suspended() => manage::resume(&cx, pool)?,
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
        Operation::PoolGet => properties(request),
        Operation::PoolSet => {
            manage::set_pool_property(request.string("pool")?, request.string("property")?, request.string("value")?)?;
            nothing()
        }
        Operation::PoolTend => tend(&cx, request),
        Operation::PoolFree => free_space(request),
        Operation::PoolHistory => {
            let lines = manage::history(request.string("pool")?)?.into_iter();
            let lines = lines.map(|line| NvList::new().with("time", line.time).with("text", line.text).with("internal", u64::from(line.internal)).with("who", line.who).with("host", line.host).with("zone", line.zone));
            Ok(NvList::new().with("lines", lines.collect::<Vec<_>>()))
        }
        Operation::StreamSend | Operation::StreamReceive | Operation::DatasetDiff => Err(Refusal::new(Code::Invalid, "streams go through an open descriptor")),
        _ => datasets::carry_out(&cx, operation, request, zone),
    }
}

/// `NAME=VALUE` words of a request.
pub(crate) fn pairs(request: &NvList, field: &str) -> Result<Vec<(String, String)>, Refusal> {
    let words = request.opt_strings(field)?.unwrap_or_default();
    let pair = |word: &String| {
        let (name, value) = word.split_once('=').ok_or_else(|| Refusal::new(Code::Invalid, format!("'{word}' is not NAME=VALUE")))?;
        Ok((String::from(name), String::from(value)))
    };
    words.iter().map(pair).collect()
}

fn import(cx: &Cx<'_>, request: &NvList) -> Answer {
    let destroyed = flag(request, "destroyed")?;
    let Some(wanted) = request.opt_string("pool")? else {
        let found = manage::importable(destroyed).into_iter().map(|found| {
            let list = NvList::new().with("name", found.name).with("guid", found.guid).with("exported", u64::from(found.exported)).with("disks", found.disks);
            if let Some(host) = found.host { list.with("host", host) } else { list }
        });
        return Ok(NvList::new().with("importable", found.collect::<Vec<_>>()));
    };
    let properties = pairs(request, "properties")?;
    let asked = ImportRequest {
        wanted,
        destroyed,
        force: flag(request, "force")?,
        new_name: request.opt_string("to")?,
        for_now: flag(request, "for_now")?,
        altroot: request.opt_string("altroot")?,
        read_only: flag(request, "read_only")?,
        rewind: flag(request, "rewind")?,
        without_log: flag(request, "without_log")?,
        at_most: request.opt_number("at_most")?,
    };
    for (name, value) in &properties {
        pool_dmu::parse_pool_property(name, value).map_err(|why| Refusal::new(Code::Invalid, why))?;
    }
    if flag(request, "dry")? {
        let (txg, newer) = manage::check_import(&asked)?;
        return Ok(NvList::new().with("txg", txg).with("newer", newer));
    }
    let pool = manage::import(&asked)?;
    for (name, value) in &properties {
        manage::set_pool_property(pool.name(), name, value)?;
    }
    if !flag(request, "unmounted")? {
        manage::mount_all(cx, &pool)?;
    }
    Ok(NvList::new().with("name", pool.name()))
}

/// The pool that a request names, or all.
fn asked(request: &NvList) -> Result<Vec<Arc<Storage>>, Refusal> {
    Ok(match request.opt_string("pool")? {
        Some(name) => [manage::pool(name)?].into(),
        None => pool_fs::all(),
    })
}

fn properties(request: &NvList) -> Answer {
    let mut out = Vec::new();
    for pool in asked(request)? {
        let values = manage::pool_properties(&pool)?.into_iter().map(|one| {
            let list = NvList::new().with("property", one.name).with("value", one.value);
            list.with("exact", one.exact).with("source", one.source)
        });
        let lacking: Vec<String> = manage::upgrade(pool.name(), false).unwrap_or_default().into_iter().map(String::from).collect();
        out.push(NvList::new().with("name", pool.name()).with("values", values.collect::<Vec<_>>()).with("lacking", lacking));
    }
    let features: Vec<String> = pool_dmu::own_features().map(|(name, text)| format!("{name} {text}")).collect();
    Ok(NvList::new().with("pools", out).with("features", features))
}

fn tend(cx: &Cx<'_>, request: &NvList) -> Answer {
    let devices = request.opt_strings("devices")?.unwrap_or_default();
    let pool = || request.string("pool");
    match request.string("change")? {
        "sync" => manage::sync(pool()?)?,
        "reguid" => drop(manage::reguid(pool()?)?),
        "reopen" => manage::reopen(pool()?)?,
        "resilver" => manage::resilver(pool()?)?,
        "upgrade" => {
            let new: Vec<String> = manage::upgrade(pool()?, true)?.into_iter().map(String::from).collect();
            return Ok(NvList::new().with("features", new));
        }
        "split" => {
            let gone = manage::split(cx, pool()?, request.string("to")?, devices, request.opt_string("altroot")?, flag(request, "dry")?)?;
            return Ok(NvList::new().with("devices", gone));
        }
        "clear-label" => devices.iter().try_for_each(|device| manage::clear_labels(device, flag(request, "force").unwrap_or(false)))?,
        other => return Err(Refusal::new(Code::Invalid, format!("'{other}' is not a change of a pool"))),
    }
    Ok(NvList::new())
}

fn free_space(request: &NvList) -> Answer {
    let work = match request.string("work")? {
        "trim" => FreeWork::Discard,
        "initialize" => FreeWork::Overwrite,
        other => return Err(Refusal::new(Code::Invalid, format!("'{other}' is no work on free space"))),
    };
    let at = FreeAt { vdev: request.opt_number("vdev")?.unwrap_or(0), offset: request.opt_number("offset")?.unwrap_or(0) };
    let step = manage::work_on_free(request.string("pool")?, work, request.opt_string("device")?, at)?;
    let out = NvList::new().with("bytes", step.bytes).with("unable", step.unable);
    Ok(if let Some(next) = step.next { out.with("vdev", next.vdev).with("offset", next.offset) } else { out })
}

fn describe(status: &Status) -> NvList {
    let mut vdevs = Vec::new();
    for ((vdev, (size, allocated)), fragmentation) in status.vdevs.iter().zip(&status.space).zip(&status.fragmentation) {
        let at = vdevs.len();
        walk(vdev, 0, &mut vdevs);
        if let Some(top) = vdevs.get_mut(at) {
            top.set("size", *size);
            top.set("allocated", *allocated);
            top.set("fragmentation", *fragmentation);
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
        .with("leaf", 1_u64)
        .with("guid", device.guid)
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
        .with("leaf", u64::from(vdev.leaf.is_some()))
        .with("log", u64::from(vdev.is_log));
    out.push(counted(list, &counts));
    for child in &vdev.children {
        walk(child, depth + 1, out);
    }
}
