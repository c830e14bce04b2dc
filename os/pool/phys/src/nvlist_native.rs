//! Name/value lists as a machine keeps them in memory: what pool history and the heads of resumed send streams hold (format section 3).
//!
//! Little-endian only. A pair starts with its size; the value of a nested list is a placeholder of 24 bytes, and the list itself follows the pair.

use alloc::string::String;
use alloc::vec::Vec;

use crate::FormatError;
use crate::bytes::{View, index};
use crate::nvlist::{self, List, Value};

const DEPTH_MAX: usize = 16;
/// Bytes of a pair before its name.
const PAIR: usize = 16;
const POINTER: usize = 8;

/// Parses a packed list of either encoding by its header.
///
/// # Errors
/// Neither XDR nor little-endian native; what the parsers of the two say.
pub fn parse_either(data: &[u8]) -> Result<List, FormatError> {
    let view = View::new("nvlist", data);
    match (view.u8(0)?, view.u8(1)?) {
        (0, 1) => Cursor { view, at: 4 }.list(0),
        (0, _) => Err(view.error("big-endian native encoding is not supported", 0)),
        _ => nvlist::parse(data),
    }
}

struct Cursor<'a> {
    view: View<'a>,
    at: usize,
}

impl Cursor<'_> {
    fn list(&mut self, depth: usize) -> Result<List, FormatError> {
        if depth > DEPTH_MAX {
            return Err(self.view.error("nested too deeply", depth as u64));
        }
        // Version and flags.
        self.view.slice(self.at, 8)?;
        self.at += 8;
        let mut list = List::default();
        loop {
            let start = self.at;
            let size = index(u64::from(self.view.u32(start)?));
            if size == 0 {
                self.at += 4;
                return Ok(list);
            }
            if size < PAIR || !size.is_multiple_of(8) {
                return Err(self.view.error("impossible pair size at byte", start as u64));
            }
            let pair = View::new("nvlist", self.view.slice(start, size)?);
            self.at += size;
            let name_size = usize::from(pair.u16(4)?);
            let name = text(&pair, PAIR, name_size)?;
            let (count, kind) = (pair.u32(8)?, pair.u32(12)?);
            let value = self.value(&pair, (PAIR + name_size).next_multiple_of(8), kind, index(u64::from(count)), depth)?;
            list.pairs.push((name, value));
        }
    }

    fn value(&mut self, pair: &View<'_>, at: usize, kind: u32, count: usize, depth: usize) -> Result<Value, FormatError> {
        let byte = |at| pair.u8(at).map(u64::from);
        let array = |width: usize| -> Result<Value, FormatError> {
            let bytes = pair.slice(at, count.saturating_mul(width))?;
            Ok(Value::Numbers(bytes.chunks_exact(width).map(|item| item.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))).collect()))
        };
        Ok(match kind {
            1 => Value::Boolean,
            2 | 22 | 23 => Value::Number(byte(at)?),
            3 | 4 => Value::Number(u64::from(pair.u16(at)?)),
            5 | 6 | 21 => Value::Number(u64::from(pair.u32(at)?)),
            7 | 8 | 18 | 27 => Value::Number(pair.u64(at)?),
            9 => Value::Text(text(pair, at, pair.data.len().saturating_sub(at))?),
            10 => Value::Bytes(pair.slice(at, count)?.to_vec()),
            11 | 12 => array(2)?,
            13 | 14 | 24 => array(4)?,
            15 | 16 => array(8)?,
            17 => {
                let mut from = at.saturating_add(count.saturating_mul(POINTER));
                let mut texts = Vec::new();
                for _ in 0..count {
                    let next = text(pair, from, pair.data.len().saturating_sub(from))?;
                    from += next.len() + 1;
                    texts.push(next);
                }
                Value::Texts(texts)
            }
            19 => Value::List(self.list(depth + 1)?),
            20 => {
                // A nested list takes at least its head and its end.
                if count > self.view.data.len() / 12 {
                    return Err(pair.error("array is longer than its list", count as u64));
                }
                Value::Lists((0..count).map(|_| self.list(depth + 1)).collect::<Result<_, _>>()?)
            }
            25 | 26 => array(1)?,
            _ => return Err(pair.error("unknown type", u64::from(kind))),
        })
    }
}

/// The string that starts at `at` and ends with a NUL within `size` bytes.
fn text(view: &View<'_>, at: usize, size: usize) -> Result<String, FormatError> {
    let bytes = view.slice(at, size)?;
    let end = bytes.iter().position(|byte| *byte == 0).ok_or_else(|| view.error("string without an end at byte", at as u64))?;
    core::str::from_utf8(&bytes[..end]).map(String::from).map_err(|_| view.error("string is not UTF-8 at byte", at as u64))
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::parse_either;
    use crate::nvlist::Value;

    /// One pair: a number.
    fn pair(name: &str, kind: u32, count: u32, value: &[u8]) -> Vec<u8> {
        let mut body = name.as_bytes().to_vec();
        body.push(0);
        let name_size = u16::try_from(body.len()).expect("short");
        body.resize((16 + body.len()).next_multiple_of(8) - 16, 0);
        body.extend_from_slice(value);
        body.resize(body.len().next_multiple_of(8), 0);
        let mut out = u32::try_from(body.len() + 16).expect("short").to_le_bytes().to_vec();
        out.extend_from_slice(&name_size.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend(body);
        out
    }

    #[test]
    fn native_lists_with_nested_ones_parse_and_every_cut_is_refused() {
        let head = [0, 0, 0, 0, 1, 0, 0, 0];
        let mut packed = vec![0, 1, 0, 0];
        packed.extend(head);
        packed.extend(pair("object", 8, 1, &7_u64.to_le_bytes()));
        packed.extend(pair("name", 9, 1, b"tank/a\0"));
        packed.extend(pair("inner", 19, 1, &[0; 24]));
        packed.extend(head);
        packed.extend(pair("flag", 1, 0, &[]));
        packed.extend([0; 4]);
        packed.extend(pair("after", 17, 2, &[[0; 16].as_slice(), b"x\0yz\0"].concat()));
        packed.extend([0; 4]);
        let list = parse_either(&packed).expect("parses");
        assert_eq!((list.number("object"), list.text("name")), (Some(7), Some("tank/a")));
        assert_eq!(list.list("inner").and_then(|inner| inner.get("flag")), Some(&Value::Boolean));
        assert_eq!(list.get("after"), Some(&Value::Texts(vec!["x".into(), "yz".into()])));
        for cut in 0..packed.len() {
            assert!(parse_either(&packed[..cut]).is_err(), "cut at {cut}");
        }
    }
}
