//! Kernels that gzip packed (RFC 1952), unpacked as GRUB would.

use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_with_limit};

use crate::loader::ImageError;

/// What follows the header of a gzip file; `None` if it is none.
pub(crate) fn body(file: &[u8]) -> Option<Result<&[u8], ImageError>> {
    // Magic number and the one method there is.
    file.starts_with(&[0x1f, 0x8b, 8]).then(|| after_header(file))
}

fn after_header(file: &[u8]) -> Result<&[u8], ImageError> {
    let short = || ImageError::Truncated { what: "gzip header", needs: file.len() as u64 + 1, has: file.len() as u64 };
    let flags = *file.get(3).ok_or_else(short)?;
    let mut rest = file.get(10..).ok_or_else(short)?;
    if flags & 4 != 0 {
        let [low, high, ..] = *rest else { return Err(short()) };
        rest = rest.get(2 + usize::from(u16::from_le_bytes([low, high]))..).ok_or_else(short)?;
    }
    // File name and comment, each to a zero.
    for _ in [8, 16].iter().filter(|&bit| flags & bit != 0) {
        let end = rest.iter().position(|&byte| byte == 0).ok_or_else(short)?;
        rest = &rest[end + 1..];
    }
    if flags & 2 != 0 {
        rest = rest.get(2..).ok_or_else(short)?;
    }
    Ok(rest)
}

/// The content, of at most `limit` bytes.
pub(crate) fn unpack(packed: &[u8], limit: u64) -> Result<Vec<u8>, ImageError> {
    decompress_to_vec_with_limit(packed, usize::try_from(limit).unwrap_or(usize::MAX)).map_err(|error| match error.status {
        TINFLStatus::HasMoreOutput => ImageError::NoRoom { what: "unpacked kernel", length: limit, from: 0, to: limit },
        _ => ImageError::Malformed { what: "gzip data" },
    })
}
