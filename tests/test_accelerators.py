"""Lower programs for accelerators, and name products that are not of full precision."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import leaderboard_data
import numpy as np
import pytest
import traces
import vision_models
from many_devices import run_on_devices
from tiny_models import tiny, tiny_agreement

import jaxflow
from jaxflow import edges
from jaxflow.eval import explanation
from jaxflow.eval.leaderboard.scoring import Programs
from jaxflow.eval.paper.protocol import ProtocolConfig, device_scores
from jaxflow.eval.score.target import scoring_of
from jaxflow.models import DecoderConfig, Model, generation, init
from jaxflow.models.rotary import Rotary
from jaxflow.train.config import TrainConfig
from jaxflow.train.step import agreement_loss, init_state, make_optimizer, make_step

# A file of the package, from a checkout or installed, or this one.
OURS = re.compile(r"/jaxflow/(?!.*site-packages)|/(models|train|eval)/\w+\.py|test_accelerators")
B, N = 2, 8
MASK = np.arange(N) < np.array([[N], [N - 2]])
TOKENS = np.where(MASK, 5, 0).astype(np.int32)
ATTENTION = jax.ShapeDtypeStruct((B, 3, 2, N, N), jnp.float32)


@functools.cache
def decoder() -> Model:
    config = DecoderConfig(
        vocabulary=40, positions=16, layers=2, heads=4, key_heads=2, head_width=8, width=16,
        hidden_width=24, rotary=(Rotary(8),), reaches=("full", "window"), window=5, soft_cap=2.0,
        sinks=True, experts=2, chosen=1, norm_heads=True, logit_cap=3.0,
    )  # fmt: skip
    return Model(config, init(config), None)


def of_arrays() -> Iterator[tuple[str, Any]]:
    """Yield functions of attention alone; JAX lowers the callback of flow for its own host only."""
    functions: dict[str, Any] = {
        "raw": jaxflow.raw_attention,
        "rollout": jaxflow.rollout,
        "rollout, one row": functools.partial(jaxflow.rollout, sources=-1, heads="max"),
        "head rollout": jaxflow.head_rollout,
        "discard": lambda *given, **more: jaxflow.discard(*given, 0.5, **more),
    }
    for name, function in functions.items():
        yield name, jax.jit(lambda a, f=function: f(a, mask=MASK)).trace(ATTENTION)
    score = lambda a: jaxflow.rollout(a)[..., -1, 0, 1].sum()  # noqa: E731
    yield "rollout's gradient", jax.jit(jax.grad(score)).trace(ATTENTION)
    checked = jaxflow.attention._checked
    yield "rollout, checked", checked.trace(
        jaxflow._rollout._rollout, (("heads", "mean"), ("start_layer", 0)),
        ATTENTION, MASK, 0.5, None,
    )  # fmt: skip
    cross = jax.ShapeDtypeStruct((3, 2, N, N), jnp.float32)
    call = lambda *given: edges.aggregate_cross(edges.CrossTrace(*given))  # noqa: E731
    yield "cross rollout", jax.jit(call).trace(cross, cross, cross)
    yield "spearman", jax.jit(jaxflow.spearman).trace(cross, cross)


def of_models() -> Iterator[tuple[str, Any]]:
    """Yield forward passes, rows of long texts, generation, and explanations of one text."""
    score = jax.tree_util.Partial(lambda logits: jax.nn.log_softmax(logits)[:, -1, 3])
    pixels = np.zeros((B, *vision_models.random_model().config.image, 3), np.float32)
    models = {
        "agreement encoder": (tiny_agreement(), TOKENS, {}),
        "BERT": (tiny(), TOKENS, {"token_types": TOKENS * 0}),
        "GPT-2": (tiny("lm", causal=True), TOKENS, {}),
        "ViT": (vision_models.random_model(), pixels, {}),
        "decoder": (decoder(), TOKENS, {}),
    }
    for name, (model, given, more) in models.items():
        mask = None if name == "ViT" else MASK
        yield name, model._apply.trace(model.params, given, mask, values=True, **more)
        if name in ("GPT-2", "decoder"):
            params = {"params": model._rolled.params}
            yield f"{name}, rows", model._queries_keys.trace(params, given, mask, score, ())
            shown = (
                model.config,
                3,
                (),
                0,
                True,
                True,
                model.params,
                TOKENS,
                jax.random.key(0),
                1.0,
            )
            yield f"{name}, generation", generation._run.trace(*shown)
        else:
            yield f"{name}, classes", model._probabilities.trace(model.params, given, mask, **more)
    model = tiny()
    protocol = ProtocolConfig().resolved(model)
    given = model.params, TOKENS, np.zeros(B, np.int32), MASK
    yield "evaluation", device_scores(model, protocol).trace(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explanation, "_jit_with", lambda function, _: jax.jit(function))
        given = (model.config, True, scoring_of(model), None, ("gradient_norm",), True, 0.5, 10**8)
        parts = explanation._programs.__wrapped__(*given)
    numbers = np.array([0, 0, N], np.int32)
    one = {"params": model._rolled.params}, TOKENS[0], TOKENS[0] * 0, np.arange(N), numbers
    for part in parts:
        yield f"explanation, {part.__name__}", part.trace(*one)


def of_leaderboard() -> Iterator[tuple[str, Any]]:
    """Yield every method's programs: edge weights, aggregators, gradients, removal."""
    model = tiny()
    programs = Programs(model)
    batch = leaderboard_data.cases(4, N)
    for name, trace in programs.traces(model.params, batch).items():
        with contextlib.suppress(jaxflow.InputError):  # what this model cannot serve
            yield name, trace()
    found = traces.traced("bert")
    for how in ("paths", "rollout"):
        call = functools.partial(edges.aggregate, how=how, sources=0)
        yield f"head, {how}", jax.jit(lambda trace, call=call: call(trace, "head-1")).trace(found)


def of_training() -> Iterator[tuple[str, Any]]:
    """Yield the training step."""
    model, config = tiny_agreement(), TrainConfig()
    optimizer = make_optimizer(config, 10)
    step: Any = make_step(agreement_loss(model.config, config), optimizer, 0)
    state = init_state(model.params, optimizer)
    yield "training step", step.trace(state, tokens=TOKENS, labels=np.zeros(B, np.int32))


def inexact(jaxpr: Any) -> Iterator[str]:
    """Yield where a program multiplies float32 numbers at the platform's default precision."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated", "ragged_dot_general"):
            single = any(each.aval.dtype == jnp.float32 for each in equation.invars)
            precision = equation.params["precision"]
            if single and set(np.atleast_1d(precision)) != {jax.lax.Precision.HIGHEST}:
                frames = equation.source_info.traceback.frames
                own = [one for one in frames if OURS.search(one.file_name)]
                yield f"{own[0].file_name}:{own[0].line_num}" if own else str(equation)
        inner = lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")  # noqa: E731
        for leaf in jax.tree.leaves(equation.params, is_leaf=inner):
            if inner(leaf):
                yield from inexact(leaf)


@pytest.mark.parametrize("family", [of_arrays, of_models, of_leaderboard, of_training])
def test_every_program_is_lowered_for_accelerators_and_multiplies_exactly(family: Any) -> None:
    """Half a minute: all models and all methods of the leaderboard are traced."""
    places = {}
    for name, traced in family():
        lowered = traced.lower(lowering_platforms=("cuda", "tpu"))
        assert "func.func public @main" in lowered.as_text(), name
        places[name] = sorted(set(inexact(traced.jaxpr)))
    assert len(places) >= (1 if family is of_training else 9)
    found = {name: where for name, where in places.items() if where}
    # Training keeps the fast default; everything else decides attention, rollout or parity.
    assert list(found) == (["training step"] if family is of_training else []), found


@pytest.mark.parametrize("precision", [None, "high", "highest"])
def test_a_product_of_default_precision_is_named(precision: Any) -> None:
    def function(x: Any) -> Any:
        step = lambda y, _: (jnp.matmul(y, y, precision=precision), None)  # noqa: E731
        return jax.lax.scan(step, x, None, length=2)[0]

    named = list(inexact(jax.jit(function).trace(jnp.eye(2)).jaxpr))
    assert [Path(place).name.split(":")[0] for place in named] == (
        [] if precision == "highest" else ["test_accelerators.py"]
    )


def test_flow_on_a_mesh_stays_on_its_devices_and_runs_in_a_loop() -> None:
    found = run_on_devices(8, "flow_on_mesh.py")
    assert found == {
        "devices": 8,
        "gathers": 0,
        "texts": [2] * 8,
        "error": pytest.approx(0, abs=1e-6),
    }
