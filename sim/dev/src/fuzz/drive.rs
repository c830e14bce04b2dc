//! One run of one target.

use sim_bus::bench::Bench;
use sim_bus::{Backends, ConsoleId, DiskBackend, DiskError, Effect, Nanos, Node, Point, Reset, Token};
use sim_core::Rng;

use super::Counts;

/// RAM the device can reach.
pub const MEMORY: u64 = 256 << 10;
/// Steps before a fresh device is taken.
const LIFE: u64 = 4_000;
/// Events at one moment that are still work; more are a hang.
const EVENTS_AT_ONCE: u32 = 10_000;
/// Moments with events in one step that waits: a timer that ticks for a second says no more than one that ticks a few dozen times.
const MOMENTS_MAX: u32 = 64;
/// Sectors of the disk.
pub const SECTORS: u64 = 256;

/// How to fuzz a node.
pub struct Shape<N> {
    pub make: fn() -> N,
    /// Regions and how far their registers go.
    pub regions: &'static [(u16, u64)],
    /// Tokens the device knows.
    pub tokens: u16,
    /// Brings the device to where it serves requests.
    pub prepare: fn(&mut Bench<N>, &mut Rng),
    /// Makes an almost sensible request.
    pub act: fn(&mut Bench<N>, &mut Rng),
}

/// For devices that need no preparation.
pub fn nothing<N>(_bench: &mut Bench<N>, _random: &mut Rng) {}

/// Odd values are likelier than their share: all ones, powers of two, small numbers, addresses in RAM.
pub fn value(random: &mut Rng) -> u64 {
    match random.below(7) {
        0 => u64::MAX,
        1 => 1 << random.below(64),
        2 => random.below(16),
        3 => random.below(256),
        4 => random.below(MEMORY) & !0xfff,
        5 => random.below(MEMORY),
        _ => random.next_u64(),
    }
}

/// A small disk that sometimes fails, is slow, or is gone.
#[derive(Clone, Debug)]
struct Moody {
    bytes: Vec<u8>,
    requests: u64,
    now: Nanos,
}

impl Moody {
    fn mood(&mut self, sector: u64, length: usize) -> Result<usize, DiskError> {
        self.requests += 1;
        if !self.is_present() {
            return Err(DiskError::Gone);
        }
        let at = usize::try_from(sector).ok().and_then(|sector| sector.checked_mul(512)).ok_or(DiskError::Range)?;
        if at.checked_add(length).is_none_or(|end| end > self.bytes.len()) {
            return Err(DiskError::Range);
        }
        match self.requests % 13 {
            5 => Err(DiskError::Medium),
            7 => Err(DiskError::ReadOnly),
            _ => Ok(at),
        }
    }
}

impl DiskBackend for Moody {
    fn sectors(&self) -> u64 {
        SECTORS
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let at = self.mood(sector, into.len())?;
        into.copy_from_slice(&self.bytes[at..at + into.len()]);
        Ok(())
    }
    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        let at = self.mood(sector, from.len())?;
        self.bytes[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), DiskError> {
        self.mood(0, 0).map(|_| ())
    }
    fn discard(&mut self, sector: u64, count: u64) -> Result<(), DiskError> {
        let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(512)).ok_or(DiskError::Range)?;
        let at = self.mood(sector, length)?;
        self.bytes[at..at + length].fill(0);
        Ok(())
    }
    fn fork(&self) -> Box<dyn DiskBackend> {
        Box::new(self.clone())
    }
    fn at(&mut self, point: Point) {
        self.now = point.ns;
    }
    fn takes(&mut self, usual: Nanos) -> Nanos {
        match self.requests % 29 {
            3 => sim_bus::NEVER,
            9 => usual.saturating_add(5_000_000),
            _ => usual,
        }
    }
    fn is_present(&self) -> bool {
        // Gone for a while now and then.
        self.now / 10_000_000 % 17 != 11
    }
}

/// Runs a shape for `steps` steps.
pub fn run<N: Node>(shape: &Shape<N>, random: &mut Rng, steps: u64) -> Counts {
    let mut counts = Counts::default();
    let mut bench = fresh(shape, random, &mut counts);
    for step in 0..steps {
        if step % LIFE == LIFE - 1 {
            check(&mut bench);
            bench = fresh(shape, random, &mut counts);
        }
        once(shape, &mut bench, random, &mut counts, step);
    }
    check(&mut bench);
    counts
}

fn fresh<N: Node>(shape: &Shape<N>, random: &mut Rng, counts: &mut Counts) -> Bench<N> {
    let mut bench = Bench::new((shape.make)());
    bench.backends = Backends::new(random.next_u64());
    bench.backends.add_console();
    bench.backends.add_disk(Box::new(Moody { bytes: vec![0x5a; SECTORS as usize * 512], requests: 0, now: 0 }));
    bench.backends.set_network(Box::new(super::network::Noise::new(random.next_u64())));
    bench.memory = vec![0; MEMORY as usize];
    if random.chance(1, 2) {
        random.fill(&mut bench.memory);
    }
    counts.devices += 1;
    bench.call(|node, cx| node.reset(Reset::PowerOn, cx));
    if random.chance(9, 10) {
        (shape.prepare)(&mut bench, random);
    }
    bench
}

/// What was saved loads again and is the same.
fn check<N: Node>(bench: &mut Bench<N>) {
    let saved = bench.node.save();
    let kind = bench.node.kind();
    bench.node.load(&saved).unwrap_or_else(|error| panic!("{kind} does not take back its own state: {error}"));
    assert!(bench.node.save() == saved, "{kind} is another after a load");
}

fn once<N: Node>(shape: &Shape<N>, bench: &mut Bench<N>, random: &mut Rng, counts: &mut Counts, step: u64) {
    let (region, span) = shape.regions[random.below(shape.regions.len() as u64) as usize];
    let size = 1u8 << random.below(4);
    let mut offset = random.below(span);
    if random.chance(7, 8) {
        offset &= !(u64::from(size) - 1);
    }
    match random.below(24) {
        0..=2 => {
            counts.accesses += 1;
            bench.read(region, offset, size);
        }
        3..=6 => {
            counts.accesses += 1;
            let value = value(random) & (u64::MAX >> (64 - 8 * u32::from(size)));
            bench.write(region, offset, size, value);
        }
        7 => {
            counts.accesses += 1;
            // Mostly where there is something: the header and the capabilities.
            let end = if random.chance(1, 8) { 0x1010 } else { 0x100 };
            let register = random.below(end) as u16;
            let value = value(random);
            bench.call(|node, cx| {
                node.config_write(register, size, value, cx);
                node.config_read(register, size, cx)
            });
        }
        8 => bench.call(|node, cx| node.config_write(4, 2, 6, cx)),
        9 => {
            // A token out of turn: the device may have cancelled it an instant too late.
            let token = Token(random.below(u64::from(shape.tokens) + 1) as u16);
            bench.fire(token);
        }
        10 if step.is_multiple_of(16) => bench.call(|node, cx| node.reset(Reset::Warm, cx)),
        11 => {
            if let Some(console) = bench.backends.console_mut(ConsoleId(0)).filter(|console| console.len() < 64) {
                console.push_back(step as u8);
            }
            bench.call(|node, cx| node.input(cx));
        }
        12 => {
            // A word of memory changes under the device.
            let at = (random.below(MEMORY - 8) & !7) as usize;
            let word = value(random).to_le_bytes();
            bench.memory[at..at + 8].copy_from_slice(&word);
        }
        13 if step.is_multiple_of(2) => (shape.prepare)(bench, random),
        14..=18 => (shape.act)(bench, random),
        _ => {
            let span = match random.below(6) {
                0 => 1,
                1 => random.below(1_000),
                2 => random.below(1_000_000_000),
                3 => 2_000_000,
                _ => 100_000,
            };
            pass(bench, span, counts);
        }
    }
    for effect in bench.take() {
        match effect {
            Effect::Pin { .. } | Effect::Message { .. } => counts.interrupts += 1,
            Effect::Unimplemented(_) | Effect::Note { .. } => counts.reports += 1,
            _ => {}
        }
    }
}

/// Lets time pass, firing what falls due.
fn pass<N: Node>(bench: &mut Bench<N>, span: Nanos, counts: &mut Counts) {
    let until = bench.now.saturating_add(span).min(1 << 60);
    let mut at_once = 0;
    let mut left = MOMENTS_MAX;
    while bench.timers.earliest() <= until {
        let next = bench.timers.earliest().max(bench.now);
        if next > bench.now {
            if left == 0 {
                // A device that ticks very often: time goes on another day.
                return;
            }
            (at_once, left) = (0, left - 1);
        }
        at_once += 1;
        assert!(at_once < EVENTS_AT_ONCE, "{} hangs: {at_once} events at one moment", bench.node.kind());
        bench.now = next;
        bench.backends.set_point(0, next);
        let Some((_, token)) = bench.timers.pop(next) else { break };
        bench.fire(token);
        counts.events += 1;
    }
    bench.now = until;
    bench.backends.set_point(0, until);
}
