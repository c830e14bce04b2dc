//! Judges what happened: expectations, invariants, goldens, equal receipts.

use crate::disks;
use crate::target::End;
use crate::transcript::{Outcome, StepRecord, Transcript};
use crate::variant::Variant;
use golden::{Store, normalise};
use scenario::{Action, Comparison, ExpectKind, JudgedOn, OutputRule, Scenario, Stream, Text};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Console texts that mean the kernel gave up, wherever they stand.
const PANICS: &[&str] = &[
    "panicked at",
    "PANIC",
    "kernel panic",
    "assertion failed",
    "double fault",
    // Linux's words.
    "Kernel panic",
    "BUG: ",
    "Oops: ",
    "WARNING: CPU: ",
    "soft lockup",
    "detected stalls",
    "general protection fault",
];

/// How one property came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Result {
    Holds,
    Fails,
    /// Found, but not judged: only exact time could, or a stranger's kernel may ask for hardware that is not there.
    Shown,
}

/// One line of the verdict.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which zone, `host`, `machine`, ...
    pub place: String,
    pub what: String,
    pub result: Result,
    /// What was found; for a failure also what was wanted.
    pub found: String,
    /// Longer text for the report: a diff, the output.
    pub detail: Option<String>,
}

/// The verdict over a scenario.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub rows: Vec<Row>,
}

impl Verdict {
    /// Whether everything that was judged holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.rows.iter().all(|row| row.result != Result::Fails)
    }
    /// How many hold, and how many were judged.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let judged = self.rows.iter().filter(|row| row.result != Result::Shown);
        (judged.clone().filter(|row| row.result == Result::Holds).count(), judged.count())
    }
}

/// Where to judge and against what.
#[derive(Debug)]
pub struct Court<'c> {
    pub scenario: &'c Scenario,
    /// The simulator's time is exact: everything is judged there.
    pub exact: bool,
    /// Goldens are compared (on the simulator only: another machine has another console).
    pub goldens: Option<&'c Store>,
    /// Folder in which the carried files lie as in the guest, for the host's own tools.
    pub staged: &'c Path,
    /// Folder in which the disks are laid out as the run left them, for the host's own tools.
    pub disks: &'c Path,
}

fn row(place: &str, what: impl Into<String>, holds: bool, found: impl Into<String>) -> Row {
    Row { place: place.to_owned(), what: what.into(), result: if holds { Result::Holds } else { Result::Fails }, found: found.into(), detail: None }
}

impl Court<'_> {
    /// Judges the runs of a scenario: the first in full, the others by their receipts.
    #[must_use]
    pub fn judge(&self, runs: &[Transcript]) -> Verdict {
        let Some(run) = runs.first() else { return Verdict { rows: vec![row("machine", "ran", false, "there was no run")] } };
        let mut rows = vec![self.ran_through(run)];
        if !self.scenario.disks.is_empty()
            && let Err(error) = disks::lay_out(self.disks, &self.scenario.disks, &run.disks)
        {
            rows.push(row("host", "the disks are laid out", false, error.to_string()));
        }
        self.steps(run, &mut rows);
        self.expectations(run, &mut rows);
        self.invariants(run, &mut rows);
        if let Some(store) = self.goldens {
            self.goldens(store, run, &mut rows);
        }
        for (index, other) in runs.iter().enumerate().skip(1) {
            rows.push(match other.variant {
                Variant::Plain => same_receipt(format!("run {} is the same as run 1, to the bit", index + 1), run, other),
                Variant::Cut(_) => same_receipt(format!("{}: the same", other.variant), run, other),
                Variant::Chaos { again: false, .. } => self.in_short(other),
                Variant::Chaos { seed, again: true } => {
                    let first = runs.iter().find(|run| run.variant == Variant::Chaos { seed, again: false });
                    same_receipt(format!("{}: the same", other.variant), first.unwrap_or(run), other)
                }
            });
        }
        rows.extend(distinct(runs));
        Verdict { rows }
    }

    /// Everything the scenario asks for, of another run, in one line.
    fn in_short(&self, run: &Transcript) -> Row {
        let mut all = vec![self.ran_through(run)];
        self.steps(run, &mut all);
        // What is asked of the host's tools about disks is asked of the first run's.
        self.invariants(run, &mut all);
        let inner = Verdict { rows: all };
        let (good, judged) = inner.count();
        let mut judged = row("machine", format!("{}: everything holds", run.variant), inner.holds(), format!("{good} of {judged}"));
        let failing = inner.rows.iter().filter(|row| row.result == Result::Fails);
        let details: Vec<String> = failing.map(|row| format!("{}: {}: {}\n{}", row.place, row.what, row.found, row.detail.clone().unwrap_or_default())).collect();
        judged.detail = (!details.is_empty()).then(|| details.join("\n"));
        judged
    }

    fn ran_through(&self, run: &Transcript) -> Row {
        let expects_end = self.scenario.expects.iter().any(|expect| matches!(expect.kind, ExpectKind::ExitStatus(_)));
        match &run.given_up {
            None => row("machine", "ran to the last step", true, format!("{}", run.end)),
            // The scenario says how the machine ends; whether it did is judged there.
            Some(_) if expects_end && run.end != End::Limit => row("machine", "ran to its end", true, format!("{}", run.end)),
            Some(why) => {
                let mut failed = row("machine", "ran to the last step", false, why.clone());
                let console = run.console_text();
                let tail: Vec<&str> = console.lines().rev().take(25).collect();
                failed.detail = Some(format!("the last of the console:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n")));
                failed
            }
        }
    }

    fn steps(&self, run: &Transcript, rows: &mut Vec<Row>) {
        // Zones are prepared by the runner; one row each when they came up.
        for zone in self.scenario.zones.iter().filter(|zone| zone.boot) {
            let name = format!("boot zone {}", zone.name);
            let up = run.step(&name).is_some_and(|step| step.outcome == Some(Outcome::Status(0)));
            rows.push(row(&zone.name, format!("zone boots with {} shares", zone.shares), up, if up { "running" } else { "did not boot" }));
        }
        for step in &self.scenario.steps {
            let Action::Run(command) = &step.action else { continue };
            let record = run.steps.iter().find(|record| record.name == step.name && record.line == step.line);
            let awaited = !command.background || self.scenario.steps.iter().any(|other| matches!(&other.action, Action::Wait { step: name } if *name == step.name));
            let Some(record) = record else {
                rows.push(row("machine", &step.name, false, "never started"));
                continue;
            };
            let place = if record.zone.is_empty() { "global" } else { &record.zone };
            if !awaited {
                // Nobody waits for it: that it could be started is all that is asked.
                let started = record.failed.is_none();
                rows.push(row(place, &step.name, started, record.failed.clone().unwrap_or_else(|| "started".to_owned())));
                continue;
            }
            let mut judged = self.command(&command.rule, record, run);
            judged.place = place.to_owned();
            judged.what.clone_from(&step.name);
            if command.rule.judged_on == JudgedOn::Simulator && !self.exact && judged.result == Result::Fails {
                judged.result = Result::Shown;
            }
            rows.push(judged);
        }
    }

    fn command(&self, rule: &OutputRule, record: &StepRecord, run: &Transcript) -> Row {
        let stdout = String::from_utf8_lossy(&record.stdout);
        let stderr = String::from_utf8_lossy(&record.stderr);
        let output = || Some(format!("standard output:\n{}\nstandard error:\n{}", clip(&stdout), clip(&stderr)));
        let fail = |found: String| Row { detail: output(), ..row("", "", false, found) };
        if let Some(why) = &record.failed {
            return fail(format!("could not be started: {why}"));
        }
        let Some(outcome) = record.outcome else { return fail("did not end".to_owned()) };
        if let Some(wanted) = &rule.status
            && !wanted.contains(&outcome.code())
        {
            let said = stderr.lines().next().map_or_else(String::new, |line| format!(": {line}"));
            return fail(format!("{outcome}, wanted {}{said}", list(wanted)));
        }
        if let Some(wanted) = &rule.equals
            && stdout.trim_end() != wanted.trim_end()
        {
            return Row { detail: Some(golden::diff(wanted, &stdout)), ..fail(format!("printed {}, wanted {}", short(&stdout), short(wanted))) };
        }
        let both = format!("{stdout}{stderr}");
        if let Some(text) = rule.contains.iter().find(|text| text.find_end(&both).is_none()) {
            return fail(format!("did not print {text}"));
        }
        if let Some(text) = rule.lacks.iter().find(|text| text.find_end(&both).is_some()) {
            return fail(format!("printed {text}"));
        }
        let lines = stdout.lines().count();
        let mut found = format!("{outcome}, {lines} line{}", if lines == 1 { "" } else { "s" });
        if let Some(other) = &rule.same_as {
            let theirs = run.step(other).map(|step| step.stdout.as_slice()).unwrap_or_default();
            if theirs != record.stdout.as_slice() {
                return Row { detail: Some(golden::diff(&String::from_utf8_lossy(theirs), &stdout)), ..fail(format!("printed something else than `{other}`")) };
            }
            found = format!("{found}, same as {other}");
        }
        if let Some(command) = &rule.same_as_host {
            match self.ask_host(command) {
                Ok(host) if host == record.stdout => found = format!("{found}, same as the host's tools"),
                Ok(host) => return Row { detail: Some(golden::diff(&String::from_utf8_lossy(&host), &stdout)), ..fail("printed something else than the host's own tools".to_owned()) },
                Err(why) => return fail(format!("the host's own tools could not answer: {why}")),
            }
        }
        if lines == 1 && stdout.len() < 60 {
            found = format!("{found}: {}", stdout.trim_end());
        }
        row("", "", true, found)
    }

    /// Runs a shell line on the host, where the carried files lie.
    fn ask_host(&self, line: &str) -> std::result::Result<Vec<u8>, String> {
        let folder = self.scenario.carry.first().map_or_else(|| self.staged.to_owned(), |carry| self.staged.join(carry.to.trim_start_matches('/')));
        let output = host_shell(line, &folder)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Runs a shell line on the host, where the disks lie.
    fn on_host(&self, line: &str, contains: &[Text]) -> Row {
        let output = match host_shell(line, self.disks) {
            Ok(output) => output,
            Err(why) => return row("host", "", false, why),
        };
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let missing = contains.iter().find(|text| text.find_end(&said).is_none());
        let mut judged = match missing {
            _ if !output.status.success() => row("host", "", false, format!("{line}: {}", output.status)),
            Some(text) => row("host", "", false, format!("{line} did not print {text}")),
            None => row("host", "", true, said.trim().lines().next_back().unwrap_or(line).to_owned()),
        };
        judged.detail = (judged.result == Result::Fails).then(|| clip(&said));
        judged
    }

    fn expectations(&self, run: &Transcript, rows: &mut Vec<Row>) {
        let console = run.console_text();
        for expect in &self.scenario.expects {
            let mut judged = match &expect.kind {
                ExpectKind::ConsoleContains(text) => row("console", &expect.name, text.find_end(&console).is_some(), format!("{text}")),
                ExpectKind::ConsoleLacks(text) => row("console", &expect.name, text.find_end(&console).is_none(), format!("no {text}")),
                ExpectKind::Ratio { of, to, from, until, comparison } => ratio(run, &of.0, &to.0, (from, until), *comparison),
                ExpectKind::ExitStatus(status) => row("machine", &expect.name, run.end == End::DebugExit(*status), format!("{}", run.end)),
                ExpectKind::OnHost { line, contains } => self.on_host(line, contains),
                ExpectKind::Before { first, second } => {
                    let order = |name: &str| run.step(name).and_then(|step| step.ended_as);
                    let holds = order(first).zip(order(second)).is_some_and(|(a, b)| a < b);
                    row("machine", "", holds, format!("`{first}` ended {} `{second}`", if holds { "before" } else { "not before" }))
                }
            };
            judged.what.clone_from(&expect.name);
            if expect.judged_on == JudgedOn::Simulator && !self.exact {
                judged.result = Result::Shown;
            }
            rows.push(judged);
        }
    }

    fn invariants(&self, run: &Transcript, rows: &mut Vec<Row>) {
        let console = run.console_text();
        let bad = console.lines().find(|line| PANICS.iter().any(|word| line.contains(word)) && !self.scenario.allow.iter().any(|ok| line.contains(ok.as_str())));
        rows.push(row("console", "the kernel does not panic", bad.is_none(), bad.map_or_else(String::new, |line| line.trim().to_owned())));
        if self.scenario.image.agent {
            let alive = run.agent_alive && run.agent_sessions == 1;
            rows.push(row("global", "the agent still answers", alive, if alive { run.system.clone() } else { format!("{} sessions", run.agent_sessions) }));
        }
        if self.exact {
            let none = run.unimplemented.is_empty();
            let mut judged = row("machine", "no hardware is asked for that is not there", none, run.unimplemented.first().cloned().unwrap_or_default());
            judged.detail = (!none).then(|| run.unimplemented.join("\n"));
            if !none && !crate::needs_ours(self.scenario) {
                judged.result = Result::Shown;
            }
            rows.push(judged);
        }
    }

    fn goldens(&self, store: &Store, run: &Transcript, rows: &mut Vec<Row>) {
        for stream in &self.scenario.golden {
            let name = stream.extension();
            let what = format!("the {name} is as in its golden");
            let judged = match store.compare(&self.scenario.name, name, &stream_text(run, *stream)) {
                golden::Verdict::Same => row("golden", what, true, format!("golden/{}.{name}", self.scenario.name)),
                golden::Verdict::Missing { .. } => row("golden", what, false, format!("there is none yet: cargo orrery bless {}", self.scenario.name)),
                golden::Verdict::Differs { diff, .. } => {
                    Row { detail: Some(diff), ..row("golden", what, false, format!("differs: cargo orrery diff {0}, then bless {0} if it is right", self.scenario.name)) }
                }
                golden::Verdict::TooLong { bytes } => row("golden", what, false, format!("{bytes} bytes are too long for a golden")),
                golden::Verdict::Unreadable { path, why } => row("golden", what, false, format!("{}: {why}", path.display())),
            };
            rows.push(judged);
        }
    }
}

/// The text of a golden stream, normalised.
#[must_use]
pub fn stream_text(run: &Transcript, stream: Stream) -> String {
    match stream {
        Stream::Console => normalise(&run.console_text()),
        Stream::Events => events_text(run),
    }
}

/// What was done, in the order it was begun, and how it ended; then what the machine itself had to report (nothing, as a rule).
fn events_text(run: &Transcript) -> String {
    let mut text = String::new();
    for step in &run.steps {
        let place = if step.zone.is_empty() { "global" } else { &step.zone };
        let how = match (&step.failed, step.outcome) {
            (Some(_), _) => "not started".to_owned(),
            (None, Some(outcome)) => outcome.to_string(),
            (None, None) if step.stdout.is_empty() && step.ended_ns.is_none() => "-".to_owned(),
            (None, None) => "runs on".to_owned(),
        };
        let name: String = step.name.split_whitespace().collect::<Vec<_>>().join(" ");
        text.push_str(&format!("step     {place:8} {how:12} {name}\n"));
    }
    let machine: String = run.events.iter().map(|event| format!("{event}\n")).collect();
    for line in normalise(&machine).lines() {
        text.push_str(&format!("machine  {line}\n"));
    }
    text.push_str(&format!("end      {}\n", run.end));
    text
}

/// Writes the goldens of a run; gives the files that changed.
pub fn bless(store: &Store, scenario: &Scenario, run: &Transcript) -> std::io::Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    for stream in &scenario.golden {
        if store.bless(&scenario.name, stream.extension(), &stream_text(run, *stream))? {
            changed.push(store.path(&scenario.name, stream.extension()));
        }
    }
    Ok(changed)
}

/// Other seeds are other runs, where there is more than one vCPU to take turns.
fn distinct(runs: &[Transcript]) -> Option<Row> {
    let chaotic = runs.iter().filter(|run| matches!(run.variant, Variant::Chaos { again: false, .. }));
    let receipts: Vec<&str> = chaotic.filter_map(|run| run.receipt.as_deref()).collect();
    let different: std::collections::BTreeSet<&str> = receipts.iter().copied().collect();
    (receipts.len() > 1).then(|| row("receipt", "each seed is a run of its own", different.len() == receipts.len(), format!("{} seeds, {} receipts", receipts.len(), different.len())))
}

fn same_receipt(what: String, first: &Transcript, other: &Transcript) -> Row {
    match (&first.receipt, &other.receipt) {
        (Some(a), Some(b)) if a == b => row("receipt", what, true, a.clone()),
        (Some(a), Some(b)) => {
            let step = first.steps.iter().zip(&other.steps).find(|(x, y)| (x.began_ns, x.ended_ns, &x.stdout) != (y.began_ns, y.ended_ns, &y.stdout));
            let mut judged = row("receipt", what, false, format!("{a} and {b}"));
            judged.detail = step.map(|(x, y)| format!("first step that differs: `{}` began at {} and {} ns", x.name, x.began_ns, y.began_ns));
            judged
        }
        _ => Row { result: Result::Shown, ..row("receipt", what, true, "this machine gives no receipt") },
    }
}

fn ratio(run: &Transcript, of: &[String], to: &[String], (from, until): (&str, &str), comparison: Comparison) -> Row {
    let (Some(a), Some(b)) = (run.samples.get(from), run.samples.get(until)) else {
        return row("global", "", false, "the samples were not taken");
    };
    let growth = |names: &[String]| {
        let ((x, found), (y, found_later)) = (a.sum(names), b.sum(names));
        (found > 0 && found_later > 0).then_some(y - x)
    };
    let (Some(of_growth), Some(to_growth)) = (growth(of), growth(to)) else {
        return row("global", "", false, format!("no statistic matches {}", if growth(of).is_none() { of.join(" + ") } else { to.join(" + ") }));
    };
    if to_growth == 0 {
        return row("global", "", false, format!("{} did not grow", to.join(" + ")));
    }
    // Judging happens outside the machine: a decimal is good enough for a person and for two percent.
    let measured = of_growth as f64 / to_growth as f64;
    row("global", "", comparison.holds(measured), format!("{measured:.4} ({comparison})"))
}

/// A shell line in a folder of the host, with system tools on its path.
fn host_shell(line: &str, folder: &Path) -> std::result::Result<std::process::Output, String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("/bin/sh").arg("-c").arg(line).current_dir(folder).env("PATH", path).env("LC_ALL", "C").env("TZ", "UTC").output();
    output.map_err(|error| format!("{}: {error}", folder.display()))
}

fn clip(text: &str) -> String {
    const MOST: usize = 4000;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}\n... {} more bytes, see transcript.json", &text[..at], text.len() - at),
        None => text.to_owned(),
    }
}

fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(40).collect();
    format!("`{cut}`{}", if cut.len() < text.trim_end().len() { "..." } else { "" })
}

fn list(numbers: &[i32]) -> String {
    numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(" or ")
}
