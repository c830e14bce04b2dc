//! `zfs`: file systems, volumes and snapshots.

use std::io::{IsTerminal, Read, Write};

use control_abi::Operation;
use nv::NvList;

use crate::bytes::{size, table};
use crate::control::{Session, call};
use crate::usage::{self, Failure, Step};

pub const HELP: &str = "\
usage: zfs list [-Hp] [-r | -d DEPTH] [-o PROPERTY,...] [-s|-S PROPERTY] [-t filesystem|snapshot|volume|bookmark|all,...] [DATASET...]
       zfs create [-p] [-o PROPERTY=VALUE]... DATASET...  a file system, mounted below its parent; -p: those above it too
       zfs create [-ps] [-b BLOCKSIZE] [-o PROPERTY=VALUE]... -V SIZE VOLUME
                                                        a volume, /dev/zvol/VOLUME; -s: nothing is reserved for it
       zfs snapshot [-r] DATASET@NAME...
       zfs rollback [-r] DATASET@NAME                   -r: newer snapshots are destroyed
       zfs clone [-o PROPERTY=VALUE]... DATASET@NAME NEW
       zfs promote CLONE                                its origin becomes its clone
       zfs rename [-r] OLD NEW                          datasets, or snapshots
       zfs destroy [-rRdnvp] DATASET|DATASET@NAME|DATASET@FIRST%LAST|DATASET#MARK...
       zfs set PROPERTY=VALUE... DATASET...
       zfs get [-rHp] [-o COLUMN,...] [-s SOURCE,...] all|PROPERTY,... DATASET...
       zfs inherit [-r] PROPERTY DATASET...
       zfs hold|release [-r] TAG DATASET@NAME...
       zfs holds [-rHp] DATASET@NAME...
       zfs bookmark DATASET@NAME DATASET#MARK
       zfs send [-Rp] [-i|-I FROM] DATASET@NAME         a stream on standard output
       zfs send -t TOKEN                                the rest of one that was broken off
       zfs receive [-Fs] [-d|-e] DATASET                a stream from standard input; -s keeps what came if it breaks off:
                                                        zfs get receive_resume_token DATASET, then zfs send -t
       zfs receive -A DATASET                           forgets what was kept
       zfs mount [-a | DATASET]                         without a name: what is there and where it belongs; -a: all that is mounted by itself
       zfs unmount -a | DATASET | DIRECTORY

examples:
  zfs create -o quota=1G tank/home
  zfs snapshot tank/home@monday && zfs list -t all
  zfs clone tank/home@monday tank/try && zfs destroy tank/try
  zfs create -V 1G tank/disk && mkfs.ext4 /dev/zvol/tank/disk
  zfs send -i @sunday tank/home@monday | zfs receive backup/home
";

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let (verb, rest) = arguments.split_first().ok_or_else(|| Failure::usage("which subcommand? see zfs --help"))?;
    match verb.as_str() {
        "list" => list(rest),
        "create" => create(rest),
        "snapshot" | "snap" => snapshot(rest),
        "clone" => clone(rest),
        "destroy" => destroy(rest),
        "rollback" => {
            let (steps, names) = usage::options(rest, "rRf")?;
            let recursive = steps.iter().any(|step| matches!(step, Step::Flag('r' | 'R')));
            each(Operation::DatasetChange, &names, &NvList::new().with("change", "rollback").with("recursive", u64::from(recursive)))
        }
        "promote" => each(Operation::DatasetChange, rest, &NvList::new().with("change", "promote")),
        "rename" => {
            let (steps, names) = usage::options(rest, "rf")?;
            let [from, to] = names.as_slice() else { return Err(Failure::usage("zfs rename OLD NEW")) };
            let request = NvList::new().with("change", "rename").with("to", to.as_str());
            let recursive = steps.contains(&Step::Flag('r'));
            each(Operation::DatasetChange, std::slice::from_ref(from), &request.with("recursive", u64::from(recursive)))
        }
        "hold" | "release" => {
            let (steps, rest) = usage::options(rest, "r")?;
            let (tag, names) = rest.split_first().ok_or_else(|| Failure::usage(format!("zfs {verb} [-r] TAG DATASET@NAME...")))?;
            let names = with_below(names, steps.contains(&Step::Flag('r')))?;
            each(Operation::DatasetChange, &names, &NvList::new().with("change", verb.as_str()).with("to", tag.as_str()))
        }
        "holds" => {
            let (steps, names) = usage::options(rest, "rHp")?;
            if names.is_empty() {
                return Err(Failure::usage("zfs holds [-rH] DATASET@NAME..."));
            }
            let reply = call(Operation::DatasetHolds, &NvList::new().with("names", with_below(&names, steps.contains(&Step::Flag('r')))?))?;
            let text = |hold: &NvList, field: &str| hold.string(field).map(str::to_owned).map_err(Failure::new);
            let mut rows = Vec::new();
            for hold in reply.lists("holds").map_err(Failure::new)? {
                let time = hold.number("time").map_err(Failure::new)?;
                let time = if steps.contains(&Step::Flag('p')) { time.to_string() } else { crate::bytes::date(time) };
                rows.push(vec![text(hold, "snapshot")?, text(hold, "tag")?, time]);
            }
            usage::print(&table(&["NAME", "TAG", "TIMESTAMP"], &rows, steps.contains(&Step::Flag('H'))));
            Ok(0)
        }
        "bookmark" => {
            let [snapshot, mark] = rest else { return Err(Failure::usage("zfs bookmark DATASET@NAME DATASET#MARK")) };
            each(Operation::DatasetChange, std::slice::from_ref(snapshot), &NvList::new().with("change", "bookmark").with("to", mark.as_str()))
        }
        "set" => set(rest),
        "inherit" => {
            let (steps, rest) = usage::options(rest, "r")?;
            let (property, names) = rest.split_first().ok_or_else(|| Failure::usage("zfs inherit [-r] PROPERTY DATASET..."))?;
            let mut wanted = names.to_vec();
            if steps.contains(&Step::Flag('r')) {
                let all = everything()?;
                let below = |name: &&str| !name.contains('@') && names.iter().any(|top| depth_below(name, top).is_some_and(|depth| depth > 0));
                wanted.extend(all.iter().filter_map(|dataset| dataset.string("name").ok()).filter(below).map(str::to_owned));
            }
            each(Operation::DatasetSet, &wanted, &NvList::new().with("property", property.as_str()))
        }
        "get" => get(rest),
        "send" => send(rest),
        "receive" | "recv" => receive(rest),
        "mount" if rest.is_empty() => list(&["-H".to_owned(), "-m".to_owned()]),
        "mount" if rest == ["-a"] => mount_all(true),
        "mount" => each(Operation::DatasetMount, rest, &NvList::new()),
        "unmount" | "umount" => {
            let (steps, names) = usage::options(rest, "af")?;
            if steps.contains(&Step::Flag('a')) {
                return mount_all(false);
            }
            let names = names.iter().map(|name| mounted_at(name)).collect::<Result<Vec<_>, _>>()?;
            each(Operation::DatasetMount, &names, &NvList::new().with("unmount", 1_u64))
        }
        other => Err(Failure::usage(format!("'{other}' is no subcommand; see zfs --help"))),
    }
}

/// One call for each name.
fn each(operation: Operation, names: &[String], request: &NvList) -> Result<u8, Failure> {
    if names.is_empty() {
        return Err(Failure::usage("which dataset? see zfs --help"));
    }
    for name in names {
        call(operation, &request.clone().with("name", name.as_str()))?;
    }
    Ok(0)
}

/// What there is: name, kind and mount point of each dataset.
fn everything() -> Result<Vec<NvList>, Failure> {
    Ok(call(Operation::DatasetList, &NvList::new())?.lists("datasets").map_err(Failure::new)?.to_vec())
}

/// Snapshots, and with `recursive` those of the same name below.
fn with_below(names: &[String], recursive: bool) -> Result<Vec<String>, Failure> {
    if !recursive {
        return Ok(names.to_vec());
    }
    let all = everything()?;
    let all: Vec<&str> = all.iter().filter_map(|dataset| dataset.string("name").ok()).collect();
    let mut out = Vec::new();
    for name in names {
        let (top, snapshot) = name.split_once('@').ok_or_else(|| Failure::usage(format!("{name}: a snapshot is called DATASET@NAME")))?;
        let below = |other: &&&str| other.split_once('@').is_some_and(|(dataset, other)| other == snapshot && depth_below(dataset, top).is_some());
        out.extend(all.iter().filter(below).map(|name| (*name).to_owned()));
    }
    if out.is_empty() { Err(Failure::new(format!("{}: no such snapshot", names.join(" ")))) } else { Ok(out) }
}

/// The file system that is meant by its name, or by the directory it belongs at.
fn mounted_at(name: &str) -> Result<String, Failure> {
    if !name.starts_with('/') {
        return Ok(name.to_owned());
    }
    let all = everything()?;
    let here = all.iter().find(|dataset| dataset.opt_string("mountpoint") == Ok(Some(name)));
    let here = here.and_then(|dataset| dataset.string("name").ok());
    here.map(str::to_owned).ok_or_else(|| Failure::new(format!("{name}: no file system belongs there")))
}

/// Mounts what is mounted by itself and is not, or unmounts all, deepest first. In the global zone that leaves out what was delegated: its zone mounts it.
fn mount_all(mount: bool) -> Result<u8, Failure> {
    let is_global = call(Operation::ZoneGet, &NvList::new())?.string("name").map_err(Failure::new)? == "global";
    let (mut names, mut zoned) = (Vec::new(), Vec::<String>::new());
    for dataset in everything()?.iter().filter(|dataset| dataset.string("kind") == Ok("filesystem") && dataset.opt_string("mountpoint").is_ok_and(|at| at.is_some())) {
        let name = dataset.string("name").map_err(Failure::new)?;
        let is = |property: &str, wanted: &str| values(name, &[property.to_owned()], false).map(|found| found.first().is_some_and(|value| value.string("value") == Ok(wanted)));
        // Of what is below, too, whatever it says itself.
        if is_global && (zoned.iter().any(|top| name.strip_prefix(top.as_str()).is_some_and(|rest| rest.starts_with('/'))) || is("zoned", "on")?) {
            zoned.push(name.to_owned());
            continue;
        }
        if is("mounted", "yes")? != mount && (!mount || is("canmount", "on")?) {
            names.push(name.to_owned());
        }
    }
    if !mount {
        names.reverse();
    }
    let mut status = 0;
    for name in names {
        if let Err(refused) = call(Operation::DatasetMount, &NvList::new().with("name", name.as_str()).with("unmount", u64::from(!mount))) {
            eprintln!("zfs: {}", refused.message);
            status = 1;
        }
    }
    Ok(status)
}

/// Values of `-o NAME=VALUE`.
fn properties(steps: &[Step]) -> Result<Vec<String>, Failure> {
    let mut out = Vec::new();
    for step in steps {
        let Step::Value('o', pair) = step else { continue };
        if !pair.contains('=') {
            return Err(Failure::usage(format!("-o {pair}: PROPERTY=VALUE, please")));
        }
        out.push(pair.clone());
    }
    Ok(out)
}

fn create(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, names) = usage::options(arguments, "pso:b:V:")?;
    let flag = |letter| u64::from(steps.contains(&Step::Flag(letter)));
    let value = |wanted: char| steps.iter().find_map(|step| if let Step::Value(letter, value) = step { (*letter == wanted).then_some(value.as_str()) } else { None });
    let mut request = NvList::new().with("properties", properties(&steps)?).with("parents", flag('p'));
    match value('V') {
        Some(size) => {
            if names.len() != 1 {
                return Err(Failure::usage("zfs create [-ps] [-b BLOCKSIZE] [-o PROPERTY=VALUE]... -V SIZE VOLUME"));
            }
            request = request.with("volsize", size).with("sparse", flag('s'));
            // As a property it means the same.
            let named = properties(&steps)?.iter().find_map(|pair| pair.strip_prefix("volblocksize=").map(str::to_owned));
            if let Some(block) = value('b').map(str::to_owned).or(named) {
                request.set("volblocksize", block);
            }
        }
        None if value('b').is_some() || flag('s') != 0 => return Err(Failure::usage("-b and -s are for volumes: give a size with -V")),
        None => {}
    }
    let plain: Vec<String> = properties(&steps)?.into_iter().filter(|pair| !pair.starts_with("volblocksize=")).collect();
    request.set("properties", plain);
    each(Operation::DatasetMake, &names, &request)
}

fn clone(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, names) = usage::options(arguments, "o:")?;
    let [origin, new] = names.as_slice() else { return Err(Failure::usage("zfs clone DATASET@NAME NEW")) };
    let request = NvList::new().with("properties", properties(&steps)?).with("origin", origin.as_str());
    each(Operation::DatasetMake, std::slice::from_ref(new), &request)
}

fn snapshot(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, names) = usage::options(arguments, "r")?;
    if names.is_empty() {
        return Err(Failure::usage("zfs snapshot [-r] DATASET@NAME..."));
    }
    call(Operation::DatasetSnap, &NvList::new().with("names", names).with("recursive", u64::from(steps.contains(&Step::Flag('r')))))?;
    Ok(0)
}

fn destroy(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, names) = usage::options(arguments, "rRdfnvp")?;
    let flag = |letter| u64::from(steps.contains(&Step::Flag(letter)));
    let request = NvList::new().with("change", "destroy").with("recursive", flag('r')).with("clones", flag('R')).with("defer", flag('d'));
    if flag('n') + flag('v') + flag('p') > 0 {
        for name in &names {
            let reply = call(Operation::DatasetChange, &request.clone().with("name", name.as_str()).with("dry", 1_u64))?;
            for gone in reply.strings("names").map_err(Failure::new)? {
                match (flag('p') != 0, flag('v') != 0, flag('n') != 0) {
                    (true, ..) => usage::print(&format!("destroy\t{gone}\n")),
                    (_, true, true) => usage::print(&format!("would destroy {gone}\n")),
                    (_, true, false) => usage::print(&format!("will destroy {gone}\n")),
                    _ => {}
                }
            }
        }
    }
    if flag('n') != 0 {
        return if names.is_empty() { Err(Failure::usage("which dataset? see zfs --help")) } else { Ok(0) };
    }
    each(Operation::DatasetChange, &names, &request)
}

fn send(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "Rpi:I:t:")?;
    let flag = |letter| u64::from(steps.contains(&Step::Flag(letter)));
    let token = steps.iter().find_map(|step| if let Step::Value('t', token) = step { Some(token) } else { None });
    let mut request = match (operands.as_slice(), token) {
        ([], Some(token)) => NvList::new().with("token", token.as_str()),
        ([to], None) => NvList::new().with("to", to.as_str()).with("replicate", flag('R')).with("properties", flag('p')),
        _ => return Err(Failure::usage("zfs send [-Rp] [-i|-I FROM] DATASET@NAME, or zfs send -t TOKEN")),
    };
    for step in &steps {
        let Step::Value(letter @ ('i' | 'I'), from) = step else { continue };
        request.set("from", from.trim_start_matches('@'));
        request.set("intermediate", u64::from(*letter == 'I'));
    }
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        return Err(Failure::usage("a stream is not for a terminal: send it to a file or to zfs receive"));
    }
    let mut session = Session::open()?;
    session.call(Operation::StreamSend, &request)?;
    loop {
        let piece = session.call(Operation::StreamSend, &NvList::new())?;
        let data = piece.bytes("data").map_err(Failure::new)?;
        if data.is_empty() {
            return Ok(0);
        }
        out.write_all(data).and_then(|()| out.flush()).map_err(|error| Failure::new(format!("writing the stream: {error}")))?;
    }
}

/// Bytes of a stream that go to the kernel at once.
const PIECE: usize = 60 << 10;

fn receive(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "AFdesuv")?;
    let [target] = operands.as_slice() else { return Err(Failure::usage("zfs receive [-Fs] [-d|-e] DATASET, or zfs receive -A DATASET")) };
    let flag = |letter| steps.contains(&Step::Flag(letter));
    if flag('A') {
        call(Operation::DatasetChange, &NvList::new().with("change", "abort-receive").with("name", target.as_str()))?;
        return Ok(0);
    }
    let mut request = NvList::new().with("target", target.as_str()).with("force", u64::from(flag('F'))).with("resumable", u64::from(flag('s')));
    if flag('d') || flag('e') {
        request.set("naming", if flag('d') { "drop-pool" } else { "last-part" });
    }
    let mut session = Session::open()?;
    session.call(Operation::StreamReceive, &request)?;
    let mut input = std::io::stdin().lock();
    let mut piece = vec![0; PIECE];
    loop {
        let length = input.read(&mut piece).map_err(|error| Failure::new(format!("reading the stream: {error}")))?;
        if length == 0 {
            break;
        }
        session.call(Operation::StreamReceive, &NvList::new().with("data", piece[..length].to_vec()))?;
    }
    let done = session.call(Operation::StreamReceive, &NvList::new().with("end", 1_u64))?;
    if flag('v') {
        for name in done.strings("received").map_err(Failure::new)? {
            usage::print(&format!("received {name}\n"));
        }
    }
    Ok(0)
}

fn set(arguments: &[String]) -> Result<u8, Failure> {
    let count = arguments.iter().take_while(|argument| argument.contains('=')).count();
    let (pairs, names) = arguments.split_at(count);
    if pairs.is_empty() {
        return Err(Failure::usage("zfs set PROPERTY=VALUE... DATASET..."));
    }
    for pair in pairs {
        let (property, value) = pair.split_once('=').expect("counted above");
        each(Operation::DatasetSet, names, &NvList::new().with("property", property).with("value", value))?;
    }
    Ok(0)
}

/// Properties `wanted` (none: all) of a dataset.
fn values(name: &str, wanted: &[String], recursive: bool) -> Result<Vec<NvList>, Failure> {
    let request = NvList::new().with("name", name).with("properties", wanted.to_vec()).with("recursive", u64::from(recursive));
    let reply = call(Operation::DatasetGet, &request)?;
    Ok(reply.lists("values").map_err(Failure::new)?.to_vec())
}

fn get(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "rHpo:s:")?;
    let sources = steps.iter().find_map(|step| if let Step::Value('s', sources) = step { Some(sources.split(',').collect::<Vec<_>>()) } else { None });
    let flag = |letter| steps.contains(&Step::Flag(letter));
    let (wanted, names) = operands.split_first().ok_or_else(|| Failure::usage("zfs get all|PROPERTY,... DATASET..."))?;
    if names.is_empty() {
        return Err(Failure::usage("of which dataset? zfs get all|PROPERTY,... DATASET..."));
    }
    let wanted: Vec<String> = if wanted == "all" { Vec::new() } else { wanted.split(',').map(str::to_owned).collect() };
    // As words of -s: `-` is none, and what is inherited names from where.
    let source_of = |text: &str| if text == "-" { "none".to_owned() } else { text.split(' ').next().unwrap_or(text).to_owned() };
    if let Some(wrong) = sources.iter().flatten().find(|source| !matches!(**source, "local" | "default" | "inherited" | "temporary" | "received" | "none")) {
        return Err(Failure::usage(format!("'{wrong}' is no source: local, default, inherited, temporary, received or none")));
    }
    let shown = steps.iter().find_map(|step| if let Step::Value('o', columns) = step { Some(columns.as_str()) } else { None });
    let mut columns = Vec::new();
    for column in shown.unwrap_or("name,property,value,source").split(',') {
        columns.push(match column {
            "name" => ("NAME", "dataset"),
            "property" => ("PROPERTY", "property"),
            "value" => ("VALUE", if flag('p') { "exact" } else { "value" }),
            "source" => ("SOURCE", "source"),
            other => return Err(Failure::usage(format!("'{other}' is no column: name, property, value, source"))),
        });
    }
    let mut rows = Vec::new();
    for name in names {
        for value in values(name, &wanted, flag('r'))? {
            let source = source_of(value.string("source").map_err(Failure::new)?);
            if sources.as_ref().is_some_and(|sources| !sources.contains(&source.as_str())) {
                continue;
            }
            rows.push(columns.iter().map(|(_, field)| value.string(field).map(str::to_owned)).collect::<Result<Vec<_>, _>>().map_err(Failure::new)?);
        }
    }
    if rows.is_empty() && sources.is_none() {
        return Err(Failure::new("no such property here"));
    }
    let heading: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    usage::print(&table(&heading, &rows, flag('H')));
    Ok(0)
}

/// How far `name` is below `top`; `None`: not at all. Snapshots are one further down than their file system.
fn depth_below(name: &str, top: &str) -> Option<usize> {
    let rest = name.strip_prefix(top)?;
    if rest.is_empty() || rest.starts_with(['/', '@', '#']) { Some(rest.matches(['/', '@', '#']).count()) } else { None }
}

fn list(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "Hpmrd:t:o:s:S:")?;
    let flag = |letter| steps.contains(&Step::Flag(letter));
    let value = |wanted: char| steps.iter().find_map(|step| if let Step::Value(letter, value) = step { (*letter == wanted).then_some(value.as_str()) } else { None });
    let (script, exact) = (flag('H'), flag('p'));
    let kinds: Vec<&str> = value('t').map_or_else(|| vec!["filesystem", "volume"], |kinds| kinds.split(',').collect());
    if let Some(wrong) = kinds.iter().find(|kind| !matches!(**kind, "filesystem" | "fs" | "snapshot" | "snap" | "volume" | "vol" | "bookmark" | "all")) {
        return Err(Failure::usage(format!("'{wrong}' is no kind of dataset: filesystem, snapshot, volume, bookmark or all")));
    }
    // A dataset that is named is shown alone, or with what it has of a kind that was asked for.
    let deepest = match value('d') {
        Some(depth) => depth.parse().map_err(|_| Failure::usage(format!("-d {depth}: a number, please")))?,
        None if flag('r') || operands.is_empty() => usize::MAX,
        None => usize::from(value('t').is_some_and(|kinds| kinds.contains("snap") || kinds.contains("bookmark"))),
    };
    let columns: Vec<&str> = value('o').unwrap_or(if flag('m') { "name,mountpoint" } else { "name,used,available,referenced,mountpoint" }).split(',').collect();
    let tops: Vec<Option<&str>> = if operands.is_empty() { vec![None] } else { operands.iter().map(|name| Some(name.as_str())).collect() };
    // The key that rows are sorted by, and the row.
    let mut rows: Vec<(Option<String>, Vec<String>)> = Vec::new();
    for top in tops {
        let mut request = NvList::new().with("bookmarks", u64::from(kinds.iter().any(|kind| matches!(*kind, "bookmark" | "all"))));
        if let Some(name) = top {
            request.set("name", name);
        }
        let reply = call(Operation::DatasetList, &request)?;
        for dataset in reply.lists("datasets").map_err(Failure::new)? {
            let kind = dataset.string("kind").map_err(Failure::new)?;
            let name = dataset.string("name").map_err(Failure::new)?;
            let is_named = top == Some(name);
            let is_wanted = is_named && value('t').is_none() || kinds.iter().any(|wanted| *wanted == "all" || kind.starts_with(wanted) || *wanted == "fs" && kind == "filesystem");
            if !is_wanted || top.is_some_and(|top| depth_below(name, top).is_none_or(|depth| depth > deepest)) {
                continue;
            }
            let row = columns.iter().map(|column| cell(dataset, column, exact)).collect::<Result<Vec<_>, _>>()?;
            let key = value('s').or(value('S')).map(|property| cell(dataset, property, true)).transpose()?;
            rows.push((key, row));
        }
    }
    if rows.is_empty() && !script {
        usage::print("no datasets available\n");
        return Ok(0);
    }
    let number = |key: &Option<String>| key.as_ref().and_then(|key| key.parse::<u64>().ok());
    rows.sort_by(|(a, _), (b, _)| number(a).cmp(&number(b)).then_with(|| a.cmp(b)));
    if value('S').is_some() {
        rows.reverse();
    }
    let heading: Vec<String> = columns.iter().map(|column| heading(column)).collect();
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, row)| row).collect();
    usage::print(&table(&heading.iter().map(String::as_str).collect::<Vec<_>>(), &rows, script));
    Ok(0)
}

/// What a dataset has in a column: what the list says, or else the property.
fn cell(dataset: &NvList, column: &str, exact: bool) -> Result<String, Failure> {
    let number = |field: &str| Ok(dataset.opt_number(field).map_err(Failure::new)?.map_or_else(|| "-".to_owned(), |bytes| size(bytes, exact)));
    match column {
        "name" => Ok(dataset.string("name").map_err(Failure::new)?.to_owned()),
        "used" => number("used"),
        "available" | "avail" => number("available"),
        "referenced" | "refer" => number("referenced"),
        "mountpoint" => {
            let is_filesystem = dataset.string("kind").map_err(Failure::new)? == "filesystem";
            Ok(dataset.opt_string("mountpoint").map_err(Failure::new)?.unwrap_or(if is_filesystem { "none" } else { "-" }).to_owned())
        }
        _ => {
            let name = dataset.string("name").map_err(Failure::new)?;
            let found = values(name, &[column.to_owned()], false)?;
            let found = found.first().and_then(|value| value.string(if exact { "exact" } else { "value" }).ok());
            Ok(found.unwrap_or("-").to_owned())
        }
    }
}

/// What stands above a column.
fn heading(column: &str) -> String {
    match column {
        "available" => "AVAIL".to_owned(),
        "referenced" => "REFER".to_owned(),
        other => other.to_uppercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_dataset() {
        let depths = ["tank", "tank/a", "tank/a@s", "tank@s", "tankard", "tan"].map(|name| depth_below(name, "tank"));
        assert_eq!(depths, [Some(0), Some(1), Some(2), Some(1), None, None]);
    }
}
