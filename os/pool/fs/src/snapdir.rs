//! `.zfs/snapshot`: the snapshots of a mounted file system as directories to be read.
//!
//! The root of every mounted file system has an entry `.zfs`, which only those see who know it (`snapdir=hidden`) or everybody. Below `.zfs/snapshot` each
//! snapshot is there by its name, without a mount of its own: its nodes are of a file system number of their own, and nothing in them can be changed. A
//! snapshot that is destroyed while a file of it is open answers "no such file" from then on: whose dataset its number names is looked at with each read.
//!
//! # Limits
//! What was read of [`KNOWN_MAX`] snapshots stays known, of all pools together; of others only while somebody has a file of them open.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use pool_zpl::Volume;
use sync::SpinLock;
use vfs::{Attr, DirEntry, Kind, NodeId, Result, VfsError, Vnode, VnodeRef};

use crate::Storage;
use crate::node::Node;
use crate::storage::{Contents, Shared};

/// Name of the directory in the root of a file system.
pub(crate) const NAME: &[u8] = b".zfs";
const LIST: &[u8] = b"snapshot";
/// Object numbers that OpenZFS gives them: those of files have fewer bits set.
pub(crate) const OWN: u64 = 0xFFFF_FFFF_FFFF;
const LIST_OWN: u64 = 0xFFFF_FFFF_FFFD;
/// Snapshots of which nodes and tables stay in memory although nobody uses them.
const KNOWN_MAX: usize = 16;

/// A snapshot that was looked up.
struct Known {
    shared: Weak<Shared>,
    pool: Weak<Storage>,
    dataset: u64,
}

/// Those that were looked up and not let go of, the last one asked for behind.
static KNOWN: SpinLock<VecDeque<Known>> = SpinLock::new(sync::Class::PoolNodes, VecDeque::new());

/// A snapshot was asked for. Lets go of what nobody needs any more, and of the oldest ones where there are many.
fn note(shared: &Arc<Shared>) {
    let many = {
        let mut known = KNOWN.lock();
        // Of exported pools there is nothing left to let go of.
        known.retain(|one| one.pool.strong_count() > 0);
        match known.iter().position(|one| core::ptr::eq(one.shared.as_ptr(), Arc::as_ptr(shared))) {
            Some(at) => {
                let one = known.remove(at);
                known.extend(one);
                return;
            }
            None => known.push_back(Known { shared: Arc::downgrade(shared), pool: Arc::downgrade(&shared.storage), dataset: shared.dataset }),
        }
        let surplus = known.len().saturating_sub(KNOWN_MAX);
        known.iter().take(surplus).map(|one| Weak::clone(&one.shared)).collect::<Vec<_>>()
    };
    // Its nodes know it, and it them. Who has one open keeps that, and the place in the list.
    for shared in many {
        if let Some(shared) = shared.upgrade() {
            shared.let_go();
        }
    }
    let gone: VecDeque<Known> = {
        let mut known = KNOWN.lock();
        let (gone, kept) = core::mem::take(&mut *known).into_iter().partition(|one| one.shared.strong_count() == 0);
        *known = kept;
        gone
    };
    for one in gone {
        let Some(pool) = one.pool.upgrade() else { continue };
        if !pool.shared().iter().any(|shared| shared.dataset == one.dataset) {
            // Of an exported pool there is nothing left to let go of.
            let _exported = pool.edit(|store| {
                store.let_go_of_snapshot(one.dataset);
                Ok(())
            });
        }
    }
}

/// What a snapshot is known by, beside its dataset's number: that may become another's.
pub(crate) struct Snapshot {
    pub guid: u64,
    name: String,
    list: Arc<SnapDir>,
    /// Its tables, while nobody reads by them.
    pub volume: SpinLock<Option<Volume>>,
}

impl Snapshot {
    /// The directory that its root is in, and its name there.
    pub fn above(&self) -> (VnodeRef, Box<[u8]>) {
        (Arc::clone(&self.list) as VnodeRef, self.name.as_bytes().into())
    }

    /// It is reached through this mounted file system.
    pub fn is_below(&self, head: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.list.head, head)
    }
}

/// `.zfs`, or `.zfs/snapshot`.
pub(crate) struct SnapDir {
    head: Arc<Shared>,
    root: VnodeRef,
    is_list: bool,
}

impl SnapDir {
    /// `.zfs` of a file system, whose root directory is `root`.
    pub fn open(head: &Arc<Shared>, root: VnodeRef) -> VnodeRef {
        Arc::new(Self { head: Arc::clone(head), root, is_list: false })
    }

    fn list(&self) -> Arc<Self> {
        Arc::new(Self { head: Arc::clone(&self.head), root: Arc::clone(&self.root), is_list: true })
    }

    fn snapshots(&self) -> Result<Vec<(String, u64)>> {
        self.head.storage.edit(|store| store.snapshots_of(self.head.dataset))?.map_err(|error| crate::error::convert(&error))
    }

    /// The root directory of a snapshot.
    fn snapshot(&self, name: &[u8]) -> Result<VnodeRef> {
        let name = core::str::from_utf8(name).map_err(|_| VfsError::NotFound)?;
        let (dataset, guid) = self.head.storage.with(|store| {
            let dataset = store.snapshot_of(self.head.dataset, name)?;
            Ok((dataset, store.dataset_guid(dataset)?))
        })?;
        let known = self.head.storage.shared().into_iter().find(|shared| {
            shared.dataset == dataset && shared.snapshot.as_ref().is_some_and(|snapshot| snapshot.guid == guid && snapshot.name == name && snapshot.is_below(&self.head))
        });
        let shared = known.unwrap_or_else(|| {
            let snapshot = Snapshot { guid, name: String::from(name), list: self.list(), volume: SpinLock::new(sync::Class::PoolNodes, None) };
            self.head.storage.share_as(dataset, Contents::Files, Some(snapshot))
        });
        let root = shared.read(|writer| Ok(writer.root()))?;
        note(&shared);
        Ok(Node::open_root(&shared, root))
    }
}

impl Vnode for SnapDir {
    fn id(&self) -> NodeId {
        NodeId { fs: self.head.id, ino: if self.is_list { LIST_OWN } else { OWN } }
    }
    fn kind(&self) -> Kind {
        Kind::Directory
    }
    fn attr(&self) -> Result<Attr> {
        let root = self.root.attr()?;
        Ok(Attr { nlink: 2, atime: root.ctime, mtime: root.ctime, ctime: root.ctime, ..Attr::simple(self.id(), Kind::Directory, 0o555) })
    }
    fn lookup(&self, name: &[u8]) -> Result<VnodeRef> {
        match (self.is_list, name) {
            (true, name) => self.snapshot(name),
            (false, LIST) => Ok(self.list()),
            (false, _) => Err(VfsError::NotFound),
        }
    }
    fn parent(&self) -> Result<(VnodeRef, Box<[u8]>)> {
        if self.is_list { Ok((Self::open(&self.head, Arc::clone(&self.root)), LIST.into())) } else { Ok((Arc::clone(&self.root), NAME.into())) }
    }
    fn readdir(&self, cookie: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let above = if self.is_list { OWN } else { self.root.id().ino };
        let mut entries: Vec<(Vec<u8>, u64)> = [(b".".to_vec(), self.id().ino), (b"..".to_vec(), above)].into();
        if self.is_list {
            entries.extend(self.snapshots()?.into_iter().map(|(name, dataset)| (name.into_bytes(), dataset)));
        } else {
            entries.push((LIST.to_vec(), LIST_OWN));
        }
        let skip = usize::try_from(cookie).unwrap_or(usize::MAX);
        for (next, (name, ino)) in (1..).zip(entries).skip(skip) {
            if !emit(DirEntry { name: &name, ino, kind: Kind::Directory, next }) {
                return Ok(());
            }
        }
        Ok(())
    }
}
