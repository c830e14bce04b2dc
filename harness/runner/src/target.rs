//! What the runner asks of a machine, whichever it is.

/// The two serial lines of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// COM1: the console.
    Console,
    /// COM2: the agent.
    Agent,
}

/// How a machine came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A write to the debug-exit port; the status is what QEMU would exit with, `value << 1 | 1`.
    DebugExit(u32),
    PowerOff,
    Reset,
    /// The fault plan cut the power.
    PowerCut,
    TripleFault,
    /// All CPUs halted with nothing that could wake them.
    Stuck,
    /// The runner has what it wants.
    Stopped,
    /// The tick (or time) limit of the scenario.
    Limit,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DebugExit(status) => write!(f, "debug exit, status {status}"),
            Self::PowerOff => f.write_str("powered off"),
            Self::Reset => f.write_str("reset itself"),
            Self::PowerCut => f.write_str("power cut"),
            Self::TripleFault => f.write_str("triple fault"),
            Self::Stuck => f.write_str("all CPUs halted and nothing could wake them"),
            Self::Stopped => f.write_str("all steps done"),
            Self::Limit => f.write_str("limit reached"),
        }
    }
}

/// A machine that cannot go on, for a reason outside the guest.
#[derive(Debug)]
pub struct TargetError(pub String);

impl std::fmt::Display for TargetError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TargetError {}

/// A machine that runs, with two serial lines.
///
/// The runner calls [`Target::advance`] in a loop and reacts to what the lines then hold, so on a machine with virtual time everything that
/// enters the guest depends on guest output and virtual time only.
pub trait Target {
    /// What a report calls it.
    fn name(&self) -> &'static str;
    /// Lets the machine run until a line has output, or a short while has passed. `Some`: it ended, and stays ended.
    fn advance(&mut self) -> Result<Option<End>, TargetError>;
    /// Takes what the guest wrote.
    fn take(&mut self, line: Line) -> Vec<u8>;
    /// Gives the guest bytes to read, as fast as it reads them.
    fn put(&mut self, line: Line, bytes: &[u8]) -> Result<(), TargetError>;
    /// Nanoseconds since power-on: virtual, or the wall clock's where there is no virtual time.
    fn now_ns(&self) -> u64;
    /// Ticks so far, where they are counted.
    fn ticks(&self) -> Option<u64>;
    /// Hash over the machine's whole course, where there is one.
    fn receipt(&mut self) -> Option<String>;
    /// What is on the disks now, in order.
    fn disks(&mut self) -> Vec<Vec<u8>>;
    /// The machine's own event log.
    fn events(&mut self) -> Vec<String>;
    /// Accesses to hardware that is not there, each once.
    fn unimplemented(&mut self) -> Vec<String>;
}
