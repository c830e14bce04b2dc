//! File systems, volumes, snapshots, bookmarks: made, renamed, rolled back, destroyed.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use pool_dmu::edit::EditError;
use pool_dmu::{DatasetInfo, DatasetKind, Datasets, Store};
use pool_zpl::{NewEntry, Zvol, create_filesystem};
use vfs::Cx;

use super::mounts::{filesystems, is_automatic, is_for, mount_one, unmount_list, without_mounts};
use super::pools::pool_of;
use super::properties::{Room, put_property};
use super::{Refused, Result, alone, edit, failed};
use crate::storage::now;
use crate::{Storage, volume, zones};

/// Datasets and snapshots at and below `name`, with what `zfs list` shows. There is `room` for them.
///
/// # Errors
/// See [`Refused`].
pub fn datasets(name: &str, room: &mut Room) -> Result<Vec<DatasetInfo>> {
    let pool = pool_of(name)?;
    // What is open is not in the tree on disk yet.
    pool.settle().map_err(|error| failed(name, error))?;
    edit(&pool, name, |store| {
        let infos = room.list(&Datasets::open(store.pool())?, name)?;
        room.take(infos.iter().map(|info| Room::DATASET + info.name.len()).sum())?;
        Ok(infos)
    })
}

/// Refuses names that are not for operators: a part that begins with `%` is a receive's, half done.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.split(['/', '@', '#']).any(|part| part.starts_with('%')) {
        return Err(Refused::Invalid(format!("{name}: a name does not begin with %")));
    }
    Ok(())
}

/// Makes a file system with properties, and mounts it. Nothing is left of one whose properties are refused.
///
/// # Errors
/// See [`Refused`].
pub fn create_dataset(cx: &Cx<'_>, name: &str, properties: &[(String, String)]) -> Result<()> {
    check_name(name)?;
    let _alone = alone();
    let pool = pool_of(name)?;
    let made = edit(&pool, name, |store| {
        create_filesystem(store, name, &NewEntry { mode: 0o755, uid: 0, gid: 0, now: now() })?;
        store.commit(now().0)
    });
    made.map_err(|refusal| orphan(refusal, name))?;
    finish_new(cx, &pool, name, properties)
}

/// Makes `name` with the contents of snapshot `origin`, whatever their size, and mounts it.
///
/// # Errors
/// See [`Refused`].
pub fn clone_dataset(cx: &Cx<'_>, origin: &str, name: &str, properties: &[(String, String)]) -> Result<()> {
    check_name(name)?;
    let _alone = alone();
    let pool = pool_of(name)?;
    edit(&pool, name, |store| store.clone_dataset(origin, name, now().0))?;
    finish_new(cx, &pool, name, properties)
}

/// Size and form of a volume to be made, as words.
#[derive(Clone, Copy, Debug)]
pub struct NewVolume<'w> {
    pub size: &'w str,
    /// `None`: as OpenZFS has it.
    pub block_size: Option<&'w str>,
    /// Nothing is reserved for it.
    pub sparse: bool,
}

/// A size in words.
pub(super) fn bytes(what: &str, text: &str) -> Result<u64> {
    pool_dmu::parse_size(text).ok_or_else(|| Refused::Invalid(format!("{what}: '{text}' is not a size; write for example 256M")))
}

/// Makes a volume with properties. Nothing is left of one whose properties are refused.
///
/// # Errors
/// See [`Refused`].
pub fn create_volume(cx: &Cx<'_>, name: &str, new: NewVolume<'_>, properties: &[(String, String)]) -> Result<()> {
    check_name(name)?;
    let _alone = alone();
    let pool = pool_of(name)?;
    let block_size = new.block_size.map_or(Ok(pool_zpl::BLOCK_DEFAULT), |text| bytes(name, text))?;
    // OpenZFS rounds up what is no multiple of the block size.
    let size = bytes(name, new.size)?.checked_next_multiple_of(block_size.max(1)).unwrap_or(u64::MAX);
    let made = edit(&pool, name, |store| {
        pool_zpl::check_size(size, block_size)?;
        let made = Zvol::create(store, name, size, block_size, new.sparse, now().0);
        if made.is_err() && store.find(name).is_ok() && !matches!(made, Err(EditError::Exists)) {
            // The reservation was refused: it is not there.
            store.destroy_dataset(name, now().0)?;
        }
        made?;
        store.commit(now().0)
    });
    made.map_err(|refusal| orphan(refusal, name))?;
    finish_new(cx, &pool, name, properties)
}

/// A dataset to be made in one that is not there.
fn orphan(refusal: Refused, name: &str) -> Refused {
    match (refusal, name.rsplit_once('/')) {
        (Refused::NotFound(_), Some((parent, _))) => Refused::NotFound(format!("{name}: there is no {parent} to make it in; make that first, or with -p")),
        (refusal, _) => refusal,
    }
}

/// Whether there is a dataset of this name.
///
/// # Errors
/// See [`Refused`].
pub fn is_there(name: &str) -> Result<bool> {
    edit(&*pool_of(name)?, name, |store| Ok(store.find(name).is_ok()))
}

/// Makes those above `name` that are not there.
///
/// # Errors
/// See [`Refused`].
pub fn create_above(cx: &Cx<'_>, name: &str) -> Result<()> {
    for (at, _) in name.match_indices('/') {
        let above = &name[..at];
        if !is_there(above)? {
            create_dataset(cx, above, &[])?;
        }
    }
    Ok(())
}

pub(super) fn finish_new(cx: &Cx<'_>, pool: &Arc<Storage>, name: &str, properties: &[(String, String)]) -> Result<()> {
    for (property, text) in properties {
        if let Err(refusal) = put_property(pool, name, property, text) {
            edit(pool, name, |store| store.destroy_dataset(name, now().0))?;
            return Err(refusal);
        }
    }
    mount_new(cx, pool, name)
}

/// Mounts a new file system, unless it is one that is mounted by name only, or none.
pub(crate) fn mount_new(cx: &Cx<'_>, pool: &Arc<Storage>, name: &str) -> Result<()> {
    let found = edit(pool, name, |store| Ok((Datasets::open(store.pool())?.find(name)?.kind, store.find(name)?)))?;
    let is_ours = found.0 == DatasetKind::Filesystem && !pool.has_mounted(found.1) && is_for(pool, name, cx.cred.zone)?;
    if is_ours && is_automatic(pool, name)? { mount_one(cx, pool, name) } else { Ok(()) }
}

/// Commits what a pool has open, so that what is on disk is what there is.
pub(crate) fn settle(pool: &Storage) -> Result<()> {
    pool.settle().map_err(|error| failed(pool.name(), error))
}

/// File systems at and below `name`.
pub(crate) fn at_and_below(pool: &Storage, name: &str) -> Result<Vec<String>> {
    let below = format!("{name}/");
    Ok(filesystems(pool)?.into_iter().filter(|other| other == name || other.starts_with(&below)).collect())
}

/// Takes snapshots, all or none; `recursive`: of everything below, too.
///
/// # Errors
/// See [`Refused`].
pub fn snapshot(names: &[String], recursive: bool) -> Result<()> {
    let first = names.first().ok_or_else(|| Refused::Invalid(String::from("which snapshot?")))?;
    let pool = pool_of(first)?;
    pool.settle().map_err(|error| failed(first, error))?;
    if !recursive {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        return edit(&pool, first, |store| store.snapshot_all(&names, now().0));
    }
    for name in names {
        let (dataset, short) = name.split_once('@').ok_or_else(|| Refused::Invalid(format!("{name}: a snapshot is called DATASET@NAME")))?;
        edit(&pool, name, |store| store.snapshot_tree(dataset, short, now().0))?;
    }
    Ok(())
}

/// Takes a file system back to a snapshot of its own; newer ones are in the way unless `destroy_newer`, and their clones unless `destroy_clones`.
///
/// # Errors
/// See [`Refused`].
pub fn rollback(cx: &Cx<'_>, name: &str, destroy_newer: bool, destroy_clones: bool) -> Result<()> {
    let _alone = alone();
    let pool = pool_of(name)?;
    let (dataset, short) = name.split_once('@').filter(|(_, short)| !short.is_empty()).ok_or_else(|| Refused::Invalid(format!("{name}: roll back to which snapshot, DATASET@NAME?")))?;
    let InTheWay { newer, inside, .. } = edit(&pool, name, |store| in_the_way(store, dataset, short, destroy_clones))?;
    // All that may be in the way is looked for before anything goes.
    if !newer.is_empty() && !destroy_newer {
        return Err(Refused::Busy(format!("{name}: there are newer snapshots ({}); -r destroys them", newer.join(" "))));
    }
    if inside.iter().any(|other| other == dataset) {
        return Err(Refused::Busy(format!("{name}: {dataset} is below a clone of its own that would go; rename it first")));
    }
    // Clones may be others'.
    refuse_others(&inside)?;
    refuse_sent(&pool, &newer)?;
    refuse_sent(&pool, &inside)?;
    refuse_open_below(&pool, dataset)?;
    inside.iter().try_for_each(|other| refuse_open_below(&pool, other))?;
    // Clones first: one may be mounted below the file system.
    let mounted = unmount_list(cx, &pool, &inside)?;
    let mut gone: Vec<u64> = Vec::new();
    let result = without_mounts(cx, &pool, &[dataset.to_string()], |pool| {
        let head = edit(pool, name, |store| store.find(dataset))?;
        pool.forget(head);
        edit(pool, name, |store| {
            let InTheWay { newer, clones, inside } = in_the_way(store, dataset, short, destroy_clones)?;
            check_open(pool, head)?;
            let doomed: Vec<(&String, u64)> = inside.iter().filter(|name| !name.contains('@')).map(|name| Ok((name, store.find(name)?))).collect::<core::result::Result<_, EditError>>()?;
            doomed.iter().try_for_each(|(_, dataset)| check_open(pool, *dataset))?;
            if !clones.is_empty() {
                let datasets = Datasets::open(store.pool())?;
                for snapshot in newer.iter().chain(inside.iter().filter(|name| name.contains('@'))) {
                    if !datasets.holds(snapshot)?.is_empty() {
                        return Err(EditError::Busy("a newer snapshot, or one of a clone, is held"));
                    }
                }
            }
            for clone in &clones {
                // It may have gone with another.
                if store.find(clone).is_ok() {
                    store.destroy_tree(clone, true, now().0)?;
                    gone = doomed.iter().filter(|(name, _)| store.find(name).is_err()).map(|(_, dataset)| *dataset).collect();
                }
            }
            // One whose destruction was deferred went with its last clone.
            let newer: Vec<String> = store.snapshot_range(dataset, short, "")?.into_iter().skip(1).collect();
            if !newer.is_empty() {
                store.destroy_snapshots(&newer.iter().map(String::as_str).collect::<Vec<_>>(), false, now().0)?;
            }
            store.rollback(dataset, now().0)
        })
    });
    for dataset in gone {
        pool.forget(dataset);
        volume::forget(pool.name(), Some(dataset));
    }
    if result.is_err() {
        for name in mounted {
            if edit(&pool, &name, |store| Ok(store.find(&name).is_ok()))? {
                mount_one(cx, &pool, &name)?;
            }
        }
    }
    result
}

/// What is in the way of going back to a snapshot: newer ones, their clones, and all that goes with those.
struct InTheWay {
    newer: Vec<String>,
    clones: Vec<String>,
    inside: Vec<String>,
}

/// Looks for it; for clones only if asked.
fn in_the_way(store: &Store, dataset: &str, short: &str, with_clones: bool) -> core::result::Result<InTheWay, EditError> {
    let newer: Vec<String> = store.snapshot_range(dataset, short, "")?.into_iter().skip(1).collect();
    let (mut clones, mut inside) = (Vec::new(), Vec::new());
    for snapshot in newer.iter().filter(|_| with_clones) {
        for clone in store.clones(snapshot)? {
            inside.extend(store.dependents(&clone, true)?);
            clones.push(clone);
        }
    }
    inside.sort();
    inside.dedup();
    Ok(InTheWay { newer, clones, inside })
}

/// Makes a clone the owner of the snapshots it came from: its origin becomes a clone of it.
///
/// # Errors
/// See [`Refused`].
pub fn promote(name: &str) -> Result<()> {
    let _alone = alone();
    let pool = pool_of(name)?;
    pool.settle().map_err(|error| failed(name, error))?;
    // What it came from may be another's.
    origin_of(name)?.map_or(Ok(()), |origin| refuse_others(&[origin]))?;
    edit(&pool, name, |store| store.promote(name, now().0))
}

/// A zone knows by its name what it was given: another of that name would be its own, too.
fn refuse_given(name: &str) -> Result<()> {
    match zones::given_below(name) {
        Some(given) => Err(Refused::Busy(format!("{name}: {given} is given to a zone that is there: halt that zone first, or take it from the zone's configuration"))),
        None => Ok(()),
    }
}

/// How something is renamed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rename {
    /// Snapshots of its name below, too.
    pub recursive: bool,
    /// Nothing is mounted where it belongs now.
    pub unmounted: bool,
}

/// Whether the pool of a dataset lists snapshots by themselves.
///
/// # Errors
/// See [`Refused`].
pub fn lists_snapshots(name: &str) -> Result<bool> {
    edit(&*pool_of(name)?, name, |store| store.pool_switch("listsnapshots"))
}

/// Renames a dataset with all below it, or a snapshot.
///
/// # Errors
/// See [`Refused`].
pub fn rename(cx: &Cx<'_>, from: &str, to: &str, how: Rename) -> Result<()> {
    let recursive = how.recursive;
    check_name(to)?;
    let _alone = alone();
    let pool = pool_of(from)?;
    let Some((dataset, old)) = from.split_once('@') else {
        if pool_of(to)?.name() != pool.name() {
            return Err(Refused::Invalid(format!("{to}: a dataset stays in its pool; use send and receive")));
        }
        refuse_given(from)?;
        let inside = at_and_below(&pool, from)?;
        let mounted = unmount_list(cx, &pool, &inside)?;
        let result = edit(&pool, from, |store| store.rename(from, to, now().0));
        let mut first = Ok(());
        for name in mounted.into_iter().filter(|_| result.is_err() || !how.unmounted) {
            let name = if result.is_ok() { format!("{to}{}", &name[from.len()..]) } else { name };
            // One that cannot be mounted does not keep the others from it.
            let mounted = mount_one(cx, &pool, &name);
            first = first.and(mounted);
        }
        return result.and(first);
    };
    if !recursive {
        return edit(&pool, from, |store| store.rename(from, to, now().0));
    }
    let new = to.rsplit('@').next().unwrap_or(to);
    edit(&pool, from, |store| store.rename_snapshots(dataset, old, new, now().0))
}

/// How much goes with what is destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// It alone.
    One,
    /// All below it, and its snapshots.
    Below,
    /// Clones of these, too.
    Clones,
}

/// Said of an empty name.
const NAMELESS: &str = "which snapshot? a name is missing behind the @ or a comma";

/// Snapshots of a dataset as `destroy` names them: `a,b%d,e`.
fn snapshots_named(store: &Store, dataset: &str, list: &str) -> core::result::Result<Vec<String>, EditError> {
    let mut out: Vec<String> = Vec::new();
    for part in list.split(',') {
        // Empty ends of a range are the oldest and the newest; an empty name is nobody's, whatever was to stand there.
        if part.is_empty() {
            return Err(EditError::Invalid(NAMELESS));
        }
        let (first, last) = part.split_once('%').unwrap_or((part, part));
        for name in store.snapshot_range(dataset, first, last)? {
            if !out.contains(&name) {
                out.push(name);
            }
        }
    }
    Ok(out)
}

/// What `destroy` would take away.
///
/// # Errors
/// See [`Refused`].
pub fn would_go(name: &str, extent: Extent) -> Result<Vec<String>> {
    let pool = pool_of(name)?;
    if name.contains('#') {
        return Ok([name.to_string()].into());
    }
    if let (Some((dataset, short)), Extent::One) = (name.split_once('@'), extent) {
        return edit(&pool, name, |store| snapshots_named(store, dataset, short));
    }
    let all = edit(&pool, name, |store| store.dependents(name, extent == Extent::Clones))?;
    match all.iter().find(|other| *other != name) {
        Some(other) if extent == Extent::One => Err(Refused::Busy(format!("{name}: {other} depends on it; -r takes that, too"))),
        _ => Ok(all),
    }
}

/// Names that keep a snapshot, and since when.
///
/// # Errors
/// See [`Refused`].
pub fn holds(snapshot: &str) -> Result<Vec<(String, u64)>> {
    let pool = pool_of(snapshot)?;
    settle(&pool)?;
    edit(&pool, snapshot, |store| Ok(Datasets::open(store.pool())?.holds(snapshot)?))
}

/// Bookmarks of a dataset, and of when they are. There is `room` for them.
///
/// # Errors
/// See [`Refused`].
pub fn bookmarks(dataset: &str, room: &mut Room) -> Result<Vec<(String, u64)>> {
    let pool = pool_of(dataset)?;
    let found = edit(&pool, dataset, |store| {
        let found = Datasets::open(store.pool())?.bookmarks(dataset)?;
        room.take(found.iter().map(|mark| Room::VALUE + mark.name.len()).sum())?;
        Ok(found)
    })?;
    Ok(found.into_iter().map(|mark| (mark.name, mark.creation_time)).collect())
}

/// All that goes with `name` when it is destroyed with its clones.
///
/// # Errors
/// See [`Refused`].
pub fn dependents_of(name: &str) -> Result<Vec<String>> {
    if name.contains(['#', '%', ',']) {
        return Ok(Vec::new());
    }
    edit(&*pool_of(name)?, name, |store| store.dependents(name, true))
}

/// The snapshot that `name` is a clone of.
///
/// # Errors
/// See [`Refused`].
pub fn origin_of(name: &str) -> Result<Option<String>> {
    edit(&*pool_of(name)?, name, |store| Ok(Datasets::open(store.pool())?.find(name)?.origin))
}

/// What a zone's administrator does reaches nothing that the zone does not administer. Asked by who is [`alone`]: no name stands for another meanwhile.
fn refuse_others(names: &[String]) -> Result<()> {
    let zone = kif::spawn().current_zone();
    names.iter().find(|name| !zones::administers(zone, name)).map_or(Ok(()), |name| Err(Refused::NotFound(format!("{name}: no such dataset in this zone"))))
}

/// What is being sent stays.
fn refuse_sent(pool: &Storage, names: &[String]) -> Result<()> {
    pool.being_sent(names).map_or(Ok(()), |name| Err(Refused::Busy(format!("{name}: it is being sent; wait for that, or end it"))))
}

/// Volumes at and below `top` that are open stay as they are.
pub(crate) fn refuse_open_below(pool: &Storage, top: &str) -> Result<()> {
    for open in pool.open_volumes() {
        // Of a pool that is suspended the name may not be known.
        let name = pool.look(|store| store.dataset_name(open)).ok().and_then(core::result::Result::ok);
        let name = name.unwrap_or_else(|| String::from(top));
        if zones::is_within(&name, top) {
            return Err(Refused::Busy(volume::in_use(&name)));
        }
    }
    Ok(())
}

/// A volume that is open stays, for who has the store: nobody has opened it meanwhile.
fn check_open(pool: &Storage, dataset: u64) -> core::result::Result<(), EditError> {
    if pool.has_open(dataset) { Err(EditError::Busy("it was opened just now")) } else { Ok(()) }
}

/// Destroys a dataset, a snapshot (`defer`: when nothing needs it any more), snapshots `dataset@first%last`, or a bookmark.
///
/// # Errors
/// See [`Refused`]. [`Refused::Busy`] names what is in the way.
pub fn destroy(cx: &Cx<'_>, name: &str, extent: Extent, defer: bool) -> Result<()> {
    let _alone = alone();
    let pool = pool_of(name)?;
    if name == pool.name() {
        return Err(Refused::Invalid(format!("{name}: that is the pool itself: zpool destroy {name}")));
    }
    if name.contains('#') {
        return edit(&pool, name, |store| store.destroy_bookmark(name, now().0));
    }
    if let Some((dataset, short)) = name.split_once('@')
        && extent == Extent::One
    {
        let names = edit(&pool, name, |store| snapshots_named(store, dataset, short))?;
        // A deferred destroy waits for holds and clones, which a send is neither of.
        refuse_sent(&pool, &names)?;
        return edit(&pool, name, |store| {
            store.destroy_snapshots(&names.iter().map(String::as_str).collect::<Vec<_>>(), defer, now().0)
        });
    }
    let inside: Vec<String> = match extent {
        Extent::One => [name.to_string()].into(),
        Extent::Below | Extent::Clones => edit(&pool, name, |store| store.dependents(name, extent == Extent::Clones))?,
    };
    // Clones of it may be others'.
    refuse_others(&inside)?;
    inside.iter().filter(|name| !name.contains('@')).try_for_each(|name| refuse_given(name))?;
    refuse_sent(&pool, &inside)?;
    let doomed: Vec<u64> = edit(&pool, name, |store| inside.iter().filter(|name| !name.contains('@')).map(|name| store.find(name)).collect())?;
    inside.iter().try_for_each(|name| refuse_open_below(&pool, name))?;
    let mounted = unmount_list(cx, &pool, &inside)?;
    let result = edit(&pool, name, |store| {
        doomed.iter().try_for_each(|dataset| check_open(&pool, *dataset))?;
        match extent {
            Extent::One => store.destroy_dataset(name, now().0),
            Extent::Below | Extent::Clones => store.destroy_tree(name, extent == Extent::Clones, now().0),
        }
    });
    match &result {
        Ok(()) => {
            for dataset in doomed {
                pool.forget(dataset);
                volume::forget(pool.name(), Some(dataset));
            }
        }
        Err(_) => {
            for name in mounted {
                mount_one(cx, &pool, &name)?;
            }
        }
    }
    result
}

/// Keeps a snapshot from being destroyed under a name, or no longer.
///
/// # Errors
/// See [`Refused`].
pub fn hold(names: &[String], tag: &str, release: bool) -> Result<()> {
    let first = names.first().ok_or_else(|| Refused::Invalid(String::from("which snapshot?")))?;
    let list: Vec<&str> = names.iter().map(String::as_str).collect();
    edit(&*pool_of(first)?, first, |store| if release { store.release(&list, tag, now().0) } else { store.hold(&list, tag, now().0) })
}

/// Notes a snapshot's point in time, for sends that begin there after it is gone.
///
/// # Errors
/// See [`Refused`].
pub fn bookmark(snapshot: &str, bookmark: &str) -> Result<()> {
    edit(&*pool_of(snapshot)?, snapshot, |store| store.bookmark(snapshot, bookmark, now().0))
}
