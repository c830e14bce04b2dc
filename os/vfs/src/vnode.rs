//! The vnode: one object of a file system, and what may be asked of it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::any::Any;
use kif::{Frame, Nanos, PAGE_SIZE, ZoneId};

use crate::poll::{Pollee, Ready};
use crate::xattr::Existence;
use crate::{OpenFlags, Place, Result, VfsError};

/// Longest component of a path.
pub const NAME_MAX: usize = 255;
/// Longest path, with its terminating NUL.
pub const PATH_MAX: usize = 4096;

/// A shared vnode.
pub type VnodeRef = Arc<dyn Vnode>;

/// What a vnode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
    /// An object without a name in any file system: epoll, eventfd, ...
    Anonymous,
}

impl Kind {
    /// The type bits of `st_mode` (`inode(7)`).
    #[must_use]
    pub const fn type_bits(self) -> u32 {
        match self {
            Self::File => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::Anonymous => 0,
        }
    }
    /// From the type bits of a mode; `None` if they name no type.
    #[must_use]
    pub const fn from_type_bits(mode: u32) -> Option<Self> {
        match mode & 0o170_000 {
            0o100_000 => Some(Self::File),
            0o040_000 => Some(Self::Directory),
            0o120_000 => Some(Self::Symlink),
            0o020_000 => Some(Self::CharDevice),
            0o060_000 => Some(Self::BlockDevice),
            0o010_000 => Some(Self::Fifo),
            0o140_000 => Some(Self::Socket),
            _ => None,
        }
    }
    /// `d_type` of `getdents64(2)`.
    #[must_use]
    pub const fn dirent_type(self) -> u8 {
        match self {
            Self::File => 8,
            Self::Directory => 4,
            Self::Symlink => 10,
            Self::CharDevice => 2,
            Self::BlockDevice => 6,
            Self::Fifo => 1,
            Self::Socket => 12,
            Self::Anonymous => 0,
        }
    }
}

/// A device number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct DevNo {
    pub major: u32,
    pub minor: u32,
}

impl DevNo {
    /// From its parts.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
    /// As in `st_rdev` and `mknod(2)` (the glibc `dev_t` layout).
    #[must_use]
    pub const fn encode(self) -> u64 {
        let (major, minor) = (self.major as u64, self.minor as u64);
        (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12) | ((major & !0xfff) << 32)
    }
    /// The inverse of [`DevNo::encode`].
    #[must_use]
    pub const fn decode(raw: u64) -> Self {
        let major = ((raw >> 8) & 0xfff) | ((raw >> 32) & 0xffff_f000);
        let minor = (raw & 0xff) | ((raw >> 12) & 0xffff_ff00);
        Self { major: major as u32, minor: minor as u32 }
    }
}

/// Identity of a vnode while it lives: file system and inode number. Two handles are the same object if these are equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId {
    pub fs: u64,
    pub ino: u64,
}

/// Attributes, as `stat` shows them. Times are real time (since 1970).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    pub id: NodeId,
    pub kind: Kind,
    /// Permission bits, 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub size: u64,
    /// Occupied space in units of 512 bytes.
    pub blocks: u64,
    pub rdev: DevNo,
    pub atime: Nanos,
    pub mtime: Nanos,
    pub ctime: Nanos,
}

impl Attr {
    /// Attributes of an object that is not a file: size and times zero, one link, owned by root.
    #[must_use]
    pub const fn simple(id: NodeId, kind: Kind, mode: u32) -> Self {
        Self {
            id,
            kind,
            mode,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 0,
            blocks: 0,
            rdev: DevNo::new(0, 0),
            atime: Nanos(0),
            mtime: Nanos(0),
            ctime: Nanos(0),
        }
    }
    /// `st_mode`.
    #[must_use]
    pub const fn st_mode(&self) -> u32 {
        self.kind.type_bits() | self.mode
    }
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<Nanos>,
    pub mtime: Option<Nanos>,
}

/// Who a new object belongs to and who pays for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub zone: ZoneId,
}

/// What accompanies every transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Io {
    /// Pays for pages that a write needs.
    pub zone: ZoneId,
    /// Do not block.
    pub nonblock: bool,
}

/// Pages lent at once, at most.
const LENT_MAX: usize = 17;

/// Pages of a file, in order, to be read by somebody who holds no lock: they are as the file is or was at the time.
#[derive(Debug, Default)]
pub struct Lent {
    /// Most reads are within one page.
    first: Option<Frame>,
    rest: Vec<Frame>,
}

impl Lent {
    /// Bytes that can be lent from `offset` of a file on.
    #[must_use]
    pub const fn room(offset: u64) -> usize {
        LENT_MAX * PAGE_SIZE - (offset % PAGE_SIZE as u64) as usize
    }
    /// Adds the next page.
    pub fn push(&mut self, frame: Frame) {
        if self.first.is_none() {
            self.first = Some(frame);
            return;
        }
        if self.rest.is_empty() {
            self.rest.reserve_exact(LENT_MAX - 1);
        }
        self.rest.push(frame);
    }
    /// Pages so far.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }
    /// The pages.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.first.iter().chain(&self.rest)
    }
}

/// One directory entry, as handed to the `emit` closure of [`Vnode::readdir`].
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    pub name: &'a [u8],
    pub ino: u64,
    pub kind: Kind,
    /// Cookie that continues *after* this entry.
    pub next: u64,
}

/// Space of a file system, as `statfs(2)` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatFs {
    /// `f_type`.
    pub magic: u64,
    pub block_bytes: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub files: u64,
    pub files_free: u64,
}

bitflags! {
    /// Variants of rename (`renameat2(2)`; same values).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct RenameFlags: u32 {
        /// Fail if the target exists.
        const NOREPLACE = 1;
        /// Swap the two.
        const EXCHANGE = 2;
    }
}

/// Where a link to an object leads: the object, and the directory and name it was opened by, if any.
#[allow(missing_debug_implementations, reason = "places do not print")]
pub struct Jump {
    pub place: Place,
    pub link: Option<(Place, Box<[u8]>)>,
}

/// One object of a file system.
///
/// The caller (this crate's path operations and [`crate::File`]) has checked permissions, the mount's flags and the names: a
/// name is 1 to [`NAME_MAX`] bytes without `/` and NUL, and neither `.` nor `..`. Implementations do no permission checks of
/// their own beyond what is special to them. Methods may block; none is called under a spin lock. Buffers are kernel memory.
///
/// Every operation has a default that refuses in the way a plain object of another kind would, so an implementation lists
/// only what it can do.
pub trait Vnode: Send + Sync {
    /// Identity.
    fn id(&self) -> NodeId;
    /// What it is. Never changes.
    fn kind(&self) -> Kind;
    /// Attributes.
    ///
    /// # Errors
    /// The object is gone (a process of procfs).
    fn attr(&self) -> Result<Attr>;
    /// Occupied space in units of 512 bytes, where that is more than looking at `attr`, which was asked before.
    fn blocks(&self, attr: &Attr) -> u64 {
        attr.blocks
    }
    /// Changes attributes and the change time.
    ///
    /// # Errors
    /// Not offered.
    fn set_attr(&self, _change: &SetAttr) -> Result<()> {
        Err(VfsError::NotPermitted)
    }

    // Extended attributes; who may do what is up to `xattr`.

    /// The value of extended attribute `name`, with its namespace.
    ///
    /// # Errors
    /// Not offered.
    fn xattr(&self, _name: &[u8]) -> Result<Option<Vec<u8>>> {
        Err(VfsError::NotSupported)
    }
    /// Names of all extended attributes, sorted.
    ///
    /// # Errors
    /// Not offered; more than [`crate::xattr::VALUE_LIMIT`] bytes of them ([`VfsError::TooLong`]).
    fn xattr_names(&self) -> Result<Vec<Vec<u8>>> {
        Err(VfsError::NotSupported)
    }
    /// Sets an extended attribute, or with `None` removes it.
    ///
    /// # Errors
    /// Not offered; as `existence` says; no space.
    fn set_xattr(&self, _name: &[u8], _value: Option<&[u8]>, _existence: Existence) -> Result<()> {
        Err(VfsError::NotSupported)
    }

    // Directories.

    /// The entry called `name`.
    ///
    /// # Errors
    /// There is none.
    fn lookup(&self, _name: &[u8]) -> Result<VnodeRef> {
        Err(VfsError::NotDirectory)
    }
    /// For a directory: its parent and its own name there. The root of a file system is its own parent, with an empty name.
    ///
    /// # Errors
    /// It was removed together with its parent.
    fn parent(&self) -> Result<(VnodeRef, Box<[u8]>)> {
        Err(VfsError::NotDirectory)
    }
    /// Makes a file, FIFO, socket or device node.
    ///
    /// # Errors
    /// The name exists; no space; not offered.
    fn create(&self, _name: &[u8], _kind: Kind, _mode: u32, _rdev: DevNo, _owner: Owner) -> Result<VnodeRef> {
        Err(VfsError::NotPermitted)
    }
    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Vnode::create`].
    fn mkdir(&self, _name: &[u8], _mode: u32, _owner: Owner) -> Result<VnodeRef> {
        Err(VfsError::NotPermitted)
    }
    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`Vnode::create`].
    fn symlink(&self, _name: &[u8], _target: &[u8], _owner: Owner) -> Result<VnodeRef> {
        Err(VfsError::NotPermitted)
    }
    /// Makes a hard link to `target`, a non-directory of the same file system.
    ///
    /// # Errors
    /// As [`Vnode::create`]; `target` belongs to another file system or was removed.
    fn link(&self, _name: &[u8], _target: &VnodeRef) -> Result<()> {
        Err(VfsError::NotPermitted)
    }
    /// Removes a name of a non-directory.
    ///
    /// # Errors
    /// Not there, or a directory.
    fn unlink(&self, _name: &[u8]) -> Result<()> {
        Err(VfsError::NotPermitted)
    }
    /// Removes an empty directory.
    ///
    /// # Errors
    /// Not there, not a directory, not empty.
    fn rmdir(&self, _name: &[u8]) -> Result<()> {
        Err(VfsError::NotPermitted)
    }
    /// Moves `name` to `target_name` of `target`, replacing what is there as `rename(2)` demands.
    ///
    /// # Errors
    /// See `rename(2)`.
    fn rename(&self, _name: &[u8], _target: &VnodeRef, _target_name: &[u8], _flags: RenameFlags) -> Result<()> {
        Err(VfsError::NotPermitted)
    }
    /// Calls `emit` for entries after `cookie` (0: from the start) until it returns false or the end. `.` and `..` are
    /// included. `emit` runs under the directory's lock: it only stores. Cookies stay valid while entries come and go: an entry present throughout is seen exactly once.
    ///
    /// # Errors
    /// Not a directory.
    fn readdir(&self, _cookie: u64, _emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        Err(VfsError::NotDirectory)
    }

    // Symbolic links.

    /// The link's text.
    ///
    /// # Errors
    /// Not a symbolic link.
    fn readlink(&self) -> Result<Vec<u8>> {
        Err(VfsError::Invalid)
    }
    /// For links that lead to an object rather than to a path (`/proc/self/fd/3`, `/proc/self/exe`): the object.
    ///
    /// # Errors
    /// The object is gone or the caller may not follow.
    fn jump(&self) -> Result<Option<Jump>> {
        Ok(None)
    }

    // Contents.

    /// Called once per open. `Some` is the object that the open file transfers with instead of this one (a terminal for
    /// `/dev/tty`, one end of a FIFO, the text of a procfs file); its drop is the last close. May block (FIFO) unless
    /// `flags` has `NONBLOCK`.
    ///
    /// # Errors
    /// The device refuses.
    fn open(&self, _flags: OpenFlags, _zone: ZoneId) -> Result<Option<VnodeRef>> {
        Ok(None)
    }
    /// Reads; 0 is the end of file. Streams ignore `offset`.
    ///
    /// # Errors
    /// Not readable, would block, interrupted, ...
    fn read_at(&self, _offset: u64, _out: &mut [u8], _io: Io) -> Result<usize> {
        Err(VfsError::Invalid)
    }
    /// True if [`Vnode::lend`] is worth a try.
    fn lends(&self) -> bool {
        false
    }
    /// Reads by lending: `lent` gets the pages of the file that hold up to `length` bytes from `offset` on, and the caller copies out of them with no lock held. The count is
    /// as of [`Vnode::read_at`], but may be short anywhere; `None`: read it the other way.
    ///
    /// # Errors
    /// As [`Vnode::read_at`].
    fn lend(&self, _offset: u64, _length: usize, _io: Io, _lent: &mut Lent) -> Result<Option<usize>> {
        Ok(None)
    }
    /// Writes; may take less than given. Streams ignore `offset`.
    ///
    /// # Errors
    /// Nothing was taken because of ...
    fn write_at(&self, _offset: u64, _data: &[u8], _io: Io) -> Result<usize> {
        Err(VfsError::Invalid)
    }
    /// Writes at the end, atomically with finding it. Returns the offset after the last byte and the count.
    ///
    /// # Errors
    /// As [`Vnode::write_at`].
    fn append(&self, data: &[u8], io: Io) -> Result<(u64, usize)> {
        self.write_at(0, data, io).map(|count| (0, count))
    }
    /// Sets the size; new bytes read as zero.
    ///
    /// # Errors
    /// Not a regular file; too big.
    fn truncate(&self, _size: u64) -> Result<()> {
        Err(VfsError::Invalid)
    }
    /// Makes the size at least `size`, whatever others write meanwhile; new bytes read as zero.
    ///
    /// # Errors
    /// As [`Vnode::truncate`].
    fn extend(&self, _size: u64) -> Result<()> {
        Err(VfsError::Invalid)
    }
    /// Whether a write may allocate kernel memory that cannot be refused, so that some must be reserved first.
    fn needs_memory(&self) -> bool {
        true
    }
    /// True if offsets mean something.
    fn is_seekable(&self) -> bool {
        matches!(self.kind(), Kind::File | Kind::Directory | Kind::BlockDevice)
    }
    /// The first byte from `offset`, which is inside the file, on that is data (or, with `hole`, in a hole); the end counts as a hole. `None`: no data up to the
    /// end. Where holes are not known everything is data.
    ///
    /// # Errors
    /// Unreadable.
    fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>> {
        Ok(Some(if hole { self.attr()?.size } else { offset }))
    }
    /// Makes a part of the contents a hole: it reads as zeros. The size stays.
    ///
    /// # Errors
    /// Not offered.
    fn punch(&self, _offset: u64, _length: u64) -> Result<()> {
        Err(VfsError::NotSupported)
    }
    /// The page of the file at `index`, for mapping: the file's own frame, so that writes through a mapping are writes to the
    /// file, and the other way round. A hole gets a page, charged to `zone`. With `write` the page is going to be modified.
    /// Called under the address-space lock: takes only locks of class `Pages` and above.
    ///
    /// # Errors
    /// Not mappable ([`VfsError::NoDevice`]); beyond the end of file ([`VfsError::Invalid`]: SIGBUS); no memory.
    fn page(&self, _index: u64, _write: bool, _zone: ZoneId) -> Result<Frame> {
        Err(VfsError::NoDevice)
    }
    /// Makes contents durable.
    ///
    /// # Errors
    /// The medium failed.
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    // Readiness and control.

    /// What it is ready for now.
    fn poll(&self) -> Ready {
        Ready::IN | Ready::OUT | Ready::RDNORM | Ready::WRNORM
    }
    /// Where its waiters wait; `None`: always ready.
    fn pollee(&self) -> Option<&Pollee> {
        None
    }
    /// A device control call with its raw argument; user memory is reached through `kif::user()`.
    ///
    /// # Errors
    /// Unknown request ([`VfsError::NotTty`]) or a specific refusal.
    fn ioctl(&self, _request: u32, _argument: u64, _io: Io) -> Result<u64> {
        Err(VfsError::NotTty)
    }
    /// For owners of a vnode type to get at it again (epoll, sockets, terminals).
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }
}

/// Tells whether two handles are the same object.
#[must_use]
pub fn same(a: &VnodeRef, b: &VnodeRef) -> bool {
    a.id() == b.id()
}
