//! procfs: `/proc`, as the processes of one zone see it.
//!
//! # Theory
//! Nothing is stored. A directory is a look at the process table through the eyes of a zone (`proc::lookup` with the mount's
//! zone as viewer): other zones' processes are not hidden by a filter here, they are not found. The global zone sees all, and
//! which zone each belongs to (`/proc/PID/zone`). A file's text is made when it is opened and does not change under the reader.
//!
//! Files are rows: of [`system::FILES`] (by path, directories follow from the paths), of [`process::FILES`]. Adding one
//! is a row and a function.
//!
//! # Structures
//! [`Procfs`] -> [`Node`] (made at each look-up; identity is a number worked out from what it shows) -> [`Text`] or
//! [`Setting`] once opened.
//!
//! # Locking
//! None of its own. Process-layer locks are taken and released inside each question.
//!
//! # Failure
//! A process that ends meanwhile: `NotFound`. What the viewer may not know: `AccessDenied`.
//!
//! # Limits
//! Text is made whole: a process with very many mappings makes a long `maps`, charged to the reader's call. No
//! `/proc/PID/mem`, no `ns`. Writing works for the rows that say so.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use kif::{Nanos, ZoneId};
use proc::{Lwp, Process};
use vfs::{
    Attr, DirEntry, Filesystem, Io, Jump, Kind, NodeId, OpenFlags, Place, Result, SetAttr, StatFs, VfsError, Vnode, VnodeRef,
};

mod process;
mod system;

pub use system::{Machine, install_machine};

/// `f_type` of procfs.
const MAGIC: u64 = 0x9fa0;
const ROOT_INO: u64 = 1;
/// Inode numbers: `group << GROUP_SHIFT | number` (below), with the machine-wide pid or tid as number's upper part.
const SYSTEM_INO: u64 = 0x100;
const DIRECTORY_INO: u64 = 0x1000;
const PROCESS_SHIFT: u32 = 24;

/// A zone's `/proc`.
#[derive(Debug)]
pub struct Procfs {
    view: Arc<View>,
}

/// Whose `/proc` it is.
#[derive(Debug)]
struct View {
    fs: u64,
    zone: ZoneId,
    made: Nanos,
}

/// Makes the `/proc` of `zone`.
#[must_use]
pub fn new(zone: ZoneId) -> Arc<dyn Filesystem> {
    Arc::new(Procfs { view: Arc::new(View { fs: vfs::mount::next_fs_id(), zone, made: kif::clock().realtime() }) })
}

impl Filesystem for Procfs {
    fn kind(&self) -> &'static str {
        "proc"
    }
    fn root(&self) -> VnodeRef {
        self.view.node(What::Directory(""))
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: MAGIC, block_bytes: 4096, ..StatFs::default() })
    }
}

impl View {
    fn node(self: &Arc<Self>, what: What) -> VnodeRef {
        Arc::new(Node { view: Arc::clone(self), what })
    }
    /// An id of `process`'s group, session or the like, as the viewer sees it.
    fn shown(&self, process: &Process, id: u32) -> u32 {
        if self.zone == ZoneId::GLOBAL { id } else { process.show(id) }
    }
    fn pid(&self, process: &Process) -> u32 {
        process.seen_by(self.zone).unwrap_or(0)
    }
    /// Machine time at which the viewer's zone began.
    fn boot(&self) -> Nanos {
        zone::lookup(self.zone).map_or(Nanos(0), |zone| zone.booted_at())
    }
}

/// What a node shows.
#[derive(Clone)]
enum What {
    /// A directory of the system table, by path; `""` is the root.
    Directory(&'static str),
    /// A file of the system table.
    System(usize),
    /// `self` and `thread-self`.
    MyProcess,
    MyThread,
    /// `mounts`, and `net`: links into `self`.
    Link(&'static str),
    Process(Owner, Part),
}

/// A process, or one of its LWPs under `task`.
#[derive(Clone)]
struct Owner {
    process: Weak<Process>,
    pid: u32,
    lwp: Option<Weak<Lwp>>,
    /// Machine-wide id of the LWP, or the pid.
    tid: u32,
}

/// Part of a process's directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Directory,
    File(usize),
    Exe,
    Cwd,
    Root,
    Tasks,
    Fds,
    FdInfos,
    Fd(u32),
    FdInfo(u32),
}

/// Links in the root directory.
const LINKS: [(&str, &str); 1] = [("mounts", "self/mounts")];
/// What a process's directory holds besides [`process::FILES`].
const PARTS: [(&str, Part); 6] = [
    ("cwd", Part::Cwd),
    ("exe", Part::Exe),
    ("fd", Part::Fds),
    ("fdinfo", Part::FdInfos),
    ("root", Part::Root),
    ("task", Part::Tasks),
];

impl Owner {
    fn of(process: &Arc<Process>) -> Self {
        let pid = process.pid();
        Self { process: Arc::downgrade(process), pid, lwp: None, tid: pid }
    }
    fn process(&self) -> Result<Arc<Process>> {
        self.process.upgrade().ok_or(VfsError::NotFound)
    }
    /// The LWP it speaks for: the one under `task`, else the first.
    fn lwp(&self) -> Option<Arc<Lwp>> {
        match &self.lwp {
            Some(lwp) => lwp.upgrade(),
            None => self.process.upgrade()?.lwps().first().cloned(),
        }
    }
}

impl Part {
    const fn kind(self) -> Kind {
        match self {
            Self::Directory | Self::Tasks | Self::Fds | Self::FdInfos => Kind::Directory,
            Self::File(_) | Self::FdInfo(_) => Kind::File,
            Self::Exe | Self::Cwd | Self::Root | Self::Fd(_) => Kind::Symlink,
        }
    }
    /// Distinct for the parts of one process.
    const fn number(self) -> u64 {
        match self {
            Self::Directory => 0,
            Self::Exe => 1,
            Self::Cwd => 2,
            Self::Root => 3,
            Self::Tasks => 4,
            Self::Fds => 5,
            Self::FdInfos => 6,
            Self::File(index) => 0x100 + index as u64,
            Self::Fd(fd) => 0x40_0000 + fd as u64,
            Self::FdInfo(fd) => 0x80_0000 + fd as u64,
        }
    }
    /// True if only the owner (or root) may look.
    const fn is_private(self) -> bool {
        match self {
            Self::Exe | Self::Cwd | Self::Root | Self::Fds | Self::FdInfos | Self::Fd(_) | Self::FdInfo(_) => true,
            Self::File(index) => process::FILES[index].mode & 0o044 == 0,
            Self::Directory | Self::Tasks => false,
        }
    }
}

/// A file, directory or link of procfs.
struct Node {
    view: Arc<View>,
    what: What,
}

/// The calling process, if there is one.
fn caller() -> Option<Arc<Process>> {
    proc::current().map(|lwp| Arc::clone(lwp.process()))
}

impl Node {
    fn ino(&self) -> u64 {
        match &self.what {
            What::Directory("") => ROOT_INO,
            What::Directory(path) => DIRECTORY_INO + system::directory_number(path),
            What::System(index) => SYSTEM_INO + *index as u64,
            What::MyProcess => 2,
            What::MyThread => 3,
            What::Link(_) => 4,
            What::Process(owner, part) => {
                // An LWP's directory is not the one of its process, even for the first.
                let under_task = u64::from(owner.lwp.is_some()) << 62;
                under_task | (u64::from(owner.tid) + 1) << PROCESS_SHIFT | part.number()
            }
        }
    }
    const fn own_kind(&self) -> Kind {
        match &self.what {
            What::Directory(_) => Kind::Directory,
            What::System(_) => Kind::File,
            What::MyProcess | What::MyThread | What::Link(_) => Kind::Symlink,
            What::Process(_, part) => part.kind(),
        }
    }
    /// Refuses a caller that may not look into another user's process.
    fn check_private(&self) -> Result<()> {
        let What::Process(owner, part) = &self.what else { return Ok(()) };
        if !part.is_private() {
            return Ok(());
        }
        let Some(caller) = caller() else { return Ok(()) };
        // The operator's until it runs a program of the zone.
        if owner.process()?.is_visitor() && caller.zone_id() != ZoneId::GLOBAL && caller.pid() != owner.pid {
            return Err(VfsError::AccessDenied);
        }
        let (mine, theirs) = (caller.cred(), owner.process()?.cred());
        if mine.is_root() || mine.euid == theirs.uid && mine.euid == theirs.euid { Ok(()) } else { Err(VfsError::AccessDenied) }
    }
    /// Entries of a directory with their names, without the dots.
    fn entries(&self) -> Result<Vec<(Vec<u8>, What)>> {
        let decimal = |id: u32| id.to_string().into_bytes();
        let mut list = Vec::new();
        match &self.what {
            What::Directory(path) => {
                list.extend(system::children(path));
                if path.is_empty() {
                    list.extend(LINKS.iter().map(|(name, to)| (name.as_bytes().to_vec(), What::Link(to))));
                    list.push((b"self".to_vec(), What::MyProcess));
                    list.push((b"thread-self".to_vec(), What::MyThread));
                    let processes = proc::list(self.view.zone);
                    list.extend(processes.iter().map(|process| {
                        (decimal(self.view.pid(process)), What::Process(Owner::of(process), Part::Directory))
                    }));
                }
            }
            What::Process(owner, Part::Directory) => {
                let part = |name: &str, part| (name.as_bytes().to_vec(), What::Process(owner.clone(), part));
                list.extend(process::FILES.iter().enumerate().map(|(index, row)| part(row.name, Part::File(index))));
                // A task has no tasks.
                let parts = PARTS.iter().filter(|(_, kind)| owner.lwp.is_none() || *kind != Part::Tasks);
                list.extend(parts.map(|(name, kind)| part(name, *kind)));
            }
            What::Process(owner, Part::Tasks) => {
                let process = owner.process()?;
                list.extend(process.lwps().iter().map(|lwp| {
                    let shown = self.view.shown(&process, lwp.tid());
                    let task = Owner { lwp: Some(Arc::downgrade(lwp)), tid: lwp.tid(), ..owner.clone() };
                    (decimal(shown), What::Process(task, Part::Directory))
                }));
            }
            What::Process(owner, part @ (Part::Fds | Part::FdInfos)) => {
                self.check_private()?;
                let files = owner.process()?.files().map_or(Ok(Vec::new()), |files| files.list()).map_err(|_| VfsError::NoMemory)?;
                list.extend(files.iter().map(|fd| {
                    let entry = if *part == Part::Fds { Part::Fd(*fd) } else { Part::FdInfo(*fd) };
                    (decimal(*fd), What::Process(owner.clone(), entry))
                }));
            }
            What::System(_) | What::MyProcess | What::MyThread | What::Link(_) | What::Process(..) => {
                return Err(VfsError::NotDirectory);
            }
        }
        Ok(list)
    }
    fn find(&self, name: &[u8]) -> Result<What> {
        let number = core::str::from_utf8(name).ok().filter(|text| !text.starts_with(['+', '0']) || *text == "0");
        let number: Option<u32> = number.and_then(|text| text.parse().ok());
        // Numbers are looked up; the few names are searched.
        match (&self.what, number) {
            (What::Directory(""), Some(pid)) => {
                let process = proc::lookup(self.view.zone, pid).map_err(|_| VfsError::NotFound)?;
                Ok(What::Process(Owner::of(&process), Part::Directory))
            }
            (What::Process(owner, part @ (Part::Fds | Part::FdInfos)), Some(fd)) => {
                self.check_private()?;
                let files = owner.process()?.files().ok_or(VfsError::NotFound)?;
                files.get(fd).map_err(|_| VfsError::NotFound)?;
                Ok(What::Process(owner.clone(), if *part == Part::Fds { Part::Fd(fd) } else { Part::FdInfo(fd) }))
            }
            _ => {
                let found = self.entries()?.into_iter().find(|(entry, _)| entry == name);
                found.map(|(_, what)| what).ok_or(VfsError::NotFound)
            }
        }
    }
    /// What a link of a process leads to.
    fn target(&self) -> Result<Option<Jump>> {
        let What::Process(owner, part) = &self.what else { return Ok(None) };
        self.check_private()?;
        let process = owner.process()?;
        let gone = VfsError::NotFound;
        Ok(Some(match part {
            Part::Exe => process.image().exe.as_ref().ok_or(gone)?.target(),
            Part::Cwd => Jump { place: process.directories().ok_or(gone)?.cwd.clone(), link: None },
            Part::Root => Jump { place: process.directories().ok_or(gone)?.root.clone(), link: None },
            Part::Fd(fd) => {
                let files = process.files().ok_or(gone)?;
                files.get(*fd).map_err(|_| gone)?.target()
            }
            Part::Directory | Part::File(_) | Part::Tasks | Part::Fds | Part::FdInfos | Part::FdInfo(_) => return Ok(None),
        }))
    }
    /// The text of a file.
    fn text(&self) -> Result<Vec<u8>> {
        self.check_private()?;
        match &self.what {
            What::System(index) => Ok((system::FILES[*index].read)(&self.view)),
            What::Process(owner, Part::File(index)) => (process::FILES[*index].read)(&self.view, owner),
            What::Process(owner, Part::FdInfo(fd)) => process::fd_info(owner, *fd),
            What::Directory(_) | What::MyProcess | What::MyThread | What::Link(_) | What::Process(..) => Err(VfsError::Invalid),
        }
    }
    fn mode(&self) -> u32 {
        match &self.what {
            What::Directory(_) => 0o555,
            What::System(index) => system::FILES[*index].mode,
            What::MyProcess | What::MyThread | What::Link(_) => 0o777,
            What::Process(_, part) => match part {
                Part::Directory | Part::Tasks => 0o555,
                Part::Fds | Part::FdInfos => 0o500,
                Part::File(index) => process::FILES[*index].mode,
                Part::FdInfo(_) => 0o400,
                Part::Exe | Part::Cwd | Part::Root => 0o777,
                Part::Fd(_) => 0o700,
            },
        }
    }
}

/// Where the viewer's paths begin.
fn viewer_root() -> Option<Place> {
    Some(caller()?.directories()?.root.clone())
}

impl Vnode for Node {
    fn id(&self) -> NodeId {
        NodeId { fs: self.view.fs, ino: self.ino() }
    }
    fn kind(&self) -> Kind {
        self.own_kind()
    }
    fn attr(&self) -> Result<Attr> {
        let kind = self.own_kind();
        let (mut uid, mut gid, mut time) = (0, 0, self.view.made);
        if let What::Process(owner, _) = &self.what {
            let process = owner.process()?;
            let cred = process.cred();
            (uid, gid) = (cred.euid, cred.egid);
            let clock = kif::clock();
            let age = clock.monotonic().since(process.started());
            time = clock.realtime().since(age);
        }
        let nlink = if kind == Kind::Directory { 2 } else { 1 };
        Ok(Attr { uid, gid, nlink, atime: time, mtime: time, ctime: time, ..Attr::simple(self.id(), kind, self.mode()) })
    }
    fn set_attr(&self, _change: &SetAttr) -> Result<()> {
        Err(VfsError::NotPermitted)
    }
    fn lookup(&self, name: &[u8]) -> Result<VnodeRef> {
        self.find(name).map(|what| self.view.node(what))
    }
    fn parent(&self) -> Result<(VnodeRef, Box<[u8]>)> {
        let (parent, name) = match &self.what {
            What::Directory("") => (What::Directory(""), Vec::new()),
            What::Directory(path) => match path.rsplit_once('/') {
                Some((above, name)) => (What::Directory(above), name.as_bytes().to_vec()),
                None => (What::Directory(""), path.as_bytes().to_vec()),
            },
            What::Process(owner, part) => {
                let process = owner.process()?;
                let directory = |name: &str| (What::Process(owner.clone(), Part::Directory), name.as_bytes().to_vec());
                match part {
                    Part::Directory => match owner.lwp {
                        None => (What::Directory(""), self.view.pid(&process).to_string().into_bytes()),
                        Some(_) => {
                            let name = self.view.shown(&process, owner.tid).to_string().into_bytes();
                            (What::Process(Owner::of(&process), Part::Tasks), name)
                        }
                    },
                    Part::Tasks => directory("task"),
                    Part::Fds => directory("fd"),
                    Part::FdInfos => directory("fdinfo"),
                    Part::File(_) | Part::Exe | Part::Cwd | Part::Root | Part::Fd(_) | Part::FdInfo(_) => {
                        return Err(VfsError::NotDirectory);
                    }
                }
            }
            What::System(_) | What::MyProcess | What::MyThread | What::Link(_) => return Err(VfsError::NotDirectory),
        };
        Ok((self.view.node(parent), name.into()))
    }
    fn readdir(&self, cookie: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let mut entries = self.entries()?;
        let own = self.ino();
        if cookie < 1 && !emit(DirEntry { name: b".", ino: own, kind: Kind::Directory, next: 1 }) {
            return Ok(());
        }
        if cookie < 2 && !emit(DirEntry { name: b"..", ino: own, kind: Kind::Directory, next: 2 }) {
            return Ok(());
        }
        // Cookies are inode numbers (all above 2 once shifted), so that processes may come and go meanwhile.
        let node = |what: &What| Node { view: Arc::clone(&self.view), what: what.clone() };
        entries.sort_by_key(|(_, what)| node(what).ino());
        for (name, what) in &entries {
            let entry = node(what);
            let ino = entry.ino();
            let next = ino + 2;
            if next > cookie.max(2) && !emit(DirEntry { name, ino, kind: entry.own_kind(), next }) {
                break;
            }
        }
        Ok(())
    }
    fn readlink(&self) -> Result<Vec<u8>> {
        match &self.what {
            What::MyProcess => {
                let me = caller().and_then(|process| process.seen_by(self.view.zone)).ok_or(VfsError::NotFound)?;
                Ok(me.to_string().into_bytes())
            }
            What::MyThread => {
                let lwp = proc::current().ok_or(VfsError::NotFound)?;
                let process = lwp.process();
                let pid = process.seen_by(self.view.zone).ok_or(VfsError::NotFound)?;
                Ok(alloc::format!("{pid}/task/{}", self.view.shown(process, lwp.tid())).into_bytes())
            }
            What::Link(to) => Ok(to.as_bytes().to_vec()),
            What::Process(owner, part @ (Part::Exe | Part::Fd(_))) => {
                self.check_private()?;
                let process = owner.process()?;
                let file = match part {
                    Part::Fd(fd) => process.files().and_then(|files| files.get(*fd).ok()),
                    _ => process.image().exe.clone(),
                };
                let file = file.ok_or(VfsError::NotFound)?;
                Ok(file.describe(&viewer_root().unwrap_or_else(|| file.place().zone_root())))
            }
            What::Process(..) => {
                let place = self.target()?.ok_or(VfsError::Invalid)?.place;
                let root = viewer_root().unwrap_or_else(|| place.zone_root());
                Ok(vfs::path_of(&place, &root).unwrap_or_else(|| b"(unreachable)".to_vec()))
            }
            What::Directory(_) | What::System(_) => Err(VfsError::Invalid),
        }
    }
    fn jump(&self) -> Result<Option<Jump>> {
        self.target()
    }
    fn open(&self, flags: OpenFlags, _zone: ZoneId) -> Result<Option<VnodeRef>> {
        if self.own_kind() != Kind::File {
            return Ok(None);
        }
        let (id, mode) = (self.id(), self.mode());
        if flags.contains(OpenFlags::WRITE) {
            if mode & 0o222 == 0 {
                return Err(VfsError::AccessDenied);
            }
            return Ok(Some(Arc::new(Setting { id, view: Arc::clone(&self.view), what: self.what.clone() })));
        }
        Ok(Some(Arc::new(Text { id, mode, text: self.text()? })))
    }
    fn truncate(&self, _size: u64) -> Result<()> {
        // Opening a setting to overwrite it: there is nothing to cut.
        if self.mode() & 0o222 != 0 { Ok(()) } else { Err(VfsError::AccessDenied) }
    }
}

/// An opened file: its text as of the open.
struct Text {
    id: NodeId,
    mode: u32,
    text: Vec<u8>,
}

impl Vnode for Text {
    fn id(&self) -> NodeId {
        self.id
    }
    fn kind(&self) -> Kind {
        Kind::File
    }
    fn attr(&self) -> Result<Attr> {
        Ok(Attr { size: self.text.len() as u64, ..Attr::simple(self.id, Kind::File, self.mode) })
    }
    fn read_at(&self, offset: u64, out: &mut [u8], _io: Io) -> Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.text.get(offset..)).unwrap_or(&[]);
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// A setting opened for writing. Not seekable, so that it is called without the offset's lock: it takes locks of the process layer.
struct Setting {
    id: NodeId,
    view: Arc<View>,
    what: What,
}

impl Vnode for Setting {
    fn id(&self) -> NodeId {
        self.id
    }
    fn kind(&self) -> Kind {
        Kind::File
    }
    fn attr(&self) -> Result<Attr> {
        Ok(Attr::simple(self.id, Kind::File, 0o644))
    }
    fn is_seekable(&self) -> bool {
        false
    }
    fn write_at(&self, _offset: u64, data: &[u8], _io: Io) -> Result<usize> {
        let refused = VfsError::NotPermitted;
        match &self.what {
            What::System(index) => system::FILES[*index].write.ok_or(refused)?(&self.view, data)?,
            What::Process(owner, Part::File(index)) => process::FILES[*index].write.ok_or(refused)?(owner, data)?,
            What::Directory(_) | What::MyProcess | What::MyThread | What::Link(_) | What::Process(..) => return Err(refused),
        }
        Ok(data.len())
    }
}
