"""Model directories: a readable config.json beside the parameters in Orbax's format.

    DIR/config.json                     architectures, and which folder holds the parameters
    DIR/weights-XXXXXXXX/smn/encoder/   an Orbax checkpoint for each network of "smn" and "smpn"
    DIR/weights-XXXXXXXX/SHA256SUMS     what all these files hash to, config.json included

Files are compared with their hashes before they are read; older models have none. Who changes
config.json by hand deletes SHA256SUMS and the line "sums".

A save writes a new weights folder first and then replaces config.json in one step, so whenever it
is stopped the directory holds the old model or the new one. The workdir of a training run is a
model directory too: its config.json names no weights, and the newest of its
checkpoints/STEP/networks, an Orbax checkpoint of all networks together, counts.
"""

import contextlib
import fnmatch
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from l2sae_jax.checksums import SUMS_FILE, check_file, read_sums, write_sums
from l2sae_jax.configuration import from_dict, to_dict
from l2sae_jax.model import L2SAE, Autoencoder, AutoencoderConfig
from l2sae_jax.nn import Architecture
from l2sae_jax.whole_files import replace_text

FORMAT = 1
NETWORKS = ("smn", "smpn")
DISCRIMINATORS = ("image_discriminator", "patch_discriminator")
CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"

T = TypeVar("T")


class LazyMapping(Mapping[str, T]):
    """Makes each value when it is asked for, and keeps none: a model need not fit in memory."""

    def __init__(self, names: Iterable[str], make: Callable[[str], T]):
        self._names = dict.fromkeys(names)
        self._make = make

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def shipped_model_path() -> Path:
    """Where the model that comes with the package lives."""
    return Path(str(resources.files("l2sae_jax"))) / "weights" / "portraits_128"


def load(path: str | os.PathLike | None = None) -> L2SAE:
    """Loads a model.

    Args:
      path: a model directory as `convert_weights.py` writes it, or a training run's workdir; None
        for the model shipped with the package.

    Returns:
      The model, its parameters in float32 on JAX's default device.

    Raises:
      ValueError: not a model directory, or one that is damaged; in one line.
    """
    description = read_description(Path(path) if path is not None else shipped_model_path())
    parameters = description.read(("encoder", "decoder"))
    # Converted by NumPy: JAX would compile a program for each shape, half a second in all.
    parameters = jax.device_put(jax.tree.map(lambda x: np.asarray(x, np.float32), parameters))
    networks = {
        name: Autoencoder(**trees, config=description.autoencoders[name])
        for name, trees in parameters.items()
    }
    return L2SAE(networks.get("smn"), networks.get("smpn"), description.mask_reduction)


def fingerprint(model: L2SAE) -> str:
    """A hash of a model: of its configuration and its parameters, however they were stored."""
    networks = {"smn": model.smn, "smpn": model.smpn}
    described = {name: to_dict(n.config) for name, n in networks.items() if n is not None}
    described["mask_reduction"] = model.mask_reduction
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8))
    return digest.hexdigest()


class Description:
    """What a model directory holds, before any parameter is read.

    Attributes:
      autoencoders: the configuration of each network present, "smn" and "smpn".
      architectures: each network with the discriminators stored beside it.
      mask_reduction: see `L2SAE`; where config.json does not say, what brings the SMN's training
        images down to the size of the SMPN's.
      stated_mask_reduction: what config.json itself says, or None.
      metadata: whatever else was noted when it was saved.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any]):
        where = str(directory / CONFIG_FILE)
        self.directory = directory
        self._together = not {"weights", "sums"} & config.keys()
        self._weights = _newest_weights(directory) if self._together else _folder(directory, config)
        self._sums = None if self._together else _sums(self._weights, config)
        self._checked: set[str] = set()
        self.autoencoders: dict[str, AutoencoderConfig] = {}
        self.architectures: dict[str, Architecture] = {}
        for name in NETWORKS:
            if name in config:
                self._add(name, dict(config[name]), f"{where}: {name}")
        if not self.autoencoders:
            raise ValueError(f"{where}: names no network, expected smn or smpn")
        self.stated_mask_reduction = config.get("mask_reduction")
        if self.stated_mask_reduction is not None:
            check_mask_reduction(self.stated_mask_reduction, f"{where}: ")
        self.mask_reduction = self.stated_mask_reduction or _size_ratio(self.autoencoders)
        self.metadata = dict(config.get("metadata", {}))

    def _add(self, name: str, values: dict[str, Any], where: str) -> None:
        discriminators = {key: values.pop(key) for key in DISCRIMINATORS if key in values}
        self.autoencoders[name] = from_dict(AutoencoderConfig, values, where)
        both = {key: values[key] for key in ("encoder", "decoder")}
        self.architectures[name] = from_dict(Architecture, both | discriminators, where)

    def networks(self, name: str) -> Mapping[str, Any]:
        """Parameters of "smn" or "smpn", `{"encoder": tree, ...}`, each read when asked for.

        Trees are of numpy arrays in the stored dtype. Asking raises ValueError where parameters are
        missing, damaged, of other shapes than config.json says, or unreadable.
        """

        def read(network: str) -> Any:
            if self._sums is not None:  # files as they were saved fit, and shapes take long to find
                return self._read(name, network)
            return self._read(name, network, _parameter_shapes(self.architectures[name])[network])

        return LazyMapping(self.architectures[name].present(), read)

    def blocks(self, name: str, network: str) -> Mapping[str, Any]:
        """One tree of `networks(name)` by its top-level blocks, each read when asked for.

        Slower, for those who need less memory than a network takes.
        """
        shapes = _parameter_shapes(self.architectures[name])[network]
        return LazyMapping(
            shapes, lambda block: self._read(name, network, {block: shapes[block]})[block]
        )

    def _read(self, name: str, network: str, shapes: Any = None) -> Any:
        if self._together:
            return _restore(self._weights, {name: {network: shapes}})[name][network]
        self._check(f"{name}/{network}/")
        return _restore(self._weights / name / network, shapes)

    def _check(self, folder: str) -> None:
        """Compares the files of a network with their hashes, unless that was done."""
        if self._sums is None or folder in self._checked:
            return
        for file in self._sums:
            if file.startswith(folder):
                check_file(self._weights, file, self._sums)
        self._checked.add(folder)

    def read(self, wanted: tuple[str, ...] | None = None) -> dict[str, dict[str, Any]]:
        """Parameters `{"smn": {"encoder": ...}, ...}` as numpy arrays, in the stored dtype.

        Args:
          wanted: names of networks ("encoder", ...) to read; None for all.

        Raises:
          ValueError: parameters missing, damaged, of other shapes than config.json says, or
            unreadable.
        """
        return {
            name: {
                network: networks[network]
                for network in networks
                if wanted is None or network in wanted
            }
            for name, networks in ((name, self.networks(name)) for name in self.architectures)
        }


def check_mask_reduction(value: Any, where: str = "") -> None:
    """Raises ValueError unless this is a power of two."""
    if type(value) is not int or value < 1 or value.bit_count() > 1:
        raise ValueError(f"{where}mask_reduction {value!r}: expected 1, 2, 4 or another power of 2")


def _size_ratio(autoencoders: Mapping[str, AutoencoderConfig]) -> int:
    """The greatest power of two not above SMN size over SMPN size."""
    if len(autoencoders) < len(NETWORKS):
        return 1
    ratio = autoencoders["smn"].image_size // autoencoders["smpn"].image_size
    return 1 << max(0, ratio.bit_length() - 1)


@functools.lru_cache(maxsize=16)
def _parameter_shapes(architecture: Architecture) -> Mapping[str, Any]:
    return architecture.parameter_shapes()


def read_description(directory: Path) -> Description:
    """Reads and checks config.json of a model directory.

    Raises:
      ValueError: missing or damaged; in one line.
    """
    file = directory / CONFIG_FILE
    try:
        config = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{directory} is not a model directory: it has no {CONFIG_FILE}; give what "
            "convert_weights.py wrote, or a training run's workdir"
        ) from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{file}: expected a model description of format {FORMAT}")
    try:
        return Description(directory, config)
    except (AttributeError, KeyError, TypeError) as error:
        # A value of another type than its field's, met while the fields are checked.
        raise ValueError(f"{file} is damaged: {error}") from None


def _folder(directory: Path, config: Mapping[str, Any]) -> Path:
    """Where the parameters are that config.json names."""
    name = config["weights"]
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"{directory / CONFIG_FILE}: weights {name!r} is no folder's name")
    return directory / name


def _sums(weights: Path, config: Mapping[str, Any]) -> dict[str, str] | None:
    """What the files of a model must hash to; None of one saved before hashes were."""
    if "sums" not in config and not (weights / SUMS_FILE).exists():
        return None
    sums = read_sums(weights)
    check_file(weights, f"../{CONFIG_FILE}", sums)
    return sums


def _newest_weights(directory: Path) -> Path:
    """Where the newest parameters of a training run are."""
    steps = saved_steps(directory)
    if not steps:
        raise ValueError(f"{directory} holds no parameters yet: no checkpoint was saved")
    return directory / CHECKPOINTS / str(max(steps)) / "networks"


def saved_steps(workdir: Path) -> list[int]:
    """Steps of the complete checkpoints in the workdir of a training run."""
    # Orbax gives a step's folder its final, all-digit name only once it is complete.
    names = (path.name for path in (workdir / CHECKPOINTS).glob("*"))
    return sorted(int(name) for name in names if name.isdigit())


def save_model(
    directory: str | os.PathLike,
    autoencoders: Mapping[str, AutoencoderConfig],
    architectures: Mapping[str, Architecture],
    parameters: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, Any] | None = None,
    mask_reduction: int | None = None,
) -> None:
    """Writes a model directory; a process killed meanwhile leaves what was there before.

    Networks are fetched from `parameters` and written one after the other, so that mappings which
    make them when asked never hold two.

    Args:
      directory: created if need be; a model already there is replaced.
      autoencoders, architectures: descriptions of "smn", "smpn" or both.
      parameters: `{"smn": {"encoder": ..., "decoder": ..., ...}, ...}`, stored in their dtype.
      metadata: JSON values to keep in config.json.
      mask_reduction: see `L2SAE`; None lets `load` work it out.

    Raises:
      ValueError: the directory holds something else than a model, or parameters are missing or
        of other shapes than their architecture's.
    """
    directory = Path(directory)
    check_model_output(directory)
    weights = f"weights-{uuid.uuid4().hex[:8]}"
    with staged(directory) as folder:
        for name, networks in parameters.items():
            shapes = _parameter_shapes(architectures[name])
            for network in networks:
                _save(folder / weights / name / network, networks[network], shapes.get(network, {}))
        config = {"format": FORMAT, "weights": weights, "sums": SUMS_FILE}
        if mask_reduction is not None:
            config["mask_reduction"] = mask_reduction
        for name, autoencoder in autoencoders.items():
            config[name] = describe(autoencoder, architectures[name])
        write_config(folder, config | {"metadata": dict(metadata or {})})
        files = sorted(path for path in (folder / weights).rglob("*") if path.is_file())
        # The last line is there only if the list is whole, and is always looked at.
        write_sums(folder / weights, [*files, folder / CONFIG_FILE])
    for old in directory.iterdir():
        if _is_leftover(old) and old.name != weights:
            shutil.rmtree(old) if old.is_dir() else old.unlink()


def check_model_output(directory: Path) -> None:
    """Raises ValueError unless a model may be written there: nothing foreign is ever replaced."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise ValueError(f"{directory} is a file; give a new folder, or a model directory")
    if all(map(_is_leftover, directory.iterdir())):
        return
    try:
        config = json.loads((directory / CONFIG_FILE).read_text())
        replaceable = config["format"] == FORMAT and "weights" in config
    except (OSError, ValueError, KeyError, TypeError):
        replaceable = False
    if not replaceable:
        raise ValueError(
            f"{directory} holds something else than a saved model; give a new folder instead"
        )


_LEFTOVER = re.compile(rf"weights-[0-9a-f]{{8}}|\.{re.escape(CONFIG_FILE)}\.\d+")


def _is_leftover(path: Path) -> bool:
    """Whether only a save, perhaps one that was killed, gives a file in a model's folder its name.

    A folder that a user keeps there, such as `weights-backup`, is none of ours.
    """
    return bool(_LEFTOVER.fullmatch(path.name)) or is_stage(path)


def is_stage(path: Path) -> bool:
    """Whether `staged(path.parent)`, killed, may have left this."""
    return fnmatch.fnmatchcase(path.name, _stage_pattern(path.parent))


def _stage_pattern(directory: Path) -> str:
    return f".{glob.escape(directory.absolute().name)}.{'[0-9a-f]' * 8}.part"


@contextlib.contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """A folder to fill, whose contents appear in `directory` only when complete.

    A new directory appears whole. One that exists may be a mount or somebody's working directory,
    so it stays: the contents are renamed into it, folders first, then files, which so may refer to
    them. What killed runs left of the same directory is removed.
    """
    directory = directory.absolute()
    exists = directory.exists()
    directory.parent.mkdir(parents=True, exist_ok=True)
    for place in (directory.parent, directory):
        for abandoned in place.glob(_stage_pattern(directory)):
            shutil.rmtree(abandoned, ignore_errors=True)
    stage = (directory if exists else directory.parent) / (
        f".{directory.name}.{uuid.uuid4().hex[:8]}.part"
    )
    stage.mkdir()
    try:
        yield stage
        if exists:
            for path in sorted(stage.iterdir(), key=Path.is_file):
                os.replace(path, directory / path.name)
            stage.rmdir()
        else:
            os.rename(stage, directory)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def describe(autoencoder: AutoencoderConfig, architecture: Architecture) -> dict[str, Any]:
    """One network as config.json names it."""
    return to_dict(autoencoder) | to_dict(architecture)


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Replaces config.json in one step."""
    text = json.dumps(config, indent=1)
    # A list of numbers reads better in one line; line breaks are never within strings.
    text = re.sub(r"\[\n\s*([-\d.,\s]*?)\n\s*\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    replace_text(directory / CONFIG_FILE, text + "\n")


def _save(path: Path, tree: Any, shapes: Any) -> None:
    import orbax.checkpoint as ocp

    tree = jax.tree.map(np.asarray, tree)
    if misfit := _misfit(tree, shapes):
        raise ValueError(f"{path.parent.name} {path.name} does not fit its architecture: {misfit}")
    # By default Orbax would copy every array, and compress all of them side by side in memory,
    # which saves a tenth of the space: together as much again as the network takes.
    handlers = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)),
        (jax.Array, ocp.type_handlers.ArrayHandler()),  # else it warns that it is missing
    )
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=handlers)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path.absolute(), tree)
    # Orbax notes there where it wrote, which is nobody's business who receives the model, and reads
    # it on no file system that can rename.
    (path / "commit_success.txt").unlink(missing_ok=True)


def _restore(path: Path, shapes: Any = None) -> Any:
    """Reads the leaves that `shapes` names, as numpy arrays; others in the checkpoint stay.

    Without `shapes` all that `save_model` wrote there.
    """
    import orbax.checkpoint as ocp

    args = ocp.args.PyTreeRestore()
    if shapes is not None:
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        args = ocp.args.PyTreeRestore(item=shapes, restore_args=restore_args, partial_restore=True)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            values = checkpointer.restore(path.absolute(), args=args)
    except Exception as error:
        # What follows is TensorStore's account of how it was opened, a screenful of JSON.
        first_line = (str(error).strip() or repr(error)).splitlines()[0].split(" [tensorstore")[0]
        raise ValueError(f"{path} cannot be read: {first_line}") from error
    # Of a layer that is not in the checkpoint, Orbax returns what was asked for as it was.
    if misfit := shapes is not None and _misfit(values, shapes):
        raise ValueError(f"{path} does not fit its {CONFIG_FILE}: {misfit}")
    return values


def _misfit(found: Any, expected: Any) -> str | None:
    """What is wrong with a tree of arrays that is to be of these shapes."""
    arrays = dict(jax.tree_util.tree_leaves_with_path(found))
    shapes = dict(jax.tree_util.tree_leaves_with_path(expected))
    for path in shapes | arrays:
        name, array = jax.tree_util.keystr(path), arrays.get(path)
        if path not in shapes:
            return f"{name} is superfluous"
        if not isinstance(array, np.ndarray):
            return f"{name} is missing"
        if array.shape != shapes[path].shape:
            return f"{name} is {array.shape}, expected {shapes[path].shape}"
    return None
