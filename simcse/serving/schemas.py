"""Requests and responses of the service as JSON; the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

__all__ = [
    "EncodeRequest",
    "EncodeResponse",
    "ErrorResponse",
    "PlaceRequest",
    "PlaceResponse",
    "SearchRequest",
    "SearchResponse",
    "SimilarityRequest",
    "SimilarityResponse",
]


MOST_KEYS = 32  # of a request
MOST_FIELDS = 16  # of a filter
MOST_VALUES = 1000  # that one field of a filter may have
LONGEST_NAME = 256  # characters of a field's name
LONGEST_VALUE = 4096  # characters of a text in a filter


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, expected text that UTF-8 can write") from error
    return text


def _bounded(where: Any) -> Any:
    """A filter as it came, once nothing in it is too many or too long: it is compared with every row of the index."""
    if not isinstance(where, dict):
        return where  # refused by its type
    if len(where) > MOST_FIELDS:
        raise ValueError(f"found {len(where)} fields, expected at most {MOST_FIELDS}")
    for name, wanted in where.items():
        if len(name) > LONGEST_NAME:
            raise ValueError(f"found a field's name of {len(name)} characters, expected at most {LONGEST_NAME}")
        values = list(wanted.values()) if isinstance(wanted, dict) else wanted if isinstance(wanted, list) else [wanted]
        if len(values) > MOST_VALUES:
            raise ValueError(f"field {name!r}: found {len(values)} values, expected at most {MOST_VALUES}")
        longest = max((len(value) for value in values if isinstance(value, str)), default=0)
        if longest > LONGEST_VALUE:
            raise ValueError(f"field {name!r}: found a text of {longest} characters, expected at most {LONGEST_VALUE}")
    return where


# each list stops at its first fault: noting half a million would delay every other request
Text = Annotated[StrictStr, AfterValidator(_utf8)]
Texts = Annotated[list[Text], Field(fail_fast=True)]
Whole = Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)]  # what SQLite can compare with
Key = Whole | Text
Scalar = StrictBool | Whole | StrictFloat | Text | None
Where = Annotated[
    dict[Text, Scalar | Annotated[list[Scalar], Field(fail_fast=True)] | dict[Text, Scalar]], BeforeValidator(_bounded)
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, values: Any) -> Any:
        if isinstance(values, dict) and len(values) > MOST_KEYS:
            raise ValueError(f"found {len(values)} keys, expected at most {len(cls.model_fields)}")
        return values


class SearchRequest(_Request):
    """What to search for."""

    query: Text | Texts = Field(description="a text, or several", examples=["a man plays music"])
    top_k: StrictInt = Field(5, ge=1, description="hits for each query, at most")
    min_score: float | None = Field(None, description="the least cosine of a hit")
    where: Where = Field(
        {},
        description='metadata that hits must have: {"lang": "en"}, {"lang": ["en", "de"]}, {"year": {">=": 2000}}; '
        f"at most {MOST_FIELDS} fields of {MOST_VALUES} values",
        examples=[{}],
    )


class HitResponse(BaseModel):
    """A text of the index."""

    text: str
    score: float = Field(description="cosine similarity with the query, in [-1, 1]")
    id: int | str
    metadata: dict[str, Any]


class ResultResponse(BaseModel):
    """A query and its hits, best first."""

    query: str
    hits: list[HitResponse]


class SearchResponse(BaseModel):
    """Hits of each query, in the order of the queries."""

    results: list[ResultResponse]
    seconds: float = Field(description="from the request's arrival to its answer")


class SimilarityRequest(_Request):
    """Texts to compare."""

    a: Texts = Field(
        min_length=1, description="texts of the rows", examples=[["A cat sleeps.", "A kitten naps.", "It rains."]]
    )
    b: Texts | None = Field(None, min_length=1, description="texts of the columns; default those of a")


class SimilarityResponse(BaseModel):
    """Cosine of each text of a with each of b."""

    scores: list[list[float]] = Field(description="a row for each text of a, a column for each text of b")


class EncodeRequest(_Request):
    """Texts to encode."""

    texts: Texts = Field(min_length=1, examples=[["A cat sleeps."]])
    role: Literal["query", "document"] | None = Field(
        None,
        description="what the texts are in a search; each has its own prompt, if the encoder has prompts. Default the "
        "encoder's default prompt, if it has one",
        examples=[None],
    )


class EncodeResponse(BaseModel):
    """Vectors of length 1, in the order of the texts."""

    vectors: list[list[float]]
    dimension: int
    model: str


class PlaceRequest(_Request):
    """What to find on the map."""

    ids: Annotated[list[Key], Field(fail_fast=True)] = Field([], description="ids of texts in the index")
    texts: Texts = Field([], description="queries")


class PlaceResponse(BaseModel):
    """Where it lies."""

    ids: list[Key] = Field(description="those of the request that are in the index")
    positions: list[list[float]] = Field(description="[x, y] of each of these ids")
    texts: list[list[float]] = Field(description="[x, y] of each text")


class ErrorResponse(BaseModel):
    """Why a request was refused, in one line: what was found, what is expected."""

    detail: str
