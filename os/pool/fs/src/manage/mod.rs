//! What an operator does with pools: make, import, export, look at, change devices, mount.
//!
//! Disks are named as under `/dev`. A disk of an imported pool is held: nobody writes to it through its device node.

mod datasets;
mod devices;
mod disks;
mod layout;
mod look;
mod mounts;
mod pools;
mod properties;
mod status;
#[cfg(test)]
mod tests;
mod upkeep;

use alloc::format;
use alloc::string::String;

use kif::ZoneId;
use pool_dmu::Store;
use pool_dmu::edit::EditError;
use sync::{Class, Mutex, MutexGuard};
use vfs::VfsError;

use crate::Storage;

pub use datasets::{
    Extent, NewVolume, bookmark, bookmarks, clone_dataset, create_above, create_dataset, create_volume, datasets, dependents_of, destroy, hold, holds, is_there, origin_of, promote, rename,
    Rename, lists_snapshots, rollback, snapshot, would_go,
};
pub(crate) use datasets::{at_and_below, check_name, mount_new, refuse_open_below, settle};
pub use devices::{DeviceChange, NewDevice, add, change_device, clear, remove};
pub use look::{Comparing, DiffForm, holdings};
pub use mounts::{is_mounted, mount, mount_all, mount_below, mount_with, mountpoint_of, unmount};
pub(crate) use mounts::{mount_one, unmount_list};
pub use pools::{CreateRequest, ImportRequest, Importable, ScrubChange, check_create, check_import, create, export, history, import, importable, note_history, pool, pool_of, scrub, start_all, sync, sync_all};
pub use properties::{NewValue, Room, Value, get, kind_word, set};
pub use upkeep::{clear_labels, pool_properties, reguid, reopen, resilver, resume, set_pool_property, split, upgrade, work_on_free};
pub use status::{Aside, Status, status};

/// Why an operation was refused, in words that say what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No pool, dataset or device of this name.
    NotFound(String),
    /// The name is taken.
    Exists(String),
    /// Something is in use.
    Busy(String),
    /// The request makes no sense.
    Invalid(String),
    /// The pool or a device failed.
    Failed(String),
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (Self::NotFound(text) | Self::Exists(text) | Self::Busy(text) | Self::Invalid(text) | Self::Failed(text)) = self;
        f.write_str(text)
    }
}

type Result<R> = core::result::Result<R, Refused>;

/// One operation at a time takes file systems off their places and puts them back: what it found mounted, or not, stays so until it is done.
static OPERATOR: Mutex<()> = Mutex::new(Class::Operator, ());

/// Waits until no other operation mounts or unmounts.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    OPERATOR.lock()
}

fn failed(what: &str, error: VfsError) -> Refused {
    match error {
        VfsError::NotFound => Refused::NotFound(format!("{what}: not found")),
        VfsError::Exists => Refused::Exists(format!("{what}: already exists")),
        VfsError::Busy => Refused::Busy(format!("{what}: busy: unmount its file systems first")),
        VfsError::ReadOnly => Refused::Failed(format!("{what}: the pool was imported for reading only")),
        VfsError::NoSpace => Refused::Failed(format!("{what}: no space left in the pool")),
        error => Refused::Failed(format!("{what}: {error:?}")),
    }
}

fn edit_failed(what: &str, error: &EditError) -> Refused {
    match error {
        EditError::Exists => Refused::Exists(format!("{what}: already exists")),
        EditError::Busy(why) => Refused::Busy(format!("{what}: {why}")),
        EditError::Invalid(why) => Refused::Invalid(format!("{what}: {why}")),
        EditError::Read(pool_dmu::Error::NotFound) => Refused::NotFound(format!("{what}: no such dataset")),
        error => Refused::Failed(format!("{what}: {error}")),
    }
}

/// Changes a pool; `what` is named if that is refused.
///
/// A tenant's operator is bound by limits on numbers of file systems and snapshots, and the global zone's is not (pool reference, section 3.2).
pub(crate) fn edit<R>(pool: &Storage, what: &str, body: impl FnOnce(&mut Store) -> core::result::Result<R, EditError>) -> Result<R> {
    let is_tenants = kif::spawn().current_zone() != ZoneId::GLOBAL;
    let bound = |store: &mut Store| {
        store.enforce_counts(is_tenants);
        let result = body(store);
        store.enforce_counts(false);
        result
    };
    pool.edit(bound).map_err(|error| failed(what, error))?.map_err(|error| edit_failed(what, &error))
}
