//! The clock: TSC, calibrated at start-up against a timer of known frequency; wall-clock time from the RTC.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kif::{Clock, Nanos};

use crate::cpu;
use crate::paging::Registers;
use crate::port::Ports;

/// Length of one measurement of the calibration.
const WINDOW_NS: u64 = 2_000_000;
/// Measurements, of which the median counts: a hypervisor that is not scheduled for a moment between a counter and its time stamp spoils one or two.
const WINDOWS: usize = 5;

static START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per cycle, 32 binary places; 0 = not calibrated.
static SCALE: AtomicU64 = AtomicU64::new(0);
static FREQUENCY: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds since 1970 at monotonic 0.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// A counter of known frequency to calibrate against.
#[allow(missing_debug_implementations, reason = "device handles")]
pub enum Reference<'r> {
    /// ACPI PM timer: 24 bits at 3.579545 MHz (ACPI 6.5, section 4.8.2.1).
    PmTimer(&'r Ports),
    /// HPET: registers and femtoseconds per tick (IA-PC HPET 1.0a, section 2.3).
    Hpet(&'r Registers, u64),
    /// 8254 channel 2 through port 0x61.
    Pit,
}

/// How the TSC frequency was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// CPUID leaf 0x15 (Intel SDM vol. 3, section 19.7.3).
    Cpuid,
    PmTimer,
    Hpet,
    Pit,
}

/// Finds the frequency of the TSC and starts the clock.
pub fn calibrate(reference: &Reference<'_>) -> (Source, u64) {
    let [denominator, numerator, crystal, _] = cpu::cpuid(0x15, 0);
    let (source, hz) = if denominator != 0 && numerator != 0 && crystal != 0 {
        (Source::Cpuid, u64::from(crystal) * u64::from(numerator) / u64::from(denominator))
    } else {
        match reference {
            Reference::PmTimer(ports) => (Source::PmTimer, median(|| against(3_579_545, 0xff_ffff, || u64::from(ports.read32(0))))),
            Reference::Hpet(registers, femtoseconds) => {
                // Main counter on.
                registers.write32(0x10, registers.read32(0x10) | 1);
                let hz = 1_000_000_000_000_000 / (*femtoseconds).max(1);
                (Source::Hpet, median(|| against(hz, 0xffff_ffff, || u64::from(registers.read32(0xf0)))))
            }
            Reference::Pit => (Source::Pit, median(against_pit)),
        }
    };
    let hz = hz.max(1);
    FREQUENCY.store(hz, Relaxed);
    START.store(cpu::timestamp(), Relaxed);
    let scale = (1_000_000_000_u128 << 32) / u128::from(hz);
    SCALE.store(u64::try_from(scale).unwrap_or(u64::MAX), Relaxed);
    (source, hz)
}

fn median(mut measure: impl FnMut() -> u64) -> u64 {
    let mut found = [0; WINDOWS];
    for slot in &mut found {
        *slot = measure();
    }
    found.sort_unstable();
    found[WINDOWS / 2]
}

/// Counts cycles between two edges of a counter, [`WINDOW_NS`] apart.
fn against(hz: u64, mask: u64, read: impl Fn() -> u64) -> u64 {
    let flags = cpu::interrupts_off();
    let edge = |from: u64| {
        // A counter that stands still must not hang the boot: 10^7 reads are longer than any of its ticks.
        for _ in 0..10_000_000 {
            let now = read();
            if now != from {
                return (now, cpu::timestamp());
            }
        }
        (from, cpu::timestamp())
    };
    let (first, start) = edge(read());
    let wanted = WINDOW_NS * hz / 1_000_000_000;
    let mut now = first;
    let mut end = start;
    while now.wrapping_sub(first) & mask < wanted {
        let before = now;
        (now, end) = edge(now);
        if now == before {
            break;
        }
    }
    if flags & cpu::IF != 0 {
        cpu::interrupts_on();
    }
    let ticks = now.wrapping_sub(first) & mask;
    if ticks == 0 {
        return 1_000_000_000;
    }
    u64::try_from(u128::from(end - start) * u128::from(hz) / u128::from(ticks)).unwrap_or(u64::MAX)
}

/// 8254 channel 2, mode 0 (8254 data sheet): counts down once; OUT2 is bit 5 of port 0x61.
fn against_pit() -> u64 {
    let pit = Ports::claim(0x40, 4);
    let gate = Ports::claim(0x61, 1);
    let count = 1_193_182 * WINDOW_NS / 1_000_000_000;
    let flags = cpu::interrupts_off();
    gate.write8(0, gate.read8(0) & !3 | 1);
    pit.write8(3, 0xb0);
    let bytes = count.to_le_bytes();
    pit.write8(2, bytes[0]);
    pit.write8(2, bytes[1]);
    let start = cpu::timestamp();
    let mut polls = 0_u32;
    while gate.read8(0) & 0x20 == 0 && polls < 10_000_000 {
        polls += 1;
    }
    let cycles = cpu::timestamp() - start;
    if flags & cpu::IF != 0 {
        cpu::interrupts_on();
    }
    u64::try_from(u128::from(cycles) * 1_193_182 / u128::from(count)).unwrap_or(u64::MAX)
}

/// Cycles to nanoseconds.
#[must_use]
pub fn cycles_to_nanos(cycles: u64) -> Nanos {
    let nanos = (u128::from(cycles) * u128::from(SCALE.load(Relaxed))) >> 32;
    Nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The TSC value at a monotonic time, rounded up.
pub(crate) fn timestamp_at(time: Nanos) -> u64 {
    let hz = FREQUENCY.load(Relaxed);
    let cycles = (u128::from(time.0) * u128::from(hz)).div_ceil(1_000_000_000) + 1;
    START.load(Relaxed).saturating_add(u64::try_from(cycles).unwrap_or(u64::MAX))
}

/// Cycles per second.
pub fn frequency() -> u64 {
    FREQUENCY.load(Relaxed)
}

/// Says what time it is: seconds since 1970, now.
pub fn set_wall_clock(seconds: u64) {
    EPOCH.store(seconds.saturating_mul(1_000_000_000).saturating_sub(HalClock.monotonic().0), Relaxed);
}

/// The clocks; see [`Clock`].
#[derive(Clone, Copy, Debug)]
pub struct HalClock;

impl Clock for HalClock {
    fn monotonic(&self) -> Nanos {
        cycles_to_nanos(cpu::timestamp().wrapping_sub(START.load(Relaxed)))
    }
    fn realtime(&self) -> Nanos {
        Nanos(EPOCH.load(Relaxed)).plus(self.monotonic())
    }
}
