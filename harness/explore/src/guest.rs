//! The guest: booted once to its prompt, forked for each trial.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sim_board::{Board, Boot, Input, Machine, Outcome, Port, Snapshot, Until};
use sim_fault::{Fault, FaultTable, Keep};

use crate::plan::{Cuts, Plan};
use crate::spec::{FaultKind, Spec};

const SECOND: u64 = 1_000_000_000;
/// Typed behind each command; what it prints differs from what is typed, so that an echo is not taken for it.
const END: &str = "; echo @END:$?@";
const ENDED: &[u8] = b"@END:";
/// Most of what a command printed that is kept.
const OUTPUT_MAX: usize = 1 << 20;

/// Between several things that went wrong in one trial.
pub(crate) const AND: &str = " + ";
/// Names the failure that a plan adds to the board's faults.
pub const FAULT_NAME: &str = "explore";

/// What a guest is built from.
#[derive(Clone, Debug)]
pub struct Base {
    pub board: Board,
    pub kernel: Vec<u8>,
    pub initrd: Option<Vec<u8>>,
    pub append: String,
    pub images: Vec<Vec<u8>>,
}

/// Why nothing can be explored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExploreError {
    /// The machine cannot be built, or a snapshot of it cannot be loaded.
    Machine(String),
    /// The guest did not come to its prompt, or the reference run failed: the last of its console.
    Guest { when: &'static str, why: String, console: String },
    /// The disk has no journal.
    Disk(u8),
    /// Results cannot be written or do not belong here.
    Results(String),
}

impl fmt::Display for ExploreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExploreError::Machine(why) | ExploreError::Results(why) => f.write_str(why),
            ExploreError::Guest { when, why, console } => write!(f, "{when}: {why}; the last of the console:\n{console}"),
            ExploreError::Disk(disk) => write!(f, "[explore]: the board has no disk {disk}"),
        }
    }
}

impl std::error::Error for ExploreError {}

fn machine_error(error: impl fmt::Display) -> ExploreError {
    ExploreError::Machine(error.to_string())
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status; `None`: it did not end in time, or the machine ended.
    pub status: Option<u32>,
    pub how: String,
    pub lines: Vec<String>,
}

/// How a trial came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What is wrong; none: all that must hold does.
    pub wrong: Option<String>,
    /// Ticks it took.
    pub ticks: u64,
}

/// The reference run.
#[derive(Debug)]
pub struct Reference {
    /// What was promised, with the number of writes there were by then.
    pub promises: Vec<(String, u64)>,
    pub cuts: Cuts,
    /// Inputs from power-on, and where it ended: for capsules.
    pub inputs: Vec<Input>,
    pub ticks: u64,
    pub ns: u64,
    pub receipt: String,
    /// Writes there were when the command was typed: none of them is a cut point.
    pub before: u64,
    /// Requests of the disk since then that each fault could strike.
    pub requests: BTreeMap<FaultKind, u64>,
}

/// A booted guest.
#[derive(Debug)]
pub struct Guest {
    pub spec: Spec,
    pub base: Base,
    snapshot: Snapshot,
}

/// A machine of one thread, and where the console's last line begins.
#[derive(Debug)]
pub struct Worker {
    machine: Machine,
    cuts: Option<Cuts>,
}

impl Guest {
    /// Boots to the prompt, types `prepare`, and takes the snapshot.
    pub fn boot(mut base: Base, spec: Spec) -> Result<Self, ExploreError> {
        if !spec.cuts.is_empty() || !spec.faults.is_empty() {
            base.board.disk_journal = Keep::Data;
        }
        let boot = Boot { kernel: &base.kernel, initrd: base.initrd.as_deref(), append: &base.append, disks: &base.images, modules: &[] };
        let mut machine = Machine::new(&base.board, &boot).map_err(machine_error)?;
        let outcome = machine.run(&Until::ns(spec.boot_s * SECOND).or_output(Port::Com1, spec.ready.as_bytes()));
        let console = machine.serial_take(Port::Com1);
        let failed = |why: String, console: &[u8]| {
            let text = String::from_utf8_lossy(console).into_owned();
            let tail: Vec<&str> = text.lines().rev().take(20).collect();
            ExploreError::Guest { when: "booting", why, console: tail.into_iter().rev().collect::<Vec<_>>().join("\n") }
        };
        if !matches!(outcome, Outcome::Output(_)) {
            return Err(failed(format!("no `{}` in {} s of machine time ({outcome:?})", spec.ready.escape_debug(), spec.boot_s), &console));
        }
        // Without echo the console holds what commands print, and no more.
        let quiet = if spec.prepare.is_empty() { "stty -echo".to_owned() } else { format!("stty -echo; {}", spec.prepare) };
        let ran = command(&mut machine, &quiet, spec.patience_s, |_, _| {});
        if ran.status != Some(0) {
            return Err(failed(format!("`{quiet}`: {}", ran.how), ran.lines.join("\n").as_bytes()));
        }
        // The prompt behind it.
        machine.run(&Until::ns(machine.now_ns() + SECOND).or_output(Port::Com1, spec.ready.as_bytes()));
        machine.keep_snapshots();
        machine.take_checkpoint();
        let snapshot = machine.snapshot().ok_or_else(|| machine_error("no snapshot can be taken at the prompt"))?;
        Ok(Self { spec, base, snapshot })
    }

    /// A machine at the prompt.
    pub fn worker(&self, reference: Option<&Reference>) -> Result<Worker, ExploreError> {
        let machine = Machine::fork(&self.snapshot).map_err(machine_error)?;
        Ok(Worker { machine, cuts: reference.map(|reference| reference.cuts.fork()) })
    }

    /// Puts a machine back to the prompt.
    fn rewind(&self, machine: &mut Machine) -> Result<(), ExploreError> {
        machine.set_faults(&self.base.board.faults);
        machine.restore(&self.snapshot).map_err(machine_error)?;
        machine.forget_future();
        drop(machine.serial_take(Port::Com1));
        Ok(())
    }

    /// Runs the command as it is and learns what it promises.
    pub fn reference(&self) -> Result<Reference, ExploreError> {
        let mut machine = Machine::fork(&self.snapshot).map_err(machine_error)?;
        let disk = self.spec.disk;
        let seen = machine.fault_disk(disk).ok_or(ExploreError::Disk(disk))?.journal();
        let (before, earlier) = (seen.writes(), seen.records().count());
        let mut promises = Vec::new();
        let ran = command(&mut machine, &self.spec.run, self.spec.patience_s, |machine, line| {
            if let Some(promise) = self.promise(line) {
                promises.push((promise.to_owned(), machine.fault_disk(disk).map_or(0, |disk| disk.journal().writes())));
            }
        });
        if ran.status != Some(0) {
            let tail = ran.lines.len().saturating_sub(20);
            return Err(ExploreError::Guest { when: "the reference run", why: ran.how, console: ran.lines[tail..].join("\n") });
        }
        let around = machine.fault_disk(disk).ok_or(ExploreError::Disk(disk))?;
        let base = around.base().ok_or(ExploreError::Disk(disk))?;
        let journal = around.journal().clone();
        let count = |wanted: &[sim_fault::Op]| journal.records().skip(earlier).filter(|record| wanted.contains(&record.op)).count() as u64;
        let requests = BTreeMap::from([
            (FaultKind::ReadError, count(&[sim_fault::Op::Read])),
            (FaultKind::WriteError, count(&[sim_fault::Op::Write, sim_fault::Op::WriteDurable, sim_fault::Op::Discard])),
        ]);
        let (ticks, ns, receipt) = (machine.ticks(), machine.now_ns(), machine.receipt());
        Ok(Reference { promises, cuts: Cuts::new(base, journal), inputs: machine.inputs().to_vec(), ticks, ns, receipt, before, requests })
    }

    fn promise<'l>(&self, line: &'l str) -> Option<&'l str> {
        (!self.spec.promise.is_empty()).then(|| line.strip_prefix(self.spec.promise.as_str())).flatten()
    }

    /// Tries a plan.
    pub fn attempt(&self, worker: &mut Worker, reference: Option<&Reference>, plan: &Plan) -> Result<Trial, ExploreError> {
        self.rewind(&mut worker.machine)?;
        let begun = worker.machine.ticks();
        let wrong = match plan {
            Plan::Cut { write, lost } => {
                let (Some(cuts), Some(reference)) = (&mut worker.cuts, reference) else { return Err(ExploreError::Disk(self.spec.disk)) };
                let disk = cuts.disk(*write, lost);
                worker.machine.set_disk(self.spec.disk, disk);
                let promised = reference.promises.iter().filter(|(_, writes)| writes < write).map(|(promise, _)| promise.as_str());
                self.judge(&mut worker.machine, promised)
            }
            Plan::Fault { operation, fault } => {
                let mut faults = self.base.board.faults.clone();
                faults.push(self.fault(*operation, *fault)?);
                worker.machine.set_faults(&faults);
                let mut promises = Vec::new();
                let ran = command(&mut worker.machine, &self.spec.run, self.spec.patience_s, |_, line| promises.extend(self.promise(line).map(str::to_owned)));
                let disk = worker.machine.fault_disk(self.spec.disk).map(|disk| disk.inner().fork()).ok_or(ExploreError::Disk(self.spec.disk))?;
                if ran.status.is_none() {
                    Some(format!("the command did not end: {}", ran.how))
                } else {
                    self.rewind(&mut worker.machine)?;
                    worker.machine.set_disk(self.spec.disk, disk);
                    self.judge(&mut worker.machine, promises.iter().map(String::as_str))
                }
            }
            Plan::Turns { chaos, seed } => {
                worker.machine.set_turns(*chaos, *seed);
                let ran = command(&mut worker.machine, &self.spec.run, self.spec.patience_s, |_, _| {});
                let bugs: Vec<&str> = ran.lines.iter().filter_map(|line| line.strip_prefix(self.spec.bug.as_str())).map(str::trim).collect();
                match (bugs.is_empty(), ran.status) {
                    (false, _) => Some(bugs.join(AND)),
                    (true, Some(0)) => None,
                    (true, _) => Some(ran.how),
                }
            }
        };
        Ok(Trial { wrong, ticks: worker.machine.ticks().saturating_sub(begun) })
    }

    /// The failure of a single request, counted from the snapshot on: from power-on the same requests fail by it.
    fn fault(&self, operation: u64, fault: FaultKind) -> Result<Fault, ExploreError> {
        let kind = match fault {
            FaultKind::ReadError => "read-error",
            FaultKind::WriteError => "write-error",
        };
        let table = FaultTable {
            name: FAULT_NAME.to_owned(),
            kind: kind.to_owned(),
            disk: Some(self.spec.disk),
            tick: Some(self.snapshot.ticks()),
            operation: Some(operation),
            ..FaultTable::default()
        };
        Fault::try_from(table).map_err(machine_error)
    }

    /// The run of a failing request from power-on, with the failure in the board's plan: what a capsule repeats. The machine is left where the command ended.
    pub fn run_with_fault(&self, operation: u64, fault: FaultKind) -> Result<Machine, ExploreError> {
        let mut board = self.base.board.clone();
        board.faults.push(self.fault(operation, fault)?);
        let base = &self.base;
        let boot = Boot { kernel: &base.kernel, initrd: base.initrd.as_deref(), append: &base.append, disks: &base.images, modules: &[] };
        let mut machine = Machine::new(&board, &boot).map_err(machine_error)?;
        machine.replay(self.snapshot.inputs().to_vec());
        let (ticks, ns) = (self.snapshot.ticks(), self.snapshot.ns());
        while machine.ticks() < ticks || machine.now_ns() < ns {
            let until = if machine.ticks() < ticks { Until::ticks(ticks) } else { Until::ns(ns) };
            let outcome = machine.run(&until);
            if outcome != Outcome::Deadline {
                return Err(machine_error(format!("power-on to the prompt: {outcome:?}")));
            }
        }
        command(&mut machine, &self.spec.run, self.spec.patience_s, |_, _| {});
        Ok(machine)
    }

    /// Checks the disk as it is now. What is wrong with it, if anything.
    fn judge<'p>(&self, machine: &mut Machine, promised: impl Iterator<Item = &'p str>) -> Option<String> {
        let ran = command(machine, &self.spec.check, self.spec.patience_s, |_, _| {});
        let found: BTreeSet<&str> = ran.lines.iter().filter_map(|line| line.strip_prefix(self.spec.found.as_str())).collect();
        let lost: Vec<&str> = promised.filter(|promise| !found.contains(promise)).collect();
        if ran.status != Some(0) {
            let last = ran.lines.iter().rev().find(|line| !line.trim().is_empty()).cloned().unwrap_or_default();
            return Some(format!("the check fails: {}: {last}", ran.how));
        }
        let first = lost.first()?;
        Some(if lost.len() == 1 { format!("promised and lost: {first}") } else { format!("promised and lost: {first} and {} more", lost.len() - 1) })
    }
}

impl Worker {
    /// The machine as the last trial left it.
    pub fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }
    /// The disks of cuts.
    pub fn cuts(&mut self) -> Option<&mut Cuts> {
        self.cuts.as_mut()
    }
}

/// Types a command and waits for its end. `each` sees every line at the tick at which it is complete.
fn command(machine: &mut Machine, text: &str, patience_s: u64, mut each: impl FnMut(&Machine, &str)) -> Ran {
    drop(machine.serial_take(Port::Com1));
    machine.serial_put(Port::Com1, format!("{text}{END}\n").as_bytes());
    let limit = machine.now_ns().saturating_add(patience_s * SECOND);
    let mut lines = Vec::new();
    let mut partial = Vec::new();
    let mut kept = 0;
    loop {
        let outcome = machine.run(&Until::ns(limit).or_output(Port::Com1, b"\n"));
        partial.extend(machine.serial_take(Port::Com1));
        while let Some(end) = partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if let Some(status) = status_of(&line) {
                return Ran { status: Some(status), how: format!("exit {status}"), lines };
            }
            each(machine, &line);
            kept += line.len();
            if kept < OUTPUT_MAX {
                lines.push(line);
            }
        }
        match outcome {
            Outcome::Output(_) => {}
            Outcome::Deadline => return Ran { status: None, how: format!("not over in {patience_s} s of machine time"), lines },
            ended => return Ran { status: None, how: format!("the machine ended: {ended:?}"), lines },
        }
    }
}

/// The status in the line that [`END`] prints.
fn status_of(line: &str) -> Option<u32> {
    let at = line.find(std::str::from_utf8(ENDED).ok()?)?;
    line[at + ENDED.len()..].strip_suffix('@')?.parse().ok()
}
