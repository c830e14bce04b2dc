//! Binary floating point in integers: one unpacked form, one rounding function, every format x86 has.
//!
//! # Theory
//! A finite operand is unpacked to `(sign, exponent of the leading bit, 64-bit significand with the leading bit at bit 63)`. Each
//! operation produces an exact or sticky 128-bit significand (leading bit at bit 127, bit 0 is "something was lost below") and hands it to
//! [`Env::round`], the only place that rounds, denormalises, overflows, flushes and raises O, U and P. The rules are those of SDM vol. 1
//! §4.9 and §11.5: tininess is detected after rounding; a masked underflow is reported only when inexact, an unmasked one
//! always; flush-to-zero applies only while underflow is masked.
//!
//! Why not a library: the well-kept ones (rustc_apfloat) lack square root, the denormal-operand exception, tininess after rounding and the
//! x87's "reduced precision, full exponent range" rounding; what would remain of them is the easy half.

/// Invalid operation.
pub const IE: u32 = 1;
/// Denormal operand.
pub const DE: u32 = 2;
/// Zero divide.
pub const ZE: u32 = 4;
/// Overflow.
pub const OE: u32 = 8;
/// Underflow.
pub const UE: u32 = 16;
/// Inexact.
pub const PE: u32 = 32;

/// Rounding control as MXCSR.RC and the x87 control word encode it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Nearest,
    Down,
    Up,
    Zero,
}

impl Rounding {
    /// From the two-bit field.
    pub fn from_bits(bits: u32) -> Rounding {
        match bits & 3 {
            0 => Rounding::Nearest,
            1 => Rounding::Down,
            2 => Rounding::Up,
            _ => Rounding::Zero,
        }
    }
}

/// A target of rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Significand bits, the leading one included.
    pub precision: u32,
    /// Exponent of the smallest normal number.
    pub emin: i32,
    /// Exponent of the largest finite number.
    pub emax: i32,
}

pub const F16: Format = Format { precision: 11, emin: -14, emax: 15 };
pub const F32: Format = Format { precision: 24, emin: -126, emax: 127 };
pub const F64: Format = Format { precision: 53, emin: -1022, emax: 1023 };
pub const F80: Format = Format { precision: 64, emin: -16382, emax: 16383 };

/// What an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Zero,
    Finite,
    Infinite,
    Quiet,
    Signalling,
}

/// An unpacked operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Num {
    pub class: Class,
    pub sign: bool,
    /// Exponent of the leading bit; meaningful for [`Class::Finite`].
    pub exp: i32,
    /// Leading bit at bit 63 (finite); for a NaN the fraction, left-aligned below bit 63, which is set.
    pub sig: u64,
    /// The encoding was denormal (or, x87, pseudo-denormal).
    pub denormal: bool,
}

impl Num {
    pub fn zero(sign: bool) -> Num {
        Num { class: Class::Zero, sign, exp: 0, sig: 0, denormal: false }
    }
    pub fn infinite(sign: bool) -> Num {
        Num { class: Class::Infinite, sign, exp: 0, sig: 1 << 63, denormal: false }
    }
    /// The default NaN ("real indefinite").
    pub fn indefinite() -> Num {
        Num { class: Class::Quiet, sign: true, exp: 0, sig: 3 << 62, denormal: false }
    }
    pub fn finite(sign: bool, exp: i32, sig: u64) -> Num {
        debug_assert!(sig >> 63 == 1);
        Num { class: Class::Finite, sign, exp, sig, denormal: false }
    }
    pub fn is_nan(self) -> bool {
        matches!(self.class, Class::Quiet | Class::Signalling)
    }
    pub fn quieted(self) -> Num {
        Num { class: Class::Quiet, sig: self.sig | 1 << 62, ..self }
    }
    /// From an integer.
    pub fn from_i64(value: i64) -> Num {
        if value == 0 {
            return Num::zero(false);
        }
        let magnitude = value.unsigned_abs();
        let shift = magnitude.leading_zeros();
        Num::finite(value < 0, 63 - shift as i32, magnitude << shift)
    }
}

/// Unpacks an interchange format (16, 32 or 64 bits).
pub fn unpack(format: Format, bits: u64) -> Num {
    let frac_bits = format.precision - 1;
    let exp_bits = 32 - (format.emax as u32).leading_zeros() + 1;
    let sign = bits >> (frac_bits + exp_bits) & 1 == 1;
    let field = (bits >> frac_bits) & ((1 << exp_bits) - 1);
    let frac = bits & ((1 << frac_bits) - 1);
    let aligned = frac << (63 - frac_bits);
    if field == (1 << exp_bits) - 1 {
        if frac == 0 {
            return Num::infinite(sign);
        }
        let class = if frac >> (frac_bits - 1) & 1 == 1 { Class::Quiet } else { Class::Signalling };
        return Num { class, sign, exp: 0, sig: aligned | 1 << 63, denormal: false };
    }
    if field == 0 {
        if frac == 0 {
            return Num::zero(sign);
        }
        let shift = aligned.leading_zeros();
        return Num { class: Class::Finite, sign, exp: format.emin - shift as i32, sig: aligned << shift, denormal: true };
    }
    Num::finite(sign, field as i32 - format.emax, aligned | 1 << 63)
}

/// Packs a number that [`Env::round`] has made to fit, or a special one.
pub fn pack(format: Format, num: Num) -> u64 {
    let frac_bits = format.precision - 1;
    let exp_bits = 32 - (format.emax as u32).leading_zeros() + 1;
    let top = (1u64 << exp_bits) - 1;
    let sign = u64::from(num.sign) << (frac_bits + exp_bits);
    let frac = (num.sig << 1) >> (64 - frac_bits);
    match num.class {
        Class::Zero => sign,
        Class::Infinite => sign | top << frac_bits,
        Class::Quiet | Class::Signalling => sign | top << frac_bits | frac,
        Class::Finite if num.exp < format.emin => sign | num.sig >> (63 - frac_bits) >> (format.emin - num.exp).min(63),
        Class::Finite => sign | ((num.exp + format.emax) as u64) << frac_bits | frac,
    }
}

/// Shifts right, keeping "something was lost" in bit 0.
pub fn shift_right_jam(value: u128, by: u32) -> u128 {
    if by == 0 {
        value
    } else if by >= 128 {
        u128::from(value != 0)
    } else {
        (value >> by) | u128::from(value << (128 - by) != 0)
    }
}

/// The dynamic environment of one instruction: control in, flags out.
#[derive(Clone, Copy, Debug)]
pub struct Env {
    pub rounding: Rounding,
    /// Denormal operands count as zero (MXCSR.DAZ).
    pub daz: bool,
    /// Tiny results become zero while underflow is masked (MXCSR.FTZ).
    pub ftz: bool,
    /// Masked exceptions, as flag bits.
    pub masks: u32,
    /// Raised so far.
    pub flags: u32,
    /// x87: what an unmasked overflow or underflow does to a register result: the exponent is biased by this much (0: not done).
    pub wrap: i32,
    /// x87 C1: the last rounding went away from zero.
    pub rounded_up: bool,
    /// Which NaN wins is decided the x87 way (larger significand) instead of the SSE way (first operand).
    pub x87_nans: bool,
}

impl Env {
    /// The environment MXCSR describes.
    pub fn from_mxcsr(mxcsr: u32) -> Env {
        Env {
            rounding: Rounding::from_bits(mxcsr >> 13),
            daz: mxcsr & 1 << 6 != 0,
            ftz: mxcsr & 1 << 15 != 0,
            masks: mxcsr >> 7 & 0x3f,
            flags: 0,
            wrap: 0,
            rounded_up: false,
            x87_nans: false,
        }
    }

    pub fn raise(&mut self, flags: u32) {
        self.flags |= flags;
    }

    /// Applies DAZ.
    pub fn operand(&self, num: Num) -> Num {
        if self.daz && num.denormal { Num::zero(num.sign) } else { num }
    }

    fn note_denormal(&mut self, a: Num) {
        if a.denormal {
            self.raise(DE);
        }
    }

    /// Rounds `sig` (leading bit at bit 127 or zero) to `precision` bits; returns the kept bits left-aligned in 64, whether a carry went out
    /// at the top (the significand is then 1.0), and whether anything was lost.
    fn round_bits(&mut self, sign: bool, sig: u128, precision: u32) -> (u64, bool, bool) {
        let drop = 128 - precision;
        let rest = sig << precision;
        let kept = sig >> drop;
        if rest == 0 {
            self.rounded_up = false;
            return ((kept as u64) << (64 - precision), false, false);
        }
        let up = match self.rounding {
            Rounding::Nearest => rest > 1 << 127 || (rest == 1 << 127 && kept & 1 == 1),
            Rounding::Down => sign,
            Rounding::Up => !sign,
            Rounding::Zero => false,
        };
        self.rounded_up = up;
        let kept = kept + u128::from(up);
        if kept >> precision != 0 { (1 << 63, true, true) } else { ((kept as u64) << (64 - precision), false, true) }
    }

    /// Rounds an exact or sticky magnitude into `format`, raising O, U and P. `sig` has its leading bit at bit 127.
    pub fn round(&mut self, format: Format, sign: bool, exp: i32, sig: u128) -> Num {
        debug_assert!(sig >> 127 == 1);
        let (bits, carry, inexact) = self.round_bits(sign, sig, format.precision);
        let rounded_exp = exp + i32::from(carry);
        if rounded_exp < format.emin {
            return self.underflow(format, sign, exp, sig, (rounded_exp, bits, inexact));
        }
        if rounded_exp > format.emax {
            if self.masks & OE == 0 {
                // Unmasked: only what the 24, 53 or 64 bits lost is inexact.
                let biased = rounded_exp - self.wrap;
                if self.wrap != 0 && biased > format.emax {
                    // Even biased it does not fit (FSCALE).
                    self.raise(OE | PE);
                    self.rounded_up = true;
                    return Num::infinite(sign);
                }
                self.raise(OE | if inexact { PE } else { 0 });
                if self.wrap != 0 {
                    return Num::finite(sign, biased, bits);
                }
                return Num::infinite(sign);
            }
            self.raise(OE | PE);
            let to_infinity = match self.rounding {
                Rounding::Nearest => true,
                Rounding::Down => sign,
                Rounding::Up => !sign,
                Rounding::Zero => false,
            };
            self.rounded_up = to_infinity;
            return if to_infinity { Num::infinite(sign) } else { Num::finite(sign, format.emax, u64::MAX << (64 - format.precision)) };
        }
        if inexact {
            self.raise(PE);
        }
        Num::finite(sign, rounded_exp, bits)
    }

    /// The result is tiny after rounding with an unbounded exponent (`unbounded` is that rounding).
    fn underflow(&mut self, format: Format, sign: bool, exp: i32, sig: u128, unbounded: (i32, u64, bool)) -> Num {
        if self.masks & UE == 0 {
            let (rounded_exp, bits, inexact) = unbounded;
            self.raise(UE | if inexact { PE } else { 0 });
            if self.wrap == 0 {
                // SSE: the caller faults, nobody sees a result.
                return Num::zero(sign);
            }
            if rounded_exp + self.wrap < format.emin {
                self.raise(PE);
                self.rounded_up = false;
                return Num::zero(sign);
            }
            return Num::finite(sign, rounded_exp + self.wrap, bits);
        }
        if self.ftz {
            self.raise(UE | PE);
            return Num::zero(sign);
        }
        let shift = (format.emin - exp) as u32;
        // One bit less of precision for each binade below emin. Once it is used up the value is a fraction of the last place, at least
        // one half only when `shift == precision`.
        let (bits, carry, inexact, base) = if shift >= format.precision {
            let up = match self.rounding {
                Rounding::Nearest => shift == format.precision && sig > 1 << 127,
                Rounding::Down => sign,
                Rounding::Up => !sign,
                Rounding::Zero => false,
            };
            self.rounded_up = up;
            (u64::from(up) << 63, false, true, format.emin - (format.precision as i32 - 1))
        } else {
            let (bits, carry, inexact) = self.round_bits(sign, sig, format.precision - shift);
            (bits, carry, inexact, exp)
        };
        if inexact {
            self.raise(UE | PE);
        }
        if bits == 0 { Num::zero(sign) } else { Num::finite(sign, base + i32::from(carry), bits) }
    }

    /// Chooses and quiets the NaN result of two operands of which at least one is a NaN.
    pub fn propagate(&mut self, a: Num, b: Num) -> Num {
        if a.class == Class::Signalling || b.class == Class::Signalling {
            self.raise(IE);
        }
        if !self.x87_nans {
            return if a.is_nan() { a.quieted() } else { b.quieted() };
        }
        // SDM vol. 1 table 4-7: of two NaNs of one kind the larger significand (of equals the positive one); a quiet one beats a signalling one.
        let pick_a = match (a.is_nan(), b.is_nan()) {
            (true, false) => true,
            (false, true) => false,
            _ if a.class != b.class => a.class == Class::Quiet,
            _ if a.sig != b.sig => a.sig > b.sig,
            _ => !a.sign,
        };
        if pick_a { a.quieted() } else { b.quieted() }
    }

    fn invalid(&mut self) -> Num {
        self.raise(IE);
        Num::indefinite()
    }

    /// `a + b`, or `a - b` when `negate` is set.
    pub fn add(&mut self, format: Format, a: Num, b: Num, negate: bool) -> Num {
        let (a, b) = (self.operand(a), self.operand(b));
        if a.is_nan() || b.is_nan() {
            return self.propagate(a, b);
        }
        let b = Num { sign: b.sign ^ negate, ..b };
        if a.class == Class::Infinite || b.class == Class::Infinite {
            if a.class == b.class && a.sign != b.sign {
                return self.invalid();
            }
            self.note_denormal(a);
            self.note_denormal(b);
            return if a.class == Class::Infinite { a } else { b };
        }
        self.note_denormal(a);
        self.note_denormal(b);
        let zero_sign = self.rounding == Rounding::Down;
        match (a.class, b.class) {
            (Class::Zero, Class::Zero) => Num::zero(if a.sign == b.sign { a.sign } else { zero_sign }),
            (Class::Zero, _) => self.round(format, b.sign, b.exp, u128::from(b.sig) << 64),
            (_, Class::Zero) => self.round(format, a.sign, a.exp, u128::from(a.sig) << 64),
            _ => {
                let (large, small) = if (a.exp, a.sig) >= (b.exp, b.sig) { (a, b) } else { (b, a) };
                // The leading bit goes to bit 126 so that a sum has room to carry.
                let x = u128::from(large.sig) << 63;
                let y = shift_right_jam(u128::from(small.sig) << 63, (large.exp - small.exp) as u32);
                let sum = if large.sign == small.sign { x + y } else { x - y };
                if sum == 0 {
                    return Num::zero(zero_sign);
                }
                let shift = sum.leading_zeros();
                self.round(format, large.sign, large.exp + 1 - shift as i32, sum << shift)
            }
        }
    }

    /// `a * b`.
    pub fn mul(&mut self, format: Format, a: Num, b: Num) -> Num {
        let (a, b) = (self.operand(a), self.operand(b));
        if a.is_nan() || b.is_nan() {
            return self.propagate(a, b);
        }
        let sign = a.sign ^ b.sign;
        if a.class == Class::Infinite || b.class == Class::Infinite {
            if a.class == Class::Zero || b.class == Class::Zero {
                return self.invalid();
            }
            self.note_denormal(a);
            self.note_denormal(b);
            return Num::infinite(sign);
        }
        self.note_denormal(a);
        self.note_denormal(b);
        if a.class == Class::Zero || b.class == Class::Zero {
            return Num::zero(sign);
        }
        let product = u128::from(a.sig) * u128::from(b.sig);
        let shift = product.leading_zeros();
        self.round(format, sign, a.exp + b.exp + 1 - shift as i32, product << shift)
    }

    /// `a / b`.
    pub fn div(&mut self, format: Format, a: Num, b: Num) -> Num {
        let (a, b) = (self.operand(a), self.operand(b));
        if a.is_nan() || b.is_nan() {
            return self.propagate(a, b);
        }
        let sign = a.sign ^ b.sign;
        if a.class == b.class && matches!(a.class, Class::Infinite | Class::Zero) {
            return self.invalid();
        }
        if b.class == Class::Zero {
            if a.class != Class::Infinite {
                self.raise(ZE);
            }
            return Num::infinite(sign);
        }
        self.note_denormal(a);
        self.note_denormal(b);
        match (a.class, b.class) {
            (Class::Infinite, _) => Num::infinite(sign),
            (Class::Zero, _) | (_, Class::Infinite) => Num::zero(sign),
            _ => {
                let divisor = u128::from(b.sig);
                let numerator = u128::from(a.sig) << 63;
                let (high, rest) = (numerator / divisor, numerator % divisor);
                let (low, lost) = ((rest << 64) / divisor, (rest << 64) % divisor);
                let quotient = high << 64 | low | u128::from(lost != 0);
                let shift = quotient.leading_zeros();
                self.round(format, sign, a.exp - b.exp - shift as i32, quotient << shift)
            }
        }
    }

    /// Square root.
    pub fn sqrt(&mut self, format: Format, a: Num) -> Num {
        let a = self.operand(a);
        if a.is_nan() {
            return self.propagate(a, a);
        }
        if a.class == Class::Zero {
            return a;
        }
        if a.sign {
            return self.invalid();
        }
        self.note_denormal(a);
        if a.class == Class::Infinite {
            return a;
        }
        let odd = a.exp & 1 != 0;
        let radicand = u128::from(a.sig) << if odd { 64 } else { 63 };
        let root = radicand.isqrt();
        let rest = radicand - root * root;
        let sig = root << 64 | u128::from(rest > root) << 63 | u128::from(rest != 0);
        self.round(format, false, a.exp.div_euclid(2), sig)
    }

    /// `a * b + c` with one rounding, `negate_product` and `negate_addend` applied first (operands keep their NaN signs).
    pub fn fma(&mut self, format: Format, a: Num, b: Num, c: Num, negate_product: bool, negate_addend: bool) -> Num {
        let (a, b, c) = (self.operand(a), self.operand(b), self.operand(c));
        let bad_product = matches!((a.class, b.class), (Class::Infinite, Class::Zero) | (Class::Zero, Class::Infinite));
        if a.is_nan() || b.is_nan() || c.is_nan() {
            if [a, b, c].iter().any(|n| n.class == Class::Signalling) {
                self.raise(IE);
            }
            // An infinity times zero is not invalid where a quiet NaN is added: SDM vol. 1 table 14-17.
            return if a.is_nan() { a.quieted() } else if b.is_nan() { b.quieted() } else { c.quieted() };
        }
        let sign = a.sign ^ b.sign ^ negate_product;
        let c = Num { sign: c.sign ^ negate_addend, ..c };
        if bad_product {
            return self.invalid();
        }
        if a.class == Class::Infinite || b.class == Class::Infinite {
            if c.class == Class::Infinite && c.sign != sign {
                return self.invalid();
            }
            for n in [a, b, c] {
                self.note_denormal(n);
            }
            return Num::infinite(sign);
        }
        for n in [a, b, c] {
            self.note_denormal(n);
        }
        if c.class == Class::Infinite {
            return c;
        }
        let zero_sign = self.rounding == Rounding::Down;
        if a.class == Class::Zero || b.class == Class::Zero {
            if c.class == Class::Zero {
                return Num::zero(if sign == c.sign { sign } else { zero_sign });
            }
            return self.round(format, c.sign, c.exp, u128::from(c.sig) << 64);
        }
        let product = u128::from(a.sig) * u128::from(b.sig);
        let shift = product.leading_zeros();
        let (pexp, psig) = (a.exp + b.exp + 1 - shift as i32, product << shift);
        if c.class == Class::Zero {
            return self.round(format, sign, pexp, psig);
        }
        // Leading bits to bit 126; the smaller one is jammed. Cancellation of many bits happens only when the exponents are within
        // one, where the shift loses at most two bits of a product of at most 2p <= 106 bits (formats with FMA): nothing is lost.
        let csig = u128::from(c.sig) << 64;
        let (large, small) =
            if (pexp, psig) >= (c.exp, csig) { ((sign, pexp, psig), (c.sign, c.exp, csig)) } else { ((c.sign, c.exp, csig), (sign, pexp, psig)) };
        let x = shift_right_jam(large.2, 1);
        let y = shift_right_jam(small.2, (large.1 - small.1).unsigned_abs().saturating_add(1));
        let sum = if large.0 == small.0 { x + y } else { x - y };
        if sum == 0 {
            return Num::zero(zero_sign);
        }
        let shift = sum.leading_zeros();
        self.round(format, large.0, large.1 + 1 - shift as i32, sum << shift)
    }

    /// Converts between formats: a NaN is quieted, everything else rounded.
    pub fn convert(&mut self, format: Format, a: Num) -> Num {
        let a = self.operand(a);
        if a.is_nan() {
            return self.propagate(a, a);
        }
        self.note_denormal(a);
        match a.class {
            Class::Finite => self.round(format, a.sign, a.exp, u128::from(a.sig) << 64),
            _ => a,
        }
    }

    /// Rounds to an integer value in the same format. No denormal exception (ROUNDSD, FRNDINT raises it itself).
    pub fn round_to_integral(&mut self, a: Num) -> Num {
        let a = self.operand(a);
        if a.is_nan() {
            return self.propagate(a, a);
        }
        if a.class != Class::Finite || a.exp >= 63 {
            return a;
        }
        let (magnitude, inexact) = self.integer_magnitude(a);
        if inexact {
            self.raise(PE);
        }
        if magnitude == 0 {
            return Num::zero(a.sign);
        }
        let shift = magnitude.leading_zeros();
        Num::finite(a.sign, 127 - shift as i32, ((magnitude << shift) >> 64) as u64)
    }

    /// The magnitude rounded to an integer, and whether that lost anything. The exponent is below 64.
    fn integer_magnitude(&mut self, a: Num) -> (u128, bool) {
        // Binary point above bit 62.
        let fixed = shift_right_jam(u128::from(a.sig) << 63, (63 - a.exp) as u32);
        let (whole, rest) = (fixed >> 63, fixed & ((1 << 63) - 1));
        let up = rest != 0
            && match self.rounding {
                Rounding::Nearest => rest > 1 << 62 || (rest == 1 << 62 && whole & 1 == 1),
                Rounding::Down => a.sign,
                Rounding::Up => !a.sign,
                Rounding::Zero => false,
            };
        self.rounded_up = up;
        (whole + u128::from(up), rest != 0)
    }

    /// Converts to a signed integer of `bits` bits; out of range or NaN gives the integer indefinite (the minimum) and raises I alone.
    pub fn to_integer(&mut self, a: Num, bits: u32) -> i64 {
        let a = self.operand(a);
        let indefinite = i64::MIN >> (64 - bits);
        match a.class {
            Class::Zero => return 0,
            Class::Infinite | Class::Quiet | Class::Signalling => {
                self.raise(IE);
                return indefinite;
            }
            Class::Finite => {}
        }
        if a.exp >= 64 {
            self.raise(IE);
            return indefinite;
        }
        let (magnitude, inexact) = self.integer_magnitude(a);
        let limit = 1u128 << (bits - 1);
        if magnitude > limit || (magnitude == limit && !a.sign) {
            self.rounded_up = false;
            self.raise(IE);
            return indefinite;
        }
        if inexact {
            self.raise(PE);
        }
        let value = magnitude as u64 as i64;
        if a.sign { value.wrapping_neg() } else { value }
    }

    /// Orders two numbers; `None` when unordered. Raises I for a signalling NaN, for a quiet one too if `signal_quiet`.
    pub fn compare(&mut self, a: Num, b: Num, signal_quiet: bool) -> Option<std::cmp::Ordering> {
        let (a, b) = (self.operand(a), self.operand(b));
        if a.is_nan() || b.is_nan() {
            if signal_quiet || a.class == Class::Signalling || b.class == Class::Signalling {
                self.raise(IE);
            }
            return None;
        }
        self.note_denormal(a);
        self.note_denormal(b);
        let key = |n: Num| -> (i32, i32, u64) {
            match n.class {
                Class::Zero => (0, 0, 0),
                Class::Infinite => (1, i32::MAX, 0),
                _ => (1, n.exp, n.sig),
            }
        };
        let signed = |n: Num| if key(n).0 == 0 { 0 } else if n.sign { -1 } else { 1 };
        Some(match signed(a).cmp(&signed(b)) {
            std::cmp::Ordering::Equal if signed(a) > 0 => key(a).cmp(&key(b)),
            std::cmp::Ordering::Equal => key(b).cmp(&key(a)),
            other => other,
        })
    }
}
