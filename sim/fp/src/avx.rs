//! What AVX, AVX2, FMA and F16C have beyond the SSE instructions: lane crossings, variable shifts, half precision, fused arithmetic.
//!
//! Operands are [`Wide`]: both halves of a YMM register, the upper one zero in 128-bit forms.

use crate::float::{SimdFault, each, finish, format, host_may_run, lane, set_lane};
#[cfg(target_arch = "x86_64")]
use crate::host;
use crate::int;
use crate::soft::{Env, F16, F32, Rounding, pack, unpack};

/// A YMM register, low half first.
pub type Wide = [u128; 2];

// Broadcasts: `(_, source, _)`.

macro_rules! broadcast {
    ($($name:ident $bits:literal;)*) => {$(
        pub fn $name(_: Wide, b: Wide, _: u8) -> Wide {
            [each($bits, $bits, 128 / $bits, 0, |_| lane(b[0], $bits, 0)); 2]
        }
    )*};
}

broadcast! { broadcast8 8; broadcast16 16; broadcast32 32; broadcast64 64; }

pub fn broadcast128(_: Wide, b: Wide, _: u8) -> Wide {
    [b[0]; 2]
}

// Halves.

pub fn insert128(a: Wide, b: Wide, imm: u8) -> Wide {
    if imm & 1 == 0 { [b[0], a[1]] } else { [a[0], b[0]] }
}
pub fn extract128(_: Wide, b: Wide, imm: u8) -> Wide {
    [b[usize::from(imm & 1)], 0]
}
pub fn perm2x128(a: Wide, b: Wide, imm: u8) -> Wide {
    let halves = [a[0], a[1], b[0], b[1]];
    [imm, imm >> 4].map(|choice| if choice & 8 != 0 { 0 } else { halves[usize::from(choice & 3)] })
}

// Permutations.

fn dwords(x: Wide) -> [u32; 8] {
    std::array::from_fn(|i| lane(x[i / 4], 32, i as u32 % 4) as u32)
}

/// VPERMQ, VPERMPD by immediate.
pub fn permq(_: Wide, b: Wide, imm: u8) -> Wide {
    let pick = |i: u32| u128::from(lane(b[usize::from(imm >> (2 * i + 1) & 1)], 64, u32::from(imm >> (2 * i) & 1)));
    [pick(0) | pick(1) << 64, pick(2) | pick(3) << 64]
}
/// VPERMD, VPERMPS: `a` says which dword of `b`.
pub fn permd(a: Wide, b: Wide, _: u8) -> Wide {
    let (index, data) = (dwords(a), dwords(b));
    let half = |from: usize| (0..4).fold(0, |acc, i| acc | u128::from(data[(index[from + i] & 7) as usize]) << (32 * i));
    [half(0), half(4)]
}
/// VPERMILPS by register.
pub fn permilps(a: u128, b: u128, _: u8) -> u128 {
    each(32, 32, 4, b, |control| lane(a, 32, control as u32 & 3))
}
/// VPERMILPD by register: bit 1 of each element chooses.
pub fn permilpd(a: u128, b: u128, _: u8) -> u128 {
    each(64, 64, 2, b, |control| lane(a, 64, control as u32 >> 1 & 1))
}
/// VPERMILPD by immediate.
pub fn permilpd_imm(_: u128, b: u128, imm: u8) -> u128 {
    int::shufpd(b, b, imm)
}

// Shifts with a count for each element.

macro_rules! variable_shift {
    ($($name:ident $bits:literal |$x:ident, $n:ident| $body:expr, $over:expr;)*) => {$(
        pub fn $name(a: u128, b: u128, _: u8) -> u128 {
            (0..128 / $bits).fold(0, |acc, i| {
                let ($x, $n) = (lane(a, $bits, i), lane(b, $bits, i));
                set_lane(acc, $bits, i, if $n < $bits { $body } else { $over })
            })
        }
    )*};
}

variable_shift! {
    psllvd 32 |x, n| x << n, 0;
    psllvq 64 |x, n| x << n, 0;
    psrlvd 32 |x, n| x >> n, 0;
    psrlvq 64 |x, n| x >> n, 0;
    psravd 32 |x, n| (x as i32 >> n) as u32 as u64, (x as i32 >> 31) as u32 as u64;
}

// VTESTPS, VTESTPD: sign bits only.

pub fn testps(a: u128, b: u128) -> u32 {
    const SIGNS: u128 = 0x8000_0000_8000_0000_8000_0000_8000_0000;
    signs(a, b, SIGNS)
}
pub fn testpd(a: u128, b: u128) -> u32 {
    const SIGNS: u128 = 0x8000_0000_0000_0000_8000_0000_0000_0000;
    signs(a, b, SIGNS)
}
fn signs(a: u128, b: u128, mask: u128) -> u32 {
    u32::from(a & b & mask == 0) << 6 | u32::from(!a & b & mask == 0)
}

// Half precision (SDM vol. 2, VCVTPH2PS and VCVTPS2PH).

/// Four halves to floats. DAZ does not count for halves, and a denormal one raises nothing.
pub fn cvtph2ps<const SOFT: bool>(_: u128, src: u128, _: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
    let mut env = Env::from_mxcsr(*mxcsr);
    env.daz = false;
    let result = each(16, 32, 4, src, |bits| {
        let mut num = unpack(F16, bits);
        num.denormal = false;
        pack(F32, env.convert(F32, num))
    });
    finish(&env, mxcsr, result)
}

/// Four floats to halves; bit 2 of the immediate chooses MXCSR's rounding. FTZ does not count.
pub fn cvtps2ph<const SOFT: bool>(_: u128, src: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, SimdFault> {
    let mut env = Env::from_mxcsr(*mxcsr);
    env.ftz = false;
    if imm & 4 == 0 {
        env.rounding = Rounding::from_bits(u32::from(imm));
    }
    let result = each(32, 16, 4, src, |bits| pack(F16, env.convert(F16, unpack(F32, bits))));
    finish(&env, mxcsr, result)
}

// Fused multiply-add.

/// What becomes of the product and the addend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// x * y + z.
    Add,
    /// x * y - z.
    Sub,
    /// -(x * y) + z.
    NegAdd,
    /// -(x * y) - z.
    NegSub,
    /// Subtracts in even lanes, adds in odd ones.
    AddSub,
    /// Adds in even lanes, subtracts in odd ones.
    SubAdd,
}

/// `x * y + z` over 128 bits with one rounding. Lanes are 32 or 64 bits wide.
pub fn fused<const SOFT: bool>(sign: Sign, width: u32, x: u128, y: u128, z: u128, mxcsr: &mut u32) -> Result<u128, SimdFault> {
    #[cfg(target_arch = "x86_64")]
    if host_may_run::<SOFT>(*mxcsr) && std::arch::is_x86_feature_detected!("fma") {
        return Ok(host::fused(sign, width, x, y, z, mxcsr));
    }
    let mut env = Env::from_mxcsr(*mxcsr);
    let f = format(width);
    let result = (0..128 / width).fold(0, |acc, i| {
        let (negate_product, negate_addend) = match sign {
            Sign::Add => (false, false),
            Sign::Sub => (false, true),
            Sign::NegAdd => (true, false),
            Sign::NegSub => (true, true),
            Sign::AddSub => (false, i % 2 == 0),
            Sign::SubAdd => (false, i % 2 == 1),
        };
        let pick = |value: u128| unpack(f, lane(value, width, i));
        let value = env.fma(f, pick(x), pick(y), pick(z), negate_product, negate_addend);
        set_lane(acc, width, i, pack(f, value))
    });
    finish(&env, mxcsr, result)
}
