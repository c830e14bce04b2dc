//! The simulator as a target.

use crate::target::{End, Line, Target, TargetError};
use report::Sampler;
use scenario::Scenario;
use sim_board::{Board, Boot, Machine, Outcome, Port, Until};
use sim_core::{Rng, Streams};
use sim_fault::Keep;

/// Virtual time after which the runner looks at the console again. The agent's answers end a piece at once.
const PIECE_NS: u64 = 5_000_000;

/// Lengths of the slices a run may be cut into, in ticks.
const SLICES: [u64; 3] = [1, 13, 777];

/// A simulated machine.
#[allow(missing_debug_implementations, reason = "a machine is hundreds of megabytes of state; nothing prints it")]
pub struct Simulator {
    machine: Machine,
    /// Virtual time that passed while all CPUs were halted and only input could have woken one: the machine's own clock stands then.
    idle_ns: u64,
    cuts: Option<Cuts>,
    /// Whoever watches where the vCPUs are.
    sampler: Option<Sampler>,
}

/// The simulator's board for a scenario: the named board, with what the scenario says about the machine on top.
pub fn board(scenario: &Scenario) -> Result<Board, TargetError> {
    let wanted = &scenario.board;
    let mut text = if wanted.name == "default" {
        String::new()
    } else {
        std::fs::read_to_string(&wanted.name)
            .map_err(|error| TargetError(format!("board `{}`: {error}\n   = hint: `default`, or the path of a board file", wanted.name)))?
    };
    let mut own = wanted.tables.clone();
    for disk in &scenario.disks {
        let (model, size, read_only) = (disk.model.name(), disk.size_bytes, disk.read_only);
        own.push_str(&format!("\n[[disk]]\nmodel = \"{model}\"\nsize = {size}\nread_only = {read_only}"));
    }
    // Alone first: so that a complaint names the scenario's lines.
    let named = |error: sim_board::ConfigError| TargetError(format!("scenario {}: {error}", scenario.name));
    Board::from_toml(&own).map_err(named)?;
    text.push('\n');
    text.push_str(&own);
    let mut board = Board::from_toml(&text).map_err(|error| TargetError(format!("{}: {error}", wanted.name)))?;
    board.vcpus = wanted.vcpus;
    board.ram = wanted.memory_bytes;
    board.seed = wanted.seed;
    if board.disk_journal == Keep::Nothing {
        // The bundle tells of the disks' operations.
        board.disk_journal = Keep::Operations;
    }
    Ok(board)
}

/// Names of the models of a board's disks and NICs and of its other plug-in devices, as board tables spell them.
#[must_use]
pub fn models(board: &Board) -> Vec<String> {
    let disks = board.disks.iter().map(|disk| spelt(&disk.model));
    let nics = board.nics.iter().map(|nic| spelt(&nic.model));
    let others = [("virtio-rng", board.rng), ("virtio-console", board.virtio_console)].into_iter().filter(|(_, there)| *there);
    disks.chain(nics).chain(others.map(|(name, _)| name.to_owned())).collect()
}

/// The accesses to hardware that is not there, each once; neighbours in one line.
#[must_use]
pub fn unimplemented(machine: &Machine) -> Vec<String> {
    let mut sorted: Vec<_> = machine.unimplemented().collect();
    sorted.sort_by_key(|(access, _)| (access.source, access.write, access.size, access.address));
    let mut lines = Vec::new();
    let mut rest = sorted.as_slice();
    while let Some((first, _)) = rest.first() {
        let alike = |access: &sim_board::Unimplemented| (access.source, access.write, access.size) == (first.source, first.write, first.size);
        let side_by_side = if first.source == "msr" { 1 } else { u64::from(first.size) };
        let stride = rest.get(1).filter(|(next, _)| alike(next)).map_or(side_by_side, |(next, _)| next.address - first.address);
        let steps = rest.windows(2).take_while(|pair| alike(pair[1].0) && pair[1].0.address - pair[0].0.address == stride).count();
        // Two that are far apart are no row.
        let count = if steps >= 2 || stride == side_by_side { steps + 1 } else { 1 };
        let (row, after) = rest.split_at(count);
        let times: u64 = row.iter().map(|(_, times)| times).sum();
        let every = if stride == side_by_side { String::new() } else { format!(" every {stride:#x}") };
        lines.push(match row.last() {
            Some((last, _)) if count > 1 => format!("{first} to {:#x}{every}, {times} times", last.address),
            _ => format!("{first}, {times} times"),
        });
        rest = after;
    }
    lines
}

/// How a board table spells a unit variant.
fn spelt(model: &impl std::fmt::Debug) -> String {
    let mut name = String::new();
    for (index, letter) in format!("{model:?}").char_indices() {
        if index > 0 && letter.is_ascii_uppercase() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// Cuts a run into slices of 1, 13 and 777 ticks at random. The run must not show it.
#[derive(Debug)]
pub struct Cuts(Rng);

impl Cuts {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Streams::new(seed).stream("cuts"))
    }

    /// Runs to one of the conditions of `until`, of which at most single bytes of output may be one, in many pieces.
    pub fn run(&mut self, machine: &mut Machine, until: &Until) -> Outcome {
        loop {
            let slice = SLICES[usize::try_from(self.0.below(SLICES.len() as u64)).unwrap_or(0)];
            let next = machine.ticks().saturating_add(slice);
            let outcome = machine.run(&until.clone().or_ticks(until.ticks.map_or(next, |limit| limit.min(next))));
            let due = until.ns.is_some_and(|limit| machine.now_ns() >= limit) || until.ticks.is_some_and(|limit| machine.ticks() >= limit);
            if outcome != Outcome::Deadline || due {
                return outcome;
            }
        }
    }
}

impl Simulator {
    /// Builds the machine, halted before its first instruction.
    pub fn new(board: &Board, boot: &Boot<'_>) -> Result<Self, TargetError> {
        let machine = Machine::new(board, boot).map_err(|error| TargetError(error.to_string()))?;
        Ok(Self { machine, idle_ns: 0, cuts: None, sampler: None })
    }

    /// Cuts the run from here on into slices drawn from this seed.
    pub fn cut(&mut self, seed: u64) {
        self.cuts = Some(Cuts::new(seed));
    }

    /// Has the stacks of the vCPUs written down every so many ticks, and the interrupts they take. The run does not show it.
    pub fn watch(&mut self, every: u64) {
        self.sampler = Some(Sampler::new(every));
        self.machine.watch_interrupts();
    }

    /// The machine itself.
    #[must_use]
    pub fn into_machine(self) -> Machine {
        self.machine
    }

    /// The machine, and what was seen of its vCPUs with the ticks between two looks.
    #[must_use]
    pub fn into_watched(self) -> (Machine, Vec<report::Sample>, u64) {
        let (samples, every) = self.sampler.map_or((Vec::new(), 0), Sampler::finish);
        (self.machine, samples, every)
    }
}

fn port(line: Line) -> Port {
    match line {
        Line::Console => Port::Com1,
        Line::Agent => Port::Com2,
    }
}

impl Target for Simulator {
    fn name(&self) -> &'static str {
        "simulator"
    }

    fn advance(&mut self) -> Result<Option<End>, TargetError> {
        let until = Until::ns(self.machine.now_ns().saturating_add(PIECE_NS)).or_output(Port::Com2, b"\n");
        let outcome = match (&mut self.cuts, &mut self.sampler) {
            (Some(cuts), _) => cuts.run(&mut self.machine, &until),
            (None, Some(sampler)) => sampler.run(&mut self.machine, &until),
            (None, None) => self.machine.run(&until),
        };
        Ok(match outcome {
            Outcome::Deadline | Outcome::Output(_) | Outcome::AnyOutput(_) | Outcome::Quiet | Outcome::Debug { .. } => None,
            Outcome::Stuck => {
                self.idle_ns = self.idle_ns.saturating_add(PIECE_NS);
                None
            }
            Outcome::DebugExit(status) => Some(End::DebugExit(status)),
            Outcome::PowerOff => Some(End::PowerOff),
            Outcome::Reset => Some(End::Reset),
            Outcome::PowerCut => Some(End::PowerCut),
            Outcome::TripleFault { .. } => Some(End::TripleFault),
        })
    }

    fn take(&mut self, line: Line) -> Vec<u8> {
        self.machine.serial_take(port(line))
    }

    fn put(&mut self, line: Line, bytes: &[u8]) -> Result<(), TargetError> {
        self.machine.serial_put(port(line), bytes);
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        self.machine.now_ns().saturating_add(self.idle_ns)
    }

    fn ticks(&self) -> Option<u64> {
        Some(self.machine.ticks())
    }

    fn receipt(&mut self) -> Option<String> {
        Some(self.machine.receipt())
    }

    fn disks(&mut self) -> Vec<Vec<u8>> {
        (0..u8::MAX).map_while(|index| self.machine.disk_content(index)).collect()
    }

    fn events(&mut self) -> Vec<String> {
        self.machine.events().iter().map(ToString::to_string).collect()
    }

    fn unimplemented(&mut self) -> Vec<String> {
        unimplemented(&self.machine)
    }
}
