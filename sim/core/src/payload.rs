//! Saved state: kind, version, named fields.
//!
//! ```text
//! payload := "OPL1" kind:str version:u32 count:u32 field* checksum:u64
//! field   := name:str tag:u8 value
//! str     := len:u32 bytes          all integers little-endian
//! ```
//! The checksum is the first 8 bytes of the BLAKE3 hash of everything before it; nested payloads carry their own.

use std::fmt;

const MAGIC: &[u8; 4] = b"OPL1";

/// One field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    Wide(u128),
    Text(String),
    Bytes(Vec<u8>),
    Numbers(Vec<u64>),
    Nested(Payload),
    List(Vec<Payload>),
}

/// Named, versioned state of one part of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    pub kind: String,
    pub version: u32,
    fields: Vec<(String, Value)>,
}

/// Why saved bytes were refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The bytes end inside a field.
    Truncated,
    /// They do not start with a payload's magic.
    Magic,
    /// The checksum of the payload of this kind does not match.
    Checksum { kind: String },
    /// A tag, string or count makes no sense.
    Malformed,
    /// A payload of another kind was found.
    Kind { expected: String, found: String },
    /// The version is not one that this program can load.
    Version { kind: String, found: u32 },
    /// A field is absent or of another type.
    Field { kind: String, name: String },
    /// A field's value is impossible.
    Value { kind: String, name: String },
}

impl fmt::Display for LoadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Truncated => write!(out, "saved state is cut short"),
            LoadError::Magic => write!(out, "not a saved state (magic does not match)"),
            LoadError::Checksum { kind } => write!(out, "checksum of saved `{kind}` does not match"),
            LoadError::Malformed => write!(out, "saved state is malformed"),
            LoadError::Kind { expected, found } => write!(out, "saved state is of kind `{found}`, expected `{expected}`"),
            LoadError::Version { kind, found } => write!(out, "saved `{kind}` has version {found}, which cannot be loaded"),
            LoadError::Field { kind, name } => write!(out, "saved `{kind}` lacks field `{name}` or has it with another type"),
            LoadError::Value { kind, name } => write!(out, "saved `{kind}`: field `{name}` has an impossible value"),
        }
    }
}

impl std::error::Error for LoadError {}

impl Payload {
    /// Makes an empty payload.
    pub fn new(kind: &str, version: u32) -> Payload {
        Payload { kind: kind.to_owned(), version, fields: Vec::new() }
    }

    /// Appends a field.
    pub fn put(&mut self, name: &str, value: Value) -> &mut Self {
        self.fields.push((name.to_owned(), value));
        self
    }

    /// Appends a number.
    pub fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.put(name, Value::Number(value))
    }

    /// Appends bytes.
    pub fn bytes(&mut self, name: &str, value: &[u8]) -> &mut Self {
        self.put(name, Value::Bytes(value.to_vec()))
    }

    /// Checks kind and version.
    pub fn expect(&self, kind: &str, version: u32) -> Result<(), LoadError> {
        if self.kind != kind {
            return Err(LoadError::Kind { expected: kind.to_owned(), found: self.kind.clone() });
        }
        if self.version != version {
            return Err(LoadError::Version { kind: self.kind.clone(), found: self.version });
        }
        Ok(())
    }

    /// All fields in order.
    pub fn fields(&self) -> &[(String, Value)] {
        &self.fields
    }

    fn missing(&self, name: &str) -> LoadError {
        LoadError::Field { kind: self.kind.clone(), name: name.to_owned() }
    }

    /// The error for a field whose value the owner refuses.
    pub fn refused(&self, name: &str) -> LoadError {
        LoadError::Value { kind: self.kind.clone(), name: name.to_owned() }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    /// Reads a number.
    pub fn get_number(&self, name: &str) -> Result<u64, LoadError> {
        if let Some(Value::Number(value)) = self.get(name) { Ok(*value) } else { Err(self.missing(name)) }
    }

    /// Reads a 128-bit number.
    pub fn get_wide(&self, name: &str) -> Result<u128, LoadError> {
        if let Some(Value::Wide(value)) = self.get(name) { Ok(*value) } else { Err(self.missing(name)) }
    }

    /// Reads bytes.
    pub fn get_bytes(&self, name: &str) -> Result<&[u8], LoadError> {
        if let Some(Value::Bytes(value)) = self.get(name) { Ok(value) } else { Err(self.missing(name)) }
    }

    /// Reads text.
    pub fn get_text(&self, name: &str) -> Result<&str, LoadError> {
        if let Some(Value::Text(value)) = self.get(name) { Ok(value) } else { Err(self.missing(name)) }
    }

    /// Reads an array of numbers.
    pub fn get_numbers(&self, name: &str) -> Result<&[u64], LoadError> {
        if let Some(Value::Numbers(value)) = self.get(name) { Ok(value) } else { Err(self.missing(name)) }
    }

    /// Reads a nested payload.
    pub fn get_nested(&self, name: &str) -> Result<&Payload, LoadError> {
        if let Some(Value::Nested(value)) = self.get(name) { Ok(value) } else { Err(self.missing(name)) }
    }

    /// Reads a list of payloads.
    pub fn get_list(&self, name: &str) -> Result<&[Payload], LoadError> {
        if let Some(Value::List(value)) = self.get(name) { Ok(value) } else { Err(self.missing(name)) }
    }

    /// Lines that say where `self` and `other` differ, with the path of each field.
    pub fn diff(&self, other: &Payload) -> Vec<String> {
        let mut lines = Vec::new();
        self.diff_into(other, &self.kind, &mut lines);
        lines
    }

    fn diff_into(&self, other: &Payload, path: &str, lines: &mut Vec<String>) {
        if (&self.kind, self.version) != (&other.kind, other.version) {
            lines.push(format!("{path}: {} v{} / {} v{}", self.kind, self.version, other.kind, other.version));
            return;
        }
        for (name, mine) in &self.fields {
            let here = format!("{path}.{name}");
            match (mine, other.get(name)) {
                (_, None) => lines.push(format!("{here}: only on the left")),
                (mine, Some(theirs)) => diff_value(mine, theirs, &here, lines),
            }
        }
        for (name, _) in &other.fields {
            if self.get(name).is_none() {
                lines.push(format!("{path}.{name}: only on the right"));
            }
        }
    }

    /// Turns the payload into bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        put_block(out, self.kind.as_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        put_len(out, self.fields.len());
        for (name, value) in &self.fields {
            put_block(out, name.as_bytes());
            match value {
                Value::Number(number) => {
                    out.push(0);
                    out.extend_from_slice(&number.to_le_bytes());
                }
                Value::Wide(number) => {
                    out.push(1);
                    out.extend_from_slice(&number.to_le_bytes());
                }
                Value::Text(text) => {
                    out.push(2);
                    put_block(out, text.as_bytes());
                }
                Value::Bytes(bytes) => {
                    out.push(3);
                    put_block(out, bytes);
                }
                Value::Numbers(numbers) => {
                    out.push(4);
                    put_len(out, numbers.len());
                    for number in numbers {
                        out.extend_from_slice(&number.to_le_bytes());
                    }
                }
                Value::Nested(payload) => {
                    out.push(5);
                    payload.encode_into(out);
                }
                Value::List(payloads) => {
                    out.push(6);
                    put_len(out, payloads.len());
                    for payload in payloads {
                        payload.encode_into(out);
                    }
                }
            }
        }
        let sum = checksum(&out[start..]);
        out.extend_from_slice(&sum);
    }

    /// Parses bytes made by [`Payload::encode`]; all of them.
    pub fn decode(bytes: &[u8]) -> Result<Payload, LoadError> {
        let mut reader = Reader { bytes, at: 0 };
        let payload = reader.payload(0)?;
        if reader.at == bytes.len() { Ok(payload) } else { Err(LoadError::Malformed) }
    }
}

fn diff_value(mine: &Value, theirs: &Value, here: &str, lines: &mut Vec<String>) {
    match (mine, theirs) {
        (Value::Nested(mine), Value::Nested(theirs)) => mine.diff_into(theirs, here, lines),
        (Value::List(mine), Value::List(theirs)) if mine.len() == theirs.len() => {
            for (index, (mine, theirs)) in mine.iter().zip(theirs).enumerate() {
                mine.diff_into(theirs, &format!("{here}[{index}]"), lines);
            }
        }
        (Value::Bytes(mine), Value::Bytes(theirs)) if mine.len() == theirs.len() => {
            if let Some(at) = mine.iter().zip(theirs).position(|(left, right)| left != right) {
                let count = mine.iter().zip(theirs).filter(|(left, right)| left != right).count();
                lines.push(format!("{here}: {count} bytes differ, first at {at:#x}: {:#04x} / {:#04x}", mine[at], theirs[at]));
            }
        }
        (Value::Numbers(mine), Value::Numbers(theirs)) if mine.len() == theirs.len() => {
            for (index, (left, right)) in mine.iter().zip(theirs).enumerate().filter(|(_, (left, right))| left != right) {
                lines.push(format!("{here}[{index}]: {left:#x} / {right:#x}"));
            }
        }
        (Value::Number(left), Value::Number(right)) if left != right => lines.push(format!("{here}: {left:#x} / {right:#x}")),
        (mine, theirs) if mine != theirs => lines.push(format!("{here}: {mine:?} / {theirs:?}")),
        _ => {}
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("a payload field is smaller than 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
}

fn put_block(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let hash = blake3::hash(bytes);
    let mut sum = [0; 8];
    sum.copy_from_slice(&hash.as_bytes()[..8]);
    sum
}

/// Deepest nesting accepted: a machine has board, device, queue.
const DEPTH_MAX: u32 = 16;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], LoadError> {
        let end = self.at.checked_add(len).ok_or(LoadError::Truncated)?;
        let slice = self.bytes.get(self.at..end).ok_or(LoadError::Truncated)?;
        self.at = end;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn len(&mut self) -> Result<usize, LoadError> {
        usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|_| LoadError::Malformed)
    }

    fn block(&mut self) -> Result<&'a [u8], LoadError> {
        let len = self.len()?;
        self.take(len)
    }

    fn text(&mut self) -> Result<String, LoadError> {
        let bytes = self.block()?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| LoadError::Malformed)
    }

    fn payload(&mut self, depth: u32) -> Result<Payload, LoadError> {
        if depth > DEPTH_MAX {
            return Err(LoadError::Malformed);
        }
        let start = self.at;
        if &self.array::<4>()? != MAGIC {
            return Err(LoadError::Magic);
        }
        let kind = self.text()?;
        let mut payload = Payload::new(&kind, u32::from_le_bytes(self.array()?));
        for _ in 0..self.len()? {
            let name = self.text()?;
            let [tag] = self.array()?;
            let value = match tag {
                0 => Value::Number(u64::from_le_bytes(self.array()?)),
                1 => Value::Wide(u128::from_le_bytes(self.array()?)),
                2 => Value::Text(self.text()?),
                3 => Value::Bytes(self.block()?.to_vec()),
                4 => {
                    let count = self.len()?;
                    let bytes = self.take(count.checked_mul(8).ok_or(LoadError::Truncated)?)?;
                    Value::Numbers(bytes.chunks_exact(8).map(|word| word.iter().rev().fold(0, |acc, &b| acc << 8 | u64::from(b))).collect())
                }
                5 => Value::Nested(self.payload(depth + 1)?),
                6 => {
                    let mut list = Vec::new();
                    for _ in 0..self.len()? {
                        list.push(self.payload(depth + 1)?);
                    }
                    Value::List(list)
                }
                _ => return Err(LoadError::Malformed),
            };
            payload.fields.push((name, value));
        }
        let sum = checksum(&self.bytes[start..self.at]);
        if self.array::<8>()? != sum {
            return Err(LoadError::Checksum { kind });
        }
        Ok(payload)
    }
}
