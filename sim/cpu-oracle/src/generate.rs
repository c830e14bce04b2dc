//! Random cases.
//!
//! Instructions are not written down here: every opcode `iced-x86` knows in 64-bit mode, of an extension the engine implements, is drawn with
//! random operands from its operand table. What cannot be run is excluded by name, with the reason.

use std::sync::LazyLock;

use iced_x86::{Code, CodeSize, CpuidFeature, EncodingKind, Instruction, Mnemonic as M, OpCodeOperandKind as K, OpKind, Register, RflagsBits};
use sim_fp::x87::X87;

use crate::case::{Case, Ring, Start, is_direct_branch, is_vendor_specific};
use crate::layout::{CODE, DATA, STACK};
use crate::rng::Rng;

const FEATURES: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086, CpuidFeature::INTEL186, CpuidFeature::INTEL286, CpuidFeature::INTEL386, CpuidFeature::INTEL486,
    CpuidFeature::X64, CpuidFeature::CMOV, CpuidFeature::CMPXCHG16B, CpuidFeature::CX8, CpuidFeature::FPU, CpuidFeature::FPU287,
    CpuidFeature::FPU387, CpuidFeature::MMX, CpuidFeature::SSE, CpuidFeature::SSE2, CpuidFeature::SSE3, CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1, CpuidFeature::SSE4_2, CpuidFeature::POPCNT, CpuidFeature::MSR, CpuidFeature::MULTIBYTENOP, CpuidFeature::PAUSE,
];

/// Extensions that are compared only when the engine offers them.
const OPTIONAL: &[CpuidFeature] = &[CpuidFeature::AES, CpuidFeature::PCLMULQDQ, CpuidFeature::LZCNT, CpuidFeature::BMI1, CpuidFeature::BMI2, CpuidFeature::ADX, CpuidFeature::MOVBE];

fn excluded(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        // System calls and far transfers would leave the arena.
        M::Syscall | M::Sysenter | M::Sysexit | M::Sysret | M::Sysexitq | M::Sysretq | M::Int | M::Int1 | M::Iret | M::Iretd | M::Iretq | M::Retf
        // Templates load flags that mean something (`privileged`); random ones would mostly end a case at once.
        | M::Popf | M::Popfd | M::Popfq
        // Not a function of the state.
        | M::Rdtsc | M::Rdpmc | M::Cpuid | M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw | M::Lar | M::Lsl | M::Verr | M::Verw
        // Segment bases and selectors of the host process; templates load them for unicorn.
        | M::Lfs | M::Lgs | M::Lss | M::Lds | M::Les | M::Loadall
        // Timing only, or privileged with effects unicorn cannot take back (privileged instructions have their own test).
        | M::Wbinvd | M::Invd
        // Their images hold instruction pointers, which AMD and Intel keep differently: templates, which clear those.
        | M::Fnstenv | M::Fnsave | M::Fldenv | M::Frstor | M::Fxsave | M::Fxrstor | M::Fxsave64 | M::Fxrstor64
        // Undefined by name; vendors differ in which of the reserved NOPs they know.
        | M::Ud0 | M::Ud1 | M::Reservednop | M::Prefetchw | M::Prefetch
    )
}

/// Far transfers read the host's descriptor tables; near branches with a 16-bit operand are 64-bit ones for Intel and 16-bit ones for AMD.
fn strange_branch(code: Code) -> bool {
    let mut insn = Instruction::new();
    insn.set_code(code);
    insn.is_jmp_far()
        || insn.is_jmp_far_indirect()
        || insn.is_call_far()
        || insn.is_call_far_indirect()
        || matches!(code, Code::Call_rm16 | Code::Jmp_rm16 | Code::Retnw | Code::Retnw_imm16)
        // Two bytes of memory for Intel, four for AMD.
        || code == Code::Movsxd_r16_rm16
}

fn privileged(code: Code) -> bool {
    let mut insn = Instruction::new();
    insn.set_code(code);
    insn.is_privileged()
}

/// Every opcode of [`FEATURES`] that runs at any privilege.
pub static CODES: LazyLock<Vec<Code>> = LazyLock::new(|| codes(&[], false));

/// What the host's processor judges, which has all the extensions and knows what user code may not do.
pub static HOST_CODES: LazyLock<Vec<Code>> = LazyLock::new(|| codes(OPTIONAL, true));

/// Privileged instructions that end in #GP in user mode whatever the host kernel has set up.
fn refused_to_users(code: Code) -> bool {
    matches!(
        code.mnemonic(),
        M::Hlt | M::Clts | M::Lgdt | M::Lidt | M::Lldt | M::Ltr | M::Lmsw | M::Invlpg | M::Rdmsr | M::Wrmsr | M::Swapgs | M::Wbinvd | M::Invd | M::In | M::Out | M::Cli | M::Sti
    ) || (code.mnemonic() == M::Mov && code.op_code().op_kinds().contains(&K::cr_reg))
        || (code.mnemonic() == M::Mov && code.op_code().op_kinds().contains(&K::dr_reg))
}

/// Opcodes of [`FEATURES`] and of the optional `extra` ones; `user`: with what users are refused.
pub fn codes(extra: &[CpuidFeature], user: bool) -> Vec<Code> {
    Code::values()
        .filter(|code| {
            let info = code.op_code();
            let mut insn = Instruction::new();
            insn.set_code(*code);
            let known = code.cpuid_features().iter().all(|feature| FEATURES.contains(feature) || (OPTIONAL.contains(feature) && extra.contains(feature)));
            info.is_instruction()
                && info.mode64()
                && (info.encoding() == EncodingKind::Legacy || (info.encoding() == EncodingKind::VEX && code.cpuid_features().iter().all(|feature| OPTIONAL.contains(feature))))
                && known
                && !code.cpuid_features().is_empty()
                && (!excluded(code.mnemonic()) || (user && refused_to_users(*code)))
                && !is_vendor_specific(*code)
                && (!privileged(*code) || (user && refused_to_users(*code)))
                && !strange_branch(*code)
                && !info.fwait()
                && info.op_kinds().iter().all(|kind| supported(*kind) || (user && matches!(kind, K::cr_reg | K::dr_reg)))
        })
        .collect()
}

fn supported(kind: K) -> bool {
    !matches!(
        kind,
        K::farbr2_2 | K::farbr4_2 | K::seg_reg | K::cr_reg | K::dr_reg | K::tr_reg | K::br16_1 | K::br16_2 | K::br32_1 | K::br32_4 | K::xbegin_2
            | K::xbegin_4 | K::brdisp_2 | K::brdisp_4 | K::es | K::cs | K::ss | K::ds | K::fs | K::gs
    )
}

const R8: &[Register] = &[
    Register::AL, Register::CL, Register::DL, Register::BL, Register::AH, Register::CH, Register::DH, Register::BH, Register::SPL, Register::BPL,
    Register::SIL, Register::DIL, Register::R8L, Register::R9L, Register::R10L, Register::R11L, Register::R12L, Register::R13L, Register::R14L,
    Register::R15L,
];

/// General registers with few clashes on RSP, so that the stack mostly stays a stack.
pub(crate) fn general(rng: &mut Rng, first: Register) -> Register {
    let n = rng.below(16) as u32;
    let n = if n == 4 && !rng.one_in(8) { 3 } else { n };
    Register::try_from(first as usize + n as usize).expect("sixteen registers follow the first")
}

pub(crate) fn memory_operand(rng: &mut Rng, insn: &mut Instruction, operand: u32) {
    insn.set_op_kind(operand, OpKind::Memory);
    // XLAT-free, VSIB-free: the plain ModRM forms.
    match rng.below(12) {
        0 => {
            insn.set_memory_base(Register::RIP);
            insn.set_memory_displ_size(8);
            insn.set_memory_displacement64(DATA + rng.below(0x3010));
            return;
        }
        1 => {
            insn.set_memory_base(Register::None);
            insn.set_memory_displ_size(8);
            insn.set_memory_displacement64(DATA + boundary(rng));
            return;
        }
        2 => {
            insn.set_memory_base(general(rng, Register::EAX));
        }
        _ => insn.set_memory_base(general(rng, Register::RAX)),
    }
    if rng.one_in(3) {
        let base = insn.memory_base();
        let first = if base.is_gpr32() { Register::EAX } else { Register::RAX };
        let index = general(rng, first);
        if !matches!(index, Register::RSP | Register::ESP) {
            insn.set_memory_index(index);
            insn.set_memory_index_scale(1 << rng.below(4));
        }
    }
    match rng.below(4) {
        0 => {}
        1 => {
            insn.set_memory_displ_size(1);
            insn.set_memory_displacement64(rng.draw() as i8 as i64 as u64 & if insn.memory_base().is_gpr32() { 0xffff_ffff } else { u64::MAX });
        }
        _ => {
            insn.set_memory_displ_size(8);
            let displacement = rng.below(0x1000) as i64 - 0x800;
            insn.set_memory_displacement64(displacement as u64 & if insn.memory_base().is_gpr32() { 0xffff_ffff } else { u64::MAX });
        }
    }
}

/// An offset in the arena, often near a page's end.
fn boundary(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0..=3 => rng.below(0x1ff0),
        4 => 0x1000 - rng.below(17),
        5 => 0x2000 - rng.below(17),
        6 => 0x3000 - rng.below(17),
        _ => rng.below(0x3000) & !15,
    }
}

fn immediate(rng: &mut Rng) -> u64 {
    match rng.below(6) {
        0 => rng.draw(),
        1 => rng.below(64),
        2 => rng.pick(&[0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX]),
        3 => rng.draw() & 0xff,
        4 => 1 << rng.below(64),
        _ => rng.draw() as i32 as i64 as u64,
    }
}

/// One instruction of `code` with random operands; `index` and `count` place it for branches.
pub fn instruction(rng: &mut Rng, code: Code, index: u64, count: u64) -> Option<Instruction> {
    let mut insn = Instruction::new();
    insn.set_code(code);
    insn.set_code_size(CodeSize::Code64);
    let kinds = code.op_code().op_kinds();
    for (n, kind) in kinds.iter().enumerate() {
        let n = n as u32;
        let register = |insn: &mut Instruction, register: Register| {
            insn.set_op_kind(n, OpKind::Register);
            insn.set_op_register(n, register);
        };
        let to_memory = rng.one_in(2);
        match kind {
            K::mem | K::mem_mib | K::sibmem => memory_operand(rng, &mut insn, n),
            K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::mm_or_mem | K::xmm_or_mem if to_memory => memory_operand(rng, &mut insn, n),
            K::mem_offs => {
                insn.set_op_kind(n, OpKind::Memory);
                insn.set_memory_displ_size(8);
                insn.set_memory_displacement64(DATA + boundary(rng));
            }
            K::r8_or_mem | K::r8_reg | K::r8_opcode => register(&mut insn, rng.pick(R8)),
            K::r16_or_mem | K::r16_reg | K::r16_rm | K::r16_opcode | K::r16_reg_mem => {
                let r = general(rng, Register::AX);
                register(&mut insn, r);
            }
            K::r32_or_mem | K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_reg_mem | K::r32_vvvv => {
                let r = general(rng, Register::EAX);
                register(&mut insn, r);
            }
            K::r64_or_mem | K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_reg_mem | K::r64_vvvv => {
                let r = general(rng, Register::RAX);
                register(&mut insn, r);
            }
            K::mm_or_mem | K::mm_reg | K::mm_rm => {
                let r = Register::try_from(Register::MM0 as usize + rng.below(8) as usize).ok()?;
                register(&mut insn, r);
            }
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm => {
                let r = Register::try_from(Register::XMM0 as usize + rng.below(16) as usize).ok()?;
                register(&mut insn, r);
            }
            K::cr_reg => register(&mut insn, rng.pick(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4, Register::CR8])),
            K::dr_reg => register(&mut insn, rng.pick(&[Register::DR0, Register::DR1, Register::DR2, Register::DR3, Register::DR6, Register::DR7])),
            K::al => register(&mut insn, Register::AL),
            K::cl => register(&mut insn, Register::CL),
            K::ax => register(&mut insn, Register::AX),
            K::dx => register(&mut insn, Register::DX),
            K::eax => register(&mut insn, Register::EAX),
            K::rax => register(&mut insn, Register::RAX),
            K::st0 => register(&mut insn, Register::ST0),
            K::sti_opcode => {
                let r = Register::try_from(Register::ST0 as usize + rng.below(8) as usize).ok()?;
                register(&mut insn, r);
            }
            K::imm8 => {
                insn.set_op_kind(n, if n > 0 && insn.op_kind(n - 1) == OpKind::Immediate16 { OpKind::Immediate8_2nd } else { OpKind::Immediate8 });
                let value = immediate(rng) as u8;
                if insn.op_kind(n) == OpKind::Immediate8_2nd {
                    // ENTER's nesting level: a few.
                    insn.set_immediate8_2nd(value & 3);
                } else {
                    insn.set_immediate8(value);
                }
            }
            K::imm8_const_1 => {
                insn.set_op_kind(n, OpKind::Immediate8);
                insn.set_immediate8(1);
            }
            K::imm8sex16 => {
                insn.set_op_kind(n, OpKind::Immediate8to16);
                insn.set_immediate8to16(i16::from(immediate(rng) as i8));
            }
            K::imm8sex32 => {
                insn.set_op_kind(n, OpKind::Immediate8to32);
                insn.set_immediate8to32(i32::from(immediate(rng) as i8));
            }
            K::imm8sex64 => {
                insn.set_op_kind(n, OpKind::Immediate8to64);
                insn.set_immediate8to64(i64::from(immediate(rng) as i8));
            }
            K::imm16 => {
                insn.set_op_kind(n, OpKind::Immediate16);
                let value = immediate(rng) as u16;
                // RET n and ENTER n move RSP: keep it near.
                let stack = matches!(code.mnemonic(), M::Ret | M::Enter);
                insn.set_immediate16(if stack { value & 0xff } else { value });
            }
            K::imm32 => {
                insn.set_op_kind(n, OpKind::Immediate32);
                insn.set_immediate32(immediate(rng) as u32);
            }
            K::imm32sex64 => {
                insn.set_op_kind(n, OpKind::Immediate32to64);
                insn.set_immediate32to64(i64::from(immediate(rng) as i32));
            }
            K::imm64 => {
                insn.set_op_kind(n, OpKind::Immediate64);
                insn.set_immediate64(immediate(rng));
            }
            K::seg_rSI => insn.set_op_kind(n, if rng.one_in(8) { OpKind::MemorySegESI } else { OpKind::MemorySegRSI }),
            K::es_rDI => {
                let narrow = n > 0 && insn.op_kind(0) == OpKind::MemorySegESI;
                insn.set_op_kind(n, if narrow { OpKind::MemoryESEDI } else { OpKind::MemoryESRDI });
            }
            K::seg_rDI => insn.set_op_kind(n, OpKind::MemorySegRDI),
            K::seg_rBX_al => {
                insn.set_op_kind(n, OpKind::Memory);
                insn.set_memory_base(Register::RBX);
                insn.set_memory_index(Register::AL);
            }
            K::br64_1 | K::br64_4 => {
                insn.set_op_kind(n, OpKind::NearBranch64);
                insn.set_near_branch64(index + 1 + rng.below(count - index));
            }
            _ => {
                if !crate::vex::operand(rng, &mut insn, n, *kind) {
                    return None;
                }
            }
        }
    }
    // Both string operands take one address size.
    if kinds.len() == 2 && insn.op_kind(1) == OpKind::MemorySegESI && insn.op_kind(0) == OpKind::MemoryESRDI {
        insn.set_op_kind(1, OpKind::MemorySegRSI);
    }
    let info = code.op_code();
    if info.can_use_lock_prefix() && insn.op_kind(0) == OpKind::Memory && rng.one_in(3) {
        insn.set_has_lock_prefix(true);
    }
    let repeatable = insn.is_string_instruction() && !matches!(code.mnemonic(), M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd);
    if repeatable && rng.one_in(2) {
        if rng.one_in(3) && info.can_use_repne_prefix() {
            insn.set_has_repne_prefix(true);
        } else {
            insn.set_has_rep_prefix(true);
        }
    }
    // A 16-bit double shift by more than 16 has no defined result.
    if matches!(code, Code::Shld_rm16_r16_CL | Code::Shrd_rm16_r16_CL) {
        return None;
    }
    if matches!(code, Code::Shld_rm16_r16_imm8 | Code::Shrd_rm16_r16_imm8) {
        insn.set_immediate8(insn.immediate8() & 15);
    }
    Some(insn)
}

fn gpr_value(rng: &mut Rng) -> u64 {
    match rng.below(16) {
        0..=7 => DATA + boundary(rng),
        8 => rng.below(48),
        9 => rng.pick(&[0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, 0x8000_0000, 0x7fff_ffff, 0xffff_ffff, 0x0000_8000_0000_0000, 0xffff_7fff_ffff_ffff]),
        10 => rng.draw() | 0x8000_0000_0000_0000,
        11 => rng.draw() & 0xffff_ffff,
        12 => rng.draw() & 0xffff,
        13 => STACK + (rng.below(0x1000) & !7),
        _ => rng.draw(),
    }
}

fn float_32(rng: &mut Rng) -> u32 {
    let sign = (rng.draw() as u32) & 1 << 31;
    sign | match rng.below(8) {
        0 => rng.pick(&[0, 1, 0x7f_ffff, 0x80_0000, 0x7f80_0000, 0x7fc0_0000, 0x7fa0_0001, 0x3f80_0000, 0x7f7f_ffff, 0x4f00_0000]),
        1 => rng.draw() as u32 & 0x7f_ffff,
        2 => rng.draw() as u32 & 0x7fff_ffff,
        _ => (119 + rng.below(18) as u32) << 23 | rng.draw() as u32 & 0x7f_ffff,
    }
}

fn float_64(rng: &mut Rng) -> u64 {
    let sign = rng.draw() & 1 << 63;
    sign | match rng.below(8) {
        0 => rng.pick(&[0, 1, 0xf_ffff_ffff_ffff, 0x10_0000_0000_0000, 0x7ff0 << 48, 0x7ff8 << 48, 0x7ff4_0000_0000_0001, 0x3ff0 << 48, 0x7fef_ffff_ffff_ffff, 0x43e0 << 48]),
        1 => rng.draw() & 0xf_ffff_ffff_ffff,
        2 => rng.draw() & !(1 << 63),
        _ => (1013 + rng.below(22)) << 52 | rng.draw() >> 12,
    }
}

pub(crate) fn xmm_value(rng: &mut Rng) -> u128 {
    match rng.below(4) {
        0 => u128::from(rng.draw()) << 64 | u128::from(rng.draw()),
        1 => (0..4).fold(0, |acc, i| acc | u128::from(float_32(rng)) << (32 * i)),
        2 => u128::from(float_64(rng)) << 64 | u128::from(float_64(rng)),
        _ => (u128::from(rng.draw()) << 64 | u128::from(rng.draw())) & 0x00ff_7f80_ffff_0001_0100_8000_7fff_ff00_u128.rotate_left(rng.below(128) as u32),
    }
}

fn x87_value(rng: &mut Rng) -> u128 {
    let sign = u128::from(rng.draw() & 1) << 79;
    let sig = rng.draw() | 1 << 63;
    sign | match rng.below(10) {
        0 => rng.pick(&[0, 1, 1 << 63, 0x7fff << 64 | 1 << 63, 0x7fff << 64 | 3 << 62, 0x7fff << 64 | 5 << 61, 0x3fff << 64 | 1 << 63, 1 << 64]),
        1 => u128::from(rng.draw()),
        2 => u128::from(rng.draw() & 0x7fff) << 64 | u128::from(sig),
        3 => u128::from(16383 + rng.below(64)) << 64 | u128::from(sig & !((1 << rng.below(63)) - 1)),
        _ => u128::from(16370 + rng.below(30)) << 64 | u128::from(sig),
    }
}

fn start(rng: &mut Rng) -> Start {
    let mut gpr: [u64; 16] = std::array::from_fn(|_| gpr_value(rng));
    gpr[4] = if rng.one_in(16) { STACK + rng.below(0x1000) } else { STACK + 0x400 + (rng.below(0x800) & !7) };
    // REP counts are mostly small.
    if !rng.one_in(6) {
        gpr[1] = rng.below(40);
    }
    let xmm: [u128; 16] = std::array::from_fn(|_| xmm_value(rng));
    let masks = if rng.one_in(4) { rng.draw() as u32 & 0x1f80 } else { 0x1f80 };
    let mxcsr = masks | if rng.one_in(2) { rng.draw() as u32 & 0xe07f } else { 0 };
    let mut x87 = X87 { control: 0x37f, ..X87::default() };
    for n in 0..8 {
        x87.regs[n] = x87_value(rng);
    }
    x87.in_use = if rng.one_in(2) { rng.draw() as u8 } else { 0x3c };
    x87.status = (rng.draw() as u16) & 0x7f00;
    if rng.one_in(2) {
        let precision = rng.pick(&[0, 2, 3]);
        x87.control = 0x40 | rng.draw() as u16 & 0xc00 | precision << 8 | if rng.one_in(3) { rng.draw() as u16 & 0x3f } else { 0x3f };
    }
    Start { gpr, rflags: 0x202 | rng.draw() & 0xcd5, xmm, upper: [0; 16], mxcsr, x87 }
}

/// The case of a seed.
pub fn case(seed: u64, ring: Ring, codes: &[Code]) -> Case {
    let mut rng = Rng::new(seed);
    let count = 1 + rng.below(7);
    let mut insns: Vec<Instruction> = Vec::new();
    let mut undefined = 0;
    let mut draws = 0;
    // A fixed bound on draws: a few opcodes cannot be encoded with some operands.
    while (insns.len() as u64) < count && draws < 200 {
        draws += 1;
        let code = rng.pick(codes);
        let Some(insn) = instruction(&mut rng, code, insns.len() as u64, count) else { continue };
        if insn.rflags_read() & undefined != 0 {
            continue;
        }
        let ip = CODE;
        let mut probe = insn;
        if is_direct_branch(&probe) {
            probe.set_near_branch64(ip + 2);
        }
        if iced_x86::Encoder::new(64).encode(&probe, ip).is_err() {
            continue;
        }
        undefined |= may_leave_undefined(&insn);
        insns.push(insn);
    }
    // A branch may have been drawn for a longer list.
    let end = insns.len() as u64;
    for insn in &mut insns {
        if is_direct_branch(insn) && insn.near_branch64() > end {
            insn.set_near_branch64(end);
        }
    }
    let mut start = start(&mut rng);
    // Mostly inside the first page, at times across its end.
    let origin = if rng.one_in(8) { CODE + 0x1000 - 1 - rng.below(24) } else { CODE + 0x800 + rng.below(16) };
    let memory_seed = rng.draw();
    crate::vex::start(&mut rng, &insns, &mut start);
    Case { seed, ring, insns, start, origin, memory_seed, setting: crate::setting::Setting::default() }
}

/// Flags an instruction may leave undefined.
pub fn may_leave_undefined(insn: &Instruction) -> u32 {
    let mut flags = insn.rflags_undefined();
    match insn.mnemonic() {
        // OF after a shift by anything but one is undefined, and AF always; by CL or an immediate the table cannot know the count.
        M::Shl | M::Shr | M::Sar | M::Shld | M::Shrd | M::Sal => flags |= RflagsBits::OF | RflagsBits::AF | RflagsBits::CF,
        M::Rol | M::Ror | M::Rcl | M::Rcr => flags |= RflagsBits::OF,
        _ => {}
    }
    if matches!(insn.mnemonic(), M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shl | M::Shr | M::Sar | M::Sal) && insn.op_count() == 2 && insn.op_kind(1) == OpKind::Immediate8 {
        let width = match insn.op_kind(0) {
            OpKind::Register => insn.op_register(0).size() as u32 * 8,
            _ => insn.memory_size().size() as u32 * 8,
        };
        let count = u32::from(insn.immediate8()) & if width == 64 { 63 } else { 31 };
        // Inside the width the carry is defined; by one also the overflow.
        if count < width {
            flags &= !RflagsBits::CF;
        }
        if count == 1 {
            flags &= !RflagsBits::OF;
        }
        if count == 0 {
            flags = 0;
        }
    }
    flags
}

/// RFLAGS bits of the undefined set (iced numbers them in its own way).
pub fn rflags_mask(flags: u32) -> u64 {
    [
        (RflagsBits::OF, 1 << 11),
        (RflagsBits::SF, 1 << 7),
        (RflagsBits::ZF, 1 << 6),
        (RflagsBits::AF, 1 << 4),
        (RflagsBits::CF, 1),
        (RflagsBits::PF, 1 << 2),
    ]
    .iter()
    .filter(|(bit, _)| flags & bit != 0)
    .fold(0, |acc, (_, mask)| acc | mask)
}
