//! A program with two planted bugs of concurrency, for machines that look for such: a data race, and an ABA in a lock-free list.
//!
//! # Theory
//! Both bugs need another thread to come between two instructions that are next to each other, and nobody does so by luck: the program has a few
//! windows per run. `racer ROUNDS` prints `BUG data race ...` or `BUG aba ...` for what happened to it, and ends with 0 either way: the run
//! is judged by what it prints.
//!
//! *Data race.* Two threads add to a counter by load and store instead of one atomic addition. An addition is lost if the other thread adds in between. They
//! do so only in rounds of their own, rarely at the same time.
//!
//! *ABA* (IBM System/370 Extended Architecture, Principles of Operation, 1983, appendix A). A stack of nodes linked by index. Pop reads the head and its
//! successor, then exchanges head for successor if the head is still the same. If others pop two nodes and push the first back in between, the head is the same and
//! its successor is not: the exchange succeeds and a node that is in use is on the stack again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;

const NODES: usize = 4;
const NONE: u32 = u32::MAX;
/// How often a round takes from the stack.
const TURNS: u32 = 4;

/// A stack that forgets that heads come back.
struct Stack {
    head: AtomicU32,
    next: [AtomicU32; NODES],
    /// Who holds a node: taken twice is a bug.
    held: [AtomicU32; NODES],
    twice: AtomicU64,
}

impl Stack {
    fn full() -> Self {
        let next = std::array::from_fn(|index| AtomicU32::new(if index + 1 < NODES { index as u32 + 1 } else { NONE }));
        Self { head: AtomicU32::new(0), next, held: std::array::from_fn(|_| AtomicU32::new(0)), twice: AtomicU64::new(0) }
    }

    fn pop(&self) -> Option<usize> {
        loop {
            let head = self.head.load(Ordering::SeqCst);
            if head == NONE {
                return None;
            }
            let after = self.next[head as usize].load(Ordering::SeqCst);
            // The planted bug: that `head` is the head again does not mean that `after` follows it.
            if self.head.compare_exchange(head, after, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                if self.held[head as usize].fetch_add(1, Ordering::SeqCst) != 0 {
                    self.twice.fetch_add(1, Ordering::SeqCst);
                }
                return Some(head as usize);
            }
        }
    }

    fn push(&self, node: usize) {
        self.held[node].fetch_sub(1, Ordering::SeqCst);
        loop {
            let head = self.head.load(Ordering::SeqCst);
            self.next[node].store(head, Ordering::SeqCst);
            if self.head.compare_exchange(head, node as u32, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return;
            }
        }
    }
}

/// Work between the windows, different for each thread and round.
fn work(amount: u32) {
    for step in 0..amount {
        std::hint::black_box(step);
    }
}

fn main() {
    let rounds: u32 = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(20);
    let counter = Arc::new(AtomicU64::new(0));
    let stack = Arc::new(Stack::full());
    let ready = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..3u32)
        .map(|me| {
            let (counter, stack, ready) = (counter.clone(), stack.clone(), ready.clone());
            thread::spawn(move || {
                // All begin together: who is started first would else be done before the last begins.
                ready.fetch_add(1, Ordering::SeqCst);
                while ready.load(Ordering::SeqCst) < 3 {
                    std::hint::spin_loop();
                }
                for round in 0..rounds {
                    work(200 + (me * 97 + round * 31) % 400);
                    if me < 2 {
                        // The planted bug: between load and store another addition is lost.
                        let value = counter.load(Ordering::SeqCst);
                        counter.store(value + 1, Ordering::SeqCst);
                    }
                    work(150 + (me * 61 + round * 17) % 300);
                    for turn in 0..TURNS {
                        let first = stack.pop();
                        let second = stack.pop();
                        // The first goes back while the second is still held: the head is the same again, its successor another.
                        first.into_iter().for_each(|node| stack.push(node));
                        work(40 + (me * 13 + turn * 7) % 30);
                        second.into_iter().for_each(|node| stack.push(node));
                    }
                }
            })
        })
        .collect();
    let crashed = threads.into_iter().map(thread::JoinHandle::join).filter(Result::is_err).count();
    let (found, wanted) = (counter.load(Ordering::SeqCst), u64::from(2 * rounds));
    if found != wanted {
        println!("BUG data race: {found} additions of {wanted}");
    }
    let twice = stack.twice.load(Ordering::SeqCst);
    if twice != 0 {
        println!("BUG aba: a node was held twice, {twice} times");
    }
    println!("racer done, {crashed} crashed");
}
