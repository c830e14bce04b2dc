//! The network device (§5.1): receive, transmit and control queues.

use std::sync::Arc;

use sim_bus::{Cx, Fields, WireId};

use super::{Answer, Chain, Personality, Waiting};
use crate::offload::{self, Cut};

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// Features (§5.1.3).
const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const MAC: u64 = 1 << 5;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const MRG_RXBUF: u64 = 1 << 15;
const STATUS: u64 = 1 << 16;
const CTRL_VQ: u64 = 1 << 17;
const CTRL_RX: u64 = 1 << 18;
const CTRL_MAC_ADDR: u64 = 1 << 23;

/// The header before each packet (§5.1.6): flags, kind of segmentation, header length, segment size, checksum start and offset, buffers.
const HEADER: usize = 12;
const FLAG_NEEDS_CSUM: u8 = 1;
const FLAG_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// Control commands (§5.1.6.5): class and command.
const RX_PROMISC: (u8, u8) = (0, 0);
const RX_ALLMULTI: (u8, u8) = (0, 1);
const MAC_TABLE_SET: (u8, u8) = (1, 0);
const MAC_ADDR_SET: (u8, u8) = (1, 1);
const CONTROL_OK: u8 = 0;
const CONTROL_ERROR: u8 = 1;
/// Addresses in a receive filter; more and everything is let in (§5.1.6.5.2).
const FILTER_MAX: usize = 64;

const LINK_UP: u8 = 1;
/// The longest packet to be cut (§5.1.6.2: 65,550 bytes with its header), and the shortest segment.
const PACKET_MAX: usize = 65_550;
const SEGMENT_MIN: usize = 64;

/// A NIC behind virtqueues.
#[derive(Clone, Debug)]
pub struct Net {
    wire: WireId,
    factory: [u8; 6],
    mac: [u8; 6],
    link: bool,
    features: u64,
    promiscuous: bool,
    all_multicast: bool,
    /// Addresses let in besides the own one, six bytes each.
    filter: Vec<u8>,
    /// Taken from the wire and waiting for buffers.
    next: Option<Arc<[u8]>>,
}

impl Net {
    /// `link`: whether the wire has one at power-on.
    pub fn new(wire: WireId, mac: [u8; 6], link: bool) -> Self {
        Self { wire, factory: mac, mac, link, features: 0, promiscuous: true, all_multicast: false, filter: Vec::new(), next: None }
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Whether a frame is for this station.
    fn wants(&self, frame: &[u8]) -> bool {
        let Some(target) = frame.get(..6) else { return false };
        self.promiscuous
            || target == self.mac
            || target == [0xff; 6]
            || self.all_multicast && target[0] & 1 != 0
            || self.filter.chunks_exact(6).any(|address| address == target)
    }

    fn transmit(&mut self, chain: &Chain, cx: &mut Cx<'_>) -> Answer {
        let Some((header, packet)) = chain.input.split_at_checked(HEADER) else { return Answer::default() };
        let word = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let (flags, kind, segment, start, offset) = (header[0], header[1] & !GSO_ECN, word(4), word(6), word(8));
        let mut not_before = 0;
        let mut send = |frame: &[u8]| not_before = cx.send_frame(self.wire, frame);
        match kind {
            GSO_TCPV4 | GSO_TCPV6 if flags & FLAG_NEEDS_CSUM != 0 && packet.len() <= PACKET_MAX && segment >= SEGMENT_MIN => {
                // The TCP header is where the checksum starts; its length is in its thirteenth byte.
                let length = packet.get(start + 12).map_or(0, |byte| usize::from(byte >> 4) * 4);
                let ip = if packet.get(12..14) == Some(&[0x81, 0]) { 18 } else { 14 };
                for frame in offload::segment(packet, Cut { ip, v4: kind == GSO_TCPV4, tcp: start, headers: start + length, segment }) {
                    send(&frame);
                }
            }
            GSO_NONE if flags & FLAG_NEEDS_CSUM != 0 => {
                let mut packet = packet.to_vec();
                let end = packet.len();
                offload::fill(&mut packet, start, end, start + offset);
                send(&packet);
            }
            GSO_NONE => send(packet),
            // A kind that was not offered, or figures that make no sense: nothing can be sent.
            _ => {}
        }
        Answer { not_before, ..Answer::default() }
    }

    fn control(&mut self, chain: &Chain) -> u8 {
        let Some((&[class, command], body)) = chain.input.split_first_chunk::<2>() else { return CONTROL_ERROR };
        match ((class, command), body) {
            (RX_PROMISC, &[on]) => self.promiscuous = on != 0,
            (RX_ALLMULTI, &[on]) => self.all_multicast = on != 0,
            (MAC_ADDR_SET, body) => match body.try_into() {
                Ok(mac) => self.mac = mac,
                Err(_) => return CONTROL_ERROR,
            },
            (MAC_TABLE_SET, mut body) => {
                // Two tables, each a count and addresses: unicast, then multicast.
                let mut filter = Vec::new();
                for _ in 0..2 {
                    let Some((count, rest)) = body.split_first_chunk::<4>() else { return CONTROL_ERROR };
                    let bytes = (u32::from_le_bytes(*count) as usize).saturating_mul(6);
                    let Some((addresses, rest)) = rest.split_at_checked(bytes) else { return CONTROL_ERROR };
                    filter.extend_from_slice(addresses);
                    body = rest;
                }
                if filter.len() > 6 * FILTER_MAX {
                    self.promiscuous = true;
                    filter.clear();
                }
                self.filter = filter;
            }
            _ => return CONTROL_ERROR,
        }
        CONTROL_OK
    }
}

impl Personality for Net {
    const KIND: &'static str = "virtio-net";
    const TYPE: u16 = 1;
    const CLASS: u32 = 0x02_0000;
    const QUEUES: u16 = 3;

    fn features(&self) -> u64 {
        CSUM | GUEST_CSUM | MAC | HOST_TSO4 | HOST_TSO6 | MRG_RXBUF | STATUS | CTRL_VQ | CTRL_RX | CTRL_MAC_ADDR
    }

    fn config(&self, offset: usize) -> u8 {
        match offset {
            0..6 => self.mac[offset],
            6 if self.link => LINK_UP,
            8 => 1, // one pair of queues
            _ => 0,
        }
    }

    fn negotiated(&mut self, features: u64) {
        self.features = features;
        // Without control of the receive mode everything is let in (§5.1.6.5.1).
        self.promiscuous = features & CTRL_RX == 0;
    }

    fn holds(&self, queue: u16) -> bool {
        queue == RECEIVE
    }

    fn waiting(&mut self, cx: &mut Cx<'_>) -> Option<Waiting> {
        while self.next.is_none() {
            let frame = cx.receive_frame(self.wire)?;
            if self.wants(&frame) {
                self.next = Some(frame);
            }
        }
        let bytes = HEADER + self.next.as_ref()?.len();
        Some(Waiting { queue: RECEIVE, bytes, spreads: self.has(MRG_RXBUF) })
    }

    fn fetch(&mut self, chains: u16, _room: usize, _cx: &mut Cx<'_>) -> Vec<u8> {
        let Some(frame) = self.next.take() else { return Vec::new() };
        let mut header = [0u8; HEADER];
        if self.has(GUEST_CSUM) && offload::check(&frame).payload == Some(true) {
            header[0] = FLAG_DATA_VALID;
        }
        header[10..].copy_from_slice(&chains.to_le_bytes());
        [&header[..], &frame].concat()
    }

    fn refuse(&mut self, _cx: &mut Cx<'_>) {
        self.next = None;
    }

    fn look(&mut self, cx: &mut Cx<'_>) -> bool {
        let link = cx.has_link(self.wire);
        std::mem::replace(&mut self.link, link) != link
    }

    fn serve(&mut self, queue: u16, chain: &Chain, cx: &mut Cx<'_>) -> Answer {
        if queue == TRANSMIT { self.transmit(chain, cx) } else { Answer { last: Some(self.control(chain)), takes: 1_000, ..Answer::default() } }
    }

    fn reset(&mut self) {
        self.mac = self.factory;
        self.features = 0;
        self.promiscuous = true;
        self.all_multicast = false;
        self.filter.clear();
        self.next = None;
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        fields.array("mac", &mut self.mac);
        fields.flag("link", &mut self.link);
        fields.u64("features", &mut self.features);
        fields.flag("promiscuous", &mut self.promiscuous);
        fields.flag("all_multicast", &mut self.all_multicast);
        fields.bytes("filter", &mut self.filter);
        if !self.filter.len().is_multiple_of(6) || self.filter.len() > 6 * FILTER_MAX {
            fields.refuse("filter");
        }
        // A frame is never empty: no bytes means that none waits.
        let mut next = self.next.as_deref().unwrap_or_default().to_vec();
        fields.bytes("next", &mut next);
        self.next = (!next.is_empty()).then(|| next.into());
    }
}
