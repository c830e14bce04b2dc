//! Descriptor tables.

use alloc::sync::Arc;
use alloc::vec::Vec;

use sync::{Class, Mutex};
use vfs::File;

use crate::{ProcError, Result};

/// Largest descriptor limit anybody can set (`fs.nr_open` is larger on Linux).
pub const FILES_MAX: u32 = 65_536;

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
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self { entries: Mutex::new(Class::Files, self.entries.lock().clone()) }
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
            entries.try_reserve(more).map_err(|_| ProcError::NoMemory)?;
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
    /// Takes out everything that does not survive exec.
    #[must_use]
    pub fn take_close_on_exec(&self) -> Vec<Arc<File>> {
        let mut entries = self.entries.lock();
        entries.iter_mut().filter_map(|slot| slot.take_if(|entry| entry.close_on_exec)).map(|entry| entry.file).collect()
    }
    /// Takes out (or, with `mark`, marks close-on-exec) the descriptors `first..=last`.
    #[must_use]
    pub fn take_range(&self, first: u32, last: u32, mark: bool) -> Vec<Arc<File>> {
        let mut entries = self.entries.lock();
        let mut taken = Vec::new();
        let limit = entries.len().min((last as usize).saturating_add(1));
        for slot in entries.iter_mut().take(limit).skip(first as usize) {
            if mark {
                if let Some(entry) = slot {
                    entry.close_on_exec = true;
                }
            } else if let Some(entry) = slot.take() {
                taken.push(entry.file);
            }
        }
        taken
    }
    /// Everything that is open: descriptor, file, close-on-exec.
    #[must_use]
    pub fn list(&self) -> Vec<(u32, Arc<File>, bool)> {
        let entries = self.entries.lock();
        (0..)
            .zip(entries.iter())
            .filter_map(|(fd, slot)| slot.as_ref().map(|entry| (fd, Arc::clone(&entry.file), entry.close_on_exec)))
            .collect()
    }
}
