//! `kstat`: kernel statistics.

use control_abi::Operation;
use nv::{NvList, Value};

use crate::control::call;
use crate::usage::{self, Failure, Step};

pub const HELP: &str = "\
usage: kstat [-Cjlpq] [-c CLASS] [-m MODULE] [-i INSTANCE] [-n NAME] [-s STATISTIC]
             [MODULE[:INSTANCE[:NAME[:STATISTIC]]]...] [INTERVAL [COUNT]]

Names are shell patterns (* ? [a-z]), or regular expressions of ^ $ . * + ? [] between slashes; an empty part
matches everything.

  -p  module:instance:name:statistic<TAB>value     -C  the same, separated by ':'
  -j  JSON                                         -l  names only
  -q  nothing but the exit status

Exit status: 0 something matched, 1 nothing did, 2 usage, 3 the kernel did not answer.

examples:
  kstat -p 'zones:::nsec_*'
  kstat -p unix:0:system_misc:avenrun_1min
  kstat -j -m memory_cap
  kstat -p zones::alpha:nsec_user 1 10
";

/// One statistic's address pattern.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pattern {
    pub module: String,
    pub instance: String,
    pub name: String,
    pub statistic: String,
}

/// Matches one part: empty, `/regular expression/` or shell pattern.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    if pattern.is_empty() {
        return true;
    }
    match pattern.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        Some(expression) => regex(expression, text),
        None => glob(pattern.as_bytes(), text.as_bytes()),
    }
}

/// Shell pattern. Linear in practice: after a mismatch only the last `*` is retried.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], text[t]).and_then(|(hit, length)| hit.then_some(length)),
            Some(byte) if *byte == text[t] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(length), _) => (p, t) = (p + length, t + 1),
            (None, Some((after, from))) => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// A bracket expression at the start of `pattern`: whether it has `byte`, and its length. `None`: not closed.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    let mut at = first;
    let mut hit = false;
    loop {
        let low = *pattern.get(at)?;
        if low == b']' && at > first {
            return Some((hit != negated, at + 1));
        }
        if pattern.get(at + 1) == Some(&b'-') && pattern.get(at + 2).is_some_and(|high| *high != b']') {
            hit |= (low..=pattern[at + 2]).contains(&byte);
            at += 3;
        } else {
            hit |= low == byte;
            at += 1;
        }
    }
}

/// A small regular expression: literals, `.`, `[...]`, `* + ?` after one of them, `^`, `$`. Unanchored.
fn regex(expression: &str, text: &str) -> bool {
    let (expression, text) = (expression.as_bytes(), text.as_bytes());
    match expression.strip_prefix(b"^") {
        Some(rest) => regex_here(rest, text),
        None => (0..=text.len()).any(|start| regex_here(expression, &text[start..])),
    }
}

fn regex_here(expression: &[u8], text: &[u8]) -> bool {
    if expression.is_empty() || (expression == b"$" && text.is_empty()) {
        return true;
    }
    let length = match expression[0] {
        b'[' => match class(expression, 0) {
            Some((_, length)) => length,
            None => return false,
        },
        b'\\' if expression.len() > 1 => 2,
        _ => 1,
    };
    let one = |byte: u8| match expression[0] {
        b'[' => class(expression, byte).is_some_and(|(hit, _)| hit),
        b'\\' if length == 2 => expression[1] == byte,
        b'.' => true,
        literal => literal == byte,
    };
    let (least, most, skip) = match expression.get(length) {
        Some(b'*') => (0, usize::MAX, 1),
        Some(b'+') => (1, usize::MAX, 1),
        Some(b'?') => (0, 1, 1),
        _ => (1, 1, 0),
    };
    let rest = &expression[length + skip..];
    let run = text.iter().take_while(|byte| one(**byte)).count().min(most);
    (least..=run).rev().any(|taken| regex_here(rest, &text[taken..]))
}

impl Pattern {
    /// Parses an operand. Colons inside a `/.../` part do not separate.
    #[must_use]
    pub fn parse(operand: &str) -> Self {
        let mut parts = vec![String::new()];
        let mut in_expression = false;
        for c in operand.chars() {
            let part = parts.last_mut().expect("never empty");
            match c {
                ':' if !in_expression => parts.push(String::new()),
                '/' => {
                    in_expression = part.is_empty() && !in_expression;
                    part.push('/');
                }
                c => part.push(c),
            }
        }
        let mut parts = parts.into_iter();
        let mut next = || parts.next().unwrap_or_default();
        Self { module: next(), instance: next(), name: next(), statistic: next() }
    }
}

/// A kstat as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kstat {
    pub module: String,
    pub instance: u64,
    pub name: String,
    pub class: String,
    pub created: u64,
    pub taken: u64,
    pub data: Vec<(String, Value)>,
}

impl Kstat {
    fn from_list(list: &NvList) -> Result<Self, nv::FieldError> {
        let mut data: Vec<(String, Value)> = list.list("data")?.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
        data.push(("class".to_owned(), Value::String(list.string("class")?.to_owned())));
        data.push(("crtime".to_owned(), Value::String(seconds(list.number("created")?))));
        data.push(("snaptime".to_owned(), Value::String(seconds(list.number("taken")?))));
        data.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Self {
            module: list.string("module")?.to_owned(),
            instance: list.number("instance")?,
            name: list.string("name")?.to_owned(),
            class: list.string("class")?.to_owned(),
            created: list.number("created")?,
            taken: list.number("taken")?,
            data,
        })
    }
}

/// Seconds since boot with nine decimals.
fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Number(value) => value.to_string(),
        Value::Signed(value) => value.to_string(),
        Value::String(value) => value.clone(),
        other => format!("({})", other.kind()),
    }
}

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Blocks,
    Lines,
    Colons,
    Json,
    Names,
    Quiet,
}

/// Keeps what the patterns (or-ed) want, and only those statistics.
#[must_use]
pub fn select(kstats: &[Kstat], class: &str, patterns: &[Pattern]) -> Vec<Kstat> {
    let mut chosen = Vec::new();
    for kstat in kstats.iter().filter(|kstat| matches(class, &kstat.class)) {
        let wanted: Vec<&Pattern> = patterns
            .iter()
            .filter(|p| matches(&p.module, &kstat.module) && matches(&p.instance, &kstat.instance.to_string()) && matches(&p.name, &kstat.name))
            .collect();
        let mut kstat = kstat.clone();
        kstat.data.retain(|(name, _)| wanted.iter().any(|pattern| matches(&pattern.statistic, name)));
        if !kstat.data.is_empty() {
            chosen.push(kstat);
        }
    }
    chosen
}

/// Formats.
#[must_use]
pub fn format(kstats: &[Kstat], form: Form) -> String {
    let mut out = String::new();
    let address = |kstat: &Kstat, name: &str| format!("{}:{}:{}:{name}", kstat.module, kstat.instance, kstat.name);
    match form {
        Form::Quiet => {}
        Form::Blocks => {
            for kstat in kstats {
                out.push_str(&format!("module: {:<30}  instance: {}\n", kstat.module, kstat.instance));
                out.push_str(&format!("name:   {:<30}  class:    {}\n", kstat.name, kstat.class));
                for (name, value) in kstat.data.iter().filter(|(name, _)| name != "class") {
                    out.push_str(&format!("\t{name:<30}  {}\n", plain(value)));
                }
                out.push('\n');
            }
        }
        Form::Lines | Form::Colons | Form::Names => {
            for kstat in kstats {
                for (name, value) in &kstat.data {
                    let address = address(kstat, name);
                    let text = match form {
                        Form::Names => address,
                        Form::Colons => format!("{address}:{}", plain(value).replace(':', "\\:")),
                        _ => format!("{address}\t{}", plain(value)),
                    };
                    out.push_str(&text);
                    out.push('\n');
                }
            }
        }
        Form::Json => {
            out.push_str("[\n");
            for (index, kstat) in kstats.iter().enumerate() {
                out.push_str(&format!(
                    "  {{\"module\": {}, \"instance\": {}, \"name\": {}, \"class\": {}, \"type\": 1, \"snaptime\": {}, \"data\": {{",
                    json(&kstat.module),
                    kstat.instance,
                    json(&kstat.name),
                    json(&kstat.class),
                    seconds(kstat.taken)
                ));
                let mut first = true;
                for (name, value) in kstat.data.iter().filter(|(name, _)| name != "class") {
                    let text = match value {
                        Value::String(text) if matches!(name.as_str(), "crtime" | "snaptime") => text.clone(),
                        Value::Number(_) | Value::Signed(_) => plain(value),
                        _ => json(&plain(value)),
                    };
                    out.push_str(&format!("{}{}: {text}", if first { "" } else { ", " }, json(name)));
                    first = false;
                }
                out.push_str(if index + 1 == kstats.len() { "}}\n" } else { "}},\n" });
            }
            out.push_str("]\n");
        }
    }
    out
}

fn json(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn read() -> Result<Vec<Kstat>, Failure> {
    let fatal = |message: String| Failure { status: 3, message };
    let reply = call(Operation::KstatRead, &NvList::new()).map_err(|refused| fatal(refused.message))?;
    let mut kstats = Vec::new();
    for list in reply.lists("kstats").map_err(|error| fatal(error.to_string()))? {
        kstats.push(Kstat::from_list(list).map_err(|error| fatal(error.to_string()))?);
    }
    Ok(kstats)
}

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, mut operands) = usage::options(arguments, "Cjlpqc:m:i:n:s:T:")?;
    let mut form = Form::Blocks;
    let mut class = String::new();
    let mut options = Pattern::default();
    for step in steps {
        match step {
            Step::Flag('C') => form = Form::Colons,
            Step::Flag('j') => form = Form::Json,
            Step::Flag('l') => form = Form::Names,
            Step::Flag('q') => form = Form::Quiet,
            Step::Flag(_) if form == Form::Blocks => form = Form::Lines,
            Step::Value('c', text) => class = text,
            Step::Value('m', text) => options.module = text,
            Step::Value('i', text) => options.instance = text,
            Step::Value('n', text) => options.name = text,
            Step::Value('s', text) => options.statistic = text,
            Step::Flag(_) | Step::Value(..) => {}
        }
    }
    let numbers = usage::trailing_numbers(&mut operands);
    let (interval, count) = usage::interval(&numbers)?;
    let mut patterns: Vec<Pattern> = operands.iter().map(|operand| Pattern::parse(operand)).collect();
    if patterns.is_empty() {
        patterns.push(options);
    } else if options != Pattern::default() {
        return Err(Failure::usage("give either -m -i -n -s or module:instance:name:statistic"));
    }
    let mut found = false;
    for round in 0..count {
        if round > 0 {
            std::thread::sleep(std::time::Duration::from_secs(interval));
        }
        let chosen = select(&read()?, &class, &patterns);
        found |= !chosen.is_empty();
        if form != Form::Json || !chosen.is_empty() {
            usage::print(&format(&chosen, form));
        }
    }
    Ok(u8::from(!found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Kstat> {
        let list = |module: &str, instance: u64, name: &str, data: NvList| {
            NvList::new()
                .with("module", module)
                .with("instance", instance)
                .with("name", name)
                .with("class", "misc")
                .with("created", 1_u64)
                .with("taken", 2_500_000_000_u64)
                .with("data", data)
        };
        let loads = NvList::new().with("avenrun_5min", 2_u64).with("avenrun_1min", 1_u64).with("avenrun_15min", 3_u64).with("nproc", 9_u64);
        let zone = NvList::new().with("nsec_user", 5_u64).with("zonename", "a:b\"c");
        [list("unix", 0, "system_misc", loads), list("zones", 3, "alpha", zone)]
            .iter()
            .map(|list| Kstat::from_list(list).expect("complete"))
            .collect()
    }

    fn lines(operand: &str, form: Form) -> String {
        format(&select(&sample(), "", &[Pattern::parse(operand)]), form)
    }

    #[test]
    fn the_acceptance_list_of_the_reference() {
        let expected = "unix:0:system_misc:avenrun_15min\t3\nunix:0:system_misc:avenrun_1min\t1\nunix:0:system_misc:avenrun_5min\t2\n";
        assert_eq!(lines("unix:0:system_misc:avenrun*", Form::Lines), expected);
        assert_eq!(lines(":::/^avenrun_[0-9]+min$/", Form::Lines), expected);
        assert_eq!(lines("nosuch", Form::Lines), "");
    }

    #[test]
    fn forms() {
        assert_eq!(lines("zones:3:alpha:nsec_user", Form::Lines), "zones:3:alpha:nsec_user\t5\n");
        assert_eq!(lines("zones:::zonename", Form::Colons), "zones:3:alpha:zonename:a\\:b\"c\n");
        assert_eq!(lines("zones:::snaptime", Form::Lines), "zones:3:alpha:snaptime\t2.500000000\n");
        assert_eq!(lines("zones:::[mn]sec_*", Form::Names), "zones:3:alpha:nsec_user\n");
        let json = lines("zones", Form::Json);
        assert!(json.contains("\"zonename\": \"a:b\\\"c\"") && json.contains("\"nsec_user\": 5"), "{json}");
        let block = lines("zones", Form::Blocks);
        assert!(block.starts_with("module: zones                           instance: 3\nname:   alpha "), "{block}");
    }

    #[test]
    fn patterns_match_and_always_end() {
        for (pattern, text, hit) in [
            ("a*c", "abc", true), ("a*c", "abd", false), ("*", "", true), ("", "x", true), ("a?c", "abc", true), ("[!a]b", "bb", true),
            ("[a", "a", false), ("/b+/", "abbc", true), ("/^b/", "abc", false), ("/a.c$/", "xabc", true), ("/\\./", "ab", false),
            ("/[/", "x", false), ("/(/", "(", true), ("/a?b/", "b", true), ("/$/", "x", true),
        ] {
            assert_eq!(matches(pattern, text), hit, "{pattern} {text}");
        }
        assert!(!glob(b"*a*a*a*a*a*a*a*a*b", &[b'a'; 200]));
    }
}
