//! System instructions: control and debug registers, MSRs, descriptor tables, segment moves, ports, fast system calls.

use super::{get, set, tri};
use crate::core::{Core, Fault, mode, vector};
use crate::op::{Flow, Op};
use crate::svm::exit;
use crate::state::{Activity, CS, FS, GS, LDTR, RAX, RBX, RCX, RDX, RSP, SS, Segment, TR, TableRegister, attr, cr0, cr4, efer, rflags};
use sim_bus::CpuBus;
use sim_mem::GuestMemory;

/// Debug register 7 bits that read as one.
const DR7_FIXED: u64 = 0x400;
/// Decode assist for CR accesses by MOV (APM vol. 2 §15.8.1).
const MOV_CR: u64 = 1 << 63;
/// DR6 bits that read as one.
const DR6_FIXED: u64 = 0xffff_0ff0;

fn canonical(address: u64) -> bool {
    (address << 16) as i64 >> 16 == address as i64
}

/// Ends the block after this instruction so that everything is looked at again.
fn end(c: &mut Core, op: &Op) -> Flow {
    c.rip = c.cut_rip(c.rip_after(op));
    Flow::Exit
}

/// A memory type that an MTRR may have: UC, WC, WT, WP, WB (APM vol. 2 §7.7.1).
fn is_memory_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4..=6)
}

/// Raises #UD: what cannot be decoded or does not exist.
pub(crate) fn undefined(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    c.ud();
    Flow::Fault
}

/// Raises #GP(0).
pub(crate) fn protection(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    c.gp0();
    Flow::Fault
}

impl Core {
    fn need_cpl0(&mut self) -> Result<(), Fault> {
        if self.sys.cpl != 0 { Err(self.gp0()) } else { Ok(()) }
    }

    pub(crate) fn iopl(&self) -> u8 {
        (self.flags_rest >> 12 & 3) as u8
    }

    /// Checks the right to access a port: IOPL, else the I/O bitmap of the TSS.
    pub fn check_port(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, port: u16, size: u64) -> Result<(), Fault> {
        let virtual_8086 = self.flags_rest & rflags::VM != 0;
        if self.sys.cr0 & cr0::PE == 0 || (self.sys.cpl <= self.iopl() && !virtual_8086) {
            return Ok(());
        }
        let task = self.sys.seg[TR];
        if task.attr & attr::P == 0 || task.attr & 0xf < 9 || task.limit < 0x67 {
            return Err(self.gp0());
        }
        let offset = self.load_sys(m, b, task.base.wrapping_add(0x66), 2)?;
        let at = offset + u64::from(port) / 8;
        if at + 1 > u64::from(task.limit) {
            return Err(self.gp0());
        }
        let bits = self.load_sys(m, b, task.base.wrapping_add(at), 2)?;
        if bits >> (port & 7) & ((1 << size) - 1) != 0 {
            return Err(self.gp0());
        }
        Ok(())
    }

    /// Drops every TLB entry and the code latch.
    pub fn flush_all(&mut self) {
        self.tlb.flush();
        self.code_vpage = 0;
    }

    fn flush_not_global(&mut self) {
        self.tlb.flush_if(|_, leaf, _| leaf & crate::tlb::LEAF_GLOBAL == 0);
        self.code_vpage = 0;
    }

    fn write_cr0(&mut self, m: &mut GuestMemory, value: u64) -> Result<(), Fault> {
        let old = self.sys.cr0;
        let new = value & cr0::ALL | cr0::ET;
        let (pe, pg) = (new & cr0::PE != 0, new & cr0::PG != 0);
        if value >> 32 != 0 || (pg && !pe) || (new & cr0::NW != 0 && new & cr0::CD == 0) {
            return Err(self.gp0());
        }
        if pg && old & cr0::PG == 0 {
            if self.sys.efer & efer::LME != 0 {
                if self.sys.cr4 & cr4::PAE == 0 || self.sys.seg[CS].attr & attr::L != 0 {
                    return Err(self.gp0());
                }
                self.sys.efer |= efer::LMA;
            } else if self.sys.cr4 & cr4::PAE != 0 {
                self.check_pae_roots(m, self.sys.cr3)?;
            }
        }
        if !pg && old & cr0::PG != 0 {
            if self.mode & mode::SIZE == mode::CODE64 || self.sys.cr4 & cr4::PCIDE != 0 {
                return Err(self.gp0());
            }
            self.sys.efer &= !efer::LMA;
        }
        self.sys.cr0 = new;
        if (old ^ new) & (cr0::PG | cr0::PE | cr0::WP) != 0 {
            self.flush_all();
        }
        self.update_mode();
        Ok(())
    }

    /// CR0 selective write: anything but TS and MP changes (APM vol. 2 §15.9).
    fn check_selective(&mut self, op: &Op, new: u64, info: u64) -> Result<(), Fault> {
        if (self.sys.cr0 ^ new) & !(cr0::TS | cr0::MP) != 0 { self.vm_check_info(op, exit::CR0_SELECTIVE, info) } else { Ok(()) }
    }

    fn check_pae_roots(&mut self, m: &mut GuestMemory, cr3: u64) -> Result<(), Fault> {
        let reserved = 0xfff0_0000_0000_01e6 | 0x000f_ffff_ffff_ffff & !((1 << self.config.physical_bits) - 1);
        for index in 0..4 {
            let entry = m.read_u64((cr3 & 0xffff_ffe0) + 8 * index, 8).unwrap_or(0);
            if entry & 1 != 0 && entry & reserved != 0 {
                return Err(self.gp0());
            }
        }
        Ok(())
    }

    pub(crate) fn write_cr3(&mut self, m: &mut GuestMemory, value: u64) -> Result<(), Fault> {
        let long = self.sys.efer & efer::LMA != 0;
        let pcid_on = self.sys.cr4 & cr4::PCIDE != 0;
        let keep = pcid_on && value >> 63 != 0;
        let value = if pcid_on { value & !(1 << 63) } else { value };
        if long {
            if value >> self.config.physical_bits != 0 {
                return Err(self.gp0());
            }
        } else if self.sys.cr0 & cr0::PG != 0 && self.sys.cr4 & cr4::PAE != 0 {
            self.check_pae_roots(m, value)?;
        }
        self.sys.cr3 = if long { value } else { value & 0xffff_ffff };
        if pcid_on {
            let pcid = (value & 0xfff) as u16;
            self.pcid = pcid;
            if !keep {
                self.tlb.flush_if(|_, leaf, entry| entry == pcid && leaf & crate::tlb::LEAF_GLOBAL == 0);
            }
            self.tlb.drop_fast_not_global();
            self.code_vpage = 0;
        } else {
            self.flush_not_global();
        }
        Ok(())
    }

    fn write_cr4(&mut self, m: &mut GuestMemory, value: u64) -> Result<(), Fault> {
        let old = self.sys.cr4;
        let long = self.sys.efer & efer::LMA != 0;
        if value & !self.cr4_mask != 0 || (long && value & cr4::PAE == 0) {
            return Err(self.gp0());
        }
        if value & !old & cr4::PCIDE != 0 && (!long || self.sys.cr3 & 0xfff != 0) {
            return Err(self.gp0());
        }
        if self.sys.cr0 & cr0::PG != 0 && !long && value & !old & cr4::PAE != 0 {
            self.check_pae_roots(m, self.sys.cr3)?;
        }
        self.sys.cr4 = value;
        if (old ^ value) & (cr4::PAE | cr4::PSE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP) != 0 {
            self.flush_all();
        }
        self.update_mode();
        Ok(())
    }

    /// SWAPGS, SYSCALL and friends load flat segments from fixed values.
    fn flat(selector: u16, dpl: u16, code: bool, long: bool) -> Segment {
        let mut bits = attr::P | attr::S | attr::RW | attr::ACCESSED | attr::G | dpl << attr::DPL_SHIFT;
        if code {
            bits |= attr::CODE | if long { attr::L } else { attr::DB };
        } else {
            bits |= attr::DB;
        }
        Segment { base: 0, limit: u32::MAX, attr: bits, selector }
    }
}

// ---- control and debug registers ---------------------------------------------------------------------------------------------

/// MOV from CRn: `a` = register, `imm` = number.
pub(crate) fn mov_from_cr(c: &mut Core, _m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_cpl0());
    tri!(c.vm_check_info(op, exit::CR_READ + op.imm as u32, MOV_CR | u64::from(op.a & 15)));
    let value = match op.imm {
        0 => c.sys.cr0,
        2 => c.sys.cr2,
        3 => c.sys.cr3,
        4 => c.sys.cr4,
        _ if c.virtual_interrupts() => u64::from(c.virtual_tpr()),
        _ => {
            let at = c.at(op);
            u64::from(b.cr8(at) & 15)
        }
    };
    if c.mode & mode::SIZE == mode::CODE64 { set::<8>(c, op.a, value) } else { set::<4>(c, op.a, value) }
    Flow::Next
}

/// MOV to CRn.
pub(crate) fn mov_to_cr(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_cpl0());
    let value = if c.mode & mode::SIZE == mode::CODE64 { c.r[usize::from(op.a & 15)] } else { get::<4>(c, op.a) };
    tri!(c.vm_check_info(op, exit::CR_WRITE + op.imm as u32, MOV_CR | u64::from(op.a & 15)));
    match op.imm {
        0 => {
            tri!(c.check_selective(op, value, MOV_CR | u64::from(op.a & 15)));
            tri!(c.write_cr0(m, value));
        }
        2 => c.sys.cr2 = value,
        3 => tri!(c.write_cr3(m, value)),
        4 => tri!(c.write_cr4(m, value)),
        _ => {
            if value > 15 {
                c.gp0();
                return Flow::Fault;
            }
            // Unless interrupts are virtual, both TPRs follow CR8 (§15.21.2).
            c.set_virtual_tpr(value as u8);
            if !c.virtual_interrupts() {
                let at = c.at(op);
                b.set_cr8(at, value as u8);
            }
        }
    }
    end(c, op)
}

/// CLTS.
pub(crate) fn clts(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_cpl0());
    tri!(c.vm_check(op, exit::CR_WRITE));
    c.sys.cr0 &= !cr0::TS;
    c.update_mode();
    end(c, op)
}

/// LMSW: sets PE, MP, EM, TS; cannot clear PE.
pub(crate) fn lmsw(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_cpl0());
    let value = tri!(operand16(c, m, b, op));
    let new = c.sys.cr0 & !(cr0::MP | cr0::EM | cr0::TS) | value & 0xf;
    tri!(c.vm_check(op, exit::CR_WRITE));
    tri!(c.check_selective(op, new, 0));
    tri!(c.write_cr0(m, new));
    end(c, op)
}

/// A 16-bit source: register `b` or memory, told apart by `imm` bit 0.
fn operand16(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Result<u64, Fault> {
    if op.imm & 1 == 0 {
        return Ok(get::<2>(c, op.b));
    }
    let address = c.linear(op, 2, false)?;
    c.load::<2>(m, b, op, address)
}

/// Stores a 16-bit system value: to register `a` of size `b`, or to memory (`imm` bit 0).
fn store16(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, value: u64) -> Flow {
    if op.imm & 1 == 0 {
        match op.b {
            2 => set::<2>(c, op.a, value),
            4 => set::<4>(c, op.a, value),
            _ => set::<8>(c, op.a, value),
        }
        return Flow::Next;
    }
    let address = tri!(c.linear(op, 2, true));
    tri!(c.store::<2>(m, b, op, address, value));
    c.brk
}

fn umip(c: &mut Core) -> Result<(), Fault> {
    if c.sys.cr4 & cr4::UMIP != 0 && c.sys.cpl > 0 { Err(c.gp0()) } else { Ok(()) }
}

/// SMSW.
pub(crate) fn smsw(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(umip(c));
    tri!(c.vm_check(op, exit::CR_READ));
    let value = c.sys.cr0;
    store16(c, m, b, op, value)
}

/// STR, SLDT: `imm` bit 1 tells which.
pub(crate) fn store_selector(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(umip(c));
    tri!(c.vm_check(op, if op.imm & 2 != 0 { exit::TR_READ } else { exit::LDTR_READ }));
    let value = u64::from(c.sys.seg[if op.imm & 2 != 0 { TR } else { LDTR }].selector);
    store16(c, m, b, op, value)
}

/// MOV from DRn.
pub(crate) fn mov_from_dr(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(debug_access(c, op, exit::DR_READ));
    let value = match op.imm {
        0..=3 => c.sys.dr[op.imm as usize],
        4 | 6 => c.sys.dr6,
        _ => c.sys.dr7,
    };
    if c.mode & mode::SIZE == mode::CODE64 { set::<8>(c, op.a, value) } else { set::<4>(c, op.a, value) }
    Flow::Next
}

/// MOV to DRn.
pub(crate) fn mov_to_dr(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(debug_access(c, op, exit::DR_WRITE));
    let value = if c.mode & mode::SIZE == mode::CODE64 { c.r[usize::from(op.a & 15)] } else { get::<4>(c, op.a) };
    match op.imm {
        0..=3 => c.sys.dr[op.imm as usize] = value,
        number => {
            if value >> 32 != 0 {
                c.gp0();
                return Flow::Fault;
            }
            if number == 4 || number == 6 {
                c.sys.dr6 = value & 0x1_e00f | DR6_FIXED;
            } else {
                c.sys.dr7 = value & 0xffff_2fff | DR7_FIXED;
            }
        }
    }
    end(c, op)
}

/// DR4 and DR5 are DR6 and DR7 unless CR4.DE; DR7.GD traps every access.
fn debug_access(c: &mut Core, op: &Op, code: u32) -> Result<(), Fault> {
    if (op.imm == 4 || op.imm == 5) && c.sys.cr4 & cr4::DE != 0 {
        return Err(c.ud());
    }
    c.need_cpl0()?;
    c.vm_check_info(op, code + op.imm as u32, u64::from(op.a & 15))?;
    if c.sys.dr7 & 1 << 13 != 0 {
        c.sys.dr6 |= 1 << 13;
        c.sys.dr7 &= !(1 << 13);
        return Err(c.raise(vector::DB));
    }
    Ok(())
}

// ---- descriptor tables -------------------------------------------------------------------------------------------------------

/// LGDT, LIDT (`imm` bit 1): operand size in `b`.
pub(crate) fn load_table(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_cpl0());
    tri!(c.vm_check(op, if op.imm & 2 != 0 { exit::IDTR_WRITE } else { exit::GDTR_WRITE }));
    let long = c.mode & mode::SIZE == mode::CODE64;
    let address = tri!(c.linear(op, if long { 10 } else { 6 }, false));
    let limit = tri!(c.load::<2>(m, b, op, address));
    let mut base = if long { tri!(c.load::<8>(m, b, op, address.wrapping_add(2))) } else { tri!(c.load::<4>(m, b, op, address.wrapping_add(2))) };
    if op.b == 2 {
        base &= 0xff_ffff;
    }
    if !c.canonical(base) {
        c.gp0();
        return Flow::Fault;
    }
    let table = TableRegister { base, limit: limit as u16 };
    if op.imm & 2 != 0 { c.sys.idtr = table } else { c.sys.gdtr = table }
    c.brk
}

/// SGDT, SIDT (`imm` bit 1).
pub(crate) fn store_table(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(umip(c));
    tri!(c.vm_check(op, if op.imm & 2 != 0 { exit::IDTR_READ } else { exit::GDTR_READ }));
    let long = c.mode & mode::SIZE == mode::CODE64;
    let table = if op.imm & 2 != 0 { c.sys.idtr } else { c.sys.gdtr };
    let size = if long { 10 } else { 6 };
    let address = tri!(c.linear(op, size, true));
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    tri!(c.write_bytes(m, b, op, address, &bytes[..size as usize]));
    c.brk
}

/// LLDT, LTR (`imm` bit 1).
pub(crate) fn load_selector(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.mode & mode::PROTECTED == 0 {
        c.ud();
        return Flow::Fault;
    }
    tri!(c.need_cpl0());
    tri!(c.vm_check(op, if op.imm & 2 != 0 { exit::TR_WRITE } else { exit::LDTR_WRITE }));
    let selector = tri!(operand16(c, m, b, op)) as u16;
    if op.imm & 2 != 0 { tri!(c.load_task(m, b, selector)) } else { tri!(c.load_ldt(m, b, selector)) }
    c.brk
}

/// LAR, LSL (`imm` bit 1): destination `a`, its size in `disp` for registers.
pub(crate) fn load_rights<const LIMIT: bool, const N: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.mode & mode::PROTECTED == 0 {
        c.ud();
        return Flow::Fault;
    }
    let selector = tri!(operand16(c, m, b, op)) as u16;
    let seg = tri!(c.visible_descriptor(m, b, selector));
    let long = c.sys.efer & efer::LMA != 0;
    let shown = seg.filter(|seg| seg.attr & attr::S != 0 || crate::exception::system_type_visible(seg.attr & 0x1f, LIMIT, long));
    match shown {
        Some(seg) => {
            let value = if LIMIT { u64::from(seg.limit) } else { u64::from(seg.attr & 0xff) << 8 | u64::from(seg.attr & 0xf00) << 12 };
            set::<N>(c, op.a, value);
            c.set_some(rflags::ZF, rflags::ZF);
        }
        None => c.set_some(rflags::ZF, 0),
    }
    c.brk
}

/// VERR, VERW (`W`).
pub(crate) fn verify<const W: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.mode & mode::PROTECTED == 0 {
        c.ud();
        return Flow::Fault;
    }
    let selector = tri!(operand16(c, m, b, op)) as u16;
    let seg = tri!(c.visible_descriptor(m, b, selector));
    let fine = seg.is_some_and(|seg| {
        let code = seg.attr & attr::CODE != 0;
        let rw = seg.attr & attr::RW != 0;
        seg.attr & attr::S != 0 && if W { !code && rw } else { !code || rw }
    });
    c.set_some(rflags::ZF, if fine { rflags::ZF } else { 0 });
    c.brk
}

/// ARPL (not in 64-bit mode).
pub(crate) fn arpl(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.mode & mode::PROTECTED == 0 {
        c.ud();
        return Flow::Fault;
    }
    let rpl = get::<2>(c, op.b) & 3;
    let raise = |value: u64| if value & 3 < rpl { (value & !3 | rpl, true) } else { (value, false) };
    let changed;
    if op.imm & 1 == 0 {
        let (value, flag) = raise(get::<2>(c, op.a));
        set::<2>(c, op.a, value);
        changed = flag;
    } else {
        let address = tri!(c.linear(op, 2, true));
        let mut flag = false;
        tri!(c.modify::<2>(m, b, op, address, |_, value| {
            let (value, up) = raise(value);
            flag = up;
            value
        }));
        changed = flag;
    }
    c.set_some(rflags::ZF, if changed { rflags::ZF } else { 0 });
    c.brk
}

// ---- segment moves -----------------------------------------------------------------------------------------------------------

fn after_segment(c: &mut Core, op: &Op, index: usize) -> Flow {
    if index == SS {
        c.sys.shadow = true;
    }
    end(c, op)
}

/// MOV Sreg, r/m: `a` = segment.
pub(crate) fn mov_to_seg(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let selector = tri!(operand16(c, m, b, op)) as u16;
    tri!(c.load_data_segment(m, b, usize::from(op.a & 7), selector));
    after_segment(c, op, usize::from(op.a & 7))
}

/// MOV r/m, Sreg: `disp`... the segment is in bits 4.. of `imm`.
pub(crate) fn mov_from_seg(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = u64::from(c.sys.seg[(op.imm >> 4 & 7) as usize].selector);
    store16(c, m, b, op, value)
}

/// PUSH Sreg: `a` = segment, `b` = operand size.
pub(crate) fn push_seg(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = u64::from(c.sys.seg[usize::from(op.a & 7)].selector);
    tri!(c.push_sized(m, b, op, usize::from(op.b), value));
    c.brk
}

/// POP Sreg.
pub(crate) fn pop_seg(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let selector = tri!(c.peek_sized(m, b, op, 2, 0)) as u16;
    let bytes = u64::from(op.b);
    // The stack pointer moves by the old stack's width, after the load.
    let sp = c.r[RSP].wrapping_add(bytes);
    let mask = c.stack_mask();
    tri!(c.load_data_segment(m, b, usize::from(op.a & 7), selector));
    c.r[RSP] = c.r[RSP] & !mask | sp & mask;
    after_segment(c, op, usize::from(op.a & 7))
}

/// LDS, LES, LSS, LFS, LGS: `a` = register, `b` = its size, `imm` = segment.
pub(crate) fn load_far_pointer(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let size = u64::from(op.b);
    let address = tri!(c.linear(op, size + 2, false));
    let offset = match size {
        2 => tri!(c.load::<2>(m, b, op, address)),
        4 => tri!(c.load::<4>(m, b, op, address)),
        _ => tri!(c.load::<8>(m, b, op, address)),
    };
    let selector = tri!(c.load::<2>(m, b, op, address.wrapping_add(size))) as u16;
    tri!(c.load_data_segment(m, b, op.imm as usize & 7, selector));
    match size {
        2 => set::<2>(c, op.a, offset),
        4 => set::<4>(c, op.a, offset),
        _ => set::<8>(c, op.a, offset),
    }
    end(c, op)
}

// ---- far transfers -------------------------------------------------------------------------------------------------------------

/// Far JMP (`CALL` false) or CALL with an immediate pointer: `imm` = offset, `disp` = selector, `b` = operand size.
pub(crate) fn far_direct<const CALL: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.far_transfer(m, b, op, op.disp as u16, op.imm, usize::from(op.b), CALL));
    Flow::Exit
}

/// Far JMP or CALL through memory.
pub(crate) fn far_indirect<const CALL: bool>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let size = u64::from(op.b);
    let address = tri!(c.linear(op, size + 2, false));
    let offset = match size {
        2 => tri!(c.load::<2>(m, b, op, address)),
        4 => tri!(c.load::<4>(m, b, op, address)),
        _ => tri!(c.load::<8>(m, b, op, address)),
    };
    let selector = tri!(c.load::<2>(m, b, op, address.wrapping_add(size))) as u16;
    tri!(c.far_transfer(m, b, op, selector, offset, usize::from(op.b), CALL));
    Flow::Exit
}

/// Far RET: `imm` = bytes, `b` = operand size.
pub(crate) fn far_ret(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.far_return(m, b, op, usize::from(op.b), op.imm));
    Flow::Exit
}

/// IRET: `b` = operand size.
pub(crate) fn iret(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.vm_check(op, exit::IRET));
    tri!(c.interrupt_return(m, b, op, usize::from(op.b)));
    Flow::Exit
}

/// INTO.
pub(crate) fn into(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.of() { crate::exception::software_interrupt(c, m, b, op) } else { Flow::Next }
}

/// BOUND: `a` = index register, `b` = operand size.
pub(crate) fn bound(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let size = u64::from(op.b);
    let address = tri!(c.linear(op, 2 * size, false));
    let (low, high, index) = if size == 2 {
        let low = tri!(c.load::<2>(m, b, op, address)) as i16;
        let high = tri!(c.load::<2>(m, b, op, address.wrapping_add(2))) as i16;
        (i64::from(low), i64::from(high), i64::from(get::<2>(c, op.a) as i16))
    } else {
        let low = tri!(c.load::<4>(m, b, op, address)) as i32;
        let high = tri!(c.load::<4>(m, b, op, address.wrapping_add(4))) as i32;
        (i64::from(low), i64::from(high), i64::from(get::<4>(c, op.a) as i32))
    };
    if index < low || index > high {
        c.raise(vector::BR);
        return Flow::Fault;
    }
    c.brk
}

/// SYSCALL (APM vol. 3; vol. 2 §6.1.1).
pub(crate) fn syscall(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.sys.efer & efer::SCE == 0 {
        c.ud();
        return Flow::Fault;
    }
    let next = c.cut_rip(c.rip_after(op));
    let selector = (c.sys.star >> 32) as u16 & !3;
    let flags = c.rflags() & !rflags::RF;
    if c.sys.efer & efer::LMA != 0 {
        c.r[RCX] = next;
        c.r[11] = flags;
        c.rip = if c.mode & mode::SIZE == mode::CODE64 { c.sys.lstar } else { c.sys.cstar };
        c.set_rflags(flags & !c.sys.sfmask);
        c.sys.seg[CS] = Core::flat(selector, 0, true, true);
    } else {
        c.r[RCX] = next;
        c.rip = c.sys.star & 0xffff_ffff;
        c.set_rflags(flags & !(rflags::VM | rflags::IF));
        c.sys.seg[CS] = Core::flat(selector, 0, true, false);
    }
    c.sys.seg[SS] = Core::flat(selector.wrapping_add(8), 0, false, false);
    c.sys.cpl = 0;
    go_on(c)
}

/// The end of SYSCALL and SYSRET, mostly a branch like others: from 64-bit code to 64-bit code, and nothing has come due by the new flags.
fn go_on(c: &mut Core) -> Flow {
    let from = c.mode & mode::SIZE;
    c.update_mode();
    let steps = c.flags_rest & (rflags::TF | rflags::RF) != 0;
    let waits = c.flags_rest & rflags::IF != 0 && !c.quiet || c.sys.svm.guest;
    if steps || waits || from != mode::CODE64 || c.mode & mode::SIZE != mode::CODE64 { Flow::Exit } else { Flow::Indirect }
}

/// SYSRET: `b` = operand size.
pub(crate) fn sysret(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.sys.efer & efer::SCE == 0 {
        c.ud();
        return Flow::Fault;
    }
    tri!(c.need_cpl0());
    let base = (c.sys.star >> 48) as u16;
    let rcx = c.r[RCX];
    let long = c.sys.efer & efer::LMA != 0;
    if long && op.b == 8 {
        // As Intel does: #GP in the kernel. AMD would fault in user mode; kernels must be safe for both.
        if !canonical(rcx) {
            c.gp0();
            return Flow::Fault;
        }
        c.sys.seg[CS] = Core::flat(base.wrapping_add(16) | 3, 3, true, true);
        c.rip = rcx;
    } else {
        c.sys.seg[CS] = Core::flat(base | 3, 3, true, false);
        c.rip = rcx & 0xffff_ffff;
    }
    if long {
        let flags = c.r[11] & rflags::ALL & !(rflags::RF | rflags::VM);
        c.set_rflags(flags);
    } else {
        c.flags_rest |= rflags::IF;
    }
    c.sys.seg[SS] = Core::flat(base.wrapping_add(8) | 3, 3, false, false);
    c.sys.cpl = 3;
    go_on(c)
}

/// SYSENTER: AMD processors know it in legacy mode only (APM vol. 3).
pub(crate) fn sysenter(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    if c.mode & mode::LONG != 0 {
        c.ud();
        return Flow::Fault;
    }
    if c.mode & mode::PROTECTED == 0 || c.sys.sysenter_cs & 0xfffc == 0 {
        c.gp0();
        return Flow::Fault;
    }
    let selector = c.sys.sysenter_cs as u16 & !3;
    c.flags_rest &= !(rflags::VM | rflags::IF);
    c.sys.seg[CS] = Core::flat(selector, 0, true, false);
    c.sys.seg[SS] = Core::flat(selector.wrapping_add(8), 0, false, false);
    c.rip = c.sys.sysenter_eip & 0xffff_ffff;
    c.r[RSP] = c.sys.sysenter_esp & 0xffff_ffff;
    c.sys.cpl = 0;
    c.update_mode();
    Flow::Exit
}

/// SYSEXIT: legacy mode only, as SYSENTER.
pub(crate) fn sysexit(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    if c.mode & mode::LONG != 0 {
        c.ud();
        return Flow::Fault;
    }
    if c.mode & mode::PROTECTED == 0 || c.sys.sysenter_cs & 0xfffc == 0 || c.sys.cpl != 0 {
        c.gp0();
        return Flow::Fault;
    }
    let selector = c.sys.sysenter_cs as u16;
    c.sys.seg[CS] = Core::flat(selector.wrapping_add(16) | 3, 3, true, false);
    c.sys.seg[SS] = Core::flat(selector.wrapping_add(24) | 3, 3, false, false);
    c.rip = c.r[RDX] & 0xffff_ffff;
    c.r[RSP] = c.r[RCX] & 0xffff_ffff;
    c.sys.cpl = 3;
    c.update_mode();
    Flow::Exit
}

/// SWAPGS.
pub(crate) fn swapgs(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    if c.mode & mode::SIZE != mode::CODE64 {
        c.ud();
        return Flow::Fault;
    }
    tri!(c.need_cpl0());
    std::mem::swap(&mut c.sys.seg[GS].base, &mut c.sys.kernel_gs_base);
    Flow::Next
}

/// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE: `b` = segment, `imm` = 1 to write, `N` operand size.
pub(crate) fn segment_base<const N: usize>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.mode & mode::SIZE != mode::CODE64 || c.sys.cr4 & cr4::FSGSBASE == 0 {
        c.ud();
        return Flow::Fault;
    }
    let index = usize::from(op.b & 7);
    if op.imm == 0 {
        let base = c.sys.seg[index].base;
        set::<N>(c, op.a, base);
        return Flow::Next;
    }
    let base = get::<N>(c, op.a);
    if !canonical(base) {
        c.gp0();
        return Flow::Fault;
    }
    c.sys.seg[index].base = base;
    Flow::Next
}

// ---- ports, interrupts, waiting -------------------------------------------------------------------------------------------------

/// IN: `N` bytes; port in DX (`imm` >> 16 != 0) or `imm`.
pub(crate) fn port_in<const N: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let port = if op.imm >> 16 != 0 { c.r[RDX] as u16 } else { op.imm as u16 };
    tri!(c.check_port(m, b, port, N as u64));
    tri!(c.vm_check_port(m, op, port, N as u64, 1));
    let at = c.at(op);
    let value = b.port_in(at, port, N as u8);
    set::<N>(c, RAX as u8, u64::from(value));
    Flow::Break
}

/// OUT.
pub(crate) fn port_out<const N: usize>(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let port = if op.imm >> 16 != 0 { c.r[RDX] as u16 } else { op.imm as u16 };
    tri!(c.check_port(m, b, port, N as u64));
    tri!(c.vm_check_port(m, op, port, N as u64, 0));
    let value = get::<N>(c, RAX as u8);
    let at = c.at(op);
    b.port_out(at, port, N as u8, value as u32);
    Flow::Break
}

/// CLI.
pub(crate) fn cli(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    if c.mode & mode::PROTECTED != 0 && c.sys.cpl > c.iopl() || c.flags_rest & rflags::VM != 0 && c.iopl() < 3 {
        c.gp0();
        return Flow::Fault;
    }
    c.flags_rest &= !rflags::IF;
    Flow::Next
}

/// STI: interrupts stay off for one more instruction if they were off.
pub(crate) fn sti(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.mode & mode::PROTECTED != 0 && c.sys.cpl > c.iopl() || c.flags_rest & rflags::VM != 0 && c.iopl() < 3 {
        c.gp0();
        return Flow::Fault;
    }
    if c.flags_rest & rflags::IF != 0 {
        return Flow::Next;
    }
    c.flags_rest |= rflags::IF;
    c.sys.shadow = true;
    end(c, op)
}

/// HLT.
pub(crate) fn hlt(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_cpl0());
    tri!(c.vm_check(op, exit::HLT));
    c.sys.activity = Activity::Halted;
    end(c, op)
}

/// PAUSE: may end the turn.
pub(crate) fn pause(c: &mut Core, _m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.intercepts(exit::PAUSE) {
        let at = c.at(op);
        let now = b.tsc(at);
        tri!(c.vm_check_pause(op, now));
    }
    if !c.config.pause_ends_turn {
        return Flow::Next;
    }
    c.pause_seen = true;
    end(c, op)
}

fn has_monitor(c: &mut Core) -> Result<(), Fault> {
    if c.config.cpuid.get(1, 0)[2] & 8 == 0 {
        return Err(c.ud());
    }
    if c.sys.cpl != 0 { Err(c.ud()) } else { Ok(()) }
}

/// MONITOR: reads the byte at rAX and watches nothing. `b` = address size.
pub(crate) fn monitor(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(has_monitor(c));
    if c.r[RCX] as u32 != 0 {
        c.gp0();
        return Flow::Fault;
    }
    tri!(c.vm_check(op, exit::MONITOR));
    let offset = match op.b {
        2 => c.r[RAX] & 0xffff,
        4 => c.r[RAX] & 0xffff_ffff,
        _ => c.r[RAX],
    };
    let address = tri!(c.linear_at(op.seg(), offset, 1, false));
    tri!(c.load::<1>(m, b, op, address));
    end(c, op)
}

/// MWAIT: may end at any time (APM vol. 3), so it ends at once, and the turn with it.
pub(crate) fn mwait(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(has_monitor(c));
    if c.r[RCX] as u32 > 1 {
        c.gp0();
        return Flow::Fault;
    }
    tri!(c.vm_check(op, exit::MWAIT));
    c.pause_seen = c.config.pause_ends_turn;
    end(c, op)
}

/// CPL-0 instructions without effect here: WBINVD, WBNOINVD, INVD; `imm` is their exit code.
pub(crate) fn privileged_nop(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_cpl0());
    tri!(c.vm_check(op, op.imm as u32));
    Flow::Next
}

/// STAC, CLAC.
pub(crate) fn set_ac<const ON: bool>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.sys.cpl != 0 {
        c.ud();
        return Flow::Fault;
    }
    c.flags_rest = if ON { c.flags_rest | rflags::AC } else { c.flags_rest & !rflags::AC };
    c.update_mode();
    end(c, op)
}

/// CLFLUSH and relatives: checks the address as a read of one byte does.
pub(crate) fn touch(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let address = tri!(c.linear(op, 1, false));
    tri!(c.load::<1>(m, b, op, address));
    c.brk
}

/// INVLPG.
pub(crate) fn invlpg(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_cpl0());
    let offset = c.offset(op);
    let address = if c.mode & mode::SIZE == mode::CODE64 {
        if op.seg() >= FS { c.sys.seg[op.seg()].base.wrapping_add(offset) } else { offset }
    } else {
        c.sys.seg[op.seg()].base.wrapping_add(offset) & 0xffff_ffff
    };
    tri!(c.vm_check_info(op, exit::INVLPG, address));
    if c.canonical(address) {
        let pcid = c.pcid;
        c.tlb.flush_page(address, pcid);
        c.code_vpage = 0;
    }
    end(c, op)
}

/// INVPCID: `a` = type register.
pub(crate) fn invpcid(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_cpl0());
    tri!(c.vm_check(op, exit::INVPCID));
    let kind = if c.mode & mode::SIZE == mode::CODE64 { c.r[usize::from(op.a & 15)] } else { get::<4>(c, op.a) };
    let address = tri!(c.linear(op, 16, false));
    let descriptor = tri!(c.load128(m, b, op, address));
    let (low, target) = (descriptor as u64, (descriptor >> 64) as u64);
    let pcid = (low & 0xfff) as u16;
    if kind > 3 || (kind <= 1 && (low >> 12 != 0 || (c.sys.cr4 & cr4::PCIDE == 0 && pcid != 0))) || (kind == 0 && !canonical(target)) {
        c.gp0();
        return Flow::Fault;
    }
    match kind {
        0 => c.tlb.flush_if(|tag, leaf, entry| {
            let near = tag >> 12 == target >> 12 || leaf & crate::tlb::LEAF_LARGE != 0 && tag >> 30 == target >> 30;
            entry == pcid && leaf & crate::tlb::LEAF_GLOBAL == 0 && near
        }),
        1 => c.tlb.flush_if(|_, leaf, entry| entry == pcid && leaf & crate::tlb::LEAF_GLOBAL == 0),
        2 => c.tlb.flush(),
        _ => c.tlb.flush_if(|_, leaf, _| leaf & crate::tlb::LEAF_GLOBAL == 0),
    }
    c.code_vpage = 0;
    end(c, op)
}

// ---- identification, counters, random -----------------------------------------------------------------------------------------

/// CPUID.
pub(crate) fn cpuid(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.vm_check(op, exit::CPUID));
    let (leaf, subleaf) = (c.r[RAX] as u32, c.r[RCX] as u32);
    let [a, bx, cx, d] = c.cpuid(leaf, subleaf);
    c.r[RAX] = u64::from(a);
    c.r[RBX] = u64::from(bx);
    c.r[RCX] = u64::from(cx);
    c.r[RDX] = u64::from(d);
    Flow::Next
}

fn time_stamp(c: &mut Core, b: &mut dyn CpuBus, op: &Op, code: u32) -> Result<u64, Fault> {
    if c.sys.cr4 & cr4::TSD != 0 && c.sys.cpl > 0 {
        return Err(c.gp0());
    }
    c.vm_check(op, code)?;
    let at = c.at(op);
    Ok(b.tsc(at).wrapping_add(c.sys.tsc_offset).wrapping_add(c.sys.svm.tsc_offset))
}

/// RDTSC, RDTSCP (`P`).
pub(crate) fn rdtsc<const P: bool>(c: &mut Core, _m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let tsc = tri!(time_stamp(c, b, op, if P { exit::RDTSCP } else { exit::RDTSC }));
    c.r[RAX] = tsc & 0xffff_ffff;
    c.r[RDX] = tsc >> 32;
    if P {
        c.r[RCX] = c.sys.tsc_aux & 0xffff_ffff;
    }
    Flow::Next
}

/// RDPMC: there are no counters.
pub(crate) fn rdpmc(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.sys.cpl == 0 || c.sys.cr4 & cr4::PCE != 0 {
        tri!(c.vm_check(op, exit::RDPMC));
    }
    c.gp0();
    Flow::Fault
}

/// RDPID.
pub(crate) fn rdpid(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = c.sys.tsc_aux;
    set::<8>(c, op.a, value & 0xffff_ffff);
    Flow::Next
}

/// RDRAND, RDSEED.
pub(crate) fn random<const N: usize>(c: &mut Core, _m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    let value = b.random();
    set::<N>(c, op.a, value);
    c.set_arith(rflags::CF);
    Flow::Next
}

/// XGETBV.
pub(crate) fn xgetbv(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, _op: &Op) -> Flow {
    if c.sys.cr4 & cr4::OSXSAVE == 0 {
        c.ud();
        return Flow::Fault;
    }
    let value = match c.r[RCX] as u32 {
        0 => c.sys.xcr0,
        1 => c.sys.xcr0 & c.xinuse(),
        _ => {
            c.gp0();
            return Flow::Fault;
        }
    };
    c.r[RAX] = value & 0xffff_ffff;
    c.r[RDX] = value >> 32;
    Flow::Next
}

/// XSETBV.
pub(crate) fn xsetbv(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.sys.cr4 & cr4::OSXSAVE == 0 {
        c.ud();
        return Flow::Fault;
    }
    tri!(c.need_cpl0());
    tri!(c.vm_check(op, exit::XSETBV));
    let value = c.r[RDX] << 32 | c.r[RAX] & 0xffff_ffff;
    let known = c.config.cpuid.xcr0_mask();
    if c.r[RCX] as u32 != 0 || value & 1 == 0 || value & !known != 0 || value & 6 == 4 {
        c.gp0();
        return Flow::Fault;
    }
    c.sys.xcr0 = value;
    c.update_mode();
    end(c, op)
}

/// RDMSR.
pub(crate) fn rdmsr(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_cpl0());
    let at = c.at(op);
    let number = c.r[RCX] as u32;
    tri!(c.vm_check_msr(m, op, number, false));
    let value = match c.read_msr(number, b, at) {
        Some(value) => value,
        None => {
            c.gp0();
            return Flow::Fault;
        }
    };
    c.r[RAX] = value & 0xffff_ffff;
    c.r[RDX] = value >> 32;
    Flow::Break
}

/// WRMSR.
pub(crate) fn wrmsr(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_cpl0());
    let at = c.at(op);
    let number = c.r[RCX] as u32;
    tri!(c.vm_check_msr(m, op, number, true));
    let value = c.r[RDX] << 32 | c.r[RAX] & 0xffff_ffff;
    if !c.write_msr(number, value, b, at) {
        c.gp0();
        return Flow::Fault;
    }
    end(c, op)
}

impl Core {
    /// CPUID with the bits that follow the state.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let mut out = self.config.cpuid.get(leaf, subleaf);
        match leaf {
            1 if self.sys.cr4 & cr4::OSXSAVE != 0 => out[2] |= 1 << 27,
            0xd if subleaf == 0 => out[1] = if self.sys.xcr0 & 4 != 0 { 0x340 } else { 0x240 },
            0xd if subleaf == 1 => out[1] = if self.sys.xcr0 & 4 != 0 { 0x340 } else { 0x240 },
            _ => {}
        }
        out
    }

    fn read_msr(&mut self, number: u32, b: &mut dyn CpuBus, at: sim_bus::At) -> Option<u64> {
        let sys = &self.sys;
        Some(match number {
            0x10 => b.tsc(at).wrapping_add(sys.tsc_offset).wrapping_add(sys.svm.tsc_offset),
            0x3b => sys.tsc_offset,
            0x8b => 0x0100_0065,
            0x17 | 0x2a => 0,
            0xe7 | 0xe8 => b.tsc(at),
            0xfe => 0x508,
            0x174 => sys.sysenter_cs,
            0x175 => sys.sysenter_esp,
            0x176 => sys.sysenter_eip,
            0x179 => 0x100 | sys.mc_banks.len() as u64,
            0x17a => sys.mcg_status,
            0x17b => sys.mcg_ctl,
            0x1a0 => sys.misc_enable,
            0x1d9 | 0x1db..=0x1de => 0,
            0x200..=0x20f => sys.mtrr_variable[(number - 0x200) as usize],
            0x250 => sys.mtrr_fixed[0],
            0x258 | 0x259 => sys.mtrr_fixed[(number - 0x257) as usize],
            0x268..=0x26f => sys.mtrr_fixed[(number - 0x268) as usize + 3],
            0x277 => sys.pat,
            0x2ff => sys.mtrr_def_type,
            0x400..=0x417 => sys.mc_banks[((number - 0x400) / 4) as usize][(number & 3) as usize],
            0xda0 if self.config.cpuid.has_xsaves() => sys.xss,
            0xc000_0080 => sys.efer,
            0xc000_0081 => sys.star,
            0xc000_0082 => sys.lstar,
            0xc000_0083 => sys.cstar,
            0xc000_0084 => sys.sfmask,
            0xc000_0100 => sys.seg[FS].base,
            0xc000_0101 => sys.seg[GS].base,
            0xc000_0102 => sys.kernel_gs_base,
            0xc000_0103 => sys.tsc_aux,
            0xc001_0015 => sys.hwcr,
            // SYSCFG, TOP_MEM, TOP_MEM2, patch level and relatives that AMD kernels read: nothing set.
            0xc001_0010 | 0xc001_001a | 0xc001_001d | 0xc001_001f | 0xc001_0055 | 0xc001_0058 | 0xc001_1020..=0xc001_102d => 0,
            0xc001_0114..=0xc001_0118 if !self.config.cpuid.has_svm() => return b.msr_read(at, number),
            0xc001_0114 => sys.svm.vm_cr,
            0xc001_0117 => sys.vm_hsave_pa,
            // IGNNE, SVM_KEY; SMM_CTL (0xc001_0116) is write-only.
            0xc001_0115 | 0xc001_0118 => 0,
            _ => return b.msr_read(at, number),
        })
    }

    fn write_msr(&mut self, number: u32, value: u64, b: &mut dyn CpuBus, at: sim_bus::At) -> bool {
        match number {
            0x10 => self.sys.tsc_offset = value.wrapping_sub(b.tsc(at)),
            0x3b => self.sys.tsc_offset = value,
            0x79 | 0x8b => {}
            0x174 => self.sys.sysenter_cs = value & 0xffff_ffff,
            0x175 if canonical(value) => self.sys.sysenter_esp = value,
            0x176 if canonical(value) => self.sys.sysenter_eip = value,
            0x17a => self.sys.mcg_status = value,
            0x17b => self.sys.mcg_ctl = value,
            0x1a0 => self.sys.misc_enable = value,
            0x1d9 => {}
            0x200..=0x20f => {
                // Base: a type; mask: the valid bit. Both: page-aligned, and no wider than addresses are (APM vol. 2 §7.7.2).
                let low_good = if number & 1 == 0 { value & 0xf00 == 0 && is_memory_type(value as u8) } else { value & 0x7ff == 0 };
                if !low_good || value >> self.config.physical_bits != 0 {
                    return false;
                }
                self.sys.mtrr_variable[(number - 0x200) as usize] = value;
            }
            0x250 | 0x258 | 0x259 | 0x268..=0x26f => {
                if !value.to_le_bytes().into_iter().all(is_memory_type) {
                    return false;
                }
                let index = match number {
                    0x250 => 0,
                    0x258 | 0x259 => number - 0x257,
                    _ => number - 0x268 + 3,
                };
                self.sys.mtrr_fixed[index as usize] = value;
            }
            0x277 => {
                if value.to_le_bytes().iter().any(|&kind| kind > 7 || kind == 2 || kind == 3) {
                    return false;
                }
                self.sys.pat = value;
            }
            0x2ff => {
                if value & !0xcff != 0 || !is_memory_type(value as u8) {
                    return false;
                }
                self.sys.mtrr_def_type = value;
            }
            0x400..=0x417 => {
                // STATUS may only be cleared (unless McStatusWrEn), as on hardware.
                if number & 3 == 1 && value != 0 && self.sys.hwcr & 1 << 18 == 0 {
                    return false;
                }
                self.sys.mc_banks[((number - 0x400) / 4) as usize][(number & 3) as usize] = value;
            }
            0xda0 if self.config.cpuid.has_xsaves() && value == 0 => self.sys.xss = value,
            0xc000_0080 => return self.write_efer(value),
            0xc000_0081 => self.sys.star = value,
            0xc000_0082 if canonical(value) => self.sys.lstar = value,
            0xc000_0083 if canonical(value) => self.sys.cstar = value,
            0xc000_0084 => self.sys.sfmask = value & 0xffff_ffff,
            0xc000_0100 if canonical(value) => self.sys.seg[FS].base = value,
            0xc000_0101 if canonical(value) => self.sys.seg[GS].base = value,
            0xc000_0102 if canonical(value) => self.sys.kernel_gs_base = value,
            0xc000_0103 if value >> 32 == 0 => self.sys.tsc_aux = value,
            0xc001_0015 => self.sys.hwcr = value,
            0xc001_0114..=0xc001_0118 if !self.config.cpuid.has_svm() => return b.msr_write(at, number, value),
            0xc001_0114 => return self.write_vm_cr(value),
            0xc001_0115 | 0xc001_0116 | 0xc001_0118 => {}
            0xc001_0117 if value & 0xfff == 0 && value >> self.config.physical_bits == 0 => self.sys.vm_hsave_pa = value,
            0xc001_0010 | 0xc001_001f | 0xc001_0055 | 0xc001_1020..=0xc001_102d => {}
            // The remaining ones of ours that were refused above.
            0x175 | 0x176 | 0xda0 | 0xc001_0117 | 0xc000_0082 | 0xc000_0083 | 0xc000_0100..=0xc000_0103 => return false,
            _ => return b.msr_write(at, number, value),
        }
        true
    }

    fn write_efer(&mut self, value: u64) -> bool {
        let old = self.sys.efer;
        if value & efer::SVME != 0 && self.sys.svm.vm_cr & crate::svm::VM_CR_SVMDIS != 0 {
            return false;
        }
        if value & !self.efer_mask != 0 || (self.sys.cr0 & cr0::PG != 0 && (old ^ value) & efer::LME != 0) {
            return false;
        }
        self.sys.efer = value & !efer::LMA | old & efer::LMA;
        if (old ^ value) & efer::NXE != 0 {
            self.flush_all();
        }
        self.update_mode();
        true
    }
}
