//! Changing files: formatting a file system, making and removing entries, writing data.
//!
//! A change belongs to the open transaction group of the [`Store`]; nothing is durable before its commit.

use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use pool_dmu::edit::{EditError, Owner, Set, Sought};
use pool_dmu::{Error, Holder, Store, zap_edit as zap};
use pool_phys::dnode::{self, Dnode, kind};
use pool_phys::intent_log::Change as Logged;
use pool_phys::sa::{self, Time, Znode};
use pool_phys::zap::Entry;
use pool_spa::Pool;

use crate::volume::{Numbers, Values, Volume, put, put_time, put_word, word};
use crate::{MASTER_NODE, OBJECT_MASK, TYPE_MASK};

pub(crate) const DIRECTORY: u64 = 0o040_000;
pub(crate) const REGULAR: u64 = 0o100_000;
const SYMLINK: u64 = 0o120_000;
/// Bytes a new directory entry may take: its dnode, a block of the directory, a block of its own.
const ENTRY_COST: u64 = 4 << 10;
/// Longest file name in bytes.
const NAME_MAX: usize = 255;
/// Longest symbolic link (PATH_MAX without its NUL).
const TARGET_MAX: usize = 4095;
/// Largest file: what a signed 64-bit offset reaches.
const SIZE_MAX: u64 = i64::MAX as u64;
/// Most hard links of a file.
const LINKS_MAX: u64 = u32::MAX as u64;
/// Object types used here only.
const MASTER: u8 = 21;
const DELETE_QUEUE: u8 = 22;
const SA_MASTER: u8 = 45;
const SA_REGISTRY: u8 = 46;
const SA_LAYOUTS: u8 = 47;

/// Flag of a file that says which project it belongs to.
const HAS_PROJECT: u64 = 1 << 47;
/// Flag of a directory whose new entries belong to its project.
const INHERIT_PROJECT: u64 = 1 << 46;

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
/// Attribute numbers of file systems made here: indices of [`ATTRIBUTES`].
const OWN_NUMBERS: Numbers = Numbers {
    atime: 0,
    mtime: 1,
    ctime: 2,
    crtime: 3,
    generation: 4,
    mode: 5,
    size: 6,
    parent: 7,
    links: 8,
    rdev: 10,
    flags: 11,
    uid: 12,
    gid: 13,
    acl_count: 16,
    symlink: 17,
    aces: 19,
};

/// Bits of a user's or group's number.
const ID_MASK: u64 = 0xFFFF_FFFF;

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
    /// A device node, FIFO or socket: type bits of its mode, device number as stored.
    Special { type_bits: u64, rdev: u64 },
}

/// Attributes to change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Permission bits; the type stays.
    pub mode: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub accessed: Option<Time>,
    pub modified: Option<Time>,
    pub changed: Option<Time>,
}

/// A file system open for changing.
#[derive(Debug)]
pub struct Writer<'s> {
    store: &'s mut Store,
    volume: Volume,
}

/// Owner and group of a file from its dnode; `None` for other objects. The first attributes of every layout are at fixed places.
#[must_use]
pub fn owners(dnode: &Dnode) -> Option<Owner> {
    if dnode.bonus_kind == kind::ZNODE {
        let node = Znode::parse_old(&dnode.bonus).ok()?;
        return Some(Owner {
            user: node.uid,
            group: node.gid,
            project: 0,
        });
    }
    if dnode.bonus_kind != kind::SYSTEM_ATTRIBUTES {
        return None;
    }
    let header =
        usize::from(u16::from_le_bytes([*dnode.bonus.get(4)?, *dnode.bonus.get(5)?]) >> 10) * 8;
    let field = |at: usize| {
        dnode
            .bonus
            .get(header + at..header + at + 8)?
            .try_into()
            .ok()
            .map(u64::from_le_bytes)
    };
    let project = if field(48)? & HAS_PROJECT != 0 {
        field(128)?
    } else {
        0
    };
    Some(Owner {
        user: field(24)? & ID_MASK,
        group: field(32)? & ID_MASK,
        project,
    })
}

/// How large the block of a file of one block may become. One that is larger than the record size already becomes a power of two: a file of several
/// blocks has such.
const fn block_limit(block: u64, record: u64) -> u64 {
    if block > record { block.next_power_of_two() } else { record }
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

/// Flags word of a file: group and others never have more than the owner may, so the trivial ACL says all (flag 4); execute for somebody clears "no
/// execs denied".
const fn flags_of(mode: u64) -> u64 {
    0x408_0000_0004_u64 | if mode & TYPE_MASK == DIRECTORY || mode & 0o111 != 0 { 0x100 } else { 0 }
}

/// The attributes every file has, in the order of OpenZFS's layouts: the first ones are at places that space accounting relies on.
pub(crate) fn base_values(numbers: &Numbers, mode: u64, size: u64, links: u64, parent: u64, txg: u64, new: &NewEntry) -> Values {
    let mut values = Values::new();
    for (number, value) in [
        (numbers.mode, mode),
        (numbers.size, size),
        (numbers.generation, txg),
        (numbers.uid, new.uid),
        (numbers.gid, new.gid),
        (numbers.parent, parent),
        (numbers.flags, flags_of(mode)),
    ] {
        put_word(&mut values, number, value);
    }
    for number in [numbers.atime, numbers.mtime, numbers.ctime, numbers.crtime] {
        put_time(&mut values, number, new.now);
    }
    put_word(&mut values, numbers.links, links);
    put_word(&mut values, numbers.acl_count, 3);
    put(&mut values, numbers.aces, &trivial_acl(mode, mode & TYPE_MASK == DIRECTORY));
    values
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
    // The root is its own parent; its number is known only once it exists.
    let bonus = |parent: u64| {
        let values = base_values(&OWN_NUMBERS, DIRECTORY | new.mode, 2, 2, parent, txg, new);
        let list: Vec<(bool, &[u8])> = values.iter().map(|(number, value)| (*number == OWN_NUMBERS.aces, &**value)).collect();
        sa::encode(FILE_LAYOUT.0, &list)
    };
    let root = set.allocate(pool, kind::DIRECTORY, 512, kind::SYSTEM_ATTRIBUTES, bonus(0))?;
    let edit = set.edit(pool, root)?;
    edit.dnode.bonus = bonus(root);
    zap::format(edit, 0);
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

impl<'s> Writer<'s> {
    /// Opens file system `dataset` for changing.
    ///
    /// # Errors
    /// Not a file system of ZPL version 5, unreadable, malformed.
    pub fn open(store: &'s mut Store, dataset: u64) -> Result<Self, EditError> {
        let volume = Volume::open(store, dataset)?;
        Ok(Self { store, volume })
    }

    /// Goes on with tables that were read before.
    #[must_use]
    pub const fn resume(store: &'s mut Store, volume: Volume) -> Self {
        Self { store, volume }
    }

    /// The tables, for [`Writer::resume`].
    #[must_use]
    pub fn into_volume(self) -> Volume {
        self.volume
    }

    /// The store below.
    pub const fn store(&mut self) -> &mut Store {
        self.store
    }

    pub(crate) fn parts(&mut self) -> Result<(&mut Set, &Pool, &mut Volume), EditError> {
        let (set, pool) = self.store.edit_dataset(self.volume.dataset, Some(owners))?;
        Ok((set, pool, &mut self.volume))
    }

    /// The same, with the dataset's record size.
    fn parts_and_record(&mut self) -> Result<(&mut Set, &Pool, &mut Volume, u64), EditError> {
        self.parts()?;
        let record = self.store.record_size(self.volume.dataset);
        let (set, pool, volume) = self.parts()?;
        Ok((set, pool, volume, record))
    }

    /// Object number of the root directory.
    #[must_use]
    pub const fn root(&self) -> u64 {
        self.volume.root
    }

    pub(crate) fn load(&mut self, object: u64) -> Result<Values, EditError> {
        let (set, pool, volume) = self.parts()?;
        volume.load(set, pool, object)
    }

    pub(crate) fn save(&mut self, object: u64, values: &Values) -> Result<(), EditError> {
        let (set, pool, volume) = self.parts()?;
        volume.save(set, pool, object, values)
    }

    /// Attributes of an object, changes included.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn stat(&mut self, object: u64) -> Result<Znode, EditError> {
        let (set, pool, volume) = self.parts()?;
        set.with_view(pool, object, |edit| {
            if edit.dnode.bonus_kind != kind::SYSTEM_ATTRIBUTES {
                return Err(EditError::Invalid("not a file of ZPL version 5"));
            }
            let mut node = Znode::default();
            node.absorb(&volume.registry.parse(&edit.dnode.bonus)?)?;
            if let Some(spill) = edit.spill(pool)? {
                node.absorb(&volume.registry.parse(&spill)?)?;
            }
            Ok(node)
        })
    }

    /// Space an object takes on disk as of the last commit, in bytes, and the size of its blocks.
    ///
    /// # Errors
    /// Not found, unreadable.
    pub fn space(&mut self, object: u64) -> Result<(u64, u64), EditError> {
        let (set, pool, _) = self.parts()?;
        set.with_view(pool, object, |edit| Ok((edit.dnode.used, edit.dnode.block_size)))
    }

    /// Space an object takes in bytes, and true if that stays so: what waits for the commit counts as it is before compression and copies.
    ///
    /// # Errors
    /// Not found, unreadable.
    pub fn occupied(&mut self, object: u64) -> Result<(u64, bool), EditError> {
        let (set, pool, _) = self.parts()?;
        let is_changed = set.is_changed(object);
        set.with_view(pool, object, |edit| Ok((edit.dnode.used.saturating_add(edit.dirty_bytes()), !is_changed)))
    }

    /// The object called `name` in directory `parent`, if there is one.
    ///
    /// # Errors
    /// Not a directory, unreadable, malformed.
    pub fn lookup(&mut self, parent: u64, name: &[u8]) -> Result<Option<u64>, EditError> {
        Ok(self.lookup_entry(parent, name)?.map(|(object, _)| object))
    }

    /// The same with the type of the entry (`st_mode >> 12`).
    ///
    /// # Errors
    /// As [`Writer::lookup`].
    pub fn lookup_entry(&mut self, parent: u64, name: &[u8]) -> Result<Option<(u64, u64)>, EditError> {
        let (set, pool, _) = self.parts()?;
        set.with_view(pool, parent, |directory| {
            if directory.dnode.kind != kind::DIRECTORY {
                return Err(EditError::Invalid("not a directory"));
            }
            Ok(zap::number(directory, pool, name)?.map(|value| (value & OBJECT_MASK, value >> 60)))
        })
    }

    /// Entries of a directory, changes included, in no order.
    ///
    /// # Errors
    /// Not a directory, unreadable, malformed.
    pub fn read_dir(&mut self, object: u64) -> Result<Vec<crate::Entry>, EditError> {
        let (set, pool, _) = self.parts()?;
        set.with_view(pool, object, |directory| {
            if directory.dnode.kind != kind::DIRECTORY {
                return Err(EditError::Invalid("not a directory"));
            }
            let all = zap::entries(directory, pool, None)?;
            Ok(all
                .into_iter()
                .filter_map(|entry| {
                    let value = entry.number()?;
                    Some(crate::Entry { object: value & OBJECT_MASK, file_type: value >> 60, name: entry.name })
                })
                .collect())
        })
    }

    /// Entries of a directory from place `from` on, at least `want` of them if there are so many, each with its place. A place has 48 bits, stays the same while other names come and go, and may have several names, which come together.
    ///
    /// # Errors
    /// Not a directory, unreadable, malformed.
    pub fn read_dir_from(&mut self, object: u64, from: u64, want: usize) -> Result<zap::Page<crate::Entry>, EditError> {
        let (set, pool, _) = self.parts()?;
        set.with_view(pool, object, |directory| {
            if directory.dnode.kind != kind::DIRECTORY {
                return Err(EditError::Invalid("not a directory"));
            }
            let page = zap::entries_from(directory, pool, from, want)?;
            let known = page.entries.into_iter().filter_map(|(place, entry)| {
                let value = entry.number()?;
                Some((place, crate::Entry { object: value & OBJECT_MASK, file_type: value >> 60, name: entry.name }))
            });
            Ok(zap::Page { entries: known.collect(), next: page.next })
        })
    }

    /// Makes an entry in directory `parent`; returns its object.
    ///
    /// # Errors
    /// The name is taken, empty, too long or has a slash; no space.
    pub fn make(&mut self, parent: u64, name: &[u8], make: Make<'_>, new: &NewEntry) -> Result<u64, EditError> {
        self.store.reserve_in(self.volume.dataset, ENTRY_COST, ENTRY_COST)?;
        if self.store.has_quotas(self.volume.dataset, owners)? {
            let project = self.project_below(parent)?;
            let owner = Owner { user: new.uid & ID_MASK, group: new.gid & ID_MASK, project };
            self.store.reserve_for(self.volume.dataset, owners, owner, dnode::SLOT as u64, 1)?;
        }
        self.make_numbered(parent, name, make, new, None)
    }

    /// The project that new entries of a directory belong to.
    fn project_below(&mut self, parent: u64) -> Result<u64, EditError> {
        let above = self.load(parent)?;
        let numbers = self.volume.numbers;
        let project = self.volume.registry.number(b"ZPL_PROJID").filter(|_| word(&above, numbers.flags) & INHERIT_PROJECT != 0);
        Ok(project.map_or(0, |project| word(&above, project)))
    }

    /// Accepts that a file's owner has more: all that is written, if there is room for so much, else what the file grows by.
    fn reserve_for_owner(&mut self, object: u64, offset: u64, length: u64) -> Result<(), EditError> {
        if !self.store.has_quotas(self.volume.dataset, owners)? {
            return Ok(());
        }
        let (set, pool, _) = self.parts()?;
        let Some(owner) = set.with_view(pool, object, |edit| Ok::<_, EditError>(owners(&edit.dnode)))? else { return Ok(()) };
        match self.store.reserve_for(self.volume.dataset, owners, owner, length, 0) {
            Err(EditError::Quota) => {
                let (set, pool, _) = self.parts()?;
                let growth = set.with_view(pool, object, |edit| edit.growth(pool, offset, length))?;
                self.store.reserve_for(self.volume.dataset, owners, owner, growth, 0)
            }
            done => done,
        }
    }

    /// Accepts that a file's owner has so much more beside its contents.
    pub(crate) fn reserve_beside(&mut self, object: u64, bytes: u64) -> Result<(), EditError> {
        if !self.store.has_quotas(self.volume.dataset, owners)? {
            return Ok(());
        }
        let (set, pool, _) = self.parts()?;
        let owner = set.with_view(pool, object, |edit| Ok::<_, EditError>(owners(&edit.dnode)))?;
        owner.map_or(Ok(()), |owner| self.store.reserve_for(self.volume.dataset, owners, owner, bytes, 0))
    }

    /// A file that changes hands is the new owner's: it has to have room for it.
    fn reserve_for_new_owner(&mut self, object: u64, change: &Change) -> Result<(), EditError> {
        if change.uid.is_none() && change.gid.is_none() || !self.store.has_quotas(self.volume.dataset, owners)? {
            return Ok(());
        }
        let (set, pool, _) = self.parts()?;
        let seen = set.with_view(pool, object, |edit| Ok::<_, EditError>((owners(&edit.dnode), edit.dnode.used.max(edit.dirty_bytes()))))?;
        let (Some(old), used) = seen else { return Ok(()) };
        let new = Owner { user: change.uid.unwrap_or(old.user) & ID_MASK, group: change.gid.unwrap_or(old.group) & ID_MASK, project: old.project };
        for (holder, before, after) in [(Holder::User, old.user, new.user), (Holder::Group, old.group, new.group)] {
            if before != after {
                self.store.reserve_for_one(self.volume.dataset, owners, (holder, after), used + dnode::SLOT as u64, 1)?;
            }
        }
        Ok(())
    }

    /// The same with a given object number, as the intent log has it.
    pub(crate) fn make_numbered(&mut self, parent: u64, name: &[u8], make: Make<'_>, new: &NewEntry, number: Option<u64>) -> Result<u64, EditError> {
        check_name(name)?;
        if self.lookup(parent, name)?.is_some() {
            return Err(EditError::Exists);
        }
        let txg = self.store.txg();
        let (kind_of, type_bits, size, links) = match make {
            Make::File => (kind::FILE, REGULAR, 0, 1),
            Make::Directory => (kind::DIRECTORY, DIRECTORY, 2, 2),
            Make::Symlink(target) if target.len() > TARGET_MAX || target.is_empty() => return Err(EditError::Invalid("not a target of a symbolic link")),
            Make::Symlink(target) => (kind::FILE, SYMLINK, target.len() as u64, 1),
            Make::Special { type_bits, .. } => (kind::FILE, type_bits & TYPE_MASK, 0, 1),
        };
        let mode = type_bits | new.mode & 0o7777;
        let (set, pool, volume) = self.parts()?;
        let numbers = volume.numbers;
        let mut values = base_values(&numbers, mode, size, links, parent, txg, new);
        let above = volume.load(set, pool, parent)?;
        if let Some(project) = volume.registry.number(b"ZPL_PROJID")
            && word(&above, numbers.flags) & INHERIT_PROJECT != 0
            && matches!(type_bits, DIRECTORY | REGULAR)
        {
            let inherited = if type_bits == DIRECTORY { HAS_PROJECT | INHERIT_PROJECT } else { HAS_PROJECT };
            put_word(&mut values, numbers.flags, flags_of(mode) | inherited);
            // Space accounting expects it right behind the links.
            let at = values.iter().position(|(number, _)| *number == numbers.acl_count).unwrap_or(values.len());
            values.insert(at, (project, word(&above, project).to_le_bytes().as_slice().into()));
        }
        match make {
            Make::Symlink(target) => put(&mut values, numbers.symlink, target),
            Make::Special { rdev, .. } => put_word(&mut values, numbers.rdev, rdev),
            Make::File | Make::Directory => {}
        }
        let (bonus, spill) = volume.arrange(set, pool, &values)?;
        let object = match number {
            None => set.allocate(pool, kind_of, 512, kind::SYSTEM_ATTRIBUTES, bonus)?,
            Some(number) => set.allocate_at(pool, number, kind_of, 512, kind::SYSTEM_ATTRIBUTES, bonus)?,
        };
        let edit = set.edit(pool, object)?;
        if spill.is_some() {
            edit.set_spill(spill);
        }
        if type_bits == DIRECTORY {
            zap::format(edit, 0);
        }
        if let Err(error) = self.enter(parent, name, object, mode, new.now) {
            let (set, pool, _) = self.parts()?;
            set.free(pool, object)?;
            return Err(error);
        }
        let (rdev, target) = match make {
            Make::Special { rdev, .. } => (rdev, None),
            Make::Symlink(target) => (0, Some(target.to_vec())),
            Make::File | Make::Directory => (0, None),
        };
        self.log(Logged::Create { parent, object, mode, uid: new.uid, gid: new.gid, generation: txg, time: new.now, rdev, name: name.to_vec(), target });
        Ok(object)
    }

    pub(crate) const fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Something was changed that no record of the log says: a sync commits.
    pub(crate) fn log_unrecorded(&mut self) {
        self.store.log_change(self.volume.dataset, None);
    }

    fn log(&mut self, change: Logged) {
        self.store.log_change(self.volume.dataset, Some(change));
    }

    /// Puts a name into a directory: its size counts entries, its links count directories below.
    pub(crate) fn enter(&mut self, parent: u64, name: &[u8], object: u64, mode: u64, now: Time) -> Result<(), EditError> {
        let (set, pool, _) = self.parts()?;
        zap::set_number(set.edit(pool, parent)?, pool, name, (mode >> 12) << 60 | object)?;
        self.count(parent, 1, mode & TYPE_MASK == DIRECTORY, now)
    }

    /// Takes a name out of a directory.
    pub(crate) fn leave(&mut self, parent: u64, name: &[u8], mode: u64, now: Time) -> Result<(), EditError> {
        let (set, pool, _) = self.parts()?;
        zap::remove(set.edit(pool, parent)?, pool, name)?;
        self.count(parent, -1, mode & TYPE_MASK == DIRECTORY, now)
    }

    fn count(&mut self, directory: u64, by: i64, is_directory: bool, now: Time) -> Result<(), EditError> {
        let mut values = self.load(directory)?;
        let numbers = self.volume.numbers;
        let size = word(&values, numbers.size).saturating_add_signed(by);
        put_word(&mut values, numbers.size, size);
        if is_directory {
            let links = word(&values, numbers.links).saturating_add_signed(by);
            put_word(&mut values, numbers.links, links);
        }
        put_time(&mut values, numbers.mtime, now);
        put_time(&mut values, numbers.ctime, now);
        self.save(directory, &values)
    }

    /// Makes a hard link to `object`, which is no directory.
    ///
    /// # Errors
    /// As [`Writer::make`]; too many links.
    pub fn link(&mut self, parent: u64, name: &[u8], object: u64, now: Time) -> Result<(), EditError> {
        check_name(name)?;
        if self.lookup(parent, name)?.is_some() {
            return Err(EditError::Exists);
        }
        let mut values = self.load(object)?;
        let numbers = self.volume.numbers;
        let (mode, links) = (word(&values, numbers.mode), word(&values, numbers.links));
        if mode & TYPE_MASK == DIRECTORY || links >= LINKS_MAX {
            return Err(EditError::Invalid("cannot be linked"));
        }
        if links == 0 {
            // A file without a name gets one again.
            self.forget_unlinked(object)?;
        }
        put_word(&mut values, numbers.links, links + 1);
        put_time(&mut values, numbers.ctime, now);
        self.save(object, &values)?;
        self.enter(parent, name, object, mode, now)?;
        self.log(Logged::Link { parent, object, name: name.to_vec() });
        Ok(())
    }

    /// Renames. A target of the same kind is replaced; with `exchange` the two swap places.
    ///
    /// # Errors
    /// Not found, a non-empty directory in the way, kinds that do not go together, a directory moved into itself (the caller checks deeper ones).
    pub fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), exchange: bool, now: Time, keep_open: bool) -> Result<(), EditError> {
        check_name(to.1)?;
        let (object, _) = self.lookup_entry(from.0, from.1)?.ok_or(Error::NotFound)?;
        let there = self.lookup(to.0, to.1)?;
        let mode = self.stat(object)?.mode;
        if object == to.0 {
            return Err(EditError::Invalid("a directory cannot be moved into itself"));
        }
        match there {
            Some(other) if other == object => return Ok(()),
            Some(other) if exchange => {
                let other_mode = self.stat(other)?.mode;
                self.leave(from.0, from.1, mode, now)?;
                self.leave(to.0, to.1, other_mode, now)?;
                self.enter(from.0, from.1, other, other_mode, now)?;
                self.adopt(other, from.0, now)?;
            }
            Some(other) => {
                let other_mode = self.stat(other)?.mode;
                if (mode & TYPE_MASK == DIRECTORY) != (other_mode & TYPE_MASK == DIRECTORY) {
                    return Err(EditError::Invalid("a directory and another file cannot replace each other"));
                }
                self.take_out(to.0, to.1, now, keep_open)?;
                self.leave(from.0, from.1, mode, now)?;
            }
            None if exchange => return Err(Error::NotFound.into()),
            None => self.leave(from.0, from.1, mode, now)?,
        }
        self.enter(to.0, to.1, object, mode, now)?;
        self.adopt(object, to.0, now)?;
        // An exchange has no record that OpenZFS 2.1 knows.
        let change = Logged::Rename { from: from.0, to: to.0, old: from.1.to_vec(), new: to.1.to_vec() };
        self.store.log_change(self.volume.dataset, (!exchange).then_some(change));
        Ok(())
    }

    /// Notes where an object is now.
    fn adopt(&mut self, object: u64, parent: u64, now: Time) -> Result<(), EditError> {
        let mut values = self.load(object)?;
        let numbers = self.volume.numbers;
        put_word(&mut values, numbers.parent, parent);
        put_time(&mut values, numbers.ctime, now);
        self.save(object, &values)
    }

    /// Reads file data, changes included; returns how much there was. Symbolic links whose target is data are read so too.
    ///
    /// # Errors
    /// Unreadable: the block, by its error.
    pub fn read(&mut self, object: u64, offset: u64, out: &mut [u8]) -> Result<usize, EditError> {
        let size = self.stat(object)?.size;
        let count = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        self.read_blocks(object, offset, &mut out[..count])?;
        Ok(count)
    }

    /// Reads data blocks whatever the size says: for a cache that keeps sizes itself. Beyond the last block there are zeros.
    ///
    /// # Errors
    /// Unreadable: the block, by its error.
    pub fn read_blocks(&mut self, object: u64, offset: u64, out: &mut [u8]) -> Result<(), EditError> {
        let (set, pool, _) = self.parts()?;
        set.with_view(pool, object, |edit| Ok(edit.read_at(pool, offset, out)?))
    }

    /// The same as a buffer of its own: that of the block where it is one.
    ///
    /// # Errors
    /// As [`Writer::read_blocks`].
    pub fn read_range(&mut self, object: u64, offset: u64, length: usize) -> Result<Vec<u8>, EditError> {
        let (set, pool, _) = self.parts()?;
        set.with_view(pool, object, |edit| Ok(edit.read_range(pool, offset, length)?))
    }

    /// Writes data into a regular file.
    ///
    /// # Errors
    /// Not a regular file; a partly written block is unreadable.
    pub fn write(&mut self, object: u64, offset: u64, data: &[u8], now: Time) -> Result<(), EditError> {
        self.write_whole(object, offset, data, offset.saturating_add(data.len() as u64), now)?;
        self.store.log_write(self.volume.dataset, object, offset, data.len() as u64);
        Ok(())
    }

    /// The same of data that may reach beyond what is to become the file's: the file is `reach` bytes long afterwards, or as long as it was.
    pub(crate) fn write_whole(&mut self, object: u64, offset: u64, data: &[u8], reach: u64, now: Time) -> Result<(), EditError> {
        let mut values = self.load(object)?;
        let numbers = self.volume.numbers;
        let size = word(&values, numbers.size);
        let end = offset.checked_add(data.len() as u64).filter(|end| (*end).max(reach) <= SIZE_MAX).ok_or(EditError::Invalid("file too large"))?.max(reach);
        if word(&values, numbers.mode) & TYPE_MASK != REGULAR {
            return Err(EditError::Invalid("not a regular file"));
        }
        let (set, pool, _, record) = self.parts_and_record()?;
        // One block may be as long as the file until it is as long as a record.
        let block = set.with_view(pool, object, |edit| Ok::<_, EditError>(if edit.dnode.last_block == 0 { edit.dnode.block_size.max(record) } else { edit.dnode.block_size }))?;
        self.store.reserve_in(self.volume.dataset, data.len() as u64, block)?;
        self.reserve_for_owner(object, offset, data.len() as u64)?;
        let (set, pool, _) = self.parts()?;
        let edit = set.edit(pool, object)?;
        // A small file is one block as long as it; past the record size all blocks are of that size (format section 17.4).
        let most = block_limit(edit.dnode.block_size, record);
        if edit.dnode.last_block == 0 && end > edit.dnode.block_size && edit.dnode.block_size < most {
            let wanted = end.next_multiple_of(512).min(most);
            if size == 0 && !edit.has_blocks() { edit.dnode.block_size = wanted } else { edit.resize_block(pool, wanted)? }
        }
        edit.write_at(pool, offset, data)?;
        put_word(&mut values, numbers.size, size.max(reach));
        put_time(&mut values, numbers.mtime, now);
        put_time(&mut values, numbers.ctime, now);
        self.save(object, &values)
    }

    /// Clears what the last block of a regular file has behind the file's end: a later write past it must not bring that to light.
    pub(crate) fn clear_behind_end(&mut self, object: u64) -> Result<(), EditError> {
        let values = self.load(object)?;
        let size = word(&values, self.volume.numbers.size);
        // The number may be that of something else by now.
        if word(&values, self.volume.numbers.mode) & TYPE_MASK != REGULAR {
            return Ok(());
        }
        let (set, pool, _) = self.parts()?;
        let edit = set.edit(pool, object)?;
        let block = edit.dnode.block_size;
        let keep = size.div_ceil(block);
        if keep * block > size && keep <= edit.dnode.last_block + 1 {
            edit.write_at(pool, size, &vec![0; usize::try_from(keep * block - size).unwrap_or(0)])?;
        }
        edit.cut(keep);
        Ok(())
    }

    /// Sets the size of a regular file; what is new reads as zeros.
    ///
    /// # Errors
    /// Not a regular file; the last block is unreadable.
    pub fn truncate(&mut self, object: u64, size: u64, now: Time) -> Result<(), EditError> {
        let mut values = self.load(object)?;
        let numbers = self.volume.numbers;
        if word(&values, numbers.mode) & TYPE_MASK != REGULAR {
            return Err(EditError::Invalid("not a regular file"));
        }
        if size > SIZE_MAX {
            return Err(EditError::Invalid("file too large"));
        }
        let old = word(&values, numbers.size);
        let (set, pool, _, record) = self.parts_and_record()?;
        let edit = set.edit(pool, object)?;
        let block = edit.dnode.block_size;
        let most = block_limit(block, record);
        if size < old {
            // The rest of the last block that stays is cleared: a later write past it must not bring old bytes back.
            let keep = size.div_ceil(block);
            let rest = keep * block - size;
            if rest > 0 {
                edit.write_at(pool, size, &vec![0; usize::try_from(rest).unwrap_or(0)])?;
            }
            edit.cut(keep);
        } else if edit.dnode.last_block == 0 && size > block && block < most {
            // A file of one block is no longer than it, a hole or not: OpenZFS panics at one that is.
            let wanted = size.next_multiple_of(512).min(most);
            if edit.has_blocks() { edit.resize_block(pool, wanted)? } else { edit.dnode.block_size = wanted }
        }
        put_word(&mut values, numbers.size, size);
        put_time(&mut values, numbers.mtime, now);
        put_time(&mut values, numbers.ctime, now);
        self.save(object, &values)?;
        self.log(Logged::Truncate { object, offset: size, length: 0 });
        Ok(())
    }

    /// Makes a part of a regular file a hole: it reads as zeros, and whole blocks take no space. The size stays.
    ///
    /// # Errors
    /// Not a regular file, unreadable.
    pub fn punch_hole(&mut self, object: u64, offset: u64, length: u64, now: Time) -> Result<(), EditError> {
        let mut values = self.load(object)?;
        let numbers = self.volume.numbers;
        if word(&values, numbers.mode) & TYPE_MASK != REGULAR {
            return Err(EditError::Invalid("not a regular file"));
        }
        let size = word(&values, numbers.size);
        // Whoever replays this would make the file longer: nothing behind its end is said.
        let length = length.min(size.saturating_sub(offset));
        if length == 0 {
            return Ok(());
        }
        // What is behind the end is nobody's: the last block goes as a whole.
        let limit = if offset + length < size { offset + length } else { u64::MAX };
        let (set, pool, _) = self.parts()?;
        crate::punch(set.edit(pool, object)?, pool, offset, limit)?;
        put_time(&mut values, numbers.mtime, now);
        put_time(&mut values, numbers.ctime, now);
        self.save(object, &values)?;
        self.log(Logged::Truncate { object, offset, length });
        Ok(())
    }

    /// The first byte from `offset` on that is in data (or, with `hole`, in a hole), as `lseek` finds it. `None`: no data up to the end. The end counts as a
    /// hole.
    ///
    /// # Errors
    /// Unreadable.
    pub fn seek(&mut self, object: u64, offset: u64, hole: bool) -> Result<Option<u64>, EditError> {
        match self.seek_some(object, offset, hole, u64::MAX)? {
            Sought::At(at) => Ok(Some(at)),
            Sought::Nowhere | Sought::GoOn(_) => Ok(None),
        }
    }

    /// The same, looking at `most` blocks: [`Sought::GoOn`] says from where on to ask again.
    ///
    /// # Errors
    /// Unreadable.
    pub fn seek_some(&mut self, object: u64, offset: u64, hole: bool, most: u64) -> Result<Sought, EditError> {
        let size = self.stat(object)?.size;
        let (set, pool, _) = self.parts()?;
        set.with_view(pool, object, |edit| crate::seek(edit, pool, offset, size, hole, most))
    }

    /// New contents must not run with the rights that the old ones were given: clears set-user-id, and set-group-id where the group may execute (without
    /// that it means mandatory locking). For whoever writes in a user's name.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn forget_setid(&mut self, object: u64, now: Time) -> Result<(), EditError> {
        let mode = self.stat(object)?.mode;
        let setgid = if mode & 0o010 != 0 { 0o2000 } else { 0 };
        let kept = mode & !(0o4000 | setgid);
        if kept == mode || mode & TYPE_MASK != REGULAR {
            return Ok(());
        }
        self.set_attributes(object, &Change { mode: Some(kept), changed: Some(now), ..Change::default() })
    }

    /// Frees all objects without a name: for a file system that is opened after a crash. Tells how many.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn drain_unlinked(&mut self) -> Result<u64, EditError> {
        let all = self.unlinked()?;
        for object in &all {
            self.forget_unlinked(*object)?;
            match self.destroy(*object) {
                // Its number is all that is left of it.
                Ok(()) | Err(EditError::Read(Error::NotFound)) => {}
                Err(error) => return Err(error),
            }
        }
        if !all.is_empty() {
            self.log_unrecorded();
        }
        Ok(all.len() as u64)
    }

    /// Changes attributes; `None` leaves one as it is.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn set_attributes(&mut self, object: u64, change: &Change) -> Result<(), EditError> {
        self.reserve_for_new_owner(object, change)?;
        let mut values = self.load(object)?;
        let numbers = self.volume.numbers;
        if let Some(bits) = change.mode {
            let mode = word(&values, numbers.mode) & TYPE_MASK | bits & 0o7777;
            put_word(&mut values, numbers.mode, mode);
            put_word(&mut values, numbers.flags, flags_of(mode));
            put_word(&mut values, numbers.acl_count, 3);
            put(&mut values, numbers.aces, &trivial_acl(mode, mode & TYPE_MASK == DIRECTORY));
        }
        for (number, value) in [(numbers.uid, change.uid), (numbers.gid, change.gid)] {
            if let Some(value) = value {
                put_word(&mut values, number, value);
            }
        }
        for (number, value) in [(numbers.atime, change.accessed), (numbers.mtime, change.modified), (numbers.ctime, change.changed)] {
            if let Some(value) = value {
                put_time(&mut values, number, value);
            }
        }
        self.save(object, &values)?;
        let mask = [change.mode.is_some(), change.uid.is_some(), change.gid.is_some(), false, change.accessed.is_some(), change.modified.is_some()];
        self.log(Logged::SetAttributes {
            object,
            mask: mask.iter().enumerate().map(|(bit, set)| u64::from(*set) << bit).sum(),
            mode: word(&values, numbers.mode),
            uid: word(&values, numbers.uid),
            gid: word(&values, numbers.gid),
            size: word(&values, numbers.size),
            accessed: change.accessed.unwrap_or_default(),
            modified: change.modified.unwrap_or_default(),
        });
        Ok(())
    }

    /// Removes `name` from directory `parent`: a file loses a link and goes with the last; a directory must be empty.
    ///
    /// # Errors
    /// Not found, a directory with entries, unreadable.
    pub fn remove(&mut self, parent: u64, name: &[u8], now: Time) -> Result<(), EditError> {
        self.remove_entry(parent, name, now, false)
    }

    /// The same; with `keep_open`, an object that lost its last name stays, in the list of unlinked ones, until [`Writer::reap`].
    ///
    /// # Errors
    /// As [`Writer::remove`].
    pub fn remove_entry(&mut self, parent: u64, name: &[u8], now: Time, keep_open: bool) -> Result<(), EditError> {
        let is_directory = self.take_out(parent, name, now, keep_open)?;
        self.log(Logged::Remove { parent, name: name.to_vec(), is_directory });
        Ok(())
    }

    /// Takes a name away, and the object with its last; tells whether it was a directory.
    fn take_out(&mut self, parent: u64, name: &[u8], now: Time, keep_open: bool) -> Result<bool, EditError> {
        let object = self.lookup(parent, name)?.ok_or(Error::NotFound)?;
        let mut values = self.load(object)?;
        let numbers = self.volume.numbers;
        let (mode, links) = (word(&values, numbers.mode), word(&values, numbers.links));
        let is_directory = mode & TYPE_MASK == DIRECTORY;
        if is_directory && !self.is_empty(object)? {
            return Err(EditError::NotEmpty);
        }
        self.leave(parent, name, mode, now)?;
        let left = if is_directory { 0 } else { links.saturating_sub(1) };
        if left > 0 || keep_open {
            put_word(&mut values, numbers.links, left);
            put_time(&mut values, numbers.ctime, now);
            self.save(object, &values)?;
        }
        if left > 0 {
            return Ok(is_directory);
        }
        if keep_open {
            let (set, pool, volume) = self.parts()?;
            zap::set_number(set.edit(pool, volume.unlinked)?, pool, format!("{object:x}").as_bytes(), object)?;
        } else {
            self.destroy(object)?;
        }
        Ok(is_directory)
    }

    fn is_empty(&mut self, directory: u64) -> Result<bool, EditError> {
        Ok(self.read_dir(directory)?.is_empty())
    }

    /// Takes an object off the list of unlinked ones; tells whether it was there.
    fn forget_unlinked(&mut self, object: u64) -> Result<bool, EditError> {
        let (set, pool, volume) = self.parts()?;
        zap::remove(set.edit(pool, volume.unlinked)?, pool, format!("{object:x}").as_bytes())
    }

    /// Frees an object with its directory of extended attributes.
    fn destroy(&mut self, object: u64) -> Result<(), EditError> {
        let node = self.stat(object)?;
        // A hidden directory can be in the list of unlinked objects itself.
        let own = if node.flags & 1 != 0 && node.mode & TYPE_MASK == DIRECTORY { object } else { node.xattr_dir };
        if own != 0 {
            for entry in self.read_dir(own)? {
                let (set, pool, _) = self.parts()?;
                set.free(pool, entry.object)?;
            }
            if own != object {
                let (set, pool, _) = self.parts()?;
                set.free(pool, own)?;
            }
        }
        let (set, pool, _) = self.parts()?;
        Ok(set.free(pool, object)?)
    }

    /// Frees an object that lost its last name and was kept open.
    ///
    /// # Errors
    /// It is not in the list of unlinked objects.
    pub fn reap(&mut self, object: u64) -> Result<(), EditError> {
        if !self.forget_unlinked(object)? {
            return Err(Error::NotFound.into());
        }
        self.destroy(object)
    }

    /// Objects without a name: to be reaped when a file system is opened after a crash.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn unlinked(&mut self) -> Result<Vec<u64>, EditError> {
        let (set, pool, volume) = self.parts()?;
        let queue = volume.unlinked;
        let all = set.with_view(pool, queue, |edit| zap::entries(edit, pool, None))?;
        Ok(all.iter().filter_map(Entry::number).collect())
    }

    /// Walks `path` from the root.
    ///
    /// # Errors
    /// [`Error::NotFound`], with the part that is missing left to the caller.
    pub fn walk(&mut self, path: &[u8]) -> Result<u64, EditError> {
        let mut at = self.volume.root;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
            at = self.lookup(at, part)?.ok_or(Error::NotFound)?;
        }
        Ok(at)
    }
}

fn check_name(name: &[u8]) -> Result<(), EditError> {
    if name.is_empty() || name == b"." || name == b".." || name.len() > NAME_MAX || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(EditError::Invalid("not a file name"));
    }
    Ok(())
}

/// Makes a file system: what `zfs create` does, and `zpool create` for the root dataset (which gets lz4).
///
/// # Errors
/// No space, or a device failed.
pub fn create_filesystem(store: &mut Store, name: &str, new: &NewEntry) -> Result<u64, EditError> {
    let dataset = store.create_dataset(name, 2, new.now.0)?;
    format_dataset(store, dataset, new)?;
    if !name.contains('/') {
        store.set_property(name, "compression", &pool_phys::nvlist::Value::Number(15))?;
    }
    Ok(dataset)
}
