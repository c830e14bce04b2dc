use sim_bus::bench::Bench;
use sim_bus::{DiskBackend, DiskError, DiskId, Effect, Node};

use super::{Block, Entropy, Personality, Virtio};

const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;

#[derive(Debug, Clone)]
struct Disk(Vec<u8>);

impl DiskBackend for Disk {
    fn sectors(&self) -> u64 {
        (self.0.len() / 512) as u64
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let at = usize::try_from(sector).ok().and_then(|sector| sector.checked_mul(512)).ok_or(DiskError::Range)?;
        into.copy_from_slice(at.checked_add(into.len()).and_then(|end| self.0.get(at..end)).ok_or(DiskError::Range)?);
        Ok(())
    }
    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        let at = usize::try_from(sector).ok().and_then(|sector| sector.checked_mul(512)).ok_or(DiskError::Range)?;
        at.checked_add(from.len()).and_then(|end| self.0.get_mut(at..end)).ok_or(DiskError::Range)?.copy_from_slice(from);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
    fn discard(&mut self, _sector: u64, _count: u64) -> Result<(), DiskError> {
        Ok(())
    }
    fn fork(&self) -> Box<dyn DiskBackend> {
        Box::new(self.clone())
    }
}

fn start<P: Personality>(personality: P) -> Bench<Virtio<P>> {
    let mut bench = Bench::new(Virtio::new(personality));
    bench.memory = vec![0; 0x10000];
    bench.backends.add_disk(Box::new(Disk((0..8192u32).map(|byte| (byte / 512) as u8).collect())));
    // Bus master; MSI-X on; vector 1 to 0x41.
    bench.call(|node, cx| node.config_write(4, 2, 6, cx));
    bench.call(|node, cx| node.config_write(0x42, 2, 0x8000, cx));
    for (offset, value) in [(16, 0xfee0_0000u64), (20, 0), (24, 0x41), (28, 0)] {
        bench.write(2, offset, 4, value);
    }
    // Reset, acknowledge, driver, features, queue 0, go.
    for (offset, size, value) in [(20u64, 1u8, 0u64), (20, 1, 3), (8, 4, 1), (12, 4, 1), (20, 1, 11)] {
        bench.write(0, offset, size, value);
    }
    assert_eq!(bench.read(0, 20, 1), 11, "features are accepted");
    for (offset, size, value) in
        [(22u64, 2u8, 0u64), (24, 2, 8), (26, 2, 1), (32, 8, DESCRIPTORS), (40, 4, AVAILABLE), (44, 4, 0), (48, 8, USED), (28, 2, 1), (20, 1, 15)]
    {
        bench.write(0, offset, size, value);
    }
    bench.take();
    bench
}

fn put(bench: &mut Bench<impl Node>, at: u64, bytes: &[u8]) {
    bench.memory[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
}

fn descriptor(bench: &mut Bench<impl Node>, index: u64, address: u64, length: u32, flags: u16, next: u16) {
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    put(bench, DESCRIPTORS + 16 * index, &bytes);
}

fn offer(bench: &mut Bench<impl Node>, count: u16) {
    put(bench, AVAILABLE + 2, &count.to_le_bytes());
    bench.write(0, 0x3000, 2, 0);
    let until = bench.now + 10_000_000;
    bench.run_to(until);
}

fn request(bench: &mut Bench<impl Node>, kind: u32, sector: u64) {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    put(bench, 0x4000, &header);
    descriptor(bench, 0, 0x4000, 16, 1, 1);
}

#[test]
fn a_sector_is_read_and_the_interrupt_comes_after_its_time() {
    let mut bench = start(Block::new(DiskId(0), 16, false));
    request(&mut bench, 0, 3);
    descriptor(&mut bench, 1, 0x5000, 512, 3, 2);
    descriptor(&mut bench, 2, 0x6000, 1, 2, 0);
    bench.memory[0x6000] = 0xff;
    put(&mut bench, AVAILABLE + 2, &1u16.to_le_bytes());
    bench.write(0, 0x3000, 2, 0);
    bench.run_to(10_000);
    assert_eq!(bench.memory[0x6000], 0xff, "the disk takes its time");
    bench.run_to(100_000);
    assert_eq!(bench.memory[0x5000..0x5200], [3; 512]);
    assert_eq!(bench.memory[0x6000], 0);
    assert_eq!(bench.memory[USED as usize + 2..USED as usize + 12], [1, 0, 0, 0, 0, 0, 1, 2, 0, 0], "513 bytes were written");
    assert_eq!(bench.take(), [Effect::Message { address: 0xfee0_0000, data: 0x41 }]);
    bench.call(|node, cx| node.config_write(0x42, 2, 0, cx));
    assert_eq!(bench.take(), [], "the pin is not for those who had messages");
    assert_eq!(bench.read(0, 0x1000, 1), 0, "ISR");
}

#[test]
fn without_msi_x_the_pin_is_high_until_isr_is_read() {
    let mut bench = start(Block::new(DiskId(0), 16, false));
    bench.call(|node, cx| node.config_write(0x42, 2, 0, cx));
    request(&mut bench, 0, 3);
    descriptor(&mut bench, 1, 0x5000, 512, 3, 2);
    descriptor(&mut bench, 2, 0x6000, 1, 2, 0);
    offer(&mut bench, 1);
    assert_eq!(bench.take(), [Effect::Pin { pin: 0, level: true }]);
    assert_eq!(bench.read(0, 0x1000, 1), 1, "ISR");
    assert_eq!(bench.take(), [Effect::Pin { pin: 0, level: false }]);
    assert_eq!(bench.read(0, 0x1000, 1), 0);
    assert_eq!(bench.take(), []);
}

#[test]
fn writes_errors_and_unknown_requests_have_their_status() {
    let mut bench = start(Block::new(DiskId(0), 16, false));
    for (round, (kind, sector, status)) in [(1u32, 5u64, 0u8), (1, 16, 1), (1, u64::MAX, 1), (4, 0, 0), (77, 0, 2)].into_iter().enumerate() {
        request(&mut bench, kind, sector);
        put(&mut bench, 0x5000, &[0xab; 512]);
        descriptor(&mut bench, 1, 0x5000, 512, 1, 2);
        descriptor(&mut bench, 2, 0x6000, 1, 2, 0);
        bench.memory[0x6000] = 0xff;
        offer(&mut bench, round as u16 + 1);
        assert_eq!(bench.memory[0x6000], status, "request {kind} at {sector}");
    }
    let mut sector = [0; 512];
    bench.backends.disk_mut(DiskId(0)).expect("added").read(5, &mut sector).expect("in range");
    assert_eq!(sector, [0xab; 512]);
}

#[test]
fn a_broken_ring_stops_the_device_until_reset() {
    for (length, flags, next) in [(16, 1u16, 0u16), (16, 1, 99), (u32::MAX, 0, 0), (16, 5, 0), (17, 4, 0)] {
        let mut bench = start(Block::new(DiskId(0), 16, false));
        descriptor(&mut bench, 0, 0x4000, length, flags, next);
        offer(&mut bench, 1);
        assert_eq!(bench.read(0, 20, 1) & 64, 64, "flags {flags} next {next}");
        bench.write(0, 20, 1, 0);
        assert_eq!(bench.read(0, 20, 1), 0);
    }
    let mut bench = start(Block::new(DiskId(0), 16, false));
    offer(&mut bench, 300);
    assert_eq!(bench.read(0, 20, 1) & 64, 64, "more available than the queue holds");
}

#[test]
fn without_bus_mastering_nothing_is_reached() {
    let mut bench = start(Block::new(DiskId(0), 16, false));
    bench.call(|node, cx| node.config_write(4, 2, 2, cx));
    request(&mut bench, 0, 0);
    descriptor(&mut bench, 1, 0x5000, 512, 3, 2);
    descriptor(&mut bench, 2, 0x6000, 1, 2, 0);
    offer(&mut bench, 1);
    assert_eq!(bench.memory[USED as usize + 2], 0);
}

#[test]
fn features_that_were_not_offered_do_not_stick() {
    let mut bench = Bench::new(Virtio::new(Entropy));
    for (offset, size, value) in [(20u64, 1u8, 3u64), (8, 4, 0), (12, 4, 1 << 30), (8, 4, 1), (12, 4, 1), (20, 1, 11)] {
        bench.write(0, offset, size, value);
    }
    assert_eq!(bench.read(0, 20, 1), 3);
}

#[test]
fn writes_without_effect_are_reported() {
    let mut bench = Bench::new(Virtio::new(Entropy));
    // In turn: device features, number of queues and generation are read-only; a size that is no power of two; a queue is not switched off (§4.1.4.3).
    for (offset, size, value, reported) in [(4u64, 4u8, 1u64, true), (18, 2, 1, true), (21, 1, 1, true), (24, 2, 48, true), (28, 2, 0, true), (24, 2, 64, false), (8, 4, 2, false), (12, 4, 0, false), (12, 4, 1, true)] {
        bench.effects.clear();
        bench.write(0, offset, size, value);
        let told = bench.effects.iter().any(|effect| matches!(effect, Effect::Unimplemented(_)));
        assert_eq!(told, reported, "{value} at {offset}");
    }
}

#[test]
fn entropy_fills_what_is_asked() {
    let mut bench = start(Entropy);
    descriptor(&mut bench, 0, 0x5000, 100, 2, 0);
    offer(&mut bench, 1);
    assert_eq!(bench.memory[USED as usize + 8], 100);
    assert!(bench.memory[0x5000..0x5064].iter().any(|byte| *byte != 0));
    assert_eq!(bench.memory[0x5064], 0);
}

#[test]
fn a_request_in_flight_survives_save_and_load() {
    let mut bench = start(Block::new(DiskId(0), 16, false));
    request(&mut bench, 0, 3);
    descriptor(&mut bench, 1, 0x5000, 512, 3, 2);
    descriptor(&mut bench, 2, 0x6000, 1, 2, 0);
    put(&mut bench, AVAILABLE + 2, &1u16.to_le_bytes());
    bench.write(0, 0x3000, 2, 0);
    bench.run_to(1_000);
    let saved = bench.node.save();
    let mut other = Virtio::new(Block::new(DiskId(0), 16, false));
    other.load(&saved).expect("same kind");
    assert_eq!(other.save(), saved);
    bench.node = other;
    bench.run_to(100_000);
    assert_eq!(bench.memory[0x5000..0x5200], [3; 512]);
}

#[test]
fn capabilities_are_found_by_walking_the_list() {
    let mut bench = Bench::new(Virtio::new(Entropy));
    let mut at = bench.call(|node, cx| node.config_read(0x34, 1, cx)) as u16;
    let mut kinds = Vec::new();
    while at != 0 {
        let id = bench.call(|node, cx| node.config_read(at, 1, cx));
        kinds.push((id, bench.call(|node, cx| node.config_read(at + 3, 1, cx))));
        at = bench.call(|node, cx| node.config_read(at + 1, 1, cx)) as u16;
    }
    assert_eq!(kinds.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0x11, 9, 9, 9, 9]);
    assert_eq!(kinds[1..].iter().map(|(_, kind)| *kind).collect::<Vec<_>>(), [1, 2, 3, 4]);
}
