//! Plays a scenario on a machine: boots it, talks to the agent, types at the console, and writes down what happened.
//!
//! # Theory
//! The machine runs in short pieces; between them the driver reads both serial lines and decides. It looks at nothing but what the guest
//! wrote and the machine's own time, so on a machine with virtual time its decisions, and with them the whole run, repeat exactly.
//!
//! # States
//! boot (until the agent's hello) → zones (configured, installed, booted by commands) → files into zones → steps → a last `ping` → stop.
//!
//! # Failure
//! A command that ends badly is a fact for the verdict, not an error here. What ends a run early (the machine ended, a wait took longer than
//! allowed, the agent restarted while a command ran) is recorded in `given_up`, and what was learnt so far is kept.

use crate::Prepared;
use crate::progress::Watcher;
use crate::target::{End, Line, Target, TargetError};
use crate::transcript::{Outcome, Sample, StepRecord, Transcript};
use crate::variant::Variant;
use guest::{Body, Link, LinkEvent, Report, Request, StreamName};
use scenario::{Action, Place, Run, Scenario, Text};
use std::collections::BTreeMap;
use std::time::Instant;

/// Machine time after which an unanswered frame is repeated.
const SILENCE_NS: u64 = 3_000_000_000;
/// Pause after the escape key, so that an editor does not take it for the start of a cursor key.
const AFTER_ESCAPE_NS: u64 = 300_000_000;
/// Most bytes of output kept of one command.
const MAX_OUTPUT: usize = 8 << 20;

/// Why the run cannot go on. `Target` is the host's trouble; the rest is a finding.
enum Halt {
    Target(TargetError),
    /// The run is over for this reason.
    GiveUp(String),
}

impl From<TargetError> for Halt {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

struct Driver<'r> {
    scenario: &'r Scenario,
    target: &'r mut dyn Target,
    watcher: &'r mut dyn Watcher,
    started: Instant,
    link: Link,
    /// When the agent's line last had traffic.
    heard_ns: u64,
    /// Records, and which job number is which.
    steps: Vec<StepRecord>,
    jobs: BTreeMap<u32, usize>,
    next_job: u32,
    ended: usize,
    samples: BTreeMap<String, Sample>,
    console: Vec<u8>,
    /// Console text before this was matched by an earlier `await`.
    matched: usize,
    system: String,
    sessions: usize,
    pong: bool,
    machine_end: Option<End>,
}

/// Runs `scenario` on `target` to its end.
pub fn drive(scenario: &Scenario, prepared: &Prepared, target: &mut dyn Target, watcher: &mut dyn Watcher) -> Result<Transcript, TargetError> {
    let mut driver = Driver {
        scenario,
        target,
        watcher,
        started: Instant::now(),
        link: Link::listening(),
        heard_ns: 0,
        steps: Vec::new(),
        jobs: BTreeMap::new(),
        next_job: 1,
        ended: 0,
        samples: BTreeMap::new(),
        console: Vec::new(),
        matched: 0,
        system: String::new(),
        sessions: 0,
        pong: false,
        machine_end: None,
    };
    let given_up = match driver.play() {
        Ok(()) => None,
        Err(Halt::GiveUp(why)) => Some(why),
        Err(Halt::Target(error)) => return Err(error),
    };
    let target = driver.target;
    Ok(Transcript {
        scenario: scenario.name.clone(),
        variant: Variant::Plain,
        machine: target.name().to_owned(),
        system: driver.system,
        steps: driver.steps,
        samples: driver.samples,
        console: driver.console,
        events: target.events(),
        unimplemented: target.unimplemented(),
        agent_alive: driver.pong,
        agent_sessions: driver.sessions,
        damaged_lines: driver.link.damaged(),
        end: driver.machine_end.unwrap_or(if given_up.is_some() { End::Limit } else { End::Stopped }),
        given_up,
        ticks: target.ticks(),
        virtual_ns: target.now_ns(),
        wall_ms: driver.started.elapsed().as_millis(),
        receipt: target.receipt(),
        packages: prepared.packages.clone(),
        disks: if scenario.disks.is_empty() { Vec::new() } else { target.disks() },
    })
}

impl Driver<'_> {
    fn play(&mut self) -> Result<(), Halt> {
        let scenario = self.scenario;
        if scenario.image.agent {
            self.watcher.phase("booting");
            self.until("the agent's first message", |driver| driver.sessions > 0)?;
            self.prepare_zones()?;
        }
        let total = scenario.steps.len();
        for (index, step) in scenario.steps.iter().enumerate() {
            self.watcher.step(index, total, &step.name);
            self.play_step(step)?;
        }
        if scenario.image.agent && self.machine_end.is_none() {
            let job = self.next_number();
            self.request(&Request::Ping { job })?;
            self.until("the agent's answer after the last step", |driver| driver.pong)?;
        } else if scenario.steps.is_empty() {
            // A kernel that is only booted runs to its own end.
            while self.machine_end.is_none() {
                self.pump()?;
            }
        }
        Ok(())
    }

    /// Configures, installs and boots the zones with the guest's own commands, and copies carried files into them.
    fn prepare_zones(&mut self) -> Result<(), Halt> {
        for zone in &self.scenario.zones {
            self.watcher.phase(&format!("zone {}", zone.name));
            let name = &zone.name;
            let mut script = format!("create; set zonepath=/zones/{name}; set tree=/export/trees/{}; set cpu-shares={}", zone.tree, zone.shares);
            for limit in &zone.limits {
                script.push_str(&format!("; set {}={}", limit.name, limit.value));
            }
            self.prepare(format!("configure zone {name}"), &["/usr/sbin/zonecfg", "-z", name, &script])?;
            self.prepare(format!("install zone {name}"), &["/usr/sbin/zoneadm", "-z", name, "install"])?;
            for carry in self.scenario.carry.iter().filter(|carry| carry.zones.contains(name)) {
                let to = &carry.to;
                let line = format!("mkdir -p /zones/{name}/root{to} && cp -r {to}/. /zones/{name}/root{to}");
                self.prepare(format!("copy {to} into zone {name}"), &["/bin/sh", "-c", &line])?;
            }
            if zone.boot {
                self.prepare(format!("boot zone {name}"), &["/usr/sbin/zoneadm", "-z", name, "boot"])?;
            }
        }
        Ok(())
    }

    fn prepare(&mut self, name: String, argv: &[&str]) -> Result<(), Halt> {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let index = self.start(name, 0, None, argv, "")?;
        self.wait_for(index)?;
        let step = &self.steps[index];
        if step.outcome == Some(Outcome::Status(0)) {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&step.stderr).trim().to_owned();
        let how = step.failed.clone().or_else(|| step.outcome.map(|o| o.to_string())).unwrap_or_default();
        Err(Halt::GiveUp(format!("could not {}: {how}{}{said}", step.name, if said.is_empty() { "" } else { ": " })))
    }

    fn play_step(&mut self, step: &scenario::Step) -> Result<(), Halt> {
        match &step.action {
            Action::Run(run) => self.run(step, run),
            Action::Wait { step: other } => {
                let index = self.index_of(other)?;
                self.wait_for(index)
            }
            Action::Kill { step: other, signal } => {
                let index = self.index_of(other)?;
                if let Some(job) = self.jobs.iter().find(|(_, at)| **at == index).map(|(job, _)| *job) {
                    self.request(&Request::Kill { job, signal: *signal })?;
                }
                Ok(())
            }
            Action::Type { keys, .. } => {
                self.record(step, |_| ());
                self.type_keys(keys)
            }
            Action::Await { text } => {
                self.record(step, |_| ());
                self.await_console(text)
            }
            Action::Sleep { ns } => self.sleep(*ns),
            Action::Sample { name } => self.sample(step, name),
        }
    }

    fn run(&mut self, step: &scenario::Step, run: &Run) -> Result<(), Halt> {
        let zone = match &run.place {
            Place::Global => None,
            Place::Zone(zone) => Some(zone.as_str()),
        };
        let index = self.start(step.name.clone(), step.line, zone, run.argv.clone(), &run.stdin)?;
        if run.background { Ok(()) } else { self.wait_for(index) }
    }

    fn sample(&mut self, step: &scenario::Step, name: &str) -> Result<(), Halt> {
        let argv = vec!["/usr/sbin/kstat".to_owned(), "-p".to_owned()];
        let index = self.start(step.name.clone(), step.line, None, argv, "")?;
        self.wait_for(index)?;
        let text = String::from_utf8_lossy(&self.steps[index].stdout).into_owned();
        self.samples.insert(name.to_owned(), Sample::parse(&text, self.target.now_ns()));
        Ok(())
    }

    fn type_keys(&mut self, keys: &[u8]) -> Result<(), Halt> {
        let mut rest = keys;
        while let Some(at) = rest.iter().position(|byte| *byte == 0x1b) {
            let is_sequence = rest.get(at + 1) == Some(&b'[');
            let (now, later) = rest.split_at(at + 1);
            self.target.put(Line::Console, now)?;
            if !is_sequence {
                self.sleep(AFTER_ESCAPE_NS)?;
            }
            rest = later;
        }
        Ok(self.target.put(Line::Console, rest)?)
    }

    fn await_console(&mut self, text: &Text) -> Result<(), Halt> {
        let wanted = text.clone();
        self.until(&format!("{text} on the console"), |driver| {
            let fresh = String::from_utf8_lossy(driver.console.get(driver.matched..).unwrap_or_default()).into_owned();
            let Some(end) = wanted.find_end(&fresh) else { return false };
            // Damaged UTF-8 is longer as text than as bytes: stay inside.
            driver.matched = (driver.matched + end).min(driver.console.len());
            true
        })
    }

    fn sleep(&mut self, ns: u64) -> Result<(), Halt> {
        let limit = self.target.now_ns().saturating_add(ns);
        while self.target.now_ns() < limit {
            self.alive("time to pass")?;
            self.pump()?;
        }
        Ok(())
    }

    fn record(&mut self, step: &scenario::Step, fill: impl FnOnce(&mut StepRecord)) {
        let mut record = StepRecord {
            name: step.name.clone(),
            line: step.line,
            zone: String::new(),
            began_ns: self.target.now_ns(),
            ended_ns: None,
            outcome: None,
            failed: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
            ended_as: None,
        };
        fill(&mut record);
        self.steps.push(record);
    }

    fn index_of(&self, name: &str) -> Result<usize, Halt> {
        let found = self.steps.iter().rposition(|step| step.name == name);
        found.ok_or_else(|| Halt::GiveUp(format!("step `{name}` was never started")))
    }

    fn next_number(&mut self) -> u32 {
        let number = self.next_job;
        self.next_job += 1;
        number
    }

    /// Asks the agent to start a command.
    fn start(&mut self, name: String, line: usize, zone: Option<&str>, argv: Vec<String>, stdin: &str) -> Result<usize, Halt> {
        let job = self.next_number();
        let index = self.steps.len();
        self.steps.push(StepRecord {
            name,
            line,
            zone: zone.unwrap_or_default().to_owned(),
            began_ns: self.target.now_ns(),
            ended_ns: None,
            outcome: None,
            failed: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
            ended_as: None,
        });
        self.jobs.insert(job, index);
        let stdin = (!stdin.is_empty()).then(|| Body::new(stdin.as_bytes()));
        self.request(&Request::Run { job, argv, zone: zone.map(str::to_owned), stdin })?;
        Ok(index)
    }

    fn wait_for(&mut self, index: usize) -> Result<(), Halt> {
        let name = self.steps[index].name.clone();
        self.until(&format!("`{name}` to end"), |driver| driver.steps[index].ended_ns.is_some())
    }

    fn request(&mut self, request: &Request) -> Result<(), Halt> {
        let text = serde_json::to_string(request).map_err(|error| Halt::GiveUp(format!("a request that is not JSON: {error}")))?;
        self.link.send(&text);
        let bytes = self.link.take_outgoing();
        self.heard_ns = self.target.now_ns();
        Ok(self.target.put(Line::Agent, &bytes)?)
    }

    /// Fails if the machine has ended.
    fn alive(&self, wanted: &str) -> Result<(), Halt> {
        match self.machine_end {
            Some(end) => Err(Halt::GiveUp(format!("the machine ended ({end}) while the runner waited for {wanted}"))),
            None => Ok(()),
        }
    }

    /// Lets the machine run until `done`, within the scenario's limits.
    fn until(&mut self, wanted: &str, mut done: impl FnMut(&mut Self) -> bool) -> Result<(), Halt> {
        let begun = self.target.now_ns();
        while !done(self) {
            self.alive(wanted)?;
            if self.target.now_ns() - begun > self.scenario.limits.wait_ns {
                return Err(Halt::GiveUp(format!("waited {} s of the machine's time for {wanted}", self.scenario.limits.wait_ns / 1_000_000_000)));
            }
            self.pump()?;
        }
        Ok(())
    }

    /// One piece of the machine's time, and everything the guest said in it.
    fn pump(&mut self) -> Result<(), Halt> {
        if self.machine_end.is_none() {
            self.machine_end = self.target.advance()?;
        }
        let over = match self.target.ticks() {
            Some(ticks) => ticks >= self.scenario.limits.ticks,
            None => self.started.elapsed().as_secs() >= self.scenario.limits.seconds,
        };
        let console = self.target.take(Line::Console);
        self.watcher.console(&console);
        self.console.extend_from_slice(&console);
        let bytes = self.target.take(Line::Agent);
        if !bytes.is_empty() {
            self.heard_ns = self.target.now_ns();
            for event in self.link.receive(&bytes) {
                self.hear(event)?;
            }
        } else if self.link.is_waiting() && self.target.now_ns().saturating_sub(self.heard_ns) > SILENCE_NS {
            self.heard_ns = self.target.now_ns();
            self.link.nudge();
        }
        let answer = self.link.take_outgoing();
        if !answer.is_empty() && self.machine_end.is_none() {
            self.target.put(Line::Agent, &answer)?;
        }
        self.watcher.pulse(self.target.ticks(), self.target.now_ns());
        if over && self.machine_end.is_none() {
            let limit = match self.target.ticks() {
                Some(_) => format!("{} ticks", self.scenario.limits.ticks),
                None => format!("{} seconds", self.scenario.limits.seconds),
            };
            self.machine_end = Some(End::Limit);
            return Err(Halt::GiveUp(format!("the scenario's limit of {limit} was reached")));
        }
        Ok(())
    }

    fn hear(&mut self, event: LinkEvent) -> Result<(), Halt> {
        let text = match event {
            LinkEvent::Session => {
                self.sessions += 1;
                if self.sessions > 1 {
                    return Err(Halt::GiveUp("the agent died and was started again".to_owned()));
                }
                return Ok(());
            }
            LinkEvent::Message(text) => text,
        };
        let Ok(report) = serde_json::from_str::<Report>(&text) else {
            return Err(Halt::GiveUp(format!("the agent said something that is not a report: {text}")));
        };
        match report {
            Report::Hello { version, system } => {
                if version != guest::VERSION {
                    return Err(Halt::GiveUp(format!("the agent speaks version {version} of the protocol, the runner {}", guest::VERSION)));
                }
                self.system = system;
            }
            Report::Started { .. } => {}
            Report::Output { job, stream, body } => {
                let bytes = body.bytes().unwrap_or_default();
                if let Some(step) = self.step_of(job) {
                    let kept = match stream {
                        StreamName::Stdout => &mut step.stdout,
                        StreamName::Stderr => &mut step.stderr,
                    };
                    kept.extend(bytes.into_iter().take(MAX_OUTPUT.saturating_sub(kept.len())));
                }
            }
            Report::Exit { job, status, signal } => {
                let outcome = status.map(Outcome::Status).or(signal.map(Outcome::Signal));
                self.finish(job, outcome, None);
            }
            Report::Failed { job, why } => self.finish(job, None, Some(why)),
            Report::Pong { .. } => self.pong = true,
        }
        Ok(())
    }

    fn step_of(&mut self, job: u32) -> Option<&mut StepRecord> {
        let index = *self.jobs.get(&job)?;
        self.steps.get_mut(index)
    }

    fn finish(&mut self, job: u32, outcome: Option<Outcome>, failed: Option<String>) {
        let now = self.target.now_ns();
        self.ended += 1;
        let order = self.ended;
        if let Some(step) = self.step_of(job)
            && step.ended_ns.is_none()
        {
            step.ended_ns = Some(now);
            step.ended_as = Some(order);
            step.outcome = outcome;
            step.failed = failed;
        }
    }
}
