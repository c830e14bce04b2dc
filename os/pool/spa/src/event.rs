//! What happens to devices and blocks, told where it is seen.
//!
//! An [`Event`] is posted by the code that detects it, once per occurrence, to the sink the pool's owner installed. The names are those of the
//! fault management reports that OpenZFS posts.

use kif::BlockError;
use pool_phys::blkptr::Dva;

use crate::VdevState;

/// What a device was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Read,
    Write,
    Flush,
}

/// Something a fault manager or an operator wants to know. Leaves are named by guid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device did not carry out a transfer. `offset` is in bytes of the device.
    Io { leaf: u64, op: Op, offset: u64, size: u64, error: BlockError },
    /// A device gave bytes that are not those written. `offset` is in the leaf's allocatable space.
    Checksum { leaf: u64, offset: u64, size: u64 },
    /// Wrong or lost bytes were written afresh.
    Repaired { leaf: u64, offset: u64, size: u64 },
    /// No copy of a block is left.
    Data { dva: Option<Dva>, birth: u64 },
    /// A vdev changed its state.
    State { vdev: u64, state: VdevState },
    /// A scan began: the lowest txg it looks at; 0 for a scrub.
    ScanStarted { from_txg: u64 },
    /// A scan went through the whole pool.
    ScanFinished { repaired: u64, errors: u64 },
    /// The vdev tree changed (attach, detach, replace, add, expand).
    ConfigChanged { txg: u64 },
    /// Records of an intent log were replayed into a dataset.
    LogReplayed { dataset: u64, records: u64 },
    /// A transaction group could not be committed; nothing is written any more.
    Suspended { txg: u64 },
}

impl Event {
    /// The class of the report, as a fault manager subscribes to it.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Io { .. } => "ereport.fs.zfs.io",
            Self::Checksum { .. } => "ereport.fs.zfs.checksum",
            Self::Repaired { .. } => "sysevent.fs.zfs.repaired",
            Self::Data { .. } => "ereport.fs.zfs.data",
            Self::State { .. } => "resource.fs.zfs.statechange",
            Self::ScanStarted { .. } => "sysevent.fs.zfs.scan_start",
            Self::ScanFinished { .. } => "sysevent.fs.zfs.scan_finish",
            Self::ConfigChanged { .. } => "sysevent.fs.zfs.config_sync",
            Self::LogReplayed { .. } => "sysevent.fs.zfs.log_replayed",
            Self::Suspended { .. } => "ereport.fs.zfs.io_failure",
        }
    }
}

/// Takes events. Calls come from inside reads and writes: a sink notes the event and returns.
pub trait EventSink: Send + Sync {
    /// Notes an event.
    fn event(&self, event: &Event);
}
