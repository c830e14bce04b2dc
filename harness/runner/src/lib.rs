//! harness/runner: to be written.
