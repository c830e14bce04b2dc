//! Peers and switch under garbage: frames of a real conversation with bytes changed, cut, repeated and mixed, and frames of noise.

use sim_bus::{Network as _, Point, WireId};
use sim_core::Streams;

use crate::{Net, NetSpec, NicModel};

/// Frames that make sense: a DHCP question, ARP, ping, DNS, SYNs to every service, and a request.
fn sensible(port: u16, sequence: u32) -> Vec<Vec<u8>> {
    let station = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    let gateway = [0x52, 0x54, 0, 0xee, 0, 0];
    let sum = |bytes: &[u8], first: u32| {
        let sum = bytes.chunks(2).fold(first, |sum, word| sum + (u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))));
        let sum = (sum & 0xffff) + (sum >> 16);
        (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
    };
    let ip = |protocol: u8, body: &[u8]| {
        let length = (20 + body.len() as u16).to_be_bytes();
        let mut header = vec![0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2];
        let checksum = sum(&header, 0);
        header[10..12].copy_from_slice(&checksum);
        [&gateway[..], &station, &[8, 0], &header, body].concat()
    };
    let pseudo = |protocol: u8, length: usize| 0x0a00 + 0x020f + 0x0a00 + 0x0202 + u32::from(protocol) + length as u32;
    let segment = |to: u16, flags: u8, payload: &[u8]| {
        let mut body = [&port.to_be_bytes()[..], &to.to_be_bytes(), &sequence.to_be_bytes(), &[0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0], payload].concat();
        let checksum = sum(&body, pseudo(6, body.len()));
        body[16..18].copy_from_slice(&checksum);
        ip(6, &body)
    };
    let datagram = |to: u16, payload: &[u8]| ip(17, &[&port.to_be_bytes()[..], &to.to_be_bytes(), &(8 + payload.len() as u16).to_be_bytes(), &[0, 0], payload].concat());
    let mut dhcp = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
    dhcp.resize(28, 0);
    dhcp.extend_from_slice(&station);
    dhcp.resize(236, 0);
    dhcp.extend_from_slice(&[0x63, 0x82, 0x53, 0x63, 53, 1, if sequence.is_multiple_of(2) { 1 } else { 3 }, 55, 3, 1, 3, 6, 255]);
    let mut ping = vec![8, 0, 0, 0, 0, 1, 0, 1, 9, 9, 9, 9];
    let checksum = sum(&ping, 0);
    ping[2..4].copy_from_slice(&checksum);
    vec![
        datagram(67, &dhcp),
        [&[0xff; 6][..], &station, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &station, &[10, 0, 2, 15], &[0; 6], &[10, 0, 2, 2]].concat(),
        ip(1, &ping),
        datagram(53, b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07gateway\x04test\x00\x00\x01\x00\x01"),
        datagram(7, b"hello"),
        segment(7, 2, b""),
        segment(9, 2, b""),
        segment(80, 2, b""),
        segment(80, 0x18, b"GET /bulk/100/1 HTTP/1.1\r\n\r\n"),
        segment(80, 0x18, b"PUT /x HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"),
        segment(9, 0x19, b"data"),
        segment(7, 4, b""),
    ]
}

/// Sends `iterations` frames, a function of the seed alone; how many frames came back. A finding is a panic.
pub fn fuzz(seed: u64, iterations: u64) -> u64 {
    let mut random = Streams::new(seed).stream("fuzz.peers");
    let spec = NetSpec::lan(&[NicModel::VirtioNet, NicModel::E1000e]);
    let mut net = Net::new(&spec, &[], seed).expect("the default network is well described");
    let mut now = 0u64;
    let mut answers = 0;
    for _ in 0..iterations {
        let frames = sensible(40_000 + random.below(64) as u16, random.next_u64() as u32);
        let mut frame = frames[random.below(frames.len() as u64) as usize].clone();
        match random.below(8) {
            0 | 1 => {}
            2 => {
                let length = random.below(frame.len() as u64 + 1) as usize;
                frame.truncate(length);
            }
            3 => frame.resize(14 + random.below(1600) as usize, random.next_u64() as u8),
            4 => {
                frame = vec![0; random.below(1600) as usize];
                random.fill(&mut frame);
            }
            _ => {
                for _ in 0..=random.below(6) {
                    let at = random.below(frame.len() as u64) as usize;
                    frame[at] = random.next_u64() as u8;
                }
            }
        }
        let at = Point { ns: now, ..Point::default() };
        net.send(at, WireId(random.below(3) as u8), &frame);
        now += match random.below(8) {
            0 => random.below(2_000_000_000),
            1 | 2 => random.below(2_000_000),
            _ => random.below(30_000),
        };
        let mut turns = 0;
        while let Some(next) = net.next_event().filter(|next| *next <= now) {
            net.advance(Point { ns: next.max(at.ns), ..Point::default() });
            turns += 1;
            assert!(turns < 1_000_000, "the network does not come to rest");
        }
        for wire in [WireId(0), WireId(1)] {
            while net.receive(wire).is_some() {
                answers += 1;
            }
        }
        if random.chance(1, 500) {
            // A copy takes its place: it must be able to go on.
            net = net.clone();
        }
    }
    answers
}
