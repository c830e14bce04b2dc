//! The operations, one function each.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use control_abi::{Code, Operation};
use kif::ZoneId;
use nv::{NvList, Value};
use zone::rctl::{self, Rctl, Row, Unit};
use zone::{Brand, Config, Privileges, Uuid, Zone, ZoneError};

use crate::boot;
use crate::device::{Refusal, system};

type Answer = Result<NvList, Refusal>;

/// Longest host name (Linux `__NEW_UTS_LEN`).
const HOSTNAME_BYTES_MAX: usize = 64;

/// Runs an operation whose scope allows it.
pub(crate) fn run(operation: Operation, request: &NvList, viewer: ZoneId) -> Answer {
    match operation {
        Operation::ZoneCreate => zone_create(request),
        Operation::ZoneBoot => zone_boot(request),
        Operation::ZoneHalt => zone_halt(request),
        Operation::ZoneList => zone_list(viewer),
        Operation::ZoneGet => Ok(describe(&*zone_or_own(request, viewer)?)),
        Operation::ZoneSet => zone_set(request),
        Operation::ZoneEnter => boot::enter(&named_zone(request)?).map(|()| NvList::new()),
        Operation::RctlList => {
            let zone = zone_or_own(request, viewer)?;
            let rows = rctl::TABLE.iter().map(|row| describe_rctl(&zone, row)).collect::<Vec<_>>();
            Ok(NvList::new().with("rctls", rows))
        }
        Operation::RctlGet => {
            let zone = zone_or_own(request, viewer)?;
            Ok(describe_rctl(&zone, Rctl::from_name(request.string("name")?)?.row()))
        }
        Operation::RctlSet => {
            let zone = named_zone(request)?;
            let rctl = Rctl::from_name(request.string("name")?)?;
            let old = zone.rctl(rctl);
            zone.set_rctl(rctl, request.number("value")?)?;
            Ok(NvList::new().with("old", old))
        }
        Operation::KstatRead => kstat_read(request, viewer),
        Operation::CpuInfo => Ok(cpu_info()),
        Operation::PoolList
        | Operation::PoolCreate
        | Operation::PoolImport
        | Operation::PoolExport
        | Operation::PoolDevice
        | Operation::PoolScrub
        | Operation::PoolHistory
        | Operation::PoolGet
        | Operation::PoolSet
        | Operation::PoolTend
        | Operation::PoolFree
        | Operation::DatasetList
        | Operation::DatasetMake
        | Operation::DatasetSnap
        | Operation::DatasetMount
        | Operation::DatasetChange
        | Operation::DatasetSet
        | Operation::DatasetGet
        | Operation::DatasetHolds
        | Operation::DatasetDiff
        | Operation::DatasetSpace
        // Reached without a descriptor only: refused there.
        | Operation::StreamSend
        | Operation::StreamReceive => crate::pools::run(operation, request, viewer),
        Operation::HeapFailNth => {
            system().fail_nth(request.number("n")?);
            Ok(NvList::new())
        }
    }
}

impl From<ZoneError> for Refusal {
    fn from(error: ZoneError) -> Self {
        let code = match &error {
            ZoneError::BadName | ZoneError::BadValue { .. } | ZoneError::IsGlobal => Code::Invalid,
            ZoneError::NameTaken => Code::Exists,
            ZoneError::NoSuchZone | ZoneError::NoSuchRctl => Code::NotFound,
            ZoneError::NoFreeId | ZoneError::HookFailed(_) => Code::Limit,
            ZoneError::WrongState(_) => Code::State,
            ZoneError::Busy { .. } => Code::Busy,
        };
        Self::new(code, error)
    }
}

/// The zone that field `zone` names, by name (string) or id (number).
fn named_zone(request: &NvList) -> Result<Arc<Zone>, Refusal> {
    let found = match request.get("zone") {
        Some(Value::String(name)) => zone::lookup_name(name),
        Some(Value::Number(id)) => u32::try_from(*id).ok().and_then(|id| zone::lookup(ZoneId(id))),
        Some(other) => return Err(Refusal::new(Code::Invalid, format_args!("field 'zone' must be a string or a number, not a {}", other.kind()))),
        None => return Err(Refusal::new(Code::Invalid, "field 'zone' is missing")),
    };
    found.ok_or_else(|| ZoneError::NoSuchZone.into())
}

/// The same, with the caller's own zone if none is named. Outside the global zone only the own zone exists.
fn zone_or_own(request: &NvList, viewer: ZoneId) -> Result<Arc<Zone>, Refusal> {
    let zone = if request.get("zone").is_some() {
        named_zone(request)?
    } else {
        zone::lookup(viewer).ok_or(ZoneError::NoSuchZone)?
    };
    if viewer != ZoneId::GLOBAL && zone.id() != viewer {
        return Err(ZoneError::NoSuchZone.into());
    }
    Ok(zone)
}

fn zone_create(request: &NvList) -> Answer {
    let uuid = match request.opt_bytes("uuid")? {
        None => Uuid::default(),
        Some(bytes) => {
            Uuid(bytes.try_into().map_err(|_| Refusal::new(Code::Invalid, format_args!("a uuid has 16 bytes, not {}", bytes.len())))?)
        }
    };
    let name = request.string("name")?;
    let did = u32::try_from(request.opt_number("did")?.unwrap_or(0)).map_err(|_| Refusal::new(Code::Invalid, "field 'did' does not fit 32 bits"))?;
    let brand = request.opt_string("brand")?.unwrap_or(Brand::Lx.name());
    let brand = Brand::from_name(brand)
        .filter(|brand| *brand != Brand::Native)
        .ok_or_else(|| Refusal::new(Code::Invalid, format_args!("no brand '{brand}' for a zone")))?;
    let hostname = check_hostname(request.opt_string("hostname")?.unwrap_or(name))?.to_owned();
    let mut rctls = Vec::new();
    for entry in request.opt_lists("rctls")?.unwrap_or_default() {
        rctls.push((Rctl::from_name(entry.string("name")?)?, entry.number("value")?));
    }
    let mut lofs = Vec::new();
    for entry in request.opt_lists("lofs")?.unwrap_or_default() {
        lofs.push((entry.string("from")?.to_owned(), entry.string("to")?.to_owned()));
    }
    let root = request.string("root")?;
    if !root.starts_with('/') || root == "/" {
        return Err(Refusal::new(Code::Invalid, format_args!("root '{root}' must be an absolute path other than '/'")));
    }
    let config = Config {
        name: name.to_owned(),
        uuid,
        did,
        brand,
        hostname,
        root: root.to_owned(),
        privileges: Privileges::TENANT,
        rctls,
    };
    let [datasets, volumes] = [request.opt_strings("datasets")?, request.opt_strings("volumes")?].map(|list| list.unwrap_or_default().to_vec());
    crate::delegation::check(&datasets, &volumes)?;
    let zone = boot::create(config, &lofs)?;
    if let Err(refusal) = crate::delegation::delegate(&zone, datasets, volumes) {
        boot::halt(&zone)?;
        return Err(refusal);
    }
    Ok(NvList::new().with("id", zone.id().0))
}

fn zone_boot(request: &NvList) -> Answer {
    let zone = named_zone(request)?;
    crate::delegation::mount(&zone);
    let init = request.string("init")?;
    let args: Vec<String> = match request.opt_strings("args")? {
        Some(args) if !args.is_empty() => args.to_vec(),
        _ => [init.to_owned()].into(),
    };
    let pid = boot::boot(&zone, init, &args)?;
    Ok(NvList::new().with("pid", pid))
}

fn zone_halt(request: &NvList) -> Answer {
    halt_zone(&named_zone(request)?)
}

fn halt_zone(zone: &Arc<Zone>) -> Answer {
    boot::halt(zone)?;
    Ok(NvList::new())
}

fn zone_list(viewer: ZoneId) -> Answer {
    let seen = |zone: &Arc<Zone>| viewer == ZoneId::GLOBAL || zone.id() == viewer;
    let zones: Vec<NvList> = zone::live().iter().filter(|zone| seen(zone)).map(|zone| describe(zone)).collect();
    let mut reply = NvList::new().with("zones", zones);
    if viewer == ZoneId::GLOBAL {
        let lingering = zone::lingering().into_iter().map(|(id, name, references)| {
            NvList::new().with("id", id.0).with("name", name).with("references", references as u64)
        });
        reply.set("lingering", lingering.collect::<Vec<_>>());
    }
    Ok(reply)
}

fn zone_set(request: &NvList) -> Answer {
    let zone = named_zone(request)?;
    zone.set_hostname(check_hostname(request.string("hostname")?)?);
    Ok(NvList::new())
}

fn check_hostname(name: &str) -> Result<&str, Refusal> {
    let fits = !name.is_empty() && name.len() <= HOSTNAME_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(name).ok_or_else(|| {
        Refusal::new(Code::Invalid, format_args!("a host name has 1 to {HOSTNAME_BYTES_MAX} printable characters without spaces"))
    })
}

fn describe(zone: &Zone) -> NvList {
    let state = zone.state();
    let mut list = NvList::new()
        .with("id", zone.id().0)
        .with("name", zone.name())
        .with("state", alloc::format!("{state}"))
        .with("administrative", state.administrative())
        .with("root", zone.root())
        .with("uuid", zone.uuid().0.to_vec())
        .with("did", zone.did())
        .with("brand", zone.brand().name())
        .with("hostname", zone.hostname())
        .with("processes", zone.processes())
        .with("lwps", zone.rctl_usage(Rctl::MaxLwps).unwrap_or(0))
        .with("memory_bytes", kif::frames().charged_bytes(zone.id()))
        .with("boot_time", zone.booted_at_realtime().0 / 1_000_000_000);
    if let Some(pid) = zone.init_pid() {
        list.set("init_pid", pid);
    }
    list
}

fn describe_rctl(zone: &Zone, row: &Row) -> NvList {
    let unit = match row.unit {
        Unit::Shares => "shares",
        Unit::Percent => "percent",
        Unit::Count => "count",
        Unit::Bytes => "bytes",
    };
    let mut list = NvList::new()
        .with("name", row.name)
        .with("unit", unit)
        .with("value", zone.rctl(row.rctl))
        .with("least", row.least)
        .with("most", row.most)
        .with("denies", row.denies);
    if let Some(usage) = zone.rctl_usage(row.rctl) {
        list.set("usage", usage);
    }
    if let Some(unlimited) = row.unlimited {
        list.set("unlimited", unlimited);
    }
    list
}

fn kstat_read(request: &NvList, viewer: ZoneId) -> Answer {
    let module = request.opt_string("module")?;
    let instance = request.opt_number("instance")?;
    let name = request.opt_string("name")?;
    let class = request.opt_string("class")?;
    let chain = probe::chain_id();
    let snapshots = probe::snapshot(viewer, |m, i, n, c| {
        module.is_none_or(|wanted| wanted == m)
            && instance.is_none_or(|wanted| wanted == u64::from(i))
            && name.is_none_or(|wanted| wanted == n)
            && class.is_none_or(|wanted| wanted == c)
    });
    let kstats = snapshots.into_iter().map(|snapshot| {
        let mut data = NvList::new();
        for (name, value) in snapshot.fields {
            let value = match value {
                probe::Value::U64(value) => Value::Number(value),
                probe::Value::I64(value) => Value::Signed(value),
                probe::Value::String(value) => Value::String(value),
            };
            data.set(&name, value);
        }
        NvList::new()
            .with("module", snapshot.module)
            .with("instance", snapshot.instance)
            .with("name", snapshot.name)
            .with("class", snapshot.class)
            .with("created", snapshot.created.0)
            .with("taken", snapshot.taken.0)
            .with("data", data)
    });
    Ok(NvList::new().with("chain", chain).with("kstats", kstats.collect::<Vec<_>>()))
}

fn cpu_info() -> NvList {
    let cpus = system().cpus().into_iter().map(|cpu| {
        NvList::new()
            .with("id", cpu.id)
            .with("state", "on-line")
            .with("since", cpu.since.0)
            .with("brand", cpu.brand)
            .with("mhz", cpu.mhz)
    });
    NvList::new().with("cpus", cpus.collect::<Vec<_>>())
}
