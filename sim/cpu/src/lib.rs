//! sim/cpu: to be written.
