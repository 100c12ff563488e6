#!/usr/bin/python3
"""Ganeti's own `gnt-cluster command`, without a cluster: what a command prints on several nodes.

Usage: gnt_cluster.py ROOTS [-M] [--failure-only] COMMAND...

Each directory in ROOTS is a node. Where Ganeti would run COMMAND with ssh it is run here, with the node's
directory as GANETI_ROOTDIR. Everything else, above all what is printed, is Ganeti's (`RunClusterCommand`).
"""

import glob
import os
import sys

sys.path.insert(0, sorted(glob.glob("/usr/share/ganeti/[0-9].*"))[-1])

from ganeti import utils  # noqa: E402
from ganeti.client import gnt_cluster  # noqa: E402

ROOTS = sys.argv.pop(1)
NODES = sorted(os.listdir(ROOTS))


class Client:
  def QueryConfigValues(self, fields):
    return ["cluster.example.com", NODES[0]]


class Runner:
  """In the place of ssh."""

  def __init__(self, **kwargs):
    pass

  def Run(self, node, user, command, **kwargs):
    root = os.path.join(ROOTS, node)
    return utils.RunCmd(["sh", "-c", command], env={"GANETI_ROOTDIR": root})


gnt_cluster.GetClient = Client
gnt_cluster.GetOnlineNodes = lambda nodes, **kwargs: list(NODES)
gnt_cluster.GetNodesSshPorts = lambda nodes, client: [22] * len(nodes)
gnt_cluster.ssh.SshRunner = Runner

sys.argv[1:1] = ["command"]
sys.exit(gnt_cluster.Main())
