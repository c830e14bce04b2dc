//! `orrery`: the one command. In a checkout: `cargo orrery VERB`.
//!
//! # Theory
//! Each verb is a module with one function; this file is the grammar and the dispatch. Whatever goes wrong is one of three things, and the exit
//! status says which: a property does not hold (1), the request makes no sense (2), or this host cannot do it (3).
//!
//! # Structures
//! [`context::Context`] finds the checkout and builds what a verb needs, once.

mod bench;
mod boot;
mod build;
mod campaign;
mod capsule;
mod context;
mod differences;
mod explore;
mod explore_table;
mod gdb;
mod goldens;
mod image;
mod list;
mod run;
mod snap;
mod test;

use clap::{CommandFactory as _, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

const STATUSES: &str = "Exit status: 0 all that was judged holds; 1 something does not hold; 2 the request or the scenario makes no sense; \
3 this host cannot do it (the message says what is missing). `boot` ends as the machine does; see its help.";

/// Runs the orrery: our kernel on our machine, scenarios, goldens.
#[derive(Parser)]
#[command(name = "orrery", bin_name = "cargo orrery", version, after_help = STATUSES, max_term_width = 110)]
struct Cli {
    /// How vCPUs run: translating hot code to the host's is faster and gives the same receipts; `both` makes a scenario's runs do one and the other in turn.
    /// Default: `translate` where the host can (x86-64 with BMI2), else `interpret`.
    #[arg(long, global = true, value_enum)]
    engine: Option<Engine>,
    #[command(subcommand)]
    verb: Verb,
}

/// See [`sim_cpu::Engine`].
#[derive(Clone, Copy, clap::ValueEnum)]
enum Engine {
    Interpret,
    Translate,
    Both,
}

impl From<Engine> for sim_cpu::Engine {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Interpret => Self::Interpret,
            Engine::Translate => Self::Translate,
            Engine::Both => Self::Both,
        }
    }
}

#[derive(Subcommand)]
enum Verb {
    /// Runs one scenario on the simulator and judges it.
    #[command(after_help = "Examples:\n  cargo orrery run scenarios/tenants.toml\n  cargo orrery run tenants --repeat 1\n\nThe bundle is in out/NAME: report.html, timeline.json (opens in Perfetto), flame.svg, a pcapng for each NIC, disks.txt, console.txt, events.txt, receipt, transcript.json, report.txt, junit.xml.")]
    Run(run::RunArgs),
    /// Runs all scenarios, or those whose name contains FILTER.
    #[command(after_help = "Examples:\n  cargo orrery test\n  cargo orrery test bad-input\n  cargo orrery test --slow tenants\n\nWrites out/junit.xml.")]
    Test(test::TestArgs),
    /// Runs a scenario on QEMU and says what differed from the simulator.
    #[command(after_help = "Example:\n  cargo orrery qemu scenarios/tenants.toml")]
    Qemu(run::QemuArgs),
    /// Boots a kernel on the simulator, with its console on this terminal.
    #[command(
        after_help = "Examples:\n  cargo orrery boot                                 our kernel, with a shell; leave with Ctrl-A x\n  cargo orrery boot vmlinuz --initrd initrd.gz --append 'console=ttyS0'\n  cargo orrery boot hello.elf --limit 1000000000     and the receipt at the end\n\nExit status: 0 powered off or left; (v << 1) | 1 after a write of v to the debug-exit port 0xf4, as QEMU does; 4 triple fault, reset, or halted for ever; 5 the limit was reached; 2 and 3 as everywhere."
    )]
    Boot(boot::BootArgs),
    /// Starts a scenario's machine halted at its first instruction, for gdb.
    #[command(after_help = "Examples:\n  cargo orrery gdb scenarios/tenants.toml      then, in another terminal, the line it prints\n  cargo orrery gdb --session gdb/sessions/first-light.session")]
    Gdb(gdb::GdbArgs),
    /// Tries every power cut, every failing request, or many interleavings of a scenario, from snapshots; shrinks what fails to a capsule.
    #[command(after_help = "Examples:\n  cargo orrery explore linux/ext4_power_cut                     resumes where it was killed\n  cargo orrery explore --chaos linux/race --seeds 500\n  cargo orrery explore linux/ext4_power_cut --shard 2/8          and then: cargo orrery merge out/linux/ext4_power_cut/*.jsonl\n  cargo orrery explore linux/ext4_power_cut --job slurm --shards 8 > explore.slurm")]
    Explore(explore::ExploreArgs),
    /// Joins the results of explorations' shards.
    Merge(explore::MergeArgs),
    /// Repeats the run of a capsule, bit for bit.
    #[command(after_help = "Example:\n  cargo orrery replay out/shares/failure.capsule")]
    Replay(capsule::ReplayArgs),
    /// Saves the machine of a scenario or a capsule as it is at a point in time.
    #[command(after_help = "Examples:\n  cargo orrery snap zones/tools --at print:login\n  cargo orrery snap out/shares/failure.capsule -o there.snap\n\nThe file can be given to open, boot and diff, on any host.")]
    Snap(snap::SnapArgs),
    /// Stands in gdb at the failure of a capsule, or at a snapshot; what was before in a capsule's run can be gone back to.
    #[command(after_help = "Examples:\n  cargo orrery open out/shares/failure.capsule      then, in another terminal, the line it prints\n  cargo orrery open out/shares/failure.capsule --at 1.5s")]
    Open(capsule::OpenArgs),
    /// Makes an ISO image that boots under BIOS and UEFI.
    #[command(after_help = "Examples:\n  cargo orrery image\n  cargo orrery image --test       and boots it in QEMU with SeaBIOS and with OVMF, up to the shell's prompt")]
    Image(image::ImageArgs),
    /// Looks into ZFS pools in image files.
    Pool(pool_cli::PoolArgs),
    /// Measures what the kernel costs in instructions, and the simulator's speed beside QEMU's.
    #[command(after_help = "Examples:\n  cargo orrery bench --against qemu\n  cargo orrery bench --bless        and makes it the baseline in perf/")]
    Bench(bench::BenchArgs),
    /// Runs a search that has no end for a while, and brings its row in docs/campaigns.md up to date.
    #[command(after_help = "Examples:\n  cargo orrery campaign                        lists them\n  cargo orrery campaign device- --minutes 2    each of the devices for two minutes\n  cargo orrery campaign scenario --seed 9 --batch 4")]
    Campaign(campaign::CampaignArgs),
    /// Builds the kernel and the programs of the live root, and says where they are.
    #[command(after_help = "Examples:\n  cargo orrery build\n  cargo orrery build --quick     no link-time optimisation: for trying an edit")]
    Build(context::BuildArgs),
    /// Lists the scenarios, each with the property it shows.
    Ls(list::ListArgs),
    /// Runs scenarios and makes what they print their goldens.
    #[command(after_help = "Example:\n  cargo orrery bless bad-input/fork-bomb && git diff golden/")]
    Bless(goldens::GoldenArgs),
    /// Shows what differs between two snapshots, capsules, receipts or transcripts; given one word, between goldens and what scenarios print now.
    #[command(after_help = "Examples:\n  cargo orrery diff a.snap b.snap             devices, fields, pages and registers by name\n  cargo orrery diff one.capsule other.capsule   and the instruction at which their runs part\n  cargo orrery diff out/a/transcript.json out/b/transcript.json\n  cargo orrery diff bad-input/fork-bomb         goldens")]
    Diff(differences::DiffArgs),
    /// Prints a completion script for a shell.
    #[command(after_help = "Example:\n  cargo orrery completions bash > ~/.local/share/bash-completion/completions/orrery")]
    Completions {
        /// Shell to complete for.
        shell: clap_complete::Shell,
    },
}

/// Why a verb did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// Something that was judged does not hold. Already shown.
    DoesNotHold,
    /// The request makes no sense.
    Request(String),
    /// The host cannot do it.
    Host(String),
    /// A status of its own (`boot`).
    Status(u8),
}

impl From<runner::RunError> for Failure {
    fn from(error: runner::RunError) -> Self {
        Self::Host(error.to_string())
    }
}

impl Failure {
    /// A file that could not be read or written.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::Host(format!("{}: {error}", path.display()))
    }
    /// A file that the request names and that cannot be read: there is none, it is a directory.
    pub fn named(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::Request(format!("{}: {error}", path.display()))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let chosen = sim_cpu::choose_engine(cli.engine.unwrap_or(Engine::Translate).into());
    // Without a wish a host that cannot translate interprets: the receipts are the same.
    if let (Err(why), Some(_)) = (chosen, cli.engine) {
        eprintln!("orrery: --engine: {why}");
        return ExitCode::from(3);
    }
    let done = match cli.verb {
        Verb::Run(args) => run::run(&args),
        Verb::Test(args) => test::test(&args),
        Verb::Qemu(args) => run::qemu(&args),
        Verb::Boot(args) => boot::boot(&args),
        Verb::Gdb(args) => gdb::gdb(&args),
        Verb::Image(args) => image::image(&args),
        Verb::Bench(args) => bench::bench(&args),
        Verb::Pool(args) => pool_cli::run(&args).map_err(|error| {
            eprintln!("orrery pool: {error}");
            Failure::Status(error.status())
        }),
        Verb::Campaign(args) => campaign::campaign(&args),
        Verb::Build(args) => context::build(&args),
        Verb::Ls(args) => list::list(&args),
        Verb::Bless(args) => goldens::bless(&args),
        Verb::Diff(args) => differences::diff(&args),
        Verb::Explore(args) => explore::explore(&args),
        Verb::Merge(args) => explore::merge(&args),
        Verb::Replay(args) => capsule::replay(&args),
        Verb::Snap(args) => snap::snap(&args),
        Verb::Open(args) => capsule::open(&args),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "orrery", &mut std::io::stdout());
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::DoesNotHold) => ExitCode::from(1),
        Err(Failure::Request(message)) => {
            eprintln!("{}", framed(&message));
            ExitCode::from(2)
        }
        Err(Failure::Host(message)) => {
            eprintln!("{}", framed(&message));
            ExitCode::from(3)
        }
        Err(Failure::Status(status)) => ExitCode::from(status),
    }
}

/// Diagnostics bring their own heading.
fn framed(message: &str) -> String {
    if message.starts_with("error: ") { message.trim_end().to_owned() } else { format!("error: {}", message.trim_end()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar_is_consistent() {
        Cli::command().debug_assert();
    }
}
