//! Delivery of exceptions and interrupts, IRET, and the descriptor work they share with far transfers.
//!
//! # Theory
//! APM vol. 2 chapter 8 and §4.8. A delivery first reads and checks everything, then writes the new stack, then changes registers: a fault on the way
//! leaves the state of before, and becomes the next exception. Exceptions during delivery combine by class (table 8-3): benign, contributory, page
//! fault; contributory on contributory, and contributory or page fault on page fault, make #DF; anything contributory on #DF shuts down.

use crate::core::{Core, Exception, Fault, mode, vector};
use crate::op::{Flow, Op};
use crate::ops::tri;
use crate::state::{Activity, CS, DS, ES, FS, GS, LDTR, RSP, SS, Segment, TR, attr, cr0, efer, rflags};
use crate::svm::{Exit, event, exit};
use crate::task::Switch;
use crate::tlb;
use sim_bus::CpuBus;
use sim_mem::GuestMemory;

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// An exception or an external interrupt.
    Event,
    /// INT n, INT3, INTO: gate privilege is checked.
    Software,
}

/// Error-code bit: the event was external to the program.
const EXT: u32 = 1;
/// Error-code bit: the index refers to the IDT.
const IDT: u32 = 2;

/// System descriptor types.
pub(crate) const TSS16_AVAILABLE: u16 = 1;
const LDT: u16 = 2;
pub(crate) const TSS16_BUSY: u16 = 3;
const CALL16: u16 = 4;
const TASK_GATE: u16 = 5;
const INT16: u16 = 6;
const TRAP16: u16 = 7;
pub(crate) const TSS_AVAILABLE: u16 = 9;
pub(crate) const TSS_BUSY: u16 = 11;
const CALL: u16 = 12;
const INTERRUPT: u16 = 14;
const TRAP: u16 = 15;

fn contributory(vector: u8) -> bool {
    matches!(vector, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
}

/// The segment described by 8 bytes.
pub(crate) fn segment_from(raw: u64, selector: u16) -> Segment {
    let mut limit = (raw & 0xffff | raw >> 32 & 0xf_0000) as u32;
    let attr = (raw >> 40 & 0xff | raw >> 44 & 0xf00) as u16;
    if attr & attr::G != 0 {
        limit = limit << 12 | 0xfff;
    }
    Segment { base: raw >> 16 & 0xff_ffff | raw >> 32 & 0xff00_0000, limit, attr, selector }
}

pub(crate) fn is_code(seg: &Segment) -> bool {
    seg.attr & (attr::S | attr::CODE) == attr::S | attr::CODE
}

pub(crate) fn is_conforming(seg: &Segment) -> bool {
    is_code(seg) && seg.attr & attr::CONFORMING != 0
}

/// A stack to push a frame on, before registers change.
struct Frame {
    sp: u64,
    base: u64,
    mask: u64,
    view: usize,
    limit: Option<(u32, bool, bool)>,
}

impl Frame {
    fn push(&mut self, c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, size: u64, value: u64) -> Result<(), Fault> {
        let sp = self.sp.wrapping_sub(size) & self.mask;
        if let Some((limit, expand_down, big)) = self.limit {
            let last = sp.wrapping_add(size - 1);
            let top = if big { 0xffff_ffff } else { 0xffff };
            let inside = if expand_down { sp > u64::from(limit) && last <= top } else { last <= u64::from(limit) };
            if !inside {
                return Err(c.raise_code(vector::SS, 0));
            }
        }
        let address = self.base.wrapping_add(sp);
        if !c.canonical(address) {
            return Err(c.raise_code(vector::SS, 0));
        }
        let op = c.system_op();
        c.store_view(m, b, &op, address, size, value, self.view)?;
        self.sp = sp;
        Ok(())
    }
}

impl Core {
    fn long_mode(&self) -> bool {
        self.sys.efer & efer::LMA != 0
    }

    fn real_mode(&self) -> bool {
        self.sys.cr0 & cr0::PE == 0
    }

    /// Delivers an external interrupt or NMI.
    pub fn deliver_external(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, number: u8) -> Result<(), Fault> {
        let kind = if number == vector::NMI { event::NMI } else { event::EXTERNAL };
        match self.interrupt(m, b, number, Origin::Event, None, kind) {
            Ok(()) => Ok(()),
            Err(Fault) => {
                self.flags_rest |= rflags::RF;
                self.deliver_fault(m, b)
            }
        }
    }

    /// Delivers the exception in `self.fault`. `Err`: shut down.
    pub fn deliver_fault(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus) -> Result<(), Fault> {
        let mut current = self.fault;
        loop {
            // What was being delivered when this came up.
            let earlier = std::mem::take(&mut self.delivering);
            if let Some(exit) = self.svm_exit.take() {
                return self.vm_exit(m, exit, earlier);
            }
            if current.vector < 32 && self.intercepts(exit::EXCEPTION + u32::from(current.vector)) {
                let info2 = if current.vector == vector::PF { current.address } else { 0 };
                let exit = Exit { code: u64::from(exit::EXCEPTION) + u64::from(current.vector), info1: u64::from(current.code.unwrap_or(0)), info2, next: 0 };
                return self.vm_exit(m, exit, earlier);
            }
            if current.vector == vector::PF {
                self.sys.cr2 = current.address;
            }
            if self.interrupt(m, b, current.vector, Origin::Event, current.code, event::EXCEPTION).is_ok() {
                return Ok(());
            }
            let next = self.fault;
            if self.svm_exit.is_some() || self.intercepts(exit::EXCEPTION + u32::from(next.vector & 31)) {
                // The exit comes before the two combine (APM vol. 2 §15.12).
                current = next;
                continue;
            }
            if current.vector == vector::DF {
                if self.intercepts(exit::SHUTDOWN) {
                    self.delivering = 0;
                    return self.vm_exit(m, Exit { code: u64::from(exit::SHUTDOWN), info1: 0, info2: 0, next: 0 }, 0);
                }
                self.sys.activity = Activity::Shutdown;
                return Err(Fault);
            }
            let bad = contributory(next.vector);
            current = if contributory(current.vector) && bad || current.vector == vector::PF && (bad || next.vector == vector::PF) {
                if next.vector == vector::PF {
                    self.sys.cr2 = next.address;
                }
                Exception { vector: vector::DF, code: Some(0), address: 0 }
            } else {
                next
            };
        }
    }

    /// Delivers what VMRUN was told to inject (§15.20).
    pub fn deliver_injected(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus) -> Result<(), Fault> {
        let info = std::mem::take(&mut self.sys.svm.inject);
        let number = info as u8;
        let code = (info & event::HAS_CODE != 0).then_some((info >> 32) as u32);
        let kind = info & 0x700;
        if kind == event::NMI {
            self.sys.nmi_blocked = true;
        }
        let number = if kind == event::NMI { vector::NMI } else { number };
        let origin = if kind == event::SOFTWARE { Origin::Software } else { Origin::Event };
        let code = if kind == event::EXCEPTION { code } else { None };
        match self.interrupt(m, b, number, origin, code, kind) {
            Ok(()) => Ok(()),
            Err(Fault) => self.deliver_fault(m, b),
        }
    }

    /// One attempt to enter a handler. `kind` is the event's type as EXITINTINFO has it.
    fn interrupt(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, number: u8, origin: Origin, code: Option<u32>, kind: u64) -> Result<(), Fault> {
        self.delivering = event::VALID | kind | u64::from(number) | code.map_or(0, |code| event::HAS_CODE | u64::from(code) << 32);
        self.enter_handler(m, b, number, origin, code)?;
        self.delivering = 0;
        Ok(())
    }

    fn enter_handler(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, number: u8, origin: Origin, code: Option<u32>) -> Result<(), Fault> {
        if self.real_mode() {
            return self.interrupt_real(m, b, number);
        }
        let ext = if origin == Origin::Software { 0 } else { EXT };
        let refused = u32::from(number) << 3 | IDT | ext;
        let long = self.long_mode();
        let size = if long { 16 } else { 8 };
        let at = u64::from(number) * size;
        if at + size - 1 > u64::from(self.sys.idtr.limit) {
            return Err(self.raise_code(vector::GP, refused));
        }
        let base = self.sys.idtr.base.wrapping_add(at);
        let low = self.load_sys(m, b, base, 8)?;
        let high = if long { self.load_sys(m, b, base.wrapping_add(8), 8)? } else { 0 };
        let gate = segment_from(low, 0).attr;
        let kind = gate & 0x1f;
        let known = if long { matches!(kind, INTERRUPT | TRAP) } else { matches!(kind, INT16 | TRAP16 | INTERRUPT | TRAP | TASK_GATE) };
        if !known {
            return Err(self.raise_code(vector::GP, refused));
        }
        if origin == Origin::Software && (gate >> 5 & 3) < u16::from(self.sys.cpl) {
            return Err(self.raise_code(vector::GP, refused));
        }
        if gate & attr::P == 0 {
            return Err(self.raise_code(vector::NP, refused));
        }
        if kind == TASK_GATE {
            let task = self.task_descriptor(m, b, (low >> 16) as u16, false, vector::GP, ext)?;
            let next = self.rip;
            return self.task_switch(m, b, task, Switch::Event(code), next);
        }
        let mut target = low & 0xffff | low >> 32 & 0xffff_0000;
        if kind == INT16 || kind == TRAP16 {
            target &= 0xffff;
        }
        if long {
            target |= high << 32;
        }
        let selector = (low >> 16) as u16;
        let ist = (low >> 32 & 7) as u16;

        let code_seg = self.gate_code(m, b, selector, ext)?;
        let cpl = self.sys.cpl;
        let new_cpl = if is_conforming(&code_seg) { cpl } else { code_seg.dpl() };
        let inner = new_cpl < cpl;
        let from_vm = self.flags_rest & rflags::VM != 0;
        let word: u64 = if long {
            8
        } else if kind == INT16 || kind == TRAP16 {
            2
        } else {
            4
        };
        let view = self.view_for(new_cpl);
        let old_flags = self.rflags();
        let (old_ss, old_sp) = (self.sys.seg[SS], self.r[RSP]);
        let mut new_ss = old_ss;
        let mut frame;
        if long {
            if code_seg.attr & (attr::L | attr::DB) != attr::L {
                return Err(self.raise_code(vector::GP, u32::from(selector & 0xfffc) | ext));
            }
            let sp = if ist != 0 {
                self.tss_stack64(m, b, 0x1c + 8 * u64::from(ist))?
            } else if inner {
                self.tss_stack64(m, b, 4 + 8 * u64::from(new_cpl))?
            } else {
                old_sp
            };
            if inner {
                new_ss = Segment { base: 0, limit: 0xffff_ffff, attr: attr::P | attr::S | attr::RW | attr::ACCESSED | u16::from(new_cpl) << attr::DPL_SHIFT | attr::DB | attr::G, selector: u16::from(new_cpl) };
            }
            frame = Frame { sp: sp & !15, base: 0, mask: u64::MAX, view, limit: None };
        } else {
            let sp;
            if inner {
                let (selector, pointer) = self.tss_stack32(m, b, new_cpl)?;
                new_ss = self.check_stack_segment(m, b, selector, new_cpl, vector::TS, ext)?;
                sp = pointer;
            } else {
                if from_vm {
                    return Err(self.raise_code(vector::GP, u32::from(selector & 0xfffc)));
                }
                sp = old_sp;
            }
            let mask = if new_ss.attr & attr::DB != 0 { 0xffff_ffff } else { 0xffff };
            let expand = new_ss.attr & (attr::CODE | attr::CONFORMING) == attr::CONFORMING;
            frame = Frame { sp, base: new_ss.base, mask, view, limit: Some((new_ss.limit, expand, new_ss.attr & attr::DB != 0)) };
            if target > u64::from(code_seg.limit) {
                return Err(self.raise_code(vector::GP, ext));
            }
        }
        if !self.canonical(target) {
            return Err(self.raise_code(vector::GP, ext));
        }
        if from_vm {
            for index in [GS, FS, DS, ES] {
                let selector = self.sys.seg[index].selector;
                frame.push(self, m, b, word, u64::from(selector))?;
            }
        }
        if inner || long {
            frame.push(self, m, b, word, u64::from(old_ss.selector))?;
            frame.push(self, m, b, word, old_sp)?;
        }
        frame.push(self, m, b, word, old_flags)?;
        frame.push(self, m, b, word, u64::from(self.sys.seg[CS].selector))?;
        let rip = self.rip;
        frame.push(self, m, b, word, rip)?;
        if let Some(code) = code {
            frame.push(self, m, b, word, u64::from(code))?;
        }

        // Nothing can fail from here on.
        let mut clear = rflags::TF | rflags::NT | rflags::RF | rflags::VM;
        if kind == INTERRUPT || kind == INT16 {
            clear |= rflags::IF;
        }
        self.flags_rest &= !clear;
        if from_vm {
            for index in [GS, FS, DS, ES] {
                self.sys.seg[index] = Segment::default();
            }
        }
        self.sys.seg[SS] = new_ss;
        self.sys.seg[CS] = Segment { selector: code_seg.selector & !3 | u16::from(new_cpl), ..code_seg };
        self.sys.cpl = new_cpl;
        let sp_mask = if long { u64::MAX } else { frame.mask };
        self.r[RSP] = self.r[RSP] & !sp_mask | frame.sp & sp_mask;
        self.rip = target;
        self.single_trap = false;
        self.sys.shadow = false;
        self.update_mode();
        Ok(())
    }

    fn interrupt_real(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, number: u8) -> Result<(), Fault> {
        let at = u64::from(number) * 4;
        if at + 3 > u64::from(self.sys.idtr.limit) {
            return Err(self.raise_code(vector::GP, u32::from(number) << 3 | IDT));
        }
        let entry = self.load_sys(m, b, self.sys.idtr.base + at, 4)?;
        let stack = self.sys.seg[SS];
        let mut frame = Frame { sp: self.r[RSP], base: stack.base, mask: 0xffff, view: tlb::KERNEL_USER, limit: Some((stack.limit, false, false)) };
        let flags = self.rflags();
        frame.push(self, m, b, 2, flags & 0xffff)?;
        frame.push(self, m, b, 2, u64::from(self.sys.seg[CS].selector))?;
        let rip = self.rip;
        frame.push(self, m, b, 2, rip)?;
        self.flags_rest &= !(rflags::IF | rflags::TF | rflags::RF | rflags::AC);
        self.r[RSP] = self.r[RSP] & !0xffff | frame.sp;
        let selector = (entry >> 16) as u16;
        self.sys.seg[CS].selector = selector;
        self.sys.seg[CS].base = u64::from(selector) << 4;
        self.rip = entry & 0xffff;
        self.single_trap = false;
        self.sys.shadow = false;
        self.update_mode();
        Ok(())
    }

    /// The TLB view of code at `cpl`.
    fn view_for(&self, cpl: u8) -> usize {
        if cpl == 3 { tlb::USER } else { self.system_view() }
    }

    /// The code segment a gate leads to.
    fn gate_code(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, selector: u16, ext: u32) -> Result<Segment, Fault> {
        if selector & 0xfffc == 0 {
            return Err(self.raise_code(vector::GP, ext));
        }
        let raw = self.descriptor(m, b, selector, vector::GP, ext)?;
        let seg = segment_from(raw, selector);
        if !is_code(&seg) || seg.dpl() > self.sys.cpl {
            return Err(self.raise_code(vector::GP, u32::from(selector & 0xfffc) | ext));
        }
        if seg.attr & attr::P == 0 {
            return Err(self.raise_code(vector::NP, u32::from(selector & 0xfffc) | ext));
        }
        self.mark_accessed(m, b, selector, raw)?;
        Ok(Segment { attr: seg.attr | attr::ACCESSED, ..seg })
    }

    fn tss_stack64(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, at: u64) -> Result<u64, Fault> {
        let task = self.sys.seg[TR];
        if at + 7 > u64::from(task.limit) {
            return Err(self.raise_code(vector::TS, u32::from(task.selector & 0xfffc)));
        }
        let sp = self.load_sys(m, b, task.base.wrapping_add(at), 8)?;
        if !self.canonical(sp) {
            return Err(self.raise_code(vector::SS, 0));
        }
        Ok(sp)
    }

    /// SS and ESP for a privilege level from a 16- or 32-bit TSS.
    fn tss_stack32(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, cpl: u8) -> Result<(u16, u64), Fault> {
        let task = self.sys.seg[TR];
        let wide = task.attr & 0xf >= TSS_AVAILABLE;
        let (at, word) = if wide { (4 + 8 * u64::from(cpl), 4) } else { (2 + 4 * u64::from(cpl), 2) };
        if at + word + 1 > u64::from(task.limit) {
            return Err(self.raise_code(vector::TS, u32::from(task.selector & 0xfffc)));
        }
        let pointer = self.load_sys(m, b, task.base.wrapping_add(at), word)?;
        let selector = self.load_sys(m, b, task.base.wrapping_add(at + word), 2)?;
        Ok((selector as u16, pointer))
    }

    /// Checks a selector for SS at `cpl`; `bad` is the vector of what is wrong with the segment.
    pub fn check_stack_segment(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, selector: u16, cpl: u8, bad: u8, ext: u32) -> Result<Segment, Fault> {
        let error = u32::from(selector & 0xfffc) | ext;
        if selector & 0xfffc == 0 {
            return Err(self.raise_code(bad, ext));
        }
        let raw = self.descriptor(m, b, selector, bad, ext)?;
        let seg = segment_from(raw, selector);
        let writable_data = seg.attr & (attr::S | attr::CODE | attr::RW) == attr::S | attr::RW;
        if (selector & 3) as u8 != cpl || seg.dpl() != cpl || !writable_data {
            return Err(self.raise_code(bad, error));
        }
        if seg.attr & attr::P == 0 {
            return Err(self.raise_code(vector::SS, error));
        }
        self.mark_accessed(m, b, selector, raw)?;
        Ok(Segment { attr: seg.attr | attr::ACCESSED, ..seg })
    }

    fn descriptor_address(&mut self, selector: u16, size: u64, bad: u8, ext: u32) -> Result<u64, Fault> {
        let at = u64::from(selector & 0xfff8);
        let (base, limit) = if selector & 4 != 0 {
            let table = &self.sys.seg[LDTR];
            if table.attr & attr::P == 0 {
                return Err(self.raise_code(bad, u32::from(selector & 0xfffc) | ext));
            }
            (table.base, u64::from(table.limit))
        } else {
            (self.sys.gdtr.base, u64::from(self.sys.gdtr.limit))
        };
        if at + size - 1 > limit {
            return Err(self.raise_code(bad, u32::from(selector & 0xfffc) | ext));
        }
        Ok(base.wrapping_add(at))
    }

    /// Reads an 8-byte descriptor; beyond the table is `bad`.
    pub fn descriptor(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, selector: u16, bad: u8, ext: u32) -> Result<u64, Fault> {
        let address = self.descriptor_address(selector, 8, bad, ext)?;
        self.load_sys(m, b, address, 8)
    }

    pub fn mark_accessed(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, selector: u16, raw: u64) -> Result<(), Fault> {
        if raw & 1 << 40 != 0 {
            return Ok(());
        }
        let address = self.descriptor_address(selector, 8, vector::GP, 0)?;
        self.store_sys(m, b, address.wrapping_add(5), 1, raw >> 40 & 0xff | 1)
    }

    /// Loads a data segment register (MOV, POP, LDS...), with all its checks.
    pub fn load_data_segment(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, index: usize, selector: u16) -> Result<(), Fault> {
        if self.real_mode() || self.flags_rest & rflags::VM != 0 {
            let seg = &mut self.sys.seg[index];
            seg.selector = selector;
            seg.base = u64::from(selector) << 4;
            if self.flags_rest & rflags::VM != 0 {
                seg.limit = 0xffff;
                seg.attr = attr::P | attr::S | attr::RW | attr::ACCESSED | 3 << attr::DPL_SHIFT;
            }
            self.update_mode();
            return Ok(());
        }
        let cpl = self.sys.cpl;
        let rpl = (selector & 3) as u8;
        let error = u32::from(selector & 0xfffc);
        if selector & 0xfffc == 0 {
            if index == SS && (self.mode & mode::SIZE != mode::CODE64 || cpl == 3 || rpl != cpl) {
                return Err(self.gp0());
            }
            self.sys.seg[index] = Segment { selector, attr: if index == SS { attr::S | attr::RW | u16::from(cpl) << attr::DPL_SHIFT } else { 0 }, ..Segment::default() };
            self.update_mode();
            return Ok(());
        }
        if index == SS {
            let seg = self.check_stack_segment(m, b, selector, cpl, vector::GP, 0)?;
            self.sys.seg[SS] = seg;
            self.update_mode();
            return Ok(());
        }
        let raw = self.descriptor(m, b, selector, vector::GP, 0)?;
        let seg = segment_from(raw, selector);
        let readable = seg.attr & attr::S != 0 && (seg.attr & attr::CODE == 0 || seg.attr & attr::RW != 0);
        let privileged = is_conforming(&seg) || (seg.dpl() >= cpl && seg.dpl() >= rpl);
        if !readable || !privileged {
            return Err(self.raise_code(vector::GP, error));
        }
        if seg.attr & attr::P == 0 {
            return Err(self.raise_code(vector::NP, error));
        }
        self.mark_accessed(m, b, selector, raw)?;
        self.sys.seg[index] = Segment { attr: seg.attr | attr::ACCESSED, ..seg };
        self.update_mode();
        Ok(())
    }

    /// LLDT.
    pub fn load_ldt(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, selector: u16) -> Result<(), Fault> {
        if selector & 0xfffc == 0 {
            self.sys.seg[LDTR] = Segment { selector, ..Segment::default() };
            return Ok(());
        }
        let (seg, _) = self.system_segment(m, b, selector, |kind| kind == LDT, vector::GP)?;
        self.sys.seg[LDTR] = seg;
        Ok(())
    }

    /// LTR: marks the descriptor busy.
    pub fn load_task(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, selector: u16) -> Result<(), Fault> {
        if selector & 0xfffc == 0 {
            return Err(self.gp0());
        }
        let (seg, address) = self.system_segment(m, b, selector, |kind| kind == TSS_AVAILABLE || kind == TSS16_AVAILABLE, vector::GP)?;
        self.store_sys(m, b, address.wrapping_add(5), 1, u64::from(seg.attr & 0xff | 2))?;
        self.sys.seg[TR] = Segment { attr: seg.attr | 2, ..seg };
        Ok(())
    }

    fn system_segment(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, selector: u16, wanted: impl Fn(u16) -> bool, bad: u8) -> Result<(Segment, u64), Fault> {
        let error = u32::from(selector & 0xfffc);
        let long = self.long_mode();
        if selector & 4 != 0 {
            return Err(self.raise_code(bad, error));
        }
        let address = self.descriptor_address(selector, if long { 16 } else { 8 }, bad, 0)?;
        let raw = self.load_sys(m, b, address, 8)?;
        let mut seg = segment_from(raw, selector);
        if !wanted(seg.attr & 0x1f) {
            return Err(self.raise_code(bad, error));
        }
        if seg.attr & attr::P == 0 {
            return Err(self.raise_code(vector::NP, error));
        }
        if long {
            let high = self.load_sys(m, b, address.wrapping_add(8), 8)?;
            if high >> 40 & 0x1f != 0 {
                return Err(self.raise_code(bad, error));
            }
            seg.base |= high << 32;
            if !self.canonical(seg.base) {
                return Err(self.raise_code(bad, error));
            }
        }
        Ok((seg, address))
    }

    /// LAR, LSL, VERR, VERW: the descriptor, if the current privilege may see it.
    pub fn visible_descriptor(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, selector: u16) -> Result<Option<Segment>, Fault> {
        if selector & 0xfffc == 0 {
            return Ok(None);
        }
        let Ok(address) = self.descriptor_address(selector, 8, vector::GP, 0) else { return Ok(None) };
        let raw = self.load_sys(m, b, address, 8)?;
        let seg = segment_from(raw, selector);
        let rpl = (selector & 3) as u8;
        if !is_conforming(&seg) && (seg.dpl() < self.sys.cpl || seg.dpl() < rpl) {
            return Ok(None);
        }
        Ok(Some(seg))
    }

    // ---- far transfers ---------------------------------------------------------------------------------------------------

    /// Loads CS for a far jump or call to code of the same privilege.
    fn far_code(&mut self, seg: &Segment, error: u32) -> Result<(), Fault> {
        let cpl = self.sys.cpl;
        let rpl = (seg.selector & 3) as u8;
        let allowed = if is_conforming(seg) { seg.dpl() <= cpl } else { seg.dpl() == cpl && rpl <= cpl };
        if !allowed || (self.long_mode() && seg.attr & (attr::L | attr::DB) == attr::L | attr::DB) {
            return Err(self.raise_code(vector::GP, error));
        }
        if seg.attr & attr::P == 0 {
            return Err(self.raise_code(vector::NP, error));
        }
        Ok(())
    }

    fn check_far_target(&mut self, seg: &Segment, rip: u64) -> Result<(), Fault> {
        let code64 = self.long_mode() && seg.attr & attr::L != 0;
        let fine = if code64 { self.canonical(rip) } else { rip <= u64::from(seg.limit) };
        if fine { Ok(()) } else { Err(self.gp0()) }
    }

    /// Far JMP or CALL to `selector:offset`; `size` is the operand size, `next` the return address of a call.
    #[expect(clippy::too_many_arguments, reason = "one far transfer")]
    pub fn far_transfer(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, selector: u16, offset: u64, size: usize, call: bool) -> Result<(), Fault> {
        let next = self.cut_rip(self.rip_after(op));
        if self.real_mode() || self.flags_rest & rflags::VM != 0 {
            if offset > u64::from(self.sys.seg[CS].limit) {
                return Err(self.gp0());
            }
            if call {
                let old = self.r[RSP];
                let selector = self.sys.seg[CS].selector;
                self.push_sized(m, b, op, size, u64::from(selector))?;
                if self.push_sized(m, b, op, size, next).is_err() {
                    self.r[RSP] = old;
                    return Err(Fault);
                }
            }
            self.sys.seg[CS].selector = selector;
            self.sys.seg[CS].base = u64::from(selector) << 4;
            self.rip = offset;
            self.update_mode();
            return Ok(());
        }
        if selector & 0xfffc == 0 {
            return Err(self.gp0());
        }
        let error = u32::from(selector & 0xfffc);
        let raw = self.descriptor(m, b, selector, vector::GP, 0)?;
        let seg = segment_from(raw, selector);
        if is_code(&seg) {
            self.far_code(&seg, error)?;
            self.check_far_target(&seg, offset)?;
            self.mark_accessed(m, b, selector, raw)?;
            if call {
                let old = self.r[RSP];
                let selector = self.sys.seg[CS].selector;
                self.push_sized(m, b, op, size, u64::from(selector))?;
                if self.push_sized(m, b, op, size, next).is_err() {
                    self.r[RSP] = old;
                    return Err(Fault);
                }
            }
            self.enter_code(seg, self.sys.cpl, offset);
            return Ok(());
        }
        let kind = seg.attr & 0x1f;
        let task = matches!(kind, TSS_AVAILABLE | TSS16_AVAILABLE | TASK_GATE);
        let gate_ok = if self.long_mode() { kind == CALL } else { kind == CALL || kind == CALL16 || task };
        if !gate_ok {
            return Err(self.raise_code(vector::GP, error));
        }
        let rpl = (selector & 3) as u8;
        if seg.dpl() < self.sys.cpl || seg.dpl() < rpl {
            return Err(self.raise_code(vector::GP, error));
        }
        if seg.attr & attr::P == 0 {
            return Err(self.raise_code(vector::NP, error));
        }
        if task {
            let target = if kind == TASK_GATE { (raw >> 16) as u16 } else { selector };
            let new = self.task_descriptor(m, b, target, false, vector::GP, 0)?;
            return self.task_switch(m, b, new, if call { Switch::Call } else { Switch::Jump }, next);
        }
        self.call_gate(m, b, op, selector, raw, kind, call)
    }

    #[expect(clippy::too_many_arguments, reason = "one far transfer")]
    fn call_gate(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, gate: u16, raw: u64, kind: u16, call: bool) -> Result<(), Fault> {
        let long = self.long_mode();
        let next = self.cut_rip(self.rip_after(op));
        let mut target = raw & 0xffff | raw >> 32 & 0xffff_0000;
        if kind == CALL16 {
            target &= 0xffff;
        }
        if long {
            let address = self.descriptor_address(gate, 16, vector::GP, 0)?;
            let high = self.load_sys(m, b, address.wrapping_add(8), 8)?;
            if high >> 40 & 0x1f != 0 {
                return Err(self.raise_code(vector::GP, u32::from(gate & 0xfffc)));
            }
            target |= high << 32;
        }
        let selector = (raw >> 16) as u16;
        let code_seg = self.gate_code(m, b, selector, 0)?;
        let error = u32::from(selector & 0xfffc);
        if long && code_seg.attr & (attr::L | attr::DB) != attr::L {
            return Err(self.raise_code(vector::GP, error));
        }
        self.check_far_target(&code_seg, target)?;
        let cpl = self.sys.cpl;
        let word: u64 = if long {
            8
        } else if kind == CALL {
            4
        } else {
            2
        };
        let inner = call && !is_conforming(&code_seg) && code_seg.dpl() < cpl;
        if !inner {
            if !is_conforming(&code_seg) && code_seg.dpl() != cpl {
                return Err(self.raise_code(vector::GP, error));
            }
            if call {
                let old = self.r[RSP];
                let from = self.sys.seg[CS].selector;
                self.push_sized(m, b, op, word as usize, u64::from(from))?;
                if self.push_sized(m, b, op, word as usize, next).is_err() {
                    self.r[RSP] = old;
                    return Err(Fault);
                }
            }
            self.enter_code(code_seg, cpl, target);
            return Ok(());
        }
        let new_cpl = code_seg.dpl();
        let (old_ss, old_sp) = (self.sys.seg[SS], self.r[RSP]);
        let view = self.view_for(new_cpl);
        let (new_ss, mut frame) = if long {
            let sp = self.tss_stack64(m, b, 4 + 8 * u64::from(new_cpl))?;
            let seg = Segment { selector: u16::from(new_cpl), attr: attr::P | attr::S | attr::RW | attr::ACCESSED | u16::from(new_cpl) << attr::DPL_SHIFT | attr::DB | attr::G, limit: u32::MAX, base: 0 };
            (seg, Frame { sp, base: 0, mask: u64::MAX, view, limit: None })
        } else {
            let (selector, sp) = self.tss_stack32(m, b, new_cpl)?;
            let seg = self.check_stack_segment(m, b, selector, new_cpl, vector::TS, 0)?;
            let big = seg.attr & attr::DB != 0;
            let expand = seg.attr & (attr::CODE | attr::CONFORMING) == attr::CONFORMING;
            (seg, Frame { sp, base: seg.base, mask: if big { 0xffff_ffff } else { 0xffff }, view, limit: Some((seg.limit, expand, big)) })
        };
        frame.push(self, m, b, word, u64::from(old_ss.selector))?;
        frame.push(self, m, b, word, old_sp)?;
        if !long {
            let count = raw >> 32 & 0x1f;
            for index in (0..count).rev() {
                let value = self.peek_sized(m, b, op, word as usize, index * word)?;
                frame.push(self, m, b, word, value)?;
            }
        }
        frame.push(self, m, b, word, u64::from(self.sys.seg[CS].selector))?;
        frame.push(self, m, b, word, next)?;
        self.sys.seg[SS] = new_ss;
        self.r[RSP] = self.r[RSP] & !frame.mask | frame.sp & frame.mask;
        self.enter_code(code_seg, new_cpl, target);
        Ok(())
    }

    fn enter_code(&mut self, seg: Segment, cpl: u8, rip: u64) {
        self.sys.seg[CS] = Segment { selector: seg.selector & !3 | u16::from(cpl), attr: seg.attr | attr::ACCESSED, ..seg };
        self.sys.cpl = cpl;
        self.update_mode();
        self.rip = rip;
    }

    /// Far RET; `drop` more bytes leave the stack (both stacks when the privilege changes).
    pub fn far_return(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, size: usize, drop: u64) -> Result<(), Fault> {
        let word = size as u64;
        let rip = self.peek_sized(m, b, op, size, 0)?;
        let selector = self.peek_sized(m, b, op, size, word)? as u16;
        if self.real_mode() || self.flags_rest & rflags::VM != 0 {
            if rip > u64::from(self.sys.seg[CS].limit) {
                return Err(self.gp0());
            }
            self.drop_stack(2 * word + drop);
            self.sys.seg[CS].selector = selector;
            self.sys.seg[CS].base = u64::from(selector) << 4;
            self.rip = rip;
            self.update_mode();
            return Ok(());
        }
        let seg = self.return_code(m, b, selector)?;
        self.check_far_target(&seg, rip)?;
        let rpl = (selector & 3) as u8;
        if rpl == self.sys.cpl {
            self.drop_stack(2 * word + drop);
            self.enter_code(seg, rpl, rip);
            return Ok(());
        }
        let sp = self.peek_sized(m, b, op, size, 2 * word + drop)?;
        let ss = self.peek_sized(m, b, op, size, 3 * word + drop)? as u16;
        let stack = self.return_stack(m, b, ss, rpl, &seg)?;
        self.outer_return(seg, stack, rpl, rip, sp.wrapping_add(drop));
        Ok(())
    }

    /// Checks a code selector taken from the stack.
    fn return_code(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, selector: u16) -> Result<Segment, Fault> {
        if selector & 0xfffc == 0 {
            return Err(self.gp0());
        }
        let error = u32::from(selector & 0xfffc);
        let raw = self.descriptor(m, b, selector, vector::GP, 0)?;
        let seg = segment_from(raw, selector);
        let rpl = (selector & 3) as u8;
        let allowed = is_code(&seg) && rpl >= self.sys.cpl && if is_conforming(&seg) { seg.dpl() <= rpl } else { seg.dpl() == rpl };
        if !allowed || (self.long_mode() && seg.attr & (attr::L | attr::DB) == attr::L | attr::DB) {
            return Err(self.raise_code(vector::GP, error));
        }
        if seg.attr & attr::P == 0 {
            return Err(self.raise_code(vector::NP, error));
        }
        self.mark_accessed(m, b, selector, raw)?;
        Ok(seg)
    }

    /// Checks a stack selector taken from the stack. Null is fine for 64-bit code above CPL 3.
    fn return_stack(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, selector: u16, rpl: u8, code: &Segment) -> Result<Segment, Fault> {
        if selector & 0xfffc == 0 {
            if self.long_mode() && code.attr & attr::L != 0 && rpl != 3 && (selector & 3) as u8 == rpl {
                return Ok(Segment { selector, attr: attr::S | attr::RW | u16::from(rpl) << attr::DPL_SHIFT, ..Segment::default() });
            }
            return Err(self.gp0());
        }
        self.check_stack_segment(m, b, selector, rpl, vector::GP, 0)
    }

    fn outer_return(&mut self, code: Segment, stack: Segment, rpl: u8, rip: u64, sp: u64) {
        let outer = rpl > self.sys.cpl;
        self.sys.seg[SS] = stack;
        self.enter_code(code, rpl, rip);
        self.set_sp(sp);
        if outer {
            // Data segments the outer level may not use become null.
            for index in [ES, DS, FS, GS] {
                let seg = &mut self.sys.seg[index];
                let system = seg.attr & attr::S == 0;
                if !is_conforming(seg) && (seg.dpl() < rpl || system) && seg.attr & attr::P != 0 {
                    *seg = Segment::default();
                }
            }
            self.update_mode();
        }
    }

    /// IRET with operand size `size`.
    pub fn interrupt_return(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, size: usize) -> Result<(), Fault> {
        use rflags::{AC, ARITH, DF, ID, IF, IOPL, NT, RF, TF, VIF, VIP, VM};
        let word = size as u64;
        let real = self.real_mode();
        let iopl = (self.flags_rest >> 12 & 3) as u8;
        if self.flags_rest & VM != 0 && iopl < 3 {
            return Err(self.gp0());
        }
        if !real && self.flags_rest & (NT | VM) == NT {
            return if self.long_mode() { Err(self.gp0()) } else { self.task_return(m, b, op) };
        }
        let rip = self.peek_sized(m, b, op, size, 0)?;
        let selector = self.peek_sized(m, b, op, size, word)? as u16;
        let image = self.peek_sized(m, b, op, size, 2 * word)?;
        let mut change = ARITH | TF | DF | NT;
        if size > 2 {
            change |= RF | AC | ID;
        }
        if real || self.flags_rest & VM != 0 {
            if rip > u64::from(self.sys.seg[CS].limit) {
                return Err(self.gp0());
            }
            change |= IF;
            if real {
                change |= IOPL;
            }
            self.drop_stack(3 * word);
            self.sys.seg[CS].selector = selector;
            self.sys.seg[CS].base = u64::from(selector) << 4;
            self.rip = rip;
            let flags = self.rflags() & !change | image & change;
            self.set_rflags(flags);
            self.sys.nmi_blocked = false;
            self.update_mode();
            return Ok(());
        }
        let cpl = self.sys.cpl;
        if image & VM != 0 && cpl == 0 && size == 4 && !self.long_mode() {
            return self.return_to_vm(m, b, op, rip, selector, image);
        }
        let seg = self.return_code(m, b, selector)?;
        self.check_far_target(&seg, rip)?;
        let rpl = (selector & 3) as u8;
        if cpl <= iopl {
            change |= IF;
        }
        if cpl == 0 {
            change |= IOPL;
            if size > 2 {
                change |= VIF | VIP;
            }
        }
        let flags = self.rflags() & !change | image & change;
        let from64 = self.mode & mode::SIZE == mode::CODE64;
        if rpl != cpl || from64 {
            let sp = self.peek_sized(m, b, op, size, 3 * word)?;
            let ss = self.peek_sized(m, b, op, size, 4 * word)? as u16;
            let stack = self.return_stack(m, b, ss, rpl, &seg)?;
            self.set_rflags(flags);
            self.outer_return(seg, stack, rpl, rip, sp);
        } else {
            self.drop_stack(3 * word);
            self.set_rflags(flags);
            self.enter_code(seg, rpl, rip);
        }
        self.sys.nmi_blocked = false;
        Ok(())
    }

    fn return_to_vm(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, rip: u64, selector: u16, image: u64) -> Result<(), Fault> {
        let mut words = [0; 6];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.peek_sized(m, b, op, 4, 12 + 4 * index as u64)?;
        }
        let [sp, ss, es, ds, fs, gs] = words;
        self.set_rflags(image);
        self.sys.cpl = 3;
        for (index, value) in [(CS, u64::from(selector)), (SS, ss), (ES, es), (DS, ds), (FS, fs), (GS, gs)] {
            let selector = value as u16;
            self.sys.seg[index] = Segment { base: u64::from(selector) << 4, limit: 0xffff, attr: attr::P | attr::S | attr::RW | attr::ACCESSED | 3 << attr::DPL_SHIFT, selector };
        }
        self.r[RSP] = sp;
        self.rip = rip & 0xffff;
        self.sys.nmi_blocked = false;
        self.update_mode();
        Ok(())
    }
}

/// INT n, INT3, INTO, INT1: `imm` is the vector; `b` = 1 skips the gate's privilege check (INT1).
pub(crate) fn software_interrupt(c: &mut Core, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op) -> Flow {
    if c.flags_rest & rflags::VM != 0 && op.b == 2 && (c.flags_rest & rflags::IOPL) != rflags::IOPL {
        c.gp0();
        return Flow::Fault;
    }
    match op.b {
        1 => tri!(c.vm_check(op, exit::ICEBP)),
        2 => tri!(c.vm_check_info(op, exit::SWINT, op.imm & 0xff)),
        // INT3 and INTO are exceptions to a hypervisor (APM vol. 2 §15.12.4).
        _ => tri!(c.vm_check(op, exit::EXCEPTION + op.imm as u32)),
    }
    let start = c.rip;
    c.rip = c.cut_rip(c.rip_after(op));
    let (origin, kind) = match op.b {
        1 => (Origin::Event, event::EXCEPTION),
        2 => (Origin::Software, event::SOFTWARE),
        _ => (Origin::Software, event::EXCEPTION),
    };
    let result = c.interrupt(m, b, op.imm as u8, origin, None, kind);
    if result.is_err() {
        c.rip = start;
    }
    tri!(result);
    Flow::Exit
}

/// Whether a system-segment type has a limit (LSL) and whether it is visible to LAR.
pub(crate) fn system_type_visible(kind: u16, limit_wanted: bool, long: bool) -> bool {
    match kind {
        TSS_AVAILABLE | TSS_BUSY | LDT => true,
        TSS16_AVAILABLE | TSS16_BUSY => !long,
        CALL => !limit_wanted,
        CALL16 | 5 => !limit_wanted && !long,
        _ => false,
    }
}
