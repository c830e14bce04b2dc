//! System attributes: what a file knows about itself, laid out by registered layouts; and the znode of pools before ZPL 5.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::FormatError;
use crate::bytes::{View, index};
use crate::zap::Entry;

const MAGIC: u32 = 0x2F_505A;

/// Attributes that a file has as a rule.
const SOME: usize = 18;

/// An attribute: name and bytes.
pub type Attribute<'a> = (&'a [u8], &'a [u8]);

/// Attribute names and layouts of one object set: numbers are allotted by each pool, never assumed.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// Number to (name, length in bytes; 0 = variable).
    attributes: BTreeMap<u16, (Vec<u8>, usize)>,
    layouts: BTreeMap<u16, Vec<u16>>,
}

impl Registry {
    /// Builds it from the entries of the REGISTRY and LAYOUTS ZAPs.
    ///
    /// # Errors
    /// Entries that are not what these ZAPs hold.
    pub fn new(registry: &[Entry], layouts: &[Entry]) -> Result<Self, FormatError> {
        let bad = |why| FormatError::new("SA registry", why, 0);
        let mut out = Self::default();
        for entry in registry {
            let [n0, n1, _, l0, l1, ..] = entry.number().ok_or_else(|| bad("attribute without a number"))?.to_le_bytes();
            let length = usize::from(u16::from_le_bytes([l0, l1]));
            out.attributes.insert(u16::from_le_bytes([n0, n1]), (entry.name.clone(), length));
        }
        for entry in layouts {
            let number = entry.text().parse().map_err(|_| bad("layout name is not a number"))?;
            let attributes = entry.value.iter().map(|value| u16::try_from(*value));
            out.layouts.insert(number, attributes.collect::<Result<_, _>>().map_err(|_| bad("attribute number out of range"))?);
        }
        Ok(out)
    }

    /// Number of the attribute called `name`.
    #[must_use]
    pub fn number(&self, name: &[u8]) -> Option<u16> {
        self.attributes.iter().find(|(_, (known, _))| known == name).map(|(number, _)| *number)
    }

    /// True if attribute `number` has a length of its own in each buffer.
    #[must_use]
    pub fn is_variable(&self, number: u16) -> bool {
        self.attributes.get(&number).is_some_and(|(_, length)| *length == 0)
    }

    /// The layout of exactly these attributes in this order.
    #[must_use]
    pub fn layout(&self, attributes: impl Iterator<Item = u16> + Clone) -> Option<u16> {
        self.layouts.iter().find(|(_, known)| known.iter().copied().eq(attributes.clone())).map(|(number, _)| *number)
    }

    /// Adds a layout and returns its number: the first free one from 2 on (0 and 1 are for old znodes and for empty buffers).
    ///
    /// # Errors
    /// All 1,022 numbers are taken.
    pub fn add_layout(&mut self, attributes: Vec<u16>) -> Result<u16, FormatError> {
        let number = (2..0x3FF).find(|number| !self.layouts.contains_key(number)).ok_or(FormatError::new("SA layouts", "no number is left", 0))?;
        self.layouts.insert(number, attributes);
        Ok(number)
    }

    /// Splits an SA buffer into attribute numbers and bytes, in the order of its layout.
    ///
    /// # Errors
    /// As [`Registry::parse`].
    pub fn split<V: for<'a> From<&'a [u8]>>(&self, data: &[u8]) -> Result<Vec<(u16, V)>, FormatError> {
        let mut out = Vec::with_capacity(SOME);
        self.each(data, &mut |number, _, value| out.push((number, V::from(value))))?;
        Ok(out)
    }

    /// Splits an SA buffer (bonus or spill block) into its attributes: name to bytes.
    ///
    /// # Errors
    /// Wrong magic, unknown layout or attribute, lengths past the end.
    pub fn parse<'a>(&'a self, data: &'a [u8]) -> Result<Vec<Attribute<'a>>, FormatError> {
        let mut out = Vec::with_capacity(SOME);
        self.each(data, &mut |_, name, value| out.push((name, value)))?;
        Ok(out)
    }

    /// Calls `visit` with number, name and bytes of each attribute, in the order of the layout.
    fn each<'a>(&'a self, data: &'a [u8], visit: &mut dyn FnMut(u16, &'a [u8], &'a [u8])) -> Result<(), FormatError> {
        let view = View::new("SA buffer", data);
        if view.u32(0)? != MAGIC {
            return Err(view.error("wrong magic", u64::from(view.u32(0)?)));
        }
        let info = view.u16(4)?;
        let layout = self.layouts.get(&(info & 0x3FF)).ok_or_else(|| view.error("unknown layout", u64::from(info & 0x3FF)))?;
        let mut at = usize::from(info >> 10) * 8;
        let mut variable = 0;
        for number in layout {
            let (name, fixed) = self.attributes.get(number).ok_or_else(|| view.error("unknown attribute", u64::from(*number)))?;
            let mut length = *fixed;
            if length == 0 {
                length = usize::from(view.u16(6 + variable * 2)?);
                variable += 1;
            }
            visit(*number, name, view.slice(at, length)?);
            at = (at + length).next_multiple_of(8);
        }
        Ok(())
    }
}

/// Bytes of an SA buffer of layout `layout` with the given attribute values in layout order; `variable` marks those whose lengths the
/// header lists.
///
/// # Panics
/// If the header or a value is longer than the format can say: our own broken invariant.
#[must_use]
pub fn encode(layout: u16, values: &[(bool, &[u8])]) -> Vec<u8> {
    let variable = values.iter().filter(|(variable, _)| *variable).count();
    let header = if variable <= 1 { 8 } else { 8 + (2 * (variable - 1)).next_multiple_of(8) };
    let mut out = Vec::with_capacity(header + values.iter().map(|(_, value)| value.len().next_multiple_of(8)).sum::<usize>());
    out.resize(header, 0);
    out[..4].copy_from_slice(&MAGIC.to_le_bytes());
    let info = u16::try_from(header / 8).expect("few attributes") << 10 | layout;
    out[4..6].copy_from_slice(&info.to_le_bytes());
    for (index, (_, value)) in values.iter().filter(|(variable, _)| *variable).enumerate() {
        let length = u16::try_from(value.len()).expect("attribute below 64 KiB");
        out[6 + index * 2..8 + index * 2].copy_from_slice(&length.to_le_bytes());
    }
    for (_, value) in values {
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

/// Seconds and nanoseconds since 1970.
pub type Time = (u64, u64);

/// The attributes of a file that a reader shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Znode {
    /// Full `st_mode`.
    pub mode: u64,
    pub size: u64,
    pub links: u64,
    pub uid: u64,
    pub gid: u64,
    pub parent: u64,
    /// The transaction group it was made in: tells two objects of one number apart.
    pub generation: u64,
    pub flags: u64,
    pub rdev: u64,
    pub accessed: Time,
    pub modified: Time,
    pub changed: Time,
    pub created: Time,
    pub symlink: Option<Vec<u8>>,
    /// Object number of the extended-attribute directory, 0 if none.
    pub xattr_dir: u64,
    /// XDR nvlist of extended attributes (`xattr=sa`).
    pub xattrs: Option<Vec<u8>>,
}

impl Znode {
    /// Takes the attributes of one SA buffer in; called for the bonus and then for the spill block.
    ///
    /// # Errors
    /// An attribute shorter than its type.
    pub fn absorb(&mut self, attributes: &[Attribute<'_>]) -> Result<(), FormatError> {
        for (name, data) in attributes {
            let view = View::new("SA attribute", data);
            let time = || Ok::<_, FormatError>((view.u64(0)?, view.u64(8)?));
            match *name {
                b"ZPL_MODE" => self.mode = view.u64(0)?,
                b"ZPL_SIZE" => self.size = view.u64(0)?,
                b"ZPL_LINKS" => self.links = view.u64(0)?,
                b"ZPL_UID" => self.uid = view.u64(0)? & 0xFFFF_FFFF,
                b"ZPL_GID" => self.gid = view.u64(0)? & 0xFFFF_FFFF,
                b"ZPL_PARENT" => self.parent = view.u64(0)?,
                b"ZPL_GEN" => self.generation = view.u64(0)?,
                b"ZPL_FLAGS" => self.flags = view.u64(0)?,
                b"ZPL_RDEV" => self.rdev = view.u64(0)?,
                b"ZPL_ATIME" => self.accessed = time()?,
                b"ZPL_MTIME" => self.modified = time()?,
                b"ZPL_CTIME" => self.changed = time()?,
                b"ZPL_CRTIME" => self.created = time()?,
                b"ZPL_SYMLINK" => self.symlink = Some(data.to_vec()),
                b"ZPL_XATTR" => self.xattr_dir = view.u64(0)?,
                b"ZPL_DXATTR" => self.xattrs = Some(data.to_vec()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Parses the 264-byte bonus of files made before ZPL 5. A short symlink target follows it.
    ///
    /// # Errors
    /// Too short.
    pub fn parse_old(bonus: &[u8]) -> Result<Self, FormatError> {
        let view = View::new("znode", bonus);
        let word = view.words::<18>(0)?;
        let size = word[10];
        let is_symlink = word[9] & 0o170_000 == 0o120_000;
        let target = if is_symlink { view.slice(264, index(size)).ok().map(<[u8]>::to_vec) } else { None };
        Ok(Self {
            mode: word[9],
            size,
            links: word[12],
            uid: word[16] & 0xFFFF_FFFF,
            gid: word[17] & 0xFFFF_FFFF,
            parent: word[11],
            generation: word[8],
            flags: word[15],
            rdev: word[14],
            accessed: (word[0], word[1]),
            modified: (word[2], word[3]),
            changed: (word[4], word[5]),
            created: (word[6], word[7]),
            symlink: target,
            xattr_dir: word[13],
            xattrs: None,
        })
    }
}
