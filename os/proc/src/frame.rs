//! Signal frames: what a handler finds on its stack, and the way back.
//!
//! ```text
//!   rsp ->   0  return address: the restorer
//!            8  ucontext   uc_flags, uc_link, uc_stack (24), mcontext (256), uc_sigmask
//!          312  siginfo    128
//!               (64-byte aligned, above)  FPU state
//! ```
//! (`sigreturn(2)`, psABI section 3.2.2: the 128 bytes below the interrupted stack pointer stay untouched.)

use alloc::vec;

use kif::UserRegs;
use linux_abi::consts::signal::*;
use linux_abi::{Bytes, KernelSigaction, SIGINFO_BYTES, SigInfo, SigStack, UCONTEXT_BYTES, field_u64};

use crate::signal::SigSet;
use crate::task::Task;
use crate::{ProcError, Result};

const RED_ZONE: u64 = 128;
const HEAD_BYTES: u64 = 8 + UCONTEXT_BYTES as u64 + SIGINFO_BYTES as u64;
/// Offset of the mcontext in the ucontext.
const MCONTEXT: usize = 40;
/// Offset of the mask in the ucontext.
const MASK: usize = MCONTEXT + linux_abi::MCONTEXT_BYTES;
/// uc_flags: extended FPU state present; SS saved; SS to be restored.
const UC_FP_XSTATE: u64 = 1;
const UC_SS: u64 = 2 | 4;
const USER_CS: u16 = 0x33;
const USER_SS: u16 = 0x2b;
/// Bits of RFLAGS a program may set: CF PF AF ZF SF TF DF OF NT RF AC ID.
const FLAGS: u64 = 0x0025_4dd5;
/// Size of the legacy FXSAVE area.
const FXSAVE: usize = 512;

/// Bytes a frame takes at most, for `AT_MINSIGSTKSZ`.
pub fn frame_bytes(fpu_bytes: usize) -> u64 {
    HEAD_BYTES + fpu_bytes as u64 + 64 + 16 + RED_ZONE
}

/// True if `sp` lies on the alternate stack.
#[must_use]
pub const fn on_stack(stack: &SigStack, sp: u64) -> bool {
    stack.flags & SS_AUTODISARM == 0 && sp > stack.base && sp - stack.base <= stack.size
}

/// Pushes a frame and directs the LWP at its handler. `mask` is what the handler returns to.
///
/// # Errors
/// The stack is not writable.
pub(crate) fn push(task: &mut Task, info: &SigInfo, action: &KernelSigaction, mask: SigSet) -> Result<()> {
    if action.flags & SA_RESTORER == 0 {
        return Err(ProcError::BadAddress);
    }
    let regs = *task.user.regs();
    let stack = task.alt_stack;
    let usable = stack.flags & SS_DISABLE == 0 && stack.size != 0;
    let mut sp = regs.rsp.wrapping_sub(RED_ZONE);
    if action.flags & SA_ONSTACK != 0 && usable && !on_stack(&stack, regs.rsp) {
        sp = stack.base.wrapping_add(stack.size);
    }
    let mut fpu = vec![0; task.user.fpu_bytes()];
    let used = task.user.save_fpu(&mut fpu);
    fpu.truncate(used);
    let fpu_at = sp.wrapping_sub(fpu.len() as u64) & !63;
    let frame_at = (fpu_at.wrapping_sub(HEAD_BYTES) & !15).wrapping_sub(8);
    if usable && action.flags & SA_ONSTACK != 0 && frame_at < stack.base && frame_at.wrapping_add(HEAD_BYTES) > stack.base {
        // It would run off the alternate stack's lower end.
        return Err(ProcError::BadAddress);
    }
    let mut out = Bytes::with_capacity(HEAD_BYTES as usize);
    out.u64(action.restorer);
    out.u64(UC_SS | if fpu.len() > FXSAVE { UC_FP_XSTATE } else { 0 }).u64(0).raw(&shown_stack(&stack, regs.rsp).encode());
    for register in [
        regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15, regs.rdi, regs.rsi, regs.rbp, regs.rbx,
        regs.rdx, regs.rax, regs.rcx, regs.rsp, regs.rip, regs.rflags,
    ] {
        out.u64(register);
    }
    let fault = match info.detail {
        linux_abi::SigDetail::Fault { address } => address,
        _ => 0,
    };
    out.u16(USER_CS).u16(0).u16(0).u16(USER_SS);
    out.u64(0).u64(0).u64(mask.0).u64(fault).u64(fpu_at); // err, trapno, oldmask, cr2, fpstate
    out.pad_to(8 + MASK);
    out.u64(mask.0).raw(&info.encode());
    let user = kif::user();
    user.write(fpu_at, &fpu)?;
    user.write(frame_at, &out.done())?;
    if stack.flags & SS_AUTODISARM != 0 && sp == stack.base.wrapping_add(stack.size) {
        task.alt_stack = SigStack { base: 0, flags: SS_DISABLE, size: 0 };
    }
    let regs = task.user.regs();
    regs.rsp = frame_at;
    regs.rip = action.handler;
    regs.rdi = u64::from(info.signal);
    regs.rsi = frame_at + 8 + UCONTEXT_BYTES as u64;
    regs.rdx = frame_at + 8;
    regs.rax = 0;
    // DF, TF and RF are clear in a handler.
    regs.rflags &= !0x1_0500;
    regs.orig_rax = u64::MAX;
    Ok(())
}

/// The alternate stack as `sigaltstack` and frames show it.
#[must_use]
pub const fn shown_stack(stack: &SigStack, sp: u64) -> SigStack {
    let state = if stack.size == 0 || stack.flags & SS_DISABLE != 0 {
        SS_DISABLE
    } else if on_stack(stack, sp) {
        SS_ONSTACK
    } else {
        0
    };
    SigStack { base: stack.base, flags: state | (stack.flags & SS_AUTODISARM), size: stack.size }
}

/// `rt_sigreturn`: takes the frame under the stack pointer away and everything back from it.
///
/// # Errors
/// The frame is not readable; the process gets SIGSEGV.
pub fn pop(task: &mut Task) -> Result<()> {
    // The restorer was returned to: the stack pointer is 8 past the frame.
    let at = task.user.regs().rsp;
    let mut context = [0; UCONTEXT_BYTES];
    let user = kif::user();
    user.read(at, &mut context)?;
    let m = |index: usize| field_u64(&context, MCONTEXT + index * 8);
    let fpu_at = m(23);
    if fpu_at == 0 {
        task.user.load_fpu(None);
    } else {
        let mut fpu = vec![0; task.user.fpu_bytes()];
        user.read(fpu_at, &mut fpu)?;
        task.user.load_fpu(Some(&fpu));
    }
    let regs = task.user.regs();
    let old = *regs;
    *regs = UserRegs {
        r8: m(0),
        r9: m(1),
        r10: m(2),
        r11: m(3),
        r12: m(4),
        r13: m(5),
        r14: m(6),
        r15: m(7),
        rdi: m(8),
        rsi: m(9),
        rbp: m(10),
        rbx: m(11),
        rdx: m(12),
        rax: m(13),
        rcx: m(14),
        rsp: m(15),
        rip: m(16),
        rflags: (old.rflags & !FLAGS) | (m(17) & FLAGS),
        orig_rax: u64::MAX,
        ..old
    };
    task.interrupted = None;
    task.set_mask(SigSet(field_u64(&context, MASK)));
    let mut stack = [0; SigStack::BYTES];
    stack.copy_from_slice(&context[16..16 + SigStack::BYTES]);
    let stack = SigStack::decode(&stack);
    if stack.flags & SS_AUTODISARM != 0 {
        task.alt_stack = SigStack { flags: SS_AUTODISARM, ..stack };
    }
    Ok(())
}
