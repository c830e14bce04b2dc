//! Garbage as code, state, page tables and descriptor tables, in every mode: the engine may not panic or hang, and cuts stay invisible.

mod support;

use sim_cpu::{CpuState, Segment, Stop, rflags};
use support::{CODE, DATA, GDT, IDT, Machine, PML4, STACK};

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
    /// A value of the kind that finds bugs.
    fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => DATA + self.below(0x3000),
            4 => STACK - self.below(0x100),
            5 => 0x0000_7fff_ffff_fff0 + self.below(32),
            6 => self.next() & 0xffff_ffff,
            _ => self.next(),
        }
    }
}

/// Two-byte opcodes that reach the rarer handlers more often than chance does.
const SEEDS: [&[u8]; 36] = [
    &[0x0f, 0x01], &[0x0f, 0x00], &[0x0f, 0x20], &[0x0f, 0x22], &[0x0f, 0x21], &[0x0f, 0x23], &[0x0f, 0x30], &[0x0f, 0x32], &[0x0f, 0xae], &[0x0f, 0xc7], &[0xf3, 0xa4], &[0xf3, 0xab],
    // VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, INVLPGA; RDMSR and WRMSR of a number from the list; XSAVE and XRSTOR; HLT.
    &[0x0f, 0x01, 0xd8], &[0x0f, 0x01, 0xd8], &[0x0f, 0x01, 0xd9], &[0x0f, 0x01, 0xda], &[0x0f, 0x01, 0xdb], &[0x0f, 0x01, 0xdc], &[0x0f, 0x01, 0xdd], &[0x0f, 0x01, 0xdf],
    &[0x0f, 0xa2], &[0x0f, 0x01, 0xd1], &[0xf4], &[0x0f, 0xc7, 0x25],
    &[0xf2, 0xae], &[0xcf], &[0xca], &[0x0f, 0x05], &[0x0f, 0x07], &[0x0f, 0x34], &[0x8e], &[0xc8], &[0xff], &[0x9d], &[0xcd], &[0x66, 0x0f],
];

/// MSRs the engine knows, and neighbours.
const MSRS: [u32; 22] = [
    0x10, 0x3b, 0x48, 0x174, 0x175, 0x17a, 0x1a0, 0x200, 0x250, 0x277, 0x2ff, 0x401, 0xda0, 0xc000_0080, 0xc000_0081, 0xc000_0084, 0xc000_0100, 0xc000_0103, 0xc001_0015, 0xc001_0114, 0xc001_0117, 0xc001_0118,
];

/// Page that VMRUN finds in RAX, and the host save area after it.
const VMCB: u64 = 0x28_0000;

/// A guest that may well run: a copy of the host's state, its tables as nested tables, then noise.
fn virtual_machine(machine: &mut Machine, rng: &mut Rng) {
    let mut put = |at: u64, value: u64| machine.memory.write_u64(at, 8, value).expect("RAM");
    let segment = |attr: u64, selector: u64| selector | attr << 16 | 0xffff_ffff << 32;
    for offset in [0x400, 0x420, 0x430] {
        put(VMCB + offset, segment(0xc93, 0x18));
    }
    put(VMCB + 0x410, segment(0xa9b, 0x10));
    for (offset, value) in [
        (0x10, 1),
        (0x58, 1),
        (0x90, rng.below(2)),
        (0xb0, PML4),
        (0x460, 0x4f << 32),
        (0x468, GDT),
        (0x480, 0xfff << 32),
        (0x488, IDT),
        (0x4d0, 0x1500),
        (0x548, 0x620),
        (0x550, PML4),
        (0x558, 0x8001_0033),
        (0x560, 0x400),
        (0x568, 0xffff_0ff0),
        (0x570, rng.next() & 0x4_0fd5 | 2),
        (0x578, CODE + rng.below(0x1000)),
        (0x5d8, STACK - 0x800),
        (0x5f8, VMCB),
    ] {
        put(VMCB + offset, value);
    }
    for _ in 0..rng.below(4) {
        put(VMCB + 8 * rng.below(2), rng.next());
    }
    for _ in 0..rng.below(5) {
        let place = VMCB + 8 * if rng.below(2) == 0 { rng.below(0x1c) } else { 0x80 + rng.below(0x50) };
        put(place, if rng.below(2) == 0 { rng.value() } else { 1 << rng.below(64) });
    }
    put(VMCB + 0x10, 1 | rng.next() & rng.next() & 0x3fff);
    machine.change(|state| {
        state.sys.efer |= sim_cpu::efer::SVME;
        state.sys.vm_hsave_pa = if rng.below(8) == 0 { rng.value() & 0xff_ffff_f000 } else { VMCB + 0x1000 };
        state.gpr[0] = VMCB;
        state.sys.cpl = 0;
    });
    machine.bytes(CODE, &[0x0f, 0x01, 0xd8]);
    let at = 3 + rng.below(8);
    machine.bytes(CODE + at, &[0x0f, 0x01, 0xd8]);
}

fn machine(seed: u64) -> Machine {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut machine = Machine::long();
    let mut at = 0;
    while at < 0x1000 {
        let piece = SEEDS[rng.below(SEEDS.len() as u64) as usize];
        machine.bytes(CODE + at, piece);
        at += piece.len() as u64;
        let noise = rng.next().to_le_bytes();
        machine.bytes(CODE + at, &noise[..rng.below(8) as usize]);
        at += rng.below(8);
    }
    for _ in 0..rng.below(12) {
        let (table, size) = [(PML4, 0x7000), (GDT, 0x50), (IDT, 0x1000)][rng.below(3) as usize];
        let place = table + rng.below(size / 8) * 8;
        let value = if rng.below(2) == 0 { rng.value() } else { machine.memory.read_u64(place, 8).expect("RAM") ^ 1 << rng.below(64) };
        machine.memory.write_u64(place, 8, value).expect("RAM");
    }
    let base = match rng.below(4) {
        0 => CpuState::pvh(CODE as u32, 0),
        1 => {
            let mut state = CpuState::start_up(0x80);
            state.sys.seg[sim_cpu::CS].base = CODE;
            state
        }
        _ => machine.cpu.state(),
    };
    machine.cpu.set_state(&base);
    machine.change(|state| {
        for reg in &mut state.gpr {
            *reg = rng.value();
        }
        state.gpr[4] = STACK - 8 * rng.below(64);
        state.rflags = rng.next() & rflags::ALL & !(rflags::VM | rflags::TF) | rflags::FIXED;
        if rng.below(4) == 0 {
            state.rflags |= rflags::TF;
        }
        if rng.below(3) == 0 {
            let index = rng.below(8) as usize;
            state.sys.seg[index] = Segment { base: rng.value(), limit: rng.next() as u32, attr: rng.next() as u16 & 0xfff, selector: rng.next() as u16 };
        }
        if rng.below(3) == 0 {
            state.sys.cpl = rng.below(4) as u8;
        }
        if rng.below(3) == 0 {
            state.sys.cr4 |= rng.next() & 0x0037_0ff8;
        }
        if rng.below(6) == 0 {
            state.sys.dr7 = rng.next() & 0xffff_0000 | 0x4ff;
            state.sys.dr = [CODE + rng.below(64), DATA, STACK - 8, CODE + rng.below(64)];
        }
        if rng.below(2) == 0 {
            state.gpr[1] = u64::from(MSRS[rng.below(MSRS.len() as u64) as usize]);
        }
        state.sys.star = rng.value();
        state.sys.lstar = CODE + rng.below(0x1000);
    });
    if rng.below(3) == 0 {
        virtual_machine(&mut machine, &mut rng);
    }
    machine
}

fn run(seed: u64, ticks: u64, step: u64) -> (CpuState, Vec<(u64, u64, u16)>, Machine) {
    let mut machine = machine(seed);
    // Halts and shutdowns end the run wherever it is cut.
    let mut left = ticks;
    while left > 0 {
        let before = machine.cpu.ticks();
        let stop = machine.run(step.min(left));
        left -= machine.cpu.ticks() - before;
        if stop != Stop::Deadline {
            break;
        }
    }
    (machine.cpu.state(), machine.cpu.tlb_entries(), machine)
}

#[test]
fn garbage_neither_panics_nor_shows_where_it_was_cut() {
    // Five seconds in `./test`; more by `ORRERY_FUZZ_CASES`, from `ORRERY_FUZZ_SEED` on.
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let first = number("ORRERY_FUZZ_SEED", 1);
    for seed in first..first + number("ORRERY_FUZZ_CASES", 400) {
        let (whole, tlb, machine) = run(seed, 500, u64::MAX);
        let (cut, cut_tlb, other) = run(seed, 500, 1 + seed % 7);
        assert_eq!(whole.save().diff(&cut.save()), Vec::<String>::new(), "seed {seed}");
        assert_eq!(tlb, cut_tlb, "seed {seed}");
        assert!(machine.memory.ram() == other.memory.ram(), "seed {seed}: memory differs");
        assert!(machine.bus.out == other.bus.out && machine.bus.mmio == other.bus.mmio, "seed {seed}: the bus saw something else");
    }
}
