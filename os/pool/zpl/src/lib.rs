//! POSIX files on the DMU: the ZPL.
//!
//! # Theory
//! A file system's object set has a master node (object 1) that names the root directory and the tables of system attributes. A
//! directory is a ZAP from name to object number and type; a file is an object whose attributes sit in the dnode's bonus buffer and, if
//! they do not fit, in a spill block.
//!
//! # Failure
//! As in `dmu`. Object numbers in directories are checked when they are opened: one that names a free or foreign object is an error of
//! that entry alone.
//!
//! # Limits
//! No ACLs beyond the mode. Paths follow no symbolic links; whoever needs that does it with [`Filesystem::stat`]. Names are bytes.
#![no_std]
extern crate alloc;

mod diff;
mod replay;
mod volume;
mod write;
mod xattr;
mod zvol;

pub use diff::{Diff, Difference, Happened, Memory as DiffMemory, diff};
pub use replay::replay_logs;
pub use volume::Volume;
pub use write::{Change, Make, NewEntry, Writer, create_filesystem, format_dataset, owners};
pub use xattr::{NAME_MAX as XATTR_NAME_MAX, VALUE_MAX as XATTR_VALUE_MAX, XattrStyle};
pub use zvol::{BLOCK_DEFAULT, DATA as VOLUME_DATA, Zvol, check_size, reservation};

use alloc::vec;
use alloc::vec::Vec;

use pool_dmu::edit::{Edit, EditError, Sought};
use pool_dmu::{Error, Object, ObjectSet};
use pool_phys::FormatError;
use pool_phys::dnode::kind;
use pool_phys::nvlist::{self, Value};
use pool_phys::sa::{Registry, Znode};
use pool_spa::Pool;

const MASTER_NODE: u64 = 1;
const TYPE_MASK: u64 = 0o170_000;
const DIRECTORY_TYPE: u64 = 0o040_000;
/// Object number bits of a directory entry's value.
const OBJECT_MASK: u64 = (1 << 48) - 1;

/// An open file system (or a snapshot of one).
#[derive(Debug)]
pub struct Filesystem<'p> {
    set: ObjectSet<'p>,
    root: u64,
    registry: Registry,
}

/// An extended attribute: name and value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// A directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub object: u64,
    /// File type as in `st_mode >> 12`.
    pub file_type: u64,
}

/// Makes the bytes from `offset` up to `limit` zeros: whole blocks become holes.
fn punch(edit: &mut Edit, pool: &Pool, offset: u64, limit: u64) -> Result<(), EditError> {
    let size = edit.dnode.block_size;
    let limit = limit.min(edit.dnode.last_block.saturating_add(1).saturating_mul(size));
    if offset >= limit {
        return Ok(());
    }
    let first = offset.next_multiple_of(size).min(limit);
    let last = (limit - limit % size).max(first);
    for (from, to) in [(offset, first), (last, limit)] {
        // A part of a hole is zeros already.
        if from < to && edit.seek(pool, from / size, false)? == Some(from / size) {
            edit.write_at(pool, from, &zvol::zeros(to - from))?;
        }
    }
    edit.punch(first / size, (last - first) / size);
    Ok(())
}

/// Where data or a hole begins, from `offset` on in an object of `size` bytes, as far as `most` blocks tell.
fn seek(edit: &Edit, pool: &Pool, offset: u64, size: u64, hole: bool, most: u64) -> Result<Sought, EditError> {
    if offset >= size {
        return Ok(Sought::Nowhere);
    }
    let block = edit.dnode.block_size;
    let place = |number: u64| number.saturating_mul(block).max(offset);
    Ok(match edit.seek_some(pool, offset / block, hole, most)? {
        Sought::GoOn(number) if place(number) < size => Sought::GoOn(place(number)),
        Sought::At(number) if place(number) < size => Sought::At(place(number)),
        _ if hole => Sought::At(size.min((edit.dnode.last_block + 1).saturating_mul(block)).max(offset)),
        _ => Sought::Nowhere,
    })
}

impl<'p> Filesystem<'p> {
    /// Opens the file system in `set`.
    ///
    /// # Errors
    /// Not a file system, or its master node is unreadable or malformed.
    pub fn open(set: ObjectSet<'p>) -> Result<Self, Error> {
        if set.kind() != pool_phys::objset::ObjsetKind::Zpl {
            return Err(FormatError::new("object set", "is not a file system", 0).into());
        }
        let root = set.lookup_number(MASTER_NODE, "ROOT")?;
        let registry = match set.lookup_number(MASTER_NODE, "SA_ATTRS") {
            Ok(master) => {
                let table = |name| set.lookup_number(master, name).and_then(|number| set.zap(number));
                Registry::new(&table("REGISTRY")?, &table("LAYOUTS")?)?
            }
            // Before ZPL 5 files carry znodes.
            Err(Error::NotFound) => Registry::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { set, root, registry })
    }

    /// Object number of the root directory.
    #[must_use]
    pub const fn root(&self) -> u64 {
        self.root
    }

    /// The object set below.
    #[must_use]
    pub const fn objects(&self) -> &ObjectSet<'p> {
        &self.set
    }

    fn open_object(&self, number: u64) -> Result<(Object<'p>, Znode), Error> {
        let object = self.set.object(number)?;
        let dnode = object.dnode();
        let znode = match dnode.bonus_kind {
            kind::SYSTEM_ATTRIBUTES => {
                let mut znode = Znode::default();
                znode.absorb(&self.registry.parse(&dnode.bonus)?)?;
                if let Some(spill) = object.spill()? {
                    znode.absorb(&self.registry.parse(&spill)?)?;
                }
                znode
            }
            kind::ZNODE => Znode::parse_old(&dnode.bonus)?,
            other => return Err(FormatError::new("file", "bonus holds no attributes", u64::from(other)).into()),
        };
        Ok((object, znode))
    }

    /// Attributes of object `number`.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn stat(&self, number: u64) -> Result<Znode, Error> {
        self.open_object(number).map(|(_, znode)| znode)
    }

    /// Entries of directory `number`, sorted by name. `.` and `..` are not stored.
    ///
    /// # Errors
    /// Not a directory, not found, unreadable, malformed.
    pub fn read_dir(&self, number: u64) -> Result<Vec<Entry>, Error> {
        self.check_directory(number)?;
        let mut out: Vec<Entry> = self
            .set
            .zap(number)?
            .into_iter()
            .filter_map(|entry| {
                let value = entry.number()?;
                Some(Entry { object: value & OBJECT_MASK, file_type: value >> 60, name: entry.name })
            })
            .collect();
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    fn check_directory(&self, number: u64) -> Result<(), Error> {
        let mode = self.stat(number)?.mode;
        if mode & TYPE_MASK == DIRECTORY_TYPE { Ok(()) } else { Err(Error::NotFound) }
    }

    /// Walks `path` (slashes separate; empty parts and `.` are skipped) from the root.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn lookup(&self, path: &[u8]) -> Result<u64, Error> {
        let mut number = self.root;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
            self.check_directory(number)?;
            if part == b".." {
                number = self.stat(number)?.parent;
                continue;
            }
            let entry = self.set.lookup(number, part)?;
            number = entry.number().ok_or(Error::NotFound)? & OBJECT_MASK;
        }
        Ok(number)
    }

    /// Gives the contents of file `number` to `sink`, a block at a time, in order.
    ///
    /// # Errors
    /// Not found, unreadable (what came before was good), malformed, or what `sink` returns.
    pub fn read_file<E: From<Error>>(&self, number: u64, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let (mut object, znode) = self.open_object(number)?;
        let step = object.dnode().block_size;
        let mut offset = 0;
        while offset < znode.size {
            let count = step.min(znode.size - offset);
            let mut data = vec![0; usize::try_from(count).map_err(|_| Error::NotFound)?];
            object.read_at(offset, &mut data)?;
            sink(&data)?;
            offset += count;
        }
        Ok(())
    }

    /// Target of symbolic link `number`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is none; unreadable, malformed.
    pub fn read_link(&self, number: u64) -> Result<Vec<u8>, Error> {
        let (mut object, znode) = self.open_object(number)?;
        if znode.mode & TYPE_MASK != 0o120_000 {
            return Err(Error::NotFound);
        }
        if let Some(target) = znode.symlink {
            return Ok(target);
        }
        // Long targets of old file systems are file data; longer than a path they mean nothing.
        let size = usize::try_from(znode.size).ok().filter(|size| *size <= 4096);
        let mut data = vec![0; size.ok_or(FormatError::new("symbolic link", "target is too long", znode.size))?];
        object.read_at(0, &mut data)?;
        Ok(data)
    }

    /// Extended attributes of object `number`: those in its own attributes (`xattr=sa`) and those in its attribute directory.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn xattrs(&self, number: u64) -> Result<Vec<Xattr>, Error> {
        let znode = self.stat(number)?;
        let mut out = Vec::new();
        if let Some(packed) = &znode.xattrs {
            for (name, value) in nvlist::parse(packed)?.pairs {
                if let Value::Bytes(bytes) = value {
                    out.push((name.into_bytes(), bytes));
                }
            }
        }
        if znode.xattr_dir != 0 {
            for entry in self.read_dir(znode.xattr_dir)? {
                let mut data = Vec::new();
                self.read_file::<Error>(entry.object, |block| {
                    data.extend_from_slice(block);
                    Ok(())
                })?;
                out.push((entry.name, data));
            }
        }
        out.sort();
        Ok(out)
    }
}
