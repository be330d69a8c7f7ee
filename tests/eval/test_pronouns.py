"""Test probabilities and weights of masked pronouns against transformers and definitions."""

from __future__ import annotations

import dataclasses

import networkx
import numpy as np
import oracles
import pytest
import tiny_masked
import torch
import transformers

from jaxflow.errors import InputError
from jaxflow.eval.pronouns.cases import BATCH, METHODS, measure
from jaxflow.eval.pronouns.schemas import MASK, PAPER, read_schemas
from jaxflow.models import BertConfig, Model, init, load, save_pretrained, with_head


@pytest.fixture(scope="module")
def folder():
    return tiny_masked.saved()


def flow_value(edges, layer, source, sink):
    """Maximum flow by networkx, on a graph built from the definition."""
    graph = networkx.DiGraph()
    for level in range(layer + 1):
        for i, row in enumerate(edges[level]):
            for j, capacity in enumerate(row):
                graph.add_edge((level + 1, i), (level, j), capacity=float(capacity))
    return networkx.maximum_flow_value(graph, (layer + 1, source), (0, sink))


def test_everything_is_what_transformers_and_the_definitions_say(folder):
    sentences = [
        *tiny_masked.held_out()[:2],
        *read_schemas(PAPER),
        next(each for each in read_schemas() if "granddaughter" in each.referents),
    ]
    cases = measure(load(folder, head="masked-lm"), sentences)
    theirs = transformers.BertForMaskedLM.from_pretrained(folder, attn_implementation="eager")
    pieces = transformers.AutoTokenizer.from_pretrained(folder)
    longest = 0
    for schema, case in zip(sentences, cases, strict=True):
        assert case.schema == schema
        encoded = pieces(schema.sentence, return_tensors="pt")
        tokens = pieces.convert_ids_to_tokens(encoded["input_ids"][0].tolist())
        assert list(case.tokens) == tokens
        at = tokens.index(MASK)
        with torch.no_grad():
            output = theirs.eval()(**encoded, output_attentions=True)
        chances = torch.log_softmax(output.logits[0, at].double(), -1)
        numbers = pieces.convert_tokens_to_ids(list(schema.fillers))
        expected = [float(chances[number]) for number in numbers]
        np.testing.assert_allclose(case.log_probabilities, expected, atol=1e-4)
        np.testing.assert_allclose(case.probabilities, np.exp(expected), atol=1e-5)
        assert case.log_odds == pytest.approx(expected[0] - expected[1], abs=1e-4)

        attention = torch.cat(output.attentions).double().numpy()  # [L, H, n, n]
        edges = oracles.edge_weights(attention)
        maps = {"raw": oracles.raw_attention(attention), "rollout": oracles.rollout(attention)}
        for which, name in enumerate(schema.referents):
            # Words by the library's own count, which the code under test does not ask for.
            word = next(
                number
                for number in set(encoded.word_ids()) - {None}
                if schema.sentence[slice(*encoded.word_to_chars(number))] == name
            )
            places = [k for k, number in enumerate(encoded.word_ids()) if number == word]
            longest = max(longest, len(places))
            assert case.pieces[which] == len(places)
            assert case.distances[which] == min(abs(k - at) for k in places)
            sums = sum(float(edges[0][:, k].sum()) for k in places)
            assert case.column_sums[which] == pytest.approx(sums, abs=1e-5)
            for layer in range(len(edges)):
                for method, values in maps.items():
                    total = sum(values[layer, at, k] for k in places)
                    found = case.weights[method][layer, which]
                    assert found == pytest.approx(total, abs=1e-5), (method, layer)
                total = sum(flow_value(edges, layer, at, k) for k in places)
                assert case.weights["flow"][layer, which] == pytest.approx(total, abs=1e-5)
                assert total <= sums + 1e-9  # why the column sum is a baseline for flow
    assert longest > 1  # or nothing was shown about several word pieces


def test_a_sentence_does_not_depend_on_its_company_and_the_residual_is_passed_on(folder):
    """Longer sentences beside it, more sentences than a batch: the padding counts for nothing."""
    model = load(folder, head="masked-lm")
    short = tiny_masked.schema("king", "feared", "queen", "was late")
    many = [short, *read_schemas()[: BATCH + 3]]
    seen = []
    together = measure(model, many, report=lambda *now: seen.append(now))
    assert seen == [(BATCH, len(many)), (len(many), len(many))]
    assert [case.schema for case in together] == many
    for index in (0, len(many) - 1):
        (alone,) = measure(model, [many[index]])
        case = together[index]
        for method in METHODS:
            np.testing.assert_allclose(case.weights[method], alone.weights[method], atol=1e-5)
        np.testing.assert_allclose(case.log_probabilities, alone.log_probabilities, atol=1e-4)
    # Without the residual the lowest layer's rollout and flow are its raw attention.
    (plain,) = measure(model, [short], residual=0.0)
    for method in ("rollout", "flow"):
        np.testing.assert_allclose(plain.weights[method][0], plain.weights["raw"][0], atol=1e-6)


@pytest.mark.parametrize("kind", ["distilbert", "roberta"])
def test_the_other_two_kinds(kind, tmp_path):
    pieces = {"distilbert": tiny_masked.tokenizer, "roberta": tiny_masked.byte_pairs}[kind]()
    sizes = {"positions": 40, "layers": 2, "heads": 2, "width": 16, "hidden_width": 32}
    sizes |= {"vocabulary": len(pieces), "token_types": {"distilbert": 0, "roberta": 1}[kind]}
    config = BertConfig(kind=kind, head="masked-lm", pad_id=pieces.pad_id, **sizes)
    save_pretrained(tmp_path, Model(config, init(config), pieces))
    schemas = read_schemas(PAPER)
    cases = measure(load(tmp_path, head="masked-lm"), schemas)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    token, space = {"distilbert": (MASK, ""), "roberta": ("<mask>", "Ġ")}[kind]
    for schema, case in zip(schemas, cases, strict=True):
        ids = pieces.backend.encode(schema.sentence.replace(MASK, token)).ids
        with torch.no_grad():
            logits = theirs(torch.tensor([ids])).logits[0, ids.index(pieces.mask_id)]
        numbers = [pieces.backend.token_to_id(f"{space}{filler}") for filler in schema.fillers]
        expected = torch.log_softmax(logits.double(), -1)[numbers]
        np.testing.assert_allclose(case.log_probabilities, expected, atol=1e-4)
        assert case.tokens.count(token) == 1


def test_models_and_sentences_that_cannot_be_measured_are_refused(folder):
    model = load(folder, head="masked-lm")
    schema = tiny_masked.schema("king", "feared", "queen", "was late")
    special = {role: number for role, number in model.text.special.items() if role != "mask"}
    maskless = dataclasses.replace(model.tokenizer, special=special)
    long = dataclasses.replace(
        schema, sentence=f"{schema.sentence} {'He sang. ' * 20}", where="own.tsv, line 7"
    )
    for given, each, options, message in (
        (with_head(model, "none"), schema, {}, r"a masked language model, .* the head 'none'"),
        (
            dataclasses.replace(model, tokenizer=maskless),
            schema,
            {},
            "got one without a mask token",
        ),
        (dataclasses.replace(model, tokenizer=None), schema, {}, "must have a tokenizer"),
        (model, long, {}, r"own\.tsv, line 7: the sentence must be at most 32"),
        (model, schema, {"residual": 1.5}, "residual"),
    ):
        with pytest.raises(InputError, match=message):
            measure(given, [each], **options)
