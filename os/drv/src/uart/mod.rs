//! The 16550 serial port (National Semiconductor PC16550D data sheet).
//!
//! # Theory
//! Output goes through a ring that the transmit interrupt empties, so a writer never waits for the wire. Three ways in:
//! [`Uart::transmit`] (terminal: takes what fits), [`Uart::write_now`] (log: empties the ring by polling, then writes, in order) and
//! [`Uart::write_emergency`] (panic: takes no lock and touches nothing but the transmitter).
//!
//! # Locking
//! `Uart`, a spin lock, around ring and registers. Callbacks run after it is released.
//!
//! # Failure
//! A line that is not there reads as ones: [`Uart::init`] says so. A transmitter that never gets ready (polled writes give up after
//! [`POLLS`] reads) loses the bytes rather than the machine.
//!
//! # Limits
//! 115200 baud, 8N1, no flow control. Ring of [`RING`] bytes.

#[cfg(test)]
mod tests;

use alloc::boxed::Box;

use once_cell::race::OnceBox;
use sync::{Class, SpinLock};

/// Bytes of the output ring.
pub const RING: usize = 4096;
/// Bytes of the chip's FIFO.
const FIFO: usize = 16;
/// Polls of the line status before a byte is given up: over 100 times what a byte takes at 115200 baud.
pub const POLLS: u32 = 1_000_000;

/// Registers (PC16550D, table II).
const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const INTERRUPT_ID: u16 = 2;
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const SCRATCH: u16 = 7;

const RECEIVED: u8 = 1;
const TRANSMIT_EMPTY: u8 = 2;
const DATA_READY: u8 = 1;
const TRANSMITTER_READY: u8 = 0x20;

/// Access to the eight registers of a chip.
pub trait Registers: Send + Sync {
    fn read(&self, register: u16) -> u8;
    fn write(&self, register: u16, value: u8);
}

/// Who is told about input and about room for output. Called with interrupts off, without locks.
pub trait Line: Send + Sync {
    /// How many bytes [`Line::received`] can take now. Without space input stays in the chip until [`Uart::resume`].
    fn space(&self) -> usize;
    /// Bytes came in.
    fn received(&self, bytes: &[u8]);
    /// After a [`Uart::transmit`] that took less than it was given, there is room again.
    fn room(&self);
}

struct Output {
    ring: [u8; RING],
    head: usize,
    len: usize,
    /// A writer was turned away.
    refused: bool,
    /// What INTERRUPT_ENABLE holds.
    enabled: u8,
}

/// A serial port.
#[allow(missing_debug_implementations, reason = "printing would take the lock")]
pub struct Uart<R> {
    registers: R,
    output: SpinLock<Output>,
    line: OnceBox<Box<dyn Line>>,
}

impl<R: Registers> Uart<R> {
    /// A port behind these registers; nothing is touched yet.
    pub const fn new(registers: R) -> Self {
        let output = Output { ring: [0; RING], head: 0, len: 0, refused: false, enabled: 0 };
        Self { registers, output: SpinLock::new(Class::Uart, output), line: OnceBox::new() }
    }

    /// Sets the line up, interrupts off. False if no chip answers.
    pub fn init(&self) -> bool {
        let mut output = self.output.lock();
        let r = &self.registers;
        r.write(INTERRUPT_ENABLE, 0);
        r.write(SCRATCH, 0x5a);
        let answers = r.read(SCRATCH) == 0x5a;
        output.enabled = 0;
        if answers {
            // Divisor 1: 115200 baud. 8 bits, no parity, one stop bit. FIFOs on and cleared, interrupt at 8 bytes. DTR, RTS, OUT2 (interrupt gate).
            r.write(LINE_CONTROL, 0x80);
            r.write(DATA, 1);
            r.write(INTERRUPT_ENABLE, 0);
            r.write(LINE_CONTROL, 3);
            r.write(FIFO_CONTROL, 0x87);
            r.write(MODEM_CONTROL, 0x0b);
        }
        answers
    }

    /// Connects the line's user (the first one stays) and turns the receive interrupt on.
    pub fn attach(&self, line: Box<dyn Line>) {
        if self.line.set(Box::new(line)).is_err() {
            return;
        }
        let mut output = self.output.lock();
        output.enabled |= RECEIVED;
        self.registers.write(INTERRUPT_ENABLE, output.enabled);
    }

    /// Takes as much as fits into the ring; returns how much. If that is less than all, [`Line::room`] follows.
    pub fn transmit(&self, bytes: &[u8]) -> usize {
        let mut output = self.output.lock();
        let taken = bytes.len().min(RING - output.len);
        for byte in &bytes[..taken] {
            let at = (output.head + output.len) % RING;
            output.ring[at] = *byte;
            output.len += 1;
        }
        output.refused |= taken < bytes.len();
        self.feed(&mut output);
        taken
    }

    /// Bytes that wait for the wire.
    pub fn pending(&self) -> usize {
        self.output.lock().len
    }

    /// Writes what waits and then `bytes`, polling.
    pub fn write_now(&self, bytes: &[u8]) {
        let mut output = self.output.lock();
        while output.len > 0 {
            let byte = output.ring[output.head];
            output.head = (output.head + 1) % RING;
            output.len -= 1;
            self.put(byte);
        }
        for byte in bytes {
            self.put(*byte);
        }
    }

    /// Writes without any lock, polling, with interrupts of the chip off: only for the panic path.
    pub fn write_emergency(&self, bytes: &[u8]) {
        for byte in bytes {
            self.put(*byte);
        }
    }

    fn put(&self, byte: u8) {
        for _ in 0..POLLS {
            if self.registers.read(LINE_STATUS) & TRANSMITTER_READY != 0 {
                self.registers.write(DATA, byte);
                return;
            }
        }
    }

    /// Fills the transmitter from the ring and asks for its interrupt while more waits.
    fn feed(&self, output: &mut Output) {
        if output.len > 0 && self.registers.read(LINE_STATUS) & TRANSMITTER_READY != 0 {
            for _ in 0..output.len.min(FIFO) {
                self.registers.write(DATA, output.ring[output.head]);
                output.head = (output.head + 1) % RING;
                output.len -= 1;
            }
        }
        let enabled = if output.len > 0 { output.enabled | TRANSMIT_EMPTY } else { output.enabled & !TRANSMIT_EMPTY };
        if enabled != output.enabled {
            output.enabled = enabled;
            self.registers.write(INTERRUPT_ENABLE, enabled);
        }
    }

    /// The line's user has space again.
    pub fn resume(&self) {
        let mut output = self.output.lock();
        if output.enabled & RECEIVED == 0 {
            output.enabled |= RECEIVED;
            self.registers.write(INTERRUPT_ENABLE, output.enabled);
        }
    }

    /// The interrupt handler.
    pub fn interrupt(&self) {
        // Bounded: a chip that always says there is more must not hold the CPU.
        for _ in 0..64 {
            let mut bytes = [0; FIFO];
            let mut count = 0;
            let space = self.line.get().map_or(FIFO, |line| line.space()).min(FIFO);
            let mut output = self.output.lock();
            let id = self.registers.read(INTERRUPT_ID);
            while self.registers.read(LINE_STATUS) & DATA_READY != 0 {
                if count == space {
                    if space == 0 {
                        output.enabled &= !RECEIVED;
                        self.registers.write(INTERRUPT_ENABLE, output.enabled);
                    }
                    break;
                }
                bytes[count] = self.registers.read(DATA);
                count += 1;
            }
            self.feed(&mut output);
            let room = output.refused && output.len <= RING / 2;
            if room {
                output.refused = false;
            }
            drop(output);
            if let Some(line) = self.line.get() {
                if count > 0 {
                    line.received(&bytes[..count]);
                }
                if room {
                    line.room();
                }
            }
            // Bit 0 set: nothing was pending.
            if (id & 1 != 0 || space == 0) && count == 0 {
                return;
            }
        }
        // There may be more, and the line to the interrupt controller is high already: one that looks for edges sees another only if it falls in
        // between.
        let output = self.output.lock();
        self.registers.write(INTERRUPT_ENABLE, 0);
        self.registers.write(INTERRUPT_ENABLE, output.enabled);
    }
}
