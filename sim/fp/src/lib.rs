//! sim/fp: to be written.
