//! os/user/tools: to be written.
fn main() {}
