//! The 8259A pair: master at 0x20 with the slave at 0xa0 on its input 2, edge/level control at 0x4d0.
//!
//! # Theory
//! Intel 8259A data sheet (231468). Each chip holds IRR, ISR and IMR and a rotating lowest-priority pointer; INTA turns the highest
//! request above what is in service into a vector. Inputs are edge-triggered unless ELCR says level: an edge latches IRR, and a line
//! that falls before it is acknowledged gives the spurious vector 7.
//!
//! # Structures
//! [`PicPair`] is held by the board, not a node on a pin: the board feeds [`PicPair::set_line`] and asks [`PicPair::output`].
//!
//! # Limits
//! Buffered mode and 8080/85 (call-type) vectors are accepted and have no effect: PCs have neither. ICW1's level bit has none either: ELCR stands in its
//! place, as in all chipsets since the 82371.

mod chip;
#[cfg(test)]
mod tests;

use sim_bus::{Access, Cx, Fields, Region};

use chip::Chip;

/// Region of the command and data ports of the master (2 bytes), the slave (2 bytes), and ELCR (2 bytes).
pub const MASTER: Region = Region(0);
pub const SLAVE: Region = Region(1);
pub const EDGE_LEVEL: Region = Region(2);

/// What ELCR can say: the timer, the keyboard and the cascade are edge-triggered for good, and so are the RTC and the coprocessor.
const MASTER_LEVELS: u8 = 0xf8;
const SLAVE_LEVELS: u8 = 0xde;

/// The two chips as a PC wires them.
#[derive(Clone, Debug)]
pub struct PicPair {
    master: Chip,
    slave: Chip,
}

impl Default for PicPair {
    fn default() -> Self {
        Self { master: Chip::new(true), slave: Chip::new(false) }
    }
}

impl PicPair {
    /// Sets an input line, 0 to 15 (2 is the cascade and has no pin).
    pub fn set_line(&mut self, line: u8, level: bool) {
        if line < 8 {
            self.master.set_line(line, level);
        } else if line < 16 {
            self.slave.set_line(line - 8, level);
        }
        self.cascade();
    }

    fn cascade(&mut self) {
        let level = self.slave.output();
        self.master.set_cascade(level);
    }

    /// The INTR output.
    pub fn output(&self) -> bool {
        self.master.output()
    }

    /// The INTA cycle: the vector. Without a request it is the spurious vector of the chip that had to answer.
    pub fn acknowledge(&mut self) -> u8 {
        let (line, vector) = self.master.acknowledge();
        let vector = if line == Some(2) {
            let (_, vector) = self.slave.acknowledge();
            vector
        } else {
            vector
        };
        self.cascade();
        vector
    }

    pub fn read(&mut self, region: Region, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        if size != 1 {
            // A wide access becomes byte accesses on an 8-bit bus.
            return (0..u64::from(size)).fold(0, |value, byte| value | self.read(region, offset + byte, 1, cx) << (8 * byte));
        }
        let value = match (region, offset) {
            (MASTER, 0 | 1) => self.master.read(offset as u8),
            (SLAVE, 0 | 1) => self.slave.read(offset as u8),
            (EDGE_LEVEL, 0) => self.master.level_mask(),
            (EDGE_LEVEL, 1) => self.slave.level_mask(),
            _ => {
                cx.unimplemented(Access::read(region, offset, size));
                0xff
            }
        };
        self.cascade();
        u64::from(value)
    }

    pub fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        for byte in 0..u64::from(size) {
            let (offset, value) = (offset + byte, (value >> (8 * byte)) as u8);
            match (region, offset) {
                (MASTER, 0 | 1) => self.master.write(offset as u8, value),
                (SLAVE, 0 | 1) => self.slave.write(offset as u8, value),
                (EDGE_LEVEL, 0) => self.master.set_level_mask(value & MASTER_LEVELS),
                (EDGE_LEVEL, 1) => self.slave.set_level_mask(value & SLAVE_LEVELS),
                _ => cx.unimplemented(Access::write(region, offset, 1, u64::from(value))),
            }
        }
        self.cascade();
    }

    /// Sets which inputs are level-triggered, as firmware does: a bit for each.
    pub fn set_level_triggered(&mut self, inputs: u16) {
        let [master, slave] = inputs.to_le_bytes();
        self.master.set_level_mask(master & MASTER_LEVELS);
        self.slave.set_level_mask(slave & SLAVE_LEVELS);
        self.cascade();
    }

    pub fn reset(&mut self) {
        *self = Self::default();
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        self.master.state(fields);
        self.slave.state(fields);
    }
}
