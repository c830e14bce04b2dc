//! Typed copies to and from user memory, for control calls. Never under a lock.

use crate::Result;

/// Stores a 32-bit value.
pub(crate) fn put_u32(address: u64, value: u32) -> Result<()> {
    Ok(kif::user().write(address, &value.to_le_bytes())?)
}

/// Loads a 32-bit value.
pub(crate) fn get_u32(address: u64) -> Result<u32> {
    let mut bytes = [0; 4];
    kif::user().read(address, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Loads `N` bytes.
pub(crate) fn get<const N: usize>(address: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    kif::user().read(address, &mut bytes)?;
    Ok(bytes)
}

/// Stores bytes.
pub(crate) fn put(address: u64, bytes: &[u8]) -> Result<()> {
    Ok(kif::user().write(address, bytes)?)
}
