"""The model bundle: one file that can infer and learn.

A bundle is a directory or a stored ZIP with `manifest.json`, `infer.onnx`, `train.onnx`,
`weights.safetensors` and, for int8, `infer.int8.onnx` with `ranges.onnx`; for each narrower form of
the model (`hedgerow.model.widths`) also `infer.<width>.onnx` and `train.<width>.onnx`. The archive
has one canonical form (sorted names, fixed times, no compression), so the same content has the same
bytes and the same hash everywhere.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from hedgerow.core.errors import PeerError, UsageError
from hedgerow.core.layout import Layout, Vector
from hedgerow.core.schema import InputSchema, LocalPlan, OutputSchema
from hedgerow.model.precision import Int8Evidence
from hedgerow.model.widths import (
    WIDTHS_MAX,
    Submodel,
    Width,
    file_of,
    is_width_file,
    leading_blocks,
)

FORMAT = 1
MANIFEST = "manifest.json"
INFER = "infer.onnx"
INFER_INT8 = "infer.int8.onnx"
RANGES = "ranges.onnx"
TRAIN = "train.onnx"
WEIGHTS = "weights.safetensors"
REQUIRED = (INFER, TRAIN, WEIGHTS)
INT8 = (INFER_INT8, RANGES)
ALLOWED = (INFER, *INT8, TRAIN, WEIGHTS)
BYTES_MAX = 256 * 1024 * 1024
"""Largest bundle read unless the caller says otherwise."""


class QuantisedActivation(msgspec.Struct, frozen=True, kw_only=True):
    """The names under which `infer.int8.onnx` takes how one activation, `tensor`, is quantised."""

    tensor: str
    scale: str
    zero_point: str


class QuantisedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """How one float32 tensor of the layout enters `infer.int8.onnx`.

    The graph takes `quantised = round(tensor / scale)` under the names given here. A kernel has
    `axis`, along which each channel gets its own scale, the channel's largest magnitude / 127. A
    bias names two other scales instead, that of its kernel and that of the activation the kernel
    meets: its own is their product. A tensor with `zero_point` is quantised like an activation.
    """

    tensor: str
    quantised: str
    scale: str
    axis: int = 0
    zero_point: str = ""
    kernel_scale: str = ""
    input_scale: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle says about itself. `files` maps each other file to its SHA-256 in hex.

    `decide` holds plain settings for the decision rule of the application. `calibration` says what
    the int8 activation ranges were measured on: `"samples"`, `"noise"` or, without int8, `""`.
    `ranges` are smallest and largest value of each of `activations`, in their order, measured with
    the weights whose flat vector has the SHA-256 `ranges_weights`: they hold for no others.
    `int8` is what the author found int8 to cost with those weights; not written where nobody
    looked. `widths` are the narrower forms, widest first; not written where there are none.
    """

    format: int = FORMAT
    name: str
    version: str
    input: InputSchema
    output: OutputSchema
    layout: Layout
    plan: LocalPlan = LocalPlan()
    decide: dict[str, float] = {}
    calibration: str = ""
    quantised: tuple[QuantisedTensor, ...] = ()
    activations: tuple[QuantisedActivation, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()
    ranges_weights: str = ""
    int8: Int8Evidence | msgspec.UnsetType = msgspec.UNSET
    widths: tuple[Width, ...] | msgspec.UnsetType = msgspec.UNSET
    files: dict[str, str] = {}


@dataclass(frozen=True)
class Bundle:
    """A checked bundle in memory. Make one with `load`, `from_bytes` or `build`."""

    manifest: Manifest
    files: Mapping[str, bytes]
    weights: Vector
    """The starting point, read-only, shape `[P]`."""

    @classmethod
    def build(cls, manifest: Manifest, graphs: Mapping[str, bytes], weights: Vector) -> "Bundle":
        """A bundle from its parts; fills in the hashes.

        Raises:
            UsageError: the parts do not fit one another.
        """
        files = dict(graphs) | {WEIGHTS: pack_weights(manifest.layout, weights)}
        hashes = {name: _sha256(files[name]) for name in sorted(files)}
        whole = msgspec.structs.replace(manifest, files=hashes)
        try:
            # Once through JSON, so that what is kept is what a reader will get.
            return _checked(_read_manifest(msgspec.json.encode(whole)), files)
        except PeerError as error:
            raise UsageError(f"cannot build the bundle: {error.detail}") from error

    @classmethod
    def load(cls, path: str | Path, *, bytes_max: int = BYTES_MAX) -> "Bundle":
        """Read and check a bundle, given as a directory or one archive.

        Raises:
            UsageError: there is nothing at `path`, or what is there is not a whole bundle.
        """
        path = Path(path)
        try:
            if path.is_dir():
                return _from_directory(path, bytes_max)
            with path.open("rb") as file:
                data = file.read(bytes_max + 1)
            return cls.from_bytes(data, bytes_max=bytes_max)
        except OSError as error:
            raise UsageError(f"cannot read the bundle at {path}: {error.strerror}") from error
        except PeerError as error:
            raise UsageError(f"{path} is not a usable bundle: {error.detail}") from error

    @classmethod
    def from_bytes(cls, data: bytes, *, bytes_max: int = BYTES_MAX) -> "Bundle":
        """Read and check an archive that came from somewhere else. Nothing is unpickled or run.

        Raises:
            PeerError: `bad_bundle`, with what is wrong.
        """
        if len(data) > bytes_max:
            raise _bad(f"it has more than the {bytes_max} bytes allowed")
        files = _read_archive(data)
        bundle = _checked(_read_manifest(files.pop(MANIFEST, None)), files)
        if bundle.to_bytes() != data:
            raise _bad("the archive is not in canonical form; write it again with Bundle.save")
        return bundle

    def to_bytes(self) -> bytes:
        """The canonical archive."""
        out = io.BytesIO()
        entries = {MANIFEST: self._manifest_bytes, **self.files}
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(entries):
                info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                info.create_system = 3
                info.external_attr = 0o644 << 16
                archive.writestr(info, entries[name])
        return out.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the canonical archive to `path`, whole or not at all."""
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(self.to_bytes())
        partial.replace(path)

    def unpack(self, directory: str | Path) -> None:
        """Write the bundle as a directory of its files."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in {MANIFEST: self._manifest_bytes, **self.files}.items():
            (directory / name).write_bytes(data)

    def file(self, name: str) -> bytes:
        """One file of the bundle.

        Raises:
            UsageError: the bundle has no such file.
        """
        if name not in self.files:
            raise UsageError(f"the bundle has no {name!r}; it has {sorted(self.files)}")
        return self.files[name]

    def with_weights(self, weights: Vector, version: str) -> "Bundle":
        """The same model with another starting point and version."""
        graphs = {name: data for name, data in self.files.items() if name != WEIGHTS}
        manifest = msgspec.structs.replace(self.manifest, version=version)
        return Bundle.build(manifest, graphs, weights)

    @cached_property
    def parts(self) -> tuple[Submodel, ...]:
        """The forms of the model: the whole one, then those of `manifest.widths`."""
        layout = self.manifest.layout
        whole = Submodel(layout, np.arange(layout.size, dtype=np.int64))
        return (whole, *(leading_blocks(layout, each.layout) for each in _widths(self.manifest)))

    def at_width(self, number: int) -> "Bundle":
        """The form `number` of `parts` as a bundle by itself, float32 only; 0 is the whole one.

        Raises:
            UsageError: there is no such form.
        """
        if number == 0:
            return self
        if not 0 < number < len(self.parts):
            raise UsageError(f"the bundle has widths 0 to {len(self.parts) - 1}, not {number}")
        width, whole = _widths(self.manifest)[number - 1].width, self.manifest
        manifest = Manifest(
            name=whole.name,
            version=whole.version,
            input=whole.input,
            output=whole.output,
            layout=self.parts[number].layout,
            plan=whole.plan,
            decide=whole.decide,
        )
        graphs = {
            INFER: self.file(file_of("infer", width)),
            TRAIN: self.file(file_of("train", width)),
        }
        return Bundle.build(manifest, graphs, self.weights[self.parts[number].index])

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical archive, in hex: the bundle's address."""
        return _sha256(self.to_bytes())

    @property
    def _manifest_bytes(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self.manifest), indent=1)


def pack_weights(layout: Layout, weights: Vector) -> bytes:
    """A flat vector as a safetensors file of named tensors."""
    return safetensors.numpy.save(layout.unflatten(np.ascontiguousarray(weights, np.float32)))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _widths(manifest: Manifest) -> tuple[Width, ...]:
    return () if isinstance(manifest.widths, msgspec.UnsetType) else manifest.widths


def _bad(detail: str) -> PeerError:
    return PeerError("bad_bundle", detail)


def _read_archive(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_entries(entries, len(data))
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise _bad(f"it is not a whole archive ({error})") from error


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Bound what reading may take. Stored entries that add up to no more than the archive cannot
    be a decompression bomb, nested or overlapping.
    """
    names = [entry.filename for entry in entries]
    unknown = sorted(name for name in {*names} - {MANIFEST, *ALLOWED} if not is_width_file(name))
    if unknown or len(set(names)) != len(names):
        raise _bad(f"the archive holds unknown or repeated entries: {unknown[:5] or sorted(names)}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _bad("the archive has compressed entries; bundles are stored without compression")
    if sum(entry.file_size for entry in entries) > size:
        raise _bad("the entries claim more bytes than the archive has")


def _from_directory(path: Path, bytes_max: int) -> Bundle:
    others = sorted(entry.name for entry in path.iterdir() if is_width_file(entry.name))
    present = [name for name in (MANIFEST, *ALLOWED, *others) if (path / name).is_file()]
    if sum((path / name).stat().st_size for name in present) > bytes_max:
        raise _bad(f"its files have more than the {bytes_max} bytes allowed")
    files = {name: (path / name).read_bytes() for name in present}
    return _checked(_read_manifest(files.pop(MANIFEST, None)), files)


class _Versioned(msgspec.Struct):
    format: int


def _read_manifest(data: bytes | None) -> Manifest:
    if data is None:
        raise _bad(f"there is no {MANIFEST}")
    try:
        version = msgspec.json.decode(data, type=_Versioned).format
        if version != FORMAT:
            raise _bad(
                f"it has bundle format {version}, this release reads {FORMAT}; "
                "install the release of hedgerow that wrote it, or export the model again"
            )
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UsageError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(f"{MANIFEST} does not fit: {error}") from error


def _checked(manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    required = REQUIRED if INFER_INT8 not in files else (*REQUIRED, *INT8)
    missing = [name for name in required if name not in files]
    if missing:
        raise _bad(f"it lacks {missing}")
    if len(manifest.ranges) != len(manifest.activations):
        raise _bad(
            f"it has {len(manifest.ranges)} ranges for {len(manifest.activations)} activations"
        )
    if set(manifest.files) != set(files):
        raise _bad(f"the manifest names {sorted(manifest.files)}, the bundle has {sorted(files)}")
    for name, data in files.items():
        if _sha256(data) != manifest.files[name]:
            raise _bad(f"{name} has SHA-256 {_sha256(data)}, not {manifest.files[name]}")
    weights = _read_weights(manifest.layout, files[WEIGHTS])
    _check_widths(manifest, files)  # last: a layout claims no more than there are weights now
    return Bundle(manifest, dict(files), weights)


def _check_widths(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    widths = [each.width for each in _widths(manifest)]
    if (
        len(widths) > WIDTHS_MAX
        or widths != sorted(set(widths), reverse=True)
        or not all(0 < width < 1 for width in widths)
    ):
        raise _bad(f"it has widths {widths}; wanted at most {WIDTHS_MAX} below 1, widest first")
    wanted = {file_of(kind, width) for kind in ("infer", "train") for width in widths}
    got = {name for name in files if is_width_file(name)}
    if got != wanted:
        raise _bad(f"its widths {widths} need {sorted(wanted)}, it has {sorted(got)}")
    try:
        for each in _widths(manifest):
            leading_blocks(manifest.layout, each.layout)
    except UsageError as error:
        raise _bad(str(error)) from error


def _read_weights(layout: Layout, data: bytes) -> Vector:
    try:
        tensors = safetensors.numpy.load(data)
        if any(tensor.dtype != np.float32 for tensor in tensors.values()):
            raise _bad(f"{WEIGHTS} holds tensors that are not float32")
        weights = layout.flatten(tensors)
    except (SafetensorError, UsageError, ValueError, KeyError, TypeError) as error:
        raise _bad(f"{WEIGHTS} does not fit the layout: {error}") from error
    if not np.isfinite(weights).all():
        raise _bad(f"{WEIGHTS} holds NaN or infinity")
    weights.flags.writeable = False
    return weights
