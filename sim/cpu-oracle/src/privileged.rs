//! What a random draw of opcodes would never say: sequences that load system registers with values that mean something, flags that change how
//! everything after them runs, images of the floating-point state.
//!
//! # Theory
//! A [`Template`] is a few instructions that belong together (the value, then MOV to CR4). [`enrich`] puts one into a random case and gives the
//! case a random [`Setting`]; what is random around it runs under what the template did. Half of the cases stay as they are.
//!
//! # Limits
//! A template never takes from our engine what it needs to tell the end of a case: CR3 stays, IDT and GDT keep their addresses and
//! the descriptors in use. IN, OUT and HLT in ring 0 are the board's, breakpoints of DR7 unicorn's embedder's: neither is tried.

use iced_x86::{Code, Instruction, MemoryOperand, Register};

use crate::batch::Judge;
use crate::case::{Case, Ring, is_direct_branch};
use crate::layout::DATA;
use crate::ours::{GDT, IDT};
use crate::rng::Rng;
use crate::setting::Setting;

/// Instructions being put together.
#[derive(Debug, Default)]
struct Listing(Vec<Instruction>);

fn at(address: u64) -> MemoryOperand {
    MemoryOperand::with_displ(address, 8)
}

impl Listing {
    fn add(&mut self, insn: Result<Instruction, iced_x86::IcedError>) {
        self.0.push(insn.expect("templates name operands that their codes have"));
    }
    fn plain(&mut self, code: Code) {
        self.0.push(Instruction::with(code));
    }
    fn set(&mut self, register: Register, value: u64) {
        self.add(Instruction::with2(Code::Mov_r64_imm64, register, value));
    }
    fn to(&mut self, code: Code, to: Register, from: Register) {
        self.add(Instruction::with2(code, to, from));
    }
    fn one(&mut self, code: Code, register: Register) {
        self.add(Instruction::with1(code, register));
    }
    fn memory(&mut self, code: Code, address: u64) {
        self.add(Instruction::with1(code, at(address)));
    }
    /// Writes a constant of 32 bits, sign-extended to 64.
    fn store(&mut self, address: u64, value: i32) {
        self.add(Instruction::with2(Code::Mov_rm64_imm32, at(address), value));
    }
    fn push(&mut self, value: i32) {
        self.add(Instruction::with1(Code::Pushq_imm32, value));
    }
}

/// A way to make a sequence.
#[derive(Clone, Copy, Debug)]
struct Template {
    make: fn(&mut Rng, &mut Listing),
}

/// A general register, RSP left alone.
fn general(rng: &mut Rng) -> Register {
    use Register::*;
    rng.pick(&[RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15])
}

/// One or two of `bits` changed in `base`, or now and then anything.
fn nearly(rng: &mut Rng, base: u64, bits: &[u32]) -> u64 {
    match rng.below(8) {
        0 => rng.draw(),
        1 => base,
        2..=4 => base ^ 1 << rng.pick(bits),
        _ => base ^ 1 << rng.pick(bits) ^ 1 << rng.pick(bits),
    }
}

const ARITHMETIC: u64 = 0x8d5;
const TF: u64 = 1 << 8;
const AC: u64 = 1 << 18;

/// POPF in each width, with the bits that matter; IF stays as it is for who may change it.
fn popf(rng: &mut Rng, out: &mut Listing, bits: &[u64]) {
    let mut flags = 0x202 | rng.draw() & ARITHMETIC;
    for _ in 0..rng.below(3) {
        flags |= rng.pick(bits);
    }
    out.push(flags as i32);
    out.plain(if rng.one_in(5) { Code::Popfw } else { Code::Popfq });
    if rng.one_in(2) {
        out.plain(if rng.one_in(3) { Code::Pushfw } else { Code::Pushfq });
    }
}

fn popf_of_users(rng: &mut Rng, out: &mut Listing) {
    // TF, IOPL, NT, RF, AC, VIF, VIP, ID, and bits that do not exist. VM cannot be loaded in long mode.
    popf(rng, out, &[TF, TF, 3 << 12, 1 << 14, 1 << 16, AC, AC, AC, 1 << 19, 1 << 20, 1 << 21, 1 << 15, 1 << 17, 1 << 3, 1 << 22, 1 << 9]);
}

/// An aligned place in the two writable pages of the arena with 1 KiB after it.
fn area(rng: &mut Rng) -> u64 {
    let places = if rng.one_in(8) { 160 } else { 112 };
    DATA + 64 * rng.below(places)
}

/// The fields that vendors fill differently become zero: FOP, FIP, FDP, and the mask of MXCSR.
fn tidy_image(out: &mut Listing, area: u64) {
    out.add(Instruction::with2(Code::Mov_rm16_imm16, at(area + 6), 0));
    out.store(area + 8, 0);
    out.store(area + 16, 0);
    out.add(Instruction::with2(Code::Mov_rm32_imm32, at(area + 28), 0));
}

fn damage(rng: &mut Rng, out: &mut Listing, area: u64, bytes: u64) {
    for _ in 0..rng.below(3) {
        out.add(Instruction::with2(Code::Mov_rm8_imm8, at(area + rng.below(bytes)), rng.draw() as u8 as u32));
    }
}

/// Misaligned now and then.
fn skewed(rng: &mut Rng, area: u64) -> u64 {
    if rng.one_in(12) { area + rng.pick(&[1, 8, 16, 32]) } else { area }
}

fn fxsave(rng: &mut Rng, out: &mut Listing) {
    let area = area(rng);
    let wide = rng.one_in(2);
    let place = skewed(rng, area);
    out.memory(if wide { Code::Fxsave64_m512byte } else { Code::Fxsave_m512byte }, place);
    tidy_image(out, place);
    if rng.one_in(2) {
        damage(rng, out, place, 416);
        let wide = wide ^ rng.one_in(8);
        out.memory(if wide { Code::Fxrstor64_m512byte } else { Code::Fxrstor_m512byte }, place);
    }
}

fn fxrstor_of_anything(rng: &mut Rng, out: &mut Listing) {
    let area = area(rng);
    // MXCSR as it can be, mostly.
    out.add(Instruction::with2(Code::Mov_rm32_imm32, at(area + 24), rng.draw() as u32 & if rng.one_in(4) { u32::MAX } else { 0xffff }));
    let place = skewed(rng, area);
    out.memory(if rng.one_in(2) { Code::Fxrstor64_m512byte } else { Code::Fxrstor_m512byte }, place);
}

fn mask(rng: &mut Rng, out: &mut Listing) {
    // x87 and SSE: what every machine has that has XSAVE.
    out.add(Instruction::with2(Code::Mov_r32_imm32, Register::EAX, rng.below(4) as u32));
    out.add(Instruction::with2(Code::Mov_r32_imm32, Register::EDX, 0));
}

fn xsave(rng: &mut Rng, out: &mut Listing) {
    let area = area(rng);
    // The old header decides what stays: mostly a good one.
    out.store(area + 512, if rng.one_in(8) { rng.draw() as i32 } else { rng.below(4) as i32 });
    for index in 1..8 {
        if !rng.one_in(40) {
            out.store(area + 512 + 8 * index, 0);
        }
    }
    mask(rng, out);
    let place = skewed(rng, area);
    out.memory(if rng.one_in(2) { Code::Xsave64_mem } else { Code::Xsave_mem }, place);
    tidy_image(out, place);
    if rng.one_in(2) {
        let bytes = if rng.one_in(4) { 576 } else { 416 };
        damage(rng, out, place, bytes);
        mask(rng, out);
        out.memory(if rng.one_in(2) { Code::Xrstor64_mem } else { Code::Xrstor_mem }, place);
    }
}

fn xgetbv(rng: &mut Rng, out: &mut Listing) {
    out.add(Instruction::with2(Code::Mov_r32_imm32, Register::ECX, if rng.one_in(3) { 2 + rng.draw() as u32 } else { 0 }));
    out.plain(Code::Xgetbv);
    // What exists differs from machine to machine; x87 and SSE do not.
    out.add(Instruction::with2(Code::And_rm32_imm32, Register::EAX, 3));
}

/// FNSAVE and FNSTENV store instruction pointers, which vendors keep differently: zeroed.
fn environment(rng: &mut Rng, out: &mut Listing) {
    let area = area(rng);
    let save = rng.one_in(2);
    out.memory(if save { Code::Fnsave_m108byte } else { Code::Fnstenv_m28byte }, area);
    out.add(Instruction::with2(Code::Mov_rm32_imm32, at(area + 12), 0));
    out.store(area + 16, 0);
    out.add(Instruction::with2(Code::Mov_rm32_imm32, at(area + 24), 0));
    if rng.one_in(2) {
        damage(rng, out, area, if save { 108 } else { 12 });
        out.memory(if save { Code::Frstor_m108byte } else { Code::Fldenv_m28byte }, area);
    }
}

/// What the host's processor can judge.
const OF_USERS: &[Template] = &[
    Template { make: popf_of_users },
    Template { make: popf_of_users },
    Template { make: fxsave },
    Template { make: fxrstor_of_anything },
    Template { make: xsave },
    Template { make: xgetbv },
    Template { make: environment },
];

const CR0: u64 = 0x8005_0033;
const CR4: u64 = 0x5_0620;

fn control(rng: &mut Rng, out: &mut Listing) {
    let register = general(rng);
    match rng.below(6) {
        0 => out.to(Code::Mov_r64_cr, register, rng.pick(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4])),
        1 | 2 => {
            // Without PG and PE nothing could be told any more; they are in the list all the same, since clearing them must fault.
            let value = nearly(rng, CR0, &[0, 1, 2, 3, 4, 5, 16, 18, 29, 30, 31, 6, 32]);
            out.set(register, value);
            out.to(Code::Mov_cr_r64, Register::CR0, register);
        }
        3 => {
            let value = rng.draw();
            out.set(register, value);
            out.to(Code::Mov_cr_r64, Register::CR2, register);
        }
        _ => {
            let value = nearly(rng, CR4, &[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 20, 21, 13, 25, 40]);
            out.set(register, value);
            out.to(Code::Mov_cr_r64, Register::CR4, register);
        }
    }
}

fn debug(rng: &mut Rng, out: &mut Listing) {
    use Register::*;
    let register = general(rng);
    let which = rng.pick(&[DR0, DR1, DR2, DR3, DR6, DR7, DR4, DR5]);
    if rng.one_in(3) {
        out.to(Code::Mov_r64_dr, register, which);
    } else {
        let value = match which {
            // Nothing enabled: breakpoints are not unicorn's.
            DR5 | DR7 => rng.draw() & if rng.one_in(4) { !0xff } else { 0xffff_0000 | 0x300 },
            // Bits that do not exist as they always read: QEMU 5 keeps what was written (APM vol. 2 §13.1.1.4 does not).
            DR4 | DR6 => rng.draw() & 0xe00f | 0xffff_0ff0,
            _ => rng.draw(),
        };
        out.set(register, value);
        out.to(Code::Mov_dr_r64, which, register);
        if rng.one_in(2) {
            out.to(Code::Mov_r64_dr, general(rng), which);
        }
    }
}

fn msr(rng: &mut Rng, out: &mut Listing) {
    const NUMBERS: [u32; 13] = [
        0xc000_0080, 0xc000_0080, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0100, 0xc000_0101, 0xc000_0102, 0x174, 0x175, 0x176, 0x277,
    ];
    let number = rng.pick(&NUMBERS);
    out.add(Instruction::with2(Code::Mov_r32_imm32, Register::ECX, number));
    if rng.one_in(3) {
        out.plain(Code::Rdmsr);
        return;
    }
    let value = match number {
        // NXE stays: which cached translations outlive a change of it is left open (SDM vol. 3 §4.10.4), ours go at once and QEMU's stay.
        0xc000_0080 => nearly(rng, 0xd01, &[0, 8, 10, 1, 9, 13, 16, 40]) | 1 << 11,
        // The upper half does not exist, nor do bits 31:16 of the other (APM vol. 2 §6.1.1, §6.1.2); QEMU 5 differs in what becomes of them.
        0xc000_0084 => rng.draw() & 0xffff_ffff,
        0x174 => rng.draw() & 0xffff,
        0x277 => (0..8).fold(0, |value, byte| value | rng.pick(&[0u64, 1, 4, 5, 6, 7, 6, 4]) << (8 * byte)) ^ if rng.one_in(6) { 2 } else { 0 },
        _ => match rng.below(4) {
            0 => rng.draw(),
            1 => rng.draw() as i32 as i64 as u64,
            2 => rng.draw() >> 17,
            _ => DATA + rng.below(0x2000),
        },
    };
    out.add(Instruction::with2(Code::Mov_r32_imm32, Register::EAX, value as u32));
    out.add(Instruction::with2(Code::Mov_r32_imm32, Register::EDX, (value >> 32) as u32));
    out.plain(Code::Wrmsr);
    if rng.one_in(2) {
        out.plain(Code::Rdmsr);
    }
    if rng.one_in(3) {
        out.plain(Code::Swapgs);
    }
}

const SELECTORS: [u32; 24] = [
    0, 1, 3, 0x08, 0x0b, 0x10, 0x13, 0x18, 0x20, 0x28, 0x2b, 0x30, 0x33, 0x38, 0x40, 0x48, 0x58, 0x5b, 0x60, 0x63, 0x68, 0x70, 0x0f, 0x80,
];

fn selector(rng: &mut Rng, out: &mut Listing) -> Register {
    let register = general(rng);
    let value = if rng.one_in(12) { rng.draw() as u16 as u32 } else { rng.pick(&SELECTORS) };
    out.add(Instruction::with2(Code::Mov_r32_imm32, low(register), value));
    register
}

/// The 32-bit half of a 64-bit register.
fn low(register: Register) -> Register {
    register.full_register32()
}

fn segments(rng: &mut Rng, out: &mut Listing) {
    use Register::*;
    let register = selector(rng, out);
    let target = rng.pick(&[ES, DS, FS, GS, SS]);
    match rng.below(10) {
        0..=3 => out.to(Code::Mov_Sreg_r32m16, target, low(register)),
        4 => {
            out.one(Code::Push_r64, register);
            let (code, segment) = rng.pick(&[(Code::Popq_FS, FS), (Code::Popq_GS, GS)]);
            out.one(code, segment);
        }
        5 => out.to(Code::Mov_r32m16_Sreg, low(register), rng.pick(&[ES, CS, SS, DS, FS, GS])),
        6 => out.to(if rng.one_in(2) { Code::Lar_r32_r32m16 } else { Code::Lar_r64_r64m16 }, low(general(rng)), low(register)),
        7 => out.to(Code::Lsl_r32_r32m16, low(general(rng)), low(register)),
        8 => out.one(Code::Verr_r32m16, low(register)),
        _ => out.one(Code::Verw_r32m16, low(register)),
    }
    // A load through what was loaded.
    if rng.one_in(3) {
        let mut insn = Instruction::with2(Code::Mov_r64_rm64, general(rng), at(DATA + rng.below(0x2000))).expect("MOV has these operands");
        insn.set_segment_prefix(rng.pick(&[FS, GS]));
        out.0.push(insn);
    }
}

/// A pseudo-descriptor in the arena: limit, then base.
fn pseudo(rng: &mut Rng, out: &mut Listing, base: u64, limit: u32) -> u64 {
    let place = area(rng) & !0xfff | 0x100;
    out.add(Instruction::with2(Code::Mov_rm16_imm16, at(place), limit));
    let base = if rng.one_in(8) { base | 1 << 60 } else { base };
    let register = general(rng);
    out.set(register, base);
    out.add(Instruction::with2(Code::Mov_rm64_r64, at(place + 2), register));
    place
}

fn tables(rng: &mut Rng, out: &mut Listing) {
    match rng.below(8) {
        0 => {
            let limit = 0x7f + rng.below(0x100) as u32;
            let place = pseudo(rng, out, GDT, limit);
            out.memory(Code::Lgdt_m1664, place);
        }
        1 => {
            let limit = 0xfff + rng.below(0x1000) as u32;
            let place = pseudo(rng, out, IDT, limit);
            out.memory(Code::Lidt_m1664, place);
        }
        2 => out.memory(Code::Sgdt_m1664, area(rng)),
        3 => out.memory(Code::Sidt_m1664, area(rng)),
        4 => {
            let register = selector(rng, out);
            out.one(Code::Lldt_r32m16, low(register));
            if rng.one_in(2) {
                out.one(Code::Sldt_r32m16, low(general(rng)));
            }
        }
        5 => {
            let register = selector(rng, out);
            out.one(Code::Ltr_r32m16, low(register));
            if rng.one_in(2) {
                out.one(Code::Str_r32m16, low(general(rng)));
            }
        }
        6 => {
            let register = general(rng);
            out.set(register, rng.draw() & 0xfff7);
            out.one(Code::Lmsw_r32m16, low(register));
            out.one(Code::Smsw_r64m16, general(rng));
        }
        _ => {
            out.plain(Code::Clts);
            out.memory(Code::Invlpg_m, DATA + rng.below(0x3000));
        }
    }
}

fn interrupts(rng: &mut Rng, out: &mut Listing) {
    match rng.below(3) {
        0 => out.plain(if rng.one_in(2) { Code::Cli } else { Code::Sti }),
        _ => popf(rng, out, &[TF, 3 << 12, 1 << 14, 1 << 16, AC, AC, 1 << 21, 1 << 15, 1 << 3, 1 << 22]),
    }
    if rng.one_in(3) {
        out.plain(rng.pick(&[Code::Stac, Code::Clac]));
    }
}

/// IRETQ and RETF to what follows them.
fn returns(rng: &mut Rng, out: &mut Listing) {
    let far = rng.one_in(3);
    let code = rng.pick(&[0x08, 0x08, 0x33, 0x33, 0x0b, 0x30, 0x10, 0x28, 0, 0x70]);
    let stack = rng.pick(&[0x10, 0x10, 0x2b, 0x2b, 0, 3, 0x13, 0x28, 0x20]);
    let rsp = DATA as i32 + 0x1800 + 8 * rng.below(64) as i32;
    if far {
        if rng.one_in(2) {
            out.push(stack);
            out.push(rsp);
        }
        out.push(code);
    } else {
        out.push(stack);
        out.push(rsp);
        out.push((0x202 | rng.draw() & (ARITHMETIC | 3 << 12 | 1 << 14 | 1 << 21)) as i32);
        out.push(code);
    }
    // CALL to the next instruction pushes its address; what follows is five bytes of ADD and two of the return further.
    let mut call = Instruction::with_branch(Code::Call_rel32_64, 0).expect("CALL has a target");
    call.set_near_branch64(u64::MAX);
    out.0.push(call);
    out.add(Instruction::with2(Code::Add_rm64_imm8, at_stack(), 7));
    out.plain(if far { Code::Retfq } else { Code::Iretq });
}

/// What RSP points at.
fn at_stack() -> MemoryOperand {
    MemoryOperand::with_base(Register::RSP)
}

fn bases(rng: &mut Rng, out: &mut Listing) {
    let register = general(rng);
    if rng.one_in(2) {
        out.set(register, if rng.one_in(3) { rng.draw() } else { DATA + rng.below(0x2000) });
    }
    let codes = [Code::Rdfsbase_r64, Code::Rdgsbase_r64, Code::Wrfsbase_r64, Code::Wrgsbase_r64, Code::Wrfsbase_r32, Code::Wrgsbase_r32, Code::Rdfsbase_r32];
    let code = rng.pick(&codes);
    let narrow = matches!(code, Code::Wrfsbase_r32 | Code::Wrgsbase_r32 | Code::Rdfsbase_r32);
    out.one(code, if narrow { low(register) } else { register });
}

/// What unicorn can judge, in ring 0 and (where most of it must fault) in ring 3.
const OF_SYSTEMS: &[Template] = &[
    Template { make: control },
    Template { make: control },
    Template { make: debug },
    Template { make: msr },
    Template { make: msr },
    Template { make: segments },
    Template { make: segments },
    Template { make: tables },
    Template { make: interrupts },
    Template { make: returns },
    Template { make: bases },
];

/// Gives a case its setting and, every other time, a template.
pub fn enrich(case: &mut Case, judge: Judge) {
    let mut rng = Rng::new(case.seed ^ 0x7072_6976_696c_6567);
    let templates = match judge {
        Judge::Host => {
            case.setting = Setting::of_process(&mut rng);
            OF_USERS
        }
        Judge::Unicorn => {
            if rng.one_in(3) {
                case.ring = Ring::User;
            }
            case.setting = Setting::of_system(&mut rng);
            OF_SYSTEMS
        }
    };
    if rng.one_in(2) {
        return;
    }
    let mut listing = Listing::default();
    (rng.pick(templates).make)(&mut rng, &mut listing);
    let place = rng.below(case.insns.len() as u64 + 1) as usize;
    let added = listing.0.len() as u64;
    for insn in &mut case.insns {
        if is_direct_branch(insn) && insn.near_branch64() > place as u64 {
            insn.set_near_branch64(insn.near_branch64() + added);
        }
    }
    for (index, insn) in listing.0.iter_mut().enumerate() {
        if is_direct_branch(insn) {
            // The one branch of a template goes to what follows it.
            insn.set_near_branch64((place + index + 1) as u64);
        }
    }
    case.insns.splice(place..place, listing.0);
}
