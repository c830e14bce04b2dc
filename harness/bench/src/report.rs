//! The tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::baseline::{Beside, Os, Sim, SimRow, Travel};
use crate::openzfs::net;
use crate::os::{Cost, TARGETS};
use crate::pool::ROWS as POOL_ROWS;
use crate::speed::{Row, Side};
use crate::travel::{Figures, ROWS};

/// Simulator speed: one line a guest. MIPS count our exact instructions over each side's time; memory is the peak in MiB.
pub fn speed(rows: &[Row], base: &Sim) -> String {
    let mut out = String::new();
    line(&mut out, format_args!(
        "{:<11} {:>12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7} {:>8}  {:>14}  what",
        "guest", "instructions", "MIPS", "tcg", "icount", "/tcg", "/icount", "target", "change", "MiB ours/qemu"
    ));
    for row in rows {
        let mips = |side: Option<Side>| side.map_or_else(|| "-".to_string(), |side| format!("{:.0}", row.mips(side)));
        let ratio = |side: Option<Side>| row.ratio(side).map_or_else(|| "-".to_string(), |ratio| format!("{ratio:.2}"));
        let target = row.target.map_or_else(String::new, |target| {
            let met = row.ratio(row.icount).is_some_and(|ratio| ratio >= target);
            format!("{target:.2}{}", if row.icount.is_none() { "" } else if met { " +" } else { " !" })
        });
        let change = base
            .guest
            .get(row.name)
            .and_then(|old| Some(percent(old.ratio_icount?, row.ratio(row.icount)?)))
            .unwrap_or_default();
        let memory = format!("{}/{}", row.ours.peak_kib >> 10, row.tcg.map_or_else(|| "-".to_string(), |side| (side.peak_kib >> 10).to_string()));
        line(&mut out, format_args!(
            "{:<11} {:>12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7} {:>8}  {:>14}  {}",
            row.name, row.instructions, mips(Some(row.ours)), mips(row.tcg), mips(row.icount), ratio(row.tcg), ratio(row.icount), target, change, memory, row.what
        ));
        if let Some(old) = base.guest.get(row.name).filter(|old| old.instructions != row.instructions) {
            line(&mut out, format_args!("  {}: {} instructions, the baseline has {}", row.name, row.instructions, old.instructions));
        }
    }
    out
}

/// Costs of the OS: exact ticks, the change against the baseline, the target.
pub fn costs(costs: &[Cost], base: &Os) -> String {
    let mut out = String::new();
    line(&mut out, format_args!("{:<18} {:>14} {:>14} {:>9} {:>12}", "cost", "ticks", "baseline", "change", "target"));
    for cost in costs {
        let target = TARGETS.iter().find(|(name, _)| *name == cost.name).map(|(_, ticks)| *ticks);
        match &cost.value {
            Ok(value) => {
                let old = base.ticks.get(&cost.name).copied();
                let target = target.map_or_else(String::new, |target| format!("{target}{}", if *value <= target { " +" } else { " !" }));
                line(&mut out, format_args!(
                    "{:<18} {value:>14} {:>14} {:>9} {target:>12}",
                    cost.name,
                    old.map_or_else(|| "-".to_string(), |old| old.to_string()),
                    old.map_or_else(String::new, |old| percent(old as f64, *value as f64)),
                ));
            }
            Err(why) => line(&mut out, format_args!("{:<18} {:>14} ({why})", cost.name, "-")),
        }
    }
    out
}

/// What the pool costs: exact ticks, the change against the baseline, the target; and how much more ten times the data costs.
pub fn pool(costs: &[Cost], base: &Os) -> String {
    let mut out = String::new();
    line(&mut out, format_args!("{:<20} {:>13} {:>13} {:>9} {:>11}  what", "pool", "ticks", "baseline", "change", "target"));
    let value = |name: &str| costs.iter().find(|cost| cost.name == name).and_then(|cost| cost.value.clone().ok());
    for (name, what, target) in POOL_ROWS {
        let Some(ticks) = value(name) else { continue };
        let old = base.ticks.get(*name).copied();
        let target = target.map_or_else(String::new, |target| format!("{target}{}", if ticks <= target { " +" } else { " !" }));
        let grown = name.strip_suffix("_10x").and_then(|stem| value(&format!("{stem}_1x"))).map_or_else(String::new, |once| format!(" ({:.2} times)", ticks as f64 / once.max(1) as f64));
        line(&mut out, format_args!(
            "{name:<20} {ticks:>13} {:>13} {:>9} {target:>11}  {what}{grown}",
            old.map_or_else(|| "-".to_string(), |old| old.to_string()),
            old.map_or_else(String::new, |old| percent(old as f64, ticks as f64)),
        ));
    }
    out
}

/// What the pool costs beside OpenZFS's module, without commands and empty commits.
pub fn openzfs(rows: &BTreeMap<String, Beside>) -> String {
    let mut out = String::new();
    line(&mut out, format_args!("{:<20} {:>13} {:>13} {:>7}  what", "guest instructions", "orrery", "OpenZFS", "ratio"));
    for (name, what, _) in POOL_ROWS {
        if let Some(row) = rows.get(*name) {
            line(&mut out, format_args!("{name:<20} {:>13} {:>13} {:>7.2}  {what}", row.orrery, row.openzfs, row.ratio));
        }
    }
    out
}

/// Rows that both sides have.
pub fn beside(ours: &[Cost], theirs: &[Cost]) -> BTreeMap<String, Beside> {
    let row = |name: &str| {
        let (orrery, openzfs) = (net(ours, name)?, net(theirs, name)?);
        Some((name.to_owned(), Beside { orrery, openzfs, ratio: (orrery as f64 / openzfs.max(1) as f64 * 100.0).round() / 100.0 }))
    };
    POOL_ROWS.iter().filter_map(|(name, _, _)| row(name)).collect()
}

/// What time travel costs.
pub fn travel(figures: &Figures, base: &Travel) -> String {
    let mut out = String::new();
    line(&mut out, format_args!("{:<18} {:>10} {:<6} {:>10} {:>9} {:>9}  what", "time travel", "figure", "", "baseline", "change", "target"));
    for (name, unit, what, target) in ROWS {
        let Some(value) = figures.get(*name) else { continue };
        let old = base.figure.get(*name).copied();
        let target = target.map_or_else(String::new, |target| format!("{target}{}", if *value <= target { " +" } else { " !" }));
        line(&mut out, format_args!(
            "{name:<18} {value:>10.3} {unit:<6} {:>10} {:>9} {target:>9}  {what}",
            old.map_or_else(|| "-".to_string(), |old| format!("{old:.3}")),
            old.map_or_else(String::new, |old| percent(old, *value)),
        ));
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to a string cannot fail");
}

fn percent(old: f64, new: f64) -> String {
    if old == 0.0 { String::new() } else { format!("{:+.1} %", (new - old) / old * 100.0) }
}

/// Baselines from a run.
pub fn sim_baseline(rows: &[Row]) -> Sim {
    let round = |ratio: Option<f64>| ratio.map(|ratio| (ratio * 100.0).round() / 100.0);
    Sim {
        guest: rows
            .iter()
            .map(|row| {
                let figures = SimRow { instructions: row.instructions, ratio_tcg: round(row.ratio(row.tcg)), ratio_icount: round(row.ratio(row.icount)) };
                (row.name.to_string(), figures)
            })
            .collect(),
    }
}

/// Baselines from a run.
pub fn os_baseline(costs: &[Cost]) -> Os {
    Os { ticks: costs.iter().filter_map(|cost| Some((cost.name.clone(), cost.value.clone().ok()?))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_and_target_are_shown() {
        let base = Os { ticks: [("null_call".to_string(), 200)].into() };
        let text = costs(&[Cost { name: "null_call".into(), value: Ok(210) }], &base);
        assert!(text.contains("+5.0 %") && text.contains("250 +"), "{text}");
        let text = costs(&[Cost { name: "null_call".into(), value: Ok(300) }], &base);
        assert!(text.contains("250 !"), "{text}");
    }
}
