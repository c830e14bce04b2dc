//! The panic path: nothing here takes a lock or allocates.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::{console, power};

/// Writes straight to the console's transmitter.
struct Emergency;

impl Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        console::write_emergency(text.as_bytes());
        Ok(())
    }
}

static PANICKED: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hal::cpu::interrupts_off();
    // A panic while reporting one: the machine is beyond reports.
    if PANICKED.swap(true, Ordering::AcqRel) {
        console::write_emergency(b"\npanic while panicking\n");
        power::end_after_panic();
    }
    if report(info).is_err() {
        console::write_emergency(b"\npanic report failed\n");
    }
    power::end_after_panic();
}

fn report(info: &core::panic::PanicInfo<'_>) -> fmt::Result {
    let mut out = Emergency;
    writeln!(out, "\npanic: {}", info.message())?;
    if let Some(place) = info.location() {
        writeln!(out, "at {place}, thread {} ({})", hal::thread::current_id().0, crate::threads::CurrentName)?;
    }
    hal::symbols::report(&mut out)?;
    writeln!(out, "end of panic")
}
