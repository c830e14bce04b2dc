//! Virtio disks (virtio 1.2, section 5.2).
//!
//! # Theory
//! The queue is divided once into *slots*, each with its descriptors, a page for header and status, and pages for data. A request takes a free slot,
//! copies its data in, and sleeps until the interrupt marks the slot done. So there is nothing to allocate on the way, a full queue is a
//! wait, and memory that the device may still write is never given back.
//!
//! # States
//! Slot: free → busy → done → free. A request that waits longer than [`TIMEOUT`] is *abandoned*: its caller gets an error, the slot
//! stays the device's until it answers.
//!
//! # Locking
//! `Disk` (spin) around queue and slot states; data is copied without it, since a slot has one holder.
//!
//! # Failure
//! Status other than OK is [`BlockError::Io`]; a head that is no slot of ours, or one that was not given out, is logged once and ignored; registers that
//! read as nothing mean [`BlockError::Gone`].
//!
//! # Limits
//! Requests of [`SLOT_PAGES`] pages, at most [`SLOTS`] in flight. A discard names one range.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use kif::{BlockDev, BlockError, Frame, Nanos, PAGE_SIZE, ZoneId};
use sync::{Class, SpinLock, WaitQueue};

use super::queue::{Buffer, Queue};
use super::{MODERN, Transport, VENDOR, VirtioError};
use crate::pci::{Function, Machine};

/// Device type.
const TYPE: u16 = 2;
/// Pages of data of one request.
pub const SLOT_PAGES: usize = 16;
/// Requests in flight.
pub const SLOTS: usize = 8;
/// How long a request may take.
pub const TIMEOUT: Nanos = Nanos(30_000_000_000);

/// Features (section 5.2.3).
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLOCK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const DISCARD_FEATURE: u64 = 1 << 13;

/// Request types (section 5.2.6).
const IN: u32 = 0;
const OUT: u32 = 1;
const SYNC: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
/// Size of the range that a discard names.
const RANGE_BYTES: usize = 16;
const ID_BYTES: usize = 20;

/// Offsets in a slot's control page.
const HEADER_BYTES: u32 = 16;
const STATUS_AT: usize = 16;
/// What we leave in the status byte; no answer of a device.
const NO_ANSWER: u8 = 0xff;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SlotState {
    Free,
    Busy,
    Done,
    Abandoned,
}

struct Slot {
    control: Frame,
    data: Vec<Frame>,
}

struct State {
    queue: Queue,
    slots: [SlotState; SLOTS],
}

/// A disk.
#[allow(missing_debug_implementations, reason = "printing would take the lock")]
pub struct Disk {
    transport: Transport,
    slots: Vec<Slot>,
    /// Descriptors of a slot.
    stride: u16,
    state: SpinLock<State>,
    changed: WaitQueue,
    size_bytes: u64,
    sector_bytes: u32,
    read_only: bool,
    flushes: bool,
    /// Sectors of 512 bytes that one discard may name; 0: it takes none.
    discards: u32,
    serial: String,
    complained: AtomicBool,
}

/// True if the function is a disk for this driver.
#[must_use]
pub const fn matches(function: &Function) -> bool {
    // Transitional disks (0x1001) have the modern structures as well.
    function.vendor == VENDOR && (function.device == MODERN + TYPE || function.device == 0x1001)
}

/// Attaches a disk. Interrupts and threads must work.
///
/// # Errors
/// See [`VirtioError`].
pub fn attach(machine: &dyn Machine, function: &Function) -> Result<Arc<Disk>, VirtioError> {
    let transport = Transport::attach(machine, function)?;
    let agreed = transport.negotiate(SEG_MAX | READ_ONLY | BLOCK_SIZE | FLUSH | DISCARD_FEATURE)?;
    let sectors = transport.config64(0).ok_or(VirtioError::Configuration)?;
    let size_bytes = sectors.checked_mul(512).ok_or(VirtioError::Configuration)?;
    let segments = if agreed & SEG_MAX == 0 { SLOT_PAGES } else { transport.config32(12).ok_or(VirtioError::Configuration)?.max(1) as usize };
    let sector_bytes = if agreed & BLOCK_SIZE == 0 { 512 } else { transport.config32(20).ok_or(VirtioError::Configuration)? };
    if !matches!(sector_bytes, 512 | 4096) {
        return Err(VirtioError::Configuration);
    }
    let discards = if agreed & DISCARD_FEATURE == 0 { 0 } else { transport.config32(36).ok_or(VirtioError::Configuration)? };
    let queue = transport.queue(0, super::QUEUE_MAX, 0)?;
    let pages = SLOT_PAGES.min(segments).min(usize::from(queue.size()).saturating_sub(2));
    if pages == 0 {
        return Err(VirtioError::NoQueue(0));
    }
    let stride = (pages + 2) as u16;
    let count = SLOTS.min(usize::from(queue.size() / stride));
    let frame = || Frame::allocate(ZoneId::GLOBAL);
    let mut slots = Vec::new();
    for _ in 0..count {
        let data = (0..pages).map(|_| frame()).collect::<Result<_, _>>()?;
        slots.push(Slot { control: frame()?, data });
    }
    // Places beyond the slots that exist stay busy for ever.
    let states = core::array::from_fn(|index| if index < count { SlotState::Free } else { SlotState::Busy });
    let mut disk = Disk {
        transport,
        slots,
        stride,
        state: SpinLock::new(Class::Disk, State { queue, slots: states }),
        changed: WaitQueue::new(),
        size_bytes,
        sector_bytes,
        read_only: agreed & READ_ONLY != 0,
        flushes: agreed & FLUSH != 0,
        discards,
        serial: String::new(),
        complained: AtomicBool::new(false),
    };
    disk.transport.start();
    // Before the interrupt is connected the ring is looked at by hand.
    disk.serial = disk.identify();
    let disk = Arc::new(disk);
    let handler = Arc::clone(&disk);
    function.connect(machine, 0, Box::new(move || handler.interrupt()))?;
    Ok(disk)
}

impl Disk {
    /// What the device says it is called; may be empty.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Takes back what the device is done with.
    fn interrupt(&self) {
        let mut nonsense = false;
        {
            let mut state = self.state.lock();
            while let Some(head) = state.queue.take() {
                let slot = (head / u32::from(self.stride)) as usize;
                let ours = head.is_multiple_of(self.stride.into()) && slot < self.slots.len();
                match state.slots.get(slot).copied().filter(|_| ours) {
                    Some(SlotState::Busy) => state.slots[slot] = SlotState::Done,
                    Some(SlotState::Abandoned) => state.slots[slot] = SlotState::Free,
                    _ => nonsense = true,
                }
            }
        }
        if nonsense && !self.complained.swap(true, Relaxed) {
            kif::log().line(format_args!("virtio disk {}: answers a request that was not made; ignored", self.serial));
        }
        self.changed.wake_all();
    }

    /// Changes a slot's state if it is `from`.
    fn change(&self, slot: usize, from: SlotState, to: SlotState) -> bool {
        let mut state = self.state.lock();
        let yes = state.slots[slot] == from;
        if yes {
            state.slots[slot] = to;
        }
        yes
    }

    /// Writes a request into a slot, which the caller holds, and hands it to the device.
    fn send(&self, index: usize, kind: u32, sector: u64, len: usize) {
        let slot = &self.slots[index];
        let mut header = [0; 17];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..16].copy_from_slice(&sector.to_le_bytes());
        header[STATUS_AT] = NO_ANSWER;
        slot.control.write(0, &header);
        let control = slot.control.pfn().0 << kif::PAGE_SHIFT;
        let head = Buffer { physical: control, len: HEADER_BYTES, device_writes: false };
        let status = Buffer { physical: control + STATUS_AT as u64, len: 1, device_writes: true };
        let data = slot.data.iter().enumerate().map_while(|(page, frame)| {
            let left = len.saturating_sub(page * PAGE_SIZE).min(PAGE_SIZE);
            let physical = frame.pfn().0 << kif::PAGE_SHIFT;
            (left > 0).then_some(Buffer { physical, len: left as u32, device_writes: !matches!(kind, OUT | DISCARD) })
        });
        let first = index as u16 * self.stride;
        let mut state = self.state.lock();
        state.queue.describe(first, core::iter::once(head).chain(data).chain(core::iter::once(status)));
        state.queue.offer(first);
        self.transport.notify(&state.queue);
    }

    fn status(&self, slot: usize) -> Result<(), BlockError> {
        let mut status = [0];
        self.slots[slot].control.read(STATUS_AT, &mut status);
        if status == [0] { Ok(()) } else { Err(BlockError::Io) }
    }

    /// One request of at most a slot: `before` fills the data pages, `after` empties them.
    fn request(
        &self,
        kind: u32,
        offset: u64,
        len: usize,
        before: impl FnOnce(&[Frame]),
        after: impl FnOnce(&[Frame]),
    ) -> Result<(), BlockError> {
        let index = self.changed.wait(|| {
            let mut state = self.state.lock();
            let free = state.slots.iter().position(|slot| *slot == SlotState::Free)?;
            state.slots[free] = SlotState::Busy;
            Some(free)
        });
        before(&self.slots[index].data);
        self.send(index, kind, offset / 512, len);
        let deadline = kif::clock().monotonic().plus(TIMEOUT);
        let done = || (self.state.lock().slots[index] == SlotState::Done).then_some(());
        if self.changed.wait_until(deadline, done).is_err() && self.change(index, SlotState::Busy, SlotState::Abandoned) {
            let gone = self.transport.is_gone();
            kif::log().line(format_args!("virtio disk {}: no answer in {} s", self.serial, TIMEOUT.0 / 1_000_000_000));
            return Err(if gone { BlockError::Gone } else { BlockError::Io });
        }
        let result = self.status(index);
        if result.is_ok() {
            after(&self.slots[index].data);
        }
        assert!(self.change(index, SlotState::Done, SlotState::Free), "a slot changed hands");
        self.changed.wake_all();
        result
    }

    /// Asks for the serial number, by polling: runs once, before the interrupt is connected.
    fn identify(&self) -> String {
        assert!(self.change(0, SlotState::Free, SlotState::Busy), "nobody has a slot yet");
        self.send(0, GET_ID, 0, ID_BYTES);
        let deadline = kif::clock().monotonic().plus(Nanos(1_000_000_000));
        let mut id = [0; ID_BYTES];
        while kif::clock().monotonic() < deadline {
            self.interrupt();
            if self.change(0, SlotState::Done, SlotState::Free) {
                if self.status(0).is_ok() {
                    self.slots[0].data[0].read(0, &mut id);
                }
                let end = id.iter().position(|byte| *byte == 0).unwrap_or(ID_BYTES);
                return id[..end].iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect();
            }
        }
        self.change(0, SlotState::Busy, SlotState::Abandoned);
        String::new()
    }

    fn check(&self, offset: u64, len: usize) -> Result<(), BlockError> {
        let sector = u64::from(self.sector_bytes);
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.size_bytes);
        if end.is_none() || !offset.is_multiple_of(sector) || !(len as u64).is_multiple_of(sector) {
            return Err(BlockError::OutOfRange);
        }
        Ok(())
    }

    fn slot_bytes(&self) -> usize {
        self.slots[0].data.len() * PAGE_SIZE
    }
}

impl BlockDev for Disk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
    fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        self.check(offset, out.len())?;
        let mut at = offset;
        for piece in out.chunks_mut(self.slot_bytes()) {
            let len = piece.len();
            let empty = |frames: &[Frame]| frames.iter().zip(piece.chunks_mut(PAGE_SIZE)).for_each(|(frame, page)| frame.read(0, page));
            self.request(IN, at, len, |_| {}, empty)?;
            at += len as u64;
        }
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.check(offset, data.len())?;
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        let mut at = offset;
        for piece in data.chunks(self.slot_bytes()) {
            let fill = |frames: &[Frame]| frames.iter().zip(piece.chunks(PAGE_SIZE)).for_each(|(frame, page)| frame.write(0, page));
            self.request(OUT, at, piece.len(), fill, |_| {})?;
            at += piece.len() as u64;
        }
        Ok(())
    }
    fn flush(&self) -> Result<(), BlockError> {
        // Without the feature the device has no volatile cache (section 5.2.6.2).
        if self.flushes { self.request(SYNC, 0, 0, |_| {}, |_| {}) } else { Ok(()) }
    }
    fn discard(&self, offset: u64, length: u64) -> Result<bool, BlockError> {
        // As large a piece as is whole sectors.
        let most = u64::from(self.discards) * 512 / u64::from(self.sector_bytes) * u64::from(self.sector_bytes);
        if most == 0 || self.read_only {
            return Ok(false);
        }
        self.check(offset, usize::try_from(length).map_err(|_| BlockError::OutOfRange)?)?;
        let mut done = 0;
        while done < length {
            let part = (length - done).min(most);
            let mut range = [0; RANGE_BYTES];
            range[..8].copy_from_slice(&((offset + done) / 512).to_le_bytes());
            range[8..12].copy_from_slice(&u32::try_from(part / 512).unwrap_or(self.discards).to_le_bytes());
            self.request(DISCARD, 0, RANGE_BYTES, |frames| frames[0].write(0, &range), |_| {})?;
            done += part;
        }
        Ok(true)
    }
}
