//! The event queue: time first, then order of posting.

use std::collections::BTreeMap;

/// Names a posted event until it fires or is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// When it fires, in nanoseconds.
    pub at_ns: u64,
    /// Order of posting over the whole run: the "event number" of a point in time.
    pub number: u64,
}

/// Events yet to fire.
#[derive(Clone, Debug)]
pub struct EventQueue<T> {
    events: BTreeMap<EventId, T>,
    next_number: u64,
}

impl<T> Default for EventQueue<T> {
    fn default() -> Self {
        EventQueue { events: BTreeMap::new(), next_number: 0 }
    }
}

impl<T> EventQueue<T> {
    /// Makes an empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Posts `event` for `at_ns`.
    pub fn post(&mut self, at_ns: u64, event: T) -> EventId {
        let id = EventId { at_ns, number: self.next_number };
        self.next_number += 1;
        self.events.insert(id, event);
        id
    }

    /// Takes a posted event back. `None`: it has fired or was cancelled.
    pub fn cancel(&mut self, id: EventId) -> Option<T> {
        self.events.remove(&id)
    }

    /// When the next event fires.
    pub fn next_at(&self) -> Option<u64> {
        self.events.keys().next().map(|id| id.at_ns)
    }

    /// Takes the next event if it is due at `now_ns`.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<(EventId, T)> {
        if self.next_at()? > now_ns {
            return None;
        }
        self.events.pop_first()
    }

    /// All events in firing order, for saving and for `monitor events`.
    pub fn iter(&self) -> impl Iterator<Item = (&EventId, &T)> {
        self.events.iter()
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The number the next posted event gets.
    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Replaces all events by saved ones.
    pub fn restore(&mut self, next_number: u64, events: impl IntoIterator<Item = (EventId, T)>) {
        self.events = events.into_iter().collect();
        self.next_number = next_number;
    }
}
