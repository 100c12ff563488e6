//! A cluster, as its administrator sees it: by Ganeti's own commands.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

use crate::node::{self, Failed, Node, Result, floppy};

/// The daemon that is tested.
pub(crate) const KVMD: &str = "ganeti-kvmd";

/// Which daemon the nodes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Ours,
    Theirs,
}

impl Subject {
    /// What is printed before a step, and goes into the names of nodes.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Theirs => "theirs",
        }
    }
}

/// Reports progress: when, with which daemon, what.
pub(crate) fn say(subject: Subject, text: &str) {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    println!("{:5.0} s  {:6}  {text}", STARTED.elapsed().as_secs_f32(), subject.word());
}

/// An instance that is to be made: its hypervisor parameters and the like.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    /// KEY=VALUE of Ganeti's hypervisor parameters.
    pub(crate) parameters: &'static [(&'static str, &'static str)],
    /// On a disk in a file; else without a disk.
    pub(crate) on_file: bool,
    /// In MiB; 32 if 0.
    pub(crate) memory: u32,
}

/// What is installed on a node of [`Subject::Ours`].
#[derive(Clone, Debug)]
pub(crate) struct Packages {
    pub(crate) daemon: PathBuf,
    /// The daemon's depends on it.
    pub(crate) why: PathBuf,
}

/// A running cluster.
pub(crate) struct Cluster {
    pub(crate) subject: Subject,
    pub(crate) nodes: Vec<Node>,
    name: String,
    names: Vec<String>,
    top: PathBuf,
    packages: Packages,
}

/// Ganeti's hypervisor parameters for the whole cluster.
const PARAMETERS: &str = "kvm:kernel_path=,kvm_path=/usr/bin/qemu-system-x86_64,kvm_flag=disabled,\
    boot_order=disk,migration_bandwidth=1000,\
    user_shutdown=true,vnc_bind_address=";

impl Cluster {
    /// Initialises a cluster of one node. With [`Subject::Ours`] the packages are installed on it as
    /// they are on a node that has Ganeti already.
    pub(crate) fn new(
        top: &Path,
        subject: Subject,
        purpose: &str,
        packages: &Packages,
    ) -> Result<Self> {
        let word = format!("{}-{purpose}", subject.word());
        let name = format!("{word}.example.com");
        let names = [1, 2].map(|number| format!("{word}-node{number}.example.com")).to_vec();
        let mut cluster = Self {
            subject,
            nodes: Vec::new(),
            name,
            names,
            top: top.to_path_buf(),
            packages: packages.clone(),
        };
        cluster.start_node()?;
        let master = cluster.master();
        master.run(&[
            "gnt-cluster",
            "init",
            "--enabled-hypervisors=kvm",
            "--enabled-disk-templates=diskless,file",
            "--ipolicy-disk-templates=diskless,file",
            "--file-storage-dir=/srv/ganeti/file-storage",
            "--no-ssh-init",
            "--no-etc-hosts",
            "--master-netdev=br0",
            "--nic-parameters=link=br0",
            "--user-shutdown=yes",
            // Every story's instance counts, those that are down as well.
            "--ipolicy-vcpu-ratio=100",
            "--ipolicy-bounds-specs=min:memory-size=16,cpu-count=1,disk-count=0,disk-size=1,nic-count=0,spindle-use=1/max:memory-size=8192,cpu-count=8,disk-count=16,disk-size=1048576,nic-count=8,spindle-use=12",
            &format!("--hypervisor-parameters={PARAMETERS}"),
            &cluster.name,
        ])?;
        Ok(cluster)
    }

    fn start_node(&mut self) -> Result<()> {
        let node = Node::new(&self.top, &self.name, &self.names, self.nodes.len())?;
        if self.subject == Subject::Ours {
            node.install(&[&self.packages.daemon, &self.packages.why])?;
        }
        self.nodes.push(node);
        Ok(())
    }

    /// Reports progress.
    pub(crate) fn say(&self, text: &str) {
        say(self.subject, text);
    }

    /// The directory that the nodes are built in: not on any of them.
    pub(crate) fn directory(&self) -> &Path {
        &self.top
    }

    pub(crate) fn master(&self) -> &Node {
        &self.nodes[0]
    }

    /// Has a command of Ganeti's run on the master.
    pub(crate) fn run(&self, words: &[&str]) -> Result<String> {
        self.master().run(words)
    }

    /// Makes instances on the first node, and starts them.
    pub(crate) fn add(&self, instances: &[(&str, Shape)]) -> Result<()> {
        let entries: Vec<String> =
            instances.iter().map(|(name, shape)| self.definition(name, shape)).collect();
        for (name, _) in instances {
            for node in &self.nodes {
                node.make_floppy(name)?;
            }
        }
        let file = "/root/instances.json";
        fs::write(self.master().path(file), format!("[{}]", entries.join(",")))
            .map_err(|error| Failed(format!("writing {file}: {error}")))?;
        self.run(&["gnt-instance", "batch-create", file]).map(drop)
    }

    /// Adds the second node.
    pub(crate) fn add_node(&mut self) -> Result<()> {
        self.start_node()?;
        let [first, second] = &self.nodes[..] else { unreachable!("there were two nodes before") };
        let pid = second.pid().to_string();
        let cable =
            ["link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &pid];
        first.run(&[&["ip"], &cable[..]].concat())?;
        for node in [first, second] {
            node.run(&["ip", "link", "set", "cable", "master", "br0", "up"])?;
        }
        // Their disks have to be on every node.
        for (name, _) in self.list()? {
            second.make_floppy(&name)?;
        }
        self.run(&["gnt-node", "add", "--no-ssh-key-check", &second.name]).map(drop)
    }

    /// Has Ganeti's own QA play a test, from a mount namespace in which the node's processes do not
    /// see it.
    pub(crate) fn qa(&self, instance: &str, test: &str) -> Result<()> {
        let words = ["unshare", "--mount", "/usr/bin/python3", "/root/qa.py"];
        let master = self.master();
        let arguments = [self.name.as_str(), &master.name, instance, test];
        master.run(&[words, arguments].concat()).map(drop)
    }

    /// The daemon's package with a later version.
    pub(crate) fn later_package(&self) -> Result<PathBuf> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/later-version");
        let later = self.top.join(format!("{}-later.deb", self.name));
        let made = Command::new(script).args([&self.packages.daemon, &later]).status();
        if made.is_ok_and(|status| status.success()) {
            Ok(later)
        } else {
            Err(Failed(format!("{script} failed")))
        }
    }

    fn definition(&self, name: &str, shape: &Shape) -> String {
        let mut parameters = format!(r#""floppy_image_path":"{}""#, floppy(name));
        for (key, value) in shape.parameters {
            let value = match *value {
                "true" | "false" => (*value).to_string(),
                text => format!("\"{text}\""),
            };
            let _ = write!(parameters, ",\"{key}\":{value}");
        }
        let (template, disks) =
            if shape.on_file { ("file", r#"{"size":4}"#) } else { ("diskless", "") };
        let memory = if shape.memory == 0 { 32 } else { shape.memory };
        format!(
            r#"{{"instance_name":"{name}","mode":"create","disk_template":"{template}",
            "disks":[{disks}],"nics":[],"pnode":"{}","os_type":"noop","hypervisor":"kvm",
            "hvparams":{{{parameters}}},"beparams":{{"memory":{memory},"vcpus":1}},
            "name_check":false,"ip_check":false,"start":true}}"#,
            self.master().name
        )
    }

    /// What `gnt-instance list` says of an instance: status, admin state, and whose the latter is.
    pub(crate) fn list(&self) -> Result<Vec<(String, String)>> {
        let fields = "name,status,admin_state,admin_state_source";
        let text =
            self.run(&["gnt-instance", "list", "--no-headers", "--separator= ", "-o", fields])?;
        let split = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_string(), b.to_string()));
        Ok(text.lines().filter_map(split).collect())
    }

    /// Whether the daemon on each node is the one that is meant to be tested. One that does not run is
    /// another matter.
    pub(crate) fn has_the_right_daemon(&self) -> Result<()> {
        let program = match self.subject {
            Subject::Ours => Some(node::our_daemon(&self.top)),
            Subject::Theirs => testbed::original(),
        };
        let program = program.ok_or_else(|| Failed("there is no original".into()))?;
        let mut running = self.nodes.iter().filter_map(|node| node.daemon(KVMD));
        running.try_for_each(|pid| Node::runs(pid, &program))
    }

    /// Has the watcher come by.
    pub(crate) fn watcher(&self) -> Result<()> {
        self.run(&["ganeti-watcher", "-d", "--ignore-pause", "--wait-children"]).map(drop)
    }
}
