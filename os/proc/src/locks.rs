//! Record locks of a process (`fcntl(2)`): they go when the process closes any descriptor of the file.

use alloc::sync::Arc;

use vfs::File;

use crate::files::FdTable;
use crate::process::Process;

/// The owner number of a process in `vfs`'s record locks.
#[must_use]
pub fn owner(process: &Process) -> u64 {
    u64::from(process.pid())
}

/// Drops the process's record locks on a file of which it closes a descriptor.
pub fn closed(process: &Process, file: &File) {
    vfs::clear_record(file.vnode().id(), owner(process), 0, u64::MAX).expect("dropping the whole range cuts no record in two");
}

/// Drops all of them at the end of the process.
pub(crate) fn forget(process: &Process, files: &Arc<FdTable>) {
    files.for_each(|file| closed(process, file));
}
