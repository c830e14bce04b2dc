//! Tests of the zone crate.
