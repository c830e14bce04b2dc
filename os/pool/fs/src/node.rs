//! A file, directory, link or special file of the pool as a vnode.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use kif::{Frame, Nanos, PAGE_SHIFT, PAGE_SIZE, ZoneId};
use pool_arc::Want;
use pool_dmu::Fed;
use pool_dmu::edit::{EditError, Sought};
use pool_fair::queue::IoClass;
use pool_fair::throttle::Op;
use pool_phys::sa::{Time, Znode};
use pool_zpl::{Change, Make, NewEntry, VOLUME_DATA, Writer, XattrStyle};
use sync::{Class, Mutex, SpinLock};
use vfs::pipe::Pipe;
use vfs::xattr::{Existence, VALUE_LIMIT};
use vfs::{Attr, DevNo, DirEntry, Io, Kind, Lent, NodeId, OpenFlags, Owner, RenameFlags, Result, SetAttr, VfsError, Vnode, VnodeRef};

use crate::cache::{self, Key, RUN};
use crate::gate;
use crate::Storage;
use crate::snapdir::{self, SnapDir};
use crate::storage::{Contents, Shared, now};

type Pool<R> = core::result::Result<R, EditError>;

/// Pages of a run.
const RUN_PAGES: u64 = RUN / PAGE_SIZE as u64;
/// The largest usual block of a file; larger ones (`recordsize` above it) are rare, and their pool has room for two.
const RECORD_MAX: u64 = 128 << 10;
/// Blocks looked at for a hole while nobody else has the pool.
const SEEK_BLOCKS: u64 = 4096;
/// Not looked at yet.
const UNKNOWN: u64 = u64::MAX;
/// Access times of what is only read are written at most once a day.
const ACCESS_STEP_SECONDS: u64 = 24 * 60 * 60;
/// Runs read ahead of one that reads in order, at most.
const AHEAD_MAX: u64 = 4;

#[derive(Default)]
struct Pages {
    frames: BTreeMap<u64, Frame>,
    /// Handed out for writing: perhaps newer than the store. With a print of what was stored last, if nothing but mappings changed it since.
    writable: BTreeMap<u64, Option<u64>>,
    /// The run used last, and when the cache was told.
    used: Option<(u64, Nanos)>,
    /// Runs asked for ahead: up to this one.
    ahead: u64,
    /// How many runs were used in order.
    in_order: u64,
}

impl Pages {
    /// Bytes in memory of a run.
    fn run_bytes(&self, run: u64) -> u64 {
        self.frames.range(run * RUN_PAGES..(run + 1) * RUN_PAGES).count() as u64 * PAGE_SIZE as u64
    }
}

/// One object in use.
pub(crate) struct Node {
    shared: Arc<Shared>,
    me: Weak<Node>,
    object: u64,
    kind: Kind,
    /// As of the last change; changed only under the pool's lock.
    attributes: SpinLock<Znode>,
    pages: Mutex<Pages>,
    unlinked: AtomicBool,
    /// Whether a read is to be noted has to be looked at again: since then it was opened or changed.
    looks_at_access: AtomicBool,
    /// The time of a read that is not in the store yet, behind the one that is.
    noted: SpinLock<Option<(Time, Time)>>,
    /// Bytes it takes on disk; [`UNKNOWN`] since it was changed. Set only under the pool's lock.
    occupied: AtomicU64,
    fifo: Option<Arc<Pipe>>,
}

fn nanos((seconds, rest): (u64, u64)) -> Nanos {
    Nanos(seconds.saturating_mul(1_000_000_000).saturating_add(rest))
}

const fn time(at: Nanos) -> (u64, u64) {
    (at.0 / 1_000_000_000, at.0 % 1_000_000_000)
}

const PRINT_PRIME: u64 = (1 << 61) - 1;

/// A secret for [`print`].
pub(crate) fn print_point() -> u64 {
    let mut bytes = [0; 8];
    kif::rng().fill(&mut bytes);
    (u64::from_le_bytes(bytes) % PRINT_PRIME) | 1
}

/// A number that tells contents apart: a polynomial over a prime field at a `point` nobody knows, so that two contents have the same one with a chance of 2^-50 at most,
/// whoever chose them.
fn print(point: u64, data: &[u8]) -> u64 {
    let step = |sum: u64, word: u64| {
        let product = u128::from(sum) * u128::from(point) + u128::from(word);
        let (low, high) = (product as u64 & PRINT_PRIME, (product >> 61) as u64);
        let folded = low + high;
        if folded >= PRINT_PRIME { folded - PRINT_PRIME } else { folded }
    };
    let (words, rest) = data.as_chunks::<4>();
    let sum = words.iter().fold(data.len() as u64, |sum, word| step(sum, u32::from_le_bytes(*word).into()));
    rest.iter().fold(sum, |sum, byte| step(sum, u64::from(*byte)))
}

/// A part of the contents is zeros now: so it is in the pages that are there.
fn clear(pages: &mut Pages, offset: u64, length: u64) {
    let (page, end) = (PAGE_SIZE as u64, offset.saturating_add(length));
    pages.writable.range_mut(offset / page..end.div_ceil(page)).for_each(|(_, print)| *print = None);
    for (index, frame) in pages.frames.range(offset / page..end.div_ceil(page)) {
        let start = index * page;
        let (from, to) = (offset.max(start) - start, end.min(start + page) - start);
        frame.write(from as usize, &vec![0; (to - from) as usize]);
    }
}

/// A zone is about to read from disks: with no lock held it waits as long as it has to, and room is made.
fn wait_for_disks(zone: ZoneId) {
    gate::throttle(zone, Op::Read);
    cache::make_room(RUN);
}

/// ZPL device numbers: 32 bits major, 32 bits minor (format section 17.2, as OpenZFS on Linux packs them).
const fn device(raw: u64) -> DevNo {
    DevNo::new((raw >> 32) as u32, raw as u32)
}

fn entry(mode: u32, owner: Owner) -> NewEntry {
    NewEntry { mode: mode.into(), uid: owner.uid.into(), gid: owner.gid.into(), now: now() }
}

impl Node {
    pub fn object(&self) -> u64 {
        self.object
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn arc(&self) -> Arc<Self> {
        self.me.upgrade().expect("a method runs on a live node")
    }

    /// The node of an object; the caller holds the pool.
    fn open(shared: &Arc<Shared>, writer: &mut Writer<'_>, object: u64) -> Pool<Arc<Self>> {
        if let Some(node) = shared.known(object) {
            return Ok(node);
        }
        let attributes = writer.stat(object)?;
        let mode = u32::try_from(attributes.mode & 0xffff).unwrap_or(0);
        let kind = Kind::from_type_bits(mode).ok_or(EditError::Invalid("a file of no known type"))?;
        let node = shared.node(object, || {
            Arc::new_cyclic(|me| Self {
                shared: Arc::clone(shared),
                me: Weak::clone(me),
                object,
                kind,
                attributes: SpinLock::new(Class::PoolNodes, attributes),
                pages: Mutex::new(Class::Pages, Pages::default()),
                unlinked: AtomicBool::new(false),
                looks_at_access: AtomicBool::new(true),
                noted: SpinLock::new(Class::PoolNodes, None),
                occupied: AtomicU64::new(UNKNOWN),
                fifo: (kind == Kind::Fifo).then(Pipe::new),
            })
        });
        node.look_at_space(writer)?;
        Ok(node)
    }

    /// The root directory. If it cannot be read, a directory with nothing in it that says so at each use.
    pub fn open_root(shared: &Arc<Shared>, root: u64) -> VnodeRef {
        match shared.read(|writer| Self::open(shared, writer, root)) {
            Ok(node) => node,
            Err(error) => Arc::new(Unreadable { id: NodeId { fs: shared.id, ino: root }, error }),
        }
    }

    /// The data of the volume `shared`, whose size is to be told: one object, with pages like a file's.
    pub fn open_volume(shared: &Arc<Shared>) -> Arc<Self> {
        shared.node(VOLUME_DATA, || {
            Arc::new_cyclic(|me| Self {
                shared: Arc::clone(shared),
                me: Weak::clone(me),
                object: VOLUME_DATA,
                kind: Kind::BlockDevice,
                attributes: SpinLock::new(Class::PoolNodes, Znode { links: 1, ..Znode::default() }),
                pages: Mutex::new(Class::Pages, Pages::default()),
                unlinked: AtomicBool::new(false),
                looks_at_access: AtomicBool::new(true),
                noted: SpinLock::new(Class::PoolNodes, None),
                occupied: AtomicU64::new(UNKNOWN),
                fifo: None,
            })
        })
    }

    /// Bytes of a volume.
    pub fn volume_size(&self) -> u64 {
        self.size()
    }

    /// Says how large a volume is; the caller holds the pool.
    pub fn set_volume_size(&self, size: u64) {
        self.attributes.lock().size = size;
    }

    /// Lets go of pages behind the end of a volume.
    pub fn cut_volume(&self) {
        let mut pages = self.pages.lock();
        let size = self.size();
        let gone = self.cut_pages(&mut pages, size);
        drop(pages);
        drop(gone);
    }

    /// Makes a part of a volume zeros that take no room.
    pub fn discard(&self, offset: u64, length: u64) -> Result<()> {
        let mut pages = self.pages.lock();
        self.shared.storage.change_volume(self.shared.dataset, 4096, |store, volume| volume.discard(store, offset, length))?;
        clear(&mut pages, offset, length);
        Ok(())
    }

    fn read<R>(&self, body: impl FnOnce(&mut Writer<'_>) -> Pool<R>) -> Result<R> {
        self.shared.read(body)
    }

    /// The root directory of its file system: that of a file system is its own parent.
    fn is_root(&self) -> Result<bool> {
        Ok(self.kind == Kind::Directory && self.read(|writer| Ok(writer.root()))? == self.object)
    }

    /// `.zfs` is listed in it.
    fn shows_snapshots(&self, writer: &mut Writer<'_>) -> Pool<bool> {
        let is_head = self.shared.snapshot.is_none();
        Ok(is_head && writer.root() == self.object && writer.store().property_number(self.shared.dataset, "snapdir")? == Some(1))
    }

    /// Changes what programs ask for; what they had through a mapping before the file system became one to be read is written all the same.
    fn change<R>(&self, bytes: u64, body: impl FnOnce(&mut Writer<'_>) -> Pool<R>) -> Result<R> {
        self.check_writable()?;
        self.shared.storage.change(self.shared.dataset, bytes, body)
    }

    /// Mount options are looked at where a file is opened, and this where it is changed.
    pub fn check_writable(&self) -> Result<()> {
        if self.shared.snapshot.is_some() || self.shared.is_read_only.load(Relaxed) { Err(VfsError::ReadOnly) } else { Ok(()) }
    }

    /// Takes the attributes over as they are after a change; the caller holds the pool.
    fn refresh(&self, writer: &mut Writer<'_>) -> Pool<()> {
        let mut fresh = writer.stat(self.object)?;
        let noted = *self.noted.lock();
        match noted {
            // A read that is not in the store yet.
            Some((stored, at)) if fresh.accessed == stored => fresh.accessed = at,
            // This change set the time itself.
            Some(_) => *self.noted.lock() = None,
            None => {}
        }
        *self.attributes.lock() = fresh;
        self.looks_at_access.store(true, Relaxed);
        self.occupied.store(UNKNOWN, Relaxed);
        Ok(())
    }

    /// Takes the time of the last read that is not in the store yet; `None`: another was set since.
    pub fn take_noted(&self) -> Option<Time> {
        self.noted.lock().take().map(|(_, at)| at)
    }

    /// Bytes it takes on disk.
    fn look_at_space(&self, writer: &mut Writer<'_>) -> Pool<u64> {
        let (bytes, is_settled) = writer.occupied(self.object)?;
        if is_settled {
            self.occupied.store(bytes, Relaxed);
        }
        Ok(bytes)
    }

    /// It was read: where the file system keeps access times (`atime`), this one is put into the store with the next commit. As Linux does by default (`relatime`), only if it has
    /// not been read since it was changed, or for a day. The caller has no lock.
    fn note_access(&self) {
        if !self.looks_at_access.swap(false, Relaxed) || !self.shared.notes_access() || self.unlinked.load(Relaxed) || self.is_volume() {
            return;
        }
        let at = now();
        let mut attributes = self.attributes.lock();
        let accessed = attributes.accessed;
        if accessed > attributes.modified.max(attributes.changed) && at.0.saturating_sub(accessed.0) < ACCESS_STEP_SECONDS {
            return;
        }
        attributes.accessed = at;
        drop(attributes);
        let mut noted = self.noted.lock();
        *noted = Some((noted.map_or(accessed, |(stored, _)| stored), at));
        drop(noted);
        self.shared.accessed(self.arc());
    }

    /// Where a new extended attribute goes, as property `xattr` says; `None`: the file system has none.
    fn xattr_style(&self, writer: &mut Writer<'_>) -> Pool<Option<XattrStyle>> {
        Ok(match writer.store().property_number(self.shared.dataset, "xattr")? {
            Some(0) => None,
            Some(2) => Some(XattrStyle::Attributes),
            _ => Some(XattrStyle::Directory),
        })
    }

    /// Who changes a program's bytes takes its set-user-ID away.
    fn forget_setid(&self, writer: &mut Writer<'_>) -> Pool<()> {
        if self.attributes.lock().mode & 0o6000 == 0 { Ok(()) } else { writer.forget_setid(self.object, now()) }
    }

    /// The same for an object that may or may not be in use.
    fn refresh_other(&self, writer: &mut Writer<'_>, object: u64) -> Pool<()> {
        match self.shared.known(object) {
            Some(node) => node.refresh(writer),
            None => Ok(()),
        }
    }

    fn size(&self) -> u64 {
        self.attributes.lock().size
    }

    fn of<'a>(&self, vnode: &'a VnodeRef) -> Result<&'a Self> {
        let node = vnode.as_any().and_then(|any| any.downcast_ref::<Self>()).ok_or(VfsError::CrossDevice)?;
        if Arc::ptr_eq(&node.shared, &self.shared) { Ok(node) } else { Err(VfsError::CrossDevice) }
    }

    fn require_directory(&self) -> Result<()> {
        if self.kind != Kind::Directory {
            return Err(VfsError::NotDirectory);
        }
        if self.unlinked.load(Relaxed) { Err(VfsError::NotFound) } else { Ok(()) }
    }

    fn add(&self, name: &[u8], make: Make<'_>, mode: u32, owner: Owner) -> Result<VnodeRef> {
        self.require_directory()?;
        cache::make_room(0);
        self.change(4096, |writer| {
            // It may have been removed while this waited for the pool.
            if let Err(gone) = self.require_directory() {
                return Ok(Err(gone));
            }
            let object = writer.make(self.object, name, make, &entry(mode, owner))?;
            self.refresh(writer)?;
            Ok(Ok(Self::open(&self.shared, writer, object)? as VnodeRef))
        })?
    }

    /// Removes a name; an object that is in use stays until its last user goes.
    fn remove(&self, name: &[u8], want_directory: bool) -> Result<()> {
        self.require_directory()?;
        self.check_writable()?;
        self.shared.storage.change_to_free(self.shared.dataset, |writer| {
            let (object, file_type) = writer.lookup_entry(self.object, name)?.ok_or(pool_dmu::Error::NotFound)?;
            if (file_type == 4) != want_directory {
                return Ok(Err(if want_directory { VfsError::NotDirectory } else { VfsError::IsDirectory }));
            }
            let known = self.shared.known(object);
            writer.remove_entry(self.object, name, now(), known.is_some())?;
            self.refresh(writer)?;
            if let Some(node) = known {
                node.refresh(writer)?;
                node.settle_unlinked();
            }
            Ok(Ok(()))
        })??;
        self.shared.reap();
        Ok(())
    }

    /// Notes that the last name is gone, if it is.
    fn settle_unlinked(&self) {
        let left = self.attributes.lock().links;
        if left == 0 || self.kind == Kind::Directory {
            self.unlinked.store(true, Relaxed);
            self.shared.forget(self.object);
        }
    }

    // ---- contents ----

    fn key(&self, run: u64) -> Key {
        Key { fs: self.shared.id, object: self.object, run }
    }

    /// The frame at `index`, read with its neighbours if it is not there.
    fn frame<'a>(&self, pages: &'a mut Pages, index: u64, size: u64, zone: ZoneId) -> Result<&'a Frame> {
        let run = index / RUN_PAGES;
        if pages.frames.contains_key(&index) {
            self.note_use(pages, run, size, zone);
        } else {
            self.fill(pages, run, Some(index), size, zone)?;
            self.look_ahead(pages, run, size, zone);
        }
        Ok(pages.frames.get(&index).expect("just filled"))
    }

    /// A page of `run` that is in memory is used.
    fn note_use(&self, pages: &mut Pages, run: u64, size: u64, zone: ZoneId) {
        let now = kif::clock().monotonic();
        if let Some((known, told)) = pages.used
            && known == run
            && now.since(told).0 <= pool_arc::SECOND_CHANCE_NS
        {
            cache::repeat();
            return;
        }
        if !cache::touch(&self.key(run), Want::Demand, now) {
            // Given up meanwhile by whoever looked for room, but still here.
            cache::insert(self.key(run), Weak::clone(&self.me), pages.run_bytes(run), zone, Want::Demand, now);
        }
        self.look_ahead(pages, run, size, zone);
        pages.used = Some((run, now));
    }

    /// Asks for the runs after `run` if the file is read in order: the more, the longer it was.
    fn look_ahead(&self, pages: &mut Pages, run: u64, size: u64, zone: ZoneId) {
        match pages.used {
            Some((last, _)) if last == run => return,
            Some((last, _)) if last + 1 == run => pages.in_order += 1,
            None if run == 0 => pages.in_order = 1,
            _ => (pages.in_order, pages.ahead) = (0, 0),
        }
        pages.used = Some((run, kif::clock().monotonic()));
        if pages.in_order == 0 {
            return;
        }
        let last = size.div_ceil(RUN).saturating_sub(1).min(run + pages.in_order.min(AHEAD_MAX));
        for wanted in (run + 1).max(pages.ahead + 1)..=last {
            if pages.run_bytes(wanted) == 0 && self.shared.storage.read_ahead(&self.me, wanted, zone) {
                pages.ahead = wanted;
            }
        }
    }

    /// Lends pages from `offset` on, as far as they are there: whoever asks for what comes then waits for the disks as for the first.
    fn lend_pages(&self, offset: u64, length: usize, zone: ZoneId, lent: &mut Lent) -> Result<usize> {
        let index = offset >> PAGE_SHIFT;
        let mut pages = self.pages.lock();
        let mut first = pages.frames.get(&index).cloned();
        let is_missing = first.is_none() && offset < self.size();
        if is_missing {
            drop(pages);
            wait_for_disks(zone);
            pages = self.pages.lock();
        }
        let size = self.size();
        let total = usize::try_from(size.saturating_sub(offset)).map_or(length, |left| left.min(length)).min(Lent::room(offset));
        if total == 0 {
            return Ok(0);
        }
        if is_missing {
            first = Some(self.frame(&mut pages, index, size, zone)?.clone());
        } else {
            self.note_use(&mut pages, index / RUN_PAGES, size, zone);
        }
        first.into_iter().for_each(|frame| lent.push(frame));
        let last = (offset + total as u64 - 1) >> PAGE_SHIFT;
        if last > index {
            for (next, (at, frame)) in (index + 1..).zip(pages.frames.range(index + 1..=last)) {
                if *at != next {
                    break;
                }
                lent.push(frame.clone());
            }
        }
        let behind = index + lent.count() as u64;
        for run in index / RUN_PAGES + 1..behind.div_ceil(RUN_PAGES) {
            self.note_use(&mut pages, run, size, zone);
        }
        drop(pages);
        if is_missing {
            cache::balance();
        }
        Ok(total.min(usize::try_from((behind << PAGE_SHIFT) - offset).unwrap_or(total)))
    }

    /// Reads a run that may be wanted soon.
    pub fn prefetch(&self, run: u64, zone: ZoneId) {
        let mut pages = self.pages.lock();
        let size = self.size();
        // What was asked for before `primarycache` said that nothing is to stay is not wanted any more.
        if self.shared.keeps_data() && run * RUN < size && pages.run_bytes(run) == 0 {
            // What cannot be read is an error for whoever asks for it.
            if self.fill(&mut pages, run, None, size, zone).is_ok() {}
        }
        drop(pages);
        cache::balance();
    }

    /// Offers the blocks of a run to the cache devices, as far as they are in memory.
    pub fn feed(&self, run: u64) -> Result<Fed> {
        let pages = self.pages.lock();
        if pages.writable.range(run * RUN_PAGES..(run + 1) * RUN_PAGES).next().is_some() {
            return Ok(Fed { written: 0, is_open: true });
        }
        let end = self.size().div_ceil(PAGE_SIZE as u64);
        let mut contents = |offset: u64, length: u64| {
            let mut data = vec![0; usize::try_from(length).ok()?];
            for (number, part) in (offset / PAGE_SIZE as u64..).zip(data.chunks_mut(PAGE_SIZE)) {
                match pages.frames.get(&number) {
                    Some(frame) => frame.read((offset % PAGE_SIZE as u64) as usize, part),
                    None if number >= end => {}
                    None => return None,
                }
            }
            Some(data)
        };
        self.shared.storage.feed(self.shared.dataset, self.object, run * RUN..(run + 1) * RUN, &mut contents)
    }

    /// Bytes in memory of a run.
    #[cfg(test)]
    pub fn run_in_memory(&self, run: u64) -> u64 {
        self.pages.lock().run_bytes(run)
    }

    /// True if its pages are those of `storage`.
    pub fn is_of(&self, storage: &Storage) -> bool {
        core::ptr::eq(&raw const *self.shared.storage, storage)
    }

    /// Gives up the pages of a run that nobody maps; returns the bytes that stay.
    pub fn give_up(&self, run: u64) -> u64 {
        let mut gone = Vec::new();
        let mut pages = self.pages.lock();
        for index in run * RUN_PAGES..(run + 1) * RUN_PAGES {
            if pages.frames.get(&index).is_some_and(Frame::is_exclusive) && !pages.writable.contains_key(&index) {
                gone.extend(pages.frames.remove(&index));
            }
        }
        let left = pages.run_bytes(run);
        drop(pages);
        drop(gone);
        left
    }

    /// Reads what is not to stay in memory (`primarycache`): to the end of the run, or to the next page that is there. How much that is.
    fn pass(&self, pages: &Pages, offset: u64, out: &mut [u8], zone: ZoneId) -> Result<usize> {
        let next = pages.frames.range(offset >> PAGE_SHIFT..).next().map_or(u64::MAX, |(index, _)| index << PAGE_SHIFT);
        let end = next.min((offset / RUN + 1) * RUN);
        let count = usize::try_from(end - offset).map_or(out.len(), |count| count.min(out.len()));
        gate::note_read(zone, None);
        let result = self.shared.fetch(IoClass::SyncRead, zone, self.object, offset, count);
        gate::note_read(zone, Some(if result.is_ok() { count as u64 } else { 0 }));
        out[..count].copy_from_slice(&result?);
        Ok(count)
    }

    /// Reads a run, for page `wanted` or ahead of its use.
    fn fill(&self, pages: &mut Pages, run: u64, wanted: Option<u64>, size: u64, zone: ZoneId) -> Result<()> {
        let page = PAGE_SIZE as u64;
        let start = run * RUN;
        let least = wanted.map_or(start, |index| (index + 1) * page);
        let end = (start + RUN).min(size.next_multiple_of(page)).max(least);
        let len = usize::try_from(end - start).unwrap_or(PAGE_SIZE);
        let class = if wanted.is_some() { IoClass::SyncRead } else { IoClass::AsyncRead };
        gate::note_read(zone, None);
        let result = self.shared.fetch(class, zone, self.object, start, len);
        gate::note_read(zone, Some(if result.is_ok() { end - start } else { 0 }));
        let mut data = result?;
        // The file ends inside the last page: behind it there are zeros, whatever the block holds.
        if end > size {
            let from = usize::try_from(size.saturating_sub(start)).unwrap_or(len).min(len);
            data[from..].fill(0);
        }
        for (at, chunk) in (start >> PAGE_SHIFT..).zip(data.chunks(PAGE_SIZE)) {
            if pages.frames.contains_key(&at) {
                continue;
            }
            match Frame::allocate_for_overwrite(zone) {
                Ok(frame) => {
                    frame.write(0, chunk);
                    pages.frames.insert(at, frame);
                }
                Err(_) if wanted == Some(at) => return Err(VfsError::NoMemory),
                // Neighbours only if there is room for them.
                Err(_) => {}
            }
        }
        let want = if wanted.is_some() { Want::Demand } else { Want::Prefetch };
        let now = kif::clock().monotonic();
        // The miss is counted, and what the ghosts know is used.
        let bytes = pages.run_bytes(run);
        if cache::touch(&self.key(run), want, now) {
            // It was there in part: the file grew, or some pages had been given up.
            cache::resize(&self.key(run), bytes);
        } else if bytes > 0 {
            cache::insert(self.key(run), Weak::clone(&self.me), bytes, zone, want, now);
        }
        Ok(())
    }

    /// Copies pages handed out for writing to the store; those nobody maps any more are then as old as the store.
    /// A page that cannot have its place (a quota is used up) stays; the others go, and the first error is told.
    pub fn write_back(&self) -> Result<()> {
        let mut pages = self.pages.lock();
        if pages.writable.is_empty() {
            return Ok(());
        }
        let size = self.size();
        let mut result = Ok(());
        let mut data = vec![0; PAGE_SIZE];
        let indices: Vec<(u64, Option<u64>)> = pages.writable.iter().map(|(index, print)| (*index, *print)).collect();
        for (index, stored) in indices {
            let start = index << PAGE_SHIFT;
            let Some(frame) = pages.frames.get(&index) else {
                pages.writable.remove(&index);
                continue;
            };
            // Looked at before the contents are: whoever lets go of it later may have stored something that is not read here. Nobody takes it again without the lock.
            let is_left = frame.is_exclusive();
            let len = usize::try_from(size.saturating_sub(start)).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
            if len > 0 {
                let data = &mut data[..len];
                frame.read(0, data);
                let now = print(self.shared.storage.print_point, data);
                // A mapping that nobody stores to costs a look at memory, not one at the pool.
                if stored != Some(now) {
                    let mine = self.put_changed(start, data);
                    if mine.is_err() {
                        result = result.and(mine);
                        continue;
                    }
                    pages.writable.insert(index, Some(now));
                }
            }
            if is_left {
                pages.writable.remove(&index);
            }
        }
        if pages.writable.is_empty() {
            // The caller has a reference of its own: the node does not end under its own lock.
            self.shared.is_clean(self.object);
        }
        result
    }

    /// Puts what a mapping may have changed into the store, if it did.
    fn put_changed(&self, start: u64, data: &[u8]) -> Result<()> {
        // Nobody else changes the contents meanwhile: that takes the pages. What is as it was is not to be committed.
        if self.shared.fetch(IoClass::AsyncRead, ZoneId::GLOBAL, self.object, start, data.len())? == data {
            return Ok(());
        }
        if self.is_volume() {
            return self.shared.storage.change_volume(self.shared.dataset, data.len() as u64, |store, volume| volume.write(store, start, data));
        }
        self.shared.storage.change(self.shared.dataset, data.len() as u64, |writer| {
            writer.write(self.object, start, data, now())?;
            self.refresh(writer)
        })
    }

    /// A volume's data rather than a file's.
    fn is_volume(&self) -> bool {
        self.shared.kind == Contents::Volume
    }

    /// What can be read and written at offsets, and mapped.
    fn has_contents(&self) -> bool {
        self.kind == Kind::File || self.is_volume()
    }

    fn write_locked(&self, pages: &mut Pages, offset: u64, data: &[u8]) -> Result<usize> {
        if !self.has_contents() {
            return Err(VfsError::Invalid);
        }
        if data.is_empty() {
            return Ok(0);
        }
        if offset.checked_add(data.len() as u64).is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(VfsError::TooBig);
        }
        self.clear_behind(pages, offset);
        if self.is_volume() {
            self.shared.storage.change_volume(self.shared.dataset, data.len() as u64, |store, volume| volume.write(store, offset, data))?;
        } else {
            self.change(data.len() as u64, |writer| {
                self.forget_setid(writer)?;
                writer.write(self.object, offset, data, now())?;
                self.refresh(writer)
            })?;
        }
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let start = (at % PAGE_SIZE as u64) as usize;
            let count = (PAGE_SIZE - start).min(data.len() - done);
            if let Some(frame) = pages.frames.get(&(at >> PAGE_SHIFT)) {
                frame.write(start, &data[done..done + count]);
            }
            if let Some(print) = pages.writable.get_mut(&(at >> PAGE_SHIFT)) {
                *print = None;
            }
            done += count;
        }
        Ok(done)
    }

    /// The file is about to grow: what a mapping stored in the last page, behind the end, does not become contents. Up to `limit`; behind it there is something new.
    fn clear_behind(&self, pages: &mut Pages, limit: u64) {
        let size = self.size();
        if limit > size && !size.is_multiple_of(PAGE_SIZE as u64) {
            clear(pages, size, limit.min(size.next_multiple_of(PAGE_SIZE as u64)) - size);
        }
    }

    /// Takes out the pages behind `size`; the caller drops them when it has no lock.
    fn cut_pages(&self, pages: &mut Pages, size: u64) -> BTreeMap<u64, Frame> {
        let gone = pages.frames.split_off(&size.div_ceil(PAGE_SIZE as u64));
        pages.writable.split_off(&size.div_ceil(PAGE_SIZE as u64));
        if pages.writable.is_empty() {
            self.shared.is_clean(self.object);
        }
        let mut runs: Vec<u64> = gone.keys().map(|index| index / RUN_PAGES).collect();
        runs.dedup();
        for run in runs {
            cache::resize(&self.key(run), pages.run_bytes(run));
        }
        gone
    }

    /// Sets the size, or with `at_least` makes it no smaller: nobody writes between the look and the change.
    fn resize(&self, size: u64, at_least: bool) -> Result<()> {
        if self.kind != Kind::File {
            return Err(VfsError::Invalid);
        }
        if i64::try_from(size).is_err() {
            return Err(VfsError::TooBig);
        }
        let mut pages = self.pages.lock();
        if at_least && self.size() >= size {
            return Ok(());
        }
        self.clear_behind(&mut pages, size);
        self.check_writable()?;
        let body = |writer: &mut Writer<'_>| {
            self.forget_setid(writer)?;
            writer.truncate(self.object, size, now())?;
            self.refresh(writer)
        };
        let (storage, dataset) = (&self.shared.storage, self.shared.dataset);
        if size < self.size() { storage.change_to_free(dataset, body) } else { storage.change(dataset, 4096, body) }?;
        let gone = self.cut_pages(&mut pages, size);
        let tail = (size % PAGE_SIZE as u64) as usize;
        if tail != 0 {
            clear(&mut pages, size, (PAGE_SIZE - tail) as u64);
        }
        drop(pages);
        drop(gone);
        Ok(())
    }

    /// Objects from a directory up to the root.
    fn ancestors(writer: &mut Writer<'_>, from: u64) -> Pool<Vec<u64>> {
        let mut line = vec![from];
        let mut at = from;
        while at != writer.root() {
            at = writer.stat(at)?.parent;
            if line.contains(&at) || line.len() > 4096 {
                return Err(EditError::Invalid("a directory is its own ancestor"));
            }
            line.push(at);
        }
        Ok(line)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut last = None;
        for index in core::mem::take(&mut self.pages.get_mut().frames).into_keys() {
            let run = index / RUN_PAGES;
            if last.replace(run) != Some(run) {
                cache::resize(&Key { fs: self.shared.id, object: self.object, run }, 0);
            }
        }
        self.shared.ended(self.object, self.unlinked.load(Relaxed));
    }
}

/// What programs ask for, tried once: what a suspended pool refuses, [`Node::patiently`] tries again.
impl Node {
    /// Carries out what a program asks for; while the pool is suspended, as its property `failmode` says.
    fn patiently<R>(&self, ask: impl FnMut() -> Result<R>) -> Result<R> {
        self.shared.storage.patiently(ask)
    }

    /// The same for a change, which is durable at once where property `sync` says so. What was freed counts for a quota behind a commit, and can be used some txgs later: whom
    /// a quota or a full pool refuses asks once more there; and whom memory refuses, as long as the cache has some to give. The caller has no lock.
    fn durably<R>(&self, mut ask: impl FnMut() -> Result<R>) -> Result<R> {
        let storage = &self.shared.storage;
        let done = self.patiently(|| match ask() {
            Err(error @ (VfsError::Quota | VfsError::NoSpace)) if storage.commit_for_room(error == VfsError::NoSpace)? => ask(),
            Err(VfsError::NoMemory) if cache::relieve(kif::spawn().current_zone()) => ask(),
            done => done,
        })?;
        storage.pay(self.shared.dataset)?;
        Ok(done)
    }

    fn try_set_attr(&self, change: &SetAttr) -> Result<()> {
        let change = Change {
            mode: change.mode.map(u64::from),
            uid: change.uid.map(u64::from),
            gid: change.gid.map(u64::from),
            accessed: change.atime.map(time),
            modified: change.mtime.map(time),
            changed: Some(now()),
        };
        self.change(4096, |writer| {
            writer.set_attributes(self.object, &change)?;
            if change.accessed.is_some() {
                // Whoever sets back what was there before the read means it.
                *self.noted.lock() = None;
            }
            self.refresh(writer)
        })
    }
    fn try_xattr(&self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        self.read(|writer| match self.xattr_style(writer)? {
            Some(_) => writer.xattr(self.object, name).map(Ok),
            None => Ok(Err(VfsError::NotSupported)),
        })?
    }
    fn try_xattr_names(&self) -> Result<Vec<Vec<u8>>> {
        self.read(|writer| match self.xattr_style(writer)? {
            Some(_) => Ok(writer.xattr_names(self.object, VALUE_LIMIT)?.ok_or(VfsError::TooLong)),
            None => Ok(Err(VfsError::NotSupported)),
        })?
    }
    fn try_set_xattr(&self, name: &[u8], value: Option<&[u8]>, existence: Existence) -> Result<()> {
        self.change(value.map_or(0, |value| value.len() as u64) + 4096, |writer| {
            let Some(style) = self.xattr_style(writer)? else { return Ok(Err(VfsError::NotSupported)) };
            if existence != Existence::Any
                && let Err(refused) = existence.check(writer.xattr(self.object, name)?.is_some())
            {
                return Ok(Err(refused));
            }
            writer.set_xattr(self.object, name, value, style, now())?;
            self.refresh(writer)?;
            Ok(Ok(()))
        })?
    }
    fn try_lookup(&self, name: &[u8]) -> Result<VnodeRef> {
        if self.kind != Kind::Directory {
            return Err(VfsError::NotDirectory);
        }
        if name == snapdir::NAME && self.shared.snapshot.is_none() && self.is_root()? {
            return Ok(SnapDir::open(&self.shared, self.arc()));
        }
        self.read(|writer| {
            let (object, _) = writer.lookup_entry(self.object, name)?.ok_or(pool_dmu::Error::NotFound)?;
            Ok(Self::open(&self.shared, writer, object)? as VnodeRef)
        })
    }
    fn try_parent(&self) -> Result<(VnodeRef, Box<[u8]>)> {
        if self.kind != Kind::Directory {
            return Err(VfsError::NotDirectory);
        }
        if let Some(snapshot) = &self.shared.snapshot
            && self.is_root()?
        {
            return Ok(snapshot.above());
        }
        self.read(|writer| {
            if self.object == writer.root() {
                return Ok((self.arc() as VnodeRef, Box::default()));
            }
            let parent = writer.stat(self.object)?.parent;
            // A directory does not know its own name: the parent does.
            let name = writer.read_dir(parent)?.into_iter().find(|entry| entry.object == self.object).map(|entry| entry.name);
            let parent = Self::open(&self.shared, writer, parent)?;
            Ok((parent as VnodeRef, name.unwrap_or_default().into_boxed_slice()))
        })
    }
    fn try_create(&self, name: &[u8], kind: Kind, mode: u32, rdev: DevNo, owner: Owner) -> Result<VnodeRef> {
        let make = match kind {
            Kind::File => Make::File,
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                Make::Special { type_bits: kind.type_bits().into(), rdev: u64::from(rdev.major) << 32 | u64::from(rdev.minor) }
            }
            Kind::Directory | Kind::Symlink | Kind::Anonymous => return Err(VfsError::Invalid),
        };
        self.add(name, make, mode, owner)
    }
    fn try_mkdir(&self, name: &[u8], mode: u32, owner: Owner) -> Result<VnodeRef> {
        self.add(name, Make::Directory, mode, owner)
    }
    fn try_symlink(&self, name: &[u8], target: &[u8], owner: Owner) -> Result<VnodeRef> {
        self.add(name, Make::Symlink(target), 0o777, owner)
    }
    fn try_link(&self, name: &[u8], target: &VnodeRef) -> Result<()> {
        let target = self.of(target)?;
        if target.kind == Kind::Directory {
            return Err(VfsError::NotPermitted);
        }
        self.require_directory()?;
        self.change(4096, |writer| {
            // Either may lose its last name until here.
            if target.unlinked.load(Relaxed) {
                return Ok(Err(VfsError::NotFound));
            }
            if let Err(gone) = self.require_directory() {
                return Ok(Err(gone));
            }
            writer.link(self.object, name, target.object, now())?;
            target.refresh(writer)?;
            self.refresh(writer).map(Ok)
        })?
    }
    fn try_unlink(&self, name: &[u8]) -> Result<()> {
        self.remove(name, false)
    }
    fn try_rmdir(&self, name: &[u8]) -> Result<()> {
        self.remove(name, true)
    }
    fn try_rename(&self, name: &[u8], target: &VnodeRef, target_name: &[u8], flags: RenameFlags) -> Result<()> {
        let target = self.of(target)?;
        self.require_directory()?;
        target.require_directory()?;
        self.change(8192, |writer| {
            if let Err(gone) = self.require_directory().and(target.require_directory()) {
                return Ok(Err(gone));
            }
            let (moved, moved_type) = writer.lookup_entry(self.object, name)?.ok_or(pool_dmu::Error::NotFound)?;
            let replaced = writer.lookup_entry(target.object, target_name)?;
            let exchange = flags.contains(RenameFlags::EXCHANGE);
            if replaced.is_some() && flags.contains(RenameFlags::NOREPLACE) {
                return Err(EditError::Exists);
            }
            if moved_type == 4 && Self::ancestors(writer, target.object)?.contains(&moved) {
                return Ok(Err(VfsError::Invalid));
            }
            let mut victim = None;
            if let Some((other, other_type)) = replaced {
                if exchange {
                    if other_type == 4 && Self::ancestors(writer, self.object)?.contains(&other) {
                        return Ok(Err(VfsError::Invalid));
                    }
                } else if other != moved {
                    match (moved_type == 4, other_type == 4) {
                        (true, false) => return Ok(Err(VfsError::NotDirectory)),
                        (false, true) => return Ok(Err(VfsError::IsDirectory)),
                        _ => victim = self.shared.known(other),
                    }
                }
            }
            writer.rename((self.object, name), (target.object, target_name), exchange, now(), victim.is_some())?;
            self.refresh(writer)?;
            target.refresh(writer)?;
            self.refresh_other(writer, moved)?;
            if let Some(node) = victim {
                node.refresh(writer)?;
                node.settle_unlinked();
            } else if exchange && let Some((other, _)) = replaced {
                self.refresh_other(writer, other)?;
            }
            Ok(Ok(()))
        })??;
        self.shared.reap();
        Ok(())
    }
    fn try_readdir(&self, cookie: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        self.require_directory()?;
        self.note_access();
        let (parent, shows_snapshots) = self.read(|writer| Ok((writer.stat(self.object)?.parent, cookie < 3 && self.shows_snapshots(writer)?)))?;
        if cookie < 1 && !emit(DirEntry { name: b".", ino: self.object, kind: Kind::Directory, next: 1 }) {
            return Ok(());
        }
        if cookie < 2 && !emit(DirEntry { name: b"..", ino: parent, kind: Kind::Directory, next: 2 }) {
            return Ok(());
        }
        if shows_snapshots && !emit(DirEntry { name: snapdir::NAME, ino: snapdir::OWN, kind: Kind::Directory, next: 3 }) {
            return Ok(());
        }
        // In the order of places in the directory's table: stable while entries come and go. A cookie is a name's place and its turn there, and leads behind it.
        let (place, turn) = ((cookie >> TURN_BITS).checked_sub(FIRST_PLACE), cookie % (1 << TURN_BITS));
        let mut from = place.unwrap_or(0);
        let mut last = cookie.max(3);
        loop {
            let page = self.read(|writer| writer.read_dir_from(self.object, from, READDIR_BATCH))?;
            let mut entries: Vec<_> = page.entries.into_iter().map(|(at, entry)| (at, turn_of(&entry.name), entry)).collect();
            entries.sort_unstable_by(|a, b| (a.0, a.1, &a.2.name).cmp(&(b.0, b.1, &b.2.name)));
            for (number, (at, its_turn, entry)) in entries.iter().enumerate() {
                if Some(*at) == place && *its_turn <= turn {
                    continue;
                }
                // Two of one place and one turn go out together. Chance makes few of those; of names that are made for it, a buffer that cannot hold all is given some again.
                if entries.get(number + 1).is_none_or(|(next, next_turn, _)| (next, next_turn) != (at, its_turn)) {
                    last = (at + FIRST_PLACE) << TURN_BITS | its_turn;
                }
                let kind = Kind::from_type_bits((entry.file_type as u32) << 12).unwrap_or(Kind::File);
                if !emit(DirEntry { name: &entry.name, ino: entry.object, kind, next: last }) {
                    return Ok(());
                }
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }
    fn try_read_at(&self, offset: u64, out: &mut [u8], io: Io) -> Result<usize> {
        if !self.has_contents() {
            return Err(if self.kind == Kind::Directory { VfsError::IsDirectory } else { VfsError::Invalid });
        }
        let mut pages = self.pages.lock();
        let mut size = self.size();
        let (mut done, mut has_waited) = (0, false);
        loop {
            let total = usize::try_from(size.saturating_sub(offset)).map_or(out.len(), |left| left.min(out.len()));
            if done >= total {
                break;
            }
            let at = offset + done as u64;
            if !has_waited && !pages.frames.contains_key(&(at >> PAGE_SHIFT)) {
                // It goes to the disks: with no lock, the zone waits as long as it has to, and room is made.
                drop(pages);
                wait_for_disks(io.zone);
                has_waited = true;
                pages = self.pages.lock();
                size = self.size();
                continue;
            }
            if has_waited && !self.shared.keeps_data() && !pages.frames.contains_key(&(at >> PAGE_SHIFT)) {
                done += self.pass(&pages, at, &mut out[done..total], io.zone)?;
                continue;
            }
            let start = (at % PAGE_SIZE as u64) as usize;
            let count = (PAGE_SIZE - start).min(total - done);
            let part = &mut out[done..done + count];
            match self.frame(&mut pages, at >> PAGE_SHIFT, size, io.zone) {
                Ok(frame) => frame.read(start, part),
                // No frame for the cache: without it, then.
                Err(VfsError::NoMemory) => part.copy_from_slice(&self.shared.fetch(IoClass::SyncRead, io.zone, self.object, at, count)?),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += count;
        }
        drop(pages);
        if has_waited {
            cache::balance();
        }
        self.note_access();
        Ok(done)
    }
    fn try_lend(&self, offset: u64, length: usize, io: Io, lent: &mut Lent) -> Result<Option<usize>> {
        if !self.shared.keeps_data() {
            return Ok(None);
        }
        loop {
            self.note_access();
            match self.lend_pages(offset, length, io.zone, lent) {
                // The zone's own cached pages go first; else it is read without a cache.
                Err(VfsError::NoMemory) if kif::relieve(io.zone) => {}
                Err(VfsError::NoMemory) => return Ok(None),
                result => return result.map(Some),
            }
        }
    }
    fn try_write_at(&self, offset: u64, data: &[u8], io: Io) -> Result<usize> {
        self.shared.storage.throttle_write(io.zone, data.len() as u64)?;
        let mut pages = self.pages.lock();
        self.write_locked(&mut pages, offset, data)
    }
    fn try_append(&self, data: &[u8], io: Io) -> Result<(u64, usize)> {
        self.shared.storage.throttle_write(io.zone, data.len() as u64)?;
        let mut pages = self.pages.lock();
        let end = self.size();
        let count = self.write_locked(&mut pages, end, data)?;
        Ok((end + count as u64, count))
    }
    fn try_truncate(&self, size: u64) -> Result<()> {
        self.resize(size, false)
    }
    fn try_extend(&self, size: u64) -> Result<()> {
        self.resize(size, true)
    }
    fn try_seek(&self, offset: u64, hole: bool) -> Result<Option<u64>> {
        if self.kind != Kind::File {
            return Err(VfsError::Invalid);
        }
        // What was written through a mapping is data, too.
        self.write_back()?;
        let mut from = offset;
        loop {
            // A file of many small blocks does not keep others from the pool.
            match self.read(|writer| writer.seek_some(self.object, from, hole, SEEK_BLOCKS))? {
                Sought::At(at) => return Ok(Some(at)),
                Sought::Nowhere => return Ok(None),
                Sought::GoOn(at) => from = at,
            }
        }
    }
    fn try_punch(&self, offset: u64, length: u64) -> Result<()> {
        if self.kind != Kind::File {
            return Err(VfsError::Invalid);
        }
        let mut pages = self.pages.lock();
        // The blocks at both ends are written anew.
        self.change(2 * RECORD_MAX, |writer| {
            self.forget_setid(writer)?;
            writer.punch_hole(self.object, offset, length, now())?;
            self.refresh(writer)
        })?;
        clear(&mut pages, offset, length);
        Ok(())
    }
    fn try_page(&self, index: u64, write: bool, zone: ZoneId) -> Result<Frame> {
        if !self.has_contents() {
            return Err(VfsError::NoDevice);
        }
        if write {
            self.check_writable()?;
        }
        let mut pages = self.pages.lock();
        if !pages.frames.contains_key(&index) {
            drop(pages);
            wait_for_disks(zone);
            pages = self.pages.lock();
        }
        let size = self.size();
        if index >= size.div_ceil(PAGE_SIZE as u64) {
            return Err(VfsError::Invalid);
        }
        let frame = self.frame(&mut pages, index, size, zone)?.clone();
        if write && !pages.writable.contains_key(&index) {
            pages.writable.insert(index, None);
            if pages.writable.len() == 1 {
                self.shared.keep(self.arc());
            }
            // Who makes the file system one to be read says so first and then looks at what is kept: here it is the other way round, so that one of the two notices.
            if let Err(error) = self.check_writable() {
                pages.writable.remove(&index);
                if pages.writable.is_empty() {
                    self.shared.is_clean(self.object);
                }
                return Err(error);
            }
        }
        drop(pages);
        cache::balance();
        Ok(frame)
    }
    fn try_sync(&self) -> Result<()> {
        if self.shared.snapshot.is_some() {
            return Ok(());
        }
        gate::throttle(kif::spawn().current_zone(), Op::PhysicalWrite);
        self.write_back()?;
        self.shared.storage.log(self.shared.dataset)
    }
}

impl Vnode for Node {
    fn id(&self) -> NodeId {
        NodeId { fs: self.shared.id, ino: self.object }
    }
    fn kind(&self) -> Kind {
        self.kind
    }
    fn attr(&self) -> Result<Attr> {
        let node = self.attributes.lock().clone();
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(Attr {
            id: self.id(),
            kind: self.kind,
            mode: number(node.mode & 0o7777),
            uid: number(node.uid),
            gid: number(node.gid),
            nlink: number(node.links),
            size: node.size,
            blocks: node.size.div_ceil(512),
            rdev: device(node.rdev),
            atime: nanos(node.accessed),
            mtime: nanos(node.modified),
            ctime: nanos(node.changed),
        })
    }
    fn blocks(&self, attr: &Attr) -> u64 {
        let bytes = match self.occupied.load(Relaxed) {
            UNKNOWN if self.is_volume() => return attr.blocks,
            UNKNOWN => self.read(|writer| self.look_at_space(writer)),
            known => Ok(known),
        };
        // One is for the object itself, as OpenZFS counts: a file with contents is never without blocks. Of a pool that cannot be asked it is what the size says.
        bytes.map_or(attr.blocks, |bytes| bytes.div_ceil(512) + 1)
    }
    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        self.durably(|| self.try_set_attr(change))
    }
    fn xattr(&self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        self.patiently(|| self.try_xattr(name))
    }
    fn xattr_names(&self) -> Result<Vec<Vec<u8>>> {
        self.patiently(|| self.try_xattr_names())
    }
    fn set_xattr(&self, name: &[u8], value: Option<&[u8]>, existence: Existence) -> Result<()> {
        self.durably(|| self.try_set_xattr(name, value, existence))
    }
    fn lookup(&self, name: &[u8]) -> Result<VnodeRef> {
        self.patiently(|| self.try_lookup(name))
    }
    fn parent(&self) -> Result<(VnodeRef, Box<[u8]>)> {
        self.patiently(|| self.try_parent())
    }
    fn create(&self, name: &[u8], kind: Kind, mode: u32, rdev: DevNo, owner: Owner) -> Result<VnodeRef> {
        self.durably(|| self.try_create(name, kind, mode, rdev, owner))
    }
    fn mkdir(&self, name: &[u8], mode: u32, owner: Owner) -> Result<VnodeRef> {
        self.durably(|| self.try_mkdir(name, mode, owner))
    }
    fn symlink(&self, name: &[u8], target: &[u8], owner: Owner) -> Result<VnodeRef> {
        self.durably(|| self.try_symlink(name, target, owner))
    }
    fn link(&self, name: &[u8], target: &VnodeRef) -> Result<()> {
        self.durably(|| self.try_link(name, target))
    }
    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.durably(|| self.try_unlink(name))
    }
    fn rmdir(&self, name: &[u8]) -> Result<()> {
        self.durably(|| self.try_rmdir(name))
    }
    fn rename(&self, name: &[u8], target: &VnodeRef, target_name: &[u8], flags: RenameFlags) -> Result<()> {
        self.durably(|| self.try_rename(name, target, target_name, flags))
    }
    fn readdir(&self, cookie: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        // What was given out is not given out again: the next call goes on behind it.
        let mut has_given = false;
        self.patiently(|| {
            let read = self.try_readdir(cookie, &mut |entry| {
                has_given = true;
                emit(entry)
            });
            if has_given && self.shared.storage.is_suspended() { Ok(()) } else { read }
        })
    }
    fn read_at(&self, offset: u64, out: &mut [u8], io: Io) -> Result<usize> {
        self.patiently(|| self.try_read_at(offset, out, io))
    }
    fn lend(&self, offset: u64, length: usize, io: Io, lent: &mut Lent) -> Result<Option<usize>> {
        self.patiently(|| self.try_lend(offset, length, io, lent))
    }
    fn write_at(&self, offset: u64, data: &[u8], io: Io) -> Result<usize> {
        self.durably(|| self.try_write_at(offset, data, io))
    }
    fn append(&self, data: &[u8], io: Io) -> Result<(u64, usize)> {
        self.durably(|| self.try_append(data, io))
    }
    fn truncate(&self, size: u64) -> Result<()> {
        self.durably(|| self.try_truncate(size))
    }
    fn extend(&self, size: u64) -> Result<()> {
        self.durably(|| self.try_extend(size))
    }
    fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>> {
        self.patiently(|| self.try_seek(offset, hole))
    }
    fn punch(&self, offset: u64, length: u64) -> Result<()> {
        self.durably(|| self.try_punch(offset, length))
    }
    fn page(&self, index: u64, write: bool, zone: ZoneId) -> Result<Frame> {
        self.patiently(|| self.try_page(index, write, zone))
    }
    fn sync(&self) -> Result<()> {
        self.patiently(|| self.try_sync())
    }
    fn readlink(&self) -> Result<Vec<u8>> {
        if self.kind != Kind::Symlink {
            return Err(VfsError::Invalid);
        }
        self.attributes.lock().symlink.clone().ok_or(VfsError::Io)
    }
    fn open(&self, flags: OpenFlags, _zone: ZoneId) -> Result<Option<VnodeRef>> {
        self.looks_at_access.store(true, Relaxed);
        match &self.fifo {
            Some(pipe) => pipe.open(self.id(), flags).map(Some),
            None => Ok(None),
        }
    }
    fn lends(&self) -> bool {
        self.has_contents()
    }
    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

/// What is added to a place in a cookie, so that those of `.`, `..` and `.zfs` come before.
const FIRST_PLACE: u64 = 4;
/// Bits of a cookie that tell names of one place (48 bits) apart.
const TURN_BITS: u32 = 14;

/// The turn of a name among those that share its place in a directory's table: FNV-1a, folded; not 0.
fn turn_of(name: &[u8]) -> u64 {
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    (hash ^ hash >> 32) % ((1 << TURN_BITS) - 1) + 1
}
/// Entries of a directory that are looked up at once: about what a call of `getdents` takes.
const READDIR_BATCH: usize = 128;

/// The root of a file system that cannot be read.
struct Unreadable {
    id: NodeId,
    error: VfsError,
}

impl Vnode for Unreadable {
    fn id(&self) -> NodeId {
        self.id
    }
    fn kind(&self) -> Kind {
        Kind::Directory
    }
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::simple(self.id, Kind::Directory, 0))
    }
    fn lookup(&self, _name: &[u8]) -> Result<VnodeRef> {
        Err(self.error)
    }
    fn parent(&self) -> Result<(VnodeRef, Box<[u8]>)> {
        Err(self.error)
    }
}
