//! `zlogin`: enters a zone.

use std::os::unix::process::CommandExt;
use std::process::Command;

use control_abi::Operation;
use nv::NvList;

use crate::control::call;
use crate::usage::{self, Failure, Step};

pub const HELP: &str = "\
usage: zlogin [-n] [-l USER] ZONE [COMMAND [ARGUMENT...]]

Runs COMMAND in a running zone, with the zone's root, processes and limits; the exit status is that of COMMAND (126: it
cannot be executed, 127: it is not there). Without COMMAND: an interactive login shell.

  -n        standard input from /dev/null
  -l USER   log in as USER (interactive: by the zone's own login; default root)

examples:
  zlogin alpha ps
  zlogin alpha sh -c 'uname -n; id'
  tar c /etc | zlogin alpha tar x -C /tmp
  zlogin alpha
";

/// What a login in a zone starts from: nothing of the operator's own environment goes in, but for the terminal's type.
fn environment(zone: &str) -> Vec<(String, String)> {
    let mut all = vec![
        ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOME".to_owned(), "/root".to_owned()),
        ("USER".to_owned(), "root".to_owned()),
        ("LOGNAME".to_owned(), "root".to_owned()),
        ("SHELL".to_owned(), "/bin/sh".to_owned()),
        ("PS1".to_owned(), format!("{zone}:\\w# ")),
    ];
    if let Ok(term) = std::env::var("TERM") {
        all.push(("TERM".to_owned(), term));
    }
    all
}

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "nQSEl:e:")?;
    let user = steps.iter().find_map(|step| match step {
        Step::Value('l', user) => Some(user.as_str()),
        _ => None,
    });
    let Some((zone, command)) = operands.split_first() else {
        return Err(Failure::usage("which zone?"));
    };
    if zone == "global" {
        return Err(Failure::usage("you are in the global zone already"));
    }
    let mut process = match (command.split_first(), user) {
        (Some((program, arguments)), None | Some("root")) => {
            let mut process = Command::new(program);
            process.args(arguments);
            process
        }
        (Some(_), Some(user)) => {
            let mut process = Command::new("/bin/su");
            process.arg("-").arg(user).arg("-c").arg(command.join(" "));
            process
        }
        (None, None | Some("root")) => {
            let mut process = Command::new("/bin/sh");
            process.arg0("-sh");
            process
        }
        (None, Some(user)) => {
            let mut process = Command::new("/bin/su");
            process.arg("-").arg(user);
            process
        }
    };
    if steps.contains(&Step::Flag('n')) {
        process.stdin(std::process::Stdio::null());
    }
    process.env_clear().envs(environment(zone));
    // The environment's PATH is also how exec finds the program, in the zone's own root.
    call(Operation::ZoneEnter, &NvList::new().with("zone", zone.as_str())).map_err(|refused| {
        let hint = match refused.code {
            Some(control_abi::Code::NotFound) => format!("; boot it with: zoneadm -z {zone} boot"),
            _ => String::new(),
        };
        Failure::new(format!("{zone}: {}{hint}", refused.message))
    })?;
    // From here on this process belongs to the zone.
    let error = process.exec();
    let status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    let program = process.get_program().to_string_lossy().into_owned();
    Err(Failure { status, message: format!("{zone}: {program}: {error}") })
}
