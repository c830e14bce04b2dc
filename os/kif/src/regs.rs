//! User registers and the reasons user mode ends.

/// The general registers of a thread in user mode, in the order the entry stubs of `hal` store them.
///
/// `orig_rax` is the system-call number at entry (`u64::MAX` when the exit was not a system call), kept for restart and
/// for signal frames.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserRegs {
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
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

/// Why user mode ended. Running user code is a *call*: the kernel thread of an LWP loops over
/// `hal::UserContext::run`, which returns one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserExit {
    /// SYSCALL instruction; number in `rax`/`orig_rax`.
    Syscall,
    /// An interrupt was taken and handled by `hal`; the loop checks signals and preemption.
    Interrupt,
    /// #PF from user mode: linear address and the error code of the processor (APM vol. 2 section 8.4.2).
    PageFault { address: u64, error: u64 },
    /// Any other exception: vector and error code (0 if it has none).
    Exception { vector: u8, error: u64 },
}

/// The user-mode state of one LWP: registers and FPU/SSE/AVX state. Made by [`crate::Platform::new_user_context`], owned by
/// the LWP's kernel thread, which loops over [`UserContext::run`].
pub trait UserContext: Send {
    /// The registers as they will be at the next `run`, or were at its end.
    fn regs(&mut self) -> &mut UserRegs;
    /// Enters user mode with the current thread's address space until something needs the kernel. Non-canonical `rip` and
    /// privileged `rflags` bits are never loaded: they end in an exception report, not in a kernel fault.
    fn run(&mut self) -> UserExit;
    /// Copies the FPU state in the layout of signal frames (FXSAVE, plus XSAVE extension where enabled). Returns bytes used.
    fn save_fpu(&mut self, out: &mut [u8]) -> usize;
    /// Loads FPU state from a signal frame, clearing what the processor would refuse. `None`: initial state.
    fn load_fpu(&mut self, data: Option<&[u8]>);
    /// Bytes [`UserContext::save_fpu`] needs.
    fn fpu_bytes(&self) -> usize;
}
