//! The control device, from the tools' side.

use std::fs::File;
use std::io;

use control_abi::{Code, DEVICE, KSTAT_DEVICE, OUT_MAX, Operation, Scope};
use nv::NvList;

use crate::usage::Failure;

/// A refused operation.
#[derive(Debug)]
pub struct Refused {
    pub code: Option<Code>,
    pub message: String,
}

impl Refused {
    /// Says of what is in use, where -f was given, that this does not help.
    #[must_use]
    pub fn although(mut self, forced: bool) -> Self {
        if forced && self.code == Some(Code::Busy) {
            self.message.push_str(" (-f takes nothing away from a program here: end that first)");
        }
        self
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::new(refused.message)
    }
}

impl From<nv::FieldError> for Refused {
    fn from(error: nv::FieldError) -> Self {
        Self { code: None, message: format!("the kernel's answer makes no sense: {error}") }
    }
}

/// Makes a call.
pub fn call(operation: Operation, request: &NvList) -> Result<NvList, Refused> {
    let row = Operation::row(operation as u32).expect("every operation has a row");
    let own = || File::open(KSTAT_DEVICE).map_err(|error| cannot_open(KSTAT_DEVICE, &error));
    let device = match (row.scope, File::open(DEVICE)) {
        (_, Ok(device)) => device,
        (Scope::Own | Scope::Delegated, Err(_)) => own()?,
        (Scope::Global, Err(error)) => return Err(cannot_open(DEVICE, &error)),
    };
    let failed = |error: &io::Error| Refused { code: None, message: format!("{}: {error}", row.name) };
    let request = if is_kept(operation) { request.clone().with("command", command_line()).encode() } else { request.encode() };
    let mut room = 16 << 10;
    let reply = loop {
        let mut reply = Vec::with_capacity(room);
        match user_sys::control(&device, operation, &request, &mut reply) {
            Ok(()) => break reply,
            // ENOSPC: only operations that read have long replies, so asking again is harmless.
            Err(error) if error.kind() == io::ErrorKind::StorageFull && (room as u64) < OUT_MAX => room *= 8,
            Err(error) => return Err(failed(&error)),
        }
    };
    open(&reply)
}

/// Whether the pool's history keeps the command that asks for this.
fn is_kept(operation: Operation) -> bool {
    use Operation as O;
    matches!(
        operation,
        O::PoolCreate | O::PoolImport | O::PoolDevice | O::PoolScrub | O::PoolSet | O::PoolTend | O::DatasetMake | O::DatasetSnap | O::DatasetChange | O::DatasetSet
    )
}

/// This command, as it was typed.
fn command_line() -> String {
    let words: Vec<String> = std::env::args().collect();
    let (first, rest) = words.split_first().map_or(("", &[][..]), |(first, rest)| (first.rsplit('/').next().unwrap_or(first), rest));
    std::iter::once(first).chain(rest.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
}

/// A descriptor that carries a stream, from call to call.
#[derive(Debug)]
pub struct Session {
    device: File,
    reply: Vec<u8>,
}

impl Session {
    /// Opens the control device.
    pub fn open() -> Result<Self, Refused> {
        let device = File::open(DEVICE).or_else(|_| File::open(KSTAT_DEVICE)).map_err(|error| cannot_open(DEVICE, &error))?;
        // Room for every answer: a piece of a stream comes once.
        let room = usize::try_from(OUT_MAX).unwrap_or(usize::MAX);
        Ok(Self { device, reply: Vec::with_capacity(room) })
    }

    /// Makes a call.
    pub fn call(&mut self, operation: Operation, request: &NvList) -> Result<NvList, Refused> {
        let failed = |error: io::Error| Refused { code: None, message: format!("the control device: {error}") };
        user_sys::control(&self.device, operation, &request.encode(), &mut self.reply).map_err(failed)?;
        open(&self.reply)
    }
}

/// What an answer says.
fn open(reply: &[u8]) -> Result<NvList, Refused> {
    let reply = NvList::decode(reply).map_err(|error| Refused { code: None, message: format!("the kernel's answer makes no sense: {error}") })?;
    match reply.opt_string("error")? {
        None => Ok(reply),
        Some(word) => Err(Refused { code: Code::from_word(word), message: reply.string("message")?.to_owned() }),
    }
}

fn cannot_open(device: &str, error: &io::Error) -> Refused {
    let hint = match error.kind() {
        io::ErrorKind::NotFound if device == DEVICE => " (it exists in the global zone only)",
        io::ErrorKind::PermissionDenied => " (be root of the global zone)",
        _ => "",
    };
    Refused { code: None, message: format!("cannot open {device}: {error}{hint}") }
}
