//! The system tools: one program with many names.
//!
//! # Theory
//! Linked as `zoneadm`, `zlogin`, `kstat`, ... the program is that tool; called as `tools NAME ARGS` it is `NAME`. A tool is a
//! row of [`TOOLS`] and a module. Tools parse their arguments, ask the kernel through the control device (module
//! `control`) and print: readable by default, a stable form for programs with `-p` or `-j`.
//!
//! # Structures
//! Zone configuration (modules `config`, `index`) is files in the global zone: `/etc/zones/NAME.xml` in the layout of
//! illumos' zonecfg(8) and a line in `/etc/zones/index`. Both are replaced atomically under one lock. These modules, `rctl_value` and the
//! command language of zonecfg are plain functions over text, tested on the host.
//!
//! # Failure
//! A tool prints `NAME: what went wrong` on standard error, with what to do where that is known. Exit status: 0 done, 1
//! failed, 2 wrong usage (kstat: also 3).
//!
//! # Limits
//! Configuration knows the properties this system acts on, and refuses others by name rather than store what would be ignored.

pub mod bytes;
mod clones;
mod config;
mod control;
mod copy;
mod failnth;
pub mod index;
mod init;
mod iostat;
pub mod kstat;
mod power;
pub mod prctl;
mod prstat;
mod psrinfo;
pub mod rctl_value;
mod relay;
mod session;
pub mod usage;
mod vfsstat;
mod zfs;
mod zlogin;
mod zoneadm;
pub mod zonecfg;
mod zonename;
mod zpool;

use std::io::Write;
use std::process::ExitCode;

use usage::Failure;

/// One tool.
struct Tool {
    name: &'static str,
    /// Shown by `--help`: synopsis, options, examples.
    help: &'static str,
    run: fn(&[String]) -> Result<u8, Failure>,
}

const TOOLS: &[Tool] = &[
    Tool { name: "init", help: init::HELP, run: init::init },
    Tool { name: "zinit", help: init::ZINIT_HELP, run: init::zinit },
    Tool { name: "session", help: session::HELP, run: session::run },
    Tool { name: "zoneadm", help: zoneadm::HELP, run: zoneadm::run },
    Tool { name: "zonecfg", help: zonecfg::HELP, run: zonecfg::run },
    Tool { name: "zlogin", help: zlogin::HELP, run: zlogin::run },
    Tool { name: "zonename", help: zonename::HELP, run: zonename::run },
    Tool { name: "prctl", help: prctl::HELP, run: prctl::run },
    Tool { name: "psrinfo", help: psrinfo::HELP, run: psrinfo::run },
    Tool { name: "prstat", help: prstat::HELP, run: prstat::run },
    Tool { name: "kstat", help: kstat::HELP, run: kstat::run },
    Tool { name: "failnth", help: failnth::HELP, run: failnth::run },
    Tool { name: "zpool", help: zpool::HELP, run: zpool::run },
    Tool { name: "vfsstat", help: vfsstat::VFS_HELP, run: vfsstat::vfs },
    Tool { name: "ziostat", help: vfsstat::ZIO_HELP, run: vfsstat::zio },
    Tool { name: "zfs", help: zfs::HELP, run: zfs::run },
    Tool { name: "poweroff", help: power::HELP, run: power::poweroff },
    Tool { name: "halt", help: power::HELP, run: power::poweroff },
    Tool { name: "reboot", help: power::HELP, run: power::reboot },
];

/// Runs the tool that the arguments name (the first one is the program's own name).
#[must_use]
pub fn run(arguments: &[String]) -> ExitCode {
    let own = arguments.first().map_or("", String::as_str).rsplit('/').next().unwrap_or("").trim_start_matches('-');
    let by_link = TOOLS.iter().find(|tool| tool.name == own).map(|tool| (tool, arguments.get(1..).unwrap_or(&[])));
    let by_argument = || {
        let name = arguments.get(1)?;
        TOOLS.iter().find(|tool| tool.name == name).map(|tool| (tool, &arguments[2..]))
    };
    let Some((tool, rest)) = by_link.or_else(by_argument) else {
        let names: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
        eprintln!("tools: call it by one of its names, or as: tools NAME [ARGUMENT...]\nnames: {}", names.join(" "));
        return ExitCode::from(2);
    };
    if rest.first().is_some_and(|first| first == "--help") {
        usage::print(tool.help);
        return ExitCode::SUCCESS;
    }
    let status = match (tool.run)(rest) {
        Ok(status) => status,
        Err(Failure { status, message }) => {
            if !message.is_empty() {
                eprintln!("{}: {message}", tool.name);
            }
            if status == 2 {
                eprintln!("try '{} --help'", tool.name);
            }
            status
        }
    };
    if std::io::stdout().flush().is_err() {
        return ExitCode::from(1);
    }
    ExitCode::from(status)
}
