//! What only makes sense, or not, when the whole scenario is known.

use crate::diagnostic::Source;
use crate::model::{Action, DiskContent, ExpectKind, Initrd, Place, Scenario};
use crate::value::nearest;
use std::collections::BTreeSet;

/// Complains about references to what does not exist and about contradictions.
pub(crate) fn check(source: &Source<'_>, scenario: &Scenario) {
    let zones: Vec<&str> = scenario.zones.iter().map(|zone| zone.name.as_str()).filter(|name| !name.is_empty()).collect();
    let known = |line: usize, kind: &str, word: &str, all: &[&str]| {
        if !all.contains(&word) {
            let hint = match nearest(word, all) {
                Some(close) => format!("did you mean `{close}`?"),
                None if all.is_empty() => format!("this scenario has no {kind}"),
                None => format!("there is: {}", all.join(", ")),
            };
            complain_at(source, line, word, format!("no {kind} is called `{word}`"), Some(hint));
        }
    };

    let mut seen = BTreeSet::new();
    for zone in &scenario.zones {
        if !seen.insert(&zone.name) {
            complain_at(source, zone.line, &zone.name, format!("a second zone called `{}`", zone.name), None);
        }
    }
    let mut seen = BTreeSet::new();
    for disk in &scenario.disks {
        if !seen.insert(&disk.name) {
            complain_at(source, disk.line, &disk.name, format!("a second disk called `{}`", disk.name), None);
        }
        if disk.content == DiskContent::Ext4 && disk.size_bytes < 4 << 20 {
            complain_at(source, disk.line, "", "an ext4 file system needs at least 4M".to_owned(), None);
        }
    }
    for carry in &scenario.carry {
        for zone in &carry.zones {
            known(carry.line, "zone", zone, &zones);
        }
    }

    let mut ended: Vec<&str> = Vec::new();
    let mut running: Vec<&str> = Vec::new();
    let mut names = BTreeSet::new();
    let mut samples: Vec<&str> = Vec::new();
    for step in &scenario.steps {
        let line = step.line;
        match &step.action {
            Action::Run(run) => {
                if !names.insert(step.name.as_str()) {
                    complain_at(source, line, &step.name, format!("a second step called `{}`", step.name), Some("give it another `name`".to_owned()));
                }
                if let Place::Zone(zone) = &run.place {
                    known(line, "zone", zone, &zones);
                }
                if let Some(other) = &run.rule.same_as {
                    known(line, "earlier step", other, &ended);
                }
                if run.background { running.push(&step.name) } else { ended.push(&step.name) }
            }
            Action::Wait { step: other } => {
                known(line, "background step", other, &running);
                running.retain(|name| name != other);
                ended.push(other);
            }
            Action::Kill { step: other, .. } => known(line, "background step", other, &running),
            Action::Sample { name } => {
                if samples.contains(&name.as_str()) {
                    complain_at(source, line, name, format!("a second sample called `{name}`"), None);
                }
                samples.push(name);
            }
            Action::Type { .. } | Action::Await { .. } | Action::Sleep { .. } => {}
        }
        let needs_agent = matches!(step.action, Action::Run(_) | Action::Wait { .. } | Action::Kill { .. } | Action::Sample { .. });
        if needs_agent && !scenario.image.agent {
            complain_at(source, line, "", "this step needs the agent, and the image has none".to_owned(), Some("agent = true under [image]".to_owned()));
        }
    }
    for expect in &scenario.expects {
        match &expect.kind {
            ExpectKind::Ratio { from, until, .. } => {
                known(expect.line, "sample", from, &samples);
                known(expect.line, "sample", until, &samples);
            }
            ExpectKind::Before { first, second } => {
                known(expect.line, "finished step", first, &ended);
                known(expect.line, "finished step", second, &ended);
            }
            ExpectKind::ConsoleContains(_) | ExpectKind::ConsoleLacks(_) | ExpectKind::ExitStatus(_) | ExpectKind::OnHost { .. } => {}
        }
    }
    let foreign = matches!(scenario.image.initrd, Initrd::Debian(_));
    if scenario.image.initrd != Initrd::Live {
        let sampled = scenario.steps.iter().find(|step| matches!(step.action, Action::Sample { .. })).map(|step| (step.line, "samples"));
        let zoned = scenario.zones.first().map(|zone| (zone.line, "zones"));
        let carried = scenario.carry.first().filter(|_| !foreign).map(|carry| (carry.line, "carried files"));
        for (line, what) in [zoned, carried, sampled].into_iter().flatten() {
            complain_at(source, line, "", format!("{what} need the live initrd"), Some("initrd = \"live\" under [image]".to_owned()));
        }
    }
}

/// Points at `word` in or below the given line (the table it belongs to), or at the line itself.
fn complain_at(source: &Source<'_>, line: usize, word: &str, message: String, hint: Option<String>) {
    let start: usize = source.text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let body = &source.text[start..];
    let end = body[1.min(body.len())..].find("\n[[").map_or(body.len(), |at| at + 1);
    let quoted = format!("\"{word}\"");
    let span = match (word.is_empty(), body[..end].find(&quoted)) {
        (false, Some(at)) => start + at..start + at + quoted.len(),
        _ => start..start + body.lines().next().map_or(0, str::len),
    };
    source.complain(span, message, hint);
}
