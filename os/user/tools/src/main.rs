//! The multi-call program; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = Vec::new();
    for argument in std::env::args_os() {
        // File names in other encodings are not refused here: what cannot be said is replaced and then not found.
        arguments.push(argument.to_string_lossy().into_owned());
    }
    tools::run(&arguments)
}
