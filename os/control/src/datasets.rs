//! Operations on file systems, volumes, snapshots and bookmarks: requests into `pool_fs::manage`, answers out of it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use control_abi::{Code, OUT_MAX, Operation};
use kif::ZoneId;
use nv::NvList;
use pool_dmu::{DatasetKind, Holder};
use pool_fs::manage::{self, Comparing, DiffForm, Extent, NewValue, NewVolume, Rename, Room};
use pool_fs::streams::abort_receive;
use pool_fs::zones;
use vfs::Cx;

use crate::device::Refusal;
use crate::pools::{Answer, flag, pairs};

/// Carries out an operation on datasets.
pub(crate) fn carry_out(cx: &Cx<'_>, operation: Operation, request: &NvList, zone: ZoneId) -> Answer {
    let nothing = || Ok(NvList::new());
    match operation {
        Operation::DatasetList => dataset_list(request, zone),
        Operation::DatasetMake => {
            let properties = pairs(request, "properties")?;
            let name = request.string("name")?;
            if flag(request, "parents")? {
                manage::create_above(cx, name)?;
                if manage::is_there(name)? {
                    return nothing();
                }
            }
            match (request.opt_string("origin")?, request.opt_string("volsize")?) {
                (Some(origin), _) => manage::clone_dataset(cx, origin, name, &properties)?,
                (None, Some(size)) => {
                    let new = NewVolume { size, block_size: request.opt_string("volblocksize")?, sparse: flag(request, "sparse")? };
                    manage::create_volume(cx, name, new, &properties)?;
                }
                (None, None) => manage::create_dataset(cx, name, &properties)?,
            }
            nothing()
        }
        Operation::DatasetSnap => {
            manage::snapshot(request.strings("names")?, flag(request, "recursive")?)?;
            nothing()
        }
        Operation::DatasetChange => change(cx, request),
        Operation::DatasetSet => {
            let value = match request.opt_string("value")? {
                Some(text) => NewValue::Text(text),
                None if flag(request, "received")? => NewValue::Received,
                None => NewValue::Inherited,
            };
            manage::set(cx, request.string("name")?, request.string("property")?, value)?;
            nothing()
        }
        Operation::DatasetGet => {
            let values = manage::get(request.string("name")?, request.opt_strings("properties")?.unwrap_or_default(), flag(request, "recursive")?, &mut room())?;
            let list = values.into_iter().map(|one| {
                let list = NvList::new().with("dataset", one.dataset).with("property", one.property);
                list.with("value", one.value).with("exact", one.exact).with("source", one.source).with("received", one.received).with("kind", one.kind)
            });
            Ok(NvList::new().with("values", list.collect::<Vec<_>>()))
        }
        Operation::DatasetHolds => {
            let mut holds = Vec::new();
            for name in request.strings("names")? {
                let found = manage::holds(name)?.into_iter();
                holds.extend(found.map(|(tag, time)| NvList::new().with("snapshot", name.as_str()).with("tag", tag).with("time", time)));
            }
            Ok(NvList::new().with("holds", holds))
        }
        Operation::DatasetSpace => {
            let holder = match request.string("of")? {
                "user" => Holder::User,
                "group" => Holder::Group,
                "project" => Holder::Project,
                other => return Err(Refusal::new(Code::Invalid, format!("'{other}' is neither user, group nor project"))),
            };
            let (found, next) = manage::holdings(request.string("name")?, holder, request.opt_number("from")?.unwrap_or(0))?;
            let holdings = found.into_iter().map(|one| {
                let mut list = NvList::new().with("id", one.id);
                for (field, value) in [("used", one.used), ("quota", one.quota), ("objects", one.objects), ("object_quota", one.object_quota)] {
                    if let Some(value) = value {
                        list.set(field, value);
                    }
                }
                list
            });
            let mut reply = NvList::new().with("holdings", holdings.collect::<Vec<_>>());
            if let Some(next) = next {
                reply.set("next", next);
            }
            Ok(reply)
        }
        _ => {
            let name = request.string("name")?;
            let pool = manage::pool_of(name)?;
            if flag(request, "unmount")? {
                manage::unmount(cx, &pool, name)?;
            } else {
                manage::mount_with(cx, &pool, name, request.opt_strings("options")?.unwrap_or_default())?;
            }
            nothing()
        }
    }
}

/// The next part of a comparison.
pub(crate) fn diff(comparing: &Comparing, request: &NvList) -> Answer {
    let form = DiffForm { kinds: flag(request, "kinds")?, script: flag(request, "script")?, times: flag(request, "times")? };
    let (text, place) = comparing.part(request.string("name")?, request.opt_string("to")?, request.opt_number("place")?.unwrap_or(0), form)?;
    let mut reply = NvList::new().with("text", text);
    if let Some(place) = place {
        reply.set("place", place);
    }
    Ok(reply)
}

fn change(cx: &Cx<'_>, request: &NvList) -> Answer {
    let name = request.string("name")?;
    let (recursive, clones) = (flag(request, "recursive")?, flag(request, "clones")?);
    let one = [name.to_string()];
    match request.string("change")? {
        "destroy" => {
            let extent = match (recursive, clones) {
                (_, true) => Extent::Clones,
                (true, false) => Extent::Below,
                (false, false) => Extent::One,
            };
            if flag(request, "dry")? {
                return Ok(NvList::new().with("names", manage::would_go(name, extent)?));
            }
            manage::destroy(cx, name, extent, flag(request, "defer")?)?;
        }
        "rollback" => manage::rollback(cx, name, recursive, clones)?,
        "promote" => manage::promote(name)?,
        "rename" => {
            let to = request.string("to")?;
            if flag(request, "parents")? {
                manage::create_above(cx, to)?;
            }
            manage::rename(cx, name, to, Rename { recursive, unmounted: flag(request, "unmounted")? })?;
        }
        "hold" => manage::hold(&one, request.string("to")?, false)?,
        "release" => manage::hold(&one, request.string("to")?, true)?,
        "abort-receive" => abort_receive(name)?,
        "bookmark" => manage::bookmark(name, request.string("to")?)?,
        other => return Err(Refusal::new(Code::Invalid, format!("'{other}' is not a change of a dataset"))),
    }
    Ok(NvList::new())
}

/// Room for the longest answer.
fn room() -> Room {
    Room::new(usize::try_from(OUT_MAX).unwrap_or(usize::MAX))
}

fn dataset_list(request: &NvList, zone: ZoneId) -> Answer {
    let mut out = Vec::new();
    let names: Vec<String> = match (request.opt_string("name")?, zones::delegated(zone)) {
        (Some(name), _) => [name.to_string()].into(),
        (None, Some(tops)) => {
            // Of what is above them the names are to be seen, and no more.
            let above: BTreeSet<&str> = tops.iter().flat_map(|top| top.match_indices('/').map(|(at, _)| &top[..at])).collect();
            out.extend(above.into_iter().map(|name| NvList::new().with("name", name).with("kind", "filesystem")));
            tops
        }
        (None, None) => pool_fs::all().iter().map(|pool| pool.name().to_string()).collect(),
    };
    let mut room = room();
    for name in names {
        let infos = manage::datasets(&name, &mut room)?;
        let listed = manage::lists_snapshots(&name)?;
        // Of snapshots there is nothing available.
        let available: BTreeMap<String, u64> = manage::get(&name, &[String::from("available")], true, &mut self::room())?.into_iter().filter_map(|one| Some((one.dataset, one.exact.parse().ok()?))).collect();
        for info in infos {
            let mut list = NvList::new()
                .with("name", info.name.as_str())
                .with("kind", manage::kind_word(info.kind))
                .with("used", info.used_bytes)
                .with("referenced", info.dataset.referenced_bytes)
                .with("created", info.dataset.creation_time);
            if info.kind == DatasetKind::Snapshot && listed {
                list.set("listed", 1_u64);
            }
            if manage::is_mounted(&info)? {
                list.set("mounted", 1_u64);
            }
            if let Some(available) = available.get(&info.name) {
                list.set("available", *available);
            }
            if let Some(origin) = &info.origin {
                list.set("origin", origin.as_str());
            }
            if info.kind == DatasetKind::Filesystem
                && let Some(at) = manage::mountpoint_of(&info.name)?
            {
                list.set("mountpoint", at);
            }
            out.push(list);
            if flag(request, "bookmarks")? && info.kind != DatasetKind::Snapshot {
                let marks = manage::bookmarks(&info.name, &mut room)?.into_iter();
                out.extend(marks.map(|(name, created)| NvList::new().with("name", name).with("kind", "bookmark").with("created", created)));
            }
        }
    }
    Ok(NvList::new().with("datasets", out))
}
