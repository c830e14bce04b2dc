//! Memory for translated code: one file in memory, mapped twice, writable here and executable there, so that no page is ever both.

use crate::Unavailable;
use std::ptr::NonNull;

/// Code bytes held; then everything starts over.
pub(crate) const ARENA_BYTES: usize = 32 << 20;

/// The two mappings.
#[derive(Debug)]
pub(crate) struct Arena {
    write: NonNull<u8>,
    run: NonNull<u8>,
    used: usize,
}

// SAFETY: the mappings belong to this value alone and are not tied to a thread.
unsafe impl Send for Arena {}

// SAFETY: `&Arena` gives out addresses only; writing takes `&mut`.
unsafe impl Sync for Arena {}

impl Arena {
    pub fn new() -> Result<Arena, Unavailable> {
        // SAFETY: the name is a C string; the flags are valid.
        let file = unsafe { libc::memfd_create(c"orrery-code".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(Unavailable::Memory);
        }
        let map = |protection: i32| -> Option<NonNull<u8>> {
            // SAFETY: a fresh mapping at an address the kernel chooses touches no memory of ours.
            let at = unsafe { libc::mmap(std::ptr::null_mut(), ARENA_BYTES, protection, libc::MAP_SHARED, file, 0) };
            if at == libc::MAP_FAILED { None } else { NonNull::new(at.cast()) }
        };
        // SAFETY: `file` is ours; the length is positive.
        let sized = unsafe { libc::ftruncate(file, ARENA_BYTES as libc::off_t) } == 0;
        let both = if sized { (map(libc::PROT_READ | libc::PROT_WRITE), map(libc::PROT_READ | libc::PROT_EXEC)) } else { (None, None) };
        // SAFETY: `file` is ours and not used again; mappings outlive it.
        unsafe { libc::close(file) };
        match both {
            (Some(write), Some(run)) => Ok(Arena { write, run, used: 0 }),
            (write, run) => {
                for at in [write, run].into_iter().flatten() {
                    // SAFETY: mapped above with this length, and nobody has a pointer into it.
                    unsafe { libc::munmap(at.as_ptr().cast(), ARENA_BYTES) };
                }
                Err(Unavailable::Memory)
            }
        }
    }

    /// Where the next code goes.
    pub fn next(&self) -> usize {
        self.used
    }

    /// The address code at `offset` runs at.
    pub fn address(&self, offset: usize) -> u64 {
        self.run.as_ptr() as u64 + offset as u64
    }

    /// Appends code; its offset, or `None` if there is no room.
    pub fn append(&mut self, code: &[u8]) -> Option<usize> {
        let at = self.used;
        if code.len() > ARENA_BYTES - at {
            return None;
        }
        self.put(at, code);
        self.used = (at + code.len()).next_multiple_of(16).min(ARENA_BYTES);
        Some(at)
    }

    /// Overwrites code. Only called while none of it runs.
    pub fn put(&mut self, at: usize, code: &[u8]) {
        assert!(at <= ARENA_BYTES && code.len() <= ARENA_BYTES - at, "code outside its arena");
        // SAFETY: the range was just checked to lie in the writable mapping, which nothing else points into.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.write.as_ptr().add(at), code.len()) };
    }

    /// Points the 4-byte relative jump field at `at` to `target`.
    pub fn patch(&mut self, at: usize, target: usize) {
        let relative = target as i64 - (at as i64 + 4);
        self.put(at, &(relative as i32).to_le_bytes());
    }

    /// Code bytes from `at`, for disassembly.
    pub fn bytes(&self, at: usize, len: usize) -> &[u8] {
        let len = len.min(ARENA_BYTES.saturating_sub(at));
        // SAFETY: in the mapping; `&self` keeps `put` away while the slice lives.
        unsafe { std::slice::from_raw_parts(self.write.as_ptr().add(at.min(ARENA_BYTES)), len) }
    }

    /// Forgets all code from `to` on.
    pub fn rewind(&mut self, to: usize) {
        self.used = to;
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for at in [self.write, self.run] {
            // SAFETY: both were mapped with this length and nothing uses them any more.
            unsafe { libc::munmap(at.as_ptr().cast(), ARENA_BYTES) };
        }
    }
}
