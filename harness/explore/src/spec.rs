//! The `[explore]` table of a scenario.

use serde::{Deserialize, Serialize};

/// What is explored, and what must hold.
///
/// ```toml
/// [explore]
/// prepare = "mkdir -p /mnt"                               # typed once, before the snapshot
/// run = "mount /dev/vda /mnt && keeper write /mnt 60"     # what is explored
/// promise = "ack "                                        # a line so begun promises what follows
/// check = "mount /dev/vda /mnt && keeper check /mnt"      # typed at a guest with the disk as cut
/// found = "have "                                         # a line so begun says what was kept
/// cuts = ["all", "none", "subset", "torn"]
/// faults = ["read-error", "write-error"]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Spec {
    /// What the console prints when the shell can be typed at.
    pub ready: String,
    pub prepare: String,
    pub run: String,
    pub promise: String,
    pub check: String,
    pub found: String,
    /// A line of `run` so begun is a bug found; the rest of the line names it.
    pub bug: String,
    /// The disk whose writes are cut points.
    pub disk: u8,
    /// What the volatile cache loses at each cut; none: no cuts are tried.
    pub cuts: Vec<CutKind>,
    /// Seeded subsets, and seeded tears, per cut.
    pub subsets: u64,
    /// Which failures each request meets once; none: they are not tried.
    pub faults: Vec<FaultKind>,
    /// Interleavings: seeds from 1 on; 0: none.
    pub seeds: u64,
    /// Whether they are adversarial.
    pub chaos: bool,
    /// Virtual seconds a command may take.
    pub patience_s: u64,
    /// Virtual seconds the boot may take.
    pub boot_s: u64,
}

/// What a power cut does to writes that no flush covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CutKind {
    /// All of them arrive.
    All,
    /// None does.
    None,
    /// Each arrives or not, by a seed.
    Subset,
    /// Each sector arrives or not, by a seed.
    Torn,
}

/// A failure of a single request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    ReadError,
    WriteError,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            ready: "# ".to_owned(),
            prepare: String::new(),
            run: String::new(),
            promise: String::new(),
            check: String::new(),
            found: String::new(),
            bug: String::new(),
            disk: 0,
            cuts: Vec::new(),
            subsets: 1,
            faults: Vec::new(),
            seeds: 0,
            chaos: false,
            patience_s: 120,
            boot_s: 120,
        }
    }
}

#[derive(Deserialize)]
struct Around {
    explore: Spec,
}

impl Spec {
    /// Reads the table from a scenario's text in which only it is left. The error has line and column.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let Around { explore } = toml::from_str(text).map_err(|error| error.to_string())?;
        let needs = |key: &str, when: &str| Err(format!("[explore]: `{key}` is missing: {when}"));
        if explore.run.is_empty() {
            return needs("run", "the command that is explored");
        }
        let disk = !explore.cuts.is_empty() || !explore.faults.is_empty();
        if disk && (explore.check.is_empty() || explore.promise.is_empty() || explore.found.is_empty()) {
            return needs("check, promise, found", "power cuts and faults are judged by what was promised and what is found");
        }
        if explore.seeds > 0 && explore.bug.is_empty() {
            return needs("bug", "interleavings are judged by the lines that begin so");
        }
        if !disk && explore.seeds == 0 {
            return needs("cuts, faults or seeds", "there is nothing to try");
        }
        Ok(explore)
    }

    /// The table as text that [`Spec::from_toml`] reads.
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).unwrap_or_default();
        format!("[explore]\n{body}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_prints_and_refuses() {
        let text = "[explore]\nrun = \"w\"\npromise = \"ack \"\ncheck = \"c\"\nfound = \"have \"\ncuts = [\"all\", \"torn\"]\n";
        let spec = Spec::from_toml(text).expect("complete");
        assert_eq!(Spec::from_toml(&spec.to_toml()), Ok(spec));
        assert!(Spec::from_toml("[explore]\nrun = \"w\"\ncuts = [\"all\"]\n").unwrap_err().contains("promise"));
        assert!(Spec::from_toml("[explore]\nrun = \"w\"\n").unwrap_err().contains("nothing to try"));
        assert!(Spec::from_toml("\n\n[explore]\nrum = \"w\"\n").unwrap_err().contains("line 4"));
    }
}
