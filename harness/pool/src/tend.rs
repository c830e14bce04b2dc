//! `orrery pool zpool`: properties, names, features, splitting and free space of pools.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use pool_dmu::edit::EditError;
use pool_dmu::{Bearing, FreeAt, ScanKind, Store, human, own_features, parse_pool_property, pool_property_name, pool_property_names};
use pool_spa::FreeWork;

use crate::device::{finish, leaf};
use crate::list::print;
use crate::write::{check_pool_name, now, random};
use crate::{Devices, Failure, image};

/// Bytes of a vdev between two looks at the progress.
const WORK_BYTES: u64 = 64 << 20;
/// Columns of `zpool list`.
pub const COLUMNS: &str = "name,size,allocated,free,checkpoint,expandsize,fragmentation,capacity,dedupratio,health,altroot";

fn about(name: &str) -> impl Fn(EditError) -> Failure {
    move |error| Failure::Change(name.into(), error)
}

/// Changes a pool, notes the command in its history, and puts it back.
fn change<R>(devices: &Devices, pool: &str, command: &str, act: impl FnOnce(&mut Store) -> Result<R, Failure>) -> Result<R, Failure> {
    let mut store = devices.store(pool)?;
    let done = act(&mut store)?;
    store.note_history(command, now()).map_err(about(pool))?;
    store.export(now()).map_err(about(pool))?;
    Ok(done)
}

/// Rows below a heading, as wide as they need to be; scripted: with tabs, and no heading.
fn rows(heading: &[&str], lines: &[Vec<String>], scripted: bool) -> Result<(), Failure> {
    if scripted {
        return print(&lines.iter().map(|line| line.join("\t") + "\n").collect::<String>());
    }
    let first: Vec<String> = heading.iter().map(|word| word.to_uppercase()).collect();
    let width = |column: usize| lines.iter().chain([&first]).map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let show = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    print(&core::iter::once(&first).chain(lines).map(show).collect::<String>())
}

/// Properties of a pool, by name: (for people, for programs, source).
fn properties(devices: &Devices, pool: &str) -> Result<BTreeMap<String, [String; 3]>, Failure> {
    let store = devices.store_for_reading(pool)?;
    let all = store.pool_properties(&Bearing::default()).map_err(about(pool))?;
    Ok(all.into_iter().map(|one| (one.name, [one.value, one.exact, one.source.to_owned()])).collect())
}

fn names(devices: &Devices, pools: &[String]) -> Result<Vec<String>, Failure> {
    if pools.is_empty() { Ok(pool_spa::scan(&devices.open()?).into_iter().map(|pool| pool.name).collect()) } else { Ok(pools.to_vec()) }
}

/// `zpool get`.
pub fn get(devices: &Devices, wanted: &str, pools: &[String], scripted: bool, parsable: bool, columns: &str) -> Result<(), Failure> {
    let columns: Vec<&str> = if columns == "all" { vec!["name", "property", "value", "source"] } else { columns.split(',').collect() };
    if let Some(wrong) = columns.iter().find(|column| !matches!(**column, "name" | "property" | "value" | "source")) {
        return Err(Failure::Usage(format!("'{wrong}' is no column: name, property, value, source")));
    }
    let mut lines = Vec::new();
    for pool in names(devices, pools)? {
        let all = properties(devices, &pool)?;
        let order = || pool_property_names().map(str::to_owned).chain(all.keys().filter(|name| name.starts_with("feature@")).cloned());
        let asked: Vec<String> = if wanted == "all" { order().collect() } else { wanted.split(',').map(|word| pool_property_name(word).unwrap_or_else(|| word.to_owned())).collect() };
        for name in asked {
            let Some([value, exact, source]) = all.get(&name) else {
                return Err(Failure::Request(format!("'{name}' is no property of pool {pool}: {}, feature@NAME", pool_property_names().collect::<Vec<_>>().join(", "))));
            };
            let cell = |column: &&str| match *column {
                "name" => pool.clone(),
                "property" => name.clone(),
                "value" => if parsable { exact } else { value }.clone(),
                _ => source.clone(),
            };
            lines.push(columns.iter().map(cell).collect());
        }
    }
    rows(&columns, &lines, scripted)
}

/// `zpool list`.
pub fn list(devices: &Devices, pools: &[String], scripted: bool, parsable: bool, columns: &str) -> Result<(), Failure> {
    let columns: Vec<String> = columns.split(',').map(|word| pool_property_name(word).unwrap_or_else(|| word.to_owned())).collect();
    let mut lines = Vec::new();
    for pool in names(devices, pools)? {
        let all = properties(devices, &pool)?;
        let cell = |column: &String| match all.get(column) {
            _ if column == "name" => Ok(pool.clone()),
            Some([value, exact, _]) => Ok(if parsable { exact } else { value }.clone()),
            None => Err(Failure::Usage(format!("'{column}' is no column: name, {}", pool_property_names().collect::<Vec<_>>().join(", ")))),
        };
        lines.push(columns.iter().map(cell).collect::<Result<Vec<_>, _>>()?);
    }
    let short = |column: &String| match column.as_str() {
        "allocated" => "alloc".to_owned(),
        "checkpoint" => "ckpoint".to_owned(),
        "expandsize" => "expandsz".to_owned(),
        "fragmentation" => "frag".to_owned(),
        "capacity" => "cap".to_owned(),
        "dedupratio" => "dedup".to_owned(),
        _ => column.clone(),
    };
    let headings: Vec<String> = columns.iter().map(short).collect();
    rows(&headings.iter().map(String::as_str).collect::<Vec<_>>(), &lines, scripted)
}

/// `zpool set`.
pub fn set(devices: &Devices, pair: &str, pool: &str) -> Result<(), Failure> {
    let (name, value) = pair.split_once('=').ok_or_else(|| Failure::Usage(format!("'{pair}' is not PROPERTY=VALUE: zpool set PROPERTY=VALUE POOL")))?;
    let asked = parse_pool_property(name, value).map_err(|why| Failure::Request(format!("{pool}: {why}")))?;
    change(devices, pool, &format!("zpool set {pair} {pool}"), |store| store.set_pool_property(&asked, now()).map_err(about(pool)))
}

/// `zpool import POOL NEWNAME`.
pub fn rename(devices: &Devices, pool: &str, new: &str) -> Result<(), Failure> {
    check_pool_name(new)?;
    if pool_spa::scan(&devices.open()?).iter().any(|found| found.name == new) {
        return Err(Failure::Request(format!("a pool on these devices is called '{new}' already")));
    }
    change(devices, pool, &format!("zpool import {pool} {new}"), |store| store.rename_pool(new, false, now()).map_err(about(pool)))
}

/// `zpool export`: as an import and an export leave it.
pub fn export(devices: &Devices, pool: &str) -> Result<(), Failure> {
    let mut store = devices.store(pool)?;
    store.export(now()).map_err(about(pool))
}

/// `zpool reguid`.
pub fn reguid(devices: &Devices, pool: &str) -> Result<(), Failure> {
    let guid = change(devices, pool, &format!("zpool reguid {pool}"), |store| store.reguid(now()).map_err(about(pool)))?;
    print(&format!("{pool}: {guid}\n"))
}

/// `zpool resilver`.
pub fn resilver(devices: &Devices, pool: &str) -> Result<(), Failure> {
    let mut store = devices.store(pool)?;
    let found = crate::device::run(&mut store, ScanKind::Resilver);
    finish(store)?;
    found
}

/// `zpool upgrade`.
pub fn upgrade(devices: &Devices, pools: &[String], all: bool, list: bool) -> Result<(), Failure> {
    if list {
        let lines = own_features().map(|(name, text)| format!("  {name}\n        {text}\n"));
        return print(&format!("Pools with feature flags (version 5000).\n\nFeatures of new pools:\n{}", lines.collect::<String>()));
    }
    for pool in names(devices, pools)? {
        if !all && pools.is_empty() {
            let lacking = devices.store_for_reading(&pool)?.lacking_features().map_err(about(&pool))?.join(", ");
            print(&if lacking.is_empty() { format!("Pool '{pool}' has all features.\n") } else { format!("Pool '{pool}' lacks features: {lacking}\n") })?;
            continue;
        }
        let new = change(devices, &pool, &format!("zpool upgrade {pool}"), |store| store.upgrade(now()).map_err(about(&pool)))?.join(", ");
        print(&if new.is_empty() { format!("Pool '{pool}' already has all features.\n") } else { format!("Enabled on '{pool}': {new}\n") })?;
    }
    Ok(())
}

/// `zpool split`.
pub fn split(devices: &Devices, pool: &str, new: &str, disks: &[String], dry: bool) -> Result<(), Failure> {
    check_pool_name(new)?;
    let mut store = if dry { devices.store_for_reading(pool)? } else { devices.store(pool)? };
    let chosen = disks.iter().map(|disk| leaf(&store, disk)).collect::<Result<Vec<_>, _>>()?;
    let going = store.plan_split(&chosen).map_err(about(pool))?;
    let trees = store.pool().trees();
    let path = |guid: &u64| trees.iter().find_map(|tree| tree.find(*guid)).and_then(|leaf| leaf.path.clone()).unwrap_or_else(|| guid.to_string());
    let lines: String = going.iter().map(|guid| format!("\t  {}\n", path(guid))).collect();
    if dry {
        return print(&format!("would create '{new}' with the following layout:\n\n\t{new}\n{lines}"));
    }
    let mut other = store.split(new, &chosen, random(None)?, now()).map_err(about(pool))?;
    let command = format!("zpool split {pool} {new}");
    for (store, name) in [(&mut store, pool), (&mut other, new)] {
        store.note_history(&command, now()).map_err(about(name))?;
        store.export(now()).map_err(about(name))?;
    }
    print(&format!("'{new}' is now on\n{lines}"))
}

/// `zpool labelclear`.
pub fn clear_labels(files: &[PathBuf], force: bool) -> Result<(), Failure> {
    for file in files {
        clear_one(file, force)?;
    }
    Ok(())
}

fn clear_one(file: &Path, force: bool) -> Result<(), Failure> {
    let mut cleared = 0;
    for (_, part) in pool_spa::open_partitions(image::open(file, true)?) {
        match pool_spa::label_of(&*part) {
            None => continue,
            Some(label) if !force && label.state != 2 => {
                let whose = label.pool.map_or_else(|| "it is a pool's spare or cache device".to_owned(), |pool| format!("it belongs to pool '{pool}'"));
                return Err(Failure::Request(format!("{}: {whose}; -f makes its label invalid", file.display())));
            }
            Some(_) => {}
        }
        pool_spa::clear_labels_of(&*part).map_err(|error| Failure::Request(format!("{}: it does not take writes: {error:?}", file.display())))?;
        cleared += 1;
    }
    if cleared == 0 { Err(Failure::Request(format!("{}: it has no label of a pool", file.display()))) } else { Ok(()) }
}

/// `zpool trim` and `zpool initialize`.
pub fn free_space(devices: &Devices, pool: &str, disk: Option<&str>, work: FreeWork) -> Result<(), Failure> {
    let mut store = devices.store(pool)?;
    let only = disk.map(|disk| leaf(&store, disk)).transpose()?;
    let progress = ProgressBar::new_spinner();
    let (mut at, mut done, mut unable) = (Some(FreeAt::default()), 0, 0);
    while let Some(from) = at {
        let step = store.work_on_free(work, only, from, WORK_BYTES).map_err(about(pool))?;
        (at, done, unable) = (step.next, done + step.bytes, unable + step.unable);
        progress.set_message(human(done));
        progress.tick();
    }
    progress.finish_and_clear();
    let verb = if work == FreeWork::Discard { "trim" } else { "initialize" };
    store.note_history(&format!("zpool {verb} {pool}"), now()).map_err(about(pool))?;
    store.export(now()).map_err(about(pool))?;
    if done == 0 && unable > 0 {
        return Err(Failure::Request(format!("{pool}: none of these devices can discard what is free")));
    }
    print(&format!("{pool}: {} of free space {}\n", human(done), if work == FreeWork::Discard { "given back to the devices" } else { "written over" }))
}
