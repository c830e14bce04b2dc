//! Log pages (§5.14.1) and asynchronous events (§5.2).

use std::collections::VecDeque;

use sim_bus::Fields;

use super::command::Status;

/// Entries of the error log that are kept (ELPE).
pub const ERRORS: usize = 16;
const EVENTS_MAX: usize = 8;

/// Log page identifiers.
pub mod page {
    pub const ERROR: u8 = 0x01;
    pub const HEALTH: u8 = 0x02;
    pub const FIRMWARE: u8 = 0x03;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Error {
    count: u64,
    queue: u16,
    id: u16,
    status: u16,
    block: u64,
    namespace: u32,
}

/// Counters since power-on, errors, events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// Newest first.
    errors: VecDeque<Error>,
    error_count: u64,
    pub sectors_read: u64,
    pub sectors_written: u64,
    pub reads: u64,
    pub writes: u64,
    pub media_errors: u64,
    /// Type, information, log page: waiting to be reported.
    events: VecDeque<(u8, u8, u8)>,
    /// Event types that are held back until their page is read.
    held: u8,
}

impl Logs {
    /// A controller reset: events are gone, counters stay.
    pub fn reset(&mut self) {
        self.events.clear();
        self.held = 0;
    }

    pub fn error(&mut self, queue: u16, id: u16, status: Status, block: u64, namespace: u32) {
        self.error_count += 1;
        self.errors.push_front(Error { count: self.error_count, queue, id, status: status.0, block, namespace });
        self.errors.truncate(ERRORS);
    }

    /// Something to report. An event that already waits is not doubled.
    pub fn event(&mut self, kind: u8, information: u8, page: u8) {
        let event = (kind, information, page);
        if !self.events.contains(&event) && self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }

    /// The next event that is not held back, as dword 0 of a completion.
    pub fn next_event(&mut self) -> Option<u32> {
        let held = self.held;
        let at = self.events.iter().position(|(kind, _, _)| held >> (kind & 7) & 1 == 0)?;
        let (kind, information, page) = self.events.remove(at)?;
        self.held |= 1 << (kind & 7);
        Some(u32::from(kind) | u32::from(information) << 8 | u32::from(page) << 16)
    }

    /// The content of a page; `None`: there is no such page. Unless `retain`, its events may come again.
    pub fn read(&mut self, page: u8, retain: bool) -> Option<Vec<u8>> {
        let (bytes, kind) = match page {
            page::ERROR => (self.errors(), 0),
            page::HEALTH => (self.health(), 1),
            page::FIRMWARE => (firmware(), 7),
            _ => return None,
        };
        if !retain {
            self.held &= !(1 << kind);
        }
        Some(bytes)
    }

    fn errors(&self) -> Vec<u8> {
        let mut bytes = vec![0; 64 * ERRORS];
        for (entry, error) in bytes.chunks_exact_mut(64).zip(&self.errors) {
            entry[..8].copy_from_slice(&error.count.to_le_bytes());
            entry[8..10].copy_from_slice(&error.queue.to_le_bytes());
            entry[10..12].copy_from_slice(&error.id.to_le_bytes());
            entry[12..14].copy_from_slice(&(error.status << 1).to_le_bytes());
            entry[14..16].copy_from_slice(&0xffffu16.to_le_bytes()); // no particular parameter
            entry[16..24].copy_from_slice(&error.block.to_le_bytes());
            entry[24..28].copy_from_slice(&error.namespace.to_le_bytes());
        }
        bytes
    }

    /// SMART / health (§5.14.1.2).
    fn health(&self) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[1..3].copy_from_slice(&310u16.to_le_bytes()); // kelvin
        bytes[3] = 100; // spare
        bytes[4] = 10; // spare threshold
        let thousands = |sectors: u64| sectors.div_ceil(1000);
        for (at, value) in [
            (32, thousands(self.sectors_read)),
            (48, thousands(self.sectors_written)),
            (64, self.reads),
            (80, self.writes),
            (112, 1), // power cycles
            (160, self.media_errors),
            (176, self.error_count),
        ] {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        for (name, value) in [
            ("error_count", &mut self.error_count),
            ("sectors_read", &mut self.sectors_read),
            ("sectors_written", &mut self.sectors_written),
            ("reads", &mut self.reads),
            ("writes", &mut self.writes),
            ("media_errors", &mut self.media_errors),
        ] {
            fields.u64(name, value);
        }
        fields.u8("held", &mut self.held);
        let mut events: Vec<u8> = self.events.iter().flat_map(|(kind, information, page)| [*kind, *information, *page]).collect();
        fields.bytes("events", &mut events);
        self.events = events.as_chunks::<3>().0.iter().take(EVENTS_MAX).map(|event| (event[0], event[1], event[2])).collect();
        let mut count = self.errors.len() as u64;
        fields.u64("errors", &mut count);
        if count > ERRORS as u64 {
            fields.refuse("errors");
            return;
        }
        self.errors.resize(count as usize, Error::default());
        for error in &mut self.errors {
            fields.u64("count", &mut error.count);
            fields.u16("error_queue", &mut error.queue);
            fields.u16("error_id", &mut error.id);
            fields.u16("error_status", &mut error.status);
            fields.u64("error_block", &mut error.block);
            fields.u32("error_namespace", &mut error.namespace);
        }
    }
}

fn firmware() -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[0] = 1; // slot 1 is active
    bytes[8..16].copy_from_slice(super::identify::FIRMWARE);
    bytes
}
