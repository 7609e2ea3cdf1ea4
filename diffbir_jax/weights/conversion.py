"""Released files to a model folder and back: what `convert` does, and the presets' first use."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

from diffbir_jax.errors import InputError
from diffbir_jax.imaging.paths import prepare_folder
from diffbir_jax.weights import diffusers_folder
from diffbir_jax.weights.folder import load_network, network, read_card, save_network, write_card
from diffbir_jax.weights.registry import FILES, PRESETS
from diffbir_jax.weights.released import check_original_has
from diffbir_jax.weights.sources import PREFIXES, Part, Source, read_file, state_of
from diffbir_jax.weights.tensor_files import map_tensors, write_tensors
from diffbir_jax.weights.torch_files import PICKLES, require_torch, write_state

Report = Callable[[str], object]
ALIKE = (  # what networks of one model have in common: network, its field, another network, its field
    *(("unet", name, "control", name) for name in ("channels", "blocks", "attention", "head_dim", "context_dim", "in_channels")),
    ("unet", "in_channels", "autoencoder", "latent_channels"),
    ("unet", "context_dim", "text_encoder", "width"),
)


def to_jax(
    paths: Iterable[Path], output: Path, preset: str | None = None, head_dim: int | None = None, report: Report = print
) -> None:
    """Writes a model folder, or adds to it, from released files and diffusers folders; reads and checks all before it writes any.

    Args:
        paths: of the files and folders.
        output: the model folder.
        preset: the version the files are of; None: what their hashes, kinds and names tell.
        head_dim: see `recognise`.
        report: takes lines about what was found and written.

    Raises:
        InputError: a file cannot be read, is of no known network, lacks something, does not go with the others, or would be
            overwritten.
    """
    output, paths = Path(output), [Path(path) for path in paths]
    sources = [source for path in paths for source in _read(path, head_dim, report)]
    card = read_card(output) if (output / "model.json").exists() else {"networks": {}}
    version = preset or version_of(*_together(card, sources, _named(sources, None)))
    named = _named(sources, version)
    _check_together({n: network(d) for n, d in card["networks"].items()} | {n: part.net for n, (_, part) in named.items()})
    _check_spared([output / f"{name}.safetensors" for name in named], paths)
    _check_files(card, sources, named)
    prepare_folder(output)
    for name, (_, part) in named.items():
        save_network(output, name, part.net, part.params)
        report(f"wrote {output / name}.safetensors")
    for source in sources:
        _extras_path(output, source.file).unlink(missing_ok=True)  # of an earlier file of this name
        if source.extras:
            write_tensors(_extras_path(output, source.file), source.extras)
    known, _ = _together(card, sources, named)
    complete = read_card(output) | {"sources": known}
    if preset or "sampling" not in card or "sources" in card:
        complete |= _sampling(version, report)
    write_card(output, complete)


def _read(path: Path, head_dim: int | None, report: Report) -> list[Source]:
    """The sources that a path is; what they hold is reported."""
    found = diffusers_folder.read_diffusers(path) if path.is_dir() else [read_file(path, head_dim)]
    for source in found:
        where = path / source.file if path.is_dir() else path
        report(f"{where}: {', '.join(type(part.net).__name__ for part in source.parts)}")
        if left := [*source.others, *source.extras]:
            report(f"{where}: {len(left)} not needed: {', '.join(left[:5])}{', …' if len(left) > 5 else ''}")
    return found


def identity(file: str, facts: Mapping[str, Any]) -> str:
    """The released name of a file, known by its hash; else its own."""
    return next((known.name for known in FILES.values() if known.sha256 == facts["sha256"]), Path(file).name)


def _named(sources: Iterable[Source], preset: str | None) -> dict[str, tuple[Source, Part]]:
    """The networks by their names in the model folder.

    Raises:
        InputError: two would have the same.
    """
    parts = [(source, part) for source in sources for part in source.parts]
    named = {}
    for source, part in sorted(parts, key=lambda pair: type(pair[1].net).__name__ == "SwinIR"):  # it takes what the others leave
        name = _stage1_name(source, part, preset, named) if part.role == "stage1" else part.role
        if name in named:
            raise InputError(f"{source.file} is a second {type(part.net).__name__}; convert it to another folder")
        named[name] = source, part
    return named


def _stage1_name(source: Source, part: Part, preset: str | None, taken: Mapping[str, Any]) -> str:
    """ "stage1", or that of the task which the file's preset, its kind or its name says it is for."""
    file = identity(source.file, source.facts)
    for task, of_task in PRESETS[preset].stage1.items() if preset else ():
        if of_task == file:
            return PRESETS[preset].networks()[task]
    if type(part.net).__name__ == "SCUNet":
        return "stage1_denoise"
    swinir = type(part.net).__name__ == "SwinIR" and source.facts["layout"] != "full"
    face = swinir and ("face" in file.lower() or ("stage1" in taken and type(taken["stage1"][1].net).__name__ != "SwinIR"))
    return "stage1_face" if face else "stage1"


def _check_together(nets: Mapping[str, nn.Module]) -> None:
    """InputError: networks that cannot be of one model."""
    for one, field, other, its_field in ALIKE:
        if one in nets and other in nets and getattr(nets[one], field) != getattr(nets[other], its_field):
            values = [str(getattr(nets[n], f)) for n, f in ((one, field), (other, its_field))]
            raise InputError(f"{one} has {field} {values[0]}, {other} has {its_field} {values[1]}: they are not of one model")


def _check_spared(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """InputError: an input would be overwritten."""
    given = {path.resolve() for path in inputs}
    for target in targets:
        if target.resolve() in given:
            raise InputError(f"{target} is an input and would be overwritten; give another --output")


def _check_files(card: Mapping[str, Any], sources: Sequence[Source], named: Mapping[str, Any]) -> None:
    """InputError: two files of one name, by which `to_torch` could not write both again."""
    replaced, again = set(named), {source.facts["sha256"] for source in sources}
    known = card.get("sources", {}).items()
    kept = (file for file, facts in known if not replaced & set(facts["networks"]) and facts["sha256"] not in again)
    for file, times in Counter([*kept, *(source.file for source in sources)]).items():
        if times > 1:
            raise InputError(f"two files are called {file}, the name that to-torch would give to both; rename one")


Facts = Mapping[str, Mapping[str, Any]]


def _together(card: Facts, sources: Iterable[Source], named: Mapping[str, tuple[Source, Part]]) -> tuple[dict[str, Any], set[str]]:
    """The facts of all sources, those in the folder's card that nothing replaces included, and the kinds of all networks."""
    known = {file: facts for file, facts in card.get("sources", {}).items() if not set(facts["networks"]) & set(named)}
    for source in sources:
        places = {name: part.place for name, (of, part) in named.items() if of is source}
        known[source.file] = {**source.facts, "networks": places}
    kinds = {description["kind"] for name, description in card["networks"].items() if name not in named}
    return known, kinds | {type(part.net).__name__ for _, part in named.values()}


def version_of(sources: Facts, kinds: set[str]) -> str | None:
    """The only preset that all the files can be of; None where several are left, or none."""
    fitting = set(PRESETS)
    for file, facts in sources.items():
        name = identity(file, facts)
        if with_it := {v for v, preset in PRESETS.items() if name in (*preset.files(), preset.full)}:
            fitting &= with_it
        elif facts["layout"] == "full":
            fitting &= {"v1-general"}
        if facts["zero_snr"]:
            fitting &= {"v2.1"}
    if kinds & {"RRDBNet", "SCUNet"}:
        fitting &= {"v2"}
    return fitting.pop() if len(fitting) == 1 else None


def _sampling(version: str | None, report: Report) -> dict[str, Any]:
    if version is None:
        report("the files do not tell their version: to be sampled as 1 and 2 are (eps, no zero SNR); else give --preset")
        return {"preset": None, "sampling": dict(PRESETS["v2"].sampling), "defaults": {}, "tasks": {}}
    preset = PRESETS[version]
    report(f"to be sampled as {version}")
    sampling, defaults = dict(preset.sampling), dict(preset.defaults)
    return {"preset": version, "sampling": sampling, "defaults": defaults, "tasks": preset.networks()}


def to_torch(model: Path, output: Path, form: str | None = None, report: Report = print) -> None:
    """Writes a model folder's networks as the files they came from; those without such a file as stage1, control and sd.

    Args:
        model: the folder.
        output: the folder to write.
        form: "pth" or "safetensors"; None: as the file was.
        report: takes lines about what was written.

    Raises:
        InputError: the original can load none of the networks, PyTorch is missing, or a file cannot be written or would overwrite
            the model's.
    """
    model, output = Path(model), Path(output)
    card = read_card(model)
    files, refused = _files_of(card)
    if not files:
        raise InputError(f"{model} holds nothing for the original: {'; '.join(refused.values()) or 'no networks'}")
    _check_spared([output / _renamed(file, form) for file in files], [model / f"{name}.safetensors" for name in card["networks"]])
    for file in files:
        if _renamed(file, form).suffix != ".safetensors":
            require_torch(_renamed(file, form).name)
    prepare_folder(output)
    for file, facts in files.items():
        state = state_of(facts, {name: load_network(model, name) for name in facts["networks"]}, _extras(model, file))
        write_state(output / _renamed(file, form), state, facts["wrapper"])
        report(f"wrote {output / _renamed(file, form)}: {len(state)} tensors")
    for name, reason in refused.items():
        report(f"left out {name}: {reason}")


def _files_of(card: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The files to write, with their facts, and the networks that the original cannot load, with the reason."""
    files = {file: facts for file, facts in card.get("sources", {}).items() if facts["layout"] != "diffusers"}
    covered, refused = {name for facts in files.values() for name in facts["networks"]}, {}
    prefixes = {role: prefix for prefix, role in PREFIXES.items()}
    for name, description in card["networks"].items():
        if name in covered:
            continue
        try:
            check_original_has(network(description))
        except InputError as error:
            refused[name] = str(error)
            continue
        prior = name in ("unet", "autoencoder", "text_encoder")
        file, wrapper = ("sd.ckpt", "state_dict") if prior else (f"{name}.pth", "")
        facts = files.setdefault(file, {"layout": "original", "wrapper": wrapper, "module": "", "networks": {}})
        facts["networks"][name] = {"prefix": prefixes[name] if prior else ""}
    return files, refused


def _renamed(file: str, form: str | None) -> Path:
    path = Path(file)
    if form is None or (form == "pth" and path.suffix in PICKLES):
        return path
    return path.with_suffix(f".{form}")


def to_diffusers(model: Path, output: Path, report: Report = print) -> None:
    """Writes a model folder's UNet, autoencoder and text tower as the folder that diffusers reads, tokenizer and schedule included.

    Raises:
        InputError: the model has none of them, diffusers has no such network, or a file cannot be written.
    """
    model, output = Path(model), Path(output)
    card = read_card(model)
    names = [name for name in diffusers_folder.FILES if name in card["networks"]]
    if not names:
        raise InputError(
            f"{model} holds neither {' nor '.join(diffusers_folder.FILES)}, but {', '.join(card['networks']) or 'nothing'}"
        )
    sources = {n: (file, f) for file, f in card.get("sources", {}).items() if f["layout"] == "diffusers" for n in f["networks"]}
    nets, styles = {}, {}
    for name in names:
        file, facts = sources.get(name, (diffusers_folder.FILES[name], diffusers_folder.facts_of(name)))
        nets[name], params = load_network(model, name)
        styles[name] = facts["networks"][name]["style"]
        diffusers_folder.configuration(nets[name])  # refuses what diffusers lacks, before anything is written
        prepare_folder((output / file).parent)
        state = state_of(facts, {name: (nets[name], params)}, _extras(model, file))
        write_state(output / file, state)
        report(f"wrote {output / file}: {len(state)} tensors")
    diffusers_folder.write_configurations(output, nets, styles, card.get("sampling", {}))
    if left := sorted(set(card["networks"]) - set(names)):
        report(f"left out, as diffusers has no place for them: {', '.join(left)}")


def _extras_path(model: Path, file: str) -> Path:
    return model / f"{file.replace('/', '.')}.extras.safetensors"


def _extras(model: Path, file: str) -> dict[str, np.ndarray]:
    path = _extras_path(model, file)
    return map_tensors(path) if path.exists() else {}
