//! `session`: runs a program as the leader of a new session on a terminal.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::usage::Failure;

pub const HELP: &str = "\
usage: session TERMINAL PROGRAM [ARGUMENT...]

Runs PROGRAM in a session of its own with TERMINAL as controlling terminal and as standard input, output and error
(`-` as TERMINAL: a session without terminal, descriptors unchanged).

example:
  session /dev/ttyS0 /bin/sh -l
";

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let [terminal, program, rest @ ..] = arguments else {
        return Err(Failure::usage("give a terminal and a program"));
    };
    rustix::process::setsid().map_err(|error| Failure::new(format!("setsid: {error}")))?;
    let mut command = Command::new(program);
    command.args(rest);
    if terminal != "-" {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{terminal}: {error}"));
        let flags = rustix::fs::OFlags::NOCTTY.bits();
        let flags = i32::try_from(flags).map_err(|error| failed(&error))?;
        let tty = OpenOptions::new().read(true).write(true).custom_flags(flags).open(terminal).map_err(|error| failed(&error))?;
        rustix::process::ioctl_tiocsctty(&tty).map_err(|error| failed(&error))?;
        let copy = || tty.try_clone().map_err(|error| failed(&error));
        command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
    }
    let error = command.exec();
    Err(Failure::new(format!("{program}: {error}")))
}
