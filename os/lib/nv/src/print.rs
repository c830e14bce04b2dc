//! Printing for people: one pair a line, nested lists indented.

use core::fmt;

use crate::{NvList, Value};

impl fmt::Display for NvList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, self, 0)
    }
}

fn list(f: &mut fmt::Formatter<'_>, from: &NvList, indent: usize) -> fmt::Result {
    for (name, value) in from.iter() {
        write!(f, "{:indent$}{name}: ", "")?;
        match value {
            Value::Bool(value) => writeln!(f, "{value}")?,
            Value::Number(value) => writeln!(f, "{value}")?,
            Value::Signed(value) => writeln!(f, "{value:+}")?,
            Value::String(value) => writeln!(f, "{value:?}")?,
            Value::Bytes(value) => {
                f.write_str("0x")?;
                for byte in value {
                    write!(f, "{byte:02x}")?;
                }
                writeln!(f)?;
            }
            Value::List(value) => {
                writeln!(f)?;
                list(f, value, indent + 4)?;
            }
            Value::Strings(values) => writeln!(f, "{values:?}")?,
            Value::Numbers(values) => writeln!(f, "{values:?}")?,
            Value::Lists(values) => {
                writeln!(f)?;
                for (index, value) in values.iter().enumerate() {
                    writeln!(f, "{:1$}[{index}]", "", indent + 2)?;
                    list(f, value, indent + 4)?;
                }
            }
        }
    }
    Ok(())
}
