//! The simulator as a target.

use crate::target::{End, Line, Target, TargetError};
use sim_board::{Board, Boot, Machine, Outcome, Port, Until};

/// Virtual time after which the runner looks at the console again. The agent's answers end a piece at once.
const PIECE_NS: u64 = 5_000_000;

/// A simulated machine.
#[allow(missing_debug_implementations, reason = "a machine is hundreds of megabytes of state; nothing prints it")]
pub struct Simulator {
    machine: Machine,
    /// Virtual time that passed while all CPUs were halted and only input could have woken one: the machine's own clock stands then.
    idle_ns: u64,
}

/// The simulator's board for a scenario.
pub fn board(wanted: &scenario::Board) -> Result<Board, TargetError> {
    let mut board = if wanted.name == "default" {
        Board::default()
    } else {
        let text = std::fs::read_to_string(&wanted.name)
            .map_err(|error| TargetError(format!("board `{}`: {error}\n   = hint: `default`, or the path of a board file", wanted.name)))?;
        Board::from_toml(&text).map_err(|error| TargetError(format!("{}: {error}", wanted.name)))?
    };
    board.vcpus = wanted.vcpus;
    board.ram = wanted.memory_bytes;
    board.seed = wanted.seed;
    Ok(board)
}

impl Simulator {
    /// Builds the machine, halted before its first instruction.
    pub fn new(board: &Board, kernel: &[u8], initrd: Option<&[u8]>, append: &str) -> Result<Self, TargetError> {
        let machine = Machine::new(board, &Boot::new(kernel, initrd, append)).map_err(|error| TargetError(error.to_string()))?;
        Ok(Self { machine, idle_ns: 0 })
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
        let until = Until::ns(self.machine.now_ns().saturating_add(PIECE_NS)).or_output(Port::Com2, b"\n");
        Ok(match self.machine.run(&until) {
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

    fn events(&mut self) -> Vec<String> {
        self.machine.events().iter().map(ToString::to_string).collect()
    }

    fn unimplemented(&mut self) -> Vec<String> {
        self.machine.unimplemented().map(|(access, count)| format!("{access}, {count} times")).collect()
    }
}
