//! `kvmd-why` over many nodes: what comes from several files and through one pipe is one answer, and
//! what could not be read is named.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use testbed::needs;

const KVMD_WHY: &str = env!("CARGO_BIN_EXE_kvmd-why");

/// Some nodes, each with its records.
struct Nodes(tempfile::TempDir);

impl Nodes {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What Ganeti has below `GANETI_ROOTDIR` on this node.
    fn root(&self, node: &str) -> PathBuf {
        self.path("roots").join(node)
    }

    /// A node with these records.
    fn add(&self, node: &str, records: &[String]) {
        let log = self.root(node).join("var/log/ganeti");
        fs::create_dir_all(&log).unwrap();
        fs::write(log.join("kvm-exits.jsonl"), records.concat()).unwrap();
    }

    /// A file beside them.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name).display().to_string()
    }

    /// What `gnt-cluster command -M` prints for these nodes and this command (`RunClusterCommand` in
    /// Ganeti's `lib/client/gnt_cluster.py`), where ssh is left out.
    fn command(&self, nodes: &[&str], has_names: bool, command: &str) -> String {
        let mut printed = Vec::new();
        for node in nodes {
            let output = Command::new("sh")
                .args(["-c", command])
                .env("GANETI_ROOTDIR", self.root(node))
                .env("PATH", format!("{}:/usr/bin:/bin", programs().display()))
                .output()
                .unwrap();
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8(text).unwrap();
            printed.push("------------------------------------------------\n".to_string());
            if has_names {
                printed.extend(text.lines().map(|line| format!("{node}: {line}\n")));
            } else {
                printed.push(format!("node: {node}\n{text}\n"));
            }
            printed.push(format!("return code = {}\n", output.status.code().unwrap()));
        }
        printed.concat()
    }
}

/// Where `kvmd-why` is.
fn programs() -> &'static Path {
    Path::new(KVMD_WHY).parent().unwrap()
}

/// A record of an end at this time of 21 November 2026.
fn record(time: &str, instance: &str, cause: &str, initiator: &str) -> String {
    format!(
        "{{\"version\":1,\"instance\":\"{instance}\",\"pid\":4242,\"end\":\"2026-11-21T{time}.000000Z\",\
         \"uptime\":60.5,\"cause\":\"{cause}\",\"initiator\":\"{initiator}\",\"summary\":\"ended\",\
         \"evidence\":[{{\"at\":-0.5,\"source\":\"qmp\",\"what\":\"connected\"}}],\"new\":{{\"field\":1}}}}\n"
    )
}

fn killed(time: &str, instance: &str) -> String {
    record(time, instance, "killed", "admin")
}

fn kvmd_why(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(KVMD_WHY)
        .args(arguments)
        .env("GANETI_ROOTDIR", "/nowhere")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have seen enough, or a bad option.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What it prints, what it complains of, and its exit code.
fn told(arguments: &[&str], input: &str) -> (String, String, i32) {
    let output = kvmd_why(arguments, input);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

/// The answer, of which nothing is missing.
fn answer(arguments: &[&str], input: &str) -> String {
    let (answer, complaints, code) = told(arguments, input);
    assert_eq!((&*complaints, code), ("", 0), "{answer}");
    answer
}

/// Column `column` of a table, below its heading.
fn column(table: &str, column: usize) -> Vec<&str> {
    table
        .lines()
        .skip(1)
        .map(|row| row.split("  ").filter(|it| !it.is_empty()).nth(column).unwrap().trim())
        .collect()
}

/// Three nodes: two with ends, one without.
fn three_nodes() -> Nodes {
    let nodes = Nodes::new();
    nodes.add("node1", &[killed("03:00:01", "web1"), killed("03:00:04", "web2")]);
    nodes
        .add("node2", &[record("03:00:02", "db1", "crashed", "crash"), killed("03:00:03", "web1")]);
    nodes.add("node3", &[]);
    nodes
}

const ALL: &str = "kvmd-why --json --all";

#[test]
fn what_a_cluster_says_is_one_answer() {
    let nodes = three_nodes();
    for has_names in [true, false] {
        let said = nodes.command(&["node2", "node3", "node1"], has_names, ALL);
        let table = answer(&["--file=-"], &said);
        assert!(table.starts_with("ENDED (UTC)          NODE   INSTANCE"), "{table}");
        assert_eq!(column(&table, 1), ["node1", "node2", "node2", "node1"], "{said}");
        assert_eq!(column(&table, 2), ["web1", "db1", "web1", "web2"]);
        let story = answer(&["--file=-", "web1"], &said);
        assert!(story.starts_with("web1 (pid 4242 on node2) "), "{story}");
        assert!(story.contains("qmp             connected"), "{story}");
    }
}

#[test]
fn what_was_merged_once_can_be_merged_again() {
    let nodes = three_nodes();
    let said = nodes.command(&["node1", "node2", "node3"], true, ALL);
    let merged = answer(&["--file=-", "--json", "--all"], &said);
    let first = merged.lines().next().unwrap();
    assert!(first.starts_with("{\"version\":1,\"instance\":\"web1\","), "{first}");
    assert!(
        first.ends_with("\"new\":{\"field\":1},\"node\":\"node1\"}"),
        "nothing is lost: {first}"
    );
    assert_eq!(answer(&["--file=-", "--json", "--all"], &merged), merged);
    // Who brings it knows better where it is from.
    let brought: Vec<String> = merged.lines().map(|line| format!("proxy: {line}\n")).collect();
    let table = answer(&["--file=-"], &brought.concat());
    assert_eq!(column(&table, 1), ["proxy"; 4]);
}

#[test]
fn files_are_merged_and_name_their_nodes() {
    let nodes = Nodes::new();
    let a = nodes.write("a.jsonl", killed("03:00:02", "web1"));
    fs::create_dir(nodes.path("b")).unwrap();
    let b = nodes.write("b/kvm-exits.jsonl", killed("03:00:01", "web2"));
    let c = nodes.write("c", killed("03:00:03", "web3"));
    let files = [&a, &b, &format!("node3={c}")].map(|file| format!("--file={file}"));
    let table = answer(&files.each_ref().map(String::as_str), "");
    assert_eq!(column(&table, 1), ["b", "a", "node3"]);
    // One alone is that of a node that everybody knows.
    let table = answer(&[&files[0]], "");
    assert!(!table.contains("NODE"), "{table}");
}

#[test]
fn a_node_that_fails_is_named_and_the_others_answer() {
    let nodes = three_nodes();
    let mut said = nodes.command(&["node1"], true, ALL);
    said += &nodes.command(&["node4"], true, "kvmd-which --json");
    said += &nodes.command(&["node5"], true, "exit 255");
    // It has nothing of that kind, and says so.
    said += &nodes.command(&["node2"], true, "kvmd-why --json --all --cause=watchdog");
    said += &nodes.command(&["node2"], true, "kvmd-why --json --all nobody");
    let (table, complaints, code) = told(&["--file=-"], &said);
    assert_eq!(column(&table, 2), ["web1", "web2"]);
    assert_eq!(code, 3, "{complaints}");
    let lines: Vec<&str> = complaints.lines().collect();
    assert_eq!(
        lines[0],
        "Not there: 2 nodes on which the command failed (exit code): node4 (127), a node that printed nothing (255)"
    );
    assert_eq!(lines[1], "standard input: 1 line is no record:");
    assert!(
        lines[2].starts_with("  line 6 of node4: it is not a record: sh: 1: kvmd-which: "),
        "{complaints}"
    );
    assert_eq!(lines.len(), 3, "{complaints}");
}

/// What its outline has is well-formed, and the rest is not.
#[test]
fn a_record_that_is_half_formed_hides_no_other() {
    let half = killed("23:59:59", "web1").replace("\"evidence\":[", "\"evidence\":[7,");
    let said = format!("node1: {half}node2: {}", killed("03:00:01", "web1"));
    let (story, complaints, code) = told(&["--file=-", "web1"], &said);
    assert!(story.starts_with("web1 (pid 4242 on node2) ended"), "{story}");
    assert_eq!(code, 0, "{complaints}");
    let complaint = "  line 1 of node1: it is not a record: ";
    assert_eq!(complaints.lines().next(), Some("standard input: 1 line is no record:"));
    assert!(complaints.lines().nth(1).unwrap().starts_with(complaint), "{complaints}");
}

/// Whoever is sent the page has not seen what the program complained of.
#[test]
fn a_page_says_which_nodes_are_missing() {
    let nodes = three_nodes();
    let said =
        nodes.command(&["node1"], true, ALL) + &nodes.command(&["node4"], true, "kvmd-which");
    let (page, _, code) = told(&["--file=-", "--html=-"], &said);
    let missing = "Not complete: Not there: 1 node on which the command failed (exit code): node4 (127); \
                   1 line is no record.";
    assert!(page.contains(missing), "{page}");
    assert_eq!(code, 3);
}

#[test]
fn a_page_has_so_much_evidence_of_an_end_and_counts_the_rest() {
    let piece = "{\"at\":-0.5,\"source\":\"qmp\",\"what\":\"connected\"}";
    let pieces = vec![piece; 1000].join(",");
    let record = killed("03:00:01", "web1").replace(piece, &pieces);
    let page = answer(&["--file=-", "--html=-"], &record);
    assert_eq!(page.matches("\"what\":\"connected\"").count(), 64);
    assert!(page.contains("\"omitted\":936"));
}

#[test]
fn lines_that_cannot_be_read_are_counted_and_the_first_are_named() {
    let nodes = Nodes::new();
    let long = format!("{{\"instance\":\"{}\"}}\n", "x".repeat(1 << 20));
    let torn = &killed("03:00:01", "web0")[..30];
    let content = [
        &killed("03:00:01", "web1"),
        "{\"instance\": \"we\u{1b}[2J\n",
        &long,
        "{}\n",
        &"nonsense\n".repeat(1000),
        &killed("03:00:02", "web2"),
        torn,
    ];
    let a = nodes.write("a", content.concat());
    let b = nodes.write("b", b"{\"instance\": \"\xff\"}\n");
    let (table, complaints, code) = told(&[&format!("--file={a}"), &format!("--file={b}")], "");
    assert_eq!(column(&table, 2), ["web1", "web2"]);
    assert_eq!(code, 0, "{complaints}");
    let lines: Vec<&str> = complaints.lines().map(str::trim).collect();
    assert_eq!(lines[0], format!("{a}: 1004 lines are no records:"));
    assert!(lines[1].starts_with("line 2: it is not a record: "), "{complaints}");
    assert_eq!(lines[2], "line 3: it is longer than 1 MiB");
    assert_eq!(lines[3], "line 4: it is not a record: it names no instance");
    assert_eq!(
        lines[4..6],
        [5, 6].map(|line| format!("line {line}: it is not a record: nonsense"))
    );
    assert_eq!(lines[6], "...");
    assert_eq!(
        lines[7..],
        [format!("{b}: 1 line is no record:").as_str(), "line 1: it is not UTF-8"]
    );
    assert!(!complaints.contains('\x1b'), "{complaints}");
}

#[test]
fn a_line_that_cannot_be_read_is_that_of_its_file() {
    let nodes = Nodes::new();
    nodes.add("node1", &[killed("03:00:01", "web1")]);
    let rotated = nodes.write("roots/node1/var/log/ganeti/kvm-exits.jsonl.1", "nonsense\n");
    let own = Command::new(KVMD_WHY).env("GANETI_ROOTDIR", nodes.root("node1")).output().unwrap();
    let complaints = String::from_utf8(own.stderr).unwrap();
    assert!(complaints.starts_with(&format!("{rotated}: 1 line is no record:")), "{complaints}");
}

#[test]
fn a_file_that_cannot_be_read_costs_its_own_ends_only() {
    let nodes = Nodes::new();
    let a = nodes.write("a", killed("03:00:01", "web1"));
    let secret = nodes.write("secret.xz", killed("03:00:01", "web1"));
    let gone = nodes.path("gone").display().to_string();
    let files = [&gone, &a, &secret].map(|file| format!("--file={file}"));
    let (table, complaints, code) = told(&files.each_ref().map(String::as_str), "");
    assert_eq!((column(&table, 2), code), (vec!["web1"], 3));
    assert!(complaints.starts_with(&format!("Cannot read {gone}: No such file")), "{complaints}");
    assert!(
        complaints.contains(&format!("Cannot read {secret}: compressed in a way")),
        "{complaints}"
    );
    // Where there is nothing else, there is no answer.
    let (table, complaints, code) = told(&[&files[0], &files[2]], "");
    assert_eq!((&*table, code), ("", 1), "{complaints}");
}

#[test]
fn clocks_that_are_ahead_are_named() {
    let future = killed("03:00:01", "web1").replace("2026-", "9026-");
    let input = format!("node\u{1b}1: x\nnode1: {future}node2: {}", killed("03:00:01", "web2"));
    let (table, complaints, code) = told(&["--file=-"], &input);
    assert_eq!((column(&table, 1), code), (vec!["node2", "node1"], 0));
    assert!(
        complaints.contains("1 end is later than this machine's clock, by up to "),
        "{complaints}"
    );
    assert!(
        complaints.contains(" (node1). Ends are in the order of their nodes' clocks."),
        "{complaints}"
    );
    assert!(!complaints.contains('\x1b'));
}

#[test]
fn a_forged_record_speaks_for_no_other_node() {
    let forged =
        killed("03:00:01", "web1").replace("\"pid\"", "\"node\":\"victim\\u001b[2J\",\"pid\"");
    let table = answer(&["--file=-"], &format!("node1: {forged}"));
    assert_eq!(column(&table, 1), ["node1"]);
    let json = answer(&["--file=-", "--json"], &format!("node1: {forged}"));
    assert!(json.contains("\"node\":\"node1\"") && !json.contains("victim"), "{json}");
    let nodes = Nodes::new();
    // A file that the user says is a node's is that node's: not what stands in it.
    let prefixed = format!("victim: {}return code = 0\n", killed("03:00:02", "web2"));
    let file = nodes.write("a", forged.clone() + &prefixed);
    let (table, complaints, code) = told(&[&format!("--file=node1={file}")], "");
    assert_eq!((column(&table, 1), column(&table, 2), code), (vec!["node1"], vec!["web1"], 0));
    assert!(complaints.contains("2 lines are no records"), "{complaints}");
    // Neither does one of the node's own speak for others.
    nodes.add("node2", &[prefixed, killed("03:00:03", "web3")]);
    let own = Command::new(KVMD_WHY).env("GANETI_ROOTDIR", nodes.root("node2")).output().unwrap();
    let table = String::from_utf8(own.stdout).unwrap();
    assert!(!table.contains("victim") && !table.contains("NODE"), "{table}");
    // What was collected from many may.
    let collected = nodes.write("b", format!("node1: {}", killed("03:00:02", "web2")));
    assert_eq!(column(&answer(&[&format!("--file={collected}")], ""), 1), ["node1"]);
    // Without a better word, it is shown, escaped.
    assert!(!answer(&["--file=-"], &forged).contains('\x1b'));
}

#[test]
fn the_pipe_of_a_reader_who_has_seen_enough_ends_it() {
    let input: String = (0..5000).map(|i| killed("03:00:01", &format!("web{i}"))).collect();
    let nodes = Nodes::new();
    let file = nodes.write("a", input);
    let script = format!("{KVMD_WHY} --all --file={file} | head -n 2");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 2);
    assert_eq!(output.stderr, b"");
}

#[test]
fn what_ganetis_own_command_prints_is_understood() {
    needs!(Ganeti);
    let nodes = three_nodes();
    nodes.add("node4", &[]);
    let command = |options: &[&str], command: &str| {
        let output = Command::new("/usr/bin/python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ganeti/gnt_cluster.py"))
            .arg(nodes.path("roots"))
            .args(options)
            .arg(command)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let why = format!("{KVMD_WHY} --json --all");
    for options in [&["-M"][..], &[]] {
        let said = command(options, &why);
        let table = answer(&["--file=-"], &said);
        assert_eq!(column(&table, 1), ["node1", "node2", "node2", "node1"], "{said}");
        // It is what this test takes for it elsewhere.
        let ours = nodes.command(&["node2", "node3", "node4", "node1"], !options.is_empty(), &why);
        assert_eq!(said, ours);
    }
    let said = command(&["-M"], &format!("{why} --cause=crash"));
    assert_eq!(column(&answer(&["--file=-"], &said), 2), ["db1"], "{said}");
    let (_, complaints, code) = told(&["--file=-"], &command(&["-M"], "false"));
    assert_eq!(code, 1, "{complaints}");
    assert!(complaints.contains("4 nodes on which the command failed"), "{complaints}");
}

#[test]
fn a_summary_says_first_what_is_unusual() {
    let nodes = Nodes::new();
    let times =
        |minute: u8, instance: &str, cause: &str, initiator: &str, count: u8| -> Vec<String> {
            let time = |second| format!("03:{minute:02}:{second:02}");
            (0..count).map(|second| record(&time(second), instance, cause, initiator)).collect()
        };
    nodes.add("node1", &times(1, "web1", "crashed", "crash", 4));
    nodes.add("node2", &times(2, "db1", "out-of-memory", "crash", 3));
    nodes.add("node3", &times(0, "app1", "guest-shutdown", "user", 2));
    let said = nodes.command(&["node1", "node2", "node3"], true, ALL);
    let summary = answer(&["--file=-", "--summary"], &said);
    let expected = "\
9 ends of 3 instances on 3 nodes from 2026-11-21 03:00:00 to 2026-11-21 03:02:02 UTC.

UNUSUAL
  web1 broke 4 times from 2026-11-21 03:01:00 to 2026-11-21 03:01:03 UTC; the last: crashed on node1
  db1 broke 3 times from 2026-11-21 03:02:00 to 2026-11-21 03:02:02 UTC; the last: out-of-memory on node2
  node2 ran out of memory 3 times from 2026-11-21 03:02:00 to 2026-11-21 03:02:02 UTC; the last: db1
  no senders of signals that ended instances 10 times or more
";
    assert!(summary.starts_with(expected), "{summary}");
    let summary = answer(&["--file=-", "--summary", "--cause=user"], &said);
    assert!(summary.contains("Nothing unusual"), "{summary}");
    assert_eq!(told(&["--file=-", "--summary", "nobody"], &said).2, 1);
}
