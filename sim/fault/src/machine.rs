//! The faults of the machine itself: due by time, tick, marker, or by an alarm from a disk.

use std::sync::Arc;

use sim_bus::{Fields, NEVER, Nanos, Point};
use sim_core::{Rng, Streams};

use crate::plan::{Effect, Fault, MachineKind};
use crate::trigger::{Counter, random_state};

#[derive(Clone, Debug)]
struct Watcher {
    number: u16,
    kind: MachineKind,
    /// Whether operations of a disk trigger it.
    by_disk: bool,
    counter: Counter,
    random: Rng,
}

/// A fault to carry out now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Number in the plan.
    pub number: u16,
    pub kind: MachineKind,
    /// For what the kind leaves open (which byte of RAM).
    pub draw: u64,
}

/// The machine's part of the plan.
#[derive(Clone, Debug)]
pub struct MachineFaults {
    plan: Arc<[Fault]>,
    watchers: Vec<Watcher>,
    /// Alarms raised and not yet carried out.
    alarms: Vec<u16>,
}

impl MachineFaults {
    pub fn new(plan: &Arc<[Fault]>, streams: &Streams) -> Self {
        let watchers = plan
            .iter()
            .enumerate()
            .filter_map(|(number, fault)| {
                let Effect::Machine { disk, kind } = fault.effect else { return None };
                let stream = |use_: &str| streams.stream(&format!("fault {number} {} {use_}", fault.name));
                Some(Watcher {
                    number: number as u16,
                    kind,
                    by_disk: disk.is_some(),
                    counter: Counter::new(plan, fault, stream("chance")),
                    random: stream("machine"),
                })
            })
            .collect();
        Self { plan: plan.clone(), watchers, alarms: Vec::new() }
    }

    /// The whole plan.
    pub fn plan(&self) -> &Arc<[Fault]> {
        &self.plan
    }
    /// The name of a fault.
    pub fn name(&self, number: u16) -> &str {
        self.plan.get(usize::from(number)).map_or("?", |fault| &fault.name)
    }

    /// A disk raised the alarm for a fault.
    pub fn alarm(&mut self, number: u16) {
        self.alarms.push(number);
    }

    /// The next fault due at this point, if any; call until there is none.
    pub fn due(&mut self, point: Point) -> Option<Strike> {
        if self.watchers.is_empty() {
            return None;
        }
        if !self.alarms.is_empty() {
            let number = self.alarms.remove(0);
            let watcher = self.watchers.iter_mut().find(|watcher| watcher.number == number)?;
            return Some(Strike { number, kind: watcher.kind, draw: watcher.random.next_u64() });
        }
        for watcher in self.watchers.iter_mut().filter(|watcher| !watcher.by_disk) {
            if watcher.counter.time(&self.plan[usize::from(watcher.number)].trigger, point) {
                return Some(Strike { number: watcher.number, kind: watcher.kind, draw: watcher.random.next_u64() });
            }
        }
        None
    }

    /// When [`Self::due`] must be asked again at the latest: a virtual time ([`NEVER`] for none) and a tick.
    pub fn next(&self, point: Point) -> (Nanos, Option<u64>) {
        let timed = self.watchers.iter().filter(|watcher| !watcher.by_disk);
        timed.fold((NEVER, None), |(ns, tick), watcher| {
            let trigger = &self.plan[usize::from(watcher.number)].trigger;
            let next_tick = watcher.counter.next_tick(trigger, point);
            let tick = match (tick, next_tick) {
                (Some(one), Some(other)) => Some(u64::min(one, other)),
                (one, other) => one.or(other),
            };
            (ns.min(watcher.counter.next_ns(trigger, point)), tick)
        })
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        for watcher in &mut self.watchers {
            watcher.counter.state(fields);
            random_state(&mut watcher.random, fields);
        }
        let mut alarms: Vec<u8> = self.alarms.iter().flat_map(|number| number.to_le_bytes()).collect();
        fields.bytes("alarms", &mut alarms);
        self.alarms = alarms.as_chunks::<2>().0.iter().map(|word| u16::from_le_bytes(*word)).collect();
    }
}
