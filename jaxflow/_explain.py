"""Explain a text by any model, or the output of any JAX function, in one call."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

from jaxflow.errors import InputError

if TYPE_CHECKING:
    from os import PathLike
    from typing import TypedDict, Unpack

    from jaxflow._capture.result import Select
    from jaxflow.eval.explanation import Explanation
    from jaxflow.models import Model

    class _TextOptions(TypedDict, total=False):
        model: str | PathLike[str] | Model | None
        methods: Sequence[str] | None
        layer: int
        residual: float
        words: bool
        label: str | int | None
        target: str | None
        replacement: str | None
        threads: int | None


#: What the leaderboard found best, beside the paper's two methods; without a head those alone.
DEFAULT = ("gradient/product", "rollout", "flow")


@overload
def explain(
    source: str,
    *,
    pair: str | None = None,
    **options: Unpack[_TextOptions],
) -> Explanation: ...
@overload
def explain(
    source: list[str] | tuple[str, ...],
    *,
    pair: Sequence[str] | None = None,
    **options: Unpack[_TextOptions],
) -> tuple[Explanation, ...]: ...
@overload
def explain(
    source: Callable[..., Any],
    *inputs: Any,
    tokens: Any = None,
    mask: Any = None,
    readout: int | None = None,
    target: Callable[[Any], Any] | None = None,
    methods: Sequence[str] | None = None,
    layer: int = -1,
    residual: float = 0.5,
    select: Select = None,
    renormalise: bool = False,
    data_argnums: int | Sequence[int] | None = None,
    threads: int | None = None,
) -> Explanation | tuple[Explanation, ...]: ...
def explain(
    source: Any,
    *inputs: Any,
    model: Any = None,
    pair: Any = None,
    methods: Sequence[str] | None = None,
    layer: int = -1,
    residual: float = 0.5,
    words: bool = False,
    label: str | int | None = None,
    target: Any = None,
    replacement: str | None = None,
    tokens: Any = None,
    mask: Any = None,
    readout: int | None = None,
    select: Select = None,
    renormalise: bool = False,
    data_argnums: int | Sequence[int] | None = None,
    threads: int | None = None,
) -> Any:
    """Score the tokens that a prediction came from, by several methods.

    Parameters
    ----------
    source
        A text, several texts, or a JAX function, whose attention is captured (`jaxflow.capture`).
    *inputs
        The function's arguments: one example, or a batch.
    model
        Of texts: the folder or name of a model, or a loaded one; None is the bundled model of
        subject-verb agreement.
    pair
        Of texts: the second text of a model that reads two, or one for each text.
    methods
        Names: ``raw``, ``rollout``, ``flow``, an edge weight with its aggregator such as
        ``gradient/product`` (`jaxflow.edges`), and of models ``blank-out`` and gradients at the
        input such as ``gradient-norm``. None is ``gradient/product``, which the leaderboard found
        best, where there is an output to differentiate, and rollout and flow.
    layer
        The layer after which the readout's token is explained, from 0; negative ones from the top.
    residual
        Share of the residual connection in rollout and flow.
    words
        Of texts: whether word pieces are joined, for methods on attention alone.
    label
        Of texts: the class, label or output to explain, by name or index; None is the predicted.
    target
        Of a function: from its output to the number explained, or one for each example of a batch,
        which gradients are taken of. Of texts the name of a target of gradients at the input.
    replacement
        Of texts: ``mask`` or ``unk``, the token that blank-out puts in.
    tokens
        Of a function: the n tokens as text, a list for each example of a batch; None numbers them.
    mask
        Of a function: boolean ``[n]`` or ``[B, n]``, True at real tokens; others are left out.
    readout
        Of a function: the token whose row is explained; negative ones from the last real token.
        None is the last where no token attends to later ones, else the first.
    select
        Of a function: which attention, as in `jaxflow.capture`.
    renormalise
        Of a function: whether rows are divided by their sums, which leaves out an attention sink
        and what half precision has rounded.
    data_argnums
        Of a function: which arguments are data, the others parameters, as in `jaxflow.capture`.
    threads
        For the flow of edge weights; None takes all cores.

    Returns
    -------
    Explanation
        With `tokens`, `scores` (method -> float64 ``[n]``), `layers` (method -> ``[L, n]``),
        `prediction`, `to_json`, `to_dataframe` and `save`; a notebook shows it as a page. A tuple
        of them for several texts, or a batch of more than one example.

    Raises
    ------
    InputError
        If the model, the text or an option cannot be used, a method cannot be served, or a package
        of an extra is missing; the sentence names it.

    Examples
    --------
    >>> import jaxflow
    >>> found = jaxflow.explain("the keys to the cabinet")
    >>> found.prediction, found.tokens[int(found.scores["rollout"].argmax())]
    ('plural', 'keys')
    """
    given = dict(locals())
    defaults = {name: each.default for name, each in inspect.signature(explain).parameters.items()}
    options = {name: given[name] for name in defaults if given[name] is not defaults[name]}
    del options["source"], options["inputs"]
    try:
        if callable(source):
            _check_function(source, inputs, options)
            from jaxflow.eval.explain.function import explain_function

            return explain_function(source, inputs, **{name: given[name] for name in _FUNCTION})
        return _explain_texts(source, inputs, options)
    except ModuleNotFoundError as error:
        from jaxflow.commands._runtime import missing_extra

        message = missing_extra(error, "explain")
        if message is None:
            raise
        raise InputError(message) from error


_SHARED = ("methods", "layer", "residual", "target", "threads")
_FUNCTION = (*_SHARED, "tokens", "mask", "readout", "select", "renormalise", "data_argnums")
_TEXT = (*_SHARED, "model", "pair", "words", "label", "replacement")


def _check_function(
    function: Callable[..., Any], inputs: tuple[Any, ...], options: dict[str, Any]
) -> None:
    from jaxflow.models import Model

    if isinstance(function, Model) and inputs and _are_texts(inputs):
        raise InputError("the text comes first, and the model is named: explain(text, model=model)")
    _check(options, _FUNCTION, "a function")
    target = options.get("target")
    if target is not None and not callable(target):
        raise InputError(f"target must be a function of the output, got {target!r}")


def _explain_texts(source: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    texts = [source] if isinstance(source, str) else source
    if isinstance(texts, (bytes, dict, set, frozenset)) or not _are_texts(texts):
        raise InputError(
            "expected a text, a list of texts or a function to explain, got "
            f"{type(source).__name__}: an attention is shown by jaxflow.show"
        )
    if inputs:
        raise InputError("a text has no further positional arguments: name the options, as model=")
    _check(options, _TEXT, "a text")
    from jaxflow.eval.explanation import explainer

    pair = options.pop("pair", None)
    pairs = _pairs(pair, len(texts), isinstance(source, str))
    model = _model(options.pop("model", None))
    if options.get("methods") is None:
        head = model.answer != "none"
        words = options.get("words", False)
        options["methods"] = DEFAULT if head and not words else DEFAULT[1:]
    explain = explainer(model, **options)
    found = tuple(explain(str(text), second) for text, second in zip(texts, pairs, strict=True))
    return found[0] if isinstance(source, str) else found


def _pairs(pair: Any, count: int, alone: bool) -> list[str | None]:
    """Return the second text of each of `count` texts."""
    if pair is None:
        return [None] * count
    several = not isinstance(pair, (str, bytes, dict, set)) and hasattr(pair, "__len__")
    if several == alone or not (several or isinstance(pair, str)):
        expected = "a text" if alone else f"one text for each of {count}"
        raise InputError(f"pair must be {expected}, got {pair!r}")
    pairs = list(pair) if several else [pair]
    if len(pairs) != count:
        raise InputError(f"pair must be one text for each of {count}, got {len(pairs)}")
    if not all(each is None or isinstance(each, str) for each in pairs):
        raise InputError(f"pair must be texts or None, got {pair!r}")
    return [None if each is None else str(each) for each in pairs]


def _are_texts(texts: Any) -> bool:
    try:
        return len(texts) > 0 and all(isinstance(text, str) for text in texts)
    except TypeError:
        return False


def _model(model: Any) -> Any:
    from jaxflow.commands._runtime import named_model
    from jaxflow.models import Model

    if isinstance(model, Model):
        return model
    if model is not None and not isinstance(model, (str, os.PathLike)):
        raise InputError(
            "model must be a folder, a name or a model of jaxflow.models.load, got "
            f"{type(model).__name__}: the attention of another library's model is captured "
            "(jaxflow.capture, jaxflow.capture_torch)"
        )
    return named_model(None, None if model is None else str(model))


def _check(options: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    for name in options:
        if name not in known:
            raise InputError(f"{name} is no option for {what}: expected {', '.join(known)}")
