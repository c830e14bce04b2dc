//! Alarms: ITIMER_REAL of each process, and whatever else wants a call at a time.
//!
//! One kernel thread sleeps until the earliest deadline. It starts with the process layer.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};

use kif::{Nanos, ZoneId};
use linux_abi::consts::signal::SIGALRM;
use sync::{Class, SpinLock, WaitQueue};

use crate::post::{from_kernel, post};
use crate::process::Process;
use crate::timerfd::TimerFile;
use crate::{ProcError, Result};

struct Due {
    owner: Owner,
    generation: u64,
}

/// Whose time has come.
enum Owner {
    Alarm(Weak<Process>),
    File(Weak<TimerFile>),
}

/// An entry of the queue, to take it out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entered(Nanos, u64);

struct Queue {
    due: BTreeMap<(Nanos, u64), Due>,
    next: u64,
}

static QUEUE: SpinLock<Queue> = SpinLock::new(Class::ProcessState, Queue { due: BTreeMap::new(), next: 0 });
static CHANGED: WaitQueue = WaitQueue::new();

/// Starts the thread.
///
/// # Errors
/// No memory for its stack.
pub(crate) fn start() -> Result<()> {
    kif::spawn().spawn("alarms", ZoneId::GLOBAL, Box::new(run)).map(drop).map_err(ProcError::from)
}

fn run() {
    loop {
        let now = kif::clock().monotonic();
        loop {
            let due = {
                let mut queue = QUEUE.lock();
                match queue.due.first_key_value() {
                    Some(((deadline, _), _)) if *deadline <= now => queue.due.pop_first().map(|(_, due)| due),
                    _ => None,
                }
            };
            let Some(due) = due else { break };
            match due.owner {
                Owner::Alarm(process) => {
                    if let Some(process) = process.upgrade() {
                        expire(&process, due.generation, now);
                    }
                }
                Owner::File(file) => {
                    if let Some(file) = file.upgrade() {
                        file.due(due.generation, now);
                    }
                }
            }
        }
        let next = || QUEUE.lock().due.first_key_value().map(|((deadline, _), _)| *deadline);
        let seen = next();
        // Ends when the earliest deadline is another one; a time-out means that it has come.
        if CHANGED.wait_interruptible(seen, || (next() != seen).then_some(())).is_err() {
            sync::clear_interrupt();
        }
    }
}

fn expire(process: &Arc<Process>, generation: u64, now: Nanos) {
    let again = {
        let mut alarm = process.alarm.lock();
        if alarm.generation != generation {
            return;
        }
        let interval = alarm.interval;
        let missed = alarm.deadline.unwrap_or(now);
        alarm.deadline = if interval == Nanos(0) {
            None
        } else {
            // The next one that has not passed: missed ones count as one.
            let behind = now.since(missed).0 / interval.0 + 1;
            Some(missed.plus(Nanos(interval.0.saturating_mul(behind))))
        };
        alarm.deadline
    };
    if let Some(deadline) = again {
        enter(process, deadline, generation);
    }
    if post(process, None, from_kernel(SIGALRM), false).is_err() {}
}

fn enter(process: &Arc<Process>, deadline: Nanos, generation: u64) {
    let entered = insert(deadline, Due { owner: Owner::Alarm(Arc::downgrade(process)), generation });
    let mut alarm = process.alarm.lock();
    if alarm.generation == generation {
        alarm.entered = Some(entered);
    } else {
        drop(alarm);
        take_out(entered);
    }
}

/// Calls [`TimerFile::due`] at `deadline`.
pub(crate) fn enter_file(file: &Weak<TimerFile>, deadline: Nanos, generation: u64) -> Entered {
    insert(deadline, Due { owner: Owner::File(Weak::clone(file)), generation })
}

fn insert(deadline: Nanos, due: Due) -> Entered {
    let entered = {
        let mut queue = QUEUE.lock();
        let number = queue.next;
        queue.next += 1;
        queue.due.insert((deadline, number), due);
        Entered(deadline, number)
    };
    CHANGED.wake_all();
    entered
}

/// Takes an entry out, if it is still there.
pub(crate) fn take_out(Entered(deadline, number): Entered) {
    let due = QUEUE.lock().due.remove(&(deadline, number));
    drop(due);
}

/// Sets ITIMER_REAL: `value` from now (zero: off), then every `interval`. Returns what was left and the old interval.
pub fn set_alarm(process: &Arc<Process>, value: Nanos, interval: Nanos) -> (Nanos, Nanos) {
    let now = kif::clock().monotonic();
    let (old, before, entered) = {
        let mut alarm = process.alarm.lock();
        let old = left(alarm.deadline, alarm.interval, now);
        alarm.generation += 1;
        alarm.interval = interval;
        alarm.deadline = (value != Nanos(0)).then(|| now.plus(value));
        let before = alarm.entered.take();
        (old, before, alarm.deadline.map(|deadline| (deadline, alarm.generation)))
    };
    // An old entry would find another generation and do nothing; taken out, so that a loop of alarms does not pile them up.
    if let Some(before) = before {
        take_out(before);
    }
    if let Some((deadline, generation)) = entered {
        enter(process, deadline, generation);
    }
    old
}

/// What is left of ITIMER_REAL, and its interval.
pub fn alarm(process: &Process) -> (Nanos, Nanos) {
    let alarm = process.alarm.lock();
    left(alarm.deadline, alarm.interval, kif::clock().monotonic())
}

fn left(deadline: Option<Nanos>, interval: Nanos, now: Nanos) -> (Nanos, Nanos) {
    // A timer that runs never shows zero.
    let left = deadline.map_or(Nanos(0), |deadline| Nanos(deadline.since(now).0.max(1000)));
    (left, interval)
}

pub(crate) fn cancel(process: &Arc<Process>) {
    let running = process.alarm.lock().deadline.is_some();
    if running {
        set_alarm(process, Nanos(0), Nanos(0));
    }
}
