//! The store behind an anonymous shared mapping (`MAP_SHARED | MAP_ANONYMOUS`).

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};

use kif::{Frame, ZoneId};
use sync::{Class, Mutex};

use crate::{Backing, BackingError};

/// Kernel memory one more page entry may take.
const ENTRY_BYTES: u64 = 128;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Zero-filled pages shared by everyone who maps them; freed with the last mapping.
#[allow(missing_debug_implementations, reason = "printing would take the lock")]
pub struct SharedAnonymous {
    number: u64,
    pages: Mutex<BTreeMap<u64, Frame>>,
}

impl Default for SharedAnonymous {
    fn default() -> Self {
        Self::new()
    }
}

impl SharedAnonymous {
    /// An object without pages.
    #[must_use]
    pub fn new() -> Self {
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed), pages: Mutex::new(Class::Pages, BTreeMap::new()) }
    }
}

impl Backing for SharedAnonymous {
    fn page(&self, index: u64, zone: ZoneId, _write: bool) -> Result<Frame, BackingError> {
        let mut pages = self.pages.lock();
        if let Some(frame) = pages.get(&index) {
            return Ok(frame.clone());
        }
        let reservation = kif::reserve(zone, ENTRY_BYTES).map_err(|kif::OutOfMemory| BackingError::OutOfMemory)?;
        let frame = Frame::allocate(zone).map_err(|kif::OutOfMemory| BackingError::OutOfMemory)?;
        pages.insert(index, frame.clone());
        drop(reservation);
        Ok(frame)
    }
    fn name(&self) -> String {
        String::from("/dev/zero (deleted)")
    }
    fn identity(&self) -> (u64, u64) {
        (0, self.number)
    }
}
