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
    /// A REP instruction or a gather is not finished: `core.rip` stays on it, and RFLAGS.RF is set.
    Again,
    /// Nothing done; `core.fault` says why.
    Fault,
}

/// A handler. The instruction is restartable: when it returns [`Flow::Fault`] no guest-visible state has changed.
pub(crate) type Handler = fn(&mut Core, &mut GuestMemory, &mut dyn CpuBus, &Op) -> Flow;

/// A handler that then runs the operations after its own: what a block is made of. `ops` begins with the handler's own operation.
///
/// It returns what stopped the chain, or [`Flow::Next`] at the end of `ops`. Where it is neither that nor the end of a block, `core.left` holds how
/// many operations were not begun. The tail call is not promised by the language, so a chain must be short: at most
/// [`crate::block::BLOCK_INSNS_MAX`] deep without it.
pub(crate) type Chain = fn(&mut Core, &mut GuestMemory, &mut dyn CpuBus, &[Op]) -> Flow;

/// What an operation runs: chained, and alone.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub f: Chain,
    pub plain: Handler,
}

impl Run {
    /// Any handler, run through a call of its own.
    pub fn plain(plain: Handler) -> Run {
        Run { f: through_plain, plain }
    }
}

/// Runs the first operation by `run`, then the rest. Where `run` faults it has changed nothing, and the plain handler tries again.
#[inline(always)]
pub(crate) fn chain(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, ops: &[Op], run: impl FnOnce(&mut Core, &mut GuestMemory, &mut dyn CpuBus, &Op) -> Flow) -> Flow {
    let [op, rest @ ..] = ops else { return Flow::Next };
    match run(c, m, b, op) {
        Flow::Next => match rest {
            [next, ..] => (next.f)(c, m, b, rest),
            [] => Flow::Next,
        },
        Flow::Fault => after_all(c, m, b, ops),
        flow => {
            c.left = rest.len();
            flow
        }
    }
}

/// Runs the first operation by its plain handler because the fast one could not, or faults; then the rest.
#[cold]
#[inline(never)]
fn after_all(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, ops: &[Op]) -> Flow {
    through_plain(c, m, b, ops)
}

/// [`Run::plain`].
fn through_plain(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, ops: &[Op]) -> Flow {
    let [op, rest @ ..] = ops else { return Flow::Next };
    c.running = op.idx;
    let flow = (op.plain)(c, m, b, op);
    if flow != Flow::Next {
        c.left = rest.len();
        return flow;
    }
    match rest {
        [next, ..] => (next.f)(c, m, b, rest),
        [] => Flow::Next,
    }
}

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
    pub f: Chain,
    pub plain: Handler,
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
    /// An operation with nothing but its handler.
    pub const fn bare(plain: Handler) -> Op {
        Op { f: through_plain, plain, imm: 0, disp: 0, a: 0, b: 0, base: NO_REG, index: NO_REG, ea: 0, len: 0, off: 0, idx: 0 }
    }

    /// Sets what runs.
    pub fn set(&mut self, run: Run) {
        self.f = run.f;
        self.plain = run.plain;
    }

    /// Segment of the memory operand.
    #[inline(always)]
    pub fn seg(&self) -> usize {
        usize::from(self.ea >> EA_SEG_SHIFT & 7)
    }
}
