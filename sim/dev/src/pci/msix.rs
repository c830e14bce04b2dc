//! MSI-X: the table and pending bits of a function (PCI 3.0 §6.8.2).

use sim_bus::{Access, Cx, Fields, Region};

use super::Function;

/// Bytes of the BAR that holds table and pending bits.
pub const TABLE_BYTES: u64 = 0x1000;
const PENDING_OFFSET: u64 = 0x800;
const CAPABILITY: u8 = 0x11;
const CONTROL_ENABLE: u8 = 1 << 7;
const CONTROL_MASK: u8 = 1 << 6;

#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
}

/// The vectors of one function.
#[derive(Clone, Debug)]
pub struct MsiX {
    entries: Vec<Entry>,
    /// Where the capability is in configuration space.
    capability: usize,
}

impl MsiX {
    /// Adds the capability to `function`; table and pending bits live in BAR `bar`.
    pub fn new(function: &mut Function, bar: u8, vectors: u16) -> Self {
        assert!((1..=64).contains(&vectors), "{vectors} vectors");
        let mut body = Vec::new();
        body.extend_from_slice(&(vectors - 1).to_le_bytes());
        body.extend_from_slice(&u32::from(bar).to_le_bytes());
        body.extend_from_slice(&(PENDING_OFFSET as u32 | u32::from(bar)).to_le_bytes());
        let mut mask = vec![0; body.len()];
        mask[1] = CONTROL_ENABLE | CONTROL_MASK;
        let capability = function.add_capability(CAPABILITY, &body, &mask);
        let entry = Entry { address: 0, data: 0, masked: true, pending: false };
        Self { entries: vec![entry; usize::from(vectors)], capability }
    }

    fn control(&self, function: &Function) -> u8 {
        function.byte(self.capability + 3)
    }

    /// Raises a vector: a message, or a pending bit while masked. Vectors the function does not have are dropped.
    pub fn raise(&mut self, vector: u16, function: &Function, cx: &mut Cx<'_>) {
        let control = self.control(function);
        if control & CONTROL_ENABLE == 0 || !function.is_master() {
            return;
        }
        let Some(entry) = self.entries.get_mut(usize::from(vector)) else { return };
        if entry.masked || control & CONTROL_MASK != 0 {
            entry.pending = true;
        } else {
            cx.msi(entry.address, entry.data);
        }
    }

    /// Sends what became unmasked. Call after a write to configuration space or to the table.
    pub fn settle(&mut self, function: &Function, cx: &mut Cx<'_>) {
        let control = self.control(function);
        if control & CONTROL_ENABLE == 0 || control & CONTROL_MASK != 0 || !function.is_master() {
            return;
        }
        for entry in self.entries.iter_mut().filter(|entry| entry.pending && !entry.masked) {
            entry.pending = false;
            cx.msi(entry.address, entry.data);
        }
    }

    /// Whether software has turned MSI-X on.
    pub fn is_enabled(&self, function: &Function) -> bool {
        self.control(function) & CONTROL_ENABLE != 0
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> u16 {
        self.entries.len() as u16
    }

    pub fn read(&self, region: Region, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        if !matches!(size, 4 | 8) || !offset.is_multiple_of(u64::from(size)) {
            cx.unimplemented(Access::read(region, offset, size));
            return 0;
        }
        if size == 8 {
            return self.read(region, offset, 4, cx) | self.read(region, offset + 4, 4, cx) << 32;
        }
        if offset >= PENDING_OFFSET {
            let first = (offset - PENDING_OFFSET) as usize * 8;
            if first >= self.entries.len().next_multiple_of(64) {
                cx.unimplemented(Access::read(region, offset, size));
            }
            return (0..32).filter(|bit| self.entries.get(first + bit).is_some_and(|entry| entry.pending)).fold(0, |bits, bit| bits | 1 << bit);
        }
        let Some(entry) = self.entries.get(offset as usize / 16) else {
            cx.unimplemented(Access::read(region, offset, size));
            return 0;
        };
        match offset & 0xc {
            0x0 => entry.address & 0xffff_ffff,
            0x4 => entry.address >> 32,
            0x8 => u64::from(entry.data),
            _ => u64::from(entry.masked),
        }
    }

    pub fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, function: &Function, cx: &mut Cx<'_>) {
        if !matches!(size, 4 | 8) || !offset.is_multiple_of(u64::from(size)) {
            cx.unimplemented(Access::write(region, offset, size, value));
            return;
        }
        for (at, word) in [(offset, value & 0xffff_ffff), (offset + 4, value >> 32)].into_iter().take(usize::from(size) / 4) {
            // Pending bits are read-only (§6.8.2.10: what a write does is undefined), and past the table is nothing.
            let Some(entry) = self.entries.get_mut(at as usize / 16).filter(|_| at < PENDING_OFFSET) else {
                cx.unimplemented(Access::write(region, at, 4, word));
                continue;
            };
            match at & 0xc {
                0x0 => entry.address = entry.address & !0xffff_ffff | word & !3,
                0x4 => entry.address = entry.address & 0xffff_ffff | word << 32,
                0x8 => entry.data = word as u32,
                _ => entry.masked = word & 1 != 0,
            }
        }
        self.settle(function, cx);
    }

    pub fn reset(&mut self) {
        let entry = Entry { address: 0, data: 0, masked: true, pending: false };
        self.entries.fill(entry);
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        for entry in &mut self.entries {
            fields.u64("address", &mut entry.address);
            fields.u32("data", &mut entry.data);
            fields.flag("masked", &mut entry.masked);
            fields.flag("pending", &mut entry.pending);
        }
    }
}
