//! harness/tidy: to be written.
