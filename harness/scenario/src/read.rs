//! From TOML to the model.

use crate::diagnostic::Source;
use crate::keys;
use crate::model::{
    Action, Board, Carry, Comparison, Disk, DiskContent, DiskModel, Expect, ExpectKind, Flavour, Image, Initrd, JudgedOn, Kernel, Limits,
    OutputRule, Place, Run, Scenario, StatSum, Step, Stream, Text, Userland, Zone, ZoneLimit,
};
use crate::tables;
use crate::value::{At, Table};
use std::path::PathBuf;
use toml::de::DeTable;

/// Ticks a run may take unless it says otherwise: ten virtual seconds and a bit, half a minute on the simulator.
const DEFAULT_TICKS: u64 = 4_000_000_000;
/// The same for a guest that is not ours: somebody else's kernel takes longer to boot than ours to do everything.
const DEFAULT_GUEST_TICKS: u64 = 60_000_000_000;
/// Virtual time a wait may take unless told otherwise.
const DEFAULT_WAIT_NS: u64 = 60_000_000_000;
const JUDGES: &[(&str, JudgedOn)] = &[("simulator", JudgedOn::Simulator), ("everywhere", JudgedOn::Everywhere)];
/// Resource controls a zone may be given, as `prctl` names them without `zone.`.
const ZONE_LIMITS: &[&str] = &["cpu-cap", "max-lwps", "max-processes", "max-physical-memory", "max-swap", "max-locked-memory"];

/// Reads the whole file. `None` if it is not TOML at all; complaints go to `source`.
pub(crate) fn scenario<'s>(source: &Source<'s>, name: &str) -> Option<Scenario> {
    let (root, errors) = DeTable::parse_recoverable(source.text);
    for error in &errors {
        source.complain(error.span().unwrap_or(0..0), error.message().to_owned(), None);
    }
    if !errors.is_empty() {
        return None;
    }
    let top = Table::new(source, "a scenario", root.get_ref(), 0..0);
    let property = top.required_string("property", "\"a zone that forks without end stops at its limit\"");
    let property = property.map(|property| {
        if property.value.trim().is_empty() || property.value.contains('\n') {
            source.complain(property.span.clone(), "the property is one line of text", None);
        }
        property.value
    });
    let foreign = top.has("guest");
    let mut image = image(&top);
    if foreign {
        if top.has("image") {
            source.complain(0..0, "a scenario has [image] or [guest], not both", Some("[guest] is for kernels that are not ours".to_owned()));
        }
        if let Some(guest) = guest(&top) {
            image = guest;
        }
    }
    let kernel_is_foreign = image.kernel != Kernel::Ours;
    let scenario = Scenario {
        name: name.to_owned(),
        property: property.unwrap_or_default(),
        slow: top.boolean("slow").unwrap_or(false),
        repeat: narrow(top.number("repeat", 1..=16).unwrap_or(1)),
        cut: top.boolean("cut").unwrap_or(false).then_some(1),
        chaos_seeds: narrow(top.number("chaos_seeds", 0..=1000).unwrap_or(0)),
        board: board(&top, tables::of_board(source, root.get_ref(), &top)),
        image,
        limits: limits(&top, if foreign { DEFAULT_GUEST_TICKS } else { DEFAULT_TICKS }),
        disks: top.tables("disk", "a disk").iter().enumerate().map(|(index, table)| disk(table, index)).collect(),
        zones: top.tables("zone", "a zone").iter().map(zone).collect(),
        carry: top.tables("carry", "a carry").iter().map(carry).collect(),
        steps: top.tables("step", "a step").iter().enumerate().filter_map(|(index, table)| step(table, index)).collect(),
        expects: top.tables("expect", "an expectation").iter().enumerate().filter_map(|(index, table)| expect(table, index)).collect(),
        golden: golden(&top, kernel_is_foreign),
        explore: tables::of_explore(source, root.get_ref(), &top),
        allow: top.strings("allow_console").unwrap_or_default().into_iter().map(|text| text.value).collect(),
    };
    top.finish();
    Some(scenario)
}

/// Values were range-checked when they were read.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn board(top: &Table<'_, '_>, tables: String) -> Board {
    let mut board = Board { name: "default".to_owned(), vcpus: 1, memory_bytes: 512 << 20, seed: 0, tables };
    if let Some(table) = top.table("board", "the board") {
        if let Some(name) = table.string("name") {
            board.name = name.value;
        }
        if let Some(vcpus) = table.number("vcpus", 1..=32) {
            board.vcpus = narrow(vcpus);
        }
        if let Some(memory) = table.bytes("memory") {
            const SANE: std::ops::RangeInclusive<u64> = 8 << 20..=64 << 30;
            if SANE.contains(&memory) && memory.is_multiple_of(1 << 20) {
                board.memory_bytes = memory;
            } else {
                table.source.complain(table.span.clone(), "`memory` must be whole mebibytes between 8M and 64G", None);
            }
        }
        board.seed = table.number("seed", 0..=i64::MAX.unsigned_abs()).unwrap_or(0);
        for key in tables::BOARD_KEYS {
            let _known = table.has(key);
        }
        table.finish();
    }
    board
}

fn disk(table: &Table<'_, '_>, index: usize) -> Disk {
    const MODELS: [(&str, DiskModel); 3] = [("virtio-blk", DiskModel::VirtioBlk), ("nvme", DiskModel::Nvme), ("ahci", DiskModel::Ahci)];
    const SECTOR: u64 = 512;
    let name = table.string("name");
    if let Some(name) = &name {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.value.is_empty() || name.value.len() > 32 || !name.value.chars().all(plain) {
            table.source.complain(name.span.clone(), "a disk is called by letters, digits, - and _, at most 32", None);
        }
    }
    let content = match (table.has("image"), table.string("format")) {
        (true, Some(format)) => {
            table.source.complain(format.span, "a disk has an `image` or a `format`, not both", None);
            DiskContent::Empty
        }
        (true, None) => table.string("image").map_or(DiskContent::Empty, |image| DiskContent::File(PathBuf::from(image.value))),
        (false, Some(_)) => {
            table.choice("format", &[("empty", false), ("ext4", true)]).map_or(DiskContent::Empty, |ext4| if ext4 { DiskContent::Ext4 } else { DiskContent::Empty })
        }
        (false, None) => DiskContent::Empty,
    };
    let size_bytes = table.bytes("size").unwrap_or(if matches!(content, DiskContent::File(_)) { 0 } else { 64 << 20 });
    if !size_bytes.is_multiple_of(SECTOR) || size_bytes > 16 << 30 {
        table.source.complain(table.span.clone(), "`size` must be whole sectors of 512 bytes, at most 16G", None);
    }
    let disk = Disk {
        name: name.map_or_else(|| format!("disk{index}"), |name| name.value),
        model: table.choice("model", &MODELS).unwrap_or(DiskModel::VirtioBlk),
        size_bytes,
        content,
        read_only: table.boolean("read_only").unwrap_or(false),
        line: table.line(),
    };
    table.finish();
    disk
}

/// A guest that is not ours.
fn guest(top: &Table<'_, '_>) -> Option<Image> {
    let table = top.table("guest", "the guest")?;
    let words = |key: &'static str| -> Vec<String> {
        let words = table.strings(key).unwrap_or_default();
        for word in &words {
            if !is_package(&word.value) {
                table.source.complain(word.span.clone(), format!("`{}` cannot be the name of one of the `{key}`", word.value), None);
            }
        }
        words.into_iter().map(|word| word.value).collect()
    };
    let packages = words("packages");
    let modules = words("modules");
    let append = command_line(&table);
    let kernel = table.required_string("kernel", "\"debian-cloud\"").map(|kernel| kernel_of(&table, kernel));
    let agent = table.boolean("agent").unwrap_or(true);
    table.finish();
    Some(Image { kernel: kernel?, initrd: Initrd::Debian(Userland { packages, modules }), append, agent })
}

/// What Debian allows in the name of a package (policy §5.6.1), and `_`, which modules have.
fn is_package(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.' | '_');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.len() <= 64 && name.chars().all(plain)
}

fn kernel_of(table: &Table<'_, '_>, word: At<String>) -> Kernel {
    match word.value.as_str() {
        "orrery" => Kernel::Ours,
        "debian-cloud" => Kernel::Debian(Flavour::Cloud),
        "debian" => Kernel::Debian(Flavour::Full),
        other => {
            let Some(rest) = other.strip_prefix("debian:") else { return Kernel::File(PathBuf::from(other)) };
            let (package, path) = rest.split_once('/').unwrap_or((rest, ""));
            if !is_package(package) || path.is_empty() || path.split('/').any(|part| part == "..") {
                table.source.complain(word.span, "a file of a Debian package is debian:PACKAGE/PATH", Some("for example: debian:memtest86+/boot/memtest86+x64.bin".to_owned()));
            }
            Kernel::Package { package: package.to_owned(), path: path.to_owned() }
        }
    }
}

fn command_line(table: &Table<'_, '_>) -> String {
    let Some(append) = table.string("append") else { return String::new() };
    if append.value.contains('\n') {
        table.source.complain(append.span, "a command line is one line", None);
    }
    append.value
}

fn image(top: &Table<'_, '_>) -> Image {
    let mut image = Image { kernel: Kernel::Ours, initrd: Initrd::Live, append: String::new(), agent: true };
    if let Some(table) = top.table("image", "the image") {
        if let Some(kernel) = table.string("kernel") {
            image.kernel = kernel_of(&table, kernel);
        }
        if let Some(initrd) = table.string("initrd") {
            image.initrd = match initrd.value.as_str() {
                "live" => Initrd::Live,
                "none" => Initrd::None,
                path => Initrd::File(PathBuf::from(path)),
            };
        }
        image.append = command_line(&table);
        image.agent = table.boolean("agent").unwrap_or(image.initrd == Initrd::Live);
        table.finish();
    }
    image
}

fn limits(top: &Table<'_, '_>, ticks: u64) -> Limits {
    let mut limits = Limits { ticks, wait_ns: DEFAULT_WAIT_NS, seconds: 300 };
    if let Some(table) = top.table("limits", "the limits") {
        limits.ticks = table.number("ticks", 1..=1 << 50).unwrap_or(limits.ticks);
        limits.wait_ns = table.duration_ns("wait").unwrap_or(limits.wait_ns);
        limits.seconds = table.number("seconds", 1..=86_400).unwrap_or(limits.seconds);
        table.finish();
    }
    limits
}

fn zone(table: &Table<'_, '_>) -> Zone {
    let name = table.required_string("name", "\"alpha\"");
    if let Some(name) = &name {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let good = name.value.len() <= 63 && name.value.chars().all(plain) && name.value.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !good || name.value == "global" || name.value.starts_with("SUNW") {
            table.source.complain(
                name.span.clone(),
                format!("`{}` cannot be the name of a zone", name.value),
                Some("letters, digits, - _ and . (not first), at most 63; not `global`, not SUNW...".to_owned()),
            );
        }
    }
    let limits = table.table("limits", "the limits of a zone").map(|limits| {
        let found = limits.numbers_of(ZONE_LIMITS);
        limits.finish();
        found.into_iter().map(|(name, value)| ZoneLimit { name, value }).collect()
    });
    let zone = Zone {
        name: name.map(|name| name.value).unwrap_or_default(),
        shares: narrow(table.number("shares", 0..=65_535).unwrap_or(1)),
        tree: table.string("tree").map_or_else(|| "busybox".to_owned(), |tree| tree.value),
        limits: limits.unwrap_or_default(),
        boot: table.boolean("boot").unwrap_or(true),
        line: table.line(),
    };
    table.finish();
    zone
}

fn carry(table: &Table<'_, '_>) -> Carry {
    let to = table.required_string("to", "\"/export/carry/corpus\"");
    if let Some(to) = &to
        && (!to.value.starts_with('/') || to.value.contains("/../") || to.value.ends_with("/.."))
    {
        table.source.complain(to.span.clone(), "`to` is an absolute path in the guest, without `..`", None);
    }
    if !table.has("from") {
        table.missing("from", "[\"/usr/share/common-licenses/*\"]");
    }
    let carry = Carry {
        to: to.map(|to| to.value.trim_end_matches('/').to_owned()).unwrap_or_default(),
        from: table.strings("from").unwrap_or_default().into_iter().map(|from| from.value).collect(),
        strip: table.string("strip").map_or_else(String::new, |strip| strip.value.trim_end_matches('/').to_owned()),
        min_files: table.number("min_files", 0..=1_000_000).unwrap_or(1),
        min_bytes: table.bytes("min_bytes").unwrap_or(0),
        max_bytes: table.bytes("max_bytes").unwrap_or(64 << 20),
        zones: table.strings("zones").unwrap_or_default().into_iter().map(|zone| zone.value).collect(),
        line: table.line(),
    };
    table.finish();
    carry
}

/// A text, or a pattern between slashes.
fn text(source: &Source<'_>, raw: At<String>) -> Option<Text> {
    let Some(pattern) = raw.value.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')).filter(|p| !p.is_empty()) else {
        return Some(Text::Literal(raw.value));
    };
    // `^` and `$` are the ends of a line: that is how people think of output.
    match regex_lite::RegexBuilder::new(pattern).multi_line(true).build() {
        Ok(pattern) => Some(Text::Pattern(pattern)),
        Err(error) => {
            source.complain(raw.span, format!("this pattern is not a regular expression: {error}"), Some("a text between slashes is a pattern; plain text needs none".to_owned()));
            None
        }
    }
}

fn texts(table: &Table<'_, '_>, key: &'static str) -> Vec<Text> {
    table.strings(key).unwrap_or_default().into_iter().filter_map(|raw| text(table.source, raw)).collect()
}

/// Keys of a step of which exactly one says what it does.
const ACTIONS: &[&str] = &["run", "wait", "kill", "type", "await", "sample", "sleep"];

fn step(table: &Table<'_, '_>, index: usize) -> Option<Step> {
    let name = table.string("name");
    let present: Vec<_> = ACTIONS.iter().copied().filter(|key| table.has(key)).collect();
    let action = match present.as_slice() {
        ["run"] => run(table).map(Action::Run),
        ["wait"] => table.string("wait").map(|step| Action::Wait { step: step.value }),
        ["kill"] => kill(table),
        ["type"] => table.string("type").and_then(|raw| match keys::parse(&raw.value) {
            Ok(bytes) => Some(Action::Type { keys: bytes, shown: raw.value }),
            Err(error) => {
                table.source.complain(raw.span, error.to_string(), Some(format!("keys: {}; `<lt>` is a plain <", keys::names().join(", "))));
                None
            }
        }),
        ["await"] => table.string("await").and_then(|raw| text(table.source, raw)).map(|text| Action::Await { text }),
        ["sample"] => table.string("sample").map(|name| Action::Sample { name: name.value }),
        ["sleep"] => table.duration_ns("sleep").map(|ns| Action::Sleep { ns }),
        [] => {
            // The keys of a command are known words here, so that a missing `run` is the only complaint.
            let _command = run(table);
            table.source.complain(table.span.clone(), "a step needs to say what it does", Some(format!("one of: {}", ACTIONS.join(", "))));
            None
        }
        many => {
            let _command = run(table);
            table.source.complain(table.span.clone(), format!("a step does one thing, this one does {}", many.join(" and ")), Some("make it two steps".to_owned()));
            None
        }
    };
    table.finish();
    let name = name.map_or_else(
        || match &action {
            Some(Action::Run(run)) => run.argv.last().map(|line| line.chars().take(48).collect()).unwrap_or_default(),
            Some(Action::Wait { step }) => format!("wait {step}"),
            Some(Action::Kill { step, .. }) => format!("kill {step}"),
            Some(Action::Type { shown, .. }) => format!("type {shown}"),
            Some(Action::Await { text }) => format!("await {text}"),
            Some(Action::Sample { name }) => format!("sample {name}"),
            Some(Action::Sleep { ns }) => format!("sleep {} ms", ns / 1_000_000),
            None => format!("step {}", index + 1),
        },
        |name| name.value,
    );
    Some(Step { name, line: table.line(), action: action? })
}

fn run(table: &Table<'_, '_>) -> Option<Run> {
    let list = table.is_list("run");
    let words: Vec<_> = table.strings("run").unwrap_or_default().into_iter().map(|word| word.value).collect();
    let argv = if list { words } else { ["/bin/sh".to_owned(), "-c".to_owned()].into_iter().chain(words).collect() };
    let place = table.string("zone").map_or(Place::Global, |zone| Place::Zone(zone.value));
    let background = table.boolean("background").unwrap_or(false);
    let stdin = table.string("stdin").map(|stdin| stdin.value).unwrap_or_default();
    let rule = OutputRule {
        status: if table.boolean("any_status").unwrap_or(false) { None } else { Some(table.integers("status").unwrap_or_else(|| vec![0])) },
        equals: table.string("equals").map(|text| text.value),
        contains: texts(table, "contains"),
        lacks: texts(table, "lacks"),
        same_as_host: table.string("same_as_host").map(|command| command.value),
        same_as: table.string("same_as").map(|step| step.value),
        judged_on: table.choice("judged_on", JUDGES).unwrap_or_default(),
    };
    if argv.is_empty() || argv.first().is_some_and(String::is_empty) {
        table.source.complain(table.span.clone(), "`run` names no command", None);
        return None;
    }
    Some(Run { argv, place, background, stdin, rule })
}

fn kill(table: &Table<'_, '_>) -> Option<Action> {
    const SIGNALS: &[(&str, i32)] = &[("HUP", 1), ("INT", 2), ("QUIT", 3), ("KILL", 9), ("TERM", 15), ("CONT", 18), ("STOP", 19)];
    let signal = table.choice("signal", SIGNALS).unwrap_or(15);
    table.string("kill").map(|step| Action::Kill { step: step.value, signal })
}

const EXPECTATIONS: &[&str] = &["console_contains", "console_lacks", "ratio", "exit_status", "before", "on_host"];

fn expect(table: &Table<'_, '_>, index: usize) -> Option<Expect> {
    let name = table.string("name");
    let judged_on = table.choice("judged_on", JUDGES).unwrap_or_default();
    let present: Vec<_> = EXPECTATIONS.iter().copied().filter(|key| table.has(key)).collect();
    let kind = match present.as_slice() {
        ["console_contains"] => table.string("console_contains").and_then(|raw| text(table.source, raw)).map(ExpectKind::ConsoleContains),
        ["console_lacks"] => table.string("console_lacks").and_then(|raw| text(table.source, raw)).map(ExpectKind::ConsoleLacks),
        ["ratio"] => table.table("ratio", "a ratio").and_then(|inner| ratio(&inner)),
        ["exit_status"] => table.number("exit_status", 0..=u64::from(u32::MAX)).map(|status| ExpectKind::ExitStatus(narrow(status))),
        ["before"] => before(table),
        ["on_host"] => table.string("on_host").map(|line| ExpectKind::OnHost { line: line.value, contains: texts(table, "contains") }),
        [] => {
            table.source.complain(table.span.clone(), "an expectation needs to say what it expects", Some(format!("one of: {}", EXPECTATIONS.join(", "))));
            None
        }
        many => {
            table.source.complain(table.span.clone(), format!("an expectation is one thing, this one is {}", many.join(" and ")), Some("make it two".to_owned()));
            None
        }
    };
    table.finish();
    let name = name.map_or_else(|| format!("expectation {}", index + 1), |name| name.value);
    Some(Expect { name, line: table.line(), judged_on, kind: kind? })
}

fn before(table: &Table<'_, '_>) -> Option<ExpectKind> {
    let steps = table.strings("before")?;
    let [first, second] = steps.as_slice() else {
        table.source.complain(table.span.clone(), "`before` takes the names of two steps", Some("before = [\"short job\", \"long job\"]".to_owned()));
        return None;
    };
    Some(ExpectKind::Before { first: first.value.clone(), second: second.value.clone() })
}

fn ratio(table: &Table<'_, '_>) -> Option<ExpectKind> {
    let sum = |key: &'static str| {
        let stats = table.strings(key).unwrap_or_default();
        if stats.is_empty() {
            table.missing(key, "[\"zones:*:alpha:nsec_user\", \"zones:*:alpha:nsec_sys\"]");
        }
        for stat in &stats {
            if stat.value.split(':').count() != 4 {
                table.source.complain(stat.span.clone(), "a statistic is module:instance:name:statistic", Some("`*` stands for any part".to_owned()));
            }
        }
        StatSum(stats.into_iter().map(|stat| stat.value).collect())
    };
    let of = sum("of");
    let to = sum("to");
    let from = table.required_string("from", "\"busy\"");
    let until = table.required_string("until", "\"still busy\"");
    let equals = table.decimal("equals");
    let within = table.decimal("within");
    let at_least = table.decimal("at_least");
    let at_most = table.decimal("at_most");
    let comparison = match (equals, at_least, at_most) {
        (Some(value), None, None) => Some(Comparison::About { value, within: within.unwrap_or(0.0) }),
        (None, Some(least), None) => Some(Comparison::AtLeast(least)),
        (None, None, Some(most)) => Some(Comparison::AtMost(most)),
        _ => {
            table.source.complain(table.span.clone(), "a ratio needs exactly one of `equals`, `at_least`, `at_most`", None);
            None
        }
    };
    table.finish();
    Some(ExpectKind::Ratio { of, to, from: from?.value, until: until?.value, comparison: comparison? })
}

/// Which streams are kept. None of a foreign kernel unless asked for: Debian's packages change under us.
fn golden(top: &Table<'_, '_>, foreign: bool) -> Vec<Stream> {
    let Some(words) = top.strings("golden") else { return if foreign { Vec::new() } else { Stream::ALL.to_vec() } };
    let names: Vec<_> = Stream::ALL.iter().map(|stream| stream.extension()).collect();
    words
        .into_iter()
        .filter_map(|word| {
            let stream = Stream::ALL.into_iter().find(|stream| stream.extension() == word.value);
            if stream.is_none() {
                top.source.complain(word.span, format!("no golden stream is called `{}`", word.value), Some(format!("one of: {}", names.join(", "))));
            }
            stream
        })
        .collect()
}
