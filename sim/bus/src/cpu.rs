//! What a CPU asks of the board, and what the board asks of a CPU.

/// Where and when an access happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Index of the vCPU.
    pub vcpu: u32,
    /// Ticks this vCPU has retired since the `run` call that made the access began (the accessing instruction not counted).
    /// The board adds it to the tick at which the turn began to get the exact time.
    pub ticks: u64,
}

/// A value from outside the CPU's own state. Sizes are 1, 2, 4 or 8 bytes; values are zero-extended.
///
/// After any call that can change interrupts, deadlines or the memory map, the engine ends the current block after the accessing
/// instruction and asks [`CpuBus::attention`] again, so the board may react at an exact tick.
pub trait CpuBus {
    fn mmio_read(&mut self, at: At, gpa: u64, size: u8) -> u64;
    fn mmio_write(&mut self, at: At, gpa: u64, size: u8, value: u64);
    fn port_in(&mut self, at: At, port: u16, size: u8) -> u32;
    fn port_out(&mut self, at: At, port: u16, size: u8, value: u32);
    /// MSRs the engine does not own (APIC base, x2APIC, TSC deadline, ...). `None`: #GP.
    fn msr_read(&mut self, at: At, msr: u32) -> Option<u64>;
    /// `false`: #GP.
    fn msr_write(&mut self, at: At, msr: u32, value: u64) -> bool;
    /// Time-stamp counter before TSC offset.
    fn tsc(&mut self, at: At) -> u64;
    /// Task priority (CR8), 0 to 15.
    fn cr8(&mut self, at: At) -> u8;
    fn set_cr8(&mut self, at: At, value: u8);
    /// Takes the highest-priority pending interrupt (INTA cycle). Called only when [`CpuBus::attention`] said one is deliverable and
    /// the CPU can take it. `None`: it went away (spurious).
    fn acknowledge(&mut self, at: At) -> Option<u8>;
    /// Takes the pending NMI (it is being delivered). Called only when [`CpuBus::attention`] said one is pending.
    fn take_nmi(&mut self, at: At);
    /// What is pending for this vCPU right now.
    fn attention(&mut self, at: At) -> Attention;
    /// RDRAND and RDSEED.
    fn random(&mut self) -> u64;
}

/// Pending requests to a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attention {
    /// A maskable interrupt above the task priority is pending (delivered when IF allows).
    pub interrupt: bool,
    pub nmi: bool,
    pub smi: bool,
    /// The board wants the vCPU to stop before the next instruction (power off, debug exit, deadline moved closer).
    pub stop: bool,
}

/// Why `run` came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The deadline in ticks was reached exactly.
    Deadline,
    /// HLT with nothing deliverable; the vCPU is halted until an interrupt.
    Halted,
    /// PAUSE, with the board's "pause ends the turn" option on.
    Pause,
    /// [`Attention::stop`].
    Requested,
    /// A breakpoint or watchpoint of the host debugger, before the instruction (breakpoint) or after it (watchpoint).
    Debug(DebugStop),
    /// Exception while delivering #DF.
    TripleFault,
}

/// Which debugger stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugStop {
    Breakpoint { rip: u64 },
    Watch { address: u64, write: bool },
}
