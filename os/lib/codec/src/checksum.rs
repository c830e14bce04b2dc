//! Fletcher and SHA-2 checksums as block pointers hold them.

use sha2::{Digest, Sha256, Sha512_256};

/// A checksum: the four words of a block pointer.
pub type Words = [u64; 4];

/// Fletcher-4 over little-endian 32-bit words. A tail shorter than a word is ignored (blocks are multiples of 512 bytes).
#[must_use]
pub fn fletcher4(data: &[u8]) -> Words {
    fletcher4_continue([0; 4], data)
}

/// Continues a Fletcher-4 sum: send streams keep one running over many records.
#[must_use]
pub fn fletcher4_continue(from: Words, data: &[u8]) -> Words {
    let [mut a, mut b, mut c, mut d] = from;
    for word in data.as_chunks::<4>().0 {
        a = a.wrapping_add(u64::from(u32::from_le_bytes(*word)));
        b = b.wrapping_add(a);
        c = c.wrapping_add(b);
        d = d.wrapping_add(c);
    }
    [a, b, c, d]
}

/// Fletcher-2 over pairs of little-endian 64-bit words.
#[must_use]
pub fn fletcher2(data: &[u8]) -> Words {
    let [mut a0, mut a1, mut b0, mut b1] = [0_u64; 4];
    for pair in data.as_chunks::<16>().0 {
        let (low, high) = pair.split_at(8);
        a0 = a0.wrapping_add(word(low));
        a1 = a1.wrapping_add(word(high));
        b0 = b0.wrapping_add(a0);
        b1 = b1.wrapping_add(a1);
    }
    [a0, a1, b0, b1]
}

/// SHA-256, the digest read as four big-endian words.
#[must_use]
pub fn sha256(data: &[u8]) -> Words {
    Sha256Begun::new(data).end(&[])
}

/// A SHA-256 sum of what several regions begin with: that part is summed once.
#[derive(Clone, Debug)]
pub struct Sha256Begun(Sha256);

impl Sha256Begun {
    /// Sums what comes first.
    #[must_use]
    pub fn new(data: &[u8]) -> Self {
        Self(Sha256::new_with_prefix(data))
    }

    /// The sum of it and of `rest`.
    #[must_use]
    pub fn end(&self, rest: &[u8]) -> Words {
        words_of(&self.0.clone().chain_update(rest).finalize())
    }
}

fn words_of(digest: &[u8]) -> Words {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.as_chunks::<8>().0) {
        *word = u64::from_be_bytes(*bytes);
    }
    words
}

/// SHA-512/256, the digest read as four little-endian words.
#[must_use]
pub fn sha512(data: &[u8]) -> Words {
    let digest = Sha512_256::digest(data);
    let mut words = [0; 4];
    for (out, bytes) in words.iter_mut().zip(digest.as_slice().chunks_exact(8)) {
        *out = word(bytes);
    }
    words
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
