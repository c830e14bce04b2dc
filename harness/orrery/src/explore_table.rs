//! `docs/explore.md`: what was explored, how fast, and what was found. A row for each scenario, written by `cargo orrery explore SCENARIO --record`.

use crate::Failure;
use explore::Summary;
use std::path::Path;

const HEADING: &str = "# Explorations

Each row is written by `cargo orrery explore SCENARIO --record`, which goes on where it was killed; `--jobs 1` makes it use one core. A trial is a fork of a booted guest with one power cut,
one failing request or one interleaving; nothing is booted again for it. The rate is trials a minute of one core's own time, so that a busy host does not lower it.

| scenario | disk writes | trials | open | failing | a minute and core | million ticks each | found |
|---|---|---|---|---|---|---|---|
";

/// Brings the row of a scenario up to date. Rates are of the trials that this run made; a run that only read results keeps those of the row.
pub fn record(root: &Path, scenario: &str, writes: Option<u64>, summary: &Summary, processor: f64) -> Result<(), Failure> {
    let path = root.join("docs/explore.md");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let mut rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| scenario ")).collect();
    let begin = format!("| {scenario} |");
    let old = rows.iter().find(|row| row.starts_with(&begin)).copied();
    let row = row(scenario, writes, summary, processor, old);
    rows.retain(|row| !row.starts_with(&begin));
    rows.push(&row);
    rows.sort_unstable();
    let text = HEADING.to_owned() + &rows.join("\n") + "\n";
    std::fs::write(&path, text).map_err(Failure::file(&path))
}

fn row(scenario: &str, writes: Option<u64>, summary: &Summary, processor: f64, old: Option<&str>) -> String {
    let kept = |column: usize| old.and_then(|row| row.split('|').map(str::trim).nth(column)).unwrap_or("-").to_owned();
    let (rate, ticks) = if summary.fresh > 0 && processor > 0.0 {
        (format!("{:.0}", summary.fresh as f64 * 60.0 / processor), format!("{:.1}", summary.ticks as f64 / summary.fresh as f64 / 1e6))
    } else {
        (kept(6), kept(7))
    };
    let kinds: Vec<String> = summary.kinds().iter().map(|(kind, failing)| format!("{kind}: one in {:.1}", summary.tried as f64 / failing.len() as f64)).collect();
    let found = if kinds.is_empty() { "nothing".to_owned() } else { kinds.join("; ").replace('|', "/") };
    let writes = writes.map_or_else(|| "-".to_owned(), |writes| writes.to_string());
    format!("| {scenario} | {writes} | {} | {} | {} | {rate} | {ticks} | {found} |", summary.tried, summary.open, summary.failing.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_keeps_the_rate_of_the_row() {
        let mut summary = Summary { tried: 100, fresh: 50, ticks: 500_000_000, ..Summary::default() };
        let first = row("a/b", Some(7), &summary, 30.0, None);
        assert_eq!(first, "| a/b | 7 | 100 | 0 | 0 | 100 | 10.0 | nothing |");
        (summary.fresh, summary.tried) = (0, 120);
        assert_eq!(row("a/b", Some(7), &summary, 0.1, Some(&first)), "| a/b | 7 | 120 | 0 | 0 | 100 | 10.0 | nothing |");
    }
}
