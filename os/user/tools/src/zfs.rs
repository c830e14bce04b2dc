//! `zfs`: file systems and snapshots.

use control_abi::Operation;
use nv::NvList;

use crate::bytes::{size, table};
use crate::control::call;
use crate::usage::{self, Failure, Step};

pub const HELP: &str = "\
usage: zfs list [-Hp] [-t filesystem|snapshot|all] [DATASET]
       zfs create DATASET...           a file system, mounted below its parent
       zfs snapshot DATASET@NAME...
       zfs mount [DATASET]             without a name: what is there and where it belongs
       zfs unmount DATASET

examples:
  zfs create tank/home
  zfs snapshot tank/home@monday && zfs list -t all
";

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let (verb, rest) = arguments.split_first().ok_or_else(|| Failure::usage("which subcommand? see zfs --help"))?;
    match verb.as_str() {
        "list" => list(rest),
        "create" => each(Operation::DatasetMake, rest, false),
        "snapshot" | "snap" => each(Operation::DatasetSnap, rest, false),
        "mount" if rest.is_empty() => list(&["-H".to_owned(), "-m".to_owned()]),
        "mount" => each(Operation::DatasetMount, rest, false),
        "unmount" | "umount" => each(Operation::DatasetMount, rest, true),
        other => Err(Failure::usage(format!("'{other}' is no subcommand; see zfs --help"))),
    }
}

fn each(operation: Operation, names: &[String], unmount: bool) -> Result<u8, Failure> {
    if names.is_empty() {
        return Err(Failure::usage("which dataset? see zfs --help"));
    }
    for name in names {
        call(operation, &NvList::new().with("name", name.as_str()).with("unmount", u64::from(unmount)))?;
    }
    Ok(0)
}

fn list(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "Hpmt:")?;
    let (script, exact) = (steps.contains(&Step::Flag('H')), steps.contains(&Step::Flag('p')));
    let wanted = steps.iter().find_map(|step| if let Step::Value('t', kind) = step { Some(kind.as_str()) } else { None }).unwrap_or("filesystem");
    if !matches!(wanted, "filesystem" | "snapshot" | "volume" | "all") {
        return Err(Failure::usage(format!("'{wanted}' is no kind of dataset: filesystem, snapshot, volume or all")));
    }
    let mut request = NvList::new();
    match operands.as_slice() {
        [] => {}
        [name] => request.set("name", name.as_str()),
        _ => return Err(Failure::usage("one DATASET, please")),
    }
    let reply = call(Operation::DatasetList, &request)?;
    let mut rows = Vec::new();
    for dataset in reply.lists("datasets").map_err(Failure::new)? {
        let kind = dataset.string("kind").map_err(Failure::new)?;
        if wanted != "all" && kind != wanted {
            continue;
        }
        let name = dataset.string("name").map_err(Failure::new)?.to_owned();
        let at = dataset.opt_string("mountpoint").map_err(Failure::new)?.unwrap_or(if kind == "filesystem" { "none" } else { "-" }).to_owned();
        if steps.contains(&Step::Flag('m')) {
            rows.push(vec![name, at]);
            continue;
        }
        let number = |field: &str| dataset.number(field).map(|bytes| size(bytes, exact)).map_err(Failure::new);
        rows.push(vec![name, number("used")?, number("referenced")?, at]);
    }
    if rows.is_empty() && !script {
        usage::print("no datasets available\n");
        return Ok(0);
    }
    usage::print(&table(&["NAME", "USED", "REFER", "MOUNTPOINT"], &rows, script));
    Ok(0)
}
