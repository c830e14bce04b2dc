//! Garbage for the processor: code, registers, MSRs, page tables, descriptor tables and VMCBs that no sane program makes.
//!
//! # Theory
//! The engine may neither panic nor hang on them, and where a run is cut must stay invisible: each case runs whole and cut, and state, TLB, memory and
//! what the bus saw are compared. A case is a function of its seed.
//!
//! From outside come interrupts, NMIs, INIT and start-up messages, at ticks of the case and because of what the guest writes (ports, the self-IPI register, CR8).
//! As a board does, a run ends where one is due; a processor that waits gets the next at once. [`fuzz_quietly`] leaves all this out.
//!
//! # Limits
//! One vCPU, 8 MiB, [`TICKS`] ticks a case.

use crate::bare::{self, CODE, DATA, GDT, IDT, PML4, STACK};
use crate::{At, Attention, Config, Cpu, CpuBus, CpuState, Segment, Stop, rflags};
use sim_mem::GuestMemory;
use std::collections::BTreeSet;

/// Ticks a case runs.
pub const TICKS: u64 = 500;

/// MSR of the x2APIC's self-IPI register (SDM vol. 3, table 12-6).
const SELF_IPI: u32 = 0x83f;

/// What comes from outside.
#[derive(Clone, Copy, Debug)]
enum Event {
    Interrupt(u8),
    /// One that has gone when it is asked for.
    Spurious,
    Nmi,
    Init,
    StartUp(u8),
}

/// A bus that echoes, and remembers what it was told and when.
#[derive(Default, PartialEq)]
struct Echo {
    seen: Vec<(u64, u64, u64)>,
    base: u64,
    random: u64,
    /// Whether the guest can raise interrupts.
    loud: bool,
    /// Interrupts that wait.
    waiting: BTreeSet<u8>,
    spurious: bool,
    nmi: bool,
    stop: bool,
    tpr: u8,
}

impl Echo {
    fn see(&mut self, at: At, place: u64, value: u64) {
        self.seen.push((self.base + at.ticks, place, value));
    }

    /// The highest interrupt above the task priority.
    fn interrupt(&self) -> Option<u8> {
        self.waiting.last().copied().filter(|vector| vector >> 4 > self.tpr)
    }
}

impl CpuBus for Echo {
    fn mmio_read(&mut self, at: At, gpa: u64, size: u8) -> u64 {
        self.see(at, gpa, u64::MAX);
        gpa.wrapping_mul(0x0101_0101) & (u64::MAX >> (64 - 8 * u64::from(size)))
    }
    fn mmio_write(&mut self, at: At, gpa: u64, _size: u8, value: u64) {
        self.see(at, gpa, value);
    }
    fn port_in(&mut self, at: At, port: u16, _size: u8) -> u32 {
        // A device may lose a byte by it: it must not happen twice.
        self.see(at, u64::from(port) | 1 << 63, u64::MAX);
        u32::from(port) ^ (self.base + at.ticks) as u32
    }
    fn port_out(&mut self, at: At, port: u16, _size: u8, value: u32) {
        self.see(at, u64::from(port), u64::from(value));
        match port & 7 {
            1 | 3 if self.loud => {
                self.waiting.insert(value as u8 | 0x20);
            }
            5 => self.nmi = self.loud,
            7 => self.stop = self.loud,
            _ => {}
        }
    }
    fn msr_read(&mut self, _at: At, _msr: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, at: At, msr: u32, value: u64) -> bool {
        let known = self.loud && msr == SELF_IPI;
        if known {
            self.see(at, u64::from(msr), value);
            self.waiting.insert(value as u8);
        }
        known
    }
    fn tsc(&mut self, at: At) -> u64 {
        self.base + at.ticks
    }
    fn cr8(&mut self, _at: At) -> u8 {
        self.tpr
    }
    fn set_cr8(&mut self, at: At, value: u8) {
        if self.loud {
            self.see(at, u64::MAX, u64::from(value));
            self.tpr = value;
        }
    }
    fn acknowledge(&mut self, at: At) -> Option<u8> {
        let vector = self.interrupt();
        self.spurious &= vector.is_some();
        self.see(at, u64::MAX - 1, vector.map_or(u64::MAX, u64::from));
        vector.inspect(|vector| {
            self.waiting.remove(vector);
        })
    }
    fn take_nmi(&mut self, at: At) {
        self.see(at, u64::MAX - 2, 0);
        self.nmi = false;
    }
    fn attention(&mut self, _at: At) -> Attention {
        Attention { interrupt: self.spurious || self.interrupt().is_some(), nmi: self.nmi, stop: self.stop, ..Attention::default() }
    }
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random
    }
}

/// What goes from case to case.
type Parts = (Cpu, GuestMemory);

struct Machine {
    cpu: Cpu,
    memory: GuestMemory,
    bus: Echo,
    /// What is still to come, the next last.
    events: Vec<(u64, Event)>,
}

impl Machine {
    /// A processor as new over a memory that is as [`bare::long`] makes it.
    fn long((mut cpu, memory): Parts, state: &CpuState) -> Machine {
        cpu.set_state(state);
        Machine { cpu, memory, bus: Echo::default(), events: Vec::new() }
    }

    /// Puts bytes at `address`.
    fn bytes(&mut self, address: u64, bytes: &[u8]) {
        self.memory.write(address, bytes).expect("in RAM");
    }

    /// The next event happens.
    fn happen(&mut self) -> bool {
        let Some((_, event)) = self.events.pop() else { return false };
        match event {
            Event::Interrupt(vector) => {
                self.bus.waiting.insert(vector);
            }
            Event::Spurious => self.bus.spurious = true,
            Event::Nmi => self.bus.nmi = true,
            Event::Init => self.cpu.init(false),
            Event::StartUp(vector) => self.cpu.sipi(vector),
        }
        true
    }

    /// Runs at most `ticks` more ticks.
    fn run(&mut self, ticks: u64) -> Stop {
        self.bus.base = self.cpu.ticks();
        let deadline = self.cpu.ticks() + ticks;
        self.cpu.run(&mut self.memory, &mut self.bus, deadline)
    }

    /// Changes the state through a copy.
    fn change(&mut self, change: impl FnOnce(&mut CpuState)) {
        let mut state = self.cpu.state();
        change(&mut state);
        self.cpu.set_state(&state);
    }
}

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
        state.sys.efer |= crate::efer::SVME;
        state.sys.vm_hsave_pa = if rng.below(8) == 0 { rng.value() & 0xff_ffff_f000 } else { VMCB + 0x1000 };
        state.gpr[0] = VMCB;
        state.sys.cpl = 0;
    });
    machine.bytes(CODE, &[0x0f, 0x01, 0xd8]);
    let at = 3 + rng.below(8);
    machine.bytes(CODE + at, &[0x0f, 0x01, 0xd8]);
}

/// Events of one case, and a guest that lets some of them in: on top of the case as it is without them.
fn disturb(machine: &mut Machine, rng: &mut Rng, state: &CpuState) {
    machine.bus.loud = true;
    let mut tick = 0;
    for _ in 0..rng.below(12) {
        // In crowds, and at any distance.
        tick += if rng.below(2) == 0 { rng.below(4) } else { rng.below(80) };
        let event = match rng.below(32) {
            0..=18 => Event::Interrupt(0x20 + rng.below(0xe0) as u8),
            19 => Event::Interrupt(rng.next() as u8),
            20..=22 => Event::Spurious,
            23..=29 => Event::Nmi,
            30 => Event::Init,
            _ => Event::StartUp(0x80 + rng.below(0x80) as u8),
        };
        machine.events.push((tick, event));
        if matches!(event, Event::Init) && rng.below(4) != 0 {
            tick += rng.below(6);
            machine.events.push((tick, Event::StartUp((CODE >> 12) as u8)));
        }
    }
    machine.events.reverse();
    // Handlers that come back, most of them: at once, or after something in a shadow, a halt, or a loop.
    const HANDLERS: [&[u8]; 8] = [
        &[0x48, 0xcf],
        &[0x48, 0xcf],
        &[0xfb, 0x48, 0xcf],
        &[0xfb, 0xf4, 0x48, 0xcf],
        &[0x44, 0x0f, 0x22, 0xc0, 0x48, 0xcf],
        &[0x0f, 0x01, 0xdc, 0x48, 0xcf],
        &[0xb9, 2, 0, 0, 0, 0xf3, 0xac, 0x48, 0xcf],
        &[0xee, 0x48, 0xcf],
    ];
    let first = rng.below(8);
    for vector in 0..256 {
        machine.bytes(bare::HANDLERS + 16 * vector, HANDLERS[((first + vector * 5 / 3) % 8) as usize]);
    }
    // Few instructions between STI, HLT, MOV SS and string operations: where shadows and halts meet.
    for _ in 0..rng.below(6) {
        let piece: &[u8] = [&[0xfb, 0xf4][..], &[0x8e, 0xd2], &[0xfb], &[0xfb, 0xf3, 0xaa], &[0xf3, 0xa5], &[0x17], &[0xfa, 0x90, 0xfb, 0x90], &[0x9d], &[0xee], &[0x0f, 0x30], &[0xf3, 0xa6]][rng.below(11) as usize];
        let place = CODE + rng.below(0x80);
        machine.bytes(place, piece);
    }
    let virtual_machine = machine.memory.read_u64(VMCB + 0x58, 8) == Ok(1);
    if virtual_machine {
        let mut flip = |at: u64, bits: u64| {
            let old = machine.memory.read_u64(at, 8).unwrap_or_default();
            machine.memory.write_u64(at, 8, old | bits).expect("RAM");
        };
        // V_TPR, V_IRQ, V_GIF, priority, V_IGN_TPR, V_INTR_MASKING, V_GIF enable, vector.
        if rng.below(2) == 0 {
            flip(VMCB + 0x60, 0x100 | rng.next() & 0xff_021f_0203 | rng.below(2) << 24 | rng.below(2) << 25);
        }
        // INTR, NMI, SMI, INIT, VINTR.
        flip(VMCB + 8, rng.next() & rng.next() & 0x1f << 32);
        flip(VMCB + 0x10, rng.next() & rng.next() & 0x3f);
        if rng.below(3) == 0 {
            flip(VMCB + 0x68, rng.below(4));
        }
        if rng.below(3) == 0 {
            flip(VMCB + 0xa8, 1 << 31 | [0x20, 0x202, 0x30e, 0xb0d, 0x480][rng.below(5) as usize] | rng.below(2) << 4);
        }
        if rng.below(4) != 0 {
            flip(VMCB + 0x570, rflags::IF);
        }
        // VMRUN, STGI, back to VMRUN.
        if rng.below(2) == 0 {
            machine.bytes(CODE, &[0x0f, 0x01, 0xd8, 0x0f, 0x01, 0xdc, 0xeb, 0xf8]);
        }
    }
    let (enable, self_ipi, step) = (rng.below(4) != 0, rng.below(6) == 0, rng.below(8) == 0);
    let port = rng.below(4) == 0;
    let count = rng.below(24);
    machine.change(|now| {
        if enable {
            now.rflags |= rflags::IF;
        }
        if step {
            now.rflags |= rflags::TF;
        }
        if self_ipi {
            now.gpr[1] = u64::from(SELF_IPI);
        } else if port {
            now.gpr[2] = now.gpr[2] & !7 | 1;
        } else {
            // String operations that last, and have somewhere to go.
            now.gpr[1] = count;
            now.gpr[6] = DATA + 0x800;
            now.gpr[7] = DATA + 0x1800;
        }
        if count & 1 == 0 {
            now.sys.idtr = state.sys.idtr;
        }
    });
}

fn machine(seed: u64, parts: Parts, state: &CpuState, loud: bool) -> Machine {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut machine = Machine::long(parts, state);
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
            state.sys.seg[crate::CS].base = CODE;
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
    if loud {
        disturb(&mut machine, &mut Rng(seed.wrapping_mul(0xd134_2543_de82_ef95) | 1), state);
    }
    machine
}

/// Runs a case in pieces of `step` ticks; a halt that nothing can end, and a shutdown, end it wherever it is cut.
fn run(mut machine: Machine, step: u64) -> Machine {
    loop {
        let now = machine.cpu.ticks();
        while machine.events.last().is_some_and(|(due, _)| *due <= now) {
            machine.happen();
        }
        if now >= TICKS {
            return machine;
        }
        let due = machine.events.last().map_or(TICKS, |(due, _)| TICKS.min(*due));
        match machine.run(step.min(due - now)) {
            Stop::Deadline | Stop::Pause => {}
            Stop::Requested => machine.bus.stop = false,
            Stop::Halted if machine.happen() => {}
            _ => return machine,
        }
    }
}

/// Two processors and memories that go from case to case, since making them costs ten times what a case does: the pages that a case wrote are put back after it.
struct Bench {
    clean: GuestMemory,
    state: CpuState,
    used: Vec<Parts>,
    /// Whether interrupts come.
    loud: bool,
}

impl Bench {
    /// Cases after which both memories are compared whole with the clean one: a page that was written without being marked would stay.
    const INSPECTION: u64 = 1 << 10;

    fn new(loud: bool) -> Bench {
        let ((clean, state), (one, _), (other, _)) = (bare::long(), bare::long(), bare::long());
        Bench { clean, state, used: [one, other].into_iter().map(|memory| (Cpu::new(Config::default()), memory)).collect(), loud }
    }

    fn run(&mut self, seed: u64, step: u64) -> Machine {
        let parts = self.used.pop().expect("two runs are put away before the next two begin");
        run(machine(seed, parts, &self.state, self.loud), step)
    }

    fn put_away(&mut self, machine: Machine) {
        let mut memory = machine.memory;
        for page in memory.dirty_pages().to_vec() {
            memory.restore_page(page, self.clean.page(page));
        }
        memory.clear_dirty();
        memory.forget_code();
        self.used.push((machine.cpu.renewed(), memory));
    }

    /// # Errors
    /// What shows where the case was cut.
    fn case(&mut self, seed: u64) -> Result<(), String> {
        let step = 1 + seed % 7;
        let (whole, cut) = (self.run(seed, u64::MAX), self.run(seed, step));
        let found = |what: &str| Err(format!("seed {seed}, cut every {step} ticks: {what}"));
        let fields = whole.cpu.state().save().diff(&cut.cpu.state().save());
        if !fields.is_empty() {
            return found(&fields.join(", "));
        }
        if whole.cpu.tlb_entries() != cut.cpu.tlb_entries() {
            return found("the TLB holds something else");
        }
        for &page in whole.memory.dirty_pages().iter().chain(cut.memory.dirty_pages()) {
            let (one, other) = (whole.memory.page(page), cut.memory.page(page));
            if let Some(at) = (0..one.len()).find(|&at| one[at] != other[at]) {
                let place = u64::from(page) * 4096 + at as u64;
                return found(&format!("memory differs at {place:#x}: {:02x?}, cut {:02x?}", &one[at..], &other[at..]).chars().take(200).collect::<String>());
            }
        }
        let (one, other) = (&whole.bus.seen, &cut.bus.seen);
        if let Some(at) = (0..one.len().max(other.len())).find(|&at| one.get(at) != other.get(at)) {
            return found(&format!("the bus saw something else (tick, place, value): {:x?}, cut {:x?}", one.get(at), other.get(at)));
        }
        self.put_away(whole);
        self.put_away(cut);
        Ok(())
    }

    /// # Errors
    /// A memory that is not what it was after its pages were put back.
    fn inspect(&self, seed: u64) -> Result<(), String> {
        let same = self.used.iter().all(|(_, memory)| memory.ram() == self.clean.ram());
        if same { Ok(()) } else { Err(format!("seed {seed} or one of the {} before it: a page was written and not marked", Self::INSPECTION)) }
    }
}

/// Runs `cases` cases from `seed` on. A panic of the engine is a finding too.
///
/// # Errors
/// The first case that shows where it was cut, in words.
pub fn fuzz(seed: u64, cases: u64) -> Result<String, String> {
    cases_of(Bench::new(true), seed, cases)
}

/// The same cases without anything from outside.
///
/// # Errors
/// As [`fuzz`].
pub fn fuzz_quietly(seed: u64, cases: u64) -> Result<String, String> {
    cases_of(Bench::new(false), seed, cases)
}

fn cases_of(mut bench: Bench, seed: u64, cases: u64) -> Result<String, String> {
    for number in 0..cases {
        let seed = seed.wrapping_add(number);
        bench.case(seed)?;
        if number % Bench::INSPECTION == 0 || number + 1 == cases {
            bench.inspect(seed)?;
        }
    }
    Ok(format!("{cases} cases"))
}
