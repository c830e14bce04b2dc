//! What the outputs say about a run whose evidence is known.

mod common;

use report::{flame, page, timeline};
use serde_json::Value;

#[test]
fn the_timeline_is_a_trace_with_every_track() {
    let trace: Value = serde_json::from_str(&timeline::write(&common::evidence(true))).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("a list");
    let of = |kind: &str, track: u64| events.iter().filter(|event| event["ph"] == kind && event["pid"] == track).count();
    assert_eq!(of("X", 1), 8, "steps");
    assert_eq!(of("X", 2), 40, "2,000 samples of two vCPUs change every 100");
    assert_eq!(of("i", 4), 50, "interrupts");
    assert_eq!((of("X", 6), of("i", 6)), (299, 1), "disk requests, and one that was never answered");
    assert_eq!(of("i", 7), 800, "frames");
    assert_eq!(of("X", 7), 1, "conversations");
    for event in events.iter().filter(|event| event["ph"] == "X") {
        assert!(event["dur"].as_f64().is_some_and(|span| span > 0.0) && event["ts"].is_f64(), "{event}");
    }
    let named = events.iter().filter(|event| event["ph"] == "M" && event["name"] == "process_name").count();
    assert_eq!(named, 7);
}

/// What the JSON importer of Perfetto asks for (*Trace Event Format*; slices of one thread nest or are apart, else it drops them).
#[test]
fn perfetto_has_nothing_to_drop() {
    let trace: Value = serde_json::from_str(&timeline::write(&common::evidence(true))).expect("JSON");
    assert!(trace["displayTimeUnit"] == "ns");
    let mut threads: std::collections::BTreeMap<(u64, u64), Vec<(f64, f64)>> = std::collections::BTreeMap::new();
    for event in trace["traceEvents"].as_array().expect("a list") {
        let pid = event["pid"].as_u64().unwrap_or_else(|| panic!("a whole number: {event}"));
        assert!(event["name"].as_str().is_some_and(|name| !name.is_empty()), "{event}");
        assert!(event["args"].is_object(), "{event}");
        match event["ph"].as_str() {
            Some("M") => {
                assert!(["process_name", "thread_name"].contains(&event["name"].as_str().unwrap_or_default()) && event["args"]["name"].is_string(), "{event}");
                assert!(event["name"] == "process_name" || event["tid"].is_u64(), "{event}");
            }
            Some("i") => assert!(event["s"] == "t" && event["tid"].is_u64() && event["ts"].as_f64().is_some_and(|at| at >= 0.0), "{event}"),
            Some("X") => {
                let (began, span) = (event["ts"].as_f64().expect("a number"), event["dur"].as_f64().expect("a number"));
                assert!(began >= 0.0 && span > 0.0, "{event}");
                threads.entry((pid, event["tid"].as_u64().expect("a whole number"))).or_default().push((began, began + span));
            }
            other => panic!("a phase that is not written: {other:?}"),
        }
    }
    assert!(threads.len() > 4);
    for (thread, mut slices) in threads {
        slices.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let mut open: Vec<f64> = Vec::new();
        for (began, ended) in slices {
            // Times are microseconds with three decimals: a billionth is rounding.
            open.retain(|end| *end > began + 1e-6);
            assert!(open.last().is_none_or(|end| ended <= *end + 1e-6), "slices of {thread:?} overlap at {began}");
            open.push(ended);
        }
    }
}

#[test]
fn stacks_are_folded_by_name_outermost_first() {
    let evidence = common::evidence(true);
    let folded = flame::folded(&evidence, &common::symbols());
    let text = flame::text(&folded);
    assert!(text.contains("kernel;_start;idle_loop;schedule 6"), "{text}");
    assert!(text.contains("kernel;_start;idle_loop 6"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("user;address space 0x1000 ")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("user;/usr/bin/busy ")), "{text}");
    let total: u64 = folded.values().sum();
    let busy = evidence.samples.iter().filter(|sample| sample.at != report::Where::Halted).count() as u64;
    assert_eq!(total, busy, "every sample of a vCPU that ran is somewhere");
    let svg = flame::svg(&folded, evidence.every);
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("schedule"));
}

#[test]
fn a_kernel_that_moved_itself_has_names() {
    let mut evidence = common::evidence(true);
    for sample in &mut evidence.samples {
        sample.lstar += 0x1230_0000;
        sample.stack.iter_mut().for_each(|address| *address += 0x1230_0000);
    }
    assert!(flame::text(&flame::folded(&evidence, &common::symbols())).contains("kernel;_start;idle_loop;schedule "));
}

#[test]
fn round_trips_are_from_segment_to_acknowledgement() {
    let trips = common::evidence(true).round_trips(0);
    assert_eq!(trips.len(), 400);
    assert_eq!(trips[..3], [(300_000_000, 20_000), (303_000_000, 40_000), (306_000_000, 60_000)]);
}

#[test]
fn nothing_breaks_out_of_the_page() {
    let evidence = common::evidence(false);
    let html = page::write(&evidence, "<svg></svg>");
    for bad in ["</script>", "<b>", "<world>", "<came>", "<everything>", "\u{1b}"] {
        assert!(!html.contains(bad), "{bad:?} is in the page");
    }
    for good in ["does not hold", "<span class=\"del\">-expected line", "<span class=\"add\">+what", "Latency at nic0", "Disk 0", "Flamegraph"] {
        assert!(html.contains(good), "{good:?} is not in the page");
    }
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!html.contains(outside), "{outside:?}: the page needs nothing from outside");
    }
}

#[test]
fn all_files_are_written() {
    let folder = std::env::temp_dir().join(format!("orrery-report-{}", std::process::id()));
    report::write(&folder, &common::evidence(true), &common::symbols()).expect("a folder for temporary files");
    let mut names: Vec<String> = std::fs::read_dir(&folder).expect("just made").map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, ["disks.txt", "flame.folded", "flame.svg", "network.txt", "nic0.pcapng", "report.html", "timeline.json"]);
    let disks = std::fs::read_to_string(folder.join("disks.txt")).expect("just written");
    assert!(disks.contains("fault 0 (not carried out)") && disks.lines().count() == 301);
    std::fs::remove_dir_all(&folder).expect("ours");
}
