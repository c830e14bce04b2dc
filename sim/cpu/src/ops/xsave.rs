//! FXSAVE, XSAVE and their relatives (APM vol. 2 §11.4, §11.5; SDM vol. 1 chapter 13).

use super::tri;
use crate::core::{Core, mode, vector};
use crate::op::{Flow, Op};
use crate::state::{RAX, RDX, cr0, cr4};
use sim_bus::CpuBus;
use sim_fp::x87::X87;
use sim_fp::{MXCSR_MASK, MXCSR_RESET};
use sim_mem::GuestMemory;

/// Forms of XSAVE, in `Op::imm`.
pub(crate) const PLAIN: u64 = 0;
pub(crate) const OPTIMISED: u64 = 1;
pub(crate) const COMPACT: u64 = 2;

const X87_BIT: u64 = 1;
const SSE_BIT: u64 = 2;
const AVX_BIT: u64 = 4;
const HEADER: usize = 512;
const AVX_AREA: usize = 576;
const AREA: usize = 832;

fn put(bytes: &mut [u8], at: usize, value: u64, size: usize) {
    bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

fn fetch(bytes: &[u8], at: usize, size: usize) -> u64 {
    let mut word = [0; 8];
    word[..size].copy_from_slice(&bytes[at..at + size]);
    u64::from_le_bytes(word)
}

fn fetch128(bytes: &[u8], at: usize) -> u128 {
    u128::from(fetch(bytes, at, 8)) | u128::from(fetch(bytes, at + 8, 8)) << 64
}

impl Core {
    /// State components that are not in their initial configuration: worked out from the values, so that it cannot depend on history. MXCSR is
    /// no part of it (SDM vol. 1 §13.6); only XSAVEC counts it.
    pub fn xinuse(&self) -> u64 {
        let mut bits = 0;
        if self.x87 != X87::default() {
            bits |= X87_BIT;
        }
        if self.xmm.iter().any(|&value| value != 0) {
            bits |= SSE_BIT;
        }
        if self.ymm_high.iter().any(|&value| value != 0) {
            bits |= AVX_BIT;
        }
        bits
    }

    /// XMM and YMM registers that the mode has: what the others hold stays.
    pub fn vector_registers(&self) -> usize {
        if self.mode & mode::SIZE == mode::CODE64 { 16 } else { 8 }
    }

    fn put_x87(&self, bytes: &mut [u8], wide: bool) {
        let x87 = &self.x87;
        put(bytes, 0, u64::from(x87.control), 2);
        put(bytes, 2, u64::from(x87.status), 2);
        put(bytes, 4, u64::from(x87.in_use), 2);
        put(bytes, 6, u64::from(x87.opcode), 2);
        let size = if wide { 8 } else { 4 };
        bytes[8..24].fill(0);
        put(bytes, 8, x87.ip, size);
        put(bytes, 16, x87.dp, size);
        for index in 0..8 {
            bytes[32 + 16 * index..48 + 16 * index].copy_from_slice(&x87.st(index as u8).to_le_bytes());
            bytes[42 + 16 * index..48 + 16 * index].fill(0);
        }
    }

    fn put_sse(&self, bytes: &mut [u8]) {
        for index in 0..self.vector_registers() {
            bytes[160 + 16 * index..176 + 16 * index].copy_from_slice(&self.xmm[index].to_le_bytes());
        }
    }

    fn take_x87(&mut self, bytes: &[u8], wide: bool) {
        let size = if wide { 8 } else { 4 };
        let mut x87 = X87 {
            // Bits that do not exist read as FLDCW leaves them (seen on AMD's processors; SDM vol. 1 §8.1.5).
            control: fetch(bytes, 0, 2) as u16 & 0x1f7f | 0x40,
            status: fetch(bytes, 2, 2) as u16,
            in_use: bytes[4],
            opcode: fetch(bytes, 6, 2) as u16 & 0x7ff,
            ip: fetch(bytes, 8, size),
            dp: fetch(bytes, 16, size),
            ..X87::default()
        };
        let top = usize::from(x87.top());
        for index in 0..8 {
            x87.regs[(top + index) & 7] = fetch128(bytes, 32 + 16 * index) & ((1 << 80) - 1);
        }
        x87.update_summary();
        self.x87 = x87;
    }

    fn take_sse(&mut self, bytes: &[u8]) {
        for index in 0..self.vector_registers() {
            self.xmm[index] = fetch128(bytes, 160 + 16 * index);
        }
    }
}

/// FXSAVE: `b` = 8 with REX.W.
pub(crate) fn fxsave(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.sys.cr0 & (cr0::EM | cr0::TS) != 0 {
        c.raise(vector::NM);
        return Flow::Fault;
    }
    let address = tri!(c.linear(op, 512, true));
    if address & 15 != 0 {
        c.gp0();
        return Flow::Fault;
    }
    // What FXSAVE does not write stays as it was: the image is read first.
    let mut bytes = [0; 512];
    tri!(c.check_write(m, b, op, address, 512));
    tri!(c.read_bytes(m, b, op, address, &mut bytes));
    c.put_x87(&mut bytes, op.b == 8);
    put(&mut bytes, 24, u64::from(c.mxcsr), 4);
    put(&mut bytes, 28, u64::from(MXCSR_MASK), 4);
    c.put_sse(&mut bytes);
    tri!(c.write_bytes(m, b, op, address, &bytes[..416]));
    c.brk
}

/// FXRSTOR.
pub(crate) fn fxrstor(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.sys.cr0 & (cr0::EM | cr0::TS) != 0 {
        c.raise(vector::NM);
        return Flow::Fault;
    }
    let address = tri!(c.linear(op, 512, false));
    if address & 15 != 0 {
        c.gp0();
        return Flow::Fault;
    }
    let mut bytes = [0; 512];
    tri!(c.read_bytes(m, b, op, address, &mut bytes));
    let mxcsr = fetch(&bytes, 24, 4) as u32;
    if mxcsr & !MXCSR_MASK != 0 {
        c.gp0();
        return Flow::Fault;
    }
    c.mxcsr = mxcsr;
    c.take_x87(&bytes, op.b == 8);
    c.take_sse(&bytes);
    c.brk
}

fn xsave_allowed(c: &mut Core) -> Result<(), crate::core::Fault> {
    if c.sys.cr4 & cr4::OSXSAVE == 0 {
        return Err(c.ud());
    }
    if c.sys.cr0 & cr0::TS != 0 {
        return Err(c.raise(vector::NM));
    }
    Ok(())
}

/// XSAVE, XSAVEOPT, XSAVEC: `imm` = form, `b` = 8 with REX.W.
pub(crate) fn xsave(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(xsave_allowed(c));
    let wanted = (c.r[RDX] << 32 | c.r[RAX] & 0xffff_ffff) & c.sys.xcr0;
    let compact = op.imm == COMPACT;
    let size = if wanted & AVX_BIT != 0 { AREA } else { AVX_AREA };
    let address = tri!(c.linear(op, size as u64, true));
    if address & 63 != 0 {
        c.gp0();
        return Flow::Fault;
    }
    tri!(c.check_write(m, b, op, address, size as u64));
    let mut bytes = [0; AREA];
    tri!(c.read_bytes(m, b, op, address, &mut bytes[..size]));
    let mxcsr_in_use = if compact && c.mxcsr != MXCSR_RESET { SSE_BIT } else { 0 };
    let in_use = (c.xinuse() | mxcsr_in_use) & wanted;
    let saved = if op.imm == PLAIN { wanted } else { in_use };
    if saved & X87_BIT != 0 {
        c.put_x87(&mut bytes, op.b == 8);
    }
    if wanted & (SSE_BIT | AVX_BIT) != 0 && (!compact || saved & SSE_BIT != 0) {
        put(&mut bytes, 24, u64::from(c.mxcsr), 4);
        put(&mut bytes, 28, u64::from(MXCSR_MASK), 4);
    }
    if saved & SSE_BIT != 0 {
        c.put_sse(&mut bytes);
    }
    if saved & AVX_BIT != 0 {
        for index in 0..c.vector_registers() {
            bytes[AVX_AREA + 16 * index..AVX_AREA + 16 + 16 * index].copy_from_slice(&c.ymm_high[index].to_le_bytes());
        }
    }
    if compact {
        put(&mut bytes, HEADER, in_use, 8);
        put(&mut bytes, HEADER + 8, wanted | 1 << 63, 8);
        bytes[HEADER + 16..HEADER + 64].fill(0);
    } else {
        let old = fetch(&bytes, HEADER, 8);
        put(&mut bytes, HEADER, old & !wanted | in_use, 8);
    }
    tri!(c.write_bytes(m, b, op, address, &bytes[..size]));
    c.brk
}

/// XRSTOR.
pub(crate) fn xrstor(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(xsave_allowed(c));
    let wanted = (c.r[RDX] << 32 | c.r[RAX] & 0xffff_ffff) & c.sys.xcr0;
    let size = if wanted & AVX_BIT != 0 { AREA } else { AVX_AREA };
    let address = tri!(c.linear(op, size as u64, false));
    if address & 63 != 0 {
        c.gp0();
        return Flow::Fault;
    }
    let mut bytes = [0; AREA];
    tri!(c.read_bytes(m, b, op, address, &mut bytes[..size]));
    let present = fetch(&bytes, HEADER, 8);
    let layout = fetch(&bytes, HEADER + 8, 8);
    let compact = layout >> 63 != 0;
    let bad = if compact {
        layout & !(1 << 63) & !c.sys.xcr0 != 0 || present & !layout != 0 || bytes[HEADER + 16..HEADER + 64].iter().any(|&byte| byte != 0)
    } else {
        present & !c.sys.xcr0 != 0 || bytes[HEADER + 8..HEADER + 24].iter().any(|&byte| byte != 0)
    };
    let mxcsr = fetch(&bytes, 24, 4) as u32;
    let loads_mxcsr = if compact { wanted & present & SSE_BIT != 0 } else { wanted & (SSE_BIT | AVX_BIT) != 0 };
    if bad || (loads_mxcsr && mxcsr & !MXCSR_MASK != 0) {
        c.gp0();
        return Flow::Fault;
    }
    if wanted & X87_BIT != 0 {
        if present & X87_BIT != 0 { c.take_x87(&bytes, op.b == 8) } else { c.x87 = X87::default() }
    }
    if loads_mxcsr {
        c.mxcsr = mxcsr;
    } else if compact && wanted & SSE_BIT != 0 {
        c.mxcsr = MXCSR_RESET;
    }
    let registers = c.vector_registers();
    if wanted & SSE_BIT != 0 {
        if present & SSE_BIT != 0 { c.take_sse(&bytes) } else { c.xmm[..registers].fill(0) }
    }
    if wanted & AVX_BIT != 0 {
        for index in 0..c.vector_registers() {
            c.ymm_high[index] = if present & AVX_BIT != 0 { fetch128(&bytes, AVX_AREA + 16 * index) } else { 0 };
        }
    }
    c.brk
}
