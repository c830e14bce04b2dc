use super::*;

fn errors(text: &str) -> String {
    match parse(text, "x.toml", "x") {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    }
}

const SMALL: &str = r#"
property = "something holds"
[[zone]]
name = "alpha"
shares = 300
[[step]]
name = "list"
run = "ls /"
zone = "alpha"
contains = ["bin", "/^etc$/"]
"#;

#[test]
fn small_scenario_reads_with_its_defaults() {
    let scenario = parse(SMALL, "x.toml", "x").expect("good scenario");
    assert_eq!(scenario.board, Board { name: "default".into(), vcpus: 1, memory_bytes: 512 << 20, seed: 0 });
    assert_eq!(scenario.zones[0].shares, 300);
    assert_eq!(scenario.zones[0].tree, "busybox");
    let Action::Run(run) = &scenario.steps[0].action else { panic!("not a run") };
    assert_eq!(run.argv, ["/bin/sh", "-c", "ls /"]);
    assert_eq!(run.place, Place::Zone("alpha".into()));
    assert_eq!(run.rule.status, Some(vec![0]));
    assert!(matches!(run.rule.contains.as_slice(), [Text::Literal(_), Text::Pattern(_)]));
    assert_eq!(scenario.golden, Stream::ALL);
}

#[test]
fn unknown_key_names_line_column_and_nearest() {
    let found = errors("property = \"p\"\n[[zone]]\nname = \"a\"\n  shars = 300\n");
    assert!(found.contains("x.toml:4:3"), "{found}");
    assert!(found.contains("unknown key `shars` in a zone"), "{found}");
    assert!(found.contains("  shars = 300\n  |   ^^^^^\n"), "{found}");
    assert!(found.contains("did you mean `shares`?"), "{found}");
}

#[test]
fn all_mistakes_are_reported_in_file_order() {
    let found = parse("slw = 1\n[board]\nvcpus = 99\nmemory = 12\n[[step]]\nrun = \"ls\"\nzone = \"beta\"\n", "x.toml", "x").unwrap_err();
    let lines: Vec<_> = found.0.iter().map(|d| d.line).collect();
    assert_eq!(lines, [1, 1, 3, 4, 7], "{found}");
}

#[test]
fn broken_toml_points_at_the_place() {
    let found = errors("property = \"p\"\n[[step]\nrun = 1\n");
    assert!(found.contains("x.toml:2:"), "{found}");
}

#[test]
fn step_must_do_exactly_one_thing() {
    assert!(errors("property = \"p\"\n[[step]]\nname = \"x\"\n").contains("needs to say what it does"));
    assert!(errors("property = \"p\"\n[[step]]\nrun = \"a\"\nsleep = \"1s\"\n").contains("run and sleep"));
}

#[test]
fn references_are_checked() {
    assert!(errors("property = \"p\"\n[[step]]\nwait = \"nobody\"\n").contains("no background step is called `nobody`"));
    assert!(errors("property = \"p\"\n[[step]]\nrun = \"x\"\nsame_as = \"later\"\n[[step]]\nname = \"later\"\nrun = \"y\"\n").contains("no earlier step"));
    let ratio = "property = \"p\"\n[[expect]]\nratio = { of = \"a:0:b:c\", to = \"a:0:b:d\", from = \"s\", until = \"t\", equals = 3 }\n";
    assert!(errors(ratio).contains("no sample is called `s`"));
}

#[test]
fn wrong_types_and_units_say_what_is_wanted() {
    assert!(errors("property = 3\n").contains("`property` takes a string, this is a number"));
    assert!(errors("property = \"p\"\n[board]\nmemory = \"12 parsecs\"\n").contains("a number and a unit"));
    assert!(errors("property = \"p\"\n[zone]\nname = \"a\"\n").contains("write [[zone]]"));
    assert!(errors("property = \"p\"\n[[step]]\ntype = \"a<bogus>\"\n").contains("no key is called `<bogus>`"));
    assert!(errors("property = \"p\"\n[[expect]]\nconsole_contains = \"/(/\"\n").contains("not a regular expression"));
}

#[test]
fn keys_become_bytes() {
    assert_eq!(parse_keys("a<enter><ctrl-c><esc>:wq<lt>").unwrap(), b"a\r\x03\x1b:wq<");
    assert!(matches!(parse_keys("<oops"), Err(KeyError::Open { .. })));
}

#[test]
fn percentages_and_comparisons() {
    let text = "property = \"p\"\n[[step]]\nsample = \"s\"\n[[step]]\nsample = \"t\"\n[[expect]]\nname = \"3:1\"\njudged_on = \"simulator\"\nratio = { of = \"a:0:b:c\", to = \"a:0:b:d\", from = \"s\", until = \"t\", equals = 3, within = \"2 %\" }\n";
    let scenario = parse(text, "x.toml", "x").expect("good");
    let ExpectKind::Ratio { comparison, .. } = scenario.expects[0].kind else { panic!() };
    assert!(comparison.holds(3.05) && comparison.holds(2.95) && !comparison.holds(3.07));
    assert_eq!(scenario.expects[0].judged_on, JudgedOn::Simulator);
}

/// Cuts and single-byte changes of a good file: any answer will do, but it must be an answer.
#[test]
fn garbage_is_answered_never_panicked_on() {
    for cut in 0..SMALL.len() {
        if let Some(text) = SMALL.get(..cut) {
            let _answer = parse(text, "x", "x");
        }
        let mut bytes = SMALL.as_bytes().to_vec();
        for byte in [0u8, b'[', b'"', b'=', b'\n', 0x7f] {
            bytes[cut] = byte;
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let _answer = parse(text, "x", "x").map_err(|e| e.to_string());
            }
        }
    }
    let _answer = parse("\u{e9}\u{20ac}=\u{1f600}", "x", "x").map_err(|e| e.to_string());
}
