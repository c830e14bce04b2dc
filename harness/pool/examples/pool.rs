//! `orrery pool` alone, without the machine: `cargo run -p pool-cli --example pool -- zfs -d DIR list tank`.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    pool: pool_cli::PoolArgs,
}

fn main() -> ExitCode {
    match pool_cli::run(&Arguments::parse().pool) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pool: {error}");
            ExitCode::from(error.status())
        }
    }
}
