//! The queue: who is next.

use alloc::collections::{BTreeMap, VecDeque};

use crate::GLOBAL;

/// Waiting operations from which on weights decide; below, who came first is next.
const SCHEDULE_MIN: usize = 10;
/// A zone that is passed over gains weight up to this.
const WEIGHT_MAX: u64 = 20;
/// Weight of the global zone: that of a tenant's greatest setting.
const GLOBAL_PRIORITY: u64 = 16_384;
/// A class that waits is served at least once in so many turns.
const PATIENCE: u32 = 16;

/// Classes of operations, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IoClass {
    SyncRead,
    SyncWrite,
    AsyncRead,
    AsyncWrite,
    Scrub,
}

/// Number of classes.
pub const CLASSES: usize = 5;

/// Operations of one class that wait.
#[derive(Debug)]
struct Line<T> {
    waiting: VecDeque<(u32, T)>,
    /// By zone: how often it was passed over.
    weights: BTreeMap<u32, u64>,
    /// Turns in which others were served while some waited here.
    passed: u32,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), weights: BTreeMap::new(), passed: 0 }
    }
}

impl<T> Line<T> {
    /// Takes the next: the first, or the first of the zone with the highest score.
    fn take(&mut self, weighted: bool, priority: &dyn Fn(u32) -> u64) -> Option<T> {
        if !weighted || self.waiting.len() < SCHEDULE_MIN {
            return self.waiting.pop_front().map(|(_, item)| item);
        }
        let mut queued: BTreeMap<u32, u64> = BTreeMap::new();
        for (zone, _) in &self.waiting {
            *queued.entry(*zone).or_insert(0) += 1;
        }
        self.weights.retain(|zone, _| queued.contains_key(zone));
        let depth = self.waiting.len() as u64;
        let mut best: Option<(u64, u32)> = None;
        for (zone, own) in &queued {
            let weight = self.weights.entry(*zone).or_insert(0);
            *weight = (*weight + 1).min(WEIGHT_MAX);
            let priority = if *zone == GLOBAL { GLOBAL_PRIORITY } else { priority(*zone).max(1) };
            let score = depth * 10 / own * priority * *weight;
            if best.is_none_or(|(known, _)| score > known) {
                best = Some((score, *zone));
            }
        }
        let (_, zone) = best?;
        self.weights.insert(zone, 0);
        let at = self.waiting.iter().position(|(owner, _)| *owner == zone)?;
        self.waiting.remove(at).map(|(_, item)| item)
    }
}

/// Who waits for one resource.
#[derive(Debug)]
pub struct Queue<T> {
    lines: [Line<T>; CLASSES],
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { lines: core::array::from_fn(|_| Line::default()) }
    }
}

impl<T> Queue<T> {
    /// Adds one at the end of its class.
    pub fn push(&mut self, class: IoClass, zone: u32, item: T) {
        self.lines[class as usize].waiting.push_back((zone, item));
    }

    /// How many wait, by class.
    #[must_use]
    pub fn waiting(&self) -> [usize; CLASSES] {
        core::array::from_fn(|class| self.lines[class].waiting.len())
    }

    /// True if nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.waiting.is_empty())
    }

    /// Takes the next. `priority` tells the zones' weights.
    pub fn pop(&mut self, priority: &dyn Fn(u32) -> u64) -> Option<T> {
        let waits = |line: &Line<T>| !line.waiting.is_empty();
        let overdue = self.lines.iter().position(|line| waits(line) && line.passed >= PATIENCE);
        let chosen = overdue.or_else(|| self.lines.iter().position(waits))?;
        for (class, line) in self.lines.iter_mut().enumerate() {
            line.passed = if class == chosen || line.waiting.is_empty() { 0 } else { line.passed + 1 };
        }
        // Only what a tenant waits for is weighed (reference, section 7.2).
        self.lines[chosen].take(chosen <= IoClass::SyncWrite as usize, priority)
    }
}
