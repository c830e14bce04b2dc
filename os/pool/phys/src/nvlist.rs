//! Name/value lists in XDR, as labels and the MOS config object hold them.

use alloc::string::String;
use alloc::vec::Vec;

use crate::FormatError;
use crate::bytes::{View, index};

const DEPTH_MAX: usize = 16;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Boolean,
    /// Every integer type, widened; signed ones keep their bits.
    Number(u64),
    Text(String),
    Bytes(Vec<u8>),
    Numbers(Vec<u64>),
    Texts(Vec<String>),
    List(List),
    Lists(Vec<List>),
}

/// A list; names are unique and kept in the order found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    pub pairs: Vec<(String, Value)>,
}

impl List {
    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.pairs.iter().find_map(|(key, value)| (key == name).then_some(value))
    }
    /// Sets `name`, replacing an earlier value in its place.
    pub fn set(&mut self, name: &str, value: Value) {
        match self.pairs.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => self.pairs.push((String::from(name), value)),
        }
    }
    /// Removes `name`; gives what it was.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let at = self.pairs.iter().position(|(key, _)| key == name)?;
        Some(self.pairs.remove(at).1)
    }
    /// The number `name`, if it is one.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        if let Some(Value::Number(value)) = self.get(name) { Some(*value) } else { None }
    }
    /// The string `name`, if it is one.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        if let Some(Value::Text(value)) = self.get(name) { Some(value) } else { None }
    }
    /// The nested list `name`, if it is one.
    #[must_use]
    pub fn list(&self, name: &str) -> Option<&Self> {
        if let Some(Value::List(value)) = self.get(name) { Some(value) } else { None }
    }
    /// The nested lists `name`; none if absent.
    #[must_use]
    pub fn lists(&self, name: &str) -> &[Self] {
        if let Some(Value::Lists(value)) = self.get(name) { value } else { &[] }
    }
}

/// Parses a packed nvlist with its four-byte header.
///
/// # Errors
/// Native encoding, unknown types, lengths that do not fit, nesting past 16 levels.
pub fn parse(data: &[u8]) -> Result<List, FormatError> {
    let view = View::new("nvlist", data);
    let header = view.u32_be(0)?;
    if header >> 24 != 1 {
        return Err(view.error("only XDR encoding is supported", u64::from(header)));
    }
    let mut cursor = Cursor { view, at: 4 };
    cursor.list(0)
}

/// Packs a list with the XDR header, as labels hold it. Values written are those this project makes: booleans, 64-bit numbers, strings, number
/// arrays, bytes and lists.
#[must_use]
pub fn encode(list: &List) -> Vec<u8> {
    let mut out = [1, 1, 0, 0].to_vec();
    encode_list(list, &mut out);
    out
}

fn put32(out: &mut Vec<u8>, value: usize) {
    out.extend_from_slice(&u32::try_from(value).expect("nvlists stay below 4 GiB").to_be_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put32(out, text.len());
    put_bytes(out, text.as_bytes());
}

fn encode_list(list: &List, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1]);
    for (name, value) in &list.pairs {
        let start = out.len();
        // Sizes are filled in once the value is there.
        out.extend_from_slice(&[0; 8]);
        put_text(out, name);
        let (kind, count, decoded) = match value {
            Value::Boolean => (1, 0, 0),
            Value::Number(_) => (8, 1, 8),
            Value::Text(text) => (9, 1, text.len() + 1),
            Value::Bytes(bytes) => (10, bytes.len(), bytes.len()),
            Value::Numbers(numbers) => (16, numbers.len(), numbers.len() * 8),
            Value::Texts(texts) => (17, texts.len(), texts.iter().map(|text| text.len() + 9).sum()),
            Value::List(_) => (19, 1, 24),
            Value::Lists(lists) => (20, lists.len(), lists.len() * 32),
        };
        put32(out, kind);
        put32(out, count);
        match value {
            Value::Boolean => {}
            Value::Number(number) => out.extend_from_slice(&number.to_be_bytes()),
            Value::Text(text) => put_text(out, text),
            Value::Bytes(bytes) => put_bytes(out, bytes),
            Value::Numbers(numbers) => {
                put32(out, numbers.len());
                numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
            }
            Value::Texts(texts) => texts.iter().for_each(|text| put_text(out, text)),
            Value::List(list) => encode_list(list, out),
            Value::Lists(lists) => lists.iter().for_each(|list| encode_list(list, out)),
        }
        let encoded = u32::try_from(out.len() - start).expect("below 4 GiB");
        let decoded = (16 + name.len() + 1).next_multiple_of(8) + decoded.next_multiple_of(8);
        out[start..start + 4].copy_from_slice(&encoded.to_be_bytes());
        out[start + 4..start + 8].copy_from_slice(&u32::try_from(decoded).expect("below 4 GiB").to_be_bytes());
    }
    out.extend_from_slice(&[0; 8]);
}

struct Cursor<'a> {
    view: View<'a>,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn u32(&mut self) -> Result<u32, FormatError> {
        let value = self.view.u32_be(self.at)?;
        self.at += 4;
        Ok(value)
    }
    fn u64(&mut self) -> Result<u64, FormatError> {
        let value = self.view.u64_be(self.at)?;
        self.at += 8;
        Ok(value)
    }
    fn opaque(&mut self, size: u32) -> Result<&'a [u8], FormatError> {
        let size = index(u64::from(size));
        let bytes = self.view.slice(self.at, size)?;
        self.at += size.next_multiple_of(4);
        Ok(bytes)
    }
    fn text(&mut self) -> Result<String, FormatError> {
        let size = self.u32()?;
        let at = self.at;
        let text = core::str::from_utf8(self.opaque(size)?);
        text.map(String::from).map_err(|_| self.view.error("string is not UTF-8 at byte", at as u64))
    }
    fn items<T>(&mut self, count: u32, mut item: impl FnMut(&mut Self) -> Result<T, FormatError>) -> Result<Vec<T>, FormatError> {
        // An item takes at least four bytes, so a count past the data's end is refused before it allocates.
        if index(u64::from(count)) > self.view.data.len().saturating_sub(self.at) / 4 {
            return Err(self.view.error("array is longer than its list", u64::from(count)));
        }
        (0..count).map(|_| item(self)).collect()
    }
    fn array(&mut self, item: impl FnMut(&mut Self) -> Result<u64, FormatError>) -> Result<Value, FormatError> {
        let count = self.u32()?;
        self.items(count, item).map(Value::Numbers)
    }
    fn list(&mut self, depth: usize) -> Result<List, FormatError> {
        if depth > DEPTH_MAX {
            return Err(self.view.error("nested too deeply", depth as u64));
        }
        let (_version, _flags) = (self.u32()?, self.u32()?);
        let mut list = List::default();
        loop {
            let start = self.at;
            let (encoded, decoded) = (self.u32()?, self.u32()?);
            if encoded == 0 && decoded == 0 {
                return Ok(list);
            }
            let name = self.text()?;
            let kind = self.u32()?;
            let count = self.u32()?;
            let value = self.value(kind, count, depth)?;
            let end = start.saturating_add(index(u64::from(encoded)));
            if end != self.at {
                return Err(self.view.error("pair size does not match its value at byte", start as u64));
            }
            list.pairs.push((name, value));
        }
    }
    fn value(&mut self, kind: u32, count: u32, depth: usize) -> Result<Value, FormatError> {
        let narrow = |cursor: &mut Self| cursor.u32().map(u64::from);
        Ok(match kind {
            1 => Value::Boolean,
            2..=6 | 21..=23 => Value::Number(u64::from(self.u32()?)),
            7 | 8 | 18 | 27 => Value::Number(self.u64()?),
            9 => Value::Text(self.text()?),
            10 => Value::Bytes(self.opaque(count)?.to_vec()),
            11..=14 | 24..=26 => self.array(narrow)?,
            15 | 16 => self.array(Self::u64)?,
            17 => Value::Texts(self.items(count, Self::text)?),
            19 => Value::List(self.list(depth + 1)?),
            20 => Value::Lists(self.items(count, |cursor| cursor.list(depth + 1))?),
            _ => return Err(self.view.error("unknown type", u64::from(kind))),
        })
    }
}
