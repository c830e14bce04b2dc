//! What is replaced by its name, one row each.

/// Replaces one kind of changing text in a line; `None` if the line has none of it.
#[derive(Clone, Copy)]
pub struct Rule {
    /// What stands in its place, without the brackets.
    pub name: &'static str,
    /// Why it may change between builds or runs.
    pub why: &'static str,
    apply: fn(&str) -> Option<String>,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}]: {}", self.name, self.why)
    }
}

/// All rules, applied in this order.
pub const RULES: &[Rule] = &[
    Rule { name: "TIME", why: "a kernel log line opens with the time since boot, which moves with every instruction added", apply: kernel_time },
    Rule { name: "COLUMNS", why: "an event line opens with its tick and its virtual time", apply: event_time },
    Rule { name: "SECTOR", why: "which sectors a fault strikes depends on what the guest did when, to the tick", apply: fault_sector },
    Rule { name: "GUID", why: "a pool and its disks draw their names from what the kernel did before, to the tick", apply: guid },
    Rule { name: "PLACE", why: "where a block lies on a disk, and how large it is, depends on all that was written before", apply: place },
    Rule { name: "ADDRESS", why: "an address in a kernel or a program moves when code is added before it", apply: address },
    Rule { name: "PID", why: "process numbers count everything started before", apply: pid },
    Rule { name: "PID", why: "the kernel says which process is a zone's init; the number counts everything started before", apply: init_pid },
    Rule { name: "KIB", why: "how much memory is free or used depends on the sizes of the kernel and its initrd", apply: kibibytes },
    Rule { name: "MIB", why: "the same, in larger units", apply: mebibytes },
    Rule { name: "FILES", why: "how many files the initrd holds depends on the scenario's host and on busybox's applets", apply: initrd_files },
    Rule { name: "VERSION", why: "busybox is the host's Debian's, and says which", apply: busybox },
];

/// Makes text comparable: line ends, terminal control, then all rules. Ends with a line end unless empty.
#[must_use]
pub fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let plain = without_terminal_control(text);
    for line in plain.lines() {
        let mut line = line.trim_end().to_owned();
        for rule in RULES {
            if let Some(changed) = (rule.apply)(&line) {
                line = changed;
            }
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// Drops carriage returns and bells, and writes escape sequences as `<esc>[2J`, so that a golden is plain text.
fn without_terminal_control(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\r' | '\x07' | '\0' => {}
            '\x1b' => out.push_str("<esc>"),
            '\x08' => out.push_str("<bs>"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('.'),
            c => out.push(c),
        }
    }
    out
}

/// `[    0.123456] text`.
fn kernel_time(line: &str) -> Option<String> {
    let rest = line.strip_prefix('[')?;
    let (time, text) = rest.split_once(']')?;
    let time = time.trim();
    let (seconds, part) = time.split_once('.')?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    (digits(seconds) && digits(part)).then(|| format!("[TIME]{text}"))
}

/// Sectors in the event line of a disk's fault: `... fault disk disk 1: NAME: write sector 8869 +1`.
fn fault_sector(line: &str) -> Option<String> {
    let at = line.rfind(" sector ").filter(|_| line.contains(" fault disk "))?;
    let rest = &line[at + " sector ".len()..];
    rest.bytes().all(|byte| byte.is_ascii_digit() || b" +".contains(&byte)).then(|| format!("{} sector [SECTOR]", &line[..at]))
}

/// Disks in a pool's event line: `pool tank: resource.fs.zfs.statechange #1: State { vdev: 20532141, state: Offline }`.
fn guid(line: &str) -> Option<String> {
    numbers_after(line, &["vdev: ", "leaf: "], "[GUID]")
}

/// Places in a pool's event line: `pool tank: ereport.fs.zfs.checksum #1: Checksum { leaf: 20532141, offset: 331776, size: 131072 }`.
fn place(line: &str) -> Option<String> {
    numbers_after(line, &["offset: ", "size: "], "[PLACE]")
}

/// A pool's event line with `name` for the numbers behind `words`.
fn numbers_after(line: &str, words: &[&str], name: &str) -> Option<String> {
    if !(line.starts_with("pool ") && line.contains(".fs.zfs.")) {
        return None;
    }
    let mut out = line.to_owned();
    for word in words {
        if let Some(at) = out.find(word).map(|at| at + word.len()) {
            let digits = out[at..].bytes().take_while(u8::is_ascii_digit).count();
            if digits > 0 {
                out.replace_range(at..at + digits, name);
            }
        }
    }
    (out != line).then_some(out)
}

/// The simulator's event lines: `tick ns kind ...`, both numbers right-aligned columns.
fn event_time(line: &str) -> Option<String> {
    let mut words = line.split_ascii_whitespace();
    let number = |word: Option<&str>| word.is_some_and(|w| w.len() > 2 && w.bytes().all(|b| b.is_ascii_digit()));
    (number(words.next()) && number(words.next())).then(|| words.collect::<Vec<_>>().join(" "))
}

/// Hexadecimal numbers that are addresses: the kernel's half, and where Linux puts position-independent programs, libraries and stacks. With or without
/// `0x` for the kernel's (register dumps have none).
fn address(line: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = line;
    let mut changed = false;
    while let Some(start) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let (head, tail) = rest.split_at(start);
        let length = tail.bytes().take_while(u8::is_ascii_hexdigit).count();
        let (mut word, mut after) = tail.split_at(length);
        let mut prefix = "";
        if word == "0" && after.starts_with('x') {
            let digits = after[1..].bytes().take_while(u8::is_ascii_hexdigit).count();
            (word, after) = after[1..].split_at(digits);
            prefix = "0x";
        }
        let value = u64::from_str_radix(word, 16).unwrap_or(0);
        let kernel = value >= 0xffff_8000_0000_0000 && word.len() == 16;
        let user = !prefix.is_empty() && matches!(value >> 40, 0x55 | 0x56 | 0x7f);
        // A digit that is part of a word ("ffff" in "buffff") opens no number.
        let opens = head.chars().next_back().is_none_or(|c| !c.is_alphanumeric());
        out.push_str(head);
        if opens && (kernel || user) {
            out.push_str("[ADDRESS]");
            changed = true;
        } else {
            out.push_str(prefix);
            out.push_str(word);
        }
        rest = after;
    }
    out.push_str(rest);
    changed.then_some(out)
}

/// `pid 123`.
fn pid(line: &str) -> Option<String> {
    number_after(line, "pid ", "[PID]")
}

/// `init is 123`.
fn init_pid(line: &str) -> Option<String> {
    number_after(line, "init is ", "[PID]")
}

/// `123456 KiB`.
fn kibibytes(line: &str) -> Option<String> {
    number_before(line, " KiB", "[KIB]")
}

/// `123 MiB`.
fn mebibytes(line: &str) -> Option<String> {
    number_before(line, " MiB", "[MIB]")
}

/// `initrd: 595 files`.
fn initrd_files(line: &str) -> Option<String> {
    number_after(line, "initrd: ", "[FILES]")
}

/// `BusyBox v1.35.0 (Debian 1:1.35.0-4+deb12u1+b1) built-in shell (ash)`.
fn busybox(line: &str) -> Option<String> {
    let (head, tail) = line.split_once("BusyBox v")?;
    let (_, tail) = tail.split_once(") ")?;
    Some(format!("{head}BusyBox [VERSION] {tail}"))
}

fn number_before(line: &str, unit: &str, name: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = line;
    let mut changed = false;
    while let Some(at) = rest.find(unit) {
        let head = rest[..at].trim_end_matches(|c: char| c.is_ascii_digit());
        if head.len() < at {
            out.push_str(head);
            out.push_str(name);
            changed = true;
        } else {
            out.push_str(&rest[..at + unit.len()]);
        }
        rest = &rest[at + unit.len()..];
    }
    out.push_str(rest);
    changed.then_some(out)
}

fn number_after(line: &str, word: &str, name: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = line;
    let mut changed = false;
    while let Some(at) = rest.find(word) {
        let end = at + word.len();
        let opens = rest[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric());
        let digits = rest[end..].bytes().take_while(u8::is_ascii_digit).count();
        out.push_str(&rest[..end]);
        if opens && digits > 0 {
            out.push_str(name);
            changed = true;
            rest = &rest[end + digits..];
        } else {
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    changed.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_names_what_it_hides() {
        for (text, wanted) in [
            ("[    0.012345] hello\r\n", "[TIME] hello\n"),
            ("[alpha] 1.5] hello\n", "[alpha] 1.5] hello\n"),
            ("   1234567    1234567 uart com1 reset\n", "uart com1 reset\n"),
            ("at 0xffffffff80001234 in main\n", "at [ADDRESS] in main\n"),
            ("rip=ffff800000001234 rsp=7fffffffe000\n", "rip=[ADDRESS] rsp=7fffffffe000\n"),
            ("SIGSEGV at 0x5555556bcda9, address 0x328\n", "SIGSEGV at [ADDRESS], address 0x328\n"),
            ("0xffff800000000000, 0x7ffffffff000\n", "[ADDRESS], [ADDRESS]\n"),
            ("0x, 0xg, faced 0x8000000000000000\n", "0x, 0xg, faced 0x8000000000000000\n"),
            ("mask 0xffff stays\n", "mask 0xffff stays\n"),
            ("killed pid 17 (sh), rapid 9\n", "killed pid [PID] (sh), rapid 9\n"),
            ("free 123456 KiB of 262144 KiB\n", "free [KIB] of [KIB]\n"),
            ("memory: 495 MiB, 12 MiB free\n", "memory: [MIB], [MIB] free\n"),
            ("initrd: 595 files, 3 KiB\n", "initrd: [FILES] files, [KIB]\n"),
            ("zone alpha (1): booted, init is 7\n", "zone alpha (1): booted, init is [PID]\n"),
            ("BusyBox v1.35.0 (Debian 1:1.35.0-4) built-in shell (ash)\n", "BusyBox [VERSION] built-in shell (ash)\n"),
            ("\x1b[2Jx\x07\n", "<esc>[2Jx\n"),
        ] {
            assert_eq!(normalise(text), wanted);
        }
    }

    #[test]
    fn normalising_twice_changes_nothing_more() {
        let text = "[    0.012345] pid 4 at 0xffffffff80001234: 12 KiB\n";
        assert_eq!(normalise(&normalise(text)), normalise(text));
    }

    #[test]
    fn any_text_is_taken() {
        for text in ["", "\u{e4}ffff\u{20ac}", "ffff", " KiB", "pid ", "[1.", "[1.2]", "fffffffffffffffff"] {
            let _kept = normalise(text);
        }
    }
}
