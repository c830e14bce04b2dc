//! Reading ZAP objects.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use pool_phys::FormatError;
use pool_phys::zap::{self, Entry, Header, Root};

use crate::{Error, Object, ObjectSet};

const LEAVES_MAX: usize = 1 << 20;
/// Longest pointer table, in blocks.
const TABLE_MAX: u64 = 1 << 14;

impl ObjectSet<'_> {
    /// All entries of ZAP `number`, in no particular order.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn zap(&self, number: u64) -> Result<Vec<Entry>, Error> {
        all(&mut self.object(number)?)
    }

    /// All entries of ZAP `number` in the order of their hashes: as OpenZFS goes through it.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn zap_in_order(&self, number: u64) -> Result<Vec<Entry>, Error> {
        let first = self.object(number)?.whole_block(0)?;
        let hashes = match zap::parse_root(&first)? {
            Root::Micro(_) => {
                let (salt, normalisation) = zap::micro_header(&first)?;
                zap::micro_hashes(salt, normalisation)
            }
            Root::Fat(header) => header,
        };
        let mut entries = self.zap(number)?;
        entries.sort_by_cached_key(|entry| hashes.hash(&entry.name));
        Ok(entries)
    }

    /// The entry called `name` in ZAP `number`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; unreadable, malformed.
    pub fn lookup(&self, number: u64, name: &[u8]) -> Result<Entry, Error> {
        let mut object = self.object(number)?;
        let first = object.whole_block(0)?;
        if let Some(mut entries) = zap::micro_entries(&first) {
            let found = entries.find(|(_, known, _)| *known == name).ok_or(Error::NotFound)?;
            return Ok(Entry { name: name.to_vec(), integer_size: 8, value: vec![found.2] });
        }
        let entries = match zap::parse_root(&first)? {
            Root::Micro(entries) => entries,
            Root::Fat(header) => {
                let leaf = leaf_of(&mut object, &header, name)?;
                zap::parse_leaf(&object.whole_block(leaf)?, &header)?
            }
        };
        entries.into_iter().find(|entry| entry.name == name).ok_or(Error::NotFound)
    }

    /// Like [`ObjectSet::lookup`], for entries that are one number.
    ///
    /// # Errors
    /// As there; an entry of another shape is malformed.
    pub fn lookup_number(&self, number: u64, name: &str) -> Result<u64, Error> {
        let entry = self.lookup(number, name.as_bytes())?;
        entry.number().ok_or(Error::Format(FormatError::new("ZAP", "entry is not one number", number)))
    }
}

/// All entries of a ZAP.
pub(crate) fn all(object: &mut Object<'_>) -> Result<Vec<Entry>, Error> {
    let header = match zap::parse_root(&object.block(0)?)? {
        Root::Micro(entries) => return Ok(entries),
        Root::Fat(header) => header,
    };
    let mut entries = Vec::new();
    let mut leaves = BTreeSet::new();
    if header.table_blocks == 0 {
        leaves.extend(&header.table);
    } else {
        for block in 0..header.table_blocks.min(object.dnode().last_block).min(TABLE_MAX) {
            leaves.extend(zap::parse_table(&object.block(header.table_block.saturating_add(block))?));
        }
    }
    // Slots of a table block past the table's end are zero; block 0 is the header.
    leaves.remove(&0);
    if leaves.len() > zap::leaf_limit(&header).min(LEAVES_MAX) {
        return Err(FormatError::new("ZAP", "too many leaves", leaves.len() as u64).into());
    }
    for leaf in leaves {
        entries.extend(zap::parse_leaf(&object.block(leaf)?, &header)?);
    }
    Ok(entries)
}

fn leaf_of(object: &mut Object<'_>, header: &Header, name: &[u8]) -> Result<u64, Error> {
    let index = header.table_index(name);
    let slot = |index: u64| usize::try_from(index).unwrap_or(usize::MAX);
    let leaf = if header.table_blocks == 0 {
        header.table.get(slot(index)).copied()
    } else {
        let per_block = object.dnode().block_size / 8;
        let block = header.table_block.saturating_add(index / per_block);
        zap::parse_table(&object.block(block)?).get(slot(index % per_block)).copied()
    };
    leaf.filter(|leaf| *leaf != 0).ok_or(Error::Format(FormatError::new("ZAP", "pointer table has no leaf for a hash", index)))
}
