//! The two things the user tools need that no safe library offers: the control ioctl and waiting for signals.
//!
//! # Theory
//! Ring crate: `unsafe` is confined to the calls below, each a few lines.
//!
//! # Limits
//! Signals 1 to 63.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use control_abi::{CALL, Call, Operation, VERSION};

/// Makes one control call; the reply replaces what is in `reply`, whose capacity is the room for it.
///
/// # Errors
/// What ioctl(2) answered: no reply was given.
pub fn control(device: &File, operation: Operation, request: &[u8], reply: &mut Vec<u8>) -> io::Result<()> {
    let room = reply.capacity();
    reply.clear();
    reply.resize(room, 0);
    let header = Call {
        version: VERSION,
        operation: operation as u32,
        in_addr: request.as_ptr() as u64,
        in_len: request.len() as u64,
        out_addr: reply.as_mut_ptr() as u64,
        out_len: reply.len() as u64,
    };
    let bytes = header.to_bytes();
    // SAFETY: (1) `bytes` outlives the call and is as long as CALL says. (2) The kernel reads `in_len` bytes of `request`, which is
    // borrowed for the call. (3) It writes at most `out_len` bytes to `reply`, which is borrowed exclusively.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::Ioctl::from(CALL), bytes.as_ptr()) };
    let length = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    reply.truncate(length);
    Ok(())
}

static CAUGHT: AtomicU64 = AtomicU64::new(0);

extern "C" fn note(signal: libc::c_int) {
    CAUGHT.fetch_or(1 << signal, Ordering::Relaxed);
}

/// Signals that are blocked but for the moments in [`Signals::wait`].
#[derive(Debug)]
pub struct Signals {
    set: Vec<libc::c_int>,
}

impl Signals {
    /// Blocks and catches `signals`. Programs started from now on inherit the mask unless they are started with
    /// [`Signals::unblock`] in between.
    ///
    /// # Errors
    /// The system refused.
    pub fn catch(signals: &[i32]) -> io::Result<Self> {
        for signal in signals {
            // SAFETY: (1) the structure is plain data, valid when zero. (2) The handler only touches an atomic.
            let result = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = note as extern "C" fn(libc::c_int) as usize;
                libc::sigaction(*signal, &raw const action, std::ptr::null_mut())
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let caught = Self { set: signals.to_vec() };
        caught.change(libc::SIG_BLOCK)?;
        Ok(caught)
    }

    /// Lets the signals through, for starting a program; [`Signals::block`] afterwards.
    ///
    /// # Errors
    /// The system refused.
    pub fn unblock(&self) -> io::Result<()> {
        self.change(libc::SIG_UNBLOCK)
    }

    /// Blocks the signals again.
    ///
    /// # Errors
    /// The system refused.
    pub fn block(&self) -> io::Result<()> {
        self.change(libc::SIG_BLOCK)
    }

    fn change(&self, how: libc::c_int) -> io::Result<()> {
        // SAFETY: (1) the set is plain data and initialised by sigemptyset. (2) All pointers are to locals.
        let result = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in &self.set {
                libc::sigaddset(&raw mut set, *signal);
            }
            libc::sigprocmask(how, &raw const set, std::ptr::null_mut())
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits until one of the signals has come since the last call; returns them as bits `1 << signal`.
    pub fn wait(&self) -> u64 {
        loop {
            let caught = CAUGHT.swap(0, Ordering::Relaxed);
            if caught != 0 {
                return caught;
            }
            // SAFETY: the empty set is plain data; sigsuspend returns after a handler ran.
            unsafe {
                let mut set: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut set);
                libc::sigsuspend(&raw const set);
            }
        }
    }
}
