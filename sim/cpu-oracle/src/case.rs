//! A test case and what running it gives.

use iced_x86::{Code, Encoder, Instruction, OpKind};
use sim_fp::x87::X87;

use crate::layout::{CODE, DATA, DATA_BYTES, MEMORY_BYTES, STACK};
use crate::rng::Rng;
use crate::setting::Setting;

/// Privilege level of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    Kernel,
    User,
}

/// Registers at the start.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    pub gpr: [u64; 16],
    pub rflags: u64,
    pub xmm: [u128; 16],
    /// Upper halves of the YMM registers; zero where the judge has none.
    pub upper: [u128; 16],
    pub mxcsr: u32,
    pub x87: X87,
}

/// A sequence with everything it starts from.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    pub ring: Ring,
    /// Direct branches hold the index of their target instruction (the length of the list: the end) as their target.
    pub insns: Vec<Instruction>,
    pub start: Start,
    /// Address of the first instruction.
    pub origin: u64,
    /// Seeds arena and stack.
    pub memory_seed: u64,
    pub setting: Setting,
}

/// The sequence as bytes, with the offset of each instruction; INT3 follows.
#[derive(Clone, Debug)]
pub struct Assembled {
    pub bytes: Vec<u8>,
    pub offsets: Vec<u32>,
}

pub fn is_direct_branch(insn: &Instruction) -> bool {
    insn.op_count() > 0 && insn.op_kind(0) == OpKind::NearBranch64
}

impl Case {
    /// Encodes; `None` if some instruction cannot be (the generator draws again).
    pub fn assemble(&self) -> Option<Assembled> {
        let mut encoder = Encoder::new(64);
        // Sizes first: branches keep their code, so their size does not depend on the target.
        let mut offsets = Vec::with_capacity(self.insns.len() + 1);
        let mut at = 0u32;
        for insn in &self.insns {
            offsets.push(at);
            let mut insn = *insn;
            let ip = self.origin + u64::from(at);
            if is_direct_branch(&insn) {
                insn.set_near_branch64(ip + 2);
            }
            at += encoder.encode(&insn, ip).ok()? as u32;
            drop(encoder.take_buffer());
        }
        offsets.push(at);
        let mut bytes = Vec::with_capacity(at as usize + 1);
        for (insn, offset) in self.insns.iter().zip(&offsets) {
            let mut insn = *insn;
            if is_direct_branch(&insn) {
                let target = offsets[(insn.near_branch64() as usize).min(self.insns.len())];
                insn.set_near_branch64(self.origin + u64::from(target));
            }
            encoder.encode(&insn, self.origin + u64::from(*offset)).ok()?;
            bytes.append(&mut encoder.take_buffer());
        }
        bytes.push(0xcc);
        Some(Assembled { bytes, offsets })
    }

    /// Arena and stack at the start.
    pub fn memory(&self) -> Box<[u8; MEMORY_BYTES]> {
        let mut out = Box::new([0u8; MEMORY_BYTES]);
        // Every sort of word is `random & keep | set`, chosen without a branch: half of them any number, the rest what instructions are
        // particular about.
        const SORTS: [(u64, u64); 16] = {
            let mut sorts = [(u64::MAX, 0); 16];
            sorts[8] = (0, 0);
            sorts[9] = (0, u64::MAX);
            sorts[10] = (0x1fff, DATA);
            sorts[11] = (0xff8, STACK);
            sorts[12] = (0xff, 0);
            // Doubles between 1 and 65536 with few digits.
            sorts[13] = (0x80f0_ffff_0000_0000, 0x3ff0_0000_0000_0000);
            sorts[14] = (0x8080_ff00_7fff_0001, 0);
            sorts[15] = (0x7f7f_7f7f_7f7f_7f7f, 0);
            sorts
        };
        // Four streams, so that one number need not wait for the last.
        let mut streams: [Rng; 4] = std::array::from_fn(|n| Rng::new(self.memory_seed.wrapping_add((n as u64) << 48)));
        for chunk in out.chunks_exact_mut(64) {
            let mut sorts = streams[0].draw();
            for (n, word) in chunk.chunks_exact_mut(8).enumerate() {
                let (keep, set) = SORTS[(sorts & 15) as usize];
                sorts >>= 8;
                let value = streams[n % 4].draw() & keep | set;
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
        out
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// An exception with its error code and, for a page fault, its address. The INT3 at the end is vector 3.
    Fault { vector: u8, code: u32, address: u64 },
    /// Too many ticks.
    Runaway,
    /// The runner cannot tell (a wild address on the host, an unsupported thing in unicorn).
    Unknown,
}

/// Everything after a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub end: End,
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub xmm: [u128; 16],
    pub upper: [u128; 16],
    pub mxcsr: u32,
    pub x87: X87,
    pub memory: Box<[u8; MEMORY_BYTES]>,
    /// Control, debug, segment and table registers, MSRs and page-table entries by name; empty if the runner cannot see them.
    pub system: Vec<(&'static str, u64)>,
}

/// Byte offset in the compared memory of a linear address.
pub fn memory_offset(address: u64) -> Option<usize> {
    if (DATA..DATA + DATA_BYTES).contains(&address) {
        Some((address - DATA) as usize)
    } else if (STACK..STACK + crate::layout::STACK_BYTES).contains(&address) {
        Some((address - STACK + DATA_BYTES) as usize)
    } else {
        None
    }
}

/// The linear address of an offset in the compared memory.
pub fn memory_address(offset: usize) -> u64 {
    let offset = offset as u64;
    if offset < DATA_BYTES { DATA + offset } else { STACK + offset - DATA_BYTES }
}

/// A case from raw bytes at `CODE` (for reproducers): decoded, so that undefined flags are known. Direct branches stay inside.
pub fn decode(bytes: &[u8]) -> Vec<Instruction> {
    let mut out: Vec<Instruction> = iced_x86::Decoder::with_ip(64, bytes, CODE, 0).into_iter().collect();
    let starts: Vec<u64> = out.iter().map(Instruction::ip).collect();
    for insn in &mut out {
        if is_direct_branch(insn) {
            let index = starts.iter().position(|ip| *ip == insn.near_branch64()).unwrap_or(starts.len());
            insn.set_near_branch64(index as u64);
        }
    }
    out
}

/// Mnemonics whose result vendors may choose: run, never compared.
pub fn is_vendor_specific(code: Code) -> bool {
    use iced_x86::Mnemonic as M;
    matches!(
        code.mnemonic(),
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss | M::Vrcpps | M::Vrcpss | M::Vrsqrtps | M::Vrsqrtss | M::F2xm1 | M::Fyl2x | M::Fyl2xp1 | M::Fptan | M::Fpatan | M::Fsin | M::Fcos | M::Fsincos
    )
}
