//! The error of the crate.

use core::fmt;

use crate::State;

/// Why a zone operation was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ZoneError {
    /// Not `[a-zA-Z0-9][-_.a-zA-Z0-9]{0,62}`, or `global`, or beginning with `SUNW`.
    BadName,
    /// A live zone has this name.
    NameTaken,
    /// No live zone has this id or name.
    NoSuchZone,
    /// All ids are live or still referenced.
    NoFreeId,
    /// The operation does not fit the zone's state.
    WrongState(State),
    /// The global zone cannot be shut down or destroyed as a zone.
    IsGlobal,
    /// Processes are still there.
    Busy { processes: u64 },
    /// No resource control of this name.
    NoSuchRctl,
    /// The value is out of the control's range.
    BadValue { least: u64, most: u64 },
    /// An upper layer could not set up its part; the name of the layer.
    HookFailed(&'static str),
}

impl fmt::Display for ZoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName => f.write_str("name must be 1 to 63 of letters, digits, '-', '_', '.', start with a letter or digit, and be neither 'global' nor begin with 'SUNW'"),
            Self::NameTaken => f.write_str("a live zone has this name"),
            Self::NoSuchZone => f.write_str("no such zone in the kernel"),
            Self::NoFreeId => f.write_str("too many zones"),
            Self::WrongState(state) => write!(f, "zone is {state}"),
            Self::IsGlobal => f.write_str("not possible for the global zone"),
            Self::Busy { processes } => write!(f, "{processes} processes are still there"),
            Self::NoSuchRctl => f.write_str("no such resource control"),
            Self::BadValue { least, most } => write!(f, "value must be between {least} and {most}"),
            Self::HookFailed(layer) => write!(f, "{layer} could not set up its part of the zone"),
        }
    }
}
