//! devfs: `/dev`, each zone's own view of the device table.
//!
//! # Theory
//! The directory is not stored: it is the rows of [`crate::device`] that the zone may see, a few links, and `pts`. A
//! device registered later appears at once. Names cannot be made or removed in it. Changed owners and modes are kept per mount.
//!
//! # Locking
//! `Class::Vnode` around the table of changed attributes; the device table and the terminal tables (same class) are never
//! asked under it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use kif::{Frame, Nanos, PAGE_SIZE, ZoneId};
use once_cell::race::OnceBox;
use sync::{Class, Mutex};

use crate::device::{self, Entry, Row, Scope};
use crate::file::OpenFlags;
use crate::mount::{Filesystem, next_fs_id};
use crate::tty::job::{JobControl, jobs};
use crate::tty::{self, Tty, pty};
use crate::vnode::{Attr, DevNo, DirEntry, Io, Kind, NodeId, SetAttr, StatFs, Vnode, VnodeRef};
use crate::{Result, VfsError};

/// Links that every `/dev` has.
const LINKS: [(&str, &str); 4] =
    [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")];
/// Group of terminals.
const TTY_GROUP: u32 = 5;
const ROOT_INO: u64 = 1;
const PTS_INO: u64 = 2;
const SHM_INO: u64 = 3;
const FIRST_LINK_INO: u64 = 8;
/// Inode numbers of devices: this and the device number.
const DEVICE_INO: u64 = 1 << 40;
const BLOCK_INO: u64 = 1 << 41;
/// And of directories in the tree of devices: this and a number made of the path.
const BRANCH_INO: u64 = 1 << 42;
/// Group of disks.
const DISK_GROUP: u32 = 6;

/// Where the kernel log can be read; the kernel registers one.
pub trait KernelLog: Send + Sync {
    /// Copies log text from `offset` (bytes since boot); returns the count and the offset of the first byte copied, which is
    /// later than `offset` if older text was overwritten.
    fn read(&self, offset: u64, out: &mut [u8]) -> (usize, u64);
}

static KERNEL_LOG: OnceBox<Box<dyn KernelLog>> = OnceBox::new();
static CONSOLE: OnceBox<Arc<Tty>> = OnceBox::new();

/// Registers the kernel log for `/dev/kmsg` (first one wins).
pub fn set_kernel_log(log: Box<dyn KernelLog>) {
    if KERNEL_LOG.set(Box::new(log)).is_err() {}
}

/// The registered kernel log.
#[must_use]
pub fn kernel_log() -> Option<&'static dyn KernelLog> {
    KERNEL_LOG.get().map(|log| &**log)
}

/// Says which terminal is the global zone's `/dev/console` (first one wins).
pub fn set_console(tty: Arc<Tty>) {
    if CONSOLE.set(Box::new(tty)).is_err() {}
}

/// Enters the devices that need no hardware in the device table. Called once, before the first devfs is used.
pub fn register_devices() {
    use Scope::{EveryZone, GlobalOnly};
    let row = |name, (major, minor), (mode, gid), scope, driver: Arc<dyn device::Driver>| {
        device::register(Row { name, kind: Kind::CharDevice, dev: DevNo::new(major, minor), mode, gid, scope, driver });
    };
    let memory = |what| Arc::new(MemoryDriver(what));
    row("null", (1, 3), (0o666, 0), EveryZone, memory(Memory::Null));
    row("zero", (1, 5), (0o666, 0), EveryZone, memory(Memory::Zero));
    row("full", (1, 7), (0o666, 0), EveryZone, memory(Memory::Full));
    row("random", (1, 8), (0o666, 0), EveryZone, memory(Memory::Random));
    row("urandom", (1, 9), (0o666, 0), EveryZone, memory(Memory::Random));
    row("kmsg", (1, 11), (0o600, 0), GlobalOnly, Arc::new(KmsgDriver));
    row("tty", (5, 0), (0o666, TTY_GROUP), EveryZone, Arc::new(TtyDriver));
    row("console", (5, 1), (0o600, TTY_GROUP), EveryZone, Arc::new(ConsoleDriver));
    row("ptmx", (5, 2), (0o666, TTY_GROUP), EveryZone, Arc::new(pty::PtmxDriver));
}

/// A zone's `/dev`.
#[allow(missing_debug_implementations, reason = "holds locks")]
pub struct Devfs {
    shared: Arc<Shared>,
}

struct Shared {
    id: u64,
    zone: ZoneId,
    made: Nanos,
    /// Changed attributes by inode: mode, uid, gid.
    changed: Mutex<BTreeMap<u64, (u32, u32, u32)>>,
}

/// Makes the `/dev` of `zone`.
#[must_use]
pub fn new(zone: ZoneId) -> Arc<Devfs> {
    let changed = Mutex::new(Class::Vnode, BTreeMap::new());
    Arc::new(Devfs { shared: Arc::new(Shared { id: next_fs_id(), zone, made: kif::clock().realtime(), changed }) })
}

impl Filesystem for Devfs {
    fn kind(&self) -> &'static str {
        "devtmpfs"
    }
    fn root(&self) -> VnodeRef {
        self.shared.node(What::Root)
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: 0x0102_1994, block_bytes: PAGE_SIZE as u64, ..StatFs::default() })
    }
    fn sync(&self) -> Result<()> {
        crate::device::tree().map_or(Ok(()), crate::device::Tree::sync)
    }
}

/// What a node of devfs is.
#[derive(Clone)]
enum What {
    Root,
    Pts,
    Shm,
    Link(usize),
    Device(Row),
    Slave(u32),
    /// A directory of the tree of devices, by its path there.
    Branch(Arc<str>),
    /// A device of the tree, by its path and number.
    Leaf(Arc<str>, DevNo),
}

struct Node {
    shared: Arc<Shared>,
    what: What,
}

impl Shared {
    fn node(self: &Arc<Self>, what: What) -> VnodeRef {
        Arc::new(Node { shared: Arc::clone(self), what })
    }
}

impl What {
    fn ino(&self) -> u64 {
        match self {
            Self::Root => ROOT_INO,
            Self::Pts => PTS_INO,
            Self::Shm => SHM_INO,
            Self::Link(index) => FIRST_LINK_INO + *index as u64,
            Self::Device(row) => device_ino(row.kind, row.dev),
            Self::Slave(index) => device_ino(Kind::CharDevice, DevNo::new(pty::SLAVE_MAJOR, *index)),
            // FNV-1a: two directories with one number would be an odd sight, and no more.
            Self::Branch(path) => BRANCH_INO | path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)) >> 23,
            Self::Leaf(_, dev) => device_ino(Kind::BlockDevice, *dev),
        }
    }
    fn in_tree(path: &str, entry: Entry) -> Self {
        match entry {
            Entry::Directory => Self::Branch(path.into()),
            Entry::Block(dev) => Self::Leaf(path.into(), dev),
        }
    }
    const fn kind(&self) -> Kind {
        match self {
            Self::Root | Self::Pts | Self::Shm | Self::Branch(_) => Kind::Directory,
            Self::Leaf(..) => Kind::BlockDevice,
            Self::Link(_) => Kind::Symlink,
            Self::Device(row) => row.kind,
            Self::Slave(_) => Kind::CharDevice,
        }
    }
}

const fn device_ino(kind: Kind, dev: DevNo) -> u64 {
    (if matches!(kind, Kind::BlockDevice) { BLOCK_INO } else { DEVICE_INO }) | dev.encode()
}

impl Node {
    /// Entries of this directory, in a fixed order, without the dots.
    fn entries(&self) -> Vec<(Vec<u8>, What)> {
        let zone = self.shared.zone;
        match &self.what {
            What::Root => {
                let mut list: Vec<(Vec<u8>, What)> = device::rows(zone)
                    .into_iter()
                    .map(|row| (row.name.as_bytes().to_vec(), What::Device(row)))
                    .collect();
                list.extend(LINKS.iter().enumerate().map(|(index, (name, _))| (name.as_bytes().to_vec(), What::Link(index))));
                list.push((b"pts".to_vec(), What::Pts));
                list.push((b"shm".to_vec(), What::Shm));
                list.extend(device::tree().filter(|tree| tree.is_there(zone)).map(|tree| (tree.name().into(), What::Branch("".into()))));
                list
            }
            What::Pts => pty::numbers(zone).into_iter().map(|index| (decimal(index), What::Slave(index))).collect(),
            What::Branch(path) => {
                let found = device::tree().map(|tree| tree.list(zone, path)).unwrap_or_default();
                found.into_iter().map(|(name, entry)| (name.clone().into_bytes(), What::in_tree(&below(path, &name), entry))).collect()
            }
            What::Shm | What::Link(_) | What::Device(_) | What::Slave(_) | What::Leaf(..) => Vec::new(),
        }
    }
    fn find(&self, name: &[u8]) -> Option<What> {
        let zone = self.shared.zone;
        match &self.what {
            What::Root => match name {
                b"pts" => Some(What::Pts),
                b"shm" => Some(What::Shm),
                _ => device::row(zone, name).map(What::Device).or_else(|| {
                    LINKS.iter().position(|(link, _)| link.as_bytes() == name).map(What::Link)
                }).or_else(|| {
                    device::tree().filter(|tree| tree.name().as_bytes() == name && tree.is_there(zone)).map(|_| What::Branch("".into()))
                }),
            },
            What::Pts => {
                let index: u32 = core::str::from_utf8(name).ok()?.parse().ok()?;
                (decimal(index) == name && pty::slave(zone, index).is_some()).then_some(What::Slave(index))
            }
            What::Branch(path) => {
                let path = below(path, core::str::from_utf8(name).ok()?);
                device::tree()?.find(zone, &path).map(|entry| What::in_tree(&path, entry))
            }
            What::Shm | What::Link(_) | What::Device(_) | What::Slave(_) | What::Leaf(..) => None,
        }
    }
    fn name(&self) -> Vec<u8> {
        match &self.what {
            What::Root => Vec::new(),
            What::Pts => b"pts".to_vec(),
            What::Shm => b"shm".to_vec(),
            What::Link(index) => LINKS[*index].0.as_bytes().to_vec(),
            What::Device(row) => row.name.as_bytes().to_vec(),
            What::Slave(index) => decimal(*index),
            What::Branch(path) if path.is_empty() => device::tree().map(|tree| tree.name().into()).unwrap_or_default(),
            What::Branch(path) | What::Leaf(path, _) => path.rsplit('/').next().unwrap_or_default().as_bytes().to_vec(),
        }
    }
}

/// `name` in the directory at `path`.
fn below(path: &str, name: &str) -> alloc::string::String {
    if path.is_empty() { name.into() } else { alloc::format!("{path}/{name}") }
}

fn decimal(value: u32) -> Vec<u8> {
    let mut text = alloc::string::String::new();
    write!(text, "{value}").expect("a string takes everything");
    text.into_bytes()
}

impl Vnode for Node {
    fn id(&self) -> NodeId {
        NodeId { fs: self.shared.id, ino: self.what.ino() }
    }
    fn kind(&self) -> Kind {
        self.what.kind()
    }
    fn attr(&self) -> Result<Attr> {
        let (mut mode, mut uid, mut gid) = match &self.what {
            What::Root | What::Pts | What::Branch(_) => (0o755, 0, 0),
            What::Leaf(..) => (0o660, 0, DISK_GROUP),
            What::Shm => (0o1777, 0, 0),
            What::Link(_) => (0o777, 0, 0),
            What::Device(row) => (row.mode, 0, row.gid),
            What::Slave(index) => pty::slave(self.shared.zone, *index).ok_or(VfsError::NotFound)?.node_attr(),
        };
        if let Some(changed) = self.shared.changed.lock().get(&self.what.ino()) {
            (mode, uid, gid) = *changed;
        }
        let rdev = match &self.what {
            What::Device(row) => row.dev,
            What::Slave(index) => DevNo::new(pty::SLAVE_MAJOR, *index),
            What::Leaf(_, dev) => *dev,
            What::Root | What::Pts | What::Shm | What::Link(_) | What::Branch(_) => DevNo::default(),
        };
        let size = if let What::Link(index) = self.what { LINKS[index].1.len() as u64 } else { 0 };
        let nlink = if matches!(self.what.kind(), Kind::Directory) { 2 } else { 1 };
        let time = self.shared.made;
        Ok(Attr {
            uid,
            gid,
            nlink,
            size,
            rdev,
            atime: time,
            mtime: time,
            ctime: time,
            ..Attr::simple(self.id(), self.what.kind(), mode)
        })
    }
    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        if let What::Slave(index) = self.what {
            pty::slave(self.shared.zone, index).ok_or(VfsError::NotFound)?.set_node_attr(change);
            return Ok(());
        }
        let attr = self.attr()?;
        let new =
            (change.mode.unwrap_or(attr.mode) & 0o7777, change.uid.unwrap_or(attr.uid), change.gid.unwrap_or(attr.gid));
        self.shared.changed.lock().insert(self.what.ino(), new);
        Ok(())
    }
    fn lookup(&self, name: &[u8]) -> Result<VnodeRef> {
        if self.kind() != Kind::Directory {
            return Err(VfsError::NotDirectory);
        }
        self.find(name).map(|what| self.shared.node(what)).ok_or(VfsError::NotFound)
    }
    fn parent(&self) -> Result<(VnodeRef, Box<[u8]>)> {
        match &self.what {
            What::Root | What::Pts | What::Shm => Ok((self.shared.node(What::Root), self.name().into())),
            What::Branch(path) => {
                let up = match path.rsplit_once('/') {
                    Some((up, _)) => What::Branch(up.into()),
                    None if path.is_empty() => What::Root,
                    None => What::Branch("".into()),
                };
                Ok((self.shared.node(up), self.name().into()))
            }
            What::Link(_) | What::Device(_) | What::Slave(_) | What::Leaf(..) => Err(VfsError::NotDirectory),
        }
    }
    fn readdir(&self, cookie: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        if self.kind() != Kind::Directory {
            return Err(VfsError::NotDirectory);
        }
        let own = self.what.ino();
        if cookie < 1 && !emit(DirEntry { name: b".", ino: own, kind: Kind::Directory, next: 1 }) {
            return Ok(());
        }
        if cookie < 2 && !emit(DirEntry { name: b"..", ino: ROOT_INO, kind: Kind::Directory, next: 2 }) {
            return Ok(());
        }
        // A cookie is an inode number here; entries come in its order, so that coming and going devices disturb nobody.
        let mut entries = self.entries();
        entries.sort_by_key(|(_, what)| what.ino());
        for (name, what) in &entries {
            let next = what.ino() + FIRST_LINK_INO;
            if next > cookie.max(2) && !emit(DirEntry { name, ino: what.ino(), kind: what.kind(), next }) {
                break;
            }
        }
        Ok(())
    }
    fn readlink(&self) -> Result<Vec<u8>> {
        if let What::Link(index) = self.what { Ok(LINKS[index].1.as_bytes().to_vec()) } else { Err(VfsError::Invalid) }
    }
}

// ---- Drivers ----

#[derive(Clone, Copy, PartialEq, Eq)]
enum Memory {
    Null,
    Zero,
    Full,
    Random,
}

struct MemoryDriver(Memory);

struct MemoryDevice {
    what: Memory,
    id: NodeId,
}

impl device::Driver for MemoryDriver {
    fn open(&self, _dev: DevNo, node: &VnodeRef, _flags: OpenFlags, _zone: ZoneId) -> Result<VnodeRef> {
        Ok(Arc::new(MemoryDevice { what: self.0, id: node.id() }))
    }
}

impl Vnode for MemoryDevice {
    fn id(&self) -> NodeId {
        self.id
    }
    fn kind(&self) -> Kind {
        Kind::CharDevice
    }
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::simple(self.id, Kind::CharDevice, 0o666))
    }
    // Offsets mean nothing to these devices, but a seek succeeds, as programs expect.
    fn is_seekable(&self) -> bool {
        true
    }
    fn read_at(&self, _offset: u64, out: &mut [u8], _io: Io) -> Result<usize> {
        match self.what {
            Memory::Null => return Ok(0),
            Memory::Zero | Memory::Full => out.fill(0),
            Memory::Random => kif::rng().fill(out),
        }
        Ok(out.len())
    }
    fn write_at(&self, _offset: u64, data: &[u8], _io: Io) -> Result<usize> {
        if self.what == Memory::Full { Err(VfsError::NoSpace) } else { Ok(data.len()) }
    }
    fn append(&self, data: &[u8], io: Io) -> Result<(u64, usize)> {
        self.write_at(0, data, io).map(|count| (0, count))
    }
    fn page(&self, _index: u64, _write: bool, zone: ZoneId) -> Result<Frame> {
        if self.what == Memory::Zero { Ok(Frame::allocate(zone)?) } else { Err(VfsError::NoDevice) }
    }
}

struct KmsgDriver;

/// `/dev/kmsg`: reads the kernel log as text, writes lines into it.
struct Kmsg {
    id: NodeId,
}

impl device::Driver for KmsgDriver {
    fn open(&self, _dev: DevNo, node: &VnodeRef, _flags: OpenFlags, _zone: ZoneId) -> Result<VnodeRef> {
        Ok(Arc::new(Kmsg { id: node.id() }))
    }
}

impl Vnode for Kmsg {
    fn id(&self) -> NodeId {
        self.id
    }
    fn kind(&self) -> Kind {
        Kind::CharDevice
    }
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::simple(self.id, Kind::CharDevice, 0o600))
    }
    fn is_seekable(&self) -> bool {
        true
    }
    fn read_at(&self, offset: u64, out: &mut [u8], _io: Io) -> Result<usize> {
        Ok(kernel_log().map_or(0, |log| log.read(offset, out).0))
    }
    fn write_at(&self, _offset: u64, data: &[u8], _io: Io) -> Result<usize> {
        for line in data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            kif::log().line(format_args!("{}", alloc::string::String::from_utf8_lossy(line)));
        }
        Ok(data.len())
    }
}

struct TtyDriver;

impl device::Driver for TtyDriver {
    fn open(&self, _dev: DevNo, _node: &VnodeRef, flags: OpenFlags, _zone: ZoneId) -> Result<VnodeRef> {
        let caller = jobs().and_then(JobControl::caller).ok_or(VfsError::NoSuchDevice)?;
        tty::controlling(caller.session).ok_or(VfsError::NoSuchDevice)?.open(flags | OpenFlags::NOCTTY)
    }
}

struct ConsoleDriver;

impl device::Driver for ConsoleDriver {
    fn open(&self, _dev: DevNo, _node: &VnodeRef, flags: OpenFlags, zone: ZoneId) -> Result<VnodeRef> {
        let tty = if zone == ZoneId::GLOBAL { CONSOLE.get().cloned() } else { pty::console(zone) };
        // Opening the console does not make it the controlling terminal; TIOCSCTTY does.
        tty.ok_or(VfsError::NoSuchDevice)?.open(flags | OpenFlags::NOCTTY)
    }
}
