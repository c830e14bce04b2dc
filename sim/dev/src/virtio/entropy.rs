//! The entropy device (§5.4): fills buffers from the machine's random stream.

use sim_bus::{Cx, Fields};

use super::{Answer, Chain, Personality};

/// Bytes a request gets at most.
const BYTES_MAX: usize = 4096;

/// Seeded entropy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entropy;

impl Personality for Entropy {
    const KIND: &'static str = "virtio-rng";
    const TYPE: u16 = 4;
    const CLASS: u32 = 0xff_0000;
    const QUEUES: u16 = 1;

    fn features(&self) -> u64 {
        0
    }
    fn config(&self, _offset: usize) -> u8 {
        0
    }
    fn serve(&mut self, _queue: u16, chain: &Chain, cx: &mut Cx<'_>) -> Answer {
        let count = (chain.room() as usize).min(BYTES_MAX);
        let mut data = Vec::with_capacity(count + 8);
        while data.len() < count {
            data.extend_from_slice(&cx.random().to_le_bytes());
        }
        data.truncate(count);
        Answer { data, last: None, takes: 1_000, not_before: 0 }
    }
    fn reset(&mut self) {}
    fn state(&mut self, _fields: &mut dyn Fields) {}
}
