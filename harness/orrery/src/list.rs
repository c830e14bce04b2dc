//! The verb `ls`.

use crate::Failure;
use crate::context::Context;

#[derive(clap::Args)]
pub struct ListArgs {
    /// Only those whose name contains this.
    #[arg(default_value = "")]
    filter: String,
}

/// Lists scenarios with their properties; those that do not read are listed with what is wrong.
pub fn list(args: &ListArgs) -> Result<(), Failure> {
    let context = Context::find()?;
    let names: Vec<_> = context.scenario_names()?.into_iter().filter(|name| name.contains(&args.filter)).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    let mut broken = String::new();
    for name in names {
        match context.scenario(&name) {
            Ok(scenario) => println!("{name:width$}  {}{}", scenario.property, if scenario.slow { "  (slow)" } else { "" }),
            Err(Failure::Request(errors)) => {
                println!("{name:width$}  (does not read)");
                broken.push_str(&errors);
            }
            Err(other) => return Err(other),
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(Failure::Request(broken)) }
}
