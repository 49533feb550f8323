"""A real SLURM on this machine: munge, one controller, one node with two fake GPUs, and on demand the accounting database.

Everything lies in one folder and listens on loopback only, on ports that were free; there is no systemd and no cgroup, and
nothing outside of the folder is written. `python tests/slurm/cluster.py start FOLDER [--accounting]` and `... stop FOLDER`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
FOR_ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr", "sacct")
PACKAGES = "munge slurm-wlm slurmdbd mariadb-server"
CPUS, GPUS = 4, 2
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONFIG = """
ClusterName=tycho
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A job that was requeued waits for its old credential to expire: two minutes, unless told otherwise.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
# Without cgroups it is the accountant who ends jobs over their memory. He looks every second.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SchedulerParameters=sched_min_interval=0,bf_interval=5,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
KillWait=3
GresTypes=gpu
# More cores than there are: the jobs of these tests mostly sleep.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory={memory} Gres=gpu:fake:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""
WITHOUT_ACCOUNTING = """
AccountingStorageType=accounting_storage/none
MinJobAge=86400
"""
WITH_ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations
AccountingStoreFlags=job_comment
MinJobAge=300
"""
ACCOUNTANT = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mysql}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""


def lacking(accounting: bool = False) -> list[str]:
    """The programs that are not installed."""
    wanted = NEEDED + (FOR_ACCOUNTING if accounting else ())
    return [name for name in wanted if shutil.which(name, path=SEARCH) is None]


@dataclass
class Cluster:
    folder: Path
    accounting: bool = False

    @property
    def env(self) -> dict[str, str]:
        """For whoever talks to this cluster. `bin` holds an srun that knows the config file: the executor's job step takes
        SLURM_CONF, with all other SLURM variables, out of the environment of the srun within a job."""
        return os.environ | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": os.pathsep.join([str(self.folder / "bin"), SEARCH]),
        }

    def run(self, *words: str, check: bool = True) -> str:
        """Output of a SLURM command."""
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def jobs(self) -> list[dict[str, str]]:
        """Every job the controller remembers, as id, state and comment."""
        lines = self.run("squeue", "--states=all", "--noheader", "--format=%i|%T|%k").splitlines()
        return [dict(zip(("id", "state", "comment"), line.split("|", 2), strict=True)) for line in lines]

    def start(self) -> None:
        """Starts the daemons and waits until the node is idle.

        Raises:
            RuntimeError: something is not installed, or does not come up; the end of its log is in the message.
        """
        if missing := lacking(self.accounting):
            raise RuntimeError(f"not installed: {', '.join(missing)}; on Debian: apt-get install {PACKAGES}")
        for part in ("state", "spool", "bin"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # munge wants its socket reachable
        names = ("ctld", "slurmd", "dbd", "mysql")
        given = dict(zip(names, map(str, free_ports(len(names))), strict=True))
        given |= {"folder": str(self.folder), "host": socket.gethostname().split(".")[0], "user": user()}
        given |= {"cpus": str(CPUS), "gpus": str(GPUS), "memory": str(memory_mb())}
        self._write(
            "slurm.conf", (CONFIG + (WITH_ACCOUNTING if self.accounting else WITHOUT_ACCOUNTING)).format(**given)
        )
        # /dev/null and /dev/zero stand in for GPUs: SLURM counts device files and hands out their numbers.
        self._write("gres.conf", "".join(f"Name=gpu Type=fake File={file}\n" for file in ("/dev/null", "/dev/zero")))
        self._write("bin/srun", f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {which("srun")} "$@"\n', 0o755)
        self._write("munge.key", os.urandom(128), 0o400)
        self._munge()
        if self.accounting:
            self._accounting(given)
        for daemon in (["slurmctld"], ["slurmd", "-N", given["host"]]):
            subprocess.run([which(daemon[0]), "-f", self.folder / "slurm.conf", *daemon[1:]], env=self.env, check=True)
        self._wait("slurmctld", lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T", check=False))
        if self.accounting:
            self.run("sacctmgr", "-i", "add", "account", "lab", "Description=lab", "Organization=lab")
            self.run("sacctmgr", "-i", "add", "user", user(), "Account=lab", "DefaultAccount=lab")

    def stop(self) -> None:
        """Ends the jobs, and the daemons that this folder's pid files name, in the order in which they lean on each other."""
        if (self.folder / "slurmctld.pid").exists():
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                self.run("scancel", "--user", user())
        for name in ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged"):
            end(self.folder / f"{name}.pid")

    def _munge(self) -> None:
        places = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
        words = [f"--{name}={self.folder / place}" for name, place in (places | {"seed-file": "munged.seed"}).items()]
        subprocess.run([which("munged"), "--num-threads=1", "--force", *words], check=True, capture_output=True)

    def _accounting(self, given: dict[str, str]) -> None:
        data, socket_ = self.folder / "mysql", self.folder / "mysql.sock"
        plain = ["--no-defaults", f"--user={user()}", f"--datadir={data}"]
        install = [which("mariadb-install-db"), *plain, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install, check=True, capture_output=True)
        with (self.folder / "mariadbd.log").open("wb") as log:
            server = [
                which("mariadbd"),
                *plain,
                f"--socket={socket_}",
                f"--port={given['mysql']}",
                "--bind-address=127.0.0.1",
            ]
            more = [
                f"--pid-file={self.folder / 'mariadbd.pid'}",
                "--innodb-buffer-pool-size=64M",
                "--innodb-lock-wait-timeout=900",
            ]
            subprocess.Popen([*server, *more], stdout=log, stderr=log, start_new_session=True)
        client = [which("mariadb"), "--no-defaults", "--user=root", f"--socket={socket_}"]
        self._wait("mariadbd", lambda: subprocess.run([*client, "-e", "select 1"], capture_output=True).returncode == 0)
        allowed = "grant all on slurm_acct_db.* to slurm@'{0}' identified by 'slurm';"
        grants = "".join(allowed.format(place) for place in ("127.0.0.1", "localhost"))
        subprocess.run([*client, "-e", grants], check=True, capture_output=True)
        self._write("slurmdbd.conf", ACCOUNTANT.format(**given), 0o600)
        subprocess.run([which("slurmdbd")], env=self.env, check=True)
        self._wait("slurmdbd", lambda: answers(int(given["dbd"])))

    def _wait(self, daemon: str, ready, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                log = self.folder / f"{daemon}.log"
                tail = log.read_text(errors="replace")[-2000:] if log.exists() else "it left no log"
                raise RuntimeError(f"{daemon} did not come up within {seconds:.0f} s:\n{tail}")
            time.sleep(0.2)

    def _write(self, name: str, content: str | bytes, mode: int = 0o644) -> None:
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)


def which(program: str) -> str:
    return shutil.which(program, path=SEARCH) or program


def user() -> str:
    import getpass

    return getpass.getuser()


def memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def end(pid_file: Path, seconds: float = 10) -> None:
    """Ends the process a pid file names; one that does not listen is killed (slurmd without its controller is deaf)."""
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
    except (OSError, ValueError):  # no such file or process
        pass


if __name__ == "__main__":
    cluster = Cluster(Path(sys.argv[2]).resolve(), accounting="--accounting" in sys.argv)
    if sys.argv[1] == "stop":
        cluster.stop()
    else:
        cluster.start()
        shown = {name: cluster.env[name] for name in ("SLURM_CONF", "PATH")}
        print("\n".join(f"export {name}={value!r}" for name, value in shown.items()))
