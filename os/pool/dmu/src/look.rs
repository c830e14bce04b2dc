//! Questions to the dataset layer that are the same for a pool that is read and for one that is being changed.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pool_phys::zap::Entry;
use pool_spa::Pool;

use crate::dsl::{DEPTH_MAX, dir, ds, word};
use crate::edit::EditError;
use crate::store::Store;
use crate::{Datasets, Error};

/// A view of the MOS.
pub(crate) trait Look {
    fn spa(&self) -> &Pool;
    fn root(&self) -> u64;
    /// The bonus of an object.
    fn words(&self, object: u64) -> Result<Vec<u8>, Error>;
    /// All entries of a table; table 0 has none.
    fn all(&self, table: u64) -> Result<Vec<Entry>, Error>;
    fn one(&self, table: u64, name: &str) -> Result<Option<Entry>, Error>;
}

impl Look for Store {
    fn spa(&self) -> &Pool {
        &self.pool
    }
    fn root(&self) -> u64 {
        self.root_dir
    }
    fn words(&self, object: u64) -> Result<Vec<u8>, Error> {
        self.peek_bonus(object).map_err(read_error)
    }
    fn all(&self, table: u64) -> Result<Vec<Entry>, Error> {
        self.entries_of(table).map_err(read_error)
    }
    fn one(&self, table: u64, name: &str) -> Result<Option<Entry>, Error> {
        if table == 0 {
            return Ok(None);
        }
        let found = self.mos.with_view(&self.pool, table, |edit| crate::zap_edit::entries(edit, &self.pool, Some(name.as_bytes())));
        Ok(found.map_err(read_error)?.into_iter().next())
    }
}

impl Look for Datasets<'_> {
    fn spa(&self) -> &Pool {
        self.mos().pool()
    }
    fn root(&self) -> u64 {
        self.root_dir()
    }
    fn words(&self, object: u64) -> Result<Vec<u8>, Error> {
        Ok(self.mos().object(object)?.dnode().bonus.clone())
    }
    fn all(&self, table: u64) -> Result<Vec<Entry>, Error> {
        if table == 0 { Ok(Vec::new()) } else { self.mos().zap(table) }
    }
    fn one(&self, table: u64, name: &str) -> Result<Option<Entry>, Error> {
        if table == 0 {
            return Ok(None);
        }
        match self.mos().lookup(table, name.as_bytes()) {
            Ok(entry) => Ok(Some(entry)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Looking changes nothing, so only reading can fail.
fn read_error(error: EditError) -> Error {
    match error {
        EditError::Read(error) => error,
        other => Error::Format(pool_phys::FormatError::new("MOS", if matches!(other, EditError::Invalid(_)) { "a table has an unknown form" } else { "cannot be read" }, 0)),
    }
}

/// Full name of a directory.
pub(crate) fn dir_name(look: &dyn Look, mut directory: u64) -> Result<String, Error> {
    let mut parts: Vec<String> = Vec::new();
    while directory != look.root() {
        let parent = word(&look.words(directory)?, dir::PARENT);
        if parent == 0 || parts.len() > DEPTH_MAX {
            return Err(pool_phys::FormatError::new("DSL directory", "has no way to the root", directory).into());
        }
        let siblings = look.all(word(&look.words(parent)?, dir::CHILDREN))?;
        let entry = siblings.iter().find(|entry| entry.number() == Some(directory)).ok_or(Error::NotFound)?;
        parts.push(entry.text());
        directory = parent;
    }
    parts.push(look.spa().name().into());
    parts.reverse();
    Ok(parts.join("/"))
}

/// Full name of a dataset, head or snapshot.
pub(crate) fn dataset_name(look: &dyn Look, dataset: u64) -> Result<String, Error> {
    let directory = word(&look.words(dataset)?, ds::DIR);
    let name = dir_name(look, directory)?;
    let head = word(&look.words(directory)?, dir::HEAD);
    if head == dataset {
        return Ok(name);
    }
    let entries = look.all(word(&look.words(head)?, ds::SNAPSHOTS))?;
    let entry = entries.iter().find(|entry| entry.number() == Some(dataset)).ok_or(Error::NotFound)?;
    Ok(format!("{name}@{}", entry.text()))
}

/// Directories from `directory` up to the root.
pub(crate) fn ancestors(look: &dyn Look, mut directory: u64) -> Result<Vec<u64>, Error> {
    let mut out = Vec::new();
    while directory != 0 {
        out.push(directory);
        if out.len() > DEPTH_MAX + 1 {
            return Err(pool_phys::FormatError::new("DSL directory", "nested too deeply", directory).into());
        }
        directory = word(&look.words(directory)?, dir::PARENT);
    }
    Ok(out)
}
