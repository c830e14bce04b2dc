//! A machine made of nothing but time: CPUs that follow the dispatcher's decisions, threads that run and sleep by a script.
//! It checks on the way what must always hold: no CPU idles while a thread waits that could run, and every nanosecond is
//! charged exactly once.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};

use kif::{CpuId, Nanos, ThreadId, ZoneId};
use sched::{Class, Decision, Dispatcher, Slot, Wake};

/// What a thread does, for ever.
#[derive(Clone, Copy, Debug)]
pub enum Script {
    /// Computes.
    Busy,
    /// Runs `run` ns, sleeps `sleep` ns.
    Cycle { run: u64, sleep: u64 },
    /// Runs `run` ns, then forks another like itself, until the zone has `most` threads; then computes.
    Bomb { run: u64, most: u32 },
}

#[derive(Debug)]
struct Thread {
    slot: Slot,
    zone: ZoneId,
    script: Script,
    /// CPU time until it sleeps or forks.
    left: u64,
    last_ran: u64,
    woken_at: Option<u64>,
}

pub struct Machine {
    pub sched: Dispatcher,
    pub now: u64,
    threads: BTreeMap<u64, Thread>,
    running: Vec<Option<u64>>,
    deadline: Vec<Option<u64>>,
    sleeping: BTreeSet<(u64, u64)>,
    next_tid: u64,
    /// Longest time from wake-up to running, by thread.
    pub latency: BTreeMap<u64, u64>,
    /// Longest time without running of a thread that wanted to.
    pub starved: BTreeMap<u64, u64>,
    /// Zones that have a cap (idling is allowed then).
    pub capped: bool,
    pub decisions: u64,
    /// Hash of all decisions: two runs are the same if this is.
    pub digest: u64,
}

impl Machine {
    pub fn new(cpus: u32) -> Self {
        Self {
            sched: Dispatcher::new(cpus),
            now: 0,
            threads: BTreeMap::new(),
            running: vec![None; cpus as usize],
            deadline: vec![None; cpus as usize],
            sleeping: BTreeSet::new(),
            next_tid: 1,
            latency: BTreeMap::new(),
            starved: BTreeMap::new(),
            capped: false,
            decisions: 0,
            digest: 0xcbf2_9ce4_8422_2325,
        }
    }

    pub fn zone(&mut self, id: u32, shares: u32) -> ZoneId {
        self.sched.zone_add(ZoneId(id), shares).expect("a new zone");
        ZoneId(id)
    }

    pub fn spawn(&mut self, zone: ZoneId, script: Script) -> u64 {
        self.spawn_class(zone, Class::FairShare, script)
    }

    pub fn spawn_class(&mut self, zone: ZoneId, class: Class, script: Script) -> u64 {
        let tid = self.next_tid;
        self.next_tid += 1;
        let slot = self.sched.add(ThreadId(tid), zone, class).expect("memory");
        let left = match script {
            Script::Busy => u64::MAX,
            Script::Cycle { run, .. } | Script::Bomb { run, .. } => run,
        };
        self.threads.insert(tid, Thread { slot, zone, script, left, last_ran: self.now, woken_at: None });
        self.wake(tid);
        tid
    }

    pub fn slot(&self, tid: u64) -> Slot {
        self.threads[&tid].slot
    }

    fn wake(&mut self, tid: u64) {
        let thread = self.threads.get_mut(&tid).expect("it exists");
        thread.woken_at = Some(self.now);
        thread.last_ran = self.now;
        match self.sched.make_runnable(thread.slot, Nanos(self.now), false) {
            Wake::Nothing => {}
            Wake::Timer { cpu, at } => {
                assert!(at.0 >= self.now);
                self.deadline[cpu.0 as usize] = Some(at.0);
            }
            Wake::Preempt { cpu } => self.pick(cpu.0),
        }
    }

    pub fn pick(&mut self, cpu: u32) {
        let Decision { next, deadline, also } = self.sched.pick(CpuId(cpu), Nanos(self.now), false);
        let index = cpu as usize;
        if let Some(old) = self.running[index]
            && let Some(thread) = self.threads.get_mut(&old)
        {
            thread.last_ran = self.now;
        }
        self.running[index] = next.map(|(_, tid)| tid.0);
        self.deadline[index] = deadline.map(|at| at.0);
        assert!(deadline.is_none_or(|at| at.0 > self.now), "a deadline in the past");
        self.decisions += 1;
        for part in [u64::from(cpu), self.now, self.running[index].unwrap_or(0), self.deadline[index].unwrap_or(0)] {
            self.digest = (self.digest ^ part).wrapping_mul(0x100_0000_01b3);
        }
        if let Some(tid) = self.running[index] {
            let thread = self.threads.get_mut(&tid).expect("it exists");
            assert_eq!(Some(thread.slot), next.map(|(slot, _)| slot));
            let waited = self.now - thread.last_ran;
            let starved = self.starved.entry(tid).or_default();
            *starved = (*starved).max(waited);
            if let Some(woken) = thread.woken_at.take() {
                let latency = self.latency.entry(tid).or_default();
                *latency = (*latency).max(self.now - woken);
            }
        }
        if let Some(other) = also {
            assert_ne!(other.0, cpu);
            self.pick(other.0);
        }
    }

    /// Runs until `end`.
    pub fn run(&mut self, end: u64) {
        loop {
            // The next thing that happens: a timer, a wake-up, or a running thread reaching the end of its stretch.
            let mut next = end;
            for (cpu, tid) in self.running.iter().enumerate() {
                next = next.min(self.deadline[cpu].unwrap_or(u64::MAX));
                if let Some(tid) = tid {
                    next = next.min(self.now.saturating_add(self.threads[tid].left));
                }
            }
            if let Some((at, _)) = self.sleeping.first() {
                next = next.min(*at);
            }
            let next = next.max(self.now);
            let span = next - self.now;
            for tid in self.running.iter().flatten() {
                let thread = self.threads.get_mut(tid).expect("it exists");
                thread.left = if thread.left == u64::MAX { u64::MAX } else { thread.left - span };
            }
            self.now = next;
            if self.now >= end {
                break;
            }
            self.check_no_idle_cpu_while_work_waits();
            while let Some((at, tid)) = self.sleeping.first().copied() {
                if at > self.now {
                    break;
                }
                self.sleeping.pop_first();
                self.wake(tid);
            }
            for cpu in 0..self.running.len() {
                if let Some(tid) = self.running[cpu]
                    && self.threads[&tid].left == 0
                {
                    self.finish_stretch(cpu, tid);
                }
                if self.deadline[cpu].is_some_and(|at| at <= self.now) {
                    self.pick(u32::try_from(cpu).expect("few"));
                }
            }
        }
        for cpu in 0..self.running.len() {
            self.sched.charge(CpuId(u32::try_from(cpu).expect("few")), Nanos(self.now), Nanos(0));
        }
    }

    fn finish_stretch(&mut self, cpu: usize, tid: u64) {
        let id = u32::try_from(cpu).expect("few");
        let (script, zone) = (self.threads[&tid].script, self.threads[&tid].zone);
        match script {
            Script::Busy => {}
            Script::Cycle { run, sleep } => {
                self.threads.get_mut(&tid).expect("it exists").left = run;
                self.sched.block(CpuId(id), Nanos(self.now));
                self.running[cpu] = None;
                self.sleeping.insert((self.now + sleep, tid));
                self.pick(id);
            }
            Script::Bomb { run, most } => {
                let count = self.sched.zone_usage(zone, Nanos(self.now)).expect("it exists").threads;
                self.threads.get_mut(&tid).expect("it exists").left = if count < most { run } else { u64::MAX };
                if count < most {
                    self.spawn(zone, script);
                }
            }
        }
    }

    fn check_no_idle_cpu_while_work_waits(&self) {
        let running = self.running.iter().flatten().count();
        let wanting = self.threads.len() - self.sleeping.len();
        let expected = wanting.min(self.running.len());
        assert!(self.capped || running == expected, "{running} CPUs busy at {} ns, {wanting} threads want one", self.now);
    }

    /// CPU time of a zone.
    pub fn used(&self, zone: ZoneId) -> u64 {
        let usage = self.sched.zone_usage(zone, Nanos(self.now)).expect("it exists");
        usage.user.0 + usage.system.0
    }

    /// CPU time of a thread.
    pub fn used_by(&self, tid: u64) -> u64 {
        let usage = self.sched.thread_usage(self.threads[&tid].slot);
        usage.user.0 + usage.system.0
    }

    /// Total of busy and idle time over all CPUs.
    pub fn charged(&self) -> u64 {
        (0..self.sched.cpus())
            .map(|cpu| self.sched.cpu_usage(CpuId(cpu)))
            .map(|usage| usage.user.0 + usage.system.0 + usage.idle.0)
            .sum()
    }
}
