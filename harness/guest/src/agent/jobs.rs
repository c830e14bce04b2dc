//! The jobs: started, fed, listened to, ended.

use crate::line;
use guest::{Body, Report, StreamName};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write as _};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Bytes of output in one message: with JSON's escapes a few frames.
pub const CHUNK: usize = 2048;
/// Path of programs that are named without one.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/orrery";

struct Output {
    stream: StreamName,
    pipe: Box<dyn Read>,
    fd: RawFd,
    open: bool,
}

struct Job {
    child: Child,
    outputs: Vec<Output>,
    input: Option<(ChildStdin, Vec<u8>)>,
    /// Its end was seen while an output was still open; how often we looked at that output since and found nothing.
    ended: Option<(std::process::ExitStatus, u32)>,
}

/// All jobs, by the number the other side gave them.
#[derive(Default)]
pub struct Jobs {
    jobs: BTreeMap<u32, Job>,
    /// What the last `interests` put into the poll set, in order.
    polled: Vec<(u32, Polled)>,
}

#[derive(Clone, Copy)]
enum Polled {
    Output(usize),
    Input,
}

impl Jobs {
    /// Starts a job and says how that went.
    pub fn start(&mut self, number: u32, argv: Vec<String>, zone: Option<String>, stdin: Option<Body>) -> Report {
        let failed = |why: String| Report::Failed { job: number, why };
        if self.jobs.contains_key(&number) {
            return failed("a job of this number is running".to_owned());
        }
        let Some(input) = stdin.map_or(Some(Vec::new()), |body| body.bytes()) else {
            return failed("the input is broken hexadecimal".to_owned());
        };
        let argv: Vec<String> = match zone {
            Some(zone) => ["/usr/sbin/zlogin".to_owned(), zone].into_iter().chain(argv).collect(),
            None => argv,
        };
        let Some((program, arguments)) = argv.split_first() else {
            return failed("no command".to_owned());
        };
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", PATH).env("HOME", "/root").env("TERM", "vt100").process_group(0);
        command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() }).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return failed(format!("{program}: {error}")),
        };
        let pid = child.id();
        let mut outputs = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            outputs.push(Output { stream: StreamName::Stdout, fd: pipe.as_raw_fd(), pipe: Box::new(pipe), open: true });
        }
        if let Some(pipe) = child.stderr.take() {
            outputs.push(Output { stream: StreamName::Stderr, fd: pipe.as_raw_fd(), pipe: Box::new(pipe), open: true });
        }
        let input = child.stdin.take().and_then(|pipe| line::set_nonblocking(pipe.as_raw_fd()).ok().map(|()| (pipe, input)));
        self.jobs.insert(number, Job { child, outputs, input, ended: None });
        Report::Started { job: number, pid }
    }

    /// Sends a signal to all processes of a job.
    pub fn kill(&mut self, number: u32, signal: i32) -> Result<(), String> {
        let job = self.jobs.get(&number).ok_or("no such job")?;
        line::kill_group(job.child.id(), signal).map_err(|error| error.to_string())
    }

    /// How long `poll` may sleep: for ever while every job's end will show as the end of an output; briefly while only the exit is missing;
    /// a while if a job may leave a background process holding its outputs.
    pub fn patience_ms(&self) -> i32 {
        let ending = self.jobs.values().any(|job| job.outputs.iter().all(|output| !output.open));
        match (self.jobs.is_empty(), ending) {
            (true, _) => -1,
            (false, true) => 1,
            (false, false) => 200,
        }
    }

    /// Adds what to poll for. Outputs only if there is room to send them on.
    pub fn interests(&mut self, room: bool, wanted: &mut Vec<libc::pollfd>) {
        self.polled.clear();
        for (number, job) in &self.jobs {
            for (index, output) in job.outputs.iter().enumerate() {
                if output.open && room {
                    wanted.push(libc::pollfd { fd: output.fd, events: libc::POLLIN, revents: 0 });
                    self.polled.push((*number, Polled::Output(index)));
                }
            }
            if let Some((pipe, _)) = &job.input {
                wanted.push(libc::pollfd { fd: pipe.as_raw_fd(), events: libc::POLLOUT, revents: 0 });
                self.polled.push((*number, Polled::Input));
            }
        }
    }

    /// Does what the last poll found possible, and looks for ends.
    pub fn progress(&mut self, ready: &[libc::pollfd]) -> Vec<Report> {
        let mut reports = Vec::new();
        // Jobs whose open outputs were looked at this time, and said nothing.
        let mut silent: Vec<u32> = self.polled.iter().filter(|(_, what)| matches!(what, Polled::Output(_))).map(|(number, _)| *number).collect();
        for (entry, (number, what)) in ready.iter().zip(self.polled.drain(..)) {
            let Some(job) = self.jobs.get_mut(&number).filter(|_| entry.revents != 0) else { continue };
            silent.retain(|job| *job != number);
            match what {
                Polled::Output(index) => reports.extend(job.outputs[index].read().map(|(stream, body)| Report::Output { job: number, stream, body })),
                Polled::Input => job.feed(),
            }
        }
        let mut over = Vec::new();
        for (number, job) in &mut self.jobs {
            if let Some((status, signal)) = job.end(silent.contains(number)) {
                reports.push(Report::Exit { job: *number, status, signal });
                over.push(*number);
            }
        }
        for number in over {
            self.jobs.remove(&number);
        }
        reports
    }
}

impl Output {
    fn read(&mut self) -> Option<(StreamName, Body)> {
        let mut buffer = [0; CHUNK];
        match self.pipe.read(&mut buffer) {
            Ok(0) => self.open = false,
            Ok(count) => return Some((self.stream, Body::new(&buffer[..count]))),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.open = false,
        }
        None
    }
}

impl Job {
    fn feed(&mut self) {
        let Some((pipe, rest)) = &mut self.input else { return };
        match pipe.write(rest) {
            Ok(count) => {
                rest.drain(..count);
                if rest.is_empty() {
                    self.input = None;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            // The job does not want the rest.
            Err(_) => self.input = None,
        }
    }

    /// Exit status and signal, once the job has ended and its output is complete. A background process that keeps the outputs open
    /// is waited for a few looks long, then left alone; output that waits for room on the line is not looked at, and so never left behind.
    fn end(&mut self, silent: bool) -> Option<(Option<i32>, Option<i32>)> {
        const LOOKS: u32 = 2;
        let open = self.outputs.iter().any(|output| output.open);
        let (status, looks) = match &mut self.ended {
            Some((status, looks)) => {
                *looks += u32::from(silent);
                (*status, *looks)
            }
            None => {
                let status = self.child.try_wait().ok()??;
                self.ended = Some((status, 0));
                (status, 0)
            }
        };
        (!open || looks > LOOKS).then(|| (status.code(), status.signal()))
    }
}
