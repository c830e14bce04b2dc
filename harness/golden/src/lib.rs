//! harness/golden: to be written.
