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
    "AddRequest",
    "AddResponse",
    "BaseRequest",
    "DeleteRequest",
    "DeleteResponse",
    "EmbeddingsRequest",
    "EmbeddingsResponse",
    "EncodeRequest",
    "EncodeResponse",
    "ErrorResponse",
    "HealthResponse",
    "InfoResponse",
    "Key",
    "ModelsResponse",
    "OpenAIErrorResponse",
    "SearchRequest",
    "SearchResponse",
    "SimilarityRequest",
    "SimilarityResponse",
    "Texts",
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


def _no_token_ids(texts: Any) -> Any:
    if isinstance(texts, list) and texts and isinstance(texts[0], (int, list)):
        raise ValueError(
            "found token ids, expected texts: this encoder has a vocabulary of its own (LangChain's OpenAIEmbeddings "
            "sends texts with check_embedding_ctx_length=False)"
        )
    return texts


# each list stops at its first fault: noting half a million would delay every other request
Text = Annotated[StrictStr, AfterValidator(_utf8)]
Texts = Annotated[list[Text], Field(fail_fast=True)]
Whole = Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)]  # what SQLite can compare with
Key = Whole | Text
Scalar = StrictBool | Whole | StrictFloat | Text | None
Where = Annotated[
    dict[Text, Scalar | Annotated[list[Scalar], Field(fail_fast=True)] | dict[Text, Scalar]], BeforeValidator(_bounded)
]


class BaseRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, values: Any) -> Any:
        if isinstance(values, dict) and len(values) > MOST_KEYS:
            raise ValueError(f"found {len(values)} keys, expected at most {len(cls.model_fields)}")
        return values


class SearchRequest(BaseRequest):
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


class SimilarityRequest(BaseRequest):
    """Texts to compare."""

    a: Texts = Field(
        min_length=1, description="texts of the rows", examples=[["A cat sleeps.", "A kitten naps.", "It rains."]]
    )
    b: Texts | None = Field(None, min_length=1, description="texts of the columns; default those of a")


class SimilarityResponse(BaseModel):
    """Cosine of each text of a with each of b."""

    scores: list[list[float]] = Field(description="a row for each text of a, a column for each text of b")


class EncodeRequest(BaseRequest):
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


class AddRequest(BaseRequest):
    """Texts to add to the index, all or none."""

    texts: Texts = Field(min_length=1, examples=[["A cat sleeps."]])
    ids: Annotated[list[Key], Field(fail_fast=True)] | None = Field(
        None,
        description="one for each text, a number from 0 on or a text; default the next free numbers",
        examples=[None],
    )
    metadata: Annotated[list[dict[Text, Any] | None], Field(fail_fast=True)] | None = Field(
        None, description="JSON values to keep, and to filter by, for each text", examples=[[{"lang": "en"}]]
    )
    upsert: StrictBool = Field(False, description="whether a text whose id is there already replaces the old one")


class AddResponse(BaseModel):
    """What was added; it is durable."""

    ids: list[Key] = Field(description="of the texts, in their order")


class DeleteRequest(BaseRequest):
    """Texts to delete from the index, all or none."""

    ids: Annotated[list[Key], Field(fail_fast=True, min_length=1)] = Field(examples=[[0]])


class DeleteResponse(BaseModel):
    """What was deleted, durably."""

    deleted: int


class EmbeddingsRequest(BaseRequest):
    """Texts to encode, as OpenAI's clients ask for it."""

    input: Annotated[Text | Texts, BeforeValidator(_no_token_ids)] = Field(
        description="a text, or several", examples=["A cat sleeps."]
    )
    model: Text | None = Field(None, description="given back; the service has one encoder", examples=[None])
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="numbers, or base64 of them as float32 in little-endian order"
    )
    dimensions: StrictInt | None = Field(
        None, ge=1, description="the first dimensions to keep, scaled to length 1 again; default all", examples=[None]
    )
    user: Text | None = Field(None, description="ignored", examples=[None])
    role: Literal["query", "document"] | None = Field(
        None, description="as of /api/encode, which OpenAI's interface does not know", examples=[None]
    )


class EmbeddingResponse(BaseModel):
    """A vector of length 1."""

    object: Literal["embedding"]
    index: int = Field(description="of its text in the request")
    embedding: list[float] | str


class UsageResponse(BaseModel):
    """Tokens that the encoder has read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """Vectors in the order of the texts."""

    object: Literal["list"]
    data: list[EmbeddingResponse]
    model: str
    usage: UsageResponse


class ModelResponse(BaseModel):
    """The encoder."""

    id: str
    object: Literal["model"]
    created: int = Field(description="when the service began, in seconds since 1970")
    owned_by: str


class ModelsResponse(BaseModel):
    """The encoder, as the only one of a list."""

    object: Literal["list"]
    data: list[ModelResponse]


class InfoResponse(BaseModel):
    """Facts; which there are depends on the encoder and on where the index lies."""

    encoder: dict[str, Any] = Field(
        examples=[{"name": "runs/mine/best", "dimension": 384, "pooling": "mean", "max_length": 256, "device": "cpu"}]
    )
    index: dict[str, Any] = Field(examples=[{"name": "index", "count": 5000, "fields": ["lang", "year"], "deleted": 0}])
    limits: dict[str, int] = Field(examples=[{"max_text": 10000, "max_texts": 128, "max_top_k": 100}])
    version: str


class HealthResponse(BaseModel):
    """Whether the service works, and why not."""

    status: Literal["ok", "failing", "stopping"]
    reason: str | None = Field(None, description="where it is failing", examples=[None])


class ErrorResponse(BaseModel):
    """Why a request was refused, in one line: what was found, what is expected."""

    detail: str


class OpenAIError(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorResponse(BaseModel):
    """Why a request was refused, as OpenAI's clients read it."""

    error: OpenAIError
