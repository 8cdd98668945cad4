"""Logging of finished run directories to Weights & Biases.

Lightning's ``WandbLogger`` is not used: it logs during training, while here all results are in the run directory
when the Trainer is done. So the same command can also log a run later.
"""

import base64
import hashlib
import importlib.util
import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import yaml
from PIL import Image
from torch import Tensor

from harness.data.datamodule import Sample
from harness.engine.overlay import save_indexed
from harness.engine.result_images import ResultImages
from harness.method.method import SegmentationMethod
from harness.results.records import RECORDS, Record, read_lines
from harness.results.run_directory import CONFIG, IMAGES, RESULTS
from harness.system import atomic, distributed
from harness.system.errors import ConfigurationError, RunError

if TYPE_CHECKING:
    import wandb

NOTE = "wandb.json"
IMAGE_FOLDER = "wandb_images"
CLIENT_FOLDER = "wandb"  # the folder that W&B's client writes
SCORES = ("miou", "pixel_accuracy", "mean_accuracy", "per_image_miou", "num_images", "skipped", "seconds")
PARTS = ("image", "prediction", "ground_truth")
# Other ranks wait for rank 0 during the upload, so this is half of NCCL's timeout.
UPLOAD_SECONDS = 900
CONNECT_SECONDS = 30


@dataclass(frozen=True)
class Wandb:
    """Settings of Weights & Biases; a null setting falls back to its ``WANDB_*`` variable.

    Args:
        project: The project (default: ovseg).
        entity: The user or team (default: that of the API key).
        group: Group of the run (default: none; in a study, its title).
        name: The run's name (default: that of the run directory).
        tags: Tags of the run.
        images: Number of first images of the data set to log, the same ones in every run.
    """

    project: str | None = None
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: Sequence[str] | None = None
    images: int = 8

    def __post_init__(self) -> None:
        if self.images < 0:
            raise ConfigurationError(f"wandb.images must be at least 0, not {self.images}")


def wanted(logger: str | None) -> bool:
    """Whether to log a run: on request, or if W&B's agent started it and needs its results.

    Raises:
        ConfigurationError: W&B's client is not installed.
    """
    if logger is None and "WANDB_SWEEP_ID" not in os.environ:
        return False
    if importlib.util.find_spec("wandb") is None:
        raise ConfigurationError("--logger wandb needs the package wandb: pip install wandb")
    return True


@dataclass(frozen=True)
class LoggedImages(ResultImages):
    """Also saves the first images for W&B: image, prediction and ground truth, each a PNG.

    Attributes:
        logged: Number of images.
    """

    logged: int = 0

    def save(self, folder: Path, method: SegmentationMethod, sample: Sample, predicted: Tensor) -> None:
        """Write the requested files of one image below ``folder``."""
        super().save(folder, method, sample, predicted)
        if sample.number >= self.logged:
            return
        size = (sample.original.shape[2], sample.original.shape[1])
        maps = {"prediction": predicted, "ground_truth": sample.labels}
        for part, labels in maps.items():
            if labels is not None:
                # W&B requires masks of the image's size.
                stretched = cv2.resize(labels.cpu().numpy(), size, interpolation=cv2.INTER_NEAREST)
                save_indexed(_image_path(folder, sample.number, part), stretched, method.vocabulary)
        Image.fromarray(sample.original.permute(1, 2, 0).cpu().numpy()).save(
            _image_path(folder, sample.number, "image")
        )


def _image_path(folder: Path, number: int, part: str) -> Path:
    return folder / IMAGE_FOLDER / f"{number:06d}_{part}.png"


def report(directory: Path, settings: Wandb, is_node_main: bool) -> None:
    """Log a finished run; called by every rank; only rank 0 talks to W&B and prints where the run is.

    Images lie on the nodes that predicted them, which need not share a file system, so they are sent to rank 0 first.
    A run that is already logged is not logged again.

    Args:
        directory: The run directory, with its results.
        settings: Settings of W&B.
        is_node_main: Whether this process is the first one of its node.

    Raises:
        RunError: On every rank: logging failed; the results are unaffected.
    """
    gather_images(directory, settings.images, is_node_main)

    def log() -> str | None:
        try:
            return _log(directory, settings)
        except Exception as error:  # the other ranks wait, and whatever it is, the results are safe
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RunError(
                f"the results are in {directory}, but logging to W&B failed ({reason}); run the same command again"
            ) from error

    location = distributed.run_and_sync_errors(log if distributed.rank() == 0 else None)
    if location is not None:
        print(location, flush=True)


def gather_images(directory: Path, count: int, is_node_main: bool) -> None:
    """Copy the logged images of all nodes into rank 0's run directory."""
    here = [
        path for number in range(count) for part in PARTS if (path := _image_path(directory, number, part)).is_file()
    ]
    known = set(distributed.broadcast([path.name for path in here]))
    missing = [path for path in here if path.name not in known] if is_node_main else []
    sent = distributed.gather({path.name: base64.b64encode(path.read_bytes()).decode() for path in missing})
    if distributed.rank() == 0:
        for name, content in (pair for found in sent for pair in found.items()):
            atomic.write_bytes(directory / IMAGE_FOLDER / name, base64.b64decode(content))


def _log(directory: Path, settings: Wandb) -> str | None:
    import wandb

    mode = client_mode()
    if mode == "disabled":
        return None
    note = _read_note(directory)
    digest = hashlib.sha256((directory / RESULTS).read_bytes()).hexdigest()
    if note.get("logged") == [mode, digest]:
        return None
    try:
        run = _init_run(directory, settings, note["id"], mode)
    except wandb.errors.Error as error:
        if mode == "offline":
            raise
        print(f"W&B: no connection ({' '.join(str(error).split())}), so the run is logged offline", flush=True)
        mode = "offline"
        # The client still reserves the id for the failed run.
        wandb.teardown()
        run = _init_run(directory, settings, note["id"], mode)
    where = f"wandb sync {Path(run.settings.sync_dir)}" if mode == "offline" else run.url
    try:
        _log_results(run, directory, settings)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
    atomic.write_json(directory / NOTE, {**note, "logged": [mode, digest]})
    return f"W&B: {where}"


def client_mode() -> str:
    """The client's mode; offline without a key, since a job must not prompt for one."""
    import wandb
    from wandb.sdk.lib.wbauth import read_netrc_auth

    mode = os.environ.get("WANDB_MODE", "online")
    if mode not in ("online", "run", "shared"):
        return "offline" if mode == "dryrun" else mode
    known = wandb.setup().settings
    keys = (os.environ.get("WANDB_API_KEY"), os.environ.get("WANDB_IDENTITY_TOKEN_FILE"), known.api_key)
    # Read as the client does: the key may be stored under an earlier server name.
    return mode if any(keys) or read_netrc_auth(host=known.base_url) else "offline"


def _read_note(directory: Path) -> dict[str, Any]:
    """The run's W&B id, created once and saved before its first use."""
    file = directory / NOTE
    try:
        note = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError:
        note = {}
    # The agent's id is meant for one run, not for all points of a study.
    given = os.environ.pop("WANDB_RUN_ID", None)
    if isinstance(note.get("id"), str) and given in (None, note["id"]):
        return note
    readable = re.sub(r"[^a-z0-9]+", "-", directory.name.lower()).strip("-")[:32] or "run"
    # Not the path's hash: W&B never lets the id of a deleted run be used again.
    note = {"id": given or f"{readable}-{uuid.uuid4().hex[:8]}"}
    atomic.write_json(file, note)
    return note


def _init_run(directory: Path, settings: Wandb, id: str, mode: str) -> "wandb.Run":
    import wandb

    quiet: dict[str, Any] = {
        "console": "off",
        "silent": True,
        # Machine, command line and remotes are the user's own business, and addresses of remotes may hold a token.
        "disable_git": True,
        "disable_code": True,
        "x_disable_meta": True,
        "x_disable_stats": True,
        "host": "-",
        "finish_timeout": UPLOAD_SECONDS,
        "finish_timeout_raises": True,
    }
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        quiet["init_timeout"] = CONNECT_SECONDS
    return wandb.init(
        project=settings.project or os.environ.get("WANDB_PROJECT") or "ovseg",
        entity=settings.entity,
        group=settings.group,
        name=settings.name or os.environ.get("WANDB_NAME") or directory.name,
        tags=None if settings.tags is None else list(settings.tags),
        job_type="evaluate",
        id=id,
        # A resumed run is the same run; offline there is nothing to ask, and W&B joins by the id when it is synced.
        resume=None if mode == "offline" else "allow",
        mode=mode,  # type: ignore[arg-type]
        dir=None if "WANDB_DIR" in os.environ else directory,
        config=_config(directory),
        settings=wandb.Settings(**quiet),
    )


def _config(directory: Path) -> dict[str, Any]:
    """The resolved configuration, and the fingerprints that tell whether two runs are comparable."""
    results = json.loads((directory / RESULTS).read_text(encoding="utf-8"))
    file = directory / CONFIG
    config = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    fingerprints = {
        "protocol": results["protocol"]["fingerprint"],
        "data": results["data_fingerprint"],
        "weights": results["weights"],
        "bank": results["bank"],
    }
    about = {key: results[key] for key in ("commit", "versions", "world_size")}
    names = {"method": results["method"], "data": results["data"], "protocol": results["protocol"]["name"]}
    return {**config, "names": names, "fingerprints": fingerprints, **about}


def _log_results(run: "wandb.Run", directory: Path, settings: Wandb) -> None:
    import wandb

    results = json.loads((directory / RESULTS).read_text(encoding="utf-8"))
    scores = {key: results[key] for key in SCORES if results[key] is not None}
    keys = ("name", "iou", "accuracy", "intersection", "prediction", "label")
    table = wandb.Table(columns=["class", *keys[1:]], data=[[row[key] for key in keys] for row in results["per_class"]])
    images = _overlays(directory, settings.images, [row["name"] for row in results["per_class"]])
    run.log({**scores, "per_class": table, **images})
    artifact = wandb.Artifact(f"run-{run.id}", type="run_directory", metadata={"status": results["status"]})
    for file in _files(directory):
        # Finished files need no copy of their own.
        artifact.add_file(str(file), name=file.relative_to(directory).as_posix(), policy="immutable")
    run.log_artifact(artifact)


def _files(directory: Path) -> list[Path]:
    """The files of a run directory to upload, without W&B's own files and locks."""
    found = []
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        parts = file.relative_to(directory).parts
        if parts[0] not in (CLIENT_FOLDER, RECORDS, NOTE) and not any(part.startswith(".") for part in parts):
            found.append(file)
    return found


def _overlays(directory: Path, count: int, names: Sequence[str]) -> dict[str, "wandb.Image"]:
    """The first images with predicted and true label maps, without those that could not be read.

    Each image has its own key, the same in every run: W&B shows equal keys of several runs side by side and requires
    the images of one key to have one size. Ids are the user's text, so they are captions only.
    """
    import wandb

    labels = {**dict(enumerate(names)), 255: "ignored"}
    records: Mapping[int, Record] = {each.index: each for each in read_lines(directory / IMAGES)}
    found: dict[str, wandb.Image] = {}
    missing = []
    for number in range(min(count, len(records))):
        if records[number].skipped is not None:
            continue
        image = _image_path(directory, number, "image")
        if not image.is_file():
            missing.append(records[number].id)
            continue
        maps = {part: path for part in PARTS[1:] if (path := _image_path(directory, number, part)).is_file()}
        masks = {
            part: {"mask_data": np.asarray(Image.open(path)), "class_labels": labels} for part, path in maps.items()
        }
        found[f"images/{number:06d}"] = wandb.Image(str(image), caption=records[number].id, masks=masks)
    if missing:
        print(f"W&B: {len(missing)} images were predicted before logging was enabled, first '{missing[0]}'")
    return found
