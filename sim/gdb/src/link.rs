//! The connection: a thread takes bytes off the stream, so that a running machine can look for them without blocking.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::Duration;

use gdbstub::conn::Connection;

/// Bytes from gdb.
#[derive(Debug)]
pub(crate) struct Link {
    bytes: Receiver<u8>,
    /// A byte that arrived while resting.
    early: Option<u8>,
    closed: bool,
}

impl Link {
    pub fn new(mut reader: impl Read + Send + 'static) -> Self {
        let (sender, bytes) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if buffer[..count].iter().any(|byte| sender.send(*byte).is_err()) {
                    return;
                }
            }
        });
        Self { bytes, early: None, closed: false }
    }

    /// The next byte; `None` when gdb is gone.
    pub fn wait(&mut self) -> Option<u8> {
        self.early.take().or_else(|| self.bytes.recv().ok())
    }

    /// The next byte if it is there.
    pub fn poll(&mut self) -> Option<u8> {
        if let Some(byte) = self.early.take() {
            return Some(byte);
        }
        match self.bytes.try_recv() {
            Ok(byte) => Some(byte),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.closed = true;
                None
            }
        }
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Waits a little for gdb: the machine has nothing to do.
    pub fn rest(&mut self) {
        match self.bytes.recv_timeout(Duration::from_millis(50)) {
            Ok(byte) => self.early = Some(byte),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.closed = true,
        }
    }
}

/// Answers to gdb, a packet at a time.
#[derive(Debug)]
pub(crate) struct Out<W> {
    writer: W,
    buffer: Vec<u8>,
}

impl<W: Write> Out<W> {
    pub fn new(writer: W) -> Self {
        Self { writer, buffer: Vec::new() }
    }
}

impl<W: Write> Connection for Out<W> {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> Result<(), io::Error> {
        self.buffer.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), io::Error> {
        self.writer.write_all(&self.buffer)?;
        self.buffer.clear();
        self.writer.flush()
    }
}
