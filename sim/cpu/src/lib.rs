//! The x86-64 processor: decode, blocks, interpreter, paging and TLB, exceptions.
//!
//! # Theory
//! Guest instructions are decoded once (`iced-x86`) into [`op::Op`]s, small structs with a function pointer to a handler specialised for the
//! operand form, kept in blocks. A block belongs to (linear address, physical page, mode bits), so that it is right under any mapping; blocks remember
//! their successors, so hot code runs from block to block with one comparison for the deadline and no look-up.
//!
//! *Exactness.* The engine stops at any tick asked for, and nothing a guest or a debugger can see depends on where a run was cut. Each handler
//! checks everything that can fault before it changes anything, so an instruction either happened or did not. A block is
//! charged to the budget before it runs; a fault, a device access or a cut in the middle takes the charge for the rest back. If the deadline lies inside the
//! block, just the operations that fit run.
//!
//! *Transparency.* Blocks, links, fast TLB tags and lazy flags can be dropped at any moment unseen. The TLB entries proper cannot: guests see stale
//! translations. They are state (see `tlb.rs`), with one more entry, the *code latch*: the translation of the page being executed stays in
//! use until control leaves the page or something flushes.
//!
//! *Self-modifying code.* [`sim_mem::GuestMemory`] logs writes to pages with decoded code; a store that hits one ends its block, and the log is read before
//! anything else runs. The next instruction sees the new bytes, whoever wrote them through whatever mapping.
//!
//! # States
//! [`Activity`]: running, halted (until interrupt, NMI, INIT), waiting for SIPI, shut down (triple fault).
//!
//! # Structures
//! [`Cpu`] = `Core` (hot state: registers, lazy flags, TLB) + block cache + debugger hooks. [`CpuState`] is the architectural state as plain data.
//!
//! # Locking
//! None: `&mut`. Several vCPUs share one memory and take turns; each has its own TLB, and hands on decoded and translated code ([`Cpu::take_code`]).
//!
//! # Failure
//! Guest code can do anything; the worst it gets is [`Stop::TripleFault`]. No guest input panics the engine.
//!
//! # Limits
//! 64 instructions or 240 bytes a block; 2 M operations (64 MiB) in the cache, then it starts over; 64K TLB entries. Virtual addresses have 48 bits;
//! physical ones [`Config::physical_bits`]. MONITOR, MWAIT, SMM, TSX and the store buffer do not exist. AVX, AVX2, FMA and F16C exist
//! with [`CpuModel::V3`] (elsewhere CPUID says no and they raise #UD); AVX-512 does not. Code outside RAM and ROM reads as 0xff bytes.
//! VME and performance counters do not exist.
//!
//! # Tests
//! `tests/integer.ins` (one line an instruction), `tests/paging.rs` (TLB, faults, debug), `tests/cuts.rs` and `tests/fuzz.rs` (cuts cannot be seen, garbage
//! cannot panic), `tests/speed.rs` (a measurement); the differential oracle is `sim-cpu-oracle`.
//!
//! # Reading order
//! `state.rs`, `op.rs`, `core.rs`, `flags.rs`, `tlb.rs`, `mmu.rs`, `block.rs`, `run.rs`, `lower.rs`, then `ops/`; `exception.rs`, `task.rs` and `svm.rs` for what
//! systems do.

pub mod bare;
mod block;
mod core;
mod cpuid;
mod engine;
mod exception;
mod flags;
mod fpu;
pub mod fuzz;
mod hot;
mod lower;
mod mmu;
mod op;
mod ops;
mod run;
mod shared;
mod simd;
mod state;
mod svm;
mod task;
mod tlb;
mod vex;

pub use crate::core::Watch;
pub use cpuid::{CpuChoice, CpuidLeaf, CpuidTable, CpuModel};
pub use engine::{Engine, choose_engine, chosen_engine, on_engine, on_spoiled_engine};
pub use hot::HOT;
pub use run::Cpu;
pub use sim_bus::{At, Attention, CpuBus, DebugStop, Stop};
pub use state::{Activity, CpuState, Segment, System, TableRegister, attr, cr0, cr4, efer, rflags};
pub use svm::Svm;
pub use state::{CS, DS, ES, FS, GS, LDTR, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, SS, TR};

/// What a vCPU is like.
#[derive(Clone, Debug)]
pub struct Config {
    /// Index of the vCPU, passed to the bus.
    pub vcpu: u32,
    /// CPUID by leaf and subleaf; what is absent reads as zero.
    pub cpuid: CpuidTable,
    /// Width of physical addresses; bits above are reserved in page tables.
    pub physical_bits: u32,
    /// PAUSE ends the turn with [`Stop::Pause`].
    pub pause_ends_turn: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config { vcpu: 0, cpuid: CpuidTable::v2(0, 1), physical_bits: 40, pause_ends_turn: false }
    }
}
