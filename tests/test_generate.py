"""Choosing codes, and drawing them one position at a time."""

import math
from collections import Counter
from threading import Event, Thread

import pytest
import torch
from builders import tiny_dalle, tiny_tokens
from checks import (
    assert_guided_as_uncached,
    assert_keeps_k,
    assert_one_position_per_step,
    assert_untouched,
)
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from minidalle.device import decoding
from minidalle.generate import (
    Sampling,
    choose,
    generate,
    guide,
    keep_top_k,
    keep_top_p,
    progress,
    uniforms,
)

K = 11  # codes of the tiny model
rows = st.lists(st.integers(-6, 6), min_size=2, max_size=8)  # small integers, so that ties occur
shares = st.floats(0, 1, exclude_max=True)
ALMOST_ONE = 1 - 2**-24  # the largest number that torch.rand can draw


def logits_of(row) -> torch.Tensor:
    return torch.tensor([row], dtype=torch.float32)


def pick(row, u, temperature=1.0, top_k=None, top_p=None) -> int:
    sampling = Sampling(temperature, top_k, top_p)
    return int(choose(logits_of(row), torch.tensor([u]), sampling))


# --------------------------------------------------------------------------------- one choice


def test_choose_by_hand():
    """Probabilities 1/2, 1/4, 1/4: u decides by the inverse cumulative distribution."""
    row = [math.log(2), 0.0, 0.0]
    assert [pick(row, u) for u in (0.0, 0.49, 0.51, 0.74, 0.76, ALMOST_ONE)] == [0, 0, 1, 1, 2, 2]


@given(rows, shares)
@example([2, 2, 2], 0.9)
def test_temperature_0_and_top_1_are_greedy(row, u):
    """Both take the first of the likeliest codes, whatever the number drawn, ties included."""
    best = row.index(max(row))
    assert pick(row, u, temperature=0) == best
    assert pick(row, u, top_k=1) == best
    assert pick(row, u, top_p=1e-9) == best


@given(rows, shares)
def test_a_tiny_temperature_is_greedy_and_finite(row, u):
    """As the temperature falls to the smallest number there is, the choice becomes greedy."""
    assume(row.count(max(row)) == 1)
    for temperature in (1e-3, 1e-30, 5e-324):
        assert pick(row, u, temperature=temperature) == row.index(max(row))


@given(rows, st.data())
def test_top_k_keeps_k_codes(row, data):
    """Exactly the k largest, ties or not; the others get probability 0."""
    k = data.draw(st.integers(1, len(row)))
    kept = keep_top_k(logits_of(row), k)[0].isfinite()
    assert int(kept.sum()) == k
    values = torch.tensor(row)
    assert k == len(row) or values[kept].min() >= values[~kept].max()


@given(rows, st.floats(0.01, 1.0))
def test_top_p_keeps_the_fewest_codes_that_reach_p(row, p):
    """Their sum reaches p; without the least likely of them it does not."""
    logits = logits_of(row).double()
    kept = keep_top_p(logits, p)[0].isfinite()
    probability = logits.softmax(-1)[0]
    assert float(probability[kept].sum()) >= p - 1e-9
    assert float(probability[kept].sum() - probability[kept].min()) < p + 1e-9
    assert kept.all() or probability[kept].min() >= probability[~kept].max()


def test_top_k_keeps_k_whatever_ties():
    """The check that the planted faults of top-k fail."""
    assert_keeps_k(keep_top_k)


def test_top_p_of_1_keeps_everything():
    """Also what is very unlikely, and of so many codes that their sum is 1 before the last ones."""
    assert keep_top_p(torch.tensor([[0.0, -20.0, -30.0]]).double(), 1.0).isfinite().all()
    logits = 5 * torch.randn(50, 8192, generator=torch.Generator().manual_seed(0)).double()
    assert keep_top_p(logits, 1.0).isfinite().all()


@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_say_nothing_are_errors(worst, temperature):
    """The code of damaged weights would be K, which is none. Some logits may be −∞, not all of them."""
    logits = torch.zeros(2, 5)
    logits[0, 1:] = -math.inf
    u, sampling = torch.full((2,), 0.7), Sampling(temperature)
    assert choose(logits, u, sampling)[0] == 0
    logits[1] = worst
    with pytest.raises(ValueError, match=f"must be finite, not {worst}"):
        choose(logits, u, sampling)


@pytest.mark.parametrize("u", [1.0, -0.1, math.nan])
def test_numbers_that_are_no_chances_are_errors(u):
    """The message has what was given."""
    with pytest.raises(ValueError, match=r"\[0, 1\).*" + str(u)[:4]):
        choose(torch.zeros(1, 3), torch.tensor([u]))


def test_guidance_beyond_all_numbers_is_an_error():
    """It overflows in 32 bit; the pictures would be of codes that do not exist."""
    model = tiny_dalle(h=1, w=1)
    with pytest.raises(ValueError, match=r"guidance \(here 1e\+39\)"):
        generate(model, tiny_tokens(model)[0], torch.Generator(), sampling=Sampling(guidance=1e39))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 2.0}, "n must be a whole number, not 2.0"),
        ({"image": True, "rows": 1.0}, "rows must be a whole number, not 1.0"),
        ({"batch": 1.5}, "batch must be a whole number, not 1.5"),
    ],
)
def test_parts_of_pictures_are_errors(changes, words):
    """Whole rows, whole pictures."""
    model = tiny_dalle()
    text, image = tiny_tokens(model)
    if "image" in changes:
        changes = changes | {"image": image}
    with pytest.raises(ValueError, match=words):
        generate(model, text, torch.Generator(), **changes)
    with pytest.raises(ValueError, match=r"top-k must be a whole number of codes, not 2\.5"):
        Sampling(top_k=2.5)


def test_progress_complains_before_its_first_tokens_are_asked_for():
    """Where it was called, not where somebody shows what it draws."""
    model = tiny_dalle()
    with pytest.raises(ValueError, match="n, the pictures for each caption"):
        progress(model, tiny_tokens(model)[0], torch.Generator(), n=0)


def test_every_row_is_cut_by_itself():
    """Two rows of one batch with different favourites."""
    logits = torch.tensor([[3.0, 2, 1, 0], [0, 1, 2, 3]])
    for keep in (lambda x: keep_top_k(x, 2), lambda x: keep_top_p(x, 0.8)):
        assert keep(logits).isfinite().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    chosen = choose(logits, torch.tensor([0.99, 0.0]), Sampling(top_k=2))
    assert chosen.tolist() == [1, 2]


@given(
    st.lists(st.sampled_from([-math.inf, 0.0, 1.0, -50.0]), min_size=2, max_size=8),
    st.one_of(shares, st.sampled_from([0.0, ALMOST_ONE, 1 - 2**-53])),
)
def test_no_impossible_code_is_chosen(row, u):
    """Codes of probability 0 at the start, in the middle and at the end, and u at both ends."""
    assume(max(row) > -math.inf)
    chosen = int(choose(logits_of(row), torch.tensor([u], dtype=torch.float64)))
    assert 0 <= chosen < len(row)
    assert row[chosen] > -math.inf


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_codes_occur_as_often_as_their_probability_says(temperature):
    """A fine comb of numbers u: frequencies are softmax(logits / temperature)."""
    logits = torch.tensor([[2.0, -1.0, 0.5, 0.0]])
    n = 10_000
    u = (torch.arange(n) + 0.5) / n
    chosen = choose(logits.expand(n, 4), u, Sampling(temperature))
    frequency = torch.bincount(chosen, minlength=4) / n
    torch.testing.assert_close(frequency, (logits[0] / temperature).softmax(0), atol=2e-4, rtol=0)


def test_truncation_comes_after_the_temperature():
    """p is a share of what is sampled from, not of the raw probabilities."""
    row = [3.0, 2.0, 1.0, 0.0]  # 0.64 0.24 0.09 0.03; at temperature 4 nearly even
    drawn = {pick(row, u / 100, temperature=4.0, top_p=0.7) for u in range(100)}
    assert drawn == {0, 1, 2}


def test_choosing_leaves_its_arguments_alone():
    """Truncation writes −∞ into a copy."""
    logits, u = torch.randn(3, K), torch.rand(3)
    assert_untouched(lambda: choose(logits, u, Sampling(0.7, 3, 0.5)), logits, u)
    assert_untouched(lambda: keep_top_k(logits, 2), logits)
    assert_untouched(lambda: keep_top_p(logits, 0.5), logits)


# ------------------------------------------------------------------------------- whole pictures


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_dalle()


@pytest.fixture(scope="module")
def text(model):
    return tiny_tokens(model, 3)[0]


SAMPLING = {"temperature", "top_k", "top_p", "guidance"}


def arguments(seed, settings):
    """A generator, and the settings with those of sampling gathered."""
    sampling = {k: v for k, v in settings.items() if k in SAMPLING}
    others = {k: v for k, v in settings.items() if k not in SAMPLING}
    return torch.Generator().manual_seed(seed), {"sampling": Sampling(**sampling), **others}


def draw(model, text, seed=0, **settings):
    generator, settings = arguments(seed, settings)
    return generate(model, text, generator, **settings)


def test_tokens_come_caption_by_caption(model, text):
    """n rows for each caption, of N codes each, all of them codes."""
    tokens = draw(model, text, n=2)
    assert tokens.shape == (6, 6) and tokens.dtype == torch.int64
    assert tokens.min() >= 0 and tokens.max() < K
    greedy = draw(model, text, n=2, temperature=0)
    assert torch.equal(greedy, draw(model, text, temperature=0).repeat_interleave(2, 0))


def test_greedy_drawing_is_what_the_uncached_model_likes_best(model, text):
    """Temperature 0 = top-k 1 = a loop over full forward passes."""
    image = torch.zeros(3, 6, dtype=torch.int64)
    for k in range(6):
        with torch.no_grad():
            image[:, k] = model(text, image)[1][:, k].argmax(-1)
    assert torch.equal(draw(model, text, temperature=0), image)
    assert torch.equal(draw(model, text, top_k=1), image)
    assert torch.equal(draw(model, text, temperature=0, seed=5), image)


def test_sampling_is_what_the_uncached_model_samples(model, text):
    """The same numbers u and full forward passes give the same picture."""
    u = uniforms(3, 6, torch.Generator().manual_seed(4))
    image = torch.zeros(3, 6, dtype=torch.int64)
    for k in range(6):
        with torch.no_grad():
            logits = model(text, image)[1][:, k]
        image[:, k] = choose(logits, u[:, k], Sampling(0.8, 7, 0.9))
    assert torch.equal(draw(model, text, 4, temperature=0.8, top_k=7, top_p=0.9), image)


def test_the_seed_decides(model, text):
    """Same seed, same pictures; another seed, others; no global random state is used or moved."""
    state = torch.get_rng_state()
    first = draw(model, text, 1, n=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert torch.equal(draw(model, text, 1, n=4), first)
    assert not torch.equal(draw(model, text, 2, n=4), first)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 100])
def test_the_batch_does_not_matter(model, text, batch):
    """Neither where it cuts through one caption's candidates nor where it joins several captions'."""
    assert torch.equal(draw(model, text, n=3, batch=batch), draw(model, text, n=3))


def test_the_first_pictures_do_not_depend_on_how_many_follow(model, text):
    """n = 4 begins with n = 2's pictures."""
    assert torch.equal(draw(model, text[:1], n=4)[:2], draw(model, text[:1], n=2))


def test_candidates_of_one_caption_differ(model, text):
    """Each candidate has numbers of its own."""
    assert len(set(map(tuple, draw(model, text[:1], n=8).tolist()))) > 1


def test_one_new_position_is_computed_per_step(text):
    """The cache is used: the prefix once, then one position for each token but the last."""
    model = tiny_dalle()
    assert_one_position_per_step(model, lambda: draw(model, text, n=2))


def test_captions_share_their_prefix(text):
    """The prefix of a caption is computed once, however many candidates it has."""
    model = tiny_dalle()
    sizes = []
    original = model.begin
    model.begin = lambda text: (sizes.append(len(text)), original(text))[1]
    draw(model, text, n=5)
    assert sizes == [3]


def test_drawing_leaves_its_arguments_alone(model, text):
    """Captions and weights are bit for bit as before."""
    weights = [p.detach() for p in model.parameters()]
    assert_untouched(lambda: draw(model, text, n=2, top_k=3, top_p=0.9), text, *weights)


def test_top_k_counts_image_codes(model, text):
    """k may be as large as K, and no larger, whatever the text vocabulary's size."""
    assert torch.equal(draw(model, text, top_k=K), draw(model, text))
    with pytest.raises(ValueError, match=rf"1 … {K}.*{K + 1}"):
        draw(model, text, top_k=K + 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"guidance": -0.5},
        {"guidance": math.inf},
        {"n": 0},
        {"batch": 0},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_errors(model, text, settings):
    """The message names the number."""
    (number,) = settings.values()
    with pytest.raises(ValueError, match=str(number)):
        draw(model, text, **settings)


def test_numbers_must_fit_the_logits():
    """One for each row; the message has both shapes."""
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(1,\)"):
        choose(torch.zeros(2, 3), torch.zeros(1))
    with pytest.raises(ValueError, match=r"\(3,\) and \(3,\)"):
        choose(torch.zeros(3), torch.zeros(3))


def test_captions_are_checked(model):
    """An id out of range does not reach a kernel."""
    with pytest.raises(ValueError, match="text tokens must lie in 0 … 23"):
        draw(model, torch.full((1, 4), 24))


# ------------------------------------------------------------------------------------- guidance


def test_guidance_by_hand():
    """without + s · (with − without), row by row."""
    logits = torch.tensor([[2.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 3.0]])  # two with, two without
    assert guide(logits, 3.0).tolist() == [[4.0, 0.0], [3.0, -3.0]]
    assert guide(logits, 1.0).tolist() == logits[:2].tolist()
    assert guide(logits, 0.0).tolist() == logits[2:].tolist()


def test_weights_are_cast_once_for_a_whole_drawing(model, text):
    """Under autocast, which keeps what it has cast; a cast of all weights at every step costs a tenth."""
    weights = {p.data_ptr() for p in model.parameters()}
    casts = Counter()

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default and args[0].data_ptr() in weights:
                casts[args[0].data_ptr()] += 1
            return function(*args, **(kwargs or {}))

    with Casts(), torch.autocast("cpu", torch.bfloat16):
        draw(model, text)
    assert len(casts) > 4 * model.config.L and set(casts.values()) == {1}


@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
def test_one_dnn_is_out_of_the_way_while_float32_is_decoded(model, text, monkeypatch, half):
    """Its set-up costs more than one row of products; in 16 bit it is the only fast way. Between the steps,
    and when one fails, it is as it was."""
    one_dnn, during = torch.backends.mkldnn, []
    step = type(model).step

    def watched(*arguments):
        during.append(one_dnn.enabled)
        if len(during) == 3:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(type(model), "step", watched)
    before = one_dnn.enabled
    with torch.autocast("cpu", torch.bfloat16, enabled=half), pytest.raises(KeyboardInterrupt):
        for _ in progress(model, text, torch.Generator()):
            assert one_dnn.enabled == before, "between two rows others compute"
    assert during == [half and before] * 3 and one_dnn.enabled == before


def test_two_threads_that_decode_leave_one_dnn_as_it_was():
    """The second begins while the first is at it and ends after it."""
    one_dnn, cpu, inside, left = torch.backends.mkldnn, torch.device("cpu"), Event(), Event()
    before = one_dnn.enabled

    def second():
        with decoding(cpu):
            inside.set()
            left.wait(10)

    other = Thread(target=second)
    with decoding(cpu):
        other.start()
        inside.wait(0.5)  # without turns it is inside now, and has taken "off" for how it was
    left.set()
    other.join()
    assert one_dnn.enabled == before


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("guidance", [0.0, 0.5, 2.0])
def test_guided_drawing_is_what_uncached_models_sample(model, text, guidance, rows):
    """Two full forward passes a token, with the caption and without one; with given rows too."""
    image = torch.randint(K, (3, 6))
    empty = torch.arange(20, 24).expand(3, 4)
    u = uniforms(3, 6, torch.Generator().manual_seed(4))
    expected = image.clone() if rows else torch.zeros_like(image)
    expected[:, 3 * rows :] = 0
    for k in range(3 * rows, 6):
        with torch.no_grad():
            captioned, blank = (model(t, expected)[1][:, k] for t in (text, empty))
        logits = blank + guidance * (captioned - blank)
        expected[:, k] = choose(logits, u[:, k], Sampling(0.8))
    prompt = {"image": image, "rows": rows} if rows else {}
    found = draw(model, text, 4, temperature=0.8, guidance=guidance, **prompt)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_greedy_guided_drawing_is_what_uncached_models_like_best(model, text, guidance):
    """The check that the planted faults of guidance fail."""
    guided = {"temperature": 0.0, "guidance": guidance}
    assert_guided_as_uncached(model, text, guidance, lambda: draw(model, text, **guided))


def test_guidance_of_0_forgets_the_caption(model, text):
    """Whatever is asked for, the same pictures; with a caption they differ."""
    others = (text + 1) % 20
    assert torch.equal(draw(model, text, guidance=0.0), draw(model, others, guidance=0.0))
    cold = {"temperature": 0.1, "n": 20}  # so that a small difference of logits shows in a code
    assert not torch.equal(draw(model, text, **cold), draw(model, others, **cold))


def test_guidance_leaves_captions_and_prompt_alone(model, text):
    """The empty caption is made, not written over the caller's."""
    image = torch.randint(K, (3, 6))
    assert_untouched(lambda: draw(model, text, guidance=2.0, image=image, rows=1), text, image)


def test_guidance_computes_one_position_per_step_too(text):
    """Both streams in one call."""
    model = tiny_dalle()
    assert_one_position_per_step(model, lambda: draw(model, text, guidance=2.0), prefixes=2)


# --------------------------------------------------------------------------------- image prompts


def test_given_rows_are_kept_and_the_rest_is_drawn_as_uncached(model, text):
    """The first row of 3 codes is the caller's; each later code follows from full forward passes."""
    image = torch.randint(K, (3, 6))
    u = uniforms(3, 6, torch.Generator().manual_seed(2))
    expected = image.clone()
    expected[:, 3:] = 0
    for k in range(3, 6):
        with torch.no_grad():
            expected[:, k] = choose(model(text, expected)[1][:, k], u[:, k])
    found = draw(model, text, 2, image=image, rows=1)
    assert torch.equal(found, expected)
    assert torch.equal(found[:, :3], image[:, :3])


def test_what_stands_below_the_given_rows_is_not_looked_at(model, text):
    """Only whole rows count; the rest of the prompt picture may be anything."""
    image = torch.randint(K, (3, 6))
    other = torch.cat([image[:, :3], (image[:, 3:] + 1) % K], 1)
    a, b = (draw(model, text, n=2, image=x, rows=1) for x in (image, other))
    assert torch.equal(a, b)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_does_not_matter_with_prompt_and_guidance(model, text, batch):
    """Prompts stay with their captions wherever the batch is cut."""
    settings = {"image": torch.randint(K, (3, 6)), "rows": 1, "guidance": 2.0, "n": 3}
    assert torch.equal(draw(model, text, batch=batch, **settings), draw(model, text, **settings))


def test_rows_without_an_image_and_too_many_rows_are_errors(model, text):
    """The message has the number and the range."""
    image = torch.randint(K, (3, 6))
    for settings in ({"rows": 1}, {"image": image}, {"image": image, "rows": 2}):
        with pytest.raises(ValueError, match="give image tokens and 1 … 1 rows"):
            draw(model, text, **settings)
    with pytest.raises(ValueError, match="3 captions but 2 pictures"):
        draw(model, text, image=image[:2], rows=1)
    with pytest.raises(ValueError, match=r"shape \(B, 6\), not \(3, 5\)"):
        draw(model, text, image=image[:, :5], rows=1)


# -------------------------------------------------------------------------------------- progress


@pytest.mark.parametrize("rows", [0, 1])
def test_partial_pictures_grow_into_the_picture(model, text, rows):
    """One for every row drawn, each a beginning of the last, which is what `generate` gives."""
    prompt = {"image": torch.randint(K, (3, 6)), "rows": 1} if rows else {}
    generator, settings = arguments(3, {"n": 2, "guidance": 2.0, **prompt})
    seen = list(progress(model, text, generator, **settings))
    final = draw(model, text, 3, n=2, guidance=2.0, **prompt)
    assert [known for _, known in seen] == list(range(3 * rows + 3, 7, 3))
    for tokens, known in seen:
        assert torch.equal(tokens[:, :known], final[:, :known])
        assert not tokens[:, known:].any()


def test_no_captions_are_an_error(model, text):
    """Before anything is drawn."""
    with pytest.raises(ValueError, match="no caption given"):
        draw(model, text[:0])
