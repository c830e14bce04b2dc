//! The machine's tests, one program: inside the crate they would have cargo compile all of it a second time.

mod faults;
mod machine;
mod smp;

// The tests inside `src/acpi.rs`, which is compiled here by itself.
#[allow(dead_code, reason = "the tests need a part of it")]
#[path = "../../src/acpi.rs"]
mod acpi;
#[allow(dead_code, reason = "the tests need a part of it")]
#[path = "../../src/map.rs"]
mod map;
