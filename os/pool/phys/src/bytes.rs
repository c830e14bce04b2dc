//! Reading integers out of a block at checked offsets.

use crate::FormatError;

/// A named structure within a block.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub what: &'static str,
    pub data: &'a [u8],
}

impl<'a> View<'a> {
    pub const fn new(what: &'static str, data: &'a [u8]) -> Self {
        Self { what, data }
    }
    pub fn error(&self, why: &'static str, value: u64) -> FormatError {
        FormatError::new(self.what, why, value)
    }
    pub fn slice(&self, offset: usize, size: usize) -> Result<&'a [u8], FormatError> {
        let end = offset.checked_add(size).filter(|end| *end <= self.data.len());
        end.map(|end| &self.data[offset..end]).ok_or_else(|| self.error("ends early at byte", offset as u64))
    }
    fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N], FormatError> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(offset, N)?);
        Ok(out)
    }
    pub fn u8(&self, offset: usize) -> Result<u8, FormatError> {
        self.array::<1>(offset).map(|[byte]| byte)
    }
    pub fn u16(&self, offset: usize) -> Result<u16, FormatError> {
        self.array(offset).map(u16::from_le_bytes)
    }
    pub fn u32(&self, offset: usize) -> Result<u32, FormatError> {
        self.array(offset).map(u32::from_le_bytes)
    }
    pub fn u64(&self, offset: usize) -> Result<u64, FormatError> {
        self.array(offset).map(u64::from_le_bytes)
    }
    pub fn u32_be(&self, offset: usize) -> Result<u32, FormatError> {
        self.array(offset).map(u32::from_be_bytes)
    }
    pub fn u64_be(&self, offset: usize) -> Result<u64, FormatError> {
        self.array(offset).map(u64::from_be_bytes)
    }
    pub fn words<const N: usize>(&self, offset: usize) -> Result<[u64; N], FormatError> {
        let mut out = [0; N];
        for (index, word) in out.iter_mut().enumerate() {
            *word = self.u64(offset + index * 8)?;
        }
        Ok(out)
    }
}

/// A count or size from disk as an index; saturates, so that a later bound check refuses it.
pub(crate) fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
