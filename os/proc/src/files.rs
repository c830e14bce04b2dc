//! Descriptor tables.

use alloc::sync::Arc;
use alloc::vec::Vec;

use sync::{Class, Mutex};
use vfs::File;

use crate::{ProcError, Result};

/// Largest descriptor limit anybody can set (`fs.nr_open` is larger on Linux).
pub const FILES_MAX: u32 = 65_536;

/// Descriptors that are taken or looked at under one lock.
const BATCH: usize = 64;

#[derive(Clone)]
struct Entry {
    file: Arc<File>,
    close_on_exec: bool,
}

/// What descriptors refer to. Shared by the LWPs of a process.
///
/// Files that leave the table are handed out or dropped after the lock: a last close may block.
#[allow(missing_debug_implementations, reason = "printing would take the lock")]
pub struct FdTable {
    entries: Mutex<Vec<Option<Entry>>>,
}

impl Default for FdTable {
    fn default() -> Self {
        Self::new()
    }
}

impl FdTable {
    /// An empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Mutex::new(Class::Files, Vec::new()) }
    }
    /// A copy for a forked child: the same open files.
    ///
    /// # Errors
    /// [`ProcError::NoMemory`]: a program chooses how long the table is.
    pub fn duplicate(&self) -> Result<Self> {
        let entries = self.entries.lock();
        let mut copy = kif::vec_with_room(entries.len()).map_err(|kif::OutOfMemory| ProcError::NoMemory)?;
        copy.extend(entries.iter().cloned());
        drop(entries);
        Ok(Self { entries: Mutex::new(Class::Files, copy) })
    }
    /// The open file behind `fd`.
    ///
    /// # Errors
    /// [`ProcError::BadDescriptor`].
    pub fn get(&self, fd: u32) -> Result<Arc<File>> {
        let entries = self.entries.lock();
        let entry = entries.get(fd as usize).and_then(Option::as_ref).ok_or(ProcError::BadDescriptor)?;
        Ok(Arc::clone(&entry.file))
    }
    /// Puts `file` at the lowest free descriptor not below `from` and below `limit`.
    ///
    /// # Errors
    /// [`ProcError::TooManyFiles`].
    pub fn insert(&self, file: Arc<File>, close_on_exec: bool, from: u32, limit: u32) -> Result<u32> {
        let limit = limit.min(FILES_MAX);
        let mut entries = self.entries.lock();
        let mut fd = from as usize;
        while fd < entries.len() && entries[fd].is_some() {
            fd += 1;
        }
        let number = u32::try_from(fd).ok().filter(|fd| *fd < limit).ok_or(ProcError::TooManyFiles)?;
        Self::reach(&mut entries, fd)?;
        entries[fd] = Some(Entry { file, close_on_exec });
        Ok(number)
    }
    /// Puts `file` at exactly `fd`; returns what was there.
    ///
    /// # Errors
    /// [`ProcError::BadDescriptor`] beyond the limit.
    pub fn replace(&self, fd: u32, file: Arc<File>, close_on_exec: bool, limit: u32) -> Result<Option<Arc<File>>> {
        if fd >= limit.min(FILES_MAX) {
            return Err(ProcError::BadDescriptor);
        }
        let mut entries = self.entries.lock();
        Self::reach(&mut entries, fd as usize)?;
        let old = entries[fd as usize].replace(Entry { file, close_on_exec });
        Ok(old.map(|entry| entry.file))
    }
    fn reach(entries: &mut Vec<Option<Entry>>, fd: usize) -> Result<()> {
        if fd >= entries.len() {
            let more = fd + 1 - entries.len();
            kif::grow(entries, more).map_err(|kif::OutOfMemory| ProcError::NoMemory)?;
            entries.resize(fd + 1, None);
        }
        Ok(())
    }
    /// Takes a descriptor out.
    ///
    /// # Errors
    /// [`ProcError::BadDescriptor`].
    pub fn remove(&self, fd: u32) -> Result<Arc<File>> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(fd as usize).and_then(Option::take).ok_or(ProcError::BadDescriptor)?;
        Ok(entry.file)
    }
    /// The close-on-exec flag.
    ///
    /// # Errors
    /// [`ProcError::BadDescriptor`].
    pub fn close_on_exec(&self, fd: u32) -> Result<bool> {
        let entries = self.entries.lock();
        entries.get(fd as usize).and_then(Option::as_ref).map(|entry| entry.close_on_exec).ok_or(ProcError::BadDescriptor)
    }
    /// Sets the close-on-exec flag.
    ///
    /// # Errors
    /// [`ProcError::BadDescriptor`].
    pub fn set_close_on_exec(&self, fd: u32, on: bool) -> Result<()> {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(fd as usize).and_then(Option::as_mut).ok_or(ProcError::BadDescriptor)?;
        entry.close_on_exec = on;
        Ok(())
    }
    /// Closes everything that does not survive exec.
    pub fn close_for_exec(&self) {
        self.take(0, u32::MAX, |entry| entry.close_on_exec, drop);
    }
    /// Takes out the descriptors `first..=last`, and gives each file to `each` once the lock is released.
    pub fn take_range(&self, first: u32, last: u32, each: impl FnMut(Arc<File>)) {
        self.take(first, last, |_| true, each);
    }
    fn take(&self, first: u32, last: u32, wanted: impl Fn(&Entry) -> bool, mut each: impl FnMut(Arc<File>)) {
        let mut from = first as usize;
        loop {
            // In batches: a list of them all could be as long as the table.
            let mut batch: [Option<Entry>; BATCH] = [const { None }; BATCH];
            let mut room = batch.iter_mut();
            {
                let mut entries = self.entries.lock();
                let end = entries.len().min((last as usize).saturating_add(1));
                while from < end && room.len() > 0 {
                    if let Some(entry) = entries[from].take_if(|entry| wanted(entry))
                        && let Some(place) = room.next()
                    {
                        *place = Some(entry);
                    }
                    from += 1;
                }
            }
            let is_full = room.len() == 0;
            batch.into_iter().flatten().for_each(|entry| each(entry.file));
            if !is_full {
                return;
            }
        }
    }
    /// Marks the descriptors `first..=last` close-on-exec.
    pub fn mark_range(&self, first: u32, last: u32) {
        let mut entries = self.entries.lock();
        let end = entries.len().min((last as usize).saturating_add(1));
        entries.iter_mut().take(end).skip(first as usize).flatten().for_each(|entry| entry.close_on_exec = true);
    }
    /// Shows every open file to `each`, a batch at a time: what is opened or closed meanwhile may be missed.
    pub fn for_each(&self, mut each: impl FnMut(&File)) {
        let mut from = 0;
        loop {
            let mut batch: [Option<Arc<File>>; BATCH] = [const { None }; BATCH];
            {
                let entries = self.entries.lock();
                let mut room = batch.iter_mut();
                while from < entries.len() && room.len() > 0 {
                    if let Some(entry) = &entries[from]
                        && let Some(place) = room.next()
                    {
                        *place = Some(Arc::clone(&entry.file));
                    }
                    from += 1;
                }
            }
            let is_full = batch.iter().all(Option::is_some);
            batch.iter().flatten().for_each(|file| each(file));
            if !is_full {
                return;
            }
        }
    }
    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.lock().iter().flatten().count()
    }
    /// The descriptors that are open.
    ///
    /// # Errors
    /// [`ProcError::NoMemory`]: a program chooses how many there are.
    pub fn list(&self) -> Result<Vec<u32>> {
        let entries = self.entries.lock();
        let mut list = kif::vec_with_room(entries.iter().flatten().count()).map_err(|kif::OutOfMemory| ProcError::NoMemory)?;
        list.extend((0..).zip(entries.iter()).filter(|(_, slot)| slot.is_some()).map(|(fd, _)| fd));
        Ok(list)
    }
}
