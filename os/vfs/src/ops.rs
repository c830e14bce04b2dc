//! Path operations: what the file system calls do, after their arguments were copied in.
//!
//! Each takes the caller's [`Cx`], a starting place for relative paths (`None`: working directory) and a path; checks
//! permissions, mounts and stickiness; and calls the vnode.

use alloc::sync::Arc;
use alloc::vec::Vec;
use kif::{Nanos, ZoneId};

use crate::cred::{self, Want};
use crate::file::OpenFlags;
use crate::mount::MountFlags;
use crate::vnode::{Attr, DevNo, Kind, Owner, PATH_MAX, RenameFlags, SetAttr, VnodeRef};
use crate::walk::{self, Follow, Last, Link, Parent};
use crate::{Cx, File, Place, Result, VfsError, device, text};

/// Set-user-ID, set-group-ID and sticky bits.
const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

/// Opens, and with `CREATE` makes, a file. `mode` has the umask applied.
///
/// # Errors
/// See `open(2)`.
pub fn open(cx: &Cx<'_>, at: Option<&Place>, path: &[u8], flags: OpenFlags, mode: u32) -> Result<Arc<File>> {
    if flags.contains(OpenFlags::CREATE) && !flags.contains(OpenFlags::PATH) {
        return open_create(cx, at, path, flags, mode);
    }
    let follow = if flags.contains(OpenFlags::NOFOLLOW) { Follow::No } else { Follow::Yes };
    let (place, link) = walk::lookup_link(cx, at, path, follow)?;
    open_place(cx, place, link, flags, false)
}

/// Opens an object already found (`/proc/self/fd` and the kernel's own opens).
///
/// # Errors
/// See `open(2)`.
pub fn reopen(cx: &Cx<'_>, place: &Place, flags: OpenFlags) -> Result<Arc<File>> {
    open_place(cx, place.clone(), None, flags, false)
}

/// Opens a program's file for the kernel to read: the caller needs permission to execute it, not to read it. What is checked is what is opened, whatever becomes of the
/// path meanwhile.
///
/// # Errors
/// See `execve(2)`.
pub fn open_program(cx: &Cx<'_>, at: Option<&Place>, path: &[u8]) -> Result<Arc<File>> {
    let (place, link) = walk::lookup_link(cx, at, path, Follow::Yes)?;
    if place.vnode.kind() != Kind::File {
        return Err(VfsError::AccessDenied);
    }
    check(cx, &place, Want::EXEC)?;
    let root = crate::Cred::root(cx.cred.zone);
    open_place(&Cx { cred: &root, ..*cx }, place, link, OpenFlags::READ | OpenFlags::NONBLOCK, false)
}

fn open_create(cx: &Cx<'_>, at: Option<&Place>, path: &[u8], flags: OpenFlags, mode: u32) -> Result<Arc<File>> {
    let mut start = at.cloned();
    let mut path: Vec<u8> = path.to_vec();
    for _ in 0..=walk::SYMLINK_LIMIT {
        let last = match walk::lookup_parent(cx, start.as_ref(), &path)? {
            Parent::Name(last) => last,
            Parent::Dot(place) | Parent::DotDot(place) => {
                if flags.contains(OpenFlags::EXCL) {
                    return Err(VfsError::Exists);
                }
                return open_place(cx, place, None, flags, false);
            }
        };
        if last.slash {
            return Err(VfsError::IsDirectory);
        }
        let found = match last.dir.vnode.lookup(&last.name) {
            Ok(vnode) => vnode,
            Err(VfsError::NotFound) => match make_node(cx, &last, Kind::File, mode, DevNo::default()) {
                Ok(vnode) => {
                    let place = Place { mount: Arc::clone(&last.dir.mount), vnode };
                    return open_place(cx, place, Some((last.dir, last.name)), flags, true);
                }
                // Somebody was faster: open what is there now.
                Err(VfsError::Exists) => last.dir.vnode.lookup(&last.name)?,
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        if flags.contains(OpenFlags::EXCL) {
            return Err(VfsError::Exists);
        }
        let place = Place { mount: Arc::clone(&last.dir.mount), vnode: found };
        if place.vnode.kind() == Kind::Symlink {
            if flags.contains(OpenFlags::NOFOLLOW) {
                return Err(VfsError::TooManySymlinks);
            }
            if place.vnode.jump()?.is_some() {
                // A link to an object: there is nothing to create.
                let (place, link) = walk::lookup_link(cx, Some(&last.dir), &last.name, Follow::Yes)?;
                return open_place(cx, place, link, flags, false);
            }
            path = place.vnode.readlink()?;
            start = Some(last.dir);
            continue;
        }
        let place = place.cross();
        if place.vnode.kind() == Kind::Directory {
            return Err(VfsError::IsDirectory);
        }
        return open_place(cx, place, Some((last.dir, last.name)), flags, false);
    }
    Err(VfsError::TooManySymlinks)
}

fn open_place(cx: &Cx<'_>, place: Place, link: Option<Link>, flags: OpenFlags, is_new: bool) -> Result<Arc<File>> {
    let kind = place.vnode.kind();
    if flags.contains(OpenFlags::DIRECTORY) && kind != Kind::Directory {
        return Err(VfsError::NotDirectory);
    }
    if flags.contains(OpenFlags::PATH) {
        return Ok(File::new(place, None, link, OpenFlags::PATH, None));
    }
    let writes = flags.contains(OpenFlags::WRITE) || flags.contains(OpenFlags::TRUNC);
    match kind {
        Kind::Symlink => return Err(VfsError::TooManySymlinks),
        Kind::Socket => return Err(VfsError::NoSuchDevice),
        Kind::Directory if writes => return Err(VfsError::IsDirectory),
        Kind::CharDevice | Kind::BlockDevice if place.mount.flags().contains(MountFlags::NODEV) => {
            return Err(VfsError::AccessDenied);
        }
        _ => {}
    }
    // A new file's mode binds the next opener, not its maker.
    if !is_new {
        let mut want = Want::empty();
        want.set(Want::READ, flags.contains(OpenFlags::READ));
        want.set(Want::WRITE, writes);
        check(cx, &place, want)?;
    }
    let writer = if writes && kind == Kind::File { Some(text::write(place.vnode.id())?) } else { None };
    let truncates = flags.contains(OpenFlags::TRUNC) && kind == Kind::File && !is_new;
    let object = match kind {
        Kind::CharDevice | Kind::BlockDevice => {
            let attr = place.vnode.attr()?;
            Some(device::open(kind, attr.rdev, &place.vnode, flags, cx.cred.zone)?)
        }
        _ => place.vnode.open(flags, cx.cred.zone)?,
    };
    if truncates {
        place.vnode.truncate(0)?;
    }
    Ok(File::new(place, object, link, flags, writer))
}

/// Makes a directory; `mode` has the umask applied.
///
/// # Errors
/// See `mkdir(2)`.
pub fn mkdir(cx: &Cx<'_>, at: Option<&Place>, path: &[u8], mode: u32) -> Result<()> {
    let last = new_name(cx, at, path)?;
    let (owner, inherited) = may_create(cx, &last)?;
    last.dir.vnode.mkdir(&last.name, (mode & 0o1777) | inherited, owner).map(drop)
}

/// Makes a file, FIFO, socket or device node; `mode` has the umask applied.
///
/// # Errors
/// See `mknod(2)`. Device nodes only by root of the global zone.
pub fn mknod(cx: &Cx<'_>, at: Option<&Place>, path: &[u8], kind: Kind, mode: u32, rdev: DevNo) -> Result<VnodeRef> {
    match kind {
        Kind::File | Kind::Fifo | Kind::Socket => {}
        Kind::CharDevice | Kind::BlockDevice => {
            if !cx.cred.is_privileged() || cx.cred.zone != ZoneId::GLOBAL {
                return Err(VfsError::NotPermitted);
            }
        }
        Kind::Directory => return Err(VfsError::NotPermitted),
        Kind::Symlink | Kind::Anonymous => return Err(VfsError::Invalid),
    }
    let last = new_name(cx, at, path)?;
    if last.slash {
        return Err(VfsError::NotFound);
    }
    make_node(cx, &last, kind, mode, rdev)
}

/// Makes a symbolic link holding `target`.
///
/// # Errors
/// See `symlink(2)`.
pub fn symlink(cx: &Cx<'_>, target: &[u8], at: Option<&Place>, path: &[u8]) -> Result<()> {
    if target.is_empty() {
        return Err(VfsError::NotFound);
    }
    if target.len() >= PATH_MAX {
        return Err(VfsError::NameTooLong);
    }
    let last = new_name(cx, at, path)?;
    if last.slash {
        return Err(VfsError::NotFound);
    }
    let (owner, _) = may_create(cx, &last)?;
    last.dir.vnode.symlink(&last.name, target, owner).map(drop)
}

/// Makes a hard link to `from`.
///
/// # Errors
/// See `link(2)`.
pub fn link(cx: &Cx<'_>, from: &Place, at: Option<&Place>, path: &[u8]) -> Result<()> {
    let last = new_name(cx, at, path)?;
    if last.slash {
        return Err(VfsError::NotFound);
    }
    if from.vnode.kind() == Kind::Directory {
        return Err(VfsError::NotPermitted);
    }
    if !Arc::ptr_eq(&from.mount, &last.dir.mount) {
        return Err(VfsError::CrossDevice);
    }
    may_create(cx, &last)?;
    last.dir.vnode.link(&last.name, &from.vnode)
}

/// Removes a name of a non-directory.
///
/// # Errors
/// See `unlink(2)`.
pub fn unlink(cx: &Cx<'_>, at: Option<&Place>, path: &[u8]) -> Result<()> {
    let Parent::Name(last) = walk::lookup_parent(cx, at, path)? else { return Err(VfsError::IsDirectory) };
    let victim = may_remove(cx, &last)?;
    if last.slash {
        return Err(if victim.kind() == Kind::Directory { VfsError::IsDirectory } else { VfsError::NotDirectory });
    }
    last.dir.vnode.unlink(&last.name)
}

/// Removes an empty directory.
///
/// # Errors
/// See `rmdir(2)`.
pub fn rmdir(cx: &Cx<'_>, at: Option<&Place>, path: &[u8]) -> Result<()> {
    let last = match walk::lookup_parent(cx, at, path)? {
        Parent::Name(last) => last,
        Parent::Dot(place) => {
            return Err(if place.is_mount_root() || place.is(cx.root) { VfsError::Busy } else { VfsError::Invalid });
        }
        Parent::DotDot(_) => return Err(VfsError::NotEmpty),
    };
    may_remove(cx, &last)?;
    last.dir.vnode.rmdir(&last.name)
}

/// Moves an object.
///
/// # Errors
/// See `renameat2(2)`.
pub fn rename(
    cx: &Cx<'_>,
    from_at: Option<&Place>,
    from: &[u8],
    to_at: Option<&Place>,
    to: &[u8],
    flags: RenameFlags,
) -> Result<()> {
    if flags.contains(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE) {
        return Err(VfsError::Invalid);
    }
    let Parent::Name(source) = walk::lookup_parent(cx, from_at, from)? else { return Err(VfsError::Busy) };
    let Parent::Name(target) = walk::lookup_parent(cx, to_at, to)? else { return Err(VfsError::Busy) };
    if !Arc::ptr_eq(&source.dir.mount, &target.dir.mount) {
        return Err(VfsError::CrossDevice);
    }
    let moved = may_remove(cx, &source)?;
    if (source.slash || target.slash) && moved.kind() != Kind::Directory {
        return Err(VfsError::NotDirectory);
    }
    match target.dir.vnode.lookup(&target.name) {
        Ok(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(VfsError::Exists),
        Ok(_) => drop(may_remove(cx, &target)?),
        Err(VfsError::NotFound) if flags.contains(RenameFlags::EXCHANGE) => return Err(VfsError::NotFound),
        Err(VfsError::NotFound) => drop(may_create(cx, &target)?),
        Err(error) => return Err(error),
    }
    // Moving a directory rewrites its `..`: that needs write permission on it.
    let changes_parent = source.dir.vnode.id() != target.dir.vnode.id();
    if moved.kind() == Kind::Directory && changes_parent && !cx.cred.is_privileged() {
        cred::permit(&moved.attr()?, cx.cred, Want::WRITE)?;
    }
    let rename = || source.dir.vnode.rename(&source.name, &target.dir.vnode, &target.name, flags);
    // An exchange moves the target too, which may be a directory.
    let moves_directory = moved.kind() == Kind::Directory || flags.contains(RenameFlags::EXCHANGE);
    if moves_directory && changes_parent { walk::moving_directory(rename) } else { rename() }
}

/// Text of a symbolic link.
///
/// # Errors
/// See `readlink(2)`.
pub fn readlink(cx: &Cx<'_>, at: Option<&Place>, path: &[u8]) -> Result<Vec<u8>> {
    let place = walk::lookup(cx, at, path, Follow::No)?;
    place.vnode.readlink()
}

/// Changes the permission bits of an object already found.
///
/// # Errors
/// See `chmod(2)`.
pub fn chmod(cx: &Cx<'_>, place: &Place, mode: u32) -> Result<()> {
    writable_mount(place)?;
    let attr = place.vnode.attr()?;
    if !cred::owns(&attr, cx.cred) {
        return Err(VfsError::NotPermitted);
    }
    let mut mode = mode & 0o7777;
    if !cx.cred.is_privileged() && !cx.cred.has_group(attr.gid) {
        mode &= !SETGID;
    }
    place.vnode.set_attr(&SetAttr { mode: Some(mode), ..SetAttr::default() })
}

/// Changes owner and group of an object already found.
///
/// # Errors
/// See `chown(2)`.
pub fn chown(cx: &Cx<'_>, place: &Place, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    writable_mount(place)?;
    let attr = place.vnode.attr()?;
    if !cx.cred.is_privileged() {
        let keeps_uid = uid.is_none_or(|uid| uid == attr.uid);
        let own_group = gid.is_none_or(|gid| cx.cred.has_group(gid));
        if cx.cred.uid != attr.uid || !keeps_uid || !own_group {
            return Err(VfsError::NotPermitted);
        }
    }
    let mut change = SetAttr { uid, gid, ..SetAttr::default() };
    if attr.kind == Kind::File && attr.mode & (SETUID | SETGID) != 0 {
        let keeps_setgid = attr.mode & 0o010 == 0;
        change.mode = Some(attr.mode & !SETUID & if keeps_setgid { !0 } else { !SETGID });
    }
    place.vnode.set_attr(&change)
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    Omit,
    Now,
    /// Since 1970.
    To(Nanos),
}

/// Changes access and modification time of an object already found.
///
/// # Errors
/// See `utimensat(2)`.
pub fn utimes(cx: &Cx<'_>, place: &Place, atime: SetTime, mtime: SetTime) -> Result<()> {
    if atime == SetTime::Omit && mtime == SetTime::Omit {
        return Ok(());
    }
    writable_mount(place)?;
    let attr = place.vnode.attr()?;
    if !cred::owns(&attr, cx.cred) {
        if atime != SetTime::Now || mtime != SetTime::Now {
            return Err(VfsError::NotPermitted);
        }
        cred::permit(&attr, cx.cred, Want::WRITE)?;
    }
    let value = |time| match time {
        SetTime::Omit => None,
        SetTime::Now => Some(kif::clock().realtime()),
        SetTime::To(time) => Some(time),
    };
    place.vnode.set_attr(&SetAttr { atime: value(atime), mtime: value(mtime), ..SetAttr::default() })
}

/// Sets the size of a file already found (`truncate(2)`; an open file has [`File::truncate`]).
///
/// # Errors
/// See `truncate(2)`.
pub fn truncate(cx: &Cx<'_>, place: &Place, size: u64) -> Result<()> {
    match place.vnode.kind() {
        Kind::File => {}
        Kind::Directory => return Err(VfsError::IsDirectory),
        Kind::Symlink | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket | Kind::Anonymous => {
            return Err(VfsError::Invalid);
        }
    }
    check(cx, place, Want::WRITE)?;
    let _writer = text::write(place.vnode.id())?;
    place.vnode.truncate(size)
}

/// Checks access to an object already found, as `access(2)` and `execve(2)` do. Execution also fails on a no-exec mount and on
/// what is not a regular file or directory.
///
/// # Errors
/// [`VfsError::AccessDenied`], [`VfsError::ReadOnly`].
pub fn check(cx: &Cx<'_>, place: &Place, want: Want) -> Result<()> {
    let kind = place.vnode.kind();
    if want.contains(Want::WRITE) && matches!(kind, Kind::File | Kind::Directory | Kind::Symlink) {
        writable_mount(place)?;
    }
    if want.contains(Want::EXEC) && kind == Kind::File && place.mount.flags().contains(MountFlags::NOEXEC) {
        return Err(VfsError::AccessDenied);
    }
    if want.is_empty() || (cx.cred.is_privileged() && !want.contains(Want::EXEC)) {
        return Ok(());
    }
    cred::permit(&place.vnode.attr()?, cx.cred, want)
}

pub(crate) fn writable_mount(place: &Place) -> Result<()> {
    if place.mount.is_read_only() { Err(VfsError::ReadOnly) } else { Ok(()) }
}

/// The directory and name of something to be made.
fn new_name(cx: &Cx<'_>, at: Option<&Place>, path: &[u8]) -> Result<Last> {
    match walk::lookup_parent(cx, at, path)? {
        Parent::Name(last) => Ok(last),
        Parent::Dot(_) | Parent::DotDot(_) => Err(VfsError::Exists),
    }
}

fn make_node(cx: &Cx<'_>, last: &Last, kind: Kind, mode: u32, rdev: DevNo) -> Result<VnodeRef> {
    let (owner, _) = may_create(cx, last)?;
    let mut mode = mode & 0o7777;
    if mode & SETGID != 0 && !cx.cred.is_privileged() && !cx.cred.has_group(owner.gid) {
        mode &= !SETGID;
    }
    last.dir.vnode.create(&last.name, kind, mode, rdev, owner)
}

/// Checks that the caller may add `last`; gives the owner of the new object and the mode bits a new directory inherits.
fn may_create(cx: &Cx<'_>, last: &Last) -> Result<(Owner, u32)> {
    // An existing name is the more useful answer, whatever the permissions.
    if last.dir.mount.is_read_only() {
        return Err(if last.dir.vnode.lookup(&last.name).is_ok() { VfsError::Exists } else { VfsError::ReadOnly });
    }
    let attr = last.dir.vnode.attr()?;
    if attr.nlink == 0 {
        return Err(VfsError::NotFound);
    }
    if let Err(denied) = cred::permit(&attr, cx.cred, Want::WRITE | Want::EXEC) {
        return Err(if last.dir.vnode.lookup(&last.name).is_ok() { VfsError::Exists } else { denied });
    }
    let inherits = attr.mode & SETGID != 0;
    let gid = if inherits { attr.gid } else { cx.cred.gid };
    Ok((Owner { uid: cx.cred.uid, gid, zone: cx.cred.zone }, if inherits { SETGID } else { 0 }))
}

/// Checks that the caller may take `last` away, and returns what it is.
fn may_remove(cx: &Cx<'_>, last: &Last) -> Result<VnodeRef> {
    let dir = &last.dir;
    let victim = dir.vnode.lookup(&last.name)?;
    writable_mount(dir)?;
    if !cx.cred.is_privileged() {
        let attr = dir.vnode.attr()?;
        cred::permit(&attr, cx.cred, Want::WRITE | Want::EXEC)?;
        if attr.mode & STICKY != 0 && attr.uid != cx.cred.uid && victim.attr()?.uid != cx.cred.uid {
            return Err(VfsError::NotPermitted);
        }
    }
    if dir.mount.is_mount_point(victim.id()) {
        return Err(VfsError::Busy);
    }
    Ok(victim)
}

/// Attributes of what `path` leads to.
///
/// # Errors
/// See `stat(2)`.
pub fn stat(cx: &Cx<'_>, at: Option<&Place>, path: &[u8], follow: Follow) -> Result<Attr> {
    stat_found(&walk::lookup(cx, at, path, follow)?)
}

/// The same of an object already found, with the space it takes.
///
/// # Errors
/// The object is gone.
pub fn stat_found(place: &Place) -> Result<Attr> {
    let attr = place.vnode.attr()?;
    Ok(Attr { blocks: place.vnode.blocks(&attr), ..attr })
}

