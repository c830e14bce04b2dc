//! The one error type of the file layer.

use kif::{CopyFault, OutOfMemory};
use sync::Woken;

/// Why a file operation was refused. Closed: `os/linux` turns each variant into one errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VfsError {
    /// No such name in the directory, or an empty path (ENOENT).
    NotFound,
    /// The name is taken (EEXIST).
    Exists,
    /// A path component, or the object of a directory operation, is not a directory (ENOTDIR).
    NotDirectory,
    /// The object is a directory where none is allowed (EISDIR).
    IsDirectory,
    /// The directory to remove or replace has entries (ENOTEMPTY).
    NotEmpty,
    /// Mode bits forbid it (EACCES).
    AccessDenied,
    /// Only the owner or a privileged caller may do it, or the file system never allows it (EPERM).
    NotPermitted,
    /// The mount is read-only (EROFS).
    ReadOnly,
    /// The zone's memory cap or the file system is exhausted (ENOSPC).
    NoSpace,
    /// A quota of the file system does not allow it (EDQUOT).
    Quota,
    /// No kernel memory for the operation itself (ENOMEM).
    NoMemory,
    /// A component is longer than [`crate::NAME_MAX`] or the path longer than [`crate::PATH_MAX`] (ENAMETOOLONG).
    NameTooLong,
    /// More than [`crate::SYMLINK_LIMIT`] symbolic links in one walk, or a refused one (`NOFOLLOW`) (ELOOP).
    TooManySymlinks,
    /// The link count would overflow (EMLINK).
    TooManyLinks,
    /// The two names lie on different mounts (EXDEV).
    CrossDevice,
    /// The object is in use: a mount point, a mounted file system with open files (EBUSY).
    Busy,
    /// The arguments make no sense for this object (EINVAL).
    Invalid,
    /// The descriptor is not open for this direction (EBADF).
    BadAccessMode,
    /// It would block and the caller asked not to (EAGAIN).
    WouldBlock,
    /// A signal came first (EINTR, or restart).
    Interrupted,
    /// Nobody reads the pipe any more (EPIPE and SIGPIPE).
    BrokenPipe,
    /// The object has no such control operation (ENOTTY).
    NotTty,
    /// The object does not do this kind of operation, e.g. mapping (ENODEV).
    NoDevice,
    /// No device behind the device number, or nobody at the other end of a FIFO (ENXIO).
    NoSuchDevice,
    /// Hung-up terminal, failed medium (EIO).
    Io,
    /// Beyond the largest file size (EFBIG).
    TooBig,
    /// Not seekable (ESPIPE).
    IllegalSeek,
    /// Known but not offered here (EOPNOTSUPP).
    NotSupported,
    /// The object has no such extended attribute (ENODATA).
    NoAttribute,
    /// A value, or a list of names, is longer than may be passed (E2BIG).
    TooLong,
    /// A user address in a control operation is not accessible (EFAULT).
    BadAddress,
    /// No such process or process group (ESRCH).
    NoProcess,
    /// The file is being executed, or an executed file was to be written (ETXTBSY).
    TextBusy,
    /// Waiting for this lock would never end (EDEADLK).
    Deadlock,
    /// A nesting bound was reached: epoll objects inside each other (ELOOP).
    TooDeep,
}

/// Result of a file operation.
pub type Result<T> = core::result::Result<T, VfsError>;

impl From<OutOfMemory> for VfsError {
    fn from(_: OutOfMemory) -> Self {
        Self::NoMemory
    }
}

impl From<CopyFault> for VfsError {
    fn from(_: CopyFault) -> Self {
        Self::BadAddress
    }
}

impl From<Woken> for VfsError {
    fn from(woken: Woken) -> Self {
        match woken {
            Woken::Interrupted => Self::Interrupted,
            Woken::TimedOut => Self::WouldBlock,
        }
    }
}
