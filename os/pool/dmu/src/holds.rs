//! Holds and bookmarks, and the extra fields of datasets they need.
//!
//! A hold keeps a snapshot from being destroyed until it is released. A bookmark remembers a snapshot's place in time, for incremental sends, after the snapshot is
//! gone. Bookmarks are in a table that the head names in a field of its own: the head's object becomes a table itself (feature `extensible_dataset`).

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use pool_phys::nvlist::Value;
use pool_phys::zap::Entry;

use crate::dsl::{check_length, check_part, ds, put, split_name, word};
use crate::edit::EditError;
use crate::features::{BOOKMARKS, EXTENSIBLE_DATASET};
use crate::look::{Look, dataset_name};
use crate::store::{Store, ZAP_METADATA};
use crate::zap_edit as zap;
use crate::{Datasets, Error};

const HOLDS: u8 = 41;
const BOOKMARKS_FIELD: &str = "com.delphix:bookmarks";
/// Longest tag of a hold.
const TAG_MAX: usize = 255;

/// A bookmark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bookmark {
    /// Full name, `pool/a#b`.
    pub name: String,
    pub guid: u64,
    pub creation_txg: u64,
    pub creation_time: u64,
}

fn bookmarks(look: &dyn Look, head: u64, dataset: &str, field: Option<Entry>) -> Result<Vec<Bookmark>, Error> {
    let Some(table) = field.and_then(|entry| entry.number()) else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for entry in look.all(table)? {
        let [guid, creation_txg, creation_time, ..] = entry.value[..] else {
            return Err(pool_phys::FormatError::new("bookmark", "is too short", head).into());
        };
        out.push(Bookmark { name: alloc::format!("{dataset}#{}", entry.text()), guid, creation_txg, creation_time });
    }
    out.sort_by_key(|bookmark| bookmark.creation_txg);
    Ok(out)
}

impl Datasets<'_> {
    /// Holds of a snapshot: (tag, time).
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn holds(&self, snapshot: &str) -> Result<Vec<(String, u64)>, Error> {
        let table = word(&self.words(self.find(snapshot)?.object)?, ds::HOLDS);
        let mut out: Vec<(String, u64)> = self.all(table)?.iter().map(|entry| (entry.text(), entry.number().unwrap_or(0))).collect();
        out.sort();
        Ok(out)
    }

    /// Bookmarks of a dataset, oldest first.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn bookmarks(&self, dataset: &str) -> Result<Vec<Bookmark>, Error> {
        let head = self.find(dataset)?.object;
        let field = self.extra(head, BOOKMARKS_FIELD)?;
        bookmarks(self, head, dataset, field)
    }

    /// An extra field of a directory or dataset.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn extra(&self, object: u64, name: &str) -> Result<Option<Entry>, Error> {
        if self.mos().object(object)?.dnode().kind != ZAP_METADATA { Ok(None) } else { self.one(object, name) }
    }
}

impl Store {
    pub(crate) fn is_held(&self, snapshot: u64) -> Result<bool, EditError> {
        Ok(!self.entries_of(self.peek(snapshot, ds::HOLDS)?)?.is_empty())
    }

    /// Holds snapshots under a tag, all or none.
    ///
    /// # Errors
    /// Not found; the tag is there already ([`EditError::Exists`]); what [`Store::commit`] says.
    pub fn hold(&mut self, names: &[&str], tag: &str, now: u64) -> Result<(), EditError> {
        if tag.is_empty() || tag.len() > TAG_MAX {
            return Err(EditError::Invalid("a tag has 1 to 255 bytes"));
        }
        self.transact(now, |store| {
            for name in names {
                let snapshot = store.find_snapshot(name)?;
                let table = store.table_of(snapshot, ds::HOLDS, HOLDS)?;
                if store.number_in(table, tag)?.is_some() {
                    return Err(EditError::Exists);
                }
                store.set_number(table, tag, now)?;
            }
            Ok(())
        })
    }

    /// Releases holds, all or none. A snapshot that waits to be destroyed goes with its last.
    ///
    /// # Errors
    /// Not found; what [`Store::commit`] says.
    pub fn release(&mut self, names: &[&str], tag: &str, now: u64) -> Result<(), EditError> {
        self.transact(now, |store| {
            for name in names {
                let snapshot = store.find_snapshot(name)?;
                let table = store.peek(snapshot, ds::HOLDS)?;
                if table == 0 || !store.remove_name(table, tag)? {
                    return Err(Error::NotFound.into());
                }
                if store.entries_of(table)?.is_empty() {
                    put(store.ds_words(snapshot)?, ds::HOLDS, 0);
                    store.free_object(table)?;
                }
                store.settle_deferred(snapshot)?;
            }
            Ok(())
        })
    }

    /// Makes a bookmark `dataset#name` of a snapshot of that dataset.
    ///
    /// # Errors
    /// Not found, the name is taken or no name, of another dataset, the pool has no bookmarks; what [`Store::commit`] says.
    pub fn bookmark(&mut self, snapshot: &str, bookmark: &str, now: u64) -> Result<(), EditError> {
        let (dataset, name) = split_name(bookmark, '#')?;
        check_part(name)?;
        check_length(bookmark)?;
        if split_name(snapshot, '@')?.0 != dataset {
            return Err(EditError::Invalid("a bookmark is in the dataset of its snapshot"));
        }
        self.transact(now, |store| {
            let (head, from) = (
                store.find(dataset)?,
                store.peek_bonus(store.find_snapshot(snapshot)?)?,
            );
            let value = vec![
                word(&from, ds::GUID),
                word(&from, ds::CREATED_TXG),
                word(&from, ds::CREATED),
            ];
            let table = match store.bookmark_table(head)? {
                Some(table) => table,
                None => {
                    store.count_feature(&BOOKMARKS, 1)?;
                    let table = store.mos.allocate(&store.pool, ZAP_METADATA, 512, 0, Vec::new())?;
                    // Names hash folded to upper case, as those of snapshots.
                    store.table_at(table, 2)?;
                    store.set_extra(head, BOOKMARKS_FIELD, &Value::Number(table))?;
                    table
                }
            };
            if store.entries_of(table)?.iter().any(|entry| entry.name == name.as_bytes()) {
                return Err(EditError::Exists);
            }
            zap::set(store.mos.edit(&store.pool, table)?, &store.pool, Entry { name: name.as_bytes().to_vec(), integer_size: 8, value })
        })
    }

    /// Destroys a bookmark.
    ///
    /// # Errors
    /// Not found; what [`Store::commit`] says.
    pub fn destroy_bookmark(&mut self, bookmark: &str, now: u64) -> Result<(), EditError> {
        let (dataset, name) = split_name(bookmark, '#')?;
        self.transact(now, |store| {
            let head = store.find(dataset)?;
            let table = store.bookmark_table(head)?.ok_or(Error::NotFound)?;
            if !store.remove_name(table, name)? {
                return Err(Error::NotFound.into());
            }
            if store.entries_of(table)?.is_empty() { store.drop_bookmarks(head) } else { Ok(()) }
        })
    }

    /// The bookmarks of a dataset go, all of them.
    pub(crate) fn drop_bookmarks(&mut self, head: u64) -> Result<(), EditError> {
        let Some(table) = self.bookmark_table(head)? else {
            return Ok(());
        };
        self.free_object(table)?;
        self.remove_name(head, BOOKMARKS_FIELD)?;
        self.count_feature(&BOOKMARKS, -1)
    }

    /// The table of a head's bookmarks.
    pub(crate) fn bookmark_table(&self, head: u64) -> Result<Option<u64>, EditError> {
        Ok(self
            .extra(head, BOOKMARKS_FIELD)?
            .and_then(|entry| entry.number()))
    }

    fn is_zapified(&self, object: u64) -> Result<bool, EditError> {
        self.mos.with_view(&self.pool, object, |edit| Ok(edit.dnode.kind == ZAP_METADATA))
    }

    /// Lets a directory or dataset have extra fields.
    ///
    /// # Errors
    /// The pool does not have the feature.
    pub fn zapify(&mut self, object: u64) -> Result<(), EditError> {
        if self.is_zapified(object)? {
            return Ok(());
        }
        self.count_feature(&EXTENSIBLE_DATASET, 1)?;
        self.mos.edit(&self.pool, object)?.dnode.kind = ZAP_METADATA;
        self.table_at(object, 0)
    }

    /// Frees a directory or dataset that may have extra fields.
    pub(crate) fn free_zapified(&mut self, object: u64) -> Result<(), EditError> {
        if self.is_zapified(object)? {
            self.drop_marks(object)?;
            self.count_feature(&EXTENSIBLE_DATASET, -1)?;
        }
        self.free_object(object)
    }

    /// An extra field of a directory or dataset.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn extra(&self, object: u64, name: &str) -> Result<Option<Entry>, EditError> {
        if self.is_zapified(object)? { Ok(self.one(object, name)?) } else { Ok(None) }
    }

    /// Sets an extra field of a directory or dataset, with the open txg.
    ///
    /// # Errors
    /// The pool does not have the feature; a value that is neither number, text nor bytes.
    pub fn set_extra(&mut self, object: u64, name: &str, value: &Value) -> Result<(), EditError> {
        self.zapify(object)?;
        let (integer_size, value) = match value {
            Value::Number(number) => (8, vec![*number]),
            Value::Text(text) => (1, text.bytes().chain([0]).map(u64::from).collect()),
            Value::Bytes(bytes) => (1, bytes.iter().copied().map(u64::from).collect()),
            _ => return Err(EditError::Invalid("a field is a number, a text or bytes")),
        };
        zap::set(self.mos.edit(&self.pool, object)?, &self.pool, Entry { name: name.as_bytes().to_vec(), integer_size, value })
    }

    /// Removes an extra field, with the open txg; tells whether it was there.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn remove_extra(&mut self, object: u64, name: &str) -> Result<bool, EditError> {
        if self.is_zapified(object)? { self.remove_name(object, name) } else { Ok(false) }
    }

    /// Marks a dataset as half received, or whole, with the open txg.
    ///
    /// # Errors
    /// Not a dataset.
    pub fn set_inconsistent(&mut self, dataset: u64, inconsistent: bool) -> Result<(), EditError> {
        let bonus = self.ds_words(dataset)?;
        let flags = word(bonus, ds::FLAGS) & !ds::INCONSISTENT;
        put(bonus, ds::FLAGS, flags | if inconsistent { ds::INCONSISTENT } else { 0 });
        Ok(())
    }

    /// True for a dataset that is half received.
    ///
    /// # Errors
    /// Not a dataset.
    pub fn is_inconsistent(&self, dataset: u64) -> Result<bool, EditError> {
        Ok(self.peek(dataset, ds::FLAGS)? & ds::INCONSISTENT != 0)
    }

    /// The snapshot with this guid: object number and full name.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn find_by_guid(&self, guid: u64) -> Result<Option<(u64, String)>, EditError> {
        for (_, directory) in self.tree_of(&self.name())? {
            for (_, snapshot) in self.snapshots_of(self.peek(directory, crate::dsl::dir::HEAD)?)? {
                if self.peek(snapshot, ds::GUID)? == guid {
                    return Ok(Some((snapshot, dataset_name(self, snapshot)?)));
                }
            }
        }
        Ok(None)
    }
}
