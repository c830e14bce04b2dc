//! Block compression.

use alloc::vec;
use alloc::vec::Vec;

/// Compressed bytes that do not decode to exactly the wanted size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// Longest match, shortest match and window of lzjb.
const LZJB_MATCH_MIN: usize = 3;
const LZJB_MATCH_MAX: usize = LZJB_MATCH_MIN + 63;
const LZJB_WINDOW: usize = 1024;
/// A zle control byte below this announces literals, from it on zeros.
const ZLE_LITERALS: usize = 64;

/// Decodes LZ4 as ZFS frames it: a big-endian byte count, then one raw LZ4 block; padding after it is ignored.
///
/// # Errors
/// The bytes do not decode to exactly `out.len()` bytes.
pub fn lz4_decode(data: &[u8], out: &mut [u8]) -> Result<(), Damaged> {
    let (count, rest) = data.split_first_chunk::<4>().ok_or(Damaged)?;
    let count = usize::try_from(u32::from_be_bytes(*count)).map_err(|_| Damaged)?;
    let block = rest.get(..count).ok_or(Damaged)?;
    crate::lz4::decode(block, out)
}

/// Encodes LZ4 with the ZFS frame. `None` if the result would exceed `limit` bytes.
#[must_use]
pub fn lz4_encode(data: &[u8], limit: usize) -> Option<Vec<u8>> {
    // Blocks of pointers are a few of them and then zeros, which would be compared word by word: the end is one match in any case.
    let zeros = zeros_at_end(data);
    let head = if zeros < ZEROS_MIN { data } else { &data[..=data.len() - zeros] };
    let mut out = vec![0; lz4_flex::block::get_maximum_output_size(head.len()) + 4];
    let size = lz4_flex::block::compress_into(head, &mut out[4..]).ok()?;
    out.truncate(size + 4);
    if head.len() < data.len() {
        crate::lz4::add_repeats(&mut out, 4, data.len() - head.len());
    }
    let count = u32::try_from(out.len() - 4).ok()?;
    out[..4].copy_from_slice(&count.to_be_bytes());
    (out.len() <= limit).then_some(out)
}

/// From so many zeros on the end of a block is encoded apart.
const ZEROS_MIN: usize = 256;

/// How many bytes at the end are zero, whole pieces of 64.
fn zeros_at_end(data: &[u8]) -> usize {
    let is_zero = |piece: &&[u8; 64]| piece.as_chunks::<8>().0.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0;
    data.as_rchunks::<64>().1.iter().rev().take_while(is_zero).count() * 64
}

/// Decodes a zlib stream (RFC 1950), which is what the nine `gzip-N` levels store.
///
/// # Errors
/// The bytes do not decode to exactly `out.len()` bytes.
pub fn gzip_decode(data: &[u8], out: &mut [u8]) -> Result<(), Damaged> {
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
    let flags = inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut state = alloc::boxed::Box::new(DecompressorOxide::new());
    let (status, _, size) = decompress(&mut state, data, out, 0, flags);
    if status == miniz_oxide::inflate::TINFLStatus::Done && size == out.len() { Ok(()) } else { Err(Damaged) }
}

/// Encodes a zlib stream (RFC 1950) with effort `level`, 1 to 9. `None` if the result would exceed `limit` bytes.
#[must_use]
pub fn gzip_encode(data: &[u8], level: u8, limit: usize) -> Option<Vec<u8>> {
    use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, TDEFLStatus, compress, create_comp_flags_from_zip_params};
    /// Window bits above zero ask for the zlib header and sum.
    const ZLIB: i32 = 1;
    let mut state = alloc::boxed::Box::new(CompressorOxide::new(create_comp_flags_from_zip_params(i32::from(level.clamp(1, 9)), ZLIB, 0)));
    let mut out = vec![0; limit];
    let (status, _, size) = compress(&mut state, data, &mut out, TDEFLFlush::Finish);
    out.truncate(size);
    (status == TDEFLStatus::Done).then_some(out)
}

/// What a zstd frame begins with; ZFS leaves it out.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// Bytes of the two words that ZFS puts in front, and what the second says: version 1.4.5, level 3.
const ZSTD_HEADER: usize = 8;
const ZSTD_VERSION_LEVEL: u32 = 10_405 << 8 | 3;
/// Largest window a block can need.
const ZSTD_WINDOW_MAX: u64 = 32 << 20;

/// Decodes zstd as ZFS frames it: big-endian byte count, version and level, then a frame without its magic number.
///
/// # Errors
/// The bytes do not decode to exactly `out.len()` bytes.
pub fn zstd_decode(data: &[u8], out: &mut [u8]) -> Result<(), Damaged> {
    let (count, rest) = data.split_first_chunk::<4>().ok_or(Damaged)?;
    let count = usize::try_from(u32::from_be_bytes(*count)).map_err(|_| Damaged)?;
    let body = rest.get(4..).and_then(|rest| rest.get(..count)).ok_or(Damaged)?;
    let frame: Vec<u8> = ZSTD_MAGIC.iter().chain(body).copied().collect();
    let mut decoder = ruzstd::decoding::FrameDecoder::new();
    decoder.set_max_window_size(ZSTD_WINDOW_MAX);
    match decoder.decode_all(&frame, out) {
        Ok(size) if size == out.len() => Ok(()),
        _ => Err(Damaged),
    }
}

/// Encodes zstd with the ZFS frame. `None` if the result would exceed `limit` bytes.
#[must_use]
pub fn zstd_encode(data: &[u8], limit: usize) -> Option<Vec<u8>> {
    let frame = ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest);
    let body = frame.strip_prefix(&ZSTD_MAGIC)?;
    if ZSTD_HEADER + body.len() > limit {
        return None;
    }
    let mut out = Vec::with_capacity(ZSTD_HEADER + body.len());
    out.extend_from_slice(&u32::try_from(body.len()).ok()?.to_be_bytes());
    out.extend_from_slice(&ZSTD_VERSION_LEVEL.to_be_bytes());
    out.extend_from_slice(body);
    Some(out)
}

/// Decodes lzjb: a control byte for eight items, least significant bit first; 0 = literal, 1 = copy of 3 to 66 bytes from up to
/// 1023 bytes back.
///
/// # Errors
/// The input ends early or a copy reaches before the output's start.
pub fn lzjb_decode(data: &[u8], out: &mut [u8]) -> Result<(), Damaged> {
    let mut input = data.iter().copied();
    let mut filled = 0;
    while filled < out.len() {
        let control = input.next().ok_or(Damaged)?;
        for item in 0..8 {
            if filled == out.len() {
                break;
            }
            let first = input.next().ok_or(Damaged)?;
            if control >> item & 1 == 0 {
                out[filled] = first;
                filled += 1;
                continue;
            }
            let second = input.next().ok_or(Damaged)?;
            let length = usize::from(first >> 2) + LZJB_MATCH_MIN;
            let distance = usize::from(u16::from_be_bytes([first, second]) & 0x3FF);
            if distance == 0 || distance > filled {
                return Err(Damaged);
            }
            for _ in 0..length.min(out.len() - filled) {
                out[filled] = out[filled - distance];
                filled += 1;
            }
        }
    }
    Ok(())
}

/// Encodes lzjb with a hash of the last position of each three-byte group. `None` if the result would exceed `limit` bytes.
#[must_use]
pub fn lzjb_encode(data: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut last = [usize::MAX; 1024];
    let mut out = Vec::with_capacity(limit);
    let (mut position, mut control, mut item) = (0, 0, 8);
    while position < data.len() {
        if item == 8 {
            (control, item) = (out.len(), 0);
            out.push(0);
        }
        let found = data.get(position..position + LZJB_MATCH_MIN).and_then(|group| {
            let key = group.iter().fold(0_usize, |key, byte| key.wrapping_mul(0x9E5) ^ usize::from(*byte)) % last.len();
            let candidate = core::mem::replace(&mut last[key], position);
            let near = candidate < position && position - candidate < LZJB_WINDOW;
            (near && data[candidate..candidate + LZJB_MATCH_MIN] == *group).then_some(candidate)
        });
        if let Some(candidate) = found {
            let room = (data.len() - position).min(LZJB_MATCH_MAX);
            let length = (LZJB_MATCH_MIN..room).find(|at| data[candidate + at] != data[position + at]).unwrap_or(room);
            let code = u16::try_from((length - LZJB_MATCH_MIN) << 10 | (position - candidate)).ok()?;
            out[control] |= 1 << item;
            out.extend_from_slice(&code.to_be_bytes());
            position += length;
        } else {
            out.push(data[position]);
            position += 1;
        }
        item += 1;
        if out.len() > limit {
            return None;
        }
    }
    Some(out)
}

/// Decodes zle: a control byte c announces c+1 literals (c < 64) or c−63 zero bytes.
///
/// # Errors
/// The input ends early or announces more than fits.
pub fn zle_decode(data: &[u8], out: &mut [u8]) -> Result<(), Damaged> {
    let (mut input, mut filled) = (data, 0);
    while filled < out.len() {
        let (control, rest) = input.split_first().ok_or(Damaged)?;
        let control = usize::from(*control);
        if control < ZLE_LITERALS {
            let (literals, rest) = rest.split_at_checked(control + 1).ok_or(Damaged)?;
            out.get_mut(filled..filled + literals.len()).ok_or(Damaged)?.copy_from_slice(literals);
            filled += literals.len();
            input = rest;
        } else {
            let zeros = control + 1 - ZLE_LITERALS;
            out.get_mut(filled..filled + zeros).ok_or(Damaged)?.fill(0);
            filled += zeros;
            input = rest;
        }
    }
    Ok(())
}

/// Encodes zle. `None` if the result would exceed `limit` bytes.
#[must_use]
pub fn zle_encode(data: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let zeros = rest.iter().take(256 - ZLE_LITERALS).take_while(|byte| **byte == 0).count();
        let taken = if zeros > 0 {
            out.push(u8::try_from(zeros - 1 + ZLE_LITERALS).ok()?);
            zeros
        } else {
            let literals = rest.iter().take(ZLE_LITERALS).take_while(|byte| **byte != 0).count();
            out.push(u8::try_from(literals - 1).ok()?);
            out.extend_from_slice(&rest[..literals]);
            literals
        };
        rest = &rest[taken..];
        if out.len() > limit {
            return None;
        }
    }
    Some(out)
}
