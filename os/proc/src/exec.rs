//! Programs: from a path to an address space and a first instruction (`execve(2)`).
//!
//! # Theory
//! The new address space is built beside the old one; only when it is complete do the other LWPs go and the old one is let go. Up
//! to there a failure leaves the caller as it was.
//!
//! # Limits
//! Four interpreters deep, 2 MiB of arguments and environment, 128 KiB in one string.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use kif::UserRegs;
use linux_abi::consts::{aux, process as abi};
use linux_abi::{Bytes, SigStack};
use vfs::{File, Place};
use vm::{AddressSpace, Backing, Label, MapRequest, Object, Place as At, Protection, USER_END};

use crate::cred::Credentials;
use crate::elf::{self, Plan};
use crate::process::{Directories, Image, LimitSet, Process};
use crate::task::Task;
use crate::{ProcError, Result, frame, table};

/// Longest argument or environment string, with its NUL (`MAX_ARG_STRLEN`).
pub const STRING_MAX: usize = 128 << 10;
/// Most bytes of all of them, pointers included.
pub const STRINGS_MAX: usize = 2 << 20;
/// Interpreters of interpreters.
const DEPTH_MAX: usize = 4;
/// Bytes of a file looked at for `#!`.
const HEAD_BYTES: usize = 256;
const PAGE: u64 = 4096;
/// Where movable programs go (Linux's `ELF_ET_DYN_BASE`, two thirds of the user part).
const MOVABLE_BASE: u64 = 0x5555_5555_4000;
/// Stack mapped beyond what the strings take.
const STACK_START: u64 = 128 << 10;
/// AT_HWCAP: CPUID.1:EDX of any x86-64 (FPU to SSE2).
const HWCAP: u64 = 0x078b_fbff;

/// What to run.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: Vec<u8>,
    pub arguments: Vec<Vec<u8>>,
    pub environment: Vec<Vec<u8>>,
}

/// Who runs it.
pub(crate) struct Runner<'a> {
    pub cred: &'a Credentials,
    pub directories: &'a Directories,
    pub limits: &'a LimitSet,
    pub zone: kif::ZoneId,
    pub fpu_bytes: usize,
    pub keep_privileges: bool,
}

/// A program ready to start.
pub(crate) struct Loaded {
    pub space: Arc<AddressSpace>,
    pub entry: u64,
    pub stack: u64,
    pub image: Image,
    pub cred: Credentials,
    pub name: [u8; 16],
}

impl Runner<'_> {
    /// Opens a program file; the caller needs permission to execute, not to read.
    fn open(&self, at: Option<&Place>, path: &[u8]) -> Result<Arc<File>> {
        let cx = vfs::Cx { cred: &self.cred.file, root: &self.directories.root, cwd: &self.directories.cwd };
        Ok(vfs::ops::open_program(&cx, at, path)?)
    }

    /// Loads `program`, following `#!` lines.
    pub fn load(&self, at: Option<&Place>, mut program: Program) -> Result<Loaded> {
        let name_of_path = program.path.clone();
        for _ in 0..=DEPTH_MAX {
            let file = self.open(at, &program.path)?;
            let mut head = [0; HEAD_BYTES];
            let count = read_fully(&file, 0, &mut head, self.zone)?;
            let head = &head[..count];
            if let Some((interpreter, argument)) = elf::script(head) {
                if count == HEAD_BYTES && !head.contains(&b'\n') {
                    return Err(ProcError::NotExecutable);
                }
                let mut arguments = vec![interpreter.to_vec()];
                arguments.extend(argument.map(<[u8]>::to_vec));
                arguments.push(program.path);
                arguments.extend(program.arguments.into_iter().skip(1));
                program = Program { path: interpreter.to_vec(), arguments, environment: program.environment };
                continue;
            }
            return self.load_binary(at, file, head, &program, &name_of_path);
        }
        Err(ProcError::TooDeep)
    }

    fn plan(&self, file: &Arc<File>, head: &[u8]) -> Result<Plan> {
        let header = elf::header(head).map_err(|elf::BadImage| ProcError::NotExecutable)?;
        let mut table = vec![0; header.entries * elf::ENTRY_BYTES];
        if read_fully(file, header.table_offset, &mut table, self.zone)? < table.len() {
            return Err(ProcError::NotExecutable);
        }
        elf::plan(&header, &table).map_err(|elf::BadImage| ProcError::NotExecutable)
    }

    fn load_binary(&self, at: Option<&Place>, file: Arc<File>, head: &[u8], program: &Program, named: &[u8]) -> Result<Loaded> {
        let text = vfs::text::execute(file.vnode().id())?;
        let plan = self.plan(&file, head)?;
        let interpreter = match plan.interpreter {
            None => None,
            Some((offset, length)) => {
                let mut path = vec![0; usize::try_from(length).map_err(|_| ProcError::NotExecutable)?];
                if read_fully(&file, offset, &mut path, self.zone)? < path.len() || path.pop() != Some(0) {
                    return Err(ProcError::NotExecutable);
                }
                let file = self.open(at, &path)?;
                let mut head = [0; elf::HEADER_BYTES];
                let count = read_fully(&file, 0, &mut head, self.zone)?;
                let plan = self.plan(&file, &head[..count])?;
                if plan.interpreter.is_some() || !plan.movable {
                    return Err(ProcError::NotExecutable);
                }
                Some((file, plan))
            }
        };
        let space = AddressSpace::new(self.zone, self.limits.memory())?;
        let base = if plan.movable { MOVABLE_BASE.wrapping_sub(plan.span.0) } else { 0 };
        map_plan(&space, &file, &plan, base)?;
        space.set_brk_base(base.wrapping_add(plan.span.1));
        let (entry, interpreter_base) = match &interpreter {
            None => (base.wrapping_add(plan.entry), 0),
            Some((file, plan)) => {
                let length = plan.span.1 - plan.span.0;
                let at = space.map(MapRequest::anonymous(At::Hint(0), length, Protection::NONE))?;
                let base = at.wrapping_sub(plan.span.0);
                map_plan(&space, file, plan, base)?;
                (base.wrapping_add(plan.entry), base)
            }
        };
        let (cred, secure) = self.new_cred(&file)?;
        let mut vector = Bytes::default();
        let mut pair = |key: u64, value: u64| {
            vector.u64(key).u64(value);
        };
        pair(aux::AT_HWCAP, HWCAP);
        pair(aux::AT_PAGESZ, PAGE);
        pair(aux::AT_CLKTCK, linux_abi::consts::time::HZ);
        pair(aux::AT_PHDR, if plan.table_address == 0 { 0 } else { base.wrapping_add(plan.table_address) });
        pair(aux::AT_PHENT, elf::ENTRY_BYTES as u64);
        pair(aux::AT_PHNUM, plan.entries);
        pair(aux::AT_BASE, interpreter_base);
        pair(aux::AT_FLAGS, 0);
        pair(aux::AT_ENTRY, base.wrapping_add(plan.entry));
        pair(aux::AT_UID, cred.uid.into());
        pair(aux::AT_EUID, cred.euid.into());
        pair(aux::AT_GID, cred.gid.into());
        pair(aux::AT_EGID, cred.egid.into());
        pair(aux::AT_SECURE, secure.into());
        pair(aux::AT_HWCAP2, 0);
        pair(aux::AT_MINSIGSTKSZ, frame::frame_bytes(self.fpu_bytes));
        let stack = build_stack(&space, self.limits, program, vector.done(), plan.executable_stack)?;
        let mut name = [0; 16];
        let base_name = named.rsplit(|byte| *byte == b'/').next().unwrap_or(named);
        for (to, from) in name.iter_mut().zip(base_name.iter().take(15)) {
            *to = *from;
        }
        let image = Image {
            exe: Some(file),
            arguments: stack.arguments,
            environment: stack.environment,
            auxv: stack.auxv,
            stack_start: stack.pointer,
            text: Some(Arc::new(text)),
        };
        Ok(Loaded { space, entry, stack: stack.pointer, image, cred, name })
    }

    /// Credentials after exec: set-user-ID and set-group-ID bits, where the mount and the caller allow them.
    fn new_cred(&self, file: &File) -> Result<(Credentials, bool)> {
        let mut cred = self.cred.clone();
        let attr = file.attr()?;
        let honoured = !file.place().mount.flags().contains(vfs::MountFlags::NOSUID) && !self.keep_privileges;
        if honoured && attr.mode & 0o4000 != 0 {
            cred.euid = attr.uid;
        }
        if honoured && attr.mode & 0o2010 == 0o2010 {
            cred.egid = attr.gid;
        }
        cred.suid = cred.euid;
        cred.sgid = cred.egid;
        cred.follow_effective();
        let secure = cred.uid != cred.euid || cred.gid != cred.egid;
        Ok((cred, secure))
    }
}

fn read_fully(file: &File, offset: u64, out: &mut [u8], zone: kif::ZoneId) -> Result<usize> {
    let mut done = 0;
    while done < out.len() {
        let Some(at) = offset.checked_add(done as u64) else { break };
        match file.read_at(at, &mut out[done..], zone)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

fn map_plan(space: &Arc<AddressSpace>, file: &Arc<File>, plan: &Plan, base: u64) -> Result<()> {
    let backing: Arc<dyn Backing> = file.backing().ok_or(ProcError::NotExecutable)?;
    for load in &plan.loads {
        let start = base.wrapping_add(load.start);
        let (data_end, end) = (base.wrapping_add(load.data_end), base.wrapping_add(load.end));
        if load.file_bytes > 0 {
            space.map(MapRequest {
                object: Some(Object { backing: Arc::clone(&backing), first_page: load.first_page }),
                ..MapRequest::anonymous(At::Fixed(start), load.file_bytes, load.protection)
            })?;
        }
        let zeros_from = start.wrapping_add(load.file_bytes);
        if end > zeros_from {
            space.map(MapRequest::anonymous(At::Fixed(zeros_from), end - zeros_from, load.protection))?;
        }
        // The rest of the last file page belongs to the zeros, too: to its end, whatever the segment's size (`ld.so` makes its heap there).
        if load.file_bytes > 0 && end > data_end && load.protection.write {
            let count = usize::try_from(zeros_from - data_end).map_err(|_| ProcError::NotExecutable)?;
            space.poke(data_end, &vec![0; count])?;
        }
    }
    Ok(())
}

struct Stack {
    pointer: u64,
    arguments: (u64, u64),
    environment: (u64, u64),
    auxv: Arc<[u8]>,
}

/// Lays out the first stack (psABI section 3.4.1): argc, argv, envp, auxv; above them the strings.
fn build_stack(
    space: &AddressSpace,
    limits: &LimitSet,
    program: &Program,
    mut auxv: Vec<u8>,
    executable: bool,
) -> Result<Stack> {
    let length_of = |list: &[Vec<u8>]| list.iter().map(|text| text.len() + 1).sum::<usize>();
    // Two empty strings and, at the end, path, platform and the random bytes.
    let room = length_of(&program.arguments) + length_of(&program.environment) + 2 + program.path.len() + 1 + 8 + 16;
    if room > STRINGS_MAX {
        return Err(ProcError::TooLong);
    }
    let mut strings: Vec<u8> = Vec::with_capacity(room);
    let mut put = |text: &[u8]| {
        let at = strings.len();
        strings.extend_from_slice(text);
        strings.push(0);
        at
    };
    let arguments: Vec<usize> = program.arguments.iter().map(|text| put(text)).collect();
    let arguments_end = put(b"");
    let environment: Vec<usize> = program.environment.iter().map(|text| put(text)).collect();
    let environment_end = put(b"");
    let path_at = put(&program.path);
    let platform_at = put(b"x86_64");
    let mut random = [0; 16];
    kif::rng().fill(&mut random);
    let random_at = strings.len();
    strings.extend_from_slice(&random);

    let words = 1 + arguments.len() + 1 + environment.len() + 1;
    let pointers = words * 8 + auxv.len() + 4 * 16;
    let length = strings.len() + pointers;
    if length > STRINGS_MAX || length as u64 > (limits.soft(abi::RLIMIT_STACK) / 4).max(STACK_START) {
        return Err(ProcError::TooLong);
    }
    // One word stays free at the very top.
    let strings_at = (USER_END - 8 - strings.len() as u64) & !15;
    let pointer = (strings_at - pointers as u64) & !15;
    let at = |offset: usize| strings_at + offset as u64;
    for (key, value) in [
        (aux::AT_RANDOM, at(random_at)),
        (aux::AT_EXECFN, at(path_at)),
        (aux::AT_PLATFORM, at(platform_at)),
        (aux::AT_NULL, 0),
    ] {
        auxv.extend_from_slice(&key.to_le_bytes());
        auxv.extend_from_slice(&value.to_le_bytes());
    }
    let mut table = Bytes::with_capacity(pointers);
    table.u64(arguments.len() as u64);
    for offset in &arguments {
        table.u64(at(*offset));
    }
    table.u64(0);
    for offset in &environment {
        table.u64(at(*offset));
    }
    table.u64(0).raw(&auxv);

    let bottom = (pointer - STACK_START) & !(PAGE - 1);
    let protection = Protection { execute: executable, ..Protection::RW };
    space.map(MapRequest {
        grows_down: true,
        label: Label::Stack,
        ..MapRequest::anonymous(At::Fixed(bottom), USER_END - bottom, protection)
    })?;
    space.poke(strings_at, &strings)?;
    space.poke(pointer, &table.done())?;
    Ok(Stack {
        pointer,
        arguments: (at(0), at(arguments_end)),
        environment: (at(arguments_end + 1), at(environment_end)),
        auxv: Arc::from(auxv),
    })
}

/// `execve`: replaces what the calling process runs. On success the registers are those of the new program.
///
/// # Errors
/// The process is as it was.
pub fn exec(task: &mut Task, at: Option<&Place>, program: Program) -> Result<()> {
    let process = Arc::clone(&task.process);
    let directories = process.directories().ok_or(ProcError::NoProcess)?;
    let loaded = Runner {
        cred: &process.cred(),
        directories: &directories,
        limits: &process.limits(),
        zone: task.zone.id(),
        fpu_bytes: task.user.fpu_bytes(),
        keep_privileges: process.no_new_privileges().load(Ordering::Relaxed),
    }
    .load(at, program)?;
    // Before the others are gone: it may fail. What they open or close meanwhile is lost with them.
    let files = Arc::new(task.files.duplicate()?);
    become_single(task)?;

    // From here on nothing fails.
    files.close_for_exec();
    drop(process.set_files(Some(Arc::clone(&files))));
    task.files = files;
    {
        let mut state = process.signals.lock();
        state.actions.reset_caught();
    }
    process.set_cred(loaded.cred);
    process.set_image(loaded.image);
    process.set_visitor(false);
    process.has_execed.store(true, Ordering::Relaxed);
    process.death_signal.store(0, Ordering::Relaxed);
    process.exit_signal.store(linux_abi::consts::signal::SIGCHLD, Ordering::Relaxed);
    task.lwp.set_name(&loaded.name);
    task.alt_stack = SigStack::default();
    task.clear_tid = 0;
    task.robust_list = 0;
    task.rseq = (0, 0);
    let old = process.set_space(Some(Arc::clone(&loaded.space)));
    loaded.space.activate();
    task.space = loaded.space;
    drop(old);
    if let Some(waiting) = process.vfork.lock().take() {
        waiting.complete();
    }
    *task.user.regs() = start_registers(loaded.entry, loaded.stack);
    task.user.load_fpu(None);
    Ok(())
}

/// The registers a program starts with (psABI section 3.4.1).
pub(crate) fn start_registers(entry: u64, stack: u64) -> UserRegs {
    // Interrupts on; bit 1 always reads as one.
    UserRegs { rip: entry, rsp: stack, rflags: 0x202, cs: 0x33, ss: 0x2b, orig_rax: u64::MAX, ..UserRegs::default() }
}

/// Makes the calling LWP the only one of its process, and its first.
fn become_single(task: &Task) -> Result<()> {
    let process: &Process = &task.process;
    let own = task.lwp.tid();
    {
        let mut state = process.signals.lock();
        if state.ending.is_some() || state.exec_by.is_some() {
            // Somebody else ends us; the caller leaves at its next look.
            return Err(ProcError::Interrupted);
        }
        if state.lwps.len() > 1 {
            state.exec_by = Some(own);
            for lwp in state.lwps.iter().filter(|lwp| lwp.tid() != own) {
                lwp.call_attention(crate::process::attention::SIGNAL);
            }
        }
    }
    process.stop_queue.wake_all();
    process.stop_queue.wait(|| (process.signals.lock().lwps.len() <= 1).then_some(()));
    process.signals.lock().exec_by = None;
    if own != process.pid() {
        let mut table = table::lock();
        task.lwp.set_tid(process.pid());
        table.free(own);
    }
    Ok(())
}
