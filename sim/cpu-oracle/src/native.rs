//! The host's own processor as a runner: user mode, at the same addresses.
//!
//! # Theory
//! [`enter`] loads every register of the case and jumps to it. It comes back through the signal of the exception that ended it (INT3 at the
//! latest): the handler, on a stack of its own, keeps the register frame the kernel made and edits it so that the return goes to
//! `oracle_leave`, which puts the host's stack and control words back.
//!
//! # Locking
//! One runner per process, one thread: the frame and the host's stack pointer are statics.

use std::arch::global_asm;
use std::cell::UnsafeCell;

use sim_fp::x87::X87;

use crate::case::{Case, End, Outcome};
use crate::layout::{CODE, CODE_BYTES, DATA, DATA_BYTES, MEMORY_BYTES, PAGE, STACK, STACK_BYTES};
use crate::ours::{SYSTEM, SYSTEM_BYTES};
use crate::setting::Rights;

/// What `oracle_enter` loads. Offsets are used by the assembly below.
#[repr(C, align(64))]
struct Entry {
    fxsave: [u8; 512],
    gpr: [u64; 16],
    rflags: u64,
    target: u64,
    host_rsp: u64,
    /// Not zero: the host has AVX.
    has_upper: u64,
    upper: [u128; 16],
}

/// What the handler keeps.
#[repr(C, align(64))]
struct Kept {
    fxsave: [u8; 512],
    upper: [u8; 256],
    gregs: [i64; 23],
}

struct Shared<T>(UnsafeCell<T>);

// SAFETY: one thread runs cases (see `# Locking`), and the signal handler runs on that thread while it is inside `oracle_enter`.
unsafe impl<T> Sync for Shared<T> {}

#[unsafe(no_mangle)]
static ORACLE_ENTRY: Shared<Entry> =
    Shared(UnsafeCell::new(Entry { fxsave: [0; 512], gpr: [0; 16], rflags: 0, target: 0, host_rsp: 0, has_upper: 0, upper: [0; 16] }));
static KEPT: Shared<Kept> = Shared(UnsafeCell::new(Kept { fxsave: [0; 512], upper: [0; 256], gregs: [0; 23] }));

global_asm!(
    ".globl oracle_enter",
    "oracle_enter:",
    "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
    "lea rax, [rip + ORACLE_ENTRY]",
    "mov [rax + 656], rsp",
    "fxrstor64 [rax]",
    "cmp qword ptr [rax + 664], 0",
    "je 2f",
    "vinsertf128 ymm0, ymm0, xmmword ptr [rax + 672], 1",
    "vinsertf128 ymm1, ymm1, xmmword ptr [rax + 688], 1",
    "vinsertf128 ymm2, ymm2, xmmword ptr [rax + 704], 1",
    "vinsertf128 ymm3, ymm3, xmmword ptr [rax + 720], 1",
    "vinsertf128 ymm4, ymm4, xmmword ptr [rax + 736], 1",
    "vinsertf128 ymm5, ymm5, xmmword ptr [rax + 752], 1",
    "vinsertf128 ymm6, ymm6, xmmword ptr [rax + 768], 1",
    "vinsertf128 ymm7, ymm7, xmmword ptr [rax + 784], 1",
    "vinsertf128 ymm8, ymm8, xmmword ptr [rax + 800], 1",
    "vinsertf128 ymm9, ymm9, xmmword ptr [rax + 816], 1",
    "vinsertf128 ymm10, ymm10, xmmword ptr [rax + 832], 1",
    "vinsertf128 ymm11, ymm11, xmmword ptr [rax + 848], 1",
    "vinsertf128 ymm12, ymm12, xmmword ptr [rax + 864], 1",
    "vinsertf128 ymm13, ymm13, xmmword ptr [rax + 880], 1",
    "vinsertf128 ymm14, ymm14, xmmword ptr [rax + 896], 1",
    "vinsertf128 ymm15, ymm15, xmmword ptr [rax + 912], 1",
    "2:",
    "push qword ptr [rax + 640]",
    "popfq",
    "mov rcx, [rax + 512 + 8]",
    "mov rdx, [rax + 512 + 16]",
    "mov rbx, [rax + 512 + 24]",
    "mov rsp, [rax + 512 + 32]",
    "mov rbp, [rax + 512 + 40]",
    "mov rsi, [rax + 512 + 48]",
    "mov rdi, [rax + 512 + 56]",
    "mov r8, [rax + 512 + 64]",
    "mov r9, [rax + 512 + 72]",
    "mov r10, [rax + 512 + 80]",
    "mov r11, [rax + 512 + 88]",
    "mov r12, [rax + 512 + 96]",
    "mov r13, [rax + 512 + 104]",
    "mov r14, [rax + 512 + 112]",
    "mov r15, [rax + 512 + 120]",
    "mov rax, [rax + 512]",
    "jmp qword ptr [rip + ORACLE_ENTRY + 648]",
    // AC must not reach the host's code; the kernel has cleared TF and DF.
    ".globl oracle_signal",
    "oracle_signal:",
    "pushfq",
    "and qword ptr [rsp], -0x40001",
    "popfq",
    "jmp {handler}",
    ".globl oracle_leave",
    "oracle_leave:",
    "mov rsp, [rip + ORACLE_ENTRY + 656]",
    "fninit",
    "push 0x1f80",
    "ldmxcsr [rsp]",
    "pop rax",
    "cld",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
    "ret",
    handler = sym handler,
);

unsafe extern "C" {
    fn oracle_enter();
    fn oracle_leave();
    fn oracle_signal();
}

const REG_RSP: usize = libc::REG_RSP as usize;
const REG_RIP: usize = libc::REG_RIP as usize;
const REG_EFL: usize = libc::REG_EFL as usize;

extern "C" fn handler(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes a valid ucontext_t to an SA_SIGINFO handler; nothing else refers to it while the handler runs.
    let context = unsafe { &mut (*context).uc_mcontext };
    // SAFETY: this thread is inside `oracle_enter`, so no reference to the kept state is live.
    let kept = unsafe { &mut *KEPT.0.get() };
    kept.gregs = context.gregs;
    // SAFETY: 1. the frame of a 64-bit process carries the FXSAVE image first in fpregs; 2. source and target do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(context.fpregs.cast::<u8>(), kept.fxsave.as_mut_ptr(), 512) };
    // The XSAVE header's first word says whether the upper halves follow it (at 576) or are zero (SDM vol. 1 §13.4).
    // SAFETY: where the host has AVX its kernel saves the whole standard area, of at least 832 bytes.
    unsafe {
        let area = context.fpregs.cast::<u8>();
        kept.upper.fill(0);
        if (*ORACLE_ENTRY.0.get()).has_upper != 0 && area.add(512).cast::<u64>().read_unaligned() & 4 != 0 {
            std::ptr::copy_nonoverlapping(area.add(576), kept.upper.as_mut_ptr(), 256);
        }
    }
    context.gregs[REG_RIP] = oracle_leave as *const () as i64;
    // TF, DF and AC must not reach the host's code.
    context.gregs[REG_EFL] &= !0x4_4500;
    // SAFETY: as above; a shared read of one word.
    context.gregs[REG_RSP] = unsafe { (*ORACLE_ENTRY.0.get()).host_rsp } as i64;
}

/// The runner. Only one can exist: it owns fixed addresses and the signal handlers.
#[derive(Debug)]
pub struct Native {
    /// What the pages of arena and stack allow at present.
    rights: [Rights; 4],
}

fn map(at: u64, bytes: u64, protection: libc::c_int) -> Result<(), String> {
    // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping of this process.
    let got = unsafe {
        libc::mmap(
            at as *mut libc::c_void,
            bytes as usize,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    if got as u64 == at { Ok(()) } else { Err(format!("the host has something at {at:#x} already")) }
}

fn protect(at: u64, bytes: u64, protection: libc::c_int) {
    // SAFETY: the range is one of the mappings `new` made; no Rust reference points into it.
    let result = unsafe { libc::mprotect(at as *mut libc::c_void, bytes as usize, protection) };
    assert_eq!(result, 0, "mprotect of our own mapping");
}

fn copy_in(at: u64, bytes: &[u8]) {
    // SAFETY: 1. the target is a writable mapping of ours of at least that length; 2. no Rust reference points into it.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
}

fn copy_out(at: u64, bytes: &mut [u8]) {
    // SAFETY: 1. the source is a readable mapping of ours of at least that length; 2. no Rust reference points into it.
    unsafe { std::ptr::copy_nonoverlapping(at as *const u8, bytes.as_mut_ptr(), bytes.len()) };
}

impl Native {
    /// Maps the arena and takes the signals. Meant for a process of its own.
    ///
    /// # Errors
    /// The addresses are taken (a second runner, or a strange host).
    pub fn new() -> Result<Native, String> {
        let read_write = libc::PROT_READ | libc::PROT_WRITE;
        // One writable view of each; code and the read-only page are opened and closed around each case.
        map(CODE, CODE_BYTES, read_write)?;
        map(DATA, DATA_BYTES, read_write)?;
        map(STACK, STACK_BYTES, read_write)?;
        let stack = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
        let alternate = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
        // SAFETY: the stack is leaked, so it stays valid.
        let result = unsafe { libc::sigaltstack(&raw const alternate, std::ptr::null_mut()) };
        assert_eq!(result, 0, "sigaltstack with a valid stack");
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
            // SAFETY: an all-zero sigaction is a valid one.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = oracle_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: the handler is async-signal-safe: it copies and edits the frame.
            let result = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
            assert_eq!(result, 0, "sigaction with a valid action");
        }
        Ok(Native { rights: [Rights::DATA; 4] })
    }

    /// Gives the pages of arena and stack their rights.
    fn allow(&mut self, rights: &[Rights; 4]) {
        for (index, (now, wanted)) in self.rights.iter_mut().zip(rights).enumerate() {
            if now == wanted {
                continue;
            }
            let bit = |right: bool, protection: libc::c_int| if right { protection } else { 0 };
            let protection = bit(wanted.has(Rights::PRESENT), libc::PROT_READ)
                | bit(wanted.has(Rights::PRESENT | Rights::WRITE), libc::PROT_WRITE)
                | bit(wanted.has(Rights::PRESENT) && !wanted.has(Rights::NO_EXECUTE), libc::PROT_EXEC);
            protect(if index < 3 { DATA + PAGE * index as u64 } else { STACK }, PAGE, protection);
            *now = *wanted;
        }
    }

    /// Runs a case to its first exception. The caller has made sure that it stays in the arena (see the crate's `# Failure`).
    pub fn run(&mut self, case: &Case, bytes: &[u8], memory: &[u8; MEMORY_BYTES]) -> Outcome {
        let (arena, stack) = memory.split_at(DATA_BYTES as usize);
        protect(CODE, CODE_BYTES, libc::PROT_READ | libc::PROT_WRITE);
        self.allow(&[Rights::DATA; 4]);
        copy_in(CODE, &[0xcc; CODE_BYTES as usize]);
        copy_in(case.origin, bytes);
        copy_in(DATA, arena);
        copy_in(STACK, stack);
        protect(CODE, CODE_BYTES, libc::PROT_READ | libc::PROT_EXEC);
        self.allow(&case.setting.pages);
        {
            // SAFETY: no case is running, so nothing else refers to the entry state.
            let entry = unsafe { &mut *ORACLE_ENTRY.0.get() };
            let mut x87 = case.start.x87;
            x87.update_summary();
            entry.fxsave = fxsave(&x87, case.start.mxcsr, &case.start.xmm);
            entry.gpr = case.start.gpr;
            entry.rflags = case.start.rflags;
            entry.target = case.origin;
            entry.has_upper = u64::from(crate::vex::host_has());
            entry.upper = case.start.upper;
        }
        // SAFETY: 1. the callee-saved registers and the stack come back through `oracle_leave`; 2. the code at `target` ends in INT3
        // at the latest, and every exception leads to the handler; 3. FXRSTOR's image has no reserved MXCSR bit set.
        unsafe { oracle_enter() };
        // SAFETY: the case has ended, the handler will not run.
        let kept = unsafe { &*KEPT.0.get() };
        let reg = |n: libc::c_int| kept.gregs[n as usize] as u64;
        let order = [
            libc::REG_RAX, libc::REG_RCX, libc::REG_RDX, libc::REG_RBX, libc::REG_RSP, libc::REG_RBP, libc::REG_RSI, libc::REG_RDI, libc::REG_R8,
            libc::REG_R9, libc::REG_R10, libc::REG_R11, libc::REG_R12, libc::REG_R13, libc::REG_R14, libc::REG_R15,
        ];
        let vector = reg(libc::REG_TRAPNO) as u8;
        let address = if vector == 14 { reg(libc::REG_CR2) } else { 0 };
        // In the upper half the host kernel has pages of its own: whether one is present is not our business.
        let code = reg(libc::REG_ERR) as u32 & if address >> 63 == 1 { !1 } else { !0 };
        // Nor has it the pages of the supervisor that ours has.
        let code = code | u32::from((SYSTEM..SYSTEM + SYSTEM_BYTES).contains(&address));
        let mut out = Outcome {
            end: End::Fault { vector, code, address },
            gpr: order.map(reg),
            rip: reg(libc::REG_RIP),
            rflags: reg(libc::REG_EFL),
            xmm: std::array::from_fn(|i| u128_at(&kept.fxsave, 160 + 16 * i)),
            upper: std::array::from_fn(|i| u128_at(&kept.upper, 16 * i)),
            mxcsr: u128_at(&kept.fxsave, 24) as u32,
            x87: x87_of(&kept.fxsave),
            memory: Box::new([0; MEMORY_BYTES]),
            system: Vec::new(),
        };
        self.allow(&[Rights::DATA; 4]);
        let (arena, stack) = out.memory.split_at_mut(DATA_BYTES as usize);
        copy_out(DATA, arena);
        copy_out(STACK, stack);
        out
    }
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    let mut value = [0; 16];
    value.copy_from_slice(&bytes[at..at + 16]);
    u128::from_le_bytes(value)
}

fn fxsave(x87: &X87, mxcsr: u32, xmm: &[u128; 16]) -> [u8; 512] {
    let mut out = [0u8; 512];
    out[0..2].copy_from_slice(&x87.control.to_le_bytes());
    out[2..4].copy_from_slice(&x87.status.to_le_bytes());
    out[4] = x87.in_use;
    out[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    for i in 0..8 {
        out[32 + 16 * i..48 + 16 * i].copy_from_slice(&x87.st(i as u8).to_le_bytes());
    }
    for (i, value) in xmm.iter().enumerate() {
        out[160 + 16 * i..176 + 16 * i].copy_from_slice(&value.to_le_bytes());
    }
    out
}

fn x87_of(image: &[u8; 512]) -> X87 {
    let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let mut out = X87 { control: word(0), status: word(2), ..X87::default() };
    for i in 0..8 {
        out.set_st(i, u128_at(image, 32 + 16 * usize::from(i)) & (u128::MAX >> 48));
    }
    out.in_use = image[4];
    out
}
