//! The kernel image: to be written.
fn main() {}
