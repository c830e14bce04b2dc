//! VEX-encoded instructions: which opcodes, their operands, and what the upper halves start with.
//!
//! The host is the only judge (unicorn has no AVX), and the engine is the v3 model with XCR0 open. Legacy SSE instructions are mixed in: they leave upper
//! halves alone. Not compared: VRCPxS and VRSQRTxS, whose last bits are each vendor's own (SDM vol. 2, RCPPS: relative error at most 1.5 * 2^-12). No
//! other difference is known.
//!
//! Two things the manuals leave open are as an AMD processor has them: of a gather that faults, masks of elements passed over are cleared like
//! those of elements loaded (SDM vol. 2, VPGATHERDD, lets either be), and of the elements above the faulting one none is loaded.

use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, OpCodeOperandKind as K, OpKind, Register};

use crate::case::{Start, is_vendor_specific};
use crate::generate::{general, memory_operand, xmm_value};
use crate::rng::Rng;

/// What the v3 model offers in this encoding; the second half never alone.
const FEATURES: &[CpuidFeature] = &[
    CpuidFeature::AVX, CpuidFeature::AVX2, CpuidFeature::FMA, CpuidFeature::F16C, CpuidFeature::BMI1, CpuidFeature::BMI2, CpuidFeature::AES,
    CpuidFeature::PCLMULQDQ,
];

/// Whether an opcode is one of these, and not of BMI.
pub fn is_simd(code: Code) -> bool {
    code.op_code().encoding() == EncodingKind::VEX && !code.cpuid_features().iter().any(|feature| matches!(feature, CpuidFeature::BMI1 | CpuidFeature::BMI2))
}

/// Whether this process may judge them.
pub fn host_has() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    #[cfg(not(target_arch = "x86_64"))]
    let has = false;
    has
}

/// Every VEX-encoded opcode of x86-64-v3, and the SSE ones, which must leave upper halves alone; none if the host has not all of it.
pub fn codes() -> Vec<Code> {
    if !host_has() {
        return Vec::new();
    }
    let legacy = crate::generate::HOST_CODES.iter().copied().filter(|code| {
        use CpuidFeature::{SSE, SSE2, SSE3, SSE4_1, SSSE3};
        code.cpuid_features().iter().any(|feature| matches!(*feature, SSE | SSE2 | SSE3 | SSSE3 | SSE4_1))
    });
    Code::values()
        .filter(|code| {
            let info = code.op_code();
            info.encoding() == EncodingKind::VEX
                && info.mode64()
                && info.is_instruction()
                && code.cpuid_features().iter().all(|feature| FEATURES.contains(feature))
                && !is_vendor_specific(*code)
        })
        .chain(legacy)
        .collect()
}

/// Draws operand `n` if it is of a kind that only these instructions have.
pub(crate) fn operand(rng: &mut Rng, insn: &mut Instruction, n: u32, kind: K) -> bool {
    let first = match kind {
        K::ymm_or_mem if rng.one_in(2) => {
            memory_operand(rng, insn, n);
            return true;
        }
        K::xmm_vvvv | K::xmm_is4 => Register::XMM0,
        K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => Register::YMM0,
        K::mem_vsib32x | K::mem_vsib64x => return vsib(rng, insn, n, Register::XMM0),
        K::mem_vsib32y | K::mem_vsib64y => return vsib(rng, insn, n, Register::YMM0),
        _ => return false,
    };
    let Ok(register) = Register::try_from(first as usize + rng.below(16) as usize) else { return false };
    insn.set_op_kind(n, OpKind::Register);
    insn.set_op_register(n, register);
    true
}

fn vsib(rng: &mut Rng, insn: &mut Instruction, n: u32, first: Register) -> bool {
    let Ok(index) = Register::try_from(first as usize + rng.below(16) as usize) else { return false };
    insn.set_op_kind(n, OpKind::Memory);
    let base = if rng.one_in(8) { general(rng, Register::EAX) } else { general(rng, Register::RAX) };
    insn.set_memory_base(base);
    insn.set_memory_index(index);
    insn.set_memory_index_scale(1 << rng.below(4));
    if rng.one_in(2) {
        insn.set_memory_displ_size(1);
        insn.set_memory_displacement64(rng.below(0x80));
    }
    true
}

/// Upper halves, and index registers of gathers that mostly stay in the arena.
pub(crate) fn start(rng: &mut Rng, insns: &[Instruction], start: &mut Start) {
    if host_has() && !rng.one_in(4) {
        start.upper = std::array::from_fn(|_| xmm_value(rng));
    }
    for insn in insns.iter().filter(|insn| insn.is_vsib()) {
        if rng.one_in(6) {
            continue;
        }
        let width = if insn.is_vsib64() { 64 } else { 32 };
        let spread = rng.pick(&[16, 64, 256, 1024]);
        let mut indices = || (0..128 / width).fold(0, |acc, i| acc | u128::from((rng.below(spread) as i64 - spread as i64 / 4) as u64 & u64::MAX >> (64 - width)) << (width * i));
        let register = insn.memory_index().number();
        start.xmm[register] = indices();
        start.upper[register] = indices();
    }
}
