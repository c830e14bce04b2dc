//! Keys typed at a console, written so that they can be read: `vi notes<enter>ihello<esc>:wq<enter>`, `<ctrl-c>`.

/// A `<...>` that names no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The name between the brackets is none of ours.
    Unknown { name: String },
    /// A `<` without its `>`.
    Open { rest: String },
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown { name } => write!(f, "no key is called `<{name}>`"),
            Self::Open { rest } => write!(f, "`{rest}` opens a key name that never ends"),
        }
    }
}

/// What a named key sends, as an xterm does.
const NAMED: &[(&str, &str)] = &[
    ("enter", "\r"),
    ("esc", "\x1b"),
    ("tab", "\t"),
    ("backspace", "\x7f"),
    ("space", " "),
    ("lt", "<"),
    ("up", "\x1b[A"),
    ("down", "\x1b[B"),
    ("right", "\x1b[C"),
    ("left", "\x1b[D"),
    ("home", "\x1b[H"),
    ("end", "\x1b[F"),
    ("delete", "\x1b[3~"),
];

/// Names of all keys, for a hint.
pub(crate) fn names() -> Vec<&'static str> {
    NAMED.iter().map(|(name, _)| *name).chain(["ctrl-c", "ctrl-d", "ctrl-z"]).collect()
}

/// Turns readable keys into the bytes a terminal sends. A literal `<` is `<lt>`.
pub fn parse(text: &str) -> Result<Vec<u8>, KeyError> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let tail = &rest[at + 1..];
        let end = tail.find('>').ok_or_else(|| KeyError::Open { rest: rest[at..].to_owned() })?;
        let name = &tail[..end];
        if let Some((_, sent)) = NAMED.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            bytes.extend_from_slice(sent.as_bytes());
        } else if let Some(letter) = name.to_ascii_lowercase().strip_prefix("ctrl-")
            && let [letter @ (b'a'..=b'z' | b'[' | b'\\' | b']')] = letter.as_bytes()
        {
            bytes.push(letter & 0x1f);
        } else {
            return Err(KeyError::Unknown { name: name.to_owned() });
        }
        rest = &tail[end + 1..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}
