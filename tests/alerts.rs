//! The alerts of `packaging/prometheus` are about figures that there are. A real daemon says which
//! ones it keeps; each way to end is then counted once, and what fires is what the table says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testbed::{Node, await_that, needs, promtool};

const RULES: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/prometheus/ganeti-kvmd.rules.yml");

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Each series that a daemon writes, as `name{label="value"}`, and its value.
fn written() -> Vec<(String, String)> {
    let node = Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    let path = node.path("kvmd.prom");
    let daemon = node.start_with(&["--metrics-file", path.to_str().unwrap()]);
    await_that("the metrics are written", || path.exists());
    let text = fs::read_to_string(&path).unwrap();
    daemon.stop();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let split = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_string(), value.to_string())
    };
    samples.map(split).collect()
}

/// The value of this label.
fn label<'a>(series: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = series.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

/// Cause and initiator of each series of ends.
fn ends(written: &[(String, String)]) -> BTreeSet<(String, String)> {
    let series = written.iter().map(|(series, _)| series);
    series
        .filter(|series| series.starts_with("ganeti_kvmd_exits_total{"))
        .map(|series| (label(series, "cause").unwrap(), label(series, "initiator").unwrap()))
        .map(|(cause, initiator)| (cause.to_string(), initiator.to_string()))
        .collect()
}

/// As `node_exporter` gives it to Prometheus.
fn scraped(series: &str) -> String {
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let comma = if labels == "}" { "" } else { "," };
    format!("{name}{{instance=\"node1\",job=\"node\"{comma}{labels}")
}

/// A node whose daemon has run for a day, with all that it writes; of `ended`, one more from the
/// tenth minute on.
fn half_an_hour(written: &[(String, String)], ended: Option<&(String, String)>) -> Vec<Value> {
    let course = |series: &str, value: &str| match series {
        "ganeti_kvmd_start_time_seconds" => "-86400+0x30".into(),
        "ganeti_kvmd_heartbeat_timestamp_seconds" => "0+60x30".into(),
        // Which of them this machine has is of no interest.
        _ if series.starts_with("ganeti_kvmd_source_up") => "1+0x30".into(),
        _ if series.starts_with("ganeti_kvmd_exits_total")
            && ended.is_some_and(|(cause, initiator)| {
                label(series, "cause") == Some(cause)
                    && label(series, "initiator") == Some(initiator)
            }) =>
        {
            "0+0x9 1+0x20".into()
        }
        _ => format!("{value}+0x30"),
    };
    let up = json!({ "series": scraped("up"), "values": "1+0x30" });
    written
        .iter()
        .map(|(name, value)| json!({ "series": scraped(name), "values": course(name, value) }))
        .chain([up])
        .collect()
}

/// What Prometheus's own tool says of these tests, each with a name, series and what is expected of
/// expressions. JSON is YAML.
fn try_rules(tests: &[Value]) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tests.yml");
    let text = json!({ "rule_files": [RULES], "evaluation_interval": "1m", "tests": tests });
    fs::write(&file, text.to_string()).unwrap();
    let tool = promtool().unwrap();
    let output = Command::new(tool).args(["test", "rules"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// What is to fire when an instance has ended, and how urgent it is.
fn expected(cause: &str, initiator: &str) -> Option<(&'static str, &'static str)> {
    match (initiator, cause) {
        ("crash", "out-of-memory") => Some(("GanetiKvmOutOfMemory", "page")),
        ("crash", "guest-panic" | "watchdog") => Some(("GanetiKvmGuestCrashed", "ticket")),
        ("crash", _) => Some(("GanetiKvmInstanceCrashed", "page")),
        ("unknown", "unknown") => Some(("GanetiKvmdVerdictLost", "ticket")),
        // What is not known to be a crash may have been the user or an administrator.
        ("unknown" | "user" | "admin", _) => None,
        _ => panic!("{cause} {initiator}"),
    }
}

#[test]
fn each_end_fires_what_it_should_and_what_users_and_administrators_do_fires_nothing() {
    needs!(Promtool);
    let written = written();
    let test = |ended: &(String, String)| {
        let (cause, initiator) = ended;
        let fires = expected(cause, initiator).map(|(alert, severity)| {
            let labels = format!("{{alertname=\"{alert}\",severity=\"{severity}\"}}");
            json!({ "labels": labels, "value": 1 })
        });
        json!({
            "name": format!("{cause}, {initiator}"),
            "interval": "1m",
            "input_series": half_an_hour(&written, Some(ended)),
            "promql_expr_test": [{
                "expr": "sum by (alertname, severity) (ALERTS)",
                "eval_time": "11m",
                "exp_samples": fires.into_iter().collect::<Vec<_>>(),
            }],
        })
    };
    let tests: Vec<Value> = ends(&written).iter().map(test).collect();
    assert!(tests.len() > 20, "{written:?}");
    try_rules(&tests).unwrap_or_else(|said| panic!("{said}"));
}

#[test]
fn every_row_of_the_readme_is_counted() {
    let written = written();
    let ends = ends(&written);
    let readme = read("README.md");
    let table = readme.split("| what happened | cause |").nth(1).unwrap();
    let mut rows = 0;
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let initiator = cells[3].split([':', ';']).next().unwrap();
        for cause in cells[2].split('`').skip(1).step_by(2) {
            let end = (cause.to_string(), initiator.to_string());
            assert!(ends.contains(&end), "{end:?} is not counted: {ends:?}");
            rows += 1;
        }
    }
    assert!(rows >= 20, "{rows}");
}

/// A rule about a series that nobody writes never fires, and never complains.
#[test]
fn every_series_that_a_rule_asks_for_is_written() {
    needs!(Promtool);
    let written = written();
    let rules = fs::read_to_string(RULES).unwrap();
    let selectors = selectors(&rules);
    assert!(selectors.len() > 10, "{selectors:?}");
    let is_there = |selector: &String| {
        json!({
            "name": selector,
            "interval": "1m",
            "input_series": half_an_hour(&written, None),
            "promql_expr_test": [{
                "expr": format!("count({selector}) > bool 0"),
                "eval_time": "11m",
                "exp_samples": [{ "labels": "{}", "value": 1 }],
            }],
        })
    };
    let tests: Vec<Value> = selectors.iter().map(is_there).collect();
    try_rules(&tests).unwrap_or_else(|said| panic!("{said}"));
    for misspelt in ["ganeti_kvmd_exit_total", "ganeti_kvmd_exits_total{cause=\"oom\"}"] {
        assert!(try_rules(&[is_there(&misspelt.into())]).is_err(), "{misspelt}");
    }
}

#[test]
fn the_manual_says_what_each_alert_means_and_how_urgent_it_is() {
    let rules = fs::read_to_string(RULES).unwrap();
    let manual = read("packaging/man/ganeti-kvmd.8");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 10, "{rules}");
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        let severity = alert.split("severity: ").nth(1).unwrap().lines().next().unwrap();
        let entry = manual.split(&format!(".It Cm {name}\n")).nth(1);
        let entry = entry.unwrap_or_else(|| panic!("{name} is not in the manual"));
        let first = entry.split(':').next().unwrap();
        assert!(first.contains(severity), "{name}: {severity}, and in the manual: {first}");
        assert!(alert.contains("for: "), "{alert}");
    }
}

/// The daemon's metrics in these rules, each with its matchers.
fn selectors(rules: &str) -> BTreeSet<String> {
    let code = rules.lines().filter(|line| !line.trim_start().starts_with('#'));
    let code: String = code.flat_map(|line| [line, "\n"]).collect();
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("ganeti_kvmd_") {
        let name: String = code[at..].chars().take_while(|&c| is_of_name(c)).collect();
        // What a rule records itself has a colon, before or behind.
        if name.contains(':') || code[..at].ends_with(is_of_name) {
            continue;
        }
        let rest = &code[at + name.len()..];
        let matchers = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        found.insert(match matchers {
            Some((matchers, _)) => format!("{name}{{{matchers}}}"),
            None => name,
        });
    }
    found
}

#[test]
fn every_query_of_the_fleets_document_is_tried() {
    let (document, tests) =
        (read("docs/fleet.md"), read("packaging/prometheus/ganeti-kvmd.test.yml"));
    let queries: Vec<&str> = document
        .split("```promql\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().trim())
        .collect();
    assert!(queries.len() >= 4, "{queries:?}");
    for query in queries {
        assert!(tests.contains(&format!("- expr: {query}\n")), "nobody tries {query}");
    }
}
