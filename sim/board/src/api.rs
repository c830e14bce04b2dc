//! What the machine is given and what it says: the types of its public interface.

/// What to boot.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// The kernel image: PVH ELF, Multiboot 1 or 2 ELF, or bzImage.
    pub kernel: &'a [u8],
    /// The initial RAM disk (first module).
    pub initrd: Option<&'a [u8]>,
    /// The command line.
    pub append: &'a str,
    /// Images of the board's disks, by position; an absent one leaves the board's empty disk.
    pub disks: &'a [Vec<u8>],
    /// What follows the initial RAM disk, for kernels that take more than one module (Multiboot, PVH).
    pub modules: &'a [Module<'a>],
}

/// A file in memory with a command line of its own.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    pub content: &'a [u8],
    pub append: &'a str,
}

impl<'a> Boot<'a> {
    pub fn new(kernel: &'a [u8], initrd: Option<&'a [u8]>, append: &'a str) -> Self {
        Self { kernel, initrd, append, disks: &[], modules: &[] }
    }
}

/// A serial line of the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// 0x3f8, IRQ 4: the console.
    Com1,
    /// 0x2f8, IRQ 3: the agent.
    Com2,
    /// The virtio console, if the board has one.
    Virtio,
}

impl Port {
    pub(crate) fn index(self) -> usize {
        match self {
            Port::Com1 => 0,
            Port::Com2 => 1,
            Port::Virtio => 2,
        }
    }

    /// The line with an index; past the last, the last.
    pub(crate) fn from_index(index: usize) -> Self {
        match index {
            0 => Port::Com1,
            1 => Port::Com2,
            _ => Port::Virtio,
        }
    }
}

/// When [`crate::Machine::run`] returns at the latest. The first condition to hold ends the run, at the exact tick at which it holds;
/// whatever is chosen here, the run itself is the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Until {
    /// At this tick (absolute).
    pub ticks: Option<u64>,
    /// At the first tick at which virtual time is at least this (absolute).
    pub ns: Option<u64>,
    /// When a vCPU has retired this many ticks (absolute).
    pub vcpu_ticks: Option<(usize, u64)>,
    /// When a line has printed this text since the call began. Several may be given; the first to complete ends the run.
    pub output: Vec<(Port, Vec<u8>)>,
    /// When any byte is printed on one of these lines.
    pub any_output: Vec<Port>,
    /// At the next checkpoint, right after it was taken: where snapshots can be taken.
    pub checkpoint: bool,
    /// When the line has been silent, with all its input taken by the guest, for this many virtual nanoseconds.
    pub quiet: Option<(Port, u64)>,
}

impl Until {
    /// Runs to an absolute tick.
    pub fn ticks(ticks: u64) -> Self {
        Self { ticks: Some(ticks), ..Self::default() }
    }
    /// Runs to an absolute virtual time.
    pub fn ns(ns: u64) -> Self {
        Self { ns: Some(ns), ..Self::default() }
    }
    /// Adds a text to wait for.
    pub fn or_output(mut self, port: Port, text: &[u8]) -> Self {
        self.output.push((port, text.to_vec()));
        self
    }
    /// Adds a stop at any output on a line.
    pub fn or_any_output(mut self, port: Port) -> Self {
        self.any_output.push(port);
        self
    }
    /// Adds a stop after silence on a line.
    pub fn or_quiet(mut self, port: Port, ns: u64) -> Self {
        self.quiet = Some((port, ns));
        self
    }
    /// Adds a tick limit.
    pub fn or_ticks(mut self, ticks: u64) -> Self {
        self.ticks = Some(ticks);
        self
    }
    /// Adds a time limit.
    pub fn or_ns(mut self, ns: u64) -> Self {
        self.ns = Some(ns);
        self
    }
}

/// Why a run came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The tick or time limit was reached exactly, or the checkpoint that was asked for was taken.
    Deadline,
    /// The text with this index in [`Until::output`] was printed in full.
    Output(usize),
    /// A byte was printed on a line of [`Until::any_output`].
    AnyOutput(Port),
    /// A line was quiet for as long as asked.
    Quiet,
    /// The guest wrote the debug-exit port: the status of `isa-debug-exit`, `value << 1 | 1`.
    DebugExit(u32),
    /// The guest powered the machine off (ACPI S5).
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The fault plan cut the power.
    PowerCut,
    /// A vCPU met an exception while delivering #DF.
    TripleFault { vcpu: u32 },
    /// Every vCPU is halted and nothing is pending that could wake one: only input can.
    Stuck,
    /// The debugger's breakpoint or watchpoint.
    Debug { vcpu: u32, stop: sim_bus::DebugStop },
}

impl Outcome {
    /// Whether the machine has come to its end: running on is not possible.
    pub fn is_final(self) -> bool {
        match self {
            Outcome::DebugExit(_) | Outcome::PowerOff | Outcome::Reset | Outcome::PowerCut | Outcome::TripleFault { .. } => true,
            Outcome::Deadline
            | Outcome::Output(_)
            | Outcome::AnyOutput(_)
            | Outcome::Quiet
            | Outcome::Stuck
            | Outcome::Debug { .. } => false,
        }
    }
}

/// Something that entered from outside, and when: a run is a function of board, boot and these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The tick at which it entered.
    pub ticks: u64,
    /// The virtual time (a halted machine's ticks stand still).
    pub ns: u64,
    pub what: InputKind,
}

/// Kinds of outside input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// Bytes typed at a serial line.
    Serial { port: Port, bytes: Vec<u8> },
    /// The power button is pressed.
    PowerButton,
    /// A non-maskable interrupt to vCPU 0.
    Nmi,
    /// From here on the vCPUs take turns by another seed, adversarial or not ([`crate::Board::chaos`]).
    Turns { chaos: bool, seed: u64 },
    /// A checkpoint at this very tick, besides the regular ones.
    Checkpoint,
}
