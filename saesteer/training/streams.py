"""From a config to a stream of activations: the model itself, or a cache that it has filled."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict

from torch import nn

from saesteer.config import TrainSAEConfig
from saesteer.data.activations import ActivationStream
from saesteer.data.cache import ActivationCache, CachedSource
from saesteer.data.labels import check_labels
from saesteer.data.prefetch import Prefetched
from saesteer.data.ring import ShuffleRing, rows_taken
from saesteer.data.share import Share
from saesteer.data.sources import Columns, ModelSource, Skippable
from saesteer.data.tokens import TokenStream
from saesteer.errors import ConfigError, DataError
from saesteer.models import Model, Site
from saesteer.models.limits import check_context
from saesteer.training.build import sites_of
from saesteer.training.distributed import ALONE, World
from saesteer.training.loop import Progress
from saesteer.training.passages import ONE_PROCESS, PassageStream
from saesteer.training.signals import StopRequest


def check_run(config: TrainSAEConfig, model: Model, size: int) -> None:
    """Refuse what a model, or so many processes, can't do.

    Raises:
        ConfigError: rows longer than the model has positions, a batch that can't be shared, or a
            run end to end in several processes.
    """
    check_context(model, config.text.context)
    if config.kl and size > 1:
        raise ConfigError(ONE_PROCESS)
    rows, saes = World(size=size).share(config.batch_size, "batch_size"), config.each().values()
    for each in saes if len(saes) < size else ():  # else each is trained on whole batches
        each.check_rows(rows)


def columns_of(config: TrainSAEConfig, model: Model) -> Columns:
    """The sites that a config's SAEs read.

    Raises:
        SiteError: the model has no such site.
        ConfigError: a site is named twice in one SAE.
    """
    sites = [model.check_site(site) for each in config.each().values() for site in sites_of(each)]
    return Columns.of(model, sites, told=config.told)


def open_stream(
    config: TrainSAEConfig, model: Model, columns: Columns, world: World = ALONE
) -> ActivationStream | PassageStream:
    """This process's share of a config's activations, at their beginning: in mixed batches, or in
    the text's order for a run end to end.

    Raises:
        ConfigError: as `check_run`.
        DataError: a text path holds nothing readable, or the cache holds something else.
        PeerError: another process has ended.
    """
    check_run(config, model, world.size)
    if config.kl:
        rows = config.batch_size // config.text.context
        return PassageStream(_model_source(config, model, columns), rows)
    ring = ShuffleRing(
        columns.width,
        world.share(config.batch_size, "batch_size"),
        config.shuffle_batches,
        seed=config.seed + 1 + world.rank,
        dtype=model.dtype,
        device=model.device,
        reuse=config.reuse,
    )
    whole: Skippable
    if config.cache.path is None:
        whole = _model_source(config, model, columns)
    else:
        cache = _cache(config, model, columns)
        # another run may have added shards since some process looked
        cache.keep(-world.most(-len(cache.manifest["shards"])))
        whole = CachedSource(cache, passes=config.cache.passes, seed=config.seed)
    source = Share(whole, world.rank, world.size)
    depth = config.prefetch
    if depth is None:
        depth = 2 if model.device.type == "cuda" else 0
    return ActivationStream(Prefetched(source, depth) if depth else source, ring)


def fill_cache(
    config: TrainSAEConfig,
    model: Model,
    stop: StopRequest,
    progress: Progress | None = None,
    world: World = ALONE,
) -> bool:
    """Put on disk what a run will read; False if a signal stopped it behind a whole shard.

    The leading process fills it and the others wait: shards are in the text's order, and each
    begins where the one before it ended.

    Raises:
        OutputError: the disk is too small, full or read-only, or another run is filling it.
        ConfigError, DataError: as `open_stream`; or the text has ended before there is enough.
    """
    check_run(config, model, world.size)
    if world.leads:
        with closing(_filling(config, model, world)) as filling:
            for done, wanted in filling:
                if progress:
                    progress(done, wanted, {})
                if stop.signal is not None:
                    break
    return not stop.agreed(world)


def _filling(
    config: TrainSAEConfig, model: Model, world: World
) -> Generator[tuple[int, int], None, None]:
    """Fill the cache until it lasts each process to the last step; shards are of unequal sizes."""
    columns = columns_of(config, model)
    cache, source = _cache(config, model, columns), _model_source(config, model, columns)
    start = source.state()
    yield from cache.fill(source, rows_cached(config, world.size))
    while not _check_enough(config, cache, world):
        source.restore(start)
        yield from cache.fill(source, cache.n_rows + 1)


def _model_source(config: TrainSAEConfig, model: Model, columns: Columns) -> ModelSource:
    labelled = [] if config.supervised is None else config.supervised.paths
    for path in labelled:
        check_labels(path, config.text.field)
    tokens = TokenStream(
        config.text.paths,
        model.tokenizer,
        context=config.text.context,
        weights=config.text.weights,
        passes=config.text.passes,
        text_field=config.text.field,
        labelled=labelled,
        numbered=config.even_l0 > 0,
    )
    compiled = _without_hooks(model, columns.sites) if config.compile and not config.kl else ()
    return ModelSource(model, columns, tokens, config.rows_per_pass, compiled)


def _without_hooks(model: Model, sites: Sequence[Site]) -> list[nn.Module]:
    """The blocks up to the last site that have none inside; one may lie at their edges."""
    blocks = model.layout.blocks
    inside = {
        site.layer for site in sites if model.layout.point(site).module is not blocks[site.layer]
    }
    last = max(site.layer for site in sites)
    return [block for i, block in enumerate(blocks[: last + 1]) if i not in inside]


def _cache(config: TrainSAEConfig, model: Model, columns: Columns) -> ActivationCache:
    assert config.cache.path is not None
    identity = {
        "model": model.name,
        "weights": model.fingerprint(),
        "sites": [str(site) for site in columns.sites],
        "text": asdict(config.text),
        "dtype": config.dtype,
        "rows_per_pass": config.rows_per_pass,
    }
    if config.supervised is not None:
        identity["labelled"] = config.supervised.paths
    if config.even_l0:
        identity["numbered"] = True
    return ActivationCache(
        config.cache.path,
        identity,
        width=columns.width,
        dtype=model.dtype,
        rows_per_shard=config.cache.rows_per_shard,
    )


def rows_cached(config: TrainSAEConfig, size: int = 1) -> int:
    """Rows that a run of so many processes keeps on disk: what it draws, per pass over them.

    Whole shards are shared, so that each process but one may have to do with one shard less.
    """
    drawn = config.n_steps * config.batch_size
    ring = 2 * config.shuffle_batches * config.batch_size
    rows = -(-(drawn // config.reuse + ring) // config.cache.passes)
    return rows + (size - 1) * config.cache.rows_per_shard


def _check_enough(config: TrainSAEConfig, cache: ActivationCache, world: World) -> bool:
    """Whether each process's shards last it to the last step; an error where there can't be more.

    Said before the first step: a process that has no rows left ends all of them, and without a
    checkpoint.
    """
    size, passes = world.size, config.cache.passes
    batch = world.share(config.batch_size, "batch_size")
    taken = rows_taken(batch, config.shuffle_batches, config.reuse, config.n_steps)
    sizes = CachedSource(cache, passes=passes, seed=config.seed).sizes()
    lacking = taken - min(sum(sizes[rank::size]) for rank in range(size))
    if lacking > 0 and cache.manifest["ended"]:
        uneven = f"; the smallest share of {size} processes lacks {lacking:,} of them"
        raise DataError(
            f"the text ended when {cache.folder} held {cache.n_rows:,} tokens; n_tokens "
            f"{config.n_tokens:,} needs {taken * size:,}, those to shuffle with included, and "
            f"cache.passes is {passes}{uneven if size > 1 else ''}. Raise cache.passes, lower "
            f"n_tokens,{' start fewer processes,' if size > 1 else ''} or add text and give "
            "another cache.path."
        )
    return lacking <= 0
