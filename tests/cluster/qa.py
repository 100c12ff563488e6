#!/usr/bin/python3
"""Runs one test of Ganeti's own QA, as it is, on a cluster that is there already.

Usage: qa.py CLUSTER NODE INSTANCE TEST, where NODE is the master and TEST a function of Ganeti's
QA (MODULE.FUNCTION, with the instance as its argument if it takes one). It talks to the node by
ssh, and must not be seen by it: QA kills processes whose command line has a text that its own has,
too.
"""

import inspect
import json
import sys
import tempfile

TESTSUITE = "/usr/share/ganeti/testsuite"
sys.path[:0] = [TESTSUITE, TESTSUITE + "/qa", "/usr/share/ganeti/default"]

from qa import qa_cluster, qa_config, qa_daemon, qa_instance  # noqa: E402


def main():
  (cluster, node, name, test) = sys.argv[1:]
  config = {
    "name": cluster,
    "nodes": [{"primary": node}],
    "instances": [{"name": name}],
    "disks": [{"size": "1M", "growth": "1M"}],
    "enabled-hypervisors": "kvm",
    "enabled-disk-templates": ["diskless", "file"],
  }
  with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    json.dump(config, file)
    file.flush()
    qa_config.Load(file.name)
  instance = qa_config.AcquireInstance()
  instance.SetDiskTemplate("diskless")
  (module, function) = test.split(".")
  modules = {
    "qa_cluster": qa_cluster,
    "qa_daemon": qa_daemon,
    "qa_instance": qa_instance,
  }
  function = getattr(modules[module], function)
  takes_instance = bool(inspect.signature(function).parameters)
  function(*([instance] if takes_instance else []))


if __name__ == "__main__":
  main()
