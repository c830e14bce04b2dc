//! The examples that `orrery pool --help` shows, carried out as the session they are.

use std::path::Path;

use clap::{CommandFactory, Parser};
use pool_cli::{PoolArgs, run};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: PoolArgs,
}

#[test]
fn the_examples_of_the_help_work_one_after_the_other() {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("examples");
    drop(std::fs::remove_dir_all(&place));
    for folder in ["DIR", "BACK", "SRC/deep"] {
        std::fs::create_dir_all(place.join(folder)).expect("make a folder");
    }
    std::fs::write(place.join("SRC/notes.txt"), "notes\n").expect("write");
    std::fs::write(place.join("more.txt"), "more\n").expect("write");
    std::fs::write(place.join("SRC/deep/words"), "the same words again and again\n".repeat(9000)).expect("write");
    // The only test of its program: the folder is nobody else's.
    std::env::set_current_dir(&place).expect("go there");
    let help = Cli::command().get_after_help().expect("the help has examples").to_string();
    let mut count = 0;
    for line in help.lines().filter_map(|line| line.strip_prefix("  cargo orrery ")) {
        let command = line.split("  ").next().unwrap_or(line);
        // What the shell does with files, the options do.
        let command = command.replace(" >", " --output ").replace(" <", " --input ");
        let words: Vec<&str> = command.split_whitespace().collect();
        let cli = Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{line}: {error}"));
        count += 1;
        run(&cli.args).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    assert!(count > 25, "{count} examples");
    let words = std::fs::read_to_string("OUT/words").or_else(|_| std::fs::read_to_string("OUT/deep/words")).expect("copied out");
    assert_eq!(words.lines().count(), 9000);
    drop(std::fs::remove_dir_all(&place));
}
