//! The machine's tests, one program: inside the crate they would have cargo compile all of it a second time.

mod faults;
mod machine;
mod smp;

// The tests inside `src/acpi.rs` and `src/fabric.rs`, which are compiled here by themselves.
#[allow(dead_code, reason = "the tests need a part of it")]
#[path = "../../src/acpi.rs"]
mod acpi;
#[allow(dead_code, reason = "the tests need a part of it")]
#[path = "../../src/map.rs"]
mod map;
#[allow(dead_code, reason = "the tests need a part of it")]
#[path = "../../src/fabric.rs"]
mod fabric;

/// What `src/fabric.rs` needs of `src/bus.rs`.
mod bus {
    pub(crate) type Visit<'a> = dyn FnMut(&str, &mut dyn FnMut(&mut dyn sim_bus::Fields)) + 'a;
}
