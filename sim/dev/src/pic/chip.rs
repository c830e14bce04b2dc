//! One 8259A.

use sim_bus::Fields;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// Operational: OCW1 at offset 1.
    Ocw,
    Icw2,
    Icw3,
    Icw4,
}

#[derive(Clone, Debug)]
pub(super) struct Chip {
    master: bool,
    irr: u8,
    isr: u8,
    imr: u8,
    lines: u8,
    level: u8,
    base: u8,
    /// The line that has lowest priority.
    lowest: u8,
    expect: Expect,
    needs_icw4: bool,
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    fully_nested: bool,
    read_isr: bool,
    poll: bool,
}

impl Chip {
    pub(super) fn new(master: bool) -> Self {
        Self {
            master,
            irr: 0,
            isr: 0,
            imr: 0xff,
            lines: 0,
            level: 0,
            base: 0,
            lowest: 7,
            expect: Expect::Ocw,
            needs_icw4: false,
            single: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            fully_nested: false,
            read_isr: false,
            poll: false,
        }
    }

    pub(super) fn set_line(&mut self, line: u8, level: bool) {
        let bit = 1u8 << line;
        if level {
            if self.level & bit != 0 || self.lines & bit == 0 {
                self.irr |= bit;
            }
            self.lines |= bit;
        } else {
            // A request that falls before INTA is gone: INTA then finds nothing, which is the spurious interrupt.
            self.lines &= !bit;
            self.irr &= !bit;
        }
    }

    pub(super) fn set_cascade(&mut self, level: bool) {
        // The slave's output stays high while it has requests; treat it as a level.
        if level {
            self.lines |= 4;
            self.irr |= 4;
        } else {
            self.lines &= !4;
            self.irr &= !4;
        }
    }

    /// Priority of a line: 0 is highest.
    fn rank(&self, line: u8) -> u8 {
        line.wrapping_sub(self.lowest).wrapping_sub(1) & 7
    }

    fn highest(&self, mask: u8) -> Option<u8> {
        (0..8).filter(|line| mask & (1 << line) != 0).min_by_key(|&line| self.rank(line))
    }

    /// Lines in service that count: in special mask mode masked ones neither hold others back nor are ended by an EOI that names none.
    fn service(&self) -> u8 {
        if self.special_mask { self.isr & !self.imr } else { self.isr }
    }

    /// The line that would be acknowledged now.
    fn candidate(&self) -> Option<u8> {
        let line = self.highest(self.irr & !self.imr)?;
        match self.highest(self.service()) {
            Some(busy) if self.rank(line) > self.rank(busy) => None,
            // Special fully nested mode lets the slave interrupt itself through the master.
            Some(busy) if line == busy => (self.master && self.fully_nested && line == 2).then_some(line),
            Some(_) | None => Some(line),
        }
    }

    pub(super) fn output(&self) -> bool {
        self.candidate().is_some()
    }

    /// The line and its vector; `None` for the spurious one.
    pub(super) fn acknowledge(&mut self) -> (Option<u8>, u8) {
        let Some(line) = self.candidate() else {
            return (None, self.base | 7);
        };
        let bit = 1u8 << line;
        if self.level & bit == 0 {
            self.irr &= !bit;
        }
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.lowest = line;
            }
        } else {
            self.isr |= bit;
        }
        (Some(line), self.base | line)
    }

    pub(super) fn read(&mut self, offset: u8) -> u8 {
        if std::mem::take(&mut self.poll) {
            // Poll mode: the read is the acknowledge (data sheet, "poll command").
            return match self.acknowledge() {
                (Some(line), _) => 0x80 | line,
                (None, _) => 0,
            };
        }
        match (offset, self.read_isr) {
            (1, _) => self.imr,
            (_, true) => self.isr,
            (_, false) => self.irr,
        }
    }

    pub(super) fn write(&mut self, offset: u8, value: u8) {
        if offset == 0 {
            if value & 0x10 != 0 {
                self.icw1(value);
            } else if value & 0x08 != 0 {
                self.ocw3(value);
            } else {
                self.ocw2(value);
            }
            return;
        }
        match self.expect {
            Expect::Ocw => self.imr = value,
            Expect::Icw2 => {
                self.base = value & 0xf8;
                self.expect = if !self.single {
                    Expect::Icw3
                } else if self.needs_icw4 {
                    Expect::Icw4
                } else {
                    Expect::Ocw
                };
            }
            Expect::Icw3 => self.expect = if self.needs_icw4 { Expect::Icw4 } else { Expect::Ocw },
            Expect::Icw4 => {
                self.auto_eoi = value & 0x02 != 0;
                self.fully_nested = value & 0x10 != 0;
                self.expect = Expect::Ocw;
            }
        }
    }

    fn icw1(&mut self, value: u8) {
        self.needs_icw4 = value & 0x01 != 0;
        self.single = value & 0x02 != 0;
        self.expect = Expect::Icw2;
        // The edge sense circuit is reset: a line that is high must fall and rise again. Level lines ask again at once.
        self.irr = self.lines & self.level;
        self.isr = 0;
        self.imr = 0;
        self.lowest = 7;
        self.special_mask = false;
        self.read_isr = false;
        self.auto_eoi = false;
        self.fully_nested = false;
        self.rotate_on_auto_eoi = false;
        self.poll = false;
    }

    fn ocw2(&mut self, value: u8) {
        let named = value & 7;
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            0b001 | 0b101 => {
                if let Some(line) = self.highest(self.service()) {
                    self.isr &= !(1 << line);
                    if value & 0x80 != 0 {
                        self.lowest = line;
                    }
                }
            }
            0b011 | 0b111 => {
                self.isr &= !(1 << named);
                if value & 0x80 != 0 {
                    self.lowest = named;
                }
            }
            0b110 => self.lowest = named,
            // 0b010: no operation.
            _ => {}
        }
    }

    fn ocw3(&mut self, value: u8) {
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
        if value & 0x04 != 0 {
            self.poll = true;
        } else if value & 0x02 != 0 {
            self.read_isr = value & 0x01 != 0;
        }
    }

    pub(super) fn level_mask(&self) -> u8 {
        self.level
    }
    pub(super) fn set_level_mask(&mut self, value: u8) {
        self.level = value;
        // A level is a request for as long as it lasts, whenever it came up.
        self.irr |= self.lines & value;
    }

    pub(super) fn state(&mut self, fields: &mut dyn Fields) {
        fields.u8("irr", &mut self.irr);
        fields.u8("isr", &mut self.isr);
        fields.u8("imr", &mut self.imr);
        fields.u8("lines", &mut self.lines);
        fields.u8("level", &mut self.level);
        fields.u8("base", &mut self.base);
        fields.u8("lowest", &mut self.lowest);
        self.lowest &= 7;
        let mut expect = self.expect as u8;
        fields.u8("expect", &mut expect);
        self.expect = match expect {
            0 => Expect::Ocw,
            1 => Expect::Icw2,
            2 => Expect::Icw3,
            3 => Expect::Icw4,
            _ => {
                fields.refuse("expect");
                Expect::Ocw
            }
        };
        for (name, flag) in [
            ("needs_icw4", &mut self.needs_icw4),
            ("single", &mut self.single),
            ("auto_eoi", &mut self.auto_eoi),
            ("rotate_on_auto_eoi", &mut self.rotate_on_auto_eoi),
            ("special_mask", &mut self.special_mask),
            ("fully_nested", &mut self.fully_nested),
            ("read_isr", &mut self.read_isr),
            ("poll", &mut self.poll),
        ] {
            fields.flag(name, flag);
        }
    }
}
