//! Our engine as a runner.

use sim_bus::{At, Attention, CpuBus, Stop};
use sim_cpu::{Config, Cpu, CpuModel, CpuState, Segment, TableRegister, attr, cr0, cr4, efer};
use sim_mem::GuestMemory;

use crate::case::{Case, End, Outcome, Ring};
use crate::layout::{CODE, CODE_BYTES, DATA, DATA_BYTES, DATA_WRITABLE, MEMORY_BYTES, PAGE, STACK, STACK_BYTES};

// Physical layout.
pub const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
pub const TABLE: u64 = 0x4000;
pub const PHYS_CODE: u64 = 0x1_0000;
pub const PHYS_DATA: u64 = 0x2_0000;
pub const PHYS_STACK: u64 = 0x3_0000;
pub const PHYS_SYSTEM: u64 = 0x4_0000;

// Supervisor pages, linear.
pub const SYSTEM: u64 = 0x1010_0000;
pub const SYSTEM_BYTES: u64 = 0x5000;
pub const GDT: u64 = SYSTEM;
pub const IDT: u64 = SYSTEM + 0x1000;
pub const TSS: u64 = SYSTEM + 0x2000;
pub const HANDLERS: u64 = SYSTEM + 0x3000;
/// An IRETQ.
pub const RETURN: u64 = HANDLERS + 0x400;
const HANDLER_STACK: u64 = SYSTEM + 0x4000;
pub const HANDLER_STACK_TOP: u64 = HANDLER_STACK + 0x1000;

/// RAM.
pub const MEMORY: u64 = 0x10_0000;

/// Where the page-table entries of arena and stack are, and what stands in them.
pub fn page_entries(setting: &crate::setting::Setting) -> [(u64, u64); 4] {
    std::array::from_fn(|index| {
        let (linear, physical) = if index < 3 { (DATA + PAGE * index as u64, PHYS_DATA + PAGE * index as u64) } else { (STACK, PHYS_STACK) };
        (TABLE + 8 * (linear >> 12 & 0x1ff), physical | setting.pages[index].0)
    })
}

/// Enough for every REP that stays in the arena.
const TICKS_MAX: u64 = 50_000;

/// A bus with nothing on it.
#[derive(Debug)]
struct Empty;

impl CpuBus for Empty {
    fn mmio_read(&mut self, _: At, _: u64, _: u8) -> u64 {
        u64::MAX
    }
    fn mmio_write(&mut self, _: At, _: u64, _: u8, _: u64) {}
    fn port_in(&mut self, _: At, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn port_out(&mut self, _: At, _: u16, _: u8, _: u32) {}
    fn msr_read(&mut self, _: At, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: At, _: u32, _: u64) -> bool {
        false
    }
    fn tsc(&mut self, _: At) -> u64 {
        0
    }
    fn cr8(&mut self, _: At) -> u8 {
        0
    }
    fn set_cr8(&mut self, _: At, _: u8) {}
    fn acknowledge(&mut self, _: At) -> Option<u8> {
        None
    }
    fn take_nmi(&mut self, _: At) {}
    fn attention(&mut self, _: At) -> Attention {
        Attention::default()
    }
    fn random(&mut self) -> u64 {
        0
    }
}

/// The engine with its memory, reused from case to case.
#[derive(Debug)]
pub struct Ours {
    cpu: Cpu,
    memory: GuestMemory,
    base: CpuState,
    cases: u64,
    /// The page table, the descriptor tables and the rest that is not a case's own, as they are at the start.
    image: Vec<u8>,
    /// Instructions to run with the blocks cut at every tick, to find what depends on the cut.
    pub slice: u64,
}

impl Default for Ours {
    fn default() -> Ours {
        Ours::new()
    }
}

impl Ours {
    pub fn new() -> Ours {
        let mut memory = GuestMemory::new(MEMORY);
        let mut put = |at: u64, value: u64| memory.write_u64(at, 8, value).expect("inside RAM");
        let index = |linear: u64, level: u32| linear >> (12 + 9 * level) & 0x1ff;
        put(PML4 + 8 * index(CODE, 3), PDPT | 7);
        put(PDPT + 8 * index(CODE, 2), DIRECTORY | 7);
        put(DIRECTORY + 8 * index(CODE, 1), TABLE | 7);
        const NX: u64 = 1 << 63;
        let mut map = |linear: u64, bytes: u64, physical: u64, flags: u64| {
            for page in 0..bytes / 0x1000 {
                put(TABLE + 8 * index(linear + page * 0x1000, 0), (physical + page * 0x1000) | flags);
            }
        };
        // Accessed and dirty are set beforehand: the host's page tables are the kernel's business.
        map(CODE, CODE_BYTES, PHYS_CODE, 0x65);
        map(DATA, DATA_WRITABLE, PHYS_DATA, 0x67 | NX);
        map(DATA + DATA_WRITABLE, DATA_BYTES - DATA_WRITABLE, PHYS_DATA + DATA_WRITABLE, 0x65 | NX);
        map(STACK, STACK_BYTES, PHYS_STACK, 0x67 | NX);
        map(SYSTEM, SYSTEM_BYTES, PHYS_SYSTEM, 0x63);
        // The second table: SYSTEM is in the same 2 MiB or the next.
        assert_eq!(index(CODE, 1), index(SYSTEM, 1), "one page table holds everything");
        let system = |linear: u64| linear - SYSTEM + PHYS_SYSTEM;
        let mut put = |at: u64, value: u64| memory.write_u64(at, 8, value).expect("inside RAM");
        put(system(GDT) + 0x08, 0x00af_9b00_0000_ffff);
        put(system(GDT) + 0x10, 0x00cf_9300_0000_ffff);
        put(system(GDT) + 0x28, 0x00cf_f300_0000_ffff);
        put(system(GDT) + 0x30, 0x00af_fb00_0000_ffff);
        // What instructions about selectors are tried with: an LDT, data that is not present, the TSS in use and a free one, conforming code,
        // read-only data, code that cannot be read.
        put(system(GDT) + 0x70, 0x1000_8210_3800_0017);
        put(system(GDT) + 0x20, 0x00cf_1300_0000_ffff);
        put(system(GDT) + 0x38, 0x1000_8b10_2000_0067);
        put(system(GDT) + 0x48, 0x1000_8910_2000_0067);
        put(system(GDT) + 0x58, 0x00cf_9f00_0000_ffff);
        put(system(GDT) + 0x60, 0x00cf_f1ab_cdef_ffff);
        put(system(GDT) + 0x68, 0x00cf_f900_0000_ffff);
        // In the LDT: data and code of users.
        put(system(HANDLERS) + 0x808, 0x00cf_f300_0000_ffff);
        put(system(HANDLERS) + 0x810, 0x00af_fb00_0000_ffff);
        for vector in 0..256u64 {
            let target = HANDLERS + vector;
            // 64-bit interrupt gate, DPL 3 so that INT3 is allowed, IST 1.
            let low = target & 0xffff | 0x08 << 16 | 1 << 32 | 0xee00 << 32 | (target >> 16 & 0xffff) << 48;
            put(system(IDT) + 16 * vector, low);
            put(system(IDT) + 16 * vector + 8, target >> 32);
        }
        put(system(TSS) + 4, HANDLER_STACK_TOP);
        put(system(TSS) + 0x24, HANDLER_STACK_TOP);
        // No I/O bitmap: users have no ports (word at 0x66).
        put(system(TSS) + 0x60, 0x68 << 48);
        memory.write(system(HANDLERS), &[0xf4; 256]).expect("inside RAM");
        // IRETQ: how a judge that starts in ring 0 gets to ring 3.
        memory.write(system(RETURN), &[0x48, 0xcf]).expect("inside RAM");
        let mut base = CpuState::reset();
        let data = Segment { base: 0, limit: u32::MAX, attr: attr::P | attr::S | attr::RW | attr::ACCESSED | attr::DB | attr::G, selector: 0 };
        let sys = &mut base.sys;
        sys.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG | cr0::AM;
        sys.cr3 = PML4;
        sys.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE;
        sys.xcr0 = 3;
        sys.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        sys.gdtr = TableRegister { base: GDT, limit: 0x7f };
        sys.idtr = TableRegister { base: IDT, limit: 0xfff };
        sys.seg = [data; 8];
        sys.seg[sim_cpu::LDTR] = Segment { attr: 0, ..data };
        sys.seg[sim_cpu::TR] = Segment { base: TSS, limit: 0x67, attr: attr::P | 11, selector: 0x38 };
        let mut image = vec![0; MEMORY as usize];
        memory.read(0, &mut image).expect("inside RAM");
        Ours { cpu: Cpu::new(Config::default()), memory, base, cases: 0, image, slice: u64::MAX }
    }

    /// Makes it the v3 model, with the upper halves of YMM registers enabled.
    pub fn use_v3(&mut self) {
        self.cpu = Cpu::new(Config { cpuid: CpuModel::V3.table(0, 1), ..Config::default() });
        self.base.sys.xcr0 = 7;
    }

    /// Memory as it is before a case: what another machine needs to be in the same place.
    pub fn image(&self) -> &[u8] {
        &self.image
    }

    /// System registers before a case.
    pub fn base(&self) -> &sim_cpu::System {
        &self.base.sys
    }

    /// What a system programmer sees of the processor.
    fn system(&self, sys: &sim_cpu::System, code: u64, stack: u64) -> Vec<(&'static str, u64)> {
        let mut out = vec![
            ("cr0", sys.cr0),
            ("cr2", sys.cr2),
            ("cr3", sys.cr3),
            ("cr4", sys.cr4),
            ("dr0", sys.dr[0]),
            ("dr1", sys.dr[1]),
            ("dr2", sys.dr[2]),
            ("dr3", sys.dr[3]),
            ("dr6", sys.dr6),
            ("dr7", sys.dr7),
            ("es", u64::from(sys.seg[sim_cpu::ES].selector)),
            ("cs", code),
            ("ss", stack),
            ("ds", u64::from(sys.seg[sim_cpu::DS].selector)),
            ("fs", u64::from(sys.seg[sim_cpu::FS].selector)),
            ("gs", u64::from(sys.seg[sim_cpu::GS].selector)),
            ("fs base", sys.seg[sim_cpu::FS].base),
            ("gs base", sys.seg[sim_cpu::GS].base),
            ("kernel gs base", sys.kernel_gs_base),
            ("efer", sys.efer),
            ("star", sys.star),
            ("lstar", sys.lstar),
            ("cstar", sys.cstar),
            ("sfmask", sys.sfmask),
            ("pat", sys.pat),
            ("sysenter cs", sys.sysenter_cs),
            ("sysenter esp", sys.sysenter_esp),
            ("sysenter eip", sys.sysenter_eip),
            ("gdtr base", sys.gdtr.base),
            ("gdtr limit", u64::from(sys.gdtr.limit)),
            ("idtr base", sys.idtr.base),
            ("idtr limit", u64::from(sys.idtr.limit)),
            ("ldtr", u64::from(sys.seg[sim_cpu::LDTR].selector)),
            ("tr", u64::from(sys.seg[sim_cpu::TR].selector)),
        ];
        let entries = page_entries(&crate::setting::Setting::default());
        for ((at, _), name) in entries.into_iter().zip(["page 0", "page 1", "page 2", "stack page"]) {
            out.push((name, self.memory.read_u64(at, 8).expect("inside RAM")));
        }
        out
    }

    /// Runs a case to its first exception.
    pub fn run(&mut self, case: &Case, bytes: &[u8], memory: &[u8; MEMORY_BYTES]) -> Outcome {
        let mut state = self.base.clone();
        let dpl = if case.ring == Ring::User { 3u16 } else { 0 };
        let sys = &mut state.sys;
        sys.cpl = dpl as u8;
        let rights = dpl << attr::DPL_SHIFT;
        let (code, data) = if dpl == 3 { (0x33, 0x2b) } else { (0x08, 0x10) };
        for index in [sim_cpu::ES, sim_cpu::SS, sim_cpu::DS, sim_cpu::FS, sim_cpu::GS] {
            sys.seg[index].attr |= rights;
            sys.seg[index].selector = data;
        }
        if dpl == 3 {
            // As a process of Linux finds them, and as IRETQ to ring 3 leaves them in unicorn.
            for index in [sim_cpu::ES, sim_cpu::DS] {
                sys.seg[index] = Segment::default();
            }
        }
        sys.seg[sim_cpu::CS] =
            Segment { base: 0, limit: u32::MAX, attr: attr::P | attr::S | attr::CODE | attr::RW | attr::ACCESSED | attr::L | attr::G | rights, selector: code };
        state.gpr = case.start.gpr;
        state.rip = case.origin;
        state.rflags = case.start.rflags;
        state.xmm = case.start.xmm;
        state.ymm_high = case.start.upper;
        state.mxcsr = case.start.mxcsr;
        state.x87 = case.start.x87;
        state.x87.update_summary();
        state.sys.cr0 ^= case.setting.cr0;
        state.sys.cr4 ^= case.setting.cr4;
        // What a case may have changed: A and D bits, descriptors; and by a wild write in ring 0 any of the tables and handlers.
        for at in [TABLE, PHYS_SYSTEM] {
            self.memory.write(at, &self.image[at as usize..at as usize + 0x1000]).expect("inside RAM");
        }
        for at in (PHYS_SYSTEM + 0x1000..PHYS_SYSTEM + SYSTEM_BYTES).step_by(0x1000) {
            let (mut page, fresh) = ([0; 0x1000], &self.image[at as usize..at as usize + 0x1000]);
            self.memory.read(at, &mut page).expect("inside RAM");
            // Handlers are code: what is as it was is left, and with it their blocks.
            if page != *fresh {
                self.memory.write(at, fresh).expect("inside RAM");
            }
        }
        for (entry, rights) in page_entries(&case.setting) {
            self.memory.write_u64(entry, 8, rights).expect("inside RAM");
        }
        let (arena, stack) = memory.split_at(DATA_BYTES as usize);
        let mut code_page = [0xcc; CODE_BYTES as usize];
        let at = (case.origin - CODE) as usize;
        code_page[at..at + bytes.len()].copy_from_slice(bytes);
        self.memory.write(PHYS_CODE, &code_page).expect("inside RAM");
        self.memory.write(PHYS_DATA, arena).expect("inside RAM");
        self.memory.write(PHYS_STACK, stack).expect("inside RAM");
        self.cases += 1;
        if self.cases.is_multiple_of(512) {
            // Every case is new code at old addresses.
            self.cpu.flush_blocks();
        }
        state.ticks = self.cpu.ticks();
        self.cpu.set_state(&state);
        self.cpu.flush_tlb();
        let limit = state.ticks + TICKS_MAX;
        let stop = loop {
            let deadline = limit.min(self.cpu.ticks().saturating_add(self.slice));
            match self.cpu.run(&mut self.memory, &mut Empty, deadline) {
                Stop::Deadline if self.cpu.ticks() < limit => {}
                stop => break stop,
            }
        };
        let end_state = self.cpu.state();
        let mut out = Outcome {
            end: End::Runaway,
            gpr: end_state.gpr,
            rip: end_state.rip,
            rflags: end_state.rflags,
            xmm: end_state.xmm,
            upper: end_state.ymm_high,
            mxcsr: end_state.mxcsr,
            x87: end_state.x87,
            memory: Box::new([0; MEMORY_BYTES]),
            system: Vec::new(),
        };
        let (arena, stack) = out.memory.split_at_mut(DATA_BYTES as usize);
        self.memory.read(PHYS_DATA, arena).expect("inside RAM");
        self.memory.read(PHYS_STACK, stack).expect("inside RAM");
        if stop == Stop::Halted && (HANDLERS..HANDLERS + 256).contains(&(end_state.rip - 1)) {
            let vector = (end_state.rip - 1 - HANDLERS) as u8;
            let has_code = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
            let mut frame = end_state.gpr[sim_cpu::RSP];
            let mut pop = || {
                let value = self.memory.read_u64(frame - SYSTEM + PHYS_SYSTEM, 8).unwrap_or(0);
                frame += 8;
                value
            };
            let code = if has_code { pop() as u32 } else { 0 };
            out.rip = pop();
            let code_selector = pop();
            out.rflags = pop();
            out.gpr[sim_cpu::RSP] = pop();
            let stack_selector = pop();
            out.system = self.system(&end_state.sys, code_selector, stack_selector);
            out.end = End::Fault { vector, code, address: if vector == 14 { end_state.sys.cr2 } else { 0 } };
        }
        out
    }
}
