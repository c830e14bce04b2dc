//! `zpool`: pools and their devices.

use control_abi::Operation;
use nv::NvList;

use crate::bytes::{size, table};
use crate::control::call;
use crate::usage::{self, Failure, Step};

pub const HELP: &str = "\
usage: zpool create [-fn] [-o ashift=N] POOL [mirror|raidz|raidz2|raidz3] DISK... [log [mirror] DISK...]
                    [spare DISK...] [cache DISK...]
       zpool list [-Hp] [-o COLUMN,...] [POOL]
                                       size, use and health
       zpool status [-vx] [POOL]       devices, errors, scrub; -x: only pools that are not well
       zpool import [-aD] [POOL|GUID]  without a name: what could be imported; -D: of destroyed ones
       zpool get [-Hp] [-o COLUMN,...] all|PROPERTY,... [POOL]...
       zpool export [-a] POOL...
       zpool sync                      everything that was written is on the disks
       zpool destroy [-f] POOL         its disks are free; until they are used zpool import -D gets it back
       zpool scrub [-s | -p | -w] POOL check every block and repair; -s stops it, -p pauses it until the next zpool scrub, -w waits for its end
       zpool wait POOL                 until no scrub or resilver is under way
       zpool attach [-fs] POOL DISK NEW
                                       make DISK a mirror with NEW; -s: copy in the order of places, then scrub; -f: NEW may hold another pool
       zpool replace [-fs] POOL OLD NEW
                                       copy OLD's contents to NEW and let go of OLD
       zpool detach POOL DISK
       zpool offline POOL DISK
       zpool online [-e] POOL DISK     -e: use what the disk has grown by
       zpool clear POOL [DISK]         forget the error counts
       zpool add [-f] POOL [KIND] DISK...
                                       another vdev, log, spare or cache device
       zpool remove POOL DISK          takes a spare or cache device out
       zpool iostat [-Hnpvy] [POOL] [INTERVAL [COUNT]]
                                       operations and bytes a second; first since the import (not with -y)
       zpool history [-il] [POOL]      commands that changed it; -i events of its own, too

Disks are named as under /dev: vda, vdb, ...

examples:
  zpool create tank mirror vda vdb
  zpool replace tank vda vdc && zpool wait tank && zpool status tank
  zpool add tank spare vdd
  zpool iostat -v tank 5
";

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let (verb, rest) = arguments.split_first().ok_or_else(|| Failure::usage("which subcommand? see zpool --help"))?;
    match verb.as_str() {
        "create" => create(rest),
        "list" => list(rest),
        "status" => status(rest),
        "import" => import(rest),
        "export" => {
            let (steps, operands) = usage::options(rest, "af")?;
            let all = if steps.contains(&Step::Flag('a')) { pools(&[])? } else { Vec::new() };
            let all: Vec<String> = all.iter().filter_map(|pool| pool.string("name").ok()).map(str::to_owned).collect();
            let names = if all.is_empty() { operands } else { all };
            if names.is_empty() && !steps.contains(&Step::Flag('a')) {
                return Err(Failure::usage("which pool? zpool export [-a] POOL..."));
            }
            for name in names {
                call(Operation::PoolExport, &NvList::new().with("pool", name))?;
            }
            Ok(0)
        }
        "get" => get(rest),
        "sync" => {
            rustix::fs::sync();
            Ok(0)
        }
        "destroy" => {
            let (_, operands) = usage::options(rest, "f")?;
            call(Operation::PoolExport, &NvList::new().with("pool", one(&operands, "zpool destroy [-f] POOL")?).with("destroy", 1_u64))?;
            Ok(0)
        }
        "scrub" => {
            let (steps, operands) = usage::options(rest, "spw")?;
            let [stop, pause, wait] = ['s', 'p', 'w'].map(|letter| steps.contains(&Step::Flag(letter)));
            if u8::from(stop) + u8::from(pause) + u8::from(wait) > 1 {
                return Err(Failure::usage("-s stops a scrub, -p pauses it and -w waits for its end: one of them, please"));
            }
            let pool = one(&operands, "zpool scrub [-s | -p | -w] POOL")?;
            call(Operation::PoolScrub, &NvList::new().with("pool", pool).with("stop", u64::from(stop)).with("pause", u64::from(pause)))?;
            if wait { wait_for(pool) } else { Ok(0) }
        }
        "wait" => wait_for(one(rest, "zpool wait POOL")?),
        "attach" | "replace" | "detach" | "offline" | "online" | "clear" => device(verb, rest),
        "add" => {
            let (steps, operands) = usage::options(rest, "f")?;
            let (pool, vdevs) = operands.split_first().filter(|(_, vdevs)| !vdevs.is_empty()).ok_or_else(|| Failure::usage("zpool add [-f] POOL [KIND] DISK..."))?;
            let force = u64::from(steps.contains(&Step::Flag('f')));
            let request = NvList::new().with("pool", pool.as_str()).with("change", "add").with("vdevs", vdevs.to_vec()).with("force", force);
            call(Operation::PoolDevice, &request)?;
            Ok(0)
        }
        "remove" => {
            let [pool, disk] = rest else { return Err(Failure::usage("zpool remove POOL DISK")) };
            call(Operation::PoolDevice, &NvList::new().with("pool", pool.as_str()).with("change", "remove").with("device", disk.as_str()))?;
            Ok(0)
        }
        "iostat" => crate::iostat::run(rest),
        "history" => history(rest),
        other => Err(Failure::usage(format!("'{other}' is no subcommand; see zpool --help"))),
    }
}

/// The only operand of a subcommand that is used like `usage`.
fn one<'a>(operands: &'a [String], usage: &str) -> Result<&'a str, Failure> {
    match operands {
        [one] => Ok(one),
        [] => Err(Failure::usage(format!("which pool? {usage}"))),
        [_, more, ..] => Err(Failure::usage(format!("'{more}' is one too many: {usage}"))),
    }
}

/// Returns when nothing is being scrubbed or resilvered.
fn wait_for(pool: &str) -> Result<u8, Failure> {
    loop {
        let found = pools(&[pool.to_owned()])?;
        if found.iter().any(|pool| pool.number("suspended").is_ok_and(|suspended| suspended != 0)) {
            return Err(Failure::new(format!("{pool}: the pool is suspended: a device refused a write, and what was waited for does not end; see 'zpool status'")));
        }
        if !found.iter().any(|pool| pool.number("scanning").is_ok_and(|scanning| scanning != 0)) {
            return Ok(0);
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
}

fn create(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "fno:")?;
    let (name, vdevs) = operands.split_first().filter(|(_, vdevs)| !vdevs.is_empty()).ok_or_else(|| Failure::usage("zpool create POOL [KIND] DISK..."))?;
    let mut request = NvList::new().with("name", name.as_str()).with("vdevs", vdevs.to_vec());
    request.set("force", u64::from(steps.contains(&Step::Flag('f'))));
    for step in &steps {
        let Step::Value(_, option) = step else { continue };
        match option.split_once('=') {
            Some(("ashift", value)) => request.set("ashift", value.parse::<u64>().map_err(|_| Failure::usage(format!("ashift '{value}' is not a number")))?),
            _ => return Err(Failure::usage(format!("-o {option}: only ashift=N can be set"))),
        }
    }
    if steps.contains(&Step::Flag('n')) {
        // It is looked at as it would be for the pool itself, and nothing is written.
        call(Operation::PoolCreate, &request.with("dry", 1_u64))?;
        usage::print(&plan(name, vdevs));
        return Ok(0);
    }
    call(Operation::PoolCreate, &request)?;
    Ok(0)
}

/// Properties of a pool that are known here.
fn get(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "Hpo:")?;
    let (script, exact) = (steps.contains(&Step::Flag('H')), steps.contains(&Step::Flag('p')));
    let (wanted, names) = operands.split_first().ok_or_else(|| Failure::usage("zpool get [-Hp] [-o COLUMN,...] all|PROPERTY,... [POOL]..."))?;
    let shown = steps.iter().find_map(|step| if let Step::Value('o', columns) = step { Some(columns.as_str()) } else { None }).unwrap_or("name,property,value,source");
    let columns: Vec<&str> = shown.split(',').collect();
    if let Some(wrong) = columns.iter().find(|column| !matches!(**column, "name" | "property" | "value" | "source" | "all")) {
        return Err(Failure::usage(format!("'{wrong}' is no column: name, property, value, source")));
    }
    let found = if names.is_empty() { pools(&[])? } else { names.iter().map(|name| pools(std::slice::from_ref(name))).collect::<Result<Vec<_>, _>>()?.concat() };
    let mut rows = Vec::new();
    for pool in &found {
        let number = |name: &str| pool.number(name).map_err(Failure::new);
        let text = |name: &str| pool.string(name).map_err(Failure::new);
        let (total, used) = (number("size")?, number("allocated")?);
        let percent = (used * 100).checked_div(total).unwrap_or(0);
        let all = [
            ("size", size(total, exact)),
            ("capacity", if exact { percent.to_string() } else { format!("{percent}%") }),
            ("altroot", "-".to_owned()),
            ("health", text("health")?.to_owned()),
            ("guid", number("guid")?.to_string()),
            ("version", "-".to_owned()),
            ("free", size(total - used, exact)),
            ("allocated", size(used, exact)),
            ("readonly", "off".to_owned()),
        ];
        for word in wanted.split(',') {
            if word != "all" && !all.iter().any(|(name, _)| *name == word) {
                return Err(Failure::new(format!("'{word}' is no property of a pool here: {}", all.each_ref().map(|(name, _)| *name).join(", "))));
            }
            for (name, value) in all.iter().filter(|(name, _)| word == "all" || *name == word) {
                let cell = |column: &&str| match *column {
                    "name" => text("name").map(str::to_owned),
                    "property" => Ok((*name).to_owned()),
                    "value" => Ok(value.clone()),
                    _ => Ok("-".to_owned()),
                };
                rows.push(columns.iter().map(cell).collect::<Result<Vec<_>, Failure>>()?);
            }
        }
    }
    let heading: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
    usage::print(&table(&heading.iter().map(String::as_str).collect::<Vec<_>>(), &rows, script));
    Ok(0)
}

/// What a pool would look like.
fn plan(name: &str, vdevs: &[String]) -> String {
    let mut out = format!("would create '{name}' with the following layout:\n\n\t{name}\n");
    let mut inner = false;
    for word in vdevs {
        match word.as_str() {
            "log" | "spare" | "cache" => {
                inner = false;
                out.push_str(&format!("\t{word}\n"));
            }
            "mirror" | "raidz" | "raidz1" | "raidz2" | "raidz3" => {
                inner = true;
                out.push_str(&format!("\t  {word}\n"));
            }
            disk => out.push_str(&format!("\t{}{disk}\n", if inner { "    " } else { "  " })),
        }
    }
    out
}

fn device(verb: &str, arguments: &[String]) -> Result<u8, Failure> {
    let takes_new = matches!(verb, "attach" | "replace");
    let options = match verb {
        "online" => "e",
        _ if takes_new => "sf",
        _ => "",
    };
    let (steps, operands) = usage::options(arguments, options)?;
    let mut request = NvList::new().with("change", verb).with("expand", u64::from(steps.contains(&Step::Flag('e'))));
    match operands.as_slice() {
        [pool, device, new] if takes_new => {
            request = request.with("pool", pool.as_str()).with("device", device.as_str()).with("new", new.as_str());
            request.set("sequential", u64::from(steps.contains(&Step::Flag('s'))));
            request.set("force", u64::from(steps.contains(&Step::Flag('f'))));
        }
        [pool, device] if !takes_new => request = request.with("pool", pool.as_str()).with("device", device.as_str()),
        [pool] if verb == "clear" => request = request.with("pool", pool.as_str()),
        _ => {
            let usage = match verb {
                "attach" | "replace" => format!("zpool {verb} [-fs] POOL DISK NEW"),
                "clear" => "zpool clear POOL [DISK]".to_owned(),
                _ => format!("zpool {verb} POOL DISK"),
            };
            return Err(Failure::usage(usage));
        }
    }
    call(Operation::PoolDevice, &request)?;
    Ok(0)
}

fn history(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "il")?;
    let (internal, long) = (steps.contains(&Step::Flag('i')), steps.contains(&Step::Flag('l')));
    for pool in pools(&operands)? {
        let name = pool.string("name").map_err(Failure::new)?;
        let reply = call(Operation::PoolHistory, &NvList::new().with("pool", name))?;
        let mut out = format!("History for '{name}':\n");
        for line in reply.lists("lines").map_err(Failure::new)? {
            if line.number("internal").map_err(Failure::new)? != 0 && !internal {
                continue;
            }
            let (time, text) = (line.number("time").map_err(Failure::new)?, line.string("text").map_err(Failure::new)?);
            out.push_str(&format!("{} {text}{}\n", crate::bytes::date(time), if long { " [user 0 (root) on orrery:global]" } else { "" }));
        }
        out.push('\n');
        usage::print(&out);
    }
    Ok(0)
}

pub(crate) fn pools(operands: &[String]) -> Result<Vec<NvList>, Failure> {
    let mut request = NvList::new();
    if !operands.is_empty() {
        request.set("pool", one(operands, "one POOL or none")?);
    }
    let reply = call(Operation::PoolList, &request)?;
    Ok(reply.lists("pools").map_err(Failure::new)?.to_vec())
}

/// Columns of `zpool list`, all of which are shown unless some are named.
const COLUMNS: [&str; 11] = ["name", "size", "allocated", "free", "checkpoint", "expandsize", "fragmentation", "capacity", "dedupratio", "health", "altroot"];

/// The column of a name or of its short form.
fn column(word: &str) -> Result<&'static str, Failure> {
    let full = match word {
        "alloc" => "allocated",
        "ckpoint" => "checkpoint",
        "expandsz" => "expandsize",
        "frag" => "fragmentation",
        "cap" => "capacity",
        "dedup" => "dedupratio",
        other => other,
    };
    COLUMNS.into_iter().find(|known| *known == full).ok_or_else(|| Failure::usage(format!("'{word}' is no column: {}", COLUMNS.join(", "))))
}

fn list(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "Hpvo:")?;
    let (script, exact) = (steps.contains(&Step::Flag('H')), steps.contains(&Step::Flag('p')));
    let named = steps.iter().find_map(|step| if let Step::Value('o', columns) = step { Some(columns) } else { None });
    let columns = named.map_or_else(|| Ok(COLUMNS.to_vec()), |columns| columns.split(',').map(column).collect::<Result<Vec<_>, _>>())?;
    let pools = pools(&operands)?;
    if pools.is_empty() && !script {
        usage::print("no pools available\n");
        return Ok(0);
    }
    let mut rows = Vec::new();
    for pool in &pools {
        let number = |name: &str| pool.number(name).map_err(Failure::new);
        let (total, used) = (number("size")?, number("allocated")?);
        let percent = (used * 100).checked_div(total).unwrap_or(0);
        let cell = |column: &&str| {
            Ok(match *column {
                "name" | "health" => pool.string(column).map_err(Failure::new)?.to_owned(),
                "size" => size(total, exact),
                "allocated" => size(used, exact),
                "free" => size(total - used, exact),
                "capacity" => if exact { percent.to_string() } else { format!("{percent}%") },
                "dedupratio" => if exact { "1.00" } else { "1.00x" }.to_owned(),
                // Nothing of the kind is here: no checkpoint, no room to grow, no histogram, no other root.
                _ => "-".to_owned(),
            })
        };
        rows.push(columns.iter().map(cell).collect::<Result<Vec<_>, Failure>>()?);
        if steps.contains(&Step::Flag('v')) {
            rows.extend(parts(pool, &columns, (script, exact))?);
        }
    }
    let heading: Vec<String> = columns.iter().map(|column| heading(column)).collect();
    usage::print(&table(&heading.iter().map(String::as_str).collect::<Vec<_>>(), &rows, script));
    Ok(0)
}

/// Rows of `zpool list -v` below a pool's: its vdevs, those on top with their space, and its cache devices.
fn parts(pool: &NvList, columns: &[&str], (script, exact): (bool, bool)) -> Result<Vec<Vec<String>>, Failure> {
    let row = |part: &NvList, depth: usize| {
        let space = match (part.number("size"), part.number("allocated")) {
            (Ok(total), Ok(used)) if total > 0 => Some((total, used)),
            _ => None,
        };
        let cell = |column: &&str| match (*column, space) {
            ("name", _) => Ok(format!("{}{}", if script { String::new() } else { "  ".repeat(depth) }, part.string("name").map_err(Failure::new)?)),
            ("health", _) => Ok(part.string("state").map_err(Failure::new)?.to_owned()),
            ("size", Some((total, _))) => Ok(size(total, exact)),
            ("allocated", Some((_, used))) => Ok(size(used, exact)),
            ("free", Some((total, used))) => Ok(size(total - used, exact)),
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
        ("A device refused a write: nothing is written any more.", "Make sure that the devices are there, then export the pool and import it again.")
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

fn status(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "vx")?;
    let pools = pools(&operands)?;
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
            let mut row = vec![format!("{indent}{}{mark}", vdev.string("name").map_err(Failure::new)?), vdev.string("state").map_err(Failure::new)?.to_owned()];
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
            let mut row = vec![format!("  {}", field("name")?), field("state")?.to_owned()];
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
        usage::print(&out);
    }
    if shown == 0 && !pools.is_empty() {
        usage::print("all pools are healthy\n");
    }
    Ok(0)
}

fn import(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "aD")?;
    let destroyed = u64::from(steps.contains(&Step::Flag('D')));
    let request = NvList::new().with("destroyed", destroyed);
    if !operands.is_empty() {
        call(Operation::PoolImport, &request.with("pool", one(&operands, "zpool import [-D] POOL")?))?;
        return Ok(0);
    }
    let reply = call(Operation::PoolImport, &request)?;
    let found = reply.lists("importable").map_err(Failure::new)?;
    if found.is_empty() {
        return Err(Failure::new("no pools available to import"));
    }
    for pool in found {
        let (name, guid) = (pool.string("name").map_err(Failure::new)?, pool.number("guid").map_err(Failure::new)?);
        if steps.contains(&Step::Flag('a')) {
            call(Operation::PoolImport, &request.clone().with("pool", guid.to_string()))?;
            continue;
        }
        let disks = pool.strings("disks").map_err(Failure::new)?.join(" ");
        let state = match (destroyed != 0, pool.number("exported").map_err(Failure::new)? != 0) {
            (true, _) => "destroyed",
            (false, true) => "exported",
            (false, false) => "was in use when its machine went down",
        };
        let option = if destroyed != 0 { "-D " } else { "" };
        usage::print(&format!("   pool: {name}\n     id: {guid}\n  state: {state}\n  disks: {disks}\n action: zpool import {option}{name}\n\n"));
    }
    Ok(0)
}
