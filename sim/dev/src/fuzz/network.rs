//! Network devices: a wire full of noise, and almost sensible rings.

use std::collections::VecDeque;
use std::sync::Arc;

use sim_bus::bench::Bench;
use sim_bus::{Fields, Nanos, Network, Point, WireId};
use sim_core::{LoadError, Payload, Rng, Streams};

use super::drive::{MEMORY, value};
use crate::e1000e::E1000e;

/// A wire that brings whatever it likes: frames of every length, some of them packets with right checksums; the link comes and goes.
#[derive(Clone, Debug)]
pub struct Noise {
    random: Rng,
    inbox: VecDeque<Arc<[u8]>>,
    sent: u64,
}

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self { random: Streams::new(seed).stream("noise"), inbox: VecDeque::new(), sent: 0 }
    }

    fn frame(&mut self) -> Arc<[u8]> {
        let length = match self.random.below(4) {
            0 => 14 + self.random.below(50),
            1 => self.random.below(1518) + 1,
            _ => 60 + self.random.below(1459),
        };
        let mut frame = vec![0; length as usize];
        self.random.fill(&mut frame);
        if self.random.chance(3, 4) && frame.len() > 12 {
            frame[..6].copy_from_slice(&MAC);
        }
        let kinds: [&[u8]; 4] = [&[8, 0, 0x45], &[0x86, 0xdd, 0x60], &[0x81, 0, 0, 1, 8, 0, 0x45], &[8, 6, 0]];
        let kind = kinds[self.random.below(4) as usize];
        if let Some(place) = frame.get_mut(12..12 + kind.len()) {
            place.copy_from_slice(kind);
        }
        frame.into()
    }
}

/// The NICs' address.
pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

impl Network for Noise {
    fn send(&mut self, at: Point, _wire: WireId, frame: &[u8]) -> Nanos {
        self.sent += 1;
        if self.inbox.len() < 64 && !frame.is_empty() {
            // What goes out comes back, and something else with it.
            self.inbox.push_back(frame[..frame.len().min(1518)].into());
            let other = self.frame();
            self.inbox.push_back(other);
        }
        at.ns + 8 * frame.len() as u64
    }
    fn receive(&mut self, _wire: WireId) -> Option<Arc<[u8]>> {
        if self.inbox.is_empty() && self.random.chance(1, 3) {
            return Some(self.frame());
        }
        self.inbox.pop_front()
    }
    fn has_frame(&self, _wire: WireId) -> bool {
        !self.inbox.is_empty()
    }
    fn is_up(&self, _wire: WireId) -> bool {
        self.sent % 97 != 13
    }
    fn next_event(&self) -> Option<Nanos> {
        None
    }
    fn advance(&mut self, _at: Point) -> Vec<WireId> {
        Vec::new()
    }
    fn fork(&self) -> Box<dyn Network> {
        Box::new(self.clone())
    }
    fn state(&mut self, fields: &mut dyn Fields) {
        fields.u64("sent", &mut self.sent);
    }
    fn save(&self) -> Payload {
        Payload::new("noise", 1)
    }
    fn load(&mut self, from: &Payload) -> Result<(), LoadError> {
        from.expect("noise", 1)
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

const TX_RING: u64 = 0x4000;
const RX_RING: u64 = 0x8000;
const DESCRIPTORS: u64 = 64;

/// Rings of 64 descriptors each way, interrupts on, everything let in.
pub fn e1000e_prepare(bench: &mut Bench<E1000e>, random: &mut Rng) {
    bench.call(|node, cx| sim_bus::Node::config_write(node, 4, 2, 6, cx));
    let extended = if random.chance(3, 4) { 1 << 15 } else { 0 };
    let rows = [
        (0x0u64, 1 << 6 | 1),
        (0x2800, RX_RING),
        (0x2804, 0),
        (0x2808, 16 * DESCRIPTORS),
        (0x2810, 0),
        (0x3800, TX_RING),
        (0x3804, 0),
        (0x3808, 16 * DESCRIPTORS),
        (0x3810, 0),
        (0x3818, 0),
        (0x5008, extended),
        (0x5000, 0x300),
        (0xd0, 0x01ff_ffff),
        (0xe4, 0x800a_0908),
        (0x400, 2),
        (0x100, 0x0400_801a | random.below(4) << 16),
        (0x2818, DESCRIPTORS - 1),
    ];
    for (offset, value) in rows {
        bench.write(0, offset, 4, value & 0xffff_ffff);
    }
    for index in 0..DESCRIPTORS {
        let at = (RX_RING + 16 * index) as usize;
        bench.memory[at..at + 8].copy_from_slice(&(0x1_0000 + 0x800 * index).to_le_bytes());
    }
}

/// A transmit descriptor of any kind, a few fresh receive buffers, sometimes with the ring's registers wrong.
pub fn e1000e_act(bench: &mut Bench<E1000e>, random: &mut Rng) {
    for _ in 0..=random.below(4) {
        let index = random.below(DESCRIPTORS);
        let at = (TX_RING + 16 * index) as usize;
        let command = random.next_u64() as u8 | 1 << 5 | u8::from(random.chance(1, 2));
        let kind = random.below(3) as u8;
        let longest = if random.chance(1, 8) { 0x1_0000 } else { 1600 };
        let words = [
            if random.chance(9, 10) { random.below(MEMORY - 0x1000) } else { value(random) },
            random.below(longest)
                | u64::from(kind.min(1)) << 20
                | u64::from(if kind == 2 { command & !0x20 } else { command }) << 24
                | random.below(4) << 40
                | random.below(0x600) << 48,
        ];
        for (place, word) in words.iter().enumerate() {
            let at = at + 8 * place;
            bench.memory[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        if kind == 0 {
            // A context: headers that often make sense.
            bench.memory[at..at + 8].copy_from_slice(&[14, 24, 33, 0, 34, 50, 0, 0]);
            bench.memory[at + 13] = 54;
        }
    }
    let tail = if random.chance(15, 16) { random.below(DESCRIPTORS) } else { value(random) & 0xffff };
    bench.write(0, if random.chance(2, 3) { 0x3818 } else { 0x2818 }, 4, tail);
    bench.call(sim_bus::Node::input);
}
