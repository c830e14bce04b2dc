//! virtio 1.2 over PCI: the transport, split virtqueues, and the block, network, console and entropy devices.
//!
//! # Theory
//! *Virtual I/O Device (VIRTIO) 1.2*: §2 (status, features, queues), §4.1 (PCI), §5.1 (network), §5.2 (block), §5.3 (console), §5.4 (entropy). Modern interface only (device identifiers
//! 0x1040 up, revision 1, `VIRTIO_F_VERSION_1` required): BAR 0 holds common, ISR, device and notify structures, BAR 2 the MSI-X table.
//!
//! A notification schedules an event; the event has the memory and takes every available chain. A [`Personality`] turns a chain of buffers into an
//! answer and says how long it takes; its used element and interrupt come after that time. Queues that wait for something from outside (received frames, typed
//! bytes) are *held*: their chains stay where they are until the personality has something to put into them.
//!
//! # States
//! The device status register as §2.1 says. A guest that breaks the rules of a ring (a descriptor loop, an index beyond the queue, a buffer outside RAM) gets
//! `DEVICE_NEEDS_RESET` and no further service until it resets.
//!
//! # Failure
//! Rings and descriptors are the guest's: every index and address is checked; no chain is longer than the queue.
//!
//! # Limits
//! Queue size 256. No packed rings, no event index (not offered). An indirect table has at most 256 descriptors. Interrupts by MSI-X, or by INTA# while
//! that is off. One chain carries at most 4 MiB.

mod block;
mod console;
mod entropy;
mod net;
mod queue;
mod shell;
#[cfg(test)]
mod tests;

pub use block::Block;
pub use console::Console;
pub use entropy::Entropy;
pub use net::Net;
pub use queue::{Chain, Queue, QueueError};
pub use shell::Virtio;

use sim_bus::{Cx, Fields, Nanos};

/// What makes a virtio device a block device or another kind.
pub trait Personality {
    /// Stable name.
    const KIND: &'static str;
    /// Device type (§5): PCI device identifier less 0x1040.
    const TYPE: u16;
    /// PCI class code.
    const CLASS: u32;
    /// How many queues it has.
    const QUEUES: u16;

    /// Device feature bits besides `VIRTIO_F_VERSION_1`.
    fn features(&self) -> u64;
    /// A byte of device configuration; zero past the end.
    fn config(&self, offset: usize) -> u8;
    /// The driver has settled on these features.
    fn negotiated(&mut self, _features: u64) {}
    /// Whether chains of a queue wait for [`Personality::waiting`].
    fn holds(&self, _queue: u16) -> bool {
        false
    }
    /// What waits to be put into a held queue.
    fn waiting(&mut self, _cx: &mut Cx<'_>) -> Option<Waiting> {
        None
    }
    /// Hands over what waits, for so many chains with so much room: no more than that.
    fn fetch(&mut self, _chains: u16, _room: usize, _cx: &mut Cx<'_>) -> Vec<u8> {
        Vec::new()
    }
    /// Drops what waits: no chain will ever be large enough.
    fn refuse(&mut self, _cx: &mut Cx<'_>) {}
    /// Looks at the outside. `true`: the device configuration changed.
    fn look(&mut self, _cx: &mut Cx<'_>) -> bool {
        false
    }
    /// Takes a write to the device configuration. `false`: nothing there can be written.
    fn config_write(&mut self, _offset: usize, _value: u8) -> bool {
        false
    }
    /// Serves a chain. The answer is written to the device-writable buffers; its length is the used length.
    fn serve(&mut self, queue: u16, chain: &Chain, cx: &mut Cx<'_>) -> Answer;
    /// Back to power-on.
    fn reset(&mut self);
    /// The walk over its state.
    fn state(&mut self, fields: &mut dyn Fields);
}

/// What a request came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Goes into the device-writable part, from its start.
    pub data: Vec<u8>,
    /// Goes into the very last byte of the device-writable part (the block device's status).
    pub last: Option<u8>,
    /// How long the request takes, once the queue's earlier ones are done.
    pub takes: Nanos,
    /// It is not done before this time.
    pub not_before: Nanos,
}

/// Something for a held queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub queue: u16,
    /// Room it needs at least.
    pub bytes: usize,
    /// It may be spread over several chains.
    pub spreads: bool,
}
