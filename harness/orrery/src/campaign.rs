//! The verb `campaign`: the long searches, each in one row.
//!
//! # Theory
//! A campaign is a search that has no end: random instructions against an oracle, noise against a device, cuts against a pool. It runs in
//! batches of a few seconds, each a function of (seed, number of the batch), and stops when its time is up. What was done stands in one table,
//! `docs/campaigns.md`, a row per campaign: seed, batches, cases, time, findings. The table is also the memory: the next run of a campaign goes on
//! where its row ends. A finding names the command that meets it again.
//!
//! # Structures
//! [`rows`] is the one place to add a campaign: a name, what it looks for, the size of a batch, and how a batch is run.
//!
//! # Failure
//! A batch that panics or says that something differs is a finding, and the campaign stops there: the same seed and batch fail again, until
//! somebody mends it. A killed campaign loses its last few seconds.
//!
//! # Limits
//! What counts is processor time, not the clock's: on a busy host a campaign takes longer, and its row says no more than was done.

use crate::Failure;
use crate::context::Context;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[derive(clap::Args)]
pub struct CampaignArgs {
    /// Name of a campaign, or the beginning of some names (`device-`). Nothing: lists them with what was done so far.
    name: Option<String>,
    /// How long, for each of them, in minutes of processor time.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Starts over with this seed. Default: goes on where the table ends.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs this one batch only (to see a finding again); the table stays as it is.
    #[arg(long)]
    batch: Option<u64>,
    /// Does not write the table.
    #[arg(long)]
    dry: bool,
}

/// What a batch came to: a few words about what it did, or a finding.
type Found = Result<String, String>;

/// How a batch is run.
enum Work {
    /// In this process: (seed, cases).
    Call(Box<dyn Fn(u64, u64) -> Found>),
    /// A package's own program: arguments, in which `{seed}` and `{cases}` stand for the numbers. Status 0 is a batch without finding; a last line that
    /// begins with `N cases compared` says how many counted.
    Program { package: &'static str, arguments: &'static [&'static str] },
}

/// One campaign.
struct Campaign {
    name: String,
    /// What it looks for.
    what: String,
    /// Cases of one batch: a few seconds' worth.
    cases: u64,
    work: Work,
}

fn call(name: &str, what: &str, cases: u64, work: impl Fn(u64, u64) -> Found + 'static) -> Campaign {
    Campaign { name: name.to_owned(), what: what.to_owned(), cases, work: Work::Call(Box::new(work)) }
}

fn program(name: &str, what: &str, cases: u64, package: &'static str, arguments: &'static [&'static str]) -> Campaign {
    Campaign { name: name.to_owned(), what: what.to_owned(), cases, work: Work::Program { package, arguments } }
}

/// All campaigns.
fn rows() -> Vec<Campaign> {
    const ORACLE: &str = "sim-cpu-oracle";
    let mut rows = vec![
        program("oracle-unicorn", "random instructions and states: our CPU against unicorn-engine, rings 0 and 3", 100_000, ORACLE, &["--judge", "unicorn", "--seed", "{seed}", "--count", "{cases}"]),
        program("oracle-host", "random instructions and states: our CPU against the host's", 250_000, ORACLE, &["--judge", "host", "--seed", "{seed}", "--count", "{cases}"]),
        program("oracle-vex", "the same, AVX2, FMA, F16C and BMI: the v3 model against the host", 250_000, ORACLE, &["--judge", "vex", "--seed", "{seed}", "--count", "{cases}"]),
        program("oracle-cut", "the same as oracle-host, our CPU stopped after every tick", 250_000, ORACLE, &["--judge", "host", "--slice", "1", "--seed", "{seed}", "--count", "{cases}"]),
        call("cpu", "garbage code, tables, MSRs and VMCBs for the processor, whole and cut", 2000, sim_cpu::fuzz::fuzz),
        call("scenario", "damaged scenario files: an answer, never a panic", 20_000, |seed, cases| Ok(scenario::fuzz(seed, cases))),
    ];
    rows.push(call("network", "frames changed, cut, repeated, of noise, for the switch and the peers behind it", 20_000, |seed, cases| Ok(format!("{} frames came back", sim_net::fuzz(seed, cases)))));
    rows.push(call("translate-vs-interpret", "random programs: translated code against the interpreter, whole and cut", 10_000, cpu_check::campaign));
    rows.push(call("pool-atlas", "power cuts at every write of a workload on a pool: nothing acknowledged lost, nothing in part", 300, pool_fire::atlas_batch));
    rows.push(call("pool-ztest", "random lives: of a pool, of families of datasets, of the kernel's storage layer with its tasks in turns: operations, streams, broken disks, kills", 10, pool_fire::ztest_batch));
    rows.push(call("pool-liar", "structures of pools changed under good checksums, by class: read, written, scrubbed; an error, never a panic, wrong bytes or unbounded memory", 5000, pool_fire::liar_batch));
    rows.push(call("pool-labels", "configs (bytes and values) and uberblocks changed under good checksums", 5000, pool_fire::labels_batch));
    rows.push(call("pool-parsers", "changed structures of the pool's format and resume tokens for each parser", 500_000, pool_fire::parsers_batch));
    rows.push(call("pool-streams", "send streams, packages, resumed ones and tokens changed under good checksums: nothing left behind", 5000, pool_fire::streams_batch));
    for target in sim_dev::fuzz::TARGETS {
        let name = target.name;
        rows.push(call(&format!("device-{name}"), &format!("noise on registers, rings and configuration space of {name}"), 100_000, move |seed, cases| {
            sim_dev::fuzz::fuzz(name, seed, cases).map(|summary| summary.to_string()).map_err(|error| error.to_string())
        }));
    }
    rows
}

impl Campaign {
    /// Batches draw from seeds that lie as far apart as a batch has cases: programs number their cases from their seed.
    fn batch(&self, root: &Path, seed: u64, number: u64) -> Found {
        let seed = seed.wrapping_add(number.wrapping_mul(self.cases));
        match &self.work {
            Work::Call(work) => match std::panic::catch_unwind(AssertUnwindSafe(|| work(seed, self.cases))) {
                Ok(found) => found,
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
                    Err(text.unwrap_or("a panic without words").to_owned())
                }
            },
            Work::Program { package, arguments } => {
                let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                command.current_dir(root).args(["run", "--quiet", "--release", "--package", package, "--"]);
                command.args(arguments.iter().map(|word| word.replace("{seed}", &seed.to_string()).replace("{cases}", &self.cases.to_string())));
                let output = command.output().map_err(|error| format!("{package}: {error}"))?;
                let said = String::from_utf8_lossy(&output.stdout);
                let last = said.lines().next_back().unwrap_or_default().to_owned();
                if output.status.success() { Ok(last) } else { Err(format!("{}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr))) }
            }
        }
    }
}

/// What was done so far: a row of the table.
#[derive(Clone, Debug, Default, PartialEq)]
struct Done {
    name: String,
    what: String,
    seed: u64,
    batches: u64,
    cases: u64,
    seconds: u64,
    findings: u64,
    last: String,
}

const HEADING: &str = "# Campaigns

Searches that have no end, and how far each has come. `cargo orrery campaign NAME --minutes M` goes on where a row ends and brings it up to date;
`cargo orrery campaign` lists them. Batch number *n* draws its cases from seed + *n* times the cases of a batch, so `--seed S --batch N` repeats any of them.
Cases of the oracles are those that were compared: what their judge cannot take does not count. The time is processor time. A campaign stops at a finding, and goes on when that is mended; how many there were stays in the row.

| campaign | looks for | seed | batches | cases | minutes | findings | last batch |
|---|---|---|---|---|---|---|---|
";

impl Done {
    fn parse(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.trim().strip_prefix('|')?.strip_suffix('|')?.split(" | ").map(str::trim).collect();
        let [name, what, seed, batches, cases, minutes, findings, last] = cells.as_slice() else { return None };
        let number = |text: &str| text.replace(',', "").parse::<u64>().ok();
        let minutes: f64 = minutes.parse().ok()?;
        Some(Self {
            name: (*name).to_owned(),
            what: (*what).to_owned(),
            seed: number(seed)?,
            batches: number(batches)?,
            cases: number(cases)?,
            seconds: Duration::try_from_secs_f64(minutes * 60.0).ok()?.as_secs(),
            findings: number(findings)?,
            last: (*last).to_owned(),
        })
    }

    fn line(&self) -> String {
        // Two digits: a second is not lost.
        let minutes = self.seconds as f64 / 60.0 + 0.005;
        let last = self.last.lines().next().unwrap_or_default().replace('|', "/");
        format!("| {} | {} | {} | {} | {} | {minutes:.2} | {} | {last} |", self.name, self.what, self.seed, self.batches, grouped(self.cases), self.findings)
    }
}

/// How many cases of a batch counted, where its words begin with that: an oracle draws more cases than it can judge.
fn compared(said: &str) -> Option<u64> {
    let (number, _) = said.split_once(" cases compared")?;
    number.parse().ok()
}

/// Processor time of this process and of the programs it has waited for (fields 14 to 17 of proc_pid_stat(5), in hundredths of a second).
fn spent() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in brackets, is field 2, and may hold anything.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let hundredths = fields.skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    Duration::from_millis(hundredths * 10)
}

/// `12,345,678`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn read(path: &Path) -> Vec<Done> {
    std::fs::read_to_string(path).map(|text| text.lines().filter_map(Done::parse).collect()).unwrap_or_default()
}

/// Writes the whole table anew: sorted, one row per campaign.
fn write(path: &Path, table: &[Done]) -> Result<(), Failure> {
    let mut text = HEADING.to_owned();
    let mut rows: Vec<&Done> = table.iter().collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    for row in rows {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{}", row.line());
    }
    let aside = path.with_extension("md.new");
    std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, path)).map_err(Failure::file(path))
}

/// The verb `campaign`.
pub fn campaign(args: &CampaignArgs) -> Result<(), Failure> {
    let context = Context::find()?;
    let path = context.root.join("docs/campaigns.md");
    let Some(wanted) = &args.name else {
        list(&read(&path));
        return Ok(());
    };
    let all = rows();
    let exact: Vec<&Campaign> = all.iter().filter(|row| row.name == *wanted).collect();
    let chosen: Vec<&Campaign> = if exact.is_empty() { all.iter().filter(|row| row.name.starts_with(wanted.as_str())).collect() } else { exact };
    if chosen.is_empty() {
        let names: Vec<&str> = all.iter().map(|row| row.name.as_str()).collect();
        return Err(Failure::Request(format!("no campaign is called `{wanted}`\n   = hint: there is: {}", names.join(", "))));
    }
    let time = Duration::try_from_secs_f64(args.minutes * 60.0).map_err(|error| Failure::Request(format!("--minutes: {error}")))?;
    let mut holds = true;
    for row in chosen {
        holds &= run(&context, row, args, time, &path)?;
    }
    if holds { Ok(()) } else { Err(Failure::DoesNotHold) }
}

fn list(table: &[Done]) {
    for row in rows() {
        let done = table.iter().find(|done| done.name == row.name);
        let how = done.map_or_else(|| "not yet".to_owned(), |done| format!("{} cases in {:.1} min, {} findings", grouped(done.cases), done.seconds as f64 / 60.0, done.findings));
        println!("{:24} {how:44} {}", row.name, row.what);
    }
}

/// Runs one campaign for a while; whether there was no finding.
fn run(context: &Context, row: &Campaign, args: &CampaignArgs, time: Duration, path: &Path) -> Result<bool, Failure> {
    let mut done = read(path).into_iter().find(|done| done.name == row.name).filter(|_| args.seed.is_none()).unwrap_or_default();
    done.name.clone_from(&row.name);
    done.what.clone_from(&row.what);
    if done.batches == 0 {
        done.seed = args.seed.unwrap_or(1);
    }
    let begun = spent();
    let before = done.seconds;
    let mut kept = begun;
    let mut good = true;
    loop {
        let number = args.batch.unwrap_or(done.batches);
        match row.batch(&context.root, done.seed, number) {
            Ok(said) => done.last = said,
            Err(finding) => {
                println!("{}: a finding\n{finding}\n  again: cargo orrery campaign {} --seed {} --batch {number}", row.name, row.name, done.seed);
                done.findings += 1;
                done.last = format!("batch {number}: {}", finding.lines().next().unwrap_or_default());
                good = false;
            }
        }
        if args.batch.is_some() {
            println!("{}: batch {number}: {}", row.name, done.last);
            return Ok(good);
        }
        // A batch with a finding is met again next time.
        if good {
            done.batches += 1;
            done.cases += compared(&done.last).unwrap_or(row.cases);
        }
        let now = spent();
        done.seconds = before + now.saturating_sub(begun).as_secs();
        let over = !good || now.saturating_sub(begun) >= time;
        if !args.dry && (over || now.saturating_sub(kept) > Duration::from_secs(5)) {
            kept = now;
            // Other campaigns may be running: only this row is ours.
            let mut table: Vec<Done> = read(path).into_iter().filter(|other| other.name != done.name).collect();
            table.push(done.clone());
            write(path, &table)?;
        }
        if over {
            println!("{}: {} cases in {:.1} min, {} findings; {}", row.name, grouped(done.cases), done.seconds as f64 / 60.0, done.findings, done.last);
            return Ok(good);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_back() {
        let done = Done { name: "device-uart".into(), what: "noise".into(), seed: 7, batches: 12, cases: 1_200_000, seconds: 91, findings: 0, last: "uart: fine".into() };
        assert_eq!(Done::parse(&done.line()), Some(done));
        assert_eq!(Done::parse("| campaign | looks for |"), None);
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(compared("91192 cases compared (0 in ring 3, 5 to a fault), 8700 skipped"), Some(91192));
        assert_eq!(compared("uart: 91192 accesses"), None);
    }

    #[test]
    fn names_are_unique_and_make_a_first_batch() {
        let rows = rows();
        let names: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names.len(), rows.len());
        let scenario = rows.iter().find(|row| row.name == "scenario").expect("is a row");
        let Work::Call(work) = &scenario.work else { panic!("is a call") };
        assert!(work(3, 50).is_ok());
    }
}
