//! The x87: an 80-bit stack machine.
//!
//! # Theory
//! Arithmetic is that of [`crate::soft`] with the x87's own rules around it: rounding to the control word's precision with the full exponent
//! range, the larger-significand NaN rule, stack faults, exceptions that stay pending in the status word until the next waiting
//! instruction, and results biased by 2^24576 when overflow or underflow is unmasked (SDM vol. 1 ch. 8). The transcendentals are in
//! [`trans`]: vendors differ there, we compute to 128 bits and round once.
//!
//! # Structures
//! [`decode`] turns an instruction into an [`Insn`]; [`exec`] runs it. Memory is the caller's: [`Insn::memory`] says what to load before, and
//! the [`Effect`] what to store after. Run `exec` on a copy, do the store, then commit: so a store that faults leaves no trace.
//!
//! # Failure
//! An unmasked exception sets ES in the status word; [`X87::pending`] is what a waiting instruction checks for #MF. Unsupported encodings
//! (pseudo-NaN, pseudo-infinity, unnormal) raise I.
//!
//! # Limits
//! FPREM and FPREM1 reduce at most 63 bits of exponent at a time, in steps of 32 to 63 as hardware may. The 16-bit real-mode and
//! protected-mode environment images are written with the low halves of the pointers.

mod trans;

use std::cmp::Ordering;

use iced_x86::{Code, Instruction, MemorySize, Mnemonic, OpKind, Register};

use crate::soft::{self, Class, DE, Env, F32, F64, F80, Format, IE, Num, OE, PE, Rounding, UE, ZE, pack, shift_right_jam, unpack};

/// Stack fault, with I.
const SF: u32 = 0x40;
const C0: u16 = 1 << 8;
const C1: u16 = 1 << 9;
const C2: u16 = 1 << 10;
const C3: u16 = 1 << 14;
const ES: u16 = 1 << 7;
const BUSY: u16 = 1 << 15;
/// Real indefinite.
const INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;
/// Packed BCD indefinite.
const BCD_INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;

/// Length of [`X87::to_bytes`].
const X87_BYTES: usize = 104;

/// x87 registers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X87 {
    /// Physical registers R0 to R7: 80 bits each.
    pub regs: [u128; 8],
    pub control: u16,
    /// TOP is in bits 11 to 13.
    pub status: u16,
    /// Bit n set: Rn is in use (the abridged tag of FXSAVE).
    pub in_use: u8,
    pub opcode: u16,
    pub ip: u64,
    pub dp: u64,
}

impl Default for X87 {
    /// After FNINIT.
    fn default() -> X87 {
        X87 { regs: [0; 8], control: 0x37f, status: 0, in_use: 0, opcode: 0, ip: 0, dp: 0 }
    }
}

/// What memory an instruction needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    None,
    /// Load so many bytes and pass them to [`exec`].
    Load(u8),
    /// [`Effect::Store`] may follow with so many bytes.
    Store(u8),
    /// FLDENV, FRSTOR: pass so many bytes to [`X87::load_image`]; do not call [`exec`].
    LoadImage(u8),
    /// FNSTENV, FNSAVE: store [`X87::image`], then call [`exec`].
    StoreImage(u8),
}

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    /// Store the low bytes of this at the memory operand.
    Store(u128),
    /// Replace CF, PF, AF, ZF, SF and OF by these.
    Flags(u32),
    /// Write AX.
    Ax(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arith {
    Add,
    Sub,
    SubReversed,
    Mul,
    Div,
    DivReversed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Arith(Arith),
    Compare { quiet: bool, eflags: bool, pops: u8 },
    Load,
    Store,
    /// FISTTP.
    StoreTruncated,
    Constant(u8),
    Exchange,
    ConditionalMove { flag: u8, when: bool },
    ChangeSign,
    Absolute,
    Test,
    Examine,
    Sqrt,
    RoundInt,
    Scale,
    Extract,
    Remainder { nearest: bool },
    TwoToXMinus1,
    YLog2X,
    YLog2XPlus1,
    Tangent,
    Arctangent,
    Sine,
    Cosine,
    SineCosine,
    IncrementTop,
    DecrementTop,
    Free,
    Init,
    ClearExceptions,
    StoreControl,
    LoadControl,
    StoreStatus,
    Nop,
    Environment,
    Save,
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    kind: Kind,
    /// Destination stack register.
    dst: u8,
    /// Source stack register, when there is no memory operand.
    src: u8,
    operand: Option<Operand>,
    pop: bool,
    /// FSTPNCE.
    quiet: bool,
    /// Checks for pending exceptions first.
    pub waits: bool,
    memory: Memory,
}

/// Type of a memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    F32,
    F64,
    F80,
    I16,
    I32,
    I64,
    Bcd,
}

impl Insn {
    /// The stack registers: destination and source. Together with [`Insn::with_registers`] they let an engine keep one `Insn` per opcode.
    pub fn registers(&self) -> (u8, u8) {
        (self.dst, self.src)
    }
    /// The same instruction on other stack registers.
    pub fn with_registers(self, dst: u8, src: u8) -> Insn {
        Insn { dst: dst & 7, src: src & 7, ..self }
    }
    pub fn memory(&self) -> Memory {
        self.memory
    }
    /// Control instructions leave the last-instruction pointers alone.
    pub fn is_control(&self) -> bool {
        matches!(
            self.kind,
            Kind::Nop | Kind::Init | Kind::ClearExceptions | Kind::StoreControl | Kind::LoadControl | Kind::StoreStatus | Kind::Environment | Kind::Save
        )
    }
}

fn stack_register(register: Register) -> u8 {
    (register as u32).wrapping_sub(Register::ST0 as u32) as u8 & 7
}

/// Decodes an x87 instruction with its stack registers; `None` if it is not one (FXSAVE and FXRSTOR are the engine's; WAIT is [`Memory::None`] with `waits`).
pub fn decode(instruction: &Instruction) -> Option<Insn> {
    use Mnemonic as M;
    let flag = |flag: u8, when: bool| Kind::ConditionalMove { flag, when };
    let arith = |a: Arith| (Kind::Arith(a), false);
    let pop = |a: Arith| (Kind::Arith(a), true);
    let (kind, pop) = match instruction.mnemonic() {
        M::Fadd | M::Fiadd => arith(Arith::Add),
        M::Fsub | M::Fisub => arith(Arith::Sub),
        M::Fsubr | M::Fisubr => arith(Arith::SubReversed),
        M::Fmul | M::Fimul => arith(Arith::Mul),
        M::Fdiv | M::Fidiv => arith(Arith::Div),
        M::Fdivr | M::Fidivr => arith(Arith::DivReversed),
        M::Faddp => pop(Arith::Add),
        M::Fsubp => pop(Arith::Sub),
        M::Fsubrp => pop(Arith::SubReversed),
        M::Fmulp => pop(Arith::Mul),
        M::Fdivp => pop(Arith::Div),
        M::Fdivrp => pop(Arith::DivReversed),
        M::Fcom | M::Ficom => (Kind::Compare { quiet: false, eflags: false, pops: 0 }, false),
        M::Fcomp | M::Ficomp => (Kind::Compare { quiet: false, eflags: false, pops: 1 }, false),
        M::Fcompp => (Kind::Compare { quiet: false, eflags: false, pops: 2 }, false),
        M::Fucom => (Kind::Compare { quiet: true, eflags: false, pops: 0 }, false),
        M::Fucomp => (Kind::Compare { quiet: true, eflags: false, pops: 1 }, false),
        M::Fucompp => (Kind::Compare { quiet: true, eflags: false, pops: 2 }, false),
        M::Fcomi => (Kind::Compare { quiet: false, eflags: true, pops: 0 }, false),
        M::Fcomip => (Kind::Compare { quiet: false, eflags: true, pops: 1 }, false),
        M::Fucomi => (Kind::Compare { quiet: true, eflags: true, pops: 0 }, false),
        M::Fucomip => (Kind::Compare { quiet: true, eflags: true, pops: 1 }, false),
        M::Fld | M::Fild | M::Fbld => (Kind::Load, false),
        M::Fst | M::Fist => (Kind::Store, false),
        M::Fstp | M::Fistp | M::Fbstp | M::Fstpnce => (Kind::Store, true),
        M::Fisttp => (Kind::StoreTruncated, true),
        M::Fxch => (Kind::Exchange, false),
        M::Fld1 => (Kind::Constant(0), false),
        M::Fldl2t => (Kind::Constant(1), false),
        M::Fldl2e => (Kind::Constant(2), false),
        M::Fldpi => (Kind::Constant(3), false),
        M::Fldlg2 => (Kind::Constant(4), false),
        M::Fldln2 => (Kind::Constant(5), false),
        M::Fldz => (Kind::Constant(6), false),
        M::Fcmovb => (flag(1, true), false),
        M::Fcmove => (flag(0x40, true), false),
        M::Fcmovbe => (flag(0x41, true), false),
        M::Fcmovu => (flag(4, true), false),
        M::Fcmovnb => (flag(1, false), false),
        M::Fcmovne => (flag(0x40, false), false),
        M::Fcmovnbe => (flag(0x41, false), false),
        M::Fcmovnu => (flag(4, false), false),
        M::Fchs => (Kind::ChangeSign, false),
        M::Fabs => (Kind::Absolute, false),
        M::Ftst => (Kind::Test, false),
        M::Fxam => (Kind::Examine, false),
        M::Fsqrt => (Kind::Sqrt, false),
        M::Frndint => (Kind::RoundInt, false),
        M::Fscale => (Kind::Scale, false),
        M::Fxtract => (Kind::Extract, false),
        M::Fprem => (Kind::Remainder { nearest: false }, false),
        M::Fprem1 => (Kind::Remainder { nearest: true }, false),
        M::F2xm1 => (Kind::TwoToXMinus1, false),
        M::Fyl2x => (Kind::YLog2X, true),
        M::Fyl2xp1 => (Kind::YLog2XPlus1, true),
        M::Fptan => (Kind::Tangent, false),
        M::Fpatan => (Kind::Arctangent, true),
        M::Fsin => (Kind::Sine, false),
        M::Fcos => (Kind::Cosine, false),
        M::Fsincos => (Kind::SineCosine, false),
        M::Fincstp => (Kind::IncrementTop, false),
        M::Fdecstp => (Kind::DecrementTop, false),
        M::Ffree => (Kind::Free, false),
        M::Ffreep => (Kind::Free, true),
        M::Fnop | M::Wait => (Kind::Nop, false),
        M::Fneni | M::Fndisi | M::Fnsetpm => (Kind::Nop, false),
        M::Fninit => (Kind::Init, false),
        M::Fnclex => (Kind::ClearExceptions, false),
        M::Fnstcw => (Kind::StoreControl, false),
        M::Fldcw => (Kind::LoadControl, false),
        M::Fnstsw => (Kind::StoreStatus, false),
        M::Fnstenv | M::Fldenv => (Kind::Environment, false),
        M::Fnsave | M::Frstor => (Kind::Save, false),
        _ => return None,
    };
    let waits = !matches!(
        instruction.mnemonic(),
        M::Fninit | M::Fnclex | M::Fnstcw | M::Fnstsw | M::Fnstenv | M::Fnsave | M::Fneni | M::Fndisi | M::Fnsetpm
    );
    let in_memory = (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory);
    let mut insn = Insn { kind, dst: 0, src: 0, operand: None, pop, quiet: instruction.mnemonic() == M::Fstpnce, waits, memory: Memory::None };
    if in_memory {
        let bytes = instruction.memory_size().size() as u8;
        insn.operand = match instruction.memory_size() {
            MemorySize::Float32 => Some(Operand::F32),
            MemorySize::Float64 => Some(Operand::F64),
            MemorySize::Float80 => Some(Operand::F80),
            MemorySize::Int16 => Some(Operand::I16),
            MemorySize::Int32 => Some(Operand::I32),
            MemorySize::Int64 => Some(Operand::I64),
            MemorySize::Bcd => Some(Operand::Bcd),
            _ => None,
        };
        insn.memory = match kind {
            Kind::Environment | Kind::Save => {
                let bytes = image_bytes(instruction.code())?;
                if matches!(instruction.mnemonic(), M::Fldenv | M::Frstor) { Memory::LoadImage(bytes) } else { Memory::StoreImage(bytes) }
            }
            Kind::Store | Kind::StoreTruncated | Kind::StoreControl | Kind::StoreStatus => Memory::Store(bytes),
            _ => Memory::Load(bytes),
        };
        return Some(insn);
    }
    let register = |n: u32| if n < instruction.op_count() { stack_register(instruction.op_register(n)) } else { 0 };
    match kind {
        // One operand: ST(i) is loaded, stored to or freed.
        Kind::Load => insn.src = register(0),
        Kind::Store | Kind::Free => insn.dst = register(0),
        Kind::Compare { pops: 2, .. } => insn.src = 1,
        _ if instruction.op_count() == 2 => {
            insn.dst = register(0);
            insn.src = register(1);
        }
        _ => {}
    }
    // FST ST(i) and the popping forms have ST(i) first, ST0 second.
    Some(insn)
}

fn image_bytes(code: Code) -> Option<u8> {
    Some(match code {
        Code::Fldenv_m14byte | Code::Fnstenv_m14byte => 14,
        Code::Fldenv_m28byte | Code::Fnstenv_m28byte => 28,
        Code::Frstor_m94byte | Code::Fnsave_m94byte => 94,
        Code::Frstor_m108byte | Code::Fnsave_m108byte => 108,
        _ => return None,
    })
}

/// Not an encoding modern x87s accept: pseudo-NaN, pseudo-infinity, unnormal.
fn unsupported(bits: u128) -> bool {
    bits >> 64 & 0x7fff != 0 && bits >> 63 & 1 == 0
}

/// Unpacks a supported 80-bit encoding.
pub fn unpack80(bits: u128) -> Num {
    let sign = bits >> 79 & 1 == 1;
    let field = (bits >> 64) as i32 & 0x7fff;
    let sig = bits as u64;
    match (field, sig) {
        (0, 0) => Num::zero(sign),
        (0, _) => {
            let shift = sig.leading_zeros();
            Num { class: Class::Finite, sign, exp: F80.emin - shift as i32, sig: sig << shift, denormal: true }
        }
        (0x7fff, _) if sig << 1 == 0 => Num::infinite(sign),
        (0x7fff, _) => Num { class: if sig >> 62 & 1 == 1 { Class::Quiet } else { Class::Signalling }, sign, exp: 0, sig, denormal: false },
        _ => Num::finite(sign, field - 16383, sig),
    }
}

/// Packs a number that fits.
pub fn pack80(num: Num) -> u128 {
    let sign = u128::from(num.sign) << 79;
    match num.class {
        Class::Zero => sign,
        Class::Infinite => sign | 0x7fff << 64 | 1 << 63,
        Class::Quiet | Class::Signalling => sign | 0x7fff << 64 | u128::from(num.sig),
        Class::Finite if num.exp < F80.emin => sign | u128::from(num.sig >> (F80.emin - num.exp).min(63)),
        Class::Finite => sign | ((num.exp + 16383) as u128) << 64 | u128::from(num.sig),
    }
}

impl X87 {
    pub fn top(&self) -> u8 {
        (self.status >> 11) as u8 & 7
    }
    fn set_top(&mut self, top: u8) {
        self.status = self.status & !(7 << 11) | u16::from(top & 7) << 11;
    }
    fn physical(&self, i: u8) -> usize {
        usize::from((self.top() + i) & 7)
    }
    /// ST(i), whatever its tag.
    pub fn st(&self, i: u8) -> u128 {
        self.regs[self.physical(i)]
    }
    /// Writes ST(i) and marks it in use.
    pub fn set_st(&mut self, i: u8, bits: u128) {
        let at = self.physical(i);
        self.regs[at] = bits;
        self.in_use |= 1 << at;
    }
    fn is_empty(&self, i: u8) -> bool {
        self.in_use >> self.physical(i) & 1 == 0
    }
    fn pop(&mut self) {
        self.in_use &= !(1 << self.physical(0));
        self.set_top(self.top() + 1);
    }
    /// An unmasked exception waits for the next waiting instruction.
    pub fn pending(&self) -> bool {
        self.status & ES != 0
    }
    /// Everything as bytes, for snapshots.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(X87_BYTES);
        for bits in self.regs {
            out.extend_from_slice(&bits.to_le_bytes()[..10]);
        }
        for word in [self.control, self.status, u16::from(self.in_use), self.opcode] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.ip.to_le_bytes());
        out.extend_from_slice(&self.dp.to_le_bytes());
        out
    }

    /// Reads what [`X87::to_bytes`] wrote; `None` for another length or a tag word that is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<X87> {
        if bytes.len() != X87_BYTES {
            return None;
        }
        let number = |at: usize, len: usize| bytes[at..at + len].iter().rev().fold(0u128, |acc, byte| acc << 8 | u128::from(*byte));
        let word = |i: usize| number(80 + 2 * i, 2) as u16;
        Some(X87 {
            regs: std::array::from_fn(|i| number(10 * i, 10)),
            control: word(0),
            status: word(1),
            in_use: u8::try_from(word(2)).ok()?,
            opcode: word(3),
            ip: number(88, 8) as u64,
            dp: number(96, 8) as u64,
        })
    }

    /// Any MMX instruction but EMMS: TOP to 0, every register in use.
    pub fn enter_mmx(&mut self) {
        self.set_top(0);
        self.in_use = 0xff;
    }
    /// MMn.
    pub fn mm(&self, n: u8) -> u64 {
        self.regs[usize::from(n & 7)] as u64
    }
    /// Writes MMn (the exponent becomes all ones).
    pub fn set_mm(&mut self, n: u8, value: u64) {
        self.regs[usize::from(n & 7)] = 0xffff << 64 | u128::from(value);
    }
    /// EMMS.
    pub fn leave_mmx(&mut self) {
        self.set_top(0);
        self.in_use = 0;
    }

    /// Sets ES and B from flags and masks (after a load of the control or status word).
    pub fn update_summary(&mut self) {
        if self.status & !self.control & 0x3f != 0 {
            self.status |= ES | BUSY;
        } else {
            self.status &= !(ES | BUSY);
        }
    }

    /// The two-bit tags of the environment image.
    pub fn full_tag(&self) -> u16 {
        (0..8).fold(0, |acc, n| {
            let bits = self.regs[n];
            let tag = if self.in_use >> n & 1 == 0 {
                3
            } else if bits << 49 == 0 {
                1
            } else if matches!(bits >> 64 & 0x7fff, 0 | 0x7fff) || bits >> 63 & 1 == 0 {
                2
            } else {
                0
            };
            acc | tag << (2 * n)
        })
    }

    fn set_full_tag(&mut self, tag: u16) {
        self.in_use = (0..8).fold(0, |acc, n| acc | u8::from(tag >> (2 * n) & 3 != 3) << n);
    }

    /// The image of FNSTENV (14 or 28 bytes) or FNSAVE (94 or 108).
    pub fn image(&self, bytes: u8) -> [u8; 108] {
        let mut out = [0u8; 108];
        let words = [self.control, self.status, self.full_tag()];
        let wide = matches!(bytes, 28 | 108);
        let header = if wide { 28 } else { 14 };
        if wide {
            for (i, word) in words.iter().enumerate() {
                out[4 * i..4 * i + 2].copy_from_slice(&word.to_le_bytes());
                out[4 * i + 2..4 * i + 4].fill(0xff);
            }
            out[12..16].copy_from_slice(&(self.ip as u32).to_le_bytes());
            out[18..20].copy_from_slice(&(self.opcode & 0x7ff).to_le_bytes());
            out[20..24].copy_from_slice(&(self.dp as u32).to_le_bytes());
            out[26..28].fill(0xff);
        } else {
            for (i, word) in words.iter().chain(&[self.ip as u16, 0, self.dp as u16, 0]).enumerate() {
                out[2 * i..2 * i + 2].copy_from_slice(&word.to_le_bytes());
            }
        }
        if bytes > 28 {
            for i in 0..8u8 {
                let at = header + 10 * usize::from(i);
                out[at..at + 10].copy_from_slice(&self.st(i).to_le_bytes()[..10]);
            }
        }
        out
    }

    /// FLDENV and FRSTOR. `bytes` is the image, of one of the four lengths.
    pub fn load_image(&mut self, bytes: &[u8]) {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 2)) << 16;
        let wide = matches!(bytes.len(), 28 | 108);
        let header = if wide { 28 } else { 14 };
        let step = if wide { 4 } else { 2 };
        self.control = word(0) & 0x1f7f | 0x40;
        self.status = word(step);
        self.set_full_tag(word(2 * step));
        (self.ip, self.dp) = if wide { (long(12), long(20)) } else { (u64::from(word(6)), u64::from(word(10))) };
        self.opcode = if wide { word(18) & 0x7ff } else { 0 };
        if bytes.len() > header {
            for i in 0..8u8 {
                let at = header + 10 * usize::from(i);
                let mut value = [0u8; 16];
                value[..10].copy_from_slice(&bytes[at..at + 10]);
                let n = self.physical(i);
                self.regs[n] = u128::from_le_bytes(value);
            }
        }
        self.update_summary();
    }

    fn env(&self) -> Env {
        Env {
            rounding: Rounding::from_bits(u32::from(self.control) >> 10),
            daz: false,
            ftz: false,
            masks: u32::from(self.control) & 0x3f,
            flags: 0,
            wrap: 24576,
            rounded_up: false,
            x87_nans: true,
        }
    }

    /// The format add, subtract, multiply, divide and square root round to.
    fn precision(&self) -> Format {
        match self.control >> 8 & 3 {
            0 => Format { precision: 24, ..F80 },
            2 => Format { precision: 53, ..F80 },
            _ => F80,
        }
    }

    /// Joins flags into the status word; `true` if none that forbids the result (I, D, Z) is unmasked. If one is, the operation stopped there:
    /// no O, U or P, and C1 is clear.
    fn raise(&mut self, flags: u32) -> bool {
        let stopped = flags & (IE | DE | ZE) & !u32::from(self.control) != 0;
        self.status |= if stopped { flags & !(OE | UE | PE) } else { flags } as u16;
        if stopped {
            self.set_c1(false);
        }
        self.update_summary();
        !stopped
    }

    fn set_c1(&mut self, set: bool) {
        self.status = self.status & !C1 | if set { C1 } else { 0 };
    }

    /// Raises a stack underflow (C1 = 0) or overflow (C1 = 1); `true` if masked.
    fn stack_fault(&mut self, overflow: bool) -> bool {
        let go_on = self.raise(IE | SF);
        self.set_c1(overflow);
        go_on
    }

    /// Pushes; on overflow the indefinite, if I is masked.
    fn push(&mut self, bits: u128) {
        let bits = if self.is_empty(7) {
            bits
        } else {
            if !self.stack_fault(true) {
                return;
            }
            INDEFINITE
        };
        self.set_top(self.top() + 7);
        self.set_st(0, bits);
    }

    /// Ends an instruction whose result goes to ST(i): flags, C1, the result, pops.
    fn result(&mut self, i: u8, bits: u128, env: &Env, pops: u8) {
        self.set_c1(env.flags & PE != 0 && env.rounded_up);
        if self.raise(env.flags) {
            self.set_st(i, bits);
            for _ in 0..pops {
                self.pop();
            }
        }
    }
}

fn flags_of(order: Option<Ordering>) -> (u16, u32) {
    match order {
        None => (C3 | C2 | C0, 0x45),
        Some(Ordering::Less) => (C0, 1),
        Some(Ordering::Equal) => (C3, 0x40),
        Some(Ordering::Greater) => (0, 0),
    }
}

/// A memory operand as a number; small floats may raise I or D through `env` when they are loaded for good (FLD).
fn memory_operand(operand: Operand, load: u128) -> Num {
    match operand {
        Operand::F32 => unpack(F32, load as u64 & 0xffff_ffff),
        Operand::F64 => unpack(F64, load as u64),
        Operand::F80 => unpack80(load),
        Operand::I16 => Num::from_i64(i64::from(load as i16)),
        Operand::I32 => Num::from_i64(i64::from(load as i32)),
        Operand::I64 => Num::from_i64(load as i64),
        Operand::Bcd => {
            let digits = (0..18).rev().fold(0i64, |acc, i| acc * 10 + (load >> (4 * i) & 15) as i64);
            Num { sign: load >> 79 & 1 == 1, ..Num::from_i64(digits) }
        }
    }
}

/// Runs one instruction. `load` is its memory source, `eflags` are the guest's (for FCMOVcc).
pub fn exec(x: &mut X87, insn: &Insn, load: u128, eflags: u32) -> Effect {
    match insn.kind {
        Kind::Nop => {}
        Kind::Init => *x = X87 { regs: x.regs, ..X87::default() },
        Kind::ClearExceptions => x.status &= !(0x7f | ES | BUSY),
        Kind::StoreControl => return Effect::Store(u128::from(x.control)),
        Kind::LoadControl => {
            x.control = load as u16 & 0x1f7f | 0x40;
            x.update_summary();
        }
        Kind::StoreStatus => return if insn.memory == Memory::None { Effect::Ax(x.status) } else { Effect::Store(u128::from(x.status)) },
        Kind::Environment => {
            // After the image is stored all exceptions are masked.
            x.control |= 0x3f;
            x.update_summary();
        }
        Kind::Save => *x = X87 { regs: x.regs, ..X87::default() },
        Kind::IncrementTop => {
            x.set_top(x.top() + 1);
            x.set_c1(false);
        }
        Kind::DecrementTop => {
            x.set_top(x.top() + 7);
            x.set_c1(false);
        }
        Kind::Free => {
            x.set_c1(false);
            x.in_use &= !(1 << x.physical(insn.dst));
            if insn.pop {
                x.pop();
            }
        }
        Kind::Arith(op) => arithmetic(x, insn, op, load),
        Kind::Compare { quiet, eflags, pops } => return compare(x, insn, load, quiet, eflags, pops),
        Kind::Load => fld(x, insn, load),
        Kind::Store => return store(x, insn, false),
        Kind::StoreTruncated => return store(x, insn, true),
        Kind::Constant(which) => {
            let mut env = x.env();
            let bits = pack80(trans::constant(which, &mut env));
            x.set_c1(false);
            x.push(bits);
        }
        Kind::Exchange => exchange(x, insn.dst.max(insn.src)),
        Kind::ConditionalMove { flag, when } => {
            if x.is_empty(0) || x.is_empty(insn.src) {
                // Whether or not the condition holds.
                if x.stack_fault(false) {
                    x.set_st(0, INDEFINITE);
                }
            } else if (eflags & u32::from(flag) != 0) == when {
                x.set_st(0, x.st(insn.src));
            }
        }
        Kind::ChangeSign | Kind::Absolute => {
            let Some(bits) = operand(x, 0) else { return Effect::None };
            x.set_c1(false);
            x.set_st(0, if insn.kind == Kind::Absolute { bits & !(1 << 79) } else { bits ^ 1 << 79 });
        }
        Kind::Test => {
            let zero = Insn { operand: Some(Operand::I16), ..*insn };
            return compare(x, &zero, 0, false, false, 0);
        }
        Kind::Examine => examine(x),
        _ => unary(x, insn),
    }
    Effect::None
}

/// ST(i), or after a masked stack underflow nothing: ST0 becomes the indefinite.
fn operand(x: &mut X87, i: u8) -> Option<u128> {
    if x.is_empty(i) {
        if x.stack_fault(false) {
            x.set_st(0, INDEFINITE);
        }
        return None;
    }
    Some(x.st(i))
}

fn exchange(x: &mut X87, i: u8) {
    if x.is_empty(0) || x.is_empty(i) {
        if !x.stack_fault(false) {
            return;
        }
        for n in [0, i] {
            if x.is_empty(n) {
                x.set_st(n, INDEFINITE);
            }
        }
    } else {
        x.set_c1(false);
    }
    let (a, b) = (x.st(0), x.st(i));
    x.set_st(0, b);
    x.set_st(i, a);
}

fn arithmetic(x: &mut X87, insn: &Insn, op: Arith, load: u128) {
    let dst = insn.dst;
    let pops = u8::from(insn.pop);
    if x.is_empty(dst) || (insn.operand.is_none() && x.is_empty(insn.src)) {
        if x.stack_fault(false) {
            x.set_st(dst, INDEFINITE);
            for _ in 0..pops {
                x.pop();
            }
        }
        return;
    }
    let mut env = x.env();
    let a = x.st(dst);
    let raw_b = if insn.operand.is_none() { x.st(insn.src) } else { 0 };
    if unsupported(a) || unsupported(raw_b) {
        env.raise(IE);
        x.result(dst, INDEFINITE, &env, pops);
        return;
    }
    let a = unpack80(a);
    let b = insn.operand.map_or_else(|| unpack80(raw_b), |operand| memory_operand(operand, load));
    let format = x.precision();
    let r = match op {
        Arith::Add => env.add(format, a, b, false),
        Arith::Sub => env.add(format, a, b, true),
        Arith::SubReversed => env.add(format, b, a, true),
        Arith::Mul => env.mul(format, a, b),
        Arith::Div => env.div(format, a, b),
        Arith::DivReversed => env.div(format, b, a),
    };
    x.result(dst, pack80(r), &env, pops);
}

fn compare(x: &mut X87, insn: &Insn, load: u128, quiet: bool, eflags: bool, pops: u8) -> Effect {
    let (order, go_on) = if x.is_empty(0) || (insn.operand.is_none() && x.is_empty(insn.src)) {
        (None, x.stack_fault(false))
    } else {
        let mut env = x.env();
        let (a, raw_b) = (x.st(0), if insn.operand.is_none() { x.st(insn.src) } else { 0 });
        let order = if unsupported(a) || unsupported(raw_b) {
            env.raise(IE);
            None
        } else {
            let b = insn.operand.map_or_else(|| unpack80(raw_b), |operand| memory_operand(operand, load));
            env.compare(unpack80(a), b, !quiet)
        };
        // FCOMI and its kin leave C1 alone unless the stack underflows (APM vol. 5).
        if !eflags {
            x.set_c1(false);
        }
        let c1 = x.status & C1;
        let go_on = x.raise(env.flags);
        if eflags {
            x.status |= c1;
        }
        (order, go_on)
    };
    let (codes, flags) = flags_of(order);
    if !eflags {
        x.status = x.status & !(C3 | C2 | C0) | codes;
    }
    if go_on {
        for _ in 0..pops {
            x.pop();
        }
    }
    if eflags { Effect::Flags(flags) } else { Effect::None }
}

fn fld(x: &mut X87, insn: &Insn, load: u128) {
    x.set_c1(false);
    match insn.operand {
        None => {
            if x.is_empty(insn.src) {
                if x.stack_fault(false) {
                    // The underflow's indefinite is pushed.
                    x.set_top(x.top() + 7);
                    x.set_st(0, INDEFINITE);
                }
                return;
            }
            x.push(x.st(insn.src));
        }
        Some(Operand::F80) => x.push(load & (u128::MAX >> 48)),
        Some(operand) => {
            if !x.is_empty(7) {
                x.push(0);
                return;
            }
            let mut env = x.env();
            let num = memory_operand(operand, load);
            let num = env.convert(F80, num);
            // An unmasked denormal exception is reported after the load (as AMD's processors do).
            x.raise(env.flags);
            if env.flags & IE & !env.masks == 0 {
                x.push(pack80(num));
            }
        }
    }
}

/// FST, FSTP, FIST, FISTP, FISTTP, FBSTP.
fn store(x: &mut X87, insn: &Insn, truncate: bool) -> Effect {
    let Some(operand) = insn.operand else {
        // To a register: a plain copy, whatever it holds. FSTPNCE says nothing about an empty ST0.
        if x.is_empty(0) && insn.quiet {
            x.set_c1(false);
        } else if x.is_empty(0) {
            if !x.stack_fault(false) {
                return Effect::None;
            }
            x.set_st(insn.dst, INDEFINITE);
        } else {
            x.set_c1(false);
            x.set_st(insn.dst, x.st(0));
        }
        if insn.pop {
            x.pop();
        }
        return Effect::None;
    };
    let indefinite = match operand {
        Operand::F32 => 0xffc0_0000,
        Operand::F64 => 0xfff8 << 48,
        Operand::F80 => INDEFINITE,
        Operand::I16 => 0x8000,
        Operand::I32 => 1 << 31,
        Operand::I64 => 1 << 63,
        Operand::Bcd => BCD_INDEFINITE,
    };
    if x.is_empty(0) {
        if !x.stack_fault(false) {
            return Effect::None;
        }
        if insn.pop {
            x.pop();
        }
        return Effect::Store(indefinite);
    }
    let bits = x.st(0);
    let mut env = x.env();
    // To memory there is no wrapped result: an unmasked overflow or underflow stores nothing.
    env.wrap = 0;
    if truncate {
        env.rounding = Rounding::Zero;
    }
    let value = if operand == Operand::F80 {
        bits
    } else if unsupported(bits) {
        env.raise(IE);
        indefinite
    } else {
        let num = unpack80(bits);
        match operand {
            Operand::F32 => to_float(&mut env, F32, num),
            Operand::F64 => to_float(&mut env, F64, num),
            Operand::I16 => env.to_integer(num, 16) as u16 as u128,
            Operand::I32 => env.to_integer(num, 32) as u32 as u128,
            Operand::I64 => env.to_integer(num, 64) as u64 as u128,
            Operand::Bcd => to_bcd(&mut env, num),
            Operand::F80 => bits,
        }
    };
    if env.flags & (OE | UE) & !env.masks != 0 && env.flags & IE == 0 {
        // Nothing is stored, so nothing is inexact.
        x.set_c1(false);
        x.raise(env.flags & !PE);
        return Effect::None;
    }
    x.set_c1(env.flags & PE != 0 && env.rounded_up);
    if !x.raise(env.flags) {
        return Effect::None;
    }
    if insn.pop {
        x.pop();
    }
    Effect::Store(value)
}

/// A store to single or double raises no D for an 80-bit denormal operand (it underflows instead).
fn to_float(env: &mut Env, format: Format, num: Num) -> u128 {
    let num = Num { denormal: false, ..num };
    u128::from(pack(format, env.convert(format, num)))
}

fn to_bcd(env: &mut Env, num: Num) -> u128 {
    let before = *env;
    let value = env.to_integer(num, 64);
    let magnitude = value.unsigned_abs();
    if env.flags & IE != 0 || magnitude > 999_999_999_999_999_999 {
        *env = before;
        env.raise(IE);
        return BCD_INDEFINITE;
    }
    let mut rest = magnitude;
    let digits = (0..18).fold(0u128, |acc, i| {
        let digit = rest % 10;
        rest /= 10;
        acc | u128::from(digit) << (4 * i)
    });
    digits | u128::from(num.sign) << 79
}

fn examine(x: &mut X87) {
    let bits = x.st(0);
    let class = if x.is_empty(0) {
        C3 | C0
    } else if unsupported(bits) {
        0
    } else {
        let num = unpack80(bits);
        match num.class {
            Class::Quiet | Class::Signalling => C0,
            Class::Infinite => C2 | C0,
            Class::Zero => C3,
            Class::Finite if num.denormal => C3 | C2,
            Class::Finite => C2,
        }
    };
    let sign = if bits >> 79 & 1 == 1 { C1 } else { 0 };
    x.status = x.status & !(C3 | C2 | C1 | C0) | class | sign;
}

/// Everything that computes on ST0, or on ST0 and ST1.
fn unary(x: &mut X87, insn: &Insn) {
    let two = matches!(insn.kind, Kind::Scale | Kind::Remainder { .. } | Kind::YLog2X | Kind::YLog2XPlus1 | Kind::Arctangent);
    let replaces_st1 = matches!(insn.kind, Kind::YLog2X | Kind::YLog2XPlus1 | Kind::Arctangent);
    let pushes = matches!(insn.kind, Kind::Extract | Kind::Tangent | Kind::SineCosine);
    let target = u8::from(replaces_st1);
    let pops = u8::from(insn.pop);
    if matches!(insn.kind, Kind::Remainder { .. } | Kind::Tangent | Kind::Sine | Kind::Cosine | Kind::SineCosine) {
        x.status &= !C2;
    }
    if x.is_empty(0) || (two && x.is_empty(1)) {
        if x.stack_fault(false) {
            x.set_st(target, INDEFINITE);
            for _ in 0..pops {
                x.pop();
            }
            if pushes {
                x.set_top(x.top() + 7);
                x.set_st(0, INDEFINITE);
            }
        }
        return;
    }
    if pushes && !x.is_empty(7) {
        if x.stack_fault(true) {
            x.set_st(0, INDEFINITE);
            x.set_top(x.top() + 7);
            x.set_st(0, INDEFINITE);
        }
        return;
    }
    let (a, b) = (x.st(0), if two { x.st(1) } else { 0 });
    let mut env = x.env();
    if unsupported(a) || unsupported(b) {
        env.raise(IE);
        x.result(target, INDEFINITE, &env, pops);
        if pushes && env.masks & IE != 0 {
            x.push(INDEFINITE);
        }
        return;
    }
    let (a, b) = (unpack80(a), unpack80(b));
    let single = match insn.kind {
        Kind::Sqrt => env.sqrt(x.precision(), a),
        Kind::RoundInt => {
            if a.denormal {
                env.raise(DE);
            }
            env.round_to_integral(a)
        }
        Kind::Scale => scale(&mut env, a, b),
        Kind::Remainder { nearest } => {
            let (mut r, codes) = remainder(&mut env, a, b, nearest);
            if r.class == Class::Finite && r.exp < F80.emin && env.masks & UE == 0 && codes.is_some() {
                // Exact, but tiny: unmasked it is reported and biased.
                env.raise(UE);
                r.exp += env.wrap;
            }
            x.set_c1(false);
            if x.raise(env.flags) {
                if let Some(codes) = codes {
                    x.status = x.status & !(C3 | C2 | C1 | C0) | codes;
                }
                x.set_st(0, pack80(r));
            }
            return;
        }
        Kind::TwoToXMinus1 => trans::two_to_x_minus_1(&mut env, a),
        Kind::YLog2X => trans::y_log2_x(&mut env, a, b),
        Kind::YLog2XPlus1 => trans::y_log2_x_plus_1(&mut env, a, b),
        Kind::Arctangent => trans::arctangent(&mut env, b, a),
        Kind::Extract => {
            let (exponent, significand) = extract(&mut env, a);
            x.set_c1(false);
            if x.raise(env.flags) {
                x.set_st(0, pack80(exponent));
                x.push(pack80(significand));
            }
            return;
        }
        Kind::Sine | Kind::Cosine | Kind::Tangent | Kind::SineCosine => {
            let Some((sine, cosine)) = trans::sine_cosine(&mut env, a) else {
                // Out of range: C2, the operand unchanged.
                x.status |= C2;
                x.set_c1(false);
                return;
            };
            match insn.kind {
                Kind::Sine => sine.round(&mut env),
                Kind::Cosine => cosine.round(&mut env),
                Kind::Tangent => {
                    let tangent = trans::quotient(&sine, &cosine);
                    let (first, second) = (tangent.round(&mut env), if sine.is_nan() { sine.round(&mut env) } else { Num::finite(false, 0, 1 << 63) });
                    return push_second(x, &env, first, second);
                }
                _ => {
                    let (first, second) = (sine.round(&mut env), cosine.round(&mut env));
                    return push_second(x, &env, first, second);
                }
            }
        }
        _ => unreachable!("{insn:?} is handled by exec"),
    };
    x.result(target, pack80(single), &env, pops);
}

/// FPTAN and FSINCOS: the first result replaces ST0, the second is pushed.
fn push_second(x: &mut X87, env: &Env, first: Num, second: Num) {
    x.set_c1(env.flags & PE != 0 && env.rounded_up);
    if x.raise(env.flags) {
        x.set_st(0, pack80(first));
        x.push(pack80(second));
    }
}

/// FSCALE: ST0 * 2^trunc(ST1).
fn scale(env: &mut Env, a: Num, b: Num) -> Num {
    if a.is_nan() || b.is_nan() {
        return env.propagate(a, b);
    }
    let bad = matches!((a.class, b.class, b.sign), (Class::Zero, Class::Infinite, false) | (Class::Infinite, Class::Infinite, true));
    if bad {
        env.raise(IE);
        return Num::indefinite();
    }
    if a.denormal || b.denormal {
        env.raise(DE);
    }
    match (a.class, b.class) {
        (_, Class::Infinite) => return if b.sign { Num::zero(a.sign) } else { Num::infinite(a.sign) },
        (Class::Finite, Class::Finite) => {}
        (Class::Finite, _) => return env.round(F80, a.sign, a.exp, u128::from(a.sig) << 64),
        _ => return a,
    }
    // Beyond this every result over- or underflows, even wrapped.
    let by = if b.exp < 0 { 0 } else if b.exp > 16 { 0x1_0000 } else { (b.sig >> (63 - b.exp)) as i32 };
    let by = if b.sign { -by } else { by };
    env.round(F80, a.sign, a.exp + by, u128::from(a.sig) << 64)
}

/// FXTRACT: (exponent as a number, significand in [1, 2)).
fn extract(env: &mut Env, a: Num) -> (Num, Num) {
    if a.is_nan() {
        let nan = env.propagate(a, a);
        return (nan, nan);
    }
    match a.class {
        Class::Infinite => (Num::infinite(false), a),
        Class::Zero => {
            env.raise(ZE);
            (Num::infinite(true), a)
        }
        _ => {
            if a.denormal {
                env.raise(DE);
            }
            (Num::from_i64(i64::from(a.exp)), Num { exp: 0, denormal: false, ..a })
        }
    }
}

/// FPREM and FPREM1: exact partial remainder, and the condition codes if there is a quotient.
fn remainder(env: &mut Env, a: Num, b: Num, nearest: bool) -> (Num, Option<u16>) {
    if a.is_nan() || b.is_nan() {
        return (env.propagate(a, b), None);
    }
    if a.class == Class::Infinite || b.class == Class::Zero {
        env.raise(IE);
        return (Num::indefinite(), None);
    }
    if a.denormal || b.denormal {
        env.raise(DE);
    }
    if a.class == Class::Zero || b.class == Class::Infinite {
        return (a, Some(0));
    }
    let difference = a.exp - b.exp;
    if difference < -1 || (difference < 0 && !nearest) {
        return (a, Some(0));
    }
    // Long division, one bit at a time: at most 64 steps.
    let (mut rest, divisor) = (u128::from(a.sig), u128::from(b.sig));
    if difference >= 64 {
        let steps = 32 + difference % 32;
        // Subtract trunc(a / b / 2^(difference - steps)) * b * 2^(difference - steps).
        for step in 0..=steps {
            if rest >= divisor {
                rest -= divisor;
            }
            if step < steps {
                rest <<= 1;
            }
        }
        return (exact(a.sign, a.exp - steps, rest), Some(C2));
    }
    let mut quotient = 0u128;
    let mut exp = a.exp;
    if difference >= 0 {
        for step in 0..=difference {
            quotient <<= 1;
            if rest >= divisor {
                rest -= divisor;
                quotient |= 1;
            }
            if step < difference {
                rest <<= 1;
            }
        }
        exp = b.exp;
    }
    let mut sign = a.sign;
    if nearest {
        // rest * 2^exp against half of the divisor; in the case of difference -1 the rest is half a unit to the right.
        let twice = if difference < 0 { rest } else { rest << 1 };
        if twice > divisor || (twice == divisor && quotient & 1 == 1) {
            quotient += 1;
            rest = if difference < 0 { (divisor << 1) - rest } else { divisor - rest };
            sign = !sign;
        }
    }
    let code = |bit: u32, c: u16| if quotient >> bit & 1 == 1 { c } else { 0 };
    let r = if rest == 0 { Num::zero(a.sign) } else { exact(sign, exp, rest) };
    (r, Some(code(2, C0) | code(1, C3) | code(0, C1)))
}

/// A value that needs no rounding; its leading bit may be below bit 63.
fn exact(sign: bool, exp: i32, sig: u128) -> Num {
    if sig == 0 {
        return Num::zero(sign);
    }
    let shift = sig.leading_zeros() as i32 - 64;
    let sig = if shift >= 0 { (sig << shift) as u64 } else { shift_right_jam(sig, shift.unsigned_abs()) as u64 };
    Num::finite(sign, exp - shift, sig)
}

/// The flags of the x87 that [`soft`] names, in status-word order.
pub const EXCEPTIONS: u16 = (soft::IE | DE | ZE | OE | UE | PE) as u16;
