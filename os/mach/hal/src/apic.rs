//! Interrupt controllers: local APIC with its timer, IOAPIC; the 8259 is masked.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use kif::{Clock, Nanos, OutOfMemory};
use once_cell::race::OnceBox;
use sync::{Class, SpinLock};

use crate::paging::{Registers, map_device};
use crate::port::Ports;
use crate::time::{self, HalClock};
use crate::trap::{SPURIOUS, TIMER};
use crate::cpu;

/// Registers of the local APIC (APM vol. 2, table 16-2).
const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS_VECTOR: u32 = 0xf0;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;
const MASKED: u32 = 1 << 16;
const TSC_DEADLINE_MODE: u32 = 2 << 17;

const APIC_BASE: u32 = 0x1b;
const TSC_DEADLINE: u32 = 0x6e0;
/// MSR of x2APIC register 0 (Intel SDM vol. 3, table 11-6).
const X2APIC: u32 = 0x800;

/// Where the registers are: memory, or MSRs if the firmware left x2APIC on.
static LAPIC: OnceBox<Registers> = OnceBox::new();
static BY_MSR: AtomicBool = AtomicBool::new(false);
/// Counts of the timer per second, 0: TSC deadline.
static TIMER_HZ: AtomicU64 = AtomicU64::new(0);

fn read(register: u32) -> u32 {
    if BY_MSR.load(Relaxed) {
        // SAFETY: x2APIC is on, and the registers used here exist in it.
        let value = unsafe { cpu::read_msr(X2APIC + (register >> 4)) };
        return u32::try_from(value & 0xffff_ffff).expect("32 bits");
    }
    LAPIC.get().map_or(0, |registers| registers.read32(u64::from(register)))
}

fn write(register: u32, value: u32) {
    if BY_MSR.load(Relaxed) {
        // SAFETY: as in `read`.
        unsafe { cpu::write_msr(X2APIC + (register >> 4), value.into()) };
    } else if let Some(registers) = LAPIC.get() {
        registers.write32(u64::from(register), value);
    }
}

pub(crate) fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Identity of this CPU's local APIC.
#[must_use]
pub fn local_id() -> u32 {
    let id = read(ID);
    if BY_MSR.load(Relaxed) { id } else { id >> 24 }
}

/// Masks the 8259 pair, maps and turns on the local APIC (at `physical` unless the CPU says otherwise), prepares its timer. The clock must
/// be calibrated.
///
/// # Errors
/// No memory to map it.
pub fn init_local(physical: u64) -> Result<(), OutOfMemory> {
    // ICW1..4 with vectors 0x20..0x2f, so that a spurious interrupt is no exception, then all masked (8259A data sheet).
    for (base, vector, wiring) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
        let pic = Ports::claim(base, 2);
        pic.write8(0, 0x11);
        pic.write8(1, vector);
        pic.write8(1, wiring);
        pic.write8(1, 1);
        pic.write8(1, 0xff);
    }
    // SAFETY: every x86-64 CPU has this MSR.
    let base = unsafe { cpu::read_msr(APIC_BASE) };
    if base & 1 << 10 != 0 {
        BY_MSR.store(true, Relaxed);
    } else {
        // SAFETY: sets the enable bit, keeps the rest.
        unsafe { cpu::write_msr(APIC_BASE, base | 1 << 11) };
        let registers = map_device(if physical == 0 { base & 0xf_ffff_f000 } else { physical }, 0x400)?;
        if LAPIC.set(alloc::boxed::Box::new(registers)).is_err() {}
    }
    write(TASK_PRIORITY, 0);
    write(LVT_LINT0, MASKED);
    // NMI on LINT1.
    write(LVT_LINT1, 4 << 8);
    write(SPURIOUS_VECTOR, 0x100 | u32::from(SPURIOUS));
    if cpu::features().tsc_deadline {
        write(LVT_TIMER, TSC_DEADLINE_MODE | u32::from(TIMER));
    } else {
        // Divide by 16; counted over a millisecond of the clock.
        write(DIVIDE, 3);
        write(LVT_TIMER, MASKED | u32::from(TIMER));
        let flags = cpu::interrupts_off();
        write(INITIAL_COUNT, u32::MAX);
        let start = HalClock.monotonic();
        let mut now = start;
        while now.since(start).0 < 1_000_000 {
            now = HalClock.monotonic();
        }
        let counts = u64::from(u32::MAX - read(CURRENT_COUNT));
        write(INITIAL_COUNT, 0);
        if flags & cpu::IF != 0 {
            cpu::interrupts_on();
        }
        TIMER_HZ.store((counts * 1_000_000_000 / now.since(start).0.max(1)).max(1), Relaxed);
        write(LVT_TIMER, u32::from(TIMER));
    }
    Ok(())
}

/// Makes the timer fire at a monotonic time (once); `None` stops it. It may fire early where its counter is too short.
pub fn set_timer(deadline: Option<Nanos>) {
    let hz = TIMER_HZ.load(Relaxed);
    if hz == 0 {
        let value = deadline.map_or(0, time::timestamp_at);
        // SAFETY: the MSR exists where CPUID reports TSC-deadline mode, which is why `hz` is 0.
        unsafe { cpu::write_msr(TSC_DEADLINE, value) };
        return;
    }
    let count = deadline.map_or(0, |deadline| {
        let left = deadline.since(HalClock.monotonic());
        let counts = (u128::from(left.0) * u128::from(hz)).div_ceil(1_000_000_000);
        u32::try_from(counts.max(1)).unwrap_or(u32::MAX)
    });
    write(INITIAL_COUNT, count);
}

// ---- IOAPIC ----------------------------------------------------------------------------------------------------------------------

struct IoApic {
    first: u32,
    pins: u32,
    registers: Registers,
}

static IO_APICS: SpinLock<Vec<IoApic>> = SpinLock::new(Class::KernelMap, Vec::new());

impl IoApic {
    fn read(&self, index: u32) -> u32 {
        self.registers.write32(0, index);
        self.registers.read32(0x10)
    }
    fn write(&self, index: u32, value: u32) {
        self.registers.write32(0, index);
        self.registers.write32(0x10, value);
    }
}

/// Maps an IOAPIC whose first pin is global interrupt `first`, and masks all its pins (82093AA data sheet).
///
/// # Errors
/// No memory to map it.
pub fn add_io_apic(physical: u64, first: u32) -> Result<(), OutOfMemory> {
    let registers = map_device(physical, 0x20)?;
    let mut apic = IoApic { first, pins: 0, registers };
    apic.pins = (apic.read(1) >> 16 & 0xff) + 1;
    for pin in 0..apic.pins {
        apic.write(0x10 + 2 * pin, MASKED);
        apic.write(0x11 + 2 * pin, 0);
    }
    IO_APICS.lock().push(apic);
    Ok(())
}

/// Routes a global interrupt to this CPU. False if no IOAPIC has it.
pub fn route(global: u32, vector: u8, active_low: bool, level: bool) -> bool {
    let target = local_id();
    let apics = IO_APICS.lock();
    let Some(apic) = apics.iter().find(|apic| (apic.first..apic.first + apic.pins).contains(&global)) else { return false };
    let pin = global - apic.first;
    apic.write(0x11 + 2 * pin, target << 24);
    let flags = u32::from(active_low) << 13 | u32::from(level) << 15;
    apic.write(0x10 + 2 * pin, u32::from(vector) | flags);
    true
}
