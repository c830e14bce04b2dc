//! The way back: snapshots at checkpoints, and searches between them.
//!
//! A point in time is reached by restoring the nearest snapshot before it and running forward. A stop that lies in the past is found by running each interval between
//! snapshots forward, latest first, with the breakpoints set: the last stop met before the present is the one.

use sim_board::{Machine, Outcome, Snapshot, Until};
use sim_bus::DebugStop;

/// Snapshots kept at most; beyond that every second one goes, so that the distance between them grows.
const SNAPSHOTS_MAX: usize = 256;

/// The snapshots of one machine, in rising order of ticks. Empty: the machine cannot go back.
#[derive(Debug, Default)]
pub(crate) struct History {
    snapshots: Vec<Snapshot>,
}

/// Where to go: the first moment at which everything that is given has been reached. Ticks stand still while every vCPU is halted, so a place needs its time, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub ticks: Option<u64>,
    pub ns: Option<u64>,
}

impl Target {
    pub fn tick(ticks: u64) -> Self {
        Self { ticks: Some(ticks), ns: None }
    }
    pub fn time(ns: u64) -> Self {
        Self { ticks: None, ns: Some(ns) }
    }
    /// Where a machine is.
    pub fn present(machine: &Machine) -> Self {
        Self { ticks: Some(machine.ticks()), ns: Some(machine.now_ns()) }
    }
    /// Whether a point is not behind it.
    fn admits(&self, ticks: u64, ns: u64) -> bool {
        self.ticks.is_none_or(|wanted| ticks <= wanted) && self.ns.is_none_or(|wanted| ns <= wanted)
    }
}

/// A stop in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    /// Where to stand: before the instruction at a breakpoint, before the access at a watchpoint.
    pub ticks: u64,
    pub why: Why,
}

/// What stopped the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Debugger { vcpu: usize, stop: DebugStop },
    /// A point in time that was marked.
    Mark,
}

impl History {
    /// Begins at the machine's present, if that is where snapshots can be taken; else at its next checkpoint.
    pub fn new(machine: &mut Machine) -> Self {
        machine.keep_snapshots();
        let mut history = Self::default();
        history.note(machine);
        history
    }

    /// Whether there is anything to go back to.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty()
    }

    /// The earliest tick that can be reached, and its time.
    pub fn first(&self) -> Option<(u64, u64)> {
        self.snapshots.first().map(|first| (first.ticks(), first.ns()))
    }

    /// Takes a snapshot if this is a new place for one.
    pub fn note(&mut self, machine: &mut Machine) {
        if self.snapshots.last().is_some_and(|last| last.ticks() >= machine.ticks()) {
            return;
        }
        if let Some(snapshot) = machine.snapshot() {
            self.snapshots.push(snapshot);
            if self.snapshots.len() > SNAPSHOTS_MAX {
                let mut index = 0;
                self.snapshots.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
            }
        }
    }

    /// Snapshots after the present belong to another future.
    pub fn forget_after(&mut self, ticks: u64) {
        self.snapshots.retain(|snapshot| snapshot.ticks() <= ticks);
    }

    /// Restores the nearest snapshot that is not behind `target`. `false`: there is none, or it does not load.
    fn back(&self, machine: &mut Machine, target: Target) -> bool {
        let before = self.snapshots.partition_point(|snapshot| target.admits(snapshot.ticks(), snapshot.ns()));
        before.checked_sub(1).is_some_and(|index| machine.restore(&self.snapshots[index]).is_ok())
    }

    /// Goes to a point; stops on the way are passed over, snapshots taken. `false`: it cannot be reached, and the machine may stand elsewhere.
    pub fn go_to(&mut self, machine: &mut Machine, target: Target) -> bool {
        let here = target.admits(machine.ticks(), machine.now_ns());
        if (!here || machine.exit().is_some()) && !self.back(machine, target) {
            return false;
        }
        let missing = |machine: &Machine| match target {
            Target { ticks: Some(ticks), .. } if machine.ticks() < ticks => Some(Until::ticks(ticks)),
            Target { ns: Some(ns), .. } if machine.now_ns() < ns => Some(Until::ns(ns)),
            Target { .. } => None,
        };
        // Everything is halted for good: there is no other time.
        let mut stuck = false;
        while let Some(until) = missing(machine) {
            let outcome = machine.run(&Until { checkpoint: true, ..until });
            self.note(machine);
            match outcome {
                Outcome::Debug { .. } | Outcome::Deadline => {}
                ended => {
                    stuck = ended == Outcome::Stuck;
                    break;
                }
            }
        }
        target.ticks.is_none_or(|ticks| machine.ticks() == ticks) && target.ns.is_none_or(|ns| stuck || machine.now_ns() >= ns)
    }

    /// Goes to the last point at which a vCPU had retired one tick less than now.
    pub fn step_back(&self, machine: &mut Machine, vcpu: usize) -> bool {
        let Some(target) = machine.vcpu_ticks(vcpu).checked_sub(1) else { return false };
        let mut from = machine.ticks();
        while let Some(before) = from.checked_sub(1) {
            if !self.back(machine, Target::tick(before)) {
                return false;
            }
            if machine.vcpu_ticks(vcpu) <= target {
                while machine.vcpu_ticks(vcpu) < target {
                    let until = Until { vcpu_ticks: Some((vcpu, target)), ..Until::default() };
                    match machine.run(&until) {
                        Outcome::Debug { .. } | Outcome::Deadline => {}
                        _ => return false,
                    }
                }
                return true;
            }
            from = machine.ticks();
        }
        false
    }

    /// Searches the interval that ends at `limit` for its last stop before `present`: of breakpoints, watchpoints, and the ticks that are `marked`. The machine is left somewhere in it. The answer
    /// is the stop, or where the interval begins, or `None` at the beginning of everything.
    pub fn search(&self, machine: &mut Machine, limit: u64, present: u64, marked: &[u64]) -> Option<Result<Hit, u64>> {
        let start = limit.checked_sub(1).filter(|_| self.back(machine, Target::tick(limit - 1))).map(|_| machine.ticks())?;
        let inside = marked.iter().copied().filter(|tick| (start..limit).contains(tick) && *tick < present).max();
        let mut last = inside.map(|ticks| Hit { ticks, why: Why::Mark });
        while machine.ticks() < limit {
            match machine.run(&Until::ticks(limit)) {
                Outcome::Debug { vcpu, stop } => {
                    // A watchpoint is met after the access; going back one stands before it.
                    let ticks = match stop {
                        DebugStop::Breakpoint { .. } => machine.ticks(),
                        DebugStop::Watch { .. } => machine.ticks().saturating_sub(1),
                    };
                    if ticks < present && last.is_none_or(|hit| hit.ticks <= ticks) {
                        last = Some(Hit { ticks, why: Why::Debugger { vcpu: vcpu as usize, stop } });
                    }
                }
                _ => break,
            }
        }
        match last {
            Some(hit) => Some(Ok(hit)),
            None if self.first().is_some_and(|(first, _)| first == start) => None,
            None => Some(Err(start)),
        }
    }
}
