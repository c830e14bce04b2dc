//! Errors of the pool as errors of files.

use pool_dmu::Error;
use pool_dmu::edit::EditError;
use vfs::VfsError;

/// The one place where a pool's error becomes a file's.
pub fn convert(error: &EditError) -> VfsError {
    match error {
        EditError::Read(Error::NotFound) => VfsError::NotFound,
        EditError::NoSpace => VfsError::NoSpace,
        EditError::Quota => VfsError::Quota,
        EditError::Busy(_) => VfsError::Busy,
        EditError::Exists => VfsError::Exists,
        EditError::NotEmpty => VfsError::NotEmpty,
        EditError::Invalid(_) | EditError::Features(_) => VfsError::Invalid,
        EditError::ReadOnly => VfsError::ReadOnly,
        // What was read makes no sense or could not be read; what was written did not arrive.
        EditError::Read(Error::Unreadable(_) | Error::Format(_)) | EditError::Write(_) | EditError::Suspended => VfsError::Io,
    }
}
