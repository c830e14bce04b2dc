//! Arithmetic flags, worked out only when somebody looks.
//!
//! The last flag-setting operation leaves its kind and operand size (`cc_op`), result (`cc_res`, zero-extended) and second operand (`cc_src`,
//! zero-extended). Kinds that cannot be told from these keep carry and overflow in `cc_src` itself.
//!
//! # Undefined flags
//! One fixed rule each, chosen to be what AMD processors since Zen show where that is known:
//!
//! | instruction | flags the manual leaves undefined | here |
//! |---|---|---|
//! | AND OR XOR TEST ANDN BLS* BZHI BEXTR | AF | 0 |
//! | SHL SHR SAR SHLD SHRD, count not 0 | AF | 1 |
//! | SHL SHR SAR SHLD SHRD, count > 1 | OF | as for the last single shift: SHL, SHLD: MSB of result xor CF; SHR: bit MSB-1 of the result; SAR: 0; SHRD: top two bits of the result differ |
//! | SHLD SHRD 16-bit, count > 16 | result, CF | as on a 48-bit value a:b:a |
//! | ROL ROR RCL RCR, count > 1 | OF | by the rule for a count of 1 applied to the result |
//! | MUL IMUL | SF ZF AF PF | SF, ZF, PF of the low half of the result; AF 0 |
//! | DIV IDIV | all | unchanged |
//! | BSF BSR, source not 0 | CF OF SF AF PF | of a logic result: 0, PF and SF of the destination; ZF as defined |
//! | BSF BSR, source 0 | destination | unchanged (32-bit: upper half unchanged too) |
//! | BT BTS BTR BTC | OF SF AF PF | unchanged |
//! | LZCNT TZCNT | OF SF AF PF | 0 |
//! | AAA AAS | OF SF ZF PF | SF, ZF, PF of AL; OF 0 |
//! | DAA DAS | OF | 0 |
//! | AAM AAD | OF AF CF | 0 |

use crate::core::Core;
use crate::state::rflags::{AF, ARITH, CF, OF, PF, SF, ZF};

/// Kinds. The low two bits of `cc_op` are log2 of the operand size in bytes.
pub(crate) const EXACT: u32 = 0; // cc_src holds all six flags
pub(crate) const ADD: u32 = 1 << 2;
pub(crate) const ADC: u32 = 2 << 2; // with carry in
pub(crate) const SUB: u32 = 3 << 2;
pub(crate) const SBB: u32 = 4 << 2; // with borrow in
pub(crate) const LOGIC: u32 = 5 << 2;
pub(crate) const INC: u32 = 6 << 2; // cc_src: carry as it was
pub(crate) const DEC: u32 = 7 << 2;
pub(crate) const SHIFT: u32 = 8 << 2; // cc_src: CF | AF | OF image

/// log2 of an operand size in bytes.
#[inline(always)]
pub(crate) const fn log2(size: usize) -> u32 {
    size.trailing_zeros()
}

/// Zero-extends the low `N` bytes.
#[inline(always)]
pub(crate) const fn trunc<const N: usize>(value: u64) -> u64 {
    match N {
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// Sign-extends the low `N` bytes.
#[inline(always)]
pub(crate) const fn sext<const N: usize>(value: u64) -> i64 {
    match N {
        1 => value as u8 as i8 as i64,
        2 => value as u16 as i16 as i64,
        4 => value as u32 as i32 as i64,
        _ => value as i64,
    }
}

impl Core {
    /// Leaves the operands for later.
    #[inline(always)]
    pub fn set_cc<const N: usize>(&mut self, kind: u32, res: u64, src: u64) {
        self.cc_op = kind | log2(N);
        self.cc_res = res;
        self.cc_src = src;
    }

    /// Carry.
    #[inline]
    pub fn cf(&self) -> bool {
        let shift = 64 - (8 << (self.cc_op & 3));
        let (res, src) = (self.cc_res << shift, self.cc_src << shift);
        match self.cc_op & !3 {
            ADD => res < src,
            ADC => res <= src,
            SUB => res.wrapping_add(src) < src,
            SBB => res.wrapping_add(src).wrapping_add(1 << shift) <= src,
            LOGIC => false,
            _ => self.cc_src & CF != 0,
        }
    }

    /// Zero.
    #[inline]
    pub fn zf(&self) -> bool {
        if self.cc_op & !3 == EXACT { self.cc_src & ZF != 0 } else { self.cc_res << (64 - (8 << (self.cc_op & 3))) == 0 }
    }

    /// Sign.
    #[inline]
    pub fn sf(&self) -> bool {
        if self.cc_op & !3 == EXACT { self.cc_src & SF != 0 } else { (self.cc_res << (64 - (8 << (self.cc_op & 3)))) >> 63 != 0 }
    }

    /// Parity.
    #[inline]
    pub fn pf(&self) -> bool {
        if self.cc_op & !3 == EXACT { self.cc_src & PF != 0 } else { (self.cc_res as u8).count_ones() & 1 == 0 }
    }

    /// Overflow.
    #[inline]
    pub fn of(&self) -> bool {
        let shift = 64 - (8 << (self.cc_op & 3));
        let (res, src) = (self.cc_res << shift, self.cc_src << shift);
        match self.cc_op & !3 {
            ADD => ((res.wrapping_sub(src) ^ res) & (src ^ res)) >> 63 != 0,
            ADC => ((res.wrapping_sub(src).wrapping_sub(1 << shift) ^ res) & (src ^ res)) >> 63 != 0,
            SUB => {
                let dst = res.wrapping_add(src);
                ((dst ^ src) & (dst ^ res)) >> 63 != 0
            }
            SBB => {
                let dst = res.wrapping_add(src).wrapping_add(1 << shift);
                ((dst ^ src) & (dst ^ res)) >> 63 != 0
            }
            LOGIC => false,
            INC => res == 1 << 63,
            DEC => res == u64::MAX >> 1 >> shift << shift,
            _ => self.cc_src & OF != 0,
        }
    }

    /// Auxiliary carry.
    pub fn af(&self) -> bool {
        let (res, src) = (self.cc_res, self.cc_src);
        match self.cc_op & !3 {
            EXACT => src & AF != 0,
            ADD => (res.wrapping_sub(src) ^ src ^ res) & 0x10 != 0,
            ADC => (res.wrapping_sub(src).wrapping_sub(1) ^ src ^ res) & 0x10 != 0,
            SUB => (res.wrapping_add(src) ^ src ^ res) & 0x10 != 0,
            SBB => (res.wrapping_add(src).wrapping_add(1) ^ src ^ res) & 0x10 != 0,
            INC => res & 0xf == 0,
            DEC => res & 0xf == 0xf,
            // SHIFT; LOGIC has none.
            _ => src & AF != 0,
        }
    }

    /// All six flags as an RFLAGS image.
    pub fn arith(&self) -> u64 {
        if self.cc_op & !3 == EXACT {
            return self.cc_src & ARITH;
        }
        let bit = |on: bool, mask: u64| if on { mask } else { 0 };
        bit(self.cf(), CF) | bit(self.pf(), PF) | bit(self.af(), AF) | bit(self.zf(), ZF) | bit(self.sf(), SF) | bit(self.of(), OF)
    }

    /// Sets all six flags.
    #[inline]
    pub fn set_arith(&mut self, value: u64) {
        self.cc_op = EXACT;
        self.cc_res = 0;
        self.cc_src = value & ARITH;
    }

    /// Sets the flags in `mask` and keeps the others.
    pub fn set_some(&mut self, mask: u64, value: u64) {
        let kept = self.arith() & !mask;
        self.set_arith(kept | value & mask);
    }

    /// A condition code (the low four bits of Jcc opcodes).
    #[inline(always)]
    pub fn condition<const CC: u8>(&self) -> bool {
        let truth = match CC >> 1 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() || self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.less(),
            _ => self.zf() || self.less(),
        };
        truth != (CC & 1 != 0)
    }

    /// SF != OF.
    #[inline]
    fn less(&self) -> bool {
        if self.cc_op & !3 == SUB {
            let shift = 64 - (8 << (self.cc_op & 3));
            let (res, src) = (self.cc_res << shift, self.cc_src << shift);
            return (res.wrapping_add(src) as i64) < src as i64;
        }
        self.sf() != self.of()
    }
}
