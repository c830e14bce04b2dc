//! The words that say which disks a pool is made of, and whether it may have them.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pool_dmu::Auxiliary;
use pool_spa::Layout;

use super::disks::{take, take_for_pool};
use super::pools::survey;
use super::{Refused, Result};

/// What a vdev is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Data,
    Log,
    Aside(Auxiliary),
}

/// A vdev as asked for: kind (parity; 0 = mirror; `None` = disk), names of its disks, what it is for.
type Wanted = (Option<usize>, Vec<String>, Role);

/// Splits `mirror a b raidz c d e log f spare g cache h` into vdevs.
fn parse_layout(words: &[String]) -> Result<Vec<Wanted>> {
    let mut out: Vec<Wanted> = Vec::new();
    let mut role = Role::Data;
    let mut open = false;
    for word in words {
        let kind = match word.as_str() {
            "mirror" => Some(0),
            "raidz" | "raidz1" => Some(1),
            "raidz2" => Some(2),
            "raidz3" => Some(3),
            "log" | "spare" | "cache" => {
                role = match word.as_str() {
                    "log" => Role::Log,
                    "spare" => Role::Aside(Auxiliary::Spare),
                    _ => Role::Aside(Auxiliary::Cache),
                };
                open = false;
                continue;
            }
            "special" | "dedup" => return Err(Refused::Invalid(format!("{word} devices are not supported yet"))),
            _ => None,
        };
        match (kind, open) {
            (Some(_), _) if matches!(role, Role::Aside(_)) => return Err(Refused::Invalid(format!("{word}: spares and cache devices are single disks"))),
            (Some(_), _) => {
                out.push((kind, Vec::new(), role));
                open = true;
            }
            (None, true) => out.last_mut().expect("a kind opened one").1.push(word.clone()),
            (None, false) => out.push((None, [word.clone()].into(), role)),
        }
    }
    if out.is_empty() {
        return Err(Refused::Invalid(String::from("no disks given")));
    }
    for (kind, names, _) in &out {
        let (title, least) = match kind {
            None => continue,
            Some(0) => (String::from("mirror"), 2),
            Some(parity) => (format!("raidz{parity}"), parity + 1),
        };
        if names.len() < least {
            return Err(Refused::Invalid(format!("{title} needs at least {least} disks, and has {}", names.len())));
        }
    }
    let mut all: Vec<&str> = out.iter().flat_map(|(_, names, _)| names).map(|name| name.strip_prefix("/dev/").unwrap_or(name)).collect();
    all.sort_unstable();
    let is_of = |part: &str, disk: &str| part.strip_prefix(disk).is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()));
    if let Some(twice) = all.windows(2).find(|pair| is_of(pair[1], pair[0])) {
        return Err(Refused::Invalid(format!("{}: named twice{}", twice[0], if twice[0] == twice[1] { String::new() } else { format!(", once as {}", twice[1]) })));
    }
    Ok(out)
}

/// Whether a pool may have these disks: they are there and free, no two are one, and unless `force` none holds a pool other than `own`. Nothing is written to one before
/// this was asked of all.
pub(super) fn check_disks(names: &[&str], force: bool, own: Option<u64>) -> Result<()> {
    if !force {
        let named: Vec<&str> = names.iter().map(|name| name.strip_prefix("/dev/").unwrap_or(name)).collect();
        let is_named = |disk: &&String| named.iter().any(|named| disk.strip_prefix(named).is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit())));
        let (pools, aside) = survey(false);
        if let Some(disk) = aside.iter().find(is_named) {
            return Err(Refused::Exists(format!("{disk} is a spare or cache device of a pool that is not imported; use -f to overwrite it")));
        }
        for found in pools.into_iter().filter(|found| Some(found.guid) != own) {
            if let Some(disk) = found.disks.iter().find(is_named) {
                return Err(Refused::Exists(format!("{disk} belongs to pool {}; use -f to overwrite it", found.name)));
            }
        }
    }
    // All are held at once: a disk and a partition of it are one.
    let devices = names.iter().map(|name| take(name)).collect::<Result<Vec<_>>>()?;
    let foreign = names.iter().zip(&devices).find(|(_, device)| !force && pool_spa::has_foreign_partitions(&***device));
    foreign.map_or(Ok(()), |(name, _)| Err(Refused::Exists(format!("{name} has partitions of others; use -f to overwrite them all"))))
}

/// The same of all that `words` name.
pub(super) fn check_layout(words: &[String], force: bool, own: Option<u64>) -> Result<()> {
    let wanted = parse_layout(words)?;
    let names: Vec<&str> = wanted.iter().flat_map(|(_, names, _)| names).map(String::as_str).collect();
    check_disks(&names, force, own)
}

/// Vdevs of disks that [`check_layout`] found to be free; tables are written to whole ones.
pub(super) fn layouts(words: &[String]) -> Result<Vec<(Layout, Role)>> {
    parse_layout(words)?
        .into_iter()
        .map(|(redundancy, names, role)| {
            let devices = names.iter().map(|name| take_for_pool(name)).collect::<Result<_>>()?;
            Ok((Layout { redundancy, devices }, role))
        })
        .collect()
}
