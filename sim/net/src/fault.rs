//! What faults do at a NIC's port.

use std::sync::Arc;

use sim_bus::{Fields, NEVER, Nanos, Point};
use sim_core::{Rng, Streams};
use sim_fault::{Counter, Effect, Fault, NicKind, On, Trigger};

#[derive(Clone, Debug)]
struct Watcher {
    trigger: Trigger,
    kind: NicKind,
    counter: Counter,
    /// Struck by time and markers, not by frames.
    by_time: bool,
}

/// The faults of one port and what they have done to the cable.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    watchers: Vec<Watcher>,
    /// Whether the NIC sees a link.
    pub link: bool,
    down_until: Nanos,
    partition_until: Nanos,
    rate_until: Nanos,
    rate: u64,
    /// When the next look is due that was asked for.
    look_at: Nanos,
    random: Rng,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            watchers: Vec::new(),
            link: true,
            down_until: 0,
            partition_until: 0,
            rate_until: 0,
            rate: 0,
            look_at: NEVER,
            random: Streams::new(0).stream("nic.bits"),
        }
    }
}

/// What becomes of a frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// What goes on, and how much later.
    pub frames: Vec<(Nanos, Arc<[u8]>)>,
    pub struck: bool,
    pub link_changed: bool,
}

/// The first fault about a NIC that is not there.
pub(crate) fn missing(faults: &[Fault], nics: usize) -> Option<(String, u8)> {
    faults.iter().find_map(|fault| match fault.effect {
        Effect::Nic { nic, .. } if usize::from(nic) >= nics => Some((fault.name.clone(), nic)),
        Effect::Nic { .. } | Effect::Disk { .. } | Effect::Machine { .. } => None,
    })
}

fn lasts(kind: NicKind) -> bool {
    match kind {
        NicKind::RateLimit { .. } | NicKind::LinkDown { .. } | NicKind::Partition { .. } => true,
        NicKind::Drop | NicKind::Duplicate | NicKind::Reorder { .. } | NicKind::Delay { .. } | NicKind::CorruptFrame { .. } => false,
    }
}

impl Faults {
    pub fn new(plan: &[Fault], nic: u8, streams: &Streams) -> Self {
        let watchers = plan
            .iter()
            .filter_map(|fault| {
                let Effect::Nic { nic: about, kind } = fault.effect else { return None };
                let counted = fault.trigger.operation.is_some() || fault.trigger.every.is_some();
                (about == nic).then(|| Watcher {
                    trigger: fault.trigger.clone(),
                    kind,
                    counter: Counter::new(plan, fault, streams.stream(&format!("nic{nic}.fault.{}", fault.name))),
                    by_time: lasts(kind) && !counted,
                })
            })
            .collect();
        Self { watchers, random: streams.stream(&format!("nic{nic}.bits")), ..Self::default() }
    }

    /// Whether the cable carries anything.
    pub fn is_up(&self, now: Nanos) -> bool {
        self.link && now >= self.partition_until
    }

    /// A limit to the cable's rate.
    pub fn rate(&self, now: Nanos) -> Option<u64> {
        (now < self.rate_until).then_some(self.rate)
    }

    fn begin(&mut self, kind: NicKind, now: Nanos) {
        match kind {
            NicKind::LinkDown { ns } => {
                self.link = false;
                self.down_until = now.saturating_add(ns);
            }
            NicKind::Partition { ns } => self.partition_until = now.saturating_add(ns),
            NicKind::RateLimit { bits_per_second, ns } => {
                self.rate = bits_per_second;
                self.rate_until = now.saturating_add(ns);
            }
            NicKind::Drop | NicKind::Duplicate | NicKind::Reorder { .. } | NicKind::Delay { .. } | NicKind::CorruptFrame { .. } => {}
        }
    }

    /// Lets faults of time begin and end. `true`: the link changed.
    pub fn look(&mut self, at: Point) -> bool {
        let before = self.link;
        if at.ns >= self.look_at {
            self.look_at = NEVER;
        }
        for index in 0..self.watchers.len() {
            let watcher = &mut self.watchers[index];
            if watcher.by_time && watcher.counter.time(&watcher.trigger, at) {
                let kind = watcher.kind;
                self.begin(kind, at.ns);
            }
        }
        if !self.link && at.ns >= self.down_until {
            self.link = true;
        }
        self.link != before
    }

    /// When to look again, if that has not been asked for already.
    pub fn next_look(&mut self, at: Point) -> Option<Nanos> {
        let watchers = self.watchers.iter().filter(|watcher| watcher.by_time).map(|watcher| watcher.counter.next_ns(&watcher.trigger, at));
        let link = if self.link { NEVER } else { self.down_until };
        let next = watchers.chain([link]).min().unwrap_or(NEVER);
        if next == NEVER || next >= self.look_at {
            return None;
        }
        self.look_at = next;
        Some(next)
    }

    /// A frame comes by.
    pub fn frame(&mut self, at: Point, inward: bool, frame: Arc<[u8]>) -> Verdict {
        let mut verdict = Verdict { link_changed: self.look(at), ..Verdict::default() };
        if !self.is_up(at.ns) {
            verdict.struck = true;
            return verdict;
        }
        let on = if inward { On::Receive } else { On::Send };
        let mut struck = None;
        for watcher in self.watchers.iter_mut().filter(|watcher| !watcher.by_time) {
            if watcher.counter.operation(&watcher.trigger, at, on, 0, 0) {
                struck = Some(watcher.kind);
                break;
            }
        }
        verdict.struck = struck.is_some();
        match struck {
            None => verdict.frames.push((0, frame)),
            Some(NicKind::Drop) => {}
            Some(NicKind::Duplicate) => verdict.frames.extend([(0, frame.clone()), (0, frame)]),
            Some(NicKind::Reorder { ns } | NicKind::Delay { ns }) => verdict.frames.push((ns, frame)),
            Some(NicKind::CorruptFrame { bits }) => {
                let mut bytes = frame.to_vec();
                for _ in 0..bits {
                    let bit = self.random.below(8 * bytes.len() as u64);
                    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
                }
                verdict.frames.push((0, bytes.into()));
            }
            Some(kind @ (NicKind::RateLimit { .. } | NicKind::LinkDown { .. } | NicKind::Partition { .. })) => {
                let link = self.link;
                self.begin(kind, at.ns);
                verdict.link_changed |= link != self.link;
                if self.is_up(at.ns) {
                    verdict.frames.push((0, frame));
                }
            }
        }
        verdict
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        if self.watchers.is_empty() {
            return;
        }
        for watcher in &mut self.watchers {
            watcher.counter.state(fields);
        }
        fields.flag("link", &mut self.link);
        fields.u64("down_until", &mut self.down_until);
        fields.u64("partition_until", &mut self.partition_until);
        fields.u64("rate_until", &mut self.rate_until);
        fields.u64("rate", &mut self.rate);
        fields.u64("look_at", &mut self.look_at);
        let mut words = self.random.state();
        for word in &mut words {
            fields.u64("bits", word);
        }
        match Rng::from_state(words) {
            Some(random) => self.random = random,
            None => fields.refuse("bits"),
        }
    }
}
