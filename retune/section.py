"""A group of settings: frozen, and strict about its keys and values."""

from pydantic import BaseModel, ConfigDict, field_validator

from retune.texts import check_text

# A component has some seventy inputs; a number beyond is no setting.
MOST_PARAMETERS, LARGEST_NUMBER = 200, 2**63


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    # Prefect keeps the error of a refused run, so it must not quote what was refused.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    @field_validator("*")
    @classmethod
    def _check_texts(cls, value: object) -> object:
        if isinstance(value, dict) and len(value) > MOST_PARAMETERS:
            raise ValueError(f"has {len(value)} keys; at most {MOST_PARAMETERS} are allowed")
        for key, entry in value.items() if isinstance(value, dict) else [("", value)]:
            check_text("a key ", key)
            subject = f"'{key}' " if key else ""
            if isinstance(entry, str):
                check_text(subject, entry)
            elif isinstance(entry, int | float) and not abs(entry) < LARGEST_NUMBER:
                raise ValueError(f"{subject}is no number that can be used")
        return value
