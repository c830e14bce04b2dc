use std::collections::VecDeque;
use std::sync::Arc;

use sim_bus::bench::Bench;
use sim_bus::{Effect, Fields, Nanos, Network, Node, Point, WireId};
use sim_core::{LoadError, Payload};

use super::E1000e;
use crate::offload;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const TX_RING: u64 = 0x1000;
const RX_RING: u64 = 0x2000;

/// What was sent, and what is to be received.
#[derive(Clone, Debug, Default)]
struct Wire {
    sent: Vec<Vec<u8>>,
    inbox: VecDeque<Arc<[u8]>>,
    down: bool,
}

impl Network for Wire {
    fn send(&mut self, at: Point, _wire: WireId, frame: &[u8]) -> Nanos {
        self.sent.push(frame.to_vec());
        at.ns + 1_000
    }
    fn receive(&mut self, _wire: WireId) -> Option<Arc<[u8]>> {
        self.inbox.pop_front()
    }
    fn has_frame(&self, _wire: WireId) -> bool {
        !self.inbox.is_empty()
    }
    fn is_up(&self, _wire: WireId) -> bool {
        !self.down
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
    fn state(&mut self, _fields: &mut dyn Fields) {}
    fn save(&self) -> Payload {
        Payload::new("wire", 1)
    }
    fn load(&mut self, _from: &Payload) -> Result<(), LoadError> {
        Ok(())
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn sent(bench: &Bench<E1000e>) -> Vec<Vec<u8>> {
    bench.backends.network().and_then(|network| network.as_any().downcast_ref::<Wire>()).expect("ours").sent.clone()
}

fn set_wire(bench: &mut Bench<E1000e>, frames: &[Vec<u8>], down: bool) {
    let inbox = frames.iter().map(|frame| Arc::from(&frame[..])).collect();
    bench.backends.set_network(Box::new(Wire { sent: Vec::new(), inbox, down }));
    bench.call(|node, cx| node.input(cx));
}

fn read(bench: &mut Bench<E1000e>, offset: u64) -> u32 {
    bench.read(0, offset, 4) as u32
}

fn write(bench: &mut Bench<E1000e>, rows: &[(u64, u64)]) {
    for &(offset, value) in rows {
        bench.write(0, offset, 4, value);
    }
}

fn put(bench: &mut Bench<E1000e>, at: u64, bytes: &[u8]) {
    bench.memory[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
}

/// A chip with its link up, rings of 8 descriptors, extended receive descriptors.
fn start() -> Bench<E1000e> {
    let mut bench = Bench::new(E1000e::new(WireId(0), MAC, true));
    bench.memory = vec![0; 0x20000];
    set_wire(&mut bench, &[], false);
    bench.call(|node, cx| node.config_write(4, 2, 6, cx));
    write(&mut bench, &[(0x00, 0x41)]);
    bench.run_to(200_000_000);
    for index in 0..8 {
        put(&mut bench, RX_RING + 16 * index, &(0x1_0000 + 0x800 * index).to_le_bytes());
    }
    write(&mut bench, &[(0x2800, RX_RING), (0x2808, 128), (0x2818, 7), (0x5008, 1 << 15), (0x5000, 0x300), (0x100, 0x0400_8002)]);
    write(&mut bench, &[(0x3800, TX_RING), (0x3808, 128), (0x400, 2)]);
    bench.run_to(201_000_000);
    read(&mut bench, 0xc0);
    bench.take();
    bench
}

fn step(bench: &mut Bench<E1000e>) {
    let until = bench.now + 1_000_000;
    bench.run_to(until);
}

#[test]
fn nvm_has_the_address_and_a_right_sum() {
    let mut bench = start();
    let mut sum = 0u16;
    for word in 0..64 {
        write(&mut bench, &[(0x14, word << 2 | 1)]);
        let value = read(&mut bench, 0x14);
        assert_eq!(value & 2, 2, "done");
        sum = sum.wrapping_add((value >> 16) as u16);
    }
    assert_eq!(sum, 0xbaba);
    assert_eq!((read(&mut bench, 0x5400), read(&mut bench, 0x5404)), (0x1200_5452, 0x8000_5634));
}

#[test]
fn the_phy_negotiates_and_the_link_follows_the_cable() {
    let mut bench = start();
    assert_eq!(read(&mut bench, 8) & 0xc3, 0x83, "link, full duplex, 1000 Mbit/s");
    let phy = |bench: &mut Bench<E1000e>, register: u64| {
        write(bench, &[(0x20, 2 << 26 | 1 << 21 | register << 16)]);
        read(bench, 0x20)
    };
    assert_eq!((phy(&mut bench, 2) & 0xffff, phy(&mut bench, 3) & 0xffff), (0x0141, 0x0cb1));
    assert_eq!(phy(&mut bench, 1) & 0x24, 0x24, "negotiated, link");
    write(&mut bench, &[(0xd0, 4)]);
    set_wire(&mut bench, &[], true);
    assert_eq!(read(&mut bench, 8) & 2, 0);
    assert!(bench.pins[0], "the change interrupts");
    assert_eq!(read(&mut bench, 0xc0), 0x8100_0004);
    assert!(!bench.pins[0], "reading the causes takes it back");
    set_wire(&mut bench, &[], false);
    assert_eq!(read(&mut bench, 8) & 2, 0, "not before it has negotiated");
    bench.run_to(400_000_000);
    assert_eq!(read(&mut bench, 8) & 2, 2);
    write(&mut bench, &[(0x20, 2 << 26 | 5 << 21)]);
    assert_eq!(read(&mut bench, 0x20) >> 30, 1, "no PHY at address 5");
}

#[test]
fn a_frame_is_received_if_a_filter_lets_it_in() {
    let mut bench = start();
    let packet = offload::tests::packet(b"payload");
    let mut stranger = packet.clone();
    stranger[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    let mut broken = packet.clone();
    broken[60] ^= 1;
    write(&mut bench, &[(0xd0, 0x80)]);
    set_wire(&mut bench, &[stranger.clone(), packet.clone(), broken], false);
    step(&mut bench);
    assert_eq!(read(&mut bench, 0x2810), 2, "two of three");
    let written = bench.memory[RX_RING as usize..RX_RING as usize + 32].to_vec();
    let status = |at: usize| u32::from_le_bytes([written[at + 8], written[at + 9], written[at + 10], written[at + 11]]);
    assert_eq!(status(0), 0x63, "done, end of packet, checksums looked at and right");
    assert_eq!(status(16), 0x2000_0063, "TCP checksum wrong");
    assert_eq!(usize::from(written[12]), packet.len());
    assert_eq!(bench.memory[0x1_0000..0x1_0000 + packet.len()], packet);
    assert!(bench.pins[0]);
    assert_eq!(read(&mut bench, 0xc0) & 0x80, 0x80);
    assert_eq!((read(&mut bench, 0x4074), read(&mut bench, 0x4074)), (2, 0), "good packets, cleared by reading");
    write(&mut bench, &[(0x100, 0x0400_800a)]);
    set_wire(&mut bench, &[stranger], false);
    step(&mut bench);
    assert_eq!(read(&mut bench, 0x2810), 3, "promiscuous");
}

#[test]
fn what_does_not_fit_is_missed() {
    let mut bench = start();
    write(&mut bench, &[(0x2818, 1)]);
    set_wire(&mut bench, &vec![offload::tests::packet(&[7; 1400]); 20], false);
    step(&mut bench);
    assert_eq!(read(&mut bench, 0x2810), 1);
    let missed = read(&mut bench, 0x4010);
    assert!(missed > 0 && read(&mut bench, 0xc0) & 0x40 != 0, "missed {missed}, overrun");
    write(&mut bench, &[(0x2818, 0)]);
    step(&mut bench);
    assert_eq!(read(&mut bench, 0x2810), 0, "the buffer drains as descriptors come");
}

#[test]
fn segmentation_and_checksums_as_descriptors_say() {
    let mut bench = start();
    let payload: Vec<u8> = (0..3000u32).map(|byte| byte as u8).collect();
    let packet = offload::tests::packet(&payload);
    put(&mut bench, 0x8000, &packet);
    // Context: IP at 14, its sum at 24; TCP at 34, its sum at 50; 54 bytes of headers, segments of 1,000.
    put(&mut bench, TX_RING, &[14, 24, 33, 0, 34, 50, 0, 0, 0, 0, 0, 0x27, 0, 54, 0xe8, 3]);
    let mut data = 0x8000u64.to_le_bytes().to_vec();
    data.extend_from_slice(&(packet.len() as u16).to_le_bytes());
    data.extend_from_slice(&[0x10, 0x2d, 0, 3, 0, 0]); // data; end, insert, segment, report, extended
    put(&mut bench, TX_RING + 16, &data);
    write(&mut bench, &[(0x3818, 2)]);
    step(&mut bench);
    let frames = sent(&bench);
    assert_eq!(frames.len(), 3);
    let joined: Vec<u8> = frames.iter().flat_map(|frame| frame[54..].to_vec()).collect();
    assert_eq!(joined, payload);
    for frame in &frames {
        let sums = offload::check(frame);
        assert_eq!((sums.header, sums.payload), (Some(true), Some(true)));
    }
    assert_eq!(bench.memory[(TX_RING + 28) as usize] & 1, 1, "written back");
    assert_eq!(read(&mut bench, 0x3810), 2);
    // A legacy descriptor: a frame as it is.
    let mut legacy = 0x8000u64.to_le_bytes().to_vec();
    legacy.extend_from_slice(&[60, 0, 0, 0x09, 0, 0, 0, 0]);
    put(&mut bench, TX_RING + 32, &legacy);
    write(&mut bench, &[(0x3818, 3)]);
    step(&mut bench);
    assert_eq!(sent(&bench).last().map(Vec::as_slice), Some(&packet[..60]));
}

#[test]
fn msix_vectors_follow_ivar_and_eitr() {
    let mut bench = start();
    bench.call(|node, cx| {
        let mut at = node.config_read(0x34, 1, cx) as u16;
        while at != 0 && node.config_read(at, 1, cx) != 0x11 {
            at = node.config_read(at + 1, 1, cx) as u16;
        }
        node.config_write(at + 2, 2, 0x8000, cx);
    });
    for vector in 0..3u64 {
        for (offset, value) in [(0, 0xfee0_0000), (4, 0), (8, 0x40 + vector), (12, 0)] {
            bench.write(3, 16 * vector + offset, 4, value);
        }
    }
    // Receive to vector 0, transmit to 1, other to 2; 1,000 intervals of 256 ns for vector 0.
    write(&mut bench, &[(0xe4, 0x000a_0908), (0xdc, 0x01f0_0000), (0xe8, 1_000), (0xd0, 0x01f0_0004)]);
    bench.take();
    let packet = offload::tests::packet(b"x");
    set_wire(&mut bench, std::slice::from_ref(&packet), false);
    let until = bench.now + 10_000;
    bench.run_to(until);
    assert_eq!(bench.take(), [Effect::Message { address: 0xfee0_0000, data: 0x40 }]);
    set_wire(&mut bench, std::slice::from_ref(&packet), false);
    let until = bench.now + 100_000;
    bench.run_to(until);
    assert_eq!(bench.take(), [], "throttled");
    let until = bench.now + 200_000;
    bench.run_to(until);
    assert_eq!(bench.take(), [Effect::Message { address: 0xfee0_0000, data: 0x40 }]);
    write(&mut bench, &[(0xc8, 4)]);
    assert_eq!(bench.take(), [Effect::Message { address: 0xfee0_0000, data: 0x42 }], "link change goes to the other vector");
}

#[test]
fn a_ring_outside_memory_stops_and_starts_again() {
    let mut bench = start();
    write(&mut bench, &[(0x3800, 0xff_0000), (0x3818, 3)]);
    step(&mut bench);
    assert_eq!(read(&mut bench, 0x3810), 0);
    assert!(bench.take().iter().any(|effect| matches!(effect, Effect::Note { .. })));
    write(&mut bench, &[(0x3800, TX_RING), (0x3818, 3)]);
    step(&mut bench);
    assert_eq!(read(&mut bench, 0x3810), 3);
    bench.take();
    bench.write(0, 0x3f00, 4, 1);
    assert!(matches!(bench.take()[..], [Effect::Unimplemented(_)]), "never in silence");
}

#[test]
fn register_rows_are_in_order() {
    let mut bench = start();
    // The first and the last of runs, and what lies just outside.
    for (offset, there) in [(0x5200u64, true), (0x53fc, true), (0x5400, true), (0x547c, true), (0x5480, false), (0xe8, true), (0xf8, true), (0xfc, false), (0xb630, true), (0xb63c, false)] {
        bench.take();
        bench.read(0, offset, 4);
        assert_eq!(bench.take().is_empty(), there, "{offset:#x}");
    }
}

#[test]
fn messages_take_over_from_the_pin() {
    let mut bench = Bench::new(E1000e::new(WireId(0), MAC, true));
    let mut at = bench.call(|node, cx| node.config_read(0x34, 1, cx)) as u16;
    while bench.call(|node, cx| node.config_read(at, 1, cx)) != 5 {
        at = bench.call(|node, cx| node.config_read(at + 1, 1, cx)) as u16;
    }
    bench.call(|node, cx| node.config_write(4, 2, 6, cx));
    bench.call(|node, cx| node.config_write(at + 4, 4, 0xfee0_0000, cx));
    bench.call(|node, cx| node.config_write(at + 12, 2, 0x41, cx));
    write(&mut bench, &[(0xd0, 4), (0xc8, 4)]); // IMS, ICS: the link changed
    assert!(bench.pins[0]);
    bench.take();
    bench.call(|node, cx| node.config_write(at + 2, 2, 1, cx));
    assert!(!bench.pins[0]);
    assert!(bench.take().contains(&Effect::Message { address: 0xfee0_0000, data: 0x41 }));
    bench.call(|node, cx| node.config_write(at + 2, 2, 0, cx));
    assert!(bench.pins[0], "and back");
}
