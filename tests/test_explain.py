"""Test `jaxflow.explain` against NumPy, the array functions and the command."""

from __future__ import annotations

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import tiny, tiny_agreement

import jaxflow
from jaxflow.__main__ import main
from jaxflow.edges import aggregate
from jaxflow.eval.explanation import explainer
from jaxflow.models import DecoderConfig, Model, init, trace
from jaxflow.models.rotary import Rotary

TEXT = "the keys to the cabinet"
RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(0, 0.4, (2, 4, 8, 8)).astype(np.float32)
INPUTS = RNG.normal(size=(3, 5, 8)).astype(np.float32)
NAMES = [[f"{text}{place}" for place in range(5)] for text in "abc"]
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], bool)


def function(inputs, mask=None, causal=False, added=None):
    """Two layers of two heads, read at the first token; `added` is to attention, by layer."""
    x, n = inputs, inputs.shape[1]
    for layer, (query, key, value, out) in enumerate(WEIGHTS):
        q, k, v = (jnp.reshape(x @ w, (-1, n, 2, 4)) for w in (query, key, value))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2
        if mask is not None:
            scores = jnp.where(mask[:, None, None], scores, -1e9)
        attention = jax.nn.softmax(
            jnp.where(jnp.tri(n, dtype=bool), scores, -1e9) if causal else scores
        )
        attention = attention if added is None else attention + added[layer]
        x = x + jnp.einsum("bhqk,bkhd->bqhd", attention, v).reshape(x.shape) @ out
    return x[:, 0]


def target(output):
    return output[:, 3]


@pytest.fixture(scope="module")
def expected():
    """Attention and its gradients ``[B, L, H, n, n]`` without capture, and the targets."""
    x, attention = INPUTS.astype(np.float64), []
    for query, key, value, out in WEIGHTS.astype(np.float64):
        q, k, v = (np.reshape(x @ w, (-1, 5, 2, 4)) for w in (query, key, value))
        scores = np.exp(np.einsum("bqhd,bkhd->bhqk", q, k) / 2) * MASK[:, None, None]
        attention.append(scores / scores.sum(-1, keepdims=True))
        x = x + np.einsum("bhqk,bkhd->bqhd", attention[-1], v).reshape(x.shape) @ out

    def explained(added):
        return target(function(INPUTS, MASK, added=added)).sum()

    gradient = jax.jit(jax.grad(explained))(jnp.zeros((2, 3, 2, 5, 5)))
    return np.stack(attention, 1), np.asarray(gradient).swapaxes(0, 1), x[:, 0, 3]


def test_a_function_is_explained_from_its_attention_and_gradients(expected):
    methods = ("gradient/product", "rollout", "flow", "raw")
    masked = partial(function, mask=MASK)
    options = {"tokens": NAMES, "target": target, "methods": methods, "residual": 0.3}
    found = jaxflow.explain(masked, INPUTS, mask=MASK, layer=-2, **options)
    for one, names, attention, gradient, value, real in zip(
        found, NAMES, *expected, MASK, strict=True
    ):
        n = real.sum()
        attention, gradient = attention[..., :n, :n], gradient[..., :n, :n]
        edges = np.maximum(attention * gradient, 0).mean(1)
        rows = {
            "gradient/product": np.stack([edges[0][0], (edges[1] @ edges[0])[0]]),
            "rollout": jaxflow.rollout(attention, residual=0.3, sources=0)[:, 0],
            "flow": jaxflow.flow(attention, residual=0.3, sources=0)[:, 0],
            "raw": attention.mean(1)[:, 0],
        }
        assert list(one.tokens) == names[:n]
        assert one.value == pytest.approx(value, abs=1e-4)
        assert list(one.scores) == list(methods)
        for name, values in rows.items():
            np.testing.assert_allclose(one.layers[name], values, atol=1e-5)
            np.testing.assert_array_equal(one.scores[name], one.layers[name][0])


def test_one_example_a_decoder_and_defaults():
    one = jaxflow.explain(
        function, INPUTS[:1], tokens=NAMES[0], readout=0, target=lambda out: out[0, 3]
    )
    assert list(one.scores) == ["gradient/product", "rollout", "flow"]
    assert one.readout == 0
    decoder = jaxflow.explain(lambda inputs: function(inputs, causal=True), INPUTS[:1])
    assert (list(decoder.scores), decoder.readout) == (["rollout", "flow"], 4)
    assert decoder.tokens[4] == "4"
    assert "<lambda> alone" in str(decoder)


def listed(layers, inputs):
    """One example ``[n, d]`` by layers of parameters in a list."""
    x = inputs
    for one in layers:
        q, k, v = ((x @ one[name]).reshape(len(x), 2, -1).swapaxes(0, 1) for name in "qkv")
        weights = jax.nn.softmax(q @ k.swapaxes(1, 2) / 2)
        x = x + (weights @ v).swapaxes(0, 1).reshape(x.shape) @ one["o"]
    return x


LAYERS = [dict(zip("qkvo", weights, strict=True)) for weights in WEIGHTS]


def test_heads_that_are_not_known_are_said_and_data_can_be_named():
    found = jaxflow.explain(listed, LAYERS, INPUTS[0], data_argnums=1)
    x, attention = INPUTS[0].astype(np.float64), []
    for q, k, v, out in WEIGHTS.astype(np.float64):
        q, k, v = ((x @ w).reshape(5, 2, 4) for w in (q, k, v))
        scores = np.exp(np.einsum("qhd,khd->hqk", q, k) / 2)
        attention.append(scores / scores.sum(-1, keepdims=True))
        x = x + np.einsum("hqk,khd->qhd", attention[-1], v).reshape(5, 8) @ out
    rolled = jaxflow.rollout(np.stack(attention), sources=0)[:, 0]
    np.testing.assert_allclose(found.layers["rollout"], rolled, atol=1e-5)
    assert not found.remarks

    def core(q):
        return jax.nn.softmax(q @ q.swapaxes(1, 2)) @ q

    unclear = jaxflow.explain(core, INPUTS)
    assert "Which axis is heads is not known" in str(unclear[0])


def test_half_precision_is_explained_where_rows_may_be_renormalised():
    half, inputs = jax.tree.map(jnp.bfloat16, LAYERS), jnp.bfloat16(INPUTS[0])
    with pytest.raises(jaxflow.InputError, match="renormalise=True divides rows"):
        jaxflow.explain(listed, half, inputs, data_argnums=1)
    found = jaxflow.explain(listed, half, inputs, data_argnums=1, renormalise=True)
    _, captured = jaxflow.capture(listed, data_argnums=1)(half, inputs)
    expected = jaxflow.rollout(jaxflow.widen(captured.stack(check=False)), sources=0)[:, 0]
    np.testing.assert_allclose(found.layers["rollout"], expected, atol=0.01)
    with pytest.raises(jaxflow.InputError, match="cannot be called within jit"):
        jax.jit(lambda x: jaxflow.explain(function, x)[0].scores["rollout"])(INPUTS)


def test_texts_are_those_of_the_command(capsys):
    methods = ("gradient/product", "rollout", "blank-out")
    texts = [TEXT, "the key near the cabinets , she"]
    found = jaxflow.explain(texts, methods=methods, layer=2, residual=0.4)
    by = [part for name in methods for part in ("--by", name)]
    assert main(["explain", *texts, *by, "--layer", "2", "--residual", "0.4", "--json"]) == 0
    for one, record in zip(found, json.loads(capsys.readouterr().out)["sentences"], strict=True):
        (own,) = json.loads(one.to_json())["sentences"]
        assert own == record
        assert (own["layer"], own["residual"]) == (2, 0.4)
    alone = jaxflow.explain(TEXT, methods=methods, layer=2, residual=0.4)
    for name in methods:
        np.testing.assert_array_equal(alone.scores[name], found[0].scores[name])
    assert jaxflow.explain(TEXT).prediction == "plural"


def test_edge_weights_of_a_text_are_those_of_its_trace():
    from jaxflow import edges, models

    model = tiny()
    found = jaxflow.explain("The keys are unlikely", model=model, methods=("alti/flow", "decompx"))
    ids = np.array([model.text.read("The keys are unlikely").ids])
    trace = models.trace(model, ids)
    expected = edges.aggregate(trace, "alti", "flow", sources=0)[0, :, 0]
    np.testing.assert_allclose(found.layers["alti/flow"], expected, atol=1e-5)
    expected = edges.propagate(trace, "decompx")[0, :, 0]
    np.testing.assert_allclose(found.layers["decompx"], expected, atol=1e-5)


def test_an_explanation_shows_and_saves_itself(tmp_path):
    one = jaxflow.explain(TEXT, model=tiny_agreement(), methods=("rollout", "raw"))
    assert len(repr(one)) < 100
    assert [line.split()[0] for line in str(one).splitlines()[5:10]] == TEXT.split()
    assert one._repr_html_().startswith("<iframe")
    frame = one.to_dataframe()
    assert list(frame.columns) == ["token", "rollout", "raw"]
    np.testing.assert_array_equal(frame["raw"], one.scores["raw"])
    for ending in ("html", "json", "csv", "txt", "png"):
        assert one.save(tmp_path / f"page.{ending}").stat().st_size
    rows = (tmp_path / "page.csv").read_text(encoding="utf-8").splitlines()
    assert float(rows[3].split(",")[1]) == pytest.approx(one.scores["rollout"][2])
    with pytest.raises(jaxflow.InputError, match=r"must end in one of .*got .*page.pdf"):
        one.save(tmp_path / "page.pdf")


HERE = r"attention \(.*test_explain.py:\d+\)"


def embedding(inputs):
    return jnp.tanh(inputs)


def ragged(inputs):
    return function(inputs), function(inputs[:, :4])


def halved(inputs):
    """Attention whose rows sum to a half."""
    scores = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", inputs, inputs)) * 0.5
    return jnp.einsum("bqk,bkd->bqd", scores, inputs)


@pytest.mark.parametrize(
    ("source", "options", "part"),
    [
        (function, {"tokens": ["a"]}, f"tokens must be one for each of the 5 keys of {HERE}"),
        (function, {"tokens": NAMES[:2]}, "for each of 3 examples, got 5, 5"),
        (function, {"readout": 5}, f"readout must be from -5 to 4, a real token of {HERE}, got 5"),
        (function, {"mask": np.ones((3, 4), bool)}, r"mask must be boolean \[5\] or \[3, 5\]"),
        (function, {"methods": ["gradient/flow"]}, "gradient/flow needs target, a function"),
        (function, {"methods": ["alti"]}, "alti needs blocks and stream"),
        (function, {"methods": ["blank-out"]}, "blank-out needs the embeddings and the vocabulary"),
        (function, {"methods": ["foo"]}, "method must be one of raw, .* got 'foo'"),
        (function, {"methods": "raw"}, "methods must be a sequence of names"),
        (function, {"target": lambda out: out}, r"target must return one number.*\(3, 8\)"),
        (function, {"target": lambda out: out[0, 3]}, "one number for each of 3 examples, got 1"),
        (function, {"target": lambda out: out.argmax(-1)}, "floating-point number .*got int"),
        (function, {"target": lambda out: None}, "target must return a number, got NoneType"),
        (function, {"target": lambda out: out[:, 3] * np.nan}, "finite numbers, got"),
        (function, {"methods": 5}, "methods must be a sequence of names"),
        (function, {"tokens": 5}, "tokens must be a list of texts, got int"),
        (function, {"tokens": [NAMES[0], 5, None]}, "got 5, int, NoneType"),
        (function, {"mask": [[True], [True, False]]}, "mask must be boolean .*ragged"),
        (function, {"target": 1}, "target must be a function of the output, got 1"),
        (function, {"layer": 2}, "layer must be from -2 to 1 .*got 2"),
        (function, {"model": "x"}, "model is no option for a function"),
        (embedding, {}, "must have .*attention"),
        (ragged, {}, f"must have one shape to be stacked.*{HERE}"),
        (halved, {}, rf"must sum to 1, got 0.5 at {HERE}"),
        (TEXT, {"tokens": ["a"]}, "tokens is no option for a text"),
        (TEXT, {"model": "/no/such"}, "no trained model at /no/such"),
        (TEXT, {"methods": ["head-9/none"]}, "head"),
        (TEXT, {"words": True, "methods": ["norm"]}, "norm has no joined words"),
        (["a", "b"], {"pair": ["c"]}, "pair must be one text for each of 2, got 1"),
        (["a", "b"], {"pair": "cd"}, "pair must be one text for each of 2, got 'cd'"),
        (["a", "b"], {"pair": ["c", 5]}, "pair must be texts or None"),
        (TEXT, {"pair": ["a"]}, r"pair must be a text, got \['a'\]"),
        (TEXT, {"model": function}, "model must be a folder, a name or a model .*got function"),
        ({"a", "b"}, {}, "expected a text, a list of texts or a function to explain, got set"),
        (INPUTS, {}, "expected a text, a list of texts or a function to explain, got ndarray"),
    ],
)
def test_what_cannot_be_explained_is_refused(source, options, part):
    inputs = (INPUTS,) if callable(source) else ()
    with pytest.raises(jaxflow.InputError, match=part) as refusal:
        jaxflow.explain(source, *inputs, **options)
    assert not re.search(r"\n", str(refusal.value))


def test_a_decoder_is_explained_by_what_its_trace_has():
    text = tiny("lm", causal=True).text
    sizes = {"layers": 2, "heads": 4, "key_heads": 2, "head_width": 4, "width": 8}
    more = {"hidden_width": 8, "vocabulary": len(text), "rotary": (Rotary(4),), "positions": 32}
    config = DecoderConfig(**sizes, **more)
    model = Model(config, init(config), text)
    found = jaxflow.explain("The keys are", model=model)
    ids = np.array([text.read("The keys are").ids])
    attention = np.asarray(model(ids).attention)[0]
    rolled = jaxflow.rollout(attention, sources=-1)[:, 0]
    np.testing.assert_allclose(found.layers["rollout"], rolled, atol=1e-5)
    assert found.readout == ids.size - 1
    assert (found.scores["gradient/product"] >= 0).all()
    found = jaxflow.explain("The keys are", model=model, methods=["alti"])
    alti = aggregate(trace(model, ids), "alti", sources=-1)[0, :, 0]
    np.testing.assert_allclose(found.layers["alti"], alti, atol=1e-5)
    experts = DecoderConfig(**sizes, **more, experts=2, chosen=1)
    with pytest.raises(jaxflow.InputError, match="no rule for a mixture of experts"):
        explainer(Model(experts, init(experts), text), methods=["decompx"])("The keys are")
    sink = DecoderConfig(**sizes, **more, sinks=True)
    found = jaxflow.explain("The keys are", model=Model(sink, init(sink), text))
    assert "sinks, which are no tokens, are left out" in " ".join(found.remarks)


def test_a_model_without_a_head_has_its_attention_alone():
    found = jaxflow.explain("The keys", model=tiny("none"))
    assert (list(found.scores), found.prediction) == (["rollout", "flow"], "")
    with pytest.raises(jaxflow.InputError, match="gradient-norm needs an output to explain"):
        explainer(tiny("none"), methods=["gradient-norm"])
