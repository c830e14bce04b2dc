//! What a file must offer to be mapped.

use alloc::string::String;

use kif::{Frame, ZoneId};

/// Why a page of a backing object cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackingError {
    /// The page lies wholly past the end of the object (SIGBUS).
    PastEnd,
    /// No memory for the page within the zone's cap.
    OutOfMemory,
    /// The medium did not deliver.
    Io,
    /// A signal came while the medium was waited for: the program sees to that first, and then faults again.
    Interrupted,
}

/// A source of pages: a file's page list, or the shared store of an anonymous shared mapping.
///
/// Called with the address-space lock held: an implementation may take only locks of class `Pages` and above, and must not
/// touch user memory.
pub trait Backing: Send + Sync {
    /// The frame that holds page `index` (offset / 4096). A hole may be answered with a zero page; with `write` the page is going
    /// to be stored to through a shared mapping, so the frame must be the object's own and count as modified. A page the object
    /// has to allocate is charged to `zone`.
    ///
    /// # Errors
    /// See [`BackingError`].
    fn page(&self, index: u64, zone: ZoneId, write: bool) -> Result<Frame, BackingError>;
    /// Makes durable what was stored through mappings. Called with no lock held.
    ///
    /// # Errors
    /// The medium did not take it, or there is no room for it ([`BackingError::Io`]).
    fn sync(&self) -> Result<(), BackingError> {
        Ok(())
    }
    /// The path shown in `/proc/PID/maps`, empty if none.
    fn name(&self) -> String;
    /// Device and inode numbers shown in `/proc/PID/maps`.
    fn identity(&self) -> (u64, u64);
}
