//! Programmable interval timer 8254 and the system control port 0x61.
//!
//! # Theory
//! Intel 8254 data sheet (231164). Three counters clocked at 1,193,182 Hz; each is computed from the time its count was loaded, so
//! a counter costs nothing until it is read or its output drives a pin. Channel 0 drives IRQ 0; channel 2 has its gate at port 0x61
//! bit 0 and its output at bit 5. Modes 0 to 5; modes 1 and 5 need a gate edge, which only channel 2 has.
//!
//! # Limits
//! Channel 1 (refresh) counts but drives nothing but the refresh bit of port 0x61, which toggles every 15,085 ns. BCD counting is
//! honoured in reads and loads. The speaker is silent.

mod chip;
#[cfg(test)]
mod tests;

use sim_bus::{Cx, Device, Fields, RegMap, Region, Reset, Row, Token};

use chip::Counter;

const CHANNEL0: Token = Token(0);

/// Registers of both windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    Counter0,
    Counter1,
    Counter2,
    Control,
    SystemControl,
}

static MAP: RegMap<Reg> = RegMap::new(&[
    Row { offset: 0, size: 1, reg: Reg::Counter0 },
    Row { offset: 1, size: 1, reg: Reg::Counter1 },
    Row { offset: 2, size: 1, reg: Reg::Counter2 },
    Row { offset: 3, size: 1, reg: Reg::Control },
]);
static SYSTEM: RegMap<Reg> = RegMap::new(&[Row { offset: 0, size: 1, reg: Reg::SystemControl }]);

/// Window of the timer (4 ports at 0x40).
pub const TIMER: Region = Region(0);
/// Window of port 0x61.
pub const PORT_61: Region = Region(1);

/// The timer. Pin 0 is channel 0's output.
#[derive(Clone, Debug)]
pub struct Pit {
    counters: [Counter; 3],
    speaker: bool,
}

impl Default for Pit {
    fn default() -> Self {
        let mut pit = Self { counters: [Counter::new(true), Counter::new(true), Counter::new(false)], speaker: false };
        // Firmware leaves channel 0 running at its slowest square wave (18.2 Hz) with the 8259 masked.
        pit.counters[0].restart(0);
        pit.counters[1].control(0x54, 0);
        pit.counters[1].write(18, 0);
        pit
    }
}

impl Pit {
    /// Shows channel 0's output and asks for the next change.
    fn drive(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now();
        cx.irq(0, self.counters[0].output(now));
        match self.counters[0].next_change(now) {
            Some(at) => cx.at(at, CHANNEL0),
            None => cx.cancel(CHANNEL0),
        }
    }
}

impl Device for Pit {
    const KIND: &'static str = "pit";
    type Reg = Reg;

    fn map(&self, region: Region) -> &'static RegMap<Reg> {
        if region == PORT_61 { &SYSTEM } else { &MAP }
    }

    fn read(&mut self, reg: Reg, cx: &mut Cx<'_>) -> u64 {
        let now = cx.now();
        u64::from(match reg {
            Reg::Counter0 => self.counters[0].read(now),
            Reg::Counter1 => self.counters[1].read(now),
            Reg::Counter2 => self.counters[2].read(now),
            // The control word cannot be read.
            Reg::Control => 0xff,
            Reg::SystemControl => {
                u8::from(self.counters[2].gate())
                    | u8::from(self.speaker) << 1
                    | u8::from(now / 15_085 % 2 == 1) << 4
                    | u8::from(self.counters[2].output(now)) << 5
            }
        })
    }

    fn write(&mut self, reg: Reg, value: u64, cx: &mut Cx<'_>) {
        let (now, value) = (cx.now(), value as u8);
        match reg {
            Reg::Counter0 => {
                // A mode whose output is high and goes low for one clock makes an edge a pin model could miss: show low first.
                self.counters[0].write(value, now);
                self.drive(cx);
            }
            Reg::Counter1 => self.counters[1].write(value, now),
            Reg::Counter2 => self.counters[2].write(value, now),
            Reg::Control => match value >> 6 {
                3 => {
                    for (index, counter) in self.counters.iter_mut().enumerate() {
                        if value >> (1 + index) & 1 != 0 {
                            counter.read_back(value, now);
                        }
                    }
                }
                channel => {
                    self.counters[usize::from(channel)].control(value, now);
                    if channel == 0 {
                        self.drive(cx);
                    }
                }
            },
            Reg::SystemControl => {
                self.counters[2].set_gate(value & 1 != 0, now);
                self.speaker = value & 2 != 0;
            }
        }
    }

    fn event(&mut self, _what: Token, cx: &mut Cx<'_>) {
        let now = cx.now();
        if self.counters[0].pulsed(now) {
            // The low pulse of modes 2 and 4 lies between two looks: show it, so that the edge reaches the controllers.
            cx.irq(0, false);
        }
        self.drive(cx);
    }

    fn reset(&mut self, _how: Reset, cx: &mut Cx<'_>) {
        *self = Self::default();
        self.counters[0].restart(cx.now());
        cx.irq(0, false);
        self.drive(cx);
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        for counter in &mut self.counters {
            counter.state(fields);
        }
        fields.flag("speaker", &mut self.speaker);
    }
}
