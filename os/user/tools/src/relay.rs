//! An interactive login: a terminal outside, a pseudo terminal inside the zone, bytes in between.
//!
//! # Theory
//! A tenant must never hold a descriptor of the operator's terminal: with one it could type on it (TIOCSTI). So two
//! processes share the work. The *outer* one keeps the terminal and knows nothing of the zone; the *inner* one enters the zone with
//! nothing but two pipes, opens a pseudo terminal there and starts the shell on it.
//!
//! ```text
//! terminal <-> outer (global zone) <== pipes ==> inner (zone) <-> /dev/ptmx | /dev/pts/N <-> shell
//! ```
//!
//! # Failure
//! Either end closing ends the other: the shell sees a hang-up, the operator gets the terminal back in its old mode.
//!
//! # Limits
//! The window size is that at the start; a later change is not passed on.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::usage::Failure;

/// This program as it shows inside every zone.
const INNER_TOOLS: &str = "/sbin/zinit";

/// Runs the outer half: `inner` is the command line of the inner half (this program's arguments). Returns its exit status.
pub fn outer(inner: &[String]) -> Result<u8, Failure> {
    let terminal = rustix::stdio::stdin();
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure::new(format!("{what}: {error}"));
    let saved = tcgetattr(terminal).map_err(|error| failed("terminal", &error))?;
    let size = tcgetwinsize(terminal).unwrap_or(Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 });
    let (from_inner, inner_out) = io::pipe().map_err(|error| failed("pipe", &error))?;
    let inner_errors = inner_out.try_clone().map_err(|error| failed("pipe", &error))?;
    let program = std::env::current_exe().map_err(|error| failed("/proc/self/exe", &error))?;
    let mut command = Command::new(program);
    command.arg0("tools").args(inner).args([size.ws_row.to_string(), size.ws_col.to_string()]);
    command.stdin(Stdio::piped()).stdout(inner_out).stderr(inner_errors);
    let mut child = command.spawn().map_err(|error| failed("zlogin", &error))?;
    // The command holds the writing ends of the pipe; they must go for the end of file to come.
    drop(command);
    let to_inner = child.stdin.take().expect("asked for a pipe");
    let mut raw = saved.clone();
    raw.make_raw();
    tcsetattr(terminal, OptionalActions::Now, &raw).map_err(|error| failed("terminal", &error))?;
    std::thread::spawn(move || type_into(to_inner));
    let copied = copy(from_inner, io::stdout());
    let restored = tcsetattr(terminal, OptionalActions::Now, &saved);
    let status = child.wait().map_err(|error| failed("zlogin", &error))?;
    copied.map_err(|error| failed("zone", &error))?;
    restored.map_err(|error| failed("terminal", &error))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Passes keys on. `~.` at the start of a line leaves.
fn type_into(mut to: impl Write) {
    let mut escape = Escape::default();
    let mut buffer = [0; 256];
    loop {
        let Ok(count @ 1..) = io::stdin().lock().read(&mut buffer) else { return };
        let (keys, leave) = escape.filter(&buffer[..count]);
        if to.write_all(&keys).and_then(|()| to.flush()).is_err() || leave {
            return;
        }
    }
}

/// Finds `~.` at the start of a line.
#[derive(Debug, Default)]
struct Escape {
    /// Something was typed since the start of the line.
    in_line: bool,
    tilde: bool,
}

impl Escape {
    /// What to pass on, and whether to leave.
    fn filter(&mut self, keys: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        for key in keys {
            if self.tilde {
                self.tilde = false;
                if *key == b'.' {
                    return (out, true);
                }
                out.push(b'~');
            } else if *key == b'~' && !self.in_line {
                self.tilde = true;
                self.in_line = true;
                continue;
            }
            out.push(*key);
            self.in_line = !matches!(*key, b'\r' | b'\n' | 3 | 4);
        }
        (out, false)
    }
}

/// Runs the inner half, in the zone already: a shell (`program`) on a new pseudo terminal, relayed over standard input and output.
pub fn inner(program: &[String], environment: Vec<(String, String)>, rows: u16, columns: u16) -> Result<u8, Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure::new(format!("{what}: {error}"));
    let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map_err(|error| failed("/dev/ptmx", &error))?;
    grantpt(&master).and_then(|()| unlockpt(&master)).map_err(|error| failed("/dev/ptmx", &error))?;
    let slave = ptsname(&master, Vec::new()).map_err(|error| failed("/dev/pts", &error))?;
    let slave = slave.to_string_lossy().into_owned();
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, size).map_err(|error| failed(&slave, &error))?;
    let mut command = Command::new(INNER_TOOLS);
    command.arg0("tools").arg("session").arg(&slave).args(program);
    command.env_clear().envs(environment);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| failed(INNER_TOOLS, &error))?;
    let master = File::from(master);
    let keys = master.try_clone().map_err(|error| failed("/dev/ptmx", &error))?;
    std::thread::spawn(move || {
        // However this ends, the operator is gone; ending this process hangs the terminal up.
        let status = i32::from(copy(io::stdin(), keys).is_err());
        std::process::exit(status);
    });
    match copy(master, io::stdout()) {
        // A pseudo terminal whose last user is gone reads as an error: the normal end.
        Ok(()) | Err(_) => {}
    }
    let status = child.wait().map_err(|error| failed("shell", &error))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Copies until the end of file, without holding anything back.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(parts: &[&str]) -> (String, bool) {
        let mut escape = Escape::default();
        let mut all = Vec::new();
        for part in parts {
            let (out, leave) = escape.filter(part.as_bytes());
            all.extend(out);
            if leave {
                return (String::from_utf8(all).expect("ASCII"), true);
            }
        }
        (String::from_utf8(all).expect("ASCII"), false)
    }

    #[test]
    fn tilde_dot_leaves_only_at_the_start_of_a_line() {
        assert_eq!(typed(&["~."]), (String::new(), true));
        assert_eq!(typed(&["ls\r~", "."]), ("ls\r".to_owned(), true));
        assert_eq!(typed(&["a~.b\r"]), ("a~.b\r".to_owned(), false));
        assert_eq!(typed(&["~x\r~~\r"]), ("~x\r~~\r".to_owned(), false));
    }
}
