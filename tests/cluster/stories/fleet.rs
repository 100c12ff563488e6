//! What the people behind a cluster are told of an end: on the master, by the journal of the node, by an
//! alert, and by a command of their own. On two nodes, with systemd's journald, `node_exporter` and
//! Prometheus as Debian has them.

use std::fs;
use std::path::Path;

use testbed::{Signal, await_that};

use crate::cluster::{Cluster, KVMD};
use crate::node::{Failed, Node, Result};
use crate::stories::two_nodes::{LEFT_THEN_OFF, moved_and_powered_off, with_a_second_node};
use crate::story::{ADMIN, AGAIN, Chapter, OBEYED, Scene, USER, story};

const REPORTS: &str = "/var/lib/prometheus/node-exporter";
/// What the command of a node's people has been told of, a record a line.
const TOLD: &str = "/root/told";
/// What `kvmd-why --follow` prints there.
const FOLLOWED: &str = "/root/followed";
const PROMETHEUS: &str = "http://127.0.0.1:9090";

/// In this order: nothing fires before something has crashed.
pub(crate) const CHAPTER: Chapter = Chapter {
    title: "what the fleet is told, on two nodes",
    is_ours_alone: true,
    before: |cluster| {
        with_a_second_node(cluster)?;
        cluster.nodes.iter().try_for_each(report)?;
        watch(cluster)
    },
    stories: &[
        story(
            "fleetoff",
            "migrated, its user powers it off: told, nobody is woken",
            USER,
            LEFT_THEN_OFF,
            |scene| {
                moved_and_powered_off(scene, "migrate")?;
                let there = &scene.cluster.nodes[1];
                is_in_the_journal(there, scene.name, "guest-shutdown", "user");
                is_found_from_the_master(scene)?;
                wakes_nobody(scene.cluster, there, "guest-shutdown")
            },
        ),
        story(
            "fleetdown",
            "gnt-instance shutdown: told, nobody is woken",
            ADMIN,
            OBEYED,
            |scene| {
                scene.instance();
                scene.gnt_instance(&["shutdown"])?;
                let here = scene.cluster.master();
                is_in_the_journal(here, scene.name, "powerdown", "admin");
                wakes_nobody(scene.cluster, here, "powerdown")
            },
        ),
        story(
            "fleetcrash",
            "QEMU crashes: told, an alert fires, a command runs",
            AGAIN,
            &["crashed crash by the test"],
            |scene| {
                let instance = scene.instance();
                instance.signal(Signal::ABORT);
                instance.await_end();
                let here = scene.cluster.master();
                is_in_the_journal(here, scene.name, "crashed", "crash");
                await_that("an alert fires", || {
                    firing(scene.cluster).is_ok_and(|it| !it.is_empty())
                });
                let alerts = firing(scene.cluster)?;
                let [alert] = &alerts[..] else { return Err(Failed(alerts.join(", "))) };
                for label in ["GanetiKvmInstanceCrashed", "page", "crashed", &here.name] {
                    assert!(alert.contains(&format!("=\"{label}\"")), "{label}: {alert}");
                }
                await_that("the command has run", || read(here, TOLD).ends_with('\n'));
                let told = read(here, TOLD);
                assert!(told.contains(r#""instance":"fleetcrash""#), "{told}");
                assert_eq!(told.lines().count(), 1, "{told}");
                Ok(())
            },
        ),
    ],
};

/// Has a node tell all that it can: its journal, its metrics, and a command.
fn report(node: &Node) -> Result<()> {
    // Audit is the whole machine's: with nothing set, journald leaves it as it is.
    let settings = node.path("etc/systemd/journald.conf.d");
    fs::create_dir_all(&settings)
        .and_then(|()| fs::write(settings.join("audit.conf"), "[Journal]\nAudit=\n"))
        .map_err(|error| failed(&settings, &error))?;
    node.serve_inside(&["/lib/systemd/systemd-journald"])?;
    await_that("the journal is there", || node.path("run/systemd/journal/socket").exists());
    node.run(&["mkdir", "-p", REPORTS])?;
    let defaults = node.path("etc/default/ganeti");
    let options = format!("KVMD_ARGS=--metrics-file={REPORTS}/ganeti-kvmd.prom\n");
    fs::write(&defaults, options).map_err(|error| failed(&defaults, &error))?;
    node.daemon_util("stop", KVMD)?;
    node.daemon_util("start", KVMD)?;
    let follow = format!("exec kvmd-why --follow --cause=crash --exec='cat >>{TOLD}' >{FOLLOWED}");
    node.serve_inside(&["sh", "-c", &follow])?;
    await_that("kvmd-why follows", || read(node, FOLLOWED).starts_with("ENDED"));
    let exporter = program("prometheus-node-exporter")?;
    let collected = format!("--collector.textfile.directory={}", node.path(REPORTS).display());
    let only = "--collector.disable-defaults";
    node.serve(&[&exporter, only, "--collector.textfile", &collected])
}

/// Has a Prometheus beside the master look at both nodes, every second.
fn watch(cluster: &Cluster) -> Result<()> {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/prometheus/ganeti-kvmd.rules.yml");
    let target = |(i, node): (usize, &Node)| {
        let address = format!("192.0.2.{}:9100", 11 + i);
        format!("{{targets: [\"{address}\"], labels: {{instance: {}}}}}", node.name)
    };
    let targets: Vec<String> = cluster.nodes.iter().enumerate().map(target).collect();
    let configuration = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules}]\n\
         scrape_configs: [{{job_name: node, static_configs: [{}]}}]\n",
        targets.join(", ")
    );
    let directory = cluster.directory().join("prometheus");
    let file = directory.join("prometheus.yml");
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&file, configuration))
        .map_err(|error| failed(&file, &error))?;
    let prometheus = program("prometheus")?;
    let configuration = format!("--config.file={}", file.display());
    let data = format!("--storage.tsdb.path={}", directory.join("data").display());
    let listen = "--web.listen-address=127.0.0.1:9090";
    let log = "--log.level=error";
    cluster.master().serve(&[&prometheus, &configuration, &data, listen, log])?;
    await_that("Prometheus has heard of both daemons", || {
        query(cluster, "ganeti_kvmd_start_time_seconds").is_ok_and(|it| it.len() == 2)
    });
    Ok(())
}

/// Where the Makefile has fetched a program to.
fn program(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/prometheus").join(name);
    match path.to_str() {
        Some(text) if path.is_file() => Ok(text.into()),
        _ => Err(Failed(format!("{} is not there; `make cluster` fetches it", path.display()))),
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failed {
    Failed(format!("{}: {error}", path.display()))
}

/// The series that match, each with its value, as Prometheus's own tool prints them.
fn query(cluster: &Cluster, expression: &str) -> Result<Vec<String>> {
    let words = [&program("promtool")?, "query", "instant", PROMETHEUS, expression];
    let said = cluster.master().run_beside(&words)?;
    Ok(said.lines().filter(|line| line.contains(" => ")).map(ToString::to_string).collect())
}

fn firing(cluster: &Cluster) -> Result<Vec<String>> {
    query(cluster, r#"ALERTS{alertstate="firing"}"#)
}

fn read(node: &Node, path: &str) -> String {
    fs::read_to_string(node.path(path)).unwrap_or_default()
}

/// The node's journal has the end of an instance, once, and explains it.
fn is_in_the_journal(node: &Node, name: &str, cause: &str, initiator: &str) {
    let fields = [("INSTANCE", name), ("CAUSE", cause), ("INITIATOR", initiator)];
    let fields = fields.map(|(field, value)| format!("{field}={value}"));
    let entries = |options: &[&'static str]| {
        let words = ["journalctl", "--quiet", "--no-pager"];
        let fields = fields.iter().map(String::as_str);
        let words: Vec<&str> =
            words.into_iter().chain(options.iter().copied()).chain(fields).collect();
        node.run(&words).unwrap_or_default()
    };
    await_that("the journal has the end", || !entries(&["--output=cat"]).is_empty());
    let told = entries(&["--output=cat"]);
    let begin = format!("Instance \"{name}\" (pid ");
    assert!(told.lines().count() == 1 && told.starts_with(&begin), "{told}");
    let explained = entries(&["--catalog"]);
    let subject = format!(" Subject: Virtual machine {name} ");
    assert!(explained.contains(&subject), "{explained}");
}

/// The end on this node is counted, and has been for as long as the rules take: no alert fires, and no
/// command was run.
fn wakes_nobody(cluster: &Cluster, node: &Node, cause: &str) -> Result<()> {
    let counted = format!(
        "ganeti_kvmd_exits_total{{instance=\"{}\",cause=\"{cause}\"}} offset 3s > 0",
        node.name
    );
    await_that("Prometheus counts the end", || {
        query(cluster, &counted).is_ok_and(|it| !it.is_empty())
    });
    assert_eq!(firing(cluster)?, [""; 0]);
    assert_eq!(read(node, TOLD), "", "a command was run");
    Ok(())
}

/// What `kvmd-why` on the master says of an instance that ended on the other node.
fn is_found_from_the_master(scene: &Scene) -> Result<()> {
    let Scene { cluster, name } = scene;
    let all = format!("gnt-cluster command -M kvmd-why --json --all {name} | kvmd-why --file=- ");
    let ask = |what: &str| cluster.run(&["sh", "-c", &format!("{all}{what}")]);
    let there = format!(" on {}) ", cluster.nodes[1].name);
    // The record is written right after the end.
    await_that("the record is there", || ask(name).is_ok_and(|told| told.contains(&there)));
    let told = ask(name)?;
    let is_told = told.starts_with(&format!("{name} (pid ")) && told.contains(&there);
    assert!(is_told && told.contains("; its user did it."), "{told}");
    // On the first node Ganeti has ended the QEMU that the guest had left.
    let summary = ask("--summary")?;
    assert!(summary.starts_with("2 ends of 1 instance on 2 nodes from "), "{summary}");
    // The page has both, and names each node.
    let page = ask("--html=-")?;
    let nodes = cluster.nodes.iter().map(|node| &node.name);
    assert!(page.contains(name) && nodes.clone().all(|node| page.contains(node)), "{page}");
    Ok(())
}
