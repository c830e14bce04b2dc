//! Futex calls.

use kif::Nanos;
use linux_abi::Errno;
use linux_abi::consts::futex::*;
use proc::{Task, futex};
use vm::FutexKey;

use crate::args::Ptr;
use crate::fail::Result;

fn key(task: &Task, address: u64, operation: u32) -> Result<FutexKey> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL.into());
    }
    if address >= vm::USER_END {
        return Err(Errno::EFAULT.into());
    }
    if operation & PRIVATE != 0 {
        return Ok(task.space.private_futex_key(address));
    }
    Ok(task.space.futex_key(address)?)
}

/// `value2` is a count for the requeue operations and a pointer to a time-out for the waits.
pub fn futex(task: &mut Task, address: u64, operation: u32, value: u32, value2: u64, address2: u64, value3: u32) -> Result {
    let count2 = u32::try_from(value2 & 0xffff_ffff).map_err(|_| Errno::EINVAL)?;
    match operation & !(PRIVATE | CLOCK_REALTIME) {
        WAIT => {
            let deadline = deadline(task, Ptr(value2), operation, false)?;
            wait(task, address, operation, value, u32::MAX, deadline)
        }
        WAIT_BITSET => {
            if value3 == 0 {
                return Err(Errno::EINVAL.into());
            }
            let deadline = deadline(task, Ptr(value2), operation, true)?;
            wait(task, address, operation, value, value3, deadline)
        }
        WAKE => Ok(futex::wake_key(key(task, address, operation)?, value.max(1), u32::MAX).into()),
        WAKE_BITSET if value3 == 0 => Err(Errno::EINVAL.into()),
        WAKE_BITSET => Ok(futex::wake_key(key(task, address, operation)?, value.max(1), value3).into()),
        REQUEUE | CMP_REQUEUE => {
            if value.cast_signed() < 0 || count2.cast_signed() < 0 {
                return Err(Errno::EINVAL.into());
            }
            let compare = operation & !(PRIVATE | CLOCK_REALTIME) == CMP_REQUEUE;
            let (from, to) = (key(task, address, operation)?, key(task, address2, operation)?);
            let (woken, moved) = futex::requeue(from, to, address, compare.then_some(value3), value, count2)?;
            Ok(u64::from(woken) + if compare { u64::from(moved) } else { 0 })
        }
        WAKE_OP => wake_op(task, address, operation, value, count2, address2, value3),
        // Priority inheritance and unknown operations.
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// The deadline of a wait: WAIT takes a span, WAIT_BITSET a time of the clock the operation names.
fn deadline(task: &mut Task, at: Ptr, operation: u32, absolute: bool) -> Result<Option<Nanos>> {
    if !at.given() {
        return Ok(None);
    }
    let time = at.read_timespec()?;
    if !absolute {
        return Ok(Some(task.deadline_after(time)));
    }
    let clock = kif::clock();
    let now = if operation & CLOCK_REALTIME != 0 { clock.realtime() } else { clock.monotonic() };
    Ok(Some(clock.monotonic().plus(time.since(now))))
}

fn wait(task: &mut Task, address: u64, operation: u32, value: u32, bits: u32, deadline: Option<Nanos>) -> Result {
    let key = key(task, address, operation)?;
    let outcome = futex::wait(key, address, value, bits, deadline);
    if outcome != Err(proc::ProcError::Interrupted) {
        task.restart_deadline = None;
    }
    outcome?;
    Ok(0)
}

/// FUTEX_WAKE_OP: changes the second word, wakes waiters of the first, and of the second if the old value compares.
fn wake_op(task: &Task, address: u64, operation: u32, wake: u32, wake2: u32, address2: u64, code: u32) -> Result {
    let (first, second) = (key(task, address, operation)?, key(task, address2, operation)?);
    // Bits 28-31 operation (bit 31: argument is a shift), 24-27 comparison, 12-23 argument, 0-11 value to compare with.
    let field = |shift: u32| (code << shift).cast_signed() >> 20;
    let (mut argument, compare_with) = (field(8), field(20));
    if code >> 31 != 0 {
        argument = 1_i32.checked_shl(argument.cast_unsigned() & 31).unwrap_or(0);
    }
    let mut old = Ptr(address2).read_u32()?;
    loop {
        let new = match code >> 28 & 7 {
            0 => argument.cast_unsigned(),
            1 => old.wrapping_add(argument.cast_unsigned()),
            2 => old | argument.cast_unsigned(),
            3 => old & !argument.cast_unsigned(),
            4 => old ^ argument.cast_unsigned(),
            _ => return Err(Errno::ENOSYS.into()),
        };
        let seen = kif::user().compare_exchange_u32(address2, old, new)?;
        if seen == old {
            break;
        }
        old = seen;
    }
    let was = old.cast_signed();
    let compares = match code >> 24 & 15 {
        0 => was == compare_with,
        1 => was != compare_with,
        2 => was < compare_with,
        3 => was <= compare_with,
        4 => was > compare_with,
        5 => was >= compare_with,
        _ => return Err(Errno::ENOSYS.into()),
    };
    let mut woken = futex::wake_key(first, wake.max(1), u32::MAX);
    if compares {
        woken += futex::wake_key(second, wake2.max(1), u32::MAX);
    }
    Ok(woken.into())
}
