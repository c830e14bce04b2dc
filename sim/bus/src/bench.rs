//! A bench for one device: calls it as the board would and keeps what it asked for. For the tests of device crates.

use crate::{Backends, Cx, Effect, Node, NodeId, Nanos, Region, Timers, Token};

/// One device on the bench.
#[derive(Debug)]
pub struct Bench<N> {
    pub node: N,
    pub now: Nanos,
    pub backends: Backends,
    pub memory: Vec<u8>,
    /// Effects since they were last taken, timers excepted.
    pub effects: Vec<Effect>,
    pub timers: Timers,
    /// Levels of the device's pins.
    pub pins: [bool; 32],
}

impl<N: Node> Bench<N> {
    pub fn new(node: N) -> Self {
        Self {
            node,
            now: 0,
            backends: Backends::new(1),
            memory: Vec::new(),
            effects: Vec::new(),
            timers: Timers::new(),
            pins: [false; 32],
        }
    }

    /// Calls the device and sorts out its effects.
    pub fn call<R>(&mut self, work: impl FnOnce(&mut N, &mut Cx<'_>) -> R) -> R {
        let mut effects = Vec::new();
        let mut cx = Cx::new(self.now, &mut effects, &mut self.backends, Some(&mut self.memory));
        let result = work(&mut self.node, &mut cx);
        for effect in effects {
            match effect {
                Effect::Set { token, at } => self.timers.set(NodeId(0), token, at),
                Effect::Cancel { token } => self.timers.cancel(NodeId(0), token),
                Effect::Pin { pin, level } => {
                    self.pins[usize::from(pin) & 31] = level;
                    self.effects.push(effect);
                }
                Effect::Message { .. }
                | Effect::Output { .. }
                | Effect::End(_)
                | Effect::Unimplemented(_)
                | Effect::Window { .. }
                | Effect::A20(_)
                | Effect::Eoi(_)
                | Effect::Ipi(_)
                | Effect::Sent
                | Effect::Note { .. } => self.effects.push(effect),
            }
        }
        result
    }

    pub fn read(&mut self, region: u16, offset: u64, size: u8) -> u64 {
        self.call(|node, cx| node.read(Region(region), offset, size, cx))
    }
    pub fn write(&mut self, region: u16, offset: u64, size: u8, value: u64) {
        self.call(|node, cx| node.write(Region(region), offset, size, value, cx));
    }

    /// Lets time pass to `until`, firing events on the way at their times.
    pub fn run_to(&mut self, until: Nanos) {
        while self.timers.earliest() <= until {
            self.now = self.now.max(self.timers.earliest());
            match self.timers.pop(self.now) {
                Some((_, token)) => self.fire(token),
                None => break,
            }
        }
        self.now = until;
    }

    /// Fires a token now.
    pub fn fire(&mut self, token: Token) {
        self.call(|node, cx| node.event(token, cx));
    }

    /// Takes the effects gathered so far.
    pub fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Bytes sent to a console since the effects were last taken.
    pub fn printed(&self) -> Vec<u8> {
        self.effects
            .iter()
            .filter_map(|effect| if let Effect::Output { byte, .. } = effect { Some(*byte) } else { None })
            .collect()
    }
}
