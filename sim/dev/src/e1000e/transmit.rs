//! The transmit ring (§7.2): legacy, context and data descriptors.

use sim_bus::{Cx, DmaRefused, Fields, Nanos, WireId};

use super::interrupt::{TX_QUEUE, TX_QUEUE_EMPTY, TX_WRITTEN_BACK};
use super::regs::{CTRL, CTRL_VLAN_MODE, Registers, TADV, TCTL, TCTL_ENABLE, TDBAH, TDBAL, TDH, TDLEN, TDT, TIDV, VET};
use super::stats::{SEGMENTED, Statistics};
use super::{DELAY_NS, DESCRIPTORS_AT_ONCE, TRANSMIT, TRANSMIT_DELAY};
use crate::offload::{self, Cut};

/// In the command byte of any descriptor (bits 24 to 31 of its third word).
const END_OF_PACKET: u8 = 1 << 0;
const INSERT_SUM: u8 = 1 << 2;
const REPORT: u8 = 1 << 3;
const EXTENSION: u8 = 1 << 5;
const VLAN: u8 = 1 << 6;
const DELAY: u8 = 1 << 7;
/// Of context descriptors, and of data descriptors: TCP segmentation.
const CONTEXT_TCP: u8 = 1 << 0;
const CONTEXT_IP: u8 = 1 << 1;
const SEGMENTATION: u8 = 1 << 2;
/// In the options byte of data descriptors.
const OPTION_IP: u8 = 1 << 0;
const OPTION_PAYLOAD: u8 = 1 << 1;

/// The longest packet gathered: a segmentation's 256 KiB (§7.2.10.5).
const PACKET_MAX: usize = 256 << 10;
/// Segments shorter than this are not cut: the packet is dropped.
const SEGMENT_MIN: usize = 64;
/// Frames wait in the packet buffer for the wire no longer than this: 20 KiB at 1 Gbit/s.
const BACKLOG_NS: Nanos = 160_000;

/// What the last context descriptor said (§7.2.7).
#[derive(Clone, Copy, Debug, Default)]
struct Context {
    ip_start: u8,
    ip_sum: u8,
    ip_end: u16,
    payload_start: u8,
    payload_sum: u8,
    payload_end: u16,
    command: u8,
    headers: u8,
    segment: u16,
}

/// The queue.
#[derive(Clone, Debug, Default)]
pub struct Transmit {
    context: Context,
    /// The packet being gathered, and what its first descriptor asked for.
    packet: Vec<u8>,
    command: u8,
    options: u8,
    tag: u16,
    /// Nothing more is fetched: the ring does not make sense.
    pub stopped: bool,
    /// A delayed interrupt is due at this time at the latest.
    deadline: Option<u64>,
}

/// What the rest of the chip has to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Causes to raise.
    pub causes: u32,
}

impl Transmit {
    /// Handles descriptors from head to tail.
    pub fn run(&mut self, wire: WireId, link: bool, registers: &mut Registers, statistics: &mut Statistics, cx: &mut Cx<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let count = registers.get(TDLEN) / 16;
        if registers.get(TCTL) & TCTL_ENABLE == 0 || count == 0 || self.stopped {
            return outcome;
        }
        let base = registers.wide(TDBAL, TDBAH);
        let mut worked = false;
        for _ in 0..DESCRIPTORS_AT_ONCE {
            let head = registers.get(TDH);
            if head == registers.get(TDT) {
                if worked {
                    outcome.causes |= TX_QUEUE_EMPTY;
                }
                return outcome;
            }
            if head >= count || registers.get(TDT) >= count {
                // A tail that the head never meets.
                return self.stop(cx, outcome);
            }
            let at = base.wrapping_add(16 * u64::from(head));
            let mut descriptor = [0; 16];
            if cx.dma_read(at, &mut descriptor).is_err() {
                return self.stop(cx, outcome);
            }
            worked = true;
            let sent_at = match self.descriptor(&descriptor, wire, link, registers, statistics, cx) {
                Ok(sent_at) => sent_at,
                Err(DmaRefused) => return self.stop(cx, outcome),
            };
            let command = descriptor[11];
            if command & REPORT != 0 {
                // The status is the low half of the byte after the command.
                if cx.dma_write(at.wrapping_add(12), &[descriptor[12] & 0xf0 | 1]).is_err() {
                    return self.stop(cx, outcome);
                }
                if command & DELAY != 0 && registers.get(TIDV) != 0 {
                    self.delay(registers, cx);
                } else {
                    outcome.causes |= TX_WRITTEN_BACK | TX_QUEUE;
                }
            }
            registers.set(TDH, if head + 1 >= count { 0 } else { head + 1 });
            if let Some(done) = sent_at.filter(|done| *done > cx.now() + BACKLOG_NS) {
                cx.at(done - BACKLOG_NS, TRANSMIT);
                return outcome;
            }
        }
        cx.after(1_000, TRANSMIT);
        outcome
    }

    fn stop(&mut self, cx: &mut Cx<'_>, outcome: Outcome) -> Outcome {
        self.stopped = true;
        cx.note("transmit ring, tail or buffer makes no sense", 0);
        outcome
    }

    /// The interrupt waits for more (TIDV), but not for ever (TADV).
    fn delay(&mut self, registers: &Registers, cx: &mut Cx<'_>) {
        let soon = cx.now() + u64::from(registers.get(TIDV)) * DELAY_NS;
        let latest = match (registers.get(TADV), self.deadline) {
            (0, _) => soon,
            (_, Some(deadline)) => deadline,
            (most, None) => cx.now() + u64::from(most) * DELAY_NS,
        };
        self.deadline = Some(latest);
        cx.at(soon.min(latest), TRANSMIT_DELAY);
    }

    /// A delayed interrupt's time has come.
    pub fn delayed(&mut self) -> u32 {
        self.deadline = None;
        TX_WRITTEN_BACK | TX_QUEUE
    }

    /// Handles one descriptor; says when the wire is done if a packet left.
    fn descriptor(
        &mut self,
        bytes: &[u8; 16],
        wire: WireId,
        link: bool,
        registers: &Registers,
        statistics: &mut Statistics,
        cx: &mut Cx<'_>,
    ) -> Result<Option<Nanos>, DmaRefused> {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let command = bytes[11];
        let address = bytes[..8].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let length = if command & EXTENSION == 0 {
            usize::from(half(8))
        } else if bytes[10] >> 4 == 0 {
            self.context = Context {
                ip_start: bytes[0],
                ip_sum: bytes[1],
                ip_end: half(2),
                payload_start: bytes[4],
                payload_sum: bytes[5],
                payload_end: half(6),
                command,
                headers: bytes[13],
                segment: half(14),
            };
            return Ok(None);
        } else {
            usize::from(half(8)) | usize::from(bytes[10] & 0xf) << 16
        };
        if self.packet.is_empty() {
            self.command = command;
            self.options = if command & EXTENSION != 0 { bytes[13] } else { 0 };
        }
        let start = self.packet.len();
        if start + length <= PACKET_MAX {
            self.packet.resize(start + length, 0);
            if let Err(refused) = cx.dma_read(address, &mut self.packet[start..]) {
                self.packet.clear();
                return Err(refused);
            }
        }
        if command & END_OF_PACKET == 0 {
            return Ok(None);
        }
        self.tag = half(14);
        let mut packet = std::mem::take(&mut self.packet);
        if command & EXTENSION == 0 && command & INSERT_SUM != 0 {
            // Legacy: from CSS to the end, into CSO (§7.2.6.2).
            let end = packet.len();
            offload::fill(&mut packet, usize::from(bytes[13]), end, usize::from(bytes[10]));
        }
        Ok(self.send(packet, command & VLAN != 0, wire, link, registers, statistics, cx))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of the chip that a packet passes")]
    fn send(
        &self,
        mut packet: Vec<u8>,
        tagged: bool,
        wire: WireId,
        link: bool,
        registers: &Registers,
        statistics: &mut Statistics,
        cx: &mut Cx<'_>,
    ) -> Option<Nanos> {
        let context = self.context;
        let extended = self.command & EXTENSION != 0;
        let frames = if extended && self.command & SEGMENTATION != 0 && context.command & CONTEXT_TCP != 0 {
            let segment = usize::from(context.segment);
            if segment < SEGMENT_MIN {
                return None;
            }
            statistics.add(SEGMENTED, 1);
            let (ip, tcp) = (usize::from(context.ip_start), usize::from(context.payload_start));
            offload::segment(&packet, Cut { ip, v4: context.command & CONTEXT_IP != 0, tcp, headers: usize::from(context.headers), segment })
        } else {
            // An end of zero is the packet's (§7.2.7.2).
            let end = |end: u16, length: usize| if end == 0 { length } else { usize::from(end) + 1 };
            let length = packet.len();
            if extended && self.options & OPTION_IP != 0 {
                offload::fill(&mut packet, usize::from(context.ip_start), end(context.ip_end, length), usize::from(context.ip_sum));
            }
            if extended && self.options & OPTION_PAYLOAD != 0 {
                offload::fill(&mut packet, usize::from(context.payload_start), end(context.payload_end, length), usize::from(context.payload_sum));
            }
            vec![packet]
        };
        let mut done = None;
        for mut frame in frames {
            if tagged && registers.get(CTRL) & CTRL_VLAN_MODE != 0 && frame.len() >= 12 {
                let kind = (registers.get(VET) as u16).to_be_bytes();
                let tag = self.tag.to_be_bytes();
                frame.splice(12..12, [kind[0], kind[1], tag[0], tag[1]]);
            }
            if link {
                statistics.sent(&frame);
                done = Some(cx.send_frame(wire, &frame));
            }
        }
        done
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        let context = &mut self.context;
        let bytes = [&mut context.ip_start, &mut context.ip_sum, &mut context.payload_start, &mut context.payload_sum, &mut context.command, &mut context.headers];
        for byte in bytes {
            fields.u8("context", byte);
        }
        for half in [&mut context.ip_end, &mut context.payload_end, &mut context.segment] {
            fields.u16("context_half", half);
        }
        fields.bytes("packet", &mut self.packet);
        fields.u8("packet_command", &mut self.command);
        fields.u8("packet_options", &mut self.options);
        fields.u16("packet_tag", &mut self.tag);
        fields.flag("transmit_stopped", &mut self.stopped);
        fields.option("transmit_deadline", &mut self.deadline);
    }
}
