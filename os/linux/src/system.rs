//! The system as a whole: names, figures, the log, mounts.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use kif::ZoneId;
use linux_abi::consts::mount::*;
use linux_abi::{Errno, Sysinfo, utsname};
use proc::Task;
use vfs::{Follow, MountFlags};
use zone::Privilege;

use crate::args::{OptPath, Path, Ptr};
use crate::fail::{Fail, Result};
use crate::path::need;
use crate::paths::Paths;

/// What `uname -r` says: the Linux whose calls we follow. The C library refuses to run below its minimum.
pub const RELEASE: &str = "6.1.0-orrery";
/// What `uname -v` says.
pub const VERSION: &str = "#1 SMP orrery";
/// Longest host name.
const NAME_MAX: u64 = 64;

pub fn uname(task: &mut Task, to: Ptr) -> Result {
    to.write(&utsname("Linux", &task.zone.hostname(), RELEASE, VERSION, "x86_64", "(none)"))?;
    Ok(0)
}

fn read_name(from: Ptr, length: u64) -> Result<String> {
    let length = usize::try_from(length).ok().filter(|_| length <= NAME_MAX).ok_or(Errno::EINVAL)?;
    String::from_utf8(from.read_vec(length)?).map_err(|_| Errno::EINVAL.into())
}
pub fn sethostname(task: &mut Task, from: Ptr, length: u64) -> Result {
    need(task, Privilege::HostName)?;
    let name = read_name(from, length)?;
    task.zone.set_hostname(&name);
    Ok(0)
}
/// NIS domain names are not kept: there is none, and that can be set.
pub fn setdomainname(task: &mut Task, from: Ptr, length: u64) -> Result {
    need(task, Privilege::HostName)?;
    match read_name(from, length)?.as_str() {
        "" | "(none)" => Ok(0),
        _ => Err(Errno::EPERM.into()),
    }
}

/// Memory of the zone: its cap (or the machine), what of it is free, in bytes.
#[must_use]
pub fn memory(zone: &zone::Zone) -> (u64, u64) {
    let (free_frames, total_frames) = kif::frames().free_total();
    let (free, total) = (free_frames * 4096, total_frames * 4096);
    let cap = zone.rctl(zone::rctl::Rctl::MaxPhysicalMemory);
    if cap >= total {
        return (total, free);
    }
    let used = kif::frames().charged_bytes(zone.id());
    (cap, cap.saturating_sub(used).min(free))
}

pub fn sysinfo(task: &mut Task, to: Ptr) -> Result {
    let (total, free) = memory(&task.zone);
    let uptime = kif::clock().monotonic().since(task.zone.booted_at());
    let load = task.zone.usage().load;
    let info = Sysinfo {
        uptime_seconds: uptime.0 / 1_000_000_000,
        // Ours are scaled by 2^8, sysinfo's by 2^16.
        loads: load.map(|load| u64::from(load) << 8),
        total,
        free,
        shared: 0,
        buffers: 0,
        processes: u16::try_from(proc::list(task.zone.id()).len()).unwrap_or(u16::MAX),
    };
    to.write(&info.encode())?;
    Ok(0)
}

/// `syslog(2)`: the kernel's log, for the global zone.
pub fn syslog(task: &mut Task, action: u32, to: Ptr, length: i32) -> Result {
    const READ_ALL: u32 = 3;
    const READ_CLEAR: u32 = 4;
    const SIZE_UNREAD: u32 = 9;
    const SIZE_BUFFER: u32 = 10;
    need(task, Privilege::KernelLog)?;
    match action {
        0 | 1 | 5..=8 => Ok(0),
        READ_ALL | READ_CLEAR => {
            let room = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
            let text = log_text()?;
            let tail = &text[text.len().saturating_sub(room)..];
            to.write(tail)?;
            Ok(tail.len() as u64)
        }
        SIZE_UNREAD | SIZE_BUFFER => Ok(log_text()?.len() as u64),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// What is left of the kernel log.
fn log_text() -> Result<Vec<u8>> {
    /// Most that is handed out at once.
    const TEXT_MAX: usize = 256 << 10;
    let Some(log) = vfs::devfs::kernel_log() else { return Ok(Vec::new()) };
    let mut text = Vec::new();
    let mut chunk = crate::args::buffer(4096)?;
    let mut offset = 0;
    while text.len() < TEXT_MAX {
        let (count, first) = log.read(offset, &mut chunk);
        if count == 0 {
            break;
        }
        text.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
        text.extend_from_slice(&chunk[..count]);
        offset = first + count as u64;
    }
    Ok(text)
}

/// Mount options that we heed.
fn options(flags: u64) -> MountFlags {
    let mut out = MountFlags::empty();
    for (bit, option) in [
        (MS_RDONLY, MountFlags::READ_ONLY),
        (MS_NOSUID, MountFlags::NOSUID),
        (MS_NODEV, MountFlags::NODEV),
        (MS_NOEXEC, MountFlags::NOEXEC),
    ] {
        out.set(option, flags & bit != 0);
    }
    out
}

pub fn mount(task: &mut Task, source: OptPath, target: Path, kind: OptPath, flags: u64, data: Ptr) -> Result {
    need(task, Privilege::MountOwn)?;
    let flags = if flags & 0xffff_0000 == MS_MGC { flags & 0xffff } else { flags };
    let paths = Paths::of(task)?;
    let at = vfs::lookup(&paths.cx(), None, &target.0, Follow::Yes)?;
    let mut wanted = options(flags);
    if !task.zone.is_global() {
        // A zone cannot give itself devices.
        wanted |= MountFlags::NODEV;
    }
    let shown = String::from_utf8_lossy(source.0.as_deref().unwrap_or(b"none")).into_owned();
    if flags & (MS_PRIVATE | MS_SHARED | MS_SLAVE) != 0 {
        // No mount is ever propagated: private is what all are.
        return if flags & MS_SHARED != 0 { Err(Errno::EINVAL.into()) } else { Ok(0) };
    }
    if flags & MS_REMOUNT != 0 {
        // A zone may only add restrictions: what the operator mounted read-only for it stays so.
        let kept = if task.zone.is_global() { wanted } else { wanted | at.mount.flags() };
        vfs::mount::remount(&at, kept)?;
        return Ok(0);
    }
    if flags & MS_MOVE != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & MS_BIND != 0 {
        let source = source.0.ok_or(Errno::EFAULT)?;
        let from = vfs::lookup(&paths.cx(), None, &source, Follow::Yes)?;
        vfs::mount::bind(&at, &from, &shown, wanted | from.mount.flags())?;
        return Ok(0);
    }
    let kind = kind.0.ok_or(Errno::EFAULT)?;
    let data = if data.given() { data.read_string(4096, Errno::EINVAL)? } else { Vec::new() };
    let fs = by_name(&kind, &data, task.zone.id())?;
    vfs::mount::mount(&at, fs, &shown, wanted)?;
    Ok(0)
}

pub fn umount2(task: &mut Task, target: Path, flags: u32) -> Result {
    const FORCE: u32 = 1;
    const DETACH: u32 = 2;
    const EXPIRE: u32 = 4;
    need(task, Privilege::MountOwn)?;
    crate::io::only(flags, FORCE | DETACH | EXPIRE | UMOUNT_NOFOLLOW)?;
    if flags & EXPIRE != 0 {
        return Err(Errno::EINVAL.into());
    }
    vfs::mount::unmount(&Paths::of(task)?.cx(), &target.0, flags & DETACH != 0)?;
    Ok(0)
}

/// A file system that a program may mount by name.
pub fn by_name(kind: &[u8], data: &[u8], zone: ZoneId) -> Result<Arc<dyn vfs::Filesystem>> {
    match kind {
        b"tmpfs" | b"ramfs" => Ok(vfs::tmpfs::new(&tmpfs_options(data)?)),
        b"proc" => Ok(crate::procfs::new(zone)),
        b"devtmpfs" | b"dev" => Ok(vfs::devfs::new(zone)),
        _ => Err(Fail::Errno(Errno::ENODEV)),
    }
}

/// `size=`, `nr_inodes=`, `mode=`, `uid=`, `gid=` (`tmpfs(5)`); others are refused.
fn tmpfs_options(data: &[u8]) -> Result<vfs::tmpfs::Options> {
    let mut options = vfs::tmpfs::Options { mode: 0o1777, ..vfs::tmpfs::Options::default() };
    let text = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let (key, value) = word.split_once('=').ok_or(Errno::EINVAL)?;
        let number = |text: &str, radix| u32::from_str_radix(text, radix).map_err(|_| Fail::Errno(Errno::EINVAL));
        match key {
            "size" => options.max_pages = amount(value)?.div_ceil(4096),
            "nr_inodes" => options.max_nodes = amount(value)?,
            "mode" => options.mode = number(value, 8)? & 0o7777,
            "uid" => options.uid = number(value, 10)?,
            "gid" => options.gid = number(value, 10)?,
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    Ok(options)
}

/// A number with a suffix k, m, g, or % (of the machine's memory).
fn amount(text: &str) -> Result<u64> {
    let split = text.trim_end_matches(|letter: char| !letter.is_ascii_digit()).len();
    let number: u64 = text[..split].parse().map_err(|_| Errno::EINVAL)?;
    let factor = match &text[split..] {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "%" => kif::frames().free_total().1 * 4096 / 100,
        _ => return Err(Errno::EINVAL.into()),
    };
    number.checked_mul(factor).ok_or(Fail::Errno(Errno::EINVAL))
}

/// File system types that [`by_name`] takes, for `/proc/filesystems`.
pub const FILESYSTEMS: [&str; 3] = ["tmpfs", "proc", "devtmpfs"];

pub fn vhangup(task: &mut Task) -> Result {
    if task.process.cred().is_root() { Ok(0) } else { Err(Errno::EPERM.into()) }
}

pub fn sysfs(_task: &mut Task, option: u32, first: u64, to: Ptr) -> Result {
    match option {
        1 => {
            let name = Ptr(first).read_string(256, Errno::EINVAL)?;
            let at = FILESYSTEMS.iter().position(|known| known.as_bytes() == name.as_slice()).ok_or(Errno::EINVAL)?;
            Ok(at as u64)
        }
        2 => {
            let name = usize::try_from(first).ok().and_then(|at| FILESYSTEMS.get(at)).ok_or(Errno::EINVAL)?;
            let mut text = name.as_bytes().to_vec();
            text.push(0);
            to.write(&text)?;
            Ok(0)
        }
        3 => Ok(FILESYSTEMS.len() as u64),
        _ => Err(Errno::EINVAL.into()),
    }
}
