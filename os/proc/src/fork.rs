//! New processes and LWPs (`clone(2)`, `fork(2)`).

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use linux_abi::consts::{process as abi, signal::SIGCHLD};
use linux_abi::SigStack;
use zone::Limit;

use crate::process::{Birth, Completion, Lwp, Process, UNLIMITED};
use crate::signal::{Actions, SigSet};
use crate::table::{self, Entry};
use crate::task::Task;
use crate::{ProcError, Result};

/// Arguments of `clone3(2)`, as far as we take them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clone {
    pub flags: u64,
    /// Initial stack pointer; 0: the parent's.
    pub stack: u64,
    pub tls: u64,
    pub parent_tid: u64,
    pub child_tid: u64,
    /// Signal for the parent when the child ends.
    pub exit_signal: u32,
}

impl Clone {
    /// `fork`.
    pub const FORK: Self = Self { flags: 0, stack: 0, tls: 0, parent_tid: 0, child_tid: 0, exit_signal: SIGCHLD };
    /// `vfork`.
    pub const VFORK: Self = Self { flags: abi::CLONE_VFORK | abi::CLONE_VM, ..Self::FORK };

    const fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }
    fn check(&self) -> Result<()> {
        const TOGETHER: u64 = abi::CLONE_THREAD | abi::CLONE_SIGHAND | abi::CLONE_VM;
        const REFUSED: u64 = abi::CLONE_NEW_ANY | abi::CLONE_PIDFD | abi::CLONE_PTRACE;
        let threads = self.flags & TOGETHER;
        let shared_handlers = threads == TOGETHER || !self.has(abi::CLONE_SIGHAND | abi::CLONE_THREAD);
        if !shared_handlers || self.has(REFUSED) || self.exit_signal > crate::signal::SIGNALS {
            return Err(ProcError::Invalid);
        }
        if self.has(abi::CLONE_SIGHAND) && self.has(abi::CLONE_CLEAR_SIGHAND) {
            return Err(ProcError::Invalid);
        }
        Ok(())
    }
}

/// Makes a copy of the calling LWP: a child process, or with CLONE_THREAD another LWP. Returns its machine-wide id.
///
/// # Errors
/// [`ProcError::TryAgain`] at a limit, [`ProcError::NoMemory`], [`ProcError::Invalid`] for flags we do not take.
pub fn clone(task: &mut Task, args: &Clone) -> Result<u32> {
    args.check()?;
    let outer = if args.has(abi::CLONE_PARENT) { task.process.parent() } else { None };
    if outer.as_ref().is_some_and(|outer| outer.zone_id() != task.zone.id()) {
        // Who came by zlogin has a parent in another zone: it would never wait for children it did not make, and they would pile up beyond any limit.
        return Err(ProcError::Invalid);
    }
    let lwp_charge = task.zone.charge(Limit::Lwps).map_err(|_| ProcError::TryAgain)?;
    let mut user = kif::platform().new_user_context(Some(&mut *task.user))?;
    {
        let regs = user.regs();
        regs.rax = 0;
        regs.orig_rax = u64::MAX;
        if args.stack != 0 {
            regs.rsp = args.stack;
        }
        if args.has(abi::CLONE_SETTLS) {
            regs.fs_base = args.tls;
        }
    }
    let thread = args.has(abi::CLONE_THREAD);
    let process_charge = if thread { None } else { Some(process_charge(task)?) };
    let tid = table::lock().reserve()?;
    let undo = Reserved(tid);
    let (process, files, space) = match process_charge {
        None => (Arc::clone(&task.process), Arc::clone(&task.files), Arc::clone(&task.space)),
        Some(charge) => new_process(task, args, tid, charge)?,
    };
    let shown = process.show(tid);
    if args.has(abi::CLONE_PARENT_SETTID) {
        kif::user().write(args.parent_tid, &shown.to_le_bytes())?;
    }
    if args.has(abi::CLONE_CHILD_SETTID) {
        if Arc::ptr_eq(&space, &task.space) {
            kif::user().write(args.child_tid, &shown.to_le_bytes())?;
        } else {
            space.poke(args.child_tid, &shown.to_le_bytes())?;
        }
    }
    let lwp = Lwp::new(tid, Arc::clone(&process), task.lwp.mask(), task.lwp.name(), lwp_charge);
    let child = Task {
        lwp: Arc::clone(&lwp),
        process: Arc::clone(&process),
        zone: Arc::clone(&task.zone),
        files,
        user,
        // A thread starts without an alternate stack, and so does a child that shares memory but is not a vfork.
        alt_stack: if !args.has(abi::CLONE_VM) || args.has(abi::CLONE_VFORK) { task.alt_stack } else { SigStack::default() },
        saved_mask: None,
        restart_deadline: None,
        clear_tid: if args.has(abi::CLONE_CHILD_CLEARTID) { args.child_tid } else { 0 },
        robust_list: 0,
        rseq: if args.has(abi::CLONE_VM) { (0, 0) } else { task.rseq },
        exiting: None,
        interrupted: None,
        space,
    };
    let vfork = args.has(abi::CLONE_VFORK).then(|| Arc::new(Completion::default()));
    process.signals.lock().lwps.push(Arc::clone(&lwp));
    if thread {
        let leaving = {
            let state = process.signals.lock();
            state.ending.is_some() || state.exec_by.is_some()
        };
        if leaving {
            remove_lwp(&process, &lwp);
            return Err(ProcError::Interrupted);
        }
        table::lock().fill(tid, Entry::Lwp(Arc::clone(&lwp)));
    } else {
        *process.vfork.lock() = vfork.clone();
        let parent = if args.has(abi::CLONE_PARENT) { outer } else { None };
        let parent = parent.unwrap_or_else(|| Arc::clone(&task.process));
        if args.has(abi::CLONE_PARENT) {
            *process.parent.lock() = Arc::downgrade(&parent);
            process.parent_seen.store(task.process.parent_pid(), Ordering::Relaxed);
        }
        let mut table = table::lock();
        // A zone that shuts down kills what is in the table: being in it and seeing the zone closed cannot both fail.
        if !task.zone.state().admits_processes() || parent.zombie().is_some() {
            drop(table);
            remove_lwp(&process, &lwp);
            return Err(ProcError::TryAgain);
        }
        table.fill(tid, Entry::Process(Arc::clone(&process)));
        parent.children.lock().push(Arc::clone(&process));
    }
    core::mem::forget(undo);
    start(child, &process)?;
    if let Some(vfork) = vfork {
        vfork.wait();
    }
    Ok(tid)
}

/// Starts the kernel thread of an LWP that is in the tables; takes it out again if there is no memory for the stack.
pub(crate) fn start(task: Task, process: &Arc<Process>) -> Result<()> {
    let lwp = Arc::clone(&task.lwp);
    let zone = task.zone.id();
    let name = process.name();
    if kif::spawn().spawn_lwp(&name, zone, Box::new(move || task.main())).is_ok() {
        return Ok(());
    }
    remove_lwp(process, &lwp);
    let mut table = table::lock();
    table.free(lwp.tid());
    if lwp.tid() == process.pid()
        && let Some(parent) = process.parent()
    {
        parent.children.lock().retain(|child| !Arc::ptr_eq(child, process));
    }
    Err(ProcError::NoMemory)
}

fn remove_lwp(process: &Process, lwp: &Arc<Lwp>) {
    process.signals.lock().lwps.retain(|other| !Arc::ptr_eq(other, lwp));
    lwp.set_charge(None);
    process.stop_queue.wake_all();
}

/// Gives a reserved id back unless forgotten.
struct Reserved(u32);

impl Drop for Reserved {
    fn drop(&mut self) {
        table::lock().free(self.0);
    }
}

fn process_charge(task: &Task) -> Result<zone::Charge> {
    let limit = task.process.limit(abi::RLIMIT_NPROC);
    if limit != UNLIMITED && !task.process.cred().is_root() {
        let uid = task.process.cred().uid;
        let own = table::list(task.zone.id()).into_iter().filter(|process| process.cred().uid == uid).count();
        if own as u64 >= limit {
            return Err(ProcError::TryAgain);
        }
    }
    task.zone.charge(Limit::Processes).map_err(|_| ProcError::TryAgain)
}

type Parts = (Arc<Process>, Arc<crate::FdTable>, Arc<vm::AddressSpace>);

fn new_process(task: &Task, args: &Clone, pid: u32, charge: zone::Charge) -> Result<Parts> {
    let parent = &task.process;
    let space = if args.has(abi::CLONE_VM) { Arc::clone(&task.space) } else { task.space.fork()? };
    let files = if args.has(abi::CLONE_FILES) { Arc::clone(&task.files) } else { Arc::new(task.files.duplicate()?) };
    let actions = if args.has(abi::CLONE_CLEAR_SIGHAND) {
        let mut actions = parent.signals.lock().actions.clone();
        actions.reset_caught();
        actions
    } else {
        parent.signals.lock().actions.clone()
    };
    let limits = parent.limits();
    let process = Process::new(Birth {
        pid,
        zone: Arc::clone(&task.zone),
        zone_init: parent.zone_init(),
        parent: Some(Arc::clone(parent)),
        group: parent.group(),
        session: parent.session(),
        cred: parent.cred(),
        directories: parent.directories().ok_or(ProcError::NoProcess)?,
        files: Arc::clone(&files),
        space: Arc::clone(&space),
        image: parent.image(),
        limits,
        actions,
        umask: parent.umask(),
        nice: parent.nice(),
        exit_signal: args.exit_signal,
        charge,
    });
    process.no_new_privileges().store(parent.no_new_privileges().load(Ordering::Relaxed), Ordering::Relaxed);
    Ok((process, files, space))
}

/// Everything a first process of a zone needs.
#[allow(missing_debug_implementations, reason = "holds files")]
pub struct Spawn {
    pub zone: Arc<zone::Zone>,
    pub root: vfs::Place,
    pub program: crate::exec::Program,
    /// Descriptors 0, 1, 2, ...
    pub files: alloc::vec::Vec<Arc<vfs::File>>,
}

/// Starts the init of a zone: a process without a parent, leader of its own session. Returns its pid.
///
/// # Errors
/// The program cannot be loaded, or a limit; nothing is left behind.
pub fn spawn_init(spawn: Spawn) -> Result<u32> {
    let lwp_charge = spawn.zone.charge(Limit::Lwps).map_err(|_| ProcError::TryAgain)?;
    let charge = spawn.zone.charge(Limit::Processes).map_err(|_| ProcError::TryAgain)?;
    let mut user = kif::platform().new_user_context(None)?;
    let cred = crate::Credentials::root(spawn.zone.id());
    let directories = crate::Directories { root: spawn.root.clone(), cwd: spawn.root };
    let limits = crate::LimitSet::default();
    let loaded = crate::exec::Runner {
        cred: &cred,
        directories: &directories,
        limits: &limits,
        zone: spawn.zone.id(),
        fpu_bytes: user.fpu_bytes(),
        keep_privileges: false,
    }
    .load(None, spawn.program)?;
    *user.regs() = crate::exec::start_registers(loaded.entry, loaded.stack);
    let files = Arc::new(crate::FdTable::new());
    for file in spawn.files {
        files.insert(file, false, 0, 1024)?;
    }
    let pid = table::lock().reserve()?;
    let undo = Reserved(pid);
    let process = Process::new(Birth {
        pid,
        zone: Arc::clone(&spawn.zone),
        zone_init: pid,
        parent: None,
        group: pid,
        session: pid,
        cred: Arc::new(loaded.cred),
        directories: Arc::new(directories),
        files: Arc::clone(&files),
        space: Arc::clone(&loaded.space),
        image: Arc::new(loaded.image),
        limits,
        actions: Actions::default(),
        umask: 0o022,
        nice: 0,
        exit_signal: 0,
        charge,
    });
    let lwp = Lwp::new(pid, Arc::clone(&process), SigSet::EMPTY, loaded.name, lwp_charge);
    process.signals.lock().lwps.push(Arc::clone(&lwp));
    let task = Task {
        lwp,
        process: Arc::clone(&process),
        zone: spawn.zone,
        files,
        space: loaded.space,
        user,
        alt_stack: SigStack::default(),
        saved_mask: None,
        restart_deadline: None,
        clear_tid: 0,
        robust_list: 0,
        rseq: (0, 0),
        exiting: None,
        interrupted: None,
    };
    table::lock().fill(pid, Entry::Process(Arc::clone(&process)));
    core::mem::forget(undo);
    start(task, &process)?;
    Ok(pid)
}
