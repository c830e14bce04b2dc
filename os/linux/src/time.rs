//! Clocks, sleeping, timers.

use kif::Nanos;
use linux_abi::consts::time::*;
use linux_abi::{Bytes, Errno, Timespec, Timeval};
use proc::Task;
use zone::Privilege;

use crate::args::Ptr;
use crate::fail::{Fail, Result};

/// What a clock id reads.
enum Source {
    Monotonic,
    Real,
    Process,
    Lwp,
    /// A process's CPU clock, from `clock_getcpuclockid(3)`.
    Other(u32),
}

fn source(clock: u32) -> Result<Source> {
    Ok(match clock {
        CLOCK_REALTIME | CLOCK_REALTIME_COARSE => Source::Real,
        CLOCK_MONOTONIC | CLOCK_MONOTONIC_RAW | CLOCK_MONOTONIC_COARSE | CLOCK_BOOTTIME => Source::Monotonic,
        CLOCK_PROCESS_CPUTIME_ID => Source::Process,
        CLOCK_THREAD_CPUTIME_ID => Source::Lwp,
        // Negative ids: ~pid << 3 | kind; kinds 0 to 2 are CPU clocks, bit 2 means an LWP.
        _ if clock.cast_signed() < 0 && clock & 7 <= 2 => Source::Other(!(clock.cast_signed() >> 3).cast_unsigned()),
        _ => return Err(Errno::EINVAL.into()),
    })
}

fn read_clock(task: &Task, clock: u32) -> Result<Nanos> {
    Ok(match source(clock)? {
        Source::Real => kif::clock().realtime(),
        Source::Monotonic => kif::clock().monotonic(),
        Source::Process => {
            let times = task.process.times();
            Nanos(times.user + times.system)
        }
        Source::Lwp => {
            let (user, system) = task.lwp.times();
            user.plus(system)
        }
        Source::Other(pid) => {
            let process = if pid == 0 {
                alloc::sync::Arc::clone(&task.process)
            } else {
                proc::lookup(task.zone.id(), pid).map_err(|_| Errno::EINVAL)?
            };
            let times = process.times();
            Nanos(times.user + times.system)
        }
    })
}

pub fn clock_gettime(task: &mut Task, clock: u32, to: Ptr) -> Result {
    let now = match clock {
        CLOCK_MONOTONIC => kif::clock().monotonic(),
        CLOCK_REALTIME => kif::clock().realtime(),
        _ => read_clock(task, clock)?,
    };
    to.write(&Timespec::from_nanos(now.0).encode())?;
    Ok(0)
}
pub fn clock_getres(_task: &mut Task, clock: u32, to: Ptr) -> Result {
    source(clock)?;
    to.write_optional(&Timespec::from_nanos(1).encode())?;
    Ok(0)
}
/// The clock comes from the machine and runs on; setting it needs the privilege and is not offered yet.
pub fn clock_settime(task: &mut Task, clock: u32, from: Ptr) -> Result {
    from.read_timespec()?;
    if clock != CLOCK_REALTIME {
        return Err(Errno::EINVAL.into());
    }
    crate::path::need(task, Privilege::SetTime)?;
    Err(Errno::EOPNOTSUPP.into())
}
pub fn settimeofday(task: &mut Task, time: Ptr, _zone: Ptr) -> Result {
    if !time.given() {
        return Ok(0);
    }
    time.read_timeval()?;
    crate::path::need(task, Privilege::SetTime)?;
    Err(Errno::EOPNOTSUPP.into())
}
pub fn gettimeofday(_task: &mut Task, time: Ptr, zone: Ptr) -> Result {
    time.write_optional(&Timeval::from_nanos(kif::clock().realtime().0).encode())?;
    zone.write_optional(&[0; 8])?;
    Ok(0)
}
pub fn time(_task: &mut Task, to: Ptr) -> Result {
    let seconds = kif::clock().realtime().0 / 1_000_000_000;
    to.write_optional(&seconds.to_le_bytes())?;
    Ok(seconds)
}

/// Sleeps until a monotonic deadline; after a signal tells how much was left.
fn sleep(task: &mut Task, deadline: Nanos, left: Option<Ptr>) -> Result {
    match sync::sleep_until(deadline) {
        Ok(()) => {
            task.restart_deadline = None;
            Ok(0)
        }
        Err(_) => {
            if let Some(left) = left.filter(|left| left.given()) {
                let remaining = deadline.since(kif::clock().monotonic());
                left.write(&Timespec::from_nanos(remaining.0).encode())?;
            }
            Err(Fail::Interrupted)
        }
    }
}
pub fn nanosleep(task: &mut Task, span: Ptr, left: Ptr) -> Result {
    let span = span.read_timespec()?;
    let deadline = task.deadline_after(span);
    sleep(task, deadline, Some(left))
}
pub fn clock_nanosleep(task: &mut Task, clock: u32, flags: u32, span: Ptr, left: Ptr) -> Result {
    crate::io::only(flags, TIMER_ABSTIME)?;
    let time = span.read_timespec()?;
    let from = match source(clock)? {
        Source::Real => kif::clock().realtime(),
        Source::Monotonic => kif::clock().monotonic(),
        Source::Process | Source::Lwp | Source::Other(_) => return Err(Errno::EOPNOTSUPP.into()),
    };
    if flags & TIMER_ABSTIME != 0 {
        let deadline = kif::clock().monotonic().plus(time.since(from));
        return sleep(task, deadline, None);
    }
    let deadline = task.deadline_after(time);
    sleep(task, deadline, Some(left))
}

fn itimerval(value: Nanos, interval: Nanos) -> alloc::vec::Vec<u8> {
    let mut out = Bytes::with_capacity(32);
    out.raw(&Timeval::from_nanos(interval.0).encode()).raw(&Timeval::from_nanos(value.0).encode());
    out.done()
}
pub fn getitimer(task: &mut Task, which: u32, to: Ptr) -> Result {
    let (value, interval) = match which {
        ITIMER_REAL => proc::timer::alarm(&task.process),
        ITIMER_VIRTUAL | ITIMER_PROF => (Nanos(0), Nanos(0)),
        _ => return Err(Errno::EINVAL.into()),
    };
    to.write(&itimerval(value, interval))?;
    Ok(0)
}
/// ITIMER_VIRTUAL and ITIMER_PROF can only be switched off: they would need the dispatcher to count down.
pub fn setitimer(task: &mut Task, which: u32, new: Ptr, old: Ptr) -> Result {
    let (interval, value) = if new.given() { (new.read_timeval()?, new.plus(16).read_timeval()?) } else { (Nanos(0), Nanos(0)) };
    let (left, before) = match which {
        ITIMER_REAL => proc::timer::set_alarm(&task.process, value, interval),
        ITIMER_VIRTUAL | ITIMER_PROF if value == Nanos(0) => (Nanos(0), Nanos(0)),
        _ => return Err(Errno::EINVAL.into()),
    };
    old.write_optional(&itimerval(left, before))?;
    Ok(0)
}
pub fn alarm(task: &mut Task, seconds: u32) -> Result {
    let (left, _) = proc::timer::set_alarm(&task.process, Nanos::from_secs(seconds.into()), Nanos(0));
    // Rounded up: a running alarm never shows zero.
    Ok(left.0.div_ceil(1_000_000_000))
}

/// `adjtimex(2)`: only reading, and there is nothing to read but "not synchronised" (TIME_ERROR).
pub fn adjtimex(_task: &mut Task, at: Ptr) -> Result {
    const TIME_ERROR: u64 = 5;
    if at.read_u32()? != 0 {
        return Err(Errno::EPERM.into());
    }
    at.write(&[0; 208])?;
    Ok(TIME_ERROR)
}
