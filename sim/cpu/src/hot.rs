//! Translated blocks: when a block becomes hot, how it is entered and left. The code itself is `sim-translate`'s.
//!
//! # Theory
//! A block is counted each time the interpreter runs it; at [`HOT`] it is translated and gets [`TRANSLATED`]. The block loop enters it through
//! [`Cpu::run_translated`], which comes back as if the block that was left last had just been interpreted. So everything between blocks (links, code page,
//! deadline, events) is done in one place, for both.
//!
//! Which translation is used, and when, cannot be seen: a unit leaves before an instruction it cannot do, and the interpreter does that one.
//!
//! A block ends where its unit does: what the unit cannot do begins a block of its own, which the interpreter runs, and which is in turn cut before what can be translated
//! again. So the way round such an instruction is one of links, with nothing to look up.
//!
//! # Pages
//! Going to another page fetches through the TLB, which is state. [`Cpu::code_page`] leaves a fetch word in the fast tags when a fetch succeeded; units compare it
//! and come back ([`Left::Fetch`]) where it is not theirs. While it is there, the interpreter's fetch would hit, and change nothing.

use crate::block::{Block, Cache, TRANSLATED};
use crate::core::mode;
use crate::cpuid::CpuidTable;
use crate::op::Flow;
use crate::run::Cpu;
use crate::state::{FS, GS};
use crate::tlb::ENTRIES;
use sim_mem::GuestMemory;
use sim_translate::{Counts, Guest, How, Translator, Unavailable, UnitId};

/// Runs of a block before it is translated, where nothing else is asked for.
pub const HOT: u16 = 40;
/// The translator has refused it.
const NEVER: u16 = u16::MAX;
/// MXCSR's exception masks: with one of them clear, SSE could fault, which translated code does not expect.
const MXCSR_MASKS: u32 = 0x1f80;

/// What a vCPU that translates has.
pub(crate) struct Hot {
    jit: Translator,
    /// By block: runs so far, and the unit.
    blocks: Vec<(u16, Option<UnitId>)>,
    /// By unit: its block.
    units: Vec<u32>,
    /// Of the block cache.
    generation: u64,
    /// Runs of a block before it is translated.
    after: u16,
    counts: Counts,
}

/// How translated code came back.
pub(crate) enum Left {
    /// Block `at` ended, by this flow.
    End { at: u32, flow: Flow, way: (UnitId, usize) },
    /// RIP is set; its page must be fetched.
    Fetch,
    /// RIP is set; the instruction there is for the interpreter.
    Interpret,
    /// As before, because the code of block `at` was written over; its unit may lead on to a new one.
    Stale { at: u32 },
    /// RIP is set to the beginning of block `at`, which does not fit before the deadline.
    Short { at: u32 },
    /// Nothing ran.
    Refused,
}

impl Hot {
    /// # Errors
    /// The host cannot.
    pub fn new(after: u16, table: &CpuidTable) -> Result<Hot, Unavailable> {
        let bit = |leaf: u32, register: usize, bit: u32| table.get(leaf, 0)[register] >> bit & 1 != 0;
        let counts = Counts { popcnt: bit(1, 2, 23), tzcnt: bit(7, 1, 3), lzcnt: bit(0x8000_0001, 2, 5) };
        let mut jit = Translator::new()?;
        if crate::engine::spoiled() {
            jit.spoil();
        }
        Ok(Hot { jit, blocks: Vec::new(), units: Vec::new(), generation: 0, after: after.clamp(1, NEVER - 1), counts })
    }

    /// Forgets all units if the block cache has started over.
    #[inline]
    fn keep_up(&mut self, cache: &Cache) {
        if self.generation != cache.generation {
            self.generation = cache.generation;
            self.jit.clear();
            self.blocks.clear();
            self.units.clear();
        }
    }

    /// Counts a run of block `at`. Returns whether it has just become hot.
    #[inline]
    pub fn count(&mut self, cache: &Cache, at: u32) -> bool {
        self.keep_up(cache);
        let at = at as usize;
        if self.blocks.len() <= at {
            self.blocks.resize(at + 64, (0, None));
        }
        let heat = &mut self.blocks[at].0;
        if *heat == NEVER {
            return false;
        }
        *heat += 1;
        *heat >= self.after
    }

    /// The unit of a block.
    pub fn unit(&self, at: u32) -> Option<UnitId> {
        self.blocks.get(at as usize)?.1
    }

    /// Lets unit `from` go straight to block `to`, if that has a unit.
    pub fn link(&mut self, (from, way): (UnitId, usize), to: u32) {
        if let Some(to) = self.unit(to) {
            self.jit.link(from, way, to);
        }
    }

    /// Leads on from `dead`, which was written over, to block `to`, which has the same code. Returns whether there is a unit.
    pub fn forward(&mut self, dead: u32, to: u32) -> bool {
        let (Some(dead), Some(to)) = (self.unit(dead), self.unit(to)) else { return false };
        self.jit.forward(dead, to);
        true
    }

    /// A block's code was written over.
    pub fn kill(&mut self, at: u32) {
        if let Some(unit) = self.unit(at) {
            self.jit.kill(unit);
        }
    }
}

impl Cpu {
    /// Translates blocks from now on once they have run `after` times ([`HOT`] is a good number); `None`: interprets all.
    ///
    /// # Errors
    /// The host is no x86-64 with BMI2, or gives no executable memory; the interpreter goes on alone.
    pub fn set_translating(&mut self, after: Option<u16>) -> Result<(), Unavailable> {
        self.flush_blocks();
        match (after, &mut self.hot) {
            (Some(after), Some(hot)) => hot.after = after.clamp(1, NEVER - 1),
            (Some(after), none) => *none = Some(Box::new(Hot::new(after, &self.core.config.cpuid)?)),
            (None, hot) => *hot = None,
        }
        Ok(())
    }

    /// As [`Cpu::set_translating`] of one that translates, but what was decoded and translated stays.
    pub fn set_heat(&mut self, after: u16) {
        if let Some(hot) = &mut self.hot {
            hot.after = after.clamp(1, NEVER - 1);
        }
    }

    /// Makes the translator wrong, for tests of what should notice.
    pub fn spoil_translator(&mut self) {
        if let Some(hot) = &mut self.hot {
            hot.jit.spoil();
        }
    }

    /// Host code of the translated block that holds the instruction at `rip`, for reports.
    pub fn translation_of(&self, rip: u64) -> Option<String> {
        let hot = self.hot.as_ref()?;
        let holds = |block: &Block| block.valid && block.rip <= rip && rip < block.rip + u64::from(block.bytes) && block.flags & TRANSLATED != 0;
        let at = (0..self.cache.blocks.len()).rev().find(|&at| holds(&self.cache.blocks[at]))?;
        hot.jit.listing(hot.unit(at as u32)?)
    }

    /// Translates block `at`, which has become hot.
    #[cold]
    pub(crate) fn heat(&mut self, m: &GuestMemory, at: u32) {
        let Some(hot) = &mut self.hot else { return };
        hot.keep_up(&self.cache);
        if hot.jit.is_full() {
            // Everything starts over; what is hot will soon be back.
            self.cache.clear();
            return;
        }
        let block = &mut self.cache.blocks[at as usize];
        let bits = u32::from(block.mode);
        let fit = bits & mode::SIZE == mode::CODE64 && bits & (mode::ALIGN | mode::SINGLE) == 0 && block.flags == 0 && block.valid && block.linear == block.rip;
        let sse = bits & (mode::EM | mode::TS | mode::NO_SSE) == 0;
        let start = (block.linear & 0xfff) as usize;
        let count = usize::from(block.ticks);
        let (mut unit, mut keep) = (None, count);
        if fit {
            let bytes = &m.page(block.page)[start..start + usize::from(block.bytes)];
            let (rip, page) = (block.rip, block.page);
            while unit.is_none() && keep > 0 {
                match hot.jit.translate(rip, page, bytes, keep, sse, hot.counts) {
                    Some((made, done)) if self.cache.can_end(at, done) => (unit, keep) = (Some(made), done),
                    // It ends between what the interpreter does as one: once more without the first of the two. Nobody will enter what was made.
                    Some((_, done)) => {
                        hot.units.push(at);
                        keep = done - 1;
                    }
                    None => break,
                }
            }
            if unit.is_none() {
                keep = hot.jit.refused(rip, bytes, count, sse, hot.counts);
            }
        }
        let block = &mut self.cache.blocks[at as usize];
        if hot.blocks.len() <= at as usize {
            hot.blocks.resize(at as usize + 64, (0, None));
        }
        hot.blocks[at as usize] = (NEVER, unit);
        if unit.is_some() {
            hot.units.push(at);
            block.flags |= TRANSLATED;
        }
        if keep < count {
            self.cache.cut(at, keep);
        }
    }

    /// Runs block `at` and what follows it in translated code. `by_address`: an indirect branch led to it, and is to find it from now on.
    pub(crate) fn run_translated(&mut self, m: &mut GuestMemory, at: u32, by_address: bool) -> Left {
        let Some(hot) = &mut self.hot else { return Left::Refused };
        hot.keep_up(&self.cache);
        let core = &mut self.core;
        let Some(unit) = hot.unit(at) else { return Left::Refused };
        if core.mxcsr & MXCSR_MASKS != MXCSR_MASKS {
            return Left::Refused;
        }
        let view = core.view / ENTRIES;
        hot.jit.set_context([u64::from(core.mode), core.sys.cr4, core.sys.efer]);
        if by_address {
            hot.jit.remember(unit);
        }
        let mut flags = core.arith();
        let (kernel, may_cli, virtualised) = (core.sys.cpl == 0, core.sys.cpl <= core.iopl(), core.sys.svm.guest);
        let may_sti = may_cli && core.quiet && !virtualised;
        let mut guest = Guest {
            gpr: &mut core.r,
            xmm: &mut core.xmm,
            mxcsr: &mut core.mxcsr,
            flags: &mut flags,
            budget: &mut core.budget,
            ram: m.ram_mut(),
            tags: &core.tlb.fast,
            view,
            fs_base: core.sys.seg[FS].base,
            gs_base: &mut core.sys.seg[GS].base,
            kernel_gs_base: &mut core.sys.kernel_gs_base,
            kernel,
            rest: &mut core.flags_rest,
            may_cli,
            may_sti,
            may_pushf: !virtualised,
        };
        let exit = hot.jit.run(&mut guest, unit);
        let Some(exit) = exit else { return Left::Refused };
        core.set_arith(flags);
        let last = if let How::Fetch { from, .. } = exit.how { from } else { exit.unit };
        let at = hot.units[last.index()];
        let block = &self.cache.blocks[at as usize];
        core.code_vpage = block.linear & !0xfff | 1;
        core.code_page = block.page;
        match exit.how {
            How::Way { way, .. } => Left::End { at, flow: if way == 1 { Flow::Taken } else { Flow::Fall }, way: (exit.unit, way) },
            How::Fetch { rip, .. } => {
                core.rip = rip;
                Left::Fetch
            }
            How::Before { rip, done } => {
                core.rip = rip;
                match done {
                    0 if !block.valid => Left::Stale { at },
                    0 if core.budget + i64::from(block.ticks) >= 0 => Left::Short { at },
                    _ => Left::Interpret,
                }
            }
        }
    }
}
