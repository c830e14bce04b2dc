//! What `zpool status` and `zpool list` show.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use kif::Nanos;
use pool_dmu::edit::EditError;
use pool_dmu::{Auxiliary, Store};
use pool_spa::{LeafCounts, VdevStatus};

use super::{Result, edit_failed, failed};
use crate::Storage;

/// What `zpool status` shows.
#[derive(Clone, Debug)]
pub struct Status {
    pub name: String,
    pub guid: u64,
    pub health: String,
    pub size: u64,
    pub allocated: u64,
    pub vdevs: Vec<VdevStatus>,
    /// Of each of them: bytes, and those allocated.
    pub space: Vec<(u64, u64)>,
    /// How fragmented the free space of each is, in percent.
    pub fragmentation: Vec<u64>,
    /// Spares and cache devices.
    pub aside: Vec<Aside>,
    pub scan: String,
    /// A scan is under way.
    pub scanning: bool,
    /// A scrub is paused.
    pub paused: bool,
    /// Blocks that the last scan found no good copy of.
    pub scan_errors: u64,
    pub suspended: bool,
    /// How long it has been imported.
    pub age: Nanos,
}

/// A spare or cache device, as `zpool status` shows it.
#[derive(Clone, Debug)]
pub struct Aside {
    /// `spares` or `cache`.
    pub kind: &'static str,
    pub guid: u64,
    pub name: String,
    pub state: &'static str,
    /// Bytes for blocks, and those taken: of a cache device.
    pub size: u64,
    pub allocated: u64,
    pub counts: LeafCounts,
}

fn aside(store: &Store) -> core::result::Result<Vec<Aside>, EditError> {
    let mut out = Vec::new();
    for (kind, title) in [(Auxiliary::Cache, "cache"), (Auxiliary::Spare, "spares")] {
        for device in store.auxiliaries(kind)? {
            let cache = device.cache.as_ref();
            let state = match (kind, device.present, device.in_use) {
                (_, false, _) => "UNAVAIL",
                (Auxiliary::Cache, ..) => cache.map_or("ONLINE", |cache| cache.state.name()),
                (Auxiliary::Spare, _, true) => "INUSE",
                (Auxiliary::Spare, ..) => "AVAIL",
            };
            let (size, allocated, counts) = cache.map_or((0, 0, LeafCounts::default()), |cache| (cache.size, cache.allocated, cache.leaf.counts));
            out.push(Aside { kind: title, guid: device.guid, name: device.path, state, size, allocated, counts });
        }
    }
    Ok(out)
}

/// Looks at a pool.
///
/// # Errors
/// See [`Refused`].
pub fn status(pool: &Storage) -> Result<Status> {
    let look = pool.look(|store| {
        let (free, total) = store.free_total();
        let inner = store.pool();
        // Of a pool that is suspended the rest is to be seen, whether its lists can be read or not.
        let aside = aside(store).or_else(|error| if store.is_suspended() { Ok(Vec::new()) } else { Err(error) })?;
        Ok::<Status, EditError>(Status {
            name: store.name(),
            guid: inner.guid(),
            health: inner.health().name().to_string(),
            size: total,
            allocated: total - free,
            vdevs: inner.status(),
            space: store.space_of_vdevs(),
            fragmentation: store.fragmentation_of_vdevs(),
            aside,
            scan: String::new(),
            scanning: false,
            paused: false,
            scan_errors: 0,
            suspended: false,
            age: kif::clock().monotonic().since(pool.started()),
        })
    });
    let mut status = look.map_err(|error| failed(pool.name(), error))?.map_err(|error| edit_failed(pool.name(), &error))?;
    (status.scan, status.scan_errors) = pool.scan_lines(status.allocated);
    status.scanning = pool.is_scanning();
    status.paused = pool.is_paused();
    status.suspended = pool.is_suspended();
    if status.suspended {
        status.health = String::from("SUSPENDED");
    }
    Ok(status)
}
