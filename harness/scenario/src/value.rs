//! Typed access to a TOML table that remembers what was asked for, so that what nobody asked for can be reported.

use crate::diagnostic::Source;
use std::cell::RefCell;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A table of the file. Call [`Table::finish`] when all keys were asked for.
pub(crate) struct Table<'t, 's> {
    pub(crate) source: &'t Source<'s>,
    /// As a sentence calls it: "a zone".
    what: &'static str,
    entries: &'t DeTable<'s>,
    pub(crate) span: Range<usize>,
    known: RefCell<Vec<&'static str>>,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The closest of `candidates` if it is close enough to be a slip of the keyboard.
pub(crate) fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let far = (word.chars().count() / 2).max(2);
    candidates
        .iter()
        .map(|c| (strsim::damerau_levenshtein(word, c), *c))
        .filter(|(distance, _)| *distance <= far)
        .min()
        .map(|(_, candidate)| candidate)
}

fn hint(word: &str, candidates: &[&str]) -> Option<String> {
    Some(match nearest(word, candidates) {
        Some(close) => format!("did you mean `{close}`?"),
        None => format!("known here: {}", candidates.join(", ")),
    })
}

impl<'t, 's> Table<'t, 's> {
    pub(crate) fn new(source: &'t Source<'s>, what: &'static str, entries: &'t DeTable<'s>, span: Range<usize>) -> Self {
        Self { source, what, entries, span, known: RefCell::new(Vec::new()) }
    }

    pub(crate) fn line(&self) -> usize {
        self.source.line_of(self.span.start)
    }

    fn get(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'s>>> {
        self.known.borrow_mut().push(key);
        self.entries.get(key)
    }

    /// Whether the key is there (and so known).
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    fn mismatch(&self, key: &str, wanted: &str, found: &Spanned<DeValue<'_>>) {
        self.source.complain(found.span(), format!("`{key}` takes {wanted}, this is {}", kind(found.get_ref())), None);
    }

    pub(crate) fn string(&self, key: &'static str) -> Option<At<String>> {
        let found = self.get(key)?;
        match found.get_ref() {
            DeValue::String(text) => Some(At { value: text.to_string(), span: found.span() }),
            _ => {
                self.mismatch(key, "a string", found);
                None
            }
        }
    }

    pub(crate) fn required_string(&self, key: &'static str, example: &str) -> Option<At<String>> {
        if !self.has(key) {
            self.missing(key, example);
        }
        self.string(key)
    }

    pub(crate) fn missing(&self, key: &str, example: &str) {
        self.source.complain(self.span.clone(), format!("{} needs `{key}`", self.what), Some(format!("for example: {key} = {example}")));
    }

    /// A string, or a list of strings.
    pub(crate) fn strings(&self, key: &'static str) -> Option<Vec<At<String>>> {
        let found = self.get(key)?;
        match found.get_ref() {
            DeValue::String(text) => Some(vec![At { value: text.to_string(), span: found.span() }]),
            DeValue::Array(items) => Some(
                items
                    .iter()
                    .filter_map(|item| match item.get_ref() {
                        DeValue::String(text) => Some(At { value: text.to_string(), span: item.span() }),
                        _ => {
                            self.mismatch(key, "strings", item);
                            None
                        }
                    })
                    .collect(),
            ),
            _ => {
                self.mismatch(key, "a string or a list of strings", found);
                None
            }
        }
    }

    /// Whether the value is a list (a command as argument vector) and not a string (a shell line).
    pub(crate) fn is_list(&self, key: &'static str) -> bool {
        matches!(self.entries.get(key).map(Spanned::get_ref), Some(DeValue::Array(_)))
    }

    pub(crate) fn boolean(&self, key: &'static str) -> Option<bool> {
        let found = self.get(key)?;
        match found.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => {
                self.mismatch(key, "true or false", found);
                None
            }
        }
    }

    fn integer(&self, key: &str, found: &Spanned<DeValue<'_>>) -> Option<i64> {
        match found.get_ref() {
            DeValue::Integer(number) => {
                let value = i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok();
                if value.is_none() {
                    self.source.complain(found.span(), format!("`{key}` is too large a number"), None);
                }
                value
            }
            _ => {
                self.mismatch(key, "a number", found);
                None
            }
        }
    }

    /// A whole number in `range`.
    pub(crate) fn number(&self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let found = self.get(key)?;
        let value = self.integer(key, found)?;
        match u64::try_from(value).ok().filter(|v| range.contains(v)) {
            Some(value) => Some(value),
            None => {
                self.source.complain(found.span(), format!("`{key}` must lie between {} and {}", range.start(), range.end()), None);
                None
            }
        }
    }

    /// One whole number, or a list of them.
    pub(crate) fn integers(&self, key: &'static str) -> Option<Vec<i32>> {
        let found = self.get(key)?;
        let one = |item: &Spanned<DeValue<'_>>| {
            let value = self.integer(key, item)?;
            let narrow = i32::try_from(value).ok();
            if narrow.is_none() {
                self.source.complain(item.span(), format!("`{key}` is too large a number"), None);
            }
            narrow
        };
        match found.get_ref() {
            DeValue::Array(items) => Some(items.iter().filter_map(one).collect()),
            _ => one(found).map(|value| vec![value]),
        }
    }

    /// A number with or without decimals, or a string like `"2 %"`.
    pub(crate) fn decimal(&self, key: &'static str) -> Option<f64> {
        let found = self.get(key)?;
        let value = match found.get_ref() {
            DeValue::Integer(number) => number.as_str().replace('_', "").parse().ok(),
            DeValue::Float(number) => number.as_str().replace('_', "").parse::<f64>().ok(),
            DeValue::String(text) => text.trim().strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok()).map(|n| n / 100.0),
            DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
        };
        let value = value.filter(|v: &f64| v.is_finite());
        if value.is_none() {
            self.source.complain(found.span(), format!("`{key}` takes a number or a percentage"), Some(format!("{key} = 3, {key} = 0.97 or {key} = \"2 %\"")));
        }
        value
    }

    /// A number followed by one of `units`, as a multiple of the smallest.
    fn with_unit(&self, key: &'static str, units: &[(&str, u64)], example: &str) -> Option<u64> {
        let found = self.get(key)?;
        let value = match found.get_ref() {
            DeValue::String(text) => {
                let text = text.trim();
                let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
                let unit = text[digits.len()..].trim();
                let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
                digits.replace('_', "").parse::<u64>().ok().zip(factor).and_then(|(n, factor)| n.checked_mul(factor))
            }
            _ => None,
        };
        if value.is_none() {
            let names: Vec<_> = units.iter().map(|(name, _)| *name).filter(|n| !n.is_empty()).collect();
            self.source.complain(
                found.span(),
                format!("`{key}` takes a number and a unit ({}) in quotes", names.join(", ")),
                Some(format!("for example: {key} = \"{example}\"")),
            );
        }
        value
    }

    pub(crate) fn bytes(&self, key: &'static str) -> Option<u64> {
        self.with_unit(key, &[("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("", 1)], "512M")
    }

    pub(crate) fn duration_ns(&self, key: &'static str) -> Option<u64> {
        self.with_unit(key, &[("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)], "250ms")
    }

    pub(crate) fn table(&self, key: &'static str, what: &'static str) -> Option<Table<'t, 's>> {
        let found = self.get(key)?;
        match found.get_ref() {
            DeValue::Table(entries) => Some(Table::new(self.source, what, entries, found.span())),
            _ => {
                self.source.complain(found.span(), format!("`{key}` is a table, not {}", kind(found.get_ref())), Some(format!("write [{key}] on a line of its own")));
                None
            }
        }
    }

    pub(crate) fn tables(&self, key: &'static str, what: &'static str) -> Vec<Table<'t, 's>> {
        let Some(found) = self.get(key) else { return Vec::new() };
        let mut tables = Vec::new();
        if let DeValue::Array(items) = found.get_ref() {
            for item in items.iter() {
                if let DeValue::Table(entries) = item.get_ref() {
                    tables.push(Table::new(self.source, what, entries, item.span()));
                } else {
                    self.source.complain(item.span(), format!("`{key}` is a list of tables, this is {}", kind(item.get_ref())), None);
                }
            }
        } else {
            self.source.complain(
                found.span(),
                format!("`{key}` is a list of tables, this is {}", kind(found.get_ref())),
                Some(format!("write [[{key}]], with two brackets, before each")),
            );
        }
        tables
    }

    /// All entries as numbers (for `limits = {{ max-lwps = 40 }}`); the names are checked by the caller's list.
    pub(crate) fn numbers_of(&self, names: &[&'static str]) -> Vec<(String, u64)> {
        names.iter().filter_map(|name| self.number(name, 0..=u64::from(u32::MAX) * 4096).map(|value| ((*name).to_owned(), value))).collect()
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let word = self.string(key)?;
        let found = words.iter().find(|(name, _)| *name == word.value).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
            self.source.complain(word.span, format!("`{key}` cannot be `{}`", word.value), hint(&word.value, &names));
        }
        found
    }

    /// Reports every key that nobody asked for.
    pub(crate) fn finish(&self) {
        let mut known = self.known.borrow().clone();
        known.sort_unstable();
        known.dedup();
        for key in self.entries.keys() {
            let word = key.get_ref().as_ref();
            if !known.contains(&word) {
                self.source.complain(key.span(), format!("unknown key `{word}` in {}", self.what), hint(word, &known));
            }
        }
    }
}
