//! The serial line: a raw terminal, or a pair of pipes.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;

/// The two directions of the line.
#[derive(Debug)]
pub struct Line {
    input: File,
    output: File,
}

impl Line {
    /// Opens a terminal raw; `-` is standard input and output as they are.
    pub fn open(device: &str) -> Result<Self> {
        if device == "-" {
            let input = duplicate(0)?;
            make_raw_if_terminal(input.as_raw_fd())?;
            return Ok(Self { input: input.into(), output: duplicate(1)?.into() });
        }
        let input = std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(device)?;
        make_raw_if_terminal(input.as_raw_fd())?;
        Ok(Self { output: input.try_clone()?, input })
    }

    /// What has come in; `None` if the line hung up. Call when `poll` said so.
    pub fn read(&mut self) -> Result<Option<Vec<u8>>> {
        let mut buffer = [0; 4096];
        match self.input.read(&mut buffer) {
            Ok(0) => Ok(None),
            Ok(count) => Ok(Some(buffer[..count].to_vec())),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => Ok(Some(Vec::new())),
            // A pty whose other end closed.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts bytes on the line, waiting as long as it takes.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes)
    }
}

impl AsRawFd for Line {
    fn as_raw_fd(&self) -> RawFd {
        self.input.as_raw_fd()
    }
}

fn duplicate(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: dup takes any number; it touches no memory of ours.
    let copy = unsafe { libc::dup(fd) };
    if copy < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: `copy` was just opened by dup and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// No echo, no signals, no translation, 8 bits: bytes as they come. The speed stays what the kernel chose.
fn make_raw_if_terminal(fd: RawFd) -> Result<()> {
    let mut settings = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: `settings` is writable and of the type tcgetattr fills.
    if unsafe { libc::tcgetattr(fd, settings.as_mut_ptr()) } != 0 {
        // Not a terminal: a pipe is raw already.
        return Ok(());
    }
    // SAFETY: tcgetattr succeeded, and a zeroed termios was valid before.
    let mut settings = unsafe { settings.assume_init() };
    // SAFETY: `settings` is a valid termios.
    unsafe { libc::cfmakeraw(&raw mut settings) };
    // SAFETY: `settings` is a valid termios, only read.
    if unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const settings) } != 0 {
        return Err(Error::last_os_error());
    }
    Ok(())
}

/// Waits for any of `wanted`. An interrupting signal is not an error: nothing is ready then.
pub fn poll(wanted: &mut [libc::pollfd], timeout_ms: i32) -> Result<()> {
    let count = libc::nfds_t::try_from(wanted.len()).map_err(Error::other)?;
    // SAFETY: pointer and count describe the slice, which outlives the call.
    if unsafe { libc::poll(wanted.as_mut_ptr(), count, timeout_ms) } < 0 {
        let error = Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
        for entry in wanted {
            entry.revents = 0;
        }
    }
    Ok(())
}

/// Sends a signal to a process group.
pub fn kill_group(group: u32, signal: i32) -> Result<()> {
    let group = i32::try_from(group).map_err(Error::other)?;
    // SAFETY: kill touches no memory of ours.
    if unsafe { libc::kill(-group, signal) } != 0 {
        return Err(Error::last_os_error());
    }
    Ok(())
}

/// Makes writes to `fd` return instead of waiting.
pub fn set_nonblocking(fd: RawFd) -> Result<()> {
    // SAFETY: fcntl with F_GETFL touches no memory of ours.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: fcntl with F_SETFL touches no memory of ours.
    if unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(Error::last_os_error());
    }
    Ok(())
}
