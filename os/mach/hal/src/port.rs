//! Port I/O.

use core::arch::asm;

/// A range of I/O ports that its holder may use. Only [`claim`] makes one, and drivers take it by value, so who may touch which
/// device is decided where the kernel is put together.
#[derive(Debug)]
pub struct Ports {
    base: u16,
    count: u16,
}

impl Ports {
    /// Claims ports for a driver. Not checked against other claims: two drivers on one device is a mistake in the assembler.
    #[must_use]
    pub const fn claim(base: u16, count: u16) -> Self {
        Self { base, count }
    }
    fn at(&self, offset: u16) -> u16 {
        assert!(offset < self.count, "port offset {offset} outside a range of {}", self.count);
        self.base.wrapping_add(offset)
    }
    /// Reads a byte.
    #[must_use]
    pub fn read8(&self, offset: u16) -> u8 {
        let value: u8;
        // SAFETY: port input touches no memory; the device is the holder's.
        unsafe { asm!("in al, dx", in("dx") self.at(offset), out("al") value, options(nomem, nostack, preserves_flags)) };
        value
    }
    /// Writes a byte.
    pub fn write8(&self, offset: u16, value: u8) {
        // SAFETY: port output to the holder's device; DMA is not programmed by ports of the devices we drive.
        unsafe { asm!("out dx, al", in("dx") self.at(offset), in("al") value, options(nomem, nostack, preserves_flags)) };
    }
    /// Reads a 16-bit word.
    #[must_use]
    pub fn read16(&self, offset: u16) -> u16 {
        let value: u16;
        // SAFETY: as for `read8`.
        unsafe { asm!("in ax, dx", in("dx") self.at(offset), out("ax") value, options(nomem, nostack, preserves_flags)) };
        value
    }
    /// Writes a 16-bit word.
    pub fn write16(&self, offset: u16, value: u16) {
        // SAFETY: as for `write8`.
        unsafe { asm!("out dx, ax", in("dx") self.at(offset), in("ax") value, options(nomem, nostack, preserves_flags)) };
    }
    /// Reads a 32-bit word.
    #[must_use]
    pub fn read32(&self, offset: u16) -> u32 {
        let value: u32;
        // SAFETY: as for `read8`.
        unsafe { asm!("in eax, dx", in("dx") self.at(offset), out("eax") value, options(nomem, nostack, preserves_flags)) };
        value
    }
    /// Writes a 32-bit word.
    pub fn write32(&self, offset: u16, value: u32) {
        // SAFETY: as for `write8`.
        unsafe { asm!("out dx, eax", in("dx") self.at(offset), in("eax") value, options(nomem, nostack, preserves_flags)) };
    }
}
