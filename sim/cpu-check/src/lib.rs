//! Random programs on both engines: whatever the translator does must be what the interpreter does, tick by tick.
//!
//! # Theory
//! A program ([`program`]) is machine code from random bytes, in loops so that it gets hot, in ring 0 or 3, with registers that often point into its data,
//! sometimes into its code or across the end of its memory. Every exception enters a handler that writes down what was pushed and all registers,
//! loads the registers anew and goes on with another piece. So a state that is wrong at one fault is seen in memory at the end.
//!
//! The run is compared ([`Pair::compare`]) between the interpreter in one piece and the translator, in one piece or cut, from the first run of a block or a later
//! one: registers, flags, SSE state, memory, TLB, what the bus saw, and ticks. Machines are not made anew for each program: pages written by the last one
//! are put back, and several programs share their code, so that thousands a second are compared.
//!
//! # Structures
//! [`Difference`] names the seed, the cut and the first field. [`narrow`] finds the last tick at which both agree and shows the block there, guest and host.
//!
//! # Failure
//! A host without a translator has nothing to compare: [`Pair::new`] says so.
//!
//! # Limits
//! One vCPU, 8 MiB, no devices but an echo; sequences longer than 12,000 ticks are not tried.

mod bus;
mod narrow;
mod program;

pub use bus::EchoBus;
pub use narrow::narrow;
pub use program::{Image, Pieces, Program, Rng};

use sim_cpu::{Cpu, Stop};
use sim_mem::{GuestMemory, PAGE_SIZE};
use std::sync::Arc;

/// How an engine runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Runs before a block is translated; `None` interprets.
    pub hot: Option<u16>,
    /// Ticks of each piece.
    pub cut: u64,
}

/// One vCPU with its memory and bus: loaded with one program after the other.
pub struct Bench {
    pub cpu: Cpu,
    pub memory: GuestMemory,
    pub bus: EchoBus,
    /// It has stopped for good.
    pub ended: bool,
    /// Memory with the tables alone.
    tables: Arc<[u8]>,
    /// Whose code is there, and its pages.
    group: Option<u64>,
    code: Vec<(u32, Box<[u8]>)>,
    /// Groups loaded.
    groups: u32,
}

/// Groups after which decoded code that none of their programs wrote over (the handlers') is forgotten.
const FORGET: u32 = 32;

impl Bench {
    /// A bench without a program.
    ///
    /// # Errors
    /// The host cannot translate.
    pub fn new(hot: Option<u16>) -> Result<Bench, sim_translate::Unavailable> {
        let (mut cpu, mut memory) = Program::machine();
        cpu.set_translating(hot)?;
        memory.clear_dirty();
        let tables = memory.ram().into();
        Ok(Bench { cpu, memory, bus: EchoBus::new(None), ended: false, tables, group: None, code: Vec::new(), groups: 0 })
    }

    /// A bench at the start of a program.
    ///
    /// # Errors
    /// The host cannot translate.
    pub fn with(program: &Program, hot: Option<u16>) -> Result<Bench, sim_translate::Unavailable> {
        let mut bench = Bench::new(hot)?;
        bench.load(&program.image());
        Ok(bench)
    }

    /// Goes to the start of a program. Of the ones before nothing is left but what they had decoded of code that is still there, which none can see.
    pub fn load(&mut self, program: &Image) {
        let same = self.group == Some(program.pieces.group);
        if !same {
            // Pages that hold code become dirty, and so the tables' again.
            for (page, _) in self.code.drain(..) {
                self.memory.open_for_write(page as usize * PAGE_SIZE as usize);
            }
        }
        for page in self.memory.dirty_pages().to_vec() {
            let at = page as usize * PAGE_SIZE as usize;
            let code = self.code.iter().find(|(other, _)| *other == page);
            self.memory.restore_page(page, code.map_or(&self.tables[at..at + PAGE_SIZE as usize], |(_, bytes)| bytes));
        }
        self.memory.clear_dirty();
        if !same {
            program.load_code(&mut self.memory);
            self.code = self.memory.dirty_pages().iter().map(|&page| (page, self.memory.page(page).into())).collect();
            self.memory.clear_dirty();
            self.group = Some(program.pieces.group);
            if self.groups.is_multiple_of(FORGET) {
                self.cpu.flush_blocks();
            }
            self.groups += 1;
        }
        program.load(&mut self.cpu, &mut self.memory);
        self.cpu.flush_tlb();
        self.memory.trim_code_log(self.cpu.code_log_position());
        self.bus = EchoBus::new(program.interrupt);
        self.ended = false;
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

/// What differs between two machines that should be equal and hold the same program.
pub fn differences(left: &Bench, right: &Bench) -> Vec<String> {
    let mut what = Vec::new();
    let (mine, theirs) = (left.cpu.state(), right.cpu.state());
    // NaNs have no place in a state: it is bits.
    if mine != theirs {
        what = mine.save().diff(&theirs.save());
    }
    if left.cpu.tlb_entries() != right.cpu.tlb_entries() {
        what.push("TLB".to_owned());
    }
    // Neither wrote anything else since it was loaded.
    let pages = left.memory.dirty_pages().iter().chain(right.memory.dirty_pages());
    if let Some(&page) = pages.filter(|&&page| left.memory.page(page) != right.memory.page(page)).min() {
        let (mine, theirs) = (left.memory.page(page), right.memory.page(page));
        let at = mine.iter().zip(theirs).position(|(a, b)| a != b).unwrap_or(0);
        what.push(format!("memory at {:#x}: {:#04x} and {:#04x}", u64::from(page) * PAGE_SIZE + at as u64, mine[at], theirs[at]));
    }
    if left.bus.seen != right.bus.seen {
        what.push("what the bus saw".to_owned());
    }
    if left.ended != right.ended {
        what.push(format!("ended: {} and {}", left.ended, right.ended));
    }
    what
}

/// The plan a seed is tried with.
pub fn plan(seed: u64) -> Plan {
    let mut rng = Rng::new(!seed);
    let cut = match rng.below(8) {
        0..=2 => u64::MAX,
        3 => 777,
        4 => 13,
        5 if rng.below(8) == 0 => 1,
        _ => 2 + rng.below(300),
    };
    Plan { hot: Some(1 + rng.below(3) as u16), cut }
}

/// Both engines, to be loaded with one program after the other.
pub struct Pair {
    interpreter: Bench,
    translator: Bench,
    /// The code of the last program.
    pieces: Option<Pieces>,
}

impl Pair {
    /// # Errors
    /// The host cannot translate.
    pub fn new() -> Result<Pair, sim_translate::Unavailable> {
        Ok(Pair { interpreter: Bench::new(None)?, translator: Bench::new(Some(1))?, pieces: None })
    }

    /// Runs the program of `seed` on both.
    ///
    /// # Errors
    /// The host cannot translate.
    pub fn compare(&mut self, seed: u64) -> Result<Option<Difference>, sim_translate::Unavailable> {
        let (program, plan) = (Program::new(seed), plan(seed));
        let pieces = self.pieces.take().filter(|pieces| pieces.group == program.group()).unwrap_or_else(|| program.pieces());
        let image = program.image_with(&pieces);
        self.pieces = Some(pieces);
        self.interpreter.load(&image);
        self.interpreter.run_to(program.ticks, u64::MAX);
        self.translator.cpu.set_heat(plan.hot.unwrap_or(1));
        self.translator.load(&image);
        self.translator.run_to(program.ticks, plan.cut);
        let what = differences(&self.interpreter, &self.translator);
        Ok(if what.is_empty() { None } else { Some(Difference { seed, plan, what }) })
    }

    /// The alarm's test: which of the first `cases` programs find out a translator that forgets a carry.
    ///
    /// # Errors
    /// The host cannot translate.
    pub fn alarms(cases: u64) -> Result<Vec<u64>, sim_translate::Unavailable> {
        let mut pair = Pair::new()?;
        pair.translator.cpu.spoil_translator();
        let mut found = Vec::new();
        for seed in 0..cases {
            if pair.compare(seed)?.is_some() {
                found.push(seed);
            }
        }
        Ok(found)
    }
}

/// Compares `cases` programs from `seed` on: a line of what was done, or the first difference with the code that made it.
///
/// # Errors
/// A difference, or a host without translator.
pub fn campaign(seed: u64, cases: u64) -> Result<String, String> {
    let mut pair = Pair::new().map_err(|why| why.to_string())?;
    let mut ticks = 0;
    for case in seed..seed.saturating_add(cases) {
        match pair.compare(case) {
            Ok(None) => ticks += pair.interpreter.cpu.ticks(),
            Ok(Some(difference)) => return Err(format!("{difference}{}", narrow(&difference))),
            Err(why) => return Err(why.to_string()),
        }
    }
    Ok(format!("{cases} programs, {ticks} ticks, interpreted and translated: equal"))
}
