//! `zpool list` and `zpool status`: how pools and their devices are.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nv::NvList;

use super::properties::{full, known};
use super::{pools, value};
use crate::bytes::{date, size, table};
use crate::usage::{self, Failure, Step};

/// Columns of `zpool list`, all of which are shown unless some are named.
const COLUMNS: [&str; 11] = ["name", "size", "allocated", "free", "checkpoint", "expandsize", "fragmentation", "capacity", "dedupratio", "health", "altroot"];

/// How devices are called.
#[derive(Clone, Copy, Debug, Default)]
struct Names {
    guids: bool,
    paths: bool,
}

impl Names {
    /// By the options -g and -P; -L is the same here, where no path is a link.
    fn of(steps: &[Step]) -> Self {
        Self { guids: steps.contains(&Step::Flag('g')), paths: steps.contains(&Step::Flag('P')) }
    }

    fn name(self, vdev: &NvList) -> Result<String, Failure> {
        let name = vdev.string("name").map_err(Failure::new)?;
        let is_leaf = vdev.opt_number("leaf").map_err(Failure::new)? == Some(1);
        Ok(match (self.guids, self.paths && is_leaf && !name.starts_with('/')) {
            (true, _) => vdev.number("guid").map_err(Failure::new)?.to_string(),
            (false, true) => format!("/dev/{name}"),
            (false, false) => name.to_owned(),
        })
    }
}

/// Shows something once, or again and again: INTERVAL and COUNT stand behind the operands; -T says when.
fn repeatedly(steps: &[Step], mut operands: Vec<String>, show: impl Fn(&[String]) -> Result<(), Failure>) -> Result<u8, Failure> {
    let (interval, mut count) = usage::interval(&usage::trailing_numbers(&mut operands))?;
    let stamp = match value(steps, 'T') {
        None => None,
        Some("u") => Some(true),
        Some("d") => Some(false),
        Some(other) => return Err(Failure::usage(format!("-T {other}: u (seconds since 1970) or d (a date)"))),
    };
    loop {
        if let Some(seconds) = stamp {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            usage::print(&if seconds { format!("{now}\n") } else { format!("{}\n", date(now)) });
        }
        show(&operands)?;
        count -= 1;
        if count == 0 {
            return Ok(0);
        }
        std::thread::sleep(Duration::from_secs(interval));
    }
}

/// Pools that are named, or all.
fn named(names: &[String]) -> Result<Vec<NvList>, Failure> {
    if names.is_empty() { pools(&[]) } else { Ok(names.iter().map(|name| pools(std::slice::from_ref(name))).collect::<Result<Vec<_>, _>>()?.concat()) }
}

pub(super) fn list(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "HpvgLPT:o:")?;
    repeatedly(&steps, operands, |names| list_once(&steps, names))
}

fn list_once(steps: &[Step], names: &[String]) -> Result<(), Failure> {
    let (script, exact) = (steps.contains(&Step::Flag('H')), steps.contains(&Step::Flag('p')));
    let columns: Vec<&str> = value(steps, 'o').map_or_else(|| COLUMNS.to_vec(), |columns| columns.split(',').map(full).collect());
    let (found, _) = known(names)?;
    if found.is_empty() && !script {
        usage::print("no pools available\n");
        return Ok(());
    }
    let mut rows = Vec::new();
    for pool in &found {
        let name = pool.string("name").map_err(Failure::new)?;
        let values = pool.lists("values").map_err(Failure::new)?;
        let cell = |column: &&str| match *column {
            "name" => Ok(name.to_owned()),
            column => match values.iter().find(|one| one.string("property") == Ok(column)) {
                Some(one) => Ok(one.string(if exact { "exact" } else { "value" }).map_err(Failure::new)?.to_owned()),
                None => Err(Failure::usage(format!("'{column}' is no column: name, or any property that 'zpool get all {name}' shows"))),
            },
        };
        rows.push(columns.iter().map(cell).collect::<Result<Vec<_>, Failure>>()?);
        if steps.contains(&Step::Flag('v')) {
            for pool in named(&[name.to_owned()])? {
                rows.extend(parts(&pool, &columns, (script, exact), Names::of(steps))?);
            }
        }
    }
    let heading: Vec<String> = columns.iter().map(|column| heading(column)).collect();
    usage::print(&table(&heading.iter().map(String::as_str).collect::<Vec<_>>(), &rows, script));
    Ok(())
}

/// Rows of `zpool list -v` below a pool's: its vdevs, those on top with their space, and its cache devices.
fn parts(pool: &NvList, columns: &[&str], (script, exact): (bool, bool), names: Names) -> Result<Vec<Vec<String>>, Failure> {
    let row = |part: &NvList, depth: usize| {
        let space = match (part.number("size"), part.number("allocated")) {
            (Ok(total), Ok(used)) if total > 0 => Some((total, used)),
            _ => None,
        };
        let cell = |column: &&str| match (*column, space) {
            ("name", _) => Ok(format!("{}{}", if script { String::new() } else { "  ".repeat(depth) }, names.name(part)?)),
            ("health", _) => Ok(part.string("state").map_err(Failure::new)?.to_owned()),
            ("size", Some((total, _))) => Ok(size(total, exact)),
            ("allocated", Some((_, used))) => Ok(size(used, exact)),
            ("free", Some((total, used))) => Ok(size(total - used, exact)),
            ("fragmentation", Some(_)) if part.number("fragmentation").is_ok() => {
                let percent = part.number("fragmentation").map_err(Failure::new)?;
                Ok(if exact { percent.to_string() } else { format!("{percent}%") })
            }
            ("capacity", Some((total, used))) => Ok(if exact { (used * 100 / total).to_string() } else { format!("{}%", used * 100 / total) }),
            _ => Ok("-".to_owned()),
        };
        columns.iter().map(cell).collect::<Result<Vec<_>, Failure>>()
    };
    let mut rows = Vec::new();
    for vdev in pool.lists("vdevs").map_err(Failure::new)? {
        rows.push(row(vdev, 1 + usize::try_from(vdev.number("depth").map_err(Failure::new)?).unwrap_or(0))?);
    }
    let caches = cache_devices(pool)?;
    if !caches.is_empty() {
        rows.push(columns.iter().map(|column| if *column == "name" { "cache" } else { "-" }.to_owned()).collect());
    }
    for device in caches {
        rows.push(row(device, 1)?);
    }
    Ok(rows)
}

/// What of the devices beside a pool's vdevs has space and traffic of its own: the cache devices.
pub(crate) fn cache_devices(pool: &NvList) -> Result<Vec<&NvList>, Failure> {
    let mut out = Vec::new();
    for device in pool.lists("aside").map_err(Failure::new)? {
        if device.string("kind").map_err(Failure::new)? == "cache" {
            out.push(device);
        }
    }
    Ok(out)
}

/// What stands above a column.
fn heading(column: &str) -> String {
    match column {
        "allocated" => "ALLOC",
        "checkpoint" => "CKPOINT",
        "expandsize" => "EXPANDSZ",
        "fragmentation" => "FRAG",
        "capacity" => "CAP",
        "dedupratio" => "DEDUP",
        other => return other.to_uppercase(),
    }
    .to_owned()
}

/// What is wrong with a pool and what to do about it: the worst that applies.
fn advice(states: &[&str], is_resilvering: bool, counts: u64, damaged: u64, suspended: bool) -> Option<(&'static str, &'static str)> {
    let has = |state: &str| states.contains(&state);
    Some(if suspended {
        ("Too few devices serve: nothing is written, and who has to wait for the pool waits.", "Make sure the affected devices are connected, then run 'zpool clear'.")
    } else if damaged > 0 {
        ("Some blocks have no good copy: what they held is lost.", "Restore the files concerned (the console names the blocks), then scrub again.")
    } else if is_resilvering {
        ("One or more devices is being resilvered. The pool works meanwhile, perhaps without redundancy.", "Wait for the resilver to complete.")
    } else if has("FAULTED") {
        ("One or more devices failed too often and are not used.", "Replace the device with 'zpool replace', or 'zpool clear' it if it is well again.")
    } else if has("UNAVAIL") || has("REMOVED") {
        ("One or more devices cannot be opened. There are sufficient replicas for the pool to work.", "Attach the missing device and 'zpool online' it, or replace it with 'zpool replace'.")
    } else if has("OFFLINE") {
        ("One or more devices were taken offline. There are sufficient replicas for the pool to work.", "Put the device back with 'zpool online', or replace it with 'zpool replace'.")
    } else if counts > 0 {
        ("One or more devices made errors; what they got wrong was repaired from the others.", "See whether the device is to be replaced ('zpool replace'); 'zpool clear' forgets the counts.")
    } else {
        return None;
    })
}

pub(super) fn status(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = super::options("status", arguments, "vxgpLPDT:")?;
    repeatedly(&steps, operands, |names| status_once(&steps, names))
}

fn status_once(steps: &[Step], names: &[String]) -> Result<(), Failure> {
    let pools = named(names)?;
    let form = Names::of(steps);
    if pools.is_empty() {
        usage::print("no pools available\n");
    }
    let mut shown = 0;
    for pool in &pools {
        let text = |name: &str| pool.string(name).map_err(Failure::new);
        let number = |name: &str| pool.number(name).map_err(Failure::new);
        let mut rows = vec![vec![text("name")?.to_owned(), text("health")?.to_owned(), "0".to_owned(), "0".to_owned(), "0".to_owned()]];
        let (mut errors, mut states) = (0, Vec::new());
        for vdev in pool.lists("vdevs").map_err(Failure::new)? {
            let number = |name: &str| vdev.number(name).map_err(Failure::new);
            let indent = "  ".repeat(1 + usize::try_from(number("depth")?).unwrap_or(0));
            let mark = if number("log")? != 0 && number("depth")? == 0 { " (log)" } else { "" };
            let counts = [number("read")?, number("write")?, number("checksum")?];
            errors += counts.iter().sum::<u64>();
            states.push(vdev.string("state").map_err(Failure::new)?);
            let mut row = vec![format!("{indent}{}{mark}", form.name(vdev)?), vdev.string("state").map_err(Failure::new)?.to_owned()];
            row.extend(counts.iter().map(u64::to_string));
            rows.push(row);
        }
        let damaged = number("scan_errors")?;
        let is_resilvering = number("scanning")? != 0 && text("scan")?.starts_with("resilver");
        let advice = advice(&states, is_resilvering, errors, damaged, number("suspended")? != 0);
        if steps.contains(&Step::Flag('x')) && advice.is_none() {
            continue;
        }
        let mut out = if shown > 0 { String::from("\n") } else { String::new() };
        shown += 1;
        out.push_str(&format!("  pool: {}\n state: {}\n", text("name")?, text("health")?));
        if let Some((what, action)) = advice {
            out.push_str(&format!("status: {what}\naction: {action}\n"));
        }
        out.push_str(&format!("  scan: {}\nconfig:\n\n", text("scan")?));
        let mut title = "";
        for device in pool.lists("aside").map_err(Failure::new)? {
            let field = |name: &str| device.string(name).map_err(Failure::new);
            let count = |name: &str| device.number(name).map(|count| count.to_string()).map_err(Failure::new);
            if title != field("kind")? {
                title = field("kind")?;
                rows.push(vec![title.to_owned(), String::new(), String::new(), String::new(), String::new()]);
            }
            let counts = if title == "cache" { [count("read")?, count("write")?, count("checksum")?] } else { Default::default() };
            let mut row = vec![format!("  {}", form.name(device)?), field("state")?.to_owned()];
            row.extend(counts);
            rows.push(row);
        }
        for line in table(&["NAME", "STATE", "READ", "WRITE", "CKSUM"], &rows, false).lines() {
            out.push_str(&format!("\t{line}\n"));
        }
        out.push_str(&match damaged {
            0 => String::from("\nerrors: No known data errors\n"),
            blocks => format!("\nerrors: {blocks} data errors\n"),
        });
        if steps.contains(&Step::Flag('D')) {
            out.push_str("\n dedup: no DDT entries\n");
        }
        usage::print(&out);
    }
    if shown == 0 && !pools.is_empty() {
        usage::print("all pools are healthy\n");
    }
    Ok(())
}

