//! harness/scenario: to be written.
