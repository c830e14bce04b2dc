//! What differs between a file system and an older state of it: `zfs diff`.
//!
//! # Theory
//! A block of dnodes that was not born since the older state has the same dnodes as there, and is not read; nor is what is above it. In one that was,
//! each dnode is compared with the older one of its number. Objects that are free on one side, or of another generation, were removed and added; those
//! whose change time is another were modified, or renamed if their path is another. What has no name (removed but open) counts as not there.
//!
//! # Structures
//! A [`Diff`] is a cursor over object numbers: [`Diff::step`] looks at one block of dnodes. Each side remembers names and paths of directories it met,
//! and forgets them when they become many.
//!
//! # Failure
//! What cannot be read ends the comparison. Parents that run in circles end a path with `...`.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pool_dmu::edit::EditError;
use pool_dmu::{DatasetInfo, Datasets, Error};
use pool_phys::FormatError;
use pool_phys::blkptr::BlockPointer;
use pool_phys::dnode::{self, Dnode, kind};
use pool_phys::objset::ObjsetKind;
use pool_phys::sa::{Time, Znode};

use crate::{DIRECTORY_TYPE, Filesystem, MASTER_NODE, OBJECT_MASK, TYPE_MASK};

/// Names that a side remembers at most, and bytes of paths.
const NAMES_MAX: usize = 1 << 16;
const PATHS_MAX: usize = 1 << 20;
/// A directory of which fewer names are left to be asked for is forgotten where room is needed.
const NAMES_FEW: usize = 64;
/// Longest path that is shown whole.
const PATH_MAX: usize = 4 << 10;
/// Flag of an extended attribute, or of a directory of those.
const IS_XATTR: u64 = 1;

/// What happened to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    Added,
    Removed,
    /// Contents or attributes; and by how much its hard links changed.
    Modified(i64),
    /// To this path.
    Renamed(Vec<u8>),
}

/// One line of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub happened: Happened,
    /// From the root of the file system, with a slash before it.
    pub path: Vec<u8>,
    /// Its full mode.
    pub mode: u64,
    /// Its change time.
    pub changed: Time,
}

impl Difference {
    /// The letter of its kind of file.
    #[must_use]
    pub const fn letter(&self) -> char {
        match self.mode & TYPE_MASK {
            0o010_000 => '|',
            0o020_000 => 'C',
            DIRECTORY_TYPE => '/',
            0o060_000 => 'B',
            0o100_000 => 'F',
            0o120_000 => '@',
            0o140_000 => '=',
            _ => '?',
        }
    }

    /// As a line of `zfs diff`: paths below `mount`, letters of kinds (`-F`), tabs only (`-H`), change times (`-t`).
    #[must_use]
    pub fn line(&self, mount: &str, kinds: bool, script: bool, times: bool) -> String {
        let mut out = String::new();
        if times {
            out.push_str(&format!("{:>10}.{:09}\t", self.changed.0, self.changed.1));
        }
        out.push_str(match self.happened {
            Happened::Added => "+\t",
            Happened::Removed => "-\t",
            Happened::Modified(_) => "M\t",
            Happened::Renamed(_) => "R\t",
        });
        if kinds {
            out.push(self.letter());
            out.push('\t');
        }
        out.push_str(&escaped(mount, &self.path));
        match &self.happened {
            Happened::Renamed(to) => {
                out.push_str(if script { "\t" } else { " -> " });
                out.push_str(&escaped(mount, to));
            }
            Happened::Modified(links) if *links != 0 => out.push_str(&format!("\t({links:+})")),
            _ => {}
        }
        out.push('\n');
        out
    }
}

/// A path below a mount point; what a terminal or a script would take for something else is an octal number of four digits.
fn escaped(mount: &str, path: &[u8]) -> String {
    let mut out = String::new();
    for byte in mount.trim_end_matches('/').bytes().chain(path.iter().copied()) {
        match byte {
            b'\\' | 0..=b' ' | 127.. => out.push_str(&format!("\\{byte:04o}")),
            byte => out.push(char::from(byte)),
        }
    }
    out
}

/// A file as one side has it.
struct Seen {
    node: Znode,
    /// `None`: its parent does not have it, as when the first of several hard links was removed.
    path: Option<Vec<u8>>,
}

/// Names in a directory of the objects `from..until`. Objects are asked for in ascending order, nearly always.
#[derive(Debug)]
struct Names {
    from: u64,
    until: u64,
    /// Asked for last.
    asked: u64,
    by_object: BTreeMap<u64, Vec<u8>>,
}

#[derive(Debug)]
struct Side<'p> {
    fs: Filesystem<'p>,
    unlinked: u64,
    read: Read,
}

/// What was read of one side's directories: true as long as the root of its object set is the same.
#[derive(Debug)]
struct Read {
    pool: u64,
    root: BlockPointer,
    /// Names in directories.
    names: BTreeMap<u64, Names>,
    name_count: usize,
    /// Paths of directories.
    paths: BTreeMap<u64, Vec<u8>>,
    path_bytes: usize,
    /// Directories whose names were gone through.
    walks: u64,
}

/// What a comparison knows of directories: for another one of the same two, that goes on from where this one was.
#[derive(Debug)]
pub struct Memory {
    old: Read,
    new: Read,
}

impl Memory {
    /// How often the names of a directory were gone through.
    #[must_use]
    pub const fn walks(&self) -> u64 {
        self.old.walks + self.new.walks
    }
}

/// A block of dnodes: those in it by number, with their bytes.
type Dnodes = BTreeMap<u64, (Dnode, Vec<u8>)>;

impl<'p> Side<'p> {
    fn new(fs: Filesystem<'p>, pool: u64, root: BlockPointer) -> Result<Self, Error> {
        let unlinked = fs.objects().lookup_number(MASTER_NODE, "DELETE_QUEUE")?;
        let read = Read { pool, root, names: BTreeMap::new(), name_count: 0, paths: BTreeMap::new(), path_bytes: 0, walks: 0 };
        Ok(Self { fs, unlinked, read })
    }

    fn recall(&mut self, read: Read) {
        if read.pool == self.read.pool && read.root == self.read.root {
            self.read = read;
        }
    }

    fn per_block(&self) -> u64 {
        self.fs.objects().meta().dnode().block_size / dnode::SLOT as u64
    }

    /// The dnodes of block `number`.
    fn dnodes(&self, number: u64) -> Result<Dnodes, Error> {
        let mut out = Dnodes::new();
        let mut meta = self.fs.objects().meta();
        if number > meta.dnode().last_block || meta.gap(number)?.is_some() {
            return Ok(out);
        }
        let data = meta.block(number)?;
        let first = number.saturating_mul(self.per_block());
        let mut slot = 0;
        while let Some(bytes) = data.get(slot * dnode::SLOT..).filter(|bytes| bytes.len() >= dnode::SLOT) {
            let Some(dnode) = Dnode::parse(bytes)? else {
                slot += 1;
                continue;
            };
            let slots = dnode.slots;
            let own = bytes.get(..slots * dnode::SLOT).unwrap_or(bytes).to_vec();
            out.insert(first.saturating_add(slot as u64), (dnode, own));
            slot += slots;
        }
        Ok(out)
    }

    /// Attributes and path of a file; `None` for what is none, or has no name any more.
    fn seen(&mut self, number: u64, dnode: &Dnode) -> Result<Option<Seen>, Error> {
        if !matches!(dnode.bonus_kind, kind::SYSTEM_ATTRIBUTES | kind::ZNODE) {
            return Ok(None);
        }
        match self.fs.objects().lookup(self.unlinked, format!("{number:x}").as_bytes()) {
            Err(Error::NotFound) => {}
            found => return found.map(|_| None),
        }
        let node = self.fs.stat(number)?;
        let path = self.path(number, &node)?;
        Ok(Some(Seen { node, path }))
    }

    /// What `directory` calls `object`: the first name in the order of their hashes, where it has several.
    fn name(&mut self, directory: u64, object: u64) -> Result<Option<Vec<u8>>, Error> {
        if let Some(known) = self.read.names.get_mut(&directory).filter(|known| (known.from..known.until).contains(&object)) {
            known.asked = object;
            return Ok(known.by_object.get(&object).cloned());
        }
        if let Some(known) = self.read.names.remove(&directory) {
            self.read.name_count -= known.by_object.len();
        }
        self.read.walks += 1;
        let (mut names, mut from, mut until) = (BTreeMap::new(), 0, u64::MAX);
        self.fs.objects().zap_each(directory, &mut |hash, entry| {
            let Some(number) = entry.number().map(|value| value & OBJECT_MASK).filter(|number| (from..until).contains(number)) else { return };
            let known = names.entry(number).or_insert((hash, Vec::new()));
            if known.1.is_empty() || hash < known.0 {
                *known = (hash, entry.name);
            }
            if names.len() > NAMES_MAX {
                // More than there is memory for: the next ones from this object on stay.
                match names.first_key_value() {
                    Some((&first, _)) if first < object => {
                        names.pop_first();
                        from = first + 1;
                    }
                    _ => until = names.pop_last().map_or(until, |(last, _)| last),
                }
            }
        })?;
        let by_object: BTreeMap<u64, Vec<u8>> = names.into_iter().map(|(number, (_, name))| (number, name)).collect();
        let name = by_object.get(&object).cloned();
        self.read.name_count += by_object.len();
        self.read.names.insert(directory, Names { from, until, asked: object, by_object });
        if self.read.name_count > NAMES_MAX || self.read.names.len() > NAMES_MAX {
            self.make_room();
        }
        Ok(name)
    }

    /// Forgets names that were asked for, and those that will be last: each directory with more than a few keeps as many as the others, so that asking by turns does not walk
    /// through one of them each time.
    fn make_room(&mut self) {
        for known in self.read.names.values_mut() {
            known.by_object = known.by_object.split_off(&known.asked);
            known.from = known.asked;
        }
        self.read.names.retain(|_, known| known.by_object.len() >= NAMES_FEW);
        let share = (NAMES_MAX / 2 / self.read.names.len().max(1)).max(1);
        for known in self.read.names.values_mut() {
            if let Some(next) = known.by_object.keys().nth(share).copied() {
                known.by_object.split_off(&next);
                known.until = next;
            }
        }
        self.read.name_count = self.read.names.values().map(|known| known.by_object.len()).sum();
    }

    /// The path of an object, by way of its parents.
    fn path(&mut self, number: u64, node: &Znode) -> Result<Option<Vec<u8>>, Error> {
        let is_directory = node.mode & TYPE_MASK == DIRECTORY_TYPE;
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut begin: &[u8] = b"";
        let (mut at, mut node, mut length) = (number, node.clone(), 0);
        let known;
        while at != self.fs.root() && node.parent != at {
            let Some(part) = self.part(at, &node)? else { return Ok(None) };
            length += part.len() + 1;
            parts.push(part);
            at = node.parent;
            if let Some(path) = self.read.paths.get(&at) {
                known = path.clone();
                begin = &known;
                break;
            }
            if length > PATH_MAX {
                begin = b"...";
                break;
            }
            node = match self.fs.stat(at) {
                Ok(parent) => parent,
                Err(Error::NotFound) => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        let mut path = begin.to_vec();
        for part in parts.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(part);
        }
        if self.read.path_bytes + path.len() > PATHS_MAX {
            self.read.paths.clear();
            self.read.path_bytes = 0;
        }
        if is_directory && path.len() <= PATH_MAX {
            self.read.path_bytes += path.len();
            self.read.paths.insert(number, path.clone());
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(Some(path))
    }

    /// The last part of an object's path.
    fn part(&mut self, number: u64, node: &Znode) -> Result<Option<Vec<u8>>, Error> {
        if node.flags & IS_XATTR != 0 && node.mode & TYPE_MASK == DIRECTORY_TYPE {
            return Ok(Some(b"<xattrdir>".to_vec()));
        }
        // A parent that is gone, or is no directory any more: that link was removed.
        match self.fs.stat(node.parent) {
            Ok(parent) if parent.mode & TYPE_MASK == DIRECTORY_TYPE => self.name(node.parent, number),
            Ok(_) | Err(Error::NotFound | Error::Format(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A comparison under way.
#[derive(Debug)]
pub struct Diff<'p> {
    old: Side<'p>,
    new: Side<'p>,
    since: u64,
    /// The next block of dnodes.
    next: u64,
}

impl<'p> Diff<'p> {
    /// Compares `new` with `old`, a state of it as of txg `since`.
    ///
    /// # Errors
    /// Unreadable, malformed; they are not of one kind.
    fn new(old: Side<'p>, new: Side<'p>, since: u64) -> Result<Self, Error> {
        if old.per_block() != new.per_block() {
            return Err(FormatError::new("object set", "has dnode blocks of another size than its older state", new.per_block()).into());
        }
        Ok(Self { old, new, since, next: 0 })
    }

    /// Where [`Diff::step`] goes on: for [`Diff::seek`] of another comparison of the same two.
    #[must_use]
    pub const fn place(&self) -> u64 {
        self.next
    }

    /// Goes on from a place.
    pub const fn seek(&mut self, place: u64) {
        self.next = place;
    }

    /// What it knows of directories so far.
    #[must_use]
    pub fn into_memory(self) -> Memory {
        Memory { old: self.old.read, new: self.new.read }
    }

    /// Takes over what an earlier comparison knew, as far as that still holds: a file system may have changed meanwhile.
    pub fn recall(&mut self, memory: Memory) {
        self.old.recall(memory.old);
        self.new.recall(memory.new);
    }

    /// Looks at the next block of dnodes that changed, and appends what differs in it. False: that was all.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn step(&mut self, out: &mut Vec<Difference>) -> Result<bool, Error> {
        let Some(changed) = self.new.fs.objects().meta().next_change(self.next, self.since)? else { return Ok(false) };
        let block = changed.first;
        let limit = changed.first.saturating_add(changed.count);
        if changed.pointer.is_hole() {
            // What was there before a stretch of dnodes became a hole.
            let mut meta = self.old.fs.objects().meta();
            if block > meta.dnode().last_block {
                self.next = limit;
                return Ok(true);
            }
            if let Some(next) = meta.gap(block)? {
                self.next = next.min(limit);
                return Ok(true);
            }
        }
        self.next = block + 1;
        let (old, new) = (self.old.dnodes(block)?, self.new.dnodes(block)?);
        let numbers: BTreeSet<u64> = old.keys().chain(new.keys()).copied().collect();
        for number in numbers {
            let (before, after) = (old.get(&number), new.get(&number));
            if before.map(|(_, bytes)| bytes) == after.map(|(_, bytes)| bytes) {
                continue;
            }
            let before = before.map(|(dnode, _)| self.old.seen(number, dnode)).transpose()?.flatten();
            let after = after.map(|(dnode, _)| self.new.seen(number, dnode)).transpose()?.flatten();
            compare(before, after, out);
        }
        Ok(true)
    }
}

/// What `zfs diff FROM [TO]` compares, and where its file system is mounted (nothing if nowhere): `from` is a snapshot, `to` a later one (`@NAME` is of the same file
/// system) or a file system, that of `from` unless it is named.
///
/// # Errors
/// Not found, unreadable; `from` is no snapshot that `to` came from.
pub fn diff<'p>(datasets: &Datasets<'p>, from: &str, to: Option<&str>) -> Result<(Diff<'p>, String), EditError> {
    let (own, _) = from.split_once('@').ok_or(EditError::Invalid("what is compared with begins at a snapshot: zfs diff DATASET@OLD [DATASET@NEW | DATASET]"))?;
    let to = match to {
        None => String::from(own),
        Some(short) if short.starts_with('@') => format!("{own}{short}"),
        Some(to) => String::from(to),
    };
    let (old, new) = (datasets.find(from)?, datasets.find(&to)?);
    let since = old.dataset.creation_txg;
    let head = to.split('@').next().unwrap_or(&to);
    // Through the origins of clones.
    let mut at = String::from(head);
    let mut limit = if to.contains('@') { new.dataset.creation_txg } else { u64::MAX };
    while at != own {
        let origin = datasets.find(&at)?.origin.ok_or(EditError::Invalid("is not an earlier snapshot of the same file system, nor of one that it is a clone of"))?;
        // The origin itself is earlier than its clone.
        limit = limit.min(datasets.find(&origin)?.dataset.creation_txg.saturating_add(1));
        at = String::from(origin.split('@').next().unwrap_or(&origin));
    }
    if since >= limit {
        return Err(EditError::Invalid("is not an earlier snapshot of the same file system, nor of one that it is a clone of"));
    }
    let is_files = |info: &DatasetInfo| Ok::<_, EditError>(datasets.open_dataset(info)?.kind() == ObjsetKind::Zpl);
    if !is_files(&old)? || !is_files(&new)? {
        return Err(EditError::Invalid("only file systems are compared, and this is a volume"));
    }
    let mount = datasets.show(&datasets.find(head)?, "mountpoint")?.map_or_else(String::new, |shown| shown.value);
    let mount = if mount.starts_with('/') { mount } else { String::new() };
    let side = |info: &DatasetInfo| Side::new(Filesystem::open(datasets.open_dataset(info)?)?, datasets.mos().pool().guid(), info.dataset.root.clone());
    Ok((Diff::new(side(&old)?, side(&new)?, since)?, mount))
}

/// What became of one object, as OpenZFS tells it.
fn compare(before: Option<Seen>, after: Option<Seen>, out: &mut Vec<Difference>) {
    let is_directory = |seen: &Seen| seen.node.mode & TYPE_MASK == DIRECTORY_TYPE;
    let links = match (&before, &after) {
        (Some(before), Some(after)) if !is_directory(before) && !is_directory(after) && before.node.links != 0 && after.node.links != 0 => {
            after.node.links.cast_signed().wrapping_sub(before.node.links.cast_signed())
        }
        _ => 0,
    };
    let named = |seen: Option<Seen>| seen.and_then(|seen| Some((seen.path?, seen.node)));
    let after_node = after.as_ref().map(|seen| seen.node.clone());
    let mut put = |happened, path, node: &Znode| out.push(Difference { happened, path, mode: node.mode, changed: node.changed });
    match (named(before), named(after)) {
        (None, None) => {}
        (None, Some((path, node))) if links != 0 => put(Happened::Modified(links), path, &node),
        (None, Some((path, node))) => put(Happened::Added, path, &node),
        (Some((path, node)), None) if links != 0 => put(Happened::Modified(links), path, after_node.as_ref().unwrap_or(&node)),
        (Some((path, node)), None) => put(Happened::Removed, path, &node),
        (Some((from, old)), Some((to, new))) => {
            if old.generation != new.generation || old.mode & TYPE_MASK != new.mode & TYPE_MASK {
                put(Happened::Removed, from, &old);
                put(Happened::Added, to, &new);
            } else if old.changed == new.changed {
                // Its dnode was written anew, and says the same.
            } else if links != 0 {
                put(Happened::Modified(links), if links > 0 { from } else { to }, &new);
            } else if from == to {
                put(Happened::Modified(0), from, &new);
            } else {
                put(Happened::Renamed(to), from, &new);
            }
        }
    }
}
