//! Waiting for several descriptors (`poll(2)`, `select(2)`).

use alloc::sync::Arc;
use alloc::vec::Vec;

use kif::Nanos;
use linux_abi::consts::fcntl::O_CLOEXEC;
use linux_abi::consts::poll::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD};
use linux_abi::{EpollEvent, Errno};
use proc::Task;
use proc::signal::SigSet;
use vfs::epoll::{self, Change, Interest};
use vfs::{File, Ready};

use crate::args::{self, Fd, Ptr, SetSize, buffer};
use crate::fail::{Fail, Result};

/// What is always reported, asked for or not.
const ALWAYS: Ready = Ready::ERR.union(Ready::HUP).union(Ready::NVAL);

struct Watched {
    file: Option<Arc<File>>,
    wanted: Ready,
    /// Descriptor -1: not looked at.
    skipped: bool,
}

/// What one of `watched` is ready for.
fn look_at(one: &Watched) -> Ready {
    match &one.file {
        Some(file) => file.poll() & (one.wanted | ALWAYS),
        None if one.skipped => Ready::empty(),
        None => Ready::NVAL,
    }
}

/// Waits until one of `watched` is ready; what each is ready for is then in `found`: nothing after a time-out. `deadline`: `None` waits for ever, a
/// past one only looks.
fn wait(watched: &[Watched], found: &mut [Ready], deadline: Option<Nanos>) -> Result<()> {
    let look = || {
        let mut any = false;
        for (one, ready) in watched.iter().zip(found.iter_mut()) {
            *ready = look_at(one);
            any |= !ready.is_empty();
        }
        any.then_some(())
    };
    let files = watched.iter().filter_map(|one| one.file.as_deref());
    match vfs::wait_any(files, deadline, look) {
        // After a time-out nothing was found.
        Ok(()) | Err(sync::Woken::TimedOut) => Ok(()),
        Err(sync::Woken::Interrupted) => Err(Fail::Interrupted),
    }
}

/// An empty list with room for `count`, which the caller of the system call chose.
fn room<T>(count: usize) -> Result<Vec<T>> {
    kif::vec_with_room(count).map_err(|kif::OutOfMemory| Errno::ENOMEM.into())
}

/// For the length of the call another set of signals is blocked; it stays so if a signal ended the call, until that is
/// delivered.
fn with_mask<R>(task: &mut Task, mask: Option<SigSet>, call: impl FnOnce(&mut Task) -> Result<R>) -> Result<R> {
    let Some(mask) = mask else { return call(task) };
    let old = task.lwp.mask();
    task.set_mask(mask);
    if task.signal_waits() {
        task.saved_mask = Some(old);
        return Err(Fail::Interrupted);
    }
    let outcome = call(task);
    if matches!(outcome, Err(Fail::Interrupted)) {
        task.saved_mask = Some(old);
    } else {
        task.set_mask(old);
    }
    outcome
}

/// Limit on the number of entries (the largest descriptor limit).
fn check_count(count: u32) -> Result<usize> {
    if count > proc::FILES_MAX { Err(Errno::EINVAL.into()) } else { usize::try_from(count).map_err(|_| Errno::EINVAL.into()) }
}

/// `struct pollfd`: fd 0, events 4, revents 6.
fn poll_entries(task: &mut Task, at: Ptr, count: u32, deadline: Option<Nanos>) -> Result {
    let count = check_count(count)?;
    let mut raw = buffer(count * 8)?;
    kif::user().read(at.0, &mut raw)?;
    let mut watched: Vec<Watched> = room(count)?;
    watched.extend(raw.chunks_exact(8).map(|entry| {
        let fd = u32::try_from(linux_abi::field_u32(entry, 0).cast_signed());
        let wanted = Ready::from_bits_truncate(linux_abi::field_u16(entry, 4).into());
        Watched { file: fd.ok().and_then(|fd| task.files.get(fd).ok()), wanted, skipped: fd.is_err() }
    }));
    let mut found: Vec<Ready> = room(count)?;
    found.resize(count, Ready::empty());
    wait(&watched, &mut found, deadline)?;
    for (entry, ready) in raw.chunks_exact_mut(8).zip(&found) {
        let bits = u16::try_from(ready.bits()).unwrap_or(0);
        entry[6..8].copy_from_slice(&bits.to_le_bytes());
    }
    task.restart_deadline = None;
    at.write(&raw)?;
    Ok(found.iter().filter(|ready| !ready.is_empty()).count() as u64)
}

pub fn poll(task: &mut Task, at: Ptr, count: u32, timeout: i32) -> Result {
    let deadline = match u64::try_from(timeout) {
        Ok(millis) => Some(task.deadline_after(Nanos::from_millis(millis))),
        Err(_) => None,
    };
    poll_entries(task, at, count, deadline)
}

pub fn ppoll(task: &mut Task, at: Ptr, count: u32, timeout: Ptr, mask: Ptr, size: u64) -> Result {
    let mask = read_mask(mask, size)?;
    let deadline = read_deadline(task, timeout, Ptr::read_timespec)?;
    let outcome = with_mask(task, mask, |task| poll_entries(task, at, count, deadline));
    write_left(timeout, deadline, |left| linux_abi::Timespec::from_nanos(left.0).encode());
    outcome
}

fn read_mask(mask: Ptr, size: u64) -> Result<Option<SigSet>> {
    if !mask.given() {
        return Ok(None);
    }
    let SetSize = crate::args::Arg::parse(size)?;
    Ok(Some(SigSet(mask.read_u64()?)))
}

fn read_deadline(task: &mut Task, timeout: Ptr, read: fn(Ptr) -> Result<Nanos>) -> Result<Option<Nanos>> {
    if timeout.given() { read(timeout).map(|span| Some(task.deadline_after(span))) } else { Ok(None) }
}

/// Tells the caller how much of its time-out is left, as Linux does; a buffer that cannot be written is passed over.
fn write_left(timeout: Ptr, deadline: Option<Nanos>, encode: fn(Nanos) -> [u8; 16]) {
    if let Some(deadline) = deadline
        && timeout.given()
        && timeout.write(&encode(deadline.since(kif::clock().monotonic()))).is_err()
    {}
}

/// Which of the three sets an entry came from, and what it is ready for then.
const SETS: [Ready; 3] = [
    Ready::IN.union(Ready::RDNORM).union(Ready::HUP).union(Ready::ERR),
    Ready::OUT.union(Ready::WRNORM).union(Ready::ERR),
    Ready::PRI,
];

fn select_sets(task: &mut Task, count: u32, sets: [Ptr; 3], deadline: Option<Nanos>) -> Result {
    if count.cast_signed() < 0 {
        return Err(Errno::EINVAL.into());
    }
    let count = check_count(count.min(proc::FILES_MAX))?;
    let bytes = count.div_ceil(64) * 8;
    let mut bits: [Option<Vec<u8>>; 3] = [None, None, None];
    for (set, bits) in sets.iter().zip(&mut bits) {
        if set.given() {
            *bits = Some(set.read_vec(bytes)?);
        }
    }
    let is_set = |bits: &Option<Vec<u8>>, fd: usize| bits.as_ref().is_some_and(|bits| bits[fd / 8] >> (fd % 8) & 1 != 0);
    let wanted = bits.iter().flatten().flatten().map(|byte| byte.count_ones() as usize).sum::<usize>().min(count);
    let mut watched = room(wanted)?;
    let mut origin = room(wanted)?;
    for fd in 0..count {
        let mut wanted = Ready::empty();
        for (set, bits) in bits.iter().enumerate() {
            if is_set(bits, fd) {
                wanted |= SETS[set];
            }
        }
        if !wanted.is_empty() {
            let number = u32::try_from(fd).map_err(|_| Errno::EINVAL)?;
            watched.push(Watched { file: Some(task.files.get(number)?), wanted, skipped: false });
            origin.push(fd);
        }
    }
    let mut found: Vec<Ready> = room(watched.len())?;
    found.resize(watched.len(), Ready::empty());
    wait(&watched, &mut found, deadline)?;
    task.restart_deadline = None;
    let mut ready_count = 0;
    for (set, (at, bits)) in sets.iter().zip(&mut bits).enumerate() {
        let Some(bits) = bits else { continue };
        // At most 8 KiB: a bit for each descriptor.
        let mut out = buffer(bytes)?;
        for (fd, ready) in origin.iter().zip(&found) {
            if bits[fd / 8] >> (fd % 8) & 1 != 0 && ready.intersects(SETS[set]) {
                out[fd / 8] |= 1 << (fd % 8);
                ready_count += 1;
            }
        }
        at.write(&out)?;
    }
    Ok(ready_count)
}

pub fn select(task: &mut Task, count: u32, reads: Ptr, writes: Ptr, exceptions: Ptr, timeout: Ptr) -> Result {
    let deadline = read_deadline(task, timeout, Ptr::read_timeval)?;
    let outcome = select_sets(task, count, [reads, writes, exceptions], deadline);
    write_left(timeout, deadline, |left| linux_abi::Timeval::from_nanos(left.0).encode());
    outcome
}

pub fn pselect6(task: &mut Task, count: u32, reads: Ptr, writes: Ptr, exceptions: Ptr, timeout: Ptr, mask: Ptr) -> Result {
    // The sixth argument points at {mask, size}.
    let mask = if mask.given() { read_mask(Ptr(mask.read_u64()?), mask.plus(8).read_u64()?)? } else { None };
    let deadline = read_deadline(task, timeout, Ptr::read_timespec)?;
    let outcome = with_mask(task, mask, |task| select_sets(task, count, [reads, writes, exceptions], deadline));
    write_left(timeout, deadline, |left| linux_abi::Timespec::from_nanos(left.0).encode());
    outcome
}

// epoll(7)

pub fn epoll_create(task: &mut Task, size: i32) -> Result {
    if size <= 0 { Err(Errno::EINVAL.into()) } else { epoll_create1(task, 0) }
}
pub fn epoll_create1(task: &mut Task, flags: u32) -> Result {
    crate::io::only(flags, O_CLOEXEC)?;
    crate::io::install(task, epoll::new(), flags & O_CLOEXEC != 0)
}
pub fn epoll_ctl(task: &mut Task, set: Fd, operation: u32, fd: Fd, event: Ptr) -> Result {
    let set = args::file(task, set)?;
    let file = args::file(task, fd)?;
    let interest = |event: Ptr| -> Result<Interest> {
        let event = EpollEvent::decode(&event.read()?);
        Ok(Interest { mask: event.events, data: event.data })
    };
    let change = match operation {
        EPOLL_CTL_ADD => Change::Add(interest(event)?),
        EPOLL_CTL_MOD => Change::Modify(interest(event)?),
        EPOLL_CTL_DEL => Change::Remove,
        _ => return Err(Errno::EINVAL.into()),
    };
    if Arc::ptr_eq(&set, &file) {
        return Err(Errno::EINVAL.into());
    }
    // Regular files are always ready and cannot be watched.
    if file.pollee().is_none() {
        return Err(Errno::EPERM.into());
    }
    let number = i32::try_from(fd.0).map_err(|_| Errno::EBADF)?;
    epoll::of(&set)?.control(number, &file, change)?;
    Ok(0)
}
fn epoll_collect(task: &mut Task, set: Fd, to: Ptr, room: i32, deadline: Option<Nanos>) -> Result {
    /// Most events one call reports; more come with the next.
    const EVENTS_MAX: usize = 1024;
    let room = usize::try_from(room).ok().filter(|room| *room > 0).ok_or(Errno::EINVAL)?.min(EVENTS_MAX);
    let set = args::file(task, set)?;
    let found = match epoll::of(&set)?.wait(room, deadline) {
        // Nothing in time.
        Err(vfs::VfsError::WouldBlock) => Vec::new(),
        other => other?,
    };
    task.restart_deadline = None;
    let bytes: Vec<u8> = found.iter().flat_map(|(events, data)| EpollEvent { events: *events, data: *data }.encode()).collect();
    to.write(&bytes)?;
    Ok(found.len() as u64)
}
pub fn epoll_wait(task: &mut Task, set: Fd, to: Ptr, room: i32, timeout: i32) -> Result {
    let deadline = match u64::try_from(timeout) {
        Ok(millis) => Some(task.deadline_after(Nanos::from_millis(millis))),
        Err(_) => None,
    };
    epoll_collect(task, set, to, room, deadline)
}
pub fn epoll_pwait(task: &mut Task, set: Fd, to: Ptr, room: i32, timeout: i32, mask: Ptr) -> Result {
    let mask = read_mask(mask, 8)?;
    with_mask(task, mask, |task| epoll_wait(task, set, to, room, timeout))
}
pub fn epoll_pwait2(task: &mut Task, set: Fd, to: Ptr, room: i32, timeout: Ptr, mask: Ptr) -> Result {
    let mask = read_mask(mask, 8)?;
    let deadline = read_deadline(task, timeout, Ptr::read_timespec)?;
    with_mask(task, mask, |task| epoll_collect(task, set, to, room, deadline))
}
