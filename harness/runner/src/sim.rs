//! The simulator as a target.

use crate::target::{End, Line, Target, TargetError};
use scenario::Scenario;
use sim_board::{Board, Boot, Machine, Outcome, Port, Until};
use sim_core::{Rng, Streams};

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
    /// Where the run is cut into slices: from which random numbers.
    cuts: Option<Rng>,
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
    Ok(board)
}

/// Names of the models of a board's disks and NICs, as board tables spell them.
#[must_use]
pub fn models(board: &Board) -> Vec<String> {
    board.disks.iter().map(|disk| spelt(&disk.model)).collect()
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

impl Simulator {
    /// Builds the machine, halted before its first instruction.
    pub fn new(board: &Board, boot: &Boot<'_>) -> Result<Self, TargetError> {
        let machine = Machine::new(board, boot).map_err(|error| TargetError(error.to_string()))?;
        Ok(Self { machine, idle_ns: 0, cuts: None })
    }

    /// Cuts the run from here on into slices of [`SLICES`] ticks, drawn from a stream of this seed.
    pub fn cut(&mut self, seed: u64) {
        self.cuts = Some(Streams::new(seed).stream("cuts"));
    }

    /// Runs to one of the conditions of `until`, in one piece or in many.
    fn run(&mut self, until: &Until, limit_ns: u64) -> Outcome {
        let Some(cuts) = &mut self.cuts else { return self.machine.run(until) };
        loop {
            let slice = SLICES[usize::try_from(cuts.below(SLICES.len() as u64)).unwrap_or(0)];
            let outcome = self.machine.run(&until.clone().or_ticks(self.machine.ticks().saturating_add(slice)));
            if outcome != Outcome::Deadline || self.machine.now_ns() >= limit_ns {
                return outcome;
            }
        }
    }

    /// The machine itself.
    #[must_use]
    pub fn into_machine(self) -> Machine {
        self.machine
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
        let limit_ns = self.machine.now_ns().saturating_add(PIECE_NS);
        let until = Until::ns(limit_ns).or_output(Port::Com2, b"\n");
        Ok(match self.run(&until, limit_ns) {
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
        self.machine.unimplemented().map(|(access, count)| format!("{access}, {count} times")).collect()
    }
}
