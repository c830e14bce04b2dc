//! The x87's own algorithms against the host's: the same special cases, and results within one unit of the last place; packed BCD; the bound on
//! RCPPS and RSQRTPS. (Exact instructions are compared by `sim-cpu-oracle`.)

use iced_x86::Decoder;
use sim_fp::sse::{Body, Op};
use sim_fp::x87::{Effect, X87, decode, exec};

fn run(bytes: &[u8], st0: u128, st1: u128, load: u128) -> (X87, Effect) {
    let insn = decode(&Decoder::new(64, bytes, 0).decode()).expect("an x87 instruction");
    let mut x = X87 { status: 6 << 11, ..X87::default() };
    x.set_st(0, st0);
    x.set_st(1, st1);
    let effect = exec(&mut x, &insn, load, 0);
    (x, effect)
}

/// Units of the last place between two results of one sign; `None` if they are not comparable.
fn distance(a: u128, b: u128) -> Option<u128> {
    (a >> 79 == b >> 79).then(|| {
        // The explicit leading bit leaves gaps in the encoding: skip it.
        let linear = |x: u128| (x >> 64 & 0x7fff) << 63 | x & (u128::from(u64::MAX) >> 1);
        linear(a).abs_diff(linear(b))
    })
}

#[cfg(target_arch = "x86_64")]
mod against_host {
    use super::{distance, run};
    use std::arch::asm;

    /// Pushes ST1 and ST0, runs one instruction, and takes what is then ST0.
    macro_rules! host {
        ($text:literal, $st0:expr, $st1:expr) => {{
            let (st0, st1): (u128, u128) = ($st0, $st1);
            let mut out = 0u128;
            // SAFETY: 1. the three pointers are to live 16-byte places; 2. FNINIT before and after leaves the x87 as Rust expects it, empty
            // and with everything masked.
            unsafe {
                asm!(
                    "fninit", "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", $text, "fstp tbyte ptr [{o}]", "fninit",
                    a = in(reg) &raw const st0, b = in(reg) &raw const st1, o = in(reg) &raw mut out,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _, out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            out
        }};
    }

    fn number(sign: u128, exponent: i32, fraction: u64) -> u128 {
        sign << 79 | ((exponent + 16383) as u128) << 64 | u128::from(fraction | 1 << 63)
    }

    fn check(name: &str, ours: u128, host: u128, operands: (u128, u128)) {
        let far = distance(ours, host);
        assert!(far.is_some_and(|ulps| ulps <= 1), "{name} of {:020x}, {:020x}: {ours:020x}, the host says {host:020x}", operands.0, operands.1);
    }

    #[test]
    fn transcendentals_are_within_one_ulp_of_the_host() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..2_000 {
            let sign = u128::from(draw() & 1);
            let other = number(u128::from(draw() & 1), (draw() % 20) as i32 - 10, draw());
            // Below one in magnitude.
            let small = number(sign, -1 - (draw() % 40) as i32, draw());
            check("f2xm1", run(&[0xd9, 0xf0], small, 0, 0).0.st(0), host!("f2xm1", small, 0), (small, 0));
            // Moderate angles: the host's own reduction is short of bits beyond.
            let angle = number(sign, (draw() % 8) as i32 - 8, draw());
            check("fsin", run(&[0xd9, 0xfe], angle, 0, 0).0.st(0), host!("fsin", angle, 0), (angle, 0));
            check("fcos", run(&[0xd9, 0xff], angle, 0, 0).0.st(0), host!("fcos", angle, 0), (angle, 0));
            let (x, _) = run(&[0xd9, 0xf3], other, small, 0);
            check("fpatan", x.st(0), host!("fpatan", other, small), (other, small));
            let positive = number(0, (draw() % 200) as i32 - 100, draw());
            let (x, _) = run(&[0xd9, 0xf1], positive, other, 0);
            check("fyl2x", x.st(0), host!("fyl2x", positive, other), (positive, other));
            let near = number(sign, -3 - (draw() % 40) as i32, draw());
            let (x, _) = run(&[0xd9, 0xf9], near, other, 0);
            check("fyl2xp1", x.st(0), host!("fyl2xp1", near, other), (near, other));
        }
    }

    #[test]
    fn special_operands_of_transcendentals_agree_with_the_host() {
        let one = number(0, 0, 0);
        let infinity = 0x7fff << 64 | 1 << 63;
        let specials = [0, 1 << 79, one, 1 << 79 | one, infinity, 1 << 79 | infinity, 0x7fff << 64 | 3 << 62, number(0, 1, 0), number(1, -3, 0)];
        for a in specials {
            for b in specials {
                let (x, _) = run(&[0xd9, 0xf3], a, b, 0);
                assert!(distance(x.st(0), host!("fpatan", a, b)).is_some_and(|d| d <= 1), "fpatan {a:020x} {b:020x}");
                let (x, _) = run(&[0xd9, 0xf1], a, b, 0);
                assert_eq!(x.st(0), host!("fyl2x", a, b), "fyl2x {a:020x} {b:020x}");
            }
            check("f2xm1", run(&[0xd9, 0xf0], a, 0, 0).0.st(0), host!("f2xm1", a, 0), (a, 0));
        }
    }
}

#[test]
fn packed_bcd_goes_in_and_out() {
    let bcd = 1u128 << 79 | 0x12_3456_7890_1234_5678;
    let (x, _) = run(&[0xdf, 0x20], 0, 0, bcd);
    let (_, effect) = run(&[0xdf, 0x30], x.st(0), 0, 0);
    assert_eq!(effect, Effect::Store(bcd));
}

#[test]
fn state_survives_its_bytes() {
    let (x, _) = run(&[0xd9, 0xfe], 0x3fff << 64 | 1 << 63, 0, 0);
    assert_eq!(X87::from_bytes(&x.to_bytes()), Some(x));
    assert_eq!(X87::from_bytes(&[0; 5]), None);
}

#[test]
fn reciprocals_keep_the_architectural_bound() {
    let (Body::Int(rcp), Body::Int(rsqrt)) = (Op::Rcpss.row().body, Op::Rsqrtss.row().body) else { panic!("both are of the plain kind") };
    for i in 0..200_000u32 {
        let x = f32::from_bits(0x0080_0000 + i.wrapping_mul(0x9e37_79b9) % 0x7e00_0000);
        let bound = 1.5 / 4096.0;
        let r = f64::from(f32::from_bits(rcp(0, u128::from(x.to_bits()), 0) as u32));
        if x < 8.0e37 {
            assert!((r * f64::from(x) - 1.0).abs() <= bound, "rcpss {x}: {r}");
        }
        let r = f64::from(f32::from_bits(rsqrt(0, u128::from(x.to_bits()), 0) as u32));
        assert!((r * f64::from(x).sqrt() - 1.0).abs() <= bound, "rsqrtss {x}: {r}");
    }
}
