//! A bare machine for engine tests: identity-mapped long mode, a bus that remembers, and code from the assembler.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use iced_x86::code_asm::CodeAssembler;
use sim_cpu::{At, Attention, Config, Cpu, CpuBus, CpuState, Stop};
use sim_mem::GuestMemory;

pub use sim_cpu::bare::*;

/// A bus that has one device page (echoing) and remembers port writes with their ticks.
#[derive(Default)]
pub struct TestBus {
    pub out: Vec<(u64, u16, u32)>,
    pub mmio: Vec<(u64, u64, u64)>,
    pub interrupt_at: Option<(u64, u8)>,
    /// An interrupt that has gone when it is asked for.
    pub spurious: bool,
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
        self.spurious = false;
        self.interrupt_at.take().map(|(_, vector)| vector)
    }
    fn take_nmi(&mut self, _at: At) {}
    fn attention(&mut self, at: At) -> Attention {
        let due = self.interrupt_at.is_some_and(|(tick, _)| self.base + at.ticks >= tick);
        Attention { interrupt: due || self.spurious, stop: self.stop, ..Attention::default() }
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
    /// See [`sim_cpu::bare::long`].
    pub fn long() -> Machine {
        let (memory, state) = sim_cpu::bare::long();
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
