"""The commands of scripts/torture.py by name."""

from scripts.fault_injection.bad_numbers import numbers
from scripts.fault_injection.damage import damage
from scripts.fault_injection.disk import disk
from scripts.fault_injection.long import long
from scripts.fault_injection.processes import processes
from scripts.fault_injection.random_kills import stop, storm

COMMANDS = {
    "storm": storm,
    "stop": stop,
    "damage": damage,
    "disk": disk,
    "numbers": numbers,
    "processes": processes,
    "long": long,
}
