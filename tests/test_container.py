"""The worker's image and its place on Kubernetes, as far as they can be judged without building them."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "deployments" / "Dockerfile"
MANIFESTS = sorted((ROOT / "deployments" / "kubernetes").glob("*.yaml"))


def test_the_dockerfile_is_clean() -> None:
    """hadolint has nothing to say, not even a hint."""
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_image_copies_is_there_and_reaches_the_build() -> None:
    """`.dockerignore` leaves everything out that it does not name."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:].removesuffix("/**") for line in ignored if line.startswith("!")}
    copied = {
        word
        for words in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
        for word in words.split()[:-1]
        if not word.startswith("--")
    }

    assert copied and copied <= let_in
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_runs_as_nobody_and_holds_no_torch() -> None:
    """What trains is Azure's business."""
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = [*project["dependencies"], *project["optional-dependencies"]["azure"]]

    assert lines[-1].startswith("ENTRYPOINT [") and "USER 10001" in lines
    assert "'.[azure]'" in "\n".join(lines)
    assert not [name for name in installed if name.startswith(("torch", "transformers"))]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_fits_kubernetes_own_schema(manifest: Path) -> None:
    """Every resource, with no field that Kubernetes does not know."""
    validator = Path(sys.executable).parent / "kubernetes-validate"
    done = subprocess.run([validator, "--strict", manifest], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_worker_on_kubernetes_has_no_rights_and_time_to_end() -> None:
    """The user of the image, a root that cannot be written, and longer than a guard needs."""
    resources = {one["kind"]: one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text("utf-8"))}
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    rights = worker["securityContext"]

    assert pod["securityContext"]["runAsUser"] == 10001
    assert rights["readOnlyRootFilesystem"] and not rights["allowPrivilegeEscalation"]
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert not [name for name in resources["ConfigMap"]["data"] if re.search("SECRET|KEY|TOKEN|PASSWORD", name)]
