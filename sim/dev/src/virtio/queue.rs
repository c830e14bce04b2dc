//! A split virtqueue as the device sees it (§2.7).

use sim_bus::{Cx, Fields};

/// The largest queue offered.
pub const SIZE_MAX: u16 = 256;
/// Bytes a chain may carry.
pub const CHAIN_BYTES_MAX: u64 = 4 << 20;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;

/// How a guest broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// A ring or descriptor does not lie in memory the device may reach.
    Unreachable,
    /// A descriptor index is beyond the table, or the chain is longer than the table (a loop).
    Index,
    /// A device-readable buffer follows a device-writable one, or an indirect table is malformed.
    Order,
    /// The chain carries more than [`CHAIN_BYTES_MAX`].
    Length,
    /// More chains are available than the queue has entries.
    Available,
}

/// The buffers of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    pub head: u16,
    /// The device-readable part, fetched.
    pub input: Vec<u8>,
    /// The device-writable buffers: address and length.
    pub output: Vec<(u64, u32)>,
}

impl Chain {
    /// Bytes of the device-writable part.
    pub fn room(&self) -> u64 {
        self.output.iter().map(|(_, length)| u64::from(*length)).sum()
    }
}

/// One queue.
#[derive(Clone, Debug)]
pub struct Queue {
    pub size: u16,
    pub enabled: bool,
    pub vector: u16,
    pub descriptors: u64,
    pub driver: u64,
    pub device: u64,
    next_available: u16,
    next_used: u16,
}

impl Default for Queue {
    fn default() -> Self {
        Self { size: SIZE_MAX, enabled: false, vector: 0xffff, descriptors: 0, driver: 0, device: 0, next_available: 0, next_used: 0 }
    }
}

fn read<const N: usize>(cx: &mut Cx<'_>, address: u64) -> Result<[u8; N], QueueError> {
    let mut bytes = [0; N];
    cx.dma_read(address, &mut bytes).map_err(|_| QueueError::Unreachable)?;
    Ok(bytes)
}

fn read_u16(cx: &mut Cx<'_>, address: u64) -> Result<u16, QueueError> {
    read::<2>(cx, address).map(u16::from_le_bytes)
}

impl Queue {
    /// Takes the next available chain.
    pub fn take(&mut self, cx: &mut Cx<'_>) -> Result<Option<Chain>, QueueError> {
        if !self.enabled || self.size == 0 {
            return Ok(None);
        }
        let available = read_u16(cx, self.driver.wrapping_add(2))?;
        let waiting = available.wrapping_sub(self.next_available);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.size {
            return Err(QueueError::Available);
        }
        let slot = u64::from(self.next_available % self.size);
        let head = read_u16(cx, self.driver.wrapping_add(4 + 2 * slot))?;
        self.next_available = self.next_available.wrapping_add(1);
        self.gather(head, cx).map(Some)
    }

    /// Puts the chains taken last back as if they had not been taken.
    pub fn put_back(&mut self, count: u16) {
        self.next_available = self.next_available.wrapping_sub(count);
    }

    fn gather(&self, head: u16, cx: &mut Cx<'_>) -> Result<Chain, QueueError> {
        let mut chain = Chain { head, ..Chain::default() };
        let mut index = head;
        let mut total = 0u64;
        let (mut table, mut size) = (self.descriptors, self.size);
        // A chain may go over into one indirect table, and ends there (§2.7.5.3.1).
        let mut indirect = false;
        let mut left = u32::from(self.size) + u32::from(SIZE_MAX);
        while left > 0 {
            left -= 1;
            if index >= size {
                return Err(QueueError::Index);
            }
            let bytes = read::<16>(cx, table.wrapping_add(16 * u64::from(index)))?;
            let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            let address = bytes[..8].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
            let length = u32::from(word(8)) | u32::from(word(10)) << 16;
            let (flags, next) = (word(12), word(14));
            if flags & INDIRECT != 0 {
                if indirect || flags & (NEXT | WRITE) != 0 || !length.is_multiple_of(16) || !(16..=16 * u32::from(SIZE_MAX)).contains(&length) {
                    return Err(QueueError::Order);
                }
                indirect = true;
                (table, size, index) = (address, (length / 16) as u16, 0);
                left = u32::from(size);
                continue;
            }
            total += u64::from(length);
            if total > CHAIN_BYTES_MAX {
                return Err(QueueError::Length);
            }
            if flags & WRITE == 0 && !chain.output.is_empty() {
                return Err(QueueError::Order);
            }
            if flags & WRITE != 0 {
                chain.output.push((address, length));
            } else {
                let start = chain.input.len();
                chain.input.resize(start + length as usize, 0);
                cx.dma_read(address, &mut chain.input[start..]).map_err(|_| QueueError::Unreachable)?;
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            index = next;
        }
        Err(QueueError::Index)
    }

    /// Puts a used element. `true`: the driver wants an interrupt.
    pub fn put(&mut self, head: u16, written: u32, cx: &mut Cx<'_>) -> Result<bool, QueueError> {
        if !self.enabled || self.size == 0 {
            return Ok(false);
        }
        let slot = u64::from(self.next_used % self.size);
        let mut element = [0; 8];
        element[..2].copy_from_slice(&head.to_le_bytes());
        element[4..].copy_from_slice(&written.to_le_bytes());
        let at = self.device.wrapping_add(4 + 8 * slot);
        cx.dma_write(at, &element).map_err(|_| QueueError::Unreachable)?;
        self.next_used = self.next_used.wrapping_add(1);
        cx.dma_write(self.device.wrapping_add(2), &self.next_used.to_le_bytes()).map_err(|_| QueueError::Unreachable)?;
        Ok(read_u16(cx, self.driver)? & NO_INTERRUPT == 0)
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        fields.u16("size", &mut self.size);
        self.size = self.size.min(SIZE_MAX);
        fields.flag("enabled", &mut self.enabled);
        fields.u16("vector", &mut self.vector);
        fields.u64("descriptors", &mut self.descriptors);
        fields.u64("driver", &mut self.driver);
        fields.u64("device", &mut self.device);
        fields.u16("next_available", &mut self.next_available);
        fields.u16("next_used", &mut self.next_used);
    }
}
