//! The engine's hot state: registers, lazy flags, budget, and access to memory.

use crate::op::{EA_ADDR16, EA_ADDR32, Flow, Op};
use crate::state::{CS, CpuState, SS, System, attr, rflags};
use crate::tlb::{self, ENTRIES, Tlb};
use crate::cpuid::Features;
use crate::{Config, flags, svm};
use sim_bus::{At, CpuBus};
use sim_fp::x87::X87;
use sim_mem::GuestMemory;

/// An exception is waiting in [`Core::fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault;

/// An exception to be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exception {
    pub vector: u8,
    /// Error code; `None` for vectors without one.
    pub code: Option<u32>,
    /// CR2 for a page fault.
    pub address: u64,
}

/// Exception vectors (APM vol. 2 §8.2).
pub(crate) mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XM: u8 = 19;
}

/// Mode bits a decoded block depends on.
pub(crate) mod mode {
    /// Code size: 0 = 16, 1 = 32, 2 = 64 bits.
    pub const SIZE: u32 = 3;
    pub const CODE16: u32 = 0;
    pub const CODE32: u32 = 1;
    pub const CODE64: u32 = 2;
    /// SS.B: 32-bit stack (outside 64-bit mode).
    pub const STACK32: u32 = 1 << 2;
    /// ES, SS and DS are flat and writable: no segment checks.
    pub const FLAT: u32 = 1 << 3;
    /// CR0.EM: SSE is #UD, x87 is #NM.
    pub const EM: u32 = 1 << 4;
    /// CR0.TS.
    pub const TS: u32 = 1 << 5;
    /// CR4.OSFXSR is off: SSE is #UD.
    pub const NO_SSE: u32 = 1 << 6;
    /// CR4.OSXSAVE and XCR0 allow AVX.
    pub const AVX: u32 = 1 << 7;
    /// Protected mode (not virtual-8086).
    pub const PROTECTED: u32 = 1 << 8;
    /// CR0.MP: WAIT takes part in #NM.
    pub const MP: u32 = 1 << 9;
    /// Alignment checks are on (AM, AC, CPL 3).
    pub const ALIGN: u32 = 1 << 10;
    /// One instruction per block.
    pub const SINGLE: u32 = 1 << 11;
    /// Long mode is active (64-bit or compatibility).
    pub const LONG: u32 = 1 << 12;
}

/// Kind of access, for the page walk and for error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Fetch,
}

/// A watched address range of the host debugger or of DR0..3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    pub address: u64,
    pub len: u64,
    pub read: bool,
    pub write: bool,
}

/// Hot state. Public fields are for handlers; everything that can be saved is in [`CpuState`] form through `state()`.
pub(crate) struct Core {
    /// General registers; 16 reads as zero, the rest are unused (so that `& 31` needs no bounds check).
    pub r: [u64; 32],
    pub rip: u64,
    /// Ticks until the deadline, negated: counts up to zero.
    pub budget: i64,
    /// Budget at the start of the current block.
    pub block_budget: i64,
    /// Instructions of the current block before the running one, for accesses to system tables, which no operation is at hand for. Every handler that makes them runs
    /// alone ([`crate::op::Run::plain`]).
    pub running: u8,
    /// RIP of the current block's first instruction.
    pub block_rip: u64,
    /// Lazy arithmetic flags: see [`flags`].
    pub cc_op: u32,
    pub cc_res: u64,
    pub cc_src: u64,
    /// RFLAGS without the arithmetic flags and with DF as the guest sees it.
    pub flags_rest: u64,
    /// What a handler that touched memory returns when done: `Next`, or `Break` after a slow access.
    pub brk: Flow,
    /// Operations of the block not begun when a chain stopped early.
    pub left: usize,
    /// `view * ENTRIES` of the running code.
    pub view: usize,
    pub mode: u32,
    pub pcid: u16,
    pub xmm: [u128; 16],
    pub ymm_high: [u128; 16],
    pub mxcsr: u32,
    pub x87: X87,
    pub tlb: Tlb,
    pub sys: System,
    pub fault: Exception,
    /// Virtual page of the latched code translation | 1, and the frame it leads to (flat page index).
    pub code_vpage: u64,
    pub code_page: u32,
    pub config: Config,
    /// What decoding takes from the configuration.
    pub features: Features,
    /// Bits of CR4 and EFER that exist.
    pub cr4_mask: u64,
    pub efer_mask: u64,
    /// Ticks at the deadline.
    pub deadline: u64,
    /// Budget at the start of this `run`.
    pub run_budget: i64,
    /// Epochs of [`GuestMemory`] already honoured.
    pub mark_epoch: u64,
    pub code_log: u64,
    pub watches: Vec<Watch>,
    pub watch_hit: Option<(u64, bool)>,
    /// A PAUSE that ends the turn ran.
    pub pause_seen: bool,
    /// Nothing waited for this vCPU when blocks began to run. What may change that ends them.
    pub quiet: bool,
    /// The running instruction is in an interrupt shadow.
    pub shadow_before: bool,
    /// RFLAGS.RF was set when the running instruction or event began: what a #VMEXIT saves.
    pub resume_before: bool,
    /// A #VMEXIT on its way; then what [`Core::fault`] says does not count.
    pub svm_exit: Option<svm::Exit>,
    /// The event being delivered, as EXITINTINFO has it; 0 outside delivery.
    pub delivering: u64,
    /// The TLB of the world that is not running (host or guest), once there are two.
    pub other_world: Option<Box<svm::OtherWorld>>,
    /// The running instruction is single-stepped: a #DB is due after it.
    pub single_trap: bool,
}

impl Core {
    pub fn new(config: Config) -> Core {
        Core::with_tlb(config, Tlb::new())
    }

    /// With a TLB that is empty.
    pub fn with_tlb(config: Config, tlb: Tlb) -> Core {
        let reset = CpuState::reset();
        let mut core = Core {
            r: [0; 32],
            rip: 0,
            budget: 0,
            block_budget: 0,
            running: 0,
            block_rip: 0,
            cc_op: flags::EXACT,
            cc_res: 0,
            cc_src: 0,
            flags_rest: 0,
            brk: Flow::Next,
            left: 0,
            view: 0,
            mode: 0,
            pcid: 0,
            xmm: [0; 16],
            ymm_high: [0; 16],
            mxcsr: 0x1f80,
            x87: X87::default(),
            tlb,
            sys: reset.sys.clone(),
            fault: Exception::default(),
            code_vpage: 0,
            code_page: 0,
            features: Features::of(&config.cpuid),
            cr4_mask: config.cpuid.cr4_mask(),
            efer_mask: config.cpuid.efer_mask(),
            config,
            deadline: 0,
            run_budget: 0,
            mark_epoch: u64::MAX,
            code_log: 0,
            watches: Vec::new(),
            watch_hit: None,
            pause_seen: false,
            quiet: false,
            shadow_before: false,
            resume_before: false,
            svm_exit: None,
            delivering: 0,
            other_world: None,
            single_trap: false,
        };
        core.set_state(&reset);
        core
    }

    /// Ticks since power-on.
    pub fn ticks(&self) -> u64 {
        self.deadline.wrapping_add_signed(self.budget)
    }

    /// The whole state, flags worked out.
    pub fn state(&self) -> CpuState {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.r[..16]);
        CpuState {
            gpr,
            rip: self.rip,
            rflags: self.rflags(),
            ticks: self.ticks(),
            xmm: self.xmm,
            ymm_high: self.ymm_high,
            mxcsr: self.mxcsr,
            x87: self.x87,
            sys: self.sys.clone(),
        }
    }

    /// Replaces the whole state. The TLB stays as it is unless paging registers change; callers that jump in time flush it.
    pub fn set_state(&mut self, state: &CpuState) {
        self.r[..16].copy_from_slice(&state.gpr);
        self.rip = state.rip;
        self.set_rflags(state.rflags);
        self.deadline = state.ticks.wrapping_add_signed(-self.budget);
        self.xmm = state.xmm;
        self.ymm_high = state.ymm_high;
        self.mxcsr = state.mxcsr;
        self.x87 = state.x87;
        self.sys = state.sys.clone();
        self.update_mode();
    }

    /// RFLAGS as PUSHF would see it, RF included.
    pub fn rflags(&self) -> u64 {
        self.flags_rest | self.arith()
    }

    /// Sets all of RFLAGS without checks.
    pub fn set_rflags(&mut self, value: u64) {
        self.set_arith(value);
        self.flags_rest = value & rflags::ALL & !rflags::ARITH | rflags::FIXED;
    }

    /// Works out again everything derived from control registers, segments and CPL.
    pub fn update_mode(&mut self) {
        use crate::state::{DS, ES, cr0, cr4, efer};
        let sys = &self.sys;
        let code = &sys.seg[CS];
        let long = sys.efer & efer::LMA != 0;
        let mut bits = if long && code.attr & attr::L != 0 {
            mode::CODE64
        } else if code.attr & attr::DB != 0 {
            mode::CODE32
        } else {
            mode::CODE16
        };
        if long {
            bits |= mode::LONG;
        }
        if sys.seg[SS].attr & attr::DB != 0 {
            bits |= mode::STACK32;
        }
        let flat = |index: usize| {
            let seg = &sys.seg[index];
            seg.base == 0 && seg.limit == u32::MAX && seg.attr & (attr::P | attr::S | attr::CODE | attr::CONFORMING | attr::RW) == attr::P | attr::S | attr::RW
        };
        if flat(ES) && flat(SS) && flat(DS) && code.base == 0 && code.limit == u32::MAX {
            bits |= mode::FLAT;
        }
        if sys.cr0 & cr0::EM != 0 {
            bits |= mode::EM;
        }
        if sys.cr0 & cr0::TS != 0 {
            bits |= mode::TS;
        }
        if sys.cr0 & cr0::MP != 0 {
            bits |= mode::MP;
        }
        if sys.cr4 & cr4::OSFXSR == 0 {
            bits |= mode::NO_SSE;
        }
        if sys.cr4 & cr4::OSXSAVE != 0 && sys.xcr0 & 6 == 6 {
            bits |= mode::AVX;
        }
        if sys.cr0 & cr0::PE != 0 && self.flags_rest & rflags::VM == 0 {
            bits |= mode::PROTECTED;
        }
        if sys.cr0 & cr0::AM != 0 && self.flags_rest & rflags::AC != 0 && sys.cpl == 3 {
            bits |= mode::ALIGN;
        }
        if bits & !self.mode & mode::ALIGN != 0 {
            // Alignment is checked in the slow path only, which makes no fast tags meanwhile.
            self.tlb.drop_all_fast();
        }
        self.mode = bits;
        self.pcid = if sys.cr4 & cr4::PCIDE != 0 { (sys.cr3 & 0xfff) as u16 } else { 0 };
        self.update_view();
    }

    /// Chooses the TLB view from CPL, SMAP and AC.
    pub fn update_view(&mut self) {
        let view = if self.sys.cpl == 3 {
            tlb::USER
        } else if self.sys.cr4 & crate::state::cr4::SMAP != 0 && self.flags_rest & rflags::AC == 0 {
            tlb::KERNEL
        } else {
            tlb::KERNEL_USER
        };
        self.view = view * ENTRIES;
        self.code_vpage = 0;
    }

    /// When the instruction of `op` happens.
    pub fn at(&self, op: &Op) -> At {
        At { vcpu: self.config.vcpu, ticks: (self.block_budget + i64::from(op.idx) - self.run_budget) as u64 }
    }

    /// When something between instructions happens.
    pub fn at_now(&self) -> At {
        At { vcpu: self.config.vcpu, ticks: (self.budget - self.run_budget) as u64 }
    }

    /// Charges the tick of an event between instructions; what its delivery accesses is accessed now.
    pub fn begin_event(&mut self) {
        self.block_budget = self.budget;
        self.running = 0;
        self.budget += 1;
    }

    /// RIP of `op`.
    #[inline(always)]
    pub fn rip_of(&self, op: &Op) -> u64 {
        self.block_rip.wrapping_add(u64::from(op.off))
    }

    /// RIP after `op`, not yet cut to the code size.
    #[inline(always)]
    pub fn rip_after(&self, op: &Op) -> u64 {
        self.block_rip.wrapping_add(u64::from(op.off) + u64::from(op.len))
    }

    /// Notes an exception without error code.
    #[cold]
    pub fn raise(&mut self, vector: u8) -> Fault {
        self.fault = Exception { vector, code: None, address: 0 };
        Fault
    }

    /// Notes an exception with error code.
    #[cold]
    pub fn raise_code(&mut self, vector: u8, code: u32) -> Fault {
        self.fault = Exception { vector, code: Some(code), address: 0 };
        Fault
    }

    /// #GP(0).
    #[cold]
    pub fn gp0(&mut self) -> Fault {
        self.raise_code(vector::GP, 0)
    }

    /// #UD.
    #[cold]
    pub fn ud(&mut self) -> Fault {
        self.raise(vector::UD)
    }

    // ---- effective addresses -------------------------------------------------------------------------------------------

    /// Offset within the segment: base + index * scale + disp, cut to the address size.
    #[inline(always)]
    pub fn offset(&self, op: &Op) -> u64 {
        let sum = self.r[usize::from(op.base & 31)].wrapping_add(self.r[usize::from(op.index & 31)] << (op.ea & 3)).wrapping_add(op.disp);
        if op.ea & (EA_ADDR32 | EA_ADDR16) != 0 {
            return if op.ea & EA_ADDR32 != 0 { sum & 0xffff_ffff } else { sum & 0xffff };
        }
        sum
    }

    /// Linear address of the memory operand, with every segment check for an access of `size` bytes.
    #[inline]
    pub fn linear(&mut self, op: &Op, size: u64, write: bool) -> Result<u64, Fault> {
        let offset = self.offset(op);
        self.linear_at(op.seg(), offset, size, write)
    }

    /// Linear address of `offset` in segment `seg`.
    #[inline]
    pub fn linear_at(&mut self, seg: usize, offset: u64, size: u64, write: bool) -> Result<u64, Fault> {
        let segment = &self.sys.seg[seg & 7];
        if self.mode & mode::SIZE == mode::CODE64 {
            return Ok(if seg >= crate::state::FS { segment.base.wrapping_add(offset) } else { offset });
        }
        self.linear_checked(seg, offset, size, write)
    }

    fn linear_checked(&mut self, seg: usize, offset: u64, size: u64, write: bool) -> Result<u64, Fault> {
        let segment = self.sys.seg[seg & 7];
        let fault = if seg == SS { vector::SS } else { vector::GP };
        if self.mode & mode::PROTECTED != 0 {
            let usable = segment.attr & attr::P != 0;
            let code = segment.attr & attr::CODE != 0;
            let allowed = if write { !code && segment.attr & attr::RW != 0 } else { !code || segment.attr & attr::RW != 0 };
            if !usable || !allowed {
                return Err(self.raise_code(fault, 0));
            }
        }
        let last = offset.wrapping_add(size - 1);
        let expand_down = segment.attr & (attr::CODE | attr::CONFORMING) == attr::CONFORMING && self.mode & mode::PROTECTED != 0;
        let inside = if expand_down {
            let top = if segment.attr & attr::DB != 0 { 0xffff_ffff } else { 0xffff };
            offset > u64::from(segment.limit) && last <= top && last >= offset
        } else {
            last <= u64::from(segment.limit) && last >= offset
        };
        if !inside {
            return Err(self.raise_code(fault, 0));
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    // ---- guest memory, explicit accesses of the running code ------------------------------------------------------------

    /// Linear address of the memory operand in 64-bit mode; elsewhere the plain handler must see to it.
    #[inline(always)]
    pub fn linear64(&self, op: &Op) -> Result<u64, Fault> {
        if self.mode & mode::SIZE != mode::CODE64 {
            return Err(Fault);
        }
        let seg = op.seg();
        let offset = self.offset(op);
        Ok(if seg >= crate::state::FS { self.sys.seg[seg & 7].base.wrapping_add(offset) } else { offset })
    }

    /// [`Core::load`]; with `F` only if the fast tags have it.
    #[inline(always)]
    pub fn try_load<const F: bool, const N: usize>(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64) -> Result<u64, Fault> {
        if !F {
            return self.load::<N>(m, b, op, address);
        }
        let index = tlb::index(address);
        if address.wrapping_add(self.tlb.fast.read(self.view / ENTRIES, index)) <= 4096 - N as u64 {
            let at = self.tlb.fast.addend(index).wrapping_add(address) as usize;
            if let Some(bytes) = m.ram().get(at..at.wrapping_add(N)) {
                return Ok(number::<N>(bytes));
            }
        }
        Err(Fault)
    }

    /// [`Core::store`]; with `F` only if the fast tags have it.
    #[inline(always)]
    pub fn try_store<const F: bool, const N: usize>(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64, value: u64) -> Result<(), Fault> {
        if F { self.store_fast::<N>(m, address, |_, _| value) } else { self.store::<N>(m, b, op, address, value) }
    }

    /// [`Core::modify`]; with `F` only if the fast tags have it.
    #[inline(always)]
    pub fn try_modify<const F: bool, const N: usize>(
        &mut self,
        m: &mut GuestMemory,
        b: &mut dyn CpuBus,
        op: &Op,
        address: u64,
        change: impl FnOnce(&mut Core, u64) -> u64,
    ) -> Result<(), Fault> {
        if F { self.store_fast::<N>(m, address, |c, bytes| change(c, number::<N>(bytes))) } else { self.modify::<N>(m, b, op, address, change) }
    }

    #[inline(always)]
    fn store_fast<const N: usize>(&mut self, m: &mut GuestMemory, address: u64, value: impl FnOnce(&mut Core, &[u8]) -> u64) -> Result<(), Fault> {
        let index = tlb::index(address);
        if address.wrapping_add(self.tlb.fast.write(self.view / ENTRIES, index)) <= 4096 - N as u64 {
            let at = self.tlb.fast.addend(index).wrapping_add(address) as usize;
            if let Some(bytes) = m.ram_mut().get_mut(at..at.wrapping_add(N)) {
                let value = value(self, bytes);
                bytes.copy_from_slice(&value.to_le_bytes()[..N]);
                return Ok(());
            }
        }
        Err(Fault)
    }

    /// Loads `N` bytes (1, 2, 4, 8), zero-extended.
    #[inline(always)]
    pub fn load<const N: usize>(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64) -> Result<u64, Fault> {
        let index = tlb::index(address);
        if address.wrapping_add(self.tlb.fast.read(self.view / ENTRIES, index)) <= 4096 - N as u64 {
            let at = self.tlb.fast.addend(index).wrapping_add(address) as usize;
            if let Some(bytes) = m.ram().get(at..at.wrapping_add(N)) {
                return Ok(number::<N>(bytes));
            }
        }
        self.load_slow(m, b, op, address, N as u64)
    }

    /// Stores the low `N` bytes of `value`.
    #[inline(always)]
    pub fn store<const N: usize>(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64, value: u64) -> Result<(), Fault> {
        let index = tlb::index(address);
        if address.wrapping_add(self.tlb.fast.write(self.view / ENTRIES, index)) <= 4096 - N as u64 {
            let at = self.tlb.fast.addend(index).wrapping_add(address) as usize;
            if let Some(bytes) = m.ram_mut().get_mut(at..at.wrapping_add(N)) {
                bytes.copy_from_slice(&value.to_le_bytes()[..N]);
                return Ok(());
            }
        }
        self.store_slow(m, b, op, address, N as u64, value)
    }

    /// Reads, changes and writes `N` bytes; a fault comes before `change` is called.
    #[inline(always)]
    pub fn modify<const N: usize>(
        &mut self,
        m: &mut GuestMemory,
        b: &mut dyn CpuBus,
        op: &Op,
        address: u64,
        change: impl FnOnce(&mut Core, u64) -> u64,
    ) -> Result<(), Fault> {
        let index = tlb::index(address);
        if address.wrapping_add(self.tlb.fast.write(self.view / ENTRIES, index)) <= 4096 - N as u64 {
            let at = self.tlb.fast.addend(index).wrapping_add(address) as usize;
            if let Some(bytes) = m.ram_mut().get_mut(at..at.wrapping_add(N)) {
                let new = change(self, number::<N>(bytes));
                bytes.copy_from_slice(&new.to_le_bytes()[..N]);
                return Ok(());
            }
        }
        self.check_write(m, b, op, address, N as u64)?;
        let old = self.load_slow(m, b, op, address, N as u64)?;
        let new = change(self, old);
        self.store_slow(m, b, op, address, N as u64, new)
    }

    /// Loads 16 bytes; no alignment asked.
    #[inline(always)]
    pub fn load128(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64) -> Result<u128, Fault> {
        self.try_load128::<false>(m, b, op, address)
    }

    /// [`Core::load128`]; with `F` only if the fast tags have it.
    #[inline(always)]
    pub fn try_load128<const F: bool>(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64) -> Result<u128, Fault> {
        let index = tlb::index(address);
        if address.wrapping_add(self.tlb.fast.read(self.view / ENTRIES, index)) <= 4096 - 16 {
            let at = self.tlb.fast.addend(index).wrapping_add(address) as usize;
            if let Some(bytes) = m.ram().get(at..at.wrapping_add(16)) {
                let mut array = [0; 16];
                array.copy_from_slice(bytes);
                return Ok(u128::from_le_bytes(array));
            }
        }
        if F {
            return Err(Fault);
        }
        let mut bytes = [0; 16];
        self.read_bytes(m, b, op, address, &mut bytes)?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// Stores 16 bytes; no alignment asked.
    #[inline(always)]
    pub fn store128(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64, value: u128) -> Result<(), Fault> {
        self.try_store128::<false>(m, b, op, address, value)
    }

    /// [`Core::store128`]; with `F` only if the fast tags have it.
    #[inline(always)]
    pub fn try_store128<const F: bool>(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64, value: u128) -> Result<(), Fault> {
        let index = tlb::index(address);
        if address.wrapping_add(self.tlb.fast.write(self.view / ENTRIES, index)) <= 4096 - 16 {
            let at = self.tlb.fast.addend(index).wrapping_add(address) as usize;
            if let Some(bytes) = m.ram_mut().get_mut(at..at.wrapping_add(16)) {
                bytes.copy_from_slice(&value.to_le_bytes());
                return Ok(());
            }
        }
        if F {
            return Err(Fault);
        }
        self.write_bytes(m, b, op, address, &value.to_le_bytes())
    }

    /// Reads any number of bytes (x87 and XSAVE images). Nothing is seen of a partial read.
    pub fn read_bytes(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64, out: &mut [u8]) -> Result<(), Fault> {
        self.check_place(op, address, out.len() as u64)?;
        let mut done = 0usize;
        while done < out.len() {
            let left = (out.len() - done) as u64;
            let at = address.wrapping_add(done as u64);
            let step = [8u64, 4, 2, 1].into_iter().find(|&size| size <= left && at & 0xfff <= 4096 - size).unwrap_or(1);
            let value = self.load_part(m, b, op, at, step)?;
            out[done..done + step as usize].copy_from_slice(&value.to_le_bytes()[..step as usize]);
            done += step as usize;
        }
        Ok(())
    }

    /// Writes any number of bytes; all pages are checked before the first byte changes.
    pub fn write_bytes(&mut self, m: &mut GuestMemory, b: &mut dyn CpuBus, op: &Op, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.check_write(m, b, op, address, bytes.len() as u64)?;
        let mut done = 0usize;
        while done < bytes.len() {
            let left = (bytes.len() - done) as u64;
            let at = address.wrapping_add(done as u64);
            let step = [8u64, 4, 2, 1].into_iter().find(|&size| size <= left && at & 0xfff <= 4096 - size).unwrap_or(1);
            let mut word = [0; 8];
            word[..step as usize].copy_from_slice(&bytes[done..done + step as usize]);
            self.store_part(m, b, op, at, step, u64::from_le_bytes(word))?;
            done += step as usize;
        }
        Ok(())
    }
}

/// A little-endian number of `N` bytes.
#[inline(always)]
pub(crate) fn number<const N: usize>(bytes: &[u8]) -> u64 {
    let mut array = [0; 8];
    array[..N].copy_from_slice(&bytes[..N]);
    u64::from_le_bytes(array)
}
