//! The platform: every service of the machine, installed once.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::{Frame, Frames, Nanos, PAGE_SIZE, Pfn, ThreadId, ZoneId};

/// No memory within the zone's cap, or none at all, or an injected allocation failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// A user address could not be read or written (EFAULT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFault;

/// Clocks.
pub trait Clock: Sync {
    /// Nanoseconds since boot; never goes back.
    fn monotonic(&self) -> Nanos;
    /// Nanoseconds since 1970 (RTC at boot + monotonic).
    fn realtime(&self) -> Nanos;
}

/// Random numbers for `getrandom`, AT_RANDOM, /dev/urandom.
pub trait Rng: Sync {
    fn fill(&self, out: &mut [u8]);
}

/// The kernel log: goes to the console and to the ring that `dmesg` reads. One call = one line, no newline at the end.
pub trait Log: Sync {
    fn line(&self, args: fmt::Arguments<'_>);
}

/// Kernel threads.
pub trait Spawn: Sync {
    /// Starts a kernel thread of `zone` with a stack of its own. It ends when `body` returns.
    ///
    /// # Errors
    /// No memory for the stack.
    fn spawn(&self, name: &str, zone: ZoneId, body: Box<dyn FnOnce() + Send>) -> Result<ThreadId, OutOfMemory>;
    /// Starts a kernel thread that runs an LWP: scheduled in the zone's share (class FSS), not as system work.
    ///
    /// # Errors
    /// No memory for the stack.
    fn spawn_lwp(&self, name: &str, zone: ZoneId, body: Box<dyn FnOnce() + Send>) -> Result<ThreadId, OutOfMemory> {
        self.spawn(name, zone, body)
    }
    /// Calls `body`, on the calling thread, with a stack of at least 320 KiB, and with what the kernel allocates meanwhile charged to the global zone.
    /// It may block.
    ///
    /// # Errors
    /// No memory for the stack: `body` was not called.
    fn on_large_stack(&self, body: &mut dyn FnMut()) -> Result<(), OutOfMemory> {
        body();
        Ok(())
    }
    /// The zone that the calling thread works for.
    fn current_zone(&self) -> ZoneId {
        ZoneId::GLOBAL
    }
    /// From now on the thread runs in the share of `zone` (a process entered it).
    fn move_to_zone(&self, _thread: ThreadId, _zone: ZoneId) {}
    /// CPU time of a thread: in user mode and in the kernel. Zero for threads that are gone.
    fn thread_times(&self, _thread: ThreadId) -> (Nanos, Nanos) {
        (Nanos(0), Nanos(0))
    }
    /// Sets the nice value (-20..=19) of a thread.
    fn set_nice(&self, _thread: ThreadId, _nice: i8) {}
    /// Gives the CPU to others of equal right.
    fn yield_now(&self) {}
}

/// What a mapping allows. Pages are always readable when present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub write: bool,
    pub execute: bool,
}

/// User part (0 .. 0x0000_8000_0000_0000) of one address space's page tables. Tables are charged to the zone it was
/// made for. It does not own the mapped frames.
pub trait PageTable: Send {
    /// Maps a user page, replacing what was there. Flushes the TLB of every CPU it is active on where needed.
    ///
    /// # Errors
    /// No memory for a table.
    fn map(&mut self, address: u64, pfn: Pfn, access: Access) -> Result<(), OutOfMemory>;
    /// Unmaps a page; returns what was mapped and whether it was dirty.
    fn unmap(&mut self, address: u64) -> Option<(Pfn, bool)>;
    /// Unmaps all pages in `[start, end)` and frees tables that became empty.
    fn unmap_range(&mut self, start: u64, end: u64);
    /// Changes access of a mapped page; false if none is mapped.
    fn protect(&mut self, address: u64, access: Access) -> bool;
    /// What is mapped.
    fn query(&self, address: u64) -> Option<(Pfn, Access)>;
    /// A token that [`Mmu::activate`] takes (on x86-64: the CR3 value).
    fn token(&self) -> u64;
}

/// The memory-management unit.
pub trait Mmu: Sync {
    /// Makes an empty user address space (kernel half shared).
    ///
    /// # Errors
    /// No memory.
    fn new_table(&self, zone: ZoneId) -> Result<Box<dyn PageTable>, OutOfMemory>;
    /// Makes the *current kernel thread* run with this user address space (`None`: kernel only) and with `faults`
    /// resolving page faults on user addresses, also those the kernel takes in [`UserMem`]. Kept across switches.
    fn activate(&self, token: Option<u64>, faults: Option<Arc<dyn FaultHandler>>);
}

/// A page fault on a user address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub address: u64,
    pub write: bool,
    pub execute: bool,
}

/// Resolves page faults of an address space: demand paging and copy-on-write.
pub trait FaultHandler: Send + Sync {
    /// Resolves the fault or refuses. Called in thread context, may block, holds no lock.
    ///
    /// # Errors
    /// Refused: user mode gets a signal, a kernel copy gets [`CopyFault`].
    fn resolve(&self, fault: Fault) -> Result<(), CopyFault>;
}

/// Copies between kernel and the current user address space. Addresses are allegations: outside the user half, unmapped or
/// forbidden means [`CopyFault`], never anything else. Never call while holding a spin lock, nor a mutex that a fault
/// could need (file, address space).
pub trait UserMem: Sync {
    /// Copies in.
    ///
    /// # Errors
    /// The first byte that cannot be read.
    fn read(&self, address: u64, out: &mut [u8]) -> Result<(), CopyFault>;
    /// Copies out.
    ///
    /// # Errors
    /// The first byte that cannot be written; earlier bytes may have been.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), CopyFault>;
    /// Copies `len` bytes at `offset` of a frame out.
    ///
    /// # Errors
    /// As of [`UserMem::write`].
    fn write_frame(&self, address: u64, frame: &Frame, offset: usize, len: usize) -> Result<(), CopyFault> {
        let mut bytes = [0; PAGE_SIZE];
        let bytes = &mut bytes[..len];
        frame.read(offset, bytes);
        self.write(address, bytes)
    }
    /// Atomic compare-exchange of an aligned u32 (futex). Returns the old value.
    ///
    /// # Errors
    /// Not accessible or not aligned.
    fn compare_exchange_u32(&self, address: u64, old: u32, new: u32) -> Result<u32, CopyFault>;
}

/// Kernel memory set aside for one system call (design D9). Infallible allocations of the thread draw on it; dropping it
/// gives back what is left.
#[derive(Debug)]
pub struct Reservation {
    pub zone: ZoneId,
    pub bytes: u64,
}

/// Everything at once.
pub trait Platform: Sync {
    fn clock(&self) -> &dyn Clock;
    fn rng(&self) -> &dyn Rng;
    fn log(&self) -> &dyn Log;
    fn frames(&self) -> &dyn Frames;
    fn mmu(&self) -> &dyn Mmu;
    fn user(&self) -> &dyn UserMem;
    fn spawn(&self) -> &dyn Spawn;
    /// A fresh user context (all registers zero, FPU initial), or a copy of `from` (fork, clone).
    ///
    /// # Errors
    /// No memory for the FPU area.
    fn new_user_context(&self, from: Option<&mut dyn crate::UserContext>) -> Result<Box<dyn crate::UserContext>, OutOfMemory>;
    /// Sets `bytes` of kernel memory aside for the current thread on account of `zone`.
    ///
    /// # Errors
    /// The zone's cap or the machine does not allow it, or an injected failure fired.
    fn reserve(&self, zone: ZoneId, bytes: u64) -> Result<(), OutOfMemory>;
    /// Gives back the current thread's reservation.
    fn unreserve(&self, zone: ZoneId, bytes: u64);
    /// What was set aside has been allocated. A heap whose allocations draw on the reservation themselves has nothing to do.
    fn spend(&self, _zone: ZoneId, _bytes: u64) {}
}

static PLATFORM: spin_once::Once = spin_once::Once::new();

/// Installs the platform. Called once by the kernel before the first subsystem starts, or by a host test (later calls are
/// ignored there: first one wins).
pub fn install(platform: &'static dyn Platform) {
    PLATFORM.set(platform);
}

/// The installed platform.
///
/// # Panics
/// If none is installed: a broken init order.
pub fn platform() -> &'static dyn Platform {
    PLATFORM.get()
}
/// Shorthand for the clock.
pub fn clock() -> &'static dyn Clock {
    platform().clock()
}
/// Shorthand for the random-number source.
pub fn rng() -> &'static dyn Rng {
    platform().rng()
}
/// Shorthand for the log.
pub fn log() -> &'static dyn Log {
    platform().log()
}
/// Shorthand for the frame allocator.
pub fn frames() -> &'static dyn Frames {
    platform().frames()
}
/// Shorthand for the MMU.
pub fn mmu() -> &'static dyn Mmu {
    platform().mmu()
}
/// Shorthand for user copies.
pub fn user() -> &'static dyn UserMem {
    platform().user()
}
/// Shorthand for thread creation.
pub fn spawn() -> &'static dyn Spawn {
    platform().spawn()
}

/// Calls `body` with room for code that works with blocks on its stack; see [`Spawn::on_large_stack`].
///
/// # Errors
/// No memory for the stack: `body` was not called.
///
/// # Panics
/// The platform did not call it.
pub fn on_large_stack<R>(body: impl FnOnce() -> R) -> Result<R, OutOfMemory> {
    let (mut body, mut out) = (Some(body), None);
    spawn().on_large_stack(&mut || out = body.take().map(|body| body()))?;
    Ok(out.expect("the platform called it"))
}

/// Reserves kernel memory for the current system call; see [`Reservation`].
///
/// # Errors
/// See [`Platform::reserve`].
pub fn reserve(zone: ZoneId, bytes: u64) -> Result<Reservation, OutOfMemory> {
    platform().reserve(zone, bytes)?;
    Ok(Reservation { zone, bytes })
}

impl Drop for Reservation {
    fn drop(&mut self) {
        platform().unreserve(self.zone, self.bytes);
    }
}

/// An empty vector with room for `count`, asked of the calling thread's zone and of the machine before it is allocated: for lists whose length a program chooses. (A
/// plain `try_reserve` fails only when the whole machine is out of memory, emergency reserve included.)
///
/// # Errors
/// The zone's cap, the machine, or the injected failure does not allow it.
pub fn vec_with_room<T>(count: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut list = Vec::new();
    grow(&mut list, count)?;
    Ok(list)
}

/// Makes room for `more` in a vector, as [`vec_with_room`] does; it grows by halves at least, so that many small steps cost no more than the longest list.
///
/// # Errors
/// As of [`vec_with_room`]; the vector is as it was.
pub fn grow<T>(list: &mut Vec<T>, more: usize) -> Result<(), OutOfMemory> {
    if more <= list.capacity() - list.len() {
        return Ok(());
    }
    let wanted = list.len().checked_add(more.max(list.len() / 2)).ok_or(OutOfMemory)?;
    let bytes = wanted.checked_mul(size_of::<T>()).and_then(|bytes| u64::try_from(bytes).ok()).ok_or(OutOfMemory)?;
    let zone = spawn().current_zone();
    let reserved = reserve(zone, bytes)?;
    list.try_reserve_exact(wanted - list.len()).map_err(|_| OutOfMemory)?;
    // The allocation has drawn all of it: dropped, it would take from what the call reserved for the rest of its way.
    core::mem::forget(reserved);
    platform().spend(zone, bytes);
    Ok(())
}

/// A write-once cell for the platform reference, on `once_cell`'s race module (no lock, no `unsafe` of ours).
mod spin_once {
    use super::Platform;
    use alloc::boxed::Box;
    use once_cell::race::OnceBox;

    #[allow(missing_debug_implementations, reason = "holds a trait object")]
    pub struct Once(OnceBox<&'static dyn Platform>);
    impl Once {
        pub const fn new() -> Self {
            Self(OnceBox::new())
        }
        pub fn set(&self, value: &'static dyn Platform) {
            // First one wins; the kernel calls this once.
            if self.0.set(Box::new(value)).is_err() {}
        }
        pub fn get(&self) -> &'static dyn Platform {
            *self.0.get().expect("no platform installed: kif::install runs first in kernel init")
        }
    }
}
