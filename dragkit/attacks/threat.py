"""What an attacker is assumed to have. Every result carries its threat model; an attack that needs more is refused."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ThreatModel:
    """Capabilities of an honest-but-curious server.

    Attributes:
        weights: the client's weights, so gradients through f_c.
        public_data: photos like the user's (not the user's own), to train on.
        defence_known: the defence and its parameters (not its secret key or seed).
        queries: intermediate representations of the same photo the attacker sees.
    """

    weights: bool = True
    public_data: bool = False
    defence_known: bool = False
    queries: int = 1

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise ValueError(f"queries is {self.queries}; an attacker sees at least one representation")

    def missing(self, needed: ThreatModel) -> list[str]:
        """Names of the capabilities that `needed` has and this attacker lacks."""
        return [f.name for f in fields(self) if getattr(needed, f.name) > getattr(self, f.name)]

    def require(self, needed: ThreatModel, attack: str) -> None:
        """Raises PermissionError when `attack` needs more than this attacker has."""
        lacking = self.missing(needed)
        if lacking:
            raise PermissionError(
                f"{attack} needs {', '.join(lacking)}, which this threat model excludes ({self}); "
                "choose another attack or declare a stronger attacker"
            )

    def __str__(self) -> str:
        has = [
            name
            for name, on in (
                ("the client's weights", self.weights),
                ("public photos", self.public_data),
                ("the defence", self.defence_known),
            )
            if on
        ]
        seen = "one IR" if self.queries == 1 else f"{self.queries} IRs of the same photo"
        return f"honest-but-curious server; knows {', '.join(has) or 'nothing'}; sees {seen}; never the photo"


ATTACKER = ThreatModel(weights=True, public_data=True)
"""What the attackers of the book are declared to have unless a case says more."""
