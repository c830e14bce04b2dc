//! The table of VEX-encoded SIMD instructions that compute: AVX, AVX2, FMA, F16C, one row each.
//!
//! # Theory
//! Most of them are an SSE instruction with a destination of its own, done on each 128-bit half: their rows name the SSE function. Where
//! halves meet, the function is in [`crate::avx`]. [`Row::run`] computes on both halves at once, so that an unmasked exception in either leaves
//! both as they were.
//!
//! Moves, masked moves, gathers and string comparisons are the engine's.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::avx::{self, Sign, Wide, cvtph2ps, cvtps2ph};
use crate::float::{self, SimdFault};
use crate::soft::{DE, IE, ZE};
use crate::sse::{FloatFn, IntFn};
use crate::{crypto, int};

/// Which operands a fused instruction multiplies: the digits are the operands of x * y + z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    O132,
    O213,
    O231,
}

/// What an instruction is, with its function. `a` is the first source, `b` the second (the one that may be in memory).
#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// `f(a, b, imm)` on each half.
    Int(IntFn),
    /// The same; the upper half takes the immediate from this bit on.
    Split(IntFn, u8),
    /// `f(a, low half of b)` on each half: one count for all.
    Shift(IntFn),
    /// `f(b, immediate as the count)` on each half.
    ShiftBy(IntFn),
    /// `f(b, 0, imm)` on each half.
    ShiftBytes(IntFn),
    /// `f(a, b, third)` on each half.
    Masked(fn(u128, u128, u128) -> u128),
    /// Each half of the result takes so many bits of the source.
    Extend(IntFn, u32),
    /// Both halves at once.
    Across(fn(Wide, Wide, u8) -> Wide),
    /// `f(a, b, imm)` on each half; uses MXCSR.
    Float(FloatFn),
    /// The sum of products of lanes so wide, in each half.
    Dot(u32),
    /// Each half of the result takes 64 bits of the source.
    Widen(FloatFn),
    /// Each half of the source gives 64 bits of the result.
    Narrow(FloatFn),
    /// Which of the operands are x, y, z; the lanes' width; whether only lane 0 is computed.
    Fused(Order, Sign, u32, bool),
    /// `f(b, imm)` to a general register, zero-extended.
    ToGpr(fn(u128, u8) -> u64),
    /// The same of both halves; a half gives so many bits.
    SignsToGpr(fn(u128, u8) -> u64, u32),
    /// Float to integer, zero-extended from 32 bits or 64.
    FloatToGpr(fn(u128, u8, &mut u32) -> Result<u64, SimdFault>),
    /// ZF and CF, both halves' together.
    Flags(fn(u128, u128) -> u32),
    /// The six arithmetic flags.
    FloatFlags(fn(u128, u128, &mut u32) -> Result<u32, SimdFault>),
}

/// What an instruction gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// For the vector register (or memory) that is the destination.
    Vector(Wide),
    /// For a general register.
    Gpr(u64),
    /// The six arithmetic flags as in EFLAGS.
    Flags(u32),
}

/// Operands of [`Row::run`].
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    pub a: Wide,
    pub b: Wide,
    /// What the destination held, or the mask of a blend.
    pub third: Wide,
    pub imm: u8,
    /// The 256-bit form.
    pub wide: bool,
}

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub op: Op,
    pub body: Body,
}

macro_rules! body {
    ($soft:ident Float($name:ident)) => { Body::Float(float::$name::<$soft>) };
    ($soft:ident Widen($name:ident)) => { Body::Widen(float::$name::<$soft>) };
    ($soft:ident Narrow($name:ident)) => { Body::Narrow(float::$name::<$soft>) };
    ($soft:ident WidenHalf($name:ident)) => { Body::Widen($name::<$soft>) };
    ($soft:ident NarrowHalf($name:ident)) => { Body::Narrow($name::<$soft>) };
    ($soft:ident FloatToGpr($name:ident)) => { Body::FloatToGpr(float::$name::<$soft>) };
    ($soft:ident FloatFlags($name:ident)) => { Body::FloatFlags(float::$name::<$soft>) };
    ($soft:ident $kind:ident($($rest:tt)*)) => { Body::$kind($($rest)*) };
}

macro_rules! table {
    ({$($name:ident $kind:ident($($rest:tt)*);)*} {$($own:ident $own_kind:ident($($own_rest:tt)*);)*}) => {
        /// Instructions, spelt as their mnemonics; after them the forms with an immediate (`imm`) or a 64-bit destination (`q`) of mnemonics that are in
        /// the table already.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Op { $($name,)* $($own,)* }

        const fn rows<const SOFT: bool>() -> [Row; COUNT] {
            [
                $(Row { op: Op::$name, body: body!(SOFT $kind($($rest)*)) },)*
                $(Row { op: Op::$own, body: body!(SOFT $own_kind($($own_rest)*)) },)*
            ]
        }

        /// How many rows there are.
        pub const COUNT: usize = [$(Op::$name,)* $(Op::$own,)*].len();

        impl Op {
            fn from_mnemonic(mnemonic: Mnemonic) -> Option<Op> {
                match mnemonic {
                    $(Mnemonic::$name => Some(Op::$name),)*
                    Mnemonic::Vpslldq => Some(Op::Vpslldqimm),
                    Mnemonic::Vpsrldq => Some(Op::Vpsrldqimm),
                    _ => None,
                }
            }
        }
    };
}

table! { {
    // Float lanes.
    Vaddps Float(addps); Vaddpd Float(addpd); Vaddss Float(addss); Vaddsd Float(addsd); Vsubps Float(subps); Vsubpd Float(subpd);
    Vsubss Float(subss); Vsubsd Float(subsd); Vmulps Float(mulps); Vmulpd Float(mulpd); Vmulss Float(mulss); Vmulsd Float(mulsd);
    Vdivps Float(divps); Vdivpd Float(divpd); Vdivss Float(divss); Vdivsd Float(divsd); Vminps Float(minps); Vminpd Float(minpd);
    Vminss Float(minss); Vminsd Float(minsd); Vmaxps Float(maxps); Vmaxpd Float(maxpd); Vmaxss Float(maxss); Vmaxsd Float(maxsd);
    Vsqrtps Float(sqrtps); Vsqrtpd Float(sqrtpd); Vsqrtss Float(sqrtss); Vsqrtsd Float(sqrtsd); Vaddsubps Float(addsubps);
    Vaddsubpd Float(addsubpd); Vhaddps Float(haddps); Vhaddpd Float(haddpd); Vhsubps Float(hsubps); Vhsubpd Float(hsubpd);
    Vdppd Float(dppd); Vroundps Float(roundps); Vroundpd Float(roundpd); Vroundss Float(roundss);
    Vroundsd Float(roundsd); Vcvtss2sd Float(cvtss2sd); Vcvtsd2ss Float(cvtsd2ss); Vcvtdq2ps Float(cvtdq2ps); Vcvtps2dq Float(cvtps2dq);
    Vcvttps2dq Float(cvttps2dq); Vcvtsi2ss Float(cvtsi2ss); Vcvtsi2sd Float(cvtsi2sd); Vcmpps Float(vcmpps); Vcmppd Float(vcmppd);
    Vcmpss Float(vcmpss); Vcmpsd Float(vcmpsd);
    // A sum over each half.
    Vdpps Dot(32);
    // Float lanes of another width.
    Vcvtps2pd Widen(cvtps2pd); Vcvtdq2pd Widen(cvtdq2pd); Vcvtph2ps WidenHalf(cvtph2ps); Vcvtpd2ps Narrow(cvtpd2ps);
    Vcvtpd2dq Narrow(cvtpd2dq); Vcvttpd2dq Narrow(cvttpd2dq); Vcvtps2ph NarrowHalf(cvtps2ph);
    // Integer lanes and shuffles inside a half.
    Vandps Int(int::and); Vandpd Int(int::and); Vandnps Int(int::andn); Vandnpd Int(int::andn); Vorps Int(int::or); Vorpd Int(int::or);
    Vxorps Int(int::xor); Vxorpd Int(int::xor); Vpand Int(int::and); Vpandn Int(int::andn); Vpor Int(int::or); Vpxor Int(int::xor);
    Vpaddb Int(int::paddb); Vpaddw Int(int::paddw); Vpaddd Int(int::paddd); Vpaddq Int(int::paddq); Vpsubb Int(int::psubb);
    Vpsubw Int(int::psubw); Vpsubd Int(int::psubd); Vpsubq Int(int::psubq); Vpaddsb Int(int::paddsb); Vpaddsw Int(int::paddsw);
    Vpaddusb Int(int::paddusb); Vpaddusw Int(int::paddusw); Vpsubsb Int(int::psubsb); Vpsubsw Int(int::psubsw); Vpsubusb Int(int::psubusb);
    Vpsubusw Int(int::psubusw); Vpavgb Int(int::pavgb); Vpavgw Int(int::pavgw); Vpmaxub Int(int::pmaxub); Vpmaxuw Int(int::pmaxuw);
    Vpmaxud Int(int::pmaxud); Vpmaxsb Int(int::pmaxsb); Vpmaxsw Int(int::pmaxsw); Vpmaxsd Int(int::pmaxsd); Vpminub Int(int::pminub);
    Vpminuw Int(int::pminuw); Vpminud Int(int::pminud); Vpminsb Int(int::pminsb); Vpminsw Int(int::pminsw); Vpminsd Int(int::pminsd);
    Vpcmpeqb Int(int::pcmpeqb); Vpcmpeqw Int(int::pcmpeqw); Vpcmpeqd Int(int::pcmpeqd); Vpcmpeqq Int(int::pcmpeqq);
    Vpcmpgtb Int(int::pcmpgtb); Vpcmpgtw Int(int::pcmpgtw); Vpcmpgtd Int(int::pcmpgtd); Vpcmpgtq Int(int::pcmpgtq);
    Vpmullw Int(int::pmullw); Vpmulhw Int(int::pmulhw); Vpmulhuw Int(int::pmulhuw); Vpmulhrsw Int(int::pmulhrsw); Vpmulld Int(int::pmulld);
    Vpmuludq Int(int::pmuludq); Vpmuldq Int(int::pmuldq); Vpsignb Int(int::psignb); Vpsignw Int(int::psignw); Vpsignd Int(int::psignd);
    Vpabsb Int(int::pabsb); Vpabsw Int(int::pabsw); Vpabsd Int(int::pabsd); Vpmaddwd Int(int::pmaddwd); Vpmaddubsw Int(int::pmaddubsw);
    Vpsadbw Int(int::psadbw); Vphminposuw Int(int::phminposuw); Vphaddw Int(int::phaddw); Vphaddd Int(int::phaddd);
    Vphaddsw Int(int::phaddsw); Vphsubw Int(int::phsubw); Vphsubd Int(int::phsubd); Vphsubsw Int(int::phsubsw);
    Vpacksswb Int(int::packsswb); Vpackuswb Int(int::packuswb); Vpackssdw Int(int::packssdw); Vpackusdw Int(int::packusdw);
    Vpunpcklbw Int(int::punpcklbw); Vpunpckhbw Int(int::punpckhbw); Vpunpcklwd Int(int::punpcklwd); Vpunpckhwd Int(int::punpckhwd);
    Vpunpckldq Int(int::punpckldq); Vpunpckhdq Int(int::punpckhdq); Vpunpcklqdq Int(int::punpcklqdq); Vpunpckhqdq Int(int::punpckhqdq);
    Vpshufb Int(int::pshufb); Vpshufd Int(int::pshufd); Vpshuflw Int(int::pshuflw); Vpshufhw Int(int::pshufhw); Vshufps Int(int::shufps);
    Vmovshdup Int(int::movshdup); Vmovsldup Int(int::movsldup); Vmovddup Int(int::movddup); Vpalignr Int(int::palignr);
    Vpblendw Int(int::pblendw); Vinsertps Int(int::insertps); Vpinsrb Int(int::pinsrb); Vpinsrw Int(int::pinsrw); Vpinsrd Int(int::pinsrd);
    Vpinsrq Int(int::pinsrq); Vunpcklps Int(int::punpckldq); Vunpckhps Int(int::punpckhdq); Vunpcklpd Int(int::punpcklqdq);
    Vunpckhpd Int(int::punpckhqdq); Vrcpps Int(float::rcpps); Vrcpss Int(float::rcpss); Vrsqrtps Int(float::rsqrtps);
    Vrsqrtss Int(float::rsqrtss); Vaesenc Int(crypto::aesenc); Vaesenclast Int(crypto::aesenclast); Vaesdec Int(crypto::aesdec);
    Vaesdeclast Int(crypto::aesdeclast); Vaesimc Int(crypto::aesimc); Vaeskeygenassist Int(crypto::aeskeygenassist);
    Vpclmulqdq Int(crypto::pclmulqdq); Vpsllvd Int(avx::psllvd); Vpsllvq Int(avx::psllvq); Vpsrlvd Int(avx::psrlvd);
    Vpsrlvq Int(avx::psrlvq); Vpsravd Int(avx::psravd); Vpermilps Int(avx::permilps); Vpermilpd Int(avx::permilpd);
    // The same, each half with bits of the immediate of its own.
    Vshufpd Split(int::shufpd, 2); Vblendps Split(int::blendps, 4); Vblendpd Split(int::blendpd, 2); Vpblendd Split(int::blendps, 4);
    Vmpsadbw Split(int::mpsadbw, 3);
    // Shifts with one count for all.
    Vpsllw Shift(int::psllw); Vpslld Shift(int::pslld); Vpsllq Shift(int::psllq); Vpsrlw Shift(int::psrlw); Vpsrld Shift(int::psrld);
    Vpsrlq Shift(int::psrlq); Vpsraw Shift(int::psraw); Vpsrad Shift(int::psrad);
    // Blends by a register.
    Vpblendvb Masked(int::pblendvb); Vblendvps Masked(int::blendvps); Vblendvpd Masked(int::blendvpd);
    // Extensions: how many bits of the source one half takes.
    Vpmovsxbw Extend(int::pmovsxbw, 64); Vpmovzxbw Extend(int::pmovzxbw, 64); Vpmovsxwd Extend(int::pmovsxwd, 64);
    Vpmovzxwd Extend(int::pmovzxwd, 64); Vpmovsxdq Extend(int::pmovsxdq, 64); Vpmovzxdq Extend(int::pmovzxdq, 64);
    Vpmovsxbd Extend(int::pmovsxbd, 32); Vpmovzxbd Extend(int::pmovzxbd, 32); Vpmovsxwq Extend(int::pmovsxwq, 32);
    Vpmovzxwq Extend(int::pmovzxwq, 32); Vpmovsxbq Extend(int::pmovsxbq, 16); Vpmovzxbq Extend(int::pmovzxbq, 16);
    // Across halves.
    Vbroadcastss Across(avx::broadcast32); Vbroadcastsd Across(avx::broadcast64); Vbroadcastf128 Across(avx::broadcast128);
    Vbroadcasti128 Across(avx::broadcast128); Vpbroadcastb Across(avx::broadcast8); Vpbroadcastw Across(avx::broadcast16);
    Vpbroadcastd Across(avx::broadcast32); Vpbroadcastq Across(avx::broadcast64); Vinsertf128 Across(avx::insert128);
    Vinserti128 Across(avx::insert128); Vextractf128 Across(avx::extract128); Vextracti128 Across(avx::extract128);
    Vperm2f128 Across(avx::perm2x128); Vperm2i128 Across(avx::perm2x128); Vpermq Across(avx::permq); Vpermpd Across(avx::permq);
    Vpermd Across(avx::permd); Vpermps Across(avx::permd);
    // To a general register.
    Vcvtss2si FloatToGpr(cvtss2si); Vcvttss2si FloatToGpr(cvttss2si); Vcvtsd2si FloatToGpr(cvtsd2si); Vcvttsd2si FloatToGpr(cvttsd2si);
    Vpextrb ToGpr(int::pextrb); Vpextrw ToGpr(int::pextrw); Vpextrd ToGpr(int::pextrd); Vpextrq ToGpr(int::pextrq);
    Vextractps ToGpr(int::pextrd); Vmovmskps SignsToGpr(int::movmskps, 4); Vmovmskpd SignsToGpr(int::movmskpd, 2);
    Vpmovmskb SignsToGpr(int::pmovmskb, 16);
    // Into EFLAGS.
    Vcomiss FloatFlags(comiss); Vucomiss FloatFlags(ucomiss); Vcomisd FloatFlags(comisd); Vucomisd FloatFlags(ucomisd);
    Vptest Flags(int::ptest); Vtestps Flags(avx::testps); Vtestpd Flags(avx::testpd);
    // Fused multiply-add: the order of the operands, what is added, and the width of a lane (scalars: with upper lanes kept).
    Vfmadd132ps Fused(Order::O132, Sign::Add, 32, false); Vfmadd132pd Fused(Order::O132, Sign::Add, 64, false);
    Vfmadd132ss Fused(Order::O132, Sign::Add, 32, true); Vfmadd132sd Fused(Order::O132, Sign::Add, 64, true);
    Vfmadd213ps Fused(Order::O213, Sign::Add, 32, false); Vfmadd213pd Fused(Order::O213, Sign::Add, 64, false);
    Vfmadd213ss Fused(Order::O213, Sign::Add, 32, true); Vfmadd213sd Fused(Order::O213, Sign::Add, 64, true);
    Vfmadd231ps Fused(Order::O231, Sign::Add, 32, false); Vfmadd231pd Fused(Order::O231, Sign::Add, 64, false);
    Vfmadd231ss Fused(Order::O231, Sign::Add, 32, true); Vfmadd231sd Fused(Order::O231, Sign::Add, 64, true);
    Vfmsub132ps Fused(Order::O132, Sign::Sub, 32, false); Vfmsub132pd Fused(Order::O132, Sign::Sub, 64, false);
    Vfmsub132ss Fused(Order::O132, Sign::Sub, 32, true); Vfmsub132sd Fused(Order::O132, Sign::Sub, 64, true);
    Vfmsub213ps Fused(Order::O213, Sign::Sub, 32, false); Vfmsub213pd Fused(Order::O213, Sign::Sub, 64, false);
    Vfmsub213ss Fused(Order::O213, Sign::Sub, 32, true); Vfmsub213sd Fused(Order::O213, Sign::Sub, 64, true);
    Vfmsub231ps Fused(Order::O231, Sign::Sub, 32, false); Vfmsub231pd Fused(Order::O231, Sign::Sub, 64, false);
    Vfmsub231ss Fused(Order::O231, Sign::Sub, 32, true); Vfmsub231sd Fused(Order::O231, Sign::Sub, 64, true);
    Vfnmadd132ps Fused(Order::O132, Sign::NegAdd, 32, false); Vfnmadd132pd Fused(Order::O132, Sign::NegAdd, 64, false);
    Vfnmadd132ss Fused(Order::O132, Sign::NegAdd, 32, true); Vfnmadd132sd Fused(Order::O132, Sign::NegAdd, 64, true);
    Vfnmadd213ps Fused(Order::O213, Sign::NegAdd, 32, false); Vfnmadd213pd Fused(Order::O213, Sign::NegAdd, 64, false);
    Vfnmadd213ss Fused(Order::O213, Sign::NegAdd, 32, true); Vfnmadd213sd Fused(Order::O213, Sign::NegAdd, 64, true);
    Vfnmadd231ps Fused(Order::O231, Sign::NegAdd, 32, false); Vfnmadd231pd Fused(Order::O231, Sign::NegAdd, 64, false);
    Vfnmadd231ss Fused(Order::O231, Sign::NegAdd, 32, true); Vfnmadd231sd Fused(Order::O231, Sign::NegAdd, 64, true);
    Vfnmsub132ps Fused(Order::O132, Sign::NegSub, 32, false); Vfnmsub132pd Fused(Order::O132, Sign::NegSub, 64, false);
    Vfnmsub132ss Fused(Order::O132, Sign::NegSub, 32, true); Vfnmsub132sd Fused(Order::O132, Sign::NegSub, 64, true);
    Vfnmsub213ps Fused(Order::O213, Sign::NegSub, 32, false); Vfnmsub213pd Fused(Order::O213, Sign::NegSub, 64, false);
    Vfnmsub213ss Fused(Order::O213, Sign::NegSub, 32, true); Vfnmsub213sd Fused(Order::O213, Sign::NegSub, 64, true);
    Vfnmsub231ps Fused(Order::O231, Sign::NegSub, 32, false); Vfnmsub231pd Fused(Order::O231, Sign::NegSub, 64, false);
    Vfnmsub231ss Fused(Order::O231, Sign::NegSub, 32, true); Vfnmsub231sd Fused(Order::O231, Sign::NegSub, 64, true);
    Vfmaddsub132ps Fused(Order::O132, Sign::AddSub, 32, false); Vfmaddsub132pd Fused(Order::O132, Sign::AddSub, 64, false);
    Vfmaddsub213ps Fused(Order::O213, Sign::AddSub, 32, false); Vfmaddsub213pd Fused(Order::O213, Sign::AddSub, 64, false);
    Vfmaddsub231ps Fused(Order::O231, Sign::AddSub, 32, false); Vfmaddsub231pd Fused(Order::O231, Sign::AddSub, 64, false);
    Vfmsubadd132ps Fused(Order::O132, Sign::SubAdd, 32, false); Vfmsubadd132pd Fused(Order::O132, Sign::SubAdd, 64, false);
    Vfmsubadd213ps Fused(Order::O213, Sign::SubAdd, 32, false); Vfmsubadd213pd Fused(Order::O213, Sign::SubAdd, 64, false);
    Vfmsubadd231ps Fused(Order::O231, Sign::SubAdd, 32, false); Vfmsubadd231pd Fused(Order::O231, Sign::SubAdd, 64, false);
} {
    // Forms of mnemonics that are above.
    Vpsllwimm ShiftBy(int::psllw); Vpslldimm ShiftBy(int::pslld); Vpsllqimm ShiftBy(int::psllq); Vpsrlwimm ShiftBy(int::psrlw);
    Vpsrldimm ShiftBy(int::psrld); Vpsrlqimm ShiftBy(int::psrlq); Vpsrawimm ShiftBy(int::psraw); Vpsradimm ShiftBy(int::psrad);
    Vpslldqimm ShiftBytes(int::pslldq); Vpsrldqimm ShiftBytes(int::psrldq); Vpermilpsimm Int(int::pshufd);
    Vpermilpdimm Split(avx::permilpd_imm, 2); Vcvtss2siq FloatToGpr(cvtss2siq); Vcvttss2siq FloatToGpr(cvttss2siq);
    Vcvtsd2siq FloatToGpr(cvtsd2siq); Vcvttsd2siq FloatToGpr(cvttsd2siq);
} }

/// Rows by [`Op::index`], as a constant: an engine that knows the index at compile time calls the function directly.
pub const TABLE: [Row; COUNT] = rows::<false>();
static ROWS: [Row; COUNT] = TABLE;
static SOFT_ROWS: [Row; COUNT] = rows::<true>();

impl Op {
    /// The row of a decoded instruction, if this table has it.
    pub fn of(instruction: &Instruction) -> Option<Op> {
        let op = Op::from_mnemonic(instruction.mnemonic())?;
        let last = instruction.op_count().checked_sub(1)?;
        let by_immediate = instruction.op_kind(last) == OpKind::Immediate8;
        let to_64 = instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_gpr64() && instruction.op0_register() != Register::None;
        Some(match op {
            Op::Vpsllw if by_immediate => Op::Vpsllwimm,
            Op::Vpslld if by_immediate => Op::Vpslldimm,
            Op::Vpsllq if by_immediate => Op::Vpsllqimm,
            Op::Vpsrlw if by_immediate => Op::Vpsrlwimm,
            Op::Vpsrld if by_immediate => Op::Vpsrldimm,
            Op::Vpsrlq if by_immediate => Op::Vpsrlqimm,
            Op::Vpsraw if by_immediate => Op::Vpsrawimm,
            Op::Vpsrad if by_immediate => Op::Vpsradimm,
            Op::Vpermilps if by_immediate => Op::Vpermilpsimm,
            Op::Vpermilpd if by_immediate => Op::Vpermilpdimm,
            Op::Vcvtss2si if to_64 => Op::Vcvtss2siq,
            Op::Vcvttss2si if to_64 => Op::Vcvttss2siq,
            Op::Vcvtsd2si if to_64 => Op::Vcvtsd2siq,
            Op::Vcvttsd2si if to_64 => Op::Vcvttsd2siq,
            op => op,
        })
    }

    /// Position in [`TABLE`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// What to run.
    pub fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// The same without the host's instructions: for the comparison of both paths.
    pub fn soft_row(self) -> &'static Row {
        &SOFT_ROWS[self as usize]
    }

    /// Every instruction of the table.
    pub fn all() -> impl Iterator<Item = Op> {
        ROWS.iter().map(|row| row.op)
    }
}

/// The row at an index from [`Op::index`].
pub fn row(index: usize) -> &'static Row {
    &ROWS[index]
}

/// Does both halves of a float instruction as one: an unmasked pre-computation exception in either hides the post-computation flags of both
/// (SDM vol. 1 §11.5.2).
fn halves(wide: bool, mxcsr: &mut u32, f: impl Fn(usize, &mut u32) -> Result<u128, SimdFault>) -> Result<Wide, SimdFault> {
    if !wide {
        return Ok([f(0, mxcsr)?, 0]);
    }
    let masked = *mxcsr >> 7 & 0x3f;
    if masked == 0x3f {
        return Ok([f(0, mxcsr)?, f(1, mxcsr)?]);
    }
    let clean = *mxcsr & !0x3f;
    let (mut low, mut high) = (clean, clean);
    let results = (f(0, &mut low), f(1, &mut high));
    let flags = (low | high) & 0x3f;
    let before = flags & (IE | DE | ZE);
    if before & !masked != 0 {
        *mxcsr |= before;
        return Err(SimdFault);
    }
    *mxcsr |= flags;
    Ok([results.0?, results.1?])
}

impl Row {
    /// Runs the instruction. The upper half of a vector result is zero in 128-bit forms.
    ///
    /// # Errors
    /// An unmasked exception; MXCSR says which.
    #[inline]
    pub fn run(&self, s: &Sources, mxcsr: &mut u32) -> Result<Given, SimdFault> {
        let Sources { a, b, third, imm, wide } = *s;
        let each = |f: &dyn Fn(usize) -> u128| [f(0), if wide { f(1) } else { 0 }];
        Ok(Given::Vector(match self.body {
            Body::Int(f) => [f(a[0], b[0], imm), if wide { f(a[1], b[1], imm) } else { 0 }],
            Body::Split(f, bits) => each(&|i| f(a[i], b[i], if i == 0 { imm } else { imm >> bits })),
            Body::Shift(f) => each(&|i| f(a[i], b[0], 0)),
            Body::ShiftBy(f) => each(&|i| f(b[i], u128::from(imm), 0)),
            Body::ShiftBytes(f) => each(&|i| f(b[i], 0, imm)),
            Body::Masked(f) => each(&|i| f(a[i], b[i], third[i])),
            Body::Extend(f, bits) => each(&|i| f(0, b[0] >> (bits * i as u32), 0)),
            Body::Across(f) => {
                let [low, high] = f(a, b, imm);
                [low, if wide { high } else { 0 }]
            }
            Body::Float(f) => halves(wide, mxcsr, |i, mxcsr| f(a[i], b[i], imm, mxcsr))?,
            Body::Dot(width) if wide => float::dot(width, a, b, imm, mxcsr)?,
            Body::Dot(width) => [float::dot(width, [a[0]], [b[0]], imm, mxcsr)?[0], 0],
            Body::Widen(f) => halves(wide, mxcsr, |i, mxcsr| f(0, b[0] >> (64 * i), imm, mxcsr))?,
            Body::Narrow(f) => {
                let [low, high] = halves(wide, mxcsr, |i, mxcsr| f(0, b[i], imm, mxcsr))?;
                [low & u128::from(u64::MAX) | high << 64, 0]
            }
            Body::Fused(order, sign, width, scalar) => {
                let (x, y, z) = match order {
                    Order::O132 => (third, b, a),
                    Order::O213 => (a, third, b),
                    Order::O231 => (a, b, third),
                };
                if scalar {
                    let mask = u128::MAX >> (128 - width);
                    let low = avx::fused::<false>(sign, width, x[0] & mask, y[0] & mask, z[0] & mask, mxcsr)?;
                    [third[0] & !mask | low & mask, 0]
                } else {
                    halves(wide, mxcsr, |i, mxcsr| avx::fused::<false>(sign, width, x[i], y[i], z[i], mxcsr))?
                }
            }
            Body::ToGpr(f) => return Ok(Given::Gpr(f(b[0], imm))),
            Body::SignsToGpr(f, bits) => return Ok(Given::Gpr(f(b[0], 0) | if wide { f(b[1], 0) << bits } else { 0 })),
            Body::FloatToGpr(f) => return Ok(Given::Gpr(f(b[0], imm, mxcsr)?)),
            Body::Flags(f) => return Ok(Given::Flags(f(a[0], b[0]) & if wide { f(a[1], b[1]) } else { u32::MAX })),
            Body::FloatFlags(f) => return Ok(Given::Flags(f(a[0], b[0], mxcsr)?)),
        }))
    }
}
