//! What is wrong with a scenario, and where.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

/// One complaint about one place in a scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// File as the user named it.
    pub file: String,
    /// Line from 1, or 0 if the complaint is about the file as a whole.
    pub line: usize,
    /// Column from 1, in characters.
    pub column: usize,
    /// The offending line.
    pub excerpt: String,
    /// How many characters of it are meant.
    pub width: usize,
    pub message: String,
    pub hint: Option<String>,
}

impl Diagnostic {
    pub(crate) fn whole_file(file: &str, message: String) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, excerpt: String::new(), width: 0, message, hint: None }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        if self.line == 0 {
            writeln!(f, " --> {}", self.file)?;
        } else {
            let number = self.line.to_string();
            let gutter = " ".repeat(number.len());
            writeln!(f, "{gutter}--> {}:{}:{}", self.file, self.line, self.column)?;
            writeln!(f, "{gutter} |")?;
            writeln!(f, "{number} | {}", self.excerpt)?;
            writeln!(f, "{gutter} | {}{}", " ".repeat(self.column.saturating_sub(1)), "^".repeat(self.width.max(1)))?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "   = hint: {hint}")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a scenario file, in file order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    pub(crate) fn one(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// The text being read, and the complaints so far.
pub(crate) struct Source<'s> {
    file: &'s str,
    pub(crate) text: &'s str,
    found: RefCell<Vec<(usize, Diagnostic)>>,
}

impl<'s> Source<'s> {
    pub(crate) fn new(file: &'s str, text: &'s str) -> Self {
        Self { file, text, found: RefCell::new(Vec::new()) }
    }

    /// Line (from 1) of a byte offset.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        self.text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
    }

    /// Notes that the text at `span` is wrong.
    pub(crate) fn complain(&self, span: Range<usize>, message: impl Into<String>, hint: Option<String>) {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
        let mut end = span.end.clamp(start, line_end);
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        let diagnostic = Diagnostic {
            file: self.file.to_owned(),
            line: self.line_of(start),
            column: self.text[line_start..start].chars().count() + 1,
            // A tab is one column here, so that the marks stand under the text.
            excerpt: self.text[line_start..line_end].replace('\t', " ").trim_end_matches('\r').to_owned(),
            width: self.text[start..end].chars().count(),
            message: message.into(),
            hint,
        };
        self.found.borrow_mut().push((start, diagnostic));
    }

    pub(crate) fn into_diagnostics(self) -> Diagnostics {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(start, _)| *start);
        found.dedup_by(|a, b| a.1 == b.1);
        Diagnostics(found.into_iter().map(|(_, diagnostic)| diagnostic).collect())
    }
}
