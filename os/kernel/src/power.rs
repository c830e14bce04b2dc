//! Ending: power off, reset, and after a panic.

use alloc::boxed::Box;

use drv::acpi::{Address, Tables};
use hal::port::Ports;
use once_cell::race::OnceBox;

/// Port of QEMU's and our machine's debug exit: a 32-bit write of v ends the machine with status `v << 1 | 1`.
const DEBUG_EXIT: u16 = 0xf4;
/// What a panic writes there (status 203).
const PANIC_STATUS: u32 = 101;

static TABLES: OnceBox<Tables> = OnceBox::new();

/// Remembers what the ACPI tables say about power.
pub fn configure(tables: &Tables) {
    assert!(TABLES.set(Box::new(tables.clone())).is_ok(), "power is configured once");
    // Sleep and reset registers work only in ACPI mode; SCI_EN is bit 0 of PM1 control (ACPI 6.5, section 4.8.2.1).
    if let (Some((port, value)), Some((control, _))) = (tables.enable, tables.pm1_control) {
        let control = Ports::claim(control, 2);
        if control.read16(0) & 1 == 0 {
            Ports::claim(port, 1).write8(0, value);
            for _ in 0..100_000 {
                if control.read16(0) & 1 != 0 {
                    break;
                }
            }
        }
    }
}

/// Switches the machine off (ACPI S5), or stops where it cannot be.
pub fn off() -> ! {
    hal::cpu::interrupts_off();
    if let Some(tables) = TABLES.get()
        && let (Some((a, b)), Some((type_a, type_b))) = (tables.pm1_control, tables.soft_off)
    {
        // SLP_TYP in bits 10..12, SLP_EN bit 13.
        Ports::claim(a, 2).write16(0, u16::from(type_a & 7) << 10 | 1 << 13);
        if let Some(b) = b {
            Ports::claim(b, 2).write16(0, u16::from(type_b & 7) << 10 | 1 << 13);
        }
    }
    crate::console::write_emergency(b"the machine can be switched off now\n");
    hal::cpu::halt()
}

/// Resets the machine: the FADT's register, then port 0xcf9, then the keyboard controller.
pub fn reset() -> ! {
    hal::cpu::interrupts_off();
    if let Some((Address::Port(port), value)) = TABLES.get().and_then(|tables| tables.reset) {
        Ports::claim(port, 1).write8(0, value);
    }
    let control = Ports::claim(0xcf9, 1);
    control.write8(0, 2);
    control.write8(0, 6);
    Ports::claim(0x64, 1).write8(0, 0xfe);
    crate::console::write_emergency(b"reset failed\n");
    hal::cpu::halt()
}

/// Stops for ever, interrupts off.
pub fn halt() -> ! {
    hal::cpu::interrupts_off();
    hal::cpu::halt()
}

/// Ends the run where somebody watches the debug-exit port; stops elsewhere, so that the report stays on the screen.
pub fn end_after_panic() -> ! {
    Ports::claim(DEBUG_EXIT, 4).write32(0, PANIC_STATUS);
    hal::cpu::halt()
}
