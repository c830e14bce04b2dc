//! Random numbers: ChaCha12, keyed at boot from what the machine gives, and re-keyed after every use.

use core::sync::atomic::{AtomicBool, Ordering};

use kif::Rng;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sync::{Class, SpinLock};

/// The generator; see [`Rng`].
pub struct Random {
    key: SpinLock<[u8; 32]>,
    seeded: AtomicBool,
}

impl Random {
    pub const fn new() -> Self {
        Self { key: SpinLock::new(Class::Random, [0; 32]), seeded: AtomicBool::new(false) }
    }

    /// Mixes words into the key.
    pub fn seed(&self, words: &[u64]) {
        let mut key = self.key.lock();
        for word in words {
            for (byte, mix) in key.iter_mut().zip(word.to_le_bytes()) {
                *byte ^= mix;
            }
            ChaCha12Rng::from_seed(*key).fill_bytes(&mut *key);
        }
        self.seeded.store(true, Ordering::Relaxed);
    }
}

impl Rng for Random {
    fn fill(&self, out: &mut [u8]) {
        assert!(self.seeded.load(Ordering::Relaxed), "random numbers are used before they are seeded");
        let hardware = hal::cpu::hardware_random().unwrap_or_default() ^ hal::cpu::timestamp();
        let mut generator = {
            let mut key = self.key.lock();
            for (byte, mix) in key.iter_mut().zip(hardware.to_le_bytes()) {
                *byte ^= mix;
            }
            let mut generator = ChaCha12Rng::from_seed(*key);
            // The old key is gone: what was handed out cannot be computed again from memory.
            generator.fill_bytes(&mut *key);
            generator
        };
        generator.fill_bytes(out);
    }
}
