//! Devices: one table from a device number to who opens it.
//!
//! Adding a device is one row: [`register`]. `devfs` lists the rows that a zone may see; a device node elsewhere (made by
//! `mknod` or unpacked from the initrd) finds its row by number.

use alloc::sync::Arc;
use alloc::vec::Vec;
use kif::ZoneId;
use sync::{Class, Mutex};

use crate::file::OpenFlags;
use crate::vnode::{DevNo, Kind, VnodeRef};
use crate::{Result, VfsError};

/// Which zones have a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    EveryZone,
    GlobalOnly,
}

impl Scope {
    /// Tells whether `zone` has it.
    #[must_use]
    pub const fn includes(self, zone: ZoneId) -> bool {
        matches!(self, Self::EveryZone) || zone.0 == ZoneId::GLOBAL.0
    }
}

/// Opens devices.
pub trait Driver: Send + Sync {
    /// Called once per open; the result's drop is the close. `node` is the device node, for drivers that need nothing of
    /// their own per open.
    ///
    /// # Errors
    /// The device refuses.
    fn open(&self, dev: DevNo, node: &VnodeRef, flags: OpenFlags, zone: ZoneId) -> Result<VnodeRef>;
}

/// One device.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "drivers do not print")]
pub struct Row {
    /// Name under `/dev`.
    pub name: &'static str,
    pub kind: Kind,
    pub dev: DevNo,
    pub mode: u32,
    pub gid: u32,
    pub scope: Scope,
    pub driver: Arc<dyn Driver>,
}

static TABLE: Mutex<Vec<Row>> = Mutex::new(Class::Vnode, Vec::new());

/// Adds a device. Each `(kind, dev)` and each name once.
///
/// # Panics
/// If the number or name is taken: two parts of the kernel claim the same device.
pub fn register(row: Row) {
    let mut table = TABLE.lock();
    assert!(
        table.iter().all(|other| other.name != row.name && (other.kind, other.dev) != (row.kind, row.dev)),
        "device {} ({}:{}) registered twice",
        row.name,
        row.dev.major,
        row.dev.minor
    );
    table.push(row);
}

/// The devices `zone` has, in order of registration.
#[must_use]
pub fn rows(zone: ZoneId) -> Vec<Row> {
    TABLE.lock().iter().filter(|row| row.scope.includes(zone)).cloned().collect()
}

/// The device called `name`, if `zone` has it.
#[must_use]
pub fn row(zone: ZoneId, name: &[u8]) -> Option<Row> {
    TABLE.lock().iter().find(|row| row.name.as_bytes() == name && row.scope.includes(zone)).cloned()
}

/// Opens the device behind a node.
///
/// # Errors
/// No such device for this zone; the driver refuses.
pub(crate) fn open(kind: Kind, dev: DevNo, node: &VnodeRef, flags: OpenFlags, zone: ZoneId) -> Result<VnodeRef> {
    let driver = TABLE
        .lock()
        .iter()
        .find(|row| row.kind == kind && row.dev == dev && row.scope.includes(zone))
        .map(|row| Arc::clone(&row.driver));
    match driver {
        Some(driver) => driver.open(dev, node, flags, zone),
        None => crate::tty::open_slave(kind, dev, flags, zone)?.ok_or(VfsError::NoSuchDevice),
    }
}
