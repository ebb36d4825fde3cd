"""Replaces gcloud: TPU pods are folders under $FAKE_CLOUD, their workers' homes folders in these.

Commands sent to a worker run here, as processes with that home. It takes the flags that gcloud's
reference lists for each command, and refuses others. A request is granted at the second poll, and a
machine under repair is ready at the second poll. A file "flaky GROUP VERB" has the number of calls
that fail next; while there is a file "silent GROUP VERB", all of them fail.
$FAKE_WORKERS: how many a pod has. $FAKE_REPO: whose .venv every new worker finds ready.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

CLOUD = Path(os.environ["FAKE_CLOUD"])
COMMON = {"zone", "project", "quiet", "format"}
FLAGS = {
    ("queued-resources", "create"): {"node-id", "accelerator-type", "runtime-version", "spot",
                                     "valid-until-duration", "async", "network", "subnetwork",
                                     "service-account", "internal-ips"},
    ("queued-resources", "describe"): set(),
    ("queued-resources", "delete"): {"force", "async"},
    ("tpu-vm", "describe"): set(),
    ("tpu-vm", "delete"): {"async"},
    ("tpu-vm", "ssh"): {"worker", "command", "ssh-flag", "internal-ip"},
    ("tpu-vm", "scp"): {"worker", "scp-flag", "internal-ip"},
}  # fmt: skip
ALPHA = {"provisioning-model", "max-run-duration", "tunnel-through-iap"}


def fail(words: str) -> None:
    print(f"ERROR: (gcloud) {words}", file=sys.stderr)
    sys.exit(1)


def bucket(url: str) -> Path:
    return CLOUD / "buckets" / url.removeprefix("gs://")


def storage(words: list[str]) -> None:
    words = [word for word in words if word != "--quiet"]
    if words[:2] == ["cp", "-"]:
        if (CLOUD / "read-only").exists():
            fail("HTTPError 403: the account does not have storage.objects.create access")
        bucket(words[2]).parent.mkdir(parents=True, exist_ok=True)
        bucket(words[2]).write_text(sys.stdin.read())
    elif words[:2] == ["buckets", "describe"]:
        if (CLOUD / "no description").exists():
            fail("HTTPError 403: the account does not have storage.buckets.get access")
    elif words[0] == "rm":
        bucket(words[1]).unlink()
    elif words[0] == "cp" and words[1].startswith("gs://"):
        if not bucket(words[1]).exists():
            fail(f"The following URLs matched no objects or files: {words[1]}")
        shutil.copy(bucket(words[1]), words[2])
    elif words[0] == "cp":
        target = bucket(words[-1])
        assert words[-1].endswith("/")
        target.mkdir(parents=True, exist_ok=True)
        for source in words[1:-1]:
            shutil.copy(source, target)
    else:
        fail(f"storage {words}")


def make_machines(name: str) -> None:
    repo = Path(os.environ["FAKE_REPO"])
    for number in range(int(os.environ.get("FAKE_WORKERS", "2"))):
        code = CLOUD / "vms" / name / str(number) / "frepo_scale" / "code"
        shutil.copytree(repo / ".venv", code / ".venv", symlinks=True)
        digest = hashlib.sha256((repo / "pyproject.toml").read_bytes()).hexdigest()
        for kind in ("base", "tpu"):
            (code / ".venv" / f"installed-{kind}").write_text(f"{digest} {code}/pyproject.toml\n")
    (CLOUD / "vms" / name / "state").write_text("READY")


def on_workers(name: str, which: str) -> list[Path]:
    pod = CLOUD / "vms" / name
    if (pod / "state").read_text() != "READY":
        fail("Failed to connect: the TPU is not READY")
    homes = sorted((p for p in pod.iterdir() if p.is_dir()), key=lambda p: int(p.name))
    return homes if which == "all" else [homes[int(which)]]


def ssh(name: str, which: str, command: str) -> None:
    running = []
    if "tpu_worker.sh prepare" in command and (CLOUD / "slow installation").exists():
        time.sleep(600)
    for home in on_workers(name, which):
        kept = {n: v for n, v in os.environ.items() if n.startswith("FAKE_") or n == "PATH"}
        kept |= {"HOME": str(home), "TPU_WORKER_ID": home.name, "FAKE_WORKER": home.name}
        if "FAKE_COORDINATOR" in os.environ:  # for a program that does not detect a TPU pod
            kept["FREPO_COORDINATOR"] = os.environ["FAKE_COORDINATOR"]
            kept["FREPO_PROCESSES"] = os.environ.get("FAKE_WORKERS", "2")
            kept["FREPO_PROCESS"] = home.name
        running.append(
            subprocess.Popen(
                ["bash", "-c", command],
                cwd=home,
                env=kept,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
        )
    for process in running:
        out, _ = process.communicate()
        sys.stdout.buffer.write(out)
    sys.stdout.flush()
    if any(process.returncode for process in running):
        fail("the command failed on a worker")


def main() -> None:
    words = sys.argv[1:]
    with open(CLOUD / "calls", "a") as log:
        log.write(json.dumps(words) + "\n")
    if words[0] == "storage":
        return storage(words[1:])
    if words[:2] == ["auth", "list"]:
        return None if (CLOUD / "logged out").exists() else print("me@example.com")
    alpha = words[0] == "alpha"
    _, tpus, group, verb, *rest = words[alpha:]
    assert tpus == "tpus"
    flags = {}
    plain = []
    for word in rest:
        if word.startswith("--"):
            flag, _, value = word[2:].partition("=")
            if flag not in FLAGS[group, verb] | COMMON | (ALPHA if alpha else set()):
                fail(f"unrecognized arguments: {word}")
            flags[flag] = value
        else:
            plain.append(word)
    assert flags["zone"] and flags["project"] and "quiet" in flags, words
    name = plain[-1].partition(":")[0]
    queued, pod = CLOUD / "queued" / name, CLOUD / "vms" / name
    if os.environ.get("FAKE_BROKEN") == f"{group} {verb}":
        fail("PERMISSION_DENIED")
    flaky = CLOUD / f"flaky {group} {verb}"
    if flaky.exists() and (left := int(flaky.read_text())):
        flaky.write_text(str(left - 1))
        fail("503: Service Unavailable")
    if (CLOUD / f"silent {group} {verb}").exists():
        fail("503: Service Unavailable")
    if (group, verb) == ("queued-resources", "create"):
        if queued.exists():
            fail("ALREADY_EXISTS")
        queued.parent.mkdir(exist_ok=True)
        queued.write_text("ACCEPTED")
        return None
    if not (queued if group == "queued-resources" else pod).exists():
        fail(f"NOT_FOUND: Resource '{name}' was not found")
    if (group, verb) == ("queued-resources", "describe"):
        state = queued.read_text()
        print(state)
        following = {"ACCEPTED": "PROVISIONING", "PROVISIONING": "ACTIVE"}.get(state, state)
        if (CLOUD / "sold out").exists():
            following = "FAILED"
        if following == "ACTIVE" and not pod.exists():
            make_machines(name)
        queued.write_text(following)
    elif verb == "delete":
        if group == "queued-resources":
            queued.unlink()
        shutil.rmtree(pod, ignore_errors=True)
    elif verb == "describe":
        state = (pod / "state").read_text()
        print(state)
        if state == "REPAIRING":
            (pod / "state").write_text("READY")
    elif verb == "scp":
        for home in on_workers(name, flags["worker"]):
            shutil.copy(plain[0], home / plain[1].partition(":")[2])
    elif verb == "ssh":
        ssh(name, flags["worker"], flags["command"])


main()
