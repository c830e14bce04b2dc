//! Host platform, being written.
