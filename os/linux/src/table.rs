//! The system-call table: one row is the whole truth about a call.
//!
//! ```text
//! nr name(argument: Type, ...) = handler, class, kernel memory, status;
//! nr name absent;
//! ```
//! *class*: whether SA_RESTART starts an interrupted call again (`Restartable`) or it ends with EINTR (`Plain`); `signal(7)`.
//! *kernel memory*: what the call sets aside against its zone before it starts (design D9). *status*: `Full`, `Partial` (some
//! requests are refused; the handler says which), or absent: ENOSYS, counted by number.
//!
//! Argument types convert a register or refuse ([`Arg`]). Numbers without a row are those Linux has none for.

use core::sync::atomic::{AtomicU64, Ordering};

use proc::Task;

use crate::args::{Arg, DirFd, Fd, Len, Offset, OptPath, Path, Ptr, SetSize, Sig, Sig0};
use crate::fail::{Fail, Result};
use crate::{events, futex, io, mem, net, path, poll, process, signal, system, time, xattr};

/// Whether a handler with SA_RESTART restarts the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Restartable,
    Plain,
}

/// Kernel memory a call reserves before it starts: enough for the infallible allocations on its worst path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    None,
    /// None yet: the handler reserves if the open file says that it needs memory ([`vfs::Vnode::needs_memory`]).
    ByFile,
    Small,
    Path,
    /// A value of an extended attribute, packed and unpacked.
    Attributes,
    Fork,
    Exec,
}

impl Reserve {
    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::None | Self::ByFile => 0,
            Self::Small => 4 << 10,
            Self::Path => 32 << 10,
            Self::Attributes => 320 << 10,
            Self::Fork => 48 << 10,
            // Strings are counted as they are read; this is for both copies of the largest set.
            Self::Exec => 256 << 10,
        }
    }
}

/// How much of a call there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Full,
    Partial,
    Absent,
}

/// What becomes of the result register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It gets the value of the answer.
    Value,
    /// The registers are set already.
    Set,
    /// A signal came first.
    Interrupted,
}

/// How a call ended, in two registers: this is on the way of every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub ending: Ending,
    pub value: u64,
}

impl From<Result> for Answer {
    fn from(result: Result) -> Self {
        match result {
            Ok(value) => Self { ending: Ending::Value, value },
            Err(Fail::Errno(errno)) => Self { ending: Ending::Value, value: (-i64::from(errno.number())).cast_unsigned() },
            Err(Fail::RegistersSet) => Self { ending: Ending::Set, value: 0 },
            Err(Fail::Interrupted) => Self { ending: Ending::Interrupted, value: 0 },
        }
    }
}

/// Converts the registers and calls the handler.
pub type Handler = fn(&mut Task, &[u64; 6]) -> Answer;

/// One system call.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "holds a function pointer")]
pub struct Row {
    pub number: u16,
    pub name: &'static str,
    /// Names and types of the arguments.
    pub arguments: &'static [(&'static str, &'static str)],
    pub handler: Option<Handler>,
    pub class: Class,
    pub reserve: Reserve,
    pub status: Status,
}

macro_rules! rows {
    ($($number:literal $name:ident $(($($argument:ident: $kind:ty),*) = $handler:path, $class:ident, $reserve:ident, $status:ident)? $($absent:ident)?;)*) => {
        &[$(rows!(@row $number $name $(($($argument: $kind),*) $handler, $class, $reserve, $status)? $($absent)?)),*]
    };
    (@row $number:literal $name:ident absent) => {
        Row {
            number: $number,
            name: stringify!($name),
            arguments: &[],
            handler: None,
            class: Class::Plain,
            reserve: Reserve::None,
            status: Status::Absent,
        }
    };
    (@row $number:literal $name:ident ($($argument:ident: $kind:ty),*) $handler:path, $class:ident, $reserve:ident, $status:ident) => {
        Row {
            number: $number,
            name: stringify!($name),
            arguments: &[$((stringify!($argument), <$kind as Arg>::NAME)),*],
            handler: Some({
                fn call(task: &mut Task, registers: &[u64; 6]) -> Answer {
                    fn typed(task: &mut Task, registers: &[u64; 6]) -> Result {
                        let mut _registers = registers.iter().copied();
                        $(let $argument = <$kind as Arg>::parse(_registers.next().unwrap_or(0))?;)*
                        $handler(task, $($argument),*)
                    }
                    Answer::from(typed(task, registers))
                }
                call
            }),
            class: Class::$class,
            reserve: Reserve::$reserve,
            status: Status::$status,
        }
    };
}

/// Every call Linux 6.10 knows on x86-64, by number.
pub static ROWS: &[Row] = rows! {
      0 read(fd: Fd, to: Ptr, length: Len) = io::read, Restartable, None, Full;
      1 write(fd: Fd, from: Ptr, length: Len) = io::write, Restartable, ByFile, Full;
      2 open(path: Path, flags: u32, mode: u32) = path::open, Restartable, Path, Full;
      3 close(fd: Fd) = io::close, Plain, None, Full;
      4 stat(path: Path, to: Ptr) = path::stat, Plain, Path, Full;
      5 fstat(fd: Fd, to: Ptr) = path::fstat, Plain, Small, Full;
      6 lstat(path: Path, to: Ptr) = path::lstat, Plain, Path, Full;
      7 poll(at: Ptr, count: u32, timeout: i32) = poll::poll, Plain, Path, Full;
      8 lseek(fd: Fd, distance: i64, whence: u32) = io::lseek, Plain, None, Full;
      9 mmap(address: u64, length: u64, prot: u64, flags: u64, fd: u64, offset: u64) = mem::mmap, Plain, Small, Full;
     10 mprotect(address: u64, length: u64, prot: u64) = mem::mprotect, Plain, Small, Full;
     11 munmap(address: u64, length: u64) = mem::munmap, Plain, Small, Full;
     12 brk(end: u64) = mem::brk, Plain, Small, Full;
     13 rt_sigaction(signal: Sig, new: Ptr, old: Ptr, size: SetSize) = signal::rt_sigaction, Plain, None, Full;
     14 rt_sigprocmask(how: u32, new: Ptr, old: Ptr, size: SetSize) = signal::rt_sigprocmask, Plain, None, Full;
     15 rt_sigreturn() = signal::rt_sigreturn, Plain, Small, Full;
     16 ioctl(fd: Fd, request: u32, argument: u64) = io::ioctl, Restartable, Small, Full;
     17 pread64(fd: Fd, to: Ptr, length: Len, offset: Offset) = io::pread64, Restartable, None, Full;
     18 pwrite64(fd: Fd, from: Ptr, length: Len, offset: Offset) = io::pwrite64, Restartable, ByFile, Full;
     19 readv(fd: Fd, vector: Ptr, entries: u32) = io::readv, Restartable, Path, Full;
     20 writev(fd: Fd, vector: Ptr, entries: u32) = io::writev, Restartable, Path, Full;
     21 access(path: Path, want: u32) = path::access, Plain, Path, Full;
     22 pipe(to: Ptr) = io::pipe, Plain, Small, Full;
     23 select(count: u32, reads: Ptr, writes: Ptr, exceptions: Ptr, timeout: Ptr) = poll::select, Plain, Path, Full;
     24 sched_yield() = process::sched_yield, Plain, None, Full;
     25 mremap(old: u64, old_length: u64, new_length: u64, flags: u64, target: u64) = mem::mremap, Plain, Small, Full;
     26 msync(address: u64, length: u64, flags: u32) = mem::msync, Plain, Small, Full;
     27 mincore(address: u64, length: u64, to: Ptr) = mem::mincore, Plain, Small, Full;
     28 madvise(address: u64, length: u64, advice: u32) = mem::madvise, Plain, Small, Full;
     29 shmget absent;
     30 shmat absent;
     31 shmctl absent;
     32 dup(fd: Fd) = io::dup, Plain, Small, Full;
     33 dup2(from: Fd, to: Fd) = io::dup2, Plain, Small, Full;
     34 pause() = signal::pause, Plain, Small, Full;
     35 nanosleep(span: Ptr, left: Ptr) = time::nanosleep, Plain, Small, Full;
     36 getitimer(which: u32, to: Ptr) = time::getitimer, Plain, None, Partial;
     37 alarm(seconds: u32) = time::alarm, Plain, Small, Full;
     38 setitimer(which: u32, new: Ptr, old: Ptr) = time::setitimer, Plain, Small, Partial;
     39 getpid() = process::getpid, Plain, None, Full;
     40 sendfile(out: Fd, from: Fd, offset: Ptr, length: Len) = io::sendfile, Restartable, Small, Full;
     41 socket(family: u32, kind: u32, protocol: u32) = net::socket, Plain, None, Partial;
     42 connect(fd: Fd) = net::on_socket, Plain, None, Partial;
     43 accept(fd: Fd) = net::on_socket, Plain, None, Partial;
     44 sendto(fd: Fd) = net::on_socket, Plain, None, Partial;
     45 recvfrom(fd: Fd) = net::on_socket, Plain, None, Partial;
     46 sendmsg(fd: Fd) = net::on_socket, Plain, None, Partial;
     47 recvmsg(fd: Fd) = net::on_socket, Plain, None, Partial;
     48 shutdown(fd: Fd) = net::on_socket, Plain, None, Partial;
     49 bind(fd: Fd) = net::on_socket, Plain, None, Partial;
     50 listen(fd: Fd) = net::on_socket, Plain, None, Partial;
     51 getsockname(fd: Fd) = net::on_socket, Plain, None, Partial;
     52 getpeername(fd: Fd) = net::on_socket, Plain, None, Partial;
     53 socketpair(family: u32, kind: u32, protocol: u32, to: u64) = net::socketpair, Plain, Small, Partial;
     54 setsockopt(fd: Fd) = net::on_socket, Plain, None, Partial;
     55 getsockopt(fd: Fd) = net::on_socket, Plain, None, Partial;
     56 clone(flags: u64, stack: u64, parent_tid: u64, child_tid: u64, tls: u64) = process::clone, Plain, Fork, Partial;
     57 fork() = process::fork, Plain, Fork, Full;
     58 vfork() = process::vfork, Plain, Fork, Full;
     59 execve(path: Path, argv: Ptr, envp: Ptr) = process::execve, Plain, Exec, Full;
     60 exit(status: u32) = process::exit, Plain, None, Full;
     61 wait4(pid: i32, status: Ptr, options: u32, usage: Ptr) = process::wait4, Restartable, Small, Full;
     62 kill(pid: i32, signal: Sig0) = signal::kill, Plain, Small, Full;
     63 uname(to: Ptr) = system::uname, Plain, Small, Full;
     64 semget absent;
     65 semop absent;
     66 semctl absent;
     67 shmdt absent;
     68 msgget absent;
     69 msgsnd absent;
     70 msgrcv absent;
     71 msgctl absent;
     72 fcntl(fd: Fd, command: u32, argument: u64) = io::fcntl, Restartable, Small, Partial;
     73 flock(fd: Fd, operation: u32) = io::flock, Restartable, Small, Full;
     74 fsync(fd: Fd) = io::fsync, Plain, Small, Full;
     75 fdatasync(fd: Fd) = io::fsync, Plain, Small, Full;
     76 truncate(path: Path, size: Offset) = path::truncate, Plain, Path, Full;
     77 ftruncate(fd: Fd, size: Offset) = io::ftruncate, Plain, Small, Full;
     78 getdents(fd: Fd, to: Ptr, room: u32) = io::getdents, Plain, Small, Full;
     79 getcwd(to: Ptr, room: u64) = path::getcwd, Plain, Path, Full;
     80 chdir(path: Path) = path::chdir, Plain, Path, Full;
     81 fchdir(fd: Fd) = path::fchdir, Plain, Small, Full;
     82 rename(from: Path, to: Path) = path::rename, Plain, Path, Full;
     83 mkdir(path: Path, mode: u32) = path::mkdir, Plain, Path, Full;
     84 rmdir(path: Path) = path::rmdir, Plain, Path, Full;
     85 creat(path: Path, mode: u32) = path::creat, Restartable, Path, Full;
     86 link(from: Path, to: Path) = path::link, Plain, Path, Full;
     87 unlink(path: Path) = path::unlink, Plain, Path, Full;
     88 symlink(target: Path, path: Path) = path::symlink, Plain, Path, Full;
     89 readlink(path: Path, to: Ptr, room: i32) = path::readlink, Plain, Path, Full;
     90 chmod(path: Path, mode: u32) = path::chmod, Plain, Path, Full;
     91 fchmod(fd: Fd, mode: u32) = path::fchmod, Plain, Small, Full;
     92 chown(path: Path, uid: u32, gid: u32) = path::chown, Plain, Path, Full;
     93 fchown(fd: Fd, uid: u32, gid: u32) = path::fchown, Plain, Small, Full;
     94 lchown(path: Path, uid: u32, gid: u32) = path::lchown, Plain, Path, Full;
     95 umask(mask: u32) = path::umask, Plain, None, Full;
     96 gettimeofday(time: Ptr, zone: Ptr) = time::gettimeofday, Plain, None, Full;
     97 getrlimit(number: u32, to: Ptr) = process::getrlimit, Plain, None, Full;
     98 getrusage(who: i32, to: Ptr) = process::getrusage, Plain, Small, Full;
     99 sysinfo(to: Ptr) = system::sysinfo, Plain, Small, Full;
    100 times(to: Ptr) = process::times, Plain, Small, Full;
    101 ptrace absent;
    102 getuid() = process::getuid, Plain, None, Full;
    103 syslog(action: u32, to: Ptr, length: i32) = system::syslog, Plain, Path, Partial;
    104 getgid() = process::getgid, Plain, None, Full;
    105 setuid(uid: u32) = process::setuid, Plain, Small, Full;
    106 setgid(gid: u32) = process::setgid, Plain, Small, Full;
    107 geteuid() = process::geteuid, Plain, None, Full;
    108 getegid() = process::getegid, Plain, None, Full;
    109 setpgid(pid: i32, group: i32) = process::setpgid, Plain, Small, Full;
    110 getppid() = process::getppid, Plain, None, Full;
    111 getpgrp() = process::getpgrp, Plain, None, Full;
    112 setsid() = process::setsid, Plain, Small, Full;
    113 setreuid(real: u32, effective: u32) = process::setreuid, Plain, Small, Full;
    114 setregid(real: u32, effective: u32) = process::setregid, Plain, Small, Full;
    115 getgroups(room: i32, to: Ptr) = process::getgroups, Plain, Small, Full;
    116 setgroups(count: u32, from: Ptr) = process::setgroups, Plain, Path, Full;
    117 setresuid(real: u32, effective: u32, saved: u32) = process::setresuid, Plain, Small, Full;
    118 getresuid(real: Ptr, effective: Ptr, saved: Ptr) = process::getresuid, Plain, None, Full;
    119 setresgid(real: u32, effective: u32, saved: u32) = process::setresgid, Plain, Small, Full;
    120 getresgid(real: Ptr, effective: Ptr, saved: Ptr) = process::getresgid, Plain, None, Full;
    121 getpgid(pid: i32) = process::getpgid, Plain, None, Full;
    122 setfsuid(uid: u32) = process::setfsuid, Plain, Small, Full;
    123 setfsgid(gid: u32) = process::setfsgid, Plain, Small, Full;
    124 getsid(pid: i32) = process::getsid, Plain, None, Full;
    125 capget(header: Ptr, data: Ptr) = process::capget, Plain, Small, Partial;
    126 capset(header: Ptr, data: Ptr) = process::capset, Plain, None, Partial;
    127 rt_sigpending(to: Ptr, size: u64) = signal::rt_sigpending, Plain, None, Full;
    128 rt_sigtimedwait(set: Ptr, info: Ptr, timeout: Ptr, size: SetSize) = signal::rt_sigtimedwait, Plain, Small, Full;
    129 rt_sigqueueinfo(pid: i32, signal: Sig, info: Ptr) = signal::rt_sigqueueinfo, Plain, Small, Full;
    130 rt_sigsuspend(mask: Ptr, size: SetSize) = signal::rt_sigsuspend, Plain, Small, Full;
    131 sigaltstack(new: Ptr, old: Ptr) = signal::sigaltstack, Plain, None, Full;
    132 utime(path: Path, times: Ptr) = path::utime, Plain, Path, Full;
    133 mknod(path: Path, mode: u32, device: u32) = path::mknod, Plain, Path, Full;
    134 uselib absent;
    135 personality(persona: u32) = process::personality, Plain, None, Partial;
    136 ustat absent;
    137 statfs(path: Path, to: Ptr) = path::statfs, Plain, Path, Full;
    138 fstatfs(fd: Fd, to: Ptr) = path::fstatfs, Plain, Small, Full;
    139 sysfs(option: u32, first: u64, to: Ptr) = system::sysfs, Plain, Small, Full;
    140 getpriority(which: u32, who: u32) = process::getpriority, Plain, Path, Full;
    141 setpriority(which: u32, who: u32, nice: i32) = process::setpriority, Plain, Path, Full;
    142 sched_setparam(pid: i32, from: Ptr) = process::sched_setparam, Plain, None, Partial;
    143 sched_getparam(pid: i32, to: Ptr) = process::sched_getparam, Plain, None, Full;
    144 sched_setscheduler(pid: i32, policy: u32, param: Ptr) = process::sched_setscheduler, Plain, None, Partial;
    145 sched_getscheduler(pid: i32) = process::sched_getscheduler, Plain, None, Full;
    146 sched_get_priority_max(policy: u32) = process::sched_get_priority, Plain, None, Partial;
    147 sched_get_priority_min(policy: u32) = process::sched_get_priority, Plain, None, Partial;
    148 sched_rr_get_interval absent;
    149 mlock(address: u64, length: u64) = mem::mlock, Plain, None, Full;
    150 munlock(address: u64, length: u64) = mem::mlock, Plain, None, Full;
    151 mlockall(flags: u32) = mem::mlockall, Plain, None, Full;
    152 munlockall() = mem::munlockall, Plain, None, Full;
    153 vhangup() = system::vhangup, Plain, None, Partial;
    154 modify_ldt absent;
    155 pivot_root absent;
    156 _sysctl absent;
    157 prctl(option: u32, value: u64, third: u64, fourth: u64, fifth: u64) = process::prctl, Plain, Small, Partial;
    158 arch_prctl(code: u32, address: u64) = process::arch_prctl, Plain, None, Full;
    159 adjtimex(at: Ptr) = time::adjtimex, Plain, None, Partial;
    160 setrlimit(number: u32, from: Ptr) = process::setrlimit, Plain, None, Full;
    161 chroot(path: Path) = path::chroot, Plain, Path, Full;
    162 sync() = io::sync, Plain, None, Full;
    163 acct absent;
    164 settimeofday(time: Ptr, zone: Ptr) = time::settimeofday, Plain, None, Partial;
    165 mount(source: OptPath, target: Path, kind: OptPath, flags: u64, data: Ptr) = system::mount, Plain, Path, Partial;
    166 umount2(target: Path, flags: u32) = system::umount2, Plain, Path, Full;
    167 swapon absent;
    168 swapoff absent;
    169 reboot(magic: u32, magic2: u32, command: u32) = process::reboot, Plain, Small, Full;
    170 sethostname(from: Ptr, length: u64) = system::sethostname, Plain, Small, Full;
    171 setdomainname(from: Ptr, length: u64) = system::setdomainname, Plain, Small, Partial;
    172 iopl absent;
    173 ioperm absent;
    174 create_module absent;
    175 init_module absent;
    176 delete_module absent;
    177 get_kernel_syms absent;
    178 query_module absent;
    179 quotactl absent;
    180 nfsservctl absent;
    181 getpmsg absent;
    182 putpmsg absent;
    183 afs_syscall absent;
    184 tuxcall absent;
    185 security absent;
    186 gettid() = process::gettid, Plain, None, Full;
    187 readahead(fd: Fd, offset: u64, length: u64) = io::readahead, Plain, None, Full;
    188 setxattr(path: Path, name: Ptr, from: Ptr, size: u64, flags: u32) = xattr::setxattr, Plain, Attributes, Partial;
    189 lsetxattr(path: Path, name: Ptr, from: Ptr, size: u64, flags: u32) = xattr::lsetxattr, Plain, Attributes, Partial;
    190 fsetxattr(fd: Fd, name: Ptr, from: Ptr, size: u64, flags: u32) = xattr::fsetxattr, Plain, Attributes, Partial;
    191 getxattr(path: Path, name: Ptr, to: Ptr, room: u64) = xattr::getxattr, Plain, Attributes, Partial;
    192 lgetxattr(path: Path, name: Ptr, to: Ptr, room: u64) = xattr::lgetxattr, Plain, Attributes, Partial;
    193 fgetxattr(fd: Fd, name: Ptr, to: Ptr, room: u64) = xattr::fgetxattr, Plain, Attributes, Partial;
    194 listxattr(path: Path, to: Ptr, room: u64) = xattr::listxattr, Plain, Attributes, Partial;
    195 llistxattr(path: Path, to: Ptr, room: u64) = xattr::llistxattr, Plain, Attributes, Partial;
    196 flistxattr(fd: Fd, to: Ptr, room: u64) = xattr::flistxattr, Plain, Attributes, Partial;
    197 removexattr(path: Path, name: Ptr) = xattr::removexattr, Plain, Attributes, Partial;
    198 lremovexattr(path: Path, name: Ptr) = xattr::lremovexattr, Plain, Attributes, Partial;
    199 fremovexattr(fd: Fd, name: Ptr) = xattr::fremovexattr, Plain, Attributes, Partial;
    200 tkill(tid: i32, signal: Sig0) = signal::tkill, Plain, Small, Full;
    201 time(to: Ptr) = time::time, Plain, None, Full;
    202 futex(address: u64, operation: u32, value: u32, value2: u64, address2: u64, value3: u32) = futex::futex, Restartable, Small, Partial;
    203 sched_setaffinity(pid: i32, size: u32, from: Ptr) = process::sched_setaffinity, Plain, Small, Partial;
    204 sched_getaffinity(pid: i32, size: u32, to: Ptr) = process::sched_getaffinity, Plain, None, Full;
    205 set_thread_area absent;
    206 io_setup absent;
    207 io_destroy absent;
    208 io_getevents absent;
    209 io_submit absent;
    210 io_cancel absent;
    211 get_thread_area absent;
    212 lookup_dcookie absent;
    213 epoll_create(size: i32) = poll::epoll_create, Plain, Small, Full;
    214 epoll_ctl_old absent;
    215 epoll_wait_old absent;
    216 remap_file_pages absent;
    217 getdents64(fd: Fd, to: Ptr, room: u32) = io::getdents64, Plain, Small, Full;
    218 set_tid_address(at: u64) = process::set_tid_address, Plain, None, Full;
    219 restart_syscall absent;
    220 semtimedop absent;
    221 fadvise64(fd: Fd, offset: u64, length: u64, advice: u32) = io::fadvise64, Plain, None, Full;
    222 timer_create absent;
    223 timer_settime absent;
    224 timer_gettime absent;
    225 timer_getoverrun absent;
    226 timer_delete absent;
    227 clock_settime(clock: u32, from: Ptr) = time::clock_settime, Plain, None, Partial;
    228 clock_gettime(clock: u32, to: Ptr) = time::clock_gettime, Plain, None, Full;
    229 clock_getres(clock: u32, to: Ptr) = time::clock_getres, Plain, None, Full;
    230 clock_nanosleep(clock: u32, flags: u32, span: Ptr, left: Ptr) = time::clock_nanosleep, Plain, Small, Full;
    231 exit_group(status: u32) = process::exit_group, Plain, None, Full;
    232 epoll_wait(set: Fd, to: Ptr, room: i32, timeout: i32) = poll::epoll_wait, Plain, Path, Full;
    233 epoll_ctl(set: Fd, operation: u32, fd: Fd, event: Ptr) = poll::epoll_ctl, Plain, Small, Full;
    234 tgkill(group: i32, tid: i32, signal: Sig0) = signal::tgkill, Plain, Small, Full;
    235 utimes(path: Path, times: Ptr) = path::utimes, Plain, Path, Full;
    236 vserver absent;
    237 mbind absent;
    238 set_mempolicy absent;
    239 get_mempolicy absent;
    240 mq_open absent;
    241 mq_unlink absent;
    242 mq_timedsend absent;
    243 mq_timedreceive absent;
    244 mq_notify absent;
    245 mq_getsetattr absent;
    246 kexec_load absent;
    247 waitid(kind: u32, id: u32, info: Ptr, options: u32, usage: Ptr) = process::waitid, Restartable, Small, Full;
    248 add_key absent;
    249 request_key absent;
    250 keyctl absent;
    251 ioprio_set absent;
    252 ioprio_get absent;
    253 inotify_init absent;
    254 inotify_add_watch absent;
    255 inotify_rm_watch absent;
    256 migrate_pages absent;
    257 openat(dir: DirFd, path: Path, flags: u32, mode: u32) = path::openat, Restartable, Path, Full;
    258 mkdirat(dir: DirFd, path: Path, mode: u32) = path::mkdirat, Plain, Path, Full;
    259 mknodat(dir: DirFd, path: Path, mode: u32, device: u32) = path::mknodat, Plain, Path, Full;
    260 fchownat(dir: DirFd, path: Path, uid: u32, gid: u32, flags: u32) = path::fchownat, Plain, Path, Full;
    261 futimesat(dir: DirFd, path: OptPath, times: Ptr) = path::futimesat, Plain, Path, Full;
    262 newfstatat(dir: DirFd, path: Path, to: Ptr, flags: u32) = path::newfstatat, Plain, Path, Full;
    263 unlinkat(dir: DirFd, path: Path, flags: u32) = path::unlinkat, Plain, Path, Full;
    264 renameat(from_dir: DirFd, from: Path, to_dir: DirFd, to: Path) = path::renameat, Plain, Path, Full;
    265 linkat(from_dir: DirFd, from: Path, to_dir: DirFd, to: Path, flags: u32) = path::linkat, Plain, Path, Full;
    266 symlinkat(target: Path, dir: DirFd, path: Path) = path::symlinkat, Plain, Path, Full;
    267 readlinkat(dir: DirFd, path: Path, to: Ptr, room: i32) = path::readlinkat, Plain, Path, Full;
    268 fchmodat(dir: DirFd, path: Path, mode: u32) = path::fchmodat, Plain, Path, Full;
    269 faccessat(dir: DirFd, path: Path, want: u32) = path::faccessat, Plain, Path, Full;
    270 pselect6(count: u32, reads: Ptr, writes: Ptr, exceptions: Ptr, timeout: Ptr, mask: Ptr) = poll::pselect6, Plain, Path, Full;
    271 ppoll(at: Ptr, count: u32, timeout: Ptr, mask: Ptr, size: u64) = poll::ppoll, Plain, Path, Full;
    272 unshare(flags: u64) = process::unshare, Plain, None, Partial;
    273 set_robust_list(head: u64, length: u64) = process::set_robust_list, Plain, None, Full;
    274 get_robust_list(pid: i32, head: Ptr, length: Ptr) = process::get_robust_list, Plain, None, Partial;
    275 splice absent;
    276 tee absent;
    277 sync_file_range(fd: Fd, offset: u64, length: u64, flags: u32) = io::sync_file_range, Plain, Small, Full;
    278 vmsplice absent;
    279 move_pages absent;
    280 utimensat(dir: DirFd, path: OptPath, times: Ptr, flags: u32) = path::utimensat, Plain, Path, Full;
    281 epoll_pwait(set: Fd, to: Ptr, room: i32, timeout: i32, mask: Ptr) = poll::epoll_pwait, Plain, Path, Full;
    282 signalfd(fd: i32, set: Ptr, size: SetSize) = events::signalfd, Plain, Small, Full;
    283 timerfd_create(clock: u32, flags: u32) = events::timerfd_create, Plain, Small, Full;
    284 eventfd(initial: u32) = events::eventfd, Plain, Small, Full;
    285 fallocate(fd: Fd, mode: u32, offset: Offset, length: Offset) = io::fallocate, Plain, Small, Partial;
    286 timerfd_settime(fd: Fd, flags: u32, new: Ptr, old: Ptr) = events::timerfd_settime, Plain, Small, Full;
    287 timerfd_gettime(fd: Fd, to: Ptr) = events::timerfd_gettime, Plain, None, Full;
    288 accept4(fd: Fd) = net::on_socket, Plain, None, Partial;
    289 signalfd4(fd: i32, set: Ptr, size: SetSize, flags: u32) = events::signalfd4, Plain, Small, Full;
    290 eventfd2(initial: u32, flags: u32) = events::eventfd2, Plain, Small, Full;
    291 epoll_create1(flags: u32) = poll::epoll_create1, Plain, Small, Full;
    292 dup3(from: Fd, to: Fd, flags: u32) = io::dup3, Plain, Small, Full;
    293 pipe2(to: Ptr, flags: u32) = io::pipe2, Plain, Small, Full;
    294 inotify_init1 absent;
    295 preadv(fd: Fd, vector: Ptr, entries: u32, offset: Offset) = io::preadv, Restartable, Path, Full;
    296 pwritev(fd: Fd, vector: Ptr, entries: u32, offset: Offset) = io::pwritev, Restartable, Path, Full;
    297 rt_tgsigqueueinfo(group: i32, tid: i32, signal: Sig, info: Ptr) = signal::rt_tgsigqueueinfo, Plain, Small, Full;
    298 perf_event_open absent;
    299 recvmmsg(fd: Fd) = net::on_socket, Plain, None, Partial;
    300 fanotify_init absent;
    301 fanotify_mark absent;
    302 prlimit64(pid: i32, number: u32, new: Ptr, old: Ptr) = process::prlimit64, Plain, Small, Full;
    303 name_to_handle_at absent;
    304 open_by_handle_at absent;
    305 clock_adjtime absent;
    306 syncfs(fd: Fd) = io::syncfs, Plain, Small, Full;
    307 sendmmsg(fd: Fd) = net::on_socket, Plain, None, Partial;
    308 setns absent;
    309 getcpu(cpu: Ptr, node: Ptr) = process::getcpu, Plain, None, Full;
    310 process_vm_readv absent;
    311 process_vm_writev absent;
    312 kcmp absent;
    313 finit_module absent;
    314 sched_setattr absent;
    315 sched_getattr absent;
    316 renameat2(from_dir: DirFd, from: Path, to_dir: DirFd, to: Path, flags: u32) = path::renameat2, Plain, Path, Full;
    317 seccomp absent;
    318 getrandom(to: Ptr, length: u64, flags: u32) = process::getrandom, Restartable, Small, Full;
    319 memfd_create(name: Ptr, flags: u32) = events::memfd_create, Plain, Path, Partial;
    320 kexec_file_load absent;
    321 bpf absent;
    322 execveat(dir: DirFd, path: Path, argv: Ptr, envp: Ptr, flags: u32) = process::execveat, Plain, Exec, Full;
    323 userfaultfd absent;
    324 membarrier(command: u32, flags: u32) = mem::membarrier, Plain, None, Partial;
    325 mlock2(address: u64, length: u64, flags: u32) = mem::mlock2, Plain, None, Full;
    326 copy_file_range(from: Fd, from_offset: Ptr, to: Fd, to_offset: Ptr, length: Len, flags: u32) = io::copy_file_range, Restartable, Small, Full;
    327 preadv2(fd: Fd, vector: Ptr, entries: u32, offset: i64, high: u64, flags: u32) = io::preadv2, Restartable, Path, Partial;
    328 pwritev2(fd: Fd, vector: Ptr, entries: u32, offset: i64, high: u64, flags: u32) = io::pwritev2, Restartable, Path, Partial;
    329 pkey_mprotect absent;
    330 pkey_alloc absent;
    331 pkey_free absent;
    332 statx(dir: DirFd, path: OptPath, flags: u32, mask: u32, to: Ptr) = path::statx, Plain, Path, Full;
    333 io_pgetevents absent;
    334 rseq(at: u64, length: u32, flags: u32, signature: u32) = process::rseq, Plain, None, Full;
    424 pidfd_send_signal absent;
    425 io_uring_setup absent;
    426 io_uring_enter absent;
    427 io_uring_register absent;
    428 open_tree absent;
    429 move_mount absent;
    430 fsopen absent;
    431 fsconfig absent;
    432 fsmount absent;
    433 fspick absent;
    434 pidfd_open absent;
    435 clone3(at: Ptr, size: u64) = process::clone3, Plain, Fork, Partial;
    436 close_range(first: u32, last: u32, flags: u32) = io::close_range, Plain, Small, Full;
    437 openat2(dir: DirFd, path: Path, how: Ptr, size: u64) = path::openat2, Restartable, Path, Partial;
    438 pidfd_getfd absent;
    439 faccessat2(dir: DirFd, path: Path, want: u32, flags: u32) = path::faccessat2, Plain, Path, Full;
    440 process_madvise absent;
    441 epoll_pwait2(set: Fd, to: Ptr, room: i32, timeout: Ptr, mask: Ptr) = poll::epoll_pwait2, Plain, Path, Full;
    442 mount_setattr absent;
    443 quotactl_fd absent;
    444 landlock_create_ruleset absent;
    445 landlock_add_rule absent;
    446 landlock_restrict_self absent;
    447 memfd_secret absent;
    448 process_mrelease absent;
    449 futex_waitv absent;
    450 set_mempolicy_home_node absent;
    451 cachestat absent;
    452 fchmodat2(dir: DirFd, path: Path, mode: u32, flags: u32) = path::fchmodat2, Plain, Path, Full;
    453 map_shadow_stack absent;
    454 futex_wake absent;
    455 futex_wait absent;
    456 futex_requeue absent;
    457 statmount absent;
    458 listmount absent;
    459 lsm_get_self_attr absent;
    460 lsm_set_self_attr absent;
    461 lsm_list_modules absent;
    462 mseal absent;
};

/// One past the highest number.
pub const NUMBERS: usize = 463;

/// What the way into a call needs of its row, by number.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub handler: Handler,
    /// It neither blocks nor allocates: nothing to reserve, nothing to note.
    pub is_quick: bool,
    pub is_restartable: bool,
    pub reserve: u32,
    /// Index of the row; [`NO_ROW`] for a number Linux has none for.
    row: u16,
}

/// Marks a number without a row.
const NO_ROW: u16 = u16::MAX;

/// A number that nobody serves.
const ABSENT: Entry = Entry { handler: crate::absent, is_quick: true, is_restartable: false, reserve: 0, row: NO_ROW };

static ENTRIES: [Entry; NUMBERS] = entries();

const fn entries() -> [Entry; NUMBERS] {
    let mut entries = [ABSENT; NUMBERS];
    let mut at: u16 = 0;
    while (at as usize) < ROWS.len() {
        let row = &ROWS[at as usize];
        let number = row.number as usize;
        assert!(entries[number].row == NO_ROW, "a system call has two rows");
        entries[number].row = at;
        if let Some(handler) = row.handler {
            let is_restartable = matches!(row.class, Class::Restartable);
            let is_quick = matches!(row.reserve, Reserve::None) && !is_restartable;
            entries[number] = Entry { handler, is_quick, is_restartable, reserve: row.reserve.bytes(), row: at };
        }
        at += 1;
    }
    entries
}

/// How to serve a number.
pub(crate) fn entry(number: u64) -> &'static Entry {
    usize::try_from(number).ok().and_then(|number| ENTRIES.get(number)).unwrap_or(&ABSENT)
}

/// The row of a number.
pub fn row(number: u64) -> Option<&'static Row> {
    ROWS.get(usize::from(entry(number).row))
}

/// How often each absent call, and (last) each number beyond the table, was made.
static MISSES: [AtomicU64; NUMBERS + 1] = [const { AtomicU64::new(0) }; NUMBERS + 1];

/// Counts a call that is not there. True the first time for this number.
pub(crate) fn miss(number: u64) -> bool {
    let at = usize::try_from(number).map_or(NUMBERS, |at| at.min(NUMBERS));
    MISSES[at].fetch_add(1, Ordering::Relaxed) == 0
}

/// Absent calls that programs made: number, name, count.
pub fn misses() -> impl Iterator<Item = (u64, &'static str, u64)> {
    (0..).zip(&MISSES).filter_map(|(number, count)| {
        let count = count.load(Ordering::Relaxed);
        (count > 0).then(|| (number, row(number).map_or("unknown", |row| row.name), count))
    })
}
