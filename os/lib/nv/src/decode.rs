//! Decoding: bytes from outside become lists or an error.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::encode::MAGIC;
use crate::{DEPTH_MAX, NvList, Value};

/// What was wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Not a message, or of another version.
    Magic,
    /// Ends in the middle.
    Truncated,
    /// Bytes follow the end.
    Trailing,
    /// A type number we do not know.
    Type(u8),
    /// A boolean that is neither 0 nor 1.
    Bool(u8),
    /// An empty name.
    EmptyName,
    /// A name that was there before.
    RepeatedName,
    /// Text that is not UTF-8.
    Utf8,
    /// Nested too deep.
    Depth,
}

/// The bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Where, from the start of the message.
    pub offset: usize,
    pub reason: Reason,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: ", self.offset)?;
        match self.reason {
            Reason::Magic => f.write_str("not a name/value list of version 1"),
            Reason::Truncated => f.write_str("ends in the middle"),
            Reason::Trailing => f.write_str("bytes follow the end"),
            Reason::Type(number) => write!(f, "unknown type {number}"),
            Reason::Bool(number) => write!(f, "boolean {number}"),
            Reason::EmptyName => f.write_str("empty name"),
            Reason::RepeatedName => f.write_str("repeated name"),
            Reason::Utf8 => f.write_str("text is not UTF-8"),
            Reason::Depth => f.write_str("nested too deep"),
        }
    }
}

impl NvList {
    /// Decodes a message.
    ///
    /// # Errors
    /// The first thing that is wrong, with its offset.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(MAGIC.len()).map_err(|_| DecodeError { offset: 0, reason: Reason::Magic })? != MAGIC {
            return Err(DecodeError { offset: 0, reason: Reason::Magic });
        }
        let list = reader.list(1)?;
        if reader.at != bytes.len() {
            return Err(reader.error(Reason::Trailing));
        }
        Ok(list)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    const fn error(&self, reason: Reason) -> DecodeError {
        DecodeError { offset: self.at, reason }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or(self.error(Reason::Truncated))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn count(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn sized(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = u32::from_le_bytes(self.array()?);
        self.take(usize::try_from(length).map_err(|_| self.error(Reason::Truncated))?)
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let at = self.error(Reason::Utf8);
        core::str::from_utf8(self.sized()?).map(ToString::to_string).map_err(|_| at)
    }

    /// Reads `count` elements. Each takes at least a byte, so memory is bounded by the input, not by the count.
    fn many<T>(&mut self, mut element: impl FnMut(&mut Self) -> Result<T, DecodeError>) -> Result<Vec<T>, DecodeError> {
        let count = self.count()?;
        let mut out = Vec::new();
        for _ in 0..count {
            out.push(element(self)?);
        }
        Ok(out)
    }

    fn list(&mut self, depth: usize) -> Result<NvList, DecodeError> {
        if depth > DEPTH_MAX {
            return Err(self.error(Reason::Depth));
        }
        let pairs = self.many(|reader| {
            let start = reader.at;
            let length = reader.byte()?;
            if length == 0 {
                return Err(DecodeError { offset: start, reason: Reason::EmptyName });
            }
            let name = reader.take(length.into())?;
            let name = core::str::from_utf8(name).map_err(|_| DecodeError { offset: start, reason: Reason::Utf8 })?;
            Ok((start, name.to_string(), reader.value(depth)?))
        })?;
        // By sorting: a hostile message of 64 Ki pairs must not cost their square.
        let mut names: Vec<(&str, usize)> = pairs.iter().map(|(start, name, _)| (name.as_str(), *start)).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(DecodeError { offset: pair[1].1, reason: Reason::RepeatedName });
        }
        Ok(NvList { pairs: pairs.into_iter().map(|(_, name, value)| (name, value)).collect() })
    }

    fn value(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let at = self.at;
        Ok(match self.byte()? {
            1 => match self.byte()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(DecodeError { offset: at + 1, reason: Reason::Bool(other) }),
            },
            2 => Value::Number(self.number()?),
            3 => Value::Signed(i64::from_le_bytes(self.array()?)),
            4 => Value::String(self.text()?),
            5 => Value::Bytes(self.sized()?.to_vec()),
            6 => Value::List(self.list(depth + 1)?),
            7 => Value::Strings(self.many(Self::text)?),
            8 => Value::Numbers(self.many(Self::number)?),
            9 => Value::Lists(self.many(|reader| reader.list(depth + 1))?),
            other => return Err(DecodeError { offset: at, reason: Reason::Type(other) }),
        })
    }
}
