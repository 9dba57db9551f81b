"""Wrong answers to the chapters' exercises: each check has to refuse them, and to take the solution.

WRONG: function → misconception → answer. Names of the chapter may be used, as a reader would.
"""

import ast

import nbformat
from chapters import tagged
from nbformat import NotebookNode

WRONG = {
    # ------------------------------------------------------------------------------------------- chapter 0
    "splice": {
        "exchanged": "return torch.cat([bottom[:, : rows * w], top[:, rows * w :]], 1)",
        "tokens, not rows": "return torch.cat([top[:, :rows], bottom[:, rows:]], 1)",
        "from the end": "return torch.cat([top[:, : N - rows * w], bottom[:, N - rows * w :]], 1)",
    },
    "surprise": {
        "caption not read": """
            logits = model.dalle(text, tokens)[1]
            return -logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)""",
        "probability": """
            y = model.tokenizer.encode([caption]).to(model.device)
            logits = model.dalle(y, tokens)[1]
            return logits.softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)""",
        "mean": """
            y = model.tokenizer.encode([caption]).to(model.device)
            logits = model.dalle(y, tokens)[1]
            return -logits.log_softmax(-1).gather(-1, tokens[..., None]).mean()""",
    },
    # ------------------------------------------------------------------------------------------- chapter 1
    "largest_side": {
        "one value a pixel": "return math.isqrt(positions) * (f or 1)",
        "not rounded": "return (positions / 3) ** 0.5 if f == 0 else math.isqrt(positions) * f",
        "area": "return positions // 3 if f == 0 else positions * f",
    },
    "best_prior": {
        "captions ignored": "return q / len(q)",
        "transposed": "return (q.T @ F.one_hot(y, captions).to(q.dtype)) / len(q)",
        "a sum": "return F.one_hot(y, captions).to(q.dtype).T @ q",
        "of each caption": """
            table = F.one_hot(y, captions).to(q.dtype).T @ q
            return table / table.sum(1, keepdim=True)""",
        "hard": """
            code = F.one_hot(q.argmax(1), q.shape[1]).float()
            return F.one_hot(y, captions).float().T @ code / len(q)""",
    },
    # ------------------------------------------------------------------------------------------- chapter 2
    "overlap": {
        "sets": """
            one, two = ({scene.digest() for scene in each} for each in (train, test))
            return len(one & two) / len(two)""",
        "of train": """
            seen = {scene.digest() for scene in test}
            return sum(scene.digest() in seen for scene in train) / len(train)""",
        "a count": """
            seen = {scene.digest() for scene in train}
            return float(sum(scene.digest() in seen for scene in test))""",
    },
    "flipped": {
        "upside down": "return pictures.flip(2)",
        "both ways": "return pictures.flip(2, 3)",
        "colours": "return pictures.flip(1)",
        "unchanged": "return pictures",
    },
    # ------------------------------------------------------------------------------------------- chapter 3
    "smallest_T": {
        "the longest": "return max(lengths)",
        "one too far": "return sorted(lengths)[min(len(lengths) - 1, int(share * len(lengths)))]",
        "share of the longest": "return math.ceil(share * max(lengths))",
    },
    "ancestry": {
        "all before": """
            results = [left + right for left, right in merges]
            return merges[: results.index(piece) + 1] if piece in results else []""",
        "every part of the word": "return [pair for pair in merges if ''.join(pair) in piece]",
        "the last alone": "return [pair for pair in merges if ''.join(pair) == piece]",
    },
    "unigram_nats": {
        "distinct tokens": """
            counts = Counter(token for row in rows for token in row)
            total = sum(counts.values())
            return -sum(math.log(n / total) for n in counts.values()) / len(counts)""",
        "row by row": """
            def own(row):
                return -sum(math.log(row.count(token) / len(row)) for token in row) / len(row)
            return sum(map(own, rows)) / len(rows)""",
        "bits": """
            counts = Counter(token for row in rows for token in row)
            total = sum(counts.values())
            return -sum(n * math.log2(n / total) for n in counts.values()) / total""",
    },
    # ------------------------------------------------------------------------------------------- chapter 4
    "best_b": {
        "median": "return distances.median().item()",
        "root of the mean square": "return distances.square().mean().sqrt().item()",
        "largest": "return distances.max().item()",
    },
    "without_replacement": {
        "without noise": "return logits.topk(k, -1).indices",
        "with replacement": """
            p = logits.softmax(-1)
            return torch.multinomial(p, k, replacement=True, generator=generator)""",
        "wrong sign": """
            noise = torch.empty_like(logits).exponential_(generator=generator)
            return (logits + noise.log()).topk(k, dim=-1).indices""",
        "normal noise": """
            noise = torch.empty_like(logits).normal_(generator=generator)
            return (logits + noise).topk(k, dim=-1).indices""",
        "backwards": """
            noise = torch.empty_like(logits).exponential_(generator=generator)
            return (logits - noise.log()).topk(k, dim=-1).indices.flip(-1)""",
    },
    # ------------------------------------------------------------------------------------------- chapter 5
    "exponential": {
        "linear": "return first + (last - first) * min(step / steps, 1.0)",
        "from 1": "return last ** min(step / steps, 1.0)",
        "first times": "return first * last ** min(step / steps, 1.0)",
        "without end": "return first * (last / first) ** (step / steps)",
    },
    "beta_on_means": {
        "without colours": "return beta * grid**2 / size**2",
        "as it is": "return beta",
        "the other way round": "return beta * 3 * size**2 / grid**2",
        "sides": "return beta * grid / (3 * size)",
    },
    "portraits": {
        "one picture of all": """
            codes = torch.arange(dvae.config.K, device=DEVICE)
            return dvae.decode(codes[None, : dvae.config.grid**2])""",
        "rows of all codes": """
            n = dvae.config.grid**2
            codes = torch.arange(dvae.config.K * n, device=DEVICE) % dvae.config.K
            return dvae.decode(codes.view(dvae.config.K, n))""",
        "counted from 1": """
            codes = (torch.arange(dvae.config.K, device=DEVICE) + 1) % dvae.config.K
            return dvae.decode(codes[:, None].expand(-1, dvae.config.grid**2))""",
    },
    # ------------------------------------------------------------------------------------------- chapter 6
    "moved": {
        "nothing": "return torch.zeros(T + N, dtype=torch.bool)",
        "everything": "return torch.ones(T + N, dtype=torch.bool)",
        "the mask's promise": "return torch.arange(T + N) > j",
        "in the caller's tokens": """
            with torch.no_grad():
                before = [row.clone() for part in run(tokens) for row in part[0]]
                tokens[:, j] = torch.randn(D)
                after = [row for part in run(tokens) for row in part[0]]
            return torch.stack([(a - b).abs().max() > 0 for a, b in zip(before, after)]).cpu()""",
        "unchanged": """
            with torch.no_grad():
                before, after = ([r for part in run(tokens) for r in part[0]] for _ in "ab")
            return torch.stack([(a - b).abs().max() > 0 for a, b in zip(before, after)]).cpu()""",
    },
    "look_up": {
        "undecided": "return torch.zeros(h * w, h + w), torch.zeros(h * w, h + w)",
        "itself": """
            row, column = torch.arange(h * w) // w, torch.arange(h * w) % w
            keys = torch.cat([F.one_hot(row, h), F.one_hot(column, w)], 1).float() * 10
            return keys, keys""",
        "downwards": """
            row, column = torch.arange(h * w) // w, torch.arange(h * w) % w
            keys = torch.cat([F.one_hot(row, h), F.one_hot(column, w)], 1).float() * 10
            asked = torch.cat([F.one_hot((row + 1) % h, h), F.one_hot(column, w)], 1).float() * 10
            return asked, keys""",
        "to the left": """
            row, column = torch.arange(h * w) // w, torch.arange(h * w) % w
            keys = torch.cat([F.one_hot(row, h), F.one_hot(column, w)], 1).float() * 10
            asked = torch.cat([F.one_hot(row, h), F.one_hot((column - 1) % w, w)], 1).float() * 10
            return asked, keys""",
    },
    # ------------------------------------------------------------------------------------------- chapter 7
    "flat_convolution": {
        "a quarter of the window": """
            at = torch.arange(h * w)
            up, left = (at // w)[:, None] - at // w, (at % w)[:, None] - at % w
            return (up >= 0) & (up <= k // 2) & (left >= 0) & (left <= k // 2)""",
        "the neighbour to the right": """
            at = torch.arange(h * w)
            up, left = (at // w)[:, None] - at // w, (at % w)[:, None] - at % w
            return (up >= 0) & (up <= k // 2) & (left.abs() <= k // 2)""",
        "the whole window": """
            at = torch.arange(h * w)
            up, left = (at // w)[:, None] - at // w, (at % w)[:, None] - at % w
            return (up.abs() <= k // 2) & (left.abs() <= k // 2)""",
        "not itself": """
            at = torch.arange(h * w)
            up, left = (at // w)[:, None] - at // w, (at % w)[:, None] - at % w
            return (up.abs() <= k // 2) & (left.abs() <= k // 2) & (at[:, None] > at)""",
        "round the corner": "return masks.image_mask('convolution', h, w, k)",
    },
    "best_stride": {
        "half": "return N // 2",
        "root plus one": "return round(N**0.5) + 1",
        "the worst": "return max(range(1, N), key=lambda s: s + 1 + -(-N // s))",
    },
    # ------------------------------------------------------------------------------------------- chapter 8
    "first_loss": {
        "exchanged": "return weight * math.log(K) + (1 - weight) * math.log(V)",
        "a sum": "return math.log(V) + math.log(K)",
        "bits": "return weight * math.log2(V) + (1 - weight) * math.log2(K)",
        "one softmax": "return math.log(V + K)",
    },
    "bigram": {
        "columns": """
            counts = torch.full((K, K), 0.05)
            pairs = train[:, :-1].flatten(), train[:, 1:].flatten()
            counts.index_put_(pairs, torch.ones(len(pairs[0])), accumulate=True)
            logp = (counts / counts.sum(0, keepdim=True)).log()
            return float(-logp[test[:, :-1].flatten(), test[:, 1:].flatten()].mean())""",
        "backwards": """
            counts = torch.full((K, K), 0.05)
            pairs = train[:, 1:].flatten(), train[:, :-1].flatten()
            counts.index_put_(pairs, torch.ones(len(pairs[0])), accumulate=True)
            logp = (counts / counts.sum(1, keepdim=True)).log()
            return float(-logp[test[:, 1:].flatten(), test[:, :-1].flatten()].mean())""",
        "from one picture to the next": """
            counts, line = torch.full((K, K), 0.05), train.flatten()
            counts.index_put_((line[:-1], line[1:]), torch.ones(len(line) - 1), accumulate=True)
            logp = (counts / counts.sum(1, keepdim=True)).log()
            return float(-logp[test[:, :-1].flatten(), test[:, 1:].flatten()].mean())""",
        "another start": """
            counts = torch.full((K, K), 0.5)
            pairs = train[:, :-1].flatten(), train[:, 1:].flatten()
            counts.index_put_(pairs, torch.ones(len(pairs[0])), accumulate=True)
            logp = (counts / counts.sum(1, keepdim=True)).log()
            return float(-logp[test[:, :-1].flatten(), test[:, 1:].flatten()].mean())""",
        "each pair once": """
            counts = torch.full((K, K), 0.05)
            pairs = train[:, :-1].flatten(), train[:, 1:].flatten()
            counts[pairs] += 1
            logp = (counts / counts.sum(1, keepdim=True)).log()
            return float(-logp[test[:, :-1].flatten(), test[:, 1:].flatten()].mean())""",
    },
    # ------------------------------------------------------------------------------------------- chapter 9
    "keep_above": {
        "more than": """
            floor = logits.amax(-1, keepdim=True) + math.log(share)
            return logits.masked_fill(logits <= floor, -torch.inf)""",
        "of all probability": "return logits.masked_fill(logits.softmax(-1) < share, -torch.inf)",
        "of the logit": """
            return logits.masked_fill(logits < share * logits.amax(-1, keepdim=True), -torch.inf)""",
        "of the whole batch": """
            return logits.masked_fill(logits < logits.max() + math.log(share), -torch.inf)""",
        "in the caller's tensor": """
            floor = logits.amax(-1, keepdim=True) + math.log(share)
            return logits.masked_fill_(logits < floor, -torch.inf)""",
    },
    "chance": {
        "expected number": "return min(1.0, right * N / M)",
        "with replacement": "return 1 - (1 - right / M) ** N",
        "all of them": "return math.comb(right, N) / math.comb(M, N)",
        "none of them": "return math.comb(M - right, N) / math.comb(M, N)",
    },
}

TRY = """\
import contextlib
import io


def _verdict(answer, check):
    with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()) as out:
        exec(f"{{answer}}\\n\\n\\n{{check}}", dict(globals()))  # the chapter's names stay as they are
    return out.getvalue()


for _answer in {wrong!r}:
    _said = _verdict(_answer, {check!r})
    assert "not yet" in _said and ": right" not in _said, f"{{_said}} about\\n{{_answer}}"
_said = _verdict({right!r}, {check!r})
assert ": right" in _said and "not yet" not in _said, _said
"""


def with_answers(notebook: NotebookNode) -> NotebookNode:
    """The chapter with a cell behind every exercise: its check on the solution and on wrong answers."""
    solutions = {function(cell).name: cell for cell in tagged(notebook, "solution")}
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if "exercise" in cell.metadata.get("tags", []):
            asked = function(cell)
            lines = cell.source.splitlines()
            check = "\n".join(lines[asked.end_lineno :]).strip()
            head = "\n".join(lines[: asked.end_lineno]).split("    ...")[0]
            wrong = [head + body(each) for each in WRONG[asked.name].values()]
            solution = solutions[asked.name]
            given = ast.get_source_segment(solution.source, function(solution))
            decorators = [f"@{ast.unparse(each)}" for each in function(solution).decorator_list]
            right = "\n".join([*decorators, given])
            source = TRY.format(wrong=wrong, check=check, right=right)
            cells.append(nbformat.v4.new_code_cell(source))
    notebook.cells = cells
    return notebook


def function(cell: NotebookNode) -> ast.FunctionDef:
    """What a cell of an exercise or a solution begins with."""
    return ast.parse(cell.source).body[0]


def body(answer: str) -> str:
    """An answer as the indented lines of a function."""
    lines = [line for line in answer.splitlines() if line.strip()]
    depth = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(" " * 4 + line[depth:] for line in lines)
