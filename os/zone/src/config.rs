//! What a zone is made from.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::rctl::Rctl;
use crate::{Privileges, ZoneError};

/// Longest zone name (64 with its terminator).
pub const NAME_BYTES_MAX: usize = 63;

/// A zone's persistent identity, unchanged by boots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl Uuid {
    /// Parses the 8-4-4-4-12 form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 36 {
            return None;
        }
        let mut out = [0_u8; 16];
        let mut digits = 0;
        for (index, byte) in bytes.iter().enumerate() {
            if matches!(index, 8 | 13 | 18 | 23) {
                if *byte != b'-' {
                    return None;
                }
                continue;
            }
            let digit = char::from(*byte).to_digit(16)?;
            let digit = u8::try_from(digit).ok()?;
            out[digits / 2] = out[digits / 2] << 4 | digit;
            digits += 1;
        }
        Some(Self(out))
    }
}

/// How a zone's user land meets the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Brand {
    /// A whole root of Linux programs, which is what this kernel's system calls are.
    Lx,
    /// The global zone.
    Native,
}

impl Brand {
    /// Its name in configuration files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lx => "lx",
            Self::Native => "native",
        }
    }
    /// The brand of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Lx, Self::Native].into_iter().find(|brand| brand.name() == name)
    }
}

/// What [`crate::create`] needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub uuid: Uuid,
    /// The persistent "debug id": unique on the host, unchanged by boots.
    pub did: u32,
    pub brand: Brand,
    pub hostname: String,
    /// Path of the zone's root directory in the global zone.
    pub root: String,
    /// Upper bound on what any process in the zone may do.
    pub privileges: Privileges,
    /// Settings that differ from the defaults.
    pub rctls: Vec<(Rctl, u64)>,
}

/// Checks a zone name (zones(7) rules).
///
/// # Errors
/// [`ZoneError::BadName`].
pub fn check_name(name: &str) -> Result<(), ZoneError> {
    let mut bytes = name.bytes();
    let first_fits = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest_fits = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if first_fits && rest_fits && name.len() <= NAME_BYTES_MAX && name != "global" && !name.starts_with("SUNW") {
        Ok(())
    } else {
        Err(ZoneError::BadName)
    }
}
