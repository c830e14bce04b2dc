//! Streams from pool to pool: what arrives equals what was sent, and nothing else is taken.

mod packages;
mod rig;
mod single;
