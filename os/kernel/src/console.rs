//! Serial lines and the kernel log.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use drv::uart::{Line, Registers, Uart};
use hal::port::Ports;
use kif::{Clock, Log};
use sync::{Class, SpinLock};

/// A 16550 behind eight ports.
pub struct PortRegisters(Ports);

impl Registers for PortRegisters {
    fn read(&self, register: u16) -> u8 {
        self.0.read8(register)
    }
    fn write(&self, register: u16, value: u8) {
        self.0.write8(register, value);
    }
}

/// A serial line: its chip, its legacy interrupt, its name.
pub struct Serial {
    pub uart: Uart<PortRegisters>,
    pub irq: u8,
    pub name: &'static str,
}

/// COM1: console. COM2: agent.
pub static LINES: [Serial; 2] = [
    Serial { uart: Uart::new(PortRegisters(Ports::claim(0x3f8, 8))), irq: 4, name: "ttyS0" },
    Serial { uart: Uart::new(PortRegisters(Ports::claim(0x2f8, 8))), irq: 3, name: "ttyS1" },
];

/// Sets the console line up; the first thing the kernel does.
pub fn init() {
    LINES[0].uart.init();
}

/// Writes to the console without any lock.
pub fn write_emergency(text: &[u8]) {
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(body) => {
                LINES[0].uart.write_emergency(body);
                LINES[0].uart.write_emergency(b"\r\n");
            }
            None => LINES[0].uart.write_emergency(line),
        }
    }
}

// ---- the log -------------------------------------------------------------------------------------------------------------------

/// Bytes of the log ring, and of the longest line.
const RING: usize = 64 * 1024;
const LINE: usize = 400;

struct Ring {
    bytes: [u8; RING],
    /// Bytes ever written; the ring holds the last `RING` of them.
    written: u64,
}

/// The kernel log; see [`Log`].
pub struct KernelLog {
    ring: SpinLock<Ring>,
    quiet: AtomicBool,
}

/// A line being formatted: what does not fit is dropped, with a mark.
struct Buffer {
    bytes: [u8; LINE],
    len: usize,
}

impl Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LINE - self.len;
        let taken = &text.as_bytes()[..text.len().min(room)];
        self.bytes[self.len..self.len + taken.len()].copy_from_slice(taken);
        self.len += taken.len();
        if taken.len() < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

impl KernelLog {
    pub const fn new() -> Self {
        Self { ring: SpinLock::new(Class::Log, Ring { bytes: [0; RING], written: 0 }), quiet: AtomicBool::new(false) }
    }

    /// From now on lines go to the ring only (`quiet`).
    pub fn set_quiet(&self) {
        self.quiet.store(true, Relaxed);
    }

    /// Copies log bytes from position `from` (bytes since boot; older than the ring: the oldest there is); returns how many, and the
    /// position of the first.
    pub fn read(&self, from: u64, out: &mut [u8]) -> (usize, u64) {
        let ring = self.ring.lock();
        let oldest = ring.written.saturating_sub(RING as u64);
        let first = from.clamp(oldest, ring.written);
        let mut at = first;
        let mut count = 0;
        while count < out.len() && at < ring.written {
            out[count] = ring.bytes[usize::try_from(at % RING as u64).expect("below the ring's size")];
            at += 1;
            count += 1;
        }
        (count, first)
    }
}

impl Log for KernelLog {
    fn line(&self, args: fmt::Arguments<'_>) {
        let now = hal::time::HalClock.monotonic().0;
        let mut buffer = Buffer { bytes: [0; LINE], len: 0 };
        // The time goes to the ring only: consoles are compared between runs and builds.
        write!(buffer, "[{:5}.{:06}] ", now / 1_000_000_000, now / 1000 % 1_000_000).expect("a stamp is shorter than a line");
        let stamp = buffer.len;
        if buffer.write_fmt(args).is_err() {
            buffer.bytes[LINE - 3..].copy_from_slice(b"...");
        }
        {
            let mut ring = self.ring.lock();
            for byte in buffer.bytes[..buffer.len].iter().chain(b"\n") {
                let at = usize::try_from(ring.written % RING as u64).expect("below the ring's size");
                ring.bytes[at] = *byte;
                ring.written += 1;
            }
        }
        if !self.quiet.load(Relaxed) {
            let mut text = [0; LINE + 2];
            let body = &buffer.bytes[stamp..buffer.len];
            text[..body.len()].copy_from_slice(body);
            text[body.len()..body.len() + 2].copy_from_slice(b"\r\n");
            LINES[0].uart.write_now(&text[..body.len() + 2]);
        }
    }
}

// ---- terminals -----------------------------------------------------------------------------------------------------------------

/// The way from a terminal to its line.
struct Port(&'static Serial);

impl vfs::tty::serial::SerialPort for Port {
    fn transmit(&self, data: &[u8]) -> usize {
        self.0.uart.transmit(data)
    }
    fn resume(&self) {
        self.0.uart.resume();
    }
}

/// The way from a line to its terminal.
struct Terminal(Arc<vfs::tty::Tty>);

impl Line for Terminal {
    fn space(&self) -> usize {
        self.0.input_space()
    }
    fn received(&self, bytes: &[u8]) {
        self.0.receive(bytes);
    }
    fn room(&self) {
        self.0.transmit_ready();
    }
}

/// Makes the terminals of all lines that exist; the first one is the console. Needs threads.
///
/// # Errors
/// No memory for a terminal's thread.
pub fn start_terminals(tables: &drv::acpi::Tables) -> Result<(), kif::OutOfMemory> {
    for (index, line) in (0_u32..).zip(&LINES) {
        // The first one is set up already and may be printing.
        if index > 0 && !line.uart.init() {
            kif::log().line(format_args!("{}: no chip answers", line.name));
            continue;
        }
        let tty = vfs::tty::serial::attach(index, line.name, Arc::new(Port(line)))?;
        let wiring = tables.isa(line.irq);
        let vector = hal::trap::install(Box::new(|| line.uart.interrupt()));
        let routed = vector.is_some_and(|vector| hal::apic::route(wiring.global, vector, wiring.active_low, wiring.level));
        if !routed {
            kif::log().line(format_args!("{}: no interrupt, input does not work", line.name));
        }
        if index == 0 {
            vfs::devfs::set_console(Arc::clone(&tty));
        }
        line.uart.attach(Box::new(Terminal(tty)));
    }
    Ok(())
}
