//! `zfs diff`, `zfs userspace` and its like, and the names of users and groups.

use control_abi::Operation;
use nv::NvList;

use crate::bytes::{self, size};
use crate::control::{Session, call};
use crate::usage::{self, Failure, Step};

/// What changed since a snapshot.
pub fn diff(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "FHt")?;
    let (from, to) = match operands.as_slice() {
        [from] => (from, None),
        [from, to] => (from, Some(to.as_str())),
        _ => return Err(Failure::usage("zfs diff [-FHt] DATASET@NAME [DATASET@LATER | DATASET]")),
    };
    let flag = |letter| u64::from(steps.contains(&Step::Flag(letter)));
    let mut request = NvList::new().with("name", from.as_str()).with("kinds", flag('F')).with("script", flag('H')).with("times", flag('t'));
    if let Some(to) = to {
        request.set("to", to);
    }
    // The descriptor knows from one part to the next what was read of directories.
    let mut session = Session::open()?;
    loop {
        let reply = session.call(Operation::DatasetDiff, &request)?;
        usage::print(reply.string("text").map_err(Failure::new)?);
        match reply.opt_number("place").map_err(Failure::new)? {
            Some(place) => request.set("place", place),
            None => return Ok(0),
        }
    }
}

const COLUMNS: [&str; 6] = ["type", "name", "used", "quota", "objused", "objquota"];

/// What each user, group or project (`of`) has of a file system.
pub fn space(of: &'static str, arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "Hinpo:s:S:t:")?;
    let [dataset] = operands.as_slice() else {
        return Err(Failure::usage(format!("zfs {of}space [-Hinp] [-o COLUMN,...] [-s|-S COLUMN] [-t TYPE,...] DATASET")));
    };
    let flag = |letter| steps.contains(&Step::Flag(letter));
    let value = |wanted: char| steps.iter().find_map(|step| if let Step::Value(letter, value) = step { (*letter == wanted).then_some(value.as_str()) } else { None });
    let columns: Vec<&str> = value('o').map_or_else(|| COLUMNS.to_vec(), |columns| columns.split(',').collect());
    let order = value('s').or(value('S'));
    if let Some(bad) = columns.iter().copied().chain(order).find(|column| !COLUMNS.contains(column)) {
        return Err(Failure::usage(format!("'{bad}' is no column: {}", COLUMNS.join(", "))));
    }
    let types: Vec<&str> = value('t').map_or_else(Vec::new, |types| types.split(',').collect());
    if let Some(bad) = types.iter().find(|kind| !matches!(**kind, "posixuser" | "smbuser" | "posixgroup" | "smbgroup" | "all")) {
        return Err(Failure::usage(format!("'{bad}' is no type: posixuser, smbuser, posixgroup, smbgroup or all")));
    }
    let (label, kind) = match of {
        "user" => ("POSIX User", "posixuser"),
        "group" => ("POSIX Group", "posixgroup"),
        _ => ("Project", "all"),
    };
    let names = if flag('n') { Vec::new() } else { names(of) };
    let mut holdings: Vec<NvList> = Vec::new();
    let mut from = Some(0);
    while let Some(first) = from {
        let reply = call(Operation::DatasetSpace, &NvList::new().with("name", dataset.as_str()).with("of", of).with("from", first))?;
        holdings.extend(reply.lists("holdings").map_err(Failure::new)?.iter().cloned());
        from = reply.opt_number("next").map_err(Failure::new)?;
    }
    let mut rows: Vec<(u64, String, NvList)> = Vec::new();
    for holding in holdings.iter().filter(|_| types.is_empty() || of == "project" || types.iter().any(|one| [kind, "all"].contains(one))) {
        let id = holding.number("id").map_err(Failure::new)?;
        let name = names.iter().find(|(_, number)| *number == id).map_or_else(|| id.to_string(), |(name, _)| name.clone());
        rows.push((id, name, holding.clone()));
    }
    let field = |holding: &NvList, column: &str| {
        let field = match column {
            "objused" => "objects",
            "objquota" => "object_quota",
            other => other,
        };
        holding.opt_number(field).ok().flatten().filter(|number| *number != 0 || !column.ends_with("quota"))
    };
    rows.sort_by(|a, b| if flag('n') { a.0.cmp(&b.0) } else { a.1.cmp(&b.1) });
    match order {
        None | Some("type" | "name") => {}
        Some(column) => rows.sort_by_key(|(_, _, holding)| field(holding, column)),
    }
    if value('S').is_some_and(|column| column != "type") {
        rows.reverse();
    }
    let cell = |(_, name, holding): &(u64, String, NvList), column: &str| match (column, field(holding, column)) {
        ("type", _) => label.to_owned(),
        ("name", _) => name.clone(),
        ("quota" | "objquota", None) => if flag('p') { "0" } else { "none" }.to_owned(),
        ("used", None) => size(0, flag('p')),
        (_, None) => "-".to_owned(),
        ("used" | "quota", Some(number)) => size(number, flag('p')),
        (_, Some(number)) => bytes::number(number, flag('p')),
    };
    let table: Vec<Vec<String>> = rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect();
    let heading: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
    let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
    usage::print(&bytes::table(&heading, &table, flag('H')));
    Ok(0)
}

/// Names of this zone's users or groups with their numbers.
fn names(of: &str) -> Vec<(String, u64)> {
    let file = match of {
        "user" => "/etc/passwd",
        "group" => "/etc/group",
        _ => return Vec::new(),
    };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(parse).collect()
}

/// A property with the number of the user or group that it names by name: `userquota@joe` becomes `userquota@1000`.
pub fn by_number(property: &str) -> Result<String, Failure> {
    let Some((head, who)) = property.split_once('@') else { return Ok(property.to_owned()) };
    let of = ["user", "group"].into_iter().find(|of| head.strip_prefix(of).is_some_and(|rest| ["used", "quota"].contains(&rest.trim_start_matches("obj"))));
    let Some(of) = of.filter(|_| who.parse::<u32>().is_err()) else { return Ok(property.to_owned()) };
    match names(of).into_iter().find(|(name, _)| name == who) {
        Some((_, id)) => Ok(format!("{head}@{id}")),
        None => Err(Failure::new(format!("{property}: there is no {of} '{who}' here; write the number"))),
    }
}
