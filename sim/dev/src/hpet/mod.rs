//! High-precision event timer: three comparators over a 64-bit counter at 0xfed00000.
//!
//! # Theory
//! IA-PC HPET specification 1.0a. The counter runs at 100 MHz (period 10,000,000 fs) and is computed from virtual time; each armed
//! comparator has one event. Timer 0 is periodic-capable. With legacy replacement timer 0 drives IRQ 0 and timer 1 IRQ 8; otherwise each
//! timer drives the I/O APIC input its configuration names, or sends an FSB message.
//!
//! # Structures
//! Pins 0 to 31 are I/O APIC inputs; pin 32 shows legacy replacement (the board disconnects PIT and RTC while it is high), pins 33 and 34 are
//! the replaced IRQ 0 and IRQ 8.
//!
//! # Limits
//! 64-bit registers may be accessed in halves; the halves of a comparator written separately act one after the other.

#[cfg(test)]
mod tests;

use sim_bus::{Access, Cx, Fields, Nanos, Node, Region, Reset, Token};

/// Where the registers are.
pub const BASE: u64 = 0xfed0_0000;
/// Nanoseconds per count.
const PERIOD_NS: u64 = 10;
const TIMERS: usize = 3;
/// Counts of the shortest period at which no interrupt is lost: what the board's ACPI table must say (§3.2.4).
pub const SHORTEST: u64 = 100;

/// High while timers 0 and 1 replace PIT and RTC.
pub const PIN_LEGACY: u8 = 32;
pub const PIN_LEGACY_IRQ0: u8 = 33;
pub const PIN_LEGACY_IRQ8: u8 = 34;

/// I/O APIC inputs a comparator may use: 8 to 23 without those ISA devices hold; 2 stands for the legacy one.
const ROUTES: u64 = 0x00f0_0f04;

mod config {
    pub const ENABLE: u64 = 1 << 0;
    pub const LEGACY: u64 = 1 << 1;
}
mod timer {
    pub const LEVEL: u64 = 1 << 1;
    pub const ENABLED: u64 = 1 << 2;
    pub const PERIODIC: u64 = 1 << 3;
    pub const CAN_PERIODIC: u64 = 1 << 4;
    pub const IS_64: u64 = 1 << 5;
    pub const SET_VALUE: u64 = 1 << 6;
    pub const MODE_32: u64 = 1 << 8;
    pub const FSB: u64 = 1 << 14;
    pub const CAN_FSB: u64 = 1 << 15;
    pub const WRITABLE: u64 = 0x7f4e;
}

#[derive(Clone, Copy, Debug)]
struct Comparator {
    config: u64,
    value: u64,
    period: u64,
    fsb: u64,
    /// The next write to the comparator sets the accumulator and not the period.
    set_value: bool,
}

impl Default for Comparator {
    fn default() -> Self {
        // Comparators come up with all bits set (§2.3.9).
        Self { config: 0, value: u64::MAX, period: 0, fsb: 0, set_value: false }
    }
}

/// The timer block.
#[derive(Clone, Debug, Default)]
pub struct Hpet {
    config: u64,
    status: u64,
    /// Counter value at `started` (while running) or now (while halted).
    count: u64,
    started: Nanos,
    timers: [Comparator; TIMERS],
}

impl Hpet {
    fn running(&self) -> bool {
        self.config & config::ENABLE != 0
    }
    fn counter(&self, now: Nanos) -> u64 {
        if self.running() { self.count.wrapping_add((now - self.started.min(now)) / PERIOD_NS) } else { self.count }
    }
    fn legacy(&self) -> bool {
        self.config & config::LEGACY != 0
    }

    fn mask(&self, index: usize) -> u64 {
        if self.timers[index].config & timer::MODE_32 != 0 { 0xffff_ffff } else { u64::MAX }
    }

    /// Asks for the event of a comparator, or withdraws it.
    fn arm(&mut self, index: usize, cx: &mut Cx<'_>) {
        let token = Token(index as u16);
        if !self.running() {
            cx.cancel(token);
            return;
        }
        let counter = self.counter(cx.now());
        let mask = self.mask(index);
        // The match is on equality: a value just passed comes around after a whole turn.
        let left = self.timers[index].value.wrapping_sub(counter) & mask;
        let left = if left == 0 { mask.checked_add(1) } else { Some(left) };
        let wait = left.and_then(|left| left.checked_mul(PERIOD_NS)).and_then(|ns| {
            let aligned = self.started.saturating_add((counter.wrapping_sub(self.count)).saturating_mul(PERIOD_NS));
            aligned.checked_add(ns)
        });
        match wait {
            Some(at) => cx.at(at, token),
            None => cx.cancel(token),
        }
    }

    /// The pin of a timer.
    fn pin(&self, index: usize) -> u8 {
        match (self.legacy(), index) {
            (true, 0) => PIN_LEGACY_IRQ0,
            (true, 1) => PIN_LEGACY_IRQ8,
            _ => (self.timers[index].config >> 9 & 0x1f) as u8,
        }
    }

    /// Level interrupts that are up, before their pins may change.
    fn lower(&self, cx: &mut Cx<'_>) {
        (0..TIMERS).filter(|index| self.holds(*index)).for_each(|index| cx.irq(self.pin(index), false));
    }

    /// And after.
    fn raise(&self, cx: &mut Cx<'_>) {
        (0..TIMERS).filter(|index| self.holds(*index)).for_each(|index| cx.irq(self.pin(index), true));
    }

    fn holds(&self, index: usize) -> bool {
        let one = &self.timers[index];
        self.status >> index & 1 != 0 && one.config & timer::ENABLED != 0 && (one.config & timer::FSB == 0 || self.legacy() && index < 2)
    }

    fn fire(&mut self, index: usize, cx: &mut Cx<'_>) {
        let one = self.timers[index];
        if one.config & timer::LEVEL != 0 {
            self.status |= 1 << index;
        }
        if one.config & timer::ENABLED == 0 {
            return;
        }
        if one.config & timer::FSB != 0 && !(self.legacy() && index < 2) {
            cx.msi(one.fsb >> 32, one.fsb as u32);
        } else if one.config & timer::LEVEL != 0 {
            cx.irq(self.pin(index), true);
        } else if self.legacy() && index < 2 {
            // To the 8259 a request that falls before it is acknowledged is none: the line stays up until the next.
            cx.irq(self.pin(index), false);
            cx.irq(self.pin(index), true);
        } else {
            cx.irq(self.pin(index), true);
            cx.irq(self.pin(index), false);
        }
    }

    /// Writes to a comparator, or to the half that `lanes` names. What is written last is the period; in periodic mode it is the next match, too, only
    /// where software has asked for that.
    fn write_comparator(&mut self, index: usize, value: u64, lanes: u64, cx: &mut Cx<'_>) {
        let mask = self.mask(index);
        let one = &mut self.timers[index];
        let put = |old: u64| (old & !lanes | value & lanes) & mask;
        if one.config & timer::PERIODIC == 0 || std::mem::take(&mut one.set_value) {
            one.value = put(one.value);
        }
        one.period = put(one.period);
        self.arm(index, cx);
    }

    fn capabilities() -> u64 {
        // Period in femtoseconds, vendor 8086, legacy capable, 64 bits, last timer, revision 1.
        (PERIOD_NS * 1_000_000) << 32 | 0x8086 << 16 | 1 << 15 | 1 << 13 | (TIMERS as u64 - 1) << 8 | 1
    }

    fn read64(&self, offset: u64, now: Nanos) -> Option<u64> {
        Some(match offset {
            0x000 => Self::capabilities(),
            0x010 => self.config,
            0x020 => self.status,
            0x0f0 => self.counter(now),
            0x100..=0x15f => {
                let index = (offset - 0x100) as usize / 0x20;
                let one = self.timers.get(index)?;
                match offset & 0x18 {
                    0x00 => {
                        let periodic = if index == 0 { timer::CAN_PERIODIC } else { 0 };
                        one.config | ROUTES << 32 | timer::IS_64 | timer::CAN_FSB | periodic
                    }
                    0x08 => one.value,
                    0x10 => one.fsb,
                    _ => return None,
                }
            }
            _ => return None,
        })
    }

    /// Writes a whole register. `false`: there is none.
    fn write64(&mut self, offset: u64, value: u64, cx: &mut Cx<'_>) -> bool {
        let now = cx.now();
        match offset {
            0x000 => {}
            0x010 => {
                let was = self.running();
                let count = self.counter(now);
                let was_legacy = self.legacy();
                self.lower(cx);
                self.config = value & (config::ENABLE | config::LEGACY);
                if was_legacy != self.legacy() {
                    // Before what is up is shown: who drives IRQ 0 and 8 changes, and the lines begin low.
                    cx.irq(PIN_LEGACY, self.legacy());
                }
                self.raise(cx);
                if was != self.running() {
                    self.count = count;
                    self.started = now;
                    for index in 0..TIMERS {
                        self.arm(index, cx);
                    }
                }
            }
            0x020 => {
                for index in 0..TIMERS {
                    if value >> index & 1 != 0 && self.status >> index & 1 != 0 {
                        self.status &= !(1 << index);
                        cx.irq(self.pin(index), false);
                    }
                }
            }
            0x0f0 => {
                // Undefined while running; it takes effect here.
                self.count = value;
                self.started = now;
                for index in 0..TIMERS {
                    self.arm(index, cx);
                }
            }
            0x100..=0x15f => {
                let index = (offset - 0x100) as usize / 0x20;
                match offset & 0x18 {
                    0x00 => {
                        let mut wanted = value & timer::WRITABLE;
                        if index != 0 {
                            wanted &= !(timer::PERIODIC | timer::SET_VALUE);
                        }
                        // A route that is not offered is not taken.
                        if ROUTES >> (wanted >> 9 & 0x1f) & 1 == 0 {
                            wanted = wanted & !0x3e00 | self.timers[index].config & 0x3e00;
                        }
                        self.lower(cx);
                        if wanted & timer::LEVEL == 0 || wanted & timer::ENABLED == 0 {
                            self.status &= !(1 << index);
                        }
                        if self.legacy() && index < 2 && (wanted & timer::LEVEL != 0 || wanted & timer::ENABLED == 0) {
                            // Where an edge has left it up.
                            cx.irq(self.pin(index), false);
                        }
                        let one = &mut self.timers[index];
                        one.set_value = wanted & timer::SET_VALUE != 0;
                        one.config = wanted & !timer::SET_VALUE;
                        if one.config & timer::MODE_32 != 0 {
                            one.value &= 0xffff_ffff;
                            one.period &= 0xffff_ffff;
                        }
                        self.raise(cx);
                        self.arm(index, cx);
                    }
                    0x08 => self.write_comparator(index, value, u64::MAX, cx),
                    0x10 => self.timers[index].fsb = value,
                    _ => return false,
                }
            }
            _ => return false,
        }
        true
    }
}

impl Node for Hpet {
    fn kind(&self) -> &'static str {
        "hpet"
    }

    fn read(&mut self, region: Region, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        let aligned = (size == 4 && offset & 3 == 0) || (size == 8 && offset & 7 == 0);
        match self.read64(offset & !7, cx.now()).filter(|_| aligned) {
            Some(value) if size == 8 => value,
            Some(value) => value >> (8 * (offset & 4)) & 0xffff_ffff,
            None => {
                cx.unimplemented(Access::read(region, offset, size));
                0
            }
        }
    }

    fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        let aligned = (size == 4 && offset & 3 == 0) || (size == 8 && offset & 7 == 0);
        let whole = match (size, self.read64(offset & !7, cx.now()).filter(|_| aligned)) {
            (_, None) => None,
            (8, Some(_)) => Some(value),
            // The status register is write-one-to-clear: the other half must not clear.
            (_, Some(_)) if offset & !7 == 0x20 => Some(value << (8 * (offset & 4))),
            // Of a comparator there are two, of which only one reads.
            (_, Some(_)) if offset >= 0x100 && offset & 0x18 == 0x08 => {
                let shift = 8 * (offset & 4);
                self.write_comparator((offset - 0x100) as usize / 0x20, value << shift, 0xffff_ffff << shift, cx);
                return;
            }
            (_, Some(old)) => {
                let shift = 8 * (offset & 4);
                Some(old & !(0xffff_ffff << shift) | value << shift)
            }
        };
        if !whole.is_some_and(|whole| self.write64(offset & !7, whole, cx)) {
            cx.unimplemented(Access::write(region, offset, size, value));
        }
    }

    fn event(&mut self, what: Token, cx: &mut Cx<'_>) {
        let index = usize::from(what.0);
        if index >= TIMERS || !self.running() {
            return;
        }
        let mask = self.mask(index);
        let counter = self.counter(cx.now());
        let one = &mut self.timers[index];
        if one.config & timer::PERIODIC != 0 && one.period != 0 {
            // A period shorter than a tick would match again at once: skip to the next match after now, and where the period is shorter than what the
            // ACPI table names as the shortest, so many as that takes (interrupts are lost then, the table says).
            let behind = counter.wrapping_sub(one.value) & mask;
            let steps = behind / one.period + SHORTEST.div_ceil(one.period);
            one.value = one.value.wrapping_add(one.period.wrapping_mul(steps)) & mask;
        }
        self.arm(index, cx);
        self.fire(index, cx);
    }

    fn input(&mut self, _cx: &mut Cx<'_>) {}

    fn reset(&mut self, _how: Reset, cx: &mut Cx<'_>) {
        for index in 0..TIMERS {
            cx.irq(self.pin(index), false);
            cx.cancel(Token(index as u16));
        }
        cx.irq(PIN_LEGACY, false);
        *self = Self::default();
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        fields.u64("config", &mut self.config);
        fields.u64("status", &mut self.status);
        fields.u64("count", &mut self.count);
        fields.u64("started", &mut self.started);
        for one in &mut self.timers {
            fields.u64("timer_config", &mut one.config);
            fields.u64("value", &mut one.value);
            fields.u64("period", &mut one.period);
            fields.u64("fsb", &mut one.fsb);
            fields.flag("set_value", &mut one.set_value);
        }
    }
}
