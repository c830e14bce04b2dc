//! harness/guest: to be written.
fn main() {}
