//! The throttle: fair parts of the disks' time.

use alloc::collections::BTreeMap;

use crate::GLOBAL;

/// Counters of a zone are of this long.
const CYCLE_US: u64 = 2_000_000;
/// Idle cycles after which a zone's past is forgotten.
const IDLE_CYCLES_MAX: u64 = 5;
/// Average latencies are of this long.
const LATENCY_CYCLE_US: u64 = 1_000_000;
/// How often parts are compared.
const DECIDE_US: u64 = 250_000;
const DELAY_STEP_US: u64 = 5;
const DELAY_CEILING_US: u64 = 100;
/// Reads and writes are at most this much apart in weight.
const LATENCY_RATIO_MAX: u64 = 10;
/// What an operation is thought to take before one was measured.
const LATENCY_UNKNOWN_US: u64 = 1000;
const OVERUSED_PERCENT: u64 = 80;
const UNDERUSED_PERCENT: u64 = 60;
/// An operation that took longer is a laggard.
const LAGGARD_US: u64 = 50_000;
const LAGGARD_RECENT_US: u64 = 1_000_000;
const LAGGARD_ANCIENT_US: u64 = 5_000_000;

/// What a zone asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read that is not in memory.
    Read,
    /// A write that goes to the disk for this zone (its intent log).
    PhysicalWrite,
    /// A write into a transaction group.
    LogicalWrite,
}

/// A count with a past.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    now: u64,
    past: u64,
}

impl Count {
    fn turn(&mut self, cycles: u64) {
        let past = if self.now > 1 { self.now } else { self.now + self.past / 2 };
        self.past = if cycles > IDLE_CYCLES_MAX { 0 } else { past >> (cycles - 1).min(63) };
        self.now = 0;
    }
    /// As read in the middle of a cycle.
    const fn read(self, is_first_half: bool) -> u64 {
        if is_first_half { self.now + self.past / 2 } else { self.now }
    }
}

#[derive(Debug, Default)]
struct Zone {
    counts: [Count; 3],
    cycle: u64,
    delay_us: u64,
    is_above: bool,
}

impl Zone {
    fn turn(&mut self, cycle: u64) {
        let passed = cycle.saturating_sub(self.cycle);
        if passed > 0 {
            self.counts.iter_mut().for_each(|count| count.turn(passed));
            self.cycle = cycle;
        }
    }
}

/// Average latency.
#[derive(Debug, Default)]
struct Latency {
    average: u64,
    sum: u64,
    count: u64,
    cycle: u64,
}

impl Latency {
    fn turn(&mut self, now: u64) {
        let cycle = now / LATENCY_CYCLE_US;
        let passed = cycle.saturating_sub(self.cycle);
        if passed == 0 {
            return;
        }
        let average = (self.average + self.sum) / (1 + self.count);
        self.average = if passed > IDLE_CYCLES_MAX { 0 } else { average >> (passed - 1) };
        (self.sum, self.count, self.cycle) = (0, 0, cycle);
    }
    fn read(&self) -> u64 {
        match (self.average + 8 * self.sum) / (1 + 8 * self.count) {
            0 => LATENCY_UNKNOWN_US,
            known => known,
        }
    }
}

/// What was found at the last comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    pub read_latency_us: u64,
    pub write_latency_us: u64,
    /// Zones with anything counted.
    pub active: u64,
    pub total_util: u64,
    pub total_priority: u64,
    pub disk_util_percent: u64,
    pub overused: bool,
}

/// The throttle of one pool.
#[derive(Debug, Default)]
pub struct Throttle {
    zones: BTreeMap<u32, Zone>,
    reads: Latency,
    writes: Latency,
    decided: u64,
    /// The disks were busy this long since the last comparison.
    busy_us: u64,
    laggard: Option<u64>,
    finding: Finding,
}

impl Throttle {
    /// An operation of a disk took `latency_us` and ended now.
    pub fn done(&mut self, is_read: bool, latency_us: u64, now_us: u64) {
        let latency = if is_read { &mut self.reads } else { &mut self.writes };
        latency.turn(now_us);
        latency.sum += latency_us;
        latency.count += 1;
        self.busy_us += latency_us;
        if latency_us > LAGGARD_US {
            self.laggard = Some(now_us);
        }
    }

    /// A zone is about to do something: how many microseconds it has to wait first. `priority` tells weights; 0: never slowed.
    pub fn delay(&mut self, zone: u32, op: Op, now_us: u64, priority: &dyn Fn(u32) -> u64) -> u64 {
        if now_us.saturating_sub(self.decided) >= DECIDE_US {
            self.decide(now_us, priority);
        }
        if zone == GLOBAL {
            return 0;
        }
        let entry = self.zones.entry(zone).or_default();
        entry.turn(now_us / CYCLE_US);
        entry.counts[op as usize].now += 1;
        if priority(zone) == 0 { 0 } else { entry.delay_us }
    }

    /// True if a zone is above its part: it waits longer where a transaction group is full.
    #[must_use]
    pub fn is_above(&self, zone: u32) -> bool {
        self.zones.get(&zone).is_some_and(|zone| zone.is_above)
    }

    /// What the last comparison found.
    #[must_use]
    pub const fn finding(&self) -> Finding {
        self.finding
    }

    fn decide(&mut self, now: u64, priority: &dyn Fn(u32) -> u64) {
        let elapsed = now.saturating_sub(self.decided).max(1);
        self.decided = now;
        self.reads.turn(now);
        self.writes.turn(now);
        let (mut read, mut write) = (self.reads.read(), self.writes.read());
        read = read.max(write / LATENCY_RATIO_MAX);
        write = write.max(read / LATENCY_RATIO_MAX);
        let cycle = now / CYCLE_US;
        let is_first_half = now % CYCLE_US < CYCLE_US / 2;
        self.zones.retain(|_, zone| cycle.saturating_sub(zone.cycle) <= IDLE_CYCLES_MAX || zone.delay_us > 0);
        let mut utils = BTreeMap::new();
        for (id, zone) in &mut self.zones {
            zone.turn(cycle);
            let [reads, physical, logical] = zone.counts.map(|count| count.read(is_first_half));
            let util = reads * read + (physical + logical) * write;
            if util > 0 {
                utils.insert(*id, util);
            }
        }
        let total_util: u64 = utils.values().sum();
        let total_priority: u64 = utils.keys().map(|id| priority(*id)).sum();
        let active = utils.len() as u64;
        let disk_util_percent = core::mem::take(&mut self.busy_us) * 100 / elapsed;
        let since_laggard = self.laggard.map(|at| now.saturating_sub(at));
        let overused = disk_util_percent > OVERUSED_PERCENT && since_laggard.is_some_and(|since| since <= LAGGARD_RECENT_US);
        let underused = disk_util_percent < UNDERUSED_PERCENT || since_laggard.is_none_or(|since| since >= LAGGARD_ANCIENT_US);
        for (id, zone) in &mut self.zones {
            let util = utils.get(id).copied().unwrap_or(0);
            let fair = total_util * priority(*id) / total_priority.max(1);
            zone.is_above = util > fair && overused;
            if zone.is_above {
                if active > 1 {
                    zone.delay_us = (zone.delay_us + DELAY_STEP_US).min(DELAY_CEILING_US);
                }
            } else if util < fair || underused || active <= 1 {
                zone.delay_us = zone.delay_us.saturating_sub(DELAY_STEP_US);
            }
        }
        self.finding = Finding { read_latency_us: read, write_latency_us: write, active, total_util, total_priority, disk_util_percent, overused };
    }
}
