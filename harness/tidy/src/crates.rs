//! Rules about crates: levels, the unsafe ring, outside libraries.

use crate::Checkout;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// A crate: folder, package name, level.
#[derive(Clone, Copy, Debug)]
pub struct Row(pub &'static str, pub &'static str, pub u8);

/// All crates that may exist. A new crate gets its row with the commit that makes it.
pub const CRATES: &[Row] = &[
    Row("os/lib/codec", "codec", 0),
    Row("os/lib/ds", "ds", 0),
    Row("os/lib/nv", "nv", 0),
    Row("os/abi/linux", "linux-abi", 1),
    Row("os/abi/control", "control-abi", 1),
    Row("os/kif", "kif", 1),
    Row("os/kif-host", "kif-host", 3),
    Row("os/mach/sync", "sync", 2),
    Row("os/mach/boot", "boot", 2),
    Row("os/mach/heap", "heap", 3),
    Row("os/mach/hal", "hal", 3),
    Row("os/trace/probe", "probe", 3),
    Row("os/pool/arc", "pool-arc", 0),
    Row("os/pool/fair", "pool-fair", 0),
    Row("os/pool/phys", "pool-phys", 1),
    Row("os/pool/judge", "pool-judge", 7),
    Row("os/pool/spa", "pool-spa", 4),
    Row("os/pool/dmu", "pool-dmu", 5),
    Row("os/pool/stream", "pool-stream", 6),
    Row("os/pool/zpl", "pool-zpl", 6),
    Row("os/sched", "sched", 4),
    Row("os/vm", "vm", 4),
    Row("os/zone", "zone", 4),
    Row("os/drv", "drv", 4),
    Row("os/vfs", "vfs", 5),
    Row("os/proc", "proc", 6),
    Row("os/linux", "linux", 7),
    Row("os/pool/fs", "pool-fs", 7),
    Row("os/control", "control", 8),
    Row("os/kernel", "kernel", 9),
    Row("os/user/sys", "user-sys", 2),
    Row("os/user/tools", "tools", 4),
    Row("sim/core", "sim-core", 0),
    Row("sim/fp", "sim-fp", 0),
    Row("sim/translate", "sim-translate", 0),
    Row("sim/mem", "sim-mem", 1),
    Row("sim/bus", "sim-bus", 2),
    Row("sim/cpu", "sim-cpu", 3),
    Row("sim/dev", "sim-dev", 3),
    Row("sim/fault", "sim-fault", 3),
    Row("sim/host", "sim-host", 3),
    Row("sim/net", "sim-net", 4),
    Row("sim/cpu-oracle", "sim-cpu-oracle", 4),
    Row("sim/cpu-check", "cpu-check", 4),
    Row("sim/board", "sim-board", 5),
    Row("sim/snap", "sim-snap", 6),
    Row("sim/gdb", "sim-gdb", 6),
    Row("harness/scenario", "scenario", 0),
    Row("harness/golden", "golden", 0),
    Row("harness/guest", "guest", 0),
    Row("harness/tidy", "tidy", 0),
    Row("harness/report", "report", 6),
    Row("harness/runner", "runner", 7),
    Row("harness/parity", "parity", 8),
    Row("harness/metal", "metal", 8),
    Row("harness/explore", "explore", 8),
    Row("harness/pool", "pool-cli", 8),
    Row("harness/fire", "pool-fire", 8),
    Row("harness/bench", "bench", 8),
    Row("harness/orrery", "orrery", 9),
    Row("perf/guests", "perf-guests", 0),
];

/// The unsafe ring, by folder.
pub const RING: &[&str] =
    &["os/mach/sync", "os/mach/boot", "os/mach/heap", "os/mach/hal", "os/trace/probe", "os/user/sys", "sim/fp", "sim/translate", "sim/cpu-oracle", "harness/guest", "perf/guests"];

const PAGE: &str = "docs/ARCHITECTURE.md";

/// Manifests by folder. A manifest that does not parse is cargo's to complain about.
fn manifests(checkout: &Checkout) -> BTreeMap<&str, Table> {
    checkout.texts("/Cargo.toml").filter_map(|(path, text)| Some((path.strip_suffix("/Cargo.toml")?, text.parse().ok()?))).collect()
}

fn names(manifest: &Table, section: &str) -> Vec<String> {
    manifest.get(section).and_then(Value::as_table).map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

fn side(folder: &str) -> &str {
    folder.split('/').next().unwrap_or(folder)
}

/// `arrows-down`.
#[must_use]
pub fn arrows_down(checkout: &Checkout) -> Vec<String> {
    let mut complaints = Vec::new();
    for (folder, manifest) in &manifests(checkout) {
        let Some(Row(_, _, level)) = CRATES.iter().find(|row| row.0 == *folder) else {
            complaints.push(format!("{folder}: arrows-down: no such crate in the table; give it a row (and a level) in harness/tidy/src/crates.rs"));
            continue;
        };
        for (section, levels_count) in [("dependencies", true), ("build-dependencies", true), ("dev-dependencies", false)] {
            for name in names(manifest, section) {
                let Some(used) = CRATES.iter().find(|row| row.1 == name) else { continue };
                if levels_count && used.2 >= *level {
                    complaints.push(format!("{folder}: arrows-down: level {level} uses {name} of level {}; declare the interface below and register from above", used.2));
                }
                let meets = match (side(folder), side(used.0)) {
                    ("os", "sim" | "harness") | ("sim", "os" | "harness") => true,
                    // The pool is a library of its own right: images can be looked into without a kernel.
                    ("harness", "os") => !matches!(*folder, "harness/pool" | "harness/fire" | "harness/orrery" | "harness/bench"),
                    _ => false,
                };
                if meets {
                    complaints.push(format!("{folder}: arrows-down: uses {name}; os and sim share no line, and only harness may know both"));
                }
            }
        }
    }
    complaints
}

/// `unsafe-ring`.
#[must_use]
pub fn unsafe_ring(checkout: &Checkout) -> Vec<String> {
    let mut complaints = Vec::new();
    for (folder, manifest) in &manifests(checkout) {
        let lints = manifest.get("lints").and_then(Value::as_table);
        let inherits = lints.and_then(|lints| lints.get("workspace")).and_then(Value::as_bool).unwrap_or(false);
        let ring = RING.contains(folder);
        if !ring && !inherits {
            complaints.push(format!("{folder}: unsafe-ring: not in the ring, so its manifest needs [lints] workspace = true"));
        }
        if ring {
            let denied = |group: &str, lint: &str| lints.and_then(|l| l.get(group)).and_then(|g| g.get(lint)).and_then(Value::as_str) == Some("deny");
            for (group, lint) in [("rust", "unsafe_op_in_unsafe_fn"), ("clippy", "undocumented_unsafe_blocks")] {
                if !denied(group, lint) {
                    complaints.push(format!("{folder}: unsafe-ring: a ring crate denies {lint}"));
                }
            }
        }
    }
    complaints
}

/// `one-line-each`.
#[must_use]
pub fn one_line_each(checkout: &Checkout) -> Vec<String> {
    let page = checkout.files.get(PAGE).and_then(|file| file.text.as_deref()).unwrap_or_default();
    // First cells of the table's rows; a row may name several.
    let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).flat_map(|line| line.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2)).collect();
    let mut complaints = Vec::new();
    for (folder, manifest) in &manifests(checkout) {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for name in names(manifest, section) {
                if !CRATES.iter().any(|row| row.1 == name) && !listed.contains(&name.as_str()) {
                    complaints.push(format!("{folder}: one-line-each: `{name}` has no line in the library table of {PAGE}"));
                }
            }
        }
    }
    complaints
}

/// `compiled-once`: `cargo test` compiles a library a second time for the tests inside it, and runs the documentation tool on it for examples that are
/// tests. Where there are none the manifest says so; where there are some it must not hide them.
#[must_use]
pub fn compiled_once(checkout: &Checkout) -> Vec<String> {
    let mut complaints = Vec::new();
    for (folder, manifest) in &manifests(checkout) {
        if !checkout.files.contains_key(&format!("{folder}/src/lib.rs")) {
            continue;
        }
        let is_off = |what: &str| manifest.get("lib").and_then(|lib| lib.get(what)).and_then(Value::as_bool) == Some(false);
        let inside = format!("{folder}/src/");
        let integration = format!("{folder}/tests/");
        // A file with tests that an integration test compiles by itself is none of the library's.
        let is_apart = |name: &str| checkout.texts(".rs").any(|(path, text)| path.starts_with(&integration) && text.contains(&format!("../src/{name}\"")));
        let has_tests = checkout.texts(".rs").any(|(path, text)| path.strip_prefix(&inside).is_some_and(|name| text.contains("#[test]") && !is_apart(name)));
        if has_tests == is_off("test") {
            let (has, says) = if has_tests { ("tests", "without") } else { ("no tests", "with") };
            complaints.push(format!("{folder}: compiled-once: {has} in src, so its [lib] is {says} `test = false`"));
        }
        if !is_off("doctest") {
            complaints.push(format!("{folder}: compiled-once: [lib] says `doctest = false`; an example that must hold is a test"));
        }
    }
    complaints
}
