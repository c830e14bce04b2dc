//! Content made from a seed, and the sums of what went over a connection.

use sha2::{Digest as _, Sha256};
use sim_core::{Rng, Streams};

/// Bytes that seed and length determine.
#[derive(Clone, Debug)]
pub struct Content {
    random: Rng,
    word: [u8; 8],
    used: usize,
    left: u64,
}

impl Content {
    pub fn new(seed: u64, bytes: u64) -> Self {
        Self { random: Streams::new(seed).stream("content"), word: [0; 8], used: 8, left: bytes }
    }

    /// Fills as much of `into` as there is content; returns how much.
    pub fn fill(&mut self, into: &mut [u8]) -> usize {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        for byte in &mut into[..count] {
            if self.used == 8 {
                self.word = self.random.next_u64().to_le_bytes();
                self.used = 0;
            }
            *byte = self.word[self.used];
            self.used += 1;
        }
        self.left -= count as u64;
        count
    }

    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// SHA-256 of all that is left, in hexadecimal.
    pub fn sum(mut self) -> String {
        let mut meter = Meter::default();
        let mut piece = [0; 4096];
        while !self.is_empty() {
            let count = self.fill(&mut piece);
            meter.take(&piece[..count]);
        }
        meter.sum()
    }
}

/// SHA-256 and length of a stream so far.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    hash: Sha256,
    pub bytes: u64,
}

impl Meter {
    pub fn take(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// The sum in hexadecimal.
    pub fn sum(&self) -> String {
        self.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
