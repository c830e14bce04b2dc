//! Terminals.
use kif::ZoneId;

use crate::vnode::{DevNo, Kind, VnodeRef};
use crate::Result;

pub mod job;

pub(crate) fn open_slave(_kind: Kind, _dev: DevNo, _zone: ZoneId) -> Result<Option<VnodeRef>> {
    Ok(None)
}
