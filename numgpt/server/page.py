"""stub"""


def page_of(name: str) -> tuple[str, str]:
    return f"<!doctype html><title>{name}</title>", "default-src 'none'"
