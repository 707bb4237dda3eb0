"""The server beside clients that others wrote: openai's, and EleutherAI's evaluation harness."""

import asyncio

import numpy as np
import openai
import pytest
from support.serving import served, small

import numgpt

MODEL = small()
PROMPT = "Once upon a time there"


@pytest.fixture(scope="module")
def server():
    with served(MODEL, api_key="secret", batch_size=4) as client:
        yield client


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as found:
        yield found


def test_it_lists_its_model(client):
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").owned_by == "numgpt"


def test_it_completes(client):
    options = {"temperature": 0.7, "top_p": 0.9, "seed": 4, "presence_penalty": 0.4, "frequency_penalty": 0.3}
    found = client.completions.create(
        model="small", prompt=PROMPT, max_tokens=20, n=2, logit_bias={"11": -100}, stop=["§"], **options
    )
    expected = numgpt.generate_batch(
        [MODEL.tokenizer.encode(PROMPT)],
        MODEL.params,
        MODEL.config,
        max_new_tokens=20,
        num_return_sequences=2,
        logit_bias={11: -100},
        **options,
    )
    assert [choice.text for choice in found.choices] == [MODEL.tokenizer.decode(ids) for ids in expected]
    assert found.usage.completion_tokens == sum(map(len, expected))


def test_it_streams(client):
    whole = client.completions.create(model="small", prompt=PROMPT, max_tokens=20, seed=4).choices[0].text
    parts = list(
        client.completions.create(
            model="small", prompt=PROMPT, max_tokens=20, seed=4, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(choice.text for part in parts for choice in part.choices) == whole
    assert parts[-2].choices[0].finish_reason == "length"
    assert parts[-1].usage.total_tokens == 26


def test_many_stream_at_once(server):
    async def all_texts():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="secret") as client:

            async def text(seed):
                options = {"model": "small", "prompt": PROMPT, "max_tokens": 25, "seed": seed, "stream": True}
                return "".join([part.choices[0].text async for part in await client.completions.create(**options)])

            return await asyncio.gather(*map(text, range(12)))

    expected = [numgpt.complete(MODEL, PROMPT, max_new_tokens=25, seed=seed) for seed in range(12)]
    assert asyncio.run(all_texts()) == expected


def test_it_has_log_probabilities(client):
    ids = MODEL.tokenizer.encode(PROMPT)
    found = (
        client.completions.create(model="small", prompt=ids, max_tokens=1, echo=True, logprobs=5).choices[0].logprobs
    )
    assert "".join(found.tokens[:6]) == PROMPT
    expected = numgpt.score(MODEL, ids).log_probs
    np.testing.assert_allclose(found.token_logprobs[1:6], expected[1:], rtol=0, atol=1e-5)
    assert all(len(top) in (5, 6) for top in found.top_logprobs[1:])


def test_what_is_refused_is_the_error_that_the_client_has_for_it(client, server):
    with pytest.raises(openai.BadRequestError, match="best_of is not offered"):
        client.completions.create(model="small", prompt="a", best_of=3)
    with pytest.raises(openai.BadRequestError, match="messages is not offered"):
        client.chat.completions.create(model="small", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.NotFoundError, match="is not here"):
        client.completions.create(model="gpt-4", prompt="a")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="other").completions.create(model="small", prompt="a")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="small", input="a")
