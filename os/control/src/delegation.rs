//! What a zone's administrator may do with the pools: what was delegated to the zone, and nothing above it (pool reference, section 3.2).
//!
//! A zone has the data sets of its configuration from its making to its end. They are `zoned`: mounted in the zone, below its root, and nowhere else. Its administrator
//! makes, changes, snapshots, sends and destroys what is below them; of the uppermost ones the limits, name and life are the global zone's. Every name in a request is
//! looked at here before the request is carried out.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use control_abi::{Code, Operation};
use kif::ZoneId;
use nv::NvList;
use pool_fs::manage::NewValue;
use pool_fs::{manage, zones};
use vfs::{Cred, Cx};
use zone::Zone;

use crate::boot;
use crate::device::{Refusal, system};

/// Properties of the uppermost data set that bind its zone.
const LIMITS: [&str; 7] = ["quota", "reservation", "refquota", "refreservation", "filesystem_limit", "snapshot_limit", "volsize"];

/// Runs `body` where the pool's code has room.
pub(crate) fn with_room<R>(body: impl FnOnce() -> Result<R, Refusal>) -> Result<R, Refusal> {
    kif::on_large_stack(body).unwrap_or_else(|_| Err(Refusal::new(Code::Limit, "no memory for the pool's work")))
}

/// Whether what is to be delegated is there.
pub(crate) fn check(datasets: &[String], volumes: &[String]) -> Result<(), Refusal> {
    if datasets.is_empty() && volumes.is_empty() {
        return Ok(());
    }
    with_room(|| {
        for name in datasets.iter().chain(volumes) {
            if !manage::is_there(name)? {
                return Err(Refusal::new(Code::NotFound, format!("{name}: no such dataset to delegate; make it first, or take it out of the zone's configuration")));
            }
        }
        if let Some(pool) = datasets.iter().find(|name| !name.contains('/')) {
            return Err(Refusal::new(Code::Invalid, format!("{pool}: a whole pool is not delegated; make a file system in it")));
        }
        // What one zone administers no other has a part of: neither all around it, nor something inside.
        let other = zone::live().into_iter().filter(|zone| zone.id() != ZoneId::GLOBAL).find_map(|zone| {
            let taken = zones::overlap(zone.id(), datasets, volumes)?;
            Some(Refusal::new(Code::Busy, format!("{taken}: delegated to zone {} already, or a part of it is", zone.name())))
        });
        other.map_or(Ok(()), Err)
    })
}

/// Gives a zone its data sets and volumes: from now on they are mounted in it only.
pub(crate) fn delegate(zone: &Arc<Zone>, datasets: Vec<String>, volumes: Vec<String>) -> Result<(), Refusal> {
    if datasets.is_empty() && volumes.is_empty() {
        return Ok(());
    }
    with_room(|| {
        let root = system().global_root();
        let cred = Cred::root(ZoneId::GLOBAL);
        let cx = Cx { cred: &cred, root: &root, cwd: &root };
        for name in &datasets {
            manage::set(&cx, name, "zoned", NewValue::Text("on"))?;
        }
        zones::give(zone.id(), datasets, volumes);
        Ok(())
    })
}

/// Mounts what was delegated, where the zone has it. What cannot be mounted is said and left.
pub(crate) fn mount(zone: &Arc<Zone>) {
    let datasets = zones::delegated(zone.id()).unwrap_or_default();
    if datasets.is_empty() {
        return;
    }
    let done = with_room(|| {
        let root = boot::root_of(zone)?;
        let cred = Cred::root(zone.id());
        let cx = Cx { cred: &cred, root: &root, cwd: &root };
        Ok(datasets.iter().try_for_each(|name| manage::mount_below(&cx, name))?)
    });
    if let Err(refusal) = done {
        kif::log().line(format_args!("zone {}: {}", zone.name(), refusal.message));
    }
}

fn denied(what: impl core::fmt::Display) -> Refusal {
    Refusal::new(Code::Denied, what)
}

/// `name` has to be among what the zone administers.
fn inside(zone: ZoneId, name: &str) -> Result<(), Refusal> {
    // What is not the zone's is not there for it.
    if zones::administers(zone, name) { Ok(()) } else { Err(Refusal::new(Code::NotFound, format!("{name}: no such dataset in this zone"))) }
}

/// It has to be below what was delegated.
fn below(zone: ZoneId, name: &str) -> Result<(), Refusal> {
    inside(zone, name)?;
    if zones::is_top(zone, name) { Err(denied(format!("{name}: it was delegated to this zone: what becomes of it is for the global zone"))) } else { Ok(()) }
}

/// Refuses a property that a zone does not set.
fn property(zone: ZoneId, name: &str, property: &str) -> Result<(), Refusal> {
    match pool_dmu::full_name(property) {
        "zoned" => Err(denied("zoned is set by the global zone")),
        limit if LIMITS.contains(&limit) && zones::is_top(zone, name) => Err(denied(format!("{name}: {limit} of what was delegated is set by the global zone; set it below"))),
        _ => Ok(()),
    }
}

/// Looks at a request of root of `zone`.
///
/// # Errors
/// Something that was not delegated, or is not for a zone.
pub(crate) fn allow(zone: ZoneId, operation: Operation, request: &NvList) -> Result<(), Refusal> {
    if zone == ZoneId::GLOBAL {
        return Ok(());
    }
    let name = || request.string("name").map_err(Refusal::from);
    match operation {
        Operation::DatasetList => request.opt_string("name")?.map_or(Ok(()), |name| inside(zone, name)),
        Operation::DatasetGet | Operation::DatasetMount | Operation::DatasetSpace => inside(zone, name()?),
        Operation::DatasetDiff => {
            inside(zone, name()?)?;
            // A short name is of the same file system.
            request.opt_string("to")?.filter(|to| !to.starts_with('@')).map_or(Ok(()), |to| inside(zone, to))
        }
        Operation::DatasetMake => {
            let name = name()?;
            below(zone, name)?;
            request.opt_string("origin")?.map_or(Ok(()), |origin| inside(zone, origin))?;
            for pair in request.opt_strings("properties")?.unwrap_or_default() {
                property(zone, name, pair.split('=').next().unwrap_or(pair))?;
            }
            Ok(())
        }
        Operation::DatasetSnap | Operation::DatasetHolds => request.strings("names")?.iter().try_for_each(|name| inside(zone, name)),
        Operation::DatasetSet => {
            inside(zone, name()?)?;
            property(zone, name()?, request.string("property")?)
        }
        Operation::DatasetChange => {
            let name = name()?;
            let to = request.opt_string("to")?;
            match request.string("change")? {
                "destroy" => {
                    // A snapshot of the uppermost is the zone's to destroy.
                    if name.contains(['@', '#']) { inside(zone, name)? } else { below(zone, name)? }
                    // Clones of it may be others'.
                    manage::dependents_of(name)?.iter().try_for_each(|other| inside(zone, other))
                }
                "promote" => {
                    below(zone, name)?;
                    // What it came from may be another's.
                    manage::origin_of(name)?.iter().try_for_each(|origin| inside(zone, origin))
                }
                "rename" => {
                    below(zone, name)?;
                    below(zone, to.unwrap_or(name))
                }
                "bookmark" => {
                    inside(zone, name)?;
                    inside(zone, to.unwrap_or(name))
                }
                // The second name is a tag.
                _ => inside(zone, name),
            }
        }
        Operation::StreamSend => {
            let token = request.opt_string("token")?.and_then(pool_stream::Token::decode).map(|token| token.name);
            // A base by its short name is of the same data set.
            let from = request.opt_string("from")?.filter(|from| from.find(['@', '#']).is_some_and(|at| at > 0));
            [token.as_deref(), request.opt_string("to")?, from].into_iter().flatten().try_for_each(|name| inside(zone, name))
        }
        Operation::StreamReceive => {
            let Some(target) = request.opt_string("target")? else { return Ok(()) };
            let target = target.split('@').next().unwrap_or(target);
            below(zone, target)?;
            let own = request.opt_strings("properties")?.unwrap_or_default().iter().map(|pair| pair.split('=').next().unwrap_or(pair));
            let excluded = request.opt_strings("excluded")?.unwrap_or_default().iter().map(String::as_str);
            own.chain(excluded).try_for_each(|name| property(zone, target, name))
        }
        _ => Err(denied("this is for the global zone")),
    }
}
