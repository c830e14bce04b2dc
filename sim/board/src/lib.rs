//! sim/board: to be written.
