//! Properties of the pool itself: which there are, what they may be set to, where they are kept.
//!
//! # Theory
//! What is set stands in a table of the MOS (`pool_props`), by name, as a number; the comment is text of the pool config, which every label repeats; features
//! have tables of their own (`features.rs`). Of a property that was never set the table says nothing: it has its default. The rest is not set but measured, or belongs to
//! this import alone ([`Bearing`]).
//!
//! # Failure
//! A value that a property does not take is refused by the words that it takes. What would be kept and obeyed by nobody here is refused, too, with the reason: a pool whose
//! `autoreplace` OpenZFS turned on keeps it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pool_phys::nvlist::Value;

use crate::edit::EditError;
use crate::props::human;
use crate::store::{OBJECT_DIRECTORY, Store};
use crate::{DatasetKind, Datasets};

const POOL_PROPS: &str = "pool_props";
const POOL_PROPS_TABLE: u8 = 31;
/// Longest comment, in bytes (the reference).
const COMMENT_MAX: usize = 32;
const ASHIFTS: core::ops::RangeInclusive<u64> = 9..=16;
/// In front of a feature's name.
const FEATURE: &str = "feature@";

const DEFAULT: &str = "default";
const LOCAL: &str = "local";
const MEASURED: &str = "-";

/// How a property is set and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `off` or `on`; its default.
    Switch(bool),
    /// `off` or `on` on pools of others; why it is not turned on here.
    OffOnly(&'static str),
    /// One of these words; its number is its place.
    Words(&'static [&'static str]),
    Ashift,
    Comment,
    Bootfs,
    /// Known while the pool is imported, and set by nothing but `import` or `create`; what sets it.
    Import(&'static str),
    /// Measured.
    Measured,
    /// Takes one value, which it has: that, and why.
    Only(&'static str, &'static str),
}

/// The properties, in the order in which `zpool get all` shows them.
const TABLE: [(&str, Kind); 31] = [
    ("size", Kind::Measured),
    ("capacity", Kind::Measured),
    ("altroot", Kind::Import("zpool import -R or zpool create -R")),
    ("health", Kind::Measured),
    ("guid", Kind::Measured),
    ("version", Kind::Only("-", "this pool has features instead of a version: zpool upgrade")),
    ("bootfs", Kind::Bootfs),
    ("delegation", Kind::Switch(true)),
    ("autoreplace", Kind::OffOnly("no device is replaced by one that appears in its place: give the pool a spare")),
    ("cachefile", Kind::Only("none", "there is no file of pools: they are found by their labels")),
    ("failmode", Kind::Words(&["wait", "continue", "panic"])),
    ("listsnapshots", Kind::Switch(false)),
    ("autoexpand", Kind::Switch(false)),
    ("dedupratio", Kind::Measured),
    ("dedupditto", Kind::Only("0", "it is obsolete")),
    ("free", Kind::Measured),
    ("allocated", Kind::Measured),
    ("readonly", Kind::Import("zpool import -o readonly=on")),
    ("ashift", Kind::Ashift),
    ("comment", Kind::Comment),
    ("expandsize", Kind::Measured),
    ("freeing", Kind::Measured),
    ("fragmentation", Kind::Measured),
    ("leaked", Kind::Measured),
    ("multihost", Kind::OffOnly("nothing is written here that would tell another host of this one")),
    ("checkpoint", Kind::Measured),
    ("load_guid", Kind::Measured),
    ("autotrim", Kind::OffOnly("free space is given back when it is asked for: zpool trim")),
    ("compatibility", Kind::Only("off", "every pool has the features that this system writes")),
    ("bcloneratio", Kind::Measured),
    ("bootsize", Kind::Measured),
];

/// What holds of a pool while it is imported here, and is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bearing {
    /// Where its mount points begin (`zpool import -R`).
    pub altroot: Option<String>,
}

/// A property as `zpool get` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolProperty {
    pub name: String,
    /// For people.
    pub value: String,
    /// For programs.
    pub exact: String,
    /// `default`, `local`, or `-`: it is not set.
    pub source: &'static str,
}

/// A change of a property that was looked at: see [`parse_pool_property`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolChange {
    /// In the table: its name and value.
    Number(&'static str, u64),
    Comment(String),
    /// A file system, or none.
    Bootfs(Option<String>),
    /// A feature, by the name in front of which `feature@` stood.
    Enable(String),
    /// It is so already.
    Nothing,
}

fn kind_of(name: &str) -> Option<(&'static str, Kind)> {
    let full = match name {
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
    };
    TABLE.into_iter().find(|(known, _)| *known == full)
}

/// Full name of a pool's property; `None`: there is none of this name. Any feature's is one.
#[must_use]
pub fn pool_property_name(name: &str) -> Option<String> {
    if name.strip_prefix(FEATURE).is_some_and(|feature| !feature.is_empty()) { Some(name.to_string()) } else { kind_of(name).map(|(known, _)| known.to_string()) }
}

/// Names of all properties but features.
pub fn pool_property_names() -> impl Iterator<Item = &'static str> {
    TABLE.into_iter().map(|(name, _)| name)
}

/// Looks at `name=text`. `making`: it is asked of a pool that is being made or imported.
///
/// # Errors
/// Why it cannot be set, in words that say what can.
pub fn parse_pool_property(name: &str, text: &str) -> Result<PoolChange, String> {
    if let Some(feature) = name.strip_prefix(FEATURE) {
        return match text {
            "enabled" => Ok(PoolChange::Enable(feature.to_string())),
            _ => Err(format!("{name}: '{text}' is no state to set: a feature can be 'enabled', and is 'active' by itself")),
        };
    }
    let Some((name, kind)) = kind_of(name) else {
        let all: Vec<&str> = TABLE.into_iter().filter(|(_, kind)| !matches!(kind, Kind::Measured | Kind::Import(_))).map(|(name, _)| name).collect();
        return Err(format!("'{name}' is no property of a pool: {}, feature@NAME", all.join(", ")));
    };
    let number = |value| Ok(PoolChange::Number(name, value));
    match kind {
        Kind::Switch(_) | Kind::OffOnly(_) => match (text, kind) {
            ("off", _) => number(0),
            ("on", Kind::Switch(_)) => number(1),
            ("on", Kind::OffOnly(why)) => Err(format!("{name}=on is not supported: {why}")),
            _ => Err(format!("{name}: '{text}' is neither 'on' nor 'off'")),
        },
        Kind::Words(words) => match words.iter().position(|word| *word == text) {
            Some(at) => number(at as u64),
            None => Err(format!("{name}: '{text}' is none of its values: {}", words.join(", "))),
        },
        Kind::Ashift => match text.parse::<u64>() {
            Ok(shift) if shift == 0 || ASHIFTS.contains(&shift) => number(shift),
            _ => Err(format!("{name}: '{text}' is not 0 (as the disks want it) or {} to {}", ASHIFTS.start(), ASHIFTS.end())),
        },
        Kind::Comment if text.len() > COMMENT_MAX => Err(format!("{name}: it has {} bytes, and {COMMENT_MAX} at most are kept", text.len())),
        Kind::Comment if text.chars().any(|letter| !letter.is_ascii() || letter.is_ascii_control()) => Err(format!("{name}: only what can be printed in ASCII is kept")),
        Kind::Comment => Ok(PoolChange::Comment(text.to_string())),
        Kind::Bootfs => Ok(PoolChange::Bootfs(Some(text.to_string()).filter(|text| !matches!(text.as_str(), "" | "-" | "none")))),
        Kind::Import(how) => Err(format!("{name} is not set on an imported pool: {how}")),
        Kind::Measured => Err(format!("{name} is read-only")),
        Kind::Only(only, _) if text == only => Ok(PoolChange::Nothing),
        Kind::Only(only, why) => Err(format!("{name} is always '{only}': {why}")),
    }
}

impl Store {
    /// What the table of properties says; `None`: the property was never set.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn pool_number(&self, name: &str) -> Result<Option<u64>, EditError> {
        let Some(table) = self.number_in(OBJECT_DIRECTORY, POOL_PROPS)? else { return Ok(None) };
        self.number_in(table, name)
    }

    /// Whether a property that is on or off is on.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn pool_switch(&self, name: &str) -> Result<bool, EditError> {
        let default = matches!(kind_of(name), Some((_, Kind::Switch(true))));
        Ok(self.pool_number(name)?.map_or(default, |value| value != 0))
    }

    /// The allocation unit of vdevs to come, if the pool says.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn ashift_wanted(&self) -> Result<Option<u32>, EditError> {
        Ok(self.pool_number("ashift")?.filter(|shift| ASHIFTS.contains(shift)).and_then(|shift| u32::try_from(shift).ok()))
    }

    fn set_pool_number(&mut self, name: &str, value: u64) -> Result<(), EditError> {
        let table = match self.number_in(OBJECT_DIRECTORY, POOL_PROPS)? {
            Some(table) => table,
            None => {
                let table = self.table(POOL_PROPS_TABLE)?;
                self.note(POOL_PROPS, table)?;
                table
            }
        };
        self.set_number(table, name, value)
    }

    /// Sets a property, with a commit.
    ///
    /// # Errors
    /// `bootfs`: no such file system. A feature that we do not write.
    pub fn set_pool_property(&mut self, change: &PoolChange, now: u64) -> Result<(), EditError> {
        match change {
            PoolChange::Number(name, value) => self.set_pool_number(name, *value)?,
            PoolChange::Comment(text) => {
                self.set_config_text("comment", Some(text.as_str()).filter(|text| !text.is_empty()));
            }
            PoolChange::Bootfs(None) => self.set_pool_number("bootfs", 0)?,
            PoolChange::Bootfs(Some(name)) => {
                let kind = Datasets::open(&self.pool)?.find(name)?.kind;
                if kind != DatasetKind::Filesystem {
                    return Err(EditError::Invalid("only a file system of the pool can be its bootfs"));
                }
                let dataset = self.find(name)?;
                self.set_pool_number("bootfs", dataset)?;
            }
            PoolChange::Enable(feature) => {
                self.enable_feature(feature)?;
            }
            PoolChange::Nothing => return Ok(()),
        }
        self.commit(now)
    }

    /// Sets or takes away text that the config and every label have.
    pub(crate) fn set_config_text(&mut self, key: &str, text: Option<&str>) {
        match text {
            Some(text) => self.config.set(key, Value::Text(text.to_string())),
            None => drop(self.config.remove(key)),
        }
        self.pool.set_label_text(key, text);
        self.config_dirty = true;
    }

    /// The dataset goes: it is nothing to boot from any more.
    pub(crate) fn forget_bootfs(&mut self, dataset: u64) -> Result<(), EditError> {
        if self.pool_number("bootfs")? == Some(dataset) { self.set_pool_number("bootfs", 0) } else { Ok(()) }
    }

    fn bootfs(&self) -> Result<Option<String>, EditError> {
        let Some(dataset) = self.pool_number("bootfs")?.filter(|dataset| *dataset != 0) else { return Ok(None) };
        Ok(self.dataset_name(dataset).ok())
    }

    /// All properties of the pool.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn pool_properties(&self, bearing: &Bearing) -> Result<Vec<PoolProperty>, EditError> {
        let (free, total) = self.free_total();
        let used = total - free;
        let plain = |value: &str| (value.to_string(), value.to_string());
        let bytes = |value: u64| (human(value), value.to_string());
        let mut out = Vec::new();
        for (name, kind) in TABLE {
            let set = self.pool_number(name)?;
            let source = if set.is_some() { LOCAL } else { DEFAULT };
            let switch = |default: bool| plain(if set.map_or(default, |value| value != 0) { "on" } else { "off" });
            let ((value, exact), source) = match (kind, name) {
                (Kind::Switch(default), _) => (switch(default), source),
                (Kind::OffOnly(_), _) => (switch(false), source),
                (Kind::Words(words), _) => {
                    let at = usize::try_from(set.unwrap_or(0)).unwrap_or(usize::MAX);
                    // Where a pool of OpenZFS says `panic`, it is so there.
                    (plain(words.get(at).copied().unwrap_or("panic")), source)
                }
                (Kind::Ashift, _) => (plain(&set.unwrap_or(0).to_string()), source),
                (Kind::Comment, _) => match self.config.text("comment") {
                    Some(text) => (plain(text), LOCAL),
                    None => (plain("-"), DEFAULT),
                },
                (Kind::Bootfs, _) => match self.bootfs()? {
                    Some(name) => (plain(&name), LOCAL),
                    None => (plain("-"), DEFAULT),
                },
                (Kind::Only(only, _), _) => (plain(only), DEFAULT),
                (Kind::Import(_), "altroot") => match &bearing.altroot {
                    Some(root) => (plain(root), LOCAL),
                    None => (plain("-"), DEFAULT),
                },
                (Kind::Import(_), _) => (plain(if self.is_read_only() { "on" } else { "off" }), if self.is_read_only() { LOCAL } else { DEFAULT }),
                (Kind::Measured, "size") => (bytes(total), MEASURED),
                (Kind::Measured, "free") => (bytes(free), MEASURED),
                (Kind::Measured, "allocated") => (bytes(used), MEASURED),
                (Kind::Measured, "freeing") => (bytes(self.freeing()?), MEASURED),
                (Kind::Measured, "leaked") => (bytes(0), MEASURED),
                (Kind::Measured, "capacity") => {
                    let percent = (used * 100).checked_div(total).unwrap_or(0);
                    ((format!("{percent}%"), percent.to_string()), MEASURED)
                }
                (Kind::Measured, "fragmentation") => {
                    let percent = self.space.fragmentation(None);
                    ((format!("{percent}%"), percent.to_string()), MEASURED)
                }
                (Kind::Measured, "expandsize") => match self.expandable() {
                    0 => (plain("-"), MEASURED),
                    room => (bytes(room), MEASURED),
                },
                (Kind::Measured, "health") => (plain(if self.is_suspended() { "SUSPENDED" } else { self.pool.health().name() }), MEASURED),
                (Kind::Measured, "guid") => (plain(&self.pool.guid().to_string()), MEASURED),
                (Kind::Measured, "load_guid") => (plain(&self.load_number().to_string()), MEASURED),
                (Kind::Measured, "dedupratio" | "bcloneratio") => ((String::from("1.00x"), String::from("1.00")), MEASURED),
                (Kind::Measured, _) => (plain("-"), MEASURED),
            };
            out.push(PoolProperty { name: name.to_string(), value, exact, source });
        }
        for (feature, state) in self.feature_states()? {
            out.push(PoolProperty { name: format!("{FEATURE}{feature}"), value: state.to_string(), exact: state.to_string(), source: LOCAL });
        }
        Ok(out)
    }

    /// A number of this import: another at the next.
    fn load_number(&self) -> u64 {
        let found = self.pool.found_txgs().first().copied().unwrap_or(0);
        self.pool.guid().rotate_left(17) ^ found.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}
