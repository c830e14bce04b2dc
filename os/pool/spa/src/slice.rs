//! Partitions as devices, and whole disks for a pool.
//!
//! OpenZFS puts a partition table on a disk it is given whole, and its vdev into partition 1. [`open_partitions`] finds such vdevs; [`label_disk`] makes one.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use kif::{BlockDev, BlockError};
use pool_phys::gpt::{self, Partition};

use crate::{CreateError, WriteError};

/// A part of a device as a device.
struct Slice {
    whole: Arc<dyn BlockDev>,
    offset: u64,
    size: u64,
}

impl Slice {
    fn at(&self, offset: u64, length: usize) -> Result<u64, BlockError> {
        let end = offset.checked_add(length as u64).ok_or(BlockError::OutOfRange)?;
        if end > self.size { Err(BlockError::OutOfRange) } else { Ok(self.offset + offset) }
    }
}

impl BlockDev for Slice {
    fn size_bytes(&self) -> u64 {
        self.size
    }
    fn sector_bytes(&self) -> u32 {
        self.whole.sector_bytes()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        self.whole.read(self.at(offset, out.len())?, out)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.whole.write(self.at(offset, data.len())?, data)
    }
    fn flush(&self) -> Result<(), BlockError> {
        self.whole.flush()
    }
    fn discard(&self, offset: u64, length: u64) -> Result<bool, BlockError> {
        let length_here = usize::try_from(length).map_err(|_| BlockError::OutOfRange)?;
        self.whole.discard(self.at(offset, length_here)?, length)
    }
}

/// A device's partitions that may hold a vdev, with their numbers; the device itself, as number 0, where it has no partition table.
#[must_use]
pub fn open_partitions(device: Box<dyn BlockDev>) -> Vec<(u32, Box<dyn BlockDev>)> {
    let found = gpt::partitions(device.size_bytes(), device.sector_bytes(), &mut |offset, out| device.read(offset, out).is_ok());
    let Ok(found) = found else { return alloc::vec![(0, device)] };
    let whole: Arc<dyn BlockDev> = Arc::from(device);
    let slice = |part: Partition| {
        let slice: Box<dyn BlockDev> = Box::new(Slice { whole: Arc::clone(&whole), offset: part.offset, size: part.size });
        (part.number, slice)
    };
    found.into_iter().filter(|part| part.kind == gpt::POOL).map(slice).collect()
}

/// Whether a disk has a partition table (GPT), and nothing in it but what [`label_disk`] makes: no partition of anybody else.
#[must_use]
pub fn is_pools_alone(device: &dyn BlockDev) -> bool {
    let found = gpt::partitions(device.size_bytes(), device.sector_bytes(), &mut |offset, out| device.read(offset, out).is_ok());
    found.is_ok_and(|found| found.iter().all(|part| matches!(part.kind, gpt::POOL | gpt::RESERVED)))
}

/// Whether a disk has a table with partitions of others: whoever wrote it has something there.
#[must_use]
pub fn has_foreign_partitions(device: &dyn BlockDev) -> bool {
    let found = gpt::partitions(device.size_bytes(), device.sector_bytes(), &mut |offset, out| device.read(offset, out).is_ok());
    found.is_ok_and(|found| found.iter().any(|part| !matches!(part.kind, gpt::POOL | gpt::RESERVED)))
}

/// Gives a pool a whole disk: writes a partition table and returns the pool's partition. `random` gives the guids.
///
/// # Errors
/// The disk is too small, or does not take the table.
pub fn label_disk(device: Box<dyn BlockDev>, random: &mut dyn FnMut() -> u64) -> Result<Box<dyn BlockDev>, CreateError> {
    let plan = gpt::plan(device.size_bytes(), device.sector_bytes(), random).map_err(CreateError::Format)?;
    let failed = |error| CreateError::Write(WriteError::Device { guid: 0, error });
    for (offset, data) in &plan.writes {
        device.write(*offset, data).map_err(failed)?;
    }
    device.flush().map_err(failed)?;
    Ok(Box::new(Slice { whole: Arc::from(device), offset: plan.pool.offset, size: plan.pool.size }))
}
