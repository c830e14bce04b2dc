//! Objects: size classes over the frames.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kif::ZoneId;
use sync::{Class, SpinLock};

use crate::{Heap, PAGE};

/// Size classes: object size, and its name in kstats and in the debugger.
const CLASSES: [(u16, &str); 14] = [
    (16, "kmem_alloc_16"),
    (32, "kmem_alloc_32"),
    (48, "kmem_alloc_48"),
    (64, "kmem_alloc_64"),
    (96, "kmem_alloc_96"),
    (128, "kmem_alloc_128"),
    (192, "kmem_alloc_192"),
    (256, "kmem_alloc_256"),
    (384, "kmem_alloc_384"),
    (512, "kmem_alloc_512"),
    (768, "kmem_alloc_768"),
    (1024, "kmem_alloc_1024"),
    (1536, "kmem_alloc_1536"),
    (2048, "kmem_alloc_2048"),
];
/// Largest object that lives in a slab.
const LARGEST: usize = 2048;
/// Class by size in units of 16 bytes, rounded up: filled at compile time.
const CLASS_OF: [u8; LARGEST / 16 + 1] = class_table();
/// End of a free list.
const END: u16 = u16::MAX;

const fn class_table() -> [u8; LARGEST / 16 + 1] {
    let mut table = [0; LARGEST / 16 + 1];
    let mut class = 0_u8;
    let mut unit = 0;
    while unit < table.len() {
        while (CLASSES[class as usize].0 as usize) < unit * 16 {
            class += 1;
        }
        table[unit] = class;
        unit += 1;
    }
    table
}

/// Head of a slab. After it: a `u16` zone for each object, then the objects.
#[repr(C)]
struct Slab {
    next: *mut Slab,
    previous: *mut Slab,
    class: u16,
    free: u16,
    /// Index of the first free object; a free object's first two bytes hold the next one.
    first_free: u16,
    /// Objects from here on were never used (so a new slab needs no list).
    fresh: u16,
}

/// Slabs of one class that have free objects.
struct Partial {
    head: *mut Slab,
    /// Slabs in the list without any used object: at most one is kept.
    empty: usize,
}

// SAFETY: the pointers name memory of the heap that is reached only under the class's lock.
unsafe impl Send for Partial {}

/// Use of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassUse {
    pub name: &'static str,
    pub size: u64,
    pub objects: u64,
    pub slabs: u64,
}

pub(crate) struct Slabs {
    partial: [SpinLock<Partial>; CLASSES.len()],
    objects: [AtomicU64; CLASSES.len()],
    slabs: [AtomicU64; CLASSES.len()],
}

impl Slabs {
    pub(crate) const fn new() -> Self {
        Self {
            partial: [const { SpinLock::new(Class::Heap, Partial { head: core::ptr::null_mut(), empty: 0 }) }; CLASSES.len()],
            objects: [const { AtomicU64::new(0) }; CLASSES.len()],
            slabs: [const { AtomicU64::new(0) }; CLASSES.len()],
        }
    }
}

/// Shape of a class's slabs.
struct Shape {
    size: usize,
    slab_bytes: usize,
    /// Offset of object 0, and how many there are.
    first: usize,
    count: usize,
}

const fn shape(class: usize) -> Shape {
    let size = CLASSES[class].0 as usize;
    let slab_bytes = if size <= 256 { PAGE } else { 4 * PAGE };
    let mut count = (slab_bytes - size_of::<Slab>()) / (size + 2);
    // Objects are aligned to the power of two in their size (a 64-byte object to 64), which callers may ask for.
    let align = 1 << size.trailing_zeros();
    let mut first = (size_of::<Slab>() + 2 * count).next_multiple_of(align);
    while first + count * size > slab_bytes {
        count -= 1;
        first = (size_of::<Slab>() + 2 * count).next_multiple_of(align);
    }
    Shape { size, slab_bytes, first, count }
}

const SHAPES: [Shape; CLASSES.len()] = {
    let mut shapes = [const { Shape { size: 0, slab_bytes: 0, first: 0, count: 0 } }; CLASSES.len()];
    let mut class = 0;
    while class < CLASSES.len() {
        shapes[class] = shape(class);
        class += 1;
    }
    shapes
};

impl Heap {
    /// The class that serves a layout; `None`: whole pages.
    fn class_for(layout: Layout) -> Option<usize> {
        // An alignment above 16 needs a class whose size is a multiple of it: round the size up to one.
        let size = if layout.align() <= 16 { layout.size() } else { layout.size().max(layout.align()).next_power_of_two() };
        CLASS_OF.get(size.div_ceil(16)).map(|class| usize::from(*class))
    }

    /// Charges the running thread's zone, or its reservation.
    fn charge_current(&self, bytes: u64) -> ZoneId {
        self.with_account(|account| match account {
            Some(account) => {
                let zone = account.zone();
                let taken = self.accounts.draw(account, bytes);
                if taken < bytes {
                    self.accounts.charge_anyway(zone, bytes - taken);
                }
                zone
            }
            None => {
                self.accounts.charge_anyway(ZoneId::GLOBAL, bytes);
                ZoneId::GLOBAL
            }
        })
    }

    fn allocate_object(&self, class: usize) -> *mut u8 {
        let shape = &SHAPES[class];
        let zone = self.charge_current(shape.size as u64);
        let mut partial = self.slabs.partial[class].lock();
        if partial.head.is_null() {
            let Some(block) = self.take_pages(shape.slab_bytes / PAGE) else {
                drop(partial);
                self.accounts.uncharge(zone, shape.size as u64);
                return core::ptr::null_mut();
            };
            let slab = block.cast::<Slab>();
            let head = Slab {
                next: core::ptr::null_mut(),
                previous: core::ptr::null_mut(),
                class: u16::try_from(class).expect("few classes"),
                free: u16::try_from(shape.count).expect("at most 1024 objects"),
                first_free: END,
                fresh: 0,
            };
            // SAFETY: the block is ours alone, large enough and page-aligned.
            unsafe { slab.write(head) };
            partial.head = slab;
            partial.empty = 1;
            self.slabs.slabs[class].fetch_add(1, Relaxed);
        }
        let at = partial.head;
        // SAFETY: 1. slabs in the list are initialised and stay so while the class's lock is held; 2. only its holder refers to them.
        let slab = unsafe { &mut *at };
        if usize::from(slab.free) == shape.count {
            partial.empty -= 1;
        }
        let index = if slab.first_free == END {
            slab.fresh += 1;
            slab.fresh - 1
        } else {
            slab.first_free
        };
        assert!(usize::from(index) < shape.count, "free list of slab {at:p} is broken: {index}");
        let object = at.cast::<u8>().wrapping_add(shape.first + usize::from(index) * shape.size);
        if slab.first_free != END {
            // SAFETY: a free object of this slab; its first two bytes are the link that `free_object` wrote. Sizes are even.
            slab.first_free = unsafe { object.cast::<u16>().read() };
        }
        slab.free -= 1;
        if slab.free == 0 {
            partial.head = slab.next;
            if !partial.head.is_null() {
                // SAFETY: as for `slab`; another one, since a slab is in the list once.
                unsafe { (*partial.head).previous = core::ptr::null_mut() };
            }
            slab.next = core::ptr::null_mut();
        }
        let zones = at.wrapping_add(1).cast::<u16>();
        // SAFETY: the zone table has `count` entries behind the head, inside the slab.
        unsafe { zones.add(usize::from(index)).write(u16::try_from(zone.0).expect("zone ids are below 10000")) };
        self.slabs.objects[class].fetch_add(1, Relaxed);
        object
    }

    /// # Safety
    /// `object` came from [`Heap::allocate_object`] with this class and is not used any more.
    unsafe fn free_object(&self, object: *mut u8, class: usize) {
        let shape = &SHAPES[class];
        let at = (object as usize & !(shape.slab_bytes - 1)) as *mut Slab;
        let mut partial = self.slabs.partial[class].lock();
        // SAFETY: blocks are aligned to their size, so this is the head of the object's slab; the lock makes us its only user.
        let slab = unsafe { &mut *at };
        assert_eq!(usize::from(slab.class), class, "object {object:p} is freed with another layout than it was made with");
        let offset = object as usize - at as usize - shape.first;
        let index = offset / shape.size;
        assert!(offset.is_multiple_of(shape.size) && index < usize::from(slab.fresh), "{object:p} is not an object of its slab");
        let zones = at.wrapping_add(1).cast::<u16>();
        // SAFETY: entry `index` of the slab's zone table.
        let zone = unsafe { zones.add(index).replace(u16::MAX) };
        assert_ne!(zone, u16::MAX, "object {object:p} is freed twice");
        // SAFETY: the object is free now, at least 16 bytes and aligned.
        unsafe { object.cast::<u16>().write(slab.first_free) };
        slab.first_free = u16::try_from(index).expect("at most 1024 objects");
        slab.free += 1;
        if slab.free == 1 {
            slab.previous = core::ptr::null_mut();
            slab.next = partial.head;
            if !slab.next.is_null() {
                // SAFETY: a slab of the list, under the lock, and not this one.
                unsafe { (*slab.next).previous = at };
            }
            partial.head = at;
        }
        if usize::from(slab.free) == shape.count {
            if partial.empty == 0 {
                partial.empty = 1;
            } else {
                if slab.previous.is_null() {
                    partial.head = slab.next;
                } else {
                    // SAFETY: a slab of the list, under the lock, and not this one.
                    unsafe { (*slab.previous).next = slab.next };
                }
                if !slab.next.is_null() {
                    // SAFETY: the same.
                    unsafe { (*slab.next).previous = slab.previous };
                }
                self.slabs.slabs[class].fetch_sub(1, Relaxed);
                self.give_pages(at.cast(), shape.slab_bytes / PAGE);
            }
        }
        drop(partial);
        self.slabs.objects[class].fetch_sub(1, Relaxed);
        self.accounts.uncharge(ZoneId(u32::from(zone)), shape.size as u64);
    }

    fn allocate_pages(&self, pages: usize) -> *mut u8 {
        let Some(block) = self.take_pages(pages) else { return core::ptr::null_mut() };
        let zone = self.charge_current((pages * PAGE) as u64);
        self.note_zone(block, zone);
        block
    }

    /// Use of each size class.
    pub fn class_use(&self) -> impl Iterator<Item = ClassUse> {
        CLASSES.iter().enumerate().map(|(class, (size, name))| ClassUse {
            name,
            size: u64::from(*size),
            objects: self.slabs.objects[class].load(Relaxed),
            slabs: self.slabs.slabs[class].load(Relaxed),
        })
    }
}

/// The heap as the global allocator: `#[global_allocator] static GLOBAL: KernelHeap = KernelHeap(&HEAP)`.
#[allow(missing_debug_implementations, reason = "printing would take the locks")]
pub struct KernelHeap(pub &'static Heap);

impl KernelHeap {
    const fn pages(layout: Layout) -> Option<usize> {
        // Blocks are aligned to their size, so a larger alignment only needs a larger block.
        let bytes = if layout.align() > PAGE && layout.size() < layout.align() { layout.align() } else { layout.size() };
        let pages = bytes.div_ceil(PAGE);
        if pages > crate::MAX_BLOCK_PAGES { None } else { Some(pages) }
    }
}

// SAFETY: 1. a block is handed out once until it is given back (slab and buddy lists under their locks); 2. it has the size
// and alignment of its class, which `class_for` and `pages` choose no smaller than the layout; 3. nothing here unwinds: the kernel aborts.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Heap::class_for(layout) {
            Some(class) => self.0.allocate_object(class),
            None => Self::pages(layout).map_or(core::ptr::null_mut(), |pages| self.0.allocate_pages(pages)),
        }
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        if let Some(class) = Heap::class_for(layout) {
            // SAFETY: the caller's promise: made by `alloc` with this layout, hence this class.
            unsafe { self.0.free_object(object, class) };
        } else if let Some(pages) = Self::pages(layout) {
            let zone = self.0.noted_zone(object);
            self.0.give_pages(object, pages);
            self.0.accounts.uncharge(zone, (pages * PAGE) as u64);
        }
    }

    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(new_size, layout.align()) else { return core::ptr::null_mut() };
        let same = match (Heap::class_for(layout), Heap::class_for(wanted)) {
            (Some(old), Some(new)) => old == new,
            (None, None) => Self::pages(layout) == Self::pages(wanted),
            _ => false,
        };
        if same {
            return object;
        }
        // SAFETY: a valid layout (the caller promises a size that is not zero).
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: two blocks, each at least as long as the shorter size.
            unsafe { core::ptr::copy_nonoverlapping(object, new, layout.size().min(new_size)) };
            // SAFETY: the caller's promise.
            unsafe { self.dealloc(object, layout) };
        }
        new
    }
}
