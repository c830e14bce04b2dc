//! The initrd: a cpio archive in the "newc" format, unpacked into a directory.
//!
//! # Theory
//! ```text
//! entry = header (110 bytes, ASCII)   magic "070701" or "070702", then 13 numbers of 8 hexadecimal digits:
//!                                     ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
//!         name, NUL, padding to 4     counted from the start of the archive
//!         data, padding to 4
//! last entry is called TRAILER!!!; zeros and further archives may follow (the kernel's initramfs format)
//! ```
//! Entries with the same device and inode number are one file; its data comes with one of them (cpio puts it last).
//!
//! # Failure
//! Every number, length and name is checked; an error says at which byte, in which entry, and what. What came before stays unpacked.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use kif::{Nanos, ZoneId};

use crate::vnode::{DevNo, Io, Kind, NAME_MAX, Owner, PATH_MAX, SetAttr, VnodeRef};
use crate::VfsError;

const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";

/// What is wrong with an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpioProblem {
    /// It ends inside an entry, or without a trailer.
    Truncated,
    /// No entry starts here; perhaps it is compressed, or another format.
    BadMagic,
    /// A header field is not a hexadecimal number.
    BadNumber,
    /// A name is empty, too long, not terminated, or has `..` in it.
    BadName,
    /// A mode that names no type of file.
    BadType,
    /// The sum of the bytes is not what the header says (format 070702).
    BadChecksum,
    /// The file system refused the entry.
    Refused(VfsError),
}

/// An archive could not be unpacked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpioError {
    /// Byte offset of the entry's header (or of the field).
    pub offset: usize,
    /// Name of the entry, as far as known.
    pub name: String,
    pub problem: CpioProblem,
}

impl fmt::Display for CpioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "initrd: byte {}: ", self.offset)?;
        if !self.name.is_empty() {
            write!(f, "`{}': ", self.name)?;
        }
        match self.problem {
            CpioProblem::Truncated => f.write_str("archive ends too early"),
            CpioProblem::BadMagic => f.write_str("no cpio header here (format must be newc, uncompressed)"),
            CpioProblem::BadNumber => f.write_str("header field is not a hexadecimal number"),
            CpioProblem::BadName => f.write_str("bad name"),
            CpioProblem::BadType => f.write_str("mode names no type of file"),
            CpioProblem::BadChecksum => f.write_str("checksum does not match"),
            CpioProblem::Refused(error) => write!(f, "cannot be made: {error:?}"),
        }
    }
}

/// What was unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Unpacked {
    pub entries: usize,
    pub bytes: u64,
}

struct Header {
    ino: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    mtime: u32,
    size: u32,
    dev: DevNo,
    rdev: DevNo,
    name_size: u32,
    check: u32,
    has_check: bool,
}

struct Reader<'a> {
    archive: &'a [u8],
    at: usize,
    entry: usize,
    name: &'a [u8],
}

impl<'a> Reader<'a> {
    fn error(&self, problem: CpioProblem) -> CpioError {
        CpioError { offset: self.entry, name: String::from_utf8_lossy(self.name).into_owned(), problem }
    }
    fn take(&mut self, count: usize) -> Result<&'a [u8], CpioError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.archive.len());
        let end = end.ok_or_else(|| self.error(CpioProblem::Truncated))?;
        let bytes = &self.archive[self.at..end];
        self.at = end;
        Ok(bytes)
    }
    fn align(&mut self) {
        self.at = self.at.next_multiple_of(4).min(self.archive.len());
    }
    fn header(&mut self) -> Result<Header, CpioError> {
        self.entry = self.at;
        self.name = &[];
        let bytes = self.take(HEADER)?;
        let has_check = match &bytes[..6] {
            b"070701" => false,
            b"070702" => true,
            _ => return Err(self.error(CpioProblem::BadMagic)),
        };
        let mut fields = [0; 13];
        for (field, digits) in fields.iter_mut().zip(bytes[6..].chunks_exact(8)) {
            for digit in digits {
                let value = char::from(*digit).to_digit(16).ok_or_else(|| self.error(CpioProblem::BadNumber))?;
                *field = (*field << 4) | value;
            }
        }
        let [ino, mode, uid, gid, nlink, mtime, size, major, minor, rmajor, rminor, name_size, check] = fields;
        let (dev, rdev) = (DevNo::new(major, minor), DevNo::new(rmajor, rminor));
        Ok(Header { ino, mode, uid, gid, nlink, mtime, size, dev, rdev, name_size, check, has_check })
    }
    fn name(&mut self, header: &Header) -> Result<(), CpioError> {
        let size = header.name_size as usize;
        if size == 0 || size > PATH_MAX {
            return Err(self.error(CpioProblem::BadName));
        }
        let bytes = self.take(size)?;
        let Some((0, name)) = bytes.split_last() else { return Err(self.error(CpioProblem::BadName)) };
        self.name = name;
        let is_bad = name.contains(&0) || name.split(|byte| *byte == b'/').any(|part| part == b".." || part.len() > NAME_MAX);
        if name.is_empty() || is_bad {
            return Err(self.error(CpioProblem::BadName));
        }
        self.align();
        Ok(())
    }
}

/// Unpacks `archive` into the directory `root`, contents charged to `zone`.
///
/// # Errors
/// See [`CpioProblem`].
pub fn unpack(archive: &[u8], root: &VnodeRef, zone: ZoneId) -> Result<Unpacked, CpioError> {
    let mut reader = Reader { archive, at: 0, entry: 0, name: &[] };
    let mut done = Unpacked::default();
    let mut links: BTreeMap<(DevNo, u32), VnodeRef> = BTreeMap::new();
    loop {
        let header = reader.header()?;
        reader.name(&header)?;
        let data = reader.take(header.size as usize)?;
        reader.align();
        if reader.name == TRAILER {
            links.clear();
            while reader.archive.get(reader.at) == Some(&0) {
                reader.at += 1;
            }
            if reader.at >= reader.archive.len() {
                return Ok(done);
            }
            continue;
        }
        if header.has_check && data.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte))) != header.check {
            return Err(reader.error(CpioProblem::BadChecksum));
        }
        let kind = Kind::from_type_bits(header.mode).ok_or_else(|| reader.error(CpioProblem::BadType))?;
        place(&reader, &header, kind, data, root, zone, &mut links).map_err(|error| reader.error(CpioProblem::Refused(error)))?;
        done.entries += 1;
        done.bytes += data.len() as u64;
    }
}

/// Makes one entry.
fn place(
    reader: &Reader<'_>,
    header: &Header,
    kind: Kind,
    data: &[u8],
    root: &VnodeRef,
    zone: ZoneId,
    links: &mut BTreeMap<(DevNo, u32), VnodeRef>,
) -> crate::Result<()> {
    let parts: Vec<&[u8]> =
        reader.name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    let owner = Owner { uid: header.uid, gid: header.gid, zone };
    let mode = header.mode & 0o7777;
    let time = Nanos::from_secs(u64::from(header.mtime));
    let finish = |vnode: &VnodeRef| {
        let mode = if kind == Kind::Symlink { None } else { Some(mode) };
        vnode.set_attr(&SetAttr { mode, uid: Some(header.uid), gid: Some(header.gid), atime: Some(time), mtime: Some(time) })
    };
    let Some((name, directories)) = parts.split_last() else {
        // The root itself: `.`.
        return if kind == Kind::Directory { finish(root) } else { Err(VfsError::IsDirectory) };
    };
    let mut directory = root.clone();
    for part in directories {
        directory = match directory.lookup(part) {
            Ok(next) => next,
            Err(VfsError::NotFound) => directory.mkdir(part, 0o755, Owner { uid: 0, gid: 0, zone })?,
            Err(error) => return Err(error),
        };
    }
    let key = (header.dev, header.ino);
    let is_shared = header.nlink > 1 && kind != Kind::Directory;
    let existing = directory.lookup(name);
    let vnode = match (kind, existing) {
        (Kind::Directory, Ok(there)) if there.kind() == Kind::Directory => there,
        (_, existing) => {
            // A later entry of the same name replaces the earlier one.
            match existing {
                Ok(there) if there.kind() != Kind::Directory => directory.unlink(name)?,
                Ok(_) => return Err(VfsError::IsDirectory),
                Err(VfsError::NotFound) => {}
                Err(error) => return Err(error),
            }
            match links.get(&key).filter(|first| is_shared && first.kind() == kind) {
                Some(first) => {
                    directory.link(name, first)?;
                    first.clone()
                }
                None => match kind {
                    Kind::Directory => directory.mkdir(name, mode, owner)?,
                    Kind::Symlink => directory.symlink(name, data, owner)?,
                    _ => directory.create(name, kind, mode, header.rdev, owner)?,
                },
            }
        }
    };
    if is_shared {
        links.insert(key, vnode.clone());
    }
    if kind == Kind::File && !data.is_empty() {
        let io = Io { zone, nonblock: false };
        let mut at = 0;
        while at < data.len() {
            let count = vnode.write_at(at as u64, &data[at..], io)?;
            if count == 0 {
                return Err(VfsError::NoSpace);
            }
            at += count;
        }
    }
    finish(&vnode)
}
