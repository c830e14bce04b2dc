//! File systems and volumes on the pool: what the kernel mounts, and shows as disks.
//!
//! # Theory
//! A [`Storage`] is an imported pool: one [`Store`] behind one lock, and a kernel thread that commits the open transaction group every
//! [`COMMIT_INTERVAL`]. A [`Mounted`] is one of its file systems as a [`vfs::Filesystem`]. Directory operations, attributes and data go straight into the
//! open transaction group; durable is what a commit wrote.
//!
//! File data that was read, and every page that is mapped, is kept in frames of the file's node, charged to the zone that first touched it. Writes go to the
//! store and to the frame if there is one, so reads, writes and mappings see the same bytes. A page handed out for writing is copied back to the
//! store at each sync as long as anybody maps it.
//!
//! Which runs of files stay is decided by one adaptive cache for all pools (module `cache`, policy in `pool_arc`), which gives up when little memory is free. A file
//! that is read in order is read ahead by a thread of the pool. What goes next is written to the pool's cache devices by another (module `feed`). A writer waits the longer the more the open group has, and stands still while it is full.
//!
//! Who goes first is decided by class and by the zone's weight (module `gate`, policy in `pool_fair`); a zone that uses more than its part of overused disks waits
//! some microseconds before each operation.
//!
//! # Structures
//! ```text
//! Storage { inner: Store + tables of open file systems }      registry of all pools: module `registry`
//! Mounted -> Arc<Shared> { pool, dataset, nodes: object -> weak Node, recent: strong Nodes }
//! Node { attributes, pages }
//! ```
//! A snapshot below `.zfs` is a `Shared` without a mount (module `snapdir`). A volume is a `Shared` with one `Node`, its data (module `volume`); it is there while it is open, and afterwards for its pages. [`zones`] says which zone has what.
//!
//! [`manage`] is what `zpool` and `zfs` ask for; it knows what is mounted, which the store does not: a file system is unmounted before it is renamed, rolled
//! back, destroyed or received into, and mounted again. [`streams`] are sends and receives, held by an open descriptor between two pieces.
//!
//! # Locking
//! `Operator` (an operation of [`manage`] that mounts or unmounts; one at a time, not between two pieces of a stream) ->
//! `Pages` (a node's pages) -> the gate's turn -> `Pool` (the store; held across disk I/O) -> `PoolQueue` (spin: who waits) -> `PoolNodes` (spin: node tables,
//! attributes, tenants) -> `PoolCache` (spin). Room is made, and the throttle waited for, with none of them held. A node is never dropped under a spin
//! lock. One tenant's transfer therefore waits for another's on the same pool; transaction groups that overlap are the next step.
//!
//! # Failure
//! An unreadable block is EIO of that read. Where too few devices serve, the pool is suspended ([`Storage::is_suspended`]): nothing is changed, and what memory and devices have
//! is read. Property `failmode` says what becomes of the rest. `wait`: whoever wants more waits at the vnode's door, with none of these locks, until an operator goes on (`zpool
//! clear`), a signal comes, or the pool is let go of by force; then it is tried again from the start. A page fault waits with its address space's lock. `continue`: EIO. `panic`: the
//! kernel ends. What was changed and not committed stays in memory, and is committed then (`pool_dmu::Store`, its states; it says also when that cannot be, and the pool is what its
//! last commit and its logs have). A pool may be imported for reading only: then nothing of it is written. Space is checked before data is taken, so a commit does not run out of it. Little free memory refuses
//! changes with ENOMEM before they start.
//!
//! # Limits
//! Snapshots of volumes are no devices (`snapdev`): clone them. No access-control lists. Access times follow `relatime`'s rule whatever the property of that name says, and reading alone does not make a file system differ from its last snapshot. The cache of file pages holds at most half of
//! memory; what a cache device holds is lost with an export. A receive or send counts as the operator's.
#![no_std]
extern crate alloc;

mod cache;
#[cfg(test)]
mod dataset_tests;
mod error;
mod feed;
#[cfg(test)]
mod file_tests;
mod gate;
pub mod manage;
mod node;
mod registry;
mod snapdir;
mod storage;
pub mod streams;
#[cfg(test)]
mod tests;
mod volume;
pub mod zones;

pub use cache::{owned as cached_by, relieve, stats as cache_stats};
pub use feed::{SecondStats, second_stats};
pub use gate::{ZoneReads, forget_zone, set_weight, zone_reads};
pub use pool_arc::Stats as CacheStats;
pub use registry::{add, all, find, remove};
pub use volume::install as install_volumes;
pub use storage::{COMMIT_INTERVAL, Mounted, Storage};

/// What can be imported from a set of devices, for callers that show it.
pub use pool_spa::Found;
