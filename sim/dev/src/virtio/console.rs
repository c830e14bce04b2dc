//! The console device (§5.3): one port, a queue each way.

use sim_bus::{ConsoleId, Cx, Fields};

use super::{Answer, Chain, Personality, Waiting};

const RECEIVE: u16 = 0;
/// A byte takes this long: about 10 MB/s.
const BYTE_NS: u64 = 100;

/// A console line behind two virtqueues.
#[derive(Clone, Debug)]
pub struct Console {
    console: ConsoleId,
}

impl Console {
    pub fn new(console: ConsoleId) -> Self {
        Self { console }
    }
}

impl Personality for Console {
    const KIND: &'static str = "virtio-console";
    const TYPE: u16 = 3;
    const CLASS: u32 = 0x07_8000;
    const QUEUES: u16 = 2;

    // Neither size nor several ports are offered: the console is a plain line.
    fn features(&self) -> u64 {
        0
    }
    fn config(&self, _offset: usize) -> u8 {
        0
    }
    fn holds(&self, queue: u16) -> bool {
        queue == RECEIVE
    }
    fn waiting(&mut self, cx: &mut Cx<'_>) -> Option<Waiting> {
        cx.has_input(self.console).then_some(Waiting { queue: RECEIVE, bytes: 1, spreads: false })
    }
    fn fetch(&mut self, _chains: u16, room: usize, cx: &mut Cx<'_>) -> Vec<u8> {
        std::iter::from_fn(|| cx.take_input(self.console)).take(room).collect()
    }
    fn refuse(&mut self, cx: &mut Cx<'_>) {
        cx.take_input(self.console);
    }
    fn serve(&mut self, _queue: u16, chain: &Chain, cx: &mut Cx<'_>) -> Answer {
        for &byte in &chain.input {
            cx.output(self.console, byte);
        }
        Answer { takes: BYTE_NS * chain.input.len() as u64, ..Answer::default() }
    }
    fn reset(&mut self) {}
    fn state(&mut self, _fields: &mut dyn Fields) {}
}
