//! Extended attributes: changing them.
//!
//! An attribute is kept in the file's own attributes (`xattr=sa`: one packed list of all, in the bonus or the spill block) or as a file in a hidden directory
//! of the file (`xattr=on`). Both kinds are read; a name is in one of them only.

use alloc::string::String;
use alloc::vec::Vec;

use pool_dmu::edit::EditError;
use pool_dmu::zap_edit as zap;
use pool_phys::dnode::kind;
use pool_phys::nvlist::{self, List, Value};
use pool_phys::sa::Time;

use crate::volume::{Values, put, put_time, put_word, word};
use crate::write::{DIRECTORY, REGULAR, base_values};
use crate::{NewEntry, Writer, Xattr};

/// Longest value: what Linux passes.
pub const VALUE_MAX: usize = 64 << 10;
/// Longest name.
pub const NAME_MAX: usize = 255;
/// Longest packed list that goes into the file's own attributes; more goes into the directory.
const PACKED_MAX: usize = 32 << 10;
/// Entries of a hidden directory: more cannot be listed on Linux, whose lists have 64 KiB, and all go at once with the file.
const ENTRIES_MAX: u64 = 8 << 10;
/// Mark of objects that are extended attributes, in their flags.
const IS_XATTR: u64 = 1;
/// Mode of the hidden directory.
const DIRECTORY_MODE: u64 = 0o1777;
const FILE_MODE: u64 = 0o644;

/// Where a new attribute goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrStyle {
    /// The file's own attributes, where it fits (`xattr=sa`).
    Attributes,
    /// The hidden directory (`xattr=on`).
    Directory,
}

impl Writer<'_> {
    fn own(&mut self, name: &str) -> Result<u16, EditError> {
        self.volume().registry.number(name.as_bytes()).ok_or(EditError::Invalid("the file system has not registered all attributes; it can be read"))
    }

    /// The packed list of a file; empty if there is none.
    fn packed(&mut self, values: &Values) -> Result<(u16, List), EditError> {
        let number = self.own("ZPL_DXATTR")?;
        let list = match values.iter().find(|(known, _)| *known == number) {
            Some((_, bytes)) if !bytes.is_empty() => nvlist::parse(bytes)?,
            _ => List::default(),
        };
        Ok((number, list))
    }

    /// All extended attributes of an object, sorted by name.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn xattrs(&mut self, object: u64) -> Result<Vec<Xattr>, EditError> {
        let values = self.load(object)?;
        let (_, list) = self.packed(&values)?;
        let mut out: Vec<Xattr> = Vec::new();
        for (name, value) in list.pairs {
            if let Value::Bytes(bytes) = value {
                out.push((name.into_bytes(), bytes));
            }
        }
        let directory = self.directory(&values)?;
        if directory != 0 {
            for entry in self.read_dir(directory)? {
                let value = self.file(entry.object)?;
                out.push((entry.name, value));
            }
        }
        out.sort();
        Ok(out)
    }

    /// Names of all extended attributes of an object, sorted; `None` if they take more than `limit` bytes, each with a NUL: the rest is not looked at. No value is read but the
    /// packed list's.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn xattr_names(&mut self, object: u64, limit: usize) -> Result<Option<Vec<Vec<u8>>>, EditError> {
        /// Names looked up at once.
        const BATCH: usize = 128;
        let values = self.load(object)?;
        let (_, list) = self.packed(&values)?;
        let mut out: Vec<Vec<u8>> = list.pairs.into_iter().filter(|(_, value)| matches!(value, Value::Bytes(_))).map(|(name, _)| name.into_bytes()).collect();
        let mut length: usize = out.iter().map(|name| name.len() + 1).sum();
        let directory = self.directory(&values)?;
        let mut from = (directory != 0).then_some(0);
        while let Some(place) = from {
            let page = self.read_dir_from(directory, place, BATCH)?;
            length += page.entries.iter().map(|(_, entry)| entry.name.len() + 1).sum::<usize>();
            if length > limit {
                return Ok(None);
            }
            out.extend(page.entries.into_iter().map(|(_, entry)| entry.name));
            from = page.next;
        }
        out.sort();
        Ok((length <= limit).then_some(out))
    }

    /// One extended attribute.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn xattr(&mut self, object: u64, name: &[u8]) -> Result<Option<Vec<u8>>, EditError> {
        let values = self.load(object)?;
        let (_, mut list) = self.packed(&values)?;
        if let Ok(text) = core::str::from_utf8(name)
            && let Some(Value::Bytes(bytes)) = list.remove(text)
        {
            return Ok(Some(bytes));
        }
        match self.directory(&values)? {
            0 => Ok(None),
            directory => match self.lookup(directory, name)? {
                Some(file) => self.file(file).map(Some),
                None => Ok(None),
            },
        }
    }

    fn directory(&mut self, values: &Values) -> Result<u64, EditError> {
        Ok(word(values, self.own("ZPL_XATTR")?))
    }

    fn file(&mut self, object: u64) -> Result<Vec<u8>, EditError> {
        let size = self.stat(object)?.size;
        let size = usize::try_from(size).ok().filter(|size| *size <= VALUE_MAX).ok_or(EditError::Invalid("an extended attribute is too long"))?;
        let mut out = alloc::vec![0; size];
        self.read(object, 0, &mut out)?;
        Ok(out)
    }

    /// Sets or (with `None`) removes an extended attribute; tells whether there was one of this name.
    ///
    /// # Errors
    /// A name or value that is too long, no space, unreadable.
    pub fn set_xattr(&mut self, object: u64, name: &[u8], value: Option<&[u8]>, style: XattrStyle, now: Time) -> Result<bool, EditError> {
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&0) || value.is_some_and(|value| value.len() > VALUE_MAX) {
            return Err(EditError::Invalid("not an extended attribute: its name or value is too long"));
        }
        let dataset = self.volume().dataset();
        self.store().reserve_in(dataset, value.map_or(0, |value| value.len() as u64) + 4096, 4096)?;
        if let Some(value) = value {
            self.reserve_beside(object, value.len() as u64)?;
        }
        let mut values = self.load(object)?;
        let (number, mut list) = self.packed(&values)?;
        let text = core::str::from_utf8(name).ok().map(String::from);
        let mut there = text.as_deref().and_then(|text| list.remove(text)).is_some();
        let was_packed = there;
        let mut into_list = false;
        if let (Some(text), Some(value), XattrStyle::Attributes) = (text, value, style) {
            let mut larger = list.clone();
            larger.set(&text, Value::Bytes(value.to_vec()));
            if nvlist::encode(&larger).len() <= PACKED_MAX {
                (list, into_list) = (larger, true);
            }
        }
        if was_packed || into_list {
            if list.pairs.is_empty() {
                values.retain(|(known, _)| *known != number);
            } else {
                put(&mut values, number, &nvlist::encode(&list));
            }
        }
        let mut directory = self.directory(&values)?;
        if directory != 0 {
            match self.lookup(directory, name)? {
                Some(file) => {
                    there = true;
                    self.drop_entry(directory, name, file, now)?;
                }
                None if value.is_some() && !into_list && self.stat(directory)?.size >= ENTRIES_MAX => return Err(EditError::NoSpace),
                None => {}
            }
        }
        if let (Some(value), false) = (value, into_list) {
            if directory == 0 {
                directory = self.make_directory(object, &values, now)?;
                let attribute = self.own("ZPL_XATTR")?;
                put_word(&mut values, attribute, directory);
            }
            self.add_entry(directory, name, value, &values, now)?;
        }
        put_time(&mut values, self.volume().numbers.ctime, now);
        self.save(object, &values)?;
        // What OpenZFS logs of this we do not replay: a sync commits.
        self.log_unrecorded();
        Ok(there)
    }

    fn new_object(&mut self, mode: u64, parent: u64, size: u64, owner: &Values, now: Time) -> Result<u64, EditError> {
        let txg = self.store().txg();
        let numbers = self.volume().numbers;
        let is_directory = mode & DIRECTORY != 0;
        let new = NewEntry { mode, uid: word(owner, numbers.uid), gid: word(owner, numbers.gid), now };
        let mut values = base_values(&numbers, mode, size, if is_directory { 2 } else { 1 }, parent, txg, &new);
        let flags = word(&values, numbers.flags) | IS_XATTR;
        put_word(&mut values, numbers.flags, flags);
        let (set, pool, volume) = self.parts()?;
        let (bonus, _) = volume.arrange(set, pool, &values)?;
        let number = set.allocate(pool, if is_directory { kind::DIRECTORY } else { kind::FILE }, 512, kind::SYSTEM_ATTRIBUTES, bonus)?;
        if is_directory {
            zap::format(set.edit(pool, number)?, 0);
        }
        Ok(number)
    }

    fn make_directory(&mut self, object: u64, owner: &Values, now: Time) -> Result<u64, EditError> {
        self.new_object(DIRECTORY | DIRECTORY_MODE, object, 2, owner, now)
    }

    fn add_entry(&mut self, directory: u64, name: &[u8], value: &[u8], owner: &Values, now: Time) -> Result<(), EditError> {
        let file = self.new_object(REGULAR | FILE_MODE, directory, value.len() as u64, owner, now)?;
        let (set, pool, _) = self.parts()?;
        let edit = set.edit(pool, file)?;
        if !value.is_empty() {
            edit.dnode.block_size = (value.len() as u64).next_multiple_of(512);
            edit.write_at(pool, 0, value)?;
        }
        self.enter(directory, name, file, REGULAR, now)
    }

    fn drop_entry(&mut self, directory: u64, name: &[u8], file: u64, now: Time) -> Result<(), EditError> {
        self.leave(directory, name, REGULAR, now)?;
        let (set, pool, _) = self.parts()?;
        Ok(set.free(pool, file)?)
    }
}
