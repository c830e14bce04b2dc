//! `zpool import`, `split`, `reguid`, `reopen`, `resilver`, `labelclear`, `trim`, `initialize`: what becomes of a pool as a whole.

use std::time::{Duration, Instant};

use control_abi::Operation;
use nv::NvList;

use super::{pairs, pools, some, value};
use crate::bytes::size;
use crate::control::call;
use crate::usage::{self, Failure, Step};

/// `reguid`, `reopen`, `resilver`.
pub(super) fn plain(verb: &str, arguments: &[String]) -> Result<u8, Failure> {
    let (_, operands) = usage::options(arguments, if verb == "reopen" { "n" } else { "" })?;
    let names = if operands.is_empty() && verb == "reopen" {
        let all = pools(&[])?;
        all.iter().map(|pool| pool.string("name").map(str::to_owned).map_err(Failure::new)).collect::<Result<_, _>>()?
    } else {
        some(&operands, &format!("zpool {verb} POOL"))?.to_vec()
    };
    for name in names {
        call(Operation::PoolTend, &NvList::new().with("pool", name.as_str()).with("change", verb))?;
    }
    Ok(0)
}

pub(super) fn split(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "ngLPR:o:")?;
    let [pool, new, disks @ ..] = operands.as_slice() else { return Err(Failure::usage("zpool split [-n] [-R ROOT] POOL NEW [DISK]...")) };
    if let Some(pair) = value(&steps, 'o') {
        return Err(Failure::usage(format!("-o {pair}: set it on the new pool when that is imported: zpool set {pair} {new}")));
    }
    let dry = steps.contains(&Step::Flag('n'));
    let mut request = NvList::new().with("pool", pool.as_str()).with("change", "split").with("to", new.as_str()).with("devices", disks.to_vec()).with("dry", u64::from(dry));
    if let Some(root) = value(&steps, 'R') {
        request.set("altroot", root);
    }
    let reply = call(Operation::PoolTend, &request)?;
    if dry {
        let rows: String = reply.strings("devices").map_err(Failure::new)?.iter().map(|disk| format!("\t  {}\n", disk.trim_start_matches("/dev/"))).collect();
        usage::print(&format!("would create '{new}' with the following layout:\n\n\t{new}\n{rows}"));
    }
    Ok(0)
}

pub(super) fn clear_labels(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, disks) = usage::options(arguments, "f")?;
    if disks.is_empty() {
        return Err(Failure::usage("which disk? zpool labelclear [-f] DISK..."));
    }
    call(Operation::PoolTend, &NvList::new().with("change", "clear-label").with("devices", disks).with("force", u64::from(steps.contains(&Step::Flag('f')))))?;
    Ok(0)
}

/// `trim`, `initialize`: step by step, so that the pool serves others in between; interrupted, what is done is done.
pub(super) fn free_space(verb: &str, arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, if verb == "trim" { "dcswr:" } else { "cusw" })?;
    for (letter, why) in [('d', "no device here says that it can erase for good"), ('c', "it goes on as long as the command does: interrupt that"), ('s', "it goes on as long as the command does: interrupt that"), ('u', "nothing is kept of what was written over")] {
        if steps.contains(&Step::Flag(letter)) {
            return Err(Failure::new(format!("zpool {verb} -{letter}: {why}")));
        }
    }
    let rate = value(&steps, 'r').map(|text| pool_size(text).filter(|rate| *rate > 0).ok_or_else(|| Failure::usage(format!("-r {text}: bytes a second, for example 64M")))).transpose()?;
    let (pool, disk) = match operands.as_slice() {
        [pool] => (pool, None),
        [pool, disk] => (pool, Some(disk)),
        _ => return Err(Failure::usage(format!("zpool {verb} POOL [DISK]"))),
    };
    let mut request = NvList::new().with("pool", pool.as_str()).with("work", verb);
    if let Some(disk) = disk {
        request.set("device", disk.as_str());
    }
    let (mut done, mut unable, began) = (0, 0, Instant::now());
    loop {
        let reply = call(Operation::PoolFree, &request)?;
        let number = |name: &str| reply.number(name).map_err(Failure::new);
        done += number("bytes")?;
        unable += number("unable")?;
        let (Ok(vdev), Ok(offset)) = (reply.number("vdev"), reply.number("offset")) else { break };
        request.set("vdev", vdev);
        request.set("offset", offset);
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(done as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    if done == 0 && unable > 0 {
        return Err(Failure::new(format!("{pool}: none of these devices can discard what is free")));
    }
    let what = if verb == "trim" { "given back to the devices" } else { "written over" };
    let some_not = if unable > 0 { ", and some devices cannot discard" } else { "" };
    usage::print(&format!("{pool}: {} of free space {what}{some_not}\n", size(done, false)));
    Ok(0)
}

fn pool_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.bytes().last()?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

pub(super) fn import(arguments: &[String]) -> Result<u8, Failure> {
    if arguments.iter().any(|word| word == "--rewind-to-checkpoint") {
        return Err(Failure::new("--rewind-to-checkpoint: checkpoints of whole pools are not supported (feature zpool_checkpoint)"));
    }
    let (steps, operands) = usage::options(arguments, "aDfFnNtmXlsR:o:T:d:c:")?;
    let has = |letter| steps.contains(&Step::Flag(letter));
    for (letter, why) in [('X', "what -F does not find is not looked for"), ('l', "there are no encrypted data sets")] {
        if has(letter) {
            return Err(Failure::new(format!("zpool import -{letter}: {why}")));
        }
    }
    if value(&steps, 'd').or(value(&steps, 'c')).is_some() {
        return Err(Failure::new("zpool import -d, -c: pools are looked for on all disks that no pool has"));
    }
    let mut request = NvList::new().with("destroyed", u64::from(has('D'))).with("force", u64::from(has('f'))).with("unmounted", u64::from(has('N'))).with("rewind", u64::from(has('F'))).with("without_log", u64::from(has('m')));
    let mut properties = Vec::new();
    for pair in pairs(&steps, 'o')? {
        match pair.as_str() {
            "readonly=on" => request.set("read_only", 1_u64),
            "readonly=off" => {}
            _ => properties.push(pair),
        }
    }
    request.set("properties", properties);
    if let Some(root) = value(&steps, 'R') {
        request.set("altroot", root);
    }
    if let Some(txg) = value(&steps, 'T') {
        request.set("at_most", txg.parse::<u64>().map_err(|_| Failure::usage(format!("-T {txg}: the number of a transaction group")))?);
    }
    if has('n') && !has('F') {
        return Err(Failure::usage("-n goes with -F: it says where that would go back to"));
    }
    match operands.as_slice() {
        [] => list(&request, has('a'), has('D')),
        [pool, rest @ ..] if rest.len() < 2 => {
            request.set("pool", pool.as_str());
            if let [new] = rest {
                request = request.with("to", new.as_str()).with("for_now", u64::from(has('t')));
            } else if has('t') {
                return Err(Failure::usage("-t goes with a new name: zpool import -t POOL NEWNAME"));
            }
            if has('n') {
                let reply = call(Operation::PoolImport, &request.with("dry", 1_u64))?;
                let (txg, newer) = (reply.number("txg").map_err(Failure::new)?, reply.number("newer").map_err(Failure::new)?);
                usage::print(&match newer {
                    0 => format!("{pool}: it can be opened as it is, at transaction group {txg}\n"),
                    newer => format!("{pool}: would go back by {newer} transaction groups, to {txg}\n"),
                });
                return Ok(0);
            }
            call(Operation::PoolImport, &request)?;
            Ok(0)
        }
        _ => Err(Failure::usage("zpool import [OPTION]... POOL|GUID [NEWNAME]")),
    }
}

/// Shows what could be imported, or imports all of it.
fn list(request: &NvList, all: bool, destroyed: bool) -> Result<u8, Failure> {
    let reply = call(Operation::PoolImport, request)?;
    let found = reply.lists("importable").map_err(Failure::new)?;
    if found.is_empty() {
        return Err(Failure::new("no pools available to import"));
    }
    for pool in found {
        let (name, guid) = (pool.string("name").map_err(Failure::new)?, pool.number("guid").map_err(Failure::new)?);
        if all {
            call(Operation::PoolImport, &request.clone().with("pool", guid.to_string()))?;
            continue;
        }
        let disks = pool.strings("disks").map_err(Failure::new)?.join(" ");
        let host = pool.opt_string("host").map_err(Failure::new)?;
        let state = match (destroyed, pool.number("exported").map_err(Failure::new)? != 0, host) {
            (true, ..) => "destroyed".to_owned(),
            (false, true, _) => "exported".to_owned(),
            (false, false, None) => "was in use when its machine went down".to_owned(),
            (false, false, Some(host)) => format!("was in use by {host}"),
        };
        let option = match (destroyed, state.starts_with("was in use by")) {
            (true, _) => "-D ",
            (false, true) => "-f ",
            _ => "",
        };
        usage::print(&format!("   pool: {name}\n     id: {guid}\n  state: {state}\n  disks: {disks}\n action: zpool import {option}{name}\n\n"));
    }
    Ok(0)
}
