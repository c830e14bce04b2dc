//! What becomes of a pool as a whole: its properties, its guid and features, another pool made of its mirrors' sides, its free space, and its use after devices failed.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use kif::BlockDev;
use pool_dmu::edit::EditError;
use pool_dmu::{FreeAt, FreeStep, PoolProperty, ScanKind, parse_pool_property};
use pool_spa::{FreeWork, LabelOf, open_partitions};
use vfs::Cx;

use super::datasets::refuse_open_below;
use super::devices::leaf_named;
use super::disks::{Held, forget_table, part_name, random};
use super::mounts::{mount_all, unmount_all};
use super::pools::{ImportRequest, STATE_DESTROYED, import, pool, pool_to_change, start};
use super::{Refused, Result, alone, edit, edit_failed, failed};
use crate::storage::now;
use crate::{Storage, registry};

/// Bytes of a vdev that are worked on at a time: who waits for the pool comes after them.
const WORK_BYTES: u64 = 16 << 20;

/// All properties of a pool.
///
/// # Errors
/// See [`Refused`].
pub fn pool_properties(pool: &Storage) -> Result<Vec<PoolProperty>> {
    let bearing = pool.bearing();
    let look = pool.look(|store| store.pool_properties(&bearing)).map_err(|error| failed(pool.name(), error))?;
    look.map_err(|error| edit_failed(pool.name(), &error))
}

/// Sets a property of a pool.
///
/// # Errors
/// See [`Refused`]: what the property takes.
pub fn set_pool_property(name: &str, property: &str, text: &str) -> Result<()> {
    let change = parse_pool_property(property, text).map_err(|why| Refused::Invalid(format!("{name}: {why}")))?;
    let pool = pool_to_change(name)?;
    super::settle(&pool)?;
    edit(&pool, &format!("{name}: {property}={text}"), |store| store.set_pool_property(&change, now().0))?;
    if property == "autoexpand" {
        grow(&pool)?;
    }
    pool.look_at_failmode();
    Ok(())
}

/// Uses what devices grew by, if the pool wants that.
pub(super) fn grow(pool: &Storage) -> Result<()> {
    let gained = edit(pool, pool.name(), |store| if store.pool_switch("autoexpand")? && store.expandable() > 0 { store.expand(now().0) } else { Ok(0) })?;
    if gained > 0 {
        kif::log().line(format_args!("pool {}: its devices grew: {gained} bytes more", pool.name()));
    }
    Ok(())
}

/// Gives a pool another guid.
///
/// # Errors
/// See [`Refused`].
pub fn reguid(name: &str) -> Result<u64> {
    edit(&*pool_to_change(name)?, name, |store| store.reguid(now().0))
}

/// Features that a pool lacks of those that new pools have; with `enable` it has them afterwards.
///
/// # Errors
/// See [`Refused`].
pub fn upgrade(name: &str, enable: bool) -> Result<Vec<&'static str>> {
    let pool = if enable { pool_to_change(name)? } else { pool(name)? };
    edit(&pool, name, |store| if enable { store.upgrade(now().0) } else { store.lacking_features() })
}

/// Brings what devices lack anew, from the start.
///
/// # Errors
/// See [`Refused`].
pub fn resilver(name: &str) -> Result<()> {
    let pool = pool_to_change(name)?;
    edit(&pool, name, |store| {
        if !store.pool().trees().iter().flat_map(pool_spa::config::VdevConfig::leaves).any(|leaf| !store.pool().is_whole(leaf.guid)) {
            return Err(EditError::Invalid("no device lacks anything: there is nothing to resilver"));
        }
        store.start_scan(ScanKind::Resilver);
        Ok(())
    })?;
    pool.wake();
    Ok(())
}

/// Looks again for devices that were missing, and at the sizes of those that are there.
///
/// # Errors
/// See [`Refused`].
pub fn reopen(name: &str) -> Result<()> {
    let pool = pool_to_change(name)?;
    let absent = edit(&pool, name, |store| {
        let inner = store.pool();
        let leaves = inner.trees().iter().flat_map(|tree| tree.leaves().iter().map(|leaf| leaf.guid).collect::<Vec<_>>()).collect::<Vec<_>>();
        Ok(leaves.into_iter().filter(|guid| inner.leaf_size(*guid) == 0).collect::<Vec<_>>())
    })?;
    let mut returned = 0;
    for (guid, part) in free_disks_of(&absent) {
        returned += usize::from(edit(&pool, name, |store| {
            // A scan under way knows nothing of it, and begins anew.
            let returned = store.return_device(guid, part);
            if returned {
                store.start_scan(ScanKind::Resilver);
            }
            Ok(returned)
        })?);
    }
    if returned > 0 {
        edit(&pool, name, |store| store.commit(now().0))?;
        pool.wake();
    }
    grow(&pool)
}

/// Free disks that say they are one of the leaves `absent`.
fn free_disks_of(absent: &[u64]) -> Vec<(u64, Box<dyn BlockDev>)> {
    let mut found = Vec::new();
    if absent.is_empty() {
        return found;
    }
    for disk in vfs::block::disks() {
        let Some(held) = Held::take(&disk) else { continue };
        for (_, part) in open_partitions(held) {
            if let Some(label) = pool_spa::label_of(&*part).filter(|label| absent.contains(&label.guid)) {
                found.push((label.guid, part));
            }
        }
    }
    found
}

/// Makes a pool `new` of one side of every mirror of a pool: those of `devices`, else the last ones. It is exported then, or with `altroot` imported below that. Returns the
/// paths of the sides; `dry`: nothing is done.
///
/// # Errors
/// See [`Refused`].
pub fn split(cx: &Cx<'_>, name: &str, new: &str, devices: &[String], altroot: Option<&str>, dry: bool) -> Result<Vec<String>> {
    super::pools::check_pool_name(new)?;
    let pool = pool_to_change(name)?;
    super::settle(&pool)?;
    let chosen = devices.iter().map(|device| leaf_named(&pool, device)).collect::<Result<Vec<_>>>()?;
    let plan = |store: &mut pool_dmu::Store| {
        let going = store.plan_split(&chosen)?;
        let trees = store.pool().trees();
        let path = |guid: &u64| trees.iter().find_map(|tree| tree.find(*guid)).and_then(|leaf| leaf.path.clone()).unwrap_or_else(|| guid.to_string());
        Ok(going.iter().map(path).collect::<Vec<_>>())
    };
    let paths = edit(&pool, name, plan)?;
    if dry {
        return Ok(paths);
    }
    let mut other = edit(&pool, name, |store| store.split(new, &chosen, random(), now().0))?;
    pool.changed();
    match altroot {
        None => other.export(now().0).map_err(|error| edit_failed(new, &error))?,
        Some(root) => {
            let other = start(other, Some(root))?;
            mount_all(cx, &other)?;
        }
    }
    Ok(paths)
}

/// Makes a disk's labels invalid, so that it belongs to no pool. One that a pool on free disks needs is refused unless `force`.
///
/// # Errors
/// See [`Refused`].
pub fn clear_labels(name: &str, force: bool) -> Result<()> {
    let bare = name.strip_prefix("/dev/").unwrap_or(name);
    let disks = vfs::block::disks();
    let whole = disks.iter().find(|disk| disk.name() == bare);
    let of_part = || disks.iter().find(|disk| disk.name() == bare.trim_end_matches(|letter: char| letter.is_ascii_digit()));
    let disk = whole.or_else(of_part).ok_or_else(|| Refused::NotFound(format!("{name}: no such disk")))?;
    let take = || Held::take(disk).ok_or_else(|| Refused::Busy(format!("{name}: in use by a pool: take it out of that first")));
    let mut cleared = 0;
    let parts = open_partitions(take()?);
    for (number, part) in parts.into_iter().filter(|(number, _)| whole.is_some() || part_name(disk.name(), *number) == bare) {
        let part_is = part_name(disk.name(), number);
        match pool_spa::label_of(&*part) {
            None => continue,
            Some(label) if force || label.state == STATE_DESTROYED => {}
            Some(LabelOf { pool: Some(owner), .. }) => return Err(Refused::Exists(format!("{part_is}: it belongs to pool {owner}; -f makes its label invalid"))),
            Some(_) => return Err(Refused::Exists(format!("{part_is}: it is a pool's spare or cache device; -f makes its label invalid"))),
        }
        pool_spa::clear_labels_of(&*part).map_err(|_| Refused::Failed(format!("{name}: it does not take writes")))?;
        cleared += 1;
    }
    if cleared == 0 {
        return Err(Refused::NotFound(format!("{name}: it has no label of a pool")));
    }
    // The table goes with the pool's partition, unless there are others in it.
    let rest = take()?;
    if whole.is_some() && pool_spa::is_pools_alone(&*rest) {
        forget_table(&*rest).map_err(|_| Refused::Failed(format!("{name}: it does not take writes")))?;
    }
    Ok(())
}

/// Works on the next free space of a pool, of all devices or of one.
///
/// # Errors
/// See [`Refused`].
pub fn work_on_free(name: &str, work: FreeWork, device: Option<&str>, at: FreeAt) -> Result<FreeStep> {
    let pool = pool_to_change(name)?;
    let leaf = device.map(|device| leaf_named(&pool, device)).transpose()?;
    edit(&pool, name, |store| store.work_on_free(work, leaf, at, WORK_BYTES))
}

/// Takes a pool into use again that is suspended since devices failed: those that answer again are put back into service, the commit that stalled is done, and everybody who waits
/// goes on; nothing is lost. Of a store that broke (see `pool_dmu::Store`) there is only what its last commit and its intent logs have, as after a power cut: its file systems are
/// unmounted meanwhile.
///
/// # Errors
/// See [`Refused`]; its devices do not answer still, or something of a pool that broke is in use.
pub fn resume(cx: &Cx<'_>, name: &str) -> Result<()> {
    let pool = pool_to_change(name)?;
    if !pool.is_suspended() {
        return Err(Refused::Invalid(format!("{name}: it is not suspended")));
    }
    let tried = pool.retry(&mut free_disks_of).map_err(|error| failed(name, error))?;
    if tried == Ok(true) {
        kif::log().line(format_args!("pool {name}: in use again, with everything that was changed"));
        return Ok(());
    }
    let dead = pool.look(|store| store.pool().silent_leaves()).map_err(|error| failed(name, error))?;
    if let Err(silent) = dead {
        return Err(Refused::Failed(format!("{name}: too many of its devices do not answer still ({}): bring them back first", silent.join(" "))));
    }
    if let Err(error) = tried {
        return Err(Refused::Failed(format!("{name}: its devices answer, but they do not take what is to be written, or are not those that went ({error}): it is suspended still")));
    }
    let only = alone();
    refuse_open_below(&pool, name)?;
    let was_mounted = !pool.mounted_numbers(None).is_empty();
    unmount_all(cx, &pool)?;
    let (guid, lasting) = pool.look(|store| (store.pool().guid().to_string(), store.lasting_name())).map_err(|error| failed(name, error))?;
    let bearing = pool.bearing();
    // It cannot write what it has, and is not to.
    pool.abandon();
    registry::remove(&pool);
    drop(pool);
    let is_for_now = lasting != name;
    let request = ImportRequest { wanted: &guid, new_name: is_for_now.then_some(name), for_now: is_for_now, altroot: bearing.altroot.as_deref(), force: true, ..ImportRequest::default() };
    // A new guid may be in no label: the commit that would have put it there is the one that failed.
    let again = import(&request).or_else(|refused| match refused {
        Refused::NotFound(_) => import(&ImportRequest { wanted: &lasting, ..request }),
        refused => Err(refused),
    })?;
    kif::log().line(format_args!("pool {name}: in use again, as of its last commit"));
    drop(only);
    if was_mounted { mount_all(cx, &again) } else { Ok(()) }
}
