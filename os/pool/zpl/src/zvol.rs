//! Volumes: a data set that is one array of bytes, for use as a disk.
//!
//! The object set of a volume has two objects: 1 is the data, in blocks of `volblocksize`, 2 a table with its size. Blocks that were never written, or were
//! discarded, are holes and read as zeros.

use alloc::vec;
use alloc::vec::Vec;

use pool_dmu::edit::{EditError, Sought};
use pool_dmu::{Error, Store, zap_edit as zap};
use pool_phys::FormatError;
use pool_phys::dnode::kind;
use pool_phys::intent_log::Change as Logged;
use pool_phys::nvlist::Value;

pub(crate) const OS_KIND: u64 = 3;
/// The object that holds a volume's data.
pub const DATA: u64 = 1;
const PROPERTIES: u64 = 2;
/// Type of the table of properties.
const PROPERTIES_KIND: u8 = 24;
/// Block sizes: a power of two from 512 bytes to 128 KiB.
const BLOCK_MIN: u64 = 512;
const BLOCK_MAX: u64 = 128 << 10;
/// What OpenZFS takes where none is given.
pub const BLOCK_DEFAULT: u64 = 8 << 10;
/// Pointers in an indirect block, and its size.
const FAN: u64 = 1 << 10;
const INDIRECT: u64 = 128 << 10;

/// A volume, known by its data set.
#[derive(Clone, Copy, Debug)]
pub struct Zvol {
    dataset: u64,
    size: u64,
    block_size: u64,
}

/// Space that keeps a volume of `size` bytes writable to its end: its data and the indirect blocks above, in `copies` copies.
#[must_use]
pub fn reservation(size: u64, block_size: u64, copies: u64) -> u64 {
    let mut blocks = size / block_size.max(1);
    // The meta-dnode's levels.
    let mut metadata = 7_u64;
    while blocks > 1 {
        blocks = blocks.div_ceil(FAN);
        metadata += blocks;
    }
    size.saturating_mul(copies).saturating_add(metadata.saturating_mul((copies + 1).min(3)).saturating_mul(INDIRECT))
}

impl Zvol {
    /// Makes a volume of `size` bytes, a multiple of `block_size`; `sparse` ones have no reservation (`zfs create -s`).
    ///
    /// # Errors
    /// Sizes that no volume has, the name is taken, no space.
    pub fn create(store: &mut Store, name: &str, size: u64, block_size: u64, sparse: bool, now: u64) -> Result<Self, EditError> {
        check_size(size, block_size)?;
        let dataset = store.create_dataset(name, OS_KIND, now)?;
        let (set, pool) = store.edit_dataset(dataset, None)?;
        set.claim(DATA, kind::ZVOL, block_size, 0, Vec::new());
        set.claim(PROPERTIES, PROPERTIES_KIND, 512, 0, Vec::new());
        let table = set.edit(pool, PROPERTIES)?;
        zap::format(table, 0);
        zap::set_number(table, pool, b"size", size)?;
        store.set_property(name, "volsize", &Value::Number(size))?;
        store.set_property(name, "volblocksize", &Value::Number(block_size))?;
        if !sparse {
            store.set_property(name, "refreservation", &Value::Number(reservation(size, block_size, 1)))?;
        }
        Ok(Self { dataset, size, block_size })
    }

    /// Opens the volume in `dataset`.
    ///
    /// # Errors
    /// Not a volume, unreadable, malformed.
    pub fn open(store: &mut Store, dataset: u64) -> Result<Self, EditError> {
        let (set, pool) = store.edit_dataset(dataset, None)?;
        if set.os_kind() != OS_KIND {
            return Err(EditError::Invalid("the dataset is not a volume"));
        }
        let size = set.with_view(pool, PROPERTIES, |edit| zap::number(edit, pool, b"size"))?.ok_or(FormatError::new("volume", "has no size", dataset))?;
        let block_size = set.with_view(pool, DATA, |edit| Ok::<_, Error>(edit.dnode.block_size))?;
        Ok(Self { dataset, size, block_size })
    }

    /// Object number of the data set.
    #[must_use]
    pub const fn dataset(&self) -> u64 {
        self.dataset
    }
    /// Bytes of the volume.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
    /// Bytes of a block: writes of whole blocks read nothing.
    #[must_use]
    pub const fn block_size(&self) -> u64 {
        self.block_size
    }

    fn check(&self, offset: u64, length: u64) -> Result<(), EditError> {
        let fits = offset.checked_add(length).is_some_and(|end| end <= self.size);
        if fits { Ok(()) } else { Err(EditError::Invalid("beyond the end of the volume")) }
    }

    /// Reads, changes included.
    ///
    /// # Errors
    /// Beyond the end, unreadable.
    pub fn read(&self, store: &mut Store, offset: u64, out: &mut [u8]) -> Result<(), EditError> {
        self.check(offset, out.len() as u64)?;
        let (set, pool) = store.edit_dataset(self.dataset, None)?;
        set.with_view(pool, DATA, |edit| Ok(edit.read_at(pool, offset, out)?))
    }

    /// Writes. Durable with the next commit, or [`Store::log_sync`].
    ///
    /// # Errors
    /// Beyond the end, no space, a partly written block is unreadable.
    pub fn write(&self, store: &mut Store, offset: u64, data: &[u8]) -> Result<(), EditError> {
        self.check(offset, data.len() as u64)?;
        store.reserve_in(self.dataset, data.len() as u64, self.block_size)?;
        let (set, pool) = store.edit_dataset(self.dataset, None)?;
        set.edit(pool, DATA)?.write_at(pool, offset, data)?;
        store.log_write(self.dataset, DATA, offset, data.len() as u64);
        Ok(())
    }

    /// Discards: whole blocks become holes, the rest of the range zeros.
    ///
    /// # Errors
    /// Beyond the end, unreadable.
    pub fn discard(&self, store: &mut Store, offset: u64, length: u64) -> Result<(), EditError> {
        self.check(offset, length)?;
        let (set, pool) = store.edit_dataset(self.dataset, None)?;
        crate::punch(set.edit(pool, DATA)?, pool, offset, offset + length)?;
        store.log_change(self.dataset, Some(Logged::Truncate { object: DATA, offset, length }));
        Ok(())
    }

    /// The first byte from `offset` on that is in data (or, with `hole`, in a hole); `None`: none up to the end, which counts as a hole.
    ///
    /// # Errors
    /// Unreadable.
    pub fn seek(&self, store: &mut Store, offset: u64, hole: bool) -> Result<Option<u64>, EditError> {
        let (set, pool) = store.edit_dataset(self.dataset, None)?;
        let size = self.size;
        set.with_view(pool, DATA, |edit| match crate::seek(edit, pool, offset, size, hole, u64::MAX)? {
            Sought::At(at) => Ok(Some(at)),
            Sought::Nowhere | Sought::GoOn(_) => Ok(None),
        })
    }

    /// Changes the size; what is cut off is gone.
    ///
    /// # Errors
    /// Sizes that no volume has.
    pub fn resize(&mut self, store: &mut Store, name: &str, size: u64) -> Result<(), EditError> {
        check_size(size, self.block_size)?;
        let (set, pool) = store.edit_dataset(self.dataset, None)?;
        zap::set_number(set.edit(pool, PROPERTIES)?, pool, b"size", size)?;
        if size < self.size {
            set.edit(pool, DATA)?.cut(size / self.block_size);
        }
        self.size = size;
        // No record of the log says so.
        store.log_change(self.dataset, None);
        store.set_property(name, "volsize", &Value::Number(size))
    }
}

/// Whether a volume can have this size and block size.
///
/// # Errors
/// It cannot: why.
pub fn check_size(size: u64, block_size: u64) -> Result<(), EditError> {
    if !block_size.is_power_of_two() || !(BLOCK_MIN..=BLOCK_MAX).contains(&block_size) {
        return Err(EditError::Invalid("the block size of a volume is a power of two from 512 bytes to 128 KiB"));
    }
    if size == 0 || !size.is_multiple_of(block_size) || i64::try_from(size).is_err() {
        return Err(EditError::Invalid("the size of a volume is a multiple of its block size"));
    }
    Ok(())
}

/// Zeros for a part of a block.
pub(crate) fn zeros(length: u64) -> Vec<u8> {
    vec![0; usize::try_from(length).unwrap_or(0)]
}
