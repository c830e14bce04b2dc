//! The verb `test`: all scenarios, in parallel.

use crate::Failure;
use crate::build::Profile;
use crate::context::Context;
use crate::run::{Finished, How, show, simulate};
use rayon::prelude::*;
use runner::bundle;
use std::sync::Mutex;

#[derive(clap::Args)]
pub struct TestArgs {
    /// Only scenarios whose name contains this.
    #[arg(default_value = "")]
    filter: String,
    /// Also those marked slow.
    #[arg(long)]
    slow: bool,
    /// How many machines at once. Default: one per processor.
    #[arg(long)]
    jobs: Option<usize>,
}

/// Runs the scenarios; a line each as they end, the table of those that fail, JUnit for CI.
pub fn test(args: &TestArgs) -> Result<(), Failure> {
    let context = Context::find()?;
    let scenarios: Vec<_> = context.scenarios(&args.filter)?.into_iter().filter(|scenario| args.slow || !scenario.slow).collect();
    let bench = context.bench(Profile::Ship, &scenarios)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.jobs.unwrap_or(0)).build().map_err(|error| Failure::Host(format!("cannot start threads: {error}")))?;
    // One screen for all threads.
    let screen = Mutex::new(());
    let finished: Vec<_> = pool.install(|| {
        scenarios
            .par_iter()
            .map(|scenario| {
                let finished = simulate(&context, &bench, scenario, How { live: false, goldens: true });
                let guard = screen.lock();
                match &finished {
                    Ok(done @ Finished { runs, verdict, .. }) => {
                        let (good, judged) = verdict.count();
                        let seconds = runs.first().map_or(0.0, |run| run.wall_ms as f64 / 1e3);
                        println!("{}  {:32}  {good} of {judged}  {seconds:.1} s", if verdict.holds() { "ok  " } else { "FAIL" }, scenario.name);
                        if !verdict.holds() {
                            show(scenario, runs, verdict);
                            println!("{}\n", done.again(&context, &scenario.name));
                        }
                    }
                    Err(Failure::Request(why) | Failure::Host(why)) => println!("FAIL  {:32}  could not run: {why}", scenario.name),
                    Err(Failure::DoesNotHold | Failure::Status(_)) => {}
                }
                drop(guard);
                (scenario, finished)
            })
            .collect()
    });
    let mut junit = quick_junit::Report::new("orrery scenarios");
    let mut failed = 0;
    for (scenario, result) in &finished {
        match result {
            Ok(Finished { runs, verdict, .. }) => {
                failed += usize::from(!verdict.holds());
                junit.add_test_suite(bundle::suite(scenario, runs, verdict));
            }
            Err(_) => failed += 1,
        }
    }
    let path = context.root.join("out/junit.xml");
    let text = junit.to_string().map_err(|error| Failure::Host(format!("JUnit: {error}")))?;
    std::fs::create_dir_all(context.root.join("out")).and_then(|()| std::fs::write(&path, text)).map_err(Failure::file(&path))?;
    println!("scenarios: {} passed, {failed} failed", finished.len() - failed);
    if failed == 0 { Ok(()) } else { Err(Failure::DoesNotHold) }
}
