//! Volumes as block devices: `/dev/zvol/POOL/NAME`.
//!
//! A name is looked up in the pool each time, so a volume is there as soon as it was made, under its name of now. Its device number is given out when somebody first
//! sees it, and stays as long as the pool is imported. While a volume is open it is not destroyed, rolled back or received into, nor is its pool exported.
//!
//! Its data is one object with pages like a file's (module `node`), kept after the last close: what is read and written is cached, throttled, read ahead and put into
//! the intent log as of a file. Which volumes a zone has is in module `zones`.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use kif::{Frame, ZoneId};
use pool_dmu::edit::EditError;
use pool_dmu::{DatasetKind, Datasets};
use pool_fair::queue::IoClass;
use pool_phys::nvlist::Value;
use pool_zpl::Zvol;
use sync::{Class, SpinLock};
use vfs::device::{self, Entry};
use vfs::{Attr, DevNo, Io, Kind, Lent, NodeId, OpenFlags, Result, SetAttr, VfsError, Vnode, VnodeRef};

use crate::node::Node;
use crate::storage::{Contents, now};
use crate::{Storage, gate, registry, zones};

/// Major number of volumes, as OpenZFS on Linux has it; 16 minors each.
const MAJOR: u32 = 230;
const MINORS: u32 = 16;
/// Sectors that a volume claims to have.
const SECTOR: u64 = 512;
/// `ioctl`s (`linux/fs.h`).
const BLKROGET: u32 = 0x125e;
const BLKGETSIZE: u32 = 0x1260;
const BLKFLSBUF: u32 = 0x1261;
const BLKSSZGET: u32 = 0x1268;
const BLKDISCARD: u32 = 0x1277;
const BLKIOMIN: u32 = 0x1278;
const BLKIOOPT: u32 = 0x1279;
const BLKALIGNOFF: u32 = 0x127a;
const BLKPBSZGET: u32 = 0x127b;
const BLKDISCARDZEROES: u32 = 0x127c;
const BLKROTATIONAL: u32 = 0x127e;
const BLKZEROOUT: u32 = 0x127f;
const BLKBSZGET: u32 = 0x8008_1270;
const BLKGETSIZE64: u32 = 0x8008_1272;

/// Volumes that have a device number, in order: pool and data set.
static NUMBERS: SpinLock<BTreeMap<u32, (String, u64)>> = SpinLock::new(Class::PoolNodes, BTreeMap::new());

/// Device number of a volume: the one it has, or the first that is free.
fn number(pool: &str, dataset: u64) -> DevNo {
    let name = String::from(pool);
    let mut numbers = NUMBERS.lock();
    let known = numbers.iter().find(|(_, (pool, number))| *number == dataset && *pool == name).map(|(index, _)| *index);
    let index = known.unwrap_or_else(|| {
        let free = numbers.keys().zip(0..).find(|(taken, index)| **taken != *index).map_or(numbers.len() as u32, |(_, index)| index);
        numbers.insert(free, (name, dataset));
        free
    });
    DevNo::new(MAJOR, index * MINORS)
}

/// Takes numbers back: of a whole pool, or of a volume that is gone.
pub(crate) fn forget(pool: &str, dataset: Option<u64>) {
    let gone: Vec<(String, u64)> = {
        let mut numbers = NUMBERS.lock();
        let indices: Vec<u32> = numbers.iter().filter(|(_, (name, number))| name == pool && dataset.is_none_or(|only| only == *number)).map(|(index, _)| *index).collect();
        indices.iter().filter_map(|index| numbers.remove(index)).collect()
    };
    drop(gone);
}

/// Names and data sets of all volumes of `pool` at and below `top`.
fn volumes(pool: &Storage, top: &str) -> Vec<(String, u64)> {
    let found = pool.with(|store| {
        let all = Datasets::open(store.pool())?.list(top)?.into_iter().filter(|info| info.kind == DatasetKind::Volume);
        all.map(|info| Ok((store.find(&info.name)?, info.name))).map(|pair| pair.map(|(number, name)| (name, number))).collect()
    });
    found.unwrap_or_default()
}

/// What a data set's name stands for: of a volume its number.
fn look(name: &str) -> Option<Entry> {
    let pool = registry::find(name)?;
    let found = pool.with(|store| Ok((Datasets::open(store.pool())?.find(name)?.kind, store.find(name)?)));
    match found.ok()? {
        (DatasetKind::Filesystem, _) => Some(Entry::Directory),
        (DatasetKind::Volume, dataset) => Some(Entry::Block(number(pool.name(), dataset))),
        (DatasetKind::Snapshot, _) => None,
    }
}

/// All volumes that a zone has.
fn visible(zone: ZoneId) -> Vec<(String, Arc<Storage>, u64)> {
    let tops = zones::tops(zone).unwrap_or_else(|| registry::all().iter().map(|pool| pool.name().to_string()).collect());
    let mut out = Vec::new();
    for top in tops {
        let Some(pool) = registry::find(&top) else { continue };
        out.extend(volumes(&pool, &top).into_iter().map(|(name, dataset)| (name, Arc::clone(&pool), dataset)));
    }
    out
}

struct Tree;

impl device::Tree for Tree {
    fn name(&self) -> &'static str {
        "zvol"
    }
    fn major(&self) -> u32 {
        MAJOR
    }
    fn is_there(&self, zone: ZoneId) -> bool {
        if zone == ZoneId::GLOBAL { !registry::all().is_empty() } else { zones::tops(zone).is_some_and(|tops| !tops.is_empty()) }
    }
    fn find(&self, zone: ZoneId, path: &str) -> Option<Entry> {
        if path.contains(['@', '#', '%']) {
            return None;
        }
        if zones::is_above(zone, path) {
            return Some(Entry::Directory);
        }
        if zones::has(zone, path) { kif::on_large_stack(|| look(path)).ok().flatten() } else { None }
    }
    fn list(&self, zone: ZoneId, path: &str) -> Vec<(String, Entry)> {
        let all = kif::on_large_stack(|| visible(zone)).unwrap_or_default();
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        for (name, pool, dataset) in all {
            let Some(rest) = (if path.is_empty() { Some(name.as_str()) } else { name.strip_prefix(path).and_then(|rest| rest.strip_prefix('/')) }) else { continue };
            match rest.split_once('/') {
                None => out.push((rest.to_string(), Entry::Block(number(pool.name(), dataset)))),
                Some((directory, _)) => {
                    if seen.insert(directory.to_string()) {
                        out.push((directory.to_string(), Entry::Directory));
                    }
                }
            }
        }
        out
    }
    fn open(&self, dev: DevNo, node: &VnodeRef, flags: OpenFlags, zone: ZoneId) -> Result<VnodeRef> {
        let known = NUMBERS.lock().get(&(dev.minor / MINORS)).filter(|_| dev.minor.is_multiple_of(MINORS)).cloned();
        let (name, dataset) = known.ok_or(VfsError::NoSuchDevice)?;
        let pool = registry::find(&name).ok_or(VfsError::NoSuchDevice)?;
        // A node with this number may be anywhere: what counts is what the zone has.
        let is_its = || kif::on_large_stack(|| visible(zone).iter().any(|(_, other, number)| Arc::ptr_eq(other, &pool) && *number == dataset)).unwrap_or(false);
        if zone != ZoneId::GLOBAL && !is_its() {
            return Err(VfsError::NoSuchDevice);
        }
        Open::begin(&pool, dataset, node, flags, zone)
    }
    fn sync(&self) -> Result<()> {
        let mut result = Ok(());
        for pool in registry::all().into_iter().filter(|pool| pool.has_opened()) {
            // What a suspended pool has is not on the disks.
            let done = pool.sync();
            result = result.and(done).and(if pool.is_suspended() { Err(VfsError::Io) } else { Ok(()) });
        }
        result
    }
}

/// Shows volumes under `/dev/zvol`. Called once, at boot.
pub fn install() {
    device::set_tree(Box::new(Tree));
}

impl Storage {
    /// The data of volume `dataset`, in use until [`Opened`] ends.
    fn open_volume(self: &Arc<Self>, dataset: u64, zone: ZoneId) -> Result<Opened> {
        let known = self.opened.lock().get(&dataset).cloned();
        let contents = known.unwrap_or_else(|| {
            let made = Node::open_volume(&self.share(dataset, Contents::Volume));
            Arc::clone(self.opened.lock().entry(dataset).or_insert(made))
        });
        // First it is in use, then it is looked at: who destroys it sees the one, or leaves nothing of the other.
        contents.shared().opens.fetch_add(1, SeqCst);
        let opened = Opened(contents);
        let looked = self.read_volume(IoClass::SyncRead, zone, dataset, |store, volume| {
            if store.is_inconsistent(dataset)? {
                return Err(EditError::Busy("a receive into it is not done"));
            }
            opened.0.set_volume_size(volume.size());
            opened.0.shared().is_read_only.store(store.property_number(dataset, "readonly")? == Some(1), Relaxed);
            Ok(())
        });
        if looked.is_err() && opened.0.shared().opens.load(SeqCst) == 1 {
            // No such volume: nothing is known of it.
            self.forget(dataset);
        }
        looked.map(|()| opened)
    }

    /// Whether a volume was opened since the import.
    fn has_opened(&self) -> bool {
        !self.opened.lock().is_empty()
    }

    /// Changes the size of a volume; its reservation follows if it was the whole volume's.
    pub(crate) fn resize_volume(&self, name: &str, size: u64) -> Result<core::result::Result<(), EditError>> {
        let mut contents = None;
        let done = self.edit_sizes(|store| {
            let dataset = store.find(name)?;
            let mut volume = Zvol::open(store, dataset)?;
            let whole = |size: u64, volume: &Zvol| Some(pool_zpl::reservation(size, volume.block_size(), 1));
            let follows = store.property_number(dataset, "refreservation")? == whole(volume.size(), &volume);
            // What cannot be had is refused before anything has changed.
            pool_zpl::check_size(size, volume.block_size())?;
            let before = whole(volume.size(), &volume);
            if let (true, Some(wanted)) = (follows, whole(size, &volume)) {
                store.set_property(name, "refreservation", &Value::Number(wanted))?;
            }
            if let Err(error) = volume.resize(store, name, size) {
                if let (true, Some(before)) = (follows, before) {
                    store.set_property(name, "refreservation", &Value::Number(before))?;
                }
                return Err(error);
            }
            store.commit(now().0)?;
            contents = self.opened.lock().get(&dataset).cloned();
            if let Some(contents) = &contents {
                contents.set_volume_size(size);
            }
            Ok(())
        })?;
        if let Some(contents) = contents {
            contents.cut_volume();
        }
        Ok(done)
    }

    /// Volume `name` has other contents now: nothing of it in memory counts.
    pub(crate) fn reread_volume(&self, name: &str) {
        let Ok(dataset) = self.with(|store| store.find(name)) else { return };
        self.forget_size(dataset);
        let Some(contents) = self.opened.lock().get(&dataset).cloned() else { return };
        contents.set_volume_size(0);
        contents.cut_volume();
        if let Ok(size) = self.read_volume(IoClass::SyncRead, ZoneId::GLOBAL, dataset, |_, volume| Ok(volume.size())) {
            contents.set_volume_size(size);
        }
    }

    /// `readonly` was changed somewhere: what is mounted and volumes that are open obey.
    pub(crate) fn look_at_read_only(&self) {
        for shared in self.shared() {
            if let Ok(value) = self.with(|store| store.property_number(shared.dataset, "readonly")) {
                shared.is_read_only.store(value == Some(1), Relaxed);
            }
        }
    }

    /// The same of `atime`.
    pub(crate) fn look_at_atime(&self) {
        for shared in self.shared() {
            // Unreadable, or exported just now: it stays as it was.
            shared.look_at_atime().ok();
        }
    }
}

/// One use of a volume's data.
struct Opened(Arc<Node>);

impl Drop for Opened {
    fn drop(&mut self) {
        let shared = Arc::clone(self.0.shared());
        // What was mapped goes to the pool before the volume may be destroyed.
        if shared.opens.load(SeqCst) == 1
            && let Err(error) = self.0.write_back()
        {
            kif::log().line(format_args!("pool {}: closing a volume: {error:?}", shared.storage.name()));
        }
        shared.opens.fetch_sub(1, SeqCst);
    }
}

/// An open volume: contents are the volume's, attributes those of the node it was opened by.
struct Open {
    contents: Opened,
    node: VnodeRef,
    writes: bool,
}

impl Open {
    fn begin(pool: &Arc<Storage>, dataset: u64, node: &VnodeRef, flags: OpenFlags, zone: ZoneId) -> Result<VnodeRef> {
        let contents = pool.open_volume(dataset, zone)?;
        let writes = flags.contains(OpenFlags::WRITE);
        if writes && contents.0.shared().is_read_only.load(Relaxed) {
            return Err(VfsError::ReadOnly);
        }
        Ok(Arc::new(Self { contents, node: Arc::clone(node), writes }))
    }

    fn data(&self) -> &Arc<Node> {
        &self.contents.0
    }

    /// Makes a range zeros; given as two numbers in user memory.
    fn discard(&self, argument: u64, io: Io) -> Result<u64> {
        if !self.writes {
            return Err(VfsError::BadAccessMode);
        }
        self.data().check_writable()?;
        let mut range = [[0; 8]; 2];
        kif::user().read(argument, range.as_flattened_mut())?;
        let [start, length] = range.map(u64::from_le_bytes);
        let inside = start.checked_add(length).is_some_and(|end| end <= self.data().volume_size());
        if !inside || !start.is_multiple_of(SECTOR) || !length.is_multiple_of(SECTOR) {
            return Err(VfsError::Invalid);
        }
        if length > 0 {
            let shared = self.data().shared();
            shared.storage.patiently(|| {
                shared.storage.throttle_write(io.zone, 0)?;
                self.data().discard(start, length)
            })?;
            shared.storage.pay(shared.dataset)?;
        }
        Ok(0)
    }
}

impl Vnode for Open {
    fn id(&self) -> NodeId {
        self.node.id()
    }
    fn kind(&self) -> Kind {
        Kind::BlockDevice
    }
    fn attr(&self) -> Result<Attr> {
        Ok(Attr { size: self.data().volume_size(), ..self.node.attr()? })
    }
    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        self.node.set_attr(change)
    }
    fn read_at(&self, offset: u64, out: &mut [u8], io: Io) -> Result<usize> {
        self.data().read_at(offset, out, io)
    }
    fn lends(&self) -> bool {
        true
    }
    fn lend(&self, offset: u64, length: usize, io: Io, lent: &mut Lent) -> Result<Option<usize>> {
        self.data().lend(offset, length, io, lent)
    }
    fn write_at(&self, offset: u64, data: &[u8], io: Io) -> Result<usize> {
        self.data().check_writable()?;
        let left = self.data().volume_size().saturating_sub(offset);
        if left == 0 && !data.is_empty() {
            return Err(VfsError::NoSpace);
        }
        let count = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.data().write_at(offset, &data[..count], io)
    }
    fn page(&self, index: u64, write: bool, zone: ZoneId) -> Result<Frame> {
        self.data().page(index, write, zone)
    }
    fn sync(&self) -> Result<()> {
        self.data().sync()
    }
    fn ioctl(&self, request: u32, argument: u64, io: Io) -> Result<u64> {
        let answer = |bytes: &[u8]| kif::user().write(argument, bytes).map(|()| 0).map_err(|_| VfsError::BadAddress);
        let number = |value: u64| answer(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
        let shared = self.data().shared();
        let block = || shared.storage.read_volume(IoClass::SyncRead, io.zone, shared.dataset, |_, volume| Ok(volume.block_size()));
        let size = self.data().volume_size();
        match request {
            BLKROGET => number(shared.is_read_only.load(Relaxed).into()),
            BLKGETSIZE => answer(&(size / SECTOR).to_le_bytes()),
            BLKGETSIZE64 => answer(&size.to_le_bytes()),
            BLKSSZGET => number(SECTOR),
            // A block is read, changed and written whole: what fits one costs least.
            BLKPBSZGET | BLKIOMIN | BLKIOOPT => number(block()?),
            BLKBSZGET => number(kif::PAGE_SIZE as u64),
            // A 16-bit answer.
            BLKROTATIONAL => answer(&[0, 0]),
            BLKALIGNOFF | BLKDISCARDZEROES => number(0),
            BLKDISCARD | BLKZEROOUT => self.discard(argument, io),
            BLKFLSBUF => {
                gate::throttle(io.zone, pool_fair::throttle::Op::PhysicalWrite);
                self.data().sync().map(|()| 0)
            }
            _ => Err(VfsError::NotTty),
        }
    }
}

/// Why a volume cannot go now, if it cannot.
pub(crate) fn in_use(name: &str) -> String {
    format!("{name}: /dev/zvol/{name} is open; end the programs that use it")
}
