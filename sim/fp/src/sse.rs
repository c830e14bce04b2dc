//! The table of SSE and MMX instructions that compute: one row each.
//!
//! Plain moves are the engine's, as are PCMPxSTRx (see [`crate::string`]) and CRC32.

use iced_x86::{Code, Instruction, Mnemonic};

use crate::float::{self, SimdFault};
use crate::{crypto, int};

/// `(dst, src, imm)`.
pub type IntFn = fn(u128, u128, u8) -> u128;
/// `(dst, src, imm, mxcsr)`.
pub type FloatFn = fn(u128, u128, u8, &mut u32) -> Result<u128, SimdFault>;

/// What an instruction is, with its function.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// No control, no flags.
    Int(IntFn),
    /// `(dst, src, xmm0)`.
    Masked(fn(u128, u128, u128) -> u128),
    /// Uses MXCSR, may fault.
    Float(FloatFn),
    /// `(src, imm)` to a general register, zero-extended from its width.
    ToGpr(fn(u128, u8) -> u64),
    /// Float to integer, zero-extended from 32 bits or 64.
    FloatToGpr(fn(u128, u8, &mut u32) -> Result<u64, SimdFault>),
    /// The six arithmetic flags as in EFLAGS.
    Flags(fn(u128, u128) -> u32),
    /// The six arithmetic flags as in EFLAGS.
    FloatFlags(fn(u128, u128, &mut u32) -> Result<u32, SimdFault>),
}

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub op: Op,
    /// Bytes a memory source has (XMM form); the value is zero-extended to 128 bits. CVTSI2xx: 4 or 8 by operand size, sign-extended to 64.
    pub src_bytes: u8,
    pub body: Body,
}

impl Row {
    /// A 16-byte memory source must be aligned, else #GP(0).
    pub fn aligned(&self) -> bool {
        self.src_bytes == 16
    }
}

macro_rules! body {
    ($soft:ident Int $path:path) => { Body::Int($path) };
    ($soft:ident Masked $path:path) => { Body::Masked($path) };
    ($soft:ident ToGpr $path:path) => { Body::ToGpr($path) };
    ($soft:ident Flags $path:path) => { Body::Flags($path) };
    ($soft:ident Float $name:ident) => { Body::Float(float::$name::<$soft>) };
    ($soft:ident FloatToGpr $name:ident) => { Body::FloatToGpr(float::$name::<$soft>) };
    ($soft:ident FloatFlags $name:ident) => { Body::FloatFlags(float::$name::<$soft>) };
}

macro_rules! table {
    ({$($name:ident $bytes:literal $kind:ident($($path:tt)+);)*} {$($own:ident $own_bytes:literal $own_kind:ident($($own_path:tt)+);)*}) => {
        /// Instructions, spelt as their mnemonics (the last few, 64-bit forms of one mnemonic, with a `q`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Op { $($name,)* $($own,)* }

        const fn rows<const SOFT: bool>() -> [Row; COUNT] {
            [
                $(Row { op: Op::$name, src_bytes: $bytes, body: body!(SOFT $kind $($path)+) },)*
                $(Row { op: Op::$own, src_bytes: $own_bytes, body: body!(SOFT $own_kind $($own_path)+) },)*
            ]
        }

        /// How many rows there are.
        pub const COUNT: usize = [$(Op::$name,)* $(Op::$own,)*].len();

        impl Op {
            /// The instruction with this mnemonic in its 32-bit form. CMPSD and MOVSD are string instructions too: see [`Op::of`].
            pub fn from_mnemonic(mnemonic: Mnemonic) -> Option<Op> {
                match mnemonic {
                    $(Mnemonic::$name => Some(Op::$name),)*
                    _ => None,
                }
            }
        }
    };
}

table! { {
    // Float lanes.
    Addps 16 Float(addps); Addpd 16 Float(addpd); Subps 16 Float(subps); Subpd 16 Float(subpd); Mulps 16 Float(mulps);
    Mulpd 16 Float(mulpd); Divps 16 Float(divps); Divpd 16 Float(divpd); Minps 16 Float(minps); Minpd 16 Float(minpd);
    Maxps 16 Float(maxps); Maxpd 16 Float(maxpd); Sqrtps 16 Float(sqrtps); Sqrtpd 16 Float(sqrtpd); Cmpps 16 Float(cmpps);
    Cmppd 16 Float(cmppd); Addsubps 16 Float(addsubps); Addsubpd 16 Float(addsubpd); Haddps 16 Float(haddps); Haddpd 16 Float(haddpd);
    Hsubps 16 Float(hsubps); Hsubpd 16 Float(hsubpd); Dpps 16 Float(dpps); Dppd 16 Float(dppd); Roundps 16 Float(roundps);
    Roundpd 16 Float(roundpd); Cvtpd2ps 16 Float(cvtpd2ps); Cvtdq2ps 16 Float(cvtdq2ps); Cvtps2dq 16 Float(cvtps2dq);
    Cvttps2dq 16 Float(cvttps2dq); Cvtpd2dq 16 Float(cvtpd2dq); Cvttpd2dq 16 Float(cvttpd2dq); Addss 4 Float(addss);
    Subss 4 Float(subss); Mulss 4 Float(mulss); Divss 4 Float(divss); Minss 4 Float(minss); Maxss 4 Float(maxss);
    Sqrtss 4 Float(sqrtss); Cmpss 4 Float(cmpss); Roundss 4 Float(roundss); Cvtss2sd 4 Float(cvtss2sd); Addsd 8 Float(addsd);
    Subsd 8 Float(subsd); Mulsd 8 Float(mulsd); Divsd 8 Float(divsd); Minsd 8 Float(minsd); Maxsd 8 Float(maxsd);
    Sqrtsd 8 Float(sqrtsd); Cmpsd 8 Float(cmpsd); Roundsd 8 Float(roundsd); Cvtsd2ss 8 Float(cvtsd2ss); Cvtps2pd 8 Float(cvtps2pd);
    Cvtdq2pd 8 Float(cvtdq2pd); Cvtsi2ss 8 Float(cvtsi2ss); Cvtsi2sd 8 Float(cvtsi2sd); Cvtpi2ps 8 Float(cvtpi2ps);
    Cvtps2pi 8 Float(cvtps2pi); Cvttps2pi 8 Float(cvttps2pi); Cvtpi2pd 8 Float(cvtdq2pd); Cvtpd2pi 16 Float(cvtpd2dq);
    Cvttpd2pi 16 Float(cvttpd2dq);
    // Integer lanes and shuffles: nothing to raise.
    Andps 16 Int(int::and); Andpd 16 Int(int::and); Andnps 16 Int(int::andn); Andnpd 16 Int(int::andn); Orps 16 Int(int::or);
    Orpd 16 Int(int::or); Xorps 16 Int(int::xor); Xorpd 16 Int(int::xor); Pand 16 Int(int::and); Pandn 16 Int(int::andn);
    Por 16 Int(int::or); Pxor 16 Int(int::xor); Paddb 16 Int(int::paddb); Paddw 16 Int(int::paddw); Paddd 16 Int(int::paddd);
    Paddq 16 Int(int::paddq); Psubb 16 Int(int::psubb); Psubw 16 Int(int::psubw); Psubd 16 Int(int::psubd); Psubq 16 Int(int::psubq);
    Paddsb 16 Int(int::paddsb); Paddsw 16 Int(int::paddsw); Paddusb 16 Int(int::paddusb); Paddusw 16 Int(int::paddusw);
    Psubsb 16 Int(int::psubsb); Psubsw 16 Int(int::psubsw); Psubusb 16 Int(int::psubusb); Psubusw 16 Int(int::psubusw);
    Pavgb 16 Int(int::pavgb); Pavgw 16 Int(int::pavgw); Pmaxub 16 Int(int::pmaxub); Pmaxuw 16 Int(int::pmaxuw);
    Pmaxud 16 Int(int::pmaxud); Pmaxsb 16 Int(int::pmaxsb); Pmaxsw 16 Int(int::pmaxsw); Pmaxsd 16 Int(int::pmaxsd);
    Pminub 16 Int(int::pminub); Pminuw 16 Int(int::pminuw); Pminud 16 Int(int::pminud); Pminsb 16 Int(int::pminsb);
    Pminsw 16 Int(int::pminsw); Pminsd 16 Int(int::pminsd); Pcmpeqb 16 Int(int::pcmpeqb); Pcmpeqw 16 Int(int::pcmpeqw);
    Pcmpeqd 16 Int(int::pcmpeqd); Pcmpeqq 16 Int(int::pcmpeqq); Pcmpgtb 16 Int(int::pcmpgtb); Pcmpgtw 16 Int(int::pcmpgtw);
    Pcmpgtd 16 Int(int::pcmpgtd); Pcmpgtq 16 Int(int::pcmpgtq); Pmullw 16 Int(int::pmullw); Pmulhw 16 Int(int::pmulhw);
    Pmulhuw 16 Int(int::pmulhuw); Pmulhrsw 16 Int(int::pmulhrsw); Pmulld 16 Int(int::pmulld); Pmuludq 16 Int(int::pmuludq);
    Pmuldq 16 Int(int::pmuldq); Psignb 16 Int(int::psignb); Psignw 16 Int(int::psignw); Psignd 16 Int(int::psignd);
    Pabsb 16 Int(int::pabsb); Pabsw 16 Int(int::pabsw); Pabsd 16 Int(int::pabsd); Pmaddwd 16 Int(int::pmaddwd);
    Pmaddubsw 16 Int(int::pmaddubsw); Psadbw 16 Int(int::psadbw); Mpsadbw 16 Int(int::mpsadbw); Phminposuw 16 Int(int::phminposuw);
    Phaddw 16 Int(int::phaddw); Phaddd 16 Int(int::phaddd); Phaddsw 16 Int(int::phaddsw); Phsubw 16 Int(int::phsubw);
    Phsubd 16 Int(int::phsubd); Phsubsw 16 Int(int::phsubsw); Packsswb 16 Int(int::packsswb); Packuswb 16 Int(int::packuswb);
    Packssdw 16 Int(int::packssdw); Packusdw 16 Int(int::packusdw); Punpcklbw 16 Int(int::punpcklbw);
    Punpckhbw 16 Int(int::punpckhbw); Punpcklwd 16 Int(int::punpcklwd); Punpckhwd 16 Int(int::punpckhwd);
    Punpckldq 16 Int(int::punpckldq); Punpckhdq 16 Int(int::punpckhdq); Punpcklqdq 16 Int(int::punpcklqdq);
    Punpckhqdq 16 Int(int::punpckhqdq); Unpcklps 16 Int(int::punpckldq); Unpckhps 16 Int(int::punpckhdq);
    Unpcklpd 16 Int(int::punpcklqdq); Unpckhpd 16 Int(int::punpckhqdq); Pshufb 16 Int(int::pshufb); Pshufd 16 Int(int::pshufd);
    Pshuflw 16 Int(int::pshuflw); Pshufhw 16 Int(int::pshufhw); Pshufw 16 Int(int::pshuflw); Shufps 16 Int(int::shufps);
    Shufpd 16 Int(int::shufpd); Movshdup 16 Int(int::movshdup); Movsldup 16 Int(int::movsldup); Palignr 16 Int(int::palignr);
    Pslldq 16 Int(int::pslldq); Psrldq 16 Int(int::psrldq); Psllw 16 Int(int::psllw); Pslld 16 Int(int::pslld);
    Psllq 16 Int(int::psllq); Psrlw 16 Int(int::psrlw); Psrld 16 Int(int::psrld); Psrlq 16 Int(int::psrlq); Psraw 16 Int(int::psraw);
    Psrad 16 Int(int::psrad); Pblendw 16 Int(int::pblendw); Blendps 16 Int(int::blendps); Blendpd 16 Int(int::blendpd);
    Movddup 8 Int(int::movddup); Pmovsxbw 8 Int(int::pmovsxbw); Pmovsxwd 8 Int(int::pmovsxwd); Pmovsxdq 8 Int(int::pmovsxdq);
    Pmovzxbw 8 Int(int::pmovzxbw); Pmovzxwd 8 Int(int::pmovzxwd); Pmovzxdq 8 Int(int::pmovzxdq); Pmovsxbd 4 Int(int::pmovsxbd);
    Pmovsxwq 4 Int(int::pmovsxwq); Pmovzxbd 4 Int(int::pmovzxbd); Pmovzxwq 4 Int(int::pmovzxwq); Insertps 4 Int(int::insertps);
    Pinsrd 4 Int(int::pinsrd); Pmovsxbq 2 Int(int::pmovsxbq); Pmovzxbq 2 Int(int::pmovzxbq); Pinsrw 2 Int(int::pinsrw);
    Pinsrb 1 Int(int::pinsrb); Pinsrq 8 Int(int::pinsrq); Rcpps 16 Int(float::rcpps); Rsqrtps 16 Int(float::rsqrtps);
    Rcpss 4 Int(float::rcpss); Rsqrtss 4 Int(float::rsqrtss); Aesenc 16 Int(crypto::aesenc); Aesenclast 16 Int(crypto::aesenclast);
    Aesdec 16 Int(crypto::aesdec); Aesdeclast 16 Int(crypto::aesdeclast); Aesimc 16 Int(crypto::aesimc);
    Aeskeygenassist 16 Int(crypto::aeskeygenassist); Pclmulqdq 16 Int(crypto::pclmulqdq);
    // Blends by XMM0.
    Pblendvb 16 Masked(int::pblendvb); Blendvps 16 Masked(int::blendvps); Blendvpd 16 Masked(int::blendvpd);
    // Float to a general register.
    Cvtss2si 4 FloatToGpr(cvtss2si); Cvttss2si 4 FloatToGpr(cvttss2si); Cvtsd2si 8 FloatToGpr(cvtsd2si);
    Cvttsd2si 8 FloatToGpr(cvttsd2si);
    // Lanes and masks to a general register.
    Pextrb 16 ToGpr(int::pextrb); Pextrw 16 ToGpr(int::pextrw); Pextrd 16 ToGpr(int::pextrd); Pextrq 16 ToGpr(int::pextrq);
    Extractps 16 ToGpr(int::pextrd); Movmskps 16 ToGpr(int::movmskps); Movmskpd 16 ToGpr(int::movmskpd);
    Pmovmskb 16 ToGpr(int::pmovmskb);
    // Comparisons into EFLAGS.
    Comiss 4 FloatFlags(comiss); Ucomiss 4 FloatFlags(ucomiss); Comisd 8 FloatFlags(comisd); Ucomisd 8 FloatFlags(ucomisd);
    // Bit tests into EFLAGS.
    Ptest 16 Flags(int::ptest);
} {
    // 64-bit destinations.
    Cvtss2siq 4 FloatToGpr(cvtss2siq); Cvttss2siq 4 FloatToGpr(cvttss2siq); Cvtsd2siq 8 FloatToGpr(cvtsd2siq);
    Cvttsd2siq 8 FloatToGpr(cvttsd2siq);
} }

/// Rows by [`Op::index`], as a constant: an engine that knows the index at compile time calls the function directly.
pub const TABLE: [Row; COUNT] = rows::<false>();
static ROWS: [Row; COUNT] = TABLE;
static SOFT_ROWS: [Row; COUNT] = rows::<true>();

impl Op {
    /// The row of a decoded instruction, if this table has it.
    pub fn of(instruction: &Instruction) -> Option<Op> {
        match instruction.code() {
            Code::Cmpsd_m32_m32 => None,
            Code::Cvtss2si_r64_xmmm32 => Some(Op::Cvtss2siq),
            Code::Cvttss2si_r64_xmmm32 => Some(Op::Cvttss2siq),
            Code::Cvtsd2si_r64_xmmm64 => Some(Op::Cvtsd2siq),
            Code::Cvttsd2si_r64_xmmm64 => Some(Op::Cvttsd2siq),
            _ => Op::from_mnemonic(instruction.mnemonic()),
        }
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

    /// The MMX form of an integer instruction; `None` where there is none.
    pub fn mmx(self, dst: u64, src: u64, imm: u8) -> Option<u64> {
        use int::mmx::{joined, palignr, plain, pshufb, upper};
        let Body::Int(f) = self.row().body else { return None };
        Some(match self {
            Op::Packsswb | Op::Packuswb | Op::Packssdw | Op::Phaddw | Op::Phaddd | Op::Phaddsw | Op::Phsubw | Op::Phsubd | Op::Phsubsw => joined(f, dst, src, imm),
            Op::Punpckhbw => upper(int::punpcklbw, dst, src),
            Op::Punpckhwd => upper(int::punpcklwd, dst, src),
            Op::Punpckhdq => upper(int::punpckldq, dst, src),
            Op::Pshufb => pshufb(dst, src),
            Op::Palignr => palignr(dst, src, imm),
            Op::Pinsrw => plain(f, dst, src, imm & 3),
            _ => plain(f, dst, src, imm),
        })
    }
}
