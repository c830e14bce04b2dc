//! Translating hot guest blocks to host code: x86-64 to x86-64, exact to the tick.

mod tlb;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod arena;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod block;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod emit;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod engine;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod frame;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod quirks;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod registers;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use engine::{Translator, disassemble};
pub use tlb::{ENTRIES, FastTags, VIEWS, index};

/// A translated block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitId(pub(crate) u32);

impl UnitId {
    /// Units are numbered from 0 in the order they are made.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Why there is no translator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// Not an x86-64 host with BMI2.
    Processor,
    /// No executable memory.
    Memory,
    /// The encoder refused code of ours.
    Encoder,
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Unavailable::Processor => "translation needs an x86-64 host with BMI2",
            Unavailable::Memory => "the host gives no executable memory",
            Unavailable::Encoder => "the encoder refused the translator's own code",
        })
    }
}

impl std::error::Error for Unavailable {}

/// What translated code works on.
#[derive(Debug)]
pub struct Guest<'a> {
    /// General registers by number; only the first 16 matter.
    pub gpr: &'a mut [u64; 32],
    pub xmm: &'a mut [u128; 16],
    pub mxcsr: &'a mut u32,
    /// The six arithmetic flags as an RFLAGS image.
    pub flags: &'a mut u64,
    /// Ticks until the deadline, negated.
    pub budget: &'a mut i64,
    pub ram: &'a mut [u8],
    pub tags: &'a FastTags,
    pub view: usize,
    pub fs_base: u64,
    pub gs_base: u64,
}

/// Where and how translated code was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub unit: UnitId,
    pub how: How,
}

/// How a unit was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Its end was reached: `way` 0 falls through, 1 takes the branch, to `rip`.
    Way { way: usize, rip: u64 },
    /// The instruction at `rip`, after `done` others, is for the interpreter. Nothing of it happened.
    Before { rip: u64, done: usize },
}
