//! What an operator does with pools: make, import, export, look at, change devices, mount.
//!
//! Disks are named as under `/dev`. A disk of an imported pool is held: nobody writes to it through its device node.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use kif::{BlockDev, BlockError, Nanos, ZoneId};
use pool_dmu::edit::EditError;
use pool_dmu::{Auxiliary, DatasetInfo, DatasetKind, Datasets, Line as HistoryLine, ObjectSet, ScanKind, Store};
use pool_spa::{open_partitions, Event, EventSink, ImportOptions, Layout, LeafCounts, Pool, VdevStatus};
use pool_zpl::{NewEntry, Zvol, create_filesystem};
use sync::{Class, Mutex, MutexGuard, SpinLock};
use vfs::{Cx, MountFlags, Place, VfsError};

use crate::storage::{MEMORY_MIN, now};
use crate::{Storage, gate, registry, volume, zones};

/// Why an operation was refused, in words that say what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No pool, dataset or device of this name.
    NotFound(String),
    /// The name is taken.
    Exists(String),
    /// Something is in use.
    Busy(String),
    /// The request makes no sense.
    Invalid(String),
    /// The pool or a device failed.
    Failed(String),
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (Self::NotFound(text) | Self::Exists(text) | Self::Busy(text) | Self::Invalid(text) | Self::Failed(text)) = self;
        f.write_str(text)
    }
}

type Result<R> = core::result::Result<R, Refused>;

/// One operation at a time takes file systems off their places and puts them back: what it found mounted, or not, stays so until it is done.
static OPERATOR: Mutex<()> = Mutex::new(Class::Operator, ());

/// Waits until no other operation mounts or unmounts.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    OPERATOR.lock()
}

fn failed(what: &str, error: VfsError) -> Refused {
    match error {
        VfsError::NotFound => Refused::NotFound(format!("{what}: not found")),
        VfsError::Exists => Refused::Exists(format!("{what}: already exists")),
        VfsError::Busy => Refused::Busy(format!("{what}: busy: unmount its file systems first")),
        VfsError::NoSpace => Refused::Failed(format!("{what}: no space left in the pool")),
        error => Refused::Failed(format!("{what}: {error:?}")),
    }
}

fn edit_failed(what: &str, error: &EditError) -> Refused {
    match error {
        EditError::Exists => Refused::Exists(format!("{what}: already exists")),
        EditError::Busy(why) => Refused::Busy(format!("{what}: {why}")),
        EditError::Invalid(why) => Refused::Invalid(format!("{what}: {why}")),
        EditError::Read(pool_dmu::Error::NotFound) => Refused::NotFound(format!("{what}: no such dataset")),
        error => Refused::Failed(format!("{what}: {error}")),
    }
}

/// A disk held by a pool; given back when the pool lets go of it.
struct Held(Arc<vfs::block::Disk>);

impl Held {
    fn take(disk: &Arc<vfs::block::Disk>) -> Option<Box<dyn BlockDev>> {
        disk.hold().then(|| Box::new(Self(Arc::clone(disk))) as Box<dyn BlockDev>)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl BlockDev for Held {
    fn size_bytes(&self) -> u64 {
        self.0.device().size_bytes()
    }
    fn sector_bytes(&self) -> u32 {
        self.0.device().sector_bytes()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> core::result::Result<(), BlockError> {
        gate::metered(true, || self.0.device().read(offset, out))
    }
    fn write(&self, offset: u64, data: &[u8]) -> core::result::Result<(), BlockError> {
        gate::metered(false, || self.0.device().write(offset, data))
    }
    fn flush(&self) -> core::result::Result<(), BlockError> {
        self.0.device().flush()
    }
}

/// Changes a pool; `what` is named if that is refused.
///
/// A tenant's operator is bound by limits on numbers of file systems and snapshots, and the global zone's is not (pool reference, section 3.2).
pub(crate) fn edit<R>(pool: &Storage, what: &str, body: impl FnOnce(&mut Store) -> core::result::Result<R, EditError>) -> Result<R> {
    let is_tenants = kif::spawn().current_zone() != ZoneId::GLOBAL;
    let bound = |store: &mut Store| {
        store.enforce_counts(is_tenants);
        let result = body(store);
        store.enforce_counts(false);
        result
    };
    pool.edit(bound).map_err(|error| failed(what, error))?.map_err(|error| edit_failed(what, &error))
}

/// What partition `number` of a disk is called; 0 is the disk itself.
fn part_name(disk: &str, number: u32) -> String {
    if number == 0 { String::from(disk) } else { format!("{disk}{number}") }
}

/// Takes disk `name` (with or without `/dev/`), or a partition of one that is for pools.
fn take(name: &str) -> Result<Box<dyn BlockDev>> {
    let bare = name.strip_prefix("/dev/").unwrap_or(name);
    let disks = vfs::block::disks();
    let hold = |disk| Held::take(disk).ok_or_else(|| Refused::Busy(format!("{name}: in use by a pool")));
    if let Some(disk) = disks.iter().find(|disk| disk.name() == bare) {
        return hold(disk);
    }
    let absent = || Refused::NotFound(format!("{name}: no such disk"));
    let whole = bare.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let disk = disks.iter().find(|disk| disk.name() == whole).ok_or_else(absent)?;
    open_partitions(hold(disk)?).into_iter().find(|(number, _)| part_name(whole, *number) == bare).map(|(_, part)| part).ok_or_else(absent)
}

/// A device for a pool: a whole disk that is large enough gets a partition table, as a sign to other systems that it is taken.
fn take_for_pool(name: &str) -> Result<(String, Box<dyn BlockDev>)> {
    let device = take(name)?;
    let bare = name.strip_prefix("/dev/").unwrap_or(name);
    let is_whole = vfs::block::disks().iter().any(|disk| disk.name() == bare);
    if !is_whole || device.size_bytes() < LABELLED_MIN {
        if is_whole {
            forget_table(&*device).map_err(|_| Refused::Failed(format!("{name}: the disk does not take writes")))?;
        }
        return Ok((format!("/dev/{bare}"), device));
    }
    let part = pool_spa::label_disk(device, &mut *random()).map_err(|error| Refused::Invalid(format!("{name}: {error}")))?;
    Ok((format!("/dev/{}", part_name(bare, 1)), part))
}

/// Takes away a partition table that would hide what is written over its disk.
fn forget_table(device: &dyn BlockDev) -> core::result::Result<(), BlockError> {
    let sector = u64::from(device.sector_bytes());
    let table = 33 * sector;
    let zeros = alloc::vec![0; usize::try_from(table).unwrap_or(0)];
    let size = device.size_bytes() / sector * sector;
    if size < 2 * table + sector {
        return Ok(());
    }
    device.write(sector, &zeros)?;
    device.write(size - table, &zeros)
}

fn random() -> Box<dyn FnMut() -> u64 + Send> {
    Box::new(|| {
        let mut bytes = [0; 8];
        kif::rng().fill(&mut bytes);
        u64::from_le_bytes(bytes)
    })
}

/// Tells the console of what devices do; many reports of one kind and device become few lines.
struct Reporter {
    pool: String,
    seen: SpinLock<BTreeMap<(&'static str, u64), u64>>,
}

impl EventSink for Reporter {
    fn event(&self, event: &Event) {
        let leaf = match event {
            Event::Io { leaf, .. } | Event::Checksum { leaf, .. } | Event::Repaired { leaf, .. } => *leaf,
            Event::State { vdev, .. } => *vdev,
            _ => 0,
        };
        let count = {
            let mut seen = self.seen.lock();
            let count = seen.entry((event.class(), leaf)).or_insert(0);
            *count += 1;
            *count
        };
        if count.is_power_of_two() {
            kif::log().line(format_args!("pool {}: {} #{count}: {event:?}", self.pool, event.class()));
        }
    }
}

fn watch(mut pool: Pool) -> Pool {
    let name = String::from(pool.name());
    pool.set_events(Arc::new(Reporter { pool: name, seen: SpinLock::new(Class::PoolNodes, BTreeMap::new()) }));
    pool
}

/// Puts a store into use under its name.
fn start(store: Store) -> Result<Arc<Storage>> {
    let storage = Storage::start(store).map_err(|_| Refused::Failed(String::from("no memory for the pool's thread")))?;
    if registry::add(&storage) {
        return Ok(storage);
    }
    // Two pools of one name: the second is closed as it was found.
    storage.abandon();
    Err(Refused::Exists(format!("{}: a pool of this name is imported", storage.name())))
}

/// Disks below this size are used from their first sector on: a partition table and what it sets aside would take too much of them.
const LABELLED_MIN: u64 = 256 << 20;

/// State of a destroyed pool in its labels.
const STATE_DESTROYED: u64 = 2;

/// A pool that could be imported: name, guid, names of the disks that were found, and whether it was exported in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Importable {
    pub name: String,
    pub guid: u64,
    pub disks: Vec<String>,
    /// Guids of the leaves that these are, in the same order.
    pub leaves: Vec<u64>,
    pub exported: bool,
}

/// Looks for pools on disks that no pool holds: those that were destroyed, or the others.
#[must_use]
pub fn importable(destroyed: bool) -> Vec<Importable> {
    survey(destroyed).0
}

/// The same, and the names of free disks that are spares or cache devices.
fn survey(destroyed: bool) -> (Vec<Importable>, Vec<String>) {
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
            name: found.name,
            guid: found.guid,
        })
        .collect();
    (pools, aside.iter().filter_map(|index| names.get(*index)).map(ToString::to_string).collect())
}

/// Imports the pool called `wanted` (a name or a decimal guid), one that was `destroyed` or not, and replays its intent logs.
///
/// # Errors
/// See [`Refused`].
pub fn import(wanted: &str, destroyed: bool) -> Result<Arc<Storage>> {
    let matches = |found: &Importable| found.name == wanted || wanted.parse() == Ok(found.guid);
    let (found, aside) = survey(destroyed);
    let found: Vec<Importable> = found.into_iter().filter(matches).collect();
    let found = match found.as_slice() {
        [] => return Err(Refused::NotFound(format!("{wanted}: no such pool on the disks that are free"))),
        [found] => found,
        _ => return Err(Refused::Invalid(format!("{wanted}: more than one pool has this name; import by number"))),
    };
    let mut devices = found.disks.iter().map(|disk| take(disk)).collect::<Result<Vec<_>>>()?;
    // Which of these are the pool's, its lists say; the others are free again once they are read.
    devices.extend(aside.iter().filter_map(|disk| take(disk).ok()));
    let guid = found.guid.to_string();
    let pool = Pool::import_with(devices, ImportOptions { wanted: Some(&guid), at_most: None });
    let pool = watch(pool.map_err(|error| Refused::Failed(format!("{wanted}: {error}")))?);
    let mut store = Store::open(pool, random()).map_err(|error| edit_failed(wanted, &error))?;
    // Disks may have changed places since.
    let places: Vec<(u64, String)> = found.leaves.iter().copied().zip(found.disks.iter().map(|disk| format!("/dev/{disk}"))).collect();
    store.note_paths(&places).map_err(|error| edit_failed(wanted, &error))?;
    let replayed = pool_zpl::replay_logs(&mut store, now()).map_err(|error| edit_failed(wanted, &error))?;
    if replayed > 0 {
        kif::log().line(format_args!("pool {}: {replayed} records of the intent log replayed", store.name()));
    }
    start(store)
}

/// What a vdev is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Data,
    Log,
    Aside(Auxiliary),
}

/// A vdev as asked for: kind (parity; 0 = mirror; `None` = disk), names of its disks, what it is for.
type Wanted = (Option<usize>, Vec<String>, Role);

/// Splits `mirror a b raidz c d e log f spare g cache h` into vdevs.
fn parse_layout(words: &[String]) -> Result<Vec<Wanted>> {
    let mut out: Vec<Wanted> = Vec::new();
    let mut role = Role::Data;
    let mut open = false;
    for word in words {
        let kind = match word.as_str() {
            "mirror" => Some(0),
            "raidz" | "raidz1" => Some(1),
            "raidz2" => Some(2),
            "raidz3" => Some(3),
            "log" | "spare" | "cache" => {
                role = match word.as_str() {
                    "log" => Role::Log,
                    "spare" => Role::Aside(Auxiliary::Spare),
                    _ => Role::Aside(Auxiliary::Cache),
                };
                open = false;
                continue;
            }
            "special" | "dedup" => return Err(Refused::Invalid(format!("{word} devices are not supported yet"))),
            _ => None,
        };
        match (kind, open) {
            (Some(_), _) if matches!(role, Role::Aside(_)) => return Err(Refused::Invalid(format!("{word}: spares and cache devices are single disks"))),
            (Some(_), _) => {
                out.push((kind, Vec::new(), role));
                open = true;
            }
            (None, true) => out.last_mut().expect("a kind opened one").1.push(word.clone()),
            (None, false) => out.push((None, [word.clone()].into(), role)),
        }
    }
    if out.is_empty() {
        return Err(Refused::Invalid(String::from("no disks given")));
    }
    for (kind, names, _) in &out {
        let (title, least) = match kind {
            None => continue,
            Some(0) => (String::from("mirror"), 2),
            Some(parity) => (format!("raidz{parity}"), parity + 1),
        };
        if names.len() < least {
            return Err(Refused::Invalid(format!("{title} needs at least {least} disks, and has {}", names.len())));
        }
    }
    let mut all: Vec<&str> = out.iter().flat_map(|(_, names, _)| names).map(|name| name.strip_prefix("/dev/").unwrap_or(name)).collect();
    all.sort_unstable();
    let is_of = |part: &str, disk: &str| part.strip_prefix(disk).is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()));
    if let Some(twice) = all.windows(2).find(|pair| is_of(pair[1], pair[0])) {
        return Err(Refused::Invalid(format!("{}: named twice{}", twice[0], if twice[0] == twice[1] { String::new() } else { format!(", once as {}", twice[1]) })));
    }
    Ok(out)
}

/// Whether a pool may have these disks: they are there and free, no two are one, and unless `force` none holds a pool other than `own`. Nothing is written to one before
/// this was asked of all.
fn check_disks(names: &[&str], force: bool, own: Option<u64>) -> Result<()> {
    if !force {
        let named: Vec<&str> = names.iter().map(|name| name.strip_prefix("/dev/").unwrap_or(name)).collect();
        for found in importable(false).into_iter().filter(|found| Some(found.guid) != own) {
            let is_named = |disk: &&String| named.iter().any(|named| disk.strip_prefix(named).is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit())));
            if let Some(disk) = found.disks.iter().find(is_named) {
                return Err(Refused::Exists(format!("{disk} belongs to pool {}; use -f to overwrite it", found.name)));
            }
        }
    }
    // All are held at once: a disk and a partition of it are one.
    names.iter().map(|name| take(name)).collect::<Result<Vec<_>>>().map(drop)
}

/// The same of all that `words` name.
fn check_layout(words: &[String], force: bool, own: Option<u64>) -> Result<()> {
    let wanted = parse_layout(words)?;
    let names: Vec<&str> = wanted.iter().flat_map(|(_, names, _)| names).map(String::as_str).collect();
    check_disks(&names, force, own)
}

/// Vdevs of disks that [`check_layout`] found to be free; tables are written to whole ones.
fn layouts(words: &[String]) -> Result<Vec<(Layout, Role)>> {
    parse_layout(words)?
        .into_iter()
        .map(|(redundancy, names, role)| {
            let devices = names.iter().map(|name| take_for_pool(name)).collect::<Result<_>>()?;
            Ok((Layout { redundancy, devices }, role))
        })
        .collect()
}

/// Makes a pool of `words` (`mirror vda vdb`, as `zpool create` takes them). Disks that hold a pool are refused unless `force`.
///
/// # Errors
/// See [`Refused`].
pub fn create(name: &str, words: &[String], ashift: Option<u32>, force: bool) -> Result<Arc<Storage>> {
    check_create(name, words, force)?;
    let mut data = Vec::new();
    let mut others = Vec::new();
    for (layout, role) in layouts(words)? {
        if role == Role::Data { data.push(layout) } else { others.push((layout, role)) }
    }
    if data.is_empty() {
        return Err(Refused::Invalid(String::from("no disks for data given")));
    }
    let sectors = data.iter().flat_map(|layout| &layout.devices).map(|(_, device)| device.sector_bytes().trailing_zeros());
    let ashift = ashift.or_else(|| sectors.max()).unwrap_or(12).clamp(9, 16);
    let (pool, config) = pool_spa::create(name, data, ashift, &mut random()).map_err(|error| Refused::Invalid(format!("{name}: {error}")))?;
    let (seconds, rest) = now();
    let build = || -> core::result::Result<Store, EditError> {
        let mut store = Store::create(watch(pool), config, seconds, random())?;
        create_filesystem(&mut store, name, &NewEntry { mode: 0o755, uid: 0, gid: 0, now: (seconds, rest) })?;
        store.commit(seconds)?;
        for (layout, role) in others {
            add_one(&mut store, layout, role, seconds)?;
        }
        Ok(store)
    };
    start(build().map_err(|error| edit_failed(name, &error))?)
}

/// Whether [`create`] may write to what it is asked to.
///
/// # Errors
/// See [`Refused`].
pub fn check_create(name: &str, words: &[String], force: bool) -> Result<()> {
    let reserved = ["mirror", "raidz", "draid", "spare", "log", "cache"].iter().any(|word| name.starts_with(word));
    let plain = name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-.".contains(letter));
    if reserved || !plain || !name.starts_with(|letter: char| letter.is_ascii_alphabetic()) || name.len() > 200 {
        return Err(Refused::Invalid(format!("{name}: not a name for a pool: a letter, then letters, digits, - _ . but no kind of device")));
    }
    if registry::find(name).is_some() {
        return Err(Refused::Exists(format!("{name}: a pool of this name is imported")));
    }
    check_layout(words, force, None)
}

/// The pool called `name`.
///
/// # Errors
/// [`Refused::NotFound`].
pub fn pool(name: &str) -> Result<Arc<Storage>> {
    registry::find(name).filter(|pool| pool.name() == name).ok_or_else(|| Refused::NotFound(format!("{name}: no such pool; see 'zpool list'")))
}

/// The pool that holds dataset `name`.
///
/// # Errors
/// [`Refused::NotFound`].
pub fn pool_of(name: &str) -> Result<Arc<Storage>> {
    registry::find(name).ok_or_else(|| Refused::NotFound(format!("{name}: no such pool; see 'zpool list'")))
}

/// Unmounts a pool's file systems, commits, and gives its disks back; with `destroy` they belong to no pool any more, though `import` with `destroyed` finds it as long as
/// nobody took them.
///
/// # Errors
/// See [`Refused`]; the pool stays imported then, unless a device did not take its last commit.
pub fn export(cx: &Cx<'_>, name: &str, destroy: bool) -> Result<()> {
    let _alone = alone();
    let pool = pool(name)?;
    refuse_open_below(&pool, name)?;
    // Of a pool that is suspended the names may not be known; what is unmounted of it stays so.
    let mut mounted = Vec::new();
    for name in filesystems(&pool).unwrap_or_default() {
        if place(&pool, &name).is_ok_and(|(dataset, _)| pool.has_mounted(dataset)) {
            if !is_for(&pool, &name, cx.cred.zone)? {
                return Err(Refused::Busy(format!("{name}: mounted in the zone that it was delegated to; halt the zone first")));
            }
            mounted.push(name);
        }
    }
    if let Err(refused) = unmount_all(cx, &pool) {
        // All or nothing: those that were not busy are mounted again.
        for name in mounted {
            if place(&pool, &name).is_ok_and(|(dataset, _)| !pool.has_mounted(dataset)) {
                mount_one(cx, &pool, &name)?;
            }
        }
        return Err(refused);
    }
    let exported = pool.export(destroy);
    if pool.is_gone() {
        registry::remove(&pool);
    }
    exported.map_err(|error| match error {
        VfsError::Busy => failed(name, error),
        _ if pool.is_gone() => Refused::Failed(format!("{name}: a device did not take the last commit; the pool was let go of as it was before that, and can be imported again")),
        error => failed(name, error),
    })
}

/// What may be done to a device of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChange {
    Attach,
    Replace,
    Detach,
    Offline,
    Online,
    /// As `Online`, and what its top-level vdev has more room for is used.
    Expand,
    Clear,
}

/// A new device of a pool.
#[derive(Clone, Copy, Debug)]
pub struct NewDevice<'w> {
    pub name: &'w str,
    /// What is in use is copied to it in the order of places, then scrubbed.
    pub sequential: bool,
    /// It may hold another pool.
    pub force: bool,
}

fn guid_of(pool: &Storage) -> Result<u64> {
    pool.look(|store| store.pool().guid()).map_err(|error| failed(pool.name(), error))
}

/// Changes device `old` of a pool; `new` for attach and replace. What has to be copied is resilvered in the background.
///
/// # Errors
/// See [`Refused`]. Nothing was written to the new device unless it could stand there.
pub fn change_device(pool_name: &str, change: DeviceChange, old: &str, new: Option<NewDevice<'_>>) -> Result<()> {
    let pool = pool(pool_name)?;
    let path = |name: &str| format!("/dev/{}", name.trim_start_matches("/dev/"));
    // A whole disk is its first partition.
    let known = |store: &Store| store.leaf_called(&path(old)).or_else(|| store.leaf_called(&path(&part_name(old, 1)))).or_else(|| store.leaf_called(old)).or_else(|| old.parse().ok());
    let leaf = pool.look(known).map_err(|error| failed(pool_name, error))?;
    let leaf = leaf.ok_or_else(|| Refused::NotFound(format!("{old}: no such device in pool {pool_name}; see 'zpool status'")))?;
    let sequential = new.is_some_and(|new| new.sequential);
    // What is wrong is about the new disk, where there is one.
    let about = new.map_or_else(|| String::from(old), |new| format!("{} in place of or beside {old}", new.name));
    let device = match (change, new) {
        (DeviceChange::Attach | DeviceChange::Replace, Some(new)) => {
            check_disks(&[new.name], new.force, Some(guid_of(&pool)?))?;
            let bytes = take(new.name)?.size_bytes();
            edit(&pool, &about, |store| {
                store.check_place(leaf, bytes)?;
                if sequential { store.check_rebuild(leaf) } else { Ok(()) }
            })?;
            Some(take_for_pool(new.name)?)
        }
        (DeviceChange::Attach | DeviceChange::Replace, None) => return Err(Refused::Invalid(String::from("the new disk is missing"))),
        _ => None,
    };
    let mut error = None;
    let result = pool.with(|store| {
        let seconds = now().0;
        let done = match (change, device) {
            (DeviceChange::Attach | DeviceChange::Replace, Some((path, device))) => {
                store.attach(leaf, &path, device, change == DeviceChange::Replace, seconds).map(drop)
            }
            (DeviceChange::Detach, _) => store.detach(leaf, seconds),
            (DeviceChange::Offline, _) => store.offline(leaf, seconds),
            (DeviceChange::Online, _) => store.online(leaf, seconds),
            (DeviceChange::Expand, _) => store.online(leaf, seconds).and_then(|()| store.expand(seconds)).map(drop),
            _ => {
                store.clear_errors(Some(leaf));
                Ok(())
            }
        };
        match done {
            Ok(()) if sequential => error = store.start_rebuild().err(),
            Ok(()) if matches!(change, DeviceChange::Attach | DeviceChange::Replace | DeviceChange::Online | DeviceChange::Expand) => store.start_scan(ScanKind::Resilver),
            Ok(()) => {}
            Err(refusal) => error = Some(refusal),
        }
        Ok(())
    });
    result.map_err(|error| failed(pool_name, error))?;
    pool.wake();
    feed(&pool)?;
    error.map_or(Ok(()), |error| Err(edit_failed(&about, &error)))
}

fn add_one(store: &mut Store, layout: Layout, role: Role, seconds: u64) -> core::result::Result<(), EditError> {
    let Role::Aside(kind) = role else { return store.add(layout, role == Role::Log, seconds) };
    layout.devices.into_iter().try_for_each(|(path, device)| store.add_auxiliary(kind, &path, device, seconds).map(drop))
}

/// Takes a spare or a cache device out of a pool.
///
/// # Errors
/// See [`Refused`].
pub fn remove(pool_name: &str, device: &str) -> Result<()> {
    let pool = pool(pool_name)?;
    let path = format!("/dev/{}", device.trim_start_matches("/dev/"));
    edit(&pool, device, |store| {
        let mut all = store.auxiliaries(Auxiliary::Spare)?;
        all.extend(store.auxiliaries(Auxiliary::Cache)?);
        let known = all.iter().find(|known| known.path == path || known.path == device || device.parse() == Ok(known.guid));
        let guid = known.map(|known| known.guid).ok_or(EditError::Invalid("not a spare or cache device of the pool; only these can be removed"))?;
        store.remove_auxiliary(guid, now().0)
    })
}

/// Notes a command in the history of the pool that `name` is in, as far as there is one and it can be written.
pub fn note_history(name: &str, command: &str) {
    let Some(pool) = registry::find(name) else { return };
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

/// Adds vdevs to a pool. Disks that hold another pool are refused unless `force`.
///
/// # Errors
/// See [`Refused`].
pub fn add(pool_name: &str, words: &[String], force: bool) -> Result<()> {
    let pool = pool(pool_name)?;
    check_layout(words, force, Some(guid_of(&pool)?))?;
    for (layout, role) in layouts(words)? {
        edit(&pool, pool_name, |store| add_one(store, layout, role, now().0))?;
    }
    feed(&pool)
}

/// What goes next from memory goes to the pool's cache devices, if it has any.
fn feed(pool: &Arc<Storage>) -> Result<()> {
    pool.begin_feeding().map_err(|kif::OutOfMemory| Refused::Failed(format!("{}: no memory for the thread that feeds cache devices", pool.name())))
}

/// Forgets the error counts of all devices of a pool.
///
/// # Errors
/// See [`Refused`].
pub fn clear(pool_name: &str) -> Result<()> {
    let pool = pool(pool_name)?;
    edit(&pool, pool_name, |store| {
        store.clear_errors(None);
        Ok(())
    })
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
    let pool = pool(pool_name)?;
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

/// What `zpool status` shows.
#[derive(Clone, Debug)]
pub struct Status {
    pub name: String,
    pub guid: u64,
    pub health: String,
    pub size: u64,
    pub allocated: u64,
    pub vdevs: Vec<VdevStatus>,
    /// Of each of them: bytes, and those allocated.
    pub space: Vec<(u64, u64)>,
    /// Spares and cache devices.
    pub aside: Vec<Aside>,
    pub scan: String,
    /// A scan is under way.
    pub scanning: bool,
    /// A scrub is paused.
    pub paused: bool,
    /// Blocks that the last scan found no good copy of.
    pub scan_errors: u64,
    pub suspended: bool,
    /// How long it has been imported.
    pub age: Nanos,
}

/// A spare or cache device, as `zpool status` shows it.
#[derive(Clone, Debug)]
pub struct Aside {
    /// `spares` or `cache`.
    pub kind: &'static str,
    pub name: String,
    pub state: &'static str,
    /// Bytes for blocks, and those taken: of a cache device.
    pub size: u64,
    pub allocated: u64,
    pub counts: LeafCounts,
}

fn aside(store: &Store) -> core::result::Result<Vec<Aside>, EditError> {
    let mut out = Vec::new();
    for (kind, title) in [(Auxiliary::Cache, "cache"), (Auxiliary::Spare, "spares")] {
        for device in store.auxiliaries(kind)? {
            let cache = device.cache.as_ref();
            let state = match (kind, device.present, device.in_use) {
                (_, false, _) => "UNAVAIL",
                (Auxiliary::Cache, ..) => cache.map_or("ONLINE", |cache| cache.state.name()),
                (Auxiliary::Spare, _, true) => "INUSE",
                (Auxiliary::Spare, ..) => "AVAIL",
            };
            let (size, allocated, counts) = cache.map_or((0, 0, LeafCounts::default()), |cache| (cache.size, cache.allocated, cache.leaf.counts));
            out.push(Aside { kind: title, name: device.path, state, size, allocated, counts });
        }
    }
    Ok(out)
}

/// Looks at a pool.
///
/// # Errors
/// See [`Refused`].
pub fn status(pool: &Storage) -> Result<Status> {
    let look = pool.look(|store| {
        let (free, total) = store.free_total();
        let inner = store.pool();
        // Of a pool that is suspended the rest is to be seen, whether its lists can be read or not.
        let aside = aside(store).or_else(|error| if store.is_suspended() { Ok(Vec::new()) } else { Err(error) })?;
        Ok::<Status, EditError>(Status {
            name: store.name(),
            guid: inner.guid(),
            health: inner.health().name().to_string(),
            size: total,
            allocated: total - free,
            vdevs: inner.status(),
            space: store.space_of_vdevs(),
            aside,
            scan: String::new(),
            scanning: false,
            paused: false,
            scan_errors: 0,
            suspended: false,
            age: kif::clock().monotonic().since(pool.started()),
        })
    });
    let mut status = look.map_err(|error| failed(pool.name(), error))?.map_err(|error| edit_failed(pool.name(), &error))?;
    (status.scan, status.scan_errors) = pool.scan_lines(status.allocated);
    status.scanning = pool.is_scanning();
    status.paused = pool.is_paused();
    status.suspended = pool.is_suspended();
    Ok(status)
}

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
fn bytes(what: &str, text: &str) -> Result<u64> {
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

fn finish_new(cx: &Cx<'_>, pool: &Arc<Storage>, name: &str, properties: &[(String, String)]) -> Result<()> {
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

/// Takes a file system back to a snapshot of its own; newer ones are in the way unless `destroy_newer`.
///
/// # Errors
/// See [`Refused`].
pub fn rollback(cx: &Cx<'_>, name: &str, destroy_newer: bool) -> Result<()> {
    let _alone = alone();
    let pool = pool_of(name)?;
    let (dataset, short) = name.split_once('@').ok_or_else(|| Refused::Invalid(format!("{name}: roll back to which snapshot, DATASET@NAME?")))?;
    let newer: Vec<String> = edit(&pool, name, |store| {
        let from_here = store.snapshot_range(dataset, short, "")?;
        Ok(from_here.into_iter().skip(1).collect())
    })?;
    if !newer.is_empty() && !destroy_newer {
        return Err(Refused::Busy(format!("{name}: there are newer snapshots ({}); -r destroys them", newer.join(" "))));
    }
    refuse_sent(&pool, &newer)?;
    refuse_open_below(&pool, dataset)?;
    without_mounts(cx, &pool, &[dataset.to_string()], |pool| {
        let head = edit(pool, name, |store| store.find(dataset))?;
        pool.forget(head);
        edit(pool, name, |store| {
            check_open(pool, head)?;
            if !newer.is_empty() {
                store.destroy_snapshots(&newer.iter().map(String::as_str).collect::<Vec<_>>(), false, now().0)?;
            }
            store.rollback(dataset, now().0)
        })
    })
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

/// Renames a dataset with all below it, or a snapshot (`recursive`: those of its name below, too).
///
/// # Errors
/// See [`Refused`].
pub fn rename(cx: &Cx<'_>, from: &str, to: &str, recursive: bool) -> Result<()> {
    check_name(to)?;
    let _alone = alone();
    let pool = pool_of(from)?;
    let Some((dataset, old)) = from.split_once('@') else {
        if pool_of(to)?.name() != pool.name() {
            return Err(Refused::Invalid(format!("{to}: a dataset stays in its pool; use send and receive")));
        }
        let inside = at_and_below(&pool, from)?;
        let mounted = unmount_list(cx, &pool, &inside)?;
        let result = edit(&pool, from, |store| store.rename(from, to, now().0));
        for name in mounted {
            let name = if result.is_ok() { format!("{to}{}", &name[from.len()..]) } else { name };
            mount_one(cx, &pool, &name)?;
        }
        return result;
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
        let (first, last) = short.split_once('%').unwrap_or((short, short));
        return edit(&pool, name, |store| store.snapshot_range(dataset, first, last));
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
    if name.contains(['#', '%']) {
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
        let names: Vec<String> = match short.split_once('%') {
            Some((first, last)) => edit(&pool, name, |store| store.snapshot_range(dataset, first, last))?,
            None => [name.to_string()].into(),
        };
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

// ---- properties ------------------------------------------------------------------------------------------------------------------

/// Room for an answer: who asks for more than that is told so before it is put together.
#[derive(Debug)]
pub struct Room {
    left: usize,
    taken: usize,
}

impl Room {
    /// Least bytes of an answer that a dataset takes, and each of its properties.
    const DATASET: usize = 80;
    const VALUE: usize = 60;
    /// Bytes that go through memory for one dataset, no more.
    const COST: u64 = 4096;
    /// An answer of so many bytes or datasets is given in little memory, too.
    const SMALL: usize = 64 << 10;
    const FEW: usize = 500;

    /// Room for `bytes`.
    #[must_use]
    pub const fn new(bytes: usize) -> Self {
        Self { left: bytes, taken: 0 }
    }

    /// How many datasets there is room for at most, in the answer and in memory.
    fn datasets(&self) -> usize {
        let free = (kif::frames().free_total().0 * kif::PAGE_SIZE as u64).saturating_sub(MEMORY_MIN) / Self::COST;
        usize::try_from(free).map_or(usize::MAX, |free| free.max(Self::FEW).min(self.left / Self::DATASET))
    }

    fn take(&mut self, bytes: usize) -> core::result::Result<(), EditError> {
        self.taken += bytes;
        if self.taken > Self::SMALL && kif::frames().free_total().0 * (kif::PAGE_SIZE as u64) < MEMORY_MIN {
            return Err(EditError::Busy("no memory for so long an answer; ask for less"));
        }
        self.left = self.left.checked_sub(bytes).ok_or(EditError::Invalid("the answer would be too long; ask for a part of the tree, or for single properties"))?;
        Ok(())
    }

    /// The datasets at and below `name`.
    fn list(&self, datasets: &Datasets<'_>, name: &str) -> core::result::Result<Vec<DatasetInfo>, EditError> {
        let most = self.datasets();
        let infos = datasets.list_some(name, most)?;
        if infos.len() > most { Err(EditError::Invalid("there are too many for one answer; ask for a part of the tree")) } else { Ok(infos) }
    }
}

/// A property as `zfs get` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub dataset: String,
    pub property: String,
    pub value: String,
    /// The value for programs: sizes in bytes.
    pub exact: String,
    pub source: String,
}

/// Properties of the dataset `name`, and with `recursive` of all below it; all there are if none is named. There is `room` for them.
///
/// # Errors
/// See [`Refused`].
pub fn get(name: &str, properties: &[String], recursive: bool, room: &mut Room) -> Result<Vec<Value>> {
    let pool = pool_of(name)?;
    pool.settle().map_err(|error| failed(name, error))?;
    let mut out = Vec::new();
    // Of a receive that was broken off: the dataset's own list does not have it.
    if properties == ["receive_resume_token"] {
        let token = crate::streams::token_of(name)?.unwrap_or_else(|| String::from("-"));
        return Ok([Value { dataset: name.to_string(), property: properties[0].clone(), value: token.clone(), exact: token, source: String::from("-") }].into());
    }
    edit(&pool, name, |store| {
        let datasets = Datasets::open(store.pool())?;
        let infos = if recursive { room.list(&datasets, name)? } else { [datasets.find(name)?].into() };
        for info in infos {
            let shown = if properties.is_empty() {
                datasets.show_all(&info)?
            } else {
                let mut shown = Vec::new();
                for property in properties {
                    shown.extend(datasets.show(&info, property)?);
                }
                shown
            };
            let is_mounted = pool.has_mounted(info.object);
            let texts = shown.iter().map(|one| Room::VALUE + info.name.len() + one.name.len() + one.value.len() + one.exact.len() + one.source.len());
            room.take(texts.sum())?;
            out.extend(shown.into_iter().map(|one| {
                // The pool's format does not know what is mounted.
                let mounted = one.name == "mounted" && is_mounted;
                let pick = |text: String| if mounted { String::from("yes") } else { text };
                Value { dataset: info.name.clone(), value: pick(one.value), exact: pick(one.exact), property: one.name, source: one.source }
            }));
        }
        Ok(())
    })?;
    Ok(out)
}

fn put_property(pool: &Storage, name: &str, property: &str, text: &str) -> Result<()> {
    let what = format!("{name}: {property}={text}");
    edit(pool, &what, |store| {
        let value = pool_dmu::parse_property(property, text)?;
        store.set_property(name, pool_dmu::full_name(property), &value)?;
        store.commit(now().0)
    })
    .map_err(|refusal| match refusal {
        Refused::Invalid(why) if pool_dmu::parse_property(property, text).is_err() => Refused::Invalid(format!("{why}: {}", pool_dmu::hint(property))),
        refusal => refusal,
    })
}

/// Whether a change of this property moves file systems.
fn moves(property: &str) -> bool {
    matches!(property, "mountpoint" | "canmount" | "zoned" | "exec" | "setuid" | "devices" | "readonly")
}

/// Sets a property from text, or with `None` takes what is above. File systems follow their mount points.
///
/// # Errors
/// See [`Refused`].
pub fn set(cx: &Cx<'_>, name: &str, property: &str, text: Option<&str>) -> Result<()> {
    let property = pool_dmu::full_name(property);
    let _alone = alone();
    let pool = pool_of(name)?;
    if let ("volsize", Some(text)) = (property, text) {
        let size = bytes(name, text)?;
        return pool.resize_volume(name, size).map_err(|error| failed(name, error))?.map_err(|error| edit_failed(name, &error));
    }
    let change = |pool: &Arc<Storage>| match text {
        Some(text) => put_property(pool, name, property, text),
        None => edit(pool, name, |store| {
            store.inherit_property(name, pool_dmu::full_name(property), false)?;
            store.commit(now().0)
        }),
    };
    if !moves(property) || name.contains('@') {
        return change(&pool);
    }
    let inside = at_and_below(&pool, name)?;
    let changed = if is_option(property) {
        // It stays mounted, and the mount obeys.
        change(&pool).and_then(|()| inside.iter().try_for_each(|name| remount(cx, &pool, name)))
    } else {
        without_mounts(cx, &pool, &inside, change)
    };
    if property == "readonly" {
        pool.look_at_read_only();
    }
    changed
}

// ---- mounting --------------------------------------------------------------------------------------------------------------------

/// Where a file system belongs: its `mountpoint`, or that of the one above with the rest of its name; `None`: nowhere.
fn mountpoint(datasets: &Datasets<'_>, info: &DatasetInfo) -> core::result::Result<Option<String>, pool_dmu::Error> {
    let properties = datasets.properties(info)?;
    let find = |name: &str| properties.iter().find(|property| property.name == name);
    if find("canmount").is_some_and(|property| property.value == "0" && property.source == pool_dmu::Source::Local) {
        return Ok(None);
    }
    Ok(match find("mountpoint") {
        None => Some(format!("/{}", info.name)),
        Some(property) => match (property.value.as_str(), &property.source) {
            ("none" | "legacy", _) => None,
            (base, pool_dmu::Source::Inherited(from)) => {
                let rest = info.name.strip_prefix(from.as_str()).unwrap_or("");
                Some(format!("{}{rest}", base.trim_end_matches('/')))
            }
            (path, _) => Some(path.to_string()),
        },
    })
}

/// Whether `zone` is where a file system is mounted: one that was delegated, in its zone, others in the global zone. What is below a delegated one is of the zone, whatever it
/// says itself: a stream that the zone received may say anything.
fn is_for(pool: &Storage, name: &str, zone: ZoneId) -> Result<bool> {
    let zoned = pool.with(|store| {
        let datasets = Datasets::open(store.pool())?;
        let mut at = name;
        loop {
            match (datasets.settings(&datasets.find(at)?, ["zoned"])?, at.rsplit_once('/')) {
                ([Some(1)], _) => return Ok(true),
                ([Some(_)], Some((above, _))) => at = above,
                _ => return Ok(false),
            }
        }
    });
    zoned.map(|zoned| zoned == (zone != ZoneId::GLOBAL)).map_err(|error| failed(name, error))
}

/// Properties that are options of a mount.
fn is_option(property: &str) -> bool {
    matches!(property, "exec" | "setuid" | "devices" | "readonly")
}

/// Options of a file system's mount.
fn options(pool: &Storage, name: &str) -> Result<MountFlags> {
    let look = pool.with(|store| {
        let datasets = Datasets::open(store.pool())?;
        let info = datasets.find(name)?;
        let [readonly, exec, setuid, devices] = datasets.settings(&info, ["readonly", "exec", "setuid", "devices"])?;
        let mut flags = MountFlags::empty();
        for (value, given, flag) in [(readonly, 1, MountFlags::READ_ONLY), (exec, 0, MountFlags::NOEXEC), (setuid, 0, MountFlags::NOSUID), (devices, 0, MountFlags::NODEV)] {
            flags.set(flag, value == Some(given));
        }
        Ok(flags)
    });
    look.map_err(|error| failed(name, error))
}

/// A mounted file system obeys its properties from now on, wherever it is: one that was delegated is in its zone.
fn remount(cx: &Cx<'_>, pool: &Arc<Storage>, name: &str) -> Result<()> {
    let (dataset, _) = place(pool, name)?;
    let numbers = pool.mounted_numbers(Some(dataset));
    if numbers.is_empty() {
        return Ok(());
    }
    vfs::mount::remount_those(cx.root, |mount| mount.source() == name && numbers.contains(&mount.root().id().fs), options(pool, name)?);
    Ok(())
}

/// Mounts the file systems at and below `name` that are for the caller's zone; what cannot be mounted is said and left.
///
/// # Errors
/// The pool cannot be read.
pub fn mount_below(cx: &Cx<'_>, name: &str) -> Result<()> {
    let _alone = alone();
    let pool = pool_of(name)?;
    for name in at_and_below(&pool, name)? {
        if let Err(error) = mount_new(cx, &pool, &name) {
            kif::log().line(format_args!("{error}"));
        }
    }
    Ok(())
}

fn place(pool: &Storage, name: &str) -> Result<(u64, Option<String>)> {
    let look = pool.with(|store| {
        let datasets = Datasets::open(store.pool())?;
        let info = datasets.find(name)?;
        let at = mountpoint(&datasets, &info)?;
        Ok((store.find(name)?, at))
    });
    look.map_err(|error| failed(name, error))
}

/// Where a file system belongs; `None`: nowhere.
///
/// # Errors
/// See [`Refused`].
pub fn mountpoint_of(name: &str) -> Result<Option<String>> {
    Ok(place(&*pool_of(name)?, name)?.1)
}

/// Whether a file system is mounted without being asked for by name (`canmount`).
fn is_automatic(pool: &Storage, name: &str) -> Result<bool> {
    let look = pool.with(|store| {
        let datasets = Datasets::open(store.pool())?;
        Ok(datasets.show(&datasets.find(name)?, "canmount")?.is_none_or(|shown| shown.value == "on"))
    });
    look.map_err(|error| failed(name, error))
}

/// Unmounts those of `names` that are mounted, inner ones first. Returns them, outer ones first; on failure all are mounted again.
pub(crate) fn unmount_list(cx: &Cx<'_>, pool: &Arc<Storage>, names: &[String]) -> Result<Vec<String>> {
    let mut done: Vec<String> = Vec::new();
    let mut names: Vec<&String> = names.iter().filter(|name| !name.contains('@')).collect();
    names.sort();
    for name in names.into_iter().rev() {
        let (dataset, _) = place(pool, name)?;
        if !pool.has_mounted(dataset) {
            continue;
        }
        let done_one = match is_for(pool, name, cx.cred.zone)? {
            true => unmount_one(cx, pool, name, dataset),
            false => Err(Refused::Busy(format!("{name}: mounted in the zone that it was delegated to; halt the zone, or do it there"))),
        };
        if let Err(refused) = done_one {
            for name in done.iter().rev() {
                mount_one(cx, pool, name)?;
            }
            return Err(refused);
        }
        pool.forget(dataset);
        done.push(name.clone());
    }
    done.reverse();
    Ok(done)
}

/// Calls `change` while those of `names` that are mounted are not.
fn without_mounts(cx: &Cx<'_>, pool: &Arc<Storage>, names: &[String], change: impl FnOnce(&Arc<Storage>) -> Result<()>) -> Result<()> {
    let mounted = unmount_list(cx, pool, names)?;
    let result = change(pool);
    for name in mounted {
        // Delegated just now, it is not for this zone any more.
        if is_for(pool, &name, cx.cred.zone)? {
            mount_one(cx, pool, &name)?;
        }
    }
    result
}

/// Mounts one file system where it belongs, in the global zone; one that belongs nowhere is left.
///
/// # Errors
/// See [`Refused`].
pub fn mount(cx: &Cx<'_>, pool: &Arc<Storage>, name: &str) -> Result<()> {
    let _alone = alone();
    mount_one(cx, pool, name)
}

/// The same, of an operation that is alone.
pub(crate) fn mount_one(cx: &Cx<'_>, pool: &Arc<Storage>, name: &str) -> Result<()> {
    if !is_for(pool, name, cx.cred.zone)? {
        return Err(Refused::Invalid(if cx.cred.zone == ZoneId::GLOBAL {
            format!("{name}: zoned: it is mounted in the zone that it was delegated to")
        } else {
            format!("{name}: not zoned: it is for the global zone")
        }));
    }
    let (dataset, Some(path)) = place(pool, name)? else { return Ok(()) };
    if edit(pool, name, |store| store.is_inconsistent(dataset))? {
        return Err(Refused::Busy(format!("{name}: a receive into it is not finished: resume it with 'zfs send -t' and the token, or forget it with 'zfs receive -A'")));
    }
    let flags = options(pool, name)?;
    let fs = pool.mount(dataset, flags.contains(MountFlags::READ_ONLY)).map_err(|error| match error {
        VfsError::Busy => Refused::Busy(format!("{name}: already mounted")),
        error => failed(name, error),
    })?;
    let at = directory(cx, &path)?;
    vfs::mount::mount(&at, fs, name, flags).map_err(|error| failed(&path, error))?;
    Ok(())
}

/// Makes the directory at `path` where it is not there, and finds it. Each part is looked up from the one before, and none may be a link: a part may lie in a tenant's
/// tree, whose link would lead the mount to wherever he likes.
fn directory(cx: &Cx<'_>, path: &str) -> Result<Place> {
    let mut at = cx.root.clone();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            return Err(Refused::Invalid(format!("{path}: '..' is no part of a mountpoint")));
        }
        match vfs::ops::mkdir(cx, Some(&at), part.as_bytes(), 0o755) {
            Ok(()) | Err(VfsError::Exists) => {}
            Err(error) => return Err(failed(path, error)),
        }
        at = vfs::lookup(cx, Some(&at), part.as_bytes(), vfs::Follow::No).map_err(|error| failed(path, error))?;
        if at.vnode.kind() == vfs::Kind::Symlink {
            return Err(Refused::Busy(format!("{path}: '{part}' is a link, and a file system is mounted on no link: remove it, or set another mountpoint")));
        }
    }
    Ok(at)
}

fn filesystems(pool: &Storage) -> Result<Vec<String>> {
    let list = pool.with(|store| {
        let all = Datasets::open(store.pool())?.list(&store.name())?;
        Ok(all.into_iter().filter(|info| info.kind == DatasetKind::Filesystem).map(|info| info.name).collect())
    });
    list.map_err(|error| failed(pool.name(), error))
}

/// Mounts all file systems of a pool, outer ones first; what cannot be mounted is said and left.
///
/// # Errors
/// The pool cannot be read.
pub fn mount_all(cx: &Cx<'_>, pool: &Arc<Storage>) -> Result<()> {
    let _alone = alone();
    for name in filesystems(pool)? {
        match mount_new(cx, pool, &name) {
            Ok(()) => {}
            Err(error) => kif::log().line(format_args!("{error}")),
        }
    }
    Ok(())
}

/// Unmounts one file system.
///
/// # Errors
/// Not mounted, or in use.
pub fn unmount(cx: &Cx<'_>, pool: &Arc<Storage>, name: &str) -> Result<()> {
    let _alone = alone();
    let (dataset, _) = place(pool, name)?;
    if !pool.has_mounted(dataset) {
        return Err(Refused::NotFound(format!("{name}: not mounted")));
    }
    if !is_for(pool, name, cx.cred.zone)? {
        return Err(Refused::Busy(format!("{name}: mounted in the zone that it was delegated to; halt the zone, or do it there")));
    }
    unmount_one(cx, pool, name, dataset)
}

/// Takes a file system off the place it is on, wherever that is: another may have been mounted over it.
fn unmount_one(cx: &Cx<'_>, pool: &Storage, name: &str, dataset: u64) -> Result<()> {
    // Its source alone does not make it ours: whoever may bind says what that is.
    let numbers = pool.mounted_numbers(Some(dataset));
    let is_it = |mount: &vfs::Mount| mount.source() == name && numbers.contains(&mount.root().id().fs);
    vfs::mount::unmount_those(cx.root, is_it).map_err(|(name, error)| failed(&name, error))?;
    // A bind of it elsewhere keeps it.
    if pool.has_mounted(dataset) { Err(failed(name, VfsError::Busy)) } else { Ok(()) }
}

/// Unmounts all file systems of a pool, which may be suspended: nothing of it is read.
fn unmount_all(cx: &Cx<'_>, pool: &Arc<Storage>) -> Result<()> {
    let numbers = pool.mounted_numbers(None);
    let is_ours = |mount: &vfs::Mount| {
        let below = mount.source().strip_prefix(pool.name());
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) && numbers.contains(&mount.root().id().fs)
    };
    vfs::mount::unmount_those(cx.root, is_ours).map_err(|(name, error)| failed(&name, error))
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
        match import(&found.guid.to_string(), false).and_then(|pool| mount_all(cx, &pool)) {
            Ok(()) => kif::log().line(format_args!("pool {}: imported from {}", found.name, found.disks.join(" "))),
            Err(error) => kif::log().line(format_args!("pool {}: not imported: {error}", found.name)),
        }
    }
}

/// Commits what all pools have open: before the machine goes off.
pub fn sync_all() {
    for pool in registry::all() {
        if let Err(error) = pool.sync() {
            kif::log().line(format_args!("pool {}: {error:?}", pool.name()));
        }
    }
}
