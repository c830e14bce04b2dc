//! The calls of the dispatcher.
//!
//! Virtual times are 64 bits, which the machine's fastest clock (a zone with one share) fills in days. Before that happens all of them are
//! moved back by the same amount ([`Dispatcher::shift`]); only differences mean anything.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use kif::{CpuId, Nanos, ThreadId, ZoneId};

use crate::account::{Account, IDLE, SHARES, weigh};
use crate::heap::{self, NIL, Node};
use crate::load::{Load, next_sample};
use crate::{
    CPUS_MAX, Class, CpuUsage, Decision, GLOBAL, GRANULARITY, PULL, SLICE, SchedError, Slot, TIME_SHARE_SHARES, ThreadUsage, Wake,
    ZoneUsage,
};

/// The account of time-sharing threads.
const TIME_SHARE: u32 = 0;
/// Fixed priority of a boosted thread: above kernel threads, which may wait for it, below real time.
const BOOSTED: u8 = 40;
/// Fixed priorities: real time is 41..=100, system 0..=39.
const FIXED_BEST: u8 = 100;
/// Weight of nice 0, and the unit virtual times of threads are cut to: 2^8 for a nanosecond at nice 0.
const NICE_ZERO: u64 = 1 << 20;
const NICE_UNIT_BITS: u32 = 12;
/// Bits of a virtual time that has come so far that all are moved back.
const FAR: u64 = 3 << 62;
/// How far zones, and threads of one zone, that want CPU are apart at most, with much to spare: this much is left when they are moved back.
const ZONES_APART: u64 = 1 << 48;
const THREADS_APART: u64 = 1 << 40;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Blocked,
    Queued(u32),
    Running(u32),
}

#[derive(Debug)]
struct Thread {
    tid: ThreadId,
    state: State,
    class: Class,
    /// Account of its zone: use is reported there.
    zone: u32,
    /// Virtual time per nanosecond inside its account (nice).
    inverse: u64,
    vtime: u64,
    /// Starts a slice late once.
    fresh: bool,
    /// Where it competes, and the account it is charged to besides its zone's ([`NIL`]: none): what class, zone and boost amount to, worked
    /// out when one of them changes.
    standing: Standing,
    account: u32,
    cpu: u32,
    queued_at: Nanos,
    usage: ThreadUsage,
}

/// Where a thread competes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// By fixed priority.
    Fixed(u8),
    /// By virtual time, in this account.
    Fair(u32),
}

impl Thread {
    /// Works out the standing again. `boost`: it goes to the system range because it holds a kernel lock.
    fn settle(&mut self, boost: bool) {
        self.account = match self.class {
            Class::RealTime(_) | Class::System(_) => NIL,
            Class::TimeShare => TIME_SHARE,
            Class::FairShare => self.zone,
        };
        self.standing = match self.class {
            Class::RealTime(priority) => Standing::Fixed(BOOSTED + 1 + priority.min(59)),
            Class::System(priority) => Standing::Fixed(priority.min(39)),
            Class::TimeShare | Class::FairShare if boost => Standing::Fixed(BOOSTED),
            Class::TimeShare | Class::FairShare => Standing::Fair(self.account),
        };
    }
    /// The same where only the boost may have changed.
    #[inline]
    fn boost(&mut self, boost: bool) {
        if boost || self.standing == Standing::Fixed(BOOSTED) {
            self.settle(boost);
        }
    }
    const fn is_fair(&self) -> bool {
        matches!(self.standing, Standing::Fair(_))
    }
    #[inline]
    fn virtual_of(&self, span: Nanos) -> u64 {
        weigh(span, self.inverse, NICE_UNIT_BITS)
    }
}

#[derive(Debug)]
struct Cpu {
    current: Option<u32>,
    /// Everything up to here is charged.
    charged_at: Nanos,
    /// When the current thread's slice began.
    slice_at: Nanos,
    /// The timer's setting.
    deadline: Option<Nanos>,
    /// The thread that waits, where only one does: it is in none of the heaps below, since most switches are between two threads. [`NIL`]:
    /// none waits, or those that do are in the heaps.
    lone: u32,
    fixed: u32,
    levels: [u32; 2],
    queued: u32,
    usage: CpuUsage,
}

/// All queues of the machine. See the crate's essay.
#[derive(Debug)]
pub struct Dispatcher {
    cpus: Vec<Cpu>,
    /// How many they are.
    count: u32,
    threads: Vec<Thread>,
    thread_nodes: Vec<Node>,
    free_threads: Vec<u32>,
    accounts: Vec<Account>,
    free_accounts: Vec<u32>,
    zones: BTreeMap<u32, u32>,
    /// Account of the global zone, whose load is the machine's.
    global: Option<u32>,
    /// Queue of (account, CPU): index `account * cpus + cpu`; the heap of its threads, and its node in the CPU's level.
    queues: Vec<u32>,
    queue_nodes: Vec<Node>,
    /// Accounts out of tokens.
    throttled: Vec<u32>,
    /// Virtual time of each level, and the furthest any account of it got.
    vtime: [u64; 2],
    horizon: [u64; 2],
    /// Fair threads active in each level.
    active: [u32; 2],
    arrivals: u64,
    runnable: u32,
    /// When the numbers of threads of all zones are sampled again for their load averages.
    sample_at: Nanos,
}

impl Dispatcher {
    /// A dispatcher for CPUs 0..cpus, all idle.
    ///
    /// # Panics
    /// Without CPUs or with more than [`CPUS_MAX`].
    #[must_use]
    pub fn new(cpus: u32) -> Self {
        assert!((1..=CPUS_MAX).contains(&cpus), "{cpus} CPUs");
        let cpu = |_| Cpu {
            current: None,
            charged_at: Nanos(0),
            slice_at: Nanos(0),
            deadline: None,
            lone: NIL,
            fixed: NIL,
            levels: [NIL; 2],
            queued: 0,
            usage: CpuUsage::default(),
        };
        let mut dispatcher = Self {
            cpus: (0..cpus).map(cpu).collect(),
            count: cpus,
            threads: Vec::new(),
            thread_nodes: Vec::new(),
            free_threads: Vec::new(),
            accounts: Vec::new(),
            free_accounts: Vec::new(),
            zones: BTreeMap::new(),
            global: None,
            queues: Vec::new(),
            queue_nodes: Vec::new(),
            throttled: Vec::new(),
            vtime: [0; 2],
            horizon: [0; 2],
            active: [0; 2],
            arrivals: 0,
            runnable: 0,
            sample_at: Nanos(0),
        };
        let account = dispatcher.new_account(Account::new(TIME_SHARE_SHARES, 0));
        assert!(account == Ok(TIME_SHARE), "the first account is that of time-sharing threads");
        dispatcher
    }

    // ---- Zones ----

    /// Adds a zone with its shares.
    ///
    /// # Errors
    /// [`SchedError::ZoneExists`], [`SchedError::OutOfMemory`].
    pub fn zone_add(&mut self, zone: ZoneId, shares: u32) -> Result<(), SchedError> {
        if self.zones.contains_key(&zone.0) {
            return Err(SchedError::ZoneExists);
        }
        let level = if shares == 0 { IDLE } else { SHARES };
        let mut account = Account::new(shares, self.vtime[level]);
        account.load = Load::starting(self.sample_at);
        let account = self.new_account(account)?;
        self.zones.insert(zone.0, account);
        if zone == GLOBAL {
            self.global = Some(account);
        }
        Ok(())
    }

    /// Removes a zone. Threads that are still leaving keep running under it; its id may be added again at once.
    ///
    /// # Errors
    /// [`SchedError::NoSuchZone`].
    pub fn zone_remove(&mut self, zone: ZoneId) -> Result<(), SchedError> {
        let account = self.zones.remove(&zone.0).ok_or(SchedError::NoSuchZone)?;
        if zone == GLOBAL {
            self.global = None;
        }
        self.accounts[account as usize].detached = true;
        self.release_account(account);
        Ok(())
    }

    /// Changes a zone's shares. What it used before keeps its old weight; from now on the new one counts. The caller makes every
    /// CPU pick afterwards.
    ///
    /// # Errors
    /// [`SchedError::NoSuchZone`].
    pub fn set_shares(&mut self, zone: ZoneId, shares: u32) -> Result<(), SchedError> {
        let account = self.account_of(zone)?;
        self.queue_all();
        let old = self.accounts[account as usize].level();
        let new = if shares == 0 { IDLE } else { SHARES };
        if old != new {
            self.unlink_queues(account);
            let active = self.accounts[account as usize].active;
            self.active[old] -= active;
            self.active[new] += active;
            self.accounts[account as usize].vtime = self.vtime[new];
        }
        self.accounts[account as usize].set_shares(shares);
        if old != new && !self.accounts[account as usize].throttled {
            self.link_queues(account);
        }
        Ok(())
    }

    /// Caps a zone to `percent` of one CPU, or lifts its cap: threads that wait for tokens may run at once. The
    /// caller makes every CPU pick afterwards.
    ///
    /// # Errors
    /// [`SchedError::NoSuchZone`].
    pub fn set_cap(&mut self, zone: ZoneId, percent: Option<u32>, now: Nanos) -> Result<(), SchedError> {
        let account = self.account_of(zone)?;
        self.queue_all();
        self.accounts[account as usize].set_cap(percent, now);
        if self.accounts[account as usize].throttled {
            self.unthrottle(account);
        }
        Ok(())
    }

    /// What a zone used and how loaded it is.
    ///
    /// # Errors
    /// [`SchedError::NoSuchZone`].
    pub fn zone_usage(&self, zone: ZoneId, now: Nanos) -> Result<ZoneUsage, SchedError> {
        let account = &self.accounts[self.account_of(zone)? as usize];
        Ok(ZoneUsage {
            user: account.user,
            system: account.system,
            wait: account.wait,
            load: account.load.averages(now, if zone == GLOBAL { self.runnable } else { account.runnable }),
            runnable: account.runnable,
            threads: account.threads,
        })
    }

    // ---- Threads ----

    /// Makes a blocked thread known. The only call for threads that allocates.
    ///
    /// # Errors
    /// [`SchedError::NoSuchZone`], [`SchedError::OutOfMemory`].
    pub fn add(&mut self, tid: ThreadId, zone: ZoneId, class: Class) -> Result<Slot, SchedError> {
        let zone = self.account_of(zone)?;
        let mut thread = Thread {
            tid,
            state: State::Blocked,
            class,
            zone,
            inverse: NICE_ZERO,
            vtime: 0,
            fresh: true,
            standing: Standing::Fair(zone),
            account: zone,
            cpu: 0,
            queued_at: Nanos(0),
            usage: ThreadUsage::default(),
        };
        thread.settle(false);
        let at = if let Some(at) = self.free_threads.pop() {
            self.threads[at as usize] = thread;
            at
        } else {
            // The free list can take every thread, so that `remove` never allocates.
            let count = self.threads.len() + 1;
            self.free_threads.try_reserve(count - self.free_threads.len()).map_err(|_| SchedError::OutOfMemory)?;
            self.threads.try_reserve(1).map_err(|_| SchedError::OutOfMemory)?;
            self.thread_nodes.try_reserve(1).map_err(|_| SchedError::OutOfMemory)?;
            let at = u32::try_from(self.threads.len()).map_err(|_| SchedError::OutOfMemory)?;
            self.threads.push(thread);
            self.thread_nodes.push(Node::NEW);
            at
        };
        self.accounts[zone as usize].threads += 1;
        Ok(Slot(at))
    }

    /// Forgets a thread that is blocked or queued (the current thread ends by [`Dispatcher::block`], then this).
    ///
    /// # Panics
    /// If it is running: its CPU still stands on its stack.
    pub fn remove(&mut self, slot: Slot, now: Nanos) {
        let at = slot.0;
        match self.threads[at as usize].state {
            State::Blocked => {}
            State::Queued(_) => {
                self.dequeue(at);
                self.leave(at, now);
            }
            state @ (State::Free | State::Running(_)) => panic!("removing thread {:?} that is {state:?}", self.threads[at as usize].tid),
        }
        let zone = self.threads[at as usize].zone;
        self.threads[at as usize].state = State::Free;
        self.free_threads.push(at);
        self.accounts[zone as usize].threads -= 1;
        self.release_account(zone);
    }

    /// Moves a thread to another zone (it entered it). It must be current or blocked. It brings nothing along: neither credit
    /// nor debt.
    ///
    /// # Errors
    /// [`SchedError::NoSuchZone`].
    pub fn set_zone(&mut self, slot: Slot, zone: ZoneId, now: Nanos) -> Result<(), SchedError> {
        let to = self.account_of(zone)?;
        self.change(slot.0, now, |thread| thread.zone = to);
        Ok(())
    }

    /// Changes a thread's class. It must be current or blocked.
    pub fn set_class(&mut self, slot: Slot, class: Class, now: Nanos) {
        self.change(slot.0, now, |thread| thread.class = class);
    }

    /// Changes a thread's weight within its zone: each step of nice (−20..=19, clamped) is a factor of 1.25.
    pub fn set_nice(&mut self, slot: Slot, nice: i32) {
        let nice = nice.clamp(-20, 19);
        let mut inverse = NICE_ZERO;
        for _ in 0..nice.unsigned_abs() {
            inverse = if nice > 0 { inverse * 5 / 4 } else { inverse * 4 / 5 };
        }
        self.threads[slot.0 as usize].inverse = inverse;
    }

    /// What a thread used, up to its CPU's last [`Dispatcher::charge`].
    #[must_use]
    pub fn thread_usage(&self, slot: Slot) -> ThreadUsage {
        self.threads[slot.0 as usize].usage
    }

    // ---- Dispatching ----

    /// A blocked thread wants to run (nothing happens if it is runnable already). `boost`: it holds a kernel lock.
    pub fn make_runnable(&mut self, slot: Slot, now: Nanos, boost: bool) -> Wake {
        let at = slot.0;
        if self.threads[at as usize].state != State::Blocked {
            return Wake::Nothing;
        }
        self.join(at, now);
        let thread = &mut self.threads[at as usize];
        thread.boost(boost);
        let last = thread.cpu;
        let cpu = self.choose_cpu(last);
        self.enqueue(at, cpu, now);
        match self.claim(at, cpu, now) {
            Claim::Now => Wake::Preempt { cpu: CpuId(cpu) },
            Claim::Turn => self.arm(cpu, now, self.cpus[cpu as usize].slice_at.plus(SLICE)),
            Claim::Tokens => {
                let account = self.threads[at as usize].account;
                let due = self.accounts[account as usize].tokens_at(now);
                self.arm(cpu, now, due)
            }
            Claim::Nothing => Wake::Nothing,
        }
    }

    /// Charges the time since the CPU's last charge to its current thread, `user` of it as user mode (0 if unknown).
    #[inline]
    pub fn charge(&mut self, cpu: CpuId, now: Nanos, user: Nanos) {
        if now > self.cpus[cpu.0 as usize].charged_at {
            self.charge_span(cpu, now, user);
        }
    }

    fn charge_span(&mut self, cpu: CpuId, now: Nanos, user: Nanos) {
        let cpu = &mut self.cpus[cpu.0 as usize];
        let span = now.since(cpu.charged_at);
        cpu.charged_at = now;
        let Some(at) = cpu.current else {
            cpu.usage.idle.add(span);
            return;
        };
        let user = user.min(span);
        let system = span.since(user);
        cpu.usage.user.add(user);
        cpu.usage.system.add(system);
        let thread = &mut self.threads[at as usize];
        thread.usage.user.add(user);
        thread.usage.system.add(system);
        let zone = &mut self.accounts[thread.zone as usize];
        zone.user.add(user);
        zone.system.add(system);
        if let Some(account) = self.accounts.get_mut(thread.account as usize) {
            thread.vtime += thread.virtual_of(span);
            let level = account.level();
            account.charge(span, now, self.vtime[level]);
            self.horizon[level] = self.horizon[level].max(account.vtime);
            if (account.vtime | thread.vtime) & FAR != 0 {
                self.shift();
            }
        }
    }

    /// The current thread of a CPU does not want to run any more. Follow with [`Dispatcher::pick`].
    ///
    /// # Panics
    /// If the CPU is idle.
    pub fn block(&mut self, cpu: CpuId, now: Nanos) {
        self.charge(cpu, now, Nanos(0));
        let at = self.cpus[cpu.0 as usize].current.take().expect("a thread blocks on the CPU it runs on");
        let thread = &mut self.threads[at as usize];
        thread.usage.voluntary += 1;
        thread.state = State::Blocked;
        thread.boost(false);
        self.leave(at, now);
    }

    /// Decides what a CPU runs now. A current thread that can go on competes too (`boost`: it holds a kernel lock); if it is
    /// picked again it goes on with a new slice, and never was in a queue.
    pub fn pick(&mut self, cpu: CpuId, now: Nanos, boost: bool) -> Decision {
        self.charge(cpu, now, Nanos(0));
        if !self.throttled.is_empty() {
            self.release_tokens(now);
        }
        let index = cpu.0;
        let state = &mut self.cpus[index as usize];
        let old = state.current.take();
        if state.lone != NIL && self.count == 1 && self.throttled.is_empty() {
            match old {
                None => return self.hand_over(index, now),
                Some(at) if !boost && self.gives_way(at, index) => {
                    self.threads[at as usize].usage.involuntary += 1;
                    self.cpus[index as usize].usage.involuntary += 1;
                    let mut decision = self.hand_over(index, now);
                    self.exchange(at, index, now);
                    let deadline = now.plus(SLICE);
                    self.cpus[index as usize].deadline = Some(deadline);
                    decision.deadline = Some(deadline);
                    return decision;
                }
                Some(_) => {}
            }
        }
        let mut own = None;
        if let Some(at) = old {
            self.threads[at as usize].boost(boost);
            own = self.order_of_running(at, now);
            if own.is_none() {
                self.enqueue(at, index, now);
            }
        }
        let goes_on = own.is_some();
        // Among equals the one that waits is first.
        if let Some(first) = self.first(index)
            && own.is_none_or(|(_, ours)| first.1 <= ours)
        {
            own = Some(first);
        }
        if self.count > 1 {
            own = self.choose(index, own);
        }
        let next = own.map(|(at, _)| at);
        if next != old {
            let cpu = &mut self.cpus[index as usize].usage;
            cpu.switches += 1;
            if let Some(at) = old {
                cpu.involuntary += 1;
                self.threads[at as usize].usage.involuntary += 1;
            }
            match (old.filter(|_| goes_on), next) {
                (Some(old), Some(next)) => {
                    self.dequeue(next);
                    self.enqueue(old, index, now);
                }
                (Some(old), None) => self.enqueue(old, index, now),
                (None, Some(next)) => self.dequeue(next),
                (None, None) => {}
            }
            if let Some(at) = next {
                self.start(at, index, now);
            }
        }
        let tokens = next.and_then(|at| self.note_pick(at, now));
        let deadline = self.next_deadline(index, next, tokens, now);
        let cpu = &mut self.cpus[index as usize];
        cpu.current = next;
        cpu.slice_at = now;
        cpu.deadline = deadline;
        let also = if self.count > 1 { self.unaware_cpu(index) } else { None };
        Decision { next: next.map(|at| (Slot(at), self.threads[at as usize].tid)), deadline, also }
    }

    /// Whether a running thread has to make room for the lone one that waits, where that is easily said: both are fair threads of one account
    /// without a cap, as two processes that talk to each other are.
    #[inline]
    fn gives_way(&self, at: u32, index: u32) -> bool {
        let (running, waiting) = (&self.threads[at as usize], &self.threads[self.cpus[index as usize].lone as usize]);
        let Standing::Fair(account) = running.standing else { return false };
        running.standing == waiting.standing && waiting.vtime <= running.vtime && !self.accounts[account as usize].is_capped()
    }

    /// What [`Dispatcher::pick`] amounts to where a thread has just blocked on the only CPU and one waits: there is nothing to compare.
    fn hand_over(&mut self, index: u32, now: Nanos) -> Decision {
        let cpu = &mut self.cpus[index as usize];
        let at = core::mem::replace(&mut cpu.lone, NIL);
        cpu.queued = 0;
        cpu.usage.switches += 1;
        cpu.current = Some(at);
        cpu.slice_at = now;
        self.start(at, index, now);
        let tokens = self.note_pick(at, now);
        let deadline = tokens.map(|tokens| now.plus(tokens.max(Nanos(1))));
        self.cpus[index as usize].deadline = deadline;
        Decision { next: Some((Slot(at), self.threads[at as usize].tid)), deadline, also: None }
    }

    /// How a CPU spent its time, up to its last charge.
    #[must_use]
    pub fn cpu_usage(&self, cpu: CpuId) -> CpuUsage {
        self.cpus[cpu.0 as usize].usage
    }

    /// Number of CPUs.
    #[must_use]
    pub const fn cpus(&self) -> u32 {
        self.count
    }

    // ---- Choosing ----

    /// Marks a thread that was just taken out of its queue as running.
    #[inline]
    fn start(&mut self, at: u32, cpu: u32, now: Nanos) {
        let thread = &mut self.threads[at as usize];
        thread.state = State::Running(cpu);
        thread.cpu = cpu;
        let waited = now.since(thread.queued_at);
        thread.usage.wait.add(waited);
        let zone = &mut self.accounts[thread.zone as usize];
        zone.wait.add(waited);
    }

    /// Virtual time of the system is that of the pick: only fair picks move it. Returns the tokens the thread's account has, if it is capped.
    #[inline]
    fn note_pick(&mut self, at: u32, now: Nanos) -> Option<Nanos> {
        let thread = &self.threads[at as usize];
        let Standing::Fair(account) = thread.standing else { return None };
        let vtime = thread.vtime;
        let account = &mut self.accounts[account as usize];
        account.threads_vtime = account.threads_vtime.max(vtime);
        let level = account.level();
        self.vtime[level] = self.vtime[level].max(account.vtime);
        account.tokens(now)
    }

    /// The place of a CPU's current thread among those that wait; `None` if its zone has no tokens, so that it cannot go on.
    fn order_of_running(&mut self, at: u32, now: Nanos) -> Option<(u32, Order)> {
        let thread = &self.threads[at as usize];
        if let Standing::Fair(account) = thread.standing {
            let account = &mut self.accounts[account as usize];
            if account.throttled || account.tokens(now) == Some(Nanos(0)) {
                return None;
            }
        }
        Some((at, self.order(at)))
    }

    /// The place of a thread that is in no heap among all others.
    #[inline]
    fn order(&self, at: u32) -> Order {
        let thread = &self.threads[at as usize];
        match thread.standing {
            Standing::Fixed(priority) => Order { level: 0, account: fixed_key(priority), thread: 0 },
            Standing::Fair(account) => {
                let account = &self.accounts[account as usize];
                Order { level: 1 + account.level(), account: account.vtime, thread: thread.vtime }
            }
        }
    }

    /// The best thread for a CPU: its own best, or another's that is clearly behind, or any other's if it has none.
    fn choose(&mut self, cpu: u32, own: Option<(u32, Order)>) -> Option<(u32, Order)> {
        let mut best = own;
        for other in 0..self.cpus() {
            if other == cpu {
                continue;
            }
            let Some((theirs, their_order)) = self.first(other) else { continue };
            let wins = match best {
                None => true,
                Some((_, order)) => self.is_clearly_before(theirs, their_order, order),
            };
            if wins {
                best = Some((theirs, their_order));
            }
        }
        best
    }

    /// First thread of a CPU's queues and its place in the order of all.
    #[inline]
    fn first(&mut self, cpu: u32) -> Option<(u32, Order)> {
        let Cpu { lone, queued, .. } = self.cpus[cpu as usize];
        if queued == 0 {
            return None;
        }
        if lone != NIL {
            return Some((lone, self.order(lone)));
        }
        self.first_of_many(cpu)
    }

    #[inline(never)]
    fn first_of_many(&mut self, cpu: u32) -> Option<(u32, Order)> {
        let Cpu { fixed, levels, .. } = self.cpus[cpu as usize];
        if fixed != NIL {
            return Some((fixed, Order { level: 0, account: self.thread_nodes[fixed as usize].key, thread: 0 }));
        }
        for level in [SHARES, IDLE] {
            if levels[level] != NIL {
                let (queue, account) = self.first_queue(cpu, level);
                let at = self.queues[queue as usize];
                return Some((at, Order { level: 1 + level, account, thread: self.thread_nodes[at as usize].key }));
            }
        }
        None
    }

    /// The queue with the least virtual time, and that, of a level that has queues. Keys only ever lag behind the accounts' virtual times (which
    /// grow): a first queue whose key is stale goes back in with the true one. One that is alone is first whatever its key.
    fn first_queue(&mut self, cpu: u32, level: usize) -> (u32, u64) {
        let cpus = self.count;
        let root = &mut self.cpus[cpu as usize].levels[level];
        loop {
            let queue = *root;
            let account = if cpus == 1 { queue } else { queue / cpus };
            let vtime = self.accounts[account as usize].vtime;
            if heap::is_alone(&self.queue_nodes, queue) || self.queue_nodes[queue as usize].key == vtime {
                return (queue, vtime);
            }
            heap::remove(&mut self.queue_nodes, root, queue);
            self.queue_nodes[queue as usize].key = vtime;
            heap::insert(&mut self.queue_nodes, root, queue);
        }
    }

    /// Whether another CPU's first thread is so much before ours that it is worth moving it here.
    fn is_clearly_before(&self, theirs: u32, their_order: Order, ours: Order) -> bool {
        if their_order.level != ours.level || their_order.level == 0 {
            return their_order < ours && (their_order.level != 0 || their_order.account < ours.account);
        }
        let thread = &self.threads[theirs as usize];
        let account = thread.account;
        if their_order.account == ours.account {
            return their_order.thread + thread.virtual_of(PULL) < ours.thread;
        }
        their_order.account + self.accounts[account as usize].virtual_of(PULL) < ours.account
    }

    /// Where a waking thread goes: its last CPU if idle, else any idle one, else its last.
    fn choose_cpu(&self, last: u32) -> u32 {
        if self.count == 1 {
            return last;
        }
        let idle = |cpu: &Cpu| cpu.current.is_none() && cpu.queued == 0;
        if idle(&self.cpus[last as usize]) {
            return last;
        }
        self.cpus.iter().position(idle).map_or(last, |cpu| u32::try_from(cpu).expect("CPUS_MAX"))
    }

    /// How a thread just queued on a CPU stands to the current one.
    fn claim(&self, at: u32, cpu: u32, now: Nanos) -> Claim {
        let thread = &self.threads[at as usize];
        let cpu = &self.cpus[cpu as usize];
        let Some(current) = cpu.current else {
            return if self.waits_for_tokens(at) { Claim::Tokens } else { Claim::Now };
        };
        let running = &self.threads[current as usize];
        match (thread.standing, running.standing) {
            (Standing::Fair(ours), Standing::Fair(theirs)) => {
                let pending = now.since(cpu.charged_at);
                let our_account = &self.accounts[ours as usize];
                if our_account.throttled {
                    return Claim::Tokens;
                }
                let ahead = if ours == theirs {
                    thread.vtime + running.virtual_of(GRANULARITY) < running.vtime + running.virtual_of(pending)
                } else {
                    let their_account = &self.accounts[theirs as usize];
                    if our_account.level() != their_account.level() {
                        // Zones without shares wait for an idle CPU.
                        return if our_account.level() < their_account.level() { Claim::Now } else { Claim::Nothing };
                    }
                    our_account.vtime + their_account.virtual_of(GRANULARITY) < their_account.vtime + their_account.virtual_of(pending)
                };
                if ahead { Claim::Now } else { Claim::Turn }
            }
            (Standing::Fixed(ours), Standing::Fixed(theirs)) if ours > theirs => Claim::Now,
            // Round robin among equals in real time. A boosted thread is looked at again after a slice.
            (Standing::Fixed(ours), Standing::Fixed(theirs))
                if theirs == BOOSTED || (ours == theirs && matches!(thread.class, Class::RealTime(_))) =>
            {
                Claim::Turn
            }
            // A true system thread runs until it blocks.
            (Standing::Fixed(_), Standing::Fixed(_)) => Claim::Nothing,
            (Standing::Fixed(_), Standing::Fair(_)) => Claim::Now,
            (Standing::Fair(_), Standing::Fixed(_)) if self.waits_for_tokens(at) => Claim::Tokens,
            (Standing::Fair(_), Standing::Fixed(theirs)) => if theirs == BOOSTED { Claim::Turn } else { Claim::Nothing },
        }
    }

    fn waits_for_tokens(&self, at: u32) -> bool {
        match self.threads[at as usize].standing {
            Standing::Fair(account) => self.accounts[account as usize].throttled,
            Standing::Fixed(_) => false,
        }
    }

    // ---- Timers ----

    /// Makes sure that a CPU decides again by `at`.
    fn arm(&mut self, cpu: u32, now: Nanos, at: Nanos) -> Wake {
        let at = at.max(now);
        if self.cpus[cpu as usize].deadline.is_some_and(|deadline| deadline <= at) {
            return Wake::Nothing;
        }
        self.cpus[cpu as usize].deadline = Some(at);
        Wake::Timer { cpu: CpuId(cpu), at }
    }

    /// When a CPU that has just picked must decide again.
    fn next_deadline(&mut self, cpu: u32, next: Option<u32>, tokens: Option<Nanos>, now: Nanos) -> Option<Nanos> {
        let mut deadline: Option<Nanos> = None;
        let mut by = |at: Nanos| deadline = Some(deadline.map_or(at, |old| old.min(at)));
        if let Some(at) = next {
            let thread = &self.threads[at as usize];
            let state = &self.cpus[cpu as usize];
            match thread.standing {
                Standing::Fair(account) => {
                    let wanted = if self.accounts[account as usize].level() == IDLE { 2 } else { 1 };
                    // Work on any CPU: it may be far enough behind to come here.
                    if (0..self.count).any(|cpu| self.fair_work(cpu, wanted)) {
                        by(now.plus(SLICE));
                    }
                    if let Some(tokens) = tokens {
                        by(now.plus(tokens.max(Nanos(1))));
                    }
                }
                Standing::Fixed(BOOSTED) if state.queued > 0 => by(now.plus(SLICE)),
                Standing::Fixed(priority) => {
                    // Round robin among real-time threads of one priority.
                    let same = state.fixed != NIL && self.thread_nodes[state.fixed as usize].key == fixed_key(priority);
                    if same && matches!(thread.class, Class::RealTime(_)) {
                        by(now.plus(SLICE));
                    }
                }
            }
        }
        for account in &self.throttled {
            let due = self.accounts[*account as usize].tokens_at(now);
            by(due.max(now.plus(Nanos(1))));
        }
        deadline
    }

    /// Whether fair threads of the first `levels` levels wait on a CPU.
    #[inline]
    fn fair_work(&self, cpu: u32, levels: usize) -> bool {
        let cpu = &self.cpus[cpu as usize];
        match self.threads.get(cpu.lone as usize).map(|lone| lone.standing) {
            Some(Standing::Fair(account)) => self.accounts[account as usize].level() < levels,
            Some(Standing::Fixed(_)) => false,
            None => cpu.levels[..levels].iter().any(|queue| *queue != NIL),
        }
    }

    /// A CPU that runs a fair thread without a timer (or idles) while fair work waits on `cpu`: it would never compare.
    fn unaware_cpu(&self, cpu: u32) -> Option<CpuId> {
        if !self.fair_work(cpu, 2) {
            return None;
        }
        let unaware = |other: &Cpu| match other.current {
            None => true,
            Some(at) => other.deadline.is_none() && self.threads[at as usize].is_fair(),
        };
        let found = self.cpus.iter().enumerate().position(|(index, other)| index != cpu as usize && unaware(other));
        found.map(|at| CpuId(u32::try_from(at).expect("CPUS_MAX")))
    }

    // ---- Queues ----

    #[inline]
    fn enqueue(&mut self, at: u32, cpu: u32, now: Nanos) {
        self.arrivals += 1;
        let thread = &mut self.threads[at as usize];
        thread.state = State::Queued(cpu);
        thread.queued_at = now;
        self.thread_nodes[at as usize].arrival = self.arrivals;
        let state = &mut self.cpus[cpu as usize];
        state.queued += 1;
        let has_tokens = match thread.standing {
            Standing::Fixed(_) => true,
            Standing::Fair(account) => {
                let account = &mut self.accounts[account as usize];
                !account.throttled && account.tokens(now) != Some(Nanos(0))
            }
        };
        if state.queued == 1 && has_tokens {
            state.lone = at;
            return;
        }
        self.enqueue_behind(at, cpu, has_tokens);
    }

    /// The thread that was running becomes the lone one that waits, in place of the one that runs next. It could go on, so it has tokens.
    #[inline]
    fn exchange(&mut self, old: u32, cpu: u32, now: Nanos) {
        self.arrivals += 1;
        self.thread_nodes[old as usize].arrival = self.arrivals;
        let thread = &mut self.threads[old as usize];
        thread.state = State::Queued(cpu);
        thread.queued_at = now;
        let cpu = &mut self.cpus[cpu as usize];
        cpu.lone = old;
        cpu.queued = 1;
    }

    /// Into the heaps, after the lone thread if there is one.
    #[inline(never)]
    fn enqueue_behind(&mut self, at: u32, cpu: u32, has_tokens: bool) {
        let lone = core::mem::replace(&mut self.cpus[cpu as usize].lone, NIL);
        if lone != NIL {
            self.insert(lone, cpu, true);
        }
        self.insert(at, cpu, has_tokens);
    }

    /// Puts a thread into the heaps of its CPU.
    fn insert(&mut self, at: u32, cpu: u32, has_tokens: bool) {
        let thread = &self.threads[at as usize];
        let node = &mut self.thread_nodes[at as usize];
        let account = match thread.standing {
            Standing::Fixed(priority) => {
                node.key = fixed_key(priority);
                heap::insert(&mut self.thread_nodes, &mut self.cpus[cpu as usize].fixed, at);
                return;
            }
            Standing::Fair(account) => account,
        };
        node.key = thread.vtime;
        let queue = self.queue_of(account, cpu);
        let root = &mut self.queues[queue as usize];
        let was_empty = *root == NIL;
        heap::insert(&mut self.thread_nodes, root, at);
        if self.accounts[account as usize].throttled {
            return;
        }
        if !has_tokens {
            if !was_empty {
                self.unlink_queue(queue, account, cpu);
            }
            self.throttle(account, cpu);
        } else if was_empty {
            self.link_queue(queue, account, cpu);
        }
    }

    /// Puts the lone threads of all CPUs into the heaps: for whoever goes through them.
    fn queue_all(&mut self) {
        for cpu in 0..self.count {
            let lone = core::mem::replace(&mut self.cpus[cpu as usize].lone, NIL);
            if lone != NIL {
                self.insert(lone, cpu, true);
            }
        }
    }

    #[inline]
    fn dequeue(&mut self, at: u32) {
        let thread = &self.threads[at as usize];
        let State::Queued(cpu) = thread.state else { panic!("thread {:?} is not queued", thread.tid) };
        let state = &mut self.cpus[cpu as usize];
        state.queued -= 1;
        if state.lone == at {
            state.lone = NIL;
            return;
        }
        self.dequeue_from_many(at, cpu);
    }

    #[inline(never)]
    fn dequeue_from_many(&mut self, at: u32, cpu: u32) {
        let thread = &self.threads[at as usize];
        let state = &mut self.cpus[cpu as usize];
        let account = match thread.standing {
            Standing::Fixed(_) => {
                heap::remove(&mut self.thread_nodes, &mut state.fixed, at);
                return;
            }
            Standing::Fair(account) => account,
        };
        let queue = self.queue_of(account, cpu);
        let root = &mut self.queues[queue as usize];
        heap::remove(&mut self.thread_nodes, root, at);
        if *root == NIL && !self.accounts[account as usize].throttled {
            self.unlink_queue(queue, account, cpu);
        }
    }

    #[inline]
    fn queue_of(&self, account: u32, cpu: u32) -> u32 {
        account * self.count + cpu
    }

    fn link_queue(&mut self, queue: u32, account: u32, cpu: u32) {
        self.arrivals += 1;
        let account = &self.accounts[account as usize];
        let node = &mut self.queue_nodes[queue as usize];
        (node.key, node.arrival) = (account.vtime, self.arrivals);
        heap::insert(&mut self.queue_nodes, &mut self.cpus[cpu as usize].levels[account.level()], queue);
    }

    fn unlink_queue(&mut self, queue: u32, account: u32, cpu: u32) {
        let level = self.accounts[account as usize].level();
        heap::remove(&mut self.queue_nodes, &mut self.cpus[cpu as usize].levels[level], queue);
    }

    /// Links all queues of an account that have threads.
    fn link_queues(&mut self, account: u32) {
        for cpu in 0..self.cpus() {
            let queue = self.queue_of(account, cpu);
            if self.queues[queue as usize] != NIL {
                self.link_queue(queue, account, cpu);
            }
        }
    }

    /// Unlinks all queues of an account that have threads, unless they are unlinked for want of tokens.
    fn unlink_queues(&mut self, account: u32) {
        if self.accounts[account as usize].throttled {
            return;
        }
        for cpu in 0..self.cpus() {
            let queue = self.queue_of(account, cpu);
            if self.queues[queue as usize] != NIL {
                self.unlink_queue(queue, account, cpu);
            }
        }
    }

    /// Takes an account without tokens out of the levels (its queue on `except` is out already).
    fn throttle(&mut self, account: u32, except: u32) {
        self.queue_all();
        for cpu in 0..self.cpus() {
            let queue = self.queue_of(account, cpu);
            if cpu != except && self.queues[queue as usize] != NIL {
                self.unlink_queue(queue, account, cpu);
            }
        }
        self.accounts[account as usize].throttled = true;
        self.throttled.push(account);
    }

    fn unthrottle(&mut self, account: u32) {
        self.throttled.retain(|at| *at != account);
        let state = &mut self.accounts[account as usize];
        state.throttled = false;
        // Waiting for tokens was its own doing: it does not catch up on the others.
        let level = state.level();
        state.vtime = state.vtime.max(self.vtime[level]);
        self.link_queues(account);
    }

    /// Puts accounts whose tokens have come back into the levels.
    fn release_tokens(&mut self, now: Nanos) {
        let mut index = 0;
        while let Some(account) = self.throttled.get(index).copied() {
            if self.accounts[account as usize].tokens_at(now) <= now {
                self.unthrottle(account);
            } else {
                index += 1;
            }
        }
    }

    // ---- Accounts ----

    /// Counts a thread as wanting CPU, and brings its virtual times up to now.
    #[inline]
    fn join(&mut self, at: u32, now: Nanos) {
        self.sample(now);
        self.runnable += 1;
        let thread = &mut self.threads[at as usize];
        self.accounts[thread.zone as usize].runnable += 1;
        let Some(account) = self.accounts.get(thread.account as usize) else { return };
        let index = thread.account;
        let level = account.level();
        // Virtual times are those of the last picks: near enough, unless a thread has been running for long since.
        let stale = self.cpus.iter().any(|cpu| now.since(cpu.slice_at) > GRANULARITY);
        if self.active[level] == 0 {
            // Nobody of the level wanted CPU: all debts are settled.
            self.vtime[level] = self.vtime[level].max(self.horizon[level]);
        } else if stale && self.accounts[index as usize].active == 0 {
            self.vtime[level] = self.vtime[level].max(self.least_vtime(level, now));
        }
        if self.accounts[index as usize].active == 0 {
            let account = &mut self.accounts[index as usize];
            account.vtime = account.vtime.max(self.vtime[level]);
        } else if stale {
            let least = self.least_thread_vtime(index, now);
            let account = &mut self.accounts[index as usize];
            account.threads_vtime = account.threads_vtime.max(least);
        }
        let thread = &mut self.threads[at as usize];
        let account = &mut self.accounts[index as usize];
        account.active += 1;
        self.active[level] += 1;
        let slice = thread.virtual_of(SLICE);
        if thread.fresh {
            thread.fresh = false;
            thread.vtime = account.threads_vtime + slice;
        } else {
            thread.vtime = thread.vtime.max(account.threads_vtime.saturating_sub(slice));
        }
    }

    /// Least virtual time of the accounts of a level that run or wait. (The virtual time at the last pick is long out of date
    /// where a thread has been running alone without a timer.) 0 if there are none.
    fn least_vtime(&mut self, level: usize, now: Nanos) -> u64 {
        self.queue_all();
        let mut least = u64::MAX;
        for cpu in 0..self.cpus() {
            if self.cpus[cpu as usize].levels[level] != NIL {
                least = least.min(self.first_queue(cpu, level).1);
            }
            let state = &self.cpus[cpu as usize];
            let running = state.current.map(|at| self.threads[at as usize].account);
            let Some(account) = running.and_then(|account| self.accounts.get(account as usize)) else { continue };
            if account.level() == level {
                least = least.min(account.vtime + account.virtual_of(now.since(state.charged_at)));
            }
        }
        if least == u64::MAX { 0 } else { least }
    }

    /// The same between the threads of an account.
    fn least_thread_vtime(&mut self, account: u32, now: Nanos) -> u64 {
        self.queue_all();
        let mut least = u64::MAX;
        for cpu in 0..self.cpus() {
            let first = self.queues[self.queue_of(account, cpu) as usize];
            if first != NIL {
                least = least.min(self.thread_nodes[first as usize].key);
            }
            let state = &self.cpus[cpu as usize];
            let Some(thread) = state.current.map(|at| &self.threads[at as usize]) else { continue };
            if thread.account == account {
                least = least.min(thread.vtime + thread.virtual_of(now.since(state.charged_at)));
            }
        }
        if least == u64::MAX { 0 } else { least }
    }

    /// Counts a thread as not wanting CPU any more.
    #[inline]
    fn leave(&mut self, at: u32, now: Nanos) {
        self.sample(now);
        let thread = &self.threads[at as usize];
        self.runnable -= 1;
        self.accounts[thread.zone as usize].runnable -= 1;
        if let Some(account) = self.accounts.get_mut(thread.account as usize) {
            account.active -= 1;
            let level = account.level();
            self.active[level] -= 1;
        }
    }

    /// Samples all zones' numbers of runnable threads if a second ended since the last change of one: until now they were as they are.
    #[inline]
    fn sample(&mut self, now: Nanos) {
        if now >= self.sample_at {
            self.sample_all(now);
        }
    }

    #[cold]
    fn sample_all(&mut self, now: Nanos) {
        self.sample_at = next_sample(now);
        let (machine, global) = (self.runnable, self.global.map(|global| global as usize));
        for (at, account) in self.accounts.iter_mut().enumerate() {
            account.load.sample(now, if Some(at) == global { machine } else { account.runnable });
        }
    }

    /// Moves all virtual times back. Those that want CPU keep their order and their distances; those far behind, who sleep, all come to stand
    /// at zero, and start from the system's time when they wake.
    #[cold]
    fn shift(&mut self) {
        self.queue_all();
        let shifts = self.horizon.map(|horizon| horizon.saturating_sub(ZONES_APART));
        for level in [SHARES, IDLE] {
            self.vtime[level] = self.vtime[level].saturating_sub(shifts[level]);
            self.horizon[level] = self.horizon[level].saturating_sub(shifts[level]);
        }
        let cpus = self.cpus.len();
        for (at, account) in self.accounts.iter_mut().enumerate() {
            let shift = shifts[account.level()];
            account.vtime = account.vtime.saturating_sub(shift);
            for node in &mut self.queue_nodes[at * cpus..(at + 1) * cpus] {
                node.key = node.key.saturating_sub(shift);
            }
            account.threads_shift = account.threads_vtime;
        }
        for thread in &self.threads {
            if let Some(account) = self.accounts.get_mut(thread.account as usize) {
                account.threads_shift = account.threads_shift.max(thread.vtime);
            }
        }
        for account in &mut self.accounts {
            account.threads_shift = account.threads_shift.saturating_sub(THREADS_APART);
            account.threads_vtime = account.threads_vtime.saturating_sub(account.threads_shift);
        }
        for (thread, node) in self.threads.iter_mut().zip(&mut self.thread_nodes) {
            let Some(account) = self.accounts.get(thread.account as usize) else { continue };
            thread.vtime = thread.vtime.saturating_sub(account.threads_shift);
            if thread.is_fair() {
                node.key = thread.vtime;
            }
        }
    }

    /// Changes what decides a thread's account.
    fn change(&mut self, at: u32, now: Nanos, change: impl FnOnce(&mut Thread)) {
        let state = self.threads[at as usize].state;
        let running = match state {
            State::Running(cpu) => {
                self.charge(CpuId(cpu), now, Nanos(0));
                true
            }
            State::Blocked => false,
            State::Free | State::Queued(_) => panic!("changing thread {:?} that is {state:?}", self.threads[at as usize].tid),
        };
        if running {
            self.leave(at, now);
        }
        let thread = &mut self.threads[at as usize];
        let (old_zone, old_account) = (thread.zone, thread.account);
        change(thread);
        thread.settle(false);
        let (new_zone, new_account) = (thread.zone, thread.account);
        if old_account != new_account {
            thread.vtime = 0;
        }
        if running {
            self.join(at, now);
        }
        self.accounts[new_zone as usize].threads += 1;
        self.accounts[old_zone as usize].threads -= 1;
        self.release_account(old_zone);
    }

    fn account_of(&self, zone: ZoneId) -> Result<u32, SchedError> {
        self.zones.get(&zone.0).copied().ok_or(SchedError::NoSuchZone)
    }

    fn new_account(&mut self, account: Account) -> Result<u32, SchedError> {
        if let Some(at) = self.free_accounts.pop() {
            self.accounts[at as usize] = account;
            return Ok(at);
        }
        let cpus = self.cpus.len();
        let count = self.accounts.len() + 1;
        let no_memory = |_| SchedError::OutOfMemory;
        self.accounts.try_reserve(1).map_err(no_memory)?;
        self.queues.try_reserve(cpus).map_err(no_memory)?;
        self.queue_nodes.try_reserve(cpus).map_err(no_memory)?;
        self.free_accounts.try_reserve(count - self.free_accounts.len()).map_err(no_memory)?;
        self.throttled.try_reserve(count - self.throttled.len()).map_err(no_memory)?;
        let at = u32::try_from(self.accounts.len()).map_err(|_| SchedError::OutOfMemory)?;
        self.accounts.push(account);
        for _ in 0..cpus {
            self.queues.push(NIL);
            self.queue_nodes.push(Node::NEW);
        }
        Ok(at)
    }

    /// Frees the account of a removed zone with its last thread.
    fn release_account(&mut self, at: u32) {
        let account = &mut self.accounts[at as usize];
        if !account.detached || account.threads > 0 {
            return;
        }
        account.detached = false;
        account.throttled = false;
        self.throttled.retain(|throttled| *throttled != at);
        self.free_accounts.push(at);
    }
}

/// What a thread that was just queued may ask of its CPU.
enum Claim {
    /// The CPU, before the current thread's slice ends.
    Now,
    /// Its turn after the slice.
    Turn,
    /// A look when its zone has tokens again.
    Tokens,
    /// Nothing while the current thread goes on.
    Nothing,
}

/// Place of a CPU's first thread among those of other CPUs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Order {
    level: usize,
    account: u64,
    thread: u64,
}

/// Better priorities first.
const fn fixed_key(priority: u8) -> u64 {
    (FIXED_BEST - priority) as u64
}
