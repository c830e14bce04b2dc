//! What a run leaves behind: a folder a person can read and a CI can collect.

use crate::transcript::Transcript;
use crate::{Prepared, Recorded};
use crate::verdict::{Result as Judged, Verdict};
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use scenario::Scenario;
use std::fmt::Write as _;
use std::path::Path;

/// Writes `console.txt`, `events.txt`, `receipt`, `transcript.json`, `junit.xml` and `report.txt`.
pub fn write(folder: &Path, scenario: &Scenario, runs: &[Transcript], verdict: &Verdict) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    if let Some(run) = runs.first() {
        std::fs::write(folder.join("console.txt"), &run.console)?;
        std::fs::write(folder.join("events.txt"), run.events.join("\n") + "\n")?;
        let json = serde_json::to_string_pretty(run).map_err(std::io::Error::other)?;
        std::fs::write(folder.join("transcript.json"), json + "\n")?;
        std::fs::write(folder.join("receipt"), run.receipt.as_deref().unwrap_or("none") .to_owned() + "\n")?;
    }
    let mut report = table(scenario, runs, verdict, false);
    for row in verdict.rows.iter().filter(|row| row.result == Judged::Fails) {
        if let Some(detail) = &row.detail {
            // Writing to a string cannot fail.
            let _infallible = writeln!(report, "\n{}: {}\n{detail}", row.place, row.what);
        }
    }
    std::fs::write(folder.join("report.txt"), report)?;
    let mut junit = quick_junit::Report::new("orrery");
    junit.add_test_suite(suite(scenario, runs, verdict));
    std::fs::write(folder.join("junit.xml"), junit.to_string().map_err(std::io::Error::other)?)
}

/// Writes what can be seen of the recorded run: timeline, flamegraph, captures, disk operations, and the page that shows it all.
pub fn evidence(folder: &Path, scenario: &Scenario, prepared: &Prepared, recorded: &Recorded, verdict: &Verdict) -> std::io::Result<()> {
    let run = &recorded.transcript;
    let mut evidence = report::Evidence {
        name: scenario.name.clone(),
        property: scenario.property.clone(),
        rows: verdict
            .rows
            .iter()
            .map(|row| report::Row {
                holds: match row.result {
                    Judged::Holds => Some(true),
                    Judged::Fails => Some(false),
                    Judged::Shown => None,
                },
                place: row.place.clone(),
                what: row.what.clone(),
                found: row.found.clone(),
                detail: row.detail.clone(),
            })
            .collect(),
        steps: run
            .steps
            .iter()
            .map(|step| report::Step {
                name: step.name.clone(),
                zone: step.zone.clone(),
                began_ns: step.began_ns,
                ended_ns: step.ended_ns.unwrap_or(run.virtual_ns),
                outcome: match (&step.failed, step.outcome) {
                    (Some(why), _) => why.clone(),
                    (None, Some(outcome)) => outcome.to_string(),
                    (None, None) => String::new(),
                },
            })
            .collect(),
        console: run.console_text(),
        receipt: run.receipt.clone().unwrap_or_default(),
        summary: format!("{}, {} instructions, {:.3} s of machine time", run.machine, run.ticks.unwrap_or(0), run.virtual_ns as f64 / 1e9),
        samples: recorded.samples.clone(),
        every: recorded.every,
        ..report::Evidence::default()
    };
    evidence.collect(&recorded.machine);
    report::write(folder, &evidence, &symbols(prepared))
}

/// Names of the kernel's functions: its own, or those of the `System.map` beside it.
fn symbols(prepared: &Prepared) -> report::Symbols {
    let own = report::Symbols::of_elf(&prepared.kernel);
    if !own.is_empty() {
        return own;
    }
    let name = prepared.kernel_path.file_name().map(|name| name.to_string_lossy().replace("vmlinuz", "System.map")).unwrap_or_default();
    std::fs::read_to_string(prepared.kernel_path.with_file_name(name)).map_or_else(|_| report::Symbols::none(), |text| report::Symbols::of_map(&text))
}

/// The scenario as a JUnit suite, a test case for each line of the verdict.
#[must_use]
pub fn suite(scenario: &Scenario, runs: &[Transcript], verdict: &Verdict) -> TestSuite {
    let mut suite = TestSuite::new(scenario.name.clone());
    for row in &verdict.rows {
        let status = match row.result {
            Judged::Holds => TestCaseStatus::success(),
            Judged::Shown => TestCaseStatus::skipped(),
            Judged::Fails => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(row.found.clone());
                if let Some(detail) = &row.detail {
                    status.set_description(detail.clone());
                }
                status
            }
        };
        let mut case = TestCase::new(format!("{}: {}", row.place, row.what), status);
        case.set_classname(scenario.name.clone());
        suite.add_test_case(case);
    }
    let millis: u128 = runs.iter().map(|run| run.wall_ms).sum();
    suite.set_time(std::time::Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)));
    suite
}

/// The table a newcomer reads.
#[must_use]
pub fn table(scenario: &Scenario, runs: &[Transcript], verdict: &Verdict, color: bool) -> String {
    let paint = |code: &str, text: &str| if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let places = verdict.rows.iter().map(|row| row.place.chars().count()).max().unwrap_or(0);
    let whats = verdict.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0).min(52);
    let mut text = format!("\n{}\n{}\n\n", paint("1", &scenario.name), scenario.property);
    for row in &verdict.rows {
        let mark = match row.result {
            Judged::Holds => paint("32", "ok  "),
            Judged::Fails => paint("31;1", "FAIL"),
            Judged::Shown => paint("33", "seen"),
        };
        let what: String = row.what.chars().take(whats).collect();
        let found: String = row.found.lines().next().unwrap_or_default().chars().take(96).collect();
        text.push_str(format!("  {mark}  {:places$}  {what:whats$}  {found}", row.place).trim_end());
        text.push('\n');
    }
    let (good, judged) = verdict.count();
    text.push('\n');
    if let Some(run) = runs.first() {
        let ticks = run.ticks.map_or_else(String::new, |ticks| format!("{:.2} G instructions, ", ticks as f64 / 1e9));
        let speed = run.ticks.map_or_else(String::new, |ticks| format!(", {} M/s", u128::from(ticks) / 1000 / run.wall_ms.max(1)));
        if !run.packages.is_empty() {
            text.push_str(&format!("  Debian packages: {}\n", run.packages.join(", ")));
        }
        text.push_str(&format!("  {}: {ticks}{:.2} s of machine time in {:.1} s{speed}\n", run.machine, run.virtual_ns as f64 / 1e9, run.wall_ms as f64 / 1e3));
    }
    let line = format!("{good} of {judged} hold");
    text.push_str(&format!("  {}\n", if verdict.holds() { paint("32;1", &line) } else { paint("31;1", &line) }));
    text
}
