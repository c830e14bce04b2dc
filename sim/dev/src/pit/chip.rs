//! One 8254 counter, computed from the time it was loaded.

use sim_bus::{Fields, Nanos, SECOND};

/// The PC's timer clock: 14.31818 MHz / 12.
pub(super) const HERTZ: u64 = 1_193_182;

/// Clocks counted `ns` after a load.
fn clocks(ns: Nanos) -> u64 {
    (u128::from(ns) * u128::from(HERTZ) / u128::from(SECOND)) as u64
}

/// The first nanosecond by which `count` clocks have passed.
fn nanos(count: u64) -> Nanos {
    u64::try_from((u128::from(count) * u128::from(SECOND)).div_ceil(u128::from(HERTZ))).unwrap_or(u64::MAX)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Low,
    High,
    Both,
}

#[derive(Clone, Debug)]
pub(super) struct Counter {
    mode: u8,
    access: Access,
    bcd: bool,
    gate: bool,
    /// The programmed count, 1 to 65,536 (10,000 in BCD).
    reload: u64,
    /// When the running count began; `None`: no count yet, or it waits for a gate edge.
    loaded: Option<Nanos>,
    /// Clocks counted before the gate went low (modes 0 and 4 hold).
    held: Option<u64>,
    /// First byte of a two-byte write.
    write_low: Option<u64>,
    read_high_next: bool,
    latched: Option<u64>,
    latched_status: Option<u64>,
    /// Output while no count runs.
    idle_output: bool,
}

impl Counter {
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: 3,
            access: Access::Both,
            bcd: false,
            gate,
            reload: 0x1_0000,
            loaded: None,
            held: None,
            write_low: None,
            read_high_next: false,
            latched: None,
            latched_status: None,
            idle_output: true,
        }
    }

    /// Begins to count anew, as programmed.
    pub(super) fn restart(&mut self, now: Nanos) {
        self.loaded = Some(now);
    }

    pub(super) fn gate(&self) -> bool {
        self.gate
    }

    fn modulus(&self) -> u64 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// A control word for this counter (not read-back).
    pub(super) fn control(&mut self, value: u8, now: Nanos) {
        match value >> 4 & 3 {
            0 => {
                if self.latched.is_none() {
                    self.latched = Some(u64::from(self.count(now)));
                }
                return;
            }
            1 => self.access = Access::Low,
            2 => self.access = Access::High,
            _ => self.access = Access::Both,
        }
        let mode = value >> 1 & 7;
        self.mode = if mode > 5 { mode - 4 } else { mode };
        self.bcd = value & 1 != 0;
        self.loaded = None;
        self.held = None;
        self.write_low = None;
        self.read_high_next = false;
        self.latched = None;
        self.latched_status = None;
        // Mode 0 goes low at the control word; the others idle high.
        self.idle_output = self.mode != 0;
    }

    pub(super) fn read_back(&mut self, value: u8, now: Nanos) {
        // Bits are active low: 5 latches the count, 4 the status.
        if value & 0x10 == 0 && self.latched_status.is_none() {
            let access = match self.access {
                Access::Low => 1,
                Access::High => 2,
                Access::Both => 3,
            };
            let null_count = self.loaded.is_none() && self.held.is_none();
            self.latched_status = Some(
                u64::from(self.output(now)) << 7 | u64::from(null_count) << 6 | access << 4 | u64::from(self.mode) << 1 | u64::from(self.bcd),
            );
        }
        if value & 0x20 == 0 && self.latched.is_none() {
            self.latched = Some(u64::from(self.count(now)));
        }
    }

    pub(super) fn write(&mut self, value: u8, now: Nanos) {
        let count = match self.access {
            Access::Low => u64::from(value),
            Access::High => u64::from(value) << 8,
            Access::Both => match self.write_low.take() {
                None => {
                    self.write_low = Some(u64::from(value));
                    if self.mode == 0 {
                        // The first byte stops the count (data sheet, mode 0).
                        self.loaded = None;
                        self.held = None;
                        self.idle_output = false;
                    }
                    return;
                }
                Some(low) => low | u64::from(value) << 8,
            },
        };
        let count = if self.bcd { from_bcd(count) } else { count };
        self.reload = if count == 0 { self.modulus() } else { count };
        match self.mode {
            // These start at a gate edge.
            1 | 5 => {}
            _ => {
                self.held = None;
                if self.gate {
                    self.loaded = Some(now);
                } else {
                    self.loaded = None;
                    self.held = Some(0);
                }
            }
        }
    }

    pub(super) fn set_gate(&mut self, gate: bool, now: Nanos) {
        let (rose, fell) = (gate && !self.gate, !gate && self.gate);
        self.gate = gate;
        match self.mode {
            0 | 4 => {
                if fell {
                    self.held = self.loaded.map(|loaded| clocks(now.saturating_sub(loaded)));
                    self.loaded = None;
                } else if rose && let Some(done) = self.held.take() {
                    self.loaded = Some(now.saturating_sub(nanos(done)));
                }
            }
            1 | 5 => {
                if rose {
                    self.loaded = Some(now);
                }
            }
            _ => {
                // Low stops the count with the output high; the edge starts it anew.
                if fell {
                    self.held = self.loaded.map(|_| 0);
                    self.loaded = None;
                    self.idle_output = true;
                } else if rose && self.held.take().is_some() {
                    self.loaded = Some(now);
                }
            }
        }
    }

    fn elapsed(&self, now: Nanos) -> Option<u64> {
        self.held.or(self.loaded.map(|loaded| clocks(now.saturating_sub(loaded))))
    }

    fn count(&self, now: Nanos) -> u16 {
        let Some(done) = self.elapsed(now) else {
            return self.encode(self.reload % self.modulus());
        };
        let value = match self.mode {
            2 => self.reload - done % self.reload,
            // Counts by two, twice a period.
            3 => {
                let half = done % self.reload * 2 % self.reload;
                (self.reload - half) & !1
            }
            // Wraps around through the modulus.
            _ => (self.reload % self.modulus() + self.modulus() - done % self.modulus()) % self.modulus(),
        };
        self.encode(value % self.modulus())
    }

    fn encode(&self, value: u64) -> u16 {
        if self.bcd { to_bcd(value) } else { value as u16 }
    }

    pub(super) fn output(&self, now: Nanos) -> bool {
        let Some(done) = self.elapsed(now) else { return self.idle_output };
        match self.mode {
            0 | 1 => done >= self.reload,
            // Low during the last clock of the period.
            2 => done % self.reload != self.reload - 1 || self.reload == 1,
            3 => done % self.reload < self.reload.div_ceil(2),
            // Low for one clock at the end.
            _ => done != self.reload,
        }
    }

    /// When the output changes next, if it will by itself.
    pub(super) fn next_change(&self, now: Nanos) -> Option<Nanos> {
        let loaded = self.loaded?;
        let done = clocks(now.saturating_sub(loaded));
        let at = match self.mode {
            0 | 1 => (done < self.reload).then_some(self.reload),
            // One look a period: at the rise that ends the low clock.
            2 => Some((done / self.reload + 1) * self.reload),
            3 => {
                let start = done - done % self.reload;
                let middle = start + self.reload.div_ceil(2);
                Some(if done < middle { middle } else { start + self.reload })
            }
            _ => (done <= self.reload).then_some(self.reload + 1),
        };
        at.map(|count| loaded.saturating_add(nanos(count)))
    }

    /// Whether a low pulse has just ended: the event of modes 2, 4 and 5.
    pub(super) fn pulsed(&self, now: Nanos) -> bool {
        matches!(self.mode, 2 | 4 | 5) && self.loaded.is_some() && self.output(now)
    }

    pub(super) fn read(&mut self, now: Nanos) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status as u8;
        }
        let count = match self.latched {
            Some(latched) => latched as u16,
            None => self.count(now),
        };
        let (byte, done) = match self.access {
            Access::Low => (count as u8, true),
            Access::High => ((count >> 8) as u8, true),
            Access::Both => {
                self.read_high_next = !self.read_high_next;
                if self.read_high_next { (count as u8, false) } else { ((count >> 8) as u8, true) }
            }
        };
        if done {
            self.latched = None;
        }
        byte
    }

    pub(super) fn state(&mut self, fields: &mut dyn Fields) {
        fields.u8("mode", &mut self.mode);
        self.mode = self.mode.min(5);
        let mut access = self.access as u8;
        fields.u8("access", &mut access);
        self.access = match access {
            0 => Access::Low,
            1 => Access::High,
            _ => Access::Both,
        };
        fields.flag("bcd", &mut self.bcd);
        fields.flag("gate", &mut self.gate);
        fields.u64("reload", &mut self.reload);
        if !(1..=0x1_0000).contains(&self.reload) {
            fields.refuse("reload");
            self.reload = 0x1_0000;
        }
        fields.option("loaded", &mut self.loaded);
        fields.option("held", &mut self.held);
        fields.option("write_low", &mut self.write_low);
        fields.flag("read_high_next", &mut self.read_high_next);
        fields.option("latched", &mut self.latched);
        fields.option("latched_status", &mut self.latched_status);
        fields.flag("idle_output", &mut self.idle_output);
    }
}

fn from_bcd(value: u64) -> u64 {
    (0..4).map(|digit| (value >> (4 * digit) & 0xf).min(9) * 10u64.pow(digit)).sum()
}

fn to_bcd(value: u64) -> u16 {
    (0..4).map(|digit| ((value / 10u64.pow(digit) % 10) as u16) << (4 * digit)).sum()
}
