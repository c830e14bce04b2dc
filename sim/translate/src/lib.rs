//! Translating hot guest blocks to host code: x86-64 to x86-64, exact to the tick.
//!
//! # Theory
//! A block that the interpreter has run often is decoded once more, and each instruction encoded again with other registers and with its memory operand
//! reached through the software TLB. Since host and guest speak the same language, most instructions are themselves. What is not (MMIO, faults, TLB
//! misses, x87, system instructions, breakpoints, single steps) is left to the interpreter: a unit leaves *before* such an instruction, with nothing of it
//! done and the state of the boundary before it. There are no signals and no tricks with the host's page tables.
//!
//! # Registers
//! | host | holds |
//! |---|---|
//! | RSP | the frame (`frame.rs`); stack for the host's signal handlers lies below it |
//! | RAX RDX RBX RBP RSI RDI R8 R9 R10, XMM0-15, MXCSR | themselves |
//! | R14, R15 | guest RCX, RSP |
//! | frame | guest R11 to R15 (a store-forwarded slot at RSP + disp8 each) |
//! | R12 | fast tags of the running view (`tlb.rs`) |
//! | R13 | budget: ticks to the deadline, negated, counting up |
//! | RCX, R11 | scratch |
//!
//! # Flags
//! Host flags are the guest's at every instruction boundary. So *every sequence put between two guest instructions leaves all flags alone*: LEA for sums,
//! RORX and MOVZX for indices, PEXT and JRCXZ for tests. A fault stub therefore restores nothing: registers and flags are those of the boundary, and
//! only the ticks of instructions not done are taken back. What manuals leave undefined follows the interpreter's rule on any host (`quirks.rs`); a product's
//! flags are made by the rule where they can be seen.
//!
//! | sequence | does | flags | when left, restores |
//! |---|---|---|---|
//! | entry: `lea r13,[r13+ticks]` `pext rcx,r13,sign` `jrcxz out` | charges the whole block, unless it would reach the deadline | kept | `out` takes the charge back |
//! | access: `rorx` `movzx` (index), tag + address + size - 1, `pext` of the bits beyond a page, `jrcxz hit`, else out; addend to the host's address | hit test and page crossing in one (alignment of 16-byte SSE operands too: low four bits in the mask) | kept | ticks from this instruction on |
//! | push, call: address and access first, then the value's store, then RSP | restartable: memory is checked before RSP changes | kept | as access |
//! | indirect branch: slot by target + salt, target compared by sum with the negated key | finds the unit at an address in this context; a miss leaves before the branch | kept | as access |
//! | entry from another page: fetch word + negated own word, `jrcxz` | the page is what it was, and its fetch hits | kept | nothing: the unit before is done, this one has not begun |
//! | product: SETC, TEST of the low half, LAHF, OF through AL + 0x7f, SAHF | SF ZF PF of the low half, AF 0 | made | cannot leave |
//! | SWAPGS, CLI, STI: `mov rcx, [not allowed]`, `jrcxz`; the bases change places, RFLAGS with or without IF becomes the present one | out where it would fault, or an event waits for STI | kept | as access |
//! | PUSHFQ: LAHF and SETO into the guest's RAX (put by), PEXT, RORX, PEXT, PDEP, LEA; then as push | the image | kept | as access |
//! | before a unit's first SSE instruction: `mov rcx, [not loaded]`, `jrcxz`, else LEA of the place to come back to, and 16 loads elsewhere | most visits, system code above all, need no XMM register | kept | cannot leave |
//! | registers of the frame: MOV to scratch, the instruction, MOV back | R11 to R15 | kept | cannot leave |
//!
//! # Between units
//! Ways are patched to jump straight. Indirect branches go by address through a cache whose entries hold in one *context*: the mode bits that units depend on, and
//! control registers. Going to another page fetches through the TLB, which is state. So each unit has an entry for control from elsewhere that looks at the page's
//! *fetch word* (`tlb.rs`): set by a fetch that the interpreter did, gone with its TLB entry and with any change of permissions. If it is the unit's own, the
//! fetch would hit and change nothing; else the unit is left before it began, the page of the unit before being the one that code comes from. So neither
//! a change of address space nor a lost entry of the TLB costs more than one fetch by the interpreter for each page.
//!
//! *Self-modifying code.* Stores go directly only to pages whose write tag is set, which no page with decoded code has. So a store to code leaves, the
//! interpreter does it and drops the page's blocks, and [`Translator::kill`] makes their entries leave at once: whoever jumps there, by link or by cache,
//! comes out at the right address.
//!
//! *The host's memory.* Code is written through one mapping and run through another (`arena.rs`); no page is writable and executable.
//!
//! # Exactness
//! A unit's ticks are charged at its entry and only if they end before the deadline; the interpreter runs the rest. A unit that leaves without progress is
//! followed by the interpreter for at least one block. Nothing of this can be seen in a receipt.
//!
//! *STI* holds interrupts off for one more instruction. No event waits when it is translated, and none can come before the deadline but by what the interpreter does;
//! the instruction after it is in the same unit, whose ticks all end before the deadline. So the shadow has no place to be seen at, and none is made. A unit never
//! ends with STI: `sti; hlt` is the interpreter's.
//!
//! # Structures
//! `decode` (what both engines read alike), `tlb` (sealed tags), `frame` (what code sees), `registers`, `quirks`, `emit` (sequences), `block` (one block), `arena` (memory), `engine` (units, links, in and out).
//!
//! # Locking
//! None: `&mut`. A machine has one, which goes from vCPU to vCPU with the turn (`sim-cpu`'s `shared.rs`): nothing in it but the frame is a vCPU's, and that is filled at each entry.
//!
//! # Failure
//! What cannot be translated ends the unit, which then falls through to it, or makes none. A host without BMI2 or without executable memory has no translator ([`Unavailable`]). Guests cannot make
//! it grow: 32 MiB of code and a quarter of a million units, then everything starts over.
//!
//! # Limits
//! 64-bit code without alignment checks; blocks in one page. Integer, SSE to SSE2 and two of SSSE3; x87, SSE4, AVX, divisions and string instructions are
//! interpreted. MXCSR with a clear exception mask: all is interpreted. PEXT is slow on processors before Zen 3.
//!
//! # Tests
//! `cpu-check` runs random programs on both engines; a bug planted with [`Translator::spoil`] must be found there.

pub mod decode;
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
pub use engine::Translator;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod elsewhere;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use elsewhere::Translator;
pub use tlb::{ENTRIES, FastTags, VIEWS, fetch_word, index};

/// A translated block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitId(pub(crate) u32);

impl UnitId {
    /// Units are numbered from 0 in the order they are made.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which instructions that count bits the guest's processor has; those it lacks are undefined or mean something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub popcnt: bool,
    pub tzcnt: bool,
    pub lzcnt: bool,
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
    pub gs_base: &'a mut u64,
    pub kernel_gs_base: &'a mut u64,
    /// RFLAGS but for the six flags. CLI and STI change IF in it.
    pub rest: &'a mut u64,
    /// SWAPGS is allowed.
    pub kernel: bool,
    /// CLI is.
    pub may_cli: bool,
    /// STI is, and no event waits for it.
    pub may_sti: bool,
    /// PUSHFQ is.
    pub may_pushf: bool,
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
    /// Unit `from` ended by going to `rip`, on what may be another page, and no fetch from there hits.
    Fetch { rip: u64, from: UnitId },
    /// The instruction at `rip`, after `done` others, is for the interpreter. Nothing of it happened.
    Before { rip: u64, done: usize },
}
