//! What happened in one run, as data. Two transcripts of a scenario can be compared without knowing the machines.

use crate::target::End;
use crate::variant::Variant;
use serde::Serialize;
use std::collections::BTreeMap;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Status(i32),
    Signal(i32),
}

impl Outcome {
    /// As a shell reports it: the status, or 128 and the signal.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct StepRecord {
    pub name: String,
    /// Line in the scenario; 0 for the runner's own preparation of zones.
    pub line: usize,
    /// `alpha`, or empty for the global zone and the console.
    pub zone: String,
    pub began_ns: u64,
    pub ended_ns: Option<u64>,
    /// For commands.
    pub outcome: Option<Outcome>,
    /// The step could not be done: why.
    pub failed: Option<String>,
    #[serde(serialize_with = "lossy")]
    pub stdout: Vec<u8>,
    #[serde(serialize_with = "lossy")]
    pub stderr: Vec<u8>,
    /// Order in which steps ended, from 1.
    pub ended_as: Option<usize>,
}

fn lossy<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

/// All kernel statistics at one time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    pub at_ns: u64,
    /// `module:instance:name:statistic` to value; only whole numbers.
    pub values: BTreeMap<String, i128>,
}

impl Sample {
    /// Reads what `kstat -p` prints: `module:instance:name:statistic`, white space, value. Times with decimals become nanoseconds.
    #[must_use]
    pub fn parse(text: &str, at_ns: u64) -> Self {
        let mut values = BTreeMap::new();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(['\t', ' ']) else { continue };
            if name.split(':').count() != 4 {
                continue;
            }
            let value = value.trim();
            let number = value.parse::<i128>().ok().or_else(|| {
                let (whole, part) = value.split_once('.')?;
                let digits = part.len().min(9);
                let part: i128 = part.get(..digits)?.parse().ok()?;
                let scale = 10_i128.pow(9 - u32::try_from(digits).ok()?);
                Some(whole.parse::<i128>().ok()? * 1_000_000_000 + part * scale)
            });
            if let Some(number) = number {
                values.insert(name.to_owned(), number);
            }
        }
        Self { at_ns, values }
    }

    /// Sum of all statistics that match one of the names (`*` matches any one part), and how many matched.
    #[must_use]
    pub fn sum(&self, names: &[String]) -> (i128, usize) {
        let matching = self.values.iter().filter(|(name, _)| {
            names.iter().any(|pattern| pattern.split(':').zip(name.split(':')).all(|(wanted, part)| wanted == "*" || wanted == part))
        });
        matching.fold((0, 0), |(sum, count), (_, value)| (sum + value, count + 1))
    }
}

/// One run of a scenario on one machine.
#[derive(Clone, Debug, Serialize)]
pub struct Transcript {
    pub scenario: String,
    /// How this run differs from the scenario's first.
    #[serde(skip)]
    pub variant: Variant,
    pub machine: String,
    /// What the agent said it runs on.
    pub system: String,
    pub steps: Vec<StepRecord>,
    pub samples: BTreeMap<String, Sample>,
    #[serde(serialize_with = "lossy")]
    pub console: Vec<u8>,
    pub events: Vec<String>,
    pub unimplemented: Vec<String>,
    /// The agent answered after the last step.
    pub agent_alive: bool,
    /// Sessions the agent opened (more than one: it died and was started again).
    pub agent_sessions: usize,
    /// Lines of the agent's protocol that came damaged.
    pub damaged_lines: u64,
    #[serde(skip)]
    pub end: End,
    /// Why the run was given up before its last step, if it was.
    pub given_up: Option<String>,
    pub ticks: Option<u64>,
    pub virtual_ns: u64,
    pub wall_ms: u128,
    pub receipt: Option<String>,
    /// Debian packages that were in the guest, with their versions.
    pub packages: Vec<String>,
    /// What was on the disks in the end, in order.
    #[serde(skip)]
    pub disks: Vec<Vec<u8>>,
}

impl Transcript {
    /// The record of a step by its name.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&StepRecord> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// Console as text.
    #[must_use]
    pub fn console_text(&self) -> String {
        String::from_utf8_lossy(&self.console).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kstat_lines_become_sums() {
        let text = "zones:1:alpha:nsec_user\t300\nzones:1:alpha:nsec_sys\t20\nzones:2:beta:nsec_user 7\nzones:1:alpha:snaptime\t1.5\nzones:1:alpha:class\tmisc\nbroken line\n";
        let sample = Sample::parse(text, 9);
        assert_eq!(sample.sum(&["zones:*:alpha:nsec_user".into(), "zones:*:alpha:nsec_sys".into()]), (320, 2));
        assert_eq!(sample.sum(&["zones:*:*:nsec_user".into()]), (307, 2));
        assert_eq!(sample.sum(&["zones:*:alpha:snaptime".into()]), (1_500_000_000, 1));
        assert_eq!(sample.sum(&["nothing:0:x:y".into()]), (0, 0));
    }
}
