//! The same instruction on the host: each function is one `asm!` block that loads the guest's MXCSR, operates, stores the guest's MXCSR
//! and puts the host's back. Called only when every exception is masked (an unmasked one would be a host signal).

use std::arch::asm;
use std::arch::x86_64::__m128i;

use crate::avx::Sign;

fn to_m128(value: u128) -> __m128i {
    // SAFETY: both are 16 plain bytes; every bit pattern is valid for either.
    unsafe { std::mem::transmute::<u128, __m128i>(value) }
}

fn from_m128(value: __m128i) -> u128 {
    // SAFETY: both are 16 plain bytes; every bit pattern is valid for either.
    unsafe { std::mem::transmute::<__m128i, u128>(value) }
}

macro_rules! binary {
    ($($name:ident $text:literal;)*) => {$(
        pub fn $name(dst: u128, src: u128, mxcsr: &mut u32) -> u128 {
            let mut d = to_m128(dst);
            let s = to_m128(src);
            let mut saved = 0u32;
            // SAFETY: 1. `mxcsr` and `saved` are live u32 places; 2. the guest MXCSR has no reserved bit set (WRMSR, LDMXCSR and FXRSTOR
            // refuse them) and masks every exception, so neither LDMXCSR nor the operation faults; 3. the host's MXCSR is put
            // back; 4. the operation has register operands only and is of a level the caller has checked (SSE2 is the baseline).
            unsafe {
                asm!(
                    "stmxcsr [{h}]", "ldmxcsr [{g}]",
                    concat!($text, " {d}, {s}"),
                    "stmxcsr [{g}]", "ldmxcsr [{h}]",
                    g = in(reg) std::ptr::from_mut(mxcsr), h = in(reg) &raw mut saved,
                    d = inout(xmm_reg) d, s = in(xmm_reg) s,
                    options(nostack, preserves_flags)
                );
            }
            from_m128(d)
        }
    )*};
}

binary! {
    addps "addps"; addpd "addpd"; addss "addss"; addsd "addsd";
    subps "subps"; subpd "subpd"; subss "subss"; subsd "subsd";
    mulps "mulps"; mulpd "mulpd"; mulss "mulss"; mulsd "mulsd";
    divps "divps"; divpd "divpd"; divss "divss"; divsd "divsd";
    minps "minps"; minpd "minpd"; minss "minss"; minsd "minsd";
    maxps "maxps"; maxpd "maxpd"; maxss "maxss"; maxsd "maxsd";
    sqrtps "sqrtps"; sqrtpd "sqrtpd"; sqrtss "sqrtss"; sqrtsd "sqrtsd";
    addsubps "addsubps"; addsubpd "addsubpd"; haddps "haddps"; haddpd "haddpd"; hsubps "hsubps"; hsubpd "hsubpd";
    cvtps2pd "cvtps2pd"; cvtpd2ps "cvtpd2ps"; cvtss2sd "cvtss2sd"; cvtsd2ss "cvtsd2ss";
    cvtdq2ps "cvtdq2ps"; cvtdq2pd "cvtdq2pd"; cvtps2dq "cvtps2dq"; cvttps2dq "cvttps2dq";
    cvtpd2dq "cvtpd2dq"; cvttpd2dq "cvttpd2dq";
}

macro_rules! to_gpr {
    ($($name:ident $text:literal;)*) => {$(
        pub fn $name(src: u128, mxcsr: &mut u32) -> u64 {
            let s = to_m128(src);
            let mut saved = 0u32;
            let result: u64;
            // SAFETY: as in `binary!`; the result register is written whole (a 32-bit write clears the upper half).
            unsafe {
                asm!(
                    "stmxcsr [{h}]", "ldmxcsr [{g}]",
                    concat!($text, ", {s}"),
                    "stmxcsr [{g}]", "ldmxcsr [{h}]",
                    g = in(reg) std::ptr::from_mut(mxcsr), h = in(reg) &raw mut saved,
                    r = out(reg) result, s = in(xmm_reg) s,
                    options(nostack, preserves_flags)
                );
            }
            result
        }
    )*};
}

to_gpr! {
    cvtss2si "cvtss2si {r:e}"; cvttss2si "cvttss2si {r:e}"; cvtsd2si "cvtsd2si {r:e}"; cvttsd2si "cvttsd2si {r:e}";
    cvtss2siq "cvtss2si {r}"; cvttss2siq "cvttss2si {r}"; cvtsd2siq "cvtsd2si {r}"; cvttsd2siq "cvttsd2si {r}";
}

macro_rules! from_gpr {
    ($($name:ident $text:literal;)*) => {$(
        pub fn $name(dst: u128, src: u128, mxcsr: &mut u32) -> u128 {
            let mut d = to_m128(dst);
            let mut saved = 0u32;
            // SAFETY: as in `binary!`.
            unsafe {
                asm!(
                    "stmxcsr [{h}]", "ldmxcsr [{g}]",
                    concat!($text, " {d}, {s}"),
                    "stmxcsr [{g}]", "ldmxcsr [{h}]",
                    g = in(reg) std::ptr::from_mut(mxcsr), h = in(reg) &raw mut saved,
                    d = inout(xmm_reg) d, s = in(reg) src as u64,
                    options(nostack, preserves_flags)
                );
            }
            from_m128(d)
        }
    )*};
}

from_gpr! { cvtsi2ss "cvtsi2ss"; cvtsi2sd "cvtsi2sd"; }

macro_rules! with_immediate {
    ($name:ident $text:literal [$($imm:literal)*]) => {
        pub fn $name(dst: u128, src: u128, imm: u8, mxcsr: &mut u32) -> u128 {
            let mut d = to_m128(dst);
            let s = to_m128(src);
            let mut saved = 0u32;
            match imm {
                $($imm => {
                    // SAFETY: as in `binary!`.
                    unsafe {
                        asm!(
                            "stmxcsr [{h}]", "ldmxcsr [{g}]",
                            concat!($text, " {d}, {s}, ", $imm),
                            "stmxcsr [{g}]", "ldmxcsr [{h}]",
                            g = in(reg) std::ptr::from_mut(mxcsr), h = in(reg) &raw mut saved,
                            d = inout(xmm_reg) d, s = in(xmm_reg) s,
                            options(nostack, preserves_flags)
                        );
                    }
                })*
                _ => unreachable!("immediate {imm} was reduced by the caller"),
            }
            from_m128(d)
        }
    };
}

with_immediate!(cmpps "cmpps" [0 1 2 3 4 5 6 7]);
with_immediate!(cmppd "cmppd" [0 1 2 3 4 5 6 7]);
with_immediate!(cmpss "cmpss" [0 1 2 3 4 5 6 7]);
with_immediate!(cmpsd "cmpsd" [0 1 2 3 4 5 6 7]);
with_immediate!(roundps "roundps" [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
with_immediate!(roundpd "roundpd" [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
with_immediate!(roundss "roundss" [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
with_immediate!(roundsd "roundsd" [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);

macro_rules! fused {
    ($($sign:ident $single:literal $double:literal;)*) => {
        /// `x * y + z` with one rounding; the caller has checked that the host has FMA.
        pub fn fused(sign: Sign, width: u32, x: u128, y: u128, z: u128, mxcsr: &mut u32) -> u128 {
            let (x, mut y, z) = (to_m128(x), to_m128(y), to_m128(z));
            let mut saved = 0u32;
            match (sign, width) {
                $(
                    (Sign::$sign, 32) => {
                        // SAFETY: as in `binary!`.
                        unsafe {
                            asm!(
                                "stmxcsr [{h}]", "ldmxcsr [{g}]",
                                concat!($single, " {y}, {x}, {z}"),
                                "stmxcsr [{g}]", "ldmxcsr [{h}]",
                                g = in(reg) std::ptr::from_mut(mxcsr), h = in(reg) &raw mut saved,
                                y = inout(xmm_reg) y, x = in(xmm_reg) x, z = in(xmm_reg) z,
                                options(nostack, preserves_flags)
                            );
                        }
                    }
                    (Sign::$sign, _) => {
                        // SAFETY: as in `binary!`.
                        unsafe {
                            asm!(
                                "stmxcsr [{h}]", "ldmxcsr [{g}]",
                                concat!($double, " {y}, {x}, {z}"),
                                "stmxcsr [{g}]", "ldmxcsr [{h}]",
                                g = in(reg) std::ptr::from_mut(mxcsr), h = in(reg) &raw mut saved,
                                y = inout(xmm_reg) y, x = in(xmm_reg) x, z = in(xmm_reg) z,
                                options(nostack, preserves_flags)
                            );
                        }
                    }
                )*
            }
            from_m128(y)
        }
    };
}

fused! {
    Add "vfmadd213ps" "vfmadd213pd";
    Sub "vfmsub213ps" "vfmsub213pd";
    NegAdd "vfnmadd213ps" "vfnmadd213pd";
    NegSub "vfnmsub213ps" "vfnmsub213pd";
    AddSub "vfmaddsub213ps" "vfmaddsub213pd";
    SubAdd "vfmsubadd213ps" "vfmsubadd213pd";
}
