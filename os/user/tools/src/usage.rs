//! Errors of tools and parsing of options.

use std::fmt::Display;
use std::io::Write;

/// Why a tool stops: its exit status and what to say.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub status: u8,
    pub message: String,
}

impl Failure {
    /// It could not be done (status 1).
    pub fn new(message: impl Display) -> Self {
        Self { status: 1, message: message.to_string() }
    }
    /// It was asked wrongly (status 2).
    pub fn usage(message: impl Display) -> Self {
        Self { status: 2, message: message.to_string() }
    }
}

/// Prints to standard output. A reader that went away ends the program's output, not the program.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        // Nobody reads any more: nothing is left to tell them.
    }
}

/// One step of option parsing.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// An option without a value.
    Flag(char),
    /// An option and its value.
    Value(char, String),
}

/// Parses options as getopt(3) does: letters of `spec`, `x:` takes a value; stops at the first operand or after `--`.
/// Returns options and operands.
///
/// # Errors
/// An unknown option or a missing value.
pub fn options(arguments: &[String], spec: &str) -> Result<(Vec<Step>, Vec<String>), Failure> {
    let mut steps = Vec::new();
    let mut index = 0;
    while let Some(argument) = arguments.get(index) {
        if argument == "--" {
            index += 1;
            break;
        }
        let Some(letters) = argument.strip_prefix('-').filter(|letters| !letters.is_empty()) else { break };
        index += 1;
        for (at, letter) in letters.char_indices() {
            let position = spec.find(letter).filter(|_| letter != ':').ok_or_else(|| Failure::usage(format!("unknown option -{letter}")))?;
            if !spec[position + letter.len_utf8()..].starts_with(':') {
                steps.push(Step::Flag(letter));
                continue;
            }
            let rest = &letters[at + letter.len_utf8()..];
            let value = if rest.is_empty() {
                let value = arguments.get(index).ok_or_else(|| Failure::usage(format!("option -{letter} needs a value")))?;
                index += 1;
                value.clone()
            } else {
                rest.to_owned()
            };
            steps.push(Step::Value(letter, value));
            break;
        }
    }
    Ok((steps, arguments.get(index..).unwrap_or(&[]).to_vec()))
}

/// Takes INTERVAL and COUNT off the end of the operands: at most two numbers.
pub fn trailing_numbers(operands: &mut Vec<String>) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < 2
        && let Some(number) = operands.last().and_then(|last| last.parse().ok())
    {
        numbers.insert(0, number);
        operands.pop();
    }
    numbers
}

/// Seconds between reports and how many: one report without numbers, no end with one.
///
/// # Errors
/// One of them is 0.
pub fn interval(numbers: &[u64]) -> Result<(u64, u64), Failure> {
    match numbers {
        [] => Ok((0, 1)),
        numbers if numbers.contains(&0) => Err(Failure::usage("interval and count must be at least 1")),
        [interval] => Ok((*interval, u64::MAX)),
        [interval, count, ..] => Ok((*interval, *count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_are_parsed_as_getopt_does() {
        let (steps, rest) = options(&words("-cv -z alpha -tTREE boot -s"), "cvz:t:").expect("valid");
        let value = |letter, text: &str| Step::Value(letter, text.to_owned());
        assert_eq!(steps, [Step::Flag('c'), Step::Flag('v'), value('z', "alpha"), value('t', "TREE")]);
        assert_eq!(rest, ["boot", "-s"]);
        assert_eq!(options(&words("-- -x"), "c").expect("valid").1, ["-x"]);
        assert_eq!(options(&words("-q"), "c").map_err(|f| f.message), Err("unknown option -q".to_owned()));
        assert_eq!(options(&words("-z"), "z:").map_err(|f| f.status), Err(2));
        assert!(options(&words("-:"), "z:").is_err());
    }
}
