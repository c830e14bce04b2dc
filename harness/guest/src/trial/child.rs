//! Children that do the dangerous thing, and how they ended.

use std::time::{Duration, Instant};

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(i32),
    /// It had to be killed from here.
    Stuck,
    /// It could not be made.
    Refused,
}

/// How long a child may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes a raw system call.
///
/// # Safety
/// The call must not touch memory of this program in a way Rust forbids: pass pointers to memory that is exclusively the call's, or none.
pub unsafe fn raw(number: u64, arguments: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the registers follow the Linux convention (psABI A.2.1); what the call does with memory is the caller's promise.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// Runs `act` in a child and says how that ended. If `act` returns, the child exits with its value.
pub fn run(act: impl FnOnce() -> u8) -> End {
    // SAFETY: this program has one thread, so the child may go on as an ordinary process.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => End::Refused,
        0 => {
            let code = act();
            // SAFETY: _exit touches no memory of ours.
            unsafe { libc::_exit(i32::from(code)) }
        }
        pid => wait(pid),
    }
}

fn wait(pid: i32) -> End {
    let begun = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: `status` is ours and outlives the call.
        let ended = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        if ended == pid {
            return if libc::WIFEXITED(status) { End::Exit(libc::WEXITSTATUS(status)) } else { End::Signal(libc::WTERMSIG(status)) };
        }
        if begun.elapsed() > PATIENCE {
            // SAFETY: kill touches no memory of ours.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            return End::Stuck;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Runs each of several acts in a child of its own; prints how many ended by a signal; the status is 0 if all did.
pub fn all_must_be_killed(what: &str, acts: &[(&str, fn())]) -> u8 {
    let mut survived = Vec::new();
    for (name, act) in acts {
        let end = run(|| {
            act();
            0
        });
        if !matches!(end, End::Signal(_)) {
            survived.push(format!("{name}: {end:?}"));
        }
    }
    for line in &survived {
        println!("{what}: NOT STOPPED: {line}");
    }
    println!("{what}: {} of {} stopped by a signal", acts.len() - survived.len(), acts.len());
    u8::from(!survived.is_empty())
}
