//! The `Device` trait that a model implements, and the `Node` that the board holds.

use crate::cx::Access;
use crate::regmap::RegMap;
use crate::state::Fields;
use crate::{Cx, SaveFields};
use sim_core::{LoadError, Payload};

/// Position of a node in the board's list: stable for one board description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// One of a device's windows: a port range, an MMIO range or a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region(pub u16);

/// Names a timer or a completion to the device that asked for it. One pending time per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u16);

/// How a device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Power came on: every register to its power-on value.
    PowerOn,
    /// The platform reset line: what survives a warm reset in the device's manual survives.
    Warm,
}

/// A device model. A default method never logs and never panics.
pub trait Device {
    /// Stable name: names payloads, goldens and random streams.
    const KIND: &'static str;
    /// Version of the saved form: raised when fields change.
    const VERSION: u32 = 1;
    /// The registers, as names.
    type Reg: Copy + 'static;

    /// The register table of a window.
    fn map(&self, region: Region) -> &'static RegMap<Self::Reg>;
    /// Reads a whole register, with its side effects.
    fn read(&mut self, reg: Self::Reg, cx: &mut Cx<'_>) -> u64;
    /// Writes a whole register.
    fn write(&mut self, reg: Self::Reg, value: u64, cx: &mut Cx<'_>);
    /// The register's value without side effects, where a write to a part of it is a read-modify-write. `None`: the manual does not
    /// allow partial writes; the access is dropped and recorded.
    fn peek(&self, _reg: Self::Reg) -> Option<u64> {
        None
    }
    /// A timer or completion the device asked for with [`Cx::after`]. Only here may the device use DMA.
    fn event(&mut self, _what: Token, _cx: &mut Cx<'_>) {}
    /// Input arrived at one of the device's backends (a console byte, a frame).
    fn input(&mut self, _cx: &mut Cx<'_>) {}
    /// Resets the device. Pins go low.
    fn reset(&mut self, how: Reset, cx: &mut Cx<'_>);
    /// Shows every field of state to `fields`: saving, loading and hashing are the same walk.
    fn state(&mut self, fields: &mut dyn Fields);
}

/// What the board holds. Implemented for every [`Device`]; PCI functions and other devices whose windows are memory-like implement it
/// themselves.
pub trait Node {
    /// The device's stable name.
    fn kind(&self) -> &'static str;
    /// Version of the saved form.
    fn version(&self) -> u32 {
        1
    }
    /// An access of 1, 2, 4 or 8 bytes at `offset` in `region`; zero-extended.
    fn read(&mut self, region: Region, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64;
    /// The same for writes; bits above `size` are zero.
    fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>);
    /// A token fell due.
    fn event(&mut self, what: Token, cx: &mut Cx<'_>);
    /// Backend input arrived.
    fn input(&mut self, cx: &mut Cx<'_>);
    /// Resets the device.
    fn reset(&mut self, how: Reset, cx: &mut Cx<'_>);
    /// The walk over all state.
    fn state(&mut self, fields: &mut dyn Fields);

    /// A configuration-space read, for PCI functions. Absent functions float to ones.
    fn config_read(&mut self, _register: u16, size: u8, _cx: &mut Cx<'_>) -> u64 {
        ones(size)
    }
    /// A configuration-space write, for PCI functions.
    fn config_write(&mut self, _register: u16, _size: u8, _value: u64, _cx: &mut Cx<'_>) {}

    /// Where the function's BARs are now: region, base (`None`: not decoded), length. Asked for after a load.
    fn windows(&self) -> Vec<(Region, Option<u64>, u64)> {
        Vec::new()
    }

    /// The state as a payload of named fields.
    fn save(&mut self) -> Payload {
        let mut fields = SaveFields::new(self.kind(), self.version());
        self.state(&mut fields);
        fields.finish()
    }
    /// Puts back what [`Node::save`] took; raises no edges.
    fn load(&mut self, from: &Payload) -> Result<(), LoadError> {
        crate::state::load(self.kind(), self.version(), from, &mut |fields| self.state(fields))
    }
}

impl<D: Device> Node for D {
    fn kind(&self) -> &'static str {
        D::KIND
    }

    fn version(&self) -> u32 {
        D::VERSION
    }

    fn read(&mut self, region: Region, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        let map = self.map(region);
        let mut value = 0u64;
        let mut done = 0u8;
        // An exact hit takes one turn; a wide access is split into the registers it covers, low address first.
        while done < size {
            let at = offset + u64::from(done);
            let left = size - done;
            let Some(row) = map.find(at) else {
                cx.unimplemented(Access::read(region, at, left));
                return value | (ones(left) << (8 * done));
            };
            let skip = (at - u64::from(row.offset)) as u8;
            let take = left.min(row.size - skip);
            let part = (Device::read(self, row.reg, cx) >> (8 * skip)) & ones(take);
            value |= part << (8 * done);
            done += take;
        }
        value
    }

    fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        let map = self.map(region);
        let mut done = 0u8;
        while done < size {
            let at = offset + u64::from(done);
            let left = size - done;
            let Some(row) = map.find(at) else {
                cx.unimplemented(Access::write(region, at, left, value >> (8 * done)));
                return;
            };
            let skip = (at - u64::from(row.offset)) as u8;
            let take = left.min(row.size - skip);
            let part = (value >> (8 * done)) & ones(take);
            if take == row.size {
                Device::write(self, row.reg, part, cx);
            } else if let Some(old) = self.peek(row.reg) {
                let lanes = ones(take) << (8 * skip);
                Device::write(self, row.reg, (old & !lanes) | (part << (8 * skip)), cx);
            } else {
                cx.unimplemented(Access::write(region, at, take, part));
            }
            done += take;
        }
    }

    fn event(&mut self, what: Token, cx: &mut Cx<'_>) {
        Device::event(self, what, cx);
    }

    fn input(&mut self, cx: &mut Cx<'_>) {
        Device::input(self, cx);
    }

    fn reset(&mut self, how: Reset, cx: &mut Cx<'_>) {
        Device::reset(self, how, cx);
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        Device::state(self, fields);
    }
}

/// The low `size` bytes set; `size` is at most 8.
fn ones(size: u8) -> u64 {
    if size >= 8 { u64::MAX } else { (1u64 << (8 * size)) - 1 }
}
