//! gdb's door to the machine: a remote-protocol server over TCP or a pipe.
//!
//! # Theory
//! The protocol is `gdbstub`'s; this crate is its target. Each vCPU is a thread. While gdb lets the machine run, it runs in slices and looks for bytes from gdb between them;
//! slices, breakpoints and reads of registers and memory leave no trace in the run, so a debugged run has the receipt of an undebugged one.
//! Only writes change it, and they are in the event log.
//!
//! Memory is read and written at linear addresses through the present page tables of the thread's vCPU, without regard to privilege: kernel memory can
//! be read while the vCPU is in user mode.
//!
//! *Backwards.* With a [`history::History`], checkpoints keep snapshots. A step back restores the nearest one before and runs forward to the tick before; a
//! continue back runs forward from each earlier snapshot with the breakpoints set, and goes to the last stop it met. A [`Mark`] is a point in time at which the machine stops both
//! ways, as a breakpoint is an address: writes of a disk are such points, and a capsule of a power cut marks those that were lost.
//!
//! # States
//! Idle (gdb asks) ↔ running (machine runs) → disconnected. When the machine ends gdb is shown SIGTERM, so that one can look and go
//! back; continuing from there reports the exit.
//!
//! # Structures
//! [`Session`] (the target) holds the machine and its history; `arch.rs` is the register file; `monitor.rs` the `monitor` commands; `symbols.rs` names addresses and
//! walks stacks; `zones.rs` reads our kernel's table of zones; `link.rs` is the connection.
//!
//! # Failure
//! What gdb sends is parsed by `gdbstub`; a broken connection ends the session with [`GdbError`] and leaves the machine where it is.
//!
//! # Limits
//! Selectors and control registers can be read, not written. A single step is one tick: it may be the delivery of an interrupt or one iteration of a
//! string instruction. A step back costs a run from the checkpoint before it, so a gdb that steps back by the
//! thousand (`reverse-finish` out of an inlined function) is slow: `monitor goto-last-write` of the return address finds the call in one search. Other vCPUs are never held back (gdb's scheduler locking is accepted and has no effect): their turns are part of the run.

mod arch;
mod history;
mod link;
mod monitor;
mod session;
mod symbols;
mod zones;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener};

use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{GdbStub, GdbStubError, MultiThreadStopReason};
use sim_board::{Machine, Outcome};

pub use arch::{Regs, X86_64};
pub use session::{Mark, Place, Session};

use link::Link;

/// Why a session ended early.
#[derive(Debug)]
pub enum GdbError {
    /// The connection broke or could not be made.
    Connection(io::Error),
    /// gdb sent something the protocol does not allow.
    Protocol(String),
}

impl fmt::Display for GdbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GdbError::Connection(error) => write!(f, "gdb connection: {error}"),
            GdbError::Protocol(error) => write!(f, "gdb protocol: {error}"),
        }
    }
}

impl std::error::Error for GdbError {}

impl From<io::Error> for GdbError {
    fn from(error: io::Error) -> Self {
        GdbError::Connection(error)
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// gdb detached or hung up: the machine may run on.
    Detached,
    /// gdb killed the machine.
    Killed,
    /// The machine came to its end and gdb was told.
    Exited(Outcome),
}

/// Waits for one gdb on `listener` and serves it.
pub fn serve(machine: &mut Machine, listener: &TcpListener) -> Result<Ended, GdbError> {
    serve_session(Session::new(machine), listener, |_, _| false)
}

/// The same for a session that was prepared: brought to its place, given symbols. When gdb has detached, hung up or lost its connection, `again` is asked whether to wait for
/// another: it finds the machine as it was left, with its past.
pub fn serve_session(mut session: Session<'_>, listener: &TcpListener, mut again: impl FnMut(&Session<'_>, Option<&GdbError>) -> bool) -> Result<Ended, GdbError> {
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let ended = serve_on(&mut session, stream.try_clone()?, stream.try_clone()?);
        // The thread that reads still holds the connection, and a gdb that said `kill` waits for its end. It may be gone already.
        drop(stream.shutdown(Shutdown::Both));
        match &ended {
            Ok(Ended::Detached) if again(&session, None) => {}
            Err(error) if again(&session, Some(error)) => session.release(),
            _ => return ended,
        }
    }
}

/// Serves a gdb that started us (`target remote | orrery gdb ...`): commands on standard input, answers on standard output.
pub fn serve_stdio(machine: &mut Machine) -> Result<Ended, GdbError> {
    serve_on(&mut Session::new(machine), io::stdin(), io::stdout())
}

/// Serves a gdb on any pair of byte streams.
pub fn serve_on(session: &mut Session<'_>, reader: impl Read + Send + 'static, writer: impl Write) -> Result<Ended, GdbError> {
    let mut link = Link::new(reader);
    let stub = GdbStub::new(link::Out::new(writer));
    let failed = |error: GdbStubError<GdbError, io::Error>| {
        if error.is_connection_error() {
            match error.into_connection_error() {
                Some((error, _)) => GdbError::Connection(error),
                None => GdbError::Protocol("the connection broke".to_owned()),
            }
        } else {
            GdbError::Protocol(error.to_string())
        }
    };
    let mut state = stub.run_state_machine(session).map_err(failed)?;
    loop {
        state = match state {
            GdbStubStateMachine::Idle(idle) => match link.wait() {
                Some(byte) => idle.incoming_data(session, byte).map_err(failed)?,
                None => return Ok(session.ended()),
            },
            GdbStubStateMachine::Running(running) => {
                if let Some(byte) = link.poll() {
                    running.incoming_data(session, byte).map_err(failed)?
                } else if link.is_closed() {
                    return Ok(session.ended());
                } else if let Some(reason) = session.advance() {
                    running.report_stop(session, reason).map_err(failed)?
                } else {
                    if session.waits_for_gdb() {
                        link.rest();
                    }
                    GdbStubStateMachine::Running(running)
                }
            }
            GdbStubStateMachine::CtrlCInterrupt(interrupt) => {
                let reason = session.interrupted();
                interrupt.interrupt_handled(session, Some::<MultiThreadStopReason<u64>>(reason)).map_err(failed)?
            }
            GdbStubStateMachine::Disconnected(gone) => {
                session.disconnected(gone.get_reason());
                return Ok(session.ended());
            }
        };
    }
}
