//! Named random streams: seed and name give the generator (xoshiro256**, Blackman and Vigna).

/// The source of streams for one seed.
#[derive(Clone, Debug)]
pub struct Streams {
    seed: u64,
}

impl Streams {
    /// Makes the family of streams of `seed`.
    pub fn new(seed: u64) -> Streams {
        Streams { seed }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Opens the stream `name` (for example `"disk0.fault"`) at its beginning.
    pub fn stream(&self, name: &str) -> Rng {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"orrery stream 1");
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(name.as_bytes());
        let hash = hasher.finalize();
        let mut state = [0u64; 4];
        for (word, bytes) in state.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
            *word = bytes.iter().rev().fold(0, |acc, &byte| acc << 8 | u64::from(byte));
        }
        if state == [0; 4] {
            state[0] = 1;
        }
        Rng { state }
    }
}

/// One random stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// Draws 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let state = &mut self.state;
        let result = state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        result
    }

    /// Draws a number below `limit` (not zero), without bias worth speaking of (128-bit multiply).
    pub fn below(&mut self, limit: u64) -> u64 {
        assert!(limit != 0, "an empty range holds no number");
        ((u128::from(self.next_u64()) * u128::from(limit)) >> 64) as u64
    }

    /// True with probability `numerator / denominator`.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// The position, for saving.
    pub fn state(&self) -> [u64; 4] {
        self.state
    }

    /// A stream at a saved position; `None` for the all-zero state, which no stream ever has.
    pub fn from_state(state: [u64; 4]) -> Option<Rng> {
        (state != [0; 4]).then_some(Rng { state })
    }
}
