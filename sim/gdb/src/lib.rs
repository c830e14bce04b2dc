//! sim/gdb: to be written.
