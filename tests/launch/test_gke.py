"""launch/gke_jobset.yaml: it parses, is consistent, and restarts as supervise.sh does."""

import re
import signal
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
TEXT = (REPO / "launch" / "gke_jobset.yaml").read_text()
yaml = pytest.importorskip("yaml", reason="needs PyYAML, which flax brings")


@pytest.fixture(scope="module")
def jobsets():
    return {document["metadata"]["name"]: document for document in yaml.safe_load_all(TEXT)}


def job(jobset):
    [replicated] = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def container(jobset):
    [only] = job(jobset)["template"]["spec"]["containers"]
    return only


def environment(jobset):
    return {entry["name"]: entry for entry in container(jobset)["env"]}


NAMES = ["frepo-scale-tpu", "frepo-scale-gpu"]


def test_there_is_one_for_each_hardware(jobsets):
    assert list(jobsets) == NAMES
    for name, jobset in jobsets.items():
        assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
        assert jobset["metadata"]["labels"] == {"hardware": name[-3:]}


def restarted():
    """The exit codes after which launch/policy.sh starts a run again."""
    each = "for c in {1..255}; do if restartable $c; then echo $c; fi; done"
    script = f'. "{REPO}/launch/policy.sh"; {each}'
    out = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    return set(map(int, out.split()))


@pytest.mark.parametrize("name", NAMES)
def test_rules_are_named_as_jobset_wants_it(jobsets, name):
    for rule in jobsets[name]["spec"]["failurePolicy"]["rules"]:
        assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])


@pytest.mark.parametrize("name", NAMES)
def test_exit_codes_are_those_of_supervise(jobsets, name):
    _, rule = job(jobsets[name])["podFailurePolicy"]["rules"]
    codes = rule["onExitCodes"]
    assert rule["action"] == "FailJob" and codes["operator"] == "NotIn"
    assert codes["containerName"] == container(jobsets[name])["name"]
    again = codes["values"]
    assert again == sorted(set(again)) and set(again) <= restarted()
    # Of the codes from 128 on, those by which a signal ends a program; none else occurs.
    ends = ["HUP", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
            "PIPE", "ALRM", "TERM"]  # fmt: skip
    assert set(again) == {42} | {128 + signal.Signals[f"SIG{end}"] for end in ends}
    assert not {1, 2, 127, 130} & set(again)


@pytest.mark.parametrize("name", NAMES)
def test_any_restart_is_of_all_pods_and_a_failure_of_none(jobsets, name):
    spec = job(jobsets[name])
    assert spec["backoffLimit"] == 0 and spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= 60
    policy = jobsets[name]["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    preempted, rule = policy["rules"]
    assert rule == {
        "name": "notAgain", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"],
    }  # fmt: skip
    # Preemptions do not use up maxRestarts. JobSet finds them by the message of the failed Job.
    assert preempted["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert preempted["onJobFailureReasons"] == ["PodFailurePolicy"]
    [pattern] = preempted["onJobFailureMessagePatterns"]
    message = "Pod ns/frepo-0 has condition DisruptionTarget matching FailJob rule at index {}"
    conditions = [r.get("onPodConditions") for r in spec["podFailurePolicy"]["rules"]]
    index = conditions.index([{"type": "DisruptionTarget", "status": "True"}])
    assert re.search(pattern, message.format(index))
    assert not re.search(pattern, message.format(index + 1))
    assert not re.search(pattern, message.format(10))


@pytest.mark.parametrize("name", NAMES)
def test_spot_machines_and_shared_memory(jobsets, name):
    pod = job(jobsets[name])["template"]["spec"]
    spot = "cloud.google.com/gke-spot"
    assert pod["nodeSelector"][spot] == "true"
    assert pod["tolerations"] == [
        {"key": spot, "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    ]
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in pod["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container(jobsets[name])["volumeMounts"]


def test_the_tpu_slice_is_whole(jobsets):
    spec = job(jobsets["frepo-scale-tpu"])
    labels = spec["template"]["spec"]["nodeSelector"]
    assert labels["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    rows, columns = map(int, labels["cloud.google.com/gke-tpu-topology"].split("x"))
    limits = container(jobsets["frepo-scale-tpu"])["resources"]["limits"]
    assert spec["parallelism"] * limits["google.com/tpu"] == rows * columns == 16
    assert environment(jobsets["frepo-scale-tpu"])["FREPO_CLUSTER"]["value"] == "auto"


def test_the_gpu_pods_find_each_other(jobsets):
    jobset = jobsets["frepo-scale-gpu"]
    name, replicated = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"][0]["name"]
    known = environment(jobset)
    host, port = known["FREPO_COORDINATOR"]["value"].split(":")
    assert host == f"{name}-{replicated}-0-0.{name}"
    assert {"containerPort": int(port)} in container(jobset)["ports"]
    assert known["FREPO_PROCESSES"]["value"] == str(job(jobset)["parallelism"])
    assert "job-completion-index" in known["FREPO_PROCESS"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert "FREPO_CLUSTER" not in known


def test_placeholders_are_documented_and_sed_replaces_each():
    head = TEXT.split("apiVersion", 1)[0]
    explained = re.findall(r"^#   ([A-Z_]+)  ", head, re.MULTILINE)
    assert sorted(explained) == sorted(
        ["IMAGE", "SERVICE_ACCOUNT", "WORKDIR", "DATA_BUCKET", "DATA_FOLDER", "RECIPE", "GPU_MODEL"]
    )
    # As the file says: without g, so a placeholder must be the first one on its line.
    edits = [f"-es|{name}|{name.lower().replace('_', '-')}-x|" for name in explained]
    filled = subprocess.run(
        ["sed", *edits], input=TEXT, capture_output=True, text=True, check=True
    ).stdout
    for jobset in yaml.safe_load_all(filled):
        pod = job(jobset)["template"]["spec"]
        assert pod["serviceAccountName"] == "service-account-x"
        assert container(jobset)["image"] == "image-x"
        assert container(jobset)["command"] == [
            "frepo-scale", "distill", "recipe-x", "--workdir", "workdir-x",
            "--gin.DATA_DIR=data-folder-x",
        ]  # fmt: skip
        volume = pod["volumes"][0]
        assert volume["csi"]["volumeAttributes"]["bucketName"] == "data-bucket-x"
        assert container(jobset)["volumeMounts"][0]["mountPath"] == "data-folder-x"
        assert pod["nodeSelector"].get("cloud.google.com/gke-accelerator", "gpu-model-x") \
            == "gpu-model-x"  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_data_are_mounted_at_the_path_in_the_command(jobsets, name):
    pod = job(jobsets[name])["template"]
    volume, mount = pod["spec"]["volumes"][0], container(jobsets[name])["volumeMounts"][0]
    assert mount["name"] == volume["name"] and mount["readOnly"] and volume["csi"]["readOnly"]
    assert f"--gin.DATA_DIR={mount['mountPath']}" in container(jobsets[name])["command"]
    # Without the annotation GKE adds no container for the driver, and the pod waits forever.
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    assert pod["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}


@pytest.mark.parametrize("name", NAMES)
def test_the_command_is_one_the_program_takes(jobsets, name):
    from frepo_scale.main import parser, split_overrides

    command = container(jobsets[name])["command"]
    rest, overrides = split_overrides(command[1:])
    options = parser().parse_args(rest)
    assert command[0] == "frepo-scale" and options.command == "distill"
    assert options.workdir == "WORKDIR" and overrides == {"DATA_DIR": "DATA_FOLDER"}
