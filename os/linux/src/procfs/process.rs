//! What each process shows.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use kif::{PAGE_SIZE, ZoneId};
use linux_abi::consts::process::RLIMITS;
use proc::UNLIMITED;
use vfs::{MountFlags, Result, VfsError};

use super::system::TICK_NS;
use super::{Owner, View, viewer_root};

/// Makes a file's text.
type Read = fn(&View, &Owner) -> Result<Vec<u8>>;
/// Takes what was written.
type Change = fn(&Owner, &[u8]) -> Result<()>;

/// A file in a process's directory.
pub(super) struct Row {
    pub name: &'static str,
    pub mode: u32,
    pub read: Read,
    pub write: Option<Change>,
}

const fn row(name: &'static str, mode: u32, read: Read) -> Row {
    Row { name, mode, read, write: None }
}

/// The files.
pub(super) const FILES: [Row; 22] = [
    row("auxv", 0o400, |_, owner| Ok(owner.process()?.image().auxv.to_vec())),
    row("cgroup", 0o444, |_, _| Ok(b"0::/\n".to_vec())),
    row("cmdline", 0o444, |view, owner| strings(view, owner, proc::Process::command_line)),
    Row { name: "comm", mode: 0o644, read: comm, write: Some(set_comm) },
    row("environ", 0o400, |view, owner| strings(view, owner, proc::Process::environment)),
    row("io", 0o400, |_, _| Ok(b"rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n".to_vec())),
    row("limits", 0o444, limits),
    row("loginuid", 0o444, |_, _| Ok(b"4294967295".to_vec())),
    row("maps", 0o444, maps),
    row("mountinfo", 0o444, mountinfo),
    row("mounts", 0o444, mounts),
    row("oom_adj", 0o444, |_, _| Ok(b"0\n".to_vec())),
    row("oom_score", 0o444, |_, _| Ok(b"0\n".to_vec())),
    Row { name: "oom_score_adj", mode: 0o644, read: |_, _| Ok(b"0\n".to_vec()), write: Some(|_, _| Ok(())) },
    row("personality", 0o400, |_, _| Ok(b"00000000\n".to_vec())),
    row("sessionid", 0o444, |_, _| Ok(b"4294967295".to_vec())),
    row("smaps", 0o444, smaps),
    row("stat", 0o444, stat),
    row("statm", 0o444, statm),
    row("status", 0o444, status),
    row("wchan", 0o444, |_, _| Ok(b"0".to_vec())),
    row("zone", 0o444, |_, owner| Ok(format!("{}\n", owner.process()?.zone().name()).into_bytes())),
];

/// Number of the limit on the resident set (`getrlimit(2)`).
const RLIMIT_RSS: u32 = 5;
/// Size of the NUL-padded name.
const NAME_BYTES: usize = 16;

/// Most text of a file with a line for each mapping, in bytes.
const MAPPINGS_TEXT_MAX: usize = 4 << 20;

/// Writes a part of the text for each mapping. A process decides how many there are: the text grows fallibly and ends in an error at
/// [`MAPPINGS_TEXT_MAX`].
fn for_each_mapping(owner: &Owner, mut part: impl FnMut(&mut String, &vm::Region) -> core::fmt::Result) -> Result<Vec<u8>> {
    let mut text = String::new();
    let Some(space) = owner.process()?.space() else { return Ok(Vec::new()) };
    let mut from = 0;
    loop {
        let regions = space.regions(from);
        let Some(last) = regions.last() else { return Ok(text.into_bytes()) };
        from = last.end;
        for region in &regions {
            let more = region.name.len() + 1024;
            if text.len() + more > MAPPINGS_TEXT_MAX || text.try_reserve(more).is_err() {
                return Err(VfsError::NoMemory);
            }
            part(&mut text, region).expect("a string takes everything");
        }
    }
}

fn write(body: impl FnOnce(&mut String) -> core::fmt::Result) -> Vec<u8> {
    let mut text = String::new();
    body(&mut text).expect("a string takes everything");
    text.into_bytes()
}

/// Arguments or environment. Those of a program that the operator brought into a zone are not the zone's to read.
fn strings(view: &View, owner: &Owner, which: fn(&proc::Process) -> proc::Result<Vec<u8>>) -> Result<Vec<u8>> {
    let process = owner.process()?;
    if view.zone != ZoneId::GLOBAL && process.is_visitor() {
        return Ok(Vec::new());
    }
    which(&process).map_err(|_| VfsError::NoMemory)
}

/// The state letter; a process that looks at itself finds itself running.
fn state_letter(process: &proc::Process) -> char {
    let is_caller = proc::current().is_some_and(|lwp| lwp.process().pid() == process.pid());
    if is_caller { 'R' } else { process.state_letter() }
}

/// The name of the LWP, or of a process that has none left.
fn name(owner: &Owner) -> Result<String> {
    let process = owner.process()?;
    Ok(owner.lwp().map_or_else(
        || process.name(),
        |lwp| {
            let name = lwp.name();
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
            String::from_utf8_lossy(&name[..end]).into_owned()
        },
    ))
}

fn comm(_view: &View, owner: &Owner) -> Result<Vec<u8>> {
    let mut name = name(owner)?;
    name.push('\n');
    Ok(name.into_bytes())
}

fn set_comm(owner: &Owner, data: &[u8]) -> Result<()> {
    // Only threads of the same process may.
    let mine = proc::current().is_some_and(|lwp| lwp.process().pid() == owner.pid);
    if !mine {
        return Err(VfsError::Invalid);
    }
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    owner.lwp().ok_or(VfsError::NoProcess)?.set_name(&data[..end]);
    Ok(())
}

fn maps(_view: &View, owner: &Owner) -> Result<Vec<u8>> {
    for_each_mapping(owner, map_line)
}

fn map_line(text: &mut String, region: &vm::Region) -> core::fmt::Result {
    let letter = |on: bool, letter: char| if on { letter } else { '-' };
    let protection = region.protection;
    let start = text.len();
    write!(
        text,
        "{:08x}-{:08x} {}{}{}{} {:08x} 00:{:02x} {} ",
        region.start,
        region.end,
        letter(protection.read, 'r'),
        letter(protection.write, 'w'),
        letter(protection.execute, 'x'),
        if region.shared { 's' } else { 'p' },
        region.offset,
        region.device,
        region.inode,
    )?;
    if !region.name.is_empty() {
        // Names stand in column 74, as programs that cut at columns expect.
        let width = (text.len() - start).max(73);
        text.extend(core::iter::repeat_n(' ', width - (text.len() - start)));
        text.push_str(&region.name);
    }
    text.push('\n');
    Ok(())
}

fn smaps(_view: &View, owner: &Owner) -> Result<Vec<u8>> {
    for_each_mapping(owner, |text, region| {
        map_line(text, region)?;
        let (size, resident) = ((region.end - region.start) / 1024, region.resident * 4);
        let (shared, private) = if region.shared { (resident, 0) } else { (0, resident) };
        writeln!(text, "Size:           {size:>8} kB\nRss:            {resident:>8} kB\nPss:            {resident:>8} kB")?;
        writeln!(text, "Shared_Clean:   {:>8} kB\nShared_Dirty:   {shared:>8} kB", 0)?;
        writeln!(text, "Private_Clean:  {:>8} kB\nPrivate_Dirty:  {private:>8} kB", 0)?;
        writeln!(text, "Referenced:     {resident:>8} kB\nAnonymous:      {private:>8} kB\nSwap:           {:>8} kB", 0)
    })
}

fn stat(view: &View, owner: &Owner) -> Result<Vec<u8>> {
    let process = owner.process()?;
    let usage = process.space().map(|space| space.usage()).unwrap_or_default();
    let (times, children) = (process.times(), process.child_times());
    let lwps = process.lwps();
    let lwp = owner.lwp();
    let (user, system) = match (&owner.lwp, &lwp) {
        (Some(_), Some(lwp)) => {
            let (user, system) = lwp.times();
            (user.0, system.0)
        }
        _ => (times.user, times.system),
    };
    let (pending, ignored, caught) = process.signal_summary();
    let blocked = lwp.as_ref().map_or(0, |lwp| lwp.mask().0);
    let parent = process.parent().and_then(|parent| parent.seen_by(view.zone)).unwrap_or(0);
    let session = process.session();
    let tty = vfs::tty::controlling(session.cast_signed());
    let (tty_number, foreground) = tty.map_or((0, -1), |tty| {
        let group = tty.foreground().cast_unsigned();
        (tty.dev().encode(), i64::from(view.shown(&process, group)))
    });
    let image = process.image();
    let started = process.started().since(view.boot()).0 / TICK_NS;
    let nice = process.nice();
    let limit = process.limit(RLIMIT_RSS);
    let exit_code = process.zombie().map_or(0, proc::Status::encode);
    let name = name(owner)?;
    let id = view.shown(&process, owner.tid);
    let (group, session) = (view.shown(&process, process.group()), view.shown(&process, session));
    let letter = state_letter(&process);
    let ticks = |ns: u64| ns / TICK_NS;
    Ok(write(|text| {
        write!(text, "{id} ({name}) {letter} {parent} {group} {session} {tty_number} {foreground} 4194304 ")?;
        write!(text, "{} {} 0 0 ", times.faults, children.faults)?;
        write!(text, "{} {} {} {} ", ticks(user), ticks(system), ticks(children.user), ticks(children.system))?;
        write!(text, "{} {nice} {} 0 {started} ", 20 + nice, lwps.len().max(1))?;
        write!(text, "{} {} {limit} 0 0 {} 0 0 ", usage.mapped * PAGE_SIZE as u64, usage.resident, image.stack_start)?;
        write!(text, "{} {blocked} {} {} 0 0 0 17 0 0 0 0 0 0 0 0 0 ", pending.0, ignored.0, caught.0)?;
        let (arguments, environment) = (image.arguments, image.environment);
        writeln!(text, "{} {} {} {} {exit_code}", arguments.0, arguments.1, environment.0, environment.1)
    }))
}

fn statm(_view: &View, owner: &Owner) -> Result<Vec<u8>> {
    let usage = owner.process()?.space().map(|space| space.usage()).unwrap_or_default();
    let vm::Usage { mapped, resident, shared, text, data, stack } = usage;
    Ok(format!("{mapped} {resident} {shared} {text} 0 {} 0\n", data + stack).into_bytes())
}

fn status(view: &View, owner: &Owner) -> Result<Vec<u8>> {
    let process = owner.process()?;
    let cred = process.cred();
    let usage = process.space().map(|space| space.usage()).unwrap_or_default();
    let peak = process.space().map_or(0, |space| space.peak_resident());
    let (pending, ignored, caught) = process.signal_summary();
    let lwp = owner.lwp();
    let blocked = lwp.as_ref().map_or(0, |lwp| lwp.mask().0);
    let parent = process.parent().and_then(|parent| parent.seen_by(view.zone)).unwrap_or(0);
    let letter = state_letter(&process);
    let state = match letter {
        'R' => "running",
        'T' => "stopped",
        'Z' => "zombie",
        _ => "sleeping",
    };
    let descriptors = process.files().map_or(0, |files| files.count());
    let lwps = process.lwps().len().max(1);
    let name = name(owner)?;
    let kib = |pages: u64| pages * (PAGE_SIZE as u64 / 1024);
    Ok(write(|text| {
        writeln!(text, "Name:\t{name}\nUmask:\t{:04o}\nState:\t{letter} ({state})", process.umask())?;
        writeln!(text, "Tgid:\t{}\nNgid:\t0\nPid:\t{}", view.pid(&process), view.shown(&process, owner.tid))?;
        writeln!(text, "PPid:\t{parent}\nTracerPid:\t0")?;
        writeln!(text, "Uid:\t{}\t{}\t{}\t{}", cred.uid, cred.euid, cred.suid, cred.file.uid)?;
        writeln!(text, "Gid:\t{}\t{}\t{}\t{}", cred.gid, cred.egid, cred.sgid, cred.file.gid)?;
        write!(text, "FDSize:\t{}\nGroups:\t", descriptors.next_power_of_two().max(64))?;
        for group in cred.file.groups.iter() {
            write!(text, "{group} ")?;
        }
        writeln!(text)?;
        if !usage.eq(&vm::Usage::default()) {
            writeln!(text, "VmPeak:\t{:8} kB\nVmSize:\t{:8} kB", kib(usage.mapped), kib(usage.mapped))?;
            writeln!(text, "VmLck:\t       0 kB\nVmHWM:\t{:8} kB\nVmRSS:\t{:8} kB", kib(peak), kib(usage.resident))?;
            writeln!(text, "VmData:\t{:8} kB\nVmStk:\t{:8} kB", kib(usage.data), kib(usage.stack))?;
            writeln!(text, "VmExe:\t{:8} kB\nVmLib:\t       0 kB\nVmSwap:\t       0 kB", kib(usage.text))?;
        }
        writeln!(text, "Threads:\t{lwps}\nSigQ:\t0/{}", process.limit(linux_abi::consts::process::RLIMIT_SIGPENDING))?;
        writeln!(text, "SigPnd:\t{:016x}\nShdPnd:\t{:016x}", 0, pending.0)?;
        writeln!(text, "SigBlk:\t{blocked:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}", ignored.0, caught.0)?;
        let capabilities: u64 = if cred.is_root() { 0x1ff_ffff_ffff } else { 0 };
        writeln!(text, "CapInh:\t{:016x}\nCapPrm:\t{capabilities:016x}\nCapEff:\t{capabilities:016x}", 0)?;
        writeln!(text, "CapBnd:\t{:016x}\nCapAmb:\t{:016x}", 0x1ff_ffff_ffff_u64, 0)?;
        writeln!(text, "NoNewPrivs:\t{}\nSeccomp:\t0", u32::from(process.no_new_privileges().load(core::sync::atomic::Ordering::Relaxed)))?;
        writeln!(text, "Cpus_allowed:\t1\nCpus_allowed_list:\t0\nMems_allowed_list:\t0")?;
        writeln!(text, "voluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0")
    }))
}

fn limits(_view: &View, owner: &Owner) -> Result<Vec<u8>> {
    let set = owner.process()?.limits();
    Ok(write(|text| {
        writeln!(text, "{:<25} {:<20} {:<20} {:<10}", "Limit", "Soft Limit", "Hard Limit", "Units")?;
        for (name, limit) in LIMIT_NAMES.iter().zip(set.0) {
            let show = |value: u64| if value == UNLIMITED { String::from("unlimited") } else { format!("{value}") };
            writeln!(text, "{:<25} {:<20} {:<20} {:<10}", name.0, show(limit.soft), show(limit.hard), name.1)?;
        }
        Ok(())
    }))
}

/// Names and units of the limits, by number.
const LIMIT_NAMES: [(&str, &str); RLIMITS.len()] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

/// Mount options as in the fourth column of `mounts`.
fn options(flags: MountFlags) -> String {
    let mut text = String::from(if flags.contains(MountFlags::READ_ONLY) { "ro" } else { "rw" });
    for (flag, name) in [(MountFlags::NOSUID, ",nosuid"), (MountFlags::NODEV, ",nodev"), (MountFlags::NOEXEC, ",noexec")] {
        if flags.contains(flag) {
            text.push_str(name);
        }
    }
    text.push_str(",relatime");
    text
}

/// Blanks and backslashes of a path in the tables of mounts are written in octal (`fstab(5)`).
fn escape(path: &[u8]) -> String {
    let mut text = String::new();
    for byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => write!(text, "\\{byte:03o}").expect("a string takes everything"),
            byte => text.push(char::from(*byte)),
        }
    }
    text
}

/// The mounts the process sees. Paths are relative to its root.
fn mount_lines(owner: &Owner) -> Result<Vec<vfs::mount::MountLine>> {
    let root = owner.process()?.directories().ok_or(VfsError::Invalid)?.root.clone();
    Ok(vfs::mount::list(&root))
}

fn mounts(_view: &View, owner: &Owner) -> Result<Vec<u8>> {
    let lines = mount_lines(owner)?;
    Ok(write(|text| {
        for line in &lines {
            let mount = &line.mount;
            let source = escape(mount.source().as_bytes());
            let source = if source.is_empty() { "none" } else { &source };
            writeln!(text, "{source} {} {} {} 0 0", escape(&line.path), mount.fs().kind(), options(mount.flags()))?;
        }
        Ok(())
    }))
}

fn mountinfo(_view: &View, owner: &Owner) -> Result<Vec<u8>> {
    let lines = mount_lines(owner)?;
    Ok(write(|text| {
        for line in &lines {
            let mount = &line.mount;
            let device = mount.root().id().fs;
            let source = escape(mount.source().as_bytes());
            let source = if source.is_empty() { "none" } else { &source };
            let (path, options) = (escape(&line.path), options(mount.flags()));
            let access = if mount.is_read_only() { "ro" } else { "rw" };
            writeln!(
                text,
                "{} {} 0:{device} / {path} {options} - {} {source} {access}",
                mount.id(),
                line.parent_id,
                mount.fs().kind(),
            )?;
        }
        Ok(())
    }))
}

/// `fdinfo/N`.
pub(super) fn fd_info(owner: &Owner, fd: u32) -> Result<Vec<u8>> {
    let files = owner.process()?.files().ok_or(VfsError::NotFound)?;
    let file = files.get(fd).map_err(|_| VfsError::NotFound)?;
    let position = file.seek(0, vfs::Whence::Current).unwrap_or(0);
    let mount = file.place().mount.id();
    let flags = file.flags();
    let access = match (flags.contains(vfs::OpenFlags::READ), flags.contains(vfs::OpenFlags::WRITE)) {
        (true, true) => 2,
        (false, true) => 1,
        _ => 0,
    };
    let bits = flags.bits() & 0o17_777_777 | access;
    let path = viewer_root().map_or_else(Vec::new, |root| file.describe(&root));
    let path = String::from_utf8_lossy(&path).into_owned();
    Ok(format!("pos:\t{position}\nflags:\t0{bits:o}\nmnt_id:\t{mount}\npath:\t{path}\n").into_bytes())
}
