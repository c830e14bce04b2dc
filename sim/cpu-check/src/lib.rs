//! Random programs on both engines: whatever the translator does must be what the interpreter does, tick by tick.
//!
//! # Theory
//! A program ([`program`]) is machine code from random bytes, in loops so that it gets hot, in ring 0 or 3, with registers that often point into its data,
//! sometimes into its code or across the end of its memory. Every exception enters a handler that writes down what was pushed and all registers,
//! loads the registers anew and goes on with another piece. So a state that is wrong at one fault is seen in memory at the end.
//!
//! The run is compared ([`compare`]) between the interpreter in one piece and the translator, in one piece or cut, from the first run of a block or a later one:
//! registers, flags, SSE state, memory, TLB, what the bus saw, and ticks.
//!
//! # Structures
//! [`Difference`] names the seed, the cut and the first field. [`narrow`] finds the last tick at which both agree and shows the block there, guest and host.
//!
//! # Failure
//! A host without a translator has nothing to compare: [`compare`] says so.
//!
//! # Limits
//! One vCPU, 8 MiB, no devices but an echo; sequences longer than [`TICKS`] are not tried.

mod bus;
mod narrow;
mod program;

pub use bus::EchoBus;
pub use narrow::narrow;
pub use program::{Program, Rng};

use sim_cpu::{Cpu, Stop};
use sim_mem::GuestMemory;

/// Ticks a program runs.
pub const TICKS: u64 = 12_000;

/// How an engine runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Runs before a block is translated; `None` interprets.
    pub hot: Option<u16>,
    /// Ticks of each piece.
    pub cut: u64,
}

/// One vCPU with its memory and bus, in the middle of a program.
pub struct Bench {
    pub cpu: Cpu,
    pub memory: GuestMemory,
    pub bus: EchoBus,
    /// It has stopped for good.
    pub ended: bool,
}

impl Bench {
    /// # Errors
    /// The host cannot translate.
    pub fn new(program: &Program, hot: Option<u16>) -> Result<Bench, sim_translate::Unavailable> {
        let (mut cpu, memory) = program.machine();
        cpu.set_translating(hot)?;
        Ok(Bench { cpu, memory, bus: EchoBus::new(program.interrupt), ended: false })
    }

    /// Runs to `tick`, in pieces of `cut`.
    pub fn run_to(&mut self, tick: u64, cut: u64) {
        while !self.ended && self.cpu.ticks() < tick {
            let now = self.cpu.ticks();
            let mut deadline = tick.min(now.saturating_add(cut));
            // As a board does: a run ends where an event is due.
            if let Some(due) = self.bus.due.filter(|&due| due > now) {
                deadline = deadline.min(due);
            }
            self.bus.base = now;
            match self.cpu.run(&mut self.memory, &mut self.bus, deadline) {
                Stop::Deadline | Stop::Pause => {}
                Stop::Halted | Stop::Requested | Stop::TripleFault | Stop::Debug(_) => self.ended = true,
            }
        }
    }
}

/// Where two engines differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub seed: u64,
    pub plan: Plan,
    /// The fields that differ, with both values.
    pub what: Vec<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "seed {}, translated after {:?} runs, pieces of {} ticks:", self.seed, self.plan.hot, self.plan.cut)?;
        for line in &self.what {
            writeln!(out, "  {line}")?;
        }
        Ok(())
    }
}

/// What differs between two machines that should be equal.
pub fn differences(left: &Bench, right: &Bench) -> Vec<String> {
    let mut what = left.cpu.state().save().diff(&right.cpu.state().save());
    if left.cpu.tlb_entries() != right.cpu.tlb_entries() {
        what.push("TLB".to_owned());
    }
    if let Some(at) = left.memory.ram().iter().zip(right.memory.ram()).position(|(a, b)| a != b) {
        what.push(format!("memory at {at:#x}: {:#04x} and {:#04x}", left.memory.ram()[at], right.memory.ram()[at]));
    }
    if left.bus.seen != right.bus.seen {
        what.push("what the bus saw".to_owned());
    }
    if left.ended != right.ended {
        what.push(format!("ended: {} and {}", left.ended, right.ended));
    }
    what
}

/// The plans a seed is tried with.
pub fn plans(seed: u64) -> [Plan; 2] {
    let cut = [u64::MAX, 777, 13, 1][(seed % 4) as usize];
    [Plan { hot: Some(1 + (seed / 4 % 3) as u16), cut: u64::MAX }, Plan { hot: Some(1), cut }]
}

/// Runs the program of `seed` on both engines.
///
/// # Errors
/// The host cannot translate.
pub fn compare(seed: u64) -> Result<Option<Difference>, sim_translate::Unavailable> {
    let program = Program::new(seed);
    let mut reference = Bench::new(&program, None)?;
    reference.run_to(TICKS, u64::MAX);
    for plan in plans(seed) {
        let mut bench = Bench::new(&program, plan.hot)?;
        bench.run_to(TICKS, plan.cut);
        let what = differences(&reference, &bench);
        if !what.is_empty() {
            return Ok(Some(Difference { seed, plan, what }));
        }
    }
    Ok(None)
}

/// Compares `cases` programs from `seed` on: a line of what was done, or the first difference with the code that made it.
///
/// # Errors
/// A difference, or a host without translator.
pub fn campaign(seed: u64, cases: u64) -> Result<String, String> {
    for case in seed..seed.saturating_add(cases) {
        match compare(case) {
            Ok(None) => {}
            Ok(Some(difference)) => return Err(format!("{difference}{}", narrow(&difference))),
            Err(why) => return Err(why.to_string()),
        }
    }
    Ok(format!("{cases} programs of {TICKS} ticks, each on the interpreter and twice translated: equal"))
}

/// The alarm's test: whether a translator that forgets a carry is found out by `cases` programs.
///
/// # Errors
/// The host cannot translate.
pub fn alarm_rings(cases: u64) -> Result<bool, sim_translate::Unavailable> {
    for seed in 0..cases {
        let program = Program::new(seed);
        let mut reference = Bench::new(&program, None)?;
        let mut spoiled = Bench::new(&program, Some(1))?;
        spoiled.cpu.spoil_translator();
        reference.run_to(TICKS, u64::MAX);
        spoiled.run_to(TICKS, u64::MAX);
        if !differences(&reference, &spoiled).is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
