//! Disks as pools have them: held, so that nobody else writes to them, and with a partition table where they are large enough.
//! What they do is told to the console.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use kif::{BlockDev, BlockError};
use pool_spa::{open_partitions, Event, EventSink, Pool};
use sync::{Class, SpinLock};

use super::{Refused, Result};
use crate::gate;

/// Disks below this size are used from their first sector on: a partition table and what it sets aside would take too much of them.
const LABELLED_MIN: u64 = 256 << 20;

/// A disk held by a pool; given back when the pool lets go of it.
pub(super) struct Held(Arc<vfs::block::Disk>);

impl Held {
    pub(super) fn take(disk: &Arc<vfs::block::Disk>) -> Option<Box<dyn BlockDev>> {
        disk.hold().then(|| Box::new(Self(Arc::clone(disk))) as Box<dyn BlockDev>)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl BlockDev for Held {
    fn size_bytes(&self) -> u64 {
        self.0.device().size_bytes()
    }
    fn sector_bytes(&self) -> u32 {
        self.0.device().sector_bytes()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> core::result::Result<(), BlockError> {
        gate::metered(true, || self.0.device().read(offset, out))
    }
    fn write(&self, offset: u64, data: &[u8]) -> core::result::Result<(), BlockError> {
        gate::metered(false, || self.0.device().write(offset, data))
    }
    fn flush(&self) -> core::result::Result<(), BlockError> {
        self.0.device().flush()
    }
    fn discard(&self, offset: u64, length: u64) -> core::result::Result<bool, BlockError> {
        self.0.device().discard(offset, length)
    }
}

/// What partition `number` of a disk is called; 0 is the disk itself.
pub(super) fn part_name(disk: &str, number: u32) -> String {
    if number == 0 { String::from(disk) } else { format!("{disk}{number}") }
}

/// Takes disk `name` (with or without `/dev/`), or a partition of one that is for pools.
pub(super) fn take(name: &str) -> Result<Box<dyn BlockDev>> {
    let bare = name.strip_prefix("/dev/").unwrap_or(name);
    let disks = vfs::block::disks();
    let hold = |disk| Held::take(disk).ok_or_else(|| Refused::Busy(format!("{name}: in use by a pool")));
    if let Some(disk) = disks.iter().find(|disk| disk.name() == bare) {
        return hold(disk);
    }
    let absent = || Refused::NotFound(format!("{name}: no such disk"));
    let whole = bare.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let disk = disks.iter().find(|disk| disk.name() == whole).ok_or_else(absent)?;
    open_partitions(hold(disk)?).into_iter().find(|(number, _)| part_name(whole, *number) == bare).map(|(_, part)| part).ok_or_else(absent)
}

/// A device for a pool: a whole disk that is large enough gets a partition table, as a sign to other systems that it is taken.
pub(super) fn take_for_pool(name: &str) -> Result<(String, Box<dyn BlockDev>)> {
    let device = take(name)?;
    let bare = name.strip_prefix("/dev/").unwrap_or(name);
    let is_whole = vfs::block::disks().iter().any(|disk| disk.name() == bare);
    if !is_whole || device.size_bytes() < LABELLED_MIN {
        if is_whole {
            forget_table(&*device).map_err(|_| Refused::Failed(format!("{name}: the disk does not take writes")))?;
        }
        return Ok((format!("/dev/{bare}"), device));
    }
    let part = pool_spa::label_disk(device, &mut *random()).map_err(|error| Refused::Invalid(format!("{name}: {error}")))?;
    Ok((format!("/dev/{}", part_name(bare, 1)), part))
}

/// Takes away a partition table that would hide what is written over its disk.
pub(super) fn forget_table(device: &dyn BlockDev) -> core::result::Result<(), BlockError> {
    let sector = u64::from(device.sector_bytes());
    let table = 33 * sector;
    let zeros = alloc::vec![0; usize::try_from(table).unwrap_or(0)];
    let size = device.size_bytes() / sector * sector;
    if size < 2 * table + sector {
        return Ok(());
    }
    device.write(sector, &zeros)?;
    device.write(size - table, &zeros)
}

pub(super) fn random() -> Box<dyn FnMut() -> u64 + Send> {
    Box::new(|| {
        let mut bytes = [0; 8];
        kif::rng().fill(&mut bytes);
        u64::from_le_bytes(bytes)
    })
}

/// Tells the console of what devices do; many reports of one kind and device become few lines.
struct Reporter {
    pool: String,
    seen: SpinLock<BTreeMap<(&'static str, u64), u64>>,
}

impl EventSink for Reporter {
    fn event(&self, event: &Event) {
        let leaf = match event {
            Event::Io { leaf, .. } | Event::Checksum { leaf, .. } | Event::Repaired { leaf, .. } => *leaf,
            Event::State { vdev, .. } => *vdev,
            _ => 0,
        };
        let count = {
            let mut seen = self.seen.lock();
            let count = seen.entry((event.class(), leaf)).or_insert(0);
            *count += 1;
            *count
        };
        if count.is_power_of_two() {
            kif::log().line(format_args!("pool {}: {} #{count}: {event:?}", self.pool, event.class()));
        }
    }
}

pub(super) fn watch(mut pool: Pool) -> Pool {
    let name = String::from(pool.name());
    pool.set_events(Arc::new(Reporter { pool: name, seen: SpinLock::new(Class::PoolNodes, BTreeMap::new()) }));
    pool
}
