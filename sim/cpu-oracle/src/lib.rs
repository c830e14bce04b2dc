//! sim/cpu-oracle: to be written.
