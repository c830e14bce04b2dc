//! `zpool`: pools and their devices.

mod absent;
mod properties;
mod show;
mod tend;

use control_abi::Operation;
use nv::NvList;

use crate::control::call;
use crate::usage::{self, Failure, Step};

pub(crate) use absent::options;
pub(crate) use show::cache_devices;

pub const HELP: &str = "\
usage: zpool create [-fn] [-o PROPERTY=VALUE]... [-O FSPROPERTY=VALUE]... [-m MOUNTPOINT] [-R ROOT] POOL [mirror|raidz|raidz2|raidz3] DISK...
                    [log [mirror] DISK...] [spare DISK...] [cache DISK...]
       zpool list [-HpvgLP] [-T u|d] [-o PROPERTY,...] [POOL]... [INTERVAL [COUNT]]
                                       size, use and health; -v: of the devices, too
       zpool status [-vxgpLPD] [-T u|d] [POOL]... [INTERVAL [COUNT]]
                                       devices, errors, scrub; -x: only pools that are not well; -g: guids; -P: whole paths
       zpool get [-Hp] [-o COLUMN,...] all|PROPERTY,... [POOL]...
       zpool set PROPERTY=VALUE POOL   zpool get all shows what there is
       zpool import [-D]               what could be imported; -D: of what was destroyed
       zpool import [-afDmN] [-F [-n] [-T TXG]] [-R ROOT] [-o readonly=on | -o PROPERTY=VALUE]... [-t] POOL|GUID [NEWNAME]
                                       -f: another host had it last; -N: mounts nothing; -R: mounts below ROOT; -F: goes back to the last transaction group
                                       that can be opened (-n: says which); NEWNAME: renames it, with -t only as long as it is imported; -a: all there are
       zpool export [-af] POOL...      -f, as with destroy: taken, but no program's files are taken away
       zpool upgrade [-v | -a | POOL...]
                                       without operands: pools that lack features; -v: the features that there are
       zpool split [-n] [-R ROOT] POOL NEW [DISK]...
                                       makes a pool of one disk of each mirror; it is exported then, or with -R imported
       zpool reguid POOL               gives it another guid
       zpool reopen [POOL]...          looks again for devices, and for what they grew by
       zpool sync [POOL]...            everything that was written is on the disks, or it says why not
       zpool destroy [-f] POOL         its disks are free; until they are used zpool import -D gets it back
       zpool scrub [-s | -p | -w] POOL...
                                       check every block and repair; -s stops it, -p pauses it until the next zpool scrub, -w waits for its end
       zpool resilver POOL...          brings what devices lack, anew from the start
       zpool wait POOL                 until no scrub or resilver is under way
       zpool trim [-r RATE] POOL [DISK]
                                       tells the devices what is free, as far as they have use for that; -r: bytes a second at most
       zpool initialize POOL [DISK]    writes over all free space once
       zpool attach [-fsw] POOL DISK NEW
                                       make DISK a mirror with NEW; -s: copy in the order of places, then scrub; -f: NEW may hold another pool; -w: wait
       zpool replace [-fsw] POOL OLD NEW
                                       copy OLD's contents to NEW and let go of OLD
       zpool detach POOL DISK
       zpool offline POOL DISK...
       zpool online [-e] POOL DISK...  -e: use what the disk has grown by
       zpool clear POOL [DISK]         forget the error counts; a pool that is suspended goes on where it was
       zpool add [-fn] POOL [KIND] DISK...
                                       another vdev, log, spare or cache device; -n: says what it would look like
       zpool remove POOL DISK...       takes spares or cache devices out
       zpool labelclear [-f] DISK...   its labels say no more that it is a pool's
       zpool iostat [-Hnpvy] [POOL] [INTERVAL [COUNT]]
                                       operations and bytes a second; first since the import (not with -y)
       zpool history [-il] [POOL]      commands that changed it; -i events of its own, too; -l: who gave them

Disks are named as under /dev: vda, vdb, ...

examples:
  zpool create -o comment=archive -O compression=lz4 tank mirror vda vdb
  zpool set autoexpand=on tank && zpool get autoexpand,expandsize tank
  zpool replace tank vda vdc && zpool wait tank && zpool status tank
  zpool split tank copy && zpool import -N copy
  zpool import -o readonly=on -R /mnt tank
  zpool add tank spare vdd
  zpool iostat -v tank 5
";

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let (verb, rest) = arguments.split_first().ok_or_else(|| Failure::usage("which subcommand? see zpool --help"))?;
    match verb.as_str() {
        "create" => create(rest),
        "list" => show::list(rest),
        "status" => show::status(rest),
        "import" => tend::import(rest),
        "export" => {
            let (steps, operands) = options(verb, rest, "af")?;
            let all = if steps.contains(&Step::Flag('a')) { pools(&[])? } else { Vec::new() };
            let all: Vec<String> = all.iter().filter_map(|pool| pool.string("name").ok()).map(str::to_owned).collect();
            let names = if all.is_empty() { operands } else { all };
            if names.is_empty() && !steps.contains(&Step::Flag('a')) {
                return Err(Failure::usage("which pool? zpool export [-a] POOL..."));
            }
            for name in names {
                let force = steps.contains(&Step::Flag('f'));
                call(Operation::PoolExport, &NvList::new().with("pool", name).with("force", u64::from(force))).map_err(|refused| refused.although(force))?;
            }
            Ok(0)
        }
        "get" => properties::get(rest),
        "set" => properties::set(rest),
        "upgrade" => properties::upgrade(rest),
        "reguid" | "reopen" | "resilver" => tend::plain(verb, rest),
        "split" => tend::split(rest),
        "labelclear" => tend::clear_labels(rest),
        "trim" | "initialize" => tend::free_space(verb, rest),
        "checkpoint" => Err(Failure::new("checkpoints of whole pools are not supported (feature zpool_checkpoint): take snapshots, zfs snapshot -r POOL@NAME")),
        "sync" => {
            let all = if rest.is_empty() { pools(&[])? } else { Vec::new() };
            for name in all.iter().filter_map(|pool| pool.string("name").ok()).chain(rest.iter().map(String::as_str)) {
                call(Operation::PoolTend, &NvList::new().with("pool", name).with("change", "sync"))?;
            }
            Ok(0)
        }
        "destroy" => {
            let (steps, operands) = usage::options(rest, "f")?;
            let force = steps.contains(&Step::Flag('f'));
            let request = NvList::new().with("pool", one(&operands, "zpool destroy [-f] POOL")?).with("destroy", 1_u64).with("force", u64::from(force));
            call(Operation::PoolExport, &request).map_err(|refused| refused.although(force))?;
            Ok(0)
        }
        "scrub" => {
            let (steps, operands) = options(verb, rest, "spw")?;
            let [stop, pause, wait] = ['s', 'p', 'w'].map(|letter| steps.contains(&Step::Flag(letter)));
            if u8::from(stop) + u8::from(pause) + u8::from(wait) > 1 {
                return Err(Failure::usage("-s stops a scrub, -p pauses it and -w waits for its end: one of them, please"));
            }
            for pool in some(&operands, "zpool scrub [-s | -p | -w] POOL...")? {
                call(Operation::PoolScrub, &NvList::new().with("pool", pool.as_str()).with("stop", u64::from(stop)).with("pause", u64::from(pause)))?;
                if wait {
                    wait_for(pool)?;
                }
            }
            Ok(0)
        }
        "wait" => wait_for(one(rest, "zpool wait POOL")?),
        "attach" | "replace" | "detach" | "offline" | "online" | "clear" => device(verb, rest),
        "add" => {
            let (steps, operands) = options(verb, rest, "fngLP")?;
            let (pool, vdevs) = operands.split_first().filter(|(_, vdevs)| !vdevs.is_empty()).ok_or_else(|| Failure::usage("zpool add [-fn] POOL [KIND] DISK..."))?;
            if steps.contains(&Step::Flag('n')) {
                pools(std::slice::from_ref(pool))?;
                usage::print(&plan(&format!("would update '{pool}' by the following:"), pool, vdevs));
                return Ok(0);
            }
            let force = u64::from(steps.contains(&Step::Flag('f')));
            let request = NvList::new().with("pool", pool.as_str()).with("change", "add").with("vdevs", vdevs.to_vec()).with("force", force);
            call(Operation::PoolDevice, &request)?;
            Ok(0)
        }
        "remove" => {
            let (_, operands) = options(verb, rest, "w")?;
            let Some((pool, disks)) = operands.split_first().filter(|(_, disks)| !disks.is_empty()) else { return Err(Failure::usage("zpool remove POOL DISK...")) };
            for disk in disks {
                call(Operation::PoolDevice, &NvList::new().with("pool", pool.as_str()).with("change", "remove").with("device", disk.as_str()))?;
            }
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

/// The operands of a subcommand that takes at least one.
fn some<'a>(operands: &'a [String], usage: &str) -> Result<&'a [String], Failure> {
    if operands.is_empty() { Err(Failure::usage(format!("which pool? {usage}"))) } else { Ok(operands) }
}

/// Value of an option that is given once at most.
fn value(steps: &[Step], letter: char) -> Option<&str> {
    steps.iter().find_map(|step| if let Step::Value(known, value) = step { (*known == letter).then_some(value.as_str()) } else { None })
}

/// Values of an option, `NAME=VALUE` each.
fn pairs(steps: &[Step], letter: char) -> Result<Vec<String>, Failure> {
    let values = steps.iter().filter_map(|step| if let Step::Value(known, value) = step { (*known == letter).then(|| value.clone()) } else { None });
    values.map(|pair| if pair.contains('=') { Ok(pair) } else { Err(Failure::usage(format!("-{letter} {pair}: write NAME=VALUE"))) }).collect()
}

/// Returns when nothing is being scrubbed or resilvered.
fn wait_for(pool: &str) -> Result<u8, Failure> {
    loop {
        if !is_under_way(pool, &pools(&[pool.to_owned()])?)? {
            return Ok(0);
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
}

/// Whether there is something to wait for.
///
/// # Errors
/// The pool is suspended: it would not end.
fn is_under_way(name: &str, found: &[NvList]) -> Result<bool, Failure> {
    let any = |field: &str| found.iter().any(|pool| pool.number(field).is_ok_and(|number| number != 0));
    if any("suspended") {
        return Err(Failure::new(format!("{name}: the pool is suspended: a device refused a write, and what was waited for does not end; see 'zpool status'")));
    }
    Ok(any("scanning"))
}

fn create(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = options("create", arguments, "fno:O:m:R:")?;
    let (name, vdevs) = operands.split_first().filter(|(_, vdevs)| !vdevs.is_empty()).ok_or_else(|| Failure::usage("zpool create POOL [KIND] DISK..."))?;
    let mut request = NvList::new().with("name", name.as_str()).with("vdevs", vdevs.to_vec());
    request.set("force", u64::from(steps.contains(&Step::Flag('f'))));
    let mut dataset = pairs(&steps, 'O')?;
    dataset.extend(value(&steps, 'm').map(|at| format!("mountpoint={at}")));
    request.set("properties", pairs(&steps, 'o')?);
    request.set("dataset_properties", dataset);
    if let Some(root) = value(&steps, 'R') {
        request.set("altroot", root);
    }
    if steps.contains(&Step::Flag('n')) {
        // It is looked at as it would be for the pool itself, and nothing is written.
        call(Operation::PoolCreate, &request.with("dry", 1_u64))?;
        usage::print(&plan(&format!("would create '{name}' with the following layout:"), name, vdevs));
        return Ok(0);
    }
    call(Operation::PoolCreate, &request)?;
    Ok(0)
}

/// What a pool would look like.
fn plan(what: &str, name: &str, vdevs: &[String]) -> String {
    let mut out = format!("{what}\n\n\t{name}\n");
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
        _ if takes_new => "sfw",
        _ => "",
    };
    let (steps, operands) = absent::options(verb, arguments, options)?;
    let mut request = NvList::new().with("change", verb).with("expand", u64::from(steps.contains(&Step::Flag('e'))));
    let usage = || {
        Failure::usage(match verb {
            "attach" | "replace" => format!("zpool {verb} [-fsw] POOL DISK NEW"),
            "clear" => "zpool clear POOL [DISK]".to_owned(),
            "online" | "offline" => format!("zpool {verb} POOL DISK..."),
            _ => format!("zpool {verb} POOL DISK"),
        })
    };
    let (pool, disks) = operands.split_first().ok_or_else(usage)?;
    request.set("pool", pool.as_str());
    match disks {
        [device, new] if takes_new => {
            request = request.with("device", device.as_str()).with("new", new.as_str());
            request.set("sequential", u64::from(steps.contains(&Step::Flag('s'))));
            request.set("force", u64::from(steps.contains(&Step::Flag('f'))));
            call(Operation::PoolDevice, &request)?;
            return if steps.contains(&Step::Flag('w')) { wait_for(pool) } else { Ok(0) };
        }
        [] if verb == "clear" => drop(call(Operation::PoolDevice, &request)?),
        [_] if !takes_new => drop(call(Operation::PoolDevice, &request.with("device", disks[0].as_str()))?),
        [_, _, ..] if matches!(verb, "online" | "offline") => {
            for disk in disks {
                call(Operation::PoolDevice, &request.clone().with("device", disk.as_str()))?;
            }
        }
        _ => return Err(usage()),
    }
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
            out.push_str(&format!("{} {text}{}\n", crate::bytes::date(time), if long { by(line)? } else { String::new() }));
        }
        out.push('\n');
        usage::print(&out);
    }
    Ok(0)
}

/// Who gave a command.
fn by(line: &NvList) -> Result<String, Failure> {
    let text = |name: &str| line.string(name).map_err(Failure::new);
    let (who, host, zone) = (line.number("who").map_err(Failure::new)?, text("host")?, text("zone")?);
    if line.number("internal").map_err(Failure::new)? != 0 {
        return Ok(format!(" [on {host}]"));
    }
    let name = if who == 0 { " (root)" } else { "" };
    Ok(format!(" [user {who}{name} on {host}:{}]", if zone.is_empty() { "global" } else { zone }))
}

pub(crate) fn pools(operands: &[String]) -> Result<Vec<NvList>, Failure> {
    let mut request = NvList::new();
    if !operands.is_empty() {
        request.set("pool", one(operands, "one POOL or none")?);
    }
    let reply = call(Operation::PoolList, &request)?;
    Ok(reply.lists("pools").map_err(Failure::new)?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_that_a_suspended_pool_does_not_end() {
        let pool = |scanning: u64, suspended: u64| [NvList::new().with("scanning", scanning).with("suspended", suspended)];
        assert_eq!(is_under_way("tank", &pool(1, 0)), Ok(true));
        assert_eq!(is_under_way("tank", &pool(0, 0)), Ok(false));
        let refused = is_under_way("tank", &pool(1, 1)).expect_err("it does not end");
        assert!(refused.status == 1 && refused.message.contains("suspended"));
    }

    #[test]
    fn options_that_take_pairs_say_what_is_no_pair() {
        let (steps, _) = usage::options(&["-o", "comment=a=b", "-o", "plain"].map(str::to_owned), "o:").expect("options");
        assert_eq!(pairs(&steps[..1], 'o'), Ok(vec!["comment=a=b".to_owned()]));
        assert_eq!(pairs(&steps, 'o').map_err(|failure| failure.status), Err(2));
    }
}
