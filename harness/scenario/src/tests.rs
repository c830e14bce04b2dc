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
    assert_eq!(scenario.board, Board { name: "default".into(), vcpus: 1, memory_bytes: 512 << 20, seed: 0, tables: String::new() });
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
    for (sample, cut) in [SMALL, FOREIGN].into_iter().flat_map(|sample| (0..sample.len()).map(move |cut| (sample, cut))) {
        if let Some(text) = sample.get(..cut) {
            let _answer = parse(text, "x", "x");
        }
        let mut bytes = sample.as_bytes().to_vec();
        for byte in [0u8, b'[', b'"', b'=', b'\n', 0x7f] {
            bytes[cut] = byte;
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let _answer = parse(text, "x", "x").map_err(|e| e.to_string());
            }
        }
    }
    let _answer = parse("\u{e9}\u{20ac}=\u{1f600}", "x", "x").map_err(|e| e.to_string());
}

const FOREIGN: &str = r#"property = "p"
[board]
vcpus = 4
chaos = true
[guest]
kernel = "debian-cloud"
packages = ["e2fsprogs"]
[[disk]]
name = "data"
model = "nvme"
size = "32M"
format = "ext4"
[[nic]]
model = "e1000e"
[nic.link]
drop = "1 %"
[[step]]
run = '''
[[nic]]
'''
[[peer]]
name = "server"
[[expect]]
on_host = "e2fsck -fn data.img"
contains = "clean"
"#;

#[test]
fn foreign_guest_reads() {
    let scenario = parse(FOREIGN, "x.toml", "x").expect("good scenario");
    assert_eq!(scenario.image.kernel, Kernel::Debian(Flavour::Cloud));
    assert_eq!(scenario.image.initrd, Initrd::Debian(Userland { packages: vec!["e2fsprogs".into()], modules: Vec::new() }));
    assert!(scenario.golden.is_empty());
    let disk = &scenario.disks[0];
    assert_eq!((disk.name.as_str(), disk.model, disk.size_bytes, &disk.content), ("data", DiskModel::Nvme, 32 << 20, &DiskContent::Ext4));
    assert!(matches!(&scenario.expects[0].kind, ExpectKind::OnHost { line, contains } if line == "e2fsck -fn data.img" && contains.len() == 1));
}

#[test]
fn the_boards_words_are_handed_on_in_their_places() {
    let scenario = parse(FOREIGN, "x.toml", "x").expect("good scenario");
    let lines: Vec<_> = scenario.board.tables.lines().enumerate().filter(|(_, line)| !line.is_empty()).collect();
    assert_eq!(lines, [(0, "chaos = true"), (12, "[[nic]]"), (13, "model = \"e1000e\""), (14, "[nic.link]"), (15, "drop = \"1 %\""), (20, "[[peer]]"), (21, "name = \"server\"")]);
    assert_eq!(FOREIGN.lines().nth(13), Some("model = \"e1000e\""));
}

#[test]
fn foreign_guest_is_checked() {
    assert!(errors("property = \"p\"\n[guest]\nkernel = \"debian\"\n[image]\n").contains("not both"));
    assert!(errors("property = \"p\"\n[guest]\n").contains("needs `kernel`"));
    assert!(errors("property = \"p\"\n[guest]\nkernel = \"debian\"\npackages = \"../x\"\n").contains("cannot be the name"));
    assert!(errors("property = \"p\"\n[image]\nkernel = \"debian:memtest86+\"\n").contains("debian:PACKAGE/PATH"));
    assert!(errors("property = \"p\"\n[guest]\nkernel = \"debian\"\n[[zone]]\nname = \"a\"\n").contains("zones need the live initrd"));
    assert!(errors("property = \"p\"\n[[disk]]\nmodel = \"floppy\"\n").contains("cannot be `floppy`"));
    assert!(errors("property = \"p\"\n[[disk]]\nname = \"a\"\n[[disk]]\nname = \"a\"\n").contains("a second disk called"));
}
