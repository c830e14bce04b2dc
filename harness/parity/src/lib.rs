//! Two machines, one scenario: what differed, and why that is allowed.
//!
//! # Theory
//! The simulator and QEMU share no line that describes hardware. If the same kernel with the same scenario does the same on both, then what the
//! simulator believes about hardware is what QEMU believes. What may differ is known beforehand and has a reason, one [`Class`] each; whatever
//! fits no class is a finding, and the comparison fails.
//!
//! # Structures
//! [`compare`] takes two [`Transcript`]s and gives a [`Difference`] for each thing that is not the same, classed.

use runner::{StepRecord, Transcript};
use scenario::{Action, Scenario};
use std::fmt::Write as _;

/// Why a difference is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Real time is not virtual time: durations and what is measured in them.
    Time,
    /// The order in which things that run side by side end.
    Order,
    /// Another machine: its own processor, memory map and devices, as the kernel prints them.
    Machine,
    /// QEMU keeps no receipt, event log or count of instructions.
    Record,
    /// Nothing explains it.
    Unexplained,
}

impl Class {
    /// The reason, for the report.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Self::Time => "allowed: QEMU runs in real time, the simulator in virtual time",
            Self::Order => "allowed: what runs side by side may end in another order when time passes differently",
            Self::Machine => "allowed: the kernel names the processor, memory and devices it finds, and they are others",
            Self::Record => "allowed: QEMU keeps no such record",
            Self::Unexplained => "NOT EXPLAINED: the same command on the same files must do the same",
        }
    }
}

/// One thing that is not the same.
#[derive(Clone, Debug)]
pub struct Difference {
    pub class: Class,
    pub what: String,
    pub detail: String,
}

/// Everything in which `there` differs from `here` (the simulator).
#[must_use]
pub fn compare(scenario: &Scenario, here: &Transcript, there: &Transcript) -> Vec<Difference> {
    let mut found = Vec::new();
    for step in &here.steps {
        match there.steps.iter().find(|other| other.name == step.name && other.line == step.line) {
            Some(other) => compare_step(scenario, step, other, &mut found),
            None => found.push(Difference {
                class: Class::Unexplained,
                what: format!("step `{}`", step.name),
                detail: format!("ran on {}, not on {}", here.machine, there.machine),
            }),
        }
    }
    let order = |run: &Transcript| {
        let mut names: Vec<_> = run.steps.iter().filter_map(|step| step.ended_as.map(|at| (at, step.name.clone()))).collect();
        names.sort();
        names.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    let (a, b) = (order(here), order(there));
    if a != b {
        let at = a.iter().zip(&b).position(|(x, y)| x != y).unwrap_or(a.len().min(b.len()));
        let side = |names: &[String]| names.get(at).cloned().unwrap_or_default();
        found.push(Difference { class: Class::Order, what: "order in which commands ended".to_owned(), detail: format!("`{}` came before `{}` on {} only", side(&a), side(&b), here.machine) });
    }
    compare_console(here, there, &mut found);
    found.push(Difference {
        class: Class::Time,
        what: "time taken".to_owned(),
        detail: format!("{:.2} s of virtual time; {:.2} s of real time", here.virtual_ns as f64 / 1e9, there.virtual_ns as f64 / 1e9),
    });
    if let Some(receipt) = &here.receipt {
        found.push(Difference { class: Class::Record, what: "receipt and event log".to_owned(), detail: format!("receipt {receipt}, {} events; none on {}", here.events.len(), there.machine) });
    }
    found
}

fn compare_step(scenario: &Scenario, here: &StepRecord, there: &StepRecord, found: &mut Vec<Difference>) {
    if here.outcome != there.outcome || here.failed != there.failed {
        let say = |step: &StepRecord| step.outcome.map_or_else(|| step.failed.clone().unwrap_or_else(|| "did not end".to_owned()), |outcome| outcome.to_string());
        let class = if is_timed(scenario, here) { Class::Time } else { Class::Unexplained };
        found.push(Difference { class, what: format!("how `{}` ended", here.name), detail: format!("{}; {}", say(here), say(there)) });
    }
    if here.stdout != there.stdout {
        let class = if is_timed(scenario, here) { Class::Time } else { Class::Unexplained };
        let diff = golden::diff(&String::from_utf8_lossy(&here.stdout), &String::from_utf8_lossy(&there.stdout));
        let detail = if class == Class::Time { format!("{} and {} lines", lines(&here.stdout), lines(&there.stdout)) } else { diff };
        found.push(Difference { class, what: format!("what `{}` printed", here.name), detail });
    }
}

fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// Whether a step's result is a measurement: a sample, a step that only the simulator judges, or one ended by a signal of the scenario.
fn is_timed(scenario: &Scenario, record: &StepRecord) -> bool {
    scenario.steps.iter().filter(|step| step.line == record.line).any(|step| match &step.action {
        Action::Sample { .. } => true,
        Action::Run(run) => {
            let killed = scenario.steps.iter().any(|other| matches!(&other.action, Action::Kill { step: name, .. } if *name == step.name));
            run.rule.judged_on == scenario::JudgedOn::Simulator || killed
        }
        Action::Wait { .. } | Action::Kill { .. } | Action::Type { .. } | Action::Await { .. } | Action::Sleep { .. } => false,
    })
}

fn compare_console(here: &Transcript, there: &Transcript, found: &mut Vec<Difference>) {
    let lines = |run: &Transcript| golden::normalise(&run.console_text()).lines().map(str::to_owned).collect::<Vec<_>>();
    let (a, b) = (lines(here), lines(there));
    let only = |from: &[String], other: &[String]| from.iter().filter(|line| !other.contains(line)).take(8).cloned().collect::<Vec<_>>();
    let (only_here, only_there) = (only(&a, &b), only(&b, &a));
    if !only_here.is_empty() || !only_there.is_empty() {
        let mut detail = String::new();
        for (sign, lines) in [('-', only_here), ('+', only_there)] {
            for line in lines {
                // Writing to a string cannot fail.
                let _infallible = writeln!(detail, "{sign} {line}");
            }
        }
        found.push(Difference { class: Class::Machine, what: "console".to_owned(), detail });
    }
}

/// The report a person reads.
#[must_use]
pub fn report(here: &str, there: &str, differences: &[Difference]) -> String {
    let mut text = format!("\n  what differed between {here} and {there}, and why that is allowed\n\n");
    for difference in differences {
        text.push_str(&format!("  {}\n      {}\n", difference.what, difference.class.why()));
        for line in difference.detail.lines().take(12) {
            text.push_str(&format!("      {line}\n"));
        }
    }
    let bad = unexplained(differences);
    text.push_str(&format!("\n  {} differences, {bad} of them unexplained\n", differences.len()));
    text
}

/// How many have no reason.
#[must_use]
pub fn unexplained(differences: &[Difference]) -> usize {
    differences.iter().filter(|difference| difference.class == Class::Unexplained).count()
}
