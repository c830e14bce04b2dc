//! The debug-exit port: a write of `v` ends the machine with status `v << 1 | 1`, as QEMU's `isa-debug-exit` does.
//!
//! # Limits
//! One register of four bytes. Narrow writes count as QEMU takes them: the value written, whatever its width.

use sim_bus::{Access, Cx, Ending, Fields, Node, Region, Reset, Token};

/// The port.
#[derive(Clone, Copy, Debug, Default)]
pub struct DebugExit;

impl Node for DebugExit {
    fn kind(&self) -> &'static str {
        "debug-exit"
    }
    fn read(&mut self, _region: Region, _offset: u64, _size: u8, _cx: &mut Cx<'_>) -> u64 {
        0
    }
    fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        if offset == 0 {
            cx.end(Ending::DebugExit((value as u32) << 1 | 1));
        } else {
            cx.unimplemented(Access::write(region, offset, size, value));
        }
    }
    fn event(&mut self, _what: Token, _cx: &mut Cx<'_>) {}
    fn input(&mut self, _cx: &mut Cx<'_>) {}
    fn reset(&mut self, _how: Reset, _cx: &mut Cx<'_>) {}
    fn state(&mut self, _fields: &mut dyn Fields) {}
}

#[cfg(test)]
mod tests {
    use sim_bus::bench::Bench;
    use sim_bus::{Effect, Ending};

    use super::DebugExit;

    #[test]
    fn status_is_twice_the_value_plus_one() {
        let mut bench = Bench::new(DebugExit);
        for (size, value, status) in [(4, 0u64, 1u32), (4, 0x10, 0x21), (1, 3, 7), (4, 0x8000_0000, 1)] {
            bench.write(0, 0, size, value);
            assert_eq!(bench.take(), [Effect::End(Ending::DebugExit(status))]);
        }
    }
}
