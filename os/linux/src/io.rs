//! Reading, writing and steering open files.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use linux_abi::consts::fcntl::*;
use linux_abi::consts::ioctl::*;
use linux_abi::consts::signal::SIGPIPE;
use kif::PAGE_SIZE;
use linux_abi::{Bytes, Errno, field_u16, field_u64};
use proc::Task;
use vfs::{File, Kind, Lent, LockKind, OpenFlags, Record, VfsError, Whence};

use crate::args::{self, Fd, Len, Offset, Ptr, buffer, file};
use crate::fail::{Fail, Result};

/// Bytes that go through a buffer on the stack: a short one, since clearing it is what a small transfer would mostly do.
const TINY: usize = 64;
/// The longer one.
const SMALL: usize = 1024;
/// Kernel memory that a write to a file may take besides pages.
const WRITE_MEMORY: u64 = 4 << 10;
/// Bytes that go through a kernel buffer at once.
const CHUNK: usize = 128 << 10;

/// Where a transfer takes place in the file.
#[derive(Clone, Copy)]
enum At {
    /// At the offset of the open file, which moves.
    Own,
    Offset(u64),
}

impl At {
    fn plus(self, done: usize) -> Result<Self> {
        Ok(match self {
            Self::Own => Self::Own,
            Self::Offset(offset) => Self::Offset(offset.checked_add(done as u64).ok_or(Errno::EINVAL)?),
        })
    }
}

#[inline]
fn read_some(task: &Task, file: &File, at: At, out: &mut [u8]) -> Result<usize> {
    let zone = task.zone.id();
    Ok(match at {
        At::Own => file.read(out, zone)?,
        At::Offset(offset) => file.read_at(offset, out, zone)?,
    })
}

#[inline]
fn write_some(task: &Task, file: &File, at: At, data: &[u8]) -> Result<usize> {
    let zone = task.zone.id();
    let attempt = || match at {
        At::Own => file.write(data, zone),
        At::Offset(offset) => file.write_at(offset, data, zone),
    };
    let mut written = attempt();
    // Caches go before a file that has no room in memory (tmpfs) does.
    while matches!(written, Err(VfsError::NoMemory | VfsError::NoSpace)) && kif::relieve(zone) {
        written = attempt();
    }
    if written == Err(VfsError::BrokenPipe) {
        task.raise(SIGPIPE);
    }
    Ok(written?)
}

/// Reads into user memory. A stream gives what it has; a file gives all of it.
fn read_to(task: &Task, file: &File, at: At, to: Ptr, length: usize) -> Result<usize> {
    let small = |buffer: &mut [u8]| {
        let count = read_some(task, file, at, buffer)?;
        to.write(&buffer[..count])?;
        Ok(count)
    };
    if length <= TINY {
        return small(&mut [0; TINY][..length]);
    }
    if length <= SMALL {
        return small(&mut [0; SMALL][..length]);
    }
    let whole = file.is_seekable();
    let mut done = 0;
    if whole {
        while done < length {
            match read_lent(task, file, at.plus(done)?, to.plus(done as u64), length - done) {
                Ok(Some(0)) => return Ok(done),
                Ok(Some(count)) => done += count,
                Ok(None) => break,
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
        }
        if done == length {
            return Ok(done);
        }
    }
    let mut chunk = buffer((length - done).min(CHUNK))?;
    while done < length {
        let want = chunk.len().min(length - done);
        let count = match read_some(task, file, at.plus(done)?, &mut chunk[..want]) {
            Ok(count) => count,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        };
        match to.plus(done as u64).write(&chunk[..count]) {
            Ok(()) => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        done += count;
        if count < want || !whole {
            break;
        }
    }
    Ok(done)
}

/// Reads out of a file's own pages, with no copy in between. `None`: it does not lend any here.
fn read_lent(task: &Task, file: &File, at: At, to: Ptr, length: usize) -> Result<Option<usize>> {
    let offset = match at {
        At::Own => None,
        At::Offset(offset) => Some(offset),
    };
    let mut lent = Lent::default();
    let Some((start, count)) = file.lend(offset, length, task.zone.id(), &mut lent)? else { return Ok(None) };
    let (mut skip, mut done) = (start, 0);
    for frame in lent.frames() {
        let part = (PAGE_SIZE - skip).min(count - done);
        match kif::user().write_frame(to.plus(done as u64).0, frame, skip, part) {
            Ok(()) => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(error.into()),
        }
        (skip, done) = (0, done + part);
    }
    Ok(Some(done))
}

/// Writes from user memory, all of it if the object takes it.
fn write_from(task: &Task, file: &File, at: At, from: Ptr, length: usize) -> Result<usize> {
    // Held to the end.
    let _reservation = if file.needs_memory() {
        Some(kif::reserve(task.zone.id(), WRITE_MEMORY).map_err(|kif::OutOfMemory| Errno::ENOMEM)?)
    } else {
        None
    };
    let small = |buffer: &mut [u8]| {
        kif::user().read(from.0, buffer)?;
        write_all(task, file, at, buffer)
    };
    if length <= TINY {
        return small(&mut [0; TINY][..length]);
    }
    if length <= SMALL {
        return small(&mut [0; SMALL][..length]);
    }
    let mut chunk = buffer(length.min(CHUNK))?;
    let mut done = 0;
    while done < length {
        let want = chunk.len().min(length - done);
        if kif::user().read(from.0.wrapping_add(done as u64), &mut chunk[..want]).is_err() {
            return if done > 0 { Ok(done) } else { Err(Errno::EFAULT.into()) };
        }
        let count = match write_all(task, file, at.plus(done)?, &chunk[..want]) {
            Ok(count) => count,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        };
        done += count;
        if count < want {
            break;
        }
    }
    Ok(done)
}

/// Writes a kernel buffer until the object takes no more. After a part was taken an error ends it with the count so far.
#[inline]
fn write_all(task: &Task, file: &File, at: At, data: &[u8]) -> Result<usize> {
    // At once: the usual case.
    let done = write_some(task, file, at, data)?;
    if done >= data.len() { Ok(done) } else { write_rest(task, file, at, data, done) }
}

/// The rest, after `done` bytes.
#[inline(never)]
fn write_rest(task: &Task, file: &File, at: At, data: &[u8], mut done: usize) -> Result<usize> {
    while done < data.len() {
        match write_some(task, file, at.plus(done)?, &data[done..]) {
            Ok(count) => done += count,
            Err(_) => break,
        }
    }
    Ok(done)
}

fn count(done: usize) -> Result {
    Ok(done as u64)
}

pub fn read(task: &mut Task, fd: Fd, to: Ptr, length: Len) -> Result {
    let file = file(task, fd)?;
    count(read_to(task, &file, At::Own, to, length.0)?)
}

pub fn write(task: &mut Task, fd: Fd, from: Ptr, length: Len) -> Result {
    let file = file(task, fd)?;
    count(write_from(task, &file, At::Own, from, length.0)?)
}

pub fn pread64(task: &mut Task, fd: Fd, to: Ptr, length: Len, offset: Offset) -> Result {
    let file = file(task, fd)?;
    count(read_to(task, &file, At::Offset(offset.0), to, length.0)?)
}

pub fn pwrite64(task: &mut Task, fd: Fd, from: Ptr, length: Len, offset: Offset) -> Result {
    let file = file(task, fd)?;
    count(write_from(task, &file, At::Offset(offset.0), from, length.0)?)
}

fn read_vector(task: &Task, fd: Fd, at: At, vector: Ptr, entries: u32) -> Result {
    let file = file(task, fd)?;
    let mut done = 0;
    for (to, length) in args::vectors(vector, entries)? {
        if length == 0 {
            continue;
        }
        match read_to(task, &file, at.plus(done)?, to, length) {
            Ok(count) => {
                done += count;
                if count < length {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    count(done)
}

fn write_vector(task: &Task, fd: Fd, at: At, vector: Ptr, entries: u32) -> Result {
    let file = file(task, fd)?;
    let vectors = args::vectors(vector, entries)?;
    let total: usize = vectors.iter().map(|(_, length)| *length).sum();
    if total <= CHUNK {
        // Gathered first, so that one call is one write.
        let mut data = buffer(total)?;
        let mut filled = 0;
        for (from, length) in vectors {
            kif::user().read(from.0, &mut data[filled..filled + length])?;
            filled += length;
        }
        return count(write_all(task, &file, at, &data)?);
    }
    let mut done = 0;
    for (from, length) in vectors {
        match write_from(task, &file, at.plus(done)?, from, length) {
            Ok(count) => {
                done += count;
                if count < length {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    count(done)
}

pub fn readv(task: &mut Task, fd: Fd, vector: Ptr, entries: u32) -> Result {
    read_vector(task, fd, At::Own, vector, entries)
}
pub fn writev(task: &mut Task, fd: Fd, vector: Ptr, entries: u32) -> Result {
    write_vector(task, fd, At::Own, vector, entries)
}
pub fn preadv(task: &mut Task, fd: Fd, vector: Ptr, entries: u32, offset: Offset) -> Result {
    read_vector(task, fd, At::Offset(offset.0), vector, entries)
}
pub fn pwritev(task: &mut Task, fd: Fd, vector: Ptr, entries: u32, offset: Offset) -> Result {
    write_vector(task, fd, At::Offset(offset.0), vector, entries)
}
/// `RWF_DSYNC` and `RWF_SYNC`: one write as if the file were open with `O_DSYNC`.
const RWF_DURABLE: u32 = 2 | 4;

/// Flags beside [`RWF_DURABLE`] are hints (RWF_HIPRI), or refused.
fn vector_flags(offset: i64, high: u64, flags: u32) -> Result<At> {
    let _ = high;
    if flags & !0x7 != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    match u64::try_from(offset) {
        Ok(offset) => Ok(At::Offset(offset)),
        Err(_) if offset == -1 => Ok(At::Own),
        Err(_) => Err(Errno::EINVAL.into()),
    }
}
pub fn preadv2(task: &mut Task, fd: Fd, vector: Ptr, entries: u32, offset: i64, high: u64, flags: u32) -> Result {
    read_vector(task, fd, vector_flags(offset, high, flags)?, vector, entries)
}
pub fn pwritev2(task: &mut Task, fd: Fd, vector: Ptr, entries: u32, offset: i64, high: u64, flags: u32) -> Result {
    let written = write_vector(task, fd, vector_flags(offset, high, flags)?, vector, entries)?;
    let target = file(task, fd)?;
    if flags & RWF_DURABLE != 0 && written > 0 && target.is_seekable() {
        target.sync()?;
    }
    Ok(written)
}

pub fn lseek(task: &mut Task, fd: Fd, distance: i64, whence: u32) -> Result {
    const SEEK_DATA: u32 = 3;
    const SEEK_HOLE: u32 = 4;
    let file = file(task, fd)?;
    let from = match whence {
        0 => Whence::Start,
        1 => Whence::Current,
        2 => Whence::End,
        SEEK_DATA | SEEK_HOLE => {
            let size = file.attr()?.size;
            let at = u64::try_from(distance).ok().filter(|at| *at < size).ok_or(Errno::ENXIO)?;
            let target = file.place().vnode.seek(at, whence == SEEK_HOLE)?.ok_or(Errno::ENXIO)?;
            let target = i64::try_from(target).map_err(|_| Errno::EOVERFLOW)?;
            return Ok(file.seek(target, Whence::Start)?);
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(file.seek(distance, from)?)
}

/// Moves up to `length` bytes from one open file to another. Returns the count.
fn splice(task: &Task, from: &File, mut from_at: At, to: &File, mut to_at: At, length: usize) -> Result<usize> {
    let mut chunk = buffer(length.clamp(1, CHUNK))?;
    let mut done = 0;
    while done < length {
        let want = chunk.len().min(length - done);
        let got = match read_some(task, from, from_at, &mut chunk[..want]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        };
        let put = match write_all(task, to, to_at, &chunk[..got]) {
            Ok(put) => put,
            Err(error) => {
                unread(from, from_at, got);
                if done > 0 {
                    break;
                }
                return Err(error);
            }
        };
        done += put;
        from_at = from_at.plus(put)?;
        to_at = to_at.plus(put)?;
        if put < got {
            unread(from, from_at, got - put);
            break;
        }
    }
    Ok(done)
}

/// Gives back what was read and found no place.
fn unread(from: &File, at: At, count: usize) {
    if matches!(at, At::Own)
        && from.is_seekable()
        && let Ok(count) = i64::try_from(count)
        && from.seek(-count, Whence::Current).is_err()
    {}
}

pub fn sendfile(task: &mut Task, out: Fd, from: Fd, offset: Ptr, length: Len) -> Result {
    let (out, from) = (file(task, out)?, file(task, from)?);
    if !from.is_seekable() {
        return Err(Errno::EINVAL.into());
    }
    if !offset.given() {
        return count(splice(task, &from, At::Own, &out, At::Own, length.0)?);
    }
    let start = offset.read_u64()?;
    let done = splice(task, &from, At::Offset(start), &out, At::Own, length.0)?;
    offset.write(&(start + done as u64).to_le_bytes())?;
    count(done)
}

pub fn copy_file_range(task: &mut Task, from: Fd, from_offset: Ptr, to: Fd, to_offset: Ptr, length: Len, flags: u32) -> Result {
    let (from, to) = (file(task, from)?, file(task, to)?);
    if flags != 0 || from.vnode().kind() != Kind::File || to.vnode().kind() != Kind::File {
        return Err(Errno::EINVAL.into());
    }
    let at = |offset: Ptr| -> Result<At> {
        if offset.given() { Ok(At::Offset(offset.read_u64()?)) } else { Ok(At::Own) }
    };
    let (from_at, to_at) = (at(from_offset)?, at(to_offset)?);
    let done = splice(task, &from, from_at, &to, to_at, length.0)?;
    for (pointer, at) in [(from_offset, from_at), (to_offset, to_at)] {
        if let At::Offset(start) = at {
            pointer.write(&(start + done as u64).to_le_bytes())?;
        }
    }
    count(done)
}

pub fn ftruncate(task: &mut Task, fd: Fd, size: Offset) -> Result {
    file(task, fd)?.truncate(size.0)?;
    Ok(0)
}

pub fn fallocate(task: &mut Task, fd: Fd, mode: u32, offset: Offset, length: Offset) -> Result {
    const KEEP_SIZE: u32 = 1;
    const PUNCH_HOLE: u32 = 2;
    const ZERO_RANGE: u32 = 16;
    let file = file(task, fd)?;
    let end = offset.0.checked_add(length.0).filter(|end| length.0 > 0 && end.cast_signed() > 0).ok_or(Errno::EINVAL)?;
    if !file.flags().contains(OpenFlags::WRITE) {
        return Err(Errno::EBADF.into());
    }
    match file.vnode().kind() {
        Kind::File => {}
        Kind::Fifo => return Err(Errno::ESPIPE.into()),
        _ => return Err(Errno::ENODEV.into()),
    }
    match mode & !KEEP_SIZE {
        // Blocks come when they are written, elsewhere than those before: what can be promised is the size, and that there is room now.
        0 => {
            let room = file.place().statfs()?;
            // What has no size of its own (files without a name) is bounded by the zone's memory.
            if room.blocks > 0 && length.0 > room.blocks_free.saturating_mul(room.block_bytes) {
                return Err(Errno::ENOSPC.into());
            }
        }
        PUNCH_HOLE if mode & KEEP_SIZE == 0 => return Err(Errno::EOPNOTSUPP.into()),
        PUNCH_HOLE | ZERO_RANGE => file.punch(offset.0, length.0)?,
        _ => return Err(Errno::EOPNOTSUPP.into()),
    }
    if mode & KEEP_SIZE == 0 {
        file.extend(end)?;
    }
    Ok(0)
}

pub fn fsync(task: &mut Task, fd: Fd) -> Result {
    file(task, fd)?.sync()?;
    Ok(0)
}

pub fn sync_file_range(task: &mut Task, fd: Fd, _offset: u64, _length: u64, _flags: u32) -> Result {
    fsync(task, fd)
}

pub fn sync(task: &mut Task) -> Result {
    // sync(2) has no way to tell its caller that it failed.
    if let Err(error) = vfs::mount::sync_all(crate::paths::Paths::of(task)?.cx().root) {
        kif::log().line(format_args!("sync: {error:?}"));
    }
    Ok(0)
}

pub fn syncfs(task: &mut Task, fd: Fd) -> Result {
    file(task, fd)?.place().mount.fs().sync()?;
    Ok(0)
}

pub fn fadvise64(task: &mut Task, fd: Fd, _offset: u64, _length: u64, advice: u32) -> Result {
    let file = file(task, fd)?;
    if !file.is_seekable() {
        return Err(Errno::ESPIPE.into());
    }
    if advice > 5 { Err(Errno::EINVAL.into()) } else { Ok(0) }
}

pub fn readahead(task: &mut Task, fd: Fd, _offset: u64, _length: u64) -> Result {
    file(task, fd).map(|_| 0)
}

pub fn flock(task: &mut Task, fd: Fd, operation: u32) -> Result {
    let file = file(task, fd)?;
    let kind = match operation & !LOCK_NB {
        LOCK_SH => Some(LockKind::Shared),
        LOCK_EX => Some(LockKind::Exclusive),
        LOCK_UN => None,
        _ => return Err(Errno::EINVAL.into()),
    };
    file.flock(kind, operation & LOCK_NB != 0)?;
    Ok(0)
}

/// Fills a buffer with directory entries in the layout that `encode` makes.
fn list(task: &Task, fd: Fd, to: Ptr, room: u32, encode: fn(u64, u64, u8, &[u8]) -> Vec<u8>) -> Result {
    let file = file(task, fd)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?.min(CHUNK);
    let mut out: Vec<u8> = Vec::new();
    out.try_reserve_exact(room).map_err(|_| Errno::ENOMEM)?;
    let mut too_small = false;
    file.readdir(&mut |entry| {
        let bytes = encode(entry.ino, entry.next, entry.kind.dirent_type(), entry.name);
        let fits = out.len() + bytes.len() <= room;
        if fits {
            out.extend_from_slice(&bytes);
        } else {
            too_small = out.is_empty();
        }
        fits
    })?;
    if too_small {
        return Err(Errno::EINVAL.into());
    }
    to.write(&out)?;
    count(out.len())
}

pub fn getdents(task: &mut Task, fd: Fd, to: Ptr, room: u32) -> Result {
    list(task, fd, to, room, linux_abi::dirent)
}
pub fn getdents64(task: &mut Task, fd: Fd, to: Ptr, room: u32) -> Result {
    list(task, fd, to, room, linux_abi::dirent64)
}

pub fn ioctl(task: &mut Task, fd: Fd, request: u32, argument: u64) -> Result {
    let file = file(task, fd)?;
    match request {
        FIOCLEX => task.files.set_close_on_exec(fd.0, true)?,
        FIONCLEX => task.files.set_close_on_exec(fd.0, false)?,
        FIONBIO => file.set_nonblock(Ptr(argument).read_u32()? != 0),
        FIONREAD if file.vnode().kind() == Kind::File => {
            let at = file.seek(0, Whence::Current)?;
            let left = file.attr()?.size.saturating_sub(at);
            Ptr(argument).write(&u32::try_from(left).unwrap_or(u32::MAX).to_le_bytes())?;
        }
        _ => return Ok(file.ioctl(request, argument, task.zone.id())?),
    }
    Ok(0)
}

fn limit(task: &Task) -> u32 {
    u32::try_from(task.process.limit(linux_abi::consts::process::RLIMIT_NOFILE)).unwrap_or(u32::MAX)
}

/// Gives an open file the lowest free descriptor.
pub fn install(task: &Task, file: Arc<File>, close_on_exec: bool) -> Result {
    Ok(task.files.insert(file, close_on_exec, 0, limit(task))?.into())
}

pub fn close(task: &mut Task, fd: Fd) -> Result {
    let file = task.files.remove(fd.0)?;
    proc::locks::closed(&task.process, &file);
    Ok(0)
}

pub fn close_range(task: &mut Task, first: u32, last: u32, flags: u32) -> Result {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    if first > last || flags & !(UNSHARE | CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & CLOEXEC != 0 {
        task.files.mark_range(first, last);
    } else {
        let process = &task.process;
        task.files.take_range(first, last, |file| proc::locks::closed(process, &file));
    }
    Ok(0)
}

pub fn dup(task: &mut Task, fd: Fd) -> Result {
    let file = file(task, fd)?;
    install(task, file, false)
}

pub fn dup2(task: &mut Task, from: Fd, to: Fd) -> Result {
    if from.0 == to.0 {
        return file(task, from).map(|_| u64::from(to.0));
    }
    replace(task, from, to, false)
}

pub fn dup3(task: &mut Task, from: Fd, to: Fd, flags: u32) -> Result {
    if from.0 == to.0 || flags & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL.into());
    }
    replace(task, from, to, flags & O_CLOEXEC != 0)
}

fn replace(task: &Task, from: Fd, to: Fd, close_on_exec: bool) -> Result {
    let file = file(task, from)?;
    if let Some(old) = task.files.replace(to.0, file, close_on_exec, limit(task))? {
        proc::locks::closed(&task.process, &old);
    }
    Ok(to.0.into())
}

/// O_ flags as fcntl(F_GETFL) shows them.
fn shown_flags(flags: OpenFlags) -> u32 {
    let access = match (flags.contains(OpenFlags::READ), flags.contains(OpenFlags::WRITE)) {
        (true, true) => O_RDWR,
        (false, true) => O_WRONLY,
        (_, false) => O_RDONLY,
    };
    access | ((flags - (OpenFlags::READ | OpenFlags::WRITE)).bits())
}

pub fn fcntl(task: &mut Task, fd: Fd, command: u32, argument: u64) -> Result {
    let file = file(task, fd)?;
    let word = argument & 0xffff_ffff;
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let from = u32::try_from(word).ok().filter(|from| *from < limit(task)).ok_or(Errno::EINVAL)?;
            Ok(task.files.insert(file, command == F_DUPFD_CLOEXEC, from, limit(task))?.into())
        }
        F_GETFD => Ok(u64::from(task.files.close_on_exec(fd.0)?)),
        F_SETFD => {
            task.files.set_close_on_exec(fd.0, word & u64::from(FD_CLOEXEC) != 0)?;
            Ok(0)
        }
        F_GETFL => Ok(shown_flags(file.flags()).into()),
        F_SETFL => {
            let bits = u32::try_from(word).map_err(|_| Errno::EINVAL)?;
            file.set_flags(OpenFlags::from_bits_truncate(bits & !O_ACCMODE));
            Ok(0)
        }
        F_GETLK | F_SETLK | F_SETLKW | F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW => record_lock(task, &file, command, Ptr(argument)),
        // Nobody gets SIGIO here; the owner is accepted and not kept.
        F_SETOWN | F_GETOWN => Ok(0),
        F_GETPIPE_SZ | F_SETPIPE_SZ if file.vnode().kind() == Kind::Fifo => Ok(64 << 10),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// `struct flock`: l_type 0, l_whence 2, l_start 8, l_len 16, l_pid 24; 32 bytes.
fn record_lock(task: &Task, file: &Arc<File>, command: u32, at: Ptr) -> Result {
    let raw: [u8; 32] = at.read()?;
    let kind = match field_u16(&raw, 0) {
        F_RDLCK => Some(LockKind::Shared),
        F_WRLCK => Some(LockKind::Exclusive),
        F_UNLCK => None,
        _ => return Err(Errno::EINVAL.into()),
    };
    let base = match field_u16(&raw, 2) {
        0 => 0,
        1 => file.seek(0, Whence::Current)?,
        2 => file.attr()?.size,
        _ => return Err(Errno::EINVAL.into()),
    };
    let (start, length) = (field_u64(&raw, 8).cast_signed(), field_u64(&raw, 16).cast_signed());
    let first = base.checked_add_signed(start).ok_or(Errno::EINVAL)?;
    let (first, last) = match length {
        0 => (first, u64::MAX),
        1.. => (first, first.checked_add_signed(length - 1).ok_or(Errno::EOVERFLOW)?),
        _ => (first.checked_add_signed(length).ok_or(Errno::EINVAL)?, first.checked_sub(1).ok_or(Errno::EINVAL)?),
    };
    let own = matches!(command, F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW);
    let owner = if own { Arc::as_ptr(file).addr() as u64 } else { proc::locks::owner(&task.process) };
    let id = file.vnode().id();
    let Some(kind) = kind else {
        if matches!(command, F_GETLK | F_OFD_GETLK) {
            return Err(Errno::EINVAL.into());
        }
        vfs::clear_record(id, owner, first, last)?;
        return Ok(0);
    };
    let wanted = Record { kind, first, last, owner };
    if matches!(command, F_GETLK | F_OFD_GETLK) {
        let mut out = Bytes::with_capacity(32);
        match vfs::test_record(id, &wanted) {
            None => {
                out.u16(F_UNLCK).raw(&raw[2..]);
            }
            Some(other) => {
                let kind = if other.kind == LockKind::Shared { F_RDLCK } else { F_WRLCK };
                let length = if other.last == u64::MAX { 0 } else { other.last - other.first + 1 };
                let pid = u32::try_from(other.owner).map_or(u32::MAX, |pid| task.process.show(pid));
                out.u16(kind).u16(0).u32(0).u64(other.first).u64(length).u32(pid).u32(0);
            }
        }
        at.write(&out.done())?;
        return Ok(0);
    }
    let needed = if kind == LockKind::Shared { OpenFlags::READ } else { OpenFlags::WRITE };
    if !file.flags().contains(needed) {
        return Err(Errno::EBADF.into());
    }
    vfs::set_record(id, wanted, matches!(command, F_SETLKW | F_OFD_SETLKW))?;
    Ok(0)
}

pub fn pipe(task: &mut Task, to: Ptr) -> Result {
    pipe2(task, to, 0)
}

pub fn pipe2(task: &mut Task, to: Ptr, flags: u32) -> Result {
    if flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (reader, writer) = vfs::pipe::new(OpenFlags::from_bits_truncate(flags & O_NONBLOCK));
    pair(task, to, reader, writer, flags & O_CLOEXEC != 0)
}

/// Gives two open files descriptors and writes their numbers; all or nothing.
pub fn pair(task: &Task, to: Ptr, first: Arc<File>, second: Arc<File>, close_on_exec: bool) -> Result {
    let one = task.files.insert(first, close_on_exec, 0, limit(task))?;
    let two = match task.files.insert(second, close_on_exec, 0, limit(task)) {
        Ok(two) => two,
        Err(error) => {
            drop(task.files.remove(one)?);
            return Err(error.into());
        }
    };
    let mut numbers = vec![];
    numbers.extend_from_slice(&one.to_le_bytes());
    numbers.extend_from_slice(&two.to_le_bytes());
    if let Err(error) = to.write(&numbers) {
        drop(task.files.remove(one)?);
        drop(task.files.remove(two)?);
        return Err(error);
    }
    Ok(0)
}

/// Refuses flags outside `allowed`.
pub fn only(flags: u32, allowed: u32) -> Result<()> {
    if flags & !allowed == 0 { Ok(()) } else { Err(Fail::Errno(Errno::EINVAL)) }
}
