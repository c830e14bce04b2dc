//! The checkout, and what is built in it.

use crate::{Failure, build};
use runner::{Bench, Ours, live};
use scenario::Scenario;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct BuildArgs {
    /// Without link-time optimisation: faster to build, other instruction counts.
    #[arg(long)]
    quick: bool,
}

/// The checkout.
#[derive(Clone, Debug)]
pub struct Context {
    pub root: PathBuf,
}

impl Context {
    /// Finds the checkout above the working directory.
    pub fn find() -> Result<Self, Failure> {
        let here = std::env::current_dir().map_err(|error| Failure::Host(format!("no working directory: {error}")))?;
        let root = here.ancestors().find(|folder| folder.join("os/kernel/Cargo.toml").is_file() && folder.join("scenarios").is_dir());
        match root {
            Some(root) => Ok(Self { root: root.to_owned() }),
            None => Err(Failure::Request(format!("{} is not in a checkout of orrery\n   = hint: cd into the folder that has ./run and scenarios/", here.display()))),
        }
    }

    /// Builds the kernel.
    pub fn kernel(&self, profile: build::Profile) -> Result<PathBuf, Failure> {
        build::kernel(&self.root, profile).map_err(|error| Failure::Host(error.to_string()))
    }

    /// Builds everything these scenarios need.
    pub fn bench<'s>(&self, profile: build::Profile, scenarios: impl IntoIterator<Item = &'s Scenario>) -> Result<Bench, Failure> {
        let programs = self.programs()?;
        let ours = if scenarios.into_iter().any(runner::needs_ours) { Some(self.ours(profile, &programs)?) } else { None };
        Ok(Bench { root: self.root.clone(), ours, programs })
    }

    /// Builds our kernel and live root.
    pub fn ours(&self, profile: build::Profile, programs: &live::Programs) -> Result<Ours, Failure> {
        Ok(Ours { kernel: self.kernel(profile)?, live: self.live(programs)? })
    }

    /// Builds our programs for guests.
    pub fn programs(&self) -> Result<live::Programs, Failure> {
        live::build_programs(&self.root).map_err(|error| Failure::Host(error.to_string()))
    }

    /// The live root without carried files.
    pub fn live(&self, programs: &live::Programs) -> Result<runner::archive::Tree, Failure> {
        let host = |error: live::LiveError| Failure::Host(error.to_string());
        let busybox = live::busybox(&self.root).map_err(host)?;
        live::root(&busybox, programs).map_err(host)
    }

    /// The commit that is checked out, `+` for a tree with changes; what snapshots and capsules are signed with.
    pub fn commit(&self) -> String {
        let git = |arguments: &[&str]| {
            let output = std::process::Command::new("git").current_dir(&self.root).args(arguments).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        match git(&["rev-parse", "--short=12", "HEAD"]) {
            Some(commit) if git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| changes.is_empty()) => commit,
            Some(commit) => commit + "+",
            None => "unknown".to_owned(),
        }
    }

    pub fn goldens(&self) -> golden::Store {
        golden::Store::new(&self.root.join("golden"))
    }

    /// Folder of a scenario's bundle.
    pub fn bundle(&self, scenario: &str) -> PathBuf {
        self.root.join("out").join(scenario)
    }

    /// Reads a scenario given as a path or as a name.
    pub fn scenario(&self, wanted: &str) -> Result<Scenario, Failure> {
        let folder = self.root.join("scenarios");
        let candidates = [PathBuf::from(wanted), self.root.join(wanted), folder.join(wanted), folder.join(format!("{wanted}.toml"))];
        let Some(path) = candidates.iter().find(|path| path.is_file()) else {
            let names: Vec<String> = self.scenario_names()?;
            let close: Vec<_> = names.iter().filter(|name| name.contains(wanted.trim_end_matches(".toml").rsplit('/').next().unwrap_or(wanted))).cloned().collect();
            let hint = if close.is_empty() { "cargo orrery ls shows what there is".to_owned() } else { format!("there is: {}", close.join(", ")) };
            return Err(Failure::Request(format!("there is no scenario `{wanted}`\n   = hint: {hint}")));
        };
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        let inside = folder.canonicalize().ok().and_then(|folder| real.strip_prefix(folder).ok().map(Path::to_owned));
        let shown = inside.as_ref().map_or_else(|| path.clone(), |inside| Path::new("scenarios").join(inside));
        let name = inside.unwrap_or_else(|| PathBuf::from(path.file_name().unwrap_or_default())).with_extension("");
        self.load(path, &shown, &name.to_string_lossy())
    }

    fn load(&self, path: &Path, shown: &Path, name: &str) -> Result<Scenario, Failure> {
        let text = std::fs::metadata(path).and_then(|data| {
            if data.len() > scenario::MAX_FILE_BYTES {
                return Err(std::io::Error::other(format!("longer than {} bytes", scenario::MAX_FILE_BYTES)));
            }
            std::fs::read(path)
        });
        let text = text.map_err(Failure::file(shown))?;
        let text = String::from_utf8(text).map_err(|error| Failure::Request(format!("{}: not UTF-8 text (byte {})", shown.display(), error.utf8_error().valid_up_to())))?;
        scenario::parse(&text, &shown.display().to_string(), name).map_err(|errors| Failure::Request(errors.to_string()))
    }

    /// Names of all scenarios, sorted.
    pub fn scenario_names(&self) -> Result<Vec<String>, Failure> {
        let folder = self.root.join("scenarios");
        let mut names = Vec::new();
        let mut folders = vec![folder.clone()];
        while let Some(at) = folders.pop() {
            for entry in std::fs::read_dir(&at).map_err(Failure::file(&at))? {
                let path = entry.map_err(Failure::file(&at))?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "toml")
                    && let Ok(inside) = path.strip_prefix(&folder)
                {
                    names.push(inside.with_extension("").to_string_lossy().into_owned());
                }
            }
        }
        names.sort();
        Ok(names)
    }

    /// All scenarios whose name contains `filter`. A scenario that does not read is an error: it would silently not be run.
    pub fn scenarios(&self, filter: &str) -> Result<Vec<Scenario>, Failure> {
        let filter = filter.trim_start_matches("scenarios/").trim_end_matches(".toml");
        let names = self.scenario_names()?;
        let chosen: Vec<_> = names.iter().filter(|name| name.contains(filter)).collect();
        if chosen.is_empty() {
            return Err(Failure::Request(format!("no scenario's name contains `{filter}`\n   = hint: cargo orrery ls shows what there is")));
        }
        chosen.into_iter().map(|name| self.scenario(name)).collect()
    }
}

/// The verb `build`.
pub fn build(args: &BuildArgs) -> Result<(), Failure> {
    let context = Context::find()?;
    let profile = if args.quick { build::Profile::Quick } else { build::Profile::Ship };
    let kernel = context.kernel(profile)?;
    println!("kernel    {}", kernel.display());
    let tree = context.live(&context.programs()?)?;
    let initrd = context.root.join("target/live.cpio");
    let bytes = tree.to_cpio();
    std::fs::write(&initrd, &bytes).map_err(Failure::file(&initrd))?;
    println!("live root {} ({} files, {:.1} MB)", initrd.display(), tree.len(), bytes.len() as f64 / 1e6);
    Ok(())
}
