//! What is handed on without being read here: to the simulator's board table, and to `explore`.
//!
//! The words for NICs, network peers and faults belong to the crates that implement them. A scenario may use all of them: the parts of the file
//! in which they stand are cut out and handed on, every line in its place, so that the board table's own messages point into the scenario.

use crate::diagnostic::Source;
use crate::value::Table;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Tables of a scenario that are tables of a board.
const BOARD_TABLES: &[&str] = &["nic", "segment", "peer", "fault"];
/// Keys of `[board]` that are keys of a board.
pub(crate) const BOARD_KEYS: &[&str] =
    &["chaos", "quantum", "pause_ends_turn", "serial_timing", "rng", "trace", "cpu", "cpuid", "ns_per_tick", "tsc_khz", "checkpoint_ticks", "rtc_unix_seconds"];

/// What is handed on to the board.
pub(crate) fn of_board(source: &Source<'_>, root: &DeTable<'_>, top: &Table<'_, '_>) -> String {
    cut_out(source, root, top, BOARD_TABLES, board_keys(source.text, root))
}

/// What is handed on to `explore`, if there is anything.
pub(crate) fn of_explore(source: &Source<'_>, root: &DeTable<'_>, top: &Table<'_, '_>) -> Option<String> {
    top.has("explore").then(|| cut_out(source, root, top, &["explore"], Vec::new()))
}

/// The tables of these names, and these single lines.
fn cut_out(source: &Source<'_>, root: &DeTable<'_>, top: &Table<'_, '_>, names: &[&'static str], keys: Vec<String>) -> String {
    let text = source.text;
    let mut headers = Vec::new();
    for (_, value) in root.iter() {
        collect_headers(text, value, &mut headers);
    }
    headers.sort_unstable();
    let mut kept: Vec<Range<usize>> = Vec::new();
    for &name in names {
        if top.has(name)
            && let Some((key, value)) = root.get_key_value(name)
        {
            let mut own = Vec::new();
            collect_headers(text, value, &mut own);
            kept.extend(own.iter().map(|&start| start..headers.iter().copied().find(|&next| next > start).unwrap_or(text.len())));
            if own.is_empty() {
                // Written inline: `nic = [{ ... }]`.
                kept.push(key.span().start..value.span().end);
            }
        }
    }
    let mut bytes: Vec<u8> = text.bytes().enumerate().map(|(at, byte)| if byte == b'\n' || kept.iter().any(|range| range.contains(&at)) { byte } else { b' ' }).collect();
    // Single keys go before all tables, in place of empty lines there, so that nothing moves.
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let free = lines.iter().take(keys.len()).take_while(|line| line.trim_ascii().is_empty()).count();
    lines.drain(..free);
    let rest = lines.join(&b'\n');
    bytes = keys.iter().flat_map(|key| key.bytes().chain([b'\n'])).collect();
    bytes.extend(rest);
    let text = String::from_utf8_lossy(&bytes);
    // Blanks at the ends of lines, and lines after the last word, say nothing.
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// Where the tables at and below `value` begin that have a heading of their own.
fn collect_headers(text: &str, value: &Spanned<DeValue<'_>>, into: &mut Vec<usize>) {
    match value.get_ref() {
        DeValue::Table(entries) => {
            let start = value.span().start;
            if text.get(start..).is_some_and(|rest| rest.starts_with('[')) {
                into.push(start);
            }
            for (_, inner) in entries.iter() {
                collect_headers(text, inner, into);
            }
        }
        DeValue::Array(items) => items.iter().for_each(|item| collect_headers(text, item, into)),
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

/// The board's own keys under `[board]`, a line each.
fn board_keys(text: &str, root: &DeTable<'_>) -> Vec<String> {
    let Some(DeValue::Table(board)) = root.get("board").map(Spanned::get_ref) else { return Vec::new() };
    let known = board.iter().filter(|(key, _)| BOARD_KEYS.contains(&key.get_ref().as_ref()));
    known.filter_map(|(key, value)| text.get(value.span()).map(|value| format!("{} = {value}", key.get_ref()))).collect()
}
