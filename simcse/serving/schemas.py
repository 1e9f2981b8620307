"""Requests and responses of the service as JSON; the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

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


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, expected text that UTF-8 can write") from error
    return text


Text = Annotated[StrictStr, AfterValidator(_utf8)]
Whole = Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)]  # what SQLite can compare with
Key = Whole | Text
Scalar = StrictBool | Whole | StrictFloat | Text | None


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SearchRequest(_Request):
    """What to search for."""

    query: Text | list[Text] = Field(description="a text, or several", examples=["a man plays music"])
    top_k: StrictInt = Field(5, ge=1, description="hits for each query, at most")
    min_score: float | None = Field(None, description="the least cosine of a hit")
    where: dict[Text, Scalar | list[Scalar] | dict[Text, Scalar]] = Field(
        {},
        description='metadata that hits must have: {"lang": "en"}, {"lang": ["en", "de"]}, {"year": {">=": 2000}}',
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

    a: list[Text] = Field(
        min_length=1, description="texts of the rows", examples=[["A cat sleeps.", "A kitten naps.", "It rains."]]
    )
    b: list[Text] | None = Field(None, min_length=1, description="texts of the columns; default those of a")


class SimilarityResponse(BaseModel):
    """Cosine of each text of a with each of b."""

    scores: list[list[float]] = Field(description="a row for each text of a, a column for each text of b")


class EncodeRequest(_Request):
    """Texts to encode."""

    texts: list[Text] = Field(min_length=1, examples=[["A cat sleeps."]])


class EncodeResponse(BaseModel):
    """Vectors of length 1, in the order of the texts."""

    vectors: list[list[float]]
    dimension: int
    model: str


class PlaceRequest(_Request):
    """What to find on the map."""

    ids: list[Key] = Field([], description="ids of texts in the index")
    texts: list[Text] = Field([], description="any texts, such as a query")


class PlaceResponse(BaseModel):
    """Where it lies."""

    ids: list[Key] = Field(description="those of the request that are in the index")
    positions: list[list[float]] = Field(description="[x, y] of each of these ids")
    texts: list[list[float]] = Field(description="[x, y] of each text")


class ErrorResponse(BaseModel):
    """Why a request was refused, in one line: what was found, what is expected."""

    detail: str
