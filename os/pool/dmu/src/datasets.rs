//! The tree of datasets and snapshots, and their properties.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pool_phys::FormatError;
use pool_phys::dsl::{Dataset, DslDir};
use pool_phys::nvlist::{List, Value};
use pool_phys::objset::ObjsetKind;
use pool_phys::zap::Entry;
use pool_spa::Pool;

use crate::{Error, ObjectSet};

const DEPTH_MAX: usize = 64;

/// What a dataset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatasetKind {
    Filesystem,
    Volume,
    Snapshot,
}

/// A dataset as `zfs list` shows it.
#[derive(Clone, Debug)]
pub struct DatasetInfo {
    /// Full name, `pool/a/b` or `pool/a/b@snap`.
    pub name: String,
    pub kind: DatasetKind,
    /// Object number of the dataset in the MOS.
    pub object: u64,
    pub dataset: Dataset,
    /// Space used: of the directory with all below it for heads, unique to it for snapshots. Bytes.
    pub used_bytes: u64,
    /// Full name of the snapshot a clone was made from.
    pub origin: Option<String>,
    pub(crate) dir: u64,
}

/// Where a property's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Local,
    /// Name of the dataset that sets it.
    Inherited(String),
    Received,
}

/// A property as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    pub name: String,
    /// Number or text, as text.
    pub value: String,
    pub source: Source,
}

/// The datasets of a pool.
#[derive(Debug)]
pub struct Datasets<'p> {
    mos: ObjectSet<'p>,
    root: u64,
}

impl<'p> Datasets<'p> {
    /// Opens the pool's dataset tree.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn open(pool: &'p Pool) -> Result<Self, Error> {
        let mos = ObjectSet::mos(pool)?;
        let root = mos.lookup_number(1, "root_dataset")?;
        Ok(Self { mos, root })
    }

    /// The MOS.
    #[must_use]
    pub const fn mos(&self) -> &ObjectSet<'p> {
        &self.mos
    }

    /// The root directory.
    pub(crate) const fn root_dir(&self) -> u64 {
        self.root
    }

    /// Features of the pool with their reference counts: (guid, count, needed for reading).
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn features(&self) -> Result<Vec<(String, u64, bool)>, Error> {
        let mut out = Vec::new();
        for (table, read) in [("features_for_read", true), ("features_for_write", false)] {
            for entry in self.mos.zap(self.mos.lookup_number(1, table)?)? {
                out.push((entry.text(), entry.number().unwrap_or(0), read));
            }
        }
        out.sort();
        Ok(out)
    }

    fn dir(&self, number: u64) -> Result<DslDir, Error> {
        Ok(DslDir::parse(&self.mos.object(number)?.dnode().bonus)?)
    }

    fn dataset(&self, number: u64) -> Result<Dataset, Error> {
        Ok(Dataset::parse(&self.mos.object(number)?.dnode().bonus)?)
    }

    /// Every dataset and snapshot below and including `name` (the whole pool for its own name), sorted as `zfs list` sorts them: heads
    /// in name order, each followed by its snapshots in order of creation.
    ///
    /// # Errors
    /// Unreadable or malformed; [`Error::NotFound`] for an unknown name.
    pub fn list(&self, name: &str) -> Result<Vec<DatasetInfo>, Error> {
        self.list_some(name, usize::MAX)
    }

    /// The same, and no more than a few behind `most`: who asks has no room for them.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn list_some(&self, name: &str, most: usize) -> Result<Vec<DatasetInfo>, Error> {
        let dir = self.find_dir(name)?;
        let mut out = Vec::new();
        self.collect(dir, name, 0, &mut out, most)?;
        Ok(out)
    }

    fn collect(&self, dir: u64, name: &str, depth: usize, out: &mut Vec<DatasetInfo>, most: usize) -> Result<(), Error> {
        if out.len() > most {
            return Ok(());
        }
        if depth > DEPTH_MAX {
            return Err(FormatError::new("DSL directory", "nested too deeply", dir).into());
        }
        let head = self.head(dir, name)?;
        let mut snapshots = Vec::new();
        if head.dataset.snapshot_names != 0 {
            // One more than there is room for says that there are more.
            for entry in self.mos.zap(head.dataset.snapshot_names)?.into_iter().take(most.saturating_add(1)) {
                snapshots.push(self.snapshot(&head, &entry.text(), entry.number().unwrap_or(0))?);
            }
        }
        snapshots.sort_by_key(|snapshot| snapshot.dataset.creation_txg);
        out.push(head);
        out.extend(snapshots);
        let children = self.dir(dir)?.children;
        let mut children = if children == 0 { Vec::new() } else { self.mos.zap(children)? };
        children.retain(|child| !child.name.starts_with(b"$") && !child.name.starts_with(b"%"));
        children.sort_by(|a, b| a.name.cmp(&b.name));
        for child in children {
            self.collect(child.number().unwrap_or(0), &format!("{name}/{}", child.text()), depth + 1, out, most)?;
        }
        Ok(())
    }

    fn head(&self, number: u64, name: &str) -> Result<DatasetInfo, Error> {
        let dir = self.dir(number)?;
        let dataset = self.dataset(dir.head_dataset)?;
        let kind = match ObjectSet::open(self.mos.pool(), &dataset.root).map(|set| set.kind()) {
            Ok(ObjsetKind::Zvol) => DatasetKind::Volume,
            // A damaged root block still lists; opening it says what is wrong.
            _ => DatasetKind::Filesystem,
        };
        let origin = if dir.origin == 0 { None } else { self.snapshot_name(dir.origin)? };
        Ok(DatasetInfo { name: name.to_string(), kind, object: dir.head_dataset, used_bytes: dir.used_bytes, origin, dataset, dir: number })
    }

    fn snapshot(&self, head: &DatasetInfo, name: &str, number: u64) -> Result<DatasetInfo, Error> {
        let dataset = self.dataset(number)?;
        Ok(DatasetInfo {
            name: format!("{}@{name}", head.name),
            kind: DatasetKind::Snapshot,
            object: number,
            used_bytes: dataset.unique_bytes,
            origin: None,
            dataset,
            dir: head.dir,
        })
    }

    /// Full name of a snapshot by object number; `None` for the pool's hidden `$ORIGIN@$ORIGIN`.
    fn snapshot_name(&self, number: u64) -> Result<Option<String>, Error> {
        let dir = self.dataset(number)?.dir;
        let name = self.dir_name(dir)?;
        if name.contains('$') {
            return Ok(None);
        }
        let head = self.dataset(self.dir(dir)?.head_dataset)?;
        let entries = self.mos.zap(head.snapshot_names)?;
        let found = entries.iter().find(|entry| entry.number() == Some(number));
        Ok(found.map(|entry| format!("{name}@{}", entry.text())))
    }

    fn dir_name(&self, mut number: u64) -> Result<String, Error> {
        let mut parts = Vec::new();
        while number != self.root {
            let parent = self.dir(number)?.parent;
            if parent == 0 || parts.len() > DEPTH_MAX {
                return Err(FormatError::new("DSL directory", "has no way to the root", number).into());
            }
            let siblings = self.mos.zap(self.dir(parent)?.children)?;
            let entry = siblings.iter().find(|entry| entry.number() == Some(number)).ok_or(Error::NotFound)?;
            parts.push(entry.text());
            number = parent;
        }
        parts.push(self.mos.pool().name().to_string());
        parts.reverse();
        Ok(parts.join("/"))
    }

    fn find_dir(&self, name: &str) -> Result<u64, Error> {
        let mut parts = name.split('/');
        if parts.next() != Some(self.mos.pool().name()) {
            return Err(Error::NotFound);
        }
        let mut dir = self.root;
        for part in parts {
            dir = self.mos.lookup_number(self.dir(dir)?.children, part)?;
        }
        Ok(dir)
    }

    /// Finds a dataset (`pool/a`) or snapshot (`pool/a@s`).
    ///
    /// # Errors
    /// [`Error::NotFound`]; unreadable, malformed.
    pub fn find(&self, name: &str) -> Result<DatasetInfo, Error> {
        let (path, snapshot) = name.split_once('@').map_or((name, None), |(path, snapshot)| (path, Some(snapshot)));
        let head = self.head(self.find_dir(path)?, path)?;
        match snapshot {
            None => Ok(head),
            Some(_) if head.dataset.snapshot_names == 0 => Err(Error::NotFound),
            Some(snapshot) => {
                let number = self.mos.lookup_number(head.dataset.snapshot_names, snapshot)?;
                self.snapshot(&head, snapshot, number)
            }
        }
    }

    /// The object set of a dataset or snapshot.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn open_dataset(&self, info: &DatasetInfo) -> Result<ObjectSet<'p>, Error> {
        ObjectSet::open(self.mos.pool(), &info.dataset.root)
    }

    /// A table of properties without what was received and is hidden by an inherit on purpose; what was set by hand goes before what was received.
    fn in_force(&self, table: u64) -> Result<Vec<Entry>, Error> {
        let mut entries = self.mos.zap(table)?;
        let hidden: Vec<String> = entries.iter().filter_map(|entry| Some(format!("{}$recvd", entry.text().strip_suffix("$inherit")?))).collect();
        entries.retain(|entry| !hidden.contains(&entry.text()));
        entries.sort_by_key(|entry| entry.name.contains(&b'$'));
        Ok(entries)
    }

    /// Properties set on a dataset itself, or received with it, as stored.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn own_properties(&self, info: &DatasetInfo) -> Result<List, Error> {
        let mut out = List::default();
        let props = self.dir(info.dir)?.props;
        for entry in if props == 0 { Vec::new() } else { self.in_force(props)? } {
            let text = entry.text();
            let (name, suffix) = text.split_once('$').unwrap_or((&text, ""));
            let value = match (entry.number().filter(|_| entry.integer_size == 8), entry.bytes()) {
                (Some(number), _) => Value::Number(number),
                (None, Some(bytes)) => Value::Text(String::from_utf8_lossy(&bytes).into_owned()),
                (None, None) => continue,
            };
            if !name.is_empty() && (suffix.is_empty() || suffix == "recvd" && out.get(name).is_none()) {
                out.set(name, value);
            }
        }
        Ok(out)
    }

    /// Properties set on a dataset or inherited from those above it, as stored. Suffixed copies (`$recvd` without a local value) count as
    /// received.
    ///
    /// # Errors
    /// Unreadable or malformed.
    pub fn properties(&self, info: &DatasetInfo) -> Result<Vec<Property>, Error> {
        let mut out: Vec<Property> = Vec::new();
        let (mut number, mut depth) = (info.dir, 0);
        loop {
            let dir = self.dir(number)?;
            if dir.props != 0 {
                let owner = if depth == 0 { None } else { Some(self.dir_name(number)?) };
                for entry in self.in_force(dir.props)? {
                    let text = entry.text();
                    let (name, suffix) = text.split_once('$').unwrap_or((&text, ""));
                    let source = match (&owner, suffix) {
                        (Some(owner), "" | "recvd") => Source::Inherited(owner.clone()),
                        (None, "") => Source::Local,
                        (None, "recvd") => Source::Received,
                        _ => continue,
                    };
                    if out.iter().any(|property| property.name == name) {
                        continue;
                    }
                    let bytes = entry.bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                    let value = bytes.or_else(|| entry.number().map(|number| number.to_string())).unwrap_or_default();
                    out.push(Property { name: name.to_string(), value, source });
                }
            }
            depth += 1;
            if number == self.root || dir.parent == 0 || depth > DEPTH_MAX {
                break;
            }
            number = dir.parent;
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }
}
