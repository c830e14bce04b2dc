//! The storage pool allocator: labels to a vdev tree, block pointers to verified bytes, free space, the commit.
//!
//! # Theory
//! A pool is a tree of vdevs whose leaves carry labels. [`Pool::import`] finds the newest uberblock that any leaf holds, builds
//! a provisional tree from the labels, and hands out blocks by [`Pool::read`]: every byte that leaves this crate matched the
//! checksum in its parent, or was embedded in it. A block has up to three copies (DVAs), a mirror has several sides, a raidz can
//! rebuild columns from parity: all of them are tried before a read fails, and each failure is counted at the leaf where it
//! was seen.
//!
//! # States
//! A leaf is healthy, missing (no device carried its guid) or faulty (its device failed a read). A top-level vdev whose leaves cannot give
//! all data makes its blocks unreadable; the pool still opens and says which blocks those are when they are asked for.
//!
//! # Structures
//! [`Pool`] owns the tops; a top owns its leaves; a leaf owns its device. [`config::VdevConfig`] is the tree as the
//! config nvlist describes it.
//!
//! # Locking
//! None: reading changes only the atomic error counters; writing takes `&mut`.
//!
//! # Failure
//! Device errors, wrong checksums on any copy, missing devices up to the redundancy: survived and counted. More: a typed
//! error names the block. Labels are outside input: damaged ones are skipped, contradictory ones refused by name.
//!
//! # Limits
//! Damage is read around and counted, but not yet written back (self-heal). Writing needs every device: no resilver yet. Salted checksums and zstd are refused by
//! name. Gang blocks nest up to 8 deep. At most 255 children per vdev, 4096 leaves.
//!
//! # Reading order
//! `config`, `import`, `vdev`, `zio`; then `alloc_space`, `commit`, `create`.
#![no_std]
extern crate alloc;

mod alloc_space;
mod commit;
pub mod config;
mod create;
mod event;
mod import;
mod leaf;
mod topology;
mod vdev;
mod zio;

pub use alloc_space::{Allocator, DEFER_TXGS, Geometry, Metaslab, NoSpace, Place, Top};
pub use commit::{Commit, WriteError};
pub use create::{CreateError, FIRST_ARRAY_OBJECT, Layout, create, plan_top};
pub use event::{Event, EventSink, Op};
pub use import::{Found, ImportError, ImportOptions, Pool, scan};
pub use leaf::{LeafCounts, LeafStatus, VdevState};
pub use topology::{leaves_below, usable_bytes};
pub use vdev::{Scrubbed, VdevStatus};
pub use zio::{ReadError, Reason};
