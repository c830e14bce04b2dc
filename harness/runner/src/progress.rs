//! What is shown while a run goes on.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Told what goes on. All methods may be called very often.
pub trait Watcher {
    /// Preparation: no steps yet.
    fn phase(&mut self, what: &str);
    /// Step `index` (from 0) of `total` begins.
    fn step(&mut self, index: usize, total: usize, name: &str);
    /// The machine's time goes on.
    fn pulse(&mut self, ticks: Option<u64>, now_ns: u64);
    /// The guest wrote to its console.
    fn console(&mut self, bytes: &[u8]);
}

/// Shows nothing.
#[derive(Debug, Default)]
pub struct Quiet;

impl Watcher for Quiet {
    fn phase(&mut self, _what: &str) {}
    fn step(&mut self, _index: usize, _total: usize, _name: &str) {}
    fn pulse(&mut self, _ticks: Option<u64>, _now_ns: u64) {}
    fn console(&mut self, _bytes: &[u8]) {}
}

/// One live line on a terminal: steps done, ticks, speed, virtual time. Where standard error is no terminal, a line per step.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    label: String,
    position: String,
    started: Instant,
    shown: Instant,
    plain: bool,
}

const REDRAW: Duration = Duration::from_millis(100);

impl Progress {
    #[must_use]
    pub fn new(label: &str, terminal: bool) -> Self {
        let bar = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(label.to_owned());
        Self { bar, label: label.to_owned(), position: String::new(), started: Instant::now(), shown: Instant::now(), plain: !terminal }
    }

    fn note(&mut self, what: String) {
        if self.plain && what != self.position {
            eprintln!("{}: {what}", self.label);
        }
        self.position = what;
    }

    /// Takes the line away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watcher for Progress {
    fn phase(&mut self, what: &str) {
        self.note(what.to_owned());
    }

    fn step(&mut self, index: usize, total: usize, name: &str) {
        let short: String = name.chars().take(40).collect();
        self.note(format!("step {}/{total} {short}", index + 1));
    }

    fn pulse(&mut self, ticks: Option<u64>, now_ns: u64) {
        if self.plain || self.shown.elapsed() < REDRAW {
            return;
        }
        self.shown = Instant::now();
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let speed = ticks.map_or_else(String::new, |ticks| format!(", {} M ticks, {} MIPS", ticks / 1_000_000, ticks / millis / 1000));
        self.bar.set_message(format!("{} (machine time {}.{:01} s{speed})", self.position, now_ns / 1_000_000_000, now_ns / 100_000_000 % 10));
        self.bar.tick();
    }

    fn console(&mut self, _bytes: &[u8]) {}
}
