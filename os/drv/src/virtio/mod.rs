//! Virtio devices over PCI (virtio 1.2: chapter 2, section 4.1).
//!
//! # Theory
//! [`Transport`] finds the four structures of a modern device through its vendor capabilities, negotiates, and sets up queues; a device driver
//! ([`block`]) adds what its type means. DMA memory is page frames, reached through `kif`: no pointer, no `unsafe`.
//!
//! # Failure
//! A device is not believed: whatever it writes into a ring is checked before it is used. One that does not accept our
//! features, or whose structures make no sense, is an error at attach.
//!
//! # Limits
//! Modern devices with MSI-X only; split queues of at most [`QUEUE_MAX`] descriptors.

pub mod block;
mod queue;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;

use kif::OutOfMemory;

use crate::pci::{Function, Machine, Mmio, PciError};
pub use queue::{QUEUE_MAX, Queue};

/// Vendor of all virtio devices.
pub const VENDOR: u16 = 0x1af4;
/// A modern device's identifier is this plus its type.
pub const MODERN: u16 = 0x1040;

/// Feature: the device follows virtio 1.
const VERSION_1: u64 = 1 << 32;

/// Device status (virtio 1.2, section 2.1).
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const FAILED: u8 = 0x80;

/// Common configuration (section 4.1.4.3).
const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;
const QUEUE_DESC: u64 = 0x20;
const QUEUE_DRIVER: u64 = 0x28;
const QUEUE_DEVICE: u64 = 0x30;
const COMMON_BYTES: u64 = 0x38;

/// Reads of the status register until a reset counts as failed.
const RESET_POLLS: u32 = 100_000;

/// Why a device cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VirtioError {
    /// The function itself.
    Pci(PciError),
    /// A structure is missing: its type (section 4.1.4).
    NoStructure(u8),
    /// It is not a virtio 1 device, or refuses our features.
    Features,
    /// It does not come out of reset.
    Reset,
    /// A queue is missing or too small.
    NoQueue(u16),
    /// What its configuration says makes no sense.
    Configuration,
    /// No memory for rings.
    NoMemory,
}

impl From<PciError> for VirtioError {
    fn from(error: PciError) -> Self {
        Self::Pci(error)
    }
}
impl From<OutOfMemory> for VirtioError {
    fn from(_: OutOfMemory) -> Self {
        Self::NoMemory
    }
}

/// A device's registers.
#[allow(missing_debug_implementations, reason = "holds trait objects")]
pub struct Transport {
    common: Box<dyn Mmio>,
    notify: Box<dyn Mmio>,
    notify_bytes: u64,
    /// Distance between the notification registers of queues.
    multiplier: u64,
    config: Option<Box<dyn Mmio>>,
    config_bytes: u64,
}

/// One structure of a device: where it lies.
struct Structure {
    bar: u8,
    offset: u64,
    len: u64,
    /// Offset of the capability itself.
    at: u16,
}

fn structure(machine: &dyn Machine, function: &Function, kind: u8) -> Option<Structure> {
    let config = machine.config();
    let read = |at| config.read32(function.address, at);
    function.capabilities.iter().filter(|(id, _)| *id == 9).map(|(_, at)| u16::from(*at)).find(|at| (read(*at) >> 24) as u8 == kind).map(|at| {
        Structure { bar: read(at + 4) as u8, offset: read(at + 8).into(), len: read(at + 12).into(), at }
    })
}

impl Transport {
    /// Maps the device's structures and resets it.
    ///
    /// # Errors
    /// See [`VirtioError`].
    pub fn attach(machine: &dyn Machine, function: &Function) -> Result<Self, VirtioError> {
        function.enable(machine.config());
        let need = |kind| structure(machine, function, kind).ok_or(VirtioError::NoStructure(kind));
        let common = need(1)?;
        if common.len < COMMON_BYTES {
            return Err(VirtioError::NoStructure(1));
        }
        let notify = need(2)?;
        let multiplier = machine.config().read32(function.address, notify.at + 16).into();
        let map = |structure: &Structure| function.map(machine, structure.bar, structure.offset, structure.len);
        let config = structure(machine, function, 4);
        let this = Self {
            common: map(&common)?,
            notify: map(&notify)?,
            notify_bytes: notify.len,
            multiplier,
            config_bytes: config.as_ref().map_or(0, |structure| structure.len),
            config: config.map(|structure| map(&structure)).transpose()?,
        };
        this.common.write8(STATUS, 0);
        if !(0..RESET_POLLS).any(|_| this.common.read8(STATUS) == 0) {
            return Err(VirtioError::Reset);
        }
        this.common.write8(STATUS, ACKNOWLEDGE);
        this.common.write8(STATUS, ACKNOWLEDGE | DRIVER);
        Ok(this)
    }

    /// Agrees on features (section 3.1.1): those of `wanted` that the device offers. Returns them.
    ///
    /// # Errors
    /// [`VirtioError::Features`].
    pub fn negotiate(&self, wanted: u64) -> Result<u64, VirtioError> {
        let common = &self.common;
        let mut offered = 0;
        for half in [1_u32, 0] {
            common.write32(DEVICE_FEATURE_SELECT, half);
            offered = offered << 32 | u64::from(common.read32(DEVICE_FEATURE));
        }
        if offered & VERSION_1 == 0 {
            self.give_up();
            return Err(VirtioError::Features);
        }
        let agreed = offered & (wanted | VERSION_1);
        for half in [0_u32, 1] {
            common.write32(DRIVER_FEATURE_SELECT, half);
            common.write32(DRIVER_FEATURE, (agreed >> (32 * half)) as u32);
        }
        common.write8(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if common.read8(STATUS) & FEATURES_OK == 0 {
            self.give_up();
            return Err(VirtioError::Features);
        }
        Ok(agreed)
    }

    /// Sets up queue `index`, of at most `most` descriptors, whose completions raise MSI-X vector `vector`.
    ///
    /// # Errors
    /// See [`VirtioError`].
    pub fn queue(&self, index: u16, most: u16, vector: u16) -> Result<Queue, VirtioError> {
        let common = &self.common;
        common.write16(QUEUE_SELECT, index);
        let size = common.read16(QUEUE_SIZE).min(most).min(QUEUE_MAX);
        // A power of two (section 2.7).
        let size = if size == 0 { 0 } else { 1 << size.ilog2() };
        let notify = self.multiplier * u64::from(common.read16(QUEUE_NOTIFY_OFF));
        if size < 2 || notify + 2 > self.notify_bytes {
            self.give_up();
            return Err(VirtioError::NoQueue(index));
        }
        let queue = Queue::new(index, size, notify)?;
        common.write16(QUEUE_SIZE, size);
        common.write16(QUEUE_VECTOR, vector);
        if common.read16(QUEUE_VECTOR) != vector {
            self.give_up();
            return Err(VirtioError::Pci(PciError::NoMsix));
        }
        let [descriptors, available, used] = queue.addresses();
        common.write64(QUEUE_DESC, descriptors);
        common.write64(QUEUE_DRIVER, available);
        common.write64(QUEUE_DEVICE, used);
        common.write16(QUEUE_ENABLE, 1);
        Ok(queue)
    }

    /// Tells the device that it may start.
    pub fn start(&self) {
        self.common.write8(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Tells the device that we do not want it.
    pub fn give_up(&self) {
        self.common.write8(STATUS, FAILED);
    }

    /// True if the device's registers read as nothing: it was pulled out.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.common.read8(STATUS) == 0xff
    }

    /// Notifies the device of new buffers in a queue.
    pub fn notify(&self, queue: &Queue) {
        self.notify.write16(queue.notify_offset(), queue.index());
    }

    /// A field of the device's own configuration; `None` if the device does not have it.
    #[must_use]
    pub fn config32(&self, offset: u64) -> Option<u32> {
        self.config.as_ref().filter(|_| offset + 4 <= self.config_bytes).map(|config| config.read32(offset))
    }

    /// A 64-bit field of it.
    #[must_use]
    pub fn config64(&self, offset: u64) -> Option<u64> {
        Some(u64::from(self.config32(offset)?) | u64::from(self.config32(offset + 4)?) << 32)
    }
}
