//! SSE to SSE4.1 floating point: the soft path of every instruction, and the choice between it and the host's.
//!
//! # Theory
//! With every exception masked (what compilers, kernels and libraries run with) the host's own instruction is exact by construction. With
//! any unmasked, or on another host, the soft path decides: lanes are computed one after another, the flags of all lanes are joined, and
//! an unmasked pre-computation exception (I, D, Z) of any lane hides the post-computation flags of all (SDM vol. 1 §11.5.2).
//!
//! Scalar add, subtract, multiply and divide have a third path: round to nearest, everything masked, P already sticky, operands normal
//! or zero and a normal result can raise nothing new, so plain Rust arithmetic is the answer.

use crate::soft::{self, Class, DE, Env, F32, F64, Format, IE, Num, Rounding, ZE, pack, unpack};
#[cfg(target_arch = "x86_64")]
use crate::host;

/// An unmasked SIMD floating-point exception (#XM, or #UD without CR4.OSXMMEXCPT). The flags are already in MXCSR; no register changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimdFault;

/// MXCSR after reset.
pub const MXCSR_RESET: u32 = 0x1f80;
/// Bits of MXCSR that may be set.
pub const MXCSR_MASK: u32 = 0xffff;
const ALL_MASKED: u32 = 0x1f80;

/// May the host's own instruction run? `SOFT` forces the soft path (what the comparison of both paths uses).
pub(crate) fn host_may_run<const SOFT: bool>(mxcsr: u32) -> bool {
    !SOFT && cfg!(target_arch = "x86_64") && mxcsr & ALL_MASKED == ALL_MASKED
}

/// Joins the flags of one instruction into MXCSR, or refuses.
pub(crate) fn finish(env: &Env, mxcsr: &mut u32, result: u128) -> Result<u128, SimdFault> {
    let pre = env.flags & (IE | DE | ZE);
    if pre & !env.masks != 0 {
        *mxcsr |= pre;
        return Err(SimdFault);
    }
    *mxcsr |= env.flags;
    if env.flags & !env.masks != 0 { Err(SimdFault) } else { Ok(result) }
}

pub(crate) fn lane(value: u128, width: u32, index: u32) -> u64 {
    ((value >> (width * index)) as u64) & (u64::MAX >> (64 - width))
}

pub(crate) fn set_lane(value: u128, width: u32, index: u32, bits: u64) -> u128 {
    let mask = (u128::MAX >> (128 - width)) << (width * index);
    value & !mask | u128::from(bits) << (width * index) & mask
}

pub(crate) fn format(width: u32) -> Format {
    if width == 32 { F32 } else { F64 }
}

type LaneOp = fn(&mut Env, Format, u64, u64) -> u64;

/// Lane by lane; lanes past `count` keep the destination's bits.
fn soft_lanes(width: u32, count: u32, dst: u128, src: u128, mxcsr: &mut u32, op: impl Fn(&mut Env, Format, u64, u64) -> u64) -> Result<u128, SimdFault> {
    let mut env = Env::from_mxcsr(*mxcsr);
    let mut result = dst;
    for i in 0..count {
        let bits = op(&mut env, format(width), lane(dst, width, i), lane(src, width, i));
        result = set_lane(result, width, i, bits);
    }
    finish(&env, mxcsr, result)
}

fn op_add(e: &mut Env, f: Format, a: u64, b: u64) -> u64 {
    pack(f, e.add(f, unpack(f, a), unpack(f, b), false))
}
fn op_sub(e: &mut Env, f: Format, a: u64, b: u64) -> u64 {
    pack(f, e.add(f, unpack(f, a), unpack(f, b), true))
}
fn op_mul(e: &mut Env, f: Format, a: u64, b: u64) -> u64 {
    pack(f, e.mul(f, unpack(f, a), unpack(f, b)))
}
fn op_div(e: &mut Env, f: Format, a: u64, b: u64) -> u64 {
    pack(f, e.div(f, unpack(f, a), unpack(f, b)))
}
fn op_sqrt(e: &mut Env, f: Format, _: u64, b: u64) -> u64 {
    pack(f, e.sqrt(f, unpack(f, b)))
}
/// MIN and MAX return the second operand when either is a NaN, both are zero, or they are equal.
fn op_min(e: &mut Env, f: Format, a: u64, b: u64) -> u64 {
    select(e, f, a, b, std::cmp::Ordering::Less)
}
fn op_max(e: &mut Env, f: Format, a: u64, b: u64) -> u64 {
    select(e, f, a, b, std::cmp::Ordering::Greater)
}
fn select(e: &mut Env, f: Format, a: u64, b: u64, want: std::cmp::Ordering) -> u64 {
    let (x, y) = (unpack(f, a), unpack(f, b));
    let winner = if e.compare(x, y, true) == Some(want) { x } else { y };
    pack(f, e.operand(winner))
}

/// The eight predicates of CMPccPS.
fn compare(e: &mut Env, f: Format, a: u64, b: u64, predicate: u8) -> u64 {
    use std::cmp::Ordering::{Equal, Less};
    let signal_quiet = matches!(predicate & 3, 1 | 2);
    let order = e.compare(unpack(f, a), unpack(f, b), signal_quiet);
    let holds = match predicate & 3 {
        0 => order == Some(Equal),
        1 => order == Some(Less),
        2 => matches!(order, Some(Less | Equal)),
        _ => order.is_none(),
    };
    if holds ^ (predicate & 4 != 0) { u64::MAX } else { 0 }
}

macro_rules! arithmetic {
    ($($name:ident $width:literal $count:literal $op:ident;)*) => {$(
        pub fn $name<const SOFT: bool>(dst: u128, src: u128, _: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
            #[cfg(target_arch = "x86_64")]
            if host_may_run::<SOFT>(*mxcsr) {
                return Ok(host::$name(dst, src, mxcsr));
            }
            soft_lanes($width, $count, dst, src, mxcsr, $op as LaneOp)
        }
    )*};
}

arithmetic! {
    addps 32 4 op_add; addpd 64 2 op_add;
    subps 32 4 op_sub; subpd 64 2 op_sub;
    mulps 32 4 op_mul; mulpd 64 2 op_mul;
    divps 32 4 op_div; divpd 64 2 op_div;
    minps 32 4 op_min; minpd 64 2 op_min; minss 32 1 op_min; minsd 64 1 op_min;
    maxps 32 4 op_max; maxpd 64 2 op_max; maxss 32 1 op_max; maxsd 64 1 op_max;
    sqrtps 32 4 op_sqrt; sqrtpd 64 2 op_sqrt; sqrtss 32 1 op_sqrt; sqrtsd 64 1 op_sqrt;
}

/// Round to nearest, nothing unmasked, no DAZ, no FTZ, P already set.
const QUIET: u32 = ALL_MASKED | soft::PE;

/// Not denormal, not infinite, not a NaN.
fn plain64(x: f64) -> bool {
    let magnitude = x.to_bits() << 1;
    magnitude == 0 || (2 << 52..0x7ff << 53).contains(&magnitude)
}
fn plain32(x: f32) -> bool {
    let magnitude = x.to_bits() << 1;
    magnitude == 0 || (2 << 23..0xff << 24).contains(&magnitude)
}

macro_rules! scalar {
    ($($name:ident $float:ident $bits:ident $width:literal $plain:ident $op:ident $operator:tt $zero_ok:literal;)*) => {$(
        pub fn $name<const SOFT: bool>(dst: u128, src: u128, _: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
            if !SOFT && *mxcsr & !0x1f == QUIET {
                let (a, b) = ($float::from_bits(dst as $bits), $float::from_bits(src as $bits));
                let r = a $operator b;
                if $plain(a) && $plain(b) && $plain(r) && ($zero_ok || r != 0.0) {
                    return Ok(dst & !u128::from($bits::MAX) | u128::from(r.to_bits()));
                }
            }
            #[cfg(target_arch = "x86_64")]
            if host_may_run::<SOFT>(*mxcsr) {
                return Ok(host::$name(dst, src, mxcsr));
            }
            soft_lanes($width, 1, dst, src, mxcsr, $op as LaneOp)
        }
    )*};
}

// A sum or difference that is zero is exact; a zero product or quotient may have underflowed. The smallest normal result may have been
// rounded up from below it, but then it was not tiny after rounding, and P is all it raises.
scalar! {
    addss f32 u32 32 plain32 op_add + true; addsd f64 u64 64 plain64 op_add + true;
    subss f32 u32 32 plain32 op_sub - true; subsd f64 u64 64 plain64 op_sub - true;
    mulss f32 u32 32 plain32 op_mul * false; mulsd f64 u64 64 plain64 op_mul * false;
    divss f32 u32 32 plain32 op_div / false; divsd f64 u64 64 plain64 op_div / false;
}

macro_rules! comparison {
    ($($name:ident $width:literal $count:literal;)*) => {$(
        pub fn $name<const SOFT: bool>(dst: u128, src: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
            #[cfg(target_arch = "x86_64")]
            if host_may_run::<SOFT>(*mxcsr) {
                return Ok(host::$name(dst, src, imm & 7, mxcsr));
            }
            soft_lanes($width, $count, dst, src, mxcsr, |e, f, a, b| compare(e, f, a, b, imm))
        }
    )*};
}

comparison! { cmpps 32 4; cmppd 64 2; cmpss 32 1; cmpsd 64 1; }

/// What holds for each of the 16 relations VEX has: less, equal, greater, unordered (SDM vol. 2, CMPPD, table 3-1).
const RELATIONS: [u8; 16] = [0b0010, 0b0001, 0b0011, 0b1000, 0b1101, 0b1110, 0b1100, 0b0111, 0b1010, 0b1001, 0b1011, 0b0000, 0b0101, 0b0110, 0b0100, 0b1111];

/// The 32 predicates of VCMPccPS: bit 4 turns round which quiet NaNs signal.
fn compare_wide(e: &mut Env, f: Format, a: u64, b: u64, predicate: u8) -> u64 {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let signal_quiet = matches!(predicate & 3, 1 | 2) ^ (predicate & 16 != 0);
    let bit = match e.compare(unpack(f, a), unpack(f, b), signal_quiet) {
        Some(Less) => 0,
        Some(Equal) => 1,
        Some(Greater) => 2,
        None => 3,
    };
    if RELATIONS[usize::from(predicate & 15)] >> bit & 1 != 0 { u64::MAX } else { 0 }
}

macro_rules! wide_comparison {
    ($($name:ident $legacy:ident $width:literal $count:literal;)*) => {$(
        pub fn $name<const SOFT: bool>(dst: u128, src: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
            if imm & 0x18 == 0 {
                return $legacy::<SOFT>(dst, src, imm, mxcsr);
            }
            soft_lanes($width, $count, dst, src, mxcsr, |e, f, a, b| compare_wide(e, f, a, b, imm))
        }
    )*};
}

wide_comparison! { vcmpps cmpps 32 4; vcmppd cmppd 64 2; vcmpss cmpss 32 1; vcmpsd cmpsd 64 1; }

/// ROUNDxx: the immediate's bit 2 selects MXCSR's rounding, bit 3 suppresses the precision exception.
fn round_lane(e: &mut Env, f: Format, b: u64, imm: u8) -> u64 {
    let mut inner = *e;
    if imm & 4 == 0 {
        inner.rounding = Rounding::from_bits(u32::from(imm));
    }
    let rounded = inner.round_to_integral(unpack(f, b));
    let keep = if imm & 8 != 0 { !soft::PE } else { u32::MAX };
    e.raise(inner.flags & keep);
    pack(f, rounded)
}

macro_rules! rounding {
    ($($name:ident $width:literal $count:literal;)*) => {$(
        pub fn $name<const SOFT: bool>(dst: u128, src: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
            #[cfg(target_arch = "x86_64")]
            if host_may_run::<SOFT>(*mxcsr) && std::arch::is_x86_feature_detected!("sse4.1") {
                return Ok(host::$name(dst, src, imm & 15, mxcsr));
            }
            soft_lanes($width, $count, dst, src, mxcsr, |e, f, _, b| round_lane(e, f, b, imm))
        }
    )*};
}

rounding! { roundps 32 4; roundpd 64 2; roundss 32 1; roundsd 64 1; }

macro_rules! horizontal {
    ($($name:ident $width:literal $pairs:expr;)*) => {$(
        pub fn $name<const SOFT: bool>(dst: u128, src: u128, _: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
            #[cfg(target_arch = "x86_64")]
            if host_may_run::<SOFT>(*mxcsr) && std::arch::is_x86_feature_detected!("sse3") {
                return Ok(host::$name(dst, src, mxcsr));
            }
            let mut env = Env::from_mxcsr(*mxcsr);
            let mut result = 0;
            let lanes = 128 / $width;
            for i in 0..lanes {
                // Which lanes of the pair (destination, source) meet in lane `i`, and whether they are subtracted.
                let pair: fn(u32, u32) -> (u32, u32, bool) = $pairs;
                let (x, y, subtract) = pair(i, lanes);
                let pick = |n: u32| if n < lanes { lane(dst, $width, n) } else { lane(src, $width, n - lanes) };
                let op = if subtract { op_sub } else { op_add };
                let bits = op(&mut env, format($width), pick(x), pick(y));
                result = set_lane(result, $width, i, bits);
            }
            finish(&env, mxcsr, result)
        }
    )*};
}

horizontal! {
    addsubps 32 |i, n| (i, i + n, i % 2 == 0); addsubpd 64 |i, n| (i, i + n, i % 2 == 0);
    haddps 32 |i, _| (2 * i, 2 * i + 1, false); haddpd 64 |i, _| (2 * i, 2 * i + 1, false);
    hsubps 32 |i, _| (2 * i, 2 * i + 1, true); hsubpd 64 |i, _| (2 * i, 2 * i + 1, true);
}

/// DPPS and DPPD on one half or two: products, then a balanced sum, each step rounded and each step's exceptions seen, all halves' together (SDM vol. 2,
/// DPPS).
pub(crate) fn dot<const HALVES: usize>(width: u32, dst: [u128; HALVES], src: [u128; HALVES], imm: u8, mxcsr: &mut u32) -> Result<[u128; HALVES], SimdFault> {
    let f = format(width);
    let lanes = 128 / width;
    // One step: all lanes of it are done before an unmasked exception is taken.
    let mut env = Env::from_mxcsr(*mxcsr);
    let products: [[u64; 4]; HALVES] = std::array::from_fn(|half| {
        let mut products = [0; 4];
        for i in (0..lanes).filter(|i| imm >> (4 + i) & 1 == 1) {
            products[i as usize] = op_mul(&mut env, f, lane(dst[half], width, i), lane(src[half], width, i));
        }
        products
    });
    finish(&env, mxcsr, 0)?;
    let mut env = Env::from_mxcsr(*mxcsr);
    let sums = products.map(|p| [op_add(&mut env, f, p[0], p[1]), if lanes == 4 { op_add(&mut env, f, p[2], p[3]) } else { 0 }]);
    finish(&env, mxcsr, 0)?;
    let mut env = Env::from_mxcsr(*mxcsr);
    let result = sums.map(|[first, second]| {
        let sum = if lanes == 4 { op_add(&mut env, f, first, second) } else { first };
        (0..lanes).filter(|i| imm >> i & 1 == 1).fold(0, |acc, i| set_lane(acc, width, i, sum))
    });
    finish(&env, mxcsr, 0)?;
    Ok(result)
}

pub fn dpps<const SOFT: bool>(dst: u128, src: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
    dot(32, [dst], [src], imm, mxcsr).map(|[result]| result)
}

pub fn dppd<const SOFT: bool>(dst: u128, src: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
    dot(64, [dst], [src], imm, mxcsr).map(|[result]| result)
}

// Conversions.

fn widen(e: &mut Env, b: u64) -> u64 {
    pack(F64, e.convert(F64, unpack(F32, b)))
}
fn narrow(e: &mut Env, b: u64) -> u64 {
    pack(F32, e.convert(F32, unpack(F64, b)))
}
fn to_int(e: &mut Env, f: Format, b: u64, bits: u32) -> u64 {
    e.to_integer(unpack(f, b), bits) as u64
}
fn from_int(e: &mut Env, f: Format, value: i64) -> u64 {
    let num = Num::from_i64(value);
    if num.class == Class::Zero {
        return 0;
    }
    pack(f, e.round(f, num.sign, num.exp, u128::from(num.sig) << 64))
}

macro_rules! conversion {
    ($($name:ident |$env:ident, $dst:ident, $src:ident| $body:expr;)*) => {$(
        pub fn $name<const SOFT: bool>(dst: u128, src: u128, _: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
            #[cfg(target_arch = "x86_64")]
            if host_may_run::<SOFT>(*mxcsr) {
                return Ok(host::$name(dst, src, mxcsr));
            }
            let mut env = Env::from_mxcsr(*mxcsr);
            let ($env, $dst, $src) = (&mut env, dst, src);
            let result = $body;
            let _used: u128 = $dst;
            finish(&env, mxcsr, result)
        }
    )*};
}

pub(crate) fn each(from: u32, to: u32, count: u32, src: u128, mut op: impl FnMut(u64) -> u64) -> u128 {
    (0..count).fold(0, |acc, i| set_lane(acc, to, i, op(lane(src, from, i))))
}

fn truncating(e: &mut Env) -> &mut Env {
    e.rounding = Rounding::Zero;
    e
}

conversion! {
    cvtps2pd |e, d, s| each(32, 64, 2, s, |b| widen(e, b));
    cvtpd2ps |e, d, s| each(64, 32, 2, s, |b| narrow(e, b));
    cvtss2sd |e, d, s| set_lane(d, 64, 0, widen(e, lane(s, 32, 0)));
    cvtsd2ss |e, d, s| set_lane(d, 32, 0, narrow(e, lane(s, 64, 0)));
    cvtdq2ps |e, d, s| each(32, 32, 4, s, |b| from_int(e, F32, i64::from(b as i32)));
    cvtdq2pd |e, d, s| each(32, 64, 2, s, |b| from_int(e, F64, i64::from(b as i32)));
    cvtps2dq |e, d, s| each(32, 32, 4, s, |b| to_int(e, F32, b, 32));
    cvttps2dq |e, d, s| { let e = truncating(e); each(32, 32, 4, s, |b| to_int(e, F32, b, 32)) };
    cvtpd2dq |e, d, s| each(64, 32, 2, s, |b| to_int(e, F64, b, 32));
    cvttpd2dq |e, d, s| { let e = truncating(e); each(64, 32, 2, s, |b| to_int(e, F64, b, 32)) };
    cvtsi2ss |e, d, s| set_lane(d, 32, 0, from_int(e, F32, s as u64 as i64));
    cvtsi2sd |e, d, s| set_lane(d, 64, 0, from_int(e, F64, s as u64 as i64));
}

/// MMX integers to floats and back (the MMX register is the low half).
pub fn cvtpi2ps<const SOFT: bool>(dst: u128, src: u128, _: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
    let low = cvtdq2ps::<SOFT>(0, src & u128::from(u64::MAX), 0, mxcsr)?;
    Ok(dst & !u128::from(u64::MAX) | low & u128::from(u64::MAX))
}
pub fn cvtps2pi<const SOFT: bool>(_: u128, src: u128, _: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
    cvtps2dq::<SOFT>(0, src & u128::from(u64::MAX), 0, mxcsr)
}
pub fn cvttps2pi<const SOFT: bool>(_: u128, src: u128, _: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
    cvttps2dq::<SOFT>(0, src & u128::from(u64::MAX), 0, mxcsr)
}

macro_rules! to_gpr {
    ($($name:ident $format:ident $width:literal $bits:literal $truncate:literal;)*) => {$(
        pub fn $name<const SOFT: bool>(src: u128, _: u8, mxcsr: &mut u32) -> Result<u64, SimdFault> {
            #[cfg(target_arch = "x86_64")]
            if host_may_run::<SOFT>(*mxcsr) {
                return Ok(host::$name(src, mxcsr));
            }
            let mut env = Env::from_mxcsr(*mxcsr);
            if $truncate {
                env.rounding = Rounding::Zero;
            }
            let value = env.to_integer(unpack($format, lane(src, $width, 0)), $bits) as u64 & (u64::MAX >> (64 - $bits));
            finish(&env, mxcsr, u128::from(value)).map(|v| v as u64)
        }
    )*};
}

to_gpr! {
    cvtss2si F32 32 32 false; cvttss2si F32 32 32 true; cvtsd2si F64 64 32 false; cvttsd2si F64 64 32 true;
    cvtss2siq F32 32 64 false; cvttss2siq F32 32 64 true; cvtsd2siq F64 64 64 false; cvttsd2siq F64 64 64 true;
}

/// COMISx and UCOMISx: ZF, PF, CF as in EFLAGS.
fn ordered(width: u32, signal_quiet: bool, dst: u128, src: u128, mxcsr: &mut u32) -> Result<u32, SimdFault> {
    let f = format(width);
    let mut env = Env::from_mxcsr(*mxcsr);
    let order = env.compare(unpack(f, lane(dst, width, 0)), unpack(f, lane(src, width, 0)), signal_quiet);
    let flags = match order {
        None => 0x45,
        Some(std::cmp::Ordering::Less) => 0x01,
        Some(std::cmp::Ordering::Equal) => 0x40,
        Some(std::cmp::Ordering::Greater) => 0,
    };
    finish(&env, mxcsr, flags).map(|v| v as u32)
}

macro_rules! ordered {
    ($($name:ident $width:literal $signal:literal $float:ident $bits:ident $plain:ident;)*) => {$(
        pub fn $name<const SOFT: bool>(dst: u128, src: u128, mxcsr: &mut u32) -> Result<u32, SimdFault> {
            let (a, b) = ($float::from_bits(dst as $bits), $float::from_bits(src as $bits));
            if !SOFT && $plain(a) && $plain(b) {
                return Ok(u32::from(a < b) | u32::from(a == b) << 6);
            }
            ordered($width, $signal, dst, src, mxcsr)
        }
    )*};
}

ordered! {
    comiss 32 true f32 u32 plain32; comisd 64 true f64 u64 plain64;
    ucomiss 32 false f32 u32 plain32; ucomisd 64 false f64 u64 plain64;
}

/// Reciprocal, canonical: 12 significant bits, nearest. Denormals count as zero, tiny results are zero, nothing is raised; vendors differ in
/// the last bits, so hardware is no reference (the architectural bound, relative error below 1.5 * 2^-12, holds).
fn reciprocal(b: u64) -> u64 {
    let bits = b as u32;
    let (sign, exp, frac) = (bits & 1 << 31, bits >> 23 & 0xff, bits & 0x7f_ffff);
    let result = match (exp, frac) {
        (0xff, 0) => sign,
        (0xff, _) => bits | 1 << 22,
        (0, _) => sign | 0x7f80_0000,
        _ => {
            // 1/m for m in [1, 2), as a fraction with 12 bits after the leading one; m == 1 carries to 2.0.
            let m = u64::from(frac | 1 << 23);
            let q = (((1u64 << 37) / m + 1) >> 1).min(1 << 13);
            let (q, e) = if q == 1 << 13 { (1 << 12, 254 - exp as i32) } else { (q, 253 - exp as i32) };
            if e <= 0 { sign } else { sign | (e as u32) << 23 | ((q as u32) & 0xfff) << 11 }
        }
    };
    u64::from(result)
}

/// Reciprocal square root, canonical, to the same precision.
fn reciprocal_root(b: u64) -> u64 {
    let bits = b as u32;
    let (sign, exp, frac) = (bits & 1 << 31, bits >> 23 & 0xff, bits & 0x7f_ffff);
    let result = match (sign, exp, frac) {
        (_, 0xff, f) if f != 0 => bits | 1 << 22,
        (_, 0, _) => sign | 0x7f80_0000,
        (0, 0xff, _) => 0,
        (0, _, _) => {
            // x = m * 2^(2k) with m in [1, 4): 1/sqrt(m) in (1/2, 1].
            let unbiased = exp as i32 - 127;
            let (m, k) = (u64::from(frac | 1 << 23) << (unbiased & 1), unbiased >> 1);
            // floor(2^26 / sqrt(m * 2^-23)) = isqrt(2^75 / m)
            let root = ((1u128 << 75) / u128::from(m)).isqrt() as u64;
            let q = ((root >> 12) + 1) >> 1;
            let (q, e) = if q >= 1 << 13 { (1 << 12, 127 - k) } else { (q, 126 - k) };
            (e as u32) << 23 | ((q as u32) & 0xfff) << 11
        }
        _ => 0xffc0_0000,
    };
    u64::from(result)
}

pub fn rcpps(_: u128, src: u128, _: u8) -> u128 {
    each(32, 32, 4, src, reciprocal)
}
pub fn rcpss(dst: u128, src: u128, _: u8) -> u128 {
    set_lane(dst, 32, 0, reciprocal(lane(src, 32, 0)))
}
pub fn rsqrtps(_: u128, src: u128, _: u8) -> u128 {
    each(32, 32, 4, src, reciprocal_root)
}
pub fn rsqrtss(dst: u128, src: u128, _: u8) -> u128 {
    set_lane(dst, 32, 0, reciprocal_root(lane(src, 32, 0)))
}

