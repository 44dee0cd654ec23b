from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from pplr.data.dataset import Part, Ragged
from pplr.errors import ConfigError
from pplr.models.generative import GenerativeBackbone, GenerativeSettings
from pplr.models.layout import TrainableRow
from pplr.models.lora import AdapterSettings
from pplr.models.prompts import PromptBuilder, PromptTemplate, load_template, shipped_templates

ADAPTER = AdapterSettings(rank=2, scale=4.0, dropout=0.0)
TEMPLATE = PromptTemplate("Chosen:\n{history}\nNext:\n", "- {title};", "\n")
EOS = 0


def backbone(kind="llama", *, bos=False, data=None, **settings):
    data = data or tiny.dataset()
    chosen = GenerativeSettings(**({"adapter": ADAPTER, "prompt_tokens": 300} | settings))
    return GenerativeBackbone(chosen, data.catalogue, tiny.decoder(kind), tiny.byte_tokenizer(bos=bos), tiny.CPU)


def random_row(layout):
    return torch.randn(layout.size, generator=torch.Generator().manual_seed(0)) * 0.3


def labelled(model, prompts, targets, *, left):
    """The sum of transformers' own loss, from labels that are -100 outside the target."""
    width = max(len(p) + len(t) for p, t in zip(prompts, targets, strict=True))
    ids, labels = torch.zeros(len(prompts), width, dtype=torch.long), torch.full((len(prompts), width), -100)
    mask = torch.zeros_like(ids)
    for i, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        length = len(prompt) + len(target)
        start = width - length if left else 0
        ids[i, start : start + length] = torch.tensor(prompt + target)
        labels[i, start + len(prompt) : start + length] = torch.tensor(target)
        mask[i, start : start + length] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    loss = model(input_ids=ids, attention_mask=mask, position_ids=positions, labels=labels).loss
    return loss * sum(len(target) for target in targets)


@pytest.mark.parametrize(
    ("kind", "changes"), [("llama", {}), ("qwen2", {}), ("gemma2", {}), ("gemma3", {}), ("llama", {"bos": True})]
)
@pytest.mark.parametrize("left", [False, True])
def test_loss_and_gradients_equal_transformers_own(kind, changes, left):
    tested = backbone(kind, **changes)
    if kind == "gemma2":
        assert tested.model.config.final_logit_softcapping
    examples = tested.examples(tiny.dataset().training().select(np.array([0, 3])))
    rows = np.array([0, len(examples) - 1, 2])
    trained = TrainableRow(tested.layout, random_row(tested.layout))
    loss = tested.loss(trained.named, None, examples, rows, training=True)
    loss.total.backward()

    prompts = [tested.prompts.prompt(examples.histories[i]) for i in rows]
    texts = [tiny.catalogue().titles[i] for i in examples.targets[rows]]
    targets = [[*tested.tokenizer(text, add_special_tokens=False)["input_ids"], EOS] for text in texts]
    again = TrainableRow(tested.layout, random_row(tested.layout))
    with tested.lora.bound(again.named):
        expected = labelled(tested.model.module, prompts, targets, left=left)
    expected.backward()
    assert loss.targets == sum(map(len, targets))
    assert loss.tokens == sum(len(p) + len(t) - 1 for p, t in zip(prompts, targets, strict=True))
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-4)
    scale = again.gradient.abs().max()
    torch.testing.assert_close(trained.gradient / scale, again.gradient / scale, rtol=1e-4, atol=1e-5)


def test_a_batch_is_the_sum_of_its_examples():
    tested = backbone()
    parameters = tested.layout.views(random_row(tested.layout))
    examples = tested.examples(tiny.dataset().training())
    rows = np.arange(5)
    with torch.no_grad():
        together = float(tested.loss(parameters, None, examples, rows, training=False).total)
        apart = sum(float(tested.loss(parameters, None, examples, np.array([i]), training=False).total) for i in rows)
    assert together == pytest.approx(apart, rel=1e-5)


def test_titles_end_and_are_cut_to_title_tokens():
    tested = backbone(title_tokens=5)
    for title, ids in zip(tiny.catalogue().titles, tested.titles, strict=True):
        assert ids[-1] == EOS
        assert tested.tokenizer.decode(ids[:-1]) == title[:5]


def test_examples_are_every_next_item_or_only_the_last():
    training = Ragged.from_rows([[1, 2, 3], [4], [], [5, 6]])
    every = backbone().examples(training)
    assert [(h.tolist(), int(t)) for h, t in zip(every.histories, every.targets, strict=True)] == [
        ([1], 2),
        ([1, 2], 3),
        ([5], 6),
    ]
    last = backbone(examples="last", history_items=1).examples(training)
    assert [(h.tolist(), int(t)) for h, t in zip(last.histories, last.targets, strict=True)] == [([2], 3), ([5], 6)]


def test_training_and_inference_read_the_same_prompt():
    data, tested = tiny.dataset(), backbone()
    queries = data.queries(Part.VALIDATION)
    examples = tested.query_examples(queries)
    ids, mask = tested.prompt_batch(list(queries.histories))
    read = []
    tested.model.module.get_input_embeddings().register_forward_pre_hook(
        lambda module, given: read.append(given[0].tolist())
    )
    parameters = tested.layout.views(tested.layout.initial_row(0))
    with torch.no_grad():
        tested.loss(parameters, None, examples, np.arange(4), training=False)
    *start, rest = read  # what all prompts begin with may be read once for all
    shared = [token for part in start for token in part[0]]
    for i in range(4):
        prompt = ids[i][mask[i].bool()].tolist()
        assert prompt == tested.prompts.prompt(queries.histories[i])
        wanted = prompt + tested.titles[int(examples.targets[i])][:-1]
        assert (shared + rest[i])[: len(wanted)] == wanted


@pytest.fixture(scope="module")
def texts():
    """Titles of the catalogue and one that is longer than any budget."""
    return [*tiny.catalogue().titles, "long " * 50]


@given(st.data())
def test_prompts_never_lose_their_frame_or_part_of_a_title(texts, data):
    tokenizer, bos = (TOKENIZERS[True], [1]) if data.draw(st.booleans()) else (TOKENIZERS[False], [])
    title_tokens, items = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 12))
    budget = data.draw(st.integers(10, 200))
    history = np.array(data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=15)), np.int64)
    frame = len("Chosen:\n\nNext:\n") + len(bos)
    longest = max(len(f"- {text[:title_tokens]};") for text in texts)

    def build():
        return PromptBuilder(TEMPLATE, tokenizer, texts, items=items, tokens=budget, title_tokens=title_tokens)

    if frame + longest > budget:
        with pytest.raises(ConfigError, match=f"at least {frame + longest}"):
            build()
        return
    ids = build().prompt(history)
    assert len(ids) <= budget
    assert ids[: len(bos)] == bos
    kept = history[-items:].tolist()
    while kept and frame + len(lines(texts, kept, title_tokens)) > budget:
        kept.pop(0)  # the oldest go first, and whole
    assert tokenizer.decode(ids[len(bos) :]) == f"Chosen:\n{lines(texts, kept, title_tokens)}\nNext:\n"
    assert not len(history) or kept, "the newest title always fits"


TOKENIZERS = {bos: tiny.byte_tokenizer(bos=bos) for bos in (False, True)}


def lines(texts, items, title_tokens):
    return "\n".join(f"- {texts[item][:title_tokens]};" for item in items)


def test_the_shipped_templates_list_the_titles_where_their_text_says_so(texts):
    said = {
        "bare-titles": "{0}\n{1}\n",
        "chosen-titles": "### Instruction:\nHere is a list of titles that one person chose, in that order. Answer with the one title "
        "they choose next.\n\n### Chosen:\n{0}\n{1}\n\n### Next:\n",
        "sentence": "Somebody chose, one after the other: {0}; {1}. The next one was:\n",
    }
    assert shipped_templates() == sorted(said)
    for name, text in said.items():
        builder = PromptBuilder(load_template(name), TOKENIZERS[False], texts, items=5, tokens=1000, title_tokens=100)
        found = TOKENIZERS[False].decode(builder.prompt(np.array([2, 0])))
        assert found == text.format(texts[2], texts[0])


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("chosen-title", None, "Did you mean 'chosen-titles'"),
        ("none.toml", None, "does not exist"),
        ("a.toml", 'prompt = "x"\nitem = "y"\nseparator = ""', "must contain {history} exactly once"),
        ("a.toml", 'prompt = "{history}"', "cannot be read"),
        ("a.toml", "prompt = ", "cannot be read"),
        ("a.toml", 'prompt = 3\nitem = "{title}"\nseparator = ""', "prompt is no text"),
    ],
)
def test_wrong_templates_are_explained(tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_template(name, tmp_path)
    assert says in str(caught.value)


def test_an_own_template_is_read(tmp_path):
    (tmp_path / "a.toml").write_text('prompt = "{history}?"\nitem = "<{title}>"\nseparator = ", "')
    assert load_template("a.toml", tmp_path) == PromptTemplate("{history}?", "<{title}>", ", ")


def test_the_titles_are_read_once_for_all_clients_and_without_adapters():
    tested = backbone(grounding="embedding")
    read = []
    tested.model.module.get_input_embeddings().register_forward_pre_hook(
        lambda module, given: read.append(given[0].shape)
    )
    parameters = tested.layout.views(random_row(tested.layout))
    first = tested.scorer(parameters)
    assert sum(shape[0] for shape in read) == tested.items
    read.clear()
    tested.scorer(tested.layout.views(tested.layout.initial_row(1)))
    assert read == []
    queries = tiny.dataset().queries(Part.TEST).select(np.arange(3))
    assert first.scores(queries).shape == (3, tested.items)
    fresh = tiny.decoder("llama")
    for title, state in zip(tested.titles, tested.title_states, strict=True):
        alone = fresh.base_model(input_ids=torch.tensor([title[:-1]])).last_hidden_state[0, -1]
        torch.testing.assert_close(state, alone, rtol=1e-4, atol=1e-4)
