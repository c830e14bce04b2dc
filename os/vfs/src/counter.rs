//! Event counters (`eventfd(2)`).
//!
//! # Locking
//! `Class::Pipe` (spin) around the count.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use sync::{Class, SpinLock};

use crate::file::{File, OpenFlags};
use crate::mount::ANONYMOUS_FS;
use crate::poll::{Pollee, Ready};
use crate::vnode::{Attr, Io, Kind, NodeId, Vnode};
use crate::{Result, VfsError};

/// Inode numbers of counters begin here, to tell them from pipes and epoll objects.
const FIRST_INO: u64 = 2 << 32;
/// The largest count.
const MOST: u64 = u64::MAX - 1;

struct Counter {
    id: NodeId,
    /// A read takes one, not all.
    semaphore: bool,
    count: SpinLock<u64>,
    pollee: Pollee,
}

/// Makes a counter. `flags` may hold `NONBLOCK`.
#[must_use]
pub fn new(initial: u64, semaphore: bool, flags: OpenFlags) -> Arc<File> {
    static NEXT: AtomicU64 = AtomicU64::new(FIRST_INO);
    let id = NodeId { fs: ANONYMOUS_FS, ino: NEXT.fetch_add(1, Ordering::Relaxed) };
    let count = SpinLock::new(Class::Pipe, initial.min(MOST));
    let flags = flags & OpenFlags::NONBLOCK | OpenFlags::READ | OpenFlags::WRITE;
    File::anonymous(Arc::new(Counter { id, semaphore, count, pollee: Pollee::new() }), flags)
}

impl Vnode for Counter {
    fn id(&self) -> NodeId {
        self.id
    }
    fn kind(&self) -> Kind {
        Kind::Anonymous
    }
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::simple(self.id, Kind::Anonymous, 0o600))
    }
    fn needs_memory(&self) -> bool {
        false
    }
    fn read_at(&self, _offset: u64, out: &mut [u8], io: Io) -> Result<usize> {
        let out = out.get_mut(..8).ok_or(VfsError::Invalid)?;
        let taken = self.pollee.block(io.nonblock, || {
            let mut count = self.count.lock();
            let taken = if self.semaphore { (*count).min(1) } else { *count };
            *count -= taken;
            if taken == 0 { Err(VfsError::WouldBlock) } else { Ok(taken) }
        })?;
        self.pollee.notify();
        out.copy_from_slice(&taken.to_le_bytes());
        Ok(8)
    }
    fn write_at(&self, _offset: u64, data: &[u8], io: Io) -> Result<usize> {
        let bytes = data.get(..8).and_then(|bytes| bytes.try_into().ok()).ok_or(VfsError::Invalid)?;
        let more = u64::from_le_bytes(bytes);
        if more > MOST {
            return Err(VfsError::Invalid);
        }
        self.pollee.block(io.nonblock, || {
            let mut count = self.count.lock();
            *count = count.checked_add(more).filter(|sum| *sum <= MOST).ok_or(VfsError::WouldBlock)?;
            Ok(())
        })?;
        self.pollee.notify();
        Ok(8)
    }
    fn poll(&self) -> Ready {
        let count = *self.count.lock();
        let mut ready = Ready::empty();
        ready.set(Ready::IN | Ready::RDNORM, count > 0);
        ready.set(Ready::OUT | Ready::WRNORM, count < MOST);
        ready
    }
    fn pollee(&self) -> Option<&Pollee> {
        Some(&self.pollee)
    }
}
