//! The life of an LWP in its kernel thread: run user code, serve what ended it, look at signals, again.
//!
//! # Theory
//! Running user code is a call (`kif::UserContext::run`). Between two calls the thread looks at one word, its attention bits; only
//! if one is set does it look at signals, stops and the end of the process.
//!
//! A system call that a signal interrupted is finished here, because only here is known whether a handler runs: with a
//! handler it ends with EINTR unless the handler asked for restarts and the call takes part; without one it is always
//! started again, so that a stop and a continuation go unnoticed.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use kif::{Fault, Nanos, UserContext, UserExit, UserRegs};
use linux_abi::consts::signal::*;
use linux_abi::{KernelSigaction, SigDetail, SigInfo, SigStack};
use once_cell::race::OnceBox;
use sync::{WaitQueue, Woken};
use vm::{AddressSpace, FaultError};
use zone::Zone;

use crate::files::FdTable;
use crate::post::{begin_end, is_crash, tell_parent};
use crate::process::{Lwp, Process, Status, attention};
use crate::signal::{Default, SIG_DFL, SIG_IGN, SigSet, default_action};
use crate::{exit, frame, post, signal, table};

/// `EINTR` negated, as a register value: the one number this layer has to know for itself.
const MINUS_EINTR: u64 = (-(linux_abi::Errno::EINTR.number() as i64)) as u64;

/// The system-call layer above.
pub trait Personality: Send + Sync {
    /// Serves the system call in the registers of `task` and stores the result there.
    fn call(&self, task: &mut Task) -> Outcome;
}

/// How a system call left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a result.
    Done,
    /// A signal came before it had an effect. `restartable`: SA_RESTART applies.
    Interrupted { restartable: bool },
}

static PERSONALITY: OnceBox<&'static dyn Personality> = OnceBox::new();

/// Installs the system-call layer (first one wins).
pub fn install_personality(personality: &'static dyn Personality) {
    if PERSONALITY.set(Box::new(personality)).is_err() {}
}

/// What an LWP's kernel thread owns of it.
#[allow(missing_debug_implementations, reason = "holds trait objects")]
pub struct Task {
    pub lwp: Arc<Lwp>,
    pub process: Arc<Process>,
    /// Its zone, at hand for every call.
    pub zone: Arc<Zone>,
    pub files: Arc<FdTable>,
    pub space: Arc<AddressSpace>,
    pub user: Box<dyn UserContext>,
    pub alt_stack: SigStack,
    /// The mask to put back once a signal was delivered (`sigsuspend`, `ppoll`).
    pub saved_mask: Option<SigSet>,
    /// Deadline of a timed call that is started again.
    pub restart_deadline: Option<Nanos>,
    /// Cleared and woken at exit (`set_tid_address`).
    pub clear_tid: u64,
    /// `set_robust_list`.
    pub robust_list: u64,
    /// Registered `rseq` area (0: none) and its signature.
    pub rseq: (u64, u32),
    /// This LWP alone leaves, with this status.
    pub(crate) exiting: Option<u8>,
    /// A system call that was interrupted: whether SA_RESTART applies.
    pub(crate) interrupted: Option<bool>,
}

impl Task {
    /// The LWP's kernel thread: returns when the LWP has ended.
    pub(crate) fn main(mut self) {
        table::enter_thread(&self.lwp);
        self.space.activate();
        let personality = *PERSONALITY.get().expect("the system-call layer is installed before the first process");
        while self.may_run() {
            match self.user.run() {
                UserExit::Syscall => match personality.call(&mut self) {
                    Outcome::Done => {}
                    Outcome::Interrupted { restartable } => {
                        self.interrupted = Some(restartable);
                        self.lwp.attention.fetch_or(attention::SIGNAL, Ordering::Relaxed);
                    }
                },
                UserExit::Interrupt => {
                    // What was meant for this thread is in its attention bits, which are looked at next.
                    sync::clear_interrupt();
                    if self.rseq.0 != 0 {
                        self.leave_restartable_sequence();
                    }
                }
                UserExit::PageFault { address, error } => self.page_fault(address, error),
                UserExit::Exception { vector, error } => self.exception(vector, error),
            }
        }
        exit::lwp(self);
    }

    /// Looks at what wants attention; false if the LWP ends.
    fn may_run(&mut self) -> bool {
        while self.lwp.attention.load(Ordering::Relaxed) != 0 {
            if !self.attend() {
                return false;
            }
        }
        true
    }

    fn attend(&mut self) -> bool {
        let bits = self.lwp.attention.swap(0, Ordering::AcqRel);
        sync::clear_interrupt();
        if bits & attention::ZONE != 0 {
            self.zone = self.process.zone();
        }
        loop {
            let taken = {
                let mut state = self.process.signals.lock();
                let other_execs = state.exec_by.is_some_and(|tid| tid != self.lwp.tid());
                if self.exiting.is_some() || state.ending.is_some() || other_execs {
                    return false;
                }
                if state.stopped.is_some() {
                    Taken::Stopped
                } else {
                    let allowed = SigSet(!self.lwp.mask().0);
                    let info = self.lwp.pending.lock().pop(allowed).or_else(|| state.shared.pop(allowed));
                    match info {
                        None => Taken::Nothing,
                        Some(info) => {
                            let action = *state.actions.get(info.signal);
                            if action.handler > SIG_IGN && action.flags & SA_RESETHAND != 0 {
                                state.actions.set(info.signal, KernelSigaction { handler: SIG_DFL, ..action });
                            }
                            Taken::Signal(info, action)
                        }
                    }
                }
            };
            match taken {
                Taken::Stopped => self.stay_stopped(),
                Taken::Nothing => {
                    self.finish_interrupted(None);
                    if let Some(mask) = self.saved_mask.take() {
                        self.set_mask(mask);
                    }
                    return true;
                }
                Taken::Signal(info, action) => self.deliver(info, action),
            }
        }
    }

    fn stay_stopped(&self) {
        self.process.stop_queue.wait(|| {
            let state = self.process.signals.lock();
            (state.stopped.is_none() || state.ending.is_some()).then_some(())
        });
    }

    /// Settles a system call that was interrupted: EINTR or again.
    fn finish_interrupted(&mut self, handler: Option<&KernelSigaction>) {
        let Some(restartable) = self.interrupted.take() else { return };
        let again = handler.is_none_or(|action| restartable && action.flags & SA_RESTART != 0);
        let regs = self.user.regs();
        if again {
            regs.rax = regs.orig_rax;
            // Back to the SYSCALL instruction (0f 05).
            regs.rip = regs.rip.wrapping_sub(2);
        } else {
            regs.rax = MINUS_EINTR;
            self.restart_deadline = None;
        }
    }

    fn deliver(&mut self, info: SigInfo, action: KernelSigaction) {
        let signal = info.signal;
        match action.handler {
            SIG_IGN => {}
            SIG_DFL => self.take_default(&info),
            _ => {
                self.finish_interrupted(Some(&action));
                if self.rseq.0 != 0 {
                    self.leave_restartable_sequence();
                }
                // After sigsuspend the handler returns to the mask from before it.
                let mask = self.saved_mask.take().unwrap_or_else(|| self.lwp.mask());
                let mut during = SigSet(self.lwp.mask().0 | action.mask);
                if action.flags & SA_NODEFER == 0 {
                    during = during.with(signal);
                }
                if frame::push(self, &info, &action, mask).is_err() {
                    // No room for the frame: the process cannot go on.
                    self.crash(&SigInfo { signal: SIGSEGV, code: SI_KERNEL, errno: 0, detail: SigDetail::None });
                    return;
                }
                self.set_mask(during);
            }
        }
    }

    fn take_default(&mut self, info: &SigInfo) {
        let signal = info.signal;
        // A synchronous fault ends even an init: it could only fault again.
        let fault = matches!(info.detail, SigDetail::Fault { .. });
        if self.process.is_zone_init() && !fault && info.code != SI_KERNEL {
            return;
        }
        match default_action(signal) {
            Default::Ignore | Default::Continue => {}
            Default::Terminate => self.end(Status::Killed { signal, core: false }),
            Default::Core => self.crash(info),
            Default::Stop => {
                if signal != SIGSTOP && table::lock().is_orphaned(self.process.group(), None) {
                    return;
                }
                let first = {
                    let mut state = self.process.signals.lock();
                    let first = state.stopped.is_none() && state.ending.is_none();
                    if first {
                        state.stopped = Some(signal);
                        state.unreported_stop = true;
                        state.unreported_continue = false;
                        for lwp in &state.lwps {
                            lwp.call_attention(attention::SIGNAL);
                        }
                    }
                    first
                };
                if first {
                    tell_parent(&self.process, CLD_STOPPED, signal);
                }
            }
        }
    }

    /// Ends the process because of what it did; says so on the console.
    fn crash(&mut self, info: &SigInfo) {
        if let SigDetail::Fault { address } = info.detail {
            let rip = self.user.regs().rip;
            self.zone.report(format_args!(
                "pid {} ({}): {} at {rip:#x}, address {address:#x}",
                self.process.pid(),
                self.process.name(),
                signal::name(info.signal),
            ));
        }
        self.end(Status::Killed { signal: info.signal, core: is_crash(info.signal) });
    }

    /// This LWP alone leaves, at its next look.
    pub fn leave(&mut self, status: u8) {
        self.exiting = Some(status);
        self.lwp.attention.fetch_or(attention::SIGNAL, Ordering::Relaxed);
    }

    /// Starts the end of the process.
    pub fn end(&self, status: Status) {
        begin_end(&mut self.process.signals.lock(), status);
    }

    /// Sets the blocked signals; pending ones that become deliverable are looked at.
    pub fn set_mask(&self, mask: SigSet) {
        let mask = mask.without(SigSet::UNBLOCKABLE);
        let old = SigSet(self.lwp.mask.swap(mask.0, Ordering::Relaxed));
        if old.without(mask) != SigSet::EMPTY {
            self.lwp.attention.fetch_or(attention::SIGNAL, Ordering::Relaxed);
        }
    }

    /// Signals waiting for this LWP or its process.
    pub fn pending(&self) -> SigSet {
        let state = self.process.signals.lock();
        SigSet(state.shared.set().0 | self.lwp.pending.lock().set().0)
    }

    /// True if a signal that is not blocked is waiting (for calls that must not sleep past one).
    pub fn signal_waits(&self) -> bool {
        self.pending().without(self.lwp.mask()) != SigSet::EMPTY
    }

    /// Takes a signal of `set` without delivering it, waiting for one until `deadline` (`sigtimedwait`).
    ///
    /// # Errors
    /// Another signal came, or the deadline passed.
    pub fn await_signal(&self, set: SigSet, deadline: Option<Nanos>) -> core::result::Result<SigInfo, Woken> {
        let take = || {
            let mut state = self.process.signals.lock();
            let own = self.lwp.pending.lock().pop(set);
            own.or_else(|| state.shared.pop(set))
        };
        // While it waits, signals of the set wake it although they are blocked.
        self.lwp.awaited.store(set.0, Ordering::Relaxed);
        let mut outcome = WaitQueue::new().wait_interruptible(deadline, take);
        self.lwp.awaited.store(0, Ordering::Relaxed);
        if outcome == Err(Woken::Interrupted)
            && let Some(info) = take()
        {
            outcome = Ok(info);
        }
        outcome
    }

    /// SIGSEGV for a signal frame that cannot be read back.
    pub fn raise_fault(&mut self) {
        let sp = self.user.regs().rsp;
        self.fault_signal(SIGSEGV, SEGV_MAPERR, sp);
    }

    /// Sends the LWP a signal that an instruction caused: it cannot be put off.
    fn force(&mut self, info: SigInfo) {
        let signal = info.signal;
        {
            let mut state = self.process.signals.lock();
            let blocked = self.lwp.mask().has(signal);
            if blocked || state.actions.get(signal).handler == SIG_IGN {
                let action = *state.actions.get(signal);
                state.actions.set(signal, KernelSigaction { handler: SIG_DFL, ..action });
            }
            self.lwp.pending.lock().push(info);
        }
        self.set_mask(self.lwp.mask().without(SigSet::of(signal)));
        self.lwp.attention.fetch_or(attention::SIGNAL, Ordering::Relaxed);
    }

    fn fault_signal(&mut self, signal: u32, code: i32, address: u64) {
        self.force(SigInfo { signal, code, errno: 0, detail: SigDetail::Fault { address } });
    }

    fn page_fault(&mut self, address: u64, error: u64) {
        // APM vol. 2 section 8.4.2: bit 1 write, bit 4 instruction fetch.
        let fault = Fault { address, write: error & 2 != 0, execute: error & 16 != 0 };
        self.zone.stats.faults.bump();
        match self.space.fault(fault) {
            Ok(()) | Err(FaultError::Interrupted) => {}
            Err(FaultError::NotMapped) => self.fault_signal(SIGSEGV, SEGV_MAPERR, address),
            Err(FaultError::Protected) => self.fault_signal(SIGSEGV, SEGV_ACCERR, address),
            Err(FaultError::NoObject) => self.fault_signal(SIGBUS, BUS_ADRERR, address),
            Err(FaultError::OutOfMemory) => self.out_of_memory(),
        }
    }

    fn out_of_memory(&self) {
        self.zone.stats.anon_alloc_fail.bump();
        self.zone.report(format_args!(
            "out of memory: killed pid {} ({}), {} KiB resident",
            self.process.pid(),
            self.process.name(),
            self.space.usage().resident * 4,
        ));
        self.end(Status::Killed { signal: SIGKILL, core: false });
    }

    /// Exceptions other than #PF (APM vol. 2 section 8.2).
    fn exception(&mut self, vector: u8, _error: u64) {
        let rip = self.user.regs().rip;
        let (signal, code, address) = match vector {
            0 => (SIGFPE, FPE_INTDIV, rip),
            1 => (SIGTRAP, TRAP_TRACE, rip),
            3 => (SIGTRAP, TRAP_BRKPT, rip),
            4 | 5 | 13 => (SIGSEGV, SI_KERNEL, 0),
            6 => (SIGILL, ILL_ILLOPN, rip),
            12 => (SIGBUS, SI_KERNEL, 0),
            16 | 19 => (SIGFPE, FPE_FLTINV, rip),
            17 => (SIGBUS, BUS_ADRALN, 0),
            _ => (SIGSEGV, SI_KERNEL, rip),
        };
        self.fault_signal(signal, code, address);
    }

    /// `rseq(2)`: code interrupted between the start of its critical section and the commit goes on at the abort handler.
    fn leave_restartable_sequence(&mut self) {
        let (area, signature) = self.rseq;
        let user = kif::user();
        let mut word = [0; 8];
        // struct rseq: cpu_id_start 0, cpu_id 4, rseq_cs 8. Unreadable areas end the process, as on Linux.
        let cs = match user.read(area.wrapping_add(8), &mut word) {
            Ok(()) => u64::from_le_bytes(word),
            Err(kif::CopyFault) => return self.fault_signal(SIGSEGV, SEGV_MAPERR, area),
        };
        if cs == 0 {
            return;
        }
        // struct rseq_cs: version 0, flags 4, start_ip 8, post_commit_offset 16, abort_ip 24.
        let mut section = [0; 32];
        let mut guard = [0; 4];
        let start = |section: &[u8; 32]| linux_abi::field_u64(section, 8);
        let readable = user.read(cs, &mut section).is_ok()
            && user.read(linux_abi::field_u64(&section, 24).wrapping_sub(4), &mut guard).is_ok()
            && user.write(area.wrapping_add(8), &[0; 8]).is_ok();
        if !readable || u32::from_le_bytes(guard) != signature || linux_abi::field_u32(&section, 0) != 0 {
            return self.fault_signal(SIGSEGV, SEGV_MAPERR, cs);
        }
        let regs = self.user.regs();
        if regs.rip.wrapping_sub(start(&section)) < linux_abi::field_u64(&section, 16) {
            regs.rip = linux_abi::field_u64(&section, 24);
        }
    }

    /// Deadline of a call that waits for `span`: the same one when the call is started again.
    pub fn deadline_after(&mut self, span: Nanos) -> Nanos {
        self.deadline_at(kif::clock().monotonic().plus(span))
    }
    /// As [`Task::deadline_after`], with the deadline worked out by the caller.
    pub fn deadline_at(&mut self, deadline: Nanos) -> Nanos {
        let kept = self.restart_deadline.take().unwrap_or(deadline);
        self.restart_deadline = Some(kept);
        kept
    }

    /// Notes that the LWP is in a system call, for `ps` and the debugger.
    pub fn note_call(&self, number: u16) {
        self.lwp.call.store(number.into(), Ordering::Relaxed);
    }
    /// Notes that the call is over.
    pub fn note_return(&self) {
        self.lwp.call.store(u32::MAX, Ordering::Relaxed);
    }

    /// The registers.
    pub fn regs(&mut self) -> &mut UserRegs {
        self.user.regs()
    }

    /// Posts a signal to the own process that the kernel raises (SIGPIPE, SIGXFSZ).
    pub fn raise(&self, signal: u32) {
        if post::post(&self.process, Some(&self.lwp), post::from_kernel(signal), false).is_err() {}
    }
}

enum Taken {
    Nothing,
    Stopped,
    Signal(SigInfo, KernelSigaction),
}
