//! One guest block to host code.

use crate::decode::{DECODER_OPTIONS, condition, does_nothing, is_unaligned};
use crate::emit::{BUDGET, Emit, Kind, Later, S1, S2, TAGS, at, at_index, field, resolve};
use crate::frame;
use crate::quirks::Quirks;
use crate::Counts;
use crate::registers::{host, is_high, number, sized};
use crate::tlb::{ENTRIES, FETCH as FETCH_KIND};
use iced_x86::{Code, Decoder, FlowControl, IcedError, Instruction, InstructionInfoFactory, MemoryOperand, Mnemonic as M, OpAccess, OpKind, Register, RflagsBits};

/// What cannot be translated.
#[derive(Debug)]
pub(crate) struct Unsupported;

impl From<IcedError> for Unsupported {
    fn from(_: IcedError) -> Self {
        Unsupported
    }
}

/// What may be translated at all.
#[derive(Clone, Copy)]
pub(crate) struct Can {
    /// SSE is switched on in the guest.
    pub sse: bool,
    /// Of the guest's processor.
    pub counts: Counts,
    pub quirks: Quirks,
    /// The fetch word of its code.
    pub fetch: u64,
    /// ADC forgets its carry: the bug an alarm must find.
    pub spoiled: bool,
}

/// Exit codes beside instruction numbers: a way, and a page whose fetch does not hit.
pub(crate) const WAY: u32 = 0xf0;
pub(crate) const FETCH: u32 = 0xf8;

/// A translated block before it has a place.
pub(crate) struct Body {
    pub code: Vec<u8>,
    /// Where it is entered from its own page, and where a dead one is entered; from other pages it is entered at its beginning.
    pub entry: usize,
    pub dead: usize,
    pub ticks: u8,
    /// Offset of each instruction from the block's start; one more for the end.
    pub offsets: Vec<u8>,
    /// Patchable jump of each way.
    pub ways: [Option<usize>; 2],
    /// Guest address of each way.
    pub targets: [u64; 2],
    /// Positions of jumps to the common exit, and to what loads the XMM registers.
    pub exits: Vec<Later>,
    pub loads: Vec<Later>,
}

/// A place to leave at.
struct Leave {
    from: Later,
    /// Instruction that did not run.
    instruction: u8,
}

pub(crate) struct Builder<'a> {
    emit: Emit,
    info: &'a mut InstructionInfoFactory,
    unit: u32,
    ticks: u8,
    leaves: Vec<Leave>,
    /// Jumps to the stub of a way.
    to_way: [Vec<Later>; 2],
    targets: [u64; 2],
    rip: u64,
    can: Can,
    /// Jumps to the common exit.
    exits: Vec<Later>,
    /// The jump to what loads the XMM registers: before the first instruction that needs them.
    loads: Vec<Later>,
    dead: usize,
    entry: usize,
    /// Instructions that must be in the unit, counted from its first: one of them writes flags that were left wrong.
    relies: usize,
}

/// Decodes and translates up to `count` instructions of `bytes` at `rip`. The result may end before the first one it cannot translate.
pub(crate) fn translate(info: &mut InstructionInfoFactory, unit: u32, rip: u64, bytes: &[u8], count: usize, can: Can) -> Result<Body, Unsupported> {
    let mut decoder = Decoder::with_ip(64, bytes, rip, DECODER_OPTIONS);
    let mut instructions = Vec::with_capacity(count);
    let mut offsets = vec![0u8];
    while instructions.len() < count && decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            break;
        }
        instructions.push(instruction);
        offsets.push(decoder.position() as u8);
    }
    let mut builder = Builder::new(info, unit, rip, can);
    let mut good = builder.body(&instructions)?;
    loop {
        // The instruction after STI belongs to it.
        let ends_open = good > 0 && instructions[good - 1].mnemonic() == M::Sti;
        // Flags may have been left wrong because of an instruction that is not in the unit after all.
        if builder.relies <= good && !ends_open {
            break;
        }
        instructions.truncate(good - usize::from(ends_open));
        builder = Builder::new(builder.info, unit, rip, can);
        good = builder.body(&instructions)?;
    }
    if good == 0 {
        return Err(Unsupported);
    }
    offsets.truncate(good + 1);
    builder.finish(&instructions[good - 1], offsets)
}

/// How many of up to `count` instructions of `bytes` at `rip` are best left to the interpreter before a unit is worth entering.
pub(crate) fn refused(info: &mut InstructionInfoFactory, rip: u64, bytes: &[u8], count: usize, can: Can) -> usize {
    let mut builder = Builder::new(info, 0, rip, can);
    let (mut first, mut run) = (0, 0);
    for (index, instruction) in Decoder::with_ip(64, bytes, rip, DECODER_OPTIONS).iter().take(count).enumerate() {
        let good = !instruction.is_invalid() && builder.instruction(&instruction, index as u8, &[]).is_ok();
        run = if good { run + 1 } else { 0 };
        if run == 0 {
            first = index + 1;
        }
        if run >= WORTH_ENTERING {
            break;
        }
    }
    if run >= WORTH_ENTERING { first } else { count }
}

/// Instructions one after the other that are worth entering translated code for.
const WORTH_ENTERING: usize = 4;

/// `lea r13, [r13+ticks]`; the number is the last byte.
const LEA_BYTES: usize = 4;

/// Instructions translated as they are, operands replaced.
fn is_plain(instruction: &Instruction) -> bool {
    // Others have conditions too (CMPccXADD), and the host may not know them.
    if instruction.encoding() != iced_x86::EncodingKind::Legacy {
        return false;
    }
    match instruction.mnemonic() {
        M::Add | M::Or | M::Adc | M::Sbb | M::And | M::Sub | M::Xor | M::Cmp | M::Test | M::Inc | M::Dec | M::Neg | M::Not => true,
        M::Mov => (0..2).all(|i| instruction.op_kind(i) != OpKind::Register || instruction.op_register(i).is_gpr()),
        M::Movzx | M::Movsx | M::Movsxd | M::Xchg | M::Xadd | M::Cmpxchg => true,
        M::Popcnt | M::Tzcnt | M::Lzcnt | M::Bsf | M::Bsr => true,
        M::Bswap => instruction.op0_register().size() > 2,
        M::Shl | M::Shr | M::Sar | M::Rol | M::Ror | M::Imul | M::Mul => true,
        M::Cbw | M::Cwde | M::Cdqe | M::Cwd | M::Cdq | M::Cqo | M::Clc | M::Stc | M::Cmc | M::Lahf | M::Sahf => true,
        M::Bt | M::Bts | M::Btr | M::Btc => instruction.op1_kind() != OpKind::Register || instruction.op0_kind() == OpKind::Register,
        _ => {
            let setcc_or_cmov = condition(instruction).is_some() && !instruction.is_jcc_short_or_near();
            setcc_or_cmov && (0..instruction.op_count()).all(|i| instruction.op_kind(i) != OpKind::Register || instruction.op_register(i).is_gpr())
        }
    }
}

/// SSE and SSE2 instructions that do on the host exactly what the interpreter does, and whether they use MXCSR.
fn is_sse(instruction: &Instruction) -> bool {
    if instruction.encoding() != iced_x86::EncodingKind::Legacy {
        return false;
    }
    let known = matches!(
        instruction.mnemonic(),
        M::Movaps | M::Movapd | M::Movdqa | M::Movups | M::Movupd | M::Movdqu | M::Movss | M::Movd | M::Movq | M::Movlps | M::Movlpd | M::Movhps | M::Movhpd | M::Movlhps
            | M::Movhlps | M::Movmskps | M::Movmskpd | M::Pmovmskb | M::Movsd
            | M::Addps | M::Addpd | M::Addss | M::Addsd | M::Subps | M::Subpd | M::Subss | M::Subsd
            | M::Mulps | M::Mulpd | M::Mulss | M::Mulsd | M::Divps | M::Divpd | M::Divss | M::Divsd
            | M::Sqrtps | M::Sqrtpd | M::Sqrtss | M::Sqrtsd | M::Minps | M::Minpd | M::Minss | M::Minsd
            | M::Maxps | M::Maxpd | M::Maxss | M::Maxsd | M::Cmpps | M::Cmppd | M::Cmpss
            | M::Ucomiss | M::Ucomisd | M::Comiss | M::Comisd
            | M::Cvtss2sd | M::Cvtsd2ss | M::Cvtps2pd | M::Cvtpd2ps | M::Cvtdq2ps | M::Cvtdq2pd | M::Cvtps2dq | M::Cvttps2dq | M::Cvtpd2dq | M::Cvttpd2dq
            | M::Cvtsi2ss | M::Cvtsi2sd | M::Cvtss2si | M::Cvtsd2si | M::Cvttss2si | M::Cvttsd2si
            | M::Andps | M::Andpd | M::Andnps | M::Andnpd | M::Orps | M::Orpd | M::Xorps | M::Xorpd
            | M::Unpcklps | M::Unpckhps | M::Unpcklpd | M::Unpckhpd | M::Shufps | M::Shufpd
            | M::Pand | M::Pandn | M::Por | M::Pxor
            | M::Paddb | M::Paddw | M::Paddd | M::Paddq | M::Psubb | M::Psubw | M::Psubd | M::Psubq
            | M::Paddsb | M::Paddsw | M::Paddusb | M::Paddusw | M::Psubsb | M::Psubsw | M::Psubusb | M::Psubusw
            | M::Pmullw | M::Pmulhw | M::Pmulhuw | M::Pmuludq | M::Pmaddwd | M::Pavgb | M::Pavgw | M::Psadbw
            | M::Pminub | M::Pminsw | M::Pmaxub | M::Pmaxsw
            | M::Pcmpeqb | M::Pcmpeqw | M::Pcmpeqd | M::Pcmpgtb | M::Pcmpgtw | M::Pcmpgtd
            | M::Punpcklbw | M::Punpcklwd | M::Punpckldq | M::Punpcklqdq | M::Punpckhbw | M::Punpckhwd | M::Punpckhdq | M::Punpckhqdq
            | M::Packsswb | M::Packssdw | M::Packuswb
            | M::Pshufd | M::Pshufhw | M::Pshuflw | M::Pinsrw | M::Pextrw
            | M::Psllw | M::Pslld | M::Psllq | M::Pslldq | M::Psrlw | M::Psrld | M::Psrlq | M::Psrldq | M::Psraw | M::Psrad
            | M::Pshufb | M::Palignr | M::Movntdq | M::Movntps | M::Movntpd
    );
    // The string instructions share two names; MMX forms use other registers.
    known && (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Register && instruction.op_register(i).is_xmm())
        && (0..instruction.op_count()).all(|i| instruction.op_kind(i) != OpKind::Register || instruction.op_register(i).is_xmm() || instruction.op_register(i).is_gpr())
}

/// Whether the six flags are written again before anybody can see them: by what reads none, cannot fault and does not end the block. If so, how many
/// instructions that takes.
fn flags_die(rest: &[Instruction]) -> Option<usize> {
    const ARITHMETIC: u32 = RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;
    for (index, next) in rest.iter().enumerate() {
        let memory = (0..next.op_count()).any(|i| next.op_kind(i) == OpKind::Memory) && next.mnemonic() != M::Lea;
        let unsafe_here = memory || next.rflags_read() & ARITHMETIC != 0 || next.flow_control() != FlowControl::Next || next.stack_pointer_increment() != 0;
        if unsafe_here || !(is_plain(next) || next.mnemonic() == M::Lea || does_nothing(next.mnemonic())) {
            return None;
        }
        // A shift by CL may leave them.
        let sure = !matches!(next.mnemonic(), M::Shl | M::Shr | M::Sar | M::Rol | M::Ror);
        if sure && next.rflags_modified() & ARITHMETIC == ARITHMETIC {
            return Some(index + 1);
        }
    }
    None
}

impl<'a> Builder<'a> {
    fn new(info: &'a mut InstructionInfoFactory, unit: u32, rip: u64, can: Can) -> Builder<'a> {
        Builder { emit: Emit::new(), info, unit, ticks: 0, leaves: Vec::new(), to_way: [Vec::new(), Vec::new()], targets: [0; 2], rip, can, exits: Vec::new(), loads: Vec::new(), dead: 0, entry: 0, relies: 0 }
    }

    /// The entry, and as many instructions as can be translated. Their number is known only then: [`Builder::finish`] puts it into the entry.
    fn body(&mut self, instructions: &[Instruction]) -> Result<usize, Unsupported> {
        self.entry()?;
        for (index, instruction) in instructions.iter().enumerate() {
            let (position, leaves, loads, relies) = (self.emit.position(), self.leaves.len(), self.loads.len(), self.relies);
            if self.instruction(instruction, index as u8, &instructions[index + 1..]).is_err() {
                self.emit.rewind(position);
                self.leaves.truncate(leaves);
                self.loads.truncate(loads);
                self.relies = relies;
                return Ok(index);
            }
        }
        Ok(instructions.len())
    }

    /// Whether the flags of instruction `index` need not be right. The unit must then reach as far as this looked.
    fn flags_die(&mut self, index: u8, rest: &[Instruction]) -> bool {
        let Some(further) = flags_die(rest) else { return false };
        self.relies = self.relies.max(usize::from(index) + 1 + further);
        true
    }

    fn code(&self, what: u32) -> u32 {
        self.unit << 8 | what
    }

    /// The entry for control from other pages, the place of dead code, and the entry: `r13 += ticks`, out unless still negative.
    fn entry(&mut self) -> Result<(), Unsupported> {
        // The fetch word as it is now, and this unit's.
        let slot = crate::tlb::index(self.rip) * 8;
        self.emit.load(S1, at(TAGS, (FETCH_KIND * ENTRIES * 8 + slot) as i64))?;
        self.emit.constant(S2, self.can.fetch.wrapping_neg())?;
        self.emit.lea(S1, at_index(S1, S2, 1, 0))?;
        let good = self.emit.jrcxz();
        self.out(FETCH)?;
        // Stands for a number of its size.
        let ticks = 1;
        let back = self.emit.position();
        self.emit.lea(BUDGET, at(BUDGET, -ticks))?;
        self.dead = self.emit.position();
        self.out(0)?;
        self.entry = self.emit.position();
        self.emit.land(&good);
        self.emit.lea(BUDGET, at(BUDGET, ticks))?;
        self.emit.put(&Instruction::with3(Code::VEX_Pext_r64_r64_rm64, S1, BUDGET, field(frame::SIGN))?)?;
        self.emit.jrcxz_back(back);
        Ok(())
    }

    /// Leaves translated code.
    fn out(&mut self, what: u32) -> Result<(), Unsupported> {
        self.emit.constant(S1, u64::from(self.code(what)))?;
        let exit = self.emit.jmp();
        self.exits.push(exit);
        Ok(())
    }

    /// Notes that this unit is left for what may be another page: then the one before is still the page that code is fetched from.
    fn going(&mut self) -> Result<(), Unsupported> {
        self.emit.put(&Instruction::with2(Code::Mov_rm32_imm32, field(frame::FROM), self.code(0))?)?;
        Ok(())
    }

    fn leave(&mut self, from: Later, instruction: u8) {
        self.leaves.push(Leave { from, instruction });
    }

    /// A guest register's value in a host register, loaded into `scratch` if it is in the frame.
    fn value(&mut self, register: usize, scratch: Register) -> Result<Register, Unsupported> {
        match host(register) {
            Some(n) => Ok(sized(n, 8)),
            None => {
                self.emit.load(scratch, field(8 * register as i64))?;
                Ok(scratch)
            }
        }
    }

    /// The guest address of a memory operand into R11.
    fn address(&mut self, insn: &Instruction) -> Result<(), Unsupported> {
        let (base, index) = (insn.memory_base(), insn.memory_index());
        let displacement = insn.memory_displacement64();
        let segment = match insn.memory_segment() {
            Register::FS => Some(frame::FS_BASE),
            Register::GS => Some(frame::GS_BASE),
            _ => None,
        };
        if base == Register::RIP {
            self.emit.constant(S2, displacement)?;
        } else if base == Register::EIP || (base != Register::None && !base.is_gpr()) || (index != Register::None && !index.is_gpr()) {
            return Err(Unsupported);
        } else if base == Register::None && index == Register::None {
            self.emit.constant(S2, displacement)?;
        } else {
            let short = base.size() == 4 || index.size() == 4;
            let base = if base == Register::None { None } else { Some(self.value(number(base), S2)?) };
            let index = if index == Register::None { None } else { Some(self.value(number(index), S1)?) };
            let displacement = displacement as i64;
            let displacement = if short { i64::from(displacement as i32) } else { displacement };
            let operand = match (base, index) {
                (Some(base), Some(index)) => at_index(base, index, insn.memory_index_scale(), displacement),
                (Some(base), None) => at(base, displacement),
                (None, index) => MemoryOperand::new(Register::None, index.unwrap_or(Register::None), insn.memory_index_scale(), displacement, 8, false, Register::None),
            };
            if short {
                self.emit.put(&Instruction::with2(Code::Lea_r32_m, Register::R11D, operand)?)?;
            } else if base != Some(S2) || index.is_some() || displacement != 0 {
                self.emit.lea(S2, operand)?;
            }
        }
        if let Some(offset) = segment {
            self.emit.load(S1, field(offset))?;
            self.emit.lea(S2, at_index(S2, S1, 1, 0))?;
        }
        Ok(())
    }

    /// Makes R11 (with RCX added) the host address of `size` bytes at the guest address in R11.
    fn reach(&mut self, kind: Kind, size: usize, aligned: bool, instruction: u8) -> Result<(), Unsupported> {
        let miss = self.emit.translate(kind, size, aligned)?;
        self.leave(miss, instruction);
        Ok(())
    }

    /// As [`Builder::reach`], the whole address in R11.
    fn reach_flat(&mut self, kind: Kind, size: usize, instruction: u8) -> Result<(), Unsupported> {
        self.reach(kind, size, false, instruction)?;
        self.emit.lea(S2, at_index(S2, S1, 1, 0))?;
        Ok(())
    }

    fn instruction(&mut self, insn: &Instruction, index: u8, rest: &[Instruction]) -> Result<(), Unsupported> {
        if insn.has_rep_prefix() && insn.mnemonic() != M::Ret || insn.has_repne_prefix() && insn.mnemonic() != M::Ret {
            return Err(Unsupported);
        }
        match insn.mnemonic() {
            nothing if does_nothing(nothing) => return if insn.has_lock_prefix() { Err(Unsupported) } else { Ok(()) },
            M::Lea => return self.load_address(insn),
            M::Push => return self.push(insn, index),
            M::Pop => return self.pop(insn, index),
            M::Leave if insn.code() == Code::Leaveq => return self.leave_frame(index),
            M::Call => return self.call(insn, index),
            M::Jmp => return self.jump(insn, index),
            M::Ret => return self.ret(insn, index),
            M::Swapgs | M::Cli | M::Sti | M::Pushfq if insn.has_lock_prefix() => return Err(Unsupported),
            M::Swapgs => return self.swap_gs(index),
            M::Cli => return self.set_rest(frame::NO_CLI, frame::REST_CLOSED, index),
            M::Sti => return self.set_rest(frame::NO_STI, frame::REST_OPEN, index),
            M::Pushfq => return self.push_flags(index),
            _ => {}
        }
        if insn.is_jcc_short_or_near() {
            if insn.op0_kind() != OpKind::NearBranch64 {
                return Err(Unsupported);
            }
            let condition = condition(insn).ok_or(Unsupported)?;
            self.targets = [insn.next_ip(), insn.near_branch_target()];
            let taken = self.emit.jcc(condition);
            self.to_way[1].push(taken);
            let fall = self.emit.jmp();
            self.to_way[0].push(fall);
            return Ok(());
        }
        let needs_xmm = self.can.sse && is_sse(insn);
        if needs_xmm && self.loads.is_empty() {
            self.load_xmm()?;
        }
        if is_plain(insn) || needs_xmm {
            return self.plain(insn, index, rest);
        }
        Err(Unsupported)
    }

    /// Has the XMM registers loaded if they are not.
    fn load_xmm(&mut self) -> Result<(), Unsupported> {
        self.emit.load(S1, field(frame::NO_XMM))?;
        let loaded = self.emit.jrcxz();
        let back = self.emit.lea_ahead();
        self.emit.store(field(frame::TARGET), S1)?;
        let load = self.emit.jmp();
        self.loads.push(load);
        self.emit.resolve_here(&back);
        self.emit.land(&loaded);
        Ok(())
    }

    /// CLI and STI: RFLAGS as it is to be, if a field of the frame is 0.
    fn set_rest(&mut self, refused: i64, rest: i64, index: u8) -> Result<(), Unsupported> {
        self.allowed(refused, index)?;
        self.emit.load(S1, field(rest))?;
        self.emit.store(field(frame::REST), S1)?;
        Ok(())
    }

    fn push_flags(&mut self, index: u8) -> Result<(), Unsupported> {
        self.allowed(frame::NO_PUSHF, index)?;
        self.push_value(index, |b| {
            // The guest's RAX waits in its field of the frame, which has no other use.
            b.emit.store(field(0), Register::RAX)?;
            b.emit.put(&Instruction::with(Code::Lahf))?;
            b.emit.put(&Instruction::with1(Code::Seto_rm8, Register::AL)?)?;
            b.emit.put(&Instruction::with3(Code::VEX_Pext_r64_r64_rm64, S1, Register::RAX, field(frame::IN_AX))?)?;
            b.emit.put(&Instruction::with3(Code::VEX_Rorx_r32_rm32_imm8, Register::ECX, Register::ECX, 1)?)?;
            b.emit.put(&Instruction::with3(Code::VEX_Pext_r64_r64_rm64, S1, S1, field(frame::TURNED))?)?;
            b.emit.put(&Instruction::with3(Code::VEX_Pdep_r64_r64_rm64, S1, S1, field(frame::IN_RFLAGS))?)?;
            b.emit.load(Register::RAX, field(frame::REST))?;
            b.emit.lea(S1, at_index(S1, Register::RAX, 1, 0))?;
            b.emit.load(Register::RAX, field(0))?;
            Ok(S1)
        })
    }

    /// Goes on if a field of the frame is 0.
    fn allowed(&mut self, offset: i64, index: u8) -> Result<(), Unsupported> {
        self.emit.load(S1, field(offset))?;
        let refused = self.emit.jmp_unless_zero();
        self.leave(refused, index);
        Ok(())
    }

    fn swap_gs(&mut self, index: u8) -> Result<(), Unsupported> {
        self.allowed(frame::NOT_KERNEL, index)?;
        self.emit.load(S1, field(frame::GS_BASE))?;
        self.emit.load(S2, field(frame::KERNEL_GS_BASE))?;
        self.emit.store(field(frame::GS_BASE), S2)?;
        self.emit.store(field(frame::KERNEL_GS_BASE), S1)?;
        Ok(())
    }

    /// An instruction with its operands replaced.
    fn plain(&mut self, insn: &Instruction, index: u8, rest: &[Instruction]) -> Result<(), Unsupported> {
        let quirks = self.can.quirks;
        let by_the_rules = match insn.mnemonic() {
            M::And | M::Or | M::Xor | M::Test => quirks.logic,
            M::Shl | M::Shr | M::Sar => quirks.shifts,
            M::Rol | M::Ror => quirks.rotates,
            M::Bt | M::Bts | M::Btr | M::Btc => quirks.bit_tests,
            M::Tzcnt | M::Lzcnt => quirks.counts,
            M::Bsf | M::Bsr => quirks.scans,
            _ => true,
        };
        let offered = match insn.mnemonic() {
            M::Popcnt => self.can.counts.popcnt,
            M::Tzcnt => self.can.counts.tzcnt && quirks.has_tzcnt,
            M::Lzcnt => self.can.counts.lzcnt && quirks.has_lzcnt,
            // What a scan of zero leaves in its destination is no flag that could die.
            M::Bsf | M::Bsr => quirks.scans_keep,
            _ => true,
        };
        if !offered {
            return Err(Unsupported);
        }
        if !by_the_rules && !self.flags_die(index, rest) {
            return Err(Unsupported);
        }
        let mut new = *insn;
        new.set_has_lock_prefix(false);
        // Moves between AL, AX, EAX, RAX and an absolute address have a form that takes no other operand.
        match insn.code() {
            Code::Mov_AL_moffs8 => new.set_code(Code::Mov_r8_rm8),
            Code::Mov_AX_moffs16 => new.set_code(Code::Mov_r16_rm16),
            Code::Mov_EAX_moffs32 => new.set_code(Code::Mov_r32_rm32),
            Code::Mov_RAX_moffs64 => new.set_code(Code::Mov_r64_rm64),
            Code::Mov_moffs8_AL => new.set_code(Code::Mov_rm8_r8),
            Code::Mov_moffs16_AX => new.set_code(Code::Mov_rm16_r16),
            Code::Mov_moffs32_EAX => new.set_code(Code::Mov_rm32_r32),
            Code::Mov_moffs64_RAX => new.set_code(Code::Mov_rm64_r64),
            _ => {}
        }
        let accesses: [OpAccess; 5] = {
            let info = self.info.info(insn);
            [info.op0_access(), info.op1_access(), info.op2_access(), info.op3_access(), info.op4_access()]
        };
        let memory = (0..insn.op_count()).find(|&i| insn.op_kind(i) == OpKind::Memory);
        let by_cl = matches!(insn.mnemonic(), M::Shl | M::Shr | M::Sar | M::Rol | M::Ror) && insn.op1_kind() == OpKind::Register;
        // Which guest registers in the frame take part, and where.
        let mut borrowed: Vec<(usize, Register, bool, bool)> = Vec::new();
        let mut scratch: Vec<Register> = if memory.is_some() { vec![S1] } else { vec![S2, S1] };
        if by_cl {
            scratch.retain(|&r| r != S1);
        }
        for i in 0..insn.op_count() {
            match insn.op_kind(i) {
                OpKind::Register => {
                    let register = insn.op_register(i);
                    if register.is_xmm() || (by_cl && i == 1) {
                        continue;
                    }
                    if !register.is_gpr() {
                        return Err(Unsupported);
                    }
                    if is_high(register) {
                        if register == Register::CH {
                            return Err(Unsupported);
                        }
                        continue;
                    }
                    let n = number(register);
                    let access = accesses[i as usize];
                    let writes = matches!(access, OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite);
                    let reads = access != OpAccess::Write || register.size() < 4;
                    let size = register.size();
                    match host(n) {
                        Some(h) => new.set_op_register(i, sized(h, size)),
                        None => {
                            let place = match borrowed.iter_mut().find(|(guest, ..)| *guest == n) {
                                Some(entry) => {
                                    entry.2 |= reads;
                                    entry.3 |= writes;
                                    entry.1
                                }
                                None => {
                                    let place = scratch.pop().ok_or(Unsupported)?;
                                    borrowed.push((n, place, reads, writes));
                                    place
                                }
                            };
                            new.set_op_register(i, sized(number(place), size));
                        }
                    }
                }
                OpKind::Memory | OpKind::Immediate8 | OpKind::Immediate16 | OpKind::Immediate32 | OpKind::Immediate64 | OpKind::Immediate8to16 | OpKind::Immediate8to32
                | OpKind::Immediate8to64 | OpKind::Immediate32to64 => {}
                _ => return Err(Unsupported),
            }
        }
        if let Some(operand) = memory {
            let access = accesses[operand as usize];
            let size = insn.memory_size().size();
            if !matches!(size, 1 | 2 | 4 | 8 | 16) {
                return Err(Unsupported);
            }
            let kind = match access {
                OpAccess::Read | OpAccess::CondRead => Kind::Read,
                OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite => Kind::Write,
                OpAccess::None | OpAccess::NoMemAccess => return Err(Unsupported),
            };
            self.address(insn)?;
            self.reach(kind, size, size == 16 && !is_unaligned(insn.mnemonic()), index)?;
            let flat = by_cl || !borrowed.is_empty();
            if flat {
                self.emit.lea(S2, at_index(S2, S1, 1, 0))?;
            }
            new.set_segment_prefix(Register::None);
            new.set_memory_base(S2);
            new.set_memory_index(if flat { Register::None } else { S1 });
            new.set_memory_index_scale(1);
            new.set_memory_displ_size(0);
            new.set_memory_displacement64(0);
        }
        for &(guest, place, reads, _) in &borrowed {
            if reads {
                self.emit.load(place, field(8 * guest as i64))?;
            }
        }
        if by_cl {
            self.emit.mov(S1, sized(14, 8))?;
        }
        if self.can.spoiled && insn.mnemonic() == M::Adc {
            self.emit.put(&Instruction::with(Code::Clc))?;
        }
        self.emit.put(&new)?;
        for &(guest, place, _, writes) in &borrowed {
            if writes {
                self.emit.store(field(8 * guest as i64), place)?;
            }
        }
        if matches!(insn.mnemonic(), M::Mul | M::Imul) && !self.flags_die(index, rest) {
            self.product_flags(insn)?;
        }
        Ok(())
    }

    /// After a multiplication: SF, ZF and PF of the low half and AF 0, where processors differ; CF and OF stay.
    fn product_flags(&mut self, insn: &Instruction) -> Result<(), Unsupported> {
        let (n, size) = if insn.op_count() == 1 {
            (0, if insn.op0_kind() == OpKind::Memory { insn.memory_size().size() } else { insn.op0_register().size() })
        } else {
            (number(insn.op0_register()), insn.op0_register().size())
        };
        let e = &mut self.emit;
        e.put(&Instruction::with1(Code::Setb_rm8, Register::CL)?)?;
        let low = match host(n) {
            Some(h) => sized(h, size),
            None => {
                e.load(S2, field(8 * n as i64))?;
                sized(11, size)
            }
        };
        let test = match size {
            1 => Code::Test_rm8_r8,
            2 => Code::Test_rm16_r16,
            4 => Code::Test_rm32_r32,
            _ => Code::Test_rm64_r64,
        };
        e.put(&Instruction::with2(test, low, low)?)?;
        // Those of the test into AH, the overflow into its CF and, through AL, into OF.
        e.mov(S2, Register::RAX)?;
        e.put(&Instruction::with(Code::Lahf))?;
        e.put(&Instruction::with2(Code::And_rm8_imm8, Register::AH, 0xee)?)?;
        e.put(&Instruction::with2(Code::Or_r8_rm8, Register::AH, Register::CL)?)?;
        e.put(&Instruction::with2(Code::Mov_r8_rm8, Register::AL, Register::CL)?)?;
        e.put(&Instruction::with2(Code::Add_AL_imm8, Register::AL, 0x7f)?)?;
        e.put(&Instruction::with(Code::Sahf))?;
        e.mov(Register::RAX, S2)?;
        Ok(())
    }

    /// LEA: the segment does not count.
    fn load_address(&mut self, insn: &Instruction) -> Result<(), Unsupported> {
        let mut flat = *insn;
        flat.set_segment_prefix(Register::None);
        let to = insn.op0_register();
        self.address(&flat)?;
        let (n, size) = (number(to), to.size());
        match host(n) {
            Some(h) => {
                let code = match size {
                    2 => Code::Mov_r16_rm16,
                    4 => Code::Mov_r32_rm32,
                    _ => Code::Mov_r64_rm64,
                };
                self.emit.put(&Instruction::with2(code, sized(h, size), sized(11, size))?)?;
            }
            None => {
                match size {
                    2 => {
                        self.emit.put(&Instruction::with2(Code::Mov_rm16_r16, field(8 * n as i64), Register::R11W)?)?;
                        return Ok(());
                    }
                    4 => self.emit.put(&Instruction::with2(Code::Mov_r32_rm32, Register::R11D, Register::R11D)?)?,
                    _ => {}
                }
                self.emit.store(field(8 * n as i64), S2)?;
            }
        }
        Ok(())
    }

    /// Stores 8 bytes below the stack pointer: `value` is put into RCX once the address is known.
    fn push_value(&mut self, index: u8, value: impl FnOnce(&mut Self) -> Result<Register, Unsupported>) -> Result<(), Unsupported> {
        let sp = sized(15, 8);
        self.emit.lea(S2, at(sp, -8))?;
        self.reach_flat(Kind::Write, 8, index)?;
        let from = value(self)?;
        self.emit.store(at(S2, 0), from)?;
        self.emit.lea(sp, at(sp, -8))?;
        Ok(())
    }

    fn push(&mut self, insn: &Instruction, index: u8) -> Result<(), Unsupported> {
        match insn.code() {
            Code::Push_r64 => {
                let n = number(insn.op0_register());
                self.push_value(index, |b| b.value(n, S1))
            }
            Code::Pushq_imm8 | Code::Pushq_imm32 => {
                let value = insn.immediate(0);
                self.push_value(index, |b| {
                    b.emit.constant(S1, value)?;
                    Ok(S1)
                })
            }
            Code::Push_rm64 if insn.op0_kind() == OpKind::Memory => {
                self.address(insn)?;
                self.reach(Kind::Read, 8, false, index)?;
                self.emit.load(S1, at_index(S2, S1, 1, 0))?;
                self.emit.store(field(frame::VALUE), S1)?;
                self.push_value(index, |b| {
                    b.emit.load(S1, field(frame::VALUE))?;
                    Ok(S1)
                })
            }
            _ => Err(Unsupported),
        }
    }

    fn pop(&mut self, insn: &Instruction, index: u8) -> Result<(), Unsupported> {
        if insn.code() != Code::Pop_r64 {
            return Err(Unsupported);
        }
        let sp = sized(15, 8);
        self.emit.mov(S2, sp)?;
        self.reach(Kind::Read, 8, false, index)?;
        let n = number(insn.op0_register());
        match host(n) {
            Some(15) => self.emit.load(sp, at_index(S2, S1, 1, 0))?,
            Some(h) => {
                self.emit.load(sized(h, 8), at_index(S2, S1, 1, 0))?;
                self.emit.lea(sp, at(sp, 8))?;
            }
            None => {
                self.emit.load(S1, at_index(S2, S1, 1, 0))?;
                self.emit.store(field(8 * n as i64), S1)?;
                self.emit.lea(sp, at(sp, 8))?;
            }
        }
        Ok(())
    }

    fn leave_frame(&mut self, index: u8) -> Result<(), Unsupported> {
        self.emit.mov(S2, Register::RBP)?;
        self.reach(Kind::Read, 8, false, index)?;
        self.emit.lea(sized(15, 8), at(Register::RBP, 8))?;
        self.emit.load(Register::RBP, at_index(S2, S1, 1, 0))?;
        Ok(())
    }

    fn call(&mut self, insn: &Instruction, index: u8) -> Result<(), Unsupported> {
        let next = insn.next_ip();
        if insn.op0_kind() == OpKind::NearBranch64 {
            self.push_value(index, |b| {
                b.emit.constant(S1, next)?;
                Ok(S1)
            })?;
            self.targets = [next, insn.near_branch_target()];
            let taken = self.emit.jmp();
            self.to_way[1].push(taken);
            return Ok(());
        }
        if insn.code() != Code::Call_rm64 {
            return Err(Unsupported);
        }
        self.indirect(insn, index)?;
        self.emit.store(field(frame::TARGET), S2)?;
        self.push_value(index, |b| {
            b.emit.constant(S1, next)?;
            Ok(S1)
        })?;
        self.put_jump(field(frame::TARGET))
    }

    /// The host address of an indirect branch's target into R11.
    fn indirect(&mut self, insn: &Instruction, index: u8) -> Result<(), Unsupported> {
        if insn.op0_kind() == OpKind::Memory {
            self.address(insn)?;
            self.reach(Kind::Read, 8, false, index)?;
            self.emit.load(S2, at_index(S2, S1, 1, 0))?;
        } else {
            let from = self.value(number(insn.op0_register()), S2)?;
            if from != S2 {
                self.emit.mov(S2, from)?;
            }
        }
        let miss = self.emit.look_up()?;
        self.leave(miss, index);
        Ok(())
    }

    fn put_jump(&mut self, to: MemoryOperand) -> Result<(), Unsupported> {
        self.going()?;
        self.emit.put(&Instruction::with1(Code::Jmp_rm64, to)?)?;
        Ok(())
    }

    fn jump(&mut self, insn: &Instruction, index: u8) -> Result<(), Unsupported> {
        if insn.op0_kind() == OpKind::NearBranch64 {
            self.targets = [insn.next_ip(), insn.near_branch_target()];
            let taken = self.emit.jmp();
            self.to_way[1].push(taken);
            return Ok(());
        }
        if insn.code() != Code::Jmp_rm64 {
            return Err(Unsupported);
        }
        self.indirect(insn, index)?;
        self.going()?;
        self.emit.put(&Instruction::with1(Code::Jmp_rm64, S2)?)?;
        Ok(())
    }

    fn ret(&mut self, insn: &Instruction, index: u8) -> Result<(), Unsupported> {
        if !matches!(insn.code(), Code::Retnq | Code::Retnq_imm16) {
            return Err(Unsupported);
        }
        let more = if insn.op_count() > 0 { insn.immediate(0) as i64 } else { 0 };
        let sp = sized(15, 8);
        self.emit.mov(S2, sp)?;
        self.reach(Kind::Read, 8, false, index)?;
        self.emit.load(S2, at_index(S2, S1, 1, 0))?;
        let miss = self.emit.look_up()?;
        self.leave(miss, index);
        self.emit.lea(sp, at(sp, 8 + more))?;
        self.going()?;
        self.emit.put(&Instruction::with1(Code::Jmp_rm64, S2)?)?;
        Ok(())
    }

    /// Ways out, cold stubs, and the resolution of jumps.
    fn finish(mut self, last: &Instruction, offsets: Vec<u8>) -> Result<Body, Unsupported> {
        self.ticks = (offsets.len() - 1) as u8;
        let mut exits = std::mem::take(&mut self.exits);
        let ends = last.is_jcc_short_or_near() || matches!(last.mnemonic(), M::Jmp | M::Call | M::Ret);
        if !ends {
            self.targets[0] = last.next_ip();
            let fall = self.emit.jmp();
            self.to_way[0].push(fall);
        }
        let mut resolved: Vec<(Later, usize)> = Vec::new();
        let mut ways = [None; 2];
        for (way, link) in ways.iter_mut().enumerate() {
            let sources = std::mem::take(&mut self.to_way[way]);
            if sources.is_empty() {
                continue;
            }
            let near = self.targets[way] >> 12 == self.rip >> 12;
            let stub = self.emit.position();
            if !near {
                // The unit there looks whether the page is still what it was; one jump is patched for all that come here.
                self.going()?;
                let on = self.emit.jmp();
                *link = Some(on.field());
                resolved.push((on, self.emit.position()));
            }
            let code = self.code(WAY + way as u32);
            self.emit.constant(S1, u64::from(code))?;
            exits.push(self.emit.jmp());
            for source in sources {
                if near {
                    *link = Some(source.field());
                }
                resolved.push((source, stub));
            }
        }
        let leaves = std::mem::take(&mut self.leaves);
        let mut last_stub: Option<(u8, usize)> = None;
        for Leave { from, instruction } in leaves {
            let stub = match last_stub {
                Some((same, stub)) if same == instruction => stub,
                _ => {
                    let stub = self.emit.position();
                    let back = i64::from(self.ticks) - i64::from(instruction);
                    if back != 0 {
                        self.emit.lea(BUDGET, at(BUDGET, -back))?;
                    }
                    let code = self.code(u32::from(instruction));
                    self.emit.constant(S1, u64::from(code))?;
                    exits.push(self.emit.jmp());
                    stub
                }
            };
            last_stub = Some((instruction, stub));
            resolved.push((from, stub));
        }
        let mut code = self.emit.take();
        let (dead, entry) = (self.dead, self.entry);
        code[dead - 1] = self.ticks.wrapping_neg();
        code[entry + LEA_BYTES - 1] = self.ticks;
        for (later, target) in &resolved {
            resolve(&mut code, later, *target as i64);
        }
        Ok(Body { code, entry, dead, ticks: self.ticks, offsets, ways, targets: self.targets, exits, loads: self.loads })
    }
}
