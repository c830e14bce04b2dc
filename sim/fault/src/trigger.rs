//! When a fault strikes: counters and chances over the conditions of a [`Trigger`].

use sim_bus::{Fields, NEVER, Nanos, Point};
use sim_core::Rng;

use crate::plan::{Fault, On, Trigger};

/// The state of one trigger.
#[derive(Clone, Debug)]
pub struct Counter {
    /// Bit of the marker among the plan's.
    mark: Option<u8>,
    /// Matching operations so far.
    operations: u64,
    /// Strikes left; `None`: without limit.
    left: Option<u64>,
    /// When the next chance is taken, for triggers without operations.
    next_chance: Nanos,
    random: Rng,
}

/// The walk over a stream's position.
pub(crate) fn random_state(random: &mut Rng, fields: &mut dyn Fields) {
    let mut words = random.state();
    for word in &mut words {
        fields.u64("fault_random", word);
    }
    match Rng::from_state(words) {
        Some(loaded) => *random = loaded,
        None => fields.refuse("fault_random"),
    }
}

impl Counter {
    pub fn new(plan: &[Fault], fault: &Fault, random: Rng) -> Self {
        let texts = crate::plan::marker_texts(plan);
        let mark = fault.trigger.marker.as_deref().and_then(|marker| texts.iter().position(|text| text == marker.as_bytes()));
        Self {
            mark: mark.map(|bit| bit as u8),
            operations: 0,
            left: fault.strikes.map(u64::from),
            next_chance: fault.trigger.at_ns.unwrap_or(0),
            random,
        }
    }

    fn armed(&self, trigger: &Trigger, point: Point) -> bool {
        self.left != Some(0)
            && trigger.at_ns.is_none_or(|at| point.ns >= at)
            && trigger.tick.is_none_or(|tick| point.ticks >= tick)
            && self.mark.is_none_or(|bit| bit < 64 && point.marks >> bit & 1 != 0)
    }

    fn strike(&mut self) -> bool {
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        true
    }

    /// An operation happens. `true`: the fault strikes it.
    pub fn operation(&mut self, trigger: &Trigger, point: Point, on: On, sector: u64, sectors: u64) -> bool {
        let kind = trigger.on == On::Any || trigger.on == on;
        let place = match trigger.sectors {
            None => true,
            Some([first, last]) => on != On::Flush && sector <= last && sector.saturating_add(sectors) > first,
        };
        if !self.armed(trigger, point) || !kind || !place {
            return false;
        }
        self.operations += 1;
        let counted = trigger.operation.is_none_or(|n| self.operations == n) && trigger.every.is_none_or(|n| self.operations.is_multiple_of(n));
        if !counted || !trigger.chance.is_none_or(|chance| self.random.chance(u64::from(chance), 1_000_000_000)) {
            return false;
        }
        self.strike()
    }

    /// Time has come to `point`. `true`: a fault without operations strikes (call again: it may strike more than once).
    pub fn time(&mut self, trigger: &Trigger, point: Point) -> bool {
        if !self.armed(trigger, point) {
            return false;
        }
        match trigger.chance {
            None => {
                // Without a chance a fault of time strikes once: "from then on" would be at every tick.
                self.left = Some(0);
                true
            }
            Some(chance) => {
                while self.next_chance <= point.ns {
                    self.next_chance = self.next_chance.saturating_add(trigger.period_ns);
                    if self.random.chance(u64::from(chance), 1_000_000_000) {
                        return self.strike();
                    }
                }
                false
            }
        }
    }

    /// The next virtual time at which [`Self::time`] could answer `true` by time alone.
    pub fn next_ns(&self, trigger: &Trigger, point: Point) -> Nanos {
        let tick_or_mark_missing = trigger.tick.is_some_and(|tick| point.ticks < tick) || self.mark.is_some_and(|bit| point.marks >> bit & 1 == 0);
        match (self.left, trigger.chance) {
            (Some(0), _) => NEVER,
            _ if tick_or_mark_missing => NEVER,
            (_, Some(_)) => self.next_chance,
            (_, None) => trigger.at_ns.filter(|at| *at > point.ns).unwrap_or(point.ns),
        }
    }

    /// The tick the trigger waits for, if it does.
    pub fn next_tick(&self, trigger: &Trigger, point: Point) -> Option<u64> {
        trigger.tick.filter(|tick| self.left != Some(0) && point.ticks < *tick)
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        fields.u64("operations", &mut self.operations);
        fields.option("strikes_left", &mut self.left);
        fields.u64("next_chance", &mut self.next_chance);
        random_state(&mut self.random, fields);
    }
}
