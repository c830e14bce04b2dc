//! Properties: what there is, what is set where, and what `zfs get` shows.
//!
//! # Theory
//! A directory's table has what was set there: `name`, or `name$recvd` from a received stream; `name$inherit` hides the received value. What is not set
//! comes from the directory above, if the property is inherited at all, else it has its default. The properties in [`TABLE`] have a form, in which they are
//! stored and shown; names with a colon are the user's, and are text.
//!
//! # Who obeys what `zfs set` accepts
//! | property | obeyed by |
//! |---|---|
//! | compression: on, off, lz4, lzjb, zle, gzip, gzip-1 to -9, zstd | this crate, for blocks written from then on (zstd at its fastest level; needs the feature) |
//! | checksum: on, off, fletcher2, fletcher4, sha256, sha512 | this crate, for data; metadata has fletcher4 (sha512 needs the feature) |
//! | recordsize: 512 to 128K, to 1M with `large_blocks` | `pool-zpl`, for new files |
//! | copies, `redundant_metadata` | this crate |
//! | quota, reservation, refquota, refreservation | this crate (`quota.rs`) |
//! | `filesystem_limit`, `snapshot_limit` | this crate, for callers it is told to hold to them ([`Store::enforce_counts`]) |
//! | logbias: throughput | this crate: a sync is a commit |
//! | sync: disabled, always | this crate ([`Store::log_sync`]); for always the file system asks [`Store::is_always_synced`] |
//! | userquota@, groupquota@ (and of files: userobjquota@, where the pool counts them) | this crate (`owned.rs`), when something is written |
//! | mountpoint, canmount, readonly, atime, relatime, exec, setuid, devices, zoned, overlay, snapdir | who mounts: `pool-fs` in the kernel, nobody on the host |
//! | xattr: on, dir, sa | who sets one: both kinds are read everywhere |
//! | primarycache, secondarycache | `second`, and whoever keeps pages |
//! | acltype, aclmode, aclinherit, mlslabel, sharenfs, sharesmb, volmode, snapdev | stored and shown; the mode is the only access control, nothing is shared |
//! | dedup, dnodesize, `special_small_blocks` (other than off, legacy, 0), vscan, nbmand (on), other checksums and compressions | refused by name |

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use ::ds::Civil;
use pool_phys::blkptr::{Checksum, Compression};
use pool_phys::nvlist::Value;
use pool_phys::zap::Entry;

use crate::datasets::{DatasetInfo, DatasetKind, Source};
use crate::dsl::{dir, ds, word};
use crate::edit::EditError;
use crate::look::{Look, dataset_name, dir_name};
use crate::owned::OwnedProperty;
use crate::features::{LARGE_BLOCKS, SHA512, ZSTD};
use crate::store::{SMALL_BLOCK_MAX, Store};
use crate::zap_edit as zap;
use crate::{Datasets, Error};

/// How a value is stored and shown.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// A size in bytes; 0 is none.
    Size,
    /// A count; the largest is none.
    Count,
    /// Powers of two within limits.
    Power(u64, u64),
    Words(&'static [(u64, &'static str)]),
    Text,
}

/// Where a settable property counts.
const FILES: u8 = 1;
const VOLUME: u8 = 2;
const BOTH: u8 = 3;
const SNAPSHOT: u8 = 4;

/// A property that can be set.
struct Row {
    name: &'static str,
    form: Form,
    /// Number, or text, when it is nowhere set.
    number: u64,
    text: &'static str,
    inherited: bool,
    kinds: u8,
}

const fn words(name: &'static str, values: &'static [(u64, &'static str)], number: u64, kinds: u8) -> Row {
    Row { name, form: Form::Words(values), number, text: "", inherited: true, kinds }
}

const fn own_size(name: &'static str, kinds: u8) -> Row {
    Row { name, form: Form::Size, number: 0, text: "", inherited: false, kinds }
}

const ON_OFF: &[(u64, &str)] = &[(1, "on"), (0, "off")];
const CACHE: &[(u64, &str)] = &[(0, "none"), (1, "metadata"), (2, "all")];
const CHECKSUM: &[(u64, &str)] = &[(1, "on"), (2, "off"), (6, "fletcher2"), (7, "fletcher4"), (8, "sha256"), (10, "noparity"), (11, "sha512"), (12, "skein"), (13, "edonr")];
const COMPRESSION: &[(u64, &str)] = &[
    (1, "on"),
    (2, "off"),
    (3, "lzjb"),
    (10, "gzip"),
    (4, "empty"),
    (5, "gzip-1"),
    (6, "gzip-2"),
    (7, "gzip-3"),
    (8, "gzip-4"),
    (9, "gzip-5"),
    (10, "gzip-6"),
    (11, "gzip-7"),
    (12, "gzip-8"),
    (13, "gzip-9"),
    (14, "zle"),
    (15, "lz4"),
    (16, "zstd"),
];
const DNODE_SIZE: &[(u64, &str)] = &[(0, "legacy"), (1, "auto"), (1024, "1k"), (2048, "2k"), (4096, "4k"), (8192, "8k"), (16384, "16k")];

/// Bytes written since a snapshot: `written@monday`.
const WRITTEN_SINCE: &str = "written@";

/// Settable properties, in the order `zfs get all` has them.
const TABLE: [Row; 40] = [
    own_size("quota", FILES | VOLUME),
    own_size("reservation", BOTH),
    Row { name: "recordsize", form: Form::Power(512, 1 << 20), number: 128 << 10, text: "", inherited: true, kinds: FILES },
    Row { name: "mountpoint", form: Form::Text, number: 0, text: "", inherited: true, kinds: FILES },
    Row { name: "sharenfs", form: Form::Text, number: 0, text: "off", inherited: true, kinds: FILES },
    words("checksum", CHECKSUM, 1, BOTH),
    words("compression", COMPRESSION, 2, BOTH),
    words("atime", ON_OFF, 1, FILES),
    words("devices", ON_OFF, 1, FILES | SNAPSHOT),
    words("exec", ON_OFF, 1, FILES | SNAPSHOT),
    words("setuid", ON_OFF, 1, FILES | SNAPSHOT),
    words("readonly", ON_OFF, 0, BOTH),
    words("zoned", ON_OFF, 0, FILES),
    words("snapdir", &[(0, "hidden"), (1, "visible")], 0, FILES),
    words("aclmode", &[(0, "discard"), (2, "groupmask"), (3, "passthrough"), (4, "restricted")], 0, FILES),
    words("aclinherit", &[(0, "discard"), (1, "noallow"), (4, "restricted"), (3, "passthrough"), (5, "passthrough-x")], 4, FILES),
    Row { name: "canmount", form: Form::Words(&[(0, "off"), (1, "on"), (2, "noauto")]), number: 1, text: "", inherited: false, kinds: FILES },
    words("xattr", &[(1, "on"), (0, "off"), (2, "sa"), (1, "dir")], 1, FILES | SNAPSHOT),
    words("copies", &[(1, "1"), (2, "2"), (3, "3")], 1, BOTH),
    words("vscan", ON_OFF, 0, FILES),
    words("nbmand", ON_OFF, 0, FILES | SNAPSHOT),
    Row { name: "sharesmb", form: Form::Text, number: 0, text: "off", inherited: true, kinds: FILES },
    own_size("refquota", FILES),
    own_size("refreservation", BOTH),
    words("primarycache", CACHE, 2, BOTH | SNAPSHOT),
    words("secondarycache", CACHE, 2, BOTH | SNAPSHOT),
    words("logbias", &[(0, "latency"), (1, "throughput")], 0, BOTH),
    words("dedup", &[(2, "off"), (1, "on"), (8, "sha256")], 2, BOTH),
    Row { name: "mlslabel", form: Form::Text, number: 0, text: "none", inherited: true, kinds: BOTH | SNAPSHOT },
    words("sync", &[(0, "standard"), (1, "always"), (2, "disabled")], 0, BOTH),
    words("dnodesize", DNODE_SIZE, 0, FILES),
    words("volmode", &[(0, "default"), (1, "full"), (2, "dev"), (3, "none")], 0, BOTH),
    Row { name: "filesystem_limit", form: Form::Count, number: u64::MAX, text: "", inherited: false, kinds: FILES },
    Row { name: "snapshot_limit", form: Form::Count, number: u64::MAX, text: "", inherited: false, kinds: BOTH },
    words("snapdev", &[(0, "hidden"), (1, "visible")], 0, BOTH),
    words("acltype", &[(0, "off"), (1, "posix"), (2, "nfsv4")], 0, FILES | SNAPSHOT),
    words("relatime", ON_OFF, 0, FILES),
    words("redundant_metadata", &[(0, "all"), (1, "most")], 0, BOTH),
    words("overlay", ON_OFF, 1, FILES),
    Row { name: "special_small_blocks", form: Form::Size, number: 0, text: "", inherited: true, kinds: FILES },
];

/// A property as `zfs get` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub name: String,
    /// For people: sizes to three digits.
    pub value: String,
    /// For programs (`-p`).
    pub exact: String,
    /// `-`, `default`, `local`, `received` or `inherited from NAME`.
    pub source: String,
}

fn row(name: &str) -> Option<&'static Row> {
    let name = match name {
        "compress" => "compression",
        "recsize" => "recordsize",
        "refreserv" => "refreservation",
        "reserv" => "reservation",
        name => name,
    };
    TABLE.iter().find(|row| row.name == name)
}

/// The full name of a property that may be written short, as `refer`.
#[must_use]
pub fn full_name(name: &str) -> &str {
    match name {
        "refer" => "referenced",
        "avail" => "available",
        "rdonly" => "readonly",
        "mounted" => "mounted",
        "ratio" => "compressratio",
        "usedds" => "usedbydataset",
        "usedsnap" => "usedbysnapshots",
        "usedchild" => "usedbychildren",
        "usedrefreserv" => "usedbyrefreservation",
        "volblock" => "volblocksize",
        name => row(name).map_or(name, |row| row.name),
    }
}

/// True for a property or fact that `zfs get` knows.
#[must_use]
pub fn is_property(name: &str) -> bool {
    name == "name" || ORDER.contains(&name) || OwnedProperty::split(name).is_some() || name.starts_with(WRITTEN_SINCE)
}

/// True for what is a number, and stands to the right in a column.
#[must_use]
pub fn is_number(name: &str) -> bool {
    let facts = ["used", "available", "referenced", "compressratio", "refcompressratio", "createtxg", "guid", "objsetid", "written", "userrefs", "volsize", "volblocksize", "version"];
    let form = row(name).map(|row| row.form);
    facts.contains(&name) || name.starts_with("usedby") || name.starts_with("logical") || matches!(form, Some(Form::Size | Form::Count | Form::Power(..)))
}

/// Bytes for people, as OpenZFS writes them: three digits and a suffix.
#[must_use]
pub fn human(bytes: u64) -> String {
    let index = (bytes.max(1).ilog2() / 10).min(6);
    if index == 0 {
        return format!("{bytes}B");
    }
    let suffix = ["B", "K", "M", "G", "T", "P", "E"][usize::try_from(index).unwrap_or(0)];
    let unit = 1_u128 << (10 * index);
    let bytes = u128::from(bytes);
    if bytes.is_multiple_of(unit) {
        return format!("{}{suffix}", bytes / unit);
    }
    for digits in [2_usize, 1, 0] {
        let scale = [1, 10, 100][digits];
        // As printf rounds: to the nearest, a tie to the even one.
        let (down, rest) = (bytes * scale / unit, bytes * scale % unit);
        let scaled = down + u128::from(rest * 2 > unit || rest * 2 == unit && down & 1 == 1);
        let text = if digits == 0 { format!("{scaled}{suffix}") } else { format!("{}.{:0digits$}{suffix}", scaled / scale, scaled % scale) };
        if text.len() <= 5 || digits == 0 {
            return text;
        }
    }
    String::new()
}

/// Bytes from a text with a suffix: `10M`, `1.5G`, `512`.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let upper = text.trim().to_ascii_uppercase();
    let plain = upper.strip_suffix('B').filter(|rest| rest.ends_with(|letter: char| letter.is_ascii_alphanumeric())).unwrap_or(&upper);
    let plain = plain.strip_suffix('I').unwrap_or(plain);
    let (digits, shift) = match plain.chars().last()? {
        letter if letter.is_ascii_digit() => (plain, 0),
        letter => (plain.strip_suffix(letter)?, 10 * (1 + "KMGTPE".find(letter)?)),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let whole: u128 = whole.parse().ok()?;
    let mut bytes = whole << shift;
    if !part.is_empty() && part.len() <= 9 {
        let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
        bytes += (part.parse::<u128>().ok()? << shift) / scale;
    }
    u64::try_from(bytes).ok()
}

/// A property's value as stored, from the text that `zfs set` is given.
///
/// # Errors
/// No such property, or no such value.
pub fn parse_property(name: &str, text: &str) -> Result<Value, EditError> {
    if name.contains(':') {
        return if text.len() < 8192 && name.len() < 256 { Ok(Value::Text(text.to_string())) } else { Err(EditError::Invalid("a user property is too long")) };
    }
    if OwnedProperty::split(name).is_some() {
        return crate::owned::parse_quota(name, text);
    }
    let row = row(name).ok_or(EditError::Invalid("no such property, or it cannot be set"))?;
    let bad = EditError::Invalid("not a value of this property");
    match row.form {
        Form::Text => Ok(Value::Text(text.to_string())),
        Form::Size if text == "none" => Ok(Value::Number(0)),
        Form::Count if text == "none" => Ok(Value::Number(u64::MAX)),
        Form::Size | Form::Count | Form::Power(..) => parse_size(text).map(Value::Number).ok_or(bad),
        Form::Words(values) => values.iter().find(|(_, word)| *word == text).map(|(value, _)| Value::Number(*value)).ok_or(bad),
    }
}

/// What [`parse_property`] takes, for whoever gave something else.
#[must_use]
pub fn hint(name: &str) -> String {
    if OwnedProperty::split(name).is_some() {
        return String::from("userquota@NAME=10G, groupobjquota@NAME=5000, or none");
    }
    match row(name).map(|row| row.form) {
        None => String::from("'zfs get all' shows what there is; a property of one's own has a colon in its name"),
        Some(Form::Size) => String::from("a size such as 512M or 1.5G, or none"),
        Some(Form::Count) => String::from("a number, or none"),
        Some(Form::Power(least, most)) => format!("a power of two from {} to {}", human(least), human(most)),
        Some(Form::Words(values)) => values.iter().map(|(_, word)| *word).collect::<Vec<_>>().join(" | "),
        Some(Form::Text) => String::from("a text"),
    }
}

fn check_value(name: &str, value: &Value) -> Result<(), EditError> {
    if name.contains(':') {
        return Ok(());
    }
    let Some(row) = row(name) else { return Ok(()) };
    let bad = Err(EditError::Invalid("not a value of this property"));
    match (row.form, value) {
        (Form::Words(values), Value::Number(number)) if !values.iter().any(|(known, _)| known == number) => bad,
        (Form::Power(least, most), Value::Number(number)) if !number.is_power_of_two() || !(least..=most).contains(number) => bad,
        (Form::Text, Value::Number(_)) | (Form::Words(_) | Form::Size | Form::Count | Form::Power(..), Value::Text(_)) => bad,
        (Form::Text, Value::Text(text)) if name == "mountpoint" && !(text.starts_with('/') || text == "none" || text == "legacy") => {
            Err(EditError::Invalid("a mount point is a path from the root, none or legacy"))
        }
        _ => Ok(()),
    }
}

/// How a head's data is stored and synced: its properties as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    pub compression: Compression,
    pub copies: usize,
    /// Of data blocks; metadata has fletcher4.
    pub checksum: Checksum,
    /// Largest block of a new file.
    pub record_size: u64,
    /// All metadata has one copy more than data, not only that above a lot of data.
    pub redundant: bool,
    pub sync: SyncStyle,
    /// Every change is made durable at once.
    pub always_sync: bool,
    /// What stays in memory, and what may go to cache devices.
    pub primary: Cached,
    pub secondary: Cached,
}

/// What of a dataset a cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    All,
    Metadata,
    None,
}

/// What making a dataset durable does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncStyle {
    /// Writes the intent log.
    Log,
    /// Commits: data goes to its own place at once (`logbias=throughput`).
    Commit,
    /// Nothing (`sync=disabled`).
    Never,
}

/// What is set for a property: the entry, and where. `snapshot` is a snapshot's own table, or 0.
fn stored(look: &dyn Look, directory: u64, snapshot: u64, name: &str, inherited: bool) -> Result<Option<(Entry, Source)>, Error> {
    if snapshot != 0
        && let Some(entry) = look.one(snapshot, name)?
    {
        return Ok(Some((entry, Source::Local)));
    }
    let mut at = directory;
    let mut depth = 0;
    while at != 0 && depth <= crate::dsl::DEPTH_MAX + 1 {
        let bonus = look.words(at)?;
        let table = word(&bonus, dir::PROPS);
        let is_own = depth == 0 && snapshot == 0;
        let from = |own: Source| if is_own { Ok(own) } else { dir_name(look, at).map(Source::Inherited) };
        if let Some(entry) = look.one(table, name)? {
            return Ok(Some((entry, from(Source::Local)?)));
        }
        if look.one(table, &format!("{name}$inherit"))?.is_none()
            && let Some(entry) = look.one(table, &format!("{name}$recvd"))?
        {
            return Ok(Some((entry, from(Source::Received)?)));
        }
        if !inherited {
            break;
        }
        at = word(&bonus, dir::PARENT);
        depth += 1;
    }
    Ok(None)
}

fn text_of(entry: &Entry) -> String {
    match entry.bytes() {
        Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        None => entry.number().unwrap_or(0).to_string(),
    }
}

/// A number as set at a directory or above it.
fn inherited(look: &dyn Look, directory: u64, name: &str) -> Result<Option<u64>, Error> {
    Ok(stored(look, directory, 0, name, true)?.and_then(|(entry, _)| entry.number()))
}

/// What is set at a directory and at those above it, nearest first: for whoever asks for many properties.
struct Chain(Vec<Vec<Entry>>);

impl Chain {
    fn of(look: &dyn Look, directory: u64) -> Result<Self, Error> {
        let (mut tables, mut at) = (Vec::new(), directory);
        while at != 0 && tables.len() <= crate::dsl::DEPTH_MAX + 1 {
            let bonus = look.words(at)?;
            tables.push(look.all(word(&bonus, dir::PROPS))?);
            at = word(&bonus, dir::PARENT);
        }
        Ok(Self(tables))
    }

    /// As of [`inherited`].
    fn number(&self, name: &str) -> Option<u64> {
        let (cut, received) = (format!("{name}$inherit"), format!("{name}$recvd"));
        for table in &self.0 {
            let find = |name: &str| table.iter().find(|entry| entry.name == name.as_bytes());
            let found = find(name).or_else(|| if find(&cut).is_none() { find(&received) } else { None });
            if let Some(entry) = found {
                return entry.number();
            }
        }
        None
    }
}

fn source_text(source: &Source) -> String {
    match source {
        Source::Local => String::from("local"),
        Source::Received => String::from("received"),
        Source::Inherited(from) => format!("inherited from {from}"),
    }
}

/// A UTC time as `zfs get creation` writes it.
#[must_use]
pub fn date(seconds: u64) -> String {
    let civil = Civil::from_seconds(seconds);
    let Civil { year, day, hour, minute, .. } = civil;
    format!("{} {} {day:>2} {hour:>2}:{minute:02} {year}", civil.weekday_name(), civil.month_name())
}

fn shown(name: &str, value: String, exact: String, source: &str) -> Shown {
    Shown { name: name.to_string(), value, exact, source: source.to_string() }
}

/// A plain fact about a dataset.
fn fact(name: &str, value: impl ToString) -> Shown {
    let value = value.to_string();
    shown(name, value.clone(), value, "-")
}

fn size_fact(name: &str, bytes: u64) -> Shown {
    shown(name, human(bytes), bytes.to_string(), "-")
}

fn ratio(name: &str, logical: u64, stored: u64) -> Shown {
    let hundredths = (u128::from(logical) * 100).checked_div(u128::from(stored)).unwrap_or(100);
    let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    shown(name, format!("{text}x"), text, "-")
}

/// All facts and properties, in the order of `zfs get all`; where a name is of a property that can be set, its row says how.
const ORDER: [&str; 72] = [
    "type", "creation", "used", "available", "referenced", "compressratio", "mounted", "origin", "quota", "reservation", "volsize", "volblocksize", "recordsize", "mountpoint",
    "sharenfs", "checksum", "compression", "atime", "devices", "exec", "setuid", "readonly", "zoned", "snapdir", "aclmode", "aclinherit", "createtxg", "canmount", "xattr",
    "copies", "version", "utf8only", "normalization", "casesensitivity", "vscan", "nbmand", "sharesmb", "refquota", "refreservation", "guid", "primarycache",
    "secondarycache", "usedbysnapshots", "usedbydataset", "usedbychildren", "usedbyrefreservation", "defer_destroy", "userrefs", "logbias", "objsetid", "dedup", "mlslabel", "sync", "dnodesize",
    "refcompressratio", "written", "clones", "logicalused", "logicalreferenced", "volmode", "filesystem_limit", "snapshot_limit", "filesystem_count", "snapshot_count",
    "snapdev", "acltype", "relatime", "redundant_metadata", "overlay", "special_small_blocks", "inconsistent", "receive_resume_token",
];

impl Datasets<'_> {
    /// Numbers that properties have at a dataset or inherit, `None` where nothing is set: for whoever wants several, of which the tables above are read once.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn settings<const N: usize>(&self, info: &DatasetInfo, names: [&str; N]) -> Result<[Option<u64>; N], Error> {
        let chain = Chain::of(self, info.dir)?;
        Ok(names.map(|name| chain.number(name)))
    }

    /// One property or fact of a dataset as `zfs get` shows it; `None` where it does not apply.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn show(&self, info: &DatasetInfo, name: &str) -> Result<Option<Shown>, Error> {
        let name = full_name(name);
        let kind = match info.kind {
            DatasetKind::Filesystem => FILES,
            DatasetKind::Volume => VOLUME,
            DatasetKind::Snapshot => SNAPSHOT,
        };
        let table = if kind == SNAPSHOT { word(&self.words(info.object)?, ds::PROPS) } else { 0 };
        // A snapshot has what its dataset has, even without a table of its own.
        let marker = if kind == SNAPSHOT { table.max(1) } else { 0 };
        let find = |name: &str, inherited: bool| {
            if marker != 0 && table == 0 { stored_above(self, info.dir, name) } else { stored(self, info.dir, table, name, inherited) }
        };
        if name.contains(':') {
            return Ok(find(name, true)?.map(|(entry, source)| shown(name, text_of(&entry), text_of(&entry), &source_text(&source))));
        }
        if let Some(property) = OwnedProperty::parse(name) {
            return self.show_owned(info, name, property);
        }
        let Some(row) = row(name) else { return self.fact(info, name) };
        if row.kinds & kind == 0 {
            return Ok(None);
        }
        let found = find(row.name, row.inherited)?;
        if row.name == "mountpoint" {
            return Ok(Some(mountpoint(info, found)));
        }
        let source = found.as_ref().map_or(String::from("default"), |(_, source)| source_text(source));
        let number = found.as_ref().and_then(|(entry, _)| entry.number()).unwrap_or(row.number);
        let (value, exact) = match row.form {
            Form::Text => {
                let text = found.map_or(row.text.to_string(), |(entry, _)| text_of(&entry));
                (text.clone(), text)
            }
            Form::Size if number == 0 && row.name != "special_small_blocks" => (String::from("none"), String::from("0")),
            Form::Size if number == 0 => (String::from("0"), String::from("0")),
            Form::Count if number == u64::MAX => (String::from("none"), number.to_string()),
            Form::Size | Form::Power(..) => (human(number), number.to_string()),
            Form::Count => (number.to_string(), number.to_string()),
            Form::Words(values) => {
                let text = values.iter().find(|(value, _)| *value == number).map_or(number.to_string(), |(_, word)| (*word).to_string());
                (text.clone(), text)
            }
        };
        Ok(Some(shown(row.name, value, exact, &source)))
    }

    fn fact(&self, info: &DatasetInfo, name: &str) -> Result<Option<Shown>, Error> {
        let own = &info.dataset;
        let is_snapshot = info.kind == DatasetKind::Snapshot;
        let space = self.space(info)?;
        let head_only = |shown: Shown| (!is_snapshot).then_some(shown);
        let set = || self.open_dataset(info).ok();
        let in_table = |table: u64, name: &str| set().and_then(|set| set.lookup_number(table, name).ok());
        let is_files = set().is_some_and(|set| set.kind() == pool_phys::objset::ObjsetKind::Zpl);
        let is_volume = set().is_some_and(|set| set.kind() == pool_phys::objset::ObjsetKind::Zvol);
        Ok(match name {
            "type" => Some(fact(name, match info.kind { DatasetKind::Filesystem => "filesystem", DatasetKind::Volume => "volume", DatasetKind::Snapshot => "snapshot" })),
            "name" => Some(fact(name, &info.name)),
            "creation" => Some(shown(name, date(own.creation_time), own.creation_time.to_string(), "-")),
            "used" => Some(size_fact(name, space.used)),
            "available" => head_only(size_fact(name, space.available)),
            "referenced" => Some(size_fact(name, space.referenced)),
            "compressratio" if is_snapshot => Some(ratio(name, space.logical_referenced, space.compressed_referenced)),
            "compressratio" => Some(ratio(name, space.logical_used, space.compressed_used)),
            "refcompressratio" => Some(ratio(name, space.logical_referenced, space.compressed_referenced)),
            "mounted" if is_files => head_only(fact(name, "no")),
            "origin" => info.origin.as_ref().map(|origin| fact(name, origin)),
            "createtxg" => Some(fact(name, own.creation_txg)),
            "guid" => Some(fact(name, own.guid)),
            "objsetid" => Some(fact(name, info.object)),
            "usedbysnapshots" => head_only(size_fact(name, space.by_snapshots)),
            "usedbydataset" => head_only(size_fact(name, space.by_dataset)),
            "usedbychildren" => head_only(size_fact(name, space.by_children)),
            "usedbyrefreservation" => head_only(size_fact(name, space.by_refreservation)),
            "logicalused" => head_only(size_fact(name, space.logical_used)),
            "logicalreferenced" => Some(size_fact(name, space.logical_referenced)),
            "written" => Some(size_fact(name, self.written(info)?)),
            since if since.starts_with(WRITTEN_SINCE) => {
                let snapshot = &since[WRITTEN_SINCE.len()..];
                self.written_since(info, snapshot)?.map(|bytes| Shown { source: String::from("local"), ..size_fact(name, bytes) })
            }
            "defer_destroy" if is_snapshot => Some(fact(name, if own.flags & ds::DEFER_DESTROY != 0 { "on" } else { "off" })),
            "userrefs" if is_snapshot => Some(fact(name, self.all(word(&self.words(info.object)?, ds::HOLDS))?.len())),
            "clones" if is_snapshot => Some(fact(name, self.clone_names(info)?.join(","))),
            "version" if is_files => in_table(1, "VERSION").map(|version| fact(name, version)),
            "utf8only" if is_files => Some(fact(name, if in_table(1, "utf8only") == Some(1) { "on" } else { "off" })),
            "normalization" if is_files => Some(fact(name, if in_table(1, "normalization").unwrap_or(0) == 0 { "none" } else { "formD" })),
            "casesensitivity" if is_files => {
                Some(fact(name, match in_table(1, "casesensitivity") { Some(1) => "insensitive", Some(2) => "mixed", _ => "sensitive" }))
            }
            "volsize" if is_volume => in_table(2, "size").map(|size| shown(name, human(size), size.to_string(), if is_snapshot { "-" } else { "local" })),
            "volblocksize" if is_volume => {
                let size = set().and_then(|set| set.object(1).ok().map(|object| object.dnode().block_size)).unwrap_or(0);
                head_only(shown(name, human(size), size.to_string(), if size == 8192 { "default" } else { "-" }))
            }
            "filesystem_count" | "snapshot_count" => head_only(shown(name, String::from("none"), u64::MAX.to_string(), "default")),
            "inconsistent" if own.flags & ds::INCONSISTENT != 0 => Some(fact(name, "yes")),
            _ => None,
        })
    }

    /// Bytes written since the snapshot before.
    fn written(&self, info: &DatasetInfo) -> Result<u64, Error> {
        let own = &info.dataset;
        let before = if own.previous_snapshot == 0 { 0 } else { word(&self.words(own.previous_snapshot)?, ds::REFERENCED) };
        let dead = if own.deadlist == 0 { 0 } else { word(&self.words(own.deadlist)?, 0) };
        Ok((own.referenced_bytes + dead).saturating_sub(before))
    }

    /// Bytes written since a snapshot of the same dataset (its short name is enough), or of one that it is a clone of; `None`: there is no such snapshot before it.
    fn written_since(&self, info: &DatasetInfo, snapshot: &str) -> Result<Option<u64>, Error> {
        let own = info.name.split('@').next().unwrap_or(&info.name);
        let full = if snapshot.contains('@') { snapshot.to_string() } else { format!("{own}@{snapshot}") };
        let since = match self.find(&full) {
            Ok(since) => since,
            Err(Error::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (mut at, mut bytes) = (info.object, info.dataset.referenced_bytes);
        let created = word(&self.words(since.object)?, ds::CREATED_TXG);
        // Each step goes to an older txg, so that a chain that lies ends, too.
        let mut before = u64::MAX;
        loop {
            let words = self.words(at)?;
            let deadlist = word(&words, ds::DEADLIST);
            let (previous, txg) = (word(&words, ds::PREVIOUS), word(&words, ds::PREVIOUS_TXG));
            bytes = bytes.saturating_add(match deadlist {
                0 => 0,
                // All that died behind the snapshot itself was in it.
                _ if previous == since.object => word(&self.words(deadlist)?, 0),
                _ => self.dead_before(deadlist, created)?,
            });
            if previous == since.object {
                return Ok(Some(bytes.saturating_sub(since.dataset.referenced_bytes)));
            }
            if previous == 0 || txg >= before {
                return Ok(None);
            }
            (at, before) = (previous, txg);
        }
    }

    /// Bytes of a deadlist born before `txg`, as its buckets tell.
    fn dead_before(&self, deadlist: u64, txg: u64) -> Result<u64, Error> {
        let mut bytes = 0_u64;
        for entry in self.all(deadlist)? {
            if u64::from_str_radix(&entry.text(), 16).is_ok_and(|from| from < txg) {
                bytes = bytes.saturating_add(word(&self.words(entry.number().unwrap_or(0))?, crate::lists::list::BYTES));
            }
        }
        Ok(bytes)
    }

    /// Names of the clones of a snapshot.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn clone_names(&self, info: &DatasetInfo) -> Result<Vec<String>, Error> {
        let mut out = Vec::new();
        for entry in self.all(word(&self.words(info.dir)?, dir::CLONES))? {
            let clone = entry.number().unwrap_or(0);
            if word(&self.words(word(&self.words(clone)?, ds::DIR))?, dir::ORIGIN) == info.object {
                out.push(dataset_name(self, clone)?);
            }
        }
        out.sort();
        Ok(out)
    }

    /// The value that a received stream brought for a property, whatever hides it.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn received(&self, info: &DatasetInfo, name: &str) -> Result<Option<String>, Error> {
        if info.kind == DatasetKind::Snapshot {
            return Ok(None);
        }
        let table = word(&self.words(info.dir)?, dir::PROPS);
        let Some(entry) = self.one(table, &format!("{name}$recvd"))? else { return Ok(None) };
        let word = match row(name).map(|row| row.form) {
            Some(Form::Words(values)) => values.iter().find(|(value, _)| entry.number() == Some(*value)).map(|(_, word)| (*word).to_string()),
            Some(Form::Size | Form::Power(..)) => entry.number().map(|number| if number == 0 { String::from("none") } else { human(number) }),
            _ => None,
        };
        Ok(Some(word.unwrap_or_else(|| text_of(&entry))))
    }

    /// All that `zfs get all` shows of a dataset, user properties last.
    ///
    /// # Errors
    /// Unreadable, malformed.
    pub fn show_all(&self, info: &DatasetInfo) -> Result<Vec<Shown>, Error> {
        let mut out = Vec::new();
        for name in ORDER {
            // Limits that are counted are shown where they count; a token by the receiver.
            out.extend(self.show(info, name)?);
        }
        let names = self.properties(info)?.into_iter().map(|property| property.name).filter(|name| name.contains(':'));
        for name in names {
            out.extend(self.show(info, &name)?);
        }
        Ok(out)
    }
}

/// What a snapshot inherits from its dataset, where it has no table of its own.
fn stored_above(look: &dyn Look, directory: u64, name: &str) -> Result<Option<(Entry, Source)>, Error> {
    let found = stored(look, directory, 0, name, true)?;
    Ok(match found {
        Some((entry, Source::Local | Source::Received)) => Some((entry, Source::Inherited(dir_name(look, directory)?))),
        other => other,
    })
}

fn mountpoint(info: &DatasetInfo, found: Option<(Entry, Source)>) -> Shown {
    let (path, source) = match found {
        None => (format!("/{}", info.name), String::from("default")),
        Some((entry, source)) => {
            let base = text_of(&entry);
            let path = match &source {
                Source::Inherited(from) if base.starts_with('/') => {
                    let rest = info.name.strip_prefix(from.as_str()).unwrap_or("");
                    format!("{}{rest}", base.trim_end_matches('/'))
                }
                _ => base,
            };
            (path, source_text(&source))
        }
    };
    shown("mountpoint", path.clone(), path, &source)
}

/// Whether what is not set comes from the dataset above.
fn is_inherited(name: &str) -> bool {
    name.contains(':') || row(name).is_some_and(|row| row.inherited)
}

/// Whether there is a property of this name that can be set.
#[must_use]
pub fn is_settable(name: &str) -> bool {
    let name = full_name(name);
    name.contains(':') || row(name).is_some() || OwnedProperty::parse(name).is_some()
}

impl Store {
    /// How data of a directory's head is stored. Values that the pool has no feature for count as if they were not set.
    pub(crate) fn style_of(&self, directory: u64) -> Result<Style, EditError> {
        let chain = Chain::of(self, directory)?;
        let number = |name: &str| Ok::<_, Error>(chain.number(name));
        let compression = match number("compression")? {
            Some(1 | 15) => Compression::Lz4,
            Some(3) => Compression::Lzjb,
            Some(level @ 5..=13) => Compression::Gzip(u8::try_from(level - 4).unwrap_or(6)),
            Some(14) => Compression::Zle,
            // The upper bits are the level.
            Some(zstd) if zstd & 0x7F == 16 => if self.feature(&ZSTD)?.is_some() { Compression::Zstd } else { Compression::Lz4 },
            _ => Compression::Off,
        };
        let checksum = match number("checksum")? {
            Some(2) => Checksum::Off,
            Some(6) => Checksum::Fletcher2,
            Some(8) => Checksum::Sha256,
            Some(11) if self.feature(&SHA512)?.is_some() => Checksum::Sha512,
            _ => Checksum::Fletcher4,
        };
        let copies = match number("copies")? {
            Some(copies @ 1..=3) => usize::try_from(copies).unwrap_or(1),
            _ => 1,
        };
        let largest = if self.feature(&LARGE_BLOCKS)?.is_some() { 1 << 20 } else { SMALL_BLOCK_MAX };
        let record_size = number("recordsize")?.filter(|size| size.is_power_of_two() && *size >= 512).unwrap_or(SMALL_BLOCK_MAX).min(largest);
        let sync = match (number("sync")?, number("logbias")?) {
            (Some(2), _) => SyncStyle::Never,
            (_, Some(1)) => SyncStyle::Commit,
            _ => SyncStyle::Log,
        };
        let cached = |name: &str| Ok::<_, Error>(match number(name)? {
            Some(0) => Cached::None,
            Some(1) => Cached::Metadata,
            _ => Cached::All,
        });
        let (primary, secondary) = (cached("primarycache")?, cached("secondarycache")?);
        Ok(Style { primary, secondary, compression, copies, checksum, record_size, redundant: number("redundant_metadata")? != Some(1), sync, always_sync: number("sync")? == Some(1) })
    }

    /// Values that mean something we do not do, or the pool cannot have, are refused when they are set by hand; a stream may bring them.
    fn check_supported(&self, name: &str, value: &Value) -> Result<(), EditError> {
        let Value::Number(number) = value else { return Ok(()) };
        let refusal = match (name, number) {
            ("checksum", 11) if self.feature(&SHA512)?.is_none() => "the pool does not have the feature sha512",
            ("checksum", 10 | 12..) => "this checksum cannot be written: fletcher2, fletcher4, sha256 and sha512 can",
            ("compression", 16) if self.feature(&ZSTD)?.is_none() => "the pool does not have the feature zstd_compress",
            ("compression", 4 | 17..) => "this compression cannot be written: lzjb, gzip, gzip-1 to gzip-9, zle, lz4 and zstd can",
            ("recordsize", size) if *size > SMALL_BLOCK_MAX && self.feature(&LARGE_BLOCKS)?.is_none() => "records above 128K need the feature large_blocks, which the pool does not have",
            ("dedup", value) if *value != 2 => "dedup is not supported: blocks are not shared between files",
            ("dnodesize", size) if *size != 0 => "dnodesize is always legacy: large dnodes are kept, and not made",
            ("special_small_blocks", size) if *size != 0 => "special_small_blocks needs special vdevs, which are not supported",
            ("vscan", 1) => "vscan is not supported: there is no scanner to ask",
            ("nbmand", 1) => "nbmand is not supported: locks are advisory",
            _ => return Ok(()),
        };
        Err(EditError::Invalid(refusal))
    }

    /// A numeric property of a dataset (by head) as it counts there: `None` where it is nowhere set.
    ///
    /// # Errors
    /// Not found, unreadable, malformed.
    pub fn property_number(&self, dataset: u64, name: &str) -> Result<Option<u64>, EditError> {
        Ok(inherited(self, self.peek(dataset, ds::DIR)?, name)?)
    }

    /// Sets a property of a dataset, or a user property of a snapshot, to a number or a text, as stored (format section 11.4), with the open txg.
    ///
    /// # Errors
    /// Not found, not a value of it; a quota below what is used, a reservation that has no room.
    pub fn set_property(&mut self, dataset: &str, name: &str, value: &Value) -> Result<(), EditError> {
        self.set_property_from(dataset, name, value, false)
    }

    /// As [`Store::set_property`]; `received`: as a stream brought it, which a value set by hand hides.
    ///
    /// # Errors
    /// As [`Store::set_property`].
    pub fn set_property_from(&mut self, dataset: &str, name: &str, value: &Value, received: bool) -> Result<(), EditError> {
        let name = full_name(name);
        if let Some(property) = OwnedProperty::parse(name) {
            return self.set_owned(dataset, property, value);
        }
        check_value(name, value)?;
        if !received {
            self.check_supported(name, value)?;
        }
        let (integer_size, words) = match value {
            Value::Number(number) => (8, vec![*number]),
            Value::Text(text) => (1, text.bytes().chain([0]).map(u64::from).collect()),
            _ => return Err(EditError::Invalid("a property is a number or a text")),
        };
        let key = if received { format!("{name}$recvd") } else { name.to_string() };
        let entry = Entry { name: key.into_bytes(), integer_size, value: words };
        self.change_property(dataset, name, |store, directory, table| {
            // A received value that is hidden by one set here changes nothing.
            let is_hidden = received && (store.one(table, name)?.is_some() || store.one(table, &format!("{name}$inherit"))?.is_some());
            if let Value::Number(number) = value
                && !is_hidden
            {
                store.limit_changed(directory, name, *number)?;
            }
            // What was inherited on purpose stays so, whatever a stream brings.
            if !received {
                store.remove_name(table, &format!("{name}$inherit"))?;
            }
            zap::set(store.mos.edit(&store.pool, table)?, &store.pool, entry)
        })
    }

    /// A stream brought a property that its receiver does not want (`zfs receive -x`): a value set by hand stays; else it is inherited, and the received value known but
    /// hidden. One that is not inherited is as if the stream did not have it.
    ///
    /// # Errors
    /// As [`Store::set_property`].
    pub fn receive_excluded(&mut self, dataset: &str, name: &str, value: &Value) -> Result<(), EditError> {
        let name = full_name(name);
        if !is_inherited(name) {
            return Ok(());
        }
        let cut = format!("{name}$inherit");
        self.change_property(dataset, name, |store, directory, table| {
            if store.one(table, name)?.is_some() {
                return Ok(());
            }
            store.limit_changed(directory, name, 0)?;
            zap::set(store.mos.edit(&store.pool, table)?, &store.pool, Entry { name: cut.into_bytes(), integer_size: 1, value: vec![0] })
        })?;
        self.set_property_from(dataset, name, value, true)
    }

    /// Lets a dataset inherit a property again, or with `to_received` have the value that a stream brought; with the open txg.
    ///
    /// # Errors
    /// Not found; it cannot be inherited.
    pub fn inherit_property(&mut self, dataset: &str, name: &str, to_received: bool) -> Result<(), EditError> {
        let name = full_name(name);
        if !to_received && !is_inherited(name) {
            return Err(EditError::Invalid("the property cannot be inherited"));
        }
        self.change_property(dataset, name, |store, directory, table| {
            let received = store.one(table, &format!("{name}$recvd"))?;
            let number = if to_received { received.as_ref().and_then(Entry::number).unwrap_or(0) } else { 0 };
            store.limit_changed(directory, name, number)?;
            store.remove_name(table, name)?;
            if received.is_some() && !to_received {
                let entry = Entry { name: format!("{name}$inherit").into_bytes(), integer_size: 1, value: vec![0] };
                return zap::set(store.mos.edit(&store.pool, table)?, &store.pool, entry);
            }
            store.remove_name(table, &format!("{name}$inherit")).map(drop)
        })
    }

    /// Calls `body` with the directory and the table of a dataset or snapshot, then lets open heads know.
    fn change_property(&mut self, dataset: &str, name: &str, body: impl FnOnce(&mut Self, u64, u64) -> Result<(), EditError>) -> Result<(), EditError> {
        self.try_change(|store| {
            store.check_headroom(2)?;
            let (directory, table) = if dataset.contains('@') {
                if !name.contains(':') {
                    return Err(EditError::Invalid("only user properties can be set on a snapshot"));
                }
                let snapshot = store.find_snapshot(dataset)?;
                (store.peek(snapshot, ds::DIR)?, store.table_of(snapshot, ds::PROPS, crate::dsl::PROPS)?)
            } else {
                let directory = store.find_dir(dataset)?;
                (directory, store.table_of(directory, dir::PROPS, crate::dsl::PROPS)?)
            };
            body(store, directory, table)
        })?;
        let heads: Vec<u64> = self.heads.keys().copied().collect();
        for head in heads {
            let directory = self.peek(head, ds::DIR)?;
            let style = self.style_of(directory)?;
            if let Some(head) = self.heads.get_mut(&head) {
                head.style = style;
            }
        }
        Ok(())
    }

    /// A property that limits or sets space aside has a new value.
    fn limit_changed(&mut self, directory: u64, name: &str, number: u64) -> Result<(), EditError> {
        match name {
            "quota" => self.set_quota(directory, number),
            "reservation" => self.set_reservation(directory, number),
            "refquota" if number != 0 && number < self.peek(self.peek(directory, dir::HEAD)?, ds::REFERENCED)? => {
                Err(EditError::Invalid("size is less than current used or reserved space"))
            }
            "refreservation" => {
                let old = self.refreservation(directory)?;
                self.account_refreservation(directory, old, number)
            }
            _ => Ok(()),
        }
    }
}
