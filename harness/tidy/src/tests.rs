//! Made-up checkouts that break one rule each: a rule that cannot fail is no rule.

use super::*;

fn checkout(files: &[(&str, &str)]) -> Checkout {
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), File { bytes: text.len() as u64, text: Some((*text).to_owned()) }));
    Checkout { files: files.collect() }
}

#[test]
fn arrow_up_is_seen() {
    let up = checkout(&[("os/vm/Cargo.toml", "[dependencies]\nvfs.workspace = true\n")]);
    assert!(arrows_down(&up)[0].contains("level 4 uses vfs of level 5"));
    let down = checkout(&[("os/vfs/Cargo.toml", "[dependencies]\nvm.workspace = true\n")]);
    assert_eq!(arrows_down(&down), Vec::<String>::new());
}

#[test]
fn os_and_sim_may_not_meet_even_in_tests() {
    let meets = checkout(&[("os/vm/Cargo.toml", "[dev-dependencies]\nsim-core.workspace = true\n")]);
    assert!(arrows_down(&meets)[0].contains("os and sim share no line"));
    let knows = checkout(&[("sim/board/Cargo.toml", "[dependencies]\nscenario.workspace = true\n")]);
    assert!(arrows_down(&knows)[0].contains("only harness"));
}

#[test]
fn unknown_crate_is_seen() {
    assert!(arrows_down(&checkout(&[("os/util/Cargo.toml", "")]))[0].contains("give it a row"));
}

#[test]
fn crate_outside_the_ring_must_inherit() {
    assert_eq!(unsafe_ring(&checkout(&[("os/vm/Cargo.toml", "")])).len(), 1);
    assert_eq!(unsafe_ring(&checkout(&[("os/vm/Cargo.toml", "[lints]\nworkspace = true\n")])).len(), 0);
    assert_eq!(unsafe_ring(&checkout(&[("sim/fp/Cargo.toml", "[lints.rust]\nunsafe_op_in_unsafe_fn = \"deny\"\n")])).len(), 1);
}

#[test]
fn library_without_a_line_is_seen() {
    let page = "| crate | what |\n|---|---|\n| `serde`, `toml` | reads |\n";
    let manifest = "[dependencies]\nserde.workspace = true\ntoml = \"1\"\nrand = \"1\"\n";
    let found = one_line_each(&checkout(&[("docs/ARCHITECTURE.md", page), ("sim/core/Cargo.toml", manifest)]));
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("`rand`"));
}

#[test]
fn scenario_and_golden_come_in_pairs() {
    let lonely = checkout(&[("scenarios/a/b.toml", "property = \"p\"\n"), ("golden/a/b.console", ""), ("golden/c.console", "")]);
    let found = goldens_pair(&lonely);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("no golden/a/b.events") && found[1].contains("golden/c.console"));
    assert_eq!(goldens_pair(&checkout(&[("scenarios/x.toml", "golden = [\"console\"]\n"), ("golden/x.console", "")])), Vec::<String>::new());
    assert_eq!(goldens_pair(&checkout(&[("scenarios/x.toml", "golden = []\n")])).len(), 1);
}

#[test]
fn blobs_paths_and_blanket_allows_are_seen() {
    let mut bad = checkout(&[("a.md", &format!("see {}main\n", ["/wo", "rk/"].concat())), ("b.rs", &format!("{}unused)]\n", ["#!", "[allow("].concat()))]);
    bad.files.insert("c.bin".into(), File { bytes: MAX_BLOB_BYTES + 1, text: None });
    assert_eq!(no_machine_path(&bad).len(), 1);
    assert_eq!(no_blanket_allow(&bad).len(), 1);
    assert_eq!(no_blob(&bad).len(), 1);
    assert_eq!(all(&Checkout::default()), Vec::<String>::new());
}
