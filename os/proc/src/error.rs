//! The one error type of the process layer.

use kif::{CopyFault, OutOfMemory};
use sync::Woken;
use vfs::VfsError;
use vm::{FaultError, VmError};

/// Why a process operation was refused. Closed: `os/linux` turns each variant into one errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcError {
    /// A limit on processes, LWPs or queued signals is reached; or a futex word changed (EAGAIN).
    TryAgain,
    /// No memory within the zone's cap (ENOMEM).
    NoMemory,
    /// No such process, LWP or group in the caller's view (ESRCH).
    NoProcess,
    /// No child matches (ECHILD).
    NoChild,
    /// The caller's credentials or its zone do not allow it (EPERM).
    NotPermitted,
    /// Arguments that make no sense (EINVAL).
    Invalid,
    /// Not a program we can run (ENOEXEC).
    NotExecutable,
    /// Arguments and environment are too long (E2BIG).
    TooLong,
    /// Interpreters inside interpreters (ELOOP).
    TooDeep,
    /// A signal came first (EINTR, or restart).
    Interrupted,
    /// The deadline passed (ETIMEDOUT).
    TimedOut,
    /// A user address is not accessible (EFAULT).
    BadAddress,
    /// Not an open descriptor (EBADF).
    BadDescriptor,
    /// The descriptor limit is reached (EMFILE).
    TooManyFiles,
    /// The file layer refused.
    File(VfsError),
    /// The address space refused.
    Memory(VmError),
}

/// Result of a process operation.
pub type Result<T> = core::result::Result<T, ProcError>;

impl From<OutOfMemory> for ProcError {
    fn from(_: OutOfMemory) -> Self {
        Self::NoMemory
    }
}
impl From<CopyFault> for ProcError {
    fn from(_: CopyFault) -> Self {
        Self::BadAddress
    }
}
impl From<VfsError> for ProcError {
    fn from(error: VfsError) -> Self {
        Self::File(error)
    }
}
impl From<VmError> for ProcError {
    fn from(error: VmError) -> Self {
        Self::Memory(error)
    }
}
impl From<FaultError> for ProcError {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::OutOfMemory => Self::NoMemory,
            FaultError::Interrupted => Self::Interrupted,
            FaultError::NotMapped | FaultError::Protected | FaultError::NoObject => Self::BadAddress,
        }
    }
}
impl From<Woken> for ProcError {
    fn from(woken: Woken) -> Self {
        match woken {
            Woken::Interrupted => Self::Interrupted,
            Woken::TimedOut => Self::TimedOut,
        }
    }
}
