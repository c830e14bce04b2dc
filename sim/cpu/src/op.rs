//! The ready-to-run operation.

use crate::core::Core;
use sim_bus::CpuBus;
use sim_mem::GuestMemory;

/// What an operation did.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Done; the next operation of the block follows.
    Next = 0,
    /// Done, but something outside may have changed (device access, code written): the block ends here.
    Break,
    /// End of block, to the direct target.
    Taken,
    /// End of block, to the next instruction.
    Fall,
    /// End of block, `core.rip` holds the target.
    Indirect,
    /// As `Indirect`, but modes, interrupts or mappings may have changed: everything is looked at again.
    Exit,
    /// A REP instruction is not finished: `core.rip` stays on it.
    Again,
    /// Nothing done; `core.fault` says why.
    Fault,
}

/// A handler. The instruction is restartable: when it returns [`Flow::Fault`] no guest-visible state has changed.
pub(crate) type Handler = fn(&mut Core, &mut GuestMemory, &mut dyn CpuBus, &Op) -> Flow;

/// No register: reads as zero (index 16 of [`Core::r`]).
pub(crate) const NO_REG: u8 = 16;

/// `Op::ea` bits: scale in 0..2, segment in 2..5, 32-bit address, 16-bit address.
pub(crate) const EA_SEG_SHIFT: u8 = 2;
pub(crate) const EA_ADDR32: u8 = 1 << 5;
pub(crate) const EA_ADDR16: u8 = 1 << 6;

/// One operation, usually one instruction; a fused compare-and-branch is two.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Op {
    pub f: Handler,
    /// Immediate, sign-extended; or what the handler's doc says.
    pub imm: u64,
    /// Displacement; absolute address for RIP-relative operands.
    pub disp: u64,
    /// Destination register, then source register. 8-bit operands: 0x10 set means AH, CH, DH, BH for 4..8.
    pub a: u8,
    pub b: u8,
    pub base: u8,
    pub index: u8,
    pub ea: u8,
    /// Bytes of the instruction (of both, if fused).
    pub len: u8,
    /// Offset from the start of the block.
    pub off: u8,
    /// Instructions of the block before this one.
    pub idx: u8,
}

impl Op {
    /// Segment of the memory operand.
    #[inline(always)]
    pub fn seg(&self) -> usize {
        usize::from(self.ea >> EA_SEG_SHIFT & 7)
    }
}
