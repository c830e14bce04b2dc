//! Secure virtual machine: the state, VMRUN and #VMEXIT, intercepts, injected and virtual events.
//!
//! # Theory
//! APM vol. 2 chapter 15. VMRUN saves the host in the page VM_HSAVE_PA names (in the layout of a VMCB, which the manual leaves to the processor), loads
//! the guest from the VMCB and goes on there. An intercepted instruction, exception or event comes out of its handler as [`Fault`] with
//! [`Core::svm_exit`] set; the one place where faults are delivered turns it into the world switch, so an exit is to the engine what an
//! exception is: one tick, nothing of the instruction done.
//!
//! The first six words of a VMCB are bit maps of exit codes 0 to 0xbf: *an exit code is its own intercept bit*. [`Core::vm_check`] relies on it.
//!
//! *Two TLBs.* Host and guest each have one, exchanged at the switch, so that neither costs the other its fast tags. The guest's holds one ASID
//! at a time; another ASID, or other control registers than it was filled under, empties it, as a TLB may at any time.
//!
//! # States
//! `guest`: between VMRUN and #VMEXIT. `gif`: the global interrupt flag; off after #VMEXIT and CLGI.
//!
//! # Limits
//! Sixteen ASIDs. No SMM, so nothing exits for SMI or RSM; no SKINIT, AVIC, LBR virtualization, VMCB clean bits (all is loaded), SEV. VMCBs outside
//! RAM read as zero, and what is written there is lost.

use crate::core::{Core, Fault, mode};
use crate::op::{Flow, Op};
use crate::ops::tri;
use crate::state::{CS, DS, ES, FS, GS, LDTR, RAX, RSP, SS, Segment, TR, TableRegister, attr, cr0, cr4, efer, rflags};
use crate::tlb::Tlb;
use sim_bus::{Attention, CpuBus};
use sim_mem::GuestMemory;

/// Exit codes (APM vol. 2 appendix C).
pub(crate) mod exit {
    pub const CR_READ: u32 = 0;
    pub const CR_WRITE: u32 = 0x10;
    pub const DR_READ: u32 = 0x20;
    pub const DR_WRITE: u32 = 0x30;
    pub const EXCEPTION: u32 = 0x40;
    pub const INTR: u32 = 0x60;
    pub const NMI: u32 = 0x61;
    pub const INIT: u32 = 0x63;
    pub const VINTR: u32 = 0x64;
    pub const CR0_SELECTIVE: u32 = 0x65;
    pub const IDTR_READ: u32 = 0x66;
    pub const GDTR_READ: u32 = 0x67;
    pub const LDTR_READ: u32 = 0x68;
    pub const TR_READ: u32 = 0x69;
    pub const IDTR_WRITE: u32 = 0x6a;
    pub const GDTR_WRITE: u32 = 0x6b;
    pub const LDTR_WRITE: u32 = 0x6c;
    pub const TR_WRITE: u32 = 0x6d;
    pub const RDTSC: u32 = 0x6e;
    pub const RDPMC: u32 = 0x6f;
    pub const PUSHF: u32 = 0x70;
    pub const POPF: u32 = 0x71;
    pub const CPUID: u32 = 0x72;
    pub const IRET: u32 = 0x74;
    pub const SWINT: u32 = 0x75;
    pub const INVD: u32 = 0x76;
    pub const PAUSE: u32 = 0x77;
    pub const HLT: u32 = 0x78;
    pub const INVLPG: u32 = 0x79;
    pub const INVLPGA: u32 = 0x7a;
    pub const IOIO: u32 = 0x7b;
    pub const MSR: u32 = 0x7c;
    pub const TASK_SWITCH: u32 = 0x7d;
    pub const SHUTDOWN: u32 = 0x7f;
    pub const VMRUN: u32 = 0x80;
    pub const VMMCALL: u32 = 0x81;
    pub const VMLOAD: u32 = 0x82;
    pub const VMSAVE: u32 = 0x83;
    pub const STGI: u32 = 0x84;
    pub const CLGI: u32 = 0x85;
    pub const RDTSCP: u32 = 0x87;
    pub const ICEBP: u32 = 0x88;
    pub const WBINVD: u32 = 0x89;
    pub const MONITOR: u32 = 0x8a;
    pub const MWAIT: u32 = 0x8b;
    pub const XSETBV: u32 = 0x8d;
    pub const INVPCID: u32 = 0xa2;
    pub const NPF: u32 = 0x400;
    pub const INVALID: u64 = u64::MAX;
}

/// Offsets in the VMCB (APM vol. 2 appendix B).
mod at {
    pub const PAUSE_THRESHOLD: u64 = 0x3c;
    pub const PAUSE_COUNT: u64 = 0x3e;
    pub const IOPM: u64 = 0x40;
    pub const MSRPM: u64 = 0x48;
    pub const TSC_OFFSET: u64 = 0x50;
    pub const ASID: u64 = 0x58;
    pub const TLB_CONTROL: u64 = 0x5c;
    pub const INT_CTL: u64 = 0x60;
    pub const INT_STATE: u64 = 0x68;
    pub const EXIT_CODE: u64 = 0x70;
    pub const EXIT_INFO1: u64 = 0x78;
    pub const EXIT_INFO2: u64 = 0x80;
    pub const EXIT_INT_INFO: u64 = 0x88;
    pub const NESTED: u64 = 0x90;
    pub const EVENT_INJECT: u64 = 0xa8;
    pub const N_CR3: u64 = 0xb0;
    pub const NEXT_RIP: u64 = 0xc8;
    pub const FETCHED: u64 = 0xd0;
    pub const ES: u64 = 0x400;
    pub const CS: u64 = 0x410;
    pub const SS: u64 = 0x420;
    pub const DS: u64 = 0x430;
    pub const FS: u64 = 0x440;
    pub const GS: u64 = 0x450;
    pub const GDTR: u64 = 0x460;
    pub const LDTR: u64 = 0x470;
    pub const IDTR: u64 = 0x480;
    pub const TR: u64 = 0x490;
    pub const CPL: u64 = 0x4cb;
    pub const EFER: u64 = 0x4d0;
    pub const CR4: u64 = 0x548;
    pub const CR3: u64 = 0x550;
    pub const CR0: u64 = 0x558;
    pub const DR7: u64 = 0x560;
    pub const DR6: u64 = 0x568;
    pub const RFLAGS: u64 = 0x570;
    pub const RIP: u64 = 0x578;
    pub const RSP: u64 = 0x5d8;
    pub const RAX: u64 = 0x5f8;
    pub const STAR: u64 = 0x600;
    pub const LSTAR: u64 = 0x608;
    pub const CSTAR: u64 = 0x610;
    pub const SFMASK: u64 = 0x618;
    pub const KERNEL_GS_BASE: u64 = 0x620;
    pub const SYSENTER_CS: u64 = 0x628;
    pub const SYSENTER_ESP: u64 = 0x630;
    pub const SYSENTER_EIP: u64 = 0x638;
    pub const CR2: u64 = 0x640;
    pub const G_PAT: u64 = 0x668;
}

/// Bits of INT_CTL (VMCB offset 0x60).
mod int_ctl {
    pub const V_TPR: u64 = 0xff;
    pub const V_IRQ: u64 = 1 << 8;
    pub const V_GIF: u64 = 1 << 9;
    pub const PRIORITY_SHIFT: u64 = 16;
    pub const IGNORE_TPR: u64 = 1 << 20;
    pub const MASKING: u64 = 1 << 24;
    pub const V_GIF_ENABLE: u64 = 1 << 25;
    pub const VECTOR_SHIFT: u64 = 32;
}

/// ASIDs that CPUID 8000_000A shows.
pub(crate) const ASIDS: u32 = 16;
/// Events as EVENTINJ and EXITINTINFO write them.
pub(crate) mod event {
    pub const EXTERNAL: u64 = 0;
    pub const NMI: u64 = 2 << 8;
    pub const EXCEPTION: u64 = 3 << 8;
    pub const SOFTWARE: u64 = 4 << 8;
    pub const HAS_CODE: u64 = 1 << 11;
    pub const VALID: u64 = 1 << 31;
}
/// VM_CR bits.
const VM_CR_R_INIT: u64 = 1 << 1;
const VM_CR_LOCK: u64 = 1 << 3;
pub(crate) const VM_CR_SVMDIS: u64 = 1 << 4;
/// Vector of #SX.
const SX: u8 = 30;

/// Virtualization state: what the processor keeps between VMRUN and #VMEXIT. Plain data; part of [`crate::System`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svm {
    /// Running a guest.
    pub guest: bool,
    /// Global interrupt flag.
    pub gif: bool,
    /// An INIT waits (GIF off, or the hypervisor intercepts it).
    pub init_pending: bool,
    /// Nested paging.
    pub nested: bool,
    /// The host's RFLAGS.IF: masks physical interrupts under V_INTR_MASKING.
    pub host_interrupts: bool,
    /// VM_CR MSR.
    pub vm_cr: u64,
    /// Physical address of the running guest's VMCB.
    pub vmcb: u64,
    /// Intercepts by exit code: bit `code & 31` of word `code >> 5`.
    pub intercepts: [u32; 6],
    pub pause_count: u64,
    pub pause_limit: u64,
    pub pause_threshold: u64,
    pub pause_last: u64,
    pub iopm: u64,
    pub msrpm: u64,
    pub tsc_offset: u64,
    pub asid: u64,
    pub int_ctl: u64,
    pub n_cr3: u64,
    /// Paging mode of nested tables: the host's CR4 and EFER.
    pub host_cr4: u64,
    pub host_efer: u64,
    /// Event to be injected before the guest's first instruction (EVENTINJ), or 0.
    pub inject: u64,
}

impl Default for Svm {
    fn default() -> Self {
        Svm {
            guest: false,
            gif: true,
            init_pending: false,
            nested: false,
            host_interrupts: false,
            vm_cr: 0,
            vmcb: 0,
            intercepts: [0; 6],
            pause_count: 0,
            pause_limit: 0,
            pause_threshold: 0,
            pause_last: 0,
            iopm: 0,
            msrpm: 0,
            tsc_offset: 0,
            asid: 0,
            int_ctl: 0,
            n_cr3: 0,
            host_cr4: 0,
            host_efer: 0,
            inject: 0,
        }
    }
}

/// Numbers [`Svm::to_words`] makes.
const WORDS: usize = 22;

impl Svm {
    /// The state as numbers, for snapshots.
    pub fn to_words(&self) -> Vec<u64> {
        let flags = [self.guest, self.gif, self.init_pending, self.nested, self.host_interrupts];
        let mut words = vec![flags.iter().enumerate().fold(0, |sum, (bit, &on)| sum | u64::from(on) << bit)];
        words.extend(self.intercepts.map(u64::from));
        words.extend(self.numbers());
        words
    }

    fn numbers(&self) -> [u64; 15] {
        [
            self.vm_cr,
            self.vmcb,
            self.pause_count,
            self.pause_limit,
            self.pause_threshold,
            self.pause_last,
            self.iopm,
            self.msrpm,
            self.tsc_offset,
            self.asid,
            self.int_ctl,
            self.n_cr3,
            self.host_cr4,
            self.host_efer,
            self.inject,
        ]
    }

    /// Reads what [`Svm::to_words`] wrote.
    pub fn from_words(words: &[u64]) -> Option<Svm> {
        let words: &[u64; WORDS] = words.try_into().ok()?;
        let flag = |bit: u32| words[0] >> bit & 1 != 0;
        let mut intercepts = [0; 6];
        for (slot, &word) in intercepts.iter_mut().zip(&words[1..7]) {
            *slot = u32::try_from(word).ok()?;
        }
        let [vm_cr, vmcb, pause_count, pause_limit, pause_threshold, pause_last, iopm, msrpm, tsc_offset, asid, int_ctl, n_cr3, host_cr4, host_efer, inject] = words[7..22].try_into().ok()?;
        Some(Svm {
            guest: flag(0),
            gif: flag(1),
            init_pending: flag(2),
            nested: flag(3),
            host_interrupts: flag(4),
            vm_cr,
            vmcb,
            intercepts,
            pause_count,
            pause_limit,
            pause_threshold,
            pause_last,
            iopm,
            msrpm,
            tsc_offset,
            asid,
            int_ctl,
            n_cr3,
            host_cr4,
            host_efer,
            inject,
        })
    }
}

/// A #VMEXIT on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub code: u64,
    pub info1: u64,
    pub info2: u64,
    /// RIP after the instruction, where it is known.
    pub next: u64,
}

/// The TLB of the world that is not running, with what it was filled under.
pub(crate) struct OtherWorld {
    pub tlb: Tlb,
    pub mark_epoch: u64,
    key: [u64; 5],
}

/// What to do about pending requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Init,
    Nmi,
    Interrupt,
    Virtual(u8),
    Exit(u32),
}

fn read(m: &GuestMemory, vmcb: u64, offset: u64, size: u8) -> u64 {
    m.read_u64(vmcb + offset, size).unwrap_or(0)
}

/// Outside RAM there is nothing to write to.
fn write(m: &mut GuestMemory, vmcb: u64, offset: u64, size: u8, value: u64) {
    m.write_u64(vmcb + offset, size, value).unwrap_or(());
}

fn read_segment(m: &GuestMemory, vmcb: u64, offset: u64) -> Segment {
    Segment {
        selector: read(m, vmcb, offset, 2) as u16,
        attr: read(m, vmcb, offset + 2, 2) as u16 & 0xfff,
        limit: read(m, vmcb, offset + 4, 4) as u32,
        base: read(m, vmcb, offset + 8, 8),
    }
}

fn write_segment(m: &mut GuestMemory, vmcb: u64, offset: u64, seg: Segment) {
    write(m, vmcb, offset, 2, u64::from(seg.selector));
    write(m, vmcb, offset + 2, 2, u64::from(seg.attr));
    write(m, vmcb, offset + 4, 4, u64::from(seg.limit));
    write(m, vmcb, offset + 8, 8, seg.base);
}

fn read_table(m: &GuestMemory, vmcb: u64, offset: u64) -> TableRegister {
    TableRegister { limit: read(m, vmcb, offset + 4, 4) as u16, base: read(m, vmcb, offset + 8, 8) }
}

fn write_table(m: &mut GuestMemory, vmcb: u64, offset: u64, table: TableRegister) {
    write(m, vmcb, offset + 4, 4, u64::from(table.limit));
    write(m, vmcb, offset + 8, 8, table.base);
}

/// Registers of VMLOAD and VMSAVE that are segments.
const LOADED_SEGMENTS: [(u64, usize); 4] = [(at::FS, FS), (at::GS, GS), (at::TR, TR), (at::LDTR, LDTR)];

impl Core {
    // ---- intercepts ------------------------------------------------------------------------------------------------------

    /// Whether the running guest's `code` is intercepted.
    #[inline]
    pub fn intercepts(&self, code: u32) -> bool {
        let svm = &self.sys.svm;
        svm.guest && svm.intercepts[(code >> 5) as usize] >> (code & 31) & 1 != 0
    }

    /// #VMEXIT of the running instruction if `code` is intercepted.
    #[inline]
    pub fn vm_check(&mut self, op: &Op, code: u32) -> Result<(), Fault> {
        self.vm_check_info(op, code, 0)
    }

    /// As [`Core::vm_check`] with EXITINFO1.
    #[inline]
    pub fn vm_check_info(&mut self, op: &Op, code: u32, info1: u64) -> Result<(), Fault> {
        if !self.sys.svm.guest || !self.intercepts(code) {
            return Ok(());
        }
        Err(self.vm_exit_at(op, code, info1, 0))
    }

    #[cold]
    fn vm_exit_at(&mut self, op: &Op, code: u32, info1: u64, info2: u64) -> Fault {
        let next = self.cut_rip(self.rip_after(op));
        self.svm_exit = Some(Exit { code: u64::from(code), info1, info2, next });
        Fault
    }

    /// IOIO (APM vol. 2 §15.10): `info` is EXITINFO1 without the port and size.
    pub fn vm_check_port(&mut self, m: &GuestMemory, op: &Op, port: u16, size: u64, info: u64) -> Result<(), Fault> {
        if !self.intercepts(exit::IOIO) {
            return Ok(());
        }
        let word = read(m, self.sys.svm.iopm, u64::from(port) / 8, 2);
        if word >> (port & 7) & ((1 << size) - 1) == 0 {
            return Ok(());
        }
        let next = self.cut_rip(self.rip_after(op));
        Err(self.vm_exit_at(op, exit::IOIO, u64::from(port) << 16 | size << 4 | info, next))
    }

    /// MSR access (§15.11).
    pub fn vm_check_msr(&mut self, m: &GuestMemory, op: &Op, number: u32, write: bool) -> Result<(), Fault> {
        if !self.intercepts(exit::MSR) {
            return Ok(());
        }
        let base = match number {
            0..=0x1fff => Some(0),
            0xc000_0000..=0xc000_1fff => Some(0x800),
            0xc001_0000..=0xc001_1fff => Some(0x1000),
            _ => None,
        };
        if let Some(base) = base {
            let bit = u64::from(number & 0x1fff) * 2 + u64::from(write);
            if read(m, self.sys.svm.msrpm, base + bit / 8, 1) >> (bit & 7) & 1 == 0 {
                return Ok(());
            }
        }
        Err(self.vm_exit_at(op, exit::MSR, u64::from(write), 0))
    }

    /// PAUSE with its filter (§15.14.4): the count runs down to an exit, and starts again after a long silence.
    pub fn vm_check_pause(&mut self, op: &Op, now: u64) -> Result<(), Fault> {
        if !self.intercepts(exit::PAUSE) {
            return Ok(());
        }
        let svm = &mut self.sys.svm;
        if svm.pause_threshold != 0 && now.wrapping_sub(svm.pause_last) > svm.pause_threshold {
            svm.pause_count = svm.pause_limit;
        }
        svm.pause_last = now;
        if svm.pause_count > 0 {
            svm.pause_count -= 1;
            return Ok(());
        }
        Err(self.vm_exit_at(op, exit::PAUSE, 0, 0))
    }

    /// A nested page fault: EXITINFO1 and the guest-physical address.
    #[cold]
    pub fn nested_fault(&mut self, code: u64, gpa: u64) -> Fault {
        self.svm_exit = Some(Exit { code: u64::from(exit::NPF), info1: code, info2: gpa, next: 0 });
        Fault
    }

    /// The guest's interrupts are virtual: CR8 and IF are its own (§15.21.1).
    pub fn virtual_interrupts(&self) -> bool {
        self.sys.svm.guest && self.sys.svm.int_ctl & int_ctl::MASKING != 0
    }

    /// V_TPR as CR8 shows it.
    pub fn virtual_tpr(&self) -> u8 {
        (self.sys.svm.int_ctl & 15) as u8
    }

    /// Sets V_TPR.
    pub fn set_virtual_tpr(&mut self, value: u8) {
        self.sys.svm.int_ctl = self.sys.svm.int_ctl & !int_ctl::V_TPR | u64::from(value & 15);
    }

    /// What of `attention` can be taken now (§15.21, table 15-10).
    pub fn due(&self, attention: Attention) -> Due {
        let sys = &self.sys;
        let svm = &sys.svm;
        let interrupts = self.flags_rest & rflags::IF != 0;
        if !svm.gif {
            return Due::Nothing;
        }
        if svm.init_pending {
            return if self.intercepts(exit::INIT) { Due::Exit(exit::INIT) } else { Due::Init };
        }
        if attention.nmi && !sys.nmi_blocked {
            if self.intercepts(exit::NMI) {
                return Due::Exit(exit::NMI);
            }
            if !sys.shadow {
                return Due::Nmi;
            }
        }
        let own = self.virtual_interrupts();
        let open = if own { svm.host_interrupts } else { interrupts && !sys.shadow };
        if attention.interrupt && open {
            if self.intercepts(exit::INTR) {
                return Due::Exit(exit::INTR);
            }
            if !sys.shadow {
                return Due::Interrupt;
            }
        }
        if svm.guest && svm.int_ctl & int_ctl::V_IRQ != 0 && interrupts && !sys.shadow {
            let gated = svm.int_ctl & (int_ctl::V_GIF_ENABLE | int_ctl::V_GIF) == int_ctl::V_GIF_ENABLE;
            let priority = svm.int_ctl >> int_ctl::PRIORITY_SHIFT & 15;
            if !gated && (svm.int_ctl & int_ctl::IGNORE_TPR != 0 || priority > svm.int_ctl & 15) {
                return if self.intercepts(exit::VINTR) { Due::Exit(exit::VINTR) } else { Due::Virtual((svm.int_ctl >> int_ctl::VECTOR_SHIFT) as u8) };
            }
        }
        Due::Nothing
    }

    /// The virtual interrupt is being delivered.
    pub fn take_virtual(&mut self) {
        self.sys.svm.int_ctl &= !int_ctl::V_IRQ;
    }

    /// STGI and CLGI: with virtual GIF the guest's own flag, else the processor's.
    fn set_gif(&mut self, on: bool) {
        let svm = &mut self.sys.svm;
        if svm.guest && svm.int_ctl & int_ctl::V_GIF_ENABLE != 0 {
            svm.int_ctl = if on { svm.int_ctl | int_ctl::V_GIF } else { svm.int_ctl & !int_ctl::V_GIF };
        } else {
            svm.gif = on;
        }
    }

    /// INIT while VM_CR.R_INIT is set becomes #SX (§15.28).
    pub fn init_becomes_exception(&self) -> Option<u8> {
        (self.sys.svm.vm_cr & VM_CR_R_INIT != 0).then_some(SX)
    }

    /// Writes VM_CR: LOCK holds SVMDIS, and SVMDIS cannot come on while SVM is in use.
    pub fn write_vm_cr(&mut self, value: u64) -> bool {
        let old = self.sys.svm.vm_cr;
        if value >> 5 != 0 || (value & VM_CR_SVMDIS != 0 && self.sys.efer & efer::SVME != 0) {
            return false;
        }
        let held = if old & VM_CR_LOCK != 0 { VM_CR_SVMDIS | VM_CR_LOCK } else { 0 };
        self.sys.svm.vm_cr = value & !held | old & held;
        true
    }

    // ---- the world switch ------------------------------------------------------------------------------------------------

    /// What the TLB of the running world is filled under.
    fn world_key(&self) -> [u64; 5] {
        let svm = &self.sys.svm;
        let asid = if svm.guest { svm.asid | u64::from(svm.nested) << 32 } else { 0 };
        [asid, self.sys.cr0 & (cr0::PG | cr0::WP), self.sys.cr4, self.sys.efer & (efer::LMA | efer::NXE), u64::from(self.pcid)]
    }

    /// Exchanges the TLBs. `key` is the world left; the world entered is in the registers by now.
    fn switch_tlb(&mut self, key: [u64; 5]) {
        let mut other = self.other_world.take().unwrap_or_else(|| Box::new(OtherWorld { tlb: Tlb::new(), mark_epoch: u64::MAX, key }));
        std::mem::swap(&mut self.tlb, &mut other.tlb);
        std::mem::swap(&mut self.mark_epoch, &mut other.mark_epoch);
        let was = std::mem::replace(&mut other.key, key);
        let now = self.world_key();
        if was[..4] != now[..4] {
            self.tlb.flush();
        } else if was[4] != now[4] || self.mode & mode::ALIGN != 0 {
            // With alignment checked, tags that were made without the check let what is misaligned through.
            self.tlb.drop_all_fast();
        }
        self.other_world = Some(other);
        self.code_vpage = 0;
    }

    fn save_host(&self, m: &mut GuestMemory, next: u64) {
        let (sys, page) = (&self.sys, self.sys.vm_hsave_pa);
        for (offset, index) in [(at::ES, ES), (at::CS, CS), (at::SS, SS), (at::DS, DS)] {
            write_segment(m, page, offset, sys.seg[index]);
        }
        write_table(m, page, at::GDTR, sys.gdtr);
        write_table(m, page, at::IDTR, sys.idtr);
        for (offset, value) in
            [(at::EFER, sys.efer), (at::CR0, sys.cr0), (at::CR3, sys.cr3), (at::CR4, sys.cr4), (at::RFLAGS, self.rflags()), (at::RIP, next), (at::RSP, self.r[RSP]), (at::RAX, self.r[RAX])]
        {
            write(m, page, offset, 8, value);
        }
    }

    /// Loads the host. `Err`: what is in the save area is no state to run in; the processor shuts down.
    fn load_host(&mut self, m: &GuestMemory) -> Result<(), Fault> {
        let page = self.sys.vm_hsave_pa;
        for (offset, index) in [(at::ES, ES), (at::CS, CS), (at::SS, SS), (at::DS, DS)] {
            self.sys.seg[index] = read_segment(m, page, offset);
        }
        self.sys.gdtr = read_table(m, page, at::GDTR);
        self.sys.idtr = read_table(m, page, at::IDTR);
        self.sys.efer = read(m, page, at::EFER, 8);
        self.sys.cr0 = read(m, page, at::CR0, 8) | cr0::PE;
        self.sys.cr3 = read(m, page, at::CR3, 8);
        self.sys.cr4 = read(m, page, at::CR4, 8);
        self.r[RSP] = read(m, page, at::RSP, 8);
        self.r[RAX] = read(m, page, at::RAX, 8);
        self.rip = read(m, page, at::RIP, 8);
        self.set_rflags(read(m, page, at::RFLAGS, 8) & !rflags::VM);
        self.sys.cpl = 0;
        self.sys.dr7 = 0x400;
        self.sys.shadow = false;
        self.sys.pending_db = 0;
        if self.state_is_bad() { Err(Fault) } else { Ok(()) }
    }

    /// The checks of §15.5.1 on what was just loaded.
    fn state_is_bad(&self) -> bool {
        let sys = &self.sys;
        let long = sys.efer & efer::LME != 0 && sys.cr0 & cr0::PG != 0;
        let width = self.config.physical_bits;
        (sys.cr0 & cr0::CD == 0 && sys.cr0 & cr0::NW != 0)
            || sys.cr0 >> 32 != 0
            || (sys.cr0 & cr0::PG != 0 && sys.cr0 & cr0::PE == 0)
            || (long && sys.cr3 >> width != 0)
            || sys.cr4 & !self.cr4_mask != 0
            || (sys.cr4 & cr4::PCIDE != 0 && !long)
            || sys.dr6 >> 32 != 0
            || sys.dr7 >> 32 != 0
            || sys.efer & !self.efer_mask != 0
            || sys.efer & efer::SVME == 0
            || (long && sys.cr4 & cr4::PAE == 0)
            || (long && sys.seg[CS].attr & (attr::L | attr::DB) == attr::L | attr::DB)
    }

    /// Loads controls and guest state. `false`: VMEXIT_INVALID.
    fn load_guest(&mut self, m: &GuestMemory, vmcb: u64) -> bool {
        let get = |offset, size| read(m, vmcb, offset, size);
        let mut intercepts = [0; 6];
        for (index, word) in intercepts.iter_mut().enumerate() {
            *word = get(4 * index as u64, 4) as u32;
        }
        let pause_limit = get(at::PAUSE_COUNT, 2);
        let svm = Svm {
            guest: true,
            gif: true,
            init_pending: self.sys.svm.init_pending,
            nested: get(at::NESTED, 8) & 1 != 0,
            host_interrupts: self.flags_rest & rflags::IF != 0,
            vm_cr: self.sys.svm.vm_cr,
            vmcb,
            intercepts,
            pause_count: pause_limit,
            pause_limit,
            pause_threshold: get(at::PAUSE_THRESHOLD, 2),
            pause_last: 0,
            iopm: get(at::IOPM, 8) & !0xfff,
            msrpm: get(at::MSRPM, 8) & !0xfff,
            tsc_offset: get(at::TSC_OFFSET, 8),
            asid: get(at::ASID, 4),
            int_ctl: get(at::INT_CTL, 8),
            n_cr3: get(at::N_CR3, 8),
            host_cr4: self.sys.cr4,
            host_efer: self.sys.efer,
            inject: Some(get(at::EVENT_INJECT, 8)).filter(|event| event & event::VALID != 0).unwrap_or(0),
        };
        let kind = svm.inject >> 8 & 7;
        let vector = svm.inject as u8;
        let bad_event = svm.inject != 0 && (matches!(kind, 1 | 5..=7) || (kind == 3 && (vector > 31 || vector == 2)));
        let limit = 1u64 << self.config.physical_bits;
        let bad = svm.asid == 0
            || svm.asid >= u64::from(ASIDS)
            || svm.intercepts[4] & 1 == 0
            || svm.iopm.saturating_add(0x3000) > limit
            || svm.msrpm.saturating_add(0x2000) > limit
            || (svm.nested && (svm.n_cr3 >= limit || self.sys.cr0 & cr0::PG == 0))
            || bad_event;
        let nested = svm.nested;
        self.sys.svm = svm;

        for (offset, index) in [(at::ES, ES), (at::CS, CS), (at::SS, SS), (at::DS, DS)] {
            self.sys.seg[index] = read_segment(m, vmcb, offset);
        }
        self.sys.gdtr = read_table(m, vmcb, at::GDTR);
        self.sys.idtr = read_table(m, vmcb, at::IDTR);
        let sys = &mut self.sys;
        sys.efer = get(at::EFER, 8);
        sys.cr0 = get(at::CR0, 8);
        sys.cr2 = get(at::CR2, 8);
        sys.cr3 = get(at::CR3, 8);
        sys.cr4 = get(at::CR4, 8);
        sys.dr6 = get(at::DR6, 8);
        sys.dr7 = get(at::DR7, 8);
        if bad || self.state_is_bad() {
            return false;
        }
        let sys = &mut self.sys;
        sys.cr0 = sys.cr0 & cr0::ALL | cr0::ET;
        sys.dr6 = sys.dr6 & 0x1_e00f | 0xffff_0ff0;
        sys.dr7 = sys.dr7 & 0xffff_2fff | 0x400;
        // LMA follows from LME and PG, whatever the VMCB says.
        sys.efer &= !efer::LMA;
        if sys.efer & efer::LME != 0 && sys.cr0 & cr0::PG != 0 {
            sys.efer |= efer::LMA;
        }
        if nested {
            sys.pat = get(at::G_PAT, 8);
        }
        sys.shadow = get(at::INT_STATE, 8) & 1 != 0;
        sys.pending_db = 0;
        self.r[RSP] = get(at::RSP, 8);
        self.r[RAX] = get(at::RAX, 8);
        let flags = get(at::RFLAGS, 8);
        self.set_rflags(flags);
        self.sys.cpl = match (self.sys.cr0 & cr0::PE != 0, flags & rflags::VM != 0) {
            (false, _) => 0,
            (true, true) => 3,
            (true, false) => get(at::CPL, 1) as u8 & 3,
        };
        self.update_mode();
        self.rip = self.cut_rip(get(at::RIP, 8));
        true
    }

    /// Leaves the guest. `earlier` is the event whose delivery the exit interrupted (EXITINTINFO). `Err`: shut down.
    pub fn vm_exit(&mut self, m: &mut GuestMemory, exit: Exit, earlier: u64) -> Result<(), Fault> {
        let key = self.world_key();
        let vmcb = self.sys.svm.vmcb;
        let bytes = self.exit_bytes(m, &exit);
        // Delivery would set RF in what it pushes; nothing was pushed.
        self.flags_rest &= !rflags::RF;
        if std::mem::take(&mut self.resume_before) {
            self.flags_rest |= rflags::RF;
        }
        for (offset, index) in [(at::ES, ES), (at::CS, CS), (at::SS, SS), (at::DS, DS)] {
            write_segment(m, vmcb, offset, self.sys.seg[index]);
        }
        write_table(m, vmcb, at::GDTR, self.sys.gdtr);
        write_table(m, vmcb, at::IDTR, self.sys.idtr);
        let sys = &self.sys;
        let svm = &sys.svm;
        write(m, vmcb, at::CPL, 1, u64::from(sys.cpl));
        let pat = if svm.nested { sys.pat } else { read(m, vmcb, at::G_PAT, 8) };
        // An event that was not delivered yet is one whose delivery was interrupted.
        let earlier = if svm.inject != 0 { svm.inject } else { earlier };
        for (offset, value) in [
            (at::EFER, sys.efer),
            (at::CR4, sys.cr4),
            (at::CR3, sys.cr3),
            (at::CR2, sys.cr2),
            (at::CR0, sys.cr0),
            (at::DR7, sys.dr7),
            (at::DR6, sys.dr6),
            (at::RFLAGS, self.rflags()),
            (at::RIP, self.rip),
            (at::RSP, self.r[RSP]),
            (at::RAX, self.r[RAX]),
            (at::G_PAT, pat),
            (at::INT_STATE, u64::from(sys.shadow)),
            (at::INT_CTL, svm.int_ctl),
            (at::EXIT_CODE, exit.code),
            (at::EXIT_INFO1, exit.info1),
            (at::EXIT_INFO2, exit.info2),
            (at::EXIT_INT_INFO, earlier),
            (at::EVENT_INJECT, read(m, vmcb, at::EVENT_INJECT, 8) & !event::VALID),
            (at::NEXT_RIP, exit.next),
        ] {
            write(m, vmcb, offset, 8, value);
        }
        for (index, byte) in bytes.iter().enumerate() {
            write(m, vmcb, at::FETCHED + index as u64, 1, u64::from(*byte));
        }
        self.vm_leave(m, key)
    }

    /// From the guest (or half of one) to the host.
    fn vm_leave(&mut self, m: &GuestMemory, key: [u64; 5]) -> Result<(), Fault> {
        let svm = &self.sys.svm;
        self.sys.svm = Svm { gif: false, vm_cr: svm.vm_cr, init_pending: svm.init_pending, ..Svm::default() };
        self.svm_exit = None;
        self.sys.activity = crate::Activity::Running;
        self.single_trap = false;
        let result = self.load_host(m);
        self.update_mode();
        self.switch_tlb(key);
        if result.is_err() {
            self.sys.activity = crate::Activity::Shutdown;
        }
        result
    }

    /// Decode assist for data page faults (§15.8.4): how many bytes, then the instruction.
    fn exit_bytes(&self, m: &mut GuestMemory, exit: &Exit) -> [u8; 16] {
        let mut out = [0; 16];
        let page_fault = u64::from(exit::EXCEPTION + u32::from(crate::core::vector::PF));
        if (exit.code != u64::from(exit::NPF) && exit.code != page_fault) || exit.info1 & 0x10 != 0 {
            return out;
        }
        let linear = if self.mode & mode::SIZE == mode::CODE64 { self.rip } else { self.sys.seg[CS].base.wrapping_add(self.rip) & 0xffff_ffff };
        for index in 0..15 {
            let Some(byte) = self.probe(m, linear.wrapping_add(index)).and_then(|gpa| m.read_u64(gpa, 1).ok()) else { break };
            out[0] += 1;
            out[1 + index as usize] = byte as u8;
        }
        out
    }

    fn need_svm(&mut self) -> Result<(), Fault> {
        if self.sys.efer & efer::SVME == 0 || self.mode & mode::PROTECTED == 0 {
            return Err(self.ud());
        }
        if self.sys.cpl != 0 { Err(self.gp0()) } else { Ok(()) }
    }

    /// The VMCB that rAX names.
    fn vmcb_operand(&mut self, op: &Op) -> Result<u64, Fault> {
        let address = match op.b {
            2 => self.r[RAX] & 0xffff,
            4 => self.r[RAX] & 0xffff_ffff,
            _ => self.r[RAX],
        };
        if address & 0xfff != 0 || address >> self.config.physical_bits != 0 { Err(self.gp0()) } else { Ok(address) }
    }

    /// Drops what INVLPGA names.
    fn flush_asid_page(&mut self, address: u64, asid: u64) {
        let now = if self.sys.svm.guest { self.sys.svm.asid } else { 0 };
        if asid == now {
            let pcid = self.pcid;
            self.tlb.flush_page(address, pcid);
            self.code_vpage = 0;
        } else if let Some(other) = &mut self.other_world
            && other.key[0] & 0xffff_ffff == asid
        {
            // The other world's PCID is not at hand.
            other.tlb.flush();
        }
    }

    /// TLBs of both worlds emptied: at checkpoints.
    pub fn flush_worlds(&mut self) {
        self.tlb.flush();
        if let Some(other) = &mut self.other_world {
            other.tlb.flush();
        }
        self.code_vpage = 0;
    }
}

// ---- instructions ------------------------------------------------------------------------------------------------------------------

fn finish(c: &mut Core, op: &Op) -> Flow {
    c.rip = c.cut_rip(c.rip_after(op));
    Flow::Exit
}

/// VMRUN: `b` = address size.
pub(crate) fn vmrun(c: &mut Core, m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_svm());
    let vmcb = tri!(c.vmcb_operand(op));
    tri!(c.vm_check(op, exit::VMRUN));
    // A guest never gets here: without the VMRUN intercept it is not entered (§15.5.1).
    let next = c.cut_rip(c.rip_after(op));
    let key = c.world_key();
    let kept = (c.sys.cr2, c.sys.dr6);
    c.save_host(m, next);
    if !c.load_guest(m, vmcb) {
        write(m, vmcb, at::EXIT_CODE, 8, exit::INVALID);
        write(m, vmcb, at::EXIT_INFO1, 8, 0);
        write(m, vmcb, at::EXIT_INFO2, 8, 0);
        write(m, vmcb, at::EXIT_INT_INFO, 8, 0);
        // Nothing ran under the guest's registers: the host's TLB stays in place.
        let svm = &c.sys.svm;
        c.sys.svm = Svm { gif: false, vm_cr: svm.vm_cr, init_pending: svm.init_pending, ..Svm::default() };
        (c.sys.cr2, c.sys.dr6) = kept;
        if c.load_host(m).is_err() {
            c.sys.activity = crate::Activity::Shutdown;
        }
        c.update_mode();
        return Flow::Exit;
    }
    c.switch_tlb(key);
    // 1: everything; 3: this ASID; 7: this ASID's non-global entries. The guest's TLB holds one ASID.
    match read(m, vmcb, at::TLB_CONTROL, 1) & 7 {
        1 => c.flush_worlds(),
        3 | 7 => c.flush_all(),
        _ => {}
    }
    write(m, vmcb, at::TLB_CONTROL, 1, 0);
    Flow::Exit
}

/// VMLOAD (`LOAD`) and VMSAVE.
pub(crate) fn vm_transfer<const LOAD: bool>(c: &mut Core, m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_svm());
    let vmcb = tri!(c.vmcb_operand(op));
    tri!(c.vm_check(op, if LOAD { exit::VMLOAD } else { exit::VMSAVE }));
    let registers = |sys: &mut crate::System, transfer: &mut dyn FnMut(u64, &mut u64)| {
        transfer(at::KERNEL_GS_BASE, &mut sys.kernel_gs_base);
        transfer(at::STAR, &mut sys.star);
        transfer(at::LSTAR, &mut sys.lstar);
        transfer(at::CSTAR, &mut sys.cstar);
        transfer(at::SFMASK, &mut sys.sfmask);
        transfer(at::SYSENTER_CS, &mut sys.sysenter_cs);
        transfer(at::SYSENTER_ESP, &mut sys.sysenter_esp);
        transfer(at::SYSENTER_EIP, &mut sys.sysenter_eip);
    };
    for (offset, index) in LOADED_SEGMENTS {
        if LOAD {
            let mut seg = read_segment(m, vmcb, offset);
            // Bases are sign-extended from bit 47 (APM vol. 3, VMLOAD).
            seg.base = (seg.base << 16) as i64 as u64;
            seg.base = ((seg.base as i64) >> 16) as u64;
            c.sys.seg[index] = seg;
        } else {
            write_segment(m, vmcb, offset, c.sys.seg[index]);
        }
    }
    if LOAD {
        registers(&mut c.sys, &mut |offset, slot| {
            let value = read(m, vmcb, offset, 8);
            *slot = match offset {
                at::STAR => value,
                at::SFMASK | at::SYSENTER_CS => value & 0xffff_ffff,
                _ => ((value << 16) as i64 >> 16) as u64,
            };
        });
        c.update_mode();
    } else {
        registers(&mut c.sys, &mut |offset, slot| write(m, vmcb, offset, 8, *slot));
    }
    finish(c, op)
}

/// VMMCALL: nothing but a reason to exit.
pub(crate) fn vmmcall(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.vm_check(op, exit::VMMCALL));
    c.ud();
    Flow::Fault
}

/// STGI (`ON`) and CLGI.
pub(crate) fn global_interrupts<const ON: bool>(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_svm());
    tri!(c.vm_check(op, if ON { exit::STGI } else { exit::CLGI }));
    c.set_gif(ON);
    finish(c, op)
}

/// INVLPGA: `b` = address size.
pub(crate) fn invlpga(c: &mut Core, _m: &mut GuestMemory, _b: &mut dyn CpuBus, op: &Op) -> Flow {
    tri!(c.need_svm());
    let address = if op.b == 8 { c.r[RAX] } else { c.r[RAX] & 0xffff_ffff };
    tri!(c.vm_check(op, exit::INVLPGA));
    let asid = c.r[crate::RCX] & 0xffff_ffff;
    c.flush_asid_page(address, asid);
    finish(c, op)
}
