//! The live root: what the initrd holds.
//!
//! # Structures
//! ```text
//! /bin/busybox, /bin/sh, ...            Debian's busybox-static, unmodified, and a link for each of its applets
//! /sbin/init, /usr/sbin/zoneadm, ...    links to our multi-call tool /usr/lib/orrery/tools
//! /usr/lib/orrery/agent                 the scenario agent
//! /export/trees/busybox                 a root tree that zones are installed from
//! /export/carry/...                     what the scenario carries in
//! ```
//!
//! # Failure
//! busybox is downloaded once with apt, not installed (`debian.rs`).

use crate::archive::Tree;
use crate::debian::{DebianError, Store};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why the live root could not be made.
#[derive(Debug)]
pub struct LiveError(pub String);

impl std::fmt::Display for LiveError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LiveError {}

impl From<DebianError> for LiveError {
    fn from(error: DebianError) -> Self {
        Self(error.to_string())
    }
}

/// Our tools by the path of their links. The tool looks at the name it is called by.
const TOOLS: &[&str] = &[
    "sbin/init",
    "sbin/zinit",
    "sbin/poweroff",
    "sbin/halt",
    "sbin/reboot",
    "usr/sbin/zoneadm",
    "usr/sbin/zonecfg",
    "usr/sbin/zlogin",
    "usr/sbin/prctl",
    "usr/sbin/psrinfo",
    "usr/sbin/kstat",
    "usr/sbin/failnth",
    "usr/sbin/zpool",
    "usr/bin/vfsstat",
    "usr/bin/ziostat",
    "usr/sbin/zfs",
    "usr/bin/zonename",
];

/// Programs made here for the guest.
#[derive(Clone, Debug)]
pub struct Programs {
    pub tools: PathBuf,
    pub agent: PathBuf,
    pub trial: PathBuf,
    pub bench: PathBuf,
    /// Programs that `explore` watches.
    pub keeper: PathBuf,
    pub racer: PathBuf,
}

impl Programs {
    /// Those that run on any Linux, not only on our kernel.
    pub(crate) fn guests(&self) -> [&Path; 5] {
        [&self.agent, &self.trial, &self.bench, &self.keeper, &self.racer]
    }
}

/// Last part of a path.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn run(command: &mut Command, what: &str) -> Result<Vec<u8>, LiveError> {
    let output = command.output().map_err(|error| LiveError(format!("{what}: cannot run {:?}: {error}", command.get_program())))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(LiveError(format!("{what} failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end())))
}

/// Builds the tools, the agent and the trial programs: static, the same bytes wherever the checkout lies.
pub fn build_programs(root: &Path) -> Result<Programs, LiveError> {
    let target = root.join("target/user");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(["build", "--quiet", "--release", "--target", "x86_64-unknown-linux-gnu", "-p", "tools", "-p", "guest"]);
    command.arg("--target-dir").arg(&target);
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Cstrip=symbols".to_owned(),
        format!("--remap-path-prefix={}=/orrery", root.display()),
    ];
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET_DIR");
    run(&mut command, "building the guest's programs")?;
    let built = target.join("x86_64-unknown-linux-gnu/release");
    let program = |name: &str| built.join(name);
    Ok(Programs {
        tools: program("tools"),
        agent: program("agent"),
        trial: program("trial"),
        bench: program("bench_os"),
        keeper: program("keeper"),
        racer: program("racer"),
    })
}

/// Debian's static busybox.
pub fn busybox(root: &Path) -> Result<PathBuf, LiveError> {
    Ok(Store::new(root).package("busybox-static")?.file("bin/busybox")?)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, LiveError> {
    std::fs::read(path).map_err(|error| LiveError(format!("{}: {error}", path.display())))
}

/// busybox and its links, and the few files every root has.
pub(crate) fn base(busybox: &Path) -> Result<Tree, LiveError> {
    let mut tree = Tree::default();
    tree.file("bin/busybox", 0o755, read(busybox)?);
    let applets = run(Command::new(busybox).arg("--list-full"), "asking busybox for its applets")?;
    for applet in String::from_utf8_lossy(&applets).lines().filter(|applet| !matches!(*applet, "bin/busybox" | "linuxrc")) {
        tree.link(applet, "/bin/busybox");
    }
    for folder in ["dev", "proc", "sys", "root", "etc", "mnt", "var", "run"] {
        tree.folder(folder, 0o755);
    }
    for folder in ["tmp", "var/tmp"] {
        tree.folder(folder, 0o1777);
    }
    tree.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n");
    tree.file("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n");
    tree.file("etc/profile", 0o644, "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\nexport PS1='\\h:\\w\\$ '\n");
    Ok(tree)
}

/// The whole live root, without carried files.
pub fn root(busybox: &Path, programs: &Programs) -> Result<Tree, LiveError> {
    let base = base(busybox)?;
    let mut zone = base.clone();
    zone.file("usr/bin/trial", 0o755, read(&programs.trial)?);
    // For a zone that asks for busybox's init instead of ours.
    zone.file("etc/inittab", 0o644, "::sysinit:/bin/true\n");

    let mut tree = base;
    tree.file("usr/lib/orrery/tools", 0o755, read(&programs.tools)?);
    for program in programs.guests() {
        tree.file(&format!("usr/lib/orrery/{}", file_name(program)), 0o755, read(program)?);
    }
    for tool in TOOLS {
        tree.link(tool, "/usr/lib/orrery/tools");
    }
    tree.folder("etc/zones", 0o755);
    tree.folder("zones", 0o755);
    tree.folder("export/carry", 0o755);
    tree.graft("export/trees/busybox", &zone);
    Ok(tree)
}
