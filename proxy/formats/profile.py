"""Profiles: what the columns of a switch's file mean, as data (TOML), so that a new switch needs no code.

The form is described in deploy/docs/profiles.md. A profile is checked completely when it is loaded: unknown keys,
fields that do not exist, patterns that do not compile and contradicting trunk maps are refused with a message that says
where.
"""

from __future__ import annotations

import hashlib
import tomllib
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import polars as pl

from proxy.formats.frame import FILE_FIELDS
from proxy.formats.trunks import TrunkEntry, TrunkMap, TrunkMapError, entries_of, read_trunk_map
from schema.fields import BY_NAME, Kind

BUILTIN: Final = ("tollgate", "freeswitch-csv", "asterisk-csv", "kamailio-acc")
"""Names of the profiles that come with Tollgate."""

DISPOSITIONS: Final = ("answered", "busy", "no_answer", "cancelled", "failed")
DURATION_UNITS: Final = {"s": 1_000, "ms": 1}
TIME_WORDS: Final = ("rfc3339", "epoch", "epoch_ms", "epoch_us")
_PROFILES = Path(__file__).parent / "profiles"
_MAPPABLE = frozenset(f.name for f in FILE_FIELDS)


class ProfileError(Exception):
    """A profile is missing or wrong; the message names it, the key, and what to do."""


@dataclass(frozen=True, slots=True)
class FieldSource:
    """Where the value of one field comes from."""

    columns: tuple[str, ...] = ()
    """Columns, the first usable one wins (for numbers: the first that is an E.164 number, else the first written)."""
    value: str = ""
    """Used where the columns give nothing."""
    join: str | None = None
    """Join the columns with this text instead of taking the first (nothing if the first is empty)."""
    pattern: str | None = None
    """Regular expression; its first group is the value (the whole text stays where it does not match)."""
    param: str | None = None
    """Name of the ``;name=value`` parameter that is the value (RFC 3966, RFC 4694)."""
    map: Mapping[str, str] = field(default_factory=dict)
    """Text → text, case as written."""
    otherwise: str | None = None
    """What a text that is not in the map becomes; none: it stays."""
    absent: frozenset[str] = frozenset()
    """Texts that mean: no value."""
    when: tuple[str, frozenset[str]] | None = None
    """The value counts only where this column holds one of these texts."""
    answered: str | None = None
    """The value of a call with an answer time, whatever the columns say (disposition)."""
    unit: str = "s"
    """Unit of a duration: s or ms."""
    formats: tuple[str, ...] = ()
    """Time formats of this field, instead of the profile's."""
    truncated_s: int = 0
    """The file's times of this field are cut to so many seconds: see times.refine."""
    optional: bool = False
    """The file may lack the columns."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How the files of one kind of switch are read."""

    name: str
    fields: Mapping[str, FieldSource]
    identity: tuple[str, ...]
    """Fields that together are one call's identity, for finding duplicates."""
    description: str = ""
    delimiter: str = ","
    quote: str = '"'
    """Quote character, or empty: no quoting at all."""
    header: str = "yes"
    """``yes``, ``no`` or ``auto`` (the first line is a header if it names the columns)."""
    layouts: tuple[tuple[str, ...], ...] = ()
    """Column names by position, of files without a header; chosen by the number of columns."""
    encoding: str = "utf-8"
    extra_columns: str = "ignore"
    """``ignore`` or ``refuse`` columns the profile does not know."""
    formats: tuple[str, ...] = ("rfc3339",)
    zone: str = "UTC"
    """Time zone (IANA name) of local times."""
    ambiguous: str = "earliest"
    """Which of two instants a local time in the autumn overlap is: earliest, latest, reject."""
    region: str = ""
    """Region (ISO 3166) of national numbers; empty: only numbers with + are E.164."""
    prefixes: tuple[str, ...] = ()
    """Digits before a number that are not of it (technical prefix, carrier access code)."""
    extensions: str = "raw"
    """``strip`` an extension (``x52643``) behind a number, or keep the whole ``raw``."""
    egress_none: tuple[str, ...] = ()
    """Columns that, all empty, say the call reached no egress."""
    trunks: TrunkMap = field(default_factory=lambda: TrunkMap(()))

    @property
    def digest(self) -> bytes:
        """SHA-256 of everything the profile says, trunk map included: what an ingest was read by."""
        return hashlib.sha256(repr(self).encode()).digest()

    def columns_of(self, name: str) -> tuple[str, ...]:
        """Return every column that field ``name`` reads."""
        source = self.fields[name]
        return source.columns + ((source.when[0],) if source.when else ())


_FILE_KEYS = {"delimiter", "quote", "header", "layouts", "encoding", "extra_columns"}
_TOP_KEYS = {
    "name",
    "description",
    "identity",
    "file",
    "times",
    "numbers",
    "legs",
    "fields",
    "trunks",
    "trunk_map",
}
_FIELD_KEYS = {
    "column",
    "columns",
    "value",
    "join",
    "pattern",
    "param",
    "map",
    "otherwise",
    "absent",
    "when",
    "answered",
    "unit",
    "formats",
    "truncated_s",
    "optional",
}


class _Reader:
    """Checked access to the tables of one profile."""

    def __init__(self, where: str) -> None:
        self.where = where

    def fail(self, what: str) -> ProfileError:
        return ProfileError(f"{self.where}: {what}")

    def known(self, table: Mapping[str, Any], keys: set[str], name: str) -> None:
        if unknown := sorted(set(table) - keys):
            raise self.fail(f"{name}: unknown key {unknown[0]!r}; known are {', '.join(sorted(keys))}")

    def table(self, top: Mapping[str, Any], key: str, keys: set[str]) -> dict[str, Any]:
        value = top.get(key, {})
        if not isinstance(value, dict):
            raise self.fail(f"{key} must be a table")
        if keys:
            self.known(value, keys, f"[{key}]")
        return value

    def text(self, table: Mapping[str, Any], key: str, default: str) -> str:
        value = table.get(key, default)
        if not isinstance(value, str):
            raise self.fail(f"{key} must be a text")
        return value

    def texts(self, table: Mapping[str, Any], key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        value = table.get(key, list(default))
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.fail(f"{key} must be a text or a list of texts")
        return tuple(value)

    def choice(self, table: Mapping[str, Any], key: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(table, key, default)
        if value not in allowed:
            raise self.fail(f"{key} must be one of {', '.join(allowed)}")
        return value

    def formats(self, table: Mapping[str, Any], default: tuple[str, ...]) -> tuple[str, ...]:
        found = self.texts(table, "formats", default)
        for one in found:
            if one not in TIME_WORDS and "%" not in one:
                raise self.fail(f"time format {one!r} is neither a strptime pattern nor one of {', '.join(TIME_WORDS)}")
            if "%" in one:
                try:
                    pl.Series(["x"]).str.to_datetime(one, strict=False)
                except pl.exceptions.PolarsError:
                    raise self.fail(f"time format {one!r} cannot be used") from None
        return found

    def source(self, name: str, value: object) -> FieldSource:
        """Return one entry of ``[fields]``: a column, a list of columns, or a table."""
        if name not in _MAPPABLE:
            raise self.fail(f"[fields]: {name!r} is no field of the record")
        if isinstance(value, str | list):
            value = {"columns": value}
        if not isinstance(value, dict):
            raise self.fail(f"[fields] {name}: a column, a list of columns, or a table")
        self.known(value, _FIELD_KEYS, f"[fields] {name}")
        columns = self.texts(value, "columns") + self.texts(value, "column")
        constant = self.text(value, "value", "")
        if not columns and not constant:
            raise self.fail(f"[fields] {name}: neither a column nor a value")
        pattern = value.get("pattern")
        if pattern is not None:
            try:
                pl.Series([""]).str.extract(self.text(value, "pattern", ""))
            except pl.exceptions.PolarsError:
                raise self.fail(f"[fields] {name}: the pattern does not compile or has no group") from None
        truncated = value.get("truncated_s", 0)
        if not isinstance(truncated, int) or isinstance(truncated, bool) or not 0 <= truncated <= 60:
            raise self.fail(f"[fields] {name}: truncated_s must be 0 to 60")
        optional = value.get("optional", False)
        if not isinstance(optional, bool):
            raise self.fail(f"[fields] {name}: optional must be true or false")
        mapping = value.get("map", {})
        if not isinstance(mapping, dict) or not all(isinstance(v, str) for v in mapping.values()):
            raise self.fail(f"[fields] {name}: map must be a table of texts")
        return FieldSource(
            columns=columns,
            value=constant,
            join=self._maybe(value, "join"),
            pattern=self._maybe(value, "pattern"),
            param=self._maybe(value, "param"),
            map=dict(mapping),
            otherwise=self._maybe(value, "otherwise"),
            absent=frozenset(self.texts(value, "absent")),
            when=self._when(name, value.get("when")),
            answered=self._maybe(value, "answered"),
            unit=self.choice(value, "unit", "s", tuple(DURATION_UNITS)),
            formats=self.formats(value, ()) if BY_NAME[name].kind is Kind.TIME else (),
            truncated_s=truncated,
            optional=optional,
        )

    def _maybe(self, table: Mapping[str, Any], key: str) -> str | None:
        return self.text(table, key, "") if key in table else None

    def _when(self, name: str, value: object) -> tuple[str, frozenset[str]] | None:
        if value is None:
            return None
        if not isinstance(value, dict) or set(value) != {"column", "in"}:
            raise self.fail(f"[fields] {name}: when is {{ column = …, in = [ … ] }}")
        return self.text(value, "column", ""), frozenset(self.texts(value, "in"))

    def profile(self, top: Mapping[str, Any], folder: Path, trunk_map: Path | None) -> Profile:
        self.known(top, _TOP_KEYS, "profile")
        file = self.table(top, "file", _FILE_KEYS)
        times = self.table(top, "times", {"formats", "zone", "ambiguous"})
        numbers = self.table(top, "numbers", {"default_region", "prefixes", "extensions"})
        legs = self.table(top, "legs", {"egress_none"})
        fields = {n: self.source(n, v) for n, v in self.table(top, "fields", set()).items()}
        if "started_at" not in fields:
            raise self.fail("[fields] started_at is missing: a record needs its start")
        identity = self.texts(top, "identity")
        for name in identity:
            if name not in fields:
                raise self.fail(f"identity: {name!r} is not in [fields]")
        if not set(identity) - {"started_at", "switch_id"}:
            raise self.fail("identity: needs a field that tells two calls of one instant apart, such as a call id")
        return Profile(
            name=self.text(top, "name", "") or self.where,
            fields=fields,
            identity=identity,
            description=self.text(top, "description", ""),
            delimiter=self._character(file, "delimiter", ","),
            quote=self._character(file, "quote", '"', empty=True),
            header=self.choice(file, "header", "yes", ("yes", "no", "auto")),
            layouts=self._layouts(file),
            encoding=self.choice(file, "encoding", "utf-8", ("utf-8", "iso-8859-1")),
            extra_columns=self.choice(file, "extra_columns", "ignore", ("ignore", "refuse")),
            formats=self.formats(times, ("rfc3339",)),
            zone=self._zone(times),
            ambiguous=self.choice(times, "ambiguous", "earliest", ("earliest", "latest", "reject")),
            region=self._region(numbers),
            prefixes=self.texts(numbers, "prefixes"),
            extensions=self.choice(numbers, "extensions", "raw", ("strip", "raw")),
            egress_none=self.texts(legs, "egress_none"),
            trunks=self._trunks(top, folder, trunk_map),
        )

    def _character(self, table: Mapping[str, Any], key: str, default: str, *, empty: bool = False) -> str:
        value = self.text(table, key, default)
        if (value == "" and empty) or (len(value) == 1 and value.isascii() and value not in "\r\n\0"):
            return value
        raise self.fail(f"{key} must be one ASCII character")

    def _layouts(self, table: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
        value = table.get("layouts", [])
        if not isinstance(value, list) or not all(isinstance(v, list) for v in value):
            raise self.fail("layouts must be a list of lists of column names")
        found = tuple(self.texts({"layouts": v}, "layouts") for v in value)
        if len({len(v) for v in found}) != len(found) or any(len(set(v)) != len(v) for v in found):
            raise self.fail("layouts must differ in their number of columns and repeat no name")
        if table.get("header", "yes") != "yes" and not found:
            raise self.fail("layouts: a file without a header needs its columns' names")
        return found

    def _zone(self, table: Mapping[str, Any]) -> str:
        value = self.text(table, "zone", "UTC")
        try:
            zoneinfo.ZoneInfo(value)
            pl.Series([0]).cast(pl.Datetime("us")).dt.replace_time_zone(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, pl.exceptions.PolarsError):
            raise self.fail(f"zone: {value!r} is no time zone name such as America/New_York") from None
        return value

    def _region(self, table: Mapping[str, Any]) -> str:
        value = self.text(table, "default_region", "")
        if value and not (len(value) == 2 and value.isascii() and value.isupper()):
            raise self.fail("default_region must be an ISO 3166 code such as US")
        return value

    def _trunks(self, top: Mapping[str, Any], folder: Path, trunk_map: Path | None) -> TrunkMap:
        inline = top.get("trunks", [])
        if not isinstance(inline, list) or not all(isinstance(t, dict) for t in inline):
            raise self.fail("trunks must be [[trunks]] tables")
        named = self.text(top, "trunk_map", "")
        if trunk_map is None and named:
            trunk_map = folder / named
        try:
            if trunk_map is not None:
                if inline:
                    raise self.fail("give either [[trunks]] or a trunk_map, not both")
                return TrunkMap(read_trunk_map(trunk_map))
            return TrunkMap(entries_of(inline, f"{self.where}: [[trunks]]"))
        except TrunkMapError as error:
            raise ProfileError(str(error)) from None


def load_profile(
    name_or_path: str | Path, *, trunk_map: Path | None = None, switch_id: str | None = None, zone: str | None = None
) -> Profile:
    """Load a profile by the name of a built-in one or by the path of a TOML file.

    Args:
        name_or_path: one of :data:`BUILTIN`, or a path (anything with a slash or ending in ``.toml``).
        trunk_map: CSV file of trunks; takes the place of the one the profile names.
        switch_id: name of the switch, for files that do not say it.
        zone: IANA name of the time zone of local times, instead of the profile's.

    Raises:
        ProfileError: if there is no such profile or it is wrong.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, str) and name_or_path in BUILTIN:
        path = _PROFILES / f"{name_or_path}.toml"
    elif "/" in text or text.endswith(".toml"):
        path = Path(text)
    else:
        raise ProfileError(f"no profile {text!r}; built in are {', '.join(BUILTIN)}, or give the path of a .toml file")
    reader = _Reader(path.name)
    try:
        top = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(f"cannot read the profile {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} is not TOML: {error}") from None
    if zone is not None:
        top["times"] = {**reader.table(top, "times", set()), "zone": zone}
    profile = reader.profile(top, path.parent, trunk_map)
    if switch_id is not None:
        fields = {**profile.fields, "switch_id": FieldSource(value=switch_id)}
        profile = replace(profile, fields=fields)
    return profile


__all__ = ["BUILTIN", "DISPOSITIONS", "FieldSource", "Profile", "ProfileError", "TrunkEntry", "load_profile"]
