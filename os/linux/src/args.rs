//! System-call arguments: from a register to a value that cannot be wrong, or an error number.

use alloc::vec;
use alloc::vec::Vec;

use kif::Nanos;
use linux_abi::consts::fcntl::AT_FDCWD;
use linux_abi::{Errno, Timespec, Timeval};
use vfs::{File, Place};

use crate::fail::{Fail, Result};
use crate::paths::Paths;

/// Most bytes one transfer moves (Linux's `MAX_RW_COUNT`).
const TRANSFER_MAX: u64 = 0x7fff_f000;
/// Most vectors of one call (`UIO_MAXIOV`).
const VECTORS_MAX: usize = 1024;

/// A type that a register converts to.
pub trait Arg: Sized {
    /// Its name in the printed table.
    const NAME: &'static str;
    /// Converts; may read user memory.
    ///
    /// # Errors
    /// How the call ends instead.
    fn parse(raw: u64) -> Result<Self>;
}

const fn low(raw: u64) -> u32 {
    (raw & 0xffff_ffff) as u32
}

impl Arg for u64 {
    const NAME: &'static str = "u64";
    fn parse(raw: u64) -> Result<Self> {
        Ok(raw)
    }
}
impl Arg for i64 {
    const NAME: &'static str = "i64";
    fn parse(raw: u64) -> Result<Self> {
        Ok(raw.cast_signed())
    }
}
/// An `unsigned int`: the upper half of the register does not count.
impl Arg for u32 {
    const NAME: &'static str = "u32";
    fn parse(raw: u64) -> Result<Self> {
        Ok(low(raw))
    }
}
impl Arg for i32 {
    const NAME: &'static str = "i32";
    fn parse(raw: u64) -> Result<Self> {
        Ok(low(raw).cast_signed())
    }
}

/// A descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Fd(pub u32);
impl Arg for Fd {
    const NAME: &'static str = "fd";
    fn parse(raw: u64) -> Result<Self> {
        let fd = low(raw);
        if fd.cast_signed() < 0 { Err(Errno::EBADF.into()) } else { Ok(Self(fd)) }
    }
}

/// A directory descriptor or AT_FDCWD.
#[derive(Clone, Copy, Debug)]
pub enum DirFd {
    Cwd,
    Fd(u32),
    /// Negative: EBADF, unless an absolute path makes it irrelevant.
    Bad,
}
impl Arg for DirFd {
    const NAME: &'static str = "dirfd";
    fn parse(raw: u64) -> Result<Self> {
        let fd = low(raw).cast_signed();
        Ok(match u32::try_from(fd) {
            Ok(fd) => Self::Fd(fd),
            Err(_) if fd == AT_FDCWD => Self::Cwd,
            Err(_) => Self::Bad,
        })
    }
}

/// A user address. Nothing is known about it; `kif::user` checks every access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ptr(pub u64);
impl Arg for Ptr {
    const NAME: &'static str = "ptr";
    fn parse(raw: u64) -> Result<Self> {
        Ok(Self(raw))
    }
}

impl Ptr {
    /// True if it is not null.
    pub const fn given(self) -> bool {
        self.0 != 0
    }
    /// The address `bytes` further.
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
    /// Reads `N` bytes.
    pub fn read<const N: usize>(self) -> Result<[u8; N]> {
        let mut out = [0; N];
        kif::user().read(self.0, &mut out)?;
        Ok(out)
    }
    /// Reads a buffer of `length` bytes.
    pub fn read_vec(self, length: usize) -> Result<Vec<u8>> {
        let mut out = buffer(length)?;
        kif::user().read(self.0, &mut out)?;
        Ok(out)
    }
    /// Writes bytes.
    pub fn write(self, data: &[u8]) -> Result<()> {
        Ok(kif::user().write(self.0, data)?)
    }
    /// Writes bytes if it is given.
    pub fn write_optional(self, data: &[u8]) -> Result<()> {
        if self.given() { self.write(data) } else { Ok(()) }
    }
    pub fn read_u32(self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.read()?))
    }
    pub fn read_u64(self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.read()?))
    }
    /// A `struct timespec` as a span; EINVAL if it is negative or not normal.
    pub fn read_timespec(self) -> Result<Nanos> {
        Timespec::decode(&self.read()?).to_nanos().map(Nanos).ok_or(Fail::Errno(Errno::EINVAL))
    }
    /// A `struct timeval` as a span; EINVAL if it is negative or not normal.
    pub fn read_timeval(self) -> Result<Nanos> {
        Timeval::decode(&self.read()?).to_nanos().map(Nanos).ok_or(Fail::Errno(Errno::EINVAL))
    }
    /// A string of at most `limit` bytes with its NUL, which is not returned.
    ///
    /// # Errors
    /// EFAULT, or `too_long`.
    pub fn read_string(self, limit: usize, too_long: Errno) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut at = self.0;
        let mut chunk = [0; 256];
        loop {
            // Never past a page: what follows the string may not be mapped.
            let room = usize::try_from(4096 - at % 4096).map_err(|_| Errno::EFAULT)?.min(chunk.len());
            kif::user().read(at, &mut chunk[..room])?;
            let end = chunk[..room].iter().position(|byte| *byte == 0);
            // A path fits into what the call has reserved.
            if text.len() >= vfs::PATH_MAX {
                kif::grow(&mut text, end.unwrap_or(room)).map_err(|kif::OutOfMemory| Errno::ENOMEM)?;
            }
            text.extend_from_slice(&chunk[..end.unwrap_or(room)]);
            if text.len() >= limit {
                return Err(too_long.into());
            }
            if end.is_some() {
                return Ok(text);
            }
            at = at.checked_add(room as u64).ok_or(Errno::EFAULT)?;
        }
    }
}

/// A zeroed kernel buffer; fails instead of growing without bound.
pub fn buffer(length: usize) -> Result<Vec<u8>> {
    /// Up to here the zone is not asked: every read and write takes that much for a moment.
    const UNASKED: usize = 16 << 10;
    let mut out = Vec::new();
    if length > UNASKED {
        kif::grow(&mut out, length).map_err(|kif::OutOfMemory| Errno::ENOMEM)?;
    } else {
        out.try_reserve_exact(length).map_err(|_| Errno::ENOMEM)?;
    }
    out.resize(length, 0);
    Ok(out)
}

/// A length of a transfer, cut at what one call moves.
#[derive(Clone, Copy, Debug)]
pub struct Len(pub usize);
impl Arg for Len {
    const NAME: &'static str = "len";
    fn parse(raw: u64) -> Result<Self> {
        if raw.cast_signed() < 0 {
            return Err(Errno::EINVAL.into());
        }
        usize::try_from(raw.min(TRANSFER_MAX)).map(Self).map_err(|_| Errno::EINVAL.into())
    }
}

/// A file offset or size that must not be negative.
#[derive(Clone, Copy, Debug)]
pub struct Offset(pub u64);
impl Arg for Offset {
    const NAME: &'static str = "offset";
    fn parse(raw: u64) -> Result<Self> {
        if raw.cast_signed() < 0 { Err(Errno::EINVAL.into()) } else { Ok(Self(raw)) }
    }
}

/// A path, read from user memory; may be empty.
#[derive(Clone, Debug)]
pub struct Path(pub Vec<u8>);
impl Arg for Path {
    const NAME: &'static str = "path";
    fn parse(raw: u64) -> Result<Self> {
        Ptr(raw).read_string(vfs::PATH_MAX, Errno::ENAMETOOLONG).map(Self)
    }
}

/// A path that may be null.
#[derive(Clone, Debug)]
pub struct OptPath(pub Option<Vec<u8>>);
impl Arg for OptPath {
    const NAME: &'static str = "path?";
    fn parse(raw: u64) -> Result<Self> {
        if raw == 0 { Ok(Self(None)) } else { Path::parse(raw).map(|path| Self(Some(path.0))) }
    }
}

/// A signal number 1 to 64.
#[derive(Clone, Copy, Debug)]
pub struct Sig(pub u32);
impl Arg for Sig {
    const NAME: &'static str = "signal";
    fn parse(raw: u64) -> Result<Self> {
        let signal = low(raw);
        if (1..=proc::signal::SIGNALS).contains(&signal) { Ok(Self(signal)) } else { Err(Errno::EINVAL.into()) }
    }
}

/// A signal number or 0 (only check).
#[derive(Clone, Copy, Debug)]
pub struct Sig0(pub u32);
impl Arg for Sig0 {
    const NAME: &'static str = "signal?";
    fn parse(raw: u64) -> Result<Self> {
        let signal = low(raw);
        if signal <= proc::signal::SIGNALS { Ok(Self(signal)) } else { Err(Errno::EINVAL.into()) }
    }
}

/// Size of a kernel signal set: must be 8.
#[derive(Clone, Copy, Debug)]
pub struct SetSize;
impl Arg for SetSize {
    const NAME: &'static str = "sigsetsize";
    fn parse(raw: u64) -> Result<Self> {
        if raw == 8 { Ok(Self) } else { Err(Errno::EINVAL.into()) }
    }
}

/// Reads an array of `struct iovec`; the sum of the lengths is bounded.
pub fn vectors(at: Ptr, count: u32) -> Result<Vec<(Ptr, usize)>> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    if count > VECTORS_MAX {
        return Err(Errno::EINVAL.into());
    }
    let mut raw = vec![0; count * 16];
    kif::user().read(at.0, &mut raw)?;
    let mut left = TRANSFER_MAX;
    let mut out = Vec::with_capacity(count);
    for entry in raw.chunks_exact(16) {
        let (base, length) = (linux_abi::field_u64(entry, 0), linux_abi::field_u64(entry, 8));
        if length.cast_signed() < 0 {
            return Err(Errno::EINVAL.into());
        }
        let length = length.min(left);
        left -= length;
        out.push((Ptr(base), usize::try_from(length).map_err(|_| Errno::EINVAL)?));
    }
    Ok(out)
}

/// Where a relative path of an `*at` call starts.
pub fn start(task: &proc::Task, dir: DirFd, path: &[u8]) -> Result<Option<Place>> {
    if path.first() == Some(&b'/') {
        return Ok(None);
    }
    match dir {
        DirFd::Cwd => Ok(None),
        DirFd::Fd(fd) => Ok(Some(task.files.get(fd)?.place().clone())),
        DirFd::Bad => Err(Errno::EBADF.into()),
    }
}

/// The object an `*at` call with AT_EMPTY_PATH means: the descriptor itself, or what the path leads to.
pub fn place_at(task: &proc::Task, paths: &Paths, dir: DirFd, path: &[u8], empty: bool, follow: bool) -> Result<Place> {
    if path.is_empty() {
        if !empty {
            return Err(Errno::ENOENT.into());
        }
        return match dir {
            DirFd::Cwd => Ok(paths.directories.cwd.clone()),
            DirFd::Fd(fd) => Ok(task.files.get(fd)?.place().clone()),
            DirFd::Bad => Err(Errno::EBADF.into()),
        };
    }
    let at = start(task, dir, path)?;
    let follow = if follow { vfs::Follow::Yes } else { vfs::Follow::No };
    Ok(vfs::lookup(&paths.cx(), at.as_ref(), path, follow)?)
}

/// The open file behind a descriptor.
pub fn file(task: &proc::Task, fd: Fd) -> Result<alloc::sync::Arc<File>> {
    Ok(task.files.get(fd.0)?)
}
