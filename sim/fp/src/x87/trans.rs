//! Transcendentals: our own fixed algorithms, the same on every host.
//!
//! # Theory
//! Vendors' results differ in the last place, so there is nothing to be exact to. Each function is computed with 128-bit significands ([`Big`]),
//! by series after an argument reduction that leaves at most 60 terms, and rounded once to 64 bits under the control word: the result is
//! within a few 2^-120 of the true value before that rounding. Sine and cosine reduce with 256 bits of 2/pi, not with a 66-bit pi as the
//! early hardware does. Special operands follow the tables of SDM vol. 2 (F2XM1, FYL2X, FYL2XP1, FPATAN, FSIN, FPTAN).

use crate::soft::{Class, DE, Env, F80, IE, Num, PE, ZE, shift_right_jam};

const PI: u128 = 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1;
const LN2: u128 = 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af;
const LOG2_E: u128 = 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e88;
const LOG2_10: u128 = 0xd49a_784b_cd1b_8afe_492b_f6ff_4daf_db4c;
const LOG10_2: u128 = 0x9a20_9a84_fbcf_f798_8f89_59ac_0b7c_9178;
/// 2/pi, 256 bits after the point.
const TWO_OVER_PI: [u128; 2] = [0xa2f9_836e_4e44_1529_fc27_57d1_f534_ddc0, 0xdb62_9599_3c43_9041_fe51_63ab_debb_c561];

/// FLDL2T and its kin: rounded by the control word, raising nothing.
pub fn constant(which: u8, env: &mut Env) -> Num {
    let (exp, sig) = match which {
        0 => return Num::finite(false, 0, 1 << 63),
        1 => (1, LOG2_10),
        2 => (0, LOG2_E),
        3 => (1, PI),
        4 => (-2, LOG10_2),
        5 => (-1, LN2),
        _ => return Num::zero(false),
    };
    env.round(F80, false, exp, sig)
}

/// A finite number with a 128-bit significand (leading bit at bit 127), or a special value carried through.
#[derive(Clone, Copy, Debug)]
pub struct Big {
    sign: bool,
    exp: i32,
    sig: u128,
    /// Zero, infinity or NaN, or a finite value that is exact and needs no P.
    special: Option<Num>,
}

const ONE: Big = Big { sign: false, exp: 0, sig: 1 << 127, special: None };

fn big(exp: i32, sig: u128) -> Big {
    Big { sign: false, exp, sig, special: None }
}

fn special(num: Num) -> Big {
    Big { sign: num.sign, exp: 0, sig: 0, special: Some(num) }
}

impl Big {
    fn from(num: Num) -> Big {
        Big { sign: num.sign, exp: num.exp, sig: u128::from(num.sig) << 64, special: None }
    }
    fn small(value: u32) -> Big {
        let shift = value.leading_zeros();
        big(31 - shift as i32, u128::from(value) << (96 + shift))
    }
    pub fn is_nan(&self) -> bool {
        self.special.is_some_and(Num::is_nan)
    }
    fn zero() -> Big {
        Big { sign: false, exp: i32::MIN / 4, sig: 0, special: None }
    }
    fn negate(self) -> Big {
        Big { sign: !self.sign, ..self }
    }
    fn with_sign(self, sign: bool) -> Big {
        Big { sign, ..self }
    }
    fn doubled(self, by: i32) -> Big {
        Big { exp: self.exp + by, ..self }
    }
    fn add(self, other: Big) -> Big {
        if self.sig == 0 {
            return other;
        }
        if other.sig == 0 {
            return self;
        }
        let (large, small) = if (self.exp, self.sig) >= (other.exp, other.sig) { (self, other) } else { (other, self) };
        let x = large.sig >> 1;
        let y = shift_right_jam(small.sig, (large.exp - small.exp).unsigned_abs().saturating_add(1));
        let sum = if large.sign == small.sign { x + y } else { x - y };
        if sum == 0 {
            return Big::zero();
        }
        let shift = sum.leading_zeros();
        Big { sign: large.sign, exp: large.exp + 1 - shift as i32, sig: sum << shift, special: None }
    }
    fn mul(self, other: Big) -> Big {
        if self.sig == 0 || other.sig == 0 {
            return Big::zero();
        }
        let high = mul_high(self.sig, other.sig);
        let shift = high.leading_zeros();
        Big { sign: self.sign ^ other.sign, exp: self.exp + other.exp + 1 - shift as i32, sig: high << shift, special: None }
    }
    fn div(self, other: Big) -> Big {
        if self.sig == 0 {
            return Big::zero();
        }
        // Restoring division, 128 bits of quotient.
        let divisor = other.sig;
        let mut quotient = 0u128;
        let (mut rest, mut over) = (self.sig, false);
        let first = rest >= divisor;
        if !first {
            over = rest >> 127 == 1;
            rest <<= 1;
        }
        for _ in 0..128 {
            quotient <<= 1;
            if over || rest >= divisor {
                rest = rest.wrapping_sub(divisor);
                quotient |= 1;
            }
            over = rest >> 127 == 1;
            rest <<= 1;
        }
        Big { sign: self.sign ^ other.sign, exp: self.exp - other.exp - i32::from(!first), sig: quotient, special: None }
    }
    /// Rounds to the register format. A computed value is never exact: the bits below 128 are unknown, so it is made sticky.
    pub fn round(&self, env: &mut Env) -> Num {
        match self.special {
            Some(num) => num,
            None if self.sig == 0 => Num::zero(self.sign),
            None => env.round(F80, self.sign, self.exp, self.sig | 1),
        }
    }
}

fn mul_high(a: u128, b: u128) -> u128 {
    let mask = u128::from(u64::MAX);
    let (ah, al, bh, bl) = (a >> 64, a & mask, b >> 64, b & mask);
    let low = (al * bl) >> 64;
    let m1 = ah * bl + low;
    let m2 = al * bh + (m1 & mask);
    ah * bh + (m1 >> 64) + (m2 >> 64)
}

/// Terms below this against the first no longer count.
const DIGITS: i32 = 132;

/// e^x - 1 for |x| < 0.7.
fn exp_minus_1(x: Big) -> Big {
    let (mut term, mut sum) = (x, x);
    for n in 2..60 {
        term = term.mul(x).div(Big::small(n));
        if term.sig == 0 || term.exp < sum.exp - DIGITS {
            break;
        }
        sum = sum.add(term);
    }
    sum
}

/// 2 * atanh(z) for |z| < 0.18.
fn twice_atanh(z: Big) -> Big {
    odd_series(z, false).doubled(1)
}

/// z + z^3/3 + z^5/5 ..., with alternating signs for the arctangent.
fn odd_series(z: Big, alternate: bool) -> Big {
    let square = z.mul(z);
    let square = if alternate { square.negate() } else { square };
    let (mut power, mut sum) = (z, z);
    for n in 1..80 {
        power = power.mul(square);
        let term = if power.sig == 0 { power } else { power.div(Big::small(2 * n + 1)) };
        if term.sig == 0 || term.exp < sum.exp - DIGITS {
            break;
        }
        sum = sum.add(term);
    }
    sum
}

fn ln2() -> Big {
    big(-1, LN2)
}

/// F2XM1 for |x| <= 1; outside, the result is architecturally undefined and we go on computing up to |x| < 64, then return x.
pub fn two_to_x_minus_1(env: &mut Env, x: Num) -> Num {
    if x.is_nan() {
        return env.propagate(x, x);
    }
    match x.class {
        Class::Infinite => return if x.sign { Num::finite(true, 0, 1 << 63) } else { x },
        Class::Zero => return x,
        _ => {}
    }
    if x.denormal {
        env.raise(DE);
    }
    if x.exp > 0 || (x.exp == 0 && x.sig != 1 << 63) {
        return x;
    }
    if x.exp == 0 {
        return if x.sign { Num::finite(true, -1, 1 << 63) } else { Num::finite(false, 0, 1 << 63) };
    }
    exp_minus_1(Big::from(x).mul(ln2())).round(env)
}

/// log2 of a positive finite number; `None` where it is exactly zero.
fn log2(x: Num) -> Option<Big> {
    // x = m * 2^k with m in [sqrt(1/2), sqrt(2)).
    let above = x.sig > 0xb504_f333_f9de_6484;
    let (m, k) = (big(if above { -1 } else { 0 }, u128::from(x.sig) << 64), x.exp + i32::from(above));
    if m.sig == 1 << 127 && m.exp == 0 {
        return (k != 0).then(|| Big::small(k.unsigned_abs()).with_sign(k < 0));
    }
    let z = m.add(ONE.negate()).div(m.add(ONE));
    let fraction = twice_atanh(z).mul(big(0, LOG2_E));
    Some(if k == 0 { fraction } else { Big::small(k.unsigned_abs()).with_sign(k < 0).add(fraction) })
}

/// FYL2X: y * log2(x).
pub fn y_log2_x(env: &mut Env, x: Num, y: Num) -> Num {
    if x.is_nan() || y.is_nan() {
        return env.propagate(x, y);
    }
    let one = x.class == Class::Finite && !x.sign && x.exp == 0 && x.sig == 1 << 63;
    let invalid = (x.sign && x.class != Class::Zero)
        || (x.class == Class::Zero && y.class == Class::Zero)
        || (x.class == Class::Infinite && y.class == Class::Zero)
        || (one && y.class == Class::Infinite);
    if invalid {
        env.raise(IE);
        return Num::indefinite();
    }
    if x.class == Class::Zero {
        if y.class != Class::Infinite {
            env.raise(ZE);
        }
        return Num::infinite(!y.sign);
    }
    if x.denormal || y.denormal {
        env.raise(DE);
    }
    let negative_log = x.class == Class::Finite && x.exp < 0;
    if x.class == Class::Infinite || y.class == Class::Infinite {
        return Num::infinite(y.sign ^ negative_log);
    }
    if one || y.class == Class::Zero {
        return Num::zero(y.sign ^ negative_log);
    }
    let Some(log) = log2(x) else { return Num::zero(y.sign) };
    let exact_log = x.sig == 1 << 63;
    scaled_product(env, log, y, exact_log)
}

/// log * y; with an exact logarithm (a power of two) the product may be exact too.
fn scaled_product(env: &mut Env, log: Big, y: Num, exact: bool) -> Num {
    if exact {
        return env.mul(F80, Num::finite(log.sign, log.exp, (log.sig >> 64) as u64), Num { denormal: false, ..y });
    }
    log.mul(Big::from(y)).round(env)
}

/// FYL2XP1: y * log2(x + 1) for |x| < 1 - sqrt(1/2).
pub fn y_log2_x_plus_1(env: &mut Env, x: Num, y: Num) -> Num {
    if x.is_nan() || y.is_nan() {
        return env.propagate(x, y);
    }
    let below_minus_1 = x.sign && (x.class == Class::Infinite || (x.class == Class::Finite && x.exp >= 0 && !(x.exp == 0 && x.sig == 1 << 63)));
    let invalid = below_minus_1
        || (x.class == Class::Zero && y.class == Class::Infinite)
        || (x.class == Class::Infinite && y.class == Class::Zero);
    if invalid {
        env.raise(IE);
        return Num::indefinite();
    }
    if x.denormal || y.denormal {
        env.raise(DE);
    }
    if x.class == Class::Infinite || y.class == Class::Infinite {
        return Num::infinite(x.sign ^ y.sign);
    }
    if x.class == Class::Zero || y.class == Class::Zero {
        return Num::zero(x.sign ^ y.sign);
    }
    if x.sign && x.exp == 0 {
        // log2(0)
        return Num::infinite(!y.sign);
    }
    let value = Big::from(x);
    // log2(1+x) = 2 atanh(x / (2 + x)) / ln 2; outside the defined range reduce like FYL2X.
    let log = if x.exp < -1 {
        twice_atanh(value.div(value.add(ONE.doubled(1)))).mul(big(0, LOG2_E))
    } else {
        let sum = value.add(ONE);
        let above = sum.sig > 0xb504_f333_f9de_6484 << 64;
        let (m, k) = (big(if above { -1 } else { 0 }, sum.sig), sum.exp + i32::from(above));
        let z = m.add(ONE.negate()).div(m.add(ONE));
        let fraction = twice_atanh(z).mul(big(0, LOG2_E));
        if k == 0 { fraction } else { Big::small(k.unsigned_abs()).with_sign(k < 0).add(fraction) }
    };
    log.mul(Big::from(y)).round(env)
}

/// pi * 2^by.
fn pi(by: i32) -> Big {
    big(1 + by, PI)
}

/// arctan(t) for t in [0, 1].
fn arctan_unit(t: Big) -> Big {
    // Above tan(pi/8): pi/4 + arctan((t - 1) / (t + 1)).
    if (t.exp, t.sig) > (-2, 0xd413_cccf_e779_9211 << 64) {
        let r = t.add(ONE.negate()).div(t.add(ONE));
        return pi(-2).add(if r.sig == 0 { r } else { odd_series(r, true) });
    }
    odd_series(t, true)
}

/// FPATAN: arctan(y / x) in the quadrant of (x, y).
pub fn arctangent(env: &mut Env, y: Num, x: Num) -> Num {
    if x.is_nan() || y.is_nan() {
        return env.propagate(x, y);
    }
    if x.denormal || y.denormal {
        env.raise(DE);
    }
    let rank = |n: Num| match n.class {
        Class::Zero => 0,
        Class::Finite => 1,
        _ => 2,
    };
    let magnitude = match rank(y).cmp(&rank(x)) {
        std::cmp::Ordering::Less if !x.sign => return Num::zero(y.sign),
        std::cmp::Ordering::Less => pi(0),
        std::cmp::Ordering::Greater => pi(-1),
        std::cmp::Ordering::Equal if rank(x) == 0 => {
            if !x.sign {
                return Num::zero(y.sign);
            }
            pi(0)
        }
        std::cmp::Ordering::Equal if rank(x) == 2 => {
            if x.sign { pi(-2).add(pi(-1)) } else { pi(-2) }
        }
        std::cmp::Ordering::Equal => {
            let (a, b) = (Big::from(y).with_sign(false), Big::from(x).with_sign(false));
            let steep = (a.exp, a.sig) > (b.exp, b.sig);
            let t = if steep { b.div(a) } else { a.div(b) };
            let angle = arctan_unit(t);
            let angle = if steep { pi(-1).add(angle.negate()) } else { angle };
            if x.sign { pi(0).add(angle.negate()) } else { angle }
        }
    };
    magnitude.with_sign(y.sign).round(env)
}

/// sin and cos of |r| <= pi/4 + a little, by series.
fn series(r: Big) -> (Big, Big) {
    let square = r.mul(r).negate();
    let sum = |first: Big, start: u32| {
        let (mut term, mut total) = (first, first);
        let mut n = start;
        while n < 80 {
            term = term.mul(square);
            if term.sig == 0 {
                break;
            }
            term = term.div(Big::small(n * (n + 1)));
            if term.exp < total.exp - DIGITS {
                break;
            }
            total = total.add(term);
            n += 2;
        }
        total
    };
    (sum(r, 2), sum(ONE, 1))
}

/// Sine and cosine; `None` when |x| >= 2^63 (C2 is set, nothing changes).
pub fn sine_cosine(env: &mut Env, x: Num) -> Option<(Big, Big)> {
    if x.is_nan() {
        let nan = special(env.propagate(x, x));
        return Some((nan, nan));
    }
    match x.class {
        Class::Infinite => {
            env.raise(IE);
            return Some((special(Num::indefinite()), special(Num::indefinite())));
        }
        Class::Zero => return Some((special(x), special(Num::finite(false, 0, 1 << 63)))),
        _ if x.exp >= 63 => return None,
        _ => {}
    }
    if x.denormal {
        env.raise(DE);
    }
    env.raise(PE);
    if x.exp < -70 {
        // sin x = x (1 - tiny), cos x = 1 - tiny.
        let almost = Big::from(x);
        let sine = Big { exp: almost.exp, ..almost };
        return Some((below(sine), below(ONE)));
    }
    let (quadrant, r) = reduce(x);
    let (s, c) = series(r);
    let (s, c) = match quadrant & 3 {
        0 => (s, c),
        1 => (c, s.negate()),
        2 => (s.negate(), c.negate()),
        _ => (c.negate(), s),
    };
    // The reduction worked on |x|: sine is odd.
    Some((if x.sign { s.negate() } else { s }, c))
}

/// The largest value below in magnitude that 128 bits can tell.
fn below(value: Big) -> Big {
    if value.sig == 1 << 127 { Big { exp: value.exp - 1, sig: u128::MAX, ..value } } else { Big { sig: value.sig - 1, ..value } }
}

/// |x| = quadrant * pi/2 + r with |r| <= pi/4.
fn reduce(x: Num) -> (u32, Big) {
    let value = Big::from(x).with_sign(false);
    if x.exp < -1 {
        return (0, value);
    }
    // x * 2/pi in 320-bit fixed point: sig (64 bits) times 256 bits after the point, then shifted by exp - 63.
    let mut product = [0u64; 5];
    let limbs = [TWO_OVER_PI[1] as u64, (TWO_OVER_PI[1] >> 64) as u64, TWO_OVER_PI[0] as u64, (TWO_OVER_PI[0] >> 64) as u64];
    let mut carry = 0u128;
    for (i, limb) in limbs.iter().enumerate() {
        let t = u128::from(*limb) * u128::from(x.sig) + carry;
        product[i] = t as u64;
        carry = t >> 64;
    }
    product[4] = carry as u64;
    // The point is above bit 256 + (63 - exp) of `product` (320 bits).
    let point = (256 + 63 - x.exp) as u32;
    let bit = |n: u32| product.get((n / 64) as usize).map_or(0, |limb| limb >> (n % 64) & 1);
    let mut quadrant = (bit(point) | bit(point + 1) << 1) as u32;
    // 128 bits of fraction from the first set bit, of the fraction or (from one half on) of its complement.
    let upper = bit(point - 1) == 1;
    if upper {
        quadrant = quadrant.wrapping_add(1);
    }
    let fraction_bit = |n: u32| bit(n) ^ u64::from(upper);
    let mut at = point;
    while at > 0 && fraction_bit(at - 1) == 0 {
        at -= 1;
    }
    let mut sig = 0u128;
    for k in 0..128 {
        sig = sig << 1 | if at > k { u128::from(fraction_bit(at - 1 - k)) } else { 0 };
    }
    if sig == 0 {
        return (quadrant, Big::zero());
    }
    let fraction = Big { sign: upper, exp: at as i32 - 1 - point as i32, sig, special: None };
    (quadrant, fraction.mul(pi(-1)))
}

/// Quotient of two results (FPTAN).
pub fn quotient(a: &Big, b: &Big) -> Big {
    match (a.special, b.special) {
        (Some(_), _) | (_, Some(_)) => *a,
        _ => a.div(*b),
    }
}
