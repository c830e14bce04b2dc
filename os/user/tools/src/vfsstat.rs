//! `vfsstat` and `ziostat`: what zones do with files, and what they read from disks.

use std::time::Duration;

use control_abi::Operation;
use nv::NvList;

use crate::control::call;
use crate::usage::{self, Failure, Step};

pub const VFS_HELP: &str = "\
usage: vfsstat [-hIMrzZ] [INTERVAL [COUNT]]

Reads and writes of a zone through files; the first line since the zone booted.

  r/s w/s        operations a second           kr/s kw/s      kilobytes a second
  ractv wactv    in progress on average        read_t writ_t  microseconds each took
  %r %w          time with one in progress     d/s del_t      delays by the throttle, microseconds each

  -I  counts of the interval, not a second     -M  megabytes
  -r  separated by commas                      -z  no lines of zeros
  -Z  all zones, not only the own

examples:
  vfsstat -Z 5
  vfsstat -rZ 1 10
";

pub const ZIO_HELP: &str = "\
usage: ziostat [-hIMrzZ] [INTERVAL [COUNT]]

Reads of a zone that went to the disks of pools; the first line since the zone booted. What vfsstat shows beyond that came from memory.

  r/s kr/s   reads and kilobytes a second      actv    in progress at the disks on average
  wsvc_t     milliseconds in the queue         asvc_t  milliseconds at the disks
  %b         time with one in progress

Options as of vfsstat.

examples:
  ziostat -Zz 5
";

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Vfs,
    Zio,
}

/// A zone's counters at one time, in the order of [`FIELDS`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sample {
    id: u64,
    zone: String,
    taken_ns: u64,
    created_ns: u64,
    values: [u64; 10],
}

const VFS_FIELDS: [&str; 10] = ["reads", "writes", "nread", "nwritten", "rlentime", "wlentime", "rtime", "wtime", "delay_cnt", "delay_time"];
const ZIO_FIELDS: [&str; 10] = ["reads", "writes", "nread", "nwritten", "rlentime", "waittime", "rtime", "reads", "reads", "reads"];

#[derive(Debug, Clone, Copy, Default)]
struct Form {
    per_interval: bool,
    megabytes: bool,
    commas: bool,
    hide_idle: bool,
}

fn heading(kind: Kind, form: Form) -> String {
    let per = if form.per_interval { "i" } else { "s" };
    let unit = if form.megabytes { "m" } else { "k" };
    let columns: Vec<(String, usize)> = match kind {
        Kind::Vfs => vec![
            (format!("r/{per}"), 5), (format!("w/{per}"), 5), (format!("{unit}r/{per}"), 5), (format!("{unit}w/{per}"), 5), ("ractv".into(), 5), ("wactv".into(), 5),
            ("read_t".into(), 6), ("writ_t".into(), 6), ("%r".into(), 3), ("%w".into(), 3), (format!("d/{per}"), 5), ("del_t".into(), 6),
        ],
        Kind::Zio => vec![(format!("r/{per}"), 7), (format!("{unit}r/{per}"), 6), ("actv".into(), 6), ("wsvc_t".into(), 6), ("asvc_t".into(), 6), ("%b".into(), 3)],
    };
    let cells: Vec<String> = columns.iter().map(|(name, width)| if form.commas { name.clone() } else { format!("{name:>width$}") }).collect();
    if form.commas { format!("{},zone,id\n", cells.join(",")) } else { format!("{} zone\n", cells.join(" ")) }
}

/// One line; `None` if it is idle and such are not wanted.
fn line(kind: Kind, now: &Sample, before: Option<&Sample>, form: Form) -> Option<String> {
    let from = before.map_or(now.created_ns, |before| before.taken_ns);
    let elapsed = now.taken_ns.saturating_sub(from).max(1) as f64 / 1e9;
    let delta: Vec<f64> = (0..10).map(|at| now.values[at].saturating_sub(before.map_or(0, |before| before.values[at])) as f64).collect();
    if form.hide_idle && delta.iter().all(|value| *value == 0.0) {
        return None;
    }
    let span = if form.per_interval { 1.0 } else { elapsed };
    let unit = if form.megabytes { f64::from(1 << 20) } else { 1024.0 };
    // Averages: what was in progress, and how long each took (Little's law: in progress = a second's operations times their time).
    let each = |total: f64, count: f64| if count > 0.0 { total / count } else { 0.0 };
    let percent = |busy: f64| (busy / 1e9 / elapsed * 100.0).min(100.0).round();
    let cells: Vec<(f64, usize, usize)> = match kind {
        Kind::Vfs => vec![
            (delta[0] / span, 5, 1), (delta[1] / span, 5, 1), (delta[2] / unit / span, 5, 1), (delta[3] / unit / span, 5, 1),
            (delta[4] / 1e9 / elapsed, 5, 1), (delta[5] / 1e9 / elapsed, 5, 1),
            (each(delta[4] / 1e3, delta[0]), 6, 1), (each(delta[5] / 1e3, delta[1]), 6, 1),
            (percent(delta[6]), 3, 0), (percent(delta[7]), 3, 0), (delta[8] / span, 5, 1), (each(delta[9], delta[8]), 6, 1),
        ],
        Kind::Zio => vec![
            (delta[0] / span, 7, 1), (delta[2] / unit / span, 6, 1), (delta[4] / 1e9 / elapsed, 6, 1),
            (each(delta[5] / 1e6, delta[0]), 6, 1), (each(delta[4] / 1e6, delta[0]), 6, 1), (percent(delta[6]), 3, 0),
        ],
    };
    let cells: Vec<String> =
        cells.into_iter().map(|(value, width, digits)| if form.commas { format!("{value:.digits$}") } else { format!("{value:>width$.digits$}") }).collect();
    Some(if form.commas {
        format!("{},{},{}\n", cells.join(","), now.zone, now.id)
    } else {
        format!("{} {} ({})\n", cells.join(" "), now.zone.chars().take(8).collect::<String>(), now.id)
    })
}

fn samples(kind: Kind, own: Option<u64>) -> Result<Vec<Sample>, Failure> {
    let (module, fields) = match kind {
        Kind::Vfs => ("zone_vfs", VFS_FIELDS),
        Kind::Zio => ("zone_zfs", ZIO_FIELDS),
    };
    let reply = call(Operation::KstatRead, &NvList::new().with("module", module))?;
    let mut out = Vec::new();
    for kstat in reply.lists("kstats").map_err(Failure::new)? {
        let id = kstat.number("instance").map_err(Failure::new)?;
        if own.is_some_and(|own| own != id) {
            continue;
        }
        let data = kstat.list("data").map_err(Failure::new)?;
        let mut values = [0; 10];
        for (value, field) in values.iter_mut().zip(fields) {
            *value = data.number(field).map_err(Failure::new)?;
        }
        out.push(Sample {
            id,
            zone: data.string("zonename").map_err(Failure::new)?.to_owned(),
            taken_ns: kstat.number("taken").map_err(Failure::new)?,
            created_ns: kstat.number("created").map_err(Failure::new)?,
            values,
        });
    }
    out.sort_by_key(|sample| sample.id);
    Ok(out)
}

fn run(kind: Kind, arguments: &[String]) -> Result<u8, Failure> {
    let (steps, mut operands) = usage::options(arguments, "hIMrzZ")?;
    let has = |letter| steps.contains(&Step::Flag(letter));
    if has('h') {
        usage::print(if kind == Kind::Vfs { VFS_HELP } else { ZIO_HELP });
        return Ok(0);
    }
    let form = Form { per_interval: has('I'), megabytes: has('M'), commas: has('r'), hide_idle: has('z') };
    let numbers = usage::trailing_numbers(&mut operands);
    if let Some(other) = operands.first() {
        return Err(Failure::usage(format!("'{other}' is not a number of seconds")));
    }
    let (interval, count) = usage::interval(&numbers)?;
    let own = if has('Z') { None } else { Some(call(Operation::ZoneGet, &NvList::new())?.number("id").map_err(Failure::new)?) };
    let mut before: Vec<Sample> = Vec::new();
    let mut rows = 0;
    for round in 0..count {
        if round > 0 {
            std::thread::sleep(Duration::from_secs(interval));
        }
        let now = samples(kind, own)?;
        let mut out = String::new();
        for sample in &now {
            let old = before.iter().find(|old| old.id == sample.id && old.created_ns == sample.created_ns);
            let Some(line) = line(kind, sample, old, form) else { continue };
            if rows % 20 == 0 {
                out.push_str(&heading(kind, form));
            }
            rows += 1;
            out.push_str(&line);
        }
        usage::print(&out);
        before = now;
    }
    Ok(0)
}

pub fn vfs(arguments: &[String]) -> Result<u8, Failure> {
    run(Kind::Vfs, arguments)
}

pub fn zio(arguments: &[String]) -> Result<u8, Failure> {
    run(Kind::Zio, arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(taken_ns: u64, values: [u64; 10]) -> Sample {
        Sample { id: 3, zone: "database01".to_owned(), taken_ns, created_ns: 0, values }
    }

    #[test]
    fn columns_of_the_reference() {
        assert_eq!(heading(Kind::Vfs, Form::default()), "  r/s   w/s  kr/s  kw/s ractv wactv read_t writ_t  %r  %w   d/s  del_t zone\n");
        let per_interval = heading(Kind::Vfs, Form { per_interval: true, ..Form::default() });
        assert!(per_interval.starts_with("  r/i   w/i  kr/i"), "{per_interval}");
        let now = sample(2_000_000_000, [200, 40, 819_200, 40_960, 1_000_000_000, 20_000_000, 500_000_000, 20_000_000, 10, 250]);
        let text = line(Kind::Vfs, &now, None, Form::default());
        assert_eq!(text.as_deref(), Some("100.0  20.0 400.0  20.0   0.5   0.0 5000.0  500.0  25   1   5.0   25.0 database (3)\n"));
        let later = sample(3_000_000_000, now.values);
        assert_eq!(line(Kind::Vfs, &later, Some(&now), Form { hide_idle: true, ..Form::default() }), None);
        let text = line(Kind::Vfs, &later, Some(&now), Form { commas: true, ..Form::default() }).unwrap_or_default();
        assert_eq!(text, "0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0,0,0.0,0.0,database01,3\n");
    }

    #[test]
    fn reads_from_disks() {
        assert_eq!(heading(Kind::Zio, Form::default()), "    r/s   kr/s   actv wsvc_t asvc_t  %b zone\n");
        let now = sample(1_000_000_000, [10, 0, 1_310_720, 0, 50_000_000, 20_000_000, 40_000_000, 0, 0, 0]);
        assert_eq!(line(Kind::Zio, &now, None, Form::default()).as_deref(), Some("   10.0 1280.0    0.1    2.0    5.0   4 database (3)\n"));
    }
}
