//! The LZ4 block format, decoded; and what a block of zeros at the end is encoded to.
//!
//! A library would do; but blocks of pointers are mostly zeros, long matches that overlap what they make, and those are copied here by doubling instead of
//! byte by byte: a block of 128 KiB in 17 copies.

use alloc::vec::Vec;

use crate::Damaged;

/// The shortest match.
const MATCH_MIN: usize = 4;
/// A length in a token that goes on behind it.
const LONG: usize = 15;

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<usize, Damaged> {
        let (first, rest) = self.0.split_first().ok_or(Damaged)?;
        self.0 = rest;
        Ok(usize::from(*first))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A length of which the token gave `short`.
    fn length(&mut self, short: usize) -> Result<usize, Damaged> {
        let mut length = short;
        if short == LONG {
            loop {
                let more = self.byte()?;
                length += more;
                if more != 255 {
                    break;
                }
            }
        }
        Ok(length)
    }
}

/// Literals that a block ends with, where it has a match.
const LAST: usize = 5;

/// Lengthens what the block at `from` decodes to by `count` more of its last byte.
pub(crate) fn add_repeats(out: &mut Vec<u8>, from: usize, count: usize) {
    // Its last sequence is one of literals alone: it gets a match.
    let mut at = from;
    let last = loop {
        let mut input = Input(&out[at..]);
        let token = input.byte().expect("a block ends with a sequence of literals");
        let literals = input.length(token >> 4).expect("the encoder's length");
        input.take(literals).expect("the encoder's literals");
        if input.0.is_empty() {
            break at;
        }
        input.take(2).expect("the encoder's distance");
        input.length(token & 15).expect("the encoder's length");
        at = out.len() - input.0.len();
    };
    let byte = out[out.len() - 1];
    let more = count - LAST - MATCH_MIN;
    out[last] |= u8::try_from(more.min(LONG)).expect("four bits");
    out.extend_from_slice(&[1, 0]);
    if let Some(long) = more.checked_sub(LONG) {
        out.resize(out.len() + long / 255, 255);
        out.push(u8::try_from(long % 255).expect("below 255"));
    }
    out.push(u8::try_from(LAST << 4).expect("four bits"));
    out.resize(out.len() + LAST, byte);
}

/// Decodes one block into exactly `out`.
pub(crate) fn decode(block: &[u8], out: &mut [u8]) -> Result<(), Damaged> {
    let mut input = Input(block);
    let mut at = 0;
    loop {
        let token = input.byte()?;
        let literals = input.length(token >> 4)?;
        out.get_mut(at..at + literals).ok_or(Damaged)?.copy_from_slice(input.take(literals)?);
        at += literals;
        // The last sequence has no match.
        if input.0.is_empty() {
            return if at == out.len() { Ok(()) } else { Err(Damaged) };
        }
        let distance = input.byte()? | input.byte()? << 8;
        let length = input.length(token & 15)? + MATCH_MIN;
        let start = at.checked_sub(distance).filter(|_| distance > 0).ok_or(Damaged)?;
        if length > out.len() - at {
            return Err(Damaged);
        }
        // What is there already repeats with the distance: each turn copies all of it.
        let mut done = 0;
        while done < length {
            let part = (distance + done).min(length - done);
            out.copy_within(start..start + part, at + done);
            done += part;
        }
        at += length;
    }
}
