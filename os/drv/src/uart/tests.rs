//! The driver against a chip of its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;

#[derive(Default)]
struct Chip {
    sent: Vec<u8>,
    /// Bytes the transmitter takes before it is full until `drain`.
    room: usize,
    input: VecDeque<u8>,
    enabled: u8,
    scratch: u8,
    absent: bool,
    divisor_latch: bool,
}

#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Chip>>);

impl Registers for Wire {
    fn read(&self, register: u16) -> u8 {
        let mut chip = self.0.lock().unwrap();
        if chip.absent {
            return 0xff;
        }
        match register {
            0 => chip.input.pop_front().unwrap_or(0),
            2 => u8::from(chip.input.is_empty()),
            5 => u8::from(!chip.input.is_empty()) | if chip.room > 0 { 0x20 } else { 0 },
            7 => chip.scratch,
            _ => 0,
        }
    }
    fn write(&self, register: u16, value: u8) {
        let mut chip = self.0.lock().unwrap();
        match register {
            0 if !chip.divisor_latch => {
                assert!(chip.room > 0, "the transmitter overruns");
                chip.room -= 1;
                chip.sent.push(value);
            }
            1 if !chip.divisor_latch => chip.enabled = value,
            3 => chip.divisor_latch = value & 0x80 != 0,
            7 => chip.scratch = value,
            _ => {}
        }
    }
}

fn port(room: usize) -> (Wire, Uart<Wire>) {
    let wire = Wire::default();
    wire.0.lock().unwrap().room = room;
    let uart = Uart::new(wire.clone());
    assert!(uart.init());
    (wire, uart)
}

/// Bytes received, calls of `room`, and how much more is taken (`None`: all).
type Heard = (Vec<u8>, usize, Option<usize>);
#[derive(Clone, Default)]
struct User(Arc<Mutex<Heard>>);
impl Line for User {
    fn space(&self) -> usize {
        self.0.lock().unwrap().2.unwrap_or(usize::MAX)
    }
    fn received(&self, bytes: &[u8]) {
        let mut user = self.0.lock().unwrap();
        user.0.extend(bytes);
        user.2 = user.2.map(|space| space - bytes.len());
    }
    fn room(&self) {
        self.0.lock().unwrap().1 += 1;
    }
}

#[test]
fn a_port_that_is_not_there_is_noticed() {
    let wire = Wire::default();
    wire.0.lock().unwrap().absent = true;
    assert!(!Uart::new(wire).init());
}

#[test]
fn output_waits_for_the_transmitter_and_keeps_its_order() {
    let (wire, uart) = port(16);
    let text: Vec<u8> = (0..100).collect();
    assert_eq!(uart.transmit(&text), 100);
    assert_eq!(wire.0.lock().unwrap().sent.len(), 16);
    assert_eq!(wire.0.lock().unwrap().enabled & 2, 2);
    while uart.pending() > 0 {
        wire.0.lock().unwrap().room = 16;
        uart.interrupt();
    }
    assert_eq!(wire.0.lock().unwrap().sent, text);
    wire.0.lock().unwrap().room = 16;
    uart.interrupt();
    assert_eq!(wire.0.lock().unwrap().enabled & 2, 0);
}

#[test]
fn a_full_ring_refuses_and_later_announces_room_once() {
    let (wire, uart) = port(16);
    let user = User::default();
    uart.attach(Box::new(user.clone()));
    assert_eq!(uart.transmit(&[7; 5000]), RING);
    for _ in 0..400 {
        wire.0.lock().unwrap().room = 16;
        uart.interrupt();
    }
    assert_eq!(user.0.lock().unwrap().1, 1);
    assert_eq!(wire.0.lock().unwrap().sent.len(), RING);
}

#[test]
fn the_log_comes_after_what_waited() {
    let (wire, uart) = port(0);
    uart.transmit(b"abcdef");
    wire.0.lock().unwrap().room = 100;
    uart.write_now(b"!");
    assert_eq!(wire.0.lock().unwrap().sent, b"abcdef!");
}

#[test]
fn a_dead_transmitter_loses_bytes_not_the_machine() {
    let (wire, uart) = port(0);
    uart.write_emergency(b"x");
    assert!(wire.0.lock().unwrap().sent.is_empty());
}

#[test]
fn input_reaches_the_user() {
    let (wire, uart) = port(16);
    let user = User::default();
    uart.attach(Box::new(user.clone()));
    wire.0.lock().unwrap().input.extend(0..40);
    uart.interrupt();
    assert_eq!(user.0.lock().unwrap().0, (0..40).collect::<Vec<u8>>());
}

#[test]
fn input_that_nobody_has_space_for_waits_in_the_chip() {
    let (wire, uart) = port(16);
    let user = User::default();
    user.0.lock().unwrap().2 = Some(20);
    uart.attach(Box::new(user.clone()));
    wire.0.lock().unwrap().input.extend(0..100);
    uart.interrupt();
    assert_eq!(user.0.lock().unwrap().0.len(), 20);
    assert_eq!(wire.0.lock().unwrap().input.len(), 80);
    assert_eq!(wire.0.lock().unwrap().enabled & RECEIVED, 0, "and it does not interrupt");
    user.0.lock().unwrap().2 = None;
    uart.resume();
    assert_eq!(wire.0.lock().unwrap().enabled & RECEIVED, RECEIVED);
    uart.interrupt();
    assert_eq!(user.0.lock().unwrap().0, (0..100).collect::<Vec<u8>>());
}

#[test]
fn a_flood_of_input_ends_in_an_edge_of_the_interrupt() {
    let (wire, uart) = port(16);
    let user = User::default();
    uart.attach(Box::new(user.clone()));
    wire.0.lock().unwrap().input.extend(core::iter::repeat_n(7, 64 * FIFO + 5));
    uart.interrupt();
    assert_eq!(wire.0.lock().unwrap().input.len(), 5, "a turn is bounded");
    assert_eq!(wire.0.lock().unwrap().enabled & RECEIVED, RECEIVED);
    uart.interrupt();
    assert!(wire.0.lock().unwrap().input.is_empty());
}
