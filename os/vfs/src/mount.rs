//! Mounts: which file system shows where, and to whom.
//!
//! # Theory
//! There is one tree of mounts. A process sees the part below its root. Each mount names the zone it belongs to: a mount
//! made inside a zone's tree inherits the zone of the mount it covers, and [`make_zone_root`] starts a zone's part by binding the
//! zone's root directory onto itself. A caller outside the global zone may stand only on mounts of its own zone; path walk
//! checks that at its start and on every jump, and `..` does not leave the last mount of a zone. So the zone root is a
//! hard boundary whatever `chroot` and inherited descriptors do.
//!
//! A loopback mount (lofs, bind) is a mount whose root is a directory of a file system mounted elsewhere: the vnodes are
//! the same objects, so contents and cached pages are shared; only the flags (read-only) differ.
//!
//! # Structures
//! A mount owns its children; a child knows what it covers by a weak reference. Whoever stands in a mount (open file, working directory)
//! holds an [`Arc<Mount>`](Mount), so the strong count says whether it is busy.
//!
//! # Locking
//! `Class::MountTree` (spin) around each mount's child map and its covered place; never two at once. Vnodes are never
//! dropped under it.
//!
//! # Limits
//! None on the number of mounts; each zone's mounts are charged to its callers by the reservation of the mount call.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bitflags::bitflags;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use kif::ZoneId;
use once_cell::race::OnceBox;
use sync::{Class, SpinLock};

use crate::vnode::{Attr, Kind, NodeId, StatFs, Vnode, VnodeRef};
use crate::{Cx, Result, VfsError, walk};

bitflags! {
    /// Mount options (values of `mount(2)`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MountFlags: u32 {
        const READ_ONLY = 1;
        const NOSUID = 2;
        const NODEV = 4;
        const NOEXEC = 8;
    }
}

/// A file system: a tree of vnodes.
pub trait Filesystem: Send + Sync {
    /// Its type as in `/proc/mounts` (`tmpfs`, `proc`, ...).
    fn kind(&self) -> &'static str;
    /// Its root directory.
    fn root(&self) -> VnodeRef;
    /// Space.
    ///
    /// # Errors
    /// The medium failed.
    fn statfs(&self) -> Result<StatFs>;
    /// Makes everything durable.
    ///
    /// # Errors
    /// The medium failed.
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    /// The same for `sync`, which tells nobody: a medium that is away is not waited for, or the machine could not be shut down without it.
    ///
    /// # Errors
    /// The medium failed.
    fn sync_now(&self) -> Result<()> {
        self.sync()
    }
}

/// The file-system number of objects without a name.
pub const ANONYMOUS_FS: u64 = 0;

/// Hands out the numbers that tell file systems apart (`st_dev`).
pub fn next_fs_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

struct Covered {
    mount: Weak<Mount>,
    vnode: VnodeRef,
}

/// One mounted file system, or part of one.
#[allow(missing_debug_implementations, reason = "holds locks")]
pub struct Mount {
    id: u64,
    fs: Arc<dyn Filesystem>,
    root: VnodeRef,
    root_id: NodeId,
    /// True if `root` is not the root of `fs`: `..` must then check that it stays below it.
    partial: bool,
    zone: ZoneId,
    flags: AtomicU32,
    /// The operator made it for the zone: the zone cannot take it off.
    is_fixed: AtomicBool,
    source: String,
    covered: SpinLock<Option<Covered>>,
    children: SpinLock<BTreeMap<NodeId, Arc<Mount>>>,
    child_count: AtomicUsize,
}

impl Mount {
    fn new(fs: Arc<dyn Filesystem>, root: VnodeRef, zone: ZoneId, flags: MountFlags, source: &str) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let root_id = root.id();
        let partial = fs.root().id() != root_id;
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            fs,
            root,
            root_id,
            partial,
            zone,
            flags: AtomicU32::new(flags.bits()),
            is_fixed: AtomicBool::new(false),
            source: source.into(),
            covered: SpinLock::new(Class::MountTree, None),
            children: SpinLock::new(Class::MountTree, BTreeMap::new()),
            child_count: AtomicUsize::new(0),
        })
    }
    /// Its number in `/proc/self/mountinfo`.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }
    /// The zone it belongs to.
    #[must_use]
    pub const fn zone(&self) -> ZoneId {
        self.zone
    }
    /// What is mounted.
    #[must_use]
    pub fn fs(&self) -> &Arc<dyn Filesystem> {
        &self.fs
    }
    /// Its topmost directory.
    #[must_use]
    pub const fn root(&self) -> &VnodeRef {
        &self.root
    }
    /// Options.
    #[must_use]
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }
    /// True if nothing may be changed through this mount.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.flags().contains(MountFlags::READ_ONLY)
    }
    /// Makes it one that only the operator can unmount.
    pub fn fix(&self) {
        self.is_fixed.store(true, Ordering::Relaxed);
    }
    /// What was given as the source.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }
    pub(crate) const fn is_partial(&self) -> bool {
        self.partial
    }
    /// The place it covers; `None` for the root of all and for what has been unmounted.
    pub(crate) fn covered(&self) -> Option<Place> {
        let guard = self.covered.lock();
        let covered = guard.as_ref()?;
        Some(Place { mount: covered.mount.upgrade()?, vnode: Arc::clone(&covered.vnode) })
    }
    fn child_at(&self, id: NodeId) -> Option<Arc<Self>> {
        if self.child_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.children.lock().get(&id).cloned()
    }
    /// True if something is mounted on the vnode `id` of this mount.
    pub(crate) fn is_mount_point(&self, id: NodeId) -> bool {
        self.child_count.load(Ordering::Acquire) != 0 && self.children.lock().contains_key(&id)
    }
    fn attach(self: &Arc<Self>, at: VnodeRef, child: Arc<Self>) -> Result<()> {
        let id = at.id();
        *child.covered.lock() = Some(Covered { mount: Arc::downgrade(self), vnode: at });
        let mut children = self.children.lock();
        if children.contains_key(&id) {
            return Err(VfsError::Busy);
        }
        children.insert(id, child);
        self.child_count.store(children.len(), Ordering::Release);
        Ok(())
    }
    /// Takes `self` off what it covers. Fails if anybody but `holders` handles and the tree itself holds it, unless `lazy`.
    fn detach(self: &Arc<Self>, holders: usize, lazy: bool) -> Result<()> {
        let place = self.covered().ok_or(VfsError::Invalid)?;
        let id = place.vnode.id();
        let mut children = place.mount.children.lock();
        if !lazy && Arc::strong_count(self) > holders + 1 {
            return Err(VfsError::Busy);
        }
        // Somebody else may have detached it, and mounted another there, since it was looked up.
        if !children.get(&id).is_some_and(|mount| Arc::ptr_eq(mount, self)) {
            return Err(VfsError::Invalid);
        }
        let removed = children.remove(&id);
        place.mount.child_count.store(children.len(), Ordering::Release);
        drop(children);
        drop(removed);
        let covered = self.covered.lock().take();
        drop(covered);
        Ok(())
    }
    fn children(&self) -> Vec<Arc<Self>> {
        self.children.lock().values().cloned().collect()
    }
}

/// A position in the tree of mounts: a vnode and the mount through which it is seen.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "vnodes do not print")]
pub struct Place {
    pub mount: Arc<Mount>,
    pub vnode: VnodeRef,
}

impl Place {
    /// True if both are the same object seen through the same mount.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && self.vnode.id() == other.vnode.id()
    }
    /// True at the topmost directory of its mount.
    #[must_use]
    pub fn is_mount_root(&self) -> bool {
        self.vnode.id() == self.mount.root_id
    }
    /// The place that is seen here once mounts on top are followed.
    #[must_use]
    pub fn cross(mut self) -> Self {
        while let Some(child) = self.mount.child_at(self.vnode.id()) {
            let vnode = Arc::clone(&child.root);
            self = Self { mount: child, vnode };
        }
        self
    }
    /// A place for an object that no directory names.
    #[must_use]
    pub fn anonymous(vnode: VnodeRef) -> Self {
        Self { mount: anonymous_mount(), vnode }
    }
    /// True for places made by [`Place::anonymous`].
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        Arc::ptr_eq(&self.mount, &anonymous_mount())
    }
    /// The topmost directory of the zone it belongs to.
    #[must_use]
    pub fn zone_root(&self) -> Self {
        let mut mount = Arc::clone(&self.mount);
        while let Some(below) = mount.covered()
            && below.mount.zone == self.mount.zone
        {
            mount = below.mount;
        }
        let vnode = Arc::clone(&mount.root);
        Self { mount, vnode }
    }
    /// Space of its file system.
    ///
    /// # Errors
    /// The medium failed.
    pub fn statfs(&self) -> Result<StatFs> {
        self.mount.fs.statfs()
    }
}

/// The file system of objects without a name.
struct Anonymous;
/// Its root, which nobody can reach by a path.
struct AnonymousRoot;

impl Filesystem for Anonymous {
    fn kind(&self) -> &'static str {
        "anon"
    }
    fn root(&self) -> VnodeRef {
        // Every handle is the same object: it is its number.
        Arc::new(AnonymousRoot)
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: 0x0904_1934, block_bytes: 4096, ..StatFs::default() })
    }
}
impl Vnode for AnonymousRoot {
    fn id(&self) -> NodeId {
        NodeId { fs: ANONYMOUS_FS, ino: 0 }
    }
    fn kind(&self) -> Kind {
        Kind::Anonymous
    }
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::simple(self.id(), Kind::Anonymous, 0o600))
    }
}

fn anonymous_mount() -> Arc<Mount> {
    static MOUNT: OnceBox<Arc<Mount>> = OnceBox::new();
    Arc::clone(MOUNT.get_or_init(|| {
        let fs = Arc::new(Anonymous);
        let root = fs.root();
        Box::new(Mount::new(fs, root, ZoneId::GLOBAL, MountFlags::empty(), "anon"))
    }))
}

/// Makes `fs` the root of a tree of its own: the kernel's root at boot.
#[must_use]
pub fn mount_root(fs: Arc<dyn Filesystem>, source: &str) -> Place {
    let root = fs.root();
    let mount = Mount::new(fs, Arc::clone(&root), ZoneId::GLOBAL, MountFlags::empty(), source);
    Place { mount, vnode: root }
}

/// Mounts `fs` on `at`. Whether the caller may is for the system-call layer to say; the new mount belongs to the zone of the
/// mount below it.
///
/// # Errors
/// Not both directories or both non-directories; somebody was faster.
pub fn mount(at: &Place, fs: Arc<dyn Filesystem>, source: &str, flags: MountFlags) -> Result<Place> {
    let root = fs.root();
    let zone = at.mount.zone;
    graft(at, fs, root, zone, source, flags)
}

/// Mounts what is at `from` also on `at` (lofs). Mounts inside `from` do not come along.
///
/// # Errors
/// As [`mount`].
pub fn bind(at: &Place, from: &Place, source: &str, flags: MountFlags) -> Result<Place> {
    graft(at, Arc::clone(&from.mount.fs), Arc::clone(&from.vnode), at.mount.zone, source, flags)
}

/// Starts the tree of `zone` at the directory `at`: binds it onto itself as a mount of that zone. The result is the root directory of the
/// zone's processes.
///
/// # Errors
/// As [`mount`].
pub fn make_zone_root(at: &Place, zone: ZoneId, source: &str) -> Result<Place> {
    if at.vnode.kind() != Kind::Directory {
        return Err(VfsError::NotDirectory);
    }
    graft(at, Arc::clone(&at.mount.fs), Arc::clone(&at.vnode), zone, source, MountFlags::NODEV)
}

fn graft(
    at: &Place,
    fs: Arc<dyn Filesystem>,
    root: VnodeRef,
    zone: ZoneId,
    source: &str,
    flags: MountFlags,
) -> Result<Place> {
    if at.is_anonymous() {
        return Err(VfsError::Invalid);
    }
    if (at.vnode.kind() == Kind::Directory) != (root.kind() == Kind::Directory) {
        return Err(VfsError::NotDirectory);
    }
    let at = at.clone().cross();
    let mount = Mount::new(fs, Arc::clone(&root), zone, flags, source);
    at.mount.attach(at.vnode, Arc::clone(&mount))?;
    Ok(Place { mount, vnode: root })
}

/// Changes the options of the mount whose root is at `place`.
///
/// # Errors
/// Not the root of a mount.
pub fn remount(place: &Place, flags: MountFlags) -> Result<()> {
    if !place.is_mount_root() {
        return Err(VfsError::Invalid);
    }
    place.mount.flags.store(flags.bits(), Ordering::Relaxed);
    Ok(())
}

/// Changes the options of every mount below `root` that `is_ours`.
pub fn remount_those(root: &Place, is_ours: impl Fn(&Mount) -> bool, flags: MountFlags) {
    let mut found = Vec::new();
    collect(&root.mount, &mut found);
    for mount in found.iter().filter(|mount| is_ours(mount)) {
        mount.flags.store(flags.bits(), Ordering::Relaxed);
    }
}

/// Unmounts what is mounted at `path`. A caller in a zone may not unmount its root, nor what the operator mounted for it.
///
/// # Errors
/// Not a mount point; busy (open files, working directories, mounts inside), unless `lazy`.
pub fn unmount(cx: &Cx<'_>, path: &[u8], lazy: bool) -> Result<()> {
    let place = walk::lookup(cx, None, path, walk::Follow::Yes)?;
    if !place.is_mount_root() || place.is(cx.root) {
        return Err(VfsError::Invalid);
    }
    if !cx.cred.is_privileged() {
        return Err(VfsError::NotPermitted);
    }
    let below = place.mount.covered().ok_or(VfsError::Invalid)?;
    let is_fixed = place.mount.is_fixed.load(Ordering::Relaxed);
    if cx.cred.zone != ZoneId::GLOBAL && (is_fixed || below.mount.zone != cx.cred.zone) {
        return Err(VfsError::NotPermitted);
    }
    if !lazy && place.mount.child_count.load(Ordering::Acquire) != 0 {
        return Err(VfsError::Busy);
    }
    drop(below);
    place.mount.detach(1, lazy)
}

/// Unmounts every mount below `root` that `is_ours`, deepest first, without walking to it: its file system, or the one below, may be beyond reading.
///
/// # Errors
/// One that is busy, by its source; those that were deeper are unmounted.
pub fn unmount_those(root: &Place, is_ours: impl Fn(&Mount) -> bool) -> core::result::Result<(), (String, VfsError)> {
    let mut found = Vec::new();
    collect(&root.mount, &mut found);
    while let Some(mount) = found.pop() {
        if !is_ours(&mount) {
            continue;
        }
        if mount.child_count.load(Ordering::Acquire) != 0 {
            return Err((mount.source.clone(), VfsError::Busy));
        }
        mount.detach(1, false).map_err(|error| (mount.source.clone(), error))?;
    }
    Ok(())
}

/// Unmounts every mount of `zone` below `root`, deepest first, busy or not: a halt always ends. Returns how many there
/// were and how many of them were still held by somebody (for the log).
pub fn unmount_zone(root: &Place, zone: ZoneId) -> (usize, usize) {
    let mut found = Vec::new();
    collect(&root.mount, &mut found);
    let (mut count, mut held) = (0, 0);
    // Parents come before children in `found`.
    while let Some(mount) = found.pop() {
        if mount.zone != zone {
            continue;
        }
        if Arc::strong_count(&mount) > 2 {
            held += 1;
        }
        if mount.detach(1, true).is_ok() {
            count += 1;
        }
    }
    (count, held)
}

fn collect(mount: &Arc<Mount>, found: &mut Vec<Arc<Mount>>) {
    let mut index = found.len();
    found.push(Arc::clone(mount));
    while index < found.len() {
        let children = found[index].children();
        found.extend(children);
        index += 1;
    }
}

/// One line of `/proc/mounts`.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "holds a mount")]
pub struct MountLine {
    pub mount: Arc<Mount>,
    /// The parent's id (0 for the topmost visible one).
    pub parent_id: u64,
    /// Where, as seen from the given root.
    pub path: Vec<u8>,
}

/// Makes everything durable that was written below `root`'s mount. All file systems are tried.
///
/// # Errors
/// The first that failed.
pub fn sync_all(root: &Place) -> Result<()> {
    let mut found = Vec::new();
    collect(&root.mount, &mut found);
    let mut result = Ok(());
    for mount in found {
        result = result.and(mount.fs().sync_now());
    }
    result
}

/// The mounts visible below `root`, the root's own first.
#[must_use]
pub fn list(root: &Place) -> Vec<MountLine> {
    let mut found = Vec::new();
    collect(&root.mount, &mut found);
    let mut lines: Vec<MountLine> = Vec::new();
    for (index, mount) in found.into_iter().enumerate() {
        if index == 0 {
            lines.push(MountLine { mount, parent_id: 0, path: b"/".to_vec() });
            continue;
        }
        let Some(covered) = mount.covered() else { continue };
        let Some(path) = walk::path_of(&covered, root) else { continue };
        lines.push(MountLine { parent_id: covered.mount.id, mount, path });
    }
    lines
}
