//! User mode: entering it is a call, and copies to and from it.
//!
//! [`UserState`] is what the stubs load and store. `run` never loads what the processor would refuse: a RIP or RSP that is not canonical, a segment
//! base outside the user half, or RFLAGS bits that are not user mode's end in a report of the exception user mode would have had.
//! SYSRET is used only where its RCX and R11 are what the registers hold and RIP lies in the user half (on Intel, SYSRET with a non-canonical RIP
//! faults in ring 0 with the user's RSP; APM vol. 3, SYSRET; Intel SDM vol. 2, SYSRET).

use alloc::boxed::Box;
use core::arch::{asm, global_asm};
use core::cell::Cell;
use core::mem::offset_of;
use core::sync::atomic::Ordering::Relaxed;

use kif::{CopyFault, Frame, PAGE_SHIFT, PAGE_SIZE, UserContext, UserExit, UserMem, UserRegs};

use crate::fpu::{self, Area};
use crate::percpu::{self, PerCpu};
use crate::thread::{self, Context};
use crate::{cpu, trap};

/// End of the user half. The last page stays out, so that RIP after a SYSCALL is always canonical.
pub const USER_LIMIT: u64 = 0x0000_7fff_ffff_f000;

/// RFLAGS bits that user mode may set: CF PF AF ZF SF TF DF OF AC ID.
const USER_FLAGS: u64 = 0x24_0dd5;
/// TF: SYSRET would trap one instruction late.
const TRAP_FLAG: u64 = 0x100;
/// `user_leave`'s answer for SYSCALL; below 256 it is a vector.
const SYSCALL_EXIT: u64 = 256;

/// The user-mode state as the stubs know it.
#[repr(C, align(64))]
pub(crate) struct UserState {
    regs: UserRegs,
    error: u64,
    address: u64,
    /// The thread whose registers hold this state's x87, AVX and segment bases; null: none does.
    /// A cell, since a switch of its thread clears it.
    live_on: Cell<*const Context>,
    fpu: Area,
}

pub(crate) const STATE_ERROR: usize = offset_of!(UserState, error);
pub(crate) const STATE_ADDRESS: usize = offset_of!(UserState, address);
const XMM: usize = offset_of!(UserState, fpu) + fpu::XMM;
const MXCSR: usize = offset_of!(UserState, fpu) + fpu::MXCSR;
// The stubs use these offsets as numbers.
const _: () = assert!(offset_of!(UserRegs, rdi) == 112 && offset_of!(UserRegs, rip) == 128 && offset_of!(UserRegs, rsp) == 152);

global_asm!(
    r#"
    .text
    /* user_enter(rdi: state, esi: by SYSRET) -> rax: vector or 256. Interrupts are off. Keeps only RBX, RBP and RSP: the caller declares the rest. */
    .p2align 4
    .globl user_enter, user_leave, syscall_entry
    .type user_enter, @function
user_enter:
    push rbp
    push rbx
    mov gs:[{KERNEL_RSP}], rsp
    mov gs:[{USER_STATE}], rdi
    movaps xmm0, [rdi + {XMM}]
    movaps xmm1, [rdi + {XMM} + 16]
    movaps xmm2, [rdi + {XMM} + 32]
    movaps xmm3, [rdi + {XMM} + 48]
    movaps xmm4, [rdi + {XMM} + 64]
    movaps xmm5, [rdi + {XMM} + 80]
    movaps xmm6, [rdi + {XMM} + 96]
    movaps xmm7, [rdi + {XMM} + 112]
    movaps xmm8, [rdi + {XMM} + 128]
    movaps xmm9, [rdi + {XMM} + 144]
    movaps xmm10, [rdi + {XMM} + 160]
    movaps xmm11, [rdi + {XMM} + 176]
    movaps xmm12, [rdi + {XMM} + 192]
    movaps xmm13, [rdi + {XMM} + 208]
    movaps xmm14, [rdi + {XMM} + 224]
    movaps xmm15, [rdi + {XMM} + 240]
    ldmxcsr [rdi + {MXCSR}]
    mov r15, [rdi]
    mov r14, [rdi + 8]
    mov r13, [rdi + 16]
    mov r12, [rdi + 24]
    mov rbp, [rdi + 32]
    mov rbx, [rdi + 40]
    mov r10, [rdi + 56]
    mov r9, [rdi + 64]
    mov r8, [rdi + 72]
    mov rax, [rdi + 80]
    mov rdx, [rdi + 96]
    test esi, esi
    mov rsi, [rdi + 104]
    jz 1f
    mov rcx, [rdi + 128]
    mov r11, [rdi + 144]
    mov rsp, [rdi + 152]
    mov rdi, [rdi + 112]
    swapgs
    sysretq
1:  push {USER_SS}
    push [rdi + 152]
    push [rdi + 144]
    push {USER_CS}
    push [rdi + 128]
    mov r11, [rdi + 48]
    mov rcx, [rdi + 88]
    mov rdi, [rdi + 112]
    swapgs
    iretq

    .p2align 4
    .type syscall_entry, @function
syscall_entry:
    swapgs
    mov gs:[{SCRATCH}], rsp
    mov rsp, gs:[{USER_STATE}]  /* as a pointer; nothing is pushed */
    mov [rsp], r15
    mov [rsp + 8], r14
    mov [rsp + 16], r13
    mov [rsp + 24], r12
    mov [rsp + 32], rbp
    mov [rsp + 40], rbx
    mov [rsp + 48], r11
    mov [rsp + 56], r10
    mov [rsp + 64], r9
    mov [rsp + 72], r8
    mov [rsp + 80], rax
    mov [rsp + 88], rcx
    mov [rsp + 96], rdx
    mov [rsp + 104], rsi
    mov [rsp + 112], rdi
    mov [rsp + 120], rax
    mov [rsp + 128], rcx
    mov [rsp + 144], r11
    mov rax, gs:[{SCRATCH}]
    mov [rsp + 152], rax
    mov rdi, rsp
    mov eax, {SYSCALL_EXIT}

    /* rdi: state, general registers stored; rax: what user_enter returns. */
    .type user_leave, @function
user_leave:
    movaps [rdi + {XMM}], xmm0
    movaps [rdi + {XMM} + 16], xmm1
    movaps [rdi + {XMM} + 32], xmm2
    movaps [rdi + {XMM} + 48], xmm3
    movaps [rdi + {XMM} + 64], xmm4
    movaps [rdi + {XMM} + 80], xmm5
    movaps [rdi + {XMM} + 96], xmm6
    movaps [rdi + {XMM} + 112], xmm7
    movaps [rdi + {XMM} + 128], xmm8
    movaps [rdi + {XMM} + 144], xmm9
    movaps [rdi + {XMM} + 160], xmm10
    movaps [rdi + {XMM} + 176], xmm11
    movaps [rdi + {XMM} + 192], xmm12
    movaps [rdi + {XMM} + 208], xmm13
    movaps [rdi + {XMM} + 224], xmm14
    movaps [rdi + {XMM} + 240], xmm15
    stmxcsr [rdi + {MXCSR}]
    ldmxcsr [rip + user_kernel_mxcsr]
    mov rsp, gs:[{KERNEL_RSP}]
    pop rbx
    pop rbp
    ret

    /* copy_user(rdi: target, rsi: source, rdx: length) -> bytes not copied */
    .p2align 4
    .globl copy_user, exchange_user
    .type copy_user, @function
copy_user:
    mov rcx, rdx
    shr rcx, 3
    and edx, 7
2:  rep movsq
    mov ecx, edx
3:  rep movsb
    xor eax, eax
    ret
4:  lea rax, [rcx * 8 + rdx]
    ret
5:  mov rax, rcx
    ret
    /* exchange_user(rdi: address, esi: old, edx: new) -> rax: value found; bit 32: fault */
    .p2align 4
    .type exchange_user, @function
exchange_user:
    mov eax, esi
6:  lock cmpxchg [rdi], edx
    mov eax, eax
    ret
7:  movabs rax, 0x100000000
    ret

    .section .extable, "a"
    .quad 2b, 4b
    .quad 3b, 5b
    .quad 6b, 7b
    .section .rodata
    .p2align 2
user_kernel_mxcsr: .long 0x1f80
    .text
    "#,
    KERNEL_RSP = const percpu::KERNEL_RSP,
    USER_STATE = const percpu::USER_STATE,
    SCRATCH = const percpu::SCRATCH,
    XMM = const XMM,
    MXCSR = const MXCSR,
    USER_SS = const percpu::USER_SS,
    USER_CS = const percpu::USER_CS,
    SYSCALL_EXIT = const SYSCALL_EXIT,
);

unsafe extern "C" {
    fn user_enter();
    fn syscall_entry();
    fn copy_user(target: *mut u8, source: *const u8, len: usize) -> usize;
    fn exchange_user(address: *mut u32, old: u32, new: u32) -> u64;
}

/// Sets up SYSCALL.
pub(crate) fn init() {
    // SYSRET loads SS = base + 8 and CS = base + 16.
    let star = u64::from(percpu::KERNEL_CS) << 32 | 0x23 << 48;
    // SAFETY: selectors of our GDT.
    unsafe { cpu::write_msr(cpu::STAR, star) };
    // SAFETY: the entry stub.
    unsafe { cpu::write_msr(cpu::LSTAR, syscall_entry as *const () as u64) };
    // SAFETY: clears TF IF DF IOPL NT RF AC on entry.
    unsafe { cpu::write_msr(cpu::SFMASK, 0x5_7700) };
    // SAFETY: EFER.SCE is on already; reading EFER is harmless.
    let efer = unsafe { cpu::read_msr(cpu::EFER) };
    // SAFETY: SCE on.
    unsafe { cpu::write_msr(cpu::EFER, efer | 1) };
}

/// The machine's half of an LWP; see [`kif::UserContext`].
struct HalContext {
    state: Box<UserState>,
}

// SAFETY: `live_on` is only compared, and cleared by its own thread: `run`, `save_fpu` and `Drop` assert that a live state is used by the thread
// that it is live on.
unsafe impl Send for HalContext {}

/// A fresh user context, or a copy of one whose thread is running.
#[must_use]
pub fn new_context(from: Option<&mut dyn UserContext>) -> Box<dyn UserContext> {
    let mut state = Box::new(UserState {
        regs: UserRegs { orig_rax: u64::MAX, rflags: 0x202, cs: percpu::USER_CS.into(), ss: percpu::USER_SS.into(), ..UserRegs::default() },
        error: 0,
        address: 0,
        live_on: Cell::new(core::ptr::null()),
        fpu: Area::initial(),
    });
    if let Some(from) = from {
        state.regs = *from.regs();
        // Through the interface of the trait: there is only one implementation, but a context is a context.
        let mut bytes = [0; fpu::AREA + 64];
        let len = from.save_fpu(&mut bytes);
        state.fpu.import(&bytes[..len]);
    }
    Box::new(HalContext { state })
}

impl HalContext {
    /// Puts x87, AVX and the segment bases of this state into the registers. Interrupts are off.
    fn make_live(&mut self, me: &Context, area: &PerCpu) {
        assert!(self.state.live_on.get().is_null(), "a user context is used by two threads");
        if let Some(other) = core::ptr::NonNull::new(me.live.get()) {
            // SAFETY: `live` names a state that has not been dropped (its drop clears it) and belongs to this thread.
            unsafe { retire(other.as_ptr()) };
        }
        self.state.fpu.load();
        self.state.live_on.set(core::ptr::from_ref(me));
        me.live.set(&raw mut *self.state);
        // The selectors may be what the last program left there: loading a null selector first, then the bases.
        // SAFETY: null selectors in FS, DS and ES are harmless in 64-bit mode; nothing in the kernel uses FS.
        unsafe { asm!("mov fs, {z:x}", "mov ds, {z:x}", "mov es, {z:x}", z = in(reg) 0_u64, options(nostack, preserves_flags)) };
        area.loaded_fs.set(u64::MAX);
        area.loaded_gs.set(u64::MAX);
    }

    fn load_bases(&self, area: &PerCpu) {
        let (fs, gs) = (self.state.regs.fs_base, self.state.regs.gs_base);
        if area.loaded_fs.get() != fs {
            // SAFETY: below USER_LIMIT (`prepare`), hence canonical; the kernel does not use FS.
            unsafe { cpu::write_msr(cpu::FS_BASE, fs) };
            area.loaded_fs.set(fs);
        }
        if area.loaded_gs.get() != gs {
            // SAFETY: the same; user mode's GS base waits in this MSR for SWAPGS.
            unsafe { cpu::write_msr(cpu::KERNEL_GS_BASE, gs) };
            area.loaded_gs.set(gs);
        }
    }

    /// True if the registers can be entered as they are: nothing waits, this state is live, RIP and segment bases are good.
    fn is_ready(&self, area: &PerCpu) -> bool {
        let regs = &self.state.regs;
        core::ptr::eq(percpu::ready(), &raw const *self.state)
            && regs.rip >> 47 == 0
            && regs.fs_base == area.loaded_fs.get()
            && regs.gs_base == area.loaded_gs.get()
    }

    /// Does what [`HalContext::is_ready`] found missing, or says how user mode ends without having been entered. Interrupts are off.
    #[cold]
    fn prepare(&mut self) -> Option<UserExit> {
        if percpu::switch_requested() {
            trap::preempt_if_due();
        }
        let area = percpu::this();
        // SAFETY: user mode is entered by threads only, and the running thread's context exists.
        let me = unsafe { &*area.current.get() };
        if me.interrupted.load(Relaxed) {
            return Some(UserExit::Interrupt);
        }
        let regs = &self.state.regs;
        if regs.rip >= USER_LIMIT {
            // Fetching there is a page fault if the address exists at all.
            return Some(if is_canonical(regs.rip) {
                UserExit::PageFault { address: regs.rip, error: 0x14 }
            } else {
                UserExit::Exception { vector: 13, error: 0 }
            });
        }
        if regs.fs_base >= USER_LIMIT || regs.gs_base >= USER_LIMIT {
            return Some(UserExit::Exception { vector: 13, error: 0 });
        }
        if !core::ptr::eq(me.live.get(), &raw const *self.state) {
            self.make_live(me, area);
        }
        self.load_bases(area);
        if !area.switch_due.get() {
            area.ready.set(&raw const *self.state);
        }
        None
    }

    /// What ended user mode, other than SYSCALL. Interrupts are off.
    fn ended(&self, exit: u64) -> UserExit {
        let state = &self.state;
        match u8::try_from(exit).expect("the stubs give 0..=256") {
            14 => UserExit::PageFault { address: state.address, error: state.error },
            vector @ 0..32 => UserExit::Exception { vector, error: state.error },
            vector => {
                trap::interrupt(vector);
                trap::preempt_if_due();
                UserExit::Interrupt
            }
        }
    }
}

/// True for an address that the processor takes at all.
const fn is_canonical(address: u64) -> bool {
    address.wrapping_add(1 << 47) >> 48 == 0
}

/// Stores what is live of a state. Interrupts are off.
///
/// # Safety
/// The state exists and is live on the current thread of this CPU.
pub(crate) unsafe fn retire(state: *mut UserState) {
    // SAFETY: the caller's promise; its owner is the current thread, which is here and not using it.
    let state = unsafe { &mut *state };
    state.fpu.save();
    state.live_on.set(core::ptr::null());
}

impl UserContext for HalContext {
    fn regs(&mut self) -> &mut UserRegs {
        &mut self.state.regs
    }

    fn run(&mut self) -> UserExit {
        cpu::disable_interrupts();
        let area = loop {
            let area = percpu::this();
            if self.is_ready(area) {
                break area;
            }
            // Whatever it did may have let another thread run: look again.
            if let Some(exit) = self.prepare() {
                cpu::interrupts_on();
                return exit;
            }
        };
        // SAFETY: user mode is entered by threads only, and the running thread's context exists.
        let me = unsafe { &*area.current.get() };
        let regs = &mut self.state.regs;
        let flags = regs.rflags & USER_FLAGS | cpu::IF | 2;
        regs.rflags = flags;
        // With TF set, R11 as SYSCALL left it has it too and differs.
        let by_sysret = regs.rcx == regs.rip && regs.r11 == flags & !TRAP_FLAG;
        if !by_sysret && !is_canonical(regs.rsp) {
            cpu::interrupts_on();
            return UserExit::Exception { vector: 12, error: 0 };
        }
        let mut exit: u64;
        me.user_cycles.set(me.user_cycles.get().wrapping_sub(cpu::timestamp()));
        // SAFETY: 1. interrupts are off; 2. the registers were checked above; 3. this thread's address space is loaded (`thread::switch_to`,
        // `Mmu::activate`); 4. the state is not touched until user mode ends; 5. the stubs keep RBX, RBP and RSP, all else is declared lost.
        unsafe {
            asm!(
                "call {enter}",
                enter = sym user_enter,
                inout("rdi") &raw mut *self.state => _,
                inout("rsi") u64::from(by_sysret) => _,
                out("rax") exit,
                out("rcx") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            );
        }
        me.user_cycles.set(me.user_cycles.get().wrapping_add(cpu::timestamp()));
        let exit = if exit == SYSCALL_EXIT { UserExit::Syscall } else { self.ended(exit) };
        cpu::interrupts_on();
        exit
    }

    fn save_fpu(&mut self, out: &mut [u8]) -> usize {
        // Interrupts off first: a switch in between would retire the state.
        let flags = cpu::interrupts_off();
        if !self.state.live_on.get().is_null() {
            assert!(core::ptr::eq(self.state.live_on.get(), percpu::current()), "a live user context is read by another thread");
            self.state.fpu.save();
        }
        if flags & cpu::IF != 0 {
            cpu::interrupts_on();
        }
        let size = Area::size();
        let len = self.fpu_bytes().min(out.len());
        let mut image = [0; fpu::AREA + 4];
        image[..size].copy_from_slice(&self.state.fpu.0[..size]);
        if size > 512 {
            // Bytes the processor leaves to software: what `rt_sigreturn` and debuggers look for
            // (linux/arch/x86/include/uapi/asm/sigcontext.h, struct _fpx_sw_bytes).
            image[464..468].copy_from_slice(&0x4650_5853_u32.to_le_bytes());
            image[468..472].copy_from_slice(&u32::try_from(size + 4).expect("small").to_le_bytes());
            image[472..480].copy_from_slice(&Area::components().to_le_bytes());
            image[480..484].copy_from_slice(&u32::try_from(size).expect("small").to_le_bytes());
            image[size..size + 4].copy_from_slice(&0x4650_5845_u32.to_le_bytes());
        }
        out[..len].copy_from_slice(&image[..len]);
        len
    }

    fn load_fpu(&mut self, data: Option<&[u8]>) {
        let flags = cpu::interrupts_off();
        if !self.state.live_on.get().is_null() {
            assert!(core::ptr::eq(self.state.live_on.get(), percpu::current()), "a live user context is changed by another thread");
            // SAFETY: asserted to be the current thread, whose context exists.
            unsafe { (*percpu::current()).live.set(core::ptr::null_mut()) };
            percpu::look_first();
            self.state.live_on.set(core::ptr::null());
        }
        match data {
            Some(data) => self.state.fpu.import(data),
            None => self.state.fpu = Area::initial(),
        }
        if flags & cpu::IF != 0 {
            cpu::interrupts_on();
        }
    }

    fn fpu_bytes(&self) -> usize {
        match Area::size() {
            512 => 512,
            size => size + 4,
        }
    }
}

impl Drop for HalContext {
    fn drop(&mut self) {
        let flags = cpu::interrupts_off();
        if !self.state.live_on.get().is_null() {
            assert!(core::ptr::eq(self.state.live_on.get(), percpu::current()), "a live user context is dropped by another thread");
            // SAFETY: as in `load_fpu`.
            unsafe { (*percpu::current()).live.set(core::ptr::null_mut()) };
            percpu::look_first();
        }
        if flags & cpu::IF != 0 {
            cpu::interrupts_on();
        }
    }
}

/// User copies; see [`UserMem`].
#[derive(Clone, Copy, Debug)]
pub struct UserCopy;

/// Checks that a range lies in the user half.
fn check(address: u64, len: usize) -> Result<(), CopyFault> {
    let end = u64::try_from(len).ok().and_then(|len| address.checked_add(len)).ok_or(CopyFault)?;
    if end <= USER_LIMIT { Ok(()) } else { Err(CopyFault) }
}

/// Runs `body` with user pages accessible.
fn with_access<R>(body: impl FnOnce() -> R) -> R {
    let smap = cpu::smap_on();
    if smap {
        // SAFETY: STAC exists where SMAP does.
        unsafe { asm!("stac", options(nomem, nostack)) };
    }
    let out = body();
    if smap {
        // SAFETY: the same for CLAC.
        unsafe { asm!("clac", options(nomem, nostack)) };
    }
    out
}

impl UserMem for UserCopy {
    fn read(&self, address: u64, out: &mut [u8]) -> Result<(), CopyFault> {
        check(address, out.len())?;
        thread::assert_may_fault();
        // SAFETY: 1. the source is in the user half, so a fault there is fixed up; 2. the target is a Rust slice of that length.
        let left = with_access(|| unsafe { copy_user(out.as_mut_ptr(), address as *const u8, out.len()) });
        if left == 0 { Ok(()) } else { Err(CopyFault) }
    }
    fn write(&self, address: u64, data: &[u8]) -> Result<(), CopyFault> {
        check(address, data.len())?;
        thread::assert_may_fault();
        // SAFETY: as in `read`, in the other direction. User memory is no Rust object.
        let left = with_access(|| unsafe { copy_user(address as *mut u8, data.as_ptr(), data.len()) });
        if left == 0 { Ok(()) } else { Err(CopyFault) }
    }
    fn write_frame(&self, address: u64, frame: &Frame, offset: usize, len: usize) -> Result<(), CopyFault> {
        assert!(offset <= PAGE_SIZE && len <= PAGE_SIZE - offset, "{offset} + {len} is outside a page");
        check(address, len)?;
        thread::assert_may_fault();
        let source = (crate::paging::DIRECT_MAP + (frame.pfn().0 << PAGE_SHIFT) + offset as u64) as *const u8;
        // SAFETY: 1. the target is in the user half, so a fault there is fixed up; 2. the source is a part of a page in the direct map that `frame` keeps
        // allocated; 3. user mode may write it at the same time, which only makes the bytes unspecified: they are copied by the processor, not interpreted.
        let left = with_access(|| unsafe { copy_user(address as *mut u8, source, len) });
        if left == 0 { Ok(()) } else { Err(CopyFault) }
    }
    fn compare_exchange_u32(&self, address: u64, old: u32, new: u32) -> Result<u32, CopyFault> {
        check(address, 4)?;
        if !address.is_multiple_of(4) {
            return Err(CopyFault);
        }
        thread::assert_may_fault();
        // SAFETY: in the user half and aligned; a fault is fixed up.
        let found = with_access(|| unsafe { exchange_user(address as *mut u32, old, new) });
        u32::try_from(found).map_err(|_| CopyFault)
    }
}
