//! The host's platform: what `kif` and `sync` ask of a machine, done with the standard library, for tests.
//!
//! # Theory
//! A subsystem under `cargo test` runs on real threads. Frames are boxes, page tables are ordered maps, user memory is either
//! the mapped frames of the thread's active page table (page faults go to its handler, as on the machine) or, for threads
//! without one, a private sparse memory in which every user address works. Lock order is checked as in the kernel: each thread carries
//! the classes it holds, and taking them out of order panics the test.
//!
//! Under [`baton::run`] the same threads take turns, as a seed decides: then time, random numbers and who is next are a function of the seed.
//!
//! # Structures
//! [`start`] installs everything, once per process, and may be called by every test. [`fail_nth`] makes the n-th fallible
//! allocation of the calling thread fail. [`log_lines`] gives what was logged.
//!
//! # Limits
//! Tests of one process share frames, zones' charges and the log: use a zone number of your own ([`fresh_zone`]) where caps or
//! charges are looked at. Time is the host's, outside of [`baton::run`].

pub mod baton;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use kif::{
    Access, Clock, CopyFault, Fault, FaultHandler, Frames, Log, Mmu, Nanos, OutOfMemory, PAGE_SIZE, PageTable, Pfn,
    Platform, Rng, Spawn, ThreadId, UserContext, UserExit, UserMem, UserRegs, ZoneId,
};
use sync::{Dispatch, Parked, Processor};

/// Frames of the fake machine (64 MiB).
const FRAMES: usize = 16_384;
/// First address that is not user memory.
const USER_LIMIT: u64 = 0x0000_8000_0000_0000;
/// 2026-01-01 00:00:00 UTC: the real time at which every test starts.
const EPOCH_NS: u64 = 1_767_225_600_000_000_000;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Installs the host platform and dispatcher. Idempotent.
pub fn start() {
    kif::install(host());
    sync::install(host(), host());
}

/// A zone number that no other test of this process uses.
#[must_use]
pub fn fresh_zone() -> ZoneId {
    static NEXT: AtomicU32 = AtomicU32::new(1000);
    ZoneId(NEXT.fetch_add(1, Ordering::Relaxed))
}

thread_local! {
    static FAIL_IN: Cell<u64> = const { Cell::new(0) };
    static ME: Cell<u64> = const { Cell::new(0) };
    static HELD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SPACE: RefCell<Option<Space>> = const { RefCell::new(None) };
    static FLAT: RefCell<BTreeMap<u64, Box<[u8; PAGE_SIZE]>>> = const { RefCell::new(BTreeMap::new()) };
    static PROGRAM: RefCell<Option<Program>> = const { RefCell::new(None) };
}

/// The address space active on a thread.
type Space = (u64, Option<Arc<dyn FaultHandler>>);
/// What "user mode" does on a thread: changes the registers and says why it stopped.
type Program = Box<dyn FnMut(&mut UserRegs) -> UserExit>;

/// Makes the `n`-th fallible allocation (from now, 1 = next) of the calling thread fail, once. 0 turns it off.
pub fn fail_nth(n: u64) {
    FAIL_IN.set(n);
}

/// Tells whether an armed [`fail_nth`] is still to come.
#[must_use]
pub fn failure_pending() -> bool {
    FAIL_IN.get() != 0
}

fn injected_failure() -> bool {
    match FAIL_IN.get() {
        0 => false,
        n => {
            FAIL_IN.set(n - 1);
            n == 1
        }
    }
}

/// Sets what the calling thread's user contexts do in `run`.
pub fn set_program(program: impl FnMut(&mut UserRegs) -> UserExit + 'static) {
    PROGRAM.set(Some(Box::new(program)));
}

/// What has been logged so far.
#[must_use]
pub fn log_lines() -> Vec<String> {
    lock(&LOG).clone()
}

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[derive(Default)]
struct Host {
    memory: Mutex<Memory>,
    tables: Mutex<BTreeMap<u64, Arc<Mutex<Mappings>>>>,
    next_token: AtomicU64,
    rng: AtomicU64,
    threads: Mutex<BTreeMap<u64, Arc<Parker>>>,
    started: OnceLock<Instant>,
}

impl Platform for Host {
    fn clock(&self) -> &dyn Clock {
        self
    }
    fn rng(&self) -> &dyn Rng {
        self
    }
    fn log(&self) -> &dyn Log {
        self
    }
    fn frames(&self) -> &dyn Frames {
        self
    }
    fn mmu(&self) -> &dyn Mmu {
        self
    }
    fn user(&self) -> &dyn UserMem {
        self
    }
    fn spawn(&self) -> &dyn Spawn {
        self
    }
    fn new_user_context(&self, from: Option<&mut dyn UserContext>) -> Result<Box<dyn UserContext>, OutOfMemory> {
        if injected_failure() {
            return Err(OutOfMemory);
        }
        let regs = from.map_or_else(UserRegs::default, |context| *context.regs());
        Ok(Box::new(HostContext { regs }))
    }
    fn reserve(&self, zone: ZoneId, bytes: u64) -> Result<(), OutOfMemory> {
        if injected_failure() {
            return Err(OutOfMemory);
        }
        lock(&self.memory).charge(zone, bytes)
    }
    fn unreserve(&self, zone: ZoneId, bytes: u64) {
        lock(&self.memory).uncharge(zone, bytes);
    }
    fn spend(&self, zone: ZoneId, bytes: u64) {
        // The host's allocator keeps no accounts.
        lock(&self.memory).uncharge(zone, bytes);
    }
}

// ---- Time, randomness, log ----

impl Clock for Host {
    fn monotonic(&self) -> Nanos {
        if let Some((run, _)) = baton::mine() {
            return run.now();
        }
        let started = self.started.get_or_init(Instant::now);
        Nanos(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
    fn realtime(&self) -> Nanos {
        self.monotonic().plus(Nanos(EPOCH_NS))
    }
}

impl Rng for Host {
    fn fill(&self, out: &mut [u8]) {
        if let Some((run, _)) = baton::mine() {
            out.fill_with(|| run.random().to_le_bytes()[0]);
            return;
        }
        for byte in out {
            // splitmix64, a step a byte: good enough to look random to a test.
            let mut z = self.rng.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *byte = (z >> 56) as u8;
        }
    }
}

impl Log for Host {
    fn line(&self, args: fmt::Arguments<'_>) {
        match baton::mine() {
            Some((run, _)) => run.log(args),
            None => lock(&LOG).push(args.to_string()),
        }
    }
}

// ---- Memory ----

struct Slot {
    data: Box<[u8; PAGE_SIZE]>,
    references: u32,
    zone: ZoneId,
}

#[derive(Default)]
struct Memory {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    used: usize,
    charged: BTreeMap<u32, u64>,
    caps: BTreeMap<u32, u64>,
}

impl Memory {
    fn charge(&mut self, zone: ZoneId, bytes: u64) -> Result<(), OutOfMemory> {
        let cap = self.caps.get(&zone.0).copied().unwrap_or(u64::MAX);
        let charged = self.charged.entry(zone.0).or_insert(0);
        if charged.saturating_add(bytes) > cap {
            return Err(OutOfMemory);
        }
        *charged += bytes;
        Ok(())
    }
    fn uncharge(&mut self, zone: ZoneId, bytes: u64) {
        let charged = self.charged.entry(zone.0).or_insert(0);
        assert!(*charged >= bytes, "zone {} gives back {bytes} of {charged} bytes", zone.0);
        *charged -= bytes;
    }
    fn slot(&mut self, pfn: Pfn) -> &mut Slot {
        let slot = usize::try_from(pfn.0).ok().and_then(|index| self.slots.get_mut(index)).and_then(Option::as_mut);
        match slot {
            Some(slot) => slot,
            None => panic!("frame {} is not allocated", pfn.0),
        }
    }
}

impl Frames for Host {
    fn allocate(&self, zone: ZoneId, zeroed: bool) -> Result<Pfn, OutOfMemory> {
        if injected_failure() {
            return Err(OutOfMemory);
        }
        let mut memory = lock(&self.memory);
        if memory.used == FRAMES {
            return Err(OutOfMemory);
        }
        memory.charge(zone, PAGE_SIZE as u64)?;
        memory.used += 1;
        // A frame that is not asked to be zero is filled with what must never be seen.
        let data = Box::new([if zeroed { 0 } else { 0xdb }; PAGE_SIZE]);
        let slot = Some(Slot { data, references: 1, zone });
        let index = match memory.free.pop() {
            Some(index) => {
                memory.slots[index] = slot;
                index
            }
            None => {
                memory.slots.push(slot);
                memory.slots.len() - 1
            }
        };
        Ok(Pfn(index as u64))
    }
    fn retain(&self, pfn: Pfn) {
        lock(&self.memory).slot(pfn).references += 1;
    }
    fn release(&self, pfn: Pfn) {
        let mut memory = lock(&self.memory);
        let slot = memory.slot(pfn);
        slot.references -= 1;
        if slot.references == 0 {
            let zone = slot.zone;
            memory.uncharge(zone, PAGE_SIZE as u64);
            memory.used -= 1;
            let index = usize::try_from(pfn.0).expect("an index of ours");
            memory.slots[index] = None;
            memory.free.push(index);
        }
    }
    fn references(&self, pfn: Pfn) -> u32 {
        lock(&self.memory).slot(pfn).references
    }
    fn zone(&self, pfn: Pfn) -> ZoneId {
        lock(&self.memory).slot(pfn).zone
    }
    fn read(&self, pfn: Pfn, offset: usize, out: &mut [u8]) {
        let mut memory = lock(&self.memory);
        out.copy_from_slice(&memory.slot(pfn).data[offset..offset + out.len()]);
    }
    fn write(&self, pfn: Pfn, offset: usize, data: &[u8]) {
        let mut memory = lock(&self.memory);
        memory.slot(pfn).data[offset..offset + data.len()].copy_from_slice(data);
    }
    fn copy(&self, from: Pfn, to: Pfn) {
        let mut memory = lock(&self.memory);
        let data = *memory.slot(from).data;
        *memory.slot(to).data = data;
    }
    fn charged_bytes(&self, zone: ZoneId) -> u64 {
        lock(&self.memory).charged.get(&zone.0).copied().unwrap_or(0)
    }
    fn set_cap_bytes(&self, zone: ZoneId, cap: u64) {
        lock(&self.memory).caps.insert(zone.0, cap);
    }
    fn free_total(&self) -> (u64, u64) {
        let used = lock(&self.memory).used;
        ((FRAMES - used) as u64, FRAMES as u64)
    }
}

// ---- Address spaces and user memory ----

#[derive(Clone, Copy)]
struct Mapping {
    pfn: Pfn,
    access: Access,
    dirty: bool,
}

type Mappings = BTreeMap<u64, Mapping>;

struct HostTable {
    token: u64,
    mappings: Arc<Mutex<Mappings>>,
    host: &'static Host,
}

impl PageTable for HostTable {
    fn map(&mut self, address: u64, pfn: Pfn, access: Access) -> Result<(), OutOfMemory> {
        assert!(address.is_multiple_of(PAGE_SIZE as u64) && address < USER_LIMIT, "mapping at {address:#x}");
        if injected_failure() {
            return Err(OutOfMemory);
        }
        lock(&self.mappings).insert(address, Mapping { pfn, access, dirty: false });
        Ok(())
    }
    fn unmap(&mut self, address: u64) -> Option<(Pfn, bool)> {
        lock(&self.mappings).remove(&address).map(|mapping| (mapping.pfn, mapping.dirty))
    }
    fn unmap_range(&mut self, start: u64, end: u64) {
        lock(&self.mappings).retain(|address, _| !(start..end).contains(address));
    }
    fn protect(&mut self, address: u64, access: Access) -> bool {
        lock(&self.mappings).get_mut(&address).map(|mapping| mapping.access = access).is_some()
    }
    fn query(&self, address: u64) -> Option<(Pfn, Access)> {
        lock(&self.mappings).get(&address).map(|mapping| (mapping.pfn, mapping.access))
    }
    fn token(&self) -> u64 {
        self.token
    }
}

impl Drop for HostTable {
    fn drop(&mut self) {
        lock(&self.host.tables).remove(&self.token);
    }
}

impl Mmu for Host {
    fn new_table(&self, _zone: ZoneId) -> Result<Box<dyn PageTable>, OutOfMemory> {
        if injected_failure() {
            return Err(OutOfMemory);
        }
        let token = self.next_token.fetch_add(1, Ordering::Relaxed) + 1;
        let mappings = Arc::new(Mutex::new(Mappings::new()));
        lock(&self.tables).insert(token, Arc::clone(&mappings));
        Ok(Box::new(HostTable { token, mappings, host: host() }))
    }
    fn activate(&self, token: Option<u64>, faults: Option<Arc<dyn FaultHandler>>) {
        SPACE.set(token.map(|token| (token, faults)));
    }
}

/// The installed host.
fn host() -> &'static Host {
    static HOST: OnceLock<&'static Host> = OnceLock::new();
    HOST.get_or_init(|| Box::leak(Box::default()))
}

impl Host {
    /// Frame behind a user address of the thread's active table, faulting it in as the processor would.
    fn translate(&self, space: &Space, address: u64, write: bool) -> Result<Pfn, CopyFault> {
        let page = address & !(PAGE_SIZE as u64 - 1);
        for _ in 0..4 {
            let table = lock(&self.tables).get(&space.0).cloned().ok_or(CopyFault)?;
            if let Some(mapping) = lock(&table).get_mut(&page)
                && (mapping.access.write || !write)
            {
                mapping.dirty |= write;
                return Ok(mapping.pfn);
            }
            let handler = space.1.as_ref().ok_or(CopyFault)?;
            handler.resolve(Fault { address, write, execute: false })?;
        }
        Err(CopyFault)
    }
    /// Runs `body` on each piece of `[address, address + len)` within one page, in order.
    fn pieces(address: u64, len: usize, mut body: impl FnMut(u64, usize, usize) -> Result<(), CopyFault>) -> Result<(), CopyFault> {
        let end = address.checked_add(len as u64).ok_or(CopyFault)?;
        if end > USER_LIMIT {
            return Err(CopyFault);
        }
        let mut done = 0;
        while done < len {
            let at = address + done as u64;
            let offset = usize::try_from(at % PAGE_SIZE as u64).expect("below a page");
            let count = (PAGE_SIZE - offset).min(len - done);
            body(at, done, count)?;
            done += count;
        }
        Ok(())
    }
}

impl UserMem for Host {
    fn read(&self, address: u64, out: &mut [u8]) -> Result<(), CopyFault> {
        assert_no_locks("user copy");
        let space = SPACE.with_borrow(Clone::clone);
        Self::pieces(address, out.len(), |at, done, count| {
            let offset = usize::try_from(at % PAGE_SIZE as u64).expect("below a page");
            let part = &mut out[done..done + count];
            if let Some(space) = &space {
                let pfn = self.translate(space, at, false)?;
                Frames::read(self, pfn, offset, part);
            } else {
                FLAT.with_borrow(|flat| match flat.get(&(at - offset as u64)) {
                    Some(page) => part.copy_from_slice(&page[offset..offset + count]),
                    None => part.fill(0),
                });
            }
            Ok(())
        })
    }
    fn write(&self, address: u64, data: &[u8]) -> Result<(), CopyFault> {
        assert_no_locks("user copy");
        let space = SPACE.with_borrow(Clone::clone);
        Self::pieces(address, data.len(), |at, done, count| {
            let offset = usize::try_from(at % PAGE_SIZE as u64).expect("below a page");
            let part = &data[done..done + count];
            if let Some(space) = &space {
                let pfn = self.translate(space, at, true)?;
                Frames::write(self, pfn, offset, part);
            } else {
                FLAT.with_borrow_mut(|flat| {
                    let page = flat.entry(at - offset as u64).or_insert_with(|| Box::new([0; PAGE_SIZE]));
                    page[offset..offset + count].copy_from_slice(part);
                });
            }
            Ok(())
        })
    }
    fn compare_exchange_u32(&self, address: u64, old: u32, new: u32) -> Result<u32, CopyFault> {
        static ATOMIC: Mutex<()> = Mutex::new(());
        if !address.is_multiple_of(4) {
            return Err(CopyFault);
        }
        let _whole = lock(&ATOMIC);
        let mut bytes = [0; 4];
        UserMem::read(self, address, &mut bytes)?;
        let current = u32::from_le_bytes(bytes);
        if current == old {
            UserMem::write(self, address, &new.to_le_bytes())?;
        }
        Ok(current)
    }
}

/// User registers without a processor: `run` is what the test's [`set_program`] says.
struct HostContext {
    regs: UserRegs,
}

impl UserContext for HostContext {
    fn regs(&mut self) -> &mut UserRegs {
        &mut self.regs
    }
    fn run(&mut self) -> UserExit {
        // Taken out while it runs: the program may use everything here.
        let Some(mut program) = PROGRAM.take() else { return UserExit::Exception { vector: 6, error: 0 } };
        let exit = program(&mut self.regs);
        PROGRAM.set(Some(program));
        exit
    }
    fn save_fpu(&mut self, out: &mut [u8]) -> usize {
        let count = out.len().min(512);
        out[..count].fill(0);
        count
    }
    fn load_fpu(&mut self, _data: Option<&[u8]>) {}
    fn fpu_bytes(&self) -> usize {
        512
    }
}

// ---- Threads and locks ----

#[derive(Default)]
struct Parker {
    state: Mutex<ParkState>,
    changed: Condvar,
}

#[derive(Default)]
struct ParkState {
    token: bool,
    interrupt: bool,
}

impl Host {
    fn me(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = ME.get();
        if id != 0 {
            return id;
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        ME.set(id);
        lock(&self.threads).insert(id, Arc::default());
        id
    }
    fn parker(&self, id: u64) -> Option<Arc<Parker>> {
        lock(&self.threads).get(&id).cloned()
    }
}

impl Spawn for Host {
    fn spawn(&self, name: &str, zone: ZoneId, body: Box<dyn FnOnce() + Send>) -> Result<ThreadId, OutOfMemory> {
        if injected_failure() {
            return Err(OutOfMemory);
        }
        if let Some((run, _)) = baton::mine() {
            return run.serve(name, zone, body);
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let started = std::thread::Builder::new().name(name.into()).spawn(move || {
            // The spawner waits for the id; it cannot be gone.
            if sender.send(sync::current()).is_ok() {
                body();
            }
        });
        if started.is_err() {
            return Err(OutOfMemory);
        }
        receiver.recv().map_err(|_| OutOfMemory)
    }
    fn current_zone(&self) -> ZoneId {
        baton::mine().map_or(ZoneId::GLOBAL, |(run, me)| run.zone(me))
    }
    fn yield_now(&self) {
        baton::point();
    }
}

fn assert_no_locks(what: &str) {
    HELD.with_borrow(|held| assert!(held.is_empty(), "{what} while holding lock classes {held:?}"));
}

impl Dispatch for Host {
    fn park(&self, deadline: Option<Nanos>, interruptible: bool) -> Parked {
        HELD.with_borrow(|held| {
            let spin = held.iter().find(|class| **class >= sync::Class::FIRST_SPIN);
            assert!(spin.is_none(), "park under spin locks {held:?}");
        });
        if let Some((run, me)) = baton::mine() {
            return run.park(me, deadline, interruptible);
        }
        let parker = self.parker(self.me()).expect("a thread knows itself");
        let mut state = lock(&parker.state);
        loop {
            if interruptible && state.interrupt {
                return Parked::Interrupted;
            }
            if state.token {
                state.token = false;
                return Parked::Woken;
            }
            state = match deadline {
                None => parker.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.since(self.monotonic());
                    if left == Nanos(0) {
                        return Parked::TimedOut;
                    }
                    let waited = parker.changed.wait_timeout(state, Duration::from_nanos(left.0));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
    fn unpark(&self, thread: ThreadId) {
        if baton::unpark(thread) {
            return;
        }
        if let Some(parker) = self.parker(thread.0) {
            lock(&parker.state).token = true;
            parker.changed.notify_all();
        }
    }
    fn interrupt(&self, thread: ThreadId) {
        if baton::interrupt(thread) {
            return;
        }
        if let Some(parker) = self.parker(thread.0) {
            lock(&parker.state).interrupt = true;
            parker.changed.notify_all();
        }
    }
    fn clear_interrupt(&self) {
        if let Some((run, me)) = baton::mine() {
            run.set_interrupt(me, false);
            return;
        }
        if let Some(parker) = self.parker(self.me()) {
            lock(&parker.state).interrupt = false;
        }
    }
}

impl Processor for Host {
    fn current(&self) -> ThreadId {
        baton::mine().map_or_else(|| ThreadId(self.me()), |(_, me)| baton::Run::id(me))
    }
    fn enter_spin(&self, class: u8) -> u64 {
        self.lock_taken(class, false);
        0
    }
    fn leave_spin(&self, class: u8, _saved: u64) {
        self.lock_released(class);
    }
    fn lock_taken(&self, class: u8, nests: bool) {
        baton::point();
        HELD.with_borrow_mut(|held| {
            if let Some(top) = held.iter().max() {
                let in_order = class > *top || (class == *top && nests);
                assert!(in_order, "lock class {class} taken while holding {held:?}");
            }
            held.push(class);
        });
    }
    fn lock_released(&self, class: u8) {
        HELD.with_borrow_mut(|held| {
            let index = held.iter().rposition(|other| *other == class);
            assert!(index.is_some(), "lock class {class} released but {held:?} held");
            if let Some(index) = index {
                held.remove(index);
            }
        });
    }
}
