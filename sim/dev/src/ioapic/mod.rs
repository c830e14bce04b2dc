//! I/O APIC: 24 inputs, each a redirection entry that turns a level into a message to local APICs.
//!
//! # Theory
//! Intel 82093AA data sheet (290566) with the version register of its successors (0x20: an EOI register at 0x40). An input is edge- or
//! level-triggered by its entry. A level entry sets *remote IRR* when its message is accepted, and sends again after an EOI of its
//! vector if the line is still active.
//!
//! # Structures
//! [`IoApic`] is held by the board. Messages leave as [`Effect::Message`] in MSI form, so that there is one way to reach local APICs.
//!
//! # Limits
//! 24 inputs, identifier 4 bits. The delivery-status bit always reads idle: delivery takes no time here.

#[cfg(test)]
mod tests;

use sim_bus::{Access, Cx, Effect, Fields, Region};

/// Inputs of the chip.
pub const INPUTS: usize = 24;

mod entry {
    pub const MASKED: u64 = 1 << 16;
    pub const LEVEL: u64 = 1 << 15;
    pub const REMOTE_IRR: u64 = 1 << 14;
    pub const LOGICAL: u64 = 1 << 11;
    pub const WRITABLE: u64 = 0xff00_0000_0001_afff;
}

/// Whether an entry has the level's ways: remote IRR and the wait for an EOI. Only fixed and lowest-priority interrupts are ended by one; of the others the
/// data sheet says that they are edges, whatever the trigger bit says (3.2.4, delivery mode).
fn is_level(redirection: u64) -> bool {
    redirection & entry::LEVEL != 0 && redirection >> 8 & 7 <= 1
}

/// The chip.
#[derive(Clone, Debug)]
pub struct IoApic {
    select: u8,
    id: u8,
    entries: [u64; INPUTS],
    /// Levels as wires carry them: asserted means the interrupt is wanted, whatever the polarity.
    lines: u32,
    /// Edges latched for unmasked delivery.
    pending: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self { select: 0, id: 0, entries: [entry::MASKED; INPUTS], lines: 0, pending: 0 }
    }
}

impl IoApic {
    /// Sets an input. `level` means "asserted": the polarity bit describes wiring that a model does not have.
    pub fn set_line(&mut self, input: u8, level: bool, cx: &mut Cx<'_>) {
        let Some(&redirection) = self.entries.get(usize::from(input)) else { return };
        let bit = 1u32 << input;
        let rose = level && self.lines & bit == 0;
        if level {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        if !is_level(redirection) && rose {
            // An edge on a masked input is lost (data sheet, 3.2.4, bit 16).
            if redirection & entry::MASKED == 0 {
                self.pending |= bit;
            }
        }
        self.service(usize::from(input), cx);
    }

    /// A local APIC broadcast the end of a level-triggered vector.
    pub fn end_of_interrupt(&mut self, vector: u8, cx: &mut Cx<'_>) {
        for input in 0..INPUTS {
            let redirection = self.entries[input];
            if is_level(redirection) && redirection as u8 == vector && redirection & entry::REMOTE_IRR != 0 {
                self.entries[input] &= !entry::REMOTE_IRR;
                self.service(input, cx);
            }
        }
    }

    fn service(&mut self, input: usize, cx: &mut Cx<'_>) {
        let redirection = self.entries[input];
        let bit = 1u32 << input;
        if redirection & entry::MASKED != 0 {
            return;
        }
        if is_level(redirection) {
            if self.lines & bit == 0 || redirection & entry::REMOTE_IRR != 0 {
                return;
            }
            self.entries[input] |= entry::REMOTE_IRR;
        } else {
            if self.pending & bit == 0 {
                return;
            }
            self.pending &= !bit;
        }
        let (address, data) = message(redirection);
        cx.push(Effect::Message { address, data });
    }

    fn read_register(&self, index: u8, cx: &mut Cx<'_>) -> u32 {
        match index {
            0x00 => u32::from(self.id) << 24,
            0x01 => 0x20 | (INPUTS as u32 - 1) << 16,
            0x02 => u32::from(self.id) << 24,
            0x10..=0x3f => {
                let redirection = self.entries[usize::from(index - 0x10) / 2];
                if index & 1 == 0 { redirection as u32 } else { (redirection >> 32) as u32 }
            }
            _ => {
                cx.unimplemented(Access::read(Region(0), 0x1_0000 | u64::from(index), 4));
                0
            }
        }
    }

    fn write_register(&mut self, index: u8, value: u32, cx: &mut Cx<'_>) {
        match index {
            0x00 => self.id = (value >> 24) as u8 & 0x0f,
            // Version and arbitration identifier are read-only.
            0x01 | 0x02 => {}
            0x10..=0x3f => {
                let input = usize::from(index - 0x10) / 2;
                let old = self.entries[input];
                let new = if index & 1 == 0 {
                    old & !0xffff_ffff | u64::from(value)
                } else {
                    old & 0xffff_ffff | u64::from(value) << 32
                };
                let mut new = new & entry::WRITABLE | old & !entry::WRITABLE;
                if !is_level(new) {
                    new &= !entry::REMOTE_IRR;
                } else {
                    self.pending &= !(1 << input);
                }
                self.entries[input] = new;
                self.service(input, cx);
            }
            _ => cx.unimplemented(Access::write(Region(0), 0x1_0000 | u64::from(index), 4, u64::from(value))),
        }
    }

    pub fn read(&mut self, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        match offset {
            0x00 => u64::from(self.select),
            0x10 if size == 4 => u64::from(self.read_register(self.select, cx)),
            // The EOI register is write-only.
            0x40 => 0,
            _ => {
                cx.unimplemented(Access::read(Region(0), offset, size));
                0xffff_ffff
            }
        }
    }

    pub fn write(&mut self, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        match offset {
            0x00 => self.select = value as u8,
            // The window is 32 bits wide (data sheet, 3.1).
            0x10 if size == 4 => self.write_register(self.select, value as u32, cx),
            0x40 => self.end_of_interrupt(value as u8, cx),
            _ => cx.unimplemented(Access::write(Region(0), offset, size, value)),
        }
    }

    pub fn reset(&mut self) {
        let lines = self.lines;
        *self = Self { lines, ..Self::default() };
    }

    /// Entries as `monitor devices` shows them: input, raw entry, line level.
    pub fn describe(&self) -> impl Iterator<Item = (usize, u64, bool)> + '_ {
        self.entries.iter().enumerate().map(|(input, &redirection)| (input, redirection, self.lines >> input & 1 != 0))
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        fields.u8("select", &mut self.select);
        fields.u8("id", &mut self.id);
        for redirection in &mut self.entries {
            fields.u64("entry", redirection);
        }
        fields.u32("lines", &mut self.lines);
        fields.u32("pending", &mut self.pending);
    }
}

/// The entry as an MSI address and data (the layouts agree field by field: SDM vol. 3 §11.11).
fn message(redirection: u64) -> (u64, u32) {
    let destination = redirection >> 56 & 0xff;
    let logical = u64::from(redirection & entry::LOGICAL != 0);
    let address = 0xfee0_0000 | destination << 12 | logical << 2;
    let vector_and_mode = redirection as u32 & 0x7ff;
    let level = u32::from(redirection & entry::LEVEL != 0);
    (address, vector_and_mode | level << 15 | 1 << 14)
}
