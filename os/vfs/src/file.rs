//! Open-file descriptions: what file descriptors refer to.
//!
//! # Locking
//! The offset has a mutex of class `File`, held across the transfer so that two readers of one description never get the same
//! bytes, but not across a directory listing. Streams (pipes, terminals, sockets) have no offset and are never called under it: they may block for long.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use kif::{Frame, PAGE_SIZE, ZoneId};
use vm::BackingError;
use sync::{Class, Mutex};

use crate::locks::{self, LockKind};
use crate::poll::{Pollee, Ready};
use crate::vnode::{Attr, DirEntry, Io, Jump, Kind, Lent, VnodeRef};
use crate::walk::{self, Link};
use crate::{Place, Result, VfsError, text, zoneio};

bitflags! {
    /// How to open, and how an open file behaves. All but `READ` and `WRITE` have the values of `open(2)` on x86-64, so
    /// that the system-call layer converts by masking.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct OpenFlags: u32 {
        const CREATE = 0o100;
        const EXCL = 0o200;
        const NOCTTY = 0o400;
        const TRUNC = 0o1000;
        const APPEND = 0o2000;
        const NONBLOCK = 0o4000;
        const DSYNC = 0o10000;
        const DIRECT = 0o40000;
        const LARGEFILE = 0o100_000;
        const DIRECTORY = 0o200_000;
        const NOFOLLOW = 0o400_000;
        const NOATIME = 0o1_000_000;
        /// With `DSYNC`, as `O_SYNC` has both: the attributes, too. Here they are durable with the contents.
        const SYNC = 0o4_000_000;
        const PATH = 0o10_000_000;
        /// Reading is allowed.
        const READ = 1 << 30;
        /// Writing is allowed.
        const WRITE = 1 << 31;
    }
}

impl OpenFlags {
    /// The flags that stay with an open file.
    const KEPT: Self = Self::READ
        .union(Self::WRITE)
        .union(Self::APPEND)
        .union(Self::NONBLOCK)
        .union(Self::DSYNC)
        .union(Self::SYNC)
        .union(Self::DIRECT)
        .union(Self::DIRECTORY)
        .union(Self::NOATIME)
        .union(Self::LARGEFILE)
        .union(Self::PATH);
    /// The flags that `fcntl(F_SETFL)` may change.
    const CHANGEABLE: Self = Self::APPEND.union(Self::NONBLOCK).union(Self::DIRECT).union(Self::NOATIME);
}

/// Where a seek is measured from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whence {
    Start,
    Current,
    End,
}

/// An open file.
#[allow(missing_debug_implementations, reason = "vnodes do not print")]
pub struct File {
    place: Place,
    /// What transfers go to, if not the vnode of `place`.
    object: Option<VnodeRef>,
    link: Option<Link>,
    flags: AtomicU32,
    offset: Mutex<u64>,
    /// The object's answers to [`crate::Vnode::is_seekable`] and [`crate::Vnode::needs_memory`], which never change.
    is_seekable: bool,
    needs_memory: bool,
    /// Keeps it from being executed, if it is a file open for writing.
    _writer: Option<text::Use>,
    /// It may hold a whole-file lock: its last close must look.
    locked: AtomicBool,
}

impl File {
    pub(crate) fn new(place: Place, object: Option<VnodeRef>, link: Option<Link>, flags: OpenFlags, writer: Option<text::Use>) -> Arc<Self> {
        let kept = flags & OpenFlags::KEPT;
        let target = object.as_ref().unwrap_or(&place.vnode);
        let (is_seekable, needs_memory) = (target.is_seekable(), target.needs_memory());
        let flags = AtomicU32::new(kept.bits());
        let offset = Mutex::new(Class::File, 0);
        Arc::new(Self { place, object, link, flags, offset, is_seekable, needs_memory, _writer: writer, locked: AtomicBool::new(false) })
    }
    /// An open file on an object without a name (pipe end, socket, epoll, ...).
    #[must_use]
    pub fn anonymous(object: VnodeRef, flags: OpenFlags) -> Arc<Self> {
        Self::new(Place::anonymous(object), None, None, flags, None)
    }
    /// An open file whose transfers go to `object`, while `/proc` and `fstat` show `named` (an anonymous pipe's ends).
    #[must_use]
    pub fn anonymous_end(named: VnodeRef, object: VnodeRef, flags: OpenFlags) -> Arc<Self> {
        Self::new(Place::anonymous(named), Some(object), None, flags, None)
    }

    /// Where it was opened.
    #[must_use]
    pub const fn place(&self) -> &Place {
        &self.place
    }
    /// As the target of a link (`/proc/self/fd/3`).
    #[must_use]
    pub fn target(&self) -> Jump {
        Jump { place: self.place.clone(), link: self.link.clone() }
    }
    /// The object that transfers go to.
    #[must_use]
    pub fn object(&self) -> &VnodeRef {
        self.object.as_ref().unwrap_or(&self.place.vnode)
    }
    /// Whether it has an offset.
    #[must_use]
    pub const fn is_seekable(&self) -> bool {
        self.is_seekable
    }
    /// Whether a write may need kernel memory; see [`crate::Vnode::needs_memory`].
    #[must_use]
    pub const fn needs_memory(&self) -> bool {
        self.needs_memory
    }
    /// The named object: what `fstat` shows.
    #[must_use]
    pub fn vnode(&self) -> &VnodeRef {
        &self.place.vnode
    }
    /// Current flags.
    #[must_use]
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }
    /// Changes the flags that `F_SETFL` may change; the others keep their values.
    pub fn set_flags(&self, wanted: OpenFlags) {
        let kept = self.flags() & !OpenFlags::CHANGEABLE;
        self.flags.store((kept | (wanted & OpenFlags::CHANGEABLE)).bits(), Ordering::Relaxed);
    }
    /// Turns non-blocking mode on or off (`FIONBIO`).
    pub fn set_nonblock(&self, on: bool) {
        let mut flags = self.flags();
        flags.set(OpenFlags::NONBLOCK, on);
        self.set_flags(flags);
    }
    fn io(&self, zone: ZoneId) -> Io {
        Io { zone, nonblock: self.flags().contains(OpenFlags::NONBLOCK) }
    }
    fn allow(&self, direction: OpenFlags) -> Result<()> {
        if self.flags().contains(direction) { Ok(()) } else { Err(VfsError::BadAccessMode) }
    }

    /// Reads at the offset and moves it.
    ///
    /// # Errors
    /// See `read(2)`.
    #[inline]
    pub fn read(&self, out: &mut [u8], zone: ZoneId) -> Result<usize> {
        self.allow(OpenFlags::READ)?;
        let object = self.object();
        if !self.is_seekable {
            return object.read_at(0, out, self.io(zone));
        }
        self.read_own(out, zone)
    }
    #[inline(never)]
    fn read_own(&self, out: &mut [u8], zone: ZoneId) -> Result<usize> {
        let object = self.object();
        if object.kind() == Kind::Directory {
            return Err(VfsError::IsDirectory);
        }
        let mut offset = self.offset.lock();
        let count = zoneio::transfer(zone, true, || object.read_at(*offset, out, self.io(zone)))?;
        *offset += count as u64;
        Ok(count)
    }
    /// Reads at `offset`, or at the file's own and moves it, by lending pages; see [`crate::Vnode::lend`]. Gives where the bytes begin in the first page, and how many they
    /// are.
    ///
    /// # Errors
    /// See `read(2)`.
    pub fn lend(&self, offset: Option<u64>, length: usize, zone: ZoneId, lent: &mut Lent) -> Result<Option<(usize, usize)>> {
        self.allow(OpenFlags::READ)?;
        let object = self.object();
        if !object.lends() {
            return Ok(None);
        }
        let mut take = |offset| {
            let mut is_offered = true;
            let count = zoneio::transfer(zone, true, || {
                let count = object.lend(offset, length, self.io(zone), lent)?;
                is_offered = count.is_some();
                Ok::<_, VfsError>(count.unwrap_or(0))
            })?;
            let start = (offset % PAGE_SIZE as u64) as usize;
            Ok(is_offered.then_some((start, count)))
        };
        if let Some(offset) = offset {
            return take(offset);
        }
        let mut own = self.offset.lock();
        let count = take(*own)?;
        *own += count.map_or(0, |(_, count)| count as u64);
        Ok(count)
    }
    /// Writes at the offset (or the end, in append mode) and moves it.
    ///
    /// # Errors
    /// See `write(2)`.
    #[inline]
    pub fn write(&self, data: &[u8], zone: ZoneId) -> Result<usize> {
        self.allow(OpenFlags::WRITE)?;
        let object = self.object();
        if !self.is_seekable {
            return object.write_at(0, data, self.io(zone));
        }
        self.write_own(data, zone)
    }
    #[inline(never)]
    fn write_own(&self, data: &[u8], zone: ZoneId) -> Result<usize> {
        let object = self.object();
        let mut offset = self.offset.lock();
        let count = if self.flags().contains(OpenFlags::APPEND) {
            zoneio::transfer(zone, false, || {
                let (end, count) = object.append(data, self.io(zone))?;
                *offset = end;
                Ok::<_, VfsError>(count)
            })?
        } else {
            let count = zoneio::transfer(zone, false, || object.write_at(*offset, data, self.io(zone)))?;
            *offset += count as u64;
            count
        };
        drop(offset);
        self.keep_promise(count)
    }
    /// What was written through a description opened with `O_DSYNC` or `O_SYNC` is durable when the call returns.
    fn keep_promise(&self, written: usize) -> Result<usize> {
        if self.flags().intersects(OpenFlags::DSYNC | OpenFlags::SYNC) && written > 0 {
            self.object().sync()?;
        }
        Ok(written)
    }
    /// Reads at `offset`, leaving the file's own alone.
    ///
    /// # Errors
    /// See `pread(2)`.
    pub fn read_at(&self, offset: u64, out: &mut [u8], zone: ZoneId) -> Result<usize> {
        self.allow(OpenFlags::READ)?;
        let object = self.object();
        if object.kind() == Kind::Directory {
            return Err(VfsError::IsDirectory);
        }
        if !self.is_seekable {
            return Err(VfsError::IllegalSeek);
        }
        zoneio::transfer(zone, true, || object.read_at(offset, out, self.io(zone)))
    }
    /// Writes at `offset` (at the end in append mode, as on Linux), leaving the file's own alone.
    ///
    /// # Errors
    /// See `pwrite(2)`.
    pub fn write_at(&self, offset: u64, data: &[u8], zone: ZoneId) -> Result<usize> {
        self.allow(OpenFlags::WRITE)?;
        let object = self.object();
        if !self.is_seekable {
            return Err(VfsError::IllegalSeek);
        }
        let count = if self.flags().contains(OpenFlags::APPEND) {
            zoneio::transfer(zone, false, || object.append(data, self.io(zone)).map(|(_, count)| count))?
        } else {
            zoneio::transfer(zone, false, || object.write_at(offset, data, self.io(zone)))?
        };
        self.keep_promise(count)
    }
    /// Moves the offset; returns the new one.
    ///
    /// # Errors
    /// Not seekable; the result would be negative.
    pub fn seek(&self, distance: i64, whence: Whence) -> Result<u64> {
        let object = self.object();
        if self.flags().contains(OpenFlags::PATH) {
            return Err(VfsError::BadAccessMode);
        }
        if !self.is_seekable {
            return Err(VfsError::IllegalSeek);
        }
        let mut offset = self.offset.lock();
        let base = match whence {
            Whence::Start => 0,
            Whence::Current => *offset,
            Whence::End => object.attr()?.size,
        };
        let target = base.checked_add_signed(distance).ok_or(VfsError::Invalid)?;
        if i64::try_from(target).is_err() {
            return Err(VfsError::Invalid);
        }
        *offset = target;
        Ok(target)
    }
    /// Lists entries from where the last call stopped. An entry for which `emit` returns false comes again in the next call.
    ///
    /// # Errors
    /// Not a directory; it has been removed.
    pub fn readdir(&self, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        self.allow(OpenFlags::READ)?;
        // Not under the offset's lock: a directory's own lock comes before it in the order, and procfs asks the process table.
        let mut cookie = *self.offset.lock();
        let result = self.place.vnode.readdir(cookie, &mut |entry| {
            let taken = emit(entry);
            if taken {
                cookie = entry.next;
            }
            taken
        });
        *self.offset.lock() = cookie;
        result
    }
    /// Sets the size.
    ///
    /// # Errors
    /// See `ftruncate(2)`.
    pub fn truncate(&self, size: u64) -> Result<()> {
        if !self.flags().contains(OpenFlags::WRITE) {
            return Err(VfsError::Invalid);
        }
        self.object().truncate(size)
    }
    /// Makes the size at least `size` (`fallocate(2)`).
    ///
    /// # Errors
    /// Not open for writing; as [`Vnode::extend`].
    ///
    /// [`Vnode::extend`]: crate::Vnode::extend
    pub fn extend(&self, size: u64) -> Result<()> {
        if !self.flags().contains(OpenFlags::WRITE) {
            return Err(VfsError::Invalid);
        }
        self.object().extend(size)
    }
    /// Makes a part of the contents a hole (`fallocate(2)`).
    ///
    /// # Errors
    /// Not open for writing; not offered.
    pub fn punch(&self, offset: u64, length: u64) -> Result<()> {
        if !self.flags().contains(OpenFlags::WRITE) {
            return Err(VfsError::Invalid);
        }
        self.object().punch(offset, length)
    }
    /// What `mmap` maps; `None` if this kind of object cannot be mapped.
    #[must_use]
    pub fn backing(self: &Arc<Self>) -> Option<Arc<dyn vm::Backing>> {
        match self.object().kind() {
            Kind::File | Kind::CharDevice => Some(Arc::new(FileBacking(Arc::clone(self)))),
            Kind::Directory | Kind::Symlink | Kind::BlockDevice | Kind::Fifo | Kind::Socket | Kind::Anonymous => None,
        }
    }
    /// Attributes of the named object.
    ///
    /// # Errors
    /// The object is gone.
    pub fn attr(&self) -> Result<Attr> {
        self.place.vnode.attr()
    }
    /// A device control call.
    ///
    /// # Errors
    /// See [`crate::Vnode::ioctl`].
    pub fn ioctl(&self, request: u32, argument: u64, zone: ZoneId) -> Result<u64> {
        if self.flags().contains(OpenFlags::PATH) {
            return Err(VfsError::BadAccessMode);
        }
        self.object().ioctl(request, argument, self.io(zone))
    }
    /// Makes contents durable.
    ///
    /// # Errors
    /// The medium failed; not a kind of object that can be synced ([`VfsError::Invalid`]).
    pub fn sync(&self) -> Result<()> {
        match self.object().kind() {
            Kind::File | Kind::Directory | Kind::BlockDevice => self.object().sync(),
            Kind::Symlink | Kind::CharDevice | Kind::Fifo | Kind::Socket | Kind::Anonymous => Err(VfsError::Invalid),
        }
    }
    /// What it is ready for.
    #[must_use]
    pub fn poll(&self) -> Ready {
        self.object().poll()
    }
    /// Where its waiters wait, if it can be unready at all.
    #[must_use]
    pub fn pollee(&self) -> Option<&Pollee> {
        self.object().pollee()
    }
    /// Registers the calling thread for wake-ups of this object.
    pub fn register(&self) {
        if let Some(pollee) = self.pollee() {
            pollee.queue().register();
        }
    }
    /// Ends [`File::register`].
    pub fn unregister(&self) {
        if let Some(pollee) = self.pollee() {
            pollee.queue().unregister();
        }
    }
    /// Takes, converts or drops (`None`) a whole-file lock of this description (`flock(2)`).
    ///
    /// # Errors
    /// Would block; interrupted.
    pub fn flock(self: &Arc<Self>, kind: Option<LockKind>, nonblock: bool) -> Result<()> {
        self.locked.store(true, Ordering::Relaxed);
        locks::flock(self.vnode().id(), self.lock_owner(), kind, nonblock)
    }
    /// Identity of this description as an owner of locks.
    fn lock_owner(self: &Arc<Self>) -> u64 {
        Arc::as_ptr(self).addr() as u64
    }
    /// Its path as seen from `root`; `None` if it lies elsewhere, has no name or lost it.
    #[must_use]
    pub fn path(&self, root: &Place) -> Option<Vec<u8>> {
        if self.place.is_anonymous() {
            return None;
        }
        let Some((dir, name)) = &self.link else { return walk::path_of(&self.place, root) };
        let mut path = walk::path_of(dir, root)?;
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Some(path)
    }
    /// What `/proc/PID/fd/N` and `/proc/PID/maps` show for it: its path, with ` (deleted)` if it has lost its name, or
    /// `pipe:[5]` and the like.
    #[must_use]
    pub fn describe(&self, root: &Place) -> Vec<u8> {
        let id = self.place.vnode.id().ino;
        if self.place.is_anonymous() {
            return match self.place.vnode.kind() {
                Kind::Fifo => alloc::format!("pipe:[{id}]"),
                Kind::Socket => alloc::format!("socket:[{id}]"),
                Kind::Anonymous => "anon_inode:[object]".into(),
                Kind::File | Kind::Directory | Kind::Symlink | Kind::CharDevice | Kind::BlockDevice => {
                    alloc::format!("anon:[{id}]")
                }
            }
            .into_bytes();
        }
        let mut path = self.path(root).unwrap_or_else(|| b"(unreachable)".to_vec());
        if self.attr().is_ok_and(|attr| attr.nlink == 0) {
            path.extend_from_slice(b" (deleted)");
        }
        path
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if *self.locked.get_mut() {
            let owner = core::ptr::from_ref(self).addr() as u64;
            locks::forget(self.place.vnode.id(), owner);
        }
    }
}

/// A mapped file. Keeps the description open while it is mapped.
struct FileBacking(Arc<File>);

impl vm::Backing for FileBacking {
    fn page(&self, index: u64, zone: ZoneId, write: bool) -> core::result::Result<Frame, BackingError> {
        self.0.object().page(index, write, zone).map_err(|error| match error {
            VfsError::NoMemory | VfsError::NoSpace => BackingError::OutOfMemory,
            VfsError::Invalid | VfsError::NoDevice => BackingError::PastEnd,
            VfsError::Interrupted => BackingError::Interrupted,
            _ => BackingError::Io,
        })
    }
    fn sync(&self) -> core::result::Result<(), BackingError> {
        self.0.object().sync().map_err(|error| match error {
            VfsError::NoMemory => BackingError::OutOfMemory,
            VfsError::Interrupted => BackingError::Interrupted,
            _ => BackingError::Io,
        })
    }
    fn name(&self) -> String {
        let path = self.0.describe(&self.0.place.zone_root());
        String::from_utf8_lossy(&path).into_owned()
    }
    fn identity(&self) -> (u64, u64) {
        let id = self.0.place.vnode.id();
        (id.fs, id.ino)
    }
}
