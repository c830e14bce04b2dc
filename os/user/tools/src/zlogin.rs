//! `zlogin`: enters a zone.

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use control_abi::{Code, Operation};
use nv::NvList;

use crate::control::{Refused, call};
use crate::relay;
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

/// First argument of the inner half of an interactive login.
const INNER: &str = "--inner";

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
    if let Some((first, rest)) = arguments.split_first()
        && first == INNER
    {
        return inner(rest);
    }
    let (steps, operands) = usage::options(arguments, "nl:")?;
    let user = steps.iter().find_map(|step| match step {
        Step::Value('l', user) => Some(user.as_str()),
        Step::Value(..) | Step::Flag(_) => None,
    });
    let Some((zone, command)) = operands.split_first() else {
        return Err(Failure::usage("which zone?"));
    };
    if zone == "global" {
        return Err(Failure::usage("you are in the global zone already"));
    }
    let program = program(command, user);
    if command.is_empty() && std::io::stdin().is_terminal() {
        check(zone)?;
        let mut line = vec!["zlogin".to_owned(), INNER.to_owned(), zone.clone()];
        line.extend(program);
        return relay::outer(&line);
    }
    let mut process = Command::new(&program[0]);
    process.args(&program[1..]);
    if steps.contains(&Step::Flag('n')) {
        process.stdin(Stdio::null());
    }
    process.env_clear().envs(environment(zone));
    enter(zone)?;
    // From here on this process belongs to the zone. The environment's PATH is also how exec finds the program there.
    let error = process.exec();
    let status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    Err(Failure { status, message: format!("{zone}: {}: {error}", program[0]) })
}

/// What is run inside.
fn program(command: &[String], user: Option<&str>) -> Vec<String> {
    let words: Vec<&str> = match user {
        None | Some("root") if command.is_empty() => vec!["/bin/sh", "-l"],
        None | Some("root") => return command.to_vec(),
        Some(user) if command.is_empty() => vec!["/bin/su", "-", user],
        Some(user) => {
            let line = command.join(" ");
            return ["/bin/su", "-", user, "-c", &line].map(str::to_owned).to_vec();
        }
    };
    words.into_iter().map(str::to_owned).collect()
}

/// The inner half of an interactive login: ZONE PROGRAM... ROWS COLUMNS.
fn inner(arguments: &[String]) -> Result<u8, Failure> {
    let [zone, program @ .., rows, columns] = arguments else {
        return Err(Failure::usage(format!("{INNER} is for zlogin's own use")));
    };
    let number = |text: &String| text.parse::<u16>().map_err(|_| Failure::usage(format!("'{text}' is not a size")));
    let (rows, columns) = (number(rows)?, number(columns)?);
    enter(zone)?;
    relay::inner(program, environment(zone), rows, columns)
}

/// Fails early, before the terminal is changed, if the zone cannot be entered.
fn check(zone: &str) -> Result<(), Failure> {
    call(Operation::ZoneGet, &NvList::new().with("zone", zone)).map(|_| ()).map_err(|refused| explain(zone, refused))
}

fn enter(zone: &str) -> Result<(), Failure> {
    call(Operation::ZoneEnter, &NvList::new().with("zone", zone)).map(|_| ()).map_err(|refused| explain(zone, refused))
}

fn explain(zone: &str, refused: Refused) -> Failure {
    let hint = match refused.code {
        Some(Code::NotFound) => format!("; boot it with: zoneadm -z {zone} boot"),
        _ => String::new(),
    };
    Failure::new(format!("{zone}: {}{hint}", refused.message))
}
