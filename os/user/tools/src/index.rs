//! The index of configured zones: `/etc/zones/index`, lines `name:state:path:uuid:brand:iptype:did`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::config::ZoneConfig;
use crate::usage::Failure;

/// Where configuration lives.
pub const DIRECTORY: &str = "/etc/zones";

/// State of a zone that is not in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Configured,
    Incomplete,
    Installed,
}

impl State {
    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Incomplete => "incomplete",
            Self::Installed => "installed",
        }
    }
    /// The state of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Configured, Self::Incomplete, Self::Installed].into_iter().find(|state| state.word() == word)
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub state: State,
    pub path: String,
    pub uuid: String,
    pub brand: String,
    pub ip_type: String,
    pub did: u32,
}

/// Parses the file. Comment lines and empty lines are skipped.
///
/// # Errors
/// What is wrong in which line.
pub fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |what: &str| format!("index line {}: {what}", index + 1);
        let fields: Vec<&str> = line.split(':').collect();
        let [name, state, path, uuid, brand, ip_type, did] = fields[..] else {
            return Err(bad(&format!("has {} fields, not 7", fields.len())));
        };
        entries.push(Entry {
            name: name.to_owned(),
            state: State::from_word(state).ok_or_else(|| bad(&format!("unknown state '{state}'")))?,
            path: path.to_owned(),
            uuid: uuid.to_owned(),
            brand: brand.to_owned(),
            ip_type: ip_type.to_owned(),
            did: did.parse().map_err(|_| bad(&format!("'{did}' is not a number")))?,
        });
    }
    Ok(entries)
}

/// Formats the file.
#[must_use]
pub fn format(entries: &[Entry]) -> String {
    let mut out = String::from("# name:state:path:uuid:brand:iptype:did -- written by zonecfg and zoneadm, do not edit\n");
    for e in entries {
        out.push_str(&format!("{}:{}:{}:{}:{}:{}:{}\n", e.name, e.state.word(), e.path, e.uuid, e.brand, e.ip_type, e.did));
    }
    out
}

/// The configuration store, locked against other tools while it lives.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// Held for its lock.
    _lock: File,
    pub entries: Vec<Entry>,
}

impl Store {
    /// Opens and locks the store in `directory`, making it if it is not there.
    ///
    /// # Errors
    /// The directory cannot be used, or the index makes no sense.
    pub fn open(directory: &Path) -> Result<Self, Failure> {
        let failed = |path: &Path, error: &io::Error| Failure::new(format!("{}: {error}", path.display()));
        fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
        let lock_path = directory.join(".lock");
        let lock = OpenOptions::new().create(true).append(true).open(&lock_path).map_err(|error| failed(&lock_path, &error))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(|error| failed(&lock_path, &error.into()))?;
        let path = directory.join("index");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(&path, &error)),
        };
        let entries = parse(&text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Ok(Self { directory: directory.to_owned(), _lock: lock, entries })
    }

    /// The system's store.
    ///
    /// # Errors
    /// See [`Store::open`].
    pub fn system() -> Result<Self, Failure> {
        Self::open(Path::new(DIRECTORY))
    }

    /// The entry of a zone.
    ///
    /// # Errors
    /// There is none; the message says how to make one.
    pub fn entry(&self, name: &str) -> Result<&Entry, Failure> {
        self.entries.iter().find(|entry| entry.name == name).ok_or_else(|| {
            Failure::new(format!("{name}: no such zone configured; make one with: zonecfg -z {name} create"))
        })
    }

    /// A zone's configuration.
    ///
    /// # Errors
    /// None, or the file makes no sense.
    pub fn config(&self, name: &str) -> Result<ZoneConfig, Failure> {
        self.entry(name)?;
        let path = self.directory.join(format!("{name}.xml"));
        let text = fs::read_to_string(&path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        let config = ZoneConfig::from_xml(&text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        if config.name != name {
            return Err(Failure::new(format!("{}: describes zone '{}'", path.display(), config.name)));
        }
        Ok(config)
    }

    /// Stores a configuration, new or changed: first the file, then the index line. A new one gets its debug id and uuid.
    ///
    /// # Errors
    /// It cannot be written; what was there before is still there.
    pub fn commit(&mut self, config: &mut ZoneConfig) -> Result<(), Failure> {
        config.verify().map_err(Failure::new)?;
        let name = config.name.clone();
        if let Some(other) = self.entries.iter().find(|entry| entry.name != name && entry.path == config.zonepath) {
            return Err(Failure::new(format!("zonepath {} belongs to zone {}", config.zonepath, other.name)));
        }
        let state = self.entries.iter().find(|entry| entry.name == name).map(|entry| (entry.state, entry.path.clone()));
        if let Some((State::Incomplete | State::Installed, path)) = &state
            && *path != config.zonepath
        {
            return Err(Failure::new(format!("zone is installed at {path}; its zonepath cannot change (uninstall it first)")));
        }
        if config.did == 0 {
            config.did = self.entries.iter().map(|entry| entry.did).max().unwrap_or(0) + 1;
        }
        if config.uuid.is_empty() {
            config.uuid = random_uuid()?;
        }
        self.replace(&format!("{name}.xml"), &config.to_xml())?;
        let entry = Entry {
            name: name.clone(),
            state: state.map_or(State::Configured, |(state, _)| state),
            path: config.zonepath.clone(),
            uuid: config.uuid.clone(),
            brand: config.brand.clone(),
            ip_type: "excl".to_owned(),
            did: config.did,
        };
        match self.entries.iter_mut().find(|entry| entry.name == name) {
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
        self.write()
    }

    /// Changes a zone's state.
    ///
    /// # Errors
    /// No such zone; the index cannot be written.
    pub fn set_state(&mut self, name: &str, state: State) -> Result<(), Failure> {
        self.entry(name)?;
        for entry in &mut self.entries {
            if entry.name == name {
                entry.state = state;
            }
        }
        self.write()
    }

    /// Removes a zone's configuration. A file that is missing already is no error.
    ///
    /// # Errors
    /// No such zone; files cannot be changed.
    pub fn delete(&mut self, name: &str) -> Result<(), Failure> {
        self.entry(name)?;
        self.entries.retain(|entry| entry.name != name);
        self.write()?;
        match fs::remove_file(self.directory.join(format!("{name}.xml"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::new(format!("{name}.xml: {error}"))),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn write(&self) -> Result<(), Failure> {
        self.replace("index", &format(&self.entries))
    }

    /// Replaces a file atomically.
    fn replace(&self, name: &str, text: &str) -> Result<(), Failure> {
        let (temporary, path) = (self.directory.join(format!(".{name}.new")), self.directory.join(name));
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error| Failure::new(format!("{}: {error}", path.display())))
    }
}

/// A random (version 4) UUID.
fn random_uuid() -> Result<String, Failure> {
    use std::io::Read;
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|error| Failure::new(format!("/dev/urandom: {error}")))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(uuid_text(bytes))
}

/// The 8-4-4-4-12 form.
#[must_use]
pub fn uuid_text(bytes: [u8; 16]) -> String {
    let mut out = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push_str(&format!("{byte:02x}"));
    }
    out
}

/// The inverse of [`uuid_text`].
#[must_use]
pub fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    if digits.len() != 32 || text.len() != 36 {
        return None;
    }
    let mut out = [0; 16];
    for (index, pair) in digits.chunks(2).enumerate() {
        out[index] = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("orrery-tools-{name}-{}", std::process::id()));
        if path.exists() {
            fs::remove_dir_all(&path).expect("ours");
        }
        path
    }

    #[test]
    fn a_zone_lives_through_commit_change_install_and_delete() {
        let directory = temporary("life");
        let mut store = Store::open(&directory).expect("new");
        let mut config = ZoneConfig::new("alpha");
        store.commit(&mut config).expect("valid");
        assert_eq!((config.did, config.uuid.len()), (1, 36));
        let mut other = ZoneConfig::new("beta");
        store.commit(&mut other).expect("valid");
        assert_eq!(other.did, 2);
        store.set_state("alpha", State::Installed).expect("there");
        drop(store);

        let mut store = Store::open(&directory).expect("there");
        assert_eq!(store.entry("alpha").expect("there").state, State::Installed);
        assert_eq!(store.config("alpha").expect("there"), config);
        // Committing again keeps the state; moving an installed zone is refused.
        config.autoboot = true;
        store.commit(&mut config).expect("valid");
        assert_eq!(store.entry("alpha").expect("there").state, State::Installed);
        config.zonepath = "/zones/elsewhere".to_owned();
        assert!(store.commit(&mut config).is_err());
        // Two zones cannot share a path.
        let mut thief = ZoneConfig::new("thief");
        thief.zonepath = "/zones/beta".to_owned();
        assert!(store.commit(&mut thief).is_err());
        // Delete works with the file missing.
        fs::remove_file(directory.join("alpha.xml")).expect("there");
        store.delete("alpha").expect("there");
        assert!(store.entry("alpha").is_err());
        fs::remove_dir_all(&directory).expect("ours");
    }

    #[test]
    fn bad_index_lines_are_named() {
        assert_eq!(parse("# c\n\na:b"), Err("index line 3: has 2 fields, not 7".to_owned()));
        assert_eq!(parse("a:gone:/z:u:lx:excl:1"), Err("index line 1: unknown state 'gone'".to_owned()));
        assert_eq!(parse("a:installed:/z:u:lx:excl:x"), Err("index line 1: 'x' is not a number".to_owned()));
    }

    #[test]
    fn uuids_round_trip() {
        let bytes = [0x7d, 0x3c, 0xd5, 0xa4, 0x3e, 0xc5, 0x4f, 0x8e, 0xb7, 0xae, 0x4e, 0xf2, 0xb7, 0xd0, 0xd4, 0xbb];
        assert_eq!(uuid_text(bytes), "7d3cd5a4-3ec5-4f8e-b7ae-4ef2b7d0d4bb");
        assert_eq!(uuid_bytes(&uuid_text(bytes)), Some(bytes));
        assert_eq!(uuid_bytes("7d3cd5a4"), None);
    }
}
