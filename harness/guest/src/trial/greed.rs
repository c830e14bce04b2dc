//! Programs that take all they can get.

use std::os::fd::{FromRawFd as _, OwnedFd};

fn fork() -> i32 {
    // SAFETY: this program has one thread, so the child may go on as an ordinary process.
    unsafe { libc::fork() }
}

/// Without an argument: every process forks for ever. With `count`: one process forks sleepers until refused, says how many, ends them.
pub fn fork_bomb(arguments: &[String]) -> u8 {
    if arguments.first().map(String::as_str) != Some("count") {
        loop {
            if fork() < 0 {
                std::thread::yield_now();
            }
        }
    }
    let mut children = Vec::new();
    let why = loop {
        match fork() {
            0 => loop {
                // SAFETY: pause touches no memory of ours.
                unsafe { libc::pause() };
            },
            -1 => break std::io::Error::last_os_error(),
            pid => children.push(pid),
        }
        if children.len() > 100_000 {
            println!("fork-bomb: 100000 processes and no end");
            return 1;
        }
    };
    let count = children.len();
    for pid in children {
        // SAFETY: kill touches no memory of ours.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        // SAFETY: waitpid accepts a null status.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    }
    println!("fork-bomb: refused with errno {}", why.raw_os_error().unwrap_or(0));
    eprintln!("{count} processes");
    u8::from(why.raw_os_error() != Some(libc::EAGAIN) && why.raw_os_error() != Some(libc::ENOMEM))
}

/// Maps and touches a mebibyte at a time.
pub fn memory(_: &[String]) -> u8 {
    const STEP: usize = 1 << 20;
    let mut taken = 0usize;
    loop {
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), STEP, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if at == libc::MAP_FAILED {
            break;
        }
        for page in (0..STEP).step_by(4096) {
            // SAFETY: inside the mapping just made, which nobody else uses.
            unsafe { at.cast::<u8>().wrapping_add(page).write_volatile(1) };
        }
        taken += 1;
    }
    let why = std::io::Error::last_os_error();
    println!("memory-hog: refused with errno {}", why.raw_os_error().unwrap_or(0));
    eprintln!("{taken} MiB");
    u8::from(why.raw_os_error() != Some(libc::ENOMEM))
}

/// One-page mappings with changing protection, so that no two can be merged.
pub fn mappings(_: &[String]) -> u8 {
    const MOST: usize = 1_000_000;
    for count in 0..MOST {
        let protection = if count % 2 == 0 { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if at == libc::MAP_FAILED {
            println!("mapping-hog: refused with errno {}", std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
            eprintln!("{count} mappings");
            return 0;
        }
    }
    println!("mapping-hog: {MOST} mappings and no end");
    1
}

/// Opens pipes and fills each. With forks, since one process has only so many descriptors.
pub fn pipes(_: &[String]) -> u8 {
    let mut filled = 0u64;
    let mut kept: Vec<OwnedFd> = Vec::new();
    let why = loop {
        let mut ends = [0; 2];
        // SAFETY: `ends` holds the two descriptors the call writes.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK) } != 0 {
            break std::io::Error::last_os_error();
        }
        for fd in ends {
            // SAFETY: just opened, owned by nobody else.
            kept.push(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        let page = [0u8; 4096];
        // SAFETY: writes from a live array of that size.
        while unsafe { libc::write(ends[1], page.as_ptr().cast(), page.len()) } > 0 {
            filled += 4096;
        }
    };
    println!("pipe-hog: refused with errno {}", why.raw_os_error().unwrap_or(0));
    eprintln!("{} pipes, {filled} bytes", kept.len() / 2);
    0
}

/// Writes files until there is no room, then removes them.
pub fn files(_: &[String]) -> u8 {
    use std::io::Write as _;
    let block = vec![0xa5u8; 1 << 16];
    let mut names = Vec::new();
    let why = 'full: loop {
        let name = format!("/tmp/hog.{}", names.len());
        let mut file = match std::fs::File::create(&name) {
            Ok(file) => file,
            Err(error) => break error,
        };
        names.push(name);
        for _ in 0..64 {
            if let Err(error) = file.write_all(&block) {
                break 'full error;
            }
        }
    };
    println!("file-hog: refused with errno {}", why.raw_os_error().unwrap_or(0));
    eprintln!("{} files", names.len());
    let mut removed = true;
    for name in names {
        removed &= std::fs::remove_file(name).is_ok();
    }
    u8::from(!removed)
}

/// Many processes at once hand the kernel as many arguments as it takes, of two kinds: long ones, and as many as possible.
pub fn execs(_: &[String]) -> u8 {
    const PROCESSES: usize = 40;
    const ROUNDS: usize = 2;
    let long = vec![b'x'; 100_000].into_iter().chain([0]).collect::<Vec<u8>>();
    // Made here: the children share them, and need no memory of their own.
    let mut lists: [Vec<*const libc::c_char>; 2] = [vec![long.as_ptr().cast(); 20], vec![c"x".as_ptr(); 190_000]];
    lists.iter_mut().for_each(|list| list.push(std::ptr::null()));
    let mut children = Vec::new();
    for _ in 0..PROCESSES {
        match fork() {
            0 => {
                for round in 0..ROUNDS {
                    let arguments = &lists[round % 2];
                    // SAFETY: a null-terminated list of C strings that outlive the call; there is no such program, so it returns.
                    unsafe { libc::execve(c"/no/such/program".as_ptr(), arguments.as_ptr(), [std::ptr::null()].as_ptr()) };
                    let why = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
                    if !matches!(why, libc::ENOENT | libc::ENOMEM | libc::E2BIG) {
                        // SAFETY: ends this process.
                        unsafe { libc::_exit(1) };
                    }
                }
                // SAFETY: ends this process.
                unsafe { libc::_exit(0) };
            }
            -1 => break,
            pid => children.push(pid),
        }
    }
    let well = children.iter().filter(|pid| wait_for(**pid) == 0).count();
    println!("exec-hog: {}", if well == children.len() && well > 0 { "every one was answered" } else { "some were not" });
    u8::from(well != children.len())
}

/// The status of a child that has ended.
fn wait_for(pid: i32) -> i32 {
    let mut status = -1;
    // SAFETY: `status` lives through the call.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    status
}

/// Makes the table of descriptors as long as it gets, polls all of it, and forks until refused: each child has a copy.
pub fn descriptors(_: &[String]) -> u8 {
    const MOST: libc::rlim_t = 65_536;
    let limit = libc::rlimit { rlim_cur: MOST, rlim_max: MOST };
    // SAFETY: `limit` lives through the call.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    // SAFETY: dup2 touches no memory of ours.
    let copied = unsafe { libc::dup2(0, MOST as i32 - 1) };
    let mut entries: Vec<libc::pollfd> = (0..MOST as i32).map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: `entries` lives through the call and has that many.
    let ready = unsafe { libc::poll(entries.as_mut_ptr(), MOST, 0) };
    let mut children = Vec::new();
    while children.len() < 256 {
        match fork() {
            0 => loop {
                // SAFETY: pause touches no memory of ours.
                unsafe { libc::pause() };
            },
            -1 => break,
            pid => children.push(pid),
        }
    }
    let refused = children.len() < 256;
    for pid in children {
        // SAFETY: kill touches no memory of ours.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        wait_for(pid);
    }
    println!("descriptor-hog: {}, poll {}", if refused { "refused" } else { "never refused" }, if ready >= 0 { "answered" } else { "refused" });
    u8::from(copied < 0 || !refused)
}

/// Makes files where the root file system is, and leaves them there.
pub fn inodes(_: &[String]) -> u8 {
    for count in 0..1_000_000u32 {
        if count.is_multiple_of(1000)
            && let Err(why) = std::fs::create_dir(format!("/hog{}", count / 1000))
        {
            println!("inode-hog: refused with errno {}", why.raw_os_error().unwrap_or(0));
            return 0;
        }
        if let Err(why) = std::fs::File::create(format!("/hog{}/{count}", count / 1000)) {
            println!("inode-hog: refused with errno {}", why.raw_os_error().unwrap_or(0));
            return 0;
        }
    }
    println!("inode-hog: no end");
    1
}

/// Closes all descriptors, opens the console again, changes its settings, takes it as controlling terminal, hangs it up.
pub fn close_console(_: &[String]) -> u8 {
    // SAFETY: setsid touches no memory of ours.
    unsafe { libc::setsid() };
    for path in [c"/dev/console", c"/dev/tty", c"/dev/ttyS0", c"/dev/tty0"] {
        // SAFETY: the path is a C string that lives on.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK) };
        // SAFETY: an ioctl with a number as argument.
        unsafe { libc::ioctl(fd, libc::TIOCSCTTY, 1) };
        // SAFETY: a zeroed termios is a valid one (all off, speed 0: hang up).
        let nothing: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `nothing` lives through the call.
        unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const nothing) };
        // SAFETY: vhangup touches no memory of ours.
        unsafe { libc::vhangup() };
        for fd in 3..64 {
            // SAFETY: this program owns nothing above the standard three.
            unsafe { libc::close(fd) };
        }
    }
    println!("close-console: done");
    for fd in 0..3 {
        // SAFETY: nothing is printed after this.
        unsafe { libc::close(fd) };
    }
    0
}
