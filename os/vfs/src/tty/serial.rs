//! Serial lines: the terminal side. The driver of the chip gives a [`SerialPort`] and calls [`Tty::receive`] and
//! [`Tty::transmit_ready`] from its interrupt handler.
//!
//! # Theory
//! An interrupt handler may not take a terminal's lock, nor send signals. It leaves bytes in a ring and wakes the line's thread, which
//! runs the line discipline. `^C` therefore works while nobody reads.
//!
//! # Limits
//! [`RING`] bytes between two runs of the thread; more are lost and counted.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kif::{OutOfMemory, ZoneId};
use sync::{Class, SpinLock, WaitQueue};

use super::termios::WindowSize;
use super::{Line, Tty};
use crate::file::OpenFlags;
use crate::vnode::{DevNo, Kind, VnodeRef};
use crate::{Result, device};

/// Bytes the interrupt handler can leave.
const RING: usize = 1024;
/// Major number of serial lines and their first minor number.
const MAJOR: u32 = 4;
const FIRST_MINOR: u32 = 64;

/// A serial line cannot tell its terminal's size; a size of zero would make programs ask the terminal, and take its answer for
/// input if it is none. `stty rows R cols C` says otherwise.
const DEFAULT_WINDOW: WindowSize = WindowSize { rows: 24, columns: 80, width_pixels: 0, height_pixels: 0 };

/// A serial port's sending half.
pub trait SerialPort: Send + Sync {
    /// Queues bytes for sending and returns how many; fewer than given if the port's buffer is full, after which it calls
    /// [`Tty::transmit_ready`] when there is room again. Does not block.
    fn transmit(&self, data: &[u8]) -> usize;
    /// There is space for input again ([`Tty::input_space`]).
    fn resume(&self) {}
}

pub(super) struct Serial {
    pub port: Arc<dyn SerialPort>,
    ring: SpinLock<Ring>,
    work: WaitQueue,
    can_send: AtomicBool,
    lost: AtomicU64,
}

struct Ring {
    bytes: [u8; RING],
    first: usize,
    count: usize,
}

impl Ring {
    fn push(&mut self, byte: u8) -> bool {
        if self.count == RING {
            return false;
        }
        self.bytes[(self.first + self.count) % RING] = byte;
        self.count += 1;
        true
    }
    fn take(&mut self, out: &mut [u8]) -> usize {
        let count = self.count.min(out.len());
        for slot in &mut out[..count] {
            *slot = self.bytes[self.first];
            self.first = (self.first + 1) % RING;
        }
        self.count -= count;
        count
    }
}

/// Makes the terminal `ttyS<index>` on `port`, starts its thread and enters it in the device table.
///
/// # Errors
/// No memory for the thread.
pub fn attach(index: u32, name: &'static str, port: Arc<dyn SerialPort>) -> core::result::Result<Arc<Tty>, OutOfMemory> {
    let ring = Ring { bytes: [0; RING], first: 0, count: 0 };
    let serial = Serial {
        port,
        ring: SpinLock::new(Class::TtyInput, ring),
        work: WaitQueue::new(),
        can_send: AtomicBool::new(false),
        lost: AtomicU64::new(0),
    };
    let dev = DevNo::new(MAJOR, FIRST_MINOR + index);
    let tty = Arc::new(Tty::new(dev, Line::Serial(Box::new(serial))));
    tty.set_window(DEFAULT_WINDOW);
    let worker = Arc::clone(&tty);
    kif::spawn().spawn(&format!("{name}-line"), ZoneId::GLOBAL, Box::new(move || worker.serve()))?;
    device::register(device::Row {
        name,
        kind: Kind::CharDevice,
        dev,
        mode: 0o620,
        gid: 5,
        scope: device::Scope::GlobalOnly,
        driver: Arc::new(Driver(Arc::clone(&tty))),
    });
    Ok(tty)
}

struct Driver(Arc<Tty>);

impl device::Driver for Driver {
    fn open(&self, _dev: DevNo, _node: &VnodeRef, flags: OpenFlags, _zone: ZoneId) -> Result<VnodeRef> {
        self.0.open(flags)
    }
}

impl Tty {
    /// Takes bytes from the chip. Callable from its interrupt handler.
    pub fn receive(&self, bytes: &[u8]) {
        let Line::Serial(serial) = &self.line else { return };
        let mut lost = 0;
        let mut ring = serial.ring.lock();
        for byte in bytes {
            lost += u64::from(!ring.push(*byte));
        }
        drop(ring);
        serial.lost.fetch_add(lost, Ordering::Relaxed);
        serial.work.wake_all();
    }
    /// How many bytes [`Tty::receive`] can take now. Callable from the interrupt handler.
    #[must_use]
    pub fn input_space(&self) -> usize {
        let Line::Serial(serial) = &self.line else { return 0 };
        RING - serial.ring.lock().count
    }
    /// Notes that the port has room again. Callable from its interrupt handler.
    pub fn transmit_ready(&self) {
        let Line::Serial(serial) = &self.line else { return };
        serial.can_send.store(true, Ordering::Release);
        serial.work.wake_all();
    }
    /// Bytes lost because the line's thread did not keep up.
    #[must_use]
    pub fn lost(&self) -> u64 {
        if let Line::Serial(serial) = &self.line { serial.lost.load(Ordering::Relaxed) } else { 0 }
    }
    /// The line's thread.
    fn serve(&self) {
        let Line::Serial(serial) = &self.line else { return };
        let mut bytes = [0; 64];
        loop {
            let (count, can_send) = serial.work.wait(|| {
                let count = serial.ring.lock().take(&mut bytes);
                let can_send = serial.can_send.swap(false, Ordering::AcqRel);
                (count != 0 || can_send).then_some((count, can_send))
            });
            if can_send {
                let mut state = self.state.lock();
                self.drain(&mut state);
                drop(state);
                self.pollee.notify();
            }
            if count != 0 {
                serial.port.resume();
                self.feed(&bytes[..count], true);
            }
        }
    }
}
