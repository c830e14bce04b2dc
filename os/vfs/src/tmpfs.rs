//! tmpfs: files in memory.
//!
//! # Theory
//! A file is a sparse list of frames, in chunks of [`CHUNK`] pages found through an ordered map: a sequential transfer looks
//! a chunk up once per 128 KiB, and a hole costs nothing. Frames are charged to the zone that made them exist. Reads, writes and mappings all use the same
//! frames. A directory is two ordered maps: by name for lookup, by age for `readdir`, whose cookies are therefore stable for ever.
//!
//! # Structures
//! ```text
//! Tmpfs -> root Node -> Directory { entries: name -> (cookie, Node), order: cookie -> name, parent (weak) }
//! Node { inner: attributes, size, chunks }        Node -> Shared (limits, counters, rename lock)
//! ```
//!
//! # Locking
//! `Rename` (one per file system, all renames) -> `Directory` (ancestor before descendant; of unrelated ones the lower inode
//! first) -> `Pages` (one node's attributes and contents). Removing a directory holds parent and child. Who holds `Rename` sees a
//! tree whose shape does not change, so ancestry is worked out before the directory locks are taken.
//!
//! # Failure
//! No frame, or the size limit reached: `NoSpace`; a write that got some bytes in reports those. Nothing else can fail half-way:
//! every check of a directory operation comes before its first change.
//!
//! # Limits
//! Size of one file: 2^63 - 1 bytes. Links to one file: [`LINK_MAX`]. Nodes and pages per file system: [`Options`]. Where several zones have nodes in one file system
//! (their roots on the live root), a zone other than the global one gets no more than an equal part of the nodes, one part being left free: see [`Counts`].
//! A page cut off by `truncate` stays in mappings that already show it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};
use kif::{Frame, Nanos, OutOfMemory, PAGE_SHIFT, PAGE_SIZE, ZoneId};
use sync::{Class, Mutex, MutexGuard, SpinLock};

use crate::file::{File, OpenFlags};
use crate::mount::{Filesystem, next_fs_id};
use crate::pipe::Pipe;
use crate::poll::{Pollee, Ready};
use crate::vnode::{Attr, DevNo, DirEntry, Io, Kind, NodeId, Owner, RenameFlags, SetAttr, StatFs, Vnode, VnodeRef};
use crate::{Result, VfsError};

/// Pages in one chunk of a file.
const CHUNK: usize = 32;
/// Most links to one file.
pub const LINK_MAX: u32 = 65_000;
/// Inode number of the root.
const ROOT_INO: u64 = 1;
/// `f_type` of tmpfs.
pub const MAGIC: u64 = 0x0102_1994;
/// Access times are written at most once a day, unless the file changed since (`relatime`, `mount(8)`).
const ATIME_STEP: Nanos = Nanos(86_400_000_000_000);

/// How to make a tmpfs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Attributes of its root directory.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Most pages of contents; the default is no limit but the zone's cap.
    pub max_pages: u64,
    /// Most files and directories; the default is one for every two frames of the machine.
    pub max_nodes: u64,
}

impl Default for Options {
    fn default() -> Self {
        let (_, total) = kif::frames().free_total();
        Self { mode: 0o755, uid: 0, gid: 0, max_pages: u64::MAX, max_nodes: (total / 2).max(1024) }
    }
}

/// A file system in memory.
#[allow(missing_debug_implementations, reason = "holds locks")]
pub struct Tmpfs {
    shared: Arc<Shared>,
    root: Arc<Node>,
}

struct Shared {
    id: u64,
    max_pages: u64,
    max_nodes: u64,
    pages: AtomicU64,
    nodes: SpinLock<Counts>,
    next_ino: AtomicU64,
    /// Held by every rename: the tree keeps its shape meanwhile.
    rename: Mutex<()>,
}

/// Makes an empty tmpfs.
#[must_use]
pub fn new(options: &Options) -> Arc<Tmpfs> {
    let shared = Arc::new(Shared {
        id: next_fs_id(),
        max_pages: options.max_pages,
        max_nodes: options.max_nodes,
        pages: AtomicU64::new(0),
        nodes: SpinLock::new(Class::TmpfsNodes, Counts { all: 1, by_zone: BTreeMap::new() }),
        next_ino: AtomicU64::new(ROOT_INO + 1),
        rename: Mutex::new(Class::Rename, ()),
    });
    let owner = Owner { uid: options.uid, gid: options.gid, zone: ZoneId::GLOBAL };
    let body = Body::Directory(Mutex::new(Class::Directory, Directory::default()));
    let root = Node::new(&shared, ROOT_INO, None, Kind::Directory, body, options.mode, owner);
    root.inner.lock().nlink = 2;
    Arc::new(Tmpfs { shared, root })
}

/// An empty file that no directory names, in a file system of its own (`memfd_create(2)`): goes with its last handle.
#[must_use]
pub fn nameless(owner: Owner) -> Arc<File> {
    let fs = new(&Options::default());
    fs.shared.nodes.lock().all += 1;
    let node = Node::new(&fs.shared, ROOT_INO + 1, None, Kind::File, Body::File, 0o777, owner);
    node.inner.lock().nlink = 0;
    File::anonymous(node, OpenFlags::READ | OpenFlags::WRITE | OpenFlags::LARGEFILE)
}

impl Filesystem for Tmpfs {
    fn kind(&self) -> &'static str {
        "tmpfs"
    }
    fn root(&self) -> VnodeRef {
        Arc::clone(&self.root) as VnodeRef
    }
    fn statfs(&self) -> Result<StatFs> {
        let used = self.shared.pages.load(Ordering::Relaxed);
        let (free, total) = kif::frames().free_total();
        let limit = self.shared.max_pages.min(total);
        let left = limit.saturating_sub(used).min(free);
        Ok(StatFs {
            magic: MAGIC,
            block_bytes: PAGE_SIZE as u64,
            blocks: limit,
            blocks_free: left,
            files: self.shared.max_nodes,
            files_free: self.shared.max_nodes.saturating_sub(self.shared.nodes.lock().all),
        })
    }
}

/// How many nodes there are, and whose.
struct Counts {
    all: u64,
    /// Without the root, which is there for all.
    by_zone: BTreeMap<ZoneId, u64>,
}

impl Counts {
    /// Counts one more for `zone`, if of `max` it may have another: the global zone and a zone alone any that is free, others an equal part of all. One part is
    /// nobody's, so that the next zone to come finds some free whatever those before it did.
    fn take(&mut self, zone: ZoneId, max: u64) -> Result<()> {
        let mine = self.by_zone.get(&zone).copied().unwrap_or(0);
        let zones = self.by_zone.len() as u64 + u64::from(mine == 0);
        let part = if zone == ZoneId::GLOBAL || zones == 1 { max } else { max / (zones + 1) };
        if self.all >= max || mine >= part.max(1) {
            return Err(VfsError::NoSpace);
        }
        self.all += 1;
        self.by_zone.insert(zone, mine + 1);
        Ok(())
    }
    fn give_back(&mut self, zone: Option<ZoneId>) {
        self.all -= 1;
        let Some(zone) = zone else { return };
        match self.by_zone.get_mut(&zone) {
            Some(mine) if *mine > 1 => *mine -= 1,
            Some(_) | None => drop(self.by_zone.remove(&zone)),
        }
    }
}

impl Shared {
    fn take_node(&self, zone: ZoneId) -> Result<u64> {
        self.nodes.lock().take(zone, self.max_nodes)?;
        Ok(self.next_ino.fetch_add(1, Ordering::Relaxed))
    }
    fn take_page(&self) -> Result<()> {
        if self.pages.fetch_add(1, Ordering::Relaxed) >= self.max_pages {
            self.pages.fetch_sub(1, Ordering::Relaxed);
            return Err(VfsError::NoSpace);
        }
        Ok(())
    }
}

/// A file, directory, link or special file.
struct Node {
    shared: Arc<Shared>,
    me: Weak<Node>,
    ino: u64,
    kind: Kind,
    /// The zone among whose nodes it counts.
    counted: Option<ZoneId>,
    body: Body,
    inner: Mutex<Inner>,
}

enum Body {
    File,
    Directory(Mutex<Directory>),
    Symlink(Box<[u8]>),
    Device(DevNo),
    Fifo(Arc<Pipe>),
    Socket,
}

/// Attributes and contents.
struct Inner {
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    atime: Nanos,
    mtime: Nanos,
    ctime: Nanos,
    size: u64,
    pages: u64,
    chunks: BTreeMap<u64, Box<Chunk>>,
}

type Chunk = [Option<Frame>; CHUNK];

#[derive(Default)]
struct Directory {
    entries: BTreeMap<Arc<[u8]>, (u64, Arc<Node>)>,
    order: BTreeMap<u64, Arc<[u8]>>,
    last_cookie: u64,
    parent: Weak<Node>,
    name: Box<[u8]>,
    /// Removed: takes no new entries.
    dead: bool,
}

/// Cookies 1 and 2 are `.` and `..`.
const FIRST_COOKIE: u64 = 3;

impl Directory {
    fn get(&self, name: &[u8]) -> Option<&Arc<Node>> {
        self.entries.get(name).map(|(_, node)| node)
    }
    fn insert(&mut self, name: &[u8], node: Arc<Node>) {
        let name: Arc<[u8]> = Arc::from(name);
        self.last_cookie = self.last_cookie.max(FIRST_COOKIE - 1) + 1;
        self.order.insert(self.last_cookie, Arc::clone(&name));
        let old = self.entries.insert(name, (self.last_cookie, node));
        assert!(old.is_none(), "a directory entry was replaced without being removed");
    }
    fn remove(&mut self, name: &[u8]) -> Option<Arc<Node>> {
        let (cookie, node) = self.entries.remove(name)?;
        self.order.remove(&cookie);
        Some(node)
    }
    /// Puts `node` in the place of what `name` leads to.
    fn exchange(&mut self, name: &[u8], node: Arc<Node>) -> Option<Arc<Node>> {
        let (_, slot) = self.entries.get_mut(name)?;
        Some(core::mem::replace(slot, node))
    }
}

fn now() -> Nanos {
    kif::clock().realtime()
}

impl Inner {
    fn changed(&mut self) {
        self.mtime = now();
        self.ctime = self.mtime;
    }
    /// New contents must not run with the rights that the old ones were given. (On Linux root's own writes spare the bits.)
    fn forget_setid(&mut self) {
        if self.mode & 0o6000 != 0 {
            // Without group execution the bit means mandatory locking.
            let setgid = if self.mode & 0o010 != 0 { 0o2000 } else { 0 };
            self.mode &= !(0o4000 | setgid);
        }
    }
    fn accessed(&mut self) {
        let now = now();
        if self.atime <= self.mtime || now.since(self.atime) > ATIME_STEP {
            self.atime = now;
        }
    }
}

impl Node {
    fn new(shared: &Arc<Shared>, ino: u64, counted: Option<ZoneId>, kind: Kind, body: Body, mode: u32, owner: Owner) -> Arc<Self> {
        let time = now();
        let inner = Inner {
            mode: mode & 0o7777,
            uid: owner.uid,
            gid: owner.gid,
            nlink: 1,
            atime: time,
            mtime: time,
            ctime: time,
            size: 0,
            pages: 0,
            chunks: BTreeMap::new(),
        };
        Arc::new_cyclic(|me| Self {
            shared: Arc::clone(shared),
            me: Weak::clone(me),
            ino,
            kind,
            counted,
            body,
            inner: Mutex::new(Class::Pages, inner),
        })
    }
    fn arc(&self) -> Arc<Self> {
        self.me.upgrade().expect("a method runs on a live node")
    }
    fn directory(&self) -> Result<MutexGuard<'_, Directory>> {
        match &self.body {
            Body::Directory(directory) => Ok(directory.lock()),
            Body::File | Body::Symlink(_) | Body::Device(_) | Body::Fifo(_) | Body::Socket => Err(VfsError::NotDirectory),
        }
    }
    fn living_directory(&self) -> Result<MutexGuard<'_, Directory>> {
        let directory = self.directory()?;
        if directory.dead { Err(VfsError::NotFound) } else { Ok(directory) }
    }
    fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }
    /// Adds a new node to this directory.
    fn add(&self, name: &[u8], kind: Kind, body: Body, mode: u32, owner: Owner) -> Result<Arc<Self>> {
        let mut directory = self.living_directory()?;
        if directory.get(name).is_some() {
            return Err(VfsError::Exists);
        }
        let ino = self.shared.take_node(owner.zone)?;
        let node = Self::new(&self.shared, ino, Some(owner.zone), kind, body, mode, owner);
        let is_directory = kind == Kind::Directory;
        if let Body::Directory(made) = &node.body {
            let mut made = made.lock();
            made.parent = Weak::clone(&self.me);
            made.name = name.into();
            drop(made);
            node.inner.lock().nlink = 2;
        }
        directory.insert(name, Arc::clone(&node));
        self.touched(i64::from(is_directory));
        Ok(node)
    }
    /// Notes a change of this directory and of its count of subdirectories.
    fn touched(&self, subdirectories: i64) {
        let mut inner = self.inner.lock();
        inner.changed();
        inner.nlink = u32::try_from(i64::from(inner.nlink) + subdirectories).expect("a directory has 2 links and 1 per child");
    }
    /// Notes that a name of this node is gone.
    fn unlinked(&self) {
        let mut inner = self.inner.lock();
        inner.nlink -= 1;
        inner.ctime = now();
    }
    /// Inode numbers from this directory up to the root. Only under the rename lock does the answer keep.
    fn ancestors(&self) -> Result<Vec<u64>> {
        let mut list = alloc::vec![self.ino];
        let mut at = self.arc();
        while at.ino != ROOT_INO {
            let parent = at.directory()?.parent.upgrade().ok_or(VfsError::NotFound)?;
            list.push(parent.ino);
            at = parent;
        }
        Ok(list)
    }
    fn of<'a>(&self, vnode: &'a VnodeRef) -> Result<&'a Self> {
        let node = vnode.as_any().and_then(|any| any.downcast_ref::<Self>()).ok_or(VfsError::CrossDevice)?;
        if node.shared.id == self.shared.id { Ok(node) } else { Err(VfsError::CrossDevice) }
    }

    // ---- Contents ----

    /// The frame at `index`, made if missing; `whole` if the caller overwrites all of it at once.
    fn frame<'a>(&self, inner: &'a mut Inner, index: u64, whole: bool, zone: ZoneId) -> Result<&'a Frame> {
        let Inner { chunks, pages, .. } = inner;
        let chunk = chunks.entry(index / CHUNK as u64).or_insert_with(|| Box::new([const { None }; CHUNK]));
        let slot = &mut chunk[(index % CHUNK as u64) as usize];
        if slot.is_none() {
            self.shared.take_page()?;
            let frame = if whole { Frame::allocate_for_overwrite(zone) } else { Frame::allocate(zone) };
            match frame {
                Ok(frame) => *slot = Some(frame),
                Err(OutOfMemory) => {
                    self.shared.pages.fetch_sub(1, Ordering::Relaxed);
                    return Err(VfsError::NoSpace);
                }
            }
            *pages += 1;
        }
        Ok(slot.as_ref().expect("just filled"))
    }

    fn write_inner(&self, inner: &mut Inner, offset: u64, data: &[u8], zone: ZoneId) -> Result<usize> {
        if self.kind != Kind::File {
            return Err(VfsError::Invalid);
        }
        if data.is_empty() {
            return Ok(0);
        }
        let end = offset.checked_add(data.len() as u64).filter(|end| i64::try_from(*end).is_ok()).ok_or(VfsError::TooBig)?;
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let start = (at % PAGE_SIZE as u64) as usize;
            let count = (PAGE_SIZE - start).min(data.len() - done);
            match self.frame(inner, at >> PAGE_SHIFT, count == PAGE_SIZE, zone) {
                Ok(frame) => frame.write(start, &data[done..done + count]),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += count;
        }
        inner.size = inner.size.max(end - (data.len() - done) as u64);
        inner.changed();
        inner.forget_setid();
        Ok(done)
    }
}

impl Drop for Node {
    /// Takes a tree apart without recursion: a tenant decides how deep it is, the kernel stack does not.
    fn drop(&mut self) {
        /// What is left of a directory, and of those above it. A step down allocates this little, and then frees the node it is made of.
        struct Level {
            entries: BTreeMap<Arc<[u8]>, (u64, Arc<Node>)>,
            above: Option<Box<Level>>,
        }
        fn entries(node: &mut Node) -> BTreeMap<Arc<[u8]>, (u64, Arc<Node>)> {
            match &mut node.body {
                Body::Directory(directory) => core::mem::take(&mut directory.get_mut().entries),
                Body::File | Body::Symlink(_) | Body::Device(_) | Body::Fifo(_) | Body::Socket => BTreeMap::new(),
            }
        }
        let mut level = Level { entries: entries(self), above: None };
        loop {
            if let Some((_, (_, child))) = level.entries.pop_first() {
                // A child that others hold goes with the last of them.
                if let Some(mut child) = Arc::into_inner(child) {
                    let inside = entries(&mut child);
                    drop(child);
                    if !inside.is_empty() {
                        level = Level { entries: inside, above: Some(Box::new(level)) };
                    }
                }
            } else if let Some(above) = level.above {
                level = *above;
            } else {
                break;
            }
        }
        self.shared.nodes.lock().give_back(self.counted);
        self.shared.pages.fetch_sub(self.inner.get_mut().pages, Ordering::Relaxed);
    }
}

impl Vnode for Node {
    fn id(&self) -> NodeId {
        NodeId { fs: self.shared.id, ino: self.ino }
    }
    fn kind(&self) -> Kind {
        self.kind
    }
    fn attr(&self) -> Result<Attr> {
        let inner = self.inner.lock();
        let size = match &self.body {
            Body::Symlink(target) => target.len() as u64,
            Body::File => inner.size,
            Body::Directory(_) => PAGE_SIZE as u64,
            Body::Device(_) | Body::Fifo(_) | Body::Socket => 0,
        };
        let rdev = if let Body::Device(dev) = self.body { dev } else { DevNo::default() };
        Ok(Attr {
            id: self.id(),
            kind: self.kind,
            mode: inner.mode,
            uid: inner.uid,
            gid: inner.gid,
            nlink: inner.nlink,
            size,
            blocks: inner.pages * (PAGE_SIZE as u64 / 512),
            rdev,
            atime: inner.atime,
            mtime: inner.mtime,
            ctime: inner.ctime,
        })
    }
    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let SetAttr { mode, uid, gid, atime, mtime } = *change;
        inner.mode = mode.map_or(inner.mode, |mode| mode & 0o7777);
        inner.uid = uid.unwrap_or(inner.uid);
        inner.gid = gid.unwrap_or(inner.gid);
        inner.atime = atime.unwrap_or(inner.atime);
        inner.mtime = mtime.unwrap_or(inner.mtime);
        inner.ctime = now();
        Ok(())
    }

    fn lookup(&self, name: &[u8]) -> Result<VnodeRef> {
        let directory = self.directory()?;
        directory.get(name).map(|node| Arc::clone(node) as VnodeRef).ok_or(VfsError::NotFound)
    }
    fn parent(&self) -> Result<(VnodeRef, Box<[u8]>)> {
        let directory = self.directory()?;
        if self.ino == ROOT_INO {
            return Ok((self.arc(), Box::default()));
        }
        let parent = directory.parent.upgrade().ok_or(VfsError::NotFound)?;
        if directory.dead {
            // Its name is gone; `..` still leads up.
            return Ok((parent, Box::default()));
        }
        Ok((parent, directory.name.clone()))
    }
    fn create(&self, name: &[u8], kind: Kind, mode: u32, rdev: DevNo, owner: Owner) -> Result<VnodeRef> {
        let body = match kind {
            Kind::File => Body::File,
            Kind::Fifo => Body::Fifo(Pipe::new()),
            Kind::Socket => Body::Socket,
            Kind::CharDevice | Kind::BlockDevice => Body::Device(rdev),
            Kind::Directory | Kind::Symlink | Kind::Anonymous => return Err(VfsError::Invalid),
        };
        self.add(name, kind, body, mode, owner).map(|node| node as VnodeRef)
    }
    fn mkdir(&self, name: &[u8], mode: u32, owner: Owner) -> Result<VnodeRef> {
        let body = Body::Directory(Mutex::new(Class::Directory, Directory::default()));
        self.add(name, Kind::Directory, body, mode, owner).map(|node| node as VnodeRef)
    }
    fn symlink(&self, name: &[u8], target: &[u8], owner: Owner) -> Result<VnodeRef> {
        self.add(name, Kind::Symlink, Body::Symlink(target.into()), 0o777, owner).map(|node| node as VnodeRef)
    }
    fn link(&self, name: &[u8], target: &VnodeRef) -> Result<()> {
        let target = self.of(target)?;
        if target.is_directory() {
            return Err(VfsError::NotPermitted);
        }
        let mut directory = self.living_directory()?;
        if directory.get(name).is_some() {
            return Err(VfsError::Exists);
        }
        let mut inner = target.inner.lock();
        match inner.nlink {
            0 => return Err(VfsError::NotFound),
            LINK_MAX.. => return Err(VfsError::TooManyLinks),
            _ => inner.nlink += 1,
        }
        inner.ctime = now();
        drop(inner);
        directory.insert(name, target.arc());
        self.touched(0);
        Ok(())
    }
    fn unlink(&self, name: &[u8]) -> Result<()> {
        let mut directory = self.directory()?;
        if directory.get(name).ok_or(VfsError::NotFound)?.is_directory() {
            return Err(VfsError::IsDirectory);
        }
        let removed = directory.remove(name);
        self.touched(0);
        drop(directory);
        // Its last handle may free many frames: not under the directory's lock.
        if let Some(node) = removed {
            node.unlinked();
        }
        Ok(())
    }
    fn rmdir(&self, name: &[u8]) -> Result<()> {
        let mut directory = self.directory()?;
        let victim = Arc::clone(directory.get(name).ok_or(VfsError::NotFound)?);
        let mut inside = victim.directory()?;
        if !inside.entries.is_empty() {
            return Err(VfsError::NotEmpty);
        }
        inside.dead = true;
        drop(inside);
        directory.remove(name);
        self.touched(-1);
        drop(directory);
        let mut inner = victim.inner.lock();
        inner.nlink = 0;
        inner.ctime = now();
        drop(inner);
        Ok(())
    }
    fn rename(&self, name: &[u8], target: &VnodeRef, target_name: &[u8], flags: RenameFlags) -> Result<()> {
        let target = self.of(target)?;
        let _shape = self.shared.rename.lock();
        let source_line = self.ancestors()?;
        let target_line = target.ancestors()?;
        let move_ = Move { from: self, name, to: target, to_name: target_name, source_line: &source_line, target_line: &target_line };
        if self.ino == target.ino {
            let mut directory = self.living_directory()?;
            return move_.run(&mut directory, None, flags);
        }
        // Ancestor first; unrelated ones by number.
        let source_first = target_line.contains(&self.ino) || (!source_line.contains(&target.ino) && self.ino < target.ino);
        let (mut from, mut to);
        if source_first {
            from = self.living_directory()?;
            to = target.living_directory()?;
        } else {
            to = target.living_directory()?;
            from = self.living_directory()?;
        }
        move_.run(&mut from, Some(&mut to), flags)
    }
    fn readdir(&self, cookie: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let directory = self.directory()?;
        if directory.dead {
            return Err(VfsError::NotFound);
        }
        if cookie < 1 && !emit(DirEntry { name: b".", ino: self.ino, kind: Kind::Directory, next: 1 }) {
            return Ok(());
        }
        let parent = directory.parent.upgrade().map_or(self.ino, |parent| parent.ino);
        if cookie < 2 && !emit(DirEntry { name: b"..", ino: parent, kind: Kind::Directory, next: 2 }) {
            return Ok(());
        }
        let Some(first) = cookie.checked_add(1) else { return Ok(()) };
        for (next, name) in directory.order.range(first.max(FIRST_COOKIE)..) {
            let node = directory.get(name).expect("both maps hold the same entries");
            if !emit(DirEntry { name, ino: node.ino, kind: node.kind, next: *next }) {
                break;
            }
        }
        Ok(())
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        if let Body::Symlink(target) = &self.body { Ok(target.to_vec()) } else { Err(VfsError::Invalid) }
    }
    fn open(&self, flags: OpenFlags, _zone: ZoneId) -> Result<Option<VnodeRef>> {
        if let Body::Fifo(pipe) = &self.body { pipe.open(self.id(), flags).map(Some) } else { Ok(None) }
    }
    fn read_at(&self, offset: u64, out: &mut [u8], _io: Io) -> Result<usize> {
        if self.kind != Kind::File {
            return Err(if self.is_directory() { VfsError::IsDirectory } else { VfsError::Invalid });
        }
        let mut inner = self.inner.lock();
        let left = inner.size.saturating_sub(offset);
        let total = usize::try_from(left).map_or(out.len(), |left| left.min(out.len()));
        let mut done = 0;
        while done < total {
            let at = offset + done as u64;
            let index = at >> PAGE_SHIFT;
            let chunk = inner.chunks.get(&(index / CHUNK as u64));
            let mut slot = (index % CHUNK as u64) as usize;
            let mut start = (at % PAGE_SIZE as u64) as usize;
            while slot < CHUNK && done < total {
                let count = (PAGE_SIZE - start).min(total - done);
                let part = &mut out[done..done + count];
                match chunk.and_then(|chunk| chunk[slot].as_ref()) {
                    Some(frame) => frame.read(start, part),
                    None => part.fill(0),
                }
                done += count;
                start = 0;
                slot += 1;
            }
        }
        inner.accessed();
        Ok(done)
    }
    fn write_at(&self, offset: u64, data: &[u8], io: Io) -> Result<usize> {
        let mut inner = self.inner.lock();
        self.write_inner(&mut inner, offset, data, io.zone)
    }
    fn append(&self, data: &[u8], io: Io) -> Result<(u64, usize)> {
        let mut inner = self.inner.lock();
        let end = inner.size;
        let count = self.write_inner(&mut inner, end, data, io.zone)?;
        Ok((end + count as u64, count))
    }
    fn truncate(&self, size: u64) -> Result<()> {
        if self.kind != Kind::File {
            return Err(VfsError::Invalid);
        }
        if i64::try_from(size).is_err() {
            return Err(VfsError::TooBig);
        }
        let mut inner = self.inner.lock();
        inner.forget_setid();
        let mut dropped = BTreeMap::new();
        let mut cut: Vec<Frame> = Vec::new();
        if size < inner.size {
            // Pages wholly beyond the end go; what is left of the last one becomes zero.
            let first_gone = size.div_ceil(PAGE_SIZE as u64);
            let chunk_index = first_gone / CHUNK as u64;
            let first_slot = (first_gone % CHUNK as u64) as usize;
            dropped = inner.chunks.split_off(&(chunk_index + u64::from(first_slot != 0)));
            if first_slot != 0
                && let Some(chunk) = inner.chunks.get_mut(&chunk_index)
            {
                cut.extend(chunk[first_slot..].iter_mut().filter_map(Option::take));
            }
            let tail = (size % PAGE_SIZE as u64) as usize;
            let last = size >> PAGE_SHIFT;
            if tail != 0
                && let Some(chunk) = inner.chunks.get(&(last / CHUNK as u64))
                && let Some(frame) = &chunk[(last % CHUNK as u64) as usize]
            {
                zero_from(frame, tail);
            }
            let gone = cut.len() + dropped.values().map(|chunk| chunk.iter().flatten().count()).sum::<usize>();
            inner.pages -= gone as u64;
            self.shared.pages.fetch_sub(gone as u64, Ordering::Relaxed);
        }
        inner.size = size;
        inner.changed();
        drop(inner);
        drop((dropped, cut));
        Ok(())
    }
    fn extend(&self, size: u64) -> Result<()> {
        if self.kind != Kind::File {
            return Err(VfsError::Invalid);
        }
        if i64::try_from(size).is_err() {
            return Err(VfsError::TooBig);
        }
        let mut inner = self.inner.lock();
        if inner.size < size {
            inner.forget_setid();
            inner.size = size;
            inner.changed();
        }
        Ok(())
    }
    fn page(&self, index: u64, write: bool, zone: ZoneId) -> Result<Frame> {
        if self.kind != Kind::File {
            return Err(VfsError::NoDevice);
        }
        let mut inner = self.inner.lock();
        if index >= inner.size.div_ceil(PAGE_SIZE as u64) {
            return Err(VfsError::Invalid);
        }
        let frame = self.frame(&mut inner, index, false, zone)?.clone();
        if write {
            inner.changed();
        }
        Ok(frame)
    }
    fn poll(&self) -> Ready {
        Ready::IN | Ready::OUT | Ready::RDNORM | Ready::WRNORM
    }
    fn pollee(&self) -> Option<&Pollee> {
        None
    }
    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

fn zero_from(frame: &Frame, start: usize) {
    const ZEROS: [u8; 512] = [0; 512];
    let mut at = start;
    while at < PAGE_SIZE {
        let count = ZEROS.len().min(PAGE_SIZE - at);
        frame.write(at, &ZEROS[..count]);
        at += count;
    }
}

/// One rename, with what was found out before the directories were locked.
struct Move<'a> {
    from: &'a Node,
    name: &'a [u8],
    to: &'a Node,
    to_name: &'a [u8],
    source_line: &'a [u64],
    target_line: &'a [u64],
}

impl Move<'_> {
    /// `to` is `None` when source and target directory are the same.
    fn run(&self, from: &mut Directory, to: Option<&mut Directory>, flags: RenameFlags) -> Result<()> {
        let moved = Arc::clone(from.get(self.name).ok_or(VfsError::NotFound)?);
        let replaced = to.as_deref().unwrap_or(from).get(self.to_name).cloned();
        if let Some(replaced) = &replaced {
            if flags.contains(RenameFlags::NOREPLACE) {
                return Err(VfsError::Exists);
            }
            if Arc::ptr_eq(&moved, replaced) {
                return Ok(());
            }
        }
        // A directory may not go into itself or below.
        if moved.is_directory() && self.target_line.contains(&moved.ino) {
            return Err(VfsError::Invalid);
        }
        if flags.contains(RenameFlags::EXCHANGE) {
            let other = replaced.ok_or(VfsError::NotFound)?;
            if other.is_directory() && self.source_line.contains(&other.ino) {
                return Err(VfsError::Invalid);
            }
            from.exchange(self.name, Arc::clone(&other));
            to.unwrap_or(from).exchange(self.to_name, Arc::clone(&moved));
            self.settle(&moved, self.to, self.to_name)?;
            self.settle(&other, self.from, self.name)?;
            let (gains, gives) = (i64::from(moved.is_directory()), i64::from(other.is_directory()));
            self.touch(gives - gains, gains - gives);
            return Ok(());
        }
        let mut lost_directory = 0;
        if let Some(victim) = &replaced {
            match (moved.is_directory(), victim.is_directory()) {
                (true, false) => return Err(VfsError::NotDirectory),
                (false, true) => return Err(VfsError::IsDirectory),
                (false, false) => {}
                (true, true) => {
                    // An ancestor of the source has the source inside: not empty, and not to be locked out of order.
                    if self.source_line.contains(&victim.ino) {
                        return Err(VfsError::NotEmpty);
                    }
                    let mut inside = victim.directory()?;
                    if !inside.entries.is_empty() {
                        return Err(VfsError::NotEmpty);
                    }
                    inside.dead = true;
                    lost_directory = 1;
                }
            }
        }
        from.remove(self.name);
        let target = to.unwrap_or(from);
        target.remove(self.to_name);
        target.insert(self.to_name, Arc::clone(&moved));
        self.settle(&moved, self.to, self.to_name)?;
        if let Some(victim) = &replaced {
            if lost_directory == 1 {
                victim.inner.lock().nlink = 0;
            } else {
                victim.unlinked();
            }
        }
        let carried = i64::from(moved.is_directory());
        self.touch(-carried, carried - lost_directory);
        Ok(())
    }
    /// Tells a moved node where it is now.
    fn settle(&self, node: &Node, parent: &Node, name: &[u8]) -> Result<()> {
        node.inner.lock().ctime = now();
        if node.is_directory() {
            let mut directory = node.directory()?;
            directory.parent = Weak::clone(&parent.me);
            directory.name = name.into();
        }
        Ok(())
    }
    fn touch(&self, from_change: i64, to_change: i64) {
        if self.from.ino == self.to.ino {
            self.from.touched(from_change + to_change);
        } else {
            self.from.touched(from_change);
            self.to.touched(to_change);
        }
    }
}
