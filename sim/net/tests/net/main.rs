//! The network's tests, one program: inside the crate they would have cargo compile all of it a second time.

mod segments;

// The tests inside `src/peer/dns.rs`, which is compiled here by itself.
#[path = "../../src/peer/dns.rs"]
mod dns;
