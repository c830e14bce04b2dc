//! Rules about files.

use crate::Checkout;
use toml::{Table, Value};

/// Largest committed file.
pub const MAX_BLOB_BYTES: u64 = 256 << 10;

/// Streams a scenario keeps unless it says otherwise (`docs/formats/scenario.md`).
const STREAMS: &[&str] = &["console", "events"];

/// `goldens-pair`.
#[must_use]
pub fn goldens_pair(checkout: &Checkout) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut wanted = Vec::new();
    for (path, text) in checkout.texts(".toml").filter(|(path, _)| path.starts_with("scenarios/")) {
        let name = path.trim_start_matches("scenarios/").trim_end_matches(".toml");
        let table = text.parse::<Table>().unwrap_or_default();
        let kept = table.get("golden").cloned();
        if kept.is_none() && table.contains_key("guest") {
            // Of a foreign guest nothing is kept unless asked for: its packages change under us.
            continue;
        }
        let streams: Vec<String> = match kept {
            Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(Value::String(word)) => vec![word],
            _ => STREAMS.iter().map(|stream| (*stream).to_owned()).collect(),
        };
        if streams.is_empty() {
            complaints.push(format!("{path}: goldens-pair: keeps no golden; a scenario that nobody can look at shows little"));
        }
        for stream in streams {
            let golden = format!("golden/{name}.{stream}");
            if !checkout.files.contains_key(&golden) {
                complaints.push(format!("{path}: goldens-pair: no {golden}; cargo orrery bless {name}"));
            }
            wanted.push(golden);
        }
    }
    for path in checkout.files.keys().filter(|path| path.starts_with("golden/") && !wanted.contains(path)) {
        complaints.push(format!("{path}: goldens-pair: no scenario keeps it; remove it"));
    }
    complaints
}

/// `no-blob`.
#[must_use]
pub fn no_blob(checkout: &Checkout) -> Vec<String> {
    let large = checkout.files.iter().filter(|(path, file)| file.bytes > MAX_BLOB_BYTES && *path != "Cargo.lock");
    large.map(|(path, file)| format!("{path}: no-blob: {} bytes; build it, or fetch it when it is needed", file.bytes)).collect()
}

/// `no-machine-path`.
#[must_use]
pub fn no_machine_path(checkout: &Checkout) -> Vec<String> {
    // Put together here, so that this file does not break its own rule.
    let paths = [["/wo", "rk/"].concat(), ["/tmp/", "orrery/"].concat(), ["/ro", "ot/."].concat(), ["/tmp/", "t-"].concat()];
    let mut complaints = Vec::new();
    for (file, text) in checkout.texts("") {
        for (number, line) in text.lines().enumerate() {
            for path in paths.iter().filter(|path| line.contains(path.as_str())) {
                complaints.push(format!("{file}:{}: no-machine-path: `{path}`; name it relative to the checkout", number + 1));
            }
        }
    }
    complaints
}

/// `no-blanket-allow`: `#![allow(...)]` for a whole crate or module, other than with a reason.
#[must_use]
pub fn no_blanket_allow(checkout: &Checkout) -> Vec<String> {
    let opening = ["#!", "[allow("].concat();
    let mut complaints = Vec::new();
    for (file, text) in checkout.texts(".rs") {
        for (number, line) in text.lines().enumerate() {
            let rest = text.lines().skip(number).take(6).collect::<Vec<_>>().join(" ");
            if line.trim_start().starts_with(&opening) && !rest.contains("reason") {
                complaints.push(format!("{file}:{}: no-blanket-allow: allow it for one item, with a reason", number + 1));
            }
        }
    }
    complaints
}
