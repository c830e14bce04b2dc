//! Where a station is plugged in: its cable's two directions, its faults, and for NICs the inbox and the capture.

use std::collections::VecDeque;
use std::sync::Arc;

use sim_bus::{Fields, Nanos};
use sim_core::{EventId, EventQueue};

use crate::fault::Faults;
use crate::pcapng::Direction;
use crate::tape::Tape;
use crate::{CAPTURE_MAX, FLIGHTS_MAX, FRAME_MAX, FRAME_MIN, Flight, INBOX_MAX};

/// A frame that came by a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub ns: Nanos,
    pub direction: Direction,
    pub frame: Arc<[u8]>,
}

/// What a port counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub sent: u64,
    pub sent_bytes: u64,
    pub received: u64,
    pub received_bytes: u64,
    /// Runts and giants that the NIC wanted to send.
    pub malformed: u64,
    /// Frames that did not fit into the inbox.
    pub overflow: u64,
    /// Frames that a fault struck.
    pub faults: u64,
    /// Frames past the capture's bound.
    pub not_captured: u64,
}

/// The port.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    /// `None`: no cable.
    pub segment: Option<usize>,
    pub faults: Faults,
    /// When the cable is free again, away from the station and towards it.
    pub out_free: Nanos,
    pub in_free: Nanos,
    pub inbox: VecDeque<Arc<[u8]>>,
    pub counters: Counters,
    /// An observation, not state: it is forked with the port and neither hashed nor saved.
    pub capture: Tape<Captured>,
    captured_bytes: u64,
}

impl Port {
    pub fn new(segment: Option<usize>, faults: Faults) -> Self {
        Self {
            segment,
            faults,
            out_free: 0,
            in_free: 0,
            inbox: VecDeque::new(),
            counters: Counters::default(),
            capture: Tape::default(),
            captured_bytes: 0,
        }
    }

    fn keep(&mut self, ns: Nanos, direction: Direction, frame: &Arc<[u8]>) {
        if self.captured_bytes + frame.len() as u64 > CAPTURE_MAX {
            self.counters.not_captured += 1;
            return;
        }
        self.captured_bytes += frame.len() as u64;
        self.capture.push(Captured { ns, direction, frame: frame.clone() });
    }

    /// The NIC sends.
    pub fn sent(&mut self, ns: Nanos, frame: &Arc<[u8]>) {
        self.counters.sent += 1;
        self.counters.sent_bytes += frame.len() as u64;
        self.keep(ns, Direction::Sent, frame);
    }

    /// A frame is there for the NIC.
    pub fn deliver(&mut self, ns: Nanos, frame: Arc<[u8]>) {
        self.keep(ns, Direction::Received, &frame);
        if self.inbox.len() >= INBOX_MAX {
            self.counters.overflow += 1;
            return;
        }
        self.counters.received += 1;
        self.counters.received_bytes += frame.len() as u64;
        self.inbox.push_back(frame);
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        fields.u64("out_free", &mut self.out_free);
        fields.u64("in_free", &mut self.in_free);
        let counters = &mut self.counters;
        for (name, count) in [
            ("sent", &mut counters.sent),
            ("sent_bytes", &mut counters.sent_bytes),
            ("received", &mut counters.received),
            ("received_bytes", &mut counters.received_bytes),
            ("malformed", &mut counters.malformed),
            ("overflow", &mut counters.overflow),
            ("faults", &mut counters.faults),
        ] {
            fields.u64(name, count);
        }
        let mut count = self.inbox.len() as u64;
        fields.u64("inbox", &mut count);
        match usize::try_from(count) {
            Ok(count) if count <= INBOX_MAX => {
                self.inbox.resize(count, Arc::from([]));
                for frame in &mut self.inbox {
                    frame_state(frame, fields);
                }
            }
            Ok(_) | Err(_) => fields.refuse("inbox"),
        }
        self.faults.state(fields);
    }
}

/// The walk over a frame.
pub(crate) fn frame_state(frame: &mut Arc<[u8]>, fields: &mut dyn Fields) {
    let mut bytes = frame.to_vec();
    fields.bytes("frame", &mut bytes);
    if bytes[..] != frame[..] {
        *frame = bytes.into();
    }
    if !frame.is_empty() && !(FRAME_MIN..=FRAME_MAX).contains(&frame.len()) {
        fields.refuse("frame");
    }
}

/// The walk over frames on their way.
pub(crate) fn flights_state(flights: &mut EventQueue<Flight>, ports: u16, fields: &mut dyn Fields) {
    let mut number = flights.next_number();
    fields.u64("next_flight", &mut number);
    let mut rows: Vec<(EventId, Flight)> = flights.iter().map(|(id, flight)| (*id, flight.clone())).collect();
    let mut count = rows.len() as u64;
    fields.u64("flights", &mut count);
    if count > 2 * FLIGHTS_MAX as u64 {
        fields.refuse("flights");
        return;
    }
    rows.resize(count as usize, (EventId { at_ns: 0, number: 0 }, Flight::Look { port: 0 }));
    let empty: Arc<[u8]> = Arc::from([]);
    for (id, flight) in &mut rows {
        fields.u64("at", &mut id.at_ns);
        fields.u64("number", &mut id.number);
        let (mut kind, mut port, mut frame) = match &*flight {
            Flight::Switch { port, frame } => (0u8, *port, frame.clone()),
            Flight::Station { port, frame } => (1, *port, frame.clone()),
            Flight::Held { port, inward, frame } => (2 + u8::from(*inward), *port, frame.clone()),
            Flight::Look { port } => (4, *port, empty.clone()),
        };
        fields.u8("flight", &mut kind);
        fields.u16("port", &mut port);
        frame_state(&mut frame, fields);
        if port >= ports {
            fields.refuse("port");
        }
        *flight = match kind {
            0 => Flight::Switch { port, frame },
            1 => Flight::Station { port, frame },
            2 | 3 => Flight::Held { port, inward: kind == 3, frame },
            4 => Flight::Look { port },
            _ => {
                fields.refuse("flight");
                Flight::Look { port: 0 }
            }
        };
    }
    flights.restore(number, rows);
}
