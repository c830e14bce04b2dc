//! The text screen of a VGA adapter: 32 KiB at 0xb8000, and the CRT controller's registers at ports 0x3d4 and 0x3d5.
//!
//! # Theory
//! Kernels that were written for a PC say what they have to say on the screen, some of them nowhere else, and scroll by reading back what stands there. The
//! memory is cells of two bytes, a character and its colours, 80 to a row; registers 0x0c and 0x0d say with which cell the first row begins (IBM VGA Technical
//! Reference, "CRT controller registers").
//!
//! # Limits
//! No graphics, no fonts, no sequencer, attribute and graphics controllers (their ports are not there, and reported). Registers beyond 0x18 are not
//! there either. Nothing is drawn: [`text`] reads a saved state.

use sim_bus::{Access, Cx, Fields, Node, Region, Reset, Token};
use sim_core::Payload;

/// Cells and where they are.
pub const MEMORY: Region = Region(0);
pub const BASE: u64 = 0xb_8000;
pub const BYTES: u64 = 0x8000;
/// Index and data of the CRT controller.
pub const CRTC: Region = Region(1);

const COLUMNS: usize = 80;
const ROWS: usize = 25;
const REGISTERS: usize = 0x19;
const START_HIGH: usize = 0x0c;

/// The adapter.
#[derive(Clone, Debug)]
pub struct Screen {
    memory: Vec<u8>,
    index: u8,
    registers: [u8; REGISTERS],
}

impl Default for Screen {
    fn default() -> Self {
        Self { memory: vec![0; BYTES as usize], index: 0, registers: [0; REGISTERS] }
    }
}

impl Node for Screen {
    fn kind(&self) -> &'static str {
        "screen"
    }
    fn read(&mut self, region: Region, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        if region == MEMORY {
            let end = BYTES.min(offset + u64::from(size));
            let bytes = self.memory.get(offset as usize..end as usize).unwrap_or(&[]);
            return bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        }
        let selected = self.registers.get(usize::from(self.index)).copied();
        match (offset, size, selected) {
            (0, 1, _) => u64::from(self.index),
            (1, 1, Some(value)) => u64::from(value),
            (0, 2, Some(value)) => u64::from(value) << 8 | u64::from(self.index),
            _ => {
                cx.unimplemented(Access::read(region, offset, size));
                u64::MAX >> (64 - 8 * u32::from(size))
            }
        }
    }
    fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        if region == MEMORY {
            let end = BYTES.min(offset + u64::from(size));
            if let Some(bytes) = self.memory.get_mut(offset as usize..end as usize) {
                let length = bytes.len();
                bytes.copy_from_slice(&value.to_le_bytes()[..length]);
            }
            return;
        }
        let (index, data) = match (offset, size) {
            (0, 1) => (value as u8, None),
            (0, 2) => (value as u8, Some((value >> 8) as u8)),
            (1, 1) => (self.index, Some(value as u8)),
            _ => {
                cx.unimplemented(Access::write(region, offset, size, value));
                return;
            }
        };
        self.index = index;
        if let Some(data) = data {
            match self.registers.get_mut(usize::from(index)) {
                Some(register) => *register = data,
                None => cx.unimplemented(Access::write(region, offset, size, value)),
            }
        }
    }
    fn event(&mut self, _what: Token, _cx: &mut Cx<'_>) {}
    fn input(&mut self, _cx: &mut Cx<'_>) {}
    fn reset(&mut self, how: Reset, _cx: &mut Cx<'_>) {
        // What stands on a screen outlives a warm reset.
        if how == Reset::PowerOn {
            *self = Self::default();
        }
    }
    fn state(&mut self, fields: &mut dyn Fields) {
        fields.array("memory", &mut self.memory);
        fields.u8("index", &mut self.index);
        fields.array("registers", &mut self.registers);
    }
}

/// What stands on the screen, from a saved state: rows without the blanks behind them, and without the empty rows at the end.
pub fn text(saved: &Payload) -> Vec<String> {
    let (Ok(memory), Ok(registers)) = (saved.get_bytes("memory"), saved.get_bytes("registers")) else { return Vec::new() };
    let start = registers.get(START_HIGH..START_HIGH + 2).map_or(0, |bytes| usize::from(bytes[0]) << 8 | usize::from(bytes[1]));
    let cell = |at: usize| match memory.get((start + at) * 2 % BYTES as usize) {
        Some(byte @ b' '..=b'~') => char::from(*byte),
        Some(0 | 0xff) | None => ' ',
        // Lines, corners and blocks of code page 437.
        Some(0xb3 | 0xba) => '|',
        Some(0xc4 | 0xcd) => '-',
        Some(0xb0..=0xb2 | 0xdb..=0xdf) => '#',
        Some(0xb4..=0xda) => '+',
        Some(_) => '?',
    };
    let mut rows: Vec<String> = (0..ROWS).map(|row| (0..COLUMNS).map(|column| cell(row * COLUMNS + column)).collect::<String>().trim_end().to_owned()).collect();
    while rows.last().is_some_and(String::is_empty) {
        rows.pop();
    }
    rows
}

#[cfg(test)]
mod tests {
    use sim_bus::Node as _;
    use sim_bus::bench::Bench;

    use super::{Screen, text};

    #[test]
    fn what_is_written_stands_there_and_scrolls() {
        let mut bench = Bench::new(Screen::default());
        for (at, byte) in b"Hello".iter().enumerate() {
            bench.write(0, 2 * at as u64, 2, 0x0700 | u64::from(*byte));
        }
        bench.write(0, 160, 8, 0x0721_0769_0748);
        assert_eq!(bench.read(0, 0, 4), 0x0765_0748);
        assert_eq!(text(&bench.node.save()), ["Hello", "Hi!"]);
        // The second row becomes the first: as two bytes, and as a word.
        bench.write(1, 0, 1, 0x0c);
        bench.write(1, 1, 1, 0);
        bench.write(1, 0, 2, 0x500d);
        assert_eq!((bench.read(1, 0, 1), bench.read(1, 1, 1)), (0x0d, 0x50));
        assert_eq!(text(&bench.node.save()), ["Hi!"]);
        // Past the end of memory, and a register that is not there.
        bench.write(0, 0x7ffe, 4, u64::from(u32::MAX));
        assert_eq!(bench.read(0, 0x7ffe, 4), 0xffff);
        bench.write(1, 0, 2, 0xff40);
        assert_eq!(bench.take().len(), 1);
    }
}
