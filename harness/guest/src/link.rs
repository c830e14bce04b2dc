//! Frames: numbered, checked lines, repeated until they arrive.
//!
//! # Theory
//! A line is `#NUMBER CRC FLAG PAYLOAD\n`: the number in decimal, the CRC-32 of everything that follows it in eight hex
//! digits, one flag, and the payload, which is UTF-8 text without control characters (JSON escapes them).
//!
//! ```text
//! #12 5e1f00aa .{"is":"exit","job":3,"status":0}
//!  |  |        ||
//!  |  |        |payload
//!  |  |        flag: H first frame of a session, + more of this message follows, . its end
//!  |  |              = acknowledges up to the number in the payload, ? asks for all from that number on
//!  |  CRC-32 of number, flag and payload
//!  number of the frame in its direction from 1; 0 for = and ?
//! ```
//!
//! Go-back-n: the receiver takes frames in order only; a gap or a broken line makes it ask (`?`) once; the sender keeps what is
//! unacknowledged. A lost last frame is found by whoever waits for an answer: [`Link::nudge`].
//!
//! # States
//! A session begins with a frame `H` from the guest: whoever receives it forgets the session before.

use std::collections::VecDeque;

/// Longest payload of a frame in bytes.
pub const MAX_PAYLOAD: usize = 1024;
/// Most frames that may be on their way.
pub const WINDOW: usize = 16;
/// Longest message.
pub const MAX_MESSAGE: usize = 1 << 20;
/// After so many frames in order an acknowledgement is due even inside a message.
const ACK_EVERY: u64 = 4;
/// Longest line that is a frame: number, checksum, flag and payload.
const MAX_LINE: usize = MAX_PAYLOAD + 64;

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The other side started anew.
    Session,
    /// A whole message.
    Message(String),
}

/// One end of the line.
#[derive(Debug, Default)]
pub struct Link {
    /// Bytes to put on the wire.
    outgoing: Vec<u8>,
    /// Frames cut but not yet sent: the window is full.
    waiting: VecDeque<(char, String)>,
    /// Frames sent and not acknowledged, oldest first.
    unacknowledged: VecDeque<(u64, char, String)>,
    last_sent: u64,
    last_received: u64,
    /// Last number acknowledged to the other side.
    last_confirmed: u64,
    /// A repeat from this number was asked for and has not come yet.
    asked: Option<u64>,
    line: Vec<u8>,
    /// The line being read is too long to be a frame; it is skipped to its end.
    overlong: bool,
    message: Vec<u8>,
    /// Lines that were not frames, or did not check.
    damaged: u64,
    /// A session frame was sent or received.
    open: bool,
}

fn checksum(number: u64, flag: char, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(format!("{number}{flag}").as_bytes());
    hasher.update(payload);
    hasher.finalize()
}

impl Link {
    /// The guest's end: opens a session with its first message.
    #[must_use]
    pub fn opening(first: &str) -> Self {
        let mut link = Self { open: true, ..Self::default() };
        link.queue(first, true);
        link
    }

    /// The outer end: waits for a session.
    #[must_use]
    pub fn listening() -> Self {
        Self::default()
    }

    /// Lines that did not check so far.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Whether more may be sent without outrunning the other side. Producers that can wait should.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.unacknowledged.len() < WINDOW
    }

    /// Whether something sent is not acknowledged yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.unacknowledged.is_empty() || !self.waiting.is_empty()
    }

    /// Sends a message (text without control characters, as JSON is).
    pub fn send(&mut self, message: &str) {
        self.queue(message, false);
    }

    /// Takes the bytes to put on the wire.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// Called when an answer is overdue: repeats what is unacknowledged and asks for what may be missing.
    pub fn nudge(&mut self) {
        self.repeat_from(0);
        if self.open {
            self.control('?', self.last_received + 1);
        }
    }

    /// Takes bytes from the wire.
    pub fn receive(&mut self, bytes: &[u8]) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                // Too long to be a frame, or not from the start of one.
                if self.line.len() >= MAX_LINE {
                    self.overlong = true;
                } else {
                    self.line.push(byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if std::mem::take(&mut self.overlong) {
                self.broken();
            } else if !line.is_empty() {
                match parse(line) {
                    Some((number, flag, payload)) => self.frame(number, flag, payload, &mut events),
                    None => self.broken(),
                }
            }
        }
        self.pump();
        events
    }

    fn queue(&mut self, message: &str, first: bool) {
        let mut rest = message;
        let mut flag = if first { 'H' } else { '+' };
        loop {
            let mut cut = rest.len().min(MAX_PAYLOAD);
            while !rest.is_char_boundary(cut) {
                cut -= 1;
            }
            let (piece, tail) = rest.split_at(cut);
            // A session's first message fits one frame: `H` is also its end.
            assert!(!first || tail.is_empty(), "the first message of a session is longer than a frame");
            let last = tail.is_empty();
            self.waiting.push_back((if last && !first { '.' } else { flag }, piece.to_owned()));
            if last {
                break;
            }
            flag = '+';
            rest = tail;
        }
        self.pump();
    }

    /// Sends what the window allows.
    fn pump(&mut self) {
        while self.unacknowledged.len() < WINDOW {
            let Some((flag, payload)) = self.waiting.pop_front() else { break };
            self.last_sent += 1;
            self.write(self.last_sent, flag, &payload);
            self.unacknowledged.push_back((self.last_sent, flag, payload));
        }
    }

    fn write(&mut self, number: u64, flag: char, payload: &str) {
        let line = format!("#{number} {:08x} {flag}{payload}\n", checksum(number, flag, payload.as_bytes()));
        self.outgoing.extend_from_slice(line.as_bytes());
    }

    fn control(&mut self, flag: char, number: u64) {
        self.write(0, flag, &number.to_string());
    }

    fn repeat_from(&mut self, number: u64) {
        let again: Vec<_> = self.unacknowledged.iter().filter(|(n, _, _)| *n >= number).cloned().collect();
        for (number, flag, payload) in again {
            self.write(number, flag, &payload);
        }
    }

    fn broken(&mut self) {
        self.damaged += 1;
        if self.open {
            self.ask();
        }
    }

    fn ask(&mut self) {
        let wanted = self.last_received + 1;
        if self.asked != Some(wanted) {
            self.asked = Some(wanted);
            self.control('?', wanted);
        }
    }

    fn frame(&mut self, number: u64, flag: char, payload: &[u8], events: &mut Vec<LinkEvent>) {
        match flag {
            '=' | '?' => {
                let Some(number) = std::str::from_utf8(payload).ok().and_then(|text| text.parse::<u64>().ok()) else { return };
                let confirmed = if flag == '=' { number } else { number.saturating_sub(1) };
                while self.unacknowledged.front().is_some_and(|(first, _, _)| *first <= confirmed) {
                    self.unacknowledged.pop_front();
                }
                if flag == '?' {
                    self.repeat_from(number);
                }
            }
            'H' if number == 1 => {
                // A repeat of the session we are in (its acknowledgement was lost), or a new one?
                if self.open && self.last_received == 1 && self.last_sent == 0 {
                    self.control('=', 1);
                    return;
                }
                *self = Self { open: true, last_received: 1, last_confirmed: 1, damaged: self.damaged, ..Self::default() };
                self.control('=', 1);
                events.push(LinkEvent::Session);
                events.push(LinkEvent::Message(String::from_utf8_lossy(payload).into_owned()));
            }
            '+' | '.' if number == self.last_received + 1 => {
                self.last_received = number;
                self.asked = None;
                self.message.extend_from_slice(payload);
                if flag == '.' {
                    let message = std::mem::take(&mut self.message);
                    if message.len() <= MAX_MESSAGE {
                        events.push(LinkEvent::Message(String::from_utf8_lossy(&message).into_owned()));
                    } else {
                        self.damaged += 1;
                    }
                } else if self.message.len() > MAX_MESSAGE {
                    // Keeps its size over the bound, so that the end is recognised as overlong; drops the bytes.
                    self.message.truncate(MAX_MESSAGE + 1);
                }
                if flag == '.' || number >= self.last_confirmed + ACK_EVERY {
                    self.last_confirmed = number;
                    self.control('=', number);
                }
            }
            '+' | '.' if number <= self.last_received => self.control('=', self.last_received),
            '+' | '.' if self.open => self.ask(),
            _ => self.damaged += 1,
        }
    }
}

/// Splits and checks a line.
fn parse(line: &[u8]) -> Option<(u64, char, &[u8])> {
    // What came before the mark is line noise (a boot message, half a line).
    let start = line.iter().position(|byte| *byte == b'#')?;
    let rest = &line[start + 1..];
    let space = rest.iter().position(|byte| *byte == b' ')?;
    let number: u64 = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
    let rest = &rest[space + 1..];
    let sum = u32::from_str_radix(std::str::from_utf8(rest.get(..8)?).ok()?, 16).ok()?;
    if rest.get(8) != Some(&b' ') {
        return None;
    }
    let flag = char::from(*rest.get(9)?);
    let payload = &rest[10..];
    (checksum(number, flag, payload) == sum).then_some((number, flag, payload))
}
