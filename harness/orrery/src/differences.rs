//! The verb `diff`: two snapshots by name, two capsules by where their runs part, two texts by line, or scenarios against their goldens.

use crate::Failure;
use crate::goldens::{self, GoldenArgs};
use sim_snap::{Capsule, FileKind, diff as by_name, file, first_divergence, saved};
use std::path::{Path, PathBuf};

/// Ticks of two capsules' runs that are compared, unless their recorded ends come first.
const LIMIT: u64 = 1 << 40;

#[derive(clap::Args)]
pub struct DiffArgs {
    /// A file; or, alone, scenarios whose name contains this (nothing: all of them).
    #[arg(default_value = "")]
    left: String,
    /// The file to compare with.
    right: Option<PathBuf>,
}

/// The verb `diff`.
pub fn diff(args: &DiffArgs) -> Result<(), Failure> {
    let Some(right_path) = &args.right else { return goldens::diff(&GoldenArgs::of(&args.left)) };
    let left_path = Path::new(&args.left);
    let left = std::fs::read(left_path).map_err(Failure::file(left_path))?;
    let right = std::fs::read(right_path).map_err(Failure::file(right_path))?;
    let wrong = |path: &Path, error: sim_snap::FileError| Failure::Request(format!("{}: {error}", path.display()));
    let lines = match (file::kind_of(&left), file::kind_of(&right)) {
        (Some(FileKind::Snapshot), _) | (_, Some(FileKind::Snapshot)) => {
            let left = saved::load(&left).map_err(|error| wrong(left_path, error))?;
            let right = saved::load(&right).map_err(|error| wrong(right_path, error))?;
            by_name::snapshots(&left, &right)
        }
        (Some(FileKind::Capsule), _) | (_, Some(FileKind::Capsule)) => {
            let left = Capsule::load(&left).map_err(|error| wrong(left_path, error))?;
            let right = Capsule::load(&right).map_err(|error| wrong(right_path, error))?;
            capsules(&left, &right).map_err(|error| wrong(left_path, error))?
        }
        (None, None) if left == right => Vec::new(),
        (None, None) => golden::diff(&String::from_utf8_lossy(&left), &String::from_utf8_lossy(&right)).lines().map(str::to_owned).collect(),
    };
    lines.iter().for_each(|line| println!("{line}"));
    if lines.is_empty() {
        println!("they are the same");
        return Ok(());
    }
    Err(Failure::DoesNotHold)
}

fn capsules(left: &Capsule, right: &Capsule) -> Result<Vec<String>, sim_snap::FileError> {
    let mut lines = Vec::new();
    for (what, same) in [
        ("kernel", left.kernel == right.kernel),
        ("initrd", left.initrd == right.initrd),
        ("disk images", left.images == right.images),
        ("command line", left.append == right.append),
        ("board", left.board == right.board),
        ("inputs", left.inputs == right.inputs),
    ] {
        if !same {
            lines.push(format!("{what}: not the same"));
        }
    }
    if left.receipt != right.receipt {
        lines.push(format!("receipt: {} / {}", left.receipt, right.receipt));
    }
    if lines.is_empty() {
        return Ok(lines);
    }
    let limit = left.ticks.min(right.ticks).min(LIMIT);
    let found = first_divergence(&mut left.machine()?, &mut right.machine()?, limit).map_err(|error| sim_snap::FileError::content("board", error))?;
    lines.push(match found {
        Some(found) => found.to_string(),
        None => format!("CPUs and memory do the same up to tick {limit}"),
    });
    Ok(lines)
}
