//! A recording: what entered from outside, and when.
//!
//! ```text
//! recording := count input*
//! input     := ticks_later ns_later kind:u8 rest       rest by kind: 0, 1, 5: length bytes (typed at serial line 1, 2, virtio)
//! ```                                                                2: - (power button)   3: - (NMI)   4: chaos:u8 seed:u64 (turns)   6: - (checkpoint)
//! Numbers without a width are LEB128; times count from the input before.

use sim_board::{Input, InputKind, Port};

use crate::file::FileError;

const SECTION: &str = "inputs";

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Turns inputs into bytes.
pub fn encode(inputs: &[Input]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, inputs.len() as u64);
    let (mut ticks, mut ns) = (0, 0);
    for input in inputs {
        put(&mut out, input.ticks - ticks);
        put(&mut out, input.ns - ns);
        (ticks, ns) = (input.ticks, input.ns);
        match &input.what {
            InputKind::Serial { port, bytes } => {
                out.push(match port {
                    Port::Com1 => 0,
                    Port::Com2 => 1,
                    Port::Virtio => 5,
                });
                put(&mut out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
            InputKind::PowerButton => out.push(2),
            InputKind::Nmi => out.push(3),
            InputKind::Checkpoint => out.push(6),
            InputKind::Turns { chaos, seed } => {
                out.extend_from_slice(&[4, u8::from(*chaos)]);
                out.extend_from_slice(&seed.to_le_bytes());
            }
        }
    }
    out
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }
    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                return None;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    fn input(&mut self, ticks: u64, ns: u64) -> Option<Input> {
        let ticks = ticks.checked_add(self.number()?)?;
        let ns = ns.checked_add(self.number()?)?;
        let what = match self.byte()? {
            kind @ (0 | 1 | 5) => {
                let count = usize::try_from(self.number()?).ok()?;
                let port = match kind {
                    0 => Port::Com1,
                    1 => Port::Com2,
                    _ => Port::Virtio,
                };
                InputKind::Serial { port, bytes: self.take(count)?.to_vec() }
            }
            2 => InputKind::PowerButton,
            3 => InputKind::Nmi,
            6 => InputKind::Checkpoint,
            4 => {
                let chaos = self.byte()? != 0;
                InputKind::Turns { chaos, seed: self.take(8)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)) }
            }
            _ => return None,
        };
        Some(Input { ticks, ns, what })
    }
}

/// Reads what [`encode`] wrote.
pub fn decode(bytes: &[u8]) -> Result<Vec<Input>, FileError> {
    let mut cursor = Cursor(bytes);
    let mut inputs: Vec<Input> = Vec::new();
    let count = cursor.number().ok_or_else(|| FileError::content(SECTION, "empty"))?;
    for number in 0..count {
        let (ticks, ns) = inputs.last().map_or((0, 0), |last| (last.ticks, last.ns));
        match cursor.input(ticks, ns) {
            Some(input) => inputs.push(input),
            None => return Err(FileError::content(SECTION, format!("input {number} of {count} makes no sense"))),
        }
    }
    if cursor.0.is_empty() { Ok(inputs) } else { Err(FileError::content(SECTION, "bytes follow the last input")) }
}
