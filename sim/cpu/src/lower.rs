//! From decoded instructions to operations.

use crate::block::Block;
use crate::core::mode;
use crate::op::{EA_ADDR16, EA_ADDR32, EA_SEG_SHIFT, Handler, NO_REG, Op, Run};
use crate::ops::{IMM, MB, MI, MS, REG, bits, flow, int, nop, run, string, system, xsave};
use crate::state::{CS, DS, ES, FS, GS, RBX, SS};
use crate::cpuid::Features;
use crate::{exception, fpu, simd, svm, vex};
use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, Mnemonic, OpKind, Register};
use sim_translate::decode::{condition, does_nothing};

/// Builds the operations of one block.
pub(crate) struct Builder {
    bits: u32,
    features: Features,
    offset: u64,
    pub count: usize,
    taken: u64,
    /// What a following Jcc may fuse with.
    last_alu: Option<LastAlu>,
}

/// A flag-setting ALU operation just added.
#[derive(Clone, Copy)]
struct LastAlu {
    kind: u8,
    size: usize,
    place: u8,
    to_memory: bool,
}

/// Where control goes after an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    No,
    Yes,
}

/// Segment register number.
pub(crate) fn segment_number(register: Register) -> usize {
    match register {
        Register::ES => ES,
        Register::CS => CS,
        Register::SS => SS,
        Register::FS => FS,
        Register::GS => GS,
        _ => DS,
    }
}

/// Register number; AH, CH, DH, BH are 0x14 to 0x17.
pub(crate) fn register_number(register: Register) -> u8 {
    match register {
        Register::AH => 0x14,
        Register::CH => 0x15,
        Register::DH => 0x16,
        Register::BH => 0x17,
        _ if register.is_gpr() => register.full_register().number() as u8,
        _ => register.number() as u8,
    }
}

/// Fills the memory fields of `op`; returns the place (`MB`, `MI` or `MS`).
pub(crate) fn memory_operand(insn: &Instruction, op: &mut Op, bits: u32) -> u8 {
    let base = insn.memory_base();
    let index = insn.memory_index();
    op.base = if base.is_gpr() { register_number(base) } else { NO_REG };
    op.index = if index.is_gpr() { register_number(index) } else { NO_REG };
    op.disp = insn.memory_displacement64();
    let scale = insn.memory_index_scale().trailing_zeros() as u8;
    let segment = segment_number(insn.memory_segment());
    let size = if base.is_gpr() {
        base.size()
    } else if index.is_gpr() {
        index.size()
    } else if base == Register::EIP {
        4
    } else {
        match insn.memory_displ_size() {
            2 => 2,
            4 if bits & mode::SIZE != mode::CODE64 => 4,
            4 => 4,
            _ => 8,
        }
    };
    let size = if base == Register::RIP { 8 } else { size };
    op.ea = scale | (segment as u8) << EA_SEG_SHIFT;
    match size {
        2 => op.ea |= EA_ADDR16,
        4 => op.ea |= EA_ADDR32,
        _ => {}
    }
    let direct = if bits & mode::SIZE == mode::CODE64 {
        segment < FS && size == 8
    } else {
        // The slow path wraps at 4 GiB outside long mode, and no entry beyond it exists.
        bits & (mode::FLAT | mode::LONG | mode::ALIGN) == mode::FLAT && size == 4 && segment != CS && segment < FS
    };
    // Alignment checks live in the slow path, which fast tags would skip.
    if !direct || bits & mode::ALIGN != 0 {
        MS
    } else if op.index == NO_REG {
        MB
    } else {
        MI
    }
}

/// Size in bytes of operand `index`.
fn operand_size(insn: &Instruction, index: u32) -> usize {
    match insn.op_kind(index) {
        OpKind::Register => insn.op_register(index).size(),
        OpKind::Memory => insn.memory_size().size(),
        _ => 0,
    }
}

fn alu_kind(mnemonic: Mnemonic) -> Option<u8> {
    Some(match mnemonic {
        Mnemonic::Add => int::ADD,
        Mnemonic::Or => int::OR,
        Mnemonic::Adc => int::ADC,
        Mnemonic::Sbb => int::SBB,
        Mnemonic::And => int::AND,
        Mnemonic::Sub => int::SUB,
        Mnemonic::Xor => int::XOR,
        Mnemonic::Cmp => int::CMP,
        Mnemonic::Test => int::TEST,
        _ => return None,
    })
}

fn shift_kind(mnemonic: Mnemonic) -> Option<u8> {
    Some(match mnemonic {
        Mnemonic::Rol => bits::ROL,
        Mnemonic::Ror => bits::ROR,
        Mnemonic::Rcl => bits::RCL,
        Mnemonic::Rcr => bits::RCR,
        Mnemonic::Shl | Mnemonic::Sal => bits::SHL,
        Mnemonic::Shr => bits::SHR,
        Mnemonic::Sar => bits::SAR,
        _ => return None,
    })
}

impl Builder {
    pub fn new(bits: u32, features: Features) -> Builder {
        Builder { bits, features, offset: 0, count: 0, taken: 0, last_alu: None }
    }

    fn code64(&self) -> bool {
        self.bits & mode::SIZE == mode::CODE64
    }

    /// Adds one instruction. `bytes` starts at it. Returns whether the block must end here.
    pub fn add(&mut self, insn: &Instruction, bytes: &[u8], ops: &mut Vec<Op>) -> bool {
        let mut op = Op { len: insn.len() as u8, off: self.offset as u8, idx: self.count as u8, ..Op::bare(nop) };
        let end = if insn.is_invalid() {
            let prefixes = bytes.iter().take_while(|&&byte| self.is_prefix(byte)).count();
            op.set(Run::plain(if prefixes >= 15 { system::protection } else { system::undefined }));
            End::Yes
        } else if let Some(fused) = self.fuse(insn, ops) {
            self.offset += insn.len() as u64;
            self.count += 1;
            return fused;
        } else {
            self.last_alu = None;
            self.lower_if_known(insn, &mut op)
        };
        ops.push(op);
        self.offset += insn.len() as u64;
        self.count += 1;
        end == End::Yes
    }

    fn is_prefix(&self, byte: u8) -> bool {
        matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3) || (self.code64() && byte & 0xf0 == 0x40)
    }

    /// Fuses a Jcc with the ALU operation before it.
    fn fuse(&mut self, insn: &Instruction, ops: &mut [Op]) -> Option<bool> {
        let last = self.last_alu?;
        if !(insn.is_jcc_short_or_near() && self.code64()) {
            return None;
        }
        let cc = condition(insn)?;
        let op = ops.last_mut()?;
        let handler = if last.to_memory { int::fused_mem_handler(last.kind, last.size, last.place, cc) } else { int::fused_handler(last.kind, last.size, last.place, cc) }?;
        op.set(handler);
        op.len += insn.len() as u8;
        self.taken = insn.near_branch_target();
        Some(true)
    }

    /// Completes the block.
    pub fn finish(&mut self, block: &mut Block, ops: &mut [Op]) {
        block.ticks = self.count as u8;
        block.bytes = self.offset as u8;
        let end = block.rip.wrapping_add(self.offset);
        let end = match self.bits & mode::SIZE {
            mode::CODE64 => end,
            _ => end & 0xffff_ffff,
        };
        block.target = [end, self.taken];
        debug_assert!(!ops.is_empty());
    }

    /// Source operand `index`: register into `b`, immediate, or memory.
    fn source(&self, insn: &Instruction, index: u32, op: &mut Op) -> u8 {
        match insn.op_kind(index) {
            OpKind::Register => {
                op.b = register_number(insn.op_register(index));
                REG
            }
            OpKind::Memory => memory_operand(insn, op, self.bits),
            _ => {
                op.imm = insn.immediate(index);
                IMM
            }
        }
    }

    /// Destination operand 0: register into `a`, or memory.
    fn destination(&self, insn: &Instruction, op: &mut Op) -> u8 {
        if insn.op0_kind() == OpKind::Register {
            op.a = register_number(insn.op0_register());
            REG
        } else {
            memory_operand(insn, op, self.bits)
        }
    }

    fn set(op: &mut Op, run: Run) -> End {
        op.set(run);
        End::No
    }

    fn end(op: &mut Op, run: Run) -> End {
        op.set(run);
        End::Yes
    }

    fn set_plain(op: &mut Op, handler: Handler) -> End {
        Self::set(op, Run::plain(handler))
    }

    fn end_plain(op: &mut Op, handler: Handler) -> End {
        Self::end(op, Run::plain(handler))
    }

    /// What the model lacks is undefined, as are VEX in real and virtual-8086 mode, and every other encoding (XOP, EVEX, 3DNow!).
    fn lower_if_known(&mut self, insn: &Instruction, op: &mut Op) -> End {
        let vex = insn.encoding() == EncodingKind::VEX;
        if !self.features.allow(insn) || vex && self.bits & mode::PROTECTED == 0 {
            return Self::end_plain(op, system::undefined);
        }
        if vex && let Some(run) = vex::lower(insn, op, self.bits) {
            return Self::set(op, run);
        }
        self.lower(insn, op)
    }

    fn lower(&mut self, insn: &Instruction, op: &mut Op) -> End {
        let mnemonic = insn.mnemonic();
        // String CMPSD and MOVSD share mnemonics with SSE2; the string forms have no register operands.
        if let Some(end) = self.string(insn, op) {
            return end;
        }
        if let Some(kind) = alu_kind(mnemonic) {
            return self.alu(insn, op, kind);
        }
        if let Some(end) = self.moves(insn, op) {
            return end;
        }
        if let Some(end) = self.branches(insn, op) {
            return end;
        }
        if let Some(end) = self.arithmetic(insn, op) {
            return end;
        }
        if let Some(end) = self.system(insn, op) {
            return end;
        }
        if let Some(run) = simd::lower(insn, op, self.bits) {
            return Self::set(op, run);
        }
        if let Some(handler) = fpu::lower(insn, op, self.bits) {
            return Self::set_plain(op, handler);
        }
        Self::end_plain(op, system::undefined)
    }

    fn alu(&mut self, insn: &Instruction, op: &mut Op, kind: u8) -> End {
        let size = operand_size(insn, 0);
        let place = self.destination(insn, op);
        if place == REG {
            // XOR r, r and SUB r, r need no special case: flags come out right.
            let source = self.source(insn, 1, op);
            op.set(int::alu_reg_handler(kind, size, source));
            self.last_alu = Some(LastAlu { kind, size, place: source, to_memory: false });
        } else {
            let source = self.source_beside_memory(insn, op);
            op.set(int::alu_mem_handler(kind, size, place, source == IMM));
            if source == IMM {
                self.last_alu = Some(LastAlu { kind, size, place, to_memory: true });
            }
        }
        End::No
    }

    /// Source operand 1 when operand 0 is memory: register into `b`, or immediate.
    fn source_beside_memory(&self, insn: &Instruction, op: &mut Op) -> u8 {
        if insn.op1_kind() == OpKind::Register {
            op.b = register_number(insn.op1_register());
            REG
        } else {
            op.imm = insn.immediate(1);
            IMM
        }
    }

    fn moves(&mut self, insn: &Instruction, op: &mut Op) -> Option<End> {
        let size = operand_size(insn, 0);
        Some(match insn.mnemonic() {
            Mnemonic::Mov => return Some(self.mov(insn, op)),
            Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd => {
                let source_size = operand_size(insn, 1);
                op.a = register_number(insn.op0_register());
                let place = self.source(insn, 1, op);
                let handler = if source_size == size {
                    int::mov_reg_handler(size, place)
                } else {
                    int::extend_handler(insn.mnemonic() != Mnemonic::Movzx, size, source_size, place)
                };
                Self::set(op, handler)
            }
            Mnemonic::Lea => {
                op.a = register_number(insn.op0_register());
                let place = memory_operand(insn, op, self.bits);
                Self::set(op, int::lea_handler(size, place))
            }
            Mnemonic::Movnti => {
                let place = memory_operand(insn, op, self.bits);
                op.b = register_number(insn.op1_register());
                Self::set(op, int::mov_mem_handler(size, place, false))
            }
            Mnemonic::Xchg => {
                // Memory may be either operand; the register goes to `a`.
                let (place, register) = if insn.op0_kind() == OpKind::Memory {
                    (memory_operand(insn, op, self.bits), insn.op1_register())
                } else if insn.op1_kind() == OpKind::Memory {
                    (memory_operand(insn, op, self.bits), insn.op0_register())
                } else {
                    op.b = register_number(insn.op1_register());
                    (REG, insn.op0_register())
                };
                op.a = register_number(register);
                let size = register.size();
                Self::set(op, int::xchg_handler(size, place))
            }
            Mnemonic::Xadd => {
                let place = self.destination(insn, op);
                op.b = register_number(insn.op1_register());
                Self::set(op, int::xadd_handler(size, place))
            }
            Mnemonic::Cmpxchg => {
                let place = self.destination(insn, op);
                op.b = register_number(insn.op1_register());
                Self::set(op, int::cmpxchg_handler(size, place))
            }
            Mnemonic::Cmpxchg8b => {
                memory_operand(insn, op, self.bits);
                Self::set_plain(op, int::cmpxchg8b)
            }
            Mnemonic::Cmpxchg16b => {
                memory_operand(insn, op, self.bits);
                Self::set_plain(op, int::cmpxchg16b)
            }
            Mnemonic::Bswap => {
                op.a = register_number(insn.op0_register());
                Self::set(op, int::bswap_handler(size))
            }
            Mnemonic::Movbe => {
                let store = insn.op0_kind() == OpKind::Memory;
                memory_operand(insn, op, self.bits);
                if store {
                    op.b = register_number(insn.op1_register());
                } else {
                    op.a = register_number(insn.op0_register());
                }
                Self::set(op, int::movbe_handler(size, store))
            }
            Mnemonic::Cbw => Self::set(op, int::convert_handler(2, false)),
            Mnemonic::Cwde => Self::set(op, int::convert_handler(4, false)),
            Mnemonic::Cdqe => Self::set(op, int::convert_handler(8, false)),
            Mnemonic::Cwd => Self::set(op, int::convert_handler(2, true)),
            Mnemonic::Cdq => Self::set(op, int::convert_handler(4, true)),
            Mnemonic::Cqo => Self::set(op, int::convert_handler(8, true)),
            Mnemonic::Xlatb => {
                memory_operand(insn, op, self.bits);
                op.base = RBX as u8;
                op.index = NO_REG;
                op.ea &= !3;
                Self::set_plain(op, int::xlat)
            }
            Mnemonic::Push => {
                let size = self.stack_size(insn);
                op.ea = flow::STACK_EA;
                if insn.op0_kind() == OpKind::Register && insn.op0_register().is_segment_register() {
                    op.a = segment_number(insn.op0_register()) as u8;
                    op.b = size as u8;
                    Self::set_plain(op, system::push_seg)
                } else {
                    let place = self.source(insn, 0, op);
                    Self::set(op, flow::push_handler(size, place))
                }
            }
            Mnemonic::Pop => {
                let size = self.stack_size(insn);
                op.ea = flow::STACK_EA;
                if insn.op0_kind() == OpKind::Register && insn.op0_register().is_segment_register() {
                    op.a = segment_number(insn.op0_register()) as u8;
                    op.b = size as u8;
                    Self::end_plain(op, system::pop_seg)
                } else {
                    let place = self.destination(insn, op);
                    Self::set(op, flow::pop_handler(size, place))
                }
            }
            Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => {
                op.b = match insn.mnemonic() {
                    Mnemonic::Pushf => 2,
                    Mnemonic::Pushfd => 4,
                    _ => 8,
                };
                Self::set_plain(op, flow::pushf)
            }
            Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => {
                op.b = match insn.mnemonic() {
                    Mnemonic::Popf => 2,
                    Mnemonic::Popfd => 4,
                    _ => 8,
                };
                Self::set_plain(op, flow::popf)
            }
            Mnemonic::Pusha | Mnemonic::Pushad => {
                op.b = if insn.mnemonic() == Mnemonic::Pusha { 2 } else { 4 };
                Self::set_plain(op, flow::pusha)
            }
            Mnemonic::Popa | Mnemonic::Popad => {
                op.b = if insn.mnemonic() == Mnemonic::Popa { 2 } else { 4 };
                Self::set_plain(op, flow::popa)
            }
            Mnemonic::Leave => {
                op.ea = flow::STACK_EA;
                Self::set(op, flow::leave_handler(match insn.code() {
                    Code::Leavew => 2,
                    Code::Leaved => 4,
                    _ => 8,
                }))
            }
            Mnemonic::Enter => {
                op.imm = insn.immediate(0);
                op.disp = insn.immediate(1);
                op.b = match insn.code() {
                    Code::Enterw_imm16_imm8 => 2,
                    Code::Enterd_imm16_imm8 => 4,
                    _ => 8,
                };
                Self::set_plain(op, flow::enter)
            }
            _ => {
                let cc = condition(insn)?;
                if insn.op_count() == 1 && !insn.is_jcc_short_or_near() && operand_size(insn, 0) == 1 {
                    // SETcc.
                    let place = self.destination(insn, op);
                    return Some(Self::set(op, int::setcc_handler(cc, place)));
                }
                if insn.op_count() == 2 && insn.op0_kind() == OpKind::Register && insn.op0_register().is_gpr() {
                    op.a = register_number(insn.op0_register());
                    let place = self.source(insn, 1, op);
                    return Some(Self::set(op, int::cmov_handler(cc, size, place)));
                }
                return None;
            }
        })
    }

    /// Operand size of a push or pop.
    fn stack_size(&self, insn: &Instruction) -> usize {
        insn.stack_pointer_increment().unsigned_abs() as usize
    }

    fn mov(&mut self, insn: &Instruction, op: &mut Op) -> End {
        let (to, from) = (insn.op0_register(), insn.op1_register());
        if insn.op0_kind() == OpKind::Register && (to.is_cr() || to.is_dr()) {
            op.imm = u64::from(to.number() as u8);
            op.a = register_number(from);
            if to.is_cr() && !matches!(op.imm, 0 | 2 | 3 | 4 | 8) {
                return Self::end_plain(op, system::undefined);
            }
            return if to.is_cr() { Self::end_plain(op, system::mov_to_cr) } else { Self::end_plain(op, system::mov_to_dr) };
        }
        if insn.op1_kind() == OpKind::Register && (from.is_cr() || from.is_dr()) {
            op.imm = u64::from(from.number() as u8);
            op.a = register_number(to);
            if from.is_cr() && !matches!(op.imm, 0 | 2 | 3 | 4 | 8) {
                return Self::end_plain(op, system::undefined);
            }
            return if from.is_cr() { Self::set_plain(op, system::mov_from_cr) } else { Self::set_plain(op, system::mov_from_dr) };
        }
        if insn.op0_kind() == OpKind::Register && to.is_segment_register() {
            if to == Register::CS {
                return Self::end_plain(op, system::undefined);
            }
            if insn.op1_kind() == OpKind::Memory {
                memory_operand(insn, op, self.bits);
                op.imm = 1;
            } else {
                op.b = register_number(from);
            }
            op.a = segment_number(to) as u8;
            return Self::end_plain(op, system::mov_to_seg);
        }
        if insn.op1_kind() == OpKind::Register && from.is_segment_register() {
            op.imm = (segment_number(from) as u64) << 4;
            if insn.op0_kind() == OpKind::Memory {
                memory_operand(insn, op, self.bits);
                op.imm |= 1;
            } else {
                op.a = register_number(to);
                op.b = to.size() as u8;
            }
            return Self::set_plain(op, system::mov_from_seg);
        }
        let size = operand_size(insn, 0);
        if insn.op0_kind() == OpKind::Register {
            op.a = register_number(to);
            let place = self.source(insn, 1, op);
            // A 32-bit immediate is zero-extended by the 4-byte form; nothing to do here.
            return Self::set(op, int::mov_reg_handler(size, place));
        }
        let place = memory_operand(insn, op, self.bits);
        let source = self.source_beside_memory(insn, op);
        Self::set(op, int::mov_mem_handler(size, place, source == IMM))
    }

    fn branches(&mut self, insn: &Instruction, op: &mut Op) -> Option<End> {
        let native = if self.code64() { 8 } else { 4 };
        Some(match insn.mnemonic() {
            Mnemonic::Jmp | Mnemonic::Call => {
                let is_call = insn.mnemonic() == Mnemonic::Call;
                match insn.op0_kind() {
                    OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                        self.taken = insn.near_branch_target();
                        op.ea = flow::STACK_EA;
                        if is_call {
                            let size = if insn.op0_kind() == OpKind::NearBranch16 { 2 } else { native };
                            Self::end(op, flow::call_handler(size))
                        } else {
                            Self::end(op, run!(flow::jmp))
                        }
                    }
                    OpKind::FarBranch16 | OpKind::FarBranch32 => {
                        let wide = insn.op0_kind() == OpKind::FarBranch32;
                        op.imm = if wide { u64::from(insn.far_branch32()) } else { u64::from(insn.far_branch16()) };
                        op.disp = u64::from(insn.far_branch_selector());
                        op.b = if wide { 4 } else { 2 };
                        if is_call { Self::end_plain(op, system::far_direct::<true>) } else { Self::end_plain(op, system::far_direct::<false>) }
                    }
                    _ => {
                        if insn.is_jmp_far_indirect() || insn.is_call_far_indirect() {
                            memory_operand(insn, op, self.bits);
                            op.b = match insn.code() {
                                Code::Jmp_m1616 | Code::Call_m1616 => 2,
                                Code::Jmp_m1632 | Code::Call_m1632 => 4,
                                _ => 8,
                            };
                            return Some(if is_call { Self::end_plain(op, system::far_indirect::<true>) } else { Self::end_plain(op, system::far_indirect::<false>) });
                        }
                        let size = operand_size(insn, 0);
                        op.ea = flow::STACK_EA;
                        let place = self.source(insn, 0, op);
                        if is_call { Self::end(op, flow::call_indirect_handler(size, place)) } else { Self::end(op, flow::jmp_indirect_handler(size, place)) }
                    }
                }
            }
            Mnemonic::Ret => {
                op.ea = flow::STACK_EA;
                op.imm = if insn.op_count() > 0 { insn.immediate(0) } else { 0 };
                let size = match insn.code() {
                    Code::Retnw | Code::Retnw_imm16 => 2,
                    Code::Retnd | Code::Retnd_imm16 => 4,
                    _ => 8,
                };
                Self::end(op, flow::ret_handler(size))
            }
            Mnemonic::Retf => {
                op.imm = if insn.op_count() > 0 { insn.immediate(0) } else { 0 };
                op.b = match insn.code() {
                    Code::Retfw | Code::Retfw_imm16 => 2,
                    Code::Retfd | Code::Retfd_imm16 => 4,
                    _ => 8,
                };
                Self::end_plain(op, system::far_ret)
            }
            Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => {
                op.b = match insn.mnemonic() {
                    Mnemonic::Iret => 2,
                    Mnemonic::Iretd => 4,
                    _ => 8,
                };
                Self::end_plain(op, system::iret)
            }
            Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne | Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => {
                self.taken = insn.near_branch_target();
                let (kind, counter) = match insn.mnemonic() {
                    Mnemonic::Loop => (0, loop_counter(insn.code())),
                    Mnemonic::Loope => (1, loop_counter(insn.code())),
                    Mnemonic::Loopne => (2, loop_counter(insn.code())),
                    Mnemonic::Jcxz => (3, 2),
                    Mnemonic::Jecxz => (3, 4),
                    _ => (3, 8),
                };
                op.imm = kind;
                Self::end(op, flow::counted_handler(counter))
            }
            _ => {
                if !insn.is_jcc_short_or_near() {
                    return None;
                }
                let cc = condition(insn)?;
                self.taken = insn.near_branch_target();
                Self::end(op, int::jcc_handler(cc))
            }
        })
    }

    fn arithmetic(&mut self, insn: &Instruction, op: &mut Op) -> Option<End> {
        let size = operand_size(insn, 0);
        let mnemonic = insn.mnemonic();
        if let Some(kind) = shift_kind(mnemonic) {
            let place = self.destination(insn, op);
            let by_register = insn.op1_kind() == OpKind::Register;
            if !by_register {
                op.imm = insn.immediate(1);
            }
            return Some(Self::set(op, bits::shift_handler(kind, !by_register, size, place)));
        }
        Some(match mnemonic {
            Mnemonic::Inc | Mnemonic::Dec | Mnemonic::Neg | Mnemonic::Not => {
                let kind = match mnemonic {
                    Mnemonic::Inc => int::INC,
                    Mnemonic::Dec => int::DEC,
                    Mnemonic::Neg => int::NEG,
                    _ => int::NOT,
                };
                let place = self.destination(insn, op);
                if place == REG && (kind == int::INC || kind == int::DEC) {
                    self.last_alu = Some(LastAlu { kind, size, place, to_memory: false });
                }
                Self::set(op, int::unary_handler(kind, size, place))
            }
            Mnemonic::Shld | Mnemonic::Shrd => {
                let place = self.destination(insn, op);
                op.b = register_number(insn.op1_register());
                let imm = insn.op2_kind() != OpKind::Register;
                if imm {
                    op.imm = insn.immediate(2);
                }
                Self::set(op, bits::double_shift_handler(mnemonic == Mnemonic::Shrd, imm, size, place))
            }
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => {
                let kind = match mnemonic {
                    Mnemonic::Bt => bits::BT,
                    Mnemonic::Bts => bits::BTS,
                    Mnemonic::Btr => bits::BTR,
                    _ => bits::BTC,
                };
                let place = self.destination(insn, op);
                let imm = insn.op1_kind() != OpKind::Register;
                if imm {
                    op.imm = insn.immediate(1);
                } else {
                    op.b = register_number(insn.op1_register());
                }
                Self::set(op, bits::bit_test_handler(kind, imm, size, place))
            }
            Mnemonic::Bsf | Mnemonic::Bsr | Mnemonic::Tzcnt | Mnemonic::Lzcnt | Mnemonic::Popcnt => {
                let kind = match mnemonic {
                    Mnemonic::Tzcnt if !self.features.has(CpuidFeature::BMI1) => bits::BSF,
                    Mnemonic::Lzcnt if !self.features.has(CpuidFeature::LZCNT) => bits::BSR,
                    Mnemonic::Bsf => bits::BSF,
                    Mnemonic::Bsr => bits::BSR,
                    Mnemonic::Tzcnt => bits::TZCNT,
                    Mnemonic::Lzcnt => bits::LZCNT,
                    _ => bits::POPCNT,
                };
                op.a = register_number(insn.op0_register());
                let place = self.source(insn, 1, op);
                Self::set(op, bits::scan_handler(kind, size, place))
            }
            Mnemonic::Mul | Mnemonic::Imul if insn.op_count() == 1 => {
                let place = self.source(insn, 0, op);
                Self::set(op, int::mul1_handler(mnemonic == Mnemonic::Imul, size, place))
            }
            Mnemonic::Imul => {
                op.a = register_number(insn.op0_register());
                let place = self.source(insn, 1, op);
                if insn.op_count() == 3 {
                    op.imm = insn.immediate(2);
                    return Some(Self::set(op, int::imul3_handler(size, place)));
                }
                Self::set(op, int::imul2_handler(size, place))
            }
            Mnemonic::Div | Mnemonic::Idiv => {
                let place = self.source(insn, 0, op);
                Self::set(op, int::div_handler(mnemonic == Mnemonic::Idiv, size, place))
            }
            Mnemonic::Andn | Mnemonic::Pdep | Mnemonic::Pext | Mnemonic::Mulx => {
                // dest, second register, source.
                let kind = match mnemonic {
                    Mnemonic::Andn => bits::ANDN,
                    Mnemonic::Pdep => bits::PDEP,
                    Mnemonic::Pext => bits::PEXT,
                    _ => bits::MULX,
                };
                op.a = register_number(insn.op0_register());
                let place = self.source(insn, 2, op);
                op.imm = u64::from(register_number(insn.op1_register()));
                Self::set(op, bits::bmi_handler(kind, size, place))
            }
            Mnemonic::Bextr | Mnemonic::Bzhi | Mnemonic::Sarx | Mnemonic::Shlx | Mnemonic::Shrx => {
                // dest, source, second register.
                let kind = match mnemonic {
                    Mnemonic::Bextr => bits::BEXTR,
                    Mnemonic::Bzhi => bits::BZHI,
                    Mnemonic::Sarx => bits::SARX,
                    Mnemonic::Shlx => bits::SHLX,
                    _ => bits::SHRX,
                };
                op.a = register_number(insn.op0_register());
                let place = self.source(insn, 1, op);
                op.imm = u64::from(register_number(insn.op2_register()));
                Self::set(op, bits::bmi_handler(kind, size, place))
            }
            Mnemonic::Blsr | Mnemonic::Blsmsk | Mnemonic::Blsi => {
                let kind = match mnemonic {
                    Mnemonic::Blsr => bits::BLSR,
                    Mnemonic::Blsmsk => bits::BLSMSK,
                    _ => bits::BLSI,
                };
                op.a = register_number(insn.op0_register());
                let place = self.source(insn, 1, op);
                Self::set(op, bits::bmi_handler(kind, size, place))
            }
            Mnemonic::Rorx => {
                op.a = register_number(insn.op0_register());
                let place = self.source(insn, 1, op);
                op.imm = insn.immediate(2);
                Self::set(op, bits::bmi_handler(bits::RORX, size, place))
            }
            Mnemonic::Adcx | Mnemonic::Adox => {
                op.a = register_number(insn.op0_register());
                let place = self.source(insn, 1, op);
                Self::set(op, bits::adx_handler(mnemonic == Mnemonic::Adox, size, place))
            }
            Mnemonic::Crc32 => {
                op.a = register_number(insn.op0_register());
                let place = self.source(insn, 1, op);
                Self::set(op, bits::crc32_handler(operand_size(insn, 1), place))
            }
            Mnemonic::Daa => Self::set_plain(op, int::daa::<false>),
            Mnemonic::Das => Self::set_plain(op, int::daa::<true>),
            Mnemonic::Aaa => Self::set_plain(op, int::aaa::<false>),
            Mnemonic::Aas => Self::set_plain(op, int::aaa::<true>),
            Mnemonic::Aam | Mnemonic::Aad => {
                op.imm = insn.immediate(0);
                Self::set_plain(op, if mnemonic == Mnemonic::Aam { int::aam } else { int::aad })
            }
            Mnemonic::Clc => Self::set_plain(op, int::set_carry::<false>),
            Mnemonic::Stc => Self::set_plain(op, int::set_carry::<true>),
            Mnemonic::Cmc => Self::set_plain(op, int::cmc),
            Mnemonic::Cld => Self::set_plain(op, int::set_direction::<false>),
            Mnemonic::Std => Self::set_plain(op, int::set_direction::<true>),
            Mnemonic::Lahf => Self::set_plain(op, int::lahf),
            Mnemonic::Sahf => Self::set_plain(op, int::sahf),
            Mnemonic::Salc => Self::set_plain(op, int::salc),
            _ => return None,
        })
    }

    fn string(&mut self, insn: &Instruction, op: &mut Op) -> Option<End> {
        if !insn.is_string_instruction() {
            return None;
        }
        let (kind, size) = match insn.mnemonic() {
            Mnemonic::Movsb => (string::MOVS, 1),
            Mnemonic::Movsw => (string::MOVS, 2),
            Mnemonic::Movsd => (string::MOVS, 4),
            Mnemonic::Movsq => (string::MOVS, 8),
            Mnemonic::Stosb => (string::STOS, 1),
            Mnemonic::Stosw => (string::STOS, 2),
            Mnemonic::Stosd => (string::STOS, 4),
            Mnemonic::Stosq => (string::STOS, 8),
            Mnemonic::Lodsb => (string::LODS, 1),
            Mnemonic::Lodsw => (string::LODS, 2),
            Mnemonic::Lodsd => (string::LODS, 4),
            Mnemonic::Lodsq => (string::LODS, 8),
            Mnemonic::Scasb => (string::SCAS, 1),
            Mnemonic::Scasw => (string::SCAS, 2),
            Mnemonic::Scasd => (string::SCAS, 4),
            Mnemonic::Scasq => (string::SCAS, 8),
            Mnemonic::Cmpsb => (string::CMPS, 1),
            Mnemonic::Cmpsw => (string::CMPS, 2),
            Mnemonic::Cmpsd => (string::CMPS, 4),
            Mnemonic::Cmpsq => (string::CMPS, 8),
            Mnemonic::Insb => (string::INS, 1),
            Mnemonic::Insw => (string::INS, 2),
            Mnemonic::Insd => (string::INS, 4),
            Mnemonic::Outsb => (string::OUTS, 1),
            Mnemonic::Outsw => (string::OUTS, 2),
            Mnemonic::Outsd => (string::OUTS, 4),
            _ => return None,
        };
        let wide = (0..insn.op_count()).find_map(|index| match insn.op_kind(index) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(2),
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(4),
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(8),
            _ => None,
        })?;
        // Only the source's segment can be overridden.
        let prefix = insn.segment_prefix();
        let segment = if prefix == Register::None { DS } else { segment_number(prefix) };
        op.ea = (segment as u8) << EA_SEG_SHIFT;
        match wide {
            2 => op.ea |= EA_ADDR16,
            4 => op.ea |= EA_ADDR32,
            _ => {}
        }
        op.imm = if insn.has_repne_prefix() {
            string::REPNE
        } else if insn.has_rep_prefix() {
            string::REP
        } else {
            string::ONCE
        };
        op.set(Run::plain(string::string_handler(kind, size)));
        // A REP instruction works on the budget, so it is always the last of its block.
        Some(if op.imm == string::ONCE { End::No } else { End::Yes })
    }

    /// Source of a 16-bit system operand: register into `b`, or memory flagged in `imm` bit 0.
    fn source16(&self, insn: &Instruction, index: u32, op: &mut Op) {
        if insn.op_kind(index) == OpKind::Memory {
            memory_operand(insn, op, self.bits);
            op.imm |= 1;
        } else {
            op.b = register_number(insn.op_register(index));
        }
    }

    /// Destination of a 16-bit system value.
    fn target16(&self, insn: &Instruction, op: &mut Op) {
        if insn.op0_kind() == OpKind::Memory {
            memory_operand(insn, op, self.bits);
            op.imm |= 1;
        } else {
            op.a = register_number(insn.op0_register());
            op.b = insn.op0_register().size() as u8;
        }
    }

    fn system(&mut self, insn: &Instruction, op: &mut Op) -> Option<End> {
        let protected = self.bits & mode::PROTECTED != 0;
        Some(match insn.mnemonic() {
            nothing if does_nothing(nothing) => Self::set(op, run!(nop)),
            Mnemonic::Pause => Self::set_plain(op, system::pause),
            Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => {
                memory_operand(insn, op, self.bits);
                Self::set_plain(op, system::touch)
            }
            Mnemonic::Hlt => Self::end_plain(op, system::hlt),
            Mnemonic::Cli => Self::set_plain(op, system::cli),
            Mnemonic::Sti => Self::set_plain(op, system::sti),
            Mnemonic::Int3 => {
                op.imm = 3;
                Self::end_plain(op, exception::software_interrupt)
            }
            Mnemonic::Int1 => {
                op.imm = 1;
                op.b = 1;
                Self::end_plain(op, exception::software_interrupt)
            }
            Mnemonic::Int => {
                op.imm = insn.immediate(0);
                op.b = 2;
                Self::end_plain(op, exception::software_interrupt)
            }
            Mnemonic::Into => {
                op.imm = 4;
                Self::end_plain(op, system::into)
            }
            Mnemonic::Bound => {
                op.a = register_number(insn.op0_register());
                op.b = insn.op0_register().size() as u8;
                memory_operand(insn, op, self.bits);
                Self::set_plain(op, system::bound)
            }
            Mnemonic::In => {
                op.imm = if insn.op1_kind() == OpKind::Register { 1 << 16 } else { insn.immediate(1) & 0xff };
                match insn.op0_register().size() {
                    1 => Self::set_plain(op, system::port_in::<1>),
                    2 => Self::set_plain(op, system::port_in::<2>),
                    _ => Self::set_plain(op, system::port_in::<4>),
                }
            }
            Mnemonic::Out => {
                op.imm = if insn.op0_kind() == OpKind::Register { 1 << 16 } else { insn.immediate(0) & 0xff };
                match insn.op1_register().size() {
                    1 => Self::set_plain(op, system::port_out::<1>),
                    2 => Self::set_plain(op, system::port_out::<2>),
                    _ => Self::set_plain(op, system::port_out::<4>),
                }
            }
            Mnemonic::Syscall => Self::end_plain(op, system::syscall),
            Mnemonic::Sysret | Mnemonic::Sysretq => {
                op.b = if insn.mnemonic() == Mnemonic::Sysretq { 8 } else { 4 };
                Self::end_plain(op, system::sysret)
            }
            Mnemonic::Sysenter => Self::end_plain(op, system::sysenter),
            Mnemonic::Sysexit | Mnemonic::Sysexitq => {
                op.b = if insn.mnemonic() == Mnemonic::Sysexitq { 8 } else { 4 };
                Self::end_plain(op, system::sysexit)
            }
            Mnemonic::Swapgs => Self::set_plain(op, system::swapgs),
            Mnemonic::Cpuid => Self::set_plain(op, system::cpuid),
            Mnemonic::Rdtsc => Self::set_plain(op, system::rdtsc::<false>),
            Mnemonic::Rdtscp => Self::set_plain(op, system::rdtsc::<true>),
            Mnemonic::Rdpmc => Self::set_plain(op, system::rdpmc),
            Mnemonic::Rdpid => {
                op.a = register_number(insn.op0_register());
                Self::set_plain(op, system::rdpid)
            }
            Mnemonic::Rdrand | Mnemonic::Rdseed => {
                op.a = register_number(insn.op0_register());
                match insn.op0_register().size() {
                    2 => Self::set_plain(op, system::random::<2>),
                    4 => Self::set_plain(op, system::random::<4>),
                    _ => Self::set_plain(op, system::random::<8>),
                }
            }
            Mnemonic::Rdmsr => Self::end_plain(op, system::rdmsr),
            Mnemonic::Wrmsr => Self::end_plain(op, system::wrmsr),
            Mnemonic::Xgetbv => Self::set_plain(op, system::xgetbv),
            Mnemonic::Xsetbv => Self::end_plain(op, system::xsetbv),
            Mnemonic::Clts => Self::end_plain(op, system::clts),
            Mnemonic::Wbinvd | Mnemonic::Invd | Mnemonic::Wbnoinvd => {
                op.imm = u64::from(if insn.mnemonic() == Mnemonic::Invd { svm::exit::INVD } else { svm::exit::WBINVD });
                Self::set_plain(op, system::privileged_nop)
            }
            Mnemonic::Vmrun | Mnemonic::Vmload | Mnemonic::Vmsave | Mnemonic::Invlpga => {
                op.b = insn.op0_register().size() as u8;
                match insn.mnemonic() {
                    Mnemonic::Vmrun => Self::end_plain(op, svm::vmrun),
                    Mnemonic::Vmload => Self::end_plain(op, svm::vm_transfer::<true>),
                    Mnemonic::Vmsave => Self::end_plain(op, svm::vm_transfer::<false>),
                    _ => Self::end_plain(op, svm::invlpga),
                }
            }
            Mnemonic::Vmmcall => Self::end_plain(op, svm::vmmcall),
            Mnemonic::Stgi => Self::end_plain(op, svm::global_interrupts::<true>),
            Mnemonic::Clgi => Self::end_plain(op, svm::global_interrupts::<false>),
            Mnemonic::Monitor => {
                op.b = insn.op0_register().size() as u8;
                op.ea = (segment_number(insn.segment_prefix()) as u8) << EA_SEG_SHIFT;
                Self::end_plain(op, system::monitor)
            }
            Mnemonic::Mwait => Self::end_plain(op, system::mwait),
            Mnemonic::Stac => Self::end_plain(op, system::set_ac::<true>),
            Mnemonic::Clac => Self::end_plain(op, system::set_ac::<false>),
            Mnemonic::Invlpg => {
                memory_operand(insn, op, self.bits);
                Self::end_plain(op, system::invlpg)
            }
            Mnemonic::Invpcid => {
                op.a = register_number(insn.op0_register());
                memory_operand(insn, op, self.bits);
                Self::end_plain(op, system::invpcid)
            }
            Mnemonic::Lgdt | Mnemonic::Lidt => {
                memory_operand(insn, op, self.bits);
                op.imm = if insn.mnemonic() == Mnemonic::Lidt { 2 } else { 0 };
                op.b = if matches!(insn.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) { 2 } else { 4 };
                Self::set_plain(op, system::load_table)
            }
            Mnemonic::Sgdt | Mnemonic::Sidt => {
                memory_operand(insn, op, self.bits);
                op.imm = if insn.mnemonic() == Mnemonic::Sidt { 2 } else { 0 };
                Self::set_plain(op, system::store_table)
            }
            Mnemonic::Lldt | Mnemonic::Ltr => {
                op.imm = if insn.mnemonic() == Mnemonic::Ltr { 2 } else { 0 };
                self.source16(insn, 0, op);
                Self::set_plain(op, system::load_selector)
            }
            Mnemonic::Sldt | Mnemonic::Str if protected => {
                op.imm = if insn.mnemonic() == Mnemonic::Str { 2 } else { 0 };
                self.target16(insn, op);
                Self::set_plain(op, system::store_selector)
            }
            Mnemonic::Lmsw => {
                self.source16(insn, 0, op);
                Self::end_plain(op, system::lmsw)
            }
            Mnemonic::Smsw => {
                self.target16(insn, op);
                Self::set_plain(op, system::smsw)
            }
            Mnemonic::Lar | Mnemonic::Lsl => {
                op.a = register_number(insn.op0_register());
                self.source16(insn, 1, op);
                let limit = insn.mnemonic() == Mnemonic::Lsl;
                let handler: Handler = match (limit, insn.op0_register().size()) {
                    (false, 2) => system::load_rights::<false, 2>,
                    (false, 4) => system::load_rights::<false, 4>,
                    (false, _) => system::load_rights::<false, 8>,
                    (true, 2) => system::load_rights::<true, 2>,
                    (true, 4) => system::load_rights::<true, 4>,
                    (true, _) => system::load_rights::<true, 8>,
                };
                Self::set_plain(op, handler)
            }
            Mnemonic::Verr | Mnemonic::Verw => {
                self.source16(insn, 0, op);
                Self::set_plain(op, if insn.mnemonic() == Mnemonic::Verr { system::verify::<false> } else { system::verify::<true> })
            }
            Mnemonic::Arpl => {
                if insn.op0_kind() == OpKind::Memory {
                    memory_operand(insn, op, self.bits);
                    op.imm = 1;
                } else {
                    op.a = register_number(insn.op0_register());
                }
                op.b = register_number(insn.op1_register());
                Self::set_plain(op, system::arpl)
            }
            Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => {
                op.a = register_number(insn.op0_register());
                op.b = insn.op0_register().size() as u8;
                memory_operand(insn, op, self.bits);
                op.imm = match insn.mnemonic() {
                    Mnemonic::Lds => DS,
                    Mnemonic::Les => ES,
                    Mnemonic::Lss => SS,
                    Mnemonic::Lfs => FS,
                    _ => GS,
                } as u64;
                Self::end_plain(op, system::load_far_pointer)
            }
            Mnemonic::Rdfsbase | Mnemonic::Rdgsbase | Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => {
                op.a = register_number(insn.op0_register());
                op.b = if matches!(insn.mnemonic(), Mnemonic::Rdfsbase | Mnemonic::Wrfsbase) { FS as u8 } else { GS as u8 };
                op.imm = u64::from(matches!(insn.mnemonic(), Mnemonic::Wrfsbase | Mnemonic::Wrgsbase));
                if insn.op0_register().size() == 4 { Self::set_plain(op, system::segment_base::<4>) } else { Self::set_plain(op, system::segment_base::<8>) }
            }
            Mnemonic::Fxsave | Mnemonic::Fxsave64 | Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => {
                memory_operand(insn, op, self.bits);
                op.b = if matches!(insn.mnemonic(), Mnemonic::Fxsave64 | Mnemonic::Fxrstor64) { 8 } else { 4 };
                Self::set_plain(op, if matches!(insn.mnemonic(), Mnemonic::Fxsave | Mnemonic::Fxsave64) { xsave::fxsave } else { xsave::fxrstor })
            }
            Mnemonic::Xsave | Mnemonic::Xsave64 | Mnemonic::Xsaveopt | Mnemonic::Xsaveopt64 | Mnemonic::Xsavec | Mnemonic::Xsavec64 => {
                memory_operand(insn, op, self.bits);
                op.b = if matches!(insn.mnemonic(), Mnemonic::Xsave64 | Mnemonic::Xsaveopt64 | Mnemonic::Xsavec64) { 8 } else { 4 };
                op.imm = match insn.mnemonic() {
                    Mnemonic::Xsave | Mnemonic::Xsave64 => xsave::PLAIN,
                    Mnemonic::Xsaveopt | Mnemonic::Xsaveopt64 => xsave::OPTIMISED,
                    _ => xsave::COMPACT,
                };
                Self::set_plain(op, xsave::xsave)
            }
            Mnemonic::Xrstor | Mnemonic::Xrstor64 => {
                memory_operand(insn, op, self.bits);
                op.b = if insn.mnemonic() == Mnemonic::Xrstor64 { 8 } else { 4 };
                Self::set_plain(op, xsave::xrstor)
            }
            _ => return None,
        })
    }
}

/// Counter size of a LOOP.
fn loop_counter(code: Code) -> usize {
    match code {
        Code::Loop_rel8_16_CX | Code::Loop_rel8_32_CX | Code::Loope_rel8_16_CX | Code::Loope_rel8_32_CX | Code::Loopne_rel8_16_CX | Code::Loopne_rel8_32_CX => 2,
        Code::Loop_rel8_16_ECX
        | Code::Loop_rel8_32_ECX
        | Code::Loop_rel8_64_ECX
        | Code::Loope_rel8_16_ECX
        | Code::Loope_rel8_32_ECX
        | Code::Loope_rel8_64_ECX
        | Code::Loopne_rel8_16_ECX
        | Code::Loopne_rel8_32_ECX
        | Code::Loopne_rel8_64_ECX => 4,
        _ => 8,
    }
}
