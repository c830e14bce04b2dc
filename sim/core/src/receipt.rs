//! The receipt: a hash chain over machine state.

use std::fmt;

/// A running hash over what the machine did. Two runs that print the same receipt were the same run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    hash: [u8; 32],
    links: u64,
}

impl Receipt {
    /// Starts a chain.
    pub fn new() -> Receipt {
        Receipt::default()
    }

    /// Adds one link: a label (what is hashed), the tick it belongs to, and the parts.
    pub fn extend(&mut self, label: &str, tick: u64, parts: &[&[u8]]) {
        let length = HEAD + label.len() + parts.iter().map(|part| 8 + part.len()).sum::<usize>();
        let mut gather = Gather { hasher: blake3::Hasher::new(), bytes: Vec::with_capacity(length.min(GATHER)) };
        gather.put(&self.hash);
        gather.put(&tick.to_le_bytes());
        gather.put(&(label.len() as u64).to_le_bytes());
        gather.put(label.as_bytes());
        for part in parts {
            gather.put(&(part.len() as u64).to_le_bytes());
            gather.put(part);
        }
        self.hash = gather.finish();
        self.links += 1;
    }

    /// Links so far.
    pub fn links(&self) -> u64 {
        self.links
    }

    /// The value of the chain.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Continues a saved chain.
    pub fn from_parts(hash: [u8; 32], links: u64) -> Receipt {
        Receipt { hash, links }
    }
}

/// Bytes hashed at once. Parts are mostly a page with its number before it: one by one each would begin in the middle of a chunk, which is hashed block by
/// block; whole subtrees go through wide instructions, four times as fast.
const GATHER: usize = 64 << 10;
/// What comes before the label: the hash so far, the tick, the label's length.
const HEAD: usize = 48;

/// Hands bytes on in pieces of [`GATHER`].
struct Gather {
    hasher: blake3::Hasher,
    bytes: Vec<u8>,
}

impl Gather {
    fn put(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (now, rest) = data.split_at(data.len().min(GATHER - self.bytes.len()));
            self.bytes.extend_from_slice(now);
            if self.bytes.len() == GATHER {
                self.hasher.update(&self.bytes);
                self.bytes.clear();
            }
            data = rest;
        }
    }

    fn finish(mut self) -> [u8; 32] {
        self.hasher.update(&self.bytes);
        *self.hasher.finalize().as_bytes()
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.hash[..16] {
            write!(out, "{byte:02x}")?;
        }
        write!(out, "/{}", self.links)
    }
}
