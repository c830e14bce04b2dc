//! The scenario language: one TOML file that names a property of the system and says how it is shown.
//!
//! # Theory
//! A scenario is read by people more often than by this crate, and most often right after it did not do what they
//! meant. So the file is read in three steps that each keep the place of every word: [`toml`] gives a tree with spans,
//! [`read`] takes typed values out of it and remembers which keys it asked for, and [`check`] looks at what only makes
//! sense as a whole (a step that waits for a step that does not exist). All three report [`Diagnostic`]s, as many as
//! there are, not only the first.
//!
//! What the machine is made of beyond CPUs, memory and disks is the simulator's business: [`tables`] hands those parts of the file on unread.
//!
//! # Structures
//! [`Scenario`] owns everything; [`Step`]s run in file order; an [`Expect`] is judged when all steps are over.
//! `docs/formats/scenario.md` is the reference for the people who write them.
//!
//! # Failure
//! Every byte of the file is untrusted. Nothing here panics on any input (`tests.rs` cuts and damages one); what does not parse
//! gets file, line, column, the offending text and, where we can guess, a hint.
//!
//! # Limits
//! A file is at most 1 MiB. Numbers are refused outside the range that makes sense (`1..=32` vCPUs), so that nothing
//! behind this crate checks them again.
//!
//! # Reading order
//! `model.rs` (what a scenario is), `read.rs` (how it is read), `tables.rs` (what is handed on), `check.rs`, `keys.rs` (`<enter>`, `<ctrl-c>`).

mod check;
mod diagnostic;
mod fuzz;
mod keys;
mod model;
mod read;
mod tables;
mod value;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use fuzz::fuzz;
pub use keys::{KeyError, parse as parse_keys};
pub use model::{
    Action, Board, Carry, Comparison, Disk, DiskContent, DiskModel, Expect, ExpectKind, Flavour, Image, Initrd, JudgedOn, Kernel, Limits,
    OutputRule, Place, Run, Scenario, StatSum, Step, Stream, Text, Userland, Zone, ZoneLimit,
};

use std::path::Path;

/// Longest scenario file that is read.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Reads and checks the scenario at `path`. `name` is how goldens and bundles call it (`tenants`, `bad-input/fork-bomb`).
pub fn load(path: &Path, name: &str) -> Result<Scenario, Diagnostics> {
    let shown = path.display().to_string();
    let fail = |message: String| Diagnostics::one(Diagnostic::whole_file(&shown, message));
    let size = std::fs::metadata(path).map_err(|e| fail(format!("cannot read this scenario: {e}")))?.len();
    if size > MAX_FILE_BYTES {
        return Err(fail(format!("{size} bytes long; a scenario is at most {MAX_FILE_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| fail(format!("cannot read this scenario: {e}")))?;
    parse(&text, &shown, name)
}

/// Reads and checks scenario text; `shown` is the file name used in messages.
pub fn parse(text: &str, shown: &str, name: &str) -> Result<Scenario, Diagnostics> {
    let source = diagnostic::Source::new(shown, text);
    let scenario = read::scenario(&source, name);
    if let Some(scenario) = &scenario {
        check::check(&source, scenario);
    }
    match (scenario, source.into_diagnostics()) {
        (Some(scenario), errors) if errors.is_empty() => Ok(scenario),
        (_, errors) => Err(errors),
    }
}

#[cfg(test)]
mod tests;
