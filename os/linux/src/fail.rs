//! From the errors of the subsystems to error numbers: the only place that knows both. One exhaustive conversion each.

use kif::{CopyFault, OutOfMemory};
use linux_abi::Errno;
use proc::ProcError;
use sync::Woken;
use vfs::VfsError;
use vm::VmError;

/// How a system call ends without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fail {
    /// With this error number.
    Errno(Errno),
    /// A signal came first: EINTR, or again.
    Interrupted,
    /// The registers are already what they are to be (exec, sigreturn).
    RegistersSet,
}

/// What handlers return.
pub type Result<T = u64> = core::result::Result<T, Fail>;

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}
impl From<CopyFault> for Fail {
    fn from(_: CopyFault) -> Self {
        Self::Errno(Errno::EFAULT)
    }
}
impl From<OutOfMemory> for Fail {
    fn from(_: OutOfMemory) -> Self {
        Self::Errno(Errno::ENOMEM)
    }
}
impl From<Woken> for Fail {
    fn from(woken: Woken) -> Self {
        match woken {
            Woken::Interrupted => Self::Interrupted,
            Woken::TimedOut => Self::Errno(Errno::ETIMEDOUT),
        }
    }
}
impl From<VmError> for Fail {
    fn from(error: VmError) -> Self {
        Self::Errno(match error {
            VmError::Invalid => Errno::EINVAL,
            VmError::NoRoom | VmError::OutOfMemory => Errno::ENOMEM,
            VmError::Occupied => Errno::EEXIST,
            VmError::Denied => Errno::EACCES,
            VmError::NotMapped => Errno::EFAULT,
        })
    }
}
impl From<vm::FaultError> for Fail {
    fn from(_: vm::FaultError) -> Self {
        Self::Errno(Errno::EFAULT)
    }
}
impl From<VfsError> for Fail {
    fn from(error: VfsError) -> Self {
        Self::Errno(match error {
            VfsError::Interrupted => return Self::Interrupted,
            VfsError::NotFound => Errno::ENOENT,
            VfsError::Exists => Errno::EEXIST,
            VfsError::NotDirectory => Errno::ENOTDIR,
            VfsError::IsDirectory => Errno::EISDIR,
            VfsError::NotEmpty => Errno::ENOTEMPTY,
            VfsError::AccessDenied => Errno::EACCES,
            VfsError::NotPermitted => Errno::EPERM,
            VfsError::ReadOnly => Errno::EROFS,
            VfsError::NoSpace => Errno::ENOSPC,
            VfsError::Quota => Errno::EDQUOT,
            VfsError::NoMemory => Errno::ENOMEM,
            VfsError::NameTooLong => Errno::ENAMETOOLONG,
            VfsError::TooManySymlinks | VfsError::TooDeep => Errno::ELOOP,
            VfsError::TooManyLinks => Errno::EMLINK,
            VfsError::CrossDevice => Errno::EXDEV,
            VfsError::Busy => Errno::EBUSY,
            VfsError::Invalid => Errno::EINVAL,
            VfsError::BadAccessMode => Errno::EBADF,
            VfsError::WouldBlock => Errno::EAGAIN,
            VfsError::BrokenPipe => Errno::EPIPE,
            VfsError::NotTty => Errno::ENOTTY,
            VfsError::NoDevice => Errno::ENODEV,
            VfsError::NoSuchDevice => Errno::ENXIO,
            VfsError::Io => Errno::EIO,
            VfsError::TooBig => Errno::EFBIG,
            VfsError::IllegalSeek => Errno::ESPIPE,
            VfsError::NotSupported => Errno::EOPNOTSUPP,
            VfsError::BadAddress => Errno::EFAULT,
            VfsError::NoProcess => Errno::ESRCH,
            VfsError::TextBusy => Errno::ETXTBSY,
            VfsError::NoAttribute => Errno::ENODATA,
            VfsError::TooLong => Errno::E2BIG,
            VfsError::Deadlock => Errno::EDEADLK,
        })
    }
}
impl From<ProcError> for Fail {
    fn from(error: ProcError) -> Self {
        Self::Errno(match error {
            ProcError::Interrupted => return Self::Interrupted,
            ProcError::File(error) => return error.into(),
            ProcError::Memory(error) => return error.into(),
            ProcError::TryAgain => Errno::EAGAIN,
            ProcError::NoMemory => Errno::ENOMEM,
            ProcError::NoProcess => Errno::ESRCH,
            ProcError::NoChild => Errno::ECHILD,
            ProcError::NotPermitted => Errno::EPERM,
            ProcError::Invalid => Errno::EINVAL,
            ProcError::NotExecutable => Errno::ENOEXEC,
            ProcError::TooLong => Errno::E2BIG,
            ProcError::TooDeep => Errno::ELOOP,
            ProcError::TimedOut => Errno::ETIMEDOUT,
            ProcError::BadAddress => Errno::EFAULT,
            ProcError::BadDescriptor => Errno::EBADF,
            ProcError::TooManyFiles => Errno::EMFILE,
        })
    }
}
