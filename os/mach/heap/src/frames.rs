//! Frames: metadata, buddy lists, per-CPU caches.

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use kif::{Frames, OutOfMemory, PAGE_SHIFT, Pfn, ZoneId};
use once_cell::race::OnceRef;
use sync::{Class, SpinLock};

use crate::PAGE;
use crate::account::{Account, Accounts, CurrentAccount};
use crate::slab::Slabs;

/// CPUs that have a cache of frames.
pub const CPUS: usize = 32;
/// log2 of the pages of the largest block.
const MAX_ORDER: usize = 12;
/// Pages of the largest block (16 MiB).
pub const MAX_BLOCK_PAGES: usize = 1 << MAX_ORDER;
/// Frames in a CPU's cache, and how many move at once between it and the buddy lists.
const CACHE: usize = 64;
const BATCH: usize = 32;
/// No frame: end of a list.
const NONE: u32 = u32::MAX;

/// States of a frame; 0: not memory of ours.
const USED: u8 = 1;
/// In a CPU's cache, or in a free block but not its first frame.
const FREE_TAIL: u8 = 2;
/// First frame of a free block of order `state - FREE_HEAD`.
const FREE_HEAD: u8 = 16;

/// What is known of a frame.
#[derive(Debug)]
pub(crate) struct Meta {
    references: AtomicU32,
    next: AtomicU32,
    previous: AtomicU32,
    zone: AtomicU16,
    /// The zone that last wrote it (survives freeing): contents never pass from one zone to another.
    written_by: AtomicU16,
    state: AtomicU8,
}

/// The buddy lists: first frame of the free blocks of each order.
#[derive(Debug)]
struct Buddy {
    heads: [u32; MAX_ORDER + 1],
}

/// A CPU's cache of single frames.
#[derive(Debug)]
struct Cache {
    frames: [u32; CACHE],
    count: usize,
}

/// Physical memory and the kernel heap. There is one, a static.
#[allow(missing_debug_implementations, reason = "printing would take the locks")]
pub struct Heap {
    /// Virtual address of physical address 0.
    base: AtomicPtr<u8>,
    meta: AtomicPtr<Meta>,
    meta_count: AtomicUsize,
    total: AtomicU64,
    free: AtomicU64,
    /// Frames that fallible allocations leave alone.
    emergency: AtomicU64,
    buddy: SpinLock<Buddy>,
    caches: [SpinLock<Cache>; CPUS],
    pub(crate) accounts: Accounts,
    pub(crate) slabs: Slabs,
    current: OnceRef<'static, &'static dyn CurrentAccount>,
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

impl Heap {
    /// A heap without memory.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            base: AtomicPtr::new(core::ptr::null_mut()),
            meta: AtomicPtr::new(core::ptr::null_mut()),
            meta_count: AtomicUsize::new(0),
            total: AtomicU64::new(0),
            free: AtomicU64::new(0),
            emergency: AtomicU64::new(0),
            buddy: SpinLock::new(Class::Frames, Buddy { heads: [NONE; MAX_ORDER + 1] }),
            caches: [const { SpinLock::new(Class::FrameCache, Cache { frames: [0; CACHE], count: 0 }) }; CPUS],
            accounts: Accounts::new(),
            slabs: Slabs::new(),
            current: OnceRef::new(),
        }
    }

    /// Gives the heap its memory: page-aligned physical ranges `start .. end`, ascending. Returns false if no range has room for the
    /// metadata (nothing can be allocated then).
    ///
    /// # Safety
    /// 1. Called once, before any other use.
    /// 2. `base + p` is readable and writable for every byte `p` of the ranges, for ever, and belongs to nobody else.
    /// 3. `base` is aligned to 16 MiB.
    pub unsafe fn init(&self, base: *mut u8, ranges: impl Iterator<Item = (u64, u64)> + Clone) -> bool {
        self.base.store(base, Relaxed);
        let frames = ranges.clone().map(|(_, end)| end >> PAGE_SHIFT).max().unwrap_or(0);
        let Ok(frames) = usize::try_from(frames) else { return false };
        let bytes = (frames * size_of::<Meta>()).next_multiple_of(PAGE) as u64;
        let Some((place, _)) = ranges.clone().find(|(start, end)| end - start >= bytes) else { return false };
        // SAFETY: inside a range, so valid memory of ours (condition 2).
        let meta = unsafe { base.add(usize::try_from(place).expect("an address fits usize")) }.cast::<Meta>();
        // SAFETY: `bytes` bytes from `place` lie in the range that was found; zero is a valid Meta (a hole).
        unsafe { core::ptr::write_bytes(meta.cast::<u8>(), 0, usize::try_from(bytes).expect("fits")) };
        self.meta.store(meta, Relaxed);
        self.meta_count.store(frames, Relaxed);
        let mut buddy = self.buddy.lock();
        for (start, end) in ranges {
            let start = if start == place { start + bytes } else { start };
            let (first, limit) = (frame_number(start), frame_number(end));
            for frame in first..limit {
                self.meta(frame).state.store(USED, Relaxed);
            }
            self.total.fetch_add(u64::from(limit - first), Relaxed);
            self.free_run(&mut buddy, first, limit);
        }
        drop(buddy);
        let total = self.total.load(Relaxed);
        // 1/64 of memory, at least 1 MiB, at most 64 MiB.
        self.emergency.store((total / 64).clamp(256, 16384).min(total / 2), Relaxed);
        true
    }

    /// Installs the way to the running thread's account (first one wins).
    pub fn install_current(&self, current: &'static &'static dyn CurrentAccount) {
        if self.current.set(current).is_err() {}
    }

    /// Calls `body` with the running thread's account, or with none.
    pub(crate) fn with_account<R>(&self, body: impl FnOnce(Option<&Account>) -> R) -> R {
        let mut body = Some(body);
        let mut out = None;
        if let Some(current) = self.current.get() {
            current.with(&mut |account| {
                if let Some(body) = body.take() {
                    out = Some(body(Some(account)));
                }
            });
        }
        match (out, body) {
            (Some(out), _) => out,
            (None, Some(body)) => body(None),
            (None, None) => unreachable!("the body was taken, so it has run"),
        }
    }

    fn meta(&self, frame: u32) -> &Meta {
        let index = frame as usize;
        assert!(index < self.meta_count.load(Relaxed), "frame {frame:#x} is outside memory");
        // SAFETY: 1. `init` stored a table of `meta_count` entries, which lives for ever; 2. the index is below that.
        unsafe { &*self.meta.load(Relaxed).add(index) }
    }

    /// Address of a frame in the direct map.
    pub(crate) fn address(&self, frame: u32) -> *mut u8 {
        self.base.load(Relaxed).wrapping_add((frame as usize) << PAGE_SHIFT)
    }

    /// The frame at an address in the direct map.
    pub(crate) fn frame_at(&self, address: *const u8) -> u32 {
        let offset = (address as usize).wrapping_sub(self.base.load(Relaxed) as usize);
        u32::try_from(offset >> PAGE_SHIFT).expect("an address of the direct map")
    }

    // ---- buddy lists -------------------------------------------------------------------------------------------------------

    fn list_push(&self, buddy: &mut Buddy, frame: u32, order: usize) {
        let head = buddy.heads[order];
        let meta = self.meta(frame);
        meta.state.store(FREE_HEAD + u8::try_from(order).expect("orders are small"), Relaxed);
        meta.next.store(head, Relaxed);
        meta.previous.store(NONE, Relaxed);
        if head != NONE {
            self.meta(head).previous.store(frame, Relaxed);
        }
        buddy.heads[order] = frame;
    }

    fn list_remove(&self, buddy: &mut Buddy, frame: u32, order: usize) {
        let meta = self.meta(frame);
        let (next, previous) = (meta.next.load(Relaxed), meta.previous.load(Relaxed));
        if previous == NONE {
            assert_eq!(buddy.heads[order], frame, "free list of order {order} is broken");
            buddy.heads[order] = next;
        } else {
            self.meta(previous).next.store(next, Relaxed);
        }
        if next != NONE {
            self.meta(next).previous.store(previous, Relaxed);
        }
        meta.state.store(FREE_TAIL, Relaxed);
    }

    /// Frees the block `frame` of `order`, joining it with its free buddies.
    fn free_block(&self, buddy: &mut Buddy, mut frame: u32, mut order: usize) {
        let count = 1_u32 << order;
        for each in frame..frame + count {
            self.meta(each).state.store(FREE_TAIL, Relaxed);
        }
        self.free.fetch_add(u64::from(count), Relaxed);
        while order < MAX_ORDER {
            let other = frame ^ (1 << order);
            if (other as usize) >= self.meta_count.load(Relaxed)
                || usize::from(self.meta(other).state.load(Relaxed)) != usize::from(FREE_HEAD) + order
            {
                break;
            }
            self.list_remove(buddy, other, order);
            frame = frame.min(other);
            order += 1;
        }
        self.list_push(buddy, frame, order);
    }

    /// Frees frames `first .. limit` in the largest aligned blocks.
    fn free_run(&self, buddy: &mut Buddy, mut first: u32, limit: u32) {
        while first < limit {
            let aligned = (first.trailing_zeros() as usize).min(MAX_ORDER);
            let fits = (limit - first).ilog2() as usize;
            let order = aligned.min(fits);
            self.free_block(buddy, first, order);
            first += 1 << order;
        }
    }

    /// Takes a block of `order`.
    fn take_block(&self, buddy: &mut Buddy, order: usize) -> Option<u32> {
        let from = (order..=MAX_ORDER).find(|order| buddy.heads[*order] != NONE)?;
        let frame = buddy.heads[from];
        self.list_remove(buddy, frame, from);
        for order in (order..from).rev() {
            self.list_push(buddy, frame + (1 << order), order);
        }
        self.free.fetch_sub(1 << order, Relaxed);
        for each in frame..frame + (1 << order) {
            self.meta(each).state.store(USED, Relaxed);
        }
        Some(frame)
    }

    // ---- single frames ------------------------------------------------------------------------------------------------------

    fn cache(&self) -> &SpinLock<Cache> {
        // If the thread moves to another CPU right after, it locks the other one's cache: correct, only slower.
        &self.caches[sync::cpu().0 as usize % CPUS]
    }

    fn take_single(&self) -> Option<u32> {
        let mut cache = self.cache().lock();
        if cache.count == 0 {
            let mut buddy = self.buddy.lock();
            for _ in 0..BATCH {
                let Some(frame) = self.take_block(&mut buddy, 0) else { break };
                let slot = cache.count;
                cache.frames[slot] = frame;
                cache.count += 1;
                self.meta(frame).state.store(FREE_TAIL, Relaxed);
                self.free.fetch_add(1, Relaxed);
            }
        }
        if cache.count == 0 {
            drop(cache);
            return self.steal_single();
        }
        cache.count -= 1;
        let frame = cache.frames[cache.count];
        drop(cache);
        self.take_cached(frame);
        Some(frame)
    }

    fn take_cached(&self, frame: u32) {
        self.free.fetch_sub(1, Relaxed);
        let before = self.meta(frame).state.swap(USED, Relaxed);
        assert_eq!(before, FREE_TAIL, "frame {frame:#x} in a cache is not free");
    }

    /// The last resort: another CPU's cache.
    fn steal_single(&self) -> Option<u32> {
        self.caches.iter().find_map(|cache| {
            let mut cache = cache.lock();
            cache.count = cache.count.checked_sub(1)?;
            let frame = cache.frames[cache.count];
            drop(cache);
            self.take_cached(frame);
            Some(frame)
        })
    }

    fn give_single(&self, frame: u32) {
        let before = self.meta(frame).state.swap(FREE_TAIL, Relaxed);
        assert_eq!(before, USED, "frame {frame:#x} is freed twice");
        self.free.fetch_add(1, Relaxed);
        let mut cache = self.cache().lock();
        if cache.count == CACHE {
            let mut buddy = self.buddy.lock();
            for slot in CACHE - BATCH..CACHE {
                self.free.fetch_sub(1, Relaxed);
                self.free_block(&mut buddy, cache.frames[slot], 0);
            }
            cache.count = CACHE - BATCH;
        }
        let slot = cache.count;
        cache.frames[slot] = frame;
        cache.count += 1;
    }

    /// True if fallible calls may take `frames` more.
    fn may_take(&self, frames: u64) -> bool {
        let kept = self.emergency.load(Relaxed) + self.accounts.reserved().div_ceil(PAGE as u64);
        self.free.load(Relaxed) >= kept.saturating_add(frames)
    }

    /// See [`Frames::allocate`].
    ///
    /// # Errors
    /// See there.
    pub fn allocate_frame(&self, zone: ZoneId, zeroed: bool) -> Result<Pfn, OutOfMemory> {
        self.accounts.fallible_call()?;
        if !self.may_take(1) {
            return Err(OutOfMemory);
        }
        self.accounts.charge(zone, PAGE as u64)?;
        let Some(frame) = self.take_single() else {
            self.accounts.uncharge(zone, PAGE as u64);
            return Err(OutOfMemory);
        };
        let meta = self.meta(frame);
        let zone = u16::try_from(zone.0).expect("zone ids are below 10000: the charge asserted it");
        meta.references.store(1, Relaxed);
        meta.zone.store(zone, Relaxed);
        if zeroed || meta.written_by.load(Relaxed) != zone {
            // SAFETY: the frame is ours alone, a whole page of valid memory (`init`, condition 2).
            unsafe { core::ptr::write_bytes(self.address(frame), 0, PAGE) };
            meta.written_by.store(zone, Relaxed);
        }
        Ok(Pfn(u64::from(frame)))
    }

    fn used(&self, pfn: Pfn) -> (u32, &Meta) {
        let frame = u32::try_from(pfn.0).expect("frame numbers are below 2^32");
        let meta = self.meta(frame);
        assert_eq!(meta.state.load(Relaxed), USED, "frame {frame:#x} is not allocated");
        (frame, meta)
    }

    // ---- blocks for the slabs and for large objects --------------------------------------------------------------------------

    /// Takes `pages` adjoining pages (at most [`MAX_BLOCK_PAGES`]), aligned to their number rounded up to a power of two. Charges nobody.
    pub(crate) fn take_pages(&self, pages: usize) -> Option<*mut u8> {
        if pages == 0 || pages > MAX_BLOCK_PAGES {
            return None;
        }
        let order = pages.next_power_of_two().trailing_zeros() as usize;
        let frame = if order == 0 {
            self.take_single()?
        } else {
            let mut buddy = self.buddy.lock();
            let frame = self.take_block(&mut buddy, order)?;
            let limit = frame + (1_u32 << order);
            self.free_run(&mut buddy, frame + u32::try_from(pages).expect("at most 4096"), limit);
            frame
        };
        // The kernel writes there: if the frame becomes a user page later, it is cleared first.
        for each in frame..frame + u32::try_from(pages).expect("at most 4096") {
            self.meta(each).written_by.store(u16::MAX, Relaxed);
        }
        Some(self.address(frame))
    }

    /// Gives back what [`Heap::take_pages`] gave, the same number.
    pub(crate) fn give_pages(&self, at: *mut u8, pages: usize) {
        let frame = self.frame_at(at);
        if pages == 1 {
            self.give_single(frame);
            return;
        }
        let limit = frame + u32::try_from(pages).expect("at most 4096");
        for each in frame..limit {
            assert_eq!(self.meta(each).state.load(Relaxed), USED, "frame {each:#x} is freed twice");
        }
        self.free_run(&mut self.buddy.lock(), frame, limit);
    }

    /// The zone noted for a block by [`Heap::note_zone`].
    pub(crate) fn noted_zone(&self, at: *const u8) -> ZoneId {
        ZoneId(u32::from(self.meta(self.frame_at(at)).zone.load(Relaxed)))
    }

    /// Notes who pays for the block that starts at `at`.
    pub(crate) fn note_zone(&self, at: *const u8, zone: ZoneId) {
        self.meta(self.frame_at(at)).zone.store(u16::try_from(zone.0).expect("zone ids are below 10000"), Relaxed);
    }

    // ---- reservations and the injected failure -------------------------------------------------------------------------------

    /// Sets `bytes` aside for the running thread on account of `zone` (`kif::Platform::reserve`).
    ///
    /// # Errors
    /// The zone's cap, the machine, or the injected failure does not allow it.
    pub fn reserve(&self, zone: ZoneId, bytes: u64) -> Result<(), OutOfMemory> {
        self.accounts.fallible_call()?;
        if !self.may_take(bytes.div_ceil(PAGE as u64)) {
            return Err(OutOfMemory);
        }
        self.accounts.charge(zone, bytes)?;
        self.with_account(|account| match account {
            Some(account) => self.accounts.add_reservation(account, zone, bytes),
            // No thread, nothing to set aside: the call was only a question.
            None => self.accounts.uncharge(zone, bytes),
        });
        Ok(())
    }

    /// Gives back what is left of the running thread's reservation, at most `bytes`.
    pub fn unreserve(&self, zone: ZoneId, bytes: u64) {
        let left = self.with_account(|account| account.map_or(0, |account| self.accounts.take_reservation(account, bytes)));
        if left > 0 {
            self.accounts.uncharge(zone, left);
        }
    }

    /// Makes the `n`-th fallible call from now fail, once (`heap.failnth`); 0 disarms. Callable at any time.
    pub fn fail_nth(&self, n: u64) {
        self.accounts.arm_failure(n);
    }

    /// How many failures were injected so far.
    pub fn injected_failures(&self) -> u64 {
        self.accounts.failures()
    }

    /// Counts a fallible call that allocates otherwise (stacks of threads).
    ///
    /// # Errors
    /// It is the one that shall fail.
    pub fn fallible_call(&self) -> Result<(), OutOfMemory> {
        self.accounts.fallible_call()
    }
}

impl Frames for Heap {
    fn allocate(&self, zone: ZoneId, zeroed: bool) -> Result<Pfn, OutOfMemory> {
        self.allocate_frame(zone, zeroed)
    }
    fn retain(&self, pfn: Pfn) {
        let (frame, meta) = self.used(pfn);
        let before = meta.references.fetch_add(1, Relaxed);
        assert!(before != 0 && before != u32::MAX, "frame {frame:#x} has {before} references");
    }
    fn release(&self, pfn: Pfn) {
        let (frame, meta) = self.used(pfn);
        // AcqRel: whoever frees must see all writes of the others who let go.
        let before = meta.references.fetch_sub(1, core::sync::atomic::Ordering::AcqRel);
        assert_ne!(before, 0, "frame {frame:#x} is released once too often");
        if before == 1 {
            self.accounts.uncharge(ZoneId(u32::from(meta.zone.load(Relaxed))), PAGE as u64);
            self.give_single(frame);
        }
    }
    fn references(&self, pfn: Pfn) -> u32 {
        // Who finds that nobody else has it sees what the others stored before they let go of it.
        self.used(pfn).1.references.load(core::sync::atomic::Ordering::Acquire)
    }
    fn zone(&self, pfn: Pfn) -> ZoneId {
        ZoneId(u32::from(self.used(pfn).1.zone.load(Relaxed)))
    }
    fn read(&self, pfn: Pfn, offset: usize, out: &mut [u8]) {
        assert!(offset <= PAGE && out.len() <= PAGE - offset, "{offset} + {} is outside a page", out.len());
        let (frame, _) = self.used(pfn);
        // SAFETY: 1. the range lies in an allocated page; 2. user mode may write it at the same time, which only makes the bytes
        // unspecified: they are copied as bytes, not interpreted; 3. `out` is a Rust object, so it does not overlap a user page.
        unsafe { core::ptr::copy_nonoverlapping(self.address(frame).add(offset), out.as_mut_ptr(), out.len()) };
    }
    fn write(&self, pfn: Pfn, offset: usize, data: &[u8]) {
        assert!(offset <= PAGE && data.len() <= PAGE - offset, "{offset} + {} is outside a page", data.len());
        let (frame, _) = self.used(pfn);
        // SAFETY: as in `read`, in the other direction.
        unsafe { core::ptr::copy_nonoverlapping(data.as_ptr(), self.address(frame).add(offset), data.len()) };
    }
    fn copy(&self, from: Pfn, to: Pfn) {
        assert_ne!(from, to, "a frame is copied onto itself");
        let (source, target) = (self.used(from).0, self.used(to).0);
        // SAFETY: two different allocated pages.
        unsafe { core::ptr::copy_nonoverlapping(self.address(source), self.address(target), PAGE) };
    }
    fn charged_bytes(&self, zone: ZoneId) -> u64 {
        self.accounts.charged(zone)
    }
    fn set_cap_bytes(&self, zone: ZoneId, cap: u64) {
        self.accounts.set_cap(zone, cap);
    }
    fn cap_bytes(&self, zone: ZoneId) -> u64 {
        self.accounts.cap(zone)
    }
    fn free_total(&self) -> (u64, u64) {
        (self.free.load(Relaxed), self.total.load(Relaxed))
    }
}

fn frame_number(address: u64) -> u32 {
    u32::try_from(address >> PAGE_SHIFT).expect("physical memory ends below 16 TiB")
}

/// Gives the heap its memory: `adopt!(HEAP, base, ranges)` is [`Heap::init`] for the kernel, which is a safe crate. Once, with the base of
/// the direct map and the ranges that the boot information says nobody else uses.
#[macro_export]
macro_rules! adopt {
    ($heap:expr, $base:expr, $ranges:expr) => {
        // SAFETY: 1. the kernel's init does this once, before the first allocation; 2. the ranges are `boot::BootInfo::usable` without the early page
        // tables, RAM that the direct map covers for good; 3. the direct map begins at a multiple of 512 GiB.
        unsafe { $heap.init($base as *mut u8, $ranges) }
    };
}
