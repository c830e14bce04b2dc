//! Device state as named fields: one walk saves, loads and hashes.
//!
//! A device shows each of its fields, in a fixed order, to a [`Fields`]. Order and names together are the format; a name that repeats
//! (arrays) is saved as `name[1]`, `name[2]`, so that a payload can be compared field by field.

use std::collections::{BTreeMap, VecDeque};

use sim_core::{LoadError, Payload, Value};

/// A visitor over the fields of a device. Only `number`, `bytes` and `refuse` differ between visitors.
pub trait Fields {
    /// A number that needs at most `bits` bits.
    fn number(&mut self, name: &'static str, value: &mut u64, bits: u32);
    /// A string of bytes.
    fn bytes(&mut self, name: &'static str, value: &mut Vec<u8>);
    /// The loaded value of `name` makes no sense. Ignored unless loading.
    fn refuse(&mut self, name: &'static str);

    fn u64(&mut self, name: &'static str, value: &mut u64) {
        self.number(name, value, 64);
    }
    fn u32(&mut self, name: &'static str, value: &mut u32) {
        let mut wide = u64::from(*value);
        self.number(name, &mut wide, 32);
        *value = wide as u32;
    }
    fn u16(&mut self, name: &'static str, value: &mut u16) {
        let mut wide = u64::from(*value);
        self.number(name, &mut wide, 16);
        *value = wide as u16;
    }
    fn u8(&mut self, name: &'static str, value: &mut u8) {
        let mut wide = u64::from(*value);
        self.number(name, &mut wide, 8);
        *value = wide as u8;
    }
    fn flag(&mut self, name: &'static str, value: &mut bool) {
        let mut wide = u64::from(*value);
        self.number(name, &mut wide, 1);
        *value = wide != 0;
    }
    /// `None` is stored as all ones, which no time or count reaches.
    fn option(&mut self, name: &'static str, value: &mut Option<u64>) {
        let mut wide = value.unwrap_or(u64::MAX);
        self.number(name, &mut wide, 64);
        *value = (wide != u64::MAX).then_some(wide);
    }
    fn queue(&mut self, name: &'static str, value: &mut VecDeque<u8>) {
        let mut flat: Vec<u8> = value.iter().copied().collect();
        self.bytes(name, &mut flat);
        *value = flat.into();
    }
    /// A byte array of fixed length; a loaded one of another length is refused.
    fn array(&mut self, name: &'static str, value: &mut [u8]) {
        let mut flat = value.to_vec();
        self.bytes(name, &mut flat);
        if flat.len() == value.len() {
            value.copy_from_slice(&flat);
        } else {
            self.refuse(name);
        }
    }
}

/// Gives repeated names their index.
#[derive(Debug, Default)]
struct Names(BTreeMap<&'static str, u32>);

impl Names {
    fn unique(&mut self, name: &'static str) -> String {
        let seen = self.0.entry(name).or_insert(0);
        *seen += 1;
        if *seen == 1 { name.to_owned() } else { format!("{name}[{}]", *seen - 1) }
    }
}

/// Builds a payload.
#[derive(Debug)]
pub struct SaveFields {
    payload: Payload,
    names: Names,
}

impl SaveFields {
    pub fn new(kind: &str, version: u32) -> Self {
        Self { payload: Payload::new(kind, version), names: Names::default() }
    }
    pub fn finish(self) -> Payload {
        self.payload
    }
}

impl Fields for SaveFields {
    fn number(&mut self, name: &'static str, value: &mut u64, _bits: u32) {
        let name = self.names.unique(name);
        self.payload.number(&name, *value);
    }
    fn bytes(&mut self, name: &'static str, value: &mut Vec<u8>) {
        let name = self.names.unique(name);
        self.payload.bytes(&name, value);
    }
    fn refuse(&mut self, _name: &'static str) {}
}

/// Feeds a device from a payload. The first error is kept; after it fields keep their values.
#[derive(Debug)]
pub struct LoadFields<'a> {
    payload: &'a Payload,
    names: Names,
    next: usize,
    error: Option<LoadError>,
}

impl<'a> LoadFields<'a> {
    pub fn new(payload: &'a Payload) -> Self {
        Self { payload, names: Names::default(), next: 0, error: None }
    }

    fn take(&mut self, name: &'static str) -> Option<&'a Value> {
        if self.error.is_some() {
            return None;
        }
        let name = self.names.unique(name);
        match self.payload.fields().get(self.next) {
            Some((found, value)) if *found == name => {
                self.next += 1;
                Some(value)
            }
            Some(_) | None => {
                self.error = Some(LoadError::Field { kind: self.payload.kind.clone(), name });
                None
            }
        }
    }

    fn fail_type(&mut self, name: &str) {
        self.error = Some(LoadError::Field { kind: self.payload.kind.clone(), name: name.to_owned() });
    }

    /// All fields must have been consumed.
    pub fn finish(self) -> Result<(), LoadError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        match self.payload.fields().get(self.next) {
            None => Ok(()),
            Some((surplus, _)) => Err(LoadError::Field { kind: self.payload.kind.clone(), name: surplus.clone() }),
        }
    }
}

impl Fields for LoadFields<'_> {
    fn number(&mut self, name: &'static str, value: &mut u64, bits: u32) {
        match self.take(name) {
            Some(&Value::Number(loaded)) if bits == 64 || loaded >> bits == 0 => *value = loaded,
            Some(&Value::Number(_)) => self.refuse(name),
            Some(_) => self.fail_type(name),
            None => {}
        }
    }
    fn bytes(&mut self, name: &'static str, value: &mut Vec<u8>) {
        match self.take(name) {
            Some(Value::Bytes(loaded)) => value.clone_from(loaded),
            Some(_) => self.fail_type(name),
            None => {}
        }
    }
    fn refuse(&mut self, name: &'static str) {
        if self.error.is_none() {
            self.error = Some(LoadError::Value { kind: self.payload.kind.clone(), name: name.to_owned() });
        }
    }
}

/// Runs a walk over a payload and checks that it was consumed exactly.
pub fn load(kind: &str, version: u32, from: &Payload, walk: &mut dyn FnMut(&mut dyn Fields)) -> Result<(), LoadError> {
    from.expect(kind, version)?;
    let mut fields = LoadFields::new(from);
    walk(&mut fields);
    fields.finish()
}

/// Turns the walk into a byte string for the receipt: little-endian numbers, length-prefixed bytes. Names are not hashed.
#[derive(Debug, Default)]
pub struct HashFields {
    pub bytes: Vec<u8>,
}

impl Fields for HashFields {
    fn number(&mut self, _name: &'static str, value: &mut u64, _bits: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    fn bytes(&mut self, _name: &'static str, value: &mut Vec<u8>) {
        self.bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(value);
    }
    fn refuse(&mut self, _name: &'static str) {}
}
