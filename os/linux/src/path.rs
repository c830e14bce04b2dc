//! Calls that name files by a path.

use alloc::vec::Vec;

use kif::Nanos;
use linux_abi::consts::fcntl::*;
use linux_abi::{Errno, Stat, Statfs, Statx, Timespec, Timeval};
use proc::{Credentials, Directories, Task};
use vfs::ops::{self, SetTime};
use vfs::{Attr, DevNo, Follow, Kind, OpenFlags, Place, RenameFlags, Want};
use zone::Privilege;

use crate::args::{DirFd, Fd, Offset, OptPath, Path, Ptr, file, place_at, start};
use crate::fail::{Fail, Result};
use crate::io;
use crate::paths::Paths;

pub fn open(task: &mut Task, path: Path, flags: u32, mode: u32) -> Result {
    openat(task, DirFd::Cwd, path, flags, mode)
}
pub fn creat(task: &mut Task, path: Path, mode: u32) -> Result {
    openat(task, DirFd::Cwd, path, O_CREAT | O_WRONLY | O_TRUNC, mode)
}

pub fn openat(task: &mut Task, dir: DirFd, path: Path, flags: u32, mode: u32) -> Result {
    if flags & O_TMPFILE == O_TMPFILE {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let paths = Paths::of(task)?;
    let at = start(task, dir, &path.0)?;
    let access = match flags & O_ACCMODE {
        O_RDONLY => OpenFlags::READ,
        O_WRONLY => OpenFlags::WRITE,
        O_RDWR => OpenFlags::READ | OpenFlags::WRITE,
        // Access mode 3: may neither read nor write, only control.
        _ => OpenFlags::empty(),
    };
    let open_flags = (OpenFlags::from_bits_truncate(flags & !O_ACCMODE) - (OpenFlags::READ | OpenFlags::WRITE)) | access;
    let open_flags = if flags & O_PATH != 0 { open_flags - (OpenFlags::READ | OpenFlags::WRITE) } else { open_flags };
    let mode = mode & 0o7777 & !task.process.umask();
    let file = ops::open(&paths.cx(), at.as_ref(), &path.0, open_flags, mode)?;
    io::install(task, file, flags & O_CLOEXEC != 0)
}

/// `struct open_how`: flags 0, mode 8, resolve 16.
pub fn openat2(task: &mut Task, dir: DirFd, path: Path, how: Ptr, size: u64) -> Result {
    if size < 24 {
        return Err(Errno::EINVAL.into());
    }
    let raw: [u8; 24] = how.read()?;
    let [flags, mode, resolve] = [0, 8, 16].map(|at| linux_abi::field_u64(&raw, at));
    if size > 24 && how.plus(24).read_vec(usize::try_from(size.min(4096) - 24).map_err(|_| Errno::E2BIG)?)?.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    // RESOLVE_* would need a bounded walk: refused, so that nobody relies on a bound that is not there.
    let (Ok(flags), Ok(mode), 0) = (u32::try_from(flags), u32::try_from(mode), resolve) else {
        return Err(Errno::EINVAL.into());
    };
    openat(task, dir, path, flags, mode)
}

/// Attributes in the layout of `struct stat`.
fn layout(attr: &Attr) -> Stat {
    let time = |time: Nanos| Timespec::from_nanos(time.0);
    Stat {
        device: attr.id.fs,
        inode: attr.id.ino,
        links: attr.nlink.into(),
        mode: attr.st_mode(),
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev.encode(),
        size: attr.size,
        block_size: 4096,
        blocks: attr.blocks,
        accessed: time(attr.atime),
        modified: time(attr.mtime),
        changed: time(attr.ctime),
    }
}

fn stat_path(task: &Task, path: &[u8], follow: Follow, to: Ptr) -> Result {
    let attr = ops::stat(&Paths::of(task)?.cx(), None, path, follow)?;
    to.write(&layout(&attr).encode())?;
    Ok(0)
}
pub fn stat(task: &mut Task, path: Path, to: Ptr) -> Result {
    stat_path(task, &path.0, Follow::Yes, to)
}
pub fn lstat(task: &mut Task, path: Path, to: Ptr) -> Result {
    stat_path(task, &path.0, Follow::No, to)
}
pub fn fstat(task: &mut Task, fd: Fd, to: Ptr) -> Result {
    to.write(&layout(&ops::stat_found(file(task, fd)?.place())?).encode())?;
    Ok(0)
}

fn attr_at(task: &Task, dir: DirFd, path: &[u8], flags: u32) -> Result<Attr> {
    io::only(flags, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE)?;
    let paths = Paths::of(task)?;
    let place = place_at(task, &paths, dir, path, flags & AT_EMPTY_PATH != 0, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    Ok(ops::stat_found(&place)?)
}
pub fn newfstatat(task: &mut Task, dir: DirFd, path: Path, to: Ptr, flags: u32) -> Result {
    to.write(&layout(&attr_at(task, dir, &path.0, flags)?).encode())?;
    Ok(0)
}
pub fn statx(task: &mut Task, dir: DirFd, path: OptPath, flags: u32, _mask: u32, to: Ptr) -> Result {
    let (path, flags) = match path.0 {
        Some(path) => (path, flags),
        None if flags & AT_EMPTY_PATH != 0 => (Vec::new(), flags),
        None => return Err(Errno::EFAULT.into()),
    };
    let stat = layout(&attr_at(task, dir, &path, flags)?);
    to.write(&Statx { stat, born: stat.changed }.encode())?;
    Ok(0)
}

fn statfs_of(task: &Task, place: &Place, to: Ptr) -> Result {
    let space = place.statfs()?;
    // Files in memory: a zone has what its cap allows, and sees nothing of what others use. Files on disks take what the disks have.
    let in_memory = space.magic == vfs::tmpfs::MAGIC;
    let (total, free) = if in_memory { crate::system::memory(&task.zone) } else { (u64::MAX, u64::MAX) };
    let (total, free) = (total / space.block_bytes, free / space.block_bytes);
    let layout = Statfs {
        kind: space.magic,
        block_size: space.block_bytes,
        blocks: space.blocks.min(total),
        free: space.blocks_free.min(free),
        files: space.files,
        files_free: space.files_free,
        id: place.mount.id(),
        name_max: vfs::NAME_MAX as u64,
        flags: place.mount.flags().bits().into(),
    };
    to.write(&layout.encode())?;
    Ok(0)
}
pub fn statfs(task: &mut Task, path: Path, to: Ptr) -> Result {
    let place = vfs::lookup(&Paths::of(task)?.cx(), None, &path.0, Follow::Yes)?;
    statfs_of(task, &place, to)
}
pub fn fstatfs(task: &mut Task, fd: Fd, to: Ptr) -> Result {
    let file = file(task, fd)?;
    statfs_of(task, file.place(), to)
}

pub fn access(task: &mut Task, path: Path, want: u32) -> Result {
    faccessat2(task, DirFd::Cwd, path, want, 0)
}
pub fn faccessat(task: &mut Task, dir: DirFd, path: Path, want: u32) -> Result {
    faccessat2(task, dir, path, want, 0)
}
pub fn faccessat2(task: &mut Task, dir: DirFd, path: Path, want: u32, flags: u32) -> Result {
    io::only(flags, AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let want = Want::from_bits(want).ok_or(Errno::EINVAL)?;
    let mut paths = Paths::of(task)?;
    if flags & AT_EACCESS == 0 && (paths.cred.uid != paths.cred.file.uid || paths.cred.gid != paths.cred.file.gid) {
        // access(2) asks for the real ids.
        let mut real: Credentials = (*paths.cred).clone();
        real.file.uid = real.uid;
        real.file.gid = real.gid;
        paths.cred = alloc::sync::Arc::new(real);
    }
    let place = place_at(task, &paths, dir, &path.0, flags & AT_EMPTY_PATH != 0, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    ops::check(&paths.cx(), &place, want)?;
    Ok(0)
}

pub fn getcwd(task: &mut Task, to: Ptr, room: u64) -> Result {
    let paths = Paths::of(task)?;
    let directories = &paths.directories;
    let mut path = vfs::path_of(&directories.cwd, &directories.root).ok_or(Errno::ENOENT)?;
    path.push(0);
    if path.len() as u64 > room {
        return Err(Errno::ERANGE.into());
    }
    to.write(&path)?;
    Ok(path.len() as u64)
}

fn change_directory(task: &Task, paths: &Paths, place: Place) -> Result {
    if place.vnode.kind() != Kind::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    ops::check(&paths.cx(), &place, Want::EXEC)?;
    task.process.set_directories(Directories { root: paths.directories.root.clone(), cwd: place });
    Ok(0)
}
pub fn chdir(task: &mut Task, path: Path) -> Result {
    let paths = Paths::of(task)?;
    let place = vfs::lookup(&paths.cx(), None, &path.0, Follow::Yes)?;
    change_directory(task, &paths, place)
}
pub fn fchdir(task: &mut Task, fd: Fd) -> Result {
    let place = file(task, fd)?.place().clone();
    change_directory(task, &Paths::of(task)?, place)
}

/// Refuses what only root of a zone with this privilege may do.
pub fn need(task: &Task, privilege: Privilege) -> Result<()> {
    if task.process.cred().is_root() && task.zone.may(privilege) { Ok(()) } else { Err(Errno::EPERM.into()) }
}

pub fn chroot(task: &mut Task, path: Path) -> Result {
    need(task, Privilege::Chroot)?;
    let paths = Paths::of(task)?;
    let root = vfs::lookup(&paths.cx(), None, &path.0, Follow::Yes)?;
    if root.vnode.kind() != Kind::Directory {
        return Err(Errno::ENOTDIR.into());
    }
    task.process.set_directories(Directories { root, cwd: paths.directories.cwd.clone() });
    Ok(0)
}

pub fn mkdir(task: &mut Task, path: Path, mode: u32) -> Result {
    mkdirat(task, DirFd::Cwd, path, mode)
}
pub fn mkdirat(task: &mut Task, dir: DirFd, path: Path, mode: u32) -> Result {
    let at = start(task, dir, &path.0)?;
    ops::mkdir(&Paths::of(task)?.cx(), at.as_ref(), &path.0, mode & 0o1777 & !task.process.umask())?;
    Ok(0)
}
pub fn mknod(task: &mut Task, path: Path, mode: u32, device: u32) -> Result {
    mknodat(task, DirFd::Cwd, path, mode, device)
}
pub fn mknodat(task: &mut Task, dir: DirFd, path: Path, mode: u32, device: u32) -> Result {
    let kind = if mode & S_IFMT == 0 { Kind::File } else { Kind::from_type_bits(mode).ok_or(Errno::EINVAL)? };
    let at = start(task, dir, &path.0)?;
    let rdev = DevNo::decode(device.into());
    ops::mknod(&Paths::of(task)?.cx(), at.as_ref(), &path.0, kind, mode & 0o7777 & !task.process.umask(), rdev)?;
    Ok(0)
}
pub fn rmdir(task: &mut Task, path: Path) -> Result {
    ops::rmdir(&Paths::of(task)?.cx(), None, &path.0)?;
    Ok(0)
}
pub fn unlink(task: &mut Task, path: Path) -> Result {
    ops::unlink(&Paths::of(task)?.cx(), None, &path.0)?;
    Ok(0)
}
pub fn unlinkat(task: &mut Task, dir: DirFd, path: Path, flags: u32) -> Result {
    io::only(flags, AT_REMOVEDIR)?;
    let at = start(task, dir, &path.0)?;
    let paths = Paths::of(task)?;
    if flags & AT_REMOVEDIR != 0 {
        ops::rmdir(&paths.cx(), at.as_ref(), &path.0)?;
    } else {
        ops::unlink(&paths.cx(), at.as_ref(), &path.0)?;
    }
    Ok(0)
}
pub fn rename(task: &mut Task, from: Path, to: Path) -> Result {
    renameat2(task, DirFd::Cwd, from, DirFd::Cwd, to, 0)
}
pub fn renameat(task: &mut Task, from_dir: DirFd, from: Path, to_dir: DirFd, to: Path) -> Result {
    renameat2(task, from_dir, from, to_dir, to, 0)
}
pub fn renameat2(task: &mut Task, from_dir: DirFd, from: Path, to_dir: DirFd, to: Path, flags: u32) -> Result {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let from_at = start(task, from_dir, &from.0)?;
    let to_at = start(task, to_dir, &to.0)?;
    ops::rename(&Paths::of(task)?.cx(), from_at.as_ref(), &from.0, to_at.as_ref(), &to.0, flags)?;
    Ok(0)
}
pub fn link(task: &mut Task, from: Path, to: Path) -> Result {
    linkat(task, DirFd::Cwd, from, DirFd::Cwd, to, 0)
}
pub fn linkat(task: &mut Task, from_dir: DirFd, from: Path, to_dir: DirFd, to: Path, flags: u32) -> Result {
    io::only(flags, AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)?;
    let paths = Paths::of(task)?;
    let source = place_at(task, &paths, from_dir, &from.0, flags & AT_EMPTY_PATH != 0, flags & AT_SYMLINK_FOLLOW != 0)?;
    let to_at = start(task, to_dir, &to.0)?;
    ops::link(&paths.cx(), &source, to_at.as_ref(), &to.0)?;
    Ok(0)
}
pub fn symlink(task: &mut Task, target: Path, path: Path) -> Result {
    symlinkat(task, target, DirFd::Cwd, path)
}
pub fn symlinkat(task: &mut Task, target: Path, dir: DirFd, path: Path) -> Result {
    let at = start(task, dir, &path.0)?;
    ops::symlink(&Paths::of(task)?.cx(), &target.0, at.as_ref(), &path.0)?;
    Ok(0)
}
pub fn readlink(task: &mut Task, path: Path, to: Ptr, room: i32) -> Result {
    readlinkat(task, DirFd::Cwd, path, to, room)
}
pub fn readlinkat(task: &mut Task, dir: DirFd, path: Path, to: Ptr, room: i32) -> Result {
    let room = usize::try_from(room).ok().filter(|room| *room > 0).ok_or(Errno::EINVAL)?;
    let paths = Paths::of(task)?;
    let text = if path.0.is_empty() {
        place_at(task, &paths, dir, &path.0, true, false)?.vnode.readlink().map_err(|_| Errno::ENOENT)?
    } else {
        let at = start(task, dir, &path.0)?;
        ops::readlink(&paths.cx(), at.as_ref(), &path.0)?
    };
    let text = &text[..text.len().min(room)];
    to.write(text)?;
    Ok(text.len() as u64)
}

pub fn chmod(task: &mut Task, path: Path, mode: u32) -> Result {
    fchmodat(task, DirFd::Cwd, path, mode)
}
pub fn fchmod(task: &mut Task, fd: Fd, mode: u32) -> Result {
    let place = file(task, fd)?.place().clone();
    ops::chmod(&Paths::of(task)?.cx(), &place, mode)?;
    Ok(0)
}
pub fn fchmodat(task: &mut Task, dir: DirFd, path: Path, mode: u32) -> Result {
    fchmodat2(task, dir, path, mode, 0)
}
pub fn fchmodat2(task: &mut Task, dir: DirFd, path: Path, mode: u32, flags: u32) -> Result {
    io::only(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let paths = Paths::of(task)?;
    let place = place_at(task, &paths, dir, &path.0, flags & AT_EMPTY_PATH != 0, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    if place.vnode.kind() == Kind::Symlink {
        return Err(Errno::EOPNOTSUPP.into());
    }
    ops::chmod(&paths.cx(), &place, mode)?;
    Ok(0)
}

fn owner(id: u32) -> Option<u32> {
    (id != u32::MAX).then_some(id)
}
pub fn chown(task: &mut Task, path: Path, uid: u32, gid: u32) -> Result {
    fchownat(task, DirFd::Cwd, path, uid, gid, 0)
}
pub fn lchown(task: &mut Task, path: Path, uid: u32, gid: u32) -> Result {
    fchownat(task, DirFd::Cwd, path, uid, gid, AT_SYMLINK_NOFOLLOW)
}
pub fn fchown(task: &mut Task, fd: Fd, uid: u32, gid: u32) -> Result {
    let place = file(task, fd)?.place().clone();
    ops::chown(&Paths::of(task)?.cx(), &place, owner(uid), owner(gid))?;
    Ok(0)
}
pub fn fchownat(task: &mut Task, dir: DirFd, path: Path, uid: u32, gid: u32, flags: u32) -> Result {
    io::only(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let paths = Paths::of(task)?;
    let place = place_at(task, &paths, dir, &path.0, flags & AT_EMPTY_PATH != 0, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    ops::chown(&paths.cx(), &place, owner(uid), owner(gid))?;
    Ok(0)
}

pub fn truncate(task: &mut Task, path: Path, size: Offset) -> Result {
    let paths = Paths::of(task)?;
    let place = vfs::lookup(&paths.cx(), None, &path.0, Follow::Yes)?;
    ops::truncate(&paths.cx(), &place, size.0)?;
    Ok(0)
}

fn set_times(task: &Task, dir: DirFd, path: Option<&[u8]>, times: (SetTime, SetTime), flags: u32) -> Result {
    io::only(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let paths = Paths::of(task)?;
    let place = match (path, dir) {
        // utimensat(fd, NULL, ...): the descriptor itself.
        (None, DirFd::Fd(fd)) => file(task, Fd(fd))?.place().clone(),
        (None, DirFd::Cwd | DirFd::Bad) => return Err(Errno::EFAULT.into()),
        (Some(path), _) => place_at(task, &paths, dir, path, flags & AT_EMPTY_PATH != 0, flags & AT_SYMLINK_NOFOLLOW == 0)?,
    };
    ops::utimes(&paths.cx(), &place, times.0, times.1)?;
    Ok(0)
}
pub fn utimensat(task: &mut Task, dir: DirFd, path: OptPath, times: Ptr, flags: u32) -> Result {
    let one = |at: Ptr| -> Result<SetTime> {
        let time = Timespec::decode(&at.read()?);
        Ok(match u64::try_from(time.nanos).map_err(|_| Errno::EINVAL)? {
            UTIME_NOW => SetTime::Now,
            UTIME_OMIT => SetTime::Omit,
            // Times before 1970 are kept as 1970.
            _ => SetTime::To(Nanos(Timespec { seconds: time.seconds.max(0), ..time }.to_nanos().ok_or(Errno::EINVAL)?)),
        })
    };
    let times = if times.given() { (one(times)?, one(times.plus(16))?) } else { (SetTime::Now, SetTime::Now) };
    set_times(task, dir, path.0.as_deref(), times, flags)
}
pub fn utime(task: &mut Task, path: Path, times: Ptr) -> Result {
    let one = |at: Ptr| -> Result<SetTime> { Ok(SetTime::To(Nanos::from_secs(at.read_u64()?))) };
    let times = if times.given() { (one(times)?, one(times.plus(8))?) } else { (SetTime::Now, SetTime::Now) };
    set_times(task, DirFd::Cwd, Some(&path.0), times, 0)
}
pub fn utimes(task: &mut Task, path: Path, times: Ptr) -> Result {
    futimesat(task, DirFd::Cwd, OptPath(Some(path.0)), times)
}
pub fn futimesat(task: &mut Task, dir: DirFd, path: OptPath, times: Ptr) -> Result {
    let one = |at: Ptr| -> Result<SetTime> {
        Timeval::decode(&at.read()?).to_nanos().map(|nanos| SetTime::To(Nanos(nanos))).ok_or(Fail::Errno(Errno::EINVAL))
    };
    let times = if times.given() { (one(times)?, one(times.plus(16))?) } else { (SetTime::Now, SetTime::Now) };
    set_times(task, dir, path.0.as_deref(), times, 0)
}

pub fn umask(task: &mut Task, mask: u32) -> Result {
    Ok(task.process.set_umask(mask).into())
}
