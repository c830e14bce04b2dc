//! A bare machine for engine tests: identity-mapped long mode, a bus that remembers, and code from the assembler.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use iced_x86::code_asm::CodeAssembler;
use sim_cpu::{At, Attention, Config, Cpu, CpuBus, CpuState, Stop, TableRegister, cr0, cr4};
use sim_mem::GuestMemory;

/// Memory of the test machine.
pub const RAM: u64 = 8 << 20;
/// Page tables, GDT, IDT and TSS live below 1 MiB; code and data above.
pub const PML4: u64 = 0x1000;
pub const GDT: u64 = 0x8000;
pub const IDT: u64 = 0x9000;
pub const TSS: u64 = 0xa000;
pub const CODE: u64 = 0x10_0000;
pub const DATA: u64 = 0x20_0000;
pub const STACK: u64 = 0x30_0000;
/// Handlers: vector n enters at HANDLERS + 16 n.
pub const HANDLERS: u64 = 0x18_0000;

/// A bus that has one device page (echoing) and remembers port writes with their ticks.
#[derive(Default)]
pub struct TestBus {
    pub out: Vec<(u64, u16, u32)>,
    pub mmio: Vec<(u64, u64, u64)>,
    pub interrupt_at: Option<(u64, u8)>,
    pub base: u64,
    pub random: u64,
    pub stop: bool,
}

impl CpuBus for TestBus {
    fn mmio_read(&mut self, at: At, gpa: u64, size: u8) -> u64 {
        self.mmio.push((self.base + at.ticks, gpa, u64::MAX));
        gpa.wrapping_mul(0x0101_0101) & (u64::MAX >> (64 - 8 * u64::from(size)))
    }
    fn mmio_write(&mut self, at: At, gpa: u64, _size: u8, value: u64) {
        self.mmio.push((self.base + at.ticks, gpa, value));
    }
    fn port_in(&mut self, at: At, port: u16, _size: u8) -> u32 {
        u32::from(port) ^ (self.base + at.ticks) as u32
    }
    fn port_out(&mut self, at: At, port: u16, _size: u8, value: u32) {
        self.out.push((self.base + at.ticks, port, value));
    }
    fn msr_read(&mut self, _at: At, _msr: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _at: At, _msr: u32, _value: u64) -> bool {
        false
    }
    fn tsc(&mut self, at: At) -> u64 {
        self.base + at.ticks
    }
    fn cr8(&mut self, _at: At) -> u8 {
        0
    }
    fn set_cr8(&mut self, _at: At, _value: u8) {}
    fn acknowledge(&mut self, _at: At) -> Option<u8> {
        self.interrupt_at.take().map(|(_, vector)| vector)
    }
    fn take_nmi(&mut self, _at: At) {}
    fn attention(&mut self, at: At) -> Attention {
        let due = self.interrupt_at.is_some_and(|(tick, _)| self.base + at.ticks >= tick);
        Attention { interrupt: due, stop: self.stop, ..Attention::default() }
    }
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random
    }
}

/// A vCPU with its memory and bus.
pub struct Machine {
    pub cpu: Cpu,
    pub memory: GuestMemory,
    pub bus: TestBus,
}

impl Machine {
    /// Long mode, ring 0, the first 8 MiB mapped one to one by 4 KiB pages (writable, user), RIP at [`CODE`], RSP at [`STACK`].
    pub fn long() -> Machine {
        let mut memory = GuestMemory::new(RAM);
        let mut put = |gpa: u64, value: u64| memory.write_u64(gpa, 8, value).expect("tables are in RAM");
        put(PML4, 0x2007);
        put(0x2000, 0x3007);
        for index in 0..4 {
            put(0x3000 + 8 * index, (0x4000 + 0x1000 * index) | 7);
            for page in 0..512 {
                put(0x4000 + 0x1000 * index + 8 * page, (index * 512 + page) << 12 | 7);
            }
        }
        // 0x10 code64, 0x18 data, 0x20 tss (16 bytes), 0x33 user code64, 0x3b user data, 0x40 code32, 0x48 data32.
        put(GDT + 0x10, 0x00af_9b00_0000_ffff);
        put(GDT + 0x18, 0x00cf_9300_0000_ffff);
        put(GDT + 0x20, 0x0000_8b00_0000_0067 | (TSS & 0xff_ffff) << 16);
        put(GDT + 0x28, 0);
        put(GDT + 0x30, 0x00af_fb00_0000_ffff);
        put(GDT + 0x38, 0x00cf_f300_0000_ffff);
        put(GDT + 0x40, 0x00cf_9b00_0000_ffff);
        put(GDT + 0x48, 0x00cf_9300_0000_ffff);
        for vector in 0..256u64 {
            let handler = HANDLERS + 16 * vector;
            put(IDT + 16 * vector, handler & 0xffff | 0x10 << 16 | 0xee00 << 32 | (handler >> 16 & 0xffff) << 48);
            put(IDT + 16 * vector + 8, handler >> 32);
        }
        put(TSS + 4, STACK + 0x8000);
        let mut state = CpuState::linux64(CODE, 0, PML4, TableRegister { base: GDT, limit: 0x4f });
        state.sys.cr0 |= cr0::WP | cr0::NE;
        state.sys.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
        state.sys.idtr = TableRegister { base: IDT, limit: 0xfff };
        state.sys.seg[sim_cpu::TR] = sim_cpu::Segment { base: TSS, limit: 0x67, attr: 0x8b, selector: 0x20 };
        state.gpr = [0; 16];
        state.gpr[sim_cpu::RSP] = STACK;
        let mut cpu = Cpu::new(Config::default());
        cpu.set_state(&state);
        Machine { cpu, memory, bus: TestBus::default() }
    }

    /// Assembles at `address`.
    pub fn code(&mut self, address: u64, build: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> u64 {
        let mut asm = CodeAssembler::new(64).expect("64 is a bitness");
        build(&mut asm).expect("test code assembles");
        let bytes = asm.assemble(address).expect("test code assembles");
        self.memory.write(address, &bytes).expect("code is in RAM");
        address + bytes.len() as u64
    }

    /// Puts bytes at `address`.
    pub fn bytes(&mut self, address: u64, bytes: &[u8]) {
        self.memory.write(address, bytes).expect("in RAM");
    }

    /// Runs `ticks` more ticks (or less, if something stops it).
    pub fn run(&mut self, ticks: u64) -> Stop {
        self.bus.base = self.cpu.ticks();
        let deadline = self.cpu.ticks() + ticks;
        self.cpu.run(&mut self.memory, &mut self.bus, deadline)
    }

    /// Changes the state through a copy.
    pub fn change(&mut self, change: impl FnOnce(&mut CpuState)) {
        let mut state = self.cpu.state();
        change(&mut state);
        self.cpu.set_state(&state);
    }

    /// A general register.
    pub fn gpr(&self, index: usize) -> u64 {
        self.cpu.state().gpr[index]
    }
}
