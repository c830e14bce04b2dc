//! Exceptions and interrupts: stubs, the interrupt table, what happens to traps in kernel mode.

use alloc::boxed::Box;
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::fmt;

use once_cell::race::OnceBox;

use crate::{apic, cpu, hooks, percpu, thread, user};

/// First vector for devices; below are the processor's exceptions and the vectors of the masked 8259.
const FIRST_DEVICE: u8 = 0x30;
/// Vector of the LAPIC timer.
pub(crate) const TIMER: u8 = 0xf0;
/// Vector the LAPIC uses when an interrupt went away (APM vol. 2, section 16.4.7).
pub(crate) const SPURIOUS: u8 = 0xff;

/// Registers of an interrupted kernel thread, as the stubs store them.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "Display prints it")]
pub struct TrapFrame {
    xmm: [[u64; 2]; 16],
    mxcsr: u64,
    reserved: u64,
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const FRAME: usize = size_of::<TrapFrame>();
const _: () = assert!(FRAME == 448);

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}", self.rax, self.rbx, self.rcx, self.rdx)?;
        writeln!(f, "rsi {:016x}  rdi {:016x}  rbp {:016x}  rsp {:016x}", self.rsi, self.rdi, self.rbp, self.rsp)?;
        writeln!(f, "r8  {:016x}  r9  {:016x}  r10 {:016x}  r11 {:016x}", self.r8, self.r9, self.r10, self.r11)?;
        writeln!(f, "r12 {:016x}  r13 {:016x}  r14 {:016x}  r15 {:016x}", self.r12, self.r13, self.r14, self.r15)?;
        writeln!(f, "rip {:016x}  cs  {:04x}  rflags {:08x}  error {:x}", self.rip, self.cs, self.rflags, self.error)?;
        write!(f, "cr0 {:08x}  cr2 {:016x}  cr3 {:09x}  cr4 {:08x}", cpu::read_cr0(), cpu::read_cr2(), cpu::read_cr3(), cpu::read_cr4())
    }
}

global_asm!(
    r#"
    .text
    /* One stub of 16 bytes for each vector: pushes a zero where the processor pushes no error code, then the vector. */
    .p2align 4
trap_stubs:
    .set vector, 0
    .rept 256
    .p2align 4
    .if (vector == 8) || (vector == 10) || (vector == 11) || (vector == 12) || (vector == 13) || (vector == 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    push vector
    .if (vector == 2) || (vector == 8) || (vector == 18)
    jmp trap_private
    .elseif vector == 1
    jmp trap_debug
    .else
    jmp trap_common
    .endif
    .set vector, vector + 1
    .endr


    /* On IST 1: [rsp] vector, error, rip, cs, rflags, rsp, ss. Interrupts are off until we have left this stack. */
    .type trap_common, @function
trap_common:
    cld
    test byte ptr [rsp + 24], 3
    jz 1f
trap_from_user:
    swapgs
    mov gs:[{SCRATCH}], rdi
    mov rdi, gs:[{USER_STATE}]
    mov [rdi], r15
    mov [rdi + 8], r14
    mov [rdi + 16], r13
    mov [rdi + 24], r12
    mov [rdi + 32], rbp
    mov [rdi + 40], rbx
    mov [rdi + 48], r11
    mov [rdi + 56], r10
    mov [rdi + 64], r9
    mov [rdi + 72], r8
    mov [rdi + 80], rax
    mov [rdi + 88], rcx
    mov [rdi + 96], rdx
    mov [rdi + 104], rsi
    mov rax, gs:[{SCRATCH}]
    mov [rdi + 112], rax
    mov qword ptr [rdi + 120], -1
    pop rax                     /* vector */
    pop rcx                     /* error */
    mov rdx, cr2
    mov [rdi + {STATE_ERROR}], rcx
    mov [rdi + {STATE_ADDRESS}], rdx
    pop rcx
    mov [rdi + 128], rcx        /* rip */
    pop rcx                     /* cs */
    pop rcx
    mov [rdi + 144], rcx        /* rflags */
    pop rcx
    mov [rdi + 152], rcx        /* rsp */
    jmp user_leave

    /* From kernel mode: to the interrupted stack, 128 bytes below its end (the red zone of prebuilt code). */
1:  push rax
    push rcx
    push rdx
    mov rax, [rsp + 24 + 40]
    sub rax, 128
    and rax, -16
    lea rcx, [rax - {FRAME}]
    cmp rcx, gs:[{STACK_LOW}]
    jb trap_overflow
    cmp rax, gs:[{STACK_HIGH}]
    ja trap_overflow
    mov rdx, [rsp + 24]
    mov [rax - 56], rdx
    mov rdx, [rsp + 32]
    mov [rax - 48], rdx
    mov rdx, [rsp + 40]
    mov [rax - 40], rdx
    mov rdx, [rsp + 48]
    mov [rax - 32], rdx
    mov rdx, [rsp + 56]
    mov [rax - 24], rdx
    mov rdx, [rsp + 64]
    mov [rax - 16], rdx
    mov rdx, [rsp + 72]
    mov [rax - 8], rdx
    mov rdx, [rsp + 16]
    mov [rcx + 272 + 80], rdx   /* rax */
    mov rdx, [rsp + 8]
    mov [rcx + 272 + 88], rdx   /* rcx */
    mov rdx, [rsp]
    mov [rcx + 272 + 96], rdx   /* rdx */
    mov rsp, rcx
    mov [rsp + 272], r15
    mov [rsp + 272 + 8], r14
    mov [rsp + 272 + 16], r13
    mov [rsp + 272 + 24], r12
    mov [rsp + 272 + 32], rbp
    mov [rsp + 272 + 40], rbx
    mov [rsp + 272 + 48], r11
    mov [rsp + 272 + 56], r10
    mov [rsp + 272 + 64], r9
    mov [rsp + 272 + 72], r8
    mov [rsp + 272 + 104], rsi
    mov [rsp + 272 + 112], rdi
    call trap_save_xmm
    mov rdi, rsp
    call {kernel}
trap_return:
    call trap_restore_xmm
    mov r15, [rsp + 272]
    mov r14, [rsp + 272 + 8]
    mov r13, [rsp + 272 + 16]
    mov r12, [rsp + 272 + 24]
    mov rbp, [rsp + 272 + 32]
    mov rbx, [rsp + 272 + 40]
    mov r11, [rsp + 272 + 48]
    mov r10, [rsp + 272 + 56]
    mov r9, [rsp + 272 + 64]
    mov r8, [rsp + 272 + 72]
    mov rax, [rsp + 272 + 80]
    mov rcx, [rsp + 272 + 88]
    mov rdx, [rsp + 272 + 96]
    mov rsi, [rsp + 272 + 104]
    mov rdi, [rsp + 272 + 112]
    add rsp, {FRAME} - 40
    iretq

    /* The frame is at [rsp + 8] (a return address lies below it). */
    .p2align 4
trap_save_xmm:
    movups [rsp + 8], xmm0
    movups [rsp + 8 + 16], xmm1
    movups [rsp + 8 + 32], xmm2
    movups [rsp + 8 + 48], xmm3
    movups [rsp + 8 + 64], xmm4
    movups [rsp + 8 + 80], xmm5
    movups [rsp + 8 + 96], xmm6
    movups [rsp + 8 + 112], xmm7
    movups [rsp + 8 + 128], xmm8
    movups [rsp + 8 + 144], xmm9
    movups [rsp + 8 + 160], xmm10
    movups [rsp + 8 + 176], xmm11
    movups [rsp + 8 + 192], xmm12
    movups [rsp + 8 + 208], xmm13
    movups [rsp + 8 + 224], xmm14
    movups [rsp + 8 + 240], xmm15
    stmxcsr [rsp + 8 + 256]
    ldmxcsr [rip + kernel_mxcsr]
    ret
trap_restore_xmm:
    movups xmm0, [rsp + 8]
    movups xmm1, [rsp + 8 + 16]
    movups xmm2, [rsp + 8 + 32]
    movups xmm3, [rsp + 8 + 48]
    movups xmm4, [rsp + 8 + 64]
    movups xmm5, [rsp + 8 + 80]
    movups xmm6, [rsp + 8 + 96]
    movups xmm7, [rsp + 8 + 112]
    movups xmm8, [rsp + 8 + 128]
    movups xmm9, [rsp + 8 + 144]
    movups xmm10, [rsp + 8 + 160]
    movups xmm11, [rsp + 8 + 176]
    movups xmm12, [rsp + 8 + 192]
    movups xmm13, [rsp + 8 + 208]
    movups xmm14, [rsp + 8 + 224]
    movups xmm15, [rsp + 8 + 240]
    ldmxcsr [rsp + 8 + 256]
    ret

    /* Vectors that may come anywhere, also where GS is not yet or no longer the kernel's: they stay on their private stack. */
trap_debug:
    cld
    test byte ptr [rsp + 24], 3
    jnz trap_from_user
trap_private:
    cld
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    sub rsp, 272
    call trap_save_xmm
    mov ecx, 0xc0000101         /* GS base: the kernel's is in the upper half, user mode's never */
    rdmsr
    xor ebx, ebx
    test edx, edx
    js 2f
    swapgs
    inc ebx
2:  mov rdi, rsp
    call {private}
    test ebx, ebx
    jz trap_return
    swapgs
    jmp trap_return

    /* The interrupted RSP is not in the thread's stack. Stay on IST 1; this does not return. */
trap_overflow:
    pop rdx
    pop rcx
    pop rax
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    sub rsp, 272
    call trap_save_xmm
    mov rdi, rsp
    call {overflow}
    ud2

    .section .rodata
    .p2align 2
kernel_mxcsr: .long 0x1f80
    .text
    "#,
    SCRATCH = const percpu::SCRATCH,
    USER_STATE = const percpu::USER_STATE,
    STACK_LOW = const percpu::STACK_LOW,
    STACK_HIGH = const percpu::STACK_HIGH,
    STATE_ERROR = const user::STATE_ERROR,
    STATE_ADDRESS = const user::STATE_ADDRESS,
    FRAME = const FRAME,
    kernel = sym trap_kernel,
    private = sym trap_private_stack,
    overflow = sym trap_stack_overflow,
);

unsafe extern "C" {
    static trap_stubs: u8;
    static __extable_start: [u64; 2];
    static __extable_end: [u64; 2];
}

/// A gate: low 8 bytes, high 8 bytes (APM vol. 2, section 4.8.4).
struct Idt(UnsafeCell<[[u64; 2]; 256]>);
// SAFETY: written once by `init` before it is loaded, then read by processors only.
unsafe impl Sync for Idt {}
static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));

/// Builds and loads the interrupt table.
pub(crate) fn init() {
    for vector in 0..256_u64 {
        let stub = (&raw const trap_stubs) as u64 + vector * 16;
        let ist = match vector {
            1 => 2,
            2 => 3,
            8 => 4,
            18 => 5,
            _ => 1,
        };
        // INT3 may be executed by user mode; the other gates only answer the processor and devices.
        let dpl = if vector == 3 { 3 } else { 0 };
        let low = (stub & 0xffff)
            | u64::from(percpu::KERNEL_CS) << 16
            | ist << 32
            | (0x8e | dpl << 5) << 40
            | (stub >> 16 & 0xffff) << 48;
        let index = usize::try_from(vector).expect("below 256");
        // SAFETY: the table is not loaded yet (or holds the same values).
        unsafe { (*IDT.0.get())[index] = [low, stub >> 32] };
    }
    let mut pointer = [0_u8; 10];
    pointer[..2].copy_from_slice(&4095_u16.to_le_bytes());
    pointer[2..].copy_from_slice(&(IDT.0.get() as u64).to_le_bytes());
    // SAFETY: a complete table whose stubs, selectors and IST stacks exist.
    unsafe { asm!("lidt [{}]", in(reg) pointer.as_ptr(), options(readonly, nostack, preserves_flags)) };
}

// ---- interrupts ------------------------------------------------------------------------------------------------------------------

type Handler = Box<dyn Fn() + Send + Sync>;
static HANDLERS: [OnceBox<Handler>; 256] = [const { OnceBox::new() }; 256];

/// Installs a device handler on a free vector and returns the vector. The handler runs with interrupts off, must not block, and should be
/// short. `None` if all vectors are taken.
pub fn install(handler: Handler) -> Option<u8> {
    let mut handler = Box::new(handler);
    for vector in FIRST_DEVICE..TIMER {
        match HANDLERS[usize::from(vector)].set(handler) {
            Ok(()) => return Some(vector),
            Err(back) => handler = back,
        }
    }
    None
}

/// Handles an interrupt vector. Interrupts are off.
pub(crate) fn interrupt(vector: u8) {
    match vector {
        // Acknowledged first: the handler may program the next one.
        TIMER => {
            apic::end_of_interrupt();
            hooks().timer();
        }
        SPURIOUS => {}
        _ => {
            if let Some(handler) = HANDLERS[usize::from(vector)].get() {
                handler();
            }
            if vector >= FIRST_DEVICE {
                apic::end_of_interrupt();
            }
        }
    }
}

/// Switches if that is due. Interrupts are off and no spin lock is held.
pub(crate) fn preempt_if_due() {
    if percpu::switch_requested() && !percpu::current().is_null() {
        hooks().preempt();
    }
}

// ---- traps in kernel mode --------------------------------------------------------------------------------------------------------

/// Where a faulting kernel instruction goes on, if it has a fix-up entry.
fn fixup(rip: u64) -> Option<u64> {
    let start = &raw const __extable_start;
    let count = (&raw const __extable_end as usize - start as usize) / 16;
    // SAFETY: the linker script puts the table of pairs between the two symbols.
    let table = unsafe { core::slice::from_raw_parts(start, count) };
    table.iter().find(|entry| entry[0] == rip).map(|entry| entry[1])
}

extern "C" fn trap_kernel(frame: &mut TrapFrame) {
    if cpu::smap_on() {
        // An interrupted user copy has AC set; handlers must not. IRET puts it back.
        // SAFETY: CLAC exists where SMAP does.
        unsafe { asm!("clac", options(nomem, nostack)) };
    }
    match u8::try_from(frame.vector).expect("the stubs push 0..=255") {
        14 => page_fault(frame),
        vector @ 32.. => {
            interrupt(vector);
            if frame.rflags & cpu::IF != 0 {
                preempt_if_due();
            }
        }
        13 if fixup(frame.rip).is_some() => frame.rip = fixup(frame.rip).unwrap_or(frame.rip),
        _ => fatal(frame),
    }
}

fn page_fault(frame: &mut TrapFrame) {
    let address = cpu::read_cr2();
    let Some(landing) = fixup(frame.rip) else { fatal(frame) };
    if address >= user::USER_LIMIT {
        fatal(frame);
    }
    // A user copy. Blocking is allowed where interrupts were on.
    let handled = frame.rflags & cpu::IF != 0 && {
        cpu::interrupts_on();
        let fault = kif::Fault { address, write: frame.error & 2 != 0, execute: false };
        let handled = thread::resolve_fault(fault);
        cpu::interrupts_off();
        handled
    };
    if !handled {
        frame.rip = landing;
    }
}

/// NMI, double fault, machine check; debug exceptions in kernel mode.
extern "C" fn trap_private_stack(frame: &mut TrapFrame) {
    // A debug exception in kernel mode comes from user mode's TF by way of SYSCALL at most: go on without it.
    if frame.vector == 1 {
        frame.rflags &= !(1 << 8);
        return;
    }
    fatal(frame)
}

extern "C" fn trap_stack_overflow(frame: &mut TrapFrame) -> ! {
    crate::symbols::note_trap(frame);
    let area = percpu::this();
    panic!(
        "kernel stack overflow: rsp {:#x} is outside {:#x}..{:#x} (vector {} at {})",
        frame.rsp,
        area.stack_low.get(),
        area.stack_high.get(),
        frame.vector,
        crate::symbols::Name(frame.rip),
    );
}

fn fatal(frame: &TrapFrame) -> ! {
    crate::symbols::note_trap(frame);
    let at = crate::symbols::Name(frame.rip);
    if frame.vector == 14 {
        let what = if frame.error & 16 != 0 { "execute" } else if frame.error & 2 != 0 { "write" } else { "read" };
        panic!("page fault in the kernel: {what} at {:#x} by {at}", cpu::read_cr2());
    }
    panic!("{} in the kernel at {at}, error {:#x}", exception_name(frame.vector), frame.error);
}

/// Name of an exception (APM vol. 2, table 8-1).
#[must_use]
pub fn exception_name(vector: u64) -> &'static str {
    const NAMES: [&str; 22] = [
        "divide error",
        "debug exception",
        "NMI",
        "breakpoint",
        "overflow",
        "bound range exceeded",
        "invalid opcode",
        "device not available",
        "double fault",
        "exception 9",
        "invalid TSS",
        "segment not present",
        "stack fault",
        "general protection fault",
        "page fault",
        "exception 15",
        "x87 exception",
        "alignment check",
        "machine check",
        "SIMD exception",
        "exception 20",
        "control protection",
    ];
    usize::try_from(vector).ok().and_then(|vector| NAMES.get(vector)).copied().unwrap_or("unexpected interrupt")
}

/// Puts the interrupt flag back to what [`cpu::interrupts_off`] found; switches first if that is due and interrupts were on.
pub fn restore(saved: u64) {
    if saved & cpu::IF != 0 {
        if percpu::switch_requested() {
            preempt_if_due();
        }
        cpu::interrupts_on();
    }
}
