//! An imported pool and its mounted file systems.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use kif::{Nanos, PAGE_SIZE, ZoneId};
use pool_dmu::{ScanKind, ScanReport, Store};
use pool_dmu::edit::EditError;
use pool_zpl::{Volume, Writer};
use sync::{Class, Mutex, SpinLock, WaitQueue};
use vfs::mount::{Filesystem, next_fs_id};
use vfs::{Result, StatFs, VfsError, VnodeRef};

use crate::error::convert;
use crate::node::Node;

/// How long a change waits for its commit at most.
pub const COMMIT_INTERVAL: Nanos = Nanos(5_000_000_000);
/// Changed bytes after which a writer commits at once: what bounds the memory of an open group.
const DIRTY_MAX: u64 = 16 << 20;
/// Free memory below which changes are refused.
const MEMORY_MIN: u64 = 8 << 20;
/// Blocks of a scan between two looks at what else is to be done.
const SCAN_BLOCKS: u64 = 64;
/// Nodes kept although nobody holds them.
const RECENT_MAX: usize = 1024;
/// `f_type` of ZFS.
const MAGIC: u64 = 0x2fc1_2fc1;

pub(crate) struct Inner {
    store: Store,
    volumes: BTreeMap<u64, Volume>,
    /// Bytes written since the last commit, roughly; 0: nothing to commit.
    dirty: u64,
}

/// An imported pool.
#[allow(missing_debug_implementations, reason = "printing would take the lock")]
pub struct Storage {
    name: String,
    inner: Mutex<Option<Inner>>,
    suspended: AtomicBool,
    mounted: SpinLock<Vec<Weak<Shared>>>,
    /// Pages of files kept in memory.
    pub(crate) pages: AtomicU64,
    stop: AtomicBool,
    is_scanning: AtomicBool,
    last_scan: SpinLock<Option<(ScanKind, ScanReport)>>,
    ticker: WaitQueue,
}

/// Seconds since 1970, and the rest in nanoseconds.
pub(crate) fn now() -> (u64, u64) {
    let now = kif::clock().realtime().0;
    (now / 1_000_000_000, now % 1_000_000_000)
}

impl Storage {
    /// Takes a store into use: from now on its changes are committed every [`COMMIT_INTERVAL`].
    ///
    /// # Errors
    /// No memory for the thread.
    pub fn start(store: Store) -> core::result::Result<Arc<Self>, kif::OutOfMemory> {
        let name = store.name();
        let storage = Arc::new(Self {
            name,
            inner: Mutex::new(Class::Pool, Some(Inner { store, volumes: BTreeMap::new(), dirty: 1 })),
            suspended: AtomicBool::new(false),
            mounted: SpinLock::new(Class::PoolNodes, Vec::new()),
            pages: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            is_scanning: AtomicBool::new(false),
            last_scan: SpinLock::new(Class::PoolNodes, None),
            ticker: WaitQueue::new(),
        });
        let committer = Arc::clone(&storage);
        kif::spawn().spawn("txg", ZoneId::GLOBAL, Box::new(move || committer.run()))?;
        Ok(storage)
    }

    /// Name of the pool.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if a device refused a write: nothing is written any more until the pool is imported again.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended.load(Relaxed)
    }

    /// Commits what is open until the pool is exported.
    fn run(&self) {
        while !self.stop.load(Relaxed) {
            let deadline = kif::clock().monotonic().plus(COMMIT_INTERVAL);
            // Nobody but `export` wakes it: the usual end is the deadline.
            let woken = || (self.stop.load(Relaxed) || self.is_scanning.load(Relaxed)).then_some(());
            if self.ticker.wait_until(deadline, woken).is_ok() && self.stop.load(Relaxed) {
                return;
            }
            if self.is_scanning.load(Relaxed) {
                self.scan();
                continue;
            }
            if let Err(error) = self.sync() {
                kif::log().line(format_args!("pool {}: commit failed: {error:?}", self.name));
            }
        }
    }

    /// Takes the next steps of a scrub or resilver, letting others in between.
    fn scan(&self) {
        let step = self.with_inner(|inner| {
            let kind = inner.store.scan().map(|(kind, _)| kind);
            Ok((kind, inner.store.scan_step(SCAN_BLOCKS, now().0)?))
        });
        match step {
            Ok((Some(kind), report)) => {
                *self.last_scan.lock() = Some((kind, report));
                self.is_scanning.store(!report.done, Relaxed);
            }
            Ok((None, _)) => self.is_scanning.store(false, Relaxed),
            Err(error) => {
                self.is_scanning.store(false, Relaxed);
                kif::log().line(format_args!("pool {}: the scan ended: {error:?}", self.name));
            }
        }
        kif::spawn().yield_now();
    }

    /// Looks whether there is a scan to be done.
    pub(crate) fn wake(&self) {
        let scan = self.with_inner(|inner| Ok(inner.store.scan())).unwrap_or(None);
        if scan.is_some() {
            *self.last_scan.lock() = scan;
        }
        self.is_scanning.store(scan.is_some(), Relaxed);
        self.ticker.wake_all();
    }

    /// What the scan under way or the last one did, in words.
    pub(crate) fn scan_line(&self) -> String {
        let Some((kind, report)) = *self.last_scan.lock() else { return String::from("none requested") };
        let (doing, done) = match kind {
            ScanKind::Scrub => ("scrub in progress", "scrub repaired"),
            ScanKind::Resilver => ("resilver in progress", "resilvered"),
        };
        if report.done {
            format!("{done} {} places of {} blocks, {} errors", report.repaired, report.blocks, report.errors)
        } else {
            format!("{doing}: {} blocks, {} bytes so far, {} repaired", report.blocks, report.bytes, report.repaired)
        }
    }

    /// What is known of file systems that are mounted or were.
    fn shared(&self) -> Vec<Arc<Shared>> {
        self.mounted.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// True if file system `dataset` is mounted.
    pub(crate) fn has_mounted(&self, dataset: u64) -> bool {
        self.shared().iter().any(|shared| shared.dataset == dataset && shared.is_mounted.load(Relaxed))
    }

    /// Forgets what was read of file system `dataset`, which is not mounted and changes by other means than its files.
    pub(crate) fn forget(&self, dataset: u64) {
        self.mounted.lock().retain(|shared| shared.upgrade().is_some_and(|shared| shared.dataset != dataset));
        if let Some(inner) = self.inner.lock().as_mut() {
            inner.volumes.remove(&dataset);
        }
    }

    /// Lets go of the devices without a commit.
    pub(crate) fn abandon(&self) {
        drop(self.inner.lock().take());
        self.stop.store(true, Relaxed);
        self.ticker.wake_all();
    }

    /// Calls `body` with the store.
    ///
    /// # Errors
    /// The pool was exported ([`VfsError::NoDevice`]), is suspended, or what `body` says.
    pub fn with<R>(&self, body: impl FnOnce(&mut Store) -> core::result::Result<R, EditError>) -> Result<R> {
        self.with_inner(|inner| body(&mut inner.store))
    }

    /// Calls `body` with the store, for callers that say in words why it was refused: its own error comes back.
    ///
    /// # Errors
    /// The pool was exported or is suspended, or there is no memory for its work: `body` was not called.
    pub(crate) fn edit<R>(&self, body: impl FnOnce(&mut Store) -> core::result::Result<R, EditError>) -> Result<core::result::Result<R, EditError>> {
        self.run_on(|inner| body(&mut inner.store))
    }

    fn with_inner<R>(&self, body: impl FnOnce(&mut Inner) -> core::result::Result<R, EditError>) -> Result<R> {
        let result = self.run_on(body)?;
        if let Err(EditError::Write(error)) = &result
            && !self.suspended.swap(true, Relaxed)
        {
            kif::log().line(format_args!("pool {}: a device refuses writes ({error}); the pool is suspended", self.name));
        }
        result.map_err(|error| convert(&error))
    }

    fn run_on<R>(&self, body: impl FnOnce(&mut Inner) -> core::result::Result<R, EditError>) -> Result<core::result::Result<R, EditError>> {
        let mut inner = self.inner.lock();
        let inner = inner.as_mut().ok_or(VfsError::NoDevice)?;
        if self.is_suspended() {
            return Err(VfsError::Io);
        }
        // The pool's code works with blocks on its stack.
        let mut body = Some(body);
        let mut result = None;
        let called = kif::spawn().on_large_stack(&mut || result = body.take().map(|body| body(inner)));
        match (called, result) {
            (Ok(()), Some(result)) => Ok(result),
            _ => Err(VfsError::NoMemory),
        }
    }

    /// Calls `body` for reading file system `dataset`.
    pub(crate) fn read<R>(&self, dataset: u64, body: impl FnOnce(&mut Writer<'_>) -> core::result::Result<R, EditError>) -> Result<R> {
        self.with_inner(|inner| inner.on(dataset, body))
    }

    /// Calls `body` for changing file system `dataset` by about `bytes`, then commits if much is open.
    pub(crate) fn change<R>(&self, dataset: u64, bytes: u64, body: impl FnOnce(&mut Writer<'_>) -> core::result::Result<R, EditError>) -> Result<R> {
        if kif::frames().free_total().0 * (PAGE_SIZE as u64) < MEMORY_MIN + bytes {
            return Err(VfsError::NoMemory);
        }
        self.with_inner(|inner| {
            inner.check_space(bytes)?;
            let result = inner.on(dataset, body);
            inner.dirty += bytes + 512;
            if inner.dirty > DIRTY_MAX {
                inner.commit()?;
            }
            result
        })
    }

    /// Commits everything that was changed so far.
    ///
    /// # Errors
    /// A device failed.
    pub fn sync(&self) -> Result<()> {
        if self.is_suspended() {
            return Ok(());
        }
        for shared in self.shared() {
            shared.write_back()?;
        }
        self.with_inner(|inner| if inner.dirty > 0 { inner.commit() } else { Ok(()) })
    }

    /// Makes all changes of file system `dataset` durable: by the intent log where that is enough, else by a commit.
    ///
    /// # Errors
    /// A device failed.
    pub(crate) fn log(&self, dataset: u64) -> Result<()> {
        self.with_inner(|inner| inner.store.log_sync(dataset, now().0))
    }

    /// True if file systems of the pool are mounted.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.shared().iter().any(|shared| shared.is_mounted.load(Relaxed))
    }

    /// Commits and gives the devices back. Nothing works on the pool afterwards.
    ///
    /// # Errors
    /// Something is mounted ([`VfsError::Busy`]); a device failed.
    pub fn export(&self) -> Result<()> {
        if self.is_busy() {
            return Err(VfsError::Busy);
        }
        self.sync()?;
        let mut inner = self.inner.lock();
        let mut open = inner.take().ok_or(VfsError::NoDevice)?;
        open.store.export(now().0).map_err(|error| convert(&error))?;
        self.stop.store(true, Relaxed);
        self.ticker.wake_all();
        Ok(())
    }

    /// Opens file system `dataset` for mounting, and frees what lost its last name before a crash.
    ///
    /// # Errors
    /// Not a file system we can write; unreadable.
    pub fn mount(self: &Arc<Self>, dataset: u64, read_only: bool) -> Result<Arc<Mounted>> {
        if self.with(|store| store.is_inconsistent(dataset))? {
            // A receive that is not done: what there is of it is no file system yet.
            return Err(VfsError::Busy);
        }
        let root = self.read(dataset, |writer| {
            if !read_only {
                writer.drain_unlinked()?;
            }
            Ok(writer.root())
        })?;
        let known = self.mounted.lock().iter().filter_map(Weak::upgrade).find(|shared| shared.dataset == dataset);
        let shared = known.unwrap_or_else(|| {
            let shared = Arc::new(Shared {
                storage: Arc::clone(self),
                dataset,
                id: next_fs_id(),
                nodes: SpinLock::new(Class::PoolNodes, BTreeMap::new()),
                recent: SpinLock::new(Class::PoolNodes, VecDeque::new()),
                written: SpinLock::new(Class::PoolNodes, BTreeMap::new()),
                orphans: SpinLock::new(Class::PoolNodes, Vec::new()),
                is_mounted: AtomicBool::new(false),
            });
            let mut mounted = self.mounted.lock();
            mounted.retain(|shared| shared.strong_count() > 0);
            mounted.push(Arc::downgrade(&shared));
            shared
        });
        if shared.is_mounted.swap(true, Relaxed) {
            return Err(VfsError::Busy);
        }
        Ok(Arc::new(Mounted { shared, root }))
    }
}

impl Inner {
    fn on<R>(&mut self, dataset: u64, body: impl FnOnce(&mut Writer<'_>) -> core::result::Result<R, EditError>) -> core::result::Result<R, EditError> {
        let volume = match self.volumes.remove(&dataset) {
            Some(volume) => volume,
            None => Volume::open(&mut self.store, dataset)?,
        };
        let mut writer = Writer::resume(&mut self.store, volume);
        let result = body(&mut writer);
        let volume = writer.into_volume();
        self.volumes.insert(dataset, volume);
        result
    }

    /// Refuses a change that the next commit might have no room for: the open group, thrice for its metadata and copies, and a slop.
    fn check_space(&self, bytes: u64) -> core::result::Result<(), EditError> {
        let (free, total) = self.store.free_total();
        let slop = (total / 32).max(4 << 20);
        if free < slop + 3 * (self.dirty + bytes) { Err(EditError::NoSpace) } else { Ok(()) }
    }

    fn commit(&mut self) -> core::result::Result<(), EditError> {
        self.store.commit(now().0)?;
        self.dirty = 0;
        Ok(())
    }
}

/// What all nodes of a file system share.
pub(crate) struct Shared {
    pub storage: Arc<Storage>,
    pub dataset: u64,
    pub id: u64,
    nodes: SpinLock<BTreeMap<u64, Weak<Node>>>,
    /// Nodes kept for the next user, oldest first.
    recent: SpinLock<VecDeque<Arc<Node>>>,
    /// Nodes with pages that a mapping may have changed: they stay until those are in the store.
    written: SpinLock<BTreeMap<u64, Arc<Node>>>,
    /// Objects whose last user went after their last name.
    orphans: SpinLock<Vec<u64>>,
    is_mounted: AtomicBool,
}

impl Shared {
    /// Keeps a node, from now on until [`Self::is_clean`], whether somebody else has it or not.
    pub fn keep(&self, node: Arc<Node>) {
        let before = self.written.lock().insert(node.object(), node);
        drop(before);
    }

    /// What a mapping changed in the node is in the store.
    pub fn is_clean(&self, object: u64) {
        let node = self.written.lock().remove(&object);
        drop(node);
    }

    /// The node of an object, if somebody has it.
    pub fn known(&self, object: u64) -> Option<Arc<Node>> {
        self.nodes.lock().get(&object).and_then(Weak::upgrade)
    }

    /// The node of an object: the one that is there, or what `make` gives. The caller holds the pool, so that there is one node at most.
    pub fn node(&self, object: u64, make: impl FnOnce() -> Arc<Node>) -> Arc<Node> {
        if let Some(node) = self.known(object) {
            return node;
        }
        let node = make();
        self.nodes.lock().insert(object, Arc::downgrade(&node));
        let oldest = {
            let mut recent = self.recent.lock();
            recent.push_back(Arc::clone(&node));
            if recent.len() > RECENT_MAX { recent.pop_front() } else { None }
        };
        drop(oldest);
        node
    }

    /// Lets go of a node that lost its last name.
    pub fn forget(&self, object: u64) {
        let gone: VecDeque<Arc<Node>> = {
            let mut recent = self.recent.lock();
            let (gone, kept) = core::mem::take(&mut *recent).into_iter().partition(|node: &Arc<Node>| node.object() == object);
            *recent = kept;
            gone
        };
        drop(gone);
    }

    /// A node's end: its place in the table goes unless a newer node has it.
    pub fn ended(&self, object: u64, unlinked: bool) {
        let mut nodes = self.nodes.lock();
        if nodes.get(&object).is_some_and(|node| node.strong_count() == 0) {
            nodes.remove(&object);
        }
        drop(nodes);
        if unlinked {
            self.orphans.lock().push(object);
        }
    }

    /// Frees objects that lost name and users.
    pub fn reap(&self) -> Result<()> {
        let orphans = core::mem::take(&mut *self.orphans.lock());
        for object in orphans {
            let gone = self.storage.change(self.dataset, 4096, |writer| writer.reap(object));
            if gone != Err(VfsError::NotFound) {
                gone?;
            }
        }
        Ok(())
    }

    /// Copies pages that mappings may have changed to the store.
    fn write_back(&self) -> Result<()> {
        let nodes: Vec<Arc<Node>> = self.written.lock().values().cloned().collect();
        for node in nodes {
            node.write_back()?;
        }
        self.reap()
    }

    /// Gives pages of nodes nobody else uses back, oldest first, until `enough` says so.
    pub fn shrink(&self, enough: &dyn Fn() -> bool) {
        for _ in 0..RECENT_MAX {
            if enough() {
                return;
            }
            let Some(oldest) = self.recent.lock().pop_front() else { return };
            drop(oldest);
        }
    }
}

/// A mounted file system.
#[allow(missing_debug_implementations, reason = "holds locks")]
pub struct Mounted {
    shared: Arc<Shared>,
    root: u64,
}

impl Mounted {
    /// Object number of its dataset.
    #[must_use]
    pub fn dataset(&self) -> u64 {
        self.shared.dataset
    }
}

impl Filesystem for Mounted {
    fn kind(&self) -> &'static str {
        "zfs"
    }
    fn root(&self) -> VnodeRef {
        Node::open_root(&self.shared, self.root)
    }
    fn statfs(&self) -> Result<StatFs> {
        let (free, total) = self.shared.storage.with(|store| Ok(store.free_total()))?;
        let block = 128 << 10;
        Ok(StatFs { magic: MAGIC, block_bytes: block, blocks: total / block, blocks_free: free / block, files: total / 512, files_free: free / 512 })
    }
    fn sync(&self) -> Result<()> {
        self.shared.storage.sync()
    }
}

impl Drop for Mounted {
    /// Unmounted: what it has in memory goes. Everything changed is in the open group or, for pages that were mapped, written back by the last users.
    fn drop(&mut self) {
        if let Err(error) = self.shared.write_back() {
            kif::log().line(format_args!("pool {}: unmounting: {error:?}", self.shared.storage.name()));
        }
        let written = core::mem::take(&mut *self.shared.written.lock());
        drop(written);
        self.shared.shrink(&|| false);
        self.shared.is_mounted.store(false, Relaxed);
    }
}

