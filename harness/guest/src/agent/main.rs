//! The agent: runs what a scenario asks for, inside a guest, over a serial line.
//!
//! `agent DEVICE` opens the terminal DEVICE raw and serves requests until the line hangs up; `agent -` serves its standard input and output
//! (for tests over a pipe or a pty). The protocol is the library of this crate and `docs/formats/agent.md`.
//!
//! # Theory
//! One thread, one `poll`: the line, the outputs of every job, the input of jobs that still want it. Jobs get a process group of
//! their own, so that a signal reaches all of a pipeline. Output is read only while the link has room: a job that prints faster than
//! the line carries is slowed down by its pipe, and nothing is buffered without bound.
//!
//! # Failure
//! A request that cannot be carried out is answered with `failed` and the reason. If the line ends, the agent ends, and its init starts another,
//! which opens a new session.

mod jobs;
mod line;

use guest::{Body, Link, LinkEvent, Report, Request, VERSION};
use jobs::Jobs;
use line::Line;
use std::os::fd::AsRawFd;

fn main() {
    let Some(device) = std::env::args().nth(1) else {
        eprintln!("usage: agent DEVICE   (a terminal such as /dev/ttyS1, or - for standard input and output)");
        std::process::exit(2);
    };
    let line = match Line::open(&device) {
        Ok(line) => line,
        Err(error) => {
            eprintln!("agent: {device}: {error}");
            std::process::exit(1);
        }
    };
    match serve(line) {
        Ok(()) => {}
        Err(error) => {
            eprintln!("agent: {device}: {error}");
            std::process::exit(1);
        }
    }
}

/// First line of `/proc/version`, so that a transcript says what ran.
fn system() -> String {
    let text = std::fs::read_to_string("/proc/version").unwrap_or_default();
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

fn send(link: &mut Link, report: &Report) {
    // A report is plain data: it always serialises.
    if let Ok(text) = serde_json::to_string(report) {
        link.send(&text);
    }
}

fn serve(mut line: Line) -> std::io::Result<()> {
    let hello = Report::Hello { version: VERSION, system: system() };
    let mut link = Link::opening(&serde_json::to_string(&hello)?);
    let mut jobs = Jobs::default();
    loop {
        line.write_all(&link.take_outgoing())?;
        let mut wanted = vec![libc::pollfd { fd: line.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        jobs.interests(link.has_room(), &mut wanted);
        line::poll(&mut wanted, jobs.patience_ms())?;
        if wanted[0].revents != 0 {
            let Some(bytes) = line.read()? else { return Ok(()) };
            for event in link.receive(&bytes) {
                if let LinkEvent::Message(text) = event {
                    for report in answer(&mut jobs, &text) {
                        send(&mut link, &report);
                    }
                }
            }
        }
        for report in jobs.progress(&wanted[1..]) {
            send(&mut link, &report);
        }
    }
}

fn answer(jobs: &mut Jobs, text: &str) -> Vec<Report> {
    let request: Request = match serde_json::from_str(text) {
        Ok(request) => request,
        Err(error) => return vec![Report::Failed { job: 0, why: format!("not a request: {error}") }],
    };
    match request {
        Request::Run { job, argv, zone, stdin } => vec![jobs.start(job, argv, zone, stdin)],
        Request::Kill { job, signal } => jobs.kill(job, signal).err().map(|why| Report::Failed { job, why }).into_iter().collect(),
        Request::Put { job, path, mode, body } => vec![match put(&path, mode, &body) {
            Ok(()) => Report::Exit { job, status: Some(0), signal: None },
            Err(why) => Report::Failed { job, why },
        }],
        Request::Get { job, path } => match std::fs::read(&path) {
            Ok(bytes) => {
                let mut reports: Vec<_> = bytes
                    .chunks(jobs::CHUNK)
                    .map(|chunk| Report::Output { job, stream: guest::StreamName::Stdout, body: Body::new(chunk) })
                    .collect();
                reports.push(Report::Exit { job, status: Some(0), signal: None });
                reports
            }
            Err(error) => vec![Report::Failed { job, why: format!("{path}: {error}") }],
        },
        Request::Ping { job } => vec![Report::Pong { job }],
    }
}

fn put(path: &str, mode: u32, body: &Body) -> Result<(), String> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let bytes = body.bytes().ok_or("the body is broken hexadecimal")?;
    let opened = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode & 0o7777).open(path);
    opened.and_then(|mut file| file.write_all(&bytes)).map_err(|error| format!("{path}: {error}"))
}
