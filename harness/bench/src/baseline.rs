//! `perf/*.toml`: the figures changes are measured against.
//!
//! `perf/os.toml` holds ticks (exact), `perf/translate.toml` and (interpreted) `perf/sim.toml` instruction counts (exact) and ratios to QEMU
//! (banded), `perf/pool.toml` what the pool costs (exact), `perf/openzfs.toml` that beside OpenZFS's module (exact), `perf/travel.toml` what time travel does. Written by `bench --bless`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::BenchError;

/// Figures by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Os {
    #[serde(default)]
    pub ticks: BTreeMap<String, u64>,
}

/// Figures of one guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimRow {
    pub instructions: u64,
    #[serde(default)]
    pub ratio_tcg: Option<f64>,
    #[serde(default)]
    pub ratio_icount: Option<f64>,
}

/// By guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sim {
    #[serde(default)]
    pub guest: BTreeMap<String, SimRow>,
}

/// Costs of time travel by name: milliseconds, ratios, bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Travel {
    #[serde(default)]
    pub figure: BTreeMap<String, f64>,
}

/// One row beside OpenZFS, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    pub orrery: u64,
    pub openzfs: u64,
    /// Ours over theirs.
    pub ratio: f64,
}

/// Reads a baseline; an absent file is an empty one.
///
/// # Errors
/// The file is there but not readable as a baseline.
pub fn read<T: Default + for<'a> Deserialize<'a>>(path: &Path) -> Result<T, BenchError> {
    let fail = |why: String| BenchError::Baseline { path: path.to_path_buf(), why };
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| fail(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(fail(error.to_string())),
    }
}

/// Writes a baseline with a heading.
///
/// # Errors
/// The file cannot be written.
pub fn write<T: Serialize>(path: &Path, heading: &str, value: &T) -> Result<(), BenchError> {
    let fail = |why: String| BenchError::Baseline { path: path.to_path_buf(), why };
    let text = toml::to_string(value).map_err(|error| fail(error.to_string()))?;
    std::fs::write(path, format!("# {heading}\n{text}")).map_err(|error| fail(error.to_string()))
}
