//! Object sets: the meta-dnode and what stands beside it.

use crate::FormatError;
use crate::bytes::View;
use crate::dnode::Dnode;

/// What lives in an object set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjsetKind {
    None,
    Mos,
    Zpl,
    Zvol,
    Other(u64),
}

/// A parsed object-set block (1, 2 or 4 KiB).
#[derive(Clone, Debug)]
pub struct Objset {
    /// Object 0: its data is the array of all dnodes.
    pub meta: Dnode,
    pub kind: ObjsetKind,
    /// A non-empty intent log has to be replayed before the newest writes show.
    pub log_pending: bool,
    /// Tables of what users, groups and projects use, where the object set has them.
    pub accounts: [Option<Dnode>; 3],
    /// Bit 0: the tables of users and groups count all files' bytes; bit 1: and files; bit 2: projects too.
    pub flags: u64,
}

/// Where the dnodes of the tables of users, groups and projects are.
const ACCOUNTS_AT: [usize; 3] = [1024, 1536, 2048];

impl Objset {
    /// Parses an object-set block.
    ///
    /// # Errors
    /// Too short, or no meta-dnode.
    pub fn parse(data: &[u8]) -> Result<Self, FormatError> {
        let view = View::new("objset", data);
        let meta = Dnode::parse(view.slice(0, 512)?)?.ok_or_else(|| view.error("meta-dnode is free", 0))?;
        let log = crate::blkptr::BlockPointer::parse(view.slice(512 + 16, 128)?)?;
        let kind = match view.u64(704)? {
            0 => ObjsetKind::None,
            1 => ObjsetKind::Mos,
            2 => ObjsetKind::Zpl,
            3 => ObjsetKind::Zvol,
            other => ObjsetKind::Other(other),
        };
        let mut accounts = [None, None, None];
        for (account, at) in accounts.iter_mut().zip(ACCOUNTS_AT) {
            if let Some(bytes) = data.get(at..at + 512) {
                *account = Dnode::parse(bytes)?;
            }
        }
        Ok(Self { meta, kind, log_pending: !log.is_hole(), accounts, flags: view.u64(712)? })
    }
}
