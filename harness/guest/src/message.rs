//! The messages.

use serde::{Deserialize, Serialize};

/// Version of this protocol; the agent says it in its first message.
pub const VERSION: u32 = 1;

/// Bytes in JSON: text where they are text, else hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    Text(String),
    Hex(String),
}

impl Body {
    /// Wraps bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }

    /// Unwraps them; `None` if the hexadecimal form is broken.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.as_bytes().to_vec()),
            Self::Hex(hex) => {
                let digits: Option<Vec<u8>> = hex.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
                let digits = digits?;
                digits.len().is_multiple_of(2).then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
            }
        }
    }
}

/// Which output of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamName {
    Stdout,
    Stderr,
}

/// From outside to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Request {
    /// Starts a job. Its number is the caller's choice; the answer is `started` or `failed`, later `output`s and one `exit`.
    Run {
        job: u32,
        argv: Vec<String>,
        /// Run in this zone (through `zlogin`), not in the global one.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        zone: Option<String>,
        /// Given to the job as its standard input, which then ends.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        stdin: Option<Body>,
    },
    /// Sends a signal to the process group of a job.
    Kill { job: u32, signal: i32 },
    /// Writes a small file.
    Put { job: u32, path: String, mode: u32, body: Body },
    /// Reads a small file; comes back as `output` and `exit`.
    Get { job: u32, path: String },
    /// Answered by `pong`.
    Ping { job: u32 },
}

/// From the agent to the outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Report {
    /// First message of a session.
    Hello { version: u32, system: String },
    Started { job: u32, pid: u32 },
    Output { job: u32, stream: StreamName, body: Body },
    /// The job is over: its exit status, or the signal that ended it. All its output came before.
    Exit {
        job: u32,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        status: Option<i32>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        signal: Option<i32>,
    },
    /// The request could not be carried out.
    Failed { job: u32, why: String },
    Pong { job: u32 },
}
