//! What is the same for all processes of a zone.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use kif::{Nanos, PAGE_SIZE, ZoneId};
use once_cell::race::OnceBox;
use vfs::{Result, VfsError};

use super::{View, What};
use crate::system::{RELEASE, VERSION};

/// Takes what was written.
type Change = fn(&View, &[u8]) -> Result<()>;

/// A file by its path under `/proc`.
pub(super) struct Row {
    pub path: &'static str,
    pub mode: u32,
    pub read: fn(&View) -> Vec<u8>,
    pub write: Option<Change>,
}

const fn row(path: &'static str, read: fn(&View) -> Vec<u8>) -> Row {
    Row { path, mode: 0o444, read, write: None }
}
const fn setting(path: &'static str, read: fn(&View) -> Vec<u8>, write: Change) -> Row {
    Row { path, mode: 0o644, read, write: Some(write) }
}

/// The files. A directory exists because a path goes through it.
pub(super) const FILES: [Row; 50] = [
    row("cmdline", |_| machine().command_line.clone().into_bytes()),
    row("consoles", |_| text("ttyS0                -W- (EC   )    4:64\n")),
    row("cpuinfo", cpuinfo),
    row("devices", devices),
    row("diskstats", empty),
    row("filesystems", |_| text("nodev\tproc\nnodev\ttmpfs\nnodev\tdevtmpfs\n")),
    row("interrupts", empty),
    row("loadavg", loadavg),
    row("meminfo", meminfo),
    row("modules", empty),
    row("net/arp", |_| text("IP address       HW type     Flags       HW address            Mask     Device\n")),
    row("net/dev", net_dev),
    row("net/route", |_| text("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n")),
    row("net/tcp", |_| text(SOCKETS)),
    row("net/tcp6", |_| text(SOCKETS)),
    row("net/udp", |_| text(SOCKETS)),
    row("net/udp6", |_| text(SOCKETS)),
    row("net/unix", |_| text("Num       RefCount Protocol Flags    Type St Inode Path\n")),
    row("partitions", |_| text("major minor  #blocks  name\n\n")),
    row("stat", stat),
    row("swaps", |_| text("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")),
    row("sys/fs/file-max", |_| text("65536\n")),
    row("sys/fs/nr_open", |_| text("65536\n")),
    row("sys/fs/pipe-max-size", |_| text("65536\n")),
    row("sys/kernel/cap_last_cap", |_| text("40\n")),
    row("sys/kernel/core_pattern", |_| text("core\n")),
    setting("sys/kernel/domainname", |_| text("(none)\n"), accept),
    setting("sys/kernel/hostname", hostname, set_hostname),
    row("sys/kernel/ngroups_max", |_| text("65536\n")),
    row("sys/kernel/osrelease", |_| format!("{RELEASE}\n").into_bytes()),
    row("sys/kernel/ostype", |_| text("Linux\n")),
    row("sys/kernel/overflowgid", |_| text("65534\n")),
    row("sys/kernel/overflowuid", |_| text("65534\n")),
    row("sys/kernel/pid_max", |_| format!("{}\n", proc::table::PID_MAX).into_bytes()),
    setting("sys/kernel/printk", |_| text("4\t4\t1\t7\n"), accept),
    row("sys/kernel/random/boot_id", boot_id),
    row("sys/kernel/random/entropy_avail", |_| text("256\n")),
    row("sys/kernel/random/uuid", |_| format!("{}\n", uuid()).into_bytes()),
    row("sys/kernel/threads-max", threads_max),
    row("sys/kernel/version", |_| format!("{VERSION}\n").into_bytes()),
    row("sys/net/core/somaxconn", |_| text("4096\n")),
    row("sys/net/ipv4/ip_local_port_range", |_| text("32768\t60999\n")),
    row("sys/vm/max_map_count", |_| text("65530\n")),
    setting("sys/vm/overcommit_memory", |_| text("0\n"), accept),
    row("sys/vm/overcommit_ratio", |_| text("50\n")),
    setting("sys/vm/swappiness", |_| text("0\n"), accept),
    row("uptime", uptime),
    row("version", version),
    row("vmstat", vmstat),
    row("zoneinfo", zoneinfo),
];

/// Heading of the socket tables.
const SOCKETS: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
/// Units of times in `stat` files (`sysconf(_SC_CLK_TCK)`).
pub(super) const TICK_NS: u64 = 10_000_000;

/// What the kernel knows about the machine and procfs shows.
#[derive(Clone, Debug)]
pub struct Machine {
    pub cpus: u32,
    /// `vendor_id` and `model name` of `/proc/cpuinfo`.
    pub vendor: String,
    pub model: String,
    pub mhz: u32,
    /// CPU flags, separated by blanks.
    pub flags: String,
    /// The kernel's command line.
    pub command_line: String,
}

static MACHINE: OnceBox<Machine> = OnceBox::new();

/// Tells procfs about the machine (first one wins). Called by the kernel before the first process.
pub fn install_machine(machine: Machine) {
    if MACHINE.set(Box::new(machine)).is_err() {}
}

fn machine() -> &'static Machine {
    MACHINE.get_or_init(|| {
        Box::new(Machine {
            cpus: 1,
            vendor: "unknown".into(),
            model: "unknown".into(),
            mhz: 1000,
            flags: String::new(),
            command_line: String::new(),
        })
    })
}

/// Entries of a directory of the table: files and directories right below `path`.
pub(super) fn children(path: &'static str) -> Vec<(Vec<u8>, What)> {
    let mut list: Vec<(Vec<u8>, What)> = Vec::new();
    for (index, row) in FILES.iter().enumerate() {
        let Some(rest) = below(row.path, path) else { continue };
        match rest.split_once('/') {
            None => list.push((rest.as_bytes().to_vec(), What::System(index))),
            Some((name, _)) => {
                if list.last().is_none_or(|(last, _)| last != name.as_bytes()) {
                    let end = row.path.len() - rest.len() + name.len();
                    list.push((name.as_bytes().to_vec(), What::Directory(&row.path[..end])));
                }
            }
        }
    }
    list
}

/// What remains of `path` below the directory `above`.
fn below<'a>(path: &'a str, above: &str) -> Option<&'a str> {
    if above.is_empty() { Some(path) } else { path.strip_prefix(above)?.strip_prefix('/') }
}

/// A number for a directory: the first row below it, and its depth.
pub(super) fn directory_number(path: &str) -> u64 {
    let first = FILES.iter().position(|row| below(row.path, path).is_some()).unwrap_or(0);
    let depth = path.split('/').count();
    (first * 8 + depth) as u64
}

fn text(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}
fn empty(_view: &View) -> Vec<u8> {
    Vec::new()
}
/// Settings that change nothing here, but whose writers need not fail.
fn accept(_view: &View, _data: &[u8]) -> Result<()> {
    Ok(())
}

fn write(body: impl FnOnce(&mut String) -> core::fmt::Result) -> Vec<u8> {
    let mut text = String::new();
    body(&mut text).expect("a string takes everything");
    text.into_bytes()
}

fn zone_of(view: &View) -> Option<Arc<zone::Zone>> {
    zone::lookup(view.zone)
}

fn cpuinfo(_view: &View) -> Vec<u8> {
    let machine = machine();
    write(|text| {
        for cpu in 0..machine.cpus {
            writeln!(text, "processor\t: {cpu}")?;
            writeln!(text, "vendor_id\t: {}", machine.vendor)?;
            writeln!(text, "model name\t: {}", machine.model)?;
            writeln!(text, "cpu MHz\t\t: {}.000", machine.mhz)?;
            writeln!(text, "physical id\t: 0\nsiblings\t: {}\ncore id\t\t: {cpu}", machine.cpus)?;
            writeln!(text, "cpu cores\t: {}\nfpu\t\t: yes\nflags\t\t: {}", machine.cpus, machine.flags)?;
            writeln!(text, "bogomips\t: {}.00\naddress sizes\t: 40 bits physical, 48 bits virtual\n", machine.mhz * 2)?;
        }
        Ok(())
    })
}

fn devices(view: &View) -> Vec<u8> {
    let rows = vfs::device::rows(view.zone);
    write(|text| {
        for (title, kind) in [("Character", vfs::Kind::CharDevice), ("Block", vfs::Kind::BlockDevice)] {
            writeln!(text, "{title} devices:")?;
            for row in rows.iter().filter(|row| row.kind == kind) {
                writeln!(text, "{:3} {}", row.dev.major, row.name)?;
            }
        }
        Ok(())
    })
}

fn loadavg(view: &View) -> Vec<u8> {
    let load = zone_of(view).map_or([0; 3], |zone| zone.usage().load);
    let processes = proc::list(view.zone);
    let running = processes.iter().filter(|process| process.state_letter() == 'R').count();
    let last = processes.iter().map(|process| view.pid(process)).max().unwrap_or(0);
    write(|text| {
        for value in load {
            write!(text, "{}.{:02} ", value / 256, value % 256 * 100 / 256)?;
        }
        writeln!(text, "{running}/{} {last}", processes.len())
    })
}

/// Memory of the viewer: its zone's cap and charge, or the machine's. In KiB: total, free.
fn memory(view: &View) -> (u64, u64) {
    let frames = kif::frames();
    let (free, total) = frames.free_total();
    let page_kib = PAGE_SIZE as u64 / 1024;
    let (free, total) = (free * page_kib, total * page_kib);
    let cap = zone_of(view).map_or(u64::MAX, |zone| zone.rctl(zone::rctl::Rctl::MaxPhysicalMemory)) / 1024;
    if view.zone == ZoneId::GLOBAL || cap >= total {
        return (total, free);
    }
    (cap, cap.saturating_sub(frames.charged_bytes(view.zone) / 1024).min(free))
}

fn meminfo(view: &View) -> Vec<u8> {
    let (total, free) = memory(view);
    write(|text| {
        for (name, kib) in [
            ("MemTotal", total),
            ("MemFree", free),
            ("MemAvailable", free),
            ("Buffers", 0),
            ("Cached", 0),
            ("SwapCached", 0),
            ("Active", total - free),
            ("Inactive", 0),
            ("SwapTotal", 0),
            ("SwapFree", 0),
            ("Dirty", 0),
            ("Writeback", 0),
            ("AnonPages", total - free),
            ("Mapped", 0),
            ("Shmem", 0),
            ("Slab", 0),
            ("SReclaimable", 0),
            ("CommitLimit", total),
            ("Committed_AS", total - free),
        ] {
            writeln!(text, "{:<15} {kib:>8} kB", format!("{name}:"))?;
        }
        Ok(())
    })
}

fn net_dev(_view: &View) -> Vec<u8> {
    text(
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
    )
}

/// User, system and idle time of all CPUs as the viewer knows them, in ticks. In a zone all that others use is idle.
fn cpu_ticks(view: &View) -> (u64, u64, u64) {
    let zones = if view.zone == ZoneId::GLOBAL { zone::live() } else { zone_of(view).into_iter().collect() };
    let (mut user, mut system) = (0, 0);
    for zone in zones {
        let usage = zone.usage();
        user += usage.user.0;
        system += usage.system.0;
    }
    let up = kif::clock().monotonic().since(view.boot()).0.saturating_mul(u64::from(machine().cpus));
    (user / TICK_NS, system / TICK_NS, up.saturating_sub(user + system) / TICK_NS)
}

fn stat(view: &View) -> Vec<u8> {
    let (user, system, idle) = cpu_ticks(view);
    let processes = proc::list(view.zone);
    let running = processes.iter().filter(|process| process.state_letter() == 'R').count();
    let booted = zone_of(view).map_or(0, |zone| zone.booted_at_realtime().0 / 1_000_000_000);
    let cpus = u64::from(machine().cpus);
    write(|text| {
        writeln!(text, "cpu  {user} 0 {system} {idle} 0 0 0 0 0 0")?;
        for cpu in 0..cpus {
            writeln!(text, "cpu{cpu} {} 0 {} {} 0 0 0 0 0 0", user / cpus, system / cpus, idle / cpus)?;
        }
        writeln!(text, "intr 0\nctxt 0\nbtime {booted}\nprocesses {}", processes.len())?;
        writeln!(text, "procs_running {running}\nprocs_blocked 0\nsoftirq 0")
    })
}

fn uptime(view: &View) -> Vec<u8> {
    let up = kif::clock().monotonic().since(view.boot());
    let (_, _, idle) = cpu_ticks(view);
    let hundredths = |ns: Nanos| (ns.0 / 1_000_000_000, ns.0 / TICK_NS % 100);
    let ((seconds, part), idle) = (hundredths(up), Nanos(idle * TICK_NS));
    let (idle_seconds, idle_part) = hundredths(idle);
    format!("{seconds}.{part:02} {idle_seconds}.{idle_part:02}\n").into_bytes()
}

fn version(_view: &View) -> Vec<u8> {
    format!("Linux version {RELEASE} (orrery) (rustc) {VERSION}\n").into_bytes()
}

fn vmstat(view: &View) -> Vec<u8> {
    let (_, free) = memory(view);
    let faults: u64 = proc::list(view.zone).iter().map(|process| process.times().faults).sum();
    format!("nr_free_pages {}\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\npgfault {faults}\npgmajfault 0\n", free / 4).into_bytes()
}

fn zoneinfo(view: &View) -> Vec<u8> {
    let (total, free) = memory(view);
    format!("Node 0, zone   Normal\n  pages free     {}\n        present  {}\n", free / 4, total / 4).into_bytes()
}

fn hostname(view: &View) -> Vec<u8> {
    let mut name = zone_of(view).map_or_else(String::new, |zone| zone.hostname());
    name.push('\n');
    name.into_bytes()
}

fn set_hostname(view: &View, data: &[u8]) -> Result<()> {
    let name = core::str::from_utf8(data).map_err(|_| VfsError::Invalid)?.trim_end_matches(['\n', '\0']);
    if name.len() > 64 {
        return Err(VfsError::Invalid);
    }
    let zone = zone_of(view).ok_or(VfsError::NotFound)?;
    // Whoever opened the file may have handed it on: the writer must be allowed, and be of this zone (or the operator).
    // (No process: the kernel's own thread.)
    let is_allowed = proc::current().is_none_or(|writer| {
        let writer = writer.process();
        writer.cred().is_root() && (writer.zone_id() == zone.id() || writer.zone_id() == ZoneId::GLOBAL)
    });
    if !zone.may(zone::Privilege::HostName) || !is_allowed {
        return Err(VfsError::NotPermitted);
    }
    zone.set_hostname(name);
    Ok(())
}

fn threads_max(view: &View) -> Vec<u8> {
    let limit = zone_of(view).map_or(u64::MAX, |zone| zone.rctl(zone::rctl::Rctl::MaxLwps));
    format!("{}\n", limit.min(u64::from(proc::table::PID_MAX))).into_bytes()
}

fn boot_id(view: &View) -> Vec<u8> {
    // The zone's identity and the time it booted: the same for all its processes, another after each boot.
    let (uuid, booted) = zone_of(view).map_or(([0; 16], 0), |zone| (zone.uuid().0, zone.booted_at_realtime().0));
    let mut bytes = uuid;
    for (byte, part) in bytes.iter_mut().skip(8).zip(booted.to_le_bytes()) {
        *byte ^= part;
    }
    format!("{}\n", show_uuid(bytes)).into_bytes()
}

fn uuid() -> String {
    let mut bytes = [0; 16];
    kif::rng().fill(&mut bytes);
    show_uuid(bytes)
}

/// RFC 9562 §4, with the bits of a random one set.
fn show_uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}
