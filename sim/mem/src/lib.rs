//! sim/mem: to be written.
