//! Port 0x80 (power-on self-test codes) and port 0xed (its stand-in): kernels write them to wait a microsecond.
//!
//! # Limits
//! The last code is kept and can be read back, as the latch behind port 0x80 is on most boards. A write takes no time here.

use sim_bus::{Cx, Fields, Node, Region, Reset, Token};

/// The latches.
#[derive(Clone, Debug, Default)]
pub struct Post {
    latch: u64,
}

impl Node for Post {
    fn kind(&self) -> &'static str {
        "post"
    }
    fn read(&mut self, _region: Region, _offset: u64, _size: u8, _cx: &mut Cx<'_>) -> u64 {
        self.latch
    }
    fn write(&mut self, _region: Region, _offset: u64, size: u8, value: u64, _cx: &mut Cx<'_>) {
        if size == 1 {
            self.latch = value;
        }
    }
    fn event(&mut self, _what: Token, _cx: &mut Cx<'_>) {}
    fn input(&mut self, _cx: &mut Cx<'_>) {}
    fn reset(&mut self, _how: Reset, _cx: &mut Cx<'_>) {
        self.latch = 0;
    }
    fn state(&mut self, fields: &mut dyn Fields) {
        fields.u64("latch", &mut self.latch);
    }
}
