//! Events as files: `eventfd(2)`, `timerfd_create(2)`, `signalfd(2)`; and files without a name, `memfd_create(2)`.

use kif::Nanos;
use linux_abi::consts::fcntl::{O_CLOEXEC, O_NONBLOCK};
use linux_abi::consts::time::{CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_REALTIME};
use linux_abi::{Errno, Timespec};
use proc::signal::SigSet;
use proc::{Task, signalfd, timerfd};
use vfs::OpenFlags;

use crate::args::{self, Fd, Ptr, SetSize};
use crate::fail::Result;
use crate::io::{install, only};

/// The `*_NONBLOCK` and `*_CLOEXEC` flags of all these calls have the values of `open(2)`.
fn open_flags(flags: u32) -> OpenFlags {
    if flags & O_NONBLOCK != 0 { OpenFlags::NONBLOCK } else { OpenFlags::empty() }
}

pub fn eventfd(task: &mut Task, initial: u32) -> Result {
    eventfd2(task, initial, 0)
}
pub fn eventfd2(task: &mut Task, initial: u32, flags: u32) -> Result {
    const EFD_SEMAPHORE: u32 = 1;
    only(flags, EFD_SEMAPHORE | O_NONBLOCK | O_CLOEXEC)?;
    let file = vfs::counter::new(initial.into(), flags & EFD_SEMAPHORE != 0, open_flags(flags));
    install(task, file, flags & O_CLOEXEC != 0)
}

// timerfd_create(2). Timers of the wall clock run on the monotonic one from the time they are set: nothing here steps the wall clock later.

pub fn timerfd_create(task: &mut Task, clock: u32, flags: u32) -> Result {
    only(flags, O_NONBLOCK | O_CLOEXEC)?;
    let is_real = match clock {
        CLOCK_REALTIME => true,
        CLOCK_MONOTONIC | CLOCK_BOOTTIME => false,
        _ => return Err(Errno::EINVAL.into()),
    };
    install(task, timerfd::new(is_real, open_flags(flags)), flags & O_CLOEXEC != 0)
}

fn write_setting(to: Ptr, (left, interval): (Nanos, Nanos)) -> Result<()> {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&Timespec::from_nanos(interval.0).encode());
    bytes[16..].copy_from_slice(&Timespec::from_nanos(left.0).encode());
    to.write(&bytes)
}

pub fn timerfd_settime(task: &mut Task, fd: Fd, flags: u32, new: Ptr, old: Ptr) -> Result {
    const ABSTIME: u32 = 1;
    const CANCEL_ON_SET: u32 = 2;
    only(flags, ABSTIME | CANCEL_ON_SET)?;
    let interval = new.read_timespec()?;
    let value = new.plus(16).read_timespec()?;
    let file = args::file(task, fd)?;
    let timer = timerfd::of(&file).ok_or(Errno::EINVAL)?;
    let clock = kif::clock();
    let deadline = match value {
        Nanos(0) => None,
        span if flags & ABSTIME == 0 => Some(clock.monotonic().plus(span)),
        time if timer.is_real() => Some(clock.monotonic().plus(time.since(clock.realtime()))),
        time => Some(time),
    };
    let before = timer.set(deadline, interval);
    if old.given() {
        write_setting(old, before)?;
    }
    Ok(0)
}

pub fn timerfd_gettime(task: &mut Task, fd: Fd, to: Ptr) -> Result {
    let file = args::file(task, fd)?;
    write_setting(to, timerfd::of(&file).ok_or(Errno::EINVAL)?.left())?;
    Ok(0)
}

pub fn signalfd(task: &mut Task, fd: i32, set: Ptr, size: SetSize) -> Result {
    signalfd4(task, fd, set, size, 0)
}
pub fn signalfd4(task: &mut Task, fd: i32, set: Ptr, _size: SetSize, flags: u32) -> Result {
    only(flags, O_NONBLOCK | O_CLOEXEC)?;
    let set = SigSet(set.read_u64()?);
    if fd == -1 {
        return install(task, signalfd::new(&task.process, set, open_flags(flags)), flags & O_CLOEXEC != 0);
    }
    let number = u32::try_from(fd).map_err(|_| Errno::EBADF)?;
    let file = task.files.get(number)?;
    signalfd::of(&file).ok_or(Errno::EINVAL)?.set_signals(set);
    Ok(number.into())
}

/// Seals are accepted as a wish but cannot be put on: `F_ADD_SEALS` answers EINVAL, as for any file that cannot be sealed.
pub fn memfd_create(task: &mut Task, name: Ptr, flags: u32) -> Result {
    const CLOEXEC: u32 = 1;
    const ALLOW_SEALING: u32 = 2;
    /// Longest name, without the `memfd:` that Linux puts before it.
    const NAME_BYTES: usize = 249;
    only(flags, CLOEXEC | ALLOW_SEALING)?;
    // The name is for /proc only, where these files are shown by number.
    drop(name.read_string(NAME_BYTES + 1, Errno::EINVAL)?);
    let cred = task.process.cred();
    let file = vfs::tmpfs::nameless(vfs::Owner { uid: cred.euid, gid: cred.egid, zone: task.zone.id() });
    install(task, file, flags & CLOEXEC != 0)
}
