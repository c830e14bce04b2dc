//! The run loop: events between instructions, finding and building blocks, running them.

use crate::Config;
use crate::block::{self, BLOCK_BYTES_MAX, BLOCK_INSNS_MAX, Block, CROSSES, Cache, NONE, STOP_BEFORE, TRANSLATED};
use crate::hot::{Hot, Left};
use crate::core::{Core, Fault, Watch, mode, vector};
use crate::lower;
use crate::op::{Flow, Op};
use crate::svm::{Due, Exit};
use crate::state::{Activity, CS, CpuState, rflags};
use crate::tlb::ENTRIES;
use iced_x86::{Decoder, DecoderError, FlowControl, Instruction};
use sim_bus::{Attention, CpuBus, DebugStop, Stop};
use sim_mem::{GuestMemory, PAGE_SIZE};
use sim_translate::decode::DECODER_OPTIONS;
use std::collections::BTreeSet;

/// DR6 bit for single step.
const DR6_BS: u64 = 1 << 14;

/// One vCPU.
pub struct Cpu {
    pub(crate) core: Core,
    pub(crate) cache: Cache,
    /// Translated code, if it is on.
    pub(crate) hot: Option<Box<Hot>>,
    /// Host breakpoints, linear addresses.
    breakpoints: BTreeSet<u64>,
    host_watches: Vec<Watch>,
    /// DR7 and DR0..3 as the cache and the watches were last set up for.
    debug_seen: [u64; 5],
    /// Where the last breakpoint stop was (RIP, ticks): resuming from there does not stop again.
    stopped_at: Option<(u64, u64)>,
    scratch: Vec<Op>,
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Cpu").field("rip", &self.core.rip).field("ticks", &self.core.ticks()).finish_non_exhaustive()
    }
}

impl Cpu {
    /// Makes a vCPU in its power-on state.
    pub fn new(config: Config) -> Cpu {
        // A host that lost its translator since it was chosen interprets.
        let hot = crate::engine::chosen(config.vcpu).and_then(|after| Hot::new(after, &config.cpuid).ok()).map(Box::new);
        Cpu::with_code(config, Cache::new(), hot)
    }

    pub(crate) fn with_code(config: Config, cache: Cache, hot: Option<Box<Hot>>) -> Cpu {
        Cpu::with_parts(Core::new(config), cache, hot)
    }

    /// The same vCPU in its power-on state, over the memory it has for its TLB and its code: making those anew costs ten times what a short run does.
    pub(crate) fn renewed(self) -> Cpu {
        let Cpu { core: Core { mut tlb, config, .. }, mut cache, hot, .. } = self;
        tlb.flush();
        cache.clear();
        Cpu::with_parts(Core::with_tlb(config, tlb), cache, hot)
    }

    fn with_parts(core: Core, cache: Cache, hot: Option<Box<Hot>>) -> Cpu {
        Cpu {
            core,
            cache,
            hot,
            breakpoints: BTreeSet::new(),
            host_watches: Vec::new(),
            debug_seen: [0x400, 0, 0, 0, 0],
            stopped_at: None,
            scratch: Vec::new(),
        }
    }

    /// Ticks since power-on.
    pub fn ticks(&self) -> u64 {
        self.core.ticks()
    }

    /// The whole architectural state.
    pub fn state(&self) -> CpuState {
        self.core.state()
    }

    /// Replaces the state, for entry set-up and the debugger. The TLB keeps its entries; call [`Cpu::flush_tlb`] after jumps in time.
    pub fn set_state(&mut self, state: &CpuState) {
        self.core.set_state(state);
    }

    /// What the vCPU is configured as.
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// RIP.
    pub fn rip(&self) -> u64 {
        self.core.rip
    }

    /// Current privilege level.
    pub fn cpl(&self) -> u8 {
        self.core.sys.cpl
    }

    /// CR3.
    pub fn cr3(&self) -> u64 {
        self.core.sys.cr3
    }

    /// What the vCPU is doing.
    pub fn activity(&self) -> Activity {
        self.core.sys.activity
    }

    /// Whether RFLAGS.IF is set and no interrupt shadow is on.
    pub fn interrupts_enabled(&self) -> bool {
        self.core.flags_rest & rflags::IF != 0 && !self.core.sys.shadow
    }

    /// Whether `attention` ends the vCPU's HLT.
    pub fn wakes(&self, attention: Attention) -> bool {
        self.core.sys.activity == Activity::Halted && self.core.due(attention) != Due::Nothing
    }

    /// INIT: registers to their reset values, TSC and FPU state kept (APM vol. 2 table 14-1); then waits for SIPI unless it is the bootstrap
    /// processor.
    ///
    /// With the global interrupt flag off, in a guest, or redirected (VM_CR.R_INIT), it waits for a turn that can deal with it.
    pub fn init(&mut self, bootstrap: bool) {
        let svm = &self.core.sys.svm;
        if svm.guest || !svm.gif || self.core.init_becomes_exception().is_some() {
            self.core.sys.svm.init_pending = true;
            return;
        }
        self.reset_by_init(bootstrap);
    }

    fn reset_by_init(&mut self, bootstrap: bool) {
        let old = self.core.state();
        let mut state = CpuState::reset();
        state.ticks = old.ticks;
        state.xmm = old.xmm;
        state.ymm_high = old.ymm_high;
        state.mxcsr = old.mxcsr;
        state.x87 = old.x87;
        state.sys.tsc_offset = old.sys.tsc_offset;
        state.sys.cr0 |= old.sys.cr0 & (crate::state::cr0::CD | crate::state::cr0::NW);
        if !bootstrap {
            state.sys.activity = Activity::WaitForSipi;
        }
        self.core.set_state(&state);
        self.flush_tlb();
    }

    /// Start-up IPI: starts at `vector << 12` in real mode if the vCPU waits for one.
    pub fn sipi(&mut self, vector: u8) {
        if self.core.sys.activity != Activity::WaitForSipi {
            return;
        }
        let mut state = self.core.state();
        let start = CpuState::start_up(vector);
        state.sys.seg[CS] = start.sys.seg[CS];
        state.rip = 0;
        state.sys.activity = Activity::Running;
        self.core.set_state(&state);
    }

    /// Empties the TLB: at checkpoint ticks, and after restoring a snapshot.
    pub fn flush_tlb(&mut self) {
        self.core.flush_worlds();
    }

    /// Forgets all decoded code. Never visible to the guest; needed after memory was replaced without [`GuestMemory`] noticing.
    pub fn flush_blocks(&mut self) {
        self.cache.clear();
    }

    /// Position in the memory's log of code writes up to which this vCPU has read, for [`GuestMemory::trim_code_log`].
    pub fn code_log_position(&self) -> u64 {
        self.core.code_log
    }

    /// Translates a linear address as a debugger does: no permissions, no TLB, nothing changed.
    pub fn translate(&self, memory: &mut GuestMemory, linear: u64) -> Option<u64> {
        self.core.probe(memory, linear)
    }

    /// Adds a breakpoint at a linear address.
    pub fn add_breakpoint(&mut self, linear: u64) {
        if self.breakpoints.insert(linear) {
            self.cache.clear();
        }
    }

    /// Removes a breakpoint.
    pub fn remove_breakpoint(&mut self, linear: u64) {
        if self.breakpoints.remove(&linear) {
            self.cache.clear();
        }
    }

    /// Adds a watchpoint over linear addresses.
    pub fn add_watch(&mut self, watch: Watch) {
        self.host_watches.push(watch);
        self.collect_watches();
    }

    /// Removes a watchpoint.
    pub fn remove_watch(&mut self, watch: Watch) {
        self.host_watches.retain(|other| *other != watch);
        self.collect_watches();
    }

    fn collect_watches(&mut self) {
        self.core.watches = self.host_watches.clone();
        let [dr7, dr @ ..] = self.debug_seen;
        for (slot, &address) in dr.iter().enumerate() {
            let kind = dr7 >> (16 + 4 * slot) & 3;
            if dr7 >> (2 * slot) & 3 != 0 && (kind == 1 || kind == 3) {
                let len = [1, 2, 8, 4][(dr7 >> (18 + 4 * slot) & 3) as usize];
                self.core.watches.push(Watch { address: address & !(len - 1), len, read: kind == 3, write: true });
            }
        }
        self.core.tlb.drop_all_fast();
        if let Some(other) = &mut self.core.other_world {
            other.tlb.drop_all_fast();
        }
    }

    /// The TLB's entries (tag, leaf, PCID), for tests of cut invariance; in a guest, and after one, the other world's behind them.
    pub fn tlb_entries(&self) -> Vec<(u64, u64, u16)> {
        let mut entries = self.core.tlb.entries();
        entries.extend(self.core.other_world.iter().flat_map(|other| other.tlb.entries()));
        entries
    }

    /// Runs until [`Cpu::ticks`] equals `deadline`, or something needs the caller. Returns at once if it has been reached.
    pub fn run(&mut self, memory: &mut GuestMemory, bus: &mut dyn CpuBus, deadline: u64) -> Stop {
        let now = self.core.ticks();
        if deadline <= now {
            return Stop::Deadline;
        }
        self.core.deadline = deadline;
        self.core.budget = -i64::try_from(deadline - now).unwrap_or(i64::MAX);
        if self.core.budget == -i64::MAX {
            self.core.deadline = now + i64::MAX as u64;
        }
        self.core.run_budget = self.core.budget;
        if self.cache.is_nowhere() {
            self.cache = Cache::new();
        }
        if self.hot.is_some() {
            // Before anything is admitted: of a page that is run already, a fetch word that is dropped would not come back.
            self.core.tlb.fast.stand_on(memory.ram_mut());
        }
        loop {
            if let Some(stop) = self.turn(memory, bus) {
                return stop;
            }
        }
    }

    /// Does what lies between instructions, then runs blocks until something of the kind may be due again.
    fn turn(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus) -> Option<Stop> {
        self.sync(m);
        let core = &mut self.core;
        if let Some((address, write)) = core.watch_hit.take()
            && let Some(stop) = self.watch_stop(address, write)
        {
            return Some(stop);
        }
        let core = &mut self.core;
        if core.budget >= 0 {
            return Some(Stop::Deadline);
        }
        match core.sys.activity {
            Activity::Running | Activity::Halted => {}
            Activity::WaitForSipi => return Some(Stop::Halted),
            Activity::Shutdown => return Some(Stop::TripleFault),
        }
        core.resume_before = core.flags_rest & rflags::RF != 0;
        if core.sys.svm.inject != 0 {
            core.begin_event();
            let triple = core.deliver_injected(m, b).is_err();
            core.brk = Flow::Next;
            return triple.then_some(Stop::TripleFault);
        }
        if core.sys.pending_db != 0 && !core.sys.shadow {
            // A stepped HLT is left by its trap.
            core.sys.activity = Activity::Running;
            core.sys.dr6 |= std::mem::take(&mut core.sys.pending_db);
            core.raise(vector::DB);
            return self.deliver_trap(m, b);
        }
        let attention = b.attention(core.at_now());
        if attention.stop {
            return Some(Stop::Requested);
        }
        core.quiet = !attention.interrupt && !attention.nmi;
        let mut due = core.due(attention);
        if core.sys.activity == Activity::Halted {
            if due == Due::Nothing {
                return Some(Stop::Halted);
            }
            core.sys.activity = Activity::Running;
        }
        if due == Due::Interrupt {
            if let Some(vector) = b.acknowledge(core.at_now()) {
                return self.deliver_event(m, b, vector);
            }
            // It went away: what it stood before is due.
            due = core.due(Attention { interrupt: false, ..attention });
        }
        match due {
            Due::Nothing | Due::Interrupt => {}
            Due::Nmi => {
                b.take_nmi(core.at_now());
                core.sys.nmi_blocked = true;
                return self.deliver_event(m, b, vector::NMI);
            }
            Due::Virtual(vector) => {
                core.take_virtual();
                return self.deliver_event(m, b, vector);
            }
            Due::Exit(code) => {
                core.svm_exit = Some(Exit { code: u64::from(code), info1: 0, info2: 0, next: 0 });
                return self.deliver_trap(m, b);
            }
            Due::Init => {
                core.sys.svm.init_pending = false;
                if let Some(vector) = core.init_becomes_exception() {
                    core.raise_code(vector, 1);
                    return self.deliver_trap(m, b);
                }
                self.reset_by_init(false);
                return None;
            }
        }
        self.sync_debug_registers();
        let core = &mut self.core;
        let step = core.flags_rest & rflags::TF != 0;
        if step || core.sys.shadow || core.resume_before {
            return self.run_single(m, b, step);
        }
        self.run_blocks(m, b)
    }

    /// A stop for the host, or a trap for the guest's own DR0..3.
    fn watch_stop(&mut self, address: u64, write: bool) -> Option<Stop> {
        if self.host_watches.iter().any(|watch| watch.address == address) {
            return Some(Stop::Debug(DebugStop::Watch { address, write }));
        }
        let core = &mut self.core;
        for slot in 0..4 {
            let kind = core.sys.dr7 >> (16 + 4 * slot) & 3;
            let len = [1, 2, 8, 4][(core.sys.dr7 >> (18 + 4 * slot) & 3) as usize];
            if core.sys.dr7 >> (2 * slot) & 3 != 0 && core.sys.dr[slot] & !(len - 1) == address && (kind == 3 || kind == 1 && write) {
                core.sys.pending_db |= 1 << slot;
            }
        }
        None
    }

    fn sync_debug_registers(&mut self) {
        let sys = &self.core.sys;
        let [dr7, dr @ ..] = &self.debug_seen;
        // Asked in every turn: by parts, not by a call.
        if sys.dr7 != *dr7 || sys.dr.iter().zip(dr).any(|(now, seen)| now != seen) {
            let now = [sys.dr7, sys.dr[0], sys.dr[1], sys.dr[2], sys.dr[3]];
            self.debug_seen = now;
            self.cache.clear();
            self.collect_watches();
        }
    }

    /// Whether blocks end at the same breakpoints as `other`'s: no host's, and none of the guest's that were seen.
    pub(crate) fn stops_as(&self, other: &Cpu) -> bool {
        self.breakpoints == other.breakpoints && self.instruction_breakpoints().eq(other.instruction_breakpoints())
    }

    /// Where blocks end for the sake of DR7, by slot.
    fn instruction_breakpoints(&self) -> impl Iterator<Item = Option<u64>> {
        let [dr7, dr @ ..] = &self.debug_seen;
        dr.iter().enumerate().map(move |(slot, at)| (dr7 >> (2 * slot) & 3 != 0 && dr7 >> (16 + 4 * slot) & 3 == 0).then_some(*at))
    }

    /// Whether DR7 has an instruction breakpoint at `linear`; the DR6 bits.
    fn guest_breakpoint(&self, linear: u64) -> u64 {
        let sys = &self.core.sys;
        (0..4).filter(|slot| sys.dr7 >> (2 * slot) & 3 != 0 && sys.dr7 >> (16 + 4 * slot) & 3 == 0 && sys.dr[*slot as usize] == linear).fold(0, |bits, slot| bits | 1 << slot)
    }

    /// Reads the memory's logs.
    fn sync(&mut self, m: &mut GuestMemory) {
        let core = &mut self.core;
        if core.mark_epoch != m.mark_epoch() {
            core.mark_epoch = m.mark_epoch();
            core.tlb.drop_write_tags();
        }
        let end = m.code_log_end();
        if core.code_log != end {
            match m.code_writes(core.code_log) {
                Some(pages) => {
                    for &page in pages {
                        self.cache.drop_page(page);
                    }
                }
                None => self.cache.clear(),
            }
            core.code_log = end;
            if let Some(hot) = &mut self.hot {
                for at in self.cache.killed.drain(..) {
                    hot.kill(at);
                }
            }
        }
    }

    /// Delivers an external event: one tick.
    fn deliver_event(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, vector: u8) -> Option<Stop> {
        self.core.begin_event();
        let triple = self.core.deliver_external(m, b, vector).is_err();
        self.core.brk = Flow::Next;
        triple.then_some(Stop::TripleFault)
    }

    /// Delivers the trap in `core.fault`: one tick.
    fn deliver_trap(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus) -> Option<Stop> {
        self.core.begin_event();
        let triple = self.core.deliver_fault(m, b).is_err();
        self.core.brk = Flow::Next;
        triple.then_some(Stop::TripleFault)
    }

    /// Linear address of RIP.
    fn linear_rip(&self) -> u64 {
        let core = &self.core;
        if core.mode & mode::SIZE == mode::CODE64 { core.rip } else { core.sys.seg[CS].base.wrapping_add(core.rip) & 0xffff_ffff }
    }

    /// The flat page that `linear` is fetched from, through the latch.
    #[inline]
    fn code_page(&mut self, m: &mut GuestMemory, linear: u64) -> Result<u32, Fault> {
        if self.core.code_vpage == linear & !0xfff | 1 {
            return Ok(self.core.code_page);
        }
        if let Some(page) = self.core.tlb.fast.fetched(self.core.view / ENTRIES, linear) {
            // It would hit, and change nothing.
            self.core.code_vpage = linear & !0xfff | 1;
            self.core.code_page = page;
            return Ok(page);
        }
        let frame = self.core.fetch_frame(m, linear)?;
        if self.core.code_log != m.code_log_end() {
            // The walk set accessed bits in a page that holds code.
            self.sync(m);
        }
        // Code outside memory reads as no page at all: the decoder sees 0xff bytes.
        let page = m.offset_of(frame).map_or(NONE, |offset| (offset as u64 / PAGE_SIZE) as u32);
        self.core.code_vpage = linear & !0xfff | 1;
        self.core.code_page = page;
        if self.hot.is_some() && page != NONE {
            let view = self.core.view / ENTRIES;
            self.core.tlb.fast.allow_fetch(view, linear, page);
        }
        Ok(page)
    }

    /// Finds or builds the block at RIP.
    fn block_at_rip(&mut self, m: &mut GuestMemory, extra_mode: u32) -> Result<u32, Fault> {
        let linear = self.linear_rip();
        let page = self.code_page(m, linear)?;
        let bits = self.core.mode | extra_mode;
        let found = self.cache.find(linear, self.core.rip, page, bits as u16);
        let at = match found {
            Some(at) => at,
            None => self.build(m, linear, page, bits)?,
        };
        let (flags, second_page, bytes) = {
            let block = &self.cache.blocks[at as usize];
            (block.flags, block.second_page, block.bytes)
        };
        if self.core.mode & mode::SIZE != mode::CODE64 {
            let limit = u64::from(self.core.sys.seg[CS].limit);
            if self.core.rip > limit {
                return Err(self.core.gp0());
            }
            if self.core.rip + u64::from(bytes) - 1 > limit {
                if bits & mode::SINGLE != 0 {
                    return Err(self.core.gp0());
                }
                return self.block_at_rip(m, extra_mode | mode::SINGLE);
            }
        }
        if flags & CROSSES != 0 {
            let frame = self.core.fetch_frame(m, (linear | 0xfff).wrapping_add(1))?;
            let now = m.offset_of(frame).map_or(NONE, |offset| (offset as u64 / PAGE_SIZE) as u32);
            // The walk may have set accessed bits in a page that holds code.
            self.sync(m);
            if now != second_page || !self.cache.is_valid(at) {
                if let Some(block) = self.cache.blocks.get_mut(at as usize) {
                    block.valid = false;
                }
                return self.build(m, linear, page, bits);
            }
        }
        Ok(at)
    }

    /// The block at RIP: by guess where code segments are flat, else looked up or built.
    #[inline]
    fn next_block(&mut self, m: &mut GuestMemory) -> Result<u32, Fault> {
        let core = &self.core;
        if core.mode & mode::SIZE != mode::CODE64 && core.mode & mode::FLAT == 0 {
            return self.block_at_rip(m, 0);
        }
        let rip = core.rip;
        if let Some(at) = self.cache.guess(rip, rip, core.mode as u16) {
            let page = self.cache.blocks[at as usize].page;
            if self.code_page(m, rip)? == page && self.cache.is_valid(at) {
                return Ok(at);
            }
        }
        let at = self.block_at_rip(m, 0)?;
        self.cache.remember(rip, at);
        Ok(at)
    }

    /// Decodes a block.
    fn build(&mut self, m: &mut GuestMemory, linear: u64, page: u32, bits: u32) -> Result<u32, Fault> {
        if self.cache.full() {
            self.cache.clear();
        }
        let rip = self.core.rip;
        let start = (linear & 0xfff) as usize;
        let bitness = match bits & mode::SIZE {
            mode::CODE64 => 64,
            mode::CODE32 => 32,
            _ => 16,
        };
        let mut block = Block::new(linear, rip, bits as u16, page);
        let insns_max = if bits & mode::SINGLE != 0 { 1 } else { BLOCK_INSNS_MAX };
        let mut window = [0xffu8; 32];
        let mut ops = std::mem::take(&mut self.scratch);
        ops.clear();
        let bytes: &[u8] = if page == NONE { &window } else { &m.page(page)[start..] };
        let mut decoder = Decoder::with_ip(bitness, bytes, rip, DECODER_OPTIONS);
        let mut builder = lower::Builder::new(bits, self.core.features);
        let mut insn = Instruction::default();
        loop {
            let offset = decoder.position();
            if builder.count >= insns_max || offset > BLOCK_BYTES_MAX {
                break;
            }
            if builder.count > 0 && (!self.breakpoints.is_empty() || self.debug_seen[0] & 0xff != 0) {
                let here = linear.wrapping_add(offset as u64);
                if self.breakpoints.contains(&here) || self.guest_breakpoint(here) != 0 {
                    break;
                }
            }
            decoder.decode_out(&mut insn);
            if insn.is_invalid() && decoder.last_error() == DecoderError::NoMoreBytes && page != NONE {
                if builder.count > 0 {
                    break;
                }
                // The first instruction crosses into the next page.
                let next = (linear | 0xfff).wrapping_add(1);
                let frame = match self.core.fetch_frame(m, next) {
                    Ok(frame) => frame,
                    Err(fault) => {
                        self.scratch = ops;
                        return Err(fault);
                    }
                };
                let first = 4096 - start;
                window[..first].copy_from_slice(&m.page(page)[start..]);
                if let Some(offset) = m.offset_of(frame) {
                    block.second_page = (offset as u64 / PAGE_SIZE) as u32;
                    window[first..first + 15].copy_from_slice(&m.ram()[offset..offset + 15]);
                    m.mark_code(offset);
                }
                block.flags |= CROSSES;
                let mut decoder = Decoder::with_ip(bitness, &window[..first + 15], rip, DECODER_OPTIONS);
                decoder.decode_out(&mut insn);
                builder.add(&insn, &window, &mut ops);
                break;
            }
            let bytes_here = if page == NONE { &window[..] } else { &m.page(page)[start + offset..] };
            if builder.add(&insn, bytes_here, &mut ops) || insn.flow_control() != FlowControl::Next {
                break;
            }
        }
        builder.finish(&mut block, &mut ops);
        if self.breakpoints.contains(&linear) || self.guest_breakpoint(linear) != 0 {
            block.flags |= STOP_BEFORE;
        }
        if page != NONE {
            m.mark_code(page as usize * PAGE_SIZE as usize);
            if self.core.mark_epoch != m.mark_epoch() {
                self.core.mark_epoch = m.mark_epoch();
                self.core.tlb.drop_write_tags();
            }
        } else {
            // Not cached: there is no page whose writes would be seen.
            block.valid = false;
            block.page = 0;
        }
        let at = self.cache.insert(block, &ops);
        self.scratch = ops;
        Ok(at)
    }

    /// Runs one instruction by itself: single step, interrupt shadow, resume flag.
    fn run_single(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, step: bool) -> Option<Stop> {
        let at = match self.block_at_rip(m, mode::SINGLE) {
            Ok(at) => at,
            Err(Fault) => return self.fault(m, b),
        };
        if self.cache.blocks[at as usize].flags & STOP_BEFORE != 0 {
            let (stop, done) = self.breakpoint(m, b, self.core.resume_before);
            if done {
                return stop;
            }
        }
        self.core.shadow_before = std::mem::take(&mut self.core.sys.shadow);
        self.core.flags_rest &= !rflags::RF;
        self.core.single_trap = step;
        let ops = self.cache.blocks[at as usize].ops();
        let stop = self.run_ops(m, b, at, ops.start, ops.end);
        self.core.shadow_before = false;
        self.core.resume_before = false;
        if self.core.single_trap {
            self.core.single_trap = false;
            self.core.sys.pending_db |= DR6_BS;
        }
        stop
    }

    /// Honours a breakpoint at RIP. Returns what to stop with and whether the instruction must not run now.
    fn breakpoint(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, resume_flag: bool) -> (Option<Stop>, bool) {
        let linear = self.linear_rip();
        let here = (self.core.rip, self.core.ticks());
        if self.breakpoints.contains(&linear) && self.stopped_at != Some(here) {
            self.stopped_at = Some(here);
            return (Some(Stop::Debug(DebugStop::Breakpoint { rip: self.core.rip })), true);
        }
        let bits = self.guest_breakpoint(linear);
        if bits != 0 && !resume_flag {
            self.core.sys.dr6 |= bits;
            self.core.raise(vector::DB);
            return (self.deliver_trap_as_fault(m, b), true);
        }
        (None, false)
    }

    fn deliver_trap_as_fault(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus) -> Option<Stop> {
        self.core.flags_rest |= rflags::RF;
        self.deliver_trap(m, b)
    }

    /// Delivers a fault of the instruction at RIP.
    fn fault(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus) -> Option<Stop> {
        self.core.brk = Flow::Next;
        self.core.single_trap = false;
        // Still there if the fetch has faulted.
        let shadow = std::mem::take(&mut self.core.sys.shadow) | self.core.shadow_before;
        if self.core.svm_exit.is_some() {
            // The instruction did not run: what held interrupts off for it still does.
            self.core.sys.shadow = shadow;
            return self.deliver_trap(m, b);
        }
        // Faults push RF set, so that an instruction breakpoint does not hit twice (SDM vol. 3 §18.3.1.1).
        self.core.flags_rest |= rflags::RF;
        self.deliver_trap(m, b)
    }

    /// Runs operations `first..last` of block `at`, all charged at once; the fall-through is RIP after the last.
    fn run_ops(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, at: u32, first: usize, last: usize) -> Option<Stop> {
        let core = &mut self.core;
        let block = &self.cache.blocks[at as usize];
        let ops = &self.cache.ops[first..last];
        let final_op = ops.last()?;
        let charged = i64::from(final_op.idx) + if last == block.ops().end { i64::from(block.ticks) - i64::from(final_op.idx) } else { 1 };
        core.block_rip = block.rip;
        core.block_budget = core.budget;
        core.budget += charged;
        let flow = (ops[0].f)(core, m, b, ops);
        if flow != Flow::Next {
            let op = &ops[ops.len() - 1 - core.left];
            let undo = charged - i64::from(op.idx) - 1;
            match flow {
                Flow::Next => {}
                Flow::Break => {
                    core.budget -= undo;
                    core.rip = core.cut_rip(core.rip_after(op));
                }
                Flow::Taken => core.rip = block.target[1],
                Flow::Fall => core.rip = block.target[0],
                Flow::Indirect | Flow::Exit | Flow::Again => core.budget -= undo,
                Flow::Fault => {
                    core.budget -= undo + 1;
                    core.rip = core.rip_of(op);
                    return self.fault(m, b);
                }
            }
            core.brk = Flow::Next;
            return core.pause_stop();
        }
        core.rip = core.cut_rip(core.rip_after(final_op));
        core.brk = Flow::Next;
        None
    }

    /// Runs block after block.
    fn run_blocks(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus) -> Option<Stop> {
        let mut at = match self.next_block(m) {
            Ok(at) => at,
            Err(Fault) => return self.fault(m, b),
        };
        // Code segments with limits or bases are rare: they take the checked way from block to block.
        let chain = self.core.mode & mode::SIZE == mode::CODE64 || self.core.mode & mode::FLAT != 0;
        // After translated code gave an instruction back, and the way it left by.
        let mut interpret = false;
        let mut left_by = None;
        // An indirect branch led here.
        let mut by_address = false;
        loop {
            let core = &mut self.core;
            let block = &self.cache.blocks[at as usize];
            let ticks = i64::from(block.ticks);
            let mut ended = None;
            if core.budget + ticks > 0 || block.flags != 0 {
                if block.flags == CROSSES && core.budget + ticks <= 0 {
                    match self.still_crosses(m, at) {
                        Ok(true) => {}
                        Ok(false) => return None,
                        Err(Fault) => return self.fault(m, b),
                    }
                } else if block.flags != TRANSLATED || core.budget + ticks >= 0 {
                    return self.run_part(m, b, at);
                } else if !interpret {
                    if let (Some((way, from, page)), Some(hot)) = (left_by.take(), &mut self.hot)
                        && (from != block.linear >> 12 || page == block.page)
                    {
                        hot.link(way, at);
                    }
                    match self.run_translated(m, at, std::mem::take(&mut by_address)) {
                        Left::End { at: last, flow, way } => {
                            at = last;
                            let block = &self.cache.blocks[at as usize];
                            left_by = Some((way, block.linear >> 12, block.page));
                            ended = Some(flow);
                        }
                        left @ (Left::Interpret | Left::Fetch) => {
                            interpret = matches!(left, Left::Interpret);
                            at = match self.next_block(m) {
                                Ok(next) => next,
                                Err(Fault) => return self.fault(m, b),
                            };
                            continue;
                        }
                        Left::Stale { at: dead } => {
                            let generation = self.cache.generation;
                            at = match self.next_block(m) {
                                Ok(next) => next,
                                Err(Fault) => return self.fault(m, b),
                            };
                            let same = generation == self.cache.generation && dead != at && {
                                let (old, new) = (&self.cache.blocks[dead as usize], &self.cache.blocks[at as usize]);
                                new.valid && (old.linear, old.rip, old.page, old.mode) == (new.linear, new.rip, new.page, new.mode)
                            };
                            interpret = !(same && self.hot.as_mut().is_some_and(|hot| hot.forward(dead, at)));
                            continue;
                        }
                        Left::Short { at } => return self.run_part(m, b, at),
                        Left::Refused => {}
                    }
                }
            } else if let Some(hot) = &mut self.hot
                && hot.count(&self.cache, at)
            {
                let generation = self.cache.generation;
                self.core.rip = block.rip;
                self.heat(m, at);
                if self.cache.generation != generation {
                    return None;
                }
            }
            let core = &mut self.core;
            let block = &self.cache.blocks[at as usize];
            let flow = match ended {
                Some(flow) => flow,
                None => {
                    interpret = false;
                    left_by = None;
                    core.block_rip = block.rip;
                    core.block_budget = core.budget;
                    // Fewer than before, if it was cut.
                    core.budget += i64::from(block.ticks);
                    let ops = &self.cache.ops[block.ops()];
                    let [first, ..] = ops else { return None };
                    (first.f)(core, m, b, ops)
                }
            };
            if (flow as u8).wrapping_sub(Flow::Taken as u8) > 2 && flow != Flow::Next {
                return self.leave(m, b, at, flow);
            }
            if core.brk != Flow::Next {
                if flow != Flow::Indirect {
                    core.rip = block.target[usize::from(flow == Flow::Taken)];
                }
                core.brk = Flow::Next;
                return None;
            }
            by_address = flow == Flow::Indirect;
            if flow == Flow::Indirect {
                // Guess by address. Both blocks in one page need no look at the translation, in one mode: a system call is a branch, too.
                let rip = core.rip;
                if chain && core.mode as u16 == block.mode && let Some(next) = self.cache.guess(rip, rip, core.mode as u16) {
                    let target = &self.cache.blocks[next as usize];
                    if (target.linear ^ block.linear) >> 12 == 0 && target.page == block.page {
                        at = next;
                        continue;
                    }
                }
                if core.budget >= 0 {
                    return None;
                }
                at = match self.next_block(m) {
                    Ok(next) => next,
                    Err(Fault) => return self.fault(m, b),
                };
                continue;
            }
            // Two branches instead of an index: the host predicts the way, and need not wait for the link's content.
            let link = usize::from(flow == Flow::Taken);
            let known = if flow == Flow::Taken { self.cache.follow::<1>(at) } else { self.cache.follow::<0>(at) };
            if let Some((next, true)) = known {
                at = next;
                continue;
            }
            // Fetching may start the cache over: block `at` is looked at before.
            let generation = self.cache.generation;
            self.core.rip = self.cache.blocks[at as usize].target[link];
            if !chain || self.core.budget >= 0 {
                // The deadline comes before the fetch: what is due then must not find the next page in the TLB.
                return None;
            }
            if let Some((next, _)) = known {
                let target = &self.cache.blocks[next as usize];
                let (linear, page) = (target.linear, target.page);
                match self.code_page(m, linear) {
                    Ok(now) if now == page && self.cache.is_valid(next) => {
                        at = next;
                        continue;
                    }
                    Ok(_) => {}
                    Err(Fault) => return self.fault(m, b),
                }
            }
            match self.block_at_rip(m, 0) {
                Ok(next) => {
                    if self.cache.generation == generation {
                        self.cache.blocks[at as usize].link[link] = next;
                    }
                    at = next;
                }
                Err(Fault) => return self.fault(m, b),
            }
        }
    }

    /// Leaves the block loop for anything but an ordinary end of block.
    #[cold]
    fn leave(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, at: u32, flow: Flow) -> Option<Stop> {
        let core = &mut self.core;
        let op = self.cache.ops[self.cache.blocks[at as usize].ops().end - 1 - core.left];
        let undo = i64::from(self.cache.blocks[at as usize].ticks) - i64::from(op.idx) - 1;
        core.budget -= undo;
        match flow {
            Flow::Break => core.rip = core.cut_rip(core.rip_after(&op)),
            Flow::Fault => {
                core.budget -= 1;
                core.rip = core.rip_of(&op);
                return self.fault(m, b);
            }
            Flow::Next | Flow::Taken | Flow::Fall | Flow::Indirect | Flow::Exit | Flow::Again => {}
        }
        core.brk = Flow::Next;
        core.pause_stop()
    }

    /// Whether block `at`, of one instruction that goes on in a second page, may run: that page is translated each time the instruction runs, and once, since what
    /// faults drops its TLB entry. If it is another than the block was decoded from the block goes; if the walk wrote to code, that is looked at first.
    fn still_crosses(&mut self, m: &mut GuestMemory, at: u32) -> Result<bool, Fault> {
        let block = &self.cache.blocks[at as usize];
        let (rip, linear, second_page) = (block.rip, block.linear, block.second_page);
        self.core.rip = rip;
        let frame = self.core.fetch_frame(m, (linear | 0xfff).wrapping_add(1))?;
        let page = m.offset_of(frame).map_or(NONE, |offset| (offset as u64 / PAGE_SIZE) as u32);
        self.cache.blocks[at as usize].valid &= page == second_page;
        Ok(page == second_page && self.core.code_log == m.code_log_end())
    }

    /// Runs as much of a block as the deadline allows, or a block that needs care.
    fn run_part(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, at: u32) -> Option<Stop> {
        let block = &self.cache.blocks[at as usize];
        self.core.rip = block.rip;
        if self.core.budget >= 0 {
            return None;
        }
        let (flags, first, end, ticks) = (block.flags, block.ops().start, block.ops().end, i64::from(block.ticks));
        if flags & STOP_BEFORE != 0 {
            let (stop, done) = self.breakpoint(m, b, false);
            if done {
                return stop;
            }
        }
        if flags & CROSSES != 0 {
            match self.still_crosses(m, at) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(Fault) => return self.fault(m, b),
            }
        }
        let left = -self.core.budget;
        if ticks <= left {
            return self.run_ops(m, b, at, first, end);
        }
        let ops = &self.cache.ops[first..end];
        // An operation fits if what follows it begins within the budget.
        let fits = (1..ops.len()).take_while(|&index| i64::from(ops[index].idx) <= left).count();
        if fits == 0 {
            // A fused pair does not fit: take its first instruction alone.
            return self.run_single(m, b, false);
        }
        self.run_ops(m, b, at, first, first + fits)
    }
}

impl Core {
    /// Cuts RIP to its register. One instruction after the other it does not wrap at 64 KiB: in 16-bit code, too, EIP goes on, as far as the segment's limit
    /// allows; it is branches of 16 bits that cut it (SDM vol. 2, JMP, "tempEIP AND 0000FFFFH").
    #[inline(always)]
    pub fn cut_rip(&self, rip: u64) -> u64 {
        match self.mode & mode::SIZE {
            mode::CODE64 => rip,
            _ => rip & 0xffff_ffff,
        }
    }

    fn pause_stop(&mut self) -> Option<Stop> {
        std::mem::take(&mut self.pause_seen).then_some(Stop::Pause)
    }
}

const _: () = assert!(block::BLOCK_BYTES_MAX + 15 <= 255, "offsets and lengths fit a byte");
