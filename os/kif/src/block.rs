//! Block devices.

/// Why a transfer failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The medium or the transport failed.
    Io,
    /// Past the end, or not a multiple of the sector size.
    OutOfRange,
    /// The device went away.
    Gone,
    /// The device or its holder does not allow writing.
    ReadOnly,
}

/// A device of fixed-size sectors: a disk's driver in the kernel, an image file on the host.
///
/// Calls block. Offsets and lengths are multiples of [`BlockDev::sector_bytes`].
pub trait BlockDev: Send + Sync {
    /// Size in bytes.
    fn size_bytes(&self) -> u64;
    /// Size of a sector in bytes: 512 or 4096.
    fn sector_bytes(&self) -> u32;
    /// Reads `out.len()` bytes at `offset`.
    ///
    /// # Errors
    /// See [`BlockError`]; `out` is unspecified then.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError>;
    /// Writes `data` at `offset`. On return the device has it, perhaps only in a volatile cache: see [`BlockDev::flush`].
    ///
    /// # Errors
    /// See [`BlockError`]; any part of the range may have been written then.
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError>;
    /// Returns once everything written before is on stable media.
    ///
    /// # Errors
    /// See [`BlockError`].
    fn flush(&self) -> Result<(), BlockError>;
    /// Tells the device that nobody needs what is at `offset`: what a read gives afterwards is unspecified until it is written. False: the device has no use for that.
    ///
    /// # Errors
    /// See [`BlockError`].
    fn discard(&self, offset: u64, length: u64) -> Result<bool, BlockError> {
        let _unused = (offset, length);
        Ok(false)
    }
}
