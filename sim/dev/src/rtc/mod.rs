//! Real-time clock and CMOS RAM: MC146818A at ports 0x70 and 0x71.
//!
//! # Theory
//! Motorola MC146818A data sheet. The time of day is a base (Unix seconds at power-on, from the board) plus virtual time; setting the
//! clock moves the base. Periodic, alarm and update-ended interrupts drive IRQ 8; register C is cleared by reading it, and its flags are set whether their
//! interrupts are enabled or not: events come for enabled ones, the others are found out when C is read. The
//! update-in-progress bit is set in the last 244 microseconds of each second.
//!
//! # Limits
//! The century is at index 0x32 as the FADT says. Daylight saving is not modelled. CMOS RAM holds 128 bytes; index bit 7 (NMI mask) is
//! remembered.

#[cfg(test)]
mod tests;

use sim_bus::{Cx, Device, Fields, Nanos, RegMap, Region, Reset, Row, SECOND, Token};

const PERIODIC: Token = Token(0);
const SECONDS: Token = Token(1);
const UPDATE_NS: Nanos = 244_000;

/// The two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    Index,
    Data,
}

static MAP: RegMap<Reg> =
    RegMap::new(&[Row { offset: 0, size: 1, reg: Reg::Index }, Row { offset: 1, size: 1, reg: Reg::Data }]);

mod index {
    pub const SECONDS: u8 = 0x00;
    pub const SECONDS_ALARM: u8 = 0x01;
    pub const MINUTES: u8 = 0x02;
    pub const MINUTES_ALARM: u8 = 0x03;
    pub const HOURS: u8 = 0x04;
    pub const HOURS_ALARM: u8 = 0x05;
    pub const WEEKDAY: u8 = 0x06;
    pub const DAY: u8 = 0x07;
    pub const MONTH: u8 = 0x08;
    pub const YEAR: u8 = 0x09;
    pub const A: u8 = 0x0a;
    pub const B: u8 = 0x0b;
    pub const C: u8 = 0x0c;
    pub const D: u8 = 0x0d;
    pub const CENTURY: u8 = 0x32;
}
mod b {
    pub const SET: u8 = 0x80;
    pub const PERIODIC: u8 = 0x40;
    pub const ALARM: u8 = 0x20;
    pub const UPDATE: u8 = 0x10;
    pub const BINARY: u8 = 0x04;
    pub const HOURS_24: u8 = 0x02;
}
mod c {
    pub const IRQ: u8 = 0x80;
    pub const PERIODIC: u8 = 0x40;
    pub const ALARM: u8 = 0x20;
    pub const UPDATE: u8 = 0x10;
}

/// The clock. Pin 0 is its interrupt.
#[derive(Clone, Debug)]
pub struct Rtc {
    power_on: u64,
    /// Seconds since 0000-03-01 at virtual time zero, in wrapping arithmetic.
    base: u64,
    index: u8,
    a: u8,
    b: u8,
    c: u8,
    /// When C was last read.
    c_read: Nanos,
    ram: [u8; 128],
    /// The calendar while SET holds it still: fields as written, in any order, sane or not.
    frozen: Option<Calendar>,
}

impl Rtc {
    /// `unix_seconds` is the time of day at power-on; `ram_bytes` goes into the memory-size bytes firmware would have stored.
    pub fn new(unix_seconds: u64, ram_bytes: u64) -> Self {
        let mut ram = [0u8; 128];
        let above_1m = (ram_bytes.saturating_sub(1 << 20) >> 10).min(0xffff) as u16;
        let above_16m = (ram_bytes.min(0xc000_0000).saturating_sub(16 << 20) >> 16).min(0xffff) as u16;
        ram[0x15..0x17].copy_from_slice(&640u16.to_le_bytes());
        ram[0x17..0x19].copy_from_slice(&above_1m.to_le_bytes());
        ram[0x30..0x32].copy_from_slice(&above_1m.to_le_bytes());
        ram[0x34..0x36].copy_from_slice(&above_16m.to_le_bytes());
        Self { power_on: unix_seconds, base: unix_seconds.wrapping_add(UNIX_EPOCH), index: 0, a: 0x26, b: b::HOURS_24, c: 0, c_read: 0, ram, frozen: None }
    }

    fn calendar(&self, now: Nanos) -> Calendar {
        self.frozen.unwrap_or_else(|| Calendar::from_seconds(self.base.wrapping_add(now / SECOND)))
    }

    fn encode(&self, value: u64) -> u8 {
        let value = value as u8;
        if self.b & b::BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }
    fn decode(&self, value: u8) -> u64 {
        u64::from(if self.b & b::BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xf) })
    }
    fn encode_hours(&self, hours: u64) -> u8 {
        if self.b & b::HOURS_24 != 0 {
            return self.encode(hours);
        }
        let twelve = if hours.is_multiple_of(12) { 12 } else { hours % 12 };
        self.encode(twelve) | if hours >= 12 { 0x80 } else { 0 }
    }
    fn decode_hours(&self, value: u8) -> u64 {
        if self.b & b::HOURS_24 != 0 {
            return self.decode(value);
        }
        self.decode(value & 0x7f) % 12 + if value & 0x80 != 0 { 12 } else { 0 }
    }

    fn interrupt(&mut self, cx: &mut Cx<'_>) {
        let wanted = self.b & self.c & (b::PERIODIC | b::ALARM | b::UPDATE) != 0;
        self.c = self.c & !c::IRQ | if wanted { c::IRQ } else { 0 };
        cx.irq(0, wanted);
    }

    /// The periodic rate in nanoseconds, if one is chosen (data sheet, table 5, 32,768 Hz time base).
    fn period(&self) -> Option<Nanos> {
        let rate = u32::from(self.a & 0xf);
        let shift = match rate {
            0 => return None,
            1 | 2 => rate + 6,
            _ => rate - 1,
        };
        Some((SECOND << shift) / 32_768)
    }

    fn schedule(&mut self, cx: &mut Cx<'_>) {
        match self.period().filter(|_| self.b & b::PERIODIC != 0) {
            Some(period) => cx.at((cx.now() / period + 1).saturating_mul(period), PERIODIC),
            None => cx.cancel(PERIODIC),
        }
        if self.b & (b::ALARM | b::UPDATE) != 0 && self.b & b::SET == 0 {
            cx.at((cx.now() / SECOND + 1).saturating_mul(SECOND), SECONDS);
        } else {
            cx.cancel(SECONDS);
        }
    }

    /// Flags of C that have come up since it was read, those of enabled interrupts among them.
    fn passed(&self, now: Nanos) -> u8 {
        let mut flags = 0;
        if self.period().is_some_and(|period| now / period > self.c_read / period) {
            flags |= c::PERIODIC;
        }
        let (from, to) = (self.c_read / SECOND, now / SECOND);
        if self.b & b::SET == 0 && to > from {
            flags |= c::UPDATE;
            // A day has every time of day.
            let mut seconds = (from + 1).max(to.saturating_sub(86_400))..=to;
            if seconds.any(|second| self.alarm_matches(&Calendar::from_seconds(self.base.wrapping_add(second)))) {
                flags |= c::ALARM;
            }
        }
        flags
    }

    fn alarm_matches(&self, time: &Calendar) -> bool {
        let matches = |stored: u8, value: u8| stored >= 0xc0 || stored == value;
        matches(self.ram[usize::from(index::SECONDS_ALARM)], self.encode(time.second))
            && matches(self.ram[usize::from(index::MINUTES_ALARM)], self.encode(time.minute))
            && matches(self.ram[usize::from(index::HOURS_ALARM)], self.encode_hours(time.hour))
    }

    fn read_data(&mut self, cx: &mut Cx<'_>) -> u8 {
        let now = cx.now();
        let time = self.calendar(now);
        match self.index & 0x7f {
            index::SECONDS => self.encode(time.second),
            index::MINUTES => self.encode(time.minute),
            index::HOURS => self.encode_hours(time.hour),
            index::WEEKDAY => self.encode(time.weekday),
            index::DAY => self.encode(time.day),
            index::MONTH => self.encode(time.month),
            index::YEAR => self.encode(time.year % 100),
            index::CENTURY => self.encode(time.year / 100 % 100),
            index::A => {
                let updating = self.b & b::SET == 0 && now % SECOND >= SECOND - UPDATE_NS;
                self.a | if updating { 0x80 } else { 0 }
            }
            index::B => self.b,
            index::C => {
                let value = self.c | self.passed(now);
                self.c = 0;
                self.c_read = now;
                cx.irq(0, false);
                value
            }
            // Valid RAM and time: the battery is good.
            index::D => 0x80,
            other => self.ram[usize::from(other)],
        }
    }

    fn write_data(&mut self, value: u8, cx: &mut Cx<'_>) {
        let now = cx.now();
        let which = self.index & 0x7f;
        match which {
            index::SECONDS
            | index::MINUTES
            | index::HOURS
            | index::WEEKDAY
            | index::DAY
            | index::MONTH
            | index::YEAR
            | index::CENTURY => {
                let mut time = self.calendar(now);
                match which {
                    index::SECONDS => time.second = self.decode(value),
                    index::MINUTES => time.minute = self.decode(value),
                    index::HOURS => time.hour = self.decode_hours(value),
                    index::DAY => time.day = self.decode(value),
                    index::MONTH => time.month = self.decode(value),
                    index::YEAR => time.year = time.year / 100 * 100 + self.decode(value),
                    index::CENTURY => time.year = time.year % 100 + self.decode(value) * 100,
                    // The weekday follows from the date.
                    _ => {}
                }
                match &mut self.frozen {
                    Some(frozen) => *frozen = time,
                    None => self.base = time.to_seconds().wrapping_sub(now / SECOND),
                }
            }
            index::A => {
                self.a = value & 0x7f;
                self.schedule(cx);
            }
            index::B => {
                let (was_set, set) = (self.b & b::SET != 0, value & b::SET != 0);
                if set && !was_set {
                    self.frozen = Some(self.calendar(now));
                } else if was_set && !set && let Some(time) = self.frozen.take() {
                    self.base = time.to_seconds().wrapping_sub(now / SECOND);
                }
                // SET clears the update-ended enable (data sheet, register B).
                let passed = self.passed(now);
                self.b = if set { value & !b::UPDATE } else { value };
                // An interrupt that is enabled while its flag is up comes at once.
                self.c |= passed & self.b;
                self.schedule(cx);
                self.interrupt(cx);
            }
            // Read-only.
            index::C | index::D => {}
            other => self.ram[usize::from(other)] = value,
        }
    }
}

impl Device for Rtc {
    const KIND: &'static str = "rtc";
    type Reg = Reg;

    fn map(&self, _region: Region) -> &'static RegMap<Reg> {
        &MAP
    }
    fn read(&mut self, reg: Reg, cx: &mut Cx<'_>) -> u64 {
        u64::from(match reg {
            // The index cannot be read back on a PC.
            Reg::Index => 0xff,
            Reg::Data => self.read_data(cx),
        })
    }
    fn write(&mut self, reg: Reg, value: u64, cx: &mut Cx<'_>) {
        match reg {
            Reg::Index => self.index = value as u8,
            Reg::Data => self.write_data(value as u8, cx),
        }
    }
    fn event(&mut self, what: Token, cx: &mut Cx<'_>) {
        match what {
            PERIODIC => self.c |= c::PERIODIC,
            SECONDS => {
                self.c |= c::UPDATE;
                if self.alarm_matches(&self.calendar(cx.now())) {
                    self.c |= c::ALARM;
                }
            }
            _ => {}
        }
        self.schedule(cx);
        self.interrupt(cx);
    }
    fn reset(&mut self, how: Reset, cx: &mut Cx<'_>) {
        if how == Reset::PowerOn {
            self.base = self.power_on.wrapping_add(UNIX_EPOCH);
            self.frozen = None;
        }
        // RESET clears the interrupt enables and flags; time and RAM live on (data sheet, RESET).
        self.b &= !(b::PERIODIC | b::ALARM | b::UPDATE);
        self.c = 0;
        self.schedule(cx);
        cx.irq(0, false);
    }
    fn state(&mut self, fields: &mut dyn Fields) {
        fields.u64("base", &mut self.base);
        fields.u8("index", &mut self.index);
        fields.u8("a", &mut self.a);
        fields.u8("b", &mut self.b);
        fields.u8("c", &mut self.c);
        fields.u64("c_read", &mut self.c_read);
        fields.array("ram", &mut self.ram);
        let mut is_frozen = self.frozen.is_some();
        fields.flag("frozen", &mut is_frozen);
        let mut time = self.frozen.unwrap_or_else(|| Calendar::from_seconds(0));
        for (name, part) in [
            ("year", &mut time.year),
            ("month", &mut time.month),
            ("day", &mut time.day),
            ("hour", &mut time.hour),
            ("minute", &mut time.minute),
            ("second", &mut time.second),
        ] {
            fields.number(name, part, 16);
        }
        self.frozen = is_frozen.then_some(time);
    }
}

/// 1970-01-01 in seconds since the calendar's epoch, 0000-03-01.
const UNIX_EPOCH: u64 = 719_468 * 86_400;

/// A date and time of day in the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Calendar {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    /// 1 is Sunday.
    weekday: u64,
}

impl Calendar {
    fn from_seconds(seconds: u64) -> Self {
        // The chip has four digits of year.
        let seconds = seconds % (10_000 / 400 * 146_097 * 86_400);
        let (shifted, of_day) = (seconds / 86_400, seconds % 86_400);
        // Eras of 400 years that begin on the first of March.
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: of_year - (153 * march_month + 2) / 5 + 1,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            // The epoch was a Wednesday.
            weekday: (shifted + 3) % 7 + 1,
        }
    }

    /// The inverse; values out of range carry.
    fn to_seconds(self) -> u64 {
        let year = (self.year % 10_000 + 10_000 - u64::from(self.month <= 2)) % 10_000;
        let (era, of_era) = (year / 400, year % 400);
        let march_month = (self.month + 9) % 12;
        let of_year = (153 * march_month + 2) / 5 + self.day.max(1) - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
        days * 86_400 + self.hour * 3600 + self.minute * 60 + self.second
    }
}
