//! Resource controls: one table, a row each.
//!
//! A control has a name, a unit, a range and a default; what a change *does* is in [`apply`], one arm each: counted limits
//! are simply read at the next charge, CPU controls go to the dispatcher, memory to the frame allocator. All take effect at
//! once on a running zone.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::{Zone, ZoneError, sched};

/// Unit of a control's value; decides how tools print and parse it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Shares,
    Percent,
    Count,
    Bytes,
}

/// A zone-wide resource control.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rctl {
    CpuShares,
    CpuCap,
    MaxProcesses,
    MaxLwps,
    MaxPhysicalMemory,
    ZfsIoPriority,
}

/// Number of controls.
pub const COUNT: usize = 6;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub rctl: Rctl,
    pub name: &'static str,
    pub unit: Unit,
    /// Smallest and largest value that can be set.
    pub least: u64,
    pub most: u64,
    /// The value that stands for "no limit", shown with flag `inf`.
    pub unlimited: Option<u64>,
    /// Whether the control refuses (`deny`) or only weighs (`none`).
    pub denies: bool,
    /// Whether current use can be read.
    pub measured: bool,
}

/// All controls, in the order of [`Rctl`].
pub const TABLE: [Row; COUNT] = [
    Row { rctl: Rctl::CpuShares, name: "zone.cpu-shares", unit: Unit::Shares, least: 0, most: 65_535, unlimited: None, denies: false, measured: false },
    Row { rctl: Rctl::CpuCap, name: "zone.cpu-cap", unit: Unit::Percent, least: 1, most: u32::MAX as u64, unlimited: Some(u32::MAX as u64), denies: true, measured: false },
    Row { rctl: Rctl::MaxProcesses, name: "zone.max-processes", unit: Unit::Count, least: 1, most: i32::MAX as u64, unlimited: Some(i32::MAX as u64), denies: true, measured: true },
    Row { rctl: Rctl::MaxLwps, name: "zone.max-lwps", unit: Unit::Count, least: 1, most: i32::MAX as u64, unlimited: Some(i32::MAX as u64), denies: true, measured: true },
    Row { rctl: Rctl::MaxPhysicalMemory, name: "zone.max-physical-memory", unit: Unit::Bytes, least: 1 << 20, most: u64::MAX, unlimited: Some(u64::MAX), denies: true, measured: true },
    Row { rctl: Rctl::ZfsIoPriority, name: "zone.zfs-io-priority", unit: Unit::Shares, least: 0, most: 16_384, unlimited: None, denies: false, measured: false },
];

impl Rctl {
    /// Its row.
    #[must_use]
    pub const fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }
    /// The control of this name.
    ///
    /// # Errors
    /// [`ZoneError::NoSuchRctl`].
    pub fn from_name(name: &str) -> Result<Self, ZoneError> {
        TABLE.iter().find(|row| row.name == name).map(|row| row.rctl).ok_or(ZoneError::NoSuchRctl)
    }
}

/// What a zone gets that configures nothing. The share is one, as users of FSS expect; the others keep a hostile tenant from
/// starving its neighbours: it cannot take more than half of the machine's memory, nor fill the process table.
#[derive(Clone, Copy, Debug)]
pub struct Defaults;

impl Defaults {
    /// Default of a control for a tenant zone, on a machine with `memory_bytes` of RAM.
    #[must_use]
    pub const fn tenant(rctl: Rctl, memory_bytes: u64) -> u64 {
        match rctl {
            Rctl::CpuShares => 1,
            Rctl::CpuCap => u32::MAX as u64,
            Rctl::MaxProcesses => 2048,
            Rctl::MaxLwps => 4096,
            Rctl::MaxPhysicalMemory => memory_bytes / 2,
            Rctl::ZfsIoPriority => 100,
        }
    }
    /// Default for the global zone: limits would only lock the operator out; many shares, because an operator who looks
    /// for what is wrong must get the CPU at once (one share starved under tenant load on SmartOS).
    #[must_use]
    pub const fn global(rctl: Rctl) -> u64 {
        match rctl {
            Rctl::CpuShares => 1024,
            Rctl::CpuCap => u32::MAX as u64,
            Rctl::MaxProcesses | Rctl::MaxLwps => i32::MAX as u64,
            Rctl::MaxPhysicalMemory => u64::MAX,
            Rctl::ZfsIoPriority => 16_384,
        }
    }
}

/// A counted limit that is charged one by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// `zone.max-processes`: counts zombies.
    Processes,
    /// `zone.max-lwps`.
    Lwps,
}

impl Limit {
    /// The control behind it.
    #[must_use]
    pub const fn rctl(self) -> Rctl {
        match self {
            Self::Processes => Rctl::MaxProcesses,
            Self::Lwps => Rctl::MaxLwps,
        }
    }
}

/// The zone has as many as it may have (EAGAIN for fork and clone), or takes no new ones because it is shutting down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitReached(pub Limit);

/// One process or LWP charged to a zone; dropping it gives it back. Holds the zone.
#[derive(Debug)]
pub struct Charge {
    zone: Arc<Zone>,
    limit: Limit,
}

impl Charge {
    /// The zone that pays.
    #[must_use]
    pub const fn zone(&self) -> &Arc<Zone> {
        &self.zone
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let before = self.zone.rctls.used[self.limit.rctl() as usize].fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "zone {:?} gave back a {:?} it never charged", self.zone.id(), self.limit);
    }
}

/// Values and use of one zone.
#[derive(Debug)]
pub(crate) struct Values {
    value: [AtomicU64; COUNT],
    pub(crate) used: [AtomicU64; COUNT],
}

impl Values {
    pub(crate) fn new(default: impl Fn(Rctl) -> u64) -> Self {
        Self { value: core::array::from_fn(|index| AtomicU64::new(default(TABLE[index].rctl))), used: core::array::from_fn(|_| AtomicU64::new(0)) }
    }
    pub(crate) fn get(&self, rctl: Rctl) -> u64 {
        self.value[rctl as usize].load(Ordering::Relaxed)
    }
}

impl Zone {
    /// The value of a control.
    #[must_use]
    pub fn rctl(&self, rctl: Rctl) -> u64 {
        self.rctls.get(rctl)
    }

    /// What is in use of a control, where that is measured.
    #[must_use]
    pub fn rctl_usage(&self, rctl: Rctl) -> Option<u64> {
        match rctl {
            Rctl::CpuShares | Rctl::CpuCap | Rctl::ZfsIoPriority => None,
            Rctl::MaxProcesses | Rctl::MaxLwps => Some(self.rctls.used[rctl as usize].load(Ordering::Relaxed)),
            Rctl::MaxPhysicalMemory => Some(kif::frames().charged_bytes(self.id())),
        }
    }

    /// Changes a control, at once. A limit below current use refuses new charges and takes nothing away.
    ///
    /// # Errors
    /// [`ZoneError::BadValue`].
    pub fn set_rctl(&self, rctl: Rctl, value: u64) -> Result<(), ZoneError> {
        let row = rctl.row();
        if value < row.least || value > row.most {
            return Err(ZoneError::BadValue { least: row.least, most: row.most });
        }
        self.rctls.value[rctl as usize].store(value, Ordering::Relaxed);
        apply(self, rctl, value);
        Ok(())
    }

    /// Charges one process or LWP.
    ///
    /// # Errors
    /// The limit is reached, or the zone is shutting down; counted in `forkfail_cap` or `forkfail_misc`.
    pub fn charge(self: &Arc<Self>, limit: Limit) -> Result<Charge, LimitReached> {
        let rctl = limit.rctl();
        let used = &self.rctls.used[rctl as usize];
        let charged = used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| (used < self.rctls.get(rctl)).then_some(used + 1));
        if charged.is_err() {
            self.stats.forkfail_cap.bump();
            return Err(LimitReached(limit));
        }
        let charge = Charge { zone: Arc::clone(self), limit };
        // After the charge, so that a shutdown that saw no process before it stops us here (and the drop gives it back).
        if !self.state().admits_processes() {
            self.stats.forkfail_misc.bump();
            return Err(LimitReached(limit));
        }
        Ok(charge)
    }

    /// Processes in the zone, zombies included.
    #[must_use]
    pub fn processes(&self) -> u64 {
        self.rctls.used[Rctl::MaxProcesses as usize].load(Ordering::Acquire)
    }
}

impl Zone {
    /// LWPs in the zone.
    #[must_use]
    pub fn lwps(&self) -> u64 {
        self.rctls.used[Rctl::MaxLwps as usize].load(Ordering::Acquire)
    }
}

/// Carries a control's value to whoever enforces it.
pub(crate) fn apply(zone: &Zone, rctl: Rctl, value: u64) {
    match rctl {
        Rctl::CpuShares => sched::get().set_shares(zone.id(), u32::try_from(value).expect("the table bounds shares to 16 bits")),
        Rctl::CpuCap => {
            let percent = u32::try_from(value).expect("the table bounds the cap to 32 bits");
            sched::get().set_cap(zone.id(), (percent != u32::MAX).then_some(percent));
        }
        Rctl::MaxProcesses | Rctl::MaxLwps => {}
        Rctl::ZfsIoPriority => sched::get().set_io_weight(zone.id(), value),
        Rctl::MaxPhysicalMemory => kif::frames().set_cap_bytes(zone.id(), value),
    }
}
