//! One stock of decoded and translated code for all vCPUs of a machine.
//!
//! # Theory
//! Code belongs to (linear address, physical page, mode bits), whoever runs it, and the vCPUs of a machine run the same kernel and the same programs. With a stock for each of them, each
//! decodes and translates everything once more, and each turn finds the host's caches full of the others' copies: turns of 1,000 ticks spent more time on that than on
//! the ticks. So the stock goes with the turn ([`Cpu::take_code`]): whoever runs has it, and nobody else looks at it.
//!
//! What is decoded depends on three things that vCPUs could differ in: which instructions they have, where they stop, and how far the memory's log of code writes
//! was read. Where one of the first two differs the stock starts over; the third goes with it.
//!
//! # Exactness
//! The stock is transparent: it may be dropped at any time. What is state (TLB, code latch) stays with its vCPU.

use crate::Config;
use crate::block::Cache;
use crate::run::Cpu;

impl Cpu {
    /// As [`Cpu::new`], but without a place for code: it is to take another's before it runs ([`Cpu::take_code`]). If it does not, it interprets.
    pub fn beside(config: Config) -> Cpu {
        Cpu::with_code(config, Cache::nowhere(), None)
    }

    /// Takes what `other` has decoded and translated; `other` gets what was here.
    pub fn take_code(&mut self, other: &mut Cpu) {
        if self.core.features != other.core.features || !self.stops_as(other) {
            self.flush_blocks();
            other.flush_blocks();
        }
        std::mem::swap(&mut self.cache, &mut other.cache);
        std::mem::swap(&mut self.hot, &mut other.hot);
        std::mem::swap(&mut self.core.code_log, &mut other.core.code_log);
    }
}
