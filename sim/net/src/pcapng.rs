//! Captures as pcapng files (draft-ietf-opsawg-pcapng §4): one section, one interface, enhanced packet blocks with nanoseconds and direction.

use sim_bus::Nanos;

/// Which way a frame went, as the NIC sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Received,
    Sent,
}

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED: u32 = 6;
const ETHERNET: u16 = 1;

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    padded
}

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    [&code.to_le_bytes()[..], &(value.len() as u16).to_le_bytes(), &padded(value)].concat()
}

fn block(into: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let length = (12 + body.len() as u32).to_le_bytes();
    into.extend_from_slice(&kind.to_le_bytes());
    into.extend_from_slice(&length);
    into.extend_from_slice(body);
    into.extend_from_slice(&length);
}

/// Writes a capture. `epoch_ns` is the Unix time of virtual time zero.
pub fn write<'a>(name: &str, epoch_ns: u64, frames: impl Iterator<Item = (Nanos, Direction, &'a [u8])>) -> Vec<u8> {
    let mut file = Vec::new();
    let mut section = 0x1a2b_3c4du32.to_le_bytes().to_vec();
    section.extend_from_slice(&[1, 0, 0, 0]); // version 1.0
    section.extend_from_slice(&u64::MAX.to_le_bytes()); // length not given
    section.extend_from_slice(&option(4, b"orrery"));
    section.extend_from_slice(&option(0, &[]));
    block(&mut file, SECTION, &section);
    let mut interface = ETHERNET.to_le_bytes().to_vec();
    interface.extend_from_slice(&[0, 0, 0, 0, 0, 0]); // reserved, no length limit
    interface.extend_from_slice(&option(2, name.as_bytes()));
    interface.extend_from_slice(&option(9, &[9])); // nanoseconds
    interface.extend_from_slice(&option(0, &[]));
    block(&mut file, INTERFACE, &interface);
    for (ns, direction, frame) in frames {
        let at = epoch_ns.saturating_add(ns);
        let length = (frame.len() as u32).to_le_bytes();
        let mut body = vec![0; 4];
        body.extend_from_slice(&((at >> 32) as u32).to_le_bytes());
        body.extend_from_slice(&(at as u32).to_le_bytes());
        body.extend_from_slice(&length);
        body.extend_from_slice(&length);
        body.extend_from_slice(&padded(frame));
        let flags: u32 = match direction {
            Direction::Received => 1,
            Direction::Sent => 2,
        };
        body.extend_from_slice(&option(2, &flags.to_le_bytes()));
        body.extend_from_slice(&option(0, &[]));
        block(&mut file, ENHANCED, &body);
    }
    file
}
