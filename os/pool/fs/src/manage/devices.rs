//! Devices of an imported pool: added, attached, replaced, taken off and on.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use pool_dmu::edit::EditError;
use pool_dmu::{Auxiliary, ScanKind, Store};
use pool_spa::Layout;

use super::disks::{part_name, take, take_for_pool};
use super::layout::{Role, check_disks, check_layout, layouts};
use super::pools::pool_to_change;
use super::{Refused, Result, edit, edit_failed, failed};
use super::upkeep::grow;
use crate::Storage;
use crate::storage::now;

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

/// Guid of a pool's device, by its disk's name, its path or its guid.
pub(super) fn leaf_named(pool: &Storage, name: &str) -> Result<u64> {
    let path = |name: &str| format!("/dev/{}", name.trim_start_matches("/dev/"));
    // A whole disk is its first partition.
    let known = |store: &Store| store.leaf_called(&path(name)).or_else(|| store.leaf_called(&path(&part_name(name, 1)))).or_else(|| store.leaf_called(name)).or_else(|| name.parse().ok());
    let leaf = pool.look(known).map_err(|error| failed(pool.name(), error))?;
    leaf.ok_or_else(|| Refused::NotFound(format!("{name}: no such device in pool {}; see 'zpool status'", pool.name())))
}

/// Changes device `old` of a pool; `new` for attach and replace. What has to be copied is resilvered in the background.
///
/// # Errors
/// See [`Refused`]. Nothing was written to the new device unless it could stand there.
pub fn change_device(pool_name: &str, change: DeviceChange, old: &str, new: Option<NewDevice<'_>>) -> Result<()> {
    let pool = pool_to_change(pool_name)?;
    let leaf = leaf_named(&pool, old)?;
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
            // A cache device has nothing that could be lacking.
            Ok(()) if matches!(change, DeviceChange::Attach | DeviceChange::Replace | DeviceChange::Online | DeviceChange::Expand) && store.pool().leaf_state(leaf).is_some() => {
                store.start_scan(ScanKind::Resilver);
            }
            Ok(()) => {}
            Err(refusal) => error = Some(refusal),
        }
        Ok(())
    });
    result.map_err(|error| failed(pool_name, error))?;
    pool.wake();
    feed(&pool)?;
    if error.is_none() && matches!(change, DeviceChange::Online | DeviceChange::Replace | DeviceChange::Detach) {
        grow(&pool)?;
    }
    error.map_or(Ok(()), |error| Err(edit_failed(&about, &error)))
}

pub(super) fn add_one(store: &mut Store, layout: Layout, role: Role, seconds: u64) -> core::result::Result<(), EditError> {
    let Role::Aside(kind) = role else { return store.add(layout, role == Role::Log, seconds) };
    layout.devices.into_iter().try_for_each(|(path, device)| store.add_auxiliary(kind, &path, device, seconds).map(drop))
}

/// Takes a spare or a cache device out of a pool.
///
/// # Errors
/// See [`Refused`].
pub fn remove(pool_name: &str, device: &str) -> Result<()> {
    let pool = pool_to_change(pool_name)?;
    let path = format!("/dev/{}", device.trim_start_matches("/dev/"));
    edit(&pool, device, |store| {
        let mut all = store.auxiliaries(Auxiliary::Spare)?;
        all.extend(store.auxiliaries(Auxiliary::Cache)?);
        let known = all.iter().find(|known| known.path == path || known.path == device || device.parse() == Ok(known.guid));
        let guid = known.map(|known| known.guid).ok_or(EditError::Invalid("only spares and cache devices are removed; a vdev with data or a log stays (feature device_removal is not supported), and a side of a mirror is detached"))?;
        store.remove_auxiliary(guid, now().0)
    })
}

/// Adds vdevs to a pool. Disks that hold another pool are refused unless `force`.
///
/// # Errors
/// See [`Refused`].
pub fn add(pool_name: &str, words: &[String], force: bool) -> Result<()> {
    let pool = pool_to_change(pool_name)?;
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
    let pool = pool_to_change(pool_name)?;
    edit(&pool, pool_name, |store| {
        store.clear_errors(None);
        Ok(())
    })
}
