//! The control interface: what Linux has no system call for, as one table of operations.
//!
//! # Theory
//! A tool opens `/dev/control` (global zone only) or `/dev/kstat` (every zone; only the operations that [`Scope::Own`] marks, and
//! those answer about the caller's zone alone) and makes one kind of ioctl, [`CALL`], whose argument is a [`Call`] header that names an
//! operation and two buffers. Both payloads are name/value lists (crate `nv`), so fields can be added without a new
//! version; [`VERSION`] changes when a field changes its meaning.
//!
//! # Structures
//! The header, little-endian, as it lies in the caller's memory:
//!
//! ```text
//!  0  version   u32   VERSION
//!  4  operation u32   a row of TABLE
//!  8  in_addr   u64   request: an encoded list (in_len 0: an empty one)
//! 16  in_len    u64   at most IN_MAX
//! 24  out_addr  u64   where the reply goes
//! 32  out_len   u64   room for it
//! ```
//!
//! The ioctl returns the length of the reply, also when the operation was refused: then the reply is
//! `{error: string, message: string}` with a code of [`Code`]. The ioctl itself fails only when no reply could be given:
//! EFAULT, EINVAL (header), ENOSPC (the reply does not fit; nothing was lost for operations that only read), EPERM.
//!
//! # Failure
//! Every field is checked before anything is done; an operation either happens or leaves things as they were, but for
//! `zone.halt`, which goes as far as it can and may be repeated.
//!
//! # Limits
//! [`IN_MAX`], [`OUT_MAX`].
#![no_std]

/// Version of the interface.
pub const VERSION: u32 = 1;
/// Path of the control device (global zone only).
pub const DEVICE: &str = "/dev/control";
/// Path of the device that every zone has.
pub const KSTAT_DEVICE: &str = "/dev/kstat";
/// Device numbers: character, major 10 (miscellaneous devices), minors from the range for local use.
pub const MAJOR: u32 = 10;
/// Minor of [`DEVICE`].
pub const MINOR_CONTROL: u32 = 250;
/// Minor of [`KSTAT_DEVICE`].
pub const MINOR_KSTAT: u32 = 251;
/// Largest request.
pub const IN_MAX: u64 = 64 << 10;
/// Largest reply.
pub const OUT_MAX: u64 = 4 << 20;

/// Size of a [`Call`] in memory.
pub const CALL_BYTES: usize = 40;
/// The ioctl request: `_IOWR('O', 1, 40 bytes)`.
pub const CALL: u32 = 0xc000_0000 | (CALL_BYTES as u32) << 16 | (b'O' as u32) << 8 | 1;

/// The header of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub version: u32,
    pub operation: u32,
    pub in_addr: u64,
    pub in_len: u64,
    pub out_addr: u64,
    pub out_len: u64,
}

impl Call {
    /// As it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; CALL_BYTES] {
        let mut bytes = [0; CALL_BYTES];
        bytes[0..4].copy_from_slice(&self.version.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.operation.to_le_bytes());
        for (at, field) in [(8, self.in_addr), (16, self.in_len), (24, self.out_addr), (32, self.out_len)] {
            bytes[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }
    /// The inverse.
    #[must_use]
    pub fn from_bytes(bytes: [u8; CALL_BYTES]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let [low, high] = [word(0) & 0xffff_ffff, word(0) >> 32];
        let half = |value: u64| u32::try_from(value).expect("masked or shifted to 32 bits");
        Self {
            version: half(low),
            operation: half(high),
            in_addr: word(8),
            in_len: word(16),
            out_addr: word(24),
            out_len: word(32),
        }
    }
}

/// Who may call an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only root of the global zone, through [`DEVICE`].
    Global,
    /// Everybody, about the own zone (in the global zone: about all).
    Own,
    /// Root of the global zone, and through [`KSTAT_DEVICE`] root of a zone, about data sets that were delegated to it.
    Delegated,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub operation: Operation,
    pub name: &'static str,
    pub scope: Scope,
    /// Fields of request and reply, for people.
    pub fields: &'static str,
}

macro_rules! operations {
    ($($number:literal $variant:ident $name:literal $scope:ident $fields:literal;)+) => {
        /// The operations.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Operation { $(#[doc = concat!("`", $name, "`: ", $fields)] $variant = $number),+ }
        /// The table of operations.
        pub const TABLE: &[Row] = &[
            $(Row { operation: Operation::$variant, name: $name, scope: Scope::$scope, fields: $fields }),+
        ];
    };
}

operations! {
    // nr variant     name           scope  request -> reply ("?" may be absent)
    1  ZoneCreate  "zone.create"  Global "name, root, uuid?: bytes16, did?, brand?, hostname?, rctls?: [{name, value}], lofs?: [{from, to}], datasets?: strings, volumes?: strings -> id";
    2  ZoneBoot    "zone.boot"    Global "zone, init, args?: strings -> pid";
    3  ZoneHalt    "zone.halt"    Global "zone -> (nothing); may be repeated";
    4  ZoneList    "zone.list"    Own    "-> zones: [as zone.get], lingering?: [{id, name, references}]";
    5  ZoneGet     "zone.get"     Own    "zone? -> id, name, state, administrative, root, uuid, did, brand, hostname, init_pid?, processes, lwps, memory_bytes, boot_time";
    6  ZoneSet     "zone.set"     Global "zone, hostname -> (nothing)";
    7  ZoneEnter   "zone.enter"   Global "zone -> (nothing): the calling process is in the zone now";
    8  RctlList    "rctl.list"    Own    "zone? -> rctls: [as rctl.get]";
    9  RctlGet     "rctl.get"     Own    "zone?, name -> name, unit, value, usage?, least, most, unlimited?, denies";
    10 RctlSet     "rctl.set"     Global "zone, name, value -> old";
    11 KstatRead   "kstat.read"   Own    "module?, instance?, name?, class? -> chain, kstats: [{module, instance, name, class, created, taken, data}]";
    12 CpuInfo     "cpu.info"     Own    "-> cpus: [{id, state, since, brand, mhz}]";
    13 HeapFailNth "heap.failnth" Global "n -> (nothing): the n-th fallible allocation from now fails, once";
    14 PoolList    "pool.list"    Global "pool? -> pools: [{name, guid, health, size, allocated, scan, scanning, paused, scan_errors, suspended, age, aside: [{kind, name, state, size, allocated, counts as a vdev's}], vdevs: [{name, guid, depth, state, log, size?, allocated?, read, write, checksum, reads, writes, bytes_read, bytes_written}]}]";
    15 PoolCreate  "pool.create"  Global "name, vdevs: strings, ashift?, force?, dry? -> guid?";
    16 PoolImport  "pool.import"  Global "pool?, destroyed?, to? (new name), for_now?, altroot?, unmounted?, read_only?, rewind?, without_log?, at_most?, force?, dry?, properties?: strings NAME=VALUE -> importable: [{name, guid, exported, host?, disks: strings}]; with a pool (name or guid): imports it -> name; dry: txg, newer";
    17 PoolExport  "pool.export"  Global "pool, destroy?, force? -> (nothing)";
    18 PoolDevice  "pool.device"  Global "pool, change: attach | replace | detach | offline | online | clear | add | remove, device? (clear: all), new?, sequential?, force? (add, attach, replace), expand? (online), vdevs?: strings -> (nothing)";
    19 PoolScrub   "pool.scrub"   Global "pool, stop?, pause? -> (nothing): starts it, or lets a paused one go on";
    20 DatasetList "dataset.list" Delegated "name?, bookmarks? -> datasets: [{name, kind, used, available?, referenced, created, origin?, mountpoint?, mounted?, listed? (a snapshot that the pool lists by itself)}]";
    21 DatasetMake "dataset.make" Delegated "name, parents?, origin?: DATASET@NAME to clone, volsize?, volblocksize?, sparse?, properties?: strings NAME=VALUE -> (nothing): makes a file system and mounts it, or with a size a volume";
    22 DatasetSnap "dataset.snapshot" Delegated "names: strings DATASET@NAME, recursive? -> (nothing)";
    23 DatasetMount "dataset.mount" Delegated "name, unmount?, options?: strings -> (nothing)";
    24 DatasetChange "dataset.change" Delegated "change: destroy | rollback | promote | rename | hold | release | bookmark | abort-receive, name, to? (new name, tag, bookmark), recursive?, clones?, defer?, dry? (destroy), parents?, unmounted? (rename) -> names? (what would go)";
    25 DatasetSet "dataset.set" Delegated "name, property, value?, received? -> (nothing): without a value it is inherited, or as it was received";
    26 DatasetGet "dataset.get" Delegated "name, properties?: strings, recursive? -> values: [{dataset, property, value, exact, source, received, kind}]";
    27 StreamSend "stream.send" Delegated "to?, token?, from?, replicate?, intermediate?, properties?, large_blocks?, embed?, compressed? -> (nothing): with a snapshot opens a stream on this descriptor; without -> data: bytes, empty at the end, name?: of the snapshot";
    28 StreamReceive "stream.receive" Delegated "target?, force?, resumable?, unmounted?, dry?, properties?: strings NAME=VALUE, excluded?: strings, naming?: drop-pool | last-part, data?: bytes, end? -> received?: strings: with a target opens a stream on this descriptor";
    29 PoolHistory "pool.history" Global "pool -> lines: [{time, text, internal}]. What changes a pool takes command?: the line that asked for it, for the history";
    30 DatasetHolds "dataset.holds" Delegated "names: strings DATASET@NAME -> holds: [{snapshot, tag, time}]";
    31 DatasetDiff "dataset.diff" Delegated "name: DATASET@NAME, to? (a later snapshot, @NAME, a file system), place?, kinds?, script?, times? -> text, place? (where to go on from)";
    32 DatasetSpace "dataset.space" Delegated "name, of: user | group | project, from? -> holdings: [{id, used?, quota?, objects?, object_quota?}], next? (where to go on from)";
    36 PoolGet     "pool.get"     Global "pool? -> pools: [{name, values: [{property, value, exact, source}], lacking: strings}], features: strings NAME TEXT";
    37 PoolSet     "pool.set"     Global "pool, property, value -> (nothing)";
    38 PoolTend    "pool.tend"    Global "change: sync | reguid | reopen | resilver | upgrade | split | clear-label, pool, to? (split), devices?: strings, altroot?, dry? (split), force? (clear-label) -> devices?: strings, features?: strings";
    39 PoolFree    "pool.free"    Global "pool, work: trim | initialize, device?, vdev?, offset? -> bytes, unable, vdev?, offset?: where it goes on";
}

impl Operation {
    /// The row of a number.
    #[must_use]
    pub fn row(number: u32) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.operation as u32 == number)
    }
}

/// Why an operation was refused: `error` of the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request's bytes are not a list, or a field is missing, of a wrong type or out of range.
    Invalid,
    /// No zone, resource control or file of this name.
    NotFound,
    /// The name is taken.
    Exists,
    /// The zone is in a state that does not allow it.
    State,
    /// Something is still in use; try again.
    Busy,
    /// A limit is reached or memory is short.
    Limit,
    /// The caller may not.
    Denied,
    /// The zone's first program could not be started.
    Exec,
}

impl Code {
    /// All codes.
    pub const ALL: [Self; 8] =
        [Self::Invalid, Self::NotFound, Self::Exists, Self::State, Self::Busy, Self::Limit, Self::Denied, Self::Exec];
    /// Its word on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not-found",
            Self::Exists => "exists",
            Self::State => "state",
            Self::Busy => "busy",
            Self::Limit => "limit",
            Self::Denied => "denied",
            Self::Exec => "exec",
        }
    }
    /// The code of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips_and_has_the_documented_layout() {
        let call = Call { version: 1, operation: 7, in_addr: 0x1122_3344_5566_7788, in_len: 5, out_addr: 6, out_len: u64::MAX };
        let bytes = call.to_bytes();
        assert_eq!(Call::from_bytes(bytes), call);
        assert_eq!(&bytes[..8], &[1, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(bytes[8], 0x88);
        assert_eq!(CALL, 0xc028_4f01);
    }

    #[test]
    fn numbers_and_names_are_unique_and_in_order() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].operation < pair[1].operation);
        }
        for (index, row) in TABLE.iter().enumerate() {
            assert!(TABLE[..index].iter().all(|other| other.name != row.name));
            assert_eq!(Operation::row(row.operation as u32), Some(row));
        }
        assert_eq!(Operation::row(0), None);
    }

    #[test]
    fn codes_round_trip() {
        for code in Code::ALL {
            assert_eq!(Code::from_word(code.word()), Some(code));
        }
    }
}
