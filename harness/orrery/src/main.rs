//! harness/orrery: to be written.
fn main() {}
