//! `monitor` commands: one row each.

use sim_board::{InputKind, Port};

use crate::history::Target;
use crate::session::{DiskWrite, Mark, Session};
use crate::{symbols, zones};

type Command = fn(&mut Session<'_>, &[&str]) -> String;

/// Name, arguments, what it does, how.
const COMMANDS: &[(&str, &str, &str, Command)] = &[
    ("help", "", "this list", help),
    ("ticks", "", "ticks and virtual time, of the machine and of each vCPU", ticks),
    ("receipt", "", "the receipt of the run up to here", receipt),
    ("devices", "", "the state of every device, and what timers are pending", devices),
    ("events", "[N]", "the last N events of the log (20)", events),
    ("unimplemented", "", "accesses that no device defines", unimplemented),
    ("inputs", "", "what entered from outside, and when", inputs),
    ("console", "[1|2]", "what serial line 1 or 2 printed since the last time", console),
    ("goto", "TICK|+N|-N|TIME", "goes to a tick, N ticks on or back, or a time (350ms, 1.5s)", go_to),
    ("goto-write", "NUMBER [DISK]", "goes back to the tick of a disk's write (journal: the board's disk_journal)", go_to_write),
    ("writes", "[N] [DISK]", "the last N writes of a disk (20), with their ticks", writes),
    ("stop-at-write", "NUMBER [DISK]", "marks the tick of a disk's write: continue and reverse-continue stop there", stop_at_write),
    ("marks", "", "the points that are marked, and which of them this is", marks),
    ("unmark", "", "forgets all marks", unmark),
    ("zones", "", "the zones of our kernel", list_zones),
    ("translate", "ADDRESS", "the physical address behind a linear one, by the page tables of this vCPU", translate),
    ("last-write", "ADDRESS [LENGTH]", "who wrote there last before now: the tick, the vCPU and its stack", last_write),
    ("goto-last-write", "ADDRESS [LENGTH]", "goes back to the last write there; of a return address it is the call (gdb/orrery.gdb: `goto-call`)", go_to_last_write),
    ("where", "[VCPU]", "the stack of a vCPU by frame pointers", stack),
    ("type", "TEXT", "types TEXT and a line end at serial line 1: enters the recording", type_text),
    ("xp", "ADDRESS [COUNT]", "bytes at a guest-physical address", physical),
    ("quit", "", "ends the machine when gdb disconnects", quit),
];

/// Runs a command line.
pub(crate) fn run(session: &mut Session<'_>, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((name, arguments)) = words.split_first() else { return help(session, &[]) };
    match COMMANDS.iter().find(|(known, ..)| known == name) {
        Some((.., command)) => command(session, arguments),
        None => format!("no monitor command `{name}`; `monitor help` lists them\n"),
    }
}

fn help(_session: &mut Session<'_>, _arguments: &[&str]) -> String {
    COMMANDS.iter().map(|(name, arguments, what, _)| format!("{:<28} {what}\n", format!("{name} {arguments}"))).collect()
}

fn ticks(session: &mut Session<'_>, _arguments: &[&str]) -> String {
    let machine = &session.machine;
    let mut text = format!("tick {} at {} ns\n", machine.ticks(), machine.now_ns());
    for vcpu in 0..machine.vcpus() {
        text.push_str(&format!("vcpu {vcpu}: {} ticks\n", machine.vcpu_ticks(vcpu)));
    }
    text
}

fn receipt(session: &mut Session<'_>, _arguments: &[&str]) -> String {
    format!("{}\n", session.machine.receipt())
}

fn devices(session: &mut Session<'_>, _arguments: &[&str]) -> String {
    session.machine.describe_devices().into_iter().map(|line| line + "\n").collect()
}

fn events(session: &mut Session<'_>, arguments: &[&str]) -> String {
    let count = match arguments.first().map(|word| word.parse::<usize>()) {
        None => 20,
        Some(Ok(count)) => count,
        Some(Err(_)) => return "usage: monitor events [N]\n".to_owned(),
    };
    let events = session.machine.events();
    events[events.len().saturating_sub(count)..].iter().map(|event| format!("{event}\n")).collect()
}

fn unimplemented(session: &mut Session<'_>, _arguments: &[&str]) -> String {
    let lines: String = session.machine.unimplemented().map(|(access, count)| format!("{access} x{count}\n")).collect();
    if lines.is_empty() { "none\n".to_owned() } else { lines }
}

fn inputs(session: &mut Session<'_>, _arguments: &[&str]) -> String {
    let lines: String = session.machine.inputs().iter().map(|input| format!("{:>16} {:>16}  {}\n", input.ticks, input.ns, input_text(&input.what))).collect();
    if lines.is_empty() { "none\n".to_owned() } else { lines }
}

fn input_text(what: &InputKind) -> String {
    match what {
        InputKind::Serial { port, bytes } => format!("{port:?}: \"{}\"", bytes.escape_ascii()),
        InputKind::PowerButton => "the power button".to_owned(),
        InputKind::Nmi => "an NMI".to_owned(),
        InputKind::Turns { chaos, seed } => format!("turns by seed {seed}{}", if *chaos { ", adversarial" } else { "" }),
        InputKind::Checkpoint => "a checkpoint".to_owned(),
    }
}

fn console(session: &mut Session<'_>, arguments: &[&str]) -> String {
    let port = match arguments.first() {
        None | Some(&"1") => Port::Com1,
        Some(&"2") => Port::Com2,
        Some(_) => return "usage: monitor console [1|2]\n".to_owned(),
    };
    String::from_utf8_lossy(&session.machine.serial_take(port)).into_owned() + "\n"
}

fn type_text(session: &mut Session<'_>, arguments: &[&str]) -> String {
    let text = arguments.join(" ") + "\n";
    // From here on it is another run than the one that may have been replayed.
    session.machine.forget_future();
    session.history.forget_after(session.machine.ticks());
    session.machine.serial_put(Port::Com1, text.as_bytes());
    format!("typed {} bytes at tick {}\n", text.len(), session.machine.ticks())
}

fn go_to(session: &mut Session<'_>, arguments: &[&str]) -> String {
    let here = session.machine.ticks();
    let target = arguments.first().and_then(|word| match (word.strip_prefix('+'), word.strip_prefix('-')) {
        (Some(on), _) => number(on).map(|on| here.saturating_add(on)),
        (_, Some(back)) => number(back).map(|back| here.saturating_sub(back)),
        (None, None) => number(word),
    });
    let target = target.map(Target::tick).or_else(|| arguments.first().and_then(|word| time(word)).map(Target::time));
    let Some(target) = target else { return "usage: monitor goto TICK|+N|-N|TIME (TIME: 350ms, 1.5s, ...)\n".to_owned() };
    stand(session, target)
}

fn stand(session: &mut Session<'_>, target: Target) -> String {
    if session.history.is_empty() {
        return "no snapshot yet: the machine cannot go back\n".to_owned();
    }
    let reached = session.history.go_to(session.machine, target);
    let at = format!("at tick {}, {} ns", session.machine.ticks(), session.machine.now_ns());
    if reached {
        return format!("{at}; `maintenance flush register-cache` shows its registers (gdb/orrery.gdb: `goto` does)\n");
    }
    match session.history.first().filter(|(ticks, ns)| target.ticks.is_some_and(|wanted| wanted < *ticks) || target.ns.is_some_and(|wanted| wanted < *ns)) {
        Some((first, _)) => format!("the past begins at tick {first}: still {at}\n"),
        None => format!("the run ends before that: {at}\n"),
    }
}

/// A virtual time in nanoseconds: digits, perhaps a fraction, and a unit.
fn time(word: &str) -> Option<u64> {
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale: u64 = match &word[digits.len()..] {
        "s" => 1_000_000_000,
        "ms" => 1_000_000,
        "us" => 1_000,
        "ns" => 1,
        _ => return None,
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let denominator = 10u64.checked_pow(u32::try_from(part.len()).ok()?)?;
    let part = part.parse::<u64>().ok()?.checked_mul(scale)? / denominator;
    whole.parse::<u64>().ok()?.checked_mul(scale)?.checked_add(part)
}

/// The disk that is meant: the first if none is named; one that nobody has if the number is none.
fn disk_of(argument: Option<&u64>) -> u8 {
    argument.map_or(0, |disk| u8::try_from(*disk).unwrap_or(u8::MAX))
}

fn writes(session: &mut Session<'_>, arguments: &[&str]) -> String {
    let numbers: Option<Vec<u64>> = arguments.iter().map(|word| number(word)).collect();
    let Some(numbers) = numbers else { return "usage: monitor writes [N] [DISK]\n".to_owned() };
    let rows = session.disk_writes(disk_of(numbers.get(1)));
    let count = usize::try_from(numbers.first().copied().unwrap_or(20)).unwrap_or(usize::MAX);
    let lines: String = rows[rows.len().saturating_sub(count)..]
        .iter()
        .map(|DiskWrite { number, ticks, sector, sectors }| format!("write {number:>5}  tick {ticks:>14}  sector {sector}+{sectors}\n"))
        .collect();
    if lines.is_empty() { "no writes, or no journal\n".to_owned() } else { lines }
}

fn go_to_write(session: &mut Session<'_>, arguments: &[&str]) -> String {
    let numbers: Option<Vec<u64>> = arguments.iter().map(|word| number(word)).collect();
    let Some((wanted, rest)) = numbers.as_deref().and_then(<[u64]>::split_first) else { return "usage: monitor goto-write NUMBER [DISK]\n".to_owned() };
    let rows = session.disk_writes(disk_of(rest.first()));
    match rows.iter().find(|write| write.number == *wanted) {
        Some(DiskWrite { ticks, sector, sectors, .. }) => format!("write {wanted} went to sector {sector}+{sectors}; {}", stand(session, Target::tick(*ticks))),
        None => format!("the disk has seen {} writes by now\n", rows.len()),
    }
}

fn stop_at_write(session: &mut Session<'_>, arguments: &[&str]) -> String {
    let numbers: Option<Vec<u64>> = arguments.iter().map(|word| number(word)).collect();
    let Some((wanted, rest)) = numbers.as_deref().and_then(<[u64]>::split_first) else { return "usage: monitor stop-at-write NUMBER [DISK]\n".to_owned() };
    let disk = disk_of(rest.first());
    match session.mark_write(disk, *wanted, "") {
        Some(mark) => format!("marked: {mark}\n"),
        None => format!("the disk has seen {} writes by now, or keeps no journal\n", session.disk_writes(disk).len()),
    }
}

fn marks(session: &mut Session<'_>, _arguments: &[&str]) -> String {
    let here = session.machine.ticks();
    let line = |mark: &Mark| format!("{} {mark}\n", if mark.ticks == here { "=>" } else { "  " });
    let lines: String = session.marks().iter().map(line).collect();
    if lines.is_empty() { "none\n".to_owned() } else { lines }
}

fn unmark(session: &mut Session<'_>, _arguments: &[&str]) -> String {
    let count = session.forget_marks();
    format!("{count} marks forgotten\n")
}

fn list_zones(session: &mut Session<'_>, _arguments: &[&str]) -> String {
    zones::list(session.machine, &session.symbols)
}

fn translate(session: &mut Session<'_>, arguments: &[&str]) -> String {
    let Some(address) = arguments.first().and_then(|word| number(word)) else { return "usage: monitor translate ADDRESS\n".to_owned() };
    match session.machine.translate(session.stopped_vcpu, address) {
        Some(physical) => format!("{address:#x} is {physical:#x}\n"),
        None => format!("{address:#x} is not mapped\n"),
    }
}

/// An address, and how many bytes there (8).
fn range(arguments: &[&str]) -> Option<(u64, u64)> {
    let length = arguments.get(1).map_or(Some(8), |word| number(word)).filter(|length| (1..=4096).contains(length))?;
    Some((arguments.first().and_then(|word| number(word))?, length))
}

fn go_to_last_write(session: &mut Session<'_>, arguments: &[&str]) -> String {
    let Some((address, length)) = range(arguments) else { return "usage: monitor goto-last-write ADDRESS [LENGTH]\n".to_owned() };
    match session.last_write(address, length) {
        Some((ticks, ..)) => stand(session, Target::tick(ticks)),
        None => format!("nothing was written to {address:#x}+{length} since the first snapshot\n"),
    }
}

fn last_write(session: &mut Session<'_>, arguments: &[&str]) -> String {
    let Some((address, length)) = range(arguments) else { return "usage: monitor last-write ADDRESS [LENGTH]\n".to_owned() };
    if session.history.is_empty() {
        return "no snapshot yet: the machine cannot go back\n".to_owned();
    }
    match session.last_write(address, length) {
        Some((ticks, vcpu, stack)) => {
            let mut text = format!("written at tick {ticks} by vcpu {vcpu} (monitor goto {ticks} stands before the write)\n");
            show(session, &stack, &mut text);
            text
        }
        None => format!("nothing was written to {address:#x}+{length} since the first snapshot\n"),
    }
}

fn stack(session: &mut Session<'_>, arguments: &[&str]) -> String {
    let vcpu = match arguments.first().map(|word| word.parse()) {
        None => session.stopped_vcpu,
        Some(Ok(vcpu)) if vcpu < session.machine.vcpus() => vcpu,
        Some(_) => return "usage: monitor where [VCPU]\n".to_owned(),
    };
    let stack = symbols::backtrace(session.machine, vcpu, &session.symbols);
    let mut text = String::new();
    show(session, &stack, &mut text);
    text
}

fn show(session: &Session<'_>, stack: &[u64], text: &mut String) {
    for (depth, address) in stack.iter().enumerate() {
        text.push_str(&format!("#{depth:<3} {}\n", session.symbols.name(*address)));
    }
}

fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

fn physical(session: &mut Session<'_>, arguments: &[&str]) -> String {
    const USAGE: &str = "usage: monitor xp ADDRESS [COUNT up to 4096]\n";
    let Some(address) = arguments.first().and_then(|word| number(word)) else { return USAGE.to_owned() };
    let count = match arguments.get(1) {
        None => 64,
        Some(word) => match number(word) {
            Some(count @ 1..=4096) => count as usize,
            Some(_) | None => return USAGE.to_owned(),
        },
    };
    let mut bytes = vec![0; count];
    if !session.machine.read_physical(address, &mut bytes) {
        return format!("no memory at {address:#x}+{count}\n");
    }
    bytes
        .chunks(16)
        .enumerate()
        .map(|(row, chunk)| {
            let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{:#012x}: {}\n", address + 16 * row as u64, hex.join(" "))
        })
        .collect()
}

fn quit(session: &mut Session<'_>, _arguments: &[&str]) -> String {
    session.quit = true;
    "the machine ends when gdb disconnects\n".to_owned()
}
