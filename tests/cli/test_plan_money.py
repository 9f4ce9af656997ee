"""`chatwright plan` in money: how long a sum lasts on so many devices, and what the planned hours cost."""

from chatwright.cli.plan import _budget, _cost


def test_money_buys_time_on_all_devices_at_once():
    assert _budget(None, None, money=100, price=2.5, devices=16).seconds == 9000


def test_a_plan_costs_the_hours_of_all_its_devices(capsys):
    assert _cost({"predicted": {"seconds": 7200}}, 2.5, 16) == 80
    assert "about 80.00 for the pretraining, at 2.5 a device and hour" in capsys.readouterr().err
