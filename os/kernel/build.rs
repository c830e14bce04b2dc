//! Links again when the linker script changes, which cargo does not know of otherwise.

fn main() {
    println!("cargo::rerun-if-changed=kernel.ld");
    println!("cargo::rerun-if-changed=build.rs");
}
