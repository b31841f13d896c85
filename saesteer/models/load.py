"""Turn whatever the user has (a name, a folder, a module, a bridge) into a `Model`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saesteer.errors import ModelError, NetworkError
from saesteer.files import path_of
from saesteer.models.aliases import hub_name
from saesteer.models.fastest import fastest_dtype
from saesteer.models.layout import layout_of
from saesteer.models.model import Model
from saesteer.models.placing import as_device, as_dtype


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar for reading weights from disk, which takes a second; downloads keep one."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_model(
    ref: Any,
    *,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    cache_dir: str | Path | None = None,
    device_map: Any = None,
    offload_folder: str | Path | None = None,
) -> Model:
    """Load a causal language model, or wrap one that is loaded already.

    One that is wrapped is the caller's own: it stays where and as it is, and a `device` or `dtype`
    given here moves or casts it in place.

    Args:
        ref: `smollm2-135m-instruct` (ships through the package registry), any Hugging Face name
            or folder, TransformerLens's name of a model (`gpt2-small` is `gpt2`), a `.gguf` file,
            a Hugging Face module, or a TransformerBridge.
        tokenizer: overrides the one found beside the model; needed for a bare module that does not
            name where it came from.
        device: "cuda", "mps", "cpu" ...; default, by name, is the best one present.
        dtype: default, by name, is float32 on CPU and the checkpoint's own dtype ("auto")
            elsewhere; "fastest" is bfloat16 where the device has units for it.
        cache_dir: where fetched models are kept; default `SAESTEER_CACHE` or the user's cache.
        device_map: passed on to `transformers` to spread a model over several devices.
        offload_folder: where the parts go that `device_map` puts on "disk".

    Raises:
        ModelError: not found, unreadable, damaged, or no causal decoder.
        NetworkError: it has to be fetched and can't be.
    """
    from saesteer.models import embedded

    if not isinstance(ref, (str, Path)):
        return _prepare(_wrap(ref, tokenizer), device if device_map is None else None, dtype)
    device = _device(device)
    dtype = _dtype(dtype, device)
    if str(ref) == embedded.NAME:
        model = embedded.load(cache_dir=cache_dir, dtype=dtype)
        return _prepare(model, device, None)
    placed = {"device_map": device_map, "offload_folder": offload_folder}
    model = _from_pretrained(hub_name(str(ref)), tokenizer, dtype, placed, cache_dir)
    return _prepare(model, None if device_map else device, None)


def load_skeleton(ref: str) -> Model:
    """A model's shapes alone, on the meta device: no weights are read and nothing can be run.

    Raises:
        ModelError, NetworkError: as `load_model`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from saesteer.models import embedded

    ref = hub_name(ref)
    where, options = _source(str(embedded.prepare()) if ref == embedded.NAME else ref)
    try:
        with torch.device("meta"):
            hf = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(where, **options))
    except Exception as error:
        raise _load_error(ref, error) from error
    return Model(hf, None, ref, layout_of(hf))


def as_model(obj: Any) -> Model:
    """`obj` itself if it is a `Model`, else a `Model` around the module or bridge given.

    The wrapper is kept on the module, so that the same module always gives the same `Model`.
    """
    return _wrap(obj, None)


def best_device() -> str:
    """cuda if there is one, then mps, then cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(dtype: torch.dtype | str | None, device: str | torch.device) -> torch.dtype | str:
    if dtype is None:
        return torch.float32 if torch.device(device).type == "cpu" else "auto"
    if dtype == "auto":
        return dtype
    if dtype == "fastest":
        return fastest_dtype(device)
    return as_dtype(dtype, ModelError, also=("auto", "fastest"))


def _prepare(model: Model, device: Any, dtype: Any) -> Model:
    if dtype is not None:
        dtype = _dtype(dtype, model.device)
    if device is not None or isinstance(dtype, torch.dtype):
        wanted = dtype if isinstance(dtype, torch.dtype) else None
        if wanted not in (None, model.dtype):
            model.__dict__.pop("_weights_fingerprint", None)
        try:
            model.hf.to(device=device, dtype=wanted)
        except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
            raise ModelError(f"{model.name} can't be put on {device}: {_line(error)}") from error
    model.hf.eval()
    return model


def _device(device: str | torch.device | None) -> str | torch.device:
    """The device asked for, looked for now: one that is not there fails before weights are read."""
    return best_device() if device is None else as_device(device, ModelError)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _wrap(obj: Any, tokenizer: Any) -> Model:
    if isinstance(obj, Model):
        return obj
    inner = getattr(obj, "original_model", obj)
    if not isinstance(inner, nn.Module):
        raise ModelError(
            f"{type(obj).__name__} is not a model: pass a name, a folder, a Hugging Face causal LM "
            "or a TransformerBridge."
        )
    known = inner.__dict__.get("_saesteer_model")
    if isinstance(known, Model) and tokenizer is None:
        return known
    tokenizer = tokenizer or getattr(obj, "tokenizer", None) or _tokenizer_beside(inner)
    name = getattr(inner.config, "_name_or_path", "") if hasattr(inner, "config") else ""
    model = Model(inner, tokenizer, name or type(inner).__name__, layout_of(inner))
    inner.__dict__["_saesteer_model"] = model
    return model


def _tokenizer_beside(module: Any) -> Any:
    """The tokenizer stored where the module came from, or None for a module made in memory."""
    place = getattr(getattr(module, "config", None), "_name_or_path", "")
    if not place:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError):
        return None


def _from_pretrained(
    ref: str, tokenizer: Any, dtype: Any, placed: dict[str, Any], cache_dir: str | Path | None
) -> Model:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, options = _source(ref)
    if cache_dir is not None:
        options["cache_dir"] = str(cache_dir)
    try:
        with quiet_loading():
            found: Any = AutoModelForCausalLM.from_pretrained(
                where,
                dtype=dtype,
                use_safetensors=_safe(ref),
                output_loading_info=True,
                **placed,
                **options,
            )
        hf, read = found
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:
        raise _load_error(ref, error) from error
    if missing := sorted(read["missing_keys"]):
        raise ModelError(
            f"{ref}: {len(missing)} weights are missing, which would be random ({missing[0]} "
            "first); fetch or save the model again."
        )
    if "gguf_file" in options:
        unmark_gguf(hf)
    model = Model(hf, tokenizer, ref, layout_of(hf))
    hf.__dict__["_saesteer_model"] = model
    return model


def unmark_gguf(hf: Any) -> None:
    """Make a model that was read from GGUF one that can be saved: its weights are plain by then,
    yet it is still marked as quantised."""
    hf.hf_quantizer = None
    hf.config.__dict__.pop("quantization_config", None)


def _source(ref: str) -> tuple[str, dict[str, Any]]:
    path = path_of(ref, ModelError).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"{ref}: no such GGUF file.")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"{ref}: the folder has no config.json, so it holds no model.")
    looks_local = ref.startswith((".", "/", "~")) or ref.count("/") > 1
    if looks_local and not path.exists():
        raise ModelError(f"{ref}: no such folder.")
    return (str(path) if path.is_dir() else ref), {}


def _safe(ref: str) -> bool | None:
    """Only safetensors, never pickles; None lets the GGUF reader choose."""
    return None if ref.endswith(".gguf") else True


def _load_error(ref: str, error: Exception) -> ModelError | NetworkError:
    text = _line(error)
    if Path(ref).expanduser().exists():
        return ModelError(f"{ref}: can't be read as a causal language model: {text}")
    lowered = f"{type(error).__name__} {text}".lower()
    if any(word in lowered for word in ("connect", "offline", "resolve", "timed out", "timeout")):
        return NetworkError(
            f"{ref}: not in the local cache, and the hub can't be reached. "
            "Check the name, or use smollm2-135m-instruct, or a local folder."
        )
    return ModelError(
        f"{ref}: no such model. Use smollm2-135m-instruct, a Hugging Face name, or a folder. "
        f"({text[:160]})"
    )
