//! Structures as bytes. Offsets are those of x86-64 Linux, written beside each field.

use alloc::vec::Vec;

/// A little-endian byte builder.
#[derive(Debug, Default)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// Empty, with room for `capacity`.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub fn raw(&mut self, data: &[u8]) -> &mut Self {
        self.0.extend_from_slice(data);
        self
    }
    /// Zero bytes up to `offset` from the start.
    pub fn pad_to(&mut self, offset: usize) -> &mut Self {
        debug_assert!(self.0.len() <= offset, "layout overlaps: {} > {offset}", self.0.len());
        self.0.resize(offset, 0);
        self
    }
    /// The bytes.
    #[must_use]
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// The u16 at `offset`; zero where `data` is too short.
#[must_use]
pub fn field_u16(data: &[u8], offset: usize) -> u16 {
    data.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}
/// The u32 at `offset`; zero where `data` is too short.
#[must_use]
pub fn field_u32(data: &[u8], offset: usize) -> u32 {
    data.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
/// The u64 at `offset`; zero where `data` is too short.
#[must_use]
pub fn field_u64(data: &[u8], offset: usize) -> u64 {
    data.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// `struct timespec`: seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Timespec {
    pub seconds: i64,
    pub nanos: i64,
}

impl Timespec {
    pub const BYTES: usize = 16;
    /// Of a count of nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { seconds: (nanos / 1_000_000_000) as i64, nanos: (nanos % 1_000_000_000) as i64 }
    }
    #[must_use]
    pub fn decode(data: &[u8; 16]) -> Self {
        Self { seconds: field_u64(data, 0) as i64, nanos: field_u64(data, 8) as i64 }
    }
    #[must_use]
    pub fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.seconds.to_le_bytes());
        out[8..].copy_from_slice(&self.nanos.to_le_bytes());
        out
    }
    /// As nanoseconds; `None` if negative or not normal. Saturates.
    #[must_use]
    pub fn to_nanos(self) -> Option<u64> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let nanos = u64::try_from(self.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
        Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }
}

/// `struct timeval`: seconds and microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Timeval {
    pub seconds: i64,
    pub micros: i64,
}

impl Timeval {
    pub const BYTES: usize = 16;
    /// Of a count of nanoseconds, rounded down.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { seconds: (nanos / 1_000_000_000) as i64, micros: (nanos % 1_000_000_000 / 1000) as i64 }
    }
    #[must_use]
    pub fn decode(data: &[u8; 16]) -> Self {
        Self { seconds: field_u64(data, 0) as i64, micros: field_u64(data, 8) as i64 }
    }
    #[must_use]
    pub fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.seconds.to_le_bytes());
        out[8..].copy_from_slice(&self.micros.to_le_bytes());
        out
    }
    /// As nanoseconds; `None` if negative or not normal. Saturates.
    #[must_use]
    pub fn to_nanos(self) -> Option<u64> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let micros = u64::try_from(self.micros).ok().filter(|micros| *micros < 1_000_000)?;
        Some(seconds.saturating_mul(1_000_000_000).saturating_add(micros * 1000))
    }
}

/// `struct stat` (`stat(2)`), 144 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stat {
    pub device: u64,
    pub inode: u64,
    pub links: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    pub block_size: u32,
    pub blocks: u64,
    pub accessed: Timespec,
    pub modified: Timespec,
    pub changed: Timespec,
}

impl Stat {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Bytes::with_capacity(144);
        out.u64(self.device).u64(self.inode).u64(self.links); // 0, 8, 16
        out.u32(self.mode).u32(self.uid).u32(self.gid).u32(0); // 24, 28, 32, 36
        out.u64(self.rdev).u64(self.size).u64(u64::from(self.block_size)).u64(self.blocks); // 40, 48, 56, 64
        out.raw(&self.accessed.encode()).raw(&self.modified.encode()).raw(&self.changed.encode()); // 72, 88, 104
        out.pad_to(144);
        out.done()
    }
}

/// What `statx(2)` adds to [`Stat`]; 256 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statx {
    pub stat: Stat,
    pub born: Timespec,
}

/// STATX_BASIC_STATS | STATX_BTIME.
const STATX_MASK: u32 = 0xfff;

impl Statx {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let stat = &self.stat;
        let links = u32::try_from(stat.links).unwrap_or(u32::MAX);
        let mut out = Bytes::with_capacity(256);
        out.u32(STATX_MASK).u32(stat.block_size).u64(0); // 0 mask, 4 blksize, 8 attributes
        out.u32(links).u32(stat.uid).u32(stat.gid); // 16, 20, 24
        out.u16((stat.mode & 0xffff) as u16).u16(0); // 28
        out.u64(stat.inode).u64(stat.size).u64(stat.blocks).u64(0); // 32, 40, 48, 56 attributes_mask
        for time in [stat.accessed, self.born, stat.changed, stat.modified] {
            out.i64(time.seconds).u32(u32::try_from(time.nanos).unwrap_or(0)).u32(0); // 64, 80, 96, 112
        }
        let (rdev, device) = (stat.rdev, stat.device);
        out.u32(major(rdev)).u32(minor(rdev)).u32(major(device)).u32(minor(device)); // 128..144
        out.pad_to(256);
        out.done()
    }
}

/// Major number of a device number (`makedev(3)`).
const fn major(device: u64) -> u32 {
    (((device >> 8) & 0xfff) | ((device >> 32) & 0xffff_f000)) as u32
}
/// Minor number of a device number.
const fn minor(device: u64) -> u32 {
    ((device & 0xff) | ((device >> 12) & 0xffff_ff00)) as u32
}

/// `struct statfs` (`statfs(2)`), 120 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statfs {
    pub kind: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub free: u64,
    pub files: u64,
    pub files_free: u64,
    pub id: u64,
    pub name_max: u64,
    pub flags: u64,
}

impl Statfs {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Bytes::with_capacity(120);
        out.u64(self.kind).u64(self.block_size).u64(self.blocks).u64(self.free).u64(self.free);
        out.u64(self.files).u64(self.files_free).u64(self.id).u64(self.name_max).u64(self.block_size).u64(self.flags);
        out.pad_to(120);
        out.done()
    }
}

/// `struct linux_dirent64` (`getdents(2)`), padded to 8 bytes.
#[must_use]
pub fn dirent64(inode: u64, next: u64, kind: u8, name: &[u8]) -> Vec<u8> {
    let length = (19 + name.len() + 1).next_multiple_of(8);
    let mut out = Bytes::with_capacity(length);
    out.u64(inode).u64(next).u16(u16::try_from(length).unwrap_or(u16::MAX)).u8(kind).raw(name);
    out.pad_to(length);
    out.done()
}

/// The old `struct linux_dirent`: the type is in the last byte.
#[must_use]
pub fn dirent(inode: u64, next: u64, kind: u8, name: &[u8]) -> Vec<u8> {
    let length = (18 + name.len() + 2).next_multiple_of(8);
    let mut out = Bytes::with_capacity(length);
    out.u64(inode).u64(next).u16(u16::try_from(length).unwrap_or(u16::MAX)).raw(name);
    out.pad_to(length - 1);
    out.u8(kind);
    out.done()
}

/// `struct new_utsname`: six fields of 65 bytes.
#[must_use]
pub fn utsname(system: &str, node: &str, release: &str, version: &str, machine: &str, domain: &str) -> Vec<u8> {
    let mut out = Bytes::with_capacity(390);
    for (index, field) in [system, node, release, version, machine, domain].into_iter().enumerate() {
        let bytes = field.as_bytes();
        out.raw(&bytes[..bytes.len().min(64)]);
        out.pad_to(65 * (index + 1));
    }
    out.done()
}

/// `struct sysinfo` (`sysinfo(2)`), 112 bytes; sizes in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sysinfo {
    pub uptime_seconds: u64,
    pub loads: [u64; 3],
    pub total: u64,
    pub free: u64,
    pub shared: u64,
    pub buffers: u64,
    pub processes: u16,
}

impl Sysinfo {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Bytes::with_capacity(112);
        out.u64(self.uptime_seconds).u64(self.loads[0]).u64(self.loads[1]).u64(self.loads[2]); // 0..32
        out.u64(self.total).u64(self.free).u64(self.shared).u64(self.buffers).u64(0).u64(0); // 32..80
        out.u16(self.processes).pad_to(88); // 80
        out.u64(0).u64(0).u32(1).pad_to(112); // high, free high, unit
        out.done()
    }
}

/// `struct rusage` (`getrusage(2)`), 144 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rusage {
    pub user: Timeval,
    pub system: Timeval,
    pub max_rss_kib: u64,
    pub minor_faults: u64,
    pub voluntary: u64,
    pub involuntary: u64,
}

impl Rusage {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Bytes::with_capacity(144);
        out.raw(&self.user.encode()).raw(&self.system.encode()); // 0, 16
        out.u64(self.max_rss_kib).pad_to(64); // 32
        out.u64(self.minor_faults).pad_to(128); // 64
        out.u64(self.voluntary).u64(self.involuntary); // 128, 136
        out.done()
    }
}

/// Bytes of a `siginfo_t`.
pub const SIGINFO_BYTES: usize = 128;

/// A `siginfo_t` (`sigaction(2)`): which union member holds depends on the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigInfo {
    pub signal: u32,
    pub code: i32,
    pub errno: i32,
    pub detail: SigDetail,
}

/// The union of `siginfo_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigDetail {
    None,
    /// `kill`, `tgkill`, `sigqueue`.
    Sender { pid: u32, uid: u32, value: u64 },
    /// SIGCHLD.
    Child { pid: u32, uid: u32, status: i32, user_ticks: u64, system_ticks: u64 },
    /// SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP.
    Fault { address: u64 },
    /// POSIX timers.
    Timer { id: i32, overrun: i32, value: u64 },
}

impl SigInfo {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Bytes::with_capacity(SIGINFO_BYTES);
        out.u32(self.signal).i32(self.errno).i32(self.code).u32(0); // 0, 4, 8, 12
        match self.detail {
            SigDetail::None => {}
            SigDetail::Sender { pid, uid, value } => {
                out.u32(pid).u32(uid).u64(value); // 16, 20, 24
            }
            SigDetail::Child { pid, uid, status, user_ticks, system_ticks } => {
                out.u32(pid).u32(uid).i32(status).u32(0).u64(user_ticks).u64(system_ticks); // 16, 20, 24, 32, 40
            }
            SigDetail::Fault { address } => {
                out.u64(address);
            }
            SigDetail::Timer { id, overrun, value } => {
                out.i32(id).i32(overrun).u64(value);
            }
        }
        out.pad_to(SIGINFO_BYTES);
        out.done()
    }
    /// As `rt_sigqueueinfo` passes it: only the queue form is of use.
    #[must_use]
    pub fn decode(data: &[u8; SIGINFO_BYTES]) -> Self {
        Self {
            signal: field_u32(data, 0),
            errno: field_u32(data, 4) as i32,
            code: field_u32(data, 8) as i32,
            detail: SigDetail::Sender { pid: field_u32(data, 16), uid: field_u32(data, 20), value: field_u64(data, 24) },
        }
    }
}

/// `stack_t` (`sigaltstack(2)`), 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SigStack {
    pub base: u64,
    pub flags: u32,
    pub size: u64,
}

impl SigStack {
    pub const BYTES: usize = 24;
    #[must_use]
    pub fn decode(data: &[u8; 24]) -> Self {
        Self { base: field_u64(data, 0), flags: field_u32(data, 8), size: field_u64(data, 16) }
    }
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = Bytes::with_capacity(24);
        out.u64(self.base).u32(self.flags).u32(0).u64(self.size);
        out.done()
    }
}

/// The kernel's `struct sigaction`: handler, flags, restorer, mask; 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct KernelSigaction {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: u64,
}

impl KernelSigaction {
    pub const BYTES: usize = 32;
    #[must_use]
    pub fn decode(data: &[u8; 32]) -> Self {
        Self { handler: field_u64(data, 0), flags: field_u64(data, 8), restorer: field_u64(data, 16), mask: field_u64(data, 24) }
    }
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = Bytes::with_capacity(32);
        out.u64(self.handler).u64(self.flags).u64(self.restorer).u64(self.mask);
        out.done()
    }
}

/// Bytes of `struct sigcontext`: 23 registers, the pointer to the FPU state, 8 reserved words.
pub const MCONTEXT_BYTES: usize = 256;
/// Bytes of `struct ucontext` as the kernel writes it: flags, link, stack, mcontext, mask.
pub const UCONTEXT_BYTES: usize = 8 + 8 + SigStack::BYTES + MCONTEXT_BYTES + 8;

/// `struct epoll_event`, packed: 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollEvent {
    pub events: u32,
    pub data: u64,
}

impl EpollEvent {
    pub const BYTES: usize = 12;
    #[must_use]
    pub fn decode(data: &[u8; 12]) -> Self {
        Self { events: field_u32(data, 0), data: field_u64(data, 4) }
    }
    #[must_use]
    pub fn encode(self) -> [u8; 12] {
        let mut out = [0; 12];
        out[..4].copy_from_slice(&self.events.to_le_bytes());
        out[4..].copy_from_slice(&self.data.to_le_bytes());
        out
    }
}

/// `struct termios` of the kernel (TCGETS): four flag words, line, 19 control characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Termios {
    pub input: u32,
    pub output: u32,
    pub control: u32,
    pub local: u32,
    pub line: u8,
    pub characters: [u8; 19],
}

impl Termios {
    pub const BYTES: usize = 36;
    #[must_use]
    pub fn decode(data: &[u8; 36]) -> Self {
        let mut characters = [0; 19];
        characters.copy_from_slice(&data[17..36]);
        Self {
            input: field_u32(data, 0),
            output: field_u32(data, 4),
            control: field_u32(data, 8),
            local: field_u32(data, 12),
            line: data[16],
            characters,
        }
    }
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Bytes::with_capacity(36);
        out.u32(self.input).u32(self.output).u32(self.control).u32(self.local).u8(self.line).raw(&self.characters);
        out.done()
    }
}

/// `struct winsize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Winsize {
    pub rows: u16,
    pub columns: u16,
    pub width: u16,
    pub height: u16,
}

impl Winsize {
    pub const BYTES: usize = 8;
    #[must_use]
    pub fn decode(data: &[u8; 8]) -> Self {
        Self { rows: field_u16(data, 0), columns: field_u16(data, 2), width: field_u16(data, 4), height: field_u16(data, 6) }
    }
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = Bytes::with_capacity(8);
        out.u16(self.rows).u16(self.columns).u16(self.width).u16(self.height);
        out.done()
    }
}
