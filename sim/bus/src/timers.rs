//! Pending times of devices: one slot for each (node, token).

use crate::device::{NodeId, Token};
use crate::state::Fields;
use crate::Nanos;

/// The time of a token that is not pending.
pub const NEVER: Nanos = Nanos::MAX;

#[derive(Clone, Copy, Debug)]
struct Slot {
    node: NodeId,
    token: Token,
    at: Nanos,
    /// Order among equal times: who asked first is served first.
    sequence: u64,
}

/// All pending times. A board has a few dozen slots, most of them idle, so a scan for the earliest is cheaper than a heap with
/// cancelled entries, and what is saved is the list itself.
#[derive(Clone, Debug)]
pub struct Timers {
    slots: Vec<Slot>,
    earliest: Nanos,
    sequence: u64,
}

impl Default for Timers {
    fn default() -> Self {
        Self { slots: Vec::new(), earliest: NEVER, sequence: 0 }
    }
}

impl Timers {
    pub fn new() -> Self {
        Self::default()
    }

    /// The earliest pending time, or [`NEVER`].
    pub fn earliest(&self) -> Nanos {
        self.earliest
    }

    /// Makes the token due at `at`, replacing what it had.
    pub fn set(&mut self, node: NodeId, token: Token, at: Nanos) {
        self.sequence += 1;
        let sequence = self.sequence;
        let key = (node, token);
        match self.slots.binary_search_by_key(&key, |slot| (slot.node, slot.token)) {
            Ok(index) => {
                let old = self.slots[index].at;
                self.slots[index] = Slot { node, token, at, sequence };
                if at <= self.earliest {
                    self.earliest = at;
                } else if old == self.earliest {
                    self.rescan();
                }
            }
            Err(index) => {
                self.slots.insert(index, Slot { node, token, at, sequence });
                self.earliest = self.earliest.min(at);
            }
        }
    }

    /// Withdraws the token.
    pub fn cancel(&mut self, node: NodeId, token: Token) {
        let key = (node, token);
        if let Ok(index) = self.slots.binary_search_by_key(&key, |slot| (slot.node, slot.token)) {
            let old = std::mem::replace(&mut self.slots[index].at, NEVER);
            if old == self.earliest {
                self.rescan();
            }
        }
    }

    /// Takes the first token due at or before `now`.
    pub fn pop(&mut self, now: Nanos) -> Option<(NodeId, Token)> {
        if self.earliest > now || self.earliest == NEVER {
            return None;
        }
        let first = self.slots.iter_mut().filter(|slot| slot.at != NEVER).min_by_key(|slot| (slot.at, slot.sequence))?;
        let due = (first.node, first.token);
        first.at = NEVER;
        self.rescan();
        Some(due)
    }

    /// Pending tokens with their times, for `monitor devices`.
    pub fn pending(&self) -> impl Iterator<Item = (NodeId, Token, Nanos)> + '_ {
        self.slots.iter().filter(|slot| slot.at != NEVER).map(|slot| (slot.node, slot.token, slot.at))
    }

    /// The walk over all state.
    pub fn state(&mut self, fields: &mut dyn Fields) {
        fields.u64("sequence", &mut self.sequence);
        let mut count = self.slots.len() as u64;
        fields.u64("slots", &mut count);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > 0x1_0000 {
            // More than any board has.
            fields.refuse("slots");
            return;
        }
        self.slots.resize(count, Slot { node: NodeId(0), token: Token(0), at: NEVER, sequence: 0 });
        for slot in &mut self.slots {
            fields.u16("node", &mut slot.node.0);
            fields.u16("token", &mut slot.token.0);
            fields.u64("at", &mut slot.at);
            fields.u64("order", &mut slot.sequence);
        }
        if !self.slots.is_sorted_by_key(|slot| (slot.node, slot.token)) {
            fields.refuse("node");
            self.slots.sort_by_key(|slot| (slot.node, slot.token));
        }
        self.rescan();
    }

    fn rescan(&mut self) {
        self.earliest = self.slots.iter().map(|slot| slot.at).min().unwrap_or(NEVER);
    }
}
