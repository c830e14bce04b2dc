//! `init`, the first process of the machine, and `zinit`, the first process of a zone that brings none of its own.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::MountFlags;
use rustix::process::{WaitOptions, wait};
use user_sys::Signals;

use crate::index::{State, Store};
use crate::usage::Failure;
use crate::power;

pub const HELP: &str = "\
usage: init        (started by the kernel as the first process)

Mounts /proc, /dev and /tmp, sets the host name from /etc/hostname, boots zones with autoboot=true, starts the scenario agent if
the kernel's command line has agent=TTY, and keeps a shell on the console. Then it waits for ended processes.
SIGTERM restarts the machine, SIGUSR1 and SIGUSR2 stop it.
";

pub const ZINIT_HELP: &str = "\
usage: zinit [COMMAND [ARGUMENT...]]        (started by the kernel as the first process of a zone)

Runs /etc/rc of the zone if there is one, and COMMAND if given, then waits for ended processes.
SIGTERM, SIGUSR1 and SIGUSR2 end it, and with it the zone.
";

const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

const AGENT: &str = "/usr/lib/orrery/agent";
const TOOLS: &str = "/usr/lib/orrery/tools";
/// A service that ends this often within a minute is broken: it is started again only after a pause.
const QUICK_ENDS_MAX: u32 = 10;

/// The words of the kernel's command line that concern init.
#[derive(Debug, Default, PartialEq, Eq)]
struct Words {
    console: String,
    agent: Option<String>,
    quiet: bool,
}

impl Words {
    fn parse(line: &str) -> Self {
        let mut words = Self { console: "ttyS0".to_owned(), ..Self::default() };
        for word in line.split_whitespace() {
            match word.split_once('=') {
                _ if word == "--" => break,
                Some(("console", value)) => value.split(',').next().unwrap_or("ttyS0").clone_into(&mut words.console),
                Some(("agent", value)) => words.agent = Some(value.to_owned()),
                None if word == "quiet" => words.quiet = true,
                _ => {}
            }
        }
        words
    }
}

/// Something that is kept running.
struct Service {
    name: &'static str,
    command: Vec<String>,
    pid: Option<u32>,
    started: u64,
    quick_ends: u32,
}

/// Seconds since boot.
fn uptime() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0)
}

impl Service {
    fn new(name: &'static str, command: &[&str]) -> Self {
        Self { name, command: command.iter().map(|&word| word.to_owned()).collect(), pid: None, started: 0, quick_ends: 0 }
    }

    fn start(&mut self, signals: &Signals) {
        let now = uptime();
        self.quick_ends = if now < self.started + 60 { self.quick_ends + 1 } else { 0 };
        self.started = now;
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).envs(ENVIRONMENT);
        match spawn(&mut command, signals) {
            Ok(pid) => self.pid = Some(pid),
            Err(error) => say(&format!("{}: {}: {error}", self.name, self.command[0])),
        }
    }
}

/// Starts a program with the signal mask it expects. Its end is seen by the reaping loop.
fn spawn(command: &mut Command, signals: &Signals) -> io::Result<u32> {
    signals.unblock()?;
    let child = command.spawn();
    signals.block()?;
    child.map(|child| child.id())
}

/// A line on the console.
fn say(text: &str) {
    eprintln!("init: {text}");
}

/// Mounts a file system if something is not there yet; what the kernel has mounted already is no error.
fn mount(kind: &str, at: &str) {
    if let Err(error) = fs::create_dir_all(at) {
        say(&format!("{at}: {error}"));
    }
    match rustix::mount::mount(kind, at, kind, MountFlags::empty(), None) {
        Ok(()) | Err(rustix::io::Errno::BUSY) => {}
        Err(error) => say(&format!("cannot mount {kind} on {at}: {error}")),
    }
}

pub fn init(_arguments: &[String]) -> Result<u8, Failure> {
    let signals = Signals::catch(&[SIGCHLD, SIGTERM, SIGUSR1, SIGUSR2]).map_err(|error| Failure::new(format!("signals: {error}")))?;
    if !Path::new("/proc/self").exists() {
        mount("proc", "/proc");
    }
    if !Path::new("/dev/null").exists() {
        mount("devtmpfs", "/dev");
    }
    mount("tmpfs", "/tmp");
    let hostname = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let hostname = if hostname.trim().is_empty() { "orrery" } else { hostname.trim() };
    if let Err(error) = rustix::system::sethostname(hostname.as_bytes()) {
        say(&format!("host name: {error}"));
    }
    let words = Words::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());

    let mut services = Vec::new();
    if let Some(tty) = &words.agent {
        let terminal = format!("/dev/{tty}");
        services.push(Service::new("agent", &[TOOLS, "session", "-", AGENT, &terminal]));
    }
    let console = format!("/dev/{}", words.console);
    let console = if Path::new(&console).exists() { console } else { "/dev/console".to_owned() };
    services.push(Service::new("console", &[TOOLS, "session", &console, "/bin/sh", "-l"]));
    for service in &mut services {
        service.start(&signals);
    }
    autoboot(&signals);

    loop {
        let caught = signals.wait();
        let has = |signal: i32| caught & 1 << signal != 0;
        if has(SIGTERM) {
            return power::reboot(&[]);
        }
        if has(SIGUSR1) || has(SIGUSR2) {
            return power::poweroff(&[]);
        }
        for pid in reap() {
            let Some(service) = services.iter_mut().find(|service| service.pid == Some(pid)) else { continue };
            service.pid = None;
            if service.quick_ends == QUICK_ENDS_MAX {
                say(&format!("{} ends again and again; waiting a minute before the next try", service.name));
                // A helper sleeps, so that this process goes on reaping.
                let mut pause = Command::new(TOOLS);
                pause.args(["session", "-", "/bin/sleep", "60"]).stdin(Stdio::null());
                service.quick_ends = 0;
                service.started = 0;
                service.pid = spawn(&mut pause, &signals).ok();
                continue;
            }
            service.start(&signals);
        }
    }
}

/// What every service starts from.
const ENVIRONMENT: [(&str, &str); 7] = [
    ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LOGNAME", "root"),
    ("SHELL", "/bin/sh"),
    ("TERM", "vt100"),
    ("PS1", "\\h:\\w# "),
];

/// Boots the zones that ask for it, each in a process of its own so that one that hangs does not hold up the rest.
fn autoboot(signals: &Signals) {
    if !Path::new("/etc/zones/index").exists() {
        return;
    }
    let store = match Store::system() {
        Ok(store) => store,
        Err(failure) => return say(&failure.message),
    };
    let mut names = Vec::new();
    for entry in store.entries.iter().filter(|entry| entry.state == State::Installed) {
        match store.config(&entry.name) {
            Ok(config) if config.autoboot => names.push(config.name),
            Ok(_) => {}
            Err(failure) => say(&failure.message),
        }
    }
    drop(store);
    for name in names {
        if let Err(error) = spawn(Command::new(TOOLS).args(["zoneadm", "-z", &name, "boot"]).envs(ENVIRONMENT), signals) {
            say(&format!("zone {name}: {error}"));
        }
    }
}

/// Collects every ended process.
fn reap() -> Vec<u32> {
    let mut ended = Vec::new();
    while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
        ended.push(pid.as_raw_nonzero().get().unsigned_abs());
    }
    ended
}

pub fn zinit(arguments: &[String]) -> Result<u8, Failure> {
    let signals = Signals::catch(&[SIGCHLD, SIGTERM, SIGUSR1, SIGUSR2]).map_err(|error| Failure::new(format!("signals: {error}")))?;
    let rc = ["/etc/rc".to_owned()];
    let rc: &[String] = if Path::new(&rc[0]).exists() { &rc } else { &[] };
    for command in [rc, arguments] {
        if let Some((program, rest)) = command.split_first()
            && let Err(error) = spawn(Command::new(program).args(rest).stdin(Stdio::null()), &signals)
        {
            eprintln!("zinit: {program}: {error}");
        }
    }
    loop {
        let caught = signals.wait();
        if caught & (1 << SIGTERM | 1 << SIGUSR1 | 1 << SIGUSR2) != 0 {
            return Ok(0);
        }
        reap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read_up_to_the_dashes() {
        let words = Words::parse("console=ttyS0,115200 agent=ttyS1 quiet x=y -- agent=no");
        assert_eq!(words, Words { console: "ttyS0".to_owned(), agent: Some("ttyS1".to_owned()), quiet: true });
        assert_eq!(Words::parse("").console, "ttyS0");
    }
}
