//! What the agent inside a guest and the runner outside say to each other.
//!
//! # Theory
//! One serial line, both ways, that may lose, damage or repeat bytes (a real UART does). On it: *frames*, text lines with
//! a number and a checksum ([`link`]); in the frames: *messages*, JSON objects ([`message`]). The link repeats what was
//! lost; above it every message arrives once and in order. Nothing here knows time: whoever is outside decides when
//! silence was too long.
//!
//! `docs/formats/agent.md` is the reference.
//!
//! # Structures
//! [`Link`] is the same on both sides. `src/agent` is the program in the guest; `src/trial` are programs that behave badly
//! on purpose.
//!
//! # Failure
//! Any byte sequence may come in. A line that is not a frame is skipped (and counted); a frame that does not check is asked
//! for again; a message that is not ours is an error to the caller, never a panic.
//!
//! # Limits
//! A frame's payload is at most [`MAX_PAYLOAD`] bytes, so that a line fits the 4 KiB line buffers of tty layers; at most
//! [`WINDOW`] frames are on their way unacknowledged; a message is at most [`MAX_MESSAGE`] bytes.

mod link;
mod message;

pub use link::{Link, LinkEvent, MAX_MESSAGE, MAX_PAYLOAD, WINDOW};
pub use message::{Body, Report, Request, StreamName, VERSION};

#[cfg(test)]
mod tests;
