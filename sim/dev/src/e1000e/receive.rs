//! The packet buffer and the receive ring (§7.1): filters, legacy and extended descriptors.

use std::collections::VecDeque;
use std::sync::Arc;

use sim_bus::{Cx, Fields, WireId};

use super::interrupt::{RX_LOW, RX_OVERRUN, RX_QUEUE, RX_TIMER};
use super::regs::{
    CTRL, CTRL_VLAN_MODE, MTA, RADV, RAH, RAL, RCTL, RCTL_BROADCAST, RCTL_ENABLE, RCTL_LONG, RCTL_MULTICAST_ALL, RCTL_SIZE_EXTENSION, RCTL_STRIP_CRC,
    RCTL_UNICAST_ALL, RCTL_VLAN_FILTER, RDBAH, RDBAL, RDH, RDLEN, RDT, RDTR, RFCTL, RFCTL_EXTENDED, RXCSUM, RXCSUM_IP, RXCSUM_PAYLOAD, Registers, VET, VFTA,
};
use super::stats::{MISSED, NO_BUFFERS, Statistics};
use super::{DELAY_NS, DESCRIPTORS_AT_ONCE, FIFO_BYTES, RECEIVE, RECEIVE_DELAY};
use crate::offload;

/// Status bits of a written-back descriptor (§7.1.4.2, §7.1.5.2), the same in both forms.
const DONE: u32 = 1 << 0;
const END_OF_PACKET: u32 = 1 << 1;
const VLAN: u32 = 1 << 3;
const UDP_SUM: u32 = 1 << 4;
const TCP_SUM: u32 = 1 << 5;
const IP_SUM: u32 = 1 << 6;
/// Error bits: in the upper part of an extended status word; of a legacy descriptor, 24 lower.
const ERROR_TCP_UDP: u32 = 1 << 29;
const ERROR_IP: u32 = 1 << 30;

/// The longest frame without LPE: 1,522 with the check sequence and a VLAN tag.
const NORMAL_MAX: usize = 1518;
/// From the packet buffer to memory.
const STORE_NS: u64 = 1_000;

/// The queue.
#[derive(Clone, Debug, Default)]
pub struct Receive {
    fifo: VecDeque<Arc<[u8]>>,
    fifo_bytes: usize,
    pub stopped: bool,
    deadline: Option<u64>,
    /// An event for the ring is on its way.
    scheduled: bool,
}

impl Receive {
    /// Takes what has arrived off the wire into the packet buffer. Causes to raise.
    pub fn arrive(&mut self, wire: WireId, registers: &Registers, statistics: &mut Statistics, cx: &mut Cx<'_>) -> u32 {
        let mut causes = 0;
        while let Some(frame) = cx.receive_frame(wire) {
            if registers.get(RCTL) & RCTL_ENABLE == 0 || !self.wants(&frame, registers) {
                continue;
            }
            if frame.len() > NORMAL_MAX && registers.get(RCTL) & RCTL_LONG == 0 {
                statistics.oversize();
            } else if self.fifo_bytes + frame.len() > FIFO_BYTES {
                statistics.add(MISSED, 1);
                causes |= RX_OVERRUN;
            } else {
                statistics.received(&frame);
                self.fifo_bytes += frame.len();
                self.fifo.push_back(frame);
            }
        }
        if !self.fifo.is_empty() {
            self.wake(cx);
        }
        causes
    }

    /// Asks for a turn at the ring.
    pub fn wake(&mut self, cx: &mut Cx<'_>) {
        if !std::mem::replace(&mut self.scheduled, true) {
            cx.after(STORE_NS, RECEIVE);
        }
    }

    /// The filters (§7.1.1).
    fn wants(&self, frame: &[u8], registers: &Registers) -> bool {
        let control = registers.get(RCTL);
        let Some(target) = frame.first_chunk::<6>() else { return false };
        if control & RCTL_VLAN_FILTER != 0
            && let Some(tag) = self.tag(frame, registers)
        {
            let identifier = u32::from(tag & 0xfff);
            if registers.get(VFTA + 4 * (identifier / 32)) >> (identifier % 32) & 1 == 0 {
                return false;
            }
        }
        if target == &[0xff; 6] {
            return control & RCTL_BROADCAST != 0;
        }
        let exact = (0..16).any(|entry| {
            let high = registers.get(RAH + 8 * entry);
            let low = registers.get(RAL + 8 * entry).to_le_bytes();
            high >> 31 != 0 && target[..4] == low && target[4..] == high.to_le_bytes()[..2]
        });
        if exact {
            return true;
        }
        if target[0] & 1 == 0 {
            return control & RCTL_UNICAST_ALL != 0;
        }
        // The multicast table: twelve bits of the address, which ones says MO (§10.2.5.1).
        let bits = u32::from(target[4]) | u32::from(target[5]) << 8;
        let shift = [4, 3, 2, 0][(control >> 12 & 3) as usize];
        let hash = bits >> shift & 0xfff;
        control & RCTL_MULTICAST_ALL != 0 || registers.get(MTA + 4 * (hash / 32)) >> (hash % 32) & 1 != 0
    }

    /// The VLAN tag of a frame that has one.
    fn tag(&self, frame: &[u8], registers: &Registers) -> Option<u16> {
        let kind = (registers.get(VET) as u16).to_be_bytes();
        let found = frame.get(12..16).filter(|bytes| bytes[..2] == kind)?;
        Some(u16::from_be_bytes([found[2], found[3]]))
    }

    fn buffer_size(registers: &Registers) -> usize {
        let control = registers.get(RCTL);
        let size = 2048usize >> (control >> 16 & 3);
        if control & RCTL_SIZE_EXTENSION != 0 { size * 16 } else { size }
    }

    /// Stores frames in buffers from head to tail. Causes to raise.
    pub fn run(&mut self, registers: &mut Registers, statistics: &mut Statistics, cx: &mut Cx<'_>) -> u32 {
        self.scheduled = false;
        let mut causes = 0;
        let count = registers.get(RDLEN) / 16;
        if registers.get(RCTL) & RCTL_ENABLE == 0 || count == 0 || self.stopped {
            return 0;
        }
        let mut left = DESCRIPTORS_AT_ONCE;
        while let Some(frame) = self.fifo.front().cloned() {
            let (head, tail) = (registers.get(RDH), registers.get(RDT));
            if head >= count || tail >= count {
                return self.stop(cx, causes);
            }
            let free = (tail + count - head) % count;
            let size = Self::buffer_size(registers);
            let needed = (frame.len() + 4).div_ceil(size) as u32;
            if needed > free {
                statistics.add(NO_BUFFERS, 1);
                break;
            }
            if needed > left {
                self.wake(cx);
                break;
            }
            left -= needed;
            if self.store(&frame, size, registers, cx).is_err() {
                return self.stop(cx, causes);
            }
            self.fifo.pop_front();
            self.fifo_bytes -= frame.len();
            causes |= RX_TIMER | RX_QUEUE;
            // Fewer free descriptors than the threshold (RDMTS): a half, a quarter, an eighth.
            let threshold = count >> (1 + (registers.get(RCTL) >> 8 & 3)).min(3);
            if free - needed <= threshold && free > threshold {
                causes |= RX_LOW;
            }
        }
        if causes & RX_TIMER != 0 && registers.get(RDTR) != 0 && causes & RX_LOW == 0 {
            self.delay(registers, cx);
            causes &= !(RX_TIMER | RX_QUEUE);
        }
        causes
    }

    fn stop(&mut self, cx: &mut Cx<'_>, causes: u32) -> u32 {
        self.stopped = true;
        cx.note("receive ring, tail or buffer makes no sense", 0);
        causes
    }

    fn delay(&mut self, registers: &Registers, cx: &mut Cx<'_>) {
        let soon = cx.now() + u64::from(registers.get(RDTR)) * DELAY_NS;
        let latest = match (registers.get(RADV), self.deadline) {
            (0, _) => soon,
            (_, Some(deadline)) => deadline,
            (most, None) => cx.now() + u64::from(most) * DELAY_NS,
        };
        self.deadline = Some(latest);
        cx.at(soon.min(latest), RECEIVE_DELAY);
    }

    /// A delayed interrupt's time has come.
    pub fn delayed(&mut self) -> u32 {
        self.deadline = None;
        RX_TIMER | RX_QUEUE
    }

    fn store(&self, frame: &[u8], size: usize, registers: &mut Registers, cx: &mut Cx<'_>) -> Result<(), sim_bus::DmaRefused> {
        let count = registers.get(RDLEN) / 16;
        let base = registers.wide(RDBAL, RDBAH);
        let mut status = DONE;
        let mut special = 0;
        let mut stored = frame.to_vec();
        if registers.get(CTRL) & CTRL_VLAN_MODE != 0
            && let Some(tag) = self.tag(frame, registers)
        {
            stored.drain(12..16);
            special = tag;
            status |= VLAN;
        }
        // The chip hands the padding of short frames on, and the check sequence unless told to strip it; nobody checks it, so it is zero.
        stored.resize(stored.len().max(60), 0);
        if registers.get(RCTL) & RCTL_STRIP_CRC == 0 {
            stored.extend_from_slice(&[0; 4]);
        }
        let sums = offload::check(frame);
        if let Some(good) = sums.header.filter(|_| registers.get(RXCSUM) & RXCSUM_IP != 0) {
            status |= IP_SUM | if good { 0 } else { ERROR_IP };
        }
        if let Some(good) = sums.payload.filter(|_| registers.get(RXCSUM) & RXCSUM_PAYLOAD != 0) {
            status |= TCP_SUM | if sums.udp { UDP_SUM } else { 0 } | if good { 0 } else { ERROR_TCP_UDP };
        }
        let extended = registers.get(RFCTL) & RFCTL_EXTENDED != 0;
        let pieces = stored.chunks(size).count();
        for (index, piece) in stored.chunks(size).enumerate() {
            let head = registers.get(RDH);
            let at = base.wrapping_add(16 * u64::from(head));
            let mut descriptor = [0; 16];
            cx.dma_read(at, &mut descriptor)?;
            let address = descriptor[..8].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
            cx.dma_write(address, piece)?;
            let status = if index + 1 == pieces { status | END_OF_PACKET } else { status & (DONE | VLAN) };
            let length = (piece.len() as u16).to_le_bytes();
            if extended {
                descriptor[..8].fill(0);
                descriptor[8..12].copy_from_slice(&status.to_le_bytes());
                descriptor[12..14].copy_from_slice(&length);
            } else {
                descriptor[8..10].copy_from_slice(&length);
                descriptor[10..12].fill(0);
                descriptor[12] = status as u8;
                descriptor[13] = (status >> 24) as u8;
            }
            descriptor[14..16].copy_from_slice(&special.to_le_bytes());
            cx.dma_write(at, &descriptor)?;
            registers.set(RDH, if head + 1 >= count { 0 } else { head + 1 });
        }
        Ok(())
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        let mut count = self.fifo.len() as u64;
        fields.u64("fifo", &mut count);
        if count > FIFO_BYTES as u64 {
            fields.refuse("fifo");
            return;
        }
        self.fifo.resize(count as usize, Arc::from([]));
        for frame in &mut self.fifo {
            let mut bytes = frame.to_vec();
            fields.bytes("fifo_frame", &mut bytes);
            *frame = bytes.into();
        }
        self.fifo_bytes = self.fifo.iter().map(|frame| frame.len()).sum();
        fields.flag("receive_stopped", &mut self.stopped);
        fields.option("receive_deadline", &mut self.deadline);
        fields.flag("receive_scheduled", &mut self.scheduled);
    }
}
