//! Who asks: credentials, and the permission rules.

use alloc::sync::Arc;
use bitflags::bitflags;
use kif::ZoneId;

use crate::{Attr, Kind, Result, VfsError};

/// The part of a process's credentials that file access looks at (the file-system uid and gid), made by `proc`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cred {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Arc<[u32]>,
    /// The caller's zone: bounds every walk, pays for what is made.
    pub zone: ZoneId,
}

impl Cred {
    /// Root of a zone.
    #[must_use]
    pub fn root(zone: ZoneId) -> Self {
        Self { uid: 0, gid: 0, groups: Arc::from([]), zone }
    }
    /// True if mode bits do not bind this caller.
    #[must_use]
    pub const fn is_privileged(&self) -> bool {
        self.uid == 0
    }
    /// True if it belongs to `gid`.
    #[must_use]
    pub fn has_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

bitflags! {
    /// Kinds of access (the values of `access(2)`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Want: u32 {
        const READ = 4;
        const WRITE = 2;
        const EXEC = 1;
    }
}

/// Applies the mode bits of `attr` to `cred`. Root may do everything, but execute only files that somebody may execute.
///
/// # Errors
/// [`VfsError::AccessDenied`].
pub fn permit(attr: &Attr, cred: &Cred, want: Want) -> Result<()> {
    let class_bits = if cred.uid == attr.uid {
        attr.mode >> 6
    } else if cred.has_group(attr.gid) {
        attr.mode >> 3
    } else {
        attr.mode
    } & 7;
    if want.bits() & !class_bits == 0 {
        return Ok(());
    }
    let may_override =
        cred.is_privileged() && (!want.contains(Want::EXEC) || attr.kind == Kind::Directory || attr.mode & 0o111 != 0);
    if may_override { Ok(()) } else { Err(VfsError::AccessDenied) }
}

/// Tells whether `cred` may act as the owner of an object.
pub(crate) const fn owns(attr: &Attr, cred: &Cred) -> bool {
    cred.is_privileged() || cred.uid == attr.uid
}
