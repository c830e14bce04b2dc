//! `prstat -Z`: zones by CPU use.

use std::fmt::Write;
use std::time::Duration;

use control_abi::Operation;
use nv::NvList;

use crate::control::call;
use crate::rctl_value::{self, Scale};
use crate::usage::{self, Failure, Step};

pub const HELP: &str = "\
usage: prstat [-p] [INTERVAL [COUNT]]

A line for each zone, busiest first: id, processes, threads, memory, CPU time, part of the CPU since the last report (the first
report: since the machine started), load average of the last minute, name. Inside a zone: its own line.

  -p   for programs: zoneid:processes:lwps:memory_bytes:nsec:permille:avenrun_1min:zonename

examples:
  prstat            one report
  prstat 5 12       every five seconds for a minute
";

/// One zone at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sample {
    id: u64,
    name: String,
    processes: u64,
    lwps: u64,
    memory: u64,
    used_ns: u64,
    load: u64,
    taken_ns: u64,
}

fn sample() -> Result<Vec<Sample>, Failure> {
    let mut samples = Vec::new();
    let kstats = call(Operation::KstatRead, &NvList::new().with("module", "zones"))?;
    let zones = call(Operation::ZoneList, &NvList::new())?;
    for kstat in kstats.lists("kstats").map_err(Failure::new)? {
        let data = kstat.list("data").map_err(Failure::new)?;
        let number = |name: &str| data.number(name).map_err(Failure::new);
        let id = kstat.number("instance").map_err(Failure::new)?;
        let zone = zones.lists("zones").map_err(Failure::new)?.iter().find(|zone| zone.number("id") == Ok(id));
        samples.push(Sample {
            id,
            name: data.string("zonename").map_err(Failure::new)?.to_owned(),
            processes: number("nprocs")?,
            lwps: number("nlwps")?,
            memory: zone.and_then(|zone| zone.number("memory_bytes").ok()).unwrap_or(0),
            used_ns: number("nsec_user")? + number("nsec_sys")?,
            load: number("avenrun_1min")?,
            taken_ns: kstat.number("taken").map_err(Failure::new)?,
        });
    }
    Ok(samples)
}

/// Part of one CPU that a zone used between two samples, in thousandths.
fn permille(now: &Sample, before: Option<&Sample>) -> u64 {
    let (used, span) = before.map_or((now.used_ns, now.taken_ns), |before| {
        (now.used_ns.saturating_sub(before.used_ns), now.taken_ns.saturating_sub(before.taken_ns))
    });
    if span == 0 { 0 } else { u64::try_from(u128::from(used) * 1000 / u128::from(span)).unwrap_or(u64::MAX) }
}

fn report(samples: &[Sample], before: &[Sample], parseable: bool) -> String {
    let mut rows: Vec<(u64, &Sample)> =
        samples.iter().map(|now| (permille(now, before.iter().find(|old| old.id == now.id && old.name == now.name)), now)).collect();
    rows.sort_by(|a, b| (b.0, a.1.id).cmp(&(a.0, b.1.id)));
    let mut out = String::new();
    if !parseable {
        out.push_str("ZONEID    NPROC     LWPS   MEMORY         TIME    CPU   LOAD ZONE\n");
    }
    for (part, zone) in rows {
        let line = if parseable {
            let Sample { id, processes, lwps, memory, used_ns, load, name, .. } = zone;
            writeln!(out, "{id}:{processes}:{lwps}:{memory}:{used_ns}:{part}:{load}:{name}")
        } else {
            let seconds = zone.used_ns / 1_000_000_000;
            let time = format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
            let (load, memory) = (zone.load * 100 / 256, rctl_value::format(zone.memory, Scale::Bytes));
            writeln!(
                out,
                "{:>6} {:>8} {:>8} {memory:>8} {time:>12} {:>3}.{}% {:>3}.{:02} {}",
                zone.id,
                zone.processes,
                zone.lwps,
                part / 10,
                part % 10,
                load / 100,
                load % 100,
                zone.name
            )
        };
        line.expect("writing to a string");
    }
    out
}

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "pZ")?;
    let number = |text: &String| {
        text.parse::<u64>().ok().filter(|n| *n > 0).ok_or_else(|| Failure::usage(format!("'{text}' must be a number of at least 1")))
    };
    let (interval, count) = match &operands[..] {
        [] => (0, 1),
        [interval] => (number(interval)?, u64::MAX),
        [interval, count] => (number(interval)?, number(count)?),
        _ => return Err(Failure::usage("at most an interval and a count")),
    };
    let mut before = Vec::new();
    for round in 0..count {
        if round > 0 {
            std::thread::sleep(Duration::from_secs(interval));
        }
        let now = sample()?;
        usage::print(&report(&now, &before, steps.contains(&Step::Flag('p'))));
        before = now;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(id: u64, name: &str, used_ns: u64, taken_ns: u64) -> Sample {
        Sample { id, name: name.to_owned(), processes: 2, lwps: 3, memory: 5 << 20, used_ns, load: 640, taken_ns }
    }

    #[test]
    fn the_busiest_zone_comes_first_with_its_part_of_the_span() {
        let before = [zone(1, "alpha", 1_000, 0), zone(2, "beta", 9_000_000_000, 0)];
        let now = [zone(1, "alpha", 750_001_000, 1_000_000_000), zone(2, "beta", 9_250_000_000, 1_000_000_000)];
        let text = report(&now, &before, true);
        assert_eq!(text, "1:2:3:5242880:750001000:750:640:alpha\n2:2:3:5242880:9250000000:250:640:beta\n");
        let text = report(&now, &before, false);
        assert_eq!(
            text,
            "ZONEID    NPROC     LWPS   MEMORY         TIME    CPU   LOAD ZONE\n\
             \u{20}    1        2        3   5.00MB      0:00:00  75.0%   2.50 alpha\n\
             \u{20}    2        2        3   5.00MB      0:00:09  25.0%   2.50 beta\n"
        );
    }

    #[test]
    fn a_zone_that_booted_again_starts_anew() {
        let now = zone(3, "alpha", 500_000_000, 1_000_000_000);
        assert_eq!(permille(&now, None), 500);
        assert_eq!(permille(&now, Some(&zone(3, "alpha", 900_000_000, 1_000_000_000))), 0);
    }
}
