//! What a case may cost: no panic, so much processor time, so much memory, so many transfers.
//!
//! Memory is the host's: the largest address space of the process so far (`VmPeak`, proc_pid_status(5)), which also counts what was asked for and never touched. It is
//! the whole process's, so it is watched where nothing else runs: in campaigns. Processor time is this thread's: a busy host makes no finding.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// A case that takes longer is a hang: those of good pools take milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// A case asks for no more than this beyond what those before it took: a block of the largest size there is, 16 MiB, in all the copies that reading it from a raidz makes.
const MEMORY: u64 = 384 << 20;
/// Cases between looks at the memory. The peak stays where it was, so nothing is missed.
const LOOK: u64 = 8;

/// Watches the cases of a run.
#[derive(Debug, Default)]
pub struct Watch {
    /// `/proc/self/status`, if memory is watched, and the address space so far.
    memory: Option<(File, u64)>,
    cases: u64,
    /// Longest case.
    pub longest: Duration,
    /// Most memory that cases took beyond what there was before the first.
    pub grown: u64,
}

fn spent() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

fn peak(status: &File) -> Option<u64> {
    let mut text = [0; 1024];
    let count = status.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..count]).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmPeak:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

impl Watch {
    /// Watches memory too.
    #[must_use]
    pub fn with_memory() -> Self {
        let status = File::open("/proc/self/status").ok();
        Self { memory: status.and_then(|status| peak(&status).map(|peak| (status, peak))), ..Self::default() }
    }

    /// Runs a case. `say` makes words of a finding.
    ///
    /// # Errors
    /// A finding: its own, or a panic, a hang, too much memory.
    pub fn guard<R>(&mut self, say: impl Fn(&str) -> String, case: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
        if self.cases == 0
            && let Some((status, before)) = &mut self.memory
        {
            // What making the pool took is no case's.
            *before = peak(status).unwrap_or(*before);
        }
        let began = spent();
        let found = catch_unwind(AssertUnwindSafe(case)).map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            say(&format!("a panic: {}", text.unwrap_or("without words")))
        })?;
        let took = spent().saturating_sub(began);
        self.longest = self.longest.max(took);
        self.cases += 1;
        if took > PATIENCE {
            return Err(say(&format!("a hang: {took:?}")));
        }
        if self.cases % LOOK == 1
            && let Some((status, before)) = &mut self.memory
            && let Some(now) = peak(status)
        {
            let more = now.saturating_sub(*before);
            *before = now;
            self.grown += more;
            if more > MEMORY {
                return Err(say(&format!("{} MiB of memory in this or one of the {LOOK} before", more >> 20)));
            }
        }
        found.map_err(|what| say(&what))
    }
}
