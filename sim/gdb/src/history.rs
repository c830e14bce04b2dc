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

    /// The earliest tick that can be reached.
    pub fn first(&self) -> Option<u64> {
        self.snapshots.first().map(Snapshot::ticks)
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

    /// Restores the nearest snapshot at or before `ticks`. `false`: there is none, or it does not load.
    fn back(&self, machine: &mut Machine, ticks: u64) -> bool {
        let before = self.snapshots.partition_point(|snapshot| snapshot.ticks() <= ticks);
        before.checked_sub(1).is_some_and(|index| machine.restore(&self.snapshots[index]).is_ok())
    }

    /// Goes to a tick; stops on the way are passed over.
    pub fn go_to(&self, machine: &mut Machine, ticks: u64) -> bool {
        if (ticks < machine.ticks() || machine.exit().is_some()) && !self.back(machine, ticks) {
            return false;
        }
        while machine.ticks() < ticks {
            match machine.run(&Until::ticks(ticks)) {
                Outcome::Debug { .. } => {}
                _ => break,
            }
        }
        machine.ticks() == ticks
    }

    /// Goes to the last point at which a vCPU had retired one tick less than now.
    pub fn step_back(&self, machine: &mut Machine, vcpu: usize) -> bool {
        let Some(target) = machine.vcpu_ticks(vcpu).checked_sub(1) else { return false };
        let mut from = machine.ticks();
        while let Some(before) = from.checked_sub(1) {
            if !self.back(machine, before) {
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
        let start = limit.checked_sub(1).filter(|_| self.back(machine, limit - 1)).map(|_| machine.ticks())?;
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
            None if Some(start) == self.first() => None,
            None => Some(Err(start)),
        }
    }
}
