//! Name/value lists: what the control interface speaks.
//!
//! # Theory
//! A list maps names to typed values, lists among them. It is the payload of every control call, so a new field never
//! changes a layout: a reader takes the fields it knows by name and type ([`NvList::string`], [`NvList::number`], ...), and gets a
//! typed error ([`FieldError`]) that names the field when one is missing or of another type. The idea is illumos'
//! nvlist(9F); encoding and type set are our own and smaller.
//!
//! # Structures
//! Encoding, little-endian, no padding:
//!
//! ```text
//! message  'N' 'V' version:u8=1 list
//! list     count:u16 pair*count
//! pair     name_len:u8 name type:u8 value
//! value    1 bool      u8, 0 or 1
//!          2 number    u64
//!          3 signed    i64
//!          4 string    len:u32 utf-8
//!          5 bytes     len:u32 bytes
//!          6 list      list
//!          7 strings   count:u16 (len:u32 utf-8)*
//!          8 numbers   count:u16 u64*
//!          9 lists     count:u16 list*
//! ```
//!
//! # Failure
//! Decoding is strict, and a message has exactly one encoding: unknown types, names that are empty, repeated or not UTF-8,
//! booleans other than 0 and 1, and bytes after the end are [`DecodeError`]s with their offset. Memory taken while decoding is
//! bounded by a small multiple of the input's length: nothing is allocated on the word of a count.
//!
//! # Limits
//! [`DEPTH_MAX`] nested lists, 255 bytes for a name, 65,535 pairs or elements in one list.
#![no_std]
extern crate alloc;

mod decode;
mod encode;
mod print;
#[cfg(test)]
mod tests;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

pub use decode::{DecodeError, Reason};

/// Lists may be nested this deep (the outermost counts as one).
pub const DEPTH_MAX: usize = 8;
/// Longest name.
pub const NAME_BYTES_MAX: usize = 255;
/// Most pairs or elements in one list.
pub const COUNT_MAX: usize = u16::MAX as usize;

/// A typed value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Number(u64),
    Signed(i64),
    String(String),
    Bytes(Vec<u8>),
    List(NvList),
    Strings(Vec<String>),
    Numbers(Vec<u64>),
    Lists(Vec<NvList>),
}

impl Value {
    /// Name of its type, for messages.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::Signed(_) => "signed",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Strings(_) => "strings",
            Self::Numbers(_) => "numbers",
            Self::Lists(_) => "lists",
        }
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident),+ $(,)?) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        })+
    };
}
from! {
    bool => Bool, u64 => Number, u32 => Number, i64 => Signed, String => String, &str => String, Vec<u8> => Bytes,
    NvList => List, Vec<String> => Strings, Vec<u64> => Numbers, Vec<NvList> => Lists,
}

/// What was wrong with a field that a reader asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldError {
    /// No field of this name.
    Missing(String),
    /// It has another type.
    Type { name: String, wanted: &'static str, found: &'static str },
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "field '{name}' is missing"),
            Self::Type { name, wanted, found } => write!(f, "field '{name}' must be a {wanted}, not a {found}"),
        }
    }
}

/// An ordered list of named values; names are unique.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NvList {
    pairs: Vec<(String, Value)>,
}

impl NvList {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self { pairs: Vec::new() }
    }

    /// Adds a pair or replaces the value of this name.
    ///
    /// # Panics
    /// If the name is empty or longer than [`NAME_BYTES_MAX`]: names are chosen by our own code; outside text is a value.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX, "name of {} bytes in a name/value list", name.len());
        let value = value.into();
        match self.pairs.iter_mut().find(|(at, _)| at == name) {
            Some((_, slot)) => *slot = value,
            None => self.pairs.push((name.to_string(), value)),
        }
    }

    /// [`NvList::set`] for building in one expression.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    /// The value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.pairs.iter().find(|(at, _)| at == name).map(|(_, value)| value)
    }

    /// Its pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Number of pairs.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.pairs.len()
    }

    /// True without pairs.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn field(&self, name: &str) -> Result<&Value, FieldError> {
        self.get(name).ok_or_else(|| FieldError::Missing(name.to_string()))
    }
}

macro_rules! readers {
    ($($reader:ident, $optional:ident: $variant:ident($type:ty), $kind:literal, |$value:ident| $out:expr;)+) => {
        impl NvList {
            $(
                #[doc = concat!("The ", $kind, " of this name.")]
                ///
                /// # Errors
                /// It is missing or of another type.
                pub fn $reader(&self, name: &str) -> Result<$type, FieldError> {
                    match self.field(name)? {
                        Value::$variant($value) => Ok($out),
                        other => Err(FieldError::Type { name: name.to_string(), wanted: $kind, found: other.kind() }),
                    }
                }
                #[doc = concat!("The ", $kind, " of this name, if there is one.")]
                ///
                /// # Errors
                /// It is of another type.
                pub fn $optional(&self, name: &str) -> Result<Option<$type>, FieldError> {
                    if self.get(name).is_none() { Ok(None) } else { self.$reader(name).map(Some) }
                }
            )+
        }
    };
}
readers! {
    bool, opt_bool: Bool(bool), "bool", |value| *value;
    number, opt_number: Number(u64), "number", |value| *value;
    signed, opt_signed: Signed(i64), "signed", |value| *value;
    string, opt_string: String(&str), "string", |value| value.as_str();
    bytes, opt_bytes: Bytes(&[u8]), "bytes", |value| value.as_slice();
    list, opt_list: List(&NvList), "list", |value| value;
    strings, opt_strings: Strings(&[String]), "strings", |value| value.as_slice();
    numbers, opt_numbers: Numbers(&[u64]), "numbers", |value| value.as_slice();
    lists, opt_lists: Lists(&[NvList]), "lists", |value| value.as_slice();
}
