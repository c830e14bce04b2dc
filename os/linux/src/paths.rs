//! Who asks for paths: a call's own references to the process's directories and credentials.

use alloc::sync::Arc;

use linux_abi::Errno;
use proc::{CredRef, Directories, Task};

use crate::fail::Result;

/// Held for the length of one call.
#[allow(missing_debug_implementations, reason = "places do not print")]
pub struct Paths {
    pub directories: Arc<Directories>,
    pub cred: CredRef,
}

impl Paths {
    /// Those of the calling process.
    pub fn of(task: &Task) -> Result<Self> {
        Ok(Self { directories: task.process.directories().ok_or(Errno::ENOENT)?, cred: task.process.cred() })
    }
    /// For the file layer.
    pub fn cx(&self) -> vfs::Cx<'_> {
        vfs::Cx { cred: &self.cred.file, root: &self.directories.root, cwd: &self.directories.cwd }
    }
}
