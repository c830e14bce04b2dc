//! Page tables: the kernel's half, user address spaces, device mappings, kernel stacks.
//!
//! Four levels, 4 KiB user pages; the direct map uses 2 MiB pages (APM vol. 2, section 5.3). Table entries are atomics, since the processor sets
//! accessed and dirty bits at any time.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kif::{Access, FaultHandler, Mmu, OutOfMemory, PAGE_SIZE, PageTable, Pfn, ZoneId};
use sync::{Class, SpinLock};

use crate::user::USER_LIMIT;
use crate::{cpu, thread, tlb};

/// Virtual address of physical address 0.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Device registers (PML4 entry 400).
const DEVICES: u64 = 0xffff_c800_0000_0000;
/// Kernel stacks (PML4 entry 401).
pub(crate) const STACKS: u64 = 0xffff_c880_0000_0000;
/// The image.
const IMAGE: u64 = 0xffff_ffff_8000_0000;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const WRITE_THROUGH: u64 = 8;
const CACHE_OFF: u64 = 16;
const DIRTY: u64 = 64;
const LARGE: u64 = 128;
const GLOBAL: u64 = 256;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

type Table = [AtomicU64; 512];

/// PML4 of the kernel: the upper half that every address space shares.
static ROOT: AtomicU64 = AtomicU64::new(0);
/// Bounds of the boot stack.
static BOOT_STACK: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// Next free device address.
static DEVICE_NEXT: SpinLock<u64> = SpinLock::new(Class::KernelMap, DEVICES);

/// A table at a physical address. Its entries are atomics, so a shared reference is all anyone needs.
fn table(physical: u64) -> &'static Table {
    debug_assert_eq!(physical % 4096, 0);
    // SAFETY: 1. callers pass addresses of page tables, which lie in the direct map; 2. a table is freed only when no address space
    // names it, and references are not kept across that (private to this module).
    unsafe { &*((DIRECT_MAP + physical) as *const Table) }
}

/// Index into the table of `level` (3: PML4 ... 0: page table).
fn index(address: u64, level: u32) -> usize {
    usize::try_from(address >> (12 + 9 * level) & 511).expect("nine bits")
}

/// NX, if the CPU has it.
fn no_execute() -> u64 {
    if cpu::nx_on() { NO_EXECUTE } else { 0 }
}

/// The entry of `level` for an address, making tables on the way with `allocate`.
fn walk(
    root: u64,
    address: u64,
    level: u32,
    flags: u64,
    allocate: &mut dyn FnMut() -> Result<u64, OutOfMemory>,
) -> Result<&'static AtomicU64, OutOfMemory> {
    let mut at = table(root);
    for step in (level + 1..=3).rev() {
        let entry = &at[index(address, step)];
        let mut value = entry.load(Relaxed);
        if value & PRESENT == 0 {
            value = allocate()? | flags | PRESENT | WRITABLE;
            entry.store(value, Relaxed);
        }
        assert_eq!(value & LARGE, 0, "a large page covers {address:#x}");
        at = table(value & ADDRESS);
    }
    Ok(&at[index(address, level)])
}

/// The entry for a 4 KiB page, if its tables exist.
fn find(root: u64, address: u64) -> Option<&'static AtomicU64> {
    let mut at = table(root);
    for level in [3, 2, 1] {
        let value = at[index(address, level)].load(Relaxed);
        if value & PRESENT == 0 || value & LARGE != 0 {
            return None;
        }
        at = table(value & ADDRESS);
    }
    Some(&at[index(address, 0)])
}

/// What [`init`] needs to know of the image; offsets from its base, page-aligned.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    pub physical: u64,
    pub text_end: u64,
    pub rodata_end: u64,
    pub data_end: u64,
    pub end: u64,
    /// The page below the boot stack, which stays unmapped; the stack goes from there to `data_end`.
    pub boot_stack_guard: u64,
}

/// Builds the kernel's address space and loads it: direct map of `memory`, image with exact permissions. The tables lie in `early`, RAM
/// below 4 GiB (which the boot tables map) that nobody else has. Protections of the CPU are turned on first.
pub fn init(image: &Image, memory: impl Iterator<Item = (u64, u64)> + Clone, early: (u64, u64)) {
    assert_eq!(ROOT.load(Relaxed), 0, "the kernel's tables are built once");
    assert!(early.1 <= 1 << 32 && memory.clone().any(|(start, end)| start <= early.0 && early.1 <= end), "early pages are not RAM below 4 GiB");
    assert!(early.1 <= image.physical || early.0 >= image.physical + image.end, "early pages lie in the image");
    cpu::protect(&cpu::features());
    let mut next = early.0;
    let mut allocate = || {
        let page = next;
        next += PAGE_SIZE as u64;
        if next > early.1 {
            return Err(OutOfMemory);
        }
        // SAFETY: RAM in the boot tables' direct map (asserted above), which the caller gives to us alone.
        unsafe { core::ptr::write_bytes((DIRECT_MAP + page) as *mut u8, 0, PAGE_SIZE) };
        Ok(page)
    };
    let root = allocate().expect("early pages do not run out");
    let global = GLOBAL | PRESENT;
    for (start, end) in memory {
        let mut address = start & !0x1f_ffff;
        while address < end {
            let entry = walk(root, DIRECT_MAP + address, 1, 0, &mut allocate).expect("early pages do not run out");
            entry.store(address | global | WRITABLE | LARGE | no_execute(), Relaxed);
            address += 0x20_0000;
        }
    }
    for offset in (0..image.end).step_by(PAGE_SIZE) {
        let flags = if offset < image.text_end {
            0
        } else if offset < image.rodata_end || offset >= image.data_end {
            no_execute()
        } else {
            WRITABLE | no_execute()
        };
        if offset != image.boot_stack_guard {
            let entry = walk(root, IMAGE + offset, 0, 0, &mut allocate).expect("early pages do not run out");
            entry.store((image.physical + offset) | global | flags, Relaxed);
        }
    }
    // The shared entries must exist before the first address space copies them.
    for area in [DEVICES, STACKS] {
        walk(root, area, 2, 0, &mut allocate).expect("early pages do not run out");
    }
    // The direct map may grow in its first PML4 entry (`read_physical`), which exists since there is RAM below 4 GiB.
    BOOT_STACK[0].store(IMAGE + image.boot_stack_guard + PAGE_SIZE as u64, Relaxed);
    BOOT_STACK[1].store(IMAGE + image.data_end, Relaxed);
    ROOT.store(root, Relaxed);
    // SAFETY: the new tables map the running code, its stack and all memory; the identity map ends here.
    unsafe { cpu::write_cr3(root) };
}

/// Second half of CPU start-up: interrupt table, SYSCALL, FPU.
pub fn init_cpu() {
    crate::trap::init();
    crate::user::init();
    crate::fpu::init(&cpu::features());
    let (low, high) = boot_stack();
    let area = crate::percpu::this();
    area.loaded_cr3.set(cpu::read_cr3());
    area.stack_low.set(low);
    area.stack_high.set(high);
}

pub(crate) fn boot_stack() -> (u64, u64) {
    (BOOT_STACK[0].load(Relaxed), BOOT_STACK[1].load(Relaxed))
}

/// CR3 of the kernel alone.
pub(crate) fn kernel_root() -> u64 {
    ROOT.load(Relaxed)
}

/// A page for a table of the kernel half.
fn kernel_table() -> Result<u64, OutOfMemory> {
    kif::frames().allocate(ZoneId::GLOBAL, true).map(|pfn| pfn.0 << 12)
}

/// Reads physical memory that the firmware described (ACPI tables), wherever it lies: bytes are copied out through the direct map, which is
/// extended as needed. `None` beyond 512 GiB (one PML4 entry of the direct map) or without memory for a table.
#[must_use]
pub fn read_physical(address: u64, out: &mut [u8]) -> Option<()> {
    let end = address.checked_add(u64::try_from(out.len()).ok()?)?;
    if end > 1 << 39 {
        return None;
    }
    let _serial = DEVICE_NEXT.lock();
    let mut page = address & !0x1f_ffff;
    while page < end {
        let entry = walk(kernel_root(), DIRECT_MAP + page, 1, 0, &mut kernel_table).ok()?;
        if entry.load(Relaxed) & PRESENT == 0 {
            entry.store(page | GLOBAL | PRESENT | LARGE | no_execute(), Relaxed);
        }
        page += 0x20_0000;
    }
    // SAFETY: mapped now; the bytes are the firmware's, no Rust object.
    unsafe { core::ptr::copy_nonoverlapping((DIRECT_MAP + address) as *const u8, out.as_mut_ptr(), out.len()) };
    Some(())
}

/// A device's registers, mapped uncached.
#[derive(Debug)]
pub struct Registers {
    base: u64,
    len: u64,
}

impl Registers {
    fn at(&self, offset: u64, size: u64) -> u64 {
        assert!(offset.is_multiple_of(size) && offset + size <= self.len, "register offset {offset:#x} of {:#x}", self.len);
        self.base + offset
    }
    /// Reads an 8-bit register.
    #[must_use]
    pub fn read8(&self, offset: u64) -> u8 {
        // SAFETY: inside the mapping; device memory.
        unsafe { (self.at(offset, 1) as *const u8).read_volatile() }
    }
    /// Reads a 16-bit register.
    #[must_use]
    pub fn read16(&self, offset: u64) -> u16 {
        // SAFETY: inside the mapping, aligned; device memory.
        unsafe { (self.at(offset, 2) as *const u16).read_volatile() }
    }
    /// Reads a 32-bit register.
    #[must_use]
    pub fn read32(&self, offset: u64) -> u32 {
        // SAFETY: inside the mapping, aligned; device memory.
        unsafe { (self.at(offset, 4) as *const u32).read_volatile() }
    }
    /// Writes an 8-bit register.
    pub fn write8(&self, offset: u64, value: u8) {
        // SAFETY: as for `write32`.
        unsafe { (self.at(offset, 1) as *mut u8).write_volatile(value) };
    }
    /// Writes a 16-bit register.
    pub fn write16(&self, offset: u64, value: u16) {
        // SAFETY: as for `write32`.
        unsafe { (self.at(offset, 2) as *mut u16).write_volatile(value) };
    }
    /// Writes a 32-bit register.
    pub fn write32(&self, offset: u64, value: u32) {
        // SAFETY: inside the mapping, aligned; device memory. What the device does with it is its driver's business: drivers give devices
        // only the addresses of page frames they hold.
        unsafe { (self.at(offset, 4) as *mut u32).write_volatile(value) };
    }
    /// Reads a 64-bit register.
    #[must_use]
    pub fn read64(&self, offset: u64) -> u64 {
        // SAFETY: as for `read32`.
        unsafe { (self.at(offset, 8) as *const u64).read_volatile() }
    }
}

/// Maps device registers.
///
/// # Errors
/// No memory for a table.
pub fn map_device(physical: u64, len: u64) -> Result<Registers, OutOfMemory> {
    let first = physical & !0xfff;
    let pages = (physical + len - first).div_ceil(PAGE_SIZE as u64);
    let mut next = DEVICE_NEXT.lock();
    for page in 0..pages {
        let entry = walk(kernel_root(), *next + page * PAGE_SIZE as u64, 0, 0, &mut kernel_table)?;
        let flags = GLOBAL | PRESENT | WRITABLE | WRITE_THROUGH | CACHE_OFF | no_execute();
        entry.store((first + page * PAGE_SIZE as u64) | flags, Relaxed);
    }
    let base = *next + (physical - first);
    // A page between two devices stays unmapped.
    *next += (pages + 1) * PAGE_SIZE as u64;
    Ok(Registers { base, len })
}

pub(crate) fn map_stack_page(address: u64, pfn: Pfn) -> Result<(), OutOfMemory> {
    let _serial = DEVICE_NEXT.lock();
    let entry = walk(kernel_root(), address, 0, 0, &mut kernel_table)?;
    assert_eq!(entry.load(Relaxed) & PRESENT, 0, "stack page {address:#x} is mapped already");
    entry.store(pfn.0 << 12 | GLOBAL | PRESENT | WRITABLE | no_execute(), Relaxed);
    Ok(())
}

pub(crate) fn unmap_stack_page(address: u64) {
    if let Some(entry) = find(kernel_root(), address) {
        entry.store(0, Relaxed);
        tlb::flush_kernel_page(address);
    }
}

// ---- user address spaces ---------------------------------------------------------------------------------------------------------

/// The MMU; see [`Mmu`].
#[derive(Clone, Copy, Debug)]
pub struct HalMmu;

impl Mmu for HalMmu {
    fn new_table(&self, zone: ZoneId) -> Result<Box<dyn PageTable>, OutOfMemory> {
        let root = kif::frames().allocate(zone, true)?.0 << 12;
        let (from, to) = (table(kernel_root()), table(root));
        for slot in 256..512 {
            let value = from[slot].load(Relaxed);
            if value != 0 {
                to[slot].store(value, Relaxed);
            }
        }
        Ok(Box::new(UserTable { root, zone, last: (0, 0) }))
    }
    fn activate(&self, token: Option<u64>, faults: Option<Arc<dyn FaultHandler>>) {
        thread::activate(token, faults);
    }
}

/// Page tables of a user address space.
struct UserTable {
    root: u64,
    zone: ZoneId,
    /// Where the last lookup ended: bits 21.. of its address plus one, and the physical address of that page table. Faults come in runs.
    last: (u64, u64),
}

impl UserTable {
    fn flags(access: Access) -> u64 {
        PRESENT | USER | if access.write { WRITABLE } else { 0 } | if access.execute { 0 } else { no_execute() }
    }

    fn assert_user(address: u64) {
        assert!(address < USER_LIMIT && address.is_multiple_of(PAGE_SIZE as u64), "{address:#x} is not a user page");
    }

    /// Clears `start .. end` below the table `at` of `level`, freeing tables that became empty. Returns true if `at` has no entry left.
    fn clear(at: &Table, level: u32, base: u64, start: u64, end: u64) -> bool {
        let step = 1_u64 << (12 + 9 * level);
        let first = index(start.max(base), level);
        let last = index((end - 1).min(base + (step * 512 - 1)), level);
        if level == 0 && first == 0 && last == 511 {
            // The caller frees it whole: nobody reads its entries again.
            return true;
        }
        let mut empty = true;
        let mut slot = first;
        while slot <= last {
            // Tables are sparse: eight absent entries are passed over at once.
            if slot.is_multiple_of(8) && at[slot..slot + 8].iter().fold(0, |any, entry| any | entry.load(Relaxed)) == 0 {
                slot += 8;
                continue;
            }
            let value = at[slot].load(Relaxed);
            slot += 1;
            if value & PRESENT == 0 {
                continue;
            }
            let entry = slot - 1;
            if level == 0 {
                at[entry].store(0, Relaxed);
            } else if Self::clear(table(value & ADDRESS), level - 1, base + step * entry as u64, start, end) {
                at[entry].store(0, Relaxed);
                kif::frames().release(Pfn((value & ADDRESS) >> 12));
            } else {
                // The tables at the ends of the range may hold pages outside it.
                empty = false;
            }
        }
        let slots = if level == 3 { 256 } else { 512 };
        empty && at[..first].iter().chain(at[..slots].iter().skip(last + 1)).all(|entry| entry.load(Relaxed) == 0)
    }
}

impl PageTable for UserTable {
    fn map(&mut self, address: u64, pfn: Pfn, access: Access) -> Result<(), OutOfMemory> {
        Self::assert_user(address);
        let region = (address >> 21) + 1;
        if self.last.0 != region {
            let zone = self.zone;
            let mut allocate = || kif::frames().allocate(zone, true).map(|pfn| pfn.0 << 12);
            let entry = core::ptr::from_ref(walk(self.root, address, 0, USER, &mut allocate)?) as u64;
            self.last = (region, (entry - DIRECT_MAP) & !0xfff);
        }
        let entry = &table(self.last.1)[index(address, 0)];
        let old = entry.swap(pfn.0 << 12 | Self::flags(access), Relaxed);
        if old & PRESENT != 0 {
            tlb::flush_user_page(self.root, address);
        }
        Ok(())
    }
    fn unmap(&mut self, address: u64) -> Option<(Pfn, bool)> {
        Self::assert_user(address);
        let old = find(self.root, address)?.swap(0, Relaxed);
        if old & PRESENT == 0 {
            return None;
        }
        tlb::flush_user_page(self.root, address);
        Some((Pfn((old & ADDRESS) >> 12), old & DIRTY != 0))
    }
    fn unmap_range(&mut self, start: u64, end: u64) {
        assert!(start <= end && end <= 1 << 47, "{start:#x}..{end:#x} is not a user range");
        if start == end {
            return;
        }
        // Tables may go.
        self.last = (0, 0);
        Self::clear(table(self.root), 3, 0, start, end);
        tlb::flush_user(self.root);
    }
    fn protect(&mut self, address: u64, access: Access) -> bool {
        Self::assert_user(address);
        let Some(entry) = find(self.root, address) else { return false };
        let old = entry.load(Relaxed);
        if old & PRESENT == 0 {
            return false;
        }
        // The dirty bit may be set by the processor in between: keep it.
        let changed = entry.fetch_update(Relaxed, Relaxed, |value| Some(value & (ADDRESS | DIRTY) | Self::flags(access)));
        if changed != Ok(old & (ADDRESS | DIRTY) | Self::flags(access)) {
            tlb::flush_user_page(self.root, address);
        }
        true
    }
    fn query(&self, address: u64) -> Option<(Pfn, Access)> {
        let value = find(self.root, address & !0xfff)?.load(Relaxed);
        if value & PRESENT == 0 {
            return None;
        }
        let access = Access { write: value & WRITABLE != 0, execute: value & NO_EXECUTE == 0 };
        Some((Pfn((value & ADDRESS) >> 12), access))
    }
    fn token(&self) -> u64 {
        self.root
    }
}

impl Drop for UserTable {
    fn drop(&mut self) {
        let flags = cpu::interrupts_off();
        assert_eq!(tlb::online(), 1, "another CPU may have the table loaded");
        let area = crate::percpu::this();
        if area.loaded_cr3.get() == self.root {
            // A kernel thread still runs on the tables of the process before it.
            // SAFETY: the kernel's own tables.
            unsafe { cpu::write_cr3(kernel_root()) };
            area.loaded_cr3.set(kernel_root());
        }
        if flags & cpu::IF != 0 {
            cpu::interrupts_on();
        }
        Self::clear(table(self.root), 3, 0, 0, 1 << 47);
        kif::frames().release(Pfn(self.root >> 12));
    }
}
