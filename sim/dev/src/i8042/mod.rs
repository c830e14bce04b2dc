//! Keyboard controller 8042 with no keyboard behind it, and the system port 0x92.
//!
//! # Theory
//! IBM PS/2 hardware interface technical reference, keyboard controller. Enough for a kernel that probes: self-test, interface tests (the
//! ports answer that nothing is connected), command byte, output port, pulse (reset). Commands sent to the absent devices time out, as on
//! a PC without a keyboard: the controller answers 0xfe with the time-out bit set.
//!
//! # Limits
//! No scan codes. A20 is recorded only.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use sim_bus::{Access, Cx, Device, Effect, Ending, Fields, RegMap, Region, Reset, Row};

pub const DATA: Region = Region(0);
pub const COMMAND: Region = Region(1);
pub const PORT_92: Region = Region(2);

/// The three ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    Data,
    StatusOrCommand,
    SystemControl,
}

static DATA_MAP: RegMap<Reg> = RegMap::new(&[Row { offset: 0, size: 1, reg: Reg::Data }]);
static COMMAND_MAP: RegMap<Reg> = RegMap::new(&[Row { offset: 0, size: 1, reg: Reg::StatusOrCommand }]);
static SYSTEM_MAP: RegMap<Reg> = RegMap::new(&[Row { offset: 0, size: 1, reg: Reg::SystemControl }]);

/// Answers the controller holds at most: it has one output byte; software that never reads must not grow memory.
const ANSWERS_MAX: usize = 16;

mod status {
    pub const OUTPUT_FULL: u8 = 1 << 0;
    pub const SYSTEM: u8 = 1 << 2;
    pub const LAST_WAS_COMMAND: u8 = 1 << 3;
    pub const UNLOCKED: u8 = 1 << 4;
    pub const AUX: u8 = 1 << 5;
    pub const TIMEOUT: u8 = 1 << 6;
}

/// The controller. Pin 0 is IRQ 1, pin 1 is IRQ 12.
#[derive(Clone, Debug)]
pub struct I8042 {
    command_byte: u8,
    output_port: u8,
    ram: [u8; 32],
    /// The command whose data byte is awaited.
    waiting: u8,
    last_was_command: bool,
    /// Bytes to read, each with its status bits.
    answers: VecDeque<u8>,
    answer_status: VecDeque<u8>,
}

impl Default for I8042 {
    fn default() -> Self {
        Self {
            command_byte: 0x61,
            output_port: 0x03,
            ram: [0; 32],
            waiting: 0,
            last_was_command: false,
            answers: VecDeque::new(),
            answer_status: VecDeque::new(),
        }
    }
}

impl I8042 {
    fn answer(&mut self, byte: u8, status: u8) {
        if self.answers.len() < ANSWERS_MAX {
            self.answers.push_back(byte);
            self.answer_status.push_back(status);
        }
    }

    fn drive(&mut self, cx: &mut Cx<'_>) {
        let front = self.answer_status.front().copied();
        cx.irq(0, front.is_some_and(|status| status & status::AUX == 0) && self.command_byte & 1 != 0);
        cx.irq(1, front.is_some_and(|status| status & status::AUX != 0) && self.command_byte & 2 != 0);
    }

    fn command(&mut self, value: u8, cx: &mut Cx<'_>) {
        self.last_was_command = true;
        self.waiting = 0;
        match value {
            0x20 => self.answer(self.command_byte, 0),
            0x21..=0x3f => self.answer(self.ram[usize::from(value & 0x1f)], 0),
            0x60..=0x7f | 0xd1..=0xd4 => self.waiting = value,
            0xa7 => self.command_byte |= 0x20,
            0xa8 => self.command_byte &= !0x20,
            // Interface tests: "clock line stuck low" means that nothing is connected.
            0xa9 | 0xab => self.answer(0x01, 0),
            0xaa => {
                self.command_byte |= 0x04;
                self.answer(0x55, 0);
            }
            0xad => self.command_byte |= 0x10,
            0xae => self.command_byte &= !0x10,
            0xc0 => self.answer(0x80, 0),
            0xd0 => self.answer(self.output_port, 0),
            0xdd | 0xdf => {
                self.output_port = self.output_port & !2 | value & 2;
                cx.push(Effect::A20(value & 2 != 0));
            }
            // Pulses output lines that are zero in the low nibble: bit 0 is the processor's reset.
            0xf0..=0xff => {
                if value & 1 == 0 {
                    cx.end(Ending::Reset);
                }
            }
            _ => cx.unimplemented(Access::write(COMMAND, 0, 1, u64::from(value))),
        }
        self.drive(cx);
    }

    fn data(&mut self, value: u8, cx: &mut Cx<'_>) {
        self.last_was_command = false;
        match std::mem::take(&mut self.waiting) {
            0x60 => self.command_byte = value,
            command @ 0x61..=0x7f => self.ram[usize::from(command & 0x1f)] = value,
            0xd1 => {
                self.output_port = value;
                cx.push(Effect::A20(value & 2 != 0));
                if value & 1 == 0 {
                    cx.end(Ending::Reset);
                }
            }
            0xd2 => self.answer(value, 0),
            0xd3 => self.answer(value, status::AUX),
            0xd4 => self.answer(0xfe, status::AUX | status::TIMEOUT),
            _ => self.answer(0xfe, status::TIMEOUT),
        }
        self.drive(cx);
    }
}

impl Device for I8042 {
    const KIND: &'static str = "i8042";
    type Reg = Reg;

    fn map(&self, region: Region) -> &'static RegMap<Reg> {
        match region {
            COMMAND => &COMMAND_MAP,
            PORT_92 => &SYSTEM_MAP,
            _ => &DATA_MAP,
        }
    }
    fn read(&mut self, reg: Reg, cx: &mut Cx<'_>) -> u64 {
        u64::from(match reg {
            Reg::Data => {
                let byte = self.answers.pop_front().unwrap_or(0);
                self.answer_status.pop_front();
                self.drive(cx);
                byte
            }
            Reg::StatusOrCommand => {
                let front = self.answer_status.front();
                let full = if front.is_some() { status::OUTPUT_FULL } else { 0 };
                let command = if self.last_was_command { status::LAST_WAS_COMMAND } else { 0 };
                full | front.copied().unwrap_or(0) | command | self.command_byte & status::SYSTEM | status::UNLOCKED
            }
            Reg::SystemControl => self.output_port & 2,
        })
    }
    fn write(&mut self, reg: Reg, value: u64, cx: &mut Cx<'_>) {
        let value = value as u8;
        match reg {
            Reg::Data => self.data(value, cx),
            Reg::StatusOrCommand => self.command(value, cx),
            Reg::SystemControl => {
                self.output_port = self.output_port & !2 | value & 2;
                cx.push(Effect::A20(value & 2 != 0));
                if value & 1 != 0 {
                    cx.end(Ending::Reset);
                }
            }
        }
    }
    fn reset(&mut self, _how: Reset, cx: &mut Cx<'_>) {
        *self = Self::default();
        self.drive(cx);
    }
    fn state(&mut self, fields: &mut dyn Fields) {
        fields.u8("command_byte", &mut self.command_byte);
        fields.u8("output_port", &mut self.output_port);
        fields.array("ram", &mut self.ram);
        fields.u8("waiting", &mut self.waiting);
        fields.flag("last_was_command", &mut self.last_was_command);
        fields.queue("answers", &mut self.answers);
        fields.queue("answer_status", &mut self.answer_status);
        if self.answers.len() != self.answer_status.len() {
            fields.refuse("answer_status");
        }
    }
}
