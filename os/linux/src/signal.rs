//! Signal calls.

use linux_abi::consts::signal::*;
use linux_abi::{Errno, KernelSigaction, SIGINFO_BYTES, SigInfo, SigStack};
use proc::signal::SigSet;
use proc::{Target, Task};
use sync::{WaitQueue, Woken};

use crate::args::{Ptr, SetSize, Sig, Sig0};
use crate::fail::{Fail, Result};

pub fn rt_sigaction(task: &mut Task, signal: Sig, new: Ptr, old: Ptr, _size: SetSize) -> Result {
    let new = if new.given() { Some(KernelSigaction::decode(&new.read()?)) } else { None };
    if new.is_some() && SigSet::UNBLOCKABLE.has(signal.0) {
        return Err(Errno::EINVAL.into());
    }
    let before = task.process.exchange_action(signal.0, new);
    old.write_optional(&before.encode())?;
    Ok(0)
}

pub fn rt_sigprocmask(task: &mut Task, how: u32, new: Ptr, old: Ptr, _size: SetSize) -> Result {
    let before = task.lwp.mask();
    let wanted = if new.given() { Some(SigSet(new.read_u64()?)) } else { None };
    old.write_optional(&before.0.to_le_bytes())?;
    if let Some(set) = wanted {
        task.set_mask(match how {
            SIG_BLOCK => SigSet(before.0 | set.0),
            SIG_UNBLOCK => before.without(set),
            SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL.into()),
        });
    }
    Ok(0)
}

pub fn rt_sigreturn(task: &mut Task) -> Result {
    if proc::return_from_signal(task).is_err() {
        task.raise_fault();
    }
    Err(Fail::RegistersSet)
}

pub fn rt_sigpending(task: &mut Task, to: Ptr, size: u64) -> Result {
    if size > 8 {
        return Err(Errno::EINVAL.into());
    }
    let set = task.pending().0 & task.lwp.mask().0;
    to.write(&set.to_le_bytes()[..usize::try_from(size).map_err(|_| Errno::EINVAL)?])?;
    Ok(0)
}

pub fn rt_sigsuspend(task: &mut Task, mask: Ptr, _size: SetSize) -> Result {
    let mask = SigSet(mask.read_u64()?);
    let old = task.lwp.mask();
    task.set_mask(mask);
    task.saved_mask = Some(old);
    sleep_until_signal(task)
}

pub fn pause(task: &mut Task) -> Result {
    sleep_until_signal(task)
}

fn sleep_until_signal(task: &Task) -> Result {
    let queue = WaitQueue::new();
    match queue.wait_interruptible(None, || task.signal_waits().then_some(())) {
        Ok(()) | Err(Woken::Interrupted | Woken::TimedOut) => Err(Fail::Interrupted),
    }
}

pub fn rt_sigtimedwait(task: &mut Task, set: Ptr, info: Ptr, timeout: Ptr, _size: SetSize) -> Result {
    let set = SigSet(set.read_u64()?).without(SigSet::UNBLOCKABLE);
    let deadline = if timeout.given() {
        let span = timeout.read_timespec()?;
        Some(task.deadline_after(span))
    } else {
        None
    };
    let taken = match task.await_signal(set, deadline) {
        Ok(taken) => taken,
        Err(Woken::Interrupted) => return Err(Fail::Interrupted),
        Err(Woken::TimedOut) => {
            task.restart_deadline = None;
            return Err(Errno::EAGAIN.into());
        }
    };
    task.restart_deadline = None;
    info.write_optional(&taken.encode())?;
    Ok(taken.signal.into())
}

pub fn kill(task: &mut Task, pid: i32, signal: Sig0) -> Result {
    let target = match pid {
        1.. => Target::Process(pid.unsigned_abs()),
        0 => Target::OwnGroup,
        -1 => Target::All,
        _ => Target::Group(pid.unsigned_abs()),
    };
    proc::kill(&task.process, target, signal.0)?;
    Ok(0)
}

fn id(value: i32) -> Result<u32> {
    u32::try_from(value).ok().filter(|id| *id != 0).ok_or(Fail::Errno(Errno::EINVAL))
}

pub fn tkill(task: &mut Task, tid: i32, signal: Sig0) -> Result {
    proc::kill_lwp(&task.process, None, id(tid)?, None, signal.0)?;
    Ok(0)
}
pub fn tgkill(task: &mut Task, group: i32, tid: i32, signal: Sig0) -> Result {
    proc::kill_lwp(&task.process, Some(id(group)?), id(tid)?, None, signal.0)?;
    Ok(0)
}

/// Information a program sends along. It may not pretend to be the kernel or kill(2), but towards itself.
fn queued(task: &Task, target: u32, signal: u32, info: Ptr) -> Result<SigInfo> {
    let raw: [u8; SIGINFO_BYTES] = info.read()?;
    let info = SigInfo { signal, ..SigInfo::decode(&raw) };
    let own = task.process.show(task.process.pid()) == target;
    if (info.code >= 0 || info.code == SI_TKILL) && !own { Err(Errno::EPERM.into()) } else { Ok(info) }
}
pub fn rt_sigqueueinfo(task: &mut Task, pid: i32, signal: Sig, info: Ptr) -> Result {
    let info = queued(task, id(pid)?, signal.0, info)?;
    let target = proc::lookup(task.zone.id(), id(pid)?)?;
    if !task.process.cred().may_signal(&target.cred()) {
        return Err(Errno::EPERM.into());
    }
    proc::post(&target, None, info, target.zone_id() != task.zone.id())?;
    Ok(0)
}
pub fn rt_tgsigqueueinfo(task: &mut Task, group: i32, tid: i32, signal: Sig, info: Ptr) -> Result {
    let info = queued(task, id(group)?, signal.0, info)?;
    proc::kill_lwp(&task.process, Some(id(group)?), id(tid)?, Some(info), signal.0)?;
    Ok(0)
}

pub fn sigaltstack(task: &mut Task, new: Ptr, old: Ptr) -> Result {
    let sp = task.regs().rsp;
    let shown = proc::shown_stack(&task.alt_stack, sp);
    let wanted = if new.given() { Some(SigStack::decode(&new.read()?)) } else { None };
    if let Some(stack) = wanted {
        if shown.flags & SS_ONSTACK != 0 {
            return Err(Errno::EPERM.into());
        }
        let mode = stack.flags & !SS_AUTODISARM;
        task.alt_stack = match mode {
            SS_DISABLE => SigStack { base: 0, flags: SS_DISABLE, size: 0 },
            0 | SS_ONSTACK if stack.size < MINSIGSTKSZ => return Err(Errno::ENOMEM.into()),
            0 | SS_ONSTACK => SigStack { flags: stack.flags & SS_AUTODISARM, ..stack },
            _ => return Err(Errno::EINVAL.into()),
        };
    }
    old.write_optional(&shown.encode())?;
    Ok(0)
}
