//! `import`, `status`, `zfs-list`, `zfs-get`.

use std::io::Write;

use kif::BlockDev;
use pool_dmu::{DatasetKind, Datasets, Source, human, unwritable};
use pool_spa::{Pool, VdevStatus};

use crate::Failure;

fn state_name(state: u64) -> &'static str {
    match state {
        0 => "ACTIVE (in use, or not exported)",
        1 => "EXPORTED",
        2 => "DESTROYED",
        _ => "UNKNOWN",
    }
}

pub fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Host("standard output".into(), error)),
        _ => Ok(()),
    }
}

pub fn import(devices: &[Box<dyn BlockDev>], json: bool) -> Result<(), Failure> {
    let found = pool_spa::scan(devices);
    if json {
        let pools: Vec<_> = found
            .iter()
            .map(|pool| serde_json::json!({ "name": pool.name, "guid": pool.guid.to_string(), "state": pool.state, "devices": pool.devices.len() }))
            .collect();
        return print(&format!("{}\n", serde_json::Value::from(pools)));
    }
    if found.is_empty() {
        return Err(Failure::Request("no pools are on the given devices".into()));
    }
    for pool in found {
        let count = pool.devices.len();
        print(&format!("   pool: {}\n     id: {}\n  state: {}\ndevices: {count} of the given\n\n", pool.name, pool.guid, state_name(pool.state)))?;
    }
    Ok(())
}

fn tree(vdev: &VdevStatus, depth: usize, out: &mut String) {
    let counts = vdev.leaf.as_ref().map(|leaf| leaf.counts).unwrap_or_default();
    let label = format!("{:indent$}{}", "", vdev.name, indent = depth * 2);
    let errors = format!("{:5} {:5} {:5}", counts.read_errors, counts.write_errors, counts.checksum_errors);
    let missing = vdev.leaf.as_ref().map_or(0, |leaf| leaf.missing_txgs);
    let note = if missing > 0 { format!("  {missing} txgs to resilver") } else { String::new() };
    out.push_str(&format!("\t{label:<40} {:<9} {errors}{note}\n", vdev.state.name()));
    vdev.children.iter().for_each(|child| tree(child, depth + 1, out));
}

pub fn vdevs(pool: &Pool) -> String {
    let mut out = format!("config:\n\n\t{:<40} {:<9} {:>5} {:>5} {:>5}\n\t{}\n", "NAME", "STATE", "READ", "WRITE", "CKSUM", pool.name());
    for top in pool.status() {
        tree(&top, 1, &mut out);
    }
    out
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Table,
    /// Tabs, no header.
    Scripted,
    Json,
}

impl Form {
    pub const fn new(scripted: bool, json: bool) -> Self {
        if json {
            Self::Json
        } else if scripted {
            Self::Scripted
        } else {
            Self::Table
        }
    }
}

fn vdev_json(vdev: &VdevStatus) -> serde_json::Value {
    let mut out = serde_json::json!({ "name": vdev.name, "state": vdev.state.name() });
    if let Some(leaf) = &vdev.leaf {
        let counts = &leaf.counts;
        out["read_errors"] = counts.read_errors.into();
        out["write_errors"] = counts.write_errors.into();
        out["checksum_errors"] = counts.checksum_errors.into();
        out["txgs_to_resilver"] = leaf.missing_txgs.into();
    }
    if !vdev.children.is_empty() {
        out["children"] = vdev.children.iter().map(vdev_json).collect();
    }
    out
}

pub fn status(pool: &Pool, json: bool) -> Result<(), Failure> {
    let about = |error| Failure::Pool(pool.name().into(), error);
    let datasets = Datasets::open(pool).map_err(about)?;
    let features = datasets.features().map_err(about)?;
    let unwritable = unwritable(&datasets).map_err(about)?;
    if json {
        let features: Vec<_> = features.iter().map(|(name, count, read)| serde_json::json!({ "guid": name, "uses": count, "needed_to_read": read })).collect();
        let vdevs: Vec<_> = pool.status().iter().map(vdev_json).collect();
        let whole = serde_json::json!({
            "name": pool.name(), "guid": pool.guid().to_string(), "state": pool.state(), "txg": pool.uberblock().txg,
            "vdevs": vdevs, "features": features, "not_writable_for": unwritable,
        });
        return print(&format!("{whole}\n"));
    }
    let mut out = format!(
        "  pool: {}\n    id: {}\n state: {}\n   txg: {}\n",
        pool.name(),
        pool.guid(),
        state_name(pool.state()),
        pool.uberblock().txg
    );
    out.push_str(&vdevs(pool));
    out.push_str("\nfeatures (active ones with their counts):\n");
    for (name, count, read) in features {
        let state = if count == 0 { String::from("enabled") } else { format!("active ({count})") };
        out.push_str(&format!("\t{name:<40} {state:<12} {}\n", if read { "needed to read" } else { "needed to write" }));
    }
    if !unwritable.is_empty() {
        out.push_str(&format!("\nThe pool can be read, and not be written: we do not write {}.\n", unwritable.join(", ")));
    }
    print(&out)
}

/// A line of `list`: name, bytes in all and in use, health.
pub type PoolSize = (String, u64, u64, String);

/// How large a pool is and how full.
pub fn size_of(pool: &Pool) -> Result<PoolSize, Failure> {
    let (free, total) = pool_dmu::free_total(pool).map_err(|error| Failure::Change(pool.name().into(), error))?;
    Ok((pool.name().into(), total, total - free, pool.health().name().into()))
}

pub fn pools(pools: &[PoolSize], form: Form, parsable: bool) -> Result<(), Failure> {
    if form == Form::Json {
        let rows: Vec<_> = pools
            .iter()
            .map(|(name, size, used, health)| serde_json::json!({ "name": name, "size": size, "allocated": used, "free": size - used, "health": health }))
            .collect();
        return print(&format!("{}\n", serde_json::Value::from(rows)));
    }
    let show = |bytes: u64| if parsable { bytes.to_string() } else { human(bytes) };
    let width = pools.iter().map(|(name, ..)| name.len()).max().unwrap_or(4).max(4);
    let mut out = if form == Form::Table { format!("{:<width$}  {:>6}  {:>6}  {:>6}  {:>4}  HEALTH\n", "NAME", "SIZE", "ALLOC", "FREE", "CAP") } else { String::new() };
    for (name, size, used, health) in pools {
        let percent = (used * 100).checked_div(*size).unwrap_or(0);
        let cap = if parsable { percent.to_string() } else { format!("{percent}%") };
        let (all, taken, free) = (show(*size), show(*used), show(size - used));
        out.push_str(&match form {
            Form::Table => format!("{name:<width$}  {all:>6}  {taken:>6}  {free:>6}  {cap:>4}  {health}\n"),
            _ => [name, &all, &taken, &free, &cap, health].map(String::as_str).join("\t") + "\n",
        });
    }
    print(&out)
}

pub fn datasets(pool: &Pool, start: Option<&str>, form: Form, parsable: bool) -> Result<(), Failure> {
    let start = start.unwrap_or(pool.name());
    let about = |error| Failure::Pool(start.into(), error);
    let tree = Datasets::open(pool).map_err(about)?;
    let size = |bytes: u64| if parsable || form == Form::Json { bytes.to_string() } else { human(bytes) };
    let mut rows = Vec::new();
    for info in tree.list(start).map_err(about)? {
        let kind = match info.kind {
            DatasetKind::Filesystem => "filesystem",
            DatasetKind::Volume => "volume",
            DatasetKind::Snapshot => "snapshot",
        };
        let origin = info.origin.unwrap_or_else(|| "-".into());
        rows.push([info.name, size(info.used_bytes), size(info.dataset.referenced_bytes), kind.into(), origin]);
    }
    let mut out = String::new();
    if form == Form::Json {
        let rows: Vec<_> = rows
            .iter()
            .map(|[name, used, refer, kind, origin]| serde_json::json!({ "name": name, "used": used, "referenced": refer, "type": kind, "origin": origin }))
            .collect();
        return print(&format!("{}\n", serde_json::Value::from(rows)));
    }
    if form == Form::Scripted {
        for row in &rows {
            out.push_str(&format!("{}\n", row.join("\t")));
        }
        return print(&out);
    }
    let width = rows.iter().map(|row| row[0].len()).max().unwrap_or(4).max(4);
    out.push_str(&format!("{:<width$}  {:>6}  {:>6}  {:<10}  ORIGIN\n", "NAME", "USED", "REFER", "TYPE"));
    for [name, used, refer, kind, origin] in &rows {
        out.push_str(&format!("{name:<width$}  {used:>6}  {refer:>6}  {kind:<10}  {origin}\n"));
    }
    print(&out)
}

pub fn properties(pool: &Pool, dataset: &str, form: Form) -> Result<(), Failure> {
    let about = |error| Failure::Pool(dataset.into(), error);
    let tree = Datasets::open(pool).map_err(about)?;
    let info = tree.find(dataset).map_err(about)?;
    let mut rows = Vec::new();
    for property in tree.properties(&info).map_err(about)? {
        let source = match property.source {
            Source::Local => "local".into(),
            Source::Received => "received".into(),
            Source::Inherited(from) => format!("inherited from {from}"),
        };
        rows.push([property.name, property.value, source]);
    }
    let out: String = match form {
        Form::Json => {
            let rows: Vec<_> = rows.iter().map(|[name, value, source]| serde_json::json!({ "property": name, "value": value, "source": source })).collect();
            format!("{}\n", serde_json::Value::from(rows))
        }
        Form::Scripted => rows.iter().map(|row| format!("{}\n", row.join("\t"))).collect(),
        Form::Table => {
            let header = format!("{:<24} {:<32} SOURCE\n", "PROPERTY", "VALUE (as stored)");
            core::iter::once(header).chain(rows.iter().map(|[name, value, source]| format!("{name:<24} {value:<32} {source}\n"))).collect()
        }
    };
    print(&out)
}

#[cfg(test)]
mod tests {
    use pool_dmu::human;

    #[test]
    fn sizes_print_as_zfs_prints_them() {
        for (bytes, text) in [(0, "0B"), (1023, "1023B"), (1024, "1K"), (229_376, "224K"), (14_680_064, "14M"), (1_510_000, "1.44M"), (u64::MAX, "16.0E")] {
            assert_eq!(human(bytes), text);
        }
    }
}
