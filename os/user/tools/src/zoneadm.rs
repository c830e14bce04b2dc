//! `zoneadm`: installs, boots, halts and lists zones.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use control_abi::{Code, Operation};
use nv::NvList;

use crate::clones;
use crate::config::{VOLUMES, ZoneConfig, check_name};
use crate::control::{Refused, call};
use crate::copy;
use crate::index::{State, Store, uuid_bytes, uuid_text};
use crate::usage::{self, Failure, Step};
use crate::zonecfg::confirmed;

pub const HELP: &str = "\
usage: zoneadm list [-cinpv]
       zoneadm -z ZONE install [-t TREE] | uninstall [-F] | verify
       zoneadm -z ZONE ready | boot [-- ARGUMENT...] | halt | reboot [-- ARGUMENT...]
       zoneadm -z ZONE mark incomplete
       zoneadm help

  list       zones in the kernel; -c all configured, -i all installed, -n not the global one, -v columns,
             -p lines for programs: zoneid:zonename:state:zonepath:uuid:brand:ip-type:debugid
  install    copies the root tree TREE (default: property 'tree' of the zone) to ZONEPATH/root. Where a file system of a pool is
             mounted above ZONEPATH, the zone gets a clone there: of the snapshot TREE (DATASET@NAME, which holds root/),
             or of a template that is made of the directory TREE the first time
  uninstall  removes it (-F: without asking)
  ready      makes the zone in the kernel, without processes
  boot       ready, then starts its init
  halt       kills everything in it and takes it out of the kernel; repeat it if it fails

Exit status: 0 done, 1 failed, 2 usage.

examples:
  zoneadm list -cv
  zoneadm -z alpha install -t /export/trees/busybox && zoneadm -z alpha boot
  zoneadm -z alpha halt
";

/// Where the tools are, to be shown in each zone as its zinit.
const TOOLS: &str = "/usr/lib/orrery/tools";
/// The default init: mounted over this file in the zone.
const ZINIT: &str = "/sbin/zinit";

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "z:u:R:")?;
    let zone = steps.into_iter().find_map(|step| match step {
        Step::Value('z', name) => Some(name),
        Step::Value(..) | Step::Flag(_) => None,
    });
    let Some((command, rest)) = operands.split_first() else {
        return Err(Failure::usage("which subcommand?"));
    };
    match command.as_str() {
        "list" => return list(rest, zone.as_deref()),
        "help" => {
            usage::print(HELP);
            return Ok(0);
        }
        _ => {}
    }
    let name = zone.ok_or_else(|| Failure::usage(format!("{command} needs a zone: -z ZONE")))?;
    if name == "global" {
        return Err(Failure::usage(format!("{command} is not possible for the global zone")));
    }
    check_name(&name).map_err(Failure::usage)?;
    let result = match command.as_str() {
        "install" => install(&name, rest),
        "uninstall" => uninstall(&name, rest),
        "verify" => verify(&name),
        "ready" => ready(&name).map(|_| 0),
        "boot" => boot(&name, boot_arguments(rest)?),
        "halt" => halt(&name),
        "reboot" => {
            let extra = boot_arguments(rest)?;
            halt(&name).and_then(|_| boot(&name, extra))
        }
        "mark" if rest.first().is_some_and(|word| word == "incomplete") => {
            Store::system().and_then(|mut store| store.set_state(&name, State::Incomplete)).map(|()| 0)
        }
        other => return Err(Failure::usage(format!("unknown subcommand '{other}'"))),
    };
    result.map_err(|failure| Failure { message: format!("zone '{name}': {}", failure.message), ..failure })
}

fn boot_arguments(rest: &[String]) -> Result<Vec<String>, Failure> {
    match rest.split_first() {
        None => Ok(Vec::new()),
        Some((dashes, arguments)) if dashes == "--" => Ok(arguments.to_vec()),
        Some((other, _)) => Err(Failure::usage(format!("'{other}': boot arguments go after --"))),
    }
}

/// One row of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    id: Option<u64>,
    name: String,
    state: String,
    path: String,
    uuid: String,
    brand: String,
    ip_type: String,
    did: u64,
}

/// Zones in the kernel, by name.
fn live() -> Result<BTreeMap<String, NvList>, Failure> {
    let reply = call(Operation::ZoneList, &NvList::new())?;
    let mut zones = BTreeMap::new();
    for zone in reply.lists("zones").map_err(Failure::new)? {
        zones.insert(zone.string("name").map_err(Failure::new)?.to_owned(), zone.clone());
    }
    Ok(zones)
}

fn list(arguments: &[String], only: Option<&str>) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "cinpv")?;
    if !operands.is_empty() {
        return Err(Failure::usage("list takes no operands"));
    }
    let flag = |letter| steps.contains(&Step::Flag(letter));
    if flag('p') && flag('v') {
        return Err(Failure::usage("give either -p or -v"));
    }
    let live = live()?;
    let mut rows = Vec::new();
    for zone in live.values() {
        let text = |name: &str| zone.string(name).map(str::to_owned).map_err(Failure::new);
        let id = zone.number("id").map_err(Failure::new)?;
        let uuid = zone.bytes("uuid").ok().and_then(|bytes| bytes.try_into().ok()).filter(|bytes| *bytes != [0; 16]).map(uuid_text);
        let root = text("root")?;
        rows.push(Row {
            id: Some(id),
            name: text("name")?,
            state: text("administrative")?,
            path: if id == 0 { root } else { root.strip_suffix("/root").unwrap_or(&root).to_owned() },
            uuid: uuid.unwrap_or_default(),
            brand: text("brand")?,
            ip_type: if id == 0 { "shared" } else { "excl" }.to_owned(),
            did: zone.number("did").map_err(Failure::new)?,
        });
    }
    // A tenant has no configuration store, and must not make one by looking.
    let in_global = live.values().any(|zone| zone.number("id") == Ok(0));
    if in_global && (flag('c') || flag('i')) {
        for entry in &Store::system()?.entries {
            let wanted = flag('c') || entry.state == State::Installed;
            if wanted && !live.contains_key(&entry.name) {
                rows.push(Row {
                    id: None,
                    name: entry.name.clone(),
                    state: entry.state.word().to_owned(),
                    path: entry.path.clone(),
                    uuid: entry.uuid.clone(),
                    brand: entry.brand.clone(),
                    ip_type: entry.ip_type.clone(),
                    did: entry.did.into(),
                });
            }
        }
    }
    rows.retain(|row| !(flag('n') && row.name == "global") && only.is_none_or(|only| only == row.name));
    rows.sort_by(|a, b| (a.id.unwrap_or(u64::MAX), &a.name).cmp(&(b.id.unwrap_or(u64::MAX), &b.name)));
    usage::print(&format_list(&rows, flag('p'), flag('v')));
    match only {
        Some(name) if rows.is_empty() => Err(Failure::new(format!("zone '{name}': no such zone; 'zoneadm list -c' shows all"))),
        _ => Ok(0),
    }
}

fn format_list(rows: &[Row], parseable: bool, verbose: bool) -> String {
    let mut out = String::new();
    let id = |row: &Row| row.id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    if verbose {
        out.push_str(&format!("{:>4} {:<16} {:<14} {:<30} {:<8} {:<6}\n", "ID", "NAME", "STATUS", "PATH", "BRAND", "IP").replace("  \n", "\n"));
    }
    for row in rows {
        if parseable {
            let path = row.path.replace('\\', "\\\\").replace(':', "\\:");
            out.push_str(&format!("{}:{}:{}:{path}:{}:{}:{}:{}\n", id(row), row.name, row.state, row.uuid, row.brand, row.ip_type, row.did));
        } else if verbose {
            out.push_str(&format!("{:>4} {:<16} {:<14} {:<30} {:<8} {}\n", id(row), row.name, row.state, row.path, row.brand, row.ip_type));
        } else {
            out.push_str(&format!("{}\n", row.name));
        }
    }
    out
}

fn require(store: &Store, name: &str, wanted: State, hint: &str) -> Result<(), Failure> {
    let state = store.entry(name)?.state;
    if state == wanted { Ok(()) } else { Err(Failure::new(format!("is {}, not {}{hint}", state.word(), wanted.word()))) }
}

fn not_live(name: &str) -> Result<(), Failure> {
    match live()?.get(name) {
        Some(zone) => Err(Failure::new(format!("is {}; halt it first", zone.string("administrative").unwrap_or("in the kernel")))),
        None => Ok(()),
    }
}

fn install(name: &str, arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "t:x:")?;
    if let Some(operand) = operands.first() {
        return Err(Failure::usage(format!("unexpected '{operand}'")));
    }
    let given = steps.into_iter().find_map(|step| match step {
        Step::Value('t', tree) => Some(tree),
        Step::Value(..) | Step::Flag(_) => None,
    });
    let mut store = Store::system()?;
    require(&store, name, State::Configured, "; to start over: zoneadm -z ZONE uninstall -F")?;
    let config = store.config(name)?;
    let tree = given.unwrap_or_else(|| config.tree.clone());
    if tree.is_empty() {
        return Err(Failure::usage("from which root tree? give -t TREE, or: zonecfg -z ZONE set tree=TREE"));
    }
    let (source, target) = (Path::new(&tree), config.root());
    let place = clones::place(&config.zonepath)?;
    let is_snapshot = tree.contains('@') && !tree.starts_with('/');
    if is_snapshot && place.is_none() {
        return Err(Failure::new(format!("{tree} is a snapshot, but no file system of a pool is mounted above {}", config.zonepath)));
    }
    if !is_snapshot && !source.is_dir() {
        return Err(Failure::new(format!("{tree}: not a directory")));
    }
    if Path::new(&target).exists() {
        return Err(Failure::new(format!("{target} exists already; remove it, or uninstall the zone that owns it")));
    }
    if let Some(place) = place {
        let snapshot = if is_snapshot { tree.clone() } else { clones::template(&place, source)? };
        store.set_state(name, State::Incomplete)?;
        let made = clones::make(&snapshot, &place)?;
        if !Path::new(&target).is_dir() {
            clones::destroy(&made)?;
            store.set_state(name, State::Configured)?;
            return Err(Failure::new(format!("{snapshot} has no directory root/: no zone can live on it")));
        }
        store.set_state(name, State::Installed)?;
        usage::print(&format!("{name}: installed as {made}, a clone of {snapshot}\n"));
        return Ok(0);
    }
    fs::create_dir_all(&config.zonepath).map_err(|error| Failure::new(format!("{}: {error}", config.zonepath)))?;
    store.set_state(name, State::Incomplete)?;
    own_file_system(&config.zonepath, &target)?;
    let copied = copy::tree(source, Path::new(&target))
        .map_err(|(path, error)| Failure::new(format!("{}: {error}; the zone is incomplete: uninstall it", path.display())))?;
    store.set_state(name, State::Installed)?;
    usage::print(&format!("{name}: installed {} files, {} bytes from {tree}\n", copied.files, copied.bytes));
    Ok(0)
}

/// `f_type` of tmpfs.
const TMPFS: i64 = 0x0102_1994;

/// Makes a zone's root directory. In memory it is a file system of its own: how many files there may be, and who waits for whose renames, is then
/// each zone's own affair.
fn own_file_system(zonepath: &str, root: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(format!("{root}: {error}"));
    fs::create_dir(root).map_err(failed)?;
    if rustix::fs::statfs(zonepath).map_err(|error| failed(error.into()))?.f_type == TMPFS {
        rustix::mount::mount("tmpfs", root, "tmpfs", rustix::mount::MountFlags::empty(), c"mode=755").map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

fn uninstall(name: &str, arguments: &[String]) -> Result<u8, Failure> {
    let (steps, _) = usage::options(arguments, "F")?;
    let mut store = Store::system()?;
    let entry = store.entry(name)?.clone();
    if entry.state == State::Configured {
        return Err(Failure::new("is not installed"));
    }
    let root = format!("{}/root", entry.path);
    not_live(name)?;
    if !steps.contains(&Step::Flag('F')) && !confirmed(&format!("Are you sure you want to remove {root} (y/[n])? "))? {
        return Ok(0);
    }
    store.set_state(name, State::Incomplete)?;
    if let Some(place) = clones::place(&entry.path)?.filter(|place| place.is_there) {
        clones::destroy(&place.dataset)?;
        store.set_state(name, State::Configured)?;
        return Ok(0);
    }
    match rustix::mount::unmount(&root, rustix::mount::UnmountFlags::empty()) {
        // It need not be a file system of its own.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(Failure::new(format!("{root}: {}", io::Error::from(error)))),
    }
    match fs::remove_dir_all(&root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Failure::new(format!("{root}: {error}"))),
        Ok(()) | Err(_) => {}
    }
    store.set_state(name, State::Configured)?;
    Ok(0)
}

fn verify(name: &str) -> Result<u8, Failure> {
    let store = Store::system()?;
    let config = store.config(name)?;
    config.verify().map_err(Failure::new)?;
    if store.entry(name)?.state == State::Installed && !Path::new(&config.root()).is_dir() {
        return Err(Failure::new(format!("{} is missing", config.root())));
    }
    Ok(0)
}

/// What the kernel needs to make the zone.
fn creation(config: &ZoneConfig) -> Result<NvList, Failure> {
    let rctls: Vec<NvList> =
        config.rctls.iter().map(|rctl| NvList::new().with("name", rctl.name.as_str()).with("value", rctl.limit)).collect();
    let uuid = uuid_bytes(&config.uuid).ok_or_else(|| Failure::new(format!("uuid '{}' makes no sense", config.uuid)))?;
    let mut request = NvList::new()
        .with("name", config.name.as_str())
        .with("root", config.root())
        .with("uuid", uuid.to_vec())
        .with("did", config.did)
        .with("brand", config.brand.as_str())
        .with("hostname", if config.hostname.is_empty() { config.name.as_str() } else { config.hostname.as_str() })
        .with("rctls", rctls);
    if !config.datasets.is_empty() {
        request.set("datasets", config.datasets.clone());
    }
    if !config.devices.is_empty() {
        let volumes: Vec<String> = config.devices.iter().map(|device| device.trim_start_matches(VOLUMES).to_owned()).collect();
        request.set("volumes", volumes);
    }
    if config.init.is_empty() {
        request.set("lofs", vec![NvList::new().with("from", TOOLS).with("to", ZINIT)]);
    }
    Ok(request)
}

/// Makes sure that the file our zinit is mounted over is there.
fn prepare(config: &ZoneConfig) -> Result<(), Failure> {
    let root = config.root();
    if !Path::new(&root).is_dir() {
        return Err(Failure::new(format!("{root}: not a directory; is the zone installed?")));
    }
    if !config.init.is_empty() {
        return Ok(());
    }
    // The tenant owns this tree and may have put a link here: never follow one out of it.
    let sbin = format!("{root}/sbin");
    let file = format!("{root}{ZINIT}");
    let failed = |path: &str, error: io::Error| Failure::new(format!("{path}: {error}"));
    let plain_directory = |path: &str| fs::symlink_metadata(path).map(|attributes| attributes.is_dir());
    match plain_directory(&sbin) {
        Ok(true) => {}
        Ok(false) => return Err(Failure::new(format!("{sbin} is not a directory; set init=PATH to use the zone's own init"))),
        Err(_) => fs::create_dir(&sbin).map_err(|error| failed(&sbin, error))?,
    }
    if !config.datasets.is_empty() {
        // What was delegated is administered with `zfs`; a program of that name that the tree has stays.
        let link = format!("{sbin}/zfs");
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink("zinit", &link).map_err(|error| failed(&link, error))?;
        }
    }
    match fs::symlink_metadata(&file) {
        Ok(attributes) if attributes.is_file() => Ok(()),
        Ok(_) => Err(Failure::new(format!("{file} is not a file; set init=PATH to use the zone's own init"))),
        Err(_) => fs::File::create_new(&file).map(|_| ()).map_err(|error| failed(&file, error)),
    }
}

fn ready(name: &str) -> Result<ZoneConfig, Failure> {
    let store = Store::system()?;
    require(&store, name, State::Installed, "; install it first")?;
    let config = store.config(name)?;
    prepare(&config)?;
    match call(Operation::ZoneCreate, &creation(&config)?) {
        Ok(_) => Ok(config),
        Err(Refused { code: Some(Code::Exists), .. }) => Err(Failure::new("is in the kernel already (zoneadm list -v)")),
        Err(refused) => Err(refused.into()),
    }
}

fn boot(name: &str, extra: Vec<String>) -> Result<u8, Failure> {
    let is_ready = live()?.get(name).is_some_and(|zone| zone.string("state") == Ok("ready"));
    let config = if is_ready { Store::system()?.config(name)? } else { ready(name)? };
    let init = if config.init.is_empty() { ZINIT } else { config.init.as_str() };
    let mut arguments = vec![init.rsplit('/').next().unwrap_or(init).to_owned()];
    if extra.is_empty() {
        arguments.extend(config.bootargs.split_whitespace().map(str::to_owned));
    } else {
        arguments.extend(extra);
    }
    call(Operation::ZoneBoot, &NvList::new().with("zone", name).with("init", init).with("args", arguments))?;
    Ok(0)
}

fn halt(name: &str) -> Result<u8, Failure> {
    match call(Operation::ZoneHalt, &NvList::new().with("zone", name)) {
        Ok(_) => Ok(0),
        Err(Refused { code: Some(Code::NotFound), .. }) => {
            let state = Store::system()?.entry(name)?.state;
            Err(Failure::new(format!("is not running ({})", state.word())))
        }
        Err(refused) => Err(refused.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |id, name: &str, state: &str, path: &str| Row {
            id,
            name: name.to_owned(),
            state: state.to_owned(),
            path: path.to_owned(),
            uuid: "7d3cd5a4-3ec5-4f8e-b7ae-4ef2b7d0d4bb".to_owned(),
            brand: "lx".to_owned(),
            ip_type: "excl".to_owned(),
            did: 4,
        };
        vec![row(Some(3), "alpha", "running", "/zones/alpha"), row(None, "beta", "installed", "/zones/b:x")]
    }

    #[test]
    fn parseable_lines_have_eight_fields_and_escape_colons() {
        let text = format_list(&rows(), true, false);
        let expected = "3:alpha:running:/zones/alpha:7d3cd5a4-3ec5-4f8e-b7ae-4ef2b7d0d4bb:lx:excl:4\n\
            -:beta:installed:/zones/b\\:x:7d3cd5a4-3ec5-4f8e-b7ae-4ef2b7d0d4bb:lx:excl:4\n";
        assert_eq!(text, expected);
        assert_eq!(text.lines().next().map(|line| line.split(':').count()), Some(8));
    }

    #[test]
    fn verbose_columns_line_up() {
        let text = format_list(&rows(), false, true);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("  ID NAME             STATUS         PATH "), "{}", lines[0]);
        assert_eq!(lines[1].find("running"), lines[0].find("STATUS"));
        assert!(lines[2].starts_with("   - beta "));
    }

    #[test]
    fn creation_carries_the_configuration() {
        let mut config = ZoneConfig::new("alpha");
        config.uuid = "7d3cd5a4-3ec5-4f8e-b7ae-4ef2b7d0d4bb".to_owned();
        config.set_rctl("zone.cpu-shares", 300).expect("known");
        let request = creation(&config).expect("valid");
        assert_eq!(request.string("hostname"), Ok("alpha"));
        assert_eq!(request.lists("rctls").map(|rctls| rctls[0].number("value")), Ok(Ok(300)));
        assert_eq!(request.string("root"), Ok("/zones/alpha/root"));
    }
}
