//! Block devices: disks as files, and as what the pool is made of.
//!
//! # Theory
//! A driver registers a disk once; it gets a name (`vda`, `vdb`, ...), a device number and a node in the global zone's `/dev`. Programs may read and write
//! at any offset: what is not whole sectors is read first. There is no cache in between: a disk's cache is its file system's.
//!
//! # Locking
//! `Class::Vnode` around the table, and around each transfer that has to read a sector in order to change a part of it; disks block under the latter.
//!
//! # Failure
//! A disk's errors are EIO; a write to one that is held by a pool is refused, so that no tool can write under it.
//!
//! # Limits
//! [`NAMES`] disks per kind. Global zone only.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use kif::{BlockDev, BlockError, ZoneId};
use sync::{Class, Mutex};

use crate::device::{self, Row, Scope};
use crate::file::OpenFlags;
use crate::vnode::{Attr, DevNo, Io, Kind, NodeId, SetAttr, Vnode, VnodeRef};
use crate::{Result, VfsError};

/// Disks of one kind: a letter each.
pub const NAMES: usize = 26;
/// Major number of our disks: the first of those for local use (Linux `devices.txt`), one minor in 16, as whole disks have.
const MAJOR: u32 = 240;
/// Longest piece of a transfer that is not whole sectors.
const PIECE: usize = 64 << 10;
/// `ioctl`s (`linux/fs.h`): read-only?, size in sectors, flush, logical sector size, physical sector size, size in bytes.
const BLKROGET: u32 = 0x125e;
const BLKGETSIZE: u32 = 0x1260;
const BLKFLSBUF: u32 = 0x1261;
const BLKSSZGET: u32 = 0x1268;
const BLKPBSZGET: u32 = 0x127b;
const BLKGETSIZE64: u32 = 0x8008_1272;

/// A registered disk.
#[allow(missing_debug_implementations, reason = "drivers do not print")]
pub struct Disk {
    name: &'static str,
    dev: DevNo,
    device: Arc<dyn BlockDev>,
    partial: Mutex<()>,
    held: AtomicBool,
}

static DISKS: Mutex<Vec<Arc<Disk>>> = Mutex::new(Class::Vnode, Vec::new());

/// Adds a disk and says what it is called; `None` if all names are taken.
pub fn register(prefix: &str, device: Arc<dyn BlockDev>) -> Option<&'static str> {
    let disk = {
        let mut disks = DISKS.lock();
        let minor = disks.len();
        let of_kind = disks.iter().filter(|disk| disk.name.starts_with(prefix)).count();
        if of_kind == NAMES {
            return None;
        }
        let mut name = String::from(prefix);
        name.push(char::from(b'a' + of_kind as u8));
        // Disks are for the life of the kernel, and so are their names.
        let name: &'static str = Box::leak(name.into_boxed_str());
        let dev = DevNo::new(MAJOR, minor as u32 * 16);
        let disk = Arc::new(Disk { name, dev, device, partial: Mutex::new(Class::Vnode, ()), held: AtomicBool::new(false) });
        disks.push(Arc::clone(&disk));
        disk
    };
    let (name, dev) = (disk.name, disk.dev);
    device::register(Row { name, kind: Kind::BlockDevice, dev, mode: 0o660, gid: 6, scope: Scope::GlobalOnly, driver: Arc::new(Driver(disk)) });
    Some(name)
}

/// All disks, in order of registration.
#[must_use]
pub fn disks() -> Vec<Arc<Disk>> {
    DISKS.lock().clone()
}

impl Disk {
    /// Its name under `/dev`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
    /// The device itself.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn BlockDev> {
        &self.device
    }
    /// Takes the disk for a pool: from now on nobody writes to it through `/dev`. False if it is taken.
    #[must_use]
    pub fn hold(&self) -> bool {
        !self.held.swap(true, Relaxed)
    }
    /// Gives it back.
    pub fn release(&self) {
        self.held.store(false, Relaxed);
    }

    fn is_aligned(&self, offset: u64, len: usize) -> bool {
        let sector = u64::from(self.device.sector_bytes());
        offset.is_multiple_of(sector) && (len as u64).is_multiple_of(sector)
    }

    /// The whole sectors around `len` bytes at `offset`: where they start, how long they are.
    fn around(&self, offset: u64, len: usize) -> (u64, usize) {
        let sector = u64::from(self.device.sector_bytes());
        let start = offset - offset % sector;
        let end = (offset + len as u64).next_multiple_of(sector).min(self.device.size_bytes());
        (start, (end - start) as usize)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<usize> {
        let left = self.device.size_bytes().saturating_sub(offset);
        let len = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let out = &mut out[..len];
        if self.is_aligned(offset, len) {
            self.device.read(offset, out).map_err(error)?;
            return Ok(len);
        }
        let mut at = offset;
        for piece in out.chunks_mut(PIECE) {
            let (start, whole) = self.around(at, piece.len());
            let mut buffer = buffer(whole)?;
            self.device.read(start, &mut buffer).map_err(error)?;
            let skip = (at - start) as usize;
            piece.copy_from_slice(&buffer[skip..skip + piece.len()]);
            at += piece.len() as u64;
        }
        Ok(len)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<usize> {
        if self.held.load(Relaxed) {
            return Err(VfsError::Busy);
        }
        let left = self.device.size_bytes().saturating_sub(offset);
        if left == 0 && !data.is_empty() {
            return Err(VfsError::NoSpace);
        }
        let data = &data[..data.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        if self.is_aligned(offset, data.len()) {
            self.device.write(offset, data).map_err(error)?;
            return Ok(data.len());
        }
        let _serial = self.partial.lock();
        let mut at = offset;
        for piece in data.chunks(PIECE) {
            let (start, whole) = self.around(at, piece.len());
            let mut buffer = buffer(whole)?;
            self.device.read(start, &mut buffer).map_err(error)?;
            let skip = (at - start) as usize;
            buffer[skip..skip + piece.len()].copy_from_slice(piece);
            self.device.write(start, &buffer).map_err(error)?;
            at += piece.len() as u64;
        }
        Ok(data.len())
    }
}

/// Zeroed memory for sectors.
fn buffer(len: usize) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| VfsError::NoMemory)?;
    buffer.resize(len, 0);
    Ok(buffer)
}

const fn error(error: BlockError) -> VfsError {
    match error {
        BlockError::Io => VfsError::Io,
        BlockError::OutOfRange => VfsError::Invalid,
        BlockError::Gone => VfsError::NoDevice,
        BlockError::ReadOnly => VfsError::ReadOnly,
    }
}

struct Driver(Arc<Disk>);

impl device::Driver for Driver {
    fn open(&self, _dev: DevNo, node: &VnodeRef, flags: OpenFlags, _zone: ZoneId) -> Result<VnodeRef> {
        if flags.contains(OpenFlags::WRITE) && self.0.held.load(Relaxed) {
            return Err(VfsError::Busy);
        }
        Ok(Arc::new(Node { disk: Arc::clone(&self.0), node: Arc::clone(node) }))
    }
}

/// An open disk: contents are the disk's, attributes those of the node it was opened by.
struct Node {
    disk: Arc<Disk>,
    node: VnodeRef,
}

impl Vnode for Node {
    fn id(&self) -> NodeId {
        self.node.id()
    }
    fn kind(&self) -> Kind {
        Kind::BlockDevice
    }
    fn attr(&self) -> Result<Attr> {
        self.node.attr()
    }
    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        self.node.set_attr(change)
    }
    fn read_at(&self, offset: u64, out: &mut [u8], _io: Io) -> Result<usize> {
        self.disk.read(offset, out)
    }
    fn write_at(&self, offset: u64, data: &[u8], _io: Io) -> Result<usize> {
        self.disk.write(offset, data)
    }
    fn sync(&self) -> Result<()> {
        self.disk.device.flush().map_err(error)
    }
    fn ioctl(&self, request: u32, argument: u64, _io: Io) -> Result<u64> {
        let device = &self.disk.device;
        let answer = |bytes: &[u8]| kif::user().write(argument, bytes).map(|()| 0).map_err(|_| VfsError::BadAddress);
        match request {
            BLKROGET => answer(&0_u32.to_le_bytes()),
            BLKGETSIZE => answer(&(device.size_bytes() / 512).to_le_bytes()),
            BLKGETSIZE64 => answer(&device.size_bytes().to_le_bytes()),
            BLKSSZGET | BLKPBSZGET => answer(&device.sector_bytes().to_le_bytes()),
            BLKFLSBUF => device.flush().map(|()| 0).map_err(error),
            _ => Err(VfsError::NotTty),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// A disk in memory, 4,096-byte sectors, that refuses what is not whole sectors.
    struct Memory(Mutex<Vec<u8>>);

    impl BlockDev for Memory {
        fn size_bytes(&self) -> u64 {
            self.0.lock().len() as u64
        }
        fn sector_bytes(&self) -> u32 {
            4096
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> core::result::Result<(), BlockError> {
            assert!(offset.is_multiple_of(4096) && out.len().is_multiple_of(4096));
            let at = offset as usize;
            out.copy_from_slice(self.0.lock().get(at..at + out.len()).ok_or(BlockError::OutOfRange)?);
            Ok(())
        }
        fn write(&self, offset: u64, data: &[u8]) -> core::result::Result<(), BlockError> {
            assert!(offset.is_multiple_of(4096) && data.len().is_multiple_of(4096));
            let at = offset as usize;
            self.0.lock().get_mut(at..at + data.len()).ok_or(BlockError::OutOfRange)?.copy_from_slice(data);
            Ok(())
        }
        fn flush(&self) -> core::result::Result<(), BlockError> {
            Ok(())
        }
    }

    #[test]
    fn any_offset_works_and_a_held_disk_is_not_written() {
        kif_host::start();
        let content: Vec<u8> = (0..5 * 4096_u32).map(|n| (n / 7) as u8).collect();
        let memory = Arc::new(Memory(Mutex::new(Class::Pages, content.clone())));
        let name = register("test", Arc::clone(&memory) as Arc<dyn BlockDev>).expect("a free name");
        assert_eq!(name, "testa");
        let disk = disks().into_iter().find(|disk| disk.name() == name).expect("registered");
        let mut out = vec![0; 10_000];
        assert_eq!(disk.read(4095, &mut out), Ok(10_000));
        assert_eq!(out, content[4095..14_095]);
        // The end of the disk is the end of file.
        assert_eq!(disk.read(5 * 4096 - 3, &mut out), Ok(3));
        assert_eq!(disk.read(5 * 4096, &mut out), Ok(0));
        // Neighbours of what is written stay.
        assert_eq!(disk.write(4090, &[1; 12]), Ok(12));
        let mut expected = content;
        expected[4090..4102].fill(1);
        assert_eq!(*memory.0.lock(), expected);
        assert_eq!(disk.write(5 * 4096, &[1]), Err(VfsError::NoSpace));
        assert!(disk.hold() && !disk.hold());
        assert_eq!(disk.write(0, &[1]), Err(VfsError::Busy));
        disk.release();
        assert_eq!(disk.write(0, &[1]), Ok(1));
    }
}
