//! Privileges: what a zone's processes may never do, whatever their user id.
//!
//! These are upper bounds. A system call that needs one asks `zone.may(..)` *and* checks the caller's user id.

/// One thing a zone may be allowed to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Privilege {
    /// Mount file systems that live in the zone (tmpfs, proc, a filtered dev) below its own root.
    MountOwn,
    /// Mount anything else.
    MountAny,
    /// Change the zone's own host name.
    HostName,
    /// chroot(2) inside the zone.
    Chroot,
    /// Make device nodes with mknod(2).
    MakeDevice,
    /// Lock memory.
    LockMemory,
    /// Lower nice values and use real-time classes (inside the zone's own share).
    RaisePriority,
    /// Set the clock.
    SetTime,
    /// Stop or restart the machine (a zone without it: reboot(2) ends the zone only).
    RebootHost,
    /// Open /dev/control.
    Control,
    /// See, signal and trace processes of other zones.
    OtherZones,
    /// Read the kernel log.
    KernelLog,
}

/// A set of [`Privilege`]s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Privileges(u32);

impl Privileges {
    /// None.
    pub const NONE: Self = Self(0);
    /// Everything: the global zone.
    pub const ALL: Self = Self(u32::MAX);
    /// What a tenant gets.
    pub const TENANT: Self = Self::NONE
        .with(Privilege::MountOwn)
        .with(Privilege::HostName)
        .with(Privilege::Chroot)
        .with(Privilege::LockMemory)
        .with(Privilege::RaisePriority);
    /// The set and one more.
    #[must_use]
    pub const fn with(self, privilege: Privilege) -> Self {
        Self(self.0 | 1 << privilege as u8)
    }
    /// The set and one less.
    #[must_use]
    pub const fn without(self, privilege: Privilege) -> Self {
        Self(self.0 & !(1 << privilege as u8))
    }
    /// True if it is in the set.
    #[must_use]
    pub const fn has(self, privilege: Privilege) -> bool {
        self.0 & (1 << privilege as u8) != 0
    }
    /// What both sets have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}
