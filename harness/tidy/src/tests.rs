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
fn a_library_is_compiled_for_its_tests_only_where_it_has_some() {
    let judge = |manifest: &str, source: &str| compiled_once(&checkout(&[("sim/core/Cargo.toml", manifest), ("sim/core/src/lib.rs", source)]));
    let (test, none) = ("#[test]\nfn t() {}\n", "fn f() {}\n");
    assert_eq!(judge("[lib]\ndoctest = false\n", test), Vec::<String>::new());
    assert_eq!(judge("[lib]\ntest = false\ndoctest = false\n", none), Vec::<String>::new());
    assert!(judge("[lib]\ntest = false\ndoctest = false\n", test)[0].contains("tests in src"));
    assert!(judge("[lib]\ndoctest = false\n", none)[0].contains("no tests in src"));
    assert!(judge("", test)[0].contains("an example that must hold is a test"));
    let apart = [("sim/core/Cargo.toml", "[lib]\ntest = false\ndoctest = false\n"), ("sim/core/src/lib.rs", none), ("sim/core/src/a.rs", test), ("sim/core/tests/a.rs", "#[path = \"../src/a.rs\"]\nmod a;\n")];
    assert_eq!(compiled_once(&checkout(&apart)), Vec::<String>::new());
    assert_eq!(compiled_once(&checkout(&apart[..3])).len(), 1);
    assert_eq!(compiled_once(&checkout(&[("os/kernel/Cargo.toml", ""), ("os/kernel/src/main.rs", test)])), Vec::<String>::new());
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
