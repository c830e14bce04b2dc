//! The address space.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kif::{Access, CopyFault, Fault, FaultHandler, PAGE_SHIFT, PAGE_SIZE, PageTable, ZoneId};
use sync::{Class, Mutex};

use crate::segment::Segment;
use crate::store::{Look, Slot, Store};
use crate::{Backing, BackingError, Label, Object, Protection, Region, SharedAnonymous};

/// First address past the user part (one guard page below the canonical end, as Linux has it).
pub const USER_END: u64 = 0x7fff_ffff_f000;
/// Lowest address that may be mapped.
pub const MMAP_MIN: u64 = 0x1_0000;
/// Most segments of one space.
const MAX_SEGMENTS: usize = 65_530;
/// Unmapped bytes kept below a segment that grows down.
const STACK_GAP: u64 = 1 << 20;
/// File pages brought in by one fault at most (an aligned window).
const FAULT_AROUND: u64 = 16;
const PAGE: u64 = PAGE_SIZE as u64;

/// Why an operation on an address space was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmError {
    /// A length of zero, an unaligned address, or flags that contradict.
    Invalid,
    /// The range leaves the user part, no room is left, a limit is reached, or part of the range is not mapped where it
    /// has to be.
    NoRoom,
    /// The zone's memory cap or the machine allows no more.
    OutOfMemory,
    /// `Place::FixedEmpty` found something mapped.
    Occupied,
    /// The file was not opened for what the mapping would allow.
    Denied,
    /// The address is not mapped.
    NotMapped,
}

impl From<kif::OutOfMemory> for VmError {
    fn from(_: kif::OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Why a page fault was not resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// No segment there (SEGV_MAPERR).
    NotMapped,
    /// The segment forbids the access (SEGV_ACCERR).
    Protected,
    /// Past the end of the mapped object, or its medium failed (BUS_ADRERR).
    NoObject,
    /// No memory for the page.
    OutOfMemory,
    /// A signal came first: nothing is wrong with the access.
    Interrupted,
}

impl From<BackingError> for FaultError {
    fn from(error: BackingError) -> Self {
        match error {
            BackingError::PastEnd | BackingError::Io => Self::NoObject,
            BackingError::OutOfMemory => Self::OutOfMemory,
            BackingError::Interrupted => Self::Interrupted,
        }
    }
}
impl From<kif::OutOfMemory> for FaultError {
    fn from(_: kif::OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Where a new mapping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Anywhere; near the hint if that is free (0: no hint).
    Hint(u64),
    /// Anywhere below 2 GiB (`MAP_32BIT`).
    Low,
    /// Exactly there, replacing what is there.
    Fixed(u64),
    /// Exactly there, and nothing may be there.
    FixedEmpty(u64),
}

/// A mapping to be made.
#[allow(missing_debug_implementations, reason = "holds a trait object")]
pub struct MapRequest {
    pub place: Place,
    /// Bytes; rounded up to pages.
    pub length: u64,
    pub protection: Protection,
    pub shared: bool,
    /// `None`: anonymous.
    pub object: Option<Object>,
    /// False if `protection` may never include writing (shared file opened for reading).
    pub may_write: bool,
    pub grows_down: bool,
    pub label: Label,
    /// Fault all pages in now, as far as that works.
    pub populate: bool,
}

impl MapRequest {
    /// A private anonymous mapping.
    #[must_use]
    pub const fn anonymous(place: Place, length: u64, protection: Protection) -> Self {
        Self {
            place,
            length,
            protection,
            shared: false,
            object: None,
            may_write: true,
            grows_down: false,
            label: Label::None,
            populate: false,
        }
    }
}

/// What `madvise` may ask and we heed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Forget the contents: private pages read as zero or as the file again.
    DontNeed,
    DontFork,
    DoFork,
    WipeOnFork,
    KeepOnFork,
    /// Nothing to do beyond checking the range.
    Note,
}

/// Limits of the owning process, in bytes (`u64::MAX`: none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub address_space: u64,
    pub data: u64,
    pub stack: u64,
}

/// Counters, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    pub mapped: u64,
    pub resident: u64,
    pub shared: u64,
    pub text: u64,
    pub data: u64,
    pub stack: u64,
}

/// Most segments that [`AddressSpace::regions`] gives at once.
pub const REGIONS_AT_ONCE: usize = 64;

/// Identity of a futex word: the same for all who share the memory, different from all else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FutexKey {
    /// Of one address space.
    Private { space: u64, address: u64 },
    /// Of a mapped object.
    Shared { device: u64, inode: u64, offset: u64 },
}

struct Inner {
    segments: BTreeMap<u64, Segment>,
    store: Store,
    table: Box<dyn PageTable>,
    limits: Limits,
    mapped: u64,
    brk_start: u64,
    brk: u64,
    mmap_top: u64,
    /// Above it no gap is known: searches for room start here. Unmapping raises it.
    gap_hint: u64,
    /// Bounds of the segment found last; empty once segments changed.
    found: (u64, u64),
    peak: u64,
}

/// One address space, shared by the LWPs of a process (and by a vfork child).
#[allow(missing_debug_implementations, reason = "printing would take the lock")]
pub struct AddressSpace {
    number: u64,
    zone: AtomicU32,
    token: u64,
    minor_faults: AtomicU64,
    inner: Mutex<Inner>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

const fn page_down(address: u64) -> u64 {
    address & !(PAGE - 1)
}

/// Rounds up to a page; `None` on overflow.
fn page_up(value: u64) -> Option<u64> {
    Some(value.checked_add(PAGE - 1)? & !(PAGE - 1))
}

/// Checks that `[start, start + length)` is page-aligned at its start, not empty and within the user part; returns its end.
fn check_range(start: u64, length: u64) -> Result<u64, VmError> {
    if !start.is_multiple_of(PAGE) || length == 0 {
        return Err(VmError::Invalid);
    }
    let end = page_up(length).and_then(|length| start.checked_add(length)).ok_or(VmError::NoRoom)?;
    if end > USER_END { Err(VmError::NoRoom) } else { Ok(end) }
}

impl AddressSpace {
    /// An empty space charged to `zone`.
    ///
    /// # Errors
    /// No memory for the page table.
    pub fn new(zone: ZoneId, limits: Limits) -> Result<Arc<Self>, VmError> {
        let table = kif::mmu().new_table(zone)?;
        Ok(Self::around(
            zone,
            Inner {
                segments: BTreeMap::new(),
                store: Store::default(),
                table,
                limits,
                mapped: 0,
                brk_start: 0,
                brk: 0,
                // Room for the stack to grow, 128 MiB at least, below the end.
                mmap_top: USER_END - page_down(limits.stack.clamp(128 << 20, 1 << 40)) - STACK_GAP,
                gap_hint: USER_END,
                found: (0, 0),
                peak: 0,
            },
        ))
    }

    fn around(zone: ZoneId, inner: Inner) -> Arc<Self> {
        Arc::new(Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            zone: AtomicU32::new(zone.0),
            token: inner.table.token(),
            minor_faults: AtomicU64::new(0),
            inner: Mutex::new(Class::AddressSpace, inner),
        })
    }

    /// The zone new pages are charged to.
    pub fn zone(&self) -> ZoneId {
        ZoneId(self.zone.load(Ordering::Relaxed))
    }

    /// What [`kif::Mmu::activate`] takes.
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// Makes the calling kernel thread run with this space.
    pub fn activate(self: &Arc<Self>) {
        kif::mmu().activate(Some(self.token), Some(Arc::clone(self) as Arc<dyn FaultHandler>));
    }

    /// Faults resolved so far.
    pub fn faults(&self) -> u64 {
        self.minor_faults.load(Ordering::Relaxed)
    }

    /// Replaces the limits (prlimit).
    pub fn set_limits(&self, limits: Limits) {
        self.inner.lock().limits = limits;
    }

    /// A copy for a forked child: private pages are shared copy-on-write from here on.
    ///
    /// # Errors
    /// No memory for page tables or bookkeeping.
    pub fn fork(&self) -> Result<Arc<Self>, VmError> {
        let zone = self.zone();
        let mut guard = self.inner.lock();
        let parent = &mut *guard;
        let reservation = kif::reserve(zone, parent.segments.len() as u64 * 192)?;
        let mut child = Inner {
            segments: BTreeMap::new(),
            store: Store::default(),
            table: kif::mmu().new_table(zone)?,
            limits: parent.limits,
            mapped: 0,
            brk_start: parent.brk_start,
            brk: parent.brk,
            mmap_top: parent.mmap_top,
            gap_hint: parent.gap_hint,
            found: (0, 0),
            peak: 0,
        };
        for (start, segment) in &parent.segments {
            if segment.dont_fork {
                continue;
            }
            child.mapped += (segment.end - start) / PAGE;
            child.segments.insert(*start, segment.clone());
            // Pages of an object are found again by a fault; only our own have to be handed on.
            if segment.shared || segment.wipe_on_fork {
                continue;
            }
            let access = Access { write: false, execute: segment.protection.execute };
            for (page, slot) in parent.store.range(*start >> PAGE_SHIFT, segment.end >> PAGE_SHIFT) {
                let Slot::Own(frame) = slot else { continue };
                let address = page << PAGE_SHIFT;
                if segment.protection.write {
                    parent.table.protect(address, access);
                }
                if segment.protection.any() {
                    child.table.map(address, frame.pfn(), access)?;
                }
                child.store.put(page, Slot::Own(frame.clone()), zone)?;
            }
        }
        drop(reservation);
        child.peak = child.store.resident();
        Ok(Self::around(zone, child))
    }

    /// Resolves a page fault.
    ///
    /// # Errors
    /// Why not; the program gets a signal.
    pub fn fault(&self, fault: Fault) -> Result<(), FaultError> {
        let zone = self.zone();
        self.minor_faults.fetch_add(1, Ordering::Relaxed);
        loop {
            let resolved = self.inner.lock().resolve(fault.address, fault.write, fault.execute, false, zone);
            if resolved != Err(FaultError::OutOfMemory) || !kif::relieve(zone) {
                return resolved;
            }
        }
    }

    /// Makes a mapping and returns its address.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn map(&self, mut request: MapRequest) -> Result<u64, VmError> {
        let zone = self.zone();
        let length = page_up(request.length).filter(|length| *length != 0 && *length <= USER_END);
        let length = match (length, request.length) {
            (_, 0) => return Err(VmError::Invalid),
            (None, _) => return Err(VmError::NoRoom),
            (Some(length), _) => length,
        };
        if request.protection.write && !request.may_write {
            return Err(VmError::Denied);
        }
        if let Some(object) = &request.object
            && object.first_page.checked_add(length / PAGE).is_none_or(|last| last > u64::MAX / PAGE)
        {
            return Err(VmError::Invalid);
        }
        if request.shared && request.object.is_none() {
            request.object = Some(Object { backing: Arc::new(SharedAnonymous::new()) as Arc<dyn Backing>, first_page: 0 });
        }
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let start = match request.place {
            Place::Fixed(at) | Place::FixedEmpty(at) => {
                let end = check_range(at, length)?;
                if at < MMAP_MIN {
                    return Err(VmError::Denied);
                }
                if matches!(request.place, Place::FixedEmpty(_)) && inner.occupied(at, end) {
                    return Err(VmError::Occupied);
                }
                at
            }
            Place::Hint(hint) => {
                let hint = page_down(hint);
                match check_range(hint, length) {
                    Ok(end) if hint >= MMAP_MIN && !inner.occupied_with_gap(hint, end) => hint,
                    _ => inner.find_room(length).ok_or(VmError::NoRoom)?,
                }
            }
            Place::Low => inner.find_gap(length, 0x8000_0000).ok_or(VmError::NoRoom)?,
        };
        let end = start + length;
        inner.check_growth(start, end, request.protection.write && !request.shared)?;
        inner.remove(start, end);
        let segment = Segment {
            end,
            protection: request.protection,
            shared: request.shared,
            may_write: request.may_write,
            grows_down: request.grows_down,
            dont_fork: false,
            wipe_on_fork: false,
            label: request.label,
            object: request.object,
        };
        inner.insert(start, segment);
        if request.populate && request.protection.any() {
            for address in (start..end).step_by(PAGE_SIZE) {
                if inner.resolve(address, request.protection.write, false, false, zone).is_err() {
                    break;
                }
            }
        }
        Ok(start)
    }

    /// Unmaps a range; parts that are not mapped are passed over.
    ///
    /// # Errors
    /// A bad range.
    pub fn unmap(&self, start: u64, length: u64) -> Result<(), VmError> {
        let end = check_range(start, length).map_err(|_| VmError::Invalid)?;
        let mut inner = self.inner.lock();
        if inner.segments.len() >= MAX_SEGMENTS {
            return Err(VmError::NoRoom);
        }
        inner.remove(start, end);
        Ok(())
    }

    /// Changes the protection of a range that is mapped without holes.
    ///
    /// # Errors
    /// [`VmError::NoRoom`] for a hole, [`VmError::Denied`] for a forbidden write permission.
    pub fn protect(&self, start: u64, length: u64, protection: Protection) -> Result<(), VmError> {
        if !start.is_multiple_of(PAGE) {
            return Err(VmError::Invalid);
        }
        if length == 0 {
            return Ok(());
        }
        let end = check_range(start, length)?;
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.check_mapped(start, end)?;
        if inner.segments.len() + 2 > MAX_SEGMENTS {
            return Err(VmError::NoRoom);
        }
        if protection.write && inner.overlapping(start, end).any(|(_, segment)| !segment.may_write) {
            return Err(VmError::Denied);
        }
        inner.change(start, end, |segment| segment.protection = protection);
        if protection.any() {
            let Inner { store, table, .. } = inner;
            for (page, slot) in store.range(start >> PAGE_SHIFT, end >> PAGE_SHIFT) {
                let write = match slot {
                    Slot::Own(frame) => protection.write && frame.is_exclusive(),
                    // A store through a shared mapping must be seen by the object first.
                    Slot::Borrowed(_) | Slot::Empty => false,
                };
                table.protect(page << PAGE_SHIFT, Access { write, execute: protection.execute });
            }
        } else {
            inner.table.unmap_range(start, end);
        }
        inner.merge_around(start, end);
        Ok(())
    }

    /// `mremap`: resizes a mapping, moving it if `may_move`; `target` demands a place (which is cleared).
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn remap(&self, old: u64, old_length: u64, new_length: u64, may_move: bool, target: Option<u64>) -> Result<u64, VmError> {
        let zone = self.zone();
        if !old.is_multiple_of(PAGE) || new_length == 0 {
            return Err(VmError::Invalid);
        }
        let old_length = page_up(old_length).ok_or(VmError::Invalid)?;
        let new_length = page_up(new_length).filter(|length| *length <= USER_END).ok_or(VmError::NoRoom)?;
        if old_length == 0 {
            return Err(VmError::Invalid);
        }
        let old_end = check_range(old, old_length)?;
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        // The range must lie within one segment.
        let (seg_start, segment) = inner.find(old).ok_or(VmError::NotMapped)?;
        if segment.end < old_end {
            return Err(VmError::NotMapped);
        }
        let (seg_end, segment) = (segment.end, segment.clone());
        if let Some(target) = target {
            let target_end = check_range(target, new_length).map_err(|_| VmError::Invalid)?;
            if target < MMAP_MIN || (target < old_end && old < target_end) {
                return Err(VmError::Invalid);
            }
            let replaced = inner.mapped_bytes(target, target_end);
            let grown = new_length.saturating_sub(old_length.saturating_add(replaced));
            inner.check_more(grown, segment.protection.write && !segment.shared)?;
            inner.remove(target, target_end);
            inner.move_pages(old, old_length, target, new_length, &segment.tail((old - seg_start) / PAGE), zone)?;
            return Ok(target);
        }
        if new_length <= old_length {
            if new_length < old_length {
                inner.remove(old + new_length, old_end);
            }
            return Ok(old);
        }
        let new_end = old.checked_add(new_length).filter(|end| *end <= USER_END);
        if old_end == seg_end
            && let Some(new_end) = new_end
            && !inner.occupied_with_gap(old_end, new_end)
        {
            inner.check_growth(old_end, new_end, segment.protection.write && !segment.shared)?;
            inner.mapped += (new_end - old_end) / PAGE;
            if let Some(segment) = inner.segments.get_mut(&seg_start) {
                segment.end = new_end;
            }
            inner.merge_around(seg_start, new_end);
            return Ok(old);
        }
        if !may_move {
            return Err(VmError::NoRoom);
        }
        let target = inner.find_room(new_length).ok_or(VmError::NoRoom)?;
        inner.check_more(new_length - old_length, segment.protection.write && !segment.shared)?;
        inner.move_pages(old, old_length, target, new_length, &segment.tail((old - seg_start) / PAGE), zone)?;
        Ok(target)
    }

    /// Sets where the heap starts (exec).
    pub fn set_brk_base(&self, start: u64) {
        let mut inner = self.inner.lock();
        let start = page_up(start).unwrap_or(USER_END);
        inner.brk_start = start;
        inner.brk = start;
    }

    /// `brk`: moves the end of the heap if that is possible; returns where it is now.
    pub fn brk(&self, wanted: u64) -> u64 {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if wanted < inner.brk_start || wanted > USER_END - PAGE {
            return inner.brk;
        }
        let (Some(old_end), Some(new_end)) = (page_up(inner.brk), page_up(wanted)) else { return inner.brk };
        if wanted - inner.brk_start > inner.limits.data {
            return inner.brk;
        }
        if new_end < old_end {
            inner.remove(new_end, old_end);
        } else if new_end > old_end {
            if inner.occupied_with_gap(old_end, new_end) || inner.check_growth(old_end, new_end, true).is_err() {
                return inner.brk;
            }
            let segment = Segment {
                end: new_end,
                protection: Protection::RW,
                shared: false,
                may_write: true,
                grows_down: false,
                dont_fork: false,
                wipe_on_fork: false,
                label: Label::Heap,
                object: None,
            };
            inner.insert(old_end, segment);
        }
        inner.brk = wanted;
        wanted
    }

    /// `madvise`.
    ///
    /// # Errors
    /// A bad range, or [`VmError::NoRoom`] where part of it is not mapped (the rest was done).
    pub fn advise(&self, start: u64, length: u64, advice: Advice) -> Result<(), VmError> {
        if !start.is_multiple_of(PAGE) {
            return Err(VmError::Invalid);
        }
        if length == 0 {
            return Ok(());
        }
        let end = check_range(start, length).map_err(|_| VmError::Invalid)?;
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        match advice {
            Advice::DontNeed => {
                inner.table.unmap_range(start, end);
                inner.store.remove_range(start >> PAGE_SHIFT, end >> PAGE_SHIFT);
            }
            Advice::DontFork | Advice::DoFork | Advice::WipeOnFork | Advice::KeepOnFork if inner.segments.len() + 2 > MAX_SEGMENTS => {
                return Err(VmError::NoRoom);
            }
            Advice::DontFork => inner.change(start, end, |segment| segment.dont_fork = true),
            Advice::DoFork => inner.change(start, end, |segment| segment.dont_fork = false),
            Advice::WipeOnFork => {
                if inner.overlapping(start, end).any(|(_, segment)| segment.object.is_some()) {
                    return Err(VmError::Invalid);
                }
                inner.change(start, end, |segment| segment.wipe_on_fork = true);
            }
            Advice::KeepOnFork => inner.change(start, end, |segment| segment.wipe_on_fork = false),
            Advice::Note => {}
        }
        inner.check_mapped(start, end)
    }

    /// The object of the first shared mapping in `[from, limit)`, and where that mapping ends. For a walk that holds no lock between two of them (`msync`).
    pub fn shared_object(&self, from: u64, limit: u64) -> Option<(u64, Arc<dyn Backing>)> {
        let inner = self.inner.lock();
        let shared = inner.overlapping(from, limit).filter(|(_, segment)| segment.shared);
        shared.filter_map(|(_, segment)| Some((segment.end, Arc::clone(&segment.object.as_ref()?.backing)))).next()
    }

    /// Checks that a range is mapped without holes (`msync`, `mlock`: there is nothing to lock).
    ///
    /// # Errors
    /// A bad range or [`VmError::NoRoom`] for a hole.
    pub fn check(&self, start: u64, length: u64) -> Result<(), VmError> {
        if length == 0 {
            return if start.is_multiple_of(PAGE) { Ok(()) } else { Err(VmError::Invalid) };
        }
        let end = check_range(start, length)?;
        self.inner.lock().check_mapped(start, end)
    }

    /// `mincore`: one byte per page, 1 where a page is held.
    ///
    /// # Errors
    /// A bad range or [`VmError::NoRoom`] for a hole.
    pub fn resident_map(&self, start: u64, length: u64) -> Result<Vec<u8>, VmError> {
        let end = check_range(start, length)?;
        let inner = self.inner.lock();
        inner.check_mapped(start, end)?;
        let pages = usize::try_from((end - start) / PAGE).map_err(|_| VmError::NoRoom)?;
        let mut map = Vec::new();
        map.try_reserve_exact(pages).map_err(|_| VmError::OutOfMemory)?;
        map.resize(pages, 0);
        for (page, _) in inner.store.range(start >> PAGE_SHIFT, end >> PAGE_SHIFT) {
            map[(page - (start >> PAGE_SHIFT)) as usize] = 1;
        }
        Ok(map)
    }

    /// Up to [`REGIONS_AT_ONCE`] segments that begin at `from` or above, lowest first. All of them: again from the end of the last one, until none
    /// comes. (A process decides how many there are, so nobody holds them all.)
    pub fn regions(&self, from: u64) -> Vec<Region> {
        // Files are asked for their names after the lock: a name is found by walking directories.
        let found: Vec<(Region, Option<Arc<dyn Backing>>)> = {
            let inner = self.inner.lock();
            let region = |(start, segment): (&u64, &Segment)| {
                let (name, object) = match (&segment.object, segment.label) {
                    (Some(object), _) => ("", Some(object)),
                    (None, Label::Heap) => ("[heap]", None),
                    (None, Label::Stack) => ("[stack]", None),
                    (None, Label::None) => ("", None),
                };
                let region = Region {
                    start: *start,
                    end: segment.end,
                    protection: segment.protection,
                    shared: segment.shared,
                    offset: object.map_or(0, |object| object.first_page * PAGE),
                    device: 0,
                    inode: 0,
                    name: String::from(name),
                    resident: inner.store.range(*start >> PAGE_SHIFT, segment.end >> PAGE_SHIFT).count() as u64,
                };
                (region, object.map(|object| Arc::clone(&object.backing)))
            };
            inner.segments.range(from..).take(REGIONS_AT_ONCE).map(region).collect()
        };
        let named = |(mut region, backing): (Region, Option<Arc<dyn Backing>>)| {
            if let Some(backing) = backing {
                (region.device, region.inode) = backing.identity();
                region.name = backing.name();
            }
            region
        };
        found.into_iter().map(named).collect()
    }

    /// Counters for `/proc/PID/statm` and `getrusage`.
    pub fn usage(&self) -> Usage {
        let inner = self.inner.lock();
        let mut usage = Usage { mapped: inner.mapped, resident: inner.store.resident(), ..Usage::default() };
        for (start, segment) in &inner.segments {
            let pages = (segment.end - start) / PAGE;
            if segment.shared {
                usage.shared += inner.store.range(*start >> PAGE_SHIFT, segment.end >> PAGE_SHIFT).count() as u64;
            }
            if segment.label == Label::Stack {
                usage.stack += pages;
            } else if segment.protection.execute {
                usage.text += pages;
            } else if segment.protection.write && !segment.shared {
                usage.data += pages;
            }
        }
        usage
    }

    /// Most pages ever held at once.
    pub fn peak_resident(&self) -> u64 {
        self.inner.lock().peak
    }

    /// Identity of the futex word at `address`.
    ///
    /// # Errors
    /// Not mapped.
    pub fn futex_key(&self, address: u64) -> Result<FutexKey, FaultError> {
        let inner = self.inner.lock();
        let (start, segment) = inner.find(address).ok_or(FaultError::NotMapped)?;
        Ok(match &segment.object {
            Some(object) if segment.shared => {
                let (device, inode) = object.backing.identity();
                FutexKey::Shared { device, inode, offset: (address - start) + object.first_page * PAGE }
            }
            _ => FutexKey::Private { space: self.number, address },
        })
    }

    /// The key of a word that the program says is private: no look-up.
    pub const fn private_futex_key(&self, address: u64) -> FutexKey {
        FutexKey::Private { space: self.number, address }
    }

    /// Reads memory of this space, whoever runs; returns the bytes read (short at the first hole).
    pub fn peek(&self, address: u64, out: &mut [u8]) -> usize {
        let zone = self.zone();
        let mut inner = self.inner.lock();
        let mut done = 0;
        while done < out.len() {
            let Some(at) = address.checked_add(done as u64) else { break };
            let offset = (at % PAGE) as usize;
            let count = (PAGE_SIZE - offset).min(out.len() - done);
            if inner.resolve(at, false, false, true, zone).is_err() {
                break;
            }
            let Some(frame) = inner.store.get(at >> PAGE_SHIFT).and_then(Slot::frame) else { break };
            frame.read(offset, &mut out[done..done + count]);
            done += count;
        }
        done
    }

    /// Writes memory of this space, whoever runs and whatever the protection (exec: the first stack, the tail of a segment).
    /// Private segments only.
    ///
    /// # Errors
    /// Not mapped, shared, or no memory; earlier pages may have been written.
    pub fn poke(&self, address: u64, data: &[u8]) -> Result<(), FaultError> {
        let zone = self.zone();
        let mut inner = self.inner.lock();
        let mut done = 0;
        while done < data.len() {
            let at = address.checked_add(done as u64).ok_or(FaultError::NotMapped)?;
            let offset = (at % PAGE) as usize;
            let count = (PAGE_SIZE - offset).min(data.len() - done);
            if inner.find(at).is_some_and(|(_, segment)| segment.shared) {
                return Err(FaultError::Protected);
            }
            inner.resolve(at, true, false, true, zone)?;
            let frame = inner.store.get(at >> PAGE_SHIFT).and_then(Slot::frame).ok_or(FaultError::NotMapped)?;
            frame.write(offset, &data[done..done + count]);
            done += count;
        }
        Ok(())
    }
}

impl FaultHandler for AddressSpace {
    fn resolve(&self, fault: Fault) -> Result<(), CopyFault> {
        self.fault(fault).map_err(|_| CopyFault)
    }
}

impl Inner {
    /// The segment that holds `address`.
    fn find(&self, address: u64) -> Option<(u64, &Segment)> {
        let (start, segment) = self.segments.range(..=address).next_back()?;
        (address < segment.end).then_some((*start, segment))
    }

    /// The segments that overlap `[start, end)`.
    fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &Segment)> {
        let first = self.find(start).map_or(start, |(first, _)| first);
        self.segments.range(first..end.max(first)).map(|(start, segment)| (*start, segment))
    }

    fn occupied(&self, start: u64, end: u64) -> bool {
        self.overlapping(start, end).next().is_some()
    }

    /// As [`Inner::occupied`], counting the guard gap below a stack.
    fn occupied_with_gap(&self, start: u64, end: u64) -> bool {
        self.occupied(start, end)
            || self.segments.range(end..).next().is_some_and(|(next, segment)| segment.grows_down && next - end < STACK_GAP)
    }

    /// Asserts nothing, refuses a hole in `[start, end)`.
    fn check_mapped(&self, start: u64, end: u64) -> Result<(), VmError> {
        let mut at = start;
        for (first, segment) in self.overlapping(start, end) {
            if first > at {
                return Err(VmError::NoRoom);
            }
            at = segment.end;
        }
        if at < end { Err(VmError::NoRoom) } else { Ok(()) }
    }

    /// Refuses a new mapping of `[start, end)` that would break a limit. What it replaces counts in its favour.
    fn check_growth(&self, start: u64, end: u64, data: bool) -> Result<(), VmError> {
        self.check_more((end - start).saturating_sub(self.mapped_bytes(start, end)), data)
    }

    /// Bytes of `[start, end)` that are mapped.
    fn mapped_bytes(&self, start: u64, end: u64) -> u64 {
        self.overlapping(start, end).map(|(first, segment)| segment.end.min(end) - first.max(start)).sum()
    }

    /// Refuses `grown` more mapped bytes that would break a limit.
    fn check_more(&self, grown: u64, data: bool) -> Result<(), VmError> {
        if self.segments.len() + 2 > MAX_SEGMENTS {
            return Err(VmError::NoRoom);
        }
        if self.mapped.saturating_mul(PAGE).saturating_add(grown) > self.limits.address_space {
            return Err(VmError::NoRoom);
        }
        if data && self.limits.data != u64::MAX {
            let held: u64 = self
                .segments
                .iter()
                .filter(|(_, segment)| segment.protection.write && !segment.shared && segment.label != Label::Stack)
                .map(|(start, segment)| segment.end - start)
                .sum();
            if held.saturating_add(grown) > self.limits.data {
                return Err(VmError::NoRoom);
            }
        }
        Ok(())
    }

    /// A free range of `length` bytes for a mapping that may lie anywhere. Goes down from the last one given, as long as
    /// there is room; a search of everything comes only then.
    fn find_room(&mut self, length: u64) -> Option<u64> {
        let top = self.mmap_top;
        let hinted = if self.gap_hint < top { self.find_gap(length, self.gap_hint) } else { None };
        let start = hinted.or_else(|| self.find_gap(length, top))?;
        self.gap_hint = start;
        Some(start)
    }

    /// Highest free range of `length` bytes that ends at or below `top`.
    fn find_gap(&self, length: u64, top: u64) -> Option<u64> {
        let mut limit = top;
        let first_above = self.segments.range(top..).next();
        if let Some((next, segment)) = first_above
            && segment.grows_down
        {
            limit = limit.min(next.saturating_sub(STACK_GAP));
        }
        for (start, segment) in self.segments.range(..top).rev() {
            if segment.end <= limit && limit - segment.end >= length {
                return Some(limit - length);
            }
            let gap = if segment.grows_down { STACK_GAP } else { 0 };
            limit = limit.min(start.saturating_sub(gap));
        }
        limit.checked_sub(length).filter(|start| *start >= MMAP_MIN)
    }

    /// Enters a segment into a free range.
    fn insert(&mut self, start: u64, segment: Segment) {
        let end = segment.end;
        self.mapped += (end - start) / PAGE;
        let replaced = self.segments.insert(start, segment);
        assert!(replaced.is_none(), "segment inserted over another at {start:#x}");
        self.merge_around(start, end);
    }

    /// Merges what touches `[start, end)` from either side, and inside it.
    fn merge_around(&mut self, start: u64, end: u64) {
        self.found = (0, 0);
        let first = self.segments.range(..start).next_back().map_or(start, |(first, _)| *first);
        let mut at = first;
        loop {
            let Some((&left, segment)) = self.segments.range(at..=end).next() else { return };
            let right = segment.end;
            if right > end {
                return;
            }
            let joins = self.segments.get(&right).is_some_and(|next| segment.continues_with((right - left) / PAGE, next));
            if !joins {
                at = left + 1;
                continue;
            }
            let next_end = self.segments.remove(&right).map_or(right, |next| next.end);
            if let Some(segment) = self.segments.get_mut(&left) {
                segment.end = next_end;
            }
            at = left;
        }
    }

    /// Splits the segment that holds `at`, if `at` is not its start.
    fn split(&mut self, at: u64) {
        self.found = (0, 0);
        let Some((start, segment)) = self.find(at) else { return };
        if start == at {
            return;
        }
        let tail = segment.tail((at - start) / PAGE);
        if let Some(segment) = self.segments.get_mut(&start) {
            segment.end = at;
        }
        self.segments.insert(at, tail);
    }

    /// Applies `edit` to every segment of `[start, end)`, splitting at its ends.
    fn change(&mut self, start: u64, end: u64, edit: impl Fn(&mut Segment)) {
        self.split(start);
        self.split(end);
        for (_, segment) in self.segments.range_mut(start..end) {
            edit(segment);
        }
    }

    /// Removes segments, translations and pages of `[start, end)`.
    fn remove(&mut self, start: u64, end: u64) {
        if !self.occupied(start, end) {
            return;
        }
        self.split(start);
        self.split(end);
        while let Some((&first, segment)) = self.segments.range(start..end).next() {
            self.mapped -= (segment.end - first) / PAGE;
            self.segments.remove(&first);
        }
        self.gap_hint = self.gap_hint.max(end);
        self.found = (0, 0);
        // First the translations, then the pages: nobody reaches a freed frame.
        self.table.unmap_range(start, end);
        self.store.remove_range(start >> PAGE_SHIFT, end >> PAGE_SHIFT);
    }

    /// Moves the pages of a range to a free one and unmaps the old range.
    fn move_pages(
        &mut self,
        old: u64,
        old_length: u64,
        target: u64,
        new_length: u64,
        segment: &Segment,
        zone: ZoneId,
    ) -> Result<(), VmError> {
        let mut moved = segment.clone();
        moved.end = target + new_length;
        moved.grows_down = false;
        self.table.unmap_range(old, old + old_length);
        let from = old >> PAGE_SHIFT;
        let to = target >> PAGE_SHIFT;
        let end = (old + old_length.min(new_length)) >> PAGE_SHIFT;
        let mut at = from;
        loop {
            let next = self.store.range(at, end).next().map(|(page, _)| page);
            let Some(page) = next else { break };
            let slot = self.store.take(page);
            self.store.put(page - from + to, slot, zone)?;
            at = page + 1;
        }
        self.remove(old, old + old_length);
        self.insert(target, moved);
        Ok(())
    }

    /// Extends the stack segment above `address` down to it, if there is one and its limit allows.
    fn grow_stack(&mut self, address: u64) -> Result<(), FaultError> {
        let (&start, segment) = self.segments.range(address..).next().ok_or(FaultError::NotMapped)?;
        if !segment.grows_down {
            return Err(FaultError::NotMapped);
        }
        let new_start = page_down(address);
        if segment.end - new_start > self.limits.stack || new_start < MMAP_MIN {
            return Err(FaultError::NotMapped);
        }
        let below = self.segments.range(..start).next_back().map_or(0, |(_, segment)| segment.end);
        if new_start < below.saturating_add(STACK_GAP) || self.check_growth(new_start, start, false).is_err() {
            return Err(FaultError::NotMapped);
        }
        self.found = (0, 0);
        let Some(mut segment) = self.segments.remove(&start) else { return Err(FaultError::NotMapped) };
        let pages = (start - new_start) / PAGE;
        if let Some(object) = &mut segment.object {
            object.first_page = object.first_page.saturating_sub(pages);
        }
        self.mapped += pages;
        self.segments.insert(new_start, segment);
        Ok(())
    }

    /// Makes the page at `address` accessible. `force` passes over the protection (not over missing segments).
    fn resolve(&mut self, address: u64, write: bool, execute: bool, force: bool, zone: ZoneId) -> Result<(), FaultError> {
        if address >= USER_END {
            return Err(FaultError::NotMapped);
        }
        // The segment found last is most often the right one, and an exact key is found sooner than a range.
        if address < self.found.0 || address >= self.found.1 {
            if self.find(address).is_none() {
                self.grow_stack(address)?;
            }
            let (start, segment) = self.find(address).ok_or(FaultError::NotMapped)?;
            self.found = (start, segment.end);
        }
        let Self { segments, store, table, peak, found: (start, _), .. } = self;
        let segment = segments.get(start).ok_or(FaultError::NotMapped)?;
        let protection = segment.protection;
        if !force && !protection.allows(write, execute) {
            return Err(FaultError::Protected);
        }
        let page = address >> PAGE_SHIFT;
        let at = page << PAGE_SHIFT;
        let mut map = |pfn: kif::Pfn, writable: bool| -> Result<(), FaultError> {
            if protection.any() {
                let access = Access { write: writable && protection.write, execute: protection.execute };
                table.map(at, pfn, access)?;
            }
            Ok(())
        };
        // A page that takes another's place is mapped first and then stored (the chunk exists, so that cannot fail): the old
        // frame is let go when nothing maps it any more. A new page is stored first: what is mapped is always held.
        match store.look(page) {
            Look::Held(Slot::Own(frame)) => {
                let exclusive = frame.is_exclusive();
                if write && !exclusive {
                    let copy = frame.duplicate(zone)?;
                    map(copy.pfn(), true)?;
                    store.put(page, Slot::Own(copy), zone)?;
                } else {
                    map(frame.pfn(), exclusive)?;
                }
            }
            Look::Held(Slot::Borrowed(frame)) if !write => map(frame.pfn(), false)?,
            Look::Held(Slot::Borrowed(frame)) => {
                let (copy, slot): (_, fn(kif::Frame) -> Slot) = match &segment.object {
                    Some(object) if segment.shared => {
                        (object.backing.page(object.first_page + (at - *start) / PAGE, zone, true)?, Slot::Borrowed)
                    }
                    _ => (frame.duplicate(zone)?, Slot::Own),
                };
                map(copy.pfn(), true)?;
                store.put(page, slot(copy), zone)?;
            }
            Look::Held(Slot::Empty) => unreachable!("page {page:#x} is held and empty"),
            free @ (Look::Free(_) | Look::NoChunk) => {
                let Some(object) = &segment.object else {
                    let frame = kif::Frame::allocate(zone)?;
                    let pfn = frame.pfn();
                    match free {
                        Look::Free(vacancy) => vacancy.fill(Slot::Own(frame)),
                        Look::Held(_) | Look::NoChunk => store.put(page, Slot::Own(frame), zone)?,
                    }
                    *peak = (*peak).max(store.resident());
                    return map(pfn, true);
                };
                let index = object.first_page + (at - *start) / PAGE;
                let frame = object.backing.page(index, zone, write && segment.shared)?;
                if write && !segment.shared {
                    let copy = frame.duplicate(zone)?;
                    let pfn = copy.pfn();
                    store.put(page, Slot::Own(copy), zone)?;
                    map(pfn, true)?;
                } else {
                    let pfn = frame.pfn();
                    store.put(page, Slot::Borrowed(frame), zone)?;
                    map(pfn, write)?;
                    if !write && protection.any() {
                        fault_around(*start, segment, store, &mut **table, page, zone);
                    }
                }
                *peak = (*peak).max(store.resident());
            }
        }
        Ok(())
    }
}

/// Brings in the neighbours of a file page that was read, in the aligned window around it. Failures end it quietly: the page
/// will fault when it is needed.
fn fault_around(start: u64, segment: &Segment, store: &mut Store, table: &mut dyn PageTable, page: u64, zone: ZoneId) {
    let Some(object) = &segment.object else { return };
    let window = page & !(FAULT_AROUND - 1);
    let first = window.max(start >> PAGE_SHIFT);
    let limit = (window + FAULT_AROUND).min(segment.end >> PAGE_SHIFT);
    let access = Access { write: false, execute: segment.protection.execute };
    for near in first..limit {
        if near == page || store.get(near).is_some_and(|slot| slot.frame().is_some()) {
            continue;
        }
        let index = object.first_page + near - (start >> PAGE_SHIFT);
        let Ok(frame) = object.backing.page(index, zone, false) else { return };
        let pfn = frame.pfn();
        if store.put(near, Slot::Borrowed(frame), zone).is_err() || table.map(near << PAGE_SHIFT, pfn, access).is_err() {
            return;
        }
    }
}
