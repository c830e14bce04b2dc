//! sim/host: to be written.
