//! Where file systems belong, and that they are there: by their properties, and by the zone they are for.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use kif::ZoneId;
use pool_dmu::{DatasetInfo, DatasetKind, Datasets};
use vfs::{Cx, MountFlags, Place, VfsError};

use super::datasets::{at_and_below, mount_new};
use super::pools::pool_of;
use super::{Refused, Result, alone, edit, failed};
use crate::Storage;

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
pub(super) fn is_for(pool: &Storage, name: &str, zone: ZoneId) -> Result<bool> {
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
pub(super) fn is_option(property: &str) -> bool {
    matches!(property, "exec" | "setuid" | "devices" | "readonly")
}

/// Options of a file system's mount.
fn options(pool: &Storage, name: &str) -> Result<MountFlags> {
    let look = pool.with(|store| {
        let datasets = Datasets::open(store.pool())?;
        let info = datasets.find(name)?;
        let [readonly, exec, setuid, devices] = datasets.settings(&info, ["readonly", "exec", "setuid", "devices"])?;
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::READ_ONLY, pool.is_read_only());
        for (value, given, flag) in [(readonly, 1, MountFlags::READ_ONLY), (exec, 0, MountFlags::NOEXEC), (setuid, 0, MountFlags::NOSUID), (devices, 0, MountFlags::NODEV)] {
            flags.set(flag, flags.contains(flag) || value == Some(given));
        }
        Ok(flags)
    });
    look.map_err(|error| failed(name, error))
}

/// A mounted file system obeys its properties from now on, wherever it is: one that was delegated is in its zone.
pub(super) fn remount(cx: &Cx<'_>, pool: &Arc<Storage>, name: &str) -> Result<()> {
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

pub(super) fn place(pool: &Storage, name: &str) -> Result<(u64, Option<String>)> {
    let look = pool.with(|store| {
        let datasets = Datasets::open(store.pool())?;
        let info = datasets.find(name)?;
        let at = mountpoint(&datasets, &info)?;
        Ok((store.find(name)?, at.map(|at| pool.under_root(at))))
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
pub(super) fn is_automatic(pool: &Storage, name: &str) -> Result<bool> {
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
pub(super) fn without_mounts(cx: &Cx<'_>, pool: &Arc<Storage>, names: &[String], change: impl FnOnce(&Arc<Storage>) -> Result<()>) -> Result<()> {
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

/// The same, with options that hold until it is unmounted.
///
/// # Errors
/// See [`Refused`]; an option that there is not.
pub fn mount_with(cx: &Cx<'_>, pool: &Arc<Storage>, name: &str, options: &[String]) -> Result<()> {
    let _alone = alone();
    let (mut on, mut off) = (MountFlags::empty(), MountFlags::empty());
    for option in options {
        let (flag, is_on) = match option.as_str() {
            "ro" => (MountFlags::READ_ONLY, true),
            "rw" => (MountFlags::READ_ONLY, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "exec" => (MountFlags::NOEXEC, false),
            "nosuid" | "nosetuid" => (MountFlags::NOSUID, true),
            "suid" | "setuid" => (MountFlags::NOSUID, false),
            "nodev" | "nodevices" => (MountFlags::NODEV, true),
            "dev" | "devices" => (MountFlags::NODEV, false),
            "atime" | "noatime" | "relatime" | "norelatime" | "xattr" | "noxattr" => {
                return Err(Refused::Invalid(format!("{name}: '{option}' is no option of a mount here, but a property: zfs set atime=off, or xattr=off")));
            }
            other => return Err(Refused::Invalid(format!("{name}: '{other}' is no option of a mount: ro, rw, exec, noexec, suid, nosuid, dev, nodev"))),
        };
        on.set(flag, is_on);
        off.set(flag, !is_on);
    }
    let always = if pool.is_read_only() { MountFlags::READ_ONLY } else { MountFlags::empty() };
    mount_as(cx, pool, name, |flags| (flags | on) & !off | always)
}

/// Whether a file system is mounted.
///
/// # Errors
/// See [`Refused`].
pub fn is_mounted(info: &DatasetInfo) -> Result<bool> {
    Ok(info.kind == DatasetKind::Filesystem && pool_of(&info.name)?.has_mounted(info.object))
}

/// The same, of an operation that is alone.
pub(crate) fn mount_one(cx: &Cx<'_>, pool: &Arc<Storage>, name: &str) -> Result<()> {
    mount_as(cx, pool, name, |flags| flags)
}

fn mount_as(cx: &Cx<'_>, pool: &Arc<Storage>, name: &str, change: impl FnOnce(MountFlags) -> MountFlags) -> Result<()> {
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
    let flags = change(options(pool, name)?);
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
            // Where nothing can be made it may be there.
            Ok(()) | Err(VfsError::Exists | VfsError::ReadOnly) => {}
            Err(error) => return Err(failed(path, error)),
        }
        at = vfs::lookup(cx, Some(&at), part.as_bytes(), vfs::Follow::No).map_err(|error| failed(path, error))?;
        if at.vnode.kind() == vfs::Kind::Symlink {
            return Err(Refused::Busy(format!("{path}: '{part}' is a link, and a file system is mounted on no link: remove it, or set another mountpoint")));
        }
    }
    Ok(at)
}

pub(super) fn filesystems(pool: &Storage) -> Result<Vec<String>> {
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
pub(super) fn unmount_all(cx: &Cx<'_>, pool: &Arc<Storage>) -> Result<()> {
    let numbers = pool.mounted_numbers(None);
    let is_ours = |mount: &vfs::Mount| {
        let below = mount.source().strip_prefix(pool.name());
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) && numbers.contains(&mount.root().id().fs)
    };
    vfs::mount::unmount_those(cx.root, is_ours).map_err(|(name, error)| failed(&name, error))
}
