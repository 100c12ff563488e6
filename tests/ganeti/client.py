#!/usr/bin/python3
"""Ganeti's own code as the daemon's client, without a cluster.

Usage: client.py COMMAND INSTANCE [KEY=VALUE...]

COMMAND is one of
  start     KVMHypervisor().StartInstance, from the boot sector in image=PATH, or with
            kernel=PATH initrd=PATH append=TEXT
  info      KVMHypervisor().GetInstanceInfo: prints RUNNING, SHUTDOWN or GONE
  shutdown  backend.InstanceShutdown, with timeout=SECONDS
  reboot    KVMHypervisor().RebootInstance
  migrated  KVMHypervisor().FinalizeMigrationSource, success=yes|no
  ensure    backend.EnsureDaemon for ganeti-kvmd, run=yes|no
  alive     utils.IsDaemonAlive for ganeti-kvmd: prints yes or no

Other keys set hypervisor parameters (acpi=no, reboot_behavior=exit). It must run in a mount
namespace in which Ganeti's directories are the test's own.
"""

import glob
import os
import sys
import uuid

sys.path.insert(0, sorted(glob.glob("/usr/share/ganeti/[0-9].*"))[-1])

from ganeti import backend, constants, errors, objects, utils  # noqa: E402
from ganeti.hypervisor import hv_kvm  # noqa: E402


class Hypervisor(hv_kvm.KVMHypervisor):
  """Ganeti's, told of nothing but where QEMU is."""


def MakeInstance(name, settings):
  hvparams = dict(constants.HVC_DEFAULTS[constants.HT_KVM])
  hvparams.update({
    constants.HV_KVM_PATH: settings.pop("kvm", "/usr/bin/qemu-system-x86_64"),
    constants.HV_KVM_FLAG: constants.HT_KVM_DISABLED,
    constants.HV_VNC_BIND_ADDRESS: "",
    constants.HV_KERNEL_PATH: settings.pop("kernel", ""),
    constants.HV_INITRD_PATH: settings.pop("initrd", ""),
    constants.HV_KERNEL_ARGS: settings.pop("append", ""),
    constants.HV_DISK_TYPE: constants.HT_DISK_PARAVIRTUAL,
    constants.HV_KVM_USER_SHUTDOWN: True,
    constants.HV_MIGRATION_MODE: constants.HT_MIGRATION_LIVE,
  })
  settings.pop("image", None)
  extra = settings.pop("extra", "")
  if extra:
    hvparams[constants.HV_KVM_EXTRA] = extra
  memory = int(settings.pop("memory", "16"))
  for key, value in settings.items():
    hvparams[key] = {"yes": True, "no": False}.get(value, value)
  return objects.Instance(
    name=name,
    uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
    primary_node="node1",
    hypervisor=constants.HT_KVM,
    hvparams=hvparams,
    beparams={
      constants.BE_MAXMEM: memory,
      constants.BE_MINMEM: memory,
      constants.BE_MEMORY: memory,
      constants.BE_VCPUS: 1,
      constants.BE_SPINDLE_USE: 1,
    },
    osparams={},
    admin_state=constants.ADMINST_UP,
    nics=[],
    disks=[],
    disks_info=[],
    disk_template=constants.DT_DISKLESS,
    os="none",
    network_port=None,
  )


def MakeDisks(settings):
  image = settings.get("image")
  if not image:
    return []
  disk = objects.Disk(
    dev_type=constants.DT_FILE,
    logical_id=(constants.FD_DEFAULT, image),
    mode=constants.DISK_RDWR,
    size=1,
    iv_name="disk/0",
    uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, image)),
    params={},
    children=[],
  )
  return [(disk, image, None)]


def Info(hypervisor, name):
  info = hypervisor.GetInstanceInfo(name)
  if info is None:
    return "GONE"
  return {
    hv_kvm.hv_base.HvInstanceState.RUNNING: "RUNNING",
    hv_kvm.hv_base.HvInstanceState.SHUTDOWN: "SHUTDOWN",
  }[info[4]]


def main():
  command, name = sys.argv[1:3]
  settings = dict(word.split("=", 1) for word in sys.argv[3:])
  if command == "alive":
    print("yes" if utils.IsDaemonAlive(constants.KVMD) else "no")
    return
  if command == "ensure":
    backend.EnsureDaemon(constants.KVMD, settings["run"] == "yes")
    return
  hypervisor = Hypervisor()
  if command == "info":
    print(Info(hypervisor, name))
  elif command == "start":
    disks = MakeDisks(settings)
    hypervisor.StartInstance(MakeInstance(name, settings), disks, False)
  elif command == "shutdown":
    timeout = int(settings.pop("timeout"))
    backend.InstanceShutdown(MakeInstance(name, settings), timeout, [], store_reason=False)
  elif command == "reboot":
    hypervisor.RebootInstance(MakeInstance(name, settings))
  elif command == "migrated":
    success = settings.pop("success") == "yes"
    hypervisor.FinalizeMigrationSource(MakeInstance(name, settings), success, True)
  else:
    sys.exit("unknown command %r" % command)


if __name__ == "__main__":
  try:
    main()
  except (errors.GenericError, backend.RPCFail) as err:
    sys.exit("%s: %s" % (type(err).__name__, err))
