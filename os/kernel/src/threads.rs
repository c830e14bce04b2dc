//! Kernel threads: the `sched` crate decides, `hal` switches, this joins them.
//!
//! # Theory
//! `sched::Dispatcher` is pure: it is told what happened and says who runs and until when. A thread that parks is charged, blocked there, and the CPU
//! picks another; nothing runnable means the idle thread, which the dispatcher does not know. There is no periodic tick: the timer is
//! armed for the earlier of the dispatcher's deadline and the next timed park. An armed timer is left alone while it is early enough: a spurious
//! interrupt costs less than programming it at every switch.
//!
//! # Structures
//! [`Thread`] is what the kernel keeps with each `hal` context. [`Cpus`] holds the dispatcher and the table that finds a thread by the place in its
//! id, under one lock: whoever parks, wakes or switches needs both. `TIMERS` holds timed parks.
//!
//! # Locking
//! `Sched` -> `Timers`, and `Threads` (those that ended): all spin locks, none held across a switch.
//!
//! # Failure
//! Unparking a thread that is gone does nothing. Out of memory is possible only in [`Spawner`].
//!
//! # Limits
//! One CPU picks ([`this_cpu`] is the only index used); the calls for others (`Wake::Preempt`, `Decision::also`) would send an interrupt.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use hal::thread::Context;
use heap::Account;
use kif::{Clock, CpuId, Nanos, OutOfMemory, Spawn, ThreadId, ZoneId};
use sched::{Class as SchedClass, Dispatcher, Slot, Wake};
use sync::{Class, Dispatch, Parked, SpinLock};

use crate::HEAP;

/// Priority of kernel threads within the system class.
const KERNEL_PRIORITY: u8 = 10;

/// What the kernel keeps with a context.
pub struct Thread {
    name: String,
    /// `None`: the idle thread.
    slot: Option<Slot>,
    account: Account,
    zone: AtomicU32,
}

/// How a thread stands to parking; `sched` knows whether it is runnable otherwise.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parking {
    Ready,
    Parked,
    ParkedInterruptible,
}

/// Why a parked thread runs again: the note left in its context.
const WOKEN: u8 = 0;
const TIMED_OUT: u8 = 1;
const INTERRUPTED: u8 = 2;

/// Bits of a thread's id that are its place in the table; the rest count how often places were given out, so that no id comes twice.
const PLACE_BITS: u32 = 20;

/// A thread that can be found by its id.
struct Entry {
    context: Arc<Context>,
    slot: Slot,
    parking: Parking,
    /// An unpark came before the park.
    token: bool,
    /// It parked holding a mutex, so it is wanted back soon.
    boost: bool,
}

/// All threads but idle, by place.
struct Table {
    places: Vec<Option<Entry>>,
    free: Vec<u32>,
    given: u64,
}

/// The dispatcher and all that changes with it.
struct Cpus {
    dispatcher: Option<Dispatcher>,
    threads: Table,
    idle: Option<Arc<Context>>,
}

static CPUS: SpinLock<Cpus> = SpinLock::new(
    Class::Sched,
    Cpus { dispatcher: None, threads: Table { places: Vec::new(), free: Vec::new(), given: 0 }, idle: None },
);
static TIMERS: SpinLock<BTreeSet<(Nanos, ThreadId)>> = SpinLock::new(Class::Timers, BTreeSet::new());
/// When the first of `TIMERS` is over; `u64::MAX`: there is none.
static FIRST_TIMER: AtomicU64 = AtomicU64::new(u64::MAX);
/// When the timer fires; `u64::MAX`: not armed.
static ARMED: AtomicU64 = AtomicU64::new(u64::MAX);
/// Threads that ended; freed by the next thread that comes by.
static ENDED: SpinLock<Vec<Arc<Context>>> = SpinLock::new(Class::Threads, Vec::new());
static ANY_ENDED: AtomicBool = AtomicBool::new(false);

fn now() -> Nanos {
    hal::time::HalClock.monotonic()
}

fn this_cpu() -> CpuId {
    CpuId(hal::percpu::index())
}

impl Cpus {
    const fn dispatcher(&mut self) -> &mut Dispatcher {
        self.dispatcher.as_mut().expect("threads::init made it")
    }

    /// The running thread's entry. Not for the idle thread, which has none.
    fn current(&mut self) -> &mut Entry {
        self.threads.find(hal::thread::current_id()).expect("a running thread is in the table")
    }

    /// Makes a parked thread runnable; does nothing if it is. `wakes` may change its entry, and says whether it is woken.
    fn make_ready(&mut self, id: ThreadId, why: u8, wakes: impl FnOnce(&mut Entry) -> bool) -> Wake {
        let Some(entry) = self.threads.find(id) else { return Wake::Nothing };
        if !wakes(entry) || entry.parking == Parking::Ready {
            return Wake::Nothing;
        }
        entry.parking = Parking::Ready;
        entry.context.set_note(why);
        let (slot, boost) = (entry.slot, entry.boost);
        self.dispatcher().make_runnable(slot, now(), boost)
    }

    /// Lets the dispatcher decide: the thread to run, and until when.
    fn pick(&mut self, at: Nanos, boost: bool) -> (Arc<Context>, Option<Nanos>) {
        let decision = self.dispatcher().pick(this_cpu(), at, boost);
        let next = match decision.next {
            Some((_, id)) => self.threads.find(id).map(|entry| &entry.context),
            None => self.idle.as_ref(),
        };
        (Arc::clone(next.expect("a picked thread is in the table, and the idle thread always exists")), decision.deadline)
    }
}

/// Calls `body` with the dispatcher, `Sched` held.
fn with_dispatcher<R>(body: impl FnOnce(&mut Dispatcher) -> R) -> R {
    body(CPUS.lock().dispatcher())
}

fn of(context: &Context) -> &Thread {
    context.local().downcast_ref::<Thread>().expect("every context is made here with a Thread")
}

/// Calls `body` with the running thread; `None` before threads exist.
fn with_current<R>(body: impl FnOnce(&Context, &Thread) -> R) -> Option<R> {
    hal::thread::with_current(|context| body(context, of(context)))
}

impl Table {
    const fn place(id: ThreadId) -> usize {
        // Twenty bits.
        (id.0 & ((1 << PLACE_BITS) - 1)) as usize
    }

    /// An id for a new thread, and a place for it; `None` if there are too many.
    fn claim(&mut self) -> Option<ThreadId> {
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                let place = u32::try_from(self.places.len()).ok().filter(|place| *place < 1 << PLACE_BITS)?;
                self.places.push(None);
                // So that giving a place back never has to allocate.
                self.free.reserve(self.places.len());
                place
            }
        };
        self.given += 1;
        Some(ThreadId(self.given << PLACE_BITS | u64::from(place)))
    }

    fn put(&mut self, id: ThreadId, context: Arc<Context>, slot: Slot) {
        self.places[Self::place(id)] = Some(Entry { context, slot, parking: Parking::Ready, token: false, boost: false });
    }

    fn find(&mut self, id: ThreadId) -> Option<&mut Entry> {
        self.places.get_mut(Self::place(id))?.as_mut().filter(|entry| entry.context.id() == id)
    }

    /// Gives a place back, with the thread that was there, if any.
    fn release(&mut self, id: ThreadId) -> Option<Arc<Context>> {
        self.free.push(u32::try_from(Self::place(id)).expect("twenty bits"));
        self.places[Self::place(id)].take().map(|entry| entry.context)
    }
}

fn find(id: ThreadId) -> Option<Arc<Context>> {
    CPUS.lock().threads.find(id).map(|entry| Arc::clone(&entry.context))
}

/// Prints the running thread's name.
pub struct CurrentName;

impl fmt::Display for CurrentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_current(|_, thread| f.write_str(&thread.name)).unwrap_or_else(|| f.write_str("no threads yet"))
    }
}

// ---- switching -----------------------------------------------------------------------------------------------------------------

/// Charges the running thread up to now.
fn charge(dispatcher: &mut Dispatcher, at: Nanos) {
    dispatcher.charge(this_cpu(), at, hal::time::cycles_to_nanos(hal::thread::take_user_cycles()));
}

/// Charges, picks and switches. Interrupts are off; returns when this thread runs again.
fn switch() {
    hal::percpu::switch_done();
    let at = now();
    let boost = hal::thread::holds_mutex();
    let (next, deadline) = {
        let mut cpus = CPUS.lock();
        charge(cpus.dispatcher(), at);
        cpus.pick(at, boost)
    };
    run(next, deadline);
}

/// Runs what was picked, until the calling thread is picked again.
fn run(next: Arc<Context>, deadline: Option<Nanos>) {
    arm(deadline);
    hal::thread::switch_to(next);
    if ANY_ENDED.load(Relaxed) {
        reap();
    }
}

/// Arms the timer for `deadline` or the next timed park, whichever is earlier, unless it fires early enough already.
fn arm(deadline: Option<Nanos>) {
    let wanted = deadline.map_or(u64::MAX, |deadline| deadline.0).min(FIRST_TIMER.load(Relaxed));
    if wanted < ARMED.load(Relaxed) {
        ARMED.store(wanted, Relaxed);
        hal::apic::set_timer(Some(Nanos(wanted)));
    }
}

/// Changes the timed parks.
fn with_timers<R>(body: impl FnOnce(&mut BTreeSet<(Nanos, ThreadId)>) -> R) -> R {
    let mut timers = TIMERS.lock();
    let out = body(&mut timers);
    FIRST_TIMER.store(timers.first().map_or(u64::MAX, |(at, _)| at.0), Relaxed);
    out
}

/// Acts on what the dispatcher said about a wake-up.
fn woke(wake: &Wake) {
    match wake {
        Wake::Nothing => {}
        Wake::Timer { at, .. } => arm(Some(*at)),
        Wake::Preempt { .. } => hal::percpu::request_switch(),
    }
}

/// Wakes threads whose timed park is over.
fn expire() {
    loop {
        let at = now();
        let due = with_timers(|timers| {
            let first = timers.first().copied().filter(|first| first.0 <= at)?;
            timers.remove(&first);
            Some(first.1)
        });
        let Some(due) = due else { return };
        let wake = CPUS.lock().make_ready(due, TIMED_OUT, |_| true);
        woke(&wake);
    }
}

struct Hooks;

impl hal::Hooks for Hooks {
    fn timer(&self) {
        ARMED.store(u64::MAX, Relaxed);
        expire();
        // The slice may be over: decide again, which also arms the timer again.
        hal::percpu::request_switch();
    }
    fn preempt(&self) {
        switch();
    }
    fn thread_end(&self) -> ! {
        hal::thread::retire_current();
        let (id, slot) = with_current(|context, thread| (context.id(), thread.slot)).expect("a thread ends");
        let context = {
            let mut cpus = CPUS.lock();
            let dispatcher = cpus.dispatcher();
            let at = now();
            charge(dispatcher, at);
            dispatcher.block(this_cpu(), at);
            dispatcher.remove(slot.expect("the idle thread does not end"), at);
            cpus.threads.release(id)
        };
        ENDED.lock().extend(context);
        ANY_ENDED.store(true, Relaxed);
        switch();
        unreachable!("an ended thread runs")
    }
}

/// Frees ended threads. Each one's stack goes when the CPU that ran it has left it: the last reference decides.
fn reap() {
    let ended = {
        let mut list = ENDED.lock();
        ANY_ENDED.store(false, Relaxed);
        core::mem::take(&mut *list)
    };
    drop(ended);
}

// ---- what locks and waits need ---------------------------------------------------------------------------------------------------

struct Threads;

impl Dispatch for Threads {
    fn park(&self, deadline: Option<Nanos>, interruptible: bool) -> Parked {
        hal::thread::assert_may_block();
        let saved = hal::cpu::interrupts_off();
        let parked = park(deadline, interruptible);
        hal::trap::restore(saved);
        parked
    }
    fn unpark(&self, id: ThreadId) {
        let wake = CPUS.lock().make_ready(id, WOKEN, |entry| {
            entry.token = entry.parking == Parking::Ready;
            true
        });
        woke(&wake);
    }
    fn interrupt(&self, id: ThreadId) {
        let wake = CPUS.lock().make_ready(id, INTERRUPTED, |entry| {
            entry.context.set_interrupted(true);
            entry.parking == Parking::ParkedInterruptible
        });
        woke(&wake);
    }
    fn clear_interrupt(&self) {
        hal::thread::with_current(|context| context.set_interrupted(false));
    }
}

/// Parks the running thread. Interrupts are off.
fn park(deadline: Option<Nanos>, interruptible: bool) -> Parked {
    let at = now();
    let (next, until) = {
        let mut cpus = CPUS.lock();
        let entry = cpus.current();
        if entry.token {
            entry.token = false;
            return Parked::Woken;
        }
        if interruptible && entry.context.is_interrupted() {
            return Parked::Interrupted;
        }
        if let Some(deadline) = deadline {
            if deadline <= at {
                return Parked::TimedOut;
            }
            let id = entry.context.id();
            with_timers(|timers| timers.insert((deadline, id)));
        }
        entry.parking = if interruptible { Parking::ParkedInterruptible } else { Parking::Parked };
        entry.boost = hal::thread::holds_mutex();
        let dispatcher = cpus.dispatcher();
        charge(dispatcher, at);
        dispatcher.block(this_cpu(), at);
        cpus.pick(at, false)
    };
    hal::percpu::switch_done();
    run(next, until);
    if let Some(deadline) = deadline {
        with_timers(|timers| timers.remove(&(deadline, hal::thread::current_id())));
    }
    match hal::thread::with_current(Context::note).expect("a thread parked") {
        TIMED_OUT => Parked::TimedOut,
        INTERRUPTED => Parked::Interrupted,
        // Woken, perhaps by something that is gone again: the caller tests its condition anyway.
        _ => Parked::Woken,
    }
}

// ---- making threads --------------------------------------------------------------------------------------------------------------

/// Thread creation; see [`Spawn`].
pub struct Spawner;

impl Spawner {
    fn start(
        name: &str,
        zone: ZoneId,
        class: SchedClass,
        body: Box<dyn FnOnce() + Send>,
    ) -> Result<ThreadId, OutOfMemory> {
        if ANY_ENDED.load(Relaxed) {
            reap();
        }
        HEAP.fallible_call()?;
        let (id, slot) = {
            let mut cpus = CPUS.lock();
            let id = cpus.threads.claim().ok_or(OutOfMemory)?;
            let Ok(slot) = cpus.dispatcher().add(id, zone, class) else {
                cpus.threads.release(id);
                return Err(OutOfMemory);
            };
            (id, slot)
        };
        let thread = new_thread(name, zone, Some(slot));
        let context = match Context::new(id, zone, Box::new(thread), body) {
            Ok(context) => context,
            Err(error) => {
                let mut cpus = CPUS.lock();
                cpus.dispatcher().remove(slot, now());
                cpus.threads.release(id);
                return Err(error);
            }
        };
        let wake = {
            let mut cpus = CPUS.lock();
            cpus.threads.put(id, context, slot);
            cpus.dispatcher().make_runnable(slot, now(), false)
        };
        woke(&wake);
        Ok(id)
    }
}

fn new_thread(name: &str, zone: ZoneId, slot: Option<Slot>) -> Thread {
    Thread { name: String::from(name), slot, account: Account::new(zone), zone: AtomicU32::new(zone.0) }
}

impl Spawn for Spawner {
    fn spawn(&self, name: &str, zone: ZoneId, body: Box<dyn FnOnce() + Send>) -> Result<ThreadId, OutOfMemory> {
        Self::start(name, zone, SchedClass::System(KERNEL_PRIORITY), body)
    }
    fn spawn_lwp(&self, name: &str, zone: ZoneId, body: Box<dyn FnOnce() + Send>) -> Result<ThreadId, OutOfMemory> {
        Self::start(name, zone, SchedClass::FairShare, body)
    }
    fn current_zone(&self) -> ZoneId {
        with_current(|_, thread| ZoneId(thread.zone.load(Relaxed))).unwrap_or(ZoneId::GLOBAL)
    }
    fn on_large_stack(&self, body: &mut dyn FnMut()) -> Result<(), OutOfMemory> {
        let zone = with_current(|_, thread| ZoneId(thread.zone.load(Relaxed)));
        let charge = |zone| with_current(|_, thread| thread.account.set_zone(zone));
        charge(ZoneId::GLOBAL);
        let result = hal::thread::on_large_stack(body);
        if let Some(zone) = zone {
            charge(zone);
        }
        result
    }
    fn move_to_zone(&self, id: ThreadId, zone: ZoneId) {
        let Some(context) = find(id) else { return };
        let thread = of(&context);
        thread.account.set_zone(zone);
        thread.zone.store(zone.0, Relaxed);
        if let Some(slot) = thread.slot {
            // A zone that is gone keeps its last threads: the thread stays in the share it has.
            with_dispatcher(|dispatcher| if dispatcher.set_zone(slot, zone, now()).is_err() {});
        }
    }
    fn thread_times(&self, id: ThreadId) -> (Nanos, Nanos) {
        let Some(context) = find(id) else { return (Nanos(0), Nanos(0)) };
        let Some(slot) = of(&context).slot else { return (Nanos(0), Nanos(0)) };
        with_dispatcher(|dispatcher| {
            if hal::thread::current_id() == id {
                charge(dispatcher, now());
            }
            let usage = dispatcher.thread_usage(slot);
            (usage.user, usage.system)
        })
    }
    fn set_nice(&self, id: ThreadId, nice: i8) {
        let Some(context) = find(id) else { return };
        if let Some(slot) = of(&context).slot {
            with_dispatcher(|dispatcher| dispatcher.set_nice(slot, nice.into()));
        }
    }
    fn yield_now(&self) {
        let saved = hal::cpu::interrupts_off();
        switch();
        hal::trap::restore(saved);
    }
}

/// How the heap finds who pays.
struct RunningAccount;

impl heap::CurrentAccount for RunningAccount {
    fn with(&self, body: &mut dyn FnMut(&Account)) {
        with_current(|_, thread| body(&thread.account));
    }
}

// ---- start -----------------------------------------------------------------------------------------------------------------------

/// Makes the running code the first thread, starts the idle thread and installs locks' and heap's view of threads. Interrupts stay off.
///
/// # Errors
/// No memory for the idle thread's stack.
pub fn init(cpus: u32) -> Result<(), OutOfMemory> {
    hal::install_hooks(&Hooks);
    let mut dispatcher = Dispatcher::new(cpus);
    let id = CPUS.lock().threads.claim().ok_or(OutOfMemory)?;
    // `zone::init_global` sets its real shares.
    dispatcher.zone_add(ZoneId::GLOBAL, 1).map_err(|_| OutOfMemory)?;
    let slot = dispatcher.add(id, ZoneId::GLOBAL, SchedClass::System(KERNEL_PRIORITY)).map_err(|_| OutOfMemory)?;
    let boot = hal::thread::adopt_boot_thread(id, Box::new(new_thread("boot", ZoneId::GLOBAL, Some(slot))));
    CPUS.lock().threads.put(id, boot, slot);
    // The dispatcher starts idle: the boot thread is what it picks first.
    woke(&dispatcher.make_runnable(slot, now(), false));
    let picked = dispatcher.pick(CpuId(0), now(), false);
    assert!(picked.next.is_some_and(|(_, first)| first == id), "the dispatcher does not pick the only thread");
    let idle = CPUS.lock().threads.claim().ok_or(OutOfMemory)?;
    let idle = Context::new(idle, ZoneId::GLOBAL, Box::new(new_thread("idle", ZoneId::GLOBAL, None)), Box::new(idle_loop))?;
    {
        let mut cpus = CPUS.lock();
        cpus.dispatcher = Some(dispatcher);
        cpus.idle = Some(idle);
    }
    sync::install(&Threads);
    HEAP.install_current(&(&RunningAccount as &dyn heap::CurrentAccount));
    Ok(())
}

/// Ends the boot thread: its work is done.
pub fn leave() -> ! {
    hal::Hooks::thread_end(&Hooks)
}

/// What a CPU does when nothing is runnable.
fn idle_loop() {
    loop {
        hal::cpu::interrupts_off();
        if ANY_ENDED.load(Relaxed) {
            reap();
        }
        if hal::percpu::switch_requested() {
            switch();
        } else {
            hal::cpu::wait_for_interrupt();
        }
        hal::cpu::interrupts_on();
    }
}

// ---- zones' view -----------------------------------------------------------------------------------------------------------------

/// The dispatcher as zones see it; see [`zone::Scheduler`].
pub struct ZoneShares;

impl zone::Scheduler for ZoneShares {
    fn attach(&self, zone: ZoneId, shares: u32) {
        // Only "exists already" is possible for a live zone id; the shares then are what is new.
        with_dispatcher(|dispatcher| {
            if dispatcher.zone_add(zone, shares).is_err() && dispatcher.set_shares(zone, shares).is_err() {}
        });
    }
    fn detach(&self, zone: ZoneId) {
        with_dispatcher(|dispatcher| if dispatcher.zone_remove(zone).is_err() {});
    }
    fn set_shares(&self, zone: ZoneId, shares: u32) {
        with_dispatcher(|dispatcher| if dispatcher.set_shares(zone, shares).is_err() {});
        hal::percpu::request_switch();
    }
    fn set_cap(&self, zone: ZoneId, percent: Option<u32>) {
        with_dispatcher(|dispatcher| if dispatcher.set_cap(zone, percent, now()).is_err() {});
        hal::percpu::request_switch();
    }
    fn set_io_weight(&self, zone: ZoneId, weight: u64) {
        pool_fs::set_weight(zone, weight);
    }
    fn usage(&self, zone: ZoneId) -> zone::Usage {
        with_dispatcher(|dispatcher| {
            charge(dispatcher, now());
            dispatcher.zone_usage(zone, now()).map_or_else(
                |_| zone::Usage::default(),
                |usage| zone::Usage { user: usage.user, system: usage.system, wait: usage.wait, load: usage.load },
            )
        })
    }
}

/// How a CPU spent its time: user, system, idle; switches.
pub fn cpu_times(cpu: CpuId) -> (Nanos, Nanos, Nanos, u64) {
    with_dispatcher(|dispatcher| {
        charge(dispatcher, now());
        let usage = dispatcher.cpu_usage(cpu);
        (usage.user, usage.system, usage.idle, usage.switches)
    })
}
