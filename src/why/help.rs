//! What `--help` prints.

pub(super) const HELP: &str = "\
Why did this virtual machine die, and whose doing was it?

Usage: kvmd-why [OPTION...] [INSTANCE]

Without arguments it prints a table of the latest ends on this node. With the
name of an instance it explains the last end of that one, with the evidence.

  -a, --all            Every end on record, as a table; with a name, every end
                       of that instance
  -s, --since=WHEN     Only ends since then: how long ago (\"2h\", \"3 days\"), a
                       day (2026-11-20) or a time (\"2026-11-20 03:00\"), in UTC
  -c, --cause=CAUSE    Only ends with this cause (killed, crashed, host-signal,
                       out-of-memory, guest-shutdown, ...) or with this initiator
                       (user, admin, crash, unknown)
      --summary        Count the ends by cause, initiator, node, instance and
                       sender of the signal, and say first what is unusual
  -j, --json           Print the records themselves, one JSON object per line
      --html=FILE      Make a page for a browser of the ends: a timeline, filters,
                       and the story of each; '-' is standard output
  -f, --follow         Keep running, and print further ends as they happen
      --exec=COMMAND   With --follow: run this with /bin/sh for each further end,
                       with its record on stdin, and KVMD_NAME, KVMD_CAUSE and
                       others in the environment
      --exec-jobs=N    Run at most N at once [4]; up to 1000 more wait
      --exec-timeout=SECONDS
                       How long one may take [60]
      --file=[NODE=]PATH
                       Read this file instead of the node's records; can be
                       given for several, whose ends are merged by time. '-' is
                       standard input, where 'NODE: ' may be before each line
      --color=WHEN     'auto' (on a terminal), 'always' or 'never' [auto]
  -h, --help           Print this help
  -V, --version        Print the version

Examples:
  kvmd-why web1                        why is web1 gone?
  kvmd-why --since=1d --cause=crash    what has broken since yesterday?
  kvmd-why --all --json | jq -r .cause | sort | uniq -c
  gnt-cluster command -M kvmd-why --json --all --since=7d |
    kvmd-why --file=- --summary        what has happened on the whole cluster?
  kvmd-why --since=30d --html=ends.html

The records are in /var/log/ganeti/kvm-exits.jsonl (below GANETI_ROOTDIR, where
that is set) and in the rotated files next to it, including .gz. ganeti-kvmd
writes them; this program only needs permission to read them.

Exit status: 0 if there is an answer, 1 if there is none, 2 for a bad command line,
3 if there is an answer, but a source or a node could not be read.
";
