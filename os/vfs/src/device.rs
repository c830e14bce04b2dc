//! Devices: one table from a device number to who opens it.
//!
//! Adding a device is one row: [`register`]. `devfs` lists the rows that a zone may see; a device node elsewhere (made by
//! `mknod` or unpacked from the initrd) finds its row by number. Devices that come and go, with names in directories of their own (volumes of a pool), are one
//! [`Tree`]: who has them is asked each time.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use kif::ZoneId;
use once_cell::race::OnceBox;
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

/// What a name in a tree of devices is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    Directory,
    Block(DevNo),
}

/// Block devices in directories below `/dev/NAME`, which come and go.
pub trait Tree: Send + Sync {
    /// Name of the directory under `/dev`.
    fn name(&self) -> &'static str;
    /// Major number of its devices.
    fn major(&self) -> u32;
    /// True if `zone` has something in it.
    fn is_there(&self, zone: ZoneId) -> bool;
    /// What `zone` has at `path`, names joined with `/`.
    fn find(&self, zone: ZoneId, path: &str) -> Option<Entry>;
    /// What `zone` has in the directory at `path`; empty: the tree's own.
    fn list(&self, zone: ZoneId, path: &str) -> Vec<(String, Entry)>;
    /// Opens a device, as [`Driver::open`].
    ///
    /// # Errors
    /// No such device for this zone; it refuses.
    fn open(&self, dev: DevNo, node: &VnodeRef, flags: OpenFlags, zone: ZoneId) -> Result<VnodeRef>;
    /// Makes durable what was written to its devices.
    ///
    /// # Errors
    /// The first that failed; all are tried.
    fn sync(&self) -> Result<()>;
}

static TREE: OnceBox<Box<dyn Tree>> = OnceBox::new();

/// Registers the tree (first one wins).
pub fn set_tree(tree: Box<dyn Tree>) {
    if TREE.set(Box::new(tree)).is_err() {}
}

/// The registered tree.
#[must_use]
pub fn tree() -> Option<&'static dyn Tree> {
    TREE.get().map(|tree| &**tree)
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
    let in_tree = || tree().filter(|tree| kind == Kind::BlockDevice && tree.major() == dev.major);
    match driver {
        Some(driver) => driver.open(dev, node, flags, zone),
        None if in_tree().is_some() => in_tree().ok_or(VfsError::NoSuchDevice)?.open(dev, node, flags, zone),
        None => crate::tty::open_slave(kind, dev, flags, zone)?.ok_or(VfsError::NoSuchDevice),
    }
}
