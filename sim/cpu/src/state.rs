//! The architectural state of one vCPU, as plain data.

use crate::svm::Svm;
use sim_core::{LoadError, Payload, Value};
use sim_fp::x87::X87;

/// Segment registers in the order of their encoding, then LDTR and TR.
pub const ES: usize = 0;
pub const CS: usize = 1;
pub const SS: usize = 2;
pub const DS: usize = 3;
pub const FS: usize = 4;
pub const GS: usize = 5;
pub const LDTR: usize = 6;
pub const TR: usize = 7;

pub const RAX: usize = 0;
pub const RCX: usize = 1;
pub const RDX: usize = 2;
pub const RBX: usize = 3;
pub const RSP: usize = 4;
pub const RBP: usize = 5;
pub const RSI: usize = 6;
pub const RDI: usize = 7;

/// RFLAGS bits (APM vol. 2 §3.1.6).
pub mod rflags {
    pub const CF: u64 = 1;
    pub const FIXED: u64 = 2;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// The six arithmetic flags.
    pub const ARITH: u64 = CF | PF | AF | ZF | SF | OF;
    /// All that exist.
    pub const ALL: u64 = ARITH | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
}

/// CR0 bits.
pub mod cr0 {
    pub const PE: u64 = 1;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
    pub const ALL: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
}

/// CR4 bits.
pub mod cr4 {
    pub const VME: u64 = 1;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
    pub const ALL: u64 = TSD | DE | PSE | PAE | MCE | PGE | PCE | OSFXSR | OSXMMEXCPT | UMIP | FSGSBASE | PCIDE | OSXSAVE | SMEP | SMAP;
}

/// EFER bits.
pub mod efer {
    pub const SCE: u64 = 1;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
    pub const SVME: u64 = 1 << 12;
    pub const FFXSR: u64 = 1 << 14;
    /// Those every processor has.
    pub const ALL: u64 = SCE | LME | LMA | NXE;
}

/// Descriptor attribute bits, packed as in a descriptor's bytes 5 and 6 without the limit (APM vol. 2 §15.5, VMCB form).
pub mod attr {
    /// Type bits 0..4: accessed, readable/writable, conforming/expand-down, code.
    pub const ACCESSED: u16 = 1;
    pub const RW: u16 = 2;
    pub const CONFORMING: u16 = 4;
    pub const CODE: u16 = 8;
    /// Code or data, not system.
    pub const S: u16 = 1 << 4;
    pub const DPL_SHIFT: u16 = 5;
    pub const P: u16 = 1 << 7;
    pub const L: u16 = 1 << 9;
    pub const DB: u16 = 1 << 10;
    pub const G: u16 = 1 << 11;
}

/// A segment register with its hidden part.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub base: u64,
    pub limit: u32,
    pub attr: u16,
    pub selector: u16,
}

impl Segment {
    /// Descriptor privilege level.
    pub fn dpl(&self) -> u8 {
        (self.attr >> attr::DPL_SHIFT & 3) as u8
    }
}

/// GDTR or IDTR.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableRegister {
    pub base: u64,
    pub limit: u16,
}

/// What a vCPU is doing between instructions.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    #[default]
    Running,
    /// After HLT.
    Halted,
    /// After INIT on an application processor.
    WaitForSipi,
    /// After a triple fault; only reset or INIT leaves it.
    Shutdown,
}

/// Everything but the general registers, RIP and the arithmetic flags.
#[repr(C)]
#[derive(Clone, Debug, PartialEq)]
pub struct System {
    pub seg: [Segment; 8],
    pub gdtr: TableRegister,
    pub idtr: TableRegister,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub xcr0: u64,
    pub dr: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
    pub efer: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub tsc_aux: u64,
    /// Added to the board's time-stamp counter (`WRMSR 0x10`, TSC_ADJUST).
    pub tsc_offset: u64,
    pub misc_enable: u64,
    pub xss: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_variable: [u64; 16],
    pub mcg_status: u64,
    pub mcg_ctl: u64,
    /// CTL, STATUS, ADDR, MISC of each machine-check bank.
    pub mc_banks: [[u64; 4]; 6],
    pub hwcr: u64,
    pub vm_hsave_pa: u64,
    pub svm: Svm,
    /// Current privilege level.
    pub cpl: u8,
    pub activity: Activity,
    /// Interrupts are held off for one instruction (STI, MOV SS, POP SS).
    pub shadow: bool,
    /// An NMI is being handled (until IRET).
    pub nmi_blocked: bool,
    /// Debug exceptions pending as traps after the instruction (bits of DR6).
    pub pending_db: u64,
}

/// The whole state of a vCPU but its TLB. Plain data: clone it, compare it, hash it, save it.
#[repr(C)]
#[derive(Clone, Debug, PartialEq)]
pub struct CpuState {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// Ticks since power-on.
    pub ticks: u64,
    pub xmm: [u128; 16],
    /// Upper halves of the YMM registers.
    pub ymm_high: [u128; 16],
    pub mxcsr: u32,
    pub x87: X87,
    pub sys: System,
}

impl CpuState {
    /// The state after power-on or RESET (APM vol. 2 table 14-1).
    pub fn reset() -> CpuState {
        let data = Segment { base: 0, limit: 0xffff, attr: attr::P | attr::S | attr::RW | attr::ACCESSED, selector: 0 };
        let code = Segment { base: 0xffff_0000, limit: 0xffff, attr: data.attr | attr::CODE, selector: 0xf000 };
        let table = Segment { base: 0, limit: 0xffff, attr: attr::P | 2, selector: 0 };
        let task = Segment { attr: attr::P | 11, ..table };
        let mut gpr = [0; 16];
        gpr[RDX] = 0x0080_0f12;
        CpuState {
            gpr,
            rip: 0xfff0,
            rflags: rflags::FIXED,
            ticks: 0,
            xmm: [0; 16],
            ymm_high: [0; 16],
            mxcsr: 0x1f80,
            x87: X87::default(),
            sys: System {
                seg: [data, code, data, data, data, data, table, task],
                gdtr: TableRegister { base: 0, limit: 0xffff },
                idtr: TableRegister { base: 0, limit: 0xffff },
                cr0: cr0::ET | cr0::NW | cr0::CD,
                cr2: 0,
                cr3: 0,
                cr4: 0,
                xcr0: 1,
                dr: [0; 4],
                dr6: 0xffff_0ff0,
                dr7: 0x400,
                efer: 0,
                star: 0,
                lstar: 0,
                cstar: 0,
                sfmask: 0,
                kernel_gs_base: 0,
                sysenter_cs: 0,
                sysenter_esp: 0,
                sysenter_eip: 0,
                pat: 0x0007_0406_0007_0406,
                tsc_aux: 0,
                tsc_offset: 0,
                misc_enable: 1,
                xss: 0,
                mtrr_def_type: 0,
                mtrr_fixed: [0; 11],
                mtrr_variable: [0; 16],
                mcg_status: 0,
                mcg_ctl: 0,
                mc_banks: [[0; 4]; 6],
                // TscFreqSel: the TSC runs at the frequency of P-state 0 (APM vol. 2, HWCR).
                hwcr: 1 << 24,
                vm_hsave_pa: 0,
                svm: Svm::default(),
                cpl: 0,
                activity: Activity::Running,
                shadow: false,
                nmi_blocked: false,
                pending_db: 0,
            },
        }
    }

    /// The state at a PVH entry: 32-bit protected mode without paging, flat segments, EBX = start info (Xen `docs/misc/pvh.pandoc`).
    pub fn pvh(entry: u32, start_info: u32) -> CpuState {
        let mut state = CpuState::reset();
        state.flat32();
        state.gpr = [0; 16];
        state.gpr[RBX] = u64::from(start_info);
        state.rip = u64::from(entry);
        state
    }

    /// The state at a Multiboot entry: as PVH, EAX = magic, EBX = information (Multiboot 0.6.96 §3.2, Multiboot 2.0 §3.3).
    pub fn multiboot(entry: u32, magic: u32, info: u32) -> CpuState {
        let mut state = CpuState::pvh(entry, info);
        state.gpr[RAX] = u64::from(magic);
        state
    }

    /// The state at a Linux 64-bit boot entry (Linux `Documentation/arch/x86/boot.rst`): long mode, paging on at `page_table`, RSI =
    /// boot_params, selectors 0x10 and 0x18.
    pub fn linux64(entry: u64, boot_params: u64, page_table: u64, gdt: TableRegister) -> CpuState {
        let mut state = CpuState::reset();
        state.flat32();
        state.gpr = [0; 16];
        state.gpr[RSI] = boot_params;
        state.rip = entry;
        state.sys.gdtr = gdt;
        state.sys.cr0 |= cr0::PG;
        state.sys.cr4 |= cr4::PAE;
        state.sys.cr3 = page_table;
        state.sys.efer = efer::LME | efer::LMA;
        state.sys.seg[CS].attr = attr::P | attr::S | attr::CODE | attr::RW | attr::ACCESSED | attr::L | attr::G;
        state.sys.seg[CS].selector = 0x10;
        for index in [ES, SS, DS, FS, GS] {
            state.sys.seg[index].selector = 0x18;
        }
        state
    }

    /// The state at a Linux 32-bit boot entry (the same, "32-bit Boot Protocol"): protected mode, paging off, ESI = boot_params, selectors
    /// 0x10 and 0x18, interrupts off.
    pub fn linux32(entry: u32, boot_params: u32, gdt: TableRegister) -> CpuState {
        let mut state = CpuState::reset();
        state.flat32();
        state.gpr = [0; 16];
        state.gpr[RSI] = u64::from(boot_params);
        state.rip = u64::from(entry);
        state.sys.gdtr = gdt;
        state.sys.seg[CS].selector = 0x10;
        for index in [ES, SS, DS, FS, GS] {
            state.sys.seg[index].selector = 0x18;
        }
        state
    }

    /// The state of an application processor after SIPI with `vector`.
    pub fn start_up(vector: u8) -> CpuState {
        let mut state = CpuState::reset();
        state.sys.seg[CS].selector = u16::from(vector) << 8;
        state.sys.seg[CS].base = u64::from(vector) << 12;
        state.rip = 0;
        state
    }

    fn flat32(&mut self) {
        let data = Segment {
            base: 0,
            limit: 0xffff_ffff,
            attr: attr::P | attr::S | attr::RW | attr::ACCESSED | attr::DB | attr::G,
            selector: 0x10,
        };
        let sys = &mut self.sys;
        for index in [ES, SS, DS, FS, GS] {
            sys.seg[index] = data;
        }
        sys.seg[CS] = Segment { attr: data.attr | attr::CODE, selector: 8, ..data };
        sys.seg[TR] = Segment { base: 0, limit: 0x67, attr: attr::P | 11, selector: 0 };
        sys.cr0 = cr0::PE | cr0::ET;
        sys.gdtr = TableRegister::default();
        sys.idtr = TableRegister::default();
    }

    /// Turns the state into named fields.
    pub fn save(&self) -> Payload {
        let mut out = Payload::new("cpu", 2);
        out.put("gpr", Value::Numbers(self.gpr.to_vec()));
        out.number("rip", self.rip).number("rflags", self.rflags).number("ticks", self.ticks);
        out.put("xmm", wide(&self.xmm)).put("ymm_high", wide(&self.ymm_high)).number("mxcsr", u64::from(self.mxcsr));
        out.bytes("x87", &self.x87.to_bytes());
        let sys = &self.sys;
        out.put("segments", Value::Numbers(sys.seg.iter().flat_map(|seg| [seg.base, u64::from(seg.limit), u64::from(seg.attr), u64::from(seg.selector)]).collect()));
        out.put("tables", Value::Numbers(vec![sys.gdtr.base, u64::from(sys.gdtr.limit), sys.idtr.base, u64::from(sys.idtr.limit)]));
        out.put("dr", Value::Numbers(sys.dr.to_vec()));
        out.put("mtrr_fixed", Value::Numbers(sys.mtrr_fixed.to_vec()));
        out.put("mtrr_variable", Value::Numbers(sys.mtrr_variable.to_vec()));
        out.put("mc_banks", Value::Numbers(sys.mc_banks.iter().flatten().copied().collect()));
        out.put("svm", Value::Numbers(sys.svm.to_words()));
        let mut copy = self.clone();
        for (name, field) in copy.sys.numbers() {
            out.number(name, *field);
        }
        out.number("cpl", u64::from(sys.cpl)).number("activity", sys.activity as u64);
        out.number("shadow", u64::from(sys.shadow)).number("nmi_blocked", u64::from(sys.nmi_blocked));
        out
    }

    /// Reads a state that [`CpuState::save`] wrote.
    pub fn load(from: &Payload) -> Result<CpuState, LoadError> {
        from.expect("cpu", 2)?;
        let mut state = CpuState::reset();
        fill(from, "gpr", &mut state.gpr)?;
        state.rip = from.get_number("rip")?;
        state.rflags = from.get_number("rflags")? & rflags::ALL | rflags::FIXED;
        state.ticks = from.get_number("ticks")?;
        fill_wide(from, "xmm", &mut state.xmm)?;
        fill_wide(from, "ymm_high", &mut state.ymm_high)?;
        state.mxcsr = u32::try_from(from.get_number("mxcsr")?).map_err(|_| from.refused("mxcsr"))?;
        state.x87 = X87::from_bytes(from.get_bytes("x87")?).ok_or_else(|| from.refused("x87"))?;
        let sys = &mut state.sys;
        let mut words = [0; 32];
        fill(from, "segments", &mut words)?;
        for (seg, words) in sys.seg.iter_mut().zip(words.chunks_exact(4)) {
            *seg = Segment { base: words[0], limit: words[1] as u32, attr: words[2] as u16, selector: words[3] as u16 };
        }
        let mut words = [0; 4];
        fill(from, "tables", &mut words)?;
        sys.gdtr = TableRegister { base: words[0], limit: words[1] as u16 };
        sys.idtr = TableRegister { base: words[2], limit: words[3] as u16 };
        fill(from, "dr", &mut sys.dr)?;
        fill(from, "mtrr_fixed", &mut sys.mtrr_fixed)?;
        fill(from, "mtrr_variable", &mut sys.mtrr_variable)?;
        let mut banks = [0; 24];
        fill(from, "mc_banks", &mut banks)?;
        for (bank, words) in sys.mc_banks.iter_mut().zip(banks.chunks_exact(4)) {
            bank.copy_from_slice(words);
        }
        sys.svm = Svm::from_words(from.get_numbers("svm")?).ok_or_else(|| from.refused("svm"))?;
        for (name, field) in sys.numbers() {
            *field = from.get_number(name)?;
        }
        sys.cpl = from.get_number("cpl")? as u8 & 3;
        sys.activity = match from.get_number("activity")? {
            0 => Activity::Running,
            1 => Activity::Halted,
            2 => Activity::WaitForSipi,
            3 => Activity::Shutdown,
            _ => return Err(from.refused("activity")),
        };
        sys.shadow = from.get_number("shadow")? != 0;
        sys.nmi_blocked = from.get_number("nmi_blocked")? != 0;
        Ok(state)
    }
}

impl System {
    /// The plain 64-bit fields by name: one row saves and loads a field.
    fn numbers(&mut self) -> [(&'static str, &mut u64); 27] {
        [
            ("cr0", &mut self.cr0),
            ("cr2", &mut self.cr2),
            ("cr3", &mut self.cr3),
            ("cr4", &mut self.cr4),
            ("xcr0", &mut self.xcr0),
            ("dr6", &mut self.dr6),
            ("dr7", &mut self.dr7),
            ("efer", &mut self.efer),
            ("star", &mut self.star),
            ("lstar", &mut self.lstar),
            ("cstar", &mut self.cstar),
            ("sfmask", &mut self.sfmask),
            ("kernel_gs_base", &mut self.kernel_gs_base),
            ("sysenter_cs", &mut self.sysenter_cs),
            ("sysenter_esp", &mut self.sysenter_esp),
            ("sysenter_eip", &mut self.sysenter_eip),
            ("pat", &mut self.pat),
            ("tsc_aux", &mut self.tsc_aux),
            ("tsc_offset", &mut self.tsc_offset),
            ("misc_enable", &mut self.misc_enable),
            ("xss", &mut self.xss),
            ("mtrr_def_type", &mut self.mtrr_def_type),
            ("mcg_status", &mut self.mcg_status),
            ("mcg_ctl", &mut self.mcg_ctl),
            ("hwcr", &mut self.hwcr),
            ("vm_hsave_pa", &mut self.vm_hsave_pa),
            ("pending_db", &mut self.pending_db),
        ]
    }
}

fn wide(values: &[u128]) -> Value {
    Value::Numbers(values.iter().flat_map(|value| [*value as u64, (*value >> 64) as u64]).collect())
}

fn fill(from: &Payload, name: &str, out: &mut [u64]) -> Result<(), LoadError> {
    let numbers = from.get_numbers(name)?;
    if numbers.len() != out.len() {
        return Err(from.refused(name));
    }
    out.copy_from_slice(numbers);
    Ok(())
}

fn fill_wide(from: &Payload, name: &str, out: &mut [u128; 16]) -> Result<(), LoadError> {
    let mut words = [0; 32];
    fill(from, name, &mut words)?;
    for (value, words) in out.iter_mut().zip(words.chunks_exact(2)) {
        *value = u128::from(words[0]) | u128::from(words[1]) << 64;
    }
    Ok(())
}
