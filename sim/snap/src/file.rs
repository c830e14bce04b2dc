//! The container of saved things.
//!
//! ```text
//! file    := magic[8] kind[4] version:u32 commit:str sum[8] section* end
//! section := "SECT" name:str raw:u64 stored:u64 sum_of_bytes[16] sum[8] bytes[stored]
//! end     := a section called "end" whose four bytes are the number of sections before it
//! str     := len:u16 bytes                                    all integers little-endian
//! ```
//! Bytes are LZ4 blocks that give `raw` bytes. Sums are the beginning of BLAKE3 hashes: of the head (header or section) up to the sum, and of the stored bytes.
//! The head never changes its layout, so that any version can say which commit wrote a file it cannot read.

use std::fmt;

use sim_core::LoadError;

const MAGIC: &[u8; 8] = b"\x89ORRERY\n";
const SECTION: &[u8; 4] = b"SECT";
const END: &str = "end";
/// The most a section may hold once unpacked.
pub const SECTION_MAX: u64 = 1 << 30;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Snapshot,
    Capsule,
}

impl FileKind {
    const ALL: [FileKind; 2] = [FileKind::Snapshot, FileKind::Capsule];

    fn tag(self) -> &'static [u8; 4] {
        match self {
            FileKind::Snapshot => b"SNAP",
            FileKind::Capsule => b"CAPS",
        }
    }

    /// The one version that is written and read. It rises when the state of a device or of the processor gains or loses a field.
    ///
    /// Version 2: interrupt lines of PCI devices at the 8259, virtio's ISR and pin.
    pub fn version(self) -> u32 {
        match self {
            FileKind::Snapshot | FileKind::Capsule => 2,
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileKind::Snapshot => "snapshot",
            FileKind::Capsule => "capsule",
        })
    }
}

/// Why a file was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileError {
    /// It does not begin as our files do.
    Magic,
    /// It ends inside something.
    Truncated { inside: String, at: u64 },
    /// The header's checksum does not match.
    Header,
    /// A section's head or bytes do not match their checksum.
    Damaged { section: String, at: u64 },
    /// It is of another kind.
    Kind { expected: FileKind, found: String },
    /// Written by a program whose format this one does not read.
    Version { kind: FileKind, found: u32, commit: String },
    /// A section that must be there is not.
    Missing { section: String },
    /// Bytes follow the end.
    Surplus { at: u64 },
    /// A section says something impossible.
    Content { section: String, why: String },
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Magic => write!(f, "not a snapshot or capsule (it does not begin as one)"),
            FileError::Truncated { inside, at } => write!(f, "cut short: it ends at byte {at}, inside {inside}"),
            FileError::Header => write!(f, "the header is damaged: its checksum does not match"),
            FileError::Damaged { section, at } => write!(f, "section `{section}` (at byte {at}) is damaged: its checksum does not match"),
            FileError::Kind { expected, found } => write!(f, "a {expected} is wanted, this is a {found}"),
            FileError::Version { kind, found, commit } => write!(
                f,
                "a {kind} of format {found}, which this program (format {}) does not read\n   = hint: it was made by commit {commit}; `git checkout {commit}` reads it",
                kind.version()
            ),
            FileError::Missing { section } => write!(f, "section `{section}` is not there"),
            FileError::Surplus { at } => write!(f, "damaged: bytes follow its end (at byte {at})"),
            FileError::Content { section, why } => write!(f, "section `{section}`: {why}"),
        }
    }
}

impl std::error::Error for FileError {}

impl FileError {
    /// An error in what a section says.
    pub fn content(section: &str, why: impl fmt::Display) -> Self {
        FileError::Content { section: section.to_owned(), why: why.to_string() }
    }
    pub(crate) fn load(section: &str) -> impl FnOnce(LoadError) -> Self + '_ {
        move |error| Self::content(section, error)
    }
}

fn sum<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let hash = blake3::hash(bytes);
    std::array::from_fn(|index| hash.as_bytes()[index])
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let bytes = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Writes a file.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    sections: u32,
}

impl Writer {
    /// Begins a file. `commit` is that of the program that writes.
    pub fn new(kind: FileKind, commit: &str) -> Self {
        Self::of_version(kind, kind.version(), commit)
    }

    pub(crate) fn of_version(kind: FileKind, version: u32, commit: &str) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(kind.tag());
        bytes.extend_from_slice(&version.to_le_bytes());
        put_text(&mut bytes, commit);
        let header = sum::<8>(&bytes);
        bytes.extend_from_slice(&header);
        Self { bytes, sections: 0 }
    }

    /// Adds a section.
    pub fn section(&mut self, name: &str, content: &[u8]) {
        assert!(content.len() as u64 <= SECTION_MAX, "section {name} is too long");
        let stored = lz4_flex::block::compress(content);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(SECTION);
        put_text(&mut self.bytes, name);
        self.bytes.extend_from_slice(&(content.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(&(stored.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(&sum::<16>(&stored));
        let head = sum::<8>(&self.bytes[start..]);
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(&stored);
        self.sections += 1;
    }

    /// Ends the file.
    pub fn finish(mut self) -> Vec<u8> {
        let count = self.sections.to_le_bytes();
        self.section(END, &count);
        self.bytes
    }
}

#[derive(Debug)]
struct Section<'a> {
    name: String,
    at: u64,
    raw: usize,
    sum: [u8; 16],
    stored: &'a [u8],
}

impl Section<'_> {
    fn unpack(&self) -> Result<Vec<u8>, FileError> {
        let damaged = || FileError::Damaged { section: self.name.clone(), at: self.at };
        if sum::<16>(self.stored) != self.sum {
            return Err(damaged());
        }
        let bytes = lz4_flex::block::decompress(self.stored, self.raw).map_err(|_| damaged())?;
        if bytes.len() == self.raw { Ok(bytes) } else { Err(damaged()) }
    }
}

/// A file whose heads have been checked.
#[derive(Debug)]
pub struct Reader<'a> {
    kind: FileKind,
    commit: String,
    sections: Vec<Section<'a>>,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize, inside: &str) -> Result<&'a [u8], FileError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(FileError::Truncated { inside: inside.to_owned(), at: self.bytes.len() as u64 });
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
    fn array<const N: usize>(&mut self, inside: &str) -> Result<[u8; N], FileError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, inside)?);
        Ok(array)
    }
    fn text(&mut self, inside: &str) -> Result<String, FileError> {
        let count = u16::from_le_bytes(self.array(inside)?);
        Ok(String::from_utf8_lossy(self.take(usize::from(count), inside)?).into_owned())
    }
}

/// What kind of file these bytes begin as.
pub fn kind_of(bytes: &[u8]) -> Option<FileKind> {
    let tag = bytes.strip_prefix(MAGIC)?.get(..4)?;
    FileKind::ALL.into_iter().find(|kind| kind.tag() == tag)
}

impl<'a> Reader<'a> {
    /// Checks header and section heads of a file of this kind.
    pub fn open(bytes: &'a [u8], expected: FileKind) -> Result<Self, FileError> {
        let mut cursor = Cursor { bytes, at: 0 };
        let begins = bytes.len().min(MAGIC.len());
        if bytes[..begins] != MAGIC[..begins] {
            return Err(FileError::Magic);
        }
        cursor.take(MAGIC.len(), "the header")?;
        let tag: [u8; 4] = cursor.array("the header")?;
        let version = u32::from_le_bytes(cursor.array("the header")?);
        let commit = cursor.text("the header")?;
        let checked = sum::<8>(&bytes[..cursor.at]);
        if cursor.array::<8>("the header")? != checked {
            return Err(FileError::Header);
        }
        let Some(kind) = FileKind::ALL.into_iter().find(|kind| *kind.tag() == tag) else {
            return Err(FileError::Kind { expected, found: format!("file of kind `{}`, made by commit {commit}", tag.escape_ascii()) });
        };
        if kind != expected {
            return Err(FileError::Kind { expected, found: kind.to_string() });
        }
        if version != kind.version() {
            return Err(FileError::Version { kind, found: version, commit });
        }
        let mut sections: Vec<Section<'a>> = Vec::new();
        loop {
            let inside = match sections.last() {
                None => "the first section".to_owned(),
                Some(last) => format!("the section after `{}`", last.name),
            };
            let start = cursor.at;
            let tag: [u8; 4] = cursor.array(&inside)?;
            let name = cursor.text(&inside)?;
            let raw = u64::from_le_bytes(cursor.array(&inside)?);
            let stored = u64::from_le_bytes(cursor.array(&inside)?);
            let bytes_sum = cursor.array(&inside)?;
            let checked = sum::<8>(&bytes[start..cursor.at]);
            if cursor.array::<8>(&inside)? != checked || tag != *SECTION || raw > SECTION_MAX {
                return Err(FileError::Damaged { section: inside, at: start as u64 });
            }
            let count = usize::try_from(stored).unwrap_or(usize::MAX);
            let stored = cursor.take(count, &format!("section `{name}`"))?;
            let section = Section { name, at: start as u64, raw: raw as usize, sum: bytes_sum, stored };
            if section.name != END {
                sections.push(section);
                continue;
            }
            let count = section.unpack()?;
            if count != (sections.len() as u32).to_le_bytes() {
                return Err(FileError::Damaged { section: END.to_owned(), at: section.at });
            }
            if cursor.at != bytes.len() {
                return Err(FileError::Surplus { at: cursor.at as u64 });
            }
            return Ok(Self { kind, commit, sections });
        }
    }

    /// The commit of the program that wrote it.
    pub fn commit(&self) -> &str {
        &self.commit
    }
    /// What it is.
    pub fn kind(&self) -> FileKind {
        self.kind
    }
    /// Names of the sections in order.
    pub fn names(&self) -> impl Iterator<Item = &str> + '_ {
        self.sections.iter().map(|section| section.name.as_str())
    }
    /// The bytes of a section, if it is there.
    pub fn optional(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        self.sections.iter().find(|section| section.name == name).map(Section::unpack).transpose()
    }
    /// The bytes of a section.
    pub fn section(&self, name: &str) -> Result<Vec<u8>, FileError> {
        self.optional(name)?.ok_or_else(|| FileError::Missing { section: name.to_owned() })
    }
    /// A section as text.
    pub fn text(&self, name: &str) -> Result<String, FileError> {
        String::from_utf8(self.section(name)?).map_err(|_| FileError::content(name, "not UTF-8 text"))
    }
}
