//! Integer SIMD, MMX to SSE4.2: plain Rust over lanes (the compiler turns most of them back into SIMD).

fn b(x: u128) -> [u8; 16] {
    x.to_le_bytes()
}
fn from_b(x: [u8; 16]) -> u128 {
    u128::from_le_bytes(x)
}
fn w(x: u128) -> [u16; 8] {
    let x = x.to_le_bytes();
    std::array::from_fn(|i| u16::from_le_bytes([x[2 * i], x[2 * i + 1]]))
}
fn from_w(x: [u16; 8]) -> u128 {
    let mut out = [0; 16];
    for (chunk, v) in out.chunks_exact_mut(2).zip(x) {
        chunk.copy_from_slice(&v.to_le_bytes());
    }
    u128::from_le_bytes(out)
}
fn d(x: u128) -> [u32; 4] {
    [x as u32, (x >> 32) as u32, (x >> 64) as u32, (x >> 96) as u32]
}
fn from_d(x: [u32; 4]) -> u128 {
    u128::from(x[0]) | u128::from(x[1]) << 32 | u128::from(x[2]) << 64 | u128::from(x[3]) << 96
}
fn q(x: u128) -> [u64; 2] {
    [x as u64, (x >> 64) as u64]
}
fn from_q(x: [u64; 2]) -> u128 {
    u128::from(x[0]) | u128::from(x[1]) << 64
}

macro_rules! lanewise {
    ($($name:ident $get:ident $put:ident |$x:ident, $y:ident| $body:expr;)*) => {$(
        pub fn $name(dst: u128, src: u128, _: u8) -> u128 {
            let (x, y) = ($get(dst), $get(src));
            $put(std::array::from_fn(|i| { let ($x, $y) = (x[i], y[i]); $body }))
        }
    )*};
}

fn all_if(condition: bool) -> u64 {
    if condition { u64::MAX } else { 0 }
}

lanewise! {
    paddb b from_b |x, y| x.wrapping_add(y);
    paddw w from_w |x, y| x.wrapping_add(y);
    paddd d from_d |x, y| x.wrapping_add(y);
    paddq q from_q |x, y| x.wrapping_add(y);
    psubb b from_b |x, y| x.wrapping_sub(y);
    psubw w from_w |x, y| x.wrapping_sub(y);
    psubd d from_d |x, y| x.wrapping_sub(y);
    psubq q from_q |x, y| x.wrapping_sub(y);
    paddsb b from_b |x, y| (x as i8).saturating_add(y as i8) as u8;
    paddsw w from_w |x, y| (x as i16).saturating_add(y as i16) as u16;
    paddusb b from_b |x, y| x.saturating_add(y);
    paddusw w from_w |x, y| x.saturating_add(y);
    psubsb b from_b |x, y| (x as i8).saturating_sub(y as i8) as u8;
    psubsw w from_w |x, y| (x as i16).saturating_sub(y as i16) as u16;
    psubusb b from_b |x, y| x.saturating_sub(y);
    psubusw w from_w |x, y| x.saturating_sub(y);
    pavgb b from_b |x, y| ((u16::from(x) + u16::from(y) + 1) >> 1) as u8;
    pavgw w from_w |x, y| ((u32::from(x) + u32::from(y) + 1) >> 1) as u16;
    pmaxub b from_b |x, y| x.max(y);
    pmaxuw w from_w |x, y| x.max(y);
    pmaxud d from_d |x, y| x.max(y);
    pmaxsb b from_b |x, y| (x as i8).max(y as i8) as u8;
    pmaxsw w from_w |x, y| (x as i16).max(y as i16) as u16;
    pmaxsd d from_d |x, y| (x as i32).max(y as i32) as u32;
    pminub b from_b |x, y| x.min(y);
    pminuw w from_w |x, y| x.min(y);
    pminud d from_d |x, y| x.min(y);
    pminsb b from_b |x, y| (x as i8).min(y as i8) as u8;
    pminsw w from_w |x, y| (x as i16).min(y as i16) as u16;
    pminsd d from_d |x, y| (x as i32).min(y as i32) as u32;
    pcmpeqb b from_b |x, y| all_if(x == y) as u8;
    pcmpeqw w from_w |x, y| all_if(x == y) as u16;
    pcmpeqd d from_d |x, y| all_if(x == y) as u32;
    pcmpeqq q from_q |x, y| all_if(x == y);
    pcmpgtb b from_b |x, y| all_if(x as i8 > y as i8) as u8;
    pcmpgtw w from_w |x, y| all_if(x as i16 > y as i16) as u16;
    pcmpgtd d from_d |x, y| all_if(x as i32 > y as i32) as u32;
    pcmpgtq q from_q |x, y| all_if(x as i64 > y as i64);
    pmullw w from_w |x, y| x.wrapping_mul(y);
    pmulhw w from_w |x, y| ((i32::from(x as i16) * i32::from(y as i16)) >> 16) as u16;
    pmulhuw w from_w |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16;
    pmulhrsw w from_w |x, y| ((((i32::from(x as i16) * i32::from(y as i16)) >> 14) + 1) >> 1) as u16;
    pmulld d from_d |x, y| x.wrapping_mul(y);
    pmuludq q from_q |x, y| u64::from(x as u32) * u64::from(y as u32);
    pmuldq q from_q |x, y| (i64::from(x as i32) * i64::from(y as i32)) as u64;
    psignb b from_b |x, y| sign(i32::from(x as i8), i32::from(y as i8)) as u8;
    psignw w from_w |x, y| sign(i32::from(x as i16), i32::from(y as i16)) as u16;
    psignd d from_d |x, y| sign(x as i32, y as i32) as u32;
    pabsb b from_b |_x, y| (y as i8).unsigned_abs();
    pabsw w from_w |_x, y| (y as i16).unsigned_abs();
    pabsd d from_d |_x, y| (y as i32).unsigned_abs();
}

fn sign(x: i32, y: i32) -> i32 {
    match y.signum() {
        -1 => x.wrapping_neg(),
        0 => 0,
        _ => x,
    }
}

pub fn and(dst: u128, src: u128, _: u8) -> u128 {
    dst & src
}
pub fn andn(dst: u128, src: u128, _: u8) -> u128 {
    !dst & src
}
pub fn or(dst: u128, src: u128, _: u8) -> u128 {
    dst | src
}
pub fn xor(dst: u128, src: u128, _: u8) -> u128 {
    dst ^ src
}

pub fn pmaddwd(dst: u128, src: u128, _: u8) -> u128 {
    let (x, y) = (w(dst), w(src));
    let product = |i: usize| i32::from(x[i] as i16) * i32::from(y[i] as i16);
    from_d(std::array::from_fn(|i| product(2 * i).wrapping_add(product(2 * i + 1)) as u32))
}
pub fn pmaddubsw(dst: u128, src: u128, _: u8) -> u128 {
    let (x, y) = (b(dst), b(src));
    let product = |i: usize| i32::from(x[i]) * i32::from(y[i] as i8);
    from_w(std::array::from_fn(|i| (product(2 * i) + product(2 * i + 1)).clamp(-0x8000, 0x7fff) as u16))
}
pub fn psadbw(dst: u128, src: u128, _: u8) -> u128 {
    let (x, y) = (b(dst), b(src));
    let sum = |from: usize| (from..from + 8).map(|i| u64::from(x[i].abs_diff(y[i]))).sum::<u64>();
    from_q([sum(0), sum(8)])
}
pub fn mpsadbw(dst: u128, src: u128, imm: u8) -> u128 {
    let (x, y) = (b(dst), b(src));
    let (at, from) = (usize::from(imm >> 2 & 1) * 4, usize::from(imm & 3) * 4);
    from_w(std::array::from_fn(|i| (0..4).map(|j| u16::from(x[at + i + j].abs_diff(y[from + j]))).sum()))
}
pub fn phminposuw(_: u128, src: u128, _: u8) -> u128 {
    let words = w(src);
    let (index, value) = words.iter().enumerate().min_by_key(|&(i, v)| (*v, i)).map_or((0, 0), |(i, v)| (i, *v));
    u128::from(value) | (index as u128) << 16
}

macro_rules! horizontal {
    ($($name:ident $get:ident $put:ident $half:literal |$x:ident, $y:ident| $body:expr;)*) => {$(
        pub fn $name(dst: u128, src: u128, _: u8) -> u128 {
            let (low, high) = ($get(dst), $get(src));
            $put(std::array::from_fn(|i| {
                let from = if i < $half { &low } else { &high };
                let at = 2 * (i % $half);
                let ($x, $y) = (from[at], from[at + 1]);
                $body
            }))
        }
    )*};
}

horizontal! {
    phaddw w from_w 4 |x, y| x.wrapping_add(y);
    phaddd d from_d 2 |x, y| x.wrapping_add(y);
    phaddsw w from_w 4 |x, y| (x as i16).saturating_add(y as i16) as u16;
    phsubw w from_w 4 |x, y| x.wrapping_sub(y);
    phsubd d from_d 2 |x, y| x.wrapping_sub(y);
    phsubsw w from_w 4 |x, y| (x as i16).saturating_sub(y as i16) as u16;
}

pub fn packsswb(dst: u128, src: u128, _: u8) -> u128 {
    let (x, y) = (w(dst), w(src));
    from_b(std::array::from_fn(|i| (if i < 8 { x[i] } else { y[i - 8] } as i16).clamp(-0x80, 0x7f) as u8))
}
pub fn packuswb(dst: u128, src: u128, _: u8) -> u128 {
    let (x, y) = (w(dst), w(src));
    from_b(std::array::from_fn(|i| (if i < 8 { x[i] } else { y[i - 8] } as i16).clamp(0, 0xff) as u8))
}
pub fn packssdw(dst: u128, src: u128, _: u8) -> u128 {
    let (x, y) = (d(dst), d(src));
    from_w(std::array::from_fn(|i| (if i < 4 { x[i] } else { y[i - 4] } as i32).clamp(-0x8000, 0x7fff) as u16))
}
pub fn packusdw(dst: u128, src: u128, _: u8) -> u128 {
    let (x, y) = (d(dst), d(src));
    from_w(std::array::from_fn(|i| (if i < 4 { x[i] } else { y[i - 4] } as i32).clamp(0, 0xffff) as u16))
}

macro_rules! unpack {
    ($($low:ident $high:ident $get:ident $put:ident $n:literal;)*) => {$(
        pub fn $low(dst: u128, src: u128, _: u8) -> u128 {
            let (x, y) = ($get(dst), $get(src));
            $put(std::array::from_fn(|i| if i % 2 == 0 { x[i / 2] } else { y[i / 2] }))
        }
        pub fn $high(dst: u128, src: u128, _: u8) -> u128 {
            let (x, y) = ($get(dst), $get(src));
            $put(std::array::from_fn(|i| if i % 2 == 0 { x[$n / 2 + i / 2] } else { y[$n / 2 + i / 2] }))
        }
    )*};
}

unpack! {
    punpcklbw punpckhbw b from_b 16;
    punpcklwd punpckhwd w from_w 8;
    punpckldq punpckhdq d from_d 4;
    punpcklqdq punpckhqdq q from_q 2;
}

pub fn pshufb(dst: u128, src: u128, _: u8) -> u128 {
    let (x, y) = (b(dst), b(src));
    from_b(std::array::from_fn(|i| if y[i] & 0x80 != 0 { 0 } else { x[usize::from(y[i] & 15)] }))
}
pub fn pshufd(_: u128, src: u128, imm: u8) -> u128 {
    let y = d(src);
    from_d(std::array::from_fn(|i| y[usize::from(imm >> (2 * i) & 3)]))
}
pub fn pshuflw(_: u128, src: u128, imm: u8) -> u128 {
    let y = w(src);
    from_w(std::array::from_fn(|i| if i < 4 { y[usize::from(imm >> (2 * i) & 3)] } else { y[i] }))
}
pub fn pshufhw(_: u128, src: u128, imm: u8) -> u128 {
    let y = w(src);
    from_w(std::array::from_fn(|i| if i < 4 { y[i] } else { y[4 + usize::from(imm >> (2 * (i - 4)) & 3)] }))
}
pub fn shufps(dst: u128, src: u128, imm: u8) -> u128 {
    let (x, y) = (d(dst), d(src));
    from_d(std::array::from_fn(|i| (if i < 2 { x } else { y })[usize::from(imm >> (2 * i) & 3)]))
}
pub fn shufpd(dst: u128, src: u128, imm: u8) -> u128 {
    from_q([q(dst)[usize::from(imm & 1)], q(src)[usize::from(imm >> 1 & 1)]])
}
pub fn movddup(_: u128, src: u128, _: u8) -> u128 {
    from_q([src as u64; 2])
}
pub fn movshdup(_: u128, src: u128, _: u8) -> u128 {
    let y = d(src);
    from_d([y[1], y[1], y[3], y[3]])
}
pub fn movsldup(_: u128, src: u128, _: u8) -> u128 {
    let y = d(src);
    from_d([y[0], y[0], y[2], y[2]])
}
pub fn palignr(dst: u128, src: u128, imm: u8) -> u128 {
    match u32::from(imm) {
        0 => src,
        n @ 1..=15 => src >> (8 * n) | dst << (128 - 8 * n),
        n @ 16..=31 => dst >> (8 * (n - 16)),
        _ => 0,
    }
}
pub fn pslldq(dst: u128, _: u128, imm: u8) -> u128 {
    if imm > 15 { 0 } else { dst << (8 * imm) }
}
pub fn psrldq(dst: u128, _: u128, imm: u8) -> u128 {
    if imm > 15 { 0 } else { dst >> (8 * imm) }
}

/// Shifts whose count is the low 64 bits of the source, or (the immediate forms) `src` made from the immediate.
macro_rules! shifts {
    ($($name:ident $get:ident $put:ident $bits:literal |$x:ident, $n:ident| $body:expr, $over:expr;)*) => {$(
        pub fn $name(dst: u128, src: u128, _: u8) -> u128 {
            let count = src as u64;
            let x = $get(dst);
            if count >= $bits {
                let over: fn(_) -> _ = $over;
                return $put(x.map(over));
            }
            let $n = count as u32;
            $put(x.map(|$x| $body))
        }
    )*};
}

shifts! {
    psllw w from_w 16 |x, n| x << n, |_| 0;
    pslld d from_d 32 |x, n| x << n, |_| 0;
    psllq q from_q 64 |x, n| x << n, |_| 0;
    psrlw w from_w 16 |x, n| x >> n, |_| 0;
    psrld d from_d 32 |x, n| x >> n, |_| 0;
    psrlq q from_q 64 |x, n| x >> n, |_| 0;
    psraw w from_w 16 |x, n| (x as i16 >> n) as u16, |x: u16| (x as i16 >> 15) as u16;
    psrad d from_d 32 |x, n| (x as i32 >> n) as u32, |x: u32| (x as i32 >> 31) as u32;
}

macro_rules! extend {
    ($($name:ident $from:ident $signed:ident $put:ident $to:ident;)*) => {$(
        pub fn $name(_: u128, src: u128, _: u8) -> u128 {
            let y = $from(src);
            $put(std::array::from_fn(|i| i64::from(y[i] as $signed) as $to))
        }
    )*};
}

extend! {
    pmovsxbw b i8 from_w u16; pmovsxbd b i8 from_d u32; pmovsxbq b i8 from_q u64;
    pmovsxwd w i16 from_d u32; pmovsxwq w i16 from_q u64; pmovsxdq d i32 from_q u64;
    pmovzxbw b u8 from_w u16; pmovzxbd b u8 from_d u32; pmovzxbq b u8 from_q u64;
    pmovzxwd w u16 from_d u32; pmovzxwq w u16 from_q u64; pmovzxdq d u32 from_q u64;
}

pub fn pblendw(dst: u128, src: u128, imm: u8) -> u128 {
    let (x, y) = (w(dst), w(src));
    from_w(std::array::from_fn(|i| if imm >> i & 1 == 1 { y[i] } else { x[i] }))
}
pub fn blendps(dst: u128, src: u128, imm: u8) -> u128 {
    let (x, y) = (d(dst), d(src));
    from_d(std::array::from_fn(|i| if imm >> i & 1 == 1 { y[i] } else { x[i] }))
}
pub fn blendpd(dst: u128, src: u128, imm: u8) -> u128 {
    let (x, y) = (q(dst), q(src));
    from_q(std::array::from_fn(|i| if imm >> i & 1 == 1 { y[i] } else { x[i] }))
}
pub fn pblendvb(dst: u128, src: u128, mask: u128) -> u128 {
    let (x, y, m) = (b(dst), b(src), b(mask));
    from_b(std::array::from_fn(|i| if m[i] & 0x80 != 0 { y[i] } else { x[i] }))
}
pub fn blendvps(dst: u128, src: u128, mask: u128) -> u128 {
    let (x, y, m) = (d(dst), d(src), d(mask));
    from_d(std::array::from_fn(|i| if m[i] >> 31 != 0 { y[i] } else { x[i] }))
}
pub fn blendvpd(dst: u128, src: u128, mask: u128) -> u128 {
    let (x, y, m) = (q(dst), q(src), q(mask));
    from_q(std::array::from_fn(|i| if m[i] >> 63 != 0 { y[i] } else { x[i] }))
}

/// INSERTPS. From memory the element is in lane 0 and the caller clears the source selector.
pub fn insertps(dst: u128, src: u128, imm: u8) -> u128 {
    let mut x = d(dst);
    x[usize::from(imm >> 4 & 3)] = d(src)[usize::from(imm >> 6)];
    from_d(std::array::from_fn(|i| if imm >> i & 1 == 1 { 0 } else { x[i] }))
}
pub fn pinsrb(dst: u128, src: u128, imm: u8) -> u128 {
    insert(dst, src, 8, imm & 15)
}
pub fn pinsrw(dst: u128, src: u128, imm: u8) -> u128 {
    insert(dst, src, 16, imm & 7)
}
pub fn pinsrd(dst: u128, src: u128, imm: u8) -> u128 {
    insert(dst, src, 32, imm & 3)
}
pub fn pinsrq(dst: u128, src: u128, imm: u8) -> u128 {
    insert(dst, src, 64, imm & 1)
}
fn insert(dst: u128, src: u128, width: u32, index: u8) -> u128 {
    let mask = (u128::MAX >> (128 - width)) << (width * u32::from(index));
    dst & !mask | src << (width * u32::from(index)) & mask
}
pub fn pextrb(src: u128, imm: u8) -> u64 {
    u64::from(b(src)[usize::from(imm & 15)])
}
pub fn pextrw(src: u128, imm: u8) -> u64 {
    u64::from(w(src)[usize::from(imm & 7)])
}
pub fn pextrd(src: u128, imm: u8) -> u64 {
    u64::from(d(src)[usize::from(imm & 3)])
}
pub fn pextrq(src: u128, imm: u8) -> u64 {
    q(src)[usize::from(imm & 1)]
}
pub fn movmskps(src: u128, _: u8) -> u64 {
    d(src).iter().enumerate().fold(0, |acc, (i, x)| acc | u64::from(x >> 31) << i)
}
pub fn movmskpd(src: u128, _: u8) -> u64 {
    q(src).iter().enumerate().fold(0, |acc, (i, x)| acc | (x >> 63) << i)
}
pub fn pmovmskb(src: u128, _: u8) -> u64 {
    // Gathers the top bit of each byte of a half by one multiplication.
    let half = |x: u64| ((x & 0x8080_8080_8080_8080) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    half(src as u64) | half((src >> 64) as u64) << 8
}

/// PTEST: ZF if no bit of the source is in the destination, CF if all are.
pub fn ptest(dst: u128, src: u128) -> u32 {
    u32::from(dst & src == 0) << 6 | u32::from(!dst & src == 0)
}

// SSE4a's and SSE2's odds.

pub fn movmskb_mmx(src: u64) -> u64 {
    ((src & 0x8080_8080_8080_8080) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// An MMX instruction through its SSE sibling: `f` sees both operands in one register where lanes cross, else side by side.
pub mod mmx {
    use super::{b, from_b};

    /// Lane by lane, or reading only low halves (PUNPCKL).
    pub fn plain(f: fn(u128, u128, u8) -> u128, dst: u64, src: u64, imm: u8) -> u64 {
        f(u128::from(dst), u128::from(src), imm) as u64
    }
    /// PACK and PHADD: results of the destination, then of the source.
    pub fn joined(f: fn(u128, u128, u8) -> u128, dst: u64, src: u64, imm: u8) -> u64 {
        f(u128::from(dst) | u128::from(src) << 64, 0, imm) as u64
    }
    /// PUNPCKH is PUNPCKL of the upper halves.
    pub fn upper(low: fn(u128, u128, u8) -> u128, dst: u64, src: u64) -> u64 {
        low(u128::from(dst >> 32), u128::from(src >> 32), 0) as u64
    }
    pub fn pshufb(dst: u64, src: u64) -> u64 {
        super::pshufb(u128::from(dst), u128::from(src & 0x8787_8787_8787_8787), 0) as u64
    }
    pub fn palignr(dst: u64, src: u64, imm: u8) -> u64 {
        if imm > 15 { 0 } else { ((u128::from(dst) << 64 | u128::from(src)) >> (8 * imm)) as u64 }
    }
    /// MASKMOVQ and MASKMOVDQU: which bytes are stored.
    pub fn store_mask(mask: u128) -> u16 {
        super::pmovmskb(mask, 0) as u16
    }
    /// Merges `value` into `old` by a byte mask.
    pub fn merge(old: u128, value: u128, mask: u16) -> u128 {
        let (x, y) = (b(old), b(value));
        from_b(std::array::from_fn(|i| if mask >> i & 1 == 1 { y[i] } else { x[i] }))
    }
}
