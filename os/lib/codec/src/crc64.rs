//! The hash of ZAP names: CRC-64 with the reflected ECMA-182 polynomial.

const POLYNOMIAL: u64 = 0xC96C_5795_D787_0F42;

const TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u64;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

/// Hash of a (normalised) name, without its NUL, started from the ZAP's salt. The caller keeps the top 28 bits (48 with the
/// `HASH64` flag).
#[must_use]
pub fn zap_hash(salt: u64, name: &[u8]) -> u64 {
    name.iter().fold(salt, |hash, byte| hash >> 8 ^ TABLE[usize::from(hash.to_le_bytes()[0] ^ byte)])
}
