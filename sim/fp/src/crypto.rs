//! CRC32C, carry-less multiplication and AES rounds.

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

static CRC: [u32; 256] = crc_table();

/// CRC32 r, r/m: feeds the low `bytes` bytes of `data` (polynomial 0x11EDC6F41, reflected).
pub fn crc32c(crc: u32, data: u64, bytes: u8) -> u32 {
    data.to_le_bytes().iter().take(usize::from(bytes)).fold(crc, |crc, byte| crc >> 8 ^ CRC[usize::from(crc as u8 ^ byte)])
}

pub fn pclmulqdq(dst: u128, src: u128, imm: u8) -> u128 {
    let x = if imm & 1 == 1 { dst >> 64 } else { dst & u128::from(u64::MAX) };
    let y = if imm & 16 != 0 { (src >> 64) as u64 } else { src as u64 };
    (0..64).fold(0, |acc, i| if y >> i & 1 == 1 { acc ^ x << i } else { acc })
}

const fn times2(x: u8) -> u8 {
    x << 1 ^ if x & 0x80 != 0 { 0x1b } else { 0 }
}

const fn gf_mul(mut x: u8, mut y: u8) -> u8 {
    let mut product = 0;
    while y != 0 {
        if y & 1 == 1 {
            product ^= x;
        }
        x = times2(x);
        y >>= 1;
    }
    product
}

/// The S-box from its definition: the inverse in GF(2^8), then the affine map (FIPS 197 §5.1.1).
const fn sbox() -> ([u8; 256], [u8; 256]) {
    let (mut forward, mut backward) = ([0; 256], [0; 256]);
    let mut i = 0;
    while i < 256 {
        let mut inverse = 0u8;
        let mut j = 1;
        while j < 256 {
            if gf_mul(i as u8, j as u8) == 1 {
                inverse = j as u8;
            }
            j += 1;
        }
        let x = inverse;
        let y = x ^ x.rotate_left(1) ^ x.rotate_left(2) ^ x.rotate_left(3) ^ x.rotate_left(4) ^ 0x63;
        forward[i] = y;
        backward[y as usize] = i as u8;
        i += 1;
    }
    (forward, backward)
}

static SBOX: ([u8; 256], [u8; 256]) = sbox();

fn sub_shift(state: u128) -> [u8; 16] {
    let s = state.to_le_bytes();
    std::array::from_fn(|i| SBOX.0[usize::from(s[(i + 4 * (i % 4)) % 16])])
}
fn inverse_sub_shift(state: u128) -> [u8; 16] {
    let s = state.to_le_bytes();
    std::array::from_fn(|i| SBOX.1[usize::from(s[(i + 16 - 4 * (i % 4)) % 16])])
}
fn mix(s: [u8; 16], m: [u8; 4]) -> u128 {
    u128::from_le_bytes(std::array::from_fn(|i| {
        let column = i / 4 * 4;
        (0..4).fold(0, |acc, k| acc ^ gf_mul(s[column + k], m[(k + 4 - i % 4) % 4]))
    }))
}

pub fn aesenc(dst: u128, src: u128, _: u8) -> u128 {
    mix(sub_shift(dst), [2, 3, 1, 1]) ^ src
}
pub fn aesenclast(dst: u128, src: u128, _: u8) -> u128 {
    u128::from_le_bytes(sub_shift(dst)) ^ src
}
pub fn aesdec(dst: u128, src: u128, _: u8) -> u128 {
    mix(inverse_sub_shift(dst), [14, 11, 13, 9]) ^ src
}
pub fn aesdeclast(dst: u128, src: u128, _: u8) -> u128 {
    u128::from_le_bytes(inverse_sub_shift(dst)) ^ src
}
pub fn aesimc(_: u128, src: u128, _: u8) -> u128 {
    mix(src.to_le_bytes(), [14, 11, 13, 9])
}
pub fn aeskeygenassist(_: u128, src: u128, imm: u8) -> u128 {
    let sub = |x: u32| u32::from_le_bytes(x.to_le_bytes().map(|v| SBOX.0[usize::from(v)]));
    let (x1, x3) = (sub((src >> 32) as u32), sub((src >> 96) as u32));
    let rcon = u32::from(imm);
    u128::from(x1) | u128::from(x1.rotate_right(8) ^ rcon) << 32 | u128::from(x3) << 64 | u128::from(x3.rotate_right(8) ^ rcon) << 96
}
