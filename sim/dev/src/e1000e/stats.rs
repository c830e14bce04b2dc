//! Statistics (§10.2.7): 32-bit counters that stick at their end, and pairs of them; all clear when read.

use super::regs::{STATISTICS, STATISTICS_END};

pub const MISSED: u32 = 0x4010;
const RECEIVED_BY_SIZE: u32 = 0x405c;
const GOOD_RECEIVED: u32 = 0x4074;
const BROADCAST_RECEIVED: u32 = 0x4078;
const MULTICAST_RECEIVED: u32 = 0x407c;
const GOOD_SENT: u32 = 0x4080;
const GOOD_OCTETS_RECEIVED: u32 = 0x4088;
const GOOD_OCTETS_SENT: u32 = 0x4090;
pub const NO_BUFFERS: u32 = 0x40a0;
const OVERSIZE: u32 = 0x40ac;
const OCTETS_RECEIVED: u32 = 0x40c0;
const OCTETS_SENT: u32 = 0x40c8;
const PACKETS_RECEIVED: u32 = 0x40d0;
const PACKETS_SENT: u32 = 0x40d4;
const SENT_BY_SIZE: u32 = 0x40d8;
const MULTICAST_SENT: u32 = 0x40f0;
const BROADCAST_SENT: u32 = 0x40f4;
pub const SEGMENTED: u32 = 0x40f8;
pub const INTERRUPTS: u32 = 0x4100;
const PAIRS: [u32; 4] = [GOOD_OCTETS_RECEIVED, GOOD_OCTETS_SENT, OCTETS_RECEIVED, OCTETS_SENT];
/// Bytes of the frame check sequence, which the counters include.
const FCS: usize = 4;

/// The counters.
#[derive(Clone, Debug)]
pub struct Statistics(Vec<u32>);

impl Default for Statistics {
    fn default() -> Self {
        Self(vec![0; ((STATISTICS_END - STATISTICS) / 4) as usize])
    }
}

impl Statistics {
    pub fn add(&mut self, offset: u32, count: u64) {
        let index = ((offset - STATISTICS) / 4) as usize;
        if PAIRS.contains(&offset) {
            let sum = (u64::from(self.0[index]) | u64::from(self.0[index + 1]) << 32).saturating_add(count);
            (self.0[index], self.0[index + 1]) = (sum as u32, (sum >> 32) as u32);
        } else {
            self.0[index] = self.0[index].saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    fn frame(&mut self, frame: &[u8], offsets: [u32; 7]) {
        let [good, broadcast, multicast, octets, all_octets, packets, by_size] = offsets;
        let length = frame.len().max(60) + FCS;
        self.add(good, 1);
        self.add(packets, 1);
        self.add(octets, length as u64);
        self.add(all_octets, length as u64);
        match frame.first() {
            _ if frame.starts_with(&[0xff; 6]) => self.add(broadcast, 1),
            Some(first) if first & 1 != 0 => self.add(multicast, 1),
            Some(_) | None => {}
        }
        let class = [64, 127, 255, 511, 1023].iter().filter(|limit| length > **limit).count();
        self.add(by_size + 4 * class as u32, 1);
    }

    pub fn received(&mut self, frame: &[u8]) {
        self.frame(
            frame,
            [GOOD_RECEIVED, BROADCAST_RECEIVED, MULTICAST_RECEIVED, GOOD_OCTETS_RECEIVED, OCTETS_RECEIVED, PACKETS_RECEIVED, RECEIVED_BY_SIZE],
        );
    }

    pub fn sent(&mut self, frame: &[u8]) {
        self.frame(frame, [GOOD_SENT, BROADCAST_SENT, MULTICAST_SENT, GOOD_OCTETS_SENT, OCTETS_SENT, PACKETS_SENT, SENT_BY_SIZE]);
    }

    pub fn oversize(&mut self) {
        self.add(OVERSIZE, 1);
    }

    /// Reads and clears; of a pair, reading the upper half clears both.
    pub fn read(&mut self, offset: u32) -> u32 {
        let index = ((offset - STATISTICS) / 4) as usize;
        if PAIRS.contains(&offset) {
            return self.0[index];
        }
        if PAIRS.contains(&(offset - 4)) {
            self.0[index - 1] = 0;
        }
        std::mem::take(&mut self.0[index])
    }

    pub fn state(&mut self, fields: &mut dyn sim_bus::Fields) {
        for value in &mut self.0 {
            fields.u32("statistic", value);
        }
    }
}
