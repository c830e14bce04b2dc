//! `zfs diff` and `zfs userspace`: what changed, and whose it is.

use clap::Args;
use pool_dmu::{Datasets, Holder, Holding, OwnedProperty, human};
use pool_spa::Pool;

use crate::Failure;
use crate::list::print;
use crate::zfs::layout;

/// Options of `zfs diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A letter for the kind of file: F file, / directory, @ link.
    #[arg(short = 'F')]
    kinds: bool,
    /// Tabs only, for scripts.
    #[arg(short = 'H')]
    scripted: bool,
    /// The change time before each line.
    #[arg(short = 't')]
    times: bool,
    /// The older snapshot.
    pub from: String,
    /// A later snapshot (`@NAME` is of the same file system) or a file system; without it, the snapshot's own.
    to: Option<String>,
}

/// Lists what differs between a snapshot and something later.
pub fn diff(pool: &Pool, args: &DiffArgs) -> Result<(), Failure> {
    let about = |error| Failure::Change(args.from.clone(), error);
    let datasets = Datasets::open(pool).map_err(|error| Failure::Pool(args.from.clone(), error))?;
    let (mut diff, mount) = pool_zpl::diff(&datasets, &args.from, args.to.as_deref()).map_err(about)?;
    let mut found = Vec::new();
    loop {
        let more = diff.step(&mut found).map_err(|error| Failure::Pool(args.from.clone(), error))?;
        let text: String = found.drain(..).map(|one| one.line(&mount, args.kinds, args.scripted, args.times)).collect();
        print(&text)?;
        if !more {
            return Ok(());
        }
    }
}

/// Options of `zfs userspace` and its like.
#[derive(Debug, Args)]
pub struct SpaceArgs {
    #[arg(short = 'H')]
    scripted: bool,
    /// Numbers instead of names.
    #[arg(short = 'n')]
    numbers: bool,
    /// Exact numbers.
    #[arg(short = 'p')]
    parsable: bool,
    /// Accepted: there are no names of Windows domains to translate.
    #[arg(short = 'i')]
    translate: bool,
    /// Columns: type, name, used, quota, objused, objquota.
    #[arg(short = 'o', default_value = "type,name,used,quota,objused,objquota", value_delimiter = ',')]
    columns: Vec<String>,
    /// Sorts by a column, rising.
    #[arg(short = 's')]
    sort: Option<String>,
    /// Sorts by a column, falling.
    #[arg(short = 'S')]
    sort_down: Option<String>,
    /// Kinds: posixuser, smbuser, posixgroup, smbgroup, all.
    #[arg(short = 't', value_delimiter = ',')]
    types: Vec<String>,
    pub dataset: String,
}

const COLUMNS: [&str; 6] = ["type", "name", "used", "quota", "objused", "objquota"];

/// Lists what each user, group or project has of a file system or a snapshot of one.
pub fn space(pool: &Pool, holder: Holder, args: &SpaceArgs) -> Result<(), Failure> {
    let order = args.sort.as_deref().or(args.sort_down.as_deref());
    if let Some(bad) = args.columns.iter().map(String::as_str).chain(order).find(|column| !COLUMNS.contains(column)) {
        return Err(Failure::Usage(format!("invalid column '{bad}': {}", COLUMNS.join(", "))));
    }
    if let Some(bad) = args.types.iter().find(|kind| !["posixuser", "smbuser", "posixgroup", "smbgroup", "all"].contains(&kind.as_str())) {
        return Err(Failure::Usage(format!("invalid type '{bad}': posixuser, smbuser, posixgroup, smbgroup or all")));
    }
    let wanted = |word: &str| args.types.is_empty() || args.types.iter().any(|kind| [word, "all"].contains(&kind.as_str()));
    let (label, holds) = match holder {
        Holder::User => ("POSIX User", wanted("posixuser")),
        Holder::Group => ("POSIX Group", wanted("posixgroup")),
        Holder::Project => ("Project", true),
    };
    let about = |error| Failure::Pool(args.dataset.clone(), error);
    let datasets = Datasets::open(pool).map_err(about)?;
    let info = datasets.find(&args.dataset).map_err(about)?;
    let set = datasets.open_dataset(&info).map_err(about)?;
    if set.kind() != pool_phys::objset::ObjsetKind::Zpl || !set.counts(holder, false) {
        return Err(Failure::Request(format!("{}: not a file system that counts what its users have", args.dataset)));
    }
    let names = if args.numbers { Vec::new() } else { names(holder) };
    let mut rows: Vec<(Holding, String)> = Vec::new();
    for holding in if holds { set.holdings(holder).map_err(about)? } else { Vec::new() } {
        let name = names.iter().find(|(_, id)| *id == holding.id).map_or_else(|| holding.id.to_string(), |(name, _)| name.clone());
        rows.push((holding, name));
    }
    // By the column and then by name, as words or as numbers.
    let number = |holding: &Holding, column: &str| match column {
        "used" => holding.used.unwrap_or(0),
        "quota" => holding.quota.unwrap_or(0),
        "objused" => holding.objects.unwrap_or(0),
        "objquota" => holding.object_quota.unwrap_or(0),
        _ => 0,
    };
    let by_name = |(a, first): &(Holding, String), (b, second): &(Holding, String)| if args.numbers { a.id.cmp(&b.id) } else { first.cmp(second) };
    rows.sort_by(by_name);
    match order {
        None | Some("type") => {}
        Some("name") => if args.sort_down.is_some() { rows.reverse() },
        Some(column) if args.sort_down.is_some() => rows.sort_by_key(|(holding, _)| std::cmp::Reverse(number(holding, column))),
        Some(column) => rows.sort_by_key(|(holding, _)| number(holding, column)),
    }
    let no_quota = if args.parsable { "0" } else { "none" };
    let text = |bytes: bool, number: Option<u64>, nothing: &str| match number {
        None => nothing.to_owned(),
        Some(number) if args.parsable => number.to_string(),
        Some(number) if bytes => human(number),
        Some(number) => human(number).trim_end_matches('B').to_owned(),
    };
    let cell = |(holding, name): &(Holding, String), column: &str| match column {
        "type" => label.to_owned(),
        "name" => name.clone(),
        "used" => text(true, holding.used.or(Some(0)), "-"),
        "quota" => text(true, holding.quota.filter(|quota| *quota != 0), no_quota),
        "objused" => text(false, holding.objects, "-"),
        _ => text(false, holding.object_quota.filter(|quota| *quota != 0), no_quota),
    };
    let table: Vec<Vec<String>> = rows.iter().map(|row| args.columns.iter().map(|column| cell(row, column)).collect()).collect();
    let header: Vec<String> = args.columns.iter().map(|column| column.to_uppercase()).collect();
    let right: Vec<bool> = args.columns.iter().map(|column| !["type", "name"].contains(&column.as_str())).collect();
    print(&layout(&header, &right, &table, args.scripted))
}

/// Names of this machine's users or groups with their numbers.
fn names(holder: Holder) -> Vec<(String, u64)> {
    let file = match holder {
        Holder::User => "/etc/passwd",
        Holder::Group => "/etc/group",
        Holder::Project => return Vec::new(),
    };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(parse).collect()
}

/// A property's name with the number of the user or group it names by name.
pub fn by_number(property: &str) -> Result<String, Failure> {
    let Some((holder, head, who)) = OwnedProperty::split(property) else { return Ok(property.to_owned()) };
    if who.parse::<u32>().is_ok() {
        return Ok(property.to_owned());
    }
    match names(holder).into_iter().find(|(name, _)| name == who) {
        Some((_, id)) => Ok(format!("{head}@{id}")),
        None => Err(Failure::Request(format!("{property}: this machine knows no '{who}'; write the number"))),
    }
}
