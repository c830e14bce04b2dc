//! Pools: made, found on disks, imported, exported, scrubbed; their history.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use kif::ZoneId;
use pool_dmu::edit::EditError;
use pool_dmu::{Bearing, Line as HistoryLine, ObjectSet, PoolChange, parse_pool_property, ScanKind, Store};
use pool_spa::{open_partitions, ImportOptions, Pool};
use pool_zpl::{NewEntry, create_filesystem};
use vfs::{Cx, VfsError};

use super::datasets::{refuse_open_below, settle};
use super::devices::add_one;
use super::disks::{Held, part_name, random, take, watch};
use super::layout::{Role, check_layout, layouts};
use super::mounts::{filesystems, is_for, mount_all, mount_one, place, unmount_all};
use super::properties::put_property;
use super::upkeep::grow;
use super::{Refused, Result, alone, edit, edit_failed, failed};
use crate::storage::now;
use crate::{Storage, registry};

/// Puts a store into use under its name.
pub(super) fn start(store: Store, altroot: Option<&str>) -> Result<Arc<Storage>> {
    let storage = Storage::start_as(store, Bearing { altroot: altroot.map(ToString::to_string) }).map_err(|_| Refused::Failed(String::from("no memory for the pool's thread")))?;
    if registry::add(&storage) {
        return Ok(storage);
    }
    // Two pools of one name: the second is closed as it was found.
    storage.abandon();
    Err(Refused::Exists(format!("{}: a pool of this name is imported", storage.name())))
}

/// State of a destroyed pool in its labels.
pub(super) const STATE_DESTROYED: u64 = 2;

/// A pool that could be imported: name, guid, names of the disks that were found, and whether it was exported in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Importable {
    pub name: String,
    pub guid: u64,
    pub disks: Vec<String>,
    /// Guids of the leaves that these are, in the same order.
    pub leaves: Vec<u64>,
    pub exported: bool,
    /// The host that had it last, if that is none of ours.
    pub host: Option<String>,
}

/// Looks for pools on disks that no pool holds: those that were destroyed, or the others.
#[must_use]
pub fn importable(destroyed: bool) -> Vec<Importable> {
    survey(destroyed).0
}

/// The same, and the names of free disks that are spares or cache devices.
pub(super) fn survey(destroyed: bool) -> (Vec<Importable>, Vec<String>) {
    let free = vfs::block::disks().into_iter().filter_map(|disk| Some((disk.name(), Held::take(&disk)?)));
    let (names, devices): (Vec<_>, Vec<_>) = free.flat_map(|(name, disk)| open_partitions(disk).into_iter().map(|(number, part)| (part_name(name, number), part))).unzip();
    let (found, aside) = pool_spa::survey(&devices);
    let pools = found
        .into_iter()
        .filter(|found| (found.state == STATE_DESTROYED) == destroyed)
        .map(|found| Importable {
            disks: found.devices.iter().filter_map(|index| names.get(*index)).map(ToString::to_string).collect(),
            leaves: found.leaves,
            exported: found.state == 1,
            host: found.host,
            name: found.name,
            guid: found.guid,
        })
        .collect();
    (pools, aside.iter().filter_map(|index| names.get(*index)).map(ToString::to_string).collect())
}

/// How a pool is to be imported.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImportRequest<'w> {
    /// Its name, or its guid in decimal.
    pub wanted: &'w str,
    /// Of those that were destroyed.
    pub destroyed: bool,
    /// It may have been in use by another host.
    pub force: bool,
    /// What it is called from now on.
    pub new_name: Option<&'w str>,
    /// That only as long as it is imported.
    pub for_now: bool,
    /// Below which its file systems are mounted.
    pub altroot: Option<&'w str>,
    pub read_only: bool,
    /// It may be taken back to an earlier transaction group, if it cannot be opened as it is.
    pub rewind: bool,
    /// What was synced last may be lost, if devices fail to give all of the intent logs.
    pub without_log: bool,
    /// To this one or before.
    pub at_most: Option<u64>,
}

/// Imports a pool and replays its intent logs.
///
/// # Errors
/// See [`Refused`].
pub fn import(request: &ImportRequest<'_>) -> Result<Arc<Storage>> {
    let (store, places) = open(request, request.read_only)?;
    import_store(request, store, &places)
}

/// Whether a pool could be imported: the transaction group it would be opened at, and how many of those found are newer.
///
/// # Errors
/// It could not: why.
pub fn check_import(request: &ImportRequest<'_>) -> Result<(u64, u64)> {
    let (store, _) = open(request, true)?;
    let at = store.pool().uberblock().txg;
    for guid in store.pool().doubles() {
        kif::log().line(format_args!("pool {}: two devices say that they are {guid}: the older, a copy, is left alone", store.name()));
    }
    let newer = store.pool().found_txgs().iter().filter(|txg| **txg > at).count() as u64;
    Ok((at, newer))
}

/// Opens a pool that lies on free disks; with where its leaves were found.
fn open(request: &ImportRequest<'_>, read_only: bool) -> Result<(Store, Vec<(u64, String)>)> {
    let wanted = request.wanted;
    if let Some(name) = request.new_name {
        check_pool_name(name)?;
    }
    let matches = |found: &Importable| found.name == wanted || wanted.parse() == Ok(found.guid);
    let (found, aside) = survey(request.destroyed);
    let found: Vec<Importable> = found.into_iter().filter(matches).collect();
    let found = match found.as_slice() {
        [] => return Err(Refused::NotFound(format!("{wanted}: no such pool on the disks that are free"))),
        [found] => found,
        _ => return Err(Refused::Invalid(format!("{wanted}: more than one pool has this name; import by number"))),
    };
    let name = request.new_name.unwrap_or(&found.name);
    if registry::find(name).is_some_and(|pool| pool.name() == name) {
        return Err(Refused::Exists(format!("{name}: a pool of this name is imported; give this one another: zpool import {wanted} NEWNAME")));
    }
    if let (Some(host), false, false) = (&found.host, request.force, found.exported || request.destroyed) {
        return Err(Refused::Busy(format!("{wanted}: {host} had it last, and did not export it: if no other host uses it, import it with -f")));
    }
    let devices = || {
        let mut devices = found.disks.iter().map(|disk| take(disk)).collect::<Result<Vec<_>>>()?;
        // Which of these are the pool's, its lists say; the others are free again once they are read.
        devices.extend(aside.iter().filter_map(|disk| take(disk).ok()));
        Ok(devices)
    };
    let guid = found.guid.to_string();
    let mut at_most = request.at_most;
    // Of those that the labels hold, newest first; which these are is known once one was opened.
    let mut older: Option<Vec<u64>> = None;
    loop {
        let pool = Pool::import_with(devices()?, ImportOptions { wanted: Some(&guid), at_most });
        let pool = watch(pool.map_err(|error| Refused::Failed(format!("{wanted}: {error}")))?);
        let at = pool.uberblock().txg;
        let older = older.get_or_insert_with(|| pool.found_txgs().iter().copied().filter(|txg| *txg < at).collect());
        match if read_only { Store::open_for_reading(pool, random()) } else { Store::open(pool, random()) } {
            Ok(store) => return Ok((store, found.leaves.iter().copied().zip(found.disks.iter().map(|disk| format!("/dev/{disk}"))).collect())),
            Err(EditError::Features(names)) if !read_only => {
                let names = names.join(", ");
                return Err(Refused::Failed(format!("{wanted}: it uses features that are not written here: {names}; 'zpool import -o readonly=on' reads it")));
            }
            Err(error) if !request.rewind || older.is_empty() => {
                let hint = if request.rewind || matches!(error, EditError::Invalid(_)) { "" } else { "; 'zpool import -F' takes it back to an earlier transaction group" };
                return Err(Refused::Failed(format!("{wanted}: {error}{hint}")));
            }
            Err(_) => at_most = Some(older.remove(0)),
        }
    }
}

fn import_store(request: &ImportRequest<'_>, mut store: Store, places: &[(u64, String)]) -> Result<Arc<Storage>> {
    let refused = |error: EditError| edit_failed(request.wanted, &error);
    let is_for_now = request.for_now || request.read_only;
    if let Some(name) = request.new_name.filter(|_| is_for_now) {
        store.rename_pool(name, true, now().0).map_err(refused)?;
    }
    let newer = store.pool().found_txgs().iter().filter(|txg| **txg > store.pool().uberblock().txg).count();
    if !request.read_only {
        // Disks may have changed places since.
        store.note_paths(places).map_err(refused)?;
        let cut = if request.without_log { store.give_up_log_ends() } else { 0 };
        if cut > 0 {
            kif::log().line(format_args!("pool {}: {cut} intent logs cannot be read to their ends: what was synced last there is lost", store.name()));
        }
        let replayed = pool_zpl::replay_logs(&mut store, now()).map_err(refused)?;
        if replayed > 0 {
            kif::log().line(format_args!("pool {}: {replayed} records of the intent log replayed", store.name()));
        }
    }
    // Its commit comes after what the logs hold: a log counts from the group behind the last commit on.
    if let Some(name) = request.new_name.filter(|_| !is_for_now) {
        store.rename_pool(name, false, now().0).map_err(refused)?;
    }
    if newer > 0 {
        kif::log().line(format_args!("pool {}: taken back by {newer} transaction groups", store.name()));
    }
    let pool = start(store, request.altroot)?;
    if !request.read_only {
        grow(&pool)?;
    }
    Ok(pool)
}

/// How a pool is to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreateRequest<'w> {
    pub name: &'w str,
    /// `mirror vda vdb`, as `zpool create` takes them.
    pub words: &'w [String],
    /// Disks that hold a pool are taken.
    pub force: bool,
    /// Of the pool, `NAME=VALUE`.
    pub properties: &'w [(String, String)],
    /// Of its root file system.
    pub dataset_properties: &'w [(String, String)],
    pub altroot: Option<&'w str>,
}

/// Makes a pool.
///
/// # Errors
/// See [`Refused`].
pub fn create(request: &CreateRequest<'_>) -> Result<Arc<Storage>> {
    let name = request.name;
    let changes = check_create(request)?;
    let mut data = Vec::new();
    let mut others = Vec::new();
    for (layout, role) in layouts(request.words)? {
        if role == Role::Data { data.push(layout) } else { others.push((layout, role)) }
    }
    if data.is_empty() {
        return Err(Refused::Invalid(String::from("no disks for data given")));
    }
    let asked = changes.iter().find_map(|change| if let PoolChange::Number("ashift", shift) = change { u32::try_from(*shift).ok() } else { None });
    let sectors = data.iter().flat_map(|layout| &layout.devices).map(|(_, device)| device.sector_bytes().trailing_zeros());
    let ashift = asked.filter(|shift| *shift > 0).or_else(|| sectors.max()).unwrap_or(12).clamp(9, 16);
    let (pool, config) = pool_spa::create(name, data, ashift, &mut random()).map_err(|error| Refused::Invalid(format!("{name}: {error}")))?;
    let (seconds, rest) = now();
    let build = || -> core::result::Result<Store, EditError> {
        let mut store = Store::create(watch(pool), config, seconds, random())?;
        create_filesystem(&mut store, name, &NewEntry { mode: 0o755, uid: 0, gid: 0, now: (seconds, rest) })?;
        store.commit(seconds)?;
        for (layout, role) in others {
            add_one(&mut store, layout, role, seconds)?;
        }
        changes.iter().try_for_each(|change| store.set_pool_property(change, seconds))?;
        Ok(store)
    };
    let pool = start(build().map_err(|error| edit_failed(name, &error))?, request.altroot)?;
    for (property, value) in request.dataset_properties {
        put_property(&pool, name, property, value)?;
    }
    Ok(pool)
}

/// Refuses what is no name for a pool.
pub(super) fn check_pool_name(name: &str) -> Result<()> {
    let reserved = ["mirror", "raidz", "draid", "spare", "log", "cache"].iter().any(|word| name.starts_with(word));
    let plain = name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-.".contains(letter));
    if reserved || !plain || !name.starts_with(|letter: char| letter.is_ascii_alphabetic()) || name.len() > 200 {
        return Err(Refused::Invalid(format!("{name}: not a name for a pool: a letter, then letters, digits, - _ . but no kind of device")));
    }
    if registry::find(name).is_some() {
        return Err(Refused::Exists(format!("{name}: a pool of this name is imported")));
    }
    Ok(())
}

/// Whether [`create`] may write to what it is asked to; what it is to set.
///
/// # Errors
/// See [`Refused`].
pub fn check_create(request: &CreateRequest<'_>) -> Result<Vec<PoolChange>> {
    let name = request.name;
    check_pool_name(name)?;
    let mut changes = Vec::new();
    for (property, value) in request.properties {
        let change = parse_pool_property(property, value).map_err(|why| Refused::Invalid(format!("{name}: {why}")))?;
        if matches!(change, PoolChange::Bootfs(Some(_))) {
            return Err(Refused::Invalid(format!("{name}: bootfs={value}: there is no file system yet: set it later")));
        }
        changes.push(change);
    }
    for (property, value) in request.dataset_properties {
        pool_dmu::parse_property(property, value).map_err(|_| Refused::Invalid(format!("{name}: {property}={value}: {}", pool_dmu::hint(property))))?;
    }
    check_layout(request.words, request.force, None)?;
    Ok(changes)
}

/// The pool called `name`.
///
/// # Errors
/// [`Refused::NotFound`].
pub fn pool(name: &str) -> Result<Arc<Storage>> {
    registry::find(name).filter(|pool| pool.name() == name).ok_or_else(|| Refused::NotFound(format!("{name}: no such pool; see 'zpool list'")))
}

/// The pool called `name`, for changing it.
///
/// # Errors
/// [`Refused::NotFound`]; [`Refused::Failed`]: it was imported for reading only.
pub(super) fn pool_to_change(name: &str) -> Result<Arc<Storage>> {
    let found = pool(name)?;
    if found.is_read_only() { Err(failed(name, VfsError::ReadOnly)) } else { Ok(found) }
}

/// The pool that holds dataset `name`.
///
/// # Errors
/// [`Refused::NotFound`].
pub fn pool_of(name: &str) -> Result<Arc<Storage>> {
    registry::find(name).ok_or_else(|| Refused::NotFound(format!("{name}: no such pool; see 'zpool list'")))
}

/// Unmounts a pool's file systems, commits, and gives its disks back, one that is suspended only with `force`, as of its last commit; with `destroy` they belong to no pool any more, though `import` with `destroyed` finds it as long as
/// nobody took them.
///
/// # Errors
/// See [`Refused`]; the pool stays imported then, unless a device did not take its last commit.
pub fn export(cx: &Cx<'_>, name: &str, destroy: bool, force: bool) -> Result<()> {
    let _alone = alone();
    let pool = pool(name)?;
    if !pool.is_suspended() {
        return let_go(cx, &pool, name, destroy);
    }
    if !force {
        return Err(Refused::Failed(format!("{name}: the pool is suspended: 'zpool clear' goes on once its devices are back; -f lets go of it as of its last commit")));
    }
    // Whoever waits for it gets an error, and may let go of files.
    pool.give_up(true);
    let gone = let_go(cx, &pool, name, destroy);
    if pool.is_gone() {
        kif::log().line(format_args!("pool {name}: let go of while it was suspended, as of its last commit"));
        return Ok(());
    }
    pool.give_up(false);
    gone
}

fn let_go(cx: &Cx<'_>, pool: &Arc<Storage>, name: &str, destroy: bool) -> Result<()> {
    refuse_open_below(pool, name)?;
    // Of a pool that is suspended the names may not be known; what is unmounted of it stays so.
    let mut mounted = Vec::new();
    for name in filesystems(pool).unwrap_or_default() {
        if place(pool, &name).is_ok_and(|(dataset, _)| pool.has_mounted(dataset)) {
            if !is_for(pool, &name, cx.cred.zone)? {
                return Err(Refused::Busy(format!("{name}: mounted in the zone that it was delegated to; halt the zone first")));
            }
            mounted.push(name);
        }
    }
    if let Err(refused) = unmount_all(cx, pool) {
        // All or nothing: those that were not busy are mounted again.
        for name in mounted {
            if place(pool, &name).is_ok_and(|(dataset, _)| !pool.has_mounted(dataset)) {
                mount_one(cx, pool, &name)?;
            }
        }
        return Err(refused);
    }
    let exported = pool.export(destroy);
    if pool.is_gone() {
        registry::remove(pool);
    }
    exported.map_err(|error| match error {
        VfsError::Busy => failed(name, error),
        _ if pool.is_gone() => Refused::Failed(format!("{name}: a device did not take the last commit; the pool was let go of as it was before that, and can be imported again")),
        error => failed(name, error),
    })
}

/// Notes a command in the history of the pool that `name` is in, as far as there is one and it can be written.
pub fn note_history(name: &str, command: &str) {
    let Some(pool) = registry::find(name).filter(|pool| !pool.is_read_only()) else { return };
    let noted = edit(&pool, name, |store| store.note_history(command, now().0));
    if let Err(error) = noted {
        kif::log().line(format_args!("pool {}: the history does not have '{command}': {error}", pool.name()));
    }
    pool.changed();
}

/// The history of a pool.
///
/// # Errors
/// See [`Refused`].
pub fn history(pool_name: &str) -> Result<Vec<HistoryLine>> {
    let pool = pool(pool_name)?;
    settle(&pool)?;
    edit(&pool, pool_name, |store| pool_dmu::history(&ObjectSet::mos(store.pool())?))
}

/// What becomes of a scrub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubChange {
    /// It begins, or goes on where it was paused.
    Start,
    /// It, or a resilver, ends.
    Stop,
    Pause,
}

/// Starts, pauses or stops a scrub.
///
/// # Errors
/// See [`Refused`].
pub fn scrub(pool_name: &str, change: ScrubChange) -> Result<()> {
    let pool = pool_to_change(pool_name)?;
    let is_paused = pool.is_paused();
    let busy = || Refused::Busy(format!("{pool_name}: a scan is under way; see 'zpool status', stop it with 'zpool scrub -s', or wait for it with 'zpool wait'"));
    match (change, pool.is_scanning()) {
        (ScrubChange::Stop, false) if !is_paused => return Err(Refused::Invalid(format!("{pool_name}: there is no active scrub to stop"))),
        (ScrubChange::Pause, false) if is_paused => return Err(Refused::Invalid(format!("{pool_name}: the scrub is paused already; 'zpool scrub {pool_name}' goes on"))),
        (ScrubChange::Pause, false) => return Err(Refused::Invalid(format!("{pool_name}: there is no active scrub to pause"))),
        (ScrubChange::Start, true) => return Err(busy()),
        _ => {}
    }
    let result = edit(&pool, pool_name, |store| {
        match change {
            ScrubChange::Start if is_paused => store.pause_scrub(false)?,
            ScrubChange::Start => store.start_scan(ScanKind::Scrub),
            ScrubChange::Pause => store.pause_scrub(true)?,
            ScrubChange::Stop => store.stop_scan(now().0),
        }
        // A paused scrub stays so whatever happens to the machine.
        store.commit(now().0)
    });
    pool.wake();
    if change == ScrubChange::Stop {
        pool.note_stopped();
    }
    result
}

/// At boot: imports every pool that was in use when the machine went down, and mounts it.
pub fn start_all(cx: &Cx<'_>) {
    assert!(cx.cred.zone == ZoneId::GLOBAL, "pools are the global zone's");
    if kif::on_large_stack(|| import_found(cx)).is_err() {
        kif::log().line(format_args!("no memory to look for pools"));
    }
}

fn import_found(cx: &Cx<'_>) {
    for found in importable(false).into_iter().filter(|found| !found.exported) {
        match import(&ImportRequest { wanted: &found.guid.to_string(), ..ImportRequest::default() }).and_then(|pool| mount_all(cx, &pool)) {
            Ok(()) => kif::log().line(format_args!("pool {}: imported from {}", found.name, found.disks.join(" "))),
            Err(error) => kif::log().line(format_args!("pool {}: not imported: {error}", found.name)),
        }
    }
}

/// Everything that was written to a pool is on its disks.
///
/// # Errors
/// See [`Refused`]; it is suspended.
pub fn sync(name: &str) -> Result<()> {
    let pool = pool(name)?;
    let suspended = || Refused::Failed(format!("{name}: the pool is suspended: what was written since its last commit is not on its disks; see 'zpool status'"));
    if pool.is_suspended() {
        return Err(suspended());
    }
    pool.sync().map_err(|error| if pool.is_suspended() { suspended() } else { failed(name, error) })
}

/// Commits what all pools have open: before the machine goes off.
pub fn sync_all() {
    for pool in registry::all() {
        if let Err(error) = pool.sync() {
            kif::log().line(format_args!("pool {}: {error:?}", pool.name()));
        }
    }
}
