//! `zonecfg`: makes and changes zone configurations.

use std::fs;
use std::io::{BufRead, IsTerminal, Write};

use crate::config::{Attr, RCTLS, ZoneConfig, check_name, parse_bool};
use crate::index::{State, Store};
use crate::rctl_value::{self, Scale};
use crate::usage::{self, Failure, Step};

pub const HELP: &str = "\
usage: zonecfg -z ZONE [-f FILE | COMMAND [; COMMAND]...]

Makes or changes the configuration of a zone. Without FILE and COMMAND it asks for commands. What was
changed is stored by 'commit', or at the end if every command worked; a failing command stores nothing.

  create [-b]                     start a new configuration
  set PROPERTY=VALUE              zonepath autoboot bootargs brand hostname init tree
                                  cpu-shares cpu-cap max-processes max-lwps max-physical-memory zfs-io-priority
  clear PROPERTY                  back to its default
  add rctl | attr | capped-memory | capped-cpu   then: set ..., add value (...), end | cancel
  add dataset                     then: set name=POOL/NAME, end: the zone administers it, and all below it
  add device                      then: set match=/dev/zvol/POOL/VOLUME, end: the zone has this volume
  remove rctl|attr|dataset name=NAME | remove device match=PATH
  info, verify, commit, revert, exit, delete [-F], export [-f FILE], help

examples:
  zonecfg -z alpha 'create; set zonepath=/zones/alpha; set cpu-shares=300; set tree=/export/trees/busybox'
  zonecfg -z alpha 'add capped-memory; set physical=128m; end'
  zonecfg -z alpha 'add dataset; set name=tank/alpha; end'
  zonecfg -z alpha info
  zonecfg -z alpha export -f /tmp/alpha.cfg && zonecfg -z beta -f /tmp/alpha.cfg
  zonecfg -z alpha delete -F
";

/// A resource being added or changed.
#[derive(Debug, Clone)]
enum Scope {
    Global,
    Rctl { name: String, limit: Option<u64> },
    Attr(Attr),
    CappedMemory { physical: Option<u64> },
    CappedCpu { percent: Option<u64> },
    Dataset(String),
    Device(String),
}

/// What a command asks of the session beyond changing the configuration.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Nothing,
    Create,
    Info,
    Commit,
    Revert,
    Exit,
    Delete { force: bool },
    Export { file: Option<String> },
    Help,
    Verify,
}

/// Interprets commands over one configuration.
struct Interpreter<'a> {
    config: &'a mut ZoneConfig,
    scope: Scope,
}

/// Runs commands that only change the configuration.
///
/// # Errors
/// The first command that fails, with its line number.
pub fn run_script(config: &mut ZoneConfig, text: &str) -> Result<(), String> {
    let mut interpreter = Interpreter { config, scope: Scope::Global };
    for (line, command) in split(text)? {
        interpreter.command(&command).map_err(|error| format!("line {line}: {error}"))?;
    }
    interpreter.finish()
}

/// Splits a script into commands at newlines and semicolons outside quotes; drops comments and empty ones.
fn split(text: &str) -> Result<Vec<(usize, Vec<String>)>, String> {
    let mut commands = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut words: Vec<String> = Vec::new();
        let mut word: Option<String> = None;
        let mut quoted = false;
        let mut characters = line.chars();
        while let Some(c) = characters.next() {
            match c {
                '\\' if quoted => {
                    let escaped = characters.next().ok_or_else(|| format!("line {}: ends in a backslash", index + 1))?;
                    word.get_or_insert_default().push(escaped);
                }
                '"' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                c if quoted => word.get_or_insert_default().push(c),
                '#' if word.is_none() => break,
                ';' => {
                    words.extend(word.take());
                    commands.push((index + 1, std::mem::take(&mut words)));
                }
                c if c.is_whitespace() => words.extend(word.take()),
                c => word.get_or_insert_default().push(c),
            }
        }
        if quoted {
            return Err(format!("line {}: a quote is not closed", index + 1));
        }
        words.extend(word.take());
        commands.push((index + 1, words));
    }
    commands.retain(|(_, words)| !words.is_empty());
    Ok(commands)
}

impl Interpreter<'_> {
    fn finish(&self) -> Result<(), String> {
        match self.scope {
            Scope::Global => Ok(()),
            _ => Err("a resource is not complete: say 'end' to keep it or 'cancel' to drop it".to_owned()),
        }
    }

    fn command(&mut self, words: &[String]) -> Result<Request, String> {
        let (verb, rest) = words.split_first().expect("empty commands are dropped");
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        match (verb.as_str(), &self.scope) {
            ("set", _) => self.set(&rest.join(" ")).map(|()| Request::Nothing),
            ("info", _) => Ok(Request::Info),
            ("help", _) => Ok(Request::Help),
            ("cancel", Scope::Global) | ("end", Scope::Global) => Err(format!("'{verb}' belongs to a resource begun by 'add'")),
            ("cancel", _) => {
                self.scope = Scope::Global;
                Ok(Request::Nothing)
            }
            ("end", _) => self.end().map(|()| Request::Nothing),
            ("add", Scope::Rctl { .. }) if rest.first() == Some(&"value") => self.add_value(&rest[1..].join("")).map(|()| Request::Nothing),
            ("add", Scope::Global) => self.add(&rest).map(|()| Request::Nothing),
            ("create", Scope::Global) => Ok(Request::Create),
            ("clear", Scope::Global) => self.clear(rest.first().copied().unwrap_or("")).map(|()| Request::Nothing),
            ("remove", Scope::Global) => self.remove(&rest).map(|()| Request::Nothing),
            ("verify", Scope::Global) => Ok(Request::Verify),
            ("commit", Scope::Global) => Ok(Request::Commit),
            ("revert", Scope::Global) => Ok(Request::Revert),
            ("exit", Scope::Global) => Ok(Request::Exit),
            ("delete", Scope::Global) => Ok(Request::Delete { force: rest.contains(&"-F") }),
            ("export", Scope::Global) => match rest[..] {
                [] => Ok(Request::Export { file: None }),
                ["-f", file] => Ok(Request::Export { file: Some(file.to_owned()) }),
                _ => Err("usage: export [-f FILE]".to_owned()),
            },
            (_, Scope::Global) => Err(format!("unknown command '{verb}'; try help")),
            (_, _) => Err(format!("'{verb}' is not possible inside a resource; finish it with 'end' or 'cancel'")),
        }
    }

    fn set(&mut self, assignment: &str) -> Result<(), String> {
        let (name, value) = assignment.split_once('=').ok_or("usage: set PROPERTY=VALUE")?;
        let (name, value) = (name.trim(), value.trim());
        match &mut self.scope {
            Scope::Global => {}
            Scope::Rctl { name: rctl, .. } if name == "name" => {
                value.clone_into(rctl);
                return Ok(());
            }
            Scope::Attr(attr) => {
                match name {
                    "name" => value.clone_into(&mut attr.name),
                    "type" if matches!(value, "string" | "int" | "uint" | "boolean") => value.clone_into(&mut attr.kind),
                    "type" => return Err(format!("type '{value}' must be string, int, uint or boolean")),
                    "value" => value.clone_into(&mut attr.value),
                    _ => return Err(format!("an attr has no property '{name}'; it has name, type, value")),
                }
                return Ok(());
            }
            Scope::CappedMemory { physical } if name == "physical" => {
                *physical = Some(rctl_value::parse(value, Scale::Bytes)?);
                return Ok(());
            }
            Scope::CappedCpu { percent } if name == "ncpus" => {
                *percent = Some(parse_ncpus(value)?);
                return Ok(());
            }
            Scope::Dataset(dataset) if name == "name" => {
                value.clone_into(dataset);
                return Ok(());
            }
            Scope::Device(device) if name == "match" => {
                value.clone_into(device);
                return Ok(());
            }
            Scope::Rctl { .. } | Scope::CappedMemory { .. } | Scope::CappedCpu { .. } | Scope::Dataset(_) | Scope::Device(_) => {
                return Err(format!("this resource has no property '{name}'"));
            }
        }
        if let Some((rctl, _, scale)) = RCTLS.iter().find(|(_, short, _)| *short == name) {
            return self.config.set_rctl(rctl, rctl_value::parse(value, *scale)?);
        }
        match name {
            "zonepath" => value.clone_into(&mut self.config.zonepath),
            "brand" => value.clone_into(&mut self.config.brand),
            "autoboot" => self.config.autoboot = parse_bool(value)?,
            "bootargs" => value.clone_into(&mut self.config.bootargs),
            "hostname" => value.clone_into(&mut self.config.hostname),
            "init" => value.clone_into(&mut self.config.init),
            "tree" => value.clone_into(&mut self.config.tree),
            "zonename" => return Err("a zone cannot be renamed; export it, delete it and create it again".to_owned()),
            _ => {
                let rctls: Vec<&str> = RCTLS.iter().map(|(_, short, _)| *short).collect();
                return Err(format!(
                    "unknown property '{name}'; there are: zonepath brand autoboot bootargs hostname init tree {}",
                    rctls.join(" ")
                ));
            }
        }
        Ok(())
    }

    fn clear(&mut self, name: &str) -> Result<(), String> {
        if let Some((rctl, _, _)) = RCTLS.iter().find(|(_, short, _)| *short == name) {
            self.config.rctls.retain(|setting| setting.name != *rctl);
            return Ok(());
        }
        match name {
            "autoboot" => self.config.autoboot = false,
            "bootargs" => self.config.bootargs.clear(),
            "hostname" => self.config.hostname.clear(),
            "init" => self.config.init.clear(),
            "tree" => self.config.tree.clear(),
            _ => return Err(format!("property '{name}' cannot be cleared")),
        }
        Ok(())
    }

    fn add(&mut self, rest: &[&str]) -> Result<(), String> {
        self.scope = match rest {
            ["rctl"] => Scope::Rctl { name: String::new(), limit: None },
            ["attr"] => Scope::Attr(Attr { name: String::new(), kind: "string".to_owned(), value: String::new() }),
            ["capped-memory"] => Scope::CappedMemory { physical: None },
            ["capped-cpu"] => Scope::CappedCpu { percent: None },
            ["dataset"] => Scope::Dataset(String::new()),
            ["device"] => Scope::Device(String::new()),
            _ => return Err(format!("no resource '{}'; there are: rctl attr dataset device capped-memory capped-cpu", rest.join(" "))),
        };
        Ok(())
    }

    /// `add value (priv=privileged,limit=300,action=none)`
    fn add_value(&mut self, text: &str) -> Result<(), String> {
        let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
        let inner = inner.ok_or("usage: add value (priv=privileged,limit=N,action=deny)")?;
        let mut value = None;
        let scale = match &self.scope {
            Scope::Rctl { name, .. } => RCTLS.iter().find(|(known, _, _)| known == name).map_or(Scale::Count, |(_, _, scale)| *scale),
            _ => Scale::Count,
        };
        for part in inner.split(',') {
            match part.trim().split_once('=') {
                Some(("limit", number)) => value = Some(rctl_value::parse(number, scale)?),
                Some(("priv", "privileged")) | Some(("action", "none" | "deny")) => {}
                _ => return Err(format!("'{part}' must be priv=privileged, limit=N, action=none or action=deny")),
            }
        }
        let Scope::Rctl { limit, .. } = &mut self.scope else { return Err("values belong to an rctl".to_owned()) };
        *limit = Some(value.ok_or("limit is missing")?);
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        match self.scope.clone() {
            Scope::Global => {}
            Scope::Rctl { name, limit } => {
                if name.is_empty() {
                    return Err("name is missing: set name=zone.cpu-shares".to_owned());
                }
                let limit = limit.ok_or("value is missing: add value (priv=privileged,limit=N,action=none)")?;
                self.config.set_rctl(&name, limit)?;
            }
            Scope::Attr(attr) => {
                if attr.name.is_empty() {
                    return Err("name is missing: set name=...".to_owned());
                }
                self.config.attrs.retain(|other| other.name != attr.name);
                self.config.attrs.push(attr);
            }
            Scope::Dataset(dataset) => {
                if dataset.is_empty() {
                    return Err("name is missing: set name=tank/alpha".to_owned());
                }
                self.config.datasets.retain(|other| *other != dataset);
                self.config.datasets.push(dataset);
            }
            Scope::Device(device) => {
                if device.is_empty() {
                    return Err("match is missing: set match=/dev/zvol/tank/disk".to_owned());
                }
                self.config.devices.retain(|other| *other != device);
                self.config.devices.push(device);
            }
            Scope::CappedMemory { physical } => {
                let physical = physical.ok_or("physical is missing: set physical=512m")?;
                self.config.set_rctl("zone.max-physical-memory", physical)?;
            }
            Scope::CappedCpu { percent } => {
                let percent = percent.ok_or("ncpus is missing: set ncpus=1.5")?;
                self.config.set_rctl("zone.cpu-cap", percent)?;
            }
        }
        self.scope = Scope::Global;
        Ok(())
    }

    fn remove(&mut self, rest: &[&str]) -> Result<(), String> {
        let rest: Vec<&str> = rest.iter().copied().filter(|word| *word != "-F").collect();
        let name = |word: &str| word.strip_prefix("name=").map(str::to_owned);
        let count = |config: &ZoneConfig| [config.rctls.len(), config.attrs.len(), config.datasets.len(), config.devices.len()];
        let before = count(self.config);
        match rest[..] {
            ["rctl", which] => {
                let which = name(which).ok_or("usage: remove rctl name=NAME")?;
                self.config.rctls.retain(|rctl| rctl.name != which);
            }
            ["attr", which] => {
                let which = name(which).ok_or("usage: remove attr name=NAME")?;
                self.config.attrs.retain(|attr| attr.name != which);
            }
            ["dataset", which] => {
                let which = name(which).ok_or("usage: remove dataset name=NAME")?;
                self.config.datasets.retain(|dataset| *dataset != which);
            }
            ["device", which] => {
                let which = which.strip_prefix("match=").ok_or("usage: remove device match=PATH")?;
                self.config.devices.retain(|device| device != which);
            }
            ["capped-memory"] => self.config.rctls.retain(|rctl| rctl.name != "zone.max-physical-memory"),
            ["capped-cpu"] => self.config.rctls.retain(|rctl| rctl.name != "zone.cpu-cap"),
            _ => return Err("usage: remove rctl name=NAME | attr name=NAME | dataset name=NAME | device match=PATH | capped-memory | capped-cpu".to_owned()),
        }
        if before == count(self.config) {
            return Err("nothing matches".to_owned());
        }
        Ok(())
    }
}

/// `1.5` CPUs are 150 percent.
fn parse_ncpus(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' must be a number of CPUs such as 1.5");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 2 {
        return Err(bad());
    }
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let hundredths: u64 = format!("{fraction:0<2}").parse().map_err(|_| bad())?;
    let percent = whole.checked_mul(100).and_then(|percent| percent.checked_add(hundredths)).ok_or_else(bad)?;
    if percent == 0 { Err(bad()) } else { Ok(percent) }
}

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "z:f:")?;
    let (mut name, mut file) = (None, None);
    for step in steps {
        match step {
            Step::Value('z', value) => name = Some(value),
            Step::Value(_, value) => file = Some(value),
            Step::Flag(_) => {}
        }
    }
    let name = name.ok_or_else(|| Failure::usage("which zone? give -z ZONE"))?;
    check_name(&name).map_err(Failure::usage)?;
    let mut session = Session::new(&name)?;
    if let Some(file) = file {
        if !operands.is_empty() {
            return Err(Failure::usage("give either -f FILE or commands"));
        }
        let text = fs::read_to_string(&file).map_err(|error| Failure::new(format!("{file}: {error}")))?;
        session.script(&text, &format!("{file}: "))?;
        return session.end();
    }
    if !operands.is_empty() {
        session.script(&operands.join(" "), "")?;
        return session.end();
    }
    session.interactive()
}

/// One run of zonecfg.
struct Session {
    name: String,
    store: Store,
    /// None until created.
    config: Option<ZoneConfig>,
    scope: Scope,
    changed: bool,
    done: bool,
}

impl Session {
    fn new(name: &str) -> Result<Self, Failure> {
        let store = Store::system()?;
        let exists = store.entries.iter().any(|entry| entry.name == name);
        let config = if exists { store.config(name).map(Some) } else { Ok(None) };
        // A damaged file must not keep its zone from being deleted or made again.
        let config = config.unwrap_or_else(|failure| {
            eprintln!("zonecfg: {} (only 'create' and 'delete' are possible)", failure.message);
            None
        });
        Ok(Self { name: name.to_owned(), store, config, scope: Scope::Global, changed: false, done: false })
    }

    fn script(&mut self, text: &str, place: &str) -> Result<(), Failure> {
        for (line, command) in split(text).map_err(|error| Failure::new(format!("{place}{error}")))? {
            if self.done {
                break;
            }
            self.command(&command).map_err(|error| Failure { message: format!("{place}line {line}: {}", error.message), ..error })?;
        }
        Ok(())
    }

    fn command(&mut self, words: &[String]) -> Result<(), Failure> {
        let mut blank = ZoneConfig::new(&self.name);
        let exists = self.config.is_some();
        let request = {
            let config = self.config.as_mut().unwrap_or(&mut blank);
            let mut interpreter = Interpreter { config, scope: self.scope.clone() };
            let request = interpreter.command(words).map_err(Failure::new)?;
            self.scope = interpreter.scope;
            request
        };
        if !exists && !matches!(request, Request::Create | Request::Help | Request::Exit | Request::Delete { .. }) {
            return Err(Failure::new(format!("{}: no such zone configured; begin with 'create'", self.name)));
        }
        match request {
            Request::Nothing => self.changed = true,
            Request::Create if exists => {
                return Err(Failure::new(format!("{}: exists already; delete it first, or change it with 'set'", self.name)));
            }
            Request::Create => {
                self.config = Some(blank);
                self.changed = true;
            }
            Request::Info => usage::print(&self.config()?.info()),
            Request::Help => usage::print(HELP),
            Request::Verify => self.config()?.verify().map_err(Failure::new)?,
            Request::Commit => self.commit()?,
            Request::Revert => {
                self.config = Some(self.store.config(&self.name)?);
                self.changed = false;
            }
            Request::Exit => self.done = true,
            Request::Delete { force } => self.delete(force)?,
            Request::Export { file: None } => usage::print(&self.config()?.export()),
            Request::Export { file: Some(file) } => {
                fs::write(&file, self.config()?.export()).map_err(|error| Failure::new(format!("{file}: {error}")))?;
            }
        }
        Ok(())
    }

    fn config(&self) -> Result<&ZoneConfig, Failure> {
        self.config.as_ref().ok_or_else(|| Failure::new(format!("{}: no such zone configured; begin with 'create'", self.name)))
    }

    fn commit(&mut self) -> Result<(), Failure> {
        if let Some(config) = &mut self.config {
            self.store.commit(config)?;
        }
        self.changed = false;
        Ok(())
    }

    fn delete(&mut self, force: bool) -> Result<(), Failure> {
        let entry = self.store.entry(&self.name)?;
        if entry.state != State::Configured {
            return Err(Failure::new(format!(
                "{}: is {}; first: zoneadm -z {} uninstall -F",
                self.name,
                entry.state.word(),
                self.name
            )));
        }
        if !force && !confirmed(&format!("Are you sure you want to delete zone {} (y/[n])? ", self.name))? {
            return Ok(());
        }
        self.store.delete(&self.name)?;
        self.config = None;
        self.changed = false;
        Ok(())
    }

    fn end(&mut self) -> Result<u8, Failure> {
        if !matches!(self.scope, Scope::Global) {
            return Err(Failure::new("a resource is not complete: say 'end' to keep it or 'cancel' to drop it"));
        }
        if self.changed {
            self.commit()?;
        }
        Ok(0)
    }

    fn interactive(&mut self) -> Result<u8, Failure> {
        if self.config.is_none() {
            usage::print(&format!("{}: No such zone configured\nUse 'create' to begin configuring a new zone.\n", self.name));
        }
        let terminal = std::io::stdin().is_terminal();
        let mut failed = false;
        for line in prompting_lines(terminal, &self.name) {
            let line = line.map_err(|error| Failure::new(format!("standard input: {error}")))?;
            if let Err(failure) = self.script(&line, "") {
                eprintln!("zonecfg: {}", failure.message);
                failed = true;
                if !terminal {
                    return Ok(1);
                }
            }
            if self.done {
                break;
            }
        }
        self.end().map(|status| if failed && !terminal { 1 } else { status })
    }
}

fn prompting_lines(terminal: bool, name: &str) -> impl Iterator<Item = std::io::Result<String>> + use<> {
    let prompt = format!("zonecfg:{name}> ");
    let mut lines = std::io::stdin().lock().lines();
    std::iter::from_fn(move || {
        if terminal {
            usage::print(&prompt);
        }
        lines.next()
    })
}

/// Asks a question on the terminal. Without one the answer is no.
pub fn confirmed(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new("will not do this without -F when there is nobody to ask"));
    }
    usage::print(question);
    std::io::stdout().flush().map_err(|error| Failure::new(format!("standard output: {error}")))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::new(format!("standard input: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(script: &str) -> Result<ZoneConfig, String> {
        let mut config = ZoneConfig::new("alpha");
        run_script(&mut config, script).map(|()| config)
    }

    #[test]
    fn the_commands_of_the_main_scenario() {
        let config = apply("create; set zonepath=/zones/alpha; set cpu-shares=300; set tree=/export/trees/busybox").expect("valid");
        assert_eq!(config.rctl("zone.cpu-shares"), Some(300));
        assert_eq!(config.tree, "/export/trees/busybox");
    }

    #[test]
    fn resources() {
        let script = "add rctl\nset name=zone.max-lwps\nadd value (priv=privileged,limit=1K,action=deny)\nend\n\
            add capped-memory; set physical=128m; end # comment\nadd capped-cpu; set ncpus=1.5; end\n\
            add attr; set name=alias; set type=string; set value=\"a; b\\\"c\"; end; add attr; set name=x; cancel";
        let config = apply(script).expect("valid");
        assert_eq!(config.rctl("zone.max-lwps"), Some(1000));
        assert_eq!(config.rctl("zone.max-physical-memory"), Some(128 << 20));
        assert_eq!(config.rctl("zone.cpu-cap"), Some(150));
        assert_eq!(config.attrs, [Attr { name: "alias".to_owned(), kind: "string".to_owned(), value: "a; b\"c".to_owned() }]);
        let mut config = config;
        run_script(&mut config, "remove rctl name=zone.max-lwps; remove attr name=alias; clear cpu-cap").expect("valid");
        assert_eq!((config.rctls.len(), config.attrs.len()), (1, 0));
    }

    #[test]
    fn errors_say_what_and_where() {
        for (script, message) in [
            ("create\nset colour=red", "line 2: unknown property 'colour'"),
            ("frobnicate", "line 1: unknown command 'frobnicate'; try help"),
            ("set autoboot=maybe", "line 1: 'maybe' must be true or false"),
            ("set cpu-shares=lots", "line 1: 'lots' is not a number"),
            ("add net", "line 1: no resource 'net'"),
            ("add rctl; end", "line 1: name is missing"),
            ("add rctl; set name=zone.x; add value (limit=1); end", "line 1: no resource control 'zone.x'"),
            ("add rctl; add value limit=1", "line 1: usage: add value"),
            ("add attr", "a resource is not complete"),
            ("end", "line 1: 'end' belongs to a resource"),
            ("set zonepath=\"/x", "line 1: a quote is not closed"),
            ("remove rctl name=zone.cpu-cap", "line 1: nothing matches"),
            ("add capped-cpu; set ncpus=0; end", "line 1: '0' must be a number of CPUs"),
            ("set zonename=b", "line 1: a zone cannot be renamed"),
        ] {
            let error = apply(script).expect_err(script);
            assert!(error.starts_with(message), "{script}: {error}");
        }
    }

    #[test]
    fn random_scripts_never_panic() {
        let words = ["set", "add", "rctl", "name=zone.cpu-cap", "end", ";", "\"", "(", "limit=9,", "value", "cancel", "\\", "#", "\n", "cpu-shares=", "=", "remove", "clear", "ä"];
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            let mut script = String::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                script.push_str(words[usize::try_from(seed >> 33).expect("31 bits") % words.len()]);
                script.push(' ');
            }
            if apply(&script).is_ok() {}
        }
    }
}
