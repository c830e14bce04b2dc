//! Encoding.

use alloc::vec::Vec;

use crate::{COUNT_MAX, DEPTH_MAX, NvList, Value};

pub const MAGIC: [u8; 3] = [b'N', b'V', 1];

impl NvList {
    /// Encodes the message.
    ///
    /// # Panics
    /// Beyond [`DEPTH_MAX`], [`COUNT_MAX`] or 4 GiB for one string: the writer is our own code, whose lists are bounded.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::from(MAGIC);
        list(&mut out, self, 1);
        out
    }
}

fn count(out: &mut Vec<u8>, count: usize) {
    assert!(count <= COUNT_MAX, "{count} elements in a name/value list");
    let count = u16::try_from(count).expect("just asserted");
    out.extend_from_slice(&count.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a value under 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn list(out: &mut Vec<u8>, from: &NvList, depth: usize) {
    assert!(depth <= DEPTH_MAX, "name/value lists nested {depth} deep");
    count(out, from.len());
    for (name, value) in from.iter() {
        out.push(u8::try_from(name.len()).expect("`set` bounds names"));
        out.extend_from_slice(name.as_bytes());
        match value {
            Value::Bool(value) => out.extend_from_slice(&[1, u8::from(*value)]),
            Value::Number(value) => {
                out.push(2);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Value::Signed(value) => {
                out.push(3);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Value::String(value) => {
                out.push(4);
                bytes(out, value.as_bytes());
            }
            Value::Bytes(value) => {
                out.push(5);
                bytes(out, value);
            }
            Value::List(value) => {
                out.push(6);
                list(out, value, depth + 1);
            }
            Value::Strings(values) => {
                out.push(7);
                count(out, values.len());
                for value in values {
                    bytes(out, value.as_bytes());
                }
            }
            Value::Numbers(values) => {
                out.push(8);
                count(out, values.len());
                for value in values {
                    out.extend_from_slice(&value.to_le_bytes());
                }
            }
            Value::Lists(values) => {
                out.push(9);
                count(out, values.len());
                for value in values {
                    list(out, value, depth + 1);
                }
            }
        }
    }
}
