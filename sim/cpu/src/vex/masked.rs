//! Moves that leave elements out: VMASKMOVPx, VPMASKMOVx, and the gathers.
//!
//! An element counts if the sign bit of its mask is set. What does not count is not accessed, and cannot fault. Alignment is never checked (SDM
//! vol. 2, VMASKMOV: "no #AC reported for any mask bit combination"; gathers are of exception type 12, which has none).

use iced_x86::{Instruction, Mnemonic as M, OpKind};
use sim_bus::CpuBus;
use sim_fp::avx::Wide;
use sim_mem::GuestMemory;

use super::{field, get, is_wide, number, set, third, vvvv};
use crate::core::{Core, Fault, mode};
use crate::op::{EA_ADDR32, Flow, Op, Run};
use crate::ops::tri;
use crate::state::rflags;

/// Element `i` of `N` bytes.
fn element<const N: usize>(value: Wide, i: usize) -> u64 {
    let per_half = 16 / N;
    (value[i / per_half] >> (8 * N * (i % per_half))) as u64 & u64::MAX >> (64 - 8 * N)
}

fn set_element<const N: usize>(value: &mut Wide, i: usize, bits: u64) {
    let per_half = 16 / N;
    let shift = 8 * N * (i % per_half);
    let mask = u128::from(u64::MAX >> (64 - 8 * N)) << shift;
    let half = &mut value[i / per_half];
    *half = *half & !mask | u128::from(bits) << shift & mask;
}

fn counts<const N: usize>(mask: Wide, i: usize) -> bool {
    element::<N>(mask, i) >> (8 * N - 1) != 0
}

fn length(op: &Op) -> usize {
    if is_wide(op) { 32 } else { 16 }
}

/// The address of element `i`.
fn address<const N: usize>(c: &mut Core, op: &Op, i: usize, write: bool) -> Result<u64, Fault> {
    let offset = c.offset(op).wrapping_add((N * i) as u64);
    c.linear_at(op.seg(), if op.ea & EA_ADDR32 != 0 { offset & 0xffff_ffff } else { offset }, N as u64, write)
}

/// Loads an element. Where alignment is checked it goes byte by byte, since a byte is always aligned.
fn load<const N: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, at: u64) -> Result<u64, Fault> {
    if c.mode & mode::ALIGN == 0 {
        return c.load::<N>(m, b, op, at);
    }
    let mut value = 0;
    for i in 0..N as u64 {
        value |= c.load::<1>(m, b, op, at.wrapping_add(i))? << (8 * i);
    }
    Ok(value)
}

/// Checks that an element may be stored.
fn check<const N: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, at: u64) -> Result<(), Fault> {
    if c.mode & mode::ALIGN == 0 {
        return c.check_write(m, b, op, at, N as u64);
    }
    c.check_write(m, b, op, at, 1)?;
    if at & 0xfff > 4096 - N as u64 {
        c.check_write(m, b, op, (at | 0xfff).wrapping_add(1), 1)?;
    }
    Ok(())
}

/// Stores an element that has been checked.
fn store<const N: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, at: u64, value: u64) -> Result<(), Fault> {
    if c.mode & mode::ALIGN == 0 {
        return c.store::<N>(m, b, op, at, value);
    }
    (0..N as u64).try_for_each(|i| c.store::<1>(m, b, op, at.wrapping_add(i), value >> (8 * i)))
}

/// Masked load: the mask is VVVV, what does not count becomes zero.
fn masked_load<const N: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let mask = get(c, vvvv(op));
    let mut value = [0; 2];
    for i in (0..length(op) / N).filter(|&i| counts::<N>(mask, i)) {
        let at = tri!(address::<N>(c, op, i, false));
        let bits = tri!(load::<N>(c, m, b, op, at));
        set_element::<N>(&mut value, i, bits);
    }
    set(c, op.a, value);
    c.brk
}

/// Masked store: every element that counts is checked before the first is written.
fn masked_store<const N: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let (mask, value) = (get(c, vvvv(op)), get(c, op.b));
    let elements = length(op) / N;
    for i in (0..elements).filter(|&i| counts::<N>(mask, i)) {
        let at = tri!(address::<N>(c, op, i, true));
        tri!(check::<N>(c, m, b, op, at));
    }
    for i in (0..elements).filter(|&i| counts::<N>(mask, i)) {
        let at = tri!(address::<N>(c, op, i, true));
        tri!(store::<N>(c, m, b, op, at, element::<N>(value, i)));
    }
    c.brk
}

/// Gather of elements of `N` bytes by indices of `I` bytes in the third register; the mask is VVVV.
///
/// An element that is loaded has its mask cleared, so that a fault leaves what is done done and the instruction goes on from there (SDM vol. 2,
/// VPGATHERDD): elements are taken from the lowest up. Those passed over on the way are cleared too, as on hardware. A trap that an element before
/// the fault has earned (a single step, a data breakpoint) comes in the fault's place; the instruction then begins anew and meets the fault.
fn gather<const N: usize, const I: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let (mut mask, mut value, index) = (get(c, vvvv(op)), get(c, op.a), get(c, third(op)));
    let elements = length(op) / N.max(I);
    let mut progress = false;
    let base = Op { index: crate::op::NO_REG, ..*op };
    for i in 0..elements {
        if !counts::<N>(mask, i) {
            set_element::<N>(&mut mask, i, 0);
            continue;
        }
        let step = element::<I>(index, i);
        let step = if I == 4 { i64::from(step as i32) as u64 } else { step };
        let offset = c.offset(&base).wrapping_add(step << (op.ea & 3));
        let offset = if op.ea & EA_ADDR32 != 0 { offset & 0xffff_ffff } else { offset };
        let loaded = c.linear_at(op.seg(), offset, N as u64, false).and_then(|at| load::<N>(c, m, b, op, at));
        match loaded {
            Ok(bits) => set_element::<N>(&mut value, i, bits),
            Err(Fault) => {
                set(c, vvvv(op), mask);
                set(c, op.a, value);
                let trap = progress && (c.flags_rest & rflags::TF != 0 || c.sys.pending_db != 0) && c.svm_exit.is_none();
                if trap {
                    c.rip = c.rip_of(op);
                    // So that a breakpoint on the instruction does not hit twice.
                    c.flags_rest |= rflags::RF;
                    return Flow::Again;
                }
                return Flow::Fault;
            }
        }
        progress = true;
        set_element::<N>(&mut mask, i, 0);
    }
    // Above the elements there is nothing.
    match elements * N {
        8 => value = [value[0] & u128::from(u64::MAX), 0],
        16 => value[1] = 0,
        _ => {}
    }
    set(c, vvvv(op), [0; 2]);
    set(c, op.a, value);
    c.brk
}

/// `None`: has no mask.
pub(super) fn lower(insn: &Instruction, op: &mut Op, _bits: u32) -> Option<Run> {
    let store = insn.op0_kind() == OpKind::Memory;
    match insn.mnemonic() {
        M::Vmaskmovps | M::Vpmaskmovd | M::Vmaskmovpd | M::Vpmaskmovq => {
            let single = matches!(insn.mnemonic(), M::Vmaskmovps | M::Vpmaskmovd);
            op.imm |= u64::from(number(insn, 1) & 15) << field::VVVV;
            if store {
                op.b = number(insn, 2);
                return Some(Run::plain(if single { masked_store::<4> } else { masked_store::<8> }));
            }
            op.a = number(insn, 0);
            Some(Run::plain(if single { masked_load::<4> } else { masked_load::<8> }))
        }
        M::Vgatherdps | M::Vpgatherdd | M::Vgatherqps | M::Vpgatherqd | M::Vgatherdpd | M::Vpgatherdq | M::Vgatherqpd | M::Vpgatherqq => {
            let index = insn.memory_index();
            if index.is_ymm() {
                op.imm |= field::L256;
            }
            op.a = number(insn, 0);
            op.imm |= u64::from(number(insn, 2) & 15) << field::VVVV | (index.number() as u64 & 15) << field::THIRD;
            Some(Run::plain(match insn.mnemonic() {
                M::Vgatherdps | M::Vpgatherdd => gather::<4, 4>,
                M::Vgatherqps | M::Vpgatherqd => gather::<4, 8>,
                M::Vgatherdpd | M::Vpgatherdq => gather::<8, 4>,
                _ => gather::<8, 8>,
            }))
        }
        _ => None,
    }
}
