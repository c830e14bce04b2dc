//! Segments: ranges of an address space with one set of attributes.

use alloc::string::String;
use alloc::sync::Arc;

use crate::Backing;

/// What a program may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Protection {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
}

impl Protection {
    /// No access.
    pub const NONE: Self = Self { read: false, write: false, execute: false };
    /// Read only.
    pub const R: Self = Self { read: true, write: false, execute: false };
    /// Read and write.
    pub const RW: Self = Self { read: true, write: true, execute: false };
    /// Read and execute.
    pub const RX: Self = Self { read: true, write: false, execute: true };

    /// True if any access is allowed (on x86 every mapped page is readable).
    #[must_use]
    pub const fn any(self) -> bool {
        self.read || self.write || self.execute
    }
    /// True if an access of this kind is allowed.
    #[must_use]
    pub const fn allows(self, write: bool, execute: bool) -> bool {
        if execute {
            self.execute
        } else if write {
            self.write
        } else {
            self.any()
        }
    }
}

/// Label of a segment in `/proc/PID/maps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Label {
    #[default]
    None,
    Heap,
    Stack,
}

/// A file or shared object behind a mapping.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "holds a trait object")]
pub struct Object {
    pub backing: Arc<dyn Backing>,
    /// Offset of the first byte of the mapping, in pages.
    pub first_page: u64,
}

/// One range `[start, end)`; `start` is its key in the address space.
#[derive(Clone)]
pub(crate) struct Segment {
    pub end: u64,
    pub protection: Protection,
    /// Stores reach the object and everyone who maps it.
    pub shared: bool,
    /// May be made writable (a shared mapping of a file opened for reading may not).
    pub may_write: bool,
    pub grows_down: bool,
    pub dont_fork: bool,
    pub wipe_on_fork: bool,
    pub label: Label,
    pub object: Option<Object>,
}

impl Segment {
    /// The part that begins `pages` after the start.
    pub(crate) fn tail(&self, pages: u64) -> Self {
        let mut tail = self.clone();
        if let Some(object) = &mut tail.object {
            object.first_page += pages;
        }
        tail
    }

    /// True if `next`, which begins where this one of `pages` pages ends, continues it.
    pub(crate) fn continues_with(&self, pages: u64, next: &Self) -> bool {
        let objects = match (&self.object, &next.object) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(&a.backing, &b.backing) && a.first_page + pages == b.first_page,
            (None, Some(_)) | (Some(_), None) => false,
        };
        objects
            && self.protection == next.protection
            && self.shared == next.shared
            && self.may_write == next.may_write
            && !self.grows_down
            && !next.grows_down
            && self.dont_fork == next.dont_fork
            && self.wipe_on_fork == next.wipe_on_fork
            && self.label == next.label
    }
}

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pub start: u64,
    pub end: u64,
    pub protection: Protection,
    pub shared: bool,
    /// Byte offset in the file.
    pub offset: u64,
    pub device: u64,
    pub inode: u64,
    /// Path, `[heap]`, `[stack]` or empty.
    pub name: String,
    /// Pages held in the range.
    pub resident: u64,
}
