//! The LZ4 block format, decoded.
//!
//! A library would do; but blocks of pointers are mostly zeros, long matches that overlap what they make, and those are copied here by doubling instead of
//! byte by byte: a block of 128 KiB in 17 copies.

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
