//! What a peer does on a TCP connection: echo, sink, source, HTTP server, and the client's half of each.

use super::content::{Content, Meter};
use crate::config::CONTENT_MAX;

/// The longest request head an HTTP server or client takes.
const HEAD_MAX: usize = 8192;

/// What listens on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Echo,
    Sink,
    Source { bytes: u64, seed: u64 },
    Http,
}

impl Service {
    pub fn name(self) -> &'static str {
        match self {
            Service::Echo => "echo",
            Service::Sink => "sink",
            Service::Source { .. } => "source",
            Service::Http => "http",
        }
    }
}

/// What a connection is doing.
#[derive(Clone, Debug)]
enum Stage {
    Echo,
    /// Everything is swallowed; its sum is the answer.
    Sink,
    /// Nothing that comes matters.
    Deaf,
    /// An HTTP head is being read; with it, what is to be done after.
    Head { server: bool, head: Vec<u8> },
    /// A request's body.
    Body { left: u64 },
    /// Everything that comes is the answer to what was asked.
    Answer,
}

/// One connection's conversation, apart from the socket.
#[derive(Clone, Debug)]
pub struct Talk {
    stage: Stage,
    out: Vec<u8>,
    content: Option<Content>,
    /// The conversation's own half ends when everything is out.
    closing: bool,
    /// What the connection was for, for the report.
    pub label: String,
    /// Payload received and sent: of HTTP, the bodies.
    pub received: Meter,
    pub sent: Meter,
    /// An HTTP answer's status, or a server's.
    pub status: Option<u16>,
    /// Body bytes announced and not come yet (a client's).
    expected: Option<u64>,
}

fn decimal(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number <= CONTENT_MAX)
}

impl Talk {
    fn new(stage: Stage, label: &str) -> Self {
        Self {
            stage,
            out: Vec::new(),
            content: None,
            closing: false,
            label: label.to_owned(),
            received: Meter::default(),
            sent: Meter::default(),
            status: None,
            expected: None,
        }
    }

    /// A server's side.
    pub fn serve(service: Service) -> Self {
        let mut talk = match service {
            Service::Echo => Self::new(Stage::Echo, "echo"),
            Service::Sink => Self::new(Stage::Sink, "sink"),
            Service::Source { .. } => Self::new(Stage::Deaf, "source"),
            Service::Http => Self::new(Stage::Head { server: true, head: Vec::new() }, "http"),
        };
        if let Service::Source { bytes, seed } = service {
            talk.content = (bytes > 0).then(|| Content::new(seed, bytes));
            talk.closing = true;
        }
        talk
    }

    /// A client that sends content, and takes all that comes as the answer. `half`: it closes its half after the content.
    pub fn send(bytes: u64, seed: u64, half: bool) -> Self {
        let mut talk = Self::new(Stage::Answer, if half { "send" } else { "echo" });
        talk.content = (bytes > 0).then(|| Content::new(seed, bytes));
        talk.closing = half || bytes == 0;
        talk.expected = (!half).then_some(bytes);
        talk
    }

    /// A client that fetches a path.
    pub fn get(path: &str, host: &str) -> Self {
        let mut talk = Self::new(Stage::Head { server: false, head: Vec::new() }, &format!("GET {path}"));
        talk.out = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: orrery\r\nConnection: close\r\n\r\n").into_bytes();
        talk
    }

    /// Bytes came.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.stage {
                Stage::Echo => {
                    self.received.take(bytes);
                    self.sent.take(bytes);
                    self.out.extend_from_slice(bytes);
                    return;
                }
                Stage::Sink => {
                    self.received.take(bytes);
                    return;
                }
                Stage::Deaf => return,
                Stage::Answer => {
                    self.received.take(bytes);
                    if let Some(expected) = &mut self.expected {
                        *expected = expected.saturating_sub(bytes.len() as u64);
                        if *expected == 0 {
                            self.closing = true;
                        }
                    }
                    return;
                }
                Stage::Body { left } => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    self.received.take(&bytes[..count]);
                    *left -= count as u64;
                    if *left == 0 {
                        self.body_done();
                    }
                    // What follows a request is not read: the connection closes.
                    return;
                }
                Stage::Head { server, head } => {
                    let server = *server;
                    head.push(bytes[0]);
                    bytes = &bytes[1..];
                    if head.ends_with(b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(head).into_owned();
                        if server { self.request(&text) } else { self.response(&text) }
                    } else if head.len() > HEAD_MAX {
                        self.respond(431, "request head too long\n");
                    }
                }
            }
        }
    }

    /// The other side has closed its half.
    pub fn ended(&mut self) {
        match self.stage {
            Stage::Sink => {
                self.out = format!("{} {}\n", self.received.sum(), self.received.bytes).into_bytes();
                self.stage = Stage::Deaf;
                self.closing = true;
            }
            Stage::Echo | Stage::Answer | Stage::Head { .. } | Stage::Body { .. } | Stage::Deaf => self.closing = true,
        }
    }

    fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
        head.lines().skip(1).find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()))
    }

    fn request(&mut self, head: &str) {
        let mut words = head.lines().next().unwrap_or_default().split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        self.label = format!("{method} {}", path.chars().filter(|c| c.is_ascii_graphic()).take(64).collect::<String>());
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method, parts.as_slice()) {
            ("GET" | "HEAD", ["bulk", bytes, rest @ ..]) if rest.len() < 2 => {
                match (decimal(bytes), rest.first().map_or(Some(0), |seed| seed.parse().ok())) {
                    (Some(bytes), Some(seed)) => {
                        self.head(200, bytes);
                        self.content = (method == "GET" && bytes > 0).then(|| Content::new(seed, bytes));
                    }
                    _ => self.respond(400, "no such number\n"),
                }
            }
            ("GET", ["sum", bytes, rest @ ..]) if rest.len() < 2 => match (decimal(bytes), rest.first().map_or(Some(0), |seed| seed.parse().ok())) {
                (Some(bytes), Some(seed)) => self.respond(200, &format!("{}  -\n", Content::new(seed, bytes).sum())),
                _ => self.respond(400, "no such number\n"),
            },
            ("GET" | "HEAD", [""]) => self.respond(200, "an orrery peer\n"),
            ("PUT" | "POST", _) => match Self::header(head, "content-length").and_then(decimal) {
                Some(0) => self.body_done(),
                Some(left) => {
                    if Self::header(head, "expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
                        self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    self.stage = Stage::Body { left };
                }
                None => self.respond(411, "how long?\n"),
            },
            ("GET" | "HEAD", _) => self.respond(404, "nothing here\n"),
            _ => self.respond(405, "GET, HEAD, PUT and POST only\n"),
        }
    }

    fn head(&mut self, status: u16, bytes: u64) {
        self.status = Some(status);
        let text = match status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            411 => "Length Required",
            _ => "Request Header Fields Too Large",
        };
        let head = format!("HTTP/1.1 {status} {text}\r\nServer: orrery\r\nContent-Type: application/octet-stream\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n");
        self.out.extend_from_slice(head.as_bytes());
        self.stage = Stage::Deaf;
        self.closing = true;
    }

    fn respond(&mut self, status: u16, body: &str) {
        self.head(status, body.len() as u64);
        self.sent.take(body.as_bytes());
        self.out.extend_from_slice(body.as_bytes());
    }

    fn body_done(&mut self) {
        let text = format!("{} {}\n", self.received.sum(), self.received.bytes);
        self.respond(200, &text);
    }

    fn response(&mut self, head: &str) {
        self.status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        self.expected = Self::header(head, "content-length").and_then(decimal);
        self.stage = Stage::Answer;
        if self.expected == Some(0) {
            self.closing = true;
        }
    }

    /// Fills as much of `into` as there is to send.
    pub fn fill(&mut self, into: &mut [u8]) -> usize {
        let head = self.out.len().min(into.len());
        into[..head].copy_from_slice(&self.out[..head]);
        self.out.drain(..head);
        let mut count = head;
        if self.out.is_empty()
            && let Some(content) = &mut self.content
        {
            let body = content.fill(&mut into[head..]);
            self.sent.take(&into[head..head + body]);
            count += body;
            if content.is_empty() {
                self.content = None;
            }
        }
        count
    }

    /// Whether there is something to send.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty() || self.content.is_some()
    }

    /// Whether bytes may be taken: an echo that is not read stops reading.
    pub fn wants_input(&self) -> bool {
        self.out.len() < 1 << 16
    }

    /// Whether the own half is to be closed now.
    pub fn is_done(&self) -> bool {
        self.closing && !self.has_output()
    }
}
