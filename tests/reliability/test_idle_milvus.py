"""An index in a file of Milvus opens after minutes without a call; milvus-lite hangs up on clients that send pings."""

import os
import time

import pytest

from simcse import SearchIndex, SentenceEncoder

pytest.importorskip("pymilvus")


@pytest.mark.skipif(not os.environ.get("SIMCSE_SOAK"), reason="long form: make soak")
def test_an_index_opens_after_minutes_without_a_call(tmp_path, tiny_bert):
    encoder, texts = SentenceEncoder.from_pretrained(tiny_bert, dtype="fp32"), ["a cat sits", "rain falls"]
    place = f"milvus:{tmp_path / 'idle.db'}"
    SearchIndex.build(texts, encoder.encode, kind=place)
    for number in range(4):  # whether an opening meets the moment of hanging up is chance
        time.sleep(60)
        index = SearchIndex.build(texts, encoder.encode, kind=f"{place}#again_{number}")
        assert index.search(texts[:1], top_k=1)[0][0].text == texts[0]
