//! Both paths of every float instruction agree: results and MXCSR, over special and random values, all rounding modes, DAZ and FTZ.

use sim_fp::sse::{Body, Op};

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.next() >> 33) as usize % from.len()]
    }
}

const SPECIAL_64: &[u64] = &[
    0, 1, 2, 0xf_ffff_ffff_ffff, 0x10_0000_0000_0000, 0x10_0000_0000_0001, 0x3ff0_0000_0000_0000, 0x3ff0_0000_0000_0001, 0x3fef_ffff_ffff_ffff,
    0x3fe0_0000_0000_0000, 0x4000_0000_0000_0000, 0x4008_0000_0000_0000, 0x41df_ffff_ffc0_0000, 0x41df_ffff_ffff_ffff, 0x41e0_0000_0000_0000,
    0x43df_ffff_ffff_ffff, 0x43e0_0000_0000_0000, 0x7fef_ffff_ffff_ffff, 0x7fe0_0000_0000_0000, 0x7ff0_0000_0000_0000, 0x7ff0_0000_0000_0001,
    0x7ff8_0000_0000_0000, 0x7ff8_dead_beef_0001, 0x7ff4_0000_0000_0000, 0x380f_ffff_ffff_ffff, 0x3810_0000_0000_0000, 0x36a0_0000_0000_0000,
    0x3690_0000_0000_0001, 0x47ef_ffff_efff_ffff, 0x47ef_ffff_f000_0000, 0x3ff8_0000_0000_0000, 0x4004_0000_0000_0000,
];
const SPECIAL_32: &[u32] = &[
    0, 1, 2, 0x7f_ffff, 0x80_0000, 0x80_0001, 0x3f80_0000, 0x3f80_0001, 0x3f7f_ffff, 0x3f00_0000, 0x4000_0000, 0x4040_0000, 0x4eff_ffff,
    0x4f00_0000, 0x5eff_ffff, 0x5f00_0000, 0x7f7f_ffff, 0x7f00_0000, 0x7f80_0000, 0x7f80_0001, 0x7fc0_0000, 0x7fc1_2345, 0x7fa0_0000, 0x3fc0_0000,
    0x4020_0000,
];

fn value_64(rng: &mut Rng) -> u64 {
    let sign = rng.next() & 1 << 63;
    match rng.next() >> 61 {
        0..=2 => sign | rng.pick(SPECIAL_64),
        3 => rng.next(),
        4 => sign | rng.next() >> (12 + rng.next() % 40),
        // Close exponents, so that sums cancel and products meet the limits.
        5 => sign | (1023 - 8 + rng.next() % 16) << 52 | rng.next() >> 12,
        6 => sign | (rng.next() % 70) << 52 | rng.next() >> 12,
        _ => sign | (1023 + rng.next() % 66) << 52 | (rng.next() >> 12 & !((1 << (rng.next() % 52)) - 1)),
    }
}

fn value_32(rng: &mut Rng) -> u32 {
    let sign = (rng.next() >> 32) as u32 & 1 << 31;
    match rng.next() >> 61 {
        0..=2 => sign | rng.pick(SPECIAL_32),
        3 => rng.next() as u32,
        4 => sign | (rng.next() as u32) >> (9 + rng.next() % 20),
        5 => sign | (127 - 8 + (rng.next() % 16) as u32) << 23 | rng.next() as u32 >> 9,
        6 => sign | ((rng.next() % 40) as u32) << 23 | rng.next() as u32 >> 9,
        _ => sign | (127 + (rng.next() % 66) as u32) << 23 | (rng.next() as u32 >> 9 & !((1 << (rng.next() % 23)) - 1)),
    }
}

fn value(rng: &mut Rng) -> u128 {
    if rng.next() >> 63 == 0 {
        u128::from(value_64(rng)) | u128::from(value_64(rng)) << 64
    } else {
        (0..4).fold(0, |acc, i| acc | u128::from(value_32(rng)) << (32 * i))
    }
}

fn run(body: Body, dst: u128, src: u128, imm: u8, mxcsr: &mut u32) -> Option<Result<u128, sim_fp::SimdFault>> {
    Some(match body {
        Body::Float(f) => f(dst, src, imm, mxcsr),
        Body::FloatToGpr(f) => f(src, imm, mxcsr).map(u128::from),
        Body::FloatFlags(f) => f(dst, src, mxcsr).map(u128::from),
        Body::Int(_) | Body::Masked(_) | Body::ToGpr(_) | Body::Flags(_) => return None,
    })
}

#[test]
fn soft_path_equals_host_instruction() {
    let mut rng = Rng(0x0123_4567_89ab_cdef);
    let rounds: u32 = std::env::var("ORRERY_FP_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(20_000);
    let mut wrong = Vec::new();
    for op in Op::all() {
        let mut shown = 0;
        for _ in 0..rounds {
            let (dst, src) = (value(&mut rng), value(&mut rng));
            let imm = rng.next() as u8;
            let control = 0x1f80 | rng.next() as u32 & 0xe040 | if rng.next() >> 62 == 0 { rng.next() as u32 & 0x3f } else { 0 };
            let (mut host, mut soft) = (control, control);
            let Some(expected) = run(op.row().body, dst, src, imm, &mut host) else { break };
            let got = run(op.soft_row().body, dst, src, imm, &mut soft).expect("both rows have one kind");
            if (expected, host) != (got, soft) && shown < 3 {
                shown += 1;
                wrong.push(format!(
                    "{op:?} dst {dst:032x} src {src:032x} imm {imm:02x} mxcsr {control:04x}: host {:032x} {host:04x}, soft {:032x} {soft:04x}",
                    expected.unwrap_or(0),
                    got.unwrap_or(0)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn soft_fused_arithmetic_equals_host_instructions() {
    use sim_fp::avx::{Sign, fused};
    if !std::arch::is_x86_feature_detected!("fma") {
        return;
    }
    let mut rng = Rng(0x6675_7365_6421);
    for _ in 0..100_000 {
        let sign = rng.pick(&[Sign::Add, Sign::Sub, Sign::NegAdd, Sign::NegSub, Sign::AddSub, Sign::SubAdd]);
        let width = rng.pick(&[32, 64]);
        let (x, y, z) = (value(&mut rng), value(&mut rng), value(&mut rng));
        // Everything masked; rounding, DAZ and FTZ any way.
        let start = 0x1f80 | (rng.next() >> 40) as u32 & 0xe040;
        let (mut soft, mut host) = (start, start);
        let ours = fused::<true>(sign, width, x, y, z, &mut soft).map_err(|_| "fault");
        let theirs = fused::<false>(sign, width, x, y, z, &mut host).map_err(|_| "fault");
        assert_eq!((ours, soft), (theirs, host), "{sign:?} {width}: {x:032x} * {y:032x} + {z:032x}, MXCSR {start:x}");
    }
}
