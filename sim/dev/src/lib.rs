//! sim/dev: to be written.
