//! The lock classes, lowest first: a thread may take a lock only if its class is higher than all classes it holds.
//! One table for the whole kernel; adding a lock class is a line here.

macro_rules! classes {
    ($($(#[$about:meta])* $name:ident $(= $number:literal)?,)*) => {
        /// Class of a lock. The order of the variants *is* the lock order (outermost first).
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum Class {
            $($(#[$about])* $name $(= $number)?,)*
        }

        const NAMES: &[(Class, &str)] = &[$((Class::$name, stringify!($name))),*];
    };
}

classes! {
    // Sleeping locks (Mutex), outermost first.
    Control = 1,
    /// An operator's change of datasets that mounts or unmounts.
    Operator,
    ZoneTable,
    Zone,
    ProcTable,
    Process,
    Mounts,
    /// Renames between directories of one file system (the tree's shape).
    Rename,
    /// Directory vnodes, parent before child (two of this class may be held: parent then child).
    Directory,
    Files,
    File,
    Vnode,
    /// Advisory locks of one file.
    FileLocks,
    /// Interest lists of epoll objects (one inside another is refused, so they never nest).
    Epoll,
    Tty,
    AddressSpace,
    Pages,
    /// A pool: its store, across disk I/O.
    Pool,
    // Spin locks from here on.
    Signals = 32,
    /// Pending signals of one LWP.
    LwpSignals,
    /// Small fields of a process: pointers to its parts, limits, times.
    ProcessState,
    /// Which LWP a kernel thread runs.
    LwpMap,
    Futex,
    /// Where one futex waiter is queued.
    FutexKey,
    Pipe,
    /// Child map and covered place of one mount.
    MountTree,
    /// How many nodes of one tmpfs each zone has made.
    TmpfsNodes,
    /// Input ring of a serial line (filled by the interrupt).
    TtyInput,
    /// Who waits for a pool.
    PoolQueue,
    /// Tables of a pool's nodes, and what they know of their files.
    PoolNodes,
    /// Which pages of pools' files stay in memory.
    PoolCache,
    /// A disk's queue and requests.
    Disk,
    /// Epoll objects that hear of an object's events.
    Listeners,
    WaitQueue,
    Kstat,
    Sched,
    Threads,
    Timers,
    /// Key of the random-number generator.
    Random,
    /// Free slots of kernel stacks.
    Stacks,
    /// Page tables of the kernel half, interrupt routing.
    KernelMap,
    Heap,
    FrameCache,
    Frames,
    Uart,
    Log,
}

/// Sets of classes are kept as 64 bits.
const _: () = assert!((Class::Log as u8) < 64);

impl Class {
    /// Number of the first class of spin locks; those of mutexes are lower.
    pub const FIRST_SPIN: u8 = Self::Signals as u8;
    /// The name of a class by its number, for reports.
    #[must_use]
    pub fn name(number: u8) -> Option<&'static str> {
        NAMES.iter().find(|(class, _)| *class as u8 == number).map(|(_, name)| *name)
    }
    /// True for classes of which several locks may be held at once (ordered by other means).
    #[must_use]
    pub const fn nests(self) -> bool {
        matches!(self, Self::Directory)
    }
}
