//! The line discipline: what happens between the keys and the reader, and between the writer and the screen.
//!
//! # Theory
//! A pure state machine (`termios(3)`): bytes of the line go in one by one; echo, signals and completed input come out. It knows no
//! device, no lock and no process, so a table of keys and expected screens tests it.
//!
//! In canonical mode the line under edit is apart from what readers may have; a line becomes readable as a whole. In raw mode every
//! byte is readable at once.
//!
//! # Limits
//! [`LINE_MAX`] bytes in the line under edit and in what waits for readers. A full line still takes its end; other bytes are
//! dropped with a bell (`IMAXBEL`).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::job::TtySignal;
use super::termios::{Termios, cc, iflag, lflag, oflag};

/// Most bytes of a line, and most raw bytes waiting.
pub const LINE_MAX: usize = 4096;

const TAB: usize = 8;
const BACKSPACE: u8 = 8;
const BELL: u8 = 7;
const DELETE: u8 = 0x7f;

/// What an input byte caused besides input.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    /// Bytes for the screen, output processing applied.
    pub echo: Vec<u8>,
    /// For the foreground process group.
    pub signals: Vec<TtySignal>,
    /// Pending output is to be thrown away (a signal key without `NOFLSH`).
    pub flush_output: bool,
    /// Something became readable.
    pub readable: bool,
    /// Output was stopped or started (`^S`, `^Q`).
    pub flow_changed: bool,
}

/// A line discipline.
#[derive(Clone, Debug)]
pub struct LineDiscipline {
    termios: Termios,
    /// What readers may have.
    ready: VecDeque<u8>,
    /// Lengths of the complete lines at the front of `ready`; canonical mode only. A length may be 0: end of file.
    lines: VecDeque<usize>,
    /// The line under edit.
    edit: Vec<u8>,
    /// The next byte is taken literally (`^V`).
    literal: bool,
    /// Output is stopped (`^S`).
    stopped: bool,
    /// Column of the cursor, for tabs.
    column: usize,
    /// Column at which the line under edit begins.
    edit_column: usize,
}

impl Default for LineDiscipline {
    fn default() -> Self {
        Self::new(Termios::default())
    }
}

impl LineDiscipline {
    /// An empty one.
    #[must_use]
    pub const fn new(termios: Termios) -> Self {
        Self {
            termios,
            ready: VecDeque::new(),
            lines: VecDeque::new(),
            edit: Vec::new(),
            literal: false,
            stopped: false,
            column: 0,
            edit_column: 0,
        }
    }
    /// The settings.
    #[must_use]
    pub const fn termios(&self) -> &Termios {
        &self.termios
    }
    /// Changes the settings. Leaving canonical mode makes the line under edit readable; entering it makes one line of what waits.
    pub fn set_termios(&mut self, termios: Termios) {
        let (was, is) = (self.is_canonical(), termios.local(lflag::ICANON));
        self.termios = termios;
        if was && !is {
            self.lines.clear();
            self.ready.extend(self.edit.drain(..));
        } else if !was && is && !self.ready.is_empty() {
            self.lines.push_back(self.ready.len());
        }
        if !termios.input(iflag::IXON) {
            self.stopped = false;
        }
    }
    const fn is_canonical(&self) -> bool {
        self.termios.local(lflag::ICANON)
    }
    /// True while output is stopped.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }
    /// Stops or starts output (`TCXONC`).
    pub const fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
    }
    /// Bytes that can still be taken without loss.
    #[must_use]
    pub fn room(&self) -> usize {
        // In canonical mode a full buffer still takes the end of the line, so there is always room for one byte as
        // long as no reader has to come first.
        let used = self.ready.len() + self.edit.len();
        let left = LINE_MAX.saturating_sub(used);
        if left == 0 && self.is_canonical() && self.lines.is_empty() { 1 } else { left }
    }
    /// Bytes a read would give now (`FIONREAD`).
    #[must_use]
    pub fn available(&self) -> usize {
        self.ready.len()
    }
    /// True if a read would not block; `least` is how many raw bytes satisfy it.
    #[must_use]
    pub fn is_readable(&self, least: usize) -> bool {
        if self.is_canonical() { !self.lines.is_empty() } else { self.ready.len() >= least.max(1) }
    }
    /// Throws input away.
    pub fn flush_input(&mut self) {
        self.ready.clear();
        self.lines.clear();
        self.edit.clear();
        self.literal = false;
    }

    /// Hands input to a reader: in canonical mode at most one line. `None`: nothing there.
    pub fn read(&mut self, out: &mut [u8]) -> Option<usize> {
        let limit = if self.is_canonical() { *self.lines.front()? } else { self.ready.len() };
        if limit == 0 && !self.is_canonical() {
            return None;
        }
        let count = limit.min(out.len());
        for (slot, byte) in out.iter_mut().zip(self.ready.drain(..count)) {
            *slot = byte;
        }
        if self.is_canonical() {
            if count == limit {
                self.lines.pop_front();
            } else if let Some(front) = self.lines.front_mut() {
                *front -= count;
            }
        }
        Some(count)
    }

    /// Takes one byte of the line.
    pub fn input(&mut self, byte: u8, effects: &mut Effects) {
        let mut byte = if self.termios.input(iflag::ISTRIP) { byte & 0x7f } else { byte };
        if self.literal {
            self.literal = false;
            if self.edit.is_empty() {
                self.edit_column = self.column;
            }
            self.echo(byte, effects);
            self.push(byte, effects);
            return;
        }
        if self.termios.input(iflag::IXON) && self.flow(byte, effects) {
            return;
        }
        if self.termios.local(lflag::ISIG) && self.signal(byte, effects) {
            return;
        }
        match byte {
            b'\r' if self.termios.input(iflag::IGNCR) => return,
            b'\r' if self.termios.input(iflag::ICRNL) => byte = b'\n',
            b'\n' if self.termios.input(iflag::INLCR) => byte = b'\r',
            _ => {}
        }
        if self.is_canonical() {
            self.canonical(byte, effects);
        } else {
            self.echo(byte, effects);
            self.push(byte, effects);
        }
    }

    /// `^S` and `^Q`. True if the byte was one of them.
    fn flow(&mut self, byte: u8, effects: &mut Effects) -> bool {
        let (start, stop) = (self.termios.is(byte, cc::VSTART), self.termios.is(byte, cc::VSTOP));
        let any = self.stopped && self.termios.input(iflag::IXANY);
        if start || any {
            effects.flow_changed |= self.stopped;
            self.stopped = false;
        } else if stop {
            effects.flow_changed |= !self.stopped;
            self.stopped = true;
        }
        start || stop
    }

    /// The signal keys. True if the byte was one of them.
    fn signal(&mut self, byte: u8, effects: &mut Effects) -> bool {
        let signal = if self.termios.is(byte, cc::VINTR) {
            TtySignal::Interrupt
        } else if self.termios.is(byte, cc::VQUIT) {
            TtySignal::Quit
        } else if self.termios.is(byte, cc::VSUSP) {
            TtySignal::Stop
        } else {
            return false;
        };
        if !self.termios.local(lflag::NOFLSH) {
            self.flush_input();
            effects.flush_output = true;
        }
        effects.flow_changed |= self.stopped;
        self.stopped = false;
        self.echo(byte, effects);
        effects.signals.push(signal);
        true
    }

    fn canonical(&mut self, byte: u8, effects: &mut Effects) {
        let extended = self.termios.local(lflag::IEXTEN);
        if self.termios.is(byte, cc::VERASE) {
            self.erase_char(effects);
        } else if extended && self.termios.is(byte, cc::VWERASE) {
            self.erase_word(effects);
        } else if self.termios.is(byte, cc::VKILL) {
            self.kill(byte, effects);
        } else if extended && self.termios.is(byte, cc::VREPRINT) {
            self.reprint(byte, effects);
        } else if extended && self.termios.is(byte, cc::VLNEXT) {
            self.literal = true;
            if self.termios.local(lflag::ECHO | lflag::ECHOCTL) {
                self.print(&[b'^', BACKSPACE], effects);
            }
        } else if byte == b'\n' {
            if self.termios.local(lflag::ECHO) || self.termios.local(lflag::ECHONL) {
                self.print(b"\n", effects);
            }
            self.edit.push(byte);
            self.complete(effects);
        } else if self.termios.is(byte, cc::VEOF) {
            self.complete(effects);
        } else if self.termios.is(byte, cc::VEOL) || (extended && self.termios.is(byte, cc::VEOL2)) {
            self.echo(byte, effects);
            self.edit.push(byte);
            self.complete(effects);
        } else {
            if self.edit.is_empty() {
                self.edit_column = self.column;
            }
            if self.edit.len() + self.ready.len() < LINE_MAX - 1 {
                self.echo(byte, effects);
            }
            self.push(byte, effects);
        }
    }

    fn complete(&mut self, effects: &mut Effects) {
        self.lines.push_back(self.edit.len());
        self.ready.extend(self.edit.drain(..));
        effects.readable = true;
    }

    /// Stores a byte, if there is room.
    fn push(&mut self, byte: u8, effects: &mut Effects) {
        let canonical = self.is_canonical();
        // One place is kept for the end of the line.
        let limit = if canonical { LINE_MAX - 1 } else { LINE_MAX };
        if self.ready.len() + self.edit.len() >= limit {
            if self.termios.input(iflag::IMAXBEL) {
                effects.echo.push(BELL);
            }
            return;
        }
        if canonical {
            self.edit.push(byte);
        } else {
            self.ready.push_back(byte);
            effects.readable = true;
        }
    }

    // ---- Editing ----

    /// Removes the last character (several bytes in UTF-8). False if there was none.
    fn pop_char(&mut self) -> bool {
        let Some(last) = self.edit.pop() else { return false };
        if self.termios.input(iflag::IUTF8) && last & 0xc0 == 0x80 {
            while let Some(byte) = self.edit.pop() {
                if byte & 0xc0 != 0x80 {
                    break;
                }
            }
        }
        true
    }
    fn erase_char(&mut self, effects: &mut Effects) {
        if !self.pop_char() || !self.termios.local(lflag::ECHO) {
            return;
        }
        if self.termios.local(lflag::ECHOE) {
            self.rub_out(effects);
        } else {
            self.echo(self.termios.cc[cc::VERASE], effects);
        }
    }
    fn erase_word(&mut self, effects: &mut Effects) {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
        let before = self.edit.len();
        while self.edit.last().is_some_and(|byte| !is_word(*byte)) {
            self.pop_char();
        }
        while self.edit.last().is_some_and(|byte| is_word(*byte)) {
            self.pop_char();
        }
        if self.edit.len() != before && self.termios.local(lflag::ECHO) {
            self.rub_out(effects);
        }
    }
    fn kill(&mut self, byte: u8, effects: &mut Effects) {
        if self.edit.is_empty() {
            return;
        }
        self.edit.clear();
        if !self.termios.local(lflag::ECHO) {
            return;
        }
        if self.termios.local(lflag::ECHOKE | lflag::ECHOE) {
            self.rub_out(effects);
        } else {
            self.echo(byte, effects);
            if self.termios.local(lflag::ECHOK) {
                self.print(b"\n", effects);
            }
        }
    }
    fn reprint(&mut self, byte: u8, effects: &mut Effects) {
        if !self.termios.local(lflag::ECHO) {
            return;
        }
        self.echo(byte, effects);
        self.print(b"\n", effects);
        self.edit_column = self.column;
        let line = core::mem::take(&mut self.edit);
        for byte in &line {
            self.echo(*byte, effects);
        }
        self.edit = line;
    }
    /// Moves the cursor back to where the remaining line ends, blanking what it passes.
    fn rub_out(&mut self, effects: &mut Effects) {
        let target = self.edit.iter().fold(self.edit_column, |column, byte| self.advance(column, *byte));
        while self.column > target {
            effects.echo.extend_from_slice(&[BACKSPACE, b' ', BACKSPACE]);
            self.column -= 1;
        }
    }
    /// Column after `byte` was echoed at `column`.
    const fn advance(&self, column: usize, byte: u8) -> usize {
        match byte {
            b'\t' => (column / TAB + 1) * TAB,
            0..0x20 | DELETE => column + if self.termios.local(lflag::ECHOCTL) { 2 } else { 0 },
            0x80..0xc0 if self.termios.input(iflag::IUTF8) => column,
            _ => column + 1,
        }
    }

    // ---- Screen ----

    /// Echoes an input byte, control characters as `^X`.
    fn echo(&mut self, byte: u8, effects: &mut Effects) {
        if !self.termios.local(lflag::ECHO) {
            return;
        }
        let is_control = byte < 0x20 || byte == DELETE;
        if is_control && byte != b'\t' && byte != b'\n' && self.termios.local(lflag::ECHOCTL) {
            self.print(&[b'^', byte ^ 0x40], effects);
        } else {
            self.print(&[byte], effects);
        }
    }
    fn print(&mut self, bytes: &[u8], effects: &mut Effects) {
        self.output(bytes, &mut effects.echo);
    }

    /// Output processing: appends to `out` what `data` becomes on the line.
    pub fn output(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if !self.termios.output(oflag::OPOST) {
            out.extend_from_slice(data);
            return;
        }
        for byte in data {
            match *byte {
                b'\n' => {
                    if self.termios.output(oflag::ONLCR) {
                        out.push(b'\r');
                        self.column = 0;
                    } else if self.termios.output(oflag::ONLRET) {
                        self.column = 0;
                    }
                    out.push(b'\n');
                }
                b'\r' if self.termios.output(oflag::ONOCR) && self.column == 0 => {}
                b'\r' if self.termios.output(oflag::OCRNL) => {
                    if self.termios.output(oflag::ONLRET) {
                        self.column = 0;
                    }
                    out.push(b'\n');
                }
                b'\r' => {
                    self.column = 0;
                    out.push(b'\r');
                }
                b'\t' => {
                    let next = (self.column / TAB + 1) * TAB;
                    if self.termios.output(oflag::XTABS) {
                        out.resize(out.len() + next - self.column, b' ');
                    } else {
                        out.push(b'\t');
                    }
                    self.column = next;
                }
                BACKSPACE => {
                    self.column = self.column.saturating_sub(1);
                    out.push(BACKSPACE);
                }
                byte => {
                    let is_continuation = self.termios.input(iflag::IUTF8) && byte & 0xc0 == 0x80;
                    if byte >= 0x20 && byte != DELETE && !is_continuation {
                        self.column += 1;
                    }
                    out.push(byte);
                }
            }
        }
    }
}
