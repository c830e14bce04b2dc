//! The event log: what happened at which tick, one line each, in fixed columns.
//!
//! ```text
//!          tick             ns  cpu  source      kind      detail
//!       1204411        1204411    0  ports       unimpl    read 1 at 0x2e
//! ```

use std::collections::BTreeMap;
use std::fmt;

/// The log keeps this many events; later ones are counted only.
pub const EVENTS_MAX: usize = 1 << 20;
/// Interrupts that are written down when somebody watches them.
pub const INTERRUPTS_MAX: usize = 1 << 18;
/// Distinct unimplemented accesses that are told apart.
const UNIMPLEMENTED_MAX: usize = 1 << 12;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub tick: u64,
    pub ns: u64,
    pub vcpu: u32,
    /// The node or part of the board.
    pub source: &'static str,
    pub kind: &'static str,
    pub detail: String,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>16} {:>16} {:>4}  {:<10}  {:<8}  {}", self.tick, self.ns, self.vcpu, self.source, self.kind, self.detail)
    }
}

/// An interrupt that a vCPU took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    pub ns: u64,
    pub vcpu: u32,
    pub vector: u8,
}

/// An access that nobody defines, told apart by everything but the value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unimplemented {
    pub source: &'static str,
    pub write: bool,
    pub address: u64,
    pub size: u8,
}

impl fmt::Display for Unimplemented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.write { "write" } else { "read" };
        write!(f, "{}: {verb} {} at {:#x}", self.source, self.size, self.address)
    }
}

/// The log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    events: Vec<Event>,
    /// Events past [`EVENTS_MAX`].
    pub dropped: u64,
    unimplemented: BTreeMap<Unimplemented, u64>,
    unimplemented_dropped: u64,
    /// `None`: nobody watches them.
    interrupts: Option<Vec<Interrupt>>,
}

impl Trace {
    pub fn add(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        } else {
            self.dropped += 1;
        }
    }

    /// Counts an undefined access; `true` the first time.
    pub fn unimplemented(&mut self, access: Unimplemented) -> bool {
        if let Some(count) = self.unimplemented.get_mut(&access) {
            *count += 1;
            return false;
        }
        if self.unimplemented.len() >= UNIMPLEMENTED_MAX {
            self.unimplemented_dropped += 1;
            return false;
        }
        self.unimplemented.insert(access, 1);
        true
    }

    /// From here on the first [`INTERRUPTS_MAX`] interrupts are written down.
    pub fn watch_interrupts(&mut self) {
        self.interrupts.get_or_insert_default();
    }

    pub fn watches_interrupts(&self) -> bool {
        self.interrupts.is_some()
    }

    pub fn interrupt(&mut self, interrupt: Interrupt) {
        if let Some(list) = &mut self.interrupts
            && list.len() < INTERRUPTS_MAX
        {
            list.push(interrupt);
        }
    }

    pub fn interrupts(&self) -> &[Interrupt] {
        self.interrupts.as_deref().unwrap_or_default()
    }

    pub fn events(&self) -> &[Event] {
        &self.events
    }

    pub fn unimplemented_accesses(&self) -> impl Iterator<Item = (&Unimplemented, u64)> + '_ {
        self.unimplemented.iter().map(|(access, &count)| (access, count))
    }
}
