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
//! [`VdevState`] says what a leaf can be; `leaf` says how it gets there. A top-level vdev whose leaves cannot give all data makes its blocks unreadable; the
//! pool still opens and says which blocks those are when they are asked for. A write that some leaf does not take is survived as far as the
//! redundancy goes: the leaf notes the transaction group in its dirty time log, and a resilver brings what it lacks.
//!
//! # Structures
//! [`Pool`] owns the tops; a top owns its leaves; a leaf owns its device. [`config::VdevConfig`] is the tree as the
//! config nvlist describes it.
//!
//! # Locking
//! None: reading changes atomic error counters, the cache of interior blocks, and heals bad copies; what changes the tree takes `&mut`. One owner at a time.
//!
//! # Failure
//! Device errors, wrong checksums on any copy, missing devices up to the redundancy: survived, counted, told ([`Event`]) and, in a pool open for writing,
//! written afresh. More: a typed error names the block. Labels are outside input: damaged ones are skipped, contradictory ones refused by name.
//!
//! # Limits
//! Salted checksums (skein, edonr) are refused by name. Gang blocks nest up to 8 deep. At most 255 children per vdev. What cache devices hold is lost
//! with an export (module `second`). No removal of top-level vdevs.
//!
//! # Reading order
//! `config`, `import`, `leaf`, `vdev`, `zio`; then `alloc_space`, `commit`, `create`, `topology`, `second`, `free`, `event`.
#![no_std]
extern crate alloc;

mod alloc_space;
mod auxiliary;
mod commit;
pub mod config;
mod create;
mod event;
mod free;
mod import;
mod leaf;
mod second;
mod slice;
mod topology;
mod vdev;
mod zio;

pub use alloc_space::{Allocator, DEFER_TXGS, Geometry, Metaslab, NoSpace, Place, Top};
pub use commit::{Commit, WriteError};
pub use create::{CreateError, FIRST_ARRAY_OBJECT, Layout, NewDevices, create, leaf_type, plan_top};
pub use free::FreeWork;
pub use event::{Event, EventSink, Op};
pub use import::{Found, ImportError, ImportOptions, LabelOf, Pool, clear_labels_of, label_of, scan, survey};
pub use leaf::{LeafCounts, LeafStatus, VdevState};
pub use second::{CacheDevice, SecondCounts};
pub use slice::{has_foreign_partitions, is_pools_alone, label_disk, open_partitions};
pub use topology::{leaves_below, usable_bytes};
pub use vdev::{Scrubbed, VdevStatus};
pub use zio::{ReadError, Reason, decompress};
