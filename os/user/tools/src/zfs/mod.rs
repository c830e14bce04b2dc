//! `zfs`: file systems, volumes and snapshots.

mod owners;
mod stream;


use control_abi::Operation;
use nv::NvList;

use crate::bytes::{size, table};
use crate::control::call;
use crate::usage::{self, Failure, Step};

pub const HELP: &str = "\
usage: zfs list [-Hp] [-r | -d DEPTH] [-o PROPERTY,...|space] [-s|-S PROPERTY]... [-t filesystem|snapshot|volume|bookmark|all,...] [DATASET...]
       zfs create [-p] [-o PROPERTY=VALUE]... DATASET...  a file system, mounted below its parent; -p: those above it too
       zfs create [-ps] [-b BLOCKSIZE] [-o PROPERTY=VALUE]... -V SIZE VOLUME
                                                        a volume, /dev/zvol/VOLUME; -s: nothing is reserved for it
       zfs snapshot [-r] [-o USER:PROPERTY=VALUE]... DATASET@NAME...
       zfs rollback [-rRf] DATASET@NAME                 -r: newer snapshots are destroyed; -R: their clones, too
       zfs clone [-p] [-o PROPERTY=VALUE]... DATASET@NAME NEW
       zfs promote CLONE                                its origin becomes its clone
       zfs rename [-fpru] OLD NEW                       datasets, or snapshots (-r: those below, too); -p: makes what is above NEW
       zfs destroy [-fnpRrv] DATASET | DATASET#MARK
       zfs destroy [-dnpRrv] DATASET@NAME[,NAME...] | DATASET@FIRST%LAST
       zfs diff [-FHt] DATASET@OLD [DATASET@NEW | DATASET]
                                                        what was added (+), removed (-), modified (M), renamed (R) since
       zfs set PROPERTY=VALUE... DATASET...
       zfs get [-r | -d DEPTH] [-Hp] [-o COLUMN,...|all] [-t TYPE,...] [-s SOURCE,...] all|PROPERTY,... [DATASET...]
       zfs inherit [-rS] PROPERTY DATASET...            -S: back to the value that was received
       zfs upgrade [-v | -a | DATASET...]
       zfs userspace|groupspace|projectspace [-Hinp] [-o COLUMN,...] [-s|-S COLUMN] [-t TYPE,...] DATASET
                                                        what each has of it, and may have: userquota@NAME, groupquota@NAME
       zfs hold|release [-r] TAG DATASET@NAME...
       zfs holds [-rHp] DATASET@NAME...
       zfs bookmark DATASET@NAME DATASET#MARK
       zfs send [-cehLnpPRv] [-i|-I FROM] DATASET@NAME  a stream on standard output; -n: only says how much it would be
       zfs send -t TOKEN                                the rest of one that was broken off
       zfs receive [-Fnsuv] [-d|-e] [-o PROPERTY=VALUE]... [-x PROPERTY]... DATASET
                                                        a stream from standard input; -s keeps what came if it breaks off:
                                                        zfs get receive_resume_token DATASET, then zfs send -t
       zfs receive -A DATASET                           forgets what was kept
       zfs mount [-Ov] [-o OPTION,...] -a | DATASET     without a name: what is mounted, and where; -a: all that is mounted by itself
       zfs unmount [-f] -a | DATASET | DIRECTORY

examples:
  zfs create -o quota=1G tank/home
  zfs snapshot tank/home@monday && zfs list -t all
  zfs diff tank/home@monday
  zfs set userquota@1000=100M tank/home && zfs userspace tank/home
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
            let flag = |letter| u64::from(steps.contains(&Step::Flag(letter)));
            let request = NvList::new().with("change", "rollback").with("recursive", flag('r') | flag('R')).with("clones", flag('R'));
            each_forced(Operation::DatasetChange, &names, &request, flag('f') != 0)
        }
        "promote" => each(Operation::DatasetChange, rest, &NvList::new().with("change", "promote")),
        "rename" => {
            let (steps, names) = usage::options(rest, "rfpu")?;
            let [from, to] = names.as_slice() else { return Err(Failure::usage("zfs rename [-fpru] OLD NEW")) };
            let flag = |letter| u64::from(steps.contains(&Step::Flag(letter)));
            let request = NvList::new().with("change", "rename").with("to", to.as_str()).with("parents", flag('p')).with("unmounted", flag('u'));
            each_forced(Operation::DatasetChange, std::slice::from_ref(from), &request.with("recursive", flag('r')), flag('f') != 0)
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
            let (steps, rest) = usage::options(rest, "rS")?;
            let (property, names) = rest.split_first().ok_or_else(|| Failure::usage("zfs inherit [-rS] PROPERTY DATASET..."))?;
            let mut wanted = names.to_vec();
            if steps.contains(&Step::Flag('r')) {
                let all = everything()?;
                let below = |name: &&str| !name.contains('@') && names.iter().any(|top| depth_below(name, top).is_some_and(|depth| depth > 0));
                wanted.extend(all.iter().filter_map(|dataset| dataset.string("name").ok()).filter(below).map(str::to_owned));
            }
            let received = u64::from(steps.contains(&Step::Flag('S')));
            each(Operation::DatasetSet, &wanted, &NvList::new().with("property", property.as_str()).with("received", received))
        }
        "get" => get(rest),
        "send" => stream::send(rest),
        "receive" | "recv" => stream::receive(rest),
        "diff" => owners::diff(rest),
        "userspace" => owners::space("user", rest),
        "groupspace" => owners::space("group", rest),
        "projectspace" => owners::space("project", rest),
        "upgrade" => upgrade(rest),
        "mount" => mount(rest),
        "unmount" | "umount" => {
            let (steps, names) = usage::options(rest, "af")?;
            if steps.contains(&Step::Flag('a')) {
                return mount_all(false);
            }
            let names = names.iter().map(|name| mounted_at(name)).collect::<Result<Vec<_>, _>>()?;
            each_forced(Operation::DatasetMount, &names, &NvList::new().with("unmount", 1_u64), steps.contains(&Step::Flag('f')))
        }
        other => match absent(other) {
            Some(why) => Err(Failure::new(format!("{other}: {why}"))),
            None => Err(Failure::usage(format!("'{other}' is no subcommand; see zfs --help"))),
        },
    }
}

/// Why a subcommand of OpenZFS is none here.
fn absent(verb: &str) -> Option<&'static str> {
    Some(match verb {
        "share" | "unshare" => "there is no NFS or SMB server in this system to share with; give a zone the file system (zonecfg: add dataset), or a lofs mount of it",
        "allow" | "unallow" => "rights are given to zones, not to users: delegate the file system to a zone (zonecfg: add dataset), and its root administers it",
        "load-key" | "unload-key" | "change-key" => "there are no encrypted datasets here: they are neither made nor received",
        "program" => "there is no interpreter of channel programs in the kernel; run the commands one by one, snapshots of a tree in one step with zfs snapshot -r",
        "redact" => "redacted streams are neither made nor received; send a clone from which what is secret was removed",
        "project" => "nothing is counted by project here; zfs userspace and zfs groupspace count by user and group",
        "jail" | "unjail" | "zone" | "unzone" => "a zone is given its datasets in its configuration: zonecfg: add dataset",
        "wait" => "nothing here is done behind your back but freeing, which zfs list shows; zpool wait waits for scans",
        _ => return None,
    })
}

/// Says that file systems have the newest version, which all have that are made here.
fn upgrade(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, names) = usage::options(arguments, "varV:")?;
    if steps.contains(&Step::Flag('v')) {
        usage::print("The following filesystem versions are supported:\n\nVER  DESCRIPTION\n---  --------------------------------------------------------\n 5   System attributes\n\nOlder ones are read, and not changed.\n");
        return Ok(0);
    }
    let mut older = Vec::new();
    for dataset in everything()? {
        let (name, kind) = (dataset.string("name").map_err(Failure::new)?, dataset.string("kind").map_err(Failure::new)?);
        let is_meant = names.is_empty() || names.iter().any(|top| depth_below(name, top).is_some_and(|depth| depth == 0 || steps.contains(&Step::Flag('r'))));
        if kind == "filesystem" && is_meant {
            let version = values(name, &["version".to_owned()], false)?;
            if let Some(version) = version.first().and_then(|value| value.string("value").ok()).filter(|version| *version != "5" && *version != "-") {
                older.push(format!("{version:>2}   {name}\n"));
            }
        }
    }
    usage::print("This system is currently running ZFS filesystem version 5.\n\n");
    if older.is_empty() {
        usage::print("All filesystems are formatted with the current version.\n");
        return Ok(0);
    }
    usage::print(&format!("The following filesystems are out of date: they can be read. Send them into a new file system to have them in the current version.\n\nVER  FILESYSTEM\n---  ------------\n{}", older.concat()));
    Ok(if steps.contains(&Step::Flag('a')) || !names.is_empty() { 1 } else { 0 })
}

/// Mounts, or says what is mounted.
fn mount(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, names) = usage::options(arguments, "aOvo:")?;
    if steps.contains(&Step::Flag('a')) {
        return mount_all(true);
    }
    if names.is_empty() {
        let mut text = String::new();
        for dataset in everything()? {
            if dataset.opt_number("mounted") == Ok(Some(1))
                && let Ok(Some(at)) = dataset.opt_string("mountpoint")
            {
                text.push_str(&format!("{:<30}  {at}\n", dataset.string("name").map_err(Failure::new)?));
            }
        }
        usage::print(&text);
        return Ok(0);
    }
    let mut options: Vec<String> = Vec::new();
    for step in &steps {
        let Step::Value('o', list) = step else { continue };
        options.extend(list.split(',').map(str::to_owned));
    }
    each(Operation::DatasetMount, &names, &NvList::new().with("options", options))
}

/// One call for each name.
fn each(operation: Operation, names: &[String], request: &NvList) -> Result<u8, Failure> {
    each_forced(operation, names, request, false)
}

/// The same, with -f given or not.
fn each_forced(operation: Operation, names: &[String], request: &NvList, forced: bool) -> Result<u8, Failure> {
    if names.is_empty() {
        return Err(Failure::usage("which dataset? see zfs --help"));
    }
    for name in names {
        call(operation, &request.clone().with("name", name.as_str())).map_err(|refused| refused.although(forced))?;
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
    let (steps, names) = usage::options(arguments, "po:")?;
    let [origin, new] = names.as_slice() else { return Err(Failure::usage("zfs clone [-p] [-o PROPERTY=VALUE]... DATASET@NAME NEW")) };
    let parents = u64::from(steps.contains(&Step::Flag('p')));
    let request = NvList::new().with("properties", properties(&steps)?).with("origin", origin.as_str()).with("parents", parents);
    each(Operation::DatasetMake, std::slice::from_ref(new), &request)
}

fn snapshot(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, names) = usage::options(arguments, "ro:")?;
    if names.is_empty() {
        return Err(Failure::usage("zfs snapshot [-r] [-o USER:PROPERTY=VALUE]... DATASET@NAME..."));
    }
    let recursive = steps.contains(&Step::Flag('r'));
    let properties = properties(&steps)?;
    if let Some(bad) = properties.iter().find(|pair| !pair.split('=').next().is_some_and(|name| name.contains(':'))) {
        return Err(Failure::usage(format!("-o {bad}: a snapshot has properties of one's own only, with a colon in their name")));
    }
    call(Operation::DatasetSnap, &NvList::new().with("names", names.clone()).with("recursive", u64::from(recursive)))?;
    if !properties.is_empty() {
        for name in with_below(&names, recursive)? {
            for (property, value) in properties.iter().filter_map(|pair| pair.split_once('=')) {
                each(Operation::DatasetSet, std::slice::from_ref(&name), &NvList::new().with("property", property).with("value", value))?;
            }
        }
    }
    Ok(0)
}

fn destroy(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, mut names) = usage::options(arguments, "rRdfnvp")?;
    let flag = |letter| u64::from(steps.contains(&Step::Flag(letter)));
    if flag('r') + flag('R') > 0 && names.iter().any(|name| name.contains([',', '%'])) {
        // With what is below each: one by one.
        let mut all = Vec::new();
        for name in &names {
            let list = call(Operation::DatasetChange, &NvList::new().with("change", "destroy").with("dry", 1_u64).with("name", name.as_str()))?;
            all.extend(if name.contains([',', '%']) { list.strings("names").map_err(Failure::new)?.to_vec() } else { vec![name.clone()] });
        }
        names = all;
    }
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
    each_forced(Operation::DatasetChange, &names, &request, flag('f') != 0)
}

fn set(arguments: &[String]) -> Result<u8, Failure> {
    let count = arguments.iter().take_while(|argument| argument.contains('=')).count();
    let (pairs, names) = arguments.split_at(count);
    if pairs.is_empty() {
        return Err(Failure::usage("zfs set PROPERTY=VALUE... DATASET..."));
    }
    for pair in pairs {
        let (property, value) = pair.split_once('=').expect("counted above");
        each(Operation::DatasetSet, names, &NvList::new().with("property", owners::by_number(property)?).with("value", value))?;
    }
    Ok(0)
}

/// Properties `wanted` (none: all) of a dataset.
fn values(name: &str, wanted: &[String], recursive: bool) -> Result<Vec<NvList>, Failure> {
    let request = NvList::new().with("name", name).with("properties", wanted.to_vec()).with("recursive", u64::from(recursive));
    let reply = call(Operation::DatasetGet, &request).map_err(|refused| {
        // Words that make no sense, as OpenZFS has it.
        if refused.message.contains("is no property") { Failure::usage(refused.message) } else { Failure::new(refused.message) }
    })?;
    Ok(reply.lists("values").map_err(Failure::new)?.to_vec())
}

fn get(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "rHpd:t:o:s:")?;
    let flag = |letter| steps.contains(&Step::Flag(letter));
    let value = |wanted: char| steps.iter().find_map(|step| if let Step::Value(letter, value) = step { (*letter == wanted).then_some(value.as_str()) } else { None });
    let sources = value('s').map(|sources| sources.split(',').collect::<Vec<_>>());
    let (asked, names) = operands.split_first().ok_or_else(|| Failure::usage("zfs get all|PROPERTY,... [DATASET...]"))?;
    let asked: Vec<&str> = if asked == "all" { Vec::new() } else { asked.split(',').collect() };
    let wanted = asked.iter().map(|property| owners::by_number(property)).collect::<Result<Vec<_>, _>>()?;
    // As words of -s: `-` is none, and what is inherited names from where.
    let source_of = |text: &str| if text == "-" { "none".to_owned() } else { text.split(' ').next().unwrap_or(text).to_owned() };
    if let Some(wrong) = sources.iter().flatten().find(|source| !matches!(**source, "local" | "default" | "inherited" | "temporary" | "received" | "none")) {
        return Err(Failure::usage(format!("'{wrong}' is no source: local, default, inherited, temporary, received or none")));
    }
    let kinds = value('t').map(kinds_of).transpose()?;
    let mut columns = Vec::new();
    for column in value('o').unwrap_or("name,property,value,source").split(',') {
        columns.extend(match column {
            "all" => vec![("NAME", "dataset"), ("PROPERTY", "property"), ("VALUE", "value"), ("RECEIVED", "received"), ("SOURCE", "source")],
            "name" => vec![("NAME", "dataset")],
            "property" => vec![("PROPERTY", "property")],
            "value" => vec![("VALUE", "value")],
            "received" => vec![("RECEIVED", "received")],
            "source" => vec![("SOURCE", "source")],
            other => return Err(Failure::usage(format!("'{other}' is no column: name, property, value, received, source, or all"))),
        });
    }
    // With a depth or a kind, what is below is looked for; so it is where nothing is named.
    let deepest = match value('d') {
        Some(depth) => depth.parse().map_err(|_| Failure::usage(format!("-d {depth}: a number, please")))?,
        None if flag('r') || names.is_empty() => usize::MAX,
        None => 0,
    };
    let tops: Vec<String> = if names.is_empty() {
        everything()?.iter().filter_map(|dataset| dataset.string("name").ok()).filter(|name| !name.contains('/') && !name.contains('@')).map(str::to_owned).collect()
    } else {
        names.to_vec()
    };
    let mut rows = Vec::new();
    let mut known = 0;
    for top in &tops {
        let mut shown = values(top, &wanted, deepest > 0)?;
        known += shown.len();
        for value in &mut shown {
            let name = value.string("dataset").map_err(Failure::new)?.to_owned();
            let kind = value.opt_string("kind").map_err(Failure::new)?.unwrap_or_default();
            let is_far = depth_below(&name, top).is_none_or(|depth| depth > deepest);
            let source = source_of(value.string("source").map_err(Failure::new)?);
            if is_far || kinds.as_ref().is_some_and(|kinds| !is_of(kinds, kind)) || sources.as_ref().is_some_and(|sources| !sources.contains(&source.as_str())) {
                continue;
            }
            if flag('p') {
                let exact = value.string("exact").map_err(Failure::new)?.to_owned();
                value.set("value", exact);
            }
            // As it was asked for.
            let property = value.string("property").map_err(Failure::new)?.to_owned();
            if let Some(at) = wanted.iter().position(|one| *one == property) {
                value.set("property", asked[at]);
            }
            rows.push(columns.iter().map(|(_, field)| value.string(field).map(str::to_owned)).collect::<Result<Vec<_>, _>>().map_err(Failure::new)?);
        }
    }
    if known == 0 && sources.is_none() {
        return Err(Failure::new("no such property here"));
    }
    let heading: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    usage::print(&table(&heading, &rows, flag('H')));
    Ok(0)
}

/// Kinds of datasets as `-t` has them.
fn kinds_of(list: &str) -> Result<Vec<&str>, Failure> {
    let kinds: Vec<&str> = list.split(',').collect();
    match kinds.iter().find(|kind| !matches!(**kind, "filesystem" | "fs" | "snapshot" | "snap" | "volume" | "vol" | "bookmark" | "all")) {
        Some(wrong) => Err(Failure::usage(format!("'{wrong}' is no kind of dataset: filesystem, snapshot, volume, bookmark or all"))),
        None => Ok(kinds),
    }
}

fn is_of(kinds: &[&str], kind: &str) -> bool {
    kinds.iter().any(|wanted| *wanted == "all" || kind.starts_with(wanted) || *wanted == "fs" && kind == "filesystem")
}

/// How far `name` is below `top`; `None`: not at all. Snapshots are one further down than their file system.
fn depth_below(name: &str, top: &str) -> Option<usize> {
    let rest = name.strip_prefix(top)?;
    if rest.is_empty() || rest.starts_with(['/', '@', '#']) { Some(rest.matches(['/', '@', '#']).count()) } else { None }
}

fn list(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "Hprd:t:o:s:S:")?;
    let flag = |letter| steps.contains(&Step::Flag(letter));
    let value = |wanted: char| steps.iter().find_map(|step| if let Step::Value(letter, value) = step { (*letter == wanted).then_some(value.as_str()) } else { None });
    let (script, exact) = (flag('H'), flag('p'));
    let kinds = value('t').map_or_else(|| Ok(vec!["filesystem", "volume"]), kinds_of)?;
    // A dataset that is named is shown alone, or with what it has of a kind that was asked for.
    let deepest = match value('d') {
        Some(depth) => depth.parse().map_err(|_| Failure::usage(format!("-d {depth}: a number, please")))?,
        None if flag('r') || operands.is_empty() => usize::MAX,
        None => usize::from(value('t').is_some_and(|kinds| kinds.contains("snap") || kinds.contains("bookmark"))),
    };
    let columns = value('o').unwrap_or("name,used,available,referenced,mountpoint").split(',');
    let columns: Vec<&str> = columns.flat_map(|column| if column == "space" { SPACE.split(',').collect() } else { vec![column] }).collect();
    let orders: Vec<(&str, bool)> = steps.iter().filter_map(|step| if let Step::Value(letter @ ('s' | 'S'), property) = step { Some((property.as_str(), *letter == 'S')) } else { None }).collect();
    let tops: Vec<Option<&str>> = if operands.is_empty() { vec![None] } else { operands.iter().map(|name| Some(name.as_str())).collect() };
    // The keys that rows are sorted by, and the row.
    let mut rows: Vec<(Vec<String>, Vec<String>)> = Vec::new();
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
            // Snapshots by themselves, where the pool says so.
            let is_listed = value('t').is_none() && dataset.opt_number("listed") == Ok(Some(1));
            let is_wanted = is_named && value('t').is_none() || is_listed || is_of(&kinds, kind);
            if !is_wanted || top.is_some_and(|top| depth_below(name, top).is_none_or(|depth| depth > deepest)) {
                continue;
            }
            let row = columns.iter().map(|column| cell(dataset, column, exact)).collect::<Result<Vec<_>, _>>()?;
            let key = orders.iter().map(|(property, _)| cell(dataset, property, true)).collect::<Result<Vec<_>, _>>()?;
            rows.push((key, row));
        }
    }
    if rows.is_empty() && !script {
        usage::print("no datasets available\n");
        return Ok(0);
    }
    rows.sort_by(|(a, _), (b, _)| {
        let compared = orders.iter().zip(a.iter().zip(b)).map(|((_, falls), (a, b))| {
            let order = a.parse::<u64>().ok().cmp(&b.parse::<u64>().ok()).then_with(|| a.cmp(b));
            if *falls { order.reverse() } else { order }
        });
        compared.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
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

/// Columns of `-o space`.
const SPACE: &str = "name,available,used,usedbysnapshots,usedbydataset,usedbyrefreservation,usedbychildren";

/// What stands above a column.
fn heading(column: &str) -> String {
    match column {
        "available" => "AVAIL".to_owned(),
        "referenced" => "REFER".to_owned(),
        "usedbysnapshots" => "USEDSNAP".to_owned(),
        "usedbydataset" => "USEDDS".to_owned(),
        "usedbyrefreservation" => "USEDREFRESERV".to_owned(),
        "usedbychildren" => "USEDCHILD".to_owned(),
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
