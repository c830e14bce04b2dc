//! Hardware task switches (APM vol. 2 §12.3): by JMP and CALL to a TSS or a task gate, by an event through a task gate, by IRET with NT.
//!
//! # Failure
//! Everything up to the new task's selectors is checked before anything changes. What is wrong with those selectors is a fault *of the new task*: it is
//! delivered from there, so the switch itself has happened.

use crate::core::{Access, Core, Fault, vector};
use crate::exception::{TSS_AVAILABLE, TSS_BUSY, TSS16_AVAILABLE, TSS16_BUSY, is_code, is_conforming, segment_from};
use crate::op::Op;
use crate::state::{CS, DS, ES, FS, GS, LDTR, RSP, SS, Segment, TR, attr, cr0, rflags};
use crate::svm::{Exit, exit};
use sim_bus::CpuBus;
use sim_mem::GuestMemory;

/// How a task switch comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    Jump,
    Call,
    /// An event, with its error code.
    Event(Option<u32>),
    Return,
}

/// Where a TSS keeps what: 32-bit or 16-bit form.
struct Layout {
    word: u64,
    ip: u64,
    flags: u64,
    registers: u64,
    segments: u64,
    /// Distance of segment selectors, and how many there are.
    step: u64,
    count: usize,
    ldt: u64,
}

const WIDE: Layout = Layout { word: 4, ip: 0x20, flags: 0x24, registers: 0x28, segments: 0x48, step: 4, count: 6, ldt: 0x60 };
const NARROW: Layout = Layout { word: 2, ip: 0x0e, flags: 0x10, registers: 0x12, segments: 0x22, step: 2, count: 4, ldt: 0x2a };
/// CR3 and the debug-trap word of the 32-bit form.
const TSS_CR3: u64 = 0x1c;
const TSS_TRAP: u64 = 0x64;
/// DR6.BT.
const DR6_BT: u64 = 1 << 15;

fn layout(task: &Segment) -> &'static Layout {
    if task.attr & 8 != 0 { &WIDE } else { &NARROW }
}

impl Core {
    /// The TSS a selector names. `busy`: IRET wants a busy one, all others an available one; `bad` is the vector of what is wrong with it.
    pub fn task_descriptor(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, selector: u16, busy: bool, bad: u8, ext: u32) -> Result<Segment, Fault> {
        let error = u32::from(selector & 0xfffc) | ext;
        if selector & 4 != 0 || selector & 0xfffc == 0 {
            return Err(self.raise_code(bad, error));
        }
        let raw = self.descriptor(m, b, selector, bad, ext)?;
        let seg = segment_from(raw, selector);
        let kind = seg.attr & 0x1f;
        let wanted = if busy { kind == TSS_BUSY || kind == TSS16_BUSY } else { kind == TSS_AVAILABLE || kind == TSS16_AVAILABLE };
        if !wanted {
            return Err(self.raise_code(bad, error));
        }
        if seg.attr & attr::P == 0 {
            return Err(self.raise_code(vector::NP, error));
        }
        if seg.limit < if seg.attr & 8 != 0 { 0x67 } else { 0x2b } {
            return Err(self.raise_code(vector::TS, error));
        }
        Ok(seg)
    }

    /// Switches to the task of `new`; `next` is where the old one goes on.
    pub fn task_switch(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, new: Segment, how: Switch, next: u64) -> Result<(), Fault> {
        if self.intercepts(exit::TASK_SWITCH) {
            let reason = match how {
                Switch::Return => 1 << 36,
                Switch::Jump => 1 << 38,
                Switch::Call | Switch::Event(None) => 0,
                Switch::Event(Some(code)) => 1 << 44 | u64::from(code),
            };
            let info2 = reason | (self.flags_rest & rflags::RF) << 32;
            self.svm_exit = Some(Exit { code: u64::from(exit::TASK_SWITCH), info1: u64::from(new.selector), info2, next });
            return Err(Fault);
        }
        let old = self.sys.seg[TR];
        let (from, to) = (layout(&old), layout(&new));
        // Read all of the new task and make sure of the places to be written, before anything changes.
        let mut read = |c: &mut Core, offset: u64, size: u64| c.load_sys(m, b, new.base.wrapping_add(offset), size);
        let cr3 = if to.word == 4 { read(self, TSS_CR3, 4)? } else { self.sys.cr3 };
        let ip = read(self, to.ip, to.word)?;
        let flags = read(self, to.flags, to.word)?;
        let mut registers = [0; 8];
        for (index, slot) in registers.iter_mut().enumerate() {
            *slot = read(self, to.registers + to.word * index as u64, to.word)?;
        }
        let mut selectors = [0u16; 6];
        for (index, slot) in selectors.iter_mut().enumerate().take(to.count) {
            *slot = read(self, to.segments + to.step * index as u64, 2)? as u16;
        }
        let ldt = read(self, to.ldt, 2)? as u16;
        let trap = to.word == 4 && read(self, TSS_TRAP, 2)? & 1 != 0;
        let view = self.system_view();
        let last = from.segments + from.step * from.count as u64 - 1;
        let gdt = self.sys.gdtr.base;
        let descriptor = |selector: u16| gdt.wrapping_add(u64::from(selector & 0xfff8) + 5) & 0xffff_ffff;
        for place in [old.base.wrapping_add(from.ip), old.base.wrapping_add(last), new.base, new.base.wrapping_add(1)] {
            self.translate(m, place & 0xffff_ffff, Access::Write, view)?;
        }
        self.translate(m, descriptor(old.selector), Access::Write, view)?;
        self.translate(m, descriptor(new.selector), Access::Write, view)?;

        // The old task.
        let mut old_flags = self.rflags();
        if how == Switch::Return {
            old_flags &= !rflags::NT;
        }
        self.store_sys(m, b, old.base.wrapping_add(from.ip), from.word, next)?;
        self.store_sys(m, b, old.base.wrapping_add(from.flags), from.word, old_flags)?;
        for index in 0..8 {
            let value = self.r[index];
            self.store_sys(m, b, old.base.wrapping_add(from.registers + from.word * index as u64), from.word, value)?;
        }
        for index in 0..from.count {
            let value = u64::from(self.sys.seg[index].selector);
            self.store_sys(m, b, old.base.wrapping_add(from.segments + from.step * index as u64), 2, value)?;
        }
        if matches!(how, Switch::Jump | Switch::Return) {
            self.store_sys(m, b, descriptor(old.selector), 1, u64::from(old.attr & 0xff & !2))?;
        }
        let nested = matches!(how, Switch::Call | Switch::Event(_));
        if nested {
            self.store_sys(m, b, new.base, 2, u64::from(old.selector))?;
        }
        if how != Switch::Return {
            self.store_sys(m, b, descriptor(new.selector), 1, u64::from(new.attr & 0xff | 2))?;
        }

        // The new task. From here on faults are its own.
        self.sys.seg[TR] = Segment { attr: new.attr | 2, ..new };
        self.sys.cr0 |= cr0::TS;
        self.sys.dr7 &= !0x155;
        let wide_flags = if to.word == 4 { flags } else { self.flags_rest & !0xffff & !rflags::VM | flags };
        self.set_rflags(wide_flags | if nested { rflags::NT } else { 0 });
        for (index, value) in registers.into_iter().enumerate() {
            self.r[index] = if to.word == 4 { value } else { self.r[index] & !0xffff | value };
        }
        self.rip = ip;
        self.single_trap = false;
        self.sys.shadow = false;
        if trap {
            self.sys.pending_db |= DR6_BT;
        }
        if let Err(Fault) = self.enter_task(m, b, cr3, ldt, selectors, how) {
            self.update_mode();
            // Without a place to deliver it the processor has shut down by now.
            self.deliver_fault(m, b).unwrap_or(());
        }
        self.update_mode();
        Ok(())
    }

    /// Loads what the new task's selectors name.
    fn enter_task(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, cr3: u64, ldt: u16, selectors: [u16; 6], how: Switch) -> Result<(), Fault> {
        for (index, selector) in selectors.into_iter().enumerate() {
            // Unusable until loaded.
            self.sys.seg[index] = Segment { selector, ..Segment::default() };
        }
        self.sys.seg[LDTR] = Segment { selector: ldt, ..Segment::default() };
        if self.sys.cr0 & cr0::PG != 0 && cr3 != self.sys.cr3 {
            self.write_cr3(m, cr3)?;
        }
        self.sys.cpl = (selectors[CS] & 3) as u8;
        self.update_mode();
        if ldt & 0xfffc != 0 {
            self.load_task_ldt(m, b, ldt)?;
        }
        if self.flags_rest & rflags::VM != 0 {
            self.sys.cpl = 3;
            for (index, selector) in selectors.into_iter().enumerate() {
                let bits = attr::P | attr::S | attr::RW | attr::ACCESSED | 3 << attr::DPL_SHIFT;
                self.sys.seg[index] = Segment { base: u64::from(selector) << 4, limit: 0xffff, attr: bits, selector };
            }
        } else {
            let cpl = self.sys.cpl;
            let stack = self.check_stack_segment(m, b, selectors[SS], cpl, vector::TS, 0)?;
            self.sys.seg[SS] = stack;
            for index in [DS, ES, FS, GS] {
                self.load_task_data(m, b, index, selectors[index])?;
            }
            let code = self.task_code(m, b, selectors[CS])?;
            self.sys.seg[CS] = code;
        }
        self.update_mode();
        if let Switch::Event(Some(code)) = how {
            let size = if self.sys.seg[TR].attr & 8 != 0 { 4 } else { 2 };
            let sp = self.r[RSP].wrapping_sub(size) & 0xffff_ffff;
            let address = self.linear_at(SS, sp, size, true)?;
            self.store_sys(m, b, address, size, u64::from(code))?;
            self.r[RSP] = sp;
        }
        if self.rip > u64::from(self.sys.seg[CS].limit) {
            return Err(self.gp0());
        }
        Ok(())
    }

    fn task_code(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, selector: u16) -> Result<Segment, Fault> {
        let error = u32::from(selector & 0xfffc);
        if error == 0 {
            return Err(self.raise_code(vector::TS, 0));
        }
        let raw = self.descriptor(m, b, selector, vector::TS, 0)?;
        let seg = segment_from(raw, selector);
        let rpl = (selector & 3) as u8;
        let allowed = is_code(&seg) && if is_conforming(&seg) { seg.dpl() <= rpl } else { seg.dpl() == rpl };
        if !allowed {
            return Err(self.raise_code(vector::TS, error));
        }
        if seg.attr & attr::P == 0 {
            return Err(self.raise_code(vector::NP, error));
        }
        self.mark_accessed(m, b, selector, raw)?;
        Ok(Segment { attr: seg.attr | attr::ACCESSED, ..seg })
    }

    fn load_task_ldt(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, selector: u16) -> Result<(), Fault> {
        let fault = match self.load_ldt(m, b, selector) {
            Ok(()) => return Ok(()),
            Err(Fault) => self.fault,
        };
        // Whatever is wrong with it is #TS here.
        Err(if matches!(fault.vector, vector::GP | vector::NP) { self.raise_code(vector::TS, u32::from(selector & 0xfffc)) } else { Fault })
    }

    fn load_task_data(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, index: usize, selector: u16) -> Result<(), Fault> {
        if selector & 0xfffc == 0 {
            self.sys.seg[index] = Segment { selector, ..Segment::default() };
            return Ok(());
        }
        let fault = match self.load_data_segment(m, b, index, selector) {
            Ok(()) => return Ok(()),
            Err(Fault) => self.fault,
        };
        Err(if fault.vector == vector::GP { self.raise_code(vector::TS, u32::from(selector & 0xfffc)) } else { Fault })
    }

    /// IRET with NT: back to the task in the link.
    pub fn task_return(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Result<(), Fault> {
        let base = self.sys.seg[TR].base;
        let link = self.load_sys(m, b, base, 2)? as u16;
        let task = self.task_descriptor(m, b, link, true, vector::TS, 0)?;
        let next = self.cut_rip(self.rip_after(op));
        self.task_switch(m, b, task, Switch::Return, next)
    }
}
