//! Credentials of a process (`credentials(7)`).

use alloc::sync::Arc;

use kif::ZoneId;

/// User and group ids. Immutable: a change installs new ones.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    /// What file access looks at: file-system ids (always the effective ones unless setfsuid changed them), groups, zone.
    pub file: vfs::Cred,
}

impl Credentials {
    /// Root of a zone.
    #[must_use]
    pub fn root(zone: ZoneId) -> Self {
        Self { uid: 0, euid: 0, suid: 0, gid: 0, egid: 0, sgid: 0, file: vfs::Cred::root(zone) }
    }
    /// True if it may do what only root may (within its zone).
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.euid == 0
    }
    /// Makes the file-system ids follow the effective ones.
    pub const fn follow_effective(&mut self) {
        self.file.uid = self.euid;
        self.file.gid = self.egid;
    }
    /// The same in another zone.
    #[must_use]
    pub fn in_zone(&self, zone: ZoneId) -> Self {
        let mut moved = self.clone();
        moved.file.zone = zone;
        moved
    }
    /// Tells whether a process with these may signal one with `target` (`kill(2)`).
    #[must_use]
    pub const fn may_signal(&self, target: &Self) -> bool {
        self.is_root() || self.euid == target.uid || self.euid == target.suid || self.uid == target.uid || self.uid == target.suid
    }
}

/// Shared credentials.
pub type CredRef = Arc<Credentials>;
