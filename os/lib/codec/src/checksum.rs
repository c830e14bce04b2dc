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
    // Putting lanes together costs as much as some hundred words.
    let whole = if data.len() < 1024 { 0 } else { data.len() & !15 };
    let (whole, rest) = data.split_at(whole);
    let [mut a, mut b, mut c, mut d] = if whole.is_empty() { from } else { joined(from, whole) };
    for word in rest.as_chunks::<4>().0 {
        a = a.wrapping_add(u64::from(u32::from_le_bytes(*word)));
        b = b.wrapping_add(a);
        c = c.wrapping_add(b);
        d = d.wrapping_add(c);
    }
    [a, b, c, d]
}

/// Words 0, 4, 8, ... are summed by one lane, 1, 5, 9, ... by the next. `sums[0]` is `a` of each lane, and so on.
///
/// Sums that come in and go out in memory make LLVM use vectors, at every target; a caller around it might end that.
#[inline(never)]
fn lanes(data: &[u8], sums: &mut [[u64; 4]; 4]) {
    fn add(left: [u64; 4], right: [u64; 4]) -> [u64; 4] {
        core::array::from_fn(|lane| left[lane].wrapping_add(right[lane]))
    }
    let [mut a, mut b, mut c, mut d] = *sums;
    for words in data.as_chunks::<16>().0 {
        let words = words.as_chunks::<4>().0;
        a = add(a, core::array::from_fn(|lane| u64::from(u32::from_le_bytes(words[lane]))));
        b = add(b, a);
        c = add(c, b);
        d = add(d, c);
    }
    *sums = [a, b, c, d];
}

/// The sum over `data`, a multiple of 16 bytes, from those of its lanes.
///
/// The last but m-th of n words counts 1 in `a`, m in `b`, m(m+1)/2 in `c` and m(m+1)(m+2)/6 in `d`. Word k of lane l is word 4k + l of all, so
/// its m of all is 4m - l: put in and sorted by the lane's own four sums, that gives the factors below.
fn joined(from: Words, data: &[u8]) -> Words {
    const BY_SIX: [u64; 4] = [0, 0, 0, 1];
    let mut sums = [[0; 4]; 4];
    lanes(data, &mut sums);
    // What was summed before counts once more with every word.
    let count = (data.len() / 4) as u64;
    let pairs = (count / 2).wrapping_mul(count + 1);
    // A third, modulo two to the 64.
    let triples = pairs.wrapping_mul(count + 2).wrapping_mul(0xAAAA_AAAA_AAAA_AAAB);
    let mut out = from;
    let mut add = |to: usize, factor: u64, what: u64| out[to] = out[to].wrapping_add(factor.wrapping_mul(what));
    for to in 1..4 {
        add(to, count, from[to - 1]);
    }
    add(2, pairs, from[0]);
    add(3, pairs, from[1]);
    add(3, triples, from[0]);
    for lane in 0..4 {
        let [a, b, c, d] = core::array::from_fn(|which| sums[which][lane]);
        let l = lane as u64;
        add(0, 1, a);
        add(1, 4, b);
        add(1, l.wrapping_neg(), a);
        add(2, 16, c);
        add(2, (6 + 4 * l).wrapping_neg(), b);
        add(2, l * l.saturating_sub(1) / 2, a);
        add(3, 64, d);
        add(3, (48 + 16 * l).wrapping_neg(), c);
        add(3, 4 + 4 * l + 2 * l * l, b);
        add(3, BY_SIX[lane].wrapping_neg(), a);
    }
    out
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
