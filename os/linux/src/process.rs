//! Processes: birth, exec, end, ids, groups, limits.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use linux_abi::consts::fcntl::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW};
use linux_abi::consts::process::*;
use linux_abi::{Bytes, Errno, Rusage, SigDetail, SigInfo, Timeval, field_u64};
use proc::exec::{Program, STRING_MAX, STRINGS_MAX};
use proc::{Children, Credentials, Limit, Process, Status, Task, Times, UNLIMITED, WaitOptions, ZoneEnd};
use zone::Privilege;

use crate::args::{Arg, DirFd, Path, Ptr, buffer, place_at, start};
use crate::fail::{Fail, Result};
use crate::paths::Paths;

// Birth.

fn born(task: &mut Task, args: &proc::Clone) -> Result {
    let pid = proc::clone(task, args)?;
    Ok(task.process.show(pid).into())
}
pub fn fork(task: &mut Task) -> Result {
    born(task, &proc::Clone::FORK)
}
pub fn vfork(task: &mut Task) -> Result {
    born(task, &proc::Clone::VFORK)
}
pub fn clone(task: &mut Task, flags: u64, stack: u64, parent_tid: u64, child_tid: u64, tls: u64) -> Result {
    let exit_signal = u32::try_from(flags & CSIGNAL).map_err(|_| Errno::EINVAL)?;
    // The upper half of the register does not count; CLONE_DETACHED and CLONE_UNTRACED have no meaning any more.
    let flags = flags & 0xffff_ffff & !(CSIGNAL | CLONE_DETACHED | CLONE_UNTRACED);
    born(task, &proc::Clone { flags, stack, tls, parent_tid, child_tid, exit_signal })
}
/// `struct clone_args`: flags 0, pidfd 8, child_tid 16, parent_tid 24, exit_signal 32, stack 40, stack_size 48, tls 56,
/// set_tid 64, set_tid_size 72, cgroup 80.
pub fn clone3(task: &mut Task, at: Ptr, size: u64) -> Result {
    if size < 64 {
        return Err(Errno::EINVAL.into());
    }
    let size = usize::try_from(size).ok().filter(|size| *size <= 4096).ok_or(Errno::E2BIG)?;
    let raw = at.read_vec(size)?;
    if raw.iter().skip(88).any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    let word = |offset| field_u64(&raw, offset);
    let (stack, stack_size) = (word(40), word(48));
    if (stack == 0) != (stack_size == 0) || word(64) != 0 || word(72) != 0 || word(0) & CSIGNAL != 0 {
        return Err(Errno::EINVAL.into());
    }
    let exit_signal = u32::try_from(word(32)).map_err(|_| Errno::EINVAL)?;
    born(
        task,
        &proc::Clone {
            flags: word(0),
            stack: stack.wrapping_add(stack_size),
            tls: word(56),
            parent_tid: word(24),
            child_tid: word(16),
            exit_signal,
        },
    )
}
/// New namespaces are what zones are for; what merely stops sharing inside a process is done.
pub fn unshare(task: &mut Task, flags: u64) -> Result {
    if flags & CLONE_NEW_ANY != 0 {
        return Err(Errno::EPERM.into());
    }
    if flags & !(CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM) != 0 || task.process.lwps().len() != 1 {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

// Exec.

/// What `execve` reads, and the kernel memory that is set aside for it.
struct Strings {
    zone: kif::ZoneId,
    /// As the limit counts: bytes, terminators, pointers.
    total: usize,
    /// Kernel memory that holds them and will hold their copies, and how much of it is set aside.
    kept: usize,
    held: Vec<kif::Reservation>,
}

impl Strings {
    /// Set aside at once.
    const STEP: usize = 128 << 10;

    fn read(&mut self, at: Ptr) -> Result<Vec<Vec<u8>>> {
        let mut out = Vec::new();
        if !at.given() {
            return Ok(out);
        }
        loop {
            let string = Ptr(at.plus(out.len() as u64 * 8).read_u64()?);
            if !string.given() {
                return Ok(out);
            }
            let text = string.read_string(STRING_MAX, Errno::E2BIG)?;
            self.total += text.len() + 1 + 8;
            if self.total > STRINGS_MAX {
                return Err(Errno::E2BIG.into());
            }
            // Each is here, in its allocator's size, in a list that doubles as it grows, and in the image of the stack with two pointers on the way there.
            self.kept += 3 * text.len() + 5 * size_of::<Vec<u8>>();
            while self.kept > self.held.len() * Self::STEP {
                self.held.push(kif::reserve(self.zone, Self::STEP as u64).map_err(|kif::OutOfMemory| Errno::ENOMEM)?);
            }
            out.push(text);
        }
    }
}

fn run(task: &mut Task, at: Option<&vfs::Place>, path: Vec<u8>, argv: Ptr, envp: Ptr) -> Result {
    let mut strings = Strings { zone: task.zone.id(), total: 0, kept: 0, held: Vec::new() };
    let mut arguments = strings.read(argv)?;
    if arguments.is_empty() {
        arguments.push(Vec::new());
    }
    let environment = strings.read(envp)?;
    proc::exec::exec(task, at, Program { path, arguments, environment })?;
    Err(Fail::RegistersSet)
}
pub fn execve(task: &mut Task, path: Path, argv: Ptr, envp: Ptr) -> Result {
    run(task, None, path.0, argv, envp)
}
pub fn execveat(task: &mut Task, dir: DirFd, path: Path, argv: Ptr, envp: Ptr, flags: u32) -> Result {
    crate::io::only(flags, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)?;
    let paths = Paths::of(task)?;
    if path.0.is_empty() || flags & AT_SYMLINK_NOFOLLOW != 0 {
        let place = place_at(task, &paths, dir, &path.0, flags & AT_EMPTY_PATH != 0, false)?;
        if place.vnode.kind() == vfs::Kind::Symlink {
            return Err(Errno::ELOOP.into());
        }
        let named = vfs::path_of(&place, &paths.directories.root).ok_or(Errno::ENOENT)?;
        return run(task, None, named, argv, envp);
    }
    let at = start(task, dir, &path.0)?;
    run(task, at.as_ref(), path.0, argv, envp)
}

// End.

pub fn exit(task: &mut Task, status: u32) -> Result {
    task.leave(status.to_le_bytes()[0]);
    Ok(0)
}
pub fn exit_group(task: &mut Task, status: u32) -> Result {
    task.end(Status::Exited(status.to_le_bytes()[0]));
    Ok(0)
}

fn rusage(times: &Times) -> Rusage {
    Rusage {
        user: Timeval::from_nanos(times.user),
        system: Timeval::from_nanos(times.system),
        max_rss_kib: times.peak_kib,
        minor_faults: times.faults,
        voluntary: 0,
        involuntary: 0,
    }
}

pub fn wait4(task: &mut Task, pid: i32, status: Ptr, options: u32, usage: Ptr) -> Result {
    crate::io::only(options, WNOHANG | WUNTRACED | WCONTINUED | WNOTHREAD | WALL | WCLONE)?;
    let children = match pid {
        -1 => Children::Any,
        0 => Children::Group(task.process.group()),
        i32::MIN => return Err(Errno::ESRCH.into()),
        1.. => Children::Pid(task.process.unshow(pid.unsigned_abs())),
        _ => Children::Group(task.process.unshow(pid.unsigned_abs())),
    };
    let found = proc::wait(
        &task.process,
        children,
        WaitOptions {
            exited: true,
            stopped: options & WUNTRACED != 0,
            continued: options & WCONTINUED != 0,
            no_hang: options & WNOHANG != 0,
            peek: false,
            clones: clones(options),
        },
    )?;
    let Some(event) = found else { return Ok(0) };
    status.write_optional(&event.status.to_le_bytes())?;
    usage.write_optional(&rusage(&event.times).encode())?;
    Ok(task.process.show(event.pid).into())
}

fn clones(options: u32) -> Option<bool> {
    if options & WALL != 0 { None } else { Some(options & WCLONE != 0) }
}

pub fn waitid(task: &mut Task, kind: u32, id: u32, info: Ptr, options: u32, usage: Ptr) -> Result {
    crate::io::only(options, WNOHANG | WUNTRACED | WEXITED | WCONTINUED | WNOWAIT | WNOTHREAD | WALL | WCLONE)?;
    if options & (WEXITED | WUNTRACED | WCONTINUED) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let children = match kind {
        P_ALL => Children::Any,
        P_PID if id.cast_signed() > 0 => Children::Pid(task.process.unshow(id)),
        P_PGID if id == 0 => Children::Group(task.process.group()),
        P_PGID if id.cast_signed() > 0 => Children::Group(task.process.unshow(id)),
        _ => return Err(Errno::EINVAL.into()),
    };
    let found = proc::wait(
        &task.process,
        children,
        WaitOptions {
            exited: options & WEXITED != 0,
            stopped: options & WUNTRACED != 0,
            continued: options & WCONTINUED != 0,
            no_hang: options & WNOHANG != 0,
            peek: options & WNOWAIT != 0,
            clones: clones(options),
        },
    )?;
    let Some(event) = found else {
        // "No child yet" is told by a zero si_signo and si_pid.
        info.write_optional(&[0; linux_abi::SIGINFO_BYTES])?;
        return Ok(0);
    };
    let detail = SigDetail::Child {
        pid: task.process.show(event.pid),
        uid: event.uid,
        status: event.value.cast_signed(),
        user_ticks: 0,
        system_ticks: 0,
    };
    let signal = linux_abi::consts::signal::SIGCHLD;
    info.write_optional(&SigInfo { signal, code: event.code, errno: 0, detail }.encode())?;
    usage.write_optional(&rusage(&event.times).encode())?;
    Ok(0)
}

pub fn getrusage(task: &mut Task, who: i32, to: Ptr) -> Result {
    let times = match who {
        RUSAGE_SELF => task.process.times(),
        RUSAGE_CHILDREN => task.process.child_times(),
        RUSAGE_THREAD => {
            let (user, system) = task.lwp.times();
            Times { user: user.0, system: system.0, ..Times::default() }
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    to.write(&rusage(&times).encode())?;
    Ok(0)
}

pub fn times(task: &mut Task, to: Ptr) -> Result {
    const TICK: u64 = 1_000_000_000 / linux_abi::consts::time::HZ;
    let (own, children) = (task.process.times(), task.process.child_times());
    let mut out = Bytes::with_capacity(32);
    out.u64(own.user / TICK).u64(own.system / TICK).u64(children.user / TICK).u64(children.system / TICK);
    to.write_optional(&out.done())?;
    Ok(kif::clock().monotonic().0 / TICK)
}

// Ids.

pub fn getpid(task: &mut Task) -> Result {
    Ok(task.process.show(task.process.pid()).into())
}
pub fn getppid(task: &mut Task) -> Result {
    Ok(task.process.parent_pid().into())
}
pub fn gettid(task: &mut Task) -> Result {
    Ok(task.process.show(task.lwp.tid()).into())
}
pub fn set_tid_address(task: &mut Task, at: u64) -> Result {
    task.clear_tid = at;
    gettid(task)
}

/// The process a pid argument means; 0 is the caller.
fn named(task: &Task, pid: i32) -> Result<alloc::sync::Arc<Process>> {
    match u32::try_from(pid) {
        Ok(0) => Ok(alloc::sync::Arc::clone(&task.process)),
        Ok(pid) => Ok(proc::lookup(task.zone.id(), pid)?),
        Err(_) => Err(Errno::ESRCH.into()),
    }
}

pub fn getpgrp(task: &mut Task) -> Result {
    Ok(task.process.show(task.process.group()).into())
}
pub fn getpgid(task: &mut Task, pid: i32) -> Result {
    Ok(task.process.show(named(task, pid)?.group()).into())
}
pub fn getsid(task: &mut Task, pid: i32) -> Result {
    Ok(task.process.show(named(task, pid)?.session()).into())
}
pub fn setpgid(task: &mut Task, pid: i32, group: i32) -> Result {
    let group = u32::try_from(group).map_err(|_| Errno::EINVAL)?;
    let target = named(task, pid)?.pid();
    let group = if group == 0 { target } else { task.process.unshow(group) };
    proc::set_group(&task.process, target, group)?;
    Ok(0)
}
pub fn setsid(task: &mut Task) -> Result {
    let session = proc::set_session(&task.process)?;
    Ok(task.process.show(session).into())
}

pub fn getuid(task: &mut Task) -> Result {
    Ok(task.process.cred().uid.into())
}
pub fn geteuid(task: &mut Task) -> Result {
    Ok(task.process.cred().euid.into())
}
pub fn getgid(task: &mut Task) -> Result {
    Ok(task.process.cred().gid.into())
}
pub fn getegid(task: &mut Task) -> Result {
    Ok(task.process.cred().egid.into())
}
pub fn getresuid(task: &mut Task, real: Ptr, effective: Ptr, saved: Ptr) -> Result {
    let cred = task.process.cred();
    for (at, id) in [(real, cred.uid), (effective, cred.euid), (saved, cred.suid)] {
        at.write(&id.to_le_bytes())?;
    }
    Ok(0)
}
pub fn getresgid(task: &mut Task, real: Ptr, effective: Ptr, saved: Ptr) -> Result {
    let cred = task.process.cred();
    for (at, id) in [(real, cred.gid), (effective, cred.egid), (saved, cred.sgid)] {
        at.write(&id.to_le_bytes())?;
    }
    Ok(0)
}

fn change_cred(task: &Task, change: impl FnOnce(&mut Credentials) -> core::result::Result<(), Errno>) -> Result {
    let mut cred: Credentials = (*task.process.cred()).clone();
    change(&mut cred)?;
    task.process.set_cred(cred);
    Ok(0)
}

/// Sets real, effective and saved user id; `u32::MAX` leaves one. Without root each must be one of the present three.
fn set_uids(task: &Task, real: u32, effective: u32, saved: u32) -> Result {
    change_cred(task, |cred| {
        let present = [cred.uid, cred.euid, cred.suid, u32::MAX];
        if !cred.is_root() && [real, effective, saved].iter().any(|id| !present.contains(id)) {
            return Err(Errno::EPERM);
        }
        for (slot, id) in [(&mut cred.uid, real), (&mut cred.euid, effective), (&mut cred.suid, saved)] {
            if id != u32::MAX {
                *slot = id;
            }
        }
        cred.follow_effective();
        Ok(())
    })
}
fn set_gids(task: &Task, real: u32, effective: u32, saved: u32) -> Result {
    change_cred(task, |cred| {
        let present = [cred.gid, cred.egid, cred.sgid, u32::MAX];
        if !cred.is_root() && [real, effective, saved].iter().any(|id| !present.contains(id)) {
            return Err(Errno::EPERM);
        }
        for (slot, id) in [(&mut cred.gid, real), (&mut cred.egid, effective), (&mut cred.sgid, saved)] {
            if id != u32::MAX {
                *slot = id;
            }
        }
        cred.follow_effective();
        Ok(())
    })
}
pub fn setuid(task: &mut Task, uid: u32) -> Result {
    if uid == u32::MAX {
        return Err(Errno::EINVAL.into());
    }
    if task.process.cred().is_root() { set_uids(task, uid, uid, uid) } else { set_uids(task, u32::MAX, uid, u32::MAX) }
}
pub fn setgid(task: &mut Task, gid: u32) -> Result {
    if gid == u32::MAX {
        return Err(Errno::EINVAL.into());
    }
    if task.process.cred().is_root() { set_gids(task, gid, gid, gid) } else { set_gids(task, u32::MAX, gid, u32::MAX) }
}
pub fn setresuid(task: &mut Task, real: u32, effective: u32, saved: u32) -> Result {
    set_uids(task, real, effective, saved)
}
pub fn setresgid(task: &mut Task, real: u32, effective: u32, saved: u32) -> Result {
    set_gids(task, real, effective, saved)
}
pub fn setreuid(task: &mut Task, real: u32, effective: u32) -> Result {
    let cred = task.process.cred();
    let new_effective = if effective == u32::MAX { cred.euid } else { effective };
    // The saved id follows when the real one is set, or the effective one becomes something else than the real one.
    let saved = if real != u32::MAX || (effective != u32::MAX && effective != cred.uid) { new_effective } else { u32::MAX };
    if !cred.is_root() && real != u32::MAX && real != cred.uid && real != cred.euid {
        return Err(Errno::EPERM.into());
    }
    set_uids(task, real, effective, saved)
}
pub fn setregid(task: &mut Task, real: u32, effective: u32) -> Result {
    let cred = task.process.cred();
    let new_effective = if effective == u32::MAX { cred.egid } else { effective };
    let saved = if real != u32::MAX || (effective != u32::MAX && effective != cred.gid) { new_effective } else { u32::MAX };
    if !cred.is_root() && real != u32::MAX && real != cred.gid && real != cred.egid {
        return Err(Errno::EPERM.into());
    }
    set_gids(task, real, effective, saved)
}
pub fn setfsuid(task: &mut Task, uid: u32) -> Result {
    let old = task.process.cred().file.uid;
    let allowed = |cred: &Credentials| cred.is_root() || [cred.uid, cred.euid, cred.suid, cred.file.uid].contains(&uid);
    if allowed(&task.process.cred()) {
        change_cred(task, |cred| {
            cred.file.uid = uid;
            Ok(())
        })?;
    }
    Ok(old.into())
}
pub fn setfsgid(task: &mut Task, gid: u32) -> Result {
    let old = task.process.cred().file.gid;
    let allowed = |cred: &Credentials| cred.is_root() || [cred.gid, cred.egid, cred.sgid, cred.file.gid].contains(&gid);
    if allowed(&task.process.cred()) {
        change_cred(task, |cred| {
            cred.file.gid = gid;
            Ok(())
        })?;
    }
    Ok(old.into())
}
pub fn getgroups(task: &mut Task, room: i32, to: Ptr) -> Result {
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let cred = task.process.cred();
    let groups = &cred.file.groups;
    if room != 0 {
        if room < groups.len() {
            return Err(Errno::EINVAL.into());
        }
        let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_le_bytes()).collect();
        to.write(&bytes)?;
    }
    Ok(groups.len() as u64)
}
pub fn setgroups(task: &mut Task, count: u32, from: Ptr) -> Result {
    /// NGROUPS_MAX is 65,536 on Linux; so many groups would make every access check long.
    const GROUPS_MAX: u32 = 1024;
    if !task.process.cred().is_root() {
        return Err(Errno::EPERM.into());
    }
    if count > GROUPS_MAX {
        return Err(Errno::EINVAL.into());
    }
    let raw = from.read_vec(usize::try_from(count).map_err(|_| Errno::EINVAL)? * 4)?;
    let groups: Vec<u32> = raw.chunks_exact(4).map(|word| linux_abi::field_u32(word, 0)).collect();
    change_cred(task, |cred| {
        cred.file.groups = groups.into();
        Ok(())
    })
}

/// `capget(2)`: root has every capability Linux 6 knows (41), others none.
pub fn capget(task: &mut Task, header: Ptr, data: Ptr) -> Result {
    const VERSION_3: u32 = 0x2008_0522;
    const LAST: u64 = (1 << 41) - 1;
    let version = header.read_u32()?;
    if !matches!(version, 0x1998_0330 | 0x2007_1026 | VERSION_3) {
        header.write(&VERSION_3.to_le_bytes())?;
        return if data.given() { Err(Errno::EINVAL.into()) } else { Ok(0) };
    }
    let pid = header.plus(4).read_u32()?.cast_signed();
    let all = if named(task, pid)?.cred().is_root() { LAST } else { 0 };
    let halves = if version == 0x1998_0330 { 1 } else { 2 };
    let mut out = Bytes::with_capacity(24);
    for half in 0..halves {
        let bits = u32::try_from(all >> (32 * half) & 0xffff_ffff).map_err(|_| Errno::EINVAL)?;
        out.u32(bits).u32(bits).u32(0);
    }
    data.write_optional(&out.done())?;
    Ok(0)
}
/// Capabilities cannot be given away one by one: what root has goes with the user id.
pub fn capset(task: &mut Task, header: Ptr, data: Ptr) -> Result {
    let _: [u8; 8] = header.read()?;
    let _: [u8; 24] = data.read()?;
    if task.process.cred().is_root() { Ok(0) } else { Err(Errno::EPERM.into()) }
}

// Limits and priorities.

fn limit_number(number: u32) -> Result<u32> {
    if usize::try_from(number).is_ok_and(|number| number < RLIMITS.len()) { Ok(number) } else { Err(Errno::EINVAL.into()) }
}
fn set_limit(task: &Task, process: &Process, number: u32, at: Ptr) -> Result<()> {
    let raw: [u8; 16] = at.read()?;
    let mut wanted = Limit { soft: field_u64(&raw, 0), hard: field_u64(&raw, 8) };
    if wanted.soft > wanted.hard {
        return Err(Errno::EINVAL.into());
    }
    let present = process.limits().0[number as usize];
    if wanted.hard > present.hard && !task.process.cred().is_root() {
        return Err(Errno::EPERM.into());
    }
    if number == RLIMIT_NOFILE {
        if wanted.hard > u64::from(proc::FILES_MAX) && wanted.hard != UNLIMITED {
            return Err(Errno::EPERM.into());
        }
        wanted.hard = wanted.hard.min(proc::FILES_MAX.into());
        wanted.soft = wanted.soft.min(wanted.hard);
    }
    process.set_limit(number, wanted);
    Ok(())
}
fn get_limit(process: &Process, number: u32, to: Ptr) -> Result<()> {
    let limit = process.limits().0[number as usize];
    let mut out = Bytes::with_capacity(16);
    out.u64(limit.soft).u64(limit.hard);
    to.write(&out.done())
}
pub fn getrlimit(task: &mut Task, number: u32, to: Ptr) -> Result {
    get_limit(&task.process, limit_number(number)?, to)?;
    Ok(0)
}
pub fn setrlimit(task: &mut Task, number: u32, from: Ptr) -> Result {
    set_limit(task, &task.process, limit_number(number)?, from)?;
    Ok(0)
}
pub fn prlimit64(task: &mut Task, pid: i32, number: u32, new: Ptr, old: Ptr) -> Result {
    let number = limit_number(number)?;
    let process = named(task, pid)?;
    let own = alloc::sync::Arc::ptr_eq(&process, &task.process);
    if !own && !task.process.cred().is_root() && task.process.cred().uid != process.cred().uid {
        return Err(Errno::EPERM.into());
    }
    let before = process.limits().0[number as usize];
    if new.given() {
        set_limit(task, &process, number, new)?;
    }
    let mut out = Bytes::with_capacity(16);
    out.u64(before.soft).u64(before.hard);
    old.write_optional(&out.done())?;
    Ok(0)
}

/// Who getpriority and setpriority mean.
fn members(task: &Task, which: u32, who: u32) -> Result<Vec<alloc::sync::Arc<Process>>> {
    const PROCESS: u32 = 0;
    const GROUP: u32 = 1;
    const USER: u32 = 2;
    let mut all = proc::list(task.zone.id());
    match which {
        PROCESS => return Ok(vec![named(task, who.cast_signed())?]),
        GROUP => {
            let group = if who == 0 { task.process.group() } else { task.process.unshow(who) };
            all.retain(|process| process.group() == group);
        }
        USER => {
            let uid = if who == 0 { task.process.cred().uid } else { who };
            all.retain(|process| process.cred().uid == uid);
        }
        _ => return Err(Errno::EINVAL.into()),
    }
    if all.is_empty() { Err(Errno::ESRCH.into()) } else { Ok(all) }
}
/// Returns 20 - nice (1 to 40): the library turns it back.
pub fn getpriority(task: &mut Task, which: u32, who: u32) -> Result {
    let best = members(task, which, who)?.iter().map(|process| process.nice()).min().unwrap_or(0);
    u64::try_from(20 - best).map_err(|_| Errno::EINVAL.into())
}
pub fn setpriority(task: &mut Task, which: u32, who: u32, nice: i32) -> Result {
    let nice = i8::try_from(nice.clamp(-20, 19)).map_err(|_| Errno::EINVAL)?;
    let cred = task.process.cred();
    for process in members(task, which, who)? {
        let owner = process.cred();
        if !cred.is_root() && cred.euid != owner.uid && cred.euid != owner.euid {
            return Err(Errno::EPERM.into());
        }
        if i32::from(nice) < process.nice() && !(cred.is_root() && task.zone.may(Privilege::RaisePriority)) {
            return Err(Errno::EACCES.into());
        }
        process.set_nice(nice);
    }
    Ok(0)
}

// Scheduling: one class (fair share) for all LWPs.

pub fn sched_yield(_task: &mut Task) -> Result {
    kif::spawn().yield_now();
    Ok(0)
}
pub fn sched_getaffinity(task: &mut Task, pid: i32, size: u32, to: Ptr) -> Result {
    named_lwp(task, pid)?;
    if size < 8 || !size.is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    to.write(&cpu_mask().to_le_bytes())?;
    Ok(8)
}
pub fn sched_setaffinity(task: &mut Task, pid: i32, size: u32, from: Ptr) -> Result {
    named_lwp(task, pid)?;
    let raw = from.read_vec(usize::try_from(size.min(128)).map_err(|_| Errno::EINVAL)?)?;
    // Any mask that leaves a CPU is taken; the dispatcher places LWPs itself.
    if field_u64(&[raw.as_slice(), &[0; 8]].concat(), 0) & cpu_mask() == 0 { Err(Errno::EINVAL.into()) } else { Ok(0) }
}
/// CPUs that user code runs on.
const fn cpu_mask() -> u64 {
    1
}
fn named_lwp(task: &Task, tid: i32) -> Result<()> {
    match u32::try_from(tid) {
        Ok(0) => Ok(()),
        Ok(tid) => Ok(proc::lookup_lwp(task.zone.id(), tid).map(drop)?),
        Err(_) => Err(Errno::ESRCH.into()),
    }
}
pub fn sched_getscheduler(task: &mut Task, pid: i32) -> Result {
    named_lwp(task, pid)?;
    Ok(0)
}
pub fn sched_setscheduler(task: &mut Task, pid: i32, policy: u32, param: Ptr) -> Result {
    named_lwp(task, pid)?;
    let priority = param.read_u32()?;
    // SCHED_OTHER, SCHED_BATCH, SCHED_IDLE; real-time classes are not given to programs.
    match policy {
        0 | 3 | 5 if priority == 0 => Ok(0),
        1 | 2 => Err(Errno::EPERM.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}
pub fn sched_getparam(task: &mut Task, pid: i32, to: Ptr) -> Result {
    named_lwp(task, pid)?;
    to.write(&[0; 4])?;
    Ok(0)
}
pub fn sched_setparam(task: &mut Task, pid: i32, from: Ptr) -> Result {
    named_lwp(task, pid)?;
    if from.read_u32()? == 0 { Ok(0) } else { Err(Errno::EINVAL.into()) }
}
pub fn sched_get_priority(_task: &mut Task, policy: u32) -> Result {
    if matches!(policy, 0 | 3 | 5) { Ok(0) } else { Err(Errno::EINVAL.into()) }
}
pub fn getcpu(_task: &mut Task, cpu: Ptr, node: Ptr) -> Result {
    cpu.write_optional(&sync::cpu().0.to_le_bytes())?;
    node.write_optional(&[0; 4])?;
    Ok(0)
}
/// `rseq(2)`: struct rseq has cpu_id_start 0, cpu_id 4, rseq_cs 8, flags 16, node_id 20, mm_cid 24.
pub fn rseq(task: &mut Task, at: u64, length: u32, flags: u32, signature: u32) -> Result {
    const UNREGISTER: u32 = 1;
    if flags == UNREGISTER {
        if task.rseq.0 != at || at == 0 {
            return Err(Errno::EINVAL.into());
        }
        if task.rseq.1 != signature {
            return Err(Errno::EPERM.into());
        }
        Ptr(at).write(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])?;
        task.rseq = (0, 0);
        return Ok(0);
    }
    crate::io::only(flags, 0)?;
    if task.rseq.0 != 0 {
        return Err(if task.rseq == (at, signature) { Errno::EBUSY } else { Errno::EINVAL }.into());
    }
    if at == 0 || !at.is_multiple_of(32) || length < 32 {
        return Err(Errno::EINVAL.into());
    }
    let mut area = Bytes::with_capacity(28);
    area.u32(sync::cpu().0).u32(sync::cpu().0).u64(0).u32(0).u32(0).u32(0);
    Ptr(at).write(&area.done())?;
    task.rseq = (at, signature);
    Ok(0)
}

// Names, bases, flags of a process.

pub fn arch_prctl(task: &mut Task, code: u32, address: u64) -> Result {
    match code {
        ARCH_SET_FS | ARCH_SET_GS => {
            if address >= vm::USER_END {
                return Err(Errno::EPERM.into());
            }
            let regs = task.regs();
            if code == ARCH_SET_FS {
                regs.fs_base = address;
            } else {
                regs.gs_base = address;
            }
        }
        ARCH_GET_FS => {
            let base = task.regs().fs_base;
            Ptr(address).write(&base.to_le_bytes())?;
        }
        ARCH_GET_GS => {
            let base = task.regs().gs_base;
            Ptr(address).write(&base.to_le_bytes())?;
        }
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

pub fn prctl(task: &mut Task, option: u32, value: u64, third: u64, fourth: u64, fifth: u64) -> Result {
    let process = &task.process;
    let rest_zero = third == 0 && fourth == 0 && fifth == 0;
    match option {
        PR_SET_PDEATHSIG => {
            let crate::args::Sig0(signal) = Arg::parse(value)?;
            process.death_signal().store(signal, Ordering::Relaxed);
        }
        PR_GET_PDEATHSIG => Ptr(value).write(&process.death_signal().load(Ordering::Relaxed).to_le_bytes())?,
        PR_GET_DUMPABLE => return Ok(1),
        PR_SET_DUMPABLE | PR_SET_KEEPCAPS if value <= 1 => {}
        PR_GET_KEEPCAPS => {}
        PR_SET_NAME => {
            let mut name = [0; 16];
            let text = Ptr(value).read_string(1 << 12, Errno::EFAULT)?;
            for (to, from) in name.iter_mut().zip(text.iter().take(15)) {
                *to = *from;
            }
            task.lwp.set_name(&name);
        }
        PR_GET_NAME => Ptr(value).write(&task.lwp.name())?,
        PR_CAPBSET_READ if value <= 40 => return Ok(u64::from(process.cred().is_root())),
        PR_CAPBSET_DROP if value <= 40 => {}
        PR_SET_TIMERSLACK => {}
        PR_GET_TIMERSLACK => return Ok(50_000),
        PR_SET_CHILD_SUBREAPER => process.subreaper().store(value != 0, Ordering::Relaxed),
        PR_GET_CHILD_SUBREAPER => {
            Ptr(value).write(&u32::from(process.subreaper().load(Ordering::Relaxed)).to_le_bytes())?;
        }
        PR_SET_NO_NEW_PRIVS if value == 1 && rest_zero => process.no_new_privileges().store(true, Ordering::Relaxed),
        PR_GET_NO_NEW_PRIVS if value == 0 && rest_zero => {
            return Ok(u64::from(process.no_new_privileges().load(Ordering::Relaxed)));
        }
        // Names of anonymous mappings are not shown: accepted, since the C library only annotates with them.
        PR_SET_VMA => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

pub fn personality(_task: &mut Task, persona: u32) -> Result {
    if persona == u32::MAX || persona == 0 { Ok(0) } else { Err(Errno::EINVAL.into()) }
}

/// `reboot(2)`: in the global zone the machine, in another zone the zone.
pub fn reboot(task: &mut Task, magic: u32, magic2: u32, command: u32) -> Result {
    if magic != REBOOT_MAGIC1 || !REBOOT_MAGIC2.contains(&magic2) {
        return Err(Errno::EINVAL.into());
    }
    if !task.process.cred().is_root() {
        return Err(Errno::EPERM.into());
    }
    let why = match command {
        REBOOT_CAD_ON | REBOOT_CAD_OFF => return Ok(0),
        REBOOT_HALT | REBOOT_POWER_OFF => ZoneEnd::Halt,
        REBOOT_RESTART | REBOOT_RESTART2 => ZoneEnd::Reboot,
        _ => return Err(Errno::EINVAL.into()),
    };
    proc::end_zone(&task.zone, why);
    Ok(0)
}


pub fn set_robust_list(task: &mut Task, head: u64, length: u64) -> Result {
    if length != linux_abi::consts::futex::ROBUST_HEAD_BYTES {
        return Err(Errno::EINVAL.into());
    }
    task.robust_list = head;
    Ok(0)
}
pub fn get_robust_list(task: &mut Task, pid: i32, head: Ptr, length: Ptr) -> Result {
    if pid != 0 && !task.process.show(task.lwp.tid()).cast_signed().eq(&pid) {
        return Err(Errno::EPERM.into());
    }
    head.write(&task.robust_list.to_le_bytes())?;
    length.write(&linux_abi::consts::futex::ROBUST_HEAD_BYTES.to_le_bytes())?;
    Ok(0)
}

/// Random bytes; the source never runs dry.
pub fn getrandom(_task: &mut Task, to: Ptr, length: u64, flags: u32) -> Result {
    crate::io::only(flags, 7)?;
    let length = usize::try_from(length.min(0x1ff_ffff)).map_err(|_| Errno::EINVAL)?;
    let mut chunk = buffer(length.min(4096))?;
    let mut done = 0;
    while done < length {
        let count = chunk.len().min(length - done);
        kif::rng().fill(&mut chunk[..count]);
        to.plus(done as u64).write(&chunk[..count])?;
        done += count;
    }
    Ok(length as u64)
}
