//! Objects, ZAPs and datasets of a pool: the data management unit and the dataset layer.
//!
//! # Theory
//! An object set is an array of dnodes stored in its own object 0; an object is a tree of blocks under a dnode. [`ObjectSet`]
//! finds dnodes, [`Object`] reads their data, [`ObjectSet::zap`] and [`ObjectSet::lookup`] read name tables, and [`Datasets`] walks the
//! pool's tree of datasets and snapshots from the MOS. [`Store`] is a pool open for writing: changes collect in [`edit::Set`]s and become one
//! transaction group at a commit.
//!
//! The dataset layer makes and moves datasets without touching a block of theirs: `snapshots.rs` (snapshots, clones, rollback, rename), `promote.rs`,
//! `identity.rs` (name and guid of the pool, splitting it), `pool_props.rs`, `destroy.rs` with `drain.rs` (what dies is listed at once and freed with later commits), `lists.rs` (deadlists), `quota.rs`, `owned.rs`, `props.rs`, `holds.rs`.
//! Each operation checks, changes the MOS, and is one commit: a crash shows what was before or after. Devices are filled by `scan.rs`
//! (block by block, checked) or `rebuild.rs` (place by place, then scrubbed). [`check`] and [`check_space`] count everything anew.
//!
//! # Structures
//! [`Datasets`] and its readers borrow the pool ([`pool_spa::Pool`]); nothing is shared or cached between calls but the path of indirect blocks that an
//! [`Object`] followed last, which makes sequential reading cost one read per block.
//!
//! # Locking
//! None: readers are `&mut` cursors of their caller.
//!
//! # Failure
//! [`Error`] tells an unreadable block from a malformed structure and from a name that is not there. Nothing is ever made up: a
//! file with an unreadable block gives an error for that block, not zeros.
//!
//! # Limits
//! A ZAP of at most 2^20 leaves; dataset trees 64 deep; 16,384 blocks of what was destroyed are freed with one commit. `features.rs` lists the
//! features that may be in use in a pool we write, `foreign.rs` what of OpenZFS's bookkeeping ends when we take a pool over, `props.rs` who obeys which property.
#![no_std]
extern crate alloc;

mod accounting;
mod check;
mod datasets;
mod destroy;
mod drain;
mod dsl;
pub mod edit;
mod features;
mod foreign;
mod history;
mod holds;
mod lists;
mod log;
mod look;
mod identity;
mod object;
mod pool_props;
mod owned;
mod promote;
mod props;
mod quota;
mod rebuild;
mod scan;
mod scan_state;
mod second;
mod snapshots;
mod spares;
mod store;
mod topology;
mod trim;
mod zap;
pub mod zap_edit;

pub use datasets::{DatasetInfo, DatasetKind, Datasets, Property, Source};
pub use features::{own_features, unreadable, unwritable};
pub use history::{Line, history};
pub use holds::Bookmark;
pub use props::{Shown, date, full_name, hint, human, is_number, is_property, is_settable, parse_property, parse_size};
pub use pool_props::{Bearing, PoolChange, PoolProperty, parse_pool_property, pool_property_name, pool_property_names};
pub use quota::SpaceUse;
pub use accounting::check_space;
pub use check::{Checked, Fault, check};
pub use log::PendingLog;
pub use scan::{ScanKind, ScanReport};
pub use scan_state::{LastScan, ScanState};
pub use second::Fed;
pub use spares::{Auxiliary, AuxiliaryStatus};
pub use trim::{FreeAt, FreeStep};
pub use store::{Store, free_total, headroom};
pub use object::{Changed, Object, ObjectSet};
pub use owned::{Holder, Holding, OwnedProperty};

use core::fmt;

use pool_phys::FormatError;
use pool_spa::ReadError;

/// Why something could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A block has no good copy, or needs an algorithm that is not supported.
    Unreadable(ReadError),
    /// A verified block does not follow the format.
    Format(FormatError),
    /// No such object, name, dataset or snapshot.
    NotFound,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::Format(error) => error.fmt(f),
            Self::NotFound => write!(f, "not found"),
        }
    }
}

impl core::error::Error for Error {}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        Self::Unreadable(error)
    }
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}
