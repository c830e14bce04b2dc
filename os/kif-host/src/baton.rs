//! The baton: tasks of a run take turns, and a seed decides whose it is.
//!
//! # Theory
//! Every task is a thread of the host, but exactly one has the baton; the others sleep. It changes hands at mutexes, at spin locks (before one is taken, never while one is
//! held), at parks and at [`point`], which devices call; between these a task runs alone. Which of the tasks that can go on is next, how often the baton changes, what the random
//! numbers are: all drawn from the seed. Time is the run's own: a microsecond a decision, and where nobody can go on it leaps to the next deadline. So a run is a function of
//! its seed, and the sum of its decisions ([`Outcome::receipt`]) is the proof.
//!
//! # Structures
//! [`run`] makes a run, whose first task is its body; [`spawn`] adds one that somebody waits for, the platform's own `spawn` one that serves. [`note`] mixes what a caller
//! saw into the receipt. One run at a time in a process: what the kernel keeps in statics is one.
//!
//! # Failure
//! Nobody can go on and no deadline is left: a deadlock. A task of [`spawn`] sleeps without a deadline for [`PATIENCE`] of the run's time: it is forgotten. Both end the run with
//! who waits, what each holds, and its stack. So do a panic and [`DECISIONS_MAX`]. The threads of a run that failed are left asleep.
//!
//! # Limits
//! One processor: two tasks never run at the same time, so what only goes wrong between two instructions without a lock is not found. A task that loops without any of the
//! above keeps the baton for ever.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kif::{Nanos, OutOfMemory, ThreadId, ZoneId};
use sync::{Class, Parked};

use crate::{HELD, lock};

/// Time of one decision.
const TICK: Nanos = Nanos(1000);
/// How long a task that somebody waits for may sleep without a deadline.
pub const PATIENCE: Nanos = Nanos(2_000_000_000_000);
/// A run has an end.
pub const DECISIONS_MAX: u64 = 200_000_000;
/// Numbers of a run's threads begin here; those of other threads are far below.
const FIRST_ID: u64 = 1 << 32;
/// Lines of the log that are kept.
const LINES_MAX: usize = 4096;
/// Frames of a stack that are told.
const FRAMES_MAX: usize = 12;
const STACK_BYTES: usize = 16 << 20;

const fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a run was.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Sum of all decisions and notes.
    pub receipt: u64,
    pub decisions: u64,
    /// Times that the baton went to another task.
    pub switches: u64,
    pub tasks: usize,
    /// The run's own time.
    pub elapsed: Nanos,
    /// What was logged.
    pub log: Vec<String>,
}

/// Why a run has no outcome.
#[derive(Clone, Debug)]
pub struct Failure {
    pub what: String,
    pub decisions: u64,
    pub log: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at decision {}: {}", self.decisions, self.what)?;
        self.log.iter().rev().take(20).rev().try_for_each(|line| write!(f, "\n    log: {line}"))
    }
}

impl std::error::Error for Failure {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Ready,
    Asleep { deadline: Option<Nanos>, interruptible: bool, since: Nanos },
    Done,
}

struct Task {
    name: String,
    zone: ZoneId,
    stand: Stand,
    token: bool,
    interrupt: bool,
    /// Somebody waits for its end.
    is_awaited: bool,
    turn: Arc<Condvar>,
}

struct State {
    tasks: Vec<Task>,
    /// Who has the baton.
    running: usize,
    seed: u64,
    draws: u64,
    /// The baton is offered to others once in this many points.
    every: u64,
    now: Nanos,
    receipt: u64,
    decisions: u64,
    switches: u64,
    log: Vec<String>,
    failure: Option<String>,
    /// Stacks, as sleeping tasks tell them.
    stacks: Vec<(usize, String)>,
}

/// A run under way.
pub(crate) struct Run {
    state: Mutex<State>,
    /// All tasks are done, one failed, or one told its stack.
    changed: Condvar,
}

thread_local! {
    static ME: RefCell<Option<(Arc<Run>, usize)>> = const { RefCell::new(None) };
}

static CURRENT: Mutex<Option<Arc<Run>>> = Mutex::new(None);

/// The run that the calling thread is a task of.
pub(crate) fn mine() -> Option<(Arc<Run>, usize)> {
    // A thread that is ending has none any more.
    ME.try_with(|me| me.borrow().clone()).ok().flatten()
}

/// Runs `body` and every task that comes of it to their ends.
///
/// # Errors
/// A deadlock, a task that is never woken, a panic.
///
/// # Panics
/// The host has no thread left.
pub fn run(seed: u64, body: impl FnOnce() + Send + 'static) -> Result<Outcome, Failure> {
    static RUNS: Mutex<()> = Mutex::new(());
    let _alone = lock(&RUNS);
    crate::start();
    let every = [1, 2, 6, 24][usize::try_from(mix(seed ^ 0xE7E8) % 4).unwrap_or(0)];
    let state = State {
        tasks: Vec::new(),
        running: 0,
        seed: mix(seed),
        draws: 0,
        every,
        now: Nanos(0),
        receipt: seed,
        decisions: 0,
        switches: 0,
        log: Vec::new(),
        failure: None,
        stacks: Vec::new(),
    };
    let run = Arc::new(Run { state: Mutex::new(state), changed: Condvar::new() });
    *lock(&CURRENT) = Some(Arc::clone(&run));
    run.add("main", ZoneId::GLOBAL, true, Box::new(body)).expect("the host has a thread");
    let mut state = lock(&run.state);
    while state.failure.is_none() && state.tasks.iter().any(|task| task.stand != Stand::Done) {
        state = wait(&run.changed, state);
    }
    *lock(&CURRENT) = None;
    let log = std::mem::take(&mut state.log);
    match state.failure.clone() {
        None => Ok(Outcome { receipt: state.receipt, decisions: state.decisions, switches: state.switches, tasks: state.tasks.len(), elapsed: state.now, log }),
        Some(mut what) => {
            let decisions = state.decisions;
            drop(state);
            what.push_str(&run.stacks());
            Err(Failure { what, decisions, log })
        }
    }
}

/// Adds a task that somebody waits for.
///
/// # Panics
/// The caller is no task of a run, or the host has no thread left.
pub fn spawn(name: &str, zone: ZoneId, body: impl FnOnce() + Send + 'static) {
    let (run, _) = mine().expect("called by a task");
    run.add(name, zone, true, Box::new(body)).expect("the host has a thread");
}

/// True for a task of a run.
#[must_use]
pub fn is_running() -> bool {
    mine().is_some()
}

/// Here the baton may change hands.
pub fn point() {
    if let Some((run, me)) = mine() {
        run.point(me);
    }
}

/// Mixes what the caller saw into the receipt.
pub fn note(value: u64) {
    if let Some((run, _)) = mine() {
        let mut state = lock(&run.state);
        state.receipt = mix(state.receipt ^ value);
    }
}

fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn draw(&mut self) -> u64 {
        self.draws += 1;
        mix(self.seed ^ mix(self.draws))
    }

    fn is_ready(&self, task: &Task) -> bool {
        match task.stand {
            Stand::Ready => true,
            Stand::Asleep { deadline, interruptible, .. } => task.token || interruptible && task.interrupt || deadline.is_some_and(|deadline| deadline <= self.now),
            Stand::Done => false,
        }
    }

    /// Who goes on: `None` if the run has ended, one way or the other.
    fn choose(&mut self) -> Option<usize> {
        loop {
            let ready: Vec<usize> = (0..self.tasks.len()).filter(|index| self.is_ready(&self.tasks[*index])).collect();
            if !ready.is_empty() {
                let draw = usize::try_from(self.draw() >> 8).unwrap_or(0);
                return Some(ready[draw % ready.len()]);
            }
            let asleep = self.tasks.iter().filter_map(|task| if let Stand::Asleep { deadline, since, .. } = task.stand { Some((task, deadline, since)) } else { None });
            let mut next = None;
            for (task, deadline, since) in asleep.clone() {
                if deadline.is_none() && task.is_awaited && self.now.since(since) > PATIENCE {
                    self.failure = Some(format!("{} is never woken", task.name));
                    return None;
                }
                next = match (next, deadline) {
                    (Some(known), Some(deadline)) => Some(deadline.min(known)),
                    (known, deadline) => known.or(deadline),
                };
            }
            match next {
                Some(deadline) => self.now = deadline,
                None => {
                    if asleep.count() > 0 {
                        self.failure = Some(String::from("a deadlock: nobody can go on"));
                    }
                    return None;
                }
            }
        }
    }

    fn decide(&mut self) {
        self.decisions += 1;
        self.now = self.now.plus(TICK);
        if self.decisions == DECISIONS_MAX {
            self.failure = Some(String::from("the run has no end"));
        }
    }
}

impl Run {
    fn add(self: &Arc<Self>, name: &str, zone: ZoneId, is_awaited: bool, body: Box<dyn FnOnce() + Send>) -> Result<ThreadId, OutOfMemory> {
        let turn = Arc::new(Condvar::new());
        let me = {
            let mut state = lock(&self.state);
            let task = Task { name: name.to_owned(), zone, stand: Stand::Ready, token: false, interrupt: false, is_awaited, turn: Arc::clone(&turn) };
            state.tasks.push(task);
            state.tasks.len() - 1
        };
        let run = Arc::clone(self);
        let started = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(move || {
            ME.set(Some((Arc::clone(&run), me)));
            drop(run.sleep(lock(&run.state), me));
            let ended = catch_unwind(AssertUnwindSafe(body));
            ME.set(None);
            run.end(me, ended.err());
        });
        if started.is_err() {
            lock(&self.state).tasks[me].stand = Stand::Done;
            return Err(OutOfMemory);
        }
        Ok(ThreadId(FIRST_ID + me as u64))
    }

    /// Sleeps until the baton is here. In a run that failed: tells the stack, and sleeps on for ever.
    fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State>, me: usize) -> MutexGuard<'a, State> {
        let turn = Arc::clone(&state.tasks[me].turn);
        while state.running != me || state.failure.is_some() {
            if state.failure.is_some() && state.stacks.iter().all(|(known, _)| *known != me) {
                drop(state);
                let stack = told(&Backtrace::force_capture());
                state = lock(&self.state);
                let held = HELD.with_borrow(|held| held.iter().map(|class| name_of(*class)).collect::<Vec<_>>().join(", "));
                let stand = state.tasks[me].stand;
                let text = format!("\n  {} ({stand:?}) holds [{held}]{stack}", state.tasks[me].name);
                state.stacks.push((me, text));
                self.changed.notify_all();
                continue;
            }
            state = wait(&turn, state);
        }
        state.tasks[me].stand = Stand::Ready;
        state
    }

    /// Gives the baton away.
    fn pass(&self, state: &mut State) {
        match state.choose() {
            Some(next) => {
                state.switches += u64::from(state.running != next);
                state.receipt = mix(state.receipt ^ next as u64 ^ state.now.0 << 8);
                state.running = next;
                state.tasks[next].turn.notify_all();
            }
            None => self.announce(state),
        }
    }

    /// The run has ended: everybody is to know.
    fn announce(&self, state: &State) {
        self.changed.notify_all();
        state.tasks.iter().for_each(|task| task.turn.notify_all());
    }

    pub fn point(&self, me: usize) {
        if HELD.with_borrow(|held| held.iter().any(|class| *class >= Class::FIRST_SPIN)) || std::thread::panicking() {
            return;
        }
        let mut state = lock(&self.state);
        state.decide();
        if state.failure.is_some() {
            self.announce(&state);
        } else {
            let every = state.every;
            if !state.draw().is_multiple_of(every) {
                return;
            }
            self.pass(&mut state);
        }
        drop(self.sleep(state, me));
    }

    pub fn park(&self, me: usize, deadline: Option<Nanos>, interruptible: bool) -> Parked {
        let mut state = lock(&self.state);
        state.decide();
        let since = state.now;
        state.tasks[me].stand = Stand::Asleep { deadline, interruptible, since };
        self.pass(&mut state);
        let mut state = self.sleep(state, me);
        let task = &mut state.tasks[me];
        if interruptible && task.interrupt {
            Parked::Interrupted
        } else if std::mem::take(&mut task.token) {
            Parked::Woken
        } else {
            Parked::TimedOut
        }
    }

    fn end(&self, me: usize, panic: Option<Box<dyn Any + Send>>) {
        let mut state = lock(&self.state);
        state.tasks[me].stand = Stand::Done;
        if let Some(panic) = panic {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            let what = format!("{}: {}", state.tasks[me].name, text.unwrap_or("a panic without words"));
            state.failure.get_or_insert(what);
            self.announce(&state);
            return;
        }
        state.decide();
        self.pass(&mut state);
    }

    /// The stacks of all tasks that sleep, as far as they tell them soon.
    fn stacks(&self) -> String {
        let mut state = lock(&self.state);
        for _ in 0..100 {
            let asleep = state.tasks.iter().filter(|task| task.stand != Stand::Done).count();
            if state.stacks.len() >= asleep {
                break;
            }
            state = self.changed.wait_timeout(state, Duration::from_millis(100)).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.stacks.sort();
        state.stacks.iter().map(|(_, text)| text.as_str()).collect()
    }

    pub fn now(&self) -> Nanos {
        lock(&self.state).now
    }

    pub fn zone(&self, me: usize) -> ZoneId {
        lock(&self.state).tasks[me].zone
    }

    pub fn id(me: usize) -> ThreadId {
        ThreadId(FIRST_ID + me as u64)
    }

    pub fn random(&self) -> u64 {
        lock(&self.state).draw()
    }

    pub fn log(&self, args: fmt::Arguments<'_>) {
        let mut state = lock(&self.state);
        if state.log.len() < LINES_MAX {
            state.log.push(args.to_string());
        }
    }

    pub fn serve(self: &Arc<Self>, name: &str, zone: ZoneId, body: Box<dyn FnOnce() + Send>) -> Result<ThreadId, OutOfMemory> {
        self.add(name, zone, false, body)
    }

    pub fn set_interrupt(&self, me: usize, value: bool) {
        lock(&self.state).tasks[me].interrupt = value;
    }
}

/// Calls `body` with the task of a run's thread number; false if it is none.
fn with_task(thread: ThreadId, body: impl FnOnce(&mut Task)) -> bool {
    let Some(index) = thread.0.checked_sub(FIRST_ID) else { return false };
    let run = lock(&CURRENT).clone();
    if let Some(run) = run {
        let mut state = lock(&run.state);
        if let Some(task) = usize::try_from(index).ok().and_then(|index| state.tasks.get_mut(index)) {
            body(task);
        }
    }
    true
}

pub(crate) fn unpark(thread: ThreadId) -> bool {
    with_task(thread, |task| task.token = true)
}

pub(crate) fn interrupt(thread: ThreadId) -> bool {
    with_task(thread, |task| task.interrupt = true)
}

fn name_of(class: u8) -> String {
    Class::name(class).map_or_else(|| class.to_string(), str::to_owned)
}

/// The functions of a stack that are ours: where there is debug information their files say so, else their names.
fn told(stack: &Backtrace) -> String {
    let text = stack.to_string();
    let mut lines = text.lines().map(str::trim).peekable();
    let mut out = String::new();
    let mut count = 0;
    while let Some(line) = lines.next() {
        let Some((_, function)) = line.split_once(": ") else { continue };
        let is_ours = match lines.next_if(|next| next.starts_with("at ")) {
            Some(at) => !["/rustc/", "/library/", "baton.rs", "backtrace"].iter().any(|word| at.contains(word)),
            None => ["pool", "vfs", "sync", "control", "zone"].iter().any(|word| function.trim_start_matches('<').starts_with(word)),
        };
        if is_ours && count < FRAMES_MAX {
            count += 1;
            out.push_str("\n    ");
            out.push_str(function);
        }
    }
    out
}
