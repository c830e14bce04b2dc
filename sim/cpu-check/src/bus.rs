//! A bus that echoes and remembers.

use sim_bus::{At, Attention, CpuBus};

/// See the module.
#[derive(Debug)]
pub struct EchoBus {
    /// Tick of each access, its address, its value (reads: all ones).
    pub seen: Vec<(u64, u64, u64)>,
    /// When an interrupt with vector 0x30 comes.
    pub due: Option<u64>,
    /// Ticks at the start of the run.
    pub base: u64,
    random: u64,
}

impl EchoBus {
    pub fn new(due: Option<u64>) -> EchoBus {
        EchoBus { seen: Vec::new(), due, base: 0, random: 1 }
    }

    fn note(&mut self, at: At, address: u64, value: u64) {
        self.seen.push((self.base + at.ticks, address, value));
    }
}

impl CpuBus for EchoBus {
    fn mmio_read(&mut self, at: At, gpa: u64, size: u8) -> u64 {
        self.note(at, gpa, u64::MAX);
        gpa.wrapping_mul(0x0101_0101) & (u64::MAX >> (64 - 8 * u64::from(size)))
    }
    fn mmio_write(&mut self, at: At, gpa: u64, _size: u8, value: u64) {
        self.note(at, gpa, value);
    }
    fn port_in(&mut self, at: At, port: u16, _size: u8) -> u32 {
        u32::from(port) ^ (self.base + at.ticks) as u32
    }
    fn port_out(&mut self, at: At, port: u16, _size: u8, value: u32) {
        self.note(at, u64::from(port), u64::from(value));
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
        self.due.take().map(|_| 0x30)
    }
    fn take_nmi(&mut self, _at: At) {}
    fn attention(&mut self, at: At) -> Attention {
        let interrupt = self.due.is_some_and(|due| self.base + at.ticks >= due);
        Attention { interrupt, ..Attention::default() }
    }
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random
    }
}
