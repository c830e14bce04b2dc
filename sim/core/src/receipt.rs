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
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.hash);
        hasher.update(&tick.to_le_bytes());
        hasher.update(&(label.len() as u64).to_le_bytes());
        hasher.update(label.as_bytes());
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        self.hash = *hasher.finalize().as_bytes();
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

impl fmt::Display for Receipt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.hash[..16] {
            write!(out, "{byte:02x}")?;
        }
        write!(out, "/{}", self.links)
    }
}
