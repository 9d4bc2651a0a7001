"""peft: low-rank adapters beside a chip, whose weights they leave as they are.

AHWA-LoRA (arXiv 2411.17367) keeps pretrained weights on analog tiles and trains digital adapters.
"""

import contextlib
import copy
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

import analogtorch as at
from analogtorch.evaluate.identity import options_digest
from analogtorch.hwa.huggingface import KeepRanges
from tests.ecosystem.models import CHIP

pytestmark = [
    # what peft asks of transformers
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:this state_dict carries no DAC ranges"),
]
IDS = torch.randint(0, 40, (4, 10), generator=torch.Generator().manual_seed(1))
RANK = 4


def _llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def _gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config).eval()


TARGETS = {_llama: ["q_proj", "v_proj"], _gpt2: ["c_attn"]}
EVERYWHERE = {_llama: r".*(_proj|lm_head)", _gpt2: r".*(c_attn|c_fc|c_proj)"}
MODELS = pytest.mark.parametrize("make", TARGETS)


def _converted(make: Any, chip: at.Chip = CHIP) -> nn.Module:
    return _calibrated(make, at.convert(make(), chip))


def _calibrated(make: Any, model: nn.Module) -> nn.Module:
    # fixed ranges for GPT-2, as weights that change leave them behind
    effort: Any = "ranges" if make is _gpt2 else "default"
    return at.calibrate(model, [{"input_ids": IDS}], effort=effort)


def _adapted(model: nn.Module, make: Any, **options: Any) -> Any:
    """Return the model with adapters, which change nothing unless ``options`` say so."""
    options = {"target_modules": TARGETS[make], **options}
    config = peft.LoraConfig(r=RANK, fan_in_fan_out=make is _gpt2, **options)
    torch.manual_seed(2)
    return peft.get_peft_model(model, config).eval()


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def _adapters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


def _others(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.clone() for name, p in model.named_parameters() if "lora_" not in name}


@MODELS
def test_only_the_adapters_learn_and_they_learn_under_the_chips_noise(make: Any) -> None:
    plain = _logits(_converted(make))
    model = _adapted(_converted(make), make)
    assert torch.equal(_logits(model), plain)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == set(_adapters(model))
    before, first = _others(model), []
    optimizer = torch.optim.Adam(_adapters(model).values(), lr=0.02)
    model.train()
    for _ in range(2):
        with at.noise(seed=3):
            losses = [model(input_ids=IDS, labels=IDS).loss for _ in range(2)]
        assert losses[0] != losses[1]  # each forward has noise of its own
        first.append(losses[0].item())
        losses[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert first[1] < first[0]
    after = _others(model)
    assert all(torch.equal(t, after[name]) for name, t in before.items())


@MODELS
def test_a_chip_has_the_same_cells_with_adapters(make: Any) -> None:
    """The layers keep the names that key their noise; the adapters are not programmed."""
    model = _adapted(_converted(make), make)
    chip, plain = (at.program(m, seed=1).at("1 day") for m in (model, _converted(make)))
    expected = _logits(plain)
    assert torch.equal(_logits(chip), expected)
    late = _calibrated(make, at.convert(_adapted(make(), make), CHIP))
    assert torch.equal(_logits(at.program(late, seed=1).at("1 day")), expected)
    other = _adapted(_converted(make), make, init_lora_weights=False)
    assert not torch.equal(_logits(at.program(other, seed=1).at("1 day")), expected)
    found = at.sweep(other, lambda m: float(_logits(m).mean()), num_chips=1, times=["0 s", "1 day"])
    assert found.values[0, 0] != found.values[0, 1]


@MODELS
def test_a_drifted_chip_is_recalibrated_by_adapters_alone(make: Any, tmp_path: Path) -> None:
    """Without labels: the adapters learn to make the chip's logits those of the digital twin."""
    twin = _logits(make())
    quiet = CHIP.replace(adc={"noise": 0.0})
    physical = at.program(_converted(make, quiet), seed=1)
    model = _adapted(physical.at("1 year"), make, target_modules=EVERYWHERE[make])
    error = (_logits(model) - twin).square().mean()
    optimizer = torch.optim.Adam(_adapters(model).values(), lr=0.02)
    for _ in range(25):
        (model(input_ids=IDS).logits - twin).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (_logits(model) - twin).square().mean() < 0.8 * error

    for (_, layer), (_, same) in zip(
        at.analog_layers(model), at.analog_layers(physical.at("1 year")), strict=True
    ):
        assert all(map(torch.equal, layer.programmed.weights, same.programmed.weights))
        assert not any(p.requires_grad for p in layer.parameters())

    model.save_pretrained(tmp_path, save_embedding_layers=False)
    names = {file.name for file in tmp_path.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= names
    loaded = [
        peft.PeftModel.from_pretrained(physical.at("1 year"), tmp_path).eval() for _ in range(2)
    ]
    saved = _adapters(model)
    assert all(torch.equal(p, saved[name]) for name, p in _adapters(loaded[0]).items())
    assert torch.equal(*map(_logits, loaded))
    with pytest.raises(RuntimeError, match="belongs to a programmed chip; load into the model"):
        loaded[0].load_state_dict(model.state_dict())


@MODELS
@pytest.mark.parametrize("whole", [True, False], ids=["peft model", "its base"])
def test_adapters_are_carried_over_to_another_time(make: Any, whole: bool) -> None:
    quiet = CHIP.replace(adc={"noise": 0.0})
    physical = at.program(_converted(make, quiet), seed=1)
    adapted = _adapted(physical.at("1 month"), make, init_lora_weights=False)
    later = physical.at("1 year", corrected=adapted if whole else adapted.get_base_model())
    assert torch.equal(_logits(physical.at("1 month", corrected=adapted)), _logits(adapted))
    bare = physical.at("1 year", corrected=physical.at("1 month"))
    assert not torch.equal(_logits(later), _logits(bare))
    for adapter in later.modules():
        if isinstance(adapter, peft.tuners.lora.LoraLayer):
            adapter.enable_adapters(False)
    assert torch.equal(_logits(later), _logits(bare))
    with pytest.raises(RuntimeError, match="merge: the adapter is around layer"):
        next(m for m in later.modules() if isinstance(m, peft.tuners.lora.LoraLayer)).merge()


@MODELS
@pytest.mark.parametrize("first", ["adapters", "chip"])
def test_an_adapter_cannot_be_merged_into_a_chip(make: Any, first: str) -> None:
    options = {"init_lora_weights": False}
    if first == "adapters":
        physical = at.program(_adapted(_converted(make), make, **options), seed=1)
        model = physical.at("1 day")
    else:
        physical = at.program(_converted(make), seed=1)
        model = _adapted(physical.at("1 day"), make, **options)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    message = "merge: the adapter is around layer .* of a programmed chip, .*program that anew"
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(RuntimeError, match=message):
            merge()
    with pytest.raises(RuntimeError, match="unmerge: the adapter is around"):
        copy.deepcopy(model).unmerge_adapter()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with pytest.raises(RuntimeError, match=r"call \.eval\(\) on it, in which adapters .* learn"):
        _logits(model.train())


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_that_starts_with_another_weight_is_refused_by_a_chip(start: str) -> None:
    physical = at.program(_converted(_llama), seed=1)
    plain = _logits(physical.at("1 day"))
    view = physical.at("1 day")
    with pytest.raises(RuntimeError, match="initialisation of this adapter changes the weight of"):
        _adapted(view, _llama, init_lora_weights=start)
    # neither the view nor the chip has changed
    assert torch.equal(_logits(physical.at("1 day")), plain)
    model = _adapted(physical.at("1 day"), _llama)
    assert torch.equal(_logits(model), plain)
    with pytest.raises(RuntimeError, match="program that anew"):
        copy.deepcopy(model).add_adapter(
            "b",
            peft.LoraConfig(r=RANK, target_modules=TARGETS[_llama], init_lora_weights=start),
        )
    first = _adapted(_converted(_llama), _llama, init_lora_weights=start)
    assert _logits(at.program(first, seed=1).at("1 day")).isfinite().all()


def _small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)).eval()


REWEIGHTING = {
    "HiRA": lambda: peft.HiraConfig(r=RANK, target_modules=["0"]),
    "PEANuT": lambda: peft.PeanutConfig(r=RANK, target_modules=["0"]),
    "HRA": lambda: peft.HRAConfig(r=RANK, target_modules=["0"]),
    "SHiRA": lambda: peft.ShiraConfig(r=1, target_modules=["0"]),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
@pytest.mark.parametrize("order", ["converted", "adapted", "programmed"])
@pytest.mark.parametrize("kind", REWEIGHTING)
def test_an_adapter_that_multiplies_by_a_weight_of_its_own_is_refused(
    kind: str, order: str
) -> None:
    x = torch.randn(2, 16)
    if order == "adapted":
        digital = peft.get_peft_model(_small(), REWEIGHTING[kind]()).eval()
        expected, model = digital(x), at.convert(digital, CHIP)
    else:
        model = at.convert(_small(), CHIP)
        if order == "programmed":
            model = at.program(model, seed=1).at("1 day")
        model(x)  # no first run any more, which would name the layer
        model = peft.get_peft_model(model, REWEIGHTING[kind]()).eval()
    model = copy.deepcopy(model)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="around layer '0' .*multiplies.* by a weight"):
            model(x)
    if order == "adapted":
        again = at.to_digital(model)
        assert torch.equal(again(x), expected)
        assert not any(m._forward_hooks for m in again.modules())


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=RANK, target_modules=["0"], use_dora=True),
        peft.OFTConfig(r=0, oft_block_size=4, target_modules=["0"]),
        peft.FourierFTConfig(n_frequency=20, target_modules=["0"]),
    ],
    ids=["DoRA", "OFT", "FourierFT"],
)
def test_an_adapter_that_calls_the_layer_is_not(config: peft.PeftConfig) -> None:
    x = torch.randn(2, 16)
    model = peft.get_peft_model(at.convert(_small(), CHIP), config).eval()
    layer = model.get_submodule("base_model.model.0")
    assert len(layer._forward_hooks) == 1
    model(x)
    assert not layer._forward_hooks


@pytest.mark.parametrize("chip", ["ideal", "programmed"])
def test_the_norms_of_dora_are_digital_and_nothing_else(chip: str) -> None:
    x = torch.randn(8, 16)
    digital, net = _small(), at.convert(_small(), at.chips.ideal() if chip == "ideal" else CHIP)
    if chip == "programmed":
        net = at.program(net, seed=1).at("1 day")
    config = peft.LoraConfig(
        r=RANK, target_modules=["0"], use_dora=True, init_lora_weights="gaussian"
    )
    adapted, wanted = (peft.get_peft_model(m, config).eval() for m in (net, digital))
    learnt = {n: torch.randn_like(p) for n, p in wanted.named_parameters() if "lora" in n}
    for model in (adapted, wanted):
        model.load_state_dict(learnt, strict=False)
    report = at.guard(adapted, x)
    assert [(row.name, row.runs) for row in report.layers] == [
        ("base_model.model.0.base_layer", 1),
        ("base_model.model.2", 1),
    ]
    if chip == "ideal":
        torch.testing.assert_close(adapted(x), wanted(x))


class _Doubled(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = layer

    def update_layer(self) -> None:
        """Make the matrices of the adapter."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.base_layer(x)


def test_the_first_pass_changes_nothing_that_folders_know_of_a_model() -> None:
    model = _adapted(_converted(_llama), _llama)
    before = options_digest(model)
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    _logits(model)
    assert sum(len(module._forward_hooks) for module in model.modules()) < hooks
    assert options_digest(model) == before


def test_an_adapter_is_traced_before_it_has_run() -> None:
    x, model = torch.randn(2, 16), at.convert(_small(), CHIP)
    model[0] = _Doubled(model[0])
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


@MODELS
def test_an_adapter_is_merged_before_the_chip_is_programmed(make: Any) -> None:
    options = {"init_lora_weights": False}
    digital = _logits(_adapted(make(), make, **options))
    model = copy.deepcopy(_adapted(_converted(make), make, **options))
    at.to_digital(copy.deepcopy(model)).merge_and_unload()  # no ranges that could be stale
    stale = pytest.warns(UserWarning, match=r"merge: .* of the weights of before.*calibrate\(mod")
    with stale if make is _gpt2 else contextlib.nullcontext():  # inputs give a Llama its ranges
        model.merge_adapter()
    with pytest.warns(UserWarning, match="already merged"):  # by peft, and nothing else
        merged = model.merge_and_unload()
    found = at.program(merged, seed=1).at("1 day")
    without = at.program(_converted(make), seed=1).at("1 day")
    assert not torch.equal(_logits(found), _logits(without))
    assert torch.allclose(_logits(at.to_digital(merged)), digital, atol=1e-5)


@MODELS
def test_the_digital_side_is_charged_for_the_adapters(make: Any) -> None:
    model = _converted(make)
    without = at.map_to_chip(model, {"input_ids": IDS})
    model = _adapted(model, make)
    mapping = at.map_to_chip(model, {"input_ids": IDS})
    assert mapping.tiles_used == without.tiles_used
    adapters = _adapters(model)
    weights = sum(p.numel() for p in adapters.values())
    matmuls = (_operations(m, "matmul") for m in (mapping, without))
    assert next(matmuls) - next(matmuls) == 2 * IDS.numel() * weights
    costs = at.cost(mapping), at.cost(without)
    assert costs[0].energy.digital > costs[1].energy.digital
    assert costs[0].macs == costs[1].macs
    assert set(adapters) == {f"{name}.weight" for name in at.summary(model).share.digital}


def _operations(mapping: Any, kind: str) -> int:
    return sum(op.operations for op in mapping.operations if op.kind == kind)


@MODELS
def test_convert_leaves_adapters_digital(make: Any) -> None:
    model = at.convert(_adapted(make(), make), CHIP)
    names = [name for name, _ in at.analog_layers(model)]
    assert len(names) == len(list(at.analog_layers(_converted(make))))
    assert not any("lora_" in name for name in names)
    assert sum(name.endswith("base_layer") for name in names) == len(TARGETS[make])
    with pytest.raises(ValueError, match="part of an adapter, which the digital side computes"):
        at.convert(_adapted(make(), make), CHIP, include="*lora_A*")


class _Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(x, x, x)[0])


def test_an_attention_with_an_adapter_of_its_own_is_mapped_as_digital() -> None:
    config = peft.LoraConfig(r=2, target_modules=["attention"])
    model = at.convert(peft.get_peft_model(_Attending(), config).eval(), CHIP)
    mapping = at.map_to_chip(model, torch.randn(5, 2, 8))
    assert [matrix.name for matrix in mapping.matrices] == ["base_model.model.last"]


def test_the_adapter_of_out_proj_runs_only_where_convert_comes_first() -> None:
    def adapted(model: nn.Module) -> nn.Module:
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["out_proj"])).eval()
        for p in _adapters(model).values():
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(1))
        return model

    torch.manual_seed(0)
    net, x = _Attending().eval(), torch.randn(5, 2, 8)
    exact, chip = net(x), at.chips.ideal()
    first = adapted(at.convert(copy.deepcopy(net), chip))
    assert not torch.allclose(first(x), exact, atol=0.1)
    assert {row.name.removeprefix("base_model.model.") for row in at.summary(first).layers} == {
        "attention.in_proj", "attention.out_proj.base_layer", "last",
    }  # fmt: skip
    second = at.convert(adapted(net), chip)
    assert torch.allclose(second(x), exact, atol=1e-6)  # torch reads the layer's weight alone
    assert [row.name for row in at.summary(second).layers] == ["base_model.model.last"]
    reasons = {name: why for name, why, _ in at.summary(second).skipped}
    why = "its out_proj is a Linear, whose forward MultiheadAttention does not call; call convert "
    assert reasons["base_model.model.attention"] == f"{why}before it gets adapters"
    assert why in reasons["base_model.model.attention.out_proj.base_layer"]


def test_the_trainer_trains_adapters_and_keeps_their_base(tmp_path: Path) -> None:
    model = _adapted(_converted(_llama), _llama)
    before = _others(model)
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, learning_rate=1e-2,
        report_to="none", use_cpu=True, save_steps=2, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    rows = [{"input_ids": row, "labels": row} for row in IDS]
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, callbacks=[KeepRanges()]
    )
    trainer.train()
    after = _others(model)
    assert all(torch.equal(t, after[name]) for name, t in before.items())
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", UserWarning
        )  # the file has adapters alone: no range is missing
        loaded = peft.PeftModel.from_pretrained(_converted(_llama), tmp_path / "checkpoint-2")
    loaded.eval()
    assert torch.equal(_logits(loaded), _logits(model.eval()))


def test_the_adapters_of_a_llama_of_8e9_parameters_are_half_a_percent() -> None:
    """Rank 16 in all projections: 0.52 %, the share that AHWA-LoRA names (arXiv 2411.17367).

    The sizes are those of Llama 3.1 8B, whose share is the same for any number of blocks but for
    the embeddings: two blocks are counted and multiplied.
    """
    shares = {}
    for blocks in (1, 2):
        config = transformers.LlamaConfig(
            vocab_size=128_256, hidden_size=4096, intermediate_size=14_336,
            num_hidden_layers=blocks, num_attention_heads=32, num_key_value_heads=8,
            tie_word_embeddings=False,
        )  # fmt: skip
        with torch.device("meta"):
            model = at.convert(transformers.LlamaForCausalLM(config), CHIP)
            options = peft.LoraConfig(r=16, target_modules=r".*layers.*_proj")
            adapted = peft.get_peft_model(model, options)
        ranges = at.summary(adapted).ranges
        learning, total = adapted.get_nb_trainable_parameters()
        shares[blocks] = learning, total - ranges
    learning, total = (
        one + 31 * (two - one) for one, two in zip(shares[1], shares[2], strict=True)
    )
    assert learning == 41_943_040
    assert total - learning == 8_030_261_248
    assert 100 * learning / (total - learning) == pytest.approx(0.52, abs=0.005)


def test_a_layer_of_a_programmed_chip_cannot_train_as_a_copy() -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), CHIP)
    config = peft.LoraConfig(r=2, target_modules=["0"], modules_to_save=["2"])
    physical = at.program(model, seed=1)
    with pytest.raises(RuntimeError, match="modules_to_save: layer '2' is of a programmed chip"):
        peft.get_peft_model(physical.at("1 day"), config)
    x = torch.randn(4, 8)
    assert torch.equal(physical.at("1 day")(x), at.program(model, seed=1).at("1 day")(x))
    trained = peft.get_peft_model(copy.deepcopy(model), config).eval()
    with pytest.warns(UserWarning, match="did not run: 'base_model.model.2.original_module'"):
        at.program(trained, seed=1).at("1 day")(x)  # both copies are layers
    merged = at.program(trained.merge_and_unload(), seed=1).at("1 day")(x)
    assert torch.equal(merged, physical.at("1 day")(x))


@pytest.mark.filterwarnings("error:this state_dict carries no DAC ranges")
def test_biases_that_adapters_learn_on_a_chip_load_into_the_model_it_came_from(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 5)), torch.randn(8, 16)
    model = at.calibrate(at.convert(net.eval(), CHIP), [x])
    config = peft.LoraConfig(r=2, target_modules=["0", "2"], bias="lora_only")
    learnt = peft.get_peft_model(at.program(model, seed=1).at("1 day"), config).eval()
    with torch.no_grad():
        learnt.base_model.model[2].bias.add_(1)
    learnt.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(model, tmp_path).eval()
    assert torch.equal(at.program(loaded, seed=1).at("1 day")(x), learnt(x))


@pytest.mark.parametrize("how", ["inside", "around", "saved"])
def test_layers_with_adapters_are_compared_with_those_of_a_teacher_without(how: str) -> None:
    """What the adapter adds belongs to the output of its layer, so that it learns from it."""
    x, digital = torch.randn(20, 16), _small()
    student: Any = at.calibrate(at.convert(_small(), CHIP), [x], effort="ranges")
    config = peft.LoraConfig(
        r=RANK, target_modules=["0"], modules_to_save=["2"] if how == "saved" else None
    )
    torch.manual_seed(2)
    if how == "inside":
        peft.inject_adapter_in_model(config, student)
    else:
        student = peft.get_peft_model(student, config)
    twin = at.hwa.Twin(student, digital)
    assert twin.names == ["0", "2"]
    with at.noise(1):
        twin.loss(x).layers.backward()
    learnt = [p.grad for n, p in student.named_parameters() if "lora_B" in n]
    assert len(learnt) == 1
    assert learnt[0] is not None
    assert learnt[0].any()
    names = at.hwa.Twin(student, copy.deepcopy(student)).names
    assert names == twin.names
