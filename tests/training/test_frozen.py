import torch
from torch import nn

from recsys.training.frozen import drop_frozen, restore_frozen


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text = nn.ModuleDict({"base": nn.Linear(2, 2).requires_grad_(False), "adapter": nn.Linear(2, 2)})
        self.head = nn.Linear(2, 2)
        self.fixed = nn.Linear(2, 2).requires_grad_(False)


def checkpoint(model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    return {"state_dict": {f"model.{name}": weight.clone() for name, weight in model.state_dict().items()}}


def test_only_untrained_text_weights_leave_a_checkpoint() -> None:
    model = Model()
    content = checkpoint(model)
    before = set(content["state_dict"])
    drop_frozen(model, content)
    assert before - set(content["state_dict"]) == {"model.text.base.weight", "model.text.base.bias"}


def test_they_come_back_from_the_model_that_is_loaded_into() -> None:
    model = Model()
    content = checkpoint(model)
    whole = dict(content["state_dict"])
    drop_frozen(model, content)
    restore_frozen(model, content)
    assert content["state_dict"].keys() == whole.keys()
    assert all(torch.equal(content["state_dict"][name], weight) for name, weight in whole.items())


def test_a_checkpoint_that_holds_them_is_believed() -> None:
    model = Model()
    content = checkpoint(Model())
    restore_frozen(model, content)
    assert not torch.equal(content["state_dict"]["model.text.base.weight"], model.text["base"].weight)
