//! The network behind a machine's NICs.

use std::sync::Arc;

use sim_core::{LoadError, Payload};

use crate::{Nanos, Point};

/// A NIC's port of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WireId(pub u8);

/// Everything that NICs are plugged into: one object, so that it is forked, saved and hashed as a whole. Frames are Ethernet without preamble and check sequence.
///
/// It lives in virtual time: the board calls [`Network::advance`] at [`Network::next_event`] and then lets the named NICs look at their ports; a NIC may call
/// [`Network::receive`] and [`Network::is_up`] at any time. Whatever happens depends on the calls and their times alone.
pub trait Network: std::fmt::Debug + Send + Sync {
    /// A NIC sends a frame. Returns when its last bit has left the NIC.
    fn send(&mut self, at: Point, wire: WireId, frame: &[u8]) -> Nanos;
    /// Takes the next frame that has arrived at a port.
    fn receive(&mut self, wire: WireId) -> Option<Arc<[u8]>>;
    /// Whether a frame waits at a port.
    fn has_frame(&self, wire: WireId) -> bool;
    /// Whether the port has a link.
    fn is_up(&self, wire: WireId) -> bool;
    /// When something happens next without a NIC's doing.
    fn next_event(&self) -> Option<Nanos>;
    /// Lets everything happen that is due; names the ports at which a frame arrived or the link changed, each once.
    fn advance(&mut self, at: Point) -> Vec<WireId>;
    /// An independent copy at the same point, cheap.
    fn fork(&self) -> Box<dyn Network>;
    /// The walk over state, for receipts: what cannot be walked in short is there as a hash, and a load refuses another one.
    fn state(&mut self, fields: &mut dyn crate::Fields);
    /// All state, for another process.
    fn save(&self) -> Payload;
    /// Puts back what [`Network::save`] took from a network of the same description.
    fn load(&mut self, from: &Payload) -> Result<(), LoadError>;
    /// The network itself, for the harness to ask about captures and peers.
    fn as_any(&self) -> &dyn std::any::Any;
}
