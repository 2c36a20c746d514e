"""What a step costs, as a rule in the pipeline file: `abs(obs[0]) > 0.6`."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_SYMBOLS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_VECTORS, _FUNCTIONS = ("obs", "action"), ("abs", "min", "max", "sqrt")
_ALLOWED = (
    "numbers, obs[i] (what the step led to), action[i], + - * / **, comparisons, and, or, not, "
    f"{', '.join(_FUNCTIONS)}"
)
_LONGEST = 2000


def parse_rule(text: str, sizes: Mapping[str, int | None]) -> ast.expr:
    """Return a rule that can be worked out, and nothing else can be done with.

    Args:
        text: an expression; what is true costs 1.
        sizes: coordinates of `obs` and `action`, None where unknown.

    Raises:
        ValueError: it is no such expression, or asks for a coordinate that there is not.
    """
    try:
        if len(text) > _LONGEST:
            raise SyntaxError(f"it is longer than {_LONGEST} characters")
        rule = ast.parse(text.strip(), mode="eval").body
        _check(rule, sizes)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is no rule ({error}); allowed are {_ALLOWED}") from None
    return rule


def _check(node: ast.expr, sizes: Mapping[str, int | None]) -> None:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int(index))) if name in _VECTORS:
            size = sizes.get(name)
            if size is not None and index >= size:
                raise SyntaxError(f"{name}[{index}] of {size} coordinates")
            return
        case ast.BinOp(left=left, op=symbol, right=right) if type(symbol) in _SYMBOLS:
            parts = [left, right]
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=part):
            parts = [part]
        case ast.BoolOp(values=values):
            parts = values
        case ast.Compare(left=left, ops=symbols, comparators=rest) if _known(symbols):
            parts = [left, *rest]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            if (len(args) == 1) != (name in ("abs", "sqrt")) or not args:
                raise SyntaxError(f"{name} of {len(args)} values")
            parts = args
        case _:
            raise SyntaxError(f"'{ast.unparse(node)}'")
    for part in parts:
        _check(part, sizes)


def _known(symbols: Sequence[ast.AST]) -> bool:
    return all(type(symbol) in _SYMBOLS for symbol in symbols)


def cost_of(rule: ast.expr, obs: Tensor, actions: Tensor, highest: float) -> Tensor:
    """Return what steps cost.

    Args:
        rule: of `parse_rule`.
        obs: (..., obs_dim), what each step led to, raw units.
        actions: (..., act_dim).
        highest: C_m, which no cost is above; what is below 0 or no number costs nothing.

    Returns:
        float32 (...).
    """
    import torch

    def together(*parts: Tensor) -> Tensor:
        return torch.stack(torch.broadcast_tensors(*parts))

    def value(node: ast.expr) -> Tensor:
        match node:
            case ast.Constant(value=number):
                return torch.as_tensor(float(number), device=obs.device)  # type: ignore[arg-type]
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=index)):
                return (obs if name == "obs" else actions)[..., index].float()  # type: ignore[index]
            case ast.BinOp(left=left, op=symbol, right=right):
                return _SYMBOLS[type(symbol)](value(left), value(right))
            case ast.UnaryOp(op=ast.Not(), operand=part):
                return (value(part) == 0).float()
            case ast.UnaryOp(op=symbol, operand=part):
                return _SYMBOLS[type(symbol)](value(part))
            case ast.BoolOp(op=symbol, values=values):
                truths = together(*((value(part) != 0).float() for part in values))
                return truths.amin(0) if isinstance(symbol, ast.And) else truths.amax(0)
            case ast.Compare(left=left, ops=symbols, comparators=rest):
                sides = [value(part) for part in (left, *rest)]
                held = [_SYMBOLS[type(s)](a, b) for s, a, b in zip(symbols, sides, sides[1:], strict=False)]
                return together(*(one.float() for one in held)).amin(0)
            case ast.Call(func=ast.Name(id="abs"), args=[part]):
                return value(part).abs()
            case ast.Call(func=ast.Name(id="sqrt"), args=[part]):
                return value(part).clamp_min(0.0).sqrt()
            case ast.Call(func=ast.Name(id=name), args=args):
                several = together(*(value(part) for part in args))
                return several.amin(0) if name == "min" else several.amax(0)
        raise AssertionError(ast.dump(node))

    costs = torch.nan_to_num(value(rule), nan=0.0, posinf=highest, neginf=0.0)
    return costs.clamp(0.0, highest).expand(obs.shape[:-1]).float()
