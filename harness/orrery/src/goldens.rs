//! The verbs `bless` and `diff`.

use crate::Failure;
use crate::build::Profile;
use crate::context::Context;
use runner::{Quiet, verdict};
use scenario::Scenario;

#[derive(clap::Args)]
pub struct GoldenArgs {
    /// Scenarios whose name contains this; nothing: all of them.
    #[arg(default_value = "")]
    filter: String,
}

impl GoldenArgs {
    /// Scenarios whose name contains `filter`.
    pub fn of(filter: &str) -> Self {
        Self { filter: filter.to_owned() }
    }
}

fn each(args: &GoldenArgs, mut act: impl FnMut(&Context, &Scenario, &runner::Transcript) -> Result<bool, Failure>) -> Result<bool, Failure> {
    let context = Context::find()?;
    let scenarios = context.scenarios(&args.filter)?;
    let bench = context.bench(Profile::Ship, &scenarios)?;
    let mut any = false;
    for scenario in scenarios.iter().filter(|scenario| !scenario.golden.is_empty()) {
        let prepared = bench.prepare(scenario, &context.bundle(&scenario.name))?;
        let run = bench.simulate(scenario, &prepared, &mut Quiet)?;
        if let Some(why) = &run.given_up
            && run.end == runner::End::Limit
        {
            return Err(Failure::Host(format!("{}: {why}\n   = hint: cargo orrery run {0} first; a broken run is no golden", scenario.name)));
        }
        any |= act(&context, scenario, &run)?;
    }
    Ok(any)
}

/// Makes what the scenarios print now their goldens.
pub fn bless(args: &GoldenArgs) -> Result<(), Failure> {
    let changed = each(args, |context, scenario, run| {
        let changed = verdict::bless(&context.goldens(), scenario, run).map_err(Failure::file(context.root.join("golden")))?;
        for path in &changed {
            println!("blessed {}", path.strip_prefix(&context.root).unwrap_or(path).display());
        }
        Ok(!changed.is_empty())
    })?;
    if changed {
        println!("look at them: git diff golden/");
    } else {
        println!("nothing changed");
    }
    Ok(())
}

/// Shows what would change.
pub fn diff(args: &GoldenArgs) -> Result<(), Failure> {
    let differs = each(args, |context, scenario, run| {
        let mut differs = false;
        for stream in &scenario.golden {
            let name = stream.extension();
            match context.goldens().compare(&scenario.name, name, &verdict::stream_text(run, *stream)) {
                golden::Verdict::Same => continue,
                golden::Verdict::Missing { path } => println!("{}: there is none yet", path.display()),
                golden::Verdict::Differs { path, diff } => println!("{}\n{diff}", path.strip_prefix(&context.root).unwrap_or(&path).display()),
                golden::Verdict::TooLong { bytes } => println!("{}.{name}: {bytes} bytes are too long for a golden", scenario.name),
                golden::Verdict::Unreadable { path, why } => println!("{}: {why}", path.display()),
            }
            differs = true;
        }
        Ok(differs)
    })?;
    if differs { Err(Failure::DoesNotHold) } else { Ok(()) }
}
