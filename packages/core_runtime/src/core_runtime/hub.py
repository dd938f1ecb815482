"""Published weights from the Hugging Face hub: what can go wrong there, in one plain line."""

from collections.abc import Iterator
from contextlib import contextmanager

from core_runtime.errors import UserError


@contextmanager
def hub_errors(name: str, repository: str, instead: str) -> Iterator[None]:
    """Turns what a download raises into a `UserError`: no access, no network, or any other failure of the hub.

    Args:
        name: what the user asked for.
        repository: on the hub.
        instead: what to do where the hub cannot be reached.
    """
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{name}: {repository} is gated and this account has no access",
            "ask for it on the model's page, then 'hf auth login'",
        ) from None
    except LocalEntryNotFoundError:  # a subclass of EntryNotFoundError, so it must come first
        raise UserError(f"{name}: the hub cannot be reached", f"with a network elsewhere, {instead}") from None
    except EntryNotFoundError:
        raise UserError(f"{name}: {repository} does not hold the file", instead) from None
    except Exception as error:  # the hub's errors have no common class, and those of the network under it change
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{name}: {repository} could not be downloaded: {lines[0]}", instead) from None
