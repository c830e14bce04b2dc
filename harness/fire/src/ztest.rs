//! The fault matrix: every trouble of a disk, on every layout, in every state of the pool.
