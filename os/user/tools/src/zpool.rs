//! `zpool`: pools and their devices.

use control_abi::Operation;
use nv::NvList;

use crate::bytes::{size, table};
use crate::control::call;
use crate::usage::{self, Failure, Step};

pub const HELP: &str = "\
usage: zpool create [-f] [-o ashift=N] POOL [mirror|raidz|raidz2|raidz3] DISK... [log [mirror] DISK...]
                    [spare DISK...] [cache DISK...]
       zpool list [-Hp] [POOL]         size, use and health
       zpool status [POOL]             devices, errors, scrub
       zpool import [-a] [POOL|GUID]   without a name: what could be imported
       zpool export POOL
       zpool scrub [-s] POOL           check every block and repair; -s stops it
       zpool attach POOL DISK NEW      make DISK a mirror with NEW
       zpool replace POOL OLD NEW      copy OLD's contents to NEW and let go of OLD
       zpool detach POOL DISK
       zpool offline|online|clear POOL DISK
       zpool add POOL [KIND] DISK...   another vdev, log, spare or cache device
       zpool remove POOL DISK          takes a spare or cache device out
       zpool iostat [-Hnpvy] [POOL] [INTERVAL [COUNT]]
                                       operations and bytes a second; first since the import (not with -y)
       zpool history [-il] [POOL]      commands that changed it; -i events of its own, too

Disks are named as under /dev: vda, vdb, ...

examples:
  zpool create tank mirror vda vdb
  zpool replace tank vda vdc && zpool status tank
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
            call(Operation::PoolExport, &NvList::new().with("pool", one(rest, "POOL")?))?;
            Ok(0)
        }
        "scrub" => {
            let (steps, operands) = usage::options(rest, "s")?;
            let request = NvList::new().with("pool", one(&operands, "POOL")?).with("stop", u64::from(steps.contains(&Step::Flag('s'))));
            call(Operation::PoolScrub, &request)?;
            Ok(0)
        }
        "attach" | "replace" | "detach" | "offline" | "online" | "clear" => device(verb, rest),
        "add" => {
            let (pool, vdevs) = rest.split_first().filter(|(_, vdevs)| !vdevs.is_empty()).ok_or_else(|| Failure::usage("zpool add POOL [KIND] DISK..."))?;
            let request = NvList::new().with("pool", pool.as_str()).with("change", "add").with("vdevs", vdevs.to_vec());
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

fn one<'a>(operands: &'a [String], what: &str) -> Result<&'a str, Failure> {
    match operands {
        [one] => Ok(one),
        _ => Err(Failure::usage(format!("one {what}, please; see zpool --help"))),
    }
}

fn create(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "fo:")?;
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
    call(Operation::PoolCreate, &request)?;
    Ok(0)
}

fn device(verb: &str, arguments: &[String]) -> Result<u8, Failure> {
    let (pool, device, new) = match (verb, arguments) {
        ("attach" | "replace", [pool, device, new]) => (pool, device, Some(new)),
        ("detach" | "offline" | "online" | "clear", [pool, device]) => (pool, device, None),
        _ => return Err(Failure::usage(format!("see zpool --help for what {verb} takes"))),
    };
    let mut request = NvList::new().with("pool", pool.as_str()).with("change", verb).with("device", device.as_str());
    if let Some(new) = new {
        request.set("new", new.as_str());
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
        request.set("pool", one(operands, "POOL")?);
    }
    let reply = call(Operation::PoolList, &request)?;
    Ok(reply.lists("pools").map_err(Failure::new)?.to_vec())
}

fn list(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "Hp")?;
    let (script, exact) = (steps.contains(&Step::Flag('H')), steps.contains(&Step::Flag('p')));
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
        rows.push(vec![
            pool.string("name").map_err(Failure::new)?.to_owned(),
            size(total, exact),
            size(used, exact),
            size(total - used, exact),
            if exact { percent.to_string() } else { format!("{percent}%") },
            pool.string("health").map_err(Failure::new)?.to_owned(),
        ]);
    }
    usage::print(&table(&["NAME", "SIZE", "ALLOC", "FREE", "CAP", "HEALTH"], &rows, script));
    Ok(0)
}

fn status(arguments: &[String]) -> Result<u8, Failure> {
    let (_, operands) = usage::options(arguments, "v")?;
    let pools = pools(&operands)?;
    if pools.is_empty() {
        usage::print("no pools available\n");
    }
    for (index, pool) in pools.iter().enumerate() {
        let text = |name: &str| pool.string(name).map_err(Failure::new);
        let mut out = if index > 0 { String::from("\n") } else { String::new() };
        out.push_str(&format!("  pool: {}\n state: {}\n", text("name")?, text("health")?));
        if pool.number("suspended").map_err(Failure::new)? != 0 {
            out.push_str("status: A device refused a write: nothing is written until the pool is imported again.\n");
        }
        out.push_str(&format!("  scan: {}\nconfig:\n\n", text("scan")?));
        let mut rows = vec![vec![text("name")?.to_owned(), text("health")?.to_owned(), "0".to_owned(), "0".to_owned(), "0".to_owned()]];
        let mut errors = 0;
        for vdev in pool.lists("vdevs").map_err(Failure::new)? {
            let number = |name: &str| vdev.number(name).map_err(Failure::new);
            let indent = "  ".repeat(1 + usize::try_from(number("depth")?).unwrap_or(0));
            let mark = if number("log")? != 0 && number("depth")? == 0 { " (log)" } else { "" };
            let counts = [number("read")?, number("write")?, number("checksum")?];
            errors += counts.iter().sum::<u64>();
            let mut row = vec![format!("{indent}{}{mark}", vdev.string("name").map_err(Failure::new)?), vdev.string("state").map_err(Failure::new)?.to_owned()];
            row.extend(counts.iter().map(u64::to_string));
            rows.push(row);
        }
        let mut title = "";
        for device in pool.strings("aside").map_err(Failure::new)? {
            let [kind, name, state] = device.splitn(3, ' ').collect::<Vec<_>>()[..] else { continue };
            if title != kind {
                rows.push(vec![kind.to_owned(), String::new(), String::new(), String::new(), String::new()]);
                title = kind;
            }
            rows.push(vec![format!("  {name}"), state.to_owned(), String::new(), String::new(), String::new()]);
        }
        for line in table(&["NAME", "STATE", "READ", "WRITE", "CKSUM"], &rows, false).lines() {
            out.push_str(&format!("\t{line}\n"));
        }
        out.push_str(if errors == 0 { "\nerrors: No known data errors\n" } else { "\nerrors: devices made errors; what redundancy could repair was repaired (zpool clear resets the counts)\n" });
        usage::print(&out);
    }
    Ok(0)
}

fn import(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "a")?;
    if !operands.is_empty() {
        call(Operation::PoolImport, &NvList::new().with("pool", one(&operands, "POOL")?))?;
        return Ok(0);
    }
    let reply = call(Operation::PoolImport, &NvList::new())?;
    let found = reply.lists("importable").map_err(Failure::new)?;
    if found.is_empty() {
        return Err(Failure::new("no pools available to import"));
    }
    for pool in found {
        let (name, guid) = (pool.string("name").map_err(Failure::new)?, pool.number("guid").map_err(Failure::new)?);
        if steps.contains(&Step::Flag('a')) {
            call(Operation::PoolImport, &NvList::new().with("pool", guid.to_string()))?;
            continue;
        }
        let disks = pool.strings("disks").map_err(Failure::new)?.join(" ");
        let state = if pool.number("exported").map_err(Failure::new)? != 0 { "exported" } else { "was in use when its machine went down" };
        usage::print(&format!("   pool: {name}\n     id: {guid}\n  state: {state}\n  disks: {disks}\n action: zpool import {name}\n\n"));
    }
    Ok(0)
}
