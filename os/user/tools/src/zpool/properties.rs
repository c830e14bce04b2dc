//! `zpool get`, `set`, `upgrade`: what a pool is set to, and what it can.

use control_abi::Operation;
use nv::NvList;

use super::one;
use crate::bytes::table;
use crate::control::call;
use crate::usage::{self, Failure, Step};

/// Pools with all their properties: those that are named, or all.
pub(super) fn known(names: &[String]) -> Result<(Vec<NvList>, Vec<String>), Failure> {
    let requests: Vec<NvList> = if names.is_empty() { vec![NvList::new()] } else { names.iter().map(|name| NvList::new().with("pool", name.as_str())).collect() };
    let (mut pools, mut features) = (Vec::new(), Vec::new());
    for request in &requests {
        let reply = call(Operation::PoolGet, request)?;
        pools.extend(reply.lists("pools").map_err(Failure::new)?.to_vec());
        features = reply.strings("features").map_err(Failure::new)?.to_vec();
    }
    Ok((pools, features))
}

/// The name by which the kernel knows a property.
pub(super) fn full(word: &str) -> &str {
    match word {
        "alloc" => "allocated",
        "cap" => "capacity",
        "ckpoint" => "checkpoint",
        "dedup" => "dedupratio",
        "expand" => "autoexpand",
        "expandsz" => "expandsize",
        "frag" => "fragmentation",
        "listsnaps" => "listsnapshots",
        "rdonly" => "readonly",
        "replace" => "autoreplace",
        other => other,
    }
}

pub(super) fn get(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "Hpo:")?;
    let (script, exact) = (steps.contains(&Step::Flag('H')), steps.contains(&Step::Flag('p')));
    let (wanted, names) = operands.split_first().ok_or_else(|| Failure::usage("zpool get [-Hp] [-o COLUMN,...] all|PROPERTY,... [POOL]..."))?;
    let shown = super::value(&steps, 'o').unwrap_or("name,property,value,source");
    let columns: Vec<&str> = if shown == "all" { vec!["name", "property", "value", "source"] } else { shown.split(',').collect() };
    if let Some(wrong) = columns.iter().find(|column| !matches!(**column, "name" | "property" | "value" | "source")) {
        return Err(Failure::usage(format!("'{wrong}' is no column: name, property, value, source")));
    }
    let (pools, _) = known(names)?;
    let mut rows = Vec::new();
    for pool in &pools {
        let name = pool.string("name").map_err(Failure::new)?;
        let values = pool.lists("values").map_err(Failure::new)?;
        for word in wanted.split(',') {
            let is_wanted = |one: &&NvList| word == "all" || one.string("property").is_ok_and(|property| property == full(word));
            let found: Vec<&NvList> = values.iter().filter(is_wanted).collect();
            if found.is_empty() {
                let all = values.iter().filter_map(|one| one.string("property").ok()).filter(|name| !name.starts_with("feature@"));
                return Err(Failure::new(format!("'{word}' is no property of pool {name}: {}, feature@NAME", all.collect::<Vec<_>>().join(", "))));
            }
            for one in found {
                let cell = |column: &&str| {
                    Ok(match *column {
                        "name" => name.to_owned(),
                        "value" => one.string(if exact { "exact" } else { "value" }).map_err(Failure::new)?.to_owned(),
                        column => one.string(column).map_err(Failure::new)?.to_owned(),
                    })
                };
                rows.push(columns.iter().map(cell).collect::<Result<Vec<_>, Failure>>()?);
            }
        }
    }
    let heading: Vec<String> = columns.iter().map(|column| column.to_uppercase()).collect();
    usage::print(&table(&heading.iter().map(String::as_str).collect::<Vec<_>>(), &rows, script));
    Ok(0)
}

pub(super) fn set(arguments: &[String]) -> Result<u8, Failure> {
    let (pair, pools) = arguments.split_first().ok_or_else(|| Failure::usage("zpool set PROPERTY=VALUE POOL"))?;
    let (property, value) = pair.split_once('=').ok_or_else(|| Failure::usage(format!("'{pair}' is not PROPERTY=VALUE: zpool set PROPERTY=VALUE POOL")))?;
    let pool = one(pools, "zpool set PROPERTY=VALUE POOL")?;
    call(Operation::PoolSet, &NvList::new().with("pool", pool).with("property", full(property)).with("value", value))?;
    Ok(0)
}

pub(super) fn upgrade(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, operands) = usage::options(arguments, "va")?;
    if steps.contains(&Step::Flag('v')) {
        let (_, features) = known(&[])?;
        let mut out = String::from("This system has pools with feature flags (version 5000).\n\nFeatures of new pools:\n");
        for line in features {
            let (name, text) = line.split_once(' ').unwrap_or((&line, ""));
            out.push_str(&format!("  {name}\n        {text}\n"));
        }
        usage::print(&out);
        return Ok(0);
    }
    let all = steps.contains(&Step::Flag('a'));
    let (pools, _) = known(&operands)?;
    let mut behind = 0;
    for pool in &pools {
        let name = pool.string("name").map_err(Failure::new)?;
        let lacking = pool.strings("lacking").map_err(Failure::new)?.join(", ");
        if all || !operands.is_empty() {
            let reply = call(Operation::PoolTend, &NvList::new().with("pool", name).with("change", "upgrade"))?;
            let new = reply.strings("features").map_err(Failure::new)?.join(", ");
            usage::print(&if new.is_empty() { format!("Pool '{name}' already has all features.\n") } else { format!("Enabled on '{name}': {new}\n") });
        } else if !lacking.is_empty() {
            behind += 1;
            usage::print(&format!("Pool '{name}' lacks features: {lacking}\n  zpool upgrade {name} enables them; other systems that do not know them cannot write it afterwards.\n"));
        }
    }
    if !all && operands.is_empty() && behind == 0 {
        usage::print("Every pool has all features that new pools have; zpool upgrade -v lists them.\n");
    }
    Ok(0)
}
