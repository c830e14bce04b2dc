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

    /// Calls `visit` with each entry of ZAP `number` and its hash, in the order of which OpenZFS goes through it; here they come in none. No more than a leaf of it is in memory.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn zap_each(&self, number: u64, visit: &mut dyn FnMut(u64, Entry)) -> Result<(), Error> {
        each(&mut self.object(number)?, visit)
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
    let mut entries = Vec::new();
    each(object, &mut |_, entry| entries.push(entry))?;
    Ok(entries)
}

/// Calls `visit` with each entry of a ZAP and its hash.
pub(crate) fn each(object: &mut Object<'_>, visit: &mut dyn FnMut(u64, Entry)) -> Result<(), Error> {
    let first = object.block(0)?;
    let header = match zap::parse_root(&first)? {
        Root::Micro(entries) => {
            let (salt, normalisation) = zap::micro_header(&first)?;
            let hashes = zap::micro_hashes(salt, normalisation);
            entries.into_iter().for_each(|entry| visit(hashes.hash(&entry.name), entry));
            return Ok(());
        }
        Root::Fat(header) => header,
    };
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
        zap::parse_leaf(&object.block(leaf)?, &header)?.into_iter().for_each(|entry| visit(header.hash(&entry.name), entry));
    }
    Ok(())
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
