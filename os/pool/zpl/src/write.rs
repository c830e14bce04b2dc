//! Changing files: formatting a file system, making and removing entries, writing data.
//!
//! A change belongs to the open transaction group of the [`Store`]; nothing is durable before its commit.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use pool_dmu::edit::{EditError, Set};
use pool_dmu::{Error, Store, zap_edit as zap};
use pool_phys::FormatError;
use pool_phys::dnode::{Dnode, kind};
use pool_phys::sa::{self, Registry, Time, Znode};
use pool_phys::zap::Entry;
use pool_spa::Pool;

use crate::{MASTER_NODE, OBJECT_MASK, TYPE_MASK};

const DIRECTORY: u64 = 0o040_000;
const REGULAR: u64 = 0o100_000;
const SYMLINK: u64 = 0o120_000;
const RECORD_SIZE: u64 = 128 << 10;
/// Longest file name in bytes.
const NAME_MAX: usize = 255;
/// A symlink target longer than this would need a spill block.
const TARGET_MAX: usize = 120;
/// Object types used here only.
const MASTER: u8 = 21;
const DELETE_QUEUE: u8 = 22;
const SA_MASTER: u8 = 45;
const SA_REGISTRY: u8 = 46;
const SA_LAYOUTS: u8 = 47;

/// Attributes as OpenZFS registers them: name, length (0 = variable), byteswap class.
const ATTRIBUTES: [(&str, u16, u8); 22] = [
    ("ZPL_ATIME", 16, 0),
    ("ZPL_MTIME", 16, 0),
    ("ZPL_CTIME", 16, 0),
    ("ZPL_CRTIME", 16, 0),
    ("ZPL_GEN", 8, 0),
    ("ZPL_MODE", 8, 0),
    ("ZPL_SIZE", 8, 0),
    ("ZPL_PARENT", 8, 0),
    ("ZPL_LINKS", 8, 0),
    ("ZPL_XATTR", 8, 0),
    ("ZPL_RDEV", 8, 0),
    ("ZPL_FLAGS", 8, 0),
    ("ZPL_UID", 8, 0),
    ("ZPL_GID", 8, 0),
    ("ZPL_PAD", 32, 0),
    ("ZPL_ZNODE_ACL", 88, 3),
    ("ZPL_DACL_COUNT", 8, 0),
    ("ZPL_SYMLINK", 0, 3),
    ("ZPL_SCANSTAMP", 32, 3),
    ("ZPL_DACL_ACES", 0, 4),
    ("ZPL_DXATTR", 0, 3),
    ("ZPL_PROJID", 8, 0),
];
/// Layouts we write: a file or directory, and a symbolic link.
const FILE_LAYOUT: (u16, &[u16]) = (2, &[5, 6, 4, 12, 13, 7, 11, 0, 1, 2, 3, 8, 16, 19]);
const LINK_LAYOUT: (u16, &[u16]) = (3, &[5, 6, 4, 12, 13, 7, 11, 0, 1, 2, 3, 8, 16, 19, 17]);
/// Byte offsets behind the SA header, the same in every layout of OpenZFS and ours (format section 17.2).
const AT_SIZE: usize = 8;
const AT_MODIFIED: usize = 72;
const AT_CHANGED: usize = 88;
const AT_LINKS: usize = 120;

/// Attributes of an entry to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewEntry {
    /// Permission bits.
    pub mode: u64,
    pub uid: u64,
    pub gid: u64,
    pub now: Time,
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub enum Make<'a> {
    File,
    Directory,
    Symlink(&'a [u8]),
}

/// A file system open for changing.
#[derive(Debug)]
pub struct Writer<'s> {
    store: &'s mut Store,
    dataset: u64,
    registry: Registry,
    root: u64,
}

/// Owner and group of a file from its dnode; `None` for other objects. The first attributes of every layout are at fixed places.
fn owners(dnode: &Dnode) -> Option<(u64, u64)> {
    if dnode.bonus_kind != kind::SYSTEM_ATTRIBUTES {
        return None;
    }
    let header = usize::from(u16::from_le_bytes([*dnode.bonus.get(4)?, *dnode.bonus.get(5)?]) >> 10) * 8;
    let field = |at: usize| dnode.bonus.get(header + at..header + at + 8)?.try_into().ok().map(u64::from_le_bytes);
    Some((field(24)? & 0xFFFF_FFFF, field(32)? & 0xFFFF_FFFF))
}

/// The three access-control entries that say what `mode` says (format section 17.2).
fn trivial_acl(mode: u64, is_directory: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for (shift, flags, base) in [(6, 0x1000_u16, 0x12_0088_u32 | 0x0C_0110), (3, 0x2040, 0x12_0088), (0, 0x4000, 0x12_0088)] {
        let bits = mode >> shift & 7;
        let write = if is_directory { 0x46 } else { 6 };
        let mask = base | if bits & 4 != 0 { 1 } else { 0 } | if bits & 2 != 0 { write } else { 0 } | if bits & 1 != 0 { 0x20 } else { 0 };
        out.extend_from_slice(&0_u16.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&mask.to_le_bytes());
    }
    out
}

fn attributes(mode: u64, size: u64, links: u64, parent: u64, txg: u64, new: &NewEntry, target: Option<&[u8]>) -> Vec<u8> {
    let is_directory = mode & TYPE_MASK == DIRECTORY;
    // Group and others never have more than the owner may: then the trivial ACL says all (flag 4). Execute for somebody clears "no execs denied".
    let flags = 0x408_0000_0004_u64 | if is_directory || mode & 0o111 != 0 { 0x100 } else { 0 };
    let acl = trivial_acl(mode, is_directory);
    let number = |value: u64| value.to_le_bytes().to_vec();
    let time = |time: Time| [time.0.to_le_bytes(), time.1.to_le_bytes()].concat();
    let now = || time(new.now);
    let values = [
        number(mode),
        number(size),
        number(txg),
        number(new.uid),
        number(new.gid),
        number(parent),
        number(flags),
        now(),
        now(),
        now(),
        now(),
        number(links),
        number(3),
        acl,
    ];
    let mut list: Vec<(bool, &[u8])> = values.iter().map(|value| (false, value.as_slice())).collect();
    list[13].0 = true;
    match target {
        None => sa::encode(FILE_LAYOUT.0, &list),
        Some(target) => {
            list.push((true, target));
            sa::encode(LINK_LAYOUT.0, &list)
        }
    }
}

/// Makes an empty file system in a dataset just made with [`Store::create_dataset`].
///
/// # Errors
/// No space, or a device failed.
pub fn format_dataset(store: &mut Store, dataset: u64, new: &NewEntry) -> Result<(), EditError> {
    let txg = store.txg();
    let (set, pool) = store.edit_dataset(dataset, Some(owners))?;
    set.claim(MASTER_NODE, MASTER, 512, 0, Vec::new());
    zap::format(set.edit(pool, MASTER_NODE)?, 0);
    let table = |set: &mut Set, kind: u8| -> Result<u64, EditError> {
        let number = set.allocate(pool, kind, 512, 0, Vec::new())?;
        zap::format(set.edit(pool, number)?, 0);
        Ok(number)
    };
    let master = table(set, SA_MASTER)?;
    let queue = table(set, DELETE_QUEUE)?;
    let registry = table(set, SA_REGISTRY)?;
    let layouts = table(set, SA_LAYOUTS)?;
    let bonus = attributes(DIRECTORY | new.mode, 2, 2, 0, txg, new, None);
    let root = set.allocate(pool, kind::DIRECTORY, 512, kind::SYSTEM_ATTRIBUTES, bonus)?;
    zap::format(set.edit(pool, root)?, 0);
    set_parent(set, pool, root, root)?;
    for (name, value) in [("VERSION", 5), ("SA_ATTRS", master), ("DELETE_QUEUE", queue), ("ROOT", root), ("utf8only", 0), ("normalization", 0), ("casesensitivity", 0)] {
        zap::set_number(set.edit(pool, MASTER_NODE)?, pool, name.as_bytes(), value)?;
    }
    zap::set_number(set.edit(pool, master)?, pool, b"REGISTRY", registry)?;
    zap::set_number(set.edit(pool, master)?, pool, b"LAYOUTS", layouts)?;
    for (index, (name, length, swap)) in ATTRIBUTES.iter().enumerate() {
        let value = index as u64 | u64::from(*swap) << 16 | u64::from(*length) << 24;
        zap::set_number(set.edit(pool, registry)?, pool, name.as_bytes(), value)?;
    }
    for (number, members) in [FILE_LAYOUT, LINK_LAYOUT] {
        let value = members.iter().copied().map(u64::from).collect();
        zap::set(set.edit(pool, layouts)?, pool, Entry { name: number.to_string().into_bytes(), integer_size: 2, value })?;
    }
    Ok(())
}

fn set_parent(set: &mut Set, pool: &Pool, object: u64, parent: u64) -> Result<(), EditError> {
    put_field(set, pool, object, 40, parent)
}

fn put_field(set: &mut Set, pool: &Pool, object: u64, at: usize, value: u64) -> Result<(), EditError> {
    let bonus = &mut set.edit(pool, object)?.dnode.bonus;
    let header = bonus.get(4..6).map_or(0, |bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]]) >> 10) * 8);
    let field = bonus.get_mut(header + at..header + at + 8).ok_or(FormatError::new("SA buffer", "too short", object))?;
    field.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

impl<'s> Writer<'s> {
    /// Opens file system `dataset` for changing.
    ///
    /// # Errors
    /// Not a file system of ZPL version 5, unreadable, malformed.
    pub fn open(store: &'s mut Store, dataset: u64) -> Result<Self, EditError> {
        let (set, pool) = store.edit_dataset(dataset, Some(owners))?;
        let master = set.view(pool, MASTER_NODE)?;
        let root = zap::number(&master, pool, b"ROOT")?.ok_or(EditError::Invalid("the dataset is not a file system"))?;
        let attributes = zap::number(&master, pool, b"SA_ATTRS")?.ok_or(EditError::Invalid("file systems before ZPL version 5 can only be read"))?;
        let attributes = set.view(pool, attributes)?;
        let table = |name: &[u8]| -> Result<Vec<Entry>, EditError> {
            let number = zap::number(&attributes, pool, name)?.ok_or(Error::NotFound)?;
            zap::entries(&set.view(pool, number)?, pool, None)
        };
        let layouts = table(b"LAYOUTS")?;
        for (number, members) in [FILE_LAYOUT, LINK_LAYOUT] {
            let name = number.to_string().into_bytes();
            let known = layouts.iter().find(|entry| entry.name == name);
            if known.is_some_and(|entry| !entry.value.iter().copied().eq(members.iter().copied().map(u64::from))) {
                return Err(EditError::Invalid("the file system uses attribute layouts that we do not write; it can be read"));
            }
        }
        let registry = Registry::new(&table(b"REGISTRY")?, &layouts)?;
        Ok(Self { store, dataset, registry, root })
    }

    fn parts(&mut self) -> Result<(&mut Set, &Pool), EditError> {
        self.store.edit_dataset(self.dataset, Some(owners))
    }

    /// Object number of the root directory.
    #[must_use]
    pub const fn root(&self) -> u64 {
        self.root
    }

    /// Attributes of an object, changes included. Attributes in spill blocks are left out.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn stat(&mut self, object: u64) -> Result<Znode, EditError> {
        let (set, pool) = self.parts()?;
        let bonus = set.view(pool, object)?.dnode.bonus;
        let mut node = Znode::default();
        node.absorb(&self.registry.parse(&bonus)?)?;
        Ok(node)
    }

    /// The object called `name` in directory `parent`, if there is one.
    ///
    /// # Errors
    /// Not a directory, unreadable, malformed.
    pub fn lookup(&mut self, parent: u64, name: &[u8]) -> Result<Option<u64>, EditError> {
        let (set, pool) = self.parts()?;
        let directory = set.view(pool, parent)?;
        if directory.dnode.kind != kind::DIRECTORY {
            return Err(EditError::Invalid("not a directory"));
        }
        Ok(zap::number(&directory, pool, name)?.map(|value| value & OBJECT_MASK))
    }

    /// Makes an entry in directory `parent`; returns its object.
    ///
    /// # Errors
    /// The name is taken, empty, too long or has a slash; no space.
    pub fn make(&mut self, parent: u64, name: &[u8], make: Make<'_>, new: &NewEntry) -> Result<u64, EditError> {
        if name.is_empty() || name == b"." || name == b".." || name.len() > NAME_MAX || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(EditError::Invalid("not a file name"));
        }
        if self.lookup(parent, name)?.is_some() {
            return Err(EditError::Exists);
        }
        let txg = self.store.txg();
        let (kind_of, mode, size, links, target) = match make {
            Make::File => (kind::FILE, REGULAR, 0, 1, None),
            Make::Directory => (kind::DIRECTORY, DIRECTORY, 2, 2, None),
            Make::Symlink(target) if target.len() > TARGET_MAX || target.is_empty() => {
                return Err(EditError::Invalid("symbolic links of more than 120 bytes are not written yet"));
            }
            Make::Symlink(target) => (kind::FILE, SYMLINK, target.len() as u64, 1, Some(target)),
        };
        let bonus = attributes(mode | new.mode & 0o7777, size, links, parent, txg, new, target);
        let (set, pool) = self.parts()?;
        let object = set.allocate(pool, kind_of, 512, kind::SYSTEM_ATTRIBUTES, bonus)?;
        if mode == DIRECTORY {
            zap::format(set.edit(pool, object)?, 0);
        }
        zap::set_number(set.edit(pool, parent)?, pool, name, (mode >> 12) << 60 | object)?;
        let node = self.stat(parent)?;
        let (set, pool) = self.parts()?;
        put_field(set, pool, parent, AT_SIZE, node.size + 1)?;
        if mode == DIRECTORY {
            put_field(set, pool, parent, AT_LINKS, node.links + 1)?;
        }
        self.touch(parent, new.now)?;
        Ok(object)
    }

    fn touch(&mut self, object: u64, now: Time) -> Result<(), EditError> {
        let (set, pool) = self.parts()?;
        for (at, value) in [(AT_MODIFIED, now.0), (AT_MODIFIED + 8, now.1), (AT_CHANGED, now.0), (AT_CHANGED + 8, now.1)] {
            put_field(set, pool, object, at, value)?;
        }
        Ok(())
    }

    /// Writes data into a regular file.
    ///
    /// # Errors
    /// Not a regular file; a partly written block is unreadable.
    pub fn write(&mut self, object: u64, offset: u64, data: &[u8], now: Time) -> Result<(), EditError> {
        let node = self.stat(object)?;
        let end = offset.checked_add(data.len() as u64).ok_or(EditError::Invalid("file too large"))?;
        if node.mode & TYPE_MASK != REGULAR {
            return Err(EditError::Invalid("not a regular file"));
        }
        let (set, pool) = self.parts()?;
        let edit = set.edit(pool, object)?;
        // A small file is one block as long as it; past the record size all blocks are of that size (format section 17.4).
        if edit.dnode.last_block == 0 && end > edit.dnode.block_size && edit.dnode.block_size < RECORD_SIZE {
            let size = end.next_multiple_of(512).min(RECORD_SIZE);
            if node.size == 0 { edit.dnode.block_size = size } else { edit.resize_block(pool, size)? }
        }
        edit.write_at(pool, offset, data)?;
        put_field(set, pool, object, AT_SIZE, node.size.max(end))?;
        self.touch(object, now)
    }

    /// Removes `name` from directory `parent`: a file loses a link and goes with the last; a directory must be empty.
    ///
    /// # Errors
    /// Not found, a directory with entries, unreadable.
    pub fn remove(&mut self, parent: u64, name: &[u8], now: Time) -> Result<(), EditError> {
        let object = self.lookup(parent, name)?.ok_or(Error::NotFound)?;
        let node = self.stat(object)?;
        let is_directory = node.mode & TYPE_MASK == DIRECTORY;
        if is_directory && node.size > 2 {
            return Err(EditError::Invalid("directory not empty"));
        }
        let above = self.stat(parent)?;
        let (set, pool) = self.parts()?;
        zap::remove(set.edit(pool, parent)?, pool, name)?;
        put_field(set, pool, parent, AT_SIZE, above.size.saturating_sub(1))?;
        if is_directory {
            put_field(set, pool, parent, AT_LINKS, above.links.saturating_sub(1))?;
        }
        if is_directory || node.links <= 1 {
            set.free(pool, object)?;
        } else {
            put_field(set, pool, object, AT_LINKS, node.links - 1)?;
        }
        self.touch(parent, now)
    }

    /// Walks `path` from the root.
    ///
    /// # Errors
    /// [`Error::NotFound`], with the part that is missing left to the caller.
    pub fn walk(&mut self, path: &[u8]) -> Result<u64, EditError> {
        let mut at = self.root;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
            at = self.lookup(at, part)?.ok_or(Error::NotFound)?;
        }
        Ok(at)
    }
}

/// Makes a file system: what `zfs create` does, and `zpool create` for the root dataset (which gets a mount point and lz4).
///
/// # Errors
/// No space, or a device failed.
pub fn create_filesystem(store: &mut Store, name: &str, new: &NewEntry) -> Result<u64, EditError> {
    let dataset = store.create_dataset(name, 2, new.now.0)?;
    format_dataset(store, dataset, new)?;
    if !name.contains('/') {
        store.set_property(name, "compression", &pool_phys::nvlist::Value::Number(15))?;
        store.set_property(name, "mountpoint", &pool_phys::nvlist::Value::Text(format!("/{name}")))?;
    }
    Ok(dataset)
}
